"""When what failed for the time being is tried again: with a growing delay, at most as long as its own interval."""

from __future__ import annotations

import math
from dataclasses import dataclass

FIRST = 5.0
"""Seconds before the first retry; each further one waits twice as long."""


@dataclass(frozen=True, slots=True)
class _Retry:
    names: frozenset[str]
    failures: int
    at: float


class Retries:
    """What is to be tried again, and when, by time.monotonic(). The key "" is the run as a whole.

    What a run that came to nothing was to ask is owed: the next run asks it, whenever that is, until one has.
    """

    def __init__(self) -> None:
        """Nothing is, yet."""
        self._retries: dict[str, _Retry] = {}
        self._owed: frozenset[str] = frozenset()

    def failed(self, key: str, names: frozenset[str], every: float, now: float) -> None:
        """Note a failure: ``names`` are due again after a delay that grows up to ``every`` seconds."""
        failures = self._retries[key].failures + 1 if key in self._retries else 1
        delay = min(every, FIRST * 2 ** min(failures - 1, 20))
        self._retries[key] = _Retry(names, failures, now + delay)

    def went_well(self, key: str) -> None:
        """Forget its failures."""
        self._retries.pop(key, None)

    def owe(self, names: frozenset[str]) -> None:
        """Note that a run came to nothing that was to ask these."""
        self._owed |= names

    def asked(self, names: frozenset[str]) -> None:
        """Note that a run asked these, whatever they said."""
        self._owed -= names

    def clear(self) -> None:
        """Forget all of them."""
        self._retries.clear()
        self._owed = frozenset()

    def wait(self, now: float) -> float:
        """Give for how many seconds nothing is due; infinite where nothing is to be tried again."""
        return min((retry.at for retry in self._retries.values()), default=math.inf) - now

    def due(self, now: float) -> frozenset[str]:
        """Give the sources that a run now is to ask again; none of them where only publishing is to be tried."""
        due = [retry for retry in self._retries.values() if retry.at <= now]
        return self._owed.union(*(retry.names for retry in due))
