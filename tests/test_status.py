"""`syncagent status` says how it stands, in each state, and touches nothing."""

import contextlib
import os
import pwd
import re
import shlex
import shutil
import sqlite3
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from syncagent import privileges
from syncagent.cli import main as cli
from syncagent.cli.views import status as view
from syncagent.config import load as configuration
from syncagent.config.tables import Config
from syncagent.errors import LedgerError
from syncagent.files import atomic as files
from syncagent.state import database as ledger
from syncagent.state.status import AGENT_FILE, AGENT_LOCK, AgentState, LastRun, Status, read, read_agent, write_agent
from tests.agent import Station
from tests.scenario import HOUR, MINUTE, people, reasons
from tests.support.agent import Agent
from tests.support.need import need_root
from tests.support.programs import PATIENCE, allowed, wait_until
from tests.support.run import syncagent

OK, HELD, CANNOT_PUBLISH, TEMPORARY, CONFIG = 0, 65, 73, 75, 78


@pytest.fixture
def mx(tmp_path: Path) -> Station:
    """A backup MX with one source of 40 people, which has never run."""
    station = Station(tmp_path)
    station.schedule = {}
    station.write("corp", people(40))
    return station


@pytest.fixture
def fine(mx: Station) -> Station:
    """The same, after one run."""
    mx.sync()
    return mx


def loaded(mx: Station) -> Config:
    """Give the configuration as it is."""
    return configuration.load(mx.configure())


def at(mx: Station, now: float) -> Status:
    """Give how it stands at another time."""
    return read(loaded(mx), now)


def asked(mx: Station, code: int) -> Status:
    """Ask the real command, in both of its ways, and see that they agree, and that nothing was touched."""
    before = touched(mx)
    said = mx.say("status", code=code)
    printed = mx.say("status", "--json", code=code)
    assert touched(mx) == before
    assert msgspec.json.decode(printed.stdout)["exit_code"] == code
    status = msgspec.json.decode(printed.stdout, type=Status)
    assert said.stderr == "".join(f"syncagent: {alarm.text}\n" for alarm in status.alarms)
    return status


def touched(mx: Station) -> dict[str, object]:
    """Identify the state directory and all that is in it."""
    return {str(path): files.identity(path) for path in (mx.state, *mx.state.rglob("*"))}


def kinds(status: Status) -> list[str]:
    """Give the kinds of its alarms."""
    return [alarm.kind for alarm in status.alarms]


# --- never run, and first runs


def test_never_run(mx: Station) -> None:
    """Before the first run it exits 75 with one line of reason, and makes no state directory."""
    done = mx.say("status", code=TEMPORARY)
    assert done.stderr == (
        "syncagent: data of source corp was never fetched (schedule.max_age 1h): no run has been yet\n"
    )
    assert "0 recipients, last changed never" in done.stdout
    status = asked(mx, TEMPORARY)
    assert (status.sources[0].state, status.sources[0].age, status.last_run) == ("never asked", None, 0)
    assert not mx.state.exists()


def test_an_empty_state_directory_stays_empty(mx: Station) -> None:
    """Where the directory is there and nothing in it, as a package leaves it, nothing is put into it."""
    mx.state.mkdir()
    assert kinds(asked(mx, TEMPORARY)) == ["stale"]
    assert not list(mx.state.iterdir())


def test_a_first_run_that_was_not_whole(mx: Station) -> None:
    """Nothing is published yet: 65, and what to type to see why; after that it is fine."""
    mx.sources["extra"] = {}
    mx.sync(code=TEMPORARY)
    status = asked(mx, HELD)
    assert kinds(status) == ["incomplete"]
    assert "nothing is published yet" in status.alarms[0].text
    assert status.alarms[0].text.endswith(f"--config {mx.config} plan")
    assert (status.recipients, status.domains) == (0, {})
    mx.write("extra", people(3, first=100))
    mx.sync()
    assert asked(mx, OK).recipients == 43


def test_a_source_that_never_answered(mx: Station) -> None:
    """A source that was never whole is stale once it has failed for an hour, and not before."""
    mx.sources["extra"] = {}
    mx.sync("--accept-incomplete", code=TEMPORARY)
    failing_since = asked(mx, OK).sources[1].failing_since
    assert not at(mx, failing_since + 59 * MINUTE).sources[1].stale
    late = at(mx, failing_since + 61 * MINUTE)
    stale = next(alarm for alarm in late.alarms if alarm.subject == "extra")
    assert stale.text.startswith("data of source extra was never fetched (schedule.max_age 1h): ")
    assert late.exit_code == TEMPORARY


