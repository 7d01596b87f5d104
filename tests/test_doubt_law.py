"""The laws of doubt, by generated reasons and runs: it widens at once, narrows late, and always ends."""

from collections.abc import Collection, Iterable
from itertools import pairwise

from hypothesis import example, given
from hypothesis import strategies as st

from syncagent.model import Doubt, DoubtKind
from syncagent.sync import doubt

NOW = 1_900_000_000.0
DOMAINS = ("a.example", "b.example", "c.example")
_BY_STATE: tuple[DoubtKind, ...] = ("source-failing", "hold", "empty", "map", "failed")
_BY_TIME: tuple[DoubtKind, ...] = ("new", "removed", "leaving", "catch-all-removed")
_times = st.floats(NOW - 10_000, NOW + 10_000, allow_nan=False)


def _doubts() -> st.SearchStrategy[Doubt]:
    """Return reasons of every kind, as a record may have them, also by a clock that was set since."""
    subject = st.sampled_from(("", "one", "two"))
    domain = st.sampled_from(DOMAINS)
    by_state = st.builds(Doubt, domain, st.sampled_from(_BY_STATE), subject, _times, _times)
    by_time = st.builds(Doubt, domain, st.sampled_from(_BY_TIME), subject, _times, _times, _times)
    switched = st.builds(Doubt, domain, st.sampled_from(("dead", "boot")), st.just(""), _times, _times)
    return st.one_of(by_state, by_time, switched)


_lists = st.lists(_doubts(), max_size=8, unique_by=lambda one: one.key)


def _keys(doubts: Iterable[Doubt]) -> set[tuple[str, str, str]]:
    return {one.key for one in doubts}


def _true(found: Collection[Doubt]) -> set[tuple[str, str, str]]:
    """Return the keys of the reasons that hold a line by being true; the mark of the switch ends by itself."""
    return {one.key for one in found if one.kind not in doubt.MARKED}


@given(_lists, _lists)
def test_widening_drops_nothing(recorded: list[Doubt], found: list[Doubt]) -> None:
    """Every reason stands afterwards, since the earlier time, and none ends earlier."""
    after = {one.key: one for one in doubt.widened(recorded, found)}
    assert after.keys() == _keys(recorded) | _keys(found)
    for old in recorded:
        assert after[old.key].since <= old.since
        assert after[old.key].until >= old.until
    assert doubt.widened(after.values(), found) == tuple(after[key] for key in sorted(after)), "twice is as once"


@given(_lists, _lists, st.sets(st.sampled_from(DOMAINS)), _times, _times)
def test_narrowing_drops_no_true_reason(
    recorded: list[Doubt], found: list[Doubt], domains: set[str], now: float, by: float
) -> None:
    """What is true stays while its domain is in a table, and what has an end stays until then."""
    standing, by = doubt.widened(recorded, found), min(now, by)
    after = _keys(doubt.narrowed(standing, found, domains, now, by))
    assert after <= _keys(standing)
    for one in standing:
        if one.key in _true(found) and one.domain in domains:
            assert one.key in after
        if one.until > now:
            assert one.key in after
        if one.kind in {"dead", "boot"} and one.domain in domains:
            assert one.key in after, "until every source was asked"
        if one.until > by or (by <= one.seen <= now and one.domain in domains and one.kind in _BY_STATE):
            assert one.key in after, "the run of the map in use had this reason"


@given(_times, _times, _times)
@example(NOW, NOW, NOW)
@example(NOW + 30, NOW - 3600, NOW)
def test_narrowing_waits(covered: float, narrowed: float, now: float) -> None:
    """A run drops nothing within a minute of the map's rename, its own one too, and of the last narrowing."""
    if 0 <= now - covered < doubt.COVERED or 0 <= now - narrowed < doubt.APART:
        assert not doubt.may_narrow(covered, narrowed, now)
    if now < covered <= now + doubt.COVERED:
        assert not doubt.may_narrow(covered, narrowed, now)
    if now - covered >= doubt.COVERED and now - narrowed >= doubt.APART:
        assert doubt.may_narrow(covered, narrowed, now)


