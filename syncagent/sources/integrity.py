"""Integrity checks of a list from a file or server: NUL octets, overlong lines, and the end line if required."""

from __future__ import annotations

import hashlib
import re
from typing import TYPE_CHECKING

from syncagent.errors import DamagedError, FailureKind, SourceError
from syncagent.files import pipeline, sorted_lines

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

_UTF8_BOM = b"\xef\xbb\xbf"


def whole_text(chunks: Iterable[bytes], name: str, *, require_end: bool) -> Iterator[bytes]:
    """Yield the text in chunks of whole lines, without a byte order mark at its beginning.

    The last line may lack its line feed. ``require_end``: the last line must be ``# end COUNT SHA256``. Raises
    SourceError if the text is damaged or incomplete; the caller must then discard the chunks yielded before. ``name``
    is the name of the text in messages.
    """
    end = EndLine()
    first = True
    try:
        for chunk in pipeline.whole_lines(chunks):
            if b"\0" in chunk:
                text = f"{name} contains a NUL octet: it is damaged, or not a list of addresses"
                raise SourceError(text, kind=FailureKind.BROKEN)
            if require_end:
                end.update(chunk)
            yield chunk.removeprefix(_UTF8_BOM) if first else chunk
            first = False
    except DamagedError as error:
        raise SourceError(f"{name} contains {error}: is it a list of addresses?", kind=FailureKind.BROKEN) from error
    if require_end:
        end.check(name)


class Heading:
    """The heading of a text: its first line, if that is ``# domains: a, b``."""

    def __init__(self) -> None:
        """Start without a line; ``through`` reads it."""
        self._line = b""
        self._is_read = False

    def through(self, chunks: Iterable[bytes]) -> Iterator[bytes]:
        """Yield chunks of whole lines unchanged, and store the first line."""
        for chunk in chunks:
            if not self._is_read:
                self._line, self._is_read = chunk.partition(b"\n")[0], True
            yield chunk

    @property
    def domains(self) -> tuple[str, ...] | None:
        """The domains in the heading; None if the text has no heading. Valid once the first chunk was yielded."""
        match = re.fullmatch(rb"#\s*domains:(.*)", self._line.strip())
        return None if match is None else tuple(match[1].decode(errors="replace").replace(",", " ").split())


class EndLine:
    """The line count and SHA-256 digest of a text, to verify its last line ``# end COUNT SHA256``."""

    def __init__(self) -> None:
        """Start without a line."""
        self._digest, self._count, self._last = hashlib.sha256(), 0, b""

    def update(self, lines: bytes) -> None:
        """Count and hash whole lines, except the last line so far, which may be the end line."""
        cut = lines.rfind(b"\n", 0, -1) + 1
        for part in (self._last, lines[:cut]):
            self._digest.update(part)
            self._count += part.count(b"\n")
        self._last = lines[cut:]

    def check(self, name: str) -> None:
        """Raise SourceError, naming ``name``, if the end line is missing or does not match the lines before it."""
        end = sorted_lines.parse_end(self._last)
        if end is None:
            has_crlf = sorted_lines.parse_end(self._last.replace(b"\r\n", b"\n")) is not None
            why = "its lines end in CR LF; they must end in LF" if has_crlf else "the list is incomplete"
            raise SourceError(f'{name}: the last line is not "# end COUNT SHA256": {why}')
        count, digest = end
        if count != self._count:
            raise SourceError(f"{name}: the end line counts {count} lines, but the list has {self._count}")
        if digest != self._digest.hexdigest():
            raise SourceError(f"{name}: the lines do not match the SHA-256 digest in the end line")
