"""A FIFO, a socket, a device, a directory or a huge file in a file's place: refused by name, never waited for."""

import os
import shutil
import signal
import socket
import stat
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from syncagent import sources
from syncagent.agent import metrics
from syncagent.errors import FailureKind, SourceError
from syncagent.files import atomic as files
from syncagent.files.atomic import UnfitFileError
from syncagent.postfix.live import patterns_of
from syncagent.sources.file import Config as FileConfig
from syncagent.sources.file import FileSource
from syncagent.state import status
from tests.scenario import Scenario
from tests.sources.contract import Recorder
from tests.support.agent import Agent
from tests.support.authority import Authority
from tests.support.need import need_postmap
from tests.support.postmap import minimal_config
from tests.support.programs import PATIENCE
from tests.support.run import syncagent, syncagent_within

MEMORY = 2_000_000
"""Kilobytes of address space that a child has: one that reads a device or a huge file to its end runs out."""
HUGE = 10 << 30
STATUS = status.Status(
    map="lmdb:/x",
    recipients=0,
    domains={},
    last_run=0,
    last_change=0,
    oldest_data=0,
    sources=(),
    holds=(),
    alarms=(),
    running=False,
    agent=None,
)
LEASE = """
import fcntl, os, signal, sys
signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGIO})
file = os.open(sys.argv[1], os.O_RDWR)
fcntl.fcntl(file, fcntl.F_SETLEASE, fcntl.F_WRLCK)
print("held", flush=True)
signal.sigwait({signal.SIGIO})
print("asked", flush=True)
fcntl.fcntl(file, fcntl.F_SETLEASE, fcntl.F_UNLCK)
"""
UNANSWERED = """
# Sources that nobody answers for, with the files that they name.
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
NAMED_THERE = {"recipe.toml", "token", "ca.pem", "client.pem"}


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
    named: Mapping[str, int | None]
    ends: Mapping[str, int | None] = field(default_factory=dict)


VERBS: dict[str, tuple[str, ...]] = {
    "explain": ("explain", "anna@example.com"),
    "check": ("check", "--offline"),
    "approve": ("approve", "abcdef"),
}
VERBS["recipe test"] = ("recipe", "test", "mailcow", "FIXTURE")
OTHERS = ("plan", "check", "status", "explain", "history", "approve", "run")
CONFIGURATION = {"sync": 78}
ROWS = (
    Row("syncagent.toml", (*SPECIAL[1:], "huge"), CONFIGURATION),
    Row("syncagent.toml", ("FIFO",), dict.fromkeys(("sync", *OTHERS), 78)),
    Row("recipe.toml", (*SPECIAL[1:], "huge"), CONFIGURATION),
    Row("recipe.toml", ("FIFO",), dict.fromkeys(("sync", "check", "status", "run"), 78)),
    Row("relay_recipients", SPECIAL[1:], {"sync": 73}),
    Row("relay_recipients", ("FIFO",), {"sync": 73, "plan": 73, "check": 1}, {"status": None, "explain": 0}),
    Row("relay_recipients", ("endless line",), {"plan": 73}),
    Row(".relay_recipients.syncagent", (*SPECIAL[1:], "huge"), {"sync": 73}),
    Row(".relay_recipients.syncagent", ("FIFO",), {"sync": 73, "plan": 73}, {"status": None, "explain": 0}),
    Row("relay_recipients.lmdb", SPECIAL[1:], {"sync": 73}),
    Row("relay_recipients.lmdb", ("FIFO",), {"sync": 73, "check": 1, "explain": 0}, {"status": None}),
    Row("relay_domains", SPECIAL[1:], {"sync": 73}),
    Row("relay_domains", ("FIFO",), {"sync": 73, "plan": 73, "check": 1}),
    Row("relay_domains", ("endless line",), {"plan": 73}),
    Row("relay_domains.lmdb", SPECIAL[1:], {"sync": 73}),
    Row("relay_domains.lmdb", ("FIFO",), {"sync": 73, "check": 1}),
    Row("corp.list", SPECIAL[1:3], {"sync": 75}),
    Row("corp.list", ("FIFO",), {"sync": 75, "plan": 75, "check": 1}, {"explain": 0}),
    Row("corp.list", ("huge",), {}, {"plan": 75}),
    Row("lists/b.list", SPECIAL[:3], {"sync": 75}),
    Row("token", ("FIFO", "socket", "huge"), {"sync": 75}),
    Row("ca.pem", ("FIFO", "device", "huge"), {"sync": 75}),
    Row("client.pem", ("FIFO", "huge"), {"sync": 75}),
    Row("fixture.json", (*SPECIAL, "huge"), {"recipe test": 78}),
    Row("state/sync.lock", SPECIAL[1:], {"sync": 73}),
    Row("state/sync.lock", ("FIFO",), {"sync": 73, "plan": 73, "approve": 73, "check": 1}, {"status": None}),
    Row("state/agent.lock", SPECIAL, {"run": 73}),
    Row("state/agent.lock", ("FIFO",), {}, {"status": 0}),
    Row("state/agent.json", ("FIFO", "huge"), {}, {"status": 0}),
    Row("state/state.db", SPECIAL[1:], {"sync": 73}),
    Row("state/state.db", ("FIFO",), {"sync": 73, "plan": 73, "status": 73, "explain": 73, "history": 73, "check": 1}),
    Row("state/state.db-journal", ("FIFO",), {"sync": 73, "status": 73}),
    Row("state/snapshots/corp-*", ("FIFO",), {"explain": 73}, {"plan": 0}),
    Row("state/snapshots/corp-*", ("FIFO",), {}, {"sync": 0}),
    Row("state/lists/published-*", ("FIFO",), {}, {"sync": 0}),
    Row("state/lists/kept-*", ("FIFO",), {}, {"sync": 0}),
    Row("postfix/main.cf", SPECIAL[1:], {"sync": 73}),
    Row("postfix/main.cf", ("FIFO",), {"sync": 73, "check": 1}, {"explain": 0, "status": None}),
    Row("postfix/master.cf", ("FIFO",), {"check": 1}),
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


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with a backup MX that has published."""
    directory = tmp_path_factory.mktemp("special") / "mx"
    directory.mkdir()
    mx = Mx(directory)
    mx.say("sync", code=0)
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
    if file in NAMED_THERE:
        config = mx / "syncagent.toml"
        config.write_text(config.read_text("utf-8") + UNANSWERED, encoding="utf-8")
    path = next(iter(mx.glob(file)), mx / file)
    path.unlink(missing_ok=True)
    MAKERS[kind][0](path)
    return path


