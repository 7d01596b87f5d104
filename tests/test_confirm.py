"""Point queries before removals: whom they ask, and that they only withhold. The sources are functions."""

import threading
import time
from collections.abc import Callable, Sequence

import pytest

from syncagent.config.tables import SourceConfig
from syncagent.errors import SourceError
from syncagent.model import Reason
from syncagent.sources import Candidate, Confirmation, Source
from syncagent.state import messages
from syncagent.sync import confirm
from syncagent.sync.confirm import Going
from tests.support.fetching import Says, whole
from tests.support.programs import PATIENCE

Answers = Callable[[Sequence[Candidate]], Confirmation]


class Directory(Says):
    """A source that can be asked for single recipients; ``asked`` has the candidates of each request."""

    def __init__(self, answers: Answers = lambda _: Confirmation()) -> None:
        super().__init__(whole())
        self._answers, self.asked = answers, list[list[Candidate]]()

    def confirm(self, candidates: Sequence[Candidate], ends: float) -> Confirmation:
        """See Source."""
        assert 0 < ends - time.monotonic() <= confirm.SECONDS
        self.asked.append(list(candidates))
        return self._answers(candidates)


def ignore(_step: str, _count: int) -> None:
    """Discard progress."""


def person(number: int, unit: str = "people", *sources: str) -> Going:
    """Give a recipient of an organizational unit."""
    parent = f"ou={unit},dc=example,dc=com"
    name = f"user{number}-{unit}"
    return Going(f"{name}@example.com".encode(), sources, f"uid={name},{parent}".encode(), parent.encode())


def configured(**directories: Source) -> dict[str, SourceConfig]:
    """Give the configuration of sources."""
    return {name: source.configured(name) for name, source in directories.items() if isinstance(source, Says)}


def down(_: Sequence[Candidate]) -> Confirmation:
    """Fail as a directory that is down."""
    raise SourceError("down")


def hides(unit: str) -> Answers:
    """Give the answers of a directory that does not show a unit."""
    dn = f"ou={unit},dc=example,dc=com"
    return lambda asked: Confirmation(unseen={one.address: dn for one in asked if one.label.endswith(dn)})


def test_what_the_source_lacks_as_well_goes() -> None:
    """Nothing is withheld; the source gets address and label."""
    corp = Directory()
    asked = confirm.ask([person(1)], configured(corp=corp), ignore)
    assert (asked.withheld, asked.differing) == ({}, set())
    assert corp.asked == [[Candidate("user1-people@example.com", "uid=user1-people,ou=people,dc=example,dc=com")]]


def test_a_label_is_not_escaped_for_the_source() -> None:
    """A DN with a backslash is written in snapshots with two."""
    corp, going = Directory(), person(1)._replace(label=rb"cn=a\\, b,dc=example")
    confirm.ask([going], configured(corp=corp), ignore)
    assert corp.asked[0][0].label == r"cn=a\, b,dc=example"


def test_what_the_source_still_has_stays_and_its_list_is_doubted() -> None:
    """Its list lacks a recipient that it has: it must be asked for everything."""
    corp = Directory(lambda asked: Confirmation(present=frozenset({asked[0].address})))
    asked = confirm.ask([person(1), person(2)], configured(corp=corp), ignore)
    assert (asked.withheld, asked.differing) == ({person(1).address: "present"}, {"corp"})
    (note,) = map(messages.note, asked.notes)
    assert "source corp has 1 recipients that its last answer lacked" in note


def test_what_has_no_container_is_held_with_all_of_its_container() -> None:
    """Also what was not asked for: 150 of each of two units are going, and 200 are asked for."""
    going = [person(number, unit) for unit in ("people", "staff") for number in range(150)]
    corp = Directory(hides("staff"))
    asked = confirm.ask(going, configured(corp=corp), ignore)
    assert [len(batch) for batch in corp.asked] == [50, 50, 50, 50]
    reason = Reason("container", subjects=("ou=staff,dc=example,dc=com",))
    assert asked.withheld == {one.address: reason for one in going if one.parent.startswith(b"ou=staff")}


