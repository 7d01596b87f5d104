"""Decisions on missing recipients: kept or removed. The code is pure: no files, no clock."""

from __future__ import annotations

import dataclasses
from collections import Counter
from typing import TYPE_CHECKING

from msgspec.structs import replace

from syncagent.model import DomainChange, Plan, Reason
from syncagent.state.looks import AGAIN
from syncagent.sync.holds import ANSWER, CONTAINER, LOSS, WAITING, HoldBook
from syncagent.sync.losses import of_hold
from syncagent.sync.missing import GRACE, HOLD
from syncagent.sync.waiting import WaitBook, Waiting

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from syncagent.model import Counts
    from syncagent.sync.conditions import Condition
    from syncagent.sync.confirm import Withheld
    from syncagent.sync.losses import Losses, Tripped
    from syncagent.sync.missing import Kept, Missing


class RemovalDecider:
    """The decisions on missing recipients, and their counts by domain."""

    def __init__(  # noqa: PLR0913 - all inputs of the decisions
        self,
        *,
        judged: Losses,
        tripped: Tripped,
        conditions: Sequence[Condition],
        book: HoldBook,
        waiting: Waiting,
        now: float,
        withheld: Withheld,
    ) -> None:
        """``now`` is the time of the run, ``withheld`` are the recipients that a point query did not confirm."""
        self._judged, self._tripped, self._conditions, self._book = judged, tripped, conditions, book
        self._waiting, self._now, self._withheld = waiting, now, withheld
        self.removed: Counter[str] = Counter()
        self.removed_approved: Counter[str] = Counter()
        self.kept: Counter[str] = Counter()
        self.in_grace = 0
        self.waits = WaitBook()
        self.next_due: float | None = None
        self.looks: dict[str, float] = {}
        """When the next confirming look of a source is due, in seconds since the epoch."""

    def decide(self, missing: Missing) -> Kept | None:
        """Return the recipient's new record if it stays published, None if it is removed. The decision is counted."""
        conditions = [one.reason for one in self._conditions if one.applies(missing.kept, missing.group)]
        if missing.approved and all(reason.approvable for reason in conditions):
            self.removed_approved[missing.group] += 1
            self.removed[missing.group] += 1
            return None
        held = self._held(missing, conditions)
        if held:
            return self._keep(missing, HOLD + held[0].encode(), held[1])
        withheld = self._withheld.get(missing.address)
        if isinstance(withheld, Reason):
            key, joined = self._book.join(missing, CONTAINER, [withheld])
            return self._keep(missing, HOLD + key.encode(), joined)
        if missing.due and not withheld:
            if missing.grace and missing.was_lost:
                return self._wait_anew(missing)
            self.removed[missing.group] += 1
            return None
        return self._wait(missing, withheld)

    def _held(self, missing: Missing, conditions: Sequence[Reason]) -> tuple[str, int] | None:
        """Return the identity of the hold of a recipient and when it joined; None if it is not held."""
        judged, book, parent = self._judged, self._book, missing.kept.parent
        if missing.hold and missing.hold.identity in judged.captured:
            return book.keep(missing, [*judged.captured[missing.hold.identity], *conditions])
        if missing.hold and missing.approved:
            return book.keep(missing, [*of_hold(missing.hold), *conditions])
        if missing.group in judged.domains:
            return book.join(missing, LOSS, [*judged.domains[missing.group], *conditions])
        if parent and parent in judged.emptied:
            return book.join(missing, CONTAINER, [of_container(parent), *conditions])
        main, domain = self._tripped.main(missing.kept)
        if main:
            return book.join(missing, f"{ANSWER}{main}", [Reason("same-answer", subjects=(domain,)), *conditions], main)
        return book.join(missing, WAITING, conditions) if conditions else None

    def _keep(self, missing: Missing, why: bytes, joined: int) -> Kept:
        self.kept[missing.group] += 1
        return dataclasses.replace(missing.kept, why=why, joined=joined)

    def _wait(self, missing: Missing, withheld: object) -> Kept:
        """Keep a recipient that waits, or that a point query withheld."""
        kept = self._keep(missing, GRACE, 0)
        self.in_grace += 1
        since, length = float(missing.kept.since), missing.until - missing.kept.since
        names = missing.kept.sources
        if withheld == "present":
            self.waits.count("present", names, self._now, self._now + length, length)
            self._next(self._now + 1)
            self._look(missing.kept.sources or self._waiting.sources, self._now + 1)
            return dataclasses.replace(kept, since=int(self._now))
        if withheld:
            self.waits.count("unknown", names, since, self._now + AGAIN, length)
            self._next(self._now + AGAIN)
            return kept
        why, concerned = self._waiting.why(self._now, missing.until, missing.grace, names)
        until = max([missing.until, *(self._waiting.sources[name].next_look(self._now) for name in concerned)])
        self.waits.count(why, concerned, since, until if why == "look" else missing.until, length)
        if missing.until > self._now:
            self._next(missing.until)
            self._look(self._waiting.unconfirmed(missing.until, missing.kept.sources), missing.until)
        else:
            self._wait_for_looks(missing)
        return kept

    def _wait_anew(self, missing: Missing) -> Kept:
        """Keep a recipient whose hold has ended and that would go at once: its wait begins now."""
        now, names = int(self._now), missing.kept.sources
        until = self._waiting.until(now, missing.grace, names)
        return self._wait(
            dataclasses.replace(missing, kept=dataclasses.replace(missing.kept, since=now), until=until), None
        )

    def _wait_for_looks(self, missing: Missing) -> None:
        """Count the looks for which a recipient waits whose time is over; without any, it waits for another source."""
        names = self._waiting.unconfirmed(missing.until, missing.kept.sources)
        if not names:
            self._next(self._now)
        for name in names:
            moment = self._waiting.sources[name].next_look(self._now)
            self._look([name], moment)
            self._next(moment)

    def _next(self, moment: float) -> None:
        self.next_due = moment if self.next_due is None else min(self.next_due, moment)

    def _look(self, names: Iterable[str], moment: float) -> None:
        for name in names:
            self.looks[name] = min(moment, self.looks.get(name, moment))


