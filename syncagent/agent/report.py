"""What the agent tells of each run: the log, the status file, the metrics, and whoever is to be told."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING, Any

from msgspec.structs import replace

from syncagent import notify, status
from syncagent.agent.keeper import tell_systemd
from syncagent.errors import ExitCode

if TYPE_CHECKING:
    from syncagent.config import Config
    from syncagent.model import SourceReport, SyncResult
    from syncagent.status import Alarm, LastRun, Status


class Reporter:
    """Tells what happened, each thing once."""

    def __init__(self, logger: Any) -> None:  # noqa: ANN401 - structlog's own type is lazy
        """Nothing happened yet."""
        self._log = logger
        self._failing: dict[str, str] = {}
        self._notes: frozenset[str] = frozenset()
        self._alarms: dict[str, Alarm] | None = None
        self._told: dict[str, Alarm] | None = None
        self._state = status.AgentState(os.getpid(), time.time())
        self._teller: notify.Teller | None = None

    def tell(
        self,
        config: Config,
        result: SyncResult | None,
        last: LastRun,
        next_run: float | None,
        watch: tuple[str, int],
    ) -> None:
        """Tell of a run. Raises LedgerError, OSError."""
        if result:
            self._log_result(result)
        runs = {**self._state.runs, last.status: self._state.runs.get(last.status, 0) + 1}
        left = status.read_agent(config.state.directory) if self._told is None else None
        self._told = dict(left.told) if left else self._told or {}
        mode, rebuilt = watch
        self._state = replace(
            self._state, next_run=next_run, last=last, watch=mode, watch_rebuilt=rebuilt, runs=runs, told=self._told
        )
        self._keep(config)
        now = status.read(config, program(config))
        self._log_alarms(now)
        self._tell_people(config, now)
        if config.metrics.textfile:
            from syncagent import metrics

            metrics.write(config.metrics.textfile, now)
        tell_systemd(f"STATUS={summary(now)}")

    def stop(self, config: Config) -> None:
        """Leave the status as that of an agent that does not run."""
        try:
            if self._state.last:
                status.write_agent(config.state.directory, replace(self._state, next_run=None))
        except OSError as error:
            self._log.error("status cannot be kept", error=str(error))

    def _keep(self, config: Config) -> None:
        status.write_agent(config.state.directory, replace(self._state, told=dict(self._told or {})))

    def _log_result(self, result: SyncResult) -> None:
        plan = result.plan
        facts = {"recipients": result.recipients, "seconds": round(result.seconds, 3)}
        if result.status == "published":
            self._log.info("published", map=result.map, added=plan.added, removed=plan.removed, **facts)
        elif result.status == "failed":
            self._log.error("not published", map=result.map, error=result.error)
        elif result.status == "incomplete":
            lacks = list(result.missing_for_first) or result.error
            self._log.warning("not published: the first list is not whole", map=result.map, lacks=lacks)
        else:
            self._log.debug("unchanged", **facts)
        for source in result.sources:
            self._log_source(source)
        notes = frozenset(result.notes)
        for note in sorted(notes - self._notes):
            self._log.warning("note", text=note)
        self._notes = notes

    def _log_source(self, source: SourceReport) -> None:
        """Log a source that begins to fail, or for another reason, or is whole again."""
        before = self._failing.get(source.name, "")
        if source.error:
            error = source.error.partition(" (not asked again")[0]
            self._failing[source.name] = error
            if error != before:
                known = "error" if source.kind in {"refused", "broken"} else "warning"
                getattr(self._log, known)("source failing", source=source.name, kind=source.kind, error=source.error)
        elif before:
            del self._failing[source.name]
            self._log.info("source recovered", source=source.name, entries=source.entries)

    def _log_alarms(self, now: Status) -> None:
        alarms = {alarm.key: alarm for alarm in now.alarms}
        for what, alarm in notify.news(self._alarms or {}, alarms):
            if what == "raised":
                self._log.error("needs a person", kind=alarm.kind, subject=alarm.subject, text=alarm.text)
            else:
                self._log.info("recovered", kind=alarm.kind, subject=alarm.subject)
        self._alarms = alarms

    def _tell_people(self, config: Config, now: Status) -> None:
        """Tell whoever is configured; what did not reach them is told again after the next run."""
        told, settings = self._told, config.notify
        assert told is not None  # noqa: S101 - tell() saw to it
        if not (settings.command or settings.url or settings.url_file or settings.ping_url):
            return
        self._teller = self._teller or notify.Teller(self._not_told)
        news = notify.news(dict(told), {alarm.key: alarm for alarm in now.alarms})  # a copy: the teller changes it
        for what, alarm in news:

            def done(what: str = what, alarm: Alarm = alarm) -> None:
                if what == "raised":
                    told[alarm.key] = alarm
                else:
                    told.pop(alarm.key, None)
                self._keep(config)

            self._teller.tell(settings, notify.event(what, alarm, now.map, time.time()), done)
        if settings.ping_url and now.exit_code in {ExitCode.OK, ExitCode.HELD}:
            self._teller.tell(settings, None, lambda: None)

    def _not_told(self, whom: str, text: str) -> None:
        self._log.error("could not tell", whom=whom, error=text)


def program(config: Config) -> str:
    """Give the command line to type for another verb on the same configuration."""
    default = "/etc/syncagent/syncagent.toml"
    return "syncagent" if str(config.file) == default else f"syncagent --config {config.file}"


def summary(now: Status) -> str:
    """Give one line for systemctl status."""
    said = f"{now.recipients} recipients"
    failing = [source.name for source in now.sources if source.state == "failing"]
    if now.alarms:
        return f"{said}; needs a person: {now.alarms[0].text}"[:500]
    return f"{said}; failing: {', '.join(failing)}" if failing else f"{said}, all is well"
