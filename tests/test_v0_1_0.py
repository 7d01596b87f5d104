"""What syncagent 0.1.0 left is read as it is: nothing is asked for anew, and nobody is alarmed, by an upgrade.

``tests/v0_1_0`` has state directories, maps and configurations as 0.1.0 wrote them, and what 0.1.0 itself said of
them. Facts are compared and not words: a message may be put otherwise, and what is printed may have further keys.
"""

import hashlib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.agent import Agent
from tests.support.clock import clock_at
from tests.support.need import need_postmap
from tests.support.slapd import need_slapd
from tests.v0_1_0.restore import MAP_TYPES, RIPE, Restored, content, expected, restore, shortened
from tests.v0_1_0.servers import Directory, Primary

HELD, CANNOT_BE_APPROVED = 65, 64
TIMES, SOURCE_TIMES = ("last_run", "last_change"), ("last_success", "failing_since")
APPROVABLE = [(name, one) for name, said in expected().items() for one in said["approve"]]


@pytest.fixture(scope="module")
def primary() -> Iterator[Primary]:
    """The primary, which has shut one of its doors."""
    with Primary() as server:
        server.open = False
        yield server


@pytest.fixture(scope="module")
def directory() -> Iterator[Directory]:
    """The directory, with the cookies of the one that 0.1.0 asked."""
    need_slapd()
    server = Directory()
    server.take_over(content("directory.ldif"))
    with server:
        yield server


@pytest.fixture
def servers(request: pytest.FixtureRequest, name: str, primary: Primary) -> dict[str, str]:
    """Where the sources' servers are; the directory runs only for who asks it."""
    primary.asked.clear()
    places = {"http": primary.place}
    if name == "ldap":
        ldap: Directory = request.getfixturevalue("directory")
        ldap.forget_operations()
        places["ldap"] = ldap.place
    return places


@pytest.fixture
def restored(name: str, servers: dict[str, str], tmp_path: Path) -> Restored:
    """A scenario in its place."""
    need_postmap(MAP_TYPES[name])
    return restore(name, tmp_path, servers)


REJECTING = {"files": ("lines", "puv5pkew"), "rejects": ("corp", "wc5jc4jr")}
"""Scenarios with rejected entries: the source, and the ID of the hold that an upgrade makes of its two entries."""


def upgraded(name: str, facts: dict[str, Any], *, recorded: bool = True) -> dict[str, Any]:
    """Return what 0.1.0 said, and with it the one alarm that an upgrade may cause: of rejected entries of a source.

    0.1.0 knew their number alone, which is no approval, and had a note of it. Its holds for that stay as they are.
    ``recorded``: the hold has an ID.
    """
    facts = read_again(name, facts)
    if name not in REJECTING:
        return facts
    source, hold_id = REJECTING[name]
    own = {
        "id": hold_id if recorded else "",
        "domain": f"rejected:{source}",
        "count": 2,
        "since": NOW,
        "approved_at": 0.0,
        "reasons": [("rejected", True)],
    }
    others = [hold | {"reasons": [("rejected", True)]} for hold in facts["holds"]]
    facts = facts | {"exit_code": HELD, "holds": [own, *others]}
    if "notes" in facts:
        facts["notes"] = (0, facts["notes"][1])
    if "alarms" in facts:
        facts["alarms"] = sorted([*facts["alarms"], ("held", f"rejected:{source} rejected")])
    return facts


IGNORED = {"passwd": 1}
"""Values that the sources of the scenario "files" ignore, by source."""
SERVED = {"ldap", "http"}
"""Scenarios with servers, of which nothing is asked that 0.1.0 would not have asked."""


def read_again(name: str, facts: dict[str, Any]) -> dict[str, Any]:
    """Return what 0.1.0 said, after a local file was read again by newer rules of what a value means."""
    if name in SERVED or "sources" not in facts:
        return facts
    return facts | {"sources": [_whole(one) if one["state"] == "same" else one for one in facts["sources"]]}


def _whole(source: dict[str, Any]) -> dict[str, Any]:
    """Return what a source says that is read again: also what it ignores, which "same" does not count."""
    ignored = {"ignored": IGNORED.get(source["name"], 0)} if "ignored" in source else {}
    return source | {"state": "whole"} | ignored


NOW = "now"


def hold_facts(hold: dict[str, Any]) -> dict[str, Any]:
    """Return what a hold is, without its words."""
    facts = {key: hold[key] for key in ("id", "domain", "count", "since", "approved_at")}
    if hold["domain"].startswith("rejected:"):  # begun by a run of this program
        facts["since"] = NOW
    return facts | {"reasons": [(reason["kind"], reason["approvable"]) for reason in hold["reasons"]]}


