"""contrib/make-list.sh: a list that is dated, expires, and is replaced only by a whole one; in every shell there is."""

import hashlib
import os
import re
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest

from syncagent.sources.integrity import Heading, whole_text
from tests.sources import map_keys, write_config
from tests.support.clock import run_at
from tests.support.need import need_program
from tests.support.programs import PATIENCE, wait_until

SCRIPT = Path(__file__).parent.parent / "contrib" / "make-list.sh"
USAGE, NO_LIST, FAILED, CANNOT_WRITE = 64, 65, 69, 73
SHELLS = {"dash": ("dash",), "bash": ("bash",), "bash --posix": ("bash", "--posix"), "busybox": ("busybox", "sh")}
HOUR = 3600


@pytest.fixture(params=SHELLS)
def shell(request: pytest.FixtureRequest) -> tuple[str, ...]:
    """Return the command line of a shell."""
    need_program(SHELLS[request.param][0])
    return SHELLS[request.param]


def command(shell: tuple[str, ...], *args: str | Path) -> list[str]:
    """Return the command line that makes a list."""
    return [*shell, str(SCRIPT), *map(str, args)]


def make(shell: tuple[str, ...], *args: str | Path, code: int = 0, cwd: Path | None = None, path: str = "") -> str:
    """Make a list, and return what is said on the standard error. Nothing is printed."""
    environment = os.environ | ({"PATH": path} if path else {})
    done = subprocess.run(
        command(shell, *args), capture_output=True, text=True, timeout=PATIENCE, check=False, cwd=cwd, env=environment
    )
    assert (done.returncode, done.stdout) == (code, ""), done.stderr
    return done.stderr


def read(file: Path) -> tuple[float, float, list[str]]:
    """Return when a list was made, when it expires, and its addresses, after the end line was verified."""
    heading = Heading(str(file))
    lines = (
        b"".join(heading.through(whole_text([file.read_bytes()], str(file), require_end=True))).decode().splitlines()
    )
    dates = heading.dates
    return dates.made, dates.expires, [line for line in lines if not line.startswith("#")]


def left(directory: Path) -> list[str]:
    """Return the names of temporary files."""
    return [path.name for path in directory.iterdir() if path.name.startswith(".")]


def test_a_list(shell: tuple[str, ...], tmp_path: Path) -> None:
    """It has the lines of the command between its dates and its end line; the mode is by the umask."""
    file, before = tmp_path / "list", int(time.time())
    assert make(shell, file, "printf", "a@example.com\\nb@example.com\\n") == ""
    made, expires, addresses = read(file)
    assert before <= made <= time.time()
    assert expires == made + 3 * HOUR, "an hour between two runs unless it is said"
    assert addresses == ["a@example.com", "b@example.com"]
    lines = file.read_text().splitlines(keepends=True)
    assert re.fullmatch(r"# made: [0-9-]{10}T[0-9:]{8}Z\n", lines[0])
    assert re.fullmatch(r"# expires: [0-9-]{10}T[0-9:]{8}Z\n", lines[1])
    assert lines[-1] == f"# end {len(lines) - 1} {hashlib.sha256(''.join(lines[:-1]).encode()).hexdigest()}\n"
    assert file.stat().st_mode & 0o7777 == 0o666 & ~os.umask(os.umask(0o22))
    assert left(tmp_path) == []


@pytest.mark.parametrize(
    ("every", "seconds"), [("90s", 90), ("5m", 300), ("08m", 480), ("1h30m", 5400), ("7d", 604800), ("2w", 1209600)]
)
def test_every(shell: tuple[str, ...], tmp_path: Path, every: str, seconds: int) -> None:
    """It expires after three times the time between two runs, so that two may fail."""
    for form in (("--every", every), (f"--every={every}",)):
        make(shell, *form, tmp_path / "list", "echo", "a@example.com")
        made, expires, _ = read(tmp_path / "list")
        assert expires - made == 3 * seconds


@pytest.mark.parametrize(
    ("script", "code", "told"),
    [
        ("echo a@example.com; exit 3", FAILED, "sh failed (exit status 3)"),
        ("echo a@example.com; kill -9 $$", FAILED, "sh failed (exit status 137)"),
        ("exit 0", NO_LIST, "sh printed no recipient"),
        ("echo; echo '# nobody'; echo ' '", NO_LIST, "sh printed no recipient"),
        (
            "echo a@example.com; printf b@exam",
            NO_LIST,
            "the last line that sh printed does not end in a line feed, as if it were cut",
        ),
        (
            "echo '# made: 2026-01-01T00:00:00Z'; echo a@example.com",
            NO_LIST,
            "sh printed a list that has dates already",
        ),
    ],
)
def test_the_old_list_stays(shell: tuple[str, ...], tmp_path: Path, script: str, code: int, told: str) -> None:
    """Whatever is not a whole output of a command that succeeded leaves the list as it is, and is said."""
    file = tmp_path / "list"
    make(shell, file, "echo", "a@example.com")
    before, status = file.read_bytes(), file.stat()
    errors = make(shell, file, "sh", "-c", script, code=code).splitlines()
    assert errors[-1] == f"make-list: {told}; {file} is left as it is"
    assert (file.read_bytes(), file.stat().st_ino, file.stat().st_mtime) == (before, status.st_ino, status.st_mtime)
    assert left(tmp_path) == []


