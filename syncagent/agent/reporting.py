"""The reports of the agent on each run: log, status file, metrics, systemd and notifications."""

from __future__ import annotations

import os
import threading
import time
from functools import partial
from typing import TYPE_CHECKING, Any

from msgspec.structs import replace

from syncagent.agent import notify
from syncagent.agent.supervisor import tell_systemd
from syncagent.errors import ExitCode, LedgerError, printable
from syncagent.model import SAMPLE
from syncagent.state import messages, status
from syncagent.state.alarms import Alarm
from syncagent.state.doubt_groups import INTENDED

if TYPE_CHECKING:
    from pathlib import Path

    from syncagent.config.tables import Config
    from syncagent.model import SourceReport, SyncResult
    from syncagent.state.doubt_status import DoubtStatus
    from syncagent.state.not_relayed import NotRelayed
    from syncagent.state.status import LastRun, Status


class Reporter:
    """The reporter of an agent's runs. It stores which failures it has logged, so that it logs each of them once."""

    def __init__(self, logger: Any) -> None:  # noqa: ANN401 - structlog's own type is lazy
        """Start with nothing reported."""
        self._log = logger
        self._failing: dict[str, str] = {}
        self._failure = ""
        self._notes: frozenset[str] = frozenset()
        self._rejected: dict[str, int] = {}
        self._alarms: dict[str, Alarm] = {}
        self._in_doubt: frozenset[str] = frozenset()
        self._wrong: dict[str, str] = {}
        self._refused = ""
        self._saving = threading.Lock()  # the notifier's thread calls _keep() too
        self._state = status.AgentState(os.getpid(), time.time())
        self._notifier: notify.Notifier | None = None

    def tell(
        self,
        config: Config,
        result: SyncResult | None,
        last: LastRun,
        next_run: float | None,
        watch: tuple[str, int],
    ) -> Status | None:
        """Report a run by log, status file, notifications, metrics and systemd. Return the status, if it can be read.

        An error in writing the status file or metrics, or in a notification, is logged and does not stop the rest.
        """
        if result:
            self._log_result(result)
        runs = {**self._state.runs, last.status: self._state.runs.get(last.status, 0) + 1}
        mode, rebuilt = watch
        self._state = replace(
            self._state,
            next_run=next_run,
            last=last,
            watch=mode,
            watch_rebuilt=rebuilt,
            runs=runs,
            refused=self._refused,
        )
        if self._notifier is None:
            left = status.read_agent(config.state.directory)
            told, told_at = (left.told, left.told_at) if left else ({}, {})
            self._state = replace(self._state, told=told, told_at=told_at)
            keep = partial(self._keep, config)
            self._notifier = notify.Notifier(told, keep, self._goes_wrong, self._goes_right, told_at)
        self._keep(config)
        try:
            now = status.read(config, agent=self._state)
        except LedgerError as error:  # notify of this failure too; earlier alarms stay
            failed = Alarm("publish-failed", str(config.postfix.map), last.error or str(error))
            self._tell_of({**self._alarms, failed.key: failed}, config, self._notifier)
            self._tell_systemd(f"needs a person: {failed.text}")
            return None
        self._log_doubt(now.doubt)
        self._tell_of({alarm.key: alarm for alarm in now.alarms if not alarm.later}, config, self._notifier)
        right = {ExitCode.OK, ExitCode.HELD}
        if result and result.exit_code in right and now.exit_code in right:
            self._notifier.ping(config.notify)
        if config.metrics.textfile:
            self._write_metrics(config.metrics.textfile, now)
        self._tell_systemd(summary(now))
        return now

    def asked_dns(self, answer: NotRelayed) -> None:
        """Record the last answer of DNS about domains out of scope, for the next report."""
        self._state = replace(self._state, not_relayed=answer)

    def refuse(self, text: str) -> None:
        """Record why the new configuration is refused, and send it to systemd. An empty text ends the refusal."""
        self._refused = text
        if text:
            self._tell_systemd("")

    def _tell_systemd(self, text: str) -> None:
        """Send the status line to systemd. The reason for a refused configuration, if any, comes first."""
        tell_systemd(f"STATUS={_one_line('; '.join(filter(None, (self._refused, text))))}")

    def _write_metrics(self, path: Path, now: Status) -> None:
        from syncagent.agent import metrics

        try:
            metrics.write(path, now)
        except OSError as error:
            self._goes_wrong("metrics.textfile", f"{path} cannot be written: {error.strerror}")
        else:
            self._goes_right("metrics.textfile")

    def stop(self, config: Config) -> None:
        """Write the status file without a next run, if there was a run: the agent is ending."""
        self._state = replace(self._state, next_run=None)
        if self._state.last:
            self._keep(config)

    def _keep(self, config: Config) -> None:
        with self._saving:
            record = self._notifier or self._state
            state = replace(self._state, told=record.told, told_at=record.told_at)
            try:
                status.write_agent(config.state.directory, state)
            except OSError as error:
                self._goes_wrong("status", f"{config.state.directory} cannot be written: {error.strerror}")
            else:
                self._goes_right("status")

    def _goes_wrong(self, what: str, text: str) -> None:
        """Log that reporting to ``what`` fails, unless its last error was the same."""
        if self._wrong.get(what) != text:
            self._wrong[what] = text
            self._log.error("could not tell", whom=what, error=text)

    def _goes_right(self, what: str) -> None:
        if self._wrong.pop(what, None):
            self._log.info("could tell again", whom=what)

    def _log_result(self, result: SyncResult) -> None:
        plan = result.plan
        facts = {"recipients": result.recipients, "seconds": round(result.seconds, 3)}
        failure = result.error
        if result.status == "published":
            self._log.info("published", map=result.map, added=plan.added, removed=plan.removed, **facts)
        elif result.status == "failed":
            log = self._log.debug if result.error == self._failure else self._log.error
            log("not published", map=result.map, error=result.error)
        elif result.status == "incomplete":
            lacks = list(result.missing_for_first) or result.error
            log = self._log.debug if str(lacks) == self._failure else self._log.warning
            log("not published: the first list is not whole", map=result.map, lacks=lacks)
            failure = str(lacks)
        else:
            self._log.debug("unchanged", **facts)
        self._failure = failure
        for source in result.sources:
            self._log_source(source)
        self._log_rejected(result)
        of_sources = (f"source {source.name}: {note}" for source in result.sources for note in source.notes)
        notes = frozenset((*result.notes, *of_sources))
        for note in sorted(notes - self._notes):
            self._log.warning("note", text=note)
        self._notes = notes

    def _log_rejected(self, result: SyncResult) -> None:
        """Log the rejected entries of each source that are held, with the first of them, when they change."""
        for source in result.sources:
            sample = [one for one in result.reject_sample if one.held and one.source == source.name]
            known = hash((source.rejected_held, tuple(reject.digest for reject in sample)))
            if source.rejected_held and self._rejected.get(source.name) != known:
                entries = [messages.rejected_entry(reject) for reject in sample]
                self._log.warning("rejected", source=source.name, count=source.rejected_held, entries=entries)
            self._rejected[source.name] = known

    def _log_source(self, source: SourceReport) -> None:
        """Log that a source begins to fail, fails for another reason, or has recovered."""
        before = self._failing.get(source.name, "")
        if source.error:
            error = source.refusal or source.error
            self._failing[source.name] = error
            if error != before:
                known = "error" if source.kind in {"refused", "broken"} else "warning"
                getattr(self._log, known)("source failing", source=source.name, kind=source.kind, error=source.error)
        elif before:
            del self._failing[source.name]
            self._log.info("source recovered", source=source.name, entries=source.entries)

    def _log_doubt(self, doubt: DoubtStatus | None) -> None:
        """Log the domains whose doubt begins, with the reasons, and those whose doubt has ended."""
        now = doubt.domains if doubt else frozenset()
        begun, ended = sorted(now - self._in_doubt), sorted(self._in_doubt - now)
        self._in_doubt = now
        if doubt and begun:
            groups = [group for group in doubt.groups if set(begun).intersection(group.domains)]
            intended = all(group.kind in INTENDED or group.over for group in groups)
            reasons = sorted(map(messages.doubt_reason_of, groups))
            (self._log.info if intended else self._log.warning)("doubt", **_named(begun), reasons=reasons)
        if ended:
            self._log.info("doubt ended", **_named(ended))

    def _tell_of(self, alarms: dict[str, Alarm], config: Config, notifier: notify.Notifier) -> None:
        """Log new and ended alarms, and queue their notifications."""
        for what, alarm in notify.news(self._alarms, alarms):
            if what == "raised":
                log = self._log.error if alarm.severity == "error" else self._log.warning
                log("needs a person", kind=alarm.kind, subject=alarm.subject, text=alarm.text)
            else:
                self._log.info("recovered", kind=alarm.kind, subject=alarm.subject)
        self._alarms = alarms
        notifier.notify(config.notify, alarms, str(config.postfix.map), time.time())


def summary(now: Status) -> str:
    """Return the status line that systemctl(1) shows: the first error, or the first warning, or the failing sources."""
    recipients = messages.counted(now.recipients, "recipient")
    failing = [source.name for source in now.sources if source.state == "failing"]
    alarms = [alarm for alarm in now.alarms if alarm.kind != "configuration"]
    if alarms:
        first = min(alarms, key=lambda alarm: alarm.severity != "error")
        return f"{recipients}; {'needs a person' if first.severity == 'error' else 'warning'}: {first.text}"
    return f"{recipients}; failing: {', '.join(failing)}" if failing else f"{recipients}, all is well"


def _named(domains: list[str]) -> dict[str, Any]:
    """Return the fields of a log line about domains: the first of them, and their number."""
    return {"domains": domains[:SAMPLE], "count": len(domains)}


def _one_line(text: str) -> str:
    """Return the first 500 characters of a text on one line: systemd would read a second line as another variable."""
    return printable(" ".join(text.split()), 500)
