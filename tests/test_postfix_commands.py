"""Running Postfix's programs, and what a failure of theirs is told by: real ones, on a main.cf of the test's own."""

import os
import stat
import subprocess
from pathlib import Path

import pytest

from syncagent.files.pipeline import Process
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


def test_a_program_that_is_interrupted_while_it_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    """A signal between the start of a program and the return of the call leaves no process behind."""
    begun, execute = [], subprocess.Popen._execute_child  # type: ignore[attr-defined]

    def interrupted(self: subprocess.Popen[bytes], *args: object) -> None:
        execute(self, *args)
        begun.append(self.pid)
        raise KeyboardInterrupt

    monkeypatch.setattr(subprocess.Popen, "_execute_child", interrupted)
    with pytest.raises(KeyboardInterrupt):
        Process(["sleep", "3600"])
    with pytest.raises(ProcessLookupError):
        os.kill(begun[0], 0)
