"""The rules of the guard and of the plan, as laws over counts and lines; nothing here touches a file."""

import dataclasses
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from syncagent.config.tables import DomainLimits, Limits, Postfix
from syncagent.model import CLOCK_SET, Counts, Hold, Lack, Reason, SourceReport
from syncagent.state import messages
from syncagent.state.looks import AGAIN
from syncagent.sync import conditions
from syncagent.sync.conditions import Condition
from syncagent.sync.domain_counter import DomainCounter
from syncagent.sync.guard import evaluate, first_run, hold_id, set_id
from syncagent.sync.holds import HoldBook
from syncagent.sync.losses import Losses, Tripped
from syncagent.sync.missing import GRACE, HOLD, Kept, Missing, RemovalPolicy, remembered
from syncagent.sync.removals import RemovalDecider
from syncagent.sync.scope import Scope
from syncagent.sync.waiting import NO_SOURCES, Looked, Waiting
from syncagent.values.types import Address, Domain, Duration, MapName

NOW = 1_900_000_000.75
UNKNOWN, LONG_AGO, NO_TRIP = Kept(), Kept(1, GRACE), Tripped({})
LIMITS = Limits()
PATIENT = settings(deadline=None)
"""A busy machine is no failure."""


def counted(domain: str = "example.com", **values: int) -> Counts:
    """Give counts of a domain that had 100 recipients at the window's start unless told otherwise."""
    given_ = {"wanted": 100 - values.get("missing", 0), "window_start": 100, **values}
    return Counts(domain=domain, **given_)  # type: ignore[arg-type]


def kinds(*domains: Counts, limits: Limits = LIMITS) -> dict[str, tuple[str, ...]]:
    """Return the kinds of reasons that the guard has, by domain."""
    held = evaluate(domains, limits)
    return {domain: tuple(reason.kind for reason in why) for domain, why in held.items()}


@st.composite
def some_counts(draw: st.DrawFn) -> list[Counts]:
    """Give counts of up to six domains that fit together."""
    found = []
    for number in range(draw(st.integers(1, 6))):
        wanted, missing, gone = (draw(st.integers(0, 60)) for _ in range(3))
        approved = draw(st.integers(0, missing))
        frozen = draw(st.integers(0, missing - approved))
        older = draw(st.integers(0, missing - approved - frozen))
        grown = draw(st.integers(0, 20))
        counts = Counts(
            domain=f"d{number}.example",
            wanted=wanted,
            added=draw(st.integers(0, wanted)),
            missing=missing,
            approved=approved,
            frozen=frozen,
            older=older,
            window_start=max(wanted + missing - approved - frozen - grown + gone, 0),
            window_removed=gone,
            catch_alls_missing=draw(st.sampled_from([(), (), (f"@d{number}.example",)]))
            if missing > approved + frozen
            else (),
        )
        found.append(counts)
    return found


@st.composite
def some_limits(draw: st.DrawFn) -> Limits:
    """Give limits, with other ones for the first domain now and then."""
    own = DomainLimits(
        removed_percent=draw(st.floats(0, 100)),
        removed_floor=draw(st.integers(0, 20)),
        removed_max=draw(st.integers(0, 40)),
    )
    return Limits(
        removed_percent=draw(st.sampled_from([0.0, 5.0, 10.0, 50.0, 100.0])),
        removed_floor=draw(st.integers(0, 20)),
        removed_max=draw(st.sampled_from([None, 0, 15, 80])),
        domains=draw(st.sampled_from([{}, {Domain("d0.example"): own}])),
    )


# --- evaluate: each rule


