"""Verify a staged map through Postfix: it answers for every key written, and has no other key.

postmap may drop lines and exit 0, so neither its status nor its output proves that the index is right.
"""

from __future__ import annotations

import subprocess
from dataclasses import dataclass
from typing import TYPE_CHECKING

from syncagent.errors import PublishError, UnansweredError
from syncagent.files import atomic, pipeline, sorted_lines
from syncagent.postfix import commands, table_text

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

_LISTABLE = ("hash", "btree", "lmdb")
_MAX_UNANSWERED = 10_000


@dataclass(frozen=True, slots=True)
class ReadBack:
    """A staged map. ``config_directory`` is main.cf's; each postmap is killed after ``limit`` seconds."""

    map_type: str
    staged: Path
    spool: Path
    config_directory: Path
    limit: float

    def check(self, keys: Path) -> None:
        """Compare the keys of the map with ``keys``: sorted, one a line.

        hash, btree and lmdb list their keys, cdb does not; non-ASCII keys are asked for one by one, since each
        Postfix version folds them its own way; a texthash is parsed as Postfix parses it.

        Raises UnansweredError for keys that are not there, PublishError for keys that nobody wrote.
        """
        if self.map_type == "texthash":
            missing = _compare(keys, self._sorted(text_keys(self.staged)))
        elif self.map_type in _LISTABLE:
            missing = self._check_listing(keys)
        else:
            missing = self._unanswered(keys)
        if missing:
            raise UnansweredError(missing)

    def _check_listing(self, keys: Path) -> list[bytes]:
        with self._child("-s") as listing:
            everything = pipeline.write_plain(self.spool / "everything", _keys_of(listing.chunks()))
        if atomic.same(keys, everything):  # lmdb and btree list in our order
            return []
        everything = self._sorted(atomic.chunks_in(everything))
        if atomic.same(keys, everything):
            return []
        plain, foreign = self._by_alphabet(atomic.chunks_in(keys), "written")
        listed, listed_foreign = self._by_alphabet(atomic.chunks_in(everything), "listed")
        if _lines(listed_foreign) > _lines(foreign):
            raise PublishError("read back", "the index has keys that were not written")
        return _compare(plain, listed) + self._unanswered(foreign)

    def _unanswered(self, keys: Path) -> list[bytes]:
        """Look up each key; return those without an answer."""
        if not keys.stat().st_size:
            return []
        with keys.open("rb") as asked, self._child("-q", "-", stdin=asked.fileno()) as child:
            answered = pipeline.write_plain(self.spool / "answered", _keys_of(child.chunks()))
        return _compare(keys, answered)

    def _child(self, *options: str, stdin: int = subprocess.DEVNULL) -> pipeline.Child:
        command = commands.command(
            "postmap", *options, f"{self.map_type}:{self.staged}", directory=self.config_directory
        )
        return pipeline.Child(command, stdin, good=(0, 1), limit=self.limit)  # 1: not one key was found

    def _sorted(self, chunks: Iterable[bytes]) -> Path:
        with pipeline.Sorter(self.spool) as sorter:
            sorter.feed(chunks)
            return pipeline.write_plain(self.spool / "sorted", sorter.finish())

    def _by_alphabet(self, chunks: Iterable[bytes], name: str) -> tuple[Path, Path]:
        """Split lines into two files: those in ASCII and the others."""
        plain, foreign = self.spool / f"{name}-ascii", self.spool / f"{name}-others"
        with plain.open("wb") as ascii_file, foreign.open("wb") as other_file:
            for chunk in pipeline.whole_lines(chunks):
                if chunk.isascii():
                    ascii_file.write(chunk)
                else:
                    for line in chunk.splitlines(keepends=True):
                        (ascii_file if line.isascii() else other_file).write(line)
        return plain, foreign


def _compare(expected: Path, actual: Path) -> list[bytes]:
    """Return the keys of ``expected`` that ``actual`` lacks. Raises PublishError for keys that only ``actual`` has."""
    missing: list[bytes] = []
    with sorted_lines.differences(expected, actual) as chunks:
        for chunk in chunks:
            keys = chunk.removesuffix(b"\n").split(b"\n")
            unwritten = next((key for key in keys if key.startswith(b"\t")), None)
            if unwritten:
                key = unwritten[1:].decode(errors="backslashreplace")
                raise PublishError("read back", f"the index has a key that was not written: {key}")
            missing += keys
            if len(missing) > _MAX_UNANSWERED:
                raise PublishError("read back", f"the index lacks more than {_MAX_UNANSWERED} keys; is the disk full?")
    return missing


def _keys_of(chunks: Iterable[bytes]) -> Iterator[bytes]:
    """Yield chunks of keys, one a line, from chunks of ``key TAB OK`` lines."""
    for chunk in pipeline.whole_lines(chunks):
        yield chunk.replace(b"\tOK\n", b"\n")


def text_keys(staged: Path) -> Iterator[bytes]:
    """Yield the keys of a text, one a line, as they are spelled there."""
    with atomic.open_foreign(staged) as file:
        for _, line in table_text.logical_lines(atomic.lines_of(file)):
            parts = table_text.split(line)
            if parts and parts[1]:
                yield parts[0] + b"\n"


def _lines(path: Path) -> int:
    return sum(chunk.count(b"\n") for chunk in atomic.chunks_in(path))
