"""Fetch the sources in parallel, each with a deadline. An incomplete answer is a failure.

Deadlines and retry delays are handled here; a source only classifies its errors. After a source refuses the
credentials it is not asked again for an hour, unless its configuration, secret or recipe changes, because directories
lock accounts and mail servers ban hosts.
"""

from __future__ import annotations

import dataclasses
import hashlib
import os
import secrets
import tempfile
import threading
import time
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from msgspec.structs import replace

from syncagent import addresses as normalise
from syncagent import sources
from syncagent.errors import DamagedError, FailureKind, LedgerError, SourceError, SyncagentError
from syncagent.files import atomic, sorted_lines
from syncagent.files.search import SnapshotIndex
from syncagent.model import END_OF_TIME, Dates, Note, SourceReport, SourceState
from syncagent.redaction import has_secret, redacted, remember
from syncagent.state import content_age, conversion, looks, messages, rejects
from syncagent.state import incremental as amend
from syncagent.state.fields import escape
from syncagent.state.snapshot import SnapshotWriter, refused_by, rejects_of
from syncagent.sync import torn
from syncagent.values.types import RecipeFile, SecretFile, spell_seconds

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from syncagent.config.tables import SourceConfig
    from syncagent.model import Snapshot
    from syncagent.sources import Answer
    from syncagent.state.opened import State
    from syncagent.sync.run import Progress, Run

DEADLINE = 120.0
REFUSED_FOR = 3600.0
_MOST = 1 << 20  # octets read of a secret or a recipe; the source itself rejects a larger file
_ENDING = 1.0  # seconds to wait for the end of an abandoned fetch of the same source
_SHOWN = 60  # characters shown of a foreign name in a note
_WORD = 8  # octets of a secret that may as well be a word of a recorded error
_EXAMPLES = 3  # refused keys shown in a note
_LOOK = 0.5  # seconds between checks: a signal just before join(), or to another thread, does not end join()


@dataclass(frozen=True)
class Fetched:
    """The outcome of a source's fetch: report, state to record, snapshot file (None if there is none), its rejects."""

    report: SourceReport
    state: SourceState
    snapshot: Path | None
    rejected: rejects.Rejected = rejects.NONE
    approvals_ended: tuple[str, ...] = ()
    """The digests of entries that a person approved as rejected, and that are recipients now."""

    @property
    def is_failing(self) -> bool:
        """True if the source failed."""
        return self.report.state == "failing"

    @property
    def is_outdated(self) -> bool:
        """True if the data in use is outdated by its own dates."""
        return self.report.outdated


def all_sources(
    configured: Mapping[str, SourceConfig], state: State, run: Run, due: frozenset[str] | None, progress: Progress
) -> list[Fetched]:
    """Fetch every source that is due. Return an answer for each source, in the order of the configuration.

    A source that owes a confirming look is due as well. The states are not recorded. Notes are added to ``state``.
    Raises LedgerError if an answer cannot be stored.
    """
    owed = looks.due(state.finished.looks if state.finished else {}, state.sources, run.now)
    approved = {name: state.approved_rejects(name) for name in configured}
    fetcher = Fetcher(
        state.snapshots, state.new_snapshots, state.spool, run.id, run.now, progress, state.notes, due, owed, approved
    )
    answers = [with_age(answer, configured, run.now) for answer in fetcher.all(configured, state.sources)]
    state.notes += _ahead(answers)
    return answers


def with_age(answer: Fetched, configured: Mapping[str, SourceConfig], now: float) -> Fetched:
    """Return the answer with the age of its data in its report. It needs no fetch: data grows old by itself."""
    at = content_age.outdated_at(answer.state, configured[answer.report.name].common.content_max_age)
    made = content_age.data_made(answer.state)
    report = replace(answer.report, made=made, outdated_at=at, outdated=bool(at) and now >= at)
    return dataclasses.replace(answer, report=report)


def _ahead(answers: Sequence[Fetched]) -> list[Note]:
    """Return a note for each source whose data says that it was made in the future."""
    ahead = {
        answer.report.name: dates.made - dates.seen
        for answer in answers
        for dates in answer.state.dates.values()
        if content_age.is_ahead(dates)
    }
    return [Note("made-ahead", name, detail=spell_seconds(by)) for name, by in ahead.items()]


def verify_snapshots(answers: Sequence[Fetched], state: State) -> list[Fetched]:
    """Verify snapshots of earlier runs by their digests. Return the answers.

    A source whose snapshot is damaged fails in this run, and this is recorded. The next run fetches it completely.
    """
    return [_verified(answer, state) for answer in answers]


