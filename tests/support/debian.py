"""A minimal Debian of a release in a directory of its own, without Python, into which commands are typed.

Packages come from the mirror that this host's apt uses, by its settings; Python packages as this host's pip has them.
"""

import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import NamedTuple

from tests.support.need import need, need_program, need_root

ROOT = Path(__file__).parents[2]
RELEASES = {"bookworm": 12, "trixie": 13}
UNSTABLE = "sid"
"""The release that has the newest Postfix."""

_TIMEOUT = 1800.0
_SETTINGS = ("Acquire::http", "Acquire::https", "Acquire::Check-", "Acquire::Retries")
_PIP = (Path("/etc/pip.conf"), Path.home() / ".config/pip/pip.conf", Path.home() / ".pip/pip.conf")
_CERTIFICATES = "/etc/pip-certificates.pem"  # the package ca-certificates writes its own where the host has them
_LOOPBACK_UP = """
import fcntl, os, socket, struct, sys
with socket.socket() as any:
    fcntl.ioctl(any, 0x8914, struct.pack("16sh", b"lo", 0x41))  # SIOCSIFFLAGS: IFF_UP | IFF_RUNNING
os.execvp(sys.argv[1], sys.argv[1:])
"""


class Typed(NamedTuple):
    """What came of a command: its exit status, and what it printed on both streams."""

    status: int
    said: str


class Debian:
    """The root directory of a Debian that nothing has been installed into."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def type(self, line: str, *, user: str = "root", directory: str = "/", network: bool = True) -> Typed:
        """Run a line of shell as a user, in a directory; without a network there is loopback alone.

        Whatever it leaves running is ended.
        """
        home = "/root" if user == "root" else f"/home/{user}"
        kept = {name: value for name, value in os.environ.items() if name.startswith("PIP_")}
        if "PIP_CERT" in kept:
            kept["PIP_CERT"] = _CERTIFICATES
        env = {
            **kept,
            "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
            "HOME": home,
            "LC_ALL": "C.UTF-8",
            "DEBIAN_FRONTEND": "noninteractive",
        }
        spaces = ["unshare", "--mount", "--pid", "--fork", "--kill-child", f"--mount-proc={self.root}/proc"]
        loopback = [] if network else ["unshare", "--net", sys.executable, "-c", _LOOPBACK_UP]
        shell = ["chroot", f"--userspec={user}", str(self.root), "sh", "-ec", f"cd {directory} && {line}"]
        done = subprocess.run(
            [*loopback, *spaces, *shell],
            check=False,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            encoding="utf-8",
            errors="backslashreplace",
            env=env,
            timeout=_TIMEOUT,
        )
        return Typed(done.returncode, done.stdout)

    def works(self, line: str, *, user: str = "root", directory: str = "/", network: bool = True) -> str:
        """Run a line as `type` does, assert that it exits 0, and return what it printed."""
        status, said = self.type(line, user=user, directory=directory, network=network)
        assert status == 0, f"$ {line}\n{said}\nexit status {status}"
        return said

    def add_user(self, name: str) -> None:
        """Add an ordinary user with a home directory."""
        self.works(f"useradd --create-home --shell /bin/sh {name}")

    def check_out(self, place: str, *, owner: str = "root") -> None:
        """Put the files of this checkout, as they are now, into a directory that the owner's is."""
        listed = subprocess.run(["git", "-C", ROOT, "ls-files", "-z"], check=True, capture_output=True).stdout
        target = self.root / place.lstrip("/")
        for name in filter(None, listed.decode().split("\0")):
            if (ROOT / name).exists():
                (target / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(ROOT / name, target / name)
        self.works(f"chown -R {owner}: {place}")

    def installed(self, package: str) -> bool:
        """True if the package is installed."""
        return self.type(f"dpkg-query -W -f '${{db:Status-Status}}' {package}").said == "installed"


@contextmanager
def debian(release: str) -> Iterator[Debian]:
    """Yield a Debian of this release; afterwards it is gone. Skips the test where none can be made."""
    archive = _archive(release)
    with tempfile.TemporaryDirectory(prefix=f"{release}-") as name:
        root = Path(name)
        root.chmod(0o755)
        subprocess.run(["tar", "-C", root, "-xf", archive], check=True)
        (root / "etc/apt/apt.conf.d/99yes").write_text('APT::Get::Assume-Yes "true";\n', "ascii")
        _configure_pip(root)
        shutil.copy("/etc/resolv.conf", root / "etc/resolv.conf")
        made = Debian(root)
        made.works("apt-get -qq update")
        yield made


@cache
def _archive(release: str) -> Path:
    """Make a tar archive of a minimal Debian, once in a test run."""
    need_root()
    for program in ("mmdebstrap", "unshare", "chroot", "git"):
        need_program(program)
    entered = subprocess.run(["unshare", "--mount", "--pid", "--net", "--fork", "true"], check=False).returncode == 0
    need("namespaces of one's own (unshare)", entered)
    site = need("a mirror of Debian in apt's sources", _mirror())
    made = Path(tempfile.mkdtemp(prefix="debian-")) / f"{release}.tar"
    settings = made.with_name("apt.conf")
    settings.write_text(_apt_settings(), "utf-8")
    command = ["mmdebstrap", "--quiet", "--variant=minbase", "--skip=check/qemu", f"--aptopt={settings}"]
    done = subprocess.run(
        [*command, release, made, f"deb {site} {release} main"], check=False, capture_output=True, text=True
    )
    need(f"a Debian {release}, which mmdebstrap makes from apt's mirror ({done.stderr[-300:]})", done.returncode == 0)
    return made


def _mirror() -> str:
    """Return the URL from which this host's apt takes Debian's own packages; "" where it has none."""
    release = Path("/etc/os-release").read_text("utf-8")
    codename = re.search(r"^VERSION_CODENAME=(\S+)$", release, re.MULTILINE)
    command = ["apt-get", "indextargets", "--format", "$(SITE) $(RELEASE) $(COMPONENT)", "Created-By: Packages"]
    lines = subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()
    wanted = codename[1] if codename else ""
    return next((line.split()[0] for line in lines if line.split()[1:] == [wanted, "main"]), "")


def _apt_settings() -> str:
    """Return this host's settings of how apt downloads, such as a proxy."""
    dumped = subprocess.run(["apt-config", "dump"], check=True, capture_output=True, text=True).stdout.splitlines()
    return "".join(f"{line}\n" for line in dumped if line.startswith(_SETTINGS) and not line.endswith(' "";'))


def _configure_pip(root: Path) -> None:
    """Have pip find packages as this host's does."""
    lines = [file.read_text("utf-8") for file in _PIP if file.exists()]
    for number, name in enumerate(("etc/pip.conf", "etc/xdg/pip/pip.conf", "root/.config/pip/pip.conf")):
        if number < len(lines):
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).write_text(lines[number], "utf-8")
    certificates = os.environ.get("PIP_CERT")
    if certificates:
        copy = root / _CERTIFICATES.lstrip("/")
        shutil.copy(certificates, copy)
        copy.chmod(0o644)


def user_id(root: Path, name: str) -> int:
    """Return the ID of a user of that Debian."""
    for line in (root / "etc/passwd").read_text("utf-8").splitlines():
        fields = line.split(":")
        if fields[0] == name:
            return int(fields[2])
    raise KeyError(name)
