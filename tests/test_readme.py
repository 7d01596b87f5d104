"""The README and the pages in contrib/docs: every block is run, validated, or listed with the reason why not."""

import ast
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import get_args

import pytest

from syncagent.agent.notify import Event
from syncagent.checks import finding
from syncagent.cli.main import command
from syncagent.cli.views.status import doubt_lines, lag_lines
from syncagent.config import load as config
from syncagent.errors import ExitCode
from syncagent.model import Doubt, DoubtKind
from syncagent.postfix.doubt_lines import restrictions
from syncagent.sources.http.recipe import validate
from syncagent.sources.integrity import Heading
from syncagent.sources.line_formats import FORMATS
from syncagent.state.doubt_groups import grouped
from syncagent.state.doubt_status import DoubtStatus
from syncagent.state.lag import Lag
from syncagent.values.types import MapName
from tests.support.authority import Authority
from tests.support.doubt import LIMIT, SCRIPT, DoubtHost
from tests.support.need import need_postfix, need_program
from tests.support.pages import PAGES, README, ROOT, Block, block, blocks, page, section
from tests.support.programs import PATIENCE, wait_until
from tests.support.promtool import need_promtool
from tests.support.run import syncagent
from tests.support.throwaway import CRON_PATH, ThrowawayHost
from tests.test_layers import ORDER

BY_LANGUAGE = {
    "sh": "test_commands",
    "toml": "test_configurations; the recipe: test_commands",
    "ini": "test_drop_ins",
}
"""Languages of fenced blocks of which every block is verified, and by what."""

ONE_BY_ONE = {
    ("fish", "syncagent completion fish | source"): "test_completion_of_fish",
    ("cron", "*/5 * * * *  syncagent  /usr/local/bin/syncagent sync --quiet"): "test_the_cron_lines",
    (
        "cron",
        "*/5 * * * *  syncagent  /opt/syncagent/libexec/doubt-switch.sh /var/lib/syncagent",
    ): "test_the_cron_lines_of_the_switch",
    (
        "cron",
        "5 * * * *  root  /usr/local/sbin/make-list.sh --every 1h /srv/recipients /usr/local/sbin/list-recipients",
    ): "test_the_cron_line_of_make_list",
    ("json", '{"event": "raised", "kind": "stale", "subject": "corp",'): "test_the_event_shown",
    ("json", "{"): "test_commands, with the recipe before it",
    ("slapd.conf", "access to attrs=entry,"): "tests/sources/ldap/test_readme.py",
    ("ldif", "dn: cn=module{0},cn=config"): "tests/sources/ldap/test_readme.py",
    ("ldif", "dn: uid=syncagent,cn=sysaccounts,"): "nothing: it needs a real 389 Directory Server",
    ("text", "ok       sources-answer"): "test_what_check_prints",
    ("text", "doubt: all 5,000"): "test_the_lines_about_doubt",
    ("text", "in grace: 1 recipient stays until"): "tests/test_waiting.py",
    ("text", "# made: 20"): "test_the_dates_of_a_list",
    ("text", "450 4.3.0 <nobody@example.com>"): "test_the_reply_in_doubt",
    ("main.cf", "smtpd_sender_restrictions = "): "test_the_lines_of_main_cf",
    ("text", "trigger ─▶ fetch"): "nothing: a drawing",
    ("text", "redaction, invisible ◀─ errors, addresses"): "test_the_order_of_imports",
}
"""Other blocks, by language and beginning of the first line, and by what each is verified."""

NOT_RUN = {
    "make test": "it is what runs this test",
    "make install": "tests/test_systemd.py runs it, with DESTDIR",
    "apt-get install postfix-lmdb python3-venv": "it changes the packages of the host, and needs a package archive",
    "apt-get install postfix-lmdb python3-venv make": "likewise",
    "python3 -m venv /opt/syncagent": "for the next line; tests/test_systemd.py installs in the same way",
    "/opt/syncagent/bin/pip install .": "it needs a package index; the test puts the command there instead",
    "systemctl daemon-reload": "it needs a running systemd; tests/test_systemd.py verifies the units",
    "systemctl try-restart syncagent": "likewise",
    "systemctl enable --now syncagent.service": "likewise",
    "systemctl status syncagent": "likewise",
    "journalctl -u syncagent -p err": "likewise",
    "systemctl reload syncagent": "likewise",
    "systemctl kill --kill-whom=main -s USR1 syncagent": "likewise",
    "systemctl disable --now syncagent.service": "likewise",
    "systemctl enable --now syncagent-sync.timer": "likewise",
    "systemctl enable --now syncagent-doubt.timer": "likewise; tests/test_doubt_boot.py boots what it enables",
    "systemctl enable syncagent-doubt-boot.service": "likewise; tests/test_doubt_boot.py boots what it enables",
    "systemd-run --pipe --wait -p User=syncagent"
    " -p LoadCredential=corp:/etc/syncagent/credentials/corp syncagent check": "likewise",
}
"""Commands that no test runs, and why."""

