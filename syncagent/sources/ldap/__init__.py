"""Addresses from a directory: OpenLDAP, Active Directory, FreeIPA, Zimbra, or any LDAP server.

``presets`` says what to ask each product for, ``session`` talks to one server, ``pull`` asks for everything,
``syncrepl`` for what changed (RFC 4533), ``addresses`` reads entries, ``source`` is the order of it all.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Literal
from urllib.parse import urlsplit

from syncagent.sources.connection_keys import ConnectionKeys, UrlRules, key_problems, url_problem
from syncagent.values.types import Duration, SecretFile, Urls

if TYPE_CHECKING:
    from collections.abc import Iterator

    from syncagent.sources import Source

_URL = UrlRules(
    frozenset({"ldap", "ldaps"}), "ldaps://HOST or ldap://HOST", "bind_dn and password_file", has_path=False
)
_MAX_PAGE = 100_000


class Config(ConnectionKeys, frozen=True, kw_only=True):
    """Keys of ``type = "ldap"``."""

    url: Urls
    """One server or several, tried in this order: ldaps://HOST or ldap://HOST, the latter with StartTLS."""
    base: str
    """Where to search: the DN under which the entries are."""
    preset: Literal["active-directory", "openldap", "freeipa", "zimbra"] | None = None
    """What product it is: says what to ask for."""
    scope: Literal["sub", "one", "base"] = "sub"
    """How deep to search: everything below, one level, or the base alone."""
    filter: str = ""
    """Which entries; the preset's, or those that have one of the attributes, unless set."""
    attributes: tuple[str, ...] = ()
    """Which attributes have addresses; the preset's, or mail, unless set."""
    domain_attribute: str = ""
    """Which attribute has the domains that the directory's mail system serves, for postfix.domains_map."""
    domain_filter: str = ""
    """Which entries have it; those that have it at all unless set."""
    domain_base: str = ""
    """Below what they are; base unless set."""
    exclude_disabled: bool = False
    """active-directory: leave out disabled accounts. Shared and room mailboxes usually sit on such accounts."""
    bind_dn: str = ""
    """Whom to bind as, with password_file. Without it the bind is anonymous, or EXTERNAL by a client certificate."""
    password_file: SecretFile | None = None
    """The file with the password of bind_dn."""
    client_cert_file: SecretFile | None = None
    """A client certificate, as PEM. Without bind_dn the bind is SASL EXTERNAL: the certificate says who we are."""
    insecure: bool = False
    """Whether an ldap:// URL may go without TLS: addresses and password are then sent in the clear."""
    mode: Literal["auto", "sync", "poll"] = "auto"
    """How to follow changes: content sync (RFC 4533), everything each time, or sync where the server offers it."""
    full_interval: Duration = Duration(86400)
    """sync mode: how often everything is asked for all the same, and compared."""
    page_size: int = 1000
    """Entries a page; Active Directory allows 1000."""
    ignore_references: bool = False
    """Whether to pass over references to other servers; otherwise they fail the source, since entries are missing."""
    connect_timeout: Duration = Duration(5)
    """The timeout for the connection and its TLS handshake."""
    read_timeout: Duration = Duration(30)
    """The timeout for each read from the server."""


def build(config: Config) -> Source:
    """Make the source; nothing is asked yet."""
    from syncagent.sources.ldap.source import LdapSource

    return LdapSource(config)


def problems(config: Config) -> Iterator[tuple[str, str]]:
    """Give what no single key can show; see ``syncagent.sources``."""
    for url in config.url:
        yield from (("url", text) for text in _url_problems(url))
    yield from _identity_problems(config)
    if not config.domain_attribute and (config.domain_filter or config.domain_base):
        yield "domain_attribute", "is missing: which attribute has the domains?"
    for name in (*config.attributes, *filter(None, [config.domain_attribute])):
        if not re.fullmatch(r"[A-Za-z][A-Za-z0-9-]*|[0-9]+(?:\.[0-9]+)+", name):
            yield "attributes", f"{name!r} is not the name of an attribute, such as mail"
    for key in ("filter", "domain_filter"):
        yield from ((key, text) for text in _filter_problems(getattr(config, key)))
    if config.exclude_disabled and config.preset != "active-directory":
        yield "exclude_disabled", 'needs preset = "active-directory"; elsewhere, say it in the filter'
    if not 1 <= config.page_size <= _MAX_PAGE:
        yield "page_size", f"expected 1 to {_MAX_PAGE}, not {config.page_size}"


def _url_problems(url: str) -> Iterator[str]:
    if text := url_problem(url, _URL):
        yield text
        return
    parts = urlsplit(url)
    if parts.path.strip("/") or parts.query or parts.fragment:
        yield f"{url!r} has more than a host and a port: see base, scope, filter and attributes"


def _identity_problems(config: Config) -> Iterator[tuple[str, str]]:
    yield from key_problems(config, "bind_dn")
    if config.client_cert_file is not None and config.insecure:
        yield "client_cert_file", "goes with TLS alone: take insecure away"


def _filter_problems(text: str) -> Iterator[str]:
    if text and not _is_filter(text):
        yield f'{text!r} is not a filter in parentheses, such as "(mail=*)"'
    if re.search(r"\\(?![0-9A-Fa-f]{2})", text):
        yield f"{text!r} has a \\ that is not followed by two hexadecimal digits (RFC 4515)"


def _is_filter(text: str) -> bool:
    """Tell whether parentheses come in pairs, with one pair around it all; RFC 4515 escapes those in values."""
    depth = 0
    for at, char in enumerate(text):
        depth += (char == "(") - (char == ")")
        if depth < 0 or (depth == 0 and at < len(text) - 1):
            return False
    return depth == 0 and text.startswith("(")
