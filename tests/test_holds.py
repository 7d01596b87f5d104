"""Laws of the holds, over runs of the pure parts alone: what goes, what an ID stands for, and what a hold stops."""

import math
from dataclasses import dataclass

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule
from msgspec.structs import replace

from syncagent.config.tables import Limits
from syncagent.errors import UnknownHoldError
from syncagent.model import Hold, Reason, Shown
from syncagent.sync import approvals
from syncagent.sync.conditions import Condition
from syncagent.sync.holds import slot_of
from syncagent.values.types import Duration
from tests.scenario import HOUR, MINUTE, people
from tests.support.holding import PureRuns, domain_of, id_of

DAY = 24 * HOUR
BIG, SMALL, OTHER = people(30), people(6, "small.example"), people(12, "other.example")
EVERYBODY = sorted(BIG | SMALL | OTHER)
GRACE_TIME, COLLECT, WEEK = 2 * HOUR, 10 * MINUTE, 7 * DAY
CANARY = Condition(Reason("canary", approvable=False, subjects=("canary@example.com",)))
FAILING = Condition(Reason("source-failing", subjects=("extra",)), frozenset({"other.example"}))

some = st.sets(st.sampled_from(EVERYBODY), max_size=8)
many = st.sampled_from([BIG, SMALL, OTHER]).flatmap(lambda names: st.sets(st.sampled_from(sorted(names)), min_size=3))


@dataclass
class Seen:
    """What an ID stood for when it was shown last: who has been in its hold, and held with it, ever since then."""

    identity: str
    members: set[str]
    with_it: set[str]
    until: float = math.inf
    """When another ID was shown instead."""


class HeldRecipients(RuleBasedStateMachine):
    """Recipients leave and return, time passes, conditions stand, and people approve any ID that they ever saw."""

    def __init__(self) -> None:
        super().__init__()
        self.runs = PureRuns(set(EVERYBODY), Limits(removal_grace=Duration(GRACE_TIME), removed_floor=3))
        self.says = set(EVERYBODY)
        self.since: dict[str, float] = {}
        self.frozen: dict[str, tuple[str, set[str]]] = {}
        self.seen: dict[str, Seen] = {}
        self.approved: set[str] = set()

    @rule(gone=st.one_of(some, many))
    def leave(self, gone: set[str]) -> None:
        """Recipients are in the source no more."""
        self.says -= gone
        self._run()

    @rule(back=st.one_of(some, many, st.just(set(EVERYBODY))))
    def come_back(self, back: set[str]) -> None:
        """Recipients are in the source again."""
        self.says |= back
        self._run()

    @rule(gone=some, back=some)
    def leave_and_come_back(self, gone: set[str], back: set[str]) -> None:
        """By one answer."""
        self.says = self.says - gone | back
        self._run()

    @rule(seconds=st.sampled_from([MINUTE, 5 * MINUTE, 11 * MINUTE, 3 * HOUR, 2 * DAY, 8 * DAY]))
    def wait(self, seconds: float) -> None:
        """Time passes."""
        self.runs.wait(seconds)
        self._run()

    @rule(condition=st.sampled_from([CANARY, FAILING]), gone=some)
    def doubt(self, condition: Condition, gone: set[str]) -> None:
        """A condition stands during one run."""
        self.says -= gone
        self._run(condition)

    @precondition(lambda self: self.seen)
    @rule(data=st.data(), condition=st.sampled_from([None, None, CANARY, FAILING]))
    def approve(self, data: st.DataObject, condition: Condition | None) -> None:
        """A person approves an ID, of now or of any time before, and a run follows."""
        hold_id = data.draw(st.sampled_from(sorted(self.seen)))
        seen, holds = self.seen[hold_id], self.runs.holds.values()
        hold = next((one for one in holds if one.identity == seen.identity), None)
        try:
            self.runs.approve(hold_id)
        except UnknownHoldError:
            assert hold is None or not hold.approvable or seen.until <= self.runs.now - WEEK
            return
        assert hold is not None
        assert seen.until > self.runs.now - WEEK
        assert hold.approvable
        self.approved |= seen.members | seen.with_it
        self._run(condition)

    def _run(self, condition: Condition | None = None) -> None:
        now = self.runs.now
        gone = self.runs.published - self.says
        self.since = {name: self.since.get(name, now) for name in gone}
        removed = self.runs.run(self.says, standing=[condition] if condition else [])
        self._check_removals(removed, condition)
        self.approved &= self.runs.published - self.says
        self._check_holds()
        self._see()

    def _check_removals(self, removed: set[str], condition: Condition | None) -> None:
        due = {name for name, since in self.since.items() if self.runs.now - since >= GRACE_TIME}
        if condition is CANARY:
            assert not removed, "a condition that nobody may approve stands"
            return
        assert removed <= due | self.approved, "removed before its time, and not approved"
        assert self.approved & self.since.keys() <= removed, "approved, and not removed"
        if condition is FAILING:
            assert not {name for name in removed - self.approved if domain_of(name) == "other.example"}

    def _check_holds(self) -> None:
        holds = self.runs.holds
        held = [self.runs.members(hold) for hold in holds.values()]
        assert [len(members) for members in held] == [hold.count for hold in holds.values()]
        assert sum(map(len, held)) == sum(kept.why != b"grace" for kept in self.runs.kept.values())
        still_open = [(hold.domain, slot_of(hold)) for hold in holds.values() if not hold.is_frozen]
        assert len(still_open) == len(set(still_open)), "two open holds of one kind and domain"
        assert all(hold.since > self.runs.now - COLLECT for hold in holds.values() if hold.collecting)
        identities = {hold.identity for hold in holds.values()}
        assert {hold.main for hold in holds.values() if hold.main} <= identities, "held with a hold that is over"
        for hold, members in zip(holds.values(), held, strict=True):
            hold_id, before = self.frozen.get(hold.identity, (id_of(hold, members), members))
            assert hold.id == hold_id, "the ID is that of its set, from its freezing on for ever"
            assert members <= before, "a frozen hold grew"
        self.frozen = {
            hold.identity: (hold.id, members)
            for hold, members in zip(holds.values(), held, strict=True)
            if hold.is_frozen
        }

    def _see(self) -> None:
        by_identity = {hold.identity: hold for hold in self.runs.holds.values()}
        for hold_id, seen in self.seen.items():
            hold = by_identity.get(seen.identity)
            seen.members &= self.runs.members(hold) if hold else set()
            seen.with_it &= self._with(seen.identity)
            if hold_id not in self.runs.holds and seen.until == math.inf:
                seen.until = self.runs.now
        for hold in by_identity.values():
            self.seen[hold.id] = Seen(hold.identity, self.runs.members(hold), self._with(hold.identity))

    def _with(self, identity: str) -> set[str]:
        return {name for one in self.runs.holds.values() if one.main == identity for name in self.runs.members(one)}