# --- fine, held, failing


def test_fine(fine: Station) -> None:
    """After a good run it exits 0, says when, and has nothing to say on the standard error."""
    status = asked(fine, OK)
    (source,) = status.sources
    assert (status.recipients, status.domains) == (40, {"example.com": 40})
    assert (source.state, source.entries, source.stale, source.error) == ("whole", 40, False, "")
    assert abs(time.time() - status.last_run) < MINUTE
    assert status.last_run == status.oldest_data == source.last_success
    assert abs(status.last_change - status.last_run) < MINUTE
    out = fine.say("status").stdout
    assert "40 recipients, last changed" in out
    assert "no agent is running" in out


def test_held_and_the_command_that_lets_go(fine: Station) -> None:
    """Held removals are 65, with the command that approves them, which works as it is printed."""
    fine.write("corp", people(20))
    fine.sync(code=HELD)
    status = asked(fine, HELD)
    assert kinds(status) == ["held"]
    assert status.recipients == 40
    words = shlex.split(status.alarms[0].text.partition("to let them go: ")[2])
    assert words[:3] == ["syncagent", "--config", str(fine.config)]
    syncagent(*words[1:], check=OK)
    assert asked(fine, OK).recipients == 20


def test_what_only_waits_needs_nobody(tmp_path: Path) -> None:
    """Removals that wait for a failing source are shown, and exit 0: that resolves by itself."""
    mx = Station(tmp_path, "corp", "extra")
    mx.schedule = {}
    mx.write("corp", people(40))
    mx.write("extra", people(5, first=100))
    mx.sync()
    mx.break_source("extra")
    mx.write("corp", people(39))
    mx.sync(code=TEMPORARY)
    assert kinds(asked(mx, OK)) == []
    assert re.search(r"1 removal of example.com held until no source fails \(\w{8}\)", mx.say("status").stdout)


def test_a_canary_and_a_catch_all(fine: Station) -> None:
    """An absent canary, and a catch-all that nobody permitted, are 65, each with its mend."""
    fine.limits["canaries"] = ["canary@example.com"]
    fine.write("corp", people(40) | {"@example.com"})
    fine.sync(code=HELD)
    status = asked(fine, HELD)
    assert sorted(kinds(status)) == ["canary", "catch-all"]
    texts = " ".join(alarm.text for alarm in status.alarms)
    assert "limits.canaries" in texts
    assert "add example.com to postfix.catch_all" in texts


def test_down_for_less_than_max_age(fine: Station) -> None:
    """A source that fails is shown with its error, and exits 0 while what it said is young."""
    fine.break_source("corp")
    fine.sync(code=TEMPORARY)
    (source,) = asked(fine, OK).sources
    assert (source.state, source.kind, source.entries) == ("failing", "broken", 40)
    assert "source corp: failing since " in fine.say("status").stdout


def test_down_for_an_hour(fine: Station) -> None:
    """Once what a source said is older than an hour it is stale, with the error as the reason; then it is not."""
    fine.break_source("corp")
    fine.sync(code=TEMPORARY)
    success = at(fine, time.time()).sources[0].last_success
    assert at(fine, success + HOUR).exit_code == OK
    late = at(fine, success + HOUR + 1)
    assert (late.exit_code, kinds(late)) == (TEMPORARY, ["stale"])
    assert late.alarms[0].text.startswith("data of source corp is 1h1s old (schedule.max_age 1h): ")
    assert late.sources[0].error in late.alarms[0].text
    fine.write("corp", people(40))
    fine.sync()
    assert at(fine, time.time() + HOUR - MINUTE).exit_code == OK


def test_stale_is_one_line_and_75(fine: Station) -> None:
    """The real command, by the real clock: 75 and one line where max_age is over; no run at all is reason enough."""
    fine.schedule = {"every": "1s", "max_age": "1s"}
    time.sleep(1.1)
    done = fine.say("status", code=TEMPORARY)
    assert len(done.stderr.splitlines()) == 1
    assert "schedule.max_age 1s" in done.stderr


