"""Asking the sources: in parallel, each under its deadline, and a refusal not repeated."""

import contextlib
import math
import os
import threading
import time
from collections.abc import Iterable
from pathlib import Path

import pytest

from syncagent import sources
from syncagent.errors import FailureKind, SourceError
from syncagent.model import Dates
from syncagent.sources import Answer, Request
from syncagent.sync.fetch import REFUSED_FOR, failing
from tests.sources import install, map_keys, write_config
from tests.support.fetching import NOW, Runs, Says, fails, lines, whole
from tests.support.programs import PATIENCE, allowed, wait_until
from tests.support.run import syncagent


@pytest.fixture
def runs(tmp_path: Path) -> Runs:
    """Runs with nothing remembered."""
    return Runs(tmp_path)


def test_answers_come_in_the_order_of_the_configuration(runs: Runs) -> None:
    """Each source's report is its own, in the order they are configured in."""
    fetched = runs(
        Says(whole("b@example.com", "c@example.com")).configured("z"),
        Says(fails(SourceError("down"))).configured("a"),
        Says(whole("d@example.com")).configured("m"),
    )
    assert [(one.report.name, one.report.state, one.report.entries) for one in fetched] == [
        ("z", "whole", 2),
        ("a", "failing", 0),
        ("m", "whole", 1),
    ]
    assert failing(fetched) == ("a",)
    assert lines(fetched[0]) == ["b@example.com", "c@example.com"]


def test_sources_are_asked_at_once(runs: Runs) -> None:
    """Sources that each wait for all the others to be asked are all answered."""
    barrier = threading.Barrier(4, timeout=PATIENCE)

    def fetch(request: Request) -> Answer:
        barrier.wait()
        return whole("a@example.com")(request)

    assert failing(runs(*(Says(fetch).configured(name) for name in "abcd"))) == ()


def test_a_hanging_source_ends_at_its_deadline(runs: Runs) -> None:
    """A source past its deadline is failing, says so, keeps its list, and holds nobody else up."""
    release = threading.Event()

    def wait(_: Request) -> Answer:
        release.wait(PATIENCE)
        return Answer()

    hang = Says(wait)
    runs(Says(whole("a@example.com")).configured("slow"))
    started = time.monotonic()
    slow, quick = runs(hang.configured("slow", deadline=0.3), Says(whole("b@example.com")).configured("quick"))
    assert 0.3 <= time.monotonic() - started < allowed(5)
    release.set()
    assert (slow.report.state, slow.report.kind) == ("failing", "temporary")
    assert "deadline" in slow.report.error
    assert lines(slow) == ["a@example.com"]
    assert quick.report.state == "whole"
    assert wait_until(lambda: not any(one.name == "fetch slow" for one in threading.enumerate()))


def test_deadlines_run_at_once(runs: Runs) -> None:
    """Several hanging sources cost the longest deadline, not the sum."""
    release = threading.Event()

    def hang(_: Request) -> Answer:
        release.wait(PATIENCE)
        return Answer()

    started = time.monotonic()
    names = "abcdefghij"
    runs(*(Says(hang).configured(name, deadline=3) for name in names))
    assert time.monotonic() - started < 3 * len(names)
    release.set()


def test_what_comes_after_the_deadline_is_refused(runs: Runs) -> None:
    """A source that goes on after its deadline gets an error at its next put, and leaves no list behind."""
    release, ended = threading.Event(), threading.Event()
    seen: list[BaseException] = []

    def fetch(request: Request) -> Answer:
        release.wait(PATIENCE)
        try:
            whole("late@example.com")(request)
        except SourceError as error:
            seen.append(error)
            raise
        finally:
            ended.set()
        return Answer()

    (late,) = runs(Says(fetch).configured(deadline=0.1))
    release.set()
    assert ended.wait(PATIENCE)
    assert seen
    assert late.snapshot is None
    assert not list(runs.snapshots.iterdir())


def test_an_answer_after_the_deadline_is_thrown_away(runs: Runs) -> None:
    """A source that put all in time but answers late is failing all the same."""
    release = threading.Event()

    def fetch(request: Request) -> Answer:
        whole("late@example.com")(request)
        release.wait(PATIENCE)
        return Answer()

    (late,) = runs(Says(fetch).configured(deadline=0.1))
    release.set()
    assert (late.report.state, late.snapshot) == ("failing", None)
    assert wait_until(lambda: not any(one.name == "fetch a" for one in threading.enumerate()))
    assert late.state.snapshot is None


