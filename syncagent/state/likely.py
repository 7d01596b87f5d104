"""The likely shape of a list none of whose entries is an address, guessed from some of its entries. It is pure."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from syncagent.redaction import HIDDEN

if TYPE_CHECKING:
    from collections.abc import Collection

_MOST = 200
"""Maximum number of characters of an entry that are judged: the time of some patterns grows with their square."""
_BY_ONE: dict[str, str] = {
    r"\s*<[!?/]?[a-zA-Z][^@]*": "HTML or XML: is it an error page?",
    r".*\r.*": "a text whose lines end in CR alone: save it with LF",
    r"dn::? .*": 'LDIF: write its addresses to a list, or read the directory by a source of type = "ldap"',
}
"""Shapes that one entry shows, since their other lines may be anything; each with what to do about it."""
_BY_MOST: dict[str, str] = {
    r"\s*[\[{](?:.*[\"{}\[\],])?\s*": "JSON: write its addresses to a list, one a line",
    r"!?/.*/[a-z]*(?:\s.*)?": "a pcre or regexp table, whose patterns name no recipients",
    rf".*{re.escape(HIDDEN)}": (
        'a password file: write the names alone to a list (cut -d: -f1), or set format = "passwd" if its lines have the'
        " seven fields of passwd(5)"
    ),
    r".*@.*[\s,;+|].*@.*": "several addresses in one entry: write each as an entry of its own",
    r"(?:smtp|mailto):\S+": "addresses with a prefix: write them without it",
    r"[^,;\t]*[,;\t].*": 'CSV: set format = "csv", column and delimiter',
    r'"[^"]*"': 'quoted values: write the addresses without quotes, or set format = "csv" and column',
    r"[^\s:@]+\s*:\s*\S.*": 'names with values, as in aliases(5): set format = "aliases" and domains',
    r"\S+@\S+\s+\S.*": 'a Postfix table: set format = "postmap"',
    r"[^\s@]+": "bare names: set domains to those to append",
}
"""Shapes that most entries have; the first one counts."""


def shape(entries: Collection[str], known: str) -> str:
    """Return the shape that these entries have, with the remedy; "" if none is known.

    ``known`` is the format that they were read by. Of passwd(5) an entry has only the name: that shows no shape.
    """
    if known == "passwd":
        return ""
    by_one = (text for pattern, text in _BY_ONE.items() if _matches(pattern, entries))
    by_most = (text for pattern, text in _BY_MOST.items() if entries and _matches(pattern, entries) * 2 > len(entries))
    found = next(by_one, "") or next(by_most, "")
    return "" if f'set format = "{known}"' in found else found


def _matches(pattern: str, entries: Collection[str]) -> int:
    """Return how many of the entries a pattern matches as a whole, or their first _MOST characters."""
    return sum(1 for entry in entries if re.fullmatch(pattern, entry[:_MOST], re.DOTALL | re.IGNORECASE))
