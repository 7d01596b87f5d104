"""A throw-away copy of this host, in which commands run as the documentation has them.

Its root is an overlay over the real one, in namespaces of its own: what is written is gone afterwards, only loopback is
there, and port 25 is free. Needs root, and a kernel that permits it.
"""

import shutil
import subprocess
import sys
import tempfile
from functools import cache
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.support.need import need, need_postmap, need_root
from tests.support.pages import ROOT
from tests.support.postmap import COMPATIBILITY_LEVEL
from tests.support.programs import PATIENCE, find_program, wait_until

PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
"""The PATH of a login of root on Debian."""
CRON_PATH = "/usr/bin:/bin"
"""The PATH of a cron job on Debian (crontab(5))."""

_SETUP = r"""
set -e
mount -t tmpfs -o mode=0755 throwaway "$1"
mkdir "$1/upper" "$1/work" "$1/root"
mount -t overlay overlay -o "lowerdir=/,upperdir=$1/upper,workdir=$1/work" "$1/root"
mount --rbind /dev "$1/root/dev"
mount -t proc proc "$1/root/proc"
if [ "$(stat -c %d "$2")" != "$(stat -c %d /)" ]; then
    mkdir -p "$1/root$2"
    mount --bind "$2" "$1/root$2"
    mount -o remount,bind,ro "$1/root$2"
fi
"$3" -c 'import fcntl, socket, struct
fcntl.ioctl(socket.socket(), 0x8914, struct.pack("16sH", b"lo", 0x41))'  # SIOCSIFFLAGS: IFF_UP, IFF_RUNNING
exec chroot "$1/root" sh -c 'rm -rf /etc/syncagent /var/lib/syncagent /opt/syncagent; touch /ready; exec sleep 1000'
"""

_MAIN_CF = {
    "compatibility_level": COMPATIBILITY_LEVEL,
    "myhostname": "backup.example.net",
    "mydestination": "",
    "mynetworks": "",
    "inet_interfaces": "127.0.0.1",
    "inet_protocols": "ipv4",
    "alias_maps": "",
    "alias_database": "",
    "relay_transport": "discard:",
    "relay_domains": "",
    "smtpd_relay_restrictions": "reject_unauth_destination",
    "smtpd_peername_lookup": "no",
    "maillog_file": "/var/log/mail.log",
}


