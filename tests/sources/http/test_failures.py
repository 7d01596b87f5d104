"""An API that does not give a whole answer fails the source, wherever that happens, and the last list stays."""

import gzip
import json
import threading
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from syncagent.errors import FailureKind
from syncagent.values.types import Size
from tests.sources.http import TOKEN, addresses
from tests.sources.http.primary import MARK, RECIPE, WHOLE, Asking, Mend, asking, over_tls, recipe, tells, user
from tests.support.programs import wait_until
from tests.support.scripted_http import Asked as Request
from tests.support.scripted_http import Handler, Part, answer

TEMPORARY, REFUSED, BROKEN = FailureKind.TEMPORARY, FailureKind.REFUSED, FailureKind.BROKEN
PLACES = {
    "/users 1": "step 'users', page 1",
    "/users 3": "step 'users', page 3",
    "/aliases/example.org": "step 'aliases', page 1",
    "/login": "/login",
}


@pytest.fixture
def one(tmp_path: Path) -> Iterator[Asking]:
    """A primary over TLS that was asked once, by a token."""
    server, ca_file = over_tls(tmp_path)
    with server:
        yield asking(server, tmp_path, ca_file=ca_file, read_timeout=0.4, max_body=Size(1 << 20), deadline=3)


class Case(NamedTuple):
    """What the server does at a place, which kind of failure that is, and what is told."""

    does: Handler
    kind: FailureKind
    told: str


def head(*lines: str, status: str = "200 OK") -> bytes:
    """Write the head of an answer."""
    return "\r\n".join([f"HTTP/1.1 {status}", "content-type: application/json", *lines, "", ""]).encode()


def says(body: bytes | str, kind: FailureKind, told: str, status: int = 200, **keys: Any) -> Case:  # noqa: ANN401
    """Make a case of one answer."""
    return Case(lambda _: answer(body, status, **keys), kind, told)


def _endless(_: Request) -> Iterable[Part]:
    yield head("transfer-encoding: chunked")
    records = b'[{"address": "a@example.com"},' * 3000
    while True:
        yield b"%x\r\n%b\r\n" % (len(records), records)


def _trickle(_: Request) -> Iterable[Part]:
    yield head("content-length: 1000")
    for _turn in range(1000):
        yield b"["
        yield 0.05


