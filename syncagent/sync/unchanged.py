"""The test that a run would only repeat the last finished run. Pure: facts in, a boolean out."""

from __future__ import annotations

from typing import TYPE_CHECKING

from syncagent.model import DOMAIN_HOLD

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from syncagent.config.tables import Limits
    from syncagent.model import Hold
    from syncagent.state.records import Finished, Inputs


def unchanged(  # noqa: PLR0913 - the facts
    last: Finished,
    inputs: Inputs,
    standing: Mapping[str, Hold],
    limits: Limits,
    *,
    now: float,
    domain_holds: Iterable[Hold],
    on_record: bool,
) -> bool:
    """True if nothing that decides the result is other than in the last finished run, and nothing has fallen due.

    ``domain_holds`` are the holds of relay domains that this run would record, ``standing`` those on record.
    ``on_record``: the published tables are as that run left them.
    """
    return (
        on_record
        and last.inputs == inputs
        and not any(hold.approved_at for hold in standing.values())
        and {hold.id for hold in domain_holds} == _of_domains(standing)
        and (last.next_due is None or now < last.next_due <= now + longest_wait(limits))
    )


def _of_domains(holds: Mapping[str, Hold]) -> set[str]:
    return {hold.id for hold in holds.values() if hold.domain.startswith(DOMAIN_HOLD)}


def longest_wait(limits: Limits) -> float:
    """Return the longest that a run may wait for a grace or the window, in seconds.

    A due time beyond that was recorded while the clock was wrong.
    """
    graces = (limits.of(domain)[2] for domain in limits.domains)
    return max(limits.removed_window, limits.removal_grace, *graces)
