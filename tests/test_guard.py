"""The rules of the guard and of the plan, as laws over counts and lines; nothing here touches a file."""

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from syncagent.config.tables import DomainLimits, Limits, Postfix
from syncagent.model import CLOCK_SET, Counts, Hold, Lack, Reason, SourceReport
from syncagent.state import messages
from syncagent.sync.guard import evaluate, first_run, hold_id
from syncagent.sync.removals import (
    GRACE,
    HOLD,
    DomainCounter,
    GracePolicy,
    Missing,
    RemovalDecider,
    remembered,
)
from syncagent.sync.scope import Scope
from syncagent.values.types import Address, Domain, Duration, MapName

NOW = 1_900_000_000.75
LIMITS = Limits()
PATIENT = settings(deadline=None)
"""A busy machine is no failure."""


def counted(domain: str = "example.com", **values: int) -> Counts:
    """Give counts of a domain that had 100 recipients at the window's start unless told otherwise."""
    given_ = {"wanted": 100 - values.get("missing", 0), "window_start": 100, **values}
    return Counts(domain=domain, **given_)  # type: ignore[arg-type]


def kinds(*domains: Counts, limits: Limits = LIMITS, **others: tuple[str, ...]) -> dict[str, tuple[str, ...]]:
    """Give the kinds of reasons that the guard has, by domain."""
    held = evaluate(domains, limits, **{"failing": (), "absent_canaries": (), **others})  # type: ignore[arg-type]
    return {domain: tuple(reason.kind for reason in why) for domain, why in held.items()}


@st.composite
def some_counts(draw: st.DrawFn) -> list[Counts]:
    """Give counts of up to six domains that fit together."""
    found = []
    for number in range(draw(st.integers(1, 6))):
        wanted, missing, gone = (draw(st.integers(0, 60)) for _ in range(3))
        approved = draw(st.integers(0, missing))
        grown = draw(st.integers(0, 20))
        counts = Counts(
            domain=f"d{number}.example",
            wanted=wanted,
            added=draw(st.integers(0, wanted)),
            missing=missing,
            approved=approved,
            window_start=max(wanted + missing - approved - grown + gone, 0),
            window_removed=gone,
            catch_alls_missing=draw(st.sampled_from([(), (), (f"@d{number}.example",)])) if missing > approved else (),
        )
        found.append(counts)
    return found


@st.composite
def some_limits(draw: st.DrawFn) -> Limits:
    """Give limits, with other ones for the first domain now and then."""
    own = DomainLimits(removed_percent=draw(st.floats(0, 100)), removed_floor=draw(st.integers(0, 20)))
    return Limits(
        removed_percent=draw(st.sampled_from([0.0, 5.0, 10.0, 50.0, 100.0])),
        removed_floor=draw(st.integers(0, 20)),
        domains=draw(st.sampled_from([{}, {Domain("d0.example"): own}])),
    )


# --- evaluate: each rule


@pytest.mark.parametrize(
    ("counts", "expected"),
    [
        pytest.param(counted(missing=0), (), id="nothing missing"),
        pytest.param(counted(missing=10), (), id="a tenth exactly"),
        pytest.param(counted(missing=11), ("percent",), id="more than a tenth"),
        pytest.param(counted(missing=5, wanted=5, window_start=10), (), id="half, but not over the floor"),
        pytest.param(counted(missing=6, wanted=6, window_start=12), ("percent",), id="half, over the floor"),
        pytest.param(counted(missing=3, wanted=88, window_removed=9), ("percent",), id="a bleed"),
        pytest.param(counted(missing=1, wanted=90, window_removed=9), (), id="a bleed within the limit"),
        pytest.param(counted(missing=0, wanted=80, window_removed=20), (), id="a bleed that is over"),
        pytest.param(counted(missing=60, approved=60), (), id="approved"),
        pytest.param(counted(missing=60, approved=55), (), id="approved but for a few"),
        pytest.param(counted(missing=60, approved=40), ("percent",), id="approved but for many"),
        pytest.param(counted(missing=1, wanted=0, window_start=1), ("emptied",), id="emptied"),
    ],
)
def test_a_domain_is_judged_by_what_it_would_lose(counts: Counts, expected: tuple[str, ...]) -> None:
    """Both limits must be passed, with what went in the window and without what a person let go."""
    elsewhere = counted("elsewhere.example", wanted=1_000_000, window_start=1_000_000)
    assert kinds(counts, elsewhere) == ({"example.com": expected} if expected else {})


