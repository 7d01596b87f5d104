"""A full search: it returns all entries, page by page, or raises.

Paging is RFC 2696; ldap3's own loop returns partial results when a server ends a search early. Ranges of values
(``member;range=0-1499``) are Active Directory's, [MS-ADTS] 3.1.1.3.1.3.3.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from syncagent.errors import FailureKind, SourceError
from syncagent.sources.ldap.connection import LIMIT_EXCEEDED, PAGED_RESULTS, one_line
from syncagent.sources.ldap.entries import DirectoryEntry

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from syncagent.sources.ldap import Config
    from syncagent.sources.ldap.connection import Connection

_PROBE = 10
"""Maximum entries that ``returns_addresses`` requests."""
_RANGE = re.compile(r"(?P<name>[^;]+(?:;[^;=]+)*);range=(?P<low>[0-9]{1,18})-(?P<high>[0-9]{1,18}|\*)", re.IGNORECASE)
_NAMES = re.compile(r"\bNAME\s+(?:'([^']*)'|\(((?:\s*'[^']*')+)\s*\))")
_OID = re.compile(r"^\(\s*([0-9.]+)")
_IN_FILTER = re.compile(r"\(\s*([A-Za-z][A-Za-z0-9-]*|[0-9]+(?:\.[0-9]+)+)(?:;[A-Za-z0-9-]+)*(?::[^=()]*:|[<>~])?=")


@dataclass(slots=True)
class FullSearch:
    """A search with the base and scope of ``config``.

    ``references`` counts the search references that were ignored. ``estimate`` is the number of entries that the server
    estimated with the first page (RFC 2696); 0 if it estimated none.
    """

    connection: Connection
    config: Config
    filter: str
    references: int = 0
    estimate: int = 0

    def pages(self, attributes: Sequence[str]) -> Iterator[list[DirectoryEntry]]:
        """Yield the entries of each page.

        Raises UnreachableError if another server may be able to answer, and SourceError if the list would be
        incomplete for another reason.
        """
        cookie = None
        while True:
            result = self.connection.search(
                self.config.base, self.config.scope, self.filter, attributes, page=(self.config.page_size, cookie)
            )
            control = result.control(PAGED_RESULTS)
            if control is None:
                text = "a page came without the paging control (RFC 2696): the list may be incomplete"
                raise SourceError(f"{self.connection.url}: {text}", kind=FailureKind.BROKEN)
            if cookie is None:
                self.estimate = int(control["size"] or 0)
            yield [self._with_all_values(entry) for entry in self.entries(result.messages)]
            if control["cookie"] and control["cookie"] == cookie and not result.messages:
                raise SourceError(f"{self.connection.url}: the server repeats an empty page: paging does not advance")
            cookie = control["cookie"]
            if not cookie:
                return

    def returns_addresses(self, attributes: Sequence[str]) -> bool:
        """True if any of the first few entries has a value in ``attributes``: the account still has read access."""
        result = self.connection.search(
            self.config.base, self.config.scope, self.filter, attributes, size_limit=_PROBE, accept=LIMIT_EXCEEDED
        )
        return any(any(map(entry.values, attributes)) for entry in self.entries(result.messages))

    def entries(self, messages: Iterable[dict[str, Any]]) -> Iterator[DirectoryEntry]:
        """Yield the entries in the messages. Raises SourceError for a reference unless ignore_references is set."""
        for message in messages:
            if message["type"] == "searchResEntry":
                yield DirectoryEntry.of(message)
            elif message["type"] == "searchResRef" and self.config.ignore_references:
                self.references += 1
            elif message["type"] == "searchResRef":
                where = one_line(", ".join(map(str, message.get("uri") or ["?"])))
                text = f"some entries are on another server ({where})"
                text += ": add a source for it, or set ignore_references = true"
                raise SourceError(f"{self.connection.url}: {text}", kind=FailureKind.BROKEN)

    def _with_all_values(self, entry: DirectoryEntry) -> DirectoryEntry:
        """Return the entry with all values of each attribute for which the server returned only a range of values.

        Changes the entry in place. Raises SourceError if values are missing.
        """
        for spelled in list(entry.attributes):
            match = _RANGE.fullmatch(spelled) if ";" in spelled else None
            if match:
                values = entry.attributes.pop(spelled) or []
                entry.attributes.setdefault(match["name"], None)
                known = entry.attributes[match["name"]] or []
                rest = [] if match["high"] == "*" else self._rest(entry.dn, match["name"], int(match["high"]) + 1)
                entry.attributes[match["name"]] = [*known, *values, *rest]
        return entry

    def _rest(self, dn: str, name: str, low: int) -> list[bytes]:
        """Return the values from number ``low`` on, read range by range. Raises SourceError if values are missing."""
        rest: list[bytes] = []
        while True:
            attributes = self.connection.read(dn, [f"{name};range={low}-*"])
            ranges = [(_RANGE.fullmatch(spelled), values) for spelled, values in attributes.items()]
            match, values = next(((match, values) for match, values in ranges if match and values), (None, []))
            if match is None or match["name"].lower() != name.lower() or int(match["low"]) != low:
                text = f"{one_line(dn)}: the values of {name} from number {low} on are missing"
                raise SourceError(f"{self.connection.url}: {text}")
            rest += values
            if match["high"] == "*":
                return rest
            if int(match["high"]) != low + len(values) - 1:
                text = f"{one_line(dn)}: the number of values of {name} differs from its range"
                raise SourceError(f"{self.connection.url}: {text}")
            low += len(values)


def names_in(filter_text: str) -> list[str]:
    """Return the attribute names in a filter (RFC 4515)."""
    return _IN_FILTER.findall(filter_text)


def unknown_attributes(connection: Connection, names: Iterable[str], filter_text: str) -> list[str]:
    """Return the names, in ``names`` or in the filter, that are not in the server's schema.

    Servers answer a search for a misspelled attribute with success and no entry. Return an empty list if the schema is
    not readable or is incomplete.
    """
    root = connection.read("", ["subschemaSubentry"])
    where = next((values[0] for name, values in root.items() if name.lower() == "subschemasubentry" and values), None)
    if where is None:
        return []
    schema = connection.read(where.decode(errors="replace"), ["attributeTypes"])
    types = [value.decode(errors="replace") for values in schema.values() for value in values]
    is_complete = types and not any(";" in name for name in schema)
    known = _known_names(types)
    requested = dict.fromkeys([*names, *names_in(filter_text)])
    return [name for name in requested if name.lower() not in known] if is_complete else []


def _known_names(types: Iterable[str]) -> set[str]:
    """Return the OIDs and the names, in lower case, of attribute type descriptions (RFC 4512, 4.1.2)."""
    known: set[str] = set()
    for description in types:
        oid = _OID.match(description)
        if oid:
            known.add(oid[1])
        for name, names in _NAMES.findall(description):
            known.update(spelled.lower() for spelled in [name, *re.findall(r"'([^']*)'", names)] if spelled)
    return known