@pytest.mark.parametrize(
    ("counts", "expected"),
    [
        pytest.param(counted(missing=0), (), id="nothing missing"),
        pytest.param(counted(missing=10), (), id="a tenth exactly"),
        pytest.param(counted(missing=11), ("percent",), id="more than a tenth"),
        pytest.param(counted(missing=5, wanted=6, window_start=11), (), id="less than half, not over the floor"),
        pytest.param(counted(missing=5, wanted=5, window_start=10), ("half",), id="half, not over the floor"),
        pytest.param(counted(missing=6, wanted=6, window_start=12), ("half", "percent"), id="half, over the floor"),
        pytest.param(counted(missing=2, wanted=2, window_start=4), ("half",), id="two of four"),
        pytest.param(counted(missing=1, wanted=1, window_start=2), (), id="one of two"),
        pytest.param(counted(missing=1, wanted=2, window_start=4, window_removed=1), ("half",), id="half in two steps"),
        pytest.param(counted(missing=3, wanted=88, window_removed=9), ("percent",), id="a bleed"),
        pytest.param(counted(missing=1, wanted=90, window_removed=9), (), id="a bleed within the limit"),
        pytest.param(counted(missing=0, wanted=80, window_removed=20), (), id="a bleed that is over"),
        pytest.param(counted(missing=60, approved=60), (), id="approved"),
        pytest.param(counted(missing=60, approved=55), (), id="approved but for a few"),
        pytest.param(counted(missing=60, approved=40), ("percent",), id="approved but for many"),
        pytest.param(counted(missing=60, frozen=60), (), id="frozen"),
        pytest.param(counted(missing=60, frozen=55), (), id="frozen but for a few"),
        pytest.param(counted(missing=60, frozen=40), ("percent",), id="frozen but for many"),
        pytest.param(counted(missing=60, older=60), ("percent",), id="older ones are judged by the old rules alone"),
        pytest.param(counted(missing=60, older=10), ("half", "percent"), id="half without the older ones"),
        pytest.param(counted(missing=1, wanted=0, window_start=1), ("emptied",), id="emptied"),
        pytest.param(counted(missing=2, wanted=0, window_start=2), ("emptied", "half"), id="emptied of two"),
        pytest.param(counted(missing=500, wanted=9500, window_start=10_000), (), id="the maximum exactly"),
        pytest.param(counted(missing=501, wanted=9499, window_start=10_000), ("max",), id="more than the maximum"),
        pytest.param(
            counted(missing=1, wanted=9499, window_start=10_000, window_removed=500),
            ("max",),
            id="the maximum in steps",
        ),
        pytest.param(
            counted(missing=501, wanted=9499, window_start=10_000, older=1), (), id="the maximum and an older"
        ),
        pytest.param(
            counted(missing=1000, wanted=199_000, window_start=200_000), (), id="half a percent is more than 500"
        ),
        pytest.param(
            counted(missing=1001, wanted=198_999, window_start=200_000), ("max",), id="more than half a percent"
        ),
    ],
)
def test_a_domain_is_judged_by_what_it_would_lose(counts: Counts, expected: tuple[str, ...]) -> None:
    """Both limits must be passed, with what went in the window and without what a person let go."""
    elsewhere = counted("elsewhere.example", wanted=1_000_000, window_start=1_000_000)
    assert kinds(counts, elsewhere) == ({"example.com": expected} if expected else {})


@pytest.mark.parametrize(
    ("limits", "expected"),
    [
        (Limits(removed_max=3), {"a.example": ("max",), "b.example": ("max",)}),
        (Limits(removed_max=6), {"b.example": ("max",)}),
        (Limits(removed_max=11), {}),
        (Limits(removed_max=11, domains={Domain("b.example"): DomainLimits(removed_max=6)}), {"b.example": ("max",)}),
        (
            Limits(removed_max=6, domains={Domain("b.example"): DomainLimits(removed_max=7)}),
            {"a.example": ("max",), "b.example": ("max",)},
        ),
    ],
)
def test_the_maximum_counts_for_each_domain_and_for_the_whole_map(
    limits: Limits, expected: dict[str, tuple[str, ...]]
) -> None:
    """Four of one domain and seven of another: each by its own maximum, and together by the general one."""
    domains = [counted("a.example", wanted=996, missing=4, window_start=1000)]
    domains += [counted("b.example", wanted=993, missing=7, window_start=1000)]
    assert kinds(*domains, limits=limits) == expected


def test_a_lost_catch_all_is_a_reason() -> None:
    """A catch-all among the missing is held and named."""
    lost = Counts(domain="example.com", wanted=99, missing=1, window_start=100, catch_alls_missing=("@example.com",))
    (reason,) = evaluate([lost], LIMITS)["example.com"]
    assert (reason.kind, reason.approvable) == ("catch-all", True)
    assert reason.subjects == ("@example.com",)


def test_a_domain_emptied_by_approval_alone_is_not_held() -> None:
    """Where a person let all of a domain's last recipients go, nothing is left to hold."""
    gone = counted("example.org", wanted=0, missing=3, approved=3, window_start=0)
    assert kinds(gone, counted()) == {}


def test_a_domain_out_of_the_configuration_says_so() -> None:
    """The reason tells why such a domain has no recipient left, and its sentence too."""
    gone = Counts(domain="example.org", configured=False, missing=3, window_start=3)
    first, *_ = evaluate([gone, counted()], LIMITS)["example.org"]
    assert (first.kind, first.subjects, first.configured) == ("emptied", ("example.org",), False)
    assert "no longer in relay_domains" in messages.with_text(first).text


def test_the_whole_is_judged_too() -> None:
    """Many domains that each lose little are all held when together they lose much."""
    domains = [counted(f"d{number}.example", wanted=4, missing=1, window_start=5) for number in range(20)]
    assert kinds(*domains) == {counts.domain: ("whole-percent",) for counts in domains}
    assert kinds(*domains[:5]) == {}


def test_the_whole_counts_the_window_of_every_domain() -> None:
    """What other domains lost in the window counts towards the whole, though they lose nothing now."""
    bled = [counted(f"d{number}.example", wanted=4, window_start=5, window_removed=1) for number in range(19)]
    last = counted("last.example", wanted=4, missing=1, window_start=5)
    assert kinds(*bled, last) == {"last.example": ("whole-percent",)}
    assert kinds(*bled) == {}


def test_the_whole_passes_over_what_is_held_already() -> None:
    """A domain's own hold does not make the few removals of another too many."""
    assert kinds(counted("a.example", missing=60), counted("b.example", missing=4)) == {
        "a.example": ("half", "percent")
    }


def test_the_whole_counts_what_a_held_domain_lost_before() -> None:
    """What a domain's own hold keeps is no loss; what went from it in the window is."""
    bled = counted("a.example", wanted=0, missing=1, window_start=6, window_removed=5)
    assert kinds(bled, counted("b.example", wanted=27, missing=3, window_start=30)) == {
        "a.example": ("emptied", "half", "percent"),
        "b.example": ("whole-percent",),
    }


