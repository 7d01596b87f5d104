"""The doubt table as `status` shows it: the domains in doubt, and the switch."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from msgspec import Struct

from syncagent.model import Doubt
from syncagent.postfix.doubt_table import Files, Mark
from syncagent.state import doubt_groups
from syncagent.state.doubt_groups import DoubtGroup

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

    from syncagent.config.tables import Postfix
    from syncagent.state.database import Ledger
    from syncagent.state.doubt_groups import Causes
    from syncagent.state.records import DoubtRecord


class DoubtStatus(Struct, frozen=True, kw_only=True):
    """The doubt table and its switch. Times are in seconds since the epoch, 0 if there is none.

    ``published``: a run has made the table. ``ages``: the domains in doubt for a reason whose age is told, with that
    age in seconds. ``addresses``: number of removed addresses in doubt by themselves; the last of them ends at
    ``addresses_until``. ``due``: when the next doubt can end, None if none ends by itself. ``switched``: the switch has
    fired, and no run has undone it. ``alive_until``: when syncagent counts as dead unless it runs. ``error``: why the
    table is not in force, else "".
    """

    table: str
    published: bool
    groups: tuple[DoubtGroup, ...]
    ages: dict[str, float]
    addresses: int
    addresses_until: float
    due: float | None
    switched: Mark | None
    switch_seen: float
    alive_until: float
    error: str

    @property
    def in_force(self) -> bool:
        """True if the table is as the last run wants it."""
        return self.published and not self.error

    @property
    def domains(self) -> frozenset[str]:
        """The domains in doubt."""
        return frozenset(domain for group in self.groups for domain in group.domains)


class Recorded(NamedTuple):
    """The doubts that stand, the removed addresses in doubt, and the relay domains; ``record`` is that of the state."""

    files: Files
    record: DoubtRecord
    doubts: tuple[Doubt, ...]
    addresses: list[tuple[str, str, float, float]]
    relay_domains: frozenset[str]


def relay_domains_of(postfix: Postfix, ledger: Ledger) -> frozenset[str]:
    """Return the relay domains: those of the configuration, and those that sources report, as last published."""
    last = ledger.finished
    names = (*map(str, postfix.relay_domains), *(last.domains if last else ()))
    return frozenset(name for name in names if not name.startswith("."))


def recorded(postfix: Postfix, ledger: Ledger, now: float) -> Recorded | None:
    """Return what is known of the doubt table, None if postfix.doubt_map is not set.

    The doubts that no run has recorded yet are among it: those of the switch, and of persons.
    """
    if postfix.doubt_map is None:
        return None
    files, relay_domains = Files(postfix.doubt_map), relay_domains_of(postfix, ledger)
    doubts = {doubt.key: doubt for doubt in (*_unrecorded(files, relay_domains, now), *ledger.doubt.doubts)}
    return Recorded(files, ledger.doubt, tuple(doubts.values()), ledger.doubtful(), relay_domains)


def _unrecorded(files: Files, relay_domains: Collection[str], now: float) -> Iterator[Doubt]:
    mark = files.mark()
    if mark:
        yield from (Doubt(domain, mark.why, since=mark.at) for domain in relay_domains)
    yield from files.of_persons(relay_domains, now)


def of(known: Recorded, causes: Causes, now: float) -> DoubtStatus:
    """Return the status of the doubt table at time ``now``."""
    written, limit = known.files.alive()
    return DoubtStatus(
        table=str(known.files.name),
        published=bool(known.record.lines),
        groups=doubt_groups.grouped(known.doubts, known.relay_domains),
        ages=doubt_groups.ages(known.doubts, causes, now),
        addresses=len(known.addresses),
        addresses_until=max((until for _, _, _, until in known.addresses), default=0.0),
        due=known.record.due,
        switched=known.files.mark(),
        switch_seen=known.files.switch_seen(),
        alive_until=written + limit if written else 0.0,
        error=known.record.error,
    )
