"""Doubts in groups for people, and which of them are told by their age."""

import pytest

from syncagent.model import Doubt, DoubtKind
from syncagent.state import alarms
from syncagent.state.alarms import Alarm
from syncagent.state.doubt_groups import INTENDED, Causes, DoubtGroup, ages, grouped
from syncagent.state.messages import doubt_briefly, doubt_group, moment

HOUR, WEEK = 3600.0, 7 * 86400.0
NOW = 1_900_000_000.0
QUIET = Causes(stale_at={"corp": NOW + HOUR})
"""The source corp fails, and its data counts as stale in an hour only."""


def of(doubt: Doubt, age: float, causes: Causes = QUIET) -> list[Alarm]:
    """Return the alarms of a doubt of this age."""
    since = Doubt(doubt.domain, doubt.kind, doubt.subject, NOW - age, NOW, doubt.until, doubt.lingers_until)
    return list(alarms.of_doubts([since], {"example.com"}, causes, NOW))


def test_many_domains_with_one_reason_are_one_group() -> None:
    """All relay domains are a number; some are the first names and a number; few are names."""
    names = [f"d{number:04}.example" for number in range(5000)]
    doubts = [Doubt(name, "source-failing", "corp", NOW, NOW) for name in names]
    (group,) = grouped(doubts, names)
    assert doubt_group(group) == f"all 5,000 relay domains: source corp is failing, since {moment(NOW)}"
    (group,) = grouped(doubts[:-1], names)
    assert doubt_group(group).startswith("d0000.example, d0001.example, d0002.example and 4,996 more domains: ")
    (group,) = grouped(doubts[:2], names[:2])
    assert doubt_group(group).startswith("d0000.example, d0001.example: ")


def test_groups_are_of_one_reason_each() -> None:
    """A group has the earliest begin and the latest end; one that does not end by time has none."""
    doubts = [
        Doubt("a.example", "new", "", NOW, NOW, NOW + 1),
        Doubt("b.example", "new", "", NOW - 5, NOW, NOW + 9),
        Doubt("a.example", "source-failing", "corp", NOW, NOW),
        Doubt("a.example", "source-failing", "extra", NOW - 900, NOW - 10, lingers_until=NOW + 290),
    ]
    assert grouped(doubts, ["a.example", "b.example"]) == (
        DoubtGroup("new", "", ("a.example", "b.example"), every=True, since=NOW - 5, until=NOW + 9),
        DoubtGroup("source-failing", "corp", ("a.example",), every=False, since=NOW, until=0.0),
        DoubtGroup("source-failing", "extra", ("a.example",), every=False, since=NOW - 900, until=NOW + 290, over=True),
    )


def test_the_line_of_a_run_is_short() -> None:
    """Three reasons are shown, with what is true before what lingers, and the number of the others."""
    doubts = [Doubt("a.example", "source-failing", f"s{number}", NOW, NOW) for number in range(4)]
    assert doubt_briefly(grouped(doubts[:1], ["a.example", "b.example"]), None) == (
        "doubt: a.example (source s0 is failing); unknown recipients get 450"
    )
    line = doubt_briefly(grouped(doubts, ["a.example"]), None)
    assert line.endswith("a.example (source s2 is failing); 1 more reason; unknown recipients get 450")
    assert doubt_briefly((), None) == ""
    assert doubt_briefly((), NOW).startswith("doubt: removed recipients, the first until ")


@pytest.mark.parametrize(("age", "severity"), [(HOUR - 1, None), (HOUR, "warning"), (8 * HOUR - 1, "warning")])
@pytest.mark.parametrize("kind", ["source-failing", "dead", "boot", "map"])
def test_a_warning_after_an_hour(kind: DoubtKind, age: float, severity: str | None) -> None:
    """A doubt that nobody wants is a warning after an hour."""
    causes = Causes(stale_at={"corp": NOW + 20 * HOUR})
    found = of(Doubt("example.com", kind, "corp"), age, causes)
    assert [alarm.severity for alarm in found] == ([severity] if severity else [])


def test_an_error_after_eight_hours() -> None:
    """The key of the alarm stays the same, so that it is the same one that becomes an error."""
    causes = Causes(stale_at={"corp": NOW + 20 * HOUR})
    (early,) = of(Doubt("example.com", "source-failing", "corp"), 2 * HOUR, causes)
    (late,) = of(Doubt("example.com", "source-failing", "corp"), 8 * HOUR, causes)
    assert (early.severity, late.severity) == ("warning", "error")
    assert early.key == late.key == "doubt source-failing corp"
    assert "unknown recipients get 450: example.com: source corp is failing" in late.text


