"""Find networks in mynetworks that are too wide to be a host's own: inline, in files, and in tables."""

from __future__ import annotations

import contextlib
import ipaddress
from typing import TYPE_CHECKING

from syncagent.errors import SyncagentError
from syncagent.postfix.main_cf import read_list

if TYPE_CHECKING:
    from syncagent.postfix.live import LivePostfix

    Network = ipaddress.IPv4Network | ipaddress.IPv6Network

LOOPBACK = "127.0.0.0/8 [::ffff:127.0.0.0]/104 [::1]/128"
_PRIVATE_4 = tuple(map(ipaddress.IPv4Network, ("10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8")))
_PRIVATE_6 = tuple(map(ipaddress.IPv6Network, ("fc00::/7", "fe80::/10")))
"""Private, shared, loopback and link-local networks, never reported as too wide (RFC 1918, 6598, 1122, 4193, 4291)."""
_WIDE = {4: 12, 6: 19}
"""Shortest prefix length, by IP version, of a plausible network of a host; few providers hold a larger block."""
_WORLD = 8
"""A network with a prefix shorter than this counts as the whole Internet."""
_STRANGERS = (("192.0.2.1", "203.0.113.1"), ("2001:db8::1", "3fff::1"))
"""Pairs of documentation addresses (RFC 5737, 3849, 9637). A table with both of a pair counts as matching all."""
_EVERYBODY = "everybody"


def wide(live: LivePostfix, entry: str) -> dict[str, bool]:
    """Return the too wide patterns of an entry of mynetworks; the value is True for the whole Internet.

    A table that matches every address is the pattern ``everybody``. Raises CommandError if a lookup fails, and
    OSError or UnicodeError if the entry is a file that cannot be read.
    """
    patterns = {}
    for pattern in read_list(entry) if entry.startswith("/") else [entry]:
        network = _network(pattern)
        if network and network.prefixlen < _WIDE[network.version] and not _is_private(network):
            patterns[pattern] = network.prefixlen < _WORLD
        elif not network and ":" in pattern and not pattern.startswith("!"):
            hits = live.look_up(pattern, [address for pair in _STRANGERS for address in pair])
            if any(hits.keys() >= set(pair) for pair in _STRANGERS):
                patterns[_EVERYBODY] = True
    return patterns


def wide_if_readable(live: LivePostfix, entry: str) -> dict[str, bool]:
    """Return the result of ``wide``, or an empty dictionary if the entry cannot be read."""
    try:
        return wide(live, entry)
    except (SyncagentError, OSError, UnicodeError):
        return {}


def entry_for_everybody(live: LivePostfix) -> str:
    """Return the first entry of mynetworks that trusts the whole Internet; empty if there is none.

    Entries that cannot be read are skipped.
    """
    return next((entry for entry in live.listed("mynetworks") if any(wide_if_readable(live, entry).values())), "")


def has(live: LivePostfix, address: str) -> bool:
    """True if a network listed inline in mynetworks contains the address. Files, tables and exceptions are ignored."""
    for entry in live.listed("mynetworks"):
        with contextlib.suppress(ValueError):
            if ipaddress.ip_address(address) in ipaddress.ip_network(_without_brackets(entry), strict=False):
                return True
    return False


def _network(pattern: str) -> Network | None:
    try:
        return ipaddress.ip_network(_without_brackets(pattern), strict=False)
    except ValueError:
        return None


def _without_brackets(pattern: str) -> str:
    return pattern.replace("[", "").replace("]", "")


def _is_private(network: Network) -> bool:
    if isinstance(network, ipaddress.IPv4Network):
        return any(map(network.subnet_of, _PRIVATE_4))
    return any(map(network.subnet_of, _PRIVATE_6))