class ThrowawayHost:
    """The copy. Postfix is configured as after an installation, and runs after `start_postfix`."""

    def __init__(self) -> None:
        """Check that this machine can have one."""
        need_root()
        need("namespaces and an overlay of the file system", _possible())
        self.typed: list[str] = []
        self._place = Path(tempfile.mkdtemp(prefix="throwaway-", dir="/tmp"))
        self._process = _start(self._place)

    def __enter__(self) -> Self:
        """Wait until it is ready, and have the program and its library where the documentation has them."""
        self._inside = _child(self._process.pid)
        folders = {
            str(folder)
            for path in (Path(sys.executable), Path(sys.executable).resolve(), Path(sys.base_prefix), ROOT)
            for folder in path.parents
        }
        # Other users than root have to pass; a checkout on another disk is read-only.
        passes = [f"case $(stat -c %A '{one}') in *[xt]) ;; *) chmod o+x '{one}' ;; esac" for one in sorted(folders)]
        self.run("\n".join(passes))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End all of its processes; its files go with the last of them."""
        _end(self._process)
        wait_until(lambda: not Path(f"/proc/{self._inside}").exists())
        shutil.rmtree(self._place, ignore_errors=True)

    def put_program(self) -> None:
        """Put the command where `pip install` into /opt/syncagent would."""
        self.write(
            "/opt/syncagent/bin/syncagent",
            f"#!{sys.executable}\nfrom syncagent.cli.main import main\n\nmain()\n",
            mode="0755",
        )

    def write(self, path: str, text: str, *, mode: str = "0644") -> None:
        """Write a file, and its directory where that is missing."""
        self.run(f"mkdir -p '{Path(path).parent}'; cat >'{path}'; chmod {mode} '{path}'", stdin=text)

    def put_master_cf(self) -> None:
        """Give Postfix Debian's master.cf, where it has none."""
        self.run("test -s /etc/postfix/master.cf || cp /usr/share/postfix/master.cf.dist /etc/postfix/master.cf")

    def start_postfix(self) -> None:
        """Configure Postfix and start it, on port 25."""
        need_postmap("lmdb")
        text = "".join(f"{name} = {value}\n" for name, value in _MAIN_CF.items())
        self.put_master_cf()
        self.write("/etc/postfix/main.cf", text)
        self.run("rm -f /var/spool/postfix/pid/*; touch -d '1 minute ago' /etc/postfix/main.cf; postfix start")

    def verdict(self, address: str) -> int:
        """Return the code of smtpd's answer to RCPT TO."""
        script = (
            "import smtplib\nclient = smtplib.SMTP('127.0.0.1', timeout=180)\nclient.ehlo()\nclient.mail('')\n"
            f"print(client.rcpt({address!r})[0])\n"
        )
        return int(self.run(f"'{sys.executable}' -", stdin=script))

    def type(self, line: str, *, stdin: str = "", by: str = "sh", cwd: str = "/root", path: str = PATH) -> str:
        """Run a line of the documentation as it stands there; return what it prints."""
        self.typed.append(line)
        return self.run(line, stdin=stdin, by=by, cwd=cwd, path=path)

    def run(self, script: str, *, stdin: str = "", by: str = "sh", cwd: str = "/", path: str = PATH) -> str:
        """Run a script in an environment of its own; return what it prints. Raises AssertionError if it fails."""
        enter = ["nsenter", "--target", str(self._inside), "--mount", "--net", "--pid", "--root", f"--wdns={cwd}"]
        words = [*enter, "env", "-i", "HOME=/root", "SHELL=/bin/sh", f"PATH={path}", by]
        words += ["-c" if by == "fish" else "-ec", script]
        done = subprocess.run(
            [str(find_program(words[0])), *words[1:]],
            input=stdin,
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=False,
        )
        assert done.returncode == 0, f"{script}\nexited {done.returncode}\n{done.stdout}{done.stderr}"
        return done.stdout


def _start(place: Path) -> "subprocess.Popen[bytes]":
    words = ["unshare", "--mount", "--net", "--pid", "--fork", "--kill-child", "sh", "-c", _SETUP, "sh"]
    process = subprocess.Popen([*words, str(place), str(ROOT), sys.executable], stderr=subprocess.PIPE)
    if not wait_until(lambda: process.poll() is not None or _ready(process.pid)):
        process.kill()
    if process.poll() is not None:
        assert process.stderr
        reason = process.stderr.read().decode()
        _end(process)
        raise OSError(reason)
    return process


def _end(process: "subprocess.Popen[bytes]") -> None:
    """Kill `unshare`; the kernel ends its child with it (--kill-child), and with that all other processes inside."""
    process.kill()
    process.wait(PATIENCE)
    assert process.stderr
    process.stderr.close()


def _ready(pid: int) -> bool:
    child = _child(pid)
    return bool(child) and Path(f"/proc/{child}/root/ready").exists()


def _child(pid: int) -> int:
    """Return the process that `unshare` started, which is the first one of the copy; 0 if it is not there yet."""
    try:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="ascii").split()
    except OSError:
        return 0
    return int(children[0]) if children else 0


@cache
def _possible() -> bool:
    """True if one can be made here, by trying it."""
    if not all(map(find_program, ("unshare", "nsenter", "mount", "chroot"))):
        return False
    with tempfile.TemporaryDirectory(prefix="throwaway-", dir="/tmp") as name:
        try:
            process = _start(Path(name))
        except OSError:
            return False
        _end(process)
    return True