def _verified(answer: Fetched, state: State) -> Fetched:
    if answer.snapshot is None or answer.state.snapshot is None or answer.report.state == "whole":
        return answer  # no snapshot, or one that this run wrote
    try:
        sorted_lines.verify(answer.snapshot, answer.state.snapshot.digest)
    except DamagedError as error:
        text = f"its last list is damaged: {error}; the next run fetches it whole"
        state.notes.append(Note("snapshot-damaged", answer.report.name, detail=str(error)))
        report = replace(answer.report, state="failing", error=text, kind="temporary")
        state_now = replace(answer.state, snapshot=None, validator=None, error=text)
        failed = Fetched(report, state_now, None, answer.rejected)
        state.save_source(failed.state)
        return failed
    return answer


@dataclass
class Fetcher:
    """The fetches of one run. New snapshots are written to ``new``; those of earlier runs are in ``old``.

    ``due`` names the sources to fetch; None fetches all. A source that is not due keeps its last answer or failure.
    ``looks`` names those that are due for a confirming look: they are asked unconditionally, for everything.
    ``approved`` has the digests of rejected entries that a person approved, by source.
    """

    old: Path
    new: Path
    spool: Path
    run_id: str
    now: float
    report: Callable[[str, int], None]
    notes: list[Note] = field(default_factory=list)
    due: frozenset[str] | None = None
    looks: frozenset[str] = frozenset()
    approved: Mapping[str, frozenset[str]] = field(default_factory=dict)

    def all(self, configured: Mapping[str, SourceConfig], remembered: Mapping[str, SourceState]) -> list[Fetched]:
        """Fetch the sources that are due. Return an answer for each source, in the order of ``configured``.

        Raises LedgerError if an answer cannot be stored.
        """
        attempts = [
            _Attempt(self, source, remembered.get(name, SourceState(name))) for name, source in configured.items()
        ]
        try:
            for attempt in attempts:
                attempt.start()
            answers = [attempt.outcome() for attempt in attempts]
        finally:
            for attempt in attempts:
                attempt.give_up()
        return [self._with_rejects(*both) for both in zip(configured.values(), answers, strict=True)]

    def _with_rejects(self, source: SourceConfig, answer: Fetched) -> Fetched:
        """Return the answer with its rejected entries."""
        rejected = self.rejected(source, answer.snapshot, answer.report.rejected)
        report = replace(answer.report, rejected_held=rejected.held, rejected_ignored=rejected.ignored)
        return dataclasses.replace(answer, report=report, rejected=rejected)

    def rejected(self, source: SourceConfig, snapshot: Path | None, count: int) -> rejects.Rejected:
        """Return the ``count`` rejected entries in a snapshot.

        None if it cannot be read, which is found when it is verified.
        """
        approved = self.approved.get(source.name, frozenset())
        try:
            found = islice(rejects_of(snapshot, source.name), count) if snapshot and count else ()
            return rejects.of_source(found, approved, source.common.ignore, rejects.origin(source))
        except (OSError, ValueError):
            return rejects.NONE

    def usable(self, state: SourceState) -> SourceState:
        """Return the state, without snapshot and validator if the snapshot's file is missing or damaged.

        A file with the recorded identity is trusted; any other is verified by its digest.
        """
        if state.snapshot is None:
            return state
        path = self.old / state.snapshot.file
        if atomic.identity(path) == state.snapshot.identity:
            return state
        try:
            sorted_lines.verify(path, state.snapshot.digest)
        except DamagedError as error:
            self.notes.append(Note("snapshot-lost", state.name, detail=str(error)))
            return replace(state, snapshot=None, validator=None)
        return replace(state, snapshot=replace(state.snapshot, identity=atomic.identity(path) or ()))

    def path_of(self, snapshot: Snapshot) -> Path:
        """Return the file of a snapshot: one that this run has converted, or that of an earlier run."""
        converted = self.new / snapshot.file
        return converted if converted.exists() else self.old / snapshot.file

    def file_of(self, snapshot: Snapshot | None) -> Path | None:
        """Return the file of a snapshot, None without a snapshot."""
        return self.path_of(snapshot) if snapshot else None

    def converted(self, source: SourceConfig, state: SourceState) -> SourceState:
        """Return the state with its snapshot in the present canonical form, as it is if that cannot be had.

        The source is then asked for everything.
        """
        if state.snapshot is None or not conversion.is_convertible(state.normaliser):
            return state
        path, name = self.old / state.snapshot.file, f"{source.name}-{self.run_id}"
        try:
            if conversion.is_current(path):
                return replace(state, normaliser=normalise.VERSION)
            made = conversion.convert(path, self.writer(source), self.new / f"converted-{name}")
        except (SourceError, OSError, ValueError):
            return state
        return replace(state, snapshot=made, normaliser=normalise.VERSION)

    def writer(self, source: SourceConfig) -> SnapshotWriter:
        """Return the sink for an answer of a source."""
        ignore_catch_alls = source.common.catch_all == "ignore"
        return SnapshotWriter(self.spool, ignore_catch_alls=ignore_catch_alls, source=source.name)


