"""The lock of a running agent: at most one agent runs on a state directory. ``status`` probes the lock."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from syncagent.errors import LockBusyError
from syncagent.files import atomic as files
from syncagent.state.database import ledger_errors
from syncagent.state.status import AGENT_LOCK

if TYPE_CHECKING:
    from pathlib import Path

_PROBED = 1.0
"""Seconds to wait for the lock: a probe by ``status`` holds it for less, another agent for longer."""


class AgentLock:
    """Exclusive lock on ``agent.lock``.

    If the file is unlinked the lock no longer protects the directory; ``is_lost()`` detects that.
    """

    def __init__(self, directory: Path) -> None:
        """Prepare the lock of a state directory; ``take()`` acquires it."""
        self._path = directory / AGENT_LOCK
        self._held = contextlib.ExitStack()
        self._file: tuple[int, int] | None = None

    def take(self) -> None:
        """Acquire the lock, then release the lock held before, if any, whose file is gone.

        Raises LockBusyError if another agent holds the lock, and LedgerError if the state directory cannot be used.
        """
        directory = self._path.parent
        with contextlib.ExitStack() as taken, ledger_errors(directory):
            directory.mkdir(mode=0o750, parents=True, exist_ok=True)
            try:
                taken.enter_context(files.locked(self._path, _PROBED))
            except LockBusyError:
                raise LockBusyError(f"another agent is running on {directory}: it holds {AGENT_LOCK}") from None
            self._file = self._current()
            self.close()
            self._held = taken.pop_all()

    def is_lost(self) -> bool:
        """True if ``agent.lock`` was removed or replaced, so that a second agent could start."""
        current = self._current()
        return current is None or current != self._file

    def close(self) -> None:
        """Release the lock."""
        self._held.close()

    def _current(self) -> tuple[int, int] | None:
        try:
            status = self._path.stat()
        except OSError:
            return None
        return status.st_dev, status.st_ino
