"""Snapshots of an earlier version of the canonical form, written anew in the present one. No source is asked for it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from syncagent.addresses import UnusableError, forms
from syncagent.files import atomic, sorted_lines
from syncagent.invisible import trimmed
from syncagent.state.fields import unescape
from syncagent.state.snapshot import spelling_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    from syncagent.model import Snapshot
    from syncagent.state.snapshot import SnapshotWriter

_EARLIER = "2/"
"""The version of the canonical form before this one, without that of Unicode."""


def is_convertible(version: str) -> bool:
    """True if a snapshot of this version can be converted: whatever it lacks can be told from its lines."""
    return version.startswith(_EARLIER)


def is_current(path: Path) -> bool:
    """True if the present version would write each line of a snapshot as it is. Raises OSError."""
    with atomic.open_foreign(path) as lines:
        return all(_form(line) is None for line in lines)


def convert(snapshot: Path, writer: SnapshotWriter, converted: Path) -> Snapshot:
    """Write the snapshot in the present form to ``converted`` and return it.

    Addresses get their present form, or become rejects; a reject that is an address now becomes an entry. Raises
    SourceError if no entry is left, LedgerError if the snapshot cannot be written, and OSError if it cannot be read.
    """
    try:
        with atomic.open_foreign(snapshot) as lines:
            for line in _without_end(lines):
                _convert(line.decode(), writer)
        return writer.finish(converted, allow_empty=True)
    finally:
        writer.close()


def _convert(line: str, writer: SnapshotWriter) -> None:
    address, key, label = line.removesuffix("\n").split("\t")
    spelled = _form(line.encode())
    if spelled is None or (address and _is_key_of_postfix(address)):
        writer.copy(line)
    if spelled is not None:
        writer.put([(spelled, unescape(key), unescape(label) if address else "")])


def _without_end(lines: Iterable[bytes]) -> Iterator[bytes]:
    return (line for line in lines if sorted_lines.parse_end(line) is None)


def _form(line: bytes) -> str | None:
    """Return what to put again for a line, None if the present version would write it as it is."""
    if not line.startswith(b"\t"):
        address = line.partition(b"\t")[0]
        return None if address.isascii() or _forms(address.decode()) == (address.decode(),) else address.decode()
    spelled = spelling_of(line.decode())
    return spelled if spelled is not None and _forms(spelled) else None


def _is_key_of_postfix(address: str) -> bool:
    """True if an address is what Postfix makes of an earlier spelling that folds to what NFC would compose."""
    return trimmed(address) == address and bool(_forms(address)) and not address.isascii()


def _forms(spelled: str) -> tuple[str, ...]:
    try:
        return forms(spelled)
    except UnusableError:
        return ()
