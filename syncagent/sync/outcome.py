"""The result of a run, and its exit status. Pure: facts in, result out."""

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
    from syncagent.model import Lack, Reject, Status
    from syncagent.state.records import Finished
    from syncagent.sync.fetch import Fetched
    from syncagent.sync.plan import Decision
    from syncagent.sync.relay_domains import Domains
    from syncagent.sync.run import Run
    from syncagent.sync.tables import Published

_NO_PLAN = Plan()


def exit_code(status: Status, plan: Plan, *, failing: bool) -> ExitCode:
    """Return the exit status (sysexits.h): 73 before 75 before 65."""
    if status == "failed":
        return ExitCode.CANNOT_PUBLISH
    if failing:
        return ExitCode.TEMPORARY
    held = any(not hold.waits for hold in plan.holds) or plan.held_catch_alls or plan.absent_canaries
    return ExitCode.HELD if held or status == "incomplete" else ExitCode.OK


def unchanged(run: Run, answers: Sequence[Fetched], last: Finished, domains: Domains) -> SyncResult:
    """Return the result of a run that has nothing to do: everything is as the last finished run left it."""
    names = last.domains if domains.mapped else domains.configured
    done = _result(run, "unchanged", answers, last.plan, names)
    return replace(done, recipients=last.published.count, index=last.identities.index)


def planned(decision: Decision) -> SyncResult:
    """Return the result of a dry run."""
    plan, names = decision.plan, decision.diff.relay_domains
    return replace(_result(decision.run, "planned", decision.answers, plan, names), recipients=plan.after)


def incomplete(run: Run, answers: Sequence[Fetched], plan: Plan, missing: Sequence[Lack]) -> SyncResult:
    """Return the result of a run that may not publish: the first map would be incomplete, or there is no recipient."""
    lacks = tuple(map(messages.lack, missing))
    return replace(
        _result(run, "incomplete", answers, plan),
        missing_for_first=lacks,
        missing_facts=tuple(missing),
        error="" if missing else messages.EMPTY_MAP,
    )


def failed(run: Run, answers: Sequence[Fetched], last: Finished | None, error: PublishError) -> SyncResult:
    """Return the result of a run that could not publish: the old map is in place."""
    recipients = last.published.count if last else 0
    return replace(_result(run, "failed", answers), recipients=recipients, error=str(error))


def published(decision: Decision, tables: Published) -> SyncResult:
    """Return the result of a run whose tables are in place, written by it or as they were."""
    status: Status = "published" if tables.written else "unchanged"
    done = _result(decision.run, status, decision.answers, tables.plan, decision.diff.relay_domains)
    return replace(done, recipients=tables.plan.after, index=tables.identities.index)


def _result(
    run: Run, status: Status, answers: Sequence[Fetched], plan: Plan = _NO_PLAN, names: Collection[str] = ()
) -> SyncResult:
    """Return what all results have; ``names`` are the published relay domains."""
    reports = [answer.report for answer in answers]
    notes = (*run.notes, *_empty_domains(names, plan))
    return SyncResult(
        run_id=run.id,
        status=status,
        exit_code=exit_code(status, plan, failing=any(answer.is_failing for answer in answers)),
        map=run.map,
        recipients=0,
        plan=plan,
        sources=tuple(reports),
        rejected=len(run.rejects) + sum(report.rejected for report in reports),
        notes=tuple(map(messages.note, notes)),
        note_facts=notes,
    )


def _empty_domains(relay_domains: Iterable[str], plan: Plan) -> Iterable[Note]:
    """Return a note for each relay domain without a recipient, in every run: Postfix answers 550 to all its mail."""
    served = {change.domain for change in plan.domains if change.after}
    names = (domain for domain in relay_domains if not domain.startswith("."))
    return (Note("domain-empty", domain) for domain in names if domain not in served)


def sampled(own: Sequence[Reject], of_sources: Iterable[Reject]) -> tuple[Reject, ...]:
    """Return the first rejects: those of this run before those of the sources, which are read only as far as needed."""
    return tuple(islice(chain(own, of_sources), SAMPLE))
