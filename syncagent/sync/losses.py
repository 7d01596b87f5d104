"""Losses that are too large, and the answers by which they came. The code is pure: no files, no clock."""

from __future__ import annotations

import dataclasses
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

from syncagent.model import LOSSES
from syncagent.sync import guard
from syncagent.sync.holds import CONTAINER, LOSS

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Mapping, Sequence

    from syncagent.config.tables import Limits
    from syncagent.model import Counts, Hold, Reason
    from syncagent.sync.domain_counter import Captured, DomainCounter
    from syncagent.sync.holds import HoldBook
    from syncagent.sync.missing import Kept

_TRIPS = frozenset({"percent", "whole-percent", "max", "container"})
"""Kinds of losses by which everything that the same answer lacks is held."""


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


def evaluate(
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
    return alive | {key: of_hold(one.hold) for key, one in members.items() if one.hold.main in mains}


def of_hold(hold: Hold) -> tuple[Reason, ...]:
    """Return the reasons of a recorded hold without its conditions, which each run finds anew."""
    return tuple(reason for reason in hold.reasons if reason.kind in LOSSES)


def _reasons(
    hold: Hold, alone: Counts, emptied: Collection[bytes], limits: Limits, whole: tuple[Reason, ...]
) -> tuple[Reason, ...]:
    """Return the reasons for which a hold still captures its members; empty if there are none."""
    kinds = {reason.kind for reason in hold.reasons}
    if "excepted" in kinds:  # it ends by a person alone
        return of_hold(hold)
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
