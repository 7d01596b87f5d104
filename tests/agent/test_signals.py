"""TERM, INT, HUP, USR1 and KILL, sent to the real agent at any moment."""

import ctypes
import json
import platform
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.agent import Station
from tests.scenario import people
from tests.sources.http import ended
from tests.support.agent import Agent
from tests.support.need import need
from tests.support.programs import PATIENCE, allowed, wait_until
from tests.support.run import syncagent
from tests.support.scripted_http import ScriptedHTTP, answer

TERMS, HALVES = 30, 2
PROOF_TERMS = 500
CEILING, AIM = 15.0, 2.0  # seconds, on an idle machine
SEED = 20261124
OLD, NEW = people(300), people(300, first=100)


@pytest.fixture
def mx(tmp_path: Path) -> Station:
    """A backup MX with one list."""
    mx = Station(tmp_path)
    mx.limits |= {"removed_floor": 1_000_000, "removed_window": "0s"}
    mx.write("corp", OLD)
    return mx


@pytest.fixture
def server() -> Iterator[ScriptedHTTP]:
    """A server that begins an answer and never goes on."""
    with ScriptedHTTP(routes={"/list": lambda _: (b"HTTP/1.1 200 OK\r\n", "stall")}) as http:
        yield http


def http_source(server: ScriptedHTTP, **keys: object) -> str:
    """Write the table of a source that asks the server."""
    table = {"type": "http", "format": "lines", "url": f"{server.url}/list", "insecure": True, **keys}
    return "\n".join(["[sources.web]", *(f"{key} = {json.dumps(value)}" for key, value in table.items()), ""])


