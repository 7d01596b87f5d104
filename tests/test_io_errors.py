"""An error of reading is not damage: the run fails, the database stays where it is, the next run knows what it knew."""

import errno
import os
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import IO

import pytest

from syncagent.errors import LedgerError
from syncagent.files import sorted_lines
from syncagent.state.database import Ledger
from tests.scenario import Scenario, people, reasons
from tests.support.need import need, need_program

HELD, CANNOT_PUBLISH = 65, 73
MOST = 20
"""The number of reads of which each one fails once."""


def _can_trace(strace: str) -> bool:
    """True if strace may trace here, by trying it."""
    return subprocess.run([strace, "-o", os.devnull, "true"], check=False, capture_output=True).returncode == 0


@pytest.fixture
def strace() -> str:
    """The program by which a system call fails."""
    program = need_program("strace")
    need("a strace that may trace", _can_trace(program))
    return program


@pytest.fixture
def holding(tmp_path: Path) -> Scenario:
    """A map of which 40 of 100 removals are held."""
    scenario = Scenario(tmp_path)
    scenario.write("corp", people(100))
    scenario.sync()
    scenario.write("corp", people(60))
    scenario.sync(code=HELD)
    return scenario


def _traced(strace: str, log: Path, database: Path, number: int, *args: str | Path) -> int:
    """Run the program, whose read of the database of this number fails with EIO. Return its exit status."""
    inject: list[str | Path] = ["-e", "trace=pread64", "-P", database, "-e", f"inject=pread64:error=EIO:when={number}"]
    command = [strace, "-f", "-qq", "-o", log, *inject, sys.executable, "-m", "syncagent", *args]
    return subprocess.run(command, check=False, capture_output=True).returncode


def test_each_read_of_the_database_fails_once(strace: str, holding: Scenario, tmp_path: Path) -> None:
    """Whichever read of state.db fails: 73, and the database stays; then the run holds what it held."""
    config, database, log = holding.configure(), holding.state / "state.db", tmp_path / "trace"
    holds = {hold.id for hold in holding.sync(code=HELD).plan.holds}
    for number in range(1, MOST + 1):
        holding.write("corp", people(60) | people(number, first=500))
        status = _traced(strace, log, database, number, "--config", config, "sync")
        failed = "EIO" in log.read_text("utf-8")
        assert failed, f"only {number - 1} reads"
        assert status == CANNOT_PUBLISH, number
        assert not list(holding.state.glob("state.db.damaged*")), number
        result = holding.sync(code=HELD)
        assert reasons(result) == {"example.com": {"percent"}}, number
        assert {hold.id for hold in result.plan.holds} == holds
        assert holding.published() >= people(100)


@pytest.mark.parametrize("verb", ["status", "plan", "explain"])
def test_a_verb_that_only_reads(verb: str, strace: str, holding: Scenario, tmp_path: Path) -> None:
    """What only reads the state fails likewise, and does not call it damaged."""
    config, log = holding.configure(), tmp_path / "trace"
    more = ["user001@example.com"] if verb == "explain" else []
    for number in range(1, 6):
        assert _traced(strace, log, holding.state / "state.db", number, "--config", config, verb, *more) == 73
    assert not list(holding.state.glob("state.db.damaged*"))


def test_all_reads_fail(strace: str, holding: Scenario, tmp_path: Path) -> None:
    """A disk that gives nothing any more is no damaged database either."""
    log, database = tmp_path / "trace", holding.state / "state.db"
    inject: list[str | Path] = ["-e", "trace=pread64", "-P", database, "-e", "inject=pread64:error=EIO:when=3+"]
    command = [strace, "-f", "-qq", "-o", log, *inject, sys.executable, "-m", "syncagent"]
    done = subprocess.run(
        [*command, "--config", holding.configure(), "sync"], check=False, capture_output=True, text=True
    )
    assert done.returncode == CANNOT_PUBLISH
    assert "cannot be read: Input/output error; it stays where it is" in done.stderr
    assert not list(holding.state.glob("state.db.damaged*"))
    assert reasons(holding.sync(code=HELD)) == {"example.com": {"percent"}}


def _list(mx: Scenario, kind: str) -> Path:
    """Return the file of a list in use: what is kept, what is published, or the list of a source."""
    with closing(Ledger(mx.state, write=False)) as ledger:
        finished, snapshot = ledger.finished, ledger.sources["corp"].snapshot
    assert finished
    assert snapshot
    names = {"kept": finished.kept.name, "published": finished.published.name}
    return mx.state / "lists" / names[kind] if kind in names else mx.state / "snapshots" / snapshot.file


@pytest.mark.parametrize("kind", ["kept", "published", "corp"])
def test_a_list_that_cannot_be_read(kind: str, strace: str, holding: Scenario, tmp_path: Path) -> None:
    """A sorted list whose reading fails is not taken for a damaged one: 73, and nothing is begun anew."""
    file = _list(holding, kind)
    holding.write("corp", {*people(60), "new@example.com"})
    log = tmp_path / "trace"
    inject: list[str | Path] = ["-e", "trace=read", "-P", file, "-e", "inject=read:error=EIO:when=1"]
    command = [strace, "-f", "-qq", "-o", log, *inject, sys.executable, "-m", "syncagent"]
    if kind == "corp":  # read only if its identity is not as recorded
        os.utime(file)
    done = subprocess.run(
        [*command, "--config", holding.configure(), "sync"], check=False, capture_output=True, text=True
    )
    assert "EIO" in log.read_text("utf-8")
    assert done.returncode == CANNOT_PUBLISH, done.stdout
    assert file.exists()
    result = holding.sync(code=HELD)
    assert not result.notes
    assert reasons(result) == {"example.com": {"percent"}}


def test_what_is_not_there_is_damaged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An error of reading is told apart from a file that is gone."""
    file = tmp_path / "list"
    sorted_lines.write_sorted(file, [b"a\n"])

    def fails(*_: object) -> IO[bytes]:
        raise OSError(errno.EIO, os.strerror(errno.EIO), str(file))

    monkeypatch.setattr(sorted_lines, "open_foreign", fails)
    with pytest.raises(LedgerError, match="Input/output error"):
        sorted_lines.verify(file)