WRITTEN_LATER = {"contrib/docs/proof.md"}
"""Pages that a run of `make proof` writes: they may be named before they are there."""

RECIPIENTS = "postmaster@example.com\npostmaster@example.org\nInfo@Example.ORG\n"


def test_it_opens_with_the_two_commands() -> None:
    """Whoever opens the README sees what it is, then `make demo` and `make test`, and the Makefile has both."""
    assert blocks("sh", of=README)[0].commands == ["make demo", "make test"]
    assert page(README).index("make demo") < 700
    assert re.search(r"^demo:", page("Makefile"), re.MULTILINE)
    assert re.search(r"^test:", page("Makefile"), re.MULTILINE)


def test_it_is_short() -> None:
    """The README has what everybody needs; the rest is in pages, all of which it links."""
    assert len(page(README).splitlines()) <= 250
    for name in PAGES:
        assert name in {README, *WRITTEN_LATER} or f"]({name})" in section(README, "## Pages"), name


def test_every_block_is_verified_or_excused() -> None:
    """A block that no test knows is one that may be wrong; each of the others is there once."""
    unknown = dict.fromkeys(ONE_BY_ONE, 0)
    for shown in blocks():
        if shown.language not in BY_LANGUAGE:
            (known,) = (key for key in ONE_BY_ONE if key[0] == shown.language and _begins(shown, key[1]))
            unknown[known] += 1
    assert set(unknown.values()) == {1}


def _begins(shown: Block, first: str) -> bool:
    line = shown.text.partition("\n")[0]
    return line == first or (len(first) > 1 and line.startswith(first))


def test_nothing_is_excused_that_is_not_there() -> None:
    """The list of commands that are not run has no others, and no command that is run as well."""
    there = {line for one in blocks("sh") for line in one.commands}
    assert NOT_RUN.keys() <= there


# --- commands


@contextmanager
def _installed() -> Iterator[ThrowawayHost]:
    """Return a host on which the first block of the quick start was typed."""
    need_postfix("lmdb")
    with ThrowawayHost() as host:
        host.put_program()
        for line in Block(README, "sh", block("sh", "apt-get install", of=README)).commands:
            if line not in NOT_RUN:
                host.type(line)
        yield host


@contextmanager
def _published() -> Iterator[ThrowawayHost]:
    """Return a host on which the quick start was typed to its end, with a Postfix that had not heard of syncagent."""
    with _installed() as host:
        host.start_postfix()
        host.write("/etc/syncagent/syncagent.toml", block("toml", "[postfix]", of=README))
        host.write("/etc/syncagent/recipients", RECIPIENTS)
        assert host.verdict("info@example.org") == 554
        printed = [host.type(line) for line in Block(README, "sh", block("sh", "runuser", of=README)).commands]
        assert printed[-1] == "OK\n", "the last command asks the map"
        yield host


