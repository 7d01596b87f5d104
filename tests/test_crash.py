"""Killed at any instant: Postfix answers from the whole old or the whole new map, and the next run finishes the job."""

import os
import random
import shlex
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from syncagent.files import sorted_lines
from syncagent.model import SyncResult
from syncagent.state.database import Ledger
from syncagent.values.types import INDEX_SUFFIX
from tests.scenario import Scenario, people
from tests.support import kill
from tests.support.kill import Point
from tests.support.need import need_postfix, need_postmap
from tests.support.postfix import PrivatePostfix
from tests.support.programs import PATIENCE, find_program, wait_until
from tests.support.smtp import Client

TYPES = ("hash", "lmdb", "cdb")
OLD, NEW = people(100), people(100, first=10)
SEED = 20261123


class Crashing(Scenario):
    """A published map of some type, whose next run is to be killed."""

    def __init__(self, directory: Path, map_type: str = "lmdb", published: Iterable[str] = OLD) -> None:
        super().__init__(directory)
        need_postmap(map_type)
        self.map_type = map_type
        self.limits = {  # a kill is no reason to hold
            "removal_grace": "0s",
            "removed_floor": 1_000_000,
            "removed_max": 1_000_000,
            "removed_window": "0s",
        }
        self.known = set(OLD) | NEW
        self.write("corp", published)

    def configure(self) -> Path:
        """Write the configuration with the map's type."""
        file = super().configure()
        file.write_text(file.read_text("utf-8").replace('map = "lmdb:', f'map = "{self.map_type}:'), "utf-8")
        return file

    def published(self) -> set[str]:
        """Give the recipients that Postfix answers for, of all that the test knows; after a kill, text may be newer."""
        if not Path(f"{self.map}{INDEX_SUFFIX[self.map_type]}").exists():
            return set()
        command = [find_program("postmap"), "-c", self._postfix, "-q", "-", f"{self.map_type}:{self.map}"]
        asked = "".join(f"{address}\n" for address in self.known).encode()
        done = subprocess.run([str(part) for part in command], input=asked, capture_output=True, check=False)
        assert done.returncode in {0, 1}, done.stderr
        assert not done.stderr.replace(b"is newer than", b"").count(b"fatal"), done.stderr
        return {line.partition(b"\t")[0].decode() for line in done.stdout.splitlines()}

    def text(self) -> set[str]:
        """Give what the text says."""
        lines = self.map.read_text("utf-8").splitlines() if self.map.exists() else []
        return {line.removesuffix(" OK") for line in lines if not line.startswith("#")}

    def here(self, *, code: int = 0) -> SyncResult:
        """Run `sync` in this process, by the real clock."""
        self.set_clock(time.time())
        return self.sync(code=code)

    def killed(self, point: Point) -> None:
        """Run `sync` up to the point, where it must be killed, and leave no process behind."""
        self.dies(kill.start(kill.command(point, "kill", self.configure(), "sync"), self._env))

    def killed_after(self, seconds: float) -> float | None:
        """Kill a run of `sync` after some time; if it has ended before, return how long it took."""
        began = time.monotonic()
        run = kill.start([sys.executable, "-m", "syncagent", "--config", str(self.configure()), "sync"], self._env)
        try:
            run.communicate(timeout=seconds)
        except subprocess.TimeoutExpired:
            run.kill()
            run.communicate(timeout=PATIENCE)
        took = time.monotonic() - began
        assert wait_until(lambda: not kill.session(run.pid)), kill.session(run.pid)
        if run.returncode == -signal.SIGKILL:
            return None
        assert run.returncode == 0
        return took

    def dies(self, run: subprocess.Popen[bytes]) -> None:
        """Wait until a run is dead, and so is whatever it had started."""
        out, err = run.communicate(timeout=PATIENCE)
        assert run.returncode == -signal.SIGKILL, f"it was not killed: {run.returncode}\n{out!r}\n{err!r}"
        assert wait_until(lambda: not kill.session(run.pid)), kill.session(run.pid)

    def converges(self, wanted: set[str]) -> None:
        """Assert that the next run finishes the job, leaves nothing of the killed one, and then all is done."""
        left = _files(self)
        result = self.here()
        assert self.published() == self.text() == wanted
        assert not result.plan.holds, "no kill is taken for a lost state"
        assert result.recipients == len(wanted)
        assert self.here().status == "unchanged"
        assert_sound(self, left)  # only now: what a run supersedes goes with the next

    def whole(self) -> None:
        """Assert that Postfix answers from the old or the new map, whole, and the text is one of the two."""
        assert self.published() in (OLD, NEW)
        assert self.text() in (OLD, NEW)


