"""Retries after temporary failures, with exponential backoff up to the interval of what failed."""

from __future__ import annotations

import math
from dataclasses import dataclass

FIRST = 5.0
"""Seconds before the first retry; the delay doubles with each further one."""


@dataclass(frozen=True, slots=True)
class _Retry:
    names: frozenset[str]
    failures: int
    at: float


class Retries:
    """Retries that are due, and when, by time.monotonic(). The key "" stands for the run as a whole.

    The sources of a run that failed as a whole are owed: each further run asks them, until one has completed.
    """

    def __init__(self) -> None:
        """Start without retries."""
        self._retries: dict[str, _Retry] = {}
        self._owed: frozenset[str] = frozenset()

    def failed(self, key: str, names: frozenset[str], every: float, now: float) -> None:
        """Record a failure: the sources ``names`` are due after a delay that grows up to ``every`` seconds."""
        failures = self._retries[key].failures + 1 if key in self._retries else 1
        delay = min(every, FIRST * 2 ** min(failures - 1, 20))
        self._retries[key] = _Retry(names, failures, now + delay)

    def succeeded(self, key: str) -> None:
        """Reset the backoff of a key."""
        self._retries.pop(key, None)

    def owe(self, names: frozenset[str]) -> None:
        """Record that a run failed before these sources were asked."""
        self._owed |= names

    def asked(self, names: frozenset[str]) -> None:
        """Record that a run asked these sources, with whatever result."""
        self._owed -= names

    def clear(self) -> None:
        """Remove all retries."""
        self._retries.clear()
        self._owed = frozenset()

    def wait(self, now: float) -> float:
        """Return the seconds until the next retry; infinite if there is none, negative if it is overdue."""
        return min((retry.at for retry in self._retries.values()), default=math.inf) - now

    def due(self, now: float) -> frozenset[str]:
        """Return the sources to ask again in a run now; empty if only publishing is retried."""
        due = [retry for retry in self._retries.values() if retry.at <= now]
        return self._owed.union(*(retry.names for retry in due))