@pytest.mark.parametrize("half", range(HALVES))
def test_terms_at_random_moments(mx: Station, half: int) -> None:
    """Each TERM after READY, most of them in the midst of a run, ends with 0 in two seconds and nothing half done."""
    _terms_at_random_moments(mx, SEED + half, TERMS // HALVES)


@pytest.mark.proof
@pytest.mark.timeout(0)
def test_many_terms_at_random_moments(mx: Station, record_property: Callable[[str, object], None]) -> None:
    """The same with many more, at other moments in each run."""
    seed = time.time_ns()
    record_property("figures", f"{PROOF_TERMS} TERMs, seed {seed}")
    _terms_at_random_moments(mx, seed, PROOF_TERMS)


def _terms_at_random_moments(mx: Station, seed: int, terms: int) -> None:
    """Send TERM at random moments, and check what each left."""
    dice = random.Random(seed)  # noqa: S311 - not for secrets
    mx.schedule = {"every": "1s"}
    times, within = [], 0
    for turn in range(terms):
        mx.write("corp", following := (OLD, NEW)[turn % 2])
        with Agent(mx.configure(), env=mx.env) as agent:
            if turn % 3:
                agent.run_now()
                mx.write("corp", following := (NEW, OLD)[turn % 2])
                mark = agent.mark
                agent.send(signal.SIGUSR1)
                agent.wait("run", after=mark)
            time.sleep(dice.random() * (0.06 if turn % 3 else 0.3))
            times.append(agent.stop())
            ended = len(agent.events("published")) + len(agent.events("unchanged"))
            within += len(agent.events("run")) > ended
            assert agent.events("stopped")
            assert "STOPPING=1" in agent.systemd.lines
            assert not agent.events(level="error"), agent.events(level="error")
        assert mx.indexed() in (set(), OLD, NEW), "Postfix answers from a whole map, or from none yet"
        assert not mx.left_over(), f"after {times[-1]:.3f} s"
        assert mx.by_hand().status in {"published", "unchanged"}
        assert mx.published() == following
    print(f"TERM: {sorted(round(took * 1000) for took in times)} ms, {within} within a run")  # noqa: T201 - the figures
    assert within >= 3, "TERMs hit runs"
    assert sum(took < allowed(AIM) for took in times) >= len(times) - max(2, terms // 50), times


def test_term_in_a_hung_fetch(mx: Station, server: ScriptedHTTP) -> None:
    """A fetch that hangs does not keep the agent from its end."""
    mx.extra = http_source(server, deadline="1h")
    with Agent(mx.configure(), env=mx.env) as agent:
        assert wait_until(lambda: bool(server.asked))
        assert agent.stop() < allowed(AIM * 2)
        assert not agent.events("not published")
    assert not mx.left_over()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_stopped_in_a_running_postmap(mx: Station, number: int) -> None:
    """A postmap that runs is ended, and the map is the old one."""
    mx.by_hand()
    hangs = mx.hanging_postmap()
    mx.write("corp", NEW)
    with Agent(mx.configure(), env=mx.env) as agent:
        assert wait_until(Path(f"{hangs}.began").exists)
        assert agent.stop(number) < allowed(AIM * 2)
    assert mx.published() == OLD
    assert not mx.left_over()
    hangs.unlink()
    assert mx.by_hand().status == "published"


@pytest.mark.parametrize("where", ["idle", "within a run"])
def test_term_that_another_thread_takes(mx: Station, server: ScriptedHTTP, where: str) -> None:
    """A signal that does not wake the worker, as the kernel may give it to any thread, ends it in two seconds too."""
    mx.extra = http_source(server, deadline="1h") if where == "within a run" else ""
    with Agent(mx.configure(), env=mx.env) as agent:
        if where == "idle":
            agent.wait("published")
            time.sleep(0.3)
        else:
            assert wait_until(lambda: bool(server.asked))
        thread = max(int(task.name) for task in Path(f"/proc/{agent.process.pid}/task").iterdir())
        assert thread != agent.process.pid
        tgkill = {"x86_64": 234, "aarch64": 131}.get(platform.machine())
        need("the number of tgkill(2)", tgkill)
        began = time.monotonic()
        assert ctypes.CDLL(None).syscall(tgkill, agent.process.pid, thread, signal.SIGTERM) == 0
        assert agent.process.wait(PATIENCE) == 0
        assert time.monotonic() - began < allowed(AIM * 2)


def test_term_in_a_back_off(mx: Station) -> None:
    """What waits to be tried again does not keep the agent from its end, and is due at the time that it told."""
    mx.own_postmap()
    mx.postmap_fails.touch()
    with Agent(mx.configure(), env=mx.env) as agent:
        agent.wait("needs a person", kind="publish-failed")
        told = json.loads((mx.state / "agent.json").read_bytes())
        assert 3 < told["next_run"] - told["last"]["finished"] <= 5
        assert agent.stop() < allowed(AIM * 2)


def test_publishing_is_tried_again(mx: Station) -> None:
    """A publish that failed is tried again by itself after 5 s, no source being asked; waiting costs no time."""
    mx.own_postmap()
    mx.postmap_fails.touch()
    with Agent(mx.configure(), env=mx.env) as agent:
        agent.wait("needs a person", kind="publish-failed")
        mark = agent.mark
        spent = _cpu_seconds(agent)
        mx.postmap_fails.unlink()
        assert agent.wait("run", after=mark, why="retry")["due"] == []
        assert _cpu_seconds(agent) - spent < 1.0, "it sleeps until then"
        agent.wait("published", after=mark)
        agent.wait("recovered", after=mark, kind="publish-failed")
    assert mx.published() == OLD


def _cpu_seconds(agent: Agent) -> float:
    fields = Path(f"/proc/{agent.process.pid}/stat").read_text("ascii").rpartition(") ")[2].split()
    return (int(fields[11]) + int(fields[12])) / 100


BEGINS_SLOWLY = """
import sys, time
from syncagent.cli import main as cli
from syncagent.agent import loop
real = loop.run
def run(config, logger):
    open(sys.argv[2] + ".begun", "w").close()
    time.sleep(1)
    real(config, logger)
loop.run = run
cli.main()
"""
"""An agent that takes a second from reading its configuration to its first look at what it watches."""


def beginning(mx: Station) -> Agent:
    """Start it, and wait for that second."""
    script = mx.directory / "begins_slowly.py"
    script.write_text(BEGINS_SLOWLY, "utf-8")
    agent = Agent(mx.configure(), env=mx.env, command=(sys.executable, str(script)))
    assert wait_until(Path(f"{mx.config}.begun").exists)
    return agent


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGUSR1])
def test_a_signal_before_it_is_ready_counts(mx: Station, number: int) -> None:
    """HUP and USR1 do not end an agent that begins: they do once it is ready what they always do."""
    mx.write("more", more := people(5, first=900))
    agent = beginning(mx)
    mx.sources = {"corp": {}, "more": {}}
    mx.configure()
    agent.send(number)
    with agent:
        agent.wait("published")
        if number == signal.SIGHUP:
            assert "HUP" in agent.wait("run")["why"]
            assert agent.events("configuration read again")[0]["sources"] == ["corp", "more"]
            assert mx.published() == OLD | more
        else:
            assert "USR1" in agent.wait("run")["why"]
        blocked = int(_proc_status(agent, "SigBlk"), 16)
        assert not blocked, "postmap and whoever is told would inherit it"


