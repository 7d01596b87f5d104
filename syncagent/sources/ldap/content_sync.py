"""What changed since a cookie: content synchronisation, refreshOnly (RFC 4533).

The controls are BER that ldap3 does not know; this reads and writes the little of it that is needed.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from uuid import UUID

from syncagent.errors import FailureKind, SourceError
from syncagent.sources.ldap.connection import clean
from syncagent.sources.ldap.entries import Found

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from syncagent.sources.ldap.connection import Session
    from syncagent.sources.ldap.full_search import Pull

REQUEST, STATE, DONE = (f"1.3.6.1.4.1.4203.1.9.1.{number}" for number in (1, 2, 3))
INFO = "1.3.6.1.4.1.4203.1.9.1.4"
MOST = 2_000
"""Entries that may have changed: beyond them, asking for everything takes less memory."""

_REFRESH_ONLY = 1
_PRESENT, _ADD, _MODIFY, _DELETE = range(4)
_SEQUENCE, _OCTETS, _BOOLEAN, _ENUMERATED, _SET = 0x30, 0x04, 0x01, 0x0A, 0x31
_ID_SET = 0xA3
_UUID_LENGTH = 16
_REFRESH_REQUIRED = 4096
_LOST = {
    2: "it does not take the cookie",
    4: f"more changed than it lists at once, or than {MOST}",
    12: "it does not offer content synchronisation for this base (overlay syncprov)",
    50: "this account may not use content synchronisation",
    _REFRESH_REQUIRED: "it has lost what the cookie stands for",
}
LAGGING = 53
"""slapd's "consumer state is newer than provider"."""


class LostError(Exception):
    """The server cannot say what changed; asking for everything can. The text says why."""


class LaggingError(Exception):
    """The server is behind what we know from it: a replica that has not caught up, or one that was restored."""


@dataclass(slots=True)
class Changes:
    """What changed: entries by UUID, None for those that are gone, and the cookie to ask with next time.

    ``present``, unless None, are the UUIDs of what did not change: what is neither there nor in ``entries`` is gone.
    """

    cookie: bytes
    entries: dict[str, Found | None] = field(default_factory=dict)
    present: set[str] | None = None

    @property
    def is_empty(self) -> bool:
        """Whether nothing changed."""
        return not self.entries and self.present is None

    def lose(self, attributes: Sequence[str]) -> bool:
        """Tell whether anybody is gone by them, or without a value; an account that lost its right sees the same."""
        return self.present is not None or any(
            found is None or not any(map(found.values, attributes)) for found in self.entries.values()
        )

    @property
    def count(self) -> int:
        """How many entries were named as changed or gone."""
        return len(self.entries)


def refresh(pull: Pull, cookie: bytes, attributes: Sequence[str]) -> Changes:
    """Ask what changed since ``cookie``.

    Raises LostError, LaggingError, SourceError and UnreachableError.
    """
    found = pull.session.search(
        pull.config.base,
        pull.config.scope,
        pull.filter,
        attributes,
        controls=[(REQUEST, True, _request(cookie))],
        size_limit=MOST,
        bearable=frozenset({*_LOST, LAGGING}),
    )
    if found.code == LAGGING:
        raise LaggingError(clean(found.result["message"]))
    if found.code:
        raise LostError(_LOST[found.code])
    done = found.control(DONE)
    if done is None:
        raise LostError("it passed over the request for changes")
    try:
        return _changes(pull, found.messages, done, cookie)
    except (ValueError, IndexError, StopIteration) as error:
        text = f"{pull.session.url}: its answer about changes cannot be understood: {error}"
        raise SourceError(text, kind=FailureKind.BROKEN) from None


def context_cookie(session: Session, base: str) -> bytes | None:
    """Make a cookie of where the server stands now (contextCSN of the suffix, slapo-syncprov(5)); None without one."""
    root = session.read("", ["namingContexts"])
    suffixes = [value.decode(errors="replace") for name, values in root.items() for value in values if name]
    above = [suffix for suffix in suffixes if suffix and f",{_plain(base)}".endswith(f",{_plain(suffix)}")]
    suffix = max(above, key=len, default=base)
    csns = [value for values in session.read(suffix, ["contextCSN"]).values() for value in values]
    return b"rid=000,csn=" + b";".join(sorted(csns)) if csns else None


