"""A check, its findings, and the remedies of a finding."""

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
    """What Postfix needs before a remedy is in force."""

    NOTHING = ""
    RELOAD = "reload"
    RESTART = "restart"


class Remedy(Struct, frozen=True, kw_only=True, tag_field="kind"):
    """A step that corrects a finding; the subclass is its kind.

    ``when`` is set for a step that is not to be taken as it stands: it introduces an alternative or a later step.
    """

    when: str = ""
    needs: Needs = Needs.NOTHING


class Shell(Remedy, frozen=True, kw_only=True, tag="shell"):
    """A command line for a shell, ready to be pasted."""

    command: str


class File(Remedy, frozen=True, kw_only=True, tag="file"):
    """A line to write in a section of a configuration file, in place of one with the same key."""

    path: str
    section: str
    write: str


class Zone(Remedy, frozen=True, kw_only=True, tag="zone"):
    """A record to add to a DNS zone; ``note``: what it replaces, or another way."""

    record: str
    note: str = ""


class Person(Remedy, frozen=True, kw_only=True, tag="person"):
    """An instruction for a person: only they know how."""

    text: str


Step = Shell | File | Zone | Person


class Finding(Struct, frozen=True):
    """A fact about ``subject``, a domain, file or parameter: right, wrong, doubtful, or not looked at.

    ``check`` is the check's ID; ``text`` the evidence; ``remedies`` the steps in their order.
    """

    severity: Severity
    check: str
    subject: str
    text: str
    remedies: tuple[Step, ...] = ()


@dataclass(frozen=True, slots=True)
class Check:
    """A check. ``id`` is an interface and does not change; ``ok`` is the sentence where ``find`` yields nothing."""

    id: str
    ok: str
    find: Callable[[Context], Iterator[Finding]]


def error(subject: str, text: str, *remedies: Step) -> Finding:
    """Return an error: mail is lost, or accepted wrongly. The runner of the check adds its ID."""
    return Finding("error", "", subject, text, remedies)


def warning(subject: str, text: str, *remedies: Step) -> Finding:
    """Return a warning: doubtful, or good only for a while."""
    return Finding("warning", "", subject, text, remedies)


def skipped(subject: str, text: str) -> Finding:
    """Return a finding about what could not be looked at, or was not to be."""
    return Finding("skipped", "", subject, text)


def ok(subject: str, text: str) -> Finding:
    """Return a finding about what is right, where the check's sentence is not enough."""
    return Finding("ok", "", subject, text)