def status_facts(status: dict[str, Any]) -> dict[str, Any]:
    """Return what a status says, without words and ages."""
    facts = {key: status[key] for key in ("exit_code", "map", "recipients", "domains", *TIMES)}
    source_keys = ("name", "state", "mode", "entries", "rejected", "stale", "kind", *SOURCE_TIMES)
    facts["sources"] = [{key: one[key] for key in source_keys} for one in status["sources"]]
    facts["holds"] = [hold_facts(hold) for hold in status["holds"]]
    facts["alarms"] = sorted((alarm["kind"], alarm["subject"]) for alarm in status["alarms"])
    return facts | {"agent": status["agent"] and agent_facts(status["agent"])}


def agent_facts(agent: dict[str, Any]) -> dict[str, Any]:
    """Return what the agent left, without words."""
    last = {key: agent["last"][key] for key in ("run_id", "finished", "status", "exit_code")}
    told = {way: [(one["kind"], one["subject"]) for one in alarms.values()] for way, alarms in agent["told"].items()}
    return {key: agent[key] for key in ("pid", "started", "runs")} | {"last": last, "told": told}


def in_minutes(facts: dict[str, Any]) -> dict[str, Any]:
    """Return the facts of a status with times in whole minutes: a run takes some seconds of the last one."""
    sources = [one | {key: round(one[key] / 60) for key in SOURCE_TIMES} for one in facts["sources"]]
    return facts | {key: round(facts[key] / 60) for key in TIMES} | {"sources": sources}


def result_facts(result: dict[str, Any]) -> dict[str, Any]:
    """Return what came of a run, without words, its name and how long it took."""
    plan_keys = ("held_catch_alls", "absent_canaries", "out_of_scope", "added_sample", "removed_sample", "in_grace")
    source_keys = ("name", "state", "entries", "rejected", "ignored", "kind", "mode")
    plan = result["plan"]
    domain_keys = ("domain", "before", "added", "removed", "kept", "after")
    return {
        **{key: result[key] for key in ("status", "exit_code", "map", "recipients", "index", "rejected")},
        **{key: plan[key] for key in (*plan_keys, "domains_added", "domains_removed")},
        "domains": [{key: one[key] for key in domain_keys} for one in plan["domains"]],
        "holds": [hold_facts(hold) for hold in plan["holds"]],
        "sources": [{key: one[key] for key in source_keys} for one in result["sources"]],
        "rejects": [{key: one[key] for key in ("spelled", "source", "key")} for one in result["reject_sample"]],
        "notes": (len(result["notes"]), [len(one["notes"]) for one in result["sources"]]),
        "failed": bool(result["error"]),
    }


def run_facts(run: dict[str, Any]) -> dict[str, Any]:
    """Return a run of the history, without words."""
    keys = ("run_id", "at", "status", "exit_code", "added", "removed", "changes", "first_import")
    return {key: run[key] for key in keys} | {"failed": bool(run["error"])}


def files_of(restored: Restored) -> dict[str, str]:
    """Return the digest of each file of the state and the maps."""
    found = (file for file in sorted(restored.directory.rglob("*")) if file.is_file())
    return {str(file): hashlib.sha256(file.read_bytes()).hexdigest() for file in found}


@pytest.mark.parametrize("name", MAP_TYPES)
def test_it_is_read_as_it_was_left(name: str, restored: Restored) -> None:
    """Status, history and plan say what those of 0.1.0 said, and leave every file as it is."""
    said, before = expected()[name], files_of(restored)
    assert status_facts(restored.run("status")) == status_facts(said["status"])
    history = shortened(restored.run("history"))
    assert [run_facts(run) for run in history] == [run_facts(run) for run in said["history"]]
    how = {"status": "", "index": ""}  # that nothing changes may be seen at once, or by comparing
    planned = upgraded(name, result_facts(said["plan"]), recorded=False)
    assert result_facts(restored.run("plan")) | how == planned | how
    assert files_of(restored) == before


