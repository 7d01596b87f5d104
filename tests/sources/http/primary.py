"""A primary with an API of two kinds of lists, the recipe for it, and what every failure of it has to leave alone."""

import base64
import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from syncagent.errors import FailureKind
from syncagent.sync.fetch import Fetched
from syncagent.values.types import RecipeFile
from tests.sources.http import TOKEN, Asked, addresses, secret
from tests.support.authority import Authority
from tests.support.fetching import NOW
from tests.support.scripted_http import Asked as Request
from tests.support.scripted_http import Handler, Part, ScriptedHTTP, answer

MARK = "mark-8150"
"""A value of every body that no message may show."""
RECIPE = """
title = "users in pages, and aliases domain by domain"
rate_words = ["slow down"]

[auth]
kind = "bearer"

[[steps]]
name = "domains"
path = "/domains"
list = "@"

[[steps]]
name = "users"
path = "/users"
ok = [{ path = "success", true = true }]
list = "data.items"
total = "data.total"
paging = { kind = "next_url", path = "next?" }
key = "id"
where = [{ path = "status", one_of = ["on"], known = ["off"] }]
join = [{ step = "domains", key = "id", local = "domain", name = "of" }]
emit = [{ kind = "address", template = "{name}@{of.name}" }]

[[steps]]
name = "aliases"
for_each = "domains.name"
path = "/aliases/{each}"
list = "@"
emit = [{ kind = "address", value = "address" }]
"""
LOGIN = """
[auth]
kind = "login"
path = "/login"
send = "json"
fields = { user = "{username}", password = "{password}" }
ok = [{ path = "status", one_of = ["ok"], known = ["invalid"] }]
take = "token"
put = "bearer"
"""
OAUTH = """
[auth]
kind = "oauth2_client_credentials"
token_url = "{server}/token"
scope = "read"
"""
BEARER = '[auth]\nkind = "bearer"\n'
DOMAINS = {1: "example.com", 2: "example.org"}
PAGE = 3
WHOLE = sorted(
    [*(f"user{number}@{DOMAINS[1 + number % 2]}" for number in range(8) if number != 5)]
    + [f"alias@{domain}" for domain in DOMAINS.values()]
)
"""What comes out of it."""
Mend = Callable[[Any], Any]
"""Changes the body of a page."""


def user(number: int, **own: Any) -> dict[str, Any]:  # noqa: ANN401 - JSON
    """Return a record of a user; the one of number 5 is switched off."""
    status = "off" if number == 5 else "on"
    return {
        "id": number,
        "name": f"user{number}",
        "domain": 1 + number % 2,
        "status": status,
        "password": MARK,
    } | own


@dataclass
class Primary:
    """Serves domains, users in pages, and aliases; ``instead`` answers at a place, ``mended`` changes its body.

    A place is the path, for users with the number of the page: ``/users 2``.
    """

    users: list[dict[str, Any]] = field(default_factory=lambda: [user(number) for number in range(8)])
    instead: dict[str, Handler] = field(default_factory=dict)
    mended: dict[str, Mend] = field(default_factory=dict)

    def serve(self, server: ScriptedHTTP) -> None:
        """Answer at a server."""
        for path in ("/domains", "/users", "/login", *(f"/aliases/{domain}" for domain in DOMAINS.values())):
            server.routes[path] = self._answer

    def _answer(self, request: Request) -> Iterable[Part]:
        number = int(request.query.get("page", "1"))
        place = f"/users {number}" if request.path == "/users" else request.path
        if place in self.instead:
            return self.instead[place](request)
        body = self.body(request.path, number)
        text = json.dumps(self.mended.get(place, lambda body: body)(body))
        return [b"".join(answer(text, content_type="application/json"))]  # in one piece: no acknowledgement is awaited

    def body(self, path: str, number: int = 1) -> Any:  # noqa: ANN401 - JSON
        """Return the body of a good answer."""
        if path == "/login":
            return {"status": "ok", "token": TOKEN}
        if path == "/domains":
            return [{"id": number, "name": name} for number, name in DOMAINS.items()]
        if path.startswith("/aliases/"):
            return [{"address": f"alias@{path.rpartition('/')[2]}", "note": MARK}]
        start = PAGE * (number - 1)
        more = start + PAGE < len(self.users)
        data = {"items": self.users[start : start + PAGE], "total": len(self.users)}
        return {"success": True, "data": data, "note": MARK, "next": f"/users?page={number + 1}" if more else None}


