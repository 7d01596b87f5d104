"""Doubt: which lines the doubt table has after a run, and when they go again. Real runs and a real postmap."""

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from syncagent.files import atomic
from syncagent.model import SyncResult
from syncagent.postfix import doubt_table
from syncagent.postfix.doubt_table import Files
from syncagent.values.types import MapName
from tests.scenario import HOUR, MINUTE, START, Scenario, only_hold, people
from tests.support.postmap import postmap_build, postmap_keys

HELD, FAILING, CANNOT_PUBLISH = 65, 75, 73
DAY = 24 * HOUR
PROBE = "syncagent-doubt-probe@"


class Backup(Scenario):
    """A backup MX with a doubt table, by a clock of its own; a new domain is in doubt for an hour."""

    def __init__(self, directory: Path, *sources: str, relay_domains: tuple[str, ...] = ("example.com",)) -> None:
        """Make the directory ready."""
        super().__init__(directory, *sources, relay_domains=relay_domains)
        self.doubt = directory / "doubt"
        self.postfix = {"doubt_map": f"lmdb:{self.doubt}", "doubt_new": "1h"}
        self.set_clock()

    @property
    def files(self) -> Files:
        """The files beside the doubt table."""
        return Files(MapName.parse(f"lmdb:{self.doubt}"))

    def keys(self, table: str = "doubt") -> set[str]:
        """Return the keys of the index of the doubt table, without the probe."""
        keys = {key.decode() for key in postmap_keys(self.postfix_directory, f"lmdb:{self.directory / table}")}
        return {key for key in keys if not key.startswith(PROBE)}

    def in_doubt(self) -> set[str]:
        """Return the domains and addresses in doubt, and check that each domain has both keys."""
        keys = self.keys()
        domains = {key for key in keys if "@" not in key and not key.startswith(".")}
        assert {f".{domain}" for domain in domains} == {key for key in keys if key.startswith(".")}
        return {key for key in keys if not key.startswith(".")}

    def settled(self) -> None:
        """Run until nothing is in doubt."""
        self.sync(code=None)
        self.wait(2 * HOUR)
        self.sync(code=None)
        assert self.in_doubt() == set()


def why(result: SyncResult, domain: str = "example.com") -> set[str]:
    """Return the kinds of the reasons why a domain is in doubt."""
    return {doubt.kind for doubt in result.doubts if doubt.domain == domain}


@pytest.fixture
def mx(tmp_path: Path) -> Backup:
    """Return a backup MX with 20 people, of whom nothing is in doubt any more."""
    backup = Backup(tmp_path)
    backup.write("corp", people(20))
    backup.settled()
    return backup


def test_a_new_domain_is_in_doubt_for_doubt_new(tmp_path: Path) -> None:
    """The first publication puts the domain in doubt, until doubt_new has passed."""
    mx = Backup(tmp_path)
    mx.write("corp", people(3))
    first = mx.sync()
    assert "new" in why(first)
    assert mx.in_doubt() == {"example.com"}
    mx.wait(HOUR - 1)
    mx.sync()
    assert mx.in_doubt() == {"example.com"}
    mx.wait(2)
    assert mx.sync().doubts == ()
    assert mx.in_doubt() == set()


def test_the_table_is_there_before_the_first_map(tmp_path: Path) -> None:
    """A first run that lacks something publishes no map, but the doubt table, since main.cf may name it already."""
    mx = Backup(tmp_path)
    mx.sync(code=FAILING)
    assert mx.in_doubt() == {"example.com"}
    assert mx.published() == set()


def test_a_domain_of_an_adopted_map_is_not_new(tmp_path: Path) -> None:
    """A map by hand knew its recipients before: unknown ones of its domain get 550 at once after the first run."""
    mx = Backup(tmp_path)
    mx.write("corp", people(3))
    mx.map.write_text("".join(f"{name} OK\n" for name in sorted(people(3))), encoding="utf-8")
    postmap_build(mx.postfix_directory, f"lmdb:{mx.map}")
    assert "new" not in why(mx.sync())
    mx.wait(6 * MINUTE)
    assert mx.sync().doubts == ()


def test_both_forms_of_a_domain(tmp_path: Path) -> None:
    """Postfix converts neither form to the other, so that both are keys, with and without the dot."""
    mx = Backup(tmp_path, relay_domains=("xn--tda.example",))
    mx.write("corp", {"info@xn--tda.example"})
    mx.say("sync")
    assert mx.keys() == {"xn--tda.example", ".xn--tda.example", "ü.example", ".ü.example"}


