"""Doubt as `status`, `sync`, `history`, the agent's log, its notifications and metrics show it. Real runs."""

import json
import os
import re
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import msgspec
import pytest
from msgspec.structs import replace
from prometheus_client.parser import text_string_to_metric_families

from syncagent.agent.reporting import summary
from syncagent.postfix.doubt_table import Files
from syncagent.state.database import Ledger
from syncagent.state.history import Run
from syncagent.state.messages import moment
from syncagent.state.status import AGENT_FILE, AgentState, Status, read_agent
from syncagent.values.types import MapName
from tests.agent import Station
from tests.scenario import HOUR, MINUTE, people
from tests.support.agent import Agent
from tests.support.programs import wait_until
from tests.support.reporting import Desk

HELD, FAILING, CANNOT_PUBLISH = 65, 75, 73
DAY = 24 * HOUR


class Backup(Station):
    """A backup MX of two domains and two sources with a doubt table; a new domain is not in doubt."""

    def __init__(self, directory: Path) -> None:
        super().__init__(directory, "corp", "extra")
        self.relay_domains = ["example.com", "example.org"]
        self.postfix = {"doubt_map": f"lmdb:{directory}/doubt", "doubt_new": "0s"}
        self.schedule = {"max_age": "20h"}
        self.write("corp", people(40))
        self.write("extra", people(5, "example.org"))

    @property
    def files(self) -> Files:
        """The files beside the doubt table."""
        return Files(MapName.parse(str(self.postfix["doubt_map"])))

    def at(self, ago: float, code: int = 0) -> None:
        """Run so many seconds ago."""
        self.set_clock(time.time() - ago)
        self.sync(code=code)
        self._clock = None

    def status(self, code: int = 0) -> Status:  # type: ignore[override]
        """Return the status by the real command, and check that its text and JSON have the same alarms."""
        printed = self.say("status", code=code)
        status = msgspec.json.decode(self.say("status", "--json", code=code).stdout, type=Status)
        told = "".join(f"syncagent: {alarm.text}\n" for alarm in status.alarms)
        assert _ageless(printed.stderr) == _ageless(told)
        return status

    def doubt_lines(self, verb: str = "status", code: int = 0) -> list[str]:
        """Return the lines about doubt that a verb prints."""
        return [line for line in self.say(verb, code=code).stdout.splitlines() if line.startswith("doubt")]

    def begun_earlier(self, seconds: float) -> None:
        """Date back the begin of all recorded doubts."""
        with closing(Ledger(self.state)) as ledger:
            doubts = tuple(replace(doubt, since=doubt.since - seconds) for doubt in ledger.doubt.doubts)
            ledger.save_doubt(replace(ledger.doubt, doubts=doubts))


def _ageless(text: str) -> str:
    """Return alarms without the age of data, which differs between two commands."""
    return re.sub(r"is [0-9dhms]+ old", "is old", text)


@pytest.fixture
def mx(tmp_path: Path) -> Backup:
    """A backup MX in which nothing is in doubt: it has run 24 and 20 hours ago, and just now."""
    backup = Backup(tmp_path)
    for ago in (DAY, 20 * HOUR, 0):
        backup.at(ago)
    assert backup.status().doubt
    return backup


@pytest.fixture
def failing(mx: Backup) -> Backup:
    """The same, but corp has been failing for two hours."""
    mx.at(3 * HOUR)
    mx.break_source("corp")
    mx.at(2 * HOUR, FAILING)
    return mx


def kinds(status: Status) -> list[str]:
    """Return the kinds of the alarms."""
    return [alarm.kind for alarm in status.alarms]


# --- status


def test_without_a_doubt_table(mx: Backup) -> None:
    """One line says what that means; it is neither an alarm nor an exit status."""
    del mx.postfix["doubt_map"]
    status = mx.status()
    assert (status.doubt, status.alarms) == (None, ())
    lines = mx.say("status").stdout.splitlines()
    assert [line for line in lines if "550" in line] == [
        "unknown recipients get 550 even in doubt: postfix.doubt_map is not set"
    ]
    assert mx.doubt_lines("sync") == []


def test_before_the_first_run(tmp_path: Path) -> None:
    """The table is not there; that is not the same as no doubt."""
    mx = Backup(tmp_path)
    first, second = mx.doubt_lines(code=FAILING)
    assert first == f"doubt: lmdb:{tmp_path}/doubt is not there yet: the first sync makes it"
    assert second == "doubt switch: has never run; syncagent counts as dead: no run has completed yet"


