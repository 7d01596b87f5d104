"""Running Postfix's programs, and what a failure of theirs is told by: real ones, on a main.cf of the test's own."""

import os
import signal
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from syncagent.errors import LedgerError
from syncagent.files import children
from syncagent.files.pipeline import Child, Process
from syncagent.postfix import commands
from syncagent.postfix.commands import Cause, CommandError
from syncagent.postfix.live import LivePostfix
from syncagent.values.types import TableName
from tests.support.need import need_postfix
from tests.support.postmap import COMPATIBILITY_LEVEL, write_parameters


@pytest.fixture(name="live")
def fixture_live(tmp_path: Path) -> LivePostfix:
    """A Postfix whose main.cf is the test's."""
    need_postfix("hash")
    write_parameters(tmp_path, {"compatibility_level": COMPATIBILITY_LEVEL, "myhostname": "mx.example.com"})
    return LivePostfix(tmp_path, lambda: "probe@example.com")


@pytest.mark.parametrize(
    ("table", "cause"),
    [
        ("hash:/nonexistent/table", Cause.FILE_MISSING),
        ("proxy:hash:/nonexistent/table", Cause.FILE_MISSING),
        ("nosuch:/nonexistent/table", Cause.UNKNOWN_TYPE),
        ("socketmap:unix:/nonexistent/socket:x", Cause.OTHER),
    ],
)
def test_the_cause_of_a_failed_lookup(live: LivePostfix, table: str, cause: Cause) -> None:
    """A failure has the cause by which the callers decide, and Postfix's own words."""
    with pytest.raises(CommandError, match=r"nonexistent|nosuch") as failure:
        live.look_up(table, ["a@example.com"])
    assert failure.value.cause is cause


def test_messages_are_in_the_c_locale(live: LivePostfix, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the locale of the caller is: the causes are found in the words of the C locale."""
    show = live.directory / "show-locale"
    show.write_text('#!/bin/sh\nprintf "%s\\n" "$LC_ALL"\n')
    show.chmod(stat.S_IRWXU)
    monkeypatch.setenv("LC_ALL", "de_DE.UTF-8")
    monkeypatch.setenv("PATH", f"{live.directory}:{os.environ['PATH']}")
    assert commands.output("show-locale", directory=None) == "C\n"


def test_a_program_that_is_not_installed(live: LivePostfix) -> None:
    """It is named, and that is a cause of its own."""
    with pytest.raises(CommandError, match="postnothing is not installed") as failure:
        live.ask("postnothing")
    assert failure.value.cause is Cause.NOT_INSTALLED


def test_a_program_that_does_not_end(live: LivePostfix) -> None:
    """It is killed after the time limit."""
    with pytest.raises(CommandError, match=r"sleep did not end within 0\.2s") as failure:
        commands.run("sleep", "600", directory=None, timeout=0.2)
    assert failure.value.cause is Cause.TIMEOUT


def test_a_fifo_in_the_place_of_main_cf(live: LivePostfix) -> None:
    """No program is started that would wait for it."""
    (live.directory / "main.cf").unlink()
    os.mkfifo(live.directory / "main.cf")
    with pytest.raises(CommandError, match=r"main\.cf: "):
        live.ask("postconf", "-x", "myhostname")
    assert live.values == {}


def test_many_lines_of_stderr_are_cut(live: LivePostfix) -> None:
    """The last lines say why; what came before is left out."""
    script = 'for i in $(seq 50); do echo "line $i" >&2; done; exit 3'
    done = commands.run("sh", "-c", script, directory=None)
    assert str(done.error()) == "line 48; line 49; line 50"
    assert str(commands.run("false", directory=None).error()) == "false failed with exit status 1"


def test_parameters_are_parsed() -> None:
    """Names and values without the blanks around; a value may be empty, or have a = of its own."""
    stdout = "a = b\nempty =\nx = y = z\nsmtp/inet/mynetworks = 192.0.2.0/24\n"
    assert commands.parameters(stdout) == {
        "a": "b",
        "empty": "",
        "x": "y = z",
        "smtp/inet/mynetworks": "192.0.2.0/24",
    }


@pytest.mark.parametrize(
    ("text", "kind", "rest", "path", "spelled"),
    [
        ("lmdb:/var/lib/x", "lmdb", "/var/lib/x", "/var/lib/x", "lmdb:/var/lib/x"),
        ("proxy:hash:/x", "hash", "/x", "/x", "hash:/x"),
        ("static:OK", "static", "OK", None, "static:OK"),
        ("inline:{{a@example.com=b:c}}", "inline", "{{a@example.com=b:c}}", None, "inline:{{a@example.com=b:c}}"),
        ("socketmap:unix:/s:x", "socketmap", "unix:/s:x", None, "socketmap:unix:/s:x"),
    ],
)
def test_a_table_name_is_split(text: str, kind: str, rest: str, path: str | None, spelled: str) -> None:
    """The type ends at the first colon, proxy: left out; only an absolute path is one."""
    name = TableName.parse(text)
    assert (name.type, name.rest, str(name)) == (kind, rest, spelled)
    assert name.path == (Path(path) if path else None)


@pytest.fixture(name="raises")
def fixture_raises() -> Iterator[None]:
    """A handler of SIGTERM that raises KeyboardInterrupt, as that of the program."""
    before = signal.signal(signal.SIGTERM, lambda *_: children.interrupt(KeyboardInterrupt()))
    yield
    signal.signal(signal.SIGTERM, before)


@pytest.mark.usefixtures("raises")
def test_a_program_that_is_interrupted_while_it_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    """A signal that is handled before the ID of the new process is known leaves no process behind."""
    begun: list[int] = []
    real = subprocess._fork_exec  # type: ignore[attr-defined]

    def fork(*args: object) -> int:
        begun.append(real(*args))
        os.kill(os.getpid(), signal.SIGTERM)
        return begun[0]

    monkeypatch.setattr(subprocess, "_fork_exec", fork)
    with pytest.raises(KeyboardInterrupt):
        Process(["sleep", "3600"])
    children.kill_all()
    with pytest.raises(ProcessLookupError):
        os.kill(begun[0], 0)


@pytest.mark.usefixtures("raises")
def test_a_program_that_cannot_be_started_when_a_signal_arrives(monkeypatch: pytest.MonkeyPatch) -> None:
    """The signal is what counts."""

    def fork(*_: object) -> int:
        os.kill(os.getpid(), signal.SIGTERM)
        raise OSError

    monkeypatch.setattr(subprocess, "_fork_exec", fork)
    with pytest.raises(KeyboardInterrupt):
        Process(["sleep", "3600"])


@pytest.mark.usefixtures("raises")
def test_a_signal_before_the_block_of_a_child() -> None:
    """A child whose block was never entered is killed too, and one that has ended is left alone."""
    ended = Process(["true"])
    ended.wait()
    child = Child(["sleep", "3600"], subprocess.DEVNULL)
    children.kill_all()
    assert (ended.returncode, child.process.returncode) == (0, -signal.SIGKILL)
    with pytest.raises(KeyboardInterrupt):
        os.kill(os.getpid(), signal.SIGTERM)
    with pytest.raises(LedgerError, match="sleep failed"), child:
        pass
