"""Hundreds of runs in a row, and thousands in `make proof`: nothing piles up."""

import signal
import time
from collections.abc import Callable
from itertools import cycle
from pathlib import Path

import pytest

from tests.agent import Station
from tests.scenario import people
from tests.sources.http import ended
from tests.support.agent import Agent
from tests.support.programs import wait_until
from tests.support.scripted_http import ScriptedHTTP, answer

CYCLES, PROOF_CYCLES, SETTLED, KILOBYTES = 500, 5000, 100, 8 << 10
ASKED = 200
SOURCE = """
[sources.web]
type = "http"
format = "lines"
url = "{url}/list"
insecure = true
"""


@pytest.fixture
def mx(tmp_path: Path) -> Station:
    """A backup MX with one list, which is read only when it is due, and nothing is due for an hour."""
    mx = Station(tmp_path)
    mx.sources = {"corp": {"watch": "off"}}
    mx.limits |= {"removed_floor": 1_000_000, "removed_window": "0s"}
    mx.write("corp", people(40))
    return mx


class Figures:
    """What the agent has, after so many runs and in the end."""

    def __init__(self, agent: Agent) -> None:
        self.agent, self.began = agent, time.monotonic()
        samples = []
        for _ in range(20):  # in some of them it is at rest
            time.sleep(0.02)
            samples.append(self._now())
        self.files, self.threads, self.memory = (min(values) for values in zip(*samples, strict=True))

    def _now(self) -> tuple[int, int, int]:
        return len(self.agent.open_files()), self.agent.status("Threads"), self.agent.status("VmRSS")

    def have_not_grown(self, runs: int) -> str:
        """Assert that it is the same now; return the figures."""
        assert wait_until(lambda: self._now()[:2] == (self.files, self.threads)), (vars(self), self._now())
        grown = self._now()[2] - self.memory
        assert grown <= KILOBYTES
        return (
            f"{runs} runs in {time.monotonic() - self.began:.0f} s: {self.files} files, {self.threads} threads,"
            f" {self.memory} kB and {grown} kB more;"
            f" {len(self.agent.events('published'))} published, {len(self.agent.events('not published'))} failed,"
            f" {len(self.agent.events('source failing'))} failures of the source"
        )


def test_nothing_piles_up(mx: Station) -> None:
    """500 runs of changes and failures: the same open files and threads as after the first 100, and 8 MB at most."""
    _run_often(mx, CYCLES)


@pytest.mark.proof
@pytest.mark.timeout(0)
def test_nothing_piles_up_in_thousands_of_runs(mx: Station, record_property: Callable[[str, object], None]) -> None:
    """The same of 5,000 runs."""
    record_property("figures", _run_often(mx, PROOF_CYCLES))


def _run_often(mx: Station, cycles: int) -> str:
    """Have the agent run so often; return the figures."""
    mx.own_postmap()
    current, lists = people(40), cycle((people(41), people(40)))
    turns = cycle(("change", "fails", "torn", "recovers", "nothing", "fails", "nothing", "recovers"))
    with Agent(mx.configure(), env=mx.env) as agent:
        agent.wait("published")
        figures = Figures(agent)
        for number in range(cycles):
            turn = next(turns)
            if turn == "change":
                mx.write("corp", current := next(lists))
                if number % 80 == 0:
                    mx.postmap_fails.touch()
            elif turn == "recovers":
                mx.write("corp", current)
            elif turn == "fails":
                mx.break_source("corp")
            elif turn == "torn":
                mx.file("corp").write_bytes(b"\0torn")
            agent.run_now()
            mx.postmap_fails.unlink(missing_ok=True)
            if number == SETTLED:
                figures = Figures(agent)
        agent.send(signal.SIGUSR1)
        told = figures.have_not_grown(cycles)
        assert len(agent.events("published")) > cycles / 10
        assert len(agent.events("source failing")) > cycles / 5
        assert len(agent.events("not published")) >= cycles / 100
        return told


def test_nothing_piles_up_over_http(mx: Station) -> None:
    """What asks over HTTP, and is answered, refused or cut off, lets go of everything too."""
    with ScriptedHTTP() as server:
        mx.extra = SOURCE.format(url=server.url)
        whole = answer(ended(["web@example.com"]))
        parts = (tuple(whole), tuple(answer("no", 500)), tuple(answer("no", 200)), (b"HTTP/1.1 200 OK\r\n", "rst"))
        server.routes["/list"] = lambda _: parts[0]
        with Agent(mx.configure(), env=mx.env) as agent:
            agent.wait("published")
            figures = Figures(agent)
            for number in range(ASKED):
                server.routes["/list"] = lambda _, number=number: parts[number % 4]  # type: ignore[misc] # a default
                agent.run_now()
                if number == ASKED // 10:
                    figures = Figures(agent)
            figures.have_not_grown(ASKED)
            assert len(agent.events("source failing")) >= ASKED / 2
