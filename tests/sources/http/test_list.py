"""A plain list: whole, or a failed source whose last list stays; real sockets, real TLS."""

import gzip
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from syncagent.errors import FailureKind
from syncagent.sources.http import plain_list as lines
from syncagent.sync.fetch import REFUSED_FOR
from syncagent.values.types import Size
from tests.sources.http import TOKEN, Asked, addresses, ended, secret
from tests.support.authority import Authority
from tests.support.programs import PATIENCE, allowed, wait_until
from tests.support.scripted_http import Asked as Request
from tests.support.scripted_http import Part, ScriptedHTTP, answer

PEOPLE = [f"user{number}@example.com" for number in range(200)]
LIST = ended(PEOPLE)
BOMB = gzip.compress(b"a@example.com\n" * 3_000_000)


@pytest.fixture
def server() -> Iterator[ScriptedHTTP]:
    """A server without TLS that publishes a list."""
    with ScriptedHTTP(routes={"/list": lambda _: answer(LIST)}) as http:
        yield http


def says(server: ScriptedHTTP, *parts: Part) -> None:
    """Have the list answered by just this."""
    server.routes["/list"] = lambda _: parts


def head(*lines: str, status: str = "200 OK") -> bytes:
    """Write the head of an answer."""
    return "\r\n".join([f"HTTP/1.1 {status}", *lines, "", ""]).encode()


def _endless(_: Request) -> Iterable[Part]:
    yield head("transfer-encoding: chunked")
    line = b"a@example.com\n" * 5000
    while True:
        yield b"%x\r\n%b\r\n" % (len(line), line)


def _trickle(_: Request) -> Iterable[Part]:
    yield head("content-length: 1000")
    for _turn in range(1000):
        yield b"a"
        yield 0.05


@dataclass(frozen=True)
class Failure:
    """What the server does, what the message tells, and which kind of failure it is."""

    does: Callable[[Request], Iterable[Part]]
    told: str
    kind: FailureKind = FailureKind.TEMPORARY
    foreign: bool = False