def test_recipients_wait_for_their_domain() -> None:
    """While the removal of a relay domain is held itself, nothing of it goes, approved or not; other domains may."""
    gone = Counts(domain="a.example", leaving=True, wanted=80, missing=2, approved=2, window_start=82)
    counts = [gone, counted("b.example", missing=1), Counts(domain="c.example", leaving=True, wanted=1)]
    held = evaluate(counts, LIMITS, failing=(), absent_canaries=())
    assert {name: [(one.kind, one.approvable) for one in why] for name, why in held.items()} == {
        "a.example": [("domain", False)]
    }


def test_a_lost_catch_all_is_a_reason() -> None:
    """A catch-all among the missing is held and named."""
    lost = Counts(domain="example.com", wanted=99, missing=1, window_start=100, catch_alls_missing=("@example.com",))
    (reason,) = evaluate([lost], LIMITS, failing=(), absent_canaries=())["example.com"]
    assert (reason.kind, reason.approvable) == ("catch-all", True)
    assert reason.subjects == ("@example.com",)


def test_a_domain_emptied_by_approval_alone_is_not_held() -> None:
    """Where a person let all of a domain's last recipients go, nothing is left to hold."""
    gone = counted("example.org", wanted=0, missing=3, approved=3, window_start=0)
    assert kinds(gone, counted()) == {}


def test_a_domain_out_of_the_configuration_says_so() -> None:
    """The reason tells why such a domain has no recipient left, and its sentence too."""
    gone = Counts(domain="example.org", configured=False, missing=3, window_start=3)
    first, *_ = evaluate([gone, counted()], LIMITS, failing=(), absent_canaries=())["example.org"]
    assert (first.kind, first.subjects, first.configured) == ("emptied", ("example.org",), False)
    assert "no longer in relay_domains" in messages.with_text(first).text


def test_failing_sources_and_canaries_hold_all_that_is_missing() -> None:
    """They hold every domain with anything missing, and no other; only the canary is beyond approval."""
    domains = [counted("a.example", missing=1), counted("b.example"), counted("c.example", missing=2)]
    held = evaluate(domains, LIMITS, failing=("corp", "extra"), absent_canaries=("info@a.example",))
    assert held.keys() == {"a.example", "c.example"}
    for why in held.values():
        assert [(reason.kind, reason.approvable) for reason in why] == [("source-failing", True), ("canary", False)]
        assert [reason.subjects for reason in why] == [("corp", "extra"), ("info@a.example",)]


def test_nothing_wanted_at_all_cannot_be_approved() -> None:
    """With no recipient in any source even approved removals stay."""
    gone = [counted(name, wanted=0, missing=2, approved=2, window_start=0) for name in ("a.example", "b.example")]
    held = evaluate(gone, LIMITS, failing=(), absent_canaries=())
    assert held.keys() == {"a.example", "b.example"}
    assert not any(reason.approvable for why in held.values() for reason in why)


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
    assert kinds(counted("a.example", missing=60), counted("b.example", missing=4)) == {"a.example": ("percent",)}


def test_the_whole_counts_what_a_held_domain_lost_before() -> None:
    """What a domain's own hold keeps is no loss; what went from it in the window is."""
    bled = counted("a.example", wanted=0, missing=1, window_start=6, window_removed=5)
    assert kinds(bled, counted("b.example", wanted=27, missing=3, window_start=30)) == {
        "a.example": ("emptied", "percent"),
        "b.example": ("whole-percent",),
    }


# --- evaluate: laws


def within_limits(domains: list[Counts], size: int, share: float, floor: int) -> bool:
    """Whether what these domains lose now and lost in the window is within the limits for so many recipients."""
    lost = sum(counts.missing - counts.approved + counts.window_removed for counts in domains)
    return lost <= floor or lost <= share * size / 100 + 1e-6


