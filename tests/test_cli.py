"""The command: help, usage, exit codes, signals, pipes, and which module imports which."""

import fcntl
import importlib.metadata
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

import syncagent as package
from syncagent.cli import main as cli
from syncagent.cli import options
from syncagent.errors import ExitCode
from syncagent.files.atomic import identity
from tests.sources import HEAVY, install, map_keys, write_config
from tests.support.programs import PATIENCE, wait_until
from tests.support.run import syncagent

VERBS = sorted(cli.command.commands)
ALL_VERBS = [*((verb,) for verb in VERBS if verb != "recipe"), ("recipe", "test")]
FILE = '[sources.f]\ntype = "file"\npath = "list"\n'
ROOT = Path(package.__file__).parent

_TELL_MODULES = """
import atexit, runpy, sys
told = sys.argv[1]
atexit.register(lambda: open(told, "w").write("\\n".join(sys.modules)))
sys.argv = ["syncagent", *sys.argv[2:]]
runpy.run_module("syncagent", run_name="__main__", alter_sys=True)
"""


def modules_after(told: Path, *args: str | Path) -> tuple[int, set[str]]:
    """Run the program; give its exit status and the top-level names of what it had imported in the end."""
    command = [sys.executable, "-c", _TELL_MODULES, str(told), *map(str, args)]
    done = subprocess.run(command, check=False, capture_output=True, timeout=PATIENCE)
    return done.returncode, {name.partition(".")[0] for name in told.read_text(encoding="utf-8").splitlines()}


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """A configuration with one flat file."""
    (tmp_path / "list").write_text("a@example.com\nb@example.com\n", encoding="utf-8")
    return write_config(tmp_path, FILE)


@pytest.mark.parametrize("option", ["--help", "-h"])
def test_help(option: str) -> None:
    """Help names every verb, the exit status, the files, and where to start."""
    done = syncagent(option, check=0)
    assert done.stderr == ""
    for verb in VERBS:
        assert re.search(rf"^  {verb} +\w", done.stdout, re.MULTILINE)
    for words in ("EXIT STATUS", "FILES", "EXAMPLES", "/etc/syncagent/syncagent.toml", "$SYNCAGENT_CONFIG"):
        assert words in done.stdout
    assert max(map(len, done.stdout.splitlines())) <= 100


@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize("option", ["--help", "-h"])
def test_help_of_a_verb(verb: str, option: str) -> None:
    """Every verb has help, without a configuration."""
    done = syncagent(verb, option, config=Path("/nowhere"), check=0)
    assert done.stdout.startswith(f"Usage: syncagent {verb} ")
    assert done.stderr == ""


@pytest.mark.parametrize("args", [["--help"], ["recipe", "--help"]])
def test_short_help_is_whole(args: list[str]) -> None:
    """On a terminal of 80 columns each verb has one line in the list, and none is cut."""
    done = syncagent(*args, env={"COLUMNS": "80"}, check=0)
    commands = done.stdout.partition("Commands:\n")[2].partition("\n\n")[0].splitlines()
    assert len(commands) == (len(VERBS) if args == ["--help"] else 1)
    for line in commands:
        assert re.fullmatch(r"  [a-z]+ +\S.*\.", line), line
        assert not line.endswith("..")
        assert len(line) <= 80


@pytest.mark.parametrize("args", [["--help"], *([*verb, "--help"] for verb in ALL_VERBS)], ids=" ".join)
def test_help_shows_config_once(args: list[str]) -> None:
    """Help has --config, once, wherever it may be typed."""
    assert len(re.findall(r"^ +--config FILE", syncagent(*args, check=0).stdout, re.MULTILINE)) == 1


@pytest.mark.parametrize("verb", ALL_VERBS, ids=" ".join)
def test_config_is_taken_behind_the_verb(verb: tuple[str, ...], tmp_path: Path) -> None:
    """Every verb takes --config where people type it; there it goes before the variable and before one in front."""
    arguments = {"explain": ["a@example.com"], "approve": ["k3x7q2"], "completion": ["bash"], "recipe": ["x", "y"]}
    (tmp_path / "bad.toml").write_text("x =\n", encoding="utf-8")
    there = tmp_path / "there.toml"
    there.write_text("y =\n", encoding="utf-8")
    env = {"SYNCAGENT_CONFIG": str(tmp_path / "none.toml")}
    for option in ([f"--config={there}"], ["--config", str(there)]):
        done = syncagent(*verb, *option, *arguments.get(verb[0], []), config=tmp_path / "bad.toml", env=env)
        if verb[0] not in {"init", "schema", "completion", "recipe"}:
            assert done.stderr.startswith(f"syncagent: {there}:1: not TOML"), done.stderr
            assert done.returncode == ExitCode.CONFIG
        assert "No such option" not in done.stderr


