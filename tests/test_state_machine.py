"""Whatever sources, people and crashes do, in any order: nobody whom a source vouches for is ever gone."""

import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, note, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from syncagent.model import SyncResult
from tests.scenario import HOUR, START, Scenario, people
from tests.support.kill import Point, arm
from tests.support.postmap import postmap_build, postmap_keys, settle

# A timeout within an example would count as its failure, and hypothesis would try it again: "flaky".
pytestmark = pytest.mark.timeout(3600)

SOURCES = ("corp", "branch", "extra")
DOMAINS = ("example.com", "example.org")
POOL = sorted(people(24) | people(12, "example.org"))
FLOOR, PERCENT = 3, 10.0
MANY, LONG = 1000, 40
"""Sequences, and steps of each, in `make proof`."""

POINTS = (
    Point("syncagent.state.database:Ledger.prepare", "after"),
    Point("syncagent.state.database:Ledger.save_source"),
    Point("syncagent.state.database:Ledger.save_source", "after"),
    Point("syncagent.state.database:Ledger.save_source", "after", 2),
    Point("syncagent.sync.diff:Diff.decide", "after"),
    Point("syncagent.postfix.publish:_write_text", "after"),
    Point("syncagent.postfix.publish:_index", "after"),
    Point("pathlib:Path.replace"),
    Point("pathlib:Path.replace", "after"),
    Point("pathlib:Path.replace", "after", 2),
    Point("syncagent.state.database:Ledger.new_list", "after"),
    Point("syncagent.state.database:_insert_run"),
    Point("syncagent.state.database:Ledger.record", "after"),
    Point("syncagent.state.database:Ledger.intend", "after"),
    Point("syncagent.state.state_file:write"),
    Point("syncagent.state.state_file:write", "after"),
)

some = st.sets(st.sampled_from(POOL), max_size=6)
sources = st.sampled_from(SOURCES)


class CrashedError(BaseException):
    """Ends a run where it stands; nothing but the clean-up of its blocks is done."""


class Raw(Scenario):
    """A scenario whose map a hand or a crash may have left with text and index that differ."""

    def published(self) -> set[str]:
        """Give what Postfix answers for: the keys of the index."""
        if not Path(f"{self.map}.lmdb").exists():
            return set()
        return {key.decode() for key in postmap_keys(self._postfix, f"lmdb:{self.map}")}

    def text(self) -> set[str]:
        """Give the keys of the text."""
        lines = self.map.read_text("utf-8").splitlines() if self.map.exists() else []
        return {line.removesuffix(" OK") for line in lines if not line.startswith("#")}


