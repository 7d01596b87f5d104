"""What every source does, whatever it asks.

To run this against a source: derive ``TestContract(SourceContract)`` in its test module, and give it one fixture,
``subject``, that returns a ``Subject`` of yours.
"""

import subprocess
import sys
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from msgspec import Struct

from syncagent.config.tables import SourceConfig
from syncagent.errors import SourceError
from syncagent.model import Entry, SourceState
from syncagent.sources import Answer, Common, Request, Source
from syncagent.state import snapshot
from syncagent.sync.fetch import Fetched, Fetcher
from tests.sources import HEAVY

ENTRIES = ["anna@example.com", "Berta.Beispiel@Example.ORG", '"c d"@example.com', "dörte@bücher.example"]
REJECTS = ["no-at-sign", "two@at@example.com", "spam@-example-.com", "Eve <eve@example.com> <e@example.com>"]
HOSTILE = [
    "a\tb\tc@example.com",
    "a@example.com\tb@example.com",
    '"@example.com',
    '"a\\"@example.com',
    '"a\t@example.com',
    "a\x1b[2J@example.com",
    "a\x7f@example.com",
    "a\u2028b@example.com",
    "a\u0085b@example.com",
    "a@example.com\u2029b@example.com",
    "\u202ed@example.com",  # stripped at the ends
    "a\\nb@example.com",
    "a\\tb@example.com",
    "%s%n@example.com",
    "a OK@example.com",
    f"{'a' * 600}@example.com",
    f"a@{'b' * 64}.com",
    "*@example.com",
    "..@example.com",
    "a@[127.0.0.1]",
]
"""Whatever it is made of, each must come out as one entry or as one reject."""
WITH_LINE_BREAKS = ["a@example.com\nb@example.com", "a\r\nb@example.com", "a\x00@example.com", '"\n"@example.com', "\n"]


class Subject(ABC):
    """A source under test, and the hand that changes what it reads."""

    trouble: str
    """What a failure after ``break_it`` has to name, so that a person knows where to go: a path, a host."""
    says_same: bool = True
    """Whether an unchanged source answers "same"."""
    line_breaks: bool = True
    """Whether its form can carry line breaks and NUL within a value; a plain list cannot."""

    @abstractmethod
    def build(self) -> Source:
        """Make the source."""

    @abstractmethod
    def set_entries(self, entries: list[str]) -> None:
        """Make ``entries`` all that the source says, and settled, as if it were some time ago."""

    @abstractmethod
    def break_it(self) -> None:
        """Make it fail."""

    @abstractmethod
    def mend_it(self) -> None:
        """Undo ``break_it``."""


class Recorder:
    """A Sink that remembers everything, and insists on the forms that Sink documents."""

    def __init__(self, last: "Recorder | None" = None) -> None:
        self.entries: list[Entry] = []
        self.rejects: list[tuple[str, str, str]] = []
        self.refused: list[Entry] = []
        self.keys: set[str] = set()
        self.octets: list[bytes] = []
        self.ignored, self.amended, self._last = 0, False, last

    def put(self, entries: Iterable[Entry]) -> None:
        """Take entries."""
        for spelled, key, label in entries:
            assert all(type(part) is str for part in (spelled, key, label))
            self.entries.append((spelled, key, label))

    def reject(self, spelled: str, reason: str, key: str, raw: bytes | None = None) -> None:
        """Take a reject."""
        self.octets.append(spelled.encode(errors="surrogatepass") if raw is None else raw)
        assert all(type(part) is str for part in (spelled, reason, key))
        assert reason
        self.rejects.append((spelled, reason, key))

    def refuse(self, entries: Iterable[Entry]) -> None:
        """Take keys that the source refuses."""
        self.refused += entries

    def put_keys(self, keys: Iterable[str]) -> None:
        """Take keys."""
        self.keys.update(keys)

    def ignore(self, count: int, cause: str = "") -> None:
        """Take a count."""
        assert count >= 0
        assert type(cause) is str
        self.ignored += count

    def restart(self) -> None:
        """Forget all."""
        self.__init__(self._last)  # type: ignore[misc]

    def amend(self, *, last: bool) -> None:
        """Go on from what the last answer said, or from what was put."""
        if last:
            assert self._last is not None, "it amends its last answer without having been given the validator of one"
            assert self.untouched
            self.entries, self.rejects = [*self._last.entries], [*self._last.rejects]
            self.keys = {*self._last.keys}
        self.amended = True

    def forget(self, keys: Iterable[str]) -> None:
        """Drop what stands under these keys."""
        self._keep(set(keys).isdisjoint)

    def retain(self, keys: Iterable[str]) -> None:
        """Drop what stands under other keys."""
        kept = set(keys)
        self._keep(lambda one: not kept.isdisjoint(one))

    def unknown(self, keys: Iterable[str]) -> list[str]:
        """Return those that nothing stands under."""
        assert self.amended
        there = {entry[1] for entry in self.entries} | {reject[2] for reject in self.rejects} | self.keys
        return [key for key in keys if key not in there]

    def vanished(self, limit: int) -> list[Entry]:
        """Return entries of the last answer whose addresses are no longer there."""
        assert self.amended
        there = {entry[0].lower() for entry in self.entries}
        return [entry for entry in self._last.entries if entry[0].lower() not in there][:limit] if self._last else []

    def _keep(self, stays: Callable[[tuple[str]], bool]) -> None:
        assert self.amended
        self.entries = [entry for entry in self.entries if stays((entry[1],))]
        self.rejects = [reject for reject in self.rejects if stays((reject[2],))]
        self.keys = {key for key in self.keys if stays((key,))}

    @property
    def untouched(self) -> bool:
        """Whether nothing was put."""
        return not (self.entries or self.rejects or self.ignored or self.amended)


