"""How `check` tells what it found, and that nothing stops it."""

import json
import os
import pwd
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from syncagent import checks
from syncagent.checks import local, postfix, smtpd
from syncagent.checks.context import Context
from syncagent.checks.finding import Check
from syncagent.cli.views.check import remedies_text, remedy_text
from syncagent.config import load as config
from tests.checks import Backup, problems
from tests.sources import write_config
from tests.support.need import need_postfix, need_root
from tests.support.postmap import postmap_build, settle
from tests.support.run import syncagent
from tests.support.terminal import Terminal

IDS = [
    *("remembered", "asked"),
    *("configuration", "secrets-are-kept", "state-is-ours", "paths-are-ours", "map-can-be-written"),
    *("tables-are-files", "lock-is-free", "postmap-is-there", "sources-answer"),
    *("recipients-are-listed", "rejected-entries"),
    *("data-is-current", "data-is-dated", "data-unchanged"),
    *("doubt-not-in-force", "doubt-switch", "lag"),
    *("main-cf-is-understood", "no-postfix"),
    *("map-is-named", "tables-can-be-asked", "no-other-tables", "type-is-there", "not-redirected", "index-is-current"),
    *("domains-are-relayed", "relayed-domains-are-ours", "domains-have-recipients", "recipients-are-relayed"),
    *("domains-are-of-one-class", "catch-alls-are-wanted", "domains-have-a-postmaster", "extensions-are-understood"),
    *("unlisted-are-rejected", "unknown-are-refused", "nothing-accepts-before", "local-recipients-are-known"),
    *("relaying-is-closed", "few-are-trusted", "no-mx-backup", "queue-lives-long", "nothing-is-overridden"),
    *("doubt-is-asked", "doubt-is-not-bypassed", "doubt-is-published", "domain-not-relayed"),
    *("offline", "mx-records", "verdicts"),
]


def test_as_text(backup: Backup) -> None:
    """A line for each finding, what mends it below, whole and ready to copy, and what comes after that."""
    backup.postfix.set(relay_domains="example.com")
    done = syncagent("check", "--offline", config=backup.file, check=1)
    lines = done.stdout.splitlines()
    at = next(number for number, line in enumerate(lines) if line.startswith("error"))
    assert lines[at].split(maxsplit=3)[1:3] == ["domains-are-relayed", "example.org:"]
    at_config = f"-c {backup.postfix.config_directory}"
    assert lines[at + 1].strip() == f"postconf {at_config} -e 'relay_domains = example.com, example.org'"
    assert lines[-2].split(maxsplit=1) == ["then", f"postfix {at_config} reload"]
    assert lines[-1] == "errors: 1, warnings: 0"
    assert "\33" not in done.stdout
    assert done.stderr == ""


def test_on_a_terminal(backup: Backup) -> None:
    """The same in colour, a mend that is longer than a line still one line."""
    domains = ", ".join(["example.com", *(f"domain-number-{number}.example.net" for number in range(20))])
    backup.postfix.set(relay_domains=domains)
    command = (sys.executable, "-m", "syncagent", "--config", backup.file, "check", "--offline")
    terminal = Terminal(*command, env={"TERM": "xterm-256color"})
    assert terminal.ended() == 1
    assert "\33[1;31merror" in terminal.said
    assert "\33[32mok" in terminal.said
    assert f"relay_domains = {domains}, example.org'" in terminal.said


def test_as_json(backup: Backup) -> None:
    """One object: the findings, how each source did, and the exit status."""
    backup.postfix.set(maximal_queue_lifetime="1h")
    done = syncagent("check", "--offline", "--json", config=backup.file, check=1)
    told = json.loads(done.stdout)
    assert told.keys() == {"findings", "sources", "errors", "warnings", "then", "exit_code"}
    (found,) = problems(told["findings"])
    assert found["check"] == "queue-lives-long"
    command = f"postconf -c {backup.postfix.config_directory} -e 'maximal_queue_lifetime = 5d'"
    assert found["mend"] == command
    assert found["remedies"] == [{"kind": "shell", "when": "", "needs": "reload", "command": command}]
    assert [(one["name"], one["state"], one["entries"]) for one in told["sources"]] == [("list", "whole", 4)]
    assert done.stderr == ""


def test_the_ids_are_an_interface() -> None:
    """Each check has the ID that it always had, and a sentence for when all is well."""
    registered = checks.registered()
    assert [check.id for check in registered] == IDS
    assert all(check.ok and not check.ok.endswith(".") for check in registered)


def test_every_problem_at_once(backup: Backup) -> None:
    """A host where much is wrong is told of all of it in one run."""
    backup.list.unlink()
    backup.postfix.set(
        relay_recipient_maps=None, relay_domains="example.net", maximal_queue_lifetime="1h", soft_bounce="yes"
    )
    done = syncagent("check", "--offline", "--json", config=backup.file, check=1)
    names = {one["check"] for one in problems(json.loads(done.stdout)["findings"])}
    assert names >= {"sources-answer", "map-is-named", "domains-are-relayed", "relayed-domains-are-ours"}
    assert names >= {"queue-lives-long", "unknown-are-refused"}


