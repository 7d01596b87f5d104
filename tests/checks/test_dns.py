"""What `check` says of MX records, asked from a real DNS server on loopback; and the records it has one add."""

import json
import socket
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import pytest

from tests.checks import Backup, Findings, problems
from tests.checks.nameserver import ADDRESS, COM, HERE, ORG, PRIMARY, RIGHT, Nameserver
from tests.support.need import need_postfix, need_program
from tests.support.programs import allowed
from tests.support.run import syncagent


@dataclass(frozen=True)
class Case:
    """The records of example.com and of this host, and what is found; `gone`: records that the mend is in place of."""

    records: Sequence[str]
    severity: str
    subject: str
    text: str
    mend: Sequence[str]
    gone: Sequence[str] = field(default_factory=tuple)


BEHIND = f"example.com. IN MX 20 {HERE}."
CASES = {
    "no record at all": Case(
        ADDRESS,
        "error",
        "example.com",
        "it has no MX record",
        ["example.com. IN MX 10 THE.PRIMARY.", BEHIND],
    ),
    "no record, and an address": Case(
        (*ADDRESS, "host-record=example.com,192.0.2.7"),
        "error",
        "example.com",
        "the primary would get none",
        ["example.com. IN MX 10 example.com.", BEHIND],
    ),
    "another host's": Case(
        (
            *ADDRESS,
            "mx-host=example.com,primary.example.com,30",
            "mx-host=example.com,old.example.com,40",
            "host-record=old.example.com,192.0.2.9",
        ),
        "error",
        "example.com",
        "no MX leads to this host, backup.example.net: it has 30 primary.example.com, 40 old.",
        [f"example.com. IN MX 50 {HERE}."],
    ),
    "another host's, and no address of ours": Case(
        ("mx-host=example.com,primary.example.com,10",),
        "error",
        "example.com",
        "no MX leads to this host",
        [BEHIND, f"{HERE}. IN A 127.0.0.1"],
    ),
    "a CNAME": Case(
        (
            "mx-host=example.com,primary.example.com,10",
            f"mx-host=example.com,{HERE},20",
            f"cname={HERE},real.example.net",
            "host-record=real.example.net,127.0.0.1",
        ),
        "error",
        HERE,
        "a CNAME of real.example.net., which it must not be",
        [f"{HERE}. IN A 127.0.0.1"],
        gone=[f"cname={HERE},real.example.net"],
    ),
    "a CNAME of another MX": Case(
        (
            *ADDRESS,
            f"mx-host=example.com,{HERE},20",
            "mx-host=example.com,mail.example.com,10",
            "cname=mail.example.com,primary.example.com",
        ),
        "warning",
        "mail.example.com",
        "the MX of example.com is a CNAME",
        ["example.com. IN MX 10 primary.example.com."],
        gone=["mx-host=example.com,mail.example.com,10"],
    ),
    "no address": Case(
        COM,
        "error",
        HERE,
        "it is what an MX names, and has neither A nor AAAA",
        [f"{HERE}. IN A 127.0.0.1"],
    ),
    "no address of the primary": Case(
        (*ADDRESS, "mx-host=example.com,gone.example.com,10", f"mx-host=example.com,{HERE},20"),
        "error",
        "gone.example.com",
        "the MX of example.com has neither A nor AAAA",
        ["gone.example.com. IN A ITS.ADDRESS"],
    ),
    "no address of one of the primary's": Case(
        (*COM, *ADDRESS, "mx-host=example.com,gone.example.com,15"),
        "warning",
        "gone.example.com",
        "the MX of example.com has neither A nor AAAA",
        ["gone.example.com. IN A ITS.ADDRESS"],
    ),
    "the best preference": Case(
        (*ADDRESS, "mx-host=example.com,primary.example.com,10", f"mx-host=example.com,{HERE},5"),
        "warning",
        "example.com",
        "mail comes here first",
        [BEHIND],
        gone=[f"mx-host=example.com,{HERE},5"],
    ),
    "the only one": Case(
        (*ADDRESS, f"mx-host=example.com,{HERE},20"),
        "warning",
        "example.com",
        "is its only MX",
        ["example.com. IN MX 10 THE.PRIMARY."],
    ),
    "no mail (RFC 7505)": Case(
        (*ADDRESS, "dns-rr=example.com,15,000000"),
        "error",
        "example.com",
        "it takes no mail",
        ["example.com. IN MX 10 THE.PRIMARY.", BEHIND],
        gone=["dns-rr=example.com,15,000000"],
    ),
    "an address that is not ours": Case(
        (*COM, f"host-record={HERE},192.0.2.66"),
        "warning",
        HERE,
        "none of its addresses",
        ["postconf -c DIR -e 'proxy_interfaces = 192.0.2.66'"],
    ),
}


