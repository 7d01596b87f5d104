"""What is held: the recorded holds, and the recipients, relay domains or rejected entries that each is of."""

from __future__ import annotations

import contextlib
import time
from typing import TYPE_CHECKING

from msgspec import Struct

from syncagent import addresses, privileges
from syncagent.cli import output
from syncagent.errors import HeldSetError, UnknownHoldError, printable
from syncagent.files import atomic
from syncagent.model import ALL_DOMAINS, DOMAIN_HOLD, REJECTED_HOLD, SAMPLE, Refusal
from syncagent.state import messages, rejects
from syncagent.state.database import ledger_errors, reading
from syncagent.state.fields import unescape
from syncagent.state.snapshot import rejects_of
from syncagent.sync import approvals
from syncagent.sync.holds import by_key
from syncagent.sync.missing import HOLD, Kept

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Sequence
    from pathlib import Path

    from syncagent.config.tables import Config
    from syncagent.model import Hold
    from syncagent.state.database import Ledger


class HeldEntry(Struct, frozen=True):
    """A recipient, a relay domain or a rejected entry that is held.

    ``entry``: the address, the domain, or the text of the entry. ``since``: when it was first missing, in seconds since
    the epoch, 0 if that is not recorded. ``sources``: those that last listed it. ``key``: the DN, or the place in the
    source, under which that was; "" if it is not recorded. ``reason``: why an entry is rejected.
    """

    entry: str
    since: float = 0.0
    sources: tuple[str, ...] = ()
    key: str = ""
    reason: str = ""


class HeldSet(Struct, frozen=True):
    """A hold with what it is of.

    ``subject`` names it in words, ``reasons`` are sentences. ``approve`` is the command that lets go what it holds, ""
    if nobody may. ``collecting``: further recipients can join, and its ID changes then. ``count``: number of its
    entries, of which ``entries`` are those that were asked for.
    """

    id: str
    kind: str
    domain: str
    subject: str
    since: float
    reasons: tuple[str, ...]
    approve: str
    main: str
    """The ID by which it is approved: its own, or that of the hold with which it is approved."""
    collecting: bool
    count: int
    entries: tuple[HeldEntry, ...]


class Filters(Struct, frozen=True):
    """Which entries are shown: of these holds, domains and sources; an empty tuple is no limit."""

    ids: tuple[str, ...] = ()
    domains: tuple[str, ...] = ()
    sources: tuple[str, ...] = ()


def held(config: Config, filters: Filters, most: int | None = None) -> list[HeldSet]:
    """Return what is held, at most ``most`` entries of each hold. Of a hold that has none of those nothing is returned.

    Raises LedgerError if the state cannot be read, UnknownHoldError if no hold has an ID of the filters.
    """
    with reading(config.state.directory) as ledger, ledger_errors(config.state.directory):
        wanted = [_Wanted(hold, version, filters, most) for hold, version in _wanted(ledger.holds, filters.ids)]
        for one in wanted:
            one.add(_entries(config, ledger, one.hold))
        _add_recipients(ledger, wanted)
        found = [_set(config, ledger, one) for one in wanted]
    return [one for one in found if one.count or not (filters.domains or filters.sources)]


def export(sets: Sequence[HeldSet]) -> Iterator[str]:
    """Yield the lines of an export: a comment for each hold, and below it the recipients that it holds."""
    for one in sets:
        if _is_of_recipients(one):
            yield f"# {one.id}: {one.subject}"
            yield from (entry.entry for entry in one.entries)


