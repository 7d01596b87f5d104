"""Paths that may not be entered, and paths that hang, as on a dead mount: the doubt stays with its own source."""

import contextlib
import os
import shutil
import signal
import sys
import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest

from tests.agent import URGENT, Station
from tests.scenario import people
from tests.support.agent import Agent
from tests.support.need import need_program
from tests.support.programs import allowed, wait_until

OLD, LATE, OTHER = people(40), "late@example.com", {"other@example.com"}
NEW = OLD | {LATE}
MORE = OTHER | {"more@example.com"}

HUNG = """
import ctypes, io, os, time, builtins
from watchdog.observers import inotify_c
def hangs(real, at=0):
    def call(*args, **keywords):
        path = args[at] if len(args) > at else ""
        path = os.fsdecode(path) if isinstance(path, (str, bytes, os.PathLike)) else ""
        while path.startswith(os.environ["HUNG"]) and exists(os.environ["HUNG_NOW"]):
            time.sleep(0.05)
        return real(*args, **keywords)
    return call
def exists(path, stat=os.stat):
    try:
        return bool(stat(path))
    except FileNotFoundError:
        return False
for name in ("stat", "lstat", "scandir", "listdir", "readlink", "access", "open"):
    setattr(os, name, hangs(getattr(os, name)))
builtins.open = io.open = hangs(open)
inotify_c.inotify_add_watch = hangs(inotify_c.inotify_add_watch, 1)
from syncagent.cli import main as cli
cli.main()
"""
"""The program where all below $HUNG hangs while $HUNG_NOW is there, as what is on a mount whose server is gone."""


@pytest.fixture
def mx(tmp_path: Path) -> Station:
    """A backup MX with a list that is well and one that will not be; nothing is due for an hour."""
    mx = Station(tmp_path)
    (tmp_path / "etc").mkdir()
    (tmp_path / "lists").mkdir()
    (tmp_path / "mount" / "sub").mkdir(parents=True)
    mx.config = tmp_path / "etc" / "syncagent.toml"
    mx.sources = {
        "corp": {"path": str(tmp_path / "lists" / "corp")},
        "other": {"path": str(tmp_path / "mount" / "sub" / "other"), "deadline": "1s"},
    }
    write(mx, "lists/corp", OLD)
    write(mx, "mount/sub/other", OTHER)
    return mx


def write(mx: Station, path: str, addresses: set[str]) -> None:
    """Write a list elsewhere and rename it into its place."""
    staged = mx.directory / "staged"
    staged.write_text("".join(f"{address}\n" for address in sorted(addresses)), "utf-8")
    staged.replace(mx.directory / path)


def all_else_works(mx: Station, agent: Agent, addresses: set[str]) -> None:
    """A change of the other source and of the configuration is noticed, and HUP and USR1 are heeded."""
    assert wait_until(lambda: bool(agent.events("run")), allowed(URGENT))
    agent.run_now()
    mark = agent.mark
    write(mx, "lists/corp", addresses)
    published = agent.wait("published", after=mark, seconds=URGENT)
    assert "a file changed" in agent.events("run", run_id=published["run_id"])[0]["why"]
    assert mx.is_published(*addresses, *OTHER), "what it said last stays"
    mark = agent.mark
    agent.send(signal.SIGHUP)
    agent.wait("run", after=mark, seconds=URGENT, why="HUP")
    mark = agent.mark
    mx.exclude = [f"nobody{mark}@example.com"]
    mx.configure()
    agent.wait("run", after=mark, seconds=URGENT, why="the configuration changed")
    assert len(agent.events("configuration read again", after=mark)) == 1
    agent.run_now()
    assert not agent.events("fault"), agent.events("fault")


def ordinary() -> tuple[str, ...]:
    """Give what makes a program's user one to whom directories can be closed, even where that is root."""
    if os.geteuid() != 0:
        return ()
    return need_program("setpriv"), "--bounding-set=-dac_override,-dac_read_search"


@contextlib.contextmanager
def closed(directory: Path) -> Iterator[None]:
    """Let nobody into the directory."""
    directory.chmod(0)
    try:
        yield
    finally:
        directory.chmod(0o755)