@PATIENT
@given(some_counts(), some_limits())
def test_what_flows_is_within_the_limits(domains: list[Counts], limits: Limits) -> None:
    """Whatever is not held keeps to the limits of its domain and of the whole, and leaves each domain someone."""
    held = evaluate(domains, limits, failing=(), absent_canaries=())
    flows = [counts for counts in domains if counts.domain not in held and counts.missing > counts.approved]
    for counts in flows:
        assert counts.wanted
        assert not counts.catch_alls_missing
        share, floor, _ = limits.of(counts.domain)
        assert within_limits([counts], counts.window_start, share, floor)
    size = sum(counts.window_start for counts in domains)
    bled = [
        Counts(domain=counts.domain, window_removed=counts.window_removed) for counts in domains if counts not in flows
    ]
    assert not flows or within_limits([*flows, *bled], size, limits.removed_percent, limits.removed_floor)


@PATIENT
@given(some_counts(), some_limits())
def test_holds_are_for_what_is_missing(domains: list[Counts], limits: Limits) -> None:
    """Each hold is of a domain with something missing, has a reason, and a reason of the limits is approvable."""
    held = evaluate(domains, limits, failing=(), absent_canaries=())
    missing = {counts.domain for counts in domains if counts.missing}
    assert held.keys() <= missing
    for why in held.values():
        assert why
        assert all(reason.approvable or reason.kind == "empty-map" for reason in why)


@PATIENT
@given(some_counts(), some_limits(), st.sampled_from([("corp",), ()]), st.sampled_from([("a@d0.example",), ()]))
def test_doubt_about_a_source_holds_everywhere(
    domains: list[Counts], limits: Limits, failing: tuple[str, ...], canaries: tuple[str, ...]
) -> None:
    """With a failing source or an absent canary every domain with something missing is held, for that reason too."""
    held = evaluate(domains, limits, failing=failing, absent_canaries=canaries)
    expected = {kind for kind, found in (("source-failing", failing), ("canary", canaries)) if found}
    for counts in domains:
        if counts.missing and expected:
            assert {reason.kind for reason in held[counts.domain]} >= expected


@PATIENT
@given(some_counts(), some_limits(), st.randoms())
def test_the_order_of_domains_is_no_matter(domains: list[Counts], limits: Limits, random: Random) -> None:
    """The same counts in another order give the same verdict."""
    shuffled = list(domains)
    random.shuffle(shuffled)
    assert evaluate(shuffled, limits, failing=(), absent_canaries=()) == evaluate(
        domains, limits, failing=(), absent_canaries=()
    )


@PATIENT
@given(some_counts(), some_limits(), st.integers(1, 50))
def test_losing_more_never_frees_a_domain(domains: list[Counts], limits: Limits, more: int) -> None:
    """A domain that is held stays held when more of it goes missing."""
    first = domains[0]
    if first.domain not in evaluate(domains, limits, failing=(), absent_canaries=()):
        return
    worse = Counts(
        domain=first.domain,
        wanted=max(first.wanted - more, 0),
        missing=first.missing + min(more, first.wanted),
        approved=first.approved,
        window_start=first.window_start,
        window_removed=first.window_removed,
        catch_alls_missing=first.catch_alls_missing,
    )
    assert first.domain in evaluate([worse, *domains[1:]], limits, failing=(), absent_canaries=())


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


@PATIENT
@given(st.text(max_size=20), st.text(max_size=20))
def test_a_hold_id_is_easy_to_type(domain: str, run_id: str) -> None:
    """Six lower-case letters and digits, the same for the same domain and run."""
    found = hold_id(domain, run_id)
    assert len(found) == 6
    assert set(found) <= set("abcdefghijklmnopqrstuvwxyz234567")
    assert found == hold_id(domain, run_id)


def test_each_domain_and_run_has_a_hold_id_of_its_own() -> None:
    """Another domain, or another run, gives another ID."""
    assert len({hold_id(domain, run) for domain in ("a.example", "b.example") for run in ("1", "2")}) == 4


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
    kept = {b"user%02d@example.com" % number: b"%d" % since for number, since in known.items()}
    lines = [b"%b\t%b\tgrace\n" % item for item in sorted(kept.items())]
    expected = [(a, kept[a], b"grace", b"") if a in kept else (a, b"", b"", b"") for a in sorted(missing)]
    assert list(remembered(sorted(missing), lines)) == expected


