"""Output of the verbs: text for people, with colours only on a terminal, and JSON."""

from __future__ import annotations

import sys
import time
from collections import Counter
from typing import TYPE_CHECKING, Any

from syncagent.errors import printable
from syncagent.model import SAMPLE
from syncagent.state import messages
from syncagent.values.types import spell_seconds

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from syncagent.checks import Checked
    from syncagent.checks.finding import Step
    from syncagent.cli.explain import Explanation
    from syncagent.config.tables import Config
    from syncagent.model import Hold, Plan, SourceReport, StepReport, SyncResult
    from syncagent.sources.http.recipe.dry_run import DryRunResult
    from syncagent.state.history import Change, Run
    from syncagent.state.status import Status

_PATIENCE = 1.0
_HEAD = {
    "unchanged": "{map} unchanged, {recipients}",
    "published": "published {map}, {recipients}",
    "planned": "a sync would leave {recipients} in {map}; nothing was written",
    "incomplete": "NOT published: {map} is left as it is",
    "failed": "NOT published: {map} is left as it was",
}
_COLOURS = {"error": "bold red", "warning": "yellow", "ok": "green", "skipped": "cyan"}


class Progress:
    """The progress line of a run, on standard error: only on a terminal, and once the run has taken a second."""

    def __init__(self) -> None:
        """Start the clock; nothing is shown yet."""
        self._end_of_patience = time.monotonic() + _PATIENCE
        self._shown: Any = None
        self._began: dict[str, float] = {}
        self._active = sys.stderr.isatty()

    def __call__(self, step: str, count: int) -> None:
        """Show a step with its number of entries so far, and the rate per second; without both if ``count`` is 0.

        Nothing is shown in the first second of the run, or if standard error is not a terminal.
        """
        began = self._began.setdefault(step, time.monotonic())
        if not self._active or time.monotonic() < self._end_of_patience:
            return
        if self._shown is None:
            from rich.console import Console

            self._shown = Console(stderr=True).status("")
            self._shown.start()
        rate = count / max(time.monotonic() - began, 0.001)
        self._shown.update(f"{step}: {count:,} ({rate:,.0f}/s)" if count else step)

    def close(self) -> None:
        """Remove the progress line from the terminal."""
        if self._shown is not None:
            self._shown.stop()


def result(result: SyncResult, config: Config, *, steps: bool = False) -> None:
    """Print the result of a run. The errors of sources and of publishing go to standard error.

    ``steps`` adds the counts of each source's steps.
    """
    print(_first_line(result))
    held: Counter[str] = Counter()
    for hold in result.plan.holds:
        held[hold.domain] += hold.count
    changes = [
        (change.domain, change.before, change.added, change.removed, change.kept, held[change.domain], change.after)
        for change in result.plan.domains
        if change.added or change.removed or change.kept or result.status != "unchanged"
    ]
    if changes:
        table(("DOMAIN", "BEFORE", "ADDED", "REMOVED", "KEPT", "HELD", "AFTER"), changes)
    _samples("+ domain", result.plan.domains_added, len(result.plan.domains_added))
    _samples("- domain", result.plan.domains_removed, len(result.plan.domains_removed))
    _samples("+", result.plan.added_sample, result.plan.added)
    _samples("-", result.plan.removed_sample, result.plan.removed)
    _sources(result.sources, steps=steps)
    if result.plan.in_grace:
        print(f"in grace (limits.removal_grace), kept for now: {messages.counted(result.plan.in_grace, 'recipient')}")
    _rejects(result)
    for note in result.notes:
        print(f"note: {note}")
    _held(result.plan, config)
    if result.missing_for_first:
        print("the map is not there yet, and the first one would not be whole:")
        for text in result.missing_for_first:
            print(f"  {text}")
        print(f"to publish it all the same: {config.command('sync', '--accept-incomplete')}")
    for source in result.sources:
        if source.error:
            say(f"source {source.name} is failing ({source.kind}): {source.error}")
    if result.error:
        say(f"not published: {result.error}")