@pytest.fixture
def backup() -> Iterator[Backup]:
    """A backup MX that is all right; its Postfix does not run."""
    need_postfix("lmdb")
    need_program("dnsmasq")
    made = Backup.make()
    made.publish()
    yield made
    made.postfix.stop()


def about_dns(backup: Backup, records: Sequence[str]) -> Findings:
    """Check with a server that knows these records; give what is said of MX records."""
    with Nameserver(backup.postfix.directory, records) as server:
        return said(backup, server)


def said(backup: Backup, server: Nameserver) -> Findings:
    """Check with a server; give what is said of MX records."""
    return [one for one in backup.check("--dns", server.address) if one["check"] == "mx-records"]


def as_records(backup: Backup, mend: str) -> list[str]:
    """Turn a zone file's lines to dnsmasq's options; a command is typed."""
    found = []
    for line in mend.splitlines():
        if line.startswith("postconf"):
            backup.type_in(line)
        elif not line.startswith(";"):
            by_person = line.replace("THE.PRIMARY", "primary.example.com").replace("ITS.ADDRESS", "192.0.2.1")
            name, _, kind, *rest = by_person.split()
            values = [word.removesuffix(".") for word in rest[::-1]]
            found.append(
                f"{'mx-host' if kind == 'MX' else 'host-record'}={','.join([name.removesuffix('.'), *values])}"
            )
    return found


def test_right_records(backup: Backup) -> None:
    """An MX behind the primary's that leads here is right."""
    found = about_dns(backup, RIGHT)
    assert problems(found) == []
    assert [one["text"] for one in found] == [f"MX 20 {HERE}, behind 10 primary.example.com"] * 2


def test_an_equal_preference(backup: Backup) -> None:
    """A preference equal to the primary's is right."""
    equal = [f"mx-host=example.com,{HERE},10", "mx-host=example.com,primary.example.com,10"]
    assert problems(about_dns(backup, [*PRIMARY, *ADDRESS, *ORG, *equal])) == []


@pytest.mark.parametrize("name", CASES)
def test_records(name: str, backup: Backup) -> None:
    """What is wrong with a domain's records is said, with the records to add, and these make it right."""
    case = CASES[name]
    records = [*PRIMARY, *ORG, *case.records]
    found = [one for one in problems(about_dns(backup, records)) if one["subject"] == case.subject]
    assert [(one["severity"], case.text in one["text"]) for one in found[:1]] == [(case.severity, True)], found
    wanted = [line.replace("DIR", str(backup.postfix.config_directory)) for line in case.mend]
    assert [line for line in found[0]["mend"].splitlines() if not line.startswith(";")] == wanted
    added = as_records(backup, found[0]["mend"])
    assert problems(about_dns(backup, [*(one for one in records if one not in case.gone), *added])) == []


def test_all_interfaces(backup: Backup) -> None:
    """With inet_interfaces = all, whatever address the host has is its own; other hosts' are not."""
    backup.postfix.set(inet_interfaces="all", myhostname="unknown.example.net")
    assert problems(about_dns(backup, RIGHT)) == []
    elsewhere = [*PRIMARY, *ORG, *COM, f"host-record={HERE},192.0.2.66"]
    assert [one["severity"] for one in problems(about_dns(backup, elsewhere))] == ["error", "error"]


def test_behind_nat(backup: Backup) -> None:
    """An address in proxy_interfaces is this host's, whatever the name."""
    backup.postfix.set(inet_interfaces="127.0.0.1", myhostname="inside.example.net", proxy_interfaces="192.0.2.66")
    records = [*PRIMARY, *ORG, *COM, f"host-record={HERE},192.0.2.66"]
    assert problems(about_dns(backup, records)) == []


