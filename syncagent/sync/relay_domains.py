"""The relay domains of a run: the configured ones and, with postfix.domains_map, those that sources report.

A domain in the table that is no longer configured or reported is held until a person approves its removal.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

from syncagent import addresses as normalise
from syncagent.invisible import trimmed
from syncagent.model import DOMAIN_HOLD, Hold, Reason
from syncagent.state import messages
from syncagent.sync.conditions import source_failing
from syncagent.sync.guard import hold_id

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from syncagent.config.tables import Postfix
    from syncagent.model import Plan
    from syncagent.sync.fetch import Fetched
    from syncagent.sync.run import Run


@dataclass(frozen=True)
class Domains:
    """The relay domains of one run.

    ``configured``: those of postfix.relay_domains. ``reported``: those that sources report and postfix.allow_domains
    permits, with the names of these sources. ``known``: those in the table of domains, or the configured ones without
    such a table. ``holds``: the holds of domains that leave the table. ``mapped``: postfix.domains_map is set.
    ``parting``: domains whose removal is approved, and which stay in the table in doubt, without recipients, until the
    given time.
    """

    configured: tuple[str, ...]
    reported: Mapping[str, tuple[str, ...]]
    known: frozenset[str]
    holds: tuple[Hold, ...]
    mapped: bool = True
    parting: Mapping[str, float] = field(default_factory=dict)

    @property
    def pending(self) -> tuple[Hold, ...]:
        """The holds that are not approved."""
        return tuple(hold for hold in self.holds if not hold.approved_at)

    @property
    def held(self) -> frozenset[str]:
        """The domains of ``leaving`` whose removal is not approved."""
        return frozenset(hold.domain.removeprefix(DOMAIN_HOLD) for hold in self.pending)

    @property
    def leaving(self) -> frozenset[str]:
        """The domains in the table that are no longer configured or reported, approved or not."""
        return frozenset(hold.domain.removeprefix(DOMAIN_HOLD) for hold in self.holds)

    @property
    def scope(self) -> tuple[str, ...]:
        """The domains whose recipients are wanted. A held domain keeps its recipients."""
        return (*self.configured, *sorted((self.reported.keys() | self.held) - frozenset(self.configured)))

    def published(self, wanted: Mapping[str, int]) -> tuple[str, ...]:
        """Return the domains to publish. A reported domain is added only once it has recipients (``wanted``)."""
        staying = (
            domain for domain in self.scope if domain in self.configured or domain in self.known or wanted.get(domain)
        )
        return (*staying, *sorted(self.parting))

    def changes(self, plan: Plan) -> Iterator[tuple[str, bool, str]]:
        """Yield the domain changes of a plan as (domain, True if added, comma-separated sources)."""
        for names, new in ((plan.domains_added, True), (plan.domains_removed, False)):
            yield from ((name, new, ",".join(self.reported.get(name, ()))) for name in names)


@dataclass(frozen=True, slots=True)
class Parting:
    """How long a domain stays in the table after its removal was approved.

    ``until`` has the ends of the times that began in earlier runs, by domain; ``stays`` is the length of a new one in
    seconds, 0 to remove the domain at once.
    """

    until: Mapping[str, float] = field(default_factory=dict)
    stays: float = 0.0

    def end(self, domain: str, hold: Hold | None, now: float) -> float:
        """Return the end of a domain's time in the table, 0 if it has none. ``hold`` is that of its removal."""
        begun = self.until.get(domain, 0.0)
        new = now + self.stays if not begun and hold and hold.approved_at else 0.0
        return max(begun, new) if self.stays else 0.0


def decide(  # noqa: PLR0913 - all inputs of the decision
    postfix: Postfix,
    answers: Sequence[Fetched],
    known: frozenset[str] | None,
    standing: Mapping[str, Hold],
    run: Run,
    *,
    parting: Parting,
) -> Domains:
    """Return the relay domains of a run.

    ``known`` are the domains in the table of domains, None if postfix.domains_map is not set. ``standing`` are the
    recorded holds by ID.
    """
    configured = tuple(map(str, postfix.relay_domains))
    if known is None:
        return Domains(configured, {}, frozenset(configured), (), mapped=False)
    reported = _reported({answer.report.name: answer.state.domains for answer in answers}, postfix.allow_domains)
    gone = sorted(known - reported.keys() - frozenset(configured))
    failing = [answer.report.name for answer in answers if answer.is_failing]
    ends = {domain: parting.end(domain, _standing(domain, standing), run.now) for domain in gone}
    holds = (
        _hold(domain, standing, failing, run) for domain in gone if domain not in parting.until and not ends[domain]
    )
    return Domains(
        configured,
        reported,
        known,
        tuple(holds),
        parting={domain: end for domain, end in ends.items() if end > run.now},
    )


def _reported(said: Mapping[str, Iterable[str]], allowed: Iterable[str]) -> dict[str, tuple[str, ...]]:
    """Return the reported domains that match a pattern in ``allowed`` (fnmatch), with their sources."""
    patterns = [pattern.lower() for pattern in allowed]
    reported: dict[str, tuple[str, ...]] = {}
    for source, names in said.items():
        for domain in sorted(set(map(canonical, names))):
            if domain and any(fnmatchcase(domain, pattern) for pattern in patterns):
                reported[domain] = (*reported.get(domain, ()), source)
    return reported


def _hold(domain: str, standing: Mapping[str, Hold], failing: Sequence[str], run: Run) -> Hold:
    """Return the hold of a domain that leaves the table.

    It keeps the ID, time and approval of the recorded hold of that domain, if there is one.
    """
    name, old = f"{DOMAIN_HOLD}{domain}", _standing(domain, standing)
    reasons = [Reason("domain", subjects=(domain,)), *([source_failing(failing)] if failing else [])]
    return Hold(
        id=old.id if old else hold_id(name, run.id),
        domain=name,
        count=1,
        since=old.since if old else run.now,
        reasons=tuple(map(messages.with_text, reasons)),
        approved_at=old.approved_at if old else 0.0,
    )


def _standing(domain: str, standing: Mapping[str, Hold]) -> Hold | None:
    """Return the recorded hold of a domain's own removal, None if there is none."""
    name = f"{DOMAIN_HOLD}{domain}"
    return next((hold for hold in standing.values() if hold.domain == name), None)


def canonical(domain: str) -> str:
    """Return the canonical form of a domain, "" if it is not a domain.

    Surrounding white space and a leading "@" are removed.
    """
    try:
        return normalise.canonical_domain(trimmed(domain).removeprefix("@"))
    except normalise.UnusableError:
        return ""