GOOD = json.dumps(
    {"success": True, "status": "ok", "token": TOKEN, "next": None, "data": {"items": [], "total": 0}}
).encode()
LIST = b'[{"address": "a@example.com", "note": "%b"}]' % MARK.encode()
ERROR = json.dumps({"error": {"code": 17, "message": MARK, "you": TOKEN}})
HTML = f"<!DOCTYPE html><title>{MARK}</title>{TOKEN}"
BOMB = gzip.compress(b"[" + b" " * 30_000_000 + b"]")
ANYWHERE = {
    "html": says(HTML, BROKEN, "is not valid JSON", content_type="text/html"),
    "html as json": says(HTML, BROKEN, "is not valid JSON", content_type="application/json"),
    "nothing": says("", TEMPORARY, "or incomplete"),
    "cut with a length": Case(lambda _: [head("content-length: 500"), GOOD, "fin"], TEMPORARY, "without sending"),
    "cut without a length": Case(lambda _: [head("connection: close"), GOOD[:-9], "fin"], TEMPORARY, "or incomplete"),
    "cut in a list": Case(lambda _: [head("connection: close"), LIST[:-1], "fin"], TEMPORARY, "or incomplete"),
    "cut in a text": Case(lambda _: [head("connection: close"), LIST[:20], "fin"], TEMPORARY, "or incomplete"),
    "cut in chunks": Case(
        lambda _: [head("transfer-encoding: chunked"), b"%x\r\n%b\r\n" % (len(LIST), LIST), "fin"],
        TEMPORARY,
        "incomplete chunked",
    ),
    "cut gzip": says(gzip.compress(GOOD)[:-4], TEMPORARY, "gzip data is truncated", content_encoding="gzip"),
    "damaged gzip": says(b"\x1f\x8bxxxxxxxx", TEMPORARY, "gzip data is damaged", content_encoding="gzip"),
    "gzip bomb": says(BOMB, BROKEN, "decompressed: see max_body", content_encoding="gzip"),
    "brotli": says(GOOD, BROKEN, "gzip was requested", content_encoding="br"),
    "endless": Case(_endless, BROKEN, "as sent: see max_body"),
    "trickle": Case(_trickle, TEMPORARY, "deadline"),
    "stall": Case(lambda _: [head("content-length: 500"), GOOD, "stall"], TEMPORARY, "no answer within its timeout"),
    "reset": Case(lambda _: [head("content-length: 500"), GOOD, "rst"], TEMPORARY, ""),
    "hang up": Case(lambda _: ["fin"], TEMPORARY, "disconnected"),
    "trailing data": says(GOOD + b"{}", BROKEN, "is not valid JSON"),
    "NaN": says(b'{"x": NaN}', BROKEN, "is not valid JSON"),
    "infinite": says(b'{"x": 1e999}', BROKEN, "out of range"),
    "endless number": says(b"[" + b"9" * 5000 + b"]", BROKEN, "is not valid JSON"),
    "half a pair": says(rb'[{"address": "a\ud800@example.com"}]', BROKEN, "is not valid JSON"),
    "not UTF-8": says(b'[{"address": "\xff@example.com"}]', BROKEN, "is not valid JSON"),
    "UTF-16": says(GOOD.decode().encode("utf-16"), BROKEN, "is not valid JSON"),
    "deep": says(b"[" * 100_000 + b"]" * 100_000, BROKEN, "deeply"),
    "a name twice": says(GOOD[:-1] + b', "success": true}', BROKEN, "a name twice"),
    "204": says("", BROKEN, "answers 204", 204),
    "206": says(GOOD, BROKEN, "answers 206", 206),
    "304": says("", BROKEN, "answers 304", 304),
    "404": says(ERROR, BROKEN, "answers 404", 404),
    "429": says(ERROR, TEMPORARY, "answers 429", 429),
    "429, in an hour": says(ERROR, TEMPORARY, "retry after '3600'", 429, retry_after="3600"),
    "500": says(ERROR, TEMPORARY, "answers 500", 500),
    "503": says(ERROR, TEMPORARY, "answers 503", 503),
    "401": says(ERROR, REFUSED, "the server refuses the credentials", 401),
    "403": says(ERROR, REFUSED, "the server refuses the credentials", 403),
}


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("name", ANYWHERE)
def test_no_whole_answer(name: str, place: str, tmp_path: Path) -> None:
    """Whatever is no whole answer fails the source: on the first page, a later one, in another step, in the login."""
    server, ca_file = over_tls(tmp_path)
    with server:
        deadline = 1.0 if name == "trickle" else 5.0
        one = asking(
            server,
            tmp_path,
            login=place == "/login",
            ca_file=ca_file,
            read_timeout=0.4,
            max_body=Size(1 << 20),
            deadline=deadline,
        )
        case = ANYWHERE[name]
        one.primary.instead[place] = case.does
        one.fails(case.kind, "" if name == "trickle" else PLACES[place], case.told)
        del one.primary.instead[place]
        assert wait_until(lambda: "fetch primary" not in [thread.name for thread in threading.enumerate()])
        assert addresses(one.asked.fetch(3e9)) == WHOLE


def test_a_secret_would_be_found(one: Asking) -> None:
    """The search for secrets finds them where they are, so that finding none means something."""
    (one.asked.runs.spool / "left").write_text(f"x {MARK} x", "utf-8")
    assert tells(one.asked, one.before) == ["left"]


# Whole answers that are not what they ought to be


class Odd(NamedTuple):
    """What is done to a body, what is told, and which kind of failure that is."""

    does: Mend
    told: str
    kind: FailureKind = BROKEN


def data(**own: Any) -> Mend:  # noqa: ANN401 - JSON
    """Change keys of ``data``."""
    return lambda body: body | {"data": body["data"] | own}


def first(**own: Any) -> Mend:  # noqa: ANN401 - JSON
    """Change keys of the first record."""
    return lambda body: data(items=[body["data"]["items"][0] | own, *body["data"]["items"][1:]])(body)


def instead(record: Any) -> Mend:  # noqa: ANN401 - JSON
    """Have another first record."""
    return lambda body: data(items=[record, *body["data"]["items"][1:]])(body)


def without(key: str) -> Mend:
    """Leave out a key of the first record."""

    def mend(body: Any) -> Any:  # noqa: ANN401 - JSON
        del body["data"]["items"][0][key]
        return body

    return mend