@pytest.mark.parametrize(
    "error",
    [
        pytest.param(ValueError("seven"), id="exception"),
        pytest.param(MemoryError("seven"), id="out of memory"),
        pytest.param(RecursionError("seven"), id="recursion"),
        pytest.param(KeyError("seven"), id="key"),
        pytest.param(SystemExit("seven"), id="exit"),
        pytest.param(StopIteration("seven"), id="stop"),
    ],
)
def test_a_fault_in_a_source_is_its_own(runs: Runs, error: BaseException) -> None:
    """Whatever a source raises makes it failing, named as a fault of its own, and harms no other."""
    runs(Says(whole("a@example.com")).configured("bad"))
    bad, good = runs(
        Says(fails(error, "new@example.com")).configured("bad", deadline=5),
        Says(whole("b@example.com")).configured("good"),
    )
    assert (bad.report.state, bad.report.kind) == ("failing", "broken")
    assert type(error).__name__ in bad.report.error
    assert "seven" in bad.report.error
    assert lines(bad) == ["a@example.com"]
    assert good.report.state == "whole"


@pytest.mark.parametrize("answer", [None, "whole", [], Answer])
def test_an_answer_that_is_none_is_a_fault(runs: Runs, answer: object) -> None:
    """A source that returns anything but an Answer is failing, never empty or whole."""

    def fetch(request: Request) -> Answer:
        whole("a@example.com")(request)
        return answer  # type: ignore[return-value]  # what the test is about

    (one,) = runs(Says(fetch).configured())
    assert (one.report.state, one.report.kind, one.snapshot) == ("failing", "broken", None)


def test_an_error_of_the_system_is_temporary(runs: Runs) -> None:
    """An OSError that a source lets through is a failure worth another try."""
    (one,) = runs(Says(fails(ConnectionResetError(104, "reset"))).configured())
    assert (one.report.state, one.report.kind) == ("failing", "temporary")
    assert "reset" in one.report.error


def test_what_a_server_says_moves_no_cursor(runs: Runs) -> None:
    """Texts of a failure may be a server's: what controls a terminal or breaks the line is shown, and not sent."""
    (fetched,) = runs(Says(fails(SourceError("it said \x1b[2J\r\nALL IS WELL\x9b\u202e\udcff, in Köln"))).configured())
    shown = "it said \\x1b[2J\\r\\nALL IS WELL\\x9b\\u202e\\udcff, in Köln"
    assert fetched.report.error == fetched.state.error == shown


def test_half_an_answer_is_none(runs: Runs) -> None:
    """What was put before a failure is thrown away; the last whole list stays, byte for byte."""
    (before,) = runs(Says(whole("a@example.com", "b@example.com", validator="1")).configured())
    assert before.snapshot is not None
    text = before.snapshot.read_bytes()
    (after,) = runs(Says(fails(SourceError("cut off"), "a@example.com")).configured(), now=NOW + 60)
    assert after.report.error == "cut off"
    assert after.snapshot == before.snapshot
    assert after.snapshot.read_bytes() == text
    assert after.state.snapshot == before.state.snapshot
    assert (after.state.validator, after.state.last_success) == ("1", NOW)
    assert after.state.last_attempt == NOW + 60
    assert not list(runs.spool.iterdir())


def test_restart_takes_back_what_was_put(runs: Runs) -> None:
    """A source may start over; what it put before is gone, the rejects too."""

    def fetch(request: Request) -> Answer:
        request.sink.put([("old@example.com", "1", ""), ("bad", "2", "")])
        request.sink.ignore(3)
        request.sink.restart()
        return whole("new@example.com")(request)

    (one,) = runs(Says(fetch).configured())
    assert lines(one) == ["new@example.com"]
    assert (one.report.entries, one.report.rejected, one.report.ignored) == (1, 0, 0)


