"""The state between runs: rows in ``state.db``, lists in sorted files beside it.

A file is complete, under a unique name, before the row that refers to it is committed. A file that no row refers to
is an orphan of an interrupted run; the next run removes it. If the whole state is lost, the next run fetches every
source completely and the history is gone, but no recipient is lost.
"""

from __future__ import annotations

import contextlib
import gzip
import os
import re
import shutil
import sqlite3
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec

from syncagent.errors import DamagedError, LedgerDamagedError, LedgerError
from syncagent.files import atomic, pipeline, sorted_lines
from syncagent.model import Hold, Note, SourceState
from syncagent.state import rejects
from syncagent.state.identity import Gap, Identity
from syncagent.state.records import DoubtRecord, Event, Finished, ListFile, Printed, RunRow

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Mapping

    from syncagent.model import NoteKind
    from syncagent.state.records import DomainRow

_SCHEMA = """
CREATE TABLE IF NOT EXISTS meta (key TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS source (name TEXT PRIMARY KEY, state TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS hold (id TEXT PRIMARY KEY, state TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS run (id TEXT PRIMARY KEY, started REAL NOT NULL, finished REAL NOT NULL,
    status TEXT NOT NULL, exit_code INTEGER NOT NULL, added INTEGER NOT NULL, removed INTEGER NOT NULL,
    error TEXT NOT NULL, changes_file TEXT);
CREATE TABLE IF NOT EXISTS change (run TEXT NOT NULL, at REAL NOT NULL, domain TEXT NOT NULL,
    before INTEGER NOT NULL, added INTEGER NOT NULL, removed INTEGER NOT NULL, approved INTEGER NOT NULL);
CREATE INDEX IF NOT EXISTS change_at ON change (at);
CREATE TABLE IF NOT EXISTS recipient (run TEXT NOT NULL, address TEXT NOT NULL, added INTEGER NOT NULL,
    sources TEXT NOT NULL DEFAULT '');
CREATE INDEX IF NOT EXISTS recipient_address ON recipient (address);
"""
_OF_DOUBT = """
CREATE TABLE IF NOT EXISTS concern (source TEXT NOT NULL, domain TEXT NOT NULL, PRIMARY KEY (source, domain));
CREATE TABLE IF NOT EXISTS doubt (address TEXT PRIMARY KEY, domain TEXT NOT NULL, since REAL NOT NULL,
    until REAL NOT NULL);
CREATE TABLE IF NOT EXISTS event (at REAL NOT NULL, kind TEXT NOT NULL, subject TEXT NOT NULL, detail TEXT NOT NULL);
"""
"""Tables that are created when a doubt table is first published."""
_OF_REJECTS = """
CREATE TABLE IF NOT EXISTS held_reject (hold TEXT NOT NULL, digest TEXT NOT NULL, PRIMARY KEY (hold, digest));
CREATE TABLE IF NOT EXISTS approved_reject (source TEXT NOT NULL, digest TEXT NOT NULL, at REAL NOT NULL,
    PRIMARY KEY (source, digest));
"""
"""Tables that are created when rejected entries are first held."""
_MIGRATION = "ALTER TABLE recipient ADD COLUMN sources TEXT NOT NULL DEFAULT '';"
VERSION = 2
_READ_AT_ONCE = {"source": {"name", "state"}, "hold": {"id", "state"}, "meta": {"key", "value"}}
_PRIMARY = 0xFF
"""Mask of the primary code in an extended result code of SQLite."""
_BUSY_SECONDS = 5.0
_LEAP = 10
"""Number of recorded runs by a wrong clock before the history is deleted by it."""
SPOOL = ".spool-"
_OURS = re.compile(r"-\d{8}T\d{6}Z-[0-9a-f]{6}$|^\d{8}T\d{6}Z-[0-9a-f]{6}\.gz$")
_T = TypeVar("_T")


