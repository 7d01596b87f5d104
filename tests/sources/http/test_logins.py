"""Who we are to an API: a refusal is not repeated, an answer without what was asked for is none, no secret is shown."""

import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from syncagent.errors import FailureKind
from syncagent.sources.http.client import Client, HttpRequest, Response
from syncagent.sync.fetch import REFUSED_FOR
from tests.sources.http import TOKEN, Asked, addresses, config, secret
from tests.sources.http.primary import (
    BEARER,
    LOGIN,
    MARK,
    OAUTH,
    RECIPE,
    WHOLE,
    Asking,
    Primary,
    asking,
    over_tls,
    recipe,
)
from tests.support.fetching import NOW
from tests.support.scripted_http import Handler, answer

TEMPORARY, REFUSED, BROKEN = FailureKind.TEMPORARY, FailureKind.REFUSED, FailureKind.BROKEN


@pytest.fixture
def one(tmp_path: Path) -> Iterator[Asking]:
    """A primary over TLS that was asked once, by a token."""
    server, ca_file = over_tls(tmp_path)
    with server:
        yield asking(server, tmp_path, ca_file=ca_file)


@pytest.fixture
def by_login(tmp_path: Path) -> Iterator[Asking]:
    """A primary over TLS that was asked once, by a login."""
    server, ca_file = over_tls(tmp_path)
    with server:
        yield asking(server, tmp_path, login=True, ca_file=ca_file)


def no(status: int = 401, body: str = MARK) -> Handler:
    """Refuse."""
    return lambda _: answer(body, status)


# Refusals


@pytest.mark.parametrize("status", [401, 403, 407])
@pytest.mark.parametrize("place", ["/domains", "/users 2", "/aliases/example.org"])
def test_a_refusal_is_not_repeated_within_the_hour(place: str, status: int, one: Asking) -> None:
    """A server that refuses us, wherever, is not asked again within the hour, and nothing further at once."""
    one.primary.instead[place] = no(status)
    one.fails(REFUSED, f"answers {status}", "the server refuses the credentials")
    asked = len(one.server.asked)
    assert one.server.asked[-1].path == place.partition(" ")[0]
    for later in (10, REFUSED_FOR - 10):
        one.fails(REFUSED, "not asked again for", now=NOW + later)
    assert len(one.server.asked) == asked
    del one.primary.instead[place]
    assert addresses(one.asked.fetch(NOW + REFUSED_FOR + 10)) == WHOLE


@pytest.mark.parametrize("file", ["secret", "recipe"])
def test_another_secret_or_recipe_is_tried_at_once(file: str, one: Asking, tmp_path: Path) -> None:
    """A change of the secret's file, or of the recipe's, is a reason to ask again within the hour."""
    one.primary.instead["/domains"] = no()
    one.fails(REFUSED, "the server refuses the credentials")
    asked = len(one.server.asked)
    path = Path(one.asked.configured.own.token_file) if file == "secret" else recipe(tmp_path)
    os.utime(path, (1, 1))
    one.fails(REFUSED, "the server refuses the credentials", now=NOW + 10)
    assert len(one.server.asked) == asked + 1
    one.fails(REFUSED, "not asked again", now=NOW + 20)
    assert len(one.server.asked) == asked + 1


def test_too_many_requests_by_its_words(one: Asking) -> None:
    """A 403 that says in its own words "too many requests" is no refusal: the next run asks again."""
    one.primary.instead["/users 2"] = no(403, f'{{"{MARK}": "please slow down"}}')
    one.fails(TEMPORARY, "step 'users', page 2", "answers 403", "there are too many requests")
    one.primary.instead["/users 2"] = no(403, "no")
    one.fails(REFUSED, "answers 403", now=NOW + 10)


# Logins


def taken(body: Any) -> Handler:  # noqa: ANN401 - JSON
    """Answer a login."""
    return lambda _: answer(json.dumps(body))


