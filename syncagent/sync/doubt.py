"""Doubt: the reasons to answer 450 instead of 550 to unknown recipients of a domain. It is pure: no files, no clock.

A reason is a ``Doubt``. Reasons are added at once and dropped late: see ``may_narrow`` and ``is_over``. To add a kind,
add it to ``model.DoubtKind``, a rule to ``RULES``, its sentence in ``state.messages``, and a row to the tests' table.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from msgspec.structs import replace

from syncagent.model import ALL_DOMAINS, Doubt

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence

    from syncagent.model import DoubtKind, Plan

COVERED = 60.0
"""Seconds between the rename of the recipients' table and a run that may drop a line."""
APART = 60.0
"""Seconds between two runs that drop lines: each rename of the table makes smtpd processes restart."""
LINGERS = 300.0
"""Seconds that a line stays after its reason was last true."""
MOST_REMOVED = 1000
"""Number of removed addresses of a domain that are in doubt by themselves; beyond it the whole domain is."""
MARKED: frozenset[DoubtKind] = frozenset({"dead", "boot", "failed"})
"""Kinds that the mark of the switch stands for."""
_AT_ONCE = frozenset({"dead", "boot"})
"""Kinds that end with the first finished run in which every source was asked."""


@dataclass(frozen=True)
class Facts:
    """What a run knows about doubt.

    ``domains`` are the relay domains. ``failing``, ``stale`` and ``outdated`` map names of sources to the relay
    domains that they concern. ``held`` maps domains to the kinds of the reasons for which their removals, or their
    own removal, are held; ``ALL_DOMAINS`` stands for every domain. ``plan`` is the plan in force: the last one, or
    this run's. ``refusing`` are the sources whose unlisted recipients a person has settled (``unlisted = "refuse"``),
    ``permitted`` the domains that postfix.catch_all permits. ``unlisted`` maps sources to the relay domains with
    recipients that they cannot list.
    ``map_changed``: the table of recipients is not as it was published. ``mark`` is (kind, time) of the switch.
    ``new`` are domains that are published for the first time, ``leaving`` those whose removal is approved and that
    have no recipients any more, both with the end of their doubt. ``rejected`` maps sources to the relay domains that
    their rejected entries concern.
    """

    domains: tuple[str, ...]
    failing: Mapping[str, Collection[str]] = field(default_factory=dict)
    stale: Mapping[str, Collection[str]] = field(default_factory=dict)
    outdated: Mapping[str, Collection[str]] = field(default_factory=dict)
    held: Mapping[str, Collection[str]] = field(default_factory=dict)
    plan: Plan | None = None
    unlisted: Mapping[str, Collection[str]] = field(default_factory=dict)
    refusing: frozenset[str] = frozenset()
    permitted: frozenset[str] = frozenset()
    always: frozenset[str] = frozenset()
    by_hand: Sequence[Doubt] = ()
    map_changed: bool = False
    mark: tuple[DoubtKind, float] | None = None
    new: Mapping[str, float] = field(default_factory=dict)
    leaving: Mapping[str, float] = field(default_factory=dict)
    rejected: Mapping[str, Collection[str]] = field(default_factory=dict)


def _sources_fail(facts: Facts) -> Iterator[Doubt]:
    of_kinds = (("source-failing", facts.failing), ("source-stale", facts.stale), ("source-outdated", facts.outdated))
    for kind, sources in of_kinds:
        for source, domains in sources.items():
            yield from (Doubt(domain, kind, source) for domain in domains)  # type: ignore[arg-type]


def _holds_stand(facts: Facts) -> Iterator[Doubt]:
    """Yield a doubt for each domain with held removals or rejected entries, and for each whose own removal is held."""
    for held, kinds in facts.held.items():
        for domain in facts.domains if held == ALL_DOMAINS else (held,):
            yield from (Doubt(domain, "hold", kind) for kind in kinds)
    for domains in facts.rejected.values():
        yield from (Doubt(domain, "hold", "rejected") for domain in domains)


def _canaries_absent(facts: Facts) -> Iterator[Doubt]:
    for canary in facts.plan.absent_canaries if facts.plan else ():
        yield from (Doubt(domain, "canary", canary) for domain in facts.domains)


def _recipients_unlisted(facts: Facts) -> Iterator[Doubt]:
    """Yield a doubt for each domain in which a source has recipients that it cannot list, unless that is settled."""
    catch_alls = facts.plan.unlisted if facts.plan else {}
    for domain, sources in catch_alls.items():
        if domain not in facts.permitted:
            yield from (Doubt(domain, "unlisted", source) for source in sources if source not in facts.refusing)
    for source, domains in facts.unlisted.items():
        if source not in facts.refusing:
            yield from (Doubt(domain, "unlisted", source) for domain in domains if domain not in facts.permitted)


