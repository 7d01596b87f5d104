"""What is held, and why: counts in, reasons out. Nothing here reads or writes.

To add a rule: one function of a domain's counts in ``DOMAIN_RULES``, its configuration key, its row in the README,
``tests/test_hold_reasons.py``.
"""

from __future__ import annotations

import base64
import hashlib
from typing import TYPE_CHECKING

from syncagent.model import Reason
from syncagent.values.types import spell_seconds

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping, Sequence

    from syncagent.config.tables import Limits
    from syncagent.model import Counts, SourceReport


def judge(
    domains: Sequence[Counts],
    limits: Limits,
    *,
    failing: Sequence[str],
    absent_canaries: Sequence[str],
    rejecting: Sequence[str] = (),
) -> dict[str, tuple[Reason, ...]]:
    """Give the reasons to hold removals, by relay domain; a domain without a reason is not in it.

    Only what is missing and not approved is judged; where a reason cannot be approved, approval does not help.
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
    reasons = []
    if failing:
        reasons.append(Reason("source-failing", f"waiting for {', '.join(failing)}"))
    for canary in absent_canaries:
        text = f"the canary {canary} is in no source: mend the source, or limits.canaries"
        reasons.append(Reason("canary", text, approvable=False))
    if not sum(counts.wanted for counts in domains):
        reasons.append(
            Reason("empty-map", "no source has any recipient: an empty map is never published", approvable=False)
        )
    return reasons


def _rejecting(source: str) -> Reason:
    """Hold while a source rejects more than it did: who is missing may be among them, misspelled or re-encoded."""
    return Reason("rejects", f"the source {source}: who is missing may be among them")


def percent(counts: Counts, limits: Limits) -> Reason | None:
    """Hold a domain that would lose too large a share, what went in the window before included."""
    share, floor, _ = limits.of(counts.domain)
    text = _too_much(counts.domain, [counts], (), (share, floor), limits.removed_window)
    return Reason("percent", text) if text else None


def emptied(counts: Counts, _: Limits) -> Reason | None:
    """Hold a domain that would have no recipient left."""
    if counts.wanted or not _at_stake(counts):
        return None
    why = "" if counts.configured else ": it is no longer in relay_domains"
    return Reason("emptied", f"{counts.domain} would have no recipient left{why}")


def catch_all_lost(counts: Counts, _: Limits) -> Reason | None:
    """Hold a domain that would lose a catch-all, and with it every address that nobody listed."""
    if not counts.catch_alls_missing or not _at_stake(counts):
        return None
    return Reason("catch-all", f"would lose its catch-all {', '.join(counts.catch_alls_missing)}")


def leaving(counts: Counts, _: Limits) -> Reason | None:
    """Hold the recipients of a domain that is held itself: it goes before them, approved or not."""
    if not counts.leaving:
        return None
    return Reason("domain", f"the relay domain {counts.domain} is held itself, and goes before them", approvable=False)


DOMAIN_RULES: tuple[Callable[[Counts, Limits], Reason | None], ...] = (emptied, percent, catch_all_lost, leaving)


def _whole(domains: Sequence[Counts], limits: Limits, held: set[str]) -> Reason | None:
    """Judge the sum of the domains; what a domain's own hold already holds does not count."""
    share = (limits.removed_percent, limits.removed_floor)
    text = _too_much("the whole map", domains, held, share, limits.removed_window)
    return Reason("whole-percent", text) if text else None


def _too_much(
    what: str, domains: Sequence[Counts], held: Collection[str], limit: tuple[float, int], window: float
) -> str:
    """Say so where the domains together would lose more than both limits, against their size at the window's start.

    Those that are held lose nothing now, but what they lost in the window counts.
    """
    stake = sum(_at_stake(counts) for counts in domains if counts.domain not in held)
    gone = sum(counts.window_removed for counts in domains)
    size = sum(counts.window_start for counts in domains)
    lost, (share, floor) = stake + gone, limit
    if not stake or lost <= floor or lost * 100 <= share * size:
        return ""
    before = f" ({gone} of them in the last {spell_seconds(window)})" if gone else ""
    return f"{what} would lose {lost} of {size}{before}, over {share:g}% and over {floor}"


def first_run(
    relay_domains: Sequence[str],
    wanted: Mapping[str, int],
    sources: Sequence[SourceReport],
    absent_canaries: Sequence[str],
) -> tuple[str, ...]:
    """Give what a first run lacks: a map that was never there may not start short."""
    lacks = [
        f"the source {source.name} is not whole: {source.error}" for source in sources if source.state == "failing"
    ]
    lacks += [f"the relay domain {domain} has no recipient" for domain in relay_domains if not wanted.get(domain)]
    lacks += [f"the canary {canary} is in no source" for canary in absent_canaries]
    return tuple(lacks)


def hold_id(domain: str, run_id: str) -> str:
    """Name the hold that a run puts on a domain: six letters and digits, easy to type."""
    digest = hashlib.sha256(f"{domain} {run_id}".encode()).digest()
    return base64.b32encode(digest)[:6].decode().lower()