@given(_lists, st.sets(st.integers(0, 7)), st.lists(_times, max_size=3), _times, _times, st.floats(0, 20_000))
def test_the_end_is_never_too_early(  # noqa: PLR0913, PLR0917 - all that the end depends on
    standing: list[Doubt], true: set[int], addresses: list[float], covered: float, last: float, wait: float
) -> None:
    """Before ``ends``, a run in which the same is true drops no line; it is not None while anything lingers."""
    # A reason that the record has seen in the future is one of a clock that was set back: it is dropped at once.
    standing = [one for one in standing if one.seen <= NOW]
    found = [one for number, one in enumerate(standing) if number in true]
    covered, last = min(covered, NOW), min(last, NOW)
    end = doubt.ends(standing, found, addresses, covered, last)
    lingers = [one for one in standing if one.until or one.key not in _true(found)]
    assert (end is None) == (not lingers and not addresses)
    now = NOW + wait
    if end is not None and now < end and doubt.may_narrow(covered, last, now):
        later = [one for one in found if not one.until or one.until > now]
        assert doubt.narrowed(standing, later, DOMAINS, now, now) == tuple(standing)
        assert all(until > now for until in addresses)


_steps = st.lists(
    st.tuples(
        st.floats(0.5, 900),
        st.sets(st.tuples(st.sampled_from(DOMAINS), st.sampled_from(("one", "two")))),
        st.booleans(),
    ),
    max_size=25,
)
"""Runs: seconds since the one before, the sources that fail for a domain, and whether the map is renamed."""


class _Record:
    """What runs leave, without any file."""

    def __init__(self) -> None:
        self.standing: tuple[Doubt, ...] = ()
        self.covered = self.covering = self.narrowed = 0.0
        self.drops: list[float] = []

    def run(self, now: float, failing: Iterable[tuple[str, str]], *, renames: bool) -> None:
        """Widen, rename the map, narrow: as ``sync.doubt_table`` does."""
        found = doubt.current(doubt.Facts(DOMAINS, failing=_by_source(failing), plan=None), now)
        found = tuple(one for one in found if one.kind != "empty")
        self.standing = doubt.widened(self.standing, found)
        before = self.standing
        covered, by = self.covered, now
        if renames:
            self.covered, self.covering, by = now + 100, now, self.covering
        self.standing = doubt.asked(self.standing, now)
        if doubt.may_narrow(covered, self.narrowed, now):
            self.standing = doubt.narrowed(self.standing, found, DOMAINS, now, by)
        if doubt.lines(self.standing) < doubt.lines(before):
            self.narrowed = now
            self.drops.append(now)
        assert _true(found) <= _keys(self.standing)


def _by_source(failing: Iterable[tuple[str, str]]) -> dict[str, set[str]]:
    sources: dict[str, set[str]] = {}
    for domain, source in failing:
        sources.setdefault(source, set()).add(domain)
    return sources


@given(_steps)
def test_every_line_goes_in_the_end(steps: list[tuple[float, set[tuple[str, str]], bool]]) -> None:
    """Once nothing is true, the runs at the times of ``ends`` drop every line; drops are a minute apart."""
    record, now = _Record(), NOW
    for wait, failing, renames in steps:
        now += wait
        record.run(now, failing, renames=renames)
    record.run(now, (), renames=False)
    for _ in range(2 * len(DOMAINS) + 2):
        end = doubt.ends(record.standing, (), (), record.covered, record.narrowed)
        if end is None:
            break
        assert end >= now, "not in the past"
        now = end
        record.run(now, (), renames=False)
    assert record.standing == ()
    assert all(after - before >= doubt.APART for before, after in pairwise(record.drops))