def grace_policy(
    now: float = NOW, *, answer: float = NOW, grace: float = 3600, approved: tuple[str, ...] = ()
) -> GracePolicy:
    """Give what a run at `now` knows, the sources having answered at `answer`."""
    return GracePolicy(now, answer, frozenset(approved), Limits(removal_grace=Duration(grace)))


def missing_since(judged: GracePolicy, since: float | None, why: bytes = GRACE) -> Missing:
    """Judge one address that has been missing since then; None for one that is newly missing."""
    text = b"" if since is None else b"%d" % since
    return judged.missing(b"a@example.com", text, b"" if since is None else why, "example.com")


def test_a_new_missing_address_starts_its_grace_now() -> None:
    """What is not known yet is missing since now, and not due."""
    new = missing_since(grace_policy(), None)
    assert (new.since, new.why, new.due, new.approved) == (int(NOW), GRACE, False, False)


def test_grace_is_over_on_its_second() -> None:
    """A second before its end an address stays, at its end it may go."""
    assert not missing_since(grace_policy(), NOW - 3598).due
    assert missing_since(grace_policy(), NOW - 3600).due


def test_without_a_later_answer_no_grace_is_over() -> None:
    """However long it was missing: the oldest of the sources' answers must be younger than that."""
    assert not missing_since(grace_policy(answer=NOW - 9000), NOW - 9000).due
    assert missing_since(grace_policy(answer=NOW - 8000), NOW - 9000).due


def test_no_grace_is_due_at_once() -> None:
    """A grace of 0s switches the second answer off as well."""
    assert missing_since(grace_policy(grace=0, answer=0), None).due


@PATIENT
@given(st.floats(0, 4e9), st.floats(0, 4e9), st.integers(1, 10**6))
def test_a_clock_set_back_never_ends_a_grace(now: float, since: float, grace: int) -> None:
    """The time that counts never lies after now, and an address is due only after its whole grace."""
    one = missing_since(grace_policy(now, answer=now, grace=grace), since)
    assert one.since <= now
    assert one.since <= since or since < CLOCK_SET
    if since > now:
        assert not one.due
        assert one.since == int(now)
    if one.due:
        assert now - since > grace - 1


@pytest.mark.parametrize(
    ("why", "approved"),
    [(HOLD + b"abc234", True), (HOLD + b"abc235", False), (HOLD, False), (GRACE, False), (b"abc234", False)],
)
def test_only_the_stored_set_is_approved(why: bytes, approved: bool) -> None:  # noqa: FBT001 - a column of the table
    """An address is approved where it is kept under the very ID that was approved."""
    assert missing_since(grace_policy(approved=("abc234",)), NOW - 9, why).approved is approved


# --- plan: counting


def test_a_counter_counts_for_the_guard() -> None:
    """Every relay domain is there, before and after add up, and what a person let go is no part of the start."""
    counter = DomainCounter()
    counter.added["example.com"] = 3
    for number in range(5):
        one = Missing(b"a%d@example.com" % number, 0, GRACE, "example.com", approved=number < 2, due=False)
        counter.count(one, configured=True)
    counter.count(Missing(b"@gone.example", 0, GRACE, "gone.example", approved=False, due=False), configured=False)
    counts = counter.counts(["example.com", "example.org"], {"example.com": 50}, {"example.com": (10, 4)})
    assert [one.domain for one in counts] == ["example.com", "example.org", "gone.example"]
    com, org, gone = counts
    assert (com.before, com.wanted, com.missing, com.approved) == (52, 50, 5, 2)
    assert (com.window_start, com.window_removed) == (52 - 2 - 10 + 4, 4)
    assert (org.before, org.missing, org.configured) == (0, 0, True)
    assert (gone.configured, gone.catch_alls_missing, gone.window_start) == (False, ("@gone.example",), 1)