def test_a_command_that_is_not_there(shell: tuple[str, ...], tmp_path: Path) -> None:
    """It fails as any other does, and no list is made."""
    assert "nonesuch failed (exit status 127)" in make(shell, tmp_path / "list", "nonesuch", code=FAILED)
    assert list(tmp_path.iterdir()) == []


def test_usage(shell: tuple[str, ...], tmp_path: Path) -> None:
    """What is missing or malformed is named; nothing is written."""
    for args, told in (
        ((), "FILE and COMMAND are needed"),
        (("list",), "FILE and COMMAND are needed"),
        (("--every",), "--every needs a time"),
        (("--every", "1", "list", "true"), "expected a time such as 90s, 5m, 1h or 7d, got '1'"),
        (("--every", "0s", "list", "true"), "got '0s'"),
        (("--every", "", "list", "true"), "got ''"),
        (("--every", "h", "list", "true"), "got 'h'"),
        (("--every", "1000000000s", "list", "true"), "got '1000000000s'"),
        (("--every", "999999999w", "list", "true"), "got '999999999w'"),
        (("--evry", "1h", "list", "true"), "unknown option --evry"),
        ((str(tmp_path), "true"), "is a directory"),
        (("list/", "true"), "FILE must be the name of a file"),
    ):
        assert told in make(shell, *args, code=USAGE, cwd=tmp_path)
    assert list(tmp_path.iterdir()) == []
    done = subprocess.run(command(shell, "--help"), capture_output=True, text=True, check=True)
    assert done.stdout.startswith("usage: make-list.sh [--every TIME] FILE COMMAND")


def test_names_and_arguments(shell: tuple[str, ...], tmp_path: Path) -> None:
    """A file may have an odd name, and the command's own options and white space are its own."""
    for name in ("-list", "a list", "a*"):
        make(shell, "--", name, "printf", "%s\n", "a  b@example.com", "--every", cwd=tmp_path)
        assert read(tmp_path / name)[2] == ["a  b@example.com", "--every"]


def test_it_cannot_be_written(shell: tuple[str, ...], tmp_path: Path) -> None:
    """A directory that is not there is said before the command is run."""
    ran = tmp_path / "ran"
    assert "nothing can be written into" in make(shell, tmp_path / "no" / "list", "touch", ran, code=CANNOT_WRITE)
    assert not ran.exists()


def test_no_room(shell: tuple[str, ...], tmp_path: Path) -> None:
    """Where the new list cannot be written whole, the old one stays."""
    file = tmp_path / "list"
    make(shell, file, "echo", "a@example.com")
    before = file.read_bytes()
    for last, code in (("1039", CANNOT_WRITE), ("9999", FAILED)):  # 4,088 octets, and more than 4,096
        limited = ["dash", "-c", 'trap "" XFSZ; ulimit -f 8; exec "$@"', "sh", *command(shell, file, "seq", last)]
        done = subprocess.run(limited, capture_output=True, text=True, timeout=PATIENCE, check=False)
        assert (done.returncode, file.read_bytes()) == (code, before), done.stderr
    assert left(tmp_path) == []


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGINT, signal.SIGTERM])
def test_it_is_interrupted(shell: tuple[str, ...], tmp_path: Path, number: signal.Signals) -> None:
    """The list stays, nothing is left over, and the exit status tells of it."""
    file, begun = tmp_path / "list", tmp_path / "begun"
    make(shell, file, "echo", "a@example.com")
    before = file.read_bytes()
    script = f"echo b@example.com; touch '{begun}'; exec sleep 1000"
    process = subprocess.Popen(command(shell, file, "sh", "-c", script), start_new_session=True)
    try:
        assert wait_until(begun.exists)
        os.killpg(process.pid, number)
        assert process.wait(PATIENCE) != 0
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
    assert file.read_bytes() == before
    assert left(tmp_path) == []


