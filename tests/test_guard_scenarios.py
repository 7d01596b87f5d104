"""The guard, each rule by a scenario through `syncagent sync` itself, with real postmap."""

import fcntl
import tempfile
import time
from collections import Counter
from pathlib import Path
from random import Random

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from syncagent.model import ALL_DOMAINS, SyncResult
from tests.scenario import HOUR, MINUTE, Scenario, only_hold, people, reasons, timed_scenario
from tests.support.programs import PATIENCE, wait_until

OK, USAGE, HELD, CANNOT_PUBLISH, TEMPORARY = 0, 64, 65, 73, 75
DAY = 24 * HOUR
YOUNG = 2.1
"""Seconds after which a source believes that an untouched file is the same."""


@pytest.fixture
def one(tmp_path: Path) -> Scenario:
    """One source, `corp`, with 100 people of example.com, who are published."""
    scenario = Scenario(tmp_path)
    scenario.write("corp", people(100))
    scenario.sync()
    return scenario


@pytest.fixture
def two(tmp_path: Path) -> Scenario:
    """`corp` with 100 people of example.com and `extra` with 50 of example.org, who are published."""
    scenario = Scenario(tmp_path, "corp", "extra", relay_domains=("example.com", "example.org"))
    scenario.write("corp", people(100))
    scenario.write("extra", people(50, "example.org"))
    scenario.sync()
    return scenario


@pytest.fixture
def timed(tmp_path: Path) -> Scenario:
    """As `one`, with the usual grace of an hour and a clock of its own."""
    return timed_scenario(tmp_path)


# --- sources that fail, and sources that say too little


def test_an_empty_source_has_failed(two: Scenario) -> None:
    """An empty file changes nothing of its own and exits 75, while what another source adds goes through."""
    before = two.published()
    two.write("extra", [])
    two.write("corp", people(101))
    result = two.sync(code=TEMPORARY)
    assert [source.state for source in result.sources] == ["whole", "failing"]
    assert "allow_empty" in result.sources[1].error
    assert two.published() == before | people(101)


def test_a_missing_file_is_a_failed_source(two: Scenario) -> None:
    """A file that is away removes nothing, exits 75 each time, and its source is named to people."""
    before = two.published()
    two.break_source("extra")
    assert two.sync(code=TEMPORARY).status == "unchanged"
    assert "source extra is failing" in two.say("sync", code=TEMPORARY).stderr
    assert two.published() == before


def test_an_empty_map_is_never_published(tmp_path: Path) -> None:
    """Where the only source may be empty and is, everything is held, and nobody can approve it."""
    scenario = Scenario(tmp_path)
    scenario.sources["corp"]["allow_empty"] = True
    scenario.write("corp", people(3))
    scenario.sync()
    scenario.write("corp", [])
    result = scenario.sync(code=HELD)
    assert reasons(result) == {"example.com": {"empty-map", "emptied", "half"}}
    assert "approve" not in scenario.say("sync", code=HELD).stdout
    scenario.say("approve", only_hold(result).id, code=USAGE)
    scenario.sync(code=HELD)
    assert scenario.published() == people(3)


def test_a_source_that_may_be_empty_cannot_empty_its_domain(two: Scenario) -> None:
    """Where one of two sources may be empty and is, its domain is held until a person lets it go."""
    two.sources["extra"]["allow_empty"] = True
    two.write("extra", [])
    result = two.sync(code=HELD)
    assert reasons(result)["example.org"] >= {"emptied"}
    assert two.published() == people(100) | people(50, "example.org")
    two.approve(only_hold(result).id)
    assert two.published() == people(100)


def test_only_a_failing_source_is_waited_for(two: Scenario) -> None:
    """While one source fails, what another no longer says stays with exit 75; whole again, it goes by itself."""
    before = two.published()
    two.break_source("extra")
    two.write("corp", people(98))
    waiting = two.sync(code=TEMPORARY)
    assert reasons(waiting) == {"example.com": {"source-failing"}}
    assert "waiting for source extra, which is failing" in only_hold(waiting).reasons[0].text
    assert two.sync(code=TEMPORARY).status == "unchanged"
    assert two.published() == before
    two.write("extra", people(50, "example.org"))
    two.sync()
    assert two.published() == before - people(2, first=98)


def test_what_waits_for_a_source_can_be_approved(two: Scenario) -> None:
    """A person may let go what merely waits; the source still fails, so the exit code stays 75."""
    two.break_source("extra")
    two.write("corp", people(98))
    hold = only_hold(two.sync(code=TEMPORARY))
    two.approve(hold.id, code=TEMPORARY)
    assert two.published() == people(98) | people(50, "example.org")


@pytest.mark.parametrize("late", ["corp", "extra"])
def test_an_address_that_moves_is_never_missing(tmp_path: Path, late: str) -> None:
    """An address that moves from one source to another stays, whichever of them fails in between."""
    scenario = Scenario(tmp_path, "corp", "extra")
    scenario.write("corp", {"mover@example.com", *people(20)})
    scenario.write("extra", people(20, first=50))
    scenario.sync()
    full = scenario.published()
    moved = {"corp": people(20), "extra": {"mover@example.com", *people(20, first=50)}}
    early = "extra" if late == "corp" else "corp"
    scenario.write(early, moved[early])
    scenario.break_source(late)
    scenario.sync(code=TEMPORARY)
    assert scenario.published() == full
    scenario.write(late, moved[late])
    result = scenario.sync()
    assert scenario.published() == full
    assert not result.plan.holds
    assert result.plan.removed == 0


