"""The agent's log on the standard error: a line per event, as key=value on a terminal, as JSON otherwise.

Level ``error`` means that a person must act, so it suffices to monitor that level. In the journal each line begins with
its level, as in sd-daemon(3), for ``journalctl -p err``.

A log that cannot be written neither ends nor blocks the agent. The lines are lost; the event ``log lines lost`` has
their count once writing succeeds again.
"""

from __future__ import annotations

import logging
import os
import sys
from typing import TYPE_CHECKING, Any

import structlog

from syncagent.files import streams
from syncagent.redaction import redacted

if TYPE_CHECKING:
    from collections.abc import Callable, MutableMapping

_PRIORITY = {"debug": 7, "info": 6, "warning": 4, "error": 3, "critical": 2, "exception": 3}
_LEVELS = {"debug": 10, "info": 20, "warning": 30, "error": 40}
_run_id = ""


def in_run(run_id: str) -> None:
    """Set the run ID that all further lines have."""
    global _run_id  # noqa: PLW0603 - there is one agent in a process, and one run at a time
    _run_id = run_id


def set_up(level: str) -> Any:  # noqa: ANN401 - structlog's own type is lazy
    """Set up the log on the standard error, from ``level`` up, and return the logger."""
    terminal = sys.stderr.isatty()
    plain = structlog.dev.plain_traceback  # the default shows local variables, among them passwords
    console = structlog.dev.ConsoleRenderer(exception_formatter=plain)
    render: Any = console if terminal else structlog.processors.JSONRenderer()
    processors = [
        _add_run_id,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.format_exc_info,
        _without_secrets,
        _for_journal(render) if _is_journal() else render,
    ]
    structlog.configure(
        processors=processors,
        wrapper_class=structlog.make_filtering_bound_logger(_LEVELS[level]),
        logger_factory=structlog.WriteLoggerFactory(file=_lines(processors)),
        cache_logger_on_first_use=False,
    )
    logging.root.handlers = [_Library()]
    return structlog.get_logger()


class _Lines:
    """A writer of lines to a descriptor that waits at most streams.PATIENCE seconds for room.

    structlog calls it from one thread at a time.
    """

    def __init__(self, descriptor: int, encoding: str, count: Callable[[int], str]) -> None:
        """``count`` returns the line that reports a number of lost lines."""
        self._descriptor, self._encoding, self._count = descriptor, encoding, count
        self._lost = 0
        self._is_torn = False
        self._patience = streams.PATIENCE

    def write(self, text: str) -> None:
        """Write a line, or count it as lost. If lines were lost before, first write the line that reports them."""
        if self._lost and self._put(self._count(self._lost)):
            self._lost = 0
        if self._lost or not self._put(text):
            self._lost += 1

    def flush(self) -> None:
        """Do nothing: lines are not buffered."""

    def _put(self, text: str) -> bool:
        """Write a line, after ending a line that was written in part. Return True if all of it was written."""
        octets = (f"\n{text}" if self._is_torn else text).encode(self._encoding, "backslashreplace")
        done = 0
        try:
            while done < len(octets):
                done += streams.put(self._descriptor, memoryview(octets)[done:], self._patience)
        except OSError:
            self._patience = 0  # the reader has stopped reading: do not wait again for each line
            return False
        finally:
            if done:
                self._is_torn = done < len(octets)
        self._patience = streams.PATIENCE
        return True


def _lines(processors: list[Any]) -> Any:  # noqa: ANN401 - an object with the methods of a file that structlog uses
    """Return an unbuffered writer to the descriptor of the standard error, or sys.stderr if that has no descriptor."""

    def count(lost: int) -> str:
        event: Any = {"event": "log lines lost", "count": lost}
        for process in processors:
            event = process(None, "warning", event)
        return f"{event}\n"

    try:
        descriptor = sys.stderr.fileno()
    except (OSError, ValueError):  # a stream in memory, as in tests
        return sys.stderr
    return _Lines(descriptor, sys.stderr.encoding, count)


def _is_journal() -> bool:
    """True if the standard error is the journal's socket: $JOURNAL_STREAM is set even if the output is redirected."""
    try:
        there = os.fstat(sys.stderr.fileno())
    except (OSError, ValueError):
        return False
    return os.environ.get("JOURNAL_STREAM") == f"{there.st_dev}:{there.st_ino}"


class _Library(logging.Handler):
    """A handler that logs records of libraries at level debug: syncagent logs their failures itself."""

    def emit(self, record: logging.LogRecord) -> None:
        structlog.get_logger().debug("library", name=record.name, text=record.getMessage())


def _add_run_id(_logger: object, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    event.setdefault("run_id", _run_id)
    return event


def _without_secrets(_logger: object, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Redact every text of an event; records of libraries have requests and answers."""
    return {name: _redacted(value) for name, value in event.items()}


def _redacted(value: Any) -> Any:  # noqa: ANN401 - any value of an event
    if isinstance(value, str):
        return redacted(value)
    return [_redacted(one) for one in value] if isinstance(value, list | tuple) else value


def _for_journal(render: Callable[..., Any]) -> Callable[..., str]:
    def rendered(logger: object, method: str, event: MutableMapping[str, Any]) -> str:
        return f"<{_PRIORITY.get(method, 6)}>{render(logger, method, event)}"

    return rendered
