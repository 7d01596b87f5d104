"""Counts that must agree: what the lists have against what was selected of them. It is pure: no files, no clock.

The two sides are counted apart: that of the lists from their records and from the lines as they are merged, that of the
selection where each address is taken or left.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from syncagent.model import ALL_DOMAINS, Hold, Reason
from syncagent.state import messages
from syncagent.state.identity import hold_id

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from syncagent.sync.conditions import Condition


@dataclass(frozen=True, slots=True)
class Selected:
    """The counts of one selection.

    ``listed``: entries of the lists, by their records. ``read``: entries that were read from them. ``repeated``: those
    of them whose address was read before. ``taken``: addresses by what became of them, such as ``wanted``; ``written``:
    lines in the file of the wanted ones.
    """

    listed: int
    read: int
    repeated: int
    taken: dict[str, int]
    written: int

    @property
    def distinct(self) -> int:
        """The number of different addresses in all lists."""
        return self.read - self.repeated


class Lines:
    """A counter of the addresses in the merged first fields of lists."""

    def __init__(self) -> None:
        """Start at 0."""
        self.read = self.repeated = 0
        self._last = b""

    def through(self, chunks: Iterable[bytes]) -> Iterator[bytes]:
        """Yield the chunks, which have whole lines, and count their addresses.

        Lines without an address are rejects and key-only lines. End lines stand between the others.
        """
        for chunk in chunks:
            lines = chunk.removesuffix(b"\n").split(b"\n")
            if b"# end " in chunk or b"" in lines:
                lines = [line for line in lines if line and not line.startswith(b"# end ")]
            if lines:
                self.read += len(lines)
                before = [self._last, *lines[:-1]]
                self.repeated += sum(line == last for line, last in zip(lines, before, strict=True))
                self._last = lines[-1]
            yield chunk


def reason(selected: Selected | None) -> Reason | None:
    """Return the reason to hold every removal if the counts of a selection do not agree, else None."""
    if selected is None:
        return None
    difference = _difference(selected)
    return Reason("counts", difference, approvable=False) if difference else None


def _difference(selected: Selected) -> str:
    if selected.listed != selected.read:
        return messages.miscounted_lists(selected.listed, selected.read)
    if selected.distinct != sum(selected.taken.values()) or selected.taken.get("wanted", 0) != selected.written:
        return messages.miscounted_selection(selected.distinct, selected.taken, selected.written)
    return ""


def holds(conditions: Iterable[Condition], standing: Mapping[str, Hold], now: float) -> tuple[Hold, ...]:
    """Return the one hold of counts that do not agree, which stands also while nothing is missing.

    ``standing`` are the recorded holds by ID: the hold keeps its begin.
    """
    reasons, key = tuple(one.reason for one in conditions if one.reason.kind == "counts"), hold_id("counts")
    since = standing[key].since if key in standing else now
    return (Hold(key, ALL_DOMAINS, 0, since, reasons, kind="counts"),) if reasons else ()


def of_published(wanted: int, kept: int, refused: int, published: int) -> str:
    """Return why the next published recipients cannot be the wanted and the kept ones; "" if they can.

    All are numbers of lines; ``refused`` recipients were left out, since Postfix does not answer for them.
    """
    expected = wanted + kept - refused
    return "" if published == expected else messages.miscounted_map(expected, published)
