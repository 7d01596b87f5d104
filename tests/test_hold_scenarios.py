"""Holds of large losses, each rule by a scenario through `syncagent sync` itself, with real postmap."""

import os
from collections.abc import Callable, Iterable
from pathlib import Path
from unittest.mock import patch

import pytest
from msgspec.structs import replace

from syncagent.config import load as configuration
from syncagent.model import SyncResult
from syncagent.sources import Answer, Request
from syncagent.sync import run as sync_module
from tests.scenario import HOUR, MINUTE, Scenario, only_hold, people, reasons, timed_scenario
from tests.support.fetching import Says
from tests.support.postmap import broken_postmap

OK, USAGE, HELD, CANNOT_PUBLISH = 0, 64, 65, 73
DAY = 24 * HOUR


@pytest.fixture
def timed(tmp_path: Path) -> Scenario:
    """One source with 100 people of example.com, who are published; a clock of its own, and the usual grace."""
    return timed_scenario(tmp_path)


def test_a_small_domain_that_loses_most_is_held(tmp_path: Path) -> None:
    """Five of six are within the floor, and held all the same; two of six flow, and then one more makes half."""
    scenario = Scenario(tmp_path)
    scenario.write("corp", people(6))
    scenario.sync()
    scenario.write("corp", people(1))
    held = scenario.sync(code=HELD)
    assert reasons(held) == {"example.com": {"half"}}
    assert "5 of 6: at least half of them" in only_hold(held).reasons[0].text
    assert scenario.published() == people(6)
    scenario.write("corp", people(4))
    assert not scenario.sync().plan.holds
    scenario.write("corp", people(3))
    assert "3 of 6 (2 of them in the last 1d)" in only_hold(scenario.sync(code=HELD)).reasons[0].text
    assert scenario.published() == people(4)


def test_one_of_two_may_go(tmp_path: Path) -> None:
    """Half of a domain is at least two."""
    scenario = Scenario(tmp_path)
    scenario.write("corp", people(2))
    scenario.sync()
    scenario.write("corp", people(1))
    scenario.sync()
    assert scenario.published() == people(1)


def test_a_large_domain_that_loses_a_department_is_held(tmp_path: Path) -> None:
    """900 of 10,000 are within removed_percent, and more than removed_max; by a larger one, they go."""
    scenario = Scenario(tmp_path)
    everybody = people(10_000)
    scenario.write("corp", everybody)
    scenario.sync()
    left = everybody - people(900)
    scenario.write("corp", left)
    held = scenario.sync(code=HELD)
    assert reasons(held) == {"example.com": {"max"}}
    assert "900 of 10,000, over 500 (removed_max)" in only_hold(held).reasons[0].text
    assert scenario.published() == everybody
    scenario.limits["removed_max"] = 900
    scenario.sync()
    assert scenario.published() == left


@pytest.mark.parametrize(
    ("limit", "own", "expected"),
    [
        (4, {}, {"example.com": {"max"}, "example.org": {"max"}}),
        (12, {}, {}),
        (11, {}, {"example.com": {"max"}, "example.org": {"max"}}),
        (12, {"example.org": {"removed_max": 4}}, {"example.org": {"max"}, "example.com": {"same-answer"}}),
    ],
)
def test_the_maximum_counts_for_each_domain_and_the_whole_map(
    tmp_path: Path, limit: int, own: dict[str, dict[str, object]], expected: dict[str, set[str]]
) -> None:
    """Seven of one domain and five of another go, or are held; what the same answer lacks is held with them."""
    scenario = Scenario(tmp_path, relay_domains=("example.com", "example.org"))
    scenario.limits["removed_max"] = limit
    scenario.domain_limits = own
    before = people(100) | people(100, "example.org")
    scenario.write("corp", before)
    scenario.sync()
    after = people(93) | people(95, "example.org")
    scenario.write("corp", after)
    result = scenario.sync(code=HELD if expected else OK)
    assert reasons(result) == expected
    assert scenario.published() == (before if expected else after)


def test_a_hidden_department_and_a_leaver_are_held_together(tmp_path: Path) -> None:
    """Who is missing elsewhere by the same answer stays with the main hold, and is approved with it alone."""
    scenario = Scenario(tmp_path, relay_domains=("example.com", "example.org"))
    scenario.set_clock()
    scenario.write("corp", people(100) | people(100, "example.org"))
    scenario.sync()
    scenario.write("corp", people(88) | people(99, "example.org"))
    first = scenario.sync(code=HELD)
    assert reasons(first) == {"example.com": {"percent"}, "example.org": {"same-answer"}}
    scenario.wait(DAY)
    scenario.write("corp", people(88) | people(98, "example.org"))
    holds = {hold.domain: hold for hold in scenario.sync(code=HELD).plan.holds}
    assert {hold.id for hold in holds.values()} == {hold.id for hold in first.plan.holds}
    assert scenario.published() == people(100) | people(98, "example.org") | {"user099@example.org"}
    refused = scenario.say("approve", holds["example.org"].id, code=USAGE).stderr
    assert f"{holds['example.org'].id} is approved with {holds['example.com'].id}" in refused
    assert not scenario.approve(holds["example.com"].id).plan.holds
    assert scenario.published() == people(88) | people(98, "example.org")


