"""`syncagent held`: what is held, since when, and by which source it was listed last."""

import json
from pathlib import Path
from typing import Any

import pytest

from syncagent.model import SyncResult
from tests.scenario import HOUR, START, Scenario, people

HELD = 65
DAY = 24 * HOUR


@pytest.fixture(name="mx")
def fixture_mx(tmp_path: Path) -> Scenario:
    """Two domains; 60 of 100 recipients of one are missing, which is held."""
    mx = Scenario(tmp_path, "corp", "branch", relay_domains=["example.com", "example.org"])
    mx.set_clock(START)
    mx.write("corp", people(100))
    mx.write("branch", people(10, "example.org"))
    mx.sync()
    mx.wait(HOUR)
    mx.write("corp", people(40))
    mx.sync(code=HELD)
    return mx


def listed(mx: Scenario, *args: str) -> list[dict[str, Any]]:
    """Return what `held --json` prints."""
    found: list[dict[str, Any]] = json.loads(mx.say("held", "--json", *args).stdout)
    return found


def domain_leaves(directory: Path) -> Scenario:
    """Return a backup whose source no longer reports new.example, and no longer lists its recipient."""
    mx = Scenario(directory)
    mx.postfix = {"domains_map": f"lmdb:{directory / 'relay_domains'}", "allow_domains": ["new.example"]}
    for domains, more in ((", new.example", "b@new.example\n"), ("", "")):
        mx.file("corp").write_text(f"# domains: example.com{domains}\na@example.com\n{more}", "utf-8")
        mx.say("sync", "--accept-incomplete", code=None)
    return mx


def test_all_of_a_hold(mx: Scenario) -> None:
    """Each recipient that would go, with the time since when it is missing and its source."""
    (hold,) = listed(mx)
    gone = sorted(people(100) - people(40))
    assert [entry["entry"] for entry in hold["entries"]] == gone
    assert {(entry["since"], *entry["sources"]) for entry in hold["entries"]} == {(int(START + HOUR), "corp")}
    assert (hold["domain"], hold["count"], hold["kind"]) == ("example.com", 60, "half")
    assert hold["approve"].endswith(f"approve {hold['id']}")
    text = mx.say("held", hold["id"]).stdout
    assert all(address in text for address in gone)
    assert hold["reasons"][0] in text
    assert "further removals still join it" in text


def test_twenty_of_each_are_shown(mx: Scenario) -> None:
    """Without an ID: the first twenty, and the command for all."""
    lines = mx.say("held").stdout.splitlines()
    (hold,) = listed(mx)
    assert sum("@example.com" in line for line in lines) == 20
    assert f"... and 40 more: syncagent held {hold['id']}" in lines


def test_filters(mx: Scenario) -> None:
    """By domain and by source; where nothing is left, that is said."""
    assert len(listed(mx, "--domain", "EXAMPLE.com", "--source", "corp")[0]["entries"]) == 60
    for words in (("--domain", "example.org"), ("--source", "branch")):
        assert listed(mx, *words) == []
        assert mx.say("held", *words).stdout == "nothing is held\n"


def test_an_earlier_id_shows_its_own_set(mx: Scenario) -> None:
    """While a hold is open its ID changes with its set; each ID shows what `approve` would let go."""
    (hold,) = listed(mx)
    mx.wait(60)
    mx.write("corp", people(20))
    mx.sync(code=HELD)
    (later,) = listed(mx)
    assert later["id"] != hold["id"]
    assert [one["count"] for one in (*listed(mx, hold["id"]), *listed(mx, later["id"]))] == [60, 80]
    mx.approve(hold["id"], code=HELD)
    assert mx.published() == people(40) | people(10, "example.org")


def test_an_unknown_id(mx: Scenario) -> None:
    """It is a wrong command line, and the present IDs are named."""
    (hold,) = listed(mx)
    text = mx.say("held", "nosuchid", code=64).stderr
    assert hold["id"] in text


def test_every_removal(mx: Scenario) -> None:
    """The hold of every removal lists the recipients that have no hold of their own."""
    mx.lose_ledger()
    mx.sync(code=HELD)
    holds = {one["domain"]: one for one in listed(mx)}
    assert set(holds) >= {"*"}
    entries = [entry["entry"] for one in holds.values() for entry in one["entries"]]
    assert sorted(entries) == sorted(people(100) - people(40))


