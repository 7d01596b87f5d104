"""Sorted files: sorted lines, then an end line ``# end COUNT SHA256`` with count and digest of the lines before it."""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import subprocess
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING

from syncagent.errors import DamagedError, LedgerError
from syncagent.files.atomic import UnfitFileError, open_foreign, replacing
from syncagent.files.pipeline import CHUNK, Child, whole_lines

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

_END = re.compile(rb"# end (\d{1,18}) ([0-9a-f]{64})\n")
_END_ROOM = 128


@dataclass(frozen=True, slots=True)
class SortedFile:
    """A complete sorted file: number, SHA-256 (in hex) and size in octets of its lines, without the end line."""

    path: Path
    count: int
    digest: str
    size: int


def end_line(count: int, digest: str) -> bytes:
    """Return an end line for a list of ``count`` lines with this SHA-256 in hex."""
    return f"# end {count} {digest}\n".encode()


def parse_end(line: bytes) -> tuple[int, str] | None:
    """Parse an end line. Return (count, digest), None if it is not an end line."""
    found = _END.fullmatch(line)
    return (int(found[1]), found[2].decode()) if found else None


def write_sorted(path: Path, chunks: Iterable[bytes]) -> SortedFile:
    """Write sorted lines and the end line, and return the file. Chunks may end within a line. Raises OSError."""
    digest, count, size = hashlib.sha256(), 0, 0
    with replacing(path, 0o640) as file:
        for chunk in chunks:
            digest.update(chunk)
            count += chunk.count(b"\n")
            size += len(chunk)
            file.write(chunk)
        file.write(end_line(count, digest.hexdigest()))
    return SortedFile(path, count, digest.hexdigest(), size)


def verify(path: Path, digest: str | None = None) -> SortedFile:
    """Verify a sorted file against its end line, and against ``digest`` unless it is None. Return the file.

    Raises DamagedError if the file is missing, not a regular file, truncated or altered, and LedgerError if it cannot
    be read: that is no damage.
    """
    try:
        with open_foreign(path) as file:
            tail, size = _tail(file)
            end = parse_end(tail)
            if end is None:
                raise DamagedError(f"{path} has no end line: it is short")
            file.seek(0)
            found = _summed(file, size - len(tail))
    except (FileNotFoundError, NotADirectoryError, UnfitFileError) as error:
        raise DamagedError(f"{path} cannot be read: {error.strerror}") from error
    except OSError as error:
        raise LedgerError(f"{path} cannot be read: {error.strerror}") from error
    if found != end or digest not in (None, end[1]):
        raise DamagedError(f"{path} is not what was written: its lines do not match its digest")
    return SortedFile(path, *end, size - len(tail))


def has_end(path: Path) -> bool:
    """True if a file has an end line, so that it was not cut. Its lines are not verified. Raises OSError."""
    with open_foreign(path) as file:
        return parse_end(_tail(file)[0]) is not None


def _tail(file: IO[bytes]) -> tuple[bytes, int]:
    """Return the last line of a file if it may be an end line, and the size of the file in octets."""
    size = file.seek(0, os.SEEK_END)
    file.seek(max(0, size - _END_ROOM))
    last = file.read().rpartition(b"\n# end ")
    return b"# end " + last[2] if last[1] else _tail_of_empty(last[2]), size


def _tail_of_empty(tail: bytes) -> bytes:
    return tail if tail.startswith(b"# end ") else b""


def _summed(file: IO[bytes], left: int) -> tuple[int, str]:
    digest, count = hashlib.sha256(), 0
    while left and (chunk := file.read(min(CHUNK, left))):
        digest.update(chunk)
        count += chunk.count(b"\n")
        left -= len(chunk)
    return count, digest.hexdigest()


def chunks_of(file: SortedFile) -> Iterator[bytes]:
    """Yield the lines of a sorted file, without the end line, in chunks that may end within a line."""
    left = file.size
    with file.path.open("rb") as stream:
        while left and (chunk := stream.read(min(CHUNK, left))):
            left -= len(chunk)
            yield chunk


def size_of(file: SortedFile | Path) -> int:
    """Return the size in octets of a file, without the end line of a sorted file."""
    return file.size if isinstance(file, SortedFile) else file.stat().st_size


@contextlib.contextmanager
def differences(left: Path, right: SortedFile | Path) -> Iterator[Iterator[bytes]]:
    """Yield an iterator over the lines that are in only one of two sorted files, in chunks of whole lines (comm(1)).

    Lines of ``right`` start with a TAB. Raises LedgerError if a child process fails.
    """
    body = ["cat", str(right)]
    if isinstance(right, SortedFile):  # without its end line
        body = ["head", "-c", str(right.size), str(right.path)]
    with Child(body, subprocess.DEVNULL) as feed, Child(["comm", "-3", str(left), "-"], feed.stdout) as comm:
        yield whole_lines(comm.chunks())
