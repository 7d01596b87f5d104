"""A plain list over HTTP: one address per line, and a last line that proves that the list is complete.

Its heading may have ``# domains: ...``, ``# made: ...`` and ``# expires: ...`` (``integrity.Heading``). The last line
is ``# end COUNT SHA256`` over the lines before it. With ``foreign`` it may be missing, but then the headers must
delimit the body. ETag and Last-Modified (RFC 9110, 8.8) avoid the transfer of an unchanged list.

The end line is the producer's proof. A foreign list has the proof of the transport: its headers delimit the body. An
end line that is not required proves nothing, since a list that was cut would have none, and would be accepted.
"""

from __future__ import annotations

import math
import time
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from syncagent.errors import FailureKind, SourceError
from syncagent.model import Dates
from syncagent.sources import Answer
from syncagent.sources.endings import Endings
from syncagent.sources.http.cancel import CancellableSource
from syncagent.sources.integrity import Heading, whole_text
from syncagent.sources.line_formats import FORMATS, FormatOptions, Input

if TYPE_CHECKING:
    from collections.abc import Mapping

    from syncagent.sources import Request
    from syncagent.sources.http import Config
    from syncagent.sources.http.client import Client, HttpRequest, Response

_NOT_MODIFIED = 304
_SETTLED = 2.0
"""Minimum age, in seconds, of a list whose Last-Modified is trusted: a younger list may change under the same value."""


class Validator(Struct, frozen=True, omit_defaults=True):
    """The stored validator of a list: its ETag, its Last-Modified, and when it was fetched, in seconds since 1970."""

    etag: str = ""
    modified: str = ""
    since: float = 0.0

    @classmethod
    def of(cls, headers: Mapping[str, str], now: float) -> Validator:
        """Return the validator of an answer, empty if the list is younger than _SETTLED or a date is invalid.

        A younger list may change under the same Last-Modified (RFC 9110, 8.8.2.2), so the next fetch is a full one.
        """
        modified = headers.get("last-modified", "")
        if modified and not _seconds(modified) + _SETTLED <= _seconds(headers.get("date", "")):
            return cls()
        return cls(headers.get("etag", ""), modified, now)

    @classmethod
    def parse(cls, validator: str | None) -> Validator:
        """Return the validator decoded from its stored form, empty if that is missing or invalid."""
        try:
            return msgspec.json.decode(validator or "{}", type=cls)
        except (msgspec.DecodeError, UnicodeError):
            return cls()

    def headers(self) -> dict[str, str]:
        """Return the headers of a conditional request (RFC 9110, 13.1), without invalid header values."""
        headers = {"if-none-match": self.etag, "if-modified-since": self.modified}
        return {name: value for name, value in headers.items() if value and value.isascii() and value.isprintable()}


def _seconds(date: str) -> float:
    """Return an HTTP date (RFC 9110, 5.6.7) in seconds since 1970, NaN if it is invalid."""
    try:
        return parsedate_to_datetime(date).timestamp()
    except (ValueError, OverflowError):
        return math.nan


def _dates(said: Dates, name: str, modified: str) -> dict[str, Dates]:
    """Return ``Answer.dates`` of a list: what it says itself, and its Last-Modified, an HTTP date or ""."""
    seconds = _seconds(modified)
    found = replace(said, modified=seconds if seconds > 0 else 0.0)  # NaN if it is invalid
    return {} if found == Dates() else {"" if said == Dates() else name: found}


class ListSource(CancellableSource):
    """Source of a plain list, which is streamed into the sink."""

    def __init__(self, config: Config) -> None:
        """Store the configuration. Nothing is sent yet."""
        self._config = config

    def fetch(self, request: Request) -> Answer:
        """Fetch the list, with a conditional request until full_interval has passed since the last transfer.

        Raises SourceError if the list is incomplete or cannot be fetched. See ``syncagent.sources.Source``.
        """
        from syncagent.sources.http.authentication import authenticate_list
        from syncagent.sources.http.client import Client, HttpRequest

        config, last = self._config, Validator.parse(request.validator)
        is_fresh = 0 <= time.time() - last.since < config.full_interval
        with Client(config, request.ends) as client, self._cancellable(client):
            authenticate_list(client, config)
            return self._read(client, HttpRequest(headers=last.headers() if is_fresh else {}), request)

    def _read(self, client: Client, http_request: HttpRequest, request: Request) -> Answer:
        """Send the request and put the entries of the list into ``request.sink``. Returns "same" after status 304."""
        config = self._config
        with client.send(config.url, http_request) as response:
            if response.status == _NOT_MODIFIED:
                modified = Validator.parse(request.validator).modified
                return Answer(same=True, validator=request.validator, dates=_dates(Dates(), "", modified))
            self._check_headers(response)
            lines_of = Input(request.sink, FormatOptions(config.domains), response.url, "")
            text = whole_text(response.body(), response.url, require_end=not config.foreign)
            heading = Heading(response.url)
            lines, endings = 0, Endings()
            whole = endings.through(heading.through(text), response.url)
            for batch in FORMATS[config.format or "lines"](whole, lines_of):
                request.sink.put(batch)
                lines += len(batch)
                request.report("lines", lines)
            validator = Validator.of(response.headers, time.time())
            modified = response.headers.get("last-modified", "")
        stored = msgspec.json.encode(validator).decode() if validator.headers() else None
        said = heading.dates
        return Answer(
            validator=stored,
            domains=heading.domains,
            proof="producer" if said.made or not config.foreign else "transport",
            unfinished=endings.unfinished,
            finished=endings.finished,
            made=said.made,
            expires=said.expires,
            dates=_dates(said, response.url, modified),
        )

    def _check_headers(self, response: Response) -> None:
        """Raise SourceError if the media type is HTML or JSON, or if nothing would reveal a truncated list."""
        media_type = response.headers.get("content-type", "").partition(";")[0].strip().lower()
        if media_type in {"text/html", "application/xhtml+xml", "application/json"}:
            text = f"{response.url} is {media_type}, not a plain list: is it a web page, or an error message?"
            raise SourceError(text, kind=FailureKind.BROKEN)
        if self._config.foreign and not response.proves_its_end:
            text = f"{response.url}: neither an end line nor a Content-Length proves that the list is complete"
            raise SourceError(text, kind=FailureKind.BROKEN)
