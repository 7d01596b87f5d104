"""The guard: computes the reasons to hold removals from counts. It is pure: no files, no clock.

To add a rule, add a function to ``DOMAIN_RULES``, its ``ReasonKind``, its sentence in ``state.messages``, its
configuration key, its documentation, and its cases in ``tests/test_hold_reasons.py``.
"""

from __future__ import annotations

import base64
import hashlib
from typing import TYPE_CHECKING

from syncagent.model import Lack, Loss, Reason

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping, Sequence

    from syncagent.config.tables import Limits
    from syncagent.model import Counts, SourceReport


def evaluate(  # noqa: PLR0913 - all inputs of the guard
    domains: Sequence[Counts],
    limits: Limits,
    *,
    failing: Sequence[str],
    absent_canaries: Sequence[str],
    rejecting: Sequence[str] = (),
    standing: Sequence[Reason] = (),
) -> dict[str, tuple[Reason, ...]]:
    """Return the reasons to hold removals, by domain. A domain whose removals are not held is left out.

    The limits count only missing recipients that are not approved. A reason that is not approvable holds approved
    removals too. ``failing`` and ``rejecting`` are names of sources. ``standing`` are reasons that hold every removal.
    """
    everywhere = [*_everywhere(domains, failing, absent_canaries), *map(_rejecting, rejecting), *standing]
    held = {}
    for counts in domains:
        own = [reason for rule in DOMAIN_RULES if (reason := rule(counts, limits))]
        if counts.missing and (own or everywhere):
            held[counts.domain] = (*own, *everywhere)
    whole = _whole(domains, limits, {domain for domain, reasons in held.items() if len(reasons) > len(everywhere)})
    if whole:
        for counts in domains:
            if _at_stake(counts) and counts.domain not in held:
                held[counts.domain] = (whole,)
    return held


def without_doubt_table(
    domains: Sequence[Counts], reasons: Mapping[str, tuple[Reason, ...]]
) -> dict[str, tuple[Reason, ...]]:
    """Return the reasons with one more for each domain with missing recipients: the doubt table is not in force."""
    more = Reason("doubt", approvable=False)
    return {counts.domain: (*reasons.get(counts.domain, ()), more) for counts in domains if counts.missing}


def _at_stake(counts: Counts) -> int:
    return counts.missing - counts.approved


def _everywhere(domains: Sequence[Counts], failing: Sequence[str], absent_canaries: Sequence[str]) -> list[Reason]:
    reasons = [source_failing(failing)] if failing else []
    reasons += [Reason("canary", approvable=False, subjects=(canary,)) for canary in absent_canaries]
    if not sum(counts.wanted for counts in domains):
        reasons.append(Reason("empty-map", approvable=False))
    return reasons


def source_failing(failing: Sequence[str]) -> Reason:
    """Return the reason for failing sources: the missing recipients may be in these."""
    return Reason("source-failing", subjects=tuple(failing))


def _rejecting(source: str) -> Reason:
    """Return the reason for a source with more rejects than before: missing recipients may be among them."""
    return Reason("rejects", subjects=(source,))


def percent(counts: Counts, limits: Limits) -> Reason | None:
    """Return a reason if the domain would lose too large a share, counting earlier removals in the window."""
    share, floor, _ = limits.of(counts.domain)
    loss = _too_much([counts], (), (share, floor), limits.removed_window)
    return Reason("percent", subjects=(counts.domain,), loss=loss) if loss else None


def emptied(counts: Counts, _: Limits) -> Reason | None:
    """Return a reason if the domain would have no recipient left."""
    if counts.wanted or not _at_stake(counts):
        return None
    return Reason("emptied", subjects=(counts.domain,), configured=counts.configured)


def catch_all_lost(counts: Counts, _: Limits) -> Reason | None:
    """Return a reason if the domain would lose a catch-all, and so every address that no source lists."""
    if not counts.catch_alls_missing or not _at_stake(counts):
        return None
    return Reason("catch-all", subjects=counts.catch_alls_missing)


def leaving(counts: Counts, _: Limits) -> Reason | None:
    """Return a reason if the removal of the domain itself is held. Its recipients stay until that is approved."""
    return Reason("domain", approvable=False, subjects=(counts.domain,)) if counts.leaving else None


DOMAIN_RULES: tuple[Callable[[Counts, Limits], Reason | None], ...] = (emptied, percent, catch_all_lost, leaving)


def _whole(domains: Sequence[Counts], limits: Limits, held: set[str]) -> Reason | None:
    """Return a reason if the domains together would lose too large a share. Those in ``held`` lose nothing now."""
    share = (limits.removed_percent, limits.removed_floor)
    loss = _too_much(domains, held, share, limits.removed_window)
    return Reason("whole-percent", loss=loss) if loss else None


def _too_much(domains: Sequence[Counts], held: Collection[str], limit: tuple[float, int], window: float) -> Loss | None:
    """Return the loss of all domains together if it exceeds both limits, else None.

    ``limit`` is (percent of the recipients at the start of the window, number of recipients). Domains in ``held`` lose
    nothing now, but their earlier removals in the window count.
    """
    stake = sum(_at_stake(counts) for counts in domains if counts.domain not in held)
    gone = sum(counts.window_removed for counts in domains)
    size = sum(counts.window_start for counts in domains)
    lost, (share, floor) = stake + gone, limit
    if not stake or lost <= floor or lost * 100 <= share * size:
        return None
    return Loss(lost, size, gone, float(window), float(share), int(floor))


def first_run(
    relay_domains: Sequence[str],
    wanted: Mapping[str, int],
    sources: Sequence[SourceReport],
    absent_canaries: Sequence[str],
) -> tuple[Lack, ...]:
    """Return the obstacles to a first run, since the first map must be complete; empty if there are none."""
    lacks = [Lack("source", source.name, source.error) for source in sources if source.state == "failing"]
    lacks += [Lack("domain", domain) for domain in relay_domains if not wanted.get(domain)]
    lacks += [Lack("canary", canary) for canary in absent_canaries]
    return tuple(lacks)


def hold_id(domain: str, run_id: str) -> str:
    """Return the ID of a run's hold of a domain: six characters of a-z and 2-7, derived from domain and run ID."""
    digest = hashlib.sha256(f"{domain} {run_id}".encode()).digest()
    return base64.b32encode(digest)[:6].decode().lower()
