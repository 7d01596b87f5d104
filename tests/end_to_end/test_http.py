"""From a primary's HTTP API, or its plain list, to what the backup's smtpd answers: TLS, the real command, Postfix."""

import base64
import gzip
import json
import subprocess
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any, ClassVar

import pytest

from tests.sources import map_keys, write_config
from tests.sources.http import ended
from tests.support.authority import Authority
from tests.support.need import need_postfix
from tests.support.postfix import PrivatePostfix
from tests.support.run import syncagent
from tests.support.scripted_http import Asked, Handler, Part, ScriptedHTTP, answer
from tests.support.service import Service

TAKEN, UNKNOWN = 250, 550
PROBLEMS, RUNS_OUT = 1, 75
USERNAME = "backup"
SECRET, WRONG = "right-secret-4711", "wrong-secret-0815"
HASH = "$bcrypt-sha256$v=2,t=2b,r=12$abcdefghijklmnopqrstuu$ABCDEFGHIJKLMNOPQRSTUVWXYZabcde"
BASIC = [base64.b64encode(f"{USERNAME}:{secret}".encode()).decode() for secret in (SECRET, WRONG)]
TELLTALES = (SECRET, WRONG, HASH, "bcrypt", *BASIC)


def as_json(body: object) -> Iterable[Part]:
    """Give an answer with this body."""
    return answer(json.dumps(body), content_type="application/json")


@dataclass
class Primary(Service):
    """A primary over TLS with some mailboxes; `trouble` is what it does in place of answering."""

    authority: Authority
    place: Path
    people: list[str] = field(default_factory=lambda: [f"user{number}@example.com" for number in range(20)])
    trouble: Handler | None = None
    keys: ClassVar[dict[str, Any]] = {}
    below: ClassVar[str] = ""

    def start(self) -> None:
        """Open it."""
        self.open()

    def open(self) -> None:
        """Have it answer, on another port than before."""
        self.server = ScriptedHTTP(self.authority.server_context(self.place, "localhost"))
        for path in self.paths():
            self.server.routes[path] = self._say
        self.server.start()
        self.url = f"{self.server.url}{self.below}"

    def close(self) -> None:
        """Have nobody there any more."""
        self.server.close()

    @property
    def count(self) -> int:
        """How many requests there were since it was opened."""
        return len(self.server.asked)

    def paths(self) -> Iterable[str]:
        """Give where something is."""
        raise NotImplementedError

    def knows(self, asked: Asked) -> bool:
        """Say whether a request is from one who may ask."""
        raise NotImplementedError

    def says(self, asked: Asked) -> Iterable[Part]:
        """Answer a request."""
        raise NotImplementedError

    def _say(self, asked: Asked) -> Iterable[Part]:
        if self.trouble is not None:
            return self.trouble(asked)
        if not self.knows(asked):
            return answer(json.dumps({"type": "error", "msg": "authentication failed"}), 401)
        return self.says(asked)


class Mailcow(Primary):
    """One that answers as mailcow does; its mailboxes are in an alias domain too."""

    keys: ClassVar[dict[str, Any]] = {"recipe": "mailcow", "token_file": "./secret"}

    def paths(self) -> Iterable[str]:
        """Give where something is."""
        names = ("mailbox/reduced", "resource/all", "alias/all", "alias-domain/all", "domain/all")
        return [f"/api/v1/get/{name}" for name in names]

    def knows(self, asked: Asked) -> bool:
        """Say whether a request has the key."""
        return asked.headers.get("x-api-key") == SECRET

    def says(self, asked: Asked) -> Iterable[Part]:
        """Answer a request."""
        if asked.path.endswith("mailbox/reduced"):
            return as_json([{"username": address, "active": 1, "active_int": 1} for address in self.people])
        if asked.path.endswith("alias/all"):
            sales = {"id": 6, "address": "sales@example.com", "goto": "user1@example.com", "internal": 0, "active": 1}
            internal = {"id": 7, "address": "inner@example.com", "goto": "user1@example.com", "internal": 1}
            return as_json([sales, {**internal, "active": 1}])
        if asked.path.endswith("alias-domain/all"):
            return as_json([{"alias_domain": "example.net", "target_domain": "example.com", "active": 1}])
        return as_json({})

    def also(self, address: str) -> list[str]:
        """Give the addresses that somebody has besides."""
        return [address.replace("@example.com", "@example.net")]