def test_a_source_taken_out_takes_its_few_along(tmp_path: Path) -> None:
    """What only a source taken out of the configuration said is missing like anything else: a few go."""
    scenario = Scenario(tmp_path, "corp", "extra")
    scenario.write("corp", people(100))
    scenario.write("extra", people(3, first=200))
    scenario.sync()
    del scenario.sources["extra"]
    scenario.sync()
    assert scenario.published() == people(100)


def test_a_source_taken_out_is_held_where_it_said_much(tmp_path: Path) -> None:
    """A source taken out of the configuration cannot take many recipients along unseen."""
    scenario = Scenario(tmp_path, "corp", "extra")
    scenario.write("corp", people(100))
    scenario.write("extra", people(30, first=200))
    scenario.sync()
    del scenario.sources["extra"]
    result = scenario.sync(code=HELD)
    assert reasons(result) == {"example.com": {"percent"}}
    assert scenario.published() == people(100) | people(30, first=200)


def test_taking_out_a_failing_source_ends_the_waiting(two: Scenario) -> None:
    """Without the failing source nothing waits for it: others' removals flow, its own domain is held."""
    two.break_source("extra")
    two.write("corp", people(98))
    two.sync(code=TEMPORARY)
    del two.sources["extra"]
    result = two.sync(code=HELD)
    assert reasons(result).keys() == {"example.org"}
    assert two.published() == people(98) | people(50, "example.org")


def test_a_source_renamed_to_one_that_fails_loses_nothing(two: Scenario) -> None:
    """A source that has another name and fails from the start keeps what the old name said."""
    two.sources["renamed"] = two.sources.pop("extra")
    result = two.sync(code=TEMPORARY)
    assert reasons(result)["example.org"] >= {"source-failing"}
    assert two.published() == people(100) | people(50, "example.org")


# --- too much at once


def test_half_gone_is_held_and_adds_flow(one: Scenario) -> None:
    """Where much more than a tenth is gone nothing is removed, what is new is added, and people get the command."""
    one.write("corp", people(40) | people(2, first=500))
    result = one.sync(code=HELD)
    hold = only_hold(result)
    assert result.status == "published"
    assert reasons(result) == {"example.com": {"half", "percent"}}
    assert hold.count == 60
    assert one.published() == people(100) | people(2, first=500)
    told = one.say("sync", code=HELD).stdout
    assert "held: 60 removals of example.com" in told
    assert "60 of 100" in told
    assert f"syncagent --config {one.config} approve {hold.id}" in told


def test_a_standing_hold_says_so_again(one: Scenario) -> None:
    """A run that finds nothing new has the same hold under the same ID, and exits 65 again."""
    one.write("corp", people(40))
    first = only_hold(one.sync(code=HELD))
    for _ in range(2):
        again = one.sync(code=HELD)
        assert again.status == "unchanged"
        assert (only_hold(again).id, only_hold(again).since, only_hold(again).count) == (first.id, first.since, 60)


def test_ten_percent_exactly_flows(one: Scenario) -> None:
    """The limit must be passed to hold: a tenth goes, one more is held."""
    one.write("corp", people(90))
    one.sync()
    assert one.published() == people(90)
    one.write("corp", people(89))
    one.sync(code=HELD)
    assert one.published() == people(90)


def test_the_floor_lets_a_small_list_change(tmp_path: Path) -> None:
    """Five of twelve may go, however large a share that is; six may not."""
    scenario = Scenario(tmp_path)
    scenario.write("corp", people(12))
    scenario.sync()
    scenario.write("corp", people(6))
    scenario.sync(code=HELD)
    assert scenario.published() == people(12)
    scenario.write("corp", people(7))
    scenario.sync()
    assert scenario.published() == people(7)


def test_approving_lets_exactly_the_stored_set_go(one: Scenario) -> None:
    """What joined the open hold after its ID was shown stays; what came back stays anyway."""
    one.write("corp", people(40))
    first = only_hold(one.sync(code=HELD))
    back = {"user099@example.com"}
    one.write("corp", people(33) | back)
    second = only_hold(one.sync(code=HELD))
    assert second.id != first.id
    assert second.count == 59 + 7
    result = one.approve(first.id, code=HELD)
    assert one.published() == people(40) | back
    assert only_hold(result).count == 7
    one.approve(only_hold(result).id)
    assert one.published() == people(33) | back


def test_what_goes_later_is_a_hold_of_its_own(timed: Scenario) -> None:
    """A frozen hold keeps its ID and its set: more that goes has another hold, a few flow, and what returns is free."""
    timed.limits = {"removal_grace": "0s"}
    timed.write("corp", people(85))
    assert only_hold(timed.sync(code=HELD)).collecting
    timed.wait(10 * MINUTE)
    first = only_hold(timed.sync(code=HELD))
    assert first.is_frozen
    timed.wait(DAY)
    back = {"user099@example.com"}
    timed.write("corp", people(82) | back)
    assert only_hold(timed.sync(code=HELD)).id == first.id
    assert timed.published() == people(100) - {f"user{number:03}@example.com" for number in (82, 83, 84)}
    timed.wait(2 * DAY)
    timed.write("corp", people(70) | back)
    holds = {hold.id: hold.count for hold in timed.sync(code=HELD).plan.holds}
    assert holds.pop(first.id) == 14
    assert list(holds.values()) == [12]
    timed.approve(first.id, code=HELD)
    assert timed.published() == people(82) | back


