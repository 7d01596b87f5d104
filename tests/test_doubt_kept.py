"""Doubt that must outlive a fault: a run that is killed, a state that is lost, a full disk. Real runs and postmap."""

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from syncagent.config.load import load
from syncagent.postfix import doubt_table
from syncagent.postfix.doubt_table import ByHand
from syncagent.sync import by_hand, doubt
from syncagent.sync.doubt_table import DoubtTable
from tests.scenario import HOUR, MINUTE, people
from tests.test_doubt import Backup

_NOWHERE = """
import resource, sys
from pathlib import Path
from syncagent.postfix.doubt_table import Files
from syncagent.values.types import MapName
resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
print(Files(MapName.parse(sys.argv[1])).switch_all(float(sys.argv[2])))
"""
"""Switch while no file can be written, as on a full disk."""


def _killed(*_: object, **__: object) -> None:
    raise KeyboardInterrupt


def _stays_in_doubt(mx: Backup) -> None:
    """Check that runs keep example.com in doubt, and that it is not any more once doubt_removed has passed."""
    for _ in range(3):
        mx.wait(HOUR)
        mx.sync(code=None)
        assert mx.in_doubt() == {"example.com"}
    mx.wait(73 * HOUR)
    mx.sync(code=None)
    assert mx.in_doubt() == set()


def test_killed_after_a_catch_all_was_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its domain stays in doubt for doubt_removed, although that run was not recorded."""
    mx = Backup(tmp_path)
    mx.catch_all = ["example.com"]
    mx.write("corp", people(20) | {"@example.com"})
    mx.settled()
    mx.write("corp", people(20))
    holds = [hold.id for hold in mx.sync(code=65).plan.holds]
    monkeypatch.setattr("syncagent.sync.record.published", _killed)
    mx._by_own_clock(mx.now, ("approve", *holds), 130)
    monkeypatch.undo()
    assert mx.published() == people(20)
    _stays_in_doubt(mx)


def test_the_state_is_lost(tmp_path: Path) -> None:
    """The addresses in the table stay in doubt for another doubt_removed: only the state knew until when."""
    mx = Backup(tmp_path)
    mx.write("corp", people(20))
    mx.settled()
    mx.write("corp", people(19))
    mx.sync()
    assert mx.in_doubt() == {"user019@example.com"}
    mx.lose_ledger()
    for _ in range(3):
        mx.wait(HOUR)
        mx.sync(code=None)
        assert mx.in_doubt() >= {"user019@example.com"}
    mx.wait(73 * HOUR)
    mx.sync(code=None)
    assert mx.in_doubt() == set()


def test_the_state_is_lost_while_a_domain_is_in_doubt(tmp_path: Path) -> None:
    """Nobody knows the reason any more: it stays in doubt for doubt_removed."""
    mx = Backup(tmp_path)
    mx.catch_all = ["example.com"]
    mx.limits["removed_percent"] = 100
    mx.write("corp", people(20) | {"@example.com"})
    mx.settled()
    mx.write("corp", people(20))
    mx.approve(*(hold.id for hold in mx.sync(code=65).plan.holds))
    assert mx.in_doubt() == {"example.com"}
    shutil.rmtree(mx.state)
    _stays_in_doubt(mx)


def test_switched_on_a_full_disk(tmp_path: Path) -> None:
    """After a failed run, every domain is put in doubt where not one octet can be written."""
    mx = Backup(tmp_path)
    mx.write("corp", people(20))
    mx.settled()
    command = [sys.executable, "-c", _NOWHERE, f"lmdb:{mx.doubt}", f"{mx.now:.0f}"]
    assert subprocess.run(command, check=True, capture_output=True, text=True).stdout == "True\n"
    assert mx.in_doubt() == {"example.com"}
    assert mx.files.mark() is not None
    mx.wait(6 * MINUTE)
    mx.sync(code=None)
    mx.wait(6 * MINUTE)
    mx.sync(code=None)
    assert mx.in_doubt() == set()
    assert mx.files.mark() is None


def test_no_line_is_dropped_by_the_run_that_renamed_the_map(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """However long that run took: a smtpd that starts just then may have the old map, and would have the new table."""
    mx = Backup(tmp_path, "corp", "extra", relay_domains=("example.com", "example.org"))
    mx.write("corp", people(20))
    mx.write("extra", people(5, "example.org"))
    mx.settled()
    mx.break_source("extra")
    mx.sync(code=75)
    mx.write("extra", people(6, "example.org"))
    mx.wait(HOUR)
    monkeypatch.setattr(doubt, "COVERED", 0.001)  # as if the run took longer than a minute until it renamed the map
    mx.sync()
    assert mx.in_doubt() == {"example.org"}
    monkeypatch.undo()
    mx.wait(HOUR)
    mx.sync()
    assert mx.in_doubt() == set()


def test_doubt_ends_although_every_run_changes_the_map(tmp_path: Path) -> None:
    """What was over before the run of the map before may go; a recipient that comes back just now may not."""
    mx = Backup(tmp_path, "corp", "extra", relay_domains=("example.com", "example.org"))
    mx.postfix["doubt_removed"] = "2h"
    mx.write("corp", people(20))
    mx.write("extra", people(5, "example.org"))
    mx.settled()
    mx.write("corp", people(18))
    mx.sync()
    mx.break_source("extra")
    mx.sync(code=75)
    assert mx.in_doubt() == {"example.org", "user018@example.com", "user019@example.com"}
    for number in range(6, 10):
        mx.write("extra", people(number, "example.org"))
        mx.wait(10 * MINUTE)
        mx.sync()
    assert mx.in_doubt() == {"user018@example.com", "user019@example.com"}
    mx.write("extra", people(10, "example.org"))
    mx.wait(2 * HOUR)
    mx.sync()
    assert mx.in_doubt() == {"user018@example.com", "user019@example.com"}
    mx.write("corp", people(19))
    mx.wait(10 * MINUTE)
    mx.sync()
    assert mx.in_doubt() == {"user018@example.com"}, "it is in the map for less than a minute"
    mx.write("extra", people(11, "example.org"))
    mx.wait(10 * MINUTE)
    mx.sync()
    assert mx.in_doubt() == set()


def test_the_switch_ends_although_every_run_changes_the_map(tmp_path: Path) -> None:
    """Its doubt ends with the run after the first one in which every source was asked; then it can begin anew."""
    mx = Backup(tmp_path)
    mx.write("corp", people(20))
    mx.settled()
    for count in (21, 24):
        for name in ("doubt-all.lmdb", "doubt-all"):
            (mx.directory / name).replace(mx.directory / name.replace("doubt-all", "doubt"))
        (mx.directory / "doubt-switched").write_text(f"{mx.now:.0f} dead\n", encoding="ascii")
        left = []
        for number in range(count, count + 3):
            mx.write("corp", people(number))
            mx.wait(10 * MINUTE)
            mx.sync()
            left.append(mx.in_doubt())
        assert left == [{"example.com"}, set(), set()]
        assert mx.files.mark() is None


def test_by_hand_in_the_middle_of_a_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a person puts in doubt while a run is under way stays in doubt at each table that the run writes."""
    mx = Backup(tmp_path, "corp", relay_domains=("example.com", "example.org"))
    mx.limits["removed_percent"] = 100
    mx.write("corp", people(20) | people(20, "example.org"))
    mx.settled()
    mx.write("corp", people(20) | people(15, "example.org"))
    config, seen = load(mx.configure()), []
    entry = ByHand("example.com", 0.0, "anna", mx.now)
    before = DoubtTable.before
    write = doubt_table.write

    def with_a_person(*args: Any, **options: Any) -> bool:  # noqa: ANN401 - those of before()
        in_force = before(*args, **options)
        mx.files.write_by_hand([entry])
        by_hand._add_without_lock(config, mx.files, [entry])
        assert mx.in_doubt() == {"example.com"}
        return in_force

    def watched(*args: Any, **options: Any) -> object:  # noqa: ANN401 - those of write()
        written = write(*args, **options)
        seen.append(mx.in_doubt())
        return written

    monkeypatch.setattr(DoubtTable, "before", with_a_person)
    monkeypatch.setattr(doubt_table, "write", watched)
    mx.sync()
    assert len(seen) > 1
    assert all("example.com" in keys for keys in seen)
    assert mx.in_doubt() >= {"example.com", "user019@example.org"}