_BROKEN, _REFUSED = FailureKind.BROKEN, FailureKind.REFUSED
HALF = LIST[: len(LIST) // 2]
FAILURES = {
    "no end line": Failure(lambda _: answer(b"a@example.com\n"), "the last line is not"),
    "CR LF": Failure(lambda _: answer(LIST.replace(b"\n", b"\r\n")), "its lines end in CR LF"),
    "end line cut": Failure(lambda _: answer(LIST[:-5]), "the last line is not"),
    "wrong count": Failure(lambda _: answer(LIST.replace(b"# end 200", b"# end 201")), "counts 201 lines"),
    "wrong digest": Failure(lambda _: answer(LIST.replace(b"user7@", b"user8@")), "do not match the SHA-256 digest"),
    "a line less": Failure(lambda _: answer(LIST.replace(b"user7@example.com\n", b"")), "counts 200 lines"),
    "foreign, no length": Failure(
        lambda _: answer(b"a@example.com\n", length=False), "proves that the list is complete", _BROKEN, foreign=True
    ),
    "html": Failure(lambda _: answer("<html>", content_type="text/html; charset=utf-8"), "is it a web page", _BROKEN),
    "json": Failure(lambda _: answer('{"error":1}', content_type="application/json"), "not a plain list", _BROKEN),
    "html as text": Failure(
        lambda _: answer("<html>\n<body>\n", content_type="text/plain"), "none of its", _BROKEN, foreign=True
    ),
    "nul": Failure(lambda _: answer(b"a@example.com\n\0\0\0\n"), "contains a NUL octet", _BROKEN, foreign=True),
    "a line without end": Failure(lambda _: answer(b"a" * 3_000_000), "is it a list", _BROKEN, foreign=True),
    "empty": Failure(lambda _: answer(ended([])), "no entry at all", _BROKEN),
    "cut with a length": Failure(
        lambda _: [head(f"content-length: {len(LIST)}"), HALF, "fin"], "without sending complete"
    ),
    "cut in chunks": Failure(
        lambda _: [head("transfer-encoding: chunked"), b"%x\r\n%b\r\n" % (len(HALF), HALF), "fin"],
        "incomplete chunked",
        foreign=True,
    ),
    "cut without a length": Failure(lambda _: [head("connection: close"), HALF, "fin"], "the last line is not"),
    "reset": Failure(lambda _: [head(f"content-length: {len(LIST)}"), HALF, "rst"], "list"),
    "stall": Failure(lambda _: [head(f"content-length: {len(LIST)}"), HALF, "stall"], "no answer within its timeout"),
    "no answer": Failure(lambda _: ["stall"], "no answer within its timeout"),
    "hang up": Failure(lambda _: ["fin"], "disconnected"),
    "no HTTP": Failure(lambda _: [b"220 mail.example.com ESMTP\r\n", "fin"], "list"),
    "trickle": Failure(_trickle, "deadline"),
    "endless": Failure(_endless, "see max_body", _BROKEN, foreign=True),
    "cut gzip": Failure(lambda _: answer(gzip.compress(LIST)[:-10], content_encoding="gzip"), "gzip data is truncated"),
    "damaged gzip": Failure(lambda _: answer(b"\x1f\x8b" + b"x" * 50, content_encoding="gzip"), "gzip data is damaged"),
    "gzip goes on": Failure(
        lambda _: answer(gzip.compress(LIST) + b"more", content_encoding="gzip"),
        "after the end of the gzip data",
        _BROKEN,
    ),
    "gzip bomb": Failure(
        lambda _: answer(BOMB, content_encoding="gzip"), "decompressed: see max_body", _BROKEN, foreign=True
    ),
    "brotli": Failure(lambda _: answer(LIST, content_encoding="br"), "gzip was requested", _BROKEN),
    "304 unasked": Failure(lambda _: answer(status=304), "answers 304", _BROKEN),
    "204": Failure(lambda _: answer(status=204), "answers 204", _BROKEN),
    "206": Failure(lambda _: answer(HALF, status=206), "answers 206", _BROKEN),
    "404": Failure(lambda _: answer(status=404), "answers 404", _BROKEN),
    "500": Failure(lambda _: answer(status=500), "answers 500"),
    "503": Failure(lambda _: answer(status=503), "answers 503"),
    "401": Failure(lambda _: answer(status=401), "the server refuses the credentials", _REFUSED),
    "403": Failure(lambda _: answer(status=403), "the server refuses the credentials", _REFUSED),
    "429": Failure(lambda _: answer(status=429), "answers 429"),
    "429, in an hour": Failure(lambda _: answer(status=429, retry_after="3600"), "retry after '3600'"),
    "redirect": Failure(
        lambda _: answer(status=302, location="https://elsewhere.example.net/"), "not followed", _BROKEN
    ),
}


@pytest.mark.parametrize("name", FAILURES)
def test_a_failure_leaves_the_last_list(name: str, server: ScriptedHTTP, tmp_path: Path) -> None:
    """Whatever is not a whole answer fails the source with a telling message, and the last list stays."""
    failure = FAILURES[name]
    asked = Asked(
        tmp_path,
        f"{server.url}/list",
        deadline=6 if failure.told == "deadline" else 60,
        foreign=failure.foreign,
        read_timeout=2,
        max_body=Size(8 << 20),
        token_file=secret(tmp_path),
    )
    before = asked.whole()
    server.routes["/list"] = failure.does
    failed = asked.fetch()
    assert failed.report.state == "failing"
    assert failure.told in failed.report.error, failed.report.error
    assert failed.report.kind == failure.kind
    assert "\n" not in failed.report.error
    assert TOKEN not in f"{failed}"
    assert addresses(failed) == sorted(PEOPLE)
    assert failed.state.validator == before.state.validator
    left = [file.name for file in asked.runs.spool.iterdir() if not file.name.startswith("sort")]  # a killed sort(1)'s
    assert not left
    assert wait_until(lambda: "fetch primary" not in [thread.name for thread in threading.enumerate()])


def test_a_refusal_is_not_repeated_within_the_hour(server: ScriptedHTTP, tmp_path: Path) -> None:
    """A server that refuses us is asked once an hour: it would ban us."""
    server.routes["/list"] = lambda _: answer(status=401)
    asked = Asked(tmp_path, f"{server.url}/list", token_file=secret(tmp_path))
    for later in (0, 10, REFUSED_FOR - 10):
        assert asked.fetch(1e9 + later).report.kind == FailureKind.REFUSED
    assert len(server.asked) == 1
    asked.fetch(1e9 + REFUSED_FOR + 10)
    assert len(server.asked) == 2


def test_a_redirect_takes_nothing_along(server: ScriptedHTTP, tmp_path: Path) -> None:
    """The host that a redirect names hears nothing of us, above all no token."""
    with ScriptedHTTP() as elsewhere:
        server.routes["/list"] = lambda _: answer(status=307, location=f"{elsewhere.url}/list")
        failed = Asked(tmp_path, f"{server.url}/list", token_file=secret(tmp_path)).fetch()
        assert elsewhere.url in failed.report.error
        assert elsewhere.connections == 0


@pytest.mark.parametrize("status", [429, 503])
def test_a_short_wait_is_waited(status: int, server: ScriptedHTTP, tmp_path: Path) -> None:
    """A server that wants a second's patience gets it, within the deadline."""
    answers = [answer(status=status, retry_after="1"), answer(LIST)]
    server.routes["/list"] = lambda _: answers.pop(0)
    began = time.monotonic()
    assert Asked(tmp_path, f"{server.url}/list").addresses() == sorted(PEOPLE)
    assert time.monotonic() - began >= 1


def test_patience_ends_with_the_deadline(server: ScriptedHTTP, tmp_path: Path) -> None:
    """Who would have to wait beyond the deadline does not wait at all."""
    server.routes["/list"] = lambda _: answer(status=429, retry_after="2000")
    asked = Asked(tmp_path, f"{server.url}/list", deadline=1000)
    began = time.monotonic()
    assert "answers 429" in asked.fetch().report.error
    assert time.monotonic() - began < allowed(4)
    assert len(server.asked) == 1


def test_same_by_etag(server: ScriptedHTTP, tmp_path: Path) -> None:
    """An ETag is sent back, and 304 is "same"; another ETag is another list."""
    server.routes["/list"] = lambda request: (
        answer(status=304, etag='"1"') if request.headers.get("if-none-match") == '"1"' else answer(LIST, etag='"1"')
    )
    asked = Asked(tmp_path, f"{server.url}/list")
    assert asked.whole().report.state == "whole"
    assert asked.whole().report.state == "same"
    assert asked.whole().report.state == "same"
    server.routes["/list"] = lambda _: answer(ended(["a@example.com"]), etag='W/"2"')
    assert asked.addresses() == ["a@example.com"]
    asked.whole()
    assert server.asked[-1].headers["if-none-match"] == 'W/"2"'


def test_same_by_date(server: ScriptedHTTP, tmp_path: Path) -> None:
    """Without an ETag the date of the last change serves."""
    date = "Wed, 21 Oct 2026 07:28:00 GMT"
    server.routes["/list"] = lambda request: (
        answer(status=304)
        if request.headers.get("if-modified-since") == date
        else answer(LIST, last_modified=date, date=date.replace("28:00", "28:02"))
    )
    asked = Asked(tmp_path, f"{server.url}/list")
    asked.whole()
    assert asked.whole().report.state == "same"


JUST_NOW = {"last_modified": "Wed, 21 Oct 2026 07:28:00 GMT"}


@pytest.mark.parametrize(
    ("date", "etag", "state"),
    [
        ("Wed, 21 Oct 2026 07:28:02 GMT", "", "same"),
        ("Wed, 21 Oct 2026 07:28:01 GMT", "", "whole"),
        ("Wed, 21 Oct 2026 07:28:00 GMT", '"2026-1f"', "whole"),
        ("Wed, 21 Oct 2026 07:27:00 GMT", "", "whole"),
        ("", "", "whole"),
        ("yesterday", "", "whole"),
    ],
)
def test_a_list_that_was_changed_just_now(
    date: str, etag: str, state: str, server: ScriptedHTTP, tmp_path: Path
) -> None:
    """What was written within the same second may be written once more in it, and be called the same for ever."""
    said: dict[str, Any] = {**JUST_NOW, **({"date": date} if date else {}), **({"etag": etag} if etag else {})}

    def says_same(request: Request) -> Iterable[Part]:
        known = "if-none-match" in request.headers or "if-modified-since" in request.headers
        return answer(status=304) if known else answer(LIST, **said)

    server.routes["/list"] = says_same
    asked = Asked(tmp_path, f"{server.url}/list")
    asked.whole()
    assert asked.whole().report.state == state


def test_all_of_it_once_a_day(server: ScriptedHTTP, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A cache that says "same" for ever is not believed for ever; neither is one in whose past we are."""
    now = [1e9]
    monkeypatch.setattr(lines, "time", SimpleNamespace(time=lambda: now[0]))
    server.routes["/list"] = lambda request: (
        answer(status=304) if "if-none-match" in request.headers else answer(LIST, etag='"1"')
    )
    asked = Asked(tmp_path, f"{server.url}/list")
    seen = []
    for later in (0, 1, 86399, 86400, 86401, 2 * 86400, -5, -4):
        now[0] = 1e9 + later
        seen.append(asked.whole().report.state)
    assert seen == ["whole", "same", "same", "whole", "same", "whole", "whole", "same"]


def test_a_query_is_not_shown(server: ScriptedHTTP, tmp_path: Path) -> None:
    """A URL may have a key in its query: no message has it, whatever fails."""
    asked = Asked(tmp_path, f"{server.url}/list?key={TOKEN}", foreign=True, max_body=Size(8 << 20), deadline=20)
    asked.whole()
    for failure in FAILURES.values():
        if failure.told not in {"deadline", "no answer within its timeout"}:
            server.routes["/list"] = failure.does
            fetched = asked.fetch(1e9 + 2 * REFUSED_FOR)
            assert TOKEN not in f"{fetched.report} {fetched.state.error}"


@pytest.mark.parametrize(
    "token", [f"{TOKEN} ", f" {TOKEN}", f"{TOKEN}\t", f"{TOKEN}\u00a0", f"{TOKEN}\r\n", f"a\n{TOKEN}"]
)
def test_a_token_that_no_header_holds(token: str, server: ScriptedHTTP, tmp_path: Path) -> None:
    """A slip of the editor in the secret's file is told without the secret, and nothing is sent."""
    asked = Asked(tmp_path, f"{server.url}/list", token_file=secret(tmp_path, token))
    failed = asked.fetch()
    assert "see the secret's file" in failed.report.error
    assert (failed.report.kind, server.asked) == (_BROKEN, [])
    assert TOKEN not in f"{failed}"


def test_what_a_server_calls_a_failure(server: ScriptedHTTP, tmp_path: Path) -> None:
    """Its own words beside the status are cut short, and control no terminal."""
    says(server, head("content-length: 0", status="500 \x1b[31mred" + 60_000 * "z"))
    error = Asked(tmp_path, f"{server.url}/list").fetch().report.error
    assert "answers 500" in error
    assert error.isprintable()
    assert len(error) < 200


def test_a_head_that_never_ends(server: ScriptedHTTP, tmp_path: Path) -> None:
    """Octets of a header now and then are waited for until the deadline, and not in the next run as well."""

    def trickle(_: Request) -> Iterable[Part]:
        yield b"HTTP/1.1 200 OK\r\nx: "
        while True:
            yield b"x"
            yield 0.05

    asked = Asked(tmp_path, f"{server.url}/list", deadline=1)
    server.routes["/list"] = trickle
    assert "deadline" in asked.fetch().report.error
    assert asked.configured.free.acquire(timeout=PATIENCE), "its thread came to its end"
    asked.configured.free.release()
    server.routes["/list"] = lambda _: answer(LIST)
    asked.whole()


def test_a_host_that_is_none(tmp_path: Path) -> None:
    """A host name that cannot be asked for is told as what it is."""
    failed = Asked(tmp_path, "http://ex..ample/list").fetch()
    assert (failed.report.kind, "ex..ample" in failed.report.error) == (_BROKEN, True)
    assert "a fault in" not in failed.report.error


def test_neither_is_asked_for_whole(server: ScriptedHTTP, tmp_path: Path) -> None:
    """A server without validators is asked for the whole list each time."""
    asked = Asked(tmp_path, f"{server.url}/list")
    assert [asked.whole().report.state for _ in range(2)] == ["whole", "whole"]


def test_what_a_server_may_say(server: ScriptedHTTP, tmp_path: Path) -> None:
    """A list may come with a length, in chunks, packed, and until the connection ends if it has its end line."""
    lines = ["# domains: example.com", "Anna@Example.com", "", "# note", "@example.org", "dörte@example.com", "info"]
    body = ended(lines)
    wanted = ["@example.org", "anna@example.com", "dörte@example.com", "info@example.com", "info@example.org"]
    asked = Asked(tmp_path, f"{server.url}/list", domains=("example.com", "example.org"))
    ways = (
        answer(body),
        answer(body, chunked=True),
        answer(body, length=False),
        answer(gzip.compress(body), content_encoding="gzip"),
        answer(gzip.compress(body), content_encoding="gzip", chunked=True),
    )
    for parts in map(list, ways):
        server.routes["/list"] = lambda _, parts=parts: parts  # type: ignore[misc] # a default argument
        assert asked.addresses() == sorted(wanted)
    server.routes["/list"] = lambda _: answer(b"anna@example.com\n")
    assert Asked(tmp_path / "f", f"{server.url}/list", foreign=True).addresses() == ["anna@example.com"]


def test_much_is_unpacked_whole(server: ScriptedHTTP, tmp_path: Path) -> None:
    """A well-packed long list comes out as it is, whatever the sizes of the pieces."""
    many = [f"user{number % 7}.{number}@example.com" for number in range(200_000)]
    server.routes["/list"] = lambda _: answer(gzip.compress(ended(many)), content_encoding="gzip")
    assert len(Asked(tmp_path, f"{server.url}/list").addresses()) == len(many)


def test_who_we_are(server: ScriptedHTTP, tmp_path: Path) -> None:
    """A token is sent as Bearer, a name with its password as Basic, and nothing where there is neither."""
    url = f"{server.url}/list"
    Asked(tmp_path / "a", url, token_file=secret(tmp_path)).whole()
    Asked(tmp_path / "b", url, username="anna", password_file=secret(tmp_path, "s3cret")).whole()
    Asked(tmp_path / "c", url).whole()
    sent = [request.headers.get("authorization") for request in server.asked]
    assert sent == [f"Bearer {TOKEN}", "Basic YW5uYTpzM2NyZXQ=", None]


def test_the_environment_has_no_say(server: ScriptedHTTP, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Proxies of the environment and a .netrc are not used."""
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:1")
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / ".netrc").write_text("machine localhost login eve password evil\n")
    Asked(tmp_path / "a", f"{server.url}/list").whole()
    assert "authorization" not in server.asked[0].headers


@pytest.mark.parametrize(
    ("names", "trusted", "expired", "told"),
    [
        pytest.param(("localhost",), True, False, "", id="right"),
        pytest.param(("wrong.example",), True, False, "not valid for 'localhost'", id="wrong-name"),
        pytest.param(("localhost",), False, False, "certificate verify failed", id="unknown-authority"),
        pytest.param(("localhost",), True, True, "certificate has expired", id="expired"),
    ],
)
def test_certificates(
    names: tuple[str, ...],
    trusted: bool,  # noqa: FBT001 - a parameter
    expired: bool,  # noqa: FBT001 - a parameter
    told: str,
    tmp_path: Path,
) -> None:
    """A certificate of another name or authority, or one that has expired, fails the source before a word is said."""
    authority = Authority()
    ca_file = (authority if trusted else Authority()).ca_file(tmp_path)
    context = authority.server_context(tmp_path, *names, expired=expired)
    with ScriptedHTTP(context, {"/list": lambda _: answer(LIST)}) as server:
        fetched = Asked(tmp_path, f"{server.url}/list", ca_file=ca_file, token_file=secret(tmp_path)).fetch()
        assert told in fetched.report.error, fetched.report.error
        assert (fetched.report.kind == FailureKind.BROKEN) == bool(told)
        assert bool(server.asked) != bool(told)


def test_a_server_that_is_not_there(tmp_path: Path) -> None:
    """No server, no name, and one that never finishes its TLS are named."""
    with ScriptedHTTP() as plain:
        plain.routes["/"] = lambda _: ["stall"]
        asked = Asked(tmp_path / "tls", plain.url.replace("http:", "https:"), connect_timeout=0.5, read_timeout=0.5)
        assert asked.fetch().report.kind == FailureKind.TEMPORARY
    assert "no connection" in Asked(tmp_path / "a", "http://localhost:1/").fetch().report.error
    assert "no connection" in Asked(tmp_path / "b", "http://nowhere.invalid/").fetch().report.error


def test_secrets_that_no_header_can_hold(server: ScriptedHTTP, tmp_path: Path) -> None:
    """A token with a line break in it fails the source without being shown."""
    asked = Asked(tmp_path, f"{server.url}/list", token_file=secret(tmp_path, "two\nlines"))
    failed = asked.fetch()
    assert "cannot contain" in failed.report.error
    assert "lines" not in failed.report.error
