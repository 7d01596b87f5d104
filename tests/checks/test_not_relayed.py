"""A domain with recipients in the sources whose MX leads here, and that is not relayed: its mail is refused."""

import json
import os
import random
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import msgspec
import pytest

from syncagent.state import status
from syncagent.state.not_relayed import MOST, NotRelayed, candidates
from tests.checks import Backup, Findings
from tests.checks.nameserver import HERE, RIGHT, Nameserver
from tests.support.agent import Agent
from tests.support.need import need, need_program, need_root
from tests.support.programs import wait_until
from tests.support.run import syncagent

FOREIGN = ("mx-host=foreign.example,primary.example.com,10", f"mx-host=foreign.example,{HERE},20")
ELSEWHERE = ("mx-host=foreign.example,primary.example.com,10",)
ID = "domain-not-relayed"


@pytest.fixture
def backup(backup: Backup) -> Backup:
    """A backup MX with two recipients of a domain that it does not relay."""
    need_program("dnsmasq")
    backup.postfix.set(inet_interfaces="all")
    backup.add("anna@foreign.example", "bo@foreign.example", "carl@third.example")
    backup.sync()
    return backup


def asked(backup: Backup, records: Sequence[str], *options: str) -> Findings:
    """Run the check with a DNS server that has these records; give its findings."""
    with Nameserver(backup.directory, (*RIGHT, *records)) as server:
        found = backup.check("--dns", server.address, *options)
    return [one for one in found if one["check"] == ID]


def only(found: Findings) -> tuple[str, str]:
    """Return severity and subject of the one finding."""
    (one,) = found
    return one["severity"], one["subject"]


def test_its_mx_is_here(backup: Backup) -> None:
    """An error with the key to set, and nothing once it is set."""
    (found,) = asked(backup, FOREIGN)
    assert (found["severity"], found["subject"]) == ("error", "foreign.example")
    assert found["text"].startswith(
        f"the sources have 2 recipients in it, and its MX {HERE} is this host, but it is not"
    )
    relay, exclude = found["remedies"]
    assert relay["write"] == 'relay_domains = ["example.com", "example.org", "foreign.example"]'
    assert exclude["write"] == 'exclude = ["@foreign.example"]'
    backup.configure("relay_domains", json.loads(relay["write"].partition("= ")[2]))
    assert only(asked(backup, FOREIGN)) == ("ok", "")


def test_its_mx_is_elsewhere(backup: Backup) -> None:
    """Sources have addresses of many domains: only those whose mail comes here matter."""
    assert only(asked(backup, ELSEWHERE)) == ("ok", "")
    assert only(asked(backup, ())) == ("ok", "")


def test_by_the_address_of_its_mx(backup: Backup) -> None:
    """Another name of this host; a name of the loopback address is no host's."""
    backup.postfix.set(proxy_interfaces="192.0.2.77")
    other = "mx-host=foreign.example,other.example.net,10"
    assert only(asked(backup, (other, "host-record=other.example.net,192.0.2.77"))) == ("error", "foreign.example")
    assert only(asked(backup, (other, "host-record=other.example.net,127.0.0.1"))) == ("ok", "")
    assert only(asked(backup, (other, "host-record=other.example.net,192.0.2.78"))) == ("ok", "")


def _excluded(backup: Backup) -> None:
    backup.configure("exclude", ["@foreign.example"])


def _delivered_here(backup: Backup) -> None:
    backup.postfix.set(mydestination="foreign.example")


def _by_another_table(backup: Backup) -> None:
    own = backup.postfix.relay_recipient_maps
    backup.postfix.set(
        relay_domains="example.com, example.org, foreign.example",
        relay_recipient_maps=f"{own}, inline:{{anna@foreign.example=OK}}",
    )


def _without_a_table(backup: Backup) -> None:
    backup.postfix.set(relay_domains="example.com, example.org, foreign.example", relay_recipient_maps="")


def _no_mail_comes(backup: Backup) -> None:
    backup.postfix.set(inet_interfaces="127.0.0.1")


@pytest.mark.parametrize("settle", [_excluded, _delivered_here, _by_another_table, _without_a_table, _no_mail_comes])
def test_what_settles_it(backup: Backup, settle: Callable[[Backup], None]) -> None:
    """A person excludes it, Postfix serves it in another way, or this host gets no mail at all."""
    settle(backup)
    assert only(asked(backup, FOREIGN)) == ("ok", "")


def test_relayed_by_postfix_alone(backup: Backup) -> None:
    """In relay_domains of main.cf, with the map as the only table: its recipients are unknown, 550."""
    backup.postfix.set(relay_domains="example.com, example.org, foreign.example")
    assert only(asked(backup, FOREIGN)) == ("error", "foreign.example")


def test_dns_that_is_silent(backup: Backup) -> None:
    """No server answers: it is told, and nothing is claimed."""
    found = backup.check("--dns", "127.0.0.1:1")
    assert only([one for one in found if one["check"] == ID]) == ("skipped", "DNS")


def test_before_the_first_run(backup: Backup) -> None:
    """Without a finished run no domain is known to be out of scope."""
    for file in (backup.directory / "state").glob("state.db*"):
        file.unlink()
    assert only(asked(backup, FOREIGN)) == ("ok", "")


