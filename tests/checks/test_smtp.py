"""What `check` hears from a real smtpd: who is taken and who is refused, and no mail is sent."""

from collections.abc import Callable, Iterator

import pytest

from tests.checks import Backup, Findings, problems
from tests.checks.nameserver import RIGHT, Nameserver
from tests.support.need import need_postfix, need_program
from tests.support.ports import free_port
from tests.support.programs import wait_until
from tests.support.run import syncagent


@pytest.fixture(scope="module")
def running() -> Iterator[Backup]:
    """A backup MX that is all right, and runs."""
    need_postfix("lmdb")
    made = Backup.make()
    made.publish()
    with made.postfix:
        yield made


@pytest.fixture(scope="module")
def nameserver(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A DNS server where all is right."""
    need_program("dnsmasq")
    with Nameserver(tmp_path_factory.mktemp("nameserver"), RIGHT) as server:
        yield server.address


@pytest.fixture
def hear(backup: Backup, nameserver: str) -> Callable[[], Findings]:
    """Give what checks, and gives what came of the dialogue."""

    def hear() -> Findings:
        args = ("--smtp", f"127.0.0.1:{backup.postfix.port}", "--dns", nameserver)
        return [one for one in backup.check(*args) if one["check"] == "verdicts"]

    return hear


@pytest.fixture
def backup(running: Backup) -> Iterator[Backup]:
    """Give it, and put it right again after the test."""
    main_cf = running.postfix.config_directory / "main.cf"
    before = main_cf.read_text()
    yield running
    main_cf.write_text(before)
    running.publish()
    running.postfix.set()
    running.postfix.reload()


def test_a_right_one(backup: Backup, hear: Callable[[], Findings], nameserver: str) -> None:
    """Known recipients are taken, others and foreign domains refused; and that is all that is said to it."""
    found = hear()
    assert problems(found) == []
    assert [(one["severity"], one["subject"], one["text"][:27]) for one in found] == [
        ("ok", "example.com", "2 known recipients are take"),
        ("ok", "example.com", "an unknown recipient gets 5"),
        ("ok", "example.org", "2 known recipients are take"),
        ("ok", "example.org", "an unknown recipient gets 5"),
        ("ok", "a foreign domain", "it is refused: 554 5.7.1 <n"),
    ]
    log = backup.postfix.log
    assert "from=<>" in log
    assert "cleanup" not in log
    found = backup.check("--smtp", f"127.0.0.1:{backup.postfix.port}", "--dns", nameserver)
    assert {one["severity"] for one in found} == {"ok"}


def test_450_in_the_first_week(backup: Backup, hear: Callable[[], Findings]) -> None:
    """An unknown recipient that gets the code main.cf says is right, as far as smtpd goes."""
    backup.postfix.set(unknown_relay_recipient_reject_code="450")
    backup.postfix.reload()
    assert problems(hear()) == []


def test_everybody_is_taken(backup: Backup, hear: Callable[[], Findings]) -> None:
    """An unknown recipient that is taken is an error; with main.cf mended, a reload is all that is missing."""
    backup.postfix.set(smtpd_reject_unlisted_recipient="no")
    backup.postfix.reload()
    backup.postfix.set(smtpd_reject_unlisted_recipient="yes")
    found = problems(hear())
    assert {(one["severity"], one["subject"]) for one in found} == {("error", "example.com"), ("error", "example.org")}
    backup.type_in(found[0]["mend"])
    backup.postfix.reload()
    assert problems(hear()) == []


@pytest.mark.parametrize("code", ["550", "450"])
def test_a_known_one_is_refused(code: str, backup: Backup, hear: Callable[[], Findings]) -> None:
    """A recipient that is in the text and unknown to smtpd is an error, and a reload helps."""
    backup.postfix.set(
        relay_recipient_maps="inline:{{nobody@example.com=OK}}", unknown_relay_recipient_reject_code=code
    )
    backup.postfix.reload()
    backup.postfix.set(relay_recipient_maps=backup.postfix.relay_recipient_maps)
    found = [one for one in problems(hear()) if one["severity"] == "error"]
    assert {one["subject"] for one in found} == {
        *("anna@example.com", "ben@example.org", "postmaster@example.com", "postmaster@example.org")
    }
    assert all(code in one["text"] for one in found)
    backup.type_in(found[0]["mend"])
    backup.postfix.reload()
    assert problems(hear()) == []


def test_a_map_that_cannot_be_read(backup: Backup, hear: Callable[[], Findings]) -> None:
    """Where Postfix cannot read the map, every known recipient is an error, and a sync mends it."""
    backup.postfix.map_path.with_suffix(".lmdb").unlink()
    found = problems(hear())
    assert {one["severity"] for one in found if one["subject"] == "anna@example.com"} == {"error"}
    backup.type_in(next(one["mend"] for one in found if one["subject"] == "anna@example.com"))
    backup.postfix.reload()
    assert problems(hear()) == []


def test_a_map_that_came_later(backup: Backup, hear: Callable[[], Findings]) -> None:
    """Where smtpd began before there was a map, what is printed helps: a sync alone, with nothing to do, would not."""
    for path in backup.postfix.map_path.parent.iterdir():
        path.unlink()
    backup.postfix.reload()
    with backup.postfix.client() as client:  # a process that goes on, without the map
        assert client.verdict("anna@example.com").code == 451
        backup.sync()
    mends = [one["mend"] for one in problems(hear()) if one["subject"] == "anna@example.com"]
    backup.type_in(mends[0])
    assert wait_until(lambda: problems(hear()) == [])


def test_we_are_refused(backup: Backup, hear: Callable[[], Findings]) -> None:
    """What is said against who asks is no word about recipients: it is told of, and nothing is reloaded for that."""
    backup.postfix.set(smtpd_helo_restrictions="reject")
    backup.postfix.reload()
    found = problems(hear())
    assert {(one["severity"], one["mend"]) for one in found} == {("warning", "# see the mail log")}
    assert all("Helo command rejected" in one["text"] for one in found)


def test_a_known_one_is_refused_by_a_restriction(backup: Backup, hear: Callable[[], Findings]) -> None:
    """A recipient that is refused by something else than the map is an error, which no reload mends."""
    backup.postfix.set(
        smtpd_recipient_restrictions="check_recipient_access inline:{{anna@example.com=REJECT}}, "
        "reject_unauth_destination"
    )
    backup.postfix.reload()
    (found,) = problems(hear())
    assert (found["severity"], found["subject"]) == ("error", "anna@example.com")
    assert found["mend"] == "# see the mail log"


def test_smtpd_is_misconfigured(backup: Backup, hear: Callable[[], Findings]) -> None:
    """A restriction that smtpd does not know is an error for every recipient."""
    backup.postfix.set(smtpd_recipient_restrictions="no_such_restriction, reject_unauth_destination")
    backup.postfix.reload()
    found = problems(hear())
    assert {(one["severity"], one["mend"]) for one in found if "@" in one["subject"]} == {
        ("error", "# see the mail log")
    }


def test_relaying_for_everybody(backup: Backup, hear: Callable[[], Findings]) -> None:
    """A foreign domain that is taken from a stranger is an error, with the restrictions to have."""
    backup.postfix.set(smtpd_relay_restrictions="check_client_access static:OK, reject_unauth_destination")
    backup.postfix.set(smtpd_recipient_restrictions="", default_transport="discard:")
    backup.postfix.reload()
    (found,) = problems(hear())
    assert (found["severity"], found["subject"]) == ("error", "a foreign domain")
    backup.type_in(found["mend"])
    backup.postfix.reload()
    assert problems(hear()) == []


def test_everybody_is_a_friend(backup: Backup, hear: Callable[[], Findings]) -> None:
    """That a foreign domain is taken from one of mynetworks says a lot where that is everybody."""
    backup.postfix.set(
        mynetworks="0.0.0.0/0",
        default_transport="discard:",
        smtpd_relay_restrictions="permit_mynetworks, reject_unauth_destination",
        smtpd_recipient_restrictions="",
    )
    backup.postfix.reload()
    (found,) = problems(hear())
    assert (found["severity"], found["subject"]) == ("error", "a foreign domain")
    backup.type_in(found["mend"])
    backup.postfix.reload()
    assert problems(hear()) == []


def test_asked_from_a_friend(backup: Backup, hear: Callable[[], Findings]) -> None:
    """That a foreign domain is taken from one of mynetworks says nothing, and that is said."""
    backup.postfix.set(
        mynetworks="127.0.0.0/8 [::1]/128",
        default_transport="discard:",
        smtpd_relay_restrictions="permit_mynetworks, reject_unauth_destination",
        smtpd_recipient_restrictions="",
    )
    backup.postfix.reload()
    found = hear()
    assert problems(found) == []
    assert [one["subject"] for one in found if one["severity"] == "skipped"] == ["a foreign domain"]


def test_many_domains_and_an_impatient_smtpd(backup: Backup, hear: Callable[[], Findings]) -> None:
    """Where smtpd hangs up after some refusals, the dialogue goes on in sessions of its own."""
    names = [f"d{number:02}.example.com" for number in range(30)]
    backup.configure("relay_domains", ["example.com", "example.org", *names])
    backup.add(*(f"postmaster@{name}" for name in names))
    backup.sync()
    backup.postfix.set(
        relay_domains=", ".join(["example.com", "example.org", *names]),
        smtpd_hard_error_limit="20",
        smtpd_soft_error_limit="10",
        smtpd_error_sleep_time="1s",
    )
    backup.postfix.reload()
    found = hear()
    assert problems(found) == []
    assert [one["text"] for one in found if one["severity"] == "skipped"] == ["7 more domains are not asked about"]


def test_nobody_there(backup: Backup, nameserver: str) -> None:
    """An smtpd that was named and does not answer is an error; the usual one is not there on every host."""
    closed = free_port()
    args = ("--dns", nameserver, "--json")
    done = syncagent("check", "--smtp", f"127.0.0.1:{closed}", *args, config=backup.file, check=1)
    assert "no dialogue with it" in done.stdout
    assert f"127.0.0.1:{closed}" in done.stdout


@pytest.mark.parametrize("value", ["", ":25", "127.0.0.1:", "127.0.0.1:x", "127.0.0.1:0", "127.0.0.1:65536", "[::1]x"])
@pytest.mark.parametrize("option", ["--smtp", "--dns"])
def test_no_server(option: str, value: str) -> None:
    """What is no HOST[:PORT] is a wrong command line."""
    done = syncagent("check", option, value, check=64)
    assert "expected HOST or HOST:PORT" in done.stderr