class Machine(RuleBasedStateMachine):
    """Three sources, people who approve and edit, and crashes; the model knows who was vouched for, by whom, when."""

    def __init__(self) -> None:
        super().__init__()
        self.directory = Path(tempfile.mkdtemp(prefix="machine-"))
        self.mx = Raw(self.directory, *SOURCES, relay_domains=DOMAINS)
        self.mx.limits = {"removal_grace": "1h", "removed_floor": FLOOR, "removed_percent": PERCENT}
        self.mx.set_clock(START)
        self.files: dict[str, set[str] | None] = {}
        self.ever: set[str] = set()
        self.was: set[str] = set()
        self.disturbed = False
        self.missing: dict[str, float] = {}
        self.last: dict[str, set[str]] = {}

    def teardown(self) -> None:
        """Remove it all."""
        shutil.rmtree(self.directory)

    # What the world does.

    @initialize(
        rest=st.sets(st.sampled_from(POOL[1:]), min_size=20, max_size=30), grace=st.sampled_from(["0s", "0s", "1h"])
    )
    def begin(self, rest: set[str], grace: str) -> None:
        """Every source has a list, and the map is published."""
        self.mx.limits["removal_grace"] = grace
        mine = {*rest, POOL[0], "user000@example.org"}
        for number, name in enumerate(SOURCES):
            self.say(name, {address for at, address in enumerate(sorted(mine)) if at % 3 == number} | {POOL[0]})
        self.run()
        assert self.mx.published() == mine

    def say(self, name: str, addresses: set[str]) -> None:
        """Let a source say this."""
        self.mx.write(name, addresses)
        self.files[name] = set(addresses)
        if addresses:
            self.last[name] = set(addresses)

    @rule(name=sources, more=some)
    def grows(self, name: str, more: set[str]) -> None:
        """A source says more."""
        self.say(name, (self.files[name] or set()) | more)

    @rule(name=sources, fewer=some)
    def shrinks(self, name: str, fewer: set[str]) -> None:
        """A source says less; perhaps nothing, which is a failure."""
        self.say(name, (self.files[name] or set()) - fewer)

    @rule(name=sources, count=st.integers(1, 2))
    def trickles(self, name: str, count: int) -> None:
        """A source loses one or two, which the guard lets go in time."""
        self.say(name, set(sorted(self.files[name] or set())[count:]))
        self.run()

    @rule(name=sources)
    def halves(self, name: str) -> None:
        """A source loses every second one, which is too many at once."""
        self.say(name, set(sorted(self.files[name] or set())[::2]))
        self.run()

    @rule(name=sources)
    def moves(self, name: str) -> None:
        """All that a source says goes to another one."""
        others = [other for other in SOURCES if other != name and self.files[other] is not None]
        mine = self.files[name] or set()
        if others and len(mine) > 1:
            self.say(others[0], (self.files[others[0]] or set()) | mine)
            self.say(name, {min(mine)})

    @rule(name=sources)
    def fails(self, name: str) -> None:
        """A source's file is away."""
        self.mx.break_source(name)
        self.files[name] = None

    @rule(name=sources)
    def becomes_empty(self, name: str) -> None:
        """A source's file is there, with nobody in it: a failure too."""
        self.say(name, set())

    @rule(name=sources)
    def recovers(self, name: str) -> None:
        """A source says again what it said last."""
        self.say(name, self.last[name])

    @rule(hours=st.sampled_from([0.1, 1.1, 1.1, 3.0, 25.0, -2.0]))
    def time_passes(self, hours: float) -> None:
        """Time passes; or the clock is set back."""
        self.mx.wait(hours * HOUR)

    @rule()
    def the_ledger_is_lost(self) -> None:
        """The state directory is gone, and with it what a failing source said last: the text has it, as held."""
        if self.mx.state.exists():
            self.mx.lose_ledger()
            self.mx._heard.clear()

    @precondition(lambda self: self.mx.map.exists())
    @rule(more=some)
    def a_hand_adds(self, more: set[str]) -> None:
        """Somebody adds lines to the text, and indexes it."""
        with self.mx.map.open("a", encoding="utf-8") as text:
            text.writelines(f"hand.{address} OK\n" for address in sorted(more))
        self.ever |= {f"hand.{address}" for address in more}
        self.index()

    @precondition(lambda self: self.mx.map.exists())
    @rule(fewer=some)
    def a_hand_removes(self, fewer: set[str]) -> None:
        """Somebody takes lines out of the text, and indexes it."""
        left = self.mx.text() - fewer
        if left:
            self.mx.map.write_text("".join(f"{address} OK\n" for address in sorted(left)), "utf-8")
            self.index()

    def index(self) -> None:
        """Do as a hand does: plain postmap."""
        settle(self.mx.map)
        postmap_build(self.directory / "postfix", f"lmdb:{self.mx.map}")
        self.was = self.mx.published()
        self.disturbed = True

    # What the program does.

    @rule()
    def run(self) -> None:
        """A run to its end."""
        self.judged(lambda: self.mx.sync(code=None))

    @rule()
    def runs_twice_an_hour_apart(self) -> None:
        """What time and a second answer let go, goes."""
        for _ in range(2):
            self.judged(lambda: self.mx.sync(code=None))
            self.mx.wait(1.1 * HOUR)
        self.judged(lambda: self.mx.sync(code=None))

    @rule(data=st.data())
    def a_person_approves(self, data: st.DataObject) -> None:
        """Somebody approves what a run holds."""
        result = self.judged(lambda: self.mx.sync(code=None))
        holds = [hold for hold in result.plan.holds if hold.approvable] if result else []
        if holds:
            hold = data.draw(st.sampled_from(holds))
            self.judged(lambda: self.mx.approve(hold.id, code=None), allowed=hold.count)

    @rule(point=st.sampled_from(POINTS))
    def a_run_crashes(self, point: Point) -> None:
        """A run ends at some step, if it comes there."""

        def crash() -> None:
            raise CrashedError

        before = self.mx.published()
        disarm = arm(point, crash)
        try:
            self.judged(lambda: self.mx.sync(code=None))
        except CrashedError:
            note(f"crashed at {point}")
            after = self.mx.published()
            assert after in (before, self.mx.text())
            self.judge(before, after, None)
            self.hear()
            self.disturbed = True
        finally:
            disarm()

    def hear(self) -> None:
        """Note what a crashed run may have heard, or not: only what both allow is asserted of the next."""
        for name, addresses in self.files.items():
            if addresses:
                self.ever |= addresses
                self.mx._heard[name] = self.mx._heard.get(name, set()) & addresses

    # What must hold.

    def judged(self, act: Callable[[], SyncResult], allowed: int = 0) -> SyncResult:
        """Do a run and judge it."""
        for addresses in self.files.values():
            self.ever |= addresses or set()
        before = self.mx.published()
        result = act()
        note(f"{result.status} {result.exit_code} {result.notes}")
        after = self.mx.published()
        assert after == self.mx.text(), "the index does not hold what the text says"
        assert result.status in {"published", "unchanged", "incomplete"}
        for report in result.sources:
            assert (report.state == "failing") == (not self.files[report.name])
        self.judge(before, after, result, allowed)
        self.disturbed = False
        return result

    def judge(self, before: set[str], after: set[str], result: SyncResult | None, allowed: int = 0) -> None:
        """What went is no more than the guard's limits let go, or a person."""
        gone = before - after
        said = self.mx.said()
        if result:
            assert not gone & said
            if self.mx.limits["removal_grace"] != "0s" and not allowed:
                late = {address for address, since in self.missing.items() if self.mx.now - since >= HOUR}
                assert gone <= late, "removed before its grace was over"
        known = {address: min(since, self.mx.now) for address, since in self.missing.items()}
        self.missing = {address: known.get(address, self.mx.now) for address in after - said}
        if not gone:
            self.was = after
            return
        if result is None:
            self.was = after
            return
        assert allowed or not any(addresses is None or not addresses for addresses in self.files.values()), (
            "removed while a source is failing"
        )
        for domain in DOMAINS:
            mine = {address for address in gone if address.endswith(f"@{domain}")}
            size = len([address for address in self.ever if address.endswith(f"@{domain}")])  # it was never larger
            limit = max(FLOOR, PERCENT * size / 100)
            assert len(mine) <= limit + allowed, f"{domain} lost {len(mine)} of {size}"
            assert allowed or not mine or any(address.endswith(f"@{domain}") for address in after)
        self.was = after

    @invariant()
    def nobody_is_gone(self) -> None:
        """All that a configured source said last is published, unless a hand took it out since the last run."""
        if not self.disturbed:
            assert self.mx.said() <= self.mx.published()

    @invariant()
    def nobody_is_made_up(self) -> None:
        """Nothing is published that no source and no hand ever said; and once there is a map, it is not empty."""
        published = self.mx.published()
        assert published <= self.ever
        assert published or not self.was


TestMachine = Machine.TestCase
TestMachine.settings = settings(
    max_examples=24,
    stateful_step_count=15,
    deadline=None,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=list(HealthCheck),
    derandomize=True,
)


@pytest.mark.proof
@pytest.mark.timeout(0)
def test_many_more_sequences(record_property: Callable[[str, object], None]) -> None:
    """The same with more and longer sequences, other ones in each run; a failure prints how to repeat it."""
    long = settings(
        TestMachine.settings, max_examples=MANY, stateful_step_count=LONG, derandomize=False, print_blob=True
    )
    run_state_machine_as_test(Machine, settings=long)
    record_property("figures", f"{MANY} sequences of up to {LONG} steps")
