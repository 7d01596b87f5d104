"""Somebody is told once when something begins to need a person, and once when that is over."""

import json
import os
import shlex
import signal
import threading
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from syncagent.agent import notify
from syncagent.agent.notify import DeliveryError, deliver, event, news, repeated
from syncagent.config.tables import Notify
from syncagent.state.alarms import Alarm
from syncagent.state.status import AGENT_FILE, LastRun, read_agent
from syncagent.values.types import Duration, SecretFile
from tests.agent import Station
from tests.scenario import people
from tests.support.authority import Authority
from tests.support.ports import free_port
from tests.support.programs import allowed, wait_until
from tests.support.reporting import Desk
from tests.support.scripted_http import Asked as Request
from tests.support.scripted_http import Part, ScriptedHTTP, answer

SECRET = "T0SECRET"
STALE = Alarm("stale", "corp", "data of source corp is 2h old")
HELD = Alarm("held", "example.com percent", "held: 20 removals of example.com")


# --- what is news


alarms = st.builds(Alarm, st.sampled_from(["held", "stale", "canary"]), st.sampled_from("abc"), st.text(max_size=3))
standing = st.lists(alarms, max_size=6).map(lambda found: {alarm.key: alarm for alarm in found})


@given(st.lists(standing, max_size=12))
def test_each_change_is_told_once(states: list[dict[str, Alarm]]) -> None:
    """Whoever is told all news knows what stands; raised and recovered take turns, and words alone are no news."""
    told: dict[str, Alarm] = {}
    last: dict[str, str] = {}
    for now in states:
        for what, alarm in news(told, now):
            assert last.get(alarm.key, "recovered") != what
            last[alarm.key] = what
            if what == "raised":
                assert alarm == now[alarm.key]
                told[alarm.key] = alarm
            else:
                assert alarm == told.pop(alarm.key)
        assert told.keys() == now.keys()
        assert news(told, now) == []


@given(standing)
def test_nothing_is_news_of_what_was_told(now: dict[str, Alarm]) -> None:
    """To begin with all is raised, what is new before what is over; at the end all is over."""
    assert news({}, now) == [("raised", alarm) for alarm in now.values()]
    assert news(now, {}) == [("recovered", alarm) for alarm in now.values()]
    assert news(now, now) == []


def test_a_warning_that_becomes_an_error_is_told_again() -> None:
    """As raised, once; an error that becomes a warning is no news."""
    warning, error = (Alarm("doubt", "map", "in doubt", severity) for severity in ("warning", "error"))
    assert news({warning.key: warning}, {error.key: error}) == [("raised", error)]
    assert news({error.key: error}, {error.key: error}) == []
    assert news({error.key: error}, {warning.key: warning}) == []


def test_what_is_told_again_and_when() -> None:
    """A standing alarm is told again once notify.repeat is over since it was told, or if that is in the future."""
    both = {STALE.key: STALE, HELD.key: HELD}
    all_again = [("raised", STALE), ("raised", HELD)]
    for now, again in ((1000, False), (1099, False), (1100, True), (999, True)):
        assert repeated(both, dict.fromkeys(both, 1000.0), both, now, 100) == (all_again if again else [])
    assert repeated({}, {}, both, 5000, 100) == [], "it was not told yet"
    assert repeated(both, {}, both, 5000, 100) == all_again, "nobody knows when"
    assert repeated(both, dict.fromkeys(both, 1000.0), both, 9000, 0) == [], "it is off"
    assert repeated(both, dict.fromkeys(both, 1000.0), {HELD.key: HELD}, 9000, 100) == [("raised", HELD)], "one is over"


def test_an_alarm_with_a_longer_time_of_its_own() -> None:
    """It is told again when both times are over; off is off."""
    alarm = Alarm("doubt", "empty", "in doubt", "warning", 100.0)
    told, at = {alarm.key: alarm}, {alarm.key: 1000.0}
    for now, every, again in (
        (1099, 10, False),
        (1100, 10, True),
        (1100, 200, False),
        (1200, 200, True),
        (9000, 0, False),
    ):
        assert repeated(told, at, told, now, every) == ([("raised", alarm)] if again else []), (now, every)


