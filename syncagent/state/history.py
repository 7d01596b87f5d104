"""Queries of the history: the runs, the recipients that they added or removed, with their sources, and the events."""

from __future__ import annotations

import contextlib
import gzip
import time
from typing import TYPE_CHECKING

from msgspec import Struct

from syncagent.files import atomic
from syncagent.model import ALL_DOMAINS
from syncagent.state.database import reading

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from syncagent.config.tables import Config
    from syncagent.state.database import Ledger
    from syncagent.state.records import Event

SHOWN = 20
"""Default number of changes shown of each run."""


class Change(Struct, frozen=True):
    """The addition or removal of a recipient, or of a domain of postfix.domains_map.

    ``sources`` are the names of the sources that list an added address or domain, or that last listed a removed
    address; empty if they are unknown.
    """

    address: str
    added: bool
    sources: tuple[str, ...]

    @property
    def is_domain(self) -> bool:
        """True for a relay domain. The counts of a run leave it out."""
        return "@" not in self.address


class Run(Struct, frozen=True):
    """A recorded run, started at ``at`` (seconds since the epoch). ``changes`` may be cut, see ``read``.

    An event that is no run has its kind as ``status``, no ``run_id`` and no changes; only an event has ``subject``,
    such as a domain, and ``detail``. Readers of a list of runs can read it as well.
    """

    run_id: str
    at: float
    status: str
    exit_code: int
    added: int
    removed: int
    error: str
    changes: tuple[Change, ...]
    first_import: bool = False
    subject: str = ""
    detail: str = ""

    @property
    def is_event(self) -> bool:
        """True for an event that is no run."""
        return not self.run_id


def with_events(config: Config, since: float, address: str | None = None, *, shown: int | None = SHOWN) -> list[Run]:
    """Return the runs as ``read`` does, and the events, oldest first.

    With a domain as ``address``, return only the events of that domain and of all; with an address, none. Raises
    LedgerError if the state cannot be read.
    """
    runs = read(config, since, address, shown=shown)
    if "@" in (address or ""):
        return runs
    with reading(config.state.directory) as ledger:
        events = [_event(event) for event in ledger.events(since) if address is None or _concerns(event, address)]
    return sorted([*runs, *events], key=lambda run: run.at)


def _concerns(event: Event, domain: str) -> bool:
    """True if an event is of a domain, of all domains, or of the switch."""
    return event.subject in {domain, ALL_DOMAINS} or event.kind == "doubt-switch"


def _event(event: Event) -> Run:
    return Run("", event.at, event.kind, 0, 0, 0, "", (), subject=event.subject, detail=event.detail)


def read(config: Config, since: float, address: str | None = None, *, shown: int | None = SHOWN) -> list[Run]:
    """Return the runs that started at or after ``since`` and changed something or failed, oldest first.

    With ``address``, return only the runs and changes of that address. ``shown`` limits the changes of each run; None
    returns all. Raises LedgerError if the state cannot be read.
    """
    with reading(config.state.directory) as ledger:
        first = ledger.first_import()
        found = []
        for row in ledger.runs(since):
            several = list(_changes(ledger, row.id, row.changes_file, address, shown))
            if several or (address is None and (row.added or row.removed or row.error)):
                one = Run(
                    run_id=row.id,
                    at=row.started,
                    status=row.status,
                    exit_code=row.exit_code,
                    added=row.added,
                    removed=row.removed,
                    error=row.error,
                    changes=tuple(several),
                    first_import=row.id == first,
                )
                found.append(one)
        return found


def of_address(config: Config, address: str) -> list[tuple[float, Change]]:
    """Return the recorded changes of an address with their times, oldest first, at most SHOWN of each run."""
    return [(run.at, change) for run in read(config, 0, address) for change in run.changes]


def _changes(
    ledger: Ledger, run: str, changes_file: str | None, address: str | None, shown: int | None
) -> Iterator[Change]:
    if changes_file:
        lines = _lines(ledger.changes / changes_file, address)
    else:
        rows = ledger.recipients(run, address)
        lines = ((name, bool(added), said) for name, added, said in rows)
    for count, (name, added, said) in enumerate(lines):
        if shown is not None and count >= shown:
            return
        yield Change(name, added, tuple(said.split(",")) if said else ())


def _lines(path: Path, address: str | None) -> Iterator[tuple[str, bool, str]]:
    with (
        contextlib.suppress(FileNotFoundError),
        atomic.open_foreign(path) as file,
        gzip.open(file, "rt", encoding="utf-8", newline="\n") as lines,
    ):
        for line in lines:
            name, _, said = line[1:].rstrip("\n").partition("\t")
            if address is None or name == address:
                yield name, line[0] == "+", said


def since(text: str, now: float | None = None) -> float:
    """Parse a time such as 2026-01-31 or 2026-01-31T02:00, or an age such as 7d. Return seconds since the epoch.

    A time without a zone is local time. Raises ValueError if the text is neither.
    """
    import datetime as dt

    from syncagent.values.types import Duration

    try:
        return (time.time() if now is None else now) - Duration.parse(text)
    except ValueError:
        pass
    try:
        return dt.datetime.fromisoformat(text).timestamp()
    except ValueError:
        raise ValueError(
            f"expected how long ago, such as 7d, or a time such as 2026-01-31T02:00, not {text!r}"
        ) from None
