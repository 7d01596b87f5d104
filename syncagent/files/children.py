"""The child processes that run, so that no signal leaves one behind.

A signal handler that raises may do so at any point, also between the start of a child process and the statement that
remembers it. So the exception waits until the start has ended, and every child that runs is remembered here.
"""

from __future__ import annotations

import contextlib
import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Iterator


class _Start:
    """Whether the main thread starts a child process now, and the exception that waits for the end of that."""

    under_way = False
    waiting: BaseException | None = None


_running: set[subprocess.Popen[bytes]] = set()


def remember(process: subprocess.Popen[bytes]) -> None:
    """Count a process as running until its exit status was read."""
    _running.difference_update([other for other in list(_running) if other.returncode is not None])
    _running.add(process)


@contextlib.contextmanager
def starting() -> Iterator[None]:
    """Start and remember a child process in the block; what ``interrupt`` is called with meanwhile is raised after it.

    A thread that is not the main thread needs no delay, since signal handlers run in the main thread.
    """
    _Start.waiting = None
    _Start.under_way = threading.current_thread() is threading.main_thread()
    try:
        yield
    finally:
        _Start.under_way = False
        if _Start.waiting:
            raise _Start.waiting


def interrupt(error: BaseException) -> None:
    """Raise an exception, or let ``starting`` raise it if the main thread is in its block. For signal handlers."""
    if not _Start.under_way:
        raise error
    _Start.waiting = error


def kill_all() -> None:
    """Kill the child processes that still run, and wait for each."""
    for process in list(_running):
        if process.returncode is None:
            process.kill()
            process.wait()
