"""Run by root, the program does its work as whoever owns the paths, so that nobody becomes root through them."""

import contextlib
import fcntl
import json
import os
import pwd
import shlex
import stat
import struct
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from syncagent import privileges
from tests.support.need import need_postmap, need_root
from tests.support.postmap import minimal_config, write_parameters
from tests.support.programs import PATIENCE
from tests.support.run import syncagent

NOBODY = "nobody"
OTHER = "daemon"
NAMELESS = 4711
SECRET = "root:*:19000:0:99999:7:::\n"


@pytest.fixture
def place() -> Iterator[Path]:
    """A directory of root's that everybody may enter, on a real file system."""
    need_root()
    need_postmap("lmdb")
    with tempfile.TemporaryDirectory(prefix="syncagent-owner-") as name:
        place = Path(name)
        place.chmod(0o755)
        (place / "recipients").write_text("a@example.com\nb@example.com\n")
        minimal_config(place / "postfix")
        yield place


@pytest.fixture
def home(place: Path) -> Path:
    """As `make install` has it: map and state below a directory that belongs to an ordinary user."""
    configure(place, place / "lib" / "relay_recipients", place / "lib" / "state")
    directory(place / "lib", NOBODY)
    return place


def configure(place: Path, text: Path, state: Path, kind: str = "lmdb") -> None:
    """Write a configuration with one file source."""
    (place / "syncagent.toml").write_text(
        f'[postfix]\nmap = "{kind}:{text}"\nrelay_domains = ["example.com"]\n'
        f'config_directory = "{place / "postfix"}"\n'
        f'[state]\ndirectory = "{state}"\n[sources.x]\ntype = "file"\npath = "recipients"\n'
    )


def directory(path: Path, owner: str | int = 0, mode: int = 0o755) -> Path:
    """Make a directory that belongs to somebody."""
    path.mkdir()
    uid, gid = ids(owner)
    os.chown(path, uid, gid)
    path.chmod(mode)
    return path


def ids(owner: str | int) -> tuple[int, int]:
    """Return user ID and group ID of a user, by name or number."""
    if isinstance(owner, int):
        return owner, owner
    user = pwd.getpwnam(owner)
    return user.pw_uid, user.pw_gid


def as_user(owner: str, script: str) -> subprocess.Popen[str]:
    """Run a shell script as an ordinary user."""
    uid, gid = ids(owner)
    return subprocess.Popen(["sh", "-c", script], user=uid, group=gid, extra_groups=[], text=True)


def sync(place: Path, check: int | None = 0) -> subprocess.CompletedProcess[str]:
    """Run `syncagent sync` as root."""
    return syncagent("sync", config=place / "syncagent.toml", check=check)


def owners(*paths: Path) -> set[int]:
    """Return the owners of all that is below some paths."""
    return {found.lstat().st_uid for path in paths for found in (path, *path.rglob("*"))}


# --- layouts that work


def test_all_that_a_run_by_root_leaves_is_the_owners(home: Path) -> None:
    """Map, index, state and lock belong to the user whose directory it is, even on the very first run."""
    done = sync(home)
    assert "running as nobody" in done.stderr
    assert len(list((home / "lib").rglob("*"))) > 6
    assert owners(home / "lib") == {ids(NOBODY)[0]}


def test_the_user_goes_on_where_root_left_off(home: Path) -> None:
    """What root's run left, the user's own run finds unchanged and can write."""
    sync(home)
    os.seteuid(pwd.getpwnam("nobody").pw_uid)
    try:
        (home / "lib" / "state" / "probe").touch()
        (home / "lib" / "probe").touch()
    finally:
        os.seteuid(0)
    (home / "recipients").write_text("a@example.com\nb@example.com\nc@example.com\n")
    assert "3 recipients" in sync(home).stdout


def test_roots_own_state_stays_roots(home: Path) -> None:
    """Where root owns the directory there is nobody else to become."""
    os.chown(home / "lib", 0, 0)
    assert "running as" not in sync(home).stderr
    assert owners(home / "lib") == {0}


def test_a_volume_of_a_user_without_a_name(place: Path) -> None:
    """A volume of a container belongs to a number that has no name here: that number does the work."""
    volume = directory(place / "volume", NAMELESS)
    configure(place, volume / "relay_recipients", volume / "state")
    assert f"running as {NAMELESS}" in sync(place).stderr
    sync(place)
    assert owners(volume) == {NAMELESS}


