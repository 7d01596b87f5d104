"""Rejected entries as doubt: their holds, what they hold, what a first run lacks, which domains are in doubt.

It is pure: no files, no clock.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from syncagent.addresses import within
from syncagent.model import REJECTED_HOLD, Hold, Lack, Reason, Refusal
from syncagent.redaction import HIDDEN
from syncagent.state import identity, messages
from syncagent.state.rejects import text_of
from syncagent.sync import approvals
from syncagent.sync.conditions import Condition
from syncagent.values.patterns import literal, matched_address
from syncagent.values.spellings import addresses_in

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence

    from syncagent.model import Reject
    from syncagent.state.records import Finished
    from syncagent.state.rejects import Rejected
    from syncagent.sync.fetch import Fetched

_SHOWN = 3
_PREFIX = re.compile(rf"(?:\W*(?:smtp|mailto)\W*)*{re.escape(HIDDEN)}", re.IGNORECASE)
"""What is recorded of an entry whose only word is the prefix of an address."""


def hold_id(source: str, digests: Iterable[str]) -> str:
    """Return the ID of a hold: eight characters of a-z and 2-7, from the source and the set of its entries."""
    return identity.hold_id("\0".join(["rejected", source, *sorted(digests)]))


def holds(
    answers: Sequence[Fetched], standing: Mapping[str, Hold], now: float, refused: Mapping[str, Refusal] | None = None
) -> tuple[Hold, ...]:
    """Return the hold of each source with rejected entries that are not approved.

    ``standing`` are the recorded holds by ID, ``refused`` the reasons why entries cannot be approved, by source.
    """
    why = refused or {}
    return tuple(_hold(name, rejected, standing, now, why.get(name)) for name, rejected in _rejecting(answers))


def _rejecting(answers: Iterable[Fetched]) -> Iterator[tuple[str, Rejected]]:
    """Yield (source, rejected entries) for each source that has such entries."""
    yield from ((answer.report.name, answer.rejected) for answer in answers if answer.rejected.held)


def _hold(source: str, rejected: Rejected, standing: Mapping[str, Hold], now: float, refused: Refusal | None) -> Hold:
    """Return the hold of a source. It is as old as the recorded hold of that source, whatever its entries were."""
    own = hold_id(source, rejected.digests)
    old = next((hold for hold in standing.values() if hold.rejecting == source), None)
    reason = Reason("rejected", subjects=(source,), rejects=rejected.sample[:_SHOWN])
    return Hold(
        id=own,
        domain=f"{REJECTED_HOLD}{source}",
        count=rejected.held,
        since=old.since if old else now,
        reasons=(messages.with_text(reason), *_obstacle(refused)),
        kind="rejected",
        shown=approvals.shown(old, own, now) if old else (),
    )


def _obstacle(refused: Refusal | None) -> Iterator[Reason]:
    """Yield the reason, at most one, why a person cannot approve a hold."""
    if refused and refused.reject:
        text, reject = messages.names_recipient(refused, refused.reject), refused.reject
        yield Reason("rejected", text, approvable=False, subjects=(reject.source,), rejects=(reject,))


def digests(answers: Sequence[Fetched]) -> dict[str, frozenset[str]]:
    """Return the digests of the held entries, by the ID of their hold."""
    return {hold_id(name, rejected.digests): rejected.digests for name, rejected in _rejecting(answers)}


def since(
    answers: Sequence[Fetched], last: Finished | None, standing: Mapping[str, Hold], run_id: str
) -> dict[str, str]:
    """Return the run in which the held entries of each source first stood.

    It is "", the beginning of time, for entries that an older version held removals for. It is not later than this run,
    also if the clock was set back.
    """
    known = last.rejecting if last else {}
    first = "" if any(_is_of_older_version(hold) for hold in standing.values()) else run_id
    return {name: min(known.get(name, first), run_id) for name, _ in _rejecting(answers)}


def _is_of_older_version(hold: Hold) -> bool:
    """True if an older version held removals since a source had more rejected entries than before."""
    return any(reason.kind == "rejects" for reason in hold.reasons)


def condition(source: str, since_run: str) -> Condition:
    """Return the condition of a source with held entries: missing recipients may be among them."""
    return Condition(Reason("rejected", subjects=(source,)), source=source, since_run=since_run)


def conditions(runs: Mapping[str, str]) -> tuple[Condition, ...]:
    """Return the conditions of all such sources. ``runs`` are as from ``since``."""
    return tuple(condition(source, run) for source, run in runs.items())


def lacks(answers: Sequence[Fetched]) -> tuple[Lack, ...]:
    """Return the obstacles to a first run: the sources with rejected entries that are not approved."""
    return tuple(
        Lack("rejected", name, count=rejected.held, reject=rejected.sample[0]) for name, rejected in _rejecting(answers)
    )


def concerned(rejected: Rejected, scope: frozenset[str], of_source: Callable[[], Collection[str]]) -> frozenset[str]:
    """Return the relay domains in ``scope`` that the held entries of a source concern.

    That is the one after the last @ of each; if there is none, those that ``of_source`` returns.
    """
    names = {within(domain, scope) for domain in rejected.domains}
    return frozenset(name for name in names if name).union(of_source() if None in names else ())


def refusal(
    hold_id: str, rejects: Iterable[Reject], domains: tuple[str, ...], is_published: Callable[[str], bool]
) -> Refusal | None:
    """Return the reason why the entries of a hold cannot be approved, None if they can.

    An entry whose text has the address of a published recipient as a word, or may have one behind the part that is
    recorded, is most likely that recipient. ``domains`` complete bare local parts.
    """
    for reject in rejects:
        text = text_of(reject)
        address = next(filter(is_published, addresses_in(text, domains)), "")
        if address or reject.cut:
            return Refusal("names-recipient", hold_id, reject=reject, address=address, pattern=pattern(reject))
    return None


def pattern(reject: Reject) -> str:
    """Return the pattern of the key ``ignore`` that matches an entry alone, as it is recorded.

    It is "" if it matches an address, or if only the prefix of an address is recorded, which others have as well.
    """
    text = text_of(reject)
    if reject.cut and _PREFIX.fullmatch(text):
        return ""
    found = literal(text)
    _, _, domain = text.rpartition("@")
    return "" if domain and matched_address(found, (domain.casefold(),)) else found
