"""Whom mynetworks trusts beyond what can be a host's own: networks inline and in files, tables of any type."""

from __future__ import annotations

import ipaddress
from typing import TYPE_CHECKING

from syncagent.errors import SyncagentError
from syncagent.files import atomic as files
from syncagent.postfix.main_cf import entries

if TYPE_CHECKING:
    from syncagent.checks.context import Host

    Network = ipaddress.IPv4Network | ipaddress.IPv6Network

_PRIVATE_4 = tuple(map(ipaddress.IPv4Network, ("10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8")))
_PRIVATE_6 = tuple(map(ipaddress.IPv6Network, ("fc00::/7", "fe80::/10")))
"""Networks that are wide, and that a host may have as its own all the same (RFC 1918, 6598, 4193)."""
_WIDE = {4: 12, 6: 19}
"""Of a prefix that is shorter, a network is hardly anybody's own: few providers have been given that much."""
_WORLD = 8
"""And of one shorter than that, it is nobody's."""
_STRANGERS = (("192.0.2.1", "203.0.113.1"), ("2001:db8::1", "3fff::1"))
"""Addresses for documentation (RFC 5737, 3849, 9637): a table that has both of a pair has everybody."""
_EVERYBODY = "everybody"
_LOOPBACK = "127.0.0.0/8 [::ffff:127.0.0.0]/104 [::1]/128"


def wide(host: Host, entry: str) -> dict[str, bool]:
    """Give what an entry of mynetworks trusts that is hardly a host's own, and whether it is the world.

    Raises UnaskedError, OSError or UnicodeError where it cannot be looked at.
    """
    found = {}
    for pattern in _patterns(entry):
        network = _network(pattern)
        if network and network.prefixlen < _WIDE[network.version] and not _is_private(network):
            found[pattern] = network.prefixlen < _WORLD
        elif not network and ":" in pattern and not pattern.startswith("!"):
            there = host.look_up(pattern, [address for pair in _STRANGERS for address in pair])
            if any(there.keys() >= set(pair) for pair in _STRANGERS):
                found[_EVERYBODY] = True
    return found


def trusts_the_world(host: Host) -> str:
    """Give the entry of mynetworks that trusts everybody, as far as that can be told; empty if none does."""
    return next((entry for entry in host.listed("mynetworks") if any(_known(host, entry).values())), "")


def mend(host: Host, entry: str) -> str:
    """Give the command that takes what is hardly a host's own out of mynetworks, or say what to take out of a file."""
    known = _known(host, entry)
    if entry not in known:
        return f"# take {', '.join(known)} out of {entry}"
    there = host.listed("mynetworks")
    gone = {one for one in there if one in _known(host, one)}
    return host.without("mynetworks", gone) if set(there) > gone else host.postconf("mynetworks", _LOOPBACK)


def _known(host: Host, entry: str) -> dict[str, bool]:
    try:
        return wide(host, entry)
    except (SyncagentError, OSError, UnicodeError):
        return {}


def _patterns(entry: str) -> list[str]:
    """Give an entry, or what the file has that it names."""
    if not entry.startswith("/"):
        return [entry]
    lines = files.read_foreign_text(entry, files.MOST_OF_A_LIST).splitlines()
    return [pattern for line in lines if not line.startswith("#") for pattern in entries(line)]


def _network(pattern: str) -> Network | None:
    try:
        return ipaddress.ip_network(pattern.replace("[", "").replace("]", ""), strict=False)
    except ValueError:
        return None


def _is_private(network: Network) -> bool:
    if isinstance(network, ipaddress.IPv4Network):
        return any(map(network.subnet_of, _PRIVATE_4))
    return any(map(network.subnet_of, _PRIVATE_6))
