"""The units of the dead man's switch under a real systemd, which boots them together with Debian's Postfix."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.boot import BOOT, SYSTEMD
from tests.support.doubt import ALL, LIMIT, SCRIPT, TABLE
from tests.support.need import need, need_postfix
from tests.support.programs import PATIENCE, wait_until
from tests.support.throwaway import CRON_PATH, ThrowawayHost

UNITS = Path(__file__).parent.parent / "contrib" / "systemd"
DIRECTORY = "/var/lib/syncagent"
FORM_C = f"""\
relay_domains = example.com
relay_recipient_maps = lmdb:{DIRECTORY}/relay_recipients
smtpd_sender_restrictions = check_recipient_access lmdb:{DIRECTORY}/relay_recipients,
    check_recipient_access lmdb:{DIRECTORY}/doubt, reject_unlisted_recipient
"""


class Host:
    """A throw-away host with a Postfix that asks the table of doubt, syncagent's directory, and the units in /sd."""

    def __init__(self, host: ThrowawayHost) -> None:
        self.host = host
        host.start_postfix()
        host.run(
            f"postfix stop; mkdir {DIRECTORY}; postconf -X relay_domains; cat >>/etc/postfix/main.cf", stdin=FORM_C
        )
        host.run("id -u syncagent 2>/dev/null || useradd --system --home-dir / --shell /usr/sbin/nologin syncagent")
        host.write("/opt/syncagent/libexec/doubt-switch.sh", SCRIPT.read_text(encoding="utf-8"), mode="0755")
        self.table("relay_recipients", "known@example.com OK\n")
        self.publish()
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
        self.host.run(f"postmap lmdb:{path}; chown -R syncagent: {DIRECTORY}")

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

    def codes(self) -> list[int]:
        """Return what smtpd answers to a known, an unknown and a foreign recipient."""
        asked = ("known@example.com", "unknown@example.com", "anybody@example.net")
        return [self.host.verdict(address) for address in asked]


@pytest.fixture
def host() -> Iterator[Host]:
    """Yield one that has not booted."""
    need_postfix("lmdb")
    need("systemd", Path(SYSTEMD).exists())
    with ThrowawayHost() as throwaway:
        mounted = throwaway.run("mkdir /tmp/try; mount -t cgroup2 none /tmp/try && umount /tmp/try && echo yes || true")
        need("control groups (version 2) that can be mounted", mounted)
        made = Host(throwaway)
        try:
            yield made
        finally:
            throwaway.run(f"{BOOT} [ ! -e /booted ] || end_boot")


def test_boot(host: Host) -> None:
    """Before Postfix answers anybody, the table is switched, by the owner of the directory; once in a boot."""
    host.boot("postfix.service")
    assert wait_until(lambda: host.host.run("postfix status 2>&1 && echo runs || true").endswith("runs\n"), pause=0.1)
    assert host.codes() == [250, 450, 554]
    assert host.mark == ["boot", "syncagent"]
    switched, postfix = host.ran("syncagent-doubt-boot.service"), host.ran("postfix@-.service")
    assert 0 < switched[0] <= switched[1] < postfix[0]
    host.publish()
    host.booted("systemctl start sysinit.target")
    host.booted("systemctl restart postfix.service")
    host.booted("systemctl isolate multi-user.target")
    assert host.mark == []
    assert host.host.run(f"ls {DIRECTORY}/doubt-all.lmdb")


def test_boot_without_a_table(host: Host) -> None:
    """Where syncagent has published nothing, the unit is passed over, and no error."""
    host.host.run(f"rm {DIRECTORY}/doubt-all*")
    host.boot()
    assert "inactive" in host.booted("systemctl is-active syncagent-doubt-boot.service || true")
    assert host.booted("systemctl --failed --no-legend --plain") == ""


def test_the_timer(host: Host) -> None:
    """In its sandbox the service becomes the owner and switches once syncagent is dead; it says so in the journal."""
    host.host.write("/sd/syncagent-doubt.timer.d/often.conf", "[Timer]\nOnBootSec=0\nOnUnitInactiveSec=1s\n")
    host.boot("syncagent-doubt.timer", "postfix.service")
    host.publish()
    assert wait_until(lambda: "doubt-switch-seen" in host.host.run(f"ls {DIRECTORY}"), pause=0.1)
    assert host.mark == []
    assert host.codes() == [250, 550, 554]
    host.publish(age=LIMIT + 5)
    assert wait_until(lambda: host.mark == ["dead", "syncagent"], pause=0.1)
    assert host.codes() == [250, 450, 554]
    logged = host.booted("journalctl -p err --no-pager -o cat -u syncagent-doubt.service").splitlines()
    assert len(logged) == 1
    assert "unknown recipients of every relay domain get 450" in logged[0]
    host.host.run(f"rm {DIRECTORY}/doubt-switch-seen")
    assert wait_until(lambda: "doubt-switch-seen" in host.host.run(f"ls {DIRECTORY}"), pause=0.1)
    assert host.booted("systemctl --failed --no-legend --plain") == ""


def test_the_sandbox_is_in_force(host: Host) -> None:
    """Nothing but the directory of the unit can be written to, by root's own directory as well."""
    host.host.run(f"cp -a {DIRECTORY} /srv/doubt; rm /srv/doubt/alive; chown -R root: /srv/doubt")
    elsewhere = "[Service]\nExecStart=\nExecStart=/opt/syncagent/libexec/doubt-switch.sh /srv/doubt\n"
    host.host.write("/sd/syncagent-doubt.service.d/elsewhere.conf", elsewhere)
    host.boot()
    host.booted("systemctl start syncagent-doubt.service || true")
    assert "Read-only file system" in host.booted("journalctl --no-pager -o cat -u syncagent-doubt.service")
    host.host.write("/sd/syncagent-doubt.service.d/elsewhere.conf", f"{elsewhere}ReadWritePaths=/srv/doubt\n")
    host.booted("systemctl daemon-reload")
    host.booted("systemctl start syncagent-doubt.service")
    assert host.host.run("ls /srv/doubt/doubt-switched")


def test_syslog(host: Host) -> None:
    """Under cron it writes nothing to be sent as mail: the line is in syslog, with the facility of mail."""
    host.boot()
    host.publish(age=LIMIT + 5)
    cron = f"env -i PATH={CRON_PATH} SHELL=/bin/sh /bin/sh -c '/opt/syncagent/libexec/doubt-switch.sh {DIRECTORY} 2>&1'"
    assert host.booted(cron) == ""
    assert host.mark == ["dead", "syncagent"]

    def logged() -> list[str]:
        return host.booted("journalctl --no-pager -o cat -p err -t doubt-switch SYSLOG_FACILITY=2").splitlines()

    assert wait_until(lambda: len(logged()) == 1, PATIENCE, pause=0.1), logged()
