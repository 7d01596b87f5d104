"""HTTP client that accepts complete answers only. No other module of the sources imports httpx.

Redirects are not followed: a redirect to another host would disclose the credentials to it. Refused credentials are not
retried for an hour (see ``syncagent.sync.fetch``): primaries ban hosts that fail to log in. Status codes are those of
RFC 9110.
"""

from __future__ import annotations

import base64
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
from syncagent.redaction import redacted, remember
from syncagent.sources.http.cancel import Connections
from syncagent.sources.tls import context
from syncagent.values.types import Size

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from syncagent.sources.http import Config

_CHUNK = 1 << 18
"""Maximum size of a decompressed chunk, in octets."""
_MAX_RETRY_AFTER = 30.0
"""Maximum Retry-After that is obeyed, in seconds. A longer one fails the request; the next run retries."""
_ATTEMPTS = 3
"""Maximum number of attempts at a request that the server answers with a short Retry-After."""
_MAX_LINK = 8192
"""Maximum length of the header Link, in characters."""
_MEMORY_COSTS = {b",": 64, b"{": 256, b"[": 64}
"""Maximum memory of a decoded value, object and array, in octets, by the octet that marks each in the text."""
_MEMORY_FACTOR = 10
"""Maximum memory of a decoded body, as a multiple of max_body. Names and addresses take about 4 times their size."""
_MAX_DIGITS = 1000
"""Maximum number of characters of an integer: the time that int() takes grows with their square."""
_LINK = re.compile(r'<([^<>]*)>((?:\s*;\s*[^\s=;,]+(?:\s*=\s*(?:"(?:[^"\\]|\\.)*"|[^\s";,]*))?)*)')
_REL = re.compile(r';\s*rel\s*=\s*(?:"([^"]*)"|([^\s";,]*))', re.IGNORECASE)
_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")
_OK, _NOT_MODIFIED, _TOO_MANY, _UNAVAILABLE = 200, 304, 429, 503
_TEMPORARY = frozenset({408, 421, 425, _TOO_MANY})
"""Client errors (4xx) after which a retry may succeed."""
_MAX_PHRASE = 60
_MAX_TEXT = 300
"""Maximum length of a foreign text in a message, in characters."""
_TOKEN = 8
"""Minimum length of a query that may have a token, in characters."""
_OBJECTS_PER_CHECK = 1000
"""Number of objects that are decoded between two checks of the deadline."""


@dataclass(frozen=True, slots=True)
class HttpRequest:
    """An HTTP request without its URL: method, headers, query, Basic credentials, and a body as JSON or as a form."""

    method: str = "GET"
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    query: Mapping[str, str] = field(default_factory=dict)
    json: Any = field(default=None, repr=False)
    form: Mapping[str, str] | None = field(default=None, repr=False)
    basic: tuple[str, str] | None = field(default=None, repr=False)
    rate_words: tuple[str, ...] = ()
    """Words in the body of a refusal that mean "too many requests"."""
    max_body: int = 0
    """Maximum size of the answer in octets, instead of the source's max_body; 0 keeps the source's."""
    refusals: frozenset[int] = frozenset({401, 403, 407})
    """Status codes that mean that the server refuses the credentials."""

    def arguments(self, url: str) -> dict[str, Any]:
        """Return the arguments of httpx.Client.stream. ``query`` is merged into the query of the URL."""
        arguments: dict[str, Any] = {"method": self.method, "url": url, "headers": dict(self.headers)}
        if self.query:
            arguments["params"] = httpx.URL(url).params.merge(dict(self.query))
        if self.json is not None:
            arguments["json"] = self.json
        if self.form is not None:
            arguments["data"] = dict(self.form)
        if self.basic is not None:
            arguments["auth"] = _basic(*self.basic)
        return arguments


