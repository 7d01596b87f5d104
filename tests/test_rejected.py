"""Entries that cannot be read as recipients are doubt: told everywhere until a person has dealt with each of them."""

import contextlib
import json
import sqlite3
import tomllib
from collections.abc import Iterable
from pathlib import Path

import pytest

from syncagent.model import Hold, SyncResult
from syncagent.state import fields, rejects, snapshot
from syncagent.sync import rejected
from syncagent.values import spellings
from syncagent.values.patterns import literal, matched_address, matches
from tests.scenario import Scenario, people
from tests.support.agent import Agent

HELD, USAGE, FAILING, CONFIG = 65, 64, 75, 78
NEW = "new@example.com new colleague"
SECOND = "second@example.com; boss"


def write(scenario: Scenario, lines: Iterable[str], source: str = "corp") -> None:
    """Replace what a source says; its lines may be anything."""
    scenario.file(source).write_bytes("".join(f"{line}\n" for line in lines).encode(errors="surrogateescape"))


def held(result: SyncResult) -> Hold:
    """Return the one hold of rejected entries of a result."""
    (hold,) = [hold for hold in result.plan.holds if hold.rejecting]
    return hold


@pytest.fixture
def one(tmp_path: Path) -> Scenario:
    """A backup MX that has published ten people of its one source."""
    scenario = Scenario(tmp_path)
    scenario.write("corp", people(10))
    scenario.sync()
    return scenario


# --- the first publication


def test_the_first_map_is_not_published_with_rejected_entries(tmp_path: Path) -> None:
    """It is incomplete, and says which line and what to write; --accept-incomplete publishes, and they are held."""
    scenario = Scenario(tmp_path)
    write(scenario, [*sorted(people(10)), NEW])
    result = scenario.sync_unchecked(HELD)
    assert (result.status, result.plan.holds, scenario.published()) == ("incomplete", (), set())
    (lack,) = result.missing_facts
    assert (lack.kind, lack.subject, lack.count) == ("rejected", "corp", 1)
    assert f'line 11 of {scenario.file("corp")}: "{NEW}" has white space outside quotes' in result.missing_for_first[0]
    assert "on a line of its own with #" in result.missing_for_first[0]
    scenario.say("sync", "--accept-incomplete", code=HELD)
    assert scenario.published() == people(10)
    again = scenario.sync_unchecked(HELD)
    assert (again.status, held(again).count) == ("unchanged", 1)


def test_a_map_that_was_there_is_adopted_with_rejected_entries(tmp_path: Path) -> None:
    """What is published already is not held back; the entries are held from the first run on."""
    scenario = Scenario(tmp_path)
    scenario.map.write_text("user000@example.com OK\nuser001@example.com OK\n")
    write(scenario, [*sorted(people(10)), NEW])
    assert held(scenario.sync_unchecked(HELD)).count == 1
    assert scenario.published() == people(10)


def test_more_than_half_rejected_is_a_failure(tmp_path: Path) -> None:
    """A source with more rejected entries than others is no list of recipients; half of each is one."""
    scenario = Scenario(tmp_path)
    lines = [*sorted(people(3)), *(f"dn: CN={number}" for number in range(4))]
    write(scenario, lines)
    result = scenario.sync_unchecked(FAILING)
    assert "4 of its 7 entries cannot be read as recipients, more than half" in result.sources[0].error
    assert "line 4 of " in result.sources[0].error
    write(scenario, lines[:-1])
    assert scenario.sync_unchecked(HELD).sources[0].state == "whole"
    write(scenario, lines)
    scenario.sources["corp"]["ignore"] = ["dn: *"]
    scenario.sync_unchecked(0)
    assert scenario.published() == people(3)