# --- evaluate: laws


def within_limits(domains: list[Counts], size: int, share: float, floor: int) -> bool:
    """True if what these domains lose now and lost in the window is within the limits for so many recipients."""
    lost = sum(counts.stake + counts.window_removed for counts in domains)
    return lost <= floor or lost <= share * size / 100 + 1e-6


@PATIENT
@given(some_counts(), some_limits())
def test_what_flows_is_within_the_limits(domains: list[Counts], limits: Limits) -> None:
    """Whatever is not held keeps to the limits of its domain and of the whole, and leaves each domain someone."""
    held = evaluate(domains, limits)
    flows = [counts for counts in domains if counts.domain not in held and counts.stake]
    for counts in flows:
        assert counts.wanted
        assert not counts.catch_alls_missing
        share, floor, _ = limits.of(counts.domain)
        assert within_limits([counts], counts.window_start, share, floor)
        newer = counts.stake - counts.older + counts.window_removed
        assert newer <= limits.most(counts.domain, counts.window_start)
        assert newer < max(2, counts.window_start / 2)
    size = sum(counts.window_start for counts in domains)
    bled = [
        Counts(domain=counts.domain, window_removed=counts.window_removed) for counts in domains if counts not in flows
    ]
    assert not flows or within_limits([*flows, *bled], size, limits.removed_percent, limits.removed_floor)
    lost = sum(counts.stake + counts.window_removed for counts in (*flows, *bled))
    assert not flows or lost <= limits.most("", size)


@PATIENT
@given(some_counts(), some_limits())
def test_holds_are_for_what_is_missing(domains: list[Counts], limits: Limits) -> None:
    """Each hold is of a domain that would lose something now, has a reason, and each reason is approvable."""
    held = evaluate(domains, limits)
    assert held.keys() <= {counts.domain for counts in domains if counts.missing > counts.approved + counts.frozen}
    for why in held.values():
        assert why
        assert all(reason.approvable for reason in why)


@PATIENT
@given(some_counts(), some_limits())
def test_what_a_frozen_hold_has_is_neither_lost_nor_part_of_the_size(domains: list[Counts], limits: Limits) -> None:
    """The verdict is the same as if those recipients were in no list."""
    without = [replace(counts, missing=counts.missing - counts.frozen, frozen=0) for counts in domains]
    assert evaluate(domains, limits) == evaluate(without, limits)


@PATIENT
@given(some_counts(), some_limits(), st.randoms())
def test_the_order_of_domains_is_no_matter(domains: list[Counts], limits: Limits, random: Random) -> None:
    """The same counts in another order give the same verdict."""
    shuffled = list(domains)
    random.shuffle(shuffled)
    assert evaluate(shuffled, limits) == evaluate(domains, limits)


@PATIENT
@given(some_counts(), some_limits(), st.integers(1, 50))
def test_losing_more_never_frees_a_domain(domains: list[Counts], limits: Limits, more: int) -> None:
    """A domain that is held stays held when more of it goes missing."""
    first = domains[0]
    if first.domain not in evaluate(domains, limits):
        return
    worse = replace(first, wanted=max(first.wanted - more, 0), missing=first.missing + min(more, first.wanted))
    assert first.domain in evaluate([worse, *domains[1:]], limits)


# --- conditions: what holds as long as it stands


def applied(found: Iterable[Condition], group: str, kept: Kept = UNKNOWN) -> list[tuple[str, tuple[str, ...], bool]]:
    """Return kind, subjects and ``approvable`` of the conditions that hold a recipient."""
    reasons = [one.reason for one in found if one.applies(kept, group)]
    return [(reason.kind, reason.subjects, reason.approvable) for reason in reasons]


def test_failing_sources_and_canaries_hold_all_that_is_missing() -> None:
    """They hold every domain; only the canary is beyond approval."""
    found = [*conditions.of_sources(("corp", "extra")), *conditions.of_canaries(["info@a.example"])]
    for group in ("a.example", "c.example"):
        assert applied(found, group) == [
            ("source-failing", ("corp", "extra"), True),
            ("canary", ("info@a.example",), False),
        ]
    assert applied([*conditions.of_sources(()), *conditions.of_canaries([])], "a.example") == []


def test_recipients_wait_for_their_domain() -> None:
    """While the removal of a relay domain is held itself, nothing of it goes, approved or not; other domains may."""
    found = list(conditions.of_leaving({"a.example"}))
    assert applied(found, "a.example") == [("domain", ("a.example",), False)]
    assert applied(found, "b.example") == []
    decider, _ = deciding(standing=found)
    gone = [missing_of(group, hold=HELD, approved=True) for group in ("a.example", "b.example")]
    assert [decider.decide(one) is None for one in gone] == [False, True]


def test_nothing_wanted_at_all_cannot_be_approved() -> None:
    """With no recipient in any source even approved removals stay."""
    found = list(conditions.of_map(0))
    assert applied(found, "a.example") == [("empty-map", (), False)]
    assert list(conditions.of_map(1)) == []
    decider, book = deciding(standing=found)
    assert decider.decide(missing_of("held.example", hold=HELD, approved=True)) is not None
    (hold,) = book.holds()
    assert not hold.approvable


