"""The types of checks, findings and remedies."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from msgspec import Struct

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from syncagent.checks.context import Context

Severity = Literal["error", "warning", "ok", "skipped"]


class Needs(enum.StrEnum):
    """The action that Postfix needs before a remedy takes effect."""

    NOTHING = ""
    RELOAD = "reload"
    RESTART = "restart"


class Remedy(Struct, frozen=True, kw_only=True, tag_field="kind"):
    """A step that corrects a finding. The subclass is its kind.

    ``when`` is a phrase that introduces an alternative or a later step, such as "or, to keep it,"; empty for a step
    to take at once.
    """

    when: str = ""
    needs: Needs = Needs.NOTHING


class Shell(Remedy, frozen=True, kw_only=True, tag="shell"):
    """A shell command that can be pasted as it is."""

    command: str


class File(Remedy, frozen=True, kw_only=True, tag="file"):
    """A line to write in a section of a configuration file; it replaces a line with the same key."""

    path: str
    section: str
    write: str


class Zone(Remedy, frozen=True, kw_only=True, tag="zone"):
    """A record to add to a DNS zone. ``note`` names the record that it replaces, or an alternative."""

    record: str
    note: str = ""


class Person(Remedy, frozen=True, kw_only=True, tag="person"):
    """An instruction for a person, where no command is known."""

    text: str


Step = Shell | File | Zone | Person


class Finding(Struct, frozen=True):
    """A result of a check about ``subject``, such as a domain, file or parameter.

    ``check`` is the check's ID, ``text`` the evidence, and ``remedies`` the steps in order.
    """

    severity: Severity
    check: str
    subject: str
    text: str
    remedies: tuple[Step, ...] = ()


@dataclass(frozen=True, slots=True)
class Check:
    """A check. ``id`` is a stable interface. ``ok`` is the message if ``find`` yields no finding."""

    id: str
    ok: str
    find: Callable[[Context], Iterator[Finding]]


def error(subject: str, text: str, *remedies: Step) -> Finding:
    """Return an error: mail is lost or wrongly accepted, or syncagent cannot work.

    The runner sets the check's ID, in findings of the other severities as well.
    """
    return Finding("error", "", subject, text, remedies)


def warning(subject: str, text: str, *remedies: Step) -> Finding:
    """Return a warning: the setting is doubtful, or good only for a limited time."""
    return Finding("warning", "", subject, text, remedies)


def skipped(subject: str, text: str) -> Finding:
    """Return a finding about a subject that cannot be checked or is excluded by an option."""
    return Finding("skipped", "", subject, text)


def ok(subject: str, text: str) -> Finding:
    """Return a finding about a subject in order, with a message of its own instead of the check's."""
    return Finding("ok", "", subject, text)