def is_behind(cookie: bytes, known: bytes) -> bool:
    """Tell whether a cookie lacks what another stands for: by the CSN of each server ID, TIME#COUNT#SID#MOD."""
    has, wanted = _csns(cookie), _csns(known)
    return any(has.get(sid, b"") < csn for sid, csn in wanted.items())


def _csns(cookie: bytes) -> dict[bytes, bytes]:
    csns = cookie.partition(b"csn=")[2].partition(b",")[0].split(b";")
    return {csn.split(b"#")[2]: csn for csn in csns if csn.count(b"#") == 3}  # noqa: PLR2004 - its four fields


def _plain(dn: str) -> str:
    return "".join(part.strip() for part in re.split(r"([,=])", dn.lower()))


def _changes(pull: Pull, messages: list[dict[str, Any]], done: bytes, cookie: bytes) -> Changes:
    changes = Changes(cookie)
    present: set[str] = set()
    for message in messages:
        if message["type"] == "searchResEntry":
            _note_entry(message, changes, present)
        elif message["type"] == "intermediateResponse" and message["responseName"] == INFO:
            _note_set(message["responseValue"], changes, present)
    list(pull.entries(message for message in messages if message["type"] == "searchResRef"))  # raises for references
    fields = dict(_items(next(_items(done))[1]))
    changes.cookie = fields.get(_OCTETS, cookie)
    deletes_told = fields.get(_BOOLEAN, b"\0") != b"\0"
    if deletes_told or (changes.cookie == cookie and not present):
        return changes
    if not present or changes.cookie == cookie:
        raise LostError("it names nothing that is still there, or no cookie for it, and that is not believed")
    changes.present = present
    return changes


def _note_entry(message: dict[str, Any], changes: Changes, present: set[str]) -> None:
    value = message["controls"][STATE]["value"]
    (_, state), (_, uuid), *_ = _items(next(_items(value))[1])
    key, kind = _uuid(uuid), int.from_bytes(state, "big")
    if kind in (_ADD, _MODIFY):
        changes.entries[key] = Found.of(message)
    elif kind == _DELETE:
        changes.entries[key] = None
    elif kind == _PRESENT:
        present.add(key)
    else:
        raise ValueError(f"an entry's state is {kind}")


def _note_set(value: bytes, changes: Changes, present: set[str]) -> None:
    """Read a syncIdSet; the other messages of a refresh are cookies on the way, which are not to be kept."""
    tag, content = next(_items(value))
    if tag != _ID_SET:
        return
    deleted = False
    for inner, octets in _items(content):
        if inner == _BOOLEAN:
            deleted = octets != b"\0"
        elif inner == _SET:
            keys = [_uuid(uuid) for _, uuid in _items(octets)]
            if deleted:
                changes.entries.update(dict.fromkeys(keys))
            else:
                present.update(keys)


def _uuid(octets: bytes) -> str:
    if len(octets) != _UUID_LENGTH:
        raise ValueError(f"an entryUUID has {len(octets)} octets")
    return str(UUID(bytes=octets))


def _request(cookie: bytes) -> bytes:
    return _tlv(_SEQUENCE, _tlv(_ENUMERATED, bytes((_REFRESH_ONLY,))) + _tlv(_OCTETS, cookie))


def _tlv(tag: int, value: bytes) -> bytes:
    """Write one BER value."""
    length = bytes((len(value),))
    if len(value) > 127:  # noqa: PLR2004 - the long form of a length (X.690, 8.1.3.5)
        octets = len(value).to_bytes((len(value).bit_length() + 7) // 8, "big")
        length = bytes((0x80 | len(octets),)) + octets
    return bytes((tag,)) + length + value


def _items(octets: bytes) -> Iterator[tuple[int, bytes]]:
    """Read BER values that stand one after the other. Raises ValueError where one is cut."""
    at = 0
    while at < len(octets):
        tag, length = octets[at], octets[at + 1]
        at += 2
        if length & 0x80:
            count = length & 0x7F
            length = int.from_bytes(octets[at : at + count], "big")
            at += count
        if at + length > len(octets):
            raise ValueError("a value is cut short")
        yield tag, octets[at : at + length]
        at += length
