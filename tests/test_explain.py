"""`syncagent explain` and `syncagent history`: who says so, since when, and what a real table answers."""

import json
import os
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from syncagent.cli.explain import explain
from syncagent.config import load as config
from syncagent.files.search import SortedLines
from syncagent.postfix.commands import Cause, CommandError
from syncagent.postfix.doubt_table import Files
from syncagent.state import history
from syncagent.values.types import MapName
from tests.scenario import HOUR, START, Scenario, people
from tests.support.postmap import COMPATIBILITY_LEVEL, settle, write_parameters

HELD, CANNOT_PUBLISH = 65, 73
DAY = 24 * HOUR


@pytest.fixture(name="scene")
def fixture_scene(tmp_path: Path) -> Scenario:
    """Two sources, a delimiter, an IDN domain, some people."""
    scene = Scenario(tmp_path, "corp", "list", relay_domains=["example.com", "bücher.example"])
    parameters = {
        "compatibility_level": COMPATIBILITY_LEVEL,
        "recipient_delimiter": "+",
        "relay_domains": "example.com, bücher.example, xn--bcher-kva.example",
        "relay_recipient_maps": f"lmdb:{scene.map}",
    }
    write_parameters(scene.postfix_directory, parameters)
    scene.write("corp", {*people(30), "user@example.com", '"john doe"@example.com', "postmaster@xn--bcher-kva.example"})
    scene.write("list", {"user@example.com", "info@example.com", "not an address@example.com", "x@elsewhere.example"})
    return scene


def explained(scene: Scenario, address: str) -> dict[str, Any]:
    """Explain as JSON; what it prints for people is seen to have the verdict as well."""
    found: dict[str, Any] = json.loads(scene.say("explain", "--json", address, code=0).stdout)
    assert found["verdict"] in scene.say("explain", address, code=0).stdout
    return found


@pytest.mark.parametrize("cut", [0, 20, None])
def test_a_list_in_the_state_that_is_cut_or_missing(scene: Scenario, cut: int | None) -> None:
    """It is named, and nothing is said of what it had; the next run puts it right."""
    scene.say("sync", "--accept-incomplete", code=HELD)
    for file in (scene.state / "snapshots").iterdir():
        if cut is None:
            file.unlink()
        else:
            os.truncate(file, cut)
    for address in ("user000@example.com", "not an address@example.com"):
        refused = scene.say("explain", address, code=CANNOT_PUBLISH)
        assert "/snapshots/corp-" in refused.stderr
        assert ("has no end line, it was cut" in refused.stderr) is (cut is not None)
        assert not refused.stdout
    scene.say("sync", code=HELD)
    assert explained(scene, "user000@example.com")["said"]


def test_an_address_in_two_sources(scene: Scenario) -> None:
    """Each source has its own key, and the map answers."""
    scene.say("sync", "--accept-incomplete", code=HELD)
    found = explained(scene, "USER@Example.COM")
    assert found["canonical"] == "user@example.com"
    assert {(said["source"], said["key"]) for said in found["said"]} == {("corp", "33"), ("list", "3")}
    assert found["published"]
    assert found["since"] > time.time() - 60
    assert found["history_since"] == pytest.approx(found["since"], abs=60)
    headline, spelled, *_ = scene.say("explain", "USER@Example.COM", code=0).stdout.splitlines()
    assert re.fullmatch(r"user@example\.com is IN the map since .*\. Listed by corp, list\.", headline)
    assert spelled == "spelled USER@Example.COM"
    assert "250" in found["verdict"]