LDIF = "dn: CN=Anna,DC=example,DC=com\nproxyAddresses: SMTP:anna.with.a.long.\n name@example.com\n"
HTML = "<html>\n<p>Please write to\nsupport@example.com\n</p></html>\n"
VPASSWD = "anna:$1$x$y:1:0:Anna:/:NOQUOTA:clearpw\nbob:$1$x$y:1:0:Bob:/:NOQUOTA\n"
FIELD: dict[str, tuple[str, dict[str, object], int]] = {
    "03 other addresses in comments": (
        "anna@example.com\nbob@example.com   # bob@example.net\ncarl@example.com\t; c@example.net\n",
        {},
        2,
    ),
    "10 and 72 LDIF as lines": (LDIF, {}, 1),
    "14 an Exim list": ('bob\nanna: yes\n"carl": yes\n', {"domains": ["example.com"]}, 2),
    "34 Windows-1252": ("anna@example.com\nbob@example.com\nj\udcf6rg@example.com\n", {}, 3),
    "36 and 70 a web page": (HTML, {}, 1),
    "44 two addresses in a cell": (
        "mail\nanna@example.com;a@example.com\nbob@example.com\n",
        {"format": "csv", "column": "mail"},
        2,
    ),
    "45 half of the lines": ("u0@example.com\nu1@example.com  dept 1\n", {}, 2),
    "60 vpasswd": (VPASSWD, {"format": "passwd", "domains": ["example.com"], "min_uid": 0}, 1),
}
"""Inputs from the field, read in the wrong format or only in part: text, keys, and a line that is told of."""


@pytest.mark.parametrize("name", FIELD)
def test_what_is_only_understood_in_part_is_no_first_map(tmp_path: Path, name: str) -> None:
    """Nothing is published, and the message names a line and says what to write instead."""
    scenario = Scenario(tmp_path)
    text, scenario.sources["corp"], line = FIELD[name]
    scenario.file("corp").write_bytes(text.encode(errors="surrogateescape"))
    done = scenario.say("sync", code=None)
    assert done.returncode in {HELD, FAILING}
    assert scenario.published() == set()
    assert f"line {line} of {scenario.file('corp')}: " in done.stdout
    assert "cannot be read as recipients" in done.stdout
    assert "clearpw" not in done.stdout + done.stderr


# --- the hold, and its approval


def test_a_rejected_entry_is_held_until_it_is_approved(one: Scenario) -> None:
    """It stands with an ID from its content, in each run; an approval is of the entry, and another one is held anew."""
    write(one, [*sorted(people(10)), NEW])
    first = held(one.sync_unchecked(HELD))
    assert (first.domain, first.rejecting, first.count) == ("rejected:corp", "corp", 1)
    assert len(first.id) >= 8
    assert set(first.id) <= set("abcdefghijklmnopqrstuvwxyz234567")
    assert held(one.sync_unchecked(HELD)).id == first.id
    one.say("approve", first.id)
    assert not one.sync_unchecked(0).plan.holds
    write(one, [SECOND, *sorted(people(10)), NEW])
    second = held(one.sync_unchecked(HELD))
    assert (second.count, second.id != first.id) == (1, True)
    assert "second@example.com" in second.reasons[0].text
    one.say("approve", second.id)
    one.sync_unchecked(0)
    write(one, sorted(people(10)))
    one.sync()
    write(one, [*sorted(people(10)), SECOND])
    one.sync_unchecked(0)


def test_two_backups_name_the_same_hold_alike(tmp_path: Path) -> None:
    """The ID is that of source and entries, wherever they are in the list."""
    ids = set()
    for name, lines in (("a", [NEW, SECOND]), ("b", [SECOND, NEW])):
        (tmp_path / name).mkdir()
        scenario = Scenario(tmp_path / name)
        scenario.write("corp", people(10))
        scenario.sync()
        write(scenario, [*lines, *sorted(people(10))])
        ids.add(held(scenario.sync_unchecked(HELD)).id)
    assert len(ids) == 1


def test_the_whole_entry_decides_what_was_approved(one: Scenario) -> None:
    """Another end of the line, beyond what is shown, is another entry; a passwd line counts with all its fields."""
    long = f"x {'y' * 5000}"
    digests = set()
    for line in (NEW, f"{NEW} ", long, f"{long}z"):
        write(one, [*sorted(people(10)), line])
        digests.add(held(one.sync_unchecked(HELD)).id)
    assert len(digests) == 4
    one.sources["corp"] = {"format": "passwd", "domains": ["example.com"]}
    for secret in ("one", "two"):
        passwd = [f"user00{number}:x:{1000 + number}:1::/:/bin/sh" for number in range(10)]
        write(one, [*passwd, f"anna:$1$x$y:1000:1:Anna:/:/bin/sh:{secret}"])
        result = one.sync_unchecked(HELD)
        digests.add(held(result).id)
        assert result.reject_sample[0].spelled == "anna"
    assert len(digests) == 6