def as_ordinary(mx: Station) -> Agent:
    """Give the agent that is run by somebody to whom directories can be closed."""
    return Agent(mx.configure(), env=mx.env, command=(*ordinary(), sys.executable, "-m", "syncagent"))


@pytest.mark.parametrize("path", ["mount/sub/other", "mount/sub", "mount/sub/*.txt", "link"])
def test_a_directory_that_is_closed_at_the_start(mx: Station, path: str) -> None:
    """One source's directory that may not be entered keeps neither the agent from starting nor others from being."""
    write(mx, "mount/sub/a.txt", OTHER)
    (mx.directory / "link").symlink_to(mx.directory / "mount" / "sub" / "other")
    mx.sources["other"] = {"path": str(mx.directory / path)}
    mx.say("sync", "-q")
    with closed(mx.directory / "mount"), as_ordinary(mx) as agent:
        agent.wait("source failing", source="other")
        all_else_works(mx, agent, NEW)
        all_else_works(mx, agent, NEW | {"later@example.com"})
        (mx.directory / "mount").chmod(0o755)
        write(mx, "mount/sub/other" if path != "mount/sub/*.txt" else "mount/sub/a.txt", MORE)
        assert wait_until(lambda: mx.is_published(*MORE), allowed(URGENT))


def test_a_directory_that_is_closed_while_it_runs(mx: Station) -> None:
    """A directory that is closed under a running agent fails its own source, until it is open again."""
    with as_ordinary(mx) as agent:
        agent.wait("published")
        with closed(mx.directory / "mount"):
            agent.wait("source failing", source="other")
            all_else_works(mx, agent, NEW)
        write(mx, "mount/sub/other", MORE)
        assert wait_until(lambda: mx.is_published(*MORE), allowed(URGENT))
        assert not agent.events("fault")


def test_a_directory_whose_files_may_be_read_but_not_listed(mx: Station) -> None:
    """Of a directory that may only be passed through the kernel does not tell: it is looked, and told once it does."""
    (mx.directory / "mount" / "sub").chmod(0o311)
    with as_ordinary(mx) as agent:
        agent.wait("published")
        write(mx, "mount/sub/other", MORE)
        assert wait_until(lambda: mx.is_published(*MORE), allowed(2 * URGENT))
        (mx.directory / "mount" / "sub").chmod(0o755)
        agent.wait("watch rebuilt")
        write(mx, "mount/sub/other", OTHER)
        assert wait_until(lambda: not mx.is_published(*MORE), allowed(URGENT))
        assert not agent.events("fault")


@pytest.mark.parametrize("watch", ["auto", "poll"])
class TestADeadMount:
    """A mount whose server is gone: what looks at a file on it never comes back, and may not be interrupted."""

    def hang(self, mx: Station, watch: str) -> tuple[Agent, Path]:
        """Give an agent whose source hangs while a file is there, and the file."""
        now = mx.directory / "hung-now"
        mx.sources["other"]["watch"] = watch
        mx.say("sync", "-q")
        env = {**mx.env, "HUNG": str(mx.directory / "mount"), "HUNG_NOW": str(now)}
        return Agent(mx.configure(), env=env, watchdog=0.9, command=(sys.executable, "-c", HUNG)), now

    def test_while_it_runs(self, mx: Station, watch: str) -> None:
        """All else goes on, systemd hears of it, and once the mount answers its source is watched again."""
        agent, now = self.hang(mx, watch)
        with agent:
            agent.wait("unchanged")
            agent.run_now()
            now.touch()
            time.sleep(6)  # somebody has looked at it by now
            told = len(agent.systemd.told)
            all_else_works(mx, agent, NEW)
            alive = [at for at, line in agent.systemd.told[told:] if line == "WATCHDOG=1"]
            assert len(alive) >= 6
            assert max(after - before for before, after in pairwise(alive)) < allowed(3)
            mark = agent.mark
            now.unlink()
            write(mx, "mount/sub/other", MORE)
            assert wait_until(lambda: mx.is_published(*MORE), allowed(2 * URGENT))
            assert not agent.events("fault", after=mark)
            agent.run_now()
            now.touch()
            time.sleep(6)
            assert agent.stop() < allowed(5)

    def test_before_it_starts(self, mx: Station, watch: str) -> None:
        """It gets ready all the same, and the source is asked as soon as the mount answers."""
        agent, now = self.hang(mx, watch)
        now.touch()
        with agent:
            agent.wait("started")
            agent.wait("source failing", source="other")
            all_else_works(mx, agent, NEW)
            write(mx, "mount/sub/other", MORE)
            now.unlink()
            assert wait_until(lambda: mx.is_published(*MORE), allowed(URGENT))

    def test_term_while_it_hangs(self, mx: Station, watch: str) -> None:
        """TERM ends it at once."""
        agent, now = self.hang(mx, watch)
        now.touch()
        with agent:
            agent.wait("run")
            assert agent.stop() < allowed(5)