@pytest.mark.parametrize(
    ("spelled", "keys"),
    [
        ("User+tag@Example.COM", [("user+tag@example.com", None), ("user@example.com", "OK"), ("@example.com", None)]),
        ('"john doe"@example.com', [('"john doe"@example.com', "OK"), ("@example.com", None)]),
        (
            "postmaster@bücher.example",
            [
                ("postmaster@xn--bcher-kva.example", "OK"),
                ("postmaster@bücher.example", "OK"),
                ("@xn--bcher-kva.example", None),
                ("@bücher.example", None),
            ],
        ),
        ("postmaster@xn--bcher-kva.example", [("postmaster@xn--bcher-kva.example", "OK")]),
    ],
)
def test_what_postfix_looks_up(scene: Scenario, spelled: str, keys: list[tuple[str, str | None]]) -> None:
    """The keys are those of smtpd, in its order, each asked of the live map; one that is there makes a 250."""
    scene.say("sync", "--accept-incomplete", code=HELD)
    found = explained(scene, spelled)
    assert [(asked["key"], asked["found"]) for asked in found["asked"]][: len(keys)] == keys
    assert "250" in found["verdict"]


def test_an_extension_names_its_base(scene: Scenario) -> None:
    """Who asks for user+tag is told that user is in, and in which sources."""
    scene.say("sync", "--accept-incomplete", code=HELD)
    assert "user@example.com, which corp, list has" in scene.say("explain", "user+tag@example.com").stdout


@pytest.mark.parametrize(
    ("spelled", "reason", "verdict"),
    [
        ("#x@example.com", "starts with #", "550"),
        ("not an address@example.com", "has it, rejected because it has white space", "550"),
        ("nobody@example.com", "No source lists it (history since 20", "550"),
        ("x@elsewhere.example", "outside postfix.relay_domains", "554"),
        ("a%b@example.com", "No source lists it (history since 20", "554"),
        ("-a@example.com", "No source lists it (history since 20", "501"),
        ("nobody", "has no @", "local name"),
        ("#+x@example.com", "starts with #", "550"),
        ('"#+x"@example.com', "starts with #", "550"),
    ],
)
def test_why_not(scene: Scenario, spelled: str, reason: str, verdict: str) -> None:
    """An address that is out is out for a reason, which is said, and the answer is Postfix's own."""
    scene.say("sync", "--accept-incomplete", code=HELD)
    done = scene.say("explain", "--", spelled, code=0).stdout
    assert done.startswith(f"{spelled} is NOT in the map. ")
    assert reason in done
    assert verdict in done.splitlines()[-1]


def test_a_catch_all_that_is_held_is_not_in_the_map(scene: Scenario) -> None:
    """What a source has and the map has not is in the map since never; the verdict is that of who is not listed."""
    scene.write("list", {"user@example.com", "@example.com"})
    scene.sync_unchecked(65)
    found = explained(scene, "@example.com")
    assert (found["published"], found["since"]) == (False, 0)
    assert "postfix.catch_all permits" in found["reasons"][0]
    assert "in the map since" not in scene.say("explain", "@example.com").stdout
    assert found["verdict"].startswith("to an address of example.com that is not listed, Postfix answers 550")


def test_what_cannot_be_looked_up_is_said(scene: Scenario) -> None:
    """A map that fails is not one that has nothing."""
    scene.say("sync", "--accept-incomplete", code=HELD)
    scene.map.with_name(f"{scene.map.name}.lmdb").unlink()
    found = explained(scene, "user@example.com")
    assert all(asked["found"] is None and "No such file" in asked["trouble"] for asked in found["asked"])
    headline = "cannot tell whether user@example.com is in the map: "
    assert scene.say("explain", "user@example.com").stdout.startswith(headline)
    assert re.match("Postfix answers 451: a lookup fails, in relay_recipient_maps: .*No such file", found["verdict"])
    assert re.search("user@example.com +.*No such file", scene.say("explain", "user@example.com").stdout)


def test_without_postfix_there_is_no_verdict(scene: Scenario) -> None:
    """Where main.cf is not there or cannot be read, nothing is made up."""
    scene.say("sync", "--accept-incomplete", code=HELD)
    (scene.postfix_directory / "main.cf").unlink()
    assert "cannot query Postfix: postconf -c" in explained(scene, "user@example.com")["verdict"]


