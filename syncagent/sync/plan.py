"""The plan of a run: evaluates the guard on the counts, then applies its reasons to each missing recipient."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING

from msgspec.structs import replace

from syncagent.files.search import SnapshotIndex
from syncagent.model import SAMPLE, Plan
from syncagent.state import looks
from syncagent.sync import (
    conditions,
    counting,
    fetch,
    guard,
    holds,
    losses,
    origins,
    rejected,
    rejected_approval,
    removals,
    state_new,
)
from syncagent.sync.confirm import Going
from syncagent.sync.diff import head
from syncagent.sync.losses import Tripped
from syncagent.sync.missing import RemovalPolicy
from syncagent.sync.removals import RemovalDecider
from syncagent.sync.waiting import Waiting

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from syncagent.config.tables import Config
    from syncagent.model import Hold, Lack, Reason
    from syncagent.state.opened import State
    from syncagent.sync.conditions import Condition
    from syncagent.sync.confirm import Asked, Withheld
    from syncagent.sync.diff import Diff
    from syncagent.sync.fetch import Fetched
    from syncagent.sync.losses import Losses
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
    """When a kept recipient must be decided again, in seconds since the epoch; None: never."""
    looks: Mapping[str, float] = field(default_factory=dict)
    """When the next confirming look of a source is due, in seconds since the epoch."""


def policy(
    config: Config, answers: Sequence[Fetched], standing: Mapping[str, Hold], run: Run, *, anew: bool
) -> RemovalPolicy:
    """Return the inputs of the decisions on missing recipients: time, last successes, recorded holds, waits.

    ``anew``: as in RemovalPolicy.
    """
    oldest = min((answer.state.last_success for answer in answers), default=0.0)
    states = {answer.report.name: looks.without_future(answer.state, run.now) for answer in answers}
    waiting = Waiting.of(config.sources, states)
    by_identity = {hold.identity: hold for hold in holds.of_recipients(standing)}
    return RemovalPolicy(run.now, oldest, by_identity, config.limits, waiting, anew)


@dataclass(frozen=True)
class Guarded:
    """What the guard holds in a run, and the data from which it was computed."""

    run: Run
    answers: Sequence[Fetched]
    domains: Domains
    diff: Diff
    policy: RemovalPolicy
    losses: Losses
    conditions: Sequence[Condition]
    plan: Plan
    """The plan as far as it does not depend on the removals: canaries, catch-alls, domains with recipients."""

    @property
    def reasons(self) -> dict[str, tuple[Reason, ...]]:
        """The reasons that hold removals, by domain, as far as they are known before each recipient is decided."""
        found: dict[str, dict[Reason, None]] = {}
        for counts in self.losses.counts:
            if counts.missing:
                own = self.losses.domains.get(counts.domain, ())
                more = (one.reason for one in self.conditions if one.domains is None or counts.domain in one.domains)
                found[counts.domain] = dict.fromkeys((*own, *more))
        for key, reasons in self.losses.captured.items():
            found.setdefault(self.diff.counter.captured[key].hold.domain, {}).update(dict.fromkeys(reasons))
        for parent in self.losses.emptied & self.diff.counter.of_parents.keys():
            for domain, _ in self.diff.counter.of_parents[parent]:
                found.setdefault(domain, {})[removals.of_container(parent)] = None
        return {domain: tuple(reasons) for domain, reasons in found.items() if reasons}


def evaluate(run: Run, state: State, answers: Sequence[Fetched], domains: Domains, diff: Diff) -> Guarded:
    """Evaluate the guard on the counts of a run. Return what it holds."""
    limits, scope, names = diff.limits, diff.scope, diff.relay_domains
    absent = tuple(str(canary) for canary in limits.canaries if canary not in scope.canaries)
    window = state.window(run.now - limits.removed_window)
    counts = partial(diff.counter.counts, names, scope.wanted, window)
    emptied = origins.emptied(state.last_snapshots, answers, diff.counter.parents, diff.counter.large_parents)
    judged = losses.evaluate(diff.counter, counts, limits, diff.policy.holds, emptied)
    held = _held_catch_alls(diff)
    plan = Plan(
        domains=removals.before_removals(judged.counts),
        held_catch_alls=held,
        unlisted=_unlisted(held, diff, answers),
        absent_canaries=absent,
        out_of_scope=dict(scope.out_of_scope.most_common()),
        domains_added=tuple(sorted(set(names) - domains.known)),
        domains_removed=tuple(sorted(domains.known - set(names))),
        added_sample=head(diff.added, SAMPLE),
    )
    standing = (
        *_conditions(answers, domains, absent, scope.wanted),
        *conditions.of_counts(diff.selected),
        *conditions.of_state(state.gap, (run.now, state.clock), limits.removed_window),
        *rejected.conditions(rejected.since(answers, state.finished, state.holds, run.id)),
    )
    return Guarded(run, answers, domains, diff, diff.policy, judged, standing, plan)


def _conditions(
    answers: Sequence[Fetched], domains: Domains, absent: Iterable[str], wanted: Mapping[str, int]
) -> tuple[Condition, ...]:
    """Return the conditions that the answers of a run show."""
    return (
        *conditions.of_leaving(domains.held),
        *conditions.of_sources(fetch.failing(answers)),
        *conditions.of_outdated(fetch.outdated(answers)),
        *conditions.of_canaries(absent),
        *conditions.of_map(sum(wanted.values())),
    )


def decide(guarded: Guarded, state: State, *, may_remove: bool = True, withheld: Withheld | None = None) -> Decision:
    """Decide whether each missing recipient is kept or removed. Return the decision.

    ``may_remove``: removed recipients are in doubt; otherwise every removal is held. ``withheld`` are recipients that
    a point query found, or could not settle. Writes the files of the diff with kept, removed and next published
    recipients, and may be called again.
    """
    diff, run, domains, judged = guarded.diff, guarded.run, guarded.domains, guarded.losses
    standing = (*guarded.conditions, *conditions.of_doubt_table(in_force=may_remove))
    book = holds.HoldBook(guarded.policy.holds.values(), run.id, run.now, float(diff.limits.collect))
    tripped = Tripped.by(diff.counter, judged, diff.limits, book, run.id)
    decider = RemovalDecider(
        judged=judged,
        tripped=tripped,
        conditions=standing,
        book=book,
        waiting=guarded.policy.waiting,
        now=run.now,
        withheld=withheld or {},
    )
    diff.decide(decider)
    refused = rejected_approval.refused(guarded.answers, diff.sources, diff.next_published)
    plan = replace(
        guarded.plan,
        domains=removals.domain_changes(judged.counts, decider),
        holds=state.numbered(
            (
                *domains.pending,
                *_of_all(guarded, state),
                *rejected.holds(guarded.answers, state.holds, run.now, refused),
                *book.holds(),
            )
        ),
        in_grace=decider.in_grace,
        waits=decider.waits.waits(),
        removed_sample=head(diff.removed, SAMPLE),
    )
    due = [moment for moment in (decider.next_due, book.next_freeze()) if moment is not None]
    return Decision(
        run, guarded.answers, domains, diff, plan, decider.removed_approved, min(due, default=None), decider.looks
    )


def _of_all(guarded: Guarded, state: State) -> tuple[Hold, ...]:
    """Return the holds of every removal."""
    of_counts = counting.holds(guarded.conditions, state.holds, guarded.run.now)
    return (*state_new.holds(state.gap, guarded.diff.limits.removed_window), *of_counts)


def going(decision: Decision) -> Iterator[Going]:
    """Yield the recipients that would be removed without a person's approval, for point queries."""
    for missing in decision.diff.removals():
        if not missing.approved and missing.until:
            yield Going(missing.address, missing.kept.sources, missing.kept.label, missing.kept.parent)


def confirmed(decision: Decision, guarded: Guarded, state: State, asked: Asked) -> Decision:
    """Return the decision without the removals that the point queries withhold."""
    state.notes += asked.notes
    return decide(guarded, state, withheld=asked.withheld) if asked.withheld else decision


def _held_catch_alls(diff: Diff) -> tuple[str, ...]:
    """Return the catch-alls in sources that are not permitted, except published ones, which count as missing."""
    captured = (one.catch_alls for one in diff.counter.captured.values())
    published = {name for names in (*diff.counter.catch_alls.values(), *captured) for name in names}
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
    lacks = guard.first_run(staying, diff.scope.wanted, reports, decision.plan.absent_canaries)
    return (*lacks, *rejected.lacks(decision.answers))
