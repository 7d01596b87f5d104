"""A clock that is wrong removes nothing, and what is remembered survives its steps."""

from contextlib import closing
from pathlib import Path

import pytest

from syncagent.config.load import load
from syncagent.model import SyncResult
from syncagent.state import history
from syncagent.state.database import Ledger
from syncagent.sync import clock
from tests.scenario import HOUR, MINUTE, START, Scenario, only_hold, people, reasons

HELD = 65
DAY = 24 * HOUR


@pytest.fixture
def mx(tmp_path: Path) -> Scenario:
    """A map of 100 recipients without a grace, by a clock of its own."""
    scenario = Scenario(tmp_path)
    scenario.set_clock()
    scenario.write("corp", people(100))
    scenario.sync()
    return scenario


def _lists(mx: Scenario, count: int, after: float, *, code: int = 0) -> SyncResult:
    mx.wait(after)
    mx.write("corp", people(count))
    return mx.sync(code=code)


def test_a_clock_set_back_removes_nothing(mx: Scenario) -> None:
    """The run is told of, and the next one, by a clock that goes on, removes what is missing."""
    result = _lists(mx, 98, -3 * HOUR, code=HELD)
    assert reasons(result) == {"example.com": {"clock"}}
    assert not any(hold.approvable for hold in result.plan.holds)
    assert any("this run removes nothing" in note for note in result.notes)
    assert mx.published() == people(100)
    mx.wait(MINUTE)
    result = mx.sync()
    assert (result.plan.removed, result.notes) == (2, ())


def test_a_small_step_back_is_not_told(mx: Scenario) -> None:
    """As a time server makes it: what is missing waits for the next run, without an alarm."""
    result = _lists(mx, 98, -clock.STEP)
    assert result.plan.removed == 0
    assert not result.notes
    assert mx.published() == people(100)
    assert _lists(mx, 98, 1.0).plan.removed == 2


def test_additions_do_not_wait(mx: Scenario) -> None:
    """A wrong clock adds as ever."""
    mx.wait(-3 * HOUR)
    mx.write("corp", people(101))
    assert mx.sync().plan.added == 1


def test_a_clock_that_is_not_set(tmp_path: Path) -> None:
    """Before 2020 nothing is removed, however the clock goes on."""
    scenario = Scenario(tmp_path)
    scenario.set_clock(1000.0)
    scenario.write("corp", people(100))
    assert any("timedatectl set-ntp true" in note for note in scenario.sync().notes)
    for _ in range(2):
        assert reasons(_lists(scenario, 98, HOUR, code=HELD)) == {"example.com": {"clock"}}
    scenario.set_clock()
    scenario.sync()
    assert scenario.published() == people(98)


def test_nothing_is_written_into_the_window_by_a_wrong_clock(mx: Scenario) -> None:
    """The rows of the window are those of before: what was removed counts until its time is over."""
    assert _lists(mx, 94, MINUTE).plan.removed == 6
    mx.wait(-2 * DAY)
    mx.write("corp", people(95))
    assert mx.sync().plan.added == 1
    with closing(Ledger(mx.state, write=False)) as ledger:
        assert ledger.window(0) == {"example.com": (0, 6)}
    assert reasons(_lists(mx, 88, MINUTE, code=HELD)) == {"example.com": {"percent"}}


def test_a_hold_that_began_while_the_clock_was_ahead_is_told(mx: Scenario) -> None:
    """It collects ten minutes by the right clock, and not until the wrong time has come."""
    mx.write("corp", people(50))
    mx.wait(365 * DAY)
    assert only_hold(mx.sync(code=HELD)).collecting
    mx.wait(-365 * DAY)
    mx.sync(code=HELD)
    mx.wait(11 * MINUTE)
    hold = only_hold(mx.sync(code=HELD))
    assert (hold.is_frozen, hold.since <= mx.now) == (True, True)


def test_the_window_survives_a_leap(mx: Scenario) -> None:
    """A clock that was ahead for a run, and is set right: what was removed before and meanwhile still counts."""
    assert _lists(mx, 94, MINUTE).plan.removed == 6
    mx.wait(DAY * 30)
    mx.sync()
    mx.wait(-DAY * 30)
    mx.sync()
    assert reasons(_lists(mx, 88, MINUTE, code=HELD)) == {"example.com": {"percent"}}


def test_the_history_survives_a_leap(mx: Scenario) -> None:
    """A clock that is years ahead for some runs deletes nothing that the right one would not."""
    assert _lists(mx, 99, MINUTE).plan.removed == 1
    mx.wait(DAY * 1000)
    for count in (100, 99, 100):
        _lists(mx, count, MINUTE)
    mx.set_clock(START + HOUR)
    mx.sync()
    assert [run.removed for run in history.read(load(mx.configure()), 0)][:2] == [0, 1]


def test_the_history_ends(mx: Scenario) -> None:
    """What is older than state.history goes, after ten more runs."""
    assert _lists(mx, 99, MINUTE).plan.removed == 1
    mx.wait(DAY * 1000)
    for count in [100, 99] * 6:
        _lists(mx, count, MINUTE)
    times = [run.at for run in history.read(load(mx.configure()), 0)]
    assert min(times) > START + DAY