TestHeldRecipients = HeldRecipients.TestCase
TestHeldRecipients.settings = settings(
    max_examples=100,
    stateful_step_count=30,
    deadline=None,
    phases=[Phase.explicit, Phase.reuse, Phase.generate],  # to shrink takes minutes
)


# --- what an ID stands for


def no_wait(published: set[str], **limits: object) -> PureRuns:
    """Return runs without a grace, so that what is not held goes at once."""
    return PureRuns(set(published), Limits(removal_grace=Duration(0), **limits))  # type: ignore[arg-type]


def frozen(runs: PureRuns, says: set[str]) -> Hold:
    """Freeze what this answer lacks. Return the hold; there must be only one."""
    runs.run(says)
    runs.wait(COLLECT)
    runs.run(says)
    (hold,) = runs.holds.values()
    assert hold.is_frozen
    return hold


@settings(max_examples=50, deadline=None)
@given(st.lists(st.sets(st.sampled_from(sorted(BIG)), min_size=4, max_size=12), min_size=1, max_size=5))
def test_the_id_of_a_frozen_hold_depends_on_its_set_alone(steps: list[set[str]]) -> None:
    """Two backups that heard of it in other steps, and at other times, name it alike."""
    everybody = BIG | people(60, first=100)
    lost = set().union(*steps)
    first, second = (
        no_wait(everybody, removed_percent=0, removed_floor=3),
        no_wait(everybody, removed_percent=0, removed_floor=3),
    )
    second.wait(17)
    gone: set[str] = set()
    for step in steps:
        gone |= step
        first.run(everybody - gone)
        first.wait(MINUTE)
    ids = [frozen(runs, everybody - lost).id for runs in (first, second)]
    assert ids[0] == ids[1]


