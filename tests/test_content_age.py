"""The age of data by its own dates: pure rules, then real lists, the real command, and a clock that goes on."""

import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import pytest

from syncagent.model import CLOCK_SET, Dates, SourceState, SyncResult
from syncagent.state import content_age
from syncagent.state.content_age import AHEAD, DEFAULT_MAX_AGE, UNCHANGED, gone_back, outdated_at
from syncagent.state.messages import machine_moment
from tests.scenario import HOUR, MINUTE, START, people
from tests.support.clock import run_at
from tests.test_doubt import Backup, why

DAY = 24 * HOUR
NOW = 1_900_000_000.0
OUTDATED = 75
TOOK = 5.0
"""Seconds by the clock from the begin of a run to that of the next."""


def state(*dates: Dates, changed: float = NOW) -> SourceState:
    """Return the state of a source with texts of these dates, which were seen when they were made."""
    seen = [msgspec.structs.replace(text, seen=text.seen or text.made or text.modified) for text in dates]
    return SourceState("corp", dates=dict(zip("abcdef", seen, strict=False)), changed=changed)


MADE, EXPIRES, MODIFIED = Dates(made=NOW), Dates(made=NOW, expires=NOW + HOUR), Dates(modified=NOW)


@pytest.mark.parametrize(
    ("dates", "max_age", "at"),
    [
        ((), None, 0),
        ((), HOUR, 0),
        ((MADE,), None, NOW + DEFAULT_MAX_AGE),
        ((MADE,), 2 * HOUR, NOW + 2 * HOUR),
        ((MADE,), 7 * DAY, NOW + 7 * DAY),
        ((MADE,), 0.0, 0),
        ((EXPIRES,), None, NOW + HOUR),
        ((EXPIRES,), 0.0, NOW + HOUR),
        ((EXPIRES,), 2 * HOUR, NOW + HOUR),
        ((EXPIRES,), HOUR / 2, NOW + HOUR / 2),
        ((Dates(expires=NOW + HOUR),), None, NOW + HOUR),
        ((Dates(expires=NOW + HOUR, modified=NOW - DAY),), None, NOW + HOUR),
        ((MODIFIED,), None, 0),
        ((MODIFIED,), 0.0, 0),
        ((MODIFIED,), HOUR, NOW + HOUR),
        ((Dates(made=NOW, modified=NOW - DAY),), HOUR, NOW + HOUR),
        ((MADE, Dates(made=NOW - HOUR)), None, NOW - HOUR + DEFAULT_MAX_AGE),
        ((MADE, Dates(made=NOW - DAY, expires=NOW + 7 * DAY)), None, NOW + DEFAULT_MAX_AGE),
        ((MADE, Dates(modified=NOW - HOUR)), None, NOW + DEFAULT_MAX_AGE),
        ((MADE, Dates(modified=NOW - HOUR)), 2 * HOUR, NOW + HOUR),
    ],
)
def test_when_data_is_outdated(dates: tuple[Dates, ...], max_age: float | None, at: float) -> None:
    """What the text says comes first; mtime and Last-Modified need content_max_age; the oldest text counts."""
    assert outdated_at(state(*dates), max_age) == at


@pytest.mark.parametrize(
    ("made", "seen", "taken"),
    [
        (NOW, NOW, NOW),
        (NOW, NOW - AHEAD, NOW),
        (NOW, NOW - AHEAD - 1, NOW - AHEAD - 1),
        (NOW + 365 * DAY, NOW, NOW),
        (NOW, 100.0, NOW),
        (NOW, CLOCK_SET - 1.0, NOW),
    ],
)
def test_a_producer_whose_clock_is_ahead(made: float, seen: float, taken: float) -> None:
    """Ten minutes are no matter; beyond them, the time of reading counts, unless this host's clock was not set yet."""
    dates = Dates(made=made, expires=made + HOUR, seen=seen)
    assert content_age.made(dates) == taken
    assert content_age.is_ahead(dates) is (made != taken)
    assert content_age.expires(dates) == taken + HOUR
    assert outdated_at(SourceState("corp", dates={"": dates}), None) == taken + HOUR


def test_it_is_as_old_as_when_it_was_first_read() -> None:
    """A text of the future that is read again is no younger; another one is."""
    first = content_age.first_seen({}, {"a": Dates(made=NOW + DAY)}, NOW)
    again = content_age.first_seen(first, {"a": Dates(made=NOW + DAY)}, NOW + HOUR)
    assert content_age.made(again["a"]) == NOW
    other = content_age.first_seen(again, {"a": Dates(made=NOW + DAY + 1)}, NOW + HOUR)
    assert content_age.made(other["a"]) == NOW + HOUR