@pytest.mark.parametrize("kind", ["hash", "lmdb"])
def test_a_map_in_roots_directory_by_root(place: Path, kind: str) -> None:
    """As documented for /etc/postfix: everything is root's, and a map that is another user's stays that user's."""
    need_postmap(kind)
    etc = directory(place / "etc")
    text = etc / "relay_recipients"
    text.write_text("old@example.com OK\n")
    os.chown(text, *ids(NOBODY))
    text.chmod(0o640)
    configure(place, text, place / "state", kind)
    sync(place)
    sync(place)
    index = next(etc.glob("relay_recipients.*"))
    assert [path.stat().st_uid for path in (text, index, place / "state")] == [*[ids(NOBODY)[0]] * 2, 0]
    assert stat.S_IMODE(text.stat().st_mode) == 0o640


def test_group_staff_without_members(place: Path) -> None:
    """Debian's 2775 directories of group staff: nobody is in it, so the layout works, with a warning."""
    local = directory(place / "local")
    os.chown(local, 0, 50)
    local.chmod(0o2775)
    configure(place, local / "relay_recipients", local / "state")
    done = sync(place)
    assert f"warning: {local} can be changed by group staff: chmod g-w {local}" in done.stderr
    assert "running as" not in done.stderr
    found = findings(place)
    assert [(one["severity"], one["subject"]) for one in found if one["check"] == "paths-are-ours"] == [
        ("warning", str(local))
    ]


def test_a_sticky_directory_passes(place: Path) -> None:
    """Nobody may rename what is another user's in a directory such as /tmp."""
    shared = directory(place / "shared", mode=0o1777)
    configure(place, directory(shared / "ours") / "relay_recipients", shared / "ours" / "state")
    assert not sync(place).stderr


# --- attacks


def victim(place: Path) -> Path:
    """A file that root alone may read, in a directory of root's."""
    secret = directory(place / "root", mode=0o700) / "shadow"
    secret.write_text(SECRET)
    secret.chmod(0o600)
    return secret


def untouched(secret: Path) -> bool:
    """True if the victim and its directory are as they were."""
    found = secret.lstat()
    alone = sorted(path.name for path in secret.parent.iterdir()) == [secret.name]
    return alone and secret.read_text() == SECRET and (found.st_uid, stat.S_IMODE(found.st_mode)) == (0, 0o600)


def test_the_owner_exchanges_state_and_map_for_links(home: Path) -> None:
    """The user syncagent has root's next run write another file: it is that user who does the work, and may not."""
    secret = victim(home)
    sync(home)
    script = f"cd {home}/lib && mv state s && ln -s {secret.parent} state && ln -sf {secret} relay_recipients"
    assert as_user(NOBODY, script).wait(PATIENCE) == 0
    for verb in ("sync", "plan", "status", "check", "explain a@example.com", "history"):
        syncagent(*verb.split(), config=home / "syncagent.toml")
    assert sync(home, check=None).returncode in {70, 73}
    assert untouched(secret)


def test_the_maps_owner_plants_links_in_the_staging_directory(place: Path) -> None:
    """The map is another user's, in root's directory: what root stages, nobody else can reach."""
    secret = victim(place)
    etc = directory(place / "etc")
    text = etc / "relay_recipients"
    text.write_text("old@example.com OK\n")
    os.chown(text, *ids(NOBODY))
    configure(place, text, place / "state")
    plant = (
        f"for d in {etc}/.relay*-*/; do ln -s {secret} $d/relay_recipients.lmdb; ln -sf {secret} $d/relay_recipients"
    )
    planting = as_user(NOBODY, f"while :; do {plant}; done; done 2>/dev/null")
    try:
        for number in range(6):
            (place / "recipients").write_text("".join(f"u{one}@example.com\n" for one in range(number + 2)))
            sync(place)
    finally:
        planting.kill()
        planting.wait()
    assert untouched(secret)
    assert text.stat().st_uid == ids(NOBODY)[0]


def test_state_is_roots_and_the_maps_directory_another_users(place: Path) -> None:
    """Root does not write into that directory; the command that the message gives makes it work, as that user."""
    theirs = directory(place / "theirs", NOBODY)
    directory(place / "state", mode=0o750)
    configure(place, theirs / "relay_recipients", place / "state")
    done = sync(place, check=73)
    remedy = f"chown -R nobody {place / 'state'}"
    assert f"{theirs} belongs to nobody" in done.stderr
    assert done.stderr.endswith(f": {remedy}\n")
    assert not list(theirs.iterdir())
    assert not list((place / "state").iterdir())
    assert [(one["severity"], one["mend"]) for one in findings(place, status=1)] == [("error", remedy)]
    shown = syncagent("check", "--offline", config=place / "syncagent.toml", check=1)  # there is no table of sources
    assert remedy in shown.stdout + shown.stderr
    subprocess.run(shlex.split(remedy), check=True)
    assert "running as nobody" in sync(place).stderr
    assert owners(theirs, place / "state") == {ids(NOBODY)[0]}


