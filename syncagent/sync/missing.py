"""Missing recipients: those that are published and in no source any more, and their lines in the list ``kept``.

The code is pure: no files, no clock. Lines are octets. Addresses are in canonical form, in UTF-8.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from syncagent.model import CLOCK_SET, LOSSES
from syncagent.sync.waiting import NO_SOURCES, Waiting

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from syncagent.config.tables import Limits
    from syncagent.model import Hold

GRACE = b"grace"
HOLD = b"hold:"
OLDER = b"-"
LEAST_ENTRIES = 3
"""Number of entries of a container whose loss is held."""
_FIELDS = 6


@dataclass(frozen=True, slots=True)
class Kept:
    """What is recorded of a missing recipient, all but its address.

    ``since``: when it was first missing, in seconds since the epoch, 0 if that is not recorded. ``why``: ``GRACE``, or
    ``HOLD`` and the identity of its hold. ``said``: the sources that last listed it, comma-separated; empty if unknown.
    ``answer``: ``SOURCE=RUN`` of each answer that first lacked it, comma-separated; empty if it was no answer;
    ``OLDER`` and a time if an older version recorded the address: the time of the upgrade. ``joined``: the version of
    its hold, or of the main hold of that, at which it joined. ``label``: its label in the last answer that had it, if
    that is a DN.
    """

    since: int = 0
    why: bytes = b""
    said: bytes = b""
    answer: bytes = b""
    joined: int = 0
    label: bytes = b""

    @classmethod
    def parse(cls, fields: list[bytes]) -> Kept:
        """Return the record of these fields. Older versions wrote only the first two or three."""
        if len(fields) < _FIELDS:
            since, why, said = (*fields, b"")[:3]
            return cls(int(since), why, said, OLDER)
        since, why, said, answer, joined, label = fields
        return cls(int(since), why, said, answer, int(joined), label)

    def line(self, address: bytes) -> bytes:
        """Return the line of an address in ``kept``."""
        fields = (address, b"%d" % self.since, self.why, self.said, self.answer, b"%d" % self.joined, self.label)
        return b"\t".join(fields) + b"\n"

    @property
    def sources(self) -> tuple[str, ...]:
        """The names of the sources that last listed it; empty if unknown."""
        return tuple(self.said.decode().split(",")) if self.said else ()

    @property
    def answers(self) -> tuple[tuple[str, str], ...]:
        """The source and the run of each answer that first lacked it; empty if unknown."""
        parts = (one.partition("=") for one in self.answer.decode().split(",") if one and not self.is_older)
        return tuple((source, run) for source, _, run in parts)

    @property
    def is_older(self) -> bool:
        """True if an older version recorded it."""
        return self.answer.startswith(OLDER)

    @property
    def upgraded(self) -> int:
        """When this version first saw the record of an older one, in seconds since the epoch; 0 if it is none."""
        return int(self.answer.removeprefix(OLDER) or 0) if self.is_older else 0

    @property
    def parent(self) -> bytes:
        """The DN of the container of its entry; empty if there is none."""
        return parent_of(self.label)


def parent_of(label: bytes) -> bytes:
    """Return the parent of a DN (RFC 4514), in lower case; empty if there is none.

    ``label`` may be escaped, in which case a backslash is doubled.
    """
    start = 0
    while (comma := label.find(b",", start)) >= 0:
        before = label[:comma]
        if (len(before) - len(before.rstrip(b"\\"))) // 2 % 2 == 0:  # each backslash is doubled
            return label[comma + 1 :].lower()
        start = comma + 1
    return b""


def remembered(missing: Iterable[bytes], kept: Iterable[bytes]) -> Iterator[tuple[bytes, Kept | None]]:
    """Yield each missing address with its record in ``kept``, None if it has none.

    Both inputs must be sorted by address. A line of ``kept`` whose address is not missing is skipped, since the address
    is in a source again.
    """
    old = (line.rstrip(b"\n").split(b"\t") for line in kept)
    known = next(old, None)
    for address in missing:
        while known and known[0] < address:
            known = next(old, None)
        if known and known[0] == address:
            yield address, Kept.parse(known[1:])
        else:
            yield address, None


@dataclass(frozen=True, slots=True)
class Missing:
    """A missing recipient in a run.

    ``group``: the domain under which it is counted. ``configured``: that is a relay domain. ``hold``: the recorded hold
    to which it belongs. ``approved``: its removal is approved. ``due``: its wait and its confirming look are over.
    ``until``: the end of its wait in seconds since the epoch. ``grace``: limits.removal_grace of its domain.
    ``was_lost``: the last run held it for a loss that was too large.
    """

    address: bytes
    kept: Kept
    group: str
    configured: bool = True
    hold: Hold | None = None
    approved: bool = False
    due: bool = False
    until: float = 0.0
    grace: float = 0.0
    was_lost: bool = False

    @property
    def is_frozen(self) -> bool:
        """True if it belongs to a hold that captures it, whatever else goes missing."""
        return self.hold is not None and not self.approved and (self.hold.is_frozen or bool(self.hold.main))


@dataclass(frozen=True, slots=True)
class RemovalPolicy:
    """The inputs of the decision whether a missing recipient may go.

    ``now``: time of the run. ``oldest_answer``: oldest last success of a source. ``holds``: the recorded holds by
    identity. ``waiting``: how long a recipient waits, by source. ``anew``: every wait begins anew, since an answer
    that no finished run compared may have had the recipient.
    """

    now: float
    oldest_answer: float
    holds: Mapping[str, Hold]
    limits: Limits
    waiting: Waiting = NO_SOURCES
    anew: bool = False

    def missing(self, address: bytes, kept: Kept, group: str, *, configured: bool = True) -> Missing:
        """Return a missing address with its hold, its approval, and the end of its wait.

        A grace of 0 ends at once. If the clock was set back or not set, the wait starts again.
        """
        now = int(self.now)
        since = now if self.anew or kept.since < CLOCK_SET else min(kept.since, now)
        answer = OLDER + b"%d" % self.now if kept.answer == OLDER else kept.answer
        kept = Kept(since, kept.why or GRACE, kept.said, answer, kept.joined, kept.label)
        grace = self.limits.of(group)[2]
        until = self.waiting.until(since, grace, kept.sources, kept.upgraded)
        over = self.now >= until and int(self.oldest_answer) > since and self.waiting.is_confirmed(until, kept.sources)
        hold = self._hold(kept, group)
        approved = hold is not None and self._is_approved(hold, kept)
        due, until = not grace or over, until if grace else 0.0
        return Missing(address, kept, group, configured, hold, approved, due, until, grace, self._was_lost(kept))

    def _hold(self, kept: Kept, group: str) -> Hold | None:
        """Return the recorded hold of a recipient; None if it has none, or if its domain was split since."""
        hold = self._recorded(kept)
        return hold if hold and hold.domain == group else None

    def _recorded(self, kept: Kept) -> Hold | None:
        return self.holds.get(kept.why.removeprefix(HOLD).decode()) if kept.why.startswith(HOLD) else None

    def _was_lost(self, kept: Kept) -> bool:
        """True if the recorded hold of a recipient is for a loss, also if its domain was split.

        That of a container is none: each run asks for its recipients again.
        """
        hold = self._recorded(kept)
        return hold is not None and hold.kind != "container" and any(one.kind in LOSSES for one in hold.reasons)

    def _is_approved(self, hold: Hold, kept: Kept) -> bool:
        given = self.holds.get(hold.main) if hold.main else hold
        return given is not None and bool(given.approved_at) and kept.joined <= given.approved_version
