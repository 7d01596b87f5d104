"""Relay domains that the sources report: which are wanted here, which stay though nobody reports them any more.

Only where postfix.domains_map is set. A domain is never removed unasked: what is in the map and no longer wanted is
held until a person lets it go.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

from syncagent import addresses as normalise
from syncagent.files import sorted_lines as files
from syncagent.model import DOMAIN_HOLD, Hold, Reason
from syncagent.postfix import publish
from syncagent.postfix import table_text as mapfile
from syncagent.postfix.table import Target
from syncagent.sync import existing_map as adopt
from syncagent.sync.guard import hold_id

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
    from pathlib import Path

    from syncagent.config.tables import Postfix
    from syncagent.model import Plan
    from syncagent.postfix.table import Identities
    from syncagent.state.database import Finished


@dataclass(frozen=True)
class Domains:
    """The relay domains of one run. ``known`` are in the map, ``reported`` said by sources, by name, and allowed."""

    configured: tuple[str, ...]
    reported: Mapping[str, tuple[str, ...]]
    known: frozenset[str]
    holds: tuple[Hold, ...]

    @property
    def held(self) -> frozenset[str]:
        """The domains that are to go, and that nobody let go."""
        return frozenset(hold.domain.removeprefix(DOMAIN_HOLD) for hold in self.holds if not hold.approved_at)

    @property
    def scope(self) -> tuple[str, ...]:
        """Every domain whose recipients are wanted: those that are held have theirs still."""
        return (*self.configured, *sorted((self.reported.keys() | self.held) - frozenset(self.configured)))

    def published(self, wanted: Mapping[str, int]) -> tuple[str, ...]:
        """Give what the map is to have: a domain that nobody configured only once it has a recipient."""
        return tuple(
            domain for domain in self.scope if domain in self.configured or domain in self.known or wanted.get(domain)
        )

    def changes(self, plan: Plan) -> Iterator[tuple[str, bool, str]]:
        """Give what a plan changes for the history: domain, whether it is new, the sources by commas."""
        for names, new in ((plan.domains_added, True), (plan.domains_removed, False)):
            yield from ((name, new, ",".join(self.reported.get(name, ()))) for name in names)


@dataclass(frozen=True)
class Finding:
    """What a run knows: its name and clock, the holds of the run before by ID, the sources that are failing."""

    run_id: str
    now: float
    standing: Mapping[str, Hold]
    failing: Sequence[str]

    def find(self, postfix: Postfix, said: Mapping[str, Iterable[str]], known: Iterable[str]) -> Domains:
        """Work out the relay domains: ``said`` by the sources, by their names, ``known`` in the map."""
        reported: dict[str, tuple[str, ...]] = {}
        for source, names in said.items():
            for domain in sorted(set(map(_canonical, names))):
                if domain and _allowed(domain, postfix.allow_domains):
                    reported[domain] = (*reported.get(domain, ()), source)
        known = frozenset(known)
        gone = sorted(known - reported.keys() - frozenset(postfix.relay_domains))
        return Domains(tuple(map(str, postfix.relay_domains)), reported, known, tuple(map(self._hold, gone)))

    def _hold(self, domain: str) -> Hold:
        """Hold a domain that is to go: a person has to let it, once every source is whole."""
        old = next((hold for hold in self.standing.values() if hold.domain == f"{DOMAIN_HOLD}{domain}"), None)
        reasons = [Reason("domain", f"neither a source nor postfix.relay_domains has the domain {domain} any more")]
        if self.failing:
            reasons.append(Reason("source-failing", f"waiting for {', '.join(self.failing)}"))
        return Hold(
            id=old.id if old else hold_id(f"{DOMAIN_HOLD}{domain}", self.run_id),
            domain=f"{DOMAIN_HOLD}{domain}",
            count=1,
            since=old.since if old else self.now,
            reasons=tuple(reasons),
            approved_at=old.approved_at if old else 0.0,
        )


def _canonical(domain: str) -> str:
    try:
        return normalise.canonical_domain(domain.strip().removeprefix("@"))
    except normalise.UnusableError:
        return ""


def _allowed(domain: str, patterns: Iterable[str]) -> bool:
    return any(fnmatchcase(domain, pattern.lower()) for pattern in patterns)


def in_text(text: Path) -> frozenset[str]:
    """Give the domains that a map's text has, as another hand may have written it; none where it is not there."""
    return frozenset(key for key in _keys_in(text) if not key.startswith("."))


def _keys_in(text: Path) -> Iterator[str]:
    """Give the domains, and what stands for all below one: ``.example.com``, where Postfix is told to heed the dot."""
    with contextlib.suppress(FileNotFoundError), files.open_foreign(text) as file:
        for _, line in mapfile.logical_lines(files.lines_of(file)):
            parts = mapfile.split(line)
            key = parts[0].decode(errors="replace") if parts and parts[1] else ""
            domain = _canonical(key.removeprefix(".")) if "@" not in key else ""
            if domain:
                yield f".{domain}" if key.startswith(".") else domain


class DomainsMap:
    """The second table: domains, one a key."""

    def __init__(self, postfix: Postfix, spool: Path, report: Callable[[str, int], None]) -> None:
        """Work out the names; nothing needs to be there."""
        assert postfix.domains_map is not None  # noqa: S101 - who asks has looked
        self._target = Target(postfix.settings(postfix.domains_map))
        self._spool, self._report = spool, report

    def known(self, old: Finished | None) -> frozenset[str]:
        """Return what is in the table: as it is on record, and as another hand may have written it.

        Raise PublishError where it is there and cannot be read.
        """
        recorded = frozenset(old.domains) if old else frozenset()
        on_record = old and old.domain_identities and self._target.text_on_record(old.domain_identities)
        if on_record:
            return recorded
        with adopt.reading(self._target.text):
            return recorded.union(_keys_in(self._target.text))

    def on_record(self, old: Finished, domains: Iterable[str]) -> bool:
        """Tell whether the table is as it was left, and is to have the same."""
        return sorted(old.domains) == sorted(domains) and self._target.on_record(old.domain_identities)

    def put(self, domains: Iterable[str], old: Finished | None) -> Identities:
        """Publish it, as the recipients are published; ``old`` is what was left there. Raises PublishError."""
        self._target.sweep()
        lines = files.write_plain(self._spool / "domains", (f"{domain}\n".encode() for domain in sorted(domains)))
        identities = publish.publish(self._target, lines, self._spool, self._report)
        publish.remove_stale(old.domain_identities if old else None, identities)
        publish.reload(self._target)
        return identities
