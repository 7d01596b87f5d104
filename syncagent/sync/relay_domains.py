"""The relay domains of a run: the configured ones and, with postfix.domains_map, those that sources report.

A domain is never removed unasked: one that is in the table and that no source reports any more is held until a person
lets it go.
"""

from __future__ import annotations

from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

from syncagent import addresses as normalise
from syncagent.model import DOMAIN_HOLD, Hold, Reason
from syncagent.state import messages
from syncagent.sync.guard import hold_id, source_failing

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from syncagent.config.tables import Postfix
    from syncagent.model import Plan
    from syncagent.sync.fetch import Fetched
    from syncagent.sync.run import Run


@dataclass(frozen=True)
class Domains:
    """The relay domains of one run, by name.

    ``configured`` are those of postfix.relay_domains, ``reported`` those that sources report and that are allowed, with
    these sources, ``known`` those in the table of domains; without such a table, the configured ones. ``mapped``: there
    is such a table.
    """

    configured: tuple[str, ...]
    reported: Mapping[str, tuple[str, ...]]
    known: frozenset[str]
    holds: tuple[Hold, ...]
    mapped: bool = True

    @property
    def pending(self) -> tuple[Hold, ...]:
        """The holds that no person has approved."""
        return tuple(hold for hold in self.holds if not hold.approved_at)

    @property
    def held(self) -> frozenset[str]:
        """The domains that are no longer reported, and that no person let go."""
        return frozenset(hold.domain.removeprefix(DOMAIN_HOLD) for hold in self.pending)

    @property
    def leaving(self) -> frozenset[str]:
        """The domains that are no longer reported, approved or not."""
        return frozenset(hold.domain.removeprefix(DOMAIN_HOLD) for hold in self.holds)

    @property
    def scope(self) -> tuple[str, ...]:
        """Every domain whose recipients are wanted: a held domain keeps its recipients."""
        return (*self.configured, *sorted((self.reported.keys() | self.held) - frozenset(self.configured)))

    def published(self, wanted: Mapping[str, int]) -> tuple[str, ...]:
        """Return the domains to publish: one that is not configured only once it has a recipient."""
        return tuple(
            domain for domain in self.scope if domain in self.configured or domain in self.known or wanted.get(domain)
        )

    def changes(self, plan: Plan) -> Iterator[tuple[str, bool, str]]:
        """Yield what a plan changes, for the history: domain, whether it is new, the sources by commas."""
        for names, new in ((plan.domains_added, True), (plan.domains_removed, False)):
            yield from ((name, new, ",".join(self.reported.get(name, ()))) for name in names)


def decide(
    postfix: Postfix,
    answers: Sequence[Fetched],
    known: frozenset[str] | None,
    standing: Mapping[str, Hold],
    run: Run,
) -> Domains:
    """Return the relay domains of a run.

    ``known`` are those in the table of domains, None if there is no such table; ``standing`` are the current holds.
    """
    configured = tuple(map(str, postfix.relay_domains))
    if known is None:
        return Domains(configured, {}, frozenset(configured), (), mapped=False)
    reported = _reported({answer.report.name: answer.state.domains for answer in answers}, postfix.allow_domains)
    gone = sorted(known - reported.keys() - frozenset(configured))
    failing = [answer.report.name for answer in answers if answer.is_failing]
    return Domains(configured, reported, known, tuple(_hold(domain, standing, failing, run) for domain in gone))


def _reported(said: Mapping[str, Iterable[str]], allowed: Iterable[str]) -> dict[str, tuple[str, ...]]:
    """Return the domains that sources report and that are allowed, with their sources."""
    patterns = [pattern.lower() for pattern in allowed]
    reported: dict[str, tuple[str, ...]] = {}
    for source, names in said.items():
        for domain in sorted(set(map(canonical, names))):
            if domain and any(fnmatchcase(domain, pattern) for pattern in patterns):
                reported[domain] = (*reported.get(domain, ()), source)
    return reported


def _hold(domain: str, standing: Mapping[str, Hold], failing: Sequence[str], run: Run) -> Hold:
    """Return the hold of a domain that is no longer reported, which a person has to approve.

    It keeps the ID, time and approval of the current hold of that domain, if any.
    """
    name = f"{DOMAIN_HOLD}{domain}"
    old = next((hold for hold in standing.values() if hold.domain == name), None)
    reasons = [Reason("domain", subjects=(domain,)), *([source_failing(failing)] if failing else [])]
    return Hold(
        id=old.id if old else hold_id(name, run.id),
        domain=name,
        count=1,
        since=old.since if old else run.now,
        reasons=tuple(map(messages.with_text, reasons)),
        approved_at=old.approved_at if old else 0.0,
    )


def canonical(domain: str) -> str:
    """Return a domain in its canonical form, "" if it is none."""
    try:
        return normalise.canonical_domain(domain.strip().removeprefix("@"))
    except normalise.UnusableError:
        return ""
