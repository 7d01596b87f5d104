"""When it is time: the grid, cron, each source by its own, and a clock that is set."""

import socket
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import patch

import pytest
import time_machine

from syncagent.agent import schedule, supervisor
from syncagent.agent.retries import FIRST, Retries
from syncagent.agent.schedule import Schedule, offset, triggers
from syncagent.config import load as configuration
from syncagent.config.tables import Config
from tests.support.programs import allowed, wait_until

START = datetime(2026, 11, 24, 12, 0, 0, 250_000, tzinfo=UTC)
"""A Tuesday."""


def load(directory: Path, schedule: str, **sources: str) -> Config:
    """Load a configuration with this schedule and, by their names, sources with these lines of their own."""
    tables = [f'[sources.{name}]\ntype = "file"\npath = "x"\n{own}\n' for name, own in (sources or {"a": ""}).items()]
    file = directory / "syncagent.toml"
    file.write_text(
        f'[postfix]\nmap = "lmdb:{directory}/map"\nrelay_domains = ["example.com"]\n'
        f'[state]\ndirectory = "{directory}/state"\n[schedule]\n{schedule}\n{"".join(tables)}',
        "utf-8",
    )
    return configuration.load(file)


def fire_times(config: Config, start: datetime, count: int, spread: float = 0.0) -> list[datetime]:
    """Give the times at which the one trigger of a configuration is due."""
    ((trigger, _),) = triggers(config, spread).values()
    found: list[datetime] = []
    last, now = None, start
    for _ in range(count):
        last = trigger.get_next_fire_time(last, now)
        found.append(last)
        now = last + timedelta(microseconds=1)
    return found


def test_each_source_by_its_own_interval(tmp_path: Path) -> None:
    """Sources with the same interval are due together, others apart."""
    config = load(tmp_path, 'every = "5m"', a="", b='every = "5m"', ldap='every = "2s"', api='every = "1h"')
    due = {name: names for name, (_, names) in triggers(config, 0).items()}
    assert due == {"every 300": {"a", "b"}, "every 2": {"ldap"}, "every 3600": {"api"}}


def test_cron_and_an_interval(tmp_path: Path) -> None:
    """With cron, the sources that have no interval of their own are due by it."""
    config = load(tmp_path, 'cron = "*/5 * * * *"', a="", ldap='every = "2s"')
    due = {name: names for name, (_, names) in triggers(config, 0).items()}
    assert due == {"cron": {"a"}, "every 2": {"ldap"}}
    alone = load(tmp_path, 'cron = "*/5 * * * *"')
    assert [at.minute for at in fire_times(alone, START, 3)] == [5, 10, 15]


def test_the_grid_does_not_drift(tmp_path: Path) -> None:
    """However often and whenever it is started again, its times are on the same grid, an interval apart."""
    config = load(tmp_path, 'every = "5m"')
    spread = offset(config, "mx2.example.com")
    seen = set()
    for restart in range(50):
        times = fire_times(config, START + timedelta(seconds=97.3 * restart), 4, spread)
        assert {(after - before).total_seconds() for before, after in pairwise(times)} == {300}
        assert (times[0] - START - timedelta(seconds=97.3 * restart)).total_seconds() <= 300
        seen |= {round(at.timestamp() % 300, 3) for at in times}
    assert len(seen) == 1