def run(mx: Path, verb: str) -> subprocess.CompletedProcess[str]:
    """Run a verb with its memory limited; it has to end by itself."""
    words = [str(mx / "fixture.json") if word == "FIXTURE" else word for word in VERBS.get(verb, (verb,))]
    return syncagent_within(MEMORY << 10, *words, config=mx / "syncagent.toml")


CASES = [
    pytest.param(row, kind, id=f"{row.file} {kind} {','.join((*row.named, *row.ends))}")
    for row in ROWS
    for kind in row.kinds
]


@pytest.mark.parametrize(("row", "kind"), CASES)
def test_it_is_refused_by_name(mx: Path, row: Row, kind: str) -> None:
    """Every verb ends, with its own exit status, and says which file it is and what stands there."""
    path = replaced(mx, row.file, kind)
    said = {}
    for verb, code in {**row.named, **row.ends}.items():
        done = run(mx, verb)
        said[verb] = done.stdout + done.stderr
        assert "Traceback" not in said[verb], said[verb]
        assert code in {None, done.returncode}, said[verb]
    for verb in row.named:
        assert str(path) in said[verb], said[verb]
        assert MAKERS[kind][1] in said[verb], said[verb]
    assert kind != "FIFO" or path.is_fifo() or path.parent.name == "lists", "it was replaced"


def test_standard_input_as_configuration(mx: Path) -> None:
    """A file may be given as /dev/stdin; a pipe is refused at once, though nothing ever comes by it."""
    config = mx / "syncagent.toml"
    command = [sys.executable, "-m", "syncagent", "--config", "/dev/stdin", "plan"]
    with config.open("rb") as given:
        done = subprocess.run(command, stdin=given, capture_output=True, timeout=PATIENCE, check=False)
    assert done.returncode == 0, done.stderr
    with subprocess.Popen(command, stdin=subprocess.PIPE, stderr=subprocess.PIPE) as child:
        assert child.stderr is not None
        try:
            assert child.wait(PATIENCE) == 78  # though its standard input stays open
        finally:
            child.kill()
        said = child.stderr.read()
    assert b"/dev/stdin: cannot be read: it is a FIFO" in said


def test_the_agent_goes_on(mx: Path) -> None:
    """A configuration that becomes a FIFO is refused, and the old one goes on; a source's file fails that source."""
    config = mx / "syncagent.toml"
    with Agent(config) as agent:
        agent.wait("published")
        mark = agent.mark
        config.unlink()
        os.mkfifo(config)
        agent.send(signal.SIGHUP)
        refused = agent.wait("configuration refused; the old one goes on", after=mark)
        assert "it is a FIFO" in refused["problems"][0]
        replaced(mx, "corp.list", "FIFO")
        agent.run_now()
        fails = agent.wait("source failing", after=mark, source="corp")
        assert f"{mx / 'corp.list'} cannot be read: it is a FIFO" in fails["error"]
        assert not agent.events("source failing", after=mark, source="several")


@pytest.mark.parametrize("kind", ["FIFO", "socket", "device", "directory"])
def test_replaced_between_look_and_open(tmp_path: Path, kind: str) -> None:
    """What was a file when the source looked, and is none when it is to be opened, fails the source."""
    for name in "ab":
        (tmp_path / f"{name}.list").write_text(f"{name}@example.com\n", encoding="ascii")

    def after_the_first(_step: str, _count: int) -> None:
        if (tmp_path / "b.list").is_file():
            replaced(tmp_path, "b.list", kind)

    request = sources.Request(None, Recorder(), after_the_first)
    with pytest.raises(SourceError, match=f"b.list cannot be read: it {MAKERS[kind][1]}") as caught:
        FileSource(FileConfig(path=tmp_path)).fetch(request)
    assert caught.value.kind is FailureKind.BROKEN