def test_removals_need_the_doubt_table() -> None:
    """Where it is not in force nothing goes, approved or not."""
    assert list(conditions.of_doubt_table(in_force=True)) == []
    assert applied(conditions.of_doubt_table(in_force=False), "a.example") == [("doubt", (), False)]


@pytest.mark.parametrize(
    ("kept", "expected"),
    [
        (Kept(said=b"corp", answer=b"corp=r2"), True),
        (Kept(said=b"corp", answer=b"corp=r3"), True),
        (Kept(said=b"corp", answer=b"corp=r1"), False),
        (Kept(said=b"extra", answer=b"extra=r2"), False),
        (Kept(said=b"corp,extra", answer=b"extra=r2"), False),
        (Kept(), True),
        (Kept(said=b"corp"), True),
        (Kept(said=b"extra"), False),
        (Kept.parse([b"1900000000", b"grace"]), False),
    ],
)
def test_a_condition_of_a_source(kept: Kept, expected: bool) -> None:  # noqa: FBT001 - a column of the table
    """It holds what that source listed last and first lacked in that run or later, or of which that is unknown.

    What an older version kept was missing before.
    """
    condition = Condition(Reason("rejected"), source="corp", since_run="r2")
    assert condition.applies(kept, "example.com") is expected


@PATIENT
@given(
    st.lists(st.sampled_from(["a.example", "b.example"]), min_size=1),
    st.sampled_from([("corp",), ()]),
    st.sampled_from([("a@a.example",), ()]),
)
def test_doubt_about_a_source_holds_everywhere(
    groups: list[str], failing: tuple[str, ...], canaries: tuple[str, ...]
) -> None:
    """With a failing source or an absent canary every domain with something missing is held, for that reason too."""
    expected = {kind for kind, found in (("source-failing", failing), ("canary", canaries)) if found}
    decider, book = deciding(standing=[*conditions.of_sources(failing), *conditions.of_canaries(canaries)])
    for number, group in enumerate(groups):
        stays = decider.decide(missing_of(group, f"{number:03}", due=True))
        assert (stays is not None) == bool(expected)
    held = {hold.domain: {reason.kind for reason in hold.reasons} for hold in book.holds()}
    assert held == (dict.fromkeys(groups, expected) if expected else {})


# --- first_run


def test_a_whole_first_run_lacks_nothing() -> None:
    """Whole sources, a recipient in each domain and every canary: the first map may be made."""
    sources = [SourceReport("corp", "whole"), SourceReport("extra", "same")]
    assert first_run(["example.com"], {"example.com": 1}, sources, ()) == ()


def test_a_first_run_names_everything_it_lacks() -> None:
    """Each failing source with its error, each domain without recipient, each absent canary."""
    sources = [SourceReport("corp", "whole"), SourceReport("extra", "failing", error="no such file")]
    lacks = first_run(["example.com", "example.org"], {"example.com": 1}, sources, ["info@example.com"])
    assert lacks == (
        Lack("source", "extra", "no such file"),
        Lack("domain", "example.org"),
        Lack("canary", "info@example.com"),
    )
    assert "no such file" in messages.lack(lacks[0])


ALPHABET = set("abcdefghijklmnopqrstuvwxyz234567")


@PATIENT
@given(st.text(max_size=20), st.text(max_size=20))
def test_the_identity_of_a_hold_is_easy_to_type(domain: str, run_id: str) -> None:
    """Six lower-case letters and digits, the same for the same domain and run."""
    found = hold_id(domain, run_id)
    assert len(found) == 6
    assert set(found) <= ALPHABET
    assert found == hold_id(domain, run_id)


def test_each_domain_and_run_has_an_identity_of_its_own() -> None:
    """Another domain, or another run, gives another one."""
    assert len({hold_id(domain, run) for domain in ("a.example", "b.example") for run in ("1", "2")}) == 4


@PATIENT
@given(st.text(max_size=20), st.text(max_size=20), st.binary(max_size=32))
def test_a_hold_id_is_easy_to_type(kind: str, domain: str, members: bytes) -> None:
    """Eight lower-case letters and digits, the same for the same kind, domain and set."""
    found = set_id(kind, domain, members)
    assert len(found) == 8
    assert set(found) <= ALPHABET
    assert found == set_id(kind, domain, members)


def test_each_kind_domain_and_set_has_a_hold_id_of_its_own() -> None:
    """Another kind, domain or set gives another ID."""
    parts = [(kind, domain, members) for kind in ("half", "max") for domain in ("a", "b") for members in (b"1", b"2")]
    assert len({set_id(*one) for one in parts}) == 8


# --- plan: scope


def scope(**values: tuple[str, ...]) -> Scope:
    """Give a scope of example.com and example.org, with other settings as told."""
    return Scope(
        Postfix(
            map=MapName("lmdb", Path("/map"), "lmdb:/map"),
            relay_domains=(Domain("example.com"), Domain("example.org")),
            catch_all=tuple(map(Domain, values.get("catch_all", ()))),
            exclude=tuple(map(Address, values.get("exclude", ()))),
        ),
        ("example.com", "example.org"),
    )


