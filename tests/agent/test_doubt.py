"""The agent and doubt: it wakes when a doubt ends, without asking a source, and gives a sign of life."""

from pathlib import Path

from syncagent.postfix.doubt_table import LIMIT_OF_AGENT, Files
from syncagent.values.types import MapName
from tests.agent import Station
from tests.scenario import HOUR, START, people
from tests.support.agent import Agent
from tests.support.clock import clock_at, run_at
from tests.support.postmap import postmap_keys
from tests.support.programs import wait_until


def _station(directory: Path) -> tuple[Station, Files]:
    mx = Station(directory)
    mx.postfix |= {"doubt_map": f"lmdb:{directory}/doubt", "doubt_new": "1h"}
    mx.schedule = {"every": "12h", "max_age": "2d"}
    mx.write("corp", people(3))
    return mx, Files(MapName.parse(f"lmdb:{directory}/doubt"))


def _in_doubt(mx: Station) -> set[str]:
    keys = {key.decode() for key in postmap_keys(mx.postfix_directory, f"lmdb:{mx.directory}/doubt")}
    return {key for key in keys if "@" not in key}


def test_it_wakes_when_a_doubt_ends(tmp_path: Path) -> None:
    """The next run is due in twelve hours; the doubt of a new domain ends in ten seconds. No source is asked for it."""
    mx, files = _station(tmp_path)
    assert run_at(START, "sync", config=mx.configure())[0] == 0
    assert _in_doubt(mx)
    with Agent(mx.configure(), env=clock_at(START + HOUR - 10)) as agent:
        agent.wait("started")
        assert wait_until(lambda: files.alive()[1] == LIMIT_OF_AGENT)
        assert wait_until(lambda: not _in_doubt(mx))
    assert [event["due"] for event in agent.events("run", why="doubt ends")] == [[]]


def test_the_mark_of_the_switch_ends_with_a_run_of_all_sources(tmp_path: Path) -> None:
    """Also where the sources have intervals of their own, so that they are never due together."""
    mx, files = _station(tmp_path)
    mx.write("other", people(3, "example.com", first=10))
    mx.sources["other"] = {"every": "11h"}
    assert run_at(START, "sync", config=mx.configure())[0] == 0
    assert run_at(START + 2 * HOUR, "sync", config=mx.configure())[0] == 0
    with Agent(mx.configure(), env=clock_at(START + 3 * HOUR)) as agent:
        agent.wait("started")
        assert wait_until(lambda: files.alive()[0] >= START + 3 * HOUR)
        (tmp_path / "doubt-switched").write_text(f"{START:.0f} dead\n", encoding="ascii")
        mx.write("corp", people(4))
        assert wait_until(lambda: files.mark() is None)
