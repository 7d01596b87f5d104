"""Count the recipients in a published text, and keep a few examples. The list itself is never held in memory."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from syncagent.files import atomic as files
from syncagent.postfix import restrictions, table_text

if TYPE_CHECKING:
    from pathlib import Path

_EXAMPLES = 3
_MANY = 200
_EXTENDED = re.compile(rb"[^+\"@]+\+[^+\"@]+")
_NO_EXAMPLE = re.compile(r'^-|[!%@"]')
"""Local parts that make no example: smtpd(8) may reject them whether or not the map has them, or they are quoted."""


@dataclass
class TableStats:
    """Statistics of a published text; all strings are case-folded, and IDN domains are not converted.

    ``exists`` is false if there is no text. ``domains`` counts the keys by domain. ``catch_alls`` and ``extended``
    (``user+extension@domain``) have at most 200 addresses each, ``examples`` at most 3 a domain. ``postmasters`` are
    the domains with a postmaster. ``other_value`` is the first line whose value does not mean OK in an access table, as
    KEY VALUE.
    """

    exists: bool
    domains: Counter[str] = field(default_factory=Counter)
    catch_alls: list[str] = field(default_factory=list)
    postmasters: set[str] = field(default_factory=set)
    extended: list[str] = field(default_factory=list)
    examples: dict[str, list[str]] = field(default_factory=dict)
    other_value: str = ""

    @classmethod
    def read(cls, text: Path) -> TableStats:
        """Return the statistics of a text, empty if it does not exist. Raises OSError if it cannot be read."""
        try:
            file = files.open_foreign(text)
        except FileNotFoundError:
            return cls(exists=False)
        stats = cls(exists=True)
        counts: Counter[bytes] = Counter()
        with file:
            for _, line in table_text.logical_lines(files.lines_of(file)):
                key, value = table_text.split(line) or (b"", b"")
                if value.upper() != b"OK" and not stats.other_value and value:
                    stats._add_value(key, value)
                local, _, domain = key.rpartition(b"@")
                counts[domain] += 1
                if counts[domain] <= _EXAMPLES or not local or b"+" in local or local.lower() == b"postmaster":
                    stats._add(local, domain)
        for name, count in counts.items():
            stats.domains[name.decode(errors="replace").casefold()] += count
        return stats

    def _add_value(self, key: bytes, value: bytes) -> None:
        name, spelled = (part.decode(errors="replace") for part in (key, value))
        if restrictions.action(spelled) != "ok":
            self.other_value = f"{name} {spelled}"

    def _add(self, local: bytes, domain: bytes) -> None:
        name, spelled = (part.decode(errors="replace").casefold() for part in (domain, local))
        if not spelled and len(self.catch_alls) < _MANY:
            self.catch_alls.append(f"@{name}")
        if spelled == "postmaster":
            self.postmasters.add(name)
        if _EXTENDED.fullmatch(local) and len(self.extended) < _MANY:
            self.extended.append(f"{spelled}@{name}")
        examples = self.examples.setdefault(name, [])
        if spelled and spelled.isascii() and len(examples) < _EXAMPLES and not _NO_EXAMPLE.search(spelled):
            examples.append(f"{spelled}@{name}")
