"""Content synchronization, mode refreshOnly (RFC 4533): the changes since a cookie.

ldap3 has no support for these controls. This module encodes and decodes the necessary part of their BER (X.690).
"""

from __future__ import annotations

import re
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any
from uuid import UUID

from syncagent.model import CLOCK_SET
from syncagent.sources.ldap.connection import one_line
from syncagent.sources.ldap.contradictions import ContradictionError
from syncagent.sources.ldap.entries import DirectoryEntry
from syncagent.sources.ldap.presets import ENTRY_UUID

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from syncagent.sources.ldap.connection import Connection
    from syncagent.sources.ldap.full_search import FullSearch

SYNC_REQUEST, SYNC_STATE, SYNC_DONE, SYNC_INFO = (f"1.3.6.1.4.1.4203.1.9.1.{number}" for number in (1, 2, 3, 4))
MAX_CHANGES = 2_000
"""Maximum entries of a refresh. For more entries a full search needs less memory."""

_FAR = 86400.0
"""Seconds by which a CSN may be ahead of this host's clock. Changes that are older than the CSN are not reported."""
_REFRESH_ONLY = 1
_PRESENT, _ADD, _MODIFY, _DELETE = range(4)
_SEQUENCE, _OCTETS, _BOOLEAN, _ENUMERATED, _SET = 0x30, 0x04, 0x01, 0x0A, 0x31
_ID_SET = 0xA3
_UUID_LENGTH = 16
_REFRESH_REQUIRED = 4096
_NO_CHANGES = {
    2: "it rejects the cookie",
    4: f"too many entries changed: more than {MAX_CHANGES}, or than the account's size limit",
    12: "it does not offer content synchronization for this base (overlay syncprov)",
    50: "this account may not use content synchronization",
    _REFRESH_REQUIRED: "it has no record of the changes since the cookie",
}
"""Reasons for which a server does not report changes, by result code."""
BEHIND = 53
"""Result code unwillingToPerform: slapd sends it with "consumer state is newer than provider"."""


class NoChangesError(Exception):
    """The server cannot report the changes since the cookie; a full search is necessary. The text has the reason."""


class BehindError(Exception):
    """The server's state is older than the cookie: a lagging replica, or a restored server."""


@dataclass(slots=True)
class Changes:
    """The result of a refresh: the new cookie, and the changed entries by UUID, with None for a deleted entry.

    ``present`` has the UUIDs of a present phase: every entry that is neither in it nor in ``entries`` is deleted. None:
    there was no present phase, and ``entries`` has every deletion.
    """

    cookie: bytes
    entries: dict[str, DirectoryEntry | None] = field(default_factory=dict)
    present: set[str] | None = None

    @property
    def is_empty(self) -> bool:
        """True if no entry changed. The cookie may be newer nevertheless."""
        return not self.entries and self.present is None

    def remove_addresses(self, attributes: Sequence[str]) -> bool:
        """True if the changes have a deleted entry, an entry without addresses, or a present phase.

        Losing read access looks the same, so the caller must verify.
        """
        return self.present is not None or any(
            entry is None or not any(map(entry.values, attributes)) for entry in self.entries.values()
        )

    @property
    def count(self) -> int:
        """The number of entries added, modified or deleted, except those that a present phase deletes."""
        return len(self.entries)


def refresh(search: FullSearch, cookie: bytes, attributes: Sequence[str]) -> Changes:
    """Return the changes since ``cookie`` to the entries that match the search.

    Raises NoChangesError if a full search is necessary, BehindError if the server's state is older than the cookie,
    ContradictionError if the answer contradicts itself or the cookie, UnreachableError if another server may be able to
    answer, and SourceError for other failures.
    """
    result = search.connection.search(
        search.config.base,
        search.config.scope,
        search.filter,
        attributes,
        controls=[(SYNC_REQUEST, True, _request(cookie))],
        size_limit=MAX_CHANGES,
        accept=frozenset({*_NO_CHANGES, BEHIND}),
    )
    if result.code == BEHIND:
        raise BehindError(one_line(result.result["message"]))
    if result.code:
        raise NoChangesError(_NO_CHANGES[result.code])
    done = result.control(SYNC_DONE)
    if done is None:
        raise NoChangesError("it ignores the sync request control")
    try:
        changes = _changes(search, result.messages, done, cookie)
    except ValueError as error:
        raise ContradictionError(f"malformed sync answer (RFC 4533): {error}") from None
    if text := _wrong_cookie(changes.cookie, cookie, time.time()):
        raise ContradictionError(f"{text} ({one_line(changes.cookie.decode(errors='replace'))})")
    return changes


