"""How long a removal waits, what confirms it, and what is asked for it: by the command, in a timer's series of runs."""

import hashlib
import json
import os
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from unittest.mock import patch

import pytest

from syncagent.files.sorted_lines import end_line
from syncagent.model import SyncResult
from syncagent.state import messages
from syncagent.sync import waiting
from tests.agent import Station
from tests.scenario import HOUR, MINUTE, START, Scenario, people
from tests.support.agent import Agent
from tests.support.faketime import Clock
from tests.support.postmap import broken_postmap
from tests.support.scripted_http import Asked, Part, ScriptedHTTP, answer

DAY = 24 * HOUR
EVERY, SELDOM = 5 * MINUTE, 30 * MINUTE


@pytest.mark.parametrize(
    ("proof", "grace", "confirm_after", "expected"),
    [
        ("producer", HOUR, DAY, HOUR),
        ("transport", HOUR, DAY, DAY),
        ("none", HOUR, DAY, DAY),
        ("transport", 2 * DAY, DAY, 2 * DAY),
        ("transport", HOUR, 0.0, HOUR),
        ("transport", 0.0, DAY, 0.0),
        ("producer", 0.0, DAY, 0.0),
    ],
)
def test_how_long_a_removal_waits(proof: str, grace: float, confirm_after: float, expected: float) -> None:
    """As limits.removal_grace and confirm_after say; a grace of 0 switches both off."""
    assert waiting.wait(proof, grace, confirm_after) == expected


class Host:
    """A web server with one list, which has an ETag if ``etag``; ``asked`` are the requests so far."""

    def __init__(self, server: ScriptedHTTP, *, etag: bool = True) -> None:
        self._server, self._etag = server, etag
        self.text, self.version = b"", 0
        self.refuses_full = False
        server.routes["/list"] = self._answer

    def put(self, text: bytes) -> None:
        """Replace the list."""
        self.text, self.version = text, self.version + 1

    def _answer(self, request: Asked) -> Iterable[Part]:
        tag = f'"{self.version}"'
        if self._etag and request.headers.get("if-none-match") == tag:
            return answer(b"", 304, etag=tag)
        if self.refuses_full and "if-none-match" not in request.headers:
            return answer(b"busy", 503)
        return answer(self.text, etag=tag) if self._etag else answer(self.text)

    @property
    def asked(self) -> list[bool]:
        """Whether each request so far was unconditional."""
        return ["if-none-match" not in request.headers for request in self._server.asked]

    def config(self, **keys: object) -> dict[str, object]:
        """The keys of a source that reads the list."""
        return {
            "type": "http",
            "url": f"{self._server.url}/list",
            "insecure": True,
            "format": "lines",
            "foreign": True,
            **keys,
        }


def listed(addresses: Iterable[str], *, end: bool = False) -> bytes:
    """Give a list with or without its end line."""
    lines = "".join(f"{address}\n" for address in sorted(addresses)).encode()
    return lines + end_line(lines.count(b"\n"), hashlib.sha256(lines).hexdigest()) if end else lines


def runs(
    scenario: Scenario, seconds: float, every: float = SELDOM, *, until: Callable[[SyncResult], bool] | None = None
) -> int:
    """Run at intervals for a time, or until a run is as told; give how many runs there were."""
    for number in range(1, int(seconds / every) + 1):
        scenario.wait(every)
        result = scenario.sync_unchecked(0)
        if until and until(result):
            return number
    return int(seconds / every)


def removes(result: SyncResult) -> bool:
    """True if a run removed a recipient."""
    return result.plan.removed > 0


@pytest.fixture
def mx(tmp_path: Path) -> Scenario:
    """A scenario with its own clock, the default grace and the default of confirm_after."""
    scenario = Scenario(tmp_path)
    scenario.limits = {"removal_grace": "1h"}
    scenario.confirm_after = "24h"
    scenario.set_clock(START)
    return scenario


