"""The ledger lost or hurt in any part: nobody is lost, it is said, and the next whole run is right."""

import os
import signal
import sqlite3
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from syncagent.errors import LedgerError, SourceError
from syncagent.model import SourceState, SyncResult
from syncagent.sources import read_secret
from syncagent.state import database as ledger_module
from syncagent.state.database import Ledger
from tests.scenario import Scenario, people
from tests.support import kill
from tests.support.kill import Point
from tests.support.need import need_postmap, need_program
from tests.support.postmap import postmap_build, settle
from tests.support.programs import PATIENCE, wait_until

SAID, HELD = people(30), people(15, first=100)
OTHERS = people(10, "example.org")


class Remembering(Scenario):
    """A map with recipients that a source says, ones that are held, and a second source; not the first run."""

    def __init__(self, directory: Path) -> None:
        super().__init__(directory, "corp", "branch", relay_domains=("example.com", "example.org"))
        self.set_clock(time.time())
        self.write("branch", OTHERS)
        self.write("corp", SAID | HELD)
        self.sync()
        self.write("corp", SAID)
        self.sync(code=65)
        assert self.published() == SAID | HELD | OTHERS

    def recovers(self, *, told: bool = True) -> SyncResult:
        """Assert that a run loses nobody, says what it found, and the one after is unchanged."""
        result = self.sync(code=None)
        assert result.exit_code in {0, 65}, result
        assert self.published() == SAID | HELD | OTHERS
        assert result.notes or result.error or not told, "nothing was said"
        for _ in range(2):
            settled = self.sync(code=65)
        assert settled.status == "unchanged"
        assert sum(hold.count for hold in settled.plan.holds) == len(HELD)
        again = self.sync(code=65)
        assert not again.notes
        return result


def _bytes(file: Path, change: Callable[[bytearray], object]) -> None:
    data = bytearray(file.read_bytes())
    change(data)
    file.write_bytes(bytes(data))


