"""One run: fetch, state, diff, guard, decide, publish, record, result.

``sync_once`` is the whole run. Its callers, such as the agent, only choose the time and the options.
"""

from __future__ import annotations

import functools
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ParamSpec, TypeAlias

from msgspec.structs import replace

from syncagent import privileges
from syncagent.errors import (
    ExitCode,
    LayoutError,
    LedgerDamagedError,
    LockBusyError,
    PublishError,
    UnknownHoldError,
)
from syncagent.state import messages, opened
from syncagent.state.opened import open_state
from syncagent.sync import (
    approvals,
    confirm,
    doubt_run,
    excepted,
    existing_map,
    fetch,
    outcome,
    plan,
    record,
    rejected,
    rejected_approval,
    relay_domains,
    state_loss,
    state_new,
)
from syncagent.sync.diff import select
from syncagent.sync.origins import Origins
from syncagent.sync.tables import Tables
from syncagent.sync.unchanged import Due, longest_wait, unchanged

if TYPE_CHECKING:
    from syncagent.config.tables import Config
    from syncagent.model import Note, Reject, SyncResult

_P = ParamSpec("_P")
Progress: TypeAlias = Callable[[str, int], None]
"""Callback with the name of the current step and the number of entries so far."""


@dataclass(frozen=True, slots=True)
class Options:
    """The options of a run.

    ``write=False``: a dry run, which writes only to a temporary directory. ``accept_incomplete``: publish a first map
    that lacks something. ``approve``: IDs of holds. ``lock_timeout`` is in seconds.
    """

    write: bool = True
    accept_incomplete: bool = False
    approve: tuple[str, ...] = ()
    lock_timeout: float = 60.0
    due: frozenset[str] | None = None
    """Names of the sources to fetch; the others keep their last answer or failure. None fetches all."""
    run_id: str = ""
    """ID of the run; if empty, a new one is made."""
    excepted: tuple[str, ...] = ()
    """Canonical addresses that stay held, by a hold of their own, though they are held under an ID of ``approve``."""
    leave_now: bool = False
    """Whether a relay domain whose removal is approved leaves the table at once, without a time in doubt."""


@dataclass(frozen=True)
class Run:
    """A run: ID, time in seconds since the epoch, name of the map, and the notes and rejects so far."""

    id: str
    now: float
    map: str
    notes: list[Note]
    rejects: list[Reject] = field(default_factory=list)
    started: float = field(default_factory=time.monotonic)


def new_run_id() -> str:
    """Return a new run ID, such as ``20260131T024107Z-3fa9c1``: time in UTC and six random hexadecimal digits."""
    return f"{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime())}-{secrets.token_hex(3)}"


def clock() -> float:
    """Return the current time in seconds since the epoch, as the time of a run."""
    return time.time()


def ignore(_step: str, _count: int) -> None:
    """Discard a progress report."""


def again_if_damaged(sync: Callable[_P, SyncResult]) -> Callable[_P, SyncResult]:
    """Return ``sync`` wrapped to run once more if it raises LedgerDamagedError: the database is renamed by then.

    The result of the second run then starts with the notes about the damage.
    """

    @functools.wraps(sync)
    def at_most_twice(*args: _P.args, **kwargs: _P.kwargs) -> SyncResult:
        try:
            return sync(*args, **kwargs)
        except LedgerDamagedError as damage:
            notes = damage.notes
        result = sync(*args, **kwargs)
        sentences = (*map(messages.note, notes), *result.notes)
        return replace(result, notes=sentences, note_facts=(*notes, *result.note_facts))

    return at_most_twice


def run_once(
    config: Config, options: Options, progress: Progress = ignore, *, alive_limit: float | None = None
) -> SyncResult:
    """Run once and return the result: ``sync_once``, and doubt around it. The verbs and the agent run by this.

    If the run ends with exit status 70 or 73, or raises such an error, every domain is put in doubt, for which neither
    the state nor its lock is needed. If it completes, the sign of life for the switch is written, with the limit
    ``alive_limit`` in seconds (None: by the time between runs). Raises as ``sync_once`` does.
    """
    try:
        result = sync_once(config, options, progress)
    except (LockBusyError, UnknownHoldError, LayoutError):  # nothing was done; in an unsafe layout nothing may be
        raise
    except Exception:
        doubt_run.everything(config, clock(), write=options.write)
        raise
    if result.exit_code == ExitCode.CANNOT_PUBLISH:
        doubt_run.everything(config, clock(), write=options.write)
        return result
    if options.write and result.status in {"published", "unchanged"}:
        return doubt_run.alive(config, clock(), result, alive_limit)
    return result