def test_a_file_edited_once_and_never_again(mx: Scenario) -> None:
    """The removal is through after 24 hours, by a look at a file that has not changed since."""
    mx.write("corp", people(40))
    mx.sync_unchecked(0)
    mx.wait(EVERY)
    mx.write("corp", people(39))
    mx.sync_unchecked(0)
    assert mx.published() == people(40)
    runs(mx, DAY - HOUR)
    assert mx.published() == people(40)
    assert runs(mx, DAY, EVERY, until=removes) == HOUR / EVERY
    assert mx.published() == people(39)


def test_one_extra_read_and_none_before_it_is_due(mx: Scenario) -> None:
    """A list of a web server, edited once: every request of a day is conditional, but for the one at its end."""
    with ScriptedHTTP() as server:
        host = Host(server)
        mx.sources = {"corp": host.config()}
        host.put(listed(people(40)))
        mx.sync_unchecked(0)
        mx.wait(EVERY)
        host.put(listed(people(39)))
        mx.sync_unchecked(0)
        before = len(host.asked)
        assert runs(mx, 2 * DAY, until=removes) == DAY / SELDOM
        assert mx.published() == people(39)
        looks = [number for number, is_full in enumerate(host.asked[before:], 1) if is_full]
        assert looks == [DAY / SELDOM]
        assert len(host.asked) - before == DAY / SELDOM
        runs(mx, DAY)
        assert not any(host.asked[before + int(DAY / SELDOM) :])


@pytest.mark.parametrize(
    "count", [20_000, pytest.param(1_000_000, marks=[pytest.mark.proof, pytest.mark.timeout(3600)])]
)
def test_many_waiting_removals_of_a_large_list_share_one_look(
    mx: Scenario, count: int, record_property: Callable[[str, object], None]
) -> None:
    """40 that left in four runs: four looks, each when the first of them falls due, and none between."""
    with ScriptedHTTP() as server:
        host = Host(server)
        mx.sources = {"corp": host.config(confirm_after="0s")}
        everybody = [f"user{number:07}@example.com" for number in range(count)]
        host.put(listed(everybody))
        mx.sync_unchecked(0)
        for gone in (10, 20, 30, 40):
            mx.wait(EVERY)
            host.put(listed(everybody[gone:]))
            mx.sync_unchecked(0)
        before = len(host.asked)
        runs(mx, 2 * HOUR, EVERY)
        assert mx.published() == set(everybody[40:])
        looks = [number for number, is_full in enumerate(host.asked[before:], 1) if is_full]
        record_property("figures", f"40 of {count:,}: requests {len(host.asked) - before}, in full {len(looks)}")
        assert looks == [HOUR / EVERY - 3 + number for number in range(4)]
        assert len(host.asked) - before == 2 * HOUR / EVERY


@pytest.mark.parametrize("require_end", [True, False])
def test_an_end_line_waits_for_the_grace_alone(mx: Scenario, require_end: bool) -> None:  # noqa: FBT001 - a parameter
    """If it is required: otherwise a list that was cut would have none, and be read as it is."""
    with ScriptedHTTP() as server:
        host = Host(server)
        mx.sources = {"corp": host.config(foreign=not require_end)}
        host.put(listed(people(40), end=True))
        mx.sync_unchecked(0)
        mx.wait(EVERY)
        host.put(listed(people(39), end=True))
        mx.sync_unchecked(0)
        assert runs(mx, 2 * DAY, until=removes) == (HOUR if require_end else DAY) / SELDOM


@pytest.mark.parametrize("dated", [True, False])
def test_a_list_that_is_cut_at_the_end_of_a_line(mx: Scenario, dated: bool) -> None:  # noqa: FBT001 - a parameter
    """Nothing shows it without an end line: by `# made` what is behind the cut goes after the grace.

    A list that is made anew in between loses nobody; with `require_end` the cut list fails.
    """
    heading = f"# made: {messages.machine_moment(START)}\n".encode() if dated else b""
    for count in (40, 37, 40, 37):
        mx.file("corp").write_bytes(heading + listed(people(count)))
        mx.sync_unchecked(0)
        mx.wait(EVERY)
        assert mx.published() == people(40)
    assert runs(mx, 2 * DAY, until=removes) == (HOUR if dated else DAY) / SELDOM
    assert mx.published() == people(37)
    mx.sources = {"corp": {"require_end": True}}
    mx.file("corp").write_bytes(heading + listed(people(37)))
    assert "the list is incomplete" in mx.sync_unchecked(75).sources[0].error