class _Attempt:
    """The fetch of one source, in its own thread."""

    def __init__(self, fetcher: Fetcher, source: SourceConfig, recorded: SourceState) -> None:
        usable = fetcher.usable(recorded)
        state = fetcher.converted(source, usable)
        self._fetcher, self._source, self._state = fetcher, source, state
        self._before = usable.snapshot
        self._started = time.monotonic()
        self._asked = False
        self._error: SourceError | None = None
        self._fatal: LedgerError | None = None  # the answer could not be stored: not a failure of the source
        self._writer: SnapshotWriter | None = None
        self._done: Fetched | None = None
        digests = (state.config_digest, state.normaliser)
        self._last = state.snapshot if digests == (source.digest, normalise.VERSION) else None
        self._deadline = float(source.common.deadline or DEADLINE)
        self._validator = state.validator if self._last else None
        self._looks = source.name in fetcher.looks
        self._in_look = self._looks and self._validator is not None
        self._thread = threading.Thread(target=self._work, name=f"fetch {source.name}", daemon=True)

    def start(self) -> None:
        if self._rests():
            self._done = self._as_before()
            return
        refused = self._refused()
        if refused:
            self._error = SourceError(refused, kind=FailureKind.REFUSED)
            return
        self._writer = self._fetcher.writer(self._source)
        self._writer.origin = rejects.origin(self._source)
        self._writer.format = str(getattr(self._source.own, "format", None) or "")
        self._thread.start()

    def _rests(self) -> bool:
        """True if the source is not due, and its last answer or failure is recorded."""
        due = self._fetcher.due
        is_due = due is None or self._source.name in due or self._looks
        return not is_due and bool(self._last or self._state.error_kind)

    def _as_before(self) -> Fetched:
        state = self._state
        report = SourceReport(
            name=self._source.name,
            state="failing" if state.error_kind else "same",
            entries=state.snapshot.entries if state.snapshot else 0,
            rejected=state.snapshot.rejected if state.snapshot else 0,
            refused=state.snapshot.refused if state.snapshot else 0,
            error=state.error,
            kind=str(state.error_kind or ""),
            mode=state.mode,
            refusal=state.refusal,
            failing_since=state.failing_since if state.error_kind else 0.0,
            data_from=state.last_success,
            notes=state.notes,
        )
        return Fetched(report, state, self._fetcher.file_of(state.snapshot))

    def _token(self, salt: str = "") -> str:
        """Return ``SALT DIGEST`` of the source's configuration and of content and mtime of its secrets and recipe.

        The digest is 4 octets of scrypt (RFC 7914): enough to detect a changed secret, too few to recover the secret.
        """
        salt = salt or secrets.token_hex(8)
        values = map(partial(getattr, self._source.own), self._source.own.__struct_fields__)
        named = [value for value in values if isinstance(value, (SecretFile, RecipeFile))]
        said = repr([self._source.digest, *map(_content, named)]).encode()
        return f"{salt} {hashlib.scrypt(said, salt=salt.encode(), n=2**14, r=8, p=1, dklen=4).hex()}"

    def _refused(self) -> str:
        state = self._state
        left = REFUSED_FOR - (self._fetcher.now - state.last_attempt)
        if (
            state.error_kind is not FailureKind.REFUSED
            or not 0 < left <= REFUSED_FOR
            or state.refused_for != self._token(state.refused_for.partition(" ")[0])
        ):
            return ""
        if not state.refusal:  # recorded by an older version, whose text is complete
            return state.error
        again = f"not asked again for {spell_seconds(left)}, unless its configuration or secret is touched"
        return f"{state.refusal} ({again})"

    def _work(self) -> None:
        if not self._source.free.acquire(timeout=min(_ENDING, self._deadline / 2)):
            self._error = SourceError("its last fetch was given up on, and has not come to its end yet")
            return
        self._asked = True
        try:
            self._done = self._fetch()
        except SourceError as error:
            self._error = error
        except LedgerError as error:
            self._fatal = error
        except (SyncagentError, OSError) as error:
            self._error = SourceError(str(error))
        except BaseException as error:  # noqa: BLE001 - a bug in a source must not stop the others
            self._error = SourceError(
                f"a fault in the source: {type(error).__name__}: {error}", kind=FailureKind.BROKEN
            )
        finally:
            if self._writer:
                self._writer.close()
            self._source.free.release()

    def _fetch(self) -> Fetched:
        """Return the answer. A confirming look comes first if it is due; if it fails, the ordinary request follows.

        A failed look is no failure of the source, but for a refusal: the ordinary request would be refused too.
        """
        assert self._writer is not None  # noqa: S101 - start() creates it
        if self._is_read_again():
            self._validator, self._in_look = None, False
        if not self._in_look:
            return self._ask(self._validator, self._started)
        try:
            return self._ask(None, self._started)
        except (SourceError, OSError) as error:
            if isinstance(error, SourceError) and error.kind is FailureKind.REFUSED:
                raise
            self._in_look = False
            self._writer.restart()
            return self._ask(self._validator, time.monotonic())

    def _is_read_again(self) -> bool:
        """True if the source is local and its recorded list was read by other rules than the present ones."""
        return self._state.reading != sources.READING and getattr(self._source.source, "is_local", False)

    def _ask(self, validator: str | None, started: float) -> Fetched:
        """Return the answer of one request, a full one if ``validator`` is None."""
        name, state, fetcher, writer = self._source.name, self._state, self._fetcher, self._writer
        assert writer is not None  # noqa: S101 - start() creates it
        if self._last and validator is not None:
            writer.last = fetcher.path_of(self._last), self._last
        if self._last:
            writer.previous = fetcher.path_of(self._last), self._last
        request = sources.Request(
            validator,
            writer,
            lambda step, count: fetcher.report(f"{name}: {step}", count),
            started + self._deadline,
        )
        answer = self._source.source.fetch(request)
        dates = self._dates(answer)
        snapshot = state.snapshot if answer.same else self._finish(writer, answer)
        if snapshot is None or (answer.same and validator is None):
            raise SourceError("it answered “same” though there is nothing to be the same as", kind=FailureKind.BROKEN)
        if answer.explained is not None:
            self._compare(snapshot, answer.explained)
        self._note_refused(snapshot)
        domains, left_out = _fitting(answer.domains)
        notes = (*map(redacted, answer.notes), *left_out)
        report = SourceReport(
            name=name,
            state="same" if answer.same else "whole",
            entries=snapshot.entries,
            rejected=snapshot.rejected,
            refused=snapshot.refused,
            ignored=writer.ignored,
            seconds=time.monotonic() - self._started,
            notes=notes,
            mode=answer.mode,
            steps=answer.steps,
            data_from=fetcher.now,
            leaves_out=answer.leaves_out,
        )
        validator = answer.validator or (validator if answer.same else None)
        remembered = SourceState(
            name=name,
            snapshot=snapshot,
            validator=None if validator is None or has_secret(validator) else validator,  # an ETag may echo a token
            config_digest=self._source.digest,
            normaliser=normalise.VERSION,
            last_success=fetcher.now,
            last_attempt=fetcher.now,
            mode=answer.mode,
            domains=domains if domains is not None else state.domains if answer.same else (),
            unlisted=state.unlisted if answer.same else answer.unlisted,
            proof=state.proof if answer.same else answer.proof,
            finished=state.finished if answer.same else answer.finished,
            containers=state.containers if answer.same else answer.containers,
            made=min((content_age.made(text) for text in dates.values() if text.made), default=0.0),
            expires=min(filter(None, map(content_age.expires, dates.values())), default=0.0),
            dates=dates,
            changed=self._changed(snapshot),
            reading=sources.READING if answer.full and not answer.same else state.reading,
            notes=notes,
        )
        path = fetcher.path_of(snapshot)
        ended = self._readable_now(path, snapshot)
        return Fetched(report, self._with_look(remembered, answer), path, approvals_ended=ended)

    def _finish(self, writer: SnapshotWriter, answer: sources.Answer) -> Snapshot:
        """Write and return the snapshot of a new answer. Raises SourceError if it is empty, mostly rejected or torn."""
        state, fetcher = self._state, self._fetcher
        path = fetcher.new / f"{self._source.name}-{fetcher.run_id}"
        snapshot = writer.finish(path, allow_empty=self._source.common.allow_empty)
        try:
            self._check_rejects(snapshot, path)
            torn.check(answer.unfinished, state, fetcher.file_of(state.snapshot), path)
        except SourceError:
            path.unlink()
            raise
        return snapshot

    def _check_rejects(self, snapshot: Snapshot, path: Path) -> None:
        """Raise SourceError if more than half of the entries are rejected, without those approved or ignored."""
        rejected = self._fetcher.rejected(self._source, path, snapshot.rejected)
        if rejected.held > snapshot.entries:
            text = messages.mostly_rejected(rejected.held, snapshot.entries, rejected.sample[0])
            raise SourceError(text, kind=FailureKind.BROKEN)

    def _with_look(self, state: SourceState, answer: sources.Answer) -> SourceState:
        """Return the state with the time of the last confirming look, and of the last one tried in vain."""
        if answer.full and not answer.same and answer.proof != "none":
            return replace(state, looked=self._fetcher.now)
        tried = self._fetcher.now if self._looks else self._state.look_tried
        return replace(state, looked=self._state.looked, look_tried=tried)

    def _dates(self, answer: Answer) -> dict[str, Dates]:
        """Return the dates of the data in use with this answer. Raises SourceError if a text is older than before."""
        last, now = self._state.dates, self._fetcher.now
        if answer.same:
            return last or content_age.first_seen({}, answer.dates, now)
        own = Dates(made=answer.made, expires=answer.expires)
        dates = answer.dates or ({} if own == Dates() else {"": own})
        if not all(0 <= time < END_OF_TIME for text in dates.values() for time in (text.made, text.expires)):
            raise SourceError("its data has a date that is no time", kind=FailureKind.BROKEN)
        name = content_age.gone_back(last, dates) if self._state.config_digest == self._source.digest else None
        if name is not None:
            raise SourceError(messages.made_before(name, dates[name].made, content_age.made(last[name])))
        return content_age.first_seen(last, dates, now)

    def _changed(self, snapshot: Snapshot) -> float:
        """Return when the source's data last changed: now, unless it is as in the last answer."""
        last = self._state.snapshot
        is_as_before = last is not None and last.digest == snapshot.digest
        return (is_as_before and self._state.changed) or self._fetcher.now

    def _compare(self, snapshot: Snapshot, explained: frozenset[str]) -> None:
        """Add a note if a complete answer differs from the last one under keys that are not ``explained``."""
        if self._last is None:
            return
        old = sorted_lines.verify(self._fetcher.path_of(self._last), self._last.digest)
        new = sorted_lines.verify(self._fetcher.path_of(snapshot), snapshot.digest)
        with tempfile.TemporaryDirectory(dir=self._fetcher.spool) as spool:
            keys = {escape(key).encode() for key in explained}
            count, sample = amend.differences(old, new, keys, Path(spool))
        if count:
            self._fetcher.notes.append(Note("changes-differ", self._source.name, count=count, detail=", ".join(sample)))

    def _readable_now(self, new: Path, snapshot: Snapshot) -> tuple[str, ...]:
        """Return the digests of approved entries that the last answer rejected and this one has as recipients.

        Add a note about them.
        """
        name, last = self._source.name, self._before
        approved = self._fetcher.approved.get(name, frozenset())
        if last is None or last.file == snapshot.file or not (approved and last.rejected):
            return ()
        standing = {reject.digest for reject in islice(rejects_of(new, name), snapshot.rejected)}
        before = islice(rejects_of(self._fetcher.old / last.file, name), last.rejected)
        ended = [reject for reject in before if reject.digest in approved - standing]
        domains = rejects.local_domains(self._source)
        with SnapshotIndex({name: new}) as listed:
            readable = rejects.readable(ended, domains, lambda address: bool(listed.sources(address.encode())))
        if readable:
            detail = ", ".join(list(readable.values())[:_EXAMPLES])
            self._fetcher.notes.append(Note("now-readable", name, count=len(readable), detail=detail))
        return tuple(readable)

    def _note_refused(self, snapshot: Snapshot) -> None:
        """Add a note if the source begins to have keys that it refuses itself."""
        last = self._state.snapshot
        if snapshot.refused and not (last and last.refused):
            sample = islice(refused_by(self._fetcher.path_of(snapshot)), _EXAMPLES)
            detail = ", ".join(f"{one.address[:_SHOWN]} ({one.value[:_SHOWN]})" for one in sample)
            self._fetcher.notes.append(Note("keys-refuse", self._source.name, count=snapshot.refused, detail=detail))

    def outcome(self) -> Fetched:
        """Wait until the fetch ends or its deadline passes. Return the answer, a failing one after the deadline.

        Raises LedgerError if the answer could not be stored.
        """
        self._wait(self._started + self._deadline)
        if self._in_look and self._thread.is_alive():  # the ordinary request has a deadline of its own
            self._abort()
            self._wait(time.monotonic() + self._deadline)
        if self._fatal:
            raise self._fatal
        if self._done:
            return self._done
        error = self._error or SourceError(f"no whole answer within {spell_seconds(self._deadline)}: see its deadline")
        return self._failed(error)

    def _wait(self, until: float) -> None:
        while self._thread.is_alive() and (left := until - time.monotonic()) > 0:
            self._thread.join(min(left, _LOOK))

    def _failed(self, error: SourceError) -> Fetched:
        asked = self._asked
        state = replace(
            self._state,
            validator=(error.validator if self._state.validator else None) or self._state.validator,
            error=str(error),
            error_kind=error.kind,
            refused_for=""
            if error.kind is not FailureKind.REFUSED
            else self._token()
            if asked
            else self._state.refused_for,
            refusal=""
            if error.kind is not FailureKind.REFUSED
            else str(error)
            if asked
            else redacted(self._state.refusal),
            last_attempt=self._fetcher.now if asked else self._state.last_attempt,
            failing_since=self._state.failing_since or self._fetcher.now,
            look_tried=self._fetcher.now if asked and self._looks else self._state.look_tried,
        )
        report = SourceReport(
            name=self._source.name,
            state="failing",
            entries=state.snapshot.entries if state.snapshot else 0,
            rejected=state.snapshot.rejected if state.snapshot else 0,
            refused=state.snapshot.refused if state.snapshot else 0,
            seconds=time.monotonic() - self._started,
            error=str(error),
            kind=str(error.kind),
            refusal=state.refusal,
            failing_since=state.failing_since,
            data_from=state.last_success,
            notes=state.notes,
        )
        return Fetched(report, state, self._fetcher.file_of(state.snapshot))

    def give_up(self) -> None:
        """Abandon and abort a fetch that has not ended. Entries that its thread still delivers are discarded."""
        if self._writer and not self._done:
            self._writer.abandon()
        if self._thread.is_alive():
            self._abort()

    def _abort(self) -> None:
        getattr(self._source.source, "give_up", lambda: None)()


