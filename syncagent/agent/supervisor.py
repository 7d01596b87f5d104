"""Looks after the agent from a thread of its own, and tells systemd that all is well as long as that is so.

sd_notify(3) is a datagram to a socket. WATCHDOG=1 is sent only while the worker has passed a station of its line
within the time that the station may take: a run that hangs is not kept alive.
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
"""Seconds between two looks."""
_LISTENS = 1.0
"""Seconds: a systemd that does not take a line within this is not told it; nothing waits for it any longer."""


def tell_systemd(*lines: str) -> None:
    """Send lines such as READY=1 to systemd; nothing where it does not listen."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address:
        return
    kind = socket.SOCK_DGRAM | socket.SOCK_CLOEXEC
    with socket.socket(socket.AF_UNIX, kind) as notify, contextlib.suppress(OSError):  # who has gone is not told
        notify.settimeout(_LISTENS)
        notify.sendto("\n".join(lines).encode(), f"\0{address[1:]}" if address.startswith("@") else address)


def watchdog_seconds() -> float | None:
    """Give how often systemd wants to hear from us; None where it does not."""
    try:
        ours = int(os.environ.get("WATCHDOG_PID", os.getpid())) == os.getpid()
        microseconds = int(os.environ.get("WATCHDOG_USEC", "0"))
    except ValueError:
        return None
    return microseconds / 1e6 if ours and microseconds > 0 else None


class Progress:
    """When the worker last got anywhere, and how long it may take to the next station."""

    def __init__(self) -> None:
        """Begin with a worker that is fine."""
        self._until = time.monotonic()
        self.passed(60)

    def passed(self, allowed: float) -> None:
        """Note a station; the next one is due in ``allowed`` seconds."""
        self._until = time.monotonic() + allowed

    def is_made(self) -> bool:
        """Tell whether the worker is where it should be."""
        return time.monotonic() <= self._until


class Keeper(threading.Thread):
    """Calls ``look`` a few times a second, and tells systemd's watchdog that the worker gets on, while it does.

    Nothing that is called here may wait for the file system, or a dead mount would end an agent that works.
    """

    def __init__(self, progress: Progress, look: Callable[[], None], failed: Callable[[BaseException], None]) -> None:
        """``failed`` is told what ``look`` raises; it is called again all the same."""
        super().__init__(name="keeper", daemon=True)
        self._progress, self._look, self._failed = progress, look, failed
        self._end = threading.Event()

    def run(self) -> None:
        """Look after it until ``stop``."""
        every, told = watchdog_seconds(), 0.0
        while not self._end.wait(_TICK):
            try:
                self._look()
            except Exception as error:  # noqa: BLE001 - a thread that dies in silence keeps nobody
                self._failed(error)
            now = time.monotonic()
            if every and now - told >= every / 3 and self._progress.is_made():
                told = now
                tell_systemd("WATCHDOG=1")

    def stop(self) -> None:
        """End it."""
        self._end.set()
        self.join(1.0)
