"""Ask an HTTP server, and believe nothing but a whole answer. httpx is imported here and nowhere else.

No redirect is followed: a redirect to another host would take our token along. What refuses our credentials is not
asked again (see ``fetch``): primaries ban hosts that fail to log in. Status codes are those of RFC 9110.
"""

from __future__ import annotations

import contextlib
import json
import math
import re
import time
import zlib
from dataclasses import dataclass, field
from functools import partial
from itertools import count
from typing import TYPE_CHECKING, Any, Self

import httpx
import msgspec

from syncagent import __version__
from syncagent.errors import FailureKind, SourceError
from syncagent.sources.http.cancel import Connections
from syncagent.sources.tls import context
from syncagent.values.types import Size

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from syncagent.sources.http import Config

_UNPACKED = 1 << 18
_PATIENCE = 30.0
"""Seconds: the longest Retry-After that is waited for."""
_TRIES = 3
_LONGEST_LINK = 8192
_COSTS = {b",": 64, b"{": 256, b"[": 64}
"""Octets of memory that a value, an object and an array take at most once decoded, by the sign that each has."""
_TIMES = 10
"""How many times max_body the decoded values of a body may take. Names and addresses in objects take four times."""
_DIGITS = 1000
"""Digits of a number: int() costs the square of them."""
_LINK = re.compile(r'<([^<>]*)>((?:\s*;\s*[^\s=;,]+(?:\s*=\s*(?:"(?:[^"\\]|\\.)*"|[^\s";,]*))?)*)')
_REL = re.compile(r';\s*rel\s*=\s*(?:"([^"]*)"|([^\s";,]*))', re.IGNORECASE)
_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")
_OK, _NOT_MODIFIED, _TOO_MANY, _UNAVAILABLE = 200, 304, 429, 503
_PASSING = frozenset({408, 421, 425, _TOO_MANY})
"""Client errors that another try may mend."""
_PHRASE = 60
_LOOK = 1000
"""Objects between two looks at the clock."""


@dataclass(frozen=True, slots=True)
class Ask:
    """A request beside its URL: method, headers, query, and a body as JSON or as a form."""

    method: str = "GET"
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    query: Mapping[str, str] = field(default_factory=dict)
    json: Any = field(default=None, repr=False)
    form: Mapping[str, str] | None = field(default=None, repr=False)
    basic: tuple[str, str] | None = field(default=None, repr=False)
    rate_words: tuple[str, ...] = ()
    max_body: int = 0
    """Octets, where an answer has to be smaller than the source's max_body allows."""
    refusals: frozenset[int] = frozenset({401, 403, 407})

    def arguments(self, url: str) -> dict[str, Any]:
        """Give them as httpx takes them."""
        given: dict[str, Any] = {"method": self.method, "url": url, "headers": dict(self.headers)}
        if self.query:
            given["params"] = httpx.URL(url).params.merge(dict(self.query))
        if self.json is not None:
            given["json"] = self.json
        if self.form is not None:
            given["data"] = dict(self.form)
        if self.basic is not None:
            given["auth"] = httpx.BasicAuth(*self.basic)
        return given