def test_nothing_in_doubt(mx: Backup) -> None:
    """Status says so, when the switch last ran, and until when syncagent counts as alive without another run."""
    seen = time.time() - 90
    (mx.directory / "doubt-switch-seen").touch()
    os.utime(mx.directory / "doubt-switch-seen", (seen, seen))
    status = mx.status()
    assert status.doubt
    assert (status.doubt.groups, status.doubt.addresses, status.doubt.switched) == ((), 0, None)
    assert status.doubt.switch_seen == pytest.approx(seen, abs=1)
    written, limit = mx.files.alive()
    assert status.doubt.alive_until == written + limit > time.time()
    first, second = mx.doubt_lines()
    assert first == "doubt: no domain is in doubt; unknown recipients get 550"
    assert second.startswith("doubt switch: last ran 1m")
    assert second.endswith(f"; without a run syncagent counts as dead from {moment(written + limit)} on")
    assert mx.doubt_lines("sync") == []


def test_domains_in_doubt(failing: Backup) -> None:
    """Status, sync and plan say which domains are in doubt and why; the exit status of status is 0."""
    failing.postfix["doubt_always"] = ["example.org"]
    failing.sync(code=FAILING)
    status = failing.status()
    assert status.doubt
    found = {(group.name, group.domains, group.until) for group in status.doubt.groups}
    assert found == {("source-failing corp", ("example.com",), 0.0), ("always", ("example.org",), 0.0)}
    lines = failing.doubt_lines()
    assert "doubt: example.org: postfix.doubt_always has it, since " in "".join(lines)
    assert any(line.startswith("doubt: example.com: source corp is failing, since ") for line in lines)
    line = (
        "doubt: example.org (postfix.doubt_always has it); example.com (source corp is failing);"
        " unknown recipients get 450"
    )
    for verb in ("sync", "plan"):
        assert failing.doubt_lines(verb, FAILING) == [line]
    plan = json.loads(failing.say("plan", "--json", code=FAILING).stdout)
    assert {doubt["domain"] for doubt in plan["doubts"]} == {"example.com", "example.org"}


def test_a_reason_that_is_over(failing: Backup) -> None:
    """The line stays for five minutes after the reason was last true: until when is shown, and that it is over."""
    failing.sync(code=FAILING)
    failing.write("corp", people(40))
    (line,) = failing.doubt_lines("sync")
    assert line.startswith("doubt: example.com until ")
    assert line.endswith(" (over: source corp is failing); unknown recipients get 450")
    status = failing.status()
    assert status.doubt
    (group,) = status.doubt.groups
    assert group.over
    assert time.time() < group.until < time.time() + 6 * MINUTE
    assert "doubt: example.com: over: source corp is failing, since " in "".join(failing.doubt_lines())


def test_a_planned_change_shows_doubt(failing: Backup) -> None:
    """A plan that would change the map shows the recorded doubt, and publishes none."""
    table = failing.files.index.stat()
    failing.write("extra", people(6, "example.org"))
    (line,) = failing.doubt_lines("plan", FAILING)
    assert line == "doubt: example.com (source corp is failing); unknown recipients get 450"
    assert failing.files.index.stat() == table


def test_removed_addresses(mx: Backup) -> None:
    """Status has their number and the end of the last; a run in which no domain is in doubt has a line of its own."""
    mx.write("corp", people(38))
    (line,) = mx.doubt_lines("sync")
    assert line.startswith("doubt: removed recipients, the first until ")
    status = mx.status()
    assert status.doubt
    assert status.doubt.addresses == 2
    assert status.doubt.addresses_until == pytest.approx(time.time() + 3 * DAY, abs=MINUTE)
    until = moment(status.doubt.addresses_until)
    assert f"doubt: 2 removed addresses, until {until} at the latest" in mx.doubt_lines()


def test_the_switch_has_fired(mx: Backup) -> None:
    """Before any run has seen the mark: every domain, since when, and why; after nine hours an error, the exit 0."""
    at = int(time.time() - 9 * HOUR)
    (mx.directory / "doubt-switched").write_text(f"{at} dead\n", encoding="ascii")
    status = mx.status()
    assert status.doubt
    assert status.doubt.switched
    assert (status.doubt.switched.at, status.doubt.switched.why) == (at, "dead")
    (group,) = status.doubt.groups
    assert (group.kind, group.every, group.since) == ("dead", True, at)
    assert [(alarm.kind, alarm.severity) for alarm in status.alarms] == [("doubt", "error")]
    lines = mx.doubt_lines()
    assert lines[-1] == (
        f"doubt switch: fired at {moment(at)}: syncagent had given no sign of life;"
        " every domain is in doubt until a run asks every source"
    )
    (mx.directory / "doubt-switched").write_text("rubbish", encoding="ascii")
    assert mx.doubt_lines()[-1].startswith("doubt switch: fired: syncagent had given no sign of life;")