def test_the_event(monkeypatch: pytest.MonkeyPatch) -> None:
    """An event has all of it in words, and when, in UTC; one that is over says so."""
    monkeypatch.setattr("socket.gethostname", lambda: "mx2")
    assert msgspec.to_builtins(event("raised", STALE, "lmdb:/map", 1769824800.9)) == {
        "event": "raised",
        "kind": "stale",
        "subject": "corp",
        "text": "syncagent on mx2: data of source corp is 2h old",
        "host": "mx2",
        "map": "lmdb:/map",
        "at": "2026-01-31T02:00:00+00:00",
        "severity": "error",
    }
    assert event("recovered", STALE, "lmdb:/map", 0).text == "syncagent on mx2: over: data of source corp is 2h old"


# --- one who is told


class Told:
    """A program that is told, and remembers; ``does`` is what it does besides, in sh."""

    def __init__(self, directory: Path, does: str = "") -> None:
        self.file, self.program = directory / "told", directory / "tell-admin"
        self.does(does)

    def does(self, script: str) -> None:
        """Have it do this, after it has noted what it was told."""
        new = self.program.with_suffix(".new")
        new.write_text(f"#!/bin/sh\n{{ cat; echo; }} >> {shlex.quote(str(self.file))}\n{script}\n", "utf-8")
        new.chmod(0o755)
        new.replace(self.program)

    @property
    def settings(self) -> Notify:
        """The configuration that leads to it."""
        return Notify(command=(str(self.program),), timeout=Duration(5))

    @property
    def events(self) -> list[dict[str, Any]]:
        """What it was told."""
        return [json.loads(line) for line in self.file.read_text("utf-8").splitlines()] if self.file.exists() else []

    @property
    def changes(self) -> list[tuple[str, str]]:
        """What it was told, in short."""
        return [(one["event"], one["kind"]) for one in self.events]


@pytest.fixture
def told(tmp_path: Path) -> Told:
    """A program that is told."""
    return Told(tmp_path)


def undelivered(settings: Notify, way: str = "command") -> str:
    """Tell an event and give why that was not possible."""
    with pytest.raises(DeliveryError) as caught:
        deliver(settings, way, event("raised", STALE, "lmdb:/map", 0))
    assert SECRET not in f"{caught.value} {caught.value.__cause__} {caught.value.whom}"
    assert caught.value.__cause__ is None
    return f"{caught.value.whom}: {caught.value}"


def test_a_command_gets_json(told: Told) -> None:
    """It gets the whole event as JSON on its standard input, with its own arguments."""
    deliver(told.settings, "command", event("raised", HELD, "lmdb:/map", 0))
    assert told.events == [msgspec.to_builtins(event("raised", HELD, "lmdb:/map", 0))]


def test_a_command_that_fails(told: Told) -> None:
    """Its exit status and what it said are the reason."""
    told.does("echo 'no route to mail' >&2; exit 3")
    assert undelivered(told.settings) == f"notify.command: {told.program} exits 3: no route to mail"


def test_a_command_that_says_much(told: Told) -> None:
    """Only the end of what it says is kept."""
    told.does("head -c 3000000 /dev/zero | tr '\\0' x >&2; echo the end >&2; exit 1")
    said = undelivered(told.settings)
    assert said.endswith("the end")
    assert len(said) < 500


def test_a_command_that_hangs(told: Told) -> None:
    """It is ended in time, and so is what it started."""
    child = told.program.with_name("child")
    told.does(f"sleep 1000 & echo $! > {child}; wait")
    began = time.monotonic()
    said = undelivered(Notify(command=(str(told.program),), timeout=Duration(1)))
    assert 1 <= time.monotonic() - began < allowed(5)
    assert "did not end in time" in said
    assert wait_until(lambda: not Path(f"/proc/{child.read_text().strip()}/stat").exists() or is_dead(child))


def is_dead(child: Path) -> bool:
    """Tell whether a process is one no more, though nobody has asked for its end."""
    return Path(f"/proc/{child.read_text().strip()}/stat").read_text().rpartition(")")[2].split()[0] == "Z"


def test_a_command_that_leaves_something_behind(told: Told) -> None:
    """What goes on in the background, its standard error still open, is not waited for."""
    child = told.program.with_name("child")
    told.does(f"sleep 1000 & echo $! > {child}")
    began = time.monotonic()
    settings = Notify(command=told.settings.command, timeout=Duration(600))
    deliver(settings, "command", event("raised", HELD, "lmdb:/map", 0))
    assert time.monotonic() - began < allowed(4)
    os.kill(int(child.read_text()), signal.SIGKILL)