def test_a_check_that_fails(backup: Backup, monkeypatch: pytest.MonkeyPatch) -> None:
    """A fault in a check is a finding, and the others are made."""

    def faulty(_context: Context) -> Iterator[checks.Finding]:
        raise RuntimeError("the moon is full")

    monkeypatch.setattr(smtpd, "CHECKS", (Check("faulty", "", faulty), *smtpd.CHECKS))
    options = checks.Options(lambda _step, _count: None, offline=True)
    found = checks.run(config.load(backup.file), options)
    (problem,) = [one for one in found.findings if one.severity in {"error", "warning"}]
    assert problem.check == "faulty"
    assert problem.text == "the check itself failed: RuntimeError: the moon is full"
    assert found.exit_code == 1
    assert {one.check for one in found.findings} >= {"queue-lives-long", "map-is-named", "sources-answer"}


@pytest.mark.parametrize("name", ["virtual_alias_maps", "relay_domains", "mydestination"])
def test_a_table_that_cannot_be_asked(name: str, backup: Backup) -> None:
    """A table whose server is down is told of, and the other checks are made."""
    table = "socketmap:unix:/nonexistent/socket:x"
    backup.postfix.set(local_recipient_maps=None)
    backup.postfix.set(**{name: f"{table}, example.com, example.org" if name == "relay_domains" else table})
    found = backup.check("--offline")
    assert {(one["check"], one["severity"], one["subject"]) for one in problems(found)} == {
        ("tables-can-be-asked", "warning", table)
    }
    assert {one["check"] for one in found} >= {"queue-lives-long", "map-is-named", "sources-answer"}


def test_a_table_of_another_user(backup: Backup) -> None:
    """Where all is right, but a table is not ours to read, nothing is said against it, and what it may have is open."""
    need_root()
    for name in ("domains", "virtual"):
        path = backup.postfix.directory / name
        path.write_text("example.com x\nexample.org x\n" if name == "domains" else "x@example.com y@example.net\n")
        postmap_build(backup.postfix.config_directory, f"hash:{path}")
        for one in (path, path.with_name(f"{name}.db")):
            one.chmod(0o600)
    at = "hash:$config_directory/../"
    backup.postfix.set(relay_domains=f"{at}domains", virtual_alias_maps=f"{at}virtual")
    for path in (backup.postfix.map_path.parent, *backup.postfix.map_path.parent.iterdir()):
        os.chown(path, 65534, 65534)
    for path in (backup.directory / "state", *(backup.directory / "state").rglob("*")):
        os.chown(path, 65534, 65534)
    found = backup.check("--offline")
    assert problems(found) == []
    skipped = [one["text"] for one in found if (one["check"], one["severity"]) == ("domains-are-relayed", "skipped")]
    assert len(skipped) == 1
    assert "/domains cannot be asked" in skipped[0]


def test_what_brings_a_table_into_force(backup: Backup) -> None:
    """A table that was not there when smtpd began is one only after a reload, which is said."""
    path = backup.postfix.directory / "domains"
    path.write_text("example.com x\nexample.org x\n")
    backup.postfix.set(relay_domains=f"hash:{path}")
    backup.postfix.map_path.with_suffix(".lmdb").unlink()
    settle(backup.postfix.config_directory / "main.cf")
    backup.postfix.start()
    assert backup.postfix.verdict("anna@example.com").code == 451
    told = json.loads(syncagent("check", "--offline", "--json", config=backup.file, check=1).stdout)
    assert told["then"] == f"postfix -c {backup.postfix.config_directory} reload"
    mends = {one["check"]: one["mend"] for one in problems(told["findings"])}
    assert mends.keys() == {"tables-can-be-asked", "index-is-current"}
    assert mends["index-is-current"].endswith(f": {told['then']}")
    backup.type_in("\n".join(mends.values()))
    backup.postfix.reload()
    assert backup.postfix.verdict("anna@example.com").code == 250


def test_a_domain_of_a_table(backup: Backup) -> None:
    """A domain that is in a table or file is to be taken out there, one that is in main.cf from that."""
    path = backup.postfix.directory / "domains"
    path.write_text("example.net\n")
    backup.postfix.set(relay_domains=f"{path}, inline:{{{{test.example=x}}}}, example.com, example.edu, example.org")
    found = [one for one in problems(backup.check("--offline")) if one["check"] == "relayed-domains-are-ours"]
    assert [one["subject"] for one in found] == ["example.net", "test.example", "example.edu"]
    (mend,) = {one["mend"] for one in found}
    (command, *others) = [line for line in mend.splitlines() if line.startswith("# or, ")]
    assert command.endswith("example.com, example.org'")
    assert "example.edu" not in command
    assert [line.partition(", take ")[2] for line in others] == [
        f"example.net out of {path}",
        "test.example out of inline:{{test.example=x}}",
    ]


