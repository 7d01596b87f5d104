"""The standard streams. Output that cannot be written is dropped, so that the program goes on with the same status.

All output (print, click, rich, traceback) goes through sys.stdout and sys.stderr, which ``guard`` replaces.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import io
import os
import select
import sys
from typing import TYPE_CHECKING, TextIO

from syncagent.redaction import redacted

if TYPE_CHECKING:
    from collections.abc import Iterator

    from _typeshed import ReadableBuffer

PATIENCE = 1.0
"""Timeout in seconds for writing to a full pipe: within ``not_waiting``, after ``stop_waiting``, for a log line."""


def guard() -> None:
    """Open closed descriptors 0 to 2 on /dev/null, and replace sys.stdout and sys.stderr by streams that do not fail.

    Call it before any file is opened. Otherwise that file may get a closed descriptor's number, and output of the
    program, a library or a child process would be written to it.
    """
    for descriptor in range(3):
        _open(descriptor)
    sys.stdin = _readable(sys.stdin)
    sys.stdout, sys.stderr = _guarded(sys.stdout), _guarded(sys.stderr)


@contextlib.contextmanager
def not_waiting() -> Iterator[None]:
    """Drop output within the block if a pipe stays full for PATIENCE seconds. After the block, writes block again."""
    stop_waiting()
    try:
        yield
    finally:
        for raw in _raws():
            raw.wait_again()


def stop_waiting() -> None:
    """Drop output from now on if a pipe stays full for PATIENCE seconds."""
    for raw in _raws():
        raw.patience = PATIENCE


def finish() -> None:
    """Flush both streams. Report lost standard output on stderr, unless the reader closed the pipe, as head(1) does."""
    sys.stdout.flush()
    raw = _raw(sys.stdout)
    if raw and raw.error and raw.error.errno != errno.EPIPE:
        sys.stderr.write(f"syncagent: standard output is incomplete: {raw.error.strerror}\n")
    sys.stderr.flush()


def put(descriptor: int, octets: ReadableBuffer, patience: float | None) -> int:
    """Write at most PIPE_BUF octets once there is room for them. Return the number of octets written.

    A pipe that poll(2) reports as writable takes PIPE_BUF octets without blocking (pipe(7)), unless another process
    writes first. Raises TimeoutError if there is no room within ``patience`` seconds (None: no limit), or OSError.
    """
    poll = select.poll()
    poll.register(descriptor, select.POLLOUT)
    while poll.poll(None if patience is None else patience * 1000):
        with contextlib.suppress(BlockingIOError):  # O_NONBLOCK, and another process wrote first
            return os.write(descriptor, memoryview(octets).cast("B")[: select.PIPE_BUF])
    raise TimeoutError(errno.ETIMEDOUT, "nobody reads it")


class _Guarded(io.FileIO):
    """A raw stream whose writes do not fail. After the first error it drops all output, so that there is no gap."""

    patience: float | None = None
    error: OSError | None = None

    def wait_again(self) -> None:
        """Block on a full pipe from now on, also after a timeout has dropped output."""
        self.patience = None
        if isinstance(self.error, TimeoutError):
            self.error = None

    def write(self, octets: ReadableBuffer, /) -> int:
        """Write some octets, or drop all. Return the number of octets written or dropped."""
        if self.error is None:
            try:
                return put(self.fileno(), octets, self.patience)
            except OSError as error:
                self.error = error
        return memoryview(octets).nbytes


def _open(descriptor: int) -> None:
    """Open a closed descriptor on /dev/null, inheritable. All lower descriptors must be open."""
    try:
        fcntl.fcntl(descriptor, fcntl.F_GETFD)
    except OSError:
        os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)  # noqa: FBT003 - it takes no keyword


def _readable(stream: TextIO | None) -> TextIO:
    """Return the stream, or an empty stream if it is None: Python sets sys.stdin to None if it was closed."""
    return open(os.devnull, encoding="utf-8") if stream is None else stream  # noqa: PTH123 - a device


def _guarded(stream: TextIO | None) -> TextIO:
    """Return a stream that does not fail, on the same descriptor; on /dev/null if the stream is None (was closed).

    It never closes its descriptor, since another file could then get the number while output is still written. A stream
    in memory is returned as it is.
    """
    if stream is None:
        return _endless(os.open(os.devnull, os.O_WRONLY), "utf-8")
    if not isinstance(stream, io.TextIOWrapper):  # a stream in memory, of a test
        return stream
    guarded = _endless(stream.fileno(), stream.encoding, _Redacting if stream is sys.stderr else io.TextIOWrapper)
    guarded.reconfigure(line_buffering=stream.line_buffering, write_through=stream.write_through)
    return guarded


class _Redacting(io.TextIOWrapper):
    """A text stream for messages: secrets are redacted, as in a traceback, whose text nobody has made."""

    def write(self, text: str, /) -> int:
        """Write a text without secrets. Return its length."""
        super().write(redacted(text))
        return len(text)


def _endless(descriptor: int, encoding: str, kind: type[io.TextIOWrapper] = io.TextIOWrapper) -> io.TextIOWrapper:
    """Return a text stream on a descriptor that escapes characters that the encoding lacks."""
    raw = _Guarded(descriptor, "wb", closefd=False)
    return kind(io.BufferedWriter(raw), encoding, "backslashreplace")


def _raw(stream: TextIO) -> _Guarded | None:
    raw = getattr(getattr(stream, "buffer", None), "raw", None)
    return raw if isinstance(raw, _Guarded) else None


def _raws() -> list[_Guarded]:
    return [raw for raw in map(_raw, (sys.stdout, sys.stderr)) if raw]