@pytest.mark.parametrize(
    ("schedule", "own", "limit"),
    [
        ({}, {}, HOUR),
        ({"every": "5s"}, {}, HOUR),
        ({"every": "2h"}, {}, 4 * HOUR),
        ({}, {"every": "3h"}, 6 * HOUR),
        ({"every": "2h"}, {"every": "1m"}, HOUR),
        ({"every": "1m", "max_age": "10m"}, {}, 10 * MINUTE),
    ],
)
def test_from_when_on_it_is_stale(
    fine: Station, schedule: dict[str, object], own: dict[str, object], limit: float
) -> None:
    """An hour, or twice the source's own interval where that is longer, or max_age: to the second."""
    fine.schedule, fine.sources["corp"] = schedule, own
    success = at(fine, time.time()).sources[0].last_success
    assert not at(fine, success + limit).sources[0].stale
    assert at(fine, success + limit + 0.001).sources[0].stale


def test_a_success_that_a_wrong_clock_noted(fine: Station) -> None:
    """A success that lies ahead by more than max_age is not believed: else it would be young for years."""
    success = at(fine, time.time()).sources[0].last_success
    assert at(fine, success - HOUR).exit_code == OK
    ahead = at(fine, success - HOUR - 1)
    assert (ahead.exit_code, kinds(ahead)) == (TEMPORARY, ["stale"])
    assert "recorded by a clock that was ahead" in ahead.alarms[0].text


# --- publishing that failed


@pytest.fixture
def unpublishable(mx: Station) -> Station:
    """A backup MX whose postmap fails just now, and has."""
    mx.own_postmap()
    mx.sync()
    mx.postmap_fails.touch()
    mx.write("corp", people(41))
    mx.sync(code=CANNOT_PUBLISH)
    status = asked(mx, CANNOT_PUBLISH)
    assert kinds(status) == ["publish-failed"]
    assert "no space left" in status.alarms[0].text
    return mx


def test_publishing_that_failed_and_then_succeeded(unpublishable: Station) -> None:
    """73 as long as it fails, 0 after a run that published."""
    unpublishable.postmap_fails.unlink()
    unpublishable.sync()
    assert asked(unpublishable, OK).recipients == 41


def test_publishing_that_failed_and_is_not_needed_any_more(unpublishable: Station) -> None:
    """Where the sources went back to what is published there is nothing to publish, and no failure any more."""
    unpublishable.write("corp", people(40))
    assert unpublishable.sync().status == "unchanged"
    assert asked(unpublishable, OK).recipients == 40


def test_publishing_goes_before_staleness_and_holds(unpublishable: Station) -> None:
    """Where several alarms stand, 73 goes before 75, and that before 65."""
    success = at(unpublishable, time.time()).sources[0].last_success
    both = at(unpublishable, success + 2 * HOUR)
    assert sorted(kinds(both)) == ["publish-failed", "stale"]
    assert both.exit_code == CANNOT_PUBLISH


def test_a_first_publishing_that_failed(mx: Station) -> None:
    """Before anything is published the failure is told, and not also that nothing is published."""
    mx.own_postmap()
    mx.postmap_fails.touch()
    mx.sync(code=CANNOT_PUBLISH)
    assert kinds(asked(mx, CANNOT_PUBLISH)) == ["publish-failed"]


# --- what the agent left


def last_run(mx: Station, error: str, finished: float) -> None:
    """Leave what an agent leaves whose last run came to nothing."""
    last = LastRun("20260131T020000Z-abcdef", finished, "failed", CANNOT_PUBLISH, 0.1, error)
    write_agent(mx.state, AgentState(1, finished, last=last))


def test_an_error_of_the_agent_stands_until_a_run_by_hand(fine: Station) -> None:
    """What its last run came to nothing by is 73, the agent ended or not; a good run by hand after it is the end."""
    last_run(fine, "a fault in syncagent: KeyError", time.time())
    assert kinds(asked(fine, CANNOT_PUBLISH)) == ["publish-failed"]
    fine.sync()
    assert kinds(asked(fine, OK)) == []


def test_a_run_in_the_future_hides_no_error(fine: Station) -> None:
    """A run that a wrong clock noted ahead of now is no run after the agent's."""
    now = at(fine, time.time()).sources[0].last_attempt - MINUTE
    last_run(fine, "the disk is full", now - 1)
    assert kinds(at(fine, now)) == ["publish-failed"]