@dataclass
class Response:
    """An answer with status 200, its body not read yet, or 304."""

    url: str
    status: int
    headers: Mapping[str, str] = field(repr=False)
    _chunks: Iterator[bytes] = field(repr=False)
    _most: int = 1 << 20
    """Octets that the body may have; its chunks see to that."""
    _ends: float = math.inf

    def body(self) -> Iterator[bytes]:
        """Give the body, unpacked, in chunks. Raises SourceError where it is not whole, too large or too slow."""
        return self._chunks

    def json(self) -> Any:  # noqa: ANN401 - JSON
        """Give the body as JSON. Raises SourceError where it is none, which is never shown: it may hold secrets.

        So it does where the body would take too much memory once decoded, before that is done, and at the deadline.
        """
        raw = bytearray()
        for chunk in self._chunks:
            raw += chunk
        self._check_cost(raw)
        try:
            return _from_json(raw, partial(self._object, count(1)))
        except (ValueError, RecursionError, msgspec.DecodeError) as error:
            kind = self.headers.get("content-type", "no kind")[:100]
            why = "it is nested too deeply" if isinstance(error, RecursionError) else str(error)[:100]
            text = f"{self.url}: its answer ({kind!r}) is no JSON, or not all of it: {why}"
            raise SourceError(text, kind=FailureKind.TEMPORARY if _is_cut(error) else FailureKind.BROKEN) from None

    def _check_cost(self, raw: bytearray) -> None:
        """Raise SourceError where values, objects and arrays are so many that they would fill the memory."""
        cost = sum(octets * raw.count(sign) for sign, octets in _COSTS.items())
        if cost > _TIMES * self._most:
            text = (
                f"{self.url}: its answer has so many values that it may take {cost >> 20}M of memory, over"
                f" {_TIMES * self._most >> 20}M ({_TIMES} times max_body): ask for smaller pages, or raise max_body"
            )
            raise SourceError(text, kind=FailureKind.BROKEN)

    def _object(self, number: Iterator[int], pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        """Make an object of its pairs. Raises SourceError once the deadline has passed."""
        if next(number) % _LOOK == 0 and time.monotonic() > self._ends:
            raise SourceError(f"{self.url}: its answer takes longer to decode than the source's deadline")
        return _object(pairs)

    @property
    def next_link(self) -> str:
        """What the header Link names as the next page (RFC 8288): a relation may be one of several, in any case."""
        header = self.headers.get("link", "")
        if len(header) > _LONGEST_LINK:
            raise SourceError(f"{self.url}: its header Link is over {_LONGEST_LINK} long", kind=FailureKind.BROKEN)
        for target, parameters in _LINK.findall(header):
            relation = _REL.search(parameters)
            if relation and "next" in (relation[1] or relation[2]).lower().split():
                return str(target)
        return ""

    @property
    def proves_its_end(self) -> bool:
        """Whether the server says where the body ends (RFC 9112, 6.3), so that a cut is noticed."""
        return "content-length" in self.headers or "chunked" in self.headers.get("transfer-encoding", "").lower()


class Transport:
    """A client of one server for the time of a fetch; leave its block to let the connections go."""

    def __init__(self, config: Config, ends: float) -> None:
        """Connect to nothing yet. ``ends`` is when the fetch is given up on, by time.monotonic()."""
        self._config, self._ends = config, ends
        self._connections = Connections()
        self._client = httpx.Client(
            verify=context(config),
            follow_redirects=False,
            trust_env=False,  # no proxy that we were not told of, and no .netrc
            headers={"user-agent": f"syncagent/{__version__}", "accept-encoding": "gzip"},
        )

    def sign(self, name: str, value: str, scheme: str = "") -> None:
        """Send a header with a secret from now on. Raises SourceError where no header can hold the secret."""
        if not value.isascii() or not value.isprintable() or value != value.strip():
            text = (
                f"what says who we are has a character, or white space at an end, that the header {name} cannot hold:"
                " see the secret's file"
            )
            raise SourceError(text, kind=FailureKind.BROKEN)
        self._client.headers[name] = f"{scheme} {value}" if scheme else value

    def sign_basic(self, username: str, password: str) -> None:
        """Send name and password from now on (RFC 7617, as UTF-8)."""
        self._client.auth = httpx.BasicAuth(username, password)

    def __enter__(self) -> Self:
        """Begin."""
        return self

    def __exit__(self, *_: object) -> None:
        """Let the connections go."""
        self._client.close()

    def cut(self) -> None:
        """End all waiting, from another thread."""
        self._connections.cut()

    @contextlib.contextmanager
    def ask(self, url: str, request: Ask) -> Iterator[Response]:
        """Ask, and give the answer; its body is to be read within the block.

        Raises SourceError: temporary, refused or broken.
        """
        shown = url.partition("?")[0]
        if time.monotonic() > self._ends:
            raise SourceError(f"{shown}: the source's deadline has passed before all was asked for")
        with _blamed(shown, self._ends), contextlib.ExitStack() as stack:
            for left in reversed(range(_TRIES)):
                self._client.timeout = self._time_left()
                asked = self._client.stream(**request.arguments(url), extensions=self._connections.extensions)
                response = stack.enter_context(asked)
                wait = _retry_after(response)
                if wait is None or not left or time.monotonic() + wait > self._ends:
                    break
                stack.pop_all().close()
                time.sleep(wait)
            self._judge(shown, response, request)
            most = request.max_body or self._config.most
            chunks = self._unpacked(shown, response, most)
            yield Response(shown, response.status_code, response.headers, chunks, most, self._ends)

    def _time_left(self) -> httpx.Timeout:
        """Give the configured time-outs, none longer than what is left of the deadline."""
        left = max(self._ends - time.monotonic(), 0.1)
        return httpx.Timeout(
            min(float(self._config.read_timeout), left), connect=min(float(self._config.connect_timeout), left)
        )

    def _judge(self, url: str, response: httpx.Response, request: Ask) -> None:
        """Raise SourceError for every status but 200, and 304 where we asked for it."""
        status = response.status_code
        if status == _OK or (status == _NOT_MODIFIED and _is_conditional(response.request)):
            return
        said = f"{url} answers {status} {response.reason_phrase[:_PHRASE]}".rstrip()
        if status in request.refusals:
            if request.rate_words and self._says(url, response, request.rate_words):
                raise SourceError(f"{said}: too many requests, it says")
            text = f"{said}: it refuses our credentials; see token_file, username, and its list of permitted addresses"
            raise SourceError(text, kind=FailureKind.REFUSED)
        if response.has_redirect_location:
            where = response.headers.get("location", "-").partition("?")[0]
            raise SourceError(
                f"{said}, to {where[:300]!r}; redirects are not followed: see url", kind=FailureKind.BROKEN
            )
        if status in _PASSING or response.is_server_error:
            wait = response.headers.get("retry-after")
            raise SourceError(f"{said}{f' (try again after {wait[:50]!r})' if wait else ''}")
        why = "see url" if response.is_client_error else "and 200 is wanted"
        raise SourceError(f"{said}: {why}", kind=FailureKind.BROKEN)

    def _says(self, url: str, response: httpx.Response, words: tuple[str, ...]) -> bool:
        """Tell whether the beginning of a body has one of these words; it is shown to nobody."""
        found = b""
        for chunk in self._unpacked(url, response, self._config.most):
            found += chunk
            if len(found) > _UNPACKED:
                break
        return any(word.encode() in found for word in words)

    def _unpacked(self, url: str, response: httpx.Response, most: int) -> Iterator[bytes]:
        """Give the body, unpacked, and watch its size, its end and the clock."""
        packed = response.headers.get("content-encoding", "identity").lower()
        if packed not in {"identity", "gzip", "x-gzip"}:
            raise SourceError(
                f"{url}: its content-encoding {packed[:_PHRASE]!r} was not asked for", kind=FailureKind.BROKEN
            )
        chunks = self._counted(url, response.iter_raw(), "sent", most)
        return chunks if packed == "identity" else self._counted(url, _gunzipped(url, chunks), "unpacked", most)

    def _counted(self, url: str, chunks: Iterator[bytes], how: str, most: int) -> Iterator[bytes]:
        count = 0
        for chunk in chunks:
            count += len(chunk)
            if count > most:
                text = f"{url}: its answer is over {Size(most)} as {how}: see max_body"
                raise SourceError(text, kind=FailureKind.BROKEN)
            if time.monotonic() > self._ends:
                raise SourceError(f"{url}: its answer takes longer than the source's deadline")
            yield chunk


def _gunzipped(url: str, chunks: Iterator[bytes]) -> Iterator[bytes]:
    """Unpack, never much at once. Raises SourceError where it is no gzip, or not all of it (RFC 1952)."""
    unpacker = zlib.decompressobj(wbits=31)
    try:
        for chunk in chunks:
            if unpacker.eof:
                raise SourceError(f"{url}: its gzip goes on after its end", kind=FailureKind.BROKEN)
            left, full = chunk, True
            while left or full:
                piece = unpacker.decompress(left, _UNPACKED)
                left, full = unpacker.unconsumed_tail, len(piece) == _UNPACKED
                yield piece
            if unpacker.unused_data:
                raise SourceError(f"{url}: its gzip goes on after its end", kind=FailureKind.BROKEN)
    except zlib.error as error:
        raise SourceError(f"{url}: its gzip is damaged: {error}") from None
    if not unpacker.eof:
        raise SourceError(f"{url}: its gzip is cut short")


def _from_json(raw: bytearray, made: Callable[[list[tuple[str, Any]]], dict[str, Any]]) -> Any:  # noqa: ANN401 - JSON
    """Decode strictly: a name that comes twice in an object would hide what the first one has.

    ``raw`` is emptied where it is not needed any more. ``made`` makes an object of its pairs.
    """
    text = raw.decode()
    escapes = _SURROGATE.search(text)
    if not escapes:
        raw.clear()
    body = json.loads(text, object_pairs_hook=made, parse_constant=_number, parse_float=_number, parse_int=_integer)
    if escapes:
        msgspec.json.decode(raw, type=msgspec.Raw)  # refuses halves of pairs, and makes no objects
    return body


def _is_cut(error: Exception) -> bool:
    """Tell whether JSON ends too early: the connection was lost, where nothing else says so."""
    if not isinstance(error, json.JSONDecodeError):
        return False
    return error.pos >= len(error.doc.rstrip()) or error.msg.startswith("Unterminated")


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("an object has a name twice")
    return found


def _integer(spelled: str) -> int:
    if len(spelled) > _DIGITS:
        raise ValueError(f"a number has {len(spelled)} digits")
    return int(spelled)


def _number(spelled: str) -> float:
    number = float(spelled)
    if not math.isfinite(number):
        raise ValueError("a number is out of range")
    return number


def _is_conditional(request: httpx.Request) -> bool:
    return "if-none-match" in request.headers or "if-modified-since" in request.headers


def _retry_after(response: httpx.Response) -> float | None:
    """Give the few seconds that the server wants us to wait (RFC 9110, 10.2.3); None where it does not, or longer."""
    if response.status_code not in {_TOO_MANY, _UNAVAILABLE}:
        return None
    value = response.headers.get("retry-after", "")
    return float(value) if value.isdecimal() and value.isascii() and float(value) <= _PATIENCE else None


@contextlib.contextmanager
def _blamed(url: str, ends: float) -> Iterator[None]:
    """Turn what httpx raises to SourceError. Its texts are about connections, but for one kind."""
    try:
        yield
    except httpx.TimeoutException as error:
        if time.monotonic() > ends:
            raise SourceError(f"{url}: no whole answer within the source's deadline") from None
        what = "no connection" if isinstance(error, httpx.ConnectTimeout) else "no answer"
        raise SourceError(f"{url}: {what} in time; see connect_timeout and read_timeout") from None
    except httpx.ConnectError as error:
        if "CERTIFICATE_VERIFY_FAILED" in str(error):
            text = (
                f"{url}: its certificate is not accepted: {_shown(error)}; see ca_file, and whether it is for that host"
            )
            raise SourceError(text, kind=FailureKind.BROKEN) from None
        raise SourceError(f"{url}: no connection: {_shown(error)}") from None
    except httpx.LocalProtocolError:  # its text has the header in it that is none
        text = f"{url}: a header that we would send is none: see the secret's file"
        raise SourceError(text, kind=FailureKind.BROKEN) from None
    except httpx.HTTPError as error:
        raise SourceError(f"{url}: {_shown(error) or type(error).__name__}") from None
    except (httpx.InvalidURL, httpx.StreamError, UnicodeError) as error:  # UnicodeError: of a host that is no name
        raise SourceError(f"{url}: {_shown(error)}", kind=FailureKind.BROKEN) from None


def _shown(error: Exception) -> str:
    return "".join(char if char.isprintable() else " " for char in str(error))[:300]
