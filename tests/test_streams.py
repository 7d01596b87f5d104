"""Standard streams that are closed, full, unread or slow change neither what is done nor the exit status."""

import contextlib
import fcntl
import json
import os
import pty
import shutil
import signal
import sqlite3
import subprocess
import sys
import termios
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import IO

import pytest

from tests.agent import Station
from tests.scenario import Scenario, people
from tests.sources import install
from tests.sources.http.test_golden import GOLDEN
from tests.support.postmap import postmap_keys
from tests.support.programs import PATIENCE, wait_until
from tests.support.run import syncagent
from tests.support.terminal import Terminal

PROGRAM = (sys.executable, "-m", "syncagent")
NOT_INHERITED = ("SYNCAGENT_CONFIG", "NOTIFY_SOCKET", "FORCE_COLOR", "JOURNAL_STREAM")
READS = "syncagent.toml"
FAILS = "fails.toml"
REFUSED = "refused.toml"


# --- what is run, and what it leaves


@dataclass(frozen=True)
class Done:
    """What a call came to: its exit status, and what it left behind."""

    status: int
    left: object
    out: str = field(default="", compare=False)
    err: str = field(default="", compare=False)


class Place(Scenario):
    """A backup MX with a hold that stands and an addition that waits; `call` begins from there each time."""

    def __init__(self, directory: Path) -> None:
        super().__init__(directory / "mx")
        self.directory.mkdir(exist_ok=True)
        odd = "j\xf6s\xe9@example.com"  # rejected, and told
        self.write("corp", people(40) | {odd})
        self.sync_unchecked(0)
        self.write("corp", people(20) | {odd})
        self.hold = self.sync_unchecked(65).plan.holds[0].id
        self.write("corp", people(20) | {odd, "new@example.com"})
        text = self.configure().read_text("utf-8")
        for name, more in {FAILS: '[sources.away]\ntype = "file"\npath = "away"\n', REFUSED: "[no]\n"}.items():
            (self.directory / name).write_text(text + more, "utf-8")
        self._saved = directory / "saved"
        shutil.copytree(self.directory, self._saved)
        self._healthy: dict[str, Done] = {}
        self._is_changed = False

    def restore(self) -> None:
        """Make everything as it was before the call."""
        shutil.rmtree(self.directory)
        shutil.copytree(self._saved, self.directory)

    def healthy(self, row: str) -> Done:
        """Return what the call comes to with streams that are fine."""
        if row not in self._healthy:
            self._healthy[row] = self.call(row)
        return self._healthy[row]

    def call(
        self,
        row: str,
        shell: str = "",
        *,
        out: int | IO[bytes] = subprocess.PIPE,
        err: int | IO[bytes] = subprocess.PIPE,
        env: Mapping[str, str] | None = None,
    ) -> Done:
        """Run a row of VERBS; `shell` has the redirections."""
        config, *args = VERBS[row]
        if args[0] in WRITE or self._is_changed:
            self.restore()
        self._is_changed = args[0] in WRITE
        text = f'{shell if shell.startswith("trap") else f"exec {shell};"} exec "$@"'
        words = [word.format(hold=self.hold, at=self.directory) for word in args]
        if not shell and not env and out is err is subprocess.PIPE:
            done = syncagent(*words, config=self.directory / config)
            return Done(done.returncode, self.left(), done.stdout, done.stderr)
        process = subprocess.Popen(
            ["sh", "-c", text, "sh", *PROGRAM, "--config", str(self.directory / config), *words],
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=err,
            start_new_session=out is not subprocess.PIPE,  # so there is no controlling terminal either
            env={name: value for name, value in os.environ.items() if name not in NOT_INHERITED} | dict(env or {}),
        )
        printed, said = process.communicate(timeout=PATIENCE)
        return Done(process.returncode, self.left(), (printed or b"").decode(), (said or b"").decode())

    def left(self) -> object:
        """Return what a run leaves: the map, its index, what is recorded, and the names of all files."""
        with contextlib.closing(sqlite3.connect(self.state / "state.db")) as database:
            assert database.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
            runs = database.execute("SELECT status, exit_code, added, removed FROM run ORDER BY started").fetchall()
            holds = database.execute("SELECT count(*) FROM hold").fetchall()
        begun = self.directory / "begun" / "syncagent.toml"
        names = sorted(path.name for path in self.directory.rglob("*") if "Z-" not in path.name)
        return (
            self.map.read_bytes(),
            sorted(postmap_keys(self.postfix_directory, f"lmdb:{self.map}")) if self._is_changed else [],
            runs,
            holds,
            names,
            begun.read_text("utf-8") if begun.exists() else "",
        )


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    """One place for all calls of this module."""
    directory = tmp_path_factory.mktemp("streams")
    (directory / "mx").mkdir()
    return Place(directory)


