"""Decisions on missing recipients: kept or removed. The code is pure: no files, no clock."""

from __future__ import annotations

import dataclasses
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from msgspec.structs import replace

from syncagent.model import LOSSES, Counts, DomainChange, Plan, Reason
from syncagent.state.looks import AGAIN
from syncagent.sync import guard
from syncagent.sync.holds import ANSWER, CONTAINER, LOSS, WAITING, HoldBook
from syncagent.sync.missing import GRACE, HOLD, LEAST_ENTRIES
from syncagent.sync.waiting import WaitBook, Waiting

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Mapping, Sequence

    from syncagent.config.tables import Limits
    from syncagent.model import Hold
    from syncagent.sync.conditions import Condition
    from syncagent.sync.confirm import Withheld
    from syncagent.sync.missing import Kept, Missing

_MOST_PARENTS = 10_000
_TRIPS = frozenset({"percent", "whole-percent", "max", "container"})
"""Kinds of losses by which everything that the same answer lacks is held."""


@dataclass
class Captured:
    """The members of a recorded hold that captures them: their number, their catch-alls, and their containers."""

    hold: Hold
    count: int = 0
    catch_alls: tuple[str, ...] = ()
    parents: set[bytes] = field(default_factory=set)


class DomainCounter:
    """Counter of missing and added recipients by domain, for the guard."""

    def __init__(self) -> None:
        """Start with all counts at 0."""
        self.added: Counter[str] = Counter()
        self.missing: Counter[str] = Counter()
        self.approved: Counter[str] = Counter()
        self.older: Counter[str] = Counter()
        self.catch_alls: dict[str, tuple[str, ...]] = {}
        self.unconfigured: set[str] = set()
        self.captured: dict[str, Captured] = {}
        self.answers: dict[str, set[tuple[str, str]]] = {}
        """Source and run of the answers that first lacked recipients that no hold captures, by domain."""
        self.of_parents: dict[bytes, set[tuple[str, tuple[str, str]]]] = {}
        """Domains and answers of the recipients that no hold captures, by the container of their entries."""
        self.parents_held: set[bytes] = set()
        """The containers whose recipients are held for it already, by an open or a frozen hold."""
        self._entries: dict[bytes, set[bytes]] = {}
        """Labels of missing entries by container, at most LEAST_ENTRIES of each."""

    def count(self, missing: Missing) -> None:
        """Count a missing recipient."""
        self.missing[missing.group] += 1
        self.approved[missing.group] += missing.approved
        if not missing.configured:
            self.unconfigured.add(missing.group)
        if missing.hold and missing.hold.kind == "container" and len(self.parents_held) < _MOST_PARENTS:
            self.parents_held |= {missing.kept.parent} - {b""}
        if missing.is_frozen and missing.hold:
            self._count_captured(missing, self.captured.setdefault(missing.hold.identity, Captured(missing.hold)))
        elif not missing.approved:
            self._count_free(missing)
        if not missing.approved and missing.kept.parent:
            self._count_entry(missing.kept.parent, missing.kept.label)

    def _count_entry(self, parent: bytes, label: bytes) -> None:
        if parent in self._entries or len(self._entries) < _MOST_PARENTS:
            labels = self._entries.setdefault(parent, set())
            if len(labels) < LEAST_ENTRIES:
                labels.add(label)

    def _count_captured(self, missing: Missing, captured: Captured) -> None:
        captured.count += 1
        if missing.address.startswith(b"@"):
            captured.catch_alls = (*captured.catch_alls, missing.address.decode())
        if len(captured.parents) < _MOST_PARENTS and missing.kept.parent:
            captured.parents.add(missing.kept.parent)

    def _count_free(self, missing: Missing) -> None:
        self.older[missing.group] += missing.kept.is_older
        if missing.address.startswith(b"@"):
            self.catch_alls[missing.group] = (*self.catch_alls.get(missing.group, ()), missing.address.decode())
        answers, parent = missing.kept.answers, missing.kept.parent
        if parent and (parent in self.of_parents or len(self.of_parents) < _MOST_PARENTS):
            self.of_parents.setdefault(parent, set()).update((missing.group, answer) for answer in answers)
        if answers:
            self.answers.setdefault(missing.group, set()).update(answers)

    @property
    def parents(self) -> set[bytes]:
        """The containers of the entries of missing recipients."""
        return self.of_parents.keys() | {parent for one in self.captured.values() for parent in one.parents}

    @property
    def large_parents(self) -> set[bytes]:
        """The containers that are held already, or of which at least LEAST_ENTRIES entries are missing."""
        return self.parents_held | {parent for parent, labels in self._entries.items() if len(labels) >= LEAST_ENTRIES}

    def counts(
        self,
        relay_domains: Iterable[str],
        wanted: Mapping[str, int],
        window: Mapping[str, tuple[int, int]],
        alive: Collection[str],
    ) -> list[Counts]:
        """Return the counts of every relay domain, and of every other domain with missing recipients.

        ``wanted`` has the numbers of wanted recipients, ``window`` those added and removed since the window's start,
        ``alive`` are the identities of the holds that still capture their members.
        """
        frozen, catch_alls = Counter[str](), dict(self.catch_alls)
        for key, one in self.captured.items():
            domain = one.hold.domain
            if key in alive:
                frozen[domain] += one.count
            elif one.catch_alls:
                catch_alls[domain] = (*catch_alls.get(domain, ()), *one.catch_alls)
        return [
            self._counts(
                domain,
                wanted.get(domain, 0),
                window.get(domain, (0, 0)),
                frozen[domain],
                catch_alls.get(domain, ()),
            )
            for domain in sorted({*map(str, relay_domains), *self.missing})
        ]

    def _counts(
        self, domain: str, wanted: int, window: tuple[int, int], frozen: int, catch_alls: tuple[str, ...]
    ) -> Counts:
        grown, removed = window
        before = wanted - self.added[domain] + self.missing[domain]
        return Counts(
            domain=domain,
            configured=domain not in self.unconfigured,
            wanted=wanted,
            added=self.added[domain],
            missing=self.missing[domain],
            approved=self.approved[domain],
            frozen=frozen,
            older=self.older[domain],
            catch_alls_missing=catch_alls,
            window_start=max(before - self.approved[domain] - frozen - grown + removed, 0),
            window_removed=removed,
        )