def assert_sound(mx: Scenario, left: set[str]) -> None:
    """Assert that the ledger is whole, and that of what a killed run left only what it refers to is there."""
    with closing(sqlite3.connect(mx.state / "state.db")) as database:
        assert database.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        referred = {row[0] for row in database.execute("SELECT changes_file FROM run WHERE changes_file IS NOT NULL")}
    with closing(Ledger(mx.state, write=False)) as ledger:
        assert ledger.finished
        for one in (ledger.finished.kept, ledger.finished.published):
            sorted_lines.verify(mx.state / "lists" / one.name, one.digest)
            referred.add(one.name)
        referred |= set(ledger.finished.snapshot_files.values())
        for state in ledger.sources.values():
            assert state.snapshot
            sorted_lines.verify(mx.state / "snapshots" / state.snapshot.file, state.snapshot.digest)
            referred.add(state.snapshot.file)
    assert not left & _files(mx) - referred, "left by a killed run"
    assert not (mx.state / "state.db-journal").exists()
    assert not list(mx.map.parent.glob(".*syncagent-*"))
    assert not list(mx.map.parent.glob("..*syncagent.*")), "what is left of writing the file beside the map"


def _files(mx: Scenario) -> set[str]:
    directories = [mx.state / name for name in ("snapshots", "lists", "changes")]
    return {file.name for directory in directories if directory.exists() for file in directory.iterdir()}


_RENAME = "pathlib:Path.replace"
POINTS = (
    Point("syncagent.state.database:Ledger.prepare"),
    Point("syncagent.files.sorted_lines:write_sorted"),  # the snapshot
    Point("syncagent.files.sorted_lines:write_sorted", "after"),
    Point("syncagent.state.database:Ledger.save_source", "after"),
    Point("syncagent.sync.diff:Diff.decide", "after"),
    Point("syncagent.postfix.publish:_staging", "after"),
    Point("syncagent.postfix.publish:_write_text", "after"),
    Point("syncagent.postfix.publish:_index", "after"),
    Point("syncagent.postfix.verify:ReadBack.check", "after"),
    Point(_RENAME),
    Point(_RENAME, "after"),  # the text is new, the index old
    Point(_RENAME, "after", 2),
    Point("syncagent.postfix.publish:remove_stale"),
    Point("syncagent.postfix.publish:remove_stale", "after"),
    Point("syncagent.state.database:Ledger.new_list", "after"),
    Point("syncagent.state.database:Ledger.new_list", "after", 2),
    Point("syncagent.state.database:_insert_run", "after"),  # all written, not committed
    Point("syncagent.state.database:Ledger.record", "after"),
    Point("syncagent.state.database:Ledger.remember", "after"),
    Point("syncagent.state.database:Ledger.intend"),
    Point("syncagent.state.database:Ledger.intend", "after"),  # the intent is open, the map the old one
    Point("syncagent.state.state_file:write"),  # the map is new, the file beside it old
    Point("os:rename"),
    Point("syncagent.state.state_file:write", "after"),  # the file is equal to the open intent
)
REVERTED = (
    Point(_RENAME, "after"),
    Point(_RENAME, "after", 2),
    Point("syncagent.state.state_file:write", "after"),
    Point("syncagent.state.database:_insert_run", "after"),
)
EITHER_TYPE = POINTS[5:14]
"""Where the type of the map makes a difference; the rest is done on lmdb alone."""


@pytest.mark.parametrize("map_type", TYPES)
def test_killed_between_each_pair_of_steps(map_type: str, tmp_path: Path) -> None:
    """A kill at each step of a run that adds and removes leaves a whole map, and the next run converges."""
    mx = Crashing(tmp_path, map_type)
    mx.here()
    for point in POINTS if map_type == "lmdb" else EITHER_TYPE:
        current = mx.published()
        following = NEW if current == OLD else OLD
        mx.write("corp", following)
        mx.killed(point)
        mx.whole()
        mx.converges(following)


@pytest.mark.parametrize("map_type", TYPES)
@pytest.mark.parametrize("point", REVERTED, ids=str)
def test_killed_and_then_the_source_takes_it_back(point: Point, map_type: str, tmp_path: Path) -> None:
    """A source that says the old list again after the kill gets the old map, text and index alike."""
    mx = Crashing(tmp_path, map_type)
    mx.here()
    mx.write("corp", NEW)
    mx.killed(point)
    mx.whole()
    if point == Point(_RENAME, "after"):
        assert (mx.text(), mx.published()) == (NEW, OLD), "the text goes first"
    mx.write("corp", OLD)
    mx.converges(OLD)


