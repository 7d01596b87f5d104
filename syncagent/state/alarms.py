"""Alarms: conditions that need a person. It is pure: no files, no clock."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Literal

from msgspec import Struct

from syncagent.state import doubt_groups, messages

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Sequence

    from syncagent.model import Doubt, Hold, Waits
    from syncagent.state.doubt_groups import Causes

_WEEK = 7 * 86400.0
_COME_AND_GO = {"source-failing", "source-outdated"}
"""Kinds of reasons that do not make a hold another alarm: they have alarms of their own."""


class Alarm(Struct, frozen=True):
    """A condition that needs a person: its kind, its subject, and a message with the remedy.

    ``repeat``: seconds after which it is told again while it stands, if that is longer than notify.repeat.
    ``later``: it is shown, and not told yet: a hold that is open.
    """

    kind: Literal[
        "held",
        "catch-all",
        "canary",
        "stale",
        "outdated",
        "publish-failed",
        "incomplete",
        "configuration",
        "domain-not-relayed",
        "doubt",
        "doubt-not-in-force",
        "removal-stuck",
    ]
    subject: str
    text: str
    severity: Literal["warning", "error"] = "error"
    repeat: float = 0.0
    later: bool = False

    @property
    def key(self) -> str:
        """Identity of the alarm between runs. The text is not part of it, since ages and counts in it change."""
        return f"{self.kind} {self.subject}"


def of_hold(hold: Hold, command: str) -> Alarm:
    """Return the alarm of a hold that needs a person. ``command`` is the command line that approves it."""
    names = {str(reason.kind) for reason in hold.reasons} - _COME_AND_GO
    if not hold.rejecting and "rejected" in names:  # as older versions named it, so that it is not told again
        names = names - {"rejected"} | {"rejects"}
    kinds = " ".join(sorted(names))
    own = [hold.id] if hold.frozen_at else []  # another frozen hold of the domain is another alarm
    subject = " ".join([hold.domain, kinds, *own])
    return Alarm("held", subject, messages.held_alarm(hold, command), later=hold.collecting)


def of_waits(waits: Iterable[Waits], now: float) -> Iterable[Alarm]:
    """Yield an alarm for removals that have waited three times as long as they should, one for each reason."""
    for one in waits:
        if now > one.stuck_at:
            subject = " ".join((one.why, *one.sources))
            yield Alarm("removal-stuck", subject, messages.removal_stuck(one), "warning")


def of_doubts(doubts: Sequence[Doubt], relay_domains: Collection[str], causes: Causes, now: float) -> Iterable[Alarm]:
    """Yield the alarms of doubts that have stood too long, one for each reason."""
    aging = partial(doubt_groups.is_aging, causes=causes)
    for group in doubt_groups.old(doubts, relay_domains, now, aging):
        severity: Literal["warning", "error"] = "error" if now - group.since >= doubt_groups.ERROR else "warning"
        yield Alarm("doubt", group.name, messages.doubt_alarm(group), severity)
    lasting = partial(doubt_groups.is_lasting, causes=causes)
    for group in doubt_groups.old(doubts, relay_domains, now, lasting):
        yield Alarm("doubt", group.name, messages.doubt_alarm(group), "warning", _WEEK)


def of_doubt_table(table: str, error: str) -> Iterable[Alarm]:
    """Yield the alarm of a doubt table that could not be published. ``error`` is "" if it is in force."""
    if error:
        yield Alarm("doubt-not-in-force", table, messages.doubt_not_in_force(table, error))
