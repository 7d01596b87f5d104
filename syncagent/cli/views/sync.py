"""The view of `plan`, `sync` and `approve`: the result of a run."""

from __future__ import annotations

import time
from collections import Counter
from typing import TYPE_CHECKING

from syncagent.cli.output import samples, say, table
from syncagent.cli.views.sources import show_failures, show_rejected, show_sources
from syncagent.model import SAMPLE
from syncagent.state import messages
from syncagent.state.doubt_groups import grouped
from syncagent.values.types import spell_seconds

if TYPE_CHECKING:
    from syncagent.config.tables import Config
    from syncagent.model import Hold, Plan, SyncResult

_HEAD = {
    "unchanged": "{map} unchanged, {recipients}",
    "published": "published {map}, {recipients}",
    "planned": "a sync would leave {recipients} in {map}; nothing was written",
    "incomplete": "NOT published: {map} is left as it is",
    "failed": "NOT published: {map} is left as it was",
}


def show(result: SyncResult, config: Config, *, steps: bool = False) -> None:
    """Print the result of a run. The errors of sources and of publishing go to standard error.

    ``steps`` adds the counts of each source's steps.
    """
    print(_first_line(result))
    in_doubt = messages.doubt_briefly(grouped(result.doubts, config.postfix.relay_domains), result.doubt_due)
    if in_doubt:
        print(in_doubt)
    held = _held_of(result.plan)
    changes = [
        (change.domain, change.before, change.added, change.removed, change.kept, held[change.domain], change.after)
        for change in result.plan.domains
        if change.added or change.removed or change.kept or result.status != "unchanged"
    ]
    if changes:
        table(("DOMAIN", "BEFORE", "ADDED", "REMOVED", "KEPT", "HELD", "AFTER"), changes)
    samples("+ domain", result.plan.domains_added, len(result.plan.domains_added))
    samples("- domain", result.plan.domains_removed, len(result.plan.domains_removed))
    samples("+", result.plan.added_sample, result.plan.added)
    samples("-", result.plan.removed_sample, result.plan.removed)
    show_sources(result.sources, steps=steps)
    for waits in result.plan.waits:
        print(f"in grace: {messages.waits(waits)}")
    _rejects(result)
    for note in result.notes:
        print(f"note: {note}")
    _held(result.plan, config)
    if result.missing_for_first:
        print("the map is not there yet, and the first one would not be whole:")
        for text in result.missing_for_first:
            print(f"  {text}")
        print(f"to publish it all the same: {config.command('sync', '--accept-incomplete')}")
    show_failures(result.sources)
    if result.error:
        say(f"not published: {result.error}")
    if result.doubt_error:
        say(f"doubt table {config.postfix.doubt_map}: {result.doubt_error}")


def _held_of(plan: Plan) -> Counter[str]:
    """Return the number of held removals of each domain: all that are kept, if every removal is held."""
    if any(hold.is_of_all for hold in plan.holds):
        return Counter({change.domain: change.kept for change in plan.domains})
    held: Counter[str] = Counter()
    for hold in plan.holds:
        held[hold.domain] += hold.count
    return held


def _first_line(result: SyncResult) -> str:
    """Return the first line: the outcome of the run, and warnings about failing sources and holds."""
    head = _HEAD[result.status].format(map=result.map, recipients=messages.counted(result.recipients, "recipient"))
    failing = [
        messages.failing_source(source.name, source.failing_since, source.data_from)
        for source in result.sources
        if source.state == "failing"
    ]
    outdated = [messages.outdated_briefly(one.name, one.outdated_at) for one in result.sources if one.outdated]
    plan = result.plan
    return head + messages.warning(
        [*failing, *outdated, *messages.held_briefly(plan.holds, plan.held_catch_alls, plan.absent_canaries)]
    )


def _rejects(result: SyncResult) -> None:
    show_rejected(result.sources)
    own = result.rejected - sum(source.rejected for source in result.sources)
    if own:
        print(f"rejected: {messages.entries(own)}")
    shown = [reject for reject in result.reject_sample if reject.held or not reject.source]
    for reject in shown:
        print(f"  {messages.rejected_entry(reject)}")
    held = own + sum(source.rejected_held for source in result.sources)
    if held > len(shown):
        print(f"  ... and {held - len(shown):,} more")
    outside = result.plan.out_of_scope
    if outside:
        named = ", ".join(f"{domain} {count:,}" for domain, count in list(outside.items())[:5])
        more = ", ..." if len(outside) > 5 else ""  # noqa: PLR2004 - the number shown above
        entries = f"{sum(outside.values()):,} {'entry' if sum(outside.values()) == 1 else 'entries'}"
        print(f"out of scope: {entries} outside relay_domains: {named}{more}")


def _held(plan: Plan, config: Config) -> None:
    for hold in plan.holds:
        print(f"held: {messages.held(hold)}{messages.collecting(hold)}{_since(hold)}")
        for reason in hold.reasons:
            if not (hold.rejecting and reason.approvable):  # the entries are shown above
                print(f"  {reason.text}")
        if hold.id and hold.is_of_recipients:
            print(f"  to list them: {config.command('held', hold.id)}")
        if hold.approvable:
            print(f"  {messages.to_approve(hold, config.command('approve', hold.id))}")
    for canary in plan.absent_canaries:
        print(f"held: every removal, since {messages.absent_canary(canary)}")
    for name in plan.held_catch_alls[:SAMPLE]:
        print(f"held: {messages.held_catch_all(name)}")
    if len(plan.held_catch_alls) > SAMPLE:
        print(f"held: ... and {len(plan.held_catch_alls) - SAMPLE:,} more of them, or over")


def _since(hold: Hold) -> str:
    age = time.time() - hold.since
    return f", for {spell_seconds(age)}" if hold.since and age >= 1 else ""