def test_a_command_that_does_not_listen(tmp_path: Path) -> None:
    """One that reads nothing is told all the same."""
    deliver(Notify(command=("true",)), "command", event("raised", Alarm("held", "x", "y" * 1_000_000), "m", 0))


@pytest.mark.parametrize(("name", "why"), [("none", "No such file"), ("plain", "Permission denied"), ("a\0b", "null")])
def test_a_command_that_is_not_there(tmp_path: Path, name: str, why: str) -> None:
    """One that cannot be run is the reason, by its name."""
    (tmp_path / "plain").touch(mode=0o644)
    assert why in undelivered(Notify(command=(f"{tmp_path}/{name}",)))


@pytest.fixture
def hook(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ScriptedHTTP]:
    """A webhook over TLS, of an authority that this process trusts."""
    authority = Authority()
    monkeypatch.setenv("SSL_CERT_FILE", str(authority.ca_file(tmp_path)))
    with ScriptedHTTP(authority.server_context(tmp_path, "localhost")) as server:
        server.routes[f"/{SECRET}"] = lambda _: answer("ok")
        yield server


def posted(server: ScriptedHTTP) -> list[tuple[str, str]]:
    """Give what was posted to it, in short."""
    bodies = [json.loads(asked.body) for asked in server.asked if asked.method == "POST"]
    return [(body["event"], body["kind"]) for body in bodies]


def test_a_webhook(hook: ScriptedHTTP, tmp_path: Path) -> None:
    """It gets the event as JSON by POST, over TLS, at a URL from a file."""
    secret = tmp_path / "webhook"
    secret.touch(mode=0o600)
    secret.write_text(f"{hook.url}/{SECRET}\n")
    deliver(Notify(url_file=SecretFile(secret)), "url", event("raised", HELD, "lmdb:/map", 0))
    (asked,) = hook.asked
    assert (asked.method, asked.path, asked.headers["content-type"]) == ("POST", f"/{SECRET}", "application/json")
    assert json.loads(asked.body) == msgspec.to_builtins(event("raised", HELD, "lmdb:/map", 0))


@pytest.mark.parametrize(("status", "why"), [(404, "answers 404"), (500, "answers 500"), (302, "answers 302")])
def test_a_webhook_that_refuses(hook: ScriptedHTTP, status: int, why: str) -> None:
    """Anything but success is not told; nobody is sent elsewhere with it."""
    hook.routes[f"/{SECRET}"] = lambda _: answer("x", status, location="/other")
    assert undelivered(Notify(url=f"{hook.url}/{SECRET}"), "url") == f"notify.url: {why}"
    assert len(hook.asked) == 1


def test_a_webhook_that_is_not_who_it_says(tmp_path: Path) -> None:
    """A certificate that nobody vouches for is refused, and nothing is said to its owner."""
    with ScriptedHTTP(Authority().server_context(tmp_path, "localhost")) as server:
        assert "cannot be reached: ConnectError" in undelivered(Notify(url=f"{server.url}/{SECRET}"), "url")
        assert server.asked == []


def test_a_webhook_that_is_down_or_hangs(hook: ScriptedHTTP) -> None:
    """Neither takes longer than the time-out, and both are told without the URL."""
    assert "cannot be reached" in undelivered(Notify(url=f"https://localhost:{free_port()}/{SECRET}"), "url")
    hook.routes[f"/{SECRET}"] = lambda _: ["stall"]
    began = time.monotonic()
    assert "no answer in time" in undelivered(Notify(url=f"{hook.url}/{SECRET}", timeout=Duration(1)), "url")
    assert time.monotonic() - began < allowed(5)


def test_an_answer_that_trickles(hook: ScriptedHTTP) -> None:
    """Octets of a header now and then, each in time, are not waited for beyond notify.timeout."""

    def trickle(_: Request) -> Iterable[Part]:
        yield b"HTTP/1.1 200 OK\r\nx: "
        while True:
            yield b"x"
            yield 0.05

    hook.routes[f"/{SECRET}"] = trickle
    told = undelivered(Notify(url=f"{hook.url}/{SECRET}", timeout=Duration(1)), "url")
    assert "no answer in time: see notify.timeout" in told