def chosen_of(chosen: Scope, asked: list[bytes], *canaries: str) -> list[bytes]:
    """Give what a scope wants of these, taken in two batches, as lines."""
    batches = [batch for batch in (asked[:2], asked[2:]) if batch]
    return b"".join(chosen.select(batches, canaries)).splitlines()


def test_scope_is_the_relay_domains_and_below() -> None:
    """Subdomains are in and counted with their relay domain; a domain that merely ends alike is out."""
    chosen = scope()
    asked = [b"a@eu.example.com", b"a@example.com", b"a@example.net", b"a@myexample.com", b"a@org"]
    assert chosen_of(chosen, asked) == [b"a@eu.example.com", b"a@example.com"]
    assert chosen.wanted == {"example.com": 2}
    assert chosen.out_of_scope == {"example.net": 1, "myexample.com": 1, "org": 1}


def test_scope_leaves_out_what_is_excluded() -> None:
    """An excluded address is left out, and with `@domain` that very domain, which is not out of scope."""
    chosen = scope(exclude=("a@example.com", "@eu.example.com"))
    asked = [b"a@eu.example.com", b"a@example.com", b"b@example.com", b"b@us.example.com"]
    assert chosen_of(chosen, asked) == [b"b@example.com", b"b@us.example.com"]
    assert not chosen.out_of_scope


def test_scope_holds_catch_alls_that_nobody_permitted() -> None:
    """A catch-all is wanted where it is permitted, not for a subdomain of that, and held elsewhere."""
    chosen = scope(catch_all=("example.com",))
    asked = [b"@eu.example.com", b"@example.com", b"@example.net", b"@example.org"]
    assert chosen_of(chosen, asked) == [b"@example.com"]
    assert chosen.held_catch_alls == ["@eu.example.com", "@example.org"]


def test_scope_sees_its_canaries() -> None:
    """A canary is seen where a source says it."""
    chosen = scope()
    chosen_of(chosen, [b"a@example.com", b"b@example.com"], "b@example.com", "c@example.com")
    assert chosen.canaries == {"b@example.com"}


# --- plan: what is missing, and when it may go

ADDRESSES = st.sets(st.integers(0, 30).map(lambda number: b"user%02d@example.com" % number))


@PATIENT
@given(ADDRESSES, st.dictionaries(st.integers(0, 30), st.integers(0, 99)))
def test_what_kept_knows_is_remembered(missing: set[bytes], known: Mapping[int, int]) -> None:
    """Each missing address comes once, with what is known of it and of no other."""
    kept = {b"user%02d@example.com" % number: Kept(since, GRACE) for number, since in known.items()}
    lines = [one.line(address) for address, one in sorted(kept.items())]
    assert list(remembered(sorted(missing), lines)) == [(one, kept.get(one)) for one in sorted(missing)]


def policy(
    now: float = NOW,
    *,
    answer: float = NOW,
    grace: float = 3600,
    holds: tuple[Hold, ...] = (),
    waiting: Waiting = NO_SOURCES,
) -> RemovalPolicy:
    """Return what a run at `now` knows, the sources having answered at `answer`."""
    by_identity = {hold.identity: hold for hold in holds}
    return RemovalPolicy(now, answer, by_identity, Limits(removal_grace=Duration(grace)), waiting)


def missing_since(
    judged: RemovalPolicy, since: float, why: bytes = GRACE, said: bytes = b"", joined: int = 0
) -> Missing:
    """Judge an address that has been missing since then; 0 for one that is newly missing."""
    return judged.missing(b"a@example.com", Kept(int(since), why, said, joined=joined), "example.com")


def test_a_new_missing_address_starts_its_grace_now() -> None:
    """What is not known yet is missing since now, and not due."""
    new = policy().missing(b"a@example.com", Kept(), "example.com")
    assert (new.kept.since, new.kept.why, new.due, new.approved, new.hold) == (int(NOW), GRACE, False, False, None)


def test_grace_is_over_on_its_second() -> None:
    """A second before its end an address stays, at its end it may go."""
    assert not missing_since(policy(), NOW - 3598).due
    assert missing_since(policy(), NOW - 3600).due


def test_without_a_later_answer_no_grace_is_over() -> None:
    """However long it was missing: the oldest of the sources' answers must be younger than that."""
    assert not missing_since(policy(answer=NOW - 9000), NOW - 9000).due
    assert missing_since(policy(answer=NOW - 8000), NOW - 9000).due


def test_no_grace_is_due_at_once() -> None:
    """A grace of 0s switches the second answer off as well, and the look."""
    never = Waiting({"corp": Looked("transport", 86400.0)})
    assert missing_since(policy(grace=0, answer=0, waiting=never), 0).due