def _proc_status(agent: Agent, key: str) -> str:
    lines = Path(f"/proc/{agent.process.pid}/status").read_text("ascii").splitlines()
    return next(line.split()[1] for line in lines if line.startswith(f"{key}:"))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_stopped_before_it_is_ready(mx: Station, number: int) -> None:
    """An agent that is stopped while it begins ends with 0 as well: nothing went wrong."""
    agent = beginning(mx)
    try:
        assert agent.stop(number) < allowed(AIM)
        assert not agent.noise
        assert not agent.events(level="error")
    finally:
        agent.close()


def test_killed_and_started_again(mx: Station) -> None:
    """After kill -9 in the midst of runs, a new agent on the same state converges."""
    dice = random.Random(SEED)  # noqa: S311 - not for secrets
    for turn in range(4):
        mx.write("corp", (OLD, NEW)[turn % 2])
        with Agent(mx.configure(), env=mx.env) as agent:
            time.sleep(dice.random() * 0.25)
            agent.kill()
        assert mx.indexed() in (set(), OLD, NEW)
    mx.write("corp", people(310))
    with Agent(mx.configure(), env=mx.env) as agent:
        agent.wait("published")
        assert mx.published() == people(310)
        assert agent.run_now()["event"] == "unchanged"
        assert wait_until(lambda: not mx.left_over())


def test_a_second_agent_is_refused(mx: Station) -> None:
    """Two agents on one state directory cannot be; the first goes on, and is there again after the second has gone."""
    with Agent(mx.configure(), env=mx.env) as agent:
        done = syncagent("run", config=mx.config, env=mx.env, check=75)
        assert "another agent is running" in done.stderr
        assert agent.run_now()["event"] in {"published", "unchanged"}


def test_a_look_at_the_lock_is_no_agent(mx: Station) -> None:
    """A health check that looks whether an agent runs, at the moment when one starts, does not keep it from that."""
    mx.by_hand()
    (mx.state / "agent.lock").touch()
    look = "import fcntl, sys, time; f = open(sys.argv[1]); fcntl.flock(f, fcntl.LOCK_SH); print(1, flush=True)"
    with subprocess.Popen(
        [sys.executable, "-c", f"{look}; time.sleep(600)", str(mx.state / "agent.lock")], stdout=subprocess.PIPE
    ) as looking:
        assert looking.stdout
        looking.stdout.readline()
        agent = Agent(mx.configure(), env=mx.env)
        assert wait_until(lambda: agent.process.poll() is not None or agent.has_open("agent.lock"))
        looking.kill()
        with agent:
            agent.wait("started")


def test_hup_with_a_good_file(mx: Station) -> None:
    """HUP takes up what the file says now: other limits, a new source, one less; the schedule and watch follow."""
    mx.write("more", more := people(5, first=900))
    with Agent(mx.configure(), env=mx.env) as agent:
        agent.wait("published")
        mx.sources = {"corp": {}, "more": {}}
        mx.configure()
        mark = agent.mark
        agent.send(signal.SIGHUP)
        assert agent.wait("configuration read again", after=mark)["sources"] == ["corp", "more"]
        agent.wait("published", after=mark)
        assert mx.published() == OLD | more
        mark = agent.mark
        mx.write("more", more := people(6, first=900))
        assert agent.wait("run", after=mark, why="a file changed")["due"] == ["more"]
        agent.wait("published", after=mark)
        mx.sources = {"corp": {}}
        mx.configure()
        mark = agent.mark
        agent.send(signal.SIGHUP)
        assert agent.wait("configuration read again", after=mark)["sources"] == ["corp"]
        agent.wait("published", after=mark)
        assert mx.published() == OLD
        assert not agent.events(level="error")


