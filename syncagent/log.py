"""The agent's log: one event per thing that happened, key-value on a terminal, JSON otherwise.

``error`` is what needs a person; an alarm on that level alone is enough. Under systemd each line begins with its level
as sd-daemon(3) has it, so that ``journalctl -p err`` finds it.
"""

from __future__ import annotations

import contextlib
import io
import logging
import os
import sys
from typing import TYPE_CHECKING, Any, TextIO

import structlog

if TYPE_CHECKING:
    from collections.abc import Callable, MutableMapping

    from _typeshed import ReadableBuffer

_PRIORITY = {"debug": 7, "info": 6, "warning": 4, "error": 3, "critical": 2, "exception": 3}
_LEVELS = {"debug": 10, "info": 20, "warning": 30, "error": 40}
_run_id = ""


def in_run(run_id: str) -> None:
    """Name the run that every line from now on belongs to, or comes after."""
    global _run_id  # noqa: PLW0603 - there is one agent in a process, and one run at a time
    _run_id = run_id


def set_up(level: str) -> Any:  # noqa: ANN401 - structlog's own type is lazy
    """Set up the log on the standard error and give the logger."""
    terminal = sys.stderr.isatty()
    render: Any = structlog.dev.ConsoleRenderer() if terminal else structlog.processors.JSONRenderer()
    structlog.configure(
        processors=[
            _add_run_id,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            *([] if terminal else [structlog.processors.format_exc_info]),
            _for_journal(render) if _is_journal() else render,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(_LEVELS[level]),
        logger_factory=structlog.WriteLoggerFactory(file=_lines()),
        cache_logger_on_first_use=False,
    )
    logging.root.handlers = [_Library()]
    return structlog.get_logger()


class _Lossy(io.FileIO):
    """Drops what cannot be written. A full disk, or a pipe that nobody reads any more, is no reason to end."""

    def write(self, octets: ReadableBuffer, /) -> int:
        """Write what can be; the rest counts as written."""
        with contextlib.suppress(OSError):
            super().write(octets)
        return memoryview(octets).nbytes


def _lines() -> TextIO:
    """Open the standard error a second time: what its own buffer cannot get rid of would be an error at the end."""
    try:
        descriptor = sys.stderr.fileno()
    except (OSError, ValueError):  # a test's own, in memory
        return sys.stderr
    raw = _Lossy(descriptor, "wb", closefd=False)
    return io.TextIOWrapper(io.BufferedWriter(raw), sys.stderr.encoding, "backslashreplace")


def _is_journal() -> bool:
    """Tell whether the standard error leads to the journal; its variable alone is inherited by whoever redirects."""
    try:
        there = os.fstat(sys.stderr.fileno())
    except (OSError, ValueError):
        return False
    return os.environ.get("JOURNAL_STREAM") == f"{there.st_dev}:{there.st_ino}"


class _Library(logging.Handler):
    """Makes an event of what a library logs; of level debug, since what matters of it we say ourselves."""

    def emit(self, record: logging.LogRecord) -> None:
        structlog.get_logger().debug("library", name=record.name, text=record.getMessage())


def _add_run_id(_logger: object, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    event.setdefault("run_id", _run_id)
    return event


def _for_journal(render: Callable[..., Any]) -> Callable[..., str]:
    def rendered(logger: object, method: str, event: MutableMapping[str, Any]) -> str:
        return f"<{_PRIORITY.get(method, 6)}>{render(logger, method, event)}"

    return rendered