def test_same_keeps_the_list(runs: Runs) -> None:
    """An answer that is the same leaves list and validator as they are, and counts as success."""
    asked: list[str | None] = []

    def fetch(request: Request) -> Answer:
        asked.append(request.validator)
        return Answer(same=True) if request.validator else whole("a@example.com", validator="v")(request)

    source = Says(fetch)
    (first,) = runs(source.configured())
    for later in range(1, 3):
        (same,) = runs(source.configured(), now=NOW + later)
        assert (same.report.state, same.report.entries) == ("same", 1)
        assert same.snapshot == first.snapshot
        assert same.state.snapshot == first.state.snapshot
        assert (same.state.validator, same.state.last_success) == ("v", NOW + later)
    assert asked == [None, "v", "v"]


def dated(made: float = 0.0, expires: float = 0.0) -> Says:
    """Return a source whose answer has these dates, as that of another package may."""

    def fetch(request: Request) -> Answer:
        request.sink.put([("a@example.com", "k", "")])
        return Answer(made=made, expires=expires)

    return Says(fetch)


def test_dates_of_an_answer(runs: Runs) -> None:
    """They are recorded; an answer that was made before the last one is none."""
    (first,) = runs(dated(NOW - 60, NOW + 60).configured())
    assert first.state.dates == {"": Dates(made=NOW - 60, expires=NOW + 60, seen=NOW)}
    assert (first.state.made, first.state.expires) == (NOW - 60, NOW + 60)
    (older,) = runs(dated(NOW - 61).configured(), now=NOW + 1)
    assert older.report.state == "failing"
    assert older.report.error.startswith("the list was made 2001-09-09T01:45:39+00:00, before the last one")
    assert older.state.dates == first.state.dates


@pytest.mark.parametrize("wrong", [math.nan, math.inf, -1.0, 1e12])
def test_dates_that_are_no_times(runs: Runs, wrong: float) -> None:
    """A fault in a source leads neither to a state that cannot be read, nor to a time that cannot be shown."""
    for source in (dated(wrong), dated(NOW, wrong)):
        (failed,) = runs(source.configured())
        assert (failed.report.state, failed.report.kind) == ("failing", "broken")
        assert failed.report.error == "its data has a date that is no time"


def test_no_child_outlives_a_fetch(runs: Runs) -> None:
    """Whole, same or failing: when a run's fetches are over, no process of theirs is left."""
    before = _children()

    def same(request: Request) -> Answer:
        return Answer(same=True) if request.validator else whole("a@example.com", validator="v")(request)

    def same_after_all(request: Request) -> Answer:
        whole("a@example.com")(request)
        return Answer(same=bool(request.validator), validator="v")

    for _ in range(2):
        fetched = runs(
            Says(same).configured("a"),
            Says(fails(SourceError("down"))).configured("b"),
            Says(whole("c@example.com")).configured("c"),
            Says(same_after_all).configured("d"),
        )
        left = _children() - before
        assert not left, [one.report.state for one in fetched]


def _children() -> set[int]:
    """Give the processes that this one has started and not yet waited for."""
    children = set()
    for status in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            if status.read_bytes().rpartition(b") ")[2].split()[1] == str(os.getpid()).encode():
                children.add(int(status.parent.name))
    return children


@pytest.mark.parametrize("validator", [None, "v"])
def test_same_as_nothing_is_a_failure(runs: Runs, validator: str | None) -> None:
    """A source that says "same" though it was asked for everything is broken."""
    (one,) = runs(Says(lambda _: Answer(same=True, validator=validator)).configured())
    assert (one.report.state, one.report.kind, one.snapshot) == ("failing", "broken", None)
    assert "same" in one.report.error


def test_a_changed_configuration_voids_the_validator_only(runs: Runs) -> None:
    """A source that is configured anew is asked for everything, and keeps its list if it then fails."""
    runs(Says(whole("a@example.com", validator="v")).configured(digest="1"))
    asked: list[str | None] = []

    def fetch(request: Request) -> Answer:
        asked.append(request.validator)
        raise SourceError("down")

    (one,) = runs(Says(fetch).configured(digest="2"))
    assert asked == [None]
    assert lines(one) == ["a@example.com"]
    runs(Says(fetch).configured(digest="2"))
    assert asked == [None, None]


def test_another_normaliser_voids_the_validator(runs: Runs, monkeypatch: pytest.MonkeyPatch) -> None:
    """A list that another version of the address rules made is not what "same" may mean."""
    runs(Says(whole("a@example.com", validator="v")).configured())
    monkeypatch.setattr("syncagent.addresses.VERSION", "2")
    asked: list[str | None] = []

    def fetch(request: Request) -> Answer:
        asked.append(request.validator)
        return whole("a@example.com")(request)

    runs(Says(fetch).configured())
    assert asked == [None]