class Ledger:
    """An open state directory: the database and the sorted files. ``notes`` lists the damage found in it."""

    def __init__(self, directory: Path, *, write: bool = True) -> None:
        """Open the database, and create it if it is missing.

        With ``write=False`` nothing is created, and a missing database reads as an empty one. A damaged database is
        renamed and a new one created. Raises LedgerError if the database cannot be used, or if it is damaged and
        ``write`` is False.
        """
        self.directory, self._write = directory, write
        self.snapshots, self.lists, self.changes = (directory / name for name in ("snapshots", "lists", "changes"))
        self.notes: list[Note] = []
        self._file = directory / "state.db"
        try:
            self._open()
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode == sqlite3.SQLITE_ERROR and self._lacks_columns():
                self.set_aside(error)
                self._open()
                return
            remedy = _remedy(error, self._file)
            if not self._write and error.sqlite_errorcode & _PRIMARY == sqlite3.SQLITE_READONLY:  # a hot journal
                remedy = "; a run was interrupted: the next `syncagent sync` repairs it"
            raise LedgerError(f"{self._file} cannot be opened: {error}{remedy}") from error
        except (sqlite3.DatabaseError, msgspec.DecodeError, LedgerDamagedError) as error:
            self.set_aside(error)
            self._open()
        except OSError as error:
            raise _unusable(directory, error) from error

    def _open(self) -> None:
        try:
            self._file.stat()
            there = True
            for file in (self._file, self._file.with_name("state.db-journal")):  # SQLite would block on a FIFO
                atomic.check_regular(file)
        except FileNotFoundError:  # not PermissionError: the file may exist
            there = False
        uri = self._file.absolute().as_uri()
        source = uri if self._write else f"{uri}?mode=ro" if there else ":memory:"
        if there and not self._file.stat().st_size:
            self.notes.append(Note("state-empty", str(self._file)))
        self._database = sqlite3.connect(source, uri=True, timeout=_BUSY_SECONDS, isolation_level=None)
        self._database.execute("PRAGMA synchronous=FULL")
        self._database.execute("PRAGMA secure_delete=ON")  # an older version may have recorded a secret
        (version,) = self._database.execute("PRAGMA user_version").fetchone()
        if not version and (self._write or not there):
            self._database.executescript(f"BEGIN IMMEDIATE; {_SCHEMA} PRAGMA user_version={VERSION}; COMMIT")
        elif version == 1 and self._write:
            self._database.executescript(f"BEGIN IMMEDIATE; {_MIGRATION} PRAGMA user_version={VERSION}; COMMIT")
        elif version not in {1, VERSION}:
            text = f"{self._file} is of version {version}, this syncagent knows {VERSION}: move it away to start anew"
            raise LedgerError(text)
        if self._write:
            self._file.chmod(0o640)
        self.sources = {
            name: _decode(state, SourceState) for name, state in self._rows("SELECT name, state FROM source")
        }
        recorded = {key: _decode(state, Hold) for key, state in self._rows("SELECT id, state FROM hold")}
        self.holds = {key: rejects.hidden_in(hold) for key, hold in recorded.items()}
        if self._write:
            self.save_holds([hold for key, hold in self.holds.items() if hold != recorded[key]])
        self.finished = self._meta("finished", Finished)
        self.doubt = self._meta("doubt", DoubtRecord) or DoubtRecord()
        self.identity, self.gap = self._meta("identity", Identity), self._meta("gap", Gap)
        self.clock = self._meta("clock", float) or 0.0
        self.is_new = self.identity is None and self.finished is None and not self.sources

    def _meta(self, key: str, kind: type[_T]) -> _T | None:
        """Return the value of a row of ``meta``, None if there is no such row."""
        rows = self._rows("SELECT value FROM meta WHERE key = ?", (key,))
        return _decode(rows[0][0], kind) if rows else None

    def set_aside(self, error: Exception) -> None:
        """Close the damaged database, and rename it if it is damaged on a second look too.

        Raises LedgerError if it is not, or if the ledger is open for reading only: an error of reading is no damage.
        """
        self._close_if_open()
        if not self._is_damaged():
            text = f"{self._file} could not be read ({error}); on a second look it is whole, and stays where it is"
            raise LedgerError(f"{text}: run again, and look for errors of the disk: dmesg") from error
        if not self._write:
            raise LedgerError(f"{self._file} is damaged ({error}): the next `syncagent sync` rebuilds it") from error
        aside = self._name_aside()
        self._file.rename(aside)
        with contextlib.suppress(FileNotFoundError):
            self._file.with_name("state.db-journal").unlink()
        self.notes.append(Note("state-damaged", aside.name, detail=str(error)))

    def _close_if_open(self) -> None:
        with contextlib.suppress(AttributeError):
            self._database.close()

    def _is_damaged(self) -> bool:
        """Look at the database a second time, by a new connection. True if it is damaged.

        SQLite reports an EIO of read(2) as damage. The octets are therefore read before and after, without SQLite.
        Raises LedgerError if they, or the database, cannot be read.
        """
        self._read_octets()
        try:
            self._open()
            verdict = self._rows("PRAGMA integrity_check(1)")
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode == sqlite3.SQLITE_ERROR and self._lacks_columns():
                return True
            raise LedgerError(f"{self._file} cannot be read: {error}{_remedy(error, self._file)}") from error
        except (sqlite3.DatabaseError, msgspec.DecodeError, LedgerDamagedError):
            verdict = []
        finally:
            self._close_if_open()
        self._read_octets()
        return verdict != [("ok",)]

    def _read_octets(self) -> None:
        """Read database and journal to their ends. Raises LedgerError if that fails."""
        for file in (self._file, self._file.with_name("state.db-journal")):
            try:
                with contextlib.suppress(FileNotFoundError), atomic.open_foreign(file) as stream:
                    place = 0
                    while octets := os.pread(stream.fileno(), pipeline.CHUNK, place):
                        place += len(octets)
            except OSError as error:
                text = f"{file} cannot be read: {error.strerror}; it stays where it is"
                raise LedgerError(f"{text}: look for errors of the disk: dmesg") from error

    def _name_aside(self) -> Path:
        """Return an unused path for a damaged database."""
        name = f"state.db.damaged-{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime())}"
        names = (
            self._file.with_name(f"{name}{suffix}") for suffix in ("", *(f"-{number}" for number in range(2, 1000)))
        )
        return next(path for path in names if not path.exists())

    def _lacks_columns(self) -> bool:
        """True if a table that ``_open`` reads is missing or lacks a column."""
        return any(
            not columns <= {name for (name,) in self._rows("SELECT name FROM pragma_table_info(?)", (table,))}
            for table, columns in _READ_AT_ONCE.items()
        )

    def close(self) -> None:
        """Close the database."""
        self._database.close()

    def _rows(self, statement: str, values: tuple[object, ...] = ()) -> list[tuple[Any, ...]]:
        try:
            return self._database.execute(statement, values).fetchall()
        except sqlite3.DatabaseError as error:
            if type(error) is sqlite3.DatabaseError:  # the class itself, not a subclass: damage
                raise LedgerDamagedError(str(error)) from error
            raise

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        try:
            self._database.execute("BEGIN IMMEDIATE")
            try:
                yield self._database
            except BaseException:
                with contextlib.suppress(sqlite3.Error):  # SQLite has rolled back itself, for example on a full disk
                    self._database.execute("ROLLBACK")
                raise
            self._database.execute("COMMIT")
        except sqlite3.Error as error:
            if type(error) is sqlite3.DatabaseError:  # the class itself, not a subclass: damage
                raise LedgerDamagedError(str(error)) from error
            raise LedgerError(f"{self._file} cannot be written: {error}{_remedy(error, self._file)}") from error

    def save_source(self, state: SourceState) -> None:
        """Record the state of a source in one transaction. The file of its snapshot must be in place."""
        with self._transaction() as database:
            database.execute("INSERT OR REPLACE INTO source VALUES (?, ?)", (state.name, _encode(state)))
        self.sources[state.name] = state

    def save_holds(self, holds: Collection[Hold]) -> None:
        """Record holds anew, such as with their approvals. They must be recorded under their IDs already."""
        if holds:
            with self._transaction() as database:
                rows = [(_encode(hold), hold.id) for hold in holds]
                database.executemany("UPDATE hold SET state = ? WHERE id = ?", rows)
            self.holds.update({hold.id: hold for hold in holds})

    def record_division(self, finished: Finished | None, holds: Collection[Hold]) -> None:
        """Record holds, of which some may be new, and the last finished run with another list of kept recipients."""
        with self._transaction() as database:
            if finished:
                database.execute("INSERT OR REPLACE INTO meta VALUES ('finished', ?)", (_encode(finished),))
            rows = [(hold.id, _encode(hold)) for hold in holds]
            database.executemany("INSERT OR REPLACE INTO hold VALUES (?, ?)", rows)
        self.finished = finished
        self.holds.update({hold.id: hold for hold in holds})

    def finished_snapshots(self) -> dict[str, Path]:
        """Return the snapshot files of the last finished run, by source; those of the sources if none is recorded."""
        held = {name: state.snapshot.file for name, state in self.sources.items() if state.snapshot}
        files = held | (self.finished.snapshot_files if self.finished else {})
        return {name: self.snapshots / file for name, file in files.items()}

    def window(self, since: float) -> dict[str, tuple[int, int]]:
        """Return (number added, number removed) by domain, for changes after ``since``.

        Additions to an empty domain and approved removals do not count.
        """
        rows = self._rows(
            "SELECT domain, SUM(CASE WHEN before = 0 THEN 0 ELSE added END), SUM(removed - approved)"
            " FROM change WHERE at > ? GROUP BY domain",
            (since,),
        )
        return {domain: (added, removed) for domain, added, removed in rows}

    def oldest_change(self, since: float) -> float | None:
        """Return the time of the first change after ``since``, None if there is none."""
        ((first,),) = self._rows("SELECT MIN(at) FROM change WHERE at > ?", (since,))
        return None if first is None else float(first)

    def last_change(self) -> float:
        """Return the end of the last run that published, in seconds since the epoch; 0 if the history has none."""
        ((found,),) = self._rows("SELECT MAX(finished) FROM run WHERE status = 'published'")
        return float(found or 0)

    def standing_failure(self) -> str:
        """Return the error of the last recorded run if it failed to publish, else ""."""
        rows = self._rows("SELECT status, error FROM run ORDER BY finished DESC LIMIT 1")
        return str(rows[0][1]) if rows and rows[0][0] == "failed" else ""

    def runs(self, since: float) -> list[RunRow]:
        """Return the recorded runs that started at or after ``since``, oldest first."""
        rows = self._rows(
            "SELECT id, started, status, exit_code, added, removed, error, changes_file FROM run"
            " WHERE started >= ? ORDER BY started",
            (since,),
        )
        return [RunRow(*row) for row in rows]

    def first_import(self) -> str:
        """Return the ID of the run that first published the map, "" if it is not recorded."""
        rows = self._rows(
            "SELECT id FROM run WHERE status = 'published' AND id NOT IN (SELECT run FROM recipient)"
            " AND changes_file IS NULL AND added > 0 AND removed = 0 ORDER BY started LIMIT 1"
        )
        return str(rows[0][0]) if rows else ""

    def first_time(self) -> float:
        """Return the start of the oldest recorded run, in seconds since the epoch; 0 if there is none."""
        ((found,),) = self._rows("SELECT MIN(started) FROM run")
        return float(found or 0)

    def recipients(self, run: str, address: str | None) -> Iterator[tuple[str, int, str]]:
        """Yield the changes of a run as (address, 1 if added or 0 if removed, comma-separated sources), domains first.

        ``address`` limits them to one address; None yields all.
        """
        name = "sources" if self._rows("SELECT 1 FROM pragma_table_info('recipient') WHERE name = 'sources'") else "''"
        where, values = ("", (run,)) if address is None else (" AND address = ?", (run, address))
        query = f"SELECT address, added, {name} FROM recipient WHERE run = ?{where}"  # noqa: S608 - constant names
        query += " ORDER BY instr(address, '@') > 0, added DESC, address"
        yield from self._database.execute(query, values)

    def settle(self, run: RunRow) -> None:
        """Record an unchanged run if the last recorded run failed to publish. This ends ``standing_failure``."""
        if self._write and self.standing_failure():
            self.record_failure(run)

    def record(
        self,
        run: RunRow,
        finished: Finished,
        holds: Iterable[Hold],
        changes: Iterable[DomainRow],
        recipients: Iterable[tuple[str, bool, str]],
    ) -> None:
        """Record a finished run in one transaction. ``holds`` replace the recorded holds and their approvals."""
        now = time.time()
        with self._transaction() as database:
            database.execute("INSERT OR REPLACE INTO meta VALUES ('finished', ?)", (_encode(finished),))
            if self.identity:
                self.identity = self.identity.settled()
                database.execute("INSERT OR REPLACE INTO meta VALUES ('identity', ?)", (_encode(self.identity),))
            database.execute("DELETE FROM hold")
            database.executemany("INSERT INTO hold VALUES (?, ?)", [(hold.id, _encode(hold)) for hold in holds])
            gone = [(name,) for name in self.sources if name not in finished.snapshots]
            database.executemany("DELETE FROM source WHERE name = ?", gone)
            for table in ("concern", "approved_reject") if gone else ():
                if self._has_table(table):
                    database.executemany(f"DELETE FROM {table} WHERE source = ?", gone)  # noqa: S608 - our names
            rows = [
                (run.id, run.started, row.domain, row.before, row.added, row.removed, row.approved) for row in changes
            ]
            database.executemany("INSERT INTO change VALUES (?, ?, ?, ?, ?, ?, ?)", rows)
            database.executemany(
                "INSERT INTO recipient VALUES (?, ?, ?, ?)", ((run.id, *change) for change in recipients)
            )
            _insert_run(database, run, now)

    def remember(self, identity: Identity, gap: Gap | None, clock: float) -> None:
        """Record in one transaction: the identity, the gap in what the state knows (None: none), the run's clock."""
        with self._transaction() as database:
            rows = [("identity", _encode(identity)), ("clock", _encode(clock))]
            rows += [("gap", _encode(gap))] if gap else []
            database.executemany("INSERT OR REPLACE INTO meta VALUES (?, ?)", rows)
            if not gap:
                database.execute("DELETE FROM meta WHERE key = 'gap'")
        self.identity, self.gap = identity, gap

    def intend(self, digest: str) -> None:
        """Record that a map with this digest is about to be renamed into place."""
        if self.identity is None:
            return
        identity = self.identity.intends(digest)
        with self._transaction() as database:
            database.execute("INSERT OR REPLACE INTO meta VALUES ('identity', ?)", (_encode(identity),))
        self.identity = identity

    def approved_rejects(self, source: str) -> frozenset[str]:
        """Return the digests of the rejected entries of a source that a person has approved."""
        if not self._has_table("approved_reject"):
            return frozenset()
        rows = self._rows("SELECT digest FROM approved_reject WHERE source = ?", (source,))
        return frozenset(digest for (digest,) in rows)

    def approve_rejects(self, source: str, digests: Iterable[str], now: float) -> None:
        """Record the approval of rejected entries of a source, at time ``now``."""
        rows = [(source, digest, now) for digest in digests]
        if rows:
            with self._transaction() as database:
                database.executemany("INSERT OR REPLACE INTO approved_reject VALUES (?, ?, ?)", rows)

    def end_approvals(self, source: str, digests: Iterable[str]) -> None:
        """Delete the approval of rejected entries of a source, which are recipients now."""
        rows = [(source, digest) for digest in digests]
        if rows:
            with self._transaction() as database:
                database.executemany("DELETE FROM approved_reject WHERE source = ? AND digest = ?", rows)

    def held_rejects(self, hold_id: str) -> frozenset[str]:
        """Return the digests of the rejected entries that were held under an ID."""
        if not self._has_table("held_reject"):
            return frozenset()
        rows = self._rows("SELECT digest FROM held_reject WHERE hold = ?", (hold_id,))
        return frozenset(digest for (digest,) in rows)

    def save_held_rejects(self, held: Mapping[str, Collection[str]]) -> None:
        """Record the digests of the entries that holds are of, by ID, before the holds are recorded.

        Those of IDs that no recorded hold has or had are deleted.
        """
        if held and not self._has_table("held_reject"):
            self._database.executescript(f"BEGIN IMMEDIATE; {_OF_REJECTS} COMMIT")
        if not self._has_table("held_reject"):
            return
        known = {hold for (hold,) in self._rows("SELECT DISTINCT hold FROM held_reject")}
        shown = {one.id for hold in self.holds.values() for one in hold.shown}
        over = [(hold,) for hold in known - held.keys() - self.holds.keys() - shown]
        rows = [(hold, digest) for hold, digests in held.items() if hold not in known for digest in digests]
        if over or rows:
            with self._transaction() as database:
                database.executemany("DELETE FROM held_reject WHERE hold = ?", over)
                database.executemany("INSERT OR IGNORE INTO held_reject VALUES (?, ?)", rows)

    def begin_doubt(self) -> None:
        """Create the tables that doubt needs, unless they exist."""
        if not self._has_table("event"):
            self._database.executescript(f"BEGIN IMMEDIATE; {_OF_DOUBT} COMMIT")

    def concerns(self, source: str) -> frozenset[str]:
        """Return the recorded domains of a source: those in which it has or had recipients."""
        if not self._has_table("concern"):
            return frozenset()
        return frozenset(domain for (domain,) in self._rows("SELECT domain FROM concern WHERE source = ?", (source,)))

    def save_concerns(self, source: str, domains: Iterable[str]) -> None:
        """Record further domains of a source."""
        with self._transaction() as database:
            database.executemany("INSERT OR IGNORE INTO concern VALUES (?, ?)", ((source, name) for name in domains))

    def save_doubt(self, record: DoubtRecord) -> None:
        """Record the doubt table, unless nothing in the record has changed."""
        if record != self.doubt:
            with self._transaction() as database:
                database.execute("INSERT OR REPLACE INTO meta VALUES ('doubt', ?)", (_encode(record),))
            self.doubt = record

    def printed(self) -> dict[str, Printed]:
        """Return the conditions that `sync --quiet` has printed, by their identity; none if that cannot be read."""
        rows = self._rows("SELECT value FROM meta WHERE key = 'printed'")
        with contextlib.suppress(msgspec.DecodeError):
            return _decode(rows[0][0], dict[str, Printed]) if rows else {}
        return {}

    def save_printed(self, printed: dict[str, Printed]) -> None:
        """Record the conditions that `sync --quiet` has printed."""
        with self._transaction() as database:
            database.execute("INSERT OR REPLACE INTO meta VALUES ('printed', ?)", (_encode(printed),))

    def doubtful(self) -> list[tuple[str, str, float, float]]:
        """Return (address, domain, since, until) of each removed address that is in doubt by itself."""
        if not self._has_table("doubt"):
            return []
        return self._rows("SELECT address, domain, since, until FROM doubt")

    def add_doubtful(self, addresses: Iterable[tuple[str, str, float, float]]) -> None:
        """Record removed addresses as (address, domain, since, until)."""
        with self._transaction() as database:
            database.executemany("INSERT OR REPLACE INTO doubt VALUES (?, ?, ?, ?)", addresses)

    def keep_doubtful(self, addresses: Collection[tuple[str, str, float, float]]) -> None:
        """Delete the removed addresses that are in doubt, but for these."""
        staying = {address for address, _, _, _ in addresses}
        over = [(address,) for address, _, _, _ in self.doubtful() if address not in staying]
        if over:
            with self._transaction() as database:
                database.executemany("DELETE FROM doubt WHERE address = ?", over)

    def record_events(self, events: Iterable[Event]) -> None:
        """Record events in the history."""
        rows = [(event.at, event.kind, event.subject, event.detail) for event in events]
        if rows:
            self.begin_doubt()
            with self._transaction() as database:
                database.executemany("INSERT INTO event VALUES (?, ?, ?, ?)", rows)

    def events(self, since: float) -> list[Event]:
        """Return the events at or after ``since``, oldest first."""
        if not self._has_table("event"):
            return []
        rows = self._rows("SELECT at, kind, subject, detail FROM event WHERE at >= ? ORDER BY at, rowid", (since,))
        return [Event(*row) for row in rows]

    def _has_table(self, name: str) -> bool:
        """True if the table exists: those of doubt are created when they are first used."""
        return bool(self._rows("SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = ?", (name,)))

    def forget(self, now: float, history: float) -> None:
        """Delete what is older than ``history``, in seconds. The next run removes files that no row refers to any more.

        The age counts to the oldest of the last ten recorded runs, so that a clock that leaped ahead for some runs
        deletes nothing that is younger.
        """
        query = "SELECT MIN(started) FROM (SELECT started FROM run ORDER BY rowid DESC LIMIT ?)"
        ((oldest,),) = self._rows(query, (_LEAP,))
        before = (now if oldest is None else min(now, oldest)) - history
        if self._has_table("event"):
            with self._transaction() as database:
                database.execute("DELETE FROM event WHERE at < ?", (before,))
        if not self._rows("SELECT 1 FROM run WHERE started < ? LIMIT 1", (before,)):
            return
        with self._transaction() as database:
            database.execute("DELETE FROM recipient WHERE run IN (SELECT id FROM run WHERE started < ?)", (before,))
            database.execute("DELETE FROM change WHERE at < ?", (before,))
            database.execute("DELETE FROM run WHERE started < ?", (before,))

    def record_failure(self, run: RunRow) -> None:
        """Record a run in the history only: a run that failed, or one that ends a failure (see ``settle``)."""
        with self._transaction() as database:
            _insert_run(database, run, time.time())

    def new_list(self, kind: str, run_id: str, chunks: Iterable[bytes]) -> ListFile:
        """Write a sorted list. Return its file name, count and digest, which ``record`` must then refer to."""
        written = sorted_lines.write_sorted(self.lists / f"{kind}-{run_id}", chunks)
        return ListFile(written.path.name, written.count, written.digest)

    def keep_changes(self, run_id: str, changes: Iterable[tuple[str, bool, str]]) -> str:
        """Write the changes of a run to a gzip file, and return its name.

        Each line is ``+ADDRESS TAB SOURCES`` for an addition, ``-ADDRESS TAB SOURCES`` for a removal.
        """
        file = self.changes / f"{run_id}.gz"
        with atomic.replacing(file, 0o640) as whole, gzip.open(whole, "wb", compresslevel=1) as out:
            lines = (f"{'+' if new else '-'}{address}\t{said}\n".encode() for address, new, said in changes)
            for chunk in pipeline.joined_lines(lines):
                out.write(chunk)
        return file.name

    def open_list(self, listed: ListFile | None, kind: NoteKind) -> sorted_lines.SortedFile | None:
        """Verify and return a list of the last finished run. If damaged, add a note of this kind and return None."""
        if listed is None:
            return None
        try:
            return sorted_lines.verify(self.lists / listed.name, listed.digest)
        except DamagedError as error:
            self.notes.append(Note(kind, listed.name, detail=str(error)))
            return None

    def kept_lines(self) -> Iterator[bytes]:
        """Yield the lines of the recipients that the last finished run kept. Raises LedgerError if that is damaged."""
        if self.finished is None:
            return
        kept = self.finished.kept
        try:
            listed = sorted_lines.verify(self.lists / kept.name, kept.digest)
        except DamagedError as error:
            raise LedgerError(f"what is held cannot be read: {error}: run 'syncagent sync'") from None
        for chunk in pipeline.whole_lines(sorted_lines.chunks_of(listed)):
            yield from chunk.splitlines()

    def prepare(self) -> Path:
        """Create the directories and remove files of interrupted runs. Return a new spool directory for this run."""
        referred = {state.snapshot.file for state in self.sources.values() if state.snapshot}
        if self.finished:
            referred |= {self.finished.kept.name, self.finished.published.name}
            referred |= set(self.finished.snapshot_files.values())
        referred |= {row[0] for row in self._rows("SELECT changes_file FROM run WHERE changes_file IS NOT NULL")}
        for directory in (self.snapshots, self.lists, self.changes):
            directory.mkdir(mode=0o750, exist_ok=True)
            atomic.sweep_halves(directory)
            for file in directory.iterdir():
                if file.name not in referred and _OURS.search(file.name):
                    file.unlink()
        for left in self.directory.glob(f"{SPOOL}*"):
            shutil.rmtree(left)
        return Path(tempfile.mkdtemp(prefix=SPOOL, dir=self.directory))


