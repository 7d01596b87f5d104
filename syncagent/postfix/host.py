"""The names and addresses at which this host receives mail, according to main.cf."""

from __future__ import annotations

import ipaddress
import socket
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

from syncagent.postfix.dns_client import NoAnswerError

if TYPE_CHECKING:
    from collections.abc import Callable

    from syncagent.postfix.dns_client import Names
    from syncagent.postfix.live import LivePostfix

_EVERYWHERE = {"all", "::", "0.0.0.0"}  # noqa: S104 - as inet_interfaces may have it; nothing is opened


@dataclass
class Host:
    """The names and addresses of this host. ``name`` is myhostname.

    ``names`` also has the host names in inet_interfaces and proxy_interfaces, ``addresses`` the addresses listed there
    or resolved from these names. If ``everywhere``, each address of the host's interfaces counts as well.
    """

    name: str
    names: frozenset[str]
    addresses: frozenset[str]
    everywhere: bool

    @classmethod
    def of(cls, live: LivePostfix, addresses: Callable[[str], list[str]]) -> Self:
        """Return the host from inet_interfaces, proxy_interfaces and myhostname.

        ``addresses`` resolves a host name; its errors propagate.
        """
        name = live.values.get("myhostname", "").lower()
        listed = {
            entry.strip("[]").lower() for entry in live.listed("inet_interfaces") + live.listed("proxy_interfaces")
        }
        literal = {entry for entry in listed if _is_address(entry)}
        named = listed - literal - {"all", "loopback-only"}
        resolved = {str(ipaddress.ip_address(address)) for address in literal}
        resolved |= {str(ipaddress.ip_address(address)) for other in named for address in addresses(other)}
        return cls(name, frozenset({name, *named}), frozenset(resolved), bool(listed & _EVERYWHERE))

    def has(self, address: str) -> bool:
        """True if the address is this host's: listed, or, with ``everywhere``, bindable here."""
        if str(ipaddress.ip_address(address)) in self.addresses:
            return True
        return self.everywhere and _bindable(address)

    def mx_of(self, domain: str, names: Names) -> str:
        """Return the name of an MX of a domain that is this host, "" if there is none. A loopback address is no host's.

        Raises NoAnswerError if a query fails and no other MX is this host, and SilentError if the DNS server does not
        answer.
        """
        failure = None
        for text in names.ask(domain, "MX"):
            name = text.partition(" ")[2].rstrip(".").lower()
            try:
                if name and (name in self.names or any(map(self._is_reached_at, names.addresses(name)))):
                    return name
            except NoAnswerError as error:
                failure = error
        if failure:
            raise failure
        return ""

    def _is_reached_at(self, address: str) -> bool:
        return not ipaddress.ip_address(address).is_loopback and self.has(address)


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
