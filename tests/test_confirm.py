"""Point queries before removals: whom they ask, and that they only withhold. The sources are functions."""

import json
import os
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from unittest.mock import patch

import msgspec
import pytest

from syncagent.config.tables import SourceConfig
from syncagent.errors import SourceError
from syncagent.model import Reason, SyncResult
from syncagent.sources import Candidate, Confirmation, Source
from syncagent.state import messages
from syncagent.sync import confirm
from syncagent.sync.confirm import Going
from tests.scenario import HOUR, MINUTE, Scenario
from tests.sources import install
from tests.support.faketime import Clock
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
    """Give the configuration of sources, which were asked before."""
    found = {name: source.configured(name) for name, source in directories.items() if isinstance(source, Says)}
    assert all(config.source for config in found.values())
    return found


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


PLUG_IN = '''
import json
from pathlib import Path

from msgspec import Struct

from syncagent.errors import SourceError
from syncagent.sources import Answer, Confirmation


class Config(Struct, frozen=True, kw_only=True):
    path: Path
    """A JSON object: listed maps addresses to DNs; there, hidden, down say what it answers for single recipients."""


class Demo:
    def __init__(self, config):
        self._path = config.path

    def fetch(self, request):
        facts = json.loads(self._path.read_text())
        self._log("fetch" if request.validator is None else "ask")
        if request.validator == json.dumps(facts["listed"]):
            return Answer(same=True)
        request.sink.put((address, dn, dn) for address, dn in facts["listed"].items())
        return Answer(validator=json.dumps(facts["listed"]), proof="producer", containers=True)

    def confirm(self, candidates, ends):
        facts = json.loads(self._path.read_text())
        self._log(" ".join(sorted(one.address for one in candidates)))
        if facts.get("down"):
            raise SourceError("the directory is down")
        parents = {one.address: one.label.partition(",")[2] for one in candidates}
        hidden = facts.get("hidden", "")
        return Confirmation(
            present=frozenset(parents) & frozenset(facts.get("there", [])),
            unseen={address: dn for address, dn in parents.items() if dn == hidden},
        )

    def _log(self, line):
        with self._path.with_suffix(".log").open("a") as log:
            log.write(f"{line}\\n")


def build(config):
    return Demo(config)
'''


class Demo:
    """A backup MX with a directory of another package, and the real command under a clock that is set ahead."""

    def __init__(self, directory: Path) -> None:
        self.mx = Scenario(directory)
        self._env = install(directory / "site", "demo", PLUG_IN)
        self._path = directory / "demo.json"
        self.mx.sources = {"corp": {"type": "demo", "path": str(self._path)}}
        self.mx.limits = {"removal_grace": "1h"}
        self._clock = Clock(HOUR)

    def says(self, people: Mapping[str, str], **facts: object) -> None:
        """Replace what the directory says."""
        self._path.write_text(json.dumps({"listed": people, **facts}))

    def sync(self, *, after: float, code: int = 0, args: tuple[str, ...] = ("sync",)) -> SyncResult:
        """Run after a time."""
        self._clock.step(after)
        with patch.dict(os.environ, {**self._env, **self._clock.env}):
            return msgspec.json.decode(self.mx.say(*args, "--json", code=code).stdout, type=SyncResult)

    @property
    def requests(self) -> list[str]:
        """What the directory was asked since the last time."""
        log = self._path.with_suffix(".log")
        lines = log.read_text().splitlines()
        log.unlink()
        return lines


@pytest.fixture
def demo(tmp_path: Path) -> Demo:
    """A backup MX, with 20 people published."""
    one = Demo(tmp_path)
    one.says(STAFF)
    one.sync(after=0)
    return one


STAFF = {f"user{number:02}@example.com": f"cn=user{number:02},ou=staff,dc=example" for number in range(20)}
GONE = "user00@example.com"
FEWER = {address: dn for address, dn in STAFF.items() if address != GONE}


def test_a_removal_that_the_source_confirms(demo: Demo) -> None:
    """It is asked for once, when it would go, in the run of the look."""
    demo.says(FEWER)
    demo.sync(after=MINUTE)
    demo.sync(after=HOUR / 2)
    assert demo.requests == ["fetch", "ask", "ask"]
    result = demo.sync(after=HOUR)
    assert demo.requests == ["fetch", GONE]
    assert result.plan.removed == 1
    assert GONE not in demo.mx.published()


def test_a_recipient_that_is_there_stays_and_its_source_is_asked_in_full(demo: Demo) -> None:
    """It begins to wait anew; the next run fetches everything, though nothing has changed."""
    demo.says(FEWER, there=[GONE])
    demo.sync(after=MINUTE)
    result = demo.sync(after=HOUR)
    assert (result.plan.removed, GONE in demo.mx.published()) == (0, True)
    assert "has 1 recipients that its last answer lacked" in " ".join(result.notes)
    assert [waits.why for waits in result.plan.waits] == ["present"]
    assert demo.requests[-2:] == ["fetch", GONE]
    demo.sync(after=MINUTE)
    assert demo.requests == ["fetch"]
    demo.says(FEWER)
    assert demo.sync(after=HOUR / 2).plan.removed == 0
    assert demo.sync(after=HOUR).plan.removed == 1


def test_a_container_that_is_not_seen_is_held(demo: Demo) -> None:
    """Whatever the number; a person may approve it, and nobody is asked for it then."""
    demo.says(FEWER, hidden="ou=staff,dc=example")
    demo.sync(after=MINUTE)
    result = demo.sync(after=HOUR, code=65)
    (hold,) = result.plan.holds
    assert [(reason.kind, reason.subjects) for reason in hold.reasons] == [("container", ("ou=staff,dc=example",))]
    assert GONE in demo.mx.published()
    demo.sync(after=HOUR, code=65)
    assert GONE in demo.mx.published()
    assert demo.requests
    result = demo.sync(after=MINUTE, args=("approve", hold.id))
    assert result.plan.removed == 1
    assert GONE not in " ".join(demo.requests)
    assert GONE not in demo.mx.published()


def test_a_directory_that_is_down_confirms_nothing(demo: Demo) -> None:
    """What could not be asked for stays for an hour, and the run is no failure."""
    demo.says(FEWER, down=True)
    demo.sync(after=MINUTE)
    result = demo.sync(after=HOUR)
    assert "could not be asked for recipients that it no longer lists (the directory is down)" in " ".join(result.notes)
    assert [waits.why for waits in result.plan.waits] == ["unknown"]
    assert GONE in demo.mx.published()
    demo.says(FEWER)
    assert demo.sync(after=HOUR).plan.removed == 1


def test_without_a_grace_nobody_is_asked(demo: Demo) -> None:
    """A person's choice."""
    demo.mx.limits = {"removal_grace": "0s"}
    demo.says(FEWER, there=[GONE])
    assert demo.sync(after=MINUTE).plan.removed == 1
    assert demo.requests == ["fetch", "ask"]
