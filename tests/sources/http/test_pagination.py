"""A walk through the pages of a list: it may change, go round, go on for ever or lead astray, and nothing gets lost."""

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from syncagent.errors import FailureKind, SourceError
from syncagent.sources.http.client import Client, HttpRequest
from syncagent.sources.http.recipe.pagination import same_origin
from tests.sources.http import TOKEN, Asked, addresses, config, secret
from tests.sources.http.primary import BEARER, LOGIN, PAGE, RECIPE, WHOLE, Asking, Mend, asking, over_tls, recipe, user
from tests.support.authority import Authority
from tests.support.programs import PATIENCE
from tests.support.scripted_http import Asked as Request
from tests.support.scripted_http import Handler, Part, ScriptedHTTP, answer

TEMPORARY, REFUSED, BROKEN = FailureKind.TEMPORARY, FailureKind.REFUSED, FailureKind.BROKEN


@pytest.fixture
def one(tmp_path: Path) -> Iterator[Asking]:
    """A primary over TLS that was asked once."""
    server, ca_file = over_tls(tmp_path)
    with server:
        yield asking(server, tmp_path, ca_file=ca_file)


def once(change: Callable[[], None]) -> Mend:
    """Do something while the page is asked for, the first time."""
    left = [change]

    def mend(body: Any) -> Any:  # noqa: ANN401 - JSON
        if left:
            left.pop()()
        return body

    return mend


# A list that changes


def swap(users: list[dict[str, Any]]) -> None:
    """Take the first user away and add another at the end: the total stays, a record slips through."""
    users.pop(0)
    users.append(user(8))


def test_a_user_more_under_the_walk(one: Asking) -> None:
    """A list that grew under the walk is walked once more, and gives what it has then."""
    one.primary.mended["/users 1"] = once(lambda: one.primary.users.append(user(8)))
    assert addresses(one.asked.fetch()) == sorted([*WHOLE, "user8@example.com"])


def test_nothing_is_left_of_the_first_try(one: Asking) -> None:
    """What the first try found, and the second does not, is not in the list; no reject of it is told."""
    one.primary.users.insert(0, user(9, name="left over"))
    one.primary.mended["/users 1"] = once(lambda: one.primary.users.remove(user(9, name="left over")))
    fetched = one.asked.fetch()
    assert addresses(fetched) == WHOLE
    assert fetched.report.rejected == 0


def test_a_record_that_comes_twice(one: Asking) -> None:
    """A record on two pages shows that the list moved, though the total is right: once more, then it is whole."""

    def move() -> None:
        one.primary.users.insert(0, one.primary.users.pop())

    one.primary.mended["/users 2"] = once(move)
    assert addresses(one.asked.fetch()) == WHOLE
    assert sum(request.query.get("page") == "2" for request in one.server.asked) >= 2


def test_a_record_that_always_comes_twice(one: Asking) -> None:
    """Pages that overlap, and so leave something out, fail the source, even where the record looks another one."""
    one.primary.mended["/users 2"] = lambda body: (
        body | {"data": body["data"] | {"items": [user(0, seen=2), *body["data"]["items"][1:]]}}
    )
    one.fails(TEMPORARY, "step 'users', page 2", "was on an earlier page", "in a second attempt as well")


@pytest.mark.parametrize("total", [7, 9, 0, "8 ", None, "many", 8.5])
def test_a_wrong_total(total: object, one: Asking) -> None:
    """A total that is not the number of the records fails the source, if it is so twice."""
    for page in (1, 2, 3):
        one.primary.mended[f"/users {page}"] = lambda body: body | {"data": body["data"] | {"total": total}}
    if str(total).strip() == "8":
        assert addresses(one.asked.fetch()) == WHOLE
    else:
        one.fails(TEMPORARY, "step 'users', page 3", "the pages have 8", "in a second attempt as well")


NUMBERED = 'paging = { kind = "page", param = "page" }'