@dataclass
class Asking:
    """A primary that was asked once, and whose answer was whole."""

    primary: Primary
    server: ScriptedHTTP
    asked: Asked
    before: Fetched

    def again(self) -> None:
        """Do a run that gives the same list, and have no other one."""
        for old in self.asked.runs.snapshots.iterdir():
            old.unlink()
        self.before = self.asked.whole()
        assert addresses(self.before) == WHOLE

    def fails(self, kind: FailureKind, *told: str, now: float = NOW) -> str:
        """Do a run that must fail in this way, telling all of this; give its text.

        The last list is in force as it was, no file is left, and no secret is anywhere.
        """
        asked, before = self.asked, self.before
        assert before.snapshot is not None
        held = before.snapshot.read_bytes()
        failed = asked.fetch(now)
        error = failed.report.error
        assert failed.report.state == "failing"
        assert [text for text in told if text not in error] == [], error
        assert (failed.report.kind, failed.state.error_kind) == (kind, kind), error
        assert error.isprintable()
        assert len(error) < 1000
        assert failed.state.snapshot == before.state.snapshot
        assert before.snapshot.read_bytes() == held
        assert addresses(failed) == WHOLE
        assert list(asked.runs.snapshots.iterdir()) == [before.snapshot]
        assert not [file for file in asked.runs.spool.iterdir() if not file.name.startswith("sort")]
        assert tells(asked, failed) == []
        return error


def tells(asked: Asked, fetched: Fetched) -> list[str]:
    """Return where a secret, or a value that is none of ours, is said, remembered or written."""
    places = {
        "report": repr(fetched.report),
        "state": repr(fetched.state) + msgspec.json.encode(fetched.state).decode(),
        "configuration": f"{asked.configured!r} {asked.configured.own!r}",
        "notes": repr(asked.runs.notes),
    }
    for file in (*asked.runs.snapshots.iterdir(), *asked.runs.spool.iterdir()):
        places[file.name] = file.read_text("utf-8", "backslashreplace")
    secrets = [MARK, TOKEN, base64.b64encode(TOKEN.encode()).decode()]
    return [place for place, text in places.items() if any(one in text for one in secrets)]


def recipe(directory: Path, text: str = RECIPE) -> RecipeFile:
    """Write a recipe."""
    file = directory / "two.toml"
    file.write_text(text, "utf-8")
    return RecipeFile(file)


def asking(server: ScriptedHTTP, directory: Path, *, login: bool = False, **keys: Any) -> Asking:  # noqa: ANN401
    """Ask a new primary at a server, by a token or with a login."""
    primary = Primary()
    primary.serve(server)
    who = {"username": "anna", "password_file": secret(directory)} if login else {"token_file": secret(directory)}
    text = RECIPE.replace(BEARER, LOGIN) if login else RECIPE
    asked = Asked(directory, server.url, recipe=recipe(directory, text), **{**who, **keys})
    before = asked.whole()
    assert addresses(before) == WHOLE
    return Asking(primary, server, asked, before)


def over_tls(directory: Path, *names: str, expired: bool = False) -> tuple[ScriptedHTTP, Path]:
    """Make a server with a certificate, and give it with the authority to trust."""
    authority = Authority()
    context = authority.server_context(directory, *(names or ("localhost",)), expired=expired)
    return ScriptedHTTP(context), authority.ca_file(directory)