WRITE = {"sync", "approve", "init"}
VERBS: dict[str, tuple[str, ...]] = {
    "sync": (READS, "sync"),
    "sync --json": (READS, "sync", "--json"),
    "sync, a source fails": (FAILS, "sync"),
    "sync, configuration refused": (REFUSED, "sync"),
    "approve": (READS, "approve", "{hold}"),
    "approve --json": (READS, "approve", "{hold}", "--json"),
    "approve, unknown hold": (READS, "approve", "zzz"),
    "init": (
        "begun/syncagent.toml", "init", "--map", "lmdb:{at}/begun/map", "--domain", "example.com",
        "--config-directory", "{at}/postfix",
    ),
    "plan": (READS, "plan"),
    "plan --json": (READS, "plan", "--json"),
    "status": (READS, "status"),
    "status --json": (READS, "status", "--json"),
    "explain": (READS, "explain", "user001@example.com"),
    "explain --json": (READS, "explain", "user001@example.com", "--json"),
    "history": (READS, "history"),
    "history --json": (READS, "history", "--json"),
    "check": (READS, "check", "--offline"),
    "check --json": (READS, "check", "--offline", "--json"),
    "schema": (READS, "schema"),
    "completion": (READS, "completion", "bash"),
    "recipe test": (READS, "recipe", "test", "mailcow", str(GOLDEN / "mailcow.json")),
    "--help": (READS, "--help"),
    "--version": (READS, "--version"),
    "no such verb": (READS, "nothing"),
}  # fmt: skip
EXPECTED = {
    "sync": 65, "sync --json": 65, "sync, a source fails": 75, "sync, configuration refused": 78, "approve": 0,
    "approve --json": 0, "approve, unknown hold": 64, "init": 0, "plan": 65, "plan --json": 65, "status": 65,
    "status --json": 65, "check": 1, "check --json": 1, "no such verb": 64,
}  # fmt: skip
"""Exit statuses of the healthy calls; 0 where not named."""
SLOW_TO_RUN = {"check", "check --json"}
QUICK = [row for row in VERBS if row not in SLOW_TO_RUN]


# --- streams that are not fine