def recorded(backup: Backup, age: float = 60.0) -> None:
    """Have an agent's answer of DNS on record."""
    answer = NotRelayed(time.time() - age, {"foreign.example": HERE, "gone.example": HERE, "example.com": HERE})
    state = status.AgentState(1, 1.0, not_relayed=answer)
    (backup.directory / "state" / status.AGENT_FILE).write_bytes(msgspec.json.encode(state))


def test_offline(backup: Backup) -> None:
    """The recorded answer counts as long as it is young, and of domains that still are out of scope."""
    recorded(backup)
    found = [one for one in backup.check("--offline") if one["check"] == ID]
    assert only(found) == ("error", "foreign.example")
    recorded(backup, age=4 * 86400)
    found = [one for one in backup.check("--offline") if one["check"] == ID]
    assert only(found) == ("ok", "")


def test_status(backup: Backup) -> None:
    """It is an alarm, which ends with the key, without DNS."""
    recorded(backup)
    said = json.loads(syncagent("status", "--json", config=backup.file, check=65).stdout)
    (alarm,) = said["alarms"]
    assert (alarm["kind"], alarm["subject"], alarm["severity"]) == (ID, "foreign.example", "error")
    assert alarm["text"].startswith("foreign.example has 2 recipients in the sources")
    assert said["not_relayed"] == {"foreign.example": HERE}
    backup.configure("relay_domains", ["example.com", "example.org", "foreign.example"])
    assert json.loads(syncagent("status", "--json", config=backup.file).stdout)["not_relayed"] == {}


# The decisions


def test_candidates() -> None:
    """Those with most recipients first, bounded; what a person settled, and what is no domain, is left out."""
    counts = {"a.example": 1, "b.example": 3, "(others)": 9, "c.example": 3, "sub.example.com": 9, "d.example": 2}
    names = candidates(counts, {"example.com"}, ["@d.example", "x@a.example"])
    assert names == ["b.example", "c.example", "a.example"]
    assert len(candidates({f"n{number}.example": 1 for number in range(500)}, (), ())) == MOST


@pytest.mark.parametrize(("age", "is_due"), [(0.0, False), (86399.0, False), (86401.0, True), (-5.0, True)])
def test_once_a_day(age: float, *, is_due: bool) -> None:
    """A question in the future was asked by a wrong clock."""
    assert NotRelayed(1e9 - age).is_due(1e9) is is_due


# The agent, which asks the resolver of its host

_RESOLVER = 'mount --bind "$1" /etc/resolv.conf; shift; exec "$@"'


class _Resolver(Nameserver):
    """A DNS server on port 53 of a loopback address of its own, as a host's resolver."""

    def __init__(self, directory: Path, records: Sequence[str]) -> None:
        super().__init__(directory, records)
        self.host = f"127.{random.randint(1, 250)}.{random.randint(1, 250)}.{random.randint(1, 250)}"  # noqa: S311 - no secret
        self.port = 53


@pytest.fixture
def resolver(backup: Backup) -> Iterator[_Resolver]:
    """The resolver of the agent's host."""
    need_root()
    unshare = need_program("unshare")
    need("a mount namespace of one's own", os.system(f"{unshare} -m true 2>/dev/null") == 0)  # noqa: S605 - ours
    with _Resolver(backup.directory, (*RIGHT, *FOREIGN)) as server:
        yield server


def test_the_agent_asks_once_a_day(backup: Backup, resolver: _Resolver) -> None:
    """It raises the alarm by itself, tells it in the metrics, and does not ask again when it is started again."""
    resolv = backup.directory / "resolv.conf"
    resolv.write_text(f"nameserver {resolver.host}\n")
    metrics = backup.directory / "m.prom"
    with backup.file.open("a") as file:
        file.write(f'[metrics]\ntextfile = "{metrics}"\n[schedule]\nevery = "1h"\n')
    command = ("unshare", "-m", "sh", "-c", _RESOLVER, "sh", str(resolv), sys.executable, "-m", "syncagent")
    with Agent(backup.file, command=command) as agent:
        alarm = agent.wait("needs a person", kind=ID)
        assert alarm["subject"] == "foreign.example"
        line = 'syncagent_domain_not_relayed{domain="foreign.example"} 1.0'
        assert wait_until(lambda: line in metrics.read_text())
        assert agent.events("run")[-1]["why"] == "MX records changed"
    assert status.read_agent(backup.directory / "state").not_relayed.domains == {"foreign.example": HERE}  # type: ignore[union-attr]
    resolver.close()
    with Agent(backup.file, command=command) as agent:
        assert agent.wait("needs a person", kind=ID)["subject"] == "foreign.example"
        backup.configure("relay_domains", ["example.com", "example.org", "foreign.example"])
        agent.wait("recovered", kind=ID)
        assert agent.events("DNS gives no answer") == []


def test_a_resolver_that_is_dead(backup: Backup, resolver: _Resolver) -> None:
    """No run waits for it, and it is told once."""
    resolver.close()
    resolv = backup.directory / "resolv.conf"
    resolv.write_text(f"nameserver {resolver.host}\n")
    command = ("unshare", "-m", "sh", "-c", _RESOLVER, "sh", str(resolv), sys.executable, "-m", "syncagent")
    with Agent(backup.file, command=command) as agent:
        agent.wait("DNS gives no answer")
        mark = agent.mark
        backup.add("new@example.com")
        agent.wait("published", after=mark)
        assert len(agent.events("DNS gives no answer")) == 1