LOGINS: dict[str, tuple[Handler, FailureKind, str]] = {
    "401": (no(401), REFUSED, "answers 401"),
    "403": (no(403), REFUSED, "answers 403"),
    "invalid": (taken({"status": "invalid", "note": MARK}), REFUSED, "refuses the login of anna: see password_file"),
    "unknown status": (taken({"status": MARK}), BROKEN, "does not know the answer to the login of anna"),
    "error object": (taken({"error": MARK}), BROKEN, "does not know the answer to the login of anna"),
    "null": (taken(None), BROKEN, "does not know the answer to the login of anna"),
    "no token": (taken({"status": "ok", "note": MARK}), BROKEN, "the answer contains no token"),
    "token is null": (taken({"status": "ok", "token": None}), BROKEN, "the token in the answer is null"),
    "token is empty": (taken({"status": "ok", "token": ""}), BROKEN, "the token in the answer is a text"),
    "token is an object": (
        taken({"status": "ok", "token": {"x": MARK}}),
        BROKEN,
        "token in the answer is an object",
    ),
    "token in two lines": (taken({"status": "ok", "token": f"{MARK}\n\rx: y"}), BROKEN, "cannot contain"),
    "500": (no(500), TEMPORARY, "answers 500"),
    "html": (lambda _: answer(f"<html>{MARK}", content_type="text/html"), BROKEN, "is not valid JSON"),
}


@pytest.mark.parametrize("name", LOGINS)
def test_logins_that_fail(name: str, by_login: Asking) -> None:
    """Where the login does not let us in nothing is asked for; a refusal is not repeated within the hour."""
    does, kind, told = LOGINS[name]
    by_login.primary.instead["/login"] = does
    asked = len(by_login.server.asked)
    by_login.fails(kind, "/login" if "two lines" not in name else "", told)
    assert [request.path for request in by_login.server.asked[asked:]] == ["/login"]
    by_login.fails(kind, told, now=NOW + 10)
    assert len(by_login.server.asked) == asked + (1 if kind is REFUSED else 2)


def test_a_session_that_ends(by_login: Asking) -> None:
    """A session that ends under the walk fails the source, and does not lead to another login at once."""
    by_login.primary.instead["/users 3"] = no(401)
    by_login.fails(REFUSED, "step 'users', page 3")
    assert sum(request.path == "/login" for request in by_login.server.asked) == 2


PUTS = {
    "bearer": ('put = "bearer"', ("authorization", f"Bearer {TOKEN}")),
    "header": ('put = "header"\nname = "x-session"', ("x-session", TOKEN)),
    "password": ('put = "password"', ("authorization", "Basic YW5uYTp0b2tlbi00NzExLXNlY3JldA==")),
}


@pytest.mark.parametrize("send", ["json", "form", "basic"])
@pytest.mark.parametrize("put", PUTS)
def test_what_a_login_gives(put: str, send: str, tmp_path: Path) -> None:
    """What the login gives is sent from then on, where the recipe says; name and password are sent to it alone."""
    text, (header, value) = PUTS[put]
    login = LOGIN.replace('put = "bearer"', text).replace('send = "json"', f'send = "{send}"')
    server, ca_file = over_tls(tmp_path)
    with server:
        primary = Primary()
        primary.serve(server)
        file = recipe(tmp_path, RECIPE.replace(BEARER, login))
        one = asking_by(file, server.url, tmp_path, ca_file)
        assert one == WHOLE
        first, *others = server.asked
        sent = {"json": b'"s3cret"', "form": b"password=s3cret", "basic": b""}[send]
        assert sent in first.body
        assert (first.headers.get("authorization") == "Basic YW5uYTpzM2NyZXQ=") == (send == "basic")
        assert {request.headers.get(header) for request in others} == {value}


def asking_by(file: Any, url: str, directory: Path, ca_file: Path) -> list[str]:  # noqa: ANN401 - a RecipeFile
    """Ask with a name and a password, and give the addresses."""
    who: dict[str, Any] = {"username": "anna", "password_file": secret(directory, "s3cret")}
    return Asked(directory / "own", url, recipe=file, ca_file=ca_file, **who).addresses()


