"""Key-only lines of a snapshot, and the comparison of an answer with the last one."""

from collections.abc import Callable
from pathlib import Path

import pytest

from syncagent.sources import Answer, Request
from syncagent.state import snapshot
from syncagent.sync.fetch import Fetched
from tests.support.fetching import Fetch, Runs, Says, lines, whole


@pytest.fixture
def runs(tmp_path: Path) -> Runs:
    """Runs with nothing remembered."""
    return Runs(tmp_path)


def doing(change: Callable[[Request], object]) -> Fetch:
    """Return a fetch that does this with its sink."""

    def fetch(request: Request) -> Answer:
        change(request)
        return Answer(validator="v")

    return fetch


def first(request: Request) -> None:
    """Put two entries, a reject, and two keys of objects without addresses."""
    request.sink.put([("anna@example.com", "a", "cn=a"), ("berta@example.com", "b", "")])
    request.sink.reject("no address", "has no @", "r")
    request.sink.put_keys(["n", "o"])


def in_file(fetched: Fetched) -> list[str]:
    """Return the lines of the snapshot, without the end line."""
    assert fetched.snapshot is not None
    return fetched.snapshot.read_text("utf-8").splitlines()[:-1]


def test_a_key_is_neither_an_entry_nor_a_reject(runs: Runs) -> None:
    """An object without addresses leaves its key, which counts as nothing and is no address."""
    (fetched,) = runs(Says(doing(first)).configured())
    assert (fetched.report.entries, fetched.report.rejected) == (2, 1)
    assert fetched.snapshot is not None
    assert [reject.key for reject in snapshot.rejects_of(fetched.snapshot)] == ["r"]
    assert snapshot.mail_domains(fetched.snapshot) == {"example.com"}
    lines_without = [line for line in in_file(fetched) if line.startswith("\t")]
    assert lines_without[:2] == ["\tn\t", "\to\t"]
    assert lines_without[2].startswith("\tr\tno address\x1fhas no @")


def test_many_keys_are_counted(runs: Runs) -> None:
    """Keys, rejects and entries without a label are told apart over many chunks."""

    def change(request: Request) -> None:
        request.sink.put((f"a{number}@example.com", f"k{number}", "") for number in range(30_000))
        request.sink.put_keys(f"n{number}" for number in range(30_000))
        for number in range(100):
            request.sink.reject(f"x{number}", "has no @", f"n{number}x")

    (fetched,) = runs(Says(doing(change)).configured())
    assert (fetched.report.entries, fetched.report.rejected) == (30_000, 100)


def test_keys_alone_are_an_empty_answer(runs: Runs) -> None:
    """An answer of nothing but keys fails the source, as an empty one does."""
    runs(Says(whole("anna@example.com")).configured())
    (fetched,) = runs(Says(doing(lambda request: request.sink.put_keys(["a", "b"]))).configured())
    assert fetched.report.state == "failing"
    assert "it has no entry at all" in fetched.report.error
    (fetched,) = runs(Says(doing(lambda request: request.sink.put_keys(["a"]))).configured(allow_empty=True))
    assert (fetched.report.state, fetched.report.entries) == ("whole", 0)


def test_unknown_keys(runs: Runs) -> None:
    """Keys of entries, rejects and objects without addresses are known; those that the last answer lacks are not."""
    runs(Says(doing(first)).configured())
    asked: list[list[str]] = []

    def change(request: Request) -> None:
        request.sink.amend(last=True)
        asked.append(request.sink.unknown(["a", "b", "r", "n", "o", "never", "cn=a"]))
        request.sink.retain(["a", "n"])

    (fetched,) = runs(Says(doing(change)).configured())
    assert list(map(sorted, asked)) == [["cn=a", "never"]]
    assert in_file(fetched) == ["\tn\t", "anna@example.com\ta\tcn=a"]


def test_a_forgotten_key_is_forgotten(runs: Runs) -> None:
    """A key-only line goes with its key; an object that has an address now has no key-only line."""
    runs(Says(doing(first)).configured())

    def change(request: Request) -> None:
        request.sink.amend(last=True)
        request.sink.forget(["n", "o", "r"])
        request.sink.put([("neu@example.com", "n", "")])

    (fetched,) = runs(Says(doing(change)).configured())
    assert in_file(fetched) == ["anna@example.com\ta\tcn=a", "berta@example.com\tb\t", "neu@example.com\tn\t"]


def test_an_ignored_catch_all_leaves_its_key(tmp_path: Path) -> None:
    """An object whose only address is a catch-all that is ignored is known by its key nevertheless."""
    writer = snapshot.SnapshotWriter(tmp_path, ignore_catch_alls=True)
    writer.put([("@example.com", "k", ""), ("anna@example.com", "a", "")])
    written = writer.finish(tmp_path / "list", allow_empty=False)
    assert (written.entries, written.rejected) == (1, 0)
    assert (tmp_path / "list").read_text("utf-8").splitlines()[0] == "\tk\t"


def test_an_address_of_another_kind_leaves_its_key(runs: Runs) -> None:
    """An object whose only value is of another kind than mail is known by its key, and is no reject."""

    def change(request: Request) -> None:
        request.sink.put([("sip:phone@example.com", "k", ""), ("anna@example.com", "a", "")])

    (fetched,) = runs(Says(doing(change)).configured())
    assert (fetched.report.entries, fetched.report.rejected, fetched.report.ignored) == (1, 0, 1)
    assert in_file(fetched) == ["\tk\t", "anna@example.com\ta\t"]


def test_what_vanished_is_named(runs: Runs) -> None:
    """Addresses that the last answer had and this one lacks are named with key and label, whatever their keys."""
    runs(Says(doing(first)).configured())
    seen: list[list[tuple[str, str, str]]] = []

    def amends(request: Request) -> None:
        request.sink.amend(last=True)
        request.sink.forget(["a"])
        request.sink.put([("ANNA@example.com", "other", "")])
        seen.append(request.sink.vanished(10))

    def replaces(request: Request) -> None:
        request.sink.put([("new@example.com", "b", "")])
        request.sink.amend(last=False)
        seen.append(request.sink.vanished(10))

    runs(Says(doing(amends)).configured())
    (fetched,) = runs(Says(doing(replaces)).configured())
    assert seen == [[], [("anna@example.com", "other", ""), ("berta@example.com", "b", "")]]
    assert lines(fetched) == ["new@example.com"]


@pytest.mark.parametrize("count", [0, 1, 9, 10, 1000])
def test_what_vanished_is_a_sample(count: int, runs: Runs) -> None:
    """Of many addresses those that are named are spread evenly; of few, all are."""
    runs(Says(whole("stays@example.com", *(f"a{number:04}@example.com" for number in range(count)))).configured())
    seen: list[str] = []

    def change(request: Request) -> None:
        request.sink.put([("stays@example.com", "k", "")])
        request.sink.amend(last=False)
        seen.extend(address for address, _, _ in request.sink.vanished(10))

    runs(Says(doing(change)).configured())
    assert len(seen) == count if count < 20 else 10 <= len(seen) < 20
    if count == 1000:
        assert min(seen) < "a0100"
        assert max(seen) >= "a0900"


def test_nothing_vanished_without_a_last_answer(runs: Runs) -> None:
    """The first answer, and the first of another configuration, is compared with nothing."""
    seen: list[object] = []

    def change(request: Request) -> None:
        request.sink.put([("new@example.com", "b", "")])
        request.sink.amend(last=False)
        seen.append(request.sink.vanished(10))

    runs(Says(doing(change)).configured())
    runs(Says(doing(change)).configured(digest="another"))
    assert seen == [[], []]
