"""The standard streams: output that cannot be written is dropped, so that it changes neither the work nor its status.

Everything that prints (print, click, rich, traceback) goes through sys.stdout and sys.stderr, which `guard` replaces.
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

if TYPE_CHECKING:
    from collections.abc import Iterator

    from _typeshed import ReadableBuffer

PATIENCE = 1.0
"""Seconds that a reader may let a full pipe stand, in `not_waiting`, after `stop_waiting`, and for a log line."""


def guard() -> None:
    """Make descriptors 0 to 2 and their streams usable, whatever was inherited.

    Must run before any file is opened: a descriptor that is closed would be the next file's, and whatever the program,
    a library or a child writes to it would land in that file.
    """
    for descriptor in range(3):
        _open(descriptor)
    sys.stdin = _readable(sys.stdin)
    sys.stdout, sys.stderr = _guarded(sys.stdout), _guarded(sys.stderr)


@contextlib.contextmanager
def not_waiting() -> Iterator[None]:
    """Within the block drop output that nobody reads for PATIENCE seconds; elsewhere a slow reader is waited for."""
    stop_waiting()
    try:
        yield
    finally:
        for raw in _raws():
            raw.wait_again()


def stop_waiting() -> None:
    """Drop output that nobody reads for PATIENCE seconds, from now on."""
    for raw in _raws():
        raw.patience = PATIENCE


def finish() -> None:
    """Write what is buffered; say on stderr if output is missing, except to a reader that left, as head(1) does."""
    sys.stdout.flush()
    raw = _raw(sys.stdout)
    if raw and raw.error and raw.error.errno != errno.EPIPE:
        sys.stderr.write(f"syncagent: standard output is incomplete: {raw.error.strerror}\n")
    sys.stderr.flush()


def put(descriptor: int, octets: ReadableBuffer, patience: float | None) -> int:
    """Write at most PIPE_BUF octets once there is room for them; return how many were written.

    What poll(2) calls writable takes that many without blocking (pipe(7)), unless another writer is faster.
    Raise TimeoutError where there is no room within `patience` seconds (None: no limit), and OSError.
    """
    poll = select.poll()
    poll.register(descriptor, select.POLLOUT)
    while poll.poll(None if patience is None else patience * 1000):
        with contextlib.suppress(BlockingIOError):  # O_NONBLOCK, and another writer was faster
            return os.write(descriptor, memoryview(octets).cast("B")[: select.PIPE_BUF])
    raise TimeoutError(errno.ETIMEDOUT, "nobody reads it")


class _Guarded(io.FileIO):
    """Descriptor that takes everything: from the first error on it drops what is written, so that nothing has a gap."""

    patience: float | None = None
    error: OSError | None = None

    def wait_again(self) -> None:
        """Wait for a slow reader from now on, also for one that was too slow."""
        self.patience = None
        if isinstance(self.error, TimeoutError):
            self.error = None

    def write(self, octets: ReadableBuffer, /) -> int:
        """Write some of it, or drop all of it; return how many octets are done with."""
        if self.error is None:
            try:
                return put(self.fileno(), octets, self.patience)
            except OSError as error:
                self.error = error
        return memoryview(octets).nbytes


def _open(descriptor: int) -> None:
    """Open a closed descriptor on /dev/null, for children too. Those below it are open."""
    try:
        fcntl.fcntl(descriptor, fcntl.F_GETFD)
    except OSError:
        os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)  # noqa: FBT003 - it takes no keyword


def _readable(stream: TextIO | None) -> TextIO:
    """Return stdin, or an empty one where Python found it closed and has None."""
    return open(os.devnull, encoding="utf-8") if stream is None else stream  # noqa: PTH123 - a device


def _guarded(stream: TextIO | None) -> TextIO:
    """Return a stream that does not fail, on the same descriptor; on /dev/null where Python has None for a closed one.

    Its descriptor is never closed: it could be another file's before the last line is written.
    """
    if stream is None:
        return _endless(os.open(os.devnull, os.O_WRONLY), "utf-8")
    if not isinstance(stream, io.TextIOWrapper):  # a test's own, in memory
        return stream
    guarded = _endless(stream.fileno(), stream.encoding)
    guarded.reconfigure(line_buffering=stream.line_buffering, write_through=stream.write_through)
    return guarded


def _endless(descriptor: int, encoding: str) -> io.TextIOWrapper:
    """Return a stream that escapes what the encoding, such as that of the locale, does not have."""
    raw = _Guarded(descriptor, "wb", closefd=False)
    return io.TextIOWrapper(io.BufferedWriter(raw), encoding, "backslashreplace")


def _raw(stream: TextIO) -> _Guarded | None:
    raw = getattr(getattr(stream, "buffer", None), "raw", None)
    return raw if isinstance(raw, _Guarded) else None


def _raws() -> list[_Guarded]:
    return [raw for raw in map(_raw, (sys.stdout, sys.stderr)) if raw]
