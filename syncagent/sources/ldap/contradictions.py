"""Contradictions: answers of a server that disagree with themselves, or with earlier answers. They are not believed.

A source asks for everything after a contradiction, and fails if everything has one too. The code is pure.
"""

from __future__ import annotations

import re
from array import array
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from syncagent.errors import printable
from syncagent.sources.ldap.entries import base_name

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from syncagent.sources.ldap.entries import DirectoryEntry

_SHOWN = 200
_LIMIT = re.compile(
    r"\b(size|time|admin|administrative|look-?through|page) ?limit|limit ?exceeded|\bpartial (result|list|answer)",
    re.IGNORECASE,
)
_NAME = re.compile(r"\s*([A-Za-z0-9][A-Za-z0-9.-]*)")
_PRESENCE = re.compile(r"\s*[A-Za-z0-9][A-Za-z0-9.;-]*\s*=\s*\*\s*")


class ContradictionError(Exception):
    """The answer contradicts itself, or what the server answered before. The text has the contradiction."""


def in_success(result: dict[str, Any]) -> str:
    """Return the part of a successful result, as ldap3 decodes it, that contradicts success; "" if there is none."""
    if result.get("referrals"):
        return f"success with a referral to {printable(', '.join(map(str, result['referrals'])), _SHOWN)}"
    text = str(result.get("message") or "")
    return f'success with the text "{printable(text, _SHOWN)}"' if _LIMIT.search(text) else ""


def in_entry(entry: DirectoryEntry, attributes: Sequence[str]) -> str:
    """Return the contradiction of an entry that matches a filter which demands these attributes; "" if none.

    An account that may search an attribute but not read it gets such entries. Other values than addresses, such as
    ``sip:`` and ``X500:`` in proxyAddresses, are values.
    """
    if any(map(entry.values, attributes)):
        return ""
    names = ", ".join(attributes)
    return (
        f"{printable(entry.dn, _SHOWN)} matches the filter and shows no value of {names}: may this account read them?"
    )


def demands(filter_text: str, attributes: Sequence[str]) -> bool:
    """True if each entry that matches the filter (RFC 4515) has a value of one of the attributes."""
    return _demands(filter_text, frozenset(map(base_name, attributes)))


def _demands(filter_text: str, names: frozenset[str]) -> bool:
    inner = _inner(filter_text)
    if inner.startswith("&"):
        return any(_demands(part, names) for part in _parts(inner))
    if inner.startswith("|"):
        parts = list(_parts(inner))
        return bool(parts) and all(_demands(part, names) for part in parts)
    name = _NAME.match(inner)
    return name is not None and name[1].lower() in names


def is_of_presence(filter_text: str) -> bool:
    """True if the filter tests only whether an entry has any of some attributes.

    For such a filter a server that counts by its indexes counts exactly; for others it counts candidates.
    """
    inner = _inner(filter_text)
    if inner.startswith("|"):
        parts = list(_parts(inner))
        return bool(parts) and all(map(is_of_presence, parts))
    return _PRESENCE.fullmatch(inner) is not None


def _inner(filter_text: str) -> str:
    return filter_text.strip()[1:-1].strip()


def _parts(inner: str) -> Iterator[str]:
    """Yield the filters in parentheses of an AND or OR. Parentheses in values are escaped (RFC 4515)."""
    depth = start = 0
    for at, char in enumerate(inner):
        if char == "(":
            start = start if depth else at
            depth += 1
        elif char == ")":
            depth -= 1
            if not depth:
                yield inner[start : at + 1]


class Identities:
    """The entries of a search by key, as 64-bit hashes: 16 octets an entry."""

    def __init__(self) -> None:
        """Start without entries."""
        self._keys, self._contents = array("q"), array("q")

    def __len__(self) -> int:
        """Return the number of entries, those with the same key counted each."""
        return len(self._keys)

    def add(self, key: str, entry: DirectoryEntry) -> None:
        """Add an entry."""
        values = [(name, *sorted(found or ())) for name, found in sorted(entry.attributes.items())]
        self._keys.append(hash(key))
        self._contents.append(hash((key, entry.dn, tuple(values))))

    def disagree(self) -> bool:
        """True if two entries have the same key and different DNs or values."""
        ordered = sorted(self._keys)
        repeated = {key for key, following in pairwise(ordered) if key == following}
        contents = {pair for pair in zip(self._keys, self._contents, strict=True) if pair[0] in repeated}
        return len(contents) > len(repeated)
