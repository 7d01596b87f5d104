"""A hold is divided: what a person excepts from an approval becomes a frozen hold of its own, which nothing else ends.

It is recorded together with the approval of the rest, before the run that lets the rest go: a run that is interrupted
lets nothing go that was excepted.
"""

from __future__ import annotations

import dataclasses
import hashlib
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING

from msgspec.structs import replace

from syncagent.addresses import within
from syncagent.errors import UnknownHoldError
from syncagent.files import pipeline
from syncagent.model import DOMAIN_HOLD, Reason, Refusal
from syncagent.state import messages
from syncagent.sync import approvals
from syncagent.sync.guard import hold_id, set_id
from syncagent.sync.holds import by_key
from syncagent.sync.missing import HOLD, Kept

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator

    from syncagent.config.tables import Config
    from syncagent.model import Hold
    from syncagent.state.opened import State
    from syncagent.sync.run import Run

    Group = Callable[[str], str]


@dataclass
class _Part:
    """The recipients of a hold in a relay domain that are excepted, with the identity of their new hold."""

    of: Hold
    domain: str
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
            id=set_id("excepted", self.domain, self.digest.digest()),
            domain=self.domain,
            count=self.count,
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

    def __init__(
        self, approved: Collection[Hold], holds: Collection[Hold], excepted: Collection[str], group: Group
    ) -> None:
        """``approved`` have the versions that are approved, ``excepted`` are addresses."""
        self._approved = {hold.identity: hold for hold in approved}
        self._hold_of, self._group = by_key(holds), group
        self._excepted = frozenset(address.encode() for address in excepted)
        self.parts: dict[tuple[str, str], _Part] = {}
        self.found: set[str] = set()
        self.elsewhere: dict[str, Hold] = {}
        """The holds of excepted addresses that are not held under what is approved."""

    def lines(self, kept: Iterator[bytes], run_id: str) -> Iterator[bytes]:
        """Yield the lines of ``kept``, those of excepted recipients with their new hold."""
        for line in kept:
            address, _, rest = line.partition(b"\t")
            is_excepted = address in self._excepted
            yield self._moved(address, Kept.parse(rest.split(b"\t")), run_id) if is_excepted else line + b"\n"

    def _moved(self, address: bytes, kept: Kept, run_id: str) -> bytes:
        hold = self._hold_of(kept.why.removeprefix(HOLD).decode()) if kept.why.startswith(HOLD) else None
        if hold is None:
            return kept.line(address)
        approved = self._approved.get(hold.main or hold.identity)
        if approved is None or not (hold.is_of_all or kept.joined <= approved.approved_version):
            self.elsewhere[address.decode()] = hold
            return kept.line(address)
        self.found.add(address.decode())
        domain = self._group(address.decode()) if hold.is_of_all else hold.domain
        return self._part(hold, domain, run_id).add(address, kept)

    def _part(self, hold: Hold, domain: str, run_id: str) -> _Part:
        key = hold_id(f"{hold.identity} {domain} excepted", run_id)
        return self.parts.setdefault((hold.identity, domain), _Part(hold, domain, key))

    def holds(self, now: float) -> list[Hold]:
        """Return the approved holds without what is excepted, and the new holds of that."""
        rest = dict(self._approved)
        for part in self.parts.values():
            standing = rest.get(part.of.identity, part.of)
            rest[part.of.identity] = replace(standing, count=max(0, standing.count - part.count))
        return [*rest.values(), *(part.hold(now) for part in self.parts.values())]


def divide(ids: tuple[str, ...], excepted: Collection[str], config: Config, state: State, run: Run) -> None:
    """Record the approval of holds, together with the new holds of the recipients that are excepted from it.

    ``ids`` must have passed ``approvals.check``; ``excepted`` are canonical addresses. Raises UnknownHoldError if one
    of them is not held under these IDs, or if its relay domain would leave: then nothing is approved.
    """
    if not ids:
        return
    given, group = approvals.approved(ids, state.holds, run.now), partial(_group, config, state)
    divider, finished = _Divider(given, state.holds.values(), excepted, group), state.finished
    if excepted and finished:
        lines = divider.lines(state.kept_lines(), run.id)
        finished = replace(finished, kept=state.new_list("kept-excepted", run.id, pipeline.joined_lines(lines)))
    refused = _refusal(ids, excepted, given, divider, group)
    if refused:
        raise UnknownHoldError(messages.refusal(refused), refused)
    state.record_division(finished, divider.holds(run.now))


def _refusal(
    ids: tuple[str, ...], excepted: Collection[str], given: Iterable[Hold], divider: _Divider, group: Group
) -> Refusal | None:
    """Return why an approval with these exceptions is refused, None if it is not."""
    leaving = {hold.domain.removeprefix(DOMAIN_HOLD): hold for hold in given if hold.is_of_domain}
    for address in sorted(excepted):
        if address not in divider.found:
            return Refusal("not-held", ", ".join(ids), first=divider.elsewhere.get(address), address=address)
        if group(address) in leaving:
            return Refusal("leaving", leaving[group(address)].id, address=address)
    return None


def _group(config: Config, state: State, address: str) -> str:
    """Return the relay domain that covers an address, as last published; its own domain if there is none."""
    domain = address.rpartition("@")[2]
    published = state.finished.domains if state.finished else ()
    return within(domain, frozenset((*map(str, config.postfix.relay_domains), *published))) or domain