def of_container(parent: bytes) -> Reason:
    """Return the reason that a container has no entry any more. ``parent`` is its DN, in lower case and escaped."""
    return Reason("container", subjects=(parent.decode(errors="replace"),))


def before_removals(counts: Sequence[Counts]) -> tuple[DomainChange, ...]:
    """Return the change of each domain if every missing recipient is kept."""
    return tuple(
        DomainChange(count.domain, count.before, count.added, 0, count.missing, count.wanted + count.missing)
        for count in counts
    )


def domain_changes(counts: Sequence[Counts], decider: RemovalDecider) -> tuple[DomainChange, ...]:
    """Return the change of each domain: its counts, with the decisions of ``decider``."""
    return tuple(
        DomainChange(
            domain=count.domain,
            before=count.before,
            added=count.added,
            removed=decider.removed[count.domain],
            kept=decider.kept[count.domain],
            after=count.wanted + decider.kept[count.domain],
        )
        for count in counts
    )


def settled(plan: Plan) -> Plan:
    """Return the plan as it stands after publishing: nothing added or removed, without domains that are empty."""
    after = tuple(replace(change, before=change.after, added=0, removed=0) for change in plan.domains if change.after)
    return replace(plan, domains=after, added_sample=(), removed_sample=(), domains_added=(), domains_removed=())


def without(plan: Plan, refused: Mapping[str, int]) -> Plan:
    """Return the plan with fewer additions. ``refused`` is the number to subtract, by domain."""
    changes = tuple(
        replace(change, added=change.added - less, after=change.after - less)
        for change in plan.domains
        for less in (refused.get(change.domain, 0),)
    )
    return replace(plan, domains=changes)
