"""Lines from a file or a network, as a whole text: no NUL, no torn line, and all of it where its end line says so."""

from __future__ import annotations

import hashlib
import re
from typing import TYPE_CHECKING

from syncagent.errors import DamagedError, FailureKind, SourceError
from syncagent.files import sorted_lines as files

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

_UTF8_BOM = b"\xef\xbb\xbf"


def whole_text(chunks: Iterable[bytes], name: str, *, require_end: bool) -> Iterator[bytes]:
    """Give a text in chunks of whole lines, without a byte order mark at its beginning.

    ``require_end`` wants ``# end COUNT SHA256`` as its last line. Raises SourceError, with ``name`` in it, for a torn
    or unfinished text: what was given until then is half of it.
    """
    end = EndLine()
    first = True
    try:
        for chunk in files.whole_lines(chunks):
            if b"\0" in chunk:
                raise SourceError(f"{name} has a NUL in it: the file is torn", kind=FailureKind.BROKEN)
            if require_end:
                end.update(chunk)
            yield chunk.removeprefix(_UTF8_BOM) if first else chunk
            first = False
    except DamagedError as error:
        raise SourceError(f"{name} has {error}: is it a list of addresses?", kind=FailureKind.BROKEN) from error
    if require_end:
        end.check(name)


class Heading:
    """Looks for ``# domains: a, b`` in the first line of a text that passes."""

    def __init__(self) -> None:
        """Nothing has passed yet."""
        self._first = b""
        self._passed = False

    def through(self, chunks: Iterable[bytes]) -> Iterator[bytes]:
        """Let chunks of whole lines pass."""
        for chunk in chunks:
            if not self._passed:
                self._first, self._passed = chunk.partition(b"\n")[0], True
            yield chunk

    @property
    def domains(self) -> tuple[str, ...] | None:
        """The domains; None where the first line has none."""
        found = re.fullmatch(rb"#\s*domains:(.*)", self._first.strip())
        names = found[1].decode(errors="replace").replace(",", " ").split() if found else None
        return None if names is None else tuple(names)


class EndLine:
    """Checks that the last line is ``# end COUNT SHA256`` over the lines before it."""

    def __init__(self) -> None:
        """Start before the first line."""
        self._digest, self._count, self._last = hashlib.sha256(), 0, b""

    def update(self, lines: bytes) -> None:
        """Take whole lines."""
        cut = lines.rfind(b"\n", 0, -1) + 1
        for part in (self._last, lines[:cut]):
            self._digest.update(part)
            self._count += part.count(b"\n")
        self._last = lines[cut:]

    def check(self, name: str) -> None:
        """Raise SourceError where the text is not whole."""
        end = files.parse_end(self._last)
        if end is None:
            by_windows = files.parse_end(self._last.replace(b"\r\n", b"\n"))
            why = "its lines end in CR LF, and in LF alone is wanted" if by_windows else "it is not whole"
            raise SourceError(f"{name}: its last line is not “# end COUNT SHA256”: {why}")
        if end[0] != self._count:
            raise SourceError(f"{name}: its end line promises {end[0]} lines, and there are {self._count}")
        if end[1] != self._digest.hexdigest():
            raise SourceError(f"{name}: its lines do not match the digest in its end line")
