"""Everything, page by page, or an error: our own loop, since ldap3's ends quietly where a server cuts the list.

Paging is RFC 2696; ranges of values (``member;range=0-1499``) are Active Directory's, [MS-ADTS] 3.1.1.3.1.3.3.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from syncagent.errors import FailureKind, SourceError
from syncagent.sources.ldap.connection import PAGED, clean
from syncagent.sources.ldap.entries import Found

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from syncagent.sources.ldap import Config
    from syncagent.sources.ldap.connection import Session

_A_FEW = 10
_CUT = frozenset({4, 11})  # there are more
_RANGE = re.compile(r"(?P<name>[^;]+(?:;[^;=]+)*);range=(?P<low>[0-9]{1,18})-(?P<high>[0-9]{1,18}|\*)", re.IGNORECASE)
_NAMES = re.compile(r"\bNAME\s+(?:'([^']*)'|\(((?:\s*'[^']*')+)\s*\))")
_OID = re.compile(r"^\(\s*([0-9.]+)")
_IN_FILTER = re.compile(r"\(\s*([A-Za-z][A-Za-z0-9-]*|[0-9]+(?:\.[0-9]+)+)(?:;[A-Za-z0-9-]+)*(?::[^=()]*:|[<>~])?=")


@dataclass(slots=True)
class Pull:
    """A whole search. ``references`` counts what was passed over, where that is allowed."""

    session: Session
    config: Config
    filter: str
    references: int = 0

    def pages(self, attributes: Sequence[str]) -> Iterator[list[Found]]:
        """Give the entries of each page.

        Raises SourceError where a page is not whole, and UnreachableError.
        """
        cookie = None
        while True:
            found = self.session.search(
                self.config.base, self.config.scope, self.filter, attributes, page=(self.config.page_size, cookie)
            )
            control = found.control(PAGED)
            if control is None:
                text = "answered a page without saying whether it is the last: its list may be cut short"
                raise SourceError(f"{self.session.url} {text}", kind=FailureKind.BROKEN)
            yield [self._completed(entry) for entry in self.entries(found.messages)]
            if control["cookie"] and control["cookie"] == cookie and not found.messages:
                raise SourceError(f"{self.session.url} gives the same empty page again and again")
            cookie = control["cookie"]
            if not cookie:
                return

    def shows_somebody(self, attributes: Sequence[str]) -> bool:
        """Tell whether a look at a few entries shows anybody with an address, as it does while there is a right."""
        found = self.session.search(
            self.config.base, self.config.scope, self.filter, attributes, size_limit=_A_FEW, bearable=_CUT
        )
        return any(any(map(entry.values, attributes)) for entry in self.entries(found.messages))

    def entries(self, messages: Iterable[dict[str, Any]]) -> Iterator[Found]:
        """Give the entries among the messages. Raises SourceError for a reference, unless they are to be ignored."""
        for message in messages:
            if message["type"] == "searchResEntry":
                yield Found.of(message)
            elif message["type"] == "searchResRef" and self.config.ignore_references:
                self.references += 1
            elif message["type"] == "searchResRef":
                where = clean(", ".join(map(str, message.get("uri") or ["?"])))
                text = (
                    f"has part of the list elsewhere ({where}): search there as well, or set ignore_references = true"
                )
                raise SourceError(f"{self.session.url} {text}", kind=FailureKind.BROKEN)

    def _completed(self, entry: Found) -> Found:
        """Give the entry with the rest of the values of which the server showed a range."""
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
        """Ask for the values from ``low`` on, until the server says that they are the last."""
        rest: list[bytes] = []
        while True:
            answer = self.session.read(dn, [f"{name};range={low}-*"])
            found = [(_RANGE.fullmatch(spelled), values) for spelled, values in answer.items()]
            match, values = next(((match, values) for match, values in found if match and values), (None, []))
            if match is None or match["name"].lower() != name.lower() or int(match["low"]) != low:
                text = f"does not give the values of {name} from {low} on, of {clean(dn)}"
                raise SourceError(f"{self.session.url} {text}")
            rest += values
            if match["high"] == "*":
                return rest
            if int(match["high"]) != low + len(values) - 1:
                raise SourceError(f"{self.session.url} promises other values of {name} than it gives, of {clean(dn)}")
            low += len(values)


def names_in(text: str) -> list[str]:
    """Give the attributes that a filter names (RFC 4515)."""
    return _IN_FILTER.findall(text)


def unknown_attributes(session: Session, names: Iterable[str], text: str) -> list[str]:
    """Give those of the attributes, and of those in the filter ``text``, that the server's schema does not have.

    A server answers a filter with a misspelled attribute with success and no entry. None where the schema may not be
    read, or comes in part.
    """
    root = session.read("", ["subschemaSubentry"])
    where = next((values[0] for name, values in root.items() if name.lower() == "subschemasubentry" and values), None)
    if where is None:
        return []
    schema = session.read(where.decode(errors="replace"), ["attributeTypes"])
    types = [value.decode(errors="replace") for values in schema.values() for value in values]
    known = {oid[1] for oid in map(_OID.match, types) if oid}
    for one in types:
        for single, several in _NAMES.findall(one):
            known.update(name.lower() for name in [single, *re.findall(r"'([^']*)'", several)] if name)
    asked = dict.fromkeys([*names, *names_in(text)])
    whole = types and not any(";" in name for name in schema)
    return [name for name in asked if name.lower() not in known] if whole else []