@pytest.mark.parametrize("value", ["loopback-only", "localhost"])
def test_loopback_only(value: str, backup: Backup) -> None:
    """A Postfix that listens on loopback only gets no mail, whatever DNS says; and that is all that is said."""
    backup.postfix.set(inet_interfaces=value)
    (found,) = problems(about_dns(backup, RIGHT))
    assert (found["severity"], found["subject"]) == ("error", "inet_interfaces")
    backup.type_in(found["mend"])
    assert problems(about_dns(backup, RIGHT)) == []


class Refusing(Nameserver):
    """A server that serves nobody."""

    everything = "no-poll"


def test_a_server_that_knows_nothing_of_it(backup: Backup) -> None:
    """A server that refuses the question is told of, once, and nothing is concluded from that."""
    with Refusing(backup.postfix.directory, []) as server:
        found = said(backup, server)
    assert [(one["severity"], one["subject"]) for one in found] == [("warning", "DNS")]


class Lame(Nameserver):
    """A server that serves some zones, and refuses what is asked of others."""

    everything = "local=/example.net/\nlocal=/example.org/"


ONE_UNKNOWN = {("warning", "example.com"), ("error", "example.org")}


def test_a_domain_that_is_not_served(backup: Backup) -> None:
    """A domain whose servers refuse the question is told of, and the others are looked at."""
    records = [*ADDRESS, "mx-host=example.org,mail.example.org,10", "host-record=mail.example.org,192.0.2.1"]
    with Lame(backup.postfix.directory, records) as server:
        found = said(backup, server)
    assert {(one["severity"], one["subject"]) for one in found} == ONE_UNKNOWN
    assert "REFUSED" in next(one["text"] for one in found if one["subject"] == "example.com")
    assert as_records(backup, found[0]["mend"]) == [f"mx-host=example.org,{HERE},20"]


@pytest.mark.parametrize("ours", [(), (f"mx-host=example.com,{HERE},20",)])
def test_a_target_that_is_not_served(ours: Sequence[str], backup: Backup) -> None:
    """An MX that leads to a name that is not answered for is told of, and nothing is concluded from it."""
    with Lame(backup.postfix.directory, [*ADDRESS, "mx-host=example.com,primary.example.com,10", *ours]) as server:
        found = said(backup, server)
    assert {(one["severity"], one["subject"]) for one in found} == {
        ("warning", "primary.example.com"),
        ("error", "example.org"),
    }


def test_a_domain_whose_servers_are_silent(backup: Backup) -> None:
    """A resolver that waits in vain for the servers of one domain is asked for the others."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as silent:
        silent.bind(("127.0.0.1", 0))
        records = [*ADDRESS, f"server=/example.com/127.0.0.1#{silent.getsockname()[1]}"]
        with Lame(backup.postfix.directory, records) as server:
            found = said(backup, server)
    assert {(one["severity"], one["subject"]) for one in found} == ONE_UNKNOWN


def test_no_answer(backup: Backup) -> None:
    """A server that is silent is waited for once, and told of."""
    started = time.monotonic()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as silent:
        silent.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{silent.getsockname()[1]}"
        found = [one for one in backup.check("--dns", address) if one["check"] == "mx-records"]
    assert [(one["severity"], one["subject"]) for one in found] == [("warning", "DNS")]
    assert f"{address} gives no answer" in found[0]["text"]
    assert time.monotonic() - started < allowed(20)


def test_what_comes_then(backup: Backup) -> None:
    """After a change of inet_interfaces a reload is not enough, and what is enough is to be typed."""
    backup.postfix.set(inet_interfaces="loopback-only")
    with Nameserver(backup.postfix.directory, RIGHT) as server:
        done = syncagent("check", "--dns", server.address, "--json", config=backup.file, check=1)
    command = f"postfix -c {backup.postfix.config_directory}"
    assert json.loads(done.stdout)["then"] == f"{command} stop && {command} start"


def test_offline(backup: Backup) -> None:
    """With --offline nothing is asked, and that is said."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as silent:
        silent.bind(("127.0.0.1", 0))
        silent.settimeout(0)
        found = backup.check("--offline", "--dns", f"127.0.0.1:{silent.getsockname()[1]}")
        with pytest.raises(BlockingIOError):
            silent.recv(1)
    assert [one["subject"] for one in found if one["severity"] == "skipped"] == ["DNS", "SMTP"]
    assert problems(found) == []
