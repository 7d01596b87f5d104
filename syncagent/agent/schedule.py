"""The schedule: when each source is due. It does no run itself, but puts a token into the agent's queue."""

from __future__ import annotations

import hashlib
import socket
import threading
import time
from collections import defaultdict
from datetime import UTC, datetime
from typing import TYPE_CHECKING, TypeAlias

from apscheduler.events import EVENT_JOB_ERROR
from apscheduler.schedulers.background import BackgroundScheduler
from apscheduler.triggers.combining import OrTrigger
from apscheduler.triggers.cron import CronTrigger
from apscheduler.triggers.interval import IntervalTrigger

if TYPE_CHECKING:
    from collections.abc import Callable

    from apscheduler.events import JobExecutionEvent

    from syncagent.config.tables import Config

Trigger: TypeAlias = IntervalTrigger | CronTrigger | OrTrigger
_STEP = 5.0
"""Seconds by which the clock may deviate from time.monotonic() before it counts as set."""


def offset(config: Config, host: str) -> float:
    """Return an offset in seconds, from 0 to 2**32, that spreads the runs of many hosts.

    It is constant for a host name and state directory.
    """
    digest = hashlib.sha256(f"{host} {config.state.directory}".encode()).digest()
    return int.from_bytes(digest[:8]) / (1 << 32)


def triggers(config: Config, spread: float) -> dict[str, tuple[Trigger, frozenset[str]]]:
    """Return the triggers by name, each with the sources that are due when it fires.

    The times of an interval lie on a fixed grid, shifted by ``spread`` seconds modulo the interval. Neither runs nor
    restarts shift them.
    """
    names: dict[float | None, set[str]] = defaultdict(set)
    for name in config.sources:
        names[config.every(name)].add(name)
    made: dict[str, tuple[Trigger, frozenset[str]]] = {}
    for every, due in names.items():
        if every is None:
            made["cron"] = _cron(str(config.schedule.cron)), frozenset(due)
        else:
            start = datetime.fromtimestamp(spread % every, UTC)
            made[f"every {every:g}"] = IntervalTrigger(seconds=every, start_date=start, timezone=UTC), frozenset(due)
    return made


def _cron(text: str) -> CronTrigger | OrTrigger:
    """Return the trigger of a crontab(5) schedule, in UTC.

    If both day of month and day of week are restricted, either match suffices.
    """
    minute, hour, day, month, weekday = text.split()
    if day.startswith("*") or weekday == "*":
        return CronTrigger.from_crontab(text, timezone=UTC)
    either = ((day, "*"), ("*", weekday))
    fields = [f"{minute} {hour} {days} {month} {weekdays}" for days, weekdays in either]
    return OrTrigger([CronTrigger.from_crontab(line, timezone=UTC) for line in fields])


class Schedule:
    """The scheduler thread and its jobs, one per trigger."""

    def __init__(self, put: Callable[[frozenset[str], str], None], failed: Callable[[BaseException], None]) -> None:
        """Start the thread. ``put`` receives the sources that are due and the reason, ``failed`` exceptions of jobs."""
        self._put = put
        defaults = {"misfire_grace_time": None, "coalesce": True, "max_instances": 1}
        self._scheduler = BackgroundScheduler(timezone=UTC, job_defaults=defaults)

        def listen(event: JobExecutionEvent) -> None:
            failed(event.exception)

        self._scheduler.add_listener(listen, EVENT_JOB_ERROR)
        self._offset = time.time() - time.monotonic()
        self._config: Config | None = None
        self._lock = threading.Lock()  # shared by the worker, in set(), and the supervisor, in look_at_clock()
        self._scheduler.start()

    def set(self, config: Config) -> None:
        """Replace all jobs by those of a configuration."""
        with self._lock:
            self._config = config
            self._schedule(config)

    def _schedule(self, config: Config) -> None:
        self._scheduler.remove_all_jobs()
        for name, (trigger, due) in triggers(config, offset(config, socket.gethostname())).items():
            self._scheduler.add_job(self._put, trigger, args=(due, "schedule"), id=name)

    def look_at_clock(self) -> bool:
        """Reschedule all jobs if the clock was set, and return whether it was.

        A clock set back would otherwise delay the next run. All sources become due, since the clock may have skipped
        the time of any source.
        """
        now = time.time() - time.monotonic()
        with self._lock:
            if abs(now - self._offset) < _STEP or self._config is None:
                return False
            self._offset = now
            self._schedule(self._config)
            self._put(frozenset(self._config.sources), "the clock was set")
            return True

    def next_time(self) -> float | None:
        """Return the time at which the next job is due, in seconds since the epoch; None without a job."""
        times = [job.next_run_time for job in self._scheduler.get_jobs() if job.next_run_time]
        return min(times).timestamp() if times else None

    def stop(self) -> None:
        """End the scheduler without waiting for jobs. Must not be called by a signal handler: it acquires locks."""
        self._scheduler.shutdown(wait=False)
