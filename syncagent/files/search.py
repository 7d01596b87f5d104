"""Look-up of single addresses in sorted files by bisection, without reading the whole files."""

from __future__ import annotations

import contextlib
import mmap
from typing import TYPE_CHECKING, Self

from syncagent.addresses import spelled_alike
from syncagent.files import atomic

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path
    from types import TracebackType


class SortedLines:
    """An open file of lines sorted by octets, with or without an end line."""

    def __init__(self, path: Path) -> None:
        """Map the file into memory. Raises OSError as open_foreign does."""
        with atomic.open_foreign(path) as file:
            file.seek(0, 2)
            self._octets = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) if file.tell() else b""
        last = self._octets.rfind(b"\n", 0, max(len(self._octets) - 1, 0)) + 1
        self._end = last if self._octets[last : last + 6] == b"# end " else len(self._octets)

    def starting_with(self, prefix: bytes) -> Iterator[bytes]:
        """Yield every line that starts with ``prefix``, without its line feed."""
        low, high = 0, self._end
        while low < high:
            start = self._octets.rfind(b"\n", low, (low + high) // 2) + 1 or low
            start = max(start, low)
            line = self._line(start)
            if line < prefix:
                low = start + len(line) + 1
            else:
                high = start
        while low < self._end and (line := self._line(low)).startswith(prefix):
            yield line
            low += len(line) + 1

    def _line(self, start: int) -> bytes:
        end = self._octets.find(b"\n", start)
        return bytes(self._octets[start : end if end >= 0 else len(self._octets)])

    def close(self) -> None:
        """Unmap the file."""
        if isinstance(self._octets, mmap.mmap):
            self._octets.close()


class SnapshotIndex:
    """An index of addresses in the snapshots of several sources, as a context manager."""

    def __init__(self, snapshots: Mapping[str, Path]) -> None:
        """Open the snapshots. A snapshot that cannot be opened counts as empty."""
        self._files: dict[str, SortedLines] = {}
        for name, path in snapshots.items():
            with contextlib.suppress(OSError):
                self._files[name] = SortedLines(path)

    def __enter__(self) -> Self:
        """Return the index."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the files."""
        for file in self._files.values():
            file.close()

    def entries(self, address: bytes) -> Iterator[tuple[str, bytes, bytes]]:
        """Yield (source, key, label) for each entry of an address. Key and label are escaped.

        Entries in a domain that Postfix takes for the same are included.
        """
        for name, file in self._files.items():
            for spelled in spelled_alike(address.decode()):
                for line in file.starting_with(f"{spelled}\t".encode()):
                    _, key, label = line.split(b"\t")
                    yield name, key, label

    def sources(self, address: bytes) -> tuple[str, ...]:
        """Return the names of the sources that list an address."""
        return tuple(dict.fromkeys(name for name, _, _ in self.entries(address)))