class PlainList(Primary):
    """One that publishes a list, with an ETag."""

    keys: ClassVar[dict[str, Any]] = {"format": "lines", "username": USERNAME, "password_file": "./secret"}
    below: ClassVar[str] = "/recipients.txt"

    def paths(self) -> Iterable[str]:
        """Give where the list is."""
        return [self.below]

    def knows(self, asked: Asked) -> bool:
        """Say whether a request has name and password."""
        return asked.headers.get("authorization") == f"Basic {BASIC[0]}"

    def says(self, asked: Asked) -> Iterable[Part]:
        """Answer a request, by 304 where the list is known."""
        body = ended([*self.people, "sales@example.com", "info@example.net"])
        etag = f'"{sha256(body).hexdigest()}"'
        if asked.headers.get("if-none-match") == etag:
            return answer(status=304, etag=etag)
        return answer(body, etag=etag, content_type="text/plain; charset=utf-8")

    def also(self, _: str) -> list[str]:
        """Give the addresses that somebody has besides: none."""
        return []


class Mailu(Primary):
    """One that answers as Mailu does, with the hashes of its users' passwords."""

    keys: ClassVar[dict[str, Any]] = {"recipe": "mailu", "token_file": "./secret"}

    def paths(self) -> Iterable[str]:
        """Give where something is."""
        return [f"/api/v1/{name}" for name in ("user", "alias", "domain", "relay")]

    def knows(self, asked: Asked) -> bool:
        """Say whether a request has the token."""
        return asked.headers.get("authorization") == f"Bearer {SECRET}"

    def says(self, asked: Asked) -> Iterable[Part]:
        """Answer a request."""
        return as_json(self.records(asked.path))

    def records(self, path: str) -> list[dict[str, Any]]:
        """Give what is at a path."""
        if path.endswith("user"):
            return [{"email": address, "password": HASH, "enabled": True} for address in self.people]
        if path.endswith("alias"):
            destination = ["user1@example.com"]
            shared = {"destination": destination, "wildcard": False, "disabled": False, "owner_email": None}
            return [{"email": "sales@example.com", "comment": HASH, **shared}]
        if path.endswith("domain"):
            return [{"name": "example.com", "alternatives": ["example.net"], "managers": [], "dkim_key": HASH}]
        return []


