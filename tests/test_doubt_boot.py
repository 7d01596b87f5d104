"""The units of the dead man's switch under a real systemd, which boots them together with Debian's Postfix."""

import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.boot import BOOT, SYSTEMD
from tests.support.debian import RELEASES, Debian, debian
from tests.support.doubt import ALL, DIRECTORY, FORM_C, LIMIT, SCRIPT, TABLE, UNITS, DoubtHost
from tests.support.need import need, need_postfix
from tests.support.programs import PATIENCE, wait_until
from tests.support.throwaway import CRON_PATH, ThrowawayHost


@pytest.fixture
def host() -> Iterator[DoubtHost]:
    """Yield one that has not booted."""
    need_postfix("lmdb")
    need("systemd", Path(SYSTEMD).exists())
    with ThrowawayHost() as throwaway:
        mounted = throwaway.run("mkdir /tmp/try; mount -t cgroup2 none /tmp/try && umount /tmp/try && echo yes || true")
        need("control groups (version 2) that can be mounted", mounted)
        made = DoubtHost(throwaway)
        made.put_units()
        try:
            yield made
        finally:
            throwaway.run(f"{BOOT} [ ! -e /booted ] || end_boot")


def test_boot(host: DoubtHost) -> None:
    """Before Postfix answers anybody, the table is switched, by the owner of the directory; once in a boot."""
    host.boot("postfix.service")
    assert wait_until(host.postfix_runs, pause=0.1)
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


def test_boot_without_a_table(host: DoubtHost) -> None:
    """Where syncagent has published nothing, the unit is passed over, and no error."""
    host.host.run(f"rm {DIRECTORY}/doubt-all*")
    host.boot()
    assert "inactive" in host.booted("systemctl is-active syncagent-doubt-boot.service || true")
    assert host.booted("systemctl --failed --no-legend --plain") == ""


def test_the_timer(host: DoubtHost) -> None:
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


def test_the_sandbox_is_in_force(host: DoubtHost) -> None:
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


def test_syslog(host: DoubtHost) -> None:
    """Under cron it writes nothing to be sent as mail: the line is in syslog, with the facility of mail."""
    host.boot()
    host.publish(age=LIMIT + 5)
    cron = f"env -i PATH={CRON_PATH} SHELL=/bin/sh /bin/sh -c '/opt/syncagent/libexec/doubt-switch.sh {DIRECTORY} 2>&1'"
    assert host.booted(cron) == ""
    assert host.mark == ["dead", "syncagent"]

    def logged() -> list[str]:
        return host.booted("journalctl --no-pager -o cat -p err -t doubt-switch SYSLOG_FACILITY=2").splitlines()

    assert wait_until(lambda: len(logged()) == 1, PATIENCE, pause=0.1), logged()


# --- on Debian 12 and 13

STARTS_POSTFIX = re.compile(r"^ExecStart\w*=.*\b(?:postfix|postmulti)\b.*\bstart", re.MULTILINE)
ASK = r"""
exec 3<>/dev/tcp/127.0.0.1/25
for line in '' 'HELO client.example.net' 'MAIL FROM:<>' 'RCPT TO:<known@example.com>' \
    'RCPT TO:<unknown@example.com>' 'RCPT TO:<anybody@example.net>'; do
    [ ! "$line" ] || printf '%s\r\n' "$line" >&3
    read -r code rest <&3
    case $line in RCPT*) printf '%s ' "$code" ;; esac
done
echo
"""
"""bash: print the codes of the answers to a known, an unknown and a foreign recipient."""


def _prepare(host: Debian) -> None:
    """Install Postfix, the table of doubt and the units, and enable them."""
    host.works("echo 'postfix postfix/main_mailer_type select No configuration' | debconf-set-selections")
    host.works("apt-get install --no-install-recommends postfix postfix-lmdb systemd")
    host.works(f"useradd --system syncagent; mkdir -p {DIRECTORY} /opt/syncagent/libexec /sd/sysinit.target.wants")
    files = {
        "/etc/postfix/main.cf": f"compatibility_level = 3.6\nmydestination =\ninet_interfaces = 127.0.0.1\n"
        f"smtpd_relay_restrictions = reject_unauth_destination\n{FORM_C}",
        "/ask": ASK,
        "/opt/syncagent/libexec/doubt-switch.sh": SCRIPT.read_text("utf-8"),
        f"{DIRECTORY}/relay_recipients": "known@example.com OK\n",
        f"{DIRECTORY}/doubt": TABLE,
        f"{DIRECTORY}/doubt-all": ALL,
        **{f"/sd/{unit.name}": unit.read_text("utf-8") for unit in UNITS.glob("syncagent-doubt*")},
    }
    for path, text in files.items():
        (host.root / path.lstrip("/")).write_text(text, "utf-8")
    host.works("chmod 0755 /opt/syncagent/libexec/doubt-switch.sh; touch -d '1 minute ago' /etc/postfix/main.cf")
    host.works(f"cd {DIRECTORY}; for name in relay_recipients doubt doubt-all; do postmap lmdb:$name; done")
    host.works(f"chown -R syncagent: {DIRECTORY}; touch -d '1 minute ago' {DIRECTORY}/doubt-all*")
    host.works(
        "ln -s ../syncagent-doubt-boot.service /sd/sysinit.target.wants; cp /usr/lib/systemd/system/postfix* /sd"
    )
    host.works("for each in /usr/lib/systemd/system-generators/postfix*; do [ ! -x $each ] || $each /sd /sd /sd; done")


@pytest.mark.proof
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("release", RELEASES)
def test_debian(release: str, record_property: Callable[[str, object], None]) -> None:
    """Each unit that starts Postfix comes after the switch: by the unit files, and when it boots for real."""
    with debian(release) as host:
        _prepare(host)
        units = [unit for unit in (host.root / "usr/lib/systemd/system").glob("*.service") if not unit.is_symlink()]
        starting = {unit.name: text for unit in units if STARTS_POSTFIX.search(text := unit.read_text("utf-8"))}
        assert starting
        for name, text in starting.items():
            assert not re.search(r"^(DefaultDependencies|Before=.*sysinit)", text, re.MULTILINE), name
        instance = "postfix" if "postfix.service" in starting else "postfix@-"  # Debian 12: that is /bin/true
        host.works("systemd-analyze verify --man=no /sd/syncagent-doubt*")
        times = "systemctl show -P {1}TimestampMonotonic {0}.service"
        said = host.works(
            f"{BOOT}\nboot postfix.service\n"
            f"booted {times.format('syncagent-doubt-boot', 'ActiveEnter')}\n"
            f"booted {times.format(instance, 'InactiveExit')}\n"
            f"tries=600; until postfix status 2>/dev/null; do sleep 0.1; tries=$((tries - 1)); [ $tries != 0 ]; done\n"
            f"cat {DIRECTORY}/doubt-switched; bash /ask\n"
            f"mv {DIRECTORY}/doubt {DIRECTORY}/doubt-all; cp -p {DIRECTORY}/doubt.lmdb {DIRECTORY}/doubt-all.lmdb\n"
            f"booted systemctl restart postfix.service; ls {DIRECTORY}/doubt-all.lmdb\n"
            "end_boot",
            network=False,
        )
        switched, postfix, mark, codes, *_ = said.splitlines()
        assert 0 < int(switched) < int(postfix)
        assert mark.endswith(" boot")
        assert codes.split()[:3] == ["250", "450", "554"]
        record_property("figures", f"{', '.join(starting)} after the switch; 450 in the first session")
