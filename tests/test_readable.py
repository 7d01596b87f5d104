"""What a value of a source means: the one address in it, a catch-all, or nothing that can be read."""

import sqlite3
import time
from collections.abc import Iterable
from pathlib import Path

import pytest

from syncagent.addresses import UnusableError
from syncagent.sources import csv_columns
from syncagent.sources.file import YOUNG
from syncagent.sources.right_sides import alias_refuses, is_of_pattern_table, refuses
from syncagent.values.readable import address_of
from tests.scenario import Scenario, people

HELD = 65
READ = {
    "bob@example.com # HR": "bob@example.com",
    "Bob@Example.com\t; boss, since 2021": "bob@example.com",
    "bob@example.com #": "bob@example.com",
    '"a # b"@example.com # c': '"a # b"@example.com',
    "<bob@example.com>": "bob@example.com",
    "Bob B. <bob@example.com>": "bob@example.com",
    '"B, Bob" <bob@example.com>': "bob@example.com",
    "bob@example.com <BOB@example.com>": "bob@example.com",
    "Bob <SMTP:bob@example.com> # HR": "bob@example.com",
    "mailto:bob@example.com": "bob@example.com",
    "SMTP:bob@example.com": "bob@example.com",
    "smtp:bob+x@example.com": "bob+x@example.com",
    '"bob@example.com"': "bob@example.com",
    "'bob@example.com'": "bob@example.com",
    "bob@example.com,": "bob@example.com",
    "bob@example.com;": "bob@example.com",
    "*@example.com": "@example.com",
    "@example.com # all": "@example.com",
    "a*@example.com": "a*@example.com",
    "o'neil@example.com": "o'neil@example.com",
}
UNREADABLE = [
    "bob@example.com OK",
    "bob@example.com (left)",
    "bob@example.com # anna@example.com",
    "anna@example.com <bob@example.com>",
    "bob@example.com, anna@example.com",
    "bob@example.com;deleted",
    "<bob@example.com> <anna@example.com>",
    "<p>bob@example.com</p>",
    "mailto:bob%2Bx@example.com",
    "mailto:bob@example.com?cc=anna@example.com",
    "bob@example.com#HR",
    "# bob@example.com",
    "bob # HR",
    "*",
    "x" * 5000 + " <bob@example.com>",
]


@pytest.mark.parametrize("spelled", READ)
def test_the_one_address_in_a_value(spelled: str) -> None:
    """A comment or a wrapper is no part of it."""
    assert address_of(spelled) == READ[spelled]


@pytest.mark.parametrize("spelled", UNREADABLE)
def test_a_value_that_is_not_exactly_one_address(spelled: str) -> None:
    """It is rejected, with what to write."""
    with pytest.raises(UnusableError, match=r": (write|remove|quote|close|expected)|remove it"):
        address_of(spelled)


@pytest.mark.parametrize(
    ("spelled", "reason"),
    [
        ("bob@example.com#HR", "write a blank before # if a comment follows"),
        ("bob\uff20example.com", "U\\+FF20.* is not @"),
        ("bob\ufe6bexample.com", "U\\+FE6B.* is not @"),
    ],
)
def test_the_reason_names_what_is_wrong(spelled: str, reason: str) -> None:
    """A comment without a blank before it, and what looks like an @."""
    with pytest.raises(UnusableError, match=reason):
        address_of(spelled)


def test_no_pattern_leaves_out_an_entry_that_is_read(tmp_path: Path) -> None:
    """A recipient too many is the lesser evil: a pattern for others would refuse those that are published."""
    scenario = Scenario(tmp_path)
    lines = ["mailto:anna@example.com", "bob@example.com # left", "mailto:carl@example.com?subject=hi"]
    scenario.file("corp").write_text("".join(f"{line}\n" for line in [*sorted(people(5)), *lines]))
    read = people(5) | {"anna@example.com", "bob@example.com"}
    scenario.say("sync", "--accept-incomplete", code=HELD)
    assert "set ignore" not in scenario.say("sync", code=HELD).stderr
    scenario.sources["corp"]["ignore"] = ["mailto:*", "* # LEFT"]
    assert scenario.sync_unchecked(0).sources[0].rejected_ignored == 1
    assert scenario.published() == read


