"""The agent's part in removals: it wakes when a waiting removal falls due, and asks the sources that owe a look."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from syncagent.state.status import Status

_APART = 60.0
"""Least number of seconds between two runs for the same cause, such as a run that failed."""


class RemovalWatch:
    """Knows when the next waiting removal is decided, and which sources are to be asked for a confirming look then."""

    def __init__(self) -> None:
        """Start without a removal; ``ran`` takes them from the status."""
        self._due: float | None = None
        self._looks: dict[str, float] = {}

    def ran(self, status: Status | None, now: float) -> None:
        """Take the times from the status after a run, None if it could not be read: the run is then repeated.

        A removal that was due in that run waits for the scheduled runs.
        """
        if status is None:
            self._due = None if self._due is None else max(self._due, now + _APART)
            self._looks = {name: max(at, now + _APART) for name, at in self._looks.items()}
            return
        due = status.removals_due
        self._due = due if due is not None and due > now else None
        self._looks = {name: at if at > now else now + _APART for name, at in status.looks.items()}

    def wait(self, now: float) -> float:
        """Return the seconds until a run for a removal is due; infinite if none is."""
        times = [*self._looks.values(), *([] if self._due is None else [self._due])]
        return min(times, default=float("inf")) - now

    def due(self, now: float) -> frozenset[str]:
        """Return the names of the sources whose confirming look is due."""
        return frozenset(name for name, at in self._looks.items() if at <= now)
