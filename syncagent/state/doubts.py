"""The reasons of the doubt table, looked up by its keys: those on record, and the mark of the switch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from syncagent import addresses as normalise
from syncagent.model import Doubt
from syncagent.postfix.doubt_table import PROBE, Files
from syncagent.state import messages

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping

    from syncagent.config.tables import Config
    from syncagent.state.database import Ledger


@dataclass(frozen=True)
class Doubts:
    """Why domains and addresses are in doubt.

    ``reasons`` are those of domains, ``removed`` maps removed addresses to the begin and the end of their doubt.
    ``mark`` is the reason for every domain if the switch has put it in doubt, and no run has finished since.
    """

    reasons: tuple[Doubt, ...] = ()
    removed: Mapping[str, tuple[float, float]] | None = None
    mark: Doubt | None = None

    @classmethod
    def read(cls, config: Config, ledger: Ledger) -> Doubts:
        """Return the recorded reasons; none if postfix.doubt_map is not set. Raises LedgerError."""
        if config.postfix.doubt_map is None:
            return cls()
        mark = Files(config.postfix.doubt_map).mark()
        removed = {address: (since, until) for address, _, since, until in ledger.doubtful()}
        return cls(ledger.doubt.doubts, removed, Doubt("*", mark.why, since=mark.at) if mark else None)

    def of_domain(self, domain: str) -> list[Doubt]:
        """Return the reasons for which a relay domain is in doubt."""
        reasons = [doubt for doubt in self.reasons if doubt.domain == domain]
        return [*reasons, *([self.mark] if self.mark and self.mark.kind not in {one.kind for one in reasons} else [])]

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