def _first_line(result: SyncResult) -> str:
    """Return the first line: the outcome of the run, and warnings about failing sources and holds."""
    head = _HEAD[result.status].format(map=result.map, recipients=messages.counted(result.recipients, "recipient"))
    failing = [
        messages.failing_source(source.name, source.failing_since, source.data_from)
        for source in result.sources
        if source.state == "failing"
    ]
    plan = result.plan
    return head + messages.warning(
        [*failing, *messages.held_briefly(plan.holds, plan.held_catch_alls, plan.absent_canaries)]
    )


def say(text: str) -> None:
    """Print a message to standard error, with the prefix ``syncagent: ``."""
    print(f"syncagent: {text}", file=sys.stderr)


def table(heads: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Print rows in columns. A column is right-aligned if its first cell begins with a digit.

    Integers get thousands separators. Only a terminal gets rich, which wraps long cells: every sync prints a table, and
    one that runs from cron must not take the time to import rich.
    """
    texts = [[f"{cell:,}" if isinstance(cell, int) else str(cell) for cell in row] for row in rows]
    if sys.stdout.isatty():
        from rich.console import Console
        from rich.table import Table
        from rich.text import Text

        shown = Table(box=None, pad_edge=False)
        for index, head in enumerate(heads):
            shown.add_column(
                head, justify="right" if texts and texts[0][index][:1].isdigit() else "left", overflow="fold"
            )
        for row in texts:
            shown.add_row(*map(Text, row))
        Console().print(shown)
        return
    widths = [max(len(row[column]) for row in [list(heads), *texts]) for column in range(len(heads))]
    for row in [list(heads), *texts]:
        cells = [
            cell.rjust(width) if texts and texts[0][column][:1].isdigit() else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        print("  ".join(cells).rstrip())


def _samples(sign: str, sample: Sequence[str], count: int) -> None:
    for address in sample:
        _changed(f"  {sign} {printable(address)}", new=sign.startswith("+"))
    if count > len(sample):
        _changed(f"  {sign} ... and {count - len(sample):,} more", new=sign.startswith("+"))


def _changed(text: str, *, new: bool) -> None:
    """Print a line about an addition (``new``) or a removal: green or red on a terminal."""
    if not sys.stdout.isatty():
        print(text)
        return
    from rich.console import Console
    from rich.text import Text

    Console().print(Text(text, "green" if new else "red"), soft_wrap=True)


def _sources(reports: Sequence[SourceReport], *, steps: bool) -> None:
    rows = [(one.name, _answer(one), one.entries, one.rejected, f"{one.seconds:.2f}s") for one in reports]
    table(("SOURCE", "ANSWER", "ENTRIES", "REJECTED", "TOOK"), rows)
    for one in reports:
        for note in one.notes:
            print(f"note: {one.name}: {note}")
        if steps:
            _steps(one.name, one.steps)


def _answer(report: SourceReport) -> str:
    return f"{report.state} ({report.mode})" if report.mode else report.state


def _rejects(result: SyncResult) -> None:
    if result.rejected:
        print(f"rejected: {result.rejected:,} entries cannot be recipients")
    for reject in result.reject_sample:
        where = f" ({reject.source}, {reject.key})" if reject.source else ""
        print(f"  {printable(reject.spelled)}: {reject.reason}{where}")
    if result.rejected > len(result.reject_sample):
        print(f"  ... and {result.rejected - len(result.reject_sample):,} more")
    outside = result.plan.out_of_scope
    if outside:
        named = ", ".join(f"{domain} {count:,}" for domain, count in list(outside.items())[:5])
        more = ", ..." if len(outside) > 5 else ""  # noqa: PLR2004 - the number shown above
        entries = f"{sum(outside.values()):,} {'entry' if sum(outside.values()) == 1 else 'entries'}"
        print(f"out of scope: {entries} outside relay_domains: {named}{more}")


def _held(plan: Plan, config: Config) -> None:
    for hold in plan.holds:
        print(f"held: {messages.held(hold)}{_since(hold)}")
        for reason in hold.reasons:
            print(f"  {reason.text}")
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


def remedy_text(remedy: Step) -> str:
    """Return a remedy as `check` prints it.

    ``# `` precedes a remedy that is not to be typed: an instruction for a person, or any remedy with ``when``.
    """
    from syncagent.checks.finding import File, Shell, Zone

    if isinstance(remedy, Shell):
        text, mark = remedy.command, ""
    elif isinstance(remedy, File):
        text, mark = f"in {remedy.path}, [{remedy.section}]: {remedy.write}", ""
    elif isinstance(remedy, Zone):
        text, mark = remedy.record + (f"\n; {remedy.note}" if remedy.note else ""), ""
    else:
        text, mark = remedy.text, "# "
    return f"# {remedy.when} {text}" if remedy.when else f"{mark}{text}"


def remedies_text(remedies: Iterable[Step]) -> str:
    """Return the remedies of a finding as text, separated by line feeds."""
    return "\n".join(map(remedy_text, remedies))


def checked_fields(found: Checked) -> dict[str, Any]:
    """Return the object that `check --json` prints. The key ``mend`` of a finding has its remedies as text."""
    import msgspec

    fields: dict[str, Any] = msgspec.to_builtins(found)
    for finding, shown in zip(found.findings, fields["findings"], strict=True):
        shown["mend"] = remedies_text(finding.remedies)
    return fields


def checked(found: Checked) -> None:
    """Print the result of `check`: sources, findings, each with its remedies below it, and counts.

    Lines are not wrapped, so that a remedy can be copied. The errors of sources go to standard error.
    """
    _sources(found.sources, steps=True)
    print()
    width = max(len(one.check) for one in found.findings)
    for one in found.findings:
        _line(one.severity, one.check.ljust(width), printable(": ".join(filter(None, (one.subject, one.text)))))
        for line in remedies_text(one.remedies).splitlines():
            _line("", "", f"  {printable(line)}", "bold")
    if found.then:
        _line("then", " " * width, found.then, "bold")
    print(f"errors: {found.errors}, warnings: {found.warnings}")
    for source in found.sources:
        if source.error:
            say(f"source {source.name} is failing ({source.kind}): {source.error}")


def _line(severity: str, check: str, text: str, style: str = "") -> None:
    """Print severity, check and text in columns. On a terminal the line has colours; it is never wrapped."""
    columns = (f"{severity:<7}", *([check] if check else []), text)
    if not sys.stdout.isatty():
        print("  ".join(columns).rstrip())
        return
    from rich.console import Console
    from rich.text import Text

    styles = (_COLOURS.get(severity, ""), *(["dim"] if check else []), style)
    Console().print(Text("  ").join(map(Text, columns, styles)), soft_wrap=True)


def _steps(name: str, steps: Sequence[StepReport]) -> None:
    """Print the counts of each step of a source, with sample addresses; nothing if there are no steps."""
    if steps:
        print(f"{name}, step by step:")
        rows = [(one.name, one.pages, one.records, one.kept, one.emitted, _some(one)) for one in steps]
        table(("STEP", "PAGES", "RECORDS", "KEPT", "EMITTED", "SUCH AS"), rows)


def _some(step: StepReport) -> str:
    return ", ".join(map(printable, step.sample)) or "-"


def dry_run_result(result: DryRunResult) -> None:
    """Print the result of a recipe on a fixture; differences from the expected addresses go to standard error."""
    _steps("the recipe", result.answer.steps)
    for note in result.answer.notes:
        print(f"note: {note}")
    for address in result.addresses:
        print(f"  {printable(address)}{' (not expected)' if address in result.unexpected else ''}")
    for spelled, reason in result.rejected:
        print(f"  {printable(spelled)}: rejected: {reason}")
    for address in result.missing:
        say(f"{printable(address)} was expected, and did not come out")
    if result.unexpected:
        say(f"{len(result.unexpected)} came out that were not expected")


def status(status: Status) -> None:
    """Print the status: map, agent, sources, and holds that wait for a source. Alarms go to standard error."""
    now = time.time()
    recipients = messages.counted(status.recipients, "recipient")
    failing = [
        messages.failing_source(source.name, source.failing_since, source.last_success)
        for source in status.sources
        if source.state == "failing"
    ]
    catch_alls, canaries = (
        [alarm.subject for alarm in status.alarms if alarm.kind == kind] for kind in ("catch-all", "canary")
    )
    warning = messages.warning([*failing, *messages.held_briefly(status.holds, catch_alls, canaries)])
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
    rows = [
        (one.name, one.state, one.mode or "-", one.entries, _ago(one.last_success, now), _ago(one.last_attempt, now))
        for one in status.sources
    ]
    table(("SOURCE", "STATE", "MODE", "ENTRIES", "WHOLE", "ASKED"), rows)
    for source in status.sources:
        if source.error:
            print(f"source {source.name}: failing since {messages.moment(source.failing_since)}: {source.error}")
    for hold in status.holds:
        if hold.waits:
            print(f"{messages.held(hold)} held until no source fails")
    for alarm in status.alarms:
        say(alarm.text)


def _ago(moment: float, now: float) -> str:
    return f"{spell_seconds(max(0, now - moment))} ago" if moment else "never"


def explained(one: Explanation) -> None:
    """Print whether an address is in the map, the reasons, its sources and changes, and the lookups of Postfix.

    The last line is the verdict: the reply of Postfix.
    """
    headline, reasons = _headline(one)
    print(headline)
    if one.canonical not in {"", one.spelled}:
        print(f"spelled {printable(one.spelled)}")
    if one.said:
        table(
            ("SOURCE", "KEY", "LABEL"), [(said.source, printable(said.key), printable(said.label)) for said in one.said]
        )
    for reason in reasons:
        print(f"- {reason}")
    for at, change in one.happened:
        print(f"{messages.moment(at)} {_happened(change)}")
    if one.asked:
        print("Postfix looks up, in this order:")
        table(
            ("KEY", "THE MAP SAYS"),
            [(printable(asked.key), asked.found or asked.trouble or "nothing") for asked in one.asked],
        )
    print(one.verdict)


def _headline(one: Explanation) -> tuple[str, tuple[str, ...]]:
    """Return the first line and the reasons to show below it.

    The first line says whether the address is in the map. It also has the sources or the main reason.
    """
    address = printable(one.canonical or one.spelled)
    failure = next((row.trouble for row in one.asked if row.trouble), "")
    if failure:
        return f"cannot tell whether {address} is in the map: {failure}", one.reasons
    since = f" since {messages.moment(one.since)}{'' if one.happened else ', or longer'}" if one.since else ""
    headline = f"{address} is IN the map{since}." if one.published else f"{address} is NOT in the map."
    if one.published and one.said:
        sources = ", ".join(dict.fromkeys(entry.source for entry in one.said))
        return f"{headline} Listed by {sources}.", one.reasons
    main = "".join(f" {reason[:1].upper()}{reason[1:]}." for reason in one.reasons[:1])
    return headline + main, one.reasons[1:]


def past(runs: Sequence[Run]) -> None:
    """Print the runs of the history, each with its time, counts and changes."""
    if not runs:
        print("nothing changed")
    width = max((len(_came_to(run)) for run in runs), default=0)
    for run in runs:
        counts = f"{f'+{run.added:,}':>9} {f'-{run.removed:,}':>9}"
        print(f"{messages.moment(run.at)}  {_came_to(run):<{width}} {counts}  {run.run_id}{_because(run.error)}")
        for change in run.changes:
            _changed(f"    {_happened(change)}", new=change.added)
        left = run.added + run.removed - sum(not change.is_domain for change in run.changes)
        if run.changes and left > 0:
            print(f"    ... and {left:,} more")


def _came_to(run: Run) -> str:
    return "first import" if run.first_import else run.status


def _because(error: str) -> str:
    return f": {error}" if error else ""


def _happened(change: Change) -> str:
    if change.is_domain:
        verb = "added" if change.added else "removed"
        reported = f": reported by {', '.join(change.sources)}" if change.sources else ""
        return f"{'+' if change.added else '-'} domain {printable(change.address)} {verb}{reported}"
    sources = ", ".join(change.sources) or "?"
    verb = "added: it is in" if change.added else "removed: it was last in"
    return f"{'+' if change.added else '-'} {printable(change.address)} {verb} {sources}"


def structure(value: object) -> None:
    """Print a value as indented JSON."""
    import msgspec

    print(msgspec.json.format(msgspec.json.encode(value), indent=2).decode())


def status_as_json(status: Status) -> None:
    """Print the status as one JSON object, which also has the exit status."""
    import msgspec

    facts = {**msgspec.to_builtins(status), "exit_code": int(status.exit_code)}
    print(msgspec.json.format(msgspec.json.encode(facts), indent=2).decode())


def as_json(result: SyncResult) -> None:
    """Print the result of a run as one JSON object."""
    structure(result)