def _the_two_commands(_: Block, tmp_path: Path) -> list[str]:
    """`make demo` syncs the sample list and answers for a known and an unknown recipient, saying by which map."""
    if not (ROOT / ".venv" / "ready").exists():
        pytest.skip("needs the virtual environment of this checkout, which `make` makes")
    copy = tmp_path / "checkout"
    shutil.copytree(ROOT, copy, symlinks=True, ignore=shutil.ignore_patterns(".git", ".venv", ".demo", ".*_cache"))
    (copy / ".venv").symlink_to(ROOT / ".venv")
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "MFLAGS"))}
    done = subprocess.run(
        ["make", "--old-file=.venv/ready", "demo"],
        cwd=copy,
        env=environment,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "with 250" in done.stdout
    assert "with 550" in done.stdout
    assert re.search(r"nothing to do|unchanged", done.stdout)
    assert re.search(r"The map is (lmdb|hash|btree|cdb|texthash):", done.stdout)
    return ["make demo"]


def _install(_: Block, __: Path) -> list[str]:
    """The user and the directories are there, and the command is found."""
    with _installed() as host:
        assert host.run("stat -c '%U %a' /var/lib/syncagent /etc/syncagent") == "syncagent 755\nroot 755\n"
        assert "/usr/sbin/nologin" in host.run("getent passwd syncagent")
        assert host.run("runuser -u syncagent -- syncagent --version").startswith("syncagent ")
        return host.typed


def _main_cf(shown: Block, _: Path) -> list[str]:
    """A Postfix without a main.cf has one then, and starts."""
    need_postfix("lmdb")
    with ThrowawayHost() as host:
        host.put_master_cf()
        host.run("rm -f /etc/postfix/main.cf /var/spool/postfix/pid/*")
        for line in shown.commands:
            host.type(line)
        host.run("postfix status; postconf -n")
        return host.typed


def _quick_start(shown: Block, _: Path) -> list[str]:
    """At its end smtpd answers by the map: known recipients are accepted, unknown ones may try again."""
    with _published() as host:
        assert host.verdict("info@example.org") == 250
        assert host.verdict("nobody@example.org") == 450
        return [line for line in host.typed if line in shown.commands]


def _doubt_by_hand(shown: Block, _: Path) -> list[str]:
    """Each line does what it says, by root: domains are in doubt, are shown, and are not in doubt any more."""
    with _published() as host:
        host.typed.clear()
        for line in shown.commands:
            said = host.type(line)
            assert ("put in doubt by hand" in said) is not line.endswith("--clear"), said
        assert "by hand" not in host.run("syncagent doubt")
        return host.typed


def _without_doubt_table(shown: Block, _: Path) -> list[str]:
    """Without the doubt table in main.cf, unknown recipients get 450 from all of Postfix by the first command."""
    with _published() as host:
        host.run("postconf -X smtpd_sender_restrictions")
        is_end = "-X" in shown.commands[0]
        host.run("postconf -e unknown_relay_recipient_reject_code=450; postfix reload" if is_end else "postfix reload")
        assert host.verdict("nobody@example.org") == (450 if is_end else 550)
        host.typed.clear()
        for line in shown.commands:
            host.type(line)
        assert host.verdict("info@example.org") == 250
        assert host.verdict("nobody@example.org") == (550 if is_end else 450)
        return host.typed


def _put_make_list(host: ThrowawayHost) -> None:
    host.write("/usr/local/sbin/make-list.sh", page("contrib/make-list.sh"), mode="0755")
    host.run("mkdir -p /srv")


def _make_list(shown: Block, _: Path) -> list[str]:
    """It makes a list of a table's keys that `require_end` takes, and that is dated."""
    with _installed() as host:
        host.typed.clear()
        _put_make_list(host)
        host.write("/etc/postfix/vmailbox", "# ours\na@example.com a/\nb@example.com b/\n")
        assert [host.type(line) for line in shown.commands] == [""]
        file = (
            '[postfix]\nmap = "lmdb:/root/m"\nrelay_domains = ["example.com"]\n[state]\ndirectory = "/root/state"\n'
            '[sources.x]\ntype = "file"\npath = "/srv/recipients"\nrequire_end = true\n'
        )
        host.write("/root/syncagent.toml", file)
        printed = host.run("syncagent --config /root/syncagent.toml plan --json")
        (source,) = json.loads(printed)["sources"]
        assert (source["entries"], source["outdated"]) == (2, False)
        assert source["outdated_at"] - source["made"] == 3 * 3600
        return host.typed


def _key_usage(shown: Block, tmp_path: Path) -> list[str]:
    """It shows the extension of a certificate that has it."""
    need_program("openssl")
    Authority().ca_file(tmp_path)
    done = subprocess.run(["sh", "-ec", shown.text], cwd=tmp_path, check=True, timeout=PATIENCE, capture_output=True)
    assert b"X509v3 Key Usage" in done.stdout
    return shown.commands


def _secret(shown: Block, _: Path) -> list[str]:
    """The secret is its owner's alone, and the agent's."""
    with _installed() as host:
        host.typed.clear()
        for line in shown.commands:
            host.type(line, stdin="geheim\n")
        assert host.run("stat -c '%U %a' /etc/syncagent/credentials/corp") == "syncagent 600\n"
        assert host.run("runuser -u syncagent -- cat /etc/syncagent/credentials/corp") == "geheim\n"
        return host.typed


def _metrics_directory(shown: Block, _: Path) -> list[str]:
    """The agent may write the metrics then."""
    with _installed() as host:
        host.typed.clear()
        host.run("install -d -m 0755 /var/lib/prometheus/node-exporter")
        for line in shown.commands:
            host.type(line)
        host.run("runuser -u syncagent -- touch /var/lib/prometheus/node-exporter/syncagent.prom")
        return host.typed


def _alert_rules(shown: Block, _: Path) -> list[str]:
    """The rules are where Prometheus looks, and its own tool finds nothing wrong with them."""
    promtool = need_promtool()
    with ThrowawayHost() as host:
        host.run(f"ln -sf '{promtool}' /usr/local/bin/promtool")
        assert "11 rules found" in [host.type(line, cwd=str(ROOT)) for line in shown.commands][-1]
        return host.typed


def _relay_domains(shown: Block, _: Path) -> list[str]:
    """With the configuration above it, domains of the source are relayed without another change of main.cf."""
    with _published() as host:
        host.typed.clear()
        source = block("toml", "[sources.extra]", of="contrib/docs/sources-file.md")
        host.write("/etc/syncagent/syncagent.toml", block("toml", "[postfix]\nmap", of=shown.page) + source)
        host.write(
            "/etc/syncagent/recipients",
            "# domains: mail.example.net, example.org\ninfo@mail.example.net\n" + RECIPIENTS,
        )
        host.run("runuser -u syncagent -- syncagent sync")
        for line in shown.commands:
            host.type(line)
        host.run("postfix reload")
        assert host.verdict("info@mail.example.net") == 250
        assert host.verdict("info@example.org") == 250
        assert host.verdict("info@example.net") == 554
        return host.typed


def _completion(shown: Block, _: Path) -> list[str]:
    """A shell that has run it completes the command."""
    with _installed() as host:
        host.typed.clear()
        host.type(shown.commands[0] + "\ncomplete -p syncagent", by="bash")
        return [line.partition("\n")[0] for line in host.typed]


def _recipe(shown: Block, tmp_path: Path) -> list[str]:
    """The worked example of a recipe does what is said of it."""
    (tmp_path / "wildduck.toml").write_text(block("toml", "title ="))
    (tmp_path / "wildduck.json").write_text(block("json", '{\n  "answers"'))
    program, *words = shown.commands[0].split()
    assert program == "syncagent"
    assert "@example.org" in syncagent(*words, cwd=tmp_path, check=0).stdout
    return shown.commands


def _container(shown: Block, _: Path) -> list[str]:
    """Postfix starts with the table switched; what syncagent publishes then is in force until it is dead."""
    need_postfix("lmdb")
    with ThrowawayHost() as host:
        doubt = DoubtHost(host, owner="54321")  # nobody's number there
        host.write("/usr/local/libexec/doubt-switch.sh", SCRIPT.read_text(encoding="utf-8"), mode="0755")
        assert "sleep 300;" in shown.text
        host.write("/entrypoint", shown.text.replace("sleep 300;", "sleep 1;"))
        host.run("exec setsid sh /entrypoint </dev/null >/log 2>&1 &")
        assert wait_until(doubt.postfix_runs, pause=0.1)
        assert (doubt.mark, doubt.codes()) == (["boot", "UNKNOWN"], [250, 450, 554])
        doubt.publish()
        assert wait_until(lambda: doubt.codes() == [250, 550, 554], pause=0.1)
        doubt.publish(age=LIMIT + 5)
        assert wait_until(lambda: doubt.mark == ["dead", "UNKNOWN"], pause=0.1)
        assert doubt.codes() == [250, 450, 554]
        return shown.commands


RUN: dict[str, Callable[[Block, Path], list[str]]] = {
    "make demo": _the_two_commands,
    "apt-get install postfix-lmdb python3-venv": _install,
    "cp --no-clobber": _main_cf,
    "runuser -u syncagent -- syncagent check": _quick_start,
    "postconf -e 'unknown_relay_recipient_reject_code = 450'": _without_doubt_table,
    "postconf -X unknown_relay_recipient_reject_code": _without_doubt_table,
    "syncagent doubt --all --for 4h": _doubt_by_hand,
    "syncagent doubt example.com --for 4h": _doubt_by_hand,
    "/usr/local/libexec/doubt-switch.sh /var/lib/syncagent --boot": _container,
    "make-list.sh": _make_list,
    "openssl x509": _key_usage,
    "install -d -o syncagent -g syncagent -m 0700 /etc/syncagent/credentials": _secret,
    "chgrp syncagent": _metrics_directory,
    "install -D -m 0644 contrib/monitoring": _alert_rules,
    "postconf -e 'relay_domains = lmdb:": _relay_domains,
    'eval "$(syncagent completion': _completion,
    "syncagent recipe test": _recipe,
}
"""By how a block begins: what runs its commands, and returns those that it ran. Others have to be in NOT_RUN."""


@pytest.mark.parametrize("shown", blocks("sh"), ids=lambda shown: shown.name)
def test_commands(shown: Block, tmp_path: Path) -> None:
    """Every command of a block does what the page says of it, or is listed with the reason why no test runs it."""
    left = [line for line in shown.commands if line not in NOT_RUN]
    if left:
        run = next((run for beginning, run in RUN.items() if shown.text.startswith(beginning)), None)
        assert run, f"no test runs {left}"
        assert run(shown, tmp_path) == left


def _as_cron(host: ThrowawayHost, line: str, *, status: int = 0) -> str:
    """Run the job of a line in /etc/cron.d as cron does, as its user; return what cron would send."""
    *_, user, job = line.split(maxsplit=2 if line.startswith("@") else 6)
    shell = f"/usr/bin/env SHELL=/bin/sh PATH={CRON_PATH} /bin/sh -c '{job}'"
    return host.run(f"/usr/sbin/runuser -u {user} -- {shell} || test $? -eq {status}", path=CRON_PATH)


def test_the_cron_lines() -> None:
    """They do their work as cron runs them: with /bin/sh, as their user, without the PATH of a login."""
    sync, switch, boot = blocks("cron", of=README)[0].text.splitlines()
    with _published() as host:
        host.write("/opt/syncagent/libexec/doubt-switch.sh", SCRIPT.read_text(encoding="utf-8"), mode="0755")
        host.write("/etc/syncagent/recipients", RECIPIENTS + "new@example.com\n")
        assert _as_cron(host, sync) == "", "--quiet prints nothing while all is well"
        assert host.verdict("new@example.com") == 250
        host.run("mv /etc/syncagent/recipients /etc/syncagent/away")
        assert "WARNING: source" in _as_cron(host, sync, status=75)
        assert _as_cron(host, sync, status=75) == "", "a failure is told once a day"
        host.run("mv /etc/syncagent/away /etc/syncagent/recipients")
        assert _as_cron(host, sync).startswith("over: source")
        assert _as_cron(host, switch) == ""
        host.run("test ! -e /var/lib/syncagent/doubt-switched")
        assert _as_cron(host, boot) == ""
        assert host.run("cut -d ' ' -f 2 /var/lib/syncagent/doubt-switched") == "boot\n"
        assert [host.verdict(name) for name in ("info@example.org", "nobody@example.org")] == [250, 450]


def test_the_cron_line_of_make_list() -> None:
    """As cron runs it: it prints nothing, and the list is there; what fails is sent to a person."""
    (shown,) = blocks("cron", of="contrib/docs/sources-file.md")
    with _installed() as host:
        _put_make_list(host)
        host.write("/usr/local/sbin/list-recipients", "#!/bin/sh\necho a@example.com\n", mode="0755")
        line = shown.text.strip()
        assert _as_cron(host, line) == ""
        assert host.run("grep -c a@example.com /srv/recipients") == "1\n"


def test_the_reply_in_doubt() -> None:
    """What smtpd says to an unknown recipient is what the page has."""
    (shown,) = blocks("text", of="contrib/docs/doubt.md")
    with _published() as host:
        script = "import smtplib\nclient = smtplib.SMTP('127.0.0.1')\nclient.ehlo()\nclient.mail('')\n"
        asking = f"{script}print(*map(str, client.rcpt('nobody@example.com')))\n"
        code, said = host.run(f"'{sys.executable}' -", stdin=asking).split(" ", 1)
        assert shown.text.strip() == f"{code} {ast.literal_eval(said).decode()}"


def test_the_dates_of_a_list() -> None:
    """The lines shown are read as the page says."""
    (shown,) = blocks("text", of="contrib/docs/sources-file.md")
    heading = Heading("list")
    assert list(heading.through([shown.text.encode()]))
    assert heading.dates.expires - heading.dates.made == 3 * 3600


def test_the_lines_of_main_cf() -> None:
    """They are those that `init` prints, and those of the README's quick start."""
    (shown,) = blocks("main.cf")
    names = [MapName.parse(f"lmdb:/var/lib/syncagent/{name}") for name in ("relay_recipients", "doubt")]
    ours = restrictions(*names)
    assert [line.strip().rstrip(",") for line in shown.text.splitlines()[1:]] == list(ours)
    assert f"postconf -e 'smtpd_sender_restrictions = {', '.join(ours)}'" in page(README)


def test_the_cron_lines_of_the_switch() -> None:
    """As cron runs them, as their user: the first switches once syncagent is dead, the second in any case."""
    need_postfix("lmdb")
    (shown,) = blocks("cron", of="contrib/docs/operations.md")
    regular, boot = shown.text.splitlines()
    assert regular.split()[:5] == ["*/5", "*", "*", "*", "*"]
    assert boot.split()[0] == "@reboot"
    with ThrowawayHost() as host:
        doubt = DoubtHost(host)
        assert _as_cron(host, regular) == ""
        assert doubt.mark == []
        _as_cron(host, boot)
        assert doubt.mark == ["boot", "syncagent"]
        doubt.publish(age=LIMIT + 5)
        _as_cron(host, regular)
        assert doubt.mark == ["dead", "syncagent"]


def test_completion_of_fish() -> None:
    """fish, too, completes the command after its line."""
    ((line, *_),) = (one.commands for one in blocks("fish"))
    need_program("fish")
    with _installed() as host:
        assert "approve" in host.type(f"{line}\ncomplete --do-complete 'syncagent '", by="fish")


# --- configurations, units, events


RECIPES = [one for one in blocks("toml") if one.text.startswith("title =")]
CONFIGURATIONS = [one for one in blocks("toml") if one not in RECIPES]


@pytest.mark.parametrize("shown", CONFIGURATIONS, ids=lambda shown: shown.name)
def test_configurations(shown: Block, tmp_path: Path) -> None:
    """Every TOML block is a configuration, or the rest of one, that loads."""
    text = shown.text
    if "[postfix]" not in text:
        text = '[postfix]\nmap = "lmdb:/m"\nrelay_domains = ["example.com", "example.org"]\n' + text
    if "[sources." not in text:
        text += '[sources.x]\ntype = "file"\npath = "x"\n'
    (tmp_path / "wildduck.toml").write_text(RECIPES[0].text)
    file = tmp_path / "syncagent.toml"
    file.write_text(text.replace("/etc/syncagent/wildduck.toml", f"{tmp_path}/wildduck.toml"))
    config.load(file)


AGENT_UNITS = ("syncagent.service", "syncagent-sync.service")


def _drop_ins() -> Iterator[tuple[Block, str]]:
    """Yield each drop-in with the units that it is for."""
    for shown in blocks("ini"):
        if "doubt-switch.sh" in shown.text:
            yield shown, "syncagent-doubt-boot.service" if "--boot" in shown.text else "syncagent-doubt.service"
        else:
            yield from ((shown, unit) for unit in AGENT_UNITS)


@pytest.mark.parametrize(("shown", "unit"), list(_drop_ins()), ids=lambda given: getattr(given, "name", given))
def test_drop_ins(shown: Block, unit: str, tmp_path: Path) -> None:
    """What `systemctl edit` is to be given passes `systemd-analyze verify`, with each of the units."""
    (tmp_path / f"{unit}.d").mkdir()
    for file, text in (
        (tmp_path / unit, (ROOT / "contrib" / "systemd" / unit).read_text(encoding="utf-8")),
        (tmp_path / f"{unit}.d" / "override.conf", shown.text),
    ):
        file.write_text(re.sub(r"/opt/syncagent/\S+", "/bin/true", text), encoding="utf-8")
    words = [need_program("systemd-analyze"), "verify", "--man=no", str(tmp_path / unit)]
    done = subprocess.run(words, capture_output=True, text=True, timeout=PATIENCE, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_the_event_shown() -> None:
    """The JSON of an event has the fields that are sent, in their order."""
    (shown,) = blocks("json", of="contrib/docs/monitoring.md")
    assert tuple(json.loads(shown.text)) == Event.__struct_fields__


def test_the_lines_about_doubt() -> None:
    """The example has what `status` prints of such a doubt, but for the times."""
    (shown,) = blocks("text", of="contrib/docs/monitoring.md")
    names, now = [f"d{number}.example" for number in range(5000)], 1e9
    doubts = [Doubt(name, "source-failing", "corp", now) for name in names]
    doubts += [Doubt("example.com", "hold", "percent", now, now, lingers_until=now)]
    table = DoubtStatus(
        table="lmdb:/doubt",
        published=True,
        groups=grouped(doubts, names),
        ages={},
        addresses=12,
        addresses_until=now,
        due=now,
        switched=None,
        switch_seen=now - 120,
        alive_until=now,
        error="",
    )
    lags = [Lag(name, "corp", 300.0, by_agent=True) for name in names]
    assert _timeless(shown.text.splitlines()) == _timeless([*doubt_lines(table, now), *lag_lines(lags)])


def _timeless(lines: Iterable[str]) -> list[str]:
    """Return the lines without their times."""
    return [re.sub(r"[0-9]{4}-[0-9]{2}-[0-9]{2} [0-9:]{8} \w+", "TIME", line) for line in lines]


def test_what_check_prints() -> None:
    """The example has findings and remedies of a real run, in its order; the words of a finding are left out."""
    (shown,) = (one for one in blocks("text", of="contrib/docs/operations.md") if "sources-answer" in one.text)
    with _published() as host:
        host.run("postconf -e 'relay_domains = example.com'; touch -d '1 minute ago' /etc/postfix/main.cf")
        printed = iter(host.run("runuser -u syncagent -- syncagent check --offline || test $? = 1").splitlines())
        for line in shown.text.splitlines():
            beginning = line.partition("...")[0]
            assert any(one.startswith(beginning) for one in printed), line


def test_errors_quoted_are_those_of_the_program() -> None:
    """Each message in the table of errors is one that the LDAP source may give: who looks for it finds it."""
    table = section("contrib/docs/sources-ldap.md", "## Errors and remedies")
    quoted = {
        text for row in re.findall(r"^\| (.+?) \|", table, re.MULTILINE) for text in re.findall(r"`([^`]+)`", row)
    }
    assert len(quoted) > 10
    texts = {
        node.value
        for module in (ROOT / "syncagent").rglob("*.py")
        for node in ast.walk(ast.parse(module.read_text(encoding="utf-8")))
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    }
    for message in quoted:
        for part in filter(None, (part.strip() for part in message.split("…"))):
            words = re.sub(r" ?\w+ \(\d+\)", "", part).strip()  # the name of a result code is the server's
            assert any(words in text for text in texts), words


# --- tables


def test_verbs_and_exit_statuses_are_those_of_the_program() -> None:
    """Every verb is in the README's table, every `syncagent VERB` in a page exists, every exit status is explained."""
    rows = set(re.findall(r"^\| `syncagent ([a-z]+)\b", section(README, "## The verbs"), re.MULTILINE))
    assert rows == command.commands.keys()
    named = {verb for name in PAGES for verb in re.findall(r"`syncagent (?:--config FILE )?([a-z]+)\b", page(name))}
    assert named <= command.commands.keys(), "a page names a verb that is not there"
    table = section(README, "## Exit status")
    for code in ExitCode:
        assert re.search(rf"^\| (?:[\d, ]+, )?{int(code)}(?:, [\d, ]+)? \|", table, re.MULTILINE), code


def test_every_kind_of_remedy_has_its_row() -> None:
    """The page on check names the kinds of remedies that its JSON has, and their fields."""
    chapter = section("contrib/docs/operations.md", "## `syncagent check`")
    table = chapter.partition("| `kind` |")[2].partition("\n\n")[0]
    rows = dict(re.findall(r"^\| `(\w+)` \| [^|]+ \| (.+) \|$", table, re.MULTILINE))
    common = finding.Remedy.__struct_fields__
    assert {kind: set(re.findall(r"`(\w+)`", fields)) for kind, fields in rows.items()} == {
        step.__struct_config__.tag: set(step.__struct_fields__) - set(common) for step in get_args(finding.Step)
    }
    assert all(f"`{field}`" in chapter for field in common)


def test_options_named_are_there() -> None:
    """Every option of syncagent that a page names exists."""
    named = {
        option
        for name in PAGES
        for span in re.findall(r"`((?:syncagent |--)[^`]*)`", page(name))
        for option in re.findall(r"--[a-z-]+", span)
    }
    commands = [command, *command.commands.values()]
    known = {option for one in commands for parameter in one.params for option in parameter.opts}
    assert {"--quiet", "--accept-incomplete"} <= named <= known | {"--help", "--every"}  # --every is of make-list.sh


def test_every_shipped_recipe_has_its_row_and_its_example() -> None:
    """The page says of each recipe which credentials it needs and what it was checked against, and shows it."""
    text = page("contrib/docs/sources-http.md")
    for name in validate.names():
        row = rf"^\| \[`{name}`\]\(#\S+\) \| .*(?:token_file|password_file).* \| .+ \|$"
        assert re.search(row, text, re.MULTILINE), name
        assert any(f'recipe = "{name}"' in one.text for one in blocks("toml", of="contrib/docs/sources-http.md")), name


def test_every_reason_of_doubt_has_its_row() -> None:
    """The page on doubt says of each reason when it begins and ends, and names no other."""
    rows = re.findall(
        r"^\| (`[a-z`, -]+`) \|", section("contrib/docs/doubt.md", "## When a domain is in doubt"), re.MULTILINE
    )
    assert sorted(re.findall(r"`([a-z-]+)`", " ".join(rows))) == sorted(get_args(DoubtKind))


def test_every_file_format_has_its_row() -> None:
    """The page on files says of each format what it reads."""
    table = section("contrib/docs/sources-file.md", "## Files").partition("| `format` | content |\n")[2]
    assert set(re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE)) == FORMATS.keys()


def test_configuration_keys_are_described_once() -> None:
    """The table of keys is syncagent.toml(5), which is generated; no page has one by hand, and the README links it."""
    for name in PAGES:
        assert not re.search(r"^\|[^\n]*\bdefault\b[^\n]*\|\n\|[ -]+\|", page(name), re.MULTILINE), name
    assert "](contrib/man/syncagent.toml.5)" in page(README)


# --- links and paths


DOCUMENTS = (*PAGES, "CONTRIBUTING.md", "CHANGELOG.md")


def _anchors(name: str) -> set[str]:
    """Return the anchors of a page's headings, as GitHub makes them."""
    text = re.sub(r"^```.*?^```$", "", page(name), flags=re.MULTILINE | re.DOTALL)
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.casefold()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("name", DOCUMENTS)
def test_links_lead_somewhere(name: str) -> None:
    """Every link into the repository names a file that is there, and a heading in it."""
    for target in re.findall(r"\]\(([^)\s]+)\)", page(name)):
        if "://" in target:
            continue
        path, _, anchor = target.partition("#")
        file = (ROOT / name).parent / path if path else ROOT / name
        assert file.exists(), target
        if anchor:
            assert anchor in _anchors(str(file.resolve().relative_to(ROOT))), target


@pytest.mark.parametrize("name", [name for name in DOCUMENTS if name not in {README, "CHANGELOG.md"}])
def test_paths_named_are_there(name: str) -> None:
    """Every path of the repository that a page names exists; x.toml and the like stand for a new file."""
    roots = "|".join(sorted(path.name for path in ROOT.iterdir() if path.is_dir() and path.name != ".git"))
    for path in re.findall(rf"`((?:{roots})/[^`\s]*)`", page(name)):
        if Path(path).stem == "x":
            assert (ROOT / path).parent.is_dir(), path
        else:
            assert path in WRITTEN_LATER or list(ROOT.glob(path.rstrip("/"))), path


def test_the_order_of_imports() -> None:
    """The drawing of the order of imports has the packages in the order that is enforced."""
    drawn = next(shown.text for shown in blocks("text") if shown.text.startswith("redaction"))
    sets = [frozenset(names.strip().split(", ")) for names in drawn.split("◀─")]
    assert sets == [names for names in ORDER if names != {"__main__"}]
    for name in ("CONTRIBUTING.md", "contrib/docs/architecture.md"):
        rows = re.findall(r"^\| `syncagent/(\w+)/` \|", page(name), re.MULTILINE)
        ranks = [next(rank for rank, names in enumerate(ORDER) if row in names) for row in rows]
        assert ranks == sorted(ranks), f"{name} has the packages in another order"


@pytest.mark.parametrize("name", ["CONTRIBUTING.md", "contrib/docs/architecture.md"])
def test_every_package_is_in_the_map(name: str) -> None:
    """The map of the house has each package."""
    for package in (ROOT / "syncagent").iterdir():
        if (package / "__init__.py").exists():
            assert f"| `syncagent/{package.name}/` |" in page(name), package.name


def test_names_in_start_here_are_there() -> None:
    """Each name that a row of "To add X, start here" gives beside a file is in one of the files of that row."""
    rows = [line for line in section("CONTRIBUTING.md", "## To add X, start here").splitlines() if line[:1] == "|"][2:]
    assert len(rows) > 10
    for row in rows:
        ticked = re.findall(r"`([^`]+)`", row)
        files = [file for name in ticked for file in _files(name)]
        text = "\n".join(file.read_text(encoding="utf-8") for file in files)
        for name in ticked:
            if re.fullmatch(r"[A-Za-z_]+", name):
                assert re.search(rf"\b{name}\b", text), f"{name} is in none of the files of: {row}"


def _files(name: str) -> list[Path]:
    """Return the text files of a path in the repository, none if it is no path."""
    path = ROOT / name
    if path.is_dir():
        return sorted(path.rglob("*.py"))
    return [path] if path.is_file() else []