class _Own(Struct, frozen=True, kw_only=True):
    """The source is built already: it needs no configuration here."""


def ask(source: Source, validator: str | None = None, last: Recorder | None = None) -> tuple[Answer, Recorder]:
    """Fetch once, past the program; ``last`` is what came with the validator."""
    recorder = Recorder(last)
    answer = source.fetch(Request(validator, recorder, _checked_report))
    assert isinstance(answer, Answer)
    return answer, recorder


def _checked_report(step: str, count: int) -> None:
    assert step
    assert count >= 0


class Runs:
    """Runs of the program's own Fetcher, one after the other, each remembering what the last one left."""

    def __init__(self, directory: Path) -> None:
        self.snapshots, self.spool = directory / "snapshots", directory / "spool"
        self.snapshots.mkdir()
        self.spool.mkdir()
        self.state = SourceState("subject")
        self._count = 0

    def fetch(self, source: Source, *, allow_empty: bool = False) -> Fetched:
        """Do a run's fetch, keep its state."""
        self._count += 1
        configured = SourceConfig(
            name="subject",
            common=Common(type="subject", allow_empty=allow_empty),
            own=_Own(),
            digest=f"{allow_empty}",
            build=lambda _: source,
        )
        fetcher = Fetcher(
            self.snapshots, self.snapshots, self.spool, str(self._count), 1e9 + self._count, _checked_report
        )
        (fetched,) = fetcher.all({"subject": configured}, {"subject": self.state})
        self.state = fetched.state
        return fetched


def addresses(fetched: Fetched) -> list[str]:
    """Read the addresses of a snapshot: the first field of each line that is no reject and not the last."""
    assert fetched.snapshot is not None
    lines = fetched.snapshot.read_text(encoding="utf-8").split("\n")[:-2]
    return [line.partition("\t")[0] for line in lines if not line.startswith("\t")]