@pytest.mark.parametrize(
    ("last", "now", "back"),
    [
        ({"a": NOW}, {"a": NOW}, None),
        ({"a": NOW}, {"a": NOW + 1}, None),
        ({"a": NOW}, {"a": NOW - 1}, "a"),
        ({"a": NOW}, {"a": 0.0}, None),
        ({"a": 0.0}, {"a": NOW}, None),
        ({"a": NOW}, {"b": NOW - 1}, None),
        ({"a": NOW, "b": NOW}, {"a": NOW + 1, "b": NOW - 1}, "b"),
        ({}, {"a": NOW}, None),
    ],
)
def test_made_may_not_go_back(last: dict[str, float], now: dict[str, float], back: str | None) -> None:
    """Each text is compared with itself: one that is new in a directory may be older than the others."""
    before = {name: Dates(made=made, seen=made) for name, made in last.items()}
    assert gone_back(before, {name: Dates(made=made) for name, made in now.items()}) == back


def test_a_clock_that_was_ahead_may_be_corrected() -> None:
    """What counts is the time that was taken, not that of the wrong clock."""
    ahead = {"a": Dates(made=NOW + DAY, seen=NOW)}
    assert gone_back(ahead, {"a": Dates(made=NOW + 1)}) is None
    assert gone_back(ahead, {"a": Dates(made=NOW - 1)}) == "a"


@pytest.mark.parametrize(
    ("dates", "max_age", "changed", "is_told"),
    [
        ((), None, NOW - UNCHANGED - 1, True),
        ((), None, NOW - UNCHANGED, False),
        ((), None, 0.0, False),
        ((), 0.0, NOW - UNCHANGED - 1, False),
        ((), DAY, NOW - UNCHANGED - 1, False),
        ((MADE,), None, NOW - UNCHANGED - 1, False),
        ((MODIFIED,), None, NOW - UNCHANGED - 1, True),
    ],
)
def test_data_that_does_not_change(
    dates: tuple[Dates, ...], max_age: float | None, changed: float, *, is_told: bool
) -> None:
    """It is remarkable after 30 days, where nothing limits its age; a person who sets content_max_age has decided."""
    found = content_age.unchanged_since(state(*dates, changed=changed), max_age, NOW)
    assert found == (changed if is_told else 0.0)


# --- real lists


@dataclass
class Said:
    """What `status --json` says of a source, its alarms, and the exit status."""

    source: dict[str, Any]
    alarms: list[dict[str, Any]]
    code: int
    text: str = field(repr=False)


class Dated(Backup):
    """A backup MX whose lists have dates, by a clock for the whole program."""

    def put(self, source: str, addresses: set[str], *, made: float | None = None, expires: float | None = None) -> None:
        """Replace a list; ``made`` and ``expires`` go into its first lines."""
        lines = [f"# made: {machine_moment(made)}"] if made is not None else []
        lines += [f"# expires: {machine_moment(expires)}"] if expires is not None else []
        new = self.directory / "new.list"
        new.write_text("\n".join([*lines, *sorted(addresses), ""]), encoding="utf-8")
        os.utime(new, (self.now, self.now))
        new.replace(self.file(source))

    def run(self, verb: str = "sync", *args: str, code: int = 0) -> SyncResult:
        """Run a verb that prints a result. The run takes some seconds: the next one must not be before its end."""
        status, out, err = run_at(self.now, verb, *args, "--json", config=self.configure())
        self.wait(TOOK)
        assert status == code, f"{verb} exited {status}, not {code}: {out}{err}"
        return msgspec.json.decode(out, type=SyncResult)

    def text(self, verb: str, *args: str) -> str:
        """Return what a verb prints for people, its errors included."""
        _, out, err = run_at(self.now, verb, *args, config=self.configure())
        return out + err

    def asked(self, source: str = "corp") -> Said:
        """Ask `status`."""
        code, out, _ = run_at(self.now, "status", "--json", config=self.configure())
        found = json.loads(out)
        (own,) = (one for one in found["sources"] if one["name"] == source)
        return Said(own, found["alarms"], code, self.text("status"))

    def checked(self, check: str) -> list[dict[str, Any]]:
        """Return the findings of a check that are not "ok"."""
        _, out, _ = run_at(self.now, "check", "--offline", "--json", config=self.configure())
        return [one for one in json.loads(out)["findings"] if one["check"] == check and one["severity"] != "ok"]