@dataclass
class Backup:
    """A backup MX whose only source is this primary; what the command has printed is kept."""

    primary: Primary
    place: Path
    postfix: PrivatePostfix | None = None
    printed: str = ""

    def configure(self, **keys: Any) -> None:  # noqa: ANN401 - any key of the source
        """Write the configuration, with these keys for the source in place of the usual ones."""
        ca_file = self.primary.authority.ca_file(self.place)
        own = {"type": "http", "url": self.primary.url, "ca_file": str(ca_file), **self.primary.keys, **keys}
        source = "\n".join(["[sources.primary]", *(f"{key} = {json.dumps(value)}" for key, value in own.items())])
        file = write_config(self.place, source, domains='"example.com", "example.net"')
        if self.postfix is not None:
            text = file.read_text("utf-8").replace("reload = false\n", "")
            text = text.replace(f"texthash:{self.place}/map", self.postfix.relay_recipient_maps or "")
            file.write_text(text.replace('"."', f'"{self.postfix.config_directory}"'), "utf-8")

    def secret(self, text: str) -> None:
        """Write the secret's file, as another file than the one before."""
        new = self.place / "secret.new"
        new.touch(mode=0o600)
        new.write_text(f"{text}\n", "utf-8")
        new.rename(self.place / "secret")

    def run(self, *args: str, check: int = 0) -> subprocess.CompletedProcess[str]:
        """Run the command and keep what it prints."""
        (self.place / "tmp").mkdir(exist_ok=True)
        env = {"TMPDIR": str(self.place / "tmp")}
        offline = ["--offline"] if args[0] == "check" else []
        done = syncagent(*args, *offline, config=self.place / "syncagent.toml", env=env, check=check)
        self.printed += done.stdout + done.stderr
        return done

    def result(self, *args: str, check: int = 0) -> dict[str, Any]:
        """Run the command and give the result that it prints as JSON."""
        result = json.loads(self.run(*args, "--json", check=check).stdout)
        assert isinstance(result, dict)
        return result

    def codes(self, *addresses: str) -> set[int]:
        """Ask smtpd about each of these; give its answers."""
        assert self.postfix is not None
        return {self.postfix.verdict(address).code for address in addresses}

    def fails(self, *says: str) -> None:
        """Run what must fail, saying this, and see that nothing is removed or held, and the map is left as it is."""
        before = self.published()
        for result in (self.result("plan", check=RUNS_OUT), self.result("sync", check=RUNS_OUT)):
            (source,) = result["sources"]
            assert source["state"] == "failing"
            assert [text for text in says if text not in source["error"]] == [], source["error"]
            plan = result["plan"]
            assert [one for one in plan["domains"] if one["removed"] or one["added"]] == []
            assert (plan["removed_sample"], plan["added_sample"], plan["holds"]) == ([], [], [])
        done = self.run("sync", "--quiet", check=RUNS_OUT)
        assert "source primary is failing" in done.stderr
        assert [text for text in says if text not in done.stderr] == [], done.stderr
        assert self.published() == before

    def published(self) -> bytes:
        """Give the map as it lies there."""
        path = self.place / "map" if self.postfix is None else self.postfix.map_path.with_suffix(".lmdb")
        return path.read_bytes()

    def tells(self) -> list[str]:
        """Give where a secret or a hash is found: in what was printed, in a file, or in its name."""
        found = [f"{secret} was printed" for secret in TELLTALES if secret in self.printed]
        folders = [self.place] if self.postfix is None else [self.place, self.postfix.map_path.parent]
        for file in (file for folder in folders for file in folder.rglob("*") if file.name != "secret"):
            held = file.read_bytes() if file.is_file() else b""
            found += [f"{secret} in {file}" for secret in TELLTALES if secret.encode() in held or secret in str(file)]
        return found


@pytest.fixture(scope="module")
def authority() -> Authority:
    """A CA."""
    return Authority()


@pytest.fixture(scope="module")
def postfix() -> Iterator[PrivatePostfix]:
    """A Postfix for the backup of each test; it has no map before the first sync."""
    need_postfix("lmdb")
    with PrivatePostfix(["example.com", "example.net"], map_type="lmdb") as private:
        yield private


def prepared(primary: Primary, place: Path, postfix: PrivatePostfix | None = None) -> Iterator[Backup]:
    """Give a backup that may ask its primary; see in the end that no secret is found anywhere."""
    with primary:
        backup = Backup(primary, place, postfix)
        backup.secret(SECRET)
        backup.configure()
        yield backup
    assert backup.tells() == []
    assert (place / "state" / "state.db").exists()


@pytest.fixture(params=[Mailcow, PlainList])
def backup(
    request: pytest.FixtureRequest, authority: Authority, postfix: PrivatePostfix, tmp_path: Path
) -> Iterator[Backup]:
    """A backup MX that has synced once, with real Postfix, and its primary: an API or a plain list."""
    for file in postfix.map_path.parent.iterdir():
        file.unlink()
    for backup in prepared(request.param(authority, tmp_path), tmp_path, postfix):
        backup.run("sync")
        postfix.reload()  # an smtpd that once found no map goes on without it
        yield backup


