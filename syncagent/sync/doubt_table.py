"""The doubt table of a run: widened before anything can return, narrowed last. See ``doubt`` for the reasons."""

from __future__ import annotations

import dataclasses
import hashlib
import time
from collections import Counter
from typing import TYPE_CHECKING

from msgspec.structs import replace

from syncagent.errors import LockBusyError, PublishError
from syncagent.files import pipeline
from syncagent.model import ALL_DOMAINS, Doubt
from syncagent.postfix import doubt_table
from syncagent.postfix.table import Target, publish_step
from syncagent.state.doubt_status import relay_domains_of
from syncagent.state.opened import sweep_doubt, writing_doubt
from syncagent.state.records import DoubtRecord, Event
from syncagent.sync import doubt, doubt_facts, outcome
from syncagent.sync.doubt_facts import Concerns

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from pathlib import Path

    from syncagent.config.tables import Config
    from syncagent.model import DoubtKind, SyncResult
    from syncagent.postfix.table import Identities
    from syncagent.state.opened import State
    from syncagent.sync.fetch import Fetched
    from syncagent.sync.plan import Decision, Guarded
    from syncagent.sync.relay_domains import Domains
    from syncagent.sync.run import Progress, Run

_MANY_EVENTS = 100
"""Number of domains up to which the history has an event for each domain whose doubt begins or ends for a reason."""


class NoDoubtTable:
    """In place of the doubt table where postfix.doubt_map is not set: nothing is published."""

    def before(self, _answers: Sequence[Fetched], _domains: Domains, *, map_changed: bool) -> bool:  # noqa: ARG002
        """Return True: no table has to be in force."""
        return True

    def with_guard(self, _guarded: Guarded) -> bool:
        """Return True: no table has to be in force."""
        return True

    def cover(self, _decision: Decision) -> bool:
        """Return True: removed addresses need not be in doubt."""
        return True

    def renamed(self) -> None:
        """Do nothing."""

    def finish(self, result: SyncResult, *, all_asked: bool) -> SyncResult:  # noqa: ARG002
        """Return the result as it is."""
        return result

    def stand(self, result: SyncResult) -> SyncResult:
        """Return the result as it is."""
        return result


class RecordedDoubt(NoDoubtTable):
    """In place of the doubt table in a dry run: nothing is published, and results have the doubt of the last run."""

    def __init__(self, record: DoubtRecord) -> None:
        """``record`` is the doubt table as last published."""
        self._recorded = record

    def finish(self, result: SyncResult, *, all_asked: bool) -> SyncResult:  # noqa: ARG002
        """Return the result with the recorded doubt."""
        return self.stand(result)

    def stand(self, result: SyncResult) -> SyncResult:
        """Return the result with the recorded doubt."""
        return replace(result, doubts=self._recorded.doubts, doubt_due=self._recorded.due)


