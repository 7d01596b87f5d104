"""The straight line: fetch, normalise, ledger, plan, guard, publish, result.

``sync_once`` is the whole of it. Everything that starts a run only says when.
"""

from __future__ import annotations

import contextlib
import secrets
import shutil
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

from msgspec.structs import replace

from syncagent import privileges
from syncagent.errors import (
    DamagedError,
    ExitCode,
    LedgerDamagedError,
    LockBusyError,
    PublishError,
    UnansweredError,
    UnknownHoldError,
)
from syncagent.files import sorted_lines as files
from syncagent.files.search import Finder
from syncagent.model import DOMAIN_HOLD, SAMPLE, Hold, Plan, Reject, Status, SyncResult
from syncagent.postfix import publish
from syncagent.postfix import table_text as mapfile
from syncagent.postfix.table import Identities, Target
from syncagent.state import snapshot
from syncagent.state.database import SPOOL, DomainRow, Finished, Ledger, RunRow, ledger_errors
from syncagent.sync import diff as compare
from syncagent.sync import existing_map as adopt
from syncagent.sync import fetch, guard
from syncagent.sync import relay_domains as domains
from syncagent.sync import removals as planning
from syncagent.sync.removals import Decisions, Ripeness
from syncagent.values.types import Domain

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from syncagent.config.tables import Config

_EMPTY = "there is no recipient at all; an empty map refuses everybody, and is never published"
_FEW_REFUSED = 10
Places = tuple[Identities, Identities | None]
"""What the tables are once they are in place: that of the recipients, and that of the domains if there is one."""
HISTORY_ROWS = 10_000
"""A run that changes more keeps its changes in a compressed file."""


@dataclass(frozen=True, slots=True)
class Options:
    """What a trigger may ask for. With ``write=False`` nothing is written anywhere but in a temporary directory."""

    write: bool = True
    accept_incomplete: bool = False
    approve: tuple[str, ...] = ()
    lock_timeout: float = 60.0
    due: frozenset[str] | None = None
    """The sources to ask; the others stay with what they said last. None asks all."""
    run_id: str = ""
    """What to call the run; a name of its own unless set."""


def new_run_id() -> str:
    """Make a name for a run: when, and a few digits that no other has."""
    return f"{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime())}-{secrets.token_hex(3)}"


def no_report(_step: str, _count: int) -> None:
    """Report progress to nobody."""


def sync_once(config: Config, options: Options, report: Callable[[str, int], None] = no_report) -> SyncResult:
    """Do one run and give what it came to.

    Failures of sources and of publishing are in the result. Raises LockBusyError, LedgerError, and UnknownHoldError
    for an ID in ``options.approve`` that cannot be approved.
    """
    state = config.state.directory
    privileges.require_safe_root(config)
    with ledger_errors(state), contextlib.ExitStack() as stack:
        if options.write:
            state.mkdir(mode=0o750, parents=True, exist_ok=True)
            stack.enter_context(files.locked(state / "sync.lock", options.lock_timeout))
        else:  # who may only read cannot lock out those who write: then a run at the same time may end this one
            with contextlib.suppress(FileNotFoundError, PermissionError):
                stack.enter_context(files.locked(state / "sync.lock", options.lock_timeout, shared=True))
        try:
            return _run(config, options, report)
        except LedgerDamagedError as error:
            with contextlib.closing(Ledger(state, write=options.write)) as ledger:
                ledger.set_aside(error)
                notes = ledger.notes
            result = _run(config, options, report)
            return replace(result, notes=(*notes, *result.notes))


def sweep(config: Config) -> None:
    """Take away what a run of ours that was interrupted had no time to; a run by hand at this moment does it itself."""
    state, postfix = config.state.directory, config.postfix
    with contextlib.suppress(OSError, LockBusyError), files.locked(state / "sync.lock", 0):
        for name in filter(None, (postfix.map, postfix.domains_map)):
            Target(postfix.settings(name)).sweep()
        for left in state.glob(f"{SPOOL}*"):
            shutil.rmtree(left, ignore_errors=True)


