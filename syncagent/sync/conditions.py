"""Conditions: reasons to hold missing recipients while they are true, and for which of them each applies.

A condition holds recipients as long as it stands and no longer: nothing is captured by it. The losses that the guard
captures until a person approves them are in ``guard``. The code is pure.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from msgspec import Struct

from syncagent.model import Reason
from syncagent.sync import clock, state_new

if TYPE_CHECKING:
    from syncagent.state.identity import Gap


class Condition(Struct, frozen=True):
    """A reason, and the missing recipients to which it applies.

    ``domains`` are relay domains; None for all. ``source``: only recipients that this source listed last, or whose
    source is not known; "" for all. ``since_run``: only recipients that were first missing in an answer of ``source``
    in this run or a later one; "" for all.
    """

    reason: Reason
    domains: frozenset[str] | None = None
    source: str = ""
    since_run: str = ""


def current(gap: Gap | None, clocks: tuple[float, float], window: float) -> list[Condition]:
    """Return the conditions that hold every removal of a run.

    ``gap`` is that in what the state knows. ``clocks``: the time of this run, and that of the last one. ``window`` is
    limits.removed_window. All are in seconds.
    """
    reasons = (state_new.reason(gap, window), clock.reason(*clocks))
    return [Condition(reason) for reason in reasons if reason]
