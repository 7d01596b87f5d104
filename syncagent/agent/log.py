"""The agent's log on the standard error: one line an event, key-value on a terminal, JSON otherwise.

Level ``error`` needs a person, so that an alarm on that level is enough. Under systemd each line begins with its level,
as in sd-daemon(3), for ``journalctl -p err``.

A log that cannot be written neither ends nor blocks the agent: lines are lost, and counted in ``log lines lost`` once
there is room again.
"""

from __future__ import annotations

import logging
import os
import sys
from typing import TYPE_CHECKING, Any

import structlog

from syncagent.files import streams

if TYPE_CHECKING:
    from collections.abc import Callable, MutableMapping

_PRIORITY = {"debug": 7, "info": 6, "warning": 4, "error": 3, "critical": 2, "exception": 3}
_LEVELS = {"debug": 10, "info": 20, "warning": 30, "error": 40}
_run_id = ""


def in_run(run_id: str) -> None:
    """Set the run ID of all further lines."""
    global _run_id  # noqa: PLW0603 - there is one agent in a process, and one run at a time
    _run_id = run_id


def set_up(level: str) -> Any:  # noqa: ANN401 - structlog's own type is lazy
    """Set up the log on the standard error and return the logger."""
    terminal = sys.stderr.isatty()
    render: Any = structlog.dev.ConsoleRenderer() if terminal else structlog.processors.JSONRenderer()
    processors = [
        _add_run_id,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        *([] if terminal else [structlog.processors.format_exc_info]),
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
    """Writes lines to a descriptor, without waiting long for room; structlog calls it from one thread at a time."""

    def __init__(self, descriptor: int, encoding: str, count: Callable[[int], str]) -> None:
        """``count`` returns the line that reports a number of lost lines."""
        self._descriptor, self._encoding, self._count = descriptor, encoding, count
        self._lost = 0
        self._is_torn = False
        self._patience = streams.PATIENCE

    def write(self, text: str) -> None:
        """Write a line, after one that reports lost lines, if any."""
        if self._lost and self._put(self._count(self._lost)):
            self._lost = 0
        if self._lost or not self._put(text):
            self._lost += 1

    def flush(self) -> None:
        """Nothing is buffered."""

    def _put(self, text: str) -> bool:
        """Write it, after the end of a line that was written in part. True if all of it was written."""
        octets = (f"\n{text}" if self._is_torn else text).encode(self._encoding, "backslashreplace")
        done = 0
        try:
            while done < len(octets):
                done += streams.put(self._descriptor, memoryview(octets)[done:], self._patience)
        except OSError:
            self._patience = 0  # wait for a reader that stopped reading once, not for each line
            return False
        finally:
            if done:
                self._is_torn = done < len(octets)
        self._patience = streams.PATIENCE
        return True


def _lines(processors: list[Any]) -> Any:  # noqa: ANN401 - a file, as far as structlog writes to one
    """Return a writer to the descriptor of the standard error, without its buffer."""

    def count(lost: int) -> str:
        event: Any = {"event": "log lines lost", "count": lost}
        for process in processors:
            event = process(None, "warning", event)
        return f"{event}\n"

    try:
        descriptor = sys.stderr.fileno()
    except (OSError, ValueError):  # in tests, a stream in memory
        return sys.stderr
    return _Lines(descriptor, sys.stderr.encoding, count)


def _is_journal() -> bool:
    """True if the standard error leads to the journal; $JOURNAL_STREAM is also inherited if it is redirected."""
    try:
        there = os.fstat(sys.stderr.fileno())
    except (OSError, ValueError):
        return False
    return os.environ.get("JOURNAL_STREAM") == f"{there.st_dev}:{there.st_ino}"


class _Library(logging.Handler):
    """Logs the records of libraries as events of level debug; syncagent reports itself what matters."""

    def emit(self, record: logging.LogRecord) -> None:
        structlog.get_logger().debug("library", name=record.name, text=record.getMessage())


def _add_run_id(_logger: object, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    event.setdefault("run_id", _run_id)
    return event


def _for_journal(render: Callable[..., Any]) -> Callable[..., str]:
    def rendered(logger: object, method: str, event: MutableMapping[str, Any]) -> str:
        return f"<{_PRIORITY.get(method, 6)}>{render(logger, method, event)}"

    return rendered
