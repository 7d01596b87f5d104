"""How the texts of an answer end: a last line without a line feed may belong to a text that was cut."""

from __future__ import annotations

import codecs
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

MOST_OF_A_LINE = 4096
"""Maximum number of octets of an unfinished line that are kept."""
MOST_TEXTS = 10_000
"""Maximum number of texts whose ends are kept; what is kept is stored with the state of the source."""


class Endings:
    """The ends of the texts read so far, by name.

    ``unfinished`` has the last line of each text that does not end in a line feed. ``finished`` are the names of the
    others. Beyond MOST_TEXTS texts, no more are added.
    """

    def __init__(self) -> None:
        """Start without a text."""
        self.unfinished: dict[str, str] = {}
        self._finished: list[str] = []

    @property
    def finished(self) -> tuple[str, ...]:
        """The names of the texts that end in a line feed or are empty."""
        return tuple(self._finished)

    def through(self, chunks: Iterable[bytes], name: str) -> Iterator[bytes]:
        """Yield chunks of whole lines unchanged, and add the end of the text when they are exhausted."""
        last = b"\n"
        for chunk in chunks:
            last = chunk or last
            yield chunk
        if len(self.unfinished) + len(self._finished) < MOST_TEXTS:
            self._add(name, last[last.rfind(b"\n") + 1 :])

    def _add(self, name: str, line: bytes) -> None:
        if line:
            self.unfinished[name] = _text(line[:MOST_OF_A_LINE])
        else:
            self._finished.append(name)


def _text(line: bytes) -> str:
    """Return a line as text. A character of UTF-8 that is cut at the end is left out, other octets are escaped."""
    return codecs.getincrementaldecoder("utf-8")("backslashreplace").decode(line)