@pytest.mark.parametrize("point", POINTS, ids=str)
def test_killed_in_the_first_run(point: Point, tmp_path: Path) -> None:
    """A first run that is killed leaves no map or a whole one, never an empty one, and the next run converges."""
    mx = Crashing(tmp_path)
    mx.killed(point)
    assert mx.published() in (set(), OLD)
    mx.converges(OLD)


def test_killed_while_what_was_removed_is_many(tmp_path: Path) -> None:
    """The file of a run's many changes that a killed run left goes with the next run."""
    mx = Crashing(tmp_path)
    mx.here()
    many = people(10_200)
    mx.known |= many
    mx.write("corp", many)
    mx.killed(Point("syncagent.state.database:Ledger.keep_changes", "after"))
    assert mx.published() in (OLD, many)
    mx.converges(many)


def test_killed_while_a_hand_made_map_is_copied(tmp_path: Path) -> None:
    """The copy of another hand's map is whole, though the run that began it was killed half-way."""
    mx = Crashing(tmp_path)
    mx.map.write_text("".join(f"{address} OK\n" for address in sorted(OLD)), "utf-8")
    half = tmp_path / "half.py"
    half.write_text(
        "import contextlib, os, signal\n"
        "from syncagent.cli import main as cli\n"
        "from syncagent.files import atomic\n"
        "replacing = atomic.replacing\n"
        "class Half:\n"
        "    def __init__(self, file):\n"
        "        self.file = file\n"
        "    def writelines(self, chunks):\n"
        "        data = b''.join(chunks)\n"
        "        self.file.write(data[: len(data) // 2])\n"
        "        self.file.flush()\n"
        "        os.kill(os.getpid(), signal.SIGKILL)\n"
        "@contextlib.contextmanager\n"
        "def half(path, *args, **options):\n"
        "    with replacing(path, *args, **options) as file:\n"
        "        yield Half(file) if path.parent.name == 'adopted' else file\n"
        "atomic.replacing = half\n"
        "cli.main()\n",
        "utf-8",
    )
    mx.dies(kill.start([sys.executable, str(half), "--config", str(mx.configure()), "sync"]))
    mx.here()
    copies = [file.read_bytes() for file in (mx.state / "adopted").iterdir() if not file.name.startswith(".")]
    assert b"".join(f"{address} OK\n".encode() for address in sorted(OLD)) in copies
    assert len(copies) == 1


PHASES = [(phase, when) for phase in ("build", "read-back") for when in ("before", "middle", "after")]


@pytest.mark.parametrize("map_type", TYPES)
def test_killed_by_way_of_postmap(map_type: str, tmp_path: Path) -> None:
    """A kill before, in the middle of and after the index build and the read-back leaves a whole map."""
    mx = Crashing(tmp_path, map_type)
    mx.here()
    armed = tmp_path / "armed"
    program = tmp_path / "bin" / "postmap"
    program.parent.mkdir()
    program.write_text(_killing_postmap(armed, need_postmap(map_type), INDEX_SUFFIX[map_type]), "utf-8")
    program.chmod(0o755)
    mx._env = {"PATH": f"{program.parent}{os.pathsep}{os.environ['PATH']}"}
    for phase, when in PHASES:
        current = mx.published()
        following = NEW if current == OLD else OLD
        mx.write("corp", following)
        armed.write_text(f"{phase} {when}\n", "utf-8")
        mx.dies(kill.start([sys.executable, "-m", "syncagent", "--config", str(mx.configure()), "sync"], mx._env))
        assert not armed.exists(), "the point was reached"
        assert mx.published() == mx.text() == current
        mx.converges(following)


def _killing_postmap(armed: Path, real: str, suffix: str) -> str:
    """Write a postmap that kills whoever started it, once, in the phase that a file names."""
    return f"""#!/bin/sh
for last; do :; done
phase=build
case "$*" in *" -s "*|*" -q "*) phase=read-back ;; esac
[ -e {shlex.quote(str(armed))} ] && read -r wanted when < {shlex.quote(str(armed))}
[ "$phase" = "$wanted" ] || exec {real} "$@"
rm {shlex.quote(str(armed))}
index="${{last#*:}}{suffix}"
case "$phase $when" in
*before) kill -9 $PPID ;;
"build middle") {real} "$@"; truncate -s 5000 "$index"; kill -9 $PPID ;;
"read-back middle") {real} "$@" | head -n 7; kill -9 $PPID ;;
*after) {real} "$@"; kill -9 $PPID ;;
esac
exit 1
"""