def test_an_answer_that_never_ends(hook: ScriptedHTTP) -> None:
    """What a webhook answers is not read: its first line is enough."""
    hook.routes[f"/{SECRET}"] = lambda _: [next(iter(answer("x" * 100_000))), "stall"]
    began = time.monotonic()
    deliver(Notify(url=f"{hook.url}/{SECRET}", timeout=Duration(600)), "url", event("raised", HELD, "m", 0))
    assert time.monotonic() - began < allowed(5)


@pytest.mark.parametrize(
    "url", [f"https://[{SECRET}", f"gopher://{SECRET}", f"https://{SECRET}\x01/", f"https://ü.{SECRET}."]
)
def test_a_url_that_is_none(tmp_path: Path, url: str) -> None:
    """A secret URL that cannot be used is not told to the log."""
    secret = tmp_path / "webhook"
    secret.touch(mode=0o600)
    secret.write_text(url)
    assert "notify.url" in undelivered(Notify(url_file=SecretFile(secret)), "url")


def test_a_secret_that_cannot_be_used(tmp_path: Path) -> None:
    """A missing secret, or one that lies open, is the reason, by its path."""
    path = tmp_path / "webhook"
    assert f"{path} cannot be read" in undelivered(Notify(url_file=SecretFile(path)), "url")
    path.write_text(f"https://localhost/{SECRET}")
    path.chmod(0o644)
    assert f"chmod 600 {path}" in undelivered(Notify(url_file=SecretFile(path)), "url")


# --- who is told of what a run comes to


@pytest.fixture
def mx(tmp_path: Path, told: Told) -> Station:
    """A backup MX of 40 people, with somebody to tell."""
    station = Station(tmp_path)
    station.schedule = {}
    station.limits["collect"] = "0s"
    station.write("corp", people(40))
    configure(station, command=[str(told.program)])
    return station


@pytest.fixture
def desk(mx: Station) -> Desk:
    """Its agent, after a good run."""
    desk = Desk(mx)
    desk.run()
    desk.clear()
    return desk


def configure(mx: Station, **keys: object) -> None:
    """Say whom to tell."""
    keys.setdefault("timeout", "5s")
    mx.extra = "\n".join(["[notify]", *(f"{key} = {json.dumps(value)}" for key, value in keys.items()), ""])


def settled(desk: Desk) -> None:
    """Wait until nothing is under way."""
    notifier = desk.reporter._notifier
    assert notifier
    assert wait_until(lambda: not notifier._under_way)


def run(desk: Desk, times: int = 1) -> None:
    """Do a run, or several, and wait until all is told."""
    for _ in range(times):
        desk.run()
        settled(desk)


def test_nothing_happened_so_nothing_is_told(desk: Desk, told: Told) -> None:
    """Good runs tell nobody anything, and need no thread for it."""
    run(desk, 3)
    assert told.events == []
    assert not any(one.name == "notifier" for one in threading.enumerate() if one is desk.reporter._notifier)


def test_held_is_told_once_and_that_it_is_over(desk: Desk, mx: Station, told: Told) -> None:
    """Once for as long as it is held, though its count and age change; and once when it is not."""
    for count in (25, 25, 26, 27):
        mx.write("corp", people(count))
        run(desk)
    assert told.changes == [("raised", "held")]
    assert "15 removals of example.com" in told.events[0]["text"]
    assert f"--config {mx.config} approve " in told.events[0]["text"]
    assert told.events[0]["subject"].startswith("example.com percent")
    mx.write("corp", people(40))
    run(desk, 2)
    assert told.changes == [("raised", "held"), ("recovered", "held")]


def test_a_hold_is_told_once_it_is_frozen(desk: Desk, mx: Station, told: Told) -> None:
    """While recipients still join it, `status` shows it as collecting, and nobody is told."""
    mx.limits["collect"] = "1h"
    mx.write("corp", people(35))
    mx.write("corp", people(30))
    run(desk, 2)
    assert told.changes == []
    collecting = (
        "(collecting: further removals still join it, and its ID changes then; an ID approves what it was shown for)"
    )
    assert f"held: 10 removals of example.com {collecting}: " in mx.say("status", code=None).stderr
    mx.limits["collect"] = "0s"
    run(desk)
    assert told.changes == [("raised", "held")]
    assert "held: 10 removals of example.com: " in told.events[0]["text"]