def test_config_behind_init_is_what_is_written(tmp_path: Path) -> None:
    """`syncagent init --config FILE` writes that file."""
    syncagent("init", "--config", tmp_path / "x.toml", "--domain", "example.com", check=0)
    assert (tmp_path / "x.toml").exists()


def test_no_configuration(tmp_path: Path) -> None:
    """Where there is none, the command to begin one is named; and the variable, if that named the file."""
    none = tmp_path / "no ne.toml"
    begin = f"to begin one, type: syncagent --config '{none}' init\n"
    missing = f"syncagent: {none}: cannot be read: No such file or directory"
    assert syncagent("sync", config=none, check=78).stderr == f"{missing}; {begin}"
    assert syncagent("sync", "--config", none, check=78).stderr == f"{missing}; {begin}"
    env = {"SYNCAGENT_CONFIG": str(none)}
    assert syncagent("sync", env=env, check=78).stderr == f"{missing} (named by $SYNCAGENT_CONFIG); {begin}"
    assert syncagent("sync", "--config", none, env={"SYNCAGENT_CONFIG": "/x"}, check=78).stderr == f"{missing}; {begin}"


@pytest.mark.parametrize("args", [["--help"], ["--version"], *([verb, "--help"] for verb in VERBS)])
def test_help_imports_nothing_heavy(args: list[str], tmp_path: Path) -> None:
    """Help imports none of the heavy libraries, nor what only a run needs."""
    code, modules = modules_after(tmp_path / "told", *args)
    assert code == 0
    assert "click" in modules
    assert not (HEAVY | {"idna", "sqlite3", "structlog"}) & modules


def test_an_unchanged_sync_imports_nothing_heavy(config: Path) -> None:
    """A sync that finds nothing to do, as nearly all do, imports no heavy library, and no IDNA tables."""
    for _ in range(2):
        code, modules = modules_after(config.with_name("told"), "--config", config, "sync")
        assert code == 0
    assert "sqlite3" in modules
    assert not (HEAVY | {"idna"}) & modules


def test_version() -> None:
    """The version is the package's."""
    assert syncagent("--version", check=0).stdout == f"syncagent {package.__version__}\n"
    assert importlib.metadata.version("syncagent") == package.__version__


@pytest.mark.parametrize(
    "args",
    [
        [],
        ["nonsense"],
        ["--nonsense"],
        ["sync", "--nonsense"],
        ["sync", "more"],
        ["sync", "--lock-timeout", "soon"],
        ["sync", "--lock-timeout", "-1"],
        ["sync", "--lock-timeout", "nan"],
        ["approve"],
        ["--config"],
    ],
)
def test_usage_errors(args: list[str], config: Path) -> None:
    """A command line that is wrong exits 64, says so on standard error, and does nothing."""
    done = syncagent(*args, env={"SYNCAGENT_CONFIG": str(config)}, check=64)
    assert done.stdout == ""
    assert "Error: " in done.stderr or "Usage: " in done.stderr
    assert not config.with_name("map").exists()


def test_an_unknown_hold_is_a_usage_error(config: Path) -> None:
    """An ID that no hold has exits 64, and nothing is synced."""
    done = syncagent("approve", "k3x7q2", config=config, check=64)
    assert done.stderr == 'syncagent: unknown hold ID "k3x7q2"; current holds: none (see syncagent status)\n'
    assert not config.with_name("map").exists()


def test_exit_codes_are_documented() -> None:
    """The exit codes in the help, in the README and in the code are the same."""
    section = syncagent("--help", check=0).stdout.partition("EXIT STATUS")[2].partition("FILES")[0]
    codes = [int(code) for code in re.findall(r"^ +(\d+)  \S", section, re.MULTILINE)]
    assert codes == sorted(ExitCode)
    readme = (ROOT.parent / "README.md").read_text(encoding="utf-8")
    for code in ExitCode:
        assert re.search(rf"\| *(\d+, )*{code.value}(, \d+)* *\|", readme), code


