"""The agent's part in the age of data: a run at the moment at which data becomes outdated, without a fetch."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from syncagent.model import SyncResult


class AgeWatch:
    """Knows when the next source's data becomes outdated. The run at that time asks no source."""

    def __init__(self) -> None:
        """Start without data."""
        self._due: float | None = None

    def ran(self, result: SyncResult | None) -> None:
        """Take the time from the result of a run; None if the run raised, which is tried again by itself."""
        reports = result.sources if result else ()
        times = (report.outdated_at for report in reports if report.outdated_at and not report.outdated)
        self._due = min(times, default=None)

    def wait(self, now: float) -> float:
        """Return the seconds until a run is due; infinite if none is. ``now`` is in seconds since the epoch."""
        return float("inf") if self._due is None else self._due - now
