"""How long a missing recipient waits before it may be removed, and when its sources owe a confirming look.

A confirming look is an unconditional, full answer with a proof, taken once when the first waiting removal of a source
falls due. An answer at that time reads another version than the one that first lacked the recipient, or the same one
that has not been written since: both lack it. The code is pure.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from msgspec.structs import replace

from syncagent.model import CONFIRM_AFTER

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from syncagent.model import SourceState
    from syncagent.sources import Common

AGAIN = 3600.0
"""Least number of seconds between two looks at a source, if the first one failed or proved nothing."""
STUCK = 3
"""A removal that has waited for so many times its wait is stuck."""


def wait(proof: str, grace: float, confirm_after: float) -> float:
    """Return how long a recipient must be missing from a source before it may be removed, in seconds.

    ``proof`` is that of the source's last complete answer (``sources.Answer.proof``). A ``grace`` of 0 removes at once,
    with no look.
    """
    if not grace or proof == "producer":
        return grace
    return max(grace, confirm_after)


def wait_of(states: Iterable[SourceState], commons: Mapping[str, Common], grace: float) -> float:
    """Return the longest wait of sources, given by their states. ``commons`` has the keys of each by its name."""
    waits = (wait(state.proof, grace, confirm_after(commons.get(state.name))) for state in states)
    return max(waits, default=grace)


def confirm_after(common: Common | None) -> float:
    """Return confirm_after of a source, the default if the source is not configured any more."""
    return float(CONFIRM_AFTER if common is None else common.confirm_after)


def next_look(due: float | None, state: SourceState) -> float | None:
    """Return when a source is to be asked for a confirming look, in seconds since the epoch; None if it owes none.

    ``due``: when the first removal that waits for it falls due (``Finished.looks``), None without one. A look that
    failed or proved nothing is tried again after AGAIN.
    """
    if due is None or state.looked >= due:
        return None
    return max(due, state.look_tried + AGAIN) if state.look_tried else due


def looks_due(looks: Mapping[str, float], states: Mapping[str, SourceState], now: float) -> frozenset[str]:
    """Return the names of the sources that are to be asked for a confirming look at ``now``."""
    return frozenset(
        name
        for name, due in looks.items()
        if name in states and (at := next_look(due, _without_future(states[name], now))) is not None and at <= now
    )


def _without_future(state: SourceState, now: float) -> SourceState:
    """Return the state without times after ``now``, which a wrong clock recorded."""
    return replace(
        state,
        looked=state.looked if state.looked <= now else 0.0,
        look_tried=state.look_tried if state.look_tried <= now else 0.0,
    )


def is_stuck(since: float, waits: float, now: float) -> bool:
    """True if a removal has waited for more than STUCK times its wait."""
    return bool(waits) and now - since > STUCK * waits
