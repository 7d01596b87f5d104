"""What a scripted LDAP server holds, says and remembers."""

import re
import ssl
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from tests.support.ldap_wire import PAGED, Attributes, Request, SyncDone, SyncEntry, SyncIds, SyncInfo

Entry = tuple[str, Attributes]

BASE = 0

_RANGE = re.compile(r"([^;]+);range=(\d+)-(\d+|\*)", re.IGNORECASE)
_RANGE_TROUBLES = ("empty-range", "lost-range", "range-error")
_ROOT_DSE: Attributes = {
    "namingContexts": ["dc=example,dc=com"],
    "subschemaSubentry": ["cn=Subschema"],
    "supportedControl": [PAGED],
    "supportedLDAPVersion": ["3"],
}

# What may go wrong with any answer: it is this result code, or
Break = (
    int
    | Literal[
        "fin",  # the connection is closed
        "fin-inside",  # ... in the middle of a message
        "rst",  # ... with a reset
        "notice",  # ... after a notice of disconnection
        "stall",  # nothing more is said until the server is closed
    ]
)
# What may go wrong with a page or a range, too:
What = (
    Break
    | Literal[
        "no-control",  # the page ends with success, and without a word about pages
        "reference",  # a reference to elsewhere comes amidst the entries, which then go on
        "empty-range",  # a request for a range is answered by the last one, with no values in it
        "lost-range",  # ... by the entry without that attribute
        "range-error",  # ... by result 80
        "last",  # the page ends with success, and with the word that it is the last one
        "message-0",  # an entry comes amidst the others in a message without a number
    ]
)

# The answer to one search; what breaks it, if anything, is its last item.
SyncAnswer = Iterable[SyncEntry | SyncIds | SyncInfo | SyncDone | Break]


@dataclass(frozen=True)
class Trouble:
    """What goes wrong, and where: after so many entries of a page, the first of which is 1.

    Page 0 is the answer to a bind. For what happens to ranges, `page` counts the requests for one.
    """

    page: int
    after: int
    what: What
    message: str = ""
    referrals: tuple[str, ...] = ()


@dataclass(eq=False)
class Script:
    """A server's `entries`, which every search finds that is not of base scope, whatever its base and filter.

    `objects` are what a search of base scope finds beside them, by DN; `root_dse` adds to what it finds at "".
    Any DN binds with the `password` (None: with any); a search needs no bind. Attributes with more than `range_size`
    values come in ranges, as from Active Directory. Each page says that there are `estimate` entries, 0 for no such
    word. `tls` makes it a server for ldaps; `starttls` is what StartTLS ends with: a result, or TLS. Each search that
    asks for synchronisation gets the first of `sync_answers` and removes it; without one it asks for an unknown
    extension. `trouble`, and all else, may be changed at any time.
    """

    entries: Sequence[Entry] = ()
    objects: Mapping[str, Attributes] = field(default_factory=dict, kw_only=True)
    root_dse: Attributes = field(default_factory=dict, kw_only=True)
    password: str | None = field(default="secret", kw_only=True)
    range_size: int = field(default=1500, kw_only=True)
    estimate: int = field(default=0, kw_only=True)
    trouble: Trouble | None = field(default=None, kw_only=True)
    tls: ssl.SSLContext | None = field(default=None, kw_only=True)
    starttls: ssl.SSLContext | int = field(default=2, kw_only=True)
    sync_answers: list[SyncAnswer] = field(default_factory=list, kw_only=True)

    binds: list[tuple[str, str]] = field(default_factory=list, init=False)
    requests: list[Request] = field(default_factory=list, init=False)
    range_requests: int = field(default=0, init=False)
    connections: int = field(default=0, init=False)

    def found(self, request: Request) -> Sequence[Entry] | None:
        """Give what a search finds, None where its base is not there."""
        if request.scope != BASE:
            return self.entries
        if not request.base:
            return [("", {**_ROOT_DSE, **self.root_dse})]
        for dn, attributes in (*self.objects.items(), *self.entries):
            if dn.casefold() == request.base.casefold():
                return [(dn, attributes)]
        return None

    def trouble_at(self, page: int, after: int) -> Trouble | None:
        """Give the trouble that comes after so many entries of a page, if one does."""
        trouble = self.trouble
        if trouble is None or trouble.what in _RANGE_TROUBLES or (trouble.page, trouble.after) != (page, after):
            return None
        return trouble

    def shown(self, request: Request, attributes: Attributes) -> Attributes | None:
        """Give what a search shows of an entry, None where it fails instead, in a range."""
        size = self.range_size
        ranges = {found[1].casefold(): found for found in map(_RANGE.fullmatch, request.attributes) if found}
        wanted = {name.casefold() for name in request.attributes} or {"*"}
        shown: dict[str, Sequence[bytes | str]] = {}
        for name, values in attributes.items():
            if found := ranges.get(name.casefold()):
                part = self._range(name, values, int(found[2]), found[3])
                if part is None:
                    return None
                shown |= part
            elif wanted & {"*", "+", name.partition(";")[0].casefold()}:
                shown[name] = values if len(values) <= size else []
                if len(values) > size:
                    shown[f"{name};range=0-{size - 1}"] = values[:size]
        return shown

    def _range(self, name: str, values: Sequence[bytes | str], low: int, high: str) -> Attributes | None:
        """Give a range of the values, as many as there may be at once; None where that fails."""
        self.range_requests += 1
        trouble = self.trouble
        if trouble is not None and trouble.what in _RANGE_TROUBLES and trouble.page == self.range_requests:
            return {"range-error": None, "lost-range": {}}.get(str(trouble.what), {f"{name};range={low}-*": []})
        end = low + self.range_size
        if high != "*":
            end = min(end, int(high) + 1)
        return {f"{name};range={low}-{'*' if end >= len(values) else end - 1}": values[low:end]}
