"""Confirming looks and torn texts, where the sources are asked: what a source is asked for, and what is recorded."""

import threading
from collections.abc import Iterable
from pathlib import Path

import pytest
from msgspec.structs import replace

from syncagent.errors import FailureKind, SourceError
from syncagent.model import SourceState
from syncagent.sources import Answer, Request
from syncagent.state import looks
from tests.support.fetching import NOW, Fetch, Runs, Says, fails, lines, whole
from tests.support.programs import PATIENCE

HOUR, DAY = 3600.0, 86400.0


@pytest.fixture
def runs(tmp_path: Path) -> Runs:
    """Runs with nothing remembered."""
    return Runs(tmp_path)


class Server:
    """A source with a validator: it answers "same" as long as its content is the same, and counts its full answers."""

    def __init__(self, *addresses: str) -> None:
        self.addresses: tuple[str, ...] = addresses
        self.answer = Answer()
        self.asked: list[str | None] = []
        self.full_fails: BaseException | None = None
        self.configured = Says(self).configured()

    def __call__(self, request: Request) -> Answer:
        """Answer as a server with an ETag does."""
        self.asked.append(request.validator)
        validator = " ".join(self.addresses)
        if request.validator == validator:
            return Answer(same=True)
        if self.full_fails and request.validator is None:
            raise self.full_fails
        request.sink.put((address, address, "") for address in self.addresses)
        return replace(self.answer, validator=validator)


def test_a_look_is_unconditional_and_is_the_answer_of_the_run(runs: Runs) -> None:
    """What is due is asked for everything, once, though nothing has changed."""
    server = Server("a@example.com")
    (first,) = runs(server.configured)
    assert first.state.looked == NOW
    (same,) = runs(server.configured, now=NOW + HOUR)
    assert (same.report.state, same.state.looked) == ("same", NOW)
    (look,) = runs(server.configured, now=NOW + DAY, looks=["a"])
    assert (look.report.state, look.state.looked, lines(look)) == ("whole", NOW + DAY, ["a@example.com"])
    assert server.asked == [None, "a@example.com", None]


def test_a_source_whose_look_is_due_is_asked_in_a_run_that_would_leave_it_alone(runs: Runs) -> None:
    """A run for another source asks it too, and no source besides."""
    server = Server("a@example.com")
    runs(server.configured)
    runs(server.configured, now=NOW + HOUR, due=frozenset())
    assert len(server.asked) == 1
    runs(server.configured, now=NOW + DAY, due=frozenset(), looks=["a"])
    assert server.asked == [None, None]


@pytest.mark.parametrize("error", [SourceError("cannot give everything"), OSError("connection reset")])
def test_a_look_that_fails_is_no_failure_and_confirms_nothing(runs: Runs, error: Exception) -> None:
    """The ordinary request follows; the look is tried again after an hour at the earliest."""
    server = Server("a@example.com")
    runs(server.configured)
    server.full_fails = error
    (look,) = runs(server.configured, now=NOW + DAY, looks=["a"])
    assert (look.report.state, look.report.error) == ("same", "")
    assert (look.state.looked, look.state.look_tried) == (NOW, NOW + DAY)
    assert server.asked == [None, None, "a@example.com"]
    assert looks.next_look(NOW + DAY, look.state) == NOW + DAY + HOUR
    server.full_fails = None
    (again,) = runs(server.configured, now=NOW + DAY + HOUR, looks=["a"])
    assert (again.state.looked, again.state.look_tried) == (NOW + DAY + HOUR, 0.0)


def test_a_look_that_fails_leaves_nothing_of_itself(runs: Runs) -> None:
    """What was put before the look failed is no part of the answer that follows."""
    server = Server("a@example.com")
    runs(server.configured)
    server.addresses = ("b@example.com",)
    full = fails(SourceError("half"), "half@example.com")

    def fetch(request: Request) -> Answer:
        return full(request) if request.validator is None else server(request)

    (look,) = runs(Says(fetch).configured(), now=NOW + DAY, looks=["a"])
    assert (look.report.state, lines(look)) == ("whole", ["b@example.com"])


