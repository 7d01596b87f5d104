"""An answer that amends the last one: what a source says by its changes is what it says whole."""

from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from syncagent.errors import SourceError
from syncagent.files import atomic as files
from syncagent.sources import Answer, Request
from syncagent.state import snapshot
from tests.support.fetching import Fetch, Runs, Says, lines, whole

Base = dict[str, list[str]]
"""Addresses by key."""


@pytest.fixture
def runs(tmp_path: Path) -> Runs:
    """Runs with nothing remembered."""
    return Runs(tmp_path)


def says(people: Base) -> Fetch:
    """Say these, whole, each address under its key."""

    def fetch(request: Request) -> Answer:
        request.sink.put((address, key, f"label of {key}") for key, several in people.items() for address in several)
        return Answer(validator="v")

    return fetch


def amends(
    change: Callable[[Request], object], *, validator: str = "w", explained: frozenset[str] | None = None
) -> Fetch:
    """Amend the last answer."""

    def fetch(request: Request) -> Answer:
        assert request.validator is not None
        request.sink.amend(last=True)
        change(request)
        return Answer(validator=validator, explained=explained)

    return fetch


PEOPLE: Base = {
    "a": ["anna@example.com", "a@example.com"],
    "b": ["berta@example.com"],
    "c": ["no address", "c@example.com"],
    "d": ["anna@example.com"],
}


def test_what_is_forgotten_goes_and_the_rest_stays(runs: Runs) -> None:
    """A forgotten key takes its addresses and rejects along, and nobody else's."""
    runs(Says(says(PEOPLE)).configured())
    (fetched,) = runs(Says(amends(lambda request: request.sink.forget(["b", "c", "never there"]))).configured())
    assert lines(fetched) == ["a@example.com", "anna@example.com", "anna@example.com"]
    assert (fetched.report.state, fetched.report.entries, fetched.report.rejected) == ("whole", 3, 0)
    assert fetched.state.validator == "w"


def test_what_is_put_is_added(runs: Runs) -> None:
    """What an amending answer puts stands beside what it does not void."""

    def change(request: Request) -> None:
        request.sink.forget(["a"])
        request.sink.put([("neu@example.com", "a", ""), ("e@example.com", "e", "")])
        request.sink.reject("mist", "is none", "f")

    runs(Says(says(PEOPLE)).configured())
    (fetched,) = runs(Says(amends(change)).configured())
    assert sorted(filter(None, lines(fetched))) == [
        "anna@example.com",
        "berta@example.com",
        "c@example.com",
        "e@example.com",
        "neu@example.com",
    ]
    assert fetched.snapshot is not None
    rejects = {(one.spelled, one.reason, one.key) for one in snapshot.first_rejects(fetched.snapshot, "a", 10)}
    assert rejects == {("no address", "has no @: write LOCALPART@DOMAIN", "c"), ("mist", "is none", "f")}
    assert fetched.report.rejected == 2


def test_what_is_not_retained_goes(runs: Runs) -> None:
    """With retain, keys that are not named go, however the named ones are ordered."""
    runs(Says(says(PEOPLE)).configured())
    (fetched,) = runs(Says(amends(lambda request: request.sink.retain(["d", "never there", "c"]))).configured())
    assert lines(fetched) == ["", "anna@example.com", "c@example.com"]


def test_what_was_just_put_can_be_amended(runs: Runs) -> None:
    """A whole answer can be made exact by what changed while it was given."""

    def fetch(request: Request) -> Answer:
        says(PEOPLE)(request)
        request.sink.amend(last=False)
        request.sink.forget(["a"])
        request.sink.put([("neu@example.com", "a", "")])
        return Answer(validator="v")

    (fetched,) = runs(Says(fetch).configured())
    assert lines(fetched) == ["", "anna@example.com", "berta@example.com", "c@example.com", "neu@example.com"]


