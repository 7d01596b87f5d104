"""A directory as syncagent leaves it for contrib/doubt-switch.sh: the table of doubt and what stands beside it."""

import os
import re
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from tests.support.boot import BOOT
from tests.support.pages import ROOT
from tests.support.postmap import minimal_config, postmap_build, postmap_query
from tests.support.programs import PATIENCE
from tests.support.throwaway import ThrowawayHost

SCRIPT = ROOT / "contrib" / "doubt-switch.sh"
VALUE = "DEFER_IF_REJECT 4.3.0 recipient list is being refreshed, please try again later"
PROBE = "syncagent-doubt-probe@example.com DEFER_IF_REJECT 4.3.0 probe\n"
TABLE = "# Written by syncagent: changes made here are lost.\n" + PROBE
ALL = f"# doubt-all of doubt\nexample.com {VALUE}\n.example.com {VALUE}\n" + PROBE
LIMIT = 900
UNITS = ROOT / "contrib" / "systemd"
DIRECTORY = "/var/lib/syncagent"
FORM_C = f"""\
relay_domains = example.com
relay_recipient_maps = lmdb:{DIRECTORY}/relay_recipients
smtpd_sender_restrictions = check_recipient_access lmdb:{DIRECTORY}/relay_recipients,
    check_recipient_access lmdb:{DIRECTORY}/doubt, reject_unlisted_recipient
"""


class Ran(NamedTuple):
    """Exit status and output of the switch."""

    status: int
    said: str


class DoubtDirectory:
    """The directory of a table `doubt`, in which no domain is in doubt, beside a `doubt-all` and a fresh `alive`."""

    def __init__(self, path: Path) -> None:
        """Make it, with a real postmap."""
        self.path = path
        path.mkdir(parents=True)
        path.chmod(0o755)
        self._config = minimal_config(path.parent / f"{path.name}.postfix")
        self.build("doubt", TABLE)
        self.publish_all()
        self.write_alive(0)

    def build(self, name: str, text: str) -> None:
        """Write a table: the text, then the index."""
        staged = self.path.parent / f"{self.path.name}.staged"
        staged.write_text(text, encoding="utf-8")
        staged.chmod(0o644)
        postmap_build(self._config, f"lmdb:{staged}")
        staged.replace(self.path / name)
        staged.with_name(f"{staged.name}.lmdb").replace(self.path / f"{name}.lmdb")

    def publish_all(self) -> None:
        """Write `doubt-all`, made a minute ago."""
        self.build("doubt-all", ALL)
        for name in ("doubt-all", "doubt-all.lmdb"):
            os.utime(self.path / name, (time.time() - 60,) * 2)

    def write_alive(self, age: float, limit: float = LIMIT) -> None:
        """Write `alive` as of so many seconds ago."""
        (self.path / "alive").write_text(f"written {int(time.time() - age)}\nlimit {limit}\n", encoding="ascii")

    def give_to(self, uid: int, gid: int) -> None:
        """Change the owner of the directory and all that is in it."""
        for path in (self.path, *self.path.iterdir()):
            os.chown(path, uid, gid, follow_symlinks=False)

    @property
    def in_doubt(self) -> bool:
        """True if the table in force has the domain, by its index."""
        answer = postmap_query(self._config, f"lmdb:{self.path / 'doubt'}", b"example.com")
        assert answer in {None, VALUE.encode()}
        return answer is not None

    @property
    def mark(self) -> str | None:
        """The word of the mark, of which the time is asserted to be now; None if there is no mark."""
        try:
            text = (self.path / "doubt-switched").read_text(encoding="ascii")
        except FileNotFoundError:
            return None
        found = re.fullmatch(r"(\d+) (dead|boot)\n", text)
        assert found, text
        assert abs(time.time() - int(found[1])) < PATIENCE
        return found[2]

    def names(self) -> set[str]:
        """Return the names of all that is in it."""
        return {path.name for path in self.path.iterdir()}

    def files(self) -> dict[str, tuple[int, int, int]]:
        """Return inode, size and time of writing of all but the sign of having been seen."""
        return {
            path.name: (status.st_ino, status.st_size, status.st_mtime_ns)
            for path in self.path.iterdir()
            if path.name != "doubt-switch-seen"
            for status in [path.lstat()]
        }

    def switched(self, mark: str = "dead") -> None:
        """Assert that the whole of doubt-all is in force: index, text and mark, and nothing is left over."""
        assert self.in_doubt
        assert (self.path / "doubt").read_text(encoding="utf-8") == ALL
        assert self.mark == mark
        assert not {"doubt-all", "doubt-all.lmdb", ".doubt-switched.new"} & self.names()