ASCII = {"LC_ALL": "C", "LANG": "C", "PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}


def unread() -> int:
    """Return the write end of a pipe whose reader has gone."""
    reading, writing = os.pipe()
    os.close(reading)
    return writing


def hung_up() -> int:
    """Return a terminal that has hung up: writing fails with EIO."""
    master, terminal = pty.openpty()
    os.close(master)
    return terminal


@contextlib.contextmanager
def opened(make: Callable[[], int]) -> Iterator[int]:
    """Close the descriptor in the end."""
    descriptor = make()
    try:
        yield descriptor
    finally:
        os.close(descriptor)


REDIRECTIONS = {
    "all closed": "<&- >&- 2>&-",
    "both full": ">/dev/full 2>&1",
}
MORE_REDIRECTIONS = {
    "stdout closed": ">&-",
    "stderr closed": "2>&-",
    "stdin closed": "<&-",
    "stdin and stdout closed": "<&- >&-",
    "stdout and stderr closed": ">&- 2>&-",
    "stdout full": ">/dev/full",
    "stderr full": "2>/dev/full",
    "stdout full, stderr closed": ">/dev/full 2>&-",
    "stdout read-only": "1</dev/null",
    "all on one closed pipe, SIGPIPE ignored": "trap '' PIPE;",
}


@pytest.mark.parametrize("row", VERBS)
def test_healthy(row: str, place: Place) -> None:
    """What the others are compared with is what it should be."""
    done = place.healthy(row)
    assert done.status == EXPECTED.get(row, 0), done
    assert done.out or done.err


@pytest.mark.parametrize("streams", REDIRECTIONS)
@pytest.mark.parametrize("row", QUICK)
def test_closed_or_full(row: str, streams: str, place: Place) -> None:
    """Every verb does and exits the same whatever its streams are."""
    assert place.call(row, REDIRECTIONS[streams]) == place.healthy(row)


@pytest.mark.parametrize("row", QUICK)
def test_a_pipe_that_nobody_reads(row: str, place: Place) -> None:
    """A reader that has gone, as of `| true`, is no failure, for either stream."""
    with opened(unread) as gone:
        assert place.call(row, out=gone, err=gone) == place.healthy(row)


@pytest.mark.parametrize(("row", "streams"), [("check", "<&- >&- 2>&-"), ("check --json", ">/dev/full 2>&1")])
def test_check(row: str, streams: str, place: Place) -> None:
    """The same for `check`, whose status is what it found."""
    assert place.call(row, streams) == place.healthy(row)


@pytest.mark.parametrize("row", ["approve", "init", "sync, configuration refused", "status --json", "--help"])
@pytest.mark.parametrize("streams", [">&-", "2>&-"])
def test_one_is_closed(row: str, streams: str, place: Place) -> None:
    """The same where a single one is closed; the other has what it always has."""
    done, healthy = place.call(row, streams), place.healthy(row)
    assert done == healthy
    assert (bool(done.out), done.err) == ((False, healthy.err) if streams == ">&-" else (bool(healthy.out), ""))


@pytest.mark.parametrize("streams", MORE_REDIRECTIONS)
def test_sync(streams: str, place: Place) -> None:
    """A sync publishes and records the same, and exits the same, for every combination."""
    with opened(unread) as gone:
        pipe = gone if "pipe" in streams else subprocess.PIPE
        done = place.call("sync", MORE_REDIRECTIONS[streams], out=pipe, err=pipe)
    assert done == place.healthy("sync")


@pytest.mark.parametrize("row", ["sync", "sync --json", "history", "sync, a source fails"])
def test_a_terminal_that_hung_up(row: str, place: Place) -> None:
    """Neither is a terminal that is no more, nor that there is no controlling one."""
    with opened(hung_up) as gone:
        assert place.call(row, out=gone, err=gone) == place.healthy(row)


@pytest.mark.parametrize("row", ["sync", "sync, a source fails", "plan --json", "explain", "--help"])
def test_a_locale_that_is_not_utf_8(row: str, place: Place) -> None:
    """What the locale cannot show is escaped."""
    assert place.call(row, env=ASCII) == place.healthy(row)


@pytest.mark.parametrize("row", ["sync", "plan --json", "schema", "history"])
def test_full_stdout_is_told_on_stderr(row: str, place: Place) -> None:
    """Output that got lost is one line on the standard error, after what is there anyway."""
    healthy, done = place.healthy(row), place.call(row, ">/dev/full")
    assert done == healthy
    told = "syncagent: standard output is incomplete: No space left on device\n"
    assert done.err == healthy.err + told


@pytest.mark.parametrize("non_blocking", [False, True])
@pytest.mark.parametrize("row", ["schema", "sync --json"])
def test_a_slow_reader(row: str, place: Place, *, non_blocking: bool) -> None:
    """A reader slower than the program gets everything, from a pipe in non-blocking mode too."""
    reading, writing = os.pipe()
    fcntl.fcntl(writing, fcntl.F_SETPIPE_SZ, 4096)
    os.set_blocking(writing, not non_blocking)
    read: list[bytes] = []

    def slowly() -> None:
        with os.fdopen(reading, "rb", buffering=0) as pipe:
            while some := pipe.read(100):
                read.append(some)

    reader = threading.Thread(target=slowly)
    reader.start()
    with os.fdopen(writing, "wb") as pipe:
        done = place.call(row, out=pipe)
    reader.join(PATIENCE)
    assert done == place.healthy(row)
    printed = b"".join(read).decode()
    assert json.loads(printed).keys() == json.loads(place.healthy(row).out).keys()


# --- what is printed never lands in a file of ours

LOUD = """
import os, subprocess, sys
from pathlib import Path
from msgspec import Struct
from syncagent.sources import Answer

class Config(Struct, frozen=True, kw_only=True):
    told: Path

def build(config):
    return Source(config)

class Source:
    def __init__(self, config):
        self.told = config.told
    def fetch(self, request):
        for descriptor in (0, 1, 2):  # as a library in C would
            try:
                os.write(descriptor, b"LOUD " * 2000)
            except OSError:
                pass
        for stream in (sys.stdout, sys.stderr):
            print("LOUD " * 2000, file=stream, flush=True)
        looks = "echo LOUD; echo LOUD >&2; echo $(readlink /proc/$$/fd/0 /proc/$$/fd/1 /proc/$$/fd/2) >\\"$0\\""
        subprocess.run(["sh", "-c", looks, self.told], check=True)
        request.sink.put([("loud@example.com", "k", "")])
        return Answer()
"""


@pytest.mark.parametrize("streams", ["<&- >&- 2>&-", ">&-", "2>&-", "<&-"])
def test_nothing_lands_in_a_file_of_ours(streams: str, tmp_path: Path) -> None:
    """Descriptors 0 to 2 are never a file that the program opened, neither its own nor those of its children."""
    mx, told = Station(tmp_path), tmp_path / "told"
    mx.write("corp", people(10))
    mx.extra = f'[sources.loud]\ntype = "loud"\ntold = "{told}"\n'
    env = os.environ | install(tmp_path / "site", "loud", LOUD)
    words = ["sh", "-c", f'exec {streams}; exec "$@"', "sh", *PROGRAM, "--config", str(mx.configure()), "sync"]
    null = subprocess.DEVNULL
    done = subprocess.run(words, check=False, env=env, stdin=null, stdout=null, stderr=null, timeout=PATIENCE)
    assert done.returncode == 0
    assert mx.published() == people(10) | {"loud@example.com"}
    assert told.read_text("utf-8").split() == ["/dev/null"] * 3
    with contextlib.closing(sqlite3.connect(mx.state / "state.db")) as database:
        assert database.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    loud = [path for path in tmp_path.rglob("*") if path.is_file() and b"LOUD" in path.read_bytes()]
    assert [path.parent.name for path in loud] == ["site"]


# --- a terminal that is stopped

SLOW = """
import time
from msgspec import Struct
from syncagent.sources import Answer

class Config(Struct, frozen=True, kw_only=True):
    pass

def build(config):
    return Source()

class Source:
    def fetch(self, request):
        time.sleep(1.5)  # so that progress is shown
        request.sink.put([("slow@example.com", "k", "")])
        return Answer()
"""


def test_progress_on_a_stopped_terminal(tmp_path: Path) -> None:
    """A terminal that was stopped (^S) does not keep a sync from its work; the result is there when it goes on."""
    mx = Station(tmp_path)
    mx.write("corp", people(10))
    mx.extra = '[sources.slow]\ntype = "slow"\n'
    env = {"TERM": "xterm", **install(tmp_path / "site", "slow", SLOW)}
    words = (*PROGRAM, "--config", mx.configure(), "sync")
    terminal = Terminal("sh", "-c", 'echo ready; read go; exec "$@"', "sh", *words, env=env)
    try:
        terminal.until("ready")
        theirs = os.open(f"/proc/{terminal.process.pid}/fd/1", os.O_RDWR | os.O_NOCTTY)
        termios.tcflow(theirs, termios.TCOOFF)
        terminal.write("\n")
        assert wait_until(partial(mx.is_published, "slow@example.com"))
        termios.tcflow(theirs, termios.TCOON)
        os.close(theirs)
        assert terminal.ended() == 0
    finally:
        terminal.process.kill()
    assert "published" in terminal.said


# --- the agent


@pytest.fixture
def mx(tmp_path: Path) -> Station:
    """A backup MX of 10 people, which has never run."""
    station = Station(tmp_path)
    station.write("corp", people(10))
    return station


@contextlib.contextmanager
def agent(mx: Station, shell: str, stderr: int | None = None) -> Iterator[subprocess.Popen[bytes]]:
    """Run an agent; end it by a TERM, to which it exits 0."""
    words = ["sh", "-c", f'exec {shell}; exec "$@"', "sh", *PROGRAM, "--config", str(mx.configure()), "run"]
    env = {name: value for name, value in os.environ.items() if name not in NOT_INHERITED}
    with subprocess.Popen(words, stdin=subprocess.DEVNULL, env=env, stderr=stderr) as process:
        try:
            yield process
            assert process.poll() is None
            process.terminate()
            assert process.wait(PATIENCE) == 0
        finally:
            process.kill()


def keeps_up(mx: Station, count: int) -> None:
    """Assert that the agent publishes so many people."""
    mx.write("corp", people(count))
    assert wait_until(partial(mx.is_published, *people(count)))


@pytest.mark.parametrize("shell", ["<&- >&- 2>&-", "2</dev/null"])
def test_an_agent_without_a_log(mx: Station, shell: str) -> None:
    """It keeps the map in step all the same."""
    with agent(mx, shell):
        keeps_up(mx, 10)
        keeps_up(mx, 11)


def test_an_agent_whose_log_is_not_read(mx: Station) -> None:
    """A reader that stops reading does not stop it; what got lost is counted once there is room again."""
    reading, writing = os.pipe()
    fcntl.fcntl(writing, fcntl.F_SETPIPE_SZ, 4096)
    os.write(writing, b"-" * 4095 + b"\n")
    with os.fdopen(reading, "rb") as log:
        with agent(mx, "", stderr=writing) as process:
            keeps_up(mx, 10)
            keeps_up(mx, 11)
            os.close(writing)
            assert log.readline().startswith(b"---")
            process.send_signal(signal.SIGHUP)
            lost = json.loads(log.readline())
            rest = [json.loads(log.readline())]
            while rest[-1]["event"] != "configuration read again":
                rest.append(json.loads(log.readline()))
        rest += [json.loads(line) for line in log]
    assert (lost["event"], lost["level"]) == ("log lines lost", "warning")
    assert lost["count"] >= 2  # started, and that the first were published
    assert {"run_id", "timestamp"} <= lost.keys()
    assert "log lines lost" not in [event["event"] for event in rest]
    assert rest[-1]["event"] == "stopped"