def test_each_frozen_hold_of_a_domain_is_told(desk: Desk, mx: Station, told: Told) -> None:
    """What is lost later for the same reason is another thing to decide."""
    for count in (34, 28, 28):
        mx.write("corp", people(count))
        run(desk)
    assert told.changes == [("raised", "held")] * 2
    assert len({one["subject"] for one in told.events}) == 2


def test_another_reason_is_told(desk: Desk, mx: Station, told: Told) -> None:
    """The same domain held for another reason as well is another thing to decide."""
    mx.write("corp", people(20))
    run(desk)
    mx.limits["canaries"] = ["canary@example.com"]
    run(desk, 2)
    assert told.changes[0] == ("raised", "held")
    assert sorted(told.changes[1:]) == [("raised", "canary"), ("raised", "held"), ("recovered", "held")]
    assert (
        "canary"
        in next(one for one in told.events[1:] if one["event"] == "raised" and one["kind"] == "held")["subject"]
    )


def test_a_source_that_comes_and_goes_tells_nothing_of_a_hold(tmp_path: Path, told: Told) -> None:
    """While removals are held anyway, another source that fails and recovers is no other reason for a person."""
    mx = Station(tmp_path, "corp", "extra")
    mx.limits["collect"] = "0s"
    mx.write("corp", people(40))
    mx.write("extra", people(3, first=100))
    configure(mx, command=[str(told.program)])
    desk = Desk(mx)
    run(desk)
    mx.write("corp", people(20))
    for _ in range(3):
        mx.write("extra", people(3, first=100))
        run(desk)
        mx.break_source("extra")
        run(desk)
    assert told.changes == [("raised", "held")]


def test_stale_and_recovered(desk: Desk, mx: Station, told: Told, monkeypatch: pytest.MonkeyPatch) -> None:
    """A source that fails for longer than max_age is told once, and once that it is whole again."""
    mx.break_source("corp")
    run(desk, 2)
    assert told.changes == []
    mx.schedule = {"every": "1s", "max_age": "1s"}
    time.sleep(1.2)
    run(desk, 3)
    assert told.changes == [("raised", "stale")]
    mx.write("corp", people(40))
    run(desk, 2)
    assert told.changes == [("raised", "stale"), ("recovered", "stale")]


def test_publishing_that_fails(mx: Station, told: Told, monkeypatch: pytest.MonkeyPatch) -> None:
    """Told once, and once that it went well again."""
    mx.own_postmap()
    monkeypatch.setenv("PATH", mx.env["PATH"])
    desk = Desk(mx)
    run(desk)
    mx.postmap_fails.touch()
    mx.write("corp", people(41))
    run(desk, 3)
    assert told.changes == [("raised", "publish-failed")]
    assert "no space left" in told.events[0]["text"]
    mx.postmap_fails.unlink()
    run(desk, 2)
    assert told.changes == [("raised", "publish-failed"), ("recovered", "publish-failed")]


def test_it_was_told_before_a_restart(desk: Desk, mx: Station, told: Told) -> None:
    """What was told is remembered: another process does not tell it again, and tells that it is over."""
    mx.write("corp", people(20))
    run(desk)
    for _ in range(3):
        desk.restart()
        run(desk)
    assert told.changes == [("raised", "held")]
    desk.reporter.stop(desk.config)
    desk.restart()
    mx.write("corp", people(40))
    run(desk)
    assert told.changes == [("raised", "held"), ("recovered", "held")]
    left = read_agent(mx.state)
    assert left
    assert left.told == {"command": {}}


def test_what_was_told_is_lost(desk: Desk, mx: Station, told: Told) -> None:
    """Where nobody knows what was told it is told again: rather twice than never."""
    mx.write("corp", people(20))
    run(desk)
    (mx.state / AGENT_FILE).write_bytes(b"{")
    desk.restart()
    run(desk)
    assert told.changes == [("raised", "held")] * 2


def date_back(mx: Station, seconds: float) -> None:
    """Have the agent's file say that everything was told earlier."""
    state = read_agent(mx.state)
    assert state
    told_at = {way: {key: at - seconds for key, at in times.items()} for way, times in state.told_at.items()}
    (mx.state / AGENT_FILE).write_bytes(msgspec.json.encode(replace(state, told_at=told_at)))


