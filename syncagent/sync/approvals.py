"""Validation of hold IDs that a person approves."""

from __future__ import annotations

from typing import TYPE_CHECKING

from syncagent.errors import UnknownHoldError
from syncagent.model import DOMAIN_HOLD, Hold, Refusal
from syncagent.state import messages

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping


def check(ids: Collection[str], holds: Mapping[str, Hold]) -> None:
    """Raise UnknownHoldError if any of the IDs cannot be approved. The caller then approves none."""
    for hold_id in ids:
        refused = refusal(hold_id, ids, holds)
        if refused:
            raise UnknownHoldError(messages.refusal(refused), refused)


def refusal(hold_id: str, ids: Collection[str], holds: Mapping[str, Hold]) -> Refusal | None:
    """Return the reason why a hold cannot be approved together with ``ids``, None if it can."""
    hold = holds.get(hold_id)
    if hold is None:
        return Refusal("unknown", hold_id, holds=tuple(holds))
    first = _goes_before(hold, holds)
    if first and first.id not in ids:
        return Refusal("domain-first", hold_id, first=first)
    final = next((reason for reason in hold.reasons if not reason.approvable and reason.kind != "domain"), None)
    return Refusal("final", hold_id, reason=final) if final else None


def _goes_before(recipients: Hold, holds: Mapping[str, Hold]) -> Hold | None:
    """Return the unapproved hold of the relay domain itself, None if there is none."""
    name = f"{DOMAIN_HOLD}{recipients.domain}"
    return next((hold for hold in holds.values() if hold.domain == name and not hold.approved_at), None)