@pytest.mark.parametrize(("keys", "expected"), [({"confirm_after": "0s"}, HOUR), ({"confirm_after": "3h"}, 3 * HOUR)])
def test_confirm_after(mx: Scenario, keys: dict[str, object], expected: float) -> None:
    """As long as the source's key says, if that is longer than the grace."""
    mx.sources = {"corp": keys}
    mx.write("corp", people(40))
    mx.sync_unchecked(0)
    mx.wait(EVERY)
    mx.write("corp", people(39))
    mx.sync_unchecked(0)
    assert runs(mx, DAY, until=removes) == expected / SELDOM


def test_without_a_grace_nothing_waits_and_nobody_looks(mx: Scenario) -> None:
    """A person's choice: removal_grace = "0s" switches both off."""
    mx.limits = {"removal_grace": "0s"}
    with ScriptedHTTP() as server:
        host = Host(server)
        mx.sources = {"corp": host.config()}
        host.put(listed(people(40)))
        mx.sync_unchecked(0)
        host.put(listed(people(39)))
        mx.wait(EVERY)
        assert mx.sync_unchecked(0).plan.removed == 1
        runs(mx, 2 * HOUR)
        assert host.asked.count(True) == 1


def test_who_comes_back_before_the_look_never_left(mx: Scenario) -> None:
    """And nobody looks: nothing waits any more."""
    with ScriptedHTTP() as server:
        host = Host(server)
        mx.sources = {"corp": host.config()}
        for count in (40, 39, 40):
            host.put(listed(people(count)))
            mx.sync_unchecked(0)
            mx.wait(EVERY)
        before = len(host.asked)
        runs(mx, 25 * HOUR)
        assert mx.published() == people(40)
        assert not any(host.asked[before:])


@pytest.mark.parametrize("of_own_source", [True, False])
def test_who_was_back_while_nothing_could_be_published_waits_anew(
    mx: Scenario,
    monkeypatch: pytest.MonkeyPatch,
    of_own_source: bool,  # noqa: FBT001 - a parameter
) -> None:
    """A recipient is back in an answer that only a failed run saw: when it is gone again, its wait begins again."""
    mx.sources, mx.confirm_after = {"corp": {}, "extra": {}}, "0s"
    full, others = people(40), people(5, first=100)
    mx.write("corp", full)
    mx.write("extra", others)
    mx.sync()
    left, back = full - people(1), "corp" if of_own_source else "extra"
    mx.write("corp", left)
    mx.wait(HOUR)
    assert mx.sync().plan.in_grace == 1
    broken = broken_postmap(mx.directory)
    with monkeypatch.context() as path:
        path.setenv("PATH", f"{broken}{os.pathsep}{os.environ['PATH']}")
        mx.write(back, {"corp": full, "extra": others | people(1)}[back])
        mx.write("extra" if of_own_source else "corp", {"more@example.com"} | (others if of_own_source else left))
        mx.wait(EVERY)
        mx.sync_unchecked(73)
    mx.write(back, {"corp": left, "extra": others}[back])
    mx.wait(2 * HOUR)
    assert mx.sync().plan.in_grace == 1
    assert people(1) <= mx.published()
    mx.wait(2 * HOUR)
    assert mx.sync().plan.removed == 1


def test_a_look_that_fails_is_tried_again_in_an_hour(mx: Scenario) -> None:
    """The source stays as whole as it was: what is refused is the look alone, which confirms nothing."""
    with ScriptedHTTP() as server:
        host = Host(server)
        mx.sources = {"corp": host.config(confirm_after="0s")}
        for count in (40, 39):
            host.put(listed(people(count)))
            mx.sync_unchecked(0)
            mx.wait(EVERY)
        mx.wait(-EVERY)
        host.refuses_full = True
        before = len(host.asked)
        runs(mx, 3 * HOUR, EVERY)
        assert mx.published() == people(40)
        looks = [number for number, is_full in enumerate(host.asked[before:]) if is_full]
        assert 2 <= len(looks) <= 3, looks
        host.refuses_full = False
        assert runs(mx, 2 * HOUR, EVERY, until=removes) <= HOUR / EVERY
        assert mx.published() == people(39)