def test_a_fleet_is_spread(tmp_path: Path) -> None:
    """Hosts, and directories on one host, are spread over the interval, each at the same place for ever."""
    config = load(tmp_path, 'every = "5m"')
    places = [offset(config, f"mx{number}.example.com") % 300 for number in range(1000)]
    assert places == [offset(config, f"mx{number}.example.com") % 300 for number in range(1000)]
    tenths = Counter(int(place // 30) for place in places)
    assert min(tenths.values()) > 60
    assert max(tenths.values()) < 150
    (tmp_path / "other").mkdir()
    assert offset(load(tmp_path / "other", 'every = "5m"'), "mx0") != offset(config, "mx0")


MON, TUE, WED, THU, FRI, SAT, SUN = range(7)


@pytest.mark.parametrize(
    ("weekday", "days"),
    [
        ("0", {SUN}),
        ("7", {SUN}),
        ("sun", {SUN}),
        ("1", {MON}),
        ("6", {SAT}),
        ("1-5", {MON, TUE, WED, THU, FRI}),
        ("mon-fri", {MON, TUE, WED, THU, FRI}),
        ("5-7", {FRI, SAT, SUN}),
        ("0,3", {SUN, WED}),
        ("MON,Thu", {MON, THU}),
        ("*/2", {SUN, TUE, THU, SAT}),
        ("*/3", {SUN, WED, SAT}),
        ("1-7/3", {MON, THU, SUN}),
        ("mon-fri/2,sun", {MON, WED, FRI, SUN}),
        ("*", set(range(7))),
    ],
)
def test_days_of_the_week_are_those_of_crontab(tmp_path: Path, weekday: str, days: set[int]) -> None:
    """0 and 7 are Sunday, and */2 begins with it, as in crontab(5) and unlike in the scheduler's own reckoning."""
    config = load(tmp_path, f'cron = "30 3 * * {weekday}"')
    times = fire_times(config, START, 14)
    assert {at.weekday() for at in times} == days
    assert {(at.hour, at.minute, at.utcoffset()) for at in times} == {(3, 30, timedelta(0))}


def test_either_kind_of_day_will_do(tmp_path: Path) -> None:
    """Where the day of the month and that of the week are both given, either will do, as in crontab(5)."""
    times = fire_times(load(tmp_path, 'cron = "0 3 13 * 5"'), START, 8)
    assert all(at.day == 13 or at.weekday() == FRI for at in times)
    assert any(at.day == 13 and at.weekday() != FRI for at in times)
    assert any(at.day != 13 for at in times)


@contextmanager
def scheduled(config: Config, told: list[tuple[float, frozenset[str]]]) -> Iterator[Schedule]:
    """Have the real scheduler run, and note what is due when."""
    faults: list[BaseException] = []
    made = Schedule(lambda due, _: told.append((time.monotonic(), due)), faults.append)
    try:
        made.set(config)
        yield made
    finally:
        made.stop()
    assert not faults


def looked_after(made: Schedule, seconds: float) -> int:
    """Look at the clock as the supervisor does, and count how often it was set."""
    end, found = time.monotonic() + seconds, 0
    while time.monotonic() < end:
        found += made.look_at_clock()
        time.sleep(0.1)
    return found


def test_a_clock_that_is_set(tmp_path: Path) -> None:
    """A clock that goes back and forth by an hour makes neither a storm nor a gap: what is due each second stays so."""
    told: list[tuple[float, frozenset[str]]] = []
    with (
        time_machine.travel(START, tick=True) as clock,
        scheduled(load(tmp_path, 'every = "1h"', a="", fast='every = "1s"'), told) as made,
    ):
        assert looked_after(made, 1.2) == 0
        for by in (-3600, 3600, 3600, -3600):
            begin = len(told)
            clock.shift(by)
            assert looked_after(made, 2.3) == 1, "it is noticed, once"
            fast = [at for at, due in told[begin:] if "fast" in due]
            assert 1 <= len(fast) <= 4, f"set by {by}"
        slow = [due for _, due in told if "a" in due]
        assert len(slow) == 4, "each time once, whether the time that it was due at was jumped over or not"
        gaps = [after[0] - before[0] for before, after in pairwise(told)]
        assert max(gaps) < allowed(2.5)


@pytest.mark.parametrize("by", [3600, -3600, 86400])
def test_a_time_that_was_jumped_over_is_made_up(tmp_path: Path, by: int) -> None:
    """Where the clock was set all sources are due once, at once: by cron as well, and whichever way it was set."""
    told: list[tuple[float, frozenset[str]]] = []
    config = load(tmp_path, 'cron = "30 12 * * *"', a="", rare='every = "12h"')
    with time_machine.travel(START, tick=True) as clock, scheduled(config, told) as made:
        assert not made.look_at_clock()
        clock.shift(by)
        assert made.look_at_clock()
        assert [due for _, due in told] == [{"a", "rare"}]
        assert not made.look_at_clock()
        following = made.next_time()
        assert following is not None
        assert 0 < following - time.time() <= 86400
    assert len(told) == 1


def test_what_is_due_in_an_hour_stays_on_its_grid(tmp_path: Path) -> None:
    """However the clock is set, the next time is never further off than the interval."""
    told: list[tuple[float, frozenset[str]]] = []
    with time_machine.travel(START, tick=True) as clock, scheduled(load(tmp_path, 'every = "1h"'), told) as made:
        for by in (0, -3600, 3600, 7200, -86400, 86400 * 365):
            clock.shift(by)
            made.look_at_clock()
            following = made.next_time()
            assert following is not None
            assert 0 <= following - time.time() <= 3600, f"set by {by}"


def test_a_clock_that_is_slewed_is_not_set(tmp_path: Path) -> None:
    """What NTP does to a clock bit by bit is no reason for anything."""
    told: list[tuple[float, frozenset[str]]] = []
    with time_machine.travel(START, tick=True) as clock, scheduled(load(tmp_path, 'every = "1h"'), told) as made:
        for _ in range(4):
            clock.shift(1)
            assert not made.look_at_clock()


def test_another_schedule_replaces_the_old_one(tmp_path: Path) -> None:
    """What is set anew has nothing of what was set before."""
    told: list[tuple[float, frozenset[str]]] = []
    with scheduled(load(tmp_path, 'every = "1s"'), told) as made:
        assert wait_until(lambda: bool(told))
        made.set(load(tmp_path, 'every = "1h"', b=""))
        count = len(told)
        time.sleep(1.3)
        assert len(told) == count
        following = made.next_time()
        assert following is not None
        assert following > time.time() + 1 or following < time.time() + 3600


def test_the_faults_of_the_scheduler_are_told(tmp_path: Path) -> None:
    """A fault in what the scheduler runs, which it would keep to itself, is told, and it goes on."""
    faults: list[BaseException] = []

    def put(_due: frozenset[str], _why: str) -> None:
        raise RuntimeError("the moon is full")

    made = Schedule(put, faults.append)
    try:
        made.set(load(tmp_path, 'every = "1s"'))
        assert wait_until(lambda: len(faults) >= 2)
        assert str(faults[0]) == "the moon is full"
    finally:
        made.stop()


def test_retries_grow_up_to_the_interval() -> None:
    """What failed is due again after 5, 10, 20 ... seconds, at most its interval, and not once it went well."""
    retries, now = Retries(), 1000.0
    assert retries.wait(now) == float("inf")
    waits = []
    for _ in range(8):
        retries.failed("a", frozenset({"a"}), 60, now)
        waits.append(retries.wait(now))
        assert retries.due(now) == frozenset()
        now += waits[-1]
        assert retries.due(now) == {"a"}
    assert waits == [FIRST, 2 * FIRST, 4 * FIRST, 8 * FIRST, 60, 60, 60, 60]
    retries.failed("b", frozenset({"b"}), 2, now)
    assert retries.wait(now) == 0, "a is still due"
    retries.succeeded("a")
    assert retries.wait(now) == 2, "the interval is shorter than the first delay"
    retries.clear()
    assert retries.wait(now) == float("inf")


def test_a_systemd_that_does_not_read(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Telling a systemd that takes nothing more does not hold up anybody for long."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as deaf:
        deaf.bind(str(tmp_path / "s"))
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "s"))
        monkeypatch.setattr(supervisor, "_LISTENS", 0.01)
        queue = int(Path("/proc/sys/net/unix/max_dgram_qlen").read_text("ascii"))
        began = time.monotonic()
        for _ in range(queue + 5):
            supervisor.tell_systemd("WATCHDOG=1")
        assert time.monotonic() - began < allowed(20)


@pytest.mark.parametrize("every", [1.0, 2.5])
def test_the_supervisor_tells_the_truth(monkeypatch: pytest.MonkeyPatch, every: float) -> None:
    """WATCHDOG=1 is sent three times in each interval while the worker is where it should be, and then no more."""
    clock, sent = SimpleNamespace(now=0.0), list[tuple[float, str]]()
    monkeypatch.setattr(supervisor, "time", SimpleNamespace(monotonic=lambda: clock.now))
    monkeypatch.setattr(supervisor, "tell_systemd", lambda *lines: sent.append((clock.now, *lines)))
    monkeypatch.setenv("WATCHDOG_USEC", str(int(every * 1e6)))
    progress = supervisor.Progress()
    progress.passed(10)
    made = supervisor.Supervisor(progress, lambda: None, lambda _: None)

    def tick(_seconds: float) -> bool:
        clock.now += 0.2
        if 30 <= clock.now < 30.2:
            progress.passed(10)
        return bool(clock.now > 60)

    with patch.object(made._end, "wait", tick):
        made.run()
    times = [at for at, _ in sent]
    assert {line for _, line in sent} == {"WATCHDOG=1"}
    assert not [at for at in times if 10.1 < at < 30 or at > 40.3]
    early = [0.0, *(at for at in times if at < 10)]
    assert max(after - before for before, after in pairwise(early)) < every / 2
    assert [at for at in times if 30 <= at < 31]


def test_a_supervisor_whose_look_fails_goes_on() -> None:
    """A fault in what the supervisor calls is told, and it looks again."""
    faults: list[BaseException] = []

    def look() -> None:
        raise RuntimeError("the moon is full")

    made = supervisor.Supervisor(supervisor.Progress(), look, faults.append)
    made.start()
    try:
        assert wait_until(lambda: len(faults) >= 2)
    finally:
        made.stop()
    assert not made.is_alive()


@pytest.mark.parametrize(
    ("usec", "pid", "expected"),
    [("3000000", None, 3.0), ("3000000", "1", None), ("", None, None), ("x", None, None), ("0", None, None)],
)
def test_how_often_systemd_wants_to_hear(
    monkeypatch: pytest.MonkeyPatch, usec: str, pid: str | None, expected: float | None
) -> None:
    """WATCHDOG_USEC counts where it is ours, and what is no number is none."""
    monkeypatch.setenv("WATCHDOG_USEC", usec)
    monkeypatch.delenv("WATCHDOG_PID", raising=False)
    if pid:
        monkeypatch.setenv("WATCHDOG_PID", pid)
    assert supervisor.watchdog_seconds() == expected


def test_nobody_listens(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Where there is no systemd, or none any more, telling it is no error."""
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    supervisor.tell_systemd("READY=1")
    for address in (str(tmp_path / "gone"), "@gone-from-here", "/"):
        monkeypatch.setenv("NOTIFY_SOCKET", address)
        supervisor.tell_systemd("READY=1")


def test_the_step_that_counts() -> None:
    """A clock is set if it is off by seconds, not by what a busy machine is late."""
    assert 1 < schedule._STEP < 60
