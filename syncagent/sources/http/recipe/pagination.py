"""Pagination of a list, with detection of loops, endless lists, and links to other hosts."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import urljoin, urlsplit

import msgspec

from syncagent.errors import FailureKind, SourceError, printable
from syncagent.sources.http.recipe import json_path
from syncagent.sources.http.recipe.conditions import canonical

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from syncagent.sources.http.recipe.model import Paging

_MAX_EMPTY_PAGES = 20
"""Maximum number of consecutive pages without a record."""
_MAX_CURSOR = 8192
"""Maximum size of the token or URL of the next page, in octets: parsing a long host name takes much time."""
_PORTS = {"http": 80, "https": 443}
_MAX_SHOWN = 100
"""Maximum length of a foreign URL in a message, in characters."""


class ListChangedError(Exception):
    """A list that changed while it was read, so that its pages are inconsistent. A second attempt may succeed."""


@dataclass(frozen=True, slots=True)
class Place:
    """The location of a page: URL, query, and the number that fills {page} or {offset} in the body."""

    url: str
    query: Mapping[str, str]
    number: int = 0

    @property
    def shown(self) -> str:
        """The URL as messages show it, without a query, which may come from the server."""
        return self.url.partition("?")[0]


@dataclass
class Pagination:
    """The state of reading one list: the pages, records and total so far, and the data that detects loops."""

    paging: Paging | None
    max_pages: int
    pages: int = 0
    records: int = 0
    total: str = ""
    _empty_pages: int = 0
    _seen: set[bytes] = field(default_factory=set)
    """SHA-256 digests of the pages and cursors so far."""
    _identities: set[int] = field(default_factory=set)
    """Hashes of the identities of the records so far."""

    def first(self, url: str, query: Mapping[str, str]) -> Place:
        """Return the place of the first page, with its page number or offset if the list has one."""
        paging = self.paging
        if paging is None or paging.kind not in {"page", "offset"}:
            return Place(url, query)
        return self._numbered(Place(url, query), paging.start)

    def _numbered(self, place: Place, number: int) -> Place:
        """Return the place with this page number or offset, also in its query if the paging has a parameter."""
        param = self.paging.param if self.paging else ""
        return Place(place.url, {**place.query, param: str(number)} if param else place.query, number)

    def add_page(self, place: Place, records: list[Any], total: str) -> None:
        """Count a page and its records.

        Raises SourceError if the page repeats an earlier page, or if too many consecutive pages are empty. Raises
        ListChangedError if the total differs from that of the previous page.
        """
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
        """Store the identities of a page's records. Raises ListChangedError if an earlier page has the same identity.

        In that case records moved between pages while they were read. Another record may then be on no page that was
        read, even if the total is correct.
        """
        hashes = set(map(hash, identities))
        if not self._identities.isdisjoint(hashes):
            raise ListChangedError(f"{place.shown}: a record of page {self.pages} was on an earlier page, too")
        self._identities |= hashes

    def _require_new(self, content: bytes, text: str) -> None:
        """Store the digest of a page or cursor. Raises SourceError if it is already stored."""
        digest = hashlib.sha256(content).digest()
        if digest in self._seen:
            raise SourceError(f"{text}: the pages form a loop; see paging", kind=FailureKind.BROKEN)
        self._seen.add(digest)

    def next_place(self, place: Place, body: Any, link: str, count: int) -> Place | None:  # noqa: ANN401 - JSON
        """Return the place of the next page, None at the end of the list.

        ``link`` is the URL from the header Link, ``count`` the number of records of this page. Raises SourceError if
        the pages form a loop, leave the host or exceed max_pages, or if the cursor is too long. Raises PathError or
        RuleError if the body has no valid cursor.
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
        """Return the token or URL of the next page from a body, empty if it is absent, null or false."""
        cursor = json_path.find_one(body, paging.path)
        return "" if cursor is None or cursor is False or cursor is json_path.ABSENT else canonical(cursor)

    def check_total(self, url: str) -> None:
        """Raise ListChangedError if the server announces a total and the number of records differs from it."""
        if self.total and self.total != str(self.records):
            raise ListChangedError(
                f"{url.partition('?')[0]}: the total is {self.total} records, but the pages have {self.records}"
            )


def same_origin(url: str, link: str) -> str:
    """Return a link as an absolute URL.

    Raises SourceError if its origin differs from that of ``url``: another host must not receive the credentials.
    """
    try:
        absolute = urljoin(url, link)
    except ValueError:
        absolute = ""
    if _origin(absolute) != _origin(url):
        target = printable(absolute.partition("?")[0], _MAX_SHOWN)
        text = f"{url.partition('?')[0]}: the next page is on another host, {target!r}; only the host in url is used"
        raise SourceError(text, kind=FailureKind.BROKEN)
    return absolute


def _origin(url: str) -> tuple[str, str | None, int | None]:
    """Return scheme, host and port of a URL; ("", None, None) if it is invalid or contains a user name."""
    try:
        parts = urlsplit(url)
        if "@" in parts.netloc:  # httpx would send user name and password of the URL in place of a token
            return "", None, None
        return parts.scheme, parts.hostname, parts.port or _PORTS.get(parts.scheme)
    except ValueError:
        return "", None, None
