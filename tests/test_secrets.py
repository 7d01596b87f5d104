"""What leaves the program: no secret of its own, though a server echoes it, however it is encoded or cut."""

import base64
import contextlib
import functools
import json
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from syncagent import redaction
from syncagent.errors import SourceError, printable
from syncagent.state.snapshot import SnapshotWriter, rejects_of
from tests.agent import Station
from tests.scenario import Scenario, people
from tests.support.agent import Agent
from tests.support.leaks import in_directory, leaks, spellings
from tests.support.programs import PATIENCE
from tests.support.scripted_http import Asked, ScriptedHTTP
from tests.support.scripted_ldap import ScriptedLDAP, Trouble

USER = "backup"
TOKEN = "tok+4711/Qx%zz~9-'w\"ort'=="
"""A token of a header: ASCII, with what encodings change."""
PASSWORD = 'Pä55 w"ort\\(q)*&+😀/Zzz'
OTHERS = ("other-secret-1", "other-secret-2")


def keep(directory: Path, secret: str) -> str:
    """Write a secret where only its owner can read it; return the path."""
    path = directory / "secret"
    path.touch(mode=0o600)
    path.write_text(f"{secret}\n", encoding="utf-8")
    return str(path)


# --- the texts


@pytest.mark.parametrize("form", sorted(spellings("x", "y")))
@pytest.mark.parametrize("secret", [TOKEN, PASSWORD])
def test_every_form_is_redacted(secret: str, form: str) -> None:
    """Each is hidden, alone and among others, in texts and errors, and so is one of several secrets."""
    for one in (*OTHERS, secret):
        redaction.remember(one)
    spelled = spellings(secret, USER)[form]
    for text in (spelled, f"bad: <{spelled}>, {OTHERS[0]}!", f'{{"token": "{spelled}"}}'):
        assert not leaks(redaction.redacted(text), secret, USER), form
        assert not leaks(str(SourceError(text)), secret, USER), form
        assert OTHERS[0] not in printable(text)


@pytest.mark.parametrize("form", ["plain", "percent", "json", "basic"])
def test_a_text_is_redacted_before_it_is_cut(form: str) -> None:
    """No limit leaves the beginning of a secret."""
    redaction.remember(TOKEN)
    text = f"the token is {spellings(TOKEN, USER)[form]}"
    for limit in range(len(text)):
        assert not leaks(printable(text, limit), TOKEN, USER)


def test_other_texts_stay_as_they_are() -> None:
    """Without the secret nothing changes, whatever escapes it has; a short secret is hidden as a word alone."""
    text = r"100% of a%20b \u0041 &amp; &#65; \x41 ein Umlaut ä"
    redaction.remember(TOKEN)
    redaction.remember("")
    assert redaction.redacted(text) == text
    redaction.remember("ort")
    assert redaction.redacted("worte, ort; Ort: orte") == f"worte, {redaction.HIDDEN}; {redaction.HIDDEN}: orte"


def test_many_secrets_are_bounded() -> None:
    """The last ones are known: an agent gets a new access token each hour."""
    for number in range(2000):
        redaction.remember(f"access-token-{number:05}")
    assert redaction.redacted("access-token-01999") == redaction.HIDDEN
    assert redaction.redacted("access-token-00000") == "access-token-00000"


# --- the keys of entries


def test_the_key_of_an_entry_has_no_secret(tmp_path: Path) -> None:
    """Of a rejected one it is cut as its spelling; keys stay different, and are found again as they were."""
    redaction.remember(TOKEN)
    rejected = [TOKEN, f"{'x' * 4090} {TOKEN}", "bert@example.com:{SSHA}s3cret1", "bert@example.com:{SSHA}s3cret2"]
    first = SnapshotWriter(tmp_path, ignore_catch_alls=True)
    first.put([("anna@example.com", f"id {TOKEN}", ""), ("carl@example.com", "carl", "")])
    first.put([(key, key, "") for key in rejected])
    first.refuse([("dora@example.com", "dora:{SSHA}s3cret", "REJECT s3cret")])
    path = tmp_path / "first"
    snapshot = first.finish(path, allow_empty=False)
    text = path.read_text()
    assert not leaks(text, TOKEN)
    assert TOKEN[:6] not in text
    assert "s3cret" not in text
    assert [one.key for one in rejects_of(path)].count("bert@example.com:***") == 2
    second = SnapshotWriter(tmp_path, ignore_catch_alls=True)
    second.last = (path, snapshot)
    second.amend(last=True)
    assert second.unknown([f"id {TOKEN}", *rejected, "other"]) == ["other"]
    second.forget([f"id {TOKEN}", rejected[2]])
    after = second.finish(tmp_path / "second", allow_empty=False)
    assert (after.entries, after.rejected) == (1, 3)