@pytest.mark.parametrize("kind", [*sorted(INTENDED), "canary", "source-stale", "failed"])
def test_what_is_wanted_or_told_otherwise(kind: DoubtKind) -> None:
    """What a person or the configuration wants has no alarm, nor what has one of its own."""
    assert of(Doubt("example.com", kind, "corp"), 30 * HOUR) == []
    assert ages([Doubt("example.com", kind, "corp", NOW - HOUR)], QUIET, NOW) == {}


@pytest.mark.parametrize("kind", ["unlisted", "empty"])
def test_what_lasts_is_repeated_weekly(kind: DoubtKind) -> None:
    """A person has to settle it: it stays a warning, and is told each week; metrics do not have its age."""
    (alarm,) = of(Doubt("example.com", kind, "corp"), 30 * HOUR)
    assert (alarm.severity, alarm.repeat) == ("warning", WEEK)
    assert of(Doubt("example.com", kind, "corp"), HOUR - 1) == []
    assert ages([Doubt("example.com", kind, "corp", NOW - HOUR)], QUIET, NOW) == {}


def test_nothing_is_published_yet() -> None:
    """Then every domain is empty, which the alarm `incomplete` says already."""
    assert of(Doubt("example.com", "empty"), 30 * HOUR, Causes(stale_at={}, published=False)) == []


def test_a_held_catch_all_has_its_own_alarm() -> None:
    """The alarm `catch-all` says what to do; another source's unlisted recipients are another thing."""
    causes = Causes(stale_at={}, catch_alls={("example.com", "corp")})
    assert of(Doubt("example.com", "unlisted", "corp"), 30 * HOUR, causes) == []
    assert of(Doubt("example.com", "unlisted", "extra"), 30 * HOUR, causes)


@pytest.mark.parametrize(
    ("stale_at", "told"),
    [
        ({"corp": NOW - HOUR}, False),
        ({"corp": NOW - HOUR + 300}, False),
        ({"corp": NOW - HOUR + 301}, True),
        ({}, False),
    ],
    ids=["stale before the warning", "at the same time", "stale later", "whole again"],
)
def test_a_failing_source_that_is_stale(stale_at: dict[str, float], *, told: bool) -> None:
    """The alarm of stale data is enough if it comes first; an alarm that came before it stays."""
    found = of(Doubt("example.com", "source-failing", "corp"), 2 * HOUR, Causes(stale_at=stale_at))
    assert bool(found) is told


@pytest.mark.parametrize(
    ("subject", "held", "told"),
    [
        ("percent", False, False),
        ("percent", True, False),
        ("source-failing", True, False),
        ("source-failing", False, True),
    ],
)
def test_a_hold(subject: str, *, held: bool, told: bool) -> None:
    """A hold has its alarm, unless it only waits for a failing source."""
    causes = Causes(stale_at={"corp": NOW + HOUR}, held={"example.com"} if held else ())
    assert bool(of(Doubt("example.com", "hold", subject), 2 * HOUR, causes)) is told


def test_what_lingers_is_not_told() -> None:
    """A reason that is not true any more needs nobody."""
    assert of(Doubt("example.com", "map", lingers_until=NOW + 100), 9 * HOUR) == []
    assert of(Doubt("example.com", "empty", lingers_until=NOW + 100), 9 * HOUR) == []
    assert ages([Doubt("example.com", "map", "", NOW - HOUR, lingers_until=NOW + 9)], QUIET, NOW) == {}


def test_the_alarm_names_the_domains_that_are_old_enough() -> None:
    """A domain that came into doubt just now is not among them; the age is that of the oldest."""
    doubts = [
        Doubt("old.example", "map", "", NOW - 9 * HOUR, NOW),
        Doubt("less.example", "map", "", NOW - 2 * HOUR, NOW),
        Doubt("young.example", "map", "", NOW - 60, NOW),
    ]
    (alarm,) = alarms.of_doubts(doubts, {"old.example", "less.example", "young.example"}, QUIET, NOW)
    assert alarm.severity == "error"
    assert "less.example, old.example: " in alarm.text
    assert ages(doubts, QUIET, NOW) == {"old.example": 9 * HOUR, "less.example": 2 * HOUR, "young.example": 60}


def test_a_begin_that_is_not_known() -> None:
    """A mark without a time, or with one in the future, is of age 0."""
    doubts = [Doubt("example.com", "dead"), Doubt("example.org", "dead", since=NOW + 5)]
    assert ages(doubts, QUIET, NOW) == {"example.com": 0, "example.org": 0}
