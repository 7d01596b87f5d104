"""When a source owes a confirming look. How long a recipient waits for it is in ``sync.waiting``.

A confirming look is an unconditional, full answer with a proof, taken once when the first waiting removal of a source
falls due. An answer at that time reads another version than the one that first lacked the recipient, or the same one
that has not been written since: both lack it. The code is pure.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from msgspec.structs import replace

if TYPE_CHECKING:
    from collections.abc import Mapping

    from syncagent.model import SourceState

AGAIN = 3600.0
"""Least number of seconds between two looks at a source, if the first one failed or proved nothing."""


def next_look(due: float | None, state: SourceState) -> float | None:
    """Return when a source is to be asked for a confirming look, in seconds since the epoch; None if it owes none.

    ``due``: when the first removal that waits for it falls due (``Finished.looks``), None without one. A look that
    failed or proved nothing is tried again after AGAIN. A failing source owes none: removals are held until it answers.
    """
    if due is None or state.looked >= due or state.error_kind:
        return None
    return max(due, state.look_tried + AGAIN) if state.look_tried else due


def due(looks: Mapping[str, float], states: Mapping[str, SourceState], now: float) -> frozenset[str]:
    """Return the names of the sources that are to be asked for a confirming look at ``now``."""
    return frozenset(
        name
        for name, first in looks.items()
        if name in states and (at := next_look(first, without_future(states[name], now))) is not None and at <= now
    )


def without_future(state: SourceState, now: float) -> SourceState:
    """Return the state without times after ``now``, which a wrong clock recorded."""
    return replace(
        state,
        looked=state.looked if state.looked <= now else 0.0,
        look_tried=state.look_tried if state.look_tried <= now else 0.0,
    )