def told(mx: Scenario, *args: str, code: int = 0) -> str:
    """Give what a verb prints, by the clock of the test."""
    clock = Clock(mx.now - time.time())
    with patch.dict(os.environ, clock.env):
        return mx.say(*args, code=code).stdout


def moment(seconds: float) -> str:
    """Give a time as people are told it."""
    return time.strftime("%Y-%m-%d %H:%M", time.gmtime(seconds))


def test_until_when_and_why(mx: Scenario) -> None:
    """`plan`, `sync`, `status` and `explain` say it: by the real command, under a clock that is set ahead."""
    mx.set_clock(time.time() + HOUR)
    gone = (people(40) - people(39)).pop()
    mx.write("corp", people(40))
    told(mx, "sync")
    mx.wait(EVERY)
    mx.write("corp", people(39))
    first = mx.now
    why = "list without end line (source corp): confirm_after"
    for verb in ("plan", "sync"):
        text = told(mx, verb)
        assert f"in grace: 1 recipient stays until {moment(first + DAY)}" in text
        assert why in text
    mx.wait(DAY - 10 * MINUTE)
    text = told(mx, "sync")
    assert f"1 recipient stays until {moment(first + DAY)}" in text
    text = told(mx, "status")
    assert f"in grace: 1 recipient stays until {moment(first + DAY)}" in text
    assert why in text
    text = told(mx, "explain", gone)
    assert f"it stays until {moment(first + DAY)}" in text
    assert why in text
    mx.wait(15 * MINUTE)
    assert "REMOVED" in told(mx, "sync")
    assert mx.published() == people(39)
    assert "in grace" not in told(mx, "status")


def test_the_grace_and_the_look_are_named_as_well(mx: Scenario) -> None:
    """What a removal waits for is told in words."""
    mx.set_clock(time.time() + HOUR)
    mx.sources = {"corp": {"confirm_after": "0s"}}
    mx.write("corp", people(40))
    told(mx, "sync")
    mx.write("corp", people(38))
    mx.wait(EVERY)
    first = mx.now
    told(mx, "sync")
    mx.write("corp", people(37))
    mx.wait(EVERY)
    text = told(mx, "plan")
    assert f"3 recipients stay, the first until {moment(first + HOUR)}" in text
    assert f"the last until {moment(first + HOUR + EVERY)}" in text
    assert ": limits.removal_grace" in text


def test_a_removal_that_is_stuck(mx: Scenario) -> None:
    """After three times its time it is an alarm, which says for what it waits, and ends with the removal."""
    with ScriptedHTTP() as server:
        host = Host(server)
        mx.set_clock(time.time() + HOUR)
        mx.sources = {"corp": host.config(confirm_after="0s")}
        host.put(listed(people(40)))
        told(mx, "sync")
        host.put(listed(people(39)))
        mx.wait(EVERY)
        told(mx, "sync")
        host.refuses_full = True
        for hour in range(4):
            mx.wait(HOUR - MINUTE)
            told(mx, "sync")
            is_stuck = hour == 3
            said = json.loads(told(mx, "status", "--json", code=65 if is_stuck else 0))
            assert [alarm["kind"] for alarm in said["alarms"]] == ["removal-stuck"] * is_stuck
        assert "the whole list is to be read once more (source corp)" in said["alarms"][0]["text"]
        host.refuses_full = False
        mx.wait(HOUR + MINUTE)  # the last look was tried some seconds after its run began
        told(mx, "sync")
        assert mx.published() == people(39)
        told(mx, "status")


def test_the_agent_looks_when_it_is_due(tmp_path: Path) -> None:
    """An agent that is scheduled once a week wakes for the removal, and asks only the source that owes a look."""
    mx = Station(tmp_path)
    mx.limits, mx.confirm_after = {"removal_grace": "1h"}, "24h"
    mx.sources = {"corp": {}, "other": {}}
    mx.schedule = {"every": "7d"}
    mx.write("corp", people(40))
    mx.write("other", people(5, "example.com", first=100))
    mx.set_clock(time.time() - DAY + 30)  # the agent has the real clock: libfaketime breaks the sleep of its threads
    mx.sync_unchecked(0)
    mx.write("corp", people(39))
    mx.sync_unchecked(0)
    with Agent(mx.configure()) as agent:
        agent.wait("unchanged")
        assert people(40) <= mx.published()
        woken = agent.wait("run", why="a removal is due")
        assert woken["due"] == ["corp"]
        agent.wait("published", run_id=woken["run_id"])
        assert mx.published() == people(39) | people(5, "example.com", first=100)