def chosen(config: Config, path: Path, excepted: Collection[str]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the IDs to approve, and what to except, so that the recipients in a file go but for ``excepted``.

    What of the file is not held is told. Run by root, the process may become the owner of the state. Raises
    HeldSetError if the file cannot be read or has nothing that is held.
    """
    wanted = [one for one in read_set(path) if one not in excepted]
    privileges.become_least_owner(config)
    found = choose(config, wanted)
    for address in found.absent[:SAMPLE]:
        output.say(f"{printable(address)} is not held here, or only with every removal")
    if found.absent[SAMPLE:]:
        output.say(f"... nor are {len(found.absent) - SAMPLE:,} more")
    if not found.ids:
        raise HeldSetError(f"nothing in {path} is held here: nothing is approved")
    return found.ids, tuple(dict.fromkeys((*found.excepted, *excepted)))


class Chosen(Struct, frozen=True):
    """What an approval by an export comes to: the IDs to approve, the recipients to except, and those not held here."""

    ids: tuple[str, ...]
    excepted: tuple[str, ...]
    absent: tuple[str, ...]


def choose(config: Config, wanted: Collection[str]) -> Chosen:
    """Return which holds to approve, and what to except, so that of what is held exactly ``wanted`` goes.

    ``wanted`` are canonical addresses. The hold of every removal is never chosen. Raises LedgerError if the state
    cannot be read.
    """
    names: dict[str, set[str]] = {}
    for one in held(config, Filters()):
        if _is_of_recipients(one) and one.domain != ALL_DOMAINS:
            names.setdefault(one.main, set()).update(entry.entry for entry in one.entries)
    going = frozenset(wanted)
    touched = {main: own for main, own in names.items() if own & going}
    others = set[str]().union(*touched.values()) - going
    absent = going.difference(*names.values())
    return Chosen(tuple(touched), tuple(sorted(others)), tuple(sorted(absent)))


def _is_of_recipients(one: HeldSet) -> bool:
    return not one.domain.startswith((DOMAIN_HOLD, REJECTED_HOLD))


def read_set(path: Path) -> tuple[str, ...]:
    """Return the addresses of an export, which may have been edited, in canonical form.

    Raises HeldSetError if the file cannot be read, or has a line that is neither an address nor a comment.
    """
    try:
        with atomic.open_foreign(path) as lines:
            found = [_address(f"{path}, line {number}", line) for number, line in enumerate(lines, 1)]
    except OSError as error:
        raise HeldSetError(f"{path} cannot be read: {error.strerror or error}") from None
    return tuple(dict.fromkeys(filter(None, found)))


def _address(place: str, line: bytes) -> str:
    """Return the canonical address of a line, "" if it is a comment or empty. Raises HeldSetError."""
    text = line.decode(errors="backslashreplace").strip()
    try:
        return "" if text.startswith("#") or not text else addresses.canonical(text)
    except addresses.UnusableError as error:
        raise HeldSetError(f"{place}: {printable(text)} {error}") from None


def _wanted(holds: dict[str, Hold], ids: Sequence[str]) -> list[tuple[Hold, int]]:
    """Return the holds with their versions under these IDs; each hold with its present version if there are none."""
    if not ids:
        return [(hold, hold.version) for hold in sorted(holds.values(), key=lambda hold: (hold.domain, hold.since))]
    found = [approvals.resolve(hold_id, holds.values(), time.time()) for hold_id in ids]
    for hold_id, one in zip(ids, found, strict=True):
        if one is None:
            refused = Refusal("unknown", hold_id, holds=tuple(holds))
            raise UnknownHoldError(messages.refusal(refused), refused)
    return [one for one in found if one]


class _Wanted:
    """A hold, and those of its entries that are asked for; of recipients those that had joined at a version."""

    def __init__(self, hold: Hold, version: int, filters: Filters, most: int | None) -> None:
        """``most`` is how many entries are kept; all are counted."""
        self.hold, self.version = hold, version
        self._filters, self._most = filters, most
        self.entries: list[HeldEntry] = []
        self.count = 0

    def add(self, entries: Iterable[HeldEntry]) -> None:
        """Add the entries that the filters let through."""
        for entry in entries:
            if self._is_wanted(entry):
                self.count += 1
                self.entries += [entry] if self._most is None or self.count <= self._most else []

    def _is_wanted(self, entry: HeldEntry) -> bool:
        domains, sources = self._filters.domains, self._filters.sources
        in_domains = not domains or entry.entry.rpartition("@")[2] in domains
        return in_domains and (not sources or not set(sources).isdisjoint(entry.sources))

    def has(self, kept: Kept) -> bool:
        """True if a recipient of the hold had joined it at the version."""
        return bool(self.hold.main) or self.hold.is_of_all or kept.joined <= self.version


def _set(config: Config, ledger: Ledger, wanted: _Wanted) -> HeldSet:
    hold = wanted.hold
    main = next((one for one in ledger.holds.values() if hold.main and one.identity == hold.main), hold)
    return HeldSet(
        id=hold.id,
        kind=hold.kind or (hold.reasons[0].kind if hold.reasons else ""),
        domain=hold.domain,
        subject=messages.held(hold),
        since=hold.since,
        reasons=tuple(messages.with_text(reason).text for reason in hold.reasons),
        approve=config.command("approve", main.id) if main.approvable and main.id else "",
        main=main.id,
        collecting=hold.collecting,
        count=wanted.count,
        entries=tuple(wanted.entries),
    )


def _entries(config: Config, ledger: Ledger, hold: Hold) -> Iterator[HeldEntry]:
    """Yield what a hold is of, but for recipients."""
    if hold.rejecting:
        yield from _rejected(config, ledger, hold)
    elif hold.is_of_domain:
        yield HeldEntry(hold.domain.removeprefix(DOMAIN_HOLD), hold.since)


def _add_recipients(ledger: Ledger, wanted: Sequence[_Wanted]) -> None:
    """Add the held recipients to the holds that are asked for, in one reading of their list."""
    hold_of = by_key(ledger.holds.values())
    of_hold: dict[str, list[_Wanted]] = {}
    for one in wanted:
        of_hold.setdefault(one.hold.identity, []).append(one)
    for line in ledger.kept_lines():
        address, *fields = line.split(b"\t")
        kept = Kept.parse(fields)
        hold = hold_of(kept.why.removeprefix(HOLD).decode()) if kept.why.startswith(HOLD) else None
        for one in of_hold.get(hold.identity, ()) if hold else ():
            if one.has(kept):
                one.add([HeldEntry(address.decode(), float(kept.since), kept.sources, unescape(kept.label.decode()))])


def _rejected(config: Config, ledger: Ledger, hold: Hold) -> Iterator[HeldEntry]:
    """Yield the rejected entries that a hold is of."""
    state = ledger.sources.get(hold.rejecting)
    if state is None or state.snapshot is None:
        return
    digests, place = ledger.held_rejects(hold.id), rejects.origin(config.sources.get(hold.rejecting))
    with contextlib.suppress(FileNotFoundError):
        for reject in rejects_of(ledger.snapshots / state.snapshot.file, hold.rejecting):
            if reject.digest in digests:
                found = rejects.placed(reject, place)
                yield HeldEntry(rejects.text_of(found), 0.0, (hold.rejecting,), found.place, found.reason)
