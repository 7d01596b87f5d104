"""Streams of lines through child processes such as sort(1), cut(1) and comm(1), so that no list is in memory.

Sorting is by octets (``LC_ALL=C``), with a buffer of limited size.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import tempfile
import threading
from itertools import pairwise
from operator import eq
from typing import IO, TYPE_CHECKING, Any, Self

from syncagent.addresses import MAX_LINE
from syncagent.errors import DamagedError, LedgerError
from syncagent.files import children

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from pathlib import Path

CHUNK = 1 << 18
SORT_BUFFER = "32M"
NOTHING = subprocess.DEVNULL
_C_LOCALE = {"LC_ALL": "C"}


class Process(subprocess.Popen[bytes]):
    """A child process that is remembered while it runs, and whose start no signal disturbs."""

    def __init__(self, command: Sequence[str], **options: Any) -> None:  # noqa: ANN401 - those of Popen
        """Start the command. Raises OSError if it cannot be started."""
        with children.starting():
            super().__init__(command, **options)
            children.remember(self)


class Child:
    """A child process, as a context manager. An exception in its block kills it; else its exit status is checked."""

    def __init__(
        self,
        command: Sequence[str],
        stdin: IO[bytes] | int,
        *,
        good: Sequence[int] = (0,),
        limit: float | None = None,
    ) -> None:
        """Start ``command`` in the C locale. Read its output with ``lines`` or ``chunks``.

        ``good`` are the exit statuses of success. After ``limit`` seconds the child is killed, which is a failure.
        Raises OSError if it cannot be started.
        """
        self._name, self._good = command[0], good
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 - closed in __exit__
        environment = {**os.environ, **_C_LOCALE}
        self.process = Process(command, stdin=stdin, stdout=subprocess.PIPE, stderr=self._errors, env=environment)
        self._timer = threading.Timer(limit, self.process.kill) if limit else None
        if self._timer:
            self._timer.daemon = True
            self._timer.start()

    @property
    def stdout(self) -> IO[bytes]:
        """The pipe with the child's standard output."""
        assert self.process.stdout is not None  # noqa: S101 - for the type checker: it is a pipe
        return self.process.stdout

    def chunks(self) -> Iterator[bytes]:
        """Yield the output in chunks of at most CHUNK octets."""
        while chunk := self.stdout.read(CHUNK):
            yield chunk

    def lines(self) -> Iterator[bytes]:
        """Return an iterator over the lines of the output."""
        return iter(self.stdout)

    def __enter__(self) -> Self:
        """Return the child."""
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Wait for the child; if the block raised, kill it first.

        Raises LedgerError if the exit status is not one of ``good``, unless the block raised an error other than
        BrokenPipeError.
        """
        if kind is not None:
            self.process.kill()  # first: this unblocks a thread that is writing to it
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
        """Kill the child and wait for it. Any thread may call this; the block must still be left."""
        self.process.kill()
        self.process.wait()


class Sorter(Child):
    """A sort(1) process. ``write`` takes lines, ``finish`` returns them sorted, each once."""

    def __init__(self, spool: Path, *, unique: bool = True) -> None:
        """Start sort(1), with its temporary files in ``spool``. Without ``unique`` repeated lines stay."""
        options = ["-u"] if unique else []
        super().__init__(["sort", *options, f"-S{SORT_BUFFER}", "-T", str(spool)], subprocess.PIPE)
        assert self.process.stdin is not None  # noqa: S101 - for the type checker: it is a pipe
        self.write = self.process.stdin.write

    def feed(self, lines: Iterable[bytes]) -> None:
        """Write lines, each with its line feed."""
        for chunk in joined_lines(lines):
            self.write(chunk)

    def finish(self) -> Iterator[bytes]:
        """Close the input, and return an iterator over the sorted lines in chunks. No ``write`` may follow."""
        assert self.process.stdin is not None  # noqa: S101 - for the type checker: it is a pipe
        self.process.stdin.close()
        return self.chunks()


class Repeats:
    """A counter of sorted lines, and of those of them that repeat the line before."""

    def __init__(self) -> None:
        """Start at 0."""
        self.lines = self.repeated = 0

    def once(self, chunks: Iterable[bytes]) -> Iterator[bytes]:
        """Yield the lines, each once, and count them. Chunks may end within a line."""
        last = b""
        for chunk in whole_lines(chunks):
            lines = chunk.removesuffix(b"\n").split(b"\n")
            self.lines += len(lines)
            if lines[0] == last or any(map(eq, lines, lines[1:])):
                first = [line for before, line in pairwise([last, *lines]) if line != before]
                self.repeated += len(lines) - len(first)
                yield b"".join([line + b"\n" for line in first])
            else:
                yield chunk
            last = lines[-1]


def merged(paths: Sequence[Path]) -> Child:
    """Return a ``sort -m`` process over sorted files.

    Its output also has their end lines, out of order, which the caller must skip.
    """
    return Child(["sort", "-m", *map(str, paths)] if paths else ["true"], subprocess.DEVNULL)


@contextlib.contextmanager
def first_fields(paths: Sequence[Path]) -> Iterator[Iterator[bytes]]:
    """Yield an iterator over the first fields of the lines of sorted files, merged, in chunks of whole lines.

    A line without a TAB, such as an end line, is not cut, and may be out of order.
    """
    with merged(paths) as both, Child(["cut", "-f1"], both.stdout) as cut:
        yield whole_lines(cut.chunks())


def joined_lines(lines: Iterable[bytes], size: int = CHUNK) -> Iterator[bytes]:
    """Yield the lines joined into chunks of about ``size`` octets, which take fewer writes."""
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
    """Yield the input in chunks of whole lines. A last line without a line feed is yielded as it is.

    Raises DamagedError at a line of more than MAX_LINE octets, to limit the memory used.
    """
    rest: list[bytes] = []  # a list, joined only once, since chunks may be single octets
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
    """Write chunks to a file and return its path. Without end line or fsync: for files in a spool."""
    with path.open("wb") as file:
        file.writelines(chunks)
    return path