@dataclass(frozen=True)
class Losses:
    """What the guard holds in a run.

    ``domains``: the losses that are too large, by domain. ``captured``: the recorded holds that still capture their
    members, by identity, with their reasons. ``counts`` are those by which this was decided. ``emptied`` are the
    containers whose recipients are held.
    """

    counts: Sequence[Counts]
    domains: Mapping[str, tuple[Reason, ...]]
    captured: Mapping[str, tuple[Reason, ...]]
    emptied: frozenset[bytes] = frozenset()


def losses(
    counter: DomainCounter,
    counts: Callable[[Collection[str]], list[Counts]],
    limits: Limits,
    standing: Mapping[str, Hold],
    emptied: frozenset[bytes],
) -> Losses:
    """Return what the guard holds.

    ``counts`` returns the counts, given the identities of the holds that still capture their members. ``standing`` are
    the recorded holds by identity, ``emptied`` the containers that have no entry any more.
    """
    captured: dict[str, tuple[Reason, ...]] = {key: one.hold.reasons for key, one in counter.captured.items()}
    while True:
        found = counts(captured)
        judged = Losses(found, guard.evaluate(found, limits), captured, emptied)
        still = _still(counter, judged, limits, standing)
        if still.keys() == captured.keys():
            return dataclasses.replace(judged, captured=still)
        captured = still


