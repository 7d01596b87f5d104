"""The state directory of one run: locked, open, with a spool directory. A dry run writes only to its spool."""

from __future__ import annotations

import contextlib
import shutil
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

from syncagent.errors import LedgerDamagedError, LockBusyError
from syncagent.files import atomic
from syncagent.model import Note
from syncagent.postfix.doubt_table import Files
from syncagent.postfix.table import Target
from syncagent.state import state_file as beside
from syncagent.state.database import SPOOL, Ledger, ledger_errors
from syncagent.values.types import state_file

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator, Mapping

    from syncagent.config.tables import Postfix
    from syncagent.model import Hold, SourceState
    from syncagent.postfix.table import TableSettings
    from syncagent.state.identity import Gap, Identity
    from syncagent.state.records import DomainRow, DoubtRecord, Event, Finished, RunRow
    from syncagent.values.types import MapName

_TRIES, _PAUSE = 10, 0.1
"""Number of times that the directory of a dry run is removed until it is gone, and seconds between."""
LOCK = "sync.lock"
DOUBT_LOCK = "doubt.lock"
_WRITING = 60.0
"""Seconds to wait for another process to write the doubt table or ``by-hand``."""


class State(Ledger):
    """The open state directory of one run.

    ``new_snapshots`` is the directory for the snapshots that the run writes, ``spool`` that for temporary files.
    ``last_snapshots`` are the snapshot files of the last finished run, by source: they show which sources listed a
    missing recipient last.
    """

    is_dry = False
    published_domains: frozenset[str] = frozenset()
    """The domains that the map had by the file beside it, ``.NAME.syncagent``, before this run."""

    def __init__(self, directory: Path, stack: contextlib.ExitStack) -> None:
        """Open the directory, and remove files of interrupted runs. ``stack`` closes it and removes the spool.

        Raises LedgerError or OSError if the directory cannot be used.
        """
        super().__init__(directory)
        stack.callback(self.close)
        self.spool = self.prepare()
        stack.callback(shutil.rmtree, self.spool, ignore_errors=True)
        self.new_snapshots = self.snapshots
        self.last_snapshots = self.finished_snapshots()

    def save_sources(self, states: Iterable[SourceState]) -> None:
        """Record the state of each source, in one transaction for each."""
        for state in states:
            self.save_source(state)

    def sweep(self, target: Target) -> None:
        """Remove what killed runs left beside the map."""
        target.sweep()
        beside.sweep(state_file(target.named))

    def numbered(self, holds: Iterable[Hold]) -> tuple[Hold, ...]:
        """Return the holds unchanged: each will be recorded, so that its ID can be approved."""
        return tuple(holds)

    def keep_copy(self, text: Path, digest: str) -> Note:
        """Copy a changed text of the map into the directory ``adopted``, once for each digest. Return a note."""
        copy = self.directory / "adopted" / f"{text.name}-{digest[:12]}"
        copy.parent.mkdir(mode=0o750, exist_ok=True)
        if not copy.exists():
            atomic.sweep_halves(copy.parent)
            with atomic.replacing(copy, 0o640) as file:
                file.writelines(atomic.chunks_in(text))
        return Note("map-changed", str(text), detail=str(copy))


class DryState(State):
    """The state directory of a dry run: open for reading. Methods that would write do nothing."""

    is_dry = True

    def __init__(self, directory: Path, stack: contextlib.ExitStack) -> None:
        """Open the directory for reading.

        Raises LedgerError if the database cannot be read.
        """
        Ledger.__init__(self, directory, write=False)
        stack.callback(self.close)
        self.spool = Path(tempfile.mkdtemp(prefix="syncagent-plan-"))
        stack.callback(_remove, self.spool)
        self.new_snapshots = self.spool
        self.last_snapshots = self.finished_snapshots()

    def save_source(self, state: SourceState) -> None:
        """Do nothing, since this is a dry run."""

    def save_holds(self, holds: Iterable[Hold]) -> None:
        """Do nothing, since this is a dry run."""

    def remember(self, identity: Identity, gap: Gap | None, clock: float) -> None:  # noqa: ARG002 - as in State
        """Use the identity and the gap in this run. Nothing is recorded."""
        self.identity, self.gap = identity, gap

    def intend(self, digest: str) -> None:
        """Do nothing, since this is a dry run."""

    def sweep(self, target: Target) -> None:
        """Do nothing, since this is a dry run."""

    def numbered(self, holds: Iterable[Hold]) -> tuple[Hold, ...]:
        """Return the holds. A hold that is not recorded cannot be approved, so its ID is empty."""
        return tuple(hold if hold.id in self.holds else hold.without_id() for hold in holds)

    def keep_copy(self, text: Path, digest: str) -> Note:  # noqa: ARG002 - as in State
        """Return a note that a run would keep a copy. Nothing is copied."""
        return Note("map-changed-dry", str(text))

    def settle(self, run: RunRow) -> None:
        """Do nothing, since this is a dry run."""

    def save_concerns(self, source: str, domains: Iterable[str]) -> None:
        """Do nothing, since this is a dry run."""

    def save_doubt(self, record: DoubtRecord) -> None:
        """Do nothing, since this is a dry run."""

    def approve_rejects(self, source: str, digests: Iterable[str], now: float) -> None:
        """Do nothing, since this is a dry run."""

    def end_approvals(self, source: str, digests: Iterable[str]) -> None:
        """Do nothing, since this is a dry run."""

    def save_held_rejects(self, held: Mapping[str, Collection[str]]) -> None:
        """Do nothing, since this is a dry run."""

    def add_doubtful(self, addresses: Iterable[tuple[str, str, float, float]]) -> None:
        """Do nothing, since this is a dry run."""

    def keep_doubtful(self, addresses: Collection[tuple[str, str, float, float]]) -> None:
        """Do nothing, since this is a dry run."""

    def record_events(self, events: Iterable[Event]) -> None:
        """Do nothing, since this is a dry run."""

    def record_failure(self, run: RunRow) -> None:
        """Do nothing, since this is a dry run."""

    def record(
        self,
        run: RunRow,
        finished: Finished,
        holds: Iterable[Hold],
        changes: Iterable[DomainRow],
        recipients: Iterable[tuple[str, bool, str]],
    ) -> None:
        """Do nothing, since this is a dry run."""


