"""The supervisor thread: it does the agent's periodic checks, and resets systemd's watchdog.

It sends WATCHDOG=1 only while the worker reaches each step of a run within the time allowed for it, so that systemd
restarts an agent whose run hangs. Messages are datagrams to a socket, as in sd_notify(3).
"""

from __future__ import annotations

import contextlib
import os
import socket
import threading
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

_TICK = 0.2
"""Seconds between two calls of ``look``."""
_LISTENS = 1.0
"""Timeout in seconds for a message to systemd. After that the message is lost."""


def tell_systemd(*lines: str) -> None:
    """Send variables such as READY=1 to systemd, if it supervises this process. Errors of sending are ignored."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address:
        return
    kind = socket.SOCK_DGRAM | socket.SOCK_CLOEXEC
    with socket.socket(socket.AF_UNIX, kind) as notify, contextlib.suppress(OSError):  # systemd may be gone
        notify.settimeout(_LISTENS)
        notify.sendto("\n".join(lines).encode(), f"\0{address[1:]}" if address.startswith("@") else address)


def watchdog_seconds() -> float | None:
    """Return the watchdog interval in seconds; None if systemd expects no WATCHDOG=1 of this process.

    See sd_watchdog_enabled(3).
    """
    try:
        ours = int(os.environ.get("WATCHDOG_PID", os.getpid())) == os.getpid()
        microseconds = int(os.environ.get("WATCHDOG_USEC", "0"))
    except ValueError:
        return None
    return microseconds / 1e6 if ours and microseconds > 0 else None


class Progress:
    """The deadline by which the worker must reach the next step of a run."""

    def __init__(self) -> None:
        """Allow 60 seconds for the first step."""
        self._until = time.monotonic()
        self.passed(60)

    def passed(self, allowed: float) -> None:
        """Record a step. The next step must be reached within ``allowed`` seconds."""
        self._until = time.monotonic() + allowed

    def is_made(self) -> bool:
        """True if the deadline has not passed."""
        return time.monotonic() <= self._until


class Supervisor(threading.Thread):
    """A thread that calls ``look`` five times a second, and resets systemd's watchdog while the worker progresses.

    ``look`` must not touch the file system: a dead mount would block this thread, and systemd would end the agent.
    """

    def __init__(self, progress: Progress, look: Callable[[], None], failed: Callable[[BaseException], None]) -> None:
        """``failed`` receives exceptions of ``look``, which is called again nevertheless."""
        super().__init__(name="supervisor", daemon=True)
        self._progress, self._look, self._failed = progress, look, failed
        self._end = threading.Event()

    def run(self) -> None:
        """Call ``look`` and reset the watchdog until ``stop()`` is called."""
        interval, sent = watchdog_seconds(), 0.0
        while not self._end.wait(_TICK):
            try:
                self._look()
            except Exception as error:  # noqa: BLE001 - this thread must survive every fault; it is logged
                self._failed(error)
            now = time.monotonic()
            if interval and now - sent >= interval / 3 and self._progress.is_made():
                sent = now
                tell_systemd("WATCHDOG=1")

    def stop(self) -> None:
        """Stop the thread; wait one second at most for it to end."""
        self._end.set()
        self.join(1.0)
