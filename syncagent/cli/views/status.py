"""The view of `status`: map, agent, sources, and what waits or is wrong."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from syncagent.cli.output import say, table
from syncagent.cli.views.sources import failing, show_notes, show_rejected
from syncagent.state import messages
from syncagent.values.types import spell_seconds

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from syncagent.state.doubt_status import DoubtStatus
    from syncagent.state.lag import Lag
    from syncagent.state.status import SourceStatus, Status


def show(status: Status) -> None:
    """Print the status: map, agent, sources, and holds that wait for a source. Alarms go to standard error."""
    now = time.time()
    recipients = messages.counted(status.recipients, "recipient")
    outdated = [messages.outdated_briefly(one.name, one.outdated_at) for one in status.sources if one.outdated]
    catch_alls, canaries = (
        [alarm.subject for alarm in status.alarms if alarm.kind == kind] for kind in ("catch-all", "canary")
    )
    warning = messages.warning(
        [*failing(status), *outdated, *messages.held_briefly(status.holds, catch_alls, canaries)]
    )
    print(f"{status.map}: {recipients}, last changed {_ago(status.last_change, now)}{warning}")
    agent = status.agent
    doing = "the agent is running" if status.running else "no agent is running"
    if status.running and agent:
        doing += f" (pid {agent.pid}, watching by {agent.watch or 'nothing'})"
        if agent.next_run:
            left = agent.next_run - now
            doing += (
                f", next run in {spell_seconds(left)}" if left >= 0 else f", next run due {spell_seconds(-left)} ago"
            )
    print(f"last run {_ago(status.last_run, now)}; {doing}")
    rows = [_row(source, now) for source in status.sources]
    table(("SOURCE", "STATE", "MODE", "ENTRIES", "REJECTED", "DATA", "WHOLE", "ASKED"), rows)
    show_rejected(status.sources)
    for source in status.sources:
        show_notes(source)
        if source.error:
            print(f"source {source.name}: failing since {messages.moment(source.failing_since)}: {source.error}")
    for hold in status.holds:
        if hold.waits:
            print(f"{messages.held(hold)} held until {messages.waiting_for(hold)} ({hold.id})")
    for waits in status.waits:
        print(f"in grace: {messages.waits(waits)}")
    for line in (*doubt_lines(status.doubt, now), *lag_lines(status.lags)):
        print(line)
    for alarm in status.alarms:
        say(alarm.text)


def _row(source: SourceStatus, now: float) -> tuple[object, ...]:
    """Return the row of a source. DATA is the time at which its data was made, as far as that is known."""
    state = "outdated" if source.outdated and source.state == "whole" else source.state
    times = (source.last_success, source.last_attempt)
    made = _ago(source.made, now) if source.made else "-"
    return (
        source.name,
        state,
        source.mode or "-",
        source.entries,
        source.rejected,
        made,
        *(_ago(time, now) for time in times),
    )


def doubt_lines(doubt: DoubtStatus | None, now: float) -> Iterator[str]:
    """Yield the lines about the domains in doubt with the reasons, the removed addresses in doubt, and the switch."""
    if doubt is None:
        yield messages.NO_DOUBT_TABLE
        return
    yield from (f"doubt: {messages.doubt_group(group)}" for group in doubt.groups)
    if doubt.addresses:
        yield f"doubt: {messages.doubt_of_removed(doubt.addresses, doubt.addresses_until)}"
    if not doubt.published:
        yield f"doubt: {doubt.table} is not there yet: the first sync makes it"
    elif not doubt.groups:
        yield "doubt: no domain is in doubt; unknown recipients get 550"
    yield f"doubt switch: {messages.switch(doubt, now)}"


def lag_lines(lags: Sequence[Lag]) -> Iterator[str]:
    """Yield the lines about how long a new mailbox may be refused, one for all domains with the same lag."""
    groups: dict[str, list[str]] = {}
    for one in lags:
        groups.setdefault(messages.lag(one), []).append(one.domain)
    for text, domains in groups.items():
        yield f"lag: {messages.some_domains(domains, every=len(domains) == len(lags))}: {text}"


def show_json(status: Status) -> None:
    """Print the status as one JSON object, which also has the exit status."""
    import msgspec

    facts = {**msgspec.to_builtins(status), "exit_code": int(status.exit_code)}
    print(msgspec.json.format(msgspec.json.encode(facts), indent=2).decode())


def _ago(moment: float, now: float) -> str:
    return f"{spell_seconds(max(0, now - moment))} ago" if moment else "never"
