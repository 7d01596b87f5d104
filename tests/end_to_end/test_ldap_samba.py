"""A part of an Active Directory that the account may no longer see: nobody is lost; real Samba."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.sources import map_keys, write_config
from tests.support.run import syncagent
from tests.support.samba import ACCOUNT, PASSWORD, PEOPLE, SUFFIX, Samba, contact, unit

pytestmark = pytest.mark.proof

COUNT, UNIT_COUNT = 970, 30
UNIT = f"OU=sales,{PEOPLE}"
IN_UNIT = [f"CN=s{number},{UNIT}" for number in range(UNIT_COUNT)]
MIXED = f"OU=mixed,{SUFFIX}"
MIXED_UNIT = f"OU=sales,{MIXED}"
EVERYBODY = sorted(
    [f"p{number}@example.com" for number in range(COUNT)] + [f"s{number}@example.com" for number in range(UNIT_COUNT)]
)


@pytest.fixture(scope="module")
def samba() -> Iterator[Samba]:
    """A thousand people, thirty of them in a unit of their own; and two domains that share a unit."""
    server = Samba()
    server.add([unit(PEOPLE), unit(UNIT), unit(MIXED), unit(MIXED_UNIT)])
    server.add(contact(f"p{number}", PEOPLE) for number in range(COUNT))
    server.add(contact(f"s{number}", UNIT) for number in range(UNIT_COUNT))
    for domain in ("example.net", "example.org"):
        server.add(contact(f"{domain[-3:]}{number}", MIXED, domain) for number in range(88))
        server.add(contact(f"{domain[-3:]}-s{number}", MIXED_UNIT, domain) for number in range(12))
    with server:
        yield server


def configure(samba: Samba, place: Path, base: str, domains: str, limits: str = "") -> None:
    """Write a configuration without grace, and the account's password."""
    password = place / "password"
    password.touch(mode=0o600)
    password.write_text(PASSWORD, "utf-8")
    own = {
        "url": samba.url,
        "insecure": True,
        "preset": "active-directory",
        "base": base,
        "bind_dn": ACCOUNT,
        "password_file": "./password",
        "ignore_references": True,
    }
    lines = [f"{key} = {json.dumps(value)}" for key, value in own.items()]
    write_config(place, "\n".join(['[sources.corp]\ntype = "ldap"', *lines]), domains=domains, limits=limits)


def sync(place: Path) -> dict[str, Any]:
    """Run once, with any exit status; return the result."""
    result = json.loads(syncagent("sync", "--json", config=place / "syncagent.toml").stdout)
    assert isinstance(result, dict)
    return result


@pytest.mark.parametrize("how", ["everything", "addresses"])
def test_a_hidden_unit(how: str, samba: Samba, tmp_path: Path) -> None:
    """Thirty of a thousand that are hidden stay; shown again all are back in the next run."""
    configure(samba, tmp_path, PEOPLE, '"example.com"')
    sync(tmp_path)
    assert sorted(map_keys(tmp_path)) == EVERYBODY
    try:
        if how == "everything":
            samba.hide(UNIT)
        else:
            samba.hide_addresses(IN_UNIT)
        for _ in range(2):
            result = sync(tmp_path)
            assert sorted(map_keys(tmp_path)) == EVERYBODY
            assert result["sources"][0]["entries"] == COUNT
            reasons = {reason["kind"] for hold in result["plan"]["holds"] for reason in hold["reasons"]}
            assert "container" in reasons
    finally:
        samba.show([UNIT, *IN_UNIT])
    result = sync(tmp_path)
    assert (result["plan"]["holds"], result["sources"][0]["entries"]) == ([], COUNT + UNIT_COUNT)
    assert sorted(map_keys(tmp_path)) == EVERYBODY
    samba.delete(IN_UNIT[0])
    try:
        sync(tmp_path)
        assert sorted(map_keys(tmp_path)) == [address for address in EVERYBODY if address != "s0@example.com"]
    finally:
        samba.add([contact("s0", UNIT)])


def test_two_domains(samba: Samba, tmp_path: Path) -> None:
    """Where a unit of one in eight of two domains is hidden neither domain loses anybody."""
    configure(samba, tmp_path, MIXED, '"example.net", "example.org"', "removed_percent = 100")
    sync(tmp_path)
    everybody = sorted(map_keys(tmp_path))
    assert len(everybody) == 200
    try:
        samba.hide(MIXED_UNIT)
        for _ in range(2):
            sync(tmp_path)
            assert sorted(map_keys(tmp_path)) == everybody
    finally:
        samba.show([MIXED_UNIT])
    result = sync(tmp_path)
    assert (result["plan"]["holds"], sorted(map_keys(tmp_path))) == ([], everybody)