def test_the_same_set_has_the_same_id_on_two_hosts(tmp_path: Path) -> None:
    """Two backups that heard of the removals in different steps name the frozen hold alike."""
    ids = []
    for steps in ((85, 80, 75), (78, 75, 75)):
        scenario = Scenario(tmp_path / f"to-{steps[0]}")
        scenario.set_clock()
        scenario.write("corp", people(100))
        scenario.sync()
        for left in steps:
            scenario.write("corp", people(left))
            scenario.sync(code=HELD)
            scenario.wait(4 * MINUTE)
        ids.append(only_hold(scenario.sync(code=HELD)).id)
    assert ids[0] == ids[1]


def test_an_unknown_id_changes_nothing(one: Scenario) -> None:
    """Where one of the IDs is none, not even the others are approved, and exit code 64 says so."""
    one.write("corp", people(40))
    hold = only_hold(one.sync(code=HELD))
    refused = one.say("approve", hold.id, "zzzzzz", code=USAGE)
    assert "zzzzzz" in refused.stderr
    assert hold.id in refused.stderr
    again = one.sync(code=HELD)
    assert (only_hold(again).id, only_hold(again).approved_at) == (hold.id, 0)
    assert one.published() == people(100)


def test_an_approval_is_for_once(one: Scenario) -> None:
    """The same addresses, back and gone again, need a person again, though their hold has the same ID."""
    one.write("corp", people(40))
    first = only_hold(one.sync(code=HELD))
    one.approve(first.id)
    assert one.published() == people(40)
    one.write("corp", people(100))
    one.sync()
    one.write("corp", people(40))
    second = only_hold(one.sync(code=HELD))
    assert (second.id, second.approved_at) == (first.id, 0)
    one.sync(code=HELD)
    assert one.published() == people(100)


def test_an_approval_outlives_a_publish_that_failed(one: Scenario) -> None:
    """Where publishing fails the old map stays, with exit 73; the approval counts at the next run, and then no more."""
    one.own_postmap()
    one.write("corp", people(40))
    hold = only_hold(one.sync(code=HELD))
    one.postmap_fails.touch()
    failed = one.approve(hold.id, code=CANNOT_PUBLISH)
    assert failed.status == "failed"
    assert "no space left" in failed.error
    assert one.published() == people(100)
    one.postmap_fails.unlink()
    one.sync()
    assert one.published() == people(40)
    one.say("approve", hold.id, code=USAGE)


def test_an_approval_passes_over_the_grace(timed: Scenario) -> None:
    """What a person lets go goes at once, grace or not."""
    timed.write("corp", people(40))
    hold = only_hold(timed.sync(code=HELD))
    timed.wait(MINUTE)
    timed.approve(hold.id)
    assert timed.published() == people(40)


def test_a_hold_ends_with_its_reason(one: Scenario) -> None:
    """Where most of the missing come back the rest goes by itself, and the hold is over."""
    one.write("corp", people(40))
    hold = only_hold(one.sync(code=HELD))
    one.write("corp", people(97))
    assert not one.sync().plan.holds
    assert one.published() == people(97)
    one.say("approve", hold.id, code=USAGE)


def test_one_small_domain_emptied_is_held(two: Scenario) -> None:
    """A domain below the floor is held when it would be emptied, and another domain's removals flow."""
    two.relay_domains.append("small.example")
    two.write("extra", people(50, "example.org") | people(3, "small.example"))
    two.sync()
    two.write("extra", people(48, "example.org"))
    result = two.sync(code=HELD)
    assert reasons(result) == {"small.example": {"emptied", "half"}}
    assert two.published() == people(100) | people(48, "example.org") | people(3, "small.example")


def test_many_small_domains_together_are_held(tmp_path: Path) -> None:
    """Where each domain loses little and the whole much, the whole-limit holds them all, each approved by itself."""
    domains = [f"d{number:02}.example" for number in range(20)]
    scenario = Scenario(tmp_path, relay_domains=domains)
    scenario.write("corp", set().union(*(people(5, domain) for domain in domains)))
    scenario.sync()
    before = scenario.published()
    scenario.write("corp", set().union(*(people(4, domain) for domain in domains)))
    result = scenario.sync(code=HELD)
    assert reasons(result) == {domain: {"whole-percent"} for domain in domains}
    assert scenario.published() == before
    assert not scenario.approve(*(hold.id for hold in result.plan.holds)).plan.holds
    assert scenario.published() == before - {f"user004@{domain}" for domain in domains}


def test_the_whole_limit_passes_over_what_is_held_already(two: Scenario) -> None:
    """A domain's own hold does not stop the few removals of another."""
    two.write("corp", people(40))
    two.write("extra", people(47, "example.org"))
    result = two.sync(code=HELD)
    assert reasons(result) == {"example.com": {"half", "percent"}}
    assert two.published() == people(100) | people(47, "example.org")


def test_a_domain_has_limits_of_its_own(tmp_path: Path) -> None:
    """`[limits."example.org"]` counts for that domain and no other."""
    scenario = Scenario(tmp_path, "corp", "extra", relay_domains=("example.com", "example.org"))
    scenario.domain_limits = {"example.org": {"removed_percent": 50}}
    scenario.write("corp", people(300))
    scenario.write("extra", people(100, "example.org"))
    scenario.sync()
    scenario.write("corp", people(260))
    scenario.write("extra", people(70, "example.org"))
    result = scenario.sync(code=HELD)
    assert reasons(result) == {"example.com": {"percent"}}
    assert scenario.published() == people(300) | people(70, "example.org")


