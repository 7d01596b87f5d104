"""Pagination of one list, with detection of loops, of lists without end, and of links to other hosts."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import urljoin, urlsplit

import msgspec

from syncagent.errors import FailureKind, SourceError
from syncagent.sources.http.recipe import json_path
from syncagent.sources.http.recipe.conditions import canonical

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from syncagent.sources.http.recipe.model import Paging

_MAX_EMPTY_PAGES = 20
_MAX_CURSOR = 8192
"""Octets of the token or URL of the next page: parsing a URL normalizes its host name, which takes time."""
_PORTS = {"http": 80, "https": 443}


class ListChangedError(Exception):
    """The list changed while it was read, so the pages do not belong together. One more attempt may succeed."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where a page is: URL, query, and the number for a placeholder in the body."""

    url: str
    query: Mapping[str, str]
    number: int = 0

    @property
    def shown(self) -> str:
        """The URL as messages show it: without the query, which may come from the server."""
        return self.url.partition("?")[0]


@dataclass
class Pagination:
    """Progress through one list, page by page."""

    paging: Paging | None
    max_pages: int
    pages: int = 0
    records: int = 0
    total: str = ""
    _empty_pages: int = 0
    _seen: set[bytes] = field(default_factory=set)
    """SHA-256 of the pages and cursors."""
    _identities: set[int] = field(default_factory=set)
    """Hashes of the records' identities."""

    def first(self, url: str, query: Mapping[str, str]) -> Place:
        """Return the place of the first page."""
        paging = self.paging
        if paging is None or paging.kind not in {"page", "offset"}:
            return Place(url, query)
        return self._numbered(Place(url, query), paging.start)

    def _numbered(self, place: Place, number: int) -> Place:
        param = self.paging.param if self.paging else ""
        return Place(place.url, {**place.query, param: str(number)} if param else place.query, number)

    def add_page(self, place: Place, records: list[Any], total: str) -> None:
        """Count a page. Raises SourceError for a loop or too many empty pages, ListChangedError for another total."""
        self.pages += 1
        self.records += len(records)
        self._empty_pages = 0 if records else self._empty_pages + 1
        if self._empty_pages > _MAX_EMPTY_PAGES:
            raise SourceError(f"{place.shown}: {self._empty_pages} pages in succession without a record")
        if records and self.paging is not None:
            self._require_new(
                msgspec.json.encode(records), f"{place.shown}: page {self.pages} is the same as an earlier page"
            )
        if self.pages > 1 and total != self.total:
            raise ListChangedError(f"{place.shown}: the total changed from {self.total} to {total} records")
        self.total = total

    def add_identities(self, place: Place, identities: Iterable[str | bytes]) -> None:
        """Record the identities of a page's records. Raises ListChangedError if an earlier page had one of them.

        Records moved between the two pages, so that another record may be on neither, whatever the total is.
        """
        hashes = set(map(hash, identities))
        if not self._identities.isdisjoint(hashes):
            raise ListChangedError(f"{place.shown}: a record of page {self.pages} was on an earlier page, too")
        self._identities |= hashes

    def _require_new(self, content: bytes, text: str) -> None:
        digest = hashlib.sha256(content).digest()
        if digest in self._seen:
            raise SourceError(f"{text}: the pages form a loop; see paging", kind=FailureKind.BROKEN)
        self._seen.add(digest)

    def next_place(self, place: Place, body: Any, link: str, count: int) -> Place | None:  # noqa: ANN401 - JSON
        """Return the place of the next page, None at the end of the list.

        ``link`` is the URL in the header Link, ``count`` the number of records of this page. Raises SourceError if the
        pages form a loop, leave the host or are too many, and PathError.
        """
        following = self._next_place(place, body, link, count)
        if following is not None and self.pages >= self.max_pages:
            text = f"{place.shown}: the list has more than {self.max_pages} pages: see max_pages"
            raise SourceError(text, kind=FailureKind.BROKEN)
        return following

    def _next_place(self, place: Place, body: Any, link: str, count: int) -> Place | None:  # noqa: ANN401 - JSON
        paging = self.paging
        if paging is None:
            return None
        if paging.kind in {"page", "offset"}:
            if not count or (paging.until == "total" and self.total == str(self.records)):
                return None
            return self._numbered(place, place.number + (1 if paging.kind == "page" else count))
        cursor = link if paging.kind == "link_header" else self._cursor(body, paging)
        if not cursor:
            return None
        encoded = cursor.encode(errors="surrogatepass")
        if len(encoded) > _MAX_CURSOR:
            text = f"{place.shown}: the token or URL of the next page is longer than {_MAX_CURSOR} octets"
            raise SourceError(text, kind=FailureKind.BROKEN)
        self._require_new(encoded, f"{place.shown}: page {self.pages} names an earlier page as the next")
        if paging.kind == "token":
            return Place(place.url, {**place.query, paging.param: cursor})
        return Place(same_origin(place.url, cursor), {})

    def _cursor(self, body: Any, paging: Paging) -> str:  # noqa: ANN401 - JSON
        cursor = json_path.find_one(body, paging.path)
        return "" if cursor is None or cursor is False or cursor is json_path.ABSENT else canonical(cursor)

    def check_total(self, url: str) -> None:
        """Raise ListChangedError if the number of records differs from the announced total."""
        if self.total and self.total != str(self.records):
            raise ListChangedError(
                f"{url.partition('?')[0]}: the total is {self.total} records, but the pages have {self.records}"
            )


def same_origin(url: str, link: str) -> str:
    """Return the absolute URL of a link. Raises SourceError for another origin: it must not get the credentials."""
    try:
        absolute = urljoin(url, link)
    except ValueError:
        absolute = ""
    if _origin(absolute) != _origin(url):
        target = absolute.partition("?")[0][:100]
        text = f"{url.partition('?')[0]}: the next page is on another host, {target!r}; only the host in url is used"
        raise SourceError(text, kind=FailureKind.BROKEN)
    return absolute


def _origin(url: str) -> tuple[str, str | None, int | None]:
    try:
        parts = urlsplit(url)
        if "@" in parts.netloc:  # user name and password, which would be sent instead of the configured ones
            return "", None, None
        return parts.scheme, parts.hostname, parts.port or _PORTS.get(parts.scheme)
    except ValueError:
        return "", None, None