@pytest.fixture
def mx(tmp_path: Path) -> Dated:
    """Return a backup MX with two sources of a domain each, nothing of which is in doubt; ``corp`` has a date."""
    backup = Dated(tmp_path, "corp", "extra", relay_domains=("example.com", "example.org"))
    backup.limits["removed_percent"] = 100
    backup.limits["collect"] = "0s"
    backup.put("corp", people(20), made=backup.now)
    backup.put("extra", people(20, "example.org"))
    for source in backup.sources.values():
        source["confirm_after"] = "0s"
    backup.run()
    backup.wait(2 * HOUR)
    assert backup.run().doubts == ()
    return backup


def test_from_outdated_to_current(mx: Dated) -> None:
    """Outdated: 75, doubt, its own removals held, additions flow. A new list ends all of that; what is gone, goes."""
    mx.wait(21 * HOUR)
    assert mx.run().exit_code == 0
    assert mx.asked().code == 0
    mx.wait(2 * HOUR)
    assert mx.asked().source["outdated"], "status knows without a run"
    result = mx.run(code=OUTDATED)
    assert {report.name for report in result.sources if report.outdated} == {"corp"}
    assert why(result) == {"source-outdated"}
    assert mx.in_doubt() == {"example.com"}

    said = mx.asked()
    assert said.code == OUTDATED
    assert (said.source["state"], said.source["stale"], said.source["outdated"]) == ("whole", False, True)
    assert [alarm["kind"] for alarm in said.alarms] == ["outdated"]
    assert "WARNING: data of source corp outdated since" in said.text
    (finding,) = mx.checked("data-is-current")
    assert (finding["severity"], finding["subject"]) == ("error", "corp")

    mx.put("corp", people(19) | {"new@example.com"}, made=mx.now - 30 * HOUR)  # a dead producer's older file
    stuck = mx.run(code=OUTDATED)
    assert [report.state for report in stuck.sources] == ["failing", "same"]
    mx.put("corp", people(19) | {"new@example.com"}, made=START)  # as old as the last one
    mx.put("extra", people(19, "example.org"))
    held = mx.run(code=OUTDATED)
    assert {(hold.domain, hold.count) for hold in held.plan.holds} == {("example.com", 1)}, held.plan.holds
    assert {reason.kind for hold in held.plan.holds for reason in hold.reasons} == {"source-outdated"}
    assert mx.published() == people(20) | {"new@example.com"} | people(19, "example.org"), "the other source removes"
    assert why(held, "example.org") == set()
    assert "waiting for newer data of source corp" in mx.text("plan")
    assert "held until the data of corp is not outdated" in mx.text("status")

    mx.put("corp", people(19) | {"new@example.com"}, made=mx.now)
    done = mx.run()
    assert done.plan.holds == ()
    assert mx.published() == people(19) | {"new@example.com"} | people(19, "example.org")
    assert mx.asked().code == 0
    assert mx.checked("data-is-current") == []
    mx.wait(2 * HOUR)
    mx.run()
    mx.wait(HOUR)
    assert why(mx.run()) == set()
    assert "example.com" not in mx.in_doubt()


def test_it_expires(mx: Dated) -> None:
    """The list's own end counts, to the second, whatever its age; a run that fetches nothing new notices it."""
    mx.put("corp", people(20), made=mx.now, expires=mx.now + HOUR)
    end = mx.now + HOUR
    mx.run()
    mx.set_clock(end - 1)
    assert mx.run().exit_code == 0
    mx.set_clock(end)
    result = mx.run(code=OUTDATED)
    (corp, _) = result.sources
    assert (corp.state, corp.outdated, corp.outdated_at) == ("same", True, int(end))


def test_a_longer_age_and_any_age(mx: Dated) -> None:
    """content_max_age of the source overrides a day; "0s" is no limit, but does not overrule `# expires`."""
    mx.wait(5 * DAY)
    mx.run(code=OUTDATED)
    mx.sources["corp"]["content_max_age"] = "7d"
    assert mx.asked().code == 0
    mx.run()
    mx.wait(5 * DAY)
    mx.run(code=OUTDATED)
    mx.sources["corp"]["content_max_age"] = "0s"
    mx.run()
    mx.put("corp", people(20), made=mx.now, expires=mx.now + HOUR)
    mx.wait(HOUR)
    mx.run(code=OUTDATED)