def test_a_relay_domain(tmp_path: Path) -> None:
    """The hold of a relay domain is of the domain."""
    mx = domain_leaves(tmp_path)
    found = {one["domain"]: one for one in listed(mx)}
    assert [entry["entry"] for entry in found["relay_domains:new.example"]["entries"]] == ["new.example"]


def test_rejected_entries(tmp_path: Path) -> None:
    """Each with its place and the reason, which says what to write."""
    mx = Scenario(tmp_path)
    mx.write("corp", people(5))
    mx.sync()
    mx.write("corp", people(5) | {"bob at example.com"})
    mx.say("sync", code=HELD)
    (hold,) = listed(mx)
    (entry,) = hold["entries"]
    assert entry["entry"] == "bob at example.com"
    assert entry["key"] == f"line 1 of {mx.file('corp')}"
    assert "write LOCALPART@DOMAIN" in entry["reason"]
    assert entry["reason"] in mx.say("held").stdout


def test_nothing_is_held(tmp_path: Path) -> None:
    """Before the first run, and where nothing is held."""
    mx = Scenario(tmp_path)
    mx.write("corp", people(5))
    mx.configure()
    assert mx.say("held").stdout == "nothing is held\n"
    mx.sync()
    assert (mx.say("held").stdout, listed(mx)) == ("nothing is held\n", [])


# --- exceptions from an approval


KEPT = ("user041@example.com", "user077@example.com")


def excepting(mx: Scenario, *addresses: str, code: int = HELD) -> SyncResult:
    """Approve what is held, but for these recipients."""
    (hold,) = (one for one in listed(mx) if one["kind"] != "same-answer")
    words = [word for address in addresses for word in ("--except", address)]
    return mx.approve(hold["id"], *words, code=code)


def test_some_are_excepted(mx: Scenario) -> None:
    """They stay held under an ID of their own, which nothing but a person or the source ends."""
    (before,) = listed(mx)
    result = excepting(mx, *KEPT)
    left = people(40) | people(10, "example.org") | set(KEPT)
    assert mx.published() == left
    (hold,) = result.plan.holds
    assert hold.id != before["id"]
    assert (hold.count, hold.kind, hold.collecting) == (2, "excepted", False)
    (shown,) = listed(mx)
    assert [entry["entry"] for entry in shown["entries"]] == list(KEPT)
    assert shown["reasons"] == [f"a person excepted it from the approval of {before['id']}"]
    for _ in range(3):
        mx.wait(11 * DAY)
        mx.sync(code=HELD)
        assert mx.published() == left
        assert [one["id"] for one in listed(mx)] == [hold.id]
    mx.approve(hold.id)
    assert mx.published() == left - set(KEPT)


def test_an_excepted_one_that_the_source_lists_again(mx: Scenario) -> None:
    """It leaves its hold; the other stays under the same ID."""
    result = excepting(mx, *KEPT)
    mx.write("corp", people(40) | {KEPT[0]})
    mx.wait(HOUR)
    assert [hold.id for hold in mx.sync(code=HELD).plan.holds] == [hold.id for hold in result.plan.holds]
    mx.write("corp", people(40) | set(KEPT))
    mx.wait(HOUR)
    assert mx.sync().plan.holds == ()


def test_other_removals_go_on(mx: Scenario) -> None:
    """What is excepted counts neither as lost nor for the size of its domain."""
    excepting(mx, *KEPT)
    mx.wait(2 * DAY)
    mx.write("corp", people(39))
    mx.sync(code=HELD)
    assert mx.published() == people(39) | people(10, "example.org") | set(KEPT)


def test_an_exception_outlives_a_run_that_cannot_publish(mx: Scenario, monkeypatch: pytest.MonkeyPatch) -> None:
    """The approval stands, and with it the exception: the next run removes the others alone."""
    mx.own_postmap()
    monkeypatch.setenv("PATH", mx._env["PATH"])
    mx.postmap_fails.touch()
    (hold,) = listed(mx)
    mx.approve_unchecked(hold["id"], 73, *(word for address in KEPT for word in ("--except", address)))
    mx.postmap_fails.unlink()
    mx.wait(60)
    mx.sync(code=HELD)
    assert mx.published() == people(40) | people(10, "example.org") | set(KEPT)


