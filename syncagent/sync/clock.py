"""The clock of a run: one that is not set, or stands before that of the last run, removes nothing. It is pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from syncagent.model import CLOCK_SET, CLOCK_STEP, Note, Reason
from syncagent.state import messages

if TYPE_CHECKING:
    from collections.abc import Iterator

STEP = 10.0
"""Seconds by which a clock may go back without being told of: ntpd(8) and chronyd(8) correct small errors by a step."""


def is_wrong(now: float, last: float) -> bool:
    """True if the clock of a run (``now``) is before 2020, or before that of the last run. Both are in seconds."""
    return now < CLOCK_SET or now < last


def reason(now: float, last: float) -> Reason | None:
    """Return the reason to hold every removal of a run whose clock is wrong, None if it is not."""
    if not is_wrong(now, last):
        return None
    subject = "unset" if now < CLOCK_SET else "behind" if last - now > STEP else CLOCK_STEP
    return Reason("clock", messages.clock(now, last), approvable=False, subjects=(subject,))


def notes(now: float, last: float) -> Iterator[Note]:
    """Yield a note if the clock is wrong by more than a small step."""
    if now < CLOCK_SET:
        yield Note("clock-unset", messages.moment(now))
    elif last - now > STEP:
        yield Note("clock-behind", messages.moment(now), detail=messages.moment(last))