@pytest.mark.parametrize(
    ("corp", "said", "expected"),
    [
        (Looked("transport", 7200, NOW - 1800), b"corp", True),
        (Looked("transport", 7200, NOW - 1802), b"corp", False),
        (Looked("none", 7200, 0), b"corp", False),
        (Looked("transport", 10_000, NOW), b"corp", False),
        (Looked("producer", 10_000, NOW - 5400), b"corp", True),
        (Looked("producer", 10_000, NOW - 5402), b"corp", False),
        (Looked("transport", 7200, NOW - 1802), b"extra", True),
        (Looked("transport", 7200, NOW - 1802), b"corp,extra", False),
        (Looked("transport", 7200, NOW - 1802), b"", False),
        (Looked("transport", 7200, NOW - 1802), b"gone", True),
    ],
)
def test_a_removal_waits_for_a_look(corp: Looked, said: bytes, expected: bool) -> None:  # noqa: FBT001 - a column
    """Of each source that listed the address last, of all if that is unknown, after the wait of 2.5 hours at most."""
    waiting = Waiting({"corp": corp, "extra": Looked("producer", 0, NOW)})
    assert missing_since(policy(waiting=waiting), NOW - 9001, said=said).due is expected


def test_records_of_older_versions_wait_from_the_upgrade_on() -> None:
    """Their grace runs on; confirm_after counts from the run that first read them."""
    waiting = Waiting({"corp": Looked("transport", 86400.0, NOW + 86400)})
    old = Kept.parse([b"%d" % (NOW - 9000), GRACE])
    first = policy(waiting=waiting).missing(b"a@example.com", old, "example.com")
    assert (first.kept.upgraded, first.until) == (int(NOW), int(NOW) + 86400)
    later = policy(NOW + 3600, waiting=waiting).missing(b"a@example.com", first.kept, "example.com")
    assert later.until == first.until
    short = policy(waiting=Waiting({"corp": Looked("producer", 86400.0, NOW)}))
    assert short.missing(b"a@example.com", old, "example.com").due


@PATIENT
@given(st.floats(0, 4e9), st.floats(0, 4e9), st.integers(1, 10**6))
def test_a_clock_set_back_never_ends_a_grace(now: float, since: float, grace: int) -> None:
    """The time that counts never lies after now, and an address is due only after its whole grace."""
    one = missing_since(policy(now, answer=now, grace=grace), since)
    assert one.kept.since <= now
    assert one.kept.since <= since or since < CLOCK_SET
    if since > now:
        assert not one.due
        assert one.kept.since == int(now)
    if one.due:
        assert now - since > grace - 1


RECORDED = Hold("abcd2345", "example.com", 1, 1.0, (), key="abc234", kind="half", version=3)


@pytest.mark.parametrize(
    ("why", "joined", "approved"),
    [
        (HOLD + b"abc234", 1, True),
        (HOLD + b"abc234", 2, True),
        (HOLD + b"abc234", 3, False),
        (HOLD + b"abcd2345", 1, False),
        (HOLD + b"abc235", 1, False),
        (HOLD, 1, False),
        (GRACE, 1, False),
        (b"abc234", 1, False),
    ],
)
def test_only_the_stored_set_is_approved(why: bytes, joined: int, approved: bool) -> None:  # noqa: FBT001 - a column of the table
    """An address is approved where it joined the very hold that was approved, at the approved version or before."""
    holds = (replace(RECORDED, approved_at=NOW, approved_version=2),)
    assert missing_since(policy(holds=holds), NOW - 9, why, joined=joined).approved is approved
    assert not missing_since(policy(holds=(RECORDED,)), NOW - 9, why, joined=joined).approved


def test_a_hold_of_an_older_version_is_approved_as_a_whole() -> None:
    """It has neither key nor versions, nor have its recipients."""
    old = Hold("abc234", "example.com", 1, 1.0, (Reason("percent"),), approved_at=NOW)
    assert missing_since(policy(holds=(old,)), NOW - 9, HOLD + b"abc234").approved
    assert old.is_frozen


def test_a_hold_is_of_its_domain_alone() -> None:
    """Where the address is counted under another domain now, that hold is none of its own any more."""
    kept = Kept(int(NOW - 9), HOLD + b"abc234", joined=1)
    one = policy(holds=(replace(RECORDED, approved_at=NOW, approved_version=2),)).missing(b"a@eu", kept, "eu.example")
    assert (one.hold, one.approved) == (None, False)


# --- plan: counting


def missing_of(
    group: str, name: str = "a", *, kept: Kept = LONG_AGO, hold: Hold | None = None, **values: object
) -> Missing:
    """Return a missing address of a domain."""
    return Missing(f"{name}@{group}".encode(), kept, group, hold=hold, **values)  # type: ignore[arg-type]


PERCENT = Reason("percent", "too much")
HELD = Hold("abcd2345", "held.example", 1, 1.0, (PERCENT,), key="abc234", kind="percent", frozen_at=2.0)


def test_a_counter_counts_for_the_guard() -> None:
    """Every relay domain is there, before and after add up, and what a person let go is no part of the start."""
    counter = DomainCounter()
    counter.added["example.com"] = 3
    for number in range(5):
        counter.count(missing_of("example.com", str(number), approved=number < 2))
    counter.count(missing_of("gone.example", "", configured=False))
    counts = counter.counts(["example.com", "example.org"], {"example.com": 50}, {"example.com": (10, 4)}, ())
    assert [one.domain for one in counts] == ["example.com", "example.org", "gone.example"]
    com, org, gone = counts
    assert (com.before, com.wanted, com.missing, com.approved) == (52, 50, 5, 2)
    assert (com.window_start, com.window_removed) == (52 - 2 - 10 + 4, 4)
    assert (org.before, org.missing, org.configured) == (0, 0, True)
    assert (gone.configured, gone.catch_alls_missing, gone.window_start) == (False, ("@gone.example",), 1)


