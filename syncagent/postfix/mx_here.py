"""The mail domains whose mail DNS leads to this host, among those that this host does not relay."""

from __future__ import annotations

import ipaddress
import time
from typing import TYPE_CHECKING

from msgspec import Struct

from syncagent.postfix.dns_client import NoAnswerError
from syncagent.postfix.host import Host
from syncagent.postfix.match_list import matches
from syncagent.postfix.table import is_same_table

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from syncagent.postfix.dns_client import Names
    from syncagent.postfix.live import LivePostfix
    from syncagent.values.types import MapName

_OF_THIS_HOST = ("mydestination", "virtual_alias_domains", "virtual_mailbox_domains")
"""Lists of domains whose mail Postfix delivers itself, or rewrites: the map of recipients is not asked for them."""
_SECONDS = 60.0
"""Maximum number of seconds for all domains."""


class MxHere(Struct, frozen=True):
    """The answers of DNS: ``leading`` maps each domain with an MX that is this host to the name of that MX.

    ``unknown`` maps the domains about which DNS gave no answer, or that were not asked for lack of time, to the reason.
    """

    leading: dict[str, str] = {}
    unknown: dict[str, str] = {}


def ask(domains: Sequence[str], live: LivePostfix, table: MapName, names: Names) -> MxHere:
    """Ask DNS for the MX records of domains, in order, as long as there is time.

    Domains that Postfix serves without ``table``, the map of recipients, are not asked for: it delivers their mail
    itself, or relays it by another table of recipients or without any. Nothing is asked for a host that listens on
    loopback addresses only: no mail comes to it. Raises SilentError if the DNS server does not answer, NoAnswerError if
    this host's own name is not resolved, and CommandError if a lookup in a table fails.
    """
    served = _served(domains, live, table)
    asked = [] if _is_deaf(live) else [domain for domain in domains if domain not in served]
    if not asked:
        return MxHere()
    host, end = Host.of(live, names.addresses), time.monotonic() + _SECONDS
    leading, unknown = {}, {}
    for domain in asked:
        if time.monotonic() > end:
            unknown[domain] = "there was no time to ask"
            continue
        try:
            leading[domain] = host.mx_of(domain, names)
        except NoAnswerError as failure:
            unknown[domain] = str(failure)
    return MxHere({domain: name for domain, name in leading.items() if name}, unknown)


def _is_deaf(live: LivePostfix) -> bool:
    """True if smtpd listens on loopback addresses only, and no proxy passes mail on to it."""
    interfaces = [entry.strip("[]") for entry in live.listed("inet_interfaces")]
    return not live.listed("proxy_interfaces") and all(map(_is_loopback, interfaces))


def _is_loopback(interface: str) -> bool:
    try:
        return ipaddress.ip_address(interface).is_loopback
    except ValueError:
        return interface in {"loopback-only", "localhost"}


def _served(domains: Iterable[str], live: LivePostfix, table: MapName) -> set[str]:
    """Return the domains that Postfix serves without the map of recipients. Raises CommandError."""
    served = {domain for name in _OF_THIS_HOST for domain in matches(live, name, domains)}
    by_map_alone = [is_same_table(entry, table) for entry in live.listed("relay_recipient_maps")] == [True]
    return served | (set() if by_map_alone else set(matches(live, "relay_domains", domains)))