def test_replaced_in_the_last_instant(tmp_path: Path) -> None:
    """What is opened is looked at once more: between the first look and that it may have been replaced."""
    os.mkfifo(tmp_path / "x")
    with pytest.raises(UnfitFileError, match="x: it is a FIFO"):
        files._opened(str(tmp_path / "x"), os.O_RDONLY)


def test_a_lease_is_waited_for(tmp_path: Path) -> None:
    """A file that somebody has a lease on, as Samba has, is read once he lets go of it."""
    path = tmp_path / "x"
    path.write_text("anna@example.com\n", encoding="ascii")
    with subprocess.Popen([sys.executable, "-c", LEASE, str(path)], stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        assert files.read_foreign(path, 1000) == b"anna@example.com\n"
        assert holder.stdout.readline() == b"asked\n"
        assert holder.wait(PATIENCE) == 0


def test_what_is_read_is_limited(tmp_path: Path) -> None:
    """As much as may be read is read; one octet more is an error, also where the size is not known before."""
    path = tmp_path / "x"
    path.write_bytes(b"1" * (64 << 10))
    assert len(files.read_foreign(path, 64 << 10)) == 64 << 10
    path.write_bytes(b"1" * ((64 << 10) + 1))
    with pytest.raises(UnfitFileError, match="x: it is larger than 64 KiB"):
        files.read_foreign(path, 64 << 10)
    proc = Path("/proc/self/mountinfo")
    assert proc.stat().st_size == 0
    assert files.read_foreign(proc, 1 << 20).splitlines()
    with pytest.raises(UnfitFileError, match="it is larger than 0 KiB"):
        files.read_foreign(proc, 10)


def test_the_ends_of_lines(tmp_path: Path) -> None:
    """A text has line feeds, whatever ended its lines, and lines are those of the file."""
    path = tmp_path / "x"
    path.write_bytes(b"a\r\nb\rc\n\nd")
    assert files.read_foreign_text(path, 1000) == "a\nb\nc\n\nd"
    with files.open_foreign(path) as file:
        assert [*files.lines_of(file)] == [b"a\r\n", b"b\rc\n", b"\n", b"d"]
        assert os.get_blocking(file.fileno())


@pytest.mark.parametrize("kind", ["FIFO", "socket", "device", "directory"])
def test_metrics_replace_nothing_else(tmp_path: Path, kind: str) -> None:
    """What is no file in the place of metrics.textfile stays; that it cannot be written is told."""
    path = replaced(tmp_path, "x.prom", kind)
    before = path.stat()
    with pytest.raises(UnfitFileError, match=MAKERS[kind][1]):
        metrics.write(path, STATUS)
    assert path.stat().st_ino == before.st_ino
    assert [*tmp_path.iterdir()] == [path]


@pytest.mark.parametrize("kind", [*SPECIAL, "huge"])
def test_a_list_that_main_cf_names(tmp_path: Path, kind: str) -> None:
    """What cannot be read of a list that main.cf names stands for itself, as a file that is not there."""
    path = replaced(tmp_path, "list", kind)
    assert [*patterns_of(str(path))] == [str(path)]


def test_check_waits_for_no_list_of_main_cf(mx: Path) -> None:
    """A FIFO as a list or a table that main.cf names is told of by name."""
    lists = {"relay_domains": "{}", "mynetworks": "{}", "virtual_alias_maps": "pcre:{}"}
    with (mx / "postfix/main.cf").open("a") as main_cf:
        for name, spelled in lists.items():
            os.mkfifo(mx / f"{name}.fifo")
            main_cf.write(f"{name} = {spelled.format(mx / f'{name}.fifo')}\n")
    said = {verb: (done := run(mx, verb)).stdout + done.stderr for verb in ("check", "explain")}
    for name in lists:
        assert f"{mx / name}.fifo" in said["check"]
    assert said["check"].count("it is a FIFO") >= len(lists)
    assert "it is a FIFO" in said["explain"]


@pytest.mark.parametrize("table", ["{}", "lmdb:{}", "cdb:{}"])
def test_init_waits_for_no_table(tmp_path: Path, table: str) -> None:
    """A FIFO that relay_domains names, as a file or as a table, is left out with a note."""
    need_postmap("lmdb")
    directory = minimal_config(tmp_path / "postfix")
    for suffix in ("", ".lmdb", ".cdb"):
        os.mkfifo(tmp_path / f"domains{suffix}")
    with (directory / "main.cf").open("a") as main_cf:
        main_cf.write(f"relay_domains = {table.format(tmp_path / 'domains')}\n")
    command = ("init", "--config-directory", str(directory), "--domain", "example.com")
    said = syncagent(*command, config=tmp_path / "syncagent.toml", check=0).stdout
    assert "which cannot be listed" in said