def test_an_approved_catch_all_is_not_counted_as_lost() -> None:
    """What a person let go is no reason to hold again."""
    counter = DomainCounter()
    counter.count(missing_of("example.com", "", approved=True))
    assert counter.counts(["example.com"], {}, {}, ())[0].catch_alls_missing == ()


def test_what_a_frozen_hold_has_counts_once_it_is_over() -> None:
    """While the hold stands its recipients count as frozen, and their catch-all is none that is lost; then both do."""
    counter = DomainCounter()
    for name in ("", "a", "b"):
        counter.count(missing_of("held.example", name, hold=HELD))
    (held,) = counter.counts([], {"held.example": 10}, {}, ["abc234"])
    assert (held.missing, held.frozen, held.stake, held.catch_alls_missing, held.window_start) == (3, 3, 0, (), 10)
    (free,) = counter.counts([], {"held.example": 10}, {}, [])
    assert (free.frozen, free.stake, free.catch_alls_missing, free.window_start) == (0, 3, ("@held.example",), 13)


# --- plan: what becomes of each

NOBODY = Counts(domain="example.com")


def deciding(  # noqa: PLR0913 - the inputs of the decisions
    verdicts: Mapping[str, tuple[Reason, ...]] | None = None,
    *holds: Hold,
    captured: Mapping[str, tuple[Reason, ...]] | None = None,
    standing: Sequence[Condition] = (),
    waiting: Waiting = NO_SOURCES,
    withheld: Mapping[bytes, object] | None = None,
    tripped: Tripped = NO_TRIP,
    emptied: frozenset[bytes] = frozenset(),
) -> tuple[RemovalDecider, HoldBook]:
    """Return the decisions of a run with these verdicts of the guard, and its holds."""
    book = HoldBook(holds, "run", NOW, 600.0)
    decider = RemovalDecider(
        judged=Losses([NOBODY], verdicts or {}, captured or {}, emptied),
        tripped=tripped,
        conditions=standing,
        book=book,
        waiting=waiting,
        now=NOW,
        withheld=dict(withheld or {}),  # type: ignore[arg-type]
    )
    return decider, book


SOME_MISSING = st.builds(
    missing_of,
    st.sampled_from(["free.example", "held.example", "final.example"]),
    name=st.just("a"),
    kept=st.builds(Kept, st.integers(1_800_000_000, 1_900_000_000), st.just(GRACE)),
    hold=st.sampled_from([None, HELD]),
    approved=st.booleans(),
    due=st.booleans(),
)
VERDICTS = {"held.example": (PERCENT,), "final.example": (PERCENT,)}
CANARY = Condition(Reason("canary", "gone", approvable=False), frozenset({"final.example"}))


@PATIENT
@given(st.lists(SOME_MISSING))
def test_each_missing_address_goes_or_stays(found: list[Missing]) -> None:
    """Held ones go only by approval, and not even so beyond a final reason; free ones when due; all are counted."""
    decider, book = deciding(VERDICTS, HELD, captured={"abc234": (PERCENT,)}, standing=[CANARY])
    for number, drawn in enumerate(found):
        ours = drawn.hold if drawn.group == "held.example" else None
        one = dataclasses.replace(drawn, address=b"%d@%b" % (number, drawn.group.encode()), hold=ours)
        stays = decider.decide(one)
        if one.group == "final.example":
            assert stays is not None
        elif one.group == "held.example":
            assert (stays is None) == one.approved
        else:
            assert (stays is None) == (one.approved or one.due)
        if stays is not None:
            assert stays.why.startswith(HOLD) == (one.group in VERDICTS)
    assert decider.removed + decider.kept == Counter(one.group for one in found)
    assert sum(hold.count for hold in book.holds()) + decider.in_grace == sum(decider.kept.values())
    assert all(decider.removed_approved[group] <= removed for group, removed in decider.removed.items())


def test_what_is_held_stays_in_its_hold() -> None:
    """What a frozen hold has stays there under its ID; what is newly held shares an open one of its domain."""
    decider, book = deciding(VERDICTS, HELD, captured={"abc234": (PERCENT,)})
    new = [decider.decide(missing_of("held.example", name, due=True)) for name in ("b", "c")]
    old = decider.decide(missing_of("held.example", "a", hold=HELD, due=True))
    key = HOLD + hold_id("held.example loss", "run").encode()
    assert [one and one.why for one in (old, *new)] == [HOLD + b"abc234", key, key]
    assert {hold.id: hold.count for hold in book.holds()}.keys() > {"abcd2345"}
    assert sorted(hold.count for hold in book.holds()) == [1, 2]


def test_one_hold_is_never_of_two_domains() -> None:
    """Where what was held together is counted under two domains now, each of them has a hold of its own."""
    groups = ("held.example", "eu.held.example")
    decider, book = deciding(dict.fromkeys(groups, (PERCENT,)), HELD, captured={"abc234": (PERCENT,)})
    judged = policy(holds=(HELD,))
    for group in groups:
        kept = Kept(int(NOW - 9), HOLD + b"abc234", joined=1)
        decider.decide(judged.missing(b"a@" + group.encode(), kept, group))
    assert {(hold.domain, hold.identity) for hold in book.holds()} == {
        ("held.example", "abc234"),
        ("eu.held.example", hold_id("eu.held.example loss", "run")),
    }