def test_the_list_that_was_begun_last_stays(shell: tuple[str, ...], tmp_path: Path) -> None:
    """A slow run that was begun before another one does not replace the newer list: `made` would go back."""
    file, begun, go = tmp_path / "list", tmp_path / "begun", tmp_path / "go"
    os.mkfifo(go)
    script = f"touch '{begun}'; cat '{go}' >/dev/null; echo slow@example.com"
    slow = subprocess.Popen(command(shell, file, "sh", "-c", script), stderr=subprocess.PIPE, text=True)
    try:
        assert wait_until(begun.exists)
        second = int(time.time())
        assert wait_until(lambda: int(time.time()) > second)
        make(shell, file, "echo", "quick@example.com")
        go.write_text("")
        _, err = slow.communicate(timeout=PATIENCE)
    finally:
        slow.kill()
    assert slow.returncode == 0
    assert err == f"make-list: {file} was made meanwhile by a run that began later: this one is not needed\n"
    assert read(file)[2] == ["quick@example.com"]
    assert left(tmp_path) == []


def test_many_at_the_same_time(shell: tuple[str, ...], tmp_path: Path) -> None:
    """Whoever reads it meanwhile finds a whole list of one of them."""
    file = tmp_path / "list"
    script = "for n in 1 2 3 4 5 6 7 8 9; do echo $$-$n@example.com; done"
    runs = [subprocess.Popen(command(shell, file, "sh", "-c", script)) for _ in range(8)]
    whole: set[str] = set()
    while any(run.poll() is None for run in runs) or not whole:
        if file.exists():
            addresses = read(file)[2]
            (writer,) = {address.partition("-")[0] for address in addresses}
            assert len(addresses) == 9
            whole.add(writer)
    assert [run.wait(PATIENCE) for run in runs] == [0] * 8
    assert left(tmp_path) == []


def test_a_list_in_the_place_that_is_of_the_future(shell: tuple[str, ...], tmp_path: Path) -> None:
    """One that was made by a wrong clock is replaced all the same."""
    file = tmp_path / "list"
    file.write_text("# made: 2199-01-01T00:00:00Z\nold@example.com\n")
    make(shell, file, "echo", "a@example.com")
    assert read(file)[2] == ["a@example.com"]


def test_without_flock_and_sha256sum(tmp_path: Path) -> None:
    """Where they are missing, as on BSD, it works by shasum(1); without either it says so."""
    programs = tmp_path / "bin"
    programs.mkdir()
    needed = ("sh", "date", "mktemp", "chmod", "cat", "grep", "tail", "wc", "cut", "sed", "head", "expr", "mv", "rm")
    for name in (*needed, "sync", "echo"):
        (programs / name).symlink_to(shutil.which(name) or f"/bin/{name}")
    file = tmp_path / "list"
    assert "neither sha256sum nor shasum" in make(
        ("/bin/sh",), file, "echo", "a@example.com", code=FAILED, path=str(programs)
    )
    assert not file.exists()
    perl, shasum = need_program("perl"), need_program("shasum")
    (programs / "shasum").write_text(f'#!/bin/sh\nexec {perl} {shasum} "$@"\n')
    (programs / "shasum").chmod(0o755)
    make(("/bin/sh",), file, "echo", "a@example.com", path=str(programs))
    assert read(file)[2] == ["a@example.com"]


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """Return a configuration that reads the list."""
    source = '[sources.primary]\ntype = "file"\npath = "list"\nrequire_end = true\n'
    return write_config(tmp_path, source)


def test_it_expires_while_the_command_fails(tmp_path: Path, config: Path) -> None:
    """The whole way: a primary whose dump fails is noticed on the backup, and a new list ends that."""
    make(("sh",), "--every", "1h", tmp_path / "list", "printf", "a@example.com\\nb@example.com\\n")
    made = read(tmp_path / "list")[0]
    assert run_at(made + 60, "sync", config=config)[0] == 0
    make(("sh",), "--every", "1h", tmp_path / "list", "sh", "-c", "echo a@example.com; exit 1", code=FAILED)
    assert run_at(made + 3 * HOUR - 1, "sync", config=config)[0] == 0
    code, out, _ = run_at(made + 3 * HOUR, "sync", config=config)
    assert code == 75
    assert "WARNING: data of source primary outdated since" in out
    assert map_keys(tmp_path) == ["a@example.com", "b@example.com"]
    (tmp_path / "list").unlink()
    make(("sh",), "--every", "7d", tmp_path / "list", "echo", "a@example.com")
    assert run_at(made + 4 * HOUR, "status", config=config)[0] == 75
    assert run_at(made + 4 * HOUR, "sync", config=config)[0] in {0, 65}
    assert run_at(made + 4 * HOUR, "status", config=config)[0] in {0, 65}


def test_shellcheck() -> None:
    """It is portable, as shellcheck(1) has it."""
    done = subprocess.run([need_program("shellcheck"), SCRIPT], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