REFUSING = [
    *("REJECT", "REJECT User has left", "DISCARD", "DISCARD\twhy", "BOUNCE", "550 5.1.1 no such user", "550", "521 no"),
    *("error:nouser 550 No such user", "error:5.1.1 gone", "error:", "error:mailbox gone", "discard:", "discard:x"),
    *(":fail:", ":fail: no", ":blackhole:"),
]
TAKING = [
    *("OK", "RELAY", "reject", "Reject", "discard", "bounce", "REJECTED", "BOUNCES@example.com", "5500", "450 later"),
    *("4.2.1 later", "5.1.1 gone", "error", "errors@example.com", "error:4.2.1 later", "Error:5.1.1", ":defer: later"),
    *(":", "smtp:[192.0.2.1]", "/dev/null", '"|/usr/bin/x"', "|/bin/x", "DEFER", "HOLD", "user, REJECT", "retry:later"),
]


@pytest.mark.parametrize("value", REFUSING)
def test_a_right_side_that_refuses(value: str) -> None:
    """Only these do, in this case."""
    assert refuses(value.encode())


@pytest.mark.parametrize("value", TAKING)
def test_a_right_side_that_does_not_refuse(value: str) -> None:
    """A delay, a destination, a pipe and a word in lower case are those of a recipient."""
    assert not refuses(value.encode())


def test_only_fail_and_blackhole_refuse_in_aliases() -> None:
    """There any other word is a destination."""
    assert [alias_refuses(value) for value in (b":fail: x", b'":blackhole:"', b"REJECT", b":defer: x")] == [
        *(True, True),
        *(False, False),
    ]


@pytest.mark.parametrize(
    ("line", "is_pattern"),
    [
        (rb"/^bob@example\.com$/ OK", True),
        (b"!/x/ REJECT", True),
        (b"if /@example.org$/", True),
        (b"if !/x/", True),
        (b"endif", True),
        (b"if OK", False),
        (b"endif OK", False),
        (b"if@example.com OK", False),
        (b"bob@example.com /home/bob/", False),
    ],
)
def test_lines_of_a_pattern_table(line: bytes, *, is_pattern: bool) -> None:
    """They are no keys."""
    assert is_of_pattern_table(line) is is_pattern


# --- in runs


def table(scenario: Scenario, lines: Iterable[str], **keys: object) -> None:
    """Make the source a Postfix table with these lines."""
    scenario.sources["corp"] = {"format": "postmap", **keys}
    scenario.file("corp").write_text("".join(f"{line}\n" for line in lines))


def test_a_key_that_refuses_is_told_and_is_no_recipient(tmp_path: Path) -> None:
    """It is counted apart from rejected entries, and opens no domain; that a table begins to refuse is told once."""
    scenario = Scenario(tmp_path)
    scenario.postfix["catch_all"] = ["example.com"]
    lines = [*(f"{one} OK" for one in sorted(people(5))), "former@example.com REJECT has left"]
    table(scenario, [*lines, "@example.com error:nouser 550 5.1.1 User unknown"])
    result = scenario.sync_unchecked(0)
    assert scenario.published() == people(5)
    (source,) = result.sources
    assert (source.entries, source.rejected, source.refused, result.rejected) == (5, 0, 2, 0)
    (note,) = result.note_facts
    assert (note.kind, note.count) == ("keys-refuse", 2)
    assert "former@example.com (REJECT ***)" in result.notes[0]
    assert "has left" not in result.notes[0]
    told = "source corp: 2 keys whose right side refuses mail, no recipients"
    assert all(told in scenario.say(verb).stdout for verb in ("sync", "status", "plan"))
    assert "2 keys whose right side refuses mail" in scenario.say("check", code=None).stdout
    explained = scenario.say("explain", "former@example.com", code=None).stdout
    assert f'ine 6 of {scenario.file("corp")} refuses former@example.com by "REJECT ***"' in explained
    table(scenario, [*lines, "gone@example.com 550"])
    assert scenario.sync_unchecked(0).note_facts == ()


def test_a_control_character_in_an_address_is_no_mark_of_a_refused_key(tmp_path: Path) -> None:
    """An address may have any; the counts are those of the lines."""
    scenario = Scenario(tmp_path)
    table(scenario, ['"a\x1eb"@example.com OK', "anna@example.com OK", "gone@example.com REJECT", "no-domain OK"])
    (source,) = scenario.sync_unchecked(HELD).sources
    assert (source.entries, source.rejected, source.refused) == (2, 1, 1)


def test_keys_that_begin_to_refuse_are_held_like_any_removal(tmp_path: Path) -> None:
    """Who was published and refuses now goes through guard and grace."""
    scenario = Scenario(tmp_path)
    everybody = sorted(people(20))
    table(scenario, [f"{one} OK" for one in everybody])
    scenario.sync_unchecked(0)
    table(scenario, [f"{one} {'REJECT' if at < 12 else 'OK'}" for at, one in enumerate(everybody)])
    result = scenario.sync_unchecked(HELD)
    assert [note.kind for note in result.note_facts] == ["keys-refuse"]
    assert scenario.published() == people(20)
    assert result.plan.holds


