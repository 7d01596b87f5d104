"""What stands in contrib/systemd, judged by systemd's own tools, and what `make install` puts where."""

import contextlib
import json
import os
import pwd
import re
import shutil
import signal
import socket
import stat
import subprocess
import tempfile
import time
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.support.kill import session
from tests.support.need import need, need_postmap, need_program, need_root
from tests.support.postmap import minimal_config, postmap_query
from tests.support.programs import PATIENCE, allowed, wait_until

ROOT = Path(__file__).parent.parent
UNITS = ROOT / "contrib" / "systemd"
SERVICES = ["syncagent.service", "syncagent-sync.service"]
SWITCH = ["syncagent-doubt.service", "syncagent-doubt-boot.service"]
TIMERS = ["syncagent-sync.timer", "syncagent-doubt.timer"]
PREFIX = "/opt/syncagent"
_INSTALL_SECONDS = 1500.0
pytestmark = pytest.mark.timeout(2 * _INSTALL_SECONDS + 600)  # the first test installs twice
LIB = "usr/local/lib"
PLACED = {
    "usr/local/lib/systemd/system": [*SERVICES, *SWITCH, *TIMERS],
    "usr/local/lib/sysusers.d": ["syncagent.conf"],
    "usr/local/lib/tmpfiles.d": ["syncagent.conf"],
}
LINKS = {
    "bin/syncagent",
    "share/man/man8/syncagent.8",
    "share/man/man5/syncagent.toml.5",
    "share/bash-completion/completions/syncagent",
    "share/zsh/site-functions/_syncagent",
    "share/fish/vendor_completions.d/syncagent.fish",
}
"""What is found by way of /usr/local."""


def _run(*command: str | Path, timeout: float = 60) -> subprocess.CompletedProcess[str]:
    return subprocess.run([str(word) for word in command], capture_output=True, text=True, timeout=timeout, check=False)


def _settings(unit: str) -> dict[str, list[str]]:
    """All values of each setting of a unit, in their order; comments are none."""
    values: dict[str, list[str]] = {}
    for line in (UNITS / unit).read_text(encoding="utf-8").splitlines():
        name, equals, value = line.partition("=")
        if equals and not line.startswith("#"):
            values.setdefault(name, []).append(value)
    return values


def _comments(unit: str) -> str:
    lines = (UNITS / unit).read_text(encoding="utf-8").splitlines()
    return " ".join(line.lstrip("# ") for line in lines if line.startswith("#"))


def _sandbox(unit: str) -> list[str]:
    """The lines of the sandbox, without what they say of the other service."""
    text = (UNITS / unit).read_text(encoding="utf-8")
    return re.split(r"^# The sandbox\..*\n", text, flags=re.MULTILINE)[1].split("\n\n[")[0].rstrip().splitlines()