def _still(
    counter: DomainCounter, judged: Losses, limits: Limits, standing: Mapping[str, Hold]
) -> dict[str, tuple[Reason, ...]]:
    """Return the holds that still capture their members, with their reasons."""
    members = {key: counter.captured[key] for key in judged.captured}
    counts = {one.domain: one for one in judged.counts}
    alone = {key: guard.alone(counts[one.hold.domain], one.count, one.catch_alls) for key, one in members.items()}
    whole = guard.of_whole(_together(judged.counts, members, alone), limits)
    reasons = {
        key: _reasons(one.hold, alone[key], one.parents & judged.emptied, limits, whole)
        for key, one in members.items()
        if not one.hold.main
    }
    alive = {key: why for key, why in reasons.items() if why}
    mains = {hold.identity for hold in standing.values() if _is_open_and_true(hold, judged)} | alive.keys()
    return alive | {key: _losses_of(one.hold) for key, one in members.items() if one.hold.main in mains}


def _losses_of(hold: Hold) -> tuple[Reason, ...]:
    """Return the reasons of a recorded hold without its conditions, which each run finds anew."""
    return tuple(reason for reason in hold.reasons if reason.kind in LOSSES)


def _reasons(
    hold: Hold, alone: Counts, emptied: Collection[bytes], limits: Limits, whole: tuple[Reason, ...]
) -> tuple[Reason, ...]:
    """Return the reasons for which a hold still captures its members; empty if there are none."""
    kinds = {reason.kind for reason in hold.reasons}
    own = guard.of_domain(alone, limits)
    more = whole if any(map(_is_of_whole, hold.reasons)) else ()
    container = tuple(reason for reason in hold.reasons if reason.kind == "container") if emptied else ()
    reasons = (*own, *more, *container)
    return tuple(reason for reason in reasons if reason.kind in kinds) or reasons


def _is_of_whole(reason: Reason) -> bool:
    """True if the loss of the whole map is the reason."""
    return reason.kind == "whole-percent" or (reason.kind == "max" and not reason.subjects)


def _together(counts: Sequence[Counts], members: Mapping[str, Captured], alone: Mapping[str, Counts]) -> list[Counts]:
    """Return the counts as if what is held for the loss of the whole map would go now, and nothing else."""
    held = Counter[str]()
    for key, one in members.items():
        if any(map(_is_of_whole, one.hold.reasons)):
            held[one.hold.domain] += alone[key].missing
    return [guard.alone(one, held[one.domain], ()) for one in counts]


def _is_open_and_true(hold: Hold, judged: Losses) -> bool:
    """True if an open hold goes on in this run, as far as that can be known before its recipients are decided."""
    if hold.is_frozen:
        return False
    return bool(judged.emptied) if hold.kind == "container" else hold.domain in judged.domains


@dataclass(frozen=True)
class Tripped:
    """The answers by which a domain or a container lost too much, with the identity of its hold, and its name."""

    answers: Mapping[tuple[str, str], tuple[str, str]]

    @classmethod
    def by(cls, counter: DomainCounter, judged: Losses, limits: Limits, book: HoldBook, run_id: str) -> Tripped:
        """Return the answers of this run that tripped a limit."""
        stakes = {one.domain: one.stake for one in judged.counts}
        found: dict[tuple[str, str], tuple[str, str]] = {}
        for domain, reasons in judged.domains.items():
            if _trips(reasons, stakes[domain], limits.of(domain)[1]):
                main = book.identity(domain, LOSS), domain
                found.update({answer: main for answer in counter.answers.get(domain, ()) if answer[1] == run_id})
        for parent in judged.emptied & counter.of_parents.keys():
            for domain, answer in sorted(counter.of_parents[parent]):
                if answer[1] == run_id:
                    found.setdefault(answer, (book.identity(domain, CONTAINER), domain))
        return cls(found)

    def main(self, kept: Kept) -> tuple[str, str]:
        """Return identity and domain of the hold that comes with the answer that first lacked a recipient, or ""."""
        return next((self.answers[answer] for answer in kept.answers if answer in self.answers), ("", ""))


def _trips(reasons: Iterable[Reason], stake: int, floor: int) -> bool:
    """True if a domain lost so much that everything else that the same answer lacks is doubtful."""
    return any(reason.kind in _TRIPS or (reason.kind == "emptied" and stake > floor) for reason in reasons)


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
            return book.keep(missing, [*_losses_of(missing.hold), *conditions])
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