class SourceContract:
    """Behaviours of every source. A module that derives from it supplies the fixture ``subject``."""

    @pytest.fixture
    def runs(self, tmp_path_factory: pytest.TempPathFactory) -> Runs:
        """Somewhere for the program's own fetches to put things."""
        return Runs(tmp_path_factory.mktemp("runs"))

    def test_a_whole_answer_puts_every_entry_once(self, subject: Subject) -> None:
        """A whole answer has each entry as it is spelled, and once."""
        subject.set_entries(ENTRIES)
        answer, recorder = ask(subject.build())
        assert not answer.same
        assert sorted(spelled for spelled, _, _ in recorder.entries) == sorted(ENTRIES)
        assert not recorder.rejects

    def test_many_entries_are_all_put(self, subject: Subject) -> None:
        """No page, batch or buffer has an end at which entries fall off."""
        entries = [f"user{number}@example.com" for number in range(2_345)]
        subject.set_entries(entries)
        _, recorder = ask(subject.build())
        assert Counter(spelled for spelled, _, _ in recorder.entries) == Counter(entries)

    def test_keys_are_stable_and_not_empty(self, subject: Subject) -> None:
        """Each entry has a key of the source's, the same in every whole answer."""
        subject.set_entries(ENTRIES)
        source = subject.build()
        _, first = ask(source)
        _, second = ask(subject.build())
        assert sorted(first.entries) == sorted(second.entries)
        assert all(key for _, key, _ in first.entries)
        assert len({key for _, key, _ in first.entries}) == len(ENTRIES)

    def test_a_source_can_be_asked_again(self, subject: Subject) -> None:
        """One and the same source object gives its whole answer twice."""
        subject.set_entries(ENTRIES)
        source = subject.build()
        assert sorted(ask(source)[1].entries) == sorted(ask(source)[1].entries)

    def test_without_a_validator_it_never_says_same(self, subject: Subject) -> None:
        """Who asks for everything gets everything, however often."""
        subject.set_entries(ENTRIES)
        source = subject.build()
        for _ in range(3):
            answer, recorder = ask(source)
            assert not answer.same
            assert len(recorder.entries) == len(ENTRIES)

    def test_an_unchanged_source_says_same_and_puts_nothing(self, subject: Subject) -> None:
        """With the validator of the last whole answer it says "same", puts nothing, and can be asked so again."""
        if not subject.says_same:
            pytest.skip("this source never says same")
        subject.set_entries(ENTRIES)
        validator = ask(subject.build())[0].validator
        assert validator is not None
        for _ in range(2):
            answer, recorder = ask(subject.build(), validator)
            assert answer.same
            assert recorder.untouched
            validator = answer.validator or validator

    @pytest.mark.parametrize(
        "after",
        [
            pytest.param([*ENTRIES, "new@example.com"], id="added"),
            pytest.param(ENTRIES[1:], id="removed"),
            pytest.param(["emma@example.com", *ENTRIES[1:]], id="exchanged"),
            pytest.param(["other@example.com"], id="others"),
        ],
    )
    def test_a_change_is_seen(self, subject: Subject, after: list[str]) -> None:
        """With the validator of the last whole answer, a changed source gives all it says now."""
        subject.set_entries(ENTRIES)
        before, last = ask(subject.build())
        subject.set_entries(after)
        answer, recorder = ask(subject.build(), before.validator, last)
        assert not answer.same
        assert sorted(spelled for spelled, _, _ in recorder.entries) == sorted(after)

    @pytest.mark.parametrize("validator", ["", "x", "{}", "[]", '"\\u0000"', "a" * 10_000])
    def test_a_foreign_validator_is_not_the_same(self, subject: Subject, validator: str) -> None:
        """A validator that this source never gave is no reason to say "same", and none to fail."""
        subject.set_entries(ENTRIES)
        answer, recorder = ask(subject.build(), validator)
        assert not answer.same
        assert len(recorder.entries) == len(ENTRIES)

    def test_a_failure_is_raised_and_names_the_trouble(self, subject: Subject) -> None:
        """A source that cannot read what it should raises SourceError and names it, validator or not."""
        subject.set_entries(ENTRIES)
        validator = ask(subject.build())[0].validator
        subject.break_it()
        for known in (None, validator):
            with pytest.raises(SourceError) as caught:
                ask(subject.build(), known)
            assert subject.trouble in str(caught.value)
            assert "\n" not in str(caught.value)

    def test_a_failure_changes_nothing(self, subject: Subject, runs: Runs) -> None:
        """What was said last stays in force while the source fails, and nothing is left behind."""
        subject.set_entries(ENTRIES)
        before = runs.fetch(subject.build())
        there = sorted(runs.snapshots.iterdir())
        subject.break_it()
        failed = runs.fetch(subject.build())
        assert failed.report.state == "failing"
        assert failed.report.entries == len(ENTRIES)
        assert failed.state.snapshot == before.state.snapshot
        assert failed.state.validator == before.state.validator
        assert failed.state.last_success == before.state.last_success
        assert sorted(runs.snapshots.iterdir()) == there
        assert not list(runs.spool.iterdir())

    def test_a_mended_source_is_whole_again(self, subject: Subject, runs: Runs) -> None:
        """After a failure the next answer counts, and the failure is forgotten."""
        subject.set_entries(ENTRIES)
        runs.fetch(subject.build())
        subject.break_it()
        runs.fetch(subject.build())
        subject.mend_it()
        subject.set_entries([*ENTRIES, "new@example.com"])
        fetched = runs.fetch(subject.build())
        assert fetched.report.state == "whole"
        assert fetched.report.error == fetched.state.error == ""
        assert "new@example.com" in addresses(fetched)

    def test_a_failed_first_fetch_leaves_nothing(self, subject: Subject, runs: Runs) -> None:
        """A source that never answered has no list, rather than an empty one."""
        subject.set_entries(ENTRIES)
        subject.break_it()
        fetched = runs.fetch(subject.build())
        assert fetched.report.state == "failing"
        assert fetched.snapshot is None
        assert fetched.state.snapshot is None
        assert fetched.state.validator is None

    def test_nothing_at_all_is_a_failure(self, subject: Subject, runs: Runs) -> None:
        """A source that goes empty is failing and keeps what it said, unless its configuration allows that."""
        subject.set_entries(ENTRIES)
        runs.fetch(subject.build())
        subject.set_entries([])
        fetched = runs.fetch(subject.build())
        assert fetched.report.state == "failing"
        assert fetched.report.entries == len(ENTRIES)

    def test_nothing_at_all_can_be_allowed(self, subject: Subject, runs: Runs) -> None:
        """With allow_empty = true an empty answer is a whole one."""
        subject.set_entries([])
        fetched = runs.fetch(subject.build(), allow_empty=True)
        assert fetched.report.state == "whole"
        assert addresses(fetched) == []

    def test_a_reject_is_never_lost(self, subject: Subject, runs: Runs) -> None:
        """What cannot be an address is on record with its spelling, a reason and a key, and stops nothing else."""
        subject.set_entries([REJECTS[0], *ENTRIES, *REJECTS[1:]])
        fetched = runs.fetch(subject.build())
        assert fetched.report.state == "whole"
        assert (fetched.report.entries, fetched.report.rejected) == (len(ENTRIES), len(REJECTS))
        assert fetched.snapshot is not None
        rejects = snapshot.first_rejects(fetched.snapshot, "subject", 100)
        assert sorted(reject.spelled for reject in rejects) == sorted(REJECTS)
        assert all(reject.reason and reject.key for reject in rejects)

    def test_only_rejects_is_a_failure(self, subject: Subject, runs: Runs) -> None:
        """A source of which nothing is an address is the wrong file, attribute or field."""
        subject.set_entries(REJECTS)
        assert runs.fetch(subject.build(), allow_empty=True).report.state == "failing"

    def test_a_hostile_value_is_one_entry(self, subject: Subject, runs: Runs) -> None:
        """A hostile value comes out as itself alone, as one entry or one reject, never as a second address."""
        hostile = [*HOSTILE, *(WITH_LINE_BREAKS if subject.line_breaks else [])]
        good = [
            f"good{number}@example.com" for number in range(len(hostile))
        ]  # more rejects than entries are a failure
        subject.set_entries([*good, *hostile])
        fetched = runs.fetch(subject.build())
        assert fetched.report.state == "whole"
        assert fetched.report.entries + fetched.report.rejected == 2 * len(hostile)
        found = addresses(fetched)
        assert set(good) <= set(found)
        assert not {"a@example.com", "b@example.com", "c@example.com"} & set(found)
        assert fetched.snapshot is not None
        lines = fetched.snapshot.read_bytes().split(b"\n")
        assert lines.pop() == b""
        assert len(lines) == 2 * len(hostile) + 1
        assert {line.count(b"\t") for line in lines[:-1]} == {2}

    def test_heavy_libraries_wait_for_the_fetch(self, subject: Subject) -> None:
        """Importing the source's module, as reading the configuration does, imports no heavy library."""
        module = type(subject.build()).__module__
        script = f"import sys, {module}; print(*sys.modules, sep='\\n')"
        done = subprocess.run([sys.executable, "-c", script], capture_output=True, check=True, encoding="utf-8")
        assert not HEAVY & {name.partition(".")[0] for name in done.stdout.splitlines()}

    def test_a_fetch_writes_no_file(self, subject: Subject) -> None:
        """Where things are written is the program's business: a source only reads."""
        subject.set_entries(ENTRIES)
        source = subject.build()
        with writes() as written:
            answer, _ = ask(source)
            ask(source, answer.validator)
        assert written == []


_listeners: list[Callable[[str, tuple[object, ...]], None]] = []
_CHANGES = ("os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.link", "os.symlink", "os.truncate", "os.chmod")
_WRITING = 0o3  # O_WRONLY | O_RDWR


@contextmanager
def writes() -> Iterator[list[str]]:
    """Give a list that fills with what is written to meanwhile, as the interpreter itself reports it."""
    if not hasattr(sys, "_syncagent_audited"):
        sys._syncagent_audited = True  # type: ignore[attr-defined]  # a hook stays for good: one is enough
        sys.addaudithook(lambda event, args: [listener(event, args) for listener in _listeners] and None)
    written: list[str] = []

    def listen(event: str, args: tuple[object, ...]) -> None:
        if event == "open" and isinstance(args[2], int) and args[2] & _WRITING:
            written.append(f"open {args[0]!r}")
        elif event in _CHANGES:
            written.append(f"{event} {args!r}")

    _listeners.append(listen)
    try:
        yield written
    finally:
        _listeners.remove(listen)
