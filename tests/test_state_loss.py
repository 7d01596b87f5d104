"""The state lost, or restored from a copy: nothing is removed without a person; a first installation holds nothing."""

import shutil
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from syncagent.model import ALL_DOMAINS, Hold, SyncResult
from tests.scenario import HOUR, MINUTE, Scenario, people, reasons
from tests.support.postmap import postmap_build
from tests.test_doubt import Backup

HELD = 65
ALL, FIRST, SECOND = people(100), people(91), people(82)


class Kept(Scenario):
    """A map of 100 recipients by a clock of its own, with a copy of its state."""

    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        self.set_clock()
        self.beside = directory / ".relay_recipients.syncagent"
        self._copy = directory / "copy"
        self.write("corp", ALL)
        self.sync()

    def copy_state(self) -> None:
        """Keep a copy of the state."""
        shutil.copytree(self.state, self._copy)

    def restore_state(self) -> None:
        """Put the copy back."""
        self.lose_ledger()
        shutil.copytree(self._copy, self.state)

    def lists(self, addresses: set[str], *, code: int = 0) -> SyncResult:
        """Let a minute pass and the source list these addresses, and run."""
        self.wait(MINUTE)
        self.write("corp", addresses)
        return self.sync(code=code)


def of_all(result: SyncResult) -> list[Hold]:
    """Return the holds of every removal."""
    return [hold for hold in result.plan.holds if hold.domain == ALL_DOMAINS]


@pytest.fixture
def mx(tmp_path: Path) -> Kept:
    """A map of 100 recipients, no longer the first run."""
    return Kept(tmp_path)


def test_a_first_installation_holds_nothing(tmp_path: Path) -> None:
    """Neither state nor file is there, also beside a map that a person made."""
    scenario = Scenario(tmp_path)
    scenario.map.write_text("".join(f"{address} OK\n" for address in sorted(people(20))), "utf-8")
    postmap_build(scenario.postfix_directory, f"lmdb:{scenario.map}")
    scenario.write("corp", people(19))
    result = scenario.sync()
    assert not result.plan.holds
    assert scenario.published() == people(19)
    assert scenario.sync().status == "unchanged"


def _lost(mx: Kept) -> None:
    mx.lose_ledger()


def _database_lost(mx: Kept) -> None:
    (mx.state / "state.db").unlink()


def _file_and_state_lost(mx: Kept) -> None:
    """The map is ours all the same: its first line says so."""
    mx.lose_ledger()
    mx.beside.unlink()


def _of_another_host(mx: Kept) -> None:
    """The file has the ID of another state."""
    text = mx.beside.read_text("utf-8")
    mx.beside.write_text(text.replace('"id": "', '"id": "0'), "utf-8")


def _unreadable(mx: Kept) -> None:
    mx.beside.write_text("no JSON\n", "utf-8")


LOST = [_lost, _database_lost, _file_and_state_lost]
OTHER = [_of_another_host, _unreadable]


@pytest.mark.parametrize("loses", LOST)
def test_nothing_goes_without_a_person(mx: Kept, loses: Callable[[Kept], None]) -> None:
    """Between two removals of 9 of 100: the second ones stay until a person lets them go."""
    assert mx.lists(FIRST).plan.removed == 9
    loses(mx)
    result = mx.lists(SECOND, code=HELD)
    assert mx.published() == FIRST
    (hold,) = result.plan.holds
    assert hold.domain == ALL_DOMAINS
    assert {reason.kind for reason in hold.reasons} == {"state-new"}
    for _ in range(3):
        again = mx.lists(SECOND | people(1, first=500), code=HELD)
        assert of_all(again) == [hold], "the hold stands as it is, whatever the number of runs"
        assert mx.published() >= FIRST
    mx.wait(MINUTE)
    assert mx.approve(hold.id).plan.removed == 9
    assert mx.published() == SECOND | people(1, first=500)
    mx.wait(MINUTE)
    result = mx.sync()
    assert result.status == "unchanged"
    assert not result.plan.holds