class DoubtTable(NoDoubtTable):
    """The doubt table of one run. The methods are called in this order; each that widens is True if it is in force."""

    def __init__(self, config: Config, state: State, run: Run, progress: Progress) -> None:
        """Read the recorded table and the mark of the switch. postfix.doubt_map must be set."""
        assert config.postfix.doubt_map is not None  # noqa: S101 - the caller checks it
        state.begin_doubt()
        self._config, self._state, self._run, self._progress = config, state, run, progress
        self._settings = config.postfix.settings(config.postfix.doubt_map)
        self.files = doubt_table.Files(config.postfix.doubt_map)
        self._longest = doubt.Longest(config.postfix.doubt_new, config.postfix.doubt_removed)
        doubts = self._longest.of_doubts(state.doubt.doubts, run.now)
        self._record: DoubtRecord = replace(state.doubt, doubts=doubts)
        self._began = state.doubt.doubts
        self._facts = doubt.Facts(())
        self._concerns = Concerns(config, state, run.now)
        recorded = state.doubtful()
        self._addresses = self._longest.of_addresses(recorded, run.now)
        if self._addresses != recorded:
            state.add_doubtful(self._addresses)
        self._mark = self.files.mark()
        self._events: list[Event] = []
        sweep_doubt(config.state.directory, config.postfix.doubt_map, config.postfix.settings)
        self._added: Path | None = None
        self._covered, self._covers = self._record.covered, run.now
        if self._record.identities is None and self.files.ran_before():
            self._take_over()

    def _take_over(self) -> None:
        """Keep what the table has in doubt for another postfix.doubt_removed: the state that knew why is lost."""
        now, until = self._run.now, self._run.now + self._config.postfix.doubt_removed
        domains, addresses = self.files.lines()
        rows = [(address, address.rpartition("@")[2], now, until) for address in addresses]
        self._state.add_doubtful(rows)
        self._addresses = [*(row for row in self._addresses if row[0] not in addresses), *rows]
        kept = tuple(Doubt(domain, "state-lost", since=now, seen=now, until=until) for domain in domains)
        self._record = replace(self._record, doubts=doubt.widened(self._record.doubts, kept))

    def _is_older(self) -> bool:
        """True if the state is an older one that was restored, and the table is a later one than it knows.

        It is not any more once a run of that gap has recorded the table. If the state was lost after the copy was made,
        the copy has another ID than the map, and so counts as lost as well.
        """
        recorded, gap = self._record.identities, self._state.gap
        if gap is None or recorded is None or self._mark:
            return False
        if any(one.subject == "state-new" and one.seen >= gap.since for one in self._record.doubts):
            return False
        return not Target(self._config.postfix.settings(self.files.name)).on_record(recorded)

    # --- widening

    def before(self, answers: Sequence[Fetched], domains: Domains, *, map_changed: bool) -> bool:
        """Widen by what is known before the lists are compared. True if the table is in force."""
        self._concerns.save(answers)
        if self._is_older():
            self._take_over()
        self._void_leaving(domains)
        facts = doubt_facts.before(self._concerns, answers, domains)
        hand, mark = self._by_hand(facts.domains), self._mark_found()
        self._facts = dataclasses.replace(facts, by_hand=hand, mark=mark, map_changed=map_changed)
        return self._widen()

    def with_guard(self, guarded: Guarded) -> bool:
        """Widen by the reasons of the guard, by empty and new domains and held catch-alls. True if it is in force."""
        if self._state.finished is None:  # no map was in force: what is empty is known only now
            others = (one for one in self._record.doubts if one.kind != "empty")
            self._record = replace(self._record, doubts=tuple(others))
        until = self._run.now + self._config.postfix.doubt_new
        new = doubt_facts.new(guarded, self._state) if until > self._run.now else ()
        facts = doubt_facts.with_guard(self._facts, guarded, self._concerns)
        self._facts = dataclasses.replace(facts, new=dict.fromkeys(new, until))
        return self._widen()

    def cover(self, decision: Decision) -> bool:
        """Put the recipients that the run removes in doubt, before it removes them. True if the table is in force.

        The domains in which it holds any are put in doubt with them.
        """
        self._added = decision.diff.added
        self._facts = doubt_facts.with_holds(self._facts, decision)
        held = doubt.widened(self._record.doubts, doubt.current(self._facts, self._run.now))
        now, until = self._run.now, self._run.now + self._config.postfix.doubt_removed
        already = Counter(domain for _, domain, _, _ in self._addresses)
        removed = _removed_by_domain(decision, already)
        if not removed or until == now:
            return self._publish(held)
        whole, single = doubt.of_removed(removed, already, doubt_table.fits, (now, until))
        self._state.add_doubtful(single)
        self._addresses = [*self._addresses, *single]
        return self._publish(doubt.widened(held, whole))

    def _widen(self) -> bool:
        return self._publish(doubt.widened(self._record.doubts, doubt.current(self._facts, self._run.now)))

    # --- narrowing

    def renamed(self) -> None:
        """Record that the table of recipients was renamed just now."""
        run = self._run
        self._covers = self._record.covering
        self._record = replace(self._record, covered=run.now + time.monotonic() - run.started, covering=run.now)

    def finish(self, result: SyncResult, *, all_asked: bool) -> SyncResult:
        """Narrow as far as that is due at the end of a run that completed. Return the result with the doubt in force.

        ``all_asked``: every source was asked in this run.
        """
        now, record = self._run.now, self._record
        if not record.error:
            hand = self._by_hand(self._facts.domains)  # a person may have changed it meanwhile
            self._facts = dataclasses.replace(self._facts, by_hand=hand)
            found = doubt.current(self._facts, now)
            standing = doubt.widened(record.doubts, found)
            standing = doubt.asked(standing, now) if all_asked else standing
            if doubt.may_narrow(self._covered, record.narrowed, now):
                tables = {*self._facts.domains, *self._facts.held}
                standing = doubt.narrowed(standing, found, tables, now, self._covers)
                self._drop_addresses(self._covers)
            self._replace(standing)
        self._end_switch()
        return self.stand(result)

    def _drop_addresses(self, by: float) -> None:
        """Leave out the single addresses whose doubt had ended ``by`` then, but for those that come back just now."""
        over = {address for address, _, _, until in self._addresses if until <= by}
        if over and self._added and by != self._run.now:
            with self._added.open("rb") as lines:
                over -= {line[:-1].partition(b"\t")[0].decode() for line in lines}
        self._addresses = [address for address in self._addresses if address[0] not in over]

    def _replace(self, standing: tuple[Doubt, ...]) -> None:
        """Publish the table with the reasons that stand, and record the time if it has fewer lines."""
        before, domains = self._record.lines, doubt.lines(self._record.doubts)
        if self._publish(standing):
            self._state.keep_doubtful(self._addresses)
        if self._record.lines != before and not doubt.lines(standing) > domains:
            self._record = replace(self._record, narrowed=self._run.now)

    def _end_switch(self) -> None:
        """Remove the mark of the switch once no line stands for it any more."""
        if self._mark and not self._record.error and not any(one.kind in doubt.MARKED for one in self._record.doubts):
            try:
                self.files.remove_mark()
            except OSError as error:
                text = f"the mark of the switch cannot be removed: {error.strerror}: {self.files.mark_file}"
                self._record = replace(self._record, error=text)

    def stand(self, result: SyncResult) -> SyncResult:
        """Record the doubt table and its events. Return the result with the doubt that stands."""
        found = doubt.current(self._facts, self._run.now)
        ends = [until for _, _, _, until in self._addresses]
        record = self._record = replace(self._record, doubts=doubt.lingering(self._record.doubts, found))
        due = doubt.ends(record.doubts, found, ends, record.covered, record.narrowed)
        self._state.save_doubt(replace(record, due=due))
        self._state.record_events([*self._events, *self._changes()])
        self._events, self._began = [], record.doubts
        return outcome.with_doubt(result, record.doubts, due, record.error)

    def _changes(self) -> list[Event]:
        """Return the events of the reasons that began, or whose lines were dropped, in this run.

        Those of the mark have an event of their own when they begin.
        """
        begun, ended = doubt.begun_and_ended(self._began, self._record.doubts)
        begun = [one for one in begun if one.kind not in doubt.MARKED]
        now = self._run.now
        return [*_events(now, "doubt-begins", begun), *_events(now, "doubt-ends", ended)]

    def by_hand(self, events: Iterable[Event]) -> None:
        """Publish the recorded doubt with the present entries of persons. Raises PublishError."""
        self._facts = doubt.Facts(tuple(relay_domains_of(self._config.postfix, self._state)), mark=self._mark_found())
        marked = (one for one in doubt.current(self._facts, self._run.now) if one.kind in doubt.MARKED)
        others = (one for one in self._record.doubts if one.kind != "by-hand")
        self._publish(doubt.widened(others, marked))
        self._state.save_doubt(self._record)
        self._state.record_events([*self._events, *events, *self._changes()])
        if self._record.error:
            raise PublishError("doubt table", self._record.error)

    # --- publishing

    def _publish(self, doubts: tuple[Doubt, ...]) -> bool:
        """Publish the table with these reasons, unless it is so already. True if it is in force.

        What a person put in doubt since the run began is added. New reasons are recorded before they are published, so
        that a run that is killed loses none. An error is recorded.
        """
        record = self._record
        try:
            with writing_doubt(self._state.directory):
                doubts = doubt.widened(doubts, doubt.dated(self._by_hand(self._facts.domains), self._run.now))
                if {one.key for one in doubts} - {one.key for one in self._state.doubt.doubts}:
                    self._state.save_doubt(replace(record, doubts=doubt.widened(record.doubts, doubts)))
                everything, all_lines = self._write_everything()
                identities, lines = self._write_table(doubts)
        except (PublishError, LockBusyError) as error:
            self._record = replace(record, doubts=doubts, error=str(error))
            return False
        self._record = replace(
            record,
            doubts=doubts,
            lines=lines,
            identities=identities,
            everything=all_lines,
            everything_identities=everything,
            error="",
        )
        return True

    def _write_everything(self) -> tuple[Identities, str]:
        """Publish ``doubt-all``, unless it is as recorded. Return its identities and the digest of its keys."""
        keys = doubt_table.keys(self._facts.domains, (), self._probe())
        return self._write_if_changed(
            keys, self._record.everything_identities, self._record.everything, everything=True
        )

    def _write_table(self, doubts: Iterable[Doubt]) -> tuple[Identities, str]:
        """Publish the doubt table, unless it is as recorded. Return its identities and the digest of its keys."""
        addresses = (address for address, _, _, _ in self._addresses)
        keys = doubt_table.keys(doubt.lines(doubts), addresses, self._probe())
        return self._write_if_changed(keys, self._record.identities, self._record.lines)

    def _write_if_changed(
        self, keys: Sequence[bytes], recorded: Identities | None, before: str, *, everything: bool = False
    ) -> tuple[Identities, str]:
        """Publish a table, unless files and keys are as recorded (``before`` is their digest). Return both."""
        digest = hashlib.sha256(b"".join(keys)).hexdigest()
        name = self.files.everything if everything else self.files.name
        if recorded and before == digest and Target(self._config.postfix.settings(name)).on_record(recorded):
            return recorded, digest
        return self._write(keys, everything=everything), digest

    def _write(self, keys: Iterable[bytes], *, everything: bool = False) -> Identities:
        with publish_step("doubt table: stage"):
            path = pipeline.write_plain(self._state.spool / "doubt-keys", keys)
        return doubt_table.write(self._settings, path, self._state.spool, self._progress, everything=everything)

    def _probe(self) -> str:
        """Return the domain of the probe, "" if every domain has a catch-all."""
        return doubt_table.probe_domain(self._config.postfix.relay_domains, self._config.postfix.catch_all)

    def _mark_found(self) -> tuple[DoubtKind, float] | None:
        """Return kind and time of the mark of the switch, None if there is none. A new one is an event."""
        if self._mark is None:
            return None
        at = self._mark.at if 0 < self._mark.at <= self._run.now else self._run.now
        if self._mark.why not in {one.kind for one in self._began}:
            self._events.append(Event(at, "doubt-switch", self._mark.why))
        return self._mark.why, at

    def _by_hand(self, domains: Iterable[str]) -> list[Doubt]:
        return self.files.of_persons(domains, self._run.now)

    def _void_leaving(self, domains: Domains) -> None:
        """Treat the recipients of a domain that no longer leaves as those that were removed from it."""
        names = frozenset(doubt_facts.names(domains))
        doubts = (
            replace(one, kind="removed") if one.kind == "leaving" and one.domain not in domains.parting else one
            for one in self._record.doubts
            if one.kind != "leaving" or one.domain in names
        )
        self._record = replace(self._record, doubts=tuple(doubts))