def test_containers_are_asked_for_in_turn() -> None:
    """Of 201 units the last cannot be asked for, and what is in it stays until the next look."""
    going = [person(number, f"unit{unit:03}") for unit in range(201) for number in range(2)]
    corp = Directory()
    asked = confirm.ask(going, configured(corp=corp), ignore)
    assert {one.address for batch in corp.asked for one in batch} == {
        person(0, f"unit{unit:03}").address.decode() for unit in range(200)
    }
    assert asked.withheld == {person(number, "unit200").address: "unknown" for number in range(2)}


def test_without_a_dn_each_must_be_asked_for() -> None:
    """Nothing says that one of them stands for another."""
    going = [Going(f"user{number}@example.com".encode(), (), b"", b"") for number in range(201)]
    asked = confirm.ask(going, configured(corp=Directory()), ignore)
    assert asked.withheld == {b"user200@example.com": "unknown"}


@pytest.mark.parametrize("error", [SourceError("down"), OSError("reset"), RuntimeError("a bug")])
def test_a_failed_request_withholds_what_it_did_not_confirm(error: Exception) -> None:
    """The first request of 50 confirms; the second fails, and there is no third."""
    requests = []

    def answers(asked: Sequence[Candidate]) -> Confirmation:
        requests.append(asked)
        if len(requests) == 2:
            raise error
        return Confirmation()

    going = [person(number) for number in range(120)]
    asked = confirm.ask(going, configured(corp=Directory(answers)), ignore)
    assert asked.withheld == {one.address: "unknown" for one in going[50:]}
    assert len(requests) == 2
    assert str(error) in asked.failed["corp"]
    (note,) = map(messages.note, asked.notes)
    assert "source corp could not be asked for recipients that it no longer lists" in note
    assert "70 stay for now" in note


def test_a_request_that_hangs_is_abandoned(monkeypatch: pytest.MonkeyPatch) -> None:
    """After its time, and its connection is aborted."""
    monkeypatch.setattr(confirm, "SECONDS", 1.0)
    monkeypatch.setattr(confirm, "_ENDING", 0.1)
    aborted = threading.Event()

    def hang(_: Sequence[Candidate]) -> Confirmation:
        aborted.wait(PATIENCE)
        return Confirmation()

    corp = Directory(hang)
    corp.give_up = aborted.set  # type: ignore[attr-defined]  # optional: Source
    asked = confirm.ask([person(1)], configured(corp=corp), ignore)
    assert asked.withheld == {person(1).address: "unknown"}
    assert asked.failed == {"corp": "no answer within 1s"}
    assert aborted.is_set()


def test_only_sources_that_had_it_and_can_be_asked_are_asked() -> None:
    """Without the names of its sources, all that can be asked are."""
    corp, other, plain = Directory(), Directory(), Says(whole())
    going = [person(1, "people", "corp"), person(2, "people", "plain"), person(3)]
    asked = confirm.ask(going, configured(corp=corp, other=other, plain=plain), ignore)
    assert not asked.withheld
    names = [[one.address for one in batch] for batch in corp.asked]
    assert names == [["user1-people@example.com", "user3-people@example.com"]]
    assert [[one.address for one in batch] for batch in other.asked] == [["user3-people@example.com"]]


def test_one_source_that_has_it_is_enough() -> None:
    """Whatever the others say, before and after."""
    has = Directory(lambda asked: Confirmation(present=frozenset(one.address for one in asked)))
    for sources in (
        {"a": Directory(hides("people")), "b": has},
        {"a": has, "b": Directory(hides("people"))},
        {"a": has, "b": Directory(down)},
    ):
        assert confirm.ask([person(1)], configured(**sources), ignore).withheld == {person(1).address: "present"}


def test_nobody_is_asked_if_nothing_goes() -> None:
    """No request at all."""
    corp = Directory()
    assert not confirm.ask([], configured(corp=corp), ignore).withheld
    assert not corp.asked