def test_a_failing_source_puts_its_domains_in_doubt(tmp_path: Path) -> None:
    """Only the domains in which it has or had recipients; five minutes after it recovers they are as before."""
    mx = Backup(tmp_path, "corp", "other", relay_domains=("example.com", "example.org", "example.net"))
    mx.write("corp", people(5) | people(5, "example.org"))
    mx.write("other", people(5, "example.net") | people(6, "example.org", first=9))
    mx.settled()
    mx.write("corp", people(5))
    mx.sync()
    mx.wait(4 * DAY)
    mx.settled()
    mx.break_source("corp")
    result = mx.sync(code=FAILING)
    assert mx.in_doubt() >= {"example.com", "example.org"}
    assert why(result, "example.org") >= {"source-failing"}, "it had recipients there"
    assert "source-failing" not in why(result, "example.net")
    mx.wait(30)
    mx.write("corp", people(5))
    mx.sync()
    assert "example.com" in mx.in_doubt(), "it failed half a minute ago"
    mx.wait(5 * MINUTE)
    mx.sync()
    assert "example.com" not in mx.in_doubt()


def test_a_source_that_was_never_whole_concerns_all_domains(tmp_path: Path) -> None:
    """What it would say is not known; with the key relay_domains it is those."""
    mx = Backup(tmp_path, "corp", "new", relay_domains=("example.com", "example.org"))
    del mx.sources["new"]
    mx.write("corp", people(5) | people(5, "example.org"))
    mx.settled()
    mx.sources["new"] = {}
    mx.sync(code=FAILING)
    assert mx.in_doubt() == {"example.com", "example.org"}
    mx.sources["new"] = {"relay_domains": ["example.org"]}
    mx.wait(6 * MINUTE)
    mx.sync(code=FAILING)
    assert mx.in_doubt() == {"example.org"}


def test_a_removed_address_is_in_doubt_before_it_is_removed(mx: Backup) -> None:
    """For doubt_removed; then it gets 550 like everybody."""
    mx.write("corp", people(19))
    mx.sync()
    assert mx.in_doubt() == {"user019@example.com"}
    mx.wait(72 * HOUR - 1)
    mx.sync()
    assert mx.in_doubt() == {"user019@example.com"}
    mx.wait(2)
    mx.sync()
    assert mx.in_doubt() == set()


def test_an_excluded_address_is_not_in_doubt(mx: Backup) -> None:
    """A person took it out on purpose."""
    mx.exclude = ["user003@example.com"]
    mx.sync()
    assert mx.published() == people(20) - {"user003@example.com"}
    assert mx.in_doubt() == set()


def test_over_a_thousand_removed_addresses_are_their_domain(tmp_path: Path) -> None:
    """The table stays small."""
    mx = Backup(tmp_path)
    mx.limits |= {"removed_percent": 100, "removed_max": 2000}
    mx.write("corp", {f"u{number}@example.com" for number in range(3000)})
    mx.settled()
    mx.write("corp", {f"u{number}@example.com" for number in range(2200)})
    mx.sync()
    assert len(mx.in_doubt()) == 800
    mx.write("corp", {f"u{number}@example.com" for number in range(1900)})
    mx.sync()
    assert "example.com" in mx.in_doubt()
    mx.wait(73 * HOUR)
    mx.sync()
    assert mx.in_doubt() == set()


def test_a_held_catch_all_is_doubt_until_a_person_settles_it(mx: Backup) -> None:
    """The source has recipients that it does not list."""
    mx.write("corp", people(20) | {"@example.com"})
    assert "unlisted" in why(mx.sync(code=HELD))
    mx.wait(6 * MINUTE)
    mx.sync(code=HELD)
    assert mx.in_doubt() == {"example.com"}
    mx.sources["corp"]["unlisted"] = "refuse"
    mx.wait(6 * MINUTE)
    mx.sync(code=HELD)
    assert mx.in_doubt() == set()


def test_a_removed_catch_all_is_doubt(mx: Backup) -> None:
    """Every address was valid by it: which ones are in use, nobody knows."""
    mx.catch_all = ["example.com"]
    mx.write("corp", people(20) | {"@example.com"})
    mx.sync()
    mx.write("corp", people(20))
    mx.approve(only_hold(mx.sync(code=HELD)).id)
    assert mx.in_doubt() == {"example.com"}
    mx.wait(71 * HOUR)
    mx.sync()
    assert mx.in_doubt() == {"example.com"}
    mx.wait(2 * HOUR)
    mx.sync()
    assert mx.in_doubt() == set()


