"""The hold ``state-new``: every removal, while the state may not know what was published last. It is pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from syncagent.model import ALL_DOMAINS, Hold, Reason
from syncagent.state import messages

if TYPE_CHECKING:
    from collections.abc import Iterable

    from syncagent.state.identity import Gap


def reason(gap: Gap | None, window: float) -> Reason | None:
    """Return the reason for a gap in what the state knows, None if there is none.

    ``window`` is limits.removed_window in seconds. The reason is true until the gap is over.
    """
    if gap is None:
        return None
    return Reason("state-new", messages.state_new(gap.why, gap.since + window), subjects=(gap.why,))


def holds(gap: Gap | None, window: float) -> tuple[Hold, ...]:
    """Return the one hold of a gap, which stands also while nothing is missing."""
    why = reason(gap, window)
    return (Hold(gap.id, ALL_DOMAINS, 0, gap.since, (why,)),) if gap and why else ()


def is_recorded(gap: Gap | None, recorded: Iterable[Hold]) -> bool:
    """True if the recorded holds have that of the gap, and no other of its kind: no run has to record it."""
    ids = {hold.id for hold in recorded if any(reason.kind == "state-new" for reason in hold.reasons if hold.is_of_all)}
    return ids == ({gap.id} if gap else set())
