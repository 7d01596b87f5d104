"""What a check finds, and how it says so."""

from __future__ import annotations

from typing import Literal

from msgspec import Struct

Severity = Literal["error", "warning", "ok", "skipped"]


class Finding(Struct, frozen=True):
    """One thing that is right, wrong or doubtful, or that could not be looked at.

    ``subject`` is what it is about, a domain or a file; ``text`` the evidence; ``mend`` what puts it right, ready to
    be typed: a command a line, a line of a configuration or a zone; after ``#`` what only a person can do.
    """

    severity: Severity
    check: str
    subject: str
    text: str
    mend: str = ""


def error(subject: str, text: str, mend: str = "") -> Finding:
    """Give what is wrong; the check's name is added by who runs it."""
    return Finding("error", "", subject, text, mend)


def warning(subject: str, text: str, mend: str = "") -> Finding:
    """Give what is doubtful, or good only for a while."""
    return Finding("warning", "", subject, text, mend)


def skipped(subject: str, text: str, mend: str = "") -> Finding:
    """Give what could not be looked at, or was not to be."""
    return Finding("skipped", "", subject, text, mend)


def ok(subject: str, text: str) -> Finding:
    """Give what is right, where more is to be said of it than that."""
    return Finding("ok", "", subject, text)
