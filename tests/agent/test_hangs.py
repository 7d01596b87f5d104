"""What hangs for ever is ended, the rest goes on, and systemd is told the truth about it."""

import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest

from tests.agent import URGENT, Station
from tests.scenario import people
from tests.sources.http import ended
from tests.support.agent import Agent
from tests.support.kill import session
from tests.support.programs import PATIENCE, allowed, wait_until
from tests.support.scripted_http import ScriptedHTTP, answer

OLD, LATE = people(40), "late@example.com"
NEW = OLD | {LATE}
WEB = "web@example.com"


@pytest.fixture
def mx(tmp_path: Path) -> Station:
    """A backup MX with one list."""
    mx = Station(tmp_path)
    mx.write("corp", OLD)
    return mx


@pytest.fixture
def server() -> Iterator[ScriptedHTTP]:
    """A server with a list, until it is told to hang."""
    with ScriptedHTTP(routes={"/list": lambda _: answer(ended([WEB]))}) as http:
        yield http


@pytest.mark.parametrize("hang", ["before the answer", "in the answer", "a trickle"])
def test_a_source_that_hangs(mx: Station, server: ScriptedHTTP, hang: str) -> None:
    """A source that hangs is given up on at its deadline; the others are published, and systemd hears of it."""
    keys = {"type": "http", "format": "lines", "url": f"{server.url}/list", "insecure": True}
    keys |= {"deadline": "2s", "read_timeout": "4s"}
    mx.extra = "\n".join(["[sources.web]", *(f"{key} = {json.dumps(value)}" for key, value in keys.items()), ""])
    begun = b"HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\na@example.com\n"
    parts = {
        "before the answer": ("stall",),
        "in the answer": (begun, "stall"),
        "a trickle": (begun, *(b"a", 0.2) * 990),
    }
    with Agent(mx.configure(), env=mx.env, watchdog=0.9) as agent:
        agent.wait("published")
        server.routes["/list"] = lambda _: parts[hang]
        mark, told = agent.mark, len(agent.systemd.told)
        began = time.monotonic()
        agent.send(signal.SIGUSR1)
        failing = agent.wait("source failing", after=mark)
        assert failing["at"] - began < allowed(URGENT)
        assert failing["source"] == "web"
        mx.write("corp", NEW)
        agent.wait("published", after=mark, seconds=URGENT)
        assert mx.published() == NEW | {WEB}, "what it said last stays"
        alive = [at for at, line in agent.systemd.told[told:] if line == "WATCHDOG=1"]
        assert len(alive) >= 6
        assert max(after - before for before, after in pairwise(alive)) < allowed(3)
        agent.systemd.wait("STATUS=42 recipients; failing: web", after=told)
        server.routes["/list"] = lambda _: answer(ended([WEB, "more@example.com"]))
        agent.wait("source recovered", after=mark)
        assert "more@example.com" in mx.published()


@pytest.mark.parametrize("phase", ["build", "read back"])
def test_a_postmap_that_hangs(mx: Station, phase: str) -> None:
    """A postmap that hangs is ended after postmap_timeout; that is told, and what was to be published is, later on."""
    hangs = mx.hanging_postmap(phase)
    hangs.unlink()
    mx.postfix = {"postmap_timeout": "3s"}
    with Agent(mx.configure(), env=mx.env, watchdog=0.9) as agent:
        agent.wait("published")
        hangs.touch()
        mark = agent.mark
        mx.write("corp", NEW)
        failed = agent.wait("not published", after=mark)
        assert failed["level"] == "error"
        assert ("did not end within 3s" if phase == "build" else "postmap failed (-9)") in failed["error"]
        assert wait_until(lambda: "sleep" not in session(agent.process.pid))
        agent.wait("needs a person", after=mark, kind="publish-failed")
        agent.systemd.wait("STATUS=40 recipients; needs a person: ")
        status = mx.status()
        assert status.returncode == 73
        assert "publish-failed" in status.stdout
        assert mx.published() == OLD
        hangs.unlink()
        agent.wait("published", after=mark, seconds=PATIENCE)
        agent.wait("recovered", after=mark, kind="publish-failed")
        assert mx.published() == NEW
        assert mx.status().returncode == 0
        agent.systemd.wait("STATUS=41 recipients, all is well")
        alive = [at for at, line in agent.systemd.told if line == "WATCHDOG=1"]
        assert max(after - before for before, after in pairwise(alive)) < allowed(3)


STUCK = """
import os, sys, time
from syncagent.cli import main as cli
from syncagent.sync import run as sync
from syncagent.agent import loop
loop._SLACK = 2.0
real = sync.sync_once
def sync_once(*args):
    while os.path.exists(os.environ["STUCK"]):
        time.sleep(0.05)
    return real(*args)
sync.sync_once = sync_once
cli.main()
"""