def test_killed_after_the_map_was_narrowed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The line is in the table during the whole next run: the map is not as recorded, so that all are in doubt."""
    mx = Backup(tmp_path)
    mx.limits |= {"removed_percent": 100, "removed_max": 2000}
    mx.write("corp", people(1300) | {f"u{number}@example.com" for number in range(1200)})
    mx.settled()
    mx.write("corp", people(1300))
    monkeypatch.setattr("syncagent.sync.record.published", _killed)
    mx._by_own_clock(mx.now, ("sync",), 130)
    monkeypatch.undo()
    assert mx.published() == people(1300)
    assert mx.in_doubt() == {"example.com"}
    seen = []
    write = doubt_table.write

    def watched(*args: Any, **options: Any) -> object:  # noqa: ANN401 - those of write()
        written = write(*args, **options)
        seen.append(mx.in_doubt())
        return written

    monkeypatch.setattr(doubt_table, "write", watched)
    mx.files.name.path.unlink()  # so that the next run writes the table in any case
    mx.wait(MINUTE)
    mx._by_own_clock(mx.now, ("sync",), None)
    assert seen
    assert all("example.com" in keys for keys in seen)


def test_staging_directories_of_killed_runs_are_removed(mx: Backup) -> None:
    """Those of both tables."""
    left = [mx.directory / f".{name}.syncagent-abc" for name in ("doubt", "doubt-all")]
    for directory in left:
        directory.mkdir()
    mx.sync()
    assert not [directory for directory in left if directory.exists()]


def _killed(*_: object, **__: object) -> None:
    raise KeyboardInterrupt


def test_a_leaving_domain_first_loses_its_recipients(tmp_path: Path) -> None:
    """It stays in the table of domains, in doubt, for doubt_removed; with --now it leaves at once."""
    mx = Backup(tmp_path, "corp", relay_domains=("example.com", "example.org", "example.net"))
    domains = tmp_path / "domains"
    mx.postfix["domains_map"] = f"lmdb:{domains}"
    mx.write("corp", people(20) | people(2, "example.org") | people(2, "example.net"))
    mx.settled()
    mx.relay_domains = ["example.com"]
    held = mx.sync(code=HELD).plan.holds
    mx.write("corp", people(20))
    mx.approve(*(hold.id for hold in held), code=None)
    mx.approve(*(hold.id for hold in mx.sync(code=None).plan.holds), code=None)
    assert mx.published() == people(20)
    assert {"example.org", "example.net"} <= mx.in_doubt()
    assert "example.org" in domains.read_text(encoding="utf-8")
    mx.wait(73 * HOUR)
    mx.sync()
    assert "example.org" not in domains.read_text(encoding="utf-8")
    mx.wait(2 * MINUTE)
    mx.sync()
    assert mx.in_doubt() == set()


def test_a_failed_run_puts_every_domain_in_doubt(mx: Backup) -> None:
    """Whatever ends with 73: no state and no lock is needed for it."""
    mx.say("sync")
    (mx.state / "state.db").rename(mx.state / "kept.db")
    (mx.state / "state.db").mkdir()
    mx.say("sync", code=CANNOT_PUBLISH)
    assert mx.in_doubt() == {"example.com"}
    (mx.state / "state.db").rmdir()
    (mx.state / "kept.db").rename(mx.state / "state.db")
    mark = mx.files.mark()
    assert mark is not None
    assert mark.why == "failed"
    mx.set_clock(mark.at + 6 * MINUTE)
    mx.sync(code=None)
    assert mx.in_doubt() == set()
    assert mx.files.mark() is None
    assert mx.keys("doubt-all") == {"example.com", ".example.com"}


def test_a_fault_of_the_program_puts_every_domain_in_doubt(mx: Backup, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever ends with 70, too."""

    def fault(*_: object, **__: object) -> None:
        raise RuntimeError("a fault")

    monkeypatch.setattr("syncagent.sync.run.select", fault)
    mx.write("corp", people(21))
    assert mx._by_own_clock(mx.now, ("sync",), 70) == ""
    assert mx.in_doubt() == {"example.com"}
    monkeypatch.undo()
    mx.sync()
    mx.wait(6 * MINUTE)
    mx.sync()
    assert mx.in_doubt() == set()