def test_a_refused_look_is_not_followed_by_a_second_login(runs: Runs) -> None:
    """Servers lock accounts: a refusal of the credentials is the failure that it always is."""
    server = Server("a@example.com")
    runs(server.configured)
    server.full_fails = SourceError("wrong password", kind=FailureKind.REFUSED)
    (look,) = runs(server.configured, now=NOW + DAY, looks=["a"])
    assert (look.report.state, look.report.kind) == ("failing", "refused")
    assert server.asked == [None, None]


def test_a_look_that_takes_too_long_leaves_time_for_the_ordinary_request(runs: Runs) -> None:
    """A directory that cannot give everything within the deadline is as whole as it was before."""
    server, released = Server("a@example.com"), threading.Event()
    runs(server.configured)

    class Slow(Says):
        def give_up(self) -> None:
            released.set()

    def fetch(request: Request) -> Answer:
        if request.validator is None:
            released.wait(PATIENCE)
            raise SourceError("aborted")
        return server(request)

    (look,) = runs(Slow(fetch).configured(deadline=1.0), now=NOW + DAY, looks=["a"])
    assert (look.report.state, look.state.look_tried) == ("same", NOW + DAY)


@pytest.mark.parametrize(
    ("answer", "looked"),
    [
        (Answer(), NOW + DAY),
        (Answer(proof="producer"), NOW + DAY),
        (Answer(proof="none"), NOW),
        (Answer(full=False), NOW),
    ],
)
def test_what_confirms(runs: Runs, answer: Answer, looked: float) -> None:
    """An answer that is whole, full and proven is a look, whatever was asked; any other is none."""
    server = Server("a@example.com")
    runs(server.configured)
    server.answer, server.addresses = answer, ("b@example.com",)
    (fetched,) = runs(server.configured, now=NOW + DAY)
    assert fetched.state.looked == looked
    (look,) = runs(server.configured, now=NOW + 2 * DAY, looks=["a"])
    assert look.state.look_tried == (0.0 if looked > NOW else NOW + 2 * DAY)


def test_what_an_answer_proves_is_recorded_until_the_next(runs: Runs) -> None:
    """“Same” changes nothing of it."""
    server = Server("a@example.com")
    server.answer = Answer(proof="producer", finished=("list",), containers=True)
    runs(server.configured)
    (same,) = runs(server.configured, now=NOW + HOUR)
    assert (same.state.proof, same.state.finished, same.state.containers) == ("producer", ("list",), True)


@pytest.mark.parametrize(
    ("state", "due", "expected"),
    [
        (SourceState("a"), None, None),
        (SourceState("a"), 100.0, 100.0),
        (SourceState("a", looked=99.0), 100.0, 100.0),
        (SourceState("a", looked=100.0), 100.0, None),
        (SourceState("a", look_tried=90.0), 100.0, 90.0 + HOUR),
        (SourceState("a", looked=5000.0, look_tried=90.0), 100.0, None),
        (SourceState("a", error_kind=FailureKind.TEMPORARY), 100.0, None),
    ],
)
def test_when_a_look_is_due(state: SourceState, due: float | None, expected: float | None) -> None:
    """Not before the first removal falls due, not after it was taken, and not twice in an hour."""
    assert looks.next_look(due, state) == expected


def test_times_of_a_wrong_clock_do_not_put_a_look_off() -> None:
    """A look in the future was none, and one tried in the future neither."""
    state = SourceState("a", looked=5000.0, look_tried=5000.0)
    assert looks.due({"a": 100.0}, {"a": state}, 1000.0) == {"a"}
    assert not looks.due({"a": 100.0}, {"a": state}, 99.0)
    assert not looks.due({"a": 100.0}, {}, 1000.0)


