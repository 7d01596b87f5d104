"""What `check` says of the doubt table beside misconfigurations: the running smtpd, the switch, and the lag."""

import json
import os
import time
from collections.abc import Callable, Iterator
from typing import TypeAlias

import pytest

from syncagent.postfix.doubt_table import Files
from syncagent.values.types import MapName
from tests.checks import Backup, Findings, problems
from tests.checks.test_misconfigurations import ASKED, FORM_C, beside, in_doubt, main_cf, seen
from tests.support.need import need_postfix
from tests.support.run import syncagent

Told: TypeAlias = list[tuple[str, str, str]]
"""Severity, subject and text of findings."""
Hear: TypeAlias = Callable[[], Told]


@pytest.fixture(scope="module")
def running() -> Iterator[Backup]:
    """A backup MX with a doubt table that is all right, and runs; example.com is in doubt."""
    need_postfix("lmdb")
    made = Backup.make()
    made.publish()
    in_doubt()(made)
    with made.postfix:
        yield made


@pytest.fixture(name="backup")
def fixture_backup(running: Backup) -> Iterator[Backup]:
    """Give it, and put it right again after the test."""
    main_cf_file = running.postfix.config_directory / "main.cf"
    before, configuration = main_cf_file.read_text(), running.file.read_text()
    yield running
    main_cf_file.write_text(before)
    running.file.write_text(configuration)
    running.postfix.set()
    running.sync()


def of(found: Findings, check: str) -> Told:
    """Give severity, subject and text of what a check found."""
    return [(one["severity"], one["subject"], one["text"]) for one in found if one["check"] == check]


@pytest.fixture
def hear(backup: Backup) -> Hear:
    """Give what checks, and gives what came of the dialogue."""

    def hear() -> Told:
        found = backup.check("--smtp", f"127.0.0.1:{backup.postfix.port}", "--dns", "127.0.0.1:1")
        return of(found, "verdicts")

    return hear


def test_in_doubt(backup: Backup, hear: Hear) -> None:
    """An unknown recipient of a domain in doubt gets 450 as it must, with the reason; the probe proves the rest."""
    backup.postfix.reload()
    found = hear()
    assert {severity for severity, _, _ in found} == {"ok"}
    texts = [text for _, subject, text in found if subject == "example.com"]
    assert texts[1].startswith(
        "an unknown recipient gets 450, since the domain is in doubt: postfix.doubt_always has it"
    )
    assert "an unknown recipient gets 550" in [text for _, subject, text in found if subject == "example.org"]
    (probed,) = [text for _, subject, text in found if subject.startswith("lmdb:")]
    assert probed.startswith("smtpd asks it: its probe syncagent-doubt-probe@example.")


def test_in_doubt_by_the_list_for_recipients(backup: Backup, hear: Hear) -> None:
    """Where the list for recipients asks the doubt table, the same is heard."""
    asked = f"{ASKED}, reject_unauth_destination"
    main_cf(smtpd_sender_restrictions=None, smtpd_recipient_restrictions=asked)(backup)
    backup.postfix.reload()
    assert {severity for severity, *_ in hear()} == {"ok"}


def test_smtpd_has_not_read_it(backup: Backup, hear: Hear) -> None:
    """Where smtpd has an older main.cf, the probe and unknown recipients in doubt get 550; a reload helps."""
    asked = backup.postfix.config_directory / "main.cf"
    text = asked.read_text()
    backup.postfix.set(smtpd_sender_restrictions=None)
    backup.postfix.reload()
    asked.write_text(text)
    backup.postfix.set()
    errors = [(subject, said) for severity, subject, said in hear() if severity == "error"]
    assert [subject for subject, _ in errors] == ["example.com", f"lmdb:{beside(backup, 'doubt')}"]
    assert all("550" in said for _, said in errors)
    backup.postfix.reload()
    assert {severity for severity, *_ in hear()} == {"ok"}


def test_a_table_that_smtpd_has_not_seen(backup: Backup, hear: Hear) -> None:
    """An smtpd that began without the table answers 451, which is not what the probe must get."""
    table, index = beside(backup, "doubt"), beside(backup, "doubt.lmdb")
    index.unlink()
    table.unlink()
    backup.postfix.reload()
    with backup.postfix.client() as client:  # a process that goes on, without the table
        assert client.verdict("nobody@example.com").code == 451
        backup.sync()
    errors = [said for severity, subject, said in hear() if severity == "error" and subject.startswith("lmdb:")]
    assert not errors or "451" in errors[0]
    backup.postfix.reload()
    assert {severity for severity, *_ in hear()} == {"ok"}