@pytest.mark.parametrize(
    ("text", "keys"),
    [
        pytest.param("anna@example.com\nbob@example.com\nj\udcf6rg@example.com\n", {}, id="34 another encoding"),
        pytest.param("anna@example.com\nu9@example.com  dept 9\n", {}, id="45 a comment"),
        pytest.param("bob\nanna: yes\n", {"domains": ["example.com"]}, id="14 a name and a value"),
        pytest.param("anna@example.com\ncarl@example.com\t; c@example.net\n", {}, id="03 a comment"),
    ],
)
def test_the_digest_is_of_the_whole_line(tmp_path: Path, text: str, keys: dict[str, object]) -> None:
    """It is that of source and octets of the line, before anything is cut from it."""
    scenario = Scenario(tmp_path)
    scenario.sources["corp"] = keys
    octets = text.encode(errors="surrogateescape")
    scenario.file("corp").write_bytes(octets)
    result = scenario.sync_unchecked(HELD)
    raw = octets.removesuffix(b"\n").split(b"\n")[-1]
    assert result.reject_sample[0].digest == fields.reject_digest("corp", raw)


def test_an_id_that_was_replaced_approves_what_it_was_shown_for(one: Scenario) -> None:
    """Within seven days, and no entry that came later."""
    write(one, [*sorted(people(10)), NEW])
    first = held(one.sync_unchecked(HELD))
    write(one, [*sorted(people(10)), NEW, SECOND])
    second = held(one.sync_unchecked(HELD))
    one.say("approve", first.id, code=HELD)
    third = held(one.sync_unchecked(HELD))
    assert (third.count, third.since) == (1, first.since)
    assert third.id not in {first.id, second.id}
    assert "second@example.com" in third.reasons[0].text


def test_an_entry_that_names_a_recipient_is_not_approved(one: Scenario) -> None:
    """The person would let a recipient go: the message has the pattern that leaves the entry out."""
    names = sorted(people(10) - {"user003@example.com"})
    write(one, [*names, "User003@Example.com, (on leave)", NEW])
    hold = held(one.sync_unchecked(HELD))
    refused = one.say("approve", hold.id, code=USAGE).stderr
    assert f"line 10 of {one.file('corp')} has user003@example.com, which is published" in refused
    assert "ignore = ['User003@Example.com, (on leave)'] in [sources.corp]" in refused
    assert one.sync_unchecked(HELD).sources[0].rejected_held == 2
    one.sources["corp"]["ignore"] = ["User003@Example.com, (on leave)"]
    left = one.sync_unchecked(HELD)
    assert (left.sources[0].rejected_held, left.sources[0].rejected_ignored) == (1, 1)
    one.say("approve", held(left).id)
    assert one.published() == set(names)


@pytest.mark.parametrize("first", [True, False])
def test_what_approve_refuses_is_not_offered(tmp_path: Path, first: bool) -> None:  # noqa: FBT001 - a parameter
    """Neither by `sync` nor by `status` or `check`: they have the pattern. Once that is set, the other entry is."""
    scenario = Scenario(tmp_path)
    if not first:
        scenario.write("corp", people(10))
        scenario.sync()
    write(scenario, [*sorted(people(10)), "User003@Example.com, (on leave)", NEW])
    shown = scenario.say("sync", "--accept-incomplete", code=HELD).stdout
    hold = held(scenario.sync_unchecked(HELD))
    told = scenario.say("status", code=HELD).stderr
    for printed in (shown, told):
        assert f"approve {hold.id}" not in printed
        assert f"line 11 of {scenario.file('corp')} has user003@example.com, which is published: correct" in printed
        assert "set ignore = ['User003@Example.com, (on leave)'] in [sources.corp]" in printed
    assert not hold.approvable
    assert not any(hold.id in step.get("command", "") for step in _remedies(scenario))
    refused = scenario.say("approve", hold.id, code=USAGE).stderr
    assert f"{hold.id} cannot be approved: line 11 of {scenario.file('corp')} has user003@example.com" in refused
    scenario.sources["corp"]["ignore"] = ["User003@Example.com, (on leave)"]
    left = scenario.say("sync", code=HELD).stdout
    assert f"approve {held(scenario.sync_unchecked(HELD)).id}" in left


