"""The README's and the Makefile's commands, as typed, on a Debian that has nothing but its base system."""

import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.debian import RELEASES, ROOT, Debian, debian, user_id

pytestmark = [pytest.mark.proof, pytest.mark.timeout(3600)]

CHECKOUT = "/root/syncagent"
README, OPERATIONS = (ROOT / name for name in ("README.md", "contrib/docs/operations.md"))
MAIN_CF = "cp --no-clobber /usr/share/postfix/main.cf.debian /etc/postfix/main.cf"
DEMO = ("with 250 Ok", "with 550 5.1.1", "unchanged")
Figures = Callable[[str, object], None]


@pytest.fixture(params=RELEASES)
def fresh(request: pytest.FixtureRequest) -> Iterator[Debian]:
    """A Debian in which make and git were installed, and no Python."""
    with debian(request.param) as made:
        made.works("apt-get install make git")
        assert not made.installed("python3")
        yield made


def block(page: Path, start: str) -> list[str]:
    """Return the lines of a page's first block of shell commands with this start."""
    found: list[str] = re.findall(r"^```sh\n(.*?)^```$", page.read_text("utf-8"), re.MULTILINE | re.DOTALL)
    return next(lines for lines in found if lines.startswith(start)).splitlines()


def listening(said: str) -> list[str]:
    """Return the addresses in /proc/net/tcp that somebody listens at."""
    rows = [line.split() for line in said.splitlines() if re.match(r" *\d+: ", line)]
    return [row[1] for row in rows if row[3] == "0A"]


def demonstrated(said: str) -> None:
    """Assert that the demo came to its end."""
    for words in DEMO:
        assert words in said, said


def configured(host: Debian) -> None:
    """Do what `init` leaves to a person: name the domains and the recipients."""
    host.works("syncagent init </dev/null")
    file = host.root / "etc/syncagent/syncagent.toml"
    text, count = re.subn(
        r"^relay_domains = .*$",
        'relay_domains = ["example.com", "example.org"]',
        file.read_text("utf-8"),
        flags=re.MULTILINE,
    )
    assert count == 1
    file.write_text(text, "utf-8")
    recipients = "postmaster@example.com\npostmaster@example.org\n"
    (host.root / "etc/syncagent/recipients").write_text(recipients, "utf-8")


def answers(host: Debian) -> None:
    """Give Postfix a main.cf and type the README's commands from `check` on, the last of which asks the map.

    Nothing but loopback is there, and Postfix runs only as long as this.
    """
    lines = [*block(README, MAIN_CF), *block(README, "runuser -u syncagent -- syncagent check")]
    assert "postfix start" in lines
    offline = [line.replace("syncagent check", "syncagent check --offline") for line in lines]
    said = host.works("\n".join([*offline, "echo sockets", "cat /proc/net/tcp"]), network=False)
    before, _, sockets = said.partition("\nsockets\n")
    assert before.splitlines()[-1] == "OK", before
    assert any(address.endswith(":0019") for address in listening(sockets)), "now it listens, and it was told to"


def test_demo_and_then_by_hand(fresh: Debian, record_property: Figures) -> None:
    """`make demo` by root installs what it needs and starts nothing; the README's installation then works."""
    fresh.check_out(CHECKOUT)
    said = fresh.works("make demo && cat /proc/net/tcp && ls /proc/*/exe -l", directory=CHECKOUT)
    demonstrated(said)
    assert "The map is lmdb:" in said
    assert MAIN_CF in said, "the remedy is named"
    assert "postfix/sbin/master" not in said, "nothing was started"
    assert not (fresh.root / "etc/postfix/main.cf").exists()
    for line in block(README, "apt-get install postfix-lmdb python3-venv\npython3 -m venv"):
        fresh.works(line, directory=CHECKOUT)
    configured(fresh)
    named = fresh.type("runuser -u syncagent -- syncagent check --offline").said
    assert MAIN_CF in named
    answers(fresh)
    record_property("figures", "demo, README by hand, smtpd listens")


def test_make_install(fresh: Debian, record_property: Figures) -> None:
    """On a host whose Postfix has no main.cf `make install` and what it prints to type end with a map that answers."""
    fresh.check_out(CHECKOUT)
    for line in block(OPERATIONS, "apt-get install postfix-lmdb python3-venv make"):
        if line.startswith("apt-get"):
            # Without this, Debian's package would start a Postfix on this host's port 25 from within the chroot.
            fresh.works("echo 'postfix postfix/main_mailer_type select No configuration' | debconf-set-selections")
        fresh.works(line, directory=CHECKOUT)
    fresh.works("systemd-sysusers syncagent.conf || useradd -r -d /var/lib/syncagent -s /usr/sbin/nologin syncagent")
    fresh.works("systemd-tmpfiles --create syncagent.conf || install -d -o syncagent -g syncagent /var/lib/syncagent")
    fresh.works("install -d /etc/syncagent")
    configured(fresh)
    answers(fresh)
    again = fresh.works("make install", directory=CHECKOUT)
    assert "try-restart" in again
    record_property("figures", "make install twice, smtpd listens")


def test_an_ordinary_user(fresh: Debian, record_property: Figures) -> None:
    """Without Python the user hears what an administrator has to type; with it the demo works, and without Postfix."""
    fresh.add_user("jo")
    fresh.check_out("/home/jo/syncagent", owner="jo")
    status, said = fresh.type("make demo", user="jo", directory="/home/jo/syncagent")
    assert status != 0
    (remedy,) = re.findall(r"an administrator can run: (\.ci/setup [a-z0-9 -]+)\)", said)
    fresh.works(remedy, directory="/home/jo/syncagent")
    said = fresh.works("make demo", user="jo", directory="/home/jo/syncagent")
    demonstrated(said)
    assert "The map is texthash:" in said
    record_property("figures", f"remedy: {remedy}")


def test_by_root_in_the_checkout_of_another(fresh: Debian, record_property: Figures) -> None:
    """`make demo` by root where the checkout is somebody else's: it works, and the demo's files are the owner's."""
    fresh.add_user("jo")
    fresh.check_out("/home/jo/syncagent", owner="jo")
    demonstrated(fresh.works("make demo", directory="/home/jo/syncagent"))
    owner = user_id(fresh.root, "jo")
    demo = fresh.root / "home/jo/syncagent/.demo"
    assert {path.lstat().st_uid for path in (demo, *demo.rglob("*"))} == {owner}
    demonstrated(fresh.works("make demo", user="jo", directory="/home/jo/syncagent"))
    record_property("figures", "by root, then by the owner")
