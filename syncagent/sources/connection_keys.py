"""Configuration keys that the source kinds with a network connection share, and the checks of these keys."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import urlsplit

from msgspec import Struct

from syncagent.addresses import too_long
from syncagent.values.types import Duration, SecretFile

if TYPE_CHECKING:
    from collections.abc import Iterator


class ConnectionKeys(Struct, frozen=True, kw_only=True):
    """Base of a kind's Config: password, certificates, TLS and timeouts. The kind sets the default timeouts."""

    password_file: SecretFile | None = None
    """The file with the password."""
    ca_file: Path | None = None
    """The CA certificate that the server's certificate is verified against, as PEM; the system's own unless set."""
    client_cert_file: SecretFile | None = None
    """The client certificate, as PEM."""
    client_key_file: SecretFile | None = None
    """The private key of the client certificate, as PEM; in the same file unless set."""
    insecure: bool = False
    """Whether a URL without TLS is allowed."""
    connect_timeout: Duration
    """The timeout for the connection and its TLS handshake; each kind has its default."""
    read_timeout: Duration
    """The timeout for each read from the server; each kind has its default."""


class UrlRules(NamedTuple):
    """The URLs that a kind accepts: their schemes, and whether they may have a path.

    ``example``, a URL, and ``credentials``, the keys for user name and password, are used in messages.
    """

    schemes: frozenset[str]
    example: str
    credentials: str
    has_path: bool


def key_problems(config: ConnectionKeys, account: str) -> Iterator[tuple[str, str]]:
    """Yield (key, text) for each missing key and each timeout of zero or less.

    ``account`` is the key with the account that ``password_file`` belongs to.
    """
    if getattr(config, account) and config.password_file is None:
        yield "password_file", f"required key is missing: the file with the password of {account}"
    if config.password_file is not None and not getattr(config, account):
        yield account, "required key is missing: the account whose password is in password_file"
    if config.client_key_file is not None and config.client_cert_file is None:
        yield "client_cert_file", "required key is missing: the certificate of client_key_file"
    for key in ("connect_timeout", "read_timeout"):
        if getattr(config, key) <= 0:
            yield key, 'expected a time greater than zero, such as "10s"'


def url_problem(url: str, rules: UrlRules) -> str:
    """Return the fault of a URL as a message, empty if the URL is valid. The message never contains a password."""
    if reason := too_long(url):  # urlsplit normalizes the host name, which takes time
        return reason
    if _has_userinfo(url, rules):
        return f"a URL must not contain a user name or password: see {rules.credentials}"
    shown = "" if "@" in url else f', not "{url}"'  # the text before an @ may contain a mistyped password
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        return f"invalid host or port: expected {rules.example}{shown}"
    if parts.scheme not in rules.schemes or not parts.hostname:
        return f"expected {rules.example}{shown}"
    return f"invalid port 0: expected {rules.example}{shown}" if port == 0 else ""


def _has_userinfo(url: str, rules: UrlRules) -> bool:
    if not rules.has_path:
        return "@" in url
    return "@" in urlsplit(url.partition("?")[0].replace("[", "").replace("]", "")).netloc
