"""The count of what a source delivers, apart from the list that is written of it: both must agree. It is pure."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class Tally:
    """The count of one answer.

    ``values``: entries, rejects and ignored values that the source delivered, counted as they came. ``ignored`` of them
    are in no list. ``keys``: key-only lines. ``base``: lines of the last list, if the answer amends that. ``dropped``:
    lines that it deletes of them, or of its own. ``repeated``: lines that were there already.
    """

    values: int = 0
    keys: int = 0
    base: int = 0
    dropped: int = 0
    repeated: int = 0

    def expected(self, ignored: int) -> int:
        """Return the number of lines that the list must have: each entry and each reject once, and key-only lines."""
        return self.values + self.keys + self.base - ignored - self.dropped - self.repeated

    def difference(self, lines: int, ignored: int) -> str:
        """Return why a list of so many lines is not what the source delivered; "" if it is."""
        expected = self.expected(ignored)
        if lines == expected:
            return ""
        return (
            f"it delivered {self.values:,} values, and its list was miscounted: {lines:,} lines instead of"
            f" {expected:,}; the next run fetches it whole"
        )
