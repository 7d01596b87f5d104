"""`sync --quiet`, as cron and the timer run it: what is printed when something begins, changes, ends or stands."""

import contextlib
import io
import re
import sqlite3
import subprocess
import sys
import time
from pathlib import Path
from unittest.mock import patch

import pytest

from syncagent.cli import main as cli
from syncagent.state import printed
from syncagent.state.printed import Fact
from syncagent.state.records import Printed
from syncagent.sync import run as sync_module
from tests.scenario import HOUR, MINUTE, START, Scenario, people
from tests.support.doubt import SCRIPT

DAY, EVERY = 24 * HOUR, 5 * MINUTE


class Cron:
    """A backup MX whose `sync --quiet` runs every five minutes; what it prints is what cron would send."""

    def __init__(self, scenario: Scenario) -> None:
        self.mx = scenario
        scenario.set_clock(START)

    def run(self, code: int, *, after: float = EVERY) -> str:
        """Do the next run; give what it printed."""
        self.mx.wait(after)
        out = io.StringIO()
        config = str(self.mx.configure())
        with (
            patch.object(sync_module, "clock", lambda: self.mx.now),
            patch.object(sys, "argv", ["syncagent", "--config", config, "sync", "--quiet"]),
            contextlib.redirect_stdout(out),
            contextlib.redirect_stderr(out),
        ):
            assert cli._main() == code, out.getvalue()
        return out.getvalue()

    def silent(self, code: int, *, seconds: float = HOUR) -> None:
        """Assert that no run of the next time prints anything."""
        for _ in range(int(seconds / EVERY)):
            assert self.run(code) == ""


@pytest.fixture
def cron(tmp_path: Path) -> Cron:
    """A backup MX with 40 recipients, published."""
    one = Cron(Scenario(tmp_path))
    one.mx.write("corp", people(40))
    assert one.run(0) == ""
    return one


def test_a_failing_source(cron: Cron) -> None:
    """It is told when it begins, when it ends, and once a day."""
    cron.mx.break_source("corp")
    assert "source corp failing" in cron.run(75)
    cron.silent(75, seconds=HOUR / 2)
    assert "source corp failing" in cron.run(75, after=DAY)
    cron.silent(75, seconds=HOUR / 2)
    cron.mx.write("corp", people(40))
    end = cron.run(0)
    assert re.match(r"over: source corp failing since ", end)
    assert "over: data of source corp is " in end, "it was stale as well"
    cron.silent(0, seconds=HOUR / 2)


def test_a_source_that_fails_again(cron: Cron) -> None:
    """It is told again, though only a run by hand saw that it had answered in between."""
    cron.mx.break_source("corp")
    assert "source corp failing" in cron.run(75)
    cron.silent(75, seconds=HOUR / 2)
    cron.mx.write("corp", people(40))
    cron.mx.wait(EVERY)
    cron.mx.sync()
    cron.mx.break_source("corp")
    assert "source corp failing" in cron.run(75)
    cron.silent(75, seconds=HOUR / 2)


def test_data_that_becomes_stale(cron: Cron) -> None:
    """After a while of failing it is stale: that is told as a condition of its own, by its limit."""
    cron.mx.break_source("corp")
    cron.run(75)
    stale = cron.run(75, after=2 * HOUR)
    assert "schedule.max_age" in stale
    cron.silent(75, seconds=HOUR / 2)


def test_a_hold(cron: Cron) -> None:
    """It is told when it begins, when it is final, when it ends and once a day; not while it collects."""
    cron.mx.write("corp", people(20))
    begin = cron.run(65)
    assert "held: 20 removals of example.com" in begin
    assert "syncagent --config" in begin
    assert cron.run(65) == ""
    final = cron.run(65, after=10 * MINUTE)
    assert "held: 20 removals of example.com" in final
    cron.silent(65)
    assert "held: 20 removals of example.com" in cron.run(65, after=DAY)
    cron.mx.write("corp", people(40))
    assert cron.run(0).startswith("over: 20 removals of example.com held (")
    cron.silent(0)


def test_a_hold_that_changes(cron: Cron) -> None:
    """Another one that is held is told of."""
    cron.mx.write("corp", people(20))
    cron.run(65)
    cron.run(65, after=11 * MINUTE)
    cron.silent(65, seconds=HOUR / 2)
    cron.mx.write("corp", people(21))
    assert "19 removals" in cron.run(65)
    cron.silent(65, seconds=HOUR / 2)


