"""A plain list over HTTP: an address a line, and a last line that proves that the list is complete.

The list may begin with ``# domains: ...``, and ends with ``# end COUNT SHA256`` over the lines before it, unless it is
``foreign``; then the headers must tell the length. ETag and Last-Modified (RFC 9110, 8.8) avoid a second transfer.
"""

from __future__ import annotations

import math
import time
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING

import msgspec
from msgspec import Struct

from syncagent.errors import FailureKind, SourceError
from syncagent.sources import Answer
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
"""Seconds: a list that was modified within them may be modified again without a new Last-Modified."""


class Validator(Struct, frozen=True, omit_defaults=True):
    """The stored validator: ETag and Last-Modified of the last list, and when that was fetched in full."""

    etag: str = ""
    modified: str = ""
    since: float = 0.0

    @classmethod
    def of(cls, headers: Mapping[str, str], now: float) -> Validator:
        """Return the validator of an answer, an empty one if the list was modified in the last seconds.

        Such a list may change again under the same Last-Modified (RFC 9110, 8.8.2.2), so it is fetched once more.
        """
        modified = headers.get("last-modified", "")
        if modified and not _seconds(modified) + _SETTLED <= _seconds(headers.get("date", "")):
            return cls()
        return cls(headers.get("etag", ""), modified, now)

    @classmethod
    def parse(cls, validator: str | None) -> Validator:
        """Return the stored validator, an empty one if there is none or it is invalid."""
        try:
            return msgspec.json.decode(validator or "{}", type=cls)
        except (msgspec.DecodeError, UnicodeError):
            return cls()

    def headers(self) -> dict[str, str]:
        """Return the headers of a conditional request (RFC 9110, 13.1)."""
        headers = {"if-none-match": self.etag, "if-modified-since": self.modified}
        return {name: value for name, value in headers.items() if value and value.isascii() and value.isprintable()}


def _seconds(date: str) -> float:
    """Return an HTTP date (RFC 9110, 5.6.7) as seconds since the epoch, NaN if it is invalid."""
    try:
        return parsedate_to_datetime(date).timestamp()
    except (ValueError, OverflowError):
        return math.nan


class ListSource(CancellableSource):
    """Source that streams a plain list."""

    def __init__(self, config: Config) -> None:
        """Store the configuration. Nothing is sent yet."""
        self._config = config

    def fetch(self, request: Request) -> Answer:
        """Fetch the list, conditionally until full_interval has passed. See Source.fetch."""
        from syncagent.sources.http.authentication import authenticate_list
        from syncagent.sources.http.client import Client, HttpRequest

        config, last = self._config, Validator.parse(request.validator)
        is_fresh = 0 <= time.time() - last.since < config.full_interval
        with Client(config, request.ends) as client, self._cancellable(client):
            authenticate_list(client, config)
            return self._read(client, HttpRequest(headers=last.headers() if is_fresh else {}), request)

    def _read(self, client: Client, http_request: HttpRequest, request: Request) -> Answer:
        config = self._config
        with client.send(config.url, http_request) as response:
            if response.status == _NOT_MODIFIED:
                return Answer(same=True, validator=request.validator)
            self._check_headers(response)
            lines_of = Input(request.sink, FormatOptions(config.domains), response.url, "")
            text, heading = whole_text(response.body(), response.url, require_end=not config.foreign), Heading()
            lines = 0
            for batch in FORMATS[config.format or "lines"](heading.through(text), lines_of):
                request.sink.put(batch)
                lines += len(batch)
                request.report("lines", lines)
            validator = Validator.of(response.headers, time.time())
        stored = msgspec.json.encode(validator).decode() if validator.headers() else None
        return Answer(validator=stored, domains=heading.domains)

    def _check_headers(self, response: Response) -> None:
        """Raise SourceError if the answer is not a plain list, or could be truncated unnoticed."""
        media_type = response.headers.get("content-type", "").partition(";")[0].strip().lower()
        if media_type in {"text/html", "application/xhtml+xml", "application/json"}:
            text = f"{response.url} is {media_type}, not a plain list: is it a web page, or an error message?"
            raise SourceError(text, kind=FailureKind.BROKEN)
        if self._config.foreign and not response.proves_its_end:
            text = f"{response.url}: neither an end line nor a Content-Length proves that the list is complete"
            raise SourceError(text, kind=FailureKind.BROKEN)
