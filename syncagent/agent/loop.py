"""The agent: one run at a time, started by tokens in a queue.

The main thread, the worker, does the runs. The schedule, the file watch and the signals HUP and USR1 put tokens. TERM
and INT end a run at any point, as they end ``syncagent sync``: the next run completes the work.
"""

from __future__ import annotations

import contextlib
import gc
import os
import queue
import time
from typing import TYPE_CHECKING, Any

from msgspec.structs import replace

from syncagent.agent import log
from syncagent.agent.aging import AgeWatch
from syncagent.agent.doubt import DoubtWatch
from syncagent.agent.file_watch import Watch
from syncagent.agent.lock import AgentLock
from syncagent.agent.looks import RemovalWatch
from syncagent.agent.mx_watch import MxWatch
from syncagent.agent.reporting import Reporter
from syncagent.agent.retries import Retries
from syncagent.agent.schedule import Schedule
from syncagent.agent.signals import Signals, Stopped
from syncagent.agent.supervisor import Progress, Supervisor, tell_systemd
from syncagent.agent.tokens import Token
from syncagent.config import load as configuration
from syncagent.errors import ConfigError, LedgerError, LockBusyError, SyncagentError
from syncagent.files import children
from syncagent.sources import Watched
from syncagent.state import status
from syncagent.state.not_relayed import NotRelayed
from syncagent.sync import run as sync
from syncagent.sync.fetch import DEADLINE

if TYPE_CHECKING:
    from syncagent.config.tables import Config
    from syncagent.model import SyncResult

_CONFIGURATION = ""
"""The name of the configuration file in the watch. No source can have this name."""
_SLACK = 60.0
"""Seconds that a step of a run may take beyond the configured timeouts. After that the watchdog is not reset."""
_HARD = 1.5
"""Seconds after TERM or INT until the supervisor ends the process."""
_LOCK_TIMEOUT = 20.0
"""Seconds to wait for another run on the same state directory."""
_FORGOTTEN = 3600.0
"""Seconds until a repeated exception is logged again."""


def run(config: Config, logger: Any) -> None:  # noqa: ANN401 - structlog's own type is lazy
    """Run the agent until TERM or INT.

    Raises LockBusyError if another agent runs, and LedgerError if the state directory cannot be used.
    """
    directory = config.state.directory
    with contextlib.closing(AgentLock(directory)) as lock:
        lock.take()
        for left in directory.glob(f".{status.AGENT_FILE}.*"):  # a temporary file of a killed agent
            left.unlink(missing_ok=True)
        _Agent(config, logger, lock).serve()