def test_a_table_that_cannot_be_published(cron: Cron) -> None:
    """73 is told when it begins and when it ends."""
    program = cron.mx.directory / "bin" / "postmap"
    program.parent.mkdir()
    program.write_text("#!/bin/sh\necho 'postmap: fatal: no space left on device' >&2\nexit 1\n", encoding="utf-8")
    program.chmod(0o755)
    cron.mx.write("corp", people(41))
    with patch.dict("os.environ", {"PATH": f"{program.parent}:/usr/sbin:/usr/bin:/sbin:/bin"}):
        assert "no space left on device" in cron.run(73)
        assert cron.run(73) == ""
        assert "no space left on device" in cron.run(73, after=DAY)
    end = cron.run(0)
    assert end.startswith("over: ")
    assert "no space left on device" in end
    cron.silent(0, seconds=HOUR / 2)


def test_the_switch(tmp_path: Path) -> None:
    """That it has fired is told by the run that finds it, and again when its doubt is over."""
    cron = Cron(Scenario(tmp_path))
    cron.mx.set_clock(time.time())  # the switch has no other
    cron.mx.postfix = {"doubt_map": f"lmdb:{cron.mx.directory / 'doubt'}"}
    cron.mx.write("corp", people(40))
    assert cron.run(0, after=0) == ""
    (cron.mx.directory / "alive").write_text("written 1\nlimit 60\n", encoding="ascii")
    ran = subprocess.run([str(SCRIPT), str(cron.mx.directory)], check=True, capture_output=True, text=True)
    assert (cron.mx.directory / "doubt-switched").exists(), ran
    assert "doubt switch: fired" in cron.run(0, after=1)
    later = [cron.run(0) for _ in range(6)]
    told = [text for text in later if text]
    assert len(told) == 1, later
    assert told[0].startswith("over: doubt switch: fired")


def test_what_was_printed_is_lost(cron: Cron) -> None:
    """It is printed again, and recorded anew."""
    cron.mx.break_source("corp")
    cron.run(75)
    for statement in ("DELETE FROM meta WHERE key = 'printed'", "UPDATE meta SET value = '[' WHERE key = 'printed'"):
        with contextlib.closing(sqlite3.connect(cron.mx.state / "state.db")) as database:
            database.execute(statement)
            database.commit()
        assert "source corp failing" in cron.run(75)
        assert cron.run(75) == ""


def test_nothing_is_written_while_all_is_well(cron: Cron) -> None:
    """The row of what was printed is made when first used."""
    cron.silent(0, seconds=HOUR / 2)
    with contextlib.closing(sqlite3.connect(cron.mx.state / "state.db")) as database:
        assert not database.execute("SELECT 1 FROM meta WHERE key = 'printed'").fetchall()


def test_a_state_that_cannot_be_used_is_never_quiet(cron: Cron) -> None:
    """Nothing can be remembered: each run prints."""
    database = cron.mx.state / "state.db"
    database.unlink()
    database.mkdir()
    for _ in range(2):
        assert "state.db" in cron.run(73)


@pytest.mark.parametrize(
    ("standing", "before", "begun", "ended"),
    [
        ({"a": Fact("1", "is so")}, {}, ["is so"], ()),
        ({"a": Fact("1", "is so")}, {"a": Printed("1", "was so", 1000.0)}, [], ()),
        ({"a": Fact("2", "is so")}, {"a": Printed("1", "was so", 1000.0)}, ["is so"], ()),
        ({"a": Fact("1", "is so")}, {"a": Printed("1", "was so", 1000.0 - DAY)}, ["is so"], ()),
        ({"a": Fact("1", "is so")}, {"a": Printed("1", "was so", 5000.0)}, ["is so"], ()),
        ({}, {"a": Printed("1", "was so", 1000.0)}, [], ("was so",)),
        ({}, {"exit 75": Printed("", "", 1000.0)}, [], ()),
    ],
)
def test_what_is_told(
    standing: dict[str, Fact], before: dict[str, Printed], begun: list[str], ended: tuple[str, ...]
) -> None:
    """What is new, has changed, was told a day ago or by a clock that was ahead; and what has ended."""
    news = printed.news(standing, before, 2000.0)
    assert [fact.text for fact in news.begun] == begun
    assert news.ended == ended
    assert news.printed.keys() == standing.keys()
    assert printed.news(standing, news.printed, 2001.0).begun == ()
