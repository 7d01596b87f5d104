"""Conditions: reasons to hold missing recipients while they are true, and for which of them each applies.

A condition holds recipients as long as it stands and no longer: nothing is captured by it. The losses that the guard
captures until a person approves them are in ``guard``. The code is pure.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from msgspec import Struct

from syncagent.model import Reason
from syncagent.sync import clock, counting, state_new

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from syncagent.state.identity import Gap
    from syncagent.sync.counting import Selected
    from syncagent.sync.missing import Kept


_TIME = len("20260131T024107Z")
"""Length of the time in the ID of a run. Runs of one second count as one."""


class Condition(Struct, frozen=True):
    """A reason, and the missing recipients to which it applies.

    ``domains`` are relay domains; None for all. ``source``: only recipients that this source listed last, or whose
    source is not known; "" for all. ``since_run``: only recipients that were first missing in an answer of ``source``
    in this run or a later one, or it is not known in which; what an older version kept was missing before. "" for all.
    """

    reason: Reason
    domains: frozenset[str] | None = None
    source: str = ""
    since_run: str = ""

    def applies(self, kept: Kept, group: str) -> bool:
        """True if it holds a missing recipient of this relay domain."""
        if self.domains is not None and group not in self.domains:
            return False
        if self.source and kept.sources and self.source not in kept.sources:
            return False
        if not self.since_run:
            return True
        answers = kept.answers
        return (not answers and not kept.is_older) or any(
            source == self.source and run[:_TIME] >= self.since_run[:_TIME] for source, run in answers
        )


def source_failing(failing: Sequence[str]) -> Reason:
    """Return the reason for failing sources: the missing recipients may be in these."""
    return Reason("source-failing", subjects=tuple(failing))


def of_sources(failing: Sequence[str]) -> Iterator[Condition]:
    """Yield the condition that sources fail."""
    if failing:
        yield Condition(source_failing(failing))


def of_outdated(outdated: Iterable[str]) -> Iterator[Condition]:
    """Yield a condition for each source whose data is outdated: it holds what that source listed last."""
    yield from (Condition(Reason("source-outdated", subjects=(name,)), source=name) for name in outdated)


def of_canaries(absent: Iterable[str]) -> Iterator[Condition]:
    """Yield a condition for each canary that no source has."""
    yield from (Condition(Reason("canary", approvable=False, subjects=(canary,))) for canary in absent)


def of_map(wanted: int) -> Iterator[Condition]:
    """Yield the condition that no source has any recipient."""
    if not wanted:
        yield Condition(Reason("empty-map", approvable=False))


def of_leaving(domains: Iterable[str]) -> Iterator[Condition]:
    """Yield a condition for each domain whose own removal is held. Its recipients stay until that is approved."""
    for domain in sorted(domains):
        yield Condition(Reason("domain", approvable=False, subjects=(domain,)), frozenset({domain}))


def of_doubt_table(*, in_force: bool) -> Iterator[Condition]:
    """Yield the condition that the doubt table is not in force: removed recipients would get 550 at once."""
    if not in_force:
        yield Condition(Reason("doubt", approvable=False))


def of_counts(selected: Selected | None) -> Iterator[Condition]:
    """Yield the condition that the counts of the selection do not agree."""
    reason = counting.reason(selected)
    if reason:
        yield Condition(reason)


def of_state(gap: Gap | None, clocks: tuple[float, float], window: float) -> Iterator[Condition]:
    """Yield the conditions of a state that may not know what was published last, and of a wrong clock.

    ``gap`` is that in what the state knows. ``clocks``: the time of this run, and that of the last one. ``window`` is
    limits.removed_window. All are in seconds.
    """
    reasons = (state_new.reason(gap, window), clock.reason(*clocks))
    yield from (Condition(reason) for reason in reasons if reason)