@pytest.mark.parametrize(
    ("every", "shift"), [(40, 7), pytest.param(2, 1, marks=[pytest.mark.proof, pytest.mark.timeout(3600)])]
)
def test_two_hosts_tell_of_a_slow_deletion_alike(
    tmp_path: Path, every: int, shift: int, record_property: Callable[[str, object], None]
) -> None:
    """200 removals over ten minutes, by polls that are shifted: one frozen hold, the same on both."""
    everybody, hosts = sorted(people(400)), []
    for start in (0, shift):
        scenario = Scenario(tmp_path / str(start))
        scenario.limits["removal_grace"] = "1h"
        scenario.set_clock()
        scenario.write("corp", everybody)
        scenario.sync()
        scenario.wait(start)
        frozen: dict[str, int] = {}
        for poll in range(920 // every):
            scenario.wait(every)
            scenario.write("corp", everybody[min((poll * every + start) // 3, 200) :])
            result = scenario.sync(code=None)
            frozen |= {hold.id: hold.count for hold in result.plan.holds if hold.is_frozen}
        assert scenario.published() == set(everybody)
        assert {hold.id: hold.count for hold in result.plan.holds if hold.is_frozen} == frozen
        hosts.append(frozen)
    record_property("figures", f"a poll each {every} s, shifted by {shift} s, holds {len(hosts[0])}")
    assert hosts[0] == hosts[1]
    assert list(hosts[0].values()) == [200]


def test_the_same_set_held_again_needs_a_person_again(timed: Scenario) -> None:
    """An approval that no run could carry out is void when the hold ends otherwise; the ID is the same."""
    timed.own_postmap()
    ids = []
    for _ in range(2):
        timed.write("corp", people(40))
        timed.sync(code=HELD)
        timed.wait(10 * MINUTE)
        hold = only_hold(timed.sync(code=HELD))
        assert (hold.is_frozen, hold.approved_at) == (True, 0)
        ids.append(hold.id)
        timed.postmap_fails.touch()
        timed.say("approve", hold.id, code=CANNOT_PUBLISH)
        timed.postmap_fails.unlink()
        timed.write("corp", people(100))
        timed.sync()
        assert timed.published() == people(100)
        timed.say("approve", hold.id, code=USAGE)
    assert ids[0] == ids[1]


@pytest.mark.parametrize(("days", "code"), [(6.9, HELD), (7.1, USAGE)])
def test_an_id_that_was_replaced_can_be_approved_for_a_week(timed: Scenario, days: float, code: int) -> None:
    """It lets go exactly the set that it was shown for, and then it is unknown."""
    timed.limits["removal_grace"] = "30d"
    timed.write("corp", people(60))
    first = only_hold(timed.sync(code=HELD))
    timed.wait(MINUTE)
    timed.write("corp", people(30))
    second = only_hold(timed.sync(code=HELD))
    assert (first.id != second.id, second.count) == (True, 70)
    timed.wait(days * DAY)
    assert only_hold(timed.sync(code=HELD)).id == second.id
    if code == USAGE:
        assert "unknown hold ID" in timed.say("approve", first.id, code=USAGE).stderr
    else:
        timed.approve(first.id, code=HELD)
    timed.sync(code=HELD)
    assert timed.published() == (people(60) if code == HELD else people(100))


def test_an_approval_ends_when_the_set_was_back_while_nothing_could_be_published(
    timed: Scenario, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No run that can publish sees them back; held again, they need a person again."""
    timed.write("corp", people(80))
    hold = only_hold(timed.sync(code=HELD))
    with monkeypatch.context() as path:
        path.setenv("PATH", f"{broken_postmap(timed.directory)}{os.pathsep}{os.environ['PATH']}")
        timed.wait(MINUTE)
        timed.approve_unchecked(hold.id, 73)
        timed.write("corp", people(101))
        timed.wait(MINUTE)
        timed.sync_unchecked(73)
    timed.write("corp", people(80))
    timed.wait(DAY)
    assert only_hold(timed.sync(code=HELD)).count == 20
    assert timed.published() == people(100)
    timed.approve(only_hold(timed.sync(code=HELD)).id)
    assert timed.published() == people(80)


@pytest.mark.parametrize("split", [False, True])
def test_who_is_left_when_a_hold_ends_waits_anew(tmp_path: Path, split: bool) -> None:  # noqa: FBT001 - a parameter
    """A hold ends without a person, as most are back or its domain was split: what is left does not go at once."""
    mx = Scenario(tmp_path, relay_domains=("example.com", "example.org"))
    mx.limits = {}
    mx.set_clock()
    others = people(20, "sub.example.com") | people(400, "example.org")
    mx.write("corp", people(20) | others)
    mx.sync()
    left = people(17) | (others - people(3, "sub.example.com"))
    mx.write("corp", left)
    mx.wait(HOUR)
    assert only_hold(mx.sync(code=HELD)).count == 6
    mx.wait(3 * DAY)
    mx.sync(code=HELD)
    if split:
        mx.relay_domains.append("sub.example.com")
    else:
        mx.write("corp", left := left | people(20))
    gone = 6 if split else 3
    result = mx.sync()
    assert (result.plan.in_grace, result.plan.removed) == (gone, 0)
    mx.wait(HOUR + MINUTE)
    assert mx.sync().plan.removed == gone
    assert mx.published() == left


class Directory:
    """A backup MX with one source whose entries have DNs, three of them in a container of their own."""

    def __init__(self, directory: Path) -> None:
        self.hidden = people(3)
        self.entries = {
            name: f"uid={name},ou={'hidden' if name in self.hidden else 'seen'},dc=example" for name in people(100)
        }
        self.mx = Scenario(directory)
        self.mx.set_clock()
        self.mx.write("corp", [])

    def run(self, names: Iterable[str], code: int = OK) -> SyncResult:
        """Do a run in which the source has these."""

        def fetch(request: Request) -> Answer:
            request.sink.put((name, self.entries[name], self.entries[name]) for name in sorted(names))
            return Answer(containers=True)

        self.mx.wait(MINUTE)
        config = replace(configuration.load(self.mx.configure()), sources={"corp": Says(fetch).configured("corp")})
        with patch.object(sync_module, "clock", lambda: self.mx.now):
            result = sync_module.sync_once(config, sync_module.Options())
        assert result.exit_code == code
        return result


def test_a_hidden_container_is_held(tmp_path: Path) -> None:
    """Three entries are below every limit; held, with a leaver of the same answer, until one of them is back."""
    corp = Directory(tmp_path)
    everybody = corp.entries.keys()
    corp.run(everybody)
    seen = everybody - {"user060@example.com"}
    held = corp.run(seen - corp.hidden, HELD)
    assert {reason.kind for hold in held.plan.holds for reason in hold.reasons} == {"container", "same-answer"}
    assert any(reason.subjects == ("ou=hidden,dc=example",) for hold in held.plan.holds for reason in hold.reasons)
    for _ in range(3):
        corp.mx.wait(DAY)
        assert corp.run(seen - corp.hidden, HELD).plan.removed == 0
    left = seen - {"user000@example.com", "user001@example.com"}
    assert not corp.run(left).plan.holds
    assert corp.mx.published() == left


def test_a_hidden_container_is_held_while_its_hold_is_open(tmp_path: Path) -> None:
    """Also by the runs that no longer see it go: the list that they compare with has it no more."""
    corp = Directory(tmp_path)
    corp.mx.limits = {**corp.mx.limits, "collect": "10m"}
    corp.run(corp.entries)
    left = corp.entries.keys() - corp.hidden - {"user060@example.com"}
    for _ in range(12):
        held = corp.run(left, HELD)
        assert {reason.kind for hold in held.plan.holds for reason in hold.reasons} == {"container", "same-answer"}
    assert all(hold.is_frozen or hold.main for hold in held.plan.holds)
    assert corp.mx.published() == corp.entries.keys()


def test_a_container_that_is_hidden_in_two_answers_is_held(tmp_path: Path) -> None:
    """Neither answer lacks three of it; the first ones wait while the last ones go missing."""
    corp = Directory(tmp_path)
    corp.mx.limits = {}
    corp.run(corp.entries)
    first = corp.entries.keys() - {"user000@example.com", "user001@example.com"}
    assert corp.run(first).plan.in_grace == 2
    left = corp.entries.keys() - corp.hidden
    assert {reason.kind for reason in only_hold(corp.run(left, HELD)).reasons} == {"container"}
    corp.mx.wait(DAY)
    assert only_hold(corp.run(left, HELD)).count == 3
    assert corp.mx.published() == corp.entries.keys()


@pytest.mark.parametrize("how", ["missing", "cut"])
def test_a_container_is_held_where_nobody_knows_what_it_had(tmp_path: Path, how: str) -> None:
    """The list of the last finished run is missing or cut: a container without an entry counts as emptied."""
    corp = Directory(tmp_path)
    corp.mx.limits = {}
    corp.run(corp.entries)
    left = corp.entries.keys() - corp.hidden
    assert corp.run(left | {"user000@example.com"}).plan.in_grace == 2
    for file in (corp.mx.state / "snapshots").iterdir():
        if how == "missing":
            file.unlink()
        else:
            os.truncate(file, 40)
    held = corp.run(left, HELD)
    assert {reason.kind for reason in only_hold(held).reasons} == {"container"}
    assert only_hold(held).count == 2
    assert corp.mx.published() == corp.entries.keys()


def test_a_container_that_keeps_an_entry_is_none(tmp_path: Path) -> None:
    """Two of three go like anybody."""
    corp = Directory(tmp_path)
    corp.run(corp.entries)
    left = corp.entries.keys() - {"user000@example.com", "user001@example.com"}
    assert corp.run(left).plan.removed == 2
    assert corp.mx.published() == left