def test_nothing_is_amended_by_nothing(runs: Runs) -> None:
    """An amendment without a change leaves the same lines."""
    (before,) = runs(Says(says(PEOPLE)).configured())
    (after,) = runs(Says(amends(lambda _: None)).configured())
    assert after.state.snapshot is not None
    assert before.state.snapshot is not None
    assert after.state.snapshot.digest == before.state.snapshot.digest


def test_amending_without_a_last_answer_fails(runs: Runs) -> None:
    """A source that amends what is not there, or what another configuration said, is failing."""

    def fetch(request: Request) -> Answer:
        request.sink.amend(last=True)
        request.sink.put([("a@example.com", "a", "")])
        return Answer(validator="w")

    (fetched,) = runs(Says(fetch).configured())
    assert "there is none" in fetched.report.error
    runs(Says(says(PEOPLE)).configured(digest="one"))
    (fetched,) = runs(Says(fetch).configured(digest="other"))
    assert fetched.report.state == "failing"
    assert len(lines(fetched)) == 6


@pytest.mark.parametrize("method", ["forget", "retain"])
def test_voiding_needs_an_amendment(method: str, runs: Runs) -> None:
    """Keys cannot be voided where nothing is being amended."""

    def fetch(request: Request) -> Answer:
        getattr(request.sink, method)(["a"])
        return whole("a@example.com")(request)

    (fetched,) = runs(Says(fetch).configured())
    assert "keys of nothing" in fetched.report.error


def test_amended_down_to_nothing_is_a_failure(runs: Runs) -> None:
    """A source whose changes leave nobody is failing and keeps its list; with allow_empty it is empty."""
    runs(Says(says(PEOPLE)).configured())
    everybody = amends(lambda request: request.sink.forget(PEOPLE))
    (fetched,) = runs(Says(everybody).configured())
    assert "no entry at all" in fetched.report.error
    assert len(lines(fetched)) == 6
    assert fetched.state.validator == "v"
    assert [file.name for file in runs.snapshots.iterdir()] == [fetched.state.snapshot.file]  # type: ignore[union-attr]
    (fetched,) = runs(Says(everybody).configured(allow_empty=True))
    assert (fetched.report.state, lines(fetched)) == ("whole", [])


@pytest.mark.parametrize("when", ["before", "after"])
def test_half_an_amendment_is_none(when: str, runs: Runs) -> None:
    """A source that raises while it amends keeps the last answer and its validator, and leaves no file."""

    def change(request: Request) -> None:
        request.sink.forget(["a", "b", "c"])
        if when == "after":
            request.sink.put([("neu@example.com", "n", "")])
        raise SourceError("cut")

    (before,) = runs(Says(says(PEOPLE)).configured())
    (fetched,) = runs(Says(amends(change)).configured())
    assert fetched.state.snapshot == before.state.snapshot
    assert fetched.state.validator == "v"
    assert not list(runs.spool.iterdir())


def test_restart_takes_an_amendment_back(runs: Runs) -> None:
    """After restart a source starts anew: nothing is amended, nothing put."""

    def fetch(request: Request) -> Answer:
        if request.validator:
            request.sink.amend(last=True)
            request.sink.forget(["a"])
            request.sink.restart()
        return whole("b@example.com", validator="v")(request)

    runs(Says(says(PEOPLE)).configured())
    (fetched,) = runs(Says(fetch).configured())
    assert lines(fetched) == ["b@example.com"]


def test_a_damaged_last_answer_is_not_amended(runs: Runs) -> None:
    """A last answer whose lines are not what was written cannot be amended, though its file is the one on record."""
    (before,) = runs(Says(says(PEOPLE)).configured())
    assert before.snapshot is not None
    before.snapshot.write_text(before.snapshot.read_text("utf-8").replace("berta", "merta"), "utf-8")
    assert before.state.snapshot is not None
    known = replace(before.state.snapshot, identity=files.identity(before.snapshot) or ())
    runs.states["a"] = replace(before.state, snapshot=known)
    (fetched,) = runs(Says(amends(lambda _: None)).configured())
    assert "is not what was written" in fetched.report.error