def context_cookie(connection: Connection, base: str) -> bytes | None:
    """Return a cookie for the current state of the server: contextCSN of the suffix of ``base``, slapo-syncprov(5).

    Return None if contextCSN is missing or not readable.
    """
    root = connection.read("", ["namingContexts"])
    suffixes = [value.decode(errors="replace") for name, values in root.items() for value in values if name]
    above = [suffix for suffix in suffixes if suffix and f",{_plain(base)}".endswith(f",{_plain(suffix)}")]
    suffix = max(above, key=len, default=base)
    csns = [value for values in connection.read(suffix, ["contextCSN"]).values() for value in values]
    return b"rid=000,csn=" + b";".join(sorted(csns)) if csns else None


def is_behind(cookie: bytes, known: bytes) -> bool:
    """True if ``cookie`` is older than ``known`` in the CSN (TIME#COUNT#SID#MOD) of any server ID."""
    csns = _csns(cookie)
    return any(csns.get(sid, b"") < csn for sid, csn in _csns(known).items())


def is_far_ahead(cookie: bytes, now: float) -> bool:
    """True if a CSN of the cookie is over a day ahead of ``now``, in seconds since the epoch. False without a clock."""
    return now >= CLOCK_SET and any(_time_of(csn) > now + _FAR for csn in _csns(cookie).values())


def _time_of(csn: bytes) -> float:
    """Return the time of a CSN in seconds since the epoch; 0 if it has none."""
    try:
        return datetime.strptime(csn[:14].decode(), "%Y%m%d%H%M%S").replace(tzinfo=UTC).timestamp()
    except ValueError:
        return 0.0


def _wrong_cookie(cookie: bytes, known: bytes, now: float) -> str:
    """Return the reason why ``cookie`` cannot follow ``known``; "" if it can. Fields are those of slapo-syncprov(5)."""
    if cookie == known:
        return ""
    for name in (b"rid", b"sid"):
        values = {value for value in (_field(cookie, name), _field(known, name)) if value}
        if len(values) > 1:
            return "the new cookie is of another server"
    if is_behind(cookie, known):
        return "the new cookie is older than the last one"
    return "the new cookie is far in the future" if is_far_ahead(cookie, now) else ""


def _field(cookie: bytes, name: bytes) -> bytes:
    """Return a field of a cookie, ``NAME=VALUE`` between commas; empty if there is none."""
    fields = dict(part.partition(b"=")[::2] for part in cookie.split(b","))
    return fields.get(name, b"")


def _csns(cookie: bytes) -> dict[bytes, bytes]:
    """Return the CSNs of a cookie by server ID."""
    csns = cookie.partition(b"csn=")[2].partition(b",")[0].split(b";")
    return {csn.split(b"#")[2]: csn for csn in csns if csn.count(b"#") == 3}  # noqa: PLR2004 - its four fields


def _plain(dn: str) -> str:
    """Return a DN in lower case, without spaces around commas and equals signs."""
    return "".join(part.strip() for part in re.split(r"([,=])", dn.lower()))


def _changes(search: FullSearch, messages: list[dict[str, Any]], done: bytes, cookie: bytes) -> Changes:
    """Return the changes in the messages of a refresh.

    Raises ValueError if a message is malformed, ContradictionError if two messages disagree about an entry,
    NoChangesError if a present phase is empty or has no new cookie, and SourceError for a reference to another server
    unless ignore_references is set.
    """
    changes = Changes(cookie)
    present: set[str] = set()
    for message in messages:
        if message["type"] == "searchResEntry":
            _add_entry(message, changes, present)
        elif message["type"] == "intermediateResponse" and message["responseName"] == SYNC_INFO:
            _add_id_set(message["responseValue"], changes, present)
    list(search.entries(message for message in messages if message["type"] == "searchResRef"))  # raises SourceError
    if any(changes.entries.get(key, key) is None for key in present):
        raise ContradictionError("it calls an entry present and deleted")
    fields = dict(_items(_first(done)[1]))
    changes.cookie = fields.get(_OCTETS, cookie)
    refresh_deletes = fields.get(_BOOLEAN, b"\0") != b"\0"
    if refresh_deletes or (changes.cookie == cookie and not present):
        return changes
    if not present or changes.cookie == cookie:
        raise NoChangesError("its present phase has no entry, or no new cookie")
    changes.present = present
    return changes


