"""A part of a directory that the account may no longer see: nobody is lost, and all are back once it may."""

import json
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.sources import map_keys, write_config
from tests.support.faketime import Clock
from tests.support.run import syncagent
from tests.support.slapd import PEOPLE, SUFFIX, SYNC, SYNC_PASSWORD, Slapd

COUNT, UNIT_COUNT = 970, 30
UNIT = f"ou=sales,{PEOPLE}"
MINUTE, HOUR = 60.0, 3600.0
FIRST = f"uid=s0,{UNIT}"
EVERYBODY = sorted(
    [f"p{number}@example.com" for number in range(COUNT)] + [f"s{number}@example.com" for number in range(UNIT_COUNT)]
)


def person(name: str, container: str, domain: str = "example.com") -> str:
    """Return LDIF for a person with one address."""
    return (
        f"dn: uid={name},{container}\nobjectClass: inetOrgPerson\nuid: {name}\ncn: {name}\nsn: {name}\n"
        f"mail: {name}@{domain}\n"
    )


def unit(dn: str) -> str:
    """Return LDIF for an organizational unit."""
    return f"dn: {dn}\nobjectClass: organizationalUnit\nou: {dn.partition(',')[0].partition('=')[2]}\n"


def loaded(entries: list[str]) -> Slapd:
    """Return a slapd that has these entries below its people."""
    server = Slapd()
    server.load(entries)
    return server


@pytest.fixture(scope="module")
def directory() -> Iterator[Slapd]:
    """A thousand people, thirty of them in a unit of their own."""
    entries = [person(f"p{number}", PEOPLE) for number in range(COUNT)]
    entries += [unit(UNIT), *(person(f"s{number}", UNIT) for number in range(UNIT_COUNT))]
    with loaded(entries) as server:
        yield server


@pytest.fixture
def slapd(directory: Slapd) -> Iterator[Slapd]:
    """That directory, put right again after the test."""
    with directory.lent() as server:
        yield server
    directory.modify(FIRST, sn="s0")


@dataclass
class Backup:
    """A backup MX with a list from a directory, without grace unless told otherwise."""

    slapd: Slapd
    place: Path
    domains: str = '"example.com"'
    clock: Clock | None = None

    def configure(self, *, limits: str = "", grace: str = "0s", **keys: Any) -> None:  # noqa: ANN401 - any key of the source
        """Write the configuration."""
        password = self.place / "password"
        password.touch(mode=0o600)
        password.write_text(SYNC_PASSWORD, "utf-8")
        own = {
            "url": self.slapd.url,
            "insecure": True,
            "base": SUFFIX,
            "attributes": ["mail"],
            "bind_dn": SYNC,
            "password_file": "./password",
            **keys,
        }
        lines = [f"{key} = {json.dumps(value)}" for key, value in own.items()]
        source = "\n".join(['[sources.corp]\ntype = "ldap"', *lines])
        file = write_config(self.place, source, domains=self.domains, limits=limits)
        file.write_text(file.read_text("utf-8").replace('removal_grace = "0s"', f'removal_grace = "{grace}"'), "utf-8")

    def run(self) -> tuple[subprocess.CompletedProcess[str], dict[str, Any]]:
        """Run once; return what came of it."""
        env = self.clock.env if self.clock else None
        done = syncagent("sync", "--json", config=self.place / "syncagent.toml", env=env)
        result = json.loads(done.stdout)
        assert isinstance(result, dict)
        return done, result

    def sync(self) -> dict[str, Any]:
        """Run once, with any exit status; return the result."""
        return self.run()[1]

    @property
    def published(self) -> list[str]:
        """What is published."""
        return sorted(map_keys(self.place))

    def reasons(self, result: dict[str, Any]) -> set[str]:
        """Return the kinds of reasons for which something is held."""
        return {reason["kind"] for hold in result["plan"]["holds"] for reason in hold["reasons"]}


def hidden(unit_dn: str, right: str, what: str = "") -> str:
    """Return an access rule by which the sync account has but this right below a unit."""
    return f'access to dn.subtree="{unit_dn}"{what} by dn.exact="{SYNC}" {right} by users read'


ADDRESSES = " attrs=mail"
HIDDEN = {
    "everything": hidden(UNIT, "none"),
    "search denied": hidden(UNIT, "none", ADDRESSES),
    "read denied": hidden(UNIT, "search", ADDRESSES),
}


@pytest.mark.parametrize("how", HIDDEN)
@pytest.mark.parametrize("mode", ["poll", "sync", "sync by changes"])
def test_a_hidden_unit(how: str, mode: str, slapd: Slapd, tmp_path: Path) -> None:
    """Thirty of a thousand that are hidden stay, whatever is denied; shown again all are back in the next run."""
    backup = Backup(slapd, tmp_path)
    keys = {"full_interval": "0s"} if mode == "sync" else {}
    backup.configure(mode=mode.partition(" ")[0], **keys)
    backup.sync()
    assert backup.published == EVERYBODY
    slapd.restart(config=HIDDEN[how])
    slapd.modify(FIRST, sn="changed")  # slapd reports it as deleted
    for _ in range(2):
        result = backup.sync()
        assert backup.published == EVERYBODY
        source = result["sources"][0]
        assert source["state"] == "failing" or "container" in backup.reasons(result), source
    slapd.restart(config="")
    result = backup.sync()
    (source,) = result["sources"]
    assert (source["state"], source["entries"]) == ("whole", COUNT + UNIT_COUNT), source
    assert result["plan"]["holds"] == []
    assert backup.published == EVERYBODY
    slapd.delete(FIRST)  # and whoever really leaves goes
    try:
        backup.sync()
        assert backup.published == [address for address in EVERYBODY if address != "s0@example.com"]
    finally:
        slapd.add(FIRST, uid="s0", mail="s0@example.com")