@pytest.mark.parametrize(
    ("keys", "seconds", "is_told"),
    [({}, 86500, True), ({}, 86000, False), ({"repeat": "1h"}, 3700, True), ({"repeat": "0s"}, 1e7, False)],
)
def test_what_stands_is_told_again(
    mx: Station, told: Told, keys: dict[str, str], seconds: float, *, is_told: bool
) -> None:
    """After notify.repeat, a day unless set, "0s": not again; the time outlives the agent."""
    desk = Desk(mx)
    run(desk)
    configure(mx, command=[str(told.program)], **keys)
    mx.write("corp", people(20))
    run(desk, 2)
    date_back(mx, seconds)
    desk.restart()
    run(desk, 2)
    assert told.changes == [("raised", "held")] * (2 if is_told else 1)


def test_an_upgrade_tells_nothing_again(desk: Desk, mx: Station, told: Told) -> None:
    """An agent of 0.1.0 did not record when it told what stands: that counts as told just now."""
    mx.write("corp", people(20))
    run(desk)
    state = read_agent(mx.state)
    assert state
    (mx.state / AGENT_FILE).write_bytes(msgspec.json.encode(replace(state, told_at={})))
    desk.restart()
    run(desk)
    assert told.changes == [("raised", "held")]


def test_a_command_that_fails_is_tried_again(desk: Desk, mx: Station, told: Told) -> None:
    """What did not reach somebody is told after the next run, until it does; the log has that once."""
    told.does("exit 1")
    mx.write("corp", people(20))
    run(desk, 3)
    assert told.changes == [("raised", "held")] * 3
    (line,) = desk.events("could not tell")
    assert (line["level"], line["whom"]) == ("error", "notify.command")
    told.does("")
    run(desk, 3)
    assert told.changes == [("raised", "held")] * 4
    assert len(desk.events("could tell again", whom="notify.command")) == 1


def test_one_way_fails_and_the_other_does_not(desk: Desk, mx: Station, told: Told, hook: ScriptedHTTP) -> None:
    """Whoever was told is not told again since another could not be; and that one is, once it can."""
    configure(mx, command=[str(told.program)], url=f"{hook.url}/{SECRET}")
    hook.routes[f"/{SECRET}"] = lambda _: answer("down", 503)
    mx.write("corp", people(20))
    run(desk, 3)
    assert told.changes == [("raised", "held")]
    assert posted(hook) == [("raised", "held")] * 3
    hook.routes[f"/{SECRET}"] = lambda _: answer("ok")
    run(desk, 3)
    assert told.changes == [("raised", "held")]
    assert posted(hook) == [("raised", "held")] * 4
    hook.routes[f"/{SECRET}"] = lambda _: answer("down", 503)
    mx.write("corp", people(40))
    run(desk, 2)
    hook.routes[f"/{SECRET}"] = lambda _: answer("ok")
    run(desk, 2)
    assert told.changes == [("raised", "held"), ("recovered", "held")]
    assert posted(hook)[4:] == [("recovered", "held")] * 3
    assert SECRET not in json.dumps(desk.lines)


def test_who_is_slow_is_not_told_twice(desk: Desk, mx: Station, told: Told) -> None:
    """Runs go on while somebody is being told, and do not tell it again; nor does it pile up."""
    slow = told.program.with_name("slow")
    slow.touch()
    told.does(f"while [ -e {slow} ]; do sleep 0.05; done")
    configure(mx, command=[str(told.program)], timeout="10m")
    mx.write("corp", people(20))
    for _ in range(5):
        desk.run()
    notifier = desk.reporter._notifier
    assert notifier
    assert notifier._under_way
    assert notifier._waiting.qsize() <= 1
    slow.unlink()
    settled(desk)
    run(desk)
    assert told.changes == [("raised", "held")]


def test_over_before_it_was_told(desk: Desk, mx: Station, told: Told) -> None:
    """What is over while it is being told is told as over after the next run."""
    told.does("sleep 1")
    mx.write("corp", people(20))
    desk.run()
    mx.write("corp", people(40))
    desk.run()
    settled(desk)
    run(desk)
    assert told.changes == [("raised", "held"), ("recovered", "held")]