# --- a server that echoes


def echoing(secret: str, form: str, status: int, padding: int, _asked: Asked) -> Iterator[bytes]:
    """Return an answer with the secret in its status text, in its headers and in its body."""
    spelled = spellings(secret, USER)[form]
    on_one_line = spelled.encode("latin-1", "replace").decode("latin-1")
    body = f"{'x' * padding} rejected {spelled}\nuser\n".encode()
    lines = [
        f"HTTP/1.1 {status} {'n' * padding} {on_one_line}",
        f'etag: "{on_one_line}"',
        f"last-modified: {on_one_line}",
        f"content-type: text/{on_one_line}",
        f"location: /login/{on_one_line}",
        f"retry-after: {on_one_line}",
        f"x-echo: {on_one_line}",
        f"content-length: {len(body)}",
    ]
    yield "\r\n".join([*lines, "", ""]).encode("latin-1")
    yield body


def http(directory: Path, server: ScriptedHTTP, secret: str, *, basic: bool) -> dict[str, object]:
    """Return a source of a list at the server, with a token or a name and a password."""
    kept = keep(directory, secret)
    own = {"username": USER, "password_file": kept} if basic else {"token_file": kept}
    return {"type": "http", "url": f"{server.url}/list", "format": "lines", "insecure": True, "foreign": True, **own}


ECHOES = [(200, "plain"), (302, "percent"), (401, "plain"), (401, "basic"), (404, "plain"), (503, "json")]


def test_an_http_server_that_echoes(tmp_path: Path) -> None:
    """Neither output nor state has the token or password, in whatever part of the answer it came, or any part of it."""
    scenario = Scenario(tmp_path, "corp", *(f"http{number}" for number in range(len(ECHOES))))
    scenario.write("corp", people(3))
    with contextlib.ExitStack() as stack:
        for number, (status, form) in enumerate(ECHOES):
            secret = PASSWORD if form == "basic" else TOKEN
            echo = functools.partial(echoing, secret, form, status, 30 if status == 404 else 3)
            server = stack.enter_context(ScriptedHTTP(routes={"/list": echo}))
            (tmp_path / str(number)).mkdir()
            own = http(tmp_path / str(number), server, secret, basic=form == "basic")
            scenario.sources[f"http{number}"] = own
        for verb in (("sync", "--accept-incomplete"), ("sync", "--json"), ("check", "--offline")):
            done = scenario.say(*verb, code=None)
            assert all(f"http{number}" in done.stdout for number in range(len(ECHOES))), done.stdout
            for secret in (TOKEN, PASSWORD):
                assert not leaks(done.stdout + done.stderr, secret, USER), (verb, done.stdout, done.stderr)
    assert not in_directory(scenario.state, TOKEN) | in_directory(scenario.state, PASSWORD, USER)


DIAGNOSTICS = [(0, "plain"), (1, "plain"), (0, "filter"), (1, "percent basic")]


