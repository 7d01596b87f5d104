"""A hold is divided: what a person excepts from an approval becomes a frozen hold of its own, which nothing else ends.

It is recorded together with the approval of the rest, before the run that lets the rest go: a run that is interrupted
lets nothing go that was excepted.
"""

from __future__ import annotations

import dataclasses
import hashlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from msgspec.structs import replace

from syncagent.errors import UnknownHoldError
from syncagent.files import pipeline
from syncagent.model import Reason, Refusal
from syncagent.state import messages
from syncagent.sync import approvals
from syncagent.sync.guard import hold_id, set_id
from syncagent.sync.missing import HOLD, Kept

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping

    from syncagent.model import Hold
    from syncagent.state.opened import State


@dataclass
class _Part:
    """The recipients of a hold that are excepted, with the identity of their new hold."""

    of: Hold
    key: str
    count: int = 0
    digest: hashlib._Hash = field(default_factory=hashlib.sha256)

    def add(self, address: bytes, kept: Kept) -> bytes:
        """Count a recipient, and return its new line in ``kept``."""
        self.count += 1
        self.digest.update(address + b"\n")
        return dataclasses.replace(kept, why=HOLD + self.key.encode(), joined=1).line(address)

    def hold(self, now: float) -> Hold:
        """Return the new hold, which is frozen."""
        reason = messages.with_text(Reason("excepted", subjects=(self.of.id,)))
        return replace(
            self.of,
            id=set_id("excepted", self.of.domain, self.digest.digest()),
            count=self.count,
            since=self.of.since,
            reasons=(reason,),
            approved_at=0.0,
            approved_version=0,
            key=self.key,
            kind="excepted",
            version=1,
            frozen_at=now,
            shown=(),
            main="",
        )


class _Divider:
    """The holds that are approved, and the parts of them that are excepted."""

    def __init__(self, approved: Mapping[str, int], holds: Mapping[str, Hold], excepted: Collection[str]) -> None:
        """``approved`` are the approved versions by the identity of a hold, ``excepted`` the addresses."""
        self._approved, self._holds = approved, {hold.identity: hold for hold in holds.values()}
        self._excepted = frozenset(address.encode() for address in excepted)
        self.parts: dict[str, _Part] = {}
        self.found: set[bytes] = set()

    def lines(self, kept: Iterator[bytes], run_id: str) -> Iterator[bytes]:
        """Yield the lines of ``kept``, those of excepted recipients with their new hold."""
        for line in kept:
            address, _, rest = line.partition(b"\t")
            yield self._moved(address, rest, run_id) if address in self._excepted else line + b"\n"

    def _moved(self, address: bytes, rest: bytes, run_id: str) -> bytes:
        kept = Kept.parse(rest.split(b"\t"))
        hold = self._holds.get(kept.why.removeprefix(HOLD).decode()) if kept.why.startswith(HOLD) else None
        main = hold.main or hold.identity if hold else ""
        if hold is None or kept.joined > self._approved.get(main, -1):
            return kept.line(address)
        self.found.add(address)
        part = self.parts.setdefault(hold.identity, _Part(hold, hold_id(f"{hold.identity} excepted", run_id)))
        return part.add(address, kept)


def divide(ids: tuple[str, ...], excepted: Collection[str], state: State, run_id: str, now: float) -> None:
    """Record the approval of holds together with the new holds of the recipients that are excepted from it.

    ``ids`` must have passed ``approvals.check``; ``excepted`` are canonical addresses. Raises UnknownHoldError if one
    of them is not held under these IDs: then nothing is approved.
    """
    if not excepted or state.finished is None:
        return
    given = approvals.approved(ids, state.holds, now)
    divider = _Divider({hold.identity: hold.approved_version for hold in given}, state.holds, excepted)
    lines = divider.lines(state.kept_lines(), run_id)
    kept = state.new_list("kept-excepted", run_id, pipeline.joined_lines(lines))
    absent = sorted(address for address in excepted if address.encode() not in divider.found)
    if absent:
        refused = Refusal("not-held", ", ".join(ids), address=absent[0])
        raise UnknownHoldError(messages.refusal(refused), refused)
    rest = {hold.id: hold for hold in given}
    for part in divider.parts.values():
        standing = rest.get(part.of.id, part.of)
        rest[part.of.id] = replace(standing, count=standing.count - part.count)
    new = [part.hold(now) for part in divider.parts.values()]
    state.record_division(replace(state.finished, kept=kept), [*rest.values(), *new])