def test_the_agent_runs_stops_and_is_killed(fine: Station) -> None:
    """While it runs: its process, how it watches, and the next run; stopped or killed: none is running."""
    with Agent(fine.configure(), env=fine.env) as agent:
        assert wait_until(lambda: read_agent(fine.state) is not None)
        status = asked(fine, OK)
        assert status.running
        assert status.agent
        assert (status.agent.pid, status.agent.watch) == (agent.process.pid, "inotify")
        assert status.agent.next_run
        assert 0 < status.agent.next_run - time.time() <= HOUR
        assert f"the agent is running (pid {agent.process.pid}, watching by inotify)" in fine.say("status").stdout
    status = asked(fine, OK)
    assert not status.running
    assert status.agent
    assert status.agent.next_run is None
    with Agent(fine.configure(), env=fine.env) as agent:
        assert wait_until(
            lambda: bool((now := read_agent(fine.state)) and now.pid == agent.process.pid and now.runs), 15
        )
        agent.kill()
        assert "no agent is running" in fine.say("status").stdout
    assert not asked(fine, OK).running


def test_a_configuration_that_the_agent_refused(fine: Station) -> None:
    """It is 78 for the agent, and while it runs for whoever asks; one that is gone has nothing to say of it."""
    left = AgentState(1, time.time(), refused="the new configuration is refused")
    write_agent(fine.state, left)
    assert kinds(asked(fine, OK)) == []
    own = read(loaded(fine), agent=left)
    assert (kinds(own), own.alarms[0].text, own.exit_code) == (["configuration"], left.refused, CONFIG)
    with files.locked(fine.state / AGENT_LOCK, 1):
        assert kinds(asked(fine, CONFIG)) == ["configuration"]
        fine.write("corp", people(20))
        fine.sync(code=HELD)
        assert sorted(kinds(asked(fine, CONFIG))) == ["configuration", "held"], "78 goes before 65"


def test_a_lock_without_an_agent(fine: Station) -> None:
    """The file of the lock alone is no agent; who holds it is."""
    (fine.state / AGENT_LOCK).touch()
    assert not asked(fine, OK).running
    with files.locked(fine.state / AGENT_LOCK, 1):
        assert asked(fine, OK).running


@pytest.mark.parametrize("octets", [b"", b"\0" * 512, b"{}", b'{"pid": 1, "star', b'{"pid": "x", "started": 0}', b"[]"])
def test_a_damaged_agent_json(fine: Station, octets: bytes) -> None:
    """What the agent left and cannot be read is as if it had left nothing."""
    (fine.state / AGENT_FILE).write_bytes(octets)
    assert asked(fine, OK).agent is None


def test_what_the_agent_leaves_is_read_back(tmp_path: Path) -> None:
    """It is written whole, for owner and group, and leaves no other file."""
    state = AgentState(7, 1.5, next_run=2.5, watch="poll", runs={"unchanged": 3})
    umask = os.umask(0o077)
    try:
        write_agent(tmp_path, state)
    finally:
        os.umask(umask)
    assert read_agent(tmp_path) == state
    assert [path.name for path in tmp_path.iterdir()] == [AGENT_FILE]
    assert (tmp_path / AGENT_FILE).stat().st_mode & 0o777 == 0o640


# --- damage, other users, a lock


@pytest.mark.parametrize("damage", ["text", "cut", "schema"])
def test_a_damaged_database(fine: Station, damage: str) -> None:
    """73 and what mends it; the damaged file is left to the next sync, which holds removals: the state is lost."""
    file = fine.state / "state.db"
    if damage == "text":
        file.write_bytes(b"this is no database, whatever its name says" * 200)
    elif damage == "cut":
        os.truncate(file, 5000)
    else:
        octets = bytearray(file.read_bytes())
        octets[100:4096] = b"\xff" * 3996
        file.write_bytes(octets)
    before = touched(fine)
    done = fine.say("status", code=CANNOT_PUBLISH)
    assert len(done.stderr.splitlines()) == 1
    assert "Traceback" not in done.stderr
    assert touched(fine) == before
    fine.sync(code=None)
    assert {kind for kinds in reasons(fine.sync(code=HELD)).values() for kind in kinds} == {"state-new"}
    assert asked(fine, HELD).recipients == 40