@pytest.mark.parametrize("reason", ["dead", "boot"])
def test_after_the_switch_the_next_run_restores_everything(mx: Backup, reason: str) -> None:
    """The first run in which every source was asked ends its doubt, makes doubt-all anew, and removes the mark."""
    for name in ("doubt-all.lmdb", "doubt-all"):
        (mx.directory / name).replace(mx.directory / name.replace("doubt-all", "doubt"))
    (mx.directory / "doubt-switched").write_text(f"{mx.now:.0f} {reason}\n", encoding="ascii")
    assert mx.in_doubt() == {"example.com"}
    mx.wait(2 * MINUTE)
    assert mx.sync().status == "unchanged", "not taken for the change of another hand"
    assert mx.in_doubt() == set()
    assert mx.files.mark() is None
    assert (mx.directory / "doubt-all.lmdb").exists()
    with closing(sqlite3.connect(mx.state / "state.db")) as database:
        assert ("doubt-switch", reason) in database.execute("SELECT kind, subject FROM event").fetchall()


def test_removals_wait_for_the_doubt_table(mx: Backup) -> None:
    """If it cannot be published, removals are held, additions go on, and the exit status is 73."""
    for path in (mx.doubt, mx.directory / "doubt.lmdb"):
        path.unlink()
    mx.doubt.mkdir()
    mx.write("corp", people(19) | {"new@example.com"})
    result = mx.sync(code=CANNOT_PUBLISH)
    assert mx.published() == people(20) | {"new@example.com"}
    assert "doubt" in {reason.kind for hold in result.plan.holds for reason in hold.reasons}
    assert result.doubt_error
    mx.doubt.rmdir()
    mx.wait(MINUTE)
    mx.sync()
    assert mx.published() == people(19) | {"new@example.com"}
    assert "user019@example.com" in mx.in_doubt()


def test_narrowing_is_at_least_a_minute_apart(tmp_path: Path) -> None:
    """Each rename of the table makes smtpds restart."""
    mx = Backup(tmp_path, "corp", "other", relay_domains=("example.com", "example.org"))
    mx.postfix["doubt_removed"] = "10m"
    mx.write("corp", people(20))
    mx.write("other", people(20, "example.org"))
    mx.settled()
    mx.write("corp", people(19))
    mx.sync()
    mx.wait(30)
    mx.write("other", people(19, "example.org"))
    mx.sync()
    assert len(mx.in_doubt()) == 2
    mx.wait(10 * MINUTE - 30)
    mx.sync()
    assert mx.in_doubt() == {"user019@example.org"}
    mx.wait(30)
    mx.sync()
    assert mx.in_doubt() == {"user019@example.org"}, "half a minute after the last"
    mx.wait(30)
    mx.sync()
    assert mx.in_doubt() == set()


def test_no_line_is_dropped_within_a_minute_of_the_map(mx: Backup) -> None:
    """A session that was open then has the old map and would ask the new doubt table."""
    mx.postfix["doubt_removed"] = "1m"
    mx.write("corp", people(19))
    mx.sync()
    mx.wait(MINUTE)
    mx.write("corp", people(19) | {"new@example.com"})
    mx.sync()
    assert mx.in_doubt() == {"user019@example.com"}, "the map was renamed by this run"
    mx.wait(30)
    mx.sync()
    assert mx.in_doubt() == {"user019@example.com"}, "half a minute ago"
    mx.wait(31)
    mx.sync()
    assert mx.in_doubt() == set()


def test_doubt_by_hand(mx: Backup) -> None:
    """At once, without a source; `--clear` narrows at once; an entry with an end ends."""
    mx.set_clock(START)
    mx.say("doubt", "example.com", "--for", "1h")
    assert mx.in_doubt() == {"example.com"}
    mx.say("doubt", "--clear", "--all")
    assert mx.in_doubt() == set()
    mx.say("doubt", "--all")
    assert mx.in_doubt() == {"example.com"}
    assert "example.com" in mx.say("doubt").stdout
    mx.say("doubt", "example.com", "--clear")
    assert mx.in_doubt() == set(), "one of all"
    mx.say("doubt", "example.net", code=64)
    mx.say("doubt", "--clear", code=64)


