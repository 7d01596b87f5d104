"""What the other columns of a CSV file say of a record: further addresses, or that it is deleted. It is pure.

Nothing of this is read. It is told as a rejected entry, so that nobody is lost, or published, unnoticed.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from syncagent.values.spellings import addresses_in

if TYPE_CHECKING:
    from collections.abc import Sequence

_FURTHER = re.compile(
    r".*alias.*|.*proxy ?address.*|.*(?:e-?mail|smtp) ?addresses|(?:e-?mail|mail|address)[ ._-]*[0-9]+", re.IGNORECASE
)
"""Names of columns that have further addresses of the same recipient: ``aliases.0``, ``EmailAlias_1``, ``Mail 2``."""
_STATUS = re.compile(r"(?:(?:account|user|mailbox|mail)[ _-]?)?(?:status|state)(?: \[.*\])?", re.IGNORECASE)
_DELETED = frozenset({"deleted"})
_SHOWN = 200
FURTHER, DELETED = "other columns: ", "deleted: "
"""The beginnings of such entries, for patterns of the key ``ignore``."""


_FIRST_LINES: tuple[tuple[str, str], ...] = (
    (r"#TYPE .*", "this line is written by Export-Csv: delete it, or use -NoTypeInformation"),
    (r"sep=.*", "this line is for Excel: delete it, and set delimiter to its character"),
    (r"[^,;\t|]+[;\t|,].*", "set delimiter to the character between them"),
    (r".*\S@\S.*", "this is a record already: write the names of the columns in a line before it"),
)
"""First lines that name no columns, by their first column, and what to do."""


def hint(names: Sequence[str]) -> str:
    """Return what to do if these names of columns are none, with a separator before it; "" if that is not known."""
    first = next(iter(names), "")
    found = (text for pattern, text in _FIRST_LINES if re.fullmatch(pattern, first, re.IGNORECASE))
    text = next(found, "")
    return f"; {text}" if text else ""


@dataclass(frozen=True, slots=True)
class Columns:
    """The columns of a CSV file beside the one that is read, by their numbers, and the names of all."""

    names: tuple[str, ...]
    at: int
    further: tuple[int, ...]
    status: tuple[int, ...]

    @classmethod
    def of(cls, names: Sequence[str], at: int) -> Columns:
        """Return the columns by their names; ``at`` is the number of the one that is read."""
        others = [number for number in range(len(names)) if number != at]
        further = tuple(number for number in others if _FURTHER.fullmatch(names[number]))
        status = tuple(number for number in others if _STATUS.fullmatch(names[number]))
        return cls(tuple(names), at, further, status)

    def deleted(self, row: Sequence[str]) -> tuple[str, str] | None:
        """Return text and reason of the entry of a record that a column of its state calls deleted, else None."""
        if not "".join(row[self.at : self.at + 1]).strip():
            return None
        for number in self.status:
            if number < len(row) and row[number].strip().casefold() in _DELETED:
                name = self.names[number][:_SHOWN]
                reason = f'is called "{row[number].strip()}" by the column "{name}": leave such records out of the file'
                return f"{DELETED}{row[self.at].strip()}", f"{reason}, {_or_ignore(DELETED)}"
        return None

    def further_addresses(self, row: Sequence[str]) -> tuple[str, str] | None:
        """Return text and reason of the entry of a record that has other addresses in further columns, else None."""
        own = set(addresses_in("".join(row[self.at : self.at + 1])))
        found: dict[str, str] = {}
        for number in self.further:
            cell = row[number] if number < len(row) else ""
            if "@" in cell:
                found |= {address: self.names[number] for address in addresses_in(cell) if address not in own}
        if not found:
            return None
        names = ", ".join(dict.fromkeys(found.values()))[:_SHOWN]
        reason = f'is in columns that are not read ({names}): write each address as a record of its own, with "'
        return f"{FURTHER}{', '.join(found)}", f'{reason}{self.names[self.at]}", {_or_ignore(FURTHER)}'


def _or_ignore(beginning: str) -> str:
    return f'or, if they are no recipients, set ignore = ["{beginning}*"]'