def test_what_is_shown_again_is_asked_for(slapd: Slapd, tmp_path: Path) -> None:
    """In sync mode a unit that is visible again is noticed though slapd reports no change, and is named."""
    backup = Backup(slapd, tmp_path)
    backup.configure(mode="sync")
    backup.sync()
    slapd.restart(config=HIDDEN["everything"])
    slapd.modify(FIRST, sn="changed")
    (source,) = backup.sync()["sources"]
    assert f"no address is visible below {UNIT} any more" in source["notes"], source
    assert backup.sync()["sources"][0]["state"] == "same"
    slapd.restart(config="")
    (source,) = backup.sync()["sources"]
    assert f"addresses below {UNIT} are visible again" in source["notes"][0], source
    assert backup.sync()["sources"][0]["state"] == "same"


def test_two_domains(tmp_path: Path) -> None:
    """Where a unit of one in eight of two domains is hidden neither domain loses anybody."""
    sales = f"ou=sales,{PEOPLE}"
    entries = [unit(sales)]
    for domain in ("example.com", "example.org"):
        name = domain[-3:]
        entries += [person(f"{name}{number}", PEOPLE, domain) for number in range(88)]
        entries += [person(f"{name}-s{number}", sales, domain) for number in range(12)]
    with loaded(entries) as slapd:
        for mode in ("poll", "sync"):
            (tmp_path / mode).mkdir()
            slapd.restart(config="")
            backup = Backup(slapd, tmp_path / mode, '"example.com", "example.org"')
            backup.configure(mode=mode, full_interval="0s", limits="removed_percent = 100")
            backup.sync()
            everybody = backup.published
            assert len(everybody) == 200
            for rule in (hidden(sales, "none"), hidden(sales, "none", ADDRESSES), hidden(sales, "search", ADDRESSES)):
                slapd.restart(config=rule)
                backup.sync()
                assert backup.published == everybody, rule
            slapd.restart(config="")
            result = backup.sync()
            assert (result["plan"]["holds"], backup.published) == ([], everybody)


def test_a_small_unit_is_asked_for(tmp_path: Path) -> None:
    """Two people in a hidden unit are asked for when their grace ends, and held; whoever really left goes."""
    small, clock = f"ou=small,{PEOPLE}", Clock(HOUR)
    entries = [unit(small), person("a", small), person("b", small)]
    with loaded([*(person(f"p{number}", PEOPLE) for number in range(10)), *entries]) as slapd:
        backup = Backup(slapd, tmp_path, clock=clock)
        backup.configure(mode="poll", grace="1h")
        backup.sync()
        everybody = backup.published
        slapd.restart(config=hidden(small, "none"))
        slapd.delete(f"uid=p0,{PEOPLE}")
        for after in (MINUTE, HOUR / 2):
            clock.step(after)
            assert backup.sync()["plan"]["holds"] == []
            assert backup.published == everybody
        clock.step(HOUR)
        done, result = backup.run()
        (hold,) = result["plan"]["holds"]
        assert [(reason["kind"], reason["subjects"]) for reason in hold["reasons"]] == [("container", [small])]
        assert (done.returncode, hold["count"]) == (65, 2)
        left = [address for address in everybody if address != "p0@example.com"]
        assert backup.published == left
        slapd.restart(config="")
        assert (backup.sync()["plan"]["holds"], backup.published) == ([], left)


def test_an_entry_without_addresses_is_known(tmp_path: Path) -> None:
    """An entry with only sip and x500 values is no stranger to the present phase of a restarted server."""
    with loaded([person(f"p{number}", PEOPLE) for number in range(10)]) as slapd:
        foreign = ["sip:phone@example.com", "x500:/o=example/cn=phone"]
        slapd.add(f"uid=phone,{PEOPLE}", uid="phone", proxyAddresses=foreign)
        backup = Backup(slapd, tmp_path)
        backup.configure(mode="sync", attributes=["mail", "proxyAddresses"])
        backup.sync()
        slapd.add(f"uid=late,{PEOPLE}", uid="late", proxyAddresses=[*foreign, "sip:late@example.com"])
        assert backup.sync()["sources"][0]["notes"] == ["entries changed: 1"]
        slapd.restart(sessionlog=0)
        slapd.delete(f"uid=p0,{PEOPLE}")
        slapd.forget_operations()
        result = backup.sync()
        (source,) = result["sources"]
        assert (source["state"], source["entries"], source["notes"]) == ("whole", 9, ["entries changed: 0"]), source
        assert [operation for operation in slapd.operations() if "nentries=11" in operation] == []
        assert backup.published == [f"p{number}@example.com" for number in range(1, 10)]


def test_people_who_were_hidden_when_everything_was_read(tmp_path: Path) -> None:
    """People whom a present phase names, and whom the list lacks, are asked for at once."""
    with loaded([*(person(f"p{number}", PEOPLE) for number in range(10)), unit(UNIT), person("s0", UNIT)]) as slapd:
        slapd.restart(config=hidden(UNIT, "none"), sessionlog=0)
        backup = Backup(slapd, tmp_path)
        backup.configure(mode="sync")
        backup.sync()
        assert "s0@example.com" not in backup.published
        slapd.restart(config="")
        slapd.delete(f"uid=p0,{PEOPLE}")
        (source,) = backup.sync()["sources"]
        assert "entries called present that it never returned: 1" in source["notes"][0], source
        assert backup.published == [*(f"p{number}@example.com" for number in range(1, 10)), "s0@example.com"]
