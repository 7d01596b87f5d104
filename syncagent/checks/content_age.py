"""Checks of the age of the sources' data by its own dates: of what they answer now, and of what is recorded."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from syncagent.checks.finding import Check, Person, error, warning
from syncagent.state import content_age, messages

if TYPE_CHECKING:
    from collections.abc import Iterator

    from syncagent.checks.context import Context
    from syncagent.checks.finding import Finding

_DATED = 'have it written by make-list.sh ("# made: TIME" in its first lines)'


def data_is_current(context: Context) -> Iterator[Finding]:
    """Yield an error for each source whose data is outdated by its own dates."""
    for report in context.reports:
        if report.outdated:
            text = messages.outdated_source(report.name, report.made, report.outdated_at)
            remedy = Person(text="start the program that makes it again, or correct its schedule")
            yield error(report.name, text, remedy)


def data_is_dated(context: Context) -> Iterator[Finding]:
    """Yield a warning for each source that has a limit of age, and data without a date."""
    for report in context.reports:
        limit = context.config.sources[report.name].common.content_max_age
        if limit and not report.made and not report.outdated_at and report.data_from:
            text = "content_max_age is set, but the data says no time, nor does its server: its age is not known"
            yield warning(report.name, text, Person(text=_DATED))


def data_changes(context: Context) -> Iterator[Finding]:
    """Yield a warning for each source without a limit of age whose data has not changed for 30 days."""
    for name, source in context.config.sources.items():
        state = context.ledger.sources.get(name) if context.ledger else None
        limit = source.common.content_max_age
        since = content_age.unchanged_since(state, limit, time.time()) if state else 0.0
        if since:
            text = f"the data has not changed since {messages.moment(since)}, and no limit of its age is set"
            any_age = Person(text=f'content_max_age = "0s" in [sources.{name}]', when="if it changes that rarely,")
            yield warning(name, text, Person(text=f"does the program that makes it still run? Then {_DATED}"), any_age)


CHECKS = (
    Check("data-is-current", "No source's data is outdated", data_is_current),
    Check("data-is-dated", "The data of a source with content_max_age says its age", data_is_dated),
    Check("data-unchanged", "The data of each source has changed in 30 days, or has a limit of age", data_changes),
)
