"""The errors of syncagent: one base, few leaves.

Exit codes are those of sysexits.h, as the mail world uses them.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence


_LONGEST_TEXT = 4096
"""Characters of a message, which may have foreign text in it."""


def printable(text: str, limit: int) -> str:
    """Return a text cut to ``limit`` characters (then "..."), with unprintable characters escaped after the cut.

    For foreign text in messages: addresses, answers of servers, file names, messages of libraries.
    """
    cut = text if len(text) <= limit else f"{text[:limit]}..."
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in cut)


class translate_errors:  # noqa: N801 - read as a function; a class, since it may be entered once a record
    """Context manager that raises ``translate(error)`` instead of an error, or the error itself if that is None."""

    __slots__ = ("_translate",)

    def __init__(self, translate: Callable[[BaseException], Exception | None]) -> None:
        """``translate`` is called only if the block raises."""
        self._translate = translate

    def __enter__(self) -> None:
        """Enter the block."""

    def __exit__(self, _kind: object, error: BaseException | None, _trace: object) -> None:
        """Raise the translated error."""
        translated = None if error is None else self._translate(error)
        if translated is not None:
            raise translated from None


class ExitCode(enum.IntEnum):
    """The exit statuses of the command (sysexits.h)."""

    OK = 0
    PROBLEMS = 1
    USAGE = 64
    HELD = 65
    SOFTWARE = 70
    CANNOT_PUBLISH = 73
    TEMPORARY = 75
    CONFIG = 78
    INTERRUPTED = 130


class SyncagentError(Exception):
    """Base of all errors that syncagent raises on purpose; its text is meant for people."""

    exit_code: ExitCode = ExitCode.SOFTWARE


@dataclass(frozen=True, slots=True)
class Problem:
    """A problem of the configuration: where, which key, what, and the remedy."""

    file: str
    line: int | None
    key: str
    text: str

    def __str__(self) -> str:
        """``FILE:LINE: KEY: TEXT``, as compilers say it."""
        place = self.file if self.line is None else f"{self.file}:{self.line}"
        return f"{place}: {self.key}: {self.text}" if self.key else f"{place}: {self.text}"


class ConfigError(SyncagentError):
    """The configuration cannot be used; carries every problem found."""

    exit_code = ExitCode.CONFIG

    def __init__(self, problems: Sequence[Problem]) -> None:
        """Keep ``problems``, at least one."""
        self.problems = tuple(problems)
        super().__init__("\n".join(str(problem) for problem in self.problems))


class FailureKind(enum.StrEnum):
    """How a source failed: to be retried, not to be asked again for an hour, or to be corrected by a person."""

    TEMPORARY = "temporary"
    REFUSED = "refused"
    BROKEN = "broken"


class SourceError(SyncagentError):
    """A source gave no whole answer. Its last answer stays in force."""

    exit_code = ExitCode.TEMPORARY

    def __init__(self, text: str, *, kind: FailureKind = FailureKind.TEMPORARY, validator: str | None = None) -> None:
        """``text`` says what failed and the mend; ``kind`` whether to ask again.

        File names and what servers say may be in the text as they are: what no terminal should be told is escaped.

        ``validator``, if any, is remembered instead of that of the last answer, which it must stand for as well.
        """
        self.kind, self.validator = kind, validator
        super().__init__(printable(text, _LONGEST_TEXT))


class LockBusyError(SyncagentError):
    """Another run holds the lock and did not let go in time."""

    exit_code = ExitCode.TEMPORARY


class LedgerError(SyncagentError):
    """The state directory cannot be read or written; nothing was published."""

    exit_code = ExitCode.CANNOT_PUBLISH


class LedgerDamagedError(LedgerError):
    """The database is damaged; it is set aside, and the run begins anew. ``notes`` are those of the setting aside."""

    notes: tuple[Any, ...] = ()


class LayoutError(SyncagentError):
    """Root would have to work in a place that somebody else controls. Nothing was read or written there."""

    exit_code = ExitCode.CANNOT_PUBLISH

    def __init__(self, text: str, path: str, remedy: str = "") -> None:
        """``text`` says whose ``path`` is; ``remedy`` is the command that puts it right."""
        self.text, self.path, self.remedy = text, path, remedy
        super().__init__(f"{text}: {remedy}" if remedy else text)


class DamagedError(SyncagentError):
    """A sorted file is not what was written: short, altered or missing."""


class LineTooLongError(DamagedError, OSError):
    """A line, or a logical line, is longer than any list or table has one. For who reads a file: it cannot be read."""

    def __init__(self, text: str) -> None:
        """``text`` says which line, and the limit; it is ``strerror`` too."""
        super().__init__(text)
        self.strerror = text


class PublishError(SyncagentError):
    """A step of publishing failed. The old map is in place."""

    exit_code = ExitCode.CANNOT_PUBLISH

    def __init__(self, step: str, text: str) -> None:
        """``step`` names the step that failed, ``text`` has the reason and the remedy."""
        self.step = step
        super().__init__(f"{step}: {text}")


class UnansweredError(PublishError):
    """Postfix does not answer for some keys of the staged map."""

    def __init__(self, keys: Sequence[bytes]) -> None:
        """``keys`` are those of the text that the index lacks."""
        self.keys = tuple(keys)
        shown = ", ".join(key.decode(errors="backslashreplace") for key in self.keys[:3])
        text = f"the index lacks {len(self.keys)} of the keys written, such as {shown}; is the disk full?"
        super().__init__("read back", text)


class UnknownHoldError(SyncagentError):
    """``approve`` was given an ID that no current hold has, or that may not be approved. ``refusal`` is the data."""

    exit_code = ExitCode.USAGE

    def __init__(self, text: str, refusal: object) -> None:
        """``refusal`` is a ``model.Refusal``, ``text`` its sentence."""
        self.refusal = refusal
        super().__init__(text)