def test_json(config: Path) -> None:
    """--json prints one object, whose exit code is the program's, and nothing else."""
    for verb, status in (("plan", "planned"), ("sync", "published"), ("sync", "unchanged"), ("plan", "unchanged")):
        done = syncagent(verb, "--json", config=config)
        result = json.loads(done.stdout)
        assert result["exit_code"] == done.returncode == 0
        assert result["status"] == status
        assert result["recipients"] == 2
        assert done.stderr == ""
    config.with_name("list").unlink()
    done = syncagent("sync", "--json", config=config, check=75)
    assert json.loads(done.stdout)["exit_code"] == 75


def test_quiet(config: Path) -> None:
    """--quiet prints nothing while all is well, and everything when something begins; see test_quiet."""
    for _ in range(2):
        done = syncagent("sync", "--quiet", config=config, check=0)
        assert (done.stdout, done.stderr) == ("", "")
    config.with_name("list").unlink()
    done = syncagent("sync", "--quiet", config=config, check=75)
    assert "source f is failing" in done.stderr
    assert done.stdout != ""


@pytest.mark.parametrize("verb", ["plan", "check"])
def test_what_only_looks_writes_nothing(verb: str, config: Path) -> None:
    """Neither before the first sync nor after it does a verb that only looks leave a trace."""
    directory = config.parent

    def tree() -> dict[Path, tuple[int, ...] | None]:
        return {path: identity(path) for path in sorted(directory.rglob("*"))}

    before = tree()
    syncagent(verb, config=config, check=0)
    assert tree() == before
    syncagent("sync", config=config, check=0)
    (directory / "list").write_text("c@example.com\n", encoding="utf-8")
    before = tree()
    syncagent(verb, config=config)
    assert tree() == before


@pytest.mark.parametrize(
    ("value", "server"),
    [
        ("127.0.0.1", ("127.0.0.1", 25)),
        ("127.0.0.1:2525", ("127.0.0.1", 2525)),
        ("mx.example.com", ("mx.example.com", 25)),
        ("mx.example.com:26", ("mx.example.com", 26)),
        ("[::1]", ("::1", 25)),
        ("[2001:db8::1]:65535", ("2001:db8::1", 65535)),
    ],
)
def test_servers(value: str, server: tuple[str, int]) -> None:
    """A server may be named with its port or without, an IPv6 address in brackets."""
    assert options.server(25)(click.Context(cli.check), click.Option(["--smtp"]), value) == server


@pytest.mark.parametrize("value", ["::1", "2001:db8::1", "::1:53", "[::1", "::1]:53", "[]", "[]:53", "a b", "a:\uff11"])
def test_no_servers(value: str) -> None:
    """What could be read in two ways, or is none, is refused: an IPv6 address without brackets may end in a port."""
    with pytest.raises(click.BadParameter, match="IPv6 address in brackets"):
        options.server(53)(click.Context(cli.check), click.Option(["--dns"]), value)


def test_check_asks_a_server_without_a_port(config: Path) -> None:
    """`check` on the usual ports says what it found, whatever that is."""
    for server in ("127.0.0.1", "[::1]"):
        done = syncagent("check", "--dns", server, "--smtp", server, config=config)
        assert done.returncode in {0, 1}, done.stderr


def test_a_held_lock(config: Path) -> None:
    """Another run that does not end in time is exit status 75, for what writes and for what only looks."""
    syncagent("sync", config=config, check=0)
    lock = config.parent / "state" / "sync.lock"
    with lock.open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        for verb in ("sync", "plan"):
            done = syncagent(verb, "--lock-timeout", "0.1", config=config, check=75)
            assert done.stderr == (
                f"syncagent: another run holds {lock} and did not end within 0.1s: wait, or raise --lock-timeout\n"
            )
    syncagent("sync", "--lock-timeout", "0", config=config, check=0)