def test_an_approved_catch_all_is_not_counted_as_lost() -> None:
    """What a person let go is no reason to hold again."""
    counter = DomainCounter()
    counter.count(Missing(b"@example.com", 0, GRACE, "example.com", approved=True, due=False), configured=True)
    assert counter.counts(["example.com"], {}, {})[0].catch_alls_missing == ()


# --- plan: what becomes of each

SOME_MISSING = st.builds(
    Missing,
    address=st.just(b"a@example.com"),
    since=st.integers(1_800_000_000, 1_900_000_000),
    why=st.sampled_from([GRACE, HOLD + b"abc234", HOLD + b"xyz567"]),
    group=st.sampled_from(["free.example", "held.example", "final.example"]),
    approved=st.booleans(),
    due=st.booleans(),
)
STANDING = {"abc234": Hold("abc234", "held.example", 1, 1.0, (Reason("percent", "too much"),))}
VERDICTS = {
    "held.example": (Reason("percent", "too much"),),
    "final.example": (Reason("percent", "too much"), Reason("canary", "gone", approvable=False)),
}


@PATIENT
@given(st.lists(SOME_MISSING))
def test_each_missing_address_goes_or_stays(found: list[Missing]) -> None:
    """Held ones go only by approval, and not even so beyond a final reason; free ones when due; all are counted."""
    decisions = RemovalDecider(VERDICTS, STANDING, "run")
    for one in found:
        stays = decisions.decide(one, 3600)
        if one.group == "final.example":
            assert stays is not None
        elif one.group == "held.example":
            assert (stays is None) == one.approved
        else:
            assert (stays is None) == (one.approved or one.due)
        if stays is not None:
            assert stays.startswith(HOLD) == (one.group in VERDICTS)
    assert decisions.removed + decisions.kept == Counter(one.group for one in found)
    assert sum(decisions.holds.values()) + decisions.in_grace == sum(decisions.kept.values())
    assert all(decisions.removed_approved[group] <= removed for group, removed in decisions.removed.items())


def test_what_is_held_keeps_its_id() -> None:
    """An address held before stays under its ID; what is newly held shares a new one of its domain and run."""
    decisions = RemovalDecider(VERDICTS, STANDING, "run")
    new = HOLD + hold_id("held.example", "run").encode()
    for why, expected in ((HOLD + b"abc234", HOLD + b"abc234"), (GRACE, new), (GRACE, new)):
        one = Missing(b"a@held.example", 1, why, "held.example", approved=False, due=True)
        assert decisions.decide(one, 3600) == expected
    assert sorted(decisions.holds.values()) == [1, 2]


def test_one_id_is_never_that_of_two_holds() -> None:
    """Where what was held together is counted under two domains now, each of them has an ID of its own."""
    groups = ("held.example", "eu.held.example")
    decisions = RemovalDecider(dict.fromkeys(groups, VERDICTS["held.example"]), STANDING, "run")
    for group in groups:
        decisions.decide(Missing(b"a@" + group.encode(), 1, HOLD + b"abc234", group, approved=False, due=True), 0)
    assert set(decisions.holds) == {
        ("held.example", "abc234"),
        ("eu.held.example", hold_id("eu.held.example", "run")),
    }


def test_what_is_no_longer_held_is_in_grace_again() -> None:
    """It stays until it is due, under no ID, and the next look at it is told."""
    decisions = RemovalDecider({}, STANDING, "run")
    one = Missing(b"a@free.example", 1000, HOLD + b"abc234", "free.example", approved=False, due=False)
    later = Missing(b"b@free.example", 2000, GRACE, "free.example", approved=False, due=False)
    assert decisions.decide(later, 3600) == GRACE
    assert decisions.decide(one, 3600) == GRACE
    assert decisions.in_grace == 2
    assert decisions.next_due == 4600


def test_a_kept_line_is_read_back() -> None:
    """What is written of a kept address is what the next run remembers of it."""
    one = Missing(b"a@example.com", 1000, GRACE, "example.com", approved=False, due=False)
    assert list(remembered([b"a@example.com"], [one.kept_line(HOLD + b"abc234", b"ldap,file")])) == [
        (b"a@example.com", b"1000", HOLD + b"abc234", b"ldap,file")
    ]
