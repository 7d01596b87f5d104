"""Holds between runs: which recipients join which hold, when a hold is frozen, and its ID. It is pure.

A hold is open for limits.collect after its first recipient, and then frozen. Its ID is a digest of its kind, domain and
recipients, so that two backups name the same set alike; ``Hold.key`` identifies it between runs.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from msgspec.structs import replace

from syncagent.model import CLOCK_SET, LOSSES, Hold
from syncagent.state import messages
from syncagent.sync.approvals import shown
from syncagent.sync.guard import hold_id, set_id

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from syncagent.model import Reason
    from syncagent.sync.missing import Missing

LOSS, CONTAINER, WAITING = "loss", "container", "waiting"
"""The kinds of open holds of a domain, at most one of each. ``ANSWER`` is one for each main hold."""
ANSWER = "answer "
ONE_FOR_ALL = frozenset({"state-new", "counts"})
"""Kinds of reasons that have one hold for every removal."""


@dataclass
class _Members:
    """The recipients of a hold in this run, and the reasons that apply to them."""

    slot: str
    domain: str
    standing: Hold | None
    main: str = ""
    count: int = 0
    grew: bool = False
    approved: bool = False
    reasons: dict[Reason, None] = field(default_factory=dict)
    digest: hashlib._Hash = field(default_factory=hashlib.sha256)

    @property
    def is_of_all(self) -> bool:
        """True if one hold stands for every removal that is held for these reasons: its domain has none of its own."""
        return all(reason.kind in ONE_FOR_ALL for reason in self.reasons)

    @property
    def version(self) -> int:
        """The version that the hold gets if it grows in this run."""
        return (self.standing.version if self.standing else 0) + 1


def slot_of(hold: Hold) -> str:
    """Return the kind of open hold that a recorded hold is."""
    if hold.main:
        return f"{ANSWER}{hold.main}"
    if hold.kind == "container":
        return CONTAINER
    return LOSS if hold.kind in LOSSES else WAITING


class HoldBook:
    """The holds of one run, from the recorded ones and the recipients that join them."""

    def __init__(self, standing: Iterable[Hold], run_id: str, now: float, collect: float) -> None:
        """``standing`` are the recorded holds of recipients, ``collect`` is limits.collect in seconds."""
        self._standing = {hold.identity: hold for hold in standing}
        self._open = {(hold.domain, slot_of(hold)): hold for hold in self._standing.values() if not hold.is_frozen}
        self._run_id, self._now, self._collect = run_id, now, collect
        self._members: dict[str, _Members] = {}

    def identity(self, domain: str, slot: str) -> str:
        """Return the identity of the open hold of a domain, which need not have a recipient yet."""
        standing = self._open.get((domain, slot))
        return standing.identity if standing else hold_id(f"{domain} {slot}", self._run_id)

    def join(self, missing: Missing, slot: str, reasons: Iterable[Reason], main: str = "") -> tuple[str, int]:
        """Add a recipient to the open hold of its domain. Return the hold's identity, and its version then.

        With ``main`` it is the version of the main hold, which grows in the same run: by that it is approved.
        """
        key = self.identity(missing.group, slot)
        members = self._members.get(key)
        if members is None:
            members = self._members[key] = _Members(slot, missing.group, self._open.get((missing.group, slot)), main)
        stays = missing.hold is not None and missing.hold.identity == key
        members.grew |= not stays
        self._count(members, missing, reasons)
        return key, missing.kept.joined if stays else self._version(main) if main else members.version

    def _version(self, key: str) -> int:
        """Return the version that a hold gets if it grows in this run."""
        return (self._standing[key].version if key in self._standing else 0) + 1

    def keep(self, missing: Missing, reasons: Iterable[Reason]) -> tuple[str, int]:
        """Leave a recipient in its recorded hold. Return the hold's identity, and its version when it joined."""
        hold = missing.hold
        assert hold is not None  # noqa: S101 - the caller checks it
        members = self._members.get(hold.identity)
        if members is None:
            members = self._members[hold.identity] = _Members(slot_of(hold), hold.domain, hold, hold.main)
        self._count(members, missing, reasons)
        return hold.identity, missing.kept.joined

    def _count(self, members: _Members, missing: Missing, reasons: Iterable[Reason]) -> None:
        members.count += 1
        members.approved |= missing.approved
        members.reasons.update(dict.fromkeys(reasons))
        members.digest.update(missing.address + b"\n")

    def holds(self) -> tuple[Hold, ...]:
        """Return the holds that have recipients, sorted by domain."""
        found = (self._hold(key, members) for key, members in self._members.items() if not members.is_of_all)
        return tuple(sorted(found, key=lambda hold: (hold.domain, hold.since, hold.id)))

    def _hold(self, key: str, members: _Members) -> Hold:
        reasons = tuple(map(messages.with_text, members.reasons))
        kind = primary(reasons)
        old = members.standing or Hold("", members.domain, 0, self._now, (), key=key, main=members.main)
        if CLOCK_SET <= self._now < old.since:  # it began while the clock was ahead
            old = replace(old, since=self._now)
        if old.is_frozen or (old.id and not old.kind and not members.grew):
            hold = replace(old, count=members.count, reasons=reasons)
        else:
            own = set_id(kind, members.domain, members.digest.digest())
            hold = replace(
                old,
                id=own,
                count=members.count,
                reasons=reasons,
                kind=kind,
                version=members.version if members.grew else old.version,
                frozen_at=self._now if kind in LOSSES and self._now - old.since >= self._collect else 0.0,
                shown=shown(old, own, self._now),
            )
        return hold if members.approved else replace(hold, approved_at=0.0, approved_version=0)

    def next_freeze(self) -> float | None:
        """Return when the next open hold is to be frozen, in seconds since the epoch; None if there is none."""
        ends = [hold.since + self._collect for hold in self.holds() if hold.collecting]
        return min(ends, default=None)


def primary(reasons: Sequence[Reason]) -> str:
    """Return the kind of the most severe reason: a loss before a condition."""
    kinds = [reason.kind for reason in reasons]
    return next((kind for kind in LOSSES if kind in kinds), kinds[0] if kinds else "")


def of_recipients(standing: Mapping[str, Hold]) -> list[Hold]:
    """Return the recorded holds of recipients, without those of relay domains, of sources and of all removals."""
    return [hold for hold in standing.values() if hold.is_of_recipients]


def by_key(holds: Iterable[Hold]) -> Callable[[str], Hold | None]:
    """Return a function that returns the hold whose identity is recorded with a recipient; None if there is none.

    Where every removal is held, that hold stands for those that have no hold of their own.
    """
    found = {hold.identity: hold for hold in holds}
    of_all = next((hold for hold in found.values() if hold.is_of_all), None)
    return lambda key: found.get(key, of_all)