@pytest.mark.parametrize("damage", ["gone", "cut", "altered"])
def test_a_damaged_list_is_fetched_whole(runs: Runs, damage: str) -> None:
    """A list that is not what was written is never in force: the source is asked for everything, with a note."""
    (one,) = runs(Says(whole("a@example.com", "b@example.com", validator="v")).configured())
    assert one.snapshot is not None
    text = one.snapshot.read_bytes()
    if damage == "gone":
        one.snapshot.unlink()
    else:
        one.snapshot.write_bytes(text[:-80] if damage == "cut" else text.replace(b"b@", b"c@"))
    asked: list[str | None] = []

    def fetch(request: Request) -> Answer:
        asked.append(request.validator)
        return whole("a@example.com", "b@example.com", validator="v")(request)

    (again,) = runs(Says(fetch).configured())
    assert asked == [None]
    assert again.report.state == "whole"
    assert [(note.kind, note.subject) for note in runs.notes] == [("snapshot-lost", "a")]


def test_a_copied_list_is_still_good(runs: Runs) -> None:
    """A list with another identity but the right content, as after a restored backup, stays in force."""
    (one,) = runs(Says(whole("a@example.com", validator="v")).configured())
    assert one.snapshot is not None
    text = one.snapshot.read_bytes()
    one.snapshot.unlink()
    one.snapshot.write_bytes(text)
    (again,) = runs(Says(lambda _: Answer(same=True)).configured())
    assert (again.report.state, runs.notes) == ("same", [])


@pytest.fixture
def refusing() -> Says:
    """A source that refuses the credentials."""
    return Says(fails(SourceError("wrong password", kind=FailureKind.REFUSED)))


@pytest.fixture
def secret(tmp_path: Path) -> Path:
    """A file with a secret."""
    path = tmp_path / "secret"
    path.write_text("wrong\n", encoding="utf-8")
    path.chmod(0o600)
    return path


def test_a_refusal_is_not_repeated_within_the_hour(runs: Runs, refusing: Says, secret: Path) -> None:
    """Refused credentials are shown once an hour: meanwhile the source is failing unasked, and says how long."""
    (first,) = runs(refusing.configured(secret=secret))
    assert (first.report.error, first.report.kind, refusing.count) == ("wrong password", "refused", 1)
    for later in (1, 60, REFUSED_FOR / 2, REFUSED_FOR - 1):
        (again,) = runs(refusing.configured(secret=secret), now=NOW + later)
        assert refusing.count == 1
        assert again.report.state == "failing"
        assert again.report.kind == "refused"
        assert again.report.error.startswith("wrong password (not asked again for ")
        assert again.report.error.count("not asked again") == 1
        assert again.report.refusal == again.state.refusal == "wrong password"
    runs(refusing.configured(secret=secret), now=NOW + REFUSED_FOR + 1)
    assert refusing.count == 2
    runs(refusing.configured(secret=secret), now=NOW + REFUSED_FOR + 60)
    assert refusing.count == 2


def test_a_refusal_ends_with_another_configuration(runs: Runs, refusing: Says) -> None:
    """A changed configuration is tried at once, and its refusal remembered anew."""
    runs(refusing.configured(digest="1"))
    runs(refusing.configured(digest="2"), now=NOW + 1)
    runs(refusing.configured(digest="2"), now=NOW + 2)
    assert refusing.count == 2


def test_a_refusal_ends_with_another_secret(runs: Runs, refusing: Says, secret: Path) -> None:
    """A secret that was put into the file anew is tried at once."""
    runs(refusing.configured(secret=secret))
    runs(refusing.configured(secret=secret), now=NOW + 1)
    assert refusing.count == 1
    time.sleep(0.02)
    secret.write_text("right\n", encoding="utf-8")
    (mended,) = runs(Says(whole("a@example.com")).configured(secret=secret), now=NOW + 2)
    assert (mended.report.state, mended.state.error, mended.state.refused_for) == ("whole", "", "")


def test_a_refusal_ends_with_a_touch(runs: Runs, refusing: Says, secret: Path) -> None:
    """Whoever mended the server says so by touching the secret."""
    runs(refusing.configured(secret=secret))
    os.utime(secret, (1, 1))
    runs(refusing.configured(secret=secret), now=NOW + 1)
    runs(refusing.configured(secret=secret), now=NOW + 2)
    assert refusing.count == 2