def test_a_domain_may_have_a_stricter_limit(tmp_path: Path) -> None:
    """A domain whose own limits are zero loses nothing unseen."""
    scenario = Scenario(tmp_path, "corp", "extra", relay_domains=("example.com", "example.org"))
    scenario.domain_limits = {"example.org": {"removed_percent": 0, "removed_floor": 0}}
    scenario.write("corp", people(100))
    scenario.write("extra", people(100, "example.org"))
    scenario.sync()
    scenario.write("corp", people(99))
    scenario.write("extra", people(99, "example.org"))
    result = scenario.sync(code=HELD)
    assert reasons(result) == {"example.org": {"percent"}}
    assert scenario.published() == people(99) | people(100, "example.org")


def test_a_slow_bleed_is_a_bleed(timed: Scenario) -> None:
    """Steps of three flow until the day's tenth is used up, and flow again when the first of them is a day old."""
    timed.limits["removal_grace"] = "0s"
    for left in (97, 94, 91):
        timed.wait(HOUR)
        timed.write("corp", people(left))
        timed.sync()
        assert timed.published() == people(left)
    timed.wait(HOUR)
    timed.write("corp", people(88))
    held = timed.sync(code=HELD)
    assert reasons(held) == {"example.com": {"percent"}}
    assert "12 of 100 (9 of them in the last 1d)" in only_hold(held).reasons[0].text
    assert timed.published() == people(91)
    timed.wait(DAY - 3 * HOUR - MINUTE)
    timed.sync(code=HELD)
    assert timed.published() == people(91)
    timed.wait(MINUTE)
    timed.sync()
    assert timed.published() == people(88)


def test_what_was_approved_is_no_bleed(timed: Scenario) -> None:
    """What a person let go does not count against later removals."""
    timed.limits["removal_grace"] = "0s"
    timed.write("corp", people(60))
    timed.approve(only_hold(timed.sync(code=HELD)).id)
    timed.wait(HOUR)
    timed.write("corp", people(55))
    timed.sync()
    assert timed.published() == people(55)


def test_growth_that_grows_old_ends_a_hold(timed: Scenario) -> None:
    """A hold against the size of a day ago is judged anew by itself once the growth since then is a day old."""
    timed.limits["removal_grace"] = "0s"
    timed.wait(2 * DAY)
    timed.write("corp", people(300))
    timed.sync()
    timed.wait(HOUR)
    timed.write("corp", people(285))
    assert "15 of 100" in only_hold(timed.sync(code=HELD)).reasons[0].text
    timed.wait(DAY)
    timed.sync()
    assert timed.published() == people(285)


def test_a_hold_outlives_the_splitting_of_its_domain(tmp_path: Path) -> None:
    """What is held together stays held where the configuration makes two domains of one, and can be approved."""
    scenario = Scenario(tmp_path)
    everybody = people(100) | people(100, "eu.example.com")
    scenario.write("corp", everybody)
    scenario.sync()
    scenario.write("corp", people(40) | people(40, "eu.example.com"))
    assert only_hold(scenario.sync(code=HELD)).count == 120
    scenario.relay_domains.append("eu.example.com")
    result = scenario.sync(code=HELD)
    assert reasons(result) == {"example.com": {"half", "percent"}, "eu.example.com": {"half", "percent"}}
    assert scenario.published() == everybody
    scenario.approve(*{hold.id for hold in result.plan.holds})
    assert scenario.published() == people(40) | people(40, "eu.example.com")


# --- canaries, catch-alls, what is in scope


def test_an_absent_canary_holds_everything(two: Scenario) -> None:
    """Without its canary no domain loses anything, nobody can approve it, and with the canary back all flows."""
    canary = "user007@example.com"
    two.limits["canaries"] = [canary]
    two.sync()
    before = two.published()
    two.write("corp", people(98) - {canary})
    two.write("extra", people(48, "example.org"))
    result = two.sync(code=HELD)
    assert reasons(result) == {"example.com": {"canary"}, "example.org": {"canary"}}
    assert two.published() == before
    told = two.say("sync", code=HELD).stdout
    assert canary in told
    assert "approve" not in told
    for hold in result.plan.holds:
        assert "cannot be approved" in two.say("approve", hold.id, code=USAGE).stderr
    two.sync(code=HELD)
    assert two.published() == before
    two.write("corp", people(98))
    two.sync()
    assert two.published() == people(98) | people(48, "example.org")


def test_a_canary_stops_what_was_approved_before(one: Scenario) -> None:
    """An approval given before the canary went does not let anything go while it is away."""
    one.own_postmap()
    one.limits["canaries"] = ["user007@example.com"]
    one.write("corp", people(40))
    hold = only_hold(one.sync(code=HELD))
    one.postmap_fails.touch()
    one.approve(hold.id, code=CANNOT_PUBLISH)
    one.postmap_fails.unlink()
    one.write("corp", people(40) - {"user007@example.com"})
    one.sync(code=HELD)
    assert one.published() == people(100)


def test_people_are_told_of_an_absent_canary(one: Scenario) -> None:
    """Exit code 65 for a canary that is in no source is explained though nothing is missing."""
    one.limits["canaries"] = ["canary@example.com"]
    result = one.sync(code=HELD)
    assert result.plan.absent_canaries == ("canary@example.com",)
    told = one.say("sync", code=HELD)
    assert "canary@example.com" in told.stdout + told.stderr


