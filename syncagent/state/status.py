"""The status, read from the state directory and from the agent's file there. No agent needs to run."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import msgspec
from msgspec import Struct

from syncagent.errors import ExitCode, LockBusyError
from syncagent.files import atomic
from syncagent.model import DOMAIN_HOLD, Hold, SourceState, Waits
from syncagent.state import alarms as conditions
from syncagent.state import content_age, doubt_status, lag, looks, messages, recorded_rejects
from syncagent.state.alarms import Alarm
from syncagent.state.database import reading
from syncagent.state.doubt_groups import Causes
from syncagent.state.doubt_status import DoubtStatus, Recorded
from syncagent.state.lag import Lag
from syncagent.state.not_relayed import NotRelayed

if TYPE_CHECKING:
    from collections.abc import Mapping

    from syncagent.config.tables import Config
    from syncagent.model import Plan
    from syncagent.state.database import Ledger
    from syncagent.state.records import Finished
    from syncagent.state.rejects import Rejected

AGENT_FILE, AGENT_LOCK = "agent.json", "agent.lock"


class LastRun(Struct, frozen=True):
    """The result of the agent's last run. ``finished`` is in seconds since the epoch, ``seconds`` the duration."""

    run_id: str
    finished: float
    status: str
    exit_code: int
    seconds: float
    error: str = ""
    lacks: tuple[str, ...] = ()


class AgentState(Struct, frozen=True):
    """The content of ``agent.json``, which the agent writes for ``status``. Times are in seconds since the epoch."""

    pid: int
    started: float
    next_run: float | None = None
    watch: str = ""
    watch_rebuilt: int = 0
    runs: dict[str, int] = {}
    last: LastRun | None = None
    told: dict[str, dict[str, Alarm]] = {}
    """Alarms that were sent, as a mapping from the way (see notify.WAYS) and ``Alarm.key``."""
    told_at: dict[str, dict[str, float]] = {}
    """When each of them was last sent, as the same mapping."""
    not_relayed: NotRelayed = NotRelayed()
    """The last answer of DNS about domains out of scope."""
    refused: str = ""
    """Message with the remedy if the agent rejected a changed configuration and still uses the old one, else ""."""


class SourceStatus(Struct, frozen=True):
    """The status of a source. ``age`` is the age of its last answer in seconds, None if no fetch has succeeded.

    ``made``, ``expires`` and ``changed`` are times of its data: when it was made, by itself or its file; when it
    expires; when it last changed. 0 if there is none. ``outdated``: the data was too old at ``outdated_at``, 0 if it
    has no limit of age.
    """

    name: str
    state: Literal["whole", "failing", "never asked"]
    mode: str
    entries: int
    rejected: int
    last_success: float
    last_attempt: float
    age: float | None
    stale: bool
    failing_since: float
    error: str
    kind: str
    made: float = 0.0
    expires: float = 0.0
    changed: float = 0.0
    outdated: bool = False
    outdated_at: float = 0.0
    rejected_held: int = 0
    """Number of the rejected entries that are held: no person approved them, and the key ``ignore`` matches none."""
    rejected_ignored: int = 0
    """Number of the rejected entries that the key ``ignore`` matches."""
    refused: int = 0
    """Number of keys that the source itself refuses, such as by REJECT in a table: they are no recipients."""
    notes: tuple[str, ...] = ()
    """Notes of its last answer."""


class Status(Struct, frozen=True, kw_only=True):
    """The status of map, sources, holds and agent. Times are in seconds since the epoch, 0 if there is none."""

    map: str
    recipients: int
    domains: dict[str, int]
    last_run: float
    last_change: float
    oldest_data: float
    sources: tuple[SourceStatus, ...]
    holds: tuple[Hold, ...]
    alarms: tuple[Alarm, ...]
    running: bool
    agent: AgentState | None
    doubt: DoubtStatus | None = None
    """The doubt table, None if postfix.doubt_map is not set."""
    lags: tuple[Lag, ...] = ()
    """How long a new mailbox of each relay domain may be refused; none if it cannot be known."""
    waits: tuple[Waits, ...] = ()
    """Recipients that no source lists any more, and that stay for a time, by the reason."""
    removals_due: float | None = None
    """When the next waiting removal is decided, in seconds since the epoch; None if none waits for a time."""
    looks: dict[str, float] = {}
    """When each source that owes a confirming look is asked for it, in seconds since the epoch."""
    not_relayed: dict[str, str] = {}
    """Domains with recipients that are not relayed, though DNS leads their mail to this host, with that MX."""

    @property
    def exit_code(self) -> ExitCode:
        """The exit status: the first of 73 publishing failed, 75 stale or outdated, 78 configuration, 65 any alarm, 0.

        Doubt changes it only if the doubt table could not be published: 73.
        """
        kinds = {alarm.kind for alarm in self.alarms} - {"doubt"}
        if kinds & {"publish-failed", "doubt-not-in-force"}:
            return ExitCode.CANNOT_PUBLISH
        if kinds & {"stale", "outdated"}:
            return ExitCode.TEMPORARY
        if "configuration" in kinds:
            return ExitCode.CONFIG
        return ExitCode.HELD if kinds else ExitCode.OK