@pytest.mark.parametrize("address", ["user001@example.com", "nobody@example.com", "not an address"])
def test_what_is_not_held_cannot_be_excepted(mx: Scenario, address: str) -> None:
    """It is a wrong command line, and nothing is approved."""
    (hold,) = listed(mx)
    text = mx.say("approve", hold["id"], "--except", address, code=64).stderr
    assert "is not held under" in text or "has no @" in text
    assert mx.sync(code=HELD).plan.holds[0].id == hold["id"]
    assert mx.published() == people(100) | people(10, "example.org")


def test_a_refused_exception_approves_no_rejected_entry(tmp_path: Path) -> None:
    """Nothing is approved means nothing: also no entry whose hold is named beside it."""
    mx = Scenario(tmp_path)
    mx.write("corp", people(5))
    mx.sync()
    mx.write("corp", people(5) | {"bob at example.com"})
    mx.say("sync", code=HELD)
    (hold,) = listed(mx)
    text = mx.say("approve", hold["id"], "--except", "user001@example.com", code=64).stderr
    assert "nothing is approved" in text
    mx.say("sync", code=HELD)
    assert [one["id"] for one in listed(mx)] == [hold["id"]]


def test_a_damaged_list_divides_nothing(mx: Scenario) -> None:
    """Who is held cannot be read: it is said, and nothing is approved, until a run has made the list anew."""
    (hold,) = listed(mx)
    for kept in (mx.state / "lists").glob("kept-*"):
        kept.write_bytes(kept.read_bytes()[:100])
    for words in (("held",), ("approve", hold["id"], "--except", KEPT[0])):
        assert "what is held cannot be read" in mx.say(*words, code=None).stderr
    mx.sync(code=HELD)
    assert mx.published() == people(100) | people(10, "example.org")


def test_everybody_is_excepted(mx: Scenario) -> None:
    """Then nobody goes."""
    gone = sorted(people(100) - people(40))
    (hold,) = excepting(mx, *gone).plan.holds
    assert (hold.count, hold.kind) == (60, "excepted")
    assert mx.published() == people(100) | people(10, "example.org")


def test_of_another_domain_in_the_same_answer(tmp_path: Path) -> None:
    """What is held with the answer of a domain can be excepted as well."""
    mx = Scenario(tmp_path, relay_domains=["example.com", "example.org"])
    mx.set_clock(START)
    mx.write("corp", people(100) | people(100, "example.org"))
    mx.sync()
    mx.wait(HOUR)
    mx.write("corp", people(40) | people(98, "example.org"))
    mx.sync(code=HELD)
    excepting(mx, "user099@example.org")
    assert mx.published() == people(40) | people(98, "example.org") | {"user099@example.org"}
    (hold,) = listed(mx)
    assert (hold["domain"], hold["kind"]) == ("example.org", "excepted")


def test_an_excepted_one_stays_whatever_is_approved(mx: Scenario) -> None:
    """Who excepts a recipient again, with its own hold among those approved, keeps it."""
    excepting(mx, KEPT[0])
    (own,) = listed(mx)
    mx.approve(own["id"], "--except", KEPT[0], code=HELD)
    assert KEPT[0] in mx.published()
    assert [one["id"] for one in listed(mx)] == [own["id"]]
    mx.wait(DAY)
    mx.write("corp", people(10))
    mx.sync(code=HELD)
    ids = [one["id"] for one in listed(mx)]
    assert len(ids) == 2
    mx.approve(*ids, "--except", KEPT[0], code=HELD)
    assert mx.published() == people(10) | people(10, "example.org") | {KEPT[0]}


def test_an_excepted_one_is_named_again(mx: Scenario) -> None:
    """Who types the command again is told under what it is excepted, and nothing is approved."""
    (hold,) = listed(mx)
    excepting(mx, KEPT[0])
    mx.wait(DAY)
    mx.write("corp", people(10))
    mx.sync(code=HELD)
    (new,) = (one for one in listed(mx) if one["kind"] != "excepted")
    text = mx.say("approve", new["id"], "--except", KEPT[0], code=64).stderr
    assert f"{KEPT[0]} is excepted already, under" in text
    assert hold["id"] not in text