@pytest.mark.parametrize("unit", [*SERVICES, *SWITCH])
def test_exposure(unit: str) -> None:
    """`systemd-analyze security` gives each service 1.5 at most, of 10; its own words for less than 2 are "OK"."""
    done = _run(
        need_program("systemd-analyze"), "security", "--offline=true", "--threshold=15", "--no-pager", UNITS / unit
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(rf"Overall exposure level for {unit}: [01]\.\d OK", done.stdout)


@pytest.mark.parametrize("unit", [*SERVICES, *SWITCH])
def test_whatever_falls_short_has_its_reason(unit: str) -> None:
    """Each setting that costs exposure, set or unset, is named in a comment of the unit."""
    done = _run(
        need_program("systemd-analyze"), "security", "--offline=true", "--json=short", "--no-pager", UNITS / unit
    )
    short = [item["name"] for item in json.loads(done.stdout) if float(item["exposure"] or 0) > 0]
    assert "RestrictAddressFamilies=~AF_UNIX" in short, "the tool's output is understood"
    named = set(re.findall(r"\w+", _comments(unit)))
    for name in short:
        setting, _, value = name.partition("=")
        families = {f"AF_{family}" for family in re.findall(r"(?:AF_|[(|])(\w+)", value)} - {"AF_"}
        assert (families if setting == "RestrictAddressFamilies" else {setting}) <= named, f"no reason for {name}"


@pytest.mark.parametrize("setting", ["StateDirectoryMode", "UMask", "SystemCallErrorNumber", "RestrictAddressFamilies"])
def test_relaxed_lines_have_a_comment_above(setting: str) -> None:
    """Where a line permits what a stricter one would not, the comment stands right there."""
    lines = (UNITS / SERVICES[0]).read_text(encoding="utf-8").splitlines()
    at = next(number for number, line in enumerate(lines) if line.startswith(f"{setting}="))
    assert any(line.startswith("#") for line in lines[at - 2 : at])


def test_both_services_have_the_same_sandbox() -> None:
    """The timer's service may do what the agent may, and nothing else."""
    agent, once = (_sandbox(unit) for unit in SERVICES)
    assert agent == once
    assert "User=syncagent" in agent
    assert len(agent) > 40


def test_both_services_of_the_switch_have_the_same_sandbox() -> None:
    """What runs at boot may do what runs every five minutes, and nothing else."""
    regular, boot = (_sandbox(unit) for unit in SWITCH)
    assert regular == boot
    assert "CapabilityBoundingSet=CAP_SETUID CAP_SETGID" in regular
    assert len(regular) > 40


def test_the_switch_hangs_on_nothing() -> None:
    """Whatever becomes of syncagent's own units, the switch goes on; each is enabled by a line of its own."""
    for unit in [*SERVICES, *SWITCH, *TIMERS]:
        assert not {"Also", "PartOf", "BindsTo"} & _settings(unit).keys(), unit
    for unit in [*SWITCH, "syncagent-doubt.timer"]:
        named = " ".join(value for values in _settings(unit).values() for value in values)
        assert not re.search(r"syncagent(-sync)?\.(service|timer)", named), unit
        assert not {"Requires", "Requisite", "Conflicts", "Wants"} & _settings(unit).keys(), unit


def test_the_switch_at_boot_comes_before_all() -> None:
    """It waits for file systems alone; all units that have default dependencies wait for it, syncagent's included."""
    boot = _settings("syncagent-doubt-boot.service")
    assert boot["DefaultDependencies"] == ["no"]
    assert (boot["After"], boot["Before"]) == (["local-fs.target"], ["sysinit.target"])
    assert boot["WantedBy"] == ["sysinit.target"]
    assert boot["ConditionPathExists"] == ["/var/lib/syncagent/doubt-all.lmdb"]
    assert boot["RequiresMountsFor"] == ["/var/lib/syncagent"]
    for unit in [*SERVICES, "syncagent-doubt.service", *TIMERS]:
        assert "DefaultDependencies" not in _settings(unit)


@pytest.mark.parametrize("unit", SERVICES)
def test_syncagent_waits_for_the_clock(unit: str) -> None:
    """Both wait for time-sync.target; the switch waits for nothing that might not come."""
    for setting in ("Wants", "After"):
        assert "time-sync.target" in _settings(unit)[setting][0].split()
    assert not any("time-sync" in value for unit in SWITCH for value in _settings(unit).get("After", []))


def test_verify(tmp_path: Path) -> None:
    """`systemd-analyze verify` has nothing to say, once there is a program to start."""
    for unit in [*SERVICES, *SWITCH, *TIMERS]:
        text = re.sub(rf"{PREFIX}/\S+", "/bin/true", (UNITS / unit).read_text(encoding="utf-8"))
        (tmp_path / unit).write_text(text, encoding="utf-8")
    done = _run(need_program("systemd-analyze"), "verify", "--man=no", *sorted(tmp_path.iterdir()))
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_the_agent_or_the_timer() -> None:
    """Starting one stops the other; but a run of the timer's service would not stop the agent."""
    assert _settings("syncagent-sync.timer")["Conflicts"] == ["syncagent.service"]
    assert _settings("syncagent.service")["Conflicts"] == ["syncagent-sync.timer"]
    assert "Conflicts" not in _settings("syncagent-sync.service")


def test_exit_statuses() -> None:
    """A wrong configuration is not tried again and again. A failing source fails a run, a hold does not."""
    agent, once = (_settings(unit) for unit in SERVICES)
    assert agent["RestartPreventExitStatus"] == ["78"]
    assert agent["Restart"] == ["always"], "an agent that ends by itself, by a HUP that came too early, is no success"
    assert "SuccessExitStatus" not in agent
    assert once["SuccessExitStatus"] == ["65"]


def test_the_users_file(tmp_path: Path) -> None:
    """systemd-sysusers makes the user, who cannot log in; systemd-tmpfiles then makes the directories, and whose."""
    need_root()
    root = tmp_path / "root"
    (root / "etc").mkdir(parents=True)
    done = _run(need_program("systemd-sysusers"), f"--root={root}", UNITS / "syncagent.sysusers")
    assert done.returncode == 0, done.stderr
    name, _, uid, gid, _, home, shell = (root / "etc" / "passwd").read_text(encoding="utf-8").strip().split(":")
    assert (name, home, shell) == ("syncagent", "/var/lib/syncagent", "/usr/sbin/nologin")
    assert int(uid) < 1000
    done = _run(need_program("systemd-tmpfiles"), f"--root={root}", "--create", UNITS / "syncagent.tmpfiles")
    assert done.returncode == 0, done.stderr
    for directory, mode in (("var/lib/syncagent", 0o755), ("etc/syncagent/credentials", 0o700)):
        made = (root / directory).stat()
        assert (stat.S_IMODE(made.st_mode), made.st_uid, made.st_gid) == (mode, int(uid), int(gid)), directory


class Installed(NamedTuple):
    """What `make install DESTDIR=` did, run by an ordinary user, the second time over a changed configuration."""

    home: Path
    said: str
    again: str
    called: str

    @property
    def root(self) -> Path:
        """What would be / on the host."""
        return self.home / "dest"

    @property
    def python(self) -> Path:
        """The interpreter of what was installed."""
        return self.root / PREFIX.lstrip("/") / "bin" / "python"


def _ordinary_user() -> tuple[int, int]:
    """Who is to install: nobody where root runs the tests."""
    if os.geteuid() != 0:
        return os.geteuid(), os.getegid()
    nobody = pwd.getpwnam("nobody")
    return nobody.pw_uid, nobody.pw_gid


def _as_user(command: list[str], home: Path, **more: str) -> subprocess.Popen[str]:
    """Start a command as the ordinary user, with the service's umask."""
    uid, gid = _ordinary_user() if os.geteuid() == 0 else (None, None)
    kept = {name: value for name, value in os.environ.items() if name.startswith("PIP_") or "SSL" in name}
    environment = {**kept, "HOME": str(home), "PATH": f"{home / 'stubs'}:/usr/local/bin:/usr/bin:/bin", **more}
    return subprocess.Popen(
        command,
        cwd=home,
        env=environment,
        umask=0o027,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
        user=uid,
        group=gid,
        extra_groups=None if uid is None else [],
    )


def _make_install(home: Path) -> str:
    """Run it to its end; however that comes about, nothing goes on writing into the directory that is then removed."""
    made = _as_user(["make", "-C", "checkout", "install", f"DESTDIR={home / 'dest'}"], home)
    try:
        said = made.communicate(timeout=_INSTALL_SECONDS)[0]
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(made.pid, signal.SIGKILL)
        made.communicate()
        assert wait_until(lambda: not session(made.pid)), session(made.pid)
    assert made.returncode == 0, said
    return said


def _copy(part: str, checkout: Path) -> None:
    (checkout / part).parent.mkdir(parents=True, exist_ok=True)
    if (ROOT / part).is_dir():
        shutil.copytree(ROOT / part, checkout / part, ignore=shutil.ignore_patterns("__pycache__"))
    else:
        shutil.copy(ROOT / part, checkout / part)


@pytest.fixture(scope="module")
def installed() -> Iterator[Installed]:
    """Install twice into a directory that everybody may enter; afterwards it is gone."""
    need_program("make")
    need("a Python 3.11 for everybody, with venv", _everybodys_python())
    uid, gid = _ordinary_user()
    with tempfile.TemporaryDirectory(prefix="syncagent-install-") as name:
        home = Path(name)
        home.chmod(0o755)
        for part in ("Makefile", "pyproject.toml", "requirements.lock", "README.md", "LICENSE", ".ci", "contrib"):
            _copy(part, home / "checkout")
        _copy("syncagent", home / "checkout")
        _copy("tests/support/seccomp.py", home / "checkout")
        (home / "stubs").mkdir()
        for stub in ("systemctl", "systemd-sysusers", "systemd-tmpfiles"):
            (home / "stubs" / stub).write_text(f'#!/bin/sh\necho "$0 $*" >>{home}/called\n', encoding="utf-8")
            (home / "stubs" / stub).chmod(0o755)
        for path in (home, *home.rglob("*")):
            os.chown(path, uid, gid)
        said = _make_install(home)
        (home / "dest" / "etc" / "syncagent").mkdir(parents=True)
        (home / "dest" / "etc" / "syncagent" / "syncagent.toml").write_text("mine = true\n", encoding="utf-8")
        called = home / "called"
        again = _make_install(home)
        yield Installed(home, said, again, called.read_text(encoding="utf-8") if called.exists() else "")


@cache
def _everybodys_python() -> bool:
    """Whether the system's own Python will do; one in a home directory cannot be run by others."""
    try:
        return (
            _run("/usr/bin/python3", "-c", "import sys, ensurepip; sys.exit(sys.version_info < (3, 11))").returncode
            == 0
        )
    except FileNotFoundError:
        return False


def test_what_is_installed(installed: Installed) -> None:
    """Exactly these files and links beside the program, with these modes; nothing of the making is left."""
    found = {
        str(path.relative_to(installed.root)): stat.S_IMODE(path.lstat().st_mode)
        for path in installed.root.rglob("*")
        if not path.is_relative_to(installed.root / "opt" / "syncagent") and not path.is_dir()
    }
    del found["etc/syncagent/syncagent.toml"]  # the test's own
    links = {name for name in found if (installed.root / name).is_symlink()}
    assert links == {f"usr/local/{name}" for name in LINKS}
    for name in LINKS:
        assert (installed.root / "usr/local" / name).readlink() == Path(PREFIX) / name
        assert (installed.root / PREFIX.lstrip("/") / name).is_file()
        del found[f"usr/local/{name}"]
    assert found == {f"{place}/{name}": 0o644 for place, names in PLACED.items() for name in names}
    directories = [path for path in installed.root.rglob("*") if path.is_dir() and not path.is_symlink()]
    assert {stat.S_IMODE(path.stat().st_mode) for path in directories} == {0o755}
    assert [path.name for path in (installed.root / "opt").iterdir()] == ["syncagent"]
    for unit in [*SERVICES, *SWITCH, *TIMERS]:
        assert (installed.root / LIB / "systemd/system" / unit).read_bytes() == (UNITS / unit).read_bytes()
    script = installed.root / PREFIX.lstrip("/") / "libexec" / "doubt-switch.sh"
    assert script.read_bytes() == (ROOT / "contrib" / "doubt-switch.sh").read_bytes()
    assert stat.S_IMODE(script.stat().st_mode) == 0o755


def test_the_program_knows_its_place(installed: Installed) -> None:
    """The command starts the Python of its final place; it has what a user needs, and not what developers need."""
    program = installed.root / PREFIX.lstrip("/")
    assert (program / "bin" / "syncagent").read_text(encoding="utf-8").startswith(f"#!{PREFIX}/bin/python")
    assert not [path for path in (program / "bin").iterdir() if str(installed.home).encode() in path.read_bytes()]
    packages = {path.name for path in program.glob("lib/python3*/site-packages/*")}
    assert {"syncagent", "ldap3", "httpx"} <= packages
    assert not {"pytest", "mypy", "ruff"} & packages
    tested = dict(
        re.findall(r"^([\w-]+)==(\S+)", (ROOT / "requirements.lock").read_text(encoding="utf-8"), re.MULTILINE)
    )
    assert f"ldap3-{tested['ldap3']}.dist-info" in packages
    assert f"httpx-{tested['httpx']}.dist-info" in packages
    assert _run(installed.python, "-m", "syncagent", "--version").stdout.startswith("syncagent ")


def test_a_configuration_is_never_overwritten(installed: Installed) -> None:
    """The second installation leaves the configuration as it was changed after the first."""
    kept = installed.root / "etc" / "syncagent" / "syncagent.toml"
    assert kept.read_text(encoding="utf-8") == "mine = true\n"


def test_it_starts_nothing_and_says_what_does(installed: Installed) -> None:
    """Not one command of systemd's is run below DESTDIR; each to type is printed, and names a unit that is there."""
    assert installed.called == ""

    def commands(said: str) -> list[str]:
        return [line.split("#")[0].strip() for line in said.splitlines() if line.startswith("  ")]

    switch = "systemctl enable --now syncagent-doubt.timer && systemctl enable syncagent-doubt-boot.service"
    users = ["systemd-sysusers syncagent.conf", "systemd-tmpfiles --create syncagent.conf"]
    assert commands(installed.said) == [
        *users,
        "systemctl daemon-reload",
        "systemctl enable --now syncagent.service",
        "systemctl enable --now syncagent-sync.timer",
        switch,
    ]
    assert commands(installed.again) == [
        *users,
        "systemctl daemon-reload",
        "systemctl try-restart syncagent.service",
        switch,
    ]


def test_another_program_is_not_replaced(tmp_path: Path) -> None:
    """A PREFIX that is somebody else's directory is refused, before anything is done."""
    (tmp_path / "usr" / "local").mkdir(parents=True)
    done = _run("make", "--no-print-directory", "-C", ROOT, "install", f"DESTDIR={tmp_path}", "PREFIX=/usr/local/")
    assert done.returncode != 0
    assert "not of my making" in done.stderr
    assert list(tmp_path.rglob("*")) == [tmp_path / "usr", tmp_path / "usr" / "local"]


@cache
def _calls(name: str) -> frozenset[str]:
    """Give the system calls of one of systemd's sets, or the one call of that name."""
    if not name.startswith("@"):
        return frozenset([name])
    done = _run(need_program("systemd-analyze"), "syscall-filter", "--no-pager", name)
    words = [line.strip() for line in done.stdout.splitlines()[1:]]
    return frozenset().union(*(_calls(word) for word in words if word and not word.startswith("#")))


def _filtered(installed: Installed, *command: str) -> list[str]:
    """Give the command line that runs a command under the agent's filter of system calls."""
    settings = _settings(SERVICES[0])
    allowed = set(_calls("@default"))
    for value in settings["SystemCallFilter"]:
        calls = frozenset().union(*(_calls(name) for name in value.removeprefix("~").split()))
        allowed = allowed - calls if value.startswith("~") else allowed | calls
    families = [int(getattr(socket, name)) for name in settings["RestrictAddressFamilies"][0].split()]
    script = installed.home / "checkout" / "tests" / "support" / "seccomp.py"
    plan = json.dumps({"allowed": sorted(allowed), "families": families})
    return [str(installed.python), str(script), plan, *command]


@pytest.fixture
def _libseccomp(installed: Installed) -> None:
    loads = _run(installed.python, "-c", "import ctypes; ctypes.CDLL('libseccomp.so.2')").returncode == 0
    need("libseccomp", loads)


@pytest.mark.usefixtures("_libseccomp")
def test_the_filter_refuses(installed: Installed) -> None:
    """What the next test runs under is in force: to give a file away is refused, and so is another family."""
    tries = (
        "import os, socket\n"
        "for attempt in (lambda: os.chown('.', -1, -1), lambda: socket.socket(socket.AF_PACKET)):\n"
        "    try: attempt()\n"
        "    except PermissionError: print('refused')\n"
        "socket.socket(socket.AF_NETLINK, socket.SOCK_RAW)\n"
    )
    ran = _as_user(_filtered(installed, str(installed.python), "-c", tries), installed.home)
    assert (ran.communicate(timeout=PATIENCE)[0], ran.returncode) == ("refused\nrefused\n", 0)


@pytest.mark.usefixtures("_libseccomp")
def test_the_agent_lives_within_the_filter(installed: Installed) -> None:
    """Under the filter, as an ordinary user, the agent syncs, notices a change, and ends; all may read the map."""
    need_postmap("lmdb")
    home = installed.home / "agent"
    home.mkdir()
    home.chmod(0o755)
    (home / "recipients").write_text("a@example.com\n", encoding="utf-8")
    (home / "syncagent.toml").write_text(
        f'[postfix]\nmap = "lmdb:{home}/lib/relay_recipients"\nrelay_domains = ["example.com"]\n'
        f'config_directory = "{minimal_config(home / "postfix")}"\n'
        f'[state]\ndirectory = "{home}/lib/state"\n[sources.x]\ntype = "file"\npath = "recipients"\n',
        encoding="utf-8",
    )
    (home / "lib").mkdir()
    os.chown(home / "lib", *_ordinary_user())

    def published(address: bytes) -> bool:
        index = home / "lib" / "relay_recipients.lmdb"
        if not index.exists():
            return False
        return postmap_query(home / "postfix", f"lmdb:{home}/lib/relay_recipients", address) == b"OK"

    arguments = ["-m", "syncagent", "--config", str(home / "syncagent.toml"), "run"]
    agent = _as_user(_filtered(installed, str(installed.python), *arguments), home)
    try:
        came = wait_until(lambda: published(b"a@example.com"), pause=0.1)
        (home / "recipients.new").write_text("a@example.com\nb@example.com\n", encoding="utf-8")
        (home / "recipients.new").replace(home / "recipients")
        noticed = came and wait_until(lambda: published(b"b@example.com"), pause=0.1)
    finally:
        agent.send_signal(signal.SIGTERM)
        started = time.monotonic()
        said = agent.communicate(timeout=PATIENCE)[0]
    assert (came, noticed, agent.returncode) == (True, True, 0), said
    assert time.monotonic() - started < allowed(10), "TimeoutStopSec"
    assert '"level": "error"' not in said
    for name in ("relay_recipients", "relay_recipients.lmdb"):
        assert stat.S_IMODE((home / "lib" / name).stat().st_mode) == 0o644, "read by all, whatever UMask says"
    assert not stat.S_IMODE((home / "lib" / "state").stat().st_mode) & 0o007