def test_a_damaged_ledger(backup: Backup) -> None:
    """A state that cannot be read is a finding with its mend, and the other checks are made."""
    (backup.directory / "state" / "state.db").write_bytes(b"no database" * 1000)
    (found,) = problems(backup.check("--offline"))
    assert found["check"] == "remembered"
    backup.type_in(found["mend"])
    assert problems(backup.check("--offline")) == []


def test_no_postfix(tmp_path: Path) -> None:
    """Without a main.cf what is not looked at is said, and nothing else is asked."""
    (tmp_path / "list").write_text("a@example.com\n")
    file = write_config(tmp_path, '[sources.f]\ntype = "file"\npath = "list"\n')
    done = syncagent("check", "--dns", "127.0.0.1:9", config=file, check=0)
    assert "neither Postfix nor DNS nor SMTP is looked at" in done.stdout
    assert done.stdout.endswith("errors: 0, warnings: 1\n")


def test_before_the_first_sync(backup: Backup) -> None:
    """Before anything is published, what Postfix lacks is left to do: warnings, in the order to type them."""
    for path in backup.postfix.map_path.parent.iterdir():
        path.unlink()
    backup.postfix.set(relay_recipient_maps=None, relay_domains=None)
    found = problems(backup.check("--offline"))
    assert {one["severity"] for one in found} == {"warning"}
    assert {one["check"] for one in found} == {"map-is-named", "domains-are-relayed", "index-is-current"}
    backup.type_in("\n".join(one["mend"] for one in found))
    assert problems(backup.check("--offline")) == []


def test_as_another_user(backup: Backup) -> None:
    """By root, over another user's state, it is that user who may or may not write; the mend is root's to type."""
    need_root()
    for path in (backup.directory / "state", *(backup.directory / "state").rglob("*")):
        os.chown(path, 65534, 65534)
    (found,) = problems(backup.check("--offline"))
    assert found["check"] == "map-can-be-written"
    assert "may not write there; it is root's" in found["text"]
    backup.type_in(found["mend"])
    assert problems(backup.check("--offline")) == []


@pytest.mark.parametrize("there", [True, False])
def test_the_agent_is_another_user(there: bool, backup: Backup, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: FBT001
    """By root, before the first run, a directory is to be made for the user that the agent runs as, as by init."""
    need_root()
    shutil.rmtree(backup.directory / "state")
    shutil.rmtree(backup.postfix.map_path.parent)
    getpwnam = pwd.getpwnam

    def find(name: str) -> pwd.struct_passwd:
        if name != "syncagent":
            return getpwnam(name)
        if there:
            return getpwnam("nobody")
        raise KeyError(name)

    monkeypatch.setattr(pwd, "getpwnam", find)
    options = checks.Options(lambda _step, _count: None, offline=True)
    (found,) = local.map_can_be_written(Context(config.load(backup.file), options))
    owner = ["-o", "syncagent", "-g", "syncagent"] if there else ["-o", "root"]
    (remedy,) = found.remedies
    assert remedy_text(remedy).split() == ["install", "-d", *owner, "-m", "0755", str(backup.postfix.map_path.parent)]


def test_an_address_of_ipv6(backup: Backup) -> None:
    """A server may be named by an IPv6 address, in brackets, with or without a port."""
    done = syncagent("check", "--smtp", "[::1]", "--dns", "[::1]:9", "--json", config=backup.file, check=1)
    found = {one["check"]: one for one in json.loads(done.stdout)["findings"]}
    assert "[::1]:9 gives no answer" in found["mx-records"]["text"]
    assert found["verdicts"]["subject"] == "[::1]:25"


@pytest.mark.parametrize("trouble", ["no Berkeley DB", "redirection"])
def test_hash_where_it_is_leaving(trouble: str) -> None:
    """With a hash map, on a Postfix without Berkeley DB or one that redirects (3.11), the mend is another type.

    What such a Postfix says is set here, since the one of the test has Berkeley DB; the mend is typed for real.
    """
    need_postfix("hash")
    need_postfix("lmdb")
    backup = Backup.make("hash")
    try:
        backup.publish()
        options = checks.Options(lambda _step, _count: None, offline=True)
        context = Context(config.load(backup.file), options)
        if trouble == "redirection":
            context.live.migration_level = "enable-redirect"
            (found,) = postfix.not_redirected(context)
        else:
            context.live.main.types = frozenset({"cdb", "lmdb", "texthash"})
            (found,) = postfix.type_is_there(context)
        assert found.severity == ("warning" if trouble == "redirection" else "error")
        mend = remedies_text(found.remedies)
        backup.type_in(mend.replace("syncagent sync", f"syncagent --config {backup.file} sync"))
        assert problems(backup.check("--offline")) == []
        assert backup.postfix.map_path.with_suffix(".lmdb").exists()
    finally:
        backup.postfix.stop()
