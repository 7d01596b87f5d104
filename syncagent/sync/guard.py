"""Which removals are held, and why: counts in, reasons out. Nothing here reads or writes.

To add a rule: one function of a domain's counts in ``DOMAIN_RULES``, its configuration key, its row in the README,
``tests/test_hold_reasons.py``.
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


def evaluate(
    domains: Sequence[Counts],
    limits: Limits,
    *,
    failing: Sequence[str],
    absent_canaries: Sequence[str],
    rejecting: Sequence[str] = (),
) -> dict[str, tuple[Reason, ...]]:
    """Return the reasons to hold removals, by relay domain; a domain without a reason is not in it.

    Only missing recipients that are not approved count; where a reason cannot be overruled, approval does not help.
    """
    everywhere = [*_everywhere(domains, failing, absent_canaries), *map(_rejecting, rejecting)]
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


def _at_stake(counts: Counts) -> int:
    return counts.missing - counts.approved


def _everywhere(domains: Sequence[Counts], failing: Sequence[str], absent_canaries: Sequence[str]) -> list[Reason]:
    reasons = [source_failing(failing)] if failing else []
    reasons += [Reason("canary", approvable=False, subjects=(canary,)) for canary in absent_canaries]
    if not sum(counts.wanted for counts in domains):
        reasons.append(Reason("empty-map", approvable=False))
    return reasons


def source_failing(failing: Sequence[str]) -> Reason:
    """Return the reason to wait for sources that fail."""
    return Reason("source-failing", subjects=tuple(failing))


def _rejecting(source: str) -> Reason:
    """Hold while a source rejects more than it did: the missing may be among these, misspelled or re-encoded."""
    return Reason("rejects", subjects=(source,))


def percent(counts: Counts, limits: Limits) -> Reason | None:
    """Hold a domain that would lose too large a share, including what went earlier in the window."""
    share, floor, _ = limits.of(counts.domain)
    loss = _too_much([counts], (), (share, floor), limits.removed_window)
    return Reason("percent", subjects=(counts.domain,), loss=loss) if loss else None


def emptied(counts: Counts, _: Limits) -> Reason | None:
    """Hold a domain that would have no recipient left."""
    if counts.wanted or not _at_stake(counts):
        return None
    return Reason("emptied", subjects=(counts.domain,), configured=counts.configured)


def catch_all_lost(counts: Counts, _: Limits) -> Reason | None:
    """Hold a domain that would lose a catch-all, and with it every address that no source lists."""
    if not counts.catch_alls_missing or not _at_stake(counts):
        return None
    return Reason("catch-all", subjects=counts.catch_alls_missing)


def leaving(counts: Counts, _: Limits) -> Reason | None:
    """Hold the recipients of a domain whose own removal is held: it goes before them, approved or not."""
    return Reason("domain", approvable=False, subjects=(counts.domain,)) if counts.leaving else None


DOMAIN_RULES: tuple[Callable[[Counts, Limits], Reason | None], ...] = (emptied, percent, catch_all_lost, leaving)


def _whole(domains: Sequence[Counts], limits: Limits, held: set[str]) -> Reason | None:
    """Evaluate the sum of the domains; what a domain's own hold already holds does not count."""
    share = (limits.removed_percent, limits.removed_floor)
    loss = _too_much(domains, held, share, limits.removed_window)
    return Reason("whole-percent", loss=loss) if loss else None


def _too_much(domains: Sequence[Counts], held: Collection[str], limit: tuple[float, int], window: float) -> Loss | None:
    """Return the loss where the domains together would lose more than both limits, of their size at the window's start.

    Domains that are held lose nothing now, but what they lost in the window counts.
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
    """Return what a first run lacks: a map that did not exist may not start incomplete."""
    lacks = [Lack("source", source.name, source.error) for source in sources if source.state == "failing"]
    lacks += [Lack("domain", domain) for domain in relay_domains if not wanted.get(domain)]
    lacks += [Lack("canary", canary) for canary in absent_canaries]
    return tuple(lacks)


def hold_id(domain: str, run_id: str) -> str:
    """Return the ID of the hold that a run puts on a domain: six letters and digits, easy to type."""
    digest = hashlib.sha256(f"{domain} {run_id}".encode()).digest()
    return base64.b32encode(digest)[:6].decode().lower()
