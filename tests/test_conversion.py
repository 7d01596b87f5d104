"""A state that the version before wrote: its spellings become the present ones, and nobody is lost or alarmed by it."""

import unicodedata
from collections.abc import Iterator
from pathlib import Path

import pytest

from syncagent import addresses, invisible
from syncagent.sources import file, line_formats
from syncagent.state import conversion
from syncagent.state.snapshot import SnapshotWriter
from syncagent.values import readable
from tests.scenario import Scenario, people

NBSP, ZERO = "\u00a0", "\u200b"
HELD = 65


@pytest.fixture
def scene(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Scenario:
    """A backup by a clock of its own, to which a file of just now is known again."""
    monkeypatch.setattr(file, "YOUNG", -1)
    made = Scenario(tmp_path)
    made.limits = {"removal_grace": "1h"}
    made.set_clock()
    return made


@pytest.fixture
def before(monkeypatch: pytest.MonkeyPatch) -> Iterator[pytest.MonkeyPatch]:
    """The rules of the version before: nothing but blanks is stripped or rejected, folding is not composed again."""
    with monkeypatch.context() as rules:
        rules.setattr(addresses, "VERSION", f"2/{unicodedata.unidata_version}")
        rules.setattr(addresses, "_folded_to_the_end", lambda folded: folded)
        rules.setattr(invisible, "trimmed", lambda text: text.strip(" \t"))
        rules.setattr(invisible, "first_inside", lambda _: "")
        rules.setattr(readable, "trimmed", lambda text: text.strip(" \t"))
        rules.setattr(line_formats, "trimmed", lambda text: text.strip(" \t\r\v\f\ufeff"))
        rules.setattr(line_formats, "AROUND", " \t\r\v\f\ufeff")
        yield rules


def test_a_whole_domain_is_respelled_in_one_run(scene: Scenario, before: pytest.MonkeyPatch) -> None:
    """Keys that no sender could write are replaced by those that one does, without a fetch, a removal or a hold."""
    scene.write("corp", {f"{NBSP}{name}" for name in people(200)} | {f"ok{at}@example.com" for at in range(3)})
    assert scene.sync_unchecked(0).recipients == 203
    assert f"{NBSP}user000@example.com" in scene.published()
    before.undo()
    result = scene.sync_unchecked(0)
    assert [one.state for one in result.sources] == ["same"]
    assert (result.plan.holds, result.plan.in_grace, result.recipients) == ((), 0, 203)
    assert scene.published() == people(200) | {f"ok{at}@example.com" for at in range(3)}
    assert scene.sync_unchecked(0).status == "unchanged"


def test_a_source_that_fails_is_respelled_as_well(scene: Scenario, before: pytest.MonkeyPatch) -> None:
    """Its last list is in use, and has the present spellings."""
    scene.write("corp", {f"{NBSP}anna@example.com", "ben@example.com"})
    scene.sync_unchecked(0)
    before.undo()
    scene.break_source("corp")
    scene.sync_unchecked(75)
    assert scene.published() == {"anna@example.com", "ben@example.com"}


def test_who_goes_missing_at_once_stays_as_ever(scene: Scenario, before: pytest.MonkeyPatch) -> None:
    """A spelling whose mailbox no source has any more waits for its time like any other."""
    scene.write("corp", {f"{NBSP}anna@example.com", "ben@example.com"})
    scene.sync_unchecked(0)
    before.undo()
    scene.write("corp", {"ben@example.com"})
    assert scene.sync_unchecked(0).plan.in_grace == 1
    assert scene.published() == {f"{NBSP}anna@example.com", "ben@example.com"}


def test_what_can_be_read_now_is_published(scene: Scenario, before: pytest.MonkeyPatch) -> None:
    """A rejected entry that is an address now is one without a new answer, also if it was approved."""
    scene.write("corp", people(3))
    scene.sync_unchecked(0)
    scene.write("corp", {f"anna@example.com{NBSP}", *people(3)})
    held = scene.sync_unchecked(HELD).plan.holds
    before.undo()
    assert len(held) == 1
    result = scene.sync_unchecked(0)
    assert [one.state for one in result.sources] == ["same"]
    assert result.plan.holds == ()
    assert scene.published() == {"anna@example.com", *people(3)}


def test_what_cannot_be_read_any_more_stays_published(scene: Scenario, before: pytest.MonkeyPatch) -> None:
    """An address with an invisible character inside is a rejected entry now; its key stays until a person decides."""
    scene.write("corp", {f"an{ZERO}na@example.com", *people(3)})
    scene.sync_unchecked(0)
    before.undo()
    result = scene.sync_unchecked(HELD)
    assert {reason.kind for hold in result.plan.holds for reason in hold.reasons} == {"rejected"}
    assert scene.published() == {f"an{ZERO}na@example.com", *people(3)}


def test_folding_that_is_composed_again(scene: Scenario, before: pytest.MonkeyPatch) -> None:
    """The key that Postfix makes of the spelling stays, and that of the composed one comes."""
    scene.write("corp", {"la\u017f\u0301t@example.com", *people(3)})
    scene.sync_unchecked(0)
    assert "las\u0301t@example.com" in scene.published()
    before.undo()
    assert scene.sync_unchecked(0).plan.in_grace == 0
    assert {"las\u0301t@example.com", "la\u015bt@example.com"} <= scene.published()


def test_a_state_without_such_spellings_is_taken_as_it_is(scene: Scenario, before: pytest.MonkeyPatch) -> None:
    """Nothing is written anew where each line is as this version writes it."""
    scene.write("corp", {"\u00fcser@example.com", '"a b"@b\u00fccher.example.com', *people(3)})
    scene.sync_unchecked(0)
    files = sorted(scene.state.joinpath("snapshots").iterdir())
    before.undo()
    assert scene.sync_unchecked(0).status == "unchanged"
    assert sorted(scene.state.joinpath("snapshots").iterdir()) == files


def test_a_dry_run_says_the_same_and_writes_nothing(scene: Scenario, before: pytest.MonkeyPatch) -> None:
    """A plan reads the converted list from its own directory."""
    scene.write("corp", {f"{NBSP}{name}" for name in people(20)} | {"ok@example.com"})
    scene.sync_unchecked(0)
    files = sorted(scene.state.joinpath("snapshots").iterdir())
    before.undo()
    scene.say("plan", code=0)
    assert sorted(scene.state.joinpath("snapshots").iterdir()) == files
    assert f"{NBSP}user000@example.com" in scene.published()


def test_each_line_of_a_snapshot(tmp_path: Path) -> None:
    """Entries keep key and label; rejects and lines without address stay as they are."""
    writer = SnapshotWriter(tmp_path, ignore_catch_alls=False, source="corp")
    writer.put([("anna@example.com", "1", "cn=\u00fc")])
    writer.reject("no address", "has no @", "2")
    writer.put_keys(["3"])
    old = writer.finish(tmp_path / "old", allow_empty=False)
    assert conversion.is_current(tmp_path / "old")
    again = SnapshotWriter(tmp_path, ignore_catch_alls=False, source="corp")
    new = conversion.convert(tmp_path / "old", again, tmp_path / "new")
    assert (tmp_path / "new").read_bytes() == (tmp_path / "old").read_bytes()
    assert (new.entries, new.rejected, new.digest) == (old.entries, old.rejected, old.digest)
