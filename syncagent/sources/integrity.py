"""Integrity checks of a list from a file or server: NUL octets, overlong lines, and the end line if required."""

from __future__ import annotations

import datetime as dt
import hashlib
import re
from typing import TYPE_CHECKING

from syncagent.errors import DamagedError, FailureKind, SourceError, printable
from syncagent.files import pipeline, sorted_lines
from syncagent.model import END_OF_TIME, Dates
from syncagent.sources import binary

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

_UTF8_BOM = b"\xef\xbb\xbf"
HEADING_LINES = 10
"""Number of lines at the beginning of a text among which its heading is looked for."""
_FIELD = re.compile(rb"#\s*(domains|made|expires):\s*(.*)")
_RFC3339 = re.compile(
    r"[0-9]{4}-[0-9]{2}-[0-9]{2}[Tt ][0-9]{2}:[0-9]{2}:[0-9]{2}(\.[0-9]{1,9})?([Zz]|[+-][0-9]{2}:[0-9]{2})"
)
_LEAP_SECOND = re.compile(r"^(.{17})60")
_SHOWN = 60
_FIRST = 86400.0
_BEGINNING = 64
"""Number of octets by which a file that is no text is recognized."""


def whole_text(chunks: Iterable[bytes], name: str, *, require_end: bool) -> Iterator[bytes]:
    """Yield the text in chunks of whole lines, without a byte order mark at its beginning.

    The last line may lack its line feed. ``require_end``: the last line must be ``# end COUNT SHA256``. Raises
    SourceError if the text is damaged or incomplete; the caller must then discard the chunks yielded before. ``name``
    is the name of the text in messages.
    """
    end = EndLine()
    first = True
    try:
        for chunk in pipeline.whole_lines(_text_only(chunks, name)):
            if require_end:
                end.update(chunk)
            yield chunk.removeprefix(_UTF8_BOM) if first else chunk
            first = False
    except DamagedError as error:
        raise SourceError(f"{name} contains {error}: is it a list of addresses?", kind=FailureKind.BROKEN) from error
    if require_end:
        end.check(name)


def _text_only(chunks: Iterable[bytes], name: str) -> Iterator[bytes]:
    """Yield the chunks. Raises SourceError, which names what the file is, if it is no text."""
    beginning = b""
    for chunk in chunks:
        if len(beginning) < _BEGINNING:
            beginning += chunk[:_BEGINNING]
            if kind := binary.kind_of(beginning):
                raise SourceError(f"{name} {kind}", kind=FailureKind.BROKEN)
        if b"\0" in chunk:
            raise SourceError(f"{name} {binary.kind_with_nul(name, beginning)}", kind=FailureKind.BROKEN)
        yield chunk


class Heading:
    """The heading of a text: the comments in its first lines, up to HEADING_LINES of them.

    ``# domains: a, b`` has the domains that the text is for. ``# made: TIME`` and ``# expires: TIME`` (RFC 3339) say
    when it was made and when it expires; they count only in a format that has comments. The properties are valid once
    the first chunk of lines that does not belong to the heading was yielded.
    """

    def __init__(self, name: str, *, has_comments: bool = True) -> None:
        """Start without a line; ``through`` reads them. ``name`` is the name of the text in messages."""
        self._name, self._most = name, HEADING_LINES if has_comments else 1
        self._has_comments = has_comments
        self._read = 0
        self._fields: dict[str, bytes] = {}

    def through(self, chunks: Iterable[bytes]) -> Iterator[bytes]:
        """Yield chunks of whole lines unchanged, and store the heading. Raises SourceError if a date is malformed."""
        for chunk in chunks:
            if self._read < self._most:
                for line in chunk.removesuffix(b"\n").split(b"\n", self._most):
                    self._add(line.strip())
            yield chunk

    def _add(self, line: bytes) -> None:
        """Store a line, unless the heading has ended."""
        if self._read == self._most:
            return
        self._read += 1
        if line and not line.startswith(b"#"):
            self._read = self._most
        elif field := _FIELD.fullmatch(line):
            self._add_field(field[1].decode(), field[2])

    def _add_field(self, name: str, text: bytes) -> None:
        """Store a field; of several with domains the first counts. Raises SourceError if a date is malformed."""
        if name in self._fields and name != "domains" and self._has_comments:
            message = f'{self._name}: "# {name}:" is in the first lines twice: keep one of them'
            raise SourceError(message, kind=FailureKind.BROKEN)
        self._fields.setdefault(name, text)
        if name != "domains":
            self._moment(name)

    @property
    def domains(self) -> tuple[str, ...] | None:
        """The domains in the heading; None if it has none."""
        text = self._fields.get("domains")
        return None if text is None else tuple(text.decode(errors="replace").replace(",", " ").split())

    @property
    def dates(self) -> Dates:
        """The dates in the heading. Raises SourceError if the text expires before it is made."""
        dates = Dates(made=self._moment("made"), expires=self._moment("expires"))
        if dates.made and dates.expires and dates.expires <= dates.made:
            text = f'{self._name}: "# expires:" is not after "# made:": it would be outdated from the start'
            raise SourceError(text, kind=FailureKind.BROKEN)
        return dates

    def _moment(self, name: str) -> float:
        """Return the date of a line of the heading in seconds since the epoch, 0 without one. Raises SourceError."""
        text = self._fields.get(name)
        if text is None or not self._has_comments:
            return 0.0
        moment = parse_rfc3339(text.decode(errors="replace"))
        if moment is None:
            shown = printable(text.decode(errors="replace"), _SHOWN)
            remedy = f'write it as "# {name}: 2026-11-28T14:05:00Z" (RFC 3339)'
            message = f'{self._name}: "# {name}: {shown}" is not a time: {remedy}'
            raise SourceError(message, kind=FailureKind.BROKEN)
        return moment


def earliest(dates: Iterable[Dates]) -> tuple[float, float]:
    """Return the earliest ``made`` and the earliest ``expires`` of several texts, 0 if none of them has it."""
    texts = list(dates)
    made = min((text.made for text in texts if text.made), default=0.0)
    return made, min((text.expires for text in texts if text.expires), default=0.0)


def parse_rfc3339(text: str) -> float | None:
    """Return a date and time of RFC 3339 (5.6) in seconds since the epoch, None if it is malformed or of no use.

    A leap second counts as the second before it. Of no use is a time before 1970-01-02 or after 9999-12-29.
    """
    if not _RFC3339.fullmatch(text):
        return None
    try:
        moment = dt.datetime.fromisoformat(_LEAP_SECOND.sub(r"\g<1>59", text.upper())).timestamp()
    except (ValueError, OverflowError):
        return None
    return moment if _FIRST <= moment < END_OF_TIME else None


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
