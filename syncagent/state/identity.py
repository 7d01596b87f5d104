"""The identity of the state: an ID and a counter that ``state.db`` shares with the file ``.NAME.syncagent``.

The file is beside the map. By it a run recognises that the database was lost, or that an older copy of it was put back:
what the database then does not know of may have been removed a moment ago. It is pure: no files, no clock.
"""

from __future__ import annotations

import base64
import hashlib
from dataclasses import dataclass
from typing import Literal

from msgspec import Struct
from msgspec.structs import replace

Why = Literal["lost", "restored"]


class Identity(Struct, frozen=True):
    """The identity as ``state.db`` has it.

    ``id`` is random. ``counter`` is the number of the last publication that was recorded. ``intent`` is the number of
    one that was begun and is not recorded, 0 if there is none. ``digest`` is the SHA-256 of the text's lines, without
    header, of the later of the two.
    """

    id: str
    counter: int = 0
    intent: int = 0
    digest: str = ""

    def intends(self, digest: str) -> Identity:
        """Return the identity with the intent to publish a text with this digest. No number is used twice."""
        return replace(self, intent=max(self.counter, self.intent) + 1, digest=digest)

    def settled(self) -> Identity:
        """Return the identity after the publication that was begun is recorded."""
        return replace(self, counter=max(self.counter, self.intent), intent=0)


class Beside(Struct, frozen=True):
    """The content of ``.NAME.syncagent``: ID and counter of the state, digest of the text, and the domains in the map.

    An ID of "" stands for a file that cannot be understood.
    """

    id: str
    counter: int = 0
    digest: str = ""
    domains: tuple[str, ...] = ()


class Gap(Struct, frozen=True):
    """A gap in what the state knows, from ``since`` (seconds since the epoch) on: the database was lost or restored.

    ``id`` is the ID of its hold. ``seen`` is the ID in the file by which it was recognised.
    """

    id: str
    why: Why
    since: float
    seen: str


@dataclass(frozen=True, slots=True)
class Facts:
    """What a run finds. ``beside`` is the file, ``own`` the database's identity; None if there is none.

    ``is_new``: the database knows of no earlier run. ``is_ours``: the map's text begins with syncagent's header.
    """

    beside: Beside | None
    own: Identity | None
    is_new: bool
    is_ours: bool


def gap_in(facts: Facts) -> Why | None:
    """Return why the database does not know what was published last, None if it does, or if nothing was.

    A database without the file is one of an earlier version. A file that is equal to an open intent was written by a
    run that was killed before it recorded that.
    """
    beside, own = facts.beside, facts.own
    if beside is None:
        return "lost" if own is None and facts.is_new and facts.is_ours else None
    if own is None or own.id != beside.id:
        return "lost"
    published = own.intent and (beside.counter, beside.digest) == (own.intent, own.digest)
    return "restored" if beside.counter > own.counter and not published else None


def identified(facts: Facts, new_id: str) -> Identity:
    """Return the identity with which the run goes on, whose counter is no lower than the file's.

    It has the ID ``new_id`` if the database has none.
    """
    own, beside = facts.own or Identity(new_id), facts.beside
    if gap_in(facts) is None or beside is None:
        return own
    return replace(own, counter=max(own.counter, own.intent, beside.counter), intent=0)


def standing(gap: Gap | None, facts: Facts, now: float) -> Gap | None:
    """Return the gap after this look: the recorded one (``gap``), a new one, or None.

    The file of a lost database keeps its old ID if a run is killed before it writes the file anew; that begins nothing
    anew. A begin in the future was recorded by a clock that was ahead: the gap begins now.
    """
    why, seen = gap_in(facts), facts.beside.id if facts.beside else ""
    if why and not (gap and gap.why == why == "lost" and gap.seen == seen):
        counter = facts.beside.counter if facts.beside else 0
        return Gap(hold_id(f"{why} {seen} {counter} {now}"), why, now, seen)
    return replace(gap, since=now) if gap and gap.since > now else gap


def is_over(gap: Gap, window: float, now: float, *, approved: bool) -> bool:
    """True if a person approved its hold, or ``window`` (limits.removed_window) in seconds has passed."""
    return approved or now - gap.since >= window


def hold_id(content: str | bytes, length: int = 8) -> str:
    """Return an ID of ``length`` characters of a-z and 2-7, derived from a content."""
    octets = content.encode() if isinstance(content, str) else content
    return base64.b32encode(hashlib.sha256(octets).digest())[:length].decode().lower()
