"""The test whether a run would only repeat the last finished run. It is pure: no files, no clock."""

from __future__ import annotations

from typing import TYPE_CHECKING

from syncagent.model import DOMAIN_HOLD

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from syncagent.config.tables import Limits
    from syncagent.model import Hold
    from syncagent.state.records import Finished, Inputs


def unchanged(  # noqa: PLR0913 - all inputs of the test
    last: Finished,
    inputs: Inputs,
    standing: Mapping[str, Hold],
    limits: Limits,
    *,
    now: float,
    domain_holds: Iterable[Hold],
    on_record: bool,
) -> bool:
    """True if a run would have the result of the last finished run: equal inputs, no new approval, nothing due.

    ``domain_holds`` are the holds of relay domains that this run would record, ``standing`` the recorded holds by ID.
    ``on_record``: the published tables are unchanged since the last finished run.
    """
    return (
        on_record
        and last.inputs == inputs
        and not any(hold.approved_at or _waits_for_next_run(hold) for hold in standing.values())
        and {hold.id for hold in domain_holds} == _of_domains(standing)
        and (last.next_due is None or now < last.next_due <= now + longest_wait(limits))
    )


def _waits_for_next_run(hold: Hold) -> bool:
    """True if removals were held for a reason that only the last run knows: doubt table, clock, counts."""
    return any(reason.kind in {"doubt", "clock", "counts"} for reason in hold.reasons)


def _of_domains(holds: Mapping[str, Hold]) -> set[str]:
    return {hold.id for hold in holds.values() if hold.domain.startswith(DOMAIN_HOLD)}


def longest_wait(limits: Limits) -> float:
    """Return the longest time in seconds until a grace or the window ends.

    A due time further in the future was recorded while the clock was wrong.
    """
    graces = (limits.of(domain)[2] for domain in limits.domains)
    return max(limits.removed_window, limits.removal_grace, *graces)