def test_doubt_by_hand_that_no_run_has_seen(mx: Backup) -> None:
    """The file counts at once, as it does for the table; one that cannot be read is of every domain."""
    until = int(time.time() + HOUR)
    (mx.directory / "by-hand").write_text(f"example.org\t{until}\tann\t0\nexample.com\t5\tbob\t1\n", encoding="ascii")
    status = mx.status()
    assert status.doubt
    (group,) = status.doubt.groups
    assert (group.name, group.domains, group.until) == ("by-hand ann", ("example.org",), until)
    (mx.directory / "by-hand").unlink()
    (mx.directory / "by-hand").mkdir()
    status = mx.status()
    assert status.doubt
    assert [group.every for group in status.doubt.groups] == [True]


def test_syncagent_counts_as_dead(mx: Backup) -> None:
    """Past the limit the line says since when."""
    mx.files.touch(time.time() - 2 * HOUR, HOUR)
    written, limit = mx.files.alive()
    assert mx.doubt_lines()[-1].endswith(f"; syncagent counts as dead since {moment(written + limit)}")


def test_five_thousand_domains_are_one_line(tmp_path: Path) -> None:
    """Whatever their number, domains with the same reason are one line in status and in sync."""
    mx = Backup(tmp_path)
    mx.relay_domains = [f"d{number:04}.example" for number in range(5000)]
    mx.write("corp", {f"info@{domain}" for domain in mx.relay_domains})
    del mx.sources["extra"]
    mx.sync()
    mx.break_source("corp")
    (line,) = [line for line in mx.doubt_lines("sync", FAILING) if "source corp" in line]
    assert "all 5,000 relay domains (source corp is failing); " in line
    (line,) = [line for line in mx.doubt_lines() if "source corp" in line]
    assert line.startswith("doubt: all 5,000 relay domains: source corp is failing, since ")
    (line,) = lag_lines(mx)
    assert line.startswith("lag: all 5,000 relay domains: a new mailbox may be refused for ")


# --- the lag


def lag_lines(mx: Backup) -> list[str]:
    """Return the lines about the lag."""
    return [line for line in mx.say("status").stdout.splitlines() if line.startswith("lag")]


def test_the_lag_without_an_agent(mx: Backup) -> None:
    """It is the longest time between the last runs, which are known where there is a doubt table."""
    (line,) = lag_lines(mx)
    assert line.startswith("lag: example.com, example.org: a new mailbox may be refused for 20h")
    assert line.endswith(", the longest time between the last runs")
    lags = mx.status().lags
    assert [one.domain for one in lags] == ["example.com", "example.org"]
    assert [one.seconds for one in lags] == pytest.approx([20 * HOUR] * 2, abs=MINUTE)
    del mx.postfix["doubt_map"]
    assert (lag_lines(mx), mx.status().lags) == ([], ())


def test_the_lag_with_an_agent(mx: Backup) -> None:
    """It is that of the slowest source of a domain: files are watched. Domains with the same lag are one line."""
    with Agent(mx.configure(), env=mx.env):
        assert lag_lines(mx) == [
            "lag: example.com: a new mailbox may be refused for some seconds: source corp is watched",
            "lag: example.org: a new mailbox may be refused for some seconds: source extra is watched",
        ]
    assert wait_until(lambda: not mx.status().running)


# --- a table that cannot be published


@pytest.fixture
def unpublishable(mx: Backup) -> Backup:
    """A backup MX whose doubt table cannot be published, since postmap fails."""
    mx.own_postmap()
    mx.sync()
    mx.postmap_fails.touch()
    mx.break_source("corp")
    return mx