def test_what_only_root_may_read_is_no_451(scene: Scenario, monkeypatch: pytest.MonkeyPatch) -> None:
    """Postfix opens its tables as root: that another user may not says nothing of its answer."""
    scene.say("sync", "--accept-incomplete", code=HELD)

    def refuse(*_: object) -> dict[str, str]:
        raise CommandError("postmap: fatal: open database /m.lmdb: Permission denied", Cause.PERMISSION)

    monkeypatch.setattr("syncagent.postfix.live.LivePostfix.look_up", refuse)
    monkeypatch.setattr("os.geteuid", lambda: 65534)
    verdict = explain(config.load(scene.configure()), "user@example.com").verdict
    assert verdict.startswith("cannot query Postfix as this user: relay_")


def test_an_address_that_is_held_and_one_in_grace(scene: Scenario) -> None:
    """What no source has any more says since when, who had it last, why it stays, and what lets it go."""
    scene.say("sync", "--accept-incomplete", code=HELD)
    scene.write("corp", {*people(20), "user@example.com", "postmaster@xn--bcher-kva.example"})
    (hold,) = [hold for hold in scene.sync_unchecked(65).plan.holds if hold.domain == "example.com"]
    found = explained(scene, "user029@example.com")
    (reason,) = found["reasons"]
    assert found["published"]
    assert "corp last" in reason
    assert f"approve {hold.id}" in reason
    scene.limits = {"removal_grace": "1h", "removed_percent": 100}
    scene.say("sync", "--accept-incomplete", code=HELD)
    assert "removal_grace" in explained(scene, "user029@example.com")["reasons"][0]
    headline = scene.say("explain", "user029@example.com").stdout.splitlines()[0]
    assert re.fullmatch(r"user029@example\.com is IN the map\. No source has had it since .*, corp last; .*", headline)


def test_one_removed_yesterday(scene: Scenario) -> None:
    """A removal is remembered, with when it was and which source had it last."""
    scene.set_clock(START)
    scene.write("list", {"info@example.com", "user@example.com"})
    scene.sync_unchecked(0)
    scene.wait(10)
    scene.write("list", {"user@example.com"})
    scene.sync_unchecked(0)
    scene.wait(DAY)
    found = explained(scene, "info@example.com")
    assert not found["published"]
    ((at, change),) = found["happened"]
    assert at == pytest.approx(START + 10)
    assert change == {"address": "info@example.com", "added": False, "sources": ["list"]}
    assert "removed: it was last in list" in scene.say("explain", "info@example.com").stdout


def test_explain_writes_nothing_and_needs_no_ledger(scene: Scenario) -> None:
    """Asked before the first run it says that nobody is known; the state directory stays away."""
    assert "451" in scene.say("explain", "user@example.com", code=0).stdout
    assert not scene.state.exists()


def test_an_address_that_looks_like_an_option(scene: Scenario) -> None:
    """What has an @ is the address, also where a hyphen is first; options may come before and after."""
    scene.say("sync", "--accept-incomplete", code=HELD)
    for args in (["-x@example.com"], ["--", "-x@example.com"]):
        assert "allow_min_user" in scene.say("explain", *args, code=0).stdout
    for args in (["--json", "-help@example.com"], ["-help@example.com", "--json"]):
        assert json.loads(scene.say("explain", *args, code=0).stdout)["spelled"] == "-help@example.com"
    assert "No such option" in scene.say("explain", "-x", code=64).stderr
    assert "Usage" in scene.say("explain", "--help", code=0).stdout


