"""The lock that says that an agent runs on a state directory: there is one, and ``status`` knows by it."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from syncagent.errors import LockBusyError
from syncagent.files import atomic as files
from syncagent.state.database import ledger_errors
from syncagent.state.status import AGENT_LOCK

if TYPE_CHECKING:
    from pathlib import Path

_PROBED = 1.0  # for so long another agent's lock is believed to be a mere look at it, by ``status``


class AgentLock:
    """Held by its file, which somebody may remove; who looks for it by its name then finds no agent."""

    def __init__(self, directory: Path) -> None:
        """Hold nothing yet."""
        self._path = directory / AGENT_LOCK
        self._held = contextlib.ExitStack()
        self._file: tuple[int, int] | None = None

    def take(self) -> None:
        """Take it, and let go of the file that it was before. Raises LockBusyError, and LedgerError."""
        directory = self._path.parent
        with contextlib.ExitStack() as taken, ledger_errors(directory):
            directory.mkdir(mode=0o750, parents=True, exist_ok=True)
            try:
                taken.enter_context(files.locked(self._path, _PROBED))
            except LockBusyError:
                raise LockBusyError(f"another agent is running on {directory}: it holds {AGENT_LOCK}") from None
            self._file = self._there()
            self.close()
            self._held = taken.pop_all()

    def is_lost(self) -> bool:
        """Tell whether its file is not there any more, or another, so that a second agent could begin."""
        there = self._there()
        return there is None or there != self._file

    def close(self) -> None:
        """Let go of it."""
        self._held.close()

    def _there(self) -> tuple[int, int] | None:
        try:
            found = self._path.stat()
        except OSError:
            return None
        return found.st_dev, found.st_ino
