"""Verify by postmap(1) that a staged map has every key that was written, and no other.

postmap may drop lines and exit 0, so its exit status does not prove that the index is complete.
"""

from __future__ import annotations

import subprocess
from dataclasses import dataclass
from typing import TYPE_CHECKING

from syncagent.errors import PublishError, UnansweredError
from syncagent.files import atomic, pipeline, sorted_lines
from syncagent.postfix import commands, table_text

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from pathlib import Path

_LISTABLE = ("hash", "btree", "lmdb")
_MAX_UNANSWERED = 10_000


@dataclass(frozen=True, slots=True)
class ReadBack:
    """A staged map to verify.

    ``spool`` is a directory for temporary files, ``config_directory`` that of main.cf. Each postmap process is killed
    after ``limit`` seconds.
    """

    map_type: str
    staged: Path
    spool: Path
    config_directory: Path
    limit: float
    keys_of: Callable[[bytes], bytes] = table_text.RECIPIENTS.keys

    def check(self, keys: Path) -> None:
        """Compare the keys of the map with the file ``keys``: sorted, one a line.

        The keys of hash, btree and lmdb are listed. A cdb cannot list its keys, so each key is looked up and extra
        keys go unnoticed. Non-ASCII keys are looked up if the listing differs, since Postfix versions fold them
        differently. A texthash is parsed.

        Raises UnansweredError if the map lacks keys, PublishError if it has other keys or lacks more than 10,000, and
        LedgerError if a child process fails.
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
            everything = pipeline.write_plain(self.spool / "everything", self._keys_of(listing.chunks()))
        if atomic.same(keys, everything):  # lmdb and btree list in our order
            return []
        everything = self._sorted(atomic.chunks_in(everything))
        if atomic.same(keys, everything):
            return []
        plain, foreign = self._by_alphabet(atomic.chunks_in(keys), "written")
        listed, listed_foreign = self._by_alphabet(atomic.chunks_in(everything), "listed")
        if atomic.count_lines(listed_foreign) > atomic.count_lines(foreign):
            raise PublishError("read back", "the index has keys that were not written")
        return _compare(plain, listed) + self._unanswered(foreign)

    def _unanswered(self, keys: Path) -> list[bytes]:
        """Look up each key, and return the keys that the map lacks."""
        if not keys.stat().st_size:
            return []
        with keys.open("rb") as asked, self._child("-q", "-", stdin=asked.fileno()) as child:
            answered = pipeline.write_plain(self.spool / "answered", self._keys_of(child.chunks()))
        return _compare(keys, answered)

    def _keys_of(self, chunks: Iterable[bytes]) -> Iterator[bytes]:
        return map(self.keys_of, pipeline.whole_lines(chunks))

    def _child(self, *options: str, stdin: int = subprocess.DEVNULL) -> pipeline.Child:
        command = commands.command(
            "postmap", *options, f"{self.map_type}:{self.staged}", directory=self.config_directory
        )
        return pipeline.Child(command, stdin, good=(0, 1), limit=self.limit)  # 1: no key was found

    def _sorted(self, chunks: Iterable[bytes]) -> Path:
        with pipeline.Sorter(self.spool) as sorter:
            sorter.feed(chunks)
            return pipeline.write_plain(self.spool / "sorted", sorter.finish())

    def _by_alphabet(self, chunks: Iterable[bytes], name: str) -> tuple[Path, Path]:
        """Write the lines to two files in the spool, ASCII lines and others, and return their paths."""
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
    """Return the keys of ``expected`` that ``actual`` lacks.

    Raises PublishError if ``actual`` has other keys, or lacks more than 10,000.
    """
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


def text_keys(staged: Path) -> Iterator[bytes]:
    """Yield the keys of a text as spelled, one a line; lines without a value are skipped.

    Raises OSError if the text cannot be read.
    """
    with atomic.open_foreign(staged) as file:
        for _, line in table_text.logical_lines(atomic.lines_of(file)):
            parts = table_text.split(line)
            if parts and parts[1]:
                yield parts[0] + b"\n"
