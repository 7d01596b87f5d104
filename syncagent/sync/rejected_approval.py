"""Approval of rejected entries: each entry that was held under an ID, unless it names a published recipient."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from syncagent.errors import UnknownHoldError
from syncagent.files.search import SortedLines
from syncagent.state import messages, rejects, snapshot
from syncagent.sync import approvals, rejected

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping
    from pathlib import Path

    from syncagent.config.tables import Config, SourceConfig
    from syncagent.model import Hold, Refusal, Reject
    from syncagent.state.opened import State
    from syncagent.sync.fetch import Fetched


def entries(ids: Collection[str], config: Config, state: State, now: float) -> list[tuple[Hold, list[Reject]]]:
    """Return the holds of rejected entries with these IDs, each with its entries.

    The IDs must have passed ``approvals.check``. Raises UnknownHoldError if an entry names a published recipient: then
    none may be approved.
    """
    held: list[tuple[Hold, list[Reject]]] = []
    for hold_id in ids:
        hold, _ = approvals.resolve(hold_id, state.holds.values(), now) or (None, 0)
        if hold and hold.rejecting:
            held.append((hold, _standing(hold_id, hold.rejecting, config, state)))
    for hold, found in held:
        _check(hold, found, config, state)
    return held


def approve(held: Iterable[tuple[Hold, list[Reject]]], state: State, now: float) -> None:
    """Record the approval of rejected entries, as from ``entries``."""
    for hold, found in held:
        state.approve_rejects(hold.rejecting, [reject.digest for reject in found], now)


def _standing(hold_id: str, name: str, config: Config, state: State) -> list[Reject]:
    """Return the entries that were held under an ID and that the source's last answer still has."""
    source = state.sources.get(name)
    if source is None or source.snapshot is None:
        return []
    digests, origin = state.held_rejects(hold_id), rejects.origin(config.sources.get(name))
    found = snapshot.rejects_of(state.snapshots / source.snapshot.file, name)
    return [rejects.placed(reject, origin) for reject in found if reject.digest in digests]


def _check(hold: Hold, found: Collection[Reject], config: Config, state: State) -> None:
    published = state.lists / state.finished.published.name if state.finished else None
    refused = _refusal(hold.id, found, config.sources.get(hold.rejecting), published)
    if refused:
        raise UnknownHoldError(messages.refusal(refused), refused)


def refused(answers: Iterable[Fetched], sources: Mapping[str, SourceConfig], published: Path) -> dict[str, Refusal]:
    """Return the reasons why the held entries of the sources' answers cannot be approved, by source.

    ``published`` is the list of the recipients. Raises OSError if a list cannot be read.
    """
    found: dict[str, Refusal] = {}
    for answer in answers:
        name, held = answer.report.name, answer.rejected
        if held.held and answer.snapshot:
            origin = rejects.origin(sources.get(name))
            entries = (one for one in snapshot.rejects_of(answer.snapshot, name) if one.digest in held.digests)
            placed = (rejects.placed(one, origin) for one in entries)
            refusal = _refusal(rejected.hold_id(name, held.digests), placed, sources.get(name), published)
            found |= {name: refusal} if refusal else {}
    return found


def _refusal(
    hold_id: str, found: Iterable[Reject], source: SourceConfig | None, published: Path | None
) -> Refusal | None:
    """Return the reason why entries cannot be approved, None if they can. ``published`` is None if nothing is."""
    domains = rejects.local_domains(source)
    with contextlib.ExitStack() as stack:
        lines = stack.enter_context(contextlib.closing(SortedLines(published))) if published else None

        def is_published(address: str) -> bool:
            octets = address.encode()
            return lines is not None and octets in lines.starting_with(octets)

        return rejected.refusal(hold_id, found, domains, is_published)
