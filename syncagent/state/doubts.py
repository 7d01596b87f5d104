"""The reasons of the doubt table, looked up by its keys: those on record, and the mark of the switch."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from syncagent import addresses as normalise
from syncagent.postfix.doubt_table import PROBE
from syncagent.state import doubt_status, messages

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping

    from syncagent.config.tables import Config
    from syncagent.model import Doubt
    from syncagent.state.database import Ledger


@dataclass(frozen=True)
class Doubts:
    """Why domains and addresses are in doubt.

    ``reasons`` are those of domains, those of the switch and of persons included that no run has recorded yet.
    ``removed`` maps removed addresses to the begin and the end of their doubt.
    """

    reasons: tuple[Doubt, ...] = ()
    removed: Mapping[str, tuple[float, float]] | None = None

    @classmethod
    def read(cls, config: Config, ledger: Ledger) -> Doubts:
        """Return the reasons that stand; none if postfix.doubt_map is not set. Raises LedgerError."""
        known = doubt_status.recorded(config.postfix, ledger, time.time())
        if known is None:
            return cls()
        return cls(known.doubts, {address: (since, until) for address, _, since, until in known.addresses})

    def of_domain(self, domain: str) -> list[Doubt]:
        """Return the reasons for which a relay domain is in doubt."""
        return [doubt for doubt in self.reasons if doubt.domain == domain]

    def why(self, key: str) -> str:
        """Return why the doubt table has a key: a domain with or without a leading dot, or an address."""
        if key.startswith(PROBE):
            return "the address by which syncagent check asks"
        local, at, name = key.rpartition("@")
        if at:
            return next(self._of_address(f"{local}@{normalise.domain_or_same(name)}"), f"the doubt table has {key}")
        reasons = self.of_domain(normalise.domain_or_same(name.removeprefix(".")))
        return "; ".join(map(messages.doubt_since, reasons)) or f"the doubt table has {key}"

    def sentences(self, address: str, scope: Collection[str]) -> Iterator[str]:
        """Yield why unknown recipients of an address's relay domain, or the address itself, are in doubt."""
        domain = normalise.within(address.rpartition("@")[2], frozenset(scope))
        for doubt in self.of_domain(domain) if domain else ():
            yield f"{domain} is in doubt: {messages.doubt_since(doubt)}"
        yield from (f"{address} is in doubt: {reason}" for reason in self._of_address(address))

    def _of_address(self, address: str) -> Iterator[str]:
        if self.removed and address in self.removed:
            since, until = self.removed[address]
            yield f"it was removed at {messages.moment(since)} (until {messages.moment(until)})"