def switch(directory: Path | str, *options: str, script: Path = SCRIPT, before: Sequence[str] = ()) -> Ran:
    """Run the switch, its standard error being what systemd says of it: the journal."""
    return run_switch(str(directory), *options, script=script, before=before)


def run_switch(*arguments: str, script: Path = SCRIPT, before: Sequence[str] = ()) -> Ran:
    """Run it with these arguments, behind the words of a command."""
    reader, writer = os.pipe()
    status = os.fstat(writer)
    environment = {"PATH": os.environ["PATH"], "JOURNAL_STREAM": f"{status.st_dev}:{status.st_ino}"}
    with os.fdopen(reader, encoding="utf-8") as said:
        try:
            process = subprocess.Popen(
                [*before, str(script), *arguments], stdin=subprocess.DEVNULL, stderr=writer, env=environment
            )
        finally:
            os.close(writer)
        code = process.wait(PATIENCE)
        return Ran(code, said.read())


class DoubtHost:
    """A throw-away host with a Postfix that asks the table of doubt, and syncagent's directory."""

    def __init__(self, host: ThrowawayHost, *, owner: str = "syncagent") -> None:
        """Prepare it; nothing of it runs."""
        self.host = host
        self.owner = owner
        host.start_postfix()
        host.run(
            f"postfix stop; mkdir {DIRECTORY}; postconf -X relay_domains; cat >>/etc/postfix/main.cf", stdin=FORM_C
        )
        host.run("id -u syncagent 2>/dev/null || useradd --system --home-dir / --shell /usr/sbin/nologin syncagent")
        host.write("/opt/syncagent/libexec/doubt-switch.sh", SCRIPT.read_text(encoding="utf-8"), mode="0755")
        self.table("relay_recipients", "known@example.com OK\n")
        self.publish()

    def put_units(self) -> None:
        """Put the units where `boot` takes them from, enabled, and Debian's of Postfix."""
        host = self.host
        for unit in UNITS.glob("syncagent-doubt*"):
            host.write(f"/sd/{unit.name}", unit.read_text(encoding="utf-8"))
        host.run(
            "mkdir -p /sd/sysinit.target.wants && ln -s ../syncagent-doubt-boot.service /sd/sysinit.target.wants\n"
            "cp /usr/lib/systemd/system/postfix*.service /sd\n"
            "/usr/lib/systemd/system-generators/postfix-instance-generator /sd /sd /sd"
        )

    def table(self, name: str, text: str) -> None:
        """Build a table in syncagent's directory, all of which is the user's."""
        path = f"{DIRECTORY}/{name}"
        self.host.write(path, text)
        self.host.run(f"postmap lmdb:{path}; chown -R {self.owner} {DIRECTORY}")

    def publish(self, age: int = 0) -> None:
        """Write all that syncagent writes, and `alive` as of so many seconds ago; no domain is in doubt."""
        self.table("doubt", TABLE)
        self.table("doubt-all", ALL)
        self.host.run(
            f"rm -f {DIRECTORY}/doubt-switched; touch -d '1 minute ago' {DIRECTORY}/doubt-all*\n"
            f'printf "written %s\\nlimit {LIMIT}\\n" $(($(date +%s) - {age})) >{DIRECTORY}/alive'
        )

    def boot(self, *units: str) -> None:
        """Boot it."""
        self.host.run(BOOT + " ".join(["boot", *units]))

    def booted(self, command: str) -> str:
        """Run a command beside that systemd."""
        return self.host.run(f"{BOOT} booted {command}")

    def ran(self, unit: str) -> tuple[int, int]:
        """Return when a unit began to start, and when that was done: microseconds."""
        shown = self.booted(f"systemctl show {unit} -p InactiveExitTimestampMonotonic -p ActiveEnterTimestampMonotonic")
        began, done = (int(line.partition("=")[2]) for line in sorted(shown.splitlines(), reverse=True))
        return began, done

    @property
    def mark(self) -> list[str]:
        """The word of the mark, and its owner."""
        return self.host.run(
            f"cd {DIRECTORY}; [ ! -e doubt-switched ] || {{ cut -d' ' -f2 doubt-switched; stat -c %U doubt-switched; }}"
        ).split()

    def postfix_runs(self) -> bool:
        """True if Postfix runs."""
        return self.host.run("postfix status 2>&1 && echo runs || true").endswith("runs\n")

    def codes(self) -> list[int]:
        """Return what smtpd answers to a known, an unknown and a foreign recipient."""
        asked = ("known@example.com", "unknown@example.com", "anybody@example.net")
        return [self.host.verdict(address) for address in asked]
