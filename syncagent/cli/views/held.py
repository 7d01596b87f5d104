"""The view of `held`: each hold with its reasons and what it is of."""

from __future__ import annotations

from typing import TYPE_CHECKING

from syncagent.cli.output import table
from syncagent.errors import printable
from syncagent.state import messages

if TYPE_CHECKING:
    from collections.abc import Sequence

    from syncagent.cli.held import HeldEntry, HeldSet

_HEADS = {"since": "MISSING SINCE", "sources": "LAST IN", "key": "AS", "reason": "WHY NOT READ"}


def show(sets: Sequence[HeldSet]) -> None:
    """Print the holds, their entries, and how many more each has than are shown."""
    if not sets:
        print("nothing is held")
    for number, one in enumerate(sets):
        if number:
            print()
        _show(one)


def _show(one: HeldSet) -> None:
    print(f"{one.id}: {one.subject}, held since {messages.moment(one.since)}")
    for reason in one.reasons:
        print(f"  {reason}")
    if one.collecting:
        print(f"  {messages.JOINING}")
    if one.entries:
        _entries(one.entries)
    left = one.count - len(one.entries)
    if left:
        print(f"... and {left:,} more: syncagent held {one.id}")
    if one.approve:
        print(f"to let them go: {one.approve}")


def _entries(entries: Sequence[HeldEntry]) -> None:
    """Print a table with the columns that have a value."""
    shown = [name for name in _HEADS if any(getattr(entry, name) for entry in entries)]
    table(
        ("ENTRY", *(_HEADS[name] for name in shown)),
        [(printable(entry.entry), *(_cell(entry, name) for name in shown)) for entry in entries],
    )


def _cell(entry: HeldEntry, name: str) -> str:
    if name == "since":
        return messages.moment(entry.since) if entry.since else "-"
    return ", ".join(entry.sources) if name == "sources" else printable(getattr(entry, name)) or "-"
