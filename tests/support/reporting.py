"""Runs as the agent does them, one after another in this process, each told by its Reporter."""

import io
import json
import time
from contextlib import redirect_stderr
from typing import Any

from syncagent.agent import log
from syncagent.agent.reporting import Reporter
from syncagent.config import load as configuration
from syncagent.config.tables import Config
from syncagent.errors import SyncagentError
from syncagent.model import SyncResult
from syncagent.state.status import LastRun
from syncagent.sync import run as sync
from tests.scenario import Scenario

Line = dict[str, Any]


class Desk:
    """An agent's desk: what it does of each run but waiting for it. ``lines`` are its log."""

    def __init__(self, scenario: Scenario, *, level: str = "info") -> None:
        self.scenario, self._level = scenario, level
        self._log = io.StringIO()
        self.restart()

    def restart(self) -> None:
        """Begin as another process would: nothing is known but what is on the disk."""
        with redirect_stderr(self._log):
            self.reporter = Reporter(log.set_up(self._level))

    @property
    def lines(self) -> list[Line]:
        """What was logged since the last ``clear``."""
        return [json.loads(line) for line in self._log.getvalue().splitlines()]

    def clear(self) -> None:
        """Forget what was logged."""
        self._log.seek(0)
        self._log.truncate()

    def events(self, name: str, **facts: object) -> list[Line]:
        """Give the lines of an event with these facts."""
        return [
            line
            for line in self.lines
            if line["event"] == name and all(line.get(key) == value for key, value in facts.items())
        ]

    @property
    def config(self) -> Config:
        """The configuration as it is now."""
        return configuration.load(self.scenario.configure())

    def run(self, due: frozenset[str] | None = None) -> SyncResult | None:
        """Do one run, and tell of it; None where nothing came of it."""
        config, result, error, run_id = self.config, None, "", sync.new_run_id()
        log.in_run(run_id)
        try:
            result = sync.sync_once(config, sync.Options(due=due, run_id=run_id))
        except SyncagentError as failure:
            error = str(failure)
        last = LastRun(
            run_id=run_id,
            finished=time.time(),
            status=result.status if result else "failed",
            exit_code=int(result.exit_code) if result else 73,
            seconds=result.seconds if result else 0.0,
            error=error,
            lacks=result.missing_for_first if result else (),
        )
        self.reporter.tell(config, result, last, time.time() + 300, ("inotify", 0))
        return result
