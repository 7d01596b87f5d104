"""By which names and addresses this host is known to the world, by main.cf."""

from __future__ import annotations

import ipaddress
import socket
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from syncagent.checks.context import Context

_EVERYWHERE = {"all", "::", "0.0.0.0"}  # noqa: S104 - as inet_interfaces may have it; nothing is opened
_ADDRESS = "THE.ADDRESS.OF.THIS.HOST"
"""What only a person can fill in."""


@dataclass
class Here:
    """By which names and addresses this host is known; ``everywhere``: by whatever its interfaces have."""

    context: Context
    name: str
    names: frozenset[str]
    addresses: frozenset[str]
    everywhere: bool

    @classmethod
    def of(cls, context: Context, addresses: Callable[[str], list[str]]) -> Here:
        """Work it out from inet_interfaces, proxy_interfaces and myhostname; ``addresses`` asks for those of a name."""
        name = context.live.values.get("myhostname", "").lower()
        listed = {
            entry.strip("[]").lower()
            for entry in context.live.listed("inet_interfaces") + context.live.listed("proxy_interfaces")
        }
        literal = {entry for entry in listed if _is_address(entry)}
        named = listed - literal - {"all", "loopback-only"}
        found = {str(ipaddress.ip_address(one)) for one in literal}
        found |= {str(ipaddress.ip_address(one)) for other in named for one in addresses(other)}
        return cls(context, name, frozenset({name, *named}), frozenset(found), bool(listed & _EVERYWHERE))

    def has(self, address: str) -> bool:
        """Tell whether an address is one of this host's: what can be bound is."""
        if str(ipaddress.ip_address(address)) in self.addresses:
            return True
        return self.everywhere and _bindable(address)

    def records(self) -> list[str]:
        """Give the address records to add for this host's name."""
        known = sorted(self.addresses) or list(filter(None, [_outward()])) or [_ADDRESS]
        return [f"{self.name}. IN {'AAAA' if ':' in one else 'A'} {one}" for one in known]


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
    """Give the address that this host would send from; nothing is sent."""
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            probe.connect(("192.0.2.1", 25))
            return str(probe.getsockname()[0])
    except OSError:
        return ""
