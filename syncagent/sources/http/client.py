"""HTTP client that accepts complete answers only. httpx is imported here and nowhere else.

Redirects are not followed: a redirect to another host would take the credentials along. A refusal of the credentials
is not retried (see ``syncagent.sync.fetch``): primaries ban hosts that fail to log in. Status codes are of RFC 9110.
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
from syncagent.errors import FailureKind, SourceError, printable, translate_errors
from syncagent.sources.http.cancel import Connections
from syncagent.sources.tls import context
from syncagent.values.types import Size

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from syncagent.sources.http import Config

_CHUNK = 1 << 18
"""Octets that are decompressed at a time."""
_MAX_RETRY_AFTER = 30.0
"""Seconds: a longer Retry-After is left to the next run."""
_ATTEMPTS = 3
_MAX_LINK = 8192
_MEMORY_COSTS = {b",": 64, b"{": 256, b"[": 64}
"""Octets of memory that a decoded value, object and array take at most, by the octet that each has in the text."""
_MEMORY_FACTOR = 10
"""Memory that a decoded body may take, as a multiple of max_body. Objects of names and addresses take 4 times."""
_MAX_DIGITS = 1000
"""Digits of a number: the time of int() grows with their square."""
_LINK = re.compile(r'<([^<>]*)>((?:\s*;\s*[^\s=;,]+(?:\s*=\s*(?:"(?:[^"\\]|\\.)*"|[^\s";,]*))?)*)')
_REL = re.compile(r';\s*rel\s*=\s*(?:"([^"]*)"|([^\s";,]*))', re.IGNORECASE)
_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")
_OK, _NOT_MODIFIED, _TOO_MANY, _UNAVAILABLE = 200, 304, 429, 503
_TEMPORARY = frozenset({408, 421, 425, _TOO_MANY})
"""Client errors that may be gone at the next attempt."""
_MAX_PHRASE = 60
_MAX_TEXT = 300
"""Characters of a foreign text in a message."""
_OBJECTS_PER_CHECK = 1000
"""Objects that are decoded between two checks of the deadline."""


@dataclass(frozen=True, slots=True)
class HttpRequest:
    """A request without its URL: method, headers, query, and a body as JSON or as a form."""

    method: str = "GET"
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    query: Mapping[str, str] = field(default_factory=dict)
    json: Any = field(default=None, repr=False)
    form: Mapping[str, str] | None = field(default=None, repr=False)
    basic: tuple[str, str] | None = field(default=None, repr=False)
    rate_words: tuple[str, ...] = ()
    """Words in the body of a refusal that mean "too many requests"."""
    max_body: int = 0
    """Octets that the answer may have, if fewer than the source's max_body."""
    refusals: frozenset[int] = frozenset({401, 403, 407})
    """Status codes that mean that the credentials are refused."""

    def arguments(self, url: str) -> dict[str, Any]:
        """Return the arguments of httpx.Client.stream."""
        arguments: dict[str, Any] = {"method": self.method, "url": url, "headers": dict(self.headers)}
        if self.query:
            arguments["params"] = httpx.URL(url).params.merge(dict(self.query))
        if self.json is not None:
            arguments["json"] = self.json
        if self.form is not None:
            arguments["data"] = dict(self.form)
        if self.basic is not None:
            arguments["auth"] = httpx.BasicAuth(*self.basic)
        return arguments


