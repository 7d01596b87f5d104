"""The agent's log: one line for each thing that happened, with a level that a person can be woken by."""

import io
import json
import logging
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr
from datetime import UTC, datetime
from pathlib import Path

import pytest

from syncagent.agent import log
from tests.agent import Station
from tests.scenario import people
from tests.support.agent import Agent
from tests.support.programs import PATIENCE, wait_until
from tests.support.reporting import Desk
from tests.support.scripted_http import ScriptedHTTP, answer
from tests.support.terminal import Terminal

SAYS = """
from syncagent.agent import log
logger = log.set_up("info")
log.in_run("run-1")
logger.debug("not shown")
for level in ("info", "warning", "error"):
    getattr(logger, level)("it happened", what="two words\\nand lines", count=3)
try:
    raise KeyError("x")
except KeyError:
    logger.exception("fault", error="KeyError")
"""
COMMAND = [sys.executable, "-c", SAYS]


@pytest.fixture(autouse=True)
def _as_it_was() -> Iterator[None]:
    """Leave logging as it was found: it is the process's own."""
    handlers = logging.root.handlers
    yield
    logging.root.handlers = handlers
    log.in_run("")


@pytest.fixture
def mx(tmp_path: Path) -> Station:
    """A backup MX of 40 people, which has never run."""
    station = Station(tmp_path)
    station.schedule = {}
    station.limits["collect"] = "0s"
    station.write("corp", people(40))
    return station


@pytest.fixture
def desk(mx: Station) -> Desk:
    """The same after a good run, its log forgotten."""
    desk = Desk(mx)
    desk.run()
    desk.clear()
    return desk


# --- how a line looks


def said(env: dict[str, str] | None = None) -> list[str]:
    """Give what the small program logs, its standard error a pipe."""
    done = subprocess.run(COMMAND, check=True, capture_output=True, text=True, env={**os.environ, **(env or {})})
    return done.stderr.splitlines()


def test_json_lines(mx: Station) -> None:
    """Elsewhere than on a terminal each line is JSON with event, level, run_id and a time in UTC."""
    lines = [json.loads(line) for line in said()]
    assert [line["level"] for line in lines] == ["info", "warning", "error", "error"]
    for line in lines:
        assert line["run_id"] == "run-1"
        stamp = datetime.fromisoformat(line["timestamp"])
        assert abs((datetime.now(UTC) - stamp).total_seconds()) < 60
    assert lines[0]["event"] == "it happened"
    assert (lines[0]["what"], lines[0]["count"]) == ("two words\nand lines", 3)
    assert "KeyError: 'x'" in lines[3]["exception"]


def test_under_systemd(tmp_path: Path) -> None:
    """Where the standard error leads to the journal each line begins with its level, as sd-daemon(3) has it."""
    path = tmp_path / "journal"
    with path.open("wb") as file:
        there = os.fstat(file.fileno())
        env = {**os.environ, "JOURNAL_STREAM": f"{there.st_dev}:{there.st_ino}"}
        subprocess.run(COMMAND, check=True, stderr=file, env=env)
    lines = path.read_text("utf-8").splitlines()
    assert [line[:3] for line in lines] == ["<6>", "<4>", "<3>", "<3>"]
    assert [json.loads(line[3:])["level"] for line in lines] == ["info", "warning", "error", "error"]


def test_a_journal_that_is_somebody_else_s() -> None:
    """$JOURNAL_STREAM is inherited: who redirects the standard error, or pipes it, gets plain JSON."""
    assert all(json.loads(line) for line in said({"JOURNAL_STREAM": "8:12345"}))
    assert all(json.loads(line) for line in said({"JOURNAL_STREAM": "nonsense"}))


def test_on_a_terminal() -> None:
    """On a terminal it is a line of keys and values; what has lines or control characters in it stays on one line."""
    terminal = Terminal(*COMMAND, env={"NO_COLOR": "1", "JOURNAL_STREAM": ""})
    assert terminal.ended() == 0
    plain = re.sub(r"\x1b\[[0-9;]*m", "", terminal.said)
    first = plain.splitlines()[0]
    assert re.match(r"\d{4}-\d\d-\d\dT\S+Z \[info +\] it happened", first)
    assert "count=3" in first
    assert "run_id=run-1" in first
    assert r"what='two words\nand lines'" in first
    assert "KeyError" in plain