def read(config: Config, now: float | None = None, agent: AgentState | None = None) -> Status:
    """Return the status at time ``now`` (default: the current time). Nothing is written.

    ``agent`` is the state of the calling agent; None reads it from its file. Raises LedgerError if the state cannot be
    read.
    """
    now = time.time() if now is None else now
    directory = config.state.directory
    running, own = is_running(directory), agent is not None
    with reading(directory) as ledger:
        finished, last_change, failure = ledger.finished, ledger.last_change(), ledger.standing_failure()
        states, holds = ledger.sources, tuple(ledger.holds.values())
        recorded = doubt_status.recorded(config.postfix, ledger, now)
        lags = _lags(config, ledger, recorded, by_agent=running or own)
        rejected = recorded_rejects.of_sources(config, ledger)
    agent = agent or read_agent(directory)
    sources = tuple(
        _source(config, states.get(name, SourceState(name)), rejected[name], now) for name in config.sources
    )
    last = agent.last if agent else None
    attempts = [source.last_attempt for source in sources]
    plan = finished.plan if finished else None
    alarms = [*_stale(config, sources), *_outdated(sources), *_held(config, holds)]
    if failure:
        alarms.append(Alarm("publish-failed", str(config.postfix.map), failure))
    elif (
        last and last.error and last.finished >= max((at for at in attempts if at <= now), default=0.0)
    ):  # otherwise a later run by hand supersedes it
        alarms.append(Alarm("publish-failed", str(config.postfix.map), last.error))
    if plan:
        alarms += [Alarm("catch-all", name, messages.held_catch_all(name)) for name in plan.held_catch_alls]
        alarms += [Alarm("canary", name, messages.absent_canary(name)) for name in plan.absent_canaries]
        alarms += conditions.of_waits(plan.waits, now)
    elif any(attempts) and not failure:
        text = messages.nothing_published(last.lacks if last else (), config.command("plan"))
        alarms.append(Alarm("incomplete", str(config.postfix.map), text))
    not_relayed = standing_not_relayed(config, agent, plan, now)
    for name, mx in not_relayed.items():
        text = messages.domain_not_relayed(name, mx, plan.out_of_scope[name] if plan else 0)
        alarms.append(Alarm("domain-not-relayed", name, text))
    if agent and agent.refused and (own or running):  # a new agent rejects the file itself
        alarms.append(Alarm("configuration", str(config.file), agent.refused))
    causes = _causes(config, sources, holds, plan)
    if recorded:
        alarms += conditions.of_doubts(recorded.doubts, recorded.relay_domains, causes, now)
        alarms += conditions.of_doubt_table(str(config.postfix.doubt_map), recorded.record.error)
    return Status(
        map=str(config.postfix.map),
        recipients=finished.published.count if finished else 0,
        domains={change.domain: change.after for change in plan.domains} if plan else {},
        last_run=max([*attempts, last.finished if last else 0.0]),
        last_change=last_change,
        oldest_data=min(source.last_success for source in sources),
        sources=sources,
        holds=holds,
        alarms=tuple(alarms),
        running=running,
        agent=agent,
        doubt=doubt_status.of(recorded, causes, now) if recorded else None,
        lags=lags,
        waits=plan.waits if plan else (),
        removals_due=finished.next_due if finished else None,
        looks=_looks(finished, states),
        not_relayed=not_relayed,
    )


def standing_not_relayed(config: Config, agent: AgentState | None, plan: Plan | None, now: float) -> dict[str, str]:
    """Return the domains of recipients that are not relayed though DNS leads their mail here, with that MX.

    It is as the agent asked DNS last, without domains that are relayed or without recipients by now.
    """
    if agent is None or plan is None:
        return {}
    scope = frozenset(map(str, config.postfix.relay_domains))
    return agent.not_relayed.standing(plan.out_of_scope, scope, now)


def _looks(finished: Finished | None, states: Mapping[str, SourceState]) -> dict[str, float]:
    due = finished.looks if finished else {}
    moments = {name: looks.next_look(due.get(name), state) for name, state in states.items()}
    return {name: moment for name, moment in moments.items() if moment is not None}


