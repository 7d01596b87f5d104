"""What `sync --quiet` has printed, so that it prints a condition when it begins, changes or ends, and once a day."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from msgspec import Struct

from syncagent.errors import ExitCode
from syncagent.files import atomic
from syncagent.state import messages
from syncagent.state.database import Ledger, ledger_errors
from syncagent.state.opened import LOCK
from syncagent.state.records import Printed

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from syncagent.state.status import Status

DAY = 86400.0
_SLACK = 60.0
"""Seconds by which a run may be early: a timer is not exact."""
_TIMEOUT = 5.0
"""Seconds to wait for the lock of the state; without it the same is printed again by the next run."""
_IN_VIEW = frozenset({"held", "catch-all", "canary", "outdated", "publish-failed", "incomplete", "doubt-not-in-force"})
"""Kinds of alarms that the view of a run shows by itself."""
_NOT_TOLD = frozenset({"held", "doubt"})
"""Kinds of alarms that are no condition of their own here: holds are, and doubt changes no exit status."""


class Fact(Struct, frozen=True):
    """A condition that stands: its ``value``, whose change is told, and its text. ``more``: no run's view shows it."""

    value: str
    text: str
    more: bool = False


class News(Struct, frozen=True):
    """What is to be printed. ``begun``: conditions that are new, have changed, or were last printed a day ago.

    ``ended``: texts of conditions that do not stand any more. ``printed`` is to be recorded once it is printed.
    """

    begun: tuple[Fact, ...]
    ended: tuple[str, ...]
    printed: dict[str, Printed]


def facts(status: Status, exit_code: int) -> dict[str, Fact]:
    """Return the conditions that stand after a run, by their identity."""
    return dict(_facts(status, exit_code))


def _facts(status: Status, exit_code: int) -> Iterator[tuple[str, Fact]]:
    for hold in status.holds:
        value = "open" if hold.collecting else f"{hold.id} {hold.count}"
        yield f"hold {hold.identity}", Fact(value, f"{messages.held(hold)} held ({hold.id})")
    for source in status.sources:
        if source.state == "failing":
            text = messages.failing_source(source.name, source.failing_since, source.last_success)
            yield f"failing {source.name}", Fact(str(source.failing_since), text)
    for alarm in status.alarms:
        if alarm.kind not in _NOT_TOLD:
            yield alarm.key, Fact("", alarm.text, more=alarm.kind not in _IN_VIEW)
    if status.doubt and status.doubt.switched:
        text = f"doubt switch: {messages.switch(status.doubt, status.doubt.switched.at)}"
        yield "switch", Fact(status.doubt.switched.why, text, more=True)
    if exit_code != ExitCode.OK:
        yield f"exit {exit_code}", Fact("", "")


def news(standing: Mapping[str, Fact], printed: Mapping[str, Printed], now: float) -> News:
    """Return what is to be printed of the conditions that stand, after what was printed before."""
    begun = {key: fact for key, fact in standing.items() if _is_due(fact, printed.get(key), now)}
    ended = tuple(one.text for key, one in printed.items() if key not in standing and one.text)
    stays = {key: one for key, one in printed.items() if key in standing and key not in begun}
    new = {key: Printed(fact.value, fact.text, now) for key, fact in begun.items()}
    return News(tuple(begun.values()), ended, {**stays, **new})


def _is_due(fact: Fact, last: Printed | None, now: float) -> bool:
    return last is None or last.value != fact.value or not 0 <= now - last.at < DAY - _SLACK


@contextlib.contextmanager
def telling(directory: Path, standing: Mapping[str, Fact], now: float) -> Iterator[News]:
    """Yield what is to be printed, and record it as printed if the block ends without an error.

    Nothing is written if nothing changes. Raises LedgerError if the state cannot be read or written, and LockBusyError
    if another run has it.
    """
    with ledger_errors(directory), contextlib.closing(Ledger(directory, write=False)) as ledger:
        printed = ledger.printed()
    found = news(standing, printed, now)
    yield found
    if found.printed != printed:
        with (
            ledger_errors(directory),
            atomic.locked(directory / LOCK, _TIMEOUT),
            contextlib.closing(Ledger(directory)) as ledger,
        ):
            ledger.save_printed(found.printed)