def test_a_table_that_cannot_be_published(unpublishable: Backup) -> None:
    """73 with a message from sync and status; the alarm ends with the next run that publishes it."""
    done = unpublishable.say("sync", code=CANNOT_PUBLISH)
    assert f"syncagent: doubt table lmdb:{unpublishable.directory}/doubt: index: postmap failed" in done.stderr
    status = unpublishable.status(CANNOT_PUBLISH)
    assert kinds(status) == ["doubt-not-in-force"]
    assert status.alarms[0].severity == "error"
    assert "/doubt is not in force, removals are held: index: postmap failed" in status.alarms[0].text
    unpublishable.postmap_fails.unlink()
    unpublishable.sync(code=FAILING)
    assert unpublishable.status().alarms == ()


# --- causes that have an alarm of their own


@pytest.fixture
def held(mx: Backup) -> Backup:
    """A backup MX with a held catch-all, held removals and a canary in no source, all for nine hours."""
    mx.limits["canaries"] = ["canary@example.com"]
    mx.write("corp", people(20))
    mx.write("extra", people(5, "example.org") | {"@example.org"})
    mx.at(9 * HOUR, HELD)
    return mx


def test_a_hold_is_told_as_a_hold(held: Backup) -> None:
    """Held removals, catch-alls and canaries are in doubt, and have their alarms, not that of doubt as well."""
    status = held.status(HELD)
    assert status.doubt
    assert {group.kind for group in status.doubt.groups} == {"hold", "canary", "unlisted"}
    assert sorted(kinds(status)) == ["canary", "catch-all", "held"]
    assert status.doubt.ages == {}


def test_a_stale_source_is_told_as_stale(failing: Backup) -> None:
    """With the default of max_age its data is stale before the doubt is an hour old."""
    failing.schedule = {}
    status = failing.status(FAILING)
    assert status.doubt
    assert [group.name for group in status.doubt.groups] == ["source-failing corp"]
    assert set(kinds(status)) == {"stale"}


def test_a_first_run_that_lacks_something(tmp_path: Path) -> None:
    """That nothing is published yet is one alarm, however long it lasts: not also that every domain is empty."""
    mx = Backup(tmp_path)
    mx.relay_domains.append("example.net")
    mx.at(2 * HOUR, HELD)
    assert kinds(mx.status(HELD)) == ["incomplete"]


def test_removals_that_wait_for_another_source(tmp_path: Path) -> None:
    """They need nobody, but their domain is in doubt: that is told after an hour."""
    mx = Backup(tmp_path)
    for ago in (DAY, 20 * HOUR, 3 * HOUR):
        mx.at(ago)
    mx.break_source("extra")
    mx.write("corp", people(39))
    mx.at(2 * HOUR, FAILING)
    alarms = {alarm.subject: alarm for alarm in mx.status().alarms}
    assert alarms.keys() == {"source-failing extra", "hold source-failing"}
    assert "example.com: removals are held: source-failing" in alarms["hold source-failing"].text


# --- alarms: notifications, log, metrics


@pytest.fixture
def told(failing: Backup) -> Path:
    """Have the agent notify a program, metrics in a file; return the file with the events."""
    program, told = failing.directory / "tell", failing.directory / "told"
    program.write_text(f"#!/bin/sh\n{{ cat; echo; }} >> {told}\n", encoding="utf-8")
    program.chmod(0o755)
    (failing.directory / "textfiles").mkdir()
    textfile = failing.directory / "textfiles" / "syncagent.prom"
    failing.extra = f'[notify]\ncommand = ["{program}"]\n[metrics]\ntextfile = "{textfile}"\n'
    return told


@pytest.fixture
def desk(failing: Backup, told: Path) -> Desk:
    """The agent of the backup MX whose source corp has been failing for two hours."""
    assert told
    return Desk(failing)


def run(desk: Desk) -> None:
    """Do a run and wait until everything is told."""
    desk.run()
    notifier = desk.reporter._notifier
    assert notifier
    assert wait_until(lambda: not notifier._under_way)


def events(told: Path) -> list[dict[str, Any]]:
    """Return the notifications."""
    return [json.loads(line) for line in told.read_text("utf-8").splitlines()] if told.exists() else []


def short(told: Path) -> list[tuple[str, str, str]]:
    """Return the notifications in short."""
    return [(one["event"], f"{one['kind']} {one['subject']}", one["severity"]) for one in events(told)]