def test_one_is_excepted_from_every_removal(tmp_path: Path) -> None:
    """After the state was lost, a person may let every removal go but for some."""
    mx = Scenario(tmp_path)
    mx.write("corp", people(100))
    mx.sync()
    mx.lose_ledger()
    mx.write("corp", people(95))
    mx.sync(code=HELD)
    (hold,) = listed(mx)
    mx.approve(hold["id"], "--except", "user099@example.com", code=HELD)
    assert mx.published() == people(95) | {"user099@example.com"}
    (left,) = listed(mx)
    assert (left["domain"], left["kind"], left["count"]) == ("example.com", "excepted", 1)


def test_one_cannot_stay_in_a_domain_that_leaves(tmp_path: Path) -> None:
    """The approval is refused: the recipient would be in the map, and get 554."""
    mx = domain_leaves(tmp_path)
    ids = [one["id"] for one in listed(mx)]
    text = mx.say("approve", *ids, "--except", "b@new.example", code=64).stderr
    assert "b@new.example cannot stay if its relay domain leaves" in text
    assert [one["id"] for one in listed(mx)] == ids


# --- the decision of another host


def test_a_typing_error_in_an_exception_is_refused(tmp_path: Path) -> None:
    """With a file as with an ID: nothing is approved."""
    mx = Scenario(tmp_path)
    for count in (100, 40):
        mx.write("corp", people(count))
        mx.sync(code=None)
    file = tmp_path / "held.txt"
    mx.say("held", "--export", str(file))
    text = mx.say("approve", "--set", str(file), "--except", "usr041@example.com", code=64).stderr
    assert "usr041@example.com is not held under" in text
    mx.say("approve", "--set", str(file), "--except", KEPT[0], code=HELD)
    assert mx.published() == people(40) | {KEPT[0]}


def test_a_set_of_another_host(tmp_path: Path) -> None:
    """What was exported there and edited goes here; what is held with it stays, and what is not held is told."""
    mx = Scenario(tmp_path)
    for count in (100, 40):
        mx.write("corp", people(count))
        mx.sync(code=None)
    file = tmp_path / "held.txt"
    assert mx.say("held", "--export", str(file)).stdout == ""
    lines = file.read_text("utf-8").splitlines()
    (hold,) = listed(mx)
    assert lines == [f"# {hold['id']}: 60 removals of example.com", *(one["entry"] for one in hold["entries"])]
    kept = [line for line in lines if line not in KEPT]
    file.write_text("".join(f"{line}\n" for line in [*kept, "User001@Example.com", "gone@example.net"]), "utf-8")
    done = mx.say("approve", "--set", str(file), code=HELD)
    told = [line for line in done.stderr.splitlines() if "is not held here" in line]
    assert told == [
        "syncagent: gone@example.net is not held here, or only with every removal",
        "syncagent: user001@example.com is not held here, or only with every removal",
    ]
    assert mx.published() == people(40) | set(KEPT)
    assert [entry["entry"] for entry in listed(mx)[0]["entries"]] == list(KEPT)


def test_no_file_is_overwritten(mx: Scenario, tmp_path: Path) -> None:
    """Nor is one approved that cannot be read."""
    file = tmp_path / "there"
    file.write_text("mine\n", "utf-8")
    assert "there" in mx.say("held", "--export", str(file), code=64).stderr
    assert f"{file}, line 1: mine has no @" in mx.say("approve", "--set", str(file), code=64).stderr
    assert "No such file" in mx.say("approve", "--set", str(tmp_path / "none"), code=64).stderr
    file.write_text("# nothing\n", "utf-8")
    assert "nothing is approved" in mx.say("approve", "--set", str(file), code=64).stderr
    assert "name the IDs" in mx.say("approve", code=64).stderr


def test_a_set_does_not_end_the_hold_of_every_removal(mx: Scenario, tmp_path: Path) -> None:
    """After the state was lost a list of names is no approval of every removal."""
    mx.lose_ledger()
    mx.sync(code=HELD)
    file = tmp_path / "held.txt"
    mx.say("held", "--export", str(file))
    done = mx.say("approve", "--set", str(file), code=None)
    assert "*" in {one["domain"] for one in listed(mx)}, done
    assert mx.published() == people(100) | people(10, "example.org")