def test_a_table_in_which_all_refuse_is_empty(tmp_path: Path) -> None:
    """It has failed, as a source without an entry has."""
    scenario = Scenario(tmp_path)
    table(scenario, ["anna@example.com REJECT"])
    assert "all of its 1 keys refuse mail" in scenario.sync_unchecked(75).sources[0].error


def test_a_pattern_table_is_a_failure_that_says_what_to_do(tmp_path: Path) -> None:
    """Its patterns would be rejected one by one, and nobody would know why."""
    scenario = Scenario(tmp_path)
    table(scenario, ["anna@example.com OK", r"/^list-.*@example\.com$/ lmtp:[127.0.0.1]:8024"])
    (source,) = scenario.sync_unchecked(75).sources
    assert source.kind == "broken"
    assert "line 2" in source.error
    assert "this is a pcre or regexp table" in source.error
    assert "list the addresses" in source.error


@pytest.mark.parametrize(
    ("text", "keys"),
    [
        ("anna@example.com\n*@example.com\n", {}),
        ("anna\n*\n", {"domains": ["example.com"]}),
        ("anna@example.com OK\n*@example.com OK\n", {"format": "postmap"}),
        ("anna: a\n*: b\n", {"format": "aliases", "domains": ["example.com"]}),
        ("anna: a\n*@example.com: b\n", {"format": "aliases", "domains": ["example.net"]}),
        ("mail\nanna@example.com\n*@example.com\n", {"format": "csv", "column": "mail"}),
    ],
)
def test_a_star_is_a_catch_all(tmp_path: Path, text: str, keys: dict[str, object]) -> None:
    """It is held unless it is permitted, and never a literal key."""
    scenario = Scenario(tmp_path)
    scenario.sources["corp"] = keys
    scenario.file("corp").write_text(text)
    result = scenario.sync_unchecked(HELD)
    assert result.plan.held_catch_alls == ("@example.com",)
    assert "*@example.com" not in scenario.published()
    scenario.postfix["catch_all"] = ["example.com"]
    scenario.sync_unchecked(0)
    assert "@example.com" in scenario.published()


def test_a_comment_behind_a_bare_name(tmp_path: Path) -> None:
    """The domain is appended to the name."""
    scenario = Scenario(tmp_path)
    scenario.sources["corp"] = {"domains": ["example.com"]}
    scenario.file("corp").write_text("anna # sales\nbob # x ; y\ncarl # carl@example.net\n")
    assert scenario.sync_unchecked(HELD).rejected == 1
    scenario.say("sync", "--accept-incomplete", code=HELD)
    assert scenario.published() == {"anna@example.com", "bob@example.com"}


def test_a_blank_before_a_login(tmp_path: Path) -> None:
    """It is no part of the name, and nothing of the name is appended to the domain."""
    scenario = Scenario(tmp_path)
    scenario.sources["corp"] = {"format": "passwd", "domains": ["example.com"]}
    scenario.file("corp").write_text(" bob:x:1000:1000::/:/bin/sh\n\tanna:x:1001:1001::/:/bin/sh\n")
    scenario.sync_unchecked(0)
    assert scenario.published() == {"anna@example.com", "bob@example.com"}


@pytest.mark.parametrize("line", ["bob ; alice", "bob@example.com\t; alice", "bob ; alice # boss"])
def test_a_name_behind_a_semicolon_is_no_comment_where_names_are_read(tmp_path: Path, line: str) -> None:
    """It may be a recipient: the entry is rejected, and says what to write."""
    scenario = Scenario(tmp_path)
    scenario.sources["corp"] = {"domains": ["example.com"]}
    scenario.file("corp").write_text(f"anna\ncarl ;\n{line}\n")
    (reject,) = scenario.sync_unchecked(HELD).reject_sample
    assert "write each address as an entry of its own" in reject.reason


def test_a_login_with_a_domain_is_complete(tmp_path: Path) -> None:
    """As a name of aliases(5) is; a star before it is a catch-all."""
    scenario = Scenario(tmp_path)
    scenario.sources["corp"] = {"format": "passwd", "domains": ["example.com"]}
    names = ("anna", "bob@example.com", "*@example.com")
    scenario.file("corp").write_text("".join(f"{name}:x:1000:1000::/:/bin/sh\n" for name in names))
    assert scenario.sync_unchecked(HELD).plan.held_catch_alls == ("@example.com",)
    assert scenario.published() == {"anna@example.com", "bob@example.com"}


CSV = "mail,status,alias.0,alias.1,manager\n"


