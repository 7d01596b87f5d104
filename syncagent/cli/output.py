"""The parts of each view: messages, tables, samples, the progress line, and JSON.

Colours and rich are for a terminal only.
"""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING, Any

from syncagent.errors import printable

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

_PATIENCE = 1.0


class Progress:
    """The progress line of a run, on standard error: only on a terminal, and once the run has taken a second."""

    def __init__(self) -> None:
        """Start the clock; nothing is shown yet."""
        self._end_of_patience = time.monotonic() + _PATIENCE
        self._shown: Any = None
        self._began: dict[str, float] = {}
        self._active = sys.stderr.isatty()

    def __call__(self, step: str, count: int) -> None:
        """Show a step with its number of entries so far, and the rate per second; without both if ``count`` is 0.

        Nothing is shown in the first second of the run, or if standard error is not a terminal.
        """
        began = self._began.setdefault(step, time.monotonic())
        if not self._active or time.monotonic() < self._end_of_patience:
            return
        if self._shown is None:
            from rich.console import Console

            self._shown = Console(stderr=True).status("")
            self._shown.start()
        rate = count / max(time.monotonic() - began, 0.001)
        self._shown.update(f"{step}: {count:,} ({rate:,.0f}/s)" if count else step)

    def close(self) -> None:
        """Remove the progress line from the terminal."""
        if self._shown is not None:
            self._shown.stop()


def say(text: str) -> None:
    """Print a message to standard error, with the prefix ``syncagent: ``."""
    print(f"syncagent: {text}", file=sys.stderr)


def table(heads: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Print rows in columns. A column is right-aligned if its first cell begins with a digit.

    Integers get thousands separators. Only a terminal gets rich, which wraps long cells: every sync prints a table, and
    one that runs from cron must not take the time to import rich.
    """
    texts = [[f"{cell:,}" if isinstance(cell, int) else str(cell) for cell in row] for row in rows]
    if sys.stdout.isatty():
        from rich.console import Console
        from rich.table import Table
        from rich.text import Text

        shown = Table(box=None, pad_edge=False)
        for index, head in enumerate(heads):
            shown.add_column(
                head, justify="right" if texts and texts[0][index][:1].isdigit() else "left", overflow="fold"
            )
        for row in texts:
            shown.add_row(*map(Text, row))
        Console().print(shown)
        return
    widths = [max(len(row[column]) for row in [list(heads), *texts]) for column in range(len(heads))]
    for row in [list(heads), *texts]:
        cells = [
            cell.rjust(width) if texts and texts[0][column][:1].isdigit() else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        print("  ".join(cells).rstrip())


def samples(sign: str, sample: Sequence[str], count: int) -> None:
    """Print the addresses of a sample behind ``sign``, which begins with + or -, and how many more there are."""
    for address in sample:
        changed(f"  {sign} {printable(address)}", new=sign.startswith("+"))
    if count > len(sample):
        changed(f"  {sign} ... and {count - len(sample):,} more", new=sign.startswith("+"))


def changed(text: str, *, new: bool) -> None:
    """Print a line about an addition (``new``) or a removal: green or red on a terminal."""
    if not sys.stdout.isatty():
        print(text)
        return
    from rich.console import Console
    from rich.text import Text

    Console().print(Text(text, "green" if new else "red"), soft_wrap=True)


def structure(value: object) -> None:
    """Print a value as indented JSON."""
    import msgspec

    print(msgspec.json.format(msgspec.json.encode(value), indent=2).decode())
