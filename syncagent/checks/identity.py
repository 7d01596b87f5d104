"""The address records of this host, as remedies for a DNS zone."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING

from syncagent.checks.finding import Zone

if TYPE_CHECKING:
    from collections.abc import Iterable

    from syncagent.postfix.host import Host

_ADDRESS = "THE.ADDRESS.OF.THIS.HOST"
"""A placeholder in zone records, for a person to replace."""


def records_of(host: Host) -> list[Zone]:
    """Return the address records for this host's name, with a placeholder if no address is known."""
    addresses = sorted(host.addresses) or list(filter(None, [_outward()])) or [_ADDRESS]
    return address_records(host.name, addresses)


def address_records(name: str, addresses: Iterable[str]) -> list[Zone]:
    """Return A and AAAA records for a name and its addresses."""
    return [Zone(record=f"{name}. IN {'AAAA' if ':' in address else 'A'} {address}") for address in addresses]


def _outward() -> str:
    """Return the source IPv4 address of this host's outgoing connections; empty if it has none. Sends no packet."""
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            probe.connect(("192.0.2.1", 25))
            return str(probe.getsockname()[0])
    except OSError:
        return ""
