"""The test whether a run would only repeat the last finished run. It is pure: no files, no clock."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from syncagent.state.looks import AGAIN

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from syncagent.config.tables import Config
    from syncagent.model import Hold
    from syncagent.state.records import Finished, Inputs


class Due(NamedTuple):
    """The time of a run in seconds since the epoch, and the longest wait in seconds, by ``longest_wait``."""

    now: float
    longest: float


def unchanged(  # noqa: PLR0913 - all inputs of the test
    last: Finished,
    inputs: Inputs,
    standing: Mapping[str, Hold],
    due: Due,
    *,
    domain_holds: Iterable[Hold],
    on_record: bool,
) -> bool:
    """True if a run would have the result of the last finished run: equal inputs, no new approval, nothing due.

    ``domain_holds`` are the holds of relay domains and of rejected entries that this run would record, ``standing`` the
    recorded holds by ID.
    ``on_record``: the published tables are unchanged since the last finished run.
    """
    return (
        on_record
        and last.inputs == inputs
        and not any(hold.approved_at or _waits_for_next_run(hold) for hold in standing.values())
        and {hold.id for hold in domain_holds} == _of_domains(standing)
        and (last.next_due is None or due.now < last.next_due <= due.now + due.longest)
    )


def _waits_for_next_run(hold: Hold) -> bool:
    """True if removals were held for a reason that only the last run knows: doubt table, clock, counts."""
    return any(reason.kind in {"doubt", "clock", "counts"} for reason in hold.reasons)


def _of_domains(holds: Mapping[str, Hold]) -> set[str]:
    """Return the IDs of the holds of relay domains, and of the rejected entries of sources."""
    return {hold.id for hold in holds.values() if hold.is_of_domain or hold.rejecting}


def longest_wait(config: Config) -> float:
    """Return the longest time in seconds until a wait, the window or the collecting of a hold ends.

    A due time further in the future was recorded while the clock was wrong.
    """
    limits = config.limits
    graces = (limits.of(domain)[2] for domain in limits.domains)
    confirmed = (source.common.confirm_after for source in config.sources.values())
    return max(limits.removed_window, limits.removal_grace, limits.collect, AGAIN, *graces, *confirmed)