def test_an_earlier_id_is_that_of_the_hold_that_showed_it_last() -> None:
    """A frozen hold had it first, but lost these recipients; the hold that has them since is meant."""
    shown = Hold("new", "example.com", 1, 1.0, (), key="a", kind="half", version=2, frozen_at=2.0)
    older = replace(shown, shown=(Shown("both", 1, 100.0),))
    newer = replace(shown, id="other", key="b", shown=(Shown("both", 1, 200.0),))
    for holds in ([older, newer], [newer, older]):
        assert approvals.resolve("both", holds, 300.0) == (newer, 1)


def test_what_joins_with_a_later_answer_is_not_approved_by_an_earlier_id() -> None:
    """The ID of the main hold stands for what was held with it when it was shown, in the other domain as well."""
    runs = PureRuns(BIG | OTHER, Limits(removal_grace=Duration(HOUR)))
    says = (BIG | OTHER) - people(8) - people(1, "other.example")
    runs.run(says)
    first = runs.hold_of("user000@example.com")
    assert first
    runs.wait(MINUTE)
    says -= people(9) | people(2, "other.example")
    runs.run(says)
    runs.approve(first.id)
    assert runs.run(says) == people(8) | people(1, "other.example")


# --- what a hold stops, and what it does not


@pytest.mark.parametrize("where", ["example.com", "other.example"])
def test_a_hold_of_thirty_days_stops_no_removal_a_day(where: str) -> None:
    """Neither elsewhere in the same source nor in the domain of the hold."""
    everybody = BIG | people(40, first=100) | people(60, "other.example")
    runs = no_wait(everybody)
    says = everybody - people(15)
    hold = frozen(runs, says)
    for number in range(30):
        runs.wait(DAY + 1)
        says.discard(f"user{number + (100 if where == 'example.com' else 0):03}@{where}")
        assert len(runs.run(says)) == 1, number
        assert [one.id for one in runs.holds.values()] == [hold.id]
    assert runs.members(hold) == people(15)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.sets(st.sampled_from(sorted(BIG | OTHER)), max_size=6), st.sampled_from([MINUTE, DAY]))))
def test_what_a_frozen_hold_has_counts_for_nothing_else(steps: list[tuple[set[str], float]]) -> None:
    """Everything else goes, or is held, as if the recipients of the frozen hold had never been there."""
    stuck = people(200, first=500)
    with_it, without = no_wait(BIG | OTHER | stuck), no_wait(BIG | OTHER)
    hold = frozen(with_it, BIG | OTHER)
    for _ in range(2):
        without.run(BIG | OTHER)
        without.wait(COLLECT)
    without.now = with_it.now
    says = BIG | OTHER
    for gone, pause in steps:
        says = says - gone
        for runs in (with_it, without):
            runs.wait(pause)
            runs.run(says)
        if not says & BIG:  # all that is left of the domain is held, and so is what would empty it
            return
        assert with_it.removed == without.removed
        assert {one.domain: one.count for one in with_it.holds.values() if one.identity != hold.identity} == {
            one.domain: one.count for one in without.holds.values()
        }


def test_what_the_same_answer_lacks_ends_with_its_hold() -> None:
    """Where the domain has its recipients again, what is missing elsewhere goes by itself."""
    runs = no_wait(BIG | OTHER)
    runs.run((BIG | OTHER) - people(8) - people(1, "other.example"))
    kinds = {hold.domain: hold.kind for hold in runs.holds.values()}
    assert kinds == {"example.com": "percent", "other.example": "same-answer"}
    for _ in range(2):
        runs.wait(DAY)
        assert not runs.run((BIG | OTHER) - people(8) - people(1, "other.example"))
    assert runs.run((BIG | OTHER) - people(1, "other.example")) == people(1, "other.example")
    assert not runs.holds


def test_a_hold_loses_the_conditions_that_are_over() -> None:
    """Also that of the same answer: its reasons are those of the run, and each of them once."""
    runs = no_wait(BIG | OTHER)
    says = (BIG | OTHER) - people(8) - people(1, "other.example")
    for standing in ((FAILING,), (FAILING,), ()):
        runs.run(says, standing=standing)
        kinds = {hold.domain: [reason.kind for reason in hold.reasons] for hold in runs.holds.values()}
        failing = ["source-failing"] if standing else []
        assert kinds == {"example.com": ["percent"], "other.example": ["same-answer", *failing]}
        runs.wait(MINUTE)