def test_why_in_doubt(scene: Scenario) -> None:
    """Where smtpd answers 450, the verdict has the reason and since when; every reason of the domain is listed."""
    doubt = scene.map.with_name("doubt")
    scene.postfix["doubt_map"] = f"lmdb:{doubt}"
    scene.postfix["doubt_new"] = "1h"
    lines = f"check_recipient_access lmdb:{scene.map}, check_recipient_access lmdb:{doubt}, reject_unlisted_recipient"
    with (scene.postfix_directory / "main.cf").open("a") as file:
        file.write(f"smtpd_sender_restrictions = {lines}\n")
    settle(scene.postfix_directory / "main.cf")
    scene.write("list", {"info@example.com", "extra@example.com"})
    scene.set_clock(START)
    scene.sync_unchecked(0)
    assert "first published less than postfix.doubt_new ago (until" in explained(scene, "nobody@example.com")["verdict"]
    scene.wait(HOUR)
    scene.sync_unchecked(0)
    assert explained(scene, "nobody@example.com")["doubts"] == []
    assert "answers 550: the map" in explained(scene, "nobody@example.com")["verdict"]
    scene.write("list", {"info@example.com"})
    scene.sync_unchecked(0)
    removed = explained(scene, "extra@example.com")
    assert re.match(r"Postfix answers 450 \(in doubt: it was removed at 20.* \(until 20.*\)\): ", removed["verdict"])
    assert "extra@example.com is in doubt: it was removed at 20" in removed["doubts"][0]
    scene.break_source("corp")
    scene.sync_unchecked(75)
    for address in ("nobody@example.com", "x@sub.example.com"):
        found = explained(scene, address)
        assert re.search(r"answers 450 \(in doubt: source corp is failing, since 20[^)]*\): the map", found["verdict"])
        assert re.match(r"example.com is in doubt: source corp is failing, since 20", found["doubts"][0])
        assert found["doubts"][0] in scene.say("explain", address, code=0).stdout
    known = explained(scene, "info@example.com")
    assert "answers 250" in known["verdict"]
    assert "source corp is failing" in known["doubts"][0]
    Files(MapName("lmdb", doubt, f"lmdb:{doubt}")).switch_all(time.time())
    assert "a run of syncagent failed, since 20" in explained(scene, "nobody@example.com")["verdict"]


def test_history(scene: Scenario) -> None:
    """A first import is one line; every later change has its source, also where a grace came between."""
    scene.set_clock(START)
    scene.write("list", {"info@example.com"})
    scene.sync_unchecked(0)
    scene.wait(10)
    idn = "postmaster@xn--bcher-kva.example"
    scene.write("corp", {*people(30, first=1), "user@example.com", "neu@example.com", idn})
    scene.limits = {"removal_grace": "1h", "removed_floor": 100}
    scene.sync_unchecked(0)
    scene.wait(HOUR + 1)
    scene.sync_unchecked(0)
    runs = json.loads(scene.say("history", "--json", "--since", "2000-01-01", code=0).stdout)
    assert [run["first_import"] for run in runs] == [True, False, False]
    assert runs[0]["changes"] == []
    assert {(one["address"], *one["sources"]) for one in runs[1]["changes"]} == {
        ("user030@example.com", "corp"),
        ("neu@example.com", "corp"),
    }
    assert ("user000@example.com", False, ["corp"]) in [
        (one["address"], one["added"], one["sources"]) for one in runs[2]["changes"]
    ]
    of_one = json.loads(
        scene.say("history", "--json", "--since", "2000-01-01", "--address", "USER000@example.com").stdout
    )
    assert [change["added"] for run in of_one for change in run["changes"]] == [False]
    told = scene.say("history", "--since", "2000-01-01").stdout
    assert re.search(r"first import +\+34 +-0 ", told)
    assert "- user000@example.com removed: it was last in corp" in told