@pytest.mark.parametrize(
    ("owner", "mode", "who", "remedy"),
    [(0, 0o777, "everybody", "chmod o-w"), ("members", 0o2775, "group", "chmod g-w")],
)
def test_root_does_not_work_where_others_may_rename(
    place: Path, owner: str | int, mode: int, who: str, remedy: str
) -> None:
    """A directory of root's that others may write is one in which they decide what root writes to."""
    shared = directory(place / "shared")
    os.chown(shared, 0, ids(NOBODY)[1] if owner == "members" else 0)  # nobody's own group has nobody in it
    shared.chmod(mode)
    configure(place, shared / "relay_recipients", place / "state")
    done = sync(place, check=73)
    assert f"{shared} can be changed by {who}" in done.stderr
    assert done.stderr.endswith(f": {remedy} {shared}\n")
    subprocess.run([*remedy.split(), str(shared)], check=True)
    sync(place)


def test_a_directory_of_the_state_that_is_another_users(place: Path) -> None:
    """The state is root's, but the directory of its snapshots is not."""
    state = directory(place / "state", mode=0o750)
    directory(state / "snapshots", NOBODY)
    configure(place, directory(place / "map") / "relay_recipients", state)
    assert "belongs to nobody" in sync(place, check=73).stderr


def test_a_state_directory_behind_another_users_link(place: Path) -> None:
    """A link is its owner's to exchange."""
    directory(place / "real", mode=0o750)
    spot = directory(place / "spot", mode=0o1777)
    assert as_user(NOBODY, f"ln -s {place}/real {spot}/state").wait(PATIENCE) == 0
    configure(place, directory(place / "map") / "relay_recipients", spot / "state")
    assert f"{spot}/state belongs to nobody" in sync(place, check=73).stderr


def test_a_running_agent_of_roots_notices_a_new_owner(place: Path) -> None:
    """What is safe when the agent starts need not be later: each run looks again."""
    lib = directory(place / "lib")
    configure(place, lib / "relay_recipients", lib / "state")
    script = (
        "import sys, os; from pathlib import Path; from syncagent.config import load as config\n"
        "from syncagent.sync import run as sync\n"
        "loaded = config.load(Path(sys.argv[1])); sync.sync_once(loaded, sync.Options())\n"
        f"os.chown({str(lib)!r}, {ids(NOBODY)[0]}, 0); sync.sync_once(loaded, sync.Options())"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(place / "syncagent.toml")], capture_output=True, text=True, check=False
    )
    assert f"root does not work in {lib}, which is nobody's now" in done.stderr


def test_no_command_of_another_users_directory(place: Path) -> None:
    """Root runs no postmap that somebody else could have put on PATH."""
    lib = directory(place / "lib")
    configure(place, lib / "relay_recipients", lib / "state")
    theirs = directory(place / "bin", NOBODY)
    for name in ("postmap", "sort", "comm", "postconf"):
        (theirs / name).write_text(f"#!/bin/sh\ntouch {place}/was-run-by-$(id -u)\nexit 1\n")
        (theirs / name).chmod(0o755)
    syncagent("sync", config=place / "syncagent.toml", env={"PATH": f"{theirs}:relative:{os.environ['PATH']}"}, check=0)
    assert not list(place.glob("was-run-by-*"))


@pytest.mark.parametrize("verb", ["sync", "plan", "check --offline"])
def test_no_temporary_files_in_another_users_directory(place: Path, verb: str) -> None:
    """Whoever called su(1) may have a TMPDIR: what root puts there could be exchanged."""
    lib = directory(place / "lib")
    configure(place, lib / "relay_recipients", lib / "state")
    theirs = directory(place / "tmp", NOBODY, 0o700)
    before = theirs.stat().st_mtime_ns
    syncagent(*verb.split(), config=place / "syncagent.toml", env={"TMPDIR": str(theirs)})
    assert theirs.stat().st_mtime_ns == before


def test_no_command_from_a_directory_in_which_others_may_make_files(place: Path) -> None:
    """A sticky directory on PATH protects what is there; but whatever is not there, anybody can put there."""
    lib = directory(place / "lib")
    configure(place, lib / "relay_recipients", lib / "state")
    shared = directory(place / "shared", mode=0o1777)
    for name in ("postmap", "sort", "comm", "postconf"):
        program = shared / name
        program.write_text(f"#!/bin/sh\ntouch {place}/was-run-by-$(id -u)\nexit 1\n")
        program.chmod(0o755)
        os.chown(program, *ids(NOBODY))
    syncagent("sync", config=place / "syncagent.toml", env={"PATH": f"{shared}:{os.environ['PATH']}"}, check=0)
    assert not list(place.glob("was-run-by-*"))