def test_a_name_without_a_domain_names_its_recipient(tmp_path: Path) -> None:
    """A list of local parts whose line got a value may be that of who is missing now."""
    scenario = Scenario(tmp_path)
    scenario.sources["corp"]["domains"] = ["example.com"]
    write(scenario, ["anna", "bob", "carl"])
    scenario.sync_unchecked(0)
    write(scenario, ["anna: yes", "bob", "carl"])
    hold = held(scenario.sync_unchecked(HELD))
    assert "has anna@example.com, which is published" in scenario.say("approve", hold.id, code=USAGE).stderr


def test_what_is_not_recorded_of_an_entry_may_name_a_recipient(one: Scenario) -> None:
    """A long entry, whatever is shown of it, and a record without the column."""
    write(one, [*sorted(people(10)), f"x:{'y' * 5000} user003@example.com"])
    refused = one.say("approve", held(one.sync_unchecked(HELD)).id, code=USAGE).stderr
    assert "is longer than what is recorded of it" in refused
    one.sources["corp"] = {"format": "csv", "column": "mail"}
    rows = [f"x,{name}" for name in sorted(people(10) - {"user003@example.com"})]
    write(one, ["name,mail", *rows, "user003@example.com"])
    refused = one.say("approve", held(one.sync_unchecked(HELD)).id, code=USAGE).stderr
    assert "has user003@example.com, which is published" in refused


# --- what it holds besides


def test_what_goes_missing_with_it_is_held(one: Scenario) -> None:
    """In the same answer and in later ones, as long as an entry stands; what went before is not."""
    one.limits["removal_grace"] = "0s"
    everybody = sorted(people(10))
    write(one, everybody[1:])
    one.sync()
    assert one.published() == set(everybody[1:])
    write(one, [*everybody[2:], NEW])
    first = one.sync_unchecked(HELD)
    assert "rejected" in {reason.kind for hold in first.plan.holds if not hold.rejecting for reason in hold.reasons}
    write(one, [*everybody[3:], NEW])
    one.sync_unchecked(HELD)
    assert one.published() == set(everybody[1:])
    one.say("approve", held(one.sync_unchecked(HELD)).id, code=None)
    assert one.published() == set(everybody[3:])


def test_another_source_loses_nobody_to_it(tmp_path: Path) -> None:
    """What another source listed alone goes as ever."""
    scenario = Scenario(tmp_path, "corp", "extra")
    scenario.write("corp", people(10))
    scenario.write("extra", people(10, first=20))
    scenario.sync()
    write(scenario, [*sorted(people(10)), NEW])
    scenario.write("extra", people(9, first=20))
    scenario.sync_unchecked(HELD)
    assert scenario.published() == people(10) | people(9, first=20)


def test_the_condition_is_of_its_source_and_run() -> None:
    """It holds who was first missing in an answer of the source in that run, or later."""
    found = rejected.condition("corp", "20260101T000000Z-aaaaaa")
    assert (found.reason.kind, found.source, found.since_run) == ("rejected", "corp", "20260101T000000Z-aaaaaa")


# --- addresses of other kinds, patterns


@pytest.mark.parametrize("value", ["sip:anna@example.com", "X500:/o=Org/cn=Anna", "x400:c=us;a= ;s=A;", "EUM:12;x=y"])
def test_an_address_of_another_kind_is_ignored(tmp_path: Path, value: str) -> None:
    """It is no mail recipient in any format: counted, and nothing is held."""
    scenario = Scenario(tmp_path)
    for form, text in (
        ("lines", f"user000@example.com\n{value}\n"),
        ("csv", f'mail\nuser000@example.com\n"{value}"\n'),
        ("postmap", f'user000@example.com OK\n"{value}" OK\n'),
    ):
        scenario.sources["corp"] = {"format": form, "column": "mail"}
        scenario.file("corp").write_text(text)
        result = scenario.sync_unchecked(0)
        assert (result.sources[0].rejected, result.sources[0].ignored) == (0, 1)