@dataclass
class Response:
    """An answer with status 200, whose body is not read yet, or with status 304."""

    url: str
    status: int
    headers: Mapping[str, str] = field(repr=False)
    _chunks: Iterator[bytes] = field(repr=False)
    _max_body: int = 1 << 20
    """Maximum size of the body in octets. It also determines how much memory the decoded body may take."""
    _deadline: float = math.inf

    def body(self) -> Iterator[bytes]:
        """Return an iterator over the decompressed chunks of the body.

        It raises SourceError if the body is too large, damaged, or incomplete at the deadline, and httpx.HTTPError if
        the connection fails. ``Client.send`` translates the latter to SourceError.
        """
        return self._chunks

    def json(self) -> Any:  # noqa: ANN401 - JSON
        """Return the decoded JSON body.

        Raises SourceError if the body is not valid JSON, if the decoded body could take too much memory (checked before
        decoding), or if the deadline passes. Also raises as ``body`` does. No message quotes the body, which may
        contain secrets.
        """
        raw = bytearray()
        for chunk in self._chunks:
            raw += chunk
        self._check_memory(raw)
        try:
            return _decode(raw, partial(self._object, count(1)))
        except (ValueError, RecursionError, msgspec.DecodeError) as error:
            media_type = printable(self.headers.get("content-type", "no content type"), _MAX_PHRASE)
            why = "it is nested too deeply" if isinstance(error, RecursionError) else printable(str(error), _MAX_TEXT)
            text = f"{self.url}: the answer ({media_type!r}) is not valid JSON, or incomplete: {why}"
            raise SourceError(text, kind=FailureKind.TEMPORARY if _is_cut(error) else FailureKind.BROKEN) from None

    def _check_memory(self, raw: bytearray) -> None:
        """Raise SourceError if the decoded body could take more than _MEMORY_FACTOR times the maximum body size."""
        cost = sum(octets * raw.count(sign) for sign, octets in _MEMORY_COSTS.items())
        limit = _MEMORY_FACTOR * self._max_body
        if cost > limit:
            text = (
                f"{self.url}: the answer has so many values that it may take {cost >> 20}M of memory, more than"
                f" {limit >> 20}M ({_MEMORY_FACTOR} times max_body): ask for smaller pages, or raise max_body"
            )
            raise SourceError(text, kind=FailureKind.BROKEN)

    def _object(self, number: Iterator[int], pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        """Return the object made of the (name, value) pairs. Raises ValueError if a name occurs twice.

        Raises SourceError if the deadline has passed. ``number`` counts the objects: not every object is checked.
        """
        if next(number) % _OBJECTS_PER_CHECK == 0 and time.monotonic() > self._deadline:
            raise SourceError(f"{self.url}: decoding the answer takes longer than the source's deadline")
        return _object(pairs)

    @property
    def next_link(self) -> str:
        """The URL of the next page: the target of rel="next" in the header Link (RFC 8288), empty if there is none.

        Raises SourceError if the header is too long.
        """
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
        """True if the headers delimit the body (RFC 9112, 6.3), so that truncation is detected."""
        return "content-length" in self.headers or "chunked" in self.headers.get("transfer-encoding", "").lower()


class Client:
    """A client of one server for the duration of a fetch. It is a context manager that closes the connections."""

    def __init__(self, config: Config, deadline: float) -> None:
        """Create the client without a connection. ``deadline`` is on the clock of time.monotonic().

        Raises SourceError if the TLS files cannot be used (see ``syncagent.sources.tls.context``).
        """
        self._config, self._deadline = config, deadline
        _remember_query(config.url)
        self._connections = Connections()
        self._client = httpx.Client(
            verify=context(config),
            follow_redirects=False,
            trust_env=False,  # ignore the proxy variables of the environment, and .netrc
            headers={"user-agent": f"syncagent/{__version__}", "accept-encoding": "gzip"},
        )

    def set_credentials(self, name: str, value: str, scheme: str = "") -> None:
        """Add a header with a secret to all later requests. Raises SourceError if it is not a valid header value."""
        if not value.isascii() or not value.isprintable() or value != value.strip():
            text = (
                f"the credentials contain a character, or white space at an end, that the header {name} cannot contain:"
                " see the secret's file"
            )
            raise SourceError(text, kind=FailureKind.BROKEN)
        remember(value)
        self._client.headers[name] = f"{scheme} {value}" if scheme else value

    def set_basic(self, username: str, password: str) -> None:
        """Add Basic credentials to all later requests (RFC 7617, in UTF-8)."""
        self._client.auth = _basic(username, password)

    def __enter__(self) -> Self:
        """Return the client."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close the connections."""
        self._client.close()

    def abort(self) -> None:
        """Shut down all connections, those opened later too. It may be called from another thread."""
        self._connections.abort()

    @contextlib.contextmanager
    def send(self, url: str, request: HttpRequest) -> Iterator[Response]:
        """Send a request and yield the answer, whose body can be read within the block.

        A short Retry-After is obeyed if it ends before the deadline. Raises SourceError if the exchange fails, if the
        status is not acceptable (see ``_check_status``), or in place of an httpx error in the block.
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
        """Return the configured timeouts, limited to the time left until the deadline, but at least 0.1 seconds."""
        left = max(self._deadline - time.monotonic(), 0.1)
        return httpx.Timeout(
            min(float(self._config.read_timeout), left), connect=min(float(self._config.connect_timeout), left)
        )

    def _check_status(self, url: str, response: httpx.Response, request: HttpRequest) -> None:
        """Raise SourceError unless the status is 200, or 304 after a conditional request."""
        status = response.status_code
        if status == _OK or (status == _NOT_MODIFIED and _is_conditional(response.request)):
            return
        answer = f"{url} answers {status} {printable(response.reason_phrase, _MAX_PHRASE)}".rstrip()
        if status in request.refusals:
            if request.rate_words and self._contains(url, response, request.rate_words):
                raise SourceError(f"{answer}: the server says that there are too many requests")
            text = f"{answer}: the server refuses the credentials; see token_file, username and its allowed addresses"
            raise SourceError(text, kind=FailureKind.REFUSED)
        if response.has_redirect_location:
            target = response.headers.get("location", "-").partition("?")[0]
            text = f"{answer}, to {printable(target, _MAX_TEXT)!r}; redirects are not followed: see url"
            raise SourceError(text, kind=FailureKind.BROKEN)
        if status in _TEMPORARY or response.is_server_error:
            wait = response.headers.get("retry-after")
            raise SourceError(f"{answer}{f' (retry after {printable(wait, _MAX_PHRASE)!r})' if wait else ''}")
        why = "see url" if response.is_client_error else "expected 200"
        raise SourceError(f"{answer}: {why}", kind=FailureKind.BROKEN)

    def _contains(self, url: str, response: httpx.Response, words: tuple[str, ...]) -> bool:
        """True if the first octets of the body, about _CHUNK of them, contain one of the words, in the same case."""
        beginning = b""
        for chunk in self._decompressed(url, response, self._config.max_answer):
            beginning += chunk
            if len(beginning) > _CHUNK:
                break
        return any(word.encode() in beginning for word in words)

    def _decompressed(self, url: str, response: httpx.Response, max_body: int) -> Iterator[bytes]:
        """Return an iterator over the decompressed chunks of the body.

        Raises SourceError if the content encoding is unknown. The iterator raises SourceError if the body is larger
        than ``max_body`` octets as sent or decompressed, if the deadline passes, or if the gzip data is damaged.
        """
        encoding = response.headers.get("content-encoding", "identity").lower()
        if encoding not in {"identity", "gzip", "x-gzip"}:
            text = f"{url}: unknown content encoding {printable(encoding, _MAX_PHRASE)!r}, gzip was requested"
            raise SourceError(text, kind=FailureKind.BROKEN)
        chunks = self._limited(url, response.iter_raw(), "as sent", max_body)
        return chunks if encoding == "identity" else self._limited(url, _gunzip(url, chunks), "decompressed", max_body)

    def _limited(self, url: str, chunks: Iterator[bytes], how: str, max_body: int) -> Iterator[bytes]:
        """Yield the chunks. Raises SourceError if they exceed ``max_body`` octets or the deadline."""
        size = 0
        for chunk in chunks:
            size += len(chunk)
            if size > max_body:
                text = f"{url}: the answer is larger than {Size(max_body)} {how}: see max_body"
                raise SourceError(text, kind=FailureKind.BROKEN)
            if time.monotonic() > self._deadline:
                raise SourceError(f"{url}: the answer takes longer than the source's deadline")
            yield chunk


def _remember_query(url: str) -> None:
    """Hide a query of a URL in messages if it is long enough for a token."""
    query = url.partition("?")[2]
    if len(query) >= _TOKEN:
        remember(query)


def _basic(username: str, password: str) -> httpx.BasicAuth:
    """Return Basic credentials. Both the password and their encoded form are secrets."""
    remember(password)
    remember(base64.b64encode(f"{username}:{password}".encode()).decode())
    return httpx.BasicAuth(username, password)


def _gunzip(url: str, chunks: Iterator[bytes]) -> Iterator[bytes]:
    """Yield the decompressed data in chunks of at most _CHUNK octets.

    Raises SourceError unless the data is exactly one gzip member (RFC 1952).
    """
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
    """Return the decoded JSON. ``make_object`` returns an object made of its (name, value) pairs.

    Raises ValueError, RecursionError or msgspec.DecodeError if the JSON is invalid, nested too deeply, or contains a
    lone surrogate or a number out of range. ``raw`` is cleared early to save memory, unless it is decoded twice.
    """
    text = raw.decode()
    escapes = _SURROGATE.search(text)
    if not escapes:
        raw.clear()
    body = json.loads(
        text, object_pairs_hook=make_object, parse_constant=_number, parse_float=_number, parse_int=_integer
    )
    if escapes:
        msgspec.json.decode(raw, type=msgspec.Raw)  # raises DecodeError for a lone surrogate; Raw creates no objects
    return body


def _is_cut(error: Exception) -> bool:
    """True if the error is that the JSON ends too early, as when a connection is lost without any other sign."""
    if not isinstance(error, json.JSONDecodeError):
        return False
    return error.pos >= len(error.doc.rstrip()) or error.msg.startswith("Unterminated")


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return the object made of the (name, value) pairs. Raises ValueError if a name occurs twice."""
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
    """Return the Retry-After (RFC 9110, 10.2.3) of an answer with status 429 or 503, in seconds.

    Returns None for any other status, and if the header is missing, a date, or more than _MAX_RETRY_AFTER.
    """
    if response.status_code not in {_TOO_MANY, _UNAVAILABLE}:
        return None
    value = response.headers.get("retry-after", "")
    return float(value) if value.isdecimal() and value.isascii() and float(value) <= _MAX_RETRY_AFTER else None


def _source_error(url: str, deadline: float, error: BaseException) -> SourceError | None:
    """Return the SourceError for an error of httpx or an invalid URL, None for any other error.

    Its text contains no secret.
    """
    shown = printable(" ".join(redacted(str(error)).split()), _MAX_TEXT)
    text, kind = "", FailureKind.TEMPORARY
    if isinstance(error, httpx.TimeoutException):
        text = "no connection" if isinstance(error, httpx.ConnectTimeout) else "no answer"
        text += " within its timeout; see connect_timeout and read_timeout"
        if time.monotonic() > deadline:
            text = "no complete answer within the source's deadline"
    elif isinstance(error, httpx.ConnectError) and "CERTIFICATE_VERIFY_FAILED" in str(error):
        kind = FailureKind.BROKEN
        text = (
            f"server certificate rejected: {shown}; check ca_file, and that the certificate is for that host and has"
            " not expired"
        )
    elif isinstance(error, httpx.ConnectError):
        text = f"no connection: {shown}"
    elif isinstance(error, httpx.LocalProtocolError):  # the text of the error contains the header
        text, kind = "a header with credentials is malformed: see the secret's file", FailureKind.BROKEN
    elif isinstance(error, httpx.HTTPError):
        text = shown or type(error).__name__
    elif isinstance(error, (httpx.InvalidURL, httpx.StreamError, UnicodeError)):  # UnicodeError: an invalid host name
        text, kind = shown, FailureKind.BROKEN
    else:
        return None
    return SourceError(f"{url}: {text}", kind=kind)
