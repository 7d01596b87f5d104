"""Recording of a run: its inputs, its lists, and its history."""

from __future__ import annotations

import time
from itertools import chain
from typing import TYPE_CHECKING

from msgspec.structs import replace

from syncagent.files import atomic
from syncagent.files.search import SnapshotIndex
from syncagent.state import snapshot
from syncagent.state.records import DomainRow, Finished, Inputs, RunRow
from syncagent.sync import clock, fetch, outcome, rejected, removals
from syncagent.sync.doubt import Longest
from syncagent.sync.relay_domains import Parting
from syncagent.values.types import Domain

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from syncagent.config.tables import Config, Postfix
    from syncagent.model import Plan, Reject, SyncResult
    from syncagent.state.opened import State
    from syncagent.sync.fetch import Fetched
    from syncagent.sync.plan import Decision
    from syncagent.sync.relay_domains import Domains
    from syncagent.sync.run import Run
    from syncagent.sync.tables import Published

HISTORY_ROWS = 10_000
"""Maximum number of changes recorded as rows. A run with more records them in a compressed file."""


def inputs(config: Config, domains: Domains, answers: Sequence[Fetched]) -> Inputs:
    """Return the inputs that the result of a run depends on: digests, and the names of failing and outdated sources."""
    postfix = config.postfix
    if domains.mapped:  # reported domains count as configured ones
        postfix = replace(postfix, relay_domains=tuple(map(Domain, (*domains.scope, *domains.parting))))
    digests = {answer.state.name: answer.state.snapshot.digest if answer.state.snapshot else "" for answer in answers}
    digest = replace(config, postfix=postfix).digest
    return Inputs(digest, digests, fetch.failing(answers), fetch.outdated(answers))


def unfinished(state: State) -> float:
    """Return when the last answer came that no finished run compared, 0 if there is none: seconds since the epoch.

    Its run failed to publish, or was killed. A recipient that was missing before may have been in it. Call it before
    the answers of this run are recorded.
    """
    known = state.finished.changed if state.finished else {}
    now = {name: state.sources[name].changed for name in known.keys() & state.sources.keys()}
    return max((at for name, at in now.items() if at != known[name]), default=0.0)


def answers(fetched: Sequence[Fetched], state: State) -> None:
    """Record the states of the sources, and the end of the approvals of entries that are recipients now."""
    for answer in fetched:
        state.end_approvals(answer.report.name, answer.approvals_ended)
    state.save_sources(answer.state for answer in fetched)


def parting(postfix: Postfix, state: State, now: float, *, leave_now: bool) -> Parting:
    """Return how long approved domains stay in the table: postfix.doubt_removed, if there is a doubt table."""
    doubts = Longest(postfix.doubt_new, postfix.doubt_removed).of_doubts(state.doubt.doubts, now)
    until = {doubt.domain: doubt.until for doubt in doubts if doubt.kind == "leaving"}
    stays = 0.0 if leave_now or postfix.doubt_map is None else float(postfix.doubt_removed)
    return Parting(until, stays)


def finish(state: State, run: Run, answers: Sequence[Fetched], result: SyncResult) -> SyncResult:
    """Record a run that published nothing, if it failed or ended a failure. Return the completed result."""
    if result.status == "failed":
        state.record_failure(RunRow(run.id, run.now, result.status, result.exit_code, error=result.error))
    elif result.status == "unchanged":
        state.settle(RunRow(run.id, run.now, result.status, result.exit_code))
    return complete(run, answers, result)


def complete(run: Run, answers: Sequence[Fetched], result: SyncResult) -> SyncResult:
    """Return the result with a sample of rejects and the duration of the run."""
    sample = outcome.sampled(run.rejects, _rejects(answers))
    return replace(result, reject_sample=sample, seconds=time.monotonic() - run.started)


def _rejects(answers: Sequence[Fetched]) -> Iterator[Reject]:
    """Yield the rejected entries of the sources, those that are held first."""
    for answer in answers:
        yield from answer.rejected.sample
    for answer in answers:
        if answer.snapshot and answer.report.rejected > answer.rejected.held:
            others = snapshot.rejects_of(answer.snapshot, answer.report.name)
            yield from (reject for reject in others if reject.digest not in answer.rejected.digests)


def published(config: Config, state: State, decision: Decision, tables: Published, result: SyncResult) -> None:
    """Record a finished run: lists as files, then holds, tables and history in one transaction.

    Deletes the history that is older than state.history. Raises LedgerError if the state cannot be written.
    """
    run, answers, domains, diff = decision.run, decision.answers, decision.domains, decision.diff
    plan, came_from = result.plan, inputs(config, domains, answers)
    finished = Finished(
        config=came_from.config,
        snapshots=came_from.snapshots,
        failing=came_from.failing,
        outdated=came_from.outdated,
        identities=tables.identities,
        kept=state.new_list("kept", run.id, atomic.chunks_in(diff.kept_lines)),
        published=state.new_list("published", run.id, atomic.chunks_in(diff.next_published)),
        next_due=_next_due(state, decision, plan, config.limits.removed_window, run.now),
        plan=removals.settled(plan),
        rejecting=rejected.since(answers, state.finished, state.holds, run.id),
        domains=diff.relay_domains if domains.mapped else (),
        domain_identities=tables.domain_identities,
        snapshot_files={answer.state.name: answer.snapshot.name for answer in answers if answer.snapshot},
        looks=dict(decision.looks),
        changed={answer.state.name: answer.state.changed for answer in answers},
    )
    rows = [
        DomainRow(change.domain, change.before, change.added, change.removed, decision.removed_approved[change.domain])
        for change in plan.domains
        if (change.added or change.removed) and not clock.is_wrong(run.now, state.clock)
    ]
    row = RunRow(run.id, run.now, result.status, result.exit_code, plan.added, plan.removed)
    with SnapshotIndex({answer.report.name: answer.snapshot for answer in answers if answer.snapshot}) as now:
        changes = chain(domains.changes(plan), diff.changes(now))
        if not state.finished and not plan.removed:
            changes = chain()  # the changes of a first import are the published list
        elif plan.added + plan.removed > HISTORY_ROWS:
            row = replace(row, changes_file=state.keep_changes(run.id, changes))
            changes = chain()
        state.save_held_rejects(rejected.digests(answers))
        state.record(row, finished, plan.holds, rows, changes)
    state.forget(run.now, config.state.history)


def _next_due(state: State, decision: Decision, plan: Plan, window: float, now: float) -> float | None:
    """Return the time at which kept removals must be decided again even if no input changes; None if never.

    It is in seconds since the epoch.
    """
    oldest = state.oldest_change(now - window) if plan.holds else None
    times = [decision.next_due, None if oldest is None else oldest + window]
    return min((moment for moment in times if moment is not None), default=None)