def test_asked_from_a_friend(backup: Backup, hear: Hear) -> None:
    """One of mynetworks that is permitted before the doubt table learns nothing of it, and that is said."""
    main_cf(smtpd_sender_restrictions=f"permit_mynetworks, {FORM_C}", mynetworks="127.0.0.0/8")(backup)
    backup.postfix.reload()
    found = hear()
    assert {severity for severity, *_ in found} == {"ok", "skipped"}
    assert [subject for severity, subject, _ in found if severity == "skipped"] == [
        *("example.com", f"lmdb:{beside(backup, 'doubt')}")
    ]


def test_450_in_the_first_week(backup: Backup, hear: Hear) -> None:
    """Where every unknown recipient gets 450, the probe proves nothing, and nothing is wrong."""
    backup.postfix.set(unknown_relay_recipient_reject_code="450")
    backup.postfix.reload()
    found = hear()
    assert {severity for severity, *_ in found} == {"ok", "skipped"}


@pytest.mark.parametrize(("word", "said"), [("dead", "syncagent stopped"), ("boot", "the host was started")])
def test_the_mark_of_the_switch(word: str, said: str, backup: Backup) -> None:
    """Where the switch fired, that is an error: who, since when, and what ends it."""
    mark = beside(backup, "doubt-switched")
    mark.write_text(f"{time.time() - 60:.0f} {word}\n")
    found = backup.check("--offline")
    mark.unlink()
    ((severity, subject, text),) = of(found, "doubt-switch")
    assert (severity, subject) == ("error", str(mark))
    assert said in text
    assert "since 20" in text
    assert "ends with a run in which every source is asked" in text


def test_the_switch_was_last_seen_long_ago(backup: Backup) -> None:
    """A switch that ran an hour ago, or that will have run in an hour, does not run; five minutes ago it did."""
    file = beside(backup, "doubt-switch-seen")
    now = time.time()
    for moment, severity in ((now - 3600, "error"), (now + 3600, "error"), (now - 300, "ok")):
        os.utime(file, (moment, moment))
        assert [one[0] for one in of(backup.check("--offline"), "doubt-switch")] == [severity]
    seen(backup)


def test_a_sign_of_life_that_is_old(backup: Backup) -> None:
    """A sign of life beyond its limit is an error, with when it was written."""
    files = Files(MapName("lmdb", beside(backup, "doubt"), ""))
    files.touch(time.time() - 7200, 900.0)
    ((severity, subject, text),) = of(backup.check("--offline"), "doubt-switch")
    assert (severity, subject) == ("error", str(beside(backup, "alive")))
    assert "was written at 20" in text
    assert "a limit of 15m" in text


def test_nothing_is_asked_of_a_switch_that_is_not_needed(backup: Backup) -> None:
    """Where main.cf does not name the doubt table, the switch need not run."""
    main_cf(smtpd_sender_restrictions=None)(backup)
    beside(backup, "doubt-switch-seen").unlink()
    assert of(backup.check("--offline"), "doubt-switch")[0][0] == "ok"
    seen(backup)


def test_the_lag(backup: Backup) -> None:
    """Without an agent, a new mailbox waits for the longest time between the last runs; each domain is listed."""
    alive = beside(backup, "alive")
    lines = alive.read_text().splitlines()
    now = time.time()
    alive.write_text("\n".join([*lines[:2], f"runs {now - 700:.0f} {now - 100:.0f} {now:.0f}"]) + "\n")
    text = "a new mailbox may be refused for 10m, the longest time between the last runs"
    assert of(backup.check("--offline"), "lag") == [("ok", "example.com", text), ("ok", "example.org", text)]
    alive.unlink()
    assert "is not known" in of(backup.check("--offline"), "lag")[0][2]
    done = json.loads(syncagent("check", "--offline", "--json", config=backup.file).stdout)
    assert problems(done["findings"])[0]["check"] == "doubt-switch"
