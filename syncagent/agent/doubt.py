"""The agent's part in doubt: the sign of life for the switch, and the time at which the next doubt ends."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from syncagent.postfix.doubt_table import LIMIT_OF_AGENT, Files

if TYPE_CHECKING:
    from collections.abc import Callable

    from syncagent.config.tables import Config
    from syncagent.model import SyncResult

_EVERY = 60.0
"""Seconds between two signs of life."""
_APART = 30.0
"""Least number of seconds between a run and the run that ends a doubt."""


class DoubtWatch:
    """Writes the sign of life from the worker's thread, and knows when a run without any source is due."""

    def __init__(self, report: Callable[[BaseException], None]) -> None:
        """``report`` receives the error of a sign of life that cannot be written."""
        self._report = report
        self._next_sign = 0.0
        self._due: float | None = None

    def limit(self, config: Config) -> float:
        """Return the seconds without a sign of life after which the agent counts as dead."""
        return config.postfix.doubt_dead or LIMIT_OF_AGENT

    def sign_of_life(self, config: Config) -> None:
        """Write the sign of life, once a minute, and sooner if postfix.doubt_dead is short."""
        if config.postfix.doubt_map is None or time.monotonic() < self._next_sign:
            return
        limit = self.limit(config)
        self._next_sign = time.monotonic() + min(_EVERY, limit / 4)
        try:
            Files(config.postfix.doubt_map).touch(time.time(), limit)
        except OSError as error:
            self._report(error)

    def ran(self, result: SyncResult | None, now: float) -> None:
        """Take the time at which the next doubt ends from the result of a run, None if the run raised.

        Where the table cannot be published, the next run is the scheduled one.
        """
        due = result.doubt_due if result and not result.doubt_error else None
        self._due = None if due is None else max(due, now + _APART)

    def wait(self, now: float) -> float:
        """Return the seconds until a run that ends a doubt is due; infinite if none is."""
        return float("inf") if self._due is None else self._due - now

    def needs_all(self, config: Config) -> bool:
        """True if the switch has fired: its doubt ends only with a run that asks every source."""
        return config.postfix.doubt_map is not None and Files(config.postfix.doubt_map).mark() is not None