@pytest.mark.parametrize("changes", OTHER)
def test_a_file_of_another_state(mx: Kept, changes: Callable[[Kept], None]) -> None:
    """A file beside the map that is not of this database holds as much, also if it cannot be understood."""
    changes(mx)
    (hold,) = mx.lists(people(99), code=HELD).plan.holds
    assert (hold.domain, {reason.kind for reason in hold.reasons}) == (ALL_DOMAINS, {"state-new"})
    assert mx.published() == ALL
    assert mx.lists(people(99), code=HELD).plan.holds == (hold,)
    assert mx.approve(hold.id).plan.removed == 1


@pytest.mark.parametrize("loses", LOST)
def test_it_ends_after_the_window(mx: Kept, loses: Callable[[Kept], None]) -> None:
    """After removed_window what is missing goes, as far as the limits let it."""
    mx.lists(FIRST)
    loses(mx)
    mx.lists(SECOND, code=HELD)
    mx.wait(23 * HOUR)
    assert mx.sync(code=HELD).plan.removed == 0
    mx.wait(HOUR)
    assert mx.sync().plan.removed == 9
    assert mx.published() == SECOND


def test_nothing_goes_after_a_restoration(mx: Kept) -> None:
    """A copy of the state brings back what was removed since; all that is missing is held, and then by the limits."""
    mx.copy_state()
    assert mx.lists(FIRST).plan.removed == 9
    mx.restore_state()
    result = mx.lists(SECOND, code=HELD)
    assert mx.published() == ALL
    assert reasons(result) == {ALL_DOMAINS: {"state-new"}, "example.com": {"percent", "state-new"}}
    again = mx.approve(of_all(result)[0].id, code=HELD)
    assert reasons(again) == {"example.com": {"percent"}}
    assert mx.published() == ALL


def test_the_limits_hold_besides(mx: Kept) -> None:
    """A hold of a domain has its own ID and stands on when the hold of all is approved."""
    mx.lose_ledger()
    result = mx.lists(people(40), code=HELD)
    assert reasons(result) == {ALL_DOMAINS: {"state-new"}, "example.com": {"half", "percent", "state-new"}}
    (hold,) = of_all(result)
    again = mx.approve(hold.id, code=HELD)
    assert reasons(again) == {"example.com": {"half", "percent"}}
    assert mx.published() == ALL


def test_it_is_told(mx: Kept) -> None:
    """The hold is an alarm of `status`, a line of `sync`, `plan` and `history`; it stands while nothing is missing."""
    mx.set_clock(time.time())  # status goes by the real one
    mx.lose_ledger()
    told = mx.say("plan", code=HELD).stdout
    assert "held: every removal" in told
    result = mx.sync(code=HELD)
    (hold,) = result.plan.holds
    assert any("the state was lost" in note for note in result.notes)
    status = mx.say("status", code=HELD)
    assert f"approve {hold.id}" in status.stderr
    assert "the state was lost" in mx.say("history", "--since", "9999d").stdout
    assert mx.sync(code=HELD).status == "unchanged"


def test_the_table_counts_what_it_holds(mx: Kept) -> None:
    """The hold of every removal has what stays of each domain, those of a hold of the domain among them."""
    mx.set_clock(time.time())  # `say` goes by the real one
    mx.lose_ledger()
    for left, held in ((97, 3), (40, 60)):
        mx.write("corp", people(left))
        shown = mx.say("sync", code=HELD).stdout
        (row,) = [line.split() for line in shown.splitlines() if line.startswith("example.com ")]
        assert row == ["example.com", "100", "0", "0", str(held), str(held), "100"]


def test_a_database_without_the_file(mx: Kept) -> None:
    """As after every upgrade: the file is written anew, silently."""
    mx.beside.unlink()
    assert not mx.sync().notes
    assert mx.beside.exists()
    assert mx.lists(FIRST).plan.removed == 9


def test_a_map_restored_from_a_copy(mx: Kept) -> None:
    """An older file beside the map is no gap: the database knows all."""
    text = mx.beside.read_text("utf-8")
    mx.lists(FIRST)
    mx.beside.write_text(text, "utf-8")
    assert not mx.lists(people(90)).plan.holds
    assert mx.beside.read_text("utf-8") != text