def test_a_refusal_outlives_systemd(
    runs: Runs, refusing: Says, secret: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A timer's unit gets its credentials in new files for each start: they are the same as long as they say the same.

    No part of the secret is kept.
    """
    kept = set()
    for start in range(3):
        given = tmp_path / f"credentials-{start}"
        given.mkdir()
        (given / "corp").write_bytes(secret.read_bytes())
        monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(given))
        (fetched,) = runs(refusing.configured(secret=Path("corp")), now=NOW + start)
        kept.add(fetched.state.refused_for)
        assert "wrong" not in fetched.state.refused_for
    assert (refusing.count, len(kept)) == (1, 1)
    (given / "corp").write_text("right\n", encoding="utf-8")
    runs(refusing.configured(secret=Path("corp")), now=NOW + 4)
    assert refusing.count == 2


def test_a_clock_set_back_does_not_prolong_a_refusal(runs: Runs, refusing: Says) -> None:
    """A refusal that lies in the future is none to wait for."""
    runs(refusing.configured())
    runs(refusing.configured(), now=NOW - 10)
    assert refusing.count == 2


@pytest.mark.parametrize("kind", [FailureKind.TEMPORARY, FailureKind.BROKEN])
def test_other_failures_are_asked_again(runs: Runs, kind: FailureKind) -> None:
    """Only a refusal waits: what is down or broken is asked in the next run."""
    source = Says(fails(SourceError("down", kind=kind)))
    runs(source.configured())
    (again,) = runs(source.configured(), now=NOW + 1)
    assert (source.count, again.report.error, again.report.kind) == (2, "down", kind)


def test_a_refusal_keeps_the_list(runs: Runs, refusing: Says) -> None:
    """While a refusal stands, asked or not, what the source said last is in force."""
    runs(Says(whole("a@example.com")).configured())
    for later in (1, 2):
        (one,) = runs(refusing.configured(), now=NOW + later)
        assert lines(one) == ["a@example.com"]
        assert one.state.last_success == NOW


def test_empty_is_a_failure_unless_allowed(runs: Runs) -> None:
    """No entry at all is a failure that names the setting; entries that are merely passed over are entries."""
    (empty,) = runs(Says(whole()).configured())
    assert (empty.report.state, empty.report.kind) == ("failing", "broken")
    assert "allow_empty = true" in empty.report.error
    (allowed,) = runs(Says(whole()).configured(allow_empty=True))
    assert (allowed.report.state, lines(allowed)) == ("whole", [])

    def ignored(request: Request) -> Answer:
        request.sink.ignore(1)
        return Answer()

    (passed_over,) = runs(Says(ignored).configured())
    assert passed_over.report.state == "failing", "nothing for us is nothing"
    assert "1 entry, and none is for us" in passed_over.report.error
    (passed_over,) = runs(Says(ignored).configured(allow_empty=True))
    assert (passed_over.report.state, passed_over.report.ignored) == ("whole", 1)


def test_put_takes_a_generator_lazily(runs: Runs) -> None:
    """Entries may come from a generator, and one that raises half-way is a failed fetch."""

    def entries() -> Iterable[tuple[str, str, str]]:
        yield "a@example.com", "1", ""
        raise SourceError("cut off")

    def fetch(request: Request) -> Answer:
        request.sink.put(entries())
        return Answer()

    (one,) = runs(Says(fetch).configured())
    assert (one.report.state, one.report.error) == ("failing", "cut off")


@pytest.mark.parametrize("content", [b"", b"\n", b"\xff\n"])
def test_a_secret_that_is_none(tmp_path: Path, content: bytes) -> None:
    """An empty secret, and one that is not UTF-8, are failures that name the file."""
    path = tmp_path / "secret"
    path.write_bytes(content)
    path.chmod(0o600)
    with pytest.raises(SourceError, match=str(path)):
        sources.read_secret(str(path))


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o644])
def test_a_secret_that_others_can_read(tmp_path: Path, mode: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A secret open to group or world is refused, with the mend, anywhere but in systemd's own directory."""
    monkeypatch.delenv("CREDENTIALS_DIRECTORY", raising=False)
    path = tmp_path / "secret"
    path.write_text("secret\n", encoding="utf-8")
    path.chmod(mode)
    with pytest.raises(SourceError, match=f"chmod 600 {path}") as caught:
        sources.read_secret(str(path))
    assert "secret\n" not in str(caught.value)
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
    assert sources.read_secret("secret") == "secret"


def test_a_secret_is_taken_less_one_line_end(tmp_path: Path) -> None:
    """One line end is the editor's; all else is the secret's."""
    path = tmp_path / "secret"
    for text, wanted in (("a\n", "a"), ("a\r\n", "a"), (" a \n", " a "), ("a", "a"), ("a\n\n", "a\n")):
        path.write_bytes(text.encode())
        path.chmod(0o600)
        assert sources.read_secret(str(path)) == wanted
    with pytest.raises(SourceError, match="cannot be read"):
        sources.read_secret(str(tmp_path / "none"))


SLOW = '''
"""A source that hangs, fails or answers, as a file beside it says."""
import time
from pathlib import Path
from msgspec import Struct
from syncagent.errors import FailureKind, SourceError
from syncagent.sources import Answer

class Config(Struct, frozen=True, kw_only=True):
    do: Path

def build(config):
    return Source(config)

class Source:
    def __init__(self, config):
        self.do = config.do
    def fetch(self, request):
        with self.do.with_name("calls").open("a") as calls:
            calls.write("x")
        words = self.do.read_text().split()
        if words[0] == "hang":
            time.sleep(60)
        if words[0] == "refuse":
            raise SourceError("wrong password", kind=FailureKind.REFUSED)
        if words[0] == "raise":
            raise ZeroDivisionError("oops")
        request.sink.put([(word, "k", "") for word in words])
        return Answer()
'''


@pytest.fixture
def doer(tmp_path: Path) -> tuple[Path, dict[str, str]]:
    """A configuration with a source that does what the file `do` says, and a flat file; the environment."""
    env = install(tmp_path / "site", "doer", SLOW)
    (tmp_path / "list").write_text("list@example.com\n", encoding="utf-8")
    (tmp_path / "do").write_text("done@example.com", encoding="utf-8")
    text = '[sources.doer]\ntype = "doer"\ndo = "do"\ndeadline = "1s"\n[sources.list]\ntype = "file"\npath = "list"'
    return write_config(tmp_path, text), env


@pytest.mark.parametrize("deed", ["hang", "refuse", "raise"])
def test_a_failing_source_holds_no_other_up(doer: tuple[Path, dict[str, str]], deed: str) -> None:
    """While one source fails, others' additions are published, nothing is removed, and the exit status is 75."""
    config, env = doer
    directory = config.parent
    syncagent("sync", config=config, env=env, check=0)
    (directory / "do").write_text(deed, encoding="utf-8")
    (directory / "list").write_text("new@example.com\n", encoding="utf-8")
    started = time.monotonic()
    done = syncagent("sync", config=config, env=env, check=75)
    assert time.monotonic() - started < allowed(10)
    assert "source doer is failing" in done.stderr
    assert map_keys(directory) == ["done@example.com", "list@example.com", "new@example.com"]


def test_a_refusal_is_remembered_between_runs(doer: tuple[Path, dict[str, str]]) -> None:
    """The program does not show refused credentials again, and `check` neither; a new configuration is tried."""
    config, env = doer
    calls = config.with_name("calls")
    syncagent("sync", config=config, env=env, check=0)
    (config.parent / "do").write_text("refuse", encoding="utf-8")
    syncagent("sync", config=config, env=env, check=75)
    assert calls.stat().st_size == 2
    done = syncagent("sync", config=config, env=env, check=75)
    assert "not asked again for" in done.stderr
    syncagent("plan", config=config, env=env, check=75)
    syncagent("check", config=config, env=env, check=1)
    assert calls.stat().st_size == 2
    config.write_text(config.read_text(encoding="utf-8").replace('"1s"', '"2s"'), encoding="utf-8")
    syncagent("sync", config=config, env=env, check=75)
    assert calls.stat().st_size == 3
    (config.parent / "do").write_text("done@example.com", encoding="utf-8")
    os.utime(config)  # a new time is no new configuration
    syncagent("sync", config=config, env=env, check=75)
    assert calls.stat().st_size == 3