def _garbage(data: bytearray) -> None:
    data[:] = b"\xa5garbage" * (len(data) // 8)


def _garbage_in_the_middle(data: bytearray) -> None:
    """Spoil every page but the first three, as a bad disk would."""
    data[3 * 4096 :] = b"\xa5" * (len(data) - 3 * 4096)


def _garbage_past_the_first_page(data: bytearray) -> None:
    data[4096:] = b"\xa5" * (len(data) - 4096)


@pytest.mark.parametrize(
    "spoil",
    [
        _garbage,
        _garbage_in_the_middle,
        _garbage_past_the_first_page,
        *(lambda data, length=length: data.__delitem__(slice(length, None)) for length in (0, 1, 50, 100, 4096, 8192)),
        lambda data: data.__delitem__(slice(len(data) // 2, None)),
    ],
    ids=["garbage", "middle", "but-first", "0", "1", "50", "100", "4096", "8192", "half"],
)
def test_a_damaged_database(spoil: Callable[[bytearray], object], tmp_path: Path) -> None:
    """A database that is garbage, in part garbage, or short is set aside and begun anew; nobody is lost."""
    mx = Remembering(tmp_path)
    _bytes(mx.state / "state.db", spoil)
    mx.recovers()
    with closing(sqlite3.connect(mx.state / "state.db")) as database:
        assert database.execute("PRAGMA integrity_check").fetchall() == [("ok",)]


def test_each_page_of_the_database_damaged(tmp_path: Path) -> None:
    """Whichever page is garbage, at once or by the second run that has something to do the ledger is sound again."""
    mx = Remembering(tmp_path)
    for page in range(1, (mx.state / "state.db").stat().st_size // 4096):
        data = bytearray((mx.state / "state.db").read_bytes())
        data[page * 4096 : (page + 1) * 4096] = b"\xa5" * 4096
        (mx.state / "state.db").write_bytes(bytes(data))
        for turn in (1, 2):
            mx.write("corp", [*SAID, f"new{page}@example.com"] if turn == 1 else SAID)
            mx.say("sync", code=None)
            assert mx.published() >= SAID | HELD | OTHERS
        mx.say("sync", code=65)
        with closing(sqlite3.connect(mx.state / "state.db")) as database:
            assert database.execute("PRAGMA integrity_check").fetchall() == [("ok",)], f"page {page}"


def test_a_deleted_database(tmp_path: Path) -> None:
    """Without its database a run loses nobody and says what it found."""
    mx = Remembering(tmp_path)
    (mx.state / "state.db").unlink()
    mx.recovers()


def test_a_database_of_another_version(tmp_path: Path) -> None:
    """One that a later syncagent wrote is left alone: exit 73, and the mend is said."""
    mx = Remembering(tmp_path)
    with closing(sqlite3.connect(mx.state / "state.db")) as database:
        database.execute(f"PRAGMA user_version={ledger_module.VERSION + 1}")
    assert "move it away" in mx.say("sync", code=73).stderr
    (mx.state / "state.db").rename(tmp_path / "away")
    mx.recovers()


@contextmanager
def _locked(database: Path, ready: Path) -> Iterator[None]:
    """Have another process hold the database."""
    code = (
        "import pathlib, sqlite3, sys, time\n"
        "sqlite3.connect(sys.argv[1], isolation_level=None).execute('BEGIN EXCLUSIVE')\n"
        "pathlib.Path(sys.argv[2]).touch()\n"
        "time.sleep(3600)\n"
    )
    with subprocess.Popen([sys.executable, "-c", code, str(database), str(ready)]) as holder:
        try:
            assert wait_until(ready.exists)
            yield
        finally:
            holder.kill()


def test_a_database_that_another_process_holds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A locked database is waited for, then exit 73 says so; it is not taken for damaged."""
    mx = Remembering(tmp_path)
    monkeypatch.setattr(ledger_module, "_BUSY_SECONDS", 0.3)
    mx.write("corp", SAID | HELD | people(1, first=500))
    before = mx.map.read_bytes()
    with _locked(mx.state / "state.db", tmp_path / "ready"):
        stderr = mx.say("sync", code=73).stderr  # by the real time limit
    assert f"locked; another process has it open: fuser -v {mx.state / 'state.db'}" in stderr
    assert mx.map.read_bytes() == before
    assert not list(mx.state.glob("state.db.damaged*"))
    mx.write("corp", SAID)
    mx.recovers(told=False)


def _snapshot(mx: Scenario, source: str) -> Path:
    with closing(Ledger(mx.state, write=False)) as ledger:
        snapshot = ledger.sources[source].snapshot
        assert snapshot
        return mx.state / "snapshots" / snapshot.file


def _list(mx: Scenario, kind: str) -> Path:
    with closing(Ledger(mx.state, write=False)) as ledger:
        assert ledger.finished
        name = ledger.finished.kept.name if kind == "kept" else ledger.finished.published.name
        return mx.state / "lists" / name


def _remove(file: Path) -> None:
    file.unlink()


def _shorten(file: Path) -> None:
    """Cut whole lines off, the end line with them."""
    file.write_bytes(b"".join(file.read_bytes().splitlines(keepends=True)[:5]))


def _shorten_with_an_end(file: Path) -> None:
    """Cut lines out and leave the end line."""
    lines = file.read_bytes().splitlines(keepends=True)
    file.write_bytes(b"".join(lines[:5] + lines[-1:]))


def _alter(file: Path) -> None:
    _bytes(file, lambda data: data.__setitem__(6, ord("x") if data[6] != ord("x") else ord("y")))


def _empty(file: Path) -> None:
    file.write_bytes(b"")


def test_a_full_disk_is_told_as_one(tmp_path: Path) -> None:
    """SQLite rolls back by itself where there is no room, and that is what is told."""
    with closing(Ledger(tmp_path)) as ledger:
        ledger._database.execute("PRAGMA max_page_count = 1")
        with pytest.raises(LedgerError, match=r"cannot be written: database or disk is full"):
            ledger.save_source(SourceState("corp", error="x" * 200_000))


HURTS = [_remove, _shorten, _shorten_with_an_end, _alter, _empty]


@pytest.mark.parametrize("failing", [False, True], ids=["whole", "failing"])
@pytest.mark.parametrize("hurt", HURTS)
def test_a_damaged_snapshot(hurt: Callable[[Path], None], tmp_path: Path, *, failing: bool) -> None:
    """A source's list that is not what was written is fetched whole; if the source fails meanwhile, nobody is lost."""
    mx = Remembering(tmp_path)
    time.sleep(max(0.0, mx.file("branch").stat().st_mtime + 2.1 - time.time()))  # old enough to be “same”
    mx.sync(code=65)
    hurt(_snapshot(mx, "branch"))
    if failing:
        mx.break_source("branch")
        result = mx.sync(code=75)
        assert mx.published() == SAID | HELD | OTHERS
        assert any("branch" in note for note in result.notes)
        mx.write("branch", OTHERS)
    mx.recovers(told=not failing)


@pytest.mark.parametrize("hurt", HURTS)
@pytest.mark.parametrize("kind", ["kept", "published"])
def test_a_damaged_list(kind: str, hurt: Callable[[Path], None], tmp_path: Path) -> None:
    """What is kept, or what is published, altered, short or missing: the next run that compares says so."""
    mx = Remembering(tmp_path)
    hurt(_list(mx, kind))
    mx.write("corp", [*SAID, "new@example.com"])
    result = mx.sync(code=65)
    assert result.notes
    assert mx.published() == SAID | HELD | OTHERS | {"new@example.com"}
    mx.write("corp", SAID | HELD | {"new@example.com"})
    assert not mx.sync().plan.holds
    assert mx.sync().status == "unchanged"


def _older_map(mx: Remembering) -> None:
    """Put an older map back by hand, index and all."""
    mx.map.write_text("".join(f"{address} OK\n" for address in sorted(SAID)[:20]), "utf-8")
    settle(mx.map)
    postmap_build(mx.directory / "postfix", f"lmdb:{mx.map}")


@pytest.mark.parametrize("kind", ["kept", "published", "both"])
def test_an_older_text_while_addresses_are_held(kind: str, tmp_path: Path) -> None:
    """The text replaced by an older copy, a list damaged besides: what is held is still published."""
    mx = Remembering(tmp_path)
    _older_map(mx)
    for one in ("kept", "published") if kind == "both" else (kind,):
        _alter(_list(mx, one))
    result = mx.sync(code=None)
    assert result.notes
    survivors = mx.published()
    assert survivors >= SAID | OTHERS
    if kind != "both":
        assert survivors == SAID | HELD | OTHERS
    mx.sync(code=None)
    assert mx.sync(code=None).status == "unchanged"


def test_an_older_text_alone(tmp_path: Path) -> None:
    """The text replaced by an older copy, index and all: the record knows what is held."""
    mx = Remembering(tmp_path)
    _older_map(mx)
    mx.recovers()


def test_modes_as_designed(tmp_path: Path) -> None:
    """State directory 0750, its files 0640, the lock 0600, the map 0644, whatever the umask."""
    for mask in (0o022, 0o000):
        directory = tmp_path / f"{mask:o}"
        directory.mkdir()
        old = os.umask(mask)
        try:
            mx = Remembering(directory)
            many = people(10_050, first=200) | SAID
            mx.limits["removed_floor"] = 1_000_000
            mx.write("corp", many)
            mx.map.write_text(mx.map.read_text("utf-8") + "hand@example.com OK\n", "utf-8")
            mx._heard["corp"] = set()
            mx.say("sync", code=0)
        finally:
            os.umask(old)
        assert _mode(mx.map) == 0o644
        assert _mode(Path(f"{mx.map}.lmdb")) & 0o444 == 0o444
        assert (mx.state / "changes").exists()
        assert (mx.state / "adopted").exists()
        for path in (mx.state, *mx.state.rglob("*")):
            if "spool" not in path.parts:
                usual = 0o750 if path.is_dir() else 0o640
                assert _mode(path) == (0o600 if path.name == "sync.lock" else usual), path
        assert not list(mx.state.glob(".spool-*")), "what a run spools goes with it"


def _mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o644, 0o601])
def test_a_secret_that_others_can_read_is_refused(mode: int, tmp_path: Path) -> None:
    """A secret open to group or world is not used, and the mend is said."""
    secret = tmp_path / "secret"
    secret.write_text("hunter2\n", "utf-8")
    secret.chmod(mode)
    with pytest.raises(SourceError, match="chmod 600") as caught:
        read_secret(str(secret))
    assert "hunter2" not in str(caught.value)
    secret.chmod(0o600)
    assert read_secret(str(secret)) == "hunter2"


STANDING = {
    "source": Point("syncagent.sources.file:FileSource._read_all", "after"),
    "snapshot": Point("syncagent.files.atomic:fsync_directory"),
    "compare": Point("syncagent.sync.diff:Diff.decide"),
    "rename": Point("pathlib:Path.replace", "after"),
    "record": Point("syncagent.state.database:_insert_run"),
}


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["ctrl-c", "sigterm"])
@pytest.mark.parametrize("where", STANDING)
def test_interrupted(where: str, number: signal.Signals, tmp_path: Path) -> None:
    """Ctrl-C or SIGTERM at a step: exit 130, the map whole, no process left, and the next run converges."""
    mx = Remembering(tmp_path)
    mx.write("corp", SAID | HELD | {"new@example.com"})
    standing = tmp_path / "standing"
    run = kill.start(
        kill.command(STANDING[where], "sleep", mx.configure(), "sync"), {**mx._env, "STANDING": str(standing)}
    )
    _interrupt(mx, run, standing, number)


def test_a_signal_that_another_thread_took(tmp_path: Path) -> None:
    """SIGTERM that does not wake the main thread, as one in the instant before it waits for a source, ends it too."""
    mx = Remembering(tmp_path)
    mx.write("corp", SAID | HELD | {"new@example.com"})
    run = kill.start(kill.command(STANDING["source"], "term", mx.configure(), "sync"), mx._env)
    try:
        out, err = run.communicate(timeout=PATIENCE)
    finally:
        kill.end(run)
    assert run.returncode == 130, (run.returncode, out, err)
    mx.say("sync", code=0)


@pytest.mark.parametrize("group", [False, True], ids=["itself", "with-its-children"])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["ctrl-c", "sigterm"])
@pytest.mark.parametrize("phase", ["build", "read-back"])
def test_interrupted_while_postmap_runs(phase: str, number: signal.Signals, tmp_path: Path, *, group: bool) -> None:
    """The same while postmap builds or answers, whether the terminal tells the children too or not."""
    mx = Remembering(tmp_path)
    mx.write("corp", SAID | HELD | {"new@example.com"})
    standing = tmp_path / "standing"
    program = tmp_path / "bin" / "postmap"
    program.parent.mkdir()
    program.write_text(
        "#!/bin/sh\nphase=build\n"
        'case "$*" in *" -s "*|*" -q "*) phase=read-back ;; esac\n'
        f'if [ "$phase" = {phase} ]; then touch {standing}; exec sleep 3600; fi\n'
        f'exec {need_postmap("lmdb")} "$@"\n',
        "utf-8",
    )
    program.chmod(0o755)
    path = {"PATH": f"{program.parent}{os.pathsep}{os.environ['PATH']}"}
    run = kill.start([sys.executable, "-m", "syncagent", "--config", str(mx.configure()), "sync"], path)
    _interrupt(mx, run, standing, number, group=group)