def test_what_libraries_log_is_for_debugging() -> None:
    """A library's warning is an event of level debug; below that none is shown, and nothing goes past the log."""
    err = io.StringIO()
    with redirect_stderr(err):
        log.set_up("info")
        logging.getLogger("apscheduler").warning("it was %s", "late")
        assert err.getvalue() == ""
        log.set_up("debug")
        logging.getLogger("apscheduler").warning("it was %s", "late")
        logging.getLogger("httpx").info("HTTP Request: POST https://secret.example.com/T0/B0")
    (line,) = [json.loads(line) for line in err.getvalue().splitlines()]
    assert (line["level"], line["name"], line["text"]) == ("debug", "apscheduler", "it was late")


@pytest.mark.parametrize("level", ["debug", "info", "warning", "error"])
def test_what_is_below_the_level_is_not_written(level: str) -> None:
    """--log-level is the least that is written."""
    err = io.StringIO()
    with redirect_stderr(err):
        logger = log.set_up(level)
        for one in ("debug", "info", "warning", "error"):
            getattr(logger, one)("event")
    order = ["debug", "info", "warning", "error"]
    assert [json.loads(line)["level"] for line in err.getvalue().splitlines()] == order[order.index(level) :]


def test_the_agent_s_lines(mx: Station) -> None:
    """Each line of a real agent has event, level, time and run_id, which names the run from the first on."""
    with Agent(mx.configure(), env=mx.env) as agent:
        agent.wait("published")
        mx.write("corp", people(41))
        agent.run_now()
    events = agent.events()
    assert all({"event", "level", "timestamp", "run_id"} <= event.keys() for event in events)
    begun = [event["run_id"] for event in events if event["event"] == "run"]
    assert len(set(begun)) == len(begun) >= 2
    assert all(re.fullmatch(r"\d{8}T\d{6}Z-[0-9a-f]{6}", run_id) for run_id in begun)
    after = events[[event["event"] for event in events].index("run") :]
    assert {event["run_id"] for event in after} == set(begun)
    assert {event["run_id"] for event in events if event["event"] == "started"} == {""}


@contextmanager
def unwritable(how: str) -> Iterator[int]:
    """Give a descriptor that nothing can be written to: of a full disk, or of a pipe whose reader has gone."""
    if how == "a full disk":
        descriptor = os.open("/dev/full", os.O_WRONLY)
    else:
        reader, descriptor = os.pipe()
        os.close(reader)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


@pytest.mark.parametrize("how", ["a full disk", "nobody reads"])
def test_a_log_that_cannot_be_written(how: str) -> None:
    """What cannot be written is dropped, and is no fault of whoever says it, nor of the process when it ends."""
    with unwritable(how) as descriptor:
        command = [sys.executable, "-c", f"{SAYS}\nprint('went on')"]
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=descriptor, text=True, check=False)
    assert (done.stdout, done.returncode) == ("went on\n", 0)


@pytest.mark.parametrize("how", ["a full disk", "nobody reads"])
def test_an_agent_whose_log_cannot_be_written(mx: Station, how: str) -> None:
    """It keeps the map in step all the same, and ends with 0."""
    command = [sys.executable, "-m", "syncagent", "--config", str(mx.configure()), "run"]
    with unwritable(how) as descriptor, subprocess.Popen(command, stderr=descriptor) as process:
        try:
            assert wait_until(lambda: mx.is_published(*people(40)))
            mx.write("corp", people(41))
            assert wait_until(lambda: mx.is_published(*people(41)))
            assert process.poll() is None
        finally:
            process.terminate()
        assert process.wait(PATIENCE) == 0


# --- what is logged, and how loudly


@pytest.fixture
def web(mx: Station) -> Iterator[ScriptedHTTP]:
    """A list over HTTP beside the file; by now it says one address."""
    with ScriptedHTTP() as server:
        server.routes["/list"] = lambda _: answer("web@example.com\n")
        mx.extra = f'[sources.web]\ntype = "http"\nformat = "lines"\nurl = "{server.url}/list"\n'
        mx.extra += "foreign = true\ninsecure = true\n"
        yield server


@pytest.mark.parametrize(
    ("code", "level", "kind"), [(503, "warning", "temporary"), (401, "error", "refused"), (403, "error", "refused")]
)
def test_how_a_source_fails_is_the_level(mx: Station, web: ScriptedHTTP, code: int, level: str, kind: str) -> None:
    """What passes is a warning, once; what refuses us needs a person, so that it is an error; whole again is info."""
    desk = Desk(mx)
    desk.run()
    desk.clear()
    web.routes["/list"] = lambda _: answer("no", code)
    for _ in range(3):
        desk.run()
    (line,) = desk.events("source failing")
    assert (line["level"], line["kind"], line["source"]) == (level, kind, "web")
    assert str(code) in line["error"]
    assert len(desk.lines) == 1
    desk.clear()
    web.routes["/list"] = lambda _: answer("web@example.com\n")
    mx.extra += "max_pages = 9\n"  # another configuration, so that a refused one is asked again
    desk.run()
    (line,) = desk.events("source recovered")
    assert (line["level"], line["source"], line["entries"]) == ("info", "web", 1)