@dataclass
class Response:
    """An answer with status 200, its body not read yet, or with status 304."""

    url: str
    status: int
    headers: Mapping[str, str] = field(repr=False)
    _chunks: Iterator[bytes] = field(repr=False)
    _max_body: int = 1 << 20
    """Octets that the body may have; the chunks raise beyond that."""
    _deadline: float = math.inf

    def body(self) -> Iterator[bytes]:
        """Return the decompressed chunks of the body. They raise SourceError if it is cut, too large or too slow."""
        return self._chunks

    def json(self) -> Any:  # noqa: ANN401 - JSON
        """Return the body as JSON.

        Raises SourceError if it is not JSON, if it would take too much memory once decoded (before it is decoded), and
        at the deadline. No message contains the body, which may contain secrets.
        """
        raw = bytearray()
        for chunk in self._chunks:
            raw += chunk
        self._check_memory(raw)
        try:
            return _decode(raw, partial(self._object, count(1)))
        except (ValueError, RecursionError, msgspec.DecodeError) as error:
            media_type = self.headers.get("content-type", "no content type")[:100]
            why = "it is nested too deeply" if isinstance(error, RecursionError) else str(error)[:100]
            text = f"{self.url}: the answer ({media_type!r}) is not valid JSON, or incomplete: {why}"
            raise SourceError(text, kind=FailureKind.TEMPORARY if _is_cut(error) else FailureKind.BROKEN) from None

    def _check_memory(self, raw: bytearray) -> None:
        """Raise SourceError if the body has so many values, objects and arrays that they would exhaust the memory."""
        cost = sum(octets * raw.count(sign) for sign, octets in _MEMORY_COSTS.items())
        limit = _MEMORY_FACTOR * self._max_body
        if cost > limit:
            text = (
                f"{self.url}: the answer has so many values that it may take {cost >> 20}M of memory, more than"
                f" {limit >> 20}M ({_MEMORY_FACTOR} times max_body): ask for smaller pages, or raise max_body"
            )
            raise SourceError(text, kind=FailureKind.BROKEN)

    def _object(self, number: Iterator[int], pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        """Return an object made of its pairs. Raises SourceError once the deadline has passed."""
        if next(number) % _OBJECTS_PER_CHECK == 0 and time.monotonic() > self._deadline:
            raise SourceError(f"{self.url}: decoding the answer takes longer than the source's deadline")
        return _object(pairs)

    @property
    def next_link(self) -> str:
        """The URL of the next page in the header Link (RFC 8288), empty if none: any case, one of several relations."""
        header = self.headers.get("link", "")
        if len(header) > _MAX_LINK:
            text = f"{self.url}: the header Link is longer than {_MAX_LINK} characters"
            raise SourceError(text, kind=FailureKind.BROKEN)
        for target, parameters in _LINK.findall(header):
            relation = _REL.search(parameters)
            if relation and "next" in (relation[1] or relation[2]).lower().split():
                return str(target)
        return ""

    @property
    def proves_its_end(self) -> bool:
        """True if the headers tell where the body ends (RFC 9112, 6.3), so that a truncated body is noticed."""
        return "content-length" in self.headers or "chunked" in self.headers.get("transfer-encoding", "").lower()


class Client:
    """A client of one server for the time of a fetch, as a context manager that closes the connections."""

    def __init__(self, config: Config, deadline: float) -> None:
        """Make the client, without a connection; ``deadline`` is when the fetch is abandoned, by time.monotonic()."""
        self._config, self._deadline = config, deadline
        self._connections = Connections()
        self._client = httpx.Client(
            verify=context(config),
            follow_redirects=False,
            trust_env=False,  # neither a proxy that is not configured nor .netrc
            headers={"user-agent": f"syncagent/{__version__}", "accept-encoding": "gzip"},
        )

    def set_credentials(self, name: str, value: str, scheme: str = "") -> None:
        """Send a header with a secret from now on. Raises SourceError if the secret is not a valid header value."""
        if not value.isascii() or not value.isprintable() or value != value.strip():
            text = (
                f"the credentials contain a character, or white space at an end, that the header {name} cannot contain:"
                " see the secret's file"
            )
            raise SourceError(text, kind=FailureKind.BROKEN)
        self._client.headers[name] = f"{scheme} {value}" if scheme else value

    def set_basic(self, username: str, password: str) -> None:
        """Send user name and password from now on (RFC 7617, as UTF-8)."""
        self._client.auth = httpx.BasicAuth(username, password)

    def __enter__(self) -> Self:
        """Return the client."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close the connections."""
        self._client.close()

    def abort(self) -> None:
        """Shut down all connections, from another thread."""
        self._connections.abort()

    @contextlib.contextmanager
    def send(self, url: str, request: HttpRequest) -> Iterator[Response]:
        """Send a request and yield the answer, whose body can be read within the block.

        A Retry-After of a few seconds is obeyed. Raises SourceError: temporary, refused or broken.
        """
        shown = url.partition("?")[0]
        if time.monotonic() > self._deadline:
            raise SourceError(f"{shown}: the source's deadline has passed before the last request")
        with translate_errors(partial(_source_error, shown, self._deadline)), contextlib.ExitStack() as stack:
            for left in reversed(range(_ATTEMPTS)):
                self._client.timeout = self._timeout()
                stream = self._client.stream(**request.arguments(url), extensions=self._connections.extensions)
                response = stack.enter_context(stream)
                wait = _retry_after(response)
                if wait is None or not left or time.monotonic() + wait > self._deadline:
                    break
                stack.pop_all().close()
                time.sleep(wait)
            self._check_status(shown, response, request)
            max_body = request.max_body or self._config.max_answer
            chunks = self._decompressed(shown, response, max_body)
            yield Response(shown, response.status_code, response.headers, chunks, max_body, self._deadline)

    def _timeout(self) -> httpx.Timeout:
        """Return the configured timeouts, none longer than the time left until the deadline."""
        left = max(self._deadline - time.monotonic(), 0.1)
        return httpx.Timeout(
            min(float(self._config.read_timeout), left), connect=min(float(self._config.connect_timeout), left)
        )

    def _check_status(self, url: str, response: httpx.Response, request: HttpRequest) -> None:
        """Raise SourceError for every status but 200, and 304 to a conditional request."""
        status = response.status_code
        if status == _OK or (status == _NOT_MODIFIED and _is_conditional(response.request)):
            return
        answer = f"{url} answers {status} {response.reason_phrase[:_MAX_PHRASE]}".rstrip()
        if status in request.refusals:
            if request.rate_words and self._contains(url, response, request.rate_words):
                raise SourceError(f"{answer}: the server says that there are too many requests")
            text = f"{answer}: the server refuses the credentials; see token_file, username and its allowed addresses"
            raise SourceError(text, kind=FailureKind.REFUSED)
        if response.has_redirect_location:
            target = response.headers.get("location", "-").partition("?")[0]
            text = f"{answer}, to {target[:_MAX_TEXT]!r}; redirects are not followed: see url"
            raise SourceError(text, kind=FailureKind.BROKEN)
        if status in _TEMPORARY or response.is_server_error:
            wait = response.headers.get("retry-after")
            raise SourceError(f"{answer}{f' (retry after {wait[:50]!r})' if wait else ''}")
        why = "see url" if response.is_client_error else "expected 200"
        raise SourceError(f"{answer}: {why}", kind=FailureKind.BROKEN)

    def _contains(self, url: str, response: httpx.Response, words: tuple[str, ...]) -> bool:
        """True if the beginning of a body contains one of the words. The body is never shown."""
        beginning = b""
        for chunk in self._decompressed(url, response, self._config.max_answer):
            beginning += chunk
            if len(beginning) > _CHUNK:
                break
        return any(word.encode() in beginning for word in words)

    def _decompressed(self, url: str, response: httpx.Response, max_body: int) -> Iterator[bytes]:
        """Return the decompressed body in chunks, which raise SourceError at max_body, at the deadline, or if cut."""
        encoding = response.headers.get("content-encoding", "identity").lower()
        if encoding not in {"identity", "gzip", "x-gzip"}:
            text = f"{url}: unknown content encoding {encoding[:_MAX_PHRASE]!r}, gzip was requested"
            raise SourceError(text, kind=FailureKind.BROKEN)
        chunks = self._limited(url, response.iter_raw(), "as sent", max_body)
        return chunks if encoding == "identity" else self._limited(url, _gunzip(url, chunks), "decompressed", max_body)

    def _limited(self, url: str, chunks: Iterator[bytes], how: str, max_body: int) -> Iterator[bytes]:
        size = 0
        for chunk in chunks:
            size += len(chunk)
            if size > max_body:
                text = f"{url}: the answer is larger than {Size(max_body)} {how}: see max_body"
                raise SourceError(text, kind=FailureKind.BROKEN)
            if time.monotonic() > self._deadline:
                raise SourceError(f"{url}: the answer takes longer than the source's deadline")
            yield chunk


def _gunzip(url: str, chunks: Iterator[bytes]) -> Iterator[bytes]:
    """Yield the decompressed octets, at most _CHUNK at a time. Raises SourceError unless it is one gzip (RFC 1952)."""
    decompressor = zlib.decompressobj(wbits=31)
    trailing = f"{url}: octets after the end of the gzip data"
    try:
        for chunk in chunks:
            if decompressor.eof:
                raise SourceError(trailing, kind=FailureKind.BROKEN)
            left, is_full = chunk, True
            while left or is_full:
                piece = decompressor.decompress(left, _CHUNK)
                left, is_full = decompressor.unconsumed_tail, len(piece) == _CHUNK
                yield piece
            if decompressor.unused_data:
                raise SourceError(trailing, kind=FailureKind.BROKEN)
    except zlib.error as error:
        raise SourceError(f"{url}: the gzip data is damaged: {error}") from None
    if not decompressor.eof:
        raise SourceError(f"{url}: the gzip data is truncated")


def _decode(raw: bytearray, make_object: Callable[[list[tuple[str, Any]]], dict[str, Any]]) -> Any:  # noqa: ANN401 - JSON
    """Return the decoded JSON. Raises ValueError also if an object has a name twice: the second would hide the first.

    ``raw`` is emptied as soon as it is not needed any more; ``make_object`` returns an object made of its pairs.
    """
    text = raw.decode()
    escapes = _SURROGATE.search(text)
    if not escapes:
        raw.clear()
    body = json.loads(
        text, object_pairs_hook=make_object, parse_constant=_number, parse_float=_number, parse_int=_integer
    )
    if escapes:
        msgspec.json.decode(raw, type=msgspec.Raw)  # refuses lone surrogates, and makes no objects
    return body


def _is_cut(error: Exception) -> bool:
    """True if the JSON ends too early: a lost connection that nothing else reveals."""
    if not isinstance(error, json.JSONDecodeError):
        return False
    return error.pos >= len(error.doc.rstrip()) or error.msg.startswith("Unterminated")


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise ValueError("an object has a name twice")
    return members


def _integer(spelled: str) -> int:
    if len(spelled) > _MAX_DIGITS:
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
    """Return the seconds of a short Retry-After (RFC 9110, 10.2.3) of status 429 or 503.

    None if there is none, or it is too long or a date.
    """
    if response.status_code not in {_TOO_MANY, _UNAVAILABLE}:
        return None
    value = response.headers.get("retry-after", "")
    return float(value) if value.isdecimal() and value.isascii() and float(value) <= _MAX_RETRY_AFTER else None


def _source_error(url: str, deadline: float, error: BaseException) -> SourceError | None:
    """Return the SourceError for an error of httpx, None for any other. No text contains a secret."""
    shown = printable(" ".join(str(error).split()), _MAX_TEXT)
    text, kind = "", FailureKind.TEMPORARY
    if isinstance(error, httpx.TimeoutException):
        text = "no connection" if isinstance(error, httpx.ConnectTimeout) else "no answer"
        text += " within its timeout; see connect_timeout and read_timeout"
        if time.monotonic() > deadline:
            text = "no complete answer within the source's deadline"
    elif isinstance(error, httpx.ConnectError) and "CERTIFICATE_VERIFY_FAILED" in str(error):
        kind = FailureKind.BROKEN
        text = f"the server's certificate is not accepted: {shown}; see ca_file, and whether it is for that host"
    elif isinstance(error, httpx.ConnectError):
        text = f"no connection: {shown}"
    elif isinstance(error, httpx.LocalProtocolError):  # its text contains the header
        text, kind = "a header with credentials is malformed: see the secret's file", FailureKind.BROKEN
    elif isinstance(error, httpx.HTTPError):
        text = shown or type(error).__name__
    elif isinstance(error, (httpx.InvalidURL, httpx.StreamError, UnicodeError)):  # UnicodeError: an invalid host name
        text, kind = shown, FailureKind.BROKEN
    else:
        return None
    return SourceError(f"{url}: {text}", kind=kind)