@pytest.mark.parametrize(
    ("record", "shown", "pattern"),
    [
        (
            "new@example.com,active,a@example.com,b@example.com,",
            "other columns: a@example.com, b@example.com",
            "other *",
        ),
        ("new@example.com,Deleted,,,", "deleted: new@example.com", "deleted: *"),
    ],
)
def test_what_other_columns_say_is_told(tmp_path: Path, record: str, shown: str, pattern: str) -> None:
    """Aliases beside the column that is read, and records that are called deleted; a pattern settles it."""
    scenario = Scenario(tmp_path)
    others = "".join(f"{one},active,2,{one},boss@example.com\n" for one in sorted(people(4)))
    scenario.file("corp").write_text(f"{CSV}{others}{record}\n,deleted,,,\n")
    scenario.sources["corp"] = {"format": "csv", "column": "mail"}
    result = scenario.sync_unchecked(HELD)
    assert (result.status, [one.spelled for one in result.reject_sample]) == ("incomplete", [shown])
    assert "set ignore = " in result.missing_for_first[0]
    scenario.sources["corp"]["ignore"] = [pattern]
    scenario.sync_unchecked(0)
    assert scenario.published() - people(4) == ({"new@example.com"} if "active" in record else set())


@pytest.mark.parametrize(
    ("first", "told"),
    [
        ("#TYPE Selected.Recipient\r", "use -NoTypeInformation"),
        ("sep=;", "is for Excel: delete it"),
        ("name;mail", "set delimiter"),
        ("anna@example.com,Anna", "write the names of the columns in a line before it"),
        ("name,address", ""),
    ],
)
def test_a_first_line_without_the_names_of_columns(first: str, told: str) -> None:
    """What to do about it is known where another program wrote it."""
    hint = csv_columns.hint(first.split(","))
    assert told in hint
    assert bool(hint) is bool(told)


def as_older_version_read_it(scenario: Scenario, old: str, new: str) -> None:
    """Make the recorded list what a version with other reading rules left, and the rules those of that version."""
    with sqlite3.connect(scenario.state / "state.db") as database:
        (state,) = database.execute("SELECT state FROM source").fetchone()
        assert new in state, state
        database.execute("UPDATE source SET state = ?", (state.replace(new, old),))


def test_new_rules_reach_an_unchanged_file_at_once(tmp_path: Path) -> None:
    """An upgrade reads it again, which alarms nobody; later runs do not."""
    scenario = Scenario(tmp_path)
    scenario.write("corp", people(5))
    scenario.sync()
    time.sleep(YOUNG)
    scenario.sync()
    assert scenario.sync().sources[0].state == "same"
    as_older_version_read_it(scenario, '"reading":""', '"reading":"2"')
    again = scenario.sync()
    assert (again.sources[0].state, again.status, again.notes) == ("whole", "unchanged", ())
    assert scenario.sync().sources[0].state == "same"


def test_an_approved_entry_that_is_readable_now_is_published(tmp_path: Path) -> None:
    """Its approval has ended, and that is told once: a later approval is a new decision."""
    scenario = Scenario(tmp_path)
    line = "new@example.com # HR"
    scenario.file("corp").write_text("".join(f"{one}: x\n" for one in sorted(people(5))))
    scenario.sources["corp"] = {"format": "aliases", "domains": ["example.com"]}
    scenario.sync_unchecked(0)
    with scenario.file("corp").open("a") as file:
        file.write(f"{line}\n")  # neither is it read in this format
    scenario.sync_unchecked(HELD)
    approve_as_older_version(scenario, line)
    scenario.sync_unchecked(0)
    scenario.file("corp").write_text("".join(f"{one}\n" for one in [*sorted(people(5)), line]))
    scenario.sources["corp"] = {}
    result = scenario.sync_unchecked(0)
    (note,) = result.note_facts
    assert (note.kind, note.count, note.detail) == ("now-readable", 1, "new@example.com")
    assert scenario.published() == people(5) | {"new@example.com"}
    with sqlite3.connect(scenario.state / "state.db") as database:
        assert database.execute("SELECT count(*) FROM approved_reject").fetchone() == (0,)
    assert scenario.sync_unchecked(0).notes == ()


def approve_as_older_version(scenario: Scenario, line: str) -> None:
    """Record the approval of a line that this version can read, and an older one could not."""
    from syncagent.state.fields import reject_digest

    with sqlite3.connect(scenario.state / "state.db") as database:
        row = ("corp", reject_digest("corp", line.encode()), 0.0)
        database.execute("CREATE TABLE IF NOT EXISTS approved_reject (source TEXT, digest TEXT, at REAL)")
        database.execute("INSERT INTO approved_reject VALUES (?, ?, ?)", row)