def test_the_time_of_a_file_counts_only_where_it_is_asked_for(mx: Dated) -> None:
    """Also for a file that is as it was when content_max_age was set; touch(1) renews it."""
    mx.wait(20 * HOUR)
    mx.run()
    shown = mx.asked("extra")
    assert shown.source["made"] == pytest.approx(START, abs=10), "its own time is shown in any case"
    mx.sources["extra"]["content_max_age"] = "12h"
    assert {report.name for report in mx.run(code=OUTDATED).sources if report.outdated} == {"extra"}
    os.utime(mx.file("extra"), (mx.now, mx.now))
    mx.run()


def test_a_source_of_an_older_version_that_has_not_changed(mx: Dated, tmp_path: Path) -> None:
    """Its state has no dates: an answer "same" has the file's time, and no fetch is needed for it."""
    import sqlite3
    from contextlib import closing

    with closing(sqlite3.connect(mx.state / "state.db")) as database, database:
        for name, text in database.execute("SELECT name, state FROM source").fetchall():
            known = json.loads(text)
            del known["dates"], known["changed"]
            database.execute("UPDATE source SET state = ? WHERE name = ?", (json.dumps(known), name))
    mx.sources["extra"]["content_max_age"] = "1h"
    result = mx.run(code=OUTDATED)
    assert [(report.name, report.state, report.outdated) for report in result.sources] == [
        ("corp", "same", False),
        ("extra", "same", True),
    ]
    assert mx.asked("corp").source["changed"] == pytest.approx(mx.now, abs=10), "it counts from now on"


def test_of_a_directory_the_oldest_file_counts(mx: Dated) -> None:
    """By its own time each; a file that is new may be older than the others, no file may go back."""
    lists = mx.directory / "lists"
    lists.mkdir()
    mx.sources["corp"]["path"] = str(lists)
    for name, age in (("a", 0.0), ("b", HOUR)):
        mx.put("corp", people(20), made=mx.now - age)
        mx.file("corp").rename(lists / name)
    assert mx.run().sources[0].outdated_at == pytest.approx(mx.now - HOUR + DAY, abs=10)
    mx.put("corp", {"c@example.com"}, made=mx.now - 2 * HOUR)
    mx.file("corp").rename(lists / "c")
    assert mx.run().sources[0].outdated_at == pytest.approx(mx.now - 2 * HOUR + DAY, abs=10)
    mx.put("corp", people(20), made=mx.now - 3 * HOUR)
    mx.file("corp").rename(lists / "a")
    (corp, _) = mx.run(code=OUTDATED).sources
    assert corp.state == "failing"
    assert corp.error.startswith(f"{lists / 'a'} was made 20")
    assert "run the program that makes it again" in corp.error


def test_a_list_that_was_made_in_the_future(mx: Dated) -> None:
    """It is warned of, and taken as of now; it is outdated as if it had been made when it was read."""
    mx.put("corp", people(20), made=mx.now + 365 * DAY)
    (note,) = (note for note in mx.run().note_facts if note.kind == "made-ahead")
    assert (note.subject, note.detail) == ("corp", "364d23h")
    mx.wait(23 * HOUR)
    mx.file("corp").touch()
    assert [one.kind for one in mx.run().note_facts] == ["made-ahead"]
    mx.wait(2 * HOUR)
    mx.run(code=OUTDATED)
    mx.put("corp", people(20), made=mx.now)
    assert mx.run().note_facts == ()
    mx.put("corp", people(20), made=mx.now + 5 * MINUTE)
    assert mx.run().note_facts == ()


@pytest.mark.parametrize("heading", ["# made: yesterday", "# expires: 2030-01-01", "# made:"])
def test_a_malformed_date_fails_the_source(mx: Dated, heading: str) -> None:
    """Its last list stays in force, and the message says what to write."""
    mx.file("corp").write_text(f"{heading}\na@example.com\n")
    (corp, _) = mx.run(code=75).sources
    assert corp.state == "failing"
    assert f'{mx.file("corp")}: "{heading}' in corp.error
    assert "(RFC 3339)" in corp.error
    assert mx.published() >= people(20)


