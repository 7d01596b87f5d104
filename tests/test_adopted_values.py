"""A map by hand whose values are not OK: smtpd asks the map as an access table too, where values count."""

import itertools
from pathlib import Path

import pytest

from tests.scenario import Scenario, people
from tests.support.need import need_postmap
from tests.support.postmap import postmap_build, postmap_query, settle

VALUES = ("REJECT", "permit", "DUNNO", "x", "550 5.1.1 gone", "user@elsewhere.example", "two words\n  and a third", "1")
KINDS = ("lmdb", "hash", "btree", "cdb", "texthash")


def by_hand(mx: Scenario, kind: str, addresses: set[str]) -> None:
    """Make a map as a person would, each recipient with another value."""
    pairs = zip(sorted(addresses), itertools.cycle(VALUES), strict=False)
    mx.map.write_text("# ours\n" + "".join(f"{address}\t{value}\n" for address, value in pairs), encoding="utf-8")
    settle(mx.map)
    if kind != "texthash":
        postmap_build(mx.postfix_directory, f"{kind}:{mx.map}")


def answers(mx: Scenario, kind: str, addresses: set[str]) -> dict[str, str]:
    """Return what the map has for each of these addresses that it knows, asked through postmap."""
    name = f"{kind}:{mx.map}"
    found = {address: postmap_query(mx.postfix_directory, name, address.encode()) for address in addresses}
    return {address: value.decode() for address, value in found.items() if value is not None}


def adopting(directory: Path, kind: str) -> tuple[Scenario, set[str]]:
    """Return a backup MX with a map by hand of this type, and the recipients in it."""
    need_postmap(kind)
    mx, old = Scenario(directory), people(12)
    mx.postfix = {"map": f"{kind}:{mx.map}", "reload": False}
    by_hand(mx, kind, old)
    return mx, old


@pytest.mark.parametrize("kind", KINDS)
def test_every_key_stays_and_every_value_is_ok(kind: str, tmp_path: Path) -> None:
    """The first run adopts each recipient, whatever its value was; also where the sources have just the same ones."""
    mx, old = adopting(tmp_path, kind)
    before = answers(mx, kind, old)
    assert before.keys() == old
    assert len(set(before.values())) == len(VALUES)
    mx.write("corp", old)
    mx.say("sync")
    assert answers(mx, kind, old) == dict.fromkeys(old, "OK")


@pytest.mark.parametrize("kind", KINDS)
def test_recipients_that_no_source_has(kind: str, tmp_path: Path) -> None:
    """They stay until the guard lets them go, with OK: one with REJECT existed for Postfix as the others did."""
    mx, old = adopting(tmp_path, kind)
    mx.write("corp", people(1, first=100))
    mx.say("sync", code=65)
    expected = old | people(1, first=100)
    assert answers(mx, kind, expected) == dict.fromkeys(expected, "OK")
