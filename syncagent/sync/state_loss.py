"""A lost or restored state: recognised by the file beside the map, it holds every removal. See ``state.identity``."""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING

from syncagent.files import atomic
from syncagent.model import ALL_DOMAINS, Note
from syncagent.postfix import table_text
from syncagent.state import identity, state_file
from syncagent.state.identity import Beside, Facts
from syncagent.state.records import Event
from syncagent.sync import clock
from syncagent.sync.existing_map import reading

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from syncagent.model import Hold, NoteKind, Plan
    from syncagent.state.identity import Gap
    from syncagent.state.opened import State

_NOTES: dict[identity.Why, NoteKind] = {"lost": "state-lost", "restored": "state-restored"}


def look(file: Path, text: Path, state: State, window: float, now: float) -> None:
    """Compare the database with the file beside the map, and record the gap in what the state knows, if there is one.

    ``file`` is that file, ``text`` the map's text, ``window`` limits.removed_window in seconds. A gap that is over is
    recorded as over. The file is written anew if it is not as it should be. Raises PublishError if the file or the
    text cannot be read, or the file cannot be written.
    """
    beside = state_file.read(file)
    facts = Facts(beside, state.identity, state.is_new, beside is None and _is_ours(text))
    state.published_domains = frozenset(beside.domains if beside else ())
    before, gap = state.gap, identity.standing(state.gap, facts, now)
    events = _begun(before, gap, now)
    if gap and identity.is_over(gap, window, now, approved=_is_approved(gap, state.holds.values())):
        events.append(Event(now, "state-new-ends", ALL_DOMAINS, _end(gap, state.holds.values())))
        gap = None
    state.remember(identity.identified(facts, secrets.token_hex(16)), gap, now)
    state.record_events(events)
    state.notes += [Note(_NOTES[gap.why], str(file))] if gap and gap != before else []
    state.notes += clock.notes(now, state.clock)
    if (state.finished or identity.gap_in(facts)) and not state.is_dry:
        _renew(file, beside, state)


def _begun(before: Gap | None, gap: Gap | None, now: float) -> list[Event]:
    """Return the event of a gap that begins in this run."""
    begins = gap and (before is None or gap.id != before.id)
    return [Event(now, _NOTES[gap.why], ALL_DOMAINS)] if gap and begins else []


def _is_ours(text: Path) -> bool:
    """True if syncagent wrote a text: its first line is the header."""
    try:
        with reading(text), atomic.open_foreign(text) as lines:
            return lines.readline(len(table_text.HEADER)) == table_text.HEADER
    except FileNotFoundError:
        return False


def _is_approved(gap: Gap, holds: Iterable[Hold]) -> bool:
    return any(hold.id == gap.id and hold.approved_at for hold in holds)


def _end(gap: Gap, holds: Iterable[Hold]) -> str:
    return "approved" if _is_approved(gap, holds) else "window"


def _renew(file: Path, beside: Beside | None, state: State) -> None:
    """Write the file anew if it is missing, has another ID, or is older than the database. Its domains stay."""
    own, last = state.identity, state.finished
    assert own is not None  # noqa: S101 - look() gives one
    if beside is None or beside.id != own.id or beside.counter < own.counter:
        domains = beside.domains if beside else _domains(last.plan) if last else ()
        state_file.write(file, Beside(own.id, own.counter, own.digest, domains))


def write_file(file: Path, state: State, plan: Plan) -> None:
    """Write the file after the map was renamed, with the domains that have recipients by ``plan``.

    Raises PublishError.
    """
    own = state.identity
    assert own is not None  # noqa: S101 - look() gives one
    state_file.write(file, Beside(own.id, own.intent, own.digest, _domains(plan)))


def _domains(plan: Plan) -> tuple[str, ...]:
    return tuple(sorted(change.domain for change in plan.domains if change.after))