@pytest.mark.parametrize("how", ["bad", "missing"])
def test_hup_with_a_file_that_will_not_do(mx: Station, how: str) -> None:
    """A bad or missing file is refused, all its problems told in one event, and the old one goes on."""
    with Agent(mx.configure(), env=mx.env) as agent:
        agent.wait("published")
        text, staged = mx.config.read_text("utf-8"), mx.directory / "bad.toml"
        mark = agent.mark
        if how == "missing":
            mx.config.unlink()
        else:
            staged.write_text(text.replace("relay_domains", "relay_domain") + "[limit]\n", "utf-8")
            staged.replace(mx.config)
        agent.send(signal.SIGHUP)
        refused = agent.wait("configuration refused; the old one goes on", after=mark)
        assert len(refused["problems"]) == (1 if how == "missing" else 2), refused
        assert all(str(mx.config) in problem for problem in refused["problems"])
        assert refused["level"] == "error"
        agent.systemd.wait("STATUS=the new configuration is refused")
        agent.wait("unchanged", after=mark)
        assert f"--config {mx.config} check" in agent.wait("needs a person", kind="configuration")["text"]
        told = len(agent.systemd.told)
        mx.write("corp", NEW)
        agent.wait("published", after=mark)
        assert mx.published() == NEW
        line = agent.systemd.wait("STATUS=", after=told)
        assert line.startswith("STATUS=the new configuration is refused")
        assert line.endswith("; 300 recipients, all is well")
        assert mx.status().returncode == 78
        mark, told = agent.mark, len(agent.systemd.told)
        staged.write_text(text, "utf-8")
        staged.replace(mx.config)
        agent.wait("configuration read again", after=mark)
        agent.wait("recovered", after=mark, kind="configuration")
        assert agent.systemd.wait("STATUS=", after=told) == "STATUS=300 recipients, all is well"
        wrong = agent.events(level="error")
        assert [one["event"] for one in wrong] == [refused["event"], "needs a person"], "though it was watched as well"


def test_the_state_directory_stays(mx: Station) -> None:
    """A configuration with another state directory is refused: the lock is on the old one."""
    with Agent(mx.configure(), env=mx.env) as agent:
        agent.wait("published")
        mx.state = mx.directory / "elsewhere"
        mx.configure()
        agent.send(signal.SIGHUP)
        (problem,) = agent.wait("configuration refused; the old one goes on")["problems"]
        assert "state.directory" in problem
        assert "state.directory" in agent.wait("needs a person", kind="configuration")["text"]
        assert not mx.state.exists()


def test_the_configuration_changes_by_itself(mx: Station) -> None:
    """The file is watched: a good one is taken up without a HUP, and what it names from then on is watched too."""
    with Agent(mx.configure(), env=mx.env) as agent:
        agent.wait("published")
        mark, began = agent.mark, time.monotonic()
        mx.exclude = ["user000@example.com"]
        mx.configure()
        agent.wait("configuration read again", after=mark)
        agent.wait("published", after=mark)
        assert time.monotonic() - began < allowed(CEILING)
        assert mx.published() == OLD - {"user000@example.com"}
        assert agent.events("run", after=mark)[0]["why"] == "the configuration changed"


def test_usr1_is_now(mx: Station) -> None:
    """USR1 runs at once, all sources; many of them become few runs."""
    mx.sources = {"corp": {"watch": "off"}}
    with Agent(mx.configure(), env=mx.env) as agent:
        agent.wait("published")
        mx.write("corp", NEW)
        assert agent.run_now()["event"] == "published"
        mark = agent.mark
        for _ in range(200):
            agent.send(signal.SIGUSR1)
        assert wait_until(lambda: len(agent.events("unchanged", after=mark)) > 0)
        runs = agent.quiet(1.0, after=mark)
        assert 1 <= len(runs) < 50
        assert {run["why"] for run in runs} == {"USR1"}


def test_a_run_by_hand_shares_the_lock(mx: Station) -> None:
    """Runs by hand and the agent's take turns: none fails, and what each finds is whole."""
    mx.sources = {"corp": {"watch": "off"}}
    with Agent(mx.configure(), env=mx.env) as agent:
        agent.wait("published")
        for turn in range(3):
            mx.write("corp", (NEW, OLD)[turn % 2])
            agent.send(signal.SIGUSR1)
            done = syncagent("sync", config=mx.config, env=mx.env)
            assert done.returncode == 0, done.stderr
        assert agent.run_now()["event"] == "unchanged"
        assert mx.published() == NEW
        assert not agent.events(level="error")
        assert not agent.events(level="warning")


def test_term_while_another_run_has_the_lock(mx: Station) -> None:
    """An agent that waits for the lock of a run by hand ends at once, and the run by hand does not notice."""
    mx.by_hand()
    mx.own_postmap()
    mx.write("corp", NEW)
    mx.postmap_waits.touch()
    by_hand = mx.start("sync")
    try:
        assert wait_until(lambda: bool(list(mx.map.parent.glob(".*syncagent-*"))))
        with Agent(mx.config, env=mx.env) as agent:
            agent.wait("run")
            assert agent.stop() < allowed(AIM * 2)
    finally:
        mx.postmap_waits.unlink()
        out, err = by_hand.communicate(timeout=PATIENCE)
    assert by_hand.returncode == 0, (out, err)
    assert mx.published() == NEW


