"""The view of `history`: the runs that changed the map, their changes, and the events."""

from __future__ import annotations

from typing import TYPE_CHECKING

from syncagent.cli.output import changed
from syncagent.errors import printable
from syncagent.state import messages

if TYPE_CHECKING:
    from collections.abc import Sequence

    from syncagent.state.history import Change, Run


def show(runs: Sequence[Run]) -> None:
    """Print the runs of the history, each with its time, counts and changes, and between them the events."""
    if not runs:
        print("nothing changed")
    width = max((len(_came_to(run)) for run in runs if not run.is_event), default=0)
    for run in runs:
        if run.is_event:
            print(f"{messages.moment(run.at)}  {messages.event(run.status, run.subject, run.detail)}")
            continue
        counts = f"{f'+{run.added:,}':>9} {f'-{run.removed:,}':>9}"
        print(f"{messages.moment(run.at)}  {_came_to(run):<{width}} {counts}  {run.run_id}{_because(run.error)}")
        for change in run.changes:
            changed(f"    {change_text(change)}", new=change.added)
        left = run.added + run.removed - sum(not change.is_domain for change in run.changes)
        if run.changes and left > 0:
            print(f"    ... and {left:,} more")


def _came_to(run: Run) -> str:
    return "first import" if run.first_import else run.status


def _because(error: str) -> str:
    return f": {error}" if error else ""


def change_text(change: Change) -> str:
    """Return a change of an address or domain as a line that begins with + or -."""
    if change.is_domain:
        verb = "added" if change.added else "removed"
        reported = f": reported by {', '.join(change.sources)}" if change.sources else ""
        return f"{'+' if change.added else '-'} domain {printable(change.address)} {verb}{reported}"
    verb = "added: it is in" if change.added else "removed: it was last in"
    sources = ", ".join(change.sources) or "a source that is not recorded"
    return f"{'+' if change.added else '-'} {printable(change.address)} {verb} {sources}"
