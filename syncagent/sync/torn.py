"""Torn files: a text that was cut while it was written, so that its last line does not end in a line feed.

Such a line is only judged against what the source had before. A list that never ended in a line feed is read as it is.
"""

from __future__ import annotations

import re
import unicodedata
from typing import TYPE_CHECKING

from syncagent.addresses import MAX_KEY, MAX_SPELLED
from syncagent.errors import SourceError
from syncagent.files.search import SortedLines

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from syncagent.model import SourceState

_FIELDS = re.compile(r"""[\s,;:|"'<>]+""")
_REMEDY = "write another file and rename it into place; if the line is complete, end it with a line feed"
_SHOWN = 60


def check(unfinished: Mapping[str, str], state: SourceState, old: Path | None, new: Path) -> None:
    """Raise SourceError if one of the unfinished last lines, by the name of its text, shows a torn file.

    It does if the text ended in a line feed in the last answer (``SourceState.finished``), or if the line is the
    beginning of an address that the last answer had and this one lacks. ``old`` and ``new`` are the snapshots of both
    answers; without ``old`` the line is a line.
    """
    for name, line in unfinished.items():
        if name in state.finished:
            raise SourceError(f"{name} ended in a line feed before and does not now: it is incomplete; {_REMEDY}")
        missing = _missing(line, old, new) if old else None
        if missing is not None:
            text = (
                f"{name}: the last line has no line feed and is the beginning of {missing[:_SHOWN]}, which is missing"
            )
            raise SourceError(f"{text}: the file is incomplete; {_REMEDY}")


def _missing(line: str, old: Path, new: Path) -> str | None:
    """Return an address that begins with the line or its last field, and is only in ``old``; None if there is none."""
    before, after = SortedLines(old), SortedLines(new)
    try:
        for beginning in _beginnings(line):
            for address in _only_in(before, after, beginning):
                return address.decode()
    finally:
        before.close()
        after.close()
    return None


def _beginnings(line: str) -> Iterator[bytes]:
    """Yield the folded line and its last field, as beginnings of canonical addresses. One that is too long is skipped.

    A cut may split a character.
    """
    end = line.rstrip("\ufffd")[-MAX_SPELLED:]
    whole = unicodedata.normalize("NFC", end.strip()).casefold()
    for text in dict.fromkeys((whole, _FIELDS.split(whole)[-1])):
        beginning = _without_u_label(text).encode(errors="surrogatepass")
        if 0 < len(beginning) <= MAX_KEY:
            yield beginning


def _without_u_label(text: str) -> str:
    """Return the beginning of an address without the first U-label of its domain and what follows."""
    local, at, domain = text.rpartition("@")
    if not at or domain.isascii():
        return text
    first = next(number for number, char in enumerate(domain) if not char.isascii())
    return f"{local}@{domain[: domain.rfind('.', 0, first) + 1]}"


def _only_in(old: SortedLines, new: SortedLines, beginning: bytes) -> Iterator[bytes]:
    """Yield the addresses of ``old`` that are longer than ``beginning``, begin with it, and are not in ``new``."""
    others = _addresses(new, beginning)
    other = next(others, None)
    for address in _addresses(old, beginning):
        while other is not None and other < address:
            other = next(others, None)
        if address not in {other, beginning}:
            yield address


def _addresses(file: SortedLines, beginning: bytes) -> Iterator[bytes]:
    return (line.partition(b"\t")[0] for line in file.starting_with(beginning))