@pytest.fixture
def mailcow(authority: Authority, tmp_path: Path) -> Iterator[Backup]:
    """A backup MX without Postfix, whose primary is a mailcow; nothing was synced."""
    yield from prepared(Mailcow(authority, tmp_path), tmp_path)


@pytest.fixture(scope="module")
def mailu(authority: Authority, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Backup]:
    """A backup MX without Postfix that has synced, for all tests whose primary is a Mailu."""
    place = tmp_path_factory.mktemp("mailu")
    for backup in prepared(Mailu(authority, place), place):
        backup.run("sync")
        yield backup


def test_what_the_primary_says_is_what_smtpd_answers(backup: Backup) -> None:
    """Who is added is taken after one sync, who is deleted is refused after one more, in an alias domain too."""
    primary = backup.primary
    assert isinstance(primary, (Mailcow, PlainList))
    new, gone, stays = "new@example.com", "user7@example.com", "user8@example.com"
    all_gone, all_new = [gone, *primary.also(gone)], [new, *primary.also(new)]
    all_stay = ["sales@example.com", stays, *primary.also(stays)]
    assert backup.codes(*all_stay, *all_gone) == {TAKEN}
    # mailcow's alias domains are for mailboxes, and its internal aliases are not for the outside.
    assert backup.codes(*all_new, "sales@example.net", "inner@example.com") == {UNKNOWN}
    primary.people.append(new)
    backup.run("sync")
    assert backup.codes(*all_stay, *all_gone, *all_new) == {TAKEN}
    primary.people.remove(gone)
    planned = backup.result("plan")["plan"]
    assert sorted(planned["removed_sample"]) == sorted(all_gone)
    assert backup.codes(*all_gone) == {TAKEN}
    backup.run("sync")
    assert backup.codes(*all_stay, *all_new) == {TAKEN}
    assert backup.codes(*all_gone) == {UNKNOWN}
    assert backup.result("sync")["status"] == "unchanged"


@pytest.mark.parametrize("backup", [PlainList], indirect=True)
def test_a_list_that_has_not_changed_is_not_sent_again(backup: Backup) -> None:
    """An unchanged list is answered by 304, which counts as the list; a changed one is sent, and counts."""
    before = backup.primary.count
    result = backup.result("sync")
    assert (result["status"], result["sources"][0]["state"]) == ("unchanged", "same")
    (asked,) = backup.primary.server.asked[before:]
    assert "if-none-match" in asked.headers
    assert backup.codes("user1@example.com", "sales@example.com") == {TAKEN}
    backup.primary.people.remove("user1@example.com")
    assert backup.result("sync")["sources"][0]["state"] == "whole"
    assert backup.codes("user1@example.com") == {UNKNOWN}
    assert backup.result("sync")["sources"][0]["state"] == "same"
    assert backup.codes("user1@example.com") == {UNKNOWN}
    assert backup.codes("user2@example.com") == {TAKEN}


def _cut(asked: Asked) -> Iterable[Part]:
    """Begin an answer and hang up."""
    return [b"HTTP/1.1 200 OK\r\ncontent-length: 5000\r\n\r\n[\n", "fin"]


DOWN: dict[str, tuple[Handler | None, str]] = {
    "closed": (None, "no connection"),
    "500": (lambda _: answer("out of order", 500), "answers 500"),
    "401": (lambda _: answer("authentication failed", 401), "the server refuses the credentials"),
    "cut": (_cut, ""),
}


@pytest.mark.parametrize("name", DOWN)
def test_a_primary_that_is_down(name: str, backup: Backup) -> None:
    """While the primary fails nobody is removed or added, and what changed meanwhile counts after it."""
    primary = backup.primary
    primary.people.remove("user2@example.com")
    primary.people.append("new@example.com")
    primary.trouble, says = DOWN[name]
    if primary.trouble is None:
        primary.close()
    backup.fails(primary.url, says)
    backup.run("check", check=PROBLEMS)
    assert backup.codes("user1@example.com", "user2@example.com", "sales@example.com") == {TAKEN}
    assert backup.codes("new@example.com") == {UNKNOWN}
    if primary.trouble is None:
        primary.open()
        backup.configure()
    primary.trouble = None
    backup.secret(SECRET)  # the file is another one: a refusal is not for it
    backup.run("sync")
    assert backup.codes("user1@example.com", "new@example.com", "sales@example.com") == {TAKEN}
    assert backup.codes("user2@example.com") == {UNKNOWN}


