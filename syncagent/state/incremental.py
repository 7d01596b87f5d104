"""Incremental answers: the last list without the lines of some keys, to which new entries are added.

Lines are those of a snapshot: the key is the second field. Only the deleted keys are in memory.
``vanished`` compares the outcome with the last list.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from syncagent.files import atomic, pipeline, sorted_lines
from syncagent.files.search import SortedLines
from syncagent.files.sorted_lines import SortedFile

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Sequence
    from pathlib import Path

_SAMPLE = 3


class Amendment:
    """The lines of ``base`` without deleted keys. ``spool`` is a directory that nothing else uses."""

    def __init__(self, base: SortedFile | Path, spool: Path) -> None:
        """Start with all lines of ``base``."""
        self._base, self._spool = base, spool
        self._void: set[bytes] = set()
        self._stay: Path | None = None
        self._written: Path | None = None

    def delete_keys(self, keys: Iterable[bytes]) -> None:
        """Delete the lines of these keys."""
        self._void.update(keys)

    def keep_only_keys(self, keys: Iterable[bytes]) -> None:
        """Delete the lines of all other keys."""
        with pipeline.Sorter(self._spool) as sorter:
            sorter.feed(key + b"\n" for key in keys)
            self._stay = pipeline.write_plain(self._spool / "retained", sorter.finish())

    def unknown(self, keys: Iterable[bytes]) -> set[bytes]:
        """Return those of the keys that no line of ``base`` has."""
        left = set(keys)
        for chunk in pipeline.whole_lines(self._chunks()):
            left.difference_update([line.split(b"\t", 2)[1] for line in chunk.splitlines()])
        return left

    def _chunks(self) -> Iterator[bytes]:
        if isinstance(self._base, SortedFile):
            return sorted_lines.chunks_of(self._base)
        return atomic.chunks_in(self._base)

    @property
    def lines(self) -> int:
        """The number of lines of ``base``."""
        return sum(chunk.count(b"\n") for chunk in self._chunks())

    def write(self) -> Path:
        """Write the remaining lines, sorted, once. Return the file; if nothing is deleted, this may be ``base``."""
        if self._written is None:
            self._written = self._write()
        return self._written

    def _write(self) -> Path:
        if not (isinstance(self._base, SortedFile) or self._void or self._stay):
            return self._base
        chunks = self._chunks()
        if self._void:
            chunks = (b"".join(_others(chunk, self._void)) for chunk in pipeline.whole_lines(chunks))
        stands = pipeline.write_plain(self._spool / "stands", chunks)
        if self._stay is None:
            return stands
        command = ["sort", "-t", "\t", "-k2,2", f"-S{pipeline.SORT_BUFFER}", "-T", str(self._spool), str(stands)]
        with pipeline.Child(command, pipeline.NOTHING) as by_key:
            retained = _retained(by_key.lines(), self._stay)
            with pipeline.Sorter(self._spool) as sorter:
                sorter.feed(retained)
                return pipeline.write_plain(self._spool / "retained-lines", sorter.finish())


def _others(chunk: bytes, void: Collection[bytes]) -> list[bytes]:
    return [line for line in chunk.splitlines(keepends=True) if line.split(b"\t", 2)[1] not in void]


def _retained(lines: Iterable[bytes], keys: Path) -> Iterator[bytes]:
    """Yield the lines, sorted by key, whose key is in the sorted file ``keys``."""
    with keys.open("rb") as stream:
        wanted = next(stream, None)
        for line in lines:
            key = line.split(b"\t", 2)[1] + b"\n"
            while wanted is not None and wanted < key:
                wanted = next(stream, None)
            if key == wanted:
                yield line


def vanished(last: SortedFile, now: Sequence[Path], limit: int, spool: Path) -> Iterator[tuple[str, str, str]]:
    """Yield address, key and label of addresses in ``last`` that none of the files ``now`` has, with escaped fields.

    At most ``limit`` addresses, spread evenly; an address may have more than one key. ``now`` has no end lines.
    """
    with pipeline.Child(["head", "-c", str(last.size), str(last.path)], pipeline.NOTHING) as lines:
        before = _addresses(lines, spool / "addresses-before")
    with pipeline.merged(now) as lines:
        after = _addresses(lines, spool / "addresses-now")
    with sorted_lines.differences(after, before) as chunks:
        gone = (line[1:] for chunk in chunks for line in chunk.splitlines() if line.startswith(b"\t") and line[1:])
        sample = _spread(gone, limit)
    with contextlib.closing(SortedLines(last.path)) as index:
        for address in sample:
            for line in index.starting_with(address + b"\t"):
                _, key, label = line.decode().split("\t")
                yield address.decode(), key, label


def _addresses(lines: pipeline.Child, path: Path) -> Path:
    """Write the first fields of sorted lines, each once."""
    with pipeline.Child(["cut", "-f1"], lines.stdout) as cut, pipeline.Child(["uniq"], cut.stdout) as fields:
        return pipeline.write_plain(path, fields.chunks())


def _spread(items: Iterable[bytes], limit: int) -> list[bytes]:
    """Return at most ``2 * limit - 1`` of the items, at equal distances; all if there are no more."""
    sample: list[bytes] = []
    distance = 1
    for number, item in enumerate(items):
        if number % distance == 0:
            sample.append(item)
        if len(sample) == 2 * limit:
            sample, distance = sample[::2], 2 * distance
    return sample


def differences(old: SortedFile, new: SortedFile, explained: Collection[bytes], spool: Path) -> tuple[int, list[str]]:
    """Compare two snapshots by address and key. Return the number of differences, and up to 3 addresses as examples.

    Keys in ``explained``, labels and rejects are not compared.
    """
    before, after = (
        pipeline.write_plain(spool / name, _identities(file, explained))
        for name, file in (("before", old), ("after", new))
    )
    count, sample = 0, list[str]()
    with sorted_lines.differences(before, after) as chunks:
        for chunk in chunks:
            lines = chunk.splitlines()
            count += len(lines)
            sample += [line.strip(b"\t").partition(b"\t")[0].decode() for line in lines[: _SAMPLE - len(sample)]]
    return count, sample


def _identities(file: SortedFile, explained: Collection[bytes]) -> Iterator[bytes]:
    for chunk in pipeline.whole_lines(sorted_lines.chunks_of(file)):
        fields = (line.split(b"\t", 2) for line in chunk.splitlines())
        yield b"".join(
            [b"%b\t%b\n" % (field[0], field[1]) for field in fields if field[0] and field[1] not in explained]
        )
