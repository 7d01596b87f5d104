"""The part of a view that shows the sources: their answers, notes, steps and errors."""

from __future__ import annotations

from typing import TYPE_CHECKING

from syncagent.cli.output import say, table
from syncagent.errors import printable
from syncagent.state import messages

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from syncagent.model import SourceReport, StepReport
    from syncagent.state.status import SourceStatus, Status


def show_sources(reports: Sequence[SourceReport], *, steps: bool) -> None:
    """Print the sources as a table, then their notes; with ``steps``, the counts of each step as well."""
    rows = [(one.name, _answer(one), one.entries, one.rejected, f"{one.seconds:.2f}s") for one in reports]
    table(("SOURCE", "ANSWER", "ENTRIES", "REJECTED", "TOOK"), rows)
    for one in reports:
        show_notes(one)
        if steps:
            show_steps(one.name, one.steps)


def failing(status: Status) -> list[str]:
    """Return a message for each failing source of a status."""
    return [
        messages.failing_source(source.name, source.failing_since, source.last_success)
        for source in status.sources
        if source.state == "failing"
    ]


def show_notes(source: SourceReport | SourceStatus) -> None:
    """Print the notes of a source's answer."""
    for note in source.notes:
        print(f"note: {source.name}: {note}")


def _answer(report: SourceReport) -> str:
    return f"{report.state} ({report.mode})" if report.mode else report.state


def show_steps(name: str, steps: Sequence[StepReport]) -> None:
    """Print the counts of each step of a source, with sample addresses; nothing if there are no steps."""
    if steps:
        print(f"{name}, step by step:")
        rows = [(one.name, one.pages, one.records, one.kept, one.emitted, _some(one)) for one in steps]
        table(("STEP", "PAGES", "RECORDS", "KEPT", "EMITTED", "SUCH AS"), rows)


def _some(step: StepReport) -> str:
    return ", ".join(map(printable, step.sample)) or "-"


def show_rejected(sources: Iterable[SourceReport | SourceStatus]) -> None:
    """Print how many entries of each source are rejected, and how many of them are held, approved and ignored.

    Print also how many keys each source refuses itself.
    """
    for source in sources:
        if source.rejected:
            counts = messages.rejected_counts(source.rejected, source.rejected_held, source.rejected_ignored)
            print(f"source {source.name}: {counts}")
        if source.refused:
            print(f"source {source.name}: {messages.refused_keys(source.refused)}")


def show_failures(reports: Sequence[SourceReport]) -> None:
    """Print the errors of sources, and which data is outdated, to standard error."""
    for source in reports:
        if source.error:
            say(f"source {source.name} is failing ({source.kind}): {source.error}")
        if source.outdated:
            say(messages.outdated_source(source.name, source.made, source.outdated_at))