def test_a_list_that_begins_with_another_kind_is_rejected() -> None:
    """The mail address behind it would be lost in silence."""
    assert not spellings.is_foreign("sip:anna@example.com,smtp:anna@example.com")
    assert spellings.is_foreign(" SIP:anna@example.com;transport=tls")


def test_a_pattern_is_seen_at_the_next_run(one: Scenario) -> None:
    """It needs no new answer, nor does its end."""
    one.sources["corp"]["ignore"] = ["* (LEFT)"]
    write(one, [*sorted(people(10)), "old@example.com (left)", NEW])
    result = one.sync_unchecked(HELD)
    assert (result.sources[0].rejected, result.sources[0].rejected_held) == (2, 1)
    one.sources["corp"]["ignore"] = ["* (left)", "* colleague"]
    assert one.sync_unchecked(0).sources[0].rejected_ignored == 2
    assert "2 rejected entries: 2 ignored by the key ignore" in one.say("status").stdout
    one.sources["corp"]["ignore"] = []
    assert one.sync_unchecked(HELD).sources[0].rejected_held == 2


@pytest.mark.parametrize("pattern", ["*", "anna*", "*@example.com", "user@mail.example.org", "[a-z]*", "*left*"])
def test_a_pattern_of_recipients_is_refused(one: Scenario, pattern: str) -> None:
    """It would leave out an address that could be published, and no other entry needs it."""
    one.relay_domains.append("example.org")
    one.sources["corp"]["ignore"] = [pattern]
    refused = one.say("sync", code=CONFIG).stderr
    assert f'sources.corp.ignore: "{pattern}" matches ' in refused
    assert "put what makes the entry no address into the pattern" in refused


def test_what_patterns_match() -> None:
    """As a shell's, in any case; a text as a pattern matches itself alone."""
    assert matches("Anna@Example.com # LEFT", ["*@example.com # left"])
    assert matches("a[b]*c?", [literal("a[b]*c?")])
    assert not matches("abxcd", [literal("a[b]*c?")])
    assert matched_address("*@*.com", ["example.org", "example.com"])
    assert not matched_address("* *", ["example.com"])
    assert not matched_address("dn: *", ["example.com"])


# --- where it is told


def test_it_is_visible_everywhere(one: Scenario) -> None:
    """Status, check, explain and JSON tell of it in every run until it is dealt with."""
    write(one, [*sorted(people(10)), NEW])
    hold = held(one.sync_unchecked(HELD))
    shown = one.say("status", code=HELD)
    assert "source corp: 1 rejected entry: 1 held" in shown.stdout
    assert f'line 11 of {one.file("corp")}: "{NEW}"' in shown.stderr
    assert hold.id in shown.stderr
    status = json.loads(one.say("status", "--json", code=HELD).stdout)
    (source,) = status["sources"]
    assert (source["rejected"], source["rejected_held"], source["rejected_ignored"]) == (1, 1, 0)
    assert [alarm["kind"] for alarm in status["alarms"]] == ["held"]
    checked = json.loads(one.say("check", "--offline", "--json", code=None).stdout)
    (finding,) = [finding for finding in checked["findings"] if finding["check"] == "rejected-entries"]
    assert finding["severity"] == "warning"
    assert NEW in finding["text"]
    assert any(hold.id in step.get("command", "") for step in finding["remedies"])
    explained = one.say("explain", "new@example.com").stdout
    assert f"Line 11 of {one.file('corp')} has it, rejected because it has white space outside quotes" in explained
    assert f"; held under {hold.id}" in explained
    one.say("approve", hold.id)
    assert "; approved by a person" in one.say("explain", "new@example.com").stdout
    assert "1 rejected entry: 1 approved" in one.say("status").stdout
    assert "rejected-entries" in one.say("check", "--offline", code=None).stdout


def _remedies(scenario: Scenario) -> list[dict[str, str]]:
    """Return the remedies of `check` for rejected entries."""
    checked = json.loads(scenario.say("check", "--offline", "--json", code=None).stdout)
    (finding,) = [finding for finding in checked["findings"] if finding["check"] == "rejected-entries"]
    remedies: list[dict[str, str]] = finding["remedies"]
    return remedies