def test_an_ldap_server_that_echoes(tmp_path: Path) -> None:
    """A diagnostic message, of a bind or a search, is shown without the password, also if the message is cut."""
    scenario = Scenario(tmp_path, "corp", *(f"ldap{number}" for number in range(len(DIAGNOSTICS))))
    scenario.write("corp", people(3))
    password_file = keep(tmp_path, PASSWORD)
    with contextlib.ExitStack() as stack:
        for number, (page, form) in enumerate(DIAGNOSTICS):
            message = f"{'d' * (290 if form == 'plain' else 2)} {spellings(PASSWORD, USER)[form]}"
            trouble = Trouble(page, 0, 80 if page else 49, message, (f"ldap://x/{message}",))
            server = stack.enter_context(ScriptedLDAP(password=None, trouble=trouble))
            scenario.sources[f"ldap{number}"] = {
                "type": "ldap",
                "url": server.url,
                "insecure": True,
                "base": "dc=example,dc=com",
                "attributes": ["mail"],
                "bind_dn": "cn=backup",
                "password_file": password_file,
            }
        for verb in (("sync", "--accept-incomplete"), ("check", "--offline")):
            done = scenario.say(*verb, code=None)
            assert done.stdout.count("dd") + done.stderr.count("dd") >= len(DIAGNOSTICS), done
            assert not leaks(done.stdout + done.stderr, PASSWORD, USER), (verb, done.stdout, done.stderr)
    assert not in_directory(scenario.state, PASSWORD, USER)


def test_the_agent_logs_no_secret(tmp_path: Path) -> None:
    """Its log, its files and its status line for systemd are without it."""
    mx = Station(tmp_path, "corp")
    mx.write("corp", people(3))
    mx.by_hand()

    echo = functools.partial(echoing, TOKEN, "plain", 404, 3)
    with ScriptedHTTP(routes={"/list": echo}) as server:
        mx.sources["primary"] = http(tmp_path, server, TOKEN, basic=False)
        with Agent(mx.configure(), env=mx.env) as agent:
            said = [agent.wait("source failing")]
        lines = [*agent.systemd.lines, *agent.noise, json.dumps(said, ensure_ascii=False)]
    assert not leaks("\n".join(lines), TOKEN), lines
    assert not in_directory(mx.state, TOKEN)


TRACEBACK = """
import sys
from syncagent.cli import main
from syncagent.files import streams
from syncagent.values.secrets import read_secret
def fail():
    secret = read_secret(sys.argv[1])
    raise RuntimeError("the server said " + secret)
main.command.main = lambda **_: fail()
main.main()
"""


def test_a_traceback_has_no_secret(tmp_path: Path) -> None:
    """A fault of syncagent itself is printed, without the secret that its text has."""
    command = [sys.executable, "-c", TRACEBACK, keep(tmp_path, TOKEN)]
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=PATIENCE)
    assert "RuntimeError: the server said ***" in done.stderr
    assert not leaks(done.stdout + done.stderr, TOKEN)


def test_what_an_older_version_has_recorded(tmp_path: Path) -> None:
    """An error that has the token is shown and kept without it from the next run on, though nothing is asked."""
    scenario = Scenario(tmp_path, "corp", "primary")
    scenario.write("corp", people(3))
    with ScriptedHTTP(routes={"/list": functools.partial(echoing, TOKEN, "plain", 401, 3)}) as server:
        scenario.sources["primary"] = http(tmp_path, server, TOKEN, basic=False)
        scenario.say("sync", "--accept-incomplete", code=None)
        asked = len(server.asked)
        with contextlib.closing(sqlite3.connect(scenario.state / "state.db", isolation_level=None)) as database:
            spelled = json.dumps(TOKEN)[1:-1]
            changed = database.execute(
                "UPDATE source SET state = replace(state, '***', ?) WHERE name = 'primary'", (spelled,)
            )
            assert changed.rowcount == 1
        assert in_directory(scenario.state, TOKEN)
        done = scenario.say("sync", code=None)
        assert len(server.asked) == asked
    assert "not asked again" in done.stderr
    assert not leaks(done.stdout + done.stderr, TOKEN)
    assert not in_directory(scenario.state, TOKEN)


def test_basic_is_hidden_as_sent() -> None:
    """The whole value of the header is a secret of its own."""
    redaction.remember(base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode())
    assert redaction.redacted(f"got Basic {spellings(PASSWORD, USER)['basic']}") == f"got Basic {redaction.HIDDEN}"