def test_a_cookie(tmp_path: Path) -> None:
    """A login that gives a cookie has it sent from then on."""
    server, ca_file = over_tls(tmp_path)
    login = LOGIN.replace('take = "token"\nput = "bearer"\n', "")
    with server:
        primary = Primary()
        primary.serve(server)
        primary.instead["/login"] = lambda _: answer('{"status": "ok"}', set_cookie=f"session={TOKEN}; Path=/; Secure")
        file = recipe(tmp_path, RECIPE.replace(BEARER, login))
        assert asking_by(file, server.url, tmp_path, ca_file) == WHOLE
        assert {request.headers.get("cookie") for request in server.asked[1:]} == {f"session={TOKEN}"}


# OAuth 2.0

TOKENS: dict[str, tuple[Handler, FailureKind, str]] = {
    "400": (no(400, '{"error": "invalid_client"}'), REFUSED, "answers 400"),
    "401": (no(401), REFUSED, "answers 401"),
    "403": (no(403), REFUSED, "answers 403"),
    "404": (no(404), BROKEN, "answers 404"),
    "500": (no(500), TEMPORARY, "answers 500"),
    "html": (lambda _: answer(f"<html>{MARK}", content_type="text/html"), BROKEN, "is not valid JSON"),
    "no token": (taken({"error": MARK}), BROKEN, "the answer contains no token"),
    "token is a number": (taken({"access_token": 8150}), BROKEN, "the token in the answer is a number"),
    "an array": (taken([MARK]), BROKEN, "the answer contains no token"),
    "cut": (lambda _: answer('{"access_token": "x'), TEMPORARY, "or incomplete"),
    "redirect": (lambda _: answer(status=302, location="https://evil.example/"), BROKEN, "redirects are not followed"),
}


@pytest.mark.parametrize("name", TOKENS)
def test_tokens_that_do_not_come(name: str, tmp_path: Path) -> None:
    """Where there is no token nothing is asked for; that the client is refused is not repeated within the hour."""
    does, kind, told = TOKENS[name]
    server, ca_file = over_tls(tmp_path)
    with server:
        primary = Primary()
        primary.serve(server)
        server.routes["/token"] = taken({"access_token": TOKEN, "token_type": "Bearer"})
        text = 'parameters = { server = { text = "where" } }\n' + RECIPE.replace(BEARER, OAUTH)
        who: dict[str, Any] = {"username": "anna", "password_file": secret(tmp_path), "ca_file": ca_file}
        file = recipe(tmp_path, text)
        asked = Asked(tmp_path / "own", server.url, recipe=file, parameters={"server": server.url}, **who)
        one = Asking(primary, server, asked, asked.whole())
        assert {request.headers.get("authorization") for request in server.asked[1:]} == {f"Bearer {TOKEN}"}
        assert b"grant_type=client_credentials" in server.asked[0].body
        server.routes["/token"] = does
        count = len(server.asked)
        one.fails(kind, "/token", told)
        one.fails(kind, told, now=NOW + 10)
        assert len(server.asked) == count + (1 if kind is REFUSED else 2)


def test_no_secret_in_what_is_shown(tmp_path: Path) -> None:
    """What is asked, answered and kept between does not show a secret when it is printed, as in a traceback."""
    request = HttpRequest("POST", {"x": TOKEN}, json={"p": TOKEN}, form={"p": TOKEN}, basic=("anna", TOKEN))
    response = Response("https://mail.example.com/", 200, {"set-cookie": TOKEN}, iter([TOKEN.encode()]))
    own = config("https://mail.example.com/", token_file=secret(tmp_path))
    with Client(own, time.monotonic() + 5) as client:
        client.set_credentials("authorization", TOKEN, "Bearer")
        client.set_basic("anna", TOKEN)
        assert TOKEN not in f"{request!r} {response!r} {client!r} {own!r} {client}"


def test_the_password_is_not_sent_elsewhere(by_login: Asking) -> None:
    """The password is in the request for the login, and in no other."""
    by_login.again()
    assert [request.path for request in by_login.server.asked if TOKEN.encode() in request.body] == ["/login"] * 2