def test_a_run_that_was_cut_off_while_it_wrote(fine: Station) -> None:
    """A database with a journal to be rolled back is left as it is: 73, what mends it, and then it is right."""
    cut = fine.state.with_name("cut")
    with contextlib.closing(sqlite3.connect(fine.state / "state.db", isolation_level=None)) as writer:
        writer.execute("PRAGMA cache_size=2")
        writer.execute("BEGIN IMMEDIATE")
        rows = (("run", f"{number:0200}", 1, "") for number in range(2000))
        writer.executemany("INSERT INTO recipient VALUES (?, ?, ?, ?)", rows)
        shutil.copytree(fine.state, cut)
        writer.execute("ROLLBACK")
    shutil.rmtree(fine.state)
    cut.rename(fine.state)
    before = {path: path.read_bytes() for path in fine.state.iterdir() if path.is_file()}
    assert "the next `syncagent sync` repairs it" in fine.say("status", code=CANNOT_PUBLISH).stderr
    assert {path: path.read_bytes() for path in fine.state.iterdir() if path.is_file()} == before
    fine.sync()
    assert asked(fine, OK).recipients == 40


@pytest.fixture
def open_house() -> Iterator[Station]:
    """A backup MX of root's that everybody may look at, but for its state directory."""
    need_root()
    with tempfile.TemporaryDirectory(prefix="syncagent-status-") as name:
        Path(name).chmod(0o755)
        station = Station(Path(name))
        station.write("corp", people(4))
        yield station


@contextlib.contextmanager
def ordinary_user() -> Iterator[None]:
    """Be nobody for a while; a process of nobody's might not read the Python that runs the tests."""
    groups = os.getgroups()
    os.setgroups([])
    os.setegid(65534)
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)
        os.setegid(0)
        os.setgroups(groups)


def test_as_another_user(
    open_house: Station, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Who may not look is told so, and not that nothing ever ran; nor gets a trace."""
    open_house.sync()
    assert open_house.state.stat().st_mode & 0o777 == 0o750
    assert privileges, view  # imported while that may be read
    monkeypatch.setattr(sys, "argv", ["syncagent", "--config", str(open_house.config), "status"])
    with ordinary_user():
        assert cli._main() == CANNOT_PUBLISH
    told = capsys.readouterr()
    assert told.out == ""
    assert told.err.startswith(f"syncagent: the state directory {open_house.state} cannot be used: Permission denied")


def test_roots_look_at_another_s_state(open_house: Station) -> None:
    """Root sees it as its owner does, and leaves nothing of its own there."""
    nobody = pwd.getpwnam("nobody")
    os.chown(open_house.directory, nobody.pw_uid, nobody.pw_gid)
    open_house.sync()
    assert asked(open_house, OK).recipients == 4
    assert {path.stat().st_uid for path in (open_house.state, *open_house.state.rglob("*"))} == {nobody.pw_uid}


def test_while_a_sync_holds_the_lock(fine: Station) -> None:
    """A run that is under way, and hangs, does not keep it from being asked."""
    fine.own_postmap()
    fine.postmap_waits.touch()
    fine.write("corp", people(41))
    process = fine.start("sync")
    try:
        assert wait_until(lambda: bool(list(fine.state.glob(".spool-*"))))
        with pytest.raises(Exception, match="another run"), files.locked(fine.state / "sync.lock", 0):
            pass
        began = time.monotonic()
        assert kinds(msgspec.json.decode(fine.say("status", "--json").stdout, type=Status)) == []
        assert time.monotonic() - began < allowed(10)
    finally:
        fine.postmap_waits.unlink()
        process.communicate(timeout=PATIENCE)
    assert asked(fine, OK).recipients == 41


def test_a_database_that_is_being_written(fine: Station, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that stays locked is 73 after a while, and no fault of the program."""
    monkeypatch.setattr(ledger, "_BUSY_SECONDS", 0.2)
    with contextlib.closing(sqlite3.connect(fine.state / "state.db", isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        with pytest.raises(LedgerError, match="locked"):
            at(fine, time.time())
        other.execute("ROLLBACK")
    assert at(fine, time.time()).exit_code == OK
