"""Walk through a list that comes in pages, and notice a walk that goes round, on for ever, or astray."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import urljoin, urlsplit

import msgspec

from syncagent.errors import FailureKind, SourceError
from syncagent.sources.http.recipe import json_path as paths
from syncagent.sources.http.recipe.conditions import canonical

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from syncagent.sources.http.recipe.model import Paging

_BARREN = 20
_LONGEST = 8192
"""Octets of what names the next page: the name of a host is normalized where its URL is parsed."""
_PORTS = {"http": 80, "https": 443}


class MovedError(Exception):
    """The list changed under the walk: what was read does not fit together. Worth one more try."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where a page is: URL, query, and the number for a placeholder in the body."""

    url: str
    query: Mapping[str, str]
    number: int = 0

    @property
    def shown(self) -> str:
        """Its URL for people, without a query, which the server may have made up."""
        return self.url.partition("?")[0]


@dataclass
class Walk:
    """A walk through one list, from page to page."""

    paging: Paging | None
    max_pages: int
    pages: int = 0
    records: int = 0
    total: str = ""
    _barren: int = 0
    _seen: set[bytes] = field(default_factory=set)
    _had: set[int] = field(default_factory=set)

    def first(self, url: str, query: Mapping[str, str]) -> Place:
        """Give the first page's place."""
        paging = self.paging
        if paging is None or paging.kind not in {"page", "offset"}:
            return Place(url, query)
        return self._numbered(Place(url, query), paging.start)

    def _numbered(self, place: Place, number: int) -> Place:
        param = self.paging.param if self.paging else ""
        return Place(place.url, {**place.query, param: str(number)} if param else place.query, number)

    def note(self, place: Place, records: list[Any], total: str) -> None:
        """Take note of a page. Raises SourceError where the walk goes round, MovedError where the list changed."""
        self.pages += 1
        self.records += len(records)
        self._barren = 0 if records else self._barren + 1
        if self._barren > _BARREN:
            raise SourceError(f"{place.shown}: {self._barren} pages without a record, one after another")
        if records and self.paging is not None:
            self._once(msgspec.json.encode(records), f"{place.shown}: page {self.pages} is the same as an earlier one")
        if self.pages > 1 and total != self.total:
            raise MovedError(f"{place.shown}: said that there are {self.total} records, and then {total}")
        self.total = total

    def apart(self, place: Place, identities: Iterable[str | bytes]) -> None:
        """Take note of a page's records. Raises MovedError where one came on an earlier page.

        The list moved between the two, and another record may have slipped through, whatever the total says.
        """
        now = set(map(hash, identities))
        if not self._had.isdisjoint(now):
            raise MovedError(f"{place.shown}: a record of page {self.pages} came on an earlier page, too")
        self._had |= now

    def _once(self, what: bytes, otherwise: str) -> None:
        digest = hashlib.sha256(what).digest()
        if digest in self._seen:
            raise SourceError(f"{otherwise}: its paging goes round; see paging", kind=FailureKind.BROKEN)
        self._seen.add(digest)

    def following(self, place: Place, body: Any, link: str, got: int) -> Place | None:  # noqa: ANN401 - JSON
        """Give the place of the next page, None at the end. ``link`` is the header's, ``got`` counts the records.

        Raises SourceError where it leads round or away, or there are too many; PathError.
        """
        following = self._following(place, body, link, got)
        if following is not None and self.pages >= self.max_pages:
            text = f"{place.shown}: there are more than {self.max_pages} pages: see max_pages"
            raise SourceError(text, kind=FailureKind.BROKEN)
        return following

    def _following(self, place: Place, body: Any, link: str, got: int) -> Place | None:  # noqa: ANN401 - JSON
        paging = self.paging
        if paging is None:
            return None
        if paging.kind in {"page", "offset"}:
            if not got or (paging.until == "total" and self.total == str(self.records)):
                return None
            return self._numbered(place, place.number + (1 if paging.kind == "page" else got))
        token = link if paging.kind == "link_header" else self._token(body, paging)
        if not token:
            return None
        if len(token.encode(errors="surrogatepass")) > _LONGEST:
            text = f"{place.shown}: it names a next page by over {_LONGEST} octets"
            raise SourceError(text, kind=FailureKind.BROKEN)
        self._once(token.encode(errors="surrogatepass"), f"{place.shown}: page {self.pages} names an earlier one next")
        if paging.kind == "token":
            return Place(place.url, {**place.query, paging.param: token})
        return Place(same_origin(place.url, token), {})

    def _token(self, body: Any, paging: Paging) -> str:  # noqa: ANN401 - JSON
        token = paths.one(body, paging.path)
        return "" if token is None or token is False or token is paths.ABSENT else canonical(token)

    def end(self, url: str) -> None:
        """Compare what came with what was announced. Raises MovedError."""
        if self.total and self.total != str(self.records):
            raise MovedError(
                f"{url.partition('?')[0]}: said that there are {self.total} records, and {self.records} came"
            )


def same_origin(url: str, link: str) -> str:
    """Give where a link in an answer leads. Raises SourceError where that is another host: our key is not for it."""
    try:
        whole = urljoin(url, link)
    except ValueError:
        whole = ""
    if _origin(whole) != _origin(url):
        origin = "".join(char for char in whole.partition("?")[0] if char.isprintable())[:100]
        text = f"{url.partition('?')[0]}: its next page is on another host, {origin!r}; only the one in url is asked"
        raise SourceError(text, kind=FailureKind.BROKEN)
    return whole


def _origin(url: str) -> tuple[str, str | None, int | None]:
    try:
        parts = urlsplit(url)
        if "@" in parts.netloc:  # a name and password that would be sent instead of ours
            return "", None, None
        return parts.scheme, parts.hostname, parts.port or _PORTS.get(parts.scheme)
    except ValueError:
        return "", None, None
