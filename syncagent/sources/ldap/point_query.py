"""Point queries: whether a directory still has single addresses, and still shows the surroundings of their entries.

The search for the addresses has the configured base and filter, since an entry that left the filter is meant to go. The
surroundings tell an entry that is gone from one that this account may no longer see.
"""

from __future__ import annotations

import re
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from syncagent.addresses import renderings
from syncagent.errors import FailureKind, SourceError
from syncagent.sources import Confirmation
from syncagent.sources.ldap.connection import LIMIT_EXCEEDED, NOT_READABLE
from syncagent.sources.ldap.entries import base_name, canonical_addresses
from syncagent.sources.ldap.presets import PREFIXED

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from syncagent.sources import Candidate
    from syncagent.sources.ldap.entries import DirectoryEntry
    from syncagent.sources.ldap.full_search import FullSearch

_MOST = 1_000
"""Maximum entries that a search for addresses may return."""
_NEIGHBOURS = 10
"""Entries of a container that are read; one with an address is sufficient."""
_EXISTS = "(objectClass=*)"


@dataclass(slots=True)
class PointQuery:
    """The queries over one connection, until ``ends`` on the clock of time.monotonic()."""

    search: FullSearch
    attributes: tuple[str, ...]
    ends: float
    _seen: dict[str, bool] = field(default_factory=dict)

    def confirmation(self, candidates: Sequence[Candidate]) -> Confirmation:
        """Return which of the candidates are present, and which of the others have no visible surroundings.

        Raises SourceError or UnreachableError if a query fails, ContradictionError if its result is contradictory.
        """
        present = self._present(candidates)
        absent = [candidate for candidate in candidates if candidate.address not in present]
        return Confirmation(present=frozenset(present), unseen=self.unseen(absent))

    def unseen(self, absent: Sequence[Candidate]) -> dict[str, str]:
        """Return the containers of those candidates that have no visible surroundings, by address."""
        return {
            candidate.address: container
            for candidate in absent
            if not self._sees(container := parent_of(candidate.label), absent)
        }

    def shows_entries_of(self, container: str) -> bool:
        """True if an entry directly below the container shows an address."""
        return self._shows_addresses(container, "one")

    def _present(self, candidates: Sequence[Candidate]) -> set[str]:
        """Return the addresses that the directory has.

        An entry that matches and shows no value has one of them. If its DN does not tell which, each is asked alone.
        """
        entries = self._with_addresses([candidate.address for candidate in candidates])
        wanted = {candidate.address for candidate in candidates}
        present = wanted & {address for entry in entries for address in canonical_addresses(entry, self.attributes)}
        silent = {entry.dn.lower() for entry in entries if not any(map(entry.values, self.attributes))}
        for dn in silent:
            of_entry = {candidate.address for candidate in candidates if candidate.label.lower() == dn}
            if len(candidates) == 1:
                return wanted
            if not of_entry:
                return {address for candidate in candidates for address in self._present([candidate])}
            present |= of_entry
        return present

    def _with_addresses(self, addresses: Sequence[str]) -> list[DirectoryEntry]:
        """Return the entries that match the filter and have one of the addresses."""
        if not addresses:
            return []
        config, terms = self.search.config, "".join(_terms(addresses, self.attributes))
        entries, is_whole = self._entries(
            config.base, config.scope, f"(&{self.search.filter}(|{terms}))", self.attributes, _MOST
        )
        if not is_whole:
            text = f"a search for {len(addresses)} addresses has over {len(entries)} results"
            raise SourceError(f"{self.search.connection.url}: {text}", kind=FailureKind.BROKEN)
        return entries

    def _sees(self, container: str, absent: Sequence[Candidate]) -> bool:
        """True if the account sees addresses in the container or, where no entry of it has any, beside it."""
        known = self._seen.get(container)
        if known is None:
            known = self._seen[container] = self._looks_at(container, absent)
        return known

    def _looks_at(self, container: str, absent: Sequence[Candidate]) -> bool:
        """True if an entry directly below the container shows an address.

        Otherwise true if the absent entries and their addresses are gone, the container is there, and an entry below
        the DN above it shows an address. An entry that is still there without addresses may have hidden ones.
        """
        config = self.search.config
        if not container:
            return self._shows_addresses(config.base, config.scope)
        if self.shows_entries_of(container):
            return True
        dns = dict.fromkeys(one.label for one in absent if parent_of(one.label) == container)
        above = parent_of(container)
        return (
            bool(above)
            and self._exists(container)
            and not any(map(self._exists, dns))
            and self._shows_addresses(above, "sub")
        )

    def _shows_addresses(self, base: str, scope: str) -> bool:
        entries, _ = self._entries(base, scope, self.search.filter, self.attributes, _NEIGHBOURS)
        return any(canonical_addresses(entry, self.attributes) for entry in entries)

    def _exists(self, dn: str) -> bool:
        """True if this account sees an entry with this DN, whether or not it matches the filter."""
        entries, _ = self._entries(dn, "base", _EXISTS, ["objectClass"], 1)
        return bool(entries)

    def _entries(
        self, base: str, scope: str, filter_text: str, attributes: Sequence[str], most: int
    ) -> tuple[list[DirectoryEntry], bool]:
        """Return at most ``most`` entries, and whether these are all. None for a base that is not readable."""
        if time.monotonic() > self.ends:
            raise SourceError(f"{self.search.connection.url}: no time is left for the queries")
        result = self.search.connection.search(
            base, scope, filter_text, attributes, size_limit=most, accept=LIMIT_EXCEEDED | NOT_READABLE
        )
        return list(self.search.entries(result.messages)), result.code not in LIMIT_EXCEEDED


def parent_of(dn: str) -> str:
    """Return the parent of a DN (RFC 4514); empty if there is none."""
    start = 0
    while (comma := dn.find(",", start)) >= 0:
        before = dn[:comma]
        if (len(before) - len(before.rstrip("\\"))) % 2 == 0:
            return dn[comma + 1 :].lstrip()
        start = comma + 1
    return ""


def _terms(addresses: Iterable[str], attributes: Sequence[str]) -> Iterator[str]:
    """Yield a filter for each form in which each attribute may have each canonical address."""
    for address in addresses:
        for form in _forms(address):
            value = _escaped(form)
            for name in attributes:
                yield f"({name}={value})"
                if base_name(name) in PREFIXED:
                    yield f"({name}=smtp:{value})"
                    yield f"({name}=SMTP:{value})"


def _forms(address: str) -> list[str]:
    """Return the forms of a canonical address: with A-labels or U-labels, a quoted local part also without quotes."""
    forms = list(renderings(address))
    for form in renderings(address):
        local, at, domain = form.rpartition("@")
        if local.startswith('"'):
            forms.append(re.sub(r"\\(.)", r"\1", local[1:-1]) + at + domain)
    return forms


def _escaped(value: str) -> str:
    """Return a value for a filter (RFC 4515): all but ASCII letters, digits and ``@.-_`` as hexadecimal pairs."""
    return "".join(
        char if char.isascii() and (char.isalnum() or char in "@.-_") else "".join(f"\\{o:02x}" for o in char.encode())
        for char in value
    )
