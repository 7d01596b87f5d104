"""The exceptions of syncagent, with the exit status of each.

Exit statuses 64 to 78 are those of sysexits.h, as in Postfix.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from syncagent.redaction import redacted

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence


_LONGEST_TEXT = 4096
"""Length in characters to which a SourceError's text is cut, since it may contain text from a server."""


def printable(text: str, limit: int | None = None) -> str:
    """Return ``text`` with secrets redacted (see ``redaction``) and unprintable characters escaped.

    A text longer than ``limit`` characters is cut before escaping, and "..." appended; escapes may exceed the limit.
    Without a limit nothing is cut. Use it for foreign text in messages: addresses, answers of servers, file names,
    messages of libraries. Cut such a text by this function only: a part of a secret would not be recognized.
    """
    text = redacted(text)
    cut = text if limit is None or len(text) <= limit else f"{text[:limit]}..."
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in cut)


class translate_errors:  # noqa: N801 - used like a function; a class is faster, and it is entered for each record
    """Context manager that raises ``translate(error)`` in place of an error, unless that is None."""

    __slots__ = ("_translate",)

    def __init__(self, translate: Callable[[BaseException], Exception | None]) -> None:
        """Store ``translate``, which is called only if the block raises."""
        self._translate = translate

    def __enter__(self) -> None:
        """Enter the block."""

    def __exit__(self, _kind: object, error: BaseException | None, _trace: object) -> None:
        """Raise the translated error. If it is None, the original error propagates."""
        translated = None if error is None else self._translate(error)
        if translated is not None:
            raise translated from None


class ExitCode(enum.IntEnum):
    """The exit statuses of the commands. 64 to 78 are those of sysexits.h."""

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
    """Base class of the errors that syncagent raises. The text is a message for the user, without secrets."""

    exit_code: ExitCode = ExitCode.SOFTWARE

    def __init__(self, text: str = "") -> None:
        """``text`` is the message; secrets in it are redacted."""
        super().__init__(redacted(text))


@dataclass(frozen=True, slots=True)
class Problem:
    """A problem in the configuration: file, line if known, key, and text with the remedy."""

    file: str
    line: int | None
    key: str
    text: str

    def __str__(self) -> str:
        """Return ``FILE:LINE: KEY: TEXT``; line and key are left out if there is none."""
        place = self.file if self.line is None else f"{self.file}:{self.line}"
        return f"{place}: {self.key}: {self.text}" if self.key else f"{place}: {self.text}"


class ConfigError(SyncagentError):
    """Raised if the configuration is invalid. ``problems`` lists every problem, not only the first."""

    exit_code = ExitCode.CONFIG

    def __init__(self, problems: Sequence[Problem]) -> None:
        """Store ``problems``, which has at least one item."""
        self.problems = tuple(problems)
        super().__init__("\n".join(str(problem) for problem in self.problems))


class FailureKind(enum.StrEnum):
    """Kind of a source's failure.

    TEMPORARY: retried in the next run. REFUSED: the credentials were rejected; retried after an hour, or once the
    source's configuration or secret changes. BROKEN: a person must correct the source or its configuration.
    """

    TEMPORARY = "temporary"
    REFUSED = "refused"
    BROKEN = "broken"


class SourceError(SyncagentError):
    """Raised if a source gives no complete answer. Its last snapshot stays in use."""

    exit_code = ExitCode.TEMPORARY

    def __init__(self, text: str, *, kind: FailureKind = FailureKind.TEMPORARY, validator: str | None = None) -> None:
        """``text`` states the failure and the remedy.

        It may contain foreign text, such as file names and messages of servers: unprintable characters are escaped.

        ``validator``, if not None, replaces the recorded validator; it must identify the last complete answer too.
        """
        self.kind, self.validator = kind, validator
        super().__init__(printable(text, _LONGEST_TEXT))


class LockBusyError(SyncagentError):
    """Raised if another process holds a lock until the timeout."""

    exit_code = ExitCode.TEMPORARY


class LedgerError(SyncagentError):
    """Raised if the state directory cannot be read or written, or if a child process such as sort(1) fails."""

    exit_code = ExitCode.CANNOT_PUBLISH


class LedgerDamagedError(LedgerError):
    """Raised if the state database is damaged. Once the database is renamed, ``notes`` reports the new name."""

    notes: tuple[Any, ...] = ()


class LayoutError(SyncagentError):
    """Raised if root would use a path that another user controls. Nothing is read or written there."""

    exit_code = ExitCode.CANNOT_PUBLISH

    def __init__(self, text: str, path: str, remedy: str = "") -> None:
        """``text`` names ``path`` and the reason; ``remedy`` is the command that corrects it, if there is one."""
        self.text, self.path, self.remedy = text, path, remedy
        super().__init__(f"{text}: {remedy}" if remedy else text)


class DamagedError(SyncagentError):
    """Raised if a file is truncated, altered or missing, or has a line that is too long."""


class LineTooLongError(DamagedError, OSError):
    """Raised if a line or a logical line exceeds the maximum length. It is also an OSError."""

    def __init__(self, text: str) -> None:
        """``text`` names the line and the limit; it is also ``strerror``."""
        super().__init__(text)
        self.strerror = text


class PublishError(SyncagentError):
    """Raised if a published table cannot be read or a step of publishing fails.

    The old table stays in place, except if the step is "reload".
    """

    exit_code = ExitCode.CANNOT_PUBLISH

    def __init__(self, step: str, text: str) -> None:
        """``step`` is the name of the failed step, ``text`` the reason and the remedy."""
        self.step = step
        super().__init__(f"{step}: {text}")


class UnansweredError(PublishError):
    """Raised if the index of a staged table lacks keys of its text. The old table stays in place."""

    def __init__(self, keys: Sequence[bytes]) -> None:
        """``keys`` are the missing keys."""
        self.keys = tuple(keys)
        shown = ", ".join(key.decode(errors="backslashreplace") for key in self.keys[:3])
        text = f"the index lacks {len(self.keys)} of the keys written, such as {shown}; is the disk full?"
        super().__init__("read back", text)


class HeldSetError(SyncagentError):
    """A file of recipients to approve cannot be read."""

    exit_code = ExitCode.USAGE


class UnknownHoldError(SyncagentError):
    """Raised if a hold ID to approve is unknown, or its hold may not be approved. ``refusal`` has the details."""

    exit_code = ExitCode.USAGE

    def __init__(self, text: str, refusal: object) -> None:
        """``refusal`` is a ``model.Refusal``, ``text`` the message for it."""
        self.refusal = refusal
        super().__init__(text)