@again_if_damaged
def sync_once(config: Config, options: Options, progress: Progress = ignore) -> SyncResult:
    """Run once and return the result.

    Fetch the sources that are due and record their states. Stop if nothing changed since the last finished run.
    Compare the wanted recipients with the published ones, and decide which missing ones are removed. Publish the tables
    that change and record the run, unless it is a dry run or must not publish. The result reports failures of sources
    and of publishing.

    Raises LockBusyError, LedgerError, LayoutError, and UnknownHoldError if an ID in ``options.approve`` cannot be
    approved.
    """
    privileges.require_safe_root(config)
    with open_state(config.state.directory, write=options.write, lock_timeout=options.lock_timeout) as state:
        run = Run(options.run_id or new_run_id(), clock(), str(config.postfix.map), state.notes)
        approvals.check(options.approve, state.holds, run.now)
        entries = rejected_approval.entries(options.approve, config, state, run.now)
        excepted.divide(options.approve, options.excepted, config, state, run)
        rejected_approval.approve(entries, state, run.now)
        last, tables = state.finished, Tables(config, state, run, progress)
        answers = fetch.all_sources(config.sources, state, run, options.due, progress)
        unfinished = record.unfinished(state)
        state.holds |= approvals.void(state.holds, unfinished, run.now)
        record.answers(answers, state)
        all_asked = options.due is None or options.due >= config.sources.keys()
        try:
            state_loss.look(tables.state_file, tables.recipients.text, state, config.limits.removed_window, run.now)
            parting = record.parting(config.postfix, state, run.now, leave_now=options.leave_now)
            known = tables.known_domains()
            domains = relay_domains.decide(config.postfix, answers, known, state.holds, run, parting=parting)
            in_force = tables.doubt.before(answers, domains, map_changed=tables.recipients_changed())
            inputs = record.inputs(config, domains, answers)
            on_record = tables.on_record() and state_new.is_recorded(state.gap, state.holds.values())
            due = Due(run.now, longest_wait(config))
            own_holds = (*domains.holds, *rejected.holds(answers, state.holds, run.now))
            if last and unchanged(last, inputs, state.holds, due, domain_holds=own_holds, on_record=on_record):
                result = record.finish(state, run, answers, outcome.unchanged(run, answers, last, domains))
                return tables.doubt.finish(result, all_asked=all_asked)
            answers = fetch.verify_snapshots(answers, state)
            progress("compare", 0)
            kept = state.open_list(last.kept, "kept-list-damaged") if last else None
            diff = select(config, domains, answers, state.spool)
            before = existing_map.published(tables.recipients, state, diff.relay_domains, kept)
            with Origins(state.last_snapshots, answers, last, run.id) as origins:
                diff.compare(
                    before, kept, plan.policy(config, answers, state.holds, run, anew=bool(unfinished)), origins
                )
            guarded = plan.evaluate(run, state, answers, domains, diff)
            in_force = tables.doubt.with_guard(guarded) and in_force
            decision = plan.decide(guarded, state, may_remove=in_force)
            asked = confirm.ask(plan.going(decision), config.sources, progress)
            decision = plan.confirmed(decision, guarded, state, asked)
            if not tables.doubt.cover(decision):
                decision = plan.decide(guarded, state, may_remove=False)
            may_lack = last is not None or options.accept_incomplete
            missing = () if may_lack else plan.missing_for_first(decision)
            if missing or not decision.plan.after:
                incomplete = outcome.incomplete(run, answers, decision.plan, missing)
                return record.finish(state, run, answers, tables.doubt.stand(incomplete))
            if not options.write:
                return record.finish(state, run, answers, tables.doubt.stand(outcome.planned(decision)))
            published = tables.publish(decision)
        except PublishError as error:  # also if an existing map or table of domains cannot be read
            failed = tables.doubt.stand(outcome.failed(run, answers, last, error))
            return record.finish(state, run, answers, failed)
        result = record.complete(run, answers, outcome.published(decision, published))
        record.published(config, state, decision, published, result)
        return tables.doubt.finish(result, all_asked=all_asked)


def sweep(config: Config) -> None:
    """Remove staging and spool directories of interrupted runs. Do nothing if another run holds the lock.

    An OSError is ignored.
    """
    opened.sweep(config.state.directory, config.postfix)