_MOST = 16 << 20
"""Maximum size of ``agent.json`` in octets."""


def _source(config: Config, state: SourceState, rejected: Rejected, now: float) -> SourceStatus:
    name = state.name
    age = max(0.0, now - state.last_success) if state.last_success else None
    since = state.last_success or state.failing_since or now
    outdated_at = content_age.outdated_at(state, config.sources[name].common.content_max_age)
    return SourceStatus(
        name=name,
        state="failing" if state.error_kind else "whole" if state.last_success else "never asked",
        mode=state.mode,
        entries=state.snapshot.entries if state.snapshot else 0,
        rejected=state.snapshot.rejected if state.snapshot else 0,
        last_success=state.last_success,
        last_attempt=state.last_attempt,
        age=age,
        stale=abs(now - since) > config.max_age(name) or not state.last_attempt,  # in the future: the clock was wrong
        failing_since=state.failing_since,
        error=state.error,
        kind=str(state.error_kind or ""),
        made=content_age.data_made(state),
        expires=state.expires,
        changed=state.changed,
        outdated=bool(outdated_at) and now >= outdated_at,
        outdated_at=outdated_at,
        rejected_held=rejected.held,
        rejected_ignored=rejected.ignored,
        refused=state.snapshot.refused if state.snapshot else 0,
        notes=state.notes,
    )


def _outdated(sources: tuple[SourceStatus, ...]) -> list[Alarm]:
    return [
        Alarm("outdated", source.name, messages.outdated_source(source.name, source.made, source.outdated_at))
        for source in sources
        if source.outdated
    ]


def _stale(config: Config, sources: tuple[SourceStatus, ...]) -> list[Alarm]:
    alarms = []
    for source in sources:
        if source.stale:
            attempted = bool(source.last_attempt)
            limit = config.max_age(source.name)
            text = messages.stale_source(source.name, source.age, limit, source.error, attempted=attempted)
            alarms.append(Alarm("stale", source.name, text))
    return alarms


def _held(config: Config, holds: tuple[Hold, ...]) -> list[Alarm]:
    return [conditions.of_hold(hold, config.command("approve", hold.id)) for hold in holds if not hold.waits]


def _lags(config: Config, ledger: Ledger, recorded: Recorded | None, *, by_agent: bool) -> tuple[Lag, ...]:
    """Return the lag of each relay domain. Without an agent it is known by the times of runs beside the doubt table."""
    if not by_agent and recorded is None:
        return ()
    gap = None if by_agent or recorded is None else recorded.files.longest_gap()
    return lag.of_domains(config, ledger.concerns, doubt_status.relay_domains_of(config.postfix, ledger), gap)


def _causes(config: Config, sources: tuple[SourceStatus, ...], holds: tuple[Hold, ...], plan: Plan | None) -> Causes:
    """Return the causes of doubt that have an alarm of their own, now or later."""
    failing = [source for source in sources if source.state == "failing"]
    return Causes(
        stale_at={
            source.name: (source.last_success or source.failing_since) + config.max_age(source.name)
            for source in failing
        },
        held={hold.domain.removeprefix(DOMAIN_HOLD) for hold in holds if not hold.waits},
        catch_alls={(domain, source) for domain, names in (plan.unlisted if plan else {}).items() for source in names},
        published=plan is not None,
    )


def is_running(directory: Path) -> bool:
    """True if an agent holds the lock ``agent.lock`` of the state directory."""
    try:
        with atomic.locked(directory / AGENT_LOCK, 0, shared=True):
            return False
    except LockBusyError:
        return True
    except PermissionError:
        return _is_flocked(directory / AGENT_LOCK)
    except OSError:
        return False


def _is_flocked(path: Path) -> bool:
    """True if /proc/locks (proc_locks(5)) lists an flock on the file. Works without permission to open it."""
    try:
        found = path.stat()
        locks = Path("/proc/locks").read_text(encoding="ascii").splitlines()
    except OSError:
        return False
    device = f"{os.major(found.st_dev):02x}:{os.minor(found.st_dev):02x}:{found.st_ino}"
    return any("FLOCK" in line and device in line.split() for line in locks)


def read_agent(directory: Path) -> AgentState | None:
    """Return the state in ``agent.json``, None if the file is missing, unreadable or invalid."""
    try:
        return msgspec.json.decode(atomic.read_foreign(directory / AGENT_FILE, _MOST), type=AgentState)
    except (OSError, msgspec.DecodeError):
        return None


def write_agent(directory: Path, state: AgentState) -> None:
    """Write the agent's state to ``agent.json`` atomically. Raises OSError."""
    atomic.write_whole(directory / AGENT_FILE, msgspec.json.encode(state), 0o640, lasting=False)