def test_the_state_directory_is_lost_and_made_anew(mx: Station) -> None:
    """An agent whose state directory is emptied goes on with the next run, which begins anew and removes nobody."""
    with Agent(mx.configure(), env=mx.env) as agent:
        agent.wait("published")
        for left in mx.state.iterdir():
            if left.name != "agent.lock":
                shutil.rmtree(left) if left.is_dir() else left.unlink(missing_ok=True)
        assert agent.run_now()["event"] in {"published", "unchanged"}
        assert mx.published() == OLD


def removed(directory: Path) -> bool:
    """Remove a directory and tell whether it is gone; something may just be written in it."""
    shutil.rmtree(directory, ignore_errors=True)
    return not directory.exists()


def test_the_state_directory_is_removed(mx: Station) -> None:
    """With the lock in it: the next run takes it again, so that status sees the agent, and no second one starts."""
    with Agent(mx.configure(), env=mx.env) as agent:
        agent.systemd.wait("STATUS=300 recipients")  # the last that a run does: nothing is being written any more
        for count in (1, 2):
            assert wait_until(lambda: removed(mx.state))
            told = len(agent.systemd.told)
            assert agent.run_now()["event"] in {"published", "unchanged"}
            agent.systemd.wait("STATUS=300 recipients", after=told)
            assert wait_until(lambda: json.loads(mx.status().stdout)["running"])
            assert "another agent is running" in syncagent("run", config=mx.config, env=mx.env, check=75).stderr
            assert len(agent.events("the lock was gone; taken again", level="warning")) == count
        assert len([path for path in agent.open_files() if "agent.lock" in path]) == 1
        assert mx.published() == OLD
        assert not agent.events(level="error")


def test_another_agent_after_the_lock_was_removed(mx: Station) -> None:
    """One that began meanwhile stays, and the first one ends at its next run: there is one, not two."""
    with Agent(mx.configure(), env=mx.env) as agent:
        agent.wait("published")
        (mx.state / "agent.lock").unlink()
        with Agent(mx.configure(), env=mx.env) as second:
            second.wait("run")
            agent.send(signal.SIGUSR1)
            assert agent.process.wait(PATIENCE) == 75
            assert "another agent is running" in "".join(agent.noise)
            agent.noise.clear()
            assert second.run_now()["event"] == "unchanged"
            assert wait_until(lambda: json.loads(mx.status().stdout)["agent"]["pid"] == second.process.pid)


def test_a_lock_that_cannot_be_taken_again(mx: Station) -> None:
    """Where its directory cannot be made again the agent goes on, tells of it, and is there again when it can."""
    away = mx.directory / "away"
    with Agent(mx.configure(), env=mx.env) as agent:
        agent.wait("published")
        mx.state.rename(away)
        mx.state.write_text("no directory")
        agent.send(signal.SIGUSR1)
        agent.wait("needs a person", kind="publish-failed")
        mx.state.unlink()
        away.rename(mx.state)
        assert agent.run_now()["event"] == "unchanged"
        assert json.loads(mx.status().stdout)["running"]


def test_what_is_asked_when(mx: Station, server: ScriptedHTTP) -> None:
    """Each source is asked by its own interval; a change of a file asks nobody else."""
    server.routes["/list"] = lambda _: answer(ended(["web@example.com"]))
    mx.extra = http_source(server, every="2s")
    with Agent(mx.configure(), env=mx.env) as agent:
        agent.wait("published")
        assert wait_until(lambda: len(server.asked) >= 3)
        assert all(run["due"] == ["web"] for run in agent.events("run") if run["why"] == "schedule")
        mark = agent.mark
        mx.write("corp", OLD | {"late@example.com"})
        agent.wait("published", after=mark)
        assert {"corp"} in [set(run["due"]) for run in agent.events("run", after=mark)]
        assert mx.published() == OLD | {"late@example.com", "web@example.com"}


_DYING = """
import os, signal, sys, time
from pathlib import Path
from syncagent.agent import log, loop
from syncagent.config.load import load

class Dying:
    def __del__(self):
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(0)

config = load(Path(sys.argv[1]))
agent = loop._Agent(config, log.set_up("error"), loop.AgentLock(config.state.directory))
agent.signals.handle()
try:
    with agent.signals.interruptions():
        Dying()
        time.sleep(60)
except loop.Stopped:
    print("stopped")
sys.stdout.flush()
os._exit(0)
"""


def test_a_term_that_comes_in_a_destructor(mx: Station) -> None:
    """Python drops what is raised there; the run ends all the same, at once and without a traceback."""
    started = time.monotonic()
    command = [sys.executable, "-c", _DYING, str(mx.configure())]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=PATIENCE)
    assert (done.stdout, done.stderr) == ("stopped\n", "")
    assert time.monotonic() - started < allowed(30)