def test_a_secret_url_is_never_logged(desk: Desk, mx: Station, tmp_path: Path, hook: ScriptedHTTP) -> None:
    """Whether the webhook takes it, refuses it or is down: neither the log nor the state has its URL."""
    path = tmp_path / "webhook"
    path.touch(mode=0o600)
    for url, count in ((f"https://localhost:{free_port()}/{SECRET}", 20), (f"{hook.url}/{SECRET}", 19)):
        path.write_text(url)
        configure(mx, url_file=str(path), timeout="2s")
        mx.write("corp", people(count))
        run(desk, 2)
    hook.routes[f"/{SECRET}"] = lambda _: answer("no", 400)
    mx.write("corp", people(40))
    run(desk, 2)
    assert posted(hook) == [("raised", "held"), ("recovered", "held"), ("recovered", "held")]
    assert len(desk.events("could not tell")) == 2
    assert SECRET not in json.dumps(desk.lines)
    assert SECRET.encode() not in (mx.state / AGENT_FILE).read_bytes()


def test_the_ping(desk: Desk, mx: Station, hook: ScriptedHTTP) -> None:
    """It is asked for after each run that was right, or held, and not where something is stale or unpublished."""
    hook.routes["/ping"] = lambda _: answer("OK")
    configure(mx, ping_url=f"{hook.url}/ping")
    run(desk, 2)
    assert [(asked.method, asked.path, asked.body) for asked in hook.asked] == [("GET", "/ping", b"")] * 2
    mx.write("corp", people(20))
    run(desk)
    assert len(hook.asked) == 3
    mx.break_source("corp")
    mx.schedule = {"every": "1s", "max_age": "1s"}
    time.sleep(1.2)
    run(desk, 2)
    assert len(hook.asked) == 3


def test_no_ping_for_a_run_that_was_none(desk: Desk, mx: Station, hook: ScriptedHTTP) -> None:
    """A run that did not get the lock, and one whose source failed, were not right, though nothing is stale yet."""
    hook.routes["/ping"] = lambda _: answer("OK")
    configure(mx, ping_url=f"{hook.url}/ping")
    desk.run()  # so that it was told who is configured
    settled(desk)
    assert len(hook.asked) == 1
    last = LastRun("20260131T020000Z-abcdef", time.time(), "failed", 75, 20.0)
    desk.reporter.tell(desk.config, None, last, None, ("inotify", 0))
    mx.break_source("corp")
    run(desk)
    assert len(hook.asked) == 1
    mx.write("corp", people(40))
    run(desk)
    assert len(hook.asked) == 2