def test_no_keepalive_for_a_worker_that_is_stuck(mx: Station) -> None:
    """While the worker is stuck where no time-out ends it, systemd hears nothing; TERM still ends it."""
    script, stuck = mx.directory / "stuck.py", mx.directory / "stuck"
    script.write_text(STUCK, "utf-8")
    mx.sources = {"corp": {"deadline": "1s"}}
    env = {**mx.env, "STUCK": str(stuck)}
    with Agent(mx.configure(), env=env, watchdog=0.6, command=(sys.executable, str(script))) as agent:
        agent.wait("published")
        told = len(agent.systemd.told)
        time.sleep(2.5)
        assert _alive(agent, told) >= 5, "idle is not stuck"
        stuck.touch()
        agent.send(signal.SIGUSR1)
        agent.wait("run", why="USR1")
        time.sleep(4.5)  # what a run may take here, with an ordinary request after a look, and some
        told = len(agent.systemd.told)
        time.sleep(2.0)
        assert _alive(agent, told) == 0
        stuck.unlink()
        agent.wait("unchanged")
        time.sleep(1.0)
        assert _alive(agent, told) >= 1
        stuck.touch()
        mark = agent.mark
        agent.send(signal.SIGUSR1)
        agent.wait("run", after=mark)
        assert agent.stop() < allowed(5)


def _alive(agent: Agent, told: int) -> int:
    return agent.systemd.lines[told:].count("WATCHDOG=1")


DEAF = """
import os, sys, time
from syncagent.cli import main as cli
from syncagent.sync import run as sync
real = sync.sync_once
def sync_once(*args):
    open(os.environ["STUCK"] + ".in", "w").close()
    while os.path.exists(os.environ["STUCK"]):
        try:
            time.sleep(0.05)
        except BaseException:
            pass
    return real(*args)
sync.sync_once = sync_once
cli.main()
"""


def test_term_where_its_exception_is_lost(mx: Station) -> None:
    """A TERM whose exception somebody swallows ends the agent all the same, within two seconds, with 0."""
    script, stuck = mx.directory / "deaf.py", mx.directory / "stuck"
    script.write_text(DEAF, "utf-8")
    stuck.touch()
    env = {**mx.env, "STUCK": str(stuck)}
    with Agent(mx.configure(), env=env, command=(sys.executable, str(script))) as agent:
        assert wait_until(Path(f"{stuck}.in").exists)
        time.sleep(0.1)
        took = agent.stop()
        assert 1 < took < allowed(6), took


@pytest.mark.parametrize("abstract", [False, True])
def test_what_systemd_is_told(mx: Station, *, abstract: bool) -> None:
    """READY once the lock is held and before any source was asked, the result of each run, STOPPING at the end."""
    with Agent(mx.configure(), env=mx.env, abstract=abstract, watchdog=0.6) as agent:
        agent.systemd.wait("STATUS=40 recipients, all is well")
        mx.break_source("corp")
        agent.systemd.wait("STATUS=40 recipients; failing: corp")
        agent.systemd.wait("WATCHDOG=1")
        agent.stop()
        agent.systemd.wait("STOPPING=1")
        lines = [line for line in agent.systemd.lines if line != "WATCHDOG=1"]
        assert lines[:2] == ["READY=1", "STATUS=started"]
        assert lines[-1] == "STOPPING=1"
        assert lines.count("READY=1") == lines.count("STOPPING=1") == 1


def test_ready_though_its_source_is_dead(mx: Station) -> None:
    """A source that is down when the machine boots does not fail the boot."""
    mx.break_source("corp")
    with Agent(mx.configure(), env=mx.env) as agent:
        agent.wait("source failing")
        assert "READY=1" in agent.systemd.lines


def test_without_systemd(mx: Station) -> None:
    """Without anybody to tell it runs as well."""
    command = [sys.executable, "-m", "syncagent", "--config", str(mx.configure()), "run"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr
        try:
            for line in process.stderr:
                if json.loads(line)["event"] == "published":
                    break
        finally:
            process.terminate()
        assert process.wait(PATIENCE) == 0
    assert mx.published() == OLD


def test_a_fault_in_a_run_is_told_and_survived(mx: Station) -> None:
    """A fault of our own in a run is an error in the log with its trace, and the next run goes on."""
    script, faulty = mx.directory / "faulty.py", mx.directory / "faulty"
    script.write_text(
        "import os\nfrom syncagent.cli import main as cli\nfrom syncagent.sync import run as sync\n"
        "real = sync.sync_once\n"
        "def sync_once(*args):\n"
        "    if os.path.exists(os.environ['FAULTY']):\n"
        "        raise RuntimeError('the moon is full')\n"
        "    return real(*args)\n"
        "sync.sync_once = sync_once\ncli.main()\n",
        "utf-8",
    )
    faulty.touch()
    env = {**mx.env, "FAULTY": str(faulty)}
    with Agent(mx.configure(), env=env, command=(sys.executable, str(script))) as agent:
        fault = agent.wait("fault")
        assert fault["level"] == "error"
        assert "RuntimeError: the moon is full" in fault["exception"]
        assert "a fault in syncagent" in agent.wait("needs a person", kind="publish-failed")["text"]
        faulty.unlink()
        agent.wait("published")
        agent.wait("recovered", kind="publish-failed")