@pytest.mark.parametrize("point", [None, Point(_RENAME, "after", 2)], ids=["to the end", "killed before the record"])
@pytest.mark.parametrize("map_type", TYPES)
def test_the_clock_steps_back_between_the_renames(map_type: str, point: Point | None, tmp_path: Path) -> None:
    """An index that is an hour older than its text, by a clock set back, is whole, and the next run converges."""
    mx = Crashing(tmp_path, map_type)
    mx.here()
    mx.write("corp", NEW)
    if point is None:
        arguments = kill.command(Point(_RENAME, "after"), "clock-back", mx.configure(), "sync")
        run = kill.start(arguments)
        _, err = run.communicate(timeout=PATIENCE)
        assert run.returncode == 0, err
        assert mx.published() == NEW
    else:
        mx.killed(point)
    mx.whole()
    an_hour_on = time.time() + 3600
    os.utime(mx.map, (an_hour_on, an_hour_on))
    mx.whole()
    mx.converges(NEW)
    mx.write("corp", OLD)
    mx.converges(OLD)


SIZE, ROUNDS = 20_000, 4
PROOF_SIZE, PROOF_ROUNDS = 200_000, 40


@pytest.fixture(params=TYPES)
def live(request: pytest.FixtureRequest) -> Iterator[PrivatePostfix]:
    """A live smtpd that reads the map."""
    need_postfix(request.param)
    with PrivatePostfix(["example.com"], map_type=request.param) as postfix:
        yield postfix


@pytest.mark.timeout(3600)
def test_killed_at_random_instants_under_a_live_smtpd(live: PrivatePostfix, tmp_path: Path) -> None:
    """Clients that ask without a pause for recipients of both lists hear 250 and nothing else, whenever the kill is."""
    _killed_at_random_instants(live, tmp_path, SIZE, ROUNDS)


@pytest.mark.proof
@pytest.mark.timeout(0)
def test_killed_at_many_random_instants_under_a_live_smtpd(
    live: PrivatePostfix, tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    """The same with a longer list, and many more kills."""
    answers = _killed_at_random_instants(live, tmp_path, PROOF_SIZE, PROOF_ROUNDS)
    record_property("figures", f"{PROOF_ROUNDS} kills, {PROOF_SIZE} addresses, {answers} answers, each 250")


def _killed_at_random_instants(live: PrivatePostfix, tmp_path: Path, size: int, rounds: int) -> int:
    """Kill so many runs, each in its part of the time that a run takes; return how many answers the clients had."""
    numbers = range(size), range(size // 20, size + size // 20)
    old, new = ({f"u{number}@example.com" for number in part} for part in numbers)
    in_both = range(numbers[1].start, numbers[0].stop)
    mx = Crashing(tmp_path, (live.relay_recipient_maps or "").partition(":")[0], old)
    mx.map, mx.known = live.map_path, old | new
    began = time.monotonic()
    mx.here()
    takes = time.monotonic() - began
    live.reload()  # an smtpd that once found no map goes on without it
    assert live.verdict(f"u{in_both[0]}@example.com").code == 250
    answers: list[tuple[str, int]] = []
    over = threading.Event()
    clients = [threading.Thread(target=_ask, args=(live.port, seed, in_both, over, answers)) for seed in (1, 2)]
    for client in clients:
        client.start()
    dice = random.Random(SEED)  # noqa: S311 - not for secrets
    killed = 0
    try:
        while killed < rounds:
            following = new if mx.published() == old else old
            mx.write("corp", following)
            ended = mx.killed_after(takes * (killed + dice.random()) / rounds)
            if ended is None:
                killed += 1
            else:
                takes = ended  # the machine is less busy now than when that was measured
            assert mx.published() in (old, new)
            assert mx.text() in (old, new)
            mx.converges(following)
    finally:
        over.set()
        for client in clients:
            client.join(PATIENCE)
    assert len(answers) > 50, "the clients asked all the while"
    assert {code for _, code in answers} == {250}, [answer for answer in answers if answer[1] != 250][:5]
    return len(answers)


def _ask(port: int, seed: int, numbers: range, over: threading.Event, answers: list[tuple[str, int]]) -> None:
    dice = random.Random(seed)  # noqa: S311 - not for secrets
    while not over.is_set():
        with Client(port) as client:
            for _ in range(50):
                address = f"u{dice.choice(numbers)}@example.com"
                answers.append((address, client.verdict(address).code))
                if over.wait(0.002):
                    break