IGNORING = "import os, signal, sys; signal.signal(signal.SIGCHLD, signal.SIG_IGN); os.execv(sys.argv[1], sys.argv[1:])"


def test_a_child_that_fails_has_not_done_well(tmp_path: Path) -> None:
    """Begun by a program that ignores its children, it hears of theirs all the same: half a sorted list is none."""
    mx = Remembering(tmp_path)
    mx.limits = {"removal_grace": "0s", "removed_floor": 1_000_000}
    program = tmp_path / "bin" / "sort"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\n{need_program("sort")} "$@" | head -n 3\nexit 2\n', "utf-8")
    program.chmod(0o755)
    before = mx.published()
    mx.write("corp", SAID | HELD | {"new@example.com"})
    path = {"PATH": f"{program.parent}{os.pathsep}{os.environ['PATH']}"}
    run = kill.start(
        [sys.executable, "-c", IGNORING, sys.executable, "-m", "syncagent", "--config", str(mx.configure()), "sync"],
        path,
    )
    try:
        out, err = run.communicate(timeout=PATIENCE)
    finally:
        kill.end(run)
    assert run.returncode != 0, (out, err)
    assert b"sort failed (2)" in err
    assert mx.published() == before


def _interrupt(
    mx: Remembering, run: subprocess.Popen[bytes], standing: Path, number: signal.Signals, *, group: bool = False
) -> None:
    old, new = SAID | HELD | OTHERS, SAID | HELD | OTHERS | {"new@example.com"}
    try:
        assert wait_until(standing.exists)
        (os.killpg if group else os.kill)(run.pid, number)
        out, err = run.communicate(timeout=PATIENCE)
    finally:
        kill.end(run)
    assert run.returncode == 130, (run.returncode, out, err)
    assert b"interrupted" in err
    assert b"Traceback" not in err
    assert wait_until(lambda: not kill.session(run.pid)), kill.session(run.pid)
    assert not list(mx.map.parent.glob(".*syncagent-*"))
    keys = {line.removesuffix(" OK") for line in mx.map.read_text("utf-8").splitlines() if "@" in line}
    assert keys in (old, new)
    mx.say("sync", code=0)
    assert mx.published() == new
    assert mx.sync().status == "unchanged"


def test_files_that_are_not_ours_stay(tmp_path: Path) -> None:
    """What somebody else put into the state directory is not swept, whatever it is called."""
    mx = Remembering(tmp_path)
    foreign = [mx.state / "lists" / "all.txt", mx.state / "snapshots" / "notes", mx.state / "spool" / "mail"]
    for path in foreign:
        path.parent.mkdir(exist_ok=True)
        path.write_text("mine")
    mx.write("corp", people(5))
    mx.say("sync", code=65)
    assert [path.read_text() for path in foreign] == ["mine"] * 3