def test_a_fault_of_ours(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """A fault in syncagent itself is exit status 70, with all of its trace."""

    def fault(**_: object) -> None:
        raise RuntimeError("the moon is full")

    monkeypatch.setattr(cli.command, "main", fault)
    assert cli._main() == 70
    assert "RuntimeError: the moon is full" in capsys.readouterr().err


SLOW = """
import time
from pathlib import Path
from msgspec import Struct
from syncagent.sources import Answer

class Config(Struct, frozen=True, kw_only=True):
    started: Path

def build(config):
    return Source(config)

class Source:
    def __init__(self, config):
        self.started = config.started
    def fetch(self, request):
        request.sink.put([("slow@example.com", "k", "")])
        self.started.touch()
        time.sleep(60)
        return Answer()
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("verb", ["sync", "plan", "check"])
def test_interrupted(config: Path, number: signal.Signals, verb: str) -> None:
    """Told to stop while a source is slow, it stops at once: exit status 130, and the map is what it was."""
    directory = config.parent
    syncagent("sync", config=config, check=0)
    before = identity(directory / "map")
    env = install(directory / "site", "slow", SLOW)
    write_config(directory, FILE + '[sources.s]\ntype = "slow"\nstarted = "started"\n')
    with (directory / "list").open("a", encoding="utf-8") as file:
        file.write("new@example.com\n")
    command = [sys.executable, "-m", "syncagent", "--config", str(config), verb]
    with subprocess.Popen(command, stderr=subprocess.PIPE, encoding="utf-8", env=os.environ | env) as process:
        assert wait_until((directory / "started").exists)
        process.send_signal(number)
        _, stderr = process.communicate(timeout=PATIENCE)
    assert process.returncode == 130, stderr
    assert stderr.strip() == "syncagent: interrupted; nothing is half done"
    assert identity(directory / "map") == before
    assert wait_until(lambda: not list(_commands(str(directory / "state"))))
    write_config(directory, FILE)
    syncagent("sync", "--lock-timeout", "0", config=config, check=0)
    assert "new@example.com" in map_keys(directory)


def _commands(word: str) -> Iterator[str]:
    """Give the running commands that have a word in them."""
    for process in Path("/proc").iterdir():
        if process.name.isdigit():
            try:
                command = (process / "cmdline").read_bytes().decode(errors="replace")
            except OSError:
                continue
            if word in command:
                yield command


@pytest.mark.parametrize(
    ("args", "code"),
    [
        (["sync"], 0),
        (["sync", "--json"], 0),
        (["plan"], 0),
        (["check", "--offline"], 0),
        (["schema"], 0),
        (["--help"], 0),
        (["sync", "--help"], 0),
    ],
)
@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_a_reader_that_has_seen_enough(args: list[str], code: int, unbuffered: str, config: Path) -> None:
    """Output into a pipe that nobody reads any more, as of `head -1`, makes no noise; a run's own status counts."""
    reading, writing = os.pipe()
    os.close(reading)
    command = [sys.executable, "-m", "syncagent", "--config", str(config), *args]
    env = {**os.environ, "PYTHONUNBUFFERED": unbuffered}
    with os.fdopen(writing, "wb") as pipe:
        done = subprocess.run(command, check=False, stdout=pipe, stderr=subprocess.PIPE, env=env, timeout=PATIENCE)
    assert done.stderr == b""
    assert done.returncode == code
    assert config.with_name("map").exists() is (args[0] == "sync" and "--help" not in args)


def test_through_a_real_head(config: Path) -> None:
    """`syncagent sync --json | head -1` prints a line and nothing else."""
    command = f"{sys.executable} -m syncagent --config {config} sync --json | head -1"
    done = subprocess.run(["sh", "-c", command], check=True, capture_output=True, encoding="utf-8", timeout=PATIENCE)
    assert (done.stdout, done.stderr) == ("{\n", "")


def test_a_terminal_that_cannot_show_an_address(config: Path) -> None:
    """An address, or a file's name, that the locale cannot show is escaped; the run is what it is."""
    (config.parent / "list").write_text("jösé@example.com\n", encoding="utf-8")
    env = {"PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0", "LC_ALL": "C"}
    assert "j\\xf6s\\xe9@example.com" in syncagent("sync", config=config, env=env, check=0).stdout
    bad = Path(os.fsdecode(os.fsencode(config.parent) + b"/lists"))
    bad.mkdir()
    Path(os.fsdecode(os.fsencode(bad) + b"/b\xe4d")).write_bytes(b"a@example.com\n\0")
    write_config(config.parent, FILE + '[sources.odd]\ntype = "file"\npath = "lists"\n')
    assert "NUL" in syncagent("sync", config=config, env=env, check=75).stderr
