"""The plan of a run: evaluates the guard on the counts, then applies its reasons to each missing address."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from msgspec.structs import replace

from syncagent.files.search import SnapshotIndex
from syncagent.model import SAMPLE, Plan
from syncagent.sync import fetch, guard, removals
from syncagent.sync.diff import head
from syncagent.sync.removals import GracePolicy, RemovalDecider

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from syncagent.config.tables import Limits
    from syncagent.model import Hold, Lack
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


def decide(run: Run, state: State, answers: Sequence[Fetched], domains: Domains, diff: Diff) -> Decision:
    """Evaluate the guard, and decide whether each missing address is kept or removed. Return the decision.

    Writes the files of ``diff`` with kept, removed and next published addresses.
    """
    limits, scope, names = diff.limits, diff.scope, diff.relay_domains
    absent = tuple(str(canary) for canary in limits.canaries if canary not in scope.canaries)
    window = state.window(run.now - limits.removed_window)
    counts = [
        replace(count, leaving=count.domain in domains.held)
        for count in diff.counter.counts(names, scope.wanted, window)
    ]
    reasons = guard.evaluate(
        counts,
        limits,
        failing=fetch.failing(answers),
        absent_canaries=absent,
        rejecting=tuple(fetch.rejecting(answers, state.finished)),
    )
    decider = RemovalDecider(reasons, state.holds, run.id)
    with SnapshotIndex(state.last_snapshots) as last:
        diff.decide(decider, last)
    plan = Plan(
        domains=removals.domain_changes(counts, decider),
        holds=state.numbered((*domains.pending, *removals.holds(decider, state.holds, run.now))),
        held_catch_alls=_held_catch_alls(diff),
        absent_canaries=absent,
        out_of_scope=dict(scope.out_of_scope.most_common()),
        domains_added=tuple(sorted(set(names) - domains.known)),
        domains_removed=tuple(sorted(domains.known - set(names))),
        in_grace=decider.in_grace,
        added_sample=head(diff.added, SAMPLE),
        removed_sample=head(diff.removed, SAMPLE),
    )
    return Decision(run, answers, domains, diff, plan, decider.removed_approved, decider.next_due)


def _held_catch_alls(diff: Diff) -> tuple[str, ...]:
    """Return the catch-alls in sources that are not permitted, except published ones, which count as missing."""
    published = {name for names in diff.counter.catch_alls.values() for name in names}
    return tuple(name for name in diff.scope.held_catch_alls if name not in published)


def missing_for_first(decision: Decision) -> tuple[Lack, ...]:
    """Return the obstacles to a first run; empty if recipients were published before."""
    if any(change.before for change in decision.plan.domains):
        return ()
    diff, leaving = decision.diff, decision.domains.leaving
    staying = [name for name in diff.relay_domains if name not in leaving]
    reports = [answer.report for answer in decision.answers]
    return guard.first_run(staying, diff.scope.wanted, reports, decision.plan.absent_canaries)