def test_a_directory_that_is_not_there_is_none_to_look_in(place: Path) -> None:
    """Whoever could make it later on would decide what root runs, and where its temporary files are."""
    shared = directory(place / "shared", mode=0o1777)
    assert str(shared / "later") not in privileges.safe_path(f"{shared}/later:/usr/bin").split(":")
    lib = directory(place / "lib")
    configure(place, lib / "relay_recipients", lib / "state")
    script = (
        "import os, sys; from pathlib import Path; from syncagent import privileges\n"
        "from syncagent.config import load\n"
        "privileges.become_least_owner(load.load(Path(sys.argv[1]))); print(os.environ.get('TMPDIR', ''))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(place / "syncagent.toml")],
        env=os.environ | {"TMPDIR": str(shared / "later")},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "\n"


def test_a_table_in_a_directory_in_which_others_may_make_files(place: Path) -> None:
    """Whoever makes the table's name a link after root has looked decides which file of root's is replaced."""
    shared = directory(place / "shared", mode=0o1777)
    configure(place, shared / "relay_recipients", place / "state")
    assert f"{shared} lets everybody make files in it" in sync(place, check=73).stderr
    assert not list(shared.iterdir())
    configure(place, directory(place / "lib") / "relay_recipients", shared / "state")
    done = sync(place, check=73)
    remedy = f"install -d -m 0750 {shared}/state"
    assert done.stderr.endswith(f": {remedy}\n")
    subprocess.run(shlex.split(remedy), check=True)
    sync(place)


@pytest.mark.parametrize("user", [ids(NOBODY)[0], 0])
def test_an_access_list_lets_another_user_in(place: Path, user: int) -> None:
    """The mode shows a group of root's that may write; the access list (acl(5)) has a user of its own."""
    lib = directory(place / "lib")
    entries = [(0x01, 7, -1), (0x02, 7, user), (0x04, 5, -1), (0x10, 7, -1), (0x20, 5, -1)]
    octets = struct.pack("<I", 2) + b"".join(struct.pack("<HHi", *entry) for entry in entries)
    os.setxattr(lib, "system.posix_acl_access", octets)
    configure(place, lib / "relay_recipients", lib / "state")
    if user:
        done = sync(place, check=73)
        assert f"{lib} can be changed by nobody" in done.stderr
        remedy = f"chmod g-w {lib}"
        assert done.stderr.endswith(f": {remedy}\n")
        subprocess.run(shlex.split(remedy), check=True)
    assert not sync(place).stderr


@pytest.mark.parametrize("whose", ["the directory", "main.cf"])
def test_root_does_not_obey_a_main_cf_of_another_users(place: Path, whose: str) -> None:
    """postfix(1) runs what is in the daemon_directory that main.cf names."""
    lib, postfix = directory(place / "lib"), place / "postfix"
    configure(place, lib / "relay_recipients", lib / "state", "texthash")
    theirs = directory(place / "theirs", NOBODY)
    (theirs / "postfix-script").write_text(f"#!/bin/sh\ntouch {place}/was-run-by-$(id -u)\n")
    (theirs / "postfix-script").chmod(0o755)
    write_parameters(postfix, {"compatibility_level": "3.6", "daemon_directory": str(theirs)})
    owned = postfix if whose == "the directory" else postfix / "main.cf"
    os.chown(owned, *ids(NOBODY))
    done = sync(place, check=73)
    assert done.stderr.endswith(f"{owned} can be changed by nobody: chown root {owned}\n")
    assert not list(place.glob("was-run-by-*"))


@pytest.mark.parametrize("name", ["state.db", "sync.lock", "agent.json"])
def test_a_file_of_the_state_that_is_another_users(place: Path, name: str) -> None:
    """What the state says decides which files root removes."""
    state = directory(place / "state", mode=0o755)
    configure(place, directory(place / "lib") / "relay_recipients", state)
    sync(place)
    file = state / name
    file.touch()
    os.chown(file, *ids(NOBODY))
    remedy = f"chown root {file}"
    assert sync(place, check=73).stderr.endswith(f"{file} can be changed by nobody: {remedy}\n")
    subprocess.run(shlex.split(remedy), check=True)
    sync(place)


def exported(place: Path, state: Path) -> subprocess.CompletedProcess[str]:
    """Write metrics by root into a directory that another user owns."""
    script = (
        "import sys; from pathlib import Path; from syncagent.agent import metrics\n"
        "from syncagent.config import load; from syncagent.state import status\n"
        "metrics.write(Path(sys.argv[2]), status.read(load.load(Path(sys.argv[1]))))"
    )
    command = [sys.executable, "-c", script, str(place / "syncagent.toml"), str(state / "syncagent.prom")]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_metrics_go_where_root_looked(place: Path) -> None:
    """node_exporter's directory is often another user's, who may not lead root elsewhere by it."""
    secret = victim(place)
    configure(place, directory(place / "lib") / "relay_recipients", place / "state")
    sync(place)
    theirs = directory(place / "prometheus", NOBODY)
    directory(theirs / "textfile", NOBODY)
    assert not exported(place, theirs / "textfile").stderr
    assert [path.name for path in (theirs / "textfile").iterdir()] == ["syncagent.prom"]
    assert as_user(NOBODY, f"cd {theirs} && mv textfile t && ln -s {secret.parent} textfile").wait(PATIENCE) == 0
    assert (
        f"root does not follow the symbolic link of nobody: '{theirs}/textfile'"
        in exported(place, theirs / "textfile").stderr
    )
    assert untouched(secret)
    (theirs / "textfile").unlink()
    (theirs / "textfile").symlink_to("t")  # of root's
    assert not exported(place, theirs / "textfile").stderr


# --- locks


@contextlib.contextmanager
def holding(lock: Path, owner: str, group: int) -> Iterator[str]:
    """Try to hold a lock as a user of a group; yield what became of it."""
    script = (
        "import fcntl, os, sys\n"
        "try:\n    fcntl.flock(os.open(sys.argv[1], os.O_RDONLY), fcntl.LOCK_EX)\n"
        "except OSError as error:\n    print(type(error).__name__, flush=True)\n"
        "else:\n    print('held', flush=True)\n"
        "sys.stdin.read()\n"
    )
    with subprocess.Popen(
        ["/usr/bin/python3", "-c", script, str(lock)],
        user=ids(owner)[0],
        group=group,
        extra_groups=[],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout
        try:
            yield process.stdout.readline().strip()
        finally:
            process.kill()


@pytest.mark.parametrize("older", [False, True], ids=["new", "made by an older version"])
def test_a_reader_in_the_states_group_cannot_hold_the_lock(home: Path, *, older: bool) -> None:
    """Whoever may only read the state keeps no run from its work."""
    sync(home)
    lock, group = home / "lib" / "state" / "sync.lock", ids(NOBODY)[1]
    if older:
        lock.chmod(0o640)
        sync(home)
    with holding(lock, OTHER, group) as became:
        assert became == "PermissionError"
        sync(home)


_AS_A_READER = """
import importlib, os, pkgutil, sys
import syncagent
for module in pkgutil.walk_packages(syncagent.__path__, "syncagent."):  # before it may be out of reach
    if not module.name.endswith("__main__"):
        importlib.import_module(module.name)
os.setgroups([])
os.setgid(int(sys.argv[2]))
os.setuid(int(sys.argv[1]))
sys.argv = ["syncagent", *sys.argv[3:]]
sys.modules["syncagent.cli.main"].main()
"""


@pytest.mark.parametrize("verb", ["status", "plan", "history", "explain a@example.com"])
def test_a_reader_in_the_states_group_still_reads(home: Path, verb: str) -> None:
    """Without the lock, what only reads works for a member of the group."""
    sync(home)
    numbers = map(str, (ids(OTHER)[0], ids(NOBODY)[1]))
    command = [sys.executable, "-c", _AS_A_READER, *numbers, "--config", str(home / "syncagent.toml"), *verb.split()]
    done = subprocess.run(command, cwd="/", capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_running_agent_is_seen_by_whoever_may_not_open_its_lock(place: Path) -> None:
    """The kernel's list of locks says so."""
    from syncagent.state import status

    state = directory(place / "state", mode=0o755)
    lock = state / status.AGENT_LOCK
    lock.touch(mode=0o600)
    descriptor = os.open(lock, os.O_RDWR)
    os.seteuid(ids(NOBODY)[0])
    try:
        assert not status.is_running(state)
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        assert status.is_running(state)
    finally:
        os.seteuid(0)
        os.close(descriptor)


def findings(place: Path, status: int | None = None) -> list[dict[str, str]]:
    """Return what `syncagent check` finds."""
    done = syncagent("check", "--offline", "--json", config=place / "syncagent.toml", check=status)
    found: list[dict[str, str]] = json.loads(done.stdout)["findings"]
    return found