def test_a_refusal_is_heard_once(backup: Backup) -> None:
    """A primary that the server refuses the credentials is not asked again within the hour, unless they change."""
    primary = backup.primary
    backup.secret(WRONG)
    before = primary.count
    done = backup.run("sync", check=RUNS_OUT)
    assert primary.count == before + 1
    assert "answers 401" in done.stderr
    for args in (("sync",), ("plan",), ("sync", "--quiet"), ("check",)):
        done = backup.run(*args, check=PROBLEMS if args == ("check",) else RUNS_OUT)
        assert "source primary is failing (refused)" in done.stderr
        assert "answers 401" in done.stderr
        assert "not asked again for" in done.stderr
    assert primary.count == before + 1
    assert backup.codes("user1@example.com", "sales@example.com") == {TAKEN}
    backup.secret(WRONG)
    backup.run("sync", check=RUNS_OUT)
    assert primary.count == before + 2
    primary.people.remove("user1@example.com")
    backup.secret(SECRET)
    backup.run("sync")
    assert backup.codes("user1@example.com") == {UNKNOWN}
    assert backup.codes("user2@example.com", "sales@example.com") == {TAKEN}
    backup.run("check")


STEPS = {
    "mailboxes": (1, 19, 19, 19, ["user0@example.com", "user1@example.com", "user2@example.com"]),
    "resources": (1, 0, 0, 0, []),
    "aliases": (1, 2, 1, 1, ["sales@example.com"]),
    "alias_domains": (1, 1, 1, 1, ["example.net"]),
    "domains": (1, 0, 0, 0, []),
}


def test_each_step_is_shown(mailcow: Backup) -> None:
    """What each list of an API came to is shown by plan and check, with samples, and is in a plan's JSON."""
    mailcow.run("sync")
    mailcow.primary.people.remove("user19@example.com")
    for verb in ("plan", "check"):
        shown = mailcow.run(verb).stdout.splitlines()
        heads = shown.index("primary, step by step:") + 1
        assert shown[heads].split() == ["STEP", "PAGES", "RECORDS", "KEPT", "EMITTED", "SUCH", "AS"]
        rows = [line.split(maxsplit=5) for line in shown[heads + 1 : heads + 1 + len(STEPS)]]
        assert rows == [
            [name, *map(str, counts), ", ".join(sample) or "-"] for name, (*counts, sample) in STEPS.items()
        ]
    assert "primary, step by step:" not in mailcow.run("sync").stdout
    (source,) = mailcow.result("plan")["sources"]
    names = ("pages", "records", "kept", "emitted", "sample")
    assert {one["name"]: tuple(one[name] for name in names) for one in source["steps"]} == STEPS


def altered(change: Callable[[list[dict[str, Any]]], object], of: str = "user") -> Callable[[Mailu], Handler]:
    """Have a Mailu answer with other records at one path."""

    def trouble(mailu: Mailu) -> Handler:
        def say(asked: Asked) -> Iterable[Part]:
            records = mailu.records(asked.path)
            return as_json(change(records) if asked.path.endswith(of) else records)

        return say

    return trouble


def always(handler: Handler) -> Callable[[Mailu], Handler]:
    """Have a Mailu do this, whatever it is asked."""
    return lambda _: handler