class _Agent:
    def __init__(self, config: Config, logger: Any, lock: AgentLock) -> None:  # noqa: ANN401 - as above
        self.config, self.log, self.lock = config, logger, lock
        self.tokens: queue.SimpleQueue[Token] = queue.SimpleQueue()
        self.signals = Signals(self.tokens)
        self._faults: dict[str, float] = {}
        self.retries, self.progress, self.doubt = Retries(), Progress(), DoubtWatch(self._fault)
        self.removals, self.ages = RemovalWatch(), AgeWatch()
        last = status.read_agent(config.state.directory)
        self.mx = MxWatch(last.not_relayed if last else NotRelayed(), self._mx_changed, self._no_dns)
        self.reporter = Reporter(logger)
        self.schedule = Schedule(lambda due, why: self.tokens.put(Token(due, why)), self._fault)
        self.watch = Watch(self._file_changed, lambda event, what: self.log.warning(event, about=what), self._fault)
        self.supervisor = Supervisor(self.progress, self._look_after, self._fault)

    def serve(self) -> None:
        """Work until TERM or INT. Raises LockBusyError if another agent has acquired the lock."""
        self.signals.handle()
        self._take_up(self.config)
        self.supervisor.start()
        tell_systemd("READY=1", "STATUS=started")
        self.log.info("started", pid=os.getpid(), sources=sorted(self.config.sources), watch=self.watch.mode)
        self.tokens.put(Token(None, "start"))
        gc.freeze()  # objects allocated by now stay: exclude them from the collections after each run
        try:
            while not self.signals.stopping:
                self._turn()
        except Stopped:
            children.kill_all()
            sync.sweep(self.config)
        finally:
            tell_systemd("STOPPING=1")
            self.schedule.stop()
            self.watch.stop()
            if not self.lock.is_lost():  # else another agent owns the state
                self.reporter.stop(self.config)
            self.log.info("stopped")
            self.supervisor.stop()

    def _turn(self) -> None:
        """Wait for tokens or a retry, and do one run for all of them, after a reload if requested."""
        tokens = self._waiting()
        if any(token.stop for token in tokens):
            return
        if any(token.reload for token in tokens):
            self._reload()
        now = time.monotonic()
        due: frozenset[str] | None = self.retries.due(now) | self.removals.due(time.time())
        for token in tokens:
            due = None if due is None or token.due is None else due | token.due
        whys = list(dict.fromkeys(token.why for token in tokens)) or self._whys(now)
        if whys:
            due = None if self.doubt.needs_all(self.config) else due
            self._run(due, ", ".join(whys))
            self.mx.look(self.config)
            gc.collect()  # too few objects to trigger a collection, but a TLS context has megabytes

    def _whys(self, now: float) -> list[str]:
        """Return the causes of a run without a token; a retry of publishing has no source due."""
        lefts = {
            "retry": self.retries.wait(now),
            "a removal is due": self.removals.wait(time.time()),
            "data is outdated": self.ages.wait(time.time()),
            "doubt ends": self.doubt.wait(time.time()),
        }
        return [why for why, left in lefts.items() if left <= 0]

    def _waiting(self) -> list[Token]:
        """Wait for a token, a due retry or a stop. Return all tokens in the queue."""
        tokens: list[Token] = []
        with contextlib.suppress(queue.Empty):
            while not tokens and not self.signals.stopping:
                self.progress.passed(_SLACK)
                self.doubt.look(self.config)
                left = self._left()
                if left <= 0:
                    break
                with contextlib.suppress(queue.Empty):
                    tokens.append(self.tokens.get(timeout=min(left, _SLACK / 4)))
            while True:
                tokens.append(self.tokens.get_nowait())
        return tokens

    def _left(self) -> float:
        """Return the seconds until a run without a token is due."""
        now = time.time()
        watches = (self.doubt, self.removals, self.ages)
        return min(self.retries.wait(time.monotonic()), *(watch.wait(now) for watch in watches))

    def _run(self, due: frozenset[str] | None, why: str) -> None:
        """Do one run and report it. Its errors are logged and retried.

        Raises Stopped on TERM or INT, and LockBusyError if another agent has acquired the agent's lock.
        """
        run_id, names = sync.new_run_id(), frozenset(self.config.sources)
        log.in_run(run_id)
        self._keep_lock()
        self.log.debug("run", why=why, due=sorted(names if due is None else due & names))
        options = sync.Options(lock_timeout=_LOCK_TIMEOUT, due=due, run_id=run_id)
        self._passed("start", 0)
        started, result, error = time.time(), None, ""
        try:
            with self.signals.interruptions():
                result = sync.run_once(self.config, options, self._passed, alive_limit=self.doubt.limit(self.config))
        except LockBusyError as busy:
            self.log.warning("another run is under way", error=str(busy))
        except SyncagentError as failure:
            error = str(failure)
        except Exception as fault:
            error = f"a fault in syncagent: {type(fault).__name__}: {fault}"
            self.log.exception("fault", error=error)
        self._plan_retries(due, result)
        self.doubt.ran(result, time.time())
        self.ages.ran(result)
        self._tell(run_id, started, result, error)

    def _keep_lock(self) -> None:
        """Acquire the lock again if its file was removed. Failures of the state directory are logged.

        Raises LockBusyError if another agent holds the lock by now.
        """
        if self.lock.is_lost():
            try:
                self.lock.take()
            except LedgerError as error:
                self._fault(error)
            else:
                self.log.warning("the lock was gone; taken again")

    def _plan_retries(self, due: frozenset[str] | None, result: SyncResult | None) -> None:
        """Schedule retries of sources with temporary failures, of a failed publishing, or of the whole run."""
        now, names = time.monotonic(), frozenset(self.config.sources)
        asked = names if due is None else due & names
        if result is None:
            for name in asked:
                self.retries.succeeded(name)  # the retry of the whole run includes it
            self.retries.owe(asked)
            self.retries.failed("", frozenset(), self._shortest(names), now)
            return
        self.retries.asked(asked)
        if result.status == "failed":
            self.retries.failed("", frozenset(), self._shortest(names), now)  # a retry of publishing asks no source
        else:
            self.retries.succeeded("")
        for report in result.sources:
            if report.name in asked and report.kind == "temporary":
                self.retries.failed(report.name, frozenset({report.name}), self._shortest({report.name}), now)
            elif report.name in asked:
                self.retries.succeeded(report.name)

    def _shortest(self, names: frozenset[str] | set[str]) -> float:
        return min(self.config.every(name) or 3600.0 for name in names)

    def _passed(self, step: str, _count: int) -> None:
        """Record that a step of the run begins. It may take _SLACK more than the timeouts of the configuration.

        A confirming look that fails is followed by an ordinary request, with a deadline of its own.
        """
        deadlines = [2 * float(source.common.deadline or DEADLINE) for source in self.config.sources.values()]
        slow = step in {"index", "read back", "compare"}
        self.progress.passed(_SLACK + (self.config.postfix.postmap_timeout if slow else max(deadlines)))
        self.doubt.look(self.config)

    def _tell(self, run_id: str, started: float, result: SyncResult | None, error: str) -> None:
        self._passed("tell", 0)
        last = status.LastRun(
            run_id=run_id,
            finished=time.time(),
            status=result.status if result else "failed",
            exit_code=int(result.exit_code) if result else 73 if error else 75,
            seconds=result.seconds if result else time.time() - started,
            error=error,
            lacks=result.missing_for_first if result else (),
        )
        watch = self.watch.mode
        self.reporter.asked_dns(self.mx.answer)
        try:
            now = self.reporter.tell(self.config, result, last, self.next_run(), (watch, self.watch.rebuilt))
            self.removals.ran(now, time.time())
        except (SyncagentError, OSError) as failure:
            self.log.error("status cannot be kept", error=str(failure))  # noqa: TRY400 - the text suffices

    def next_run(self) -> float | None:
        """Return the time at which the next run is due, in seconds since the epoch; None if no run is scheduled."""
        left = self.retries.wait(time.monotonic())
        times = [self.schedule.next_time(), None if left == float("inf") else time.time() + left]
        return min((moment for moment in times if moment is not None), default=None)

    def _reload(self) -> None:
        """Reload the configuration. If it has problems or another state.directory, the old one stays in force."""
        self.watch.is_read(_CONFIGURATION)
        try:
            config = configuration.load(self.config.file)
        except ConfigError as error:
            check = self.config.command("check")
            self._refuse([str(problem) for problem in error.problems], f"what is wrong with it: {check}")
            return
        if config.state.directory != self.config.state.directory:
            text = "state.directory cannot change while the agent runs: restart it"
            self._refuse([text], text)
            return
        self._take_up(config)
        self.reporter.refuse("")
        self.log.info("configuration read again", sources=sorted(config.sources))

    def _refuse(self, problems: list[str], why: str) -> None:
        self.log.error("configuration refused; the old one goes on", problems=problems)
        self.reporter.refuse(f"the new configuration is refused, the old one goes on; {why}")

    def _take_up(self, config: Config) -> None:
        kept = {
            name: self.config.sources[name]
            for name, source in config.sources.items()
            if name in self.config.sources and self.config.sources[name].same_as(source)
        }
        config = replace(config, sources={**config.sources, **kept})  # an unchanged source keeps its connection
        self.config = config
        self.retries.clear()
        self.schedule.set(config)
        watched = {name: source.watched for name, source in config.sources.items() if source.watched}
        self.watch.set({**watched, _CONFIGURATION: (Watched(config.file),)})

    def _file_changed(self, name: str) -> None:
        if name == _CONFIGURATION:
            self.tokens.put(Token(None, "the configuration changed", reload=True))
        else:
            self.tokens.put(Token(frozenset({name}), "a file changed"))

    def _mx_changed(self) -> None:
        """Have a run, which asks no source, tell of another answer of DNS. Called in the thread that asks."""
        self.tokens.put(Token(frozenset(), "MX records changed"))

    def _no_dns(self, error: BaseException) -> None:
        self.log.warning("DNS gives no answer", error=str(error))

    def _look_after(self) -> None:
        """Do a round of the supervisor, in its thread: signals, a pending stop, watch threads and clock."""
        self.signals.wake_worker()
        if self.signals.stopping:
            if time.monotonic() - self.signals.stopping > _HARD:  # the exception was lost, as in a finalizer
                os._exit(0)
            return
        self.watch.look()
        if self.schedule.look_at_clock():
            self.log.warning("the clock was set; scheduled anew")

    def _fault(self, error: BaseException) -> None:
        """Log an exception, the same one once an hour: the supervisor may raise it several times a second."""
        text, now = f"{type(error).__name__}: {error}", time.monotonic()
        logged = {fault: at for fault, at in self._faults.items() if now - at < _FORGOTTEN}
        if text not in logged:
            self._faults = {**logged, text: now}
            self.log.error("fault", error=text)