def texts(*read: str, cut: str = "", finished: Iterable[str] = ()) -> Fetch:
    """Say these addresses, as a text named ``list`` whose last line is ``cut``, if that is not empty."""
    listed = whole(*read)

    def fetch(request: Request) -> Answer:
        return replace(listed(request), unfinished={"list": cut} if cut else {}, finished=tuple(finished))

    return fetch


TEAM = ("anna@example.com", "bert@example.com", "straße@example.com", "zoe@bücher.example")


@pytest.mark.parametrize("cut", ["bert@exam", "anna@example.com", "nobody@example.com"])
def test_a_text_that_ended_in_a_line_feed_must_do_so_again(runs: Runs, cut: str) -> None:
    """Whatever its last line is: the rest may be missing."""
    runs(Says(texts(*TEAM, finished=["list"])).configured())
    (torn,) = runs(Says(texts("anna@example.com", cut=cut)).configured())
    assert torn.report.state == "failing"
    assert "list ended in a line feed before and does not now" in torn.report.error
    assert "write another file and rename it into place" in torn.report.error
    assert "end it with a line feed" in torn.report.error
    assert lines(torn) == ["anna@example.com", "bert@example.com", "strasse@example.com", "zoe@xn--bcher-kva.example"]
    assert len(list(runs.snapshots.iterdir())) == 1, "the snapshot of the torn answer is left behind"


@pytest.mark.parametrize(
    "cut",
    [
        "bert@example.co",
        "bert@",
        "be",
        "BERT@Exam",
        " bert@exa",
        '"be',
        "Bert,Miller,bert@ex",
        "ber\ufffd",
        "strass",
        "STRAß",
        "zoe@bü",
        "zoe@xn--bch",
    ],
)
def test_the_beginning_of_an_address_that_is_missing_is_a_torn_line(runs: Runs, cut: str) -> None:
    """Also of a text that never ended in a line feed, and with bare names. Addresses are compared folded."""
    runs(Says(texts(*TEAM, cut=TEAM[-1])).configured())
    (torn,) = runs(Says(texts("anna@example.com", cut=cut)).configured())
    assert torn.report.state == "failing"
    assert "is the beginning of" in torn.report.error


@pytest.mark.parametrize(
    "cut", ["anna@example.com", "ann@example.com", "dora@example.com", "x" * 5000, "\u0301" * 5000]
)
def test_otherwise_the_last_line_of_such_a_list_is_a_line(runs: Runs, cut: str) -> None:
    """It may have changed, others may have left, and it may be anything."""
    runs(Says(texts(*TEAM, cut=TEAM[-1])).configured())
    (fetched,) = runs(Says(texts("anna@example.com", "ann@example.com", cut=cut)).configured())
    assert fetched.report.state == "whole", fetched.report.error


def test_what_is_still_listed_is_not_missing(runs: Runs) -> None:
    """An address that begins with the last line, and is in this answer, says nothing."""
    runs(Says(texts("an@example.com", "anna@example.com", cut="zoe@example.com")).configured())
    (fetched,) = runs(Says(texts("an@example.com", "anna@example.com", cut="an@example.com")).configured())
    assert fetched.report.state == "whole", fetched.report.error


def test_the_first_reading_of_an_unfinished_line_is_a_line(runs: Runs) -> None:
    """There is nothing that it could be torn from."""
    (fetched,) = runs(Says(texts("anna@example.com", cut="be")).configured())
    assert fetched.report.state == "whole"


def test_a_torn_look_is_followed_by_the_ordinary_request(runs: Runs) -> None:
    """A look that shows a torn file has failed; what the ordinary request says counts."""
    runs(Says(texts(*TEAM, finished=["list"])).configured())
    torn, server = texts("anna@example.com", cut="be"), Server(*TEAM)
    runs.states["a"] = replace(runs.states["a"], validator=" ".join(TEAM))

    def fetch(request: Request) -> Answer:
        return torn(request) if request.validator is None else server(request)

    (look,) = runs(Says(fetch).configured(), now=NOW + DAY, looks=["a"])
    assert (look.report.state, look.state.look_tried) == ("same", NOW + DAY)