def test_check_names_the_key_that_leaves_them_out(tmp_path: Path) -> None:
    """Also before the first map, where no ID can be approved; what it says to write does it."""
    scenario = Scenario(tmp_path)
    scenario.sources["corp"]["ignore"] = ["dn: *"]
    write(scenario, [*sorted(people(10)), "dn: CN=x", NEW, "it's [me]"])
    scenario.sync_unchecked(HELD)
    *_, step = _remedies(scenario)
    assert (step["kind"], step["section"], step["when"]) == ("file", "sources.corp", "or, if they are no recipients,")
    assert step["write"] == f"""ignore = ['dn: *', '{NEW}', "it's [[]me]"]"""
    scenario.sources["corp"]["ignore"] = tomllib.loads(step["write"])["ignore"]
    scenario.sync_unchecked(0)
    assert scenario.published() == people(10)


def test_check_names_the_key_where_the_entries_are_too_many(one: Scenario) -> None:
    """Or where a pattern of one of them is not allowed; the ID can be approved."""
    write(one, [*sorted(people(25)), *(f"new{number}@example.com new" for number in range(21))])
    hold = held(one.sync_unchecked(HELD))
    _, approve, key = _remedies(one)
    assert hold.id in approve["command"]
    assert (key["kind"], key["text"]) == ("person", "match them by the key ignore of [sources.corp]")


def test_the_agent_tells_of_it(one: Scenario) -> None:
    """By its log, once, with the entries, and by a metric of the source."""
    metrics = one.directory / "syncagent.prom"
    write(one, [*sorted(people(10)), *(f"new{number}@example.com new" for number in range(9))])
    config = one.configure()
    config.write_text(f'{config.read_text()}\n[metrics]\ntextfile = "{metrics}"\n')
    with Agent(config) as agent:
        agent.run_now()
        event, alarm = agent.wait("rejected"), agent.wait("needs a person")
        assert (event["source"], event["count"], len(event["entries"])) == ("corp", 9, 9)
        assert "new0@example.com new" in event["entries"][0]
        assert (alarm["kind"], alarm["subject"]) == ("held", "rejected:corp rejected")
        agent.run_now()
        assert (len(agent.events("rejected")), len(agent.events("needs a person"))) == (1, 1)
    assert 'syncagent_rejected_entries{source="corp"} 9.0' in metrics.read_text().splitlines()


SECRETS = [
    "anna@example.com:{SHA512-CRYPT}$6$SALT$s3cretHASH:5000:5000::/var/vmail/example.com/anna::",
    "anna:$6$SALT$s3cretHASH:5000:5000::/home/anna:/bin/sh",
    "anna@example.com:s3cret",
    "userPassword:: s3cretHASH",
    "anna@example.com {PLAIN}s3cret",
]


def test_no_secret_of_a_rejected_entry_is_kept(tmp_path: Path) -> None:
    """Password hashes are in no output and no file of the state, whatever format the list is read as."""
    scenario = Scenario(tmp_path)
    write(scenario, [*sorted(people(10)), *SECRETS])
    output = scenario.say("sync", "--accept-incomplete", code=HELD)
    for verb in ("status", "plan", "explain"):
        done = scenario.say(verb, *(["anna@example.com"] if verb == "explain" else []), code=None)
        assert "s3cret" not in done.stdout + done.stderr
    assert "s3cret" not in output.stdout + output.stderr
    for file in scenario.state.rglob("*"):
        assert not file.is_file() or b"s3cret" not in file.read_bytes(), file


# --- doubt


@pytest.mark.parametrize(
    ("line", "domains"),
    [
        ("anna@example.org (left)", {"example.org"}),
        ("Anna <anna@sub.example.org> (left)", {"example.org"}),
        ("anna", {"example.com", "example.org"}),
        ("anna <anna@elsewhere.test> (left)", {"example.com", "example.org"}),
    ],
)
def test_which_domains_are_in_doubt(tmp_path: Path, line: str, domains: set[str]) -> None:
    """The relay domain after its last @, else every domain of its source, and not those of others."""
    scenario = Scenario(tmp_path, "corp", "extra", relay_domains=("example.com", "example.org", "example.net"))
    scenario.postfix = {"doubt_map": f"lmdb:{tmp_path}/doubt", "doubt_new": "0s"}
    scenario.write("corp", people(10) | people(10, "example.org"))
    scenario.write("extra", people(10, "example.net"))
    scenario.sync()
    write(scenario, [*sorted(people(10) | people(10, "example.org")), line])
    result = scenario.sync_unchecked(HELD)
    assert {one.domain for one in result.doubts if (one.kind, one.subject) == ("hold", "rejected")} == domains