def test_a_look_by_a_clock_that_was_ahead_confirms_nothing(mx: Scenario) -> None:
    """What was read by a clock that was days ahead is no look at a later time by the right one."""
    with ScriptedHTTP() as server:
        host = Host(server)
        mx.sources = {"corp": host.config()}
        host.put(listed(people(40)))
        mx.sync_unchecked(0)
        mx.wait(3 * DAY)
        host.put(listed(people(39)))
        mx.sync_unchecked(0)
        mx.wait(-3 * DAY)
        mx.sync_unchecked(65)
        host.refuses_full = True
        runs(mx, 2 * DAY)
        assert mx.published() == people(40)
        host.refuses_full = False
        assert runs(mx, DAY, until=removes) <= 2 * HOUR / SELDOM


def team(*, bare: bool) -> list[str]:
    """Give 40 lines, of full addresses or bare names; none is the beginning of another."""
    return [f"person.{number:02}" if bare else f"user{number:03}@example.com" for number in range(40)]


@pytest.mark.parametrize("grace", ["0s", "1h"])
@pytest.mark.parametrize("bare", [False, True], ids=["full", "bare"])
@pytest.mark.parametrize("way", ["file", "http-etag", "http"])
def test_nobody_goes_by_a_torn_list(tmp_path: Path, way: str, bare: bool, grace: str) -> None:  # noqa: FBT001
    """A list that is cut in the middle of a line is a failure of its source, however long it stays so."""
    mx = Scenario(tmp_path)
    mx.set_clock(START)
    mx.limits = {"removal_grace": grace, "removed_percent": 100, "removed_max": 1000}
    whole = "".join(f"{line}\n" for line in team(bare=bare)).encode()
    keys: dict[str, object] = {"confirm_after": "0s"} | ({"domains": ["example.com"]} if bare else {})
    torn = whole[: 712 if not bare else 201]
    assert not torn.endswith(b"\n")
    with ScriptedHTTP() as server:
        host = Host(server, etag=way == "http-etag")
        mx.sources = {"corp": host.config(**keys) if way != "file" else keys}

        def put(text: bytes) -> None:
            host.put(text)
            mx.file("corp").write_bytes(text)

        put(whole)
        mx.sync_unchecked(0)
        everybody = mx.published()
        assert len(everybody) == 40
        put(torn)
        for seconds in (EVERY, EVERY, HOUR, DAY, DAY):
            mx.wait(seconds)
            (source,) = mx.sync_unchecked(75).sources
            assert "ended in a line feed before and does not now" in source.error
            assert mx.published() == everybody
        put(whole)
        mx.wait(EVERY)
        assert mx.sync_unchecked(0).plan.removed == 0


@pytest.mark.parametrize("bare", [False, True], ids=["full", "bare"])
def test_a_list_that_never_had_a_last_line_feed(mx: Scenario, *, bare: bool) -> None:
    """It works as any other, and is torn where its last line is the beginning of somebody who is missing."""
    mx.sources = {"corp": {"confirm_after": "0s", **({"domains": ["example.com"]} if bare else {})}}
    lines = team(bare=bare)
    mx.file("corp").write_text("\n".join(lines))
    mx.sync_unchecked(0)
    assert len(mx.published()) == 40
    mx.wait(EVERY)
    mx.file("corp").write_text("\n".join(lines[:-2]))
    mx.sync_unchecked(0)
    assert runs(mx, DAY, until=removes) == HOUR / SELDOM
    assert len(mx.published()) == 38
    mx.wait(EVERY)
    mx.file("corp").write_text("\n".join(lines[:20])[:-3])
    (source,) = mx.sync_unchecked(75).sources
    assert "is the beginning of" in source.error
    assert len(mx.published()) == 38
