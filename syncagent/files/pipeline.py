"""Streams of lines through child processes (sort, cut, comm), so that no list is ever in memory.

Sorting is by octets (``LC_ALL=C``) with a bounded buffer.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import tempfile
import threading
from typing import IO, TYPE_CHECKING, Self

from syncagent.addresses import MAX_LINE
from syncagent.errors import DamagedError, LedgerError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from pathlib import Path

CHUNK = 1 << 18
SORT_BUFFER = "32M"
NOTHING = subprocess.DEVNULL
_C_LOCALE = {"LC_ALL": "C"}


class Child:
    """A child process: killed if its block is left by an exception, else waited for and its exit status checked."""

    def __init__(
        self,
        command: Sequence[str],
        stdin: IO[bytes] | int,
        *,
        good: Sequence[int] = (0,),
        limit: float | None = None,
    ) -> None:
        """Start ``command`` in the C locale; its output is read from ``lines`` or ``chunks``.

        ``good`` are the exit statuses that mean success; after ``limit`` seconds it is killed, which is a failure.
        """
        self._name, self._good = command[0], good
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 - closed in __exit__
        environment = {**os.environ, **_C_LOCALE}
        self.process = subprocess.Popen(
            command, stdin=stdin, stdout=subprocess.PIPE, stderr=self._errors, env=environment
        )
        self._timer = threading.Timer(limit, self.process.kill) if limit else None
        if self._timer:
            self._timer.daemon = True
            self._timer.start()

    @property
    def stdout(self) -> IO[bytes]:
        """The child's output."""
        assert self.process.stdout is not None  # noqa: S101 - for the type checker: it is a pipe
        return self.process.stdout

    def chunks(self) -> Iterator[bytes]:
        """Yield the output in chunks."""
        while chunk := self.stdout.read(CHUNK):
            yield chunk

    def lines(self) -> Iterator[bytes]:
        """Yield the output line by line."""
        return iter(self.stdout)

    def __enter__(self) -> Self:
        """Return itself."""
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Wait for its end, or kill it. Raise LedgerError if it failed."""
        if kind is not None:
            self.process.kill()  # first: whoever is blocked writing to it goes on
        with contextlib.suppress(OSError):
            if self.process.stdin:
                self.process.stdin.close()
        self.stdout.close()
        status = self.process.wait()
        if self._timer:
            self._timer.cancel()
        self._errors.seek(0)
        said = self._errors.read(2000).decode(errors="backslashreplace").strip()
        self._errors.close()
        if kind in {None, BrokenPipeError} and status not in self._good:
            raise LedgerError(f"{self._name} failed ({status}): {said or 'no message'}")

    def kill(self) -> None:
        """Kill it, from any thread; its block still has to be left."""
        self.process.kill()
        self.process.wait()


class Sorter(Child):
    """``sort -u``: lines in by ``write``, sorted lines out after ``finish``."""

    def __init__(self, spool: Path) -> None:
        """Start it; what does not fit the buffer goes to ``spool``."""
        super().__init__(["sort", "-u", f"-S{SORT_BUFFER}", "-T", str(spool)], subprocess.PIPE)
        assert self.process.stdin is not None  # noqa: S101 - for the type checker: it is a pipe
        self.write = self.process.stdin.write

    def feed(self, lines: Iterable[bytes]) -> None:
        """Write many lines."""
        for chunk in joined_lines(lines):
            self.write(chunk)

    def finish(self) -> Iterator[bytes]:
        """Yield the sorted lines in chunks; nothing can be written after this."""
        assert self.process.stdin is not None  # noqa: S101 - for the type checker: it is a pipe
        self.process.stdin.close()
        return self.chunks()


def merged(paths: Sequence[Path]) -> Child:
    """Start ``sort -m`` over sorted files. Their end lines come along, out of order: the reader skips them."""
    return Child(["sort", "-m", *map(str, paths)] if paths else ["true"], subprocess.DEVNULL)


@contextlib.contextmanager
def first_fields(paths: Sequence[Path]) -> Iterator[Iterator[bytes]]:
    """Yield the first fields of the lines of sorted files, merged, in chunks of whole lines.

    A line without a TAB, such as an end line, comes whole and out of order.
    """
    with merged(paths) as both, Child(["cut", "-f1"], both.stdout) as cut:
        yield whole_lines(cut.chunks())


def joined_lines(lines: Iterable[bytes], size: int = CHUNK) -> Iterator[bytes]:
    """Yield lines joined to chunks, so that writing them costs little."""
    held: list[bytes] = []
    room = size
    for line in lines:
        held.append(line)
        room -= len(line)
        if room < 0:
            yield b"".join(held)
            held, room = [], size
    if held:
        yield b"".join(held)


def whole_lines(chunks: Iterable[bytes]) -> Iterator[bytes]:
    """Yield chunks that end with the end of a line (except a last line that has none).

    Raise DamagedError for a line of over a megabyte: no list has one, and memory must not grow with it.
    """
    rest: list[bytes] = []  # joined once: chunks may be single octets
    size = 0
    for chunk in chunks:
        end = chunk.rfind(b"\n") + 1
        if end:
            yield b"".join([*rest, chunk[:end]])
            rest, size = [], 0
        rest.append(chunk[end:])
        size += len(chunk) - end
        if size > MAX_LINE:
            raise DamagedError(f"a line of over {MAX_LINE} octets")
    if size:
        yield b"".join(rest)


def write_plain(path: Path, chunks: Iterable[bytes]) -> Path:
    """Write a file of this run's spool: no end line, no fsync, since nothing of it outlives the run."""
    with path.open("wb") as file:
        file.writelines(chunks)
    return path
