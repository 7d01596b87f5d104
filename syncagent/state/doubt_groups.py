"""Doubts as few groups for people, and which of them are told by their age. It is pure: no files, no clock."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from msgspec import Struct

from syncagent.model import DoubtKind

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Mapping

    from syncagent.model import Doubt

WARNING = 3600.0
"""Seconds of doubt after which a person is warned."""
ERROR = 8 * 3600.0
"""Seconds of doubt after which that is an error: some senders give up after 12 h."""
_SAME_TIME = 300.0
"""Seconds within which two alarms of the same cause count as one."""
INTENDED: frozenset[DoubtKind] = frozenset({"new", "removed", "catch-all-removed", "leaving", "always", "by-hand"})
"""Kinds that a configuration or a person wants; their age is not told."""
_LASTING = frozenset({"unlisted", "empty"})
_AGING = frozenset({"dead", "boot", "map"})


class DoubtGroup(Struct, frozen=True):
    """Domains in doubt for the same reason. Times are in seconds since the epoch, 0 if there is none.

    ``every``: these are all relay domains. ``since`` is the earliest begin, ``until`` the latest end. ``over``: the
    reason is not true any more.
    """

    kind: DoubtKind
    subject: str
    domains: tuple[str, ...]
    every: bool
    since: float
    until: float
    over: bool = False

    @property
    def name(self) -> str:
        """Identity of the reason between runs: the kind, and the subject if there is one."""
        return f"{self.kind} {self.subject}".strip()


@dataclass(frozen=True)
class Causes:
    """Causes of doubt that have an alarm of their own.

    ``stale_at`` maps each failing source to the time at which its data counts as stale. ``held`` are the domains with a
    hold that needs a person. ``catch_alls`` are (domain, source) of the held catch-alls. ``published``: there is a map;
    otherwise that nothing is published is an alarm.
    """

    stale_at: Mapping[str, float]
    held: Collection[str] = ()
    catch_alls: Collection[tuple[str, str]] = ()
    published: bool = True


def grouped(doubts: Iterable[Doubt], relay_domains: Collection[str]) -> tuple[DoubtGroup, ...]:
    """Return the doubts grouped by kind and subject: first those that are true, of them the largest group first."""
    groups: dict[tuple[DoubtKind, str, bool], list[Doubt]] = {}
    for doubt in doubts:
        groups.setdefault((doubt.kind, doubt.subject, bool(doubt.lingers_until)), []).append(doubt)
    found = [_group(members, relay_domains) for members in groups.values()]
    return tuple(sorted(found, key=lambda group: (group.over, -len(group.domains), group.name)))


def _group(members: list[Doubt], relay_domains: Collection[str]) -> DoubtGroup:
    domains = tuple(sorted({doubt.domain for doubt in members}))
    ends = [doubt.until or doubt.lingers_until for doubt in members]
    return DoubtGroup(
        kind=members[0].kind,
        subject=members[0].subject,
        domains=domains,
        every=bool(relay_domains) and set(domains).issuperset(relay_domains),
        since=min((doubt.since for doubt in members if doubt.since), default=0.0),
        until=max(ends) if all(ends) else 0.0,
        over=bool(members[0].lingers_until),
    )


def is_aging(doubt: Doubt, causes: Causes) -> bool:
    """True if the age of a doubt is told: it is true, nobody wants it, and its cause has no alarm of its own.

    The alarm of a stale source counts if it comes no later than the warning of the doubt.
    """
    if doubt.lingers_until:
        return False
    match doubt.kind:
        case "source-failing":
            return _stale_late(doubt, [causes.stale_at.get(doubt.subject, 0.0)])
        case "hold":
            waits = doubt.subject == "source-failing" and doubt.domain not in causes.held
            return waits and _stale_late(doubt, causes.stale_at.values())
        case _:
            return doubt.kind in _AGING


def _stale_late(doubt: Doubt, stale_at: Iterable[float]) -> bool:
    """True if a failing source has its alarm of stale data only after the warning of the doubt."""
    return any(at > doubt.since + WARNING + _SAME_TIME for at in stale_at)


def is_lasting(doubt: Doubt, causes: Causes) -> bool:
    """True if a doubt stands until a person changes something, and is told again and again."""
    if doubt.lingers_until or (doubt.kind == "empty" and not causes.published):
        return False
    return doubt.kind in _LASTING and (doubt.domain, doubt.subject) not in causes.catch_alls


def age(doubt: Doubt, now: float) -> float:
    """Return the age of a doubt in seconds, 0 if it is not known or in the future."""
    return max(0.0, now - (doubt.since or now))


def ages(doubts: Iterable[Doubt], causes: Causes, now: float) -> dict[str, float]:
    """Return the age, in seconds, of the oldest doubt of each domain whose age is told."""
    found: dict[str, float] = {}
    for doubt in doubts:
        if is_aging(doubt, causes):
            found[doubt.domain] = max(found.get(doubt.domain, 0.0), age(doubt, now))
    return found


def old(
    doubts: Iterable[Doubt], relay_domains: Collection[str], now: float, wanted: Callable[[Doubt], bool]
) -> tuple[DoubtGroup, ...]:
    """Return the groups of those ``wanted`` doubts that a person is to be told of, by their age."""
    return grouped((doubt for doubt in doubts if wanted(doubt) and age(doubt, now) >= WARNING), relay_domains)