def test_all_restored_together(mx: Kept) -> None:
    """State and map of the same copy agree."""
    mx.copy_state()
    files = {file: file.read_bytes() for file in mx.directory.iterdir() if "relay_recipients" in file.name}
    mx.lists(FIRST)
    mx.restore_state()
    for file, octets in files.items():
        file.write_bytes(octets)
    mx.wait(MINUTE)
    mx.sync(code=None)
    assert not mx.sync(code=None).plan.holds


def _backup(directory: Path) -> Backup:
    """Return a backup MX with a doubt table and two domains, of which none is in doubt any more."""
    backup = Backup(directory, relay_domains=("example.com", "example.org"))
    backup.write("corp", people(20) | people(10, "example.org"))
    backup.settled()
    return backup


def test_every_domain_is_in_doubt(tmp_path: Path) -> None:
    """From the run that sees it on, also while nothing is missing, and until a person approves the hold."""
    mx = _backup(tmp_path)
    mx.lose_ledger()
    (hold,) = mx.sync(code=HELD).plan.holds
    for _ in range(2):
        result = mx.sync(code=HELD)
        doubts = {(doubt.domain, doubt.subject) for doubt in result.doubts if doubt.kind == "hold"}
        assert doubts == {("example.com", "state-new"), ("example.org", "state-new")}
        assert mx.in_doubt() == {"example.com", "example.org"}
        mx.wait(HOUR)
    mx.approve(hold.id)
    for _ in range(2):
        mx.wait(6 * MINUTE)
        mx.sync()
    assert mx.in_doubt() == set()


def test_a_domain_that_the_file_had_is_not_new(tmp_path: Path) -> None:
    """State and map are gone, and the file beside the map knows the domains that were published."""
    mx = _backup(tmp_path)
    mx.lose_ledger()
    for name in ("relay_recipients", "relay_recipients.lmdb"):
        (tmp_path / name).unlink()
    mx.relay_domains.append("example.net")
    mx.write("corp", people(20) | people(10, "example.org") | people(1, "example.net"))
    mx._heard.clear()
    result = mx.sync(code=HELD)
    assert {doubt.domain for doubt in result.doubts if doubt.kind == "new"} == {"example.net"}


@pytest.mark.parametrize("lost", [False, True], ids=["same-id", "another-id"])
def test_a_removed_address_that_a_restored_state_never_knew_stays_in_doubt(tmp_path: Path, *, lost: bool) -> None:
    """It came and went since the copy: the table itself has it in doubt, and its time begins anew.

    The copy may have another ID, since the state was lost after it was made.
    """
    mx, copy = _backup(tmp_path), tmp_path / "copy"
    shutil.copytree(mx.state, copy)
    everybody = people(20) | people(10, "example.org")
    for addresses in (everybody | {"new@example.com"}, everybody):
        mx.write("corp", addresses)
        mx.sync()
        mx.wait(6 * MINUTE)
    assert mx.in_doubt() == {"new@example.com"}
    if lost:
        mx.lose_ledger()
        mx.sync(code=HELD)
        mx.wait(6 * MINUTE)
    mx.lose_ledger()
    shutil.copytree(copy, mx.state)
    (hold,) = mx.sync(code=HELD).plan.holds
    mx.approve(hold.id)
    for _ in range(3):
        mx.wait(6 * MINUTE)
        mx.sync()
    assert "new@example.com" in mx.in_doubt()
    mx.wait(72 * HOUR)
    mx.sync()
    assert mx.in_doubt() == set()


def test_explain_has_the_id_that_can_be_approved(mx: Kept) -> None:
    """Every removal is held by the hold of ``*``: explain shows its ID and reason, and no key of its own."""
    mx.lose_ledger()
    (hold,) = mx.lists(FIRST, code=HELD).plan.holds
    (gone, *_) = sorted(ALL - FIRST)
    text = mx.say("explain", gone).stdout
    assert f"its removal is held under {hold.id} (the state was lost" in text
    assert f"approve {hold.id}" in text


def test_explain_names_the_reason_of_a_hold(mx: Kept) -> None:
    """Whoever reads the command that approves the removal reads why it is held as well."""
    (hold,) = mx.lists(people(50), code=HELD).plan.holds
    text = mx.say("explain", min(ALL - people(50))).stdout
    assert f"its removal is held under {hold.id} (example.com would lose 50 of 100" in text
