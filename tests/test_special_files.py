"""A FIFO, a socket, a device, a directory or a huge file in a file's place: refused by name, never waited for."""

import os
import shutil
import socket
import stat
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from syncagent import sources
from tests.scenario import Scenario
from tests.support.authority import Authority

SECONDS = 60.0
"""How long a child may take: one that waits for a FIFO takes for ever."""
MEMORY = 2_000_000
"""Kilobytes of address space that a child has: one that reads a device or a huge file to its end runs out."""
HUGE = 10 << 30
UNANSWERED = """
[sources.list]
type = "http"
format = "lines"
url = "https://127.0.0.1:9"
token_file = "./token"
ca_file = "ca.pem"
client_cert_file = "./client.pem"
client_key_file = "./client.key"

[sources.api]
type = "http"
recipe = "./recipe.toml"
url = "https://127.0.0.1:9"
token_file = "./token"
"""
LIMITED = f'ulimit -v {MEMORY}; exec "$@"'


def _listen(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as server:
        here = Path.cwd()
        os.chdir(path.parent)  # a socket's name may not be long
        try:
            server.bind(path.name)
        finally:
            os.chdir(here)


def _device(path: Path) -> None:
    """Make what /dev/zero is; whoever may not make one names that, which nobody but root could replace."""
    try:
        os.mknod(path, stat.S_IFCHR | 0o666, os.makedev(1, 5))
    except PermissionError:
        path.symlink_to("/dev/zero")


def _sparse(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(HUGE)
    path.chmod(0o600)


MAKERS: dict[str, tuple[Callable[[Path], object], str]] = {
    "FIFO": (os.mkfifo, "is a FIFO"),
    "socket": (_listen, "is a socket"),
    "device": (_device, "is a character device"),
    "directory": (Path.mkdir, "is a directory"),
    "huge": (_sparse, "is larger than"),
    "endless line": (_sparse, "line of over"),
}
"""How each kind is made, and what is said of it."""
SPECIAL = ("FIFO", "socket", "device", "directory")


@dataclass(frozen=True)
class Row:
    """What stands in a file's place: for each verb the exit status (None: any), and whether the file is named."""

    file: str
    kinds: tuple[str, ...]
    named: dict[str, int]
    ends: dict[str, int | None] = field(default_factory=dict)


VERBS = {"explain": ("explain", "anna@example.com"), "check": ("check", "--offline"), "approve": ("approve", "abcdef")}
VERBS["recipe test"] = ("recipe", "test", "mailcow", "FIXTURE")
SYNC = {"sync": 73, "plan": 73, "check": 1}
ROWS = (
    Row("syncagent.toml", SPECIAL, dict.fromkeys(("sync", "check"), 78)),
    Row("syncagent.toml", ("huge",), {"sync": 78}),
    Row("syncagent.toml", ("FIFO",), dict.fromkeys(("plan", "status", "explain", "history", "approve", "run"), 78)),
    Row("recipe.toml", SPECIAL, {"sync": 78}),
    Row("recipe.toml", ("huge",), {"sync": 78}),
    Row("recipe.toml", ("FIFO",), dict.fromkeys(("plan", "check", "status", "run"), 78)),
    Row("relay_recipients", SPECIAL, SYNC),
    Row("relay_recipients", ("FIFO",), {}, {"status": None, "explain": 0, "history": 0}),
    Row("relay_recipients", ("endless line",), {"plan": 73}),
    Row("relay_recipients.lmdb", SPECIAL, {"sync": 73, "check": 1}),
    Row("relay_recipients.lmdb", ("FIFO",), {"explain": 0}, {"status": None, "history": 0}),
    Row("relay_domains", SPECIAL, SYNC),
    Row("relay_domains.lmdb", SPECIAL, {"sync": 73, "check": 1}),
    Row("corp.list", SPECIAL[:3], {"sync": 75, "check": 1}),
    Row("corp.list", ("endless line",), {"plan": 75}),
    Row("corp.list", ("FIFO",), {"plan": 75}, {"status": None, "explain": 0}),
    Row("lists/b.list", SPECIAL[:3], {"sync": 75}),
    Row("lists/b.list", ("FIFO",), {"plan": 75, "check": 1}),
    Row("token", SPECIAL, {"sync": 75, "check": 1}),
    Row("token", ("huge",), {"plan": 75}),
    Row("ca.pem", SPECIAL, {"sync": 75}),
    Row("ca.pem", ("huge",), {"plan": 75, "check": 1}),
    Row("client.pem", (*SPECIAL, "huge"), {"sync": 75}),
    Row("fixture.json", (*SPECIAL, "huge"), {"recipe test": 78}),
    Row("state/sync.lock", SPECIAL, SYNC),
    Row("state/sync.lock", ("FIFO",), {"approve": 73}, {"status": None}),
    Row("state/agent.lock", SPECIAL, {"run": 73}, {"status": None}),
    Row("state/agent.json", ("FIFO", "huge"), {}, {"status": None}),
    Row("state/state.db", SPECIAL, {"sync": 73, "plan": 73, "status": 73}),
    Row("state/state.db", ("FIFO",), {"explain": 73, "history": 73, "check": 1}),
    Row("state/state.db-journal", ("FIFO",), {"sync": 73, "status": 73}),
    Row("state/snapshots/corp-*", ("FIFO",), {}, {"plan": None, "explain": 73}),
    Row("state/lists/published-*", ("FIFO",), {"sync": None, "plan": None}),
    Row("state/lists/kept-*", ("FIFO",), {"sync": None}, {"explain": 0}),
    Row("postfix/main.cf", SPECIAL, {"sync": 73}),
    Row("postfix/main.cf", ("FIFO",), {"check": 1}, {"explain": 0, "status": None}),
)


class Mx(Scenario):
    """A backup MX with every file that somebody else writes."""

    def __init__(self, directory: Path) -> None:
        super().__init__(directory, "corp", "several")
        self.write("corp", ["anna@example.com"])
        self.sources["several"]["path"] = str(directory / "lists")
        self.postfix = {"domains_map": f"lmdb:{directory / 'relay_domains'}"}
        (directory / "lists").mkdir()
        for name in "ab":
            (directory / f"lists/{name}.list").write_text(f"{name}@example.com\n", encoding="ascii")
        (directory / "token").write_text("secret\n", encoding="ascii")
        (directory / "token").chmod(0o600)
        (directory / "fixture.json").write_text('{"answers": {}}', encoding="ascii")
        shutil.copy(Path(sources.__file__).parent / "recipes/mailcow.toml", directory / "recipe.toml")
        authority = Authority()
        authority.ca_file(directory)
        for path, name in zip(authority.client(directory, "syncagent"), ("client.pem", "client.key"), strict=True):
            path.rename(directory / name)

    def configure(self) -> Path:
        """Write the configuration, with two sources that nobody answers for."""
        config = super().configure()
        config.write_text(config.read_text("utf-8") + UNANSWERED, encoding="utf-8")
        return config


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with a backup MX that has published, though two of its sources never answer."""
    directory = tmp_path_factory.mktemp("special") / "mx"
    directory.mkdir()
    mx = Mx(directory)
    mx.say("sync", "--accept-incomplete", code=75)
    assert mx.published() == {"anna@example.com", "a@example.com", "b@example.com"}
    shutil.copytree(directory, directory.with_name("saved"))
    return directory


@pytest.fixture
def mx(whole: Path) -> Path:
    """The same, whatever a test did to it before."""
    shutil.rmtree(whole)
    shutil.copytree(whole.with_name("saved"), whole)
    return whole


def replaced(mx: Path, file: str, kind: str) -> Path:
    """Put something of a kind in the place of a file."""
    path = next(iter(mx.glob(file)), mx / file)
    path.unlink(missing_ok=True)
    MAKERS[kind][0](path)
    return path


def started(mx: Path, verb: str) -> subprocess.Popen[str]:
    """Start a verb with its memory limited."""
    words = [str(mx / "fixture.json") if word == "FIXTURE" else word for word in VERBS.get(verb, (verb,))]
    program = [sys.executable, "-m", "syncagent", "--config", str(mx / "syncagent.toml"), *words]
    return subprocess.Popen(
        ["/bin/sh", "-c", LIMITED, "sh", *program],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        encoding="utf-8",
        errors="backslashreplace",
    )


def printed(children: dict[str, subprocess.Popen[str]]) -> dict[str, str]:
    """Return what each child printed; each has to end by itself."""
    try:
        return {verb: child.communicate(timeout=SECONDS)[0] for verb, child in children.items()}
    except subprocess.TimeoutExpired as late:
        left = [verb for verb, child in children.items() if child.poll() is None]
        raise AssertionError(f"still running after {SECONDS:g} s: {', '.join(left)}") from late
    finally:
        for child in children.values():
            child.kill()
            child.communicate()


CASES = [
    pytest.param(row, kind, id=f"{row.file} {kind} {','.join((*row.named, *row.ends))}")
    for row in ROWS
    for kind in row.kinds
]


@pytest.mark.parametrize(("row", "kind"), CASES)
def test_it_is_refused_by_name(mx: Path, row: Row, kind: str) -> None:
    """Every verb ends, with its own exit status, and says which file it is and what stands there."""
    path = replaced(mx, row.file, kind)
    children = {verb: started(mx, verb) for verb in (*row.named, *row.ends)}
    said = printed(children)
    for verb, code in (row.named | row.ends).items():
        assert "Traceback" not in said[verb], said[verb]
        assert code in {None, children[verb].returncode}, said[verb]
    for verb in row.named:
        assert str(path) in said[verb], said[verb]
        assert MAKERS[kind][1] in said[verb], said[verb]
    assert kind != "FIFO" or path.is_fifo() or path.parent.name == "lists", "it was replaced"