def test_a_catch_all_that_is_gone_is_held(one: Scenario) -> None:
    """A domain does not lose its catch-all, and all who rely on it, until a person lets it go."""
    one.catch_all = ["example.com"]
    one.write("corp", people(100) | {"@example.com"})
    one.sync()
    one.write("corp", people(99))
    result = one.sync(code=HELD)
    assert reasons(result) == {"example.com": {"catch-all"}}
    assert one.published() == people(100) | {"@example.com"}
    one.approve(only_hold(result).id)
    assert one.published() == people(99)


def test_a_catch_all_that_nobody_permitted_is_not_added(one: Scenario) -> None:
    """It is a held addition: exit 65 each time, the mend is told, and everything else flows."""
    one.write("corp", people(98) | {"@example.com", "new@example.com"})
    result = one.sync(code=HELD)
    assert result.plan.held_catch_alls == ("@example.com",)
    assert one.published() == people(98) | {"new@example.com"}
    assert "add example.com to postfix.catch_all" in one.say("sync", code=HELD).stdout
    one.catch_all = ["example.com"]
    one.sync()
    assert "@example.com" in one.published()


def test_a_catch_all_no_longer_permitted_is_held(one: Scenario) -> None:
    """Taking the permission back does not take the catch-all away unseen."""
    one.catch_all = ["example.com"]
    one.write("corp", people(100) | {"@example.com"})
    one.sync()
    one.catch_all = []
    result = one.sync(code=HELD)
    assert reasons(result) == {"example.com": {"catch-all"}}
    assert "@example.com" in one.published()


def test_a_relay_domain_taken_out_is_held(two: Scenario) -> None:
    """Its recipients stay until a person lets them go; the reason says that it is no longer configured."""
    two.relay_domains.remove("example.org")
    result = two.sync(code=HELD)
    assert reasons(result)["example.org"] >= {"emptied"}
    assert any("no longer in relay_domains" in reason.text for reason in only_hold(result).reasons)
    assert two.published() == people(100) | people(50, "example.org")
    two.approve(only_hold(result).id)
    assert two.published() == people(100)


def test_a_relay_domain_added_needs_no_new_answer(one: Scenario) -> None:
    """Recipients of a domain that comes into scope appear though the source says that it is the same."""
    one.write("corp", people(100) | people(5, "example.org"))
    assert one.sync().plan.out_of_scope == {"example.org": 5}
    time.sleep(YOUNG)
    one.sync()
    assert one.sync().sources[0].state == "same"
    one.relay_domains.append("example.org")
    result = one.sync()
    assert result.sources[0].state == "same"
    assert one.published() == people(100) | people(5, "example.org")


def test_what_is_excluded_is_not_wanted(one: Scenario) -> None:
    """An excluded address never comes in, and one that is in goes as any other missing address."""
    one.exclude = ["user005@example.com", "new@example.com"]
    one.write("corp", people(100) | {"new@example.com"})
    one.sync()
    assert one.published() == people(100) - {"user005@example.com"}


def test_excluding_a_whole_domain_is_held(two: Scenario) -> None:
    """`@example.org` in the exclusions would empty that domain, which a person has to let go."""
    two.exclude = ["@example.org"]
    result = two.sync(code=HELD)
    assert reasons(result)["example.org"] >= {"emptied"}
    assert two.published() == people(100) | people(50, "example.org")


# --- the grace


def test_grace_passes_before_a_recipient_goes(timed: Scenario) -> None:
    """Missing for 59 minutes it stays with exit 0; after an hour and another whole answer it goes."""
    timed.write("corp", people(99))
    first = timed.sync()
    assert first.plan.in_grace == 1
    assert not first.plan.holds
    timed.wait(59 * MINUTE)
    assert timed.sync().plan.in_grace == 1
    assert timed.published() == people(100)
    timed.wait(MINUTE)
    timed.sync()
    assert timed.published() == people(99)


def test_grace_needs_a_second_whole_answer(timed: Scenario) -> None:
    """However long a recipient has been missing, it goes only once the source has answered again."""
    timed.write("corp", people(99))
    timed.sync()
    timed.break_source("corp")
    timed.wait(5 * HOUR)
    timed.sync(code=TEMPORARY)
    assert timed.published() == people(100)
    timed.write("corp", people(99))
    timed.sync()
    assert timed.published() == people(99)


def test_a_recipient_that_comes_back_is_no_longer_counted_as_missing(timed: Scenario) -> None:
    """Its grace begins anew when it goes missing again."""
    timed.write("corp", people(99))
    timed.sync()
    timed.wait(30 * MINUTE)
    timed.write("corp", people(100))
    assert timed.sync().plan.in_grace == 0
    timed.wait(10 * MINUTE)
    timed.write("corp", people(99))
    timed.sync()
    timed.wait(59 * MINUTE)
    timed.sync()
    assert timed.published() == people(100)
    timed.wait(MINUTE)
    timed.sync()
    assert timed.published() == people(99)


def test_each_recipient_has_a_grace_of_its_own(timed: Scenario) -> None:
    """A second one that goes missing half an hour later goes half an hour later, and not with the first."""
    timed.write("corp", people(99))
    timed.sync()
    timed.wait(30 * MINUTE)
    timed.write("corp", people(98))
    timed.sync()
    timed.wait(30 * MINUTE)
    assert timed.sync().plan.in_grace == 1
    assert timed.published() == people(99)
    timed.wait(30 * MINUTE)
    timed.sync()
    assert timed.published() == people(98)