def test_a_broken_source_is_an_error(desk: Desk, mx: Station) -> None:
    """A file that is away is for a person to mend."""
    mx.break_source("corp")
    desk.run()
    (line,) = desk.events("source failing")
    assert (line["level"], line["kind"]) == ("error", "broken")


def test_the_same_failure_is_one_line(desk: Desk, mx: Station) -> None:
    """The same failure in 50 runs is logged once; another reason is another line; and the same after a good run."""
    mx.break_source("corp")
    for _ in range(50):
        desk.run()
    assert len(desk.lines) == 1
    mx.file("corp").mkdir()
    desk.run()
    mx.file("corp").rmdir()
    assert len(desk.events("source failing")) == 2
    mx.write("corp", people(40))
    desk.run()
    mx.break_source("corp")
    desk.run()
    assert [line["event"] for line in desk.lines] == [
        "source failing",
        "source failing",
        "source recovered",
        "source failing",
    ]


def test_publishing_that_fails(mx: Station, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is an error and a person's business, once for as long as it fails in the same way; then that it is over."""
    mx.own_postmap()
    monkeypatch.setenv("PATH", mx.env["PATH"])
    desk = Desk(mx)
    desk.run()
    desk.clear()
    mx.postmap_fails.touch()
    mx.write("corp", people(41))
    for _ in range(5):
        result = desk.run()
        assert result
        assert result.status == "failed"
    assert [(line["event"], line["level"]) for line in desk.lines] == [
        ("not published", "error"),
        ("needs a person", "error"),
    ]
    assert "no space left" in desk.lines[0]["error"]
    desk.clear()
    mx.postmap_fails.unlink()
    desk.run()
    assert [(line["event"], line["level"]) for line in desk.lines] == [("published", "info"), ("recovered", "info")]
    assert (desk.lines[0]["added"], desk.lines[0]["removed"], desk.lines[0]["recipients"]) == (1, 0, 41)


def test_what_is_held_is_an_error_once(desk: Desk, mx: Station) -> None:
    """An alarm is one error with the command that ends it; nothing more while it stands; info when it is over."""
    mx.write("corp", people(20))
    for _ in range(3):
        desk.run()
    (line,) = desk.events("needs a person")
    assert (line["level"], line["kind"]) == ("error", "held")
    assert f"--config {mx.config} approve " in line["text"]
    mx.write("corp", people(40))
    desk.run()
    (line,) = desk.events("recovered")
    assert (line["level"], line["kind"]) == ("info", "held")
    assert [one["level"] for one in desk.lines].count("error") == 1


def test_a_restart_says_what_stands(desk: Desk, mx: Station) -> None:
    """An agent that begins logs what needs a person once, whatever the last one logged."""
    mx.write("corp", people(20))
    desk.run()
    desk.restart()
    desk.clear()
    desk.run()
    desk.run()
    assert len(desk.events("needs a person")) == 1


def test_a_first_run_that_is_not_whole(tmp_path: Path) -> None:
    """It is a warning once, and an alarm once, however often it is tried."""
    mx = Station(tmp_path, "corp", "extra")
    mx.write("corp", people(3))
    desk = Desk(mx)
    for _ in range(4):
        desk.run()
    (line,) = desk.events("not published: the first list is not whole")
    assert line["level"] == "warning"
    assert "extra" in str(line["lacks"])
    assert len(desk.events("needs a person")) == 1


def test_a_note_is_a_warning_once(desk: Desk, mx: Station) -> None:
    """What a run notes beside, such as a domain without a recipient, is a warning, once."""
    mx.relay_domains.append("example.org")
    for _ in range(3):
        desk.run()
    (line,) = desk.events("note")
    assert line["level"] == "warning"
    assert "example.org has no recipient" in line["text"]


def test_a_run_that_changes_nothing_is_silent(desk: Desk) -> None:
    """Nothing happened, so there is no line; at level debug there is."""
    for _ in range(3):
        desk.run()
    assert desk.lines == []
    loud = Desk(desk.scenario, level="debug")
    loud.run()
    (line,) = loud.lines
    assert (line["event"], line["level"], line["recipients"]) == ("unchanged", "debug", 40)