def test_doubt_by_hand_while_a_run_has_the_lock(mx: Backup) -> None:
    """After five seconds the table is written without the lock, from its present text and the new lines."""
    mx.write("corp", people(19))
    mx.sync()
    with atomic.locked(mx.state / "sync.lock", 0):
        mx.say("doubt", "example.com")
        assert mx.in_doubt() == {"example.com", "user019@example.com"}
        assert "the next run" in mx.say("doubt", "example.com", "--clear").stdout
        assert mx.in_doubt() == {"example.com", "user019@example.com"}
    mx.wait(MINUTE + 1)
    mx.sync()
    assert mx.in_doubt() == {"user019@example.com"}


def test_every_run_writes_a_sign_of_life(mx: Backup) -> None:
    """With the longest gap of the last five runs, three times; a run that failed writes none."""
    for _ in range(6):
        mx.wait(HOUR)
        mx.sync()
    assert mx.files.alive() == (round(mx.now), 3 * HOUR)
    assert not mx.files.is_dead(mx.now + 3 * HOUR)
    assert mx.files.is_dead(mx.now + 3 * HOUR + 2)
    assert mx.files.is_dead(mx.now - 11 * MINUTE)


def test_without_a_doubt_map_nothing_is_written(tmp_path: Path) -> None:
    """As in earlier versions."""
    mx = Scenario(tmp_path)
    mx.write("corp", people(3))
    mx.sync()
    assert not list(tmp_path.glob("doubt*"))
    assert not (tmp_path / "alive").exists()


def test_the_verb_needs_a_doubt_map(tmp_path: Path) -> None:
    """It says which key to add."""
    mx = Scenario(tmp_path)
    done = mx.say("doubt", "--all", code=78)
    assert "postfix.doubt_map" in done.stderr


# --- what may not end a doubt, or begin one


@pytest.mark.parametrize("why_switched", ["dead", "boot", "failed"])
def test_by_hand_ends_no_doubt_of_the_switch(tmp_path: Path, why_switched: str) -> None:
    """A person who puts a domain in doubt, or ends that, does not end what the switch began for all."""
    mx = Backup(tmp_path, relay_domains=("example.com", "example.org"))
    mx.write("corp", people(3) | people(3, "example.org"))
    mx.settled()
    assert mx.files.switch_all(mx.now)
    mx.files.mark_file.write_text(f"{mx.now:.0f} {why_switched}\n", encoding="ascii")
    for args in (["example.org"], ["example.org", "--clear"], ["--all", "--clear"]):
        mx.say("doubt", *args)
        assert mx.in_doubt() == {"example.com", "example.org"}, args


