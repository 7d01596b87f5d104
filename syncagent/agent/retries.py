"""Retries after temporary failures, with exponential backoff up to the interval of the source or run."""

from __future__ import annotations

import math
from dataclasses import dataclass

FIRST = 5.0
"""Seconds before the first retry. The delay doubles with each further retry."""


@dataclass(frozen=True, slots=True)
class _Retry:
    names: frozenset[str]
    failures: int
    at: float


class Retries:
    """The pending retries by key: the name of a source, or "" for the run as a whole. Times are of time.monotonic().

    The sources of a run that failed as a whole are owed: each further run fetches them, until a run has done so.
    """

    def __init__(self) -> None:
        """Start without retries."""
        self._retries: dict[str, _Retry] = {}
        self._owed: frozenset[str] = frozenset()

    def failed(self, key: str, names: frozenset[str], every: float, now: float) -> None:
        """Record a failure: the sources ``names`` are due after a delay, which doubles up to ``every`` seconds."""
        failures = self._retries[key].failures + 1 if key in self._retries else 1
        delay = min(every, FIRST * 2 ** min(failures - 1, 20))
        self._retries[key] = _Retry(names, failures, now + delay)

    def succeeded(self, key: str) -> None:
        """Remove the retry of a key, which resets its backoff."""
        self._retries.pop(key, None)

    def owe(self, names: frozenset[str]) -> None:
        """Record that a run that was to fetch these sources failed as a whole."""
        self._owed |= names

    def asked(self, names: frozenset[str]) -> None:
        """Record that a run fetched these sources, successfully or not."""
        self._owed -= names

    def clear(self) -> None:
        """Remove all retries, and the owed sources."""
        self._retries.clear()
        self._owed = frozenset()

    def wait(self, now: float) -> float:
        """Return the seconds until the next retry; infinite without a retry, negative if it is overdue."""
        return min((retry.at for retry in self._retries.values()), default=math.inf) - now

    def due(self, now: float) -> frozenset[str]:
        """Return the sources that a run now must fetch: owed ones, and those of due retries."""
        due = [retry for retry in self._retries.values() if retry.at <= now]
        return self._owed.union(*(retry.names for retry in due))