HOSTILE = ["a", "b", "a\tb", "\\", "é", "a\nb", "A" * 600, " ", "a@example.com"]
KEYS = st.sampled_from(HOSTILE)
MAILS = st.lists(st.sampled_from([f"u{number}@example.com" for number in range(6)] + ["no address", "b"]), max_size=3)


@given(
    base=st.dictionaries(KEYS, MAILS, max_size=6),
    changed=st.dictionaries(KEYS, MAILS, max_size=4),
    present=st.one_of(st.none(), st.sets(KEYS, max_size=5)),
    own=st.booleans(),
)
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_changes_come_to_what_the_whole_would_be(
    base: Base,
    changed: Base,
    present: set[str] | None,
    own: bool,  # noqa: FBT001 - drawn
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    """Whatever the keys are, amending gives the lines that saying it whole would give; law of the ledger."""
    after = {key: mails for key, mails in base.items() if present is None or key in present or key in changed}
    after |= changed
    (wanted,) = Runs(tmp_path_factory.mktemp("whole"))(Says(says(after)).configured(allow_empty=True))

    def change(request: Request) -> None:
        request.sink.forget(changed)
        if present is not None:
            request.sink.retain(present)
        says(changed)(request)

    def at_once(request: Request) -> Answer:
        says(base)(request)
        request.sink.amend(last=False)
        change(request)
        return Answer(validator="v")

    runs = Runs(tmp_path_factory.mktemp("amended"))
    if own:
        (found,) = runs(Says(at_once).configured(allow_empty=True))
    else:
        runs(Says(says(base)).configured(allow_empty=True))
        if runs.states["a"].snapshot is None:
            return  # nothing but rejects: there is no last answer
        (found,) = runs(Says(amends(change)).configured(allow_empty=True))
    assert found.report.state == wanted.report.state
    if wanted.report.state == "whole":
        assert found.snapshot is not None
        assert wanted.snapshot is not None
        assert found.snapshot.read_bytes() == wanted.snapshot.read_bytes()


@pytest.mark.parametrize(
    ("explained", "differ"),
    [
        pytest.param(frozenset(), 3, id="nothing-explained"),
        pytest.param(frozenset({"b"}), 2, id="some"),
        pytest.param(frozenset({"b", "e"}), 1, id="more"),
        pytest.param(frozenset({"b", "d", "e"}), 0, id="all"),
    ],
)
def test_what_a_whole_answer_has_unexplained_is_told(explained: frozenset[str], differ: int, runs: Runs) -> None:
    """A whole answer that differs from the last one beyond what is explained counts, and the difference is told."""
    runs(Says(says(PEOPLE)).configured())
    after = {"a": PEOPLE["a"], "c": PEOPLE["c"], "d": ["anna@example.com", "d@example.com"], "e": ["e@example.com"]}

    def fetch(request: Request) -> Answer:
        says(after)(request)
        return Answer(validator="w", explained=explained)

    (fetched,) = runs(Says(fetch).configured())
    assert fetched.report.state == "whole"
    assert "e@example.com" in lines(fetched)
    told = [note for note in runs.notes if (note.kind, note.count) == ("changes-differ", differ)]
    assert bool(told) == bool(differ), runs.notes
    assert not list(runs.spool.iterdir())


def test_another_label_is_no_difference(runs: Runs) -> None:
    """Labels, as the DN of an entry below one that was renamed, and rejects are not compared."""
    runs(Says(says(PEOPLE)).configured())

    def fetch(request: Request) -> Answer:
        request.sink.put((address, key, "other") for key, several in PEOPLE.items() for address in several)
        request.sink.reject("x", "y", "z")
        return Answer(validator="w", explained=frozenset())

    runs(Says(fetch).configured())
    assert not runs.notes