BODY = json.dumps([{"email": "user1@example.com", "password": HASH, "enabled": True}])
ECHO = f'{{"token": "{SECRET}", "password": "{HASH}"}}'
FAILURES: dict[str, tuple[Callable[[Mailu], Handler], str]] = {
    "refused, with an echo": (always(lambda _: answer(ECHO, 401)), "answers 401"),
    "forbidden, with an echo": (always(lambda _: answer(ECHO, 403)), "answers 403"),
    "error, with an echo": (always(lambda _: answer(ECHO, 500)), "answers 500"),
    "not found, with an echo": (always(lambda _: answer(ECHO, 404)), "answers 404"),
    "too many, with an echo": (always(lambda _: answer(ECHO, 429, retry_after="3600")), "answers 429"),
    "an error as the list": (always(lambda _: answer(ECHO)), "expected an array"),
    "ends in a hash": (always(lambda _: answer(BODY[: BODY.index("bcrypt") + 9])), "not valid JSON"),
    "cut in a hash": (
        always(lambda _: [b"HTTP/1.1 200 OK\r\ncontent-length: 999\r\n\r\n", BODY.encode()[:70], "fin"]),
        "without sending complete",
    ),
    "no JSON": (always(lambda _: answer(f"password={HASH}&token={SECRET}")), "not valid JSON"),
    "no text": (always(lambda _: answer(HASH.encode() + b"\xff\xfe")), "not valid JSON"),
    "damaged gzip": (
        always(lambda _: answer(gzip.compress(BODY.encode())[:-9] + b"123456789", content_encoding="gzip")),
        "gzip data is",
    ),
    "no gzip": (always(lambda _: answer(BODY, content_encoding="gzip")), "gzip data is damaged"),
    "a hash for a truth": (
        altered(lambda records: [{**one, "disabled": HASH} for one in records], of="alias"),
        "expected true or false",
    ),
    "no address": (altered(lambda _: [{"password": HASH, "enabled": True}]), "'email' is missing"),
    "an object for an address": (altered(lambda _: [{"email": {"password": HASH}}]), "an object"),
    "a list of hashes": (altered(lambda _: [HASH, HASH]), "got a text"),
    "a hash for the list": (altered(lambda _: HASH), "expected an array"),
    "hashes as names": (altered(lambda _: {HASH: SECRET}), "expected an array"),
    "no list": (altered(lambda _: None), "expected an array"),
}


def test_no_secret_is_told(mailu: Backup) -> None:
    """Neither our token nor a hash in a body is printed or kept while all is well."""
    for args in (("plan",), ("plan", "--json"), ("check",), ("sync", "--json"), ("sync",)):
        mailu.run(*args)
    assert {"user1@example.com", "user1@example.net", "sales@example.com"} <= set(map_keys(mailu.place))
    assert mailu.tells() == []


@pytest.mark.parametrize("name", FAILURES)
def test_no_secret_is_told_in_a_failure(name: str, mailu: Backup) -> None:
    """Neither our token nor a hash in a body is printed or kept when that goes wrong, and after it."""
    primary = mailu.primary
    assert isinstance(primary, Mailu)
    trouble, says = FAILURES[name]
    primary.trouble = trouble(primary)
    mailu.fails(says)
    mailu.run("check", "--offline", check=PROBLEMS)
    assert mailu.tells() == []
    primary.trouble = None
    mailu.secret(SECRET)
    mailu.run("sync")
    assert mailu.tells() == []


def test_a_secret_would_be_found(mailu: Backup) -> None:
    """The search for secrets looks into what was printed, the state directory, the map's and the temporary one."""
    printed, mailu.printed = mailu.printed, f"{mailu.printed} {SECRET}"
    places = [mailu.place / folder / "left" for folder in ("state", "tmp", ".")]
    for file in places:
        file.write_text(f"x {HASH} {BASIC[1]} x", "utf-8")
    assert mailu.tells()[0] == f"{SECRET} was printed"
    for file in places:
        assert {f"{HASH} in {file}", f"{BASIC[1]} in {file}"} <= set(mailu.tells())
        file.unlink()
    mailu.printed = printed
    assert mailu.tells() == []