def test_formats_without_comments(mx: Dated) -> None:
    """In a CSV file such a line is data: only its mtime is known."""
    mx.sources["corp"] |= {"format": "csv", "column": "mail", "content_max_age": "1h"}
    mx.file("corp").write_text("mail\n" + "".join(f"{one}\n" for one in sorted(people(20))))
    os.utime(mx.file("corp"), (mx.now, mx.now))
    mx.run()
    mx.wait(HOUR)
    mx.run(code=OUTDATED)


def test_failing_and_outdated(mx: Dated) -> None:
    """Both are said; while it fails, every removal is held."""
    mx.wait(2 * DAY)
    mx.break_source("corp")
    mx.put("extra", people(19, "example.org"))
    result = mx.run(code=OUTDATED)
    (corp, _) = result.sources
    assert (corp.state, corp.outdated) == ("failing", True)
    assert why(result) >= {"source-failing", "source-outdated"}
    assert {hold.domain for hold in result.plan.holds} == {"example.org"}
    kinds = {alarm["kind"] for alarm in mx.asked().alarms}
    assert "outdated" in kinds


def test_an_outdated_list_is_published_at_first(tmp_path: Path) -> None:
    """Additions flow from the start; the domain is in doubt, and the exit status says it."""
    mx = Dated(tmp_path)
    mx.put("corp", people(3), made=mx.now - 2 * DAY)
    result = mx.run(code=OUTDATED)
    assert result.status == "published"
    assert mx.published() == people(3)
    assert "source-outdated" in why(result)


def test_check_warns_of_data_that_does_not_change(mx: Dated) -> None:
    """After 30 days, where no age is set; any change begins anew."""
    mx.wait(29 * DAY)
    mx.run(code=OUTDATED)
    assert mx.checked("data-unchanged") == []
    mx.wait(2 * DAY)
    mx.run(code=OUTDATED)
    (finding,) = mx.checked("data-unchanged")
    assert (finding["severity"], finding["subject"]) == ("warning", "extra")
    mx.sources["extra"]["content_max_age"] = "0s"
    assert mx.checked("data-unchanged") == []
    del mx.sources["extra"]["content_max_age"]
    mx.put("extra", people(21, "example.org"))
    mx.run(code=OUTDATED)
    assert mx.checked("data-unchanged") == []


def test_the_table_of_status(mx: Dated) -> None:
    """The data's own time is beside the times of the last whole answer and of the last question."""
    mx.wait(HOUR)
    lines = [line.split() for line in mx.text("status").splitlines()]
    (head,) = (line for line in lines if line[:1] == ["SOURCE"])
    assert head[-3:] == ["DATA", "WHOLE", "ASKED"]
    (corp,) = (line for line in lines if line[:1] == ["corp"])
    assert corp[:2] == ["corp", "whole"]
    assert [word[:2] for word in corp[-6:]] == ["3h", "ag", "1h", "ag", "1h", "ag"]


def test_what_quiet_prints(mx: Dated) -> None:
    """Once when it begins, in the view and not below it again; a day later once more; and that it is over."""
    told = "data of source corp is outdated since"

    def quiet() -> str:
        printed = mx.text("sync", "--quiet")
        mx.wait(TOOK)
        return printed

    quiet()
    assert quiet() == ""
    mx.wait(DAY)
    assert quiet().count(told) == 1
    assert quiet() == ""
    mx.wait(DAY)
    assert quiet().count(told) == 1
    mx.put("corp", people(20), made=mx.now)
    assert quiet().startswith(f"over: {told}")
    assert quiet() == ""


@pytest.mark.parametrize("mtime", [0.0, -1e9, -1e11])
def test_a_file_from_before_there_was_time(mx: Dated, mtime: float) -> None:
    """Its age counts, and can be shown."""
    mx.sources["extra"]["content_max_age"] = "7d"
    os.utime(mx.file("extra"), (mtime, mtime))
    assert [report.name for report in mx.run(code=OUTDATED).sources if report.outdated] == ["extra"]
    assert "data of source extra is outdated since 1970-01-08" in mx.text("status")


def test_a_person_may_approve_what_outdated_data_holds(mx: Dated) -> None:
    """As with failing sources: exactly what was held under the ID goes."""
    mx.wait(2 * DAY)
    mx.put("corp", people(19), made=START)
    (hold,) = mx.run(code=OUTDATED).plan.holds
    assert hold.approvable
    mx.run("approve", hold.id, code=OUTDATED)
    assert mx.published() == people(19) | people(20, "example.org")
