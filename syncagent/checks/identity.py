"""The names and addresses at which this host receives mail, according to main.cf."""

from __future__ import annotations

import ipaddress
import socket
from dataclasses import dataclass
from typing import TYPE_CHECKING

from syncagent.checks.finding import Zone

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from syncagent.checks.context import Context

_EVERYWHERE = {"all", "::", "0.0.0.0"}  # noqa: S104 - as inet_interfaces may have it; nothing is opened
_ADDRESS = "THE.ADDRESS.OF.THIS.HOST"
"""A placeholder in zone records, for a person to replace."""


@dataclass
class Identity:
    """The names and addresses of this host. ``name`` is myhostname.

    ``names`` also has the host names in inet_interfaces and proxy_interfaces, ``addresses`` the addresses listed there
    or resolved from these names. If ``everywhere``, each address of the host's interfaces counts as well.
    """

    context: Context
    name: str
    names: frozenset[str]
    addresses: frozenset[str]
    everywhere: bool

    @classmethod
    def of(cls, context: Context, addresses: Callable[[str], list[str]]) -> Identity:
        """Return the identity from inet_interfaces, proxy_interfaces and myhostname.

        ``addresses`` resolves a host name; its errors propagate.
        """
        name = context.live.values.get("myhostname", "").lower()
        listed = {
            entry.strip("[]").lower()
            for entry in context.live.listed("inet_interfaces") + context.live.listed("proxy_interfaces")
        }
        literal = {entry for entry in listed if _is_address(entry)}
        named = listed - literal - {"all", "loopback-only"}
        resolved = {str(ipaddress.ip_address(address)) for address in literal}
        resolved |= {str(ipaddress.ip_address(address)) for other in named for address in addresses(other)}
        return cls(context, name, frozenset({name, *named}), frozenset(resolved), bool(listed & _EVERYWHERE))

    def has(self, address: str) -> bool:
        """True if the address is this host's: listed, or, with ``everywhere``, bindable here."""
        if str(ipaddress.ip_address(address)) in self.addresses:
            return True
        return self.everywhere and _bindable(address)

    def records(self) -> list[Zone]:
        """Return the address records for this host's name, with a placeholder if no address is known."""
        addresses = sorted(self.addresses) or list(filter(None, [_outward()])) or [_ADDRESS]
        return address_records(self.name, addresses)


def address_records(name: str, addresses: Iterable[str]) -> list[Zone]:
    """Return A and AAAA records for a name and its addresses."""
    return [Zone(record=f"{name}. IN {'AAAA' if ':' in address else 'A'} {address}") for address in addresses]


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


def _bindable(address: str) -> bool:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.bind((address, 0))
    except OSError:
        return False
    return True


def _outward() -> str:
    """Return the source IPv4 address of this host's outgoing connections; empty if it has none. Sends no packet."""
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            probe.connect(("192.0.2.1", 25))
            return str(probe.getsockname()[0])
    except OSError:
        return ""