def test_a_clock_set_back_starts_the_grace_anew(timed: Scenario) -> None:
    """Set back by ten hours, the clock has to run a whole hour again; nothing goes early."""
    timed.write("corp", people(99))
    timed.sync()
    timed.wait(-10 * HOUR)
    timed.write("corp", people(99) | {"new@example.com"})
    assert reasons(timed.sync(code=HELD)) == {"example.com": {"clock"}}
    timed.wait(59 * MINUTE)
    timed.sync()
    assert timed.published() == people(100) | {"new@example.com"}
    timed.wait(MINUTE)
    timed.sync()
    assert timed.published() == people(99) | {"new@example.com"}


def test_a_domain_may_have_no_grace(timed: Scenario) -> None:
    """A grace of its own counts for that domain alone."""
    timed.relay_domains.append("example.org")
    timed.domain_limits = {"example.org": {"removal_grace": "0s"}}
    timed.write("corp", people(100) | people(20, "example.org"))
    timed.sync()
    timed.write("corp", people(99) | people(19, "example.org"))
    assert timed.sync().plan.in_grace == 1
    assert timed.published() == people(100) | people(19, "example.org")


def test_a_hold_that_ends_leaves_the_grace_as_it_was(timed: Scenario) -> None:
    """Held addresses count as missing since they went; those that went later still have their whole grace."""
    timed.write("corp", people(40))
    timed.sync(code=HELD)
    timed.wait(30 * MINUTE)
    timed.write("corp", people(97))
    result = timed.sync()
    assert not result.plan.holds
    assert result.plan.in_grace == 3
    timed.wait(30 * MINUTE)
    timed.sync()
    assert timed.published() == people(97)


# --- the first run


def test_a_first_run_waits_for_every_source(tmp_path: Path) -> None:
    """While a source fails no first map is made, exit 75; asked to accept it, what there is is published."""
    scenario = Scenario(tmp_path, "corp", "extra")
    scenario.write("corp", people(10))
    assert scenario.sync(code=TEMPORARY).status == "incomplete"
    assert not scenario.map.exists()
    told = scenario.say("sync", code=TEMPORARY).stdout
    assert "extra" in told
    assert f"syncagent --config {scenario.config} sync --accept-incomplete" in told
    assert scenario.sync("--accept-incomplete", code=TEMPORARY).status == "published"
    assert scenario.published() == people(10)
    scenario.write("extra", people(10, first=50))
    scenario.sync()
    assert scenario.published() == people(10) | people(10, first=50)


def test_a_first_run_wants_every_domain_to_have_recipients(tmp_path: Path) -> None:
    """A relay domain without a recipient stops the first map, exit 65, unless it is accepted."""
    scenario = Scenario(tmp_path, relay_domains=("example.com", "example.org"))
    scenario.write("corp", people(10))
    result = scenario.sync(code=HELD)
    assert result.status == "incomplete"
    assert [text for text in result.missing_for_first if "example.org" in text]
    assert not scenario.map.exists()
    scenario.sync("--accept-incomplete")
    assert scenario.published() == people(10)


def test_a_first_run_wants_its_canaries(tmp_path: Path) -> None:
    """An absent canary stops the first map, exit 65; accepted, it is published and the canary still missed."""
    scenario = Scenario(tmp_path)
    scenario.limits["canaries"] = ["canary@example.com"]
    scenario.write("corp", people(10))
    assert scenario.sync(code=HELD).status == "incomplete"
    assert not scenario.map.exists()
    scenario.sync("--accept-incomplete", code=HELD)
    assert scenario.published() == people(10)


def test_a_first_run_names_all_that_it_lacks(tmp_path: Path) -> None:
    """A failing source, a domain without recipient and an absent canary are told at once."""
    scenario = Scenario(tmp_path, "corp", "extra", relay_domains=("example.com", "example.org"))
    scenario.limits["canaries"] = ["canary@example.com"]
    scenario.write("corp", people(10))
    told = scenario.say("sync", code=TEMPORARY).stdout
    for name in ("extra", "example.org", "canary@example.com", "--accept-incomplete"):
        assert name in told
    assert not scenario.map.exists()


def test_an_empty_first_map_is_not_even_accepted(tmp_path: Path) -> None:
    """Without one recipient nothing is published, whatever is accepted."""
    scenario = Scenario(tmp_path)
    scenario.sources["corp"]["allow_empty"] = True
    scenario.write("corp", [])
    assert scenario.sync("--accept-incomplete", code=HELD).status == "incomplete"
    assert not scenario.map.exists()


def test_nobody_is_told_to_accept_an_empty_map(tmp_path: Path) -> None:
    """What cannot be accepted is not offered."""
    scenario = Scenario(tmp_path)
    scenario.sources["corp"]["allow_empty"] = True
    scenario.write("corp", [])
    told = scenario.say("sync", "--accept-incomplete", code=HELD)
    assert "never published" in told.stderr
    assert "--accept-incomplete" not in told.stdout + told.stderr


# --- runs that meet, runs that failed, a ledger that is lost