def _removed_by_domain(decision: Decision, already: Counter[str]) -> dict[str, list[str]]:
    """Return the addresses that a run removes, by domain, at most one more than may be in doubt by themselves.

    Addresses that are excluded on purpose are left out. ``already`` counts those of earlier runs.
    """
    scope, removed = decision.diff.scope, dict[str, list[str]]()
    with decision.diff.removed.open("rb") as lines:
        for line in lines:
            address = line[:-1].partition(b"\t")[0]
            domain = scope.group(address)[0]
            names = removed.setdefault(domain, [])
            if len(names) + already[domain] <= doubt.MOST_REMOVED and not scope.is_excluded(address):
                names.append(address.decode())
    return {domain: names for domain, names in removed.items() if names}


def _events(now: float, kind: str, doubts: Sequence[Doubt]) -> Iterator[Event]:
    """Yield an event for each reason, or a single one for a reason of very many domains."""
    reasons: dict[tuple[str, str], list[str]] = {}
    for one in doubts:
        reasons.setdefault((one.kind, one.subject), []).append(one.domain)
    for (why, subject), domains in reasons.items():
        detail = f"{why} {subject}".rstrip()
        if len(domains) > _MANY_EVENTS:
            yield Event(now, kind, ALL_DOMAINS, detail)
        else:
            yield from (Event(now, kind, domain, detail) for domain in domains)