def test_a_refused_configuration_is_told_once(
    desk: Desk, mx: Station, told: Told, hook: ScriptedHTTP, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many runs go well by the old one: once that it is refused, once that it is over; and systemd all along.

    Nobody is pinged meanwhile: all is not well.
    """
    lines: list[str] = []
    monkeypatch.setattr("syncagent.agent.reporting.tell_systemd", lambda *said: lines.extend(said))
    hook.routes["/ping"] = lambda _: answer("OK")
    configure(mx, command=[str(told.program)], ping_url=f"{hook.url}/ping")
    refused = "the new configuration is refused"
    desk.reporter.refuse(f"{refused}\nMAINPID=1")
    assert lines.pop() == f"STATUS={refused} MAINPID=1"
    desk.reporter.refuse(refused)
    lines.clear()
    run(desk, 2)
    mx.write("corp", people(20))
    run(desk)
    assert lines[:2] == [f"STATUS={refused}; 40 recipients, all is well"] * 2
    assert lines[2].startswith(f"STATUS={refused}; 40 recipients; needs a person: held")
    assert not hook.asked
    desk.reporter.refuse("")
    mx.write("corp", people(40))
    run(desk, 2)
    assert lines[-1] == "STATUS=40 recipients, all is well"
    assert len(hook.asked) == 2
    assert [change for change in told.changes if change[1] == "configuration"] == [
        ("raised", "configuration"),
        ("recovered", "configuration"),
    ]
    (raised,) = [one for one in told.events if (one["event"], one["kind"]) == ("raised", "configuration")]
    assert (raised["subject"], refused in raised["text"]) == (str(mx.config), True)


def test_a_refusal_is_over_with_the_agent_that_refused(desk: Desk, told: Told) -> None:
    """One that is started again has read the configuration: that it is over is told then."""
    desk.reporter.refuse("the new configuration is refused")
    run(desk)
    desk.restart()
    run(desk, 2)
    assert told.changes == [("raised", "configuration"), ("recovered", "configuration")]


def test_a_ping_that_hangs_does_not_pile_up(desk: Desk, mx: Station, hook: ScriptedHTTP) -> None:
    """While one is under way there is not another."""
    hook.routes["/ping"] = lambda _: ["stall"]
    configure(mx, ping_url=f"{hook.url}/ping", timeout="2s")
    for _ in range(6):
        desk.run()
    settled(desk)
    assert len(hook.asked) <= 2


def test_whom_to_tell_changes(desk: Desk, mx: Station, told: Told, hook: ScriptedHTTP) -> None:
    """One who is configured later is told what stands."""
    mx.write("corp", people(20))
    run(desk)
    configure(mx, url=f"{hook.url}/{SECRET}")
    run(desk, 2)
    assert told.changes == posted(hook) == [("raised", "held")]


# --- where the state directory itself is the trouble


def test_a_state_directory_that_cannot_be_used_is_told(desk: Desk, mx: Station, told: Told) -> None:
    """Nothing can be kept and no run comes to anything: somebody is told all the same, once."""
    away = mx.state.with_name("away")
    mx.state.rename(away)
    mx.state.write_text("no directory")
    run(desk, 3)
    assert told.changes == [("raised", "publish-failed")]
    assert str(mx.state) in told.events[0]["text"]
    assert len(desk.events("could not tell", whom="status")) == 1
    assert len(desk.events("needs a person")) == 1
    mx.state.unlink()
    away.rename(mx.state)
    run(desk, 2)
    assert told.changes == [("raised", "publish-failed"), ("recovered", "publish-failed")]


def test_what_stood_still_stands(desk: Desk, mx: Station, told: Told) -> None:
    """A ledger that cannot be read for a while is no sign that what was held is over."""
    mx.write("corp", people(20))
    run(desk)
    away = mx.state.with_name("away")
    mx.state.rename(away)
    mx.state.write_text("no directory")
    run(desk, 2)
    mx.state.unlink()
    away.rename(mx.state)
    run(desk)
    assert [change for change in told.changes if change[1] == "held"] == [("raised", "held")]


def test_a_line_for_systemd_is_one(desk: Desk, mx: Station, monkeypatch: pytest.MonkeyPatch) -> None:
    """What others say in an error is no second line to systemd, such as one that claims to be ready."""
    lines: list[str] = []
    monkeypatch.setattr("syncagent.agent.reporting.tell_systemd", lambda *told: lines.extend(told))
    mx.postfix["map"] = f"lmdb:{mx.directory}/none\nMAINPID=1/map"
    mx.postfix["reload"] = False
    run(desk)
    assert len(lines) == 1
    assert "\n" not in lines[0]
    assert "MAINPID=1" in lines[0]


@settings(max_examples=50)
@given(st.lists(standing, min_size=1, max_size=8), st.data())
def test_a_notifier_catches_up(states: list[dict[str, Alarm]], data: st.DataObject) -> None:
    """Whatever fails to be delivered when: in the end each one knows what stands, and was told each change in turn."""
    heard: dict[str, list[tuple[str, str]]] = {"command": [], "url": []}
    fails = {"command": False, "url": False}

    def delivered(_: Notify, way: str, told: notify.Event | None) -> None:
        if fails[way]:
            raise DeliveryError(way, "no")
        assert told
        heard[way].append((told.event, f"{told.kind} {told.subject}"))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(notify, "deliver", delivered)
        notifier = notify.Notifier({}, lambda: None, lambda *_: None, lambda _: None)
        for now in [*states, states[-1]]:
            fails |= {way: data.draw(st.booleans()) for way in fails}
            if now is states[-1]:
                fails = {"command": False, "url": False}
            notifier.notify(Notify(command=("x",), url="https://x"), now, "m", time.time())
            assert wait_until(lambda: not notifier._under_way, pause=0.0005)
    for way, changes in heard.items():
        known: set[str] = set()
        for what, key in changes:
            assert (key in known) == (what == "recovered"), (way, changes)
            known ^= {key}
        assert known == states[-1].keys() == notifier.told.get(way, {}).keys()