def test_two_at_once_are_one_after_the_other(one: Scenario) -> None:
    """The second waits for the first, and then has nothing to do."""
    one.own_postmap()
    one.sync()
    one.write("corp", people(101))
    one.postmap_waits.touch()
    with one.start("sync") as first:
        assert wait_until(lambda: _locked(one))
        with one.start("sync") as second:
            time.sleep(0.5)
            assert second.poll() is None
            one.postmap_waits.unlink()
            results = [
                msgspec.json.decode(process.communicate(timeout=PATIENCE)[0], type=SyncResult)
                for process in (first, second)
            ]
    assert [result.status for result in results] == ["published", "unchanged"]
    assert [result.exit_code for result in results] == [OK, OK]
    assert one.published() == people(101)


def _locked(scenario: Scenario) -> bool:
    """Whether a run holds the lock."""
    with (scenario.state / "sync.lock").open("rb") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def test_a_lock_that_is_not_free_is_not_waited_for_longer_than_asked(one: Scenario) -> None:
    """`--lock-timeout 0` exits 75 at once, having done nothing."""
    one.write("corp", people(101))
    with (one.state / "sync.lock").open("rb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert "another run" in one.say("sync", "--lock-timeout", "0", code=TEMPORARY).stderr
        assert one.published() == people(100)
    one.sync("--lock-timeout", "0")
    assert one.published() == people(101)


def test_a_publish_that_failed_is_tried_again(one: Scenario) -> None:
    """The next run publishes what a run before could not, though every source says that it is the same."""
    one.own_postmap()
    one.write("corp", people(98) | {"new@example.com"})
    time.sleep(YOUNG)
    one.postmap_fails.touch()
    one.sync(code=CANNOT_PUBLISH)
    failed = one.sync(code=CANNOT_PUBLISH)
    assert failed.sources[0].state == "same"
    assert one.published() == people(100)
    one.postmap_fails.unlink()
    result = one.sync()
    assert result.sources[0].state == "same"
    assert result.status == "published"
    assert one.published() == people(98) | {"new@example.com"}


def test_a_failed_publish_comes_before_a_failed_source(two: Scenario) -> None:
    """Where a source fails, something is held and publishing fails, exit code 73 wins."""
    two.own_postmap()
    two.break_source("extra")
    two.write("corp", people(40) | {"new@example.com"})
    two.postmap_fails.touch()
    two.sync(code=CANNOT_PUBLISH)
    two.postmap_fails.unlink()
    two.sync(code=TEMPORARY)
    assert two.published() == people(100) | people(50, "example.org") | {"new@example.com"}


def test_a_lost_ledger_loses_no_recipient(one: Scenario) -> None:
    """With a map and no ledger, a source half gone is held as ever."""
    one.lose_ledger()
    one.write("corp", people(40) | {"new@example.com"})
    result = one.sync(code=HELD)
    assert reasons(result) == {ALL_DOMAINS: {"state-new"}, "example.com": {"half", "percent", "state-new"}}
    assert one.published() == people(100) | {"new@example.com"}
    one.approve(*(hold.id for hold in result.plan.holds))
    assert one.published() == people(40) | {"new@example.com"}


def test_a_lost_ledger_and_a_failing_source_lose_no_recipient(two: Scenario) -> None:
    """With a map, no ledger and a source that fails, what it said before is still published."""
    two.lose_ledger()
    two.break_source("extra")
    result = two.sync(code=TEMPORARY)
    assert reasons(result)["example.org"] >= {"source-failing"}
    assert two.published() == people(100) | people(50, "example.org")


def test_plan_names_no_id_that_cannot_be_approved(one: Scenario) -> None:
    """Every `approve` command that a plan shows is one that works, and a plan changes nothing."""
    one.write("corp", people(40))
    told = one.say("plan", code=HELD).stdout
    assert "held: 60 removals of example.com" in told
    assert one.published() == people(100)
    _, found, command = told.partition(" approve ")
    if found:
        one.approve(command.split()[0])
        assert one.published() == people(40)


# --- all of it, at random

DOMAINS = Counter({"example.com": 30, "example.org": 6})
OWN = {"corp": people(30), "extra": people(6, "example.org") | people(10)}
FLOOR, SHARE, GRACE = 2, 10, HOUR
STEPS = st.tuples(
    st.sampled_from(sorted(OWN)),
    st.sampled_from([*["lose some"] * 7, "lose many", "say all", "fail"]),
    st.sampled_from([40 * MINUTE, 2 * HOUR, DAY]),
    st.randoms(use_true_random=False),
)


def _changed(scenario: Scenario, source: str, what: str, random: Random) -> None:
    """Have a source do something to what it says."""
    file = scenario.file(source)
    says = sorted(file.read_text(encoding="utf-8").split() if file.exists() else OWN[source])
    left = {"lose some": max(len(says) - random.randrange(3), 0), "lose many": len(says) // 2}
    if what == "fail":
        scenario.break_source(source)
    else:
        scenario.write(source, random.sample(says, left[what]) if what in left else OWN[source])


@settings(max_examples=8, deadline=None)
@given(st.lists(STEPS, min_size=5, max_size=10))
def test_whatever_the_sources_do_nothing_goes_in_doubt(steps: list[tuple[str, str, float, Random]]) -> None:
    """Sources fail, come back, and leave out few or many: without approval only little goes, late, and in no doubt."""
    with tempfile.TemporaryDirectory() as folder:
        scenario = Scenario(Path(folder), *OWN, relay_domains=DOMAINS)
        scenario.limits = {"removed_floor": FLOOR}
        scenario.set_clock()
        for name, addresses in OWN.items():
            scenario.write(name, addresses)
        scenario.sync()
        since: dict[str, float] = {}
        gone: list[tuple[float, str]] = []
        for source, what, pause, random in steps:
            scenario.wait(pause)
            _changed(scenario, source, what, random)
            before = scenario.published()
            result = scenario.sync(code=None)
            removed, now = before - scenario.published(), scenario.now
            assert not removed or not [one for one in result.sources if one.state == "failing"]
            assert all(now - since.get(address, now) >= GRACE - 1 for address in removed)
            since = {address: since.get(address, now) for address in before - scenario.said()}
            gone = [(at, address) for at, address in gone if at > now - DAY] + [(now, one) for one in removed]
            lost = Counter(address.rpartition("@")[2] for _, address in gone)
            for domain, size in DOMAINS.items() if removed else ():
                assert lost[domain] <= max(FLOOR, size * SHARE / 100)
            assert not removed or lost.total() <= max(FLOOR, DOMAINS.total() * SHARE / 100)


@pytest.mark.parametrize("text", ["", "# recipients of example.com\n", "bare OK\n"])
def test_a_map_without_a_recipient_is_no_map(tmp_path: Path, text: str) -> None:
    """A file that somebody touched is not a published map: the rule of the first run holds."""
    scenario = Scenario(tmp_path, "corp", "late")
    scenario.map.write_text(text)
    scenario.write("corp", people(10))
    result = scenario.say("sync", code=75)
    assert "--accept-incomplete" in result.stdout
    assert scenario.map.read_text() == text


def test_a_clock_that_was_not_set_ends_no_grace(tmp_path: Path) -> None:
    """What went missing while the clock stood in 1970 is not an hour old once the clock is set."""
    scenario = Scenario(tmp_path)
    scenario.limits["removal_grace"] = "1h"
    scenario.set_clock(1000.0)
    scenario.write("corp", people(100))
    scenario.sync()
    scenario.write("corp", people(99))
    assert reasons(scenario.sync(code=HELD)) == {"example.com": {"clock"}}
    scenario.set_clock()
    scenario.sync()
    assert scenario.published() == people(100)
    scenario.wait(HOUR + 1)
    scenario.sync()
    assert scenario.published() == people(99)


def test_a_relay_domain_without_a_recipient_is_told_of_every_time(one: Scenario) -> None:
    """Postfix refuses all the mail of such a domain: no run is quiet about it, changed or not."""
    one.relay_domains.append("new.example")
    for _ in range(3):
        assert "new.example has no recipient" in one.say("sync", "--quiet").stdout


def test_a_rejected_entry_is_never_quiet(one: Scenario) -> None:
    """An address that became a reject looks like one that left: every run says so, however quiet."""
    assert not one.say("sync", "--quiet").stdout
    with one.file("corp").open("a") as file:
        file.write("user000@example.com on leave\n")
    said = one.say("sync", "--quiet", code=HELD).stdout
    assert "1 rejected entry: 1 held" in said
    assert "user000@example.com on leave" in said


def test_who_may_be_among_the_rejected_entries_is_held(one: Scenario) -> None:
    """An address misspelled at the source looks like one that left: it stays until the entry is settled."""
    names = sorted(people(100) - {"user000@example.com"})
    one.file("corp").write_text("\n".join([*names, "user000@example.com on leave", ""]))
    for _ in range(2):
        result = one.sync_unchecked(HELD)
        assert reasons(result) == {"example.com": {"rejected"}, "rejected:corp": {"rejected"}}
        assert one.published() == people(100)
    one.write("corp", people(100))
    one.sync()
    one.file("corp").write_text("\n".join([*names, "user000@example.com on leave", ""]))
    held = {hold.rejecting: hold.id for hold in one.sync_unchecked(HELD).plan.holds}
    assert "user000@example.com, which is published" in one.say("approve", held["corp"], code=USAGE).stderr
    one.say("approve", held[""], code=HELD)  # a person knows that this one left
    assert one.published() == set(names)
    one.say("approve", held["corp"])
    one.file("corp").write_text("\n".join([*names[1:], "user000@example.com on leave", ""]))
    one.say("sync")
    assert one.published() == set(names[1:]), "an entry that a person approved holds nothing more"


def test_an_entry_that_came_while_nobody_was_missing_holds_what_goes_later(one: Scenario) -> None:
    """As long as it stands: whoever goes missing from the same source may be misspelled elsewhere in it."""
    everybody = sorted(people(100))
    one.file("corp").write_text("\n".join([*everybody, "not an address", ""]))
    one.say("sync", code=HELD)
    one.file("corp").write_text("\n".join([*everybody[1:], "not an address", ""]))
    held = {hold.rejecting: hold.id for hold in one.sync_unchecked(HELD).plan.holds}
    assert one.published() == set(everybody)
    one.say("approve", held["corp"])
    assert one.published() == set(everybody[1:])


def test_a_csv_whose_cells_went_blank_is_a_failure(tmp_path: Path) -> None:
    """Rows without one address are no whole answer: nothing goes."""
    scenario = Scenario(tmp_path)
    scenario.sources["corp"] = {"format": "csv", "column": "mail"}
    scenario.file("corp").write_text("name,mail\nA,a@example.com\nB,b@example.com\n")
    scenario.say("sync")
    scenario.file("corp").write_text("name,mail\nA,\nB,\n")
    assert "none is for us" in scenario.say("sync", code=75).stderr
    assert scenario.published() == {"a@example.com", "b@example.com"}