# --- older versions


def test_entries_of_an_older_version_are_held_from_its_lines(one: Scenario) -> None:
    """A list whose lines have no digest is not fetched anew: the digest is that of what the line has."""
    write(one, [*sorted(people(10)), NEW])
    first = held(one.sync_unchecked(HELD))
    database = sqlite3.connect(one.state / "state.db")
    (state,) = database.execute("SELECT state FROM source").fetchone()
    path = one.state / "snapshots" / json.loads(state)["snapshot"]["file"]
    (reject,) = snapshot.rejects_of(path, "corp")
    line = path.read_text().partition("\n")[0]
    assert line.endswith(f"\x1f{reject.digest}")
    older = line.removesuffix(f"\x1f{reject.digest}")
    path.write_text(f"{older}\n")
    assert next(snapshot.rejects_of(path, "corp")).digest == reject.digest
    assert rejected.hold_id("corp", [reject.digest]) == first.id


def test_only_held_entries_count(tmp_path: Path) -> None:
    """Approved and ignored ones are counted apart, and name no domain."""
    lines = [f"\t{number}\t{text}\x1fis none\n" for number, text in enumerate(["a@x.test b", "c@y.test d", "e f"])]
    file = tmp_path / "snapshot"
    file.write_text("".join(lines))
    found = list(snapshot.rejects_of(file, "corp"))
    counted = rejects.of_source(found, {found[0].digest}, ["E F"], "/etc/list")
    assert (counted.held, counted.approved, counted.ignored, counted.domains) == (1, 1, 1, frozenset({"y.test"}))
    assert counted.sample[0].place == "line 1 of /etc/list"


# --- lines of password files

PASSWORDS = [
    ("anna@example.com|s3cret", "anna@example.com|***"),
    ("anna|s3cret|anna@s3cret.example", "anna|***"),
    ("anna@example.com s3cret {PLAIN}s3cret", "anna@example.com ***"),
    ("anna;s3cret;{SSHA}s3cret", "anna;***"),
    ("anna,s3cret,$2y$05$s3cret", "anna,***"),
    ("{PLAIN}s3cret:anna@example.com", "***"),
    ("anna$6$s3cret", "anna***"),
    ("anna@example.com:{PLAIN}s3cret@example.com", "anna@example.com:***"),
    *((f"anna@example.com:{text}", "anna@example.com:***") for text in ("/s3cret", "\ts3cret", " s3cret", ":s3cret")),
    ("anna:/s3cret:1000:1000::/home/anna:/bin/sh", "anna:***"),
    ("anna@example.com {CRYPT} s3cret", "anna@example.com ***"),
    ("anna@example.com,s3cret,{x}", "anna@example.com,***"),
    ("anna@example.com;s3cret", "anna@example.com;***"),
    ("anna@example.com:plain@s3cret.example:", "anna@example.com:***"),
    ("anna@example.com,bert@example.com;carl@example.com", "anna@example.com,bert@example.com;carl@example.com"),
    ("see http://example.com/list", "see http://example.com/list"),
    (" anna\t{CRAM-MD5.HEX}s3cret ", "anna\t***"),
]
"""Lines that look like those of a password file, and what is kept of them."""


@pytest.mark.parametrize(("line", "kept"), PASSWORDS)
def test_a_line_of_a_password_file_is_kept_up_to_its_first_separator(line: str, kept: str) -> None:
    """What is behind it may be a password or its hash, whatever it is."""
    assert spellings.without_secrets(line) == kept
    assert spellings.without_secrets(kept) == kept