def test_doubt_is_told_as_a_warning_then_as_an_error(desk: Desk, failing: Backup, told: Path) -> None:
    """Each once, by the same subject, and once when it is over."""
    run(desk)
    run(desk)
    name = "doubt source-failing corp"
    assert short(told) == [("raised", name, "warning")]
    assert "unknown recipients get 450: example.com: source corp is failing" in events(told)[0]["text"]
    failing.begun_earlier(6 * HOUR)
    desk.restart()
    run(desk)
    run(desk)
    assert short(told) == [("raised", name, "warning"), ("raised", name, "error")]
    failing.write("corp", people(40))
    run(desk)
    run(desk)
    assert short(told)[2:] == [("recovered", name, "error")]
    assert not desk.events("needs a person", level="error", kind="stale")
    levels = [line["level"] for line in desk.events("needs a person")]
    assert levels == ["warning", "error"]


def test_an_empty_domain_is_told_each_week(desk: Desk, failing: Backup, told: Path) -> None:
    """A warning, never an error; when it was told is known to the next agent."""
    failing.write("corp", people(40))
    failing.relay_domains.append("example.net")
    failing.at(9 * HOUR)
    told.unlink(missing_ok=True)
    run(desk)
    run(desk)
    assert short(told) == [("raised", "doubt empty", "warning")]
    desk.restart()
    run(desk)
    assert len(short(told)) == 1
    date_back(failing, 7 * DAY - HOUR)
    desk.restart()
    run(desk)
    assert len(short(told)) == 1, "not a week ago yet"
    date_back(failing, 2 * HOUR)
    desk.restart()
    run(desk)
    assert short(told) == [("raised", "doubt empty", "warning")] * 2
    run(desk)
    assert len(short(told)) == 2


def date_back(mx: Backup, seconds: float) -> None:
    """Have the agent's file say that everything was told earlier."""
    state = read_agent(mx.state)
    assert state
    told_at = {way: {key: at - seconds for key, at in times.items()} for way, times in state.told_at.items()}
    (mx.state / AGENT_FILE).write_bytes(msgspec.json.encode(replace(state, told_at=told_at)))


def test_a_file_of_an_earlier_agent(tmp_path: Path) -> None:
    """Alarms told by an agent that knew neither severity nor repetition count as told."""
    alarm = {"kind": "held", "subject": "example.com percent", "text": "held"}
    old = {"pid": 1, "started": 2.0, "told": {"command": {"held example.com percent": alarm}}}
    (tmp_path / AGENT_FILE).write_text(json.dumps(old), encoding="utf-8")
    state = read_agent(tmp_path)
    assert isinstance(state, AgentState)
    (found,) = state.told["command"].values()
    assert (found.severity, found.repeat, state.told_at) == ("error", 0.0, {})


def test_the_line_for_systemd(failing: Backup) -> None:
    """A warning needs nobody yet; an error comes first."""
    assert summary(failing.status()).startswith("45 recipients; warning: in doubt since ")
    failing.write("extra", people(5, "example.org"))
    failing.write("corp", people(20))
    failing.at(0, HELD)
    (failing.directory / "doubt-switched").write_text(f"{time.time() - 2 * HOUR:.0f} boot\n", encoding="ascii")
    status = failing.status(HELD)
    assert {alarm.severity for alarm in status.alarms} == {"warning", "error"}
    assert summary(status).startswith("45 recipients; needs a person: held: ")


def test_the_log(desk: Desk, failing: Backup) -> None:
    """Begin and end of doubt are logged once each, with the domains, the first also with the reasons."""
    failing.write("corp", people(40))
    failing.at(10 * MINUTE)
    run(desk)
    desk.clear()
    failing.break_source("corp")
    run(desk)
    run(desk)
    (line,) = desk.events("doubt")
    assert (line["level"], line["domains"], line["count"]) == ("warning", ["example.com"], 1)
    assert line["reasons"] == ["source corp is failing"]
    failing.write("corp", people(40))
    run(desk)
    assert not desk.events("doubt ended")
    with closing(Ledger(failing.state)) as ledger:  # as if it had recovered some minutes ago
        doubts = tuple(replace(doubt, seen=doubt.seen - HOUR) for doubt in ledger.doubt.doubts)
        ledger.save_doubt(replace(ledger.doubt, doubts=doubts, covered=0.0, narrowed=0.0))
    run(desk)
    run(desk)
    (line,) = desk.events("doubt ended")
    assert (line["level"], line["domains"], line["count"]) == ("info", ["example.com"], 1)
    assert len(desk.events("doubt")) == 1


def test_doubt_that_is_wanted_is_no_warning_in_the_log(mx: Backup) -> None:
    """What the configuration asks for is logged as information."""
    desk = Desk(mx)
    mx.postfix["doubt_always"] = ["example.org"]
    desk.run()
    (line,) = desk.events("doubt")
    assert (line["level"], line["reasons"]) == ("info", ["postfix.doubt_always has it"])