def _run(config: Config, options: Options, report: Callable[[str, int], None]) -> SyncResult:
    with contextlib.ExitStack() as stack:
        ledger = stack.enter_context(contextlib.closing(Ledger(config.state.directory, write=options.write)))
        if options.write:
            spool = ledger.prepare()
            stack.callback(shutil.rmtree, spool, ignore_errors=True)
        else:
            spool = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="syncagent-plan-")))
        return _Run(config, options, report, ledger, spool).result()


@dataclass
class _Run:
    """One run: each method is one station of the line."""

    config: Config
    options: Options
    report: Callable[[str, int], None]
    ledger: Ledger
    spool: Path
    now: float = field(default_factory=time.time)
    started: float = field(default_factory=time.monotonic)
    fetched: list[fetch.Fetched] = field(default_factory=list)
    rejects: list[Reject] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.run_id = self.options.run_id or new_run_id()
        self.target = Target(self.config.postfix.settings())
        self.notes = self.ledger.notes
        self.digest = self.config.digest
        self.domains: domains.Domains | None = None
        self.domains_map: domains.DomainsMap | None = None
        self.last: dict[str, Path] = {}

    def result(self) -> SyncResult:
        self._approve()
        if self.options.write:
            self.target.sweep()
        old = self.ledger.finished
        try:
            return self._follow(old)
        except PublishError as error:
            if self.options.write:
                self.ledger.record_failure(
                    RunRow(self.run_id, self.now, "failed", ExitCode.CANNOT_PUBLISH, error=str(error))
                )
            return self._close("failed", Plan(), old.published.count if old else 0, error=str(error))

    def _follow(self, old: Finished | None) -> SyncResult:
        """Return what the run comes to. Raise PublishError."""
        self._fetch()
        if old and self._unchanged(old):
            if self.domains:
                self._take_for_relay_domains(old.domains)
            self.ledger.settle(RunRow(self.run_id, self.now, "unchanged", self._exit_code(old.plan)))
            return self._close("unchanged", old.plan, old.published.count, old.identities.index)
        self._check_snapshots()
        return self._change(old)

    def _approve(self) -> None:
        """Note what a person lets go, all of it or nothing."""
        for hold_id in self.options.approve:
            hold = self.ledger.holds.get(hold_id)
            if hold is None:
                standing = ", ".join(self.ledger.holds) or "none"
                raise UnknownHoldError(f"no hold has the ID {hold_id}; standing: {standing}")
            first = self._goes_before(hold)
            if first and first.id not in self.options.approve:
                text = f"{hold_id} cannot be approved before {first.id}, {first.what}"
                raise UnknownHoldError(f"{text}: approve that first, or both at once; nothing is approved")
            final = next((one for one in hold.reasons if not one.approvable and one.kind != "domain"), None)
            if final:
                raise UnknownHoldError(f"{hold_id} cannot be approved: {final.text}")
        if self.options.approve:
            self.ledger.approve(self.options.approve, self.now)

    def _goes_before(self, recipients: Hold) -> Hold | None:
        """Give the hold of the relay domain itself, unless a person let that go already."""
        name = f"{DOMAIN_HOLD}{recipients.domain}"
        return next((hold for hold in self.ledger.holds.values() if hold.domain == name and not hold.approved_at), None)

    def _fetch(self) -> None:
        new = self.ledger.snapshots if self.options.write else self.spool
        held = {name: state.snapshot for name, state in self.ledger.sources.items() if state.snapshot}
        self.last = {name: self.ledger.snapshots / one.file for name, one in held.items()}
        fetcher = fetch.Fetcher(
            self.ledger.snapshots, new, self.spool, self.run_id, self.now, self.report, self.notes, self.options.due
        )
        self.fetched = fetcher.all(self.config.sources, self.ledger.sources)
        self.notes += [f"source {text}" for text in self._rejecting()]
        for one in self.fetched:
            self._remember(one)
        if self.config.postfix.domains_map:
            self._find_domains()

    def _find_domains(self) -> None:
        """Take the domains that the sources report for relay domains, as far as that is allowed."""
        postfix, old = self.config.postfix, self.ledger.finished
        self.domains_map = domains.DomainsMap(postfix, self.spool, self.report)
        said = {one.report.name: one.state.domains for one in self.fetched}
        finding = domains.Finding(self.run_id, self.now, self.ledger.holds, fetch.failing(self.fetched))
        self.domains = finding.find(postfix, said, self.domains_map.known(old))
        self._take_for_relay_domains(self.domains.scope)
        self.digest = self.config.digest

    def _take_for_relay_domains(self, names: tuple[str, ...]) -> None:
        postfix = replace(self.config.postfix, relay_domains=tuple(map(Domain, names)))
        self.config = replace(self.config, postfix=postfix)

    def _domains_stand(self, old: Finished, names: tuple[str, ...]) -> bool:
        """Tell whether the second table, if there is one, is as it was left, and is to have these."""
        return self.domains_map.on_record(old, names) if self.domains_map else not old.domains

    def _domain_holds_stand(self) -> bool:
        """Tell whether the domains that are to be held are those that were held before."""
        standing = {hold.id for hold in self.ledger.holds.values() if hold.domain.startswith(DOMAIN_HOLD)}
        return standing == ({hold.id for hold in self.domains.holds} if self.domains else set())

    def _rejecting(self) -> list[str]:
        """Tell of sources that reject more than they did when last nothing was missing, or a person had a look."""
        known = self.ledger.finished.rejected if self.ledger.finished else {}
        return [
            f"{report.name} has {report.rejected} entries that cannot be recipients, {known[report.name]} before"
            for report in (one.report for one in self.fetched)
            if report.state != "failing" and report.rejected > known.get(report.name, report.rejected)
        ]

    def _accepted_rejects(self, plan: Plan) -> dict[str, int]:
        """Give how many rejects of each source are nothing new: all of them, where nobody is missing."""
        known = self.ledger.finished.rejected if self.ledger.finished else {}
        now = {one.report.name: one.report.rejected for one in self.fetched}
        if not any(change.kept for change in plan.domains):
            return now
        return {name: min(count, known.get(name, count)) for name, count in now.items()}

    def _remember(self, one: fetch.Fetched) -> None:
        if self.options.write:
            self.ledger.save_source(one.state)

    def _digests(self) -> dict[str, str]:
        return {one.state.name: one.state.snapshot.digest if one.state.snapshot else "" for one in self.fetched}

    def _unchanged(self, old: Finished) -> bool:
        return (
            not self.notes
            and not any(hold.approved_at for hold in self.ledger.holds.values())
            and (old.next_due is None or self.now < old.next_due <= self.now + self._longest_wait())
            and old.config == self.digest
            and self._domains_stand(old, old.domains)
            and self._domain_holds_stand()
            and old.failing == fetch.failing(self.fetched)
            and old.snapshots == self._digests()
            and self.target.on_record(old.identities)
        )

    def _longest_wait(self) -> float:
        """Give the longest that anything may be waited for; what lies beyond was noted by a clock that was wrong."""
        limits = self.config.limits
        graces = (limits.of(domain)[2] for domain in limits.domains)
        return max(limits.removed_window, limits.removal_grace, *graces)

    def _check_snapshots(self) -> None:
        """Read older snapshots against their digests; a source whose own is damaged fails, and is fetched whole."""
        for one in self.fetched:
            if one.snapshot is None or one.state.snapshot is None or one.report.state == "whole":
                continue  # none there, or written just now
            try:
                files.verify(one.snapshot, one.state.snapshot.digest)
            except DamagedError as error:
                text = f"its last list is damaged: {error}; the next run fetches it whole"
                self.notes.append(f"source {one.report.name}: {text}")
                one.report = replace(one.report, state="failing", error=text, kind="temporary")
                one.state = replace(one.state, snapshot=None, validator=None, error=text)
                one.snapshot = None
                self._remember(one)

    def _change(self, old: Finished | None) -> SyncResult:
        self.report("compare", 0)
        kept = self.ledger.open_list(old.kept if old else None, "the grace of what was kept starts anew")
        comparison = compare.Comparison(self.config, self.spool, self._ripeness(), kept)
        comparison.select([one.snapshot for one in self.fetched if one.snapshot])
        if self.domains:
            self._take_for_relay_domains(self.domains.published(comparison.scope.wanted))
        comparison.differ(self._before(old, kept))
        plan, decisions = self._judge(comparison)
        with Finder(self.last if self.options.write else {}) as last:
            comparison.decide(decisions, last)
        plan = self._whole_plan(plan, comparison, decisions)
        lacks = self._lacks(old, comparison, plan)
        if lacks:
            return self._close("incomplete", plan, 0, lacks=lacks)
        if not plan.after:
            return self._close("incomplete", plan, 0, error=_EMPTY)
        if not self.options.write:
            return self._close("planned", plan, plan.after)
        plan, places, status = self._publish(old, comparison, plan)
        result = self._close(status, plan, plan.after, places[0].index)
        self._record(old, comparison, result, decisions, places)
        return result

    def _publish(self, old: Finished | None, comparison: compare.Comparison, plan: Plan) -> tuple[Plan, Places, Status]:
        """Put both tables in place, as far as they are not: a new domain after its recipients, a leaving one before."""
        names, table = tuple(map(str, self.config.postfix.relay_domains)), self.domains_map
        stays = old and not plan.added and not plan.removed and self.target.on_record(old.identities)
        identities, second = old.identities if old else None, old.domain_identities if old else None
        domains_stay = bool(old and self._domains_stand(old, names))
        if table and not domains_stay and plan.domains_removed and set(names) - set(plan.domains_added):
            second = table.put(set(names) - set(plan.domains_added), old)
        if not stays or identities is None:
            plan, identities = self._put_in_place(old, comparison, plan)
        if table and not domains_stay:
            second = table.put(names, old)
        status: Status = "unchanged" if stays and domains_stay else "published"
        return plan, (identities, second if table else None), status

    def _ripeness(self) -> Ripeness:
        oldest = min((one.state.last_success for one in self.fetched), default=0.0)
        approved = frozenset(hold.id for hold in self.ledger.holds.values() if hold.approved_at)
        return Ripeness(self.now, oldest, approved, self.config.limits)

    def _before(self, old: Finished | None, kept: files.SortedFile | None) -> files.SortedFile | Path:
        """Give what is published: the list on record; where that or the text is off it, what any of them has."""
        listed = self.ledger.open_list(old.published if old else None, "what is published is read from the map")
        if old and listed and self.target.text_on_record(old.identities):
            return listed
        with files.Sorter(self.spool) as sorter:
            dead = adopt.recipients_of(self.target.text, self.config.postfix.relay_domains, sorter)
            self.notes += adopt.keep_copy(self.target.text, self.ledger.directory, old, write=self.options.write)
            self.notes += dead
            for chunk in files.chunks_of(listed) if listed else ():
                sorter.write(chunk)
            sorter.feed(compare.kept_addresses(kept))
            return files.write_plain(self.spool / "before", sorter.finish())

    def _judge(self, comparison: compare.Comparison) -> tuple[Plan, Decisions]:
        """Ask the guard; give a plan with the counts alone, and the means to decide on each address."""
        limits, scope = self.config.limits, comparison.scope
        absent = tuple(str(canary) for canary in limits.canaries if canary not in scope.canaries)
        window = self.ledger.window(self.now - limits.removed_window)
        counts = comparison.tally.counts(self.config.postfix.relay_domains, scope.wanted, window)
        leaving = self.domains.held if self.domains else ()
        counts = [replace(one, leaving=one.domain in leaving) for one in counts]
        reasons = guard.judge(
            counts, limits, failing=fetch.failing(self.fetched), absent_canaries=absent, rejecting=self._rejecting()
        )
        published = {name for names in comparison.tally.catch_alls.values() for name in names}
        plan = Plan(
            counts=tuple(counts),
            absent_canaries=absent,
            held_catch_alls=tuple(name for name in scope.held_catch_alls if name not in published),
            out_of_scope=dict(scope.out_of_scope.most_common()),
        )
        return plan, Decisions(reasons, self.ledger.holds, self.run_id)

    def _domain_holds(self) -> tuple[Hold, ...]:
        holds = [hold for hold in self.domains.holds if not hold.approved_at] if self.domains else []
        return tuple(
            hold if self.options.write or hold.id in self.ledger.holds else replace(hold, id="") for hold in holds
        )

    def _whole_plan(self, plan: Plan, comparison: compare.Comparison, decisions: Decisions) -> Plan:
        names = set(map(str, self.config.postfix.relay_domains))
        known = self.domains.known if self.domains else frozenset(names)
        return replace(
            plan,
            domains=planning.domain_changes(plan.counts, decisions),
            counts=(),
            holds=(*self._domain_holds(), *self._holds(decisions)),
            domains_added=tuple(sorted(names - known)),
            domains_removed=tuple(sorted(known - names)),
            in_grace=decisions.in_grace,
            added_sample=compare.head(comparison.added, SAMPLE),
            removed_sample=compare.head(comparison.removed, SAMPLE),
        )

    def _holds(self, decisions: Decisions) -> tuple[Hold, ...]:
        """Give the holds; one that is not recorded cannot be approved, so that a plan gives it no ID."""
        holds = planning.holds(decisions, self.ledger.holds, self.now)
        if self.options.write:
            return holds
        return tuple(hold if hold.id in self.ledger.holds else replace(hold, id="") for hold in holds)

    def _lacks(self, old: Finished | None, comparison: compare.Comparison, plan: Plan) -> tuple[str, ...]:
        """Give what a first run, one before which nobody was published, lacks: it must be whole."""
        if old or any(one.before for one in plan.domains) or self.options.accept_incomplete:
            return ()
        reports = [one.report for one in self.fetched]
        held = {hold.domain.removeprefix(DOMAIN_HOLD) for hold in self.domains.holds} if self.domains else set()
        relay_domains = [domain for domain in self.config.postfix.relay_domains if domain not in held]
        return guard.first_run(relay_domains, comparison.scope.wanted, reports, plan.absent_canaries)

    def _put_in_place(
        self, old: Finished | None, comparison: compare.Comparison, plan: Plan
    ) -> tuple[Plan, Identities]:
        """Publish; new recipients that Postfix does not answer for become rejects, and staging is done once more."""
        try:
            identities = publish.publish(self.target, comparison.following, self.spool, self.report)
        except UnansweredError as error:
            plan = self._without(error, comparison, plan)
            identities = publish.publish(self.target, comparison.following, self.spool, self.report)
        publish.remove_stale(old.identities if old else None, identities)
        publish.reload(self.target)
        return plan, identities

    def _without(self, error: UnansweredError, comparison: compare.Comparison, plan: Plan) -> Plan:
        """Give the plan without the refused keys.

        Raises ``error`` again where one of them was published before, or where they are so many that it is the index
        which is wrong: postmap exits 0 on a full disk too.
        """
        keys = (mapfile.recipient(key + b" OK", {}) for key in error.keys)
        refused = frozenset((key or "").encode() for key in keys)
        few = max(_FEW_REFUSED, plan.after // 100)
        if len(refused) > few or len(refused) >= plan.after or not comparison.all_new(refused):
            raise error
        comparison.leave_out(refused)
        self.rejects += [Reject(key.decode(), "Postfix does not answer for it") for key in sorted(refused)]
        less = Counter(comparison.scope.group(address)[0] for address in refused)
        return replace(planning.without(plan, less), added_sample=compare.head(comparison.added, SAMPLE))

    def _record(
        self,
        old: Finished | None,
        comparison: compare.Comparison,
        result: SyncResult,
        decisions: Decisions,
        places: Places,
    ) -> None:
        """Remember the run: what is published and kept now, the holds, and what changed."""
        plan = result.plan
        finished = Finished(
            config=self.digest,
            snapshots=self._digests(),
            failing=fetch.failing(self.fetched),
            identities=places[0],
            kept=self.ledger.new_list("kept", self.run_id, files.chunks_in(comparison.kept_lines)),
            published=self.ledger.new_list("published", self.run_id, files.chunks_in(comparison.following)),
            next_due=self._next_due(decisions, plan),
            plan=planning.settled(plan),
            rejected=self._accepted_rejects(plan),
            domains=tuple(map(str, self.config.postfix.relay_domains)) if self.domains else (),
            domain_identities=places[1],
        )
        rows = [
            DomainRow(one.domain, one.before, one.added, one.removed, decisions.removed_approved[one.domain])
            for one in plan.domains
            if one.added or one.removed
        ]
        run = RunRow(self.run_id, self.now, result.status, result.exit_code, plan.added, plan.removed)
        with Finder({one.report.name: one.snapshot for one in self.fetched if one.snapshot}) as now:
            recipients = comparison.changes(now)
            if self.domains:
                recipients = chain(self.domains.changes(plan), recipients)
            if not old and not plan.removed:
                recipients = iter(())  # a first import is the list itself
            elif plan.added + plan.removed > HISTORY_ROWS:
                run = replace(run, changes_file=self.ledger.keep_changes(self.run_id, recipients))
                recipients = iter(())
            self.ledger.record(run, finished, plan.holds, rows, recipients)
        self.ledger.forget(self.now - self.config.state.history)

    def _next_due(self, decisions: Decisions, plan: Plan) -> float | None:
        """Give when what is kept is to be looked at again though nothing else changed."""
        window = self.config.limits.removed_window
        oldest = self.ledger.oldest_change(self.now - window) if plan.holds else None
        times = [decisions.next_due, None if oldest is None else oldest + window]
        return min((moment for moment in times if moment is not None), default=None)

    def _exit_code(self, plan: Plan) -> ExitCode:
        if fetch.failing(self.fetched):
            return ExitCode.TEMPORARY
        held = any(not hold.waits for hold in plan.holds) or plan.held_catch_alls or plan.absent_canaries
        return ExitCode.HELD if held else ExitCode.OK

    def _refused_domains(self, status: Status, plan: Plan) -> list[str]:
        """Tell of relay domains without a recipient, in every run: Postfix answers 550 to all their mail."""
        served = {one.domain for one in plan.domains if one.after}
        names = (one for one in self.config.postfix.relay_domains if not one.startswith("."))
        lacking = [domain for domain in names if domain not in served]
        told = lacking if status in {"published", "unchanged", "planned"} else []
        return [f"{domain} has no recipient: Postfix refuses all its mail" for domain in told]

    def _close(  # noqa: PLR0913 - the parts of one result
        self,
        status: Status,
        plan: Plan,
        recipients: int,
        index: str = "",
        *,
        lacks: Sequence[str] = (),
        error: str = "",
    ) -> SyncResult:
        code = self._exit_code(plan)
        if status == "incomplete":
            code = max(code, ExitCode.HELD)
        rejects = list(self.rejects)
        for one in self.fetched:
            if one.snapshot and len(rejects) < SAMPLE:
                rejects += snapshot.first_rejects(one.snapshot, one.report.name, SAMPLE - len(rejects))
        return SyncResult(
            run_id=self.run_id,
            status=status,
            exit_code=ExitCode.CANNOT_PUBLISH if status == "failed" else code,
            map=str(self.config.postfix.map),
            index=index,
            recipients=recipients,
            plan=plan,
            sources=tuple(one.report for one in self.fetched),
            rejected=len(self.rejects) + sum(one.report.rejected for one in self.fetched),
            reject_sample=tuple(rejects[:SAMPLE]),
            missing_for_first=tuple(lacks),
            notes=(*self.notes, *self._refused_domains(status, plan)),
            error=error,
            seconds=time.monotonic() - self.started,
        )