USERS = {
    "error object": Odd(lambda _: json.loads(ERROR), "'success' is missing"),
    "says it failed": Odd(lambda body: body | {"success": False}, "reports a failure"),
    "unknown success": Odd(lambda body: body | {"success": "perhaps"}, "expected true or false"),
    "null": Odd(lambda _: None, "got null"),
    "array": Odd(lambda _: [], "got an array"),
    "text": Odd(lambda _: MARK, "got a text"),
    "no list": Odd(lambda body: body | {"data": {"total": 8}}, "'items' is missing"),
    "list elsewhere": Odd(lambda body: body | {"data": {"total": 8, "users": []}}, "the object has: total, users"),
    "list is an object": Odd(data(items={"1": user(1)}), "got an object"),
    "list is empty object": Odd(data(items={}), "got an object"),
    "list is null": Odd(data(items=None), "got null"),
    "list is a text": Odd(data(items=MARK), "got a text"),
    "list is a number": Odd(data(items=3), "got a number"),
    "list in a list": Odd(data(items=[[user(1)]]), "got an array"),
    "data is null": Odd(lambda body: body | {"data": None}, "got null"),
    "no total": Odd(lambda body: body | {"data": {"items": body["data"]["items"]}}, "'total' is missing"),
    "record is a text": Odd(instead(MARK), "got a text"),
    "record is null": Odd(instead(None), "the record is null"),
    "record is an array": Odd(instead([]), "got an array"),
    "record is a number": Odd(instead(7), "got a number"),
    "unknown status": Odd(first(status="gone"), "is it a new status?"),
    "long status": Odd(first(status=f"{MARK} and so on, at length"), "is it a new status?"),
    "status is null": Odd(first(status=None), "status is null"),
    "status is an object": Odd(first(status={}), "an object cannot be compared"),
    "no status": Odd(without("status"), "'status' is missing"),
    "no domain": Odd(without("domain"), "'domain' is missing"),
    "domain unknown": Odd(first(domain=3), "no record of step 'domains' has this id"),
    "domain is null": Odd(first(domain=None), "nothing to look up"),
    "no name": Odd(without("name"), "'name' is missing"),
    "name is null": Odd(first(name=None), "name is null"),
    "name is empty": Odd(first(name=" "), "name is empty"),
    "name is a number": Odd(first(name=17), "name is a number"),
    "no identifier": Odd(without("id"), "'id' is missing"),
    "next is an object": Odd(lambda body: body | {"next": {}}, "an object cannot be compared"),
    "next is true": Odd(lambda body: body | {"next": True}, "answers 404"),
}


@pytest.mark.parametrize("number", [1, 2])
@pytest.mark.parametrize("name", USERS)
def test_odd_users(name: str, number: int, one: Asking) -> None:
    """An answer that is none that the recipe knows fails the source, on the first page and on a later one."""
    case = USERS[name]
    one.primary.mended[f"/users {number}"] = case.does
    told = one.fails(case.kind, "step 'users', ", case.told)
    assert f"page {number}" in told or f"record {1 + 3 * (number - 1)}" in told or name == "next is true"


ALIASES = {
    "error object": Odd(lambda _: json.loads(ERROR), "page 1: list = '@': expected an array, got an object"),
    "empty object": Odd(lambda _: {}, "got an object"),
    "null": Odd(lambda _: None, "got null"),
    "record is null": Odd(lambda _: [None], "record 2: the record is null"),
    "no address": Odd(lambda _: [{"addres": "a@example.com"}], "record 2: address: 'address' is missing"),
    "address is null": Odd(lambda _: [{"address": None}], "address is null"),
    "address is an array": Odd(lambda _: [{"address": [MARK]}], "address is an array"),
}


@pytest.mark.parametrize("name", ALIASES)
def test_odd_aliases(name: str, one: Asking) -> None:
    """One of the calls of a for_each with an odd answer fails the source, after the others were right."""
    case = ALIASES[name]
    one.primary.mended["/aliases/example.org"] = case.does
    one.fails(case.kind, "step 'aliases', ", case.told)


DOMAINS = {
    "same identifier": (
        [{"id": 1, "name": "example.com"}, {"id": "1", "name": "example.org"}],
        "have the same id",
    ),
    "no name": ([{"id": 1}, {"id": 2, "name": "example.org"}], "'name' is missing"),
    "none": ([], "no record of step 'domains' has this id"),
    "nothing to ask": ([{"id": 1, "name": ""}], "cannot be part of a URL"),
    "null to ask": ([{"id": 1, "name": None}], "cannot be part of a URL"),
    "another path": ([{"id": 1, "name": ".."}], "cannot be part of a URL"),
}


