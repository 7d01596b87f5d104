"""The source kind "ldap": addresses from OpenLDAP, Active Directory, FreeIPA, Zimbra, or any LDAP server.

Start with ``fetch``, which has the steps of one answer; ``source`` selects the server. ``connection`` is one bound
connection. ``full_search`` reads all entries, ``content_sync`` the changes (RFC 4533), ``entries`` the addresses of an
entry. ``contradictions`` has what is not believed, ``point_query`` the questions for single addresses. ``presets`` has
a row per product.
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
    """The servers, tried in this order: ldaps://HOST, or ldap://HOST with StartTLS."""
    base: str
    """The DN to search below, such as "dc=example,dc=com"."""
    preset: Literal["active-directory", "openldap", "freeipa", "zimbra"] | None = None
    """The product, which sets filter and attributes."""
    scope: Literal["sub", "one", "base"] = "sub"
    """How deep to search: the whole subtree, one level, or the base alone."""
    filter: str = ""
    """The entries to read; the preset's filter, or all that have one of the attributes, unless set."""
    attributes: tuple[str, ...] = ()
    """The attributes that have addresses; the preset's, or mail, unless set."""
    domain_attribute: str = ""
    """The attribute that has the mail domains of the directory, for postfix.domains_map."""
    domain_filter: str = ""
    """The entries with domain_attribute to read; all that have it unless set."""
    domain_base: str = ""
    """The DN to search for domain_attribute below; base unless set."""
    exclude_disabled: bool = False
    """active-directory: exclude disabled accounts. Shared and room mailboxes usually have disabled accounts."""
    bind_dn: str = ""
    """The DN to bind as, with password_file. Unless set: anonymous, or SASL EXTERNAL if client_cert_file is set."""
    password_file: SecretFile | None = None
    """The file with the password of bind_dn."""
    client_cert_file: SecretFile | None = None
    """The client certificate, as PEM. Without bind_dn it authenticates the bind (SASL EXTERNAL)."""
    insecure: bool = False
    """Whether ldap:// is used without TLS: addresses and password are then sent in the clear."""
    mode: Literal["auto", "sync", "poll"] = "auto"
    """sync reads only changes (RFC 4533), poll reads all entries each time; auto is sync if the server offers it."""
    full_interval: Duration = Duration(86400)
    """sync mode: how often all entries are read and compared nevertheless."""
    page_size: int = 1000
    """Entries per page; Active Directory allows at most 1000."""
    ignore_references: bool = False
    """Whether to ignore references to other servers; otherwise they fail the source, since entries are missing."""
    connect_timeout: Duration = Duration(5)
    """The timeout for the connection and its TLS handshake."""
    read_timeout: Duration = Duration(30)
    """The timeout for each read from the server."""


def build(config: Config) -> Source:
    """Return the source. Does not access the network."""
    from syncagent.sources.ldap.source import LdapSource

    return LdapSource(config)


def problems(config: Config) -> Iterator[tuple[str, str]]:
    """Yield (key, text) for each fault that the type of a key cannot express."""
    for url in config.url:
        yield from (("url", text) for text in _url_problems(url))
    yield from _identity_problems(config)
    if not config.domain_attribute and (config.domain_filter or config.domain_base):
        yield "domain_attribute", "required key is missing: the attribute that has the domains"
    names = [("attributes", name) for name in config.attributes]
    names += [("domain_attribute", config.domain_attribute)] if config.domain_attribute else []
    for key, name in names:
        if not re.fullmatch(r"[A-Za-z][A-Za-z0-9-]*|[0-9]+(?:\.[0-9]+)+", name):
            yield key, f'expected the name of an attribute such as "mail", got {name!r}'
    for key in ("filter", "domain_filter"):
        yield from ((key, text) for text in _filter_problems(getattr(config, key)))
    if config.exclude_disabled and config.preset != "active-directory":
        yield "exclude_disabled", 'requires preset = "active-directory"; for other products exclude them by filter'
    if not 1 <= config.page_size <= _MAX_PAGE:
        yield "page_size", f"expected 1 to {_MAX_PAGE}, got {config.page_size}"


def _url_problems(url: str) -> Iterator[str]:
    if text := url_problem(url, _URL):
        yield text
        return
    parts = urlsplit(url)
    if parts.path.strip("/") or parts.query or parts.fragment:
        yield f"expected only a host and a port, got {url!r}: see base, scope, filter and attributes"


def _identity_problems(config: Config) -> Iterator[tuple[str, str]]:
    yield from key_problems(config, "bind_dn")
    if config.client_cert_file is not None and config.insecure:
        yield "client_cert_file", "requires TLS: remove insecure"


def _filter_problems(text: str) -> Iterator[str]:
    if text and not _is_filter(text):
        yield f'expected a filter in parentheses such as "(mail=*)", got {text!r}'
    if re.search(r"\\(?![0-9A-Fa-f]{2})", text):
        yield f"expected two hexadecimal digits after each backslash (RFC 4515), got {text!r}"


def _is_filter(text: str) -> bool:
    """True if the parentheses are balanced and one pair encloses the text.

    Parentheses in values are escaped (RFC 4515), so each one here is syntax.
    """
    depth = 0
    for at, char in enumerate(text):
        depth += (char == "(") - (char == ")")
        if depth < 0 or (depth == 0 and at < len(text) - 1):
            return False
    return depth == 0 and text.startswith("(")