def test_what_is_no_longer_held_is_in_grace_again() -> None:
    """It stays until it is due, in no hold, and the next look at it is told."""
    waiting = Waiting({"corp": Looked("producer", 0, 0)})
    decider, book = deciding(waiting=waiting)
    kept = Kept(1000, HOLD + b"abc234", said=b"corp", joined=2)
    later = decider.decide(missing_of("held.example", "b", kept=Kept(2000, GRACE, b"corp"), until=NOW + 5600))
    one = decider.decide(missing_of("held.example", "a", kept=kept, hold=HELD, until=NOW + 4600))
    assert [kept and (kept.why, kept.joined) for kept in (one, later)] == [(GRACE, 0), (GRACE, 0)]
    assert book.holds() == ()
    assert decider.in_grace == 2
    assert decider.next_due == NOW + 4600
    assert decider.looks == {"corp": NOW + 4600}


def test_who_waits_for_another_source_is_decided_in_the_next_run() -> None:
    """Its own source was looked at, but a source that has not answered since may have it now: no look, no pause."""
    decider, _ = deciding(waiting=Waiting({"corp": Looked("transport", 0, looked=NOW)}))
    assert decider.decide(missing_of("free.example", kept=Kept(1000, GRACE, b"corp"), until=NOW - 60)) is not None
    assert (decider.next_due, decider.looks) == (NOW, {})


def test_a_look_in_vain_is_taken_again_later() -> None:
    """A look that is due already is taken in the next run; one that proved nothing again after an hour."""
    sources = {"corp": Looked("transport", 0, 0), "tried": Looked("transport", 0, 0, tried=NOW - 600)}
    decider, _ = deciding(waiting=Waiting(sources))
    for name in sources:
        one = missing_of("free.example", name, kept=Kept(1000, GRACE, name.encode()), until=NOW - 60)
        assert decider.decide(one) is not None
    assert decider.looks == {"corp": NOW + 1, "tried": NOW - 600 + AGAIN}
    assert decider.next_due == NOW + 1


@pytest.mark.parametrize(
    ("said", "kind", "since"),
    [("present", GRACE, int(NOW)), ("unknown", GRACE, 1), (Reason("container", subjects=("ou=x",)), HOLD, 1)],
)
def test_point_queries_only_withhold(said: object, kind: bytes, since: int) -> None:
    """Whom the source still has begins to wait anew; who could not be asked for waits on; a container is held."""
    decider, _ = deciding(withheld={b"a@free.example": said})
    stays = decider.decide(missing_of("free.example", due=True))
    assert stays
    assert (stays.why[: len(kind)], stays.since) == (kind, since)
    assert decider.decide(missing_of("free.example", approved=True, hold=HELD)) is None
    assert decider.decide(missing_of("free.example", "b", due=True)) is None


# --- kept lines

FIELD = st.text("abcdefghijklmnopqrstuvwxyz.-_0123456789", min_size=1, max_size=12).map(str.encode)
NAMES = st.lists(FIELD, max_size=3).map(b",".join)
SOME_KEPT = st.builds(
    Kept,
    since=st.integers(0, 4_000_000_000),
    why=st.one_of(st.just(GRACE), FIELD.map(HOLD.__add__)),
    said=NAMES,
    answer=st.one_of(
        st.lists(st.tuples(FIELD, FIELD).map(b"=".join), max_size=3).map(b",".join),
        st.just(b"-"),
        st.just(b"-1900000000"),
    ),
    joined=st.integers(0, 10**6),
    label=st.binary(max_size=30).filter(lambda text: not set(text) & set(b"\t\n\r\0")),
)


@PATIENT
@given(st.dictionaries(FIELD.map(lambda name: name + b"@example.com"), SOME_KEPT, max_size=6))
def test_kept_lines_are_read_back(kept: Mapping[bytes, Kept]) -> None:
    """What is written of kept addresses is what the next run remembers of them."""
    lines = [one.line(address) for address, one in sorted(kept.items())]
    assert list(remembered(sorted(kept), lines)) == sorted(kept.items())


@pytest.mark.parametrize(
    ("fields", "since", "why", "said"),
    [
        (b"1000\tgrace", 1000, GRACE, b""),
        (b"1000\thold:abc234", 1000, HOLD + b"abc234", b""),
        (b"1000\tgrace\tldap,file", 1000, GRACE, b"ldap,file"),
        (b"1000\thold:abc234\t", 1000, HOLD + b"abc234", b""),
    ],
)
def test_lines_of_older_versions_are_read(fields: bytes, since: int, why: bytes, said: bytes) -> None:
    """They have two or three fields besides the address; the answer that lacked it is unknown."""
    ((_, kept),) = remembered([b"a@example.com"], [b"a@example.com\t" + fields + b"\n"])
    assert kept
    assert (kept.since, kept.why, kept.said, kept.joined, kept.label) == (since, why, said, 0, b"")
    assert (kept.is_older, kept.upgraded, kept.answers) == (True, 0, ())
