"""Construction of the result of a run, with its exit status. It is pure: no files, no clock."""

from __future__ import annotations

from itertools import chain, islice
from typing import TYPE_CHECKING

from msgspec.structs import replace

from syncagent.errors import ExitCode
from syncagent.model import SAMPLE, Note, Plan, SyncResult
from syncagent.state import messages

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Sequence

    from syncagent.errors import PublishError
    from syncagent.model import Doubt, Lack, Reject, SourceReport, Status
    from syncagent.state.records import Finished
    from syncagent.sync.fetch import Fetched
    from syncagent.sync.plan import Decision
    from syncagent.sync.relay_domains import Domains
    from syncagent.sync.run import Run
    from syncagent.sync.tables import Published

_NO_PLAN = Plan()


def exit_code(status: Status, plan: Plan, *, failing: bool, doubt_error: str = "") -> ExitCode:
    """Return the first exit status that applies: 73 publishing failed, 75 a source fails, 65 held or incomplete, 0.

    ``failing``: a source fails, or its data is outdated.
    ``doubt_error``: why the doubt table could not be published.
    """
    if status == "failed" or doubt_error:
        return ExitCode.CANNOT_PUBLISH
    if failing:
        return ExitCode.TEMPORARY
    held = any(not hold.waits for hold in plan.holds) or plan.held_catch_alls or plan.absent_canaries
    return ExitCode.HELD if held or status == "incomplete" else ExitCode.OK


def _is_unwell(report: SourceReport) -> bool:
    """True if a source fails, or its data is outdated."""
    return report.state == "failing" or report.outdated


def unchanged(run: Run, answers: Sequence[Fetched], last: Finished, domains: Domains) -> SyncResult:
    """Return the result of a run without changes since the last finished run, with the plan of that run."""
    names = last.domains if domains.mapped else domains.configured
    done = _result(run, "unchanged", answers, last.plan, names)
    return replace(done, recipients=last.published.count, index=last.identities.index)


def planned(decision: Decision) -> SyncResult:
    """Return the result of a dry run."""
    plan, names = decision.plan, decision.diff.relay_domains
    return replace(_result(decision.run, "planned", decision.answers, plan, names), recipients=plan.after)


def incomplete(run: Run, answers: Sequence[Fetched], plan: Plan, missing: Sequence[Lack]) -> SyncResult:
    """Return the result of a run that may not publish, since a first run lacks something or no recipient is left."""
    lacks = tuple(map(messages.lack, missing))
    if missing:  # nothing is recorded: what a first run lacks is told, and no hold
        plan = replace(plan, holds=tuple(hold for hold in plan.holds if not hold.rejecting))
    return replace(
        _result(run, "incomplete", answers, plan),
        missing_for_first=lacks,
        missing_facts=tuple(missing),
        error="" if missing else messages.EMPTY_MAP,
    )


def failed(run: Run, answers: Sequence[Fetched], last: Finished | None, error: PublishError) -> SyncResult:
    """Return the result of a run that ended with a PublishError."""
    recipients = last.published.count if last else 0
    return replace(_result(run, "failed", answers), recipients=recipients, error=str(error))


def published(decision: Decision, tables: Published) -> SyncResult:
    """Return the result of a run whose tables are in place: "published" if it wrote any, else "unchanged"."""
    status: Status = "published" if tables.written else "unchanged"
    done = _result(decision.run, status, decision.answers, tables.plan, decision.diff.relay_domains)
    return replace(done, recipients=tables.plan.after, index=tables.identities.index)


def with_doubt(result: SyncResult, doubts: Sequence[Doubt], due: float | None, error: str) -> SyncResult:
    """Return the result with the doubt that stands; the exit status is 73 if the doubt table is not in force."""
    failing = any(map(_is_unwell, result.sources))
    code = exit_code(result.status, result.plan, failing=failing, doubt_error=error)
    return replace(result, doubts=tuple(doubts), doubt_due=due, doubt_error=error, exit_code=code)


def _result(
    run: Run, status: Status, answers: Sequence[Fetched], plan: Plan = _NO_PLAN, names: Collection[str] = ()
) -> SyncResult:
    """Return a result with the fields that all results share. ``names`` are the published relay domains."""
    reports = [answer.report for answer in answers]
    notes = (*run.notes, *_empty_domains(names, plan))
    return SyncResult(
        run_id=run.id,
        status=status,
        exit_code=exit_code(status, plan, failing=any(map(_is_unwell, reports))),
        map=run.map,
        recipients=0,
        plan=plan,
        sources=tuple(reports),
        rejected=len(run.rejects) + sum(report.rejected for report in reports),
        notes=tuple(map(messages.note, notes)),
        note_facts=notes,
    )


def _empty_domains(relay_domains: Iterable[str], plan: Plan) -> Iterable[Note]:
    """Return notes for the relay domains without recipients: Postfix rejects all their mail with 550."""
    served = {change.domain for change in plan.domains if change.after}
    names = (domain for domain in relay_domains if not domain.startswith("."))
    return (Note("domain-empty", domain) for domain in names if domain not in served)


def sampled(own: Sequence[Reject], of_sources: Iterable[Reject]) -> tuple[Reject, ...]:
    """Return at most SAMPLE rejects, those of the run first. ``of_sources`` is read only as far as needed."""
    return tuple(islice(chain(own, of_sources), SAMPLE))