FAULTY = """
import os
from syncagent.cli import main as cli
from syncagent.agent import file_watch as watch, loop, schedule
if os.environ["FAULTY"] == "schedule":
    def look_at_clock(self):
        raise RuntimeError("the moon is full")
    schedule.Schedule.look_at_clock = look_at_clock
else:
    real = watch._nearest
    def nearest(directory):
        if "mount" in str(directory):
            raise RuntimeError("the moon is full")
        return real(directory)
    watch._nearest = nearest
cli.main()
"""


@pytest.mark.parametrize("where", ["schedule", "watch"])
def test_a_fault_is_told_once(mx: Station, where: str) -> None:
    """A fault of our own where it is looked a few times a second is told once, and the looking goes on."""
    env = {**mx.env, "FAULTY": where}
    with Agent(mx.configure(), env=env, watchdog=0.6, command=(sys.executable, "-c", FAULTY)) as agent:
        agent.wait("published")
        agent.wait("fault", error="RuntimeError: the moon is full")
        write(mx, "lists/corp", NEW)
        assert wait_until(lambda: mx.is_published(*NEW), allowed(URGENT))
        write(mx, "mount/sub/other", MORE)
        assert wait_until(lambda: mx.is_published(*MORE), allowed(2 * URGENT)), "it is looked in any case"
        told = len(agent.systemd.told)
        time.sleep(6)
        assert "WATCHDOG=1" in agent.systemd.lines[told:]
        assert len(agent.events("fault")) == 1


DYING = """
import threading
from syncagent.cli import main as cli
from syncagent.agent import file_watch as watch
seen = []
real = watch._identity
def identity(path):
    if path.name == "other" and seen.append(1) is None and len(seen) == 3:
        raise SystemExit("as nobody should")
    return real(path)
watch._identity = identity
threading.excepthook = lambda _: None
cli.main()
"""


def test_a_watcher_that_died(mx: Station) -> None:
    """A thread that watches and has died is given another one, which is told and counted."""
    with Agent(mx.configure(), env=mx.env, command=(sys.executable, "-c", DYING)) as agent:
        agent.wait("published")
        agent.wait("watch rebuilt")
        write(mx, "mount/sub/other", MORE)
        assert wait_until(lambda: mx.is_published(*MORE), allowed(URGENT))
        agent.run_now()
        agent.run_now()
        assert '"watch_rebuilt":1' in (mx.state / "agent.json").read_text("utf-8")


def test_nothing_piles_up_where_what_is_watched_changes(mx: Station) -> None:
    """A configuration that names another file each time leaves neither threads nor open files behind."""
    figures: list[tuple[int, int]] = []
    with Agent(mx.configure(), env=mx.env) as agent:
        agent.wait("published")
        for turn in range(24):
            shutil.copy(mx.directory / "lists" / "corp", mx.directory / "lists" / f"corp{turn}")
            mx.sources["corp"]["path"] = str(mx.directory / "lists" / f"corp{turn}")
            mark = agent.mark
            mx.configure()
            agent.send(signal.SIGHUP)
            agent.wait("configuration read again", after=mark)
            if turn in {3, 23}:
                agent.run_now()
                time.sleep(2)
                figures.append((len(agent.open_files()), agent.status("Threads")))
    assert figures[0] == figures[1]
