"""Approvals of holds by a person, by their IDs. The code is pure."""

from __future__ import annotations

from operator import itemgetter
from typing import TYPE_CHECKING

from msgspec.structs import replace

from syncagent.errors import UnknownHoldError
from syncagent.model import DOMAIN_HOLD, Hold, Refusal, Shown
from syncagent.state import messages

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping

REMEMBERED = 7 * 86400.0
"""Seconds for which an ID that a hold had before can still be approved."""


def resolve(hold_id: str, holds: Iterable[Hold], now: float) -> tuple[Hold, int] | None:
    """Return the hold that has an ID, or had it in the last seven days, and its version then; None if there is none."""
    found = [(hold, version) for hold in holds if (version := hold.version_of(hold_id)) is not None]
    current = [(hold, version) for hold, version in found if hold.id == hold_id]
    recent = [(until, hold, version) for hold, version in found if (until := _until(hold, hold_id)) > now - REMEMBERED]
    latest = max(recent, key=itemgetter(0), default=None)
    return next(iter(current), latest and latest[1:])


def _until(hold: Hold, hold_id: str) -> float:
    """Return until when a hold had an ID before, in seconds since the epoch; 0 if it never had."""
    return max((one.until for one in hold.shown if one.id == hold_id), default=0.0)


def shown(old: Hold, own: str, now: float) -> tuple[Shown, ...]:
    """Return the IDs that a recorded hold had in the last seven days, before the ID ``own``."""
    recent = [one for one in old.shown if one.until > now - REMEMBERED and one.id != own]
    if old.id and old.id != own:
        recent.append(Shown(old.id, old.version, now))
    return tuple(recent)


def approved(ids: Iterable[str], holds: Mapping[str, Hold], now: float) -> list[Hold]:
    """Return the holds with these IDs, with the approval of exactly the recipients that each ID was shown for.

    The IDs must have passed ``check``.
    """
    given: dict[str, Hold] = {}
    for hold_id in ids:
        hold, version = resolve(hold_id, holds.values(), now) or (None, 0)
        if hold:
            latest = max(version, given.get(hold.id, hold).approved_version)
            given[hold.id] = replace(hold, approved_at=now, approved_version=latest)
    return list(given.values())


def void(holds: Mapping[str, Hold], unfinished: float, now: float) -> dict[str, Hold]:
    """Return the holds whose approval is older than an answer that no finished run compared, without it, by ID.

    ``unfinished`` is the time of that answer, 0 if there is none. What was approved may have been in it.
    """
    older = (hold for hold in holds.values() if 0 < hold.approved_at < min(unfinished, now))
    return {hold.id: replace(hold, approved_at=0.0, approved_version=0) for hold in older}


def check(ids: Collection[str], holds: Mapping[str, Hold], now: float) -> None:
    """Raise UnknownHoldError if any of the IDs cannot be approved. The caller then approves none."""
    for hold_id in ids:
        refused = refusal(hold_id, ids, holds, now)
        if refused:
            raise UnknownHoldError(messages.refusal(refused), refused)


def refusal(hold_id: str, ids: Collection[str], holds: Mapping[str, Hold], now: float) -> Refusal | None:
    """Return the reason why a hold cannot be approved together with ``ids``, None if it can."""
    hold, _ = resolve(hold_id, holds.values(), now) or (None, 0)
    if hold is None:
        return Refusal("unknown", hold_id, holds=tuple(holds))
    main = next((one for one in holds.values() if hold.main and one.identity == hold.main), None)
    if main:
        return Refusal("with", hold_id, first=main)
    first = _goes_before(hold, holds)
    if first and first.id not in ids:
        return Refusal("domain-first", hold_id, first=first)
    if hold.rejecting:  # its entries are looked at when they are approved
        return None
    final = next((reason for reason in hold.reasons if not reason.approvable and reason.kind != "domain"), None)
    return Refusal("final", hold_id, reason=final) if final else None


def _goes_before(recipients: Hold, holds: Mapping[str, Hold]) -> Hold | None:
    """Return the unapproved hold of the relay domain itself, None if there is none."""
    name = f"{DOMAIN_HOLD}{recipients.domain}"
    return next((hold for hold in holds.values() if hold.domain == name and not hold.approved_at), None)