@contextlib.contextmanager
def ledger_errors(state: Path) -> Iterator[None]:
    """Convert an OSError or sqlite3.Error of the block to LedgerError."""
    try:
        yield
    except OSError as error:
        raise _unusable(state, error) from error
    except sqlite3.Error as error:
        raise LedgerError(f"{state}/state.db: {error}{_remedy(error, state / 'state.db')}") from error


def _remedy(error: sqlite3.Error, file: Path) -> str:
    """Return the remedy for an SQLite error, by its primary result code; "" if there is none."""
    code = getattr(error, "sqlite_errorcode", 0) & _PRIMARY
    if code == sqlite3.SQLITE_BUSY:
        return f"; another process has it open: fuser -v {file}"
    return "; make room on the disk" if code == sqlite3.SQLITE_FULL else ""


def _unusable(state: Path, error: OSError) -> LedgerError:
    place = f": {error.filename}" if error.filename else ""
    return LedgerError(f"the state directory {state} cannot be used: {error.strerror}{place}; see state.directory")


@contextlib.contextmanager
def reading(directory: Path) -> Iterator[Ledger]:
    """Yield the ledger of a state directory, open for reading only. Raises LedgerError if it cannot be read."""
    with ledger_errors(directory), contextlib.closing(Ledger(directory, write=False)) as ledger:
        yield ledger


def _insert_run(database: sqlite3.Connection, run: RunRow, now: float) -> None:
    values = (
        run.id,
        run.started,
        now,
        run.status,
        run.exit_code,
        run.added,
        run.removed,
        run.error,
        run.changes_file,
    )
    database.execute("INSERT INTO run VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)", values)


def _encode(value: object) -> str:
    return msgspec.json.encode(value).decode()


def _decode(text: str, kind: type[_T]) -> _T:
    return msgspec.json.decode(text, type=kind)
