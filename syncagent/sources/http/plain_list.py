"""A plain list over HTTP: an address a line, and a last line that proves it whole.

The list may begin with ``# domains: ...``, and ends with ``# end COUNT SHA256`` over the lines before it, unless it is
``foreign``; then the server has to say how long it is. ETag and Last-Modified (RFC 9110, 8.8) make "same" cheap.
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
from syncagent.sources.http.asking import Asking
from syncagent.sources.integrity import Heading, whole_text
from syncagent.sources.line_formats import FORMATS, FormatOptions, Input

if TYPE_CHECKING:
    from collections.abc import Mapping

    from syncagent.sources import Request
    from syncagent.sources.http import Config
    from syncagent.sources.http.client import Ask, Response, Transport

_NOT_MODIFIED = 304
_SETTLED = 2.0


class Known(Struct, frozen=True, omit_defaults=True):
    """The validator: what the server calls the list that we have, and when all of it was asked for."""

    etag: str = ""
    modified: str = ""
    since: float = 0.0

    @classmethod
    def of(cls, headers: Mapping[str, str], now: float) -> Known:
        """Take it from an answer.

        A list that was changed in the last seconds may change again and be called the same (RFC 9110, 8.8.2.2): it
        has none, and all of it is asked for once more.
        """
        modified = headers.get("last-modified", "")
        if modified and not _seconds(modified) + _SETTLED <= _seconds(headers.get("date", "")):
            return cls()
        return cls(headers.get("etag", ""), modified, now)

    @classmethod
    def read(cls, validator: str | None) -> Known:
        """Read it; empty where it is none of ours."""
        try:
            return msgspec.json.decode(validator or "{}", type=cls)
        except (msgspec.DecodeError, UnicodeError):
            return cls()

    def headers(self) -> dict[str, str]:
        """Give the headers that ask for the list only if it is another one (RFC 9110, 13.1)."""
        several = {"if-none-match": self.etag, "if-modified-since": self.modified}
        return {name: value for name, value in several.items() if value and value.isascii() and value.isprintable()}


def _seconds(date: str) -> float:
    """Read a date (RFC 9110, 5.6.7) as seconds since the epoch; not a number where it is none."""
    try:
        return parsedate_to_datetime(date).timestamp()
    except (ValueError, OverflowError):
        return math.nan


class ListSource(Asking):
    """Reads a plain list, streaming."""

    def __init__(self, config: Config) -> None:
        """Ask nothing yet."""
        self._config = config

    def fetch(self, request: Request) -> Answer:
        """See Source.fetch."""
        from syncagent.sources.http.authentication import sign_plainly
        from syncagent.sources.http.client import Ask

        config, known = self._config, Known.read(request.validator)
        fresh = 0 <= time.time() - known.since < config.full_interval
        with self._asked(config, request.ends) as transport:
            sign_plainly(transport, config)
            return self._read(transport, Ask(headers=known.headers() if fresh else {}), request)

    def _read(self, transport: Transport, ask: Ask, request: Request) -> Answer:
        config = self._config
        with transport.ask(config.url, ask) as response:
            if response.status == _NOT_MODIFIED:
                return Answer(same=True, validator=request.validator)
            self._judge(response)
            source = Input(request.sink, FormatOptions(config.domains), response.url, "")
            text, heading = whole_text(response.body(), response.url, require_end=not config.foreign), Heading()
            done = 0
            for batch in FORMATS[config.format or "lines"](heading.through(text), source):
                request.sink.put(batch)
                done += len(batch)
                request.report("lines", done)
            known = Known.of(response.headers, time.time())
        validator = msgspec.json.encode(known).decode() if known.headers() else None
        return Answer(validator=validator, domains=heading.domains)

    def _judge(self, response: Response) -> None:
        """Raise SourceError where it is no list, or could be cut short unnoticed."""
        kind = response.headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind in {"text/html", "application/xhtml+xml", "application/json"}:
            text = f"{response.url} is {kind}, not a plain list: is it a page for people, or an error?"
            raise SourceError(text, kind=FailureKind.BROKEN)
        if self._config.foreign and not response.proves_its_end:
            text = f"{response.url}: without its end line, or a Content-Length, nobody can tell whether it is whole"
            raise SourceError(text, kind=FailureKind.BROKEN)