def test_of_a_right_side_that_refuses_the_transport_is_kept() -> None:
    """Its text may have anything."""
    values = (":fail: password s3cret", "REJECT s3cret", "error:s3cret", "550", '":fail: s3cret"')
    kept = [":fail: ***", "REJECT ***", "error:***", "550", '":fail: ***']
    assert list(map(spellings.transport_of, values)) == kept


def test_a_recipient_behind_a_separator_is_not_approved_unseen(one: Scenario) -> None:
    """What is hidden of a line may name a recipient if it has an @; the pattern in the message leaves the line out."""
    write(one, [*sorted(people(10)), "anna:{PLAIN}s3cret:user003@example.com"])
    refused = one.say("approve", held(one.sync_unchecked(HELD)).id, code=USAGE).stderr
    assert "is longer than what is recorded of it" in refused
    assert "ignore = ['anna:[*][*][*]'] in [sources.corp]" in refused
    one.sources["corp"]["ignore"] = ["anna:[*][*][*]"]
    assert one.sync_unchecked(0).sources[0].rejected_ignored == 1
    del one.sources["corp"]["ignore"]
    write(one, [*sorted(people(10)), "anna:{PLAIN}s3cret:5000"])
    one.say("approve", held(one.sync_unchecked(HELD)).id)


@pytest.mark.parametrize(
    ("first", "keys"),
    [
        ("anna@example.com|{PLAIN}s3cret", {"delimiter": "|"}),
        ("anna@example.com;s3cret", {"delimiter": ";"}),
        ("anna@example.com:s3cret", {}),
        ("anna@example.com:{PLAIN}s3cret", {}),
    ],
)
def test_a_first_line_that_is_no_header_shows_no_password(tmp_path: Path, first: str, keys: dict[str, object]) -> None:
    """The columns are shown, unless they are fields of a person."""
    scenario = Scenario(tmp_path)
    scenario.sources["corp"] = {"format": "csv", "column": "mail", **keys}
    write(scenario, [first, first])
    done = scenario.say("sync", code=None)
    assert "anna@example.com" in done.stderr
    assert_hidden(scenario, done.stdout + done.stderr)


def assert_hidden(scenario: Scenario, output: str) -> None:
    """Assert that the password is in no output and no file of the state."""
    assert "s3cret" not in output
    for file in scenario.state.rglob("*"):
        assert not file.is_file() or b"s3cret" not in file.read_bytes(), file


@pytest.mark.parametrize("form", ["lines", "postmap", "aliases", "passwd"])
def test_a_password_file_in_another_format_shows_no_password(tmp_path: Path, form: str) -> None:
    """Neither where all entries are rejected, nor where some are. Two of the lines are addresses in some formats."""
    scenario = Scenario(tmp_path)
    scenario.sources["corp"] = {"format": form}
    if form in {"aliases", "passwd"}:
        scenario.sources["corp"]["domains"] = ["example.com"]
    lines = [line for line, _ in PASSWORDS if line.startswith("anna") and not line.endswith("s3cret.example")]
    good = {"lines": "{}@example.com", "postmap": "{}@example.com OK", "aliases": "{}: x", "passwd": "{}:x:1000:1::/:"}
    for names in ([], [good[form].format(f"user{number}") for number in range(20)]):
        write(scenario, [*lines, *names])
        for verb in (("sync", "--accept-incomplete"), ("sync", "--json")):
            done = scenario.say(*verb, code=None)
            assert_hidden(scenario, done.stdout + done.stderr)


def test_what_an_older_version_has_kept_is_hidden(one: Scenario) -> None:
    """A hold with a password in its text is shown without it, and kept without it from the next run on."""
    write(one, [*sorted(people(10)), "anna@example.com|s3cret"])
    hold = held(one.sync_unchecked(HELD))
    with contextlib.closing(sqlite3.connect(one.state / "state.db", isolation_level=None)) as database:
        changed = database.execute("UPDATE hold SET state = replace(state, '***', 's3cret')")
        assert changed.rowcount == 1
    assert b"s3cret" in (one.state / "state.db").read_bytes()
    shown = one.say("status", code=HELD)
    assert "s3cret" not in shown.stdout + shown.stderr
    assert 'anna@example.com|***"' in shown.stderr
    assert held(one.sync_unchecked(HELD)).id == hold.id
    assert_hidden(one, "")
