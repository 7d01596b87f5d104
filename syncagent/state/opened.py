"""The state of one run: open, locked, with a spool of its own; in a dry run nothing is written but the spool."""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from syncagent.errors import LedgerDamagedError, LockBusyError
from syncagent.files import atomic, pipeline
from syncagent.model import Note
from syncagent.postfix.table import Target
from syncagent.state.database import SPOOL, Ledger, ledger_errors

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator

    from syncagent.config.tables import Postfix
    from syncagent.model import Hold, SourceState
    from syncagent.state.records import DomainRow, Finished, RunRow

LOCK = "sync.lock"


class State(Ledger):
    """The state directory of one run.

    ``new_snapshots`` is where its snapshots go, ``spool`` where the rest goes; ``last_snapshots`` are those before the
    run, by source, which name the sources that had a missing address last.
    """

    def __init__(self, directory: Path, stack: contextlib.ExitStack) -> None:
        """Open it, and sweep what unfinished runs left. Raise LedgerError."""
        super().__init__(directory)
        stack.callback(self.close)
        self.spool = self.prepare()
        stack.callback(shutil.rmtree, self.spool, ignore_errors=True)
        self.new_snapshots = self.snapshots
        held = {name: state.snapshot for name, state in self.sources.items() if state.snapshot}
        self.last_snapshots = {name: self.snapshots / snapshot.file for name, snapshot in held.items()}

    def save_sources(self, states: Iterable[SourceState]) -> None:
        """Record each source, in a transaction each."""
        for state in states:
            self.save_source(state)

    def sweep(self, target: Target) -> None:
        """Remove what a killed run left beside a table."""
        target.sweep()

    def numbered(self, holds: Iterable[Hold]) -> tuple[Hold, ...]:
        """Return the holds with IDs that can be approved: all of them, since they are about to be recorded."""
        return tuple(holds)

    def keep_copy(self, text: Path, digest: str) -> Note:
        """Keep a copy of a map's text that is not as syncagent left it. Return the note of it."""
        copy = self.directory / "adopted" / f"{text.name}-{digest[:12]}"
        copy.parent.mkdir(mode=0o750, exist_ok=True)
        if not copy.exists():
            half = copy.with_name("half")
            half.unlink(missing_ok=True)
            pipeline.write_plain(half, atomic.chunks_in(text))
            half.chmod(0o640)
            half.replace(copy)
        return Note("map-changed", str(text), detail=str(copy))


class DryState(State):
    """The state of a dry run: read only; what writes does nothing."""

    def __init__(self, directory: Path, stack: contextlib.ExitStack) -> None:
        """Open it to read. Raise LedgerError. There are no ``last_snapshots``: no history is written."""
        Ledger.__init__(self, directory, write=False)
        stack.callback(self.close)
        self.spool = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="syncagent-plan-")))
        self.new_snapshots = self.spool
        self.last_snapshots = {}

    def save_source(self, state: SourceState) -> None:
        """Do nothing."""

    def approve(self, ids: Collection[str], now: float) -> None:
        """Do nothing."""

    def sweep(self, target: Target) -> None:
        """Do nothing."""

    def numbered(self, holds: Iterable[Hold]) -> tuple[Hold, ...]:
        """Return the holds; one that is not recorded cannot be approved, and has no ID."""
        return tuple(hold if hold.id in self.holds else hold.without_id() for hold in holds)

    def keep_copy(self, text: Path, digest: str) -> Note:  # noqa: ARG002 - as in State
        """Return the note that a run would keep a copy."""
        return Note("map-changed-dry", str(text))

    def settle(self, run: RunRow) -> None:
        """Do nothing."""

    def record_failure(self, run: RunRow) -> None:
        """Do nothing."""

    def record(
        self,
        run: RunRow,
        finished: Finished,
        holds: Iterable[Hold],
        changes: Iterable[DomainRow],
        recipients: Iterable[tuple[str, bool, str]],
    ) -> None:
        """Do nothing."""


@contextlib.contextmanager
def open_state(directory: Path, *, write: bool, lock_timeout: float) -> Iterator[State]:
    """Lock the state directory and open it for one run: exclusively to write, shared to read where that is permitted.

    A database that turns out to be damaged is set aside; the LedgerDamagedError that is raised then has the notes of
    it, and the run may be tried once more. Raise LockBusyError and LedgerError.
    """
    with ledger_errors(directory), contextlib.ExitStack() as stack:
        if write:
            directory.mkdir(mode=0o750, parents=True, exist_ok=True)
            stack.enter_context(atomic.locked(directory / LOCK, lock_timeout))
        else:  # a user who may only read cannot lock out those who write: then a run at the same time may end this one
            with contextlib.suppress(FileNotFoundError, PermissionError):
                stack.enter_context(atomic.locked(directory / LOCK, lock_timeout, shared=True))
        try:
            with contextlib.ExitStack() as opened:
                yield (State if write else DryState)(directory, opened)
        except LedgerDamagedError as damage:
            damage.notes = _set_aside(directory, damage, write=write)
            raise


def _set_aside(directory: Path, damage: LedgerDamagedError, *, write: bool) -> tuple[Note, ...]:
    """Set a damaged database aside. Return the notes; raise LedgerError where nothing may be written."""
    with contextlib.closing(Ledger(directory, write=write)) as ledger:
        ledger.set_aside(damage)
        return tuple(ledger.notes)


def sweep(directory: Path, postfix: Postfix) -> None:
    """Remove what an interrupted run of this process left; a run that holds the lock now does it itself."""
    with contextlib.suppress(OSError, LockBusyError), atomic.locked(directory / LOCK, 0):
        for name in filter(None, (postfix.map, postfix.domains_map)):
            Target(postfix.settings(name)).sweep()
        for left in directory.glob(f"{SPOOL}*"):
            shutil.rmtree(left, ignore_errors=True)