@contextlib.contextmanager
def open_state(directory: Path, *, write: bool, lock_timeout: float) -> Iterator[State]:
    """Lock the state directory, and yield the State of a run, or a DryState without ``write``.

    The lock is exclusive if ``write``, else shared; without permission to lock, reading goes on without a lock.
    Raises LockBusyError after ``lock_timeout`` seconds, and LedgerError if the directory cannot be used. Raises
    LedgerDamagedError if the block finds the database damaged: the database is then renamed, ``notes`` of the error
    report it, and the run may be repeated.
    """
    with ledger_errors(directory), contextlib.ExitStack() as stack:
        if write:
            directory.mkdir(mode=0o750, parents=True, exist_ok=True)
            stack.enter_context(atomic.locked(directory / LOCK, lock_timeout))
        else:  # without permission to lock there is no lock: a run at the same time may make this one fail
            with contextlib.suppress(FileNotFoundError, PermissionError):
                stack.enter_context(atomic.locked(directory / LOCK, lock_timeout, shared=True))
        try:
            with contextlib.ExitStack() as opened:
                yield (State if write else DryState)(directory, opened)
        except LedgerDamagedError as damage:
            damage.notes = _set_aside(directory, damage, write=write)
            raise


def _set_aside(directory: Path, damage: LedgerDamagedError, *, write: bool) -> tuple[Note, ...]:
    """Rename a database that is damaged on a second look too. Return the notes of it.

    Raises LedgerError if it is not damaged, or if ``write`` is False.
    """
    with contextlib.closing(Ledger(directory, write=write)) as ledger:
        if all(note.kind != "state-damaged" for note in ledger.notes):  # otherwise it is renamed already
            ledger.set_aside(damage)
        return tuple(ledger.notes)


@contextlib.contextmanager
def writing_doubt(directory: Path, timeout: float = _WRITING) -> Iterator[None]:
    """Hold the lock under which the doubt table and ``by-hand`` are read and written, also without the lock of a run.

    Raises LockBusyError after ``timeout`` seconds, and LedgerError if the state directory cannot be used.
    """
    with ledger_errors(directory):
        directory.mkdir(mode=0o750, parents=True, exist_ok=True)
    with atomic.locked(directory / DOUBT_LOCK, timeout):
        yield


def _remove(directory: Path) -> None:
    """Remove a directory into which a thread of an interrupted run may still write. An OSError is ignored."""
    for _ in range(_TRIES):
        shutil.rmtree(directory, ignore_errors=True)
        if not directory.exists():
            return
        time.sleep(_PAUSE)


def sweep_doubt(directory: Path, name: MapName, settings: Callable[[MapName], TableSettings]) -> None:
    """Remove the staging directories of killed runs beside the doubt table, unless another process writes it."""
    with contextlib.suppress(LockBusyError), writing_doubt(directory, 0):
        for table in Files(name).tables:
            Target(settings(table)).sweep()


def sweep(directory: Path, postfix: Postfix) -> None:
    """Remove staging and spool directories of interrupted runs. Do nothing if another run holds the lock.

    An OSError is ignored.
    """
    with contextlib.suppress(OSError, LockBusyError), atomic.locked(directory / LOCK, 0):
        for name in filter(None, (postfix.map, postfix.domains_map)):
            Target(postfix.settings(name)).sweep()
        if postfix.doubt_map:
            sweep_doubt(directory, postfix.doubt_map, postfix.settings)
        for left in directory.glob(f"{SPOOL}*"):
            shutil.rmtree(left, ignore_errors=True)