def test_killed_after_the_run_was_recorded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The reasons are recorded before the tables are: a new domain and many removed addresses stay in doubt."""
    mx = Backup(tmp_path, relay_domains=("example.com", "example.net"))
    mx.limits |= {"removed_percent": 100, "removed_max": 2000}
    gone = {f"u{number}@example.com" for number in range(1200)}
    mx.write("corp", gone | people(1300) | people(2, "example.net"))
    mx.settled()
    mx.relay_domains.append("example.org")
    mx.write("corp", people(1300) | people(1, "example.org") | people(2, "example.net"))
    monkeypatch.setattr("syncagent.sync.doubt_table.DoubtTable.finish", _killed)
    mx._by_own_clock(mx.now, ("sync",), 130)
    monkeypatch.undo()
    for minutes in (1, 20):
        mx.wait(minutes * MINUTE)
        mx.sync()
        assert {"example.com", "example.org"} <= mx.in_doubt(), minutes


def test_all_domains_without_the_lock(tmp_path: Path) -> None:
    """Those that a source reports, too, and removed addresses that are not ASCII stay."""
    mx = Backup(tmp_path, relay_domains=("example.com",))
    mx.write("corp", people(20) | {"müller@example.com"})
    mx.settled()
    mx.write("corp", people(20))
    mx.sync()
    mx.relay_domains = ["example.com", "example.org"]
    mx.write("corp", people(20) | people(1, "example.org"))
    mx.sync()
    mx.relay_domains = ["example.com"]
    with atomic.locked(mx.state / "sync.lock", 0):
        mx.say("doubt", "--all")
    assert mx.in_doubt() == {"example.com", "example.org", "müller@example.com"}


def test_a_plan_is_no_sign_of_life(mx: Backup) -> None:
    """A monitoring that runs `plan` must not keep the switch from firing."""
    before = mx.files.alive_file.read_bytes()
    mx.say("plan")
    assert mx.files.alive_file.read_bytes() == before


def test_a_wrong_clock_or_a_long_rest_does_not_disable_the_switch(mx: Backup) -> None:
    """Times before 2020 do not count, and the limit is three days at most."""
    for day in (0, 1):
        mx.files.touch(946_684_800 + day, ran=True)
    mx.files.touch(mx.now, ran=True)
    assert mx.files.alive()[1] == HOUR
    mx.files.touch(mx.now + 300 * DAY, ran=True)
    assert mx.files.alive()[1] == 3 * DAY


def test_each_doubt_table_has_a_directory_of_its_own(mx: Backup) -> None:
    """The switch moves one table for each directory."""
    mx.postfix["doubt_map"] = f"lmdb:{mx.directory}/second"
    result = mx.sync(code=CANNOT_PUBLISH)
    assert "the doubt table doubt is there too: each needs a directory of its own" in result.doubt_error


def test_a_clock_that_was_ahead(mx: Backup) -> None:
    """What was recorded by it ends as if it had begun when the clock was right again."""
    mx.wait(365 * DAY)
    mx.write("corp", people(19))
    mx.sync()
    mx.wait(-365 * DAY)
    mx.sync()
    mx.wait(71 * HOUR)
    mx.sync()
    assert "user019@example.com" in mx.in_doubt()
    mx.wait(2 * HOUR)
    mx.sync()
    mx.wait(6 * MINUTE)
    mx.sync()
    assert mx.in_doubt() == set()


def test_a_new_domain_by_a_clock_that_was_ahead(mx: Backup) -> None:
    """Likewise: its doubt ends within doubt_new of the clock that is right."""
    mx.wait(365 * DAY)
    mx.relay_domains.append("example.org")
    mx.write("corp", people(20) | people(3, "example.org"))
    mx.sync()
    mx.wait(-365 * DAY)
    mx.sync()
    assert mx.in_doubt() == {"example.org"}
    mx.wait(HOUR + MINUTE)
    mx.sync()
    mx.wait(6 * MINUTE)
    mx.sync()
    assert mx.in_doubt() == set()


@pytest.mark.parametrize("until", ["inf", "nan", "1e300", "99999999999999", "-1", "soon"])
def test_a_line_by_hand_that_cannot_be_read(mx: Backup, until: str) -> None:
    """Every domain is in doubt, and nothing fails."""
    (mx.directory / "by-hand").write_text(f"example.com\t{until}\troot\t0\n", encoding="utf-8")
    mx.sync()
    assert mx.in_doubt() == {"example.com"}
    mx.say("status", code=FAILING)  # its clock is not that of the runs
    (mx.directory / "by-hand").unlink()
    mx.wait(2 * MINUTE)
    mx.sync()
    assert mx.in_doubt() == set()


def test_a_line_by_hand_for_a_foreign_domain(mx: Backup) -> None:
    """It is left out: smtpd would answer 450 for domains that are not ours."""
    (mx.directory / "by-hand").write_text("com\t0\troot\t0\nexample.net\t0\troot\t0\n", encoding="utf-8")
    assert "by hand" not in mx.say("doubt").stdout
    mx.sync()
    assert mx.in_doubt() == set()


def test_names_by_hand_are_printable(mx: Backup) -> None:
    """A name may come from another hand."""
    (mx.directory / "by-hand").write_text("example.com\t0\t\x1b]0;x\x07\t0\n", encoding="utf-8")
    for verb in ("status", "doubt"):
        assert "\x1b" not in mx.say(verb, code=None).stdout
    mx.say("doubt", "example.com", "--for", "9999999d", code=64)


def test_a_mark_with_an_impossible_time(mx: Backup) -> None:
    """It is of now, and ends as another."""
    mx.files.mark_file.write_text("999999999999999999999999999999 dead\n", encoding="ascii")
    mx.sync()
    mx.wait(2 * MINUTE)
    mx.sync()
    assert mx.files.mark() is None
    mx.say("history")
    mx.say("status", code=FAILING)  # its clock is not that of the runs


def test_a_mark_that_cannot_be_removed(mx: Backup) -> None:
    """It is told, and the map is as it should be."""
    mx.files.mark_file.mkdir()
    mx.wait(2 * MINUTE)
    result = mx.sync(code=CANNOT_PUBLISH)
    assert "the mark of the switch cannot be removed" in result.doubt_error
    assert result.status == "unchanged"
