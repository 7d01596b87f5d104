"""The plan of a run: evaluates the guard on the counts, then applies its reasons to each missing address."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from msgspec.structs import replace

from syncagent.files.search import SnapshotIndex
from syncagent.model import SAMPLE, Plan
from syncagent.sync import conditions, fetch, guard, removals, state_new
from syncagent.sync.diff import head
from syncagent.sync.removals import GracePolicy, RemovalDecider

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from syncagent.config.tables import Limits
    from syncagent.model import Counts, Hold, Lack, Reason
    from syncagent.state.opened import State
    from syncagent.sync.diff import Diff
    from syncagent.sync.fetch import Fetched
    from syncagent.sync.relay_domains import Domains
    from syncagent.sync.run import Run


@dataclass(frozen=True)
class Decision:
    """The decision of a run: its plan, and the data from which it was made."""

    run: Run
    answers: Sequence[Fetched]
    domains: Domains
    diff: Diff
    plan: Plan
    removed_approved: Mapping[str, int]
    """Number of removals that were approved, by domain."""
    next_due: float | None
    """End of the first grace of a kept address, in seconds since the epoch; None if no address is in grace."""


def grace_policy(answers: Sequence[Fetched], standing: Mapping[str, Hold], limits: Limits, run: Run) -> GracePolicy:
    """Return the grace policy of this run: time, oldest of the sources' last successes, approved holds, limits."""
    oldest = min((answer.state.last_success for answer in answers), default=0.0)
    return GracePolicy(run.now, oldest, frozenset(hold.id for hold in standing.values() if hold.approved_at), limits)


@dataclass(frozen=True)
class Guarded:
    """The reasons of the guard to hold removals, by domain, and the data from which they were computed."""

    run: Run
    answers: Sequence[Fetched]
    domains: Domains
    diff: Diff
    counts: Sequence[Counts]
    reasons: Mapping[str, tuple[Reason, ...]]
    plan: Plan
    """The plan as far as it does not depend on the removals: canaries, catch-alls, domains with recipients."""


def evaluate(run: Run, state: State, answers: Sequence[Fetched], domains: Domains, diff: Diff) -> Guarded:
    """Evaluate the guard on the counts of a run. Return its reasons."""
    limits, scope, names = diff.limits, diff.scope, diff.relay_domains
    absent = tuple(str(canary) for canary in limits.canaries if canary not in scope.canaries)
    window = state.window(run.now - limits.removed_window)
    counts = [
        replace(count, leaving=count.domain in domains.held)
        for count in diff.counter.counts(names, scope.wanted, window)
    ]
    standing = conditions.current(state.gap, (run.now, state.clock), limits.removed_window)
    reasons = guard.evaluate(
        counts,
        limits,
        failing=fetch.failing(answers),
        absent_canaries=absent,
        rejecting=tuple(fetch.rejecting(answers, state.finished)),
        standing=[condition.reason for condition in standing],
    )
    held = _held_catch_alls(diff)
    plan = Plan(
        domains=removals.before_removals(counts),
        held_catch_alls=held,
        unlisted=_unlisted(held, diff, answers),
        absent_canaries=absent,
        out_of_scope=dict(scope.out_of_scope.most_common()),
        domains_added=tuple(sorted(set(names) - domains.known)),
        domains_removed=tuple(sorted(domains.known - set(names))),
        added_sample=head(diff.added, SAMPLE),
    )
    return Guarded(run, answers, domains, diff, counts, reasons, plan)


def decide(guarded: Guarded, state: State, *, may_remove: bool = True) -> Decision:
    """Decide whether each missing address is kept or removed. Return the decision.

    ``may_remove``: removed addresses are in doubt; otherwise every removal is held. Writes the files of the diff with
    kept, removed and next published addresses, and may be called again.
    """
    diff, run, domains = guarded.diff, guarded.run, guarded.domains
    reasons = guarded.reasons if may_remove else guard.without_doubt_table(guarded.counts, guarded.reasons)
    decider = RemovalDecider(reasons, state.holds, run.id)
    with SnapshotIndex(state.last_snapshots) as last:
        diff.decide(decider, last)
    plan = replace(
        guarded.plan,
        domains=removals.domain_changes(guarded.counts, decider),
        holds=state.numbered(
            (
                *domains.pending,
                *state_new.holds(state.gap, diff.limits.removed_window),
                *removals.holds(decider, state.holds, run.now),
            )
        ),
        in_grace=decider.in_grace,
        removed_sample=head(diff.removed, SAMPLE),
    )
    return Decision(run, guarded.answers, domains, diff, plan, decider.removed_approved, decider.next_due)


def _held_catch_alls(diff: Diff) -> tuple[str, ...]:
    """Return the catch-alls in sources that are not permitted, except published ones, which count as missing."""
    published = {name for names in diff.counter.catch_alls.values() for name in names}
    return tuple(name for name in diff.scope.held_catch_alls if name not in published)


def _unlisted(held: Sequence[str], diff: Diff, answers: Sequence[Fetched]) -> dict[str, tuple[str, ...]]:
    """Return the sources of the held catch-alls, by relay domain."""
    sources: dict[str, tuple[str, ...]] = {}
    with SnapshotIndex({answer.report.name: answer.snapshot for answer in answers if answer.snapshot}) as now:
        for name in held:
            domain = diff.scope.group(name.encode())[0]
            sources[domain] = tuple(dict.fromkeys((*sources.get(domain, ()), *now.sources(name.encode()))))
    return sources


def missing_for_first(decision: Decision) -> tuple[Lack, ...]:
    """Return the obstacles to a first run; empty if recipients were published before."""
    if any(change.before for change in decision.plan.domains):
        return ()
    diff, leaving = decision.diff, decision.domains.leaving
    staying = [name for name in diff.relay_domains if name not in leaving]
    reports = [answer.report for answer in decision.answers]
    return guard.first_run(staying, diff.scope.wanted, reports, decision.plan.absent_canaries)