def _fitting(domains: tuple[str, ...] | None) -> tuple[tuple[str, ...] | None, tuple[str, ...]]:
    """Return the reported domains without those that are too long, and a note if there are such domains."""
    if domains is None or not any(map(normalise.too_long, domains)):
        return domains, ()
    left = tuple(domain for domain in domains if not normalise.too_long(domain))
    first = next(domain for domain in domains if normalise.too_long(domain))
    count = len(domains) - len(left)
    why = f"the domain that begins with {escape(first[:_SHOWN])!r} {normalise.too_long(first)}"
    return left, (f"{count} of the domains that it serves are left out: {why}",)


def _content(name: str) -> tuple[bytes, int]:
    """Return the content of a secret or recipe file, and its mtime in nanoseconds.

    The mtime is included so that touch(1) ends the delay after a refusal. It is 0 for a systemd credential, which
    systemd writes again at each start. Returns ``(b"", 0)`` if the file cannot be read; the source then fails itself.
    """
    path = sources.secret_path(name)
    try:
        by_systemd = str(path.parent) == os.environ.get("CREDENTIALS_DIRECTORY")
        octets = atomic.read_foreign(path, _MOST)
        if isinstance(name, SecretFile) and len(octets) > _WORD:  # an older version may have recorded it in an error
            remember(octets.decode(errors="replace").strip("\r\n"))
        return octets, 0 if by_systemd else path.stat().st_mtime_ns
    except OSError:
        return b"", 0


def failing(fetched: Sequence[Fetched]) -> tuple[str, ...]:
    """Return the names of the sources that failed."""
    return tuple(answer.report.name for answer in fetched if answer.is_failing)


def outdated(fetched: Sequence[Fetched]) -> tuple[str, ...]:
    """Return the names of the sources whose data is outdated."""
    return tuple(answer.report.name for answer in fetched if answer.is_outdated)