def metrics(mx: Backup) -> dict[str, float]:
    """Return each sample of the metrics about doubt, by its name and the value of its label."""
    text = (mx.directory / "textfiles" / "syncagent.prom").read_text("utf-8")
    samples = [sample for family in text_string_to_metric_families(text) for sample in family.samples]
    return {" ".join([one.name, *one.labels.values()]): one.value for one in samples if "doubt" in one.name}


def test_metrics(desk: Desk, failing: Backup, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each relay domain has 0 or 1, and the age of a doubt that nobody wants; and when the switch was last seen."""
    (failing.directory / "doubt-switch-seen").touch()
    failing.postfix["doubt_always"] = ["example.org"]
    run(desk)
    found = metrics(failing)
    assert found.pop("syncagent_domain_doubt_seconds example.com") == pytest.approx(2 * HOUR, abs=5 * MINUTE)
    assert found.pop("syncagent_doubt_switch_seen_timestamp_seconds") == pytest.approx(failing.files.switch_seen())
    assert found == {
        "syncagent_domain_in_doubt example.com": 1,
        "syncagent_domain_in_doubt example.org": 1,
        "syncagent_domain_doubt_seconds example.org": 0,
        "syncagent_doubt_in_force": 1,
    }
    failing.own_postmap()
    failing.postmap_fails.touch()
    monkeypatch.setenv("PATH", failing.env["PATH"])
    failing.postfix["doubt_always"] = ["example.com"]
    run(desk)
    assert metrics(failing)["syncagent_doubt_in_force"] == 0
    assert desk.events("needs a person", kind="doubt-not-in-force", level="error")
    del failing.postfix["doubt_map"], failing.postfix["doubt_always"]
    run(desk)
    assert metrics(failing) == {}


# --- history


def test_history_has_the_events(mx: Backup) -> None:
    """Doubt by hand, by the switch and by a failure, with their ends; in JSON they can be read as runs are."""
    mx.say("doubt", "example.org", code=0)
    mx.say("doubt", "example.org", "--clear", code=0)
    mx.break_source("corp")
    mx.sync(code=FAILING)
    (mx.directory / "doubt-switched").write_text(f"{time.time():.0f} dead\n", encoding="ascii")
    mx.sync(code=FAILING)
    printed = mx.say("history", "--json", "--since", "1h").stdout
    found = [run for run in msgspec.json.decode(printed, type=list[Run]) if not run.run_id]
    own = [run for run in found if run.subject == "example.org"]
    assert [(run.status, run.detail) for run in own][:3] == [
        ("doubt-by-hand", own[0].detail),
        ("doubt-begins", f"by-hand {own[0].detail}"),
        ("doubt-cleared", ""),
    ]
    assert {(run.status, run.subject) for run in found} >= {
        ("doubt-ends", "example.org"),
        ("doubt-begins", "example.com"),
        ("doubt-switch", "dead"),
    }
    assert all(set(one) >= RUN for one in json.loads(printed)), "an event has what a reader of runs looks for"
    assert [run.at for run in found] == sorted(run.at for run in found)
    text = mx.say("history", "--since", "1h").stdout
    assert f"doubt by hand begins: example.org ({found[0].detail})\n" in text
    assert "doubt by hand ends: example.org\n" in text
    assert "doubt begins: example.com (source corp is failing)\n" in text
    assert "doubt begins: every domain (syncagent had given no sign of life)\n" in text


RUN = {"run_id", "at", "status", "exit_code", "added", "removed", "error", "changes", "first_import"}
"""The fields of a run as 0.1.0 prints them."""


def test_history_of_one_domain(mx: Backup) -> None:
    """--address with a domain has its events and those of all; with an address, none."""
    mx.say("doubt", "example.org", code=0)
    mx.say("doubt", "--all", code=0)
    mx.write("corp", people(41))
    mx.sync()
    of = {name: mx.say("history", "--since", "1h", "--address", name).stdout for name in ("example.org", "example.com")}
    assert "doubt by hand begins: example.org" in of["example.org"]
    assert "doubt by hand begins: example.org" not in of["example.com"]
    assert all("doubt by hand begins: every domain" in text for text in of.values())
    assert "doubt" not in mx.say("history", "--since", "1h", "--address", "user040@example.com").stdout