def _add_entry(message: dict[str, Any], changes: Changes, present: set[str]) -> None:
    """Add an entry of a refresh by its sync state. Raises ValueError if the state is missing or unknown."""
    state, key = _sync_state(message)
    if state in (_ADD, _MODIFY):
        entry = DirectoryEntry.of(message)
        own_key = entry.key(ENTRY_UUID)
        if own_key not in {None, key}:
            raise ContradictionError(f"{one_line(entry.dn)} has the entryUUID {own_key}, and {key} in its sync state")
        _change(changes, key, entry)
    elif state == _DELETE:
        _change(changes, key, None)
    elif state == _PRESENT:
        present.add(key)
    else:
        raise ValueError(f"unknown sync state {state}")


def _change(changes: Changes, key: str, entry: DirectoryEntry | None) -> None:
    """Add a change. Raises ContradictionError if there is another one of the same entry."""
    if changes.entries.setdefault(key, entry) != entry:
        raise ContradictionError(f"it reports two different changes of the entry {key}")


def _sync_state(message: dict[str, Any]) -> tuple[int, str]:
    """Return state and UUID of an entry's sync state control (RFC 4533, 2.3).

    Raises ValueError if the control is missing or malformed.
    """
    control = (message.get("controls") or {}).get(SYNC_STATE)
    if control is None:
        raise ValueError("entry without sync state")
    fields = list(_items(_first(control["value"])[1]))
    if len(fields) < 2:  # noqa: PLR2004 - state and UUID; a cookie may follow
        raise ValueError("sync state without entryUUID")
    return int.from_bytes(fields[0][1], "big"), _uuid(fields[1][1])


def _add_id_set(value: bytes, changes: Changes, present: set[str]) -> None:
    """Add the UUIDs of a syncIdSet (RFC 4533, 2.5). Other sync info messages are ignored: they contain no entries."""
    tag, content = _first(value)
    if tag != _ID_SET:
        return
    is_deleted = False
    for inner, octets in _items(content):
        if inner == _BOOLEAN:
            is_deleted = octets != b"\0"
        elif inner == _SET:
            keys = [_uuid(uuid) for _, uuid in _items(octets)]
            if is_deleted:
                for key in keys:
                    _change(changes, key, None)
            else:
                present.update(keys)


def _uuid(octets: bytes) -> str:
    if len(octets) != _UUID_LENGTH:
        raise ValueError(f"entryUUID with {len(octets)} octets")
    return str(UUID(bytes=octets))


def _request(cookie: bytes) -> bytes:
    return _tlv(_SEQUENCE, _tlv(_ENUMERATED, bytes((_REFRESH_ONLY,))) + _tlv(_OCTETS, cookie))


def _tlv(tag: int, value: bytes) -> bytes:
    """Return a BER value: tag, length and content."""
    length = bytes((len(value),))
    if len(value) > 127:  # noqa: PLR2004 - the long form of a length (X.690, 8.1.3.5)
        octets = len(value).to_bytes((len(value).bit_length() + 7) // 8, "big")
        length = bytes((0x80 | len(octets),)) + octets
    return bytes((tag,)) + length + value


def _first(octets: bytes) -> tuple[int, bytes]:
    """Return tag and content of the first BER value. Raises ValueError if there is no value, or it is truncated."""
    for item in _items(octets):
        return item
    raise ValueError("missing BER value")


def _items(octets: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield tag and content of consecutive BER values. Raises ValueError if a value is truncated."""
    at = 0
    while at < len(octets):
        tag, length = octets[at], int.from_bytes(octets[at + 1 : at + 2], "big")
        at += 2
        if length & 0x80:
            count = length & 0x7F
            length = int.from_bytes(octets[at : at + count], "big")
            at += count
        if at + length > len(octets):
            raise ValueError("truncated BER value")
        yield tag, octets[at : at + length]
        at += length