@pytest.mark.parametrize(("total", "right"), [(3, False), (6, False), (8, True)])
def test_a_total_that_is_too_small(total: int, right: bool, tmp_path: Path) -> None:  # noqa: FBT001 - a parameter
    """A walk by numbers does not end where the total says so: servers count the page alone, and people are lost."""
    server, ca_file = over_tls(tmp_path)
    with server:
        one = asking(server, tmp_path, ca_file=ca_file)
        file = Path(one.asked.configured.own.recipe)
        file.write_text(RECIPE.replace('paging = { kind = "next_url", path = "next?" }', NUMBERED), "utf-8")
        for page in (1, 2, 3, 4):
            one.primary.mended[f"/users {page}"] = lambda body: body | {"data": body["data"] | {"total": total}}
        if right:
            assert addresses(one.asked.fetch()) == WHOLE
        else:
            one.fails(TEMPORARY, f"the total is {total} records, but the pages have 8")
        file.write_text(file.read_text("utf-8").replace(NUMBERED, f'{NUMBERED[:-2]}, until = "total" }}'), "utf-8")
        before = len(server.asked)
        fetched = one.asked.fetch()
        assert (addresses(fetched) == WHOLE, fetched.report.state) == (right, "whole")
        assert [request.query.get("page") for request in server.asked[before:] if request.path == "/users"] == [
            str(1 + number) for number in range(-(-total // PAGE))
        ]


def test_a_total_that_differs(one: Asking) -> None:
    """A total that differs between pages fails the source, if it does so twice."""
    one.primary.mended["/users 2"] = lambda body: body | {"data": body["data"] | {"total": 9}}
    one.fails(TEMPORARY, "step 'users', page 2", "the total changed from 8 to 9 records")


def test_a_page_less(one: Asking) -> None:
    """A walk that is over too early is noticed by the total."""
    one.primary.mended["/users 2"] = lambda body: body | {"next": None}
    one.fails(TEMPORARY, "step 'users', page 2", "the total is 8 records, but the pages have 6")


# A walk that goes round, or on for ever


@pytest.mark.parametrize("link", ["/users?page=1", "/users?page=2", "?page=2", "users?page=2"])
def test_round(link: str, one: Asking) -> None:
    """A next page that is an earlier one ends the walk with an error."""
    one.primary.mended["/users 3"] = lambda body: body | {"next": link}
    one.fails(BROKEN, "step 'users', page", "form a loop")


def endless(number: int) -> dict[str, Any]:
    """Return one of endlessly many pages."""
    items = [user(number * 10 + at) for at in range(2)]
    return {"success": True, "data": {"items": items, "total": 8}, "next": f"/users?page={number + 1}"}


def answers(give: Callable[[int], object]) -> Handler:
    """Answer by the number of the page."""
    return lambda request: [b"".join(answer(json.dumps(give(int(request.query.get("page", "1"))))))]


def test_barren(one: Asking) -> None:
    """Some pages may be without a record, endlessly many may not."""
    bodies = [one.primary.body("/users", number) for number in (1, 2, 3)]
    empty = bodies[0] | {"data": {"items": [], "total": 8}}
    several = [bodies[0], *[empty] * 20, bodies[1], *[empty] * 20, bodies[2]]
    one.server.routes["/users"] = answers(
        lambda number: several[number - 1] | {"next": None if number == len(several) else f"/users?page={number + 1}"}
    )
    one.again()
    one.server.routes["/users"] = answers(lambda number: empty | {"next": f"/users?page={number + 1}"})
    one.fails(TEMPORARY, "step 'users', page 21", "21 pages in succession without a record")


@pytest.mark.parametrize(("key", "most"), [("max_pages", 3), ("max_records", 8)])
def test_too_much(key: str, most: int, tmp_path: Path) -> None:
    """A list of more pages or records than is believable fails the source; as many as that are right."""
    server, ca_file = over_tls(tmp_path)
    with server:
        keys: dict[str, Any] = {"ca_file": ca_file, key: most}
        one = asking(server, tmp_path, **keys)
        one.server.routes["/users"] = answers(endless)
        one.fails(BROKEN, "step 'users'", f"more than {most} {key.removeprefix('max_')}: see {key}")


PAGED = """
title = "a list in pages"
[auth]
kind = "bearer"
[[steps]]
name = "users"
path = "/list"
list = "items"
paging = { PAGING }
emit = [{ kind = "address", value = "mail" }]
"""


def paged(server: ScriptedHTTP, directory: Path, paging: str, ca_file: Path, **keys: Any) -> Asked:  # noqa: ANN401
    """Configure a source of a list in pages."""
    file = recipe(directory, PAGED.replace("PAGING", paging))
    return Asked(directory, server.url, recipe=file, token_file=secret(directory), ca_file=ca_file, **keys)


@pytest.mark.parametrize("volatile", [False, True])
@pytest.mark.parametrize(
    "paging",
    [
        'kind = "page", param = "page"',
        'kind = "offset", param = "offset", start = 0',
        'kind = "token", path = "next", param = "page"',
        'kind = "next_url", path = "url"',
        'kind = "link_header"',
    ],
)
def test_a_primary_that_ignores_the_paging(paging: str, volatile: bool, tmp_path: Path) -> None:  # noqa: FBT001 - a parameter
    """A primary that gives its first page again and again is noticed, and is not asked for ever."""
    server, ca_file = over_tls(tmp_path)

    def repeat(request: Request) -> list[Part]:
        count = len(server.asked)
        body = {"items": [{"mail": "a@example.com"}], "next": f"t{count}", "url": f"/list?p={count}"}
        if volatile:
            body["items"] = [{"mail": "a@example.com", "seen": count}]
        return [b"".join(answer(json.dumps(body), link=f'</list?p={count}>; rel="next"'))]

    with server:
        server.routes["/list"] = repeat
        report = paged(server, tmp_path, paging, ca_file, max_pages=9).fetch().report
        assert report.kind == BROKEN
        assert ("see max_pages" if volatile else "page 2 is the same as an earlier page") in report.error
        assert len(server.asked) == (9 if volatile else 2)


def test_the_same_token_again(tmp_path: Path) -> None:
    """A token that comes again is noticed, though the pages differ."""
    server, ca_file = over_tls(tmp_path)
    with server:
        server.routes["/list"] = lambda _: answer(
            json.dumps({"items": [{"mail": f"a{len(server.asked)}@example.com"}], "next": "t"})
        )
        report = paged(server, tmp_path, 'kind = "token", path = "next", param = "t"', ca_file).fetch().report
        assert report.kind == BROKEN
        assert "page 2 names an earlier page as the next" in report.error


LINKS = [
    '<{url}/list?p=2>; rel="next"',
    "</list?p=2>; rel=next",
    "</list?p=2>;REL=Next",
    '</list?p=1>; rel="first", </list?p=2>; rel="next"',
    '</list?p=9>; rel="last"; title="a, b; rel=next", </list?p=2> ; rel="next"',
    '</list?p=2>; title="x"; rel="last next"',
]


@pytest.mark.parametrize("link", LINKS)
def test_links_in_the_header(link: str, tmp_path: Path) -> None:
    """The next page is found in a header Link however it is written: else the walk would end, and nobody know."""
    server, ca_file = over_tls(tmp_path)

    def page(request: Request) -> Iterator[bytes]:
        number = request.query.get("p", "1")
        headers: dict[str, Any] = {"link": link.format(url=server.url)} if number == "1" else {}
        return answer(json.dumps({"items": [{"mail": f"a{number}@example.com"}]}), **headers)

    with server:
        server.routes["/list"] = page
        assert paged(server, tmp_path, 'kind = "link_header"', ca_file).addresses() == [
            "a1@example.com",
            "a2@example.com",
        ]


# Away from the server


ASTRAY = [
    "{other}/users?page=2",
    "//localhost:{port}/users",
    "http://localhost:{own}/users",
    "https://localhost:{own}@localhost:{port}/x",
    "https://anna:secret@localhost:{own}/users?page=2",
    "https://@localhost:{own}/users?page=2",
    "https://localhost:{own}@evil.example/",
    "//evil.example/x",
    "https://evil.example",
    "https://evil.example\\@localhost:{own}/",
    "https://localhost:{own}\\@localhost:{port}/",
    "https://localhost:{own};@evil.example/",
    "https://127.0.0.1:{own}/users?page=2",
    "https://localhost.evil.example:{own}/",
    "ftp://localhost:{own}/",
    "file:///etc/passwd",
    "https://[::1/",
    "https://localhost:{own}x/",
    "https://localhost:99999/",
    "https://\u2100.example/",
    "https://\uff4cocalhost:{port}/",
]


@pytest.mark.parametrize("link", ASTRAY)
def test_a_next_link_to_another_host(link: str, one: Asking, tmp_path: Path) -> None:
    """A next page on another host, port or scheme is never asked for: our token is not for them."""
    (tmp_path / "other").mkdir()
    other, _ = over_tls(tmp_path / "other")
    with other:
        ports = {"own": one.server.url.rpartition(":")[2], "port": other.url.rpartition(":")[2], "other": other.url}
        asked = len(one.server.asked)
        one.primary.mended["/users 2"] = lambda body: body | {"next": link.format(**ports)}
        told = one.fails(BROKEN, "step 'users', page 2", "on another host", "only the host in url is used")
        assert "fault" not in told
        assert other.connections == 0
        assert [request.path for request in one.server.asked[asked:]] == ["/domains", "/users", "/users"]


TELLING = {
    f"https://evil.example/?t={TOKEN}": BROKEN,
    f"/users?page={TOKEN}": TEMPORARY,
    f"/users?page=2&t={TOKEN}": BROKEN,
    f"/x?{TOKEN}": BROKEN,
}


@pytest.mark.parametrize("link", TELLING)
def test_what_a_link_has_is_not_shown(link: str, one: Asking) -> None:
    """A token of ours that a server writes into a next-link, or a place to go to, is in no message."""
    one.server.routes["/x"] = lambda _: answer(status=302, location=f"https://evil.example/?t={TOKEN}")
    one.primary.instead["/users 2"] = lambda _: answer(json.dumps(one.primary.body("/users", 2) | {"next": link}))
    one.server.routes["/users"] = lambda request: (
        answer(status=500) if request.query.get("page") == TOKEN else one.primary._answer(request)
    )
    one.fails(TELLING[link], "step 'users', page")


def test_same_origin() -> None:
    """A link on the same server is followed in every spelling of it."""
    url = "https://mail.example.com/api/users?page=1"
    whole = {
        "/users?page=2": "https://mail.example.com/users?page=2",
        "?page=2": "https://mail.example.com/api/users?page=2",
        "//mail.example.com/x": "https://mail.example.com/x",
        "https://MAIL.example.com:443/x": "https://MAIL.example.com:443/x",
        "https:///x": "https://mail.example.com/x",
    }
    assert {link: same_origin(url, link) for link in whole} == whole


@pytest.mark.parametrize("place", ["/users 1", "/users 2", "/aliases/example.org", "/login"])
@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_is_not_followed(status: int, place: str, tmp_path: Path) -> None:
    """The host that a redirect names hears nothing of us, above all no token."""
    server, ca_file = over_tls(tmp_path)
    (tmp_path / "other").mkdir()
    other, _ = over_tls(tmp_path / "other")
    with server, other:
        one = asking(server, tmp_path, login=place == "/login", ca_file=ca_file)
        one.primary.instead[place] = lambda _: answer(status=status, location=f"{other.url}/users")
        one.fails(BROKEN, other.url, "redirects are not followed")
        assert other.connections == 0


# Patience


@pytest.mark.parametrize("status", [429, 503])
def test_a_short_wait_is_waited(status: int, one: Asking) -> None:
    """A server that wants a second's patience gets it, on any page, and then the list is whole."""
    waits = [answer(status=status, retry_after="1"), answer(status=status, retry_after="0")]
    one.primary.instead["/users 2"] = lambda request: (
        waits.pop() if waits else [json_of(one.primary.body(request.path, 2))]
    )
    assert addresses(one.asked.fetch()) == WHOLE
    assert not waits


def json_of(body: object) -> bytes:
    """Write a whole answer."""
    return b"".join(answer(json.dumps(body)))


def test_patience_ends(one: Asking) -> None:
    """A server that always wants some patience does not get it for ever."""
    one.primary.instead["/users 2"] = lambda _: answer(status=429, retry_after="0")
    before = len(one.server.asked)
    one.fails(TEMPORARY, "step 'users', page 2", "answers 429")
    assert len(one.server.asked) == before + 2 + 3


@pytest.mark.parametrize("wait", ["31", "3600", "Wed, 21 Oct 2026 07:28:00 GMT", "-1", "1.5", "\u00b2", ""])
def test_a_long_wait_is_for_the_next_run(wait: str, one: Asking) -> None:
    """A wait of more than some seconds, or one that cannot be understood, fails this run at once."""
    one.primary.instead["/users 2"] = lambda _: answer(status=429, retry_after=wait)
    before = len(one.server.asked)
    one.fails(TEMPORARY, "step 'users', page 2", "answers 429")
    assert len(one.server.asked) == before + 3


def test_the_deadline_holds_between_pages(tmp_path: Path) -> None:
    """Endlessly many quick answers do not keep a fetch alive beyond its deadline."""
    server, ca_file = over_tls(tmp_path)
    with server:
        one = asking(server, tmp_path, ca_file=ca_file, deadline=0.5)
        one.primary.mended["/domains"] = lambda body: [
            *body,
            *({"id": f"x{number}", "name": f"{number}"} for number in range(10**5)),
        ]
        for number in range(10**5):
            one.server.routes[f"/aliases/{number}"] = lambda _: [json_of([])]
        one.fails(TEMPORARY, "deadline")
        count = len(server.asked)
        assert one.asked.configured.free.acquire(timeout=PATIENCE)
        assert len(server.asked) <= count + 2


def test_nothing_is_asked_after_the_deadline(tmp_path: Path) -> None:
    """A fetch whose time is over asks nothing more."""
    server, ca_file = over_tls(tmp_path)
    own = config(server.url, ca_file=ca_file)
    with server, Client(own, time.monotonic() - 1) as client:
        with pytest.raises(SourceError, match="deadline has passed"), client.send(server.url, HttpRequest()):
            pass
        assert server.connections == 0


# Certificates


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("wrong.example", "not valid for 'localhost'"),
        ("unknown authority", "certificate verify failed"),
        ("expired", "certificate has expired"),
    ],
)
@pytest.mark.parametrize("login", [False, True])
def test_certificates(name: str, told: str, login: bool, tmp_path: Path) -> None:  # noqa: FBT001 - a parameter
    """A certificate that is not right fails the source before a word is said, of the token or of the password."""
    server, ca_file = over_tls(tmp_path, name if "." in name else "localhost", expired=name == "expired")
    if name == "unknown authority":
        ca_file = Authority().ca_file(tmp_path)
    text = RECIPE.replace(BEARER, LOGIN) if login else RECIPE
    who = {"username": "anna", "password_file": secret(tmp_path)} if login else {"token_file": secret(tmp_path)}
    with server:
        asked = Asked(tmp_path / "a", server.url, recipe=recipe(tmp_path, text), ca_file=ca_file, **who)
        report = asked.fetch().report
        assert (report.kind, server.asked) == (BROKEN, [])
        assert told in report.error
        assert "server certificate rejected: " in report.error
        assert "check ca_file" in report.error