@pytest.mark.parametrize("name", MAP_TYPES)
def test_the_first_run_after_the_upgrade(
    request: pytest.FixtureRequest, name: str, restored: Restored, primary: Primary
) -> None:
    """It comes to what one more of 0.1.0's came to: as little is asked, the tables stay, holds stay with ID and age."""
    said, before = expected()[name], restored.tables()
    assert result_facts(restored.run("sync")) == upgraded(name, result_facts(said["sync"]))
    assert primary.requests() == said["requests"]
    if name == "ldap":
        assert request.getfixturevalue("directory").sent() == said["sent"]
    assert (restored.tables() == before) == said["untouched"], "the tables were written anew"
    assert restored.tables()["map"][1] == said["map"]
    after = upgraded(name, status_facts(said["status after"]))
    assert in_minutes(status_facts(restored.run("status"))) == in_minutes(after)
    old = [run_facts(run) for run in said["history"]]
    assert [run_facts(run) for run in shortened(restored.run("history"))][: len(old)] == old


@pytest.mark.parametrize(("name", "hold"), APPROVABLE)
def test_a_hold_is_approved(name: str, hold: str, restored: Restored) -> None:
    """`approve` takes the ID that 0.1.0 gave, and lets go what 0.1.0 would have; or refuses it as 0.1.0 did."""
    said, before = expected()[name]["approve"][hold], restored.recipients()
    result = restored.run("approve", hold)
    if said["exit_code"] == CANNOT_BE_APPROVED:
        assert result["exit_code"] == CANNOT_BE_APPROVED
        assert restored.recipients() == before
    else:
        assert result_facts(result) == upgraded(name, result_facts(said))
        assert len(restored.recipients()) == result["recipients"]


@pytest.mark.parametrize("name", ["holds"])
def test_all_holds_are_approved_at_once(name: str, restored: Restored) -> None:
    """A relay domain goes with its recipients, and the rest of what was held."""
    said = expected()[name]
    result = restored.run("approve", *said["approve"])
    assert result_facts(result) == upgraded(name, result_facts(said["approve all"]))
    assert result["plan"]["domains_removed"] == ["leaving.test"]
    assert not any("leaving.test" in name for name in restored.recipients())


@pytest.mark.parametrize("name", ["files"])
def test_a_grace_goes_on(name: str, restored: Restored) -> None:
    """Who was missing an hour in all goes; who is missing for less stays, though the program is another one.

    By default nobody goes within a day of the upgrade, since nothing proves that the files are whole.
    """
    two, third, before = (
        {"user00000@example.com", "user00001@example.com"},
        "user00011@example.org",
        "before@example.com",
    )
    assert {*two, third, before} <= restored.recipients()
    waits = restored.run("sync", after=RIPE[name])
    assert (waits["exit_code"], waits["plan"]["in_grace"], waits["plan"]["removed_sample"]) == (HELD, 4, [])
    assert {one["state"] for one in waits["sources"]} == {"whole"}  # read again by newer rules: the confirming look
    text = restored.config.read_text("utf-8")
    text = re.sub(r"^(\[sources\..*\])$", r'\1\nconfirm_after = "0s"', text, flags=re.MULTILINE)
    restored.config.write_text(text, "utf-8")
    ripe, said = (
        result_facts(restored.run("sync", after=RIPE[name] + 10)),
        upgraded(name, result_facts(expected()[name]["ripe"])),
    )
    assert {one["state"] for one in ripe.pop("sources")} == {"same"}
    assert ripe == {key: value for key, value in said.items() if key != "sources"}
    assert not {*two, before} & restored.recipients()
    assert third in restored.recipients()


@pytest.mark.parametrize("name", ["canary"])
def test_an_approval_that_waited_counts(name: str, restored: Restored) -> None:
    """What a person let go by 0.1.0 goes once the canary is back, unasked."""
    approved = {f"user{number:05}@example.com" for number in range(20, 30)}
    assert approved <= restored.recipients()
    with (restored.directory / "corp.txt").open("a", encoding="utf-8") as file:
        file.write("canary@example.com\n")
    result = restored.run("sync")
    assert (result["exit_code"], result["plan"]["holds"]) == (0, [])
    assert not approved & restored.recipients()


@pytest.mark.parametrize("name", ["agent"])
def test_the_agent_tells_nothing_twice(name: str, restored: Restored) -> None:
    """An agent that takes over knows what was told, and who, and counts on."""
    told, left = restored.directory / "told", expected()[name]["status"]["agent"]
    before = told.read_text("utf-8")
    with Agent(restored.config, env=clock_at(restored.scene.clock + 60)) as agent:
        agent.run_now()
    assert told.read_text("utf-8") == before != ""
    status = restored.run("status", after=120)
    assert agent_facts(status["agent"])["told"] == agent_facts(left)["told"]
    assert status["exit_code"] == HELD
    assert agent.events("unchanged")
    assert not agent.events("note")
