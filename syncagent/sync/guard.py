"""The guard: computes from counts which losses are too large. It is pure: no files, no clock.

To add a rule, add a function to ``DOMAIN_RULES``, its ``ReasonKind``, its sentence in ``state.messages``, its
configuration key, its documentation, and its cases in ``tests/test_hold_reasons.py``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from msgspec.structs import replace

from syncagent.model import Lack, Loss, Reason
from syncagent.state import identity

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping, Sequence

    from syncagent.config.tables import Limits
    from syncagent.model import Counts, SourceReport

_LEAST_HALF = 2


def evaluate(domains: Sequence[Counts], limits: Limits) -> dict[str, tuple[Reason, ...]]:
    """Return the losses that are too large, by domain. A domain whose removals may go is left out.

    Only missing recipients count that are neither approved nor frozen.
    """
    held = {counts.domain: own for counts in domains if (own := of_domain(counts, limits))}
    whole = of_whole(domains, limits, held)
    if whole:
        more = {counts.domain: whole for counts in domains if counts.stake and counts.domain not in held}
        return {**held, **more}
    return held


def of_domain(counts: Counts, limits: Limits) -> tuple[Reason, ...]:
    """Return the reasons to hold what a domain would lose now, by its own limits."""
    return tuple(reason for rule in DOMAIN_RULES if (reason := rule(counts, limits))) if counts.stake else ()


def alone(counts: Counts, members: int, catch_alls: tuple[str, ...]) -> Counts:
    """Return the counts of a domain as if it would lose only the members of one frozen hold now."""
    start = counts.window_start + members
    one = replace(counts, missing=members, approved=0, frozen=0, older=0)
    return replace(one, catch_alls_missing=catch_alls, window_start=start)


def percent(counts: Counts, limits: Limits) -> Reason | None:
    """Return a reason if the domain would lose too large a share, counting earlier removals in the window."""
    share, floor, _ = limits.of(counts.domain)
    loss = _loss([counts], (), limits)
    too_much = loss.lost > floor and loss.lost * 100 > share * loss.size
    return Reason("percent", subjects=(counts.domain,), loss=_by(loss, share, floor)) if too_much else None


def most(counts: Counts, limits: Limits) -> Reason | None:
    """Return a reason if the domain would lose too many recipients, counting earlier removals in the window."""
    loss = _loss([replace(counts, frozen=counts.frozen + counts.older)], (), limits)
    limit = limits.most(counts.domain, loss.size)
    return Reason("max", subjects=(counts.domain,), loss=_by(loss, 0, limit)) if loss.lost > limit else None


def half(counts: Counts, limits: Limits) -> Reason | None:
    """Return a reason if the domain would lose at least half of its recipients, and at least two."""
    loss = _loss([replace(counts, frozen=counts.frozen + counts.older)], (), limits)
    too_much = loss.lost >= _LEAST_HALF and loss.lost * 2 >= loss.size
    return Reason("half", subjects=(counts.domain,), loss=loss) if too_much else None


def emptied(counts: Counts, _: Limits) -> Reason | None:
    """Return a reason if the domain would have no recipient left."""
    if counts.wanted:
        return None
    return Reason("emptied", subjects=(counts.domain,), configured=counts.configured)


def catch_all_lost(counts: Counts, _: Limits) -> Reason | None:
    """Return a reason if the domain would lose a catch-all, and so every address that no source lists."""
    return Reason("catch-all", subjects=counts.catch_alls_missing) if counts.catch_alls_missing else None


DOMAIN_RULES: tuple[Callable[[Counts, Limits], Reason | None], ...] = (emptied, catch_all_lost, most, half, percent)
"""The rules for one domain, the most severe first. They are asked only if the domain would lose something."""


def of_whole(domains: Sequence[Counts], limits: Limits, held: Collection[str] = ()) -> tuple[Reason, ...]:
    """Return the reasons to hold what the domains together would lose now. Those in ``held`` lose nothing now."""
    loss = _loss(domains, held, limits)
    share, floor, limit = float(limits.removed_percent), limits.removed_floor, limits.most("", loss.size)
    if loss.lost == loss.before:
        return ()
    reasons = []
    if loss.lost > limit:
        reasons.append(Reason("max", loss=_by(loss, 0, limit)))
    if loss.lost > floor and loss.lost * 100 > share * loss.size:
        reasons.append(Reason("whole-percent", loss=_by(loss, share, floor)))
    return tuple(reasons)


def _loss(domains: Sequence[Counts], held: Collection[str], limits: Limits) -> Loss:
    """Return the loss of all domains together. Those in ``held`` lose nothing now, but their window counts."""
    stake = sum(counts.stake for counts in domains if counts.domain not in held)
    gone = sum(counts.window_removed for counts in domains)
    size = sum(counts.window_start for counts in domains)
    return Loss(stake + gone, size, gone, float(limits.removed_window), 0.0, 0)


def _by(loss: Loss, share: float, floor: int) -> Loss:
    return replace(loss, share=float(share), floor=int(floor))


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
    """Return the identity of a run's hold of a domain: six characters of a-z and 2-7, by domain and run ID."""
    return identity.hold_id(f"{domain} {run_id}", 6)


def set_id(kind: str, domain: str, members: bytes) -> str:
    """Return the ID of a hold by its content: characters of a-z and 2-7.

    ``members`` is a digest of its recipients. Two backups that hold the same set show the same ID.
    """
    return identity.hold_id(f"{kind}\0{domain}\0".encode() + members)