@pytest.mark.parametrize("name", DOMAINS)
def test_odd_domains(name: str, one: Asking) -> None:
    """A list that others look things up in must be able to answer them."""
    body, told = DOMAINS[name]
    one.primary.mended["/domains"] = lambda _: body
    if "to ask" in name or name == "another path":
        one.primary.users = []
    one.fails(BROKEN, "step '", told)


MISTYPED = {
    "list": (
        'list = "data.items"',
        'list = "data.itmes"',
        "data.itmes: 'itmes' is missing, the object has: items",
    ),
    "total": ("data.total", "data.totl", "page 1: data.totl: 'totl' is missing"),
    "ok": ('path = "success"', 'path = "succes"', "page 1: succes: 'succes' is missing"),
    "where": ('path = "status"', 'path = "state"', "record 1: state: 'state' is missing"),
    "key": ('key = "id"\nwhere', 'key = "uid"\nwhere', "record 1: uid: 'uid' is missing"),
    "join here": ('local = "domain"', 'local = "domian"', "record 1: domian: 'domian' is missing"),
    "join there": ('key = "id", local', 'key = "pk", local', "record 1: pk: 'pk' is missing"),
    "template": ("{name}@", "{nmae}@", "record 1: nmae: 'nmae' is missing"),
    "template, joined": ("{of.name}", "{of.nmae}", "record 1: of.nmae: 'nmae' is missing"),
    "each": ("domains.name", "domains.nmae", "step 'aliases', for_each: nmae: 'nmae' is missing"),
    "next, the last page": ('path = "next?"', 'path = "data.items[0].nxt"', "'nxt' is missing"),
    "says nothing": (
        'of.name}" }]',
        'of.name}", where = [{ path = "name", starts = "x" }] }]',
        "record 1: no emit applies to the record",
    ),
}


@pytest.mark.parametrize("name", MISTYPED)
def test_a_mistyped_recipe(name: str, one: Asking) -> None:
    """A path with a slip in it is an error, and names what there is; it never means that there is nothing."""
    right, wrong, told = MISTYPED[name]
    assert RECIPE.count(right) == 1
    recipe(one.asked.runs.spool.parent, RECIPE.replace(right, wrong))
    renewed = renew(one)
    renewed.fails(BROKEN, "step '", told)


def renew(one: Asking) -> Asking:
    """Ask by the recipe as it is now."""
    own = one.asked.configured.own
    one.asked.configured = type(one.asked.configured)(
        name="primary", common=one.asked.configured.common, own=own, digest=repr(own), build=one.asked.configured.build
    )
    return one


def test_a_nul_in_an_address(one: Asking) -> None:
    """A NUL, or another letter that no map can hold, makes a reject of the address, which is told, and of no other."""
    one.primary.mended["/aliases/example.org"] = lambda body: [*body, {"address": "a\0b@example.org"}]
    fetched = one.asked.whole()
    assert (fetched.report.rejected, fetched.report.entries) == (1, one.before.report.entries)


@pytest.mark.parametrize("number", [pytest.param(10**400, id="400-digits"), -1, 1e300, 2**64])
def test_huge_numbers(number: float, one: Asking) -> None:
    """Numbers of any size are only compared: one that is no identifier of a domain is a look-up that fails."""
    one.primary.mended["/users 2"] = first(quota=number, id=number)
    one.again()
    one.primary.mended["/users 2"] = first(domain=number)
    one.fails(BROKEN, "step 'users', record 4", "no record of step 'domains'")


@pytest.mark.parametrize(
    "cut",
    [
        pytest.param(lambda raw: raw[: len(raw) // 2], id="half"),
        pytest.param(lambda raw: raw[:-1], id="last-octet"),
        pytest.param(lambda raw: raw[:1], id="first-octet"),
    ],
)
def test_truncated_json(cut: Callable[[bytes], bytes], one: Asking) -> None:
    """JSON that was cut where nothing else shows it is worth another try."""
    whole = json.dumps(one.primary.body("/users", 2)).encode()
    one.primary.instead["/users 2"] = lambda _: answer(cut(whole))
    one.fails(TEMPORARY, "step 'users', page 2", "or incomplete")