_GONE = {"b@example.com", "üser@example.com", "c@xn--bcher-kva.example", "c@bücher.example"}


def _with_removed(directory: Path) -> Backup:
    """Return a backup MX with three removed addresses in doubt, of domains that a source reports or that are IDN."""
    mx = Backup(directory, relay_domains=("example.com", "bücher.example"))
    mx.limits["removed_percent"] = 100
    mx.postfix |= {"domains_map": f"lmdb:{directory}/domains", "allow_domains": ["*.org"]}
    stays = ("a@example.com", "d@example.com", "e@example.com", "a@example.org", "a@bücher.example")
    head = "\n".join(("# domains: example.com, example.org, bücher.example", *stays, ""))
    mx.file("corp").write_text(f"{head}b@example.com\nüser@example.com\nc@bücher.example\n", "utf-8")
    mx._run("sync", code=0)
    mx.wait(2 * HOUR)
    mx._run("sync", code=0)
    mx.file("corp").write_text(head, "utf-8")
    mx._run("sync", code=0)
    assert mx.in_doubt() == _GONE
    return mx


def test_a_failed_run_drops_nothing_without_doubt_all(tmp_path: Path) -> None:
    """Where the ready-made table is missing, a table is made of the present lines and of every domain."""
    mx = _with_removed(tmp_path)
    for name in ("doubt-all", "doubt-all.lmdb"):
        (tmp_path / name).unlink()
    mx.state.rename(tmp_path / "away")
    mx.state.write_text("no directory")
    mx.say("sync", code=73)
    assert mx.in_doubt() == _GONE | {"example.com", "example.org", "bücher.example", "xn--bcher-kva.example"}
    assert mx.files.mark() is not None


def test_doubt_by_hand_without_the_lock_drops_nothing(tmp_path: Path) -> None:
    """The lines that the table has stay, in every spelling."""
    mx = _with_removed(tmp_path)
    there, both = set(_GONE), {"bücher.example", "xn--bcher-kva.example"}
    for domain, keys in {
        "xn--bcher-kva.example": both,
        "example.com": {"example.com"},
        "example.org": {"example.org"},
    }.items():
        entry = ByHand(domain, 0.0, "anna", mx.now)
        by_hand._add_without_lock(load(mx.configure()), mx.files, [entry])
        there |= keys
        assert mx.in_doubt() == there


def test_the_state_is_lost_with_addresses_of_every_spelling(tmp_path: Path) -> None:
    """Each stays in doubt once, by the keys that it had."""
    mx = _with_removed(tmp_path)
    mx.lose_ledger()
    for _ in range(2):
        mx.wait(HOUR)
        mx._run("sync", code=65)
        assert mx.in_doubt() >= _GONE
    mx.wait(73 * HOUR)
    mx._run("sync", code=0)
    assert mx.in_doubt() == set()