def test_what_the_same_answer_lacks_is_approved_with_its_hold() -> None:
    """And not by itself."""
    runs = no_wait(BIG | OTHER)
    says = (BIG | OTHER) - people(8) - people(1, "other.example")
    runs.run(says)
    main, other = (runs.hold_of(f"user000@{name}") for name in ("example.com", "other.example"))
    assert main
    assert other
    with pytest.raises(UnknownHoldError, match=f"approved with {main.id}"):
        runs.approve(other.id)
    runs.approve(main.id)
    assert runs.run(says) == people(8) | people(1, "other.example")


@pytest.mark.parametrize("gone", [people(6, "small.example"), people(3, "small.example"), people(2)])
def test_other_losses_hold_nothing_elsewhere(gone: set[str]) -> None:
    """The half rule, a small domain that is emptied, and what goes without a hold."""
    runs = no_wait(BIG | OTHER | SMALL, removed_floor=6)
    runs.run((BIG | OTHER | SMALL) - gone - people(1, "other.example"))
    assert runs.removed >= people(1, "other.example")


def test_later_removals_are_not_of_the_same_answer() -> None:
    """Who is missing by a later answer goes while the hold stands."""
    runs = no_wait(BIG | OTHER)
    says = (BIG | OTHER) - people(8)
    runs.run(says)
    runs.wait(MINUTE)
    assert runs.run(says - people(1, "other.example")) == people(1, "other.example")


def test_a_container_without_an_entry_is_held_whatever_its_size() -> None:
    """With everything else that the same answer lacks; a container that keeps one is none."""
    hidden = people(3, first=0)
    runs = no_wait(BIG | OTHER)
    runs.containers = dict.fromkeys(hidden, "ou=hidden,dc=example") | dict.fromkeys(BIG - hidden, "ou=seen,dc=example")
    says = (BIG | OTHER) - hidden - people(1, first=9) - people(1, "other.example")
    runs.run(says)
    assert {hold.kind for hold in runs.holds.values()} == {"container", "same-answer"}
    for pause in (MINUTE, COLLECT, 30 * DAY):
        assert not runs.removed
        runs.wait(pause)
        runs.run(says)
    assert not runs.removed
    one = runs.hold_of("user000@example.com")
    assert one
    assert one.reasons[0].subjects == ("ou=hidden,dc=example",)
    assert runs.run(says | {"user000@example.com"}) >= {"user001@example.com", "user002@example.com"}


def test_a_hold_that_ends_otherwise_voids_its_approval() -> None:
    """The approval of a run that could not let the set go does not count for the same set held again."""
    runs = no_wait(BIG)
    hold = frozen(runs, BIG - people(8))
    runs.approve(hold.id)
    assert not runs.run(BIG - people(8), standing=[CANARY])
    assert [one.approved_at for one in runs.holds.values()] == [runs.now]
    runs.run(BIG, standing=[CANARY])
    assert not runs.holds
    assert frozen(runs, BIG - people(8)).approved_at == 0
    assert runs.published == BIG


@pytest.mark.parametrize("shift", [0.3, 1.0, 1.9])
@pytest.mark.parametrize("limits", [(0, 0), (10, 5)])
def test_two_backups_tell_of_a_slow_deletion_alike(shift: float, limits: tuple[int, int]) -> None:
    """200 removals over ten minutes at a poll of two seconds, shifted: at most two frozen holds, the same on both."""
    everybody = sorted(people(1000))
    told = []
    for start in (0.0, shift):
        runs = PureRuns(
            set(everybody),
            Limits(removal_grace=Duration(HOUR), removed_percent=limits[0], removed_floor=limits[1]),
        )
        frozen: dict[str, int] = {}
        for poll in range(600):
            at = start + 2 * poll
            runs.now = 1_900_000_000 + at
            runs.run(everybody[min(int(at / 3), 200) :])
            frozen |= {hold.id: hold.count for hold in runs.holds.values() if hold.is_frozen}
        told.append(frozen)
    assert told[0] == told[1]
    assert 1 <= len(told[0]) <= 2
    assert sum(told[0].values()) == 200
