"""A value whose normalization would take minutes and hold the interpreter lock is a reject; nothing waits for it."""

import json
import signal
import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest

from tests.agent import Station
from tests.scenario import people
from tests.sources.http import ended
from tests.support.agent import Agent
from tests.support.programs import allowed
from tests.support.scripted_http import ScriptedHTTP, answer

OLD, LATE, ODD, WEB = people(40), "late@example.com", "odd@example.com", "web@example.com"
OUTSIDE = {f"user{number}@elsewhere.test" for number in range(3)}
"""Entries outside the relay domains: a source with more rejected entries than others would fail."""
FREEZING = "\u0301\u0323" * 75_000
"""300 kB; one local part and, elsewhere, one domain."""
WATCHDOG = 6.0
SOON, OBEYED = 5.0, 5.0
"""Seconds: how late a healthy source's change may be published, and a TERM be obeyed."""


@pytest.fixture
def mx(tmp_path: Path) -> Station:
    """A backup MX with two lists."""
    mx = Station(tmp_path, "corp", "odd")
    mx.write("corp", OLD)
    mx.write("odd", {ODD})
    return mx


@pytest.fixture
def server() -> Iterator[ScriptedHTTP]:
    """A server with a list and an API, both harmless at first."""
    with ScriptedHTTP() as http:
        http.routes["/list"] = lambda _: answer(ended([WEB]))
        http.routes["/api"] = lambda _: answer(json.dumps([{"mail": "api@example.com"}]))
        yield http


def _over_http(mx: Station, server: ScriptedHTTP) -> None:
    recipe = mx.directory / "own.toml"
    step = '[[steps]]\nname = "a"\npath = "/api"\nlist = "@"\nemit = [{ kind = "address", value = "mail" }]\n'
    recipe.write_text(f'title = "ours"\n[auth]\nkind = "none"\n{step}', "utf-8")
    common = 'type = "http"\ninsecure = true\n'
    mx.extra = (
        f'[sources.web]\n{common}url = "{server.url}/list"\nformat = "lines"\n'
        f'[sources.api]\n{common}url = "{server.url}"\nrecipe = "{recipe}"\n'
    )


def test_a_freezing_value(mx: Station, server: ScriptedHTTP) -> None:
    """The others' changes are published at once, the watchdog hears of it, TERM is obeyed, and nobody is lost."""
    _over_http(mx, server)
    with Agent(mx.configure(), env=mx.env, watchdog=WATCHDOG) as agent:
        agent.wait("published")
        told = len(agent.systemd.told)
        server.routes["/list"] = lambda _: answer(ended([WEB, f"{FREEZING}@example.com"]))
        server.routes["/api"] = lambda _: answer(
            json.dumps([{"mail": "api@example.com"}, {"mail": f"a@{FREEZING}.example.com"}])
        )
        mx.write("odd", {ODD, *OUTSIDE, f"{FREEZING}@example.com", f"a@{FREEZING}"})
        mark, began = agent.mark, time.monotonic()
        mx.write("corp", OLD | {LATE})
        published = agent.run_now(seconds=400)
        while not mx.is_published(LATE):
            published = agent.wait("published", after=mark, seconds=400)
        took = published["at"] - began
        print(f"published after {took:.2f} s")  # noqa: T201 - the figure
        assert took < allowed(SOON)
        assert mx.published() == OLD | {LATE, ODD, WEB, "api@example.com"}
        state = json.loads(mx.status().stdout)
        assert [one["error"] for one in state["sources"]] == [""] * 4
        mx.write("odd", {ODD, f"e{FREEZING}@example.com"})
        agent.run_now(seconds=400)
        heard = [at for at, line in agent.systemd.told[told:] if line == "WATCHDOG=1"]
        gaps = [after - before for before, after in pairwise([began, *heard, time.monotonic()])]
        assert max(gaps) < WATCHDOG, gaps
        mx.write("odd", {ODD, f"o{FREEZING}@example.com"})
        mark = agent.mark
        agent.send(signal.SIGUSR1)
        agent.wait("run", after=mark)
        stopped = agent.stop(seconds=400)
        print(f"ended after {stopped:.2f} s")  # noqa: T201 - the figure
        assert stopped < OBEYED


def test_it_is_a_reject(mx: Station) -> None:
    """It is counted and shown as a reject of its source, with its length, the limit and the start of it."""
    mx.write("odd", {ODD, f"{FREEZING}@example.com"})
    mx.sources["odd"]["format"] = "lines"
    mx.say("sync", "--accept-incomplete", code=65)
    result = mx.sync_unchecked(65)
    (reject,) = result.reject_sample
    assert (result.rejected, reject.source) == (1, "odd")
    assert "is 300012 octets long, over the 4096 of" in reject.reason
    assert len(reject.spelled) < 20_000
    assert mx.published() == OLD | {ODD}
    assert len(mx.say("plan", code=65).stdout) < 20_000
