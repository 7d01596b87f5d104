"""Selection of the wanted addresses: those in relay domains and their subdomains, without excluded ones."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from syncagent.addresses import folded_domains, unfolded, within

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from syncagent.config.tables import Postfix

_MANY_DOMAINS = 100_000
_OTHERS = "(others)"
_MAX_NAMED = 1000


class Scope:
    """Filter for the wanted addresses of a run, with counts of the selected and of the out-of-scope addresses."""

    def __init__(self, postfix: Postfix, relay_domains: Iterable[str]) -> None:
        """``relay_domains`` are the domains of the run; they may include domains that are not configured."""
        self._relay_domains = frozenset(map(str, relay_domains))
        self._folded = folded_domains(self._relay_domains)
        self._excluded = frozenset(unfolded(address, self._folded).encode() for address in postfix.exclude)
        self._catch_all = frozenset(b"@" + domain.encode() for domain in postfix.catch_all)
        self._groups: dict[bytes, str | None] = {}
        self.wanted: Counter[str] = Counter()
        self.out_of_scope: Counter[str] = Counter()
        self.held_catch_alls: list[str] = []
        self._excluded_count = self._catch_all_count = 0
        self.canaries: set[str] = set()

    def relay_domain(self, domain: bytes) -> str | None:
        """Return the relay domain that is ``domain`` or a parent of it, None if there is none."""
        if domain not in self._groups:
            if len(self._groups) > _MANY_DOMAINS:
                self._groups.clear()
            self._groups[domain] = within(domain.decode(), self._relay_domains)
        return self._groups[domain]

    def group(self, address: bytes) -> tuple[str, bool]:
        """Return (relay domain that covers the address, True), or (domain of the address, False) if there is none."""
        domain = address[address.rindex(b"@") + 1 :]
        covering = self.relay_domain(domain)
        return (covering, True) if covering else (domain.decode(), False)

    @property
    def folds(self) -> bool:
        """True if Postfix folds a relay domain to another domain, so that ``unfolded`` may change addresses."""
        return bool(self._folded)

    def unfolded(self, address: bytes) -> bytes:
        """Return an address in the spelling of its relay domain, if its domain is what Postfix folds that to."""
        return unfolded(address.decode(), self._folded).encode()

    def select(self, batches: Iterable[list[bytes]], canaries: Iterable[str]) -> Iterator[bytes]:
        """Yield the wanted addresses as chunks of lines, and count them by relay domain.

        Counts addresses out of scope by domain. Stores the catch-alls that are not permitted and the canaries that
        occur. Drops addresses and domains in postfix.exclude.
        """
        looked_for = frozenset(canary.encode() for canary in canaries)
        for batch in batches:
            lines, domains = b"\n".join(batch), _domains(batch)
            if self._excluded or lines.startswith(b"@") or b"\n@" in lines or not all(map(self.relay_domain, domains)):
                wanted = [address for address in batch if self._wants(address)]
                lines, domains = b"\n".join(wanted), _domains(wanted)
            if domains:
                self.canaries.update(canary.decode() for canary in looked_for.intersection(batch))
                for domain, count in domains.items():
                    self.wanted[self.relay_domain(domain) or ""] += count
                yield lines + b"\n"

    def _wants(self, address: bytes) -> bool:
        domain = address.rpartition(b"@")[2]
        if self.relay_domain(domain) is None:
            self._leave_out(domain.decode())
            return False
        if self.is_excluded(address):
            self._excluded_count += 1
            return False
        if address.startswith(b"@") and address not in self._catch_all:
            self._catch_all_count += 1
            if len(self.held_catch_alls) < _MAX_NAMED:
                self.held_catch_alls.append(address.decode())
            return False
        return True

    @property
    def taken(self) -> dict[str, int]:
        """The number of the selected addresses, and of those left out by the reason."""
        return {
            "wanted": sum(self.wanted.values()),
            "out of scope": sum(self.out_of_scope.values()),
            "excluded": self._excluded_count,
            "held catch-alls": self._catch_all_count,
        }

    def is_excluded(self, address: bytes) -> bool:
        """True if postfix.exclude has the address, or its domain."""
        return address in self._excluded or b"@" + address.rpartition(b"@")[2] in self._excluded

    def _leave_out(self, domain: str) -> None:
        known = domain in self.out_of_scope or len(self.out_of_scope) < _MAX_NAMED
        self.out_of_scope[domain if known else _OTHERS] += 1


def _domains(addresses: list[bytes]) -> Counter[bytes]:
    return Counter([address.rpartition(b"@")[2] for address in addresses])