def test_history_since_and_retention(scene: Scenario) -> None:
    """What is older than asked for is not shown, and what is older than state.history is not kept."""
    scene.set_clock(START)
    scene.write("list", {"info@example.com"})
    scene.sync_unchecked(0)
    scene.wait(DAY)
    scene.write("list", {"info@example.com", "b@example.com"})
    scene.sync_unchecked(0)
    file = scene.configure()
    loaded = config.load(file)
    assert len(history.read(loaded, START + 1)) == 1
    assert len(history.read(loaded, 0)) == 2
    scene.wait(401 * DAY)
    names = {"info@example.com", "b@example.com"}
    for number in range(10):  # fewer runs could be those of a clock that leaped ahead
        names.add(f"c{number}@example.com")
        scene.write("list", names)
        scene.sync_unchecked(0)
        scene.wait(5)
    assert [run.added for run in history.read(loaded, 0)] == [1] * 10


def test_many_changes_are_found_in_their_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run with more changes than rows are kept for is in a file, and an address is found in it."""
    monkeypatch.setattr("syncagent.sync.record.HISTORY_ROWS", 10)
    scene = Scenario(tmp_path)
    scene.set_clock(START)
    scene.write("corp", people(100))
    scene.sync_unchecked(0)
    scene.wait(5)
    scene.write("corp", people(200))
    scene.sync_unchecked(0)
    loaded = config.load(scene.configure())
    (last,) = history.read(loaded, START + 1)
    assert (last.added, len(last.changes)) == (100, history.SHOWN)
    assert [change for _, change in history.of_address(loaded, "user150@example.com")] == [
        history.Change("user150@example.com", added=True, sources=("corp",))
    ]


@pytest.mark.parametrize("address", ["", "@", "a b", "."])
def test_the_address_of_a_history_is_one(scene: Scenario, address: str) -> None:
    """What is no address and no domain, such as an empty variable of a script, does not show everything."""
    assert "has " in scene.say("history", "--address", address, code=64).stderr


@pytest.mark.parametrize("text", ["yesterday", "7", "", "2026-13-01"])
def test_since_is_a_time(scene: Scenario, text: str) -> None:
    """What is no time is a mistake on the command line."""
    assert "expected how long ago" in scene.say("history", "--since", text, code=64).stderr


def _old_ledger(directory: Path) -> Callable[[], None]:
    import sqlite3

    def undo() -> None:
        with sqlite3.connect(directory / "state.db") as database:
            database.execute("ALTER TABLE recipient DROP COLUMN sources")
            database.execute("PRAGMA user_version = 1")

    return undo


def test_a_ledger_of_the_version_before(scene: Scenario) -> None:
    """A ledger without sources in its history is read as it is, and brought up to date by the next run."""
    scene.write("list", {"info@example.com"})
    scene.sync_unchecked(0)
    scene.write("list", {"info@example.com", "b@example.com"})
    scene.sync_unchecked(0)
    _old_ledger(scene.state)()
    assert "it is in a source that is not recorded" in scene.say("history", code=0).stdout
    scene.write("list", {"info@example.com", "b@example.com", "c@example.com"})
    scene.sync_unchecked(0)
    assert "c@example.com added: it is in list" in scene.say("history", code=0).stdout


def test_a_line_is_found_wherever_it_is(tmp_path: Path) -> None:
    """Bisection finds each line of a file, none that is not there, and never the end line."""
    names = [f"{number:04}@example.com".encode() for number in range(0, 2000, 2)]
    file = tmp_path / "lines"
    file.write_bytes(b"".join(b"%b\tk\tl\n" % name for name in names) + b"# end 1000 x\n")
    lines = SortedLines(file)
    for name in names:
        assert list(lines.starting_with(name + b"\t")) == [b"%b\tk\tl" % name]
    for number in range(1, 2000, 97):
        assert not list(lines.starting_with(f"{number if number % 2 else number + 1:04}@example.com\t".encode()))
    assert not list(lines.starting_with(b"# end"))
    lines.close()
    (tmp_path / "empty").touch()
    assert not list(SortedLines(tmp_path / "empty").starting_with(b"a"))
