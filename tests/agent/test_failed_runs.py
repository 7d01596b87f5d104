"""A run that came to nothing: what it was to ask is asked by the very next one that comes to something."""

import signal
import sys
from contextlib import ExitStack
from pathlib import Path

import pytest

from syncagent.files import atomic as files
from tests.agent import Station
from tests.scenario import people
from tests.support.agent import Agent
from tests.support.programs import wait_until

FAST, SLOW, LATE = people(40), people(5, first=900), "late@example.com"

IMPATIENT = """
import os
from syncagent.cli import main as cli
from syncagent.sync import run as sync
from syncagent.agent import loop
loop._LOCK_TIMEOUT = 0.2
real = sync.sync_once
def sync_once(*args):
    if os.path.exists(os.environ["FAULTY"]):
        raise RuntimeError("the moon is full")
    return real(*args)
sync.sync_once = sync_once
cli.main()
"""
"""An agent that does not wait long for a run by hand, and has a fault while there is a file."""


@pytest.fixture
def mx(tmp_path: Path) -> Station:
    """A backup MX with a list that is asked for all the time, and one that is asked for each hour; both were."""
    mx = Station(tmp_path, "fast", "slow")
    mx.sources = {"fast": {"every": "1s"}, "slow": {"watch": "off"}}
    mx.write("fast", FAST)
    mx.write("slow", SLOW)
    mx.by_hand()
    return mx


def impatient(mx: Station) -> Agent:
    """Start that agent."""
    script = mx.directory / "impatient.py"
    script.write_text(IMPATIENT, "utf-8")
    env = {**mx.env, "FAULTY": str(mx.directory / "faulty")}
    return Agent(mx.configure(), env=env, command=(sys.executable, str(script)))


def due_until_published(agent: Agent, mark: int) -> list[set[str]]:
    """Wait for something to be published; give what each run was to ask until then."""
    published = agent.wait("published", after=mark)
    runs = agent.events("run", after=mark)
    until = [run["run_id"] for run in runs].index(published["run_id"])
    return [set(run["due"]) for run in runs[: until + 1]]


def test_a_start_that_does_not_get_the_lock(mx: Station) -> None:
    """All is due at the start; the runs of one source alone that fail as well, meanwhile, make it no less."""
    mx.write("slow", SLOW | {LATE})
    with ExitStack() as by_hand:
        by_hand.enter_context(files.locked(mx.state / "sync.lock", 1))
        with impatient(mx) as agent:
            assert wait_until(lambda: len(agent.events("another run is under way")) >= 3)
            by_hand.close()
            due = due_until_published(agent, 0)
            assert len(due) >= 4
            assert all("slow" in one for one in due)
            assert mx.published() == FAST | SLOW | {LATE}
            assert wait_until(lambda: agent.events("run")[-1]["due"] == ["fast"]), "it is owed no more"


@pytest.mark.parametrize("how", ["the lock", "a fault"])
def test_now_that_came_to_nothing(mx: Station, how: str) -> None:
    """USR1 asks for all; it does so with the run after, if the one that it came for failed as a whole."""
    with impatient(mx) as agent, ExitStack() as by_hand:
        agent.wait("unchanged")
        mx.write("slow", SLOW | {LATE})
        if how == "the lock":
            by_hand.enter_context(files.locked(mx.state / "sync.lock", 1))
        else:
            (mx.directory / "faulty").touch()
        mark = agent.mark
        agent.send(signal.SIGUSR1)
        assert wait_until(lambda: any("USR1" in run["why"] for run in agent.events("run", after=mark)))
        asked = next(run for run in agent.events("run", after=mark) if "USR1" in run["why"])  # or "schedule, USR1"
        assert set(asked["due"]) == {"fast", "slow"}
        failed = "another run is under way" if how == "the lock" else "fault"
        assert wait_until(lambda: len(agent.events(failed, after=mark)) >= 3)
        by_hand.close()
        (mx.directory / "faulty").unlink(missing_ok=True)
        assert {"fast", "slow"} in due_until_published(agent, mark)[3:]
        assert mx.published() == FAST | SLOW | {LATE}