def _domains_empty(facts: Facts) -> Iterator[Doubt]:
    served = {change.domain for change in facts.plan.domains if change.after} if facts.plan else set()
    yield from (Doubt(domain, "empty") for domain in facts.domains if domain not in served)


def _map_changed(facts: Facts) -> Iterator[Doubt]:
    if facts.map_changed:
        yield from (Doubt(domain, "map") for domain in facts.domains)


def _switched(facts: Facts) -> Iterator[Doubt]:
    if facts.mark:
        kind, at = facts.mark
        yield from (Doubt(domain, kind, since=at, seen=at) for domain in facts.domains)


def _new(facts: Facts) -> Iterator[Doubt]:
    yield from (Doubt(domain, "new", until=until) for domain, until in facts.new.items())


def _leaving(facts: Facts) -> Iterator[Doubt]:
    yield from (Doubt(domain, "leaving", until=until) for domain, until in facts.leaving.items())


def _always(facts: Facts) -> Iterator[Doubt]:
    yield from (Doubt(domain, "always") for domain in sorted(facts.always))


def _by_hand(facts: Facts) -> Iterator[Doubt]:
    yield from facts.by_hand


RULES: tuple[Callable[[Facts], Iterator[Doubt]], ...] = (
    _sources_fail,
    _holds_stand,
    _canaries_absent,
    _recipients_unlisted,
    _domains_empty,
    _map_changed,
    _switched,
    _new,
    _leaving,
    _always,
    _by_hand,
)


def current(facts: Facts, now: float) -> tuple[Doubt, ...]:
    """Return the reasons that are true now, each with ``seen``; ``since`` is now where it is not known otherwise."""
    found = (doubt for rule in RULES for doubt in rule(facts) if not doubt.until or doubt.until > now)
    return tuple({doubt.key: doubt for doubt in dated(found, now)}.values())


def dated(doubts: Iterable[Doubt], now: float) -> Iterator[Doubt]:
    """Yield the reasons as found now: with ``seen``, and with ``since`` where it is not known otherwise."""
    for doubt in doubts:
        yield replace(doubt, since=doubt.since or now, seen=doubt.seen or now)


@dataclass(frozen=True, slots=True)
class Longest:
    """The lengths in seconds of doubt that ends by time. What ends later was recorded by a clock that was ahead."""

    new: float
    removed: float

    def of_doubts(self, doubts: Iterable[Doubt], now: float) -> tuple[Doubt, ...]:
        """Return the doubts, none of which ends later than it could if it began now."""
        longest = {
            "new": self.new,
            **dict.fromkeys(("removed", "state-lost", "catch-all-removed", "leaving"), self.removed),
        }
        return tuple(
            replace(doubt, until=now + longest[doubt.kind])
            if doubt.kind in longest and doubt.until > now + longest[doubt.kind]
            else doubt
            for doubt in doubts
        )

    def of_addresses(
        self, addresses: Iterable[tuple[str, str, float, float]], now: float
    ) -> list[tuple[str, str, float, float]]:
        """Return the removed addresses, likewise."""
        last = now + self.removed
        return [(address, domain, begun, min(until, last)) for address, domain, begun, until in addresses]


def widened(recorded: Iterable[Doubt], found: Iterable[Doubt]) -> tuple[Doubt, ...]:
    """Return the recorded reasons and those found in this run. Nothing is dropped; the earlier ``since`` is kept."""
    rows = {doubt.key: doubt for doubt in recorded}
    for doubt in found:
        old = rows.get(doubt.key)
        rows[doubt.key] = replace(doubt, since=min(old.since, doubt.since), until=_end(old, doubt)) if old else doubt
    return tuple(rows[key] for key in sorted(rows))


def _end(old: Doubt, new: Doubt) -> float:
    """Return the later end of two. A person's entry has the end that the person gave it last.

    The end of a switch's doubt (see ``asked``) does not hold for a switch that fired later.
    """
    if new.kind == "by-hand" or (new.kind in _AT_ONCE and new.seen > old.until):
        return new.until
    return max(old.until, new.until)


def asked(standing: Iterable[Doubt], now: float) -> tuple[Doubt, ...]:
    """Return the reasons after a run in which every source was asked: the doubt of the switch has its end now."""
    return tuple(
        replace(doubt, until=now) if doubt.kind in _AT_ONCE and not doubt.until else doubt for doubt in standing
    )


