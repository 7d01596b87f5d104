"""`status --nagios`: one line, performance data, and the exit status of a plugin."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.scenario import Scenario, people
from tests.support.programs import wait_until

LINE = re.compile(r"SYNCAGENT (OK|WARNING|CRITICAL|UNKNOWN) - ([^|\n]*)(?: \| ([^|\n]*))?\n")
PERFORMANCE = re.compile(r"[a-z_]+=\d+s?;;;0")


def _ok(mx: Scenario) -> None:
    mx.sync()


def _held(mx: Scenario) -> None:
    mx.sync()
    mx.write("corp", people(40))
    mx.sync(code=65)


def _failing(mx: Scenario) -> None:
    mx.sync()
    mx.break_source("corp")
    mx.sync(code=75)


def _stale(mx: Scenario) -> None:
    _failing(mx)
    mx.schedule = {"every": "1s", "max_age": "2s"}
    assert wait_until(lambda: mx.say("status", code=None).returncode == 75)


def _not_published(mx: Scenario) -> None:
    mx.sync()
    mx.own_postmap()
    mx.postmap_fails.touch()
    mx.write("corp", people(101))
    mx.say("sync", code=73)


def _never_ran(_: Scenario) -> None:
    pass


def _broken_configuration(mx: Scenario) -> None:
    mx.sync()
    mx.schedule = {"every": "often"}


def _broken_state(mx: Scenario) -> None:
    mx.sync()
    (mx.state / "state.db").unlink()
    (mx.state / "state.db").mkdir()


STATES: dict[Callable[[Scenario], None], tuple[int, str, str]] = {
    _ok: (0, "OK", "100 recipients"),
    _held: (1, "WARNING", "60 removals of example.com"),
    _failing: (1, "WARNING", "corp"),
    _stale: (2, "CRITICAL", "corp"),
    _not_published: (2, "CRITICAL", "no space left on device"),
    _never_ran: (2, "CRITICAL", "never"),
    _broken_configuration: (3, "UNKNOWN", "schedule.every"),
    _broken_state: (3, "UNKNOWN", "state.db"),
}


@pytest.mark.parametrize("state", STATES, ids=lambda state: state.__name__.strip("_"))
def test_each_state(state: Callable[[Scenario], None], tmp_path: Path) -> None:
    """One line on standard output, nothing beside it; the word and the exit status are those of the level."""
    mx = Scenario(tmp_path)
    mx.write("corp", people(100))
    state(mx)
    code, word, text = STATES[state]
    done = mx.say("status", "--nagios", code=code)
    found = LINE.fullmatch(done.stdout)
    assert found, done.stdout
    assert done.stderr == ""
    assert found[1] == word
    assert text in found[2]
    assert all(PERFORMANCE.fullmatch(value) for value in (found[3] or "").split())
    assert bool(found[3]) == (code != 3)


def test_the_performance_data(tmp_path: Path) -> None:
    """Numbers that a graph can show."""
    mx = Scenario(tmp_path)
    mx.write("corp", people(100))
    _held(mx)
    found = LINE.fullmatch(mx.say("status", "--nagios", code=1).stdout)
    assert found
    values = dict(value.partition(";")[0].split("=") for value in found[3].split())
    age = values.pop("age")
    assert re.fullmatch(r"\d+s", age)
    assert values == {"recipients": "100", "held": "60", "rejected": "0", "failing": "0", "domains_in_doubt": "0"}
