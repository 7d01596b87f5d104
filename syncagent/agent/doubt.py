"""The agent's part in doubt: the sign of life for the switch, and the time at which the next doubt ends."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from syncagent.postfix.doubt_table import LIMIT_OF_AGENT, Files

if TYPE_CHECKING:
    from collections.abc import Callable

    from syncagent.config.tables import Config
    from syncagent.model import SyncResult
    from syncagent.postfix.doubt_table import Mark

_EVERY = 60.0
"""Seconds between two signs of life."""
_APART = 30.0
"""Least number of seconds between a run and the run that ends a doubt."""


class DoubtWatch:
    """Writes the sign of life from the worker's thread, and knows when a run without any source is due.

    There is no sign of life after a run that raised, as when another process keeps the lock: an agent that cannot run
    is as good as none.
    """

    def __init__(self, report: Callable[[BaseException], None]) -> None:
        """``report`` receives the error of a sign of life that cannot be written."""
        self._report = report
        self._next_look = 0.0
        self._due: float | None = None
        self._runs = True
        self._ran = 0.0
        self._mark: Mark | None = None

    def limit(self, config: Config) -> float:
        """Return the seconds without a sign of life after which the agent counts as dead."""
        return config.postfix.doubt_dead or LIMIT_OF_AGENT

    def look(self, config: Config) -> None:
        """Write the sign of life, and look for a mark of the switch and for entries of persons that end.

        It is done once a minute, and sooner if postfix.doubt_dead is short.
        """
        if config.postfix.doubt_map is None or time.monotonic() < self._next_look:
            return
        files, limit = Files(config.postfix.doubt_map), self.limit(config)
        self._next_look = time.monotonic() + min(_EVERY, limit / 4)
        try:
            if self._runs:
                files.touch(time.time(), limit)
            self._find_due(files)
        except OSError as error:
            self._report(error)

    def _find_due(self, files: Files) -> None:
        """Let a run be due at once for a mark that is new, and at the end of what a person put in doubt."""
        mark = files.mark()
        times = [entry.until for entry in files.by_hand() if entry.until > self._ran]
        times += [time.time()] if mark and mark != self._mark else []
        self._mark = mark
        self._due = min((moment for moment in (self._due, *times) if moment is not None), default=None)

    def ran(self, result: SyncResult | None, now: float) -> None:
        """Take the time at which the next doubt ends from the result of a run, None if the run raised.

        Where the table cannot be published, the next run is the scheduled one.
        """
        self._runs, self._ran = result is not None, now
        due = result.doubt_due if result and not result.doubt_error else None
        self._due = None if due is None else max(due, now + _APART)

    def wait(self, now: float) -> float:
        """Return the seconds until a run that ends a doubt is due; infinite if none is."""
        return float("inf") if self._due is None else self._due - now

    def needs_all(self, config: Config) -> bool:
        """True if the switch has fired: its doubt ends only with a run that asks every source."""
        return config.postfix.doubt_map is not None and Files(config.postfix.doubt_map).mark() is not None