def may_narrow(covered: float, narrowed: float, now: float) -> bool:
    """True if a run that started at ``now`` may drop lines.

    ``covered`` is the time at which the recipients' table was last renamed before the run: sessions that were open then
    have ended or use the new table. ``narrowed`` is the time at which a line was last dropped. Times further in the
    future than the wait do not count: the clock was set.
    """
    return all(not -wait <= now - moment < wait for moment, wait in ((covered, COVERED), (narrowed, APART)))


def is_over(doubt: Doubt, now: float, by: float) -> bool:
    """True if the line of a reason that is not true any more may be dropped.

    ``by`` is the start of the run of the table of recipients that smtpd has used for a minute: the reason must have
    been over in that run. It is ``now`` if this run did not rename the table.
    """
    if doubt.kind == "by-hand":
        return True
    if doubt.until:
        return by >= doubt.until
    if doubt.kind in _AT_ONCE:
        return False
    return doubt.seen > now + LINGERS or (now >= doubt.seen + LINGERS and by > doubt.seen)


def narrowed(
    standing: Iterable[Doubt], found: Collection[Doubt], domains: Collection[str], now: float, by: float
) -> tuple[Doubt, ...]:
    """Return the reasons that stand after narrowing.

    Dropped are those that are not ``found`` in this run and are over, and those of domains that are in no table any
    more (``domains`` are those that are). For ``by`` see ``is_over``.
    """
    true = {doubt.key for doubt in found if doubt.kind not in MARKED}
    return tuple(
        doubt
        for doubt in standing
        if (doubt.key in true or not is_over(doubt, now, by)) and (doubt.domain in domains or doubt.until)
    )


def lingering(standing: Iterable[Doubt], found: Collection[Doubt]) -> tuple[Doubt, ...]:
    """Return the reasons that stand, with ``lingers_until`` for those that are not true any more."""
    true = {doubt.key for doubt in found if doubt.kind not in MARKED}
    return tuple(
        replace(doubt, lingers_until=0.0 if _is_bound(doubt) or doubt.key in true else doubt.seen + LINGERS)
        for doubt in standing
    )


def _is_bound(doubt: Doubt) -> bool:
    """True if a reason ends by its time, by a person, or by a run, and not some time after it was last true."""
    return bool(doubt.until) or doubt.kind == "by-hand" or doubt.kind in _AT_ONCE


def ends(
    standing: Iterable[Doubt], found: Collection[Doubt], addresses: Iterable[float], covered: float, last: float
) -> float | None:
    """Return the time at which the next line can be dropped by a run; None if there is none.

    Sources need to be asked only if the switch has fired. ``addresses`` are the ends of the doubt of single addresses,
    ``last`` is the time of the last narrowing.
    """
    true = {doubt.key for doubt in found if doubt.kind not in MARKED}
    waiting = [doubt for doubt in standing if doubt.until or doubt.key not in true]
    times = [0.0 if doubt.kind in _AT_ONCE else doubt.until or doubt.seen + LINGERS for doubt in waiting]
    times += addresses
    return max(min(times), covered + COVERED, last + APART) if times else None


def of_removed(
    removed: Mapping[str, Sequence[str]],
    already: Mapping[str, int],
    fits: Callable[[str], bool],
    times: tuple[float, float],
) -> tuple[list[Doubt], list[tuple[str, str, float, float]]]:
    """Return the doubts of domains, and the rows of single addresses, for the recipients that a run removes.

    ``removed`` are these recipients by domain, ``already`` the numbers of those in doubt. ``fits``: the address can be
    a key. ``times`` are the begin and the end of the doubt.
    """
    (now, until), whole, single = times, [], []
    for domain, addresses in removed.items():
        if any(address.startswith("@") for address in addresses):
            whole.append(Doubt(domain, "catch-all-removed", "", now, now, until))
        if len(addresses) + already.get(domain, 0) > MOST_REMOVED or not all(map(fits, addresses)):
            whole.append(Doubt(domain, "removed", "", now, now, until))
        else:
            single += [(address, domain, now, until) for address in addresses if not address.startswith("@")]
    return whole, single


def lines(standing: Iterable[Doubt]) -> set[str]:
    """Return the domains that are in doubt."""
    return {doubt.domain for doubt in standing}


def begun_and_ended(before: Iterable[Doubt], after: Iterable[Doubt]) -> tuple[list[Doubt], list[Doubt]]:
    """Return the reasons that begin and those whose line is dropped, both sorted."""
    old, new = ({doubt.key: doubt for doubt in doubts} for doubts in (before, after))
    begun, ended = sorted(new.keys() - old.keys()), sorted(old.keys() - new.keys())
    return [new[key] for key in begun], [old[key] for key in ended]
