"""The agent and the age of data: it wakes when data becomes outdated, and again once there is newer data."""

import json
from pathlib import Path

from syncagent.state.messages import machine_moment
from tests.agent import Station
from tests.scenario import HOUR, START
from tests.support.agent import Agent
from tests.support.clock import clock_at, run_at
from tests.support.programs import wait_until

DAY = 24 * HOUR


def _put(mx: Station, made: float) -> None:
    new = mx.directory / "new.list"
    new.write_text(f"# made: {machine_moment(made)}\na@example.com\n", encoding="utf-8")
    new.replace(mx.file("corp"))


def test_it_wakes_when_data_becomes_outdated(tmp_path: Path) -> None:
    """The next run is due in twelve hours; no source is asked. Status, metrics and log know it; a new list ends it."""
    mx = Station(tmp_path)
    metrics = tmp_path / "syncagent.prom"
    mx.schedule = {"every": "12h", "max_age": "2d"}
    mx.extra = f'[metrics]\ntextfile = "{metrics}"\n'
    _put(mx, START)
    assert run_at(START, "sync", config=mx.configure())[0] == 0

    def is_outdated(value: int) -> bool:
        line = f'syncagent_source_outdated{{source="corp"}} {value}.0'
        return metrics.exists() and line in metrics.read_text("utf-8").splitlines()

    with Agent(mx.configure(), env=clock_at(START + DAY - 10)) as agent:
        agent.wait("started")
        assert wait_until(lambda: is_outdated(1))
        (raised,) = agent.events("needs a person")
        assert (raised["kind"], raised["subject"], raised["level"]) == ("outdated", "corp", "error")
        assert [event["due"] for event in agent.events("run", why="data is outdated")] == [[]]
        code, out, _ = run_at(START + DAY + 60, "status", "--json", config=mx.config)
        assert (code, json.loads(out)["sources"][0]["outdated"]) == (75, True)
        _put(mx, START + DAY)
        assert wait_until(lambda: is_outdated(0))
        assert agent.events("recovered", kind="outdated")
