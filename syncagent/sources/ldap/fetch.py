"""One answer of one LDAP server.

Sync mode reads the changes since a cookie, so that a run costs in proportion to the changes. A full search in sync mode
is followed by a refresh from a cookie taken before it, which makes the answer exact. Poll mode does a full search each
time.

An answer that contradicts itself or the last one is discarded, and a full search is done, twice at most. Before an
answer without addresses of the last one is used, a sample of their entries is read. This module imports ldap3.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, NoReturn

from msgspec.structs import replace

from syncagent.errors import FailureKind, SourceError, printable
from syncagent.sources import Answer, Candidate
from syncagent.sources.ldap import contradictions
from syncagent.sources.ldap.connection import NOT_READABLE, UnreachableError, one_line
from syncagent.sources.ldap.content_sync import (
    BehindError,
    NoChangesError,
    context_cookie,
    is_behind,
    is_far_ahead,
    refresh,
)
from syncagent.sources.ldap.contradictions import ContradictionError, Identities
from syncagent.sources.ldap.entries import AddressReader, canonical_addresses
from syncagent.sources.ldap.full_search import names_in
from syncagent.sources.ldap.point_query import PointQuery
from syncagent.sources.ldap.presets import ENTRY_UUID
from syncagent.sources.ldap.validator import SyncState, poll_validator, was_exact

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from syncagent.model import Entry
    from syncagent.sources import Request
    from syncagent.sources.ldap import Config
    from syncagent.sources.ldap.content_sync import Changes
    from syncagent.sources.ldap.entries import DirectoryEntry
    from syncagent.sources.ldap.full_search import FullSearch
    from syncagent.sources.ldap.presets import Preset

_LOOKED_FOR = 50
"""Number of addresses that an answer lacks whose entries are read; up to twice as many are."""
_MOST_UNSEEN = 20
"""Number of containers that are remembered because no entry of them is visible any more."""
_SHOWN, _SHOWN_KEYS = 200, 3
_MAX_LAG = 3600.0
"""Seconds that a server may stay behind the cookie before its full search is accepted."""
_COMPUTED = frozenset({"memberof", "ismemberof", "nsrole"})
"""Attributes, in lower case, that servers compute: content synchronization does not report their changes."""


@dataclass(slots=True)
class Fetch:
    """The fetch of a request from one server; ``state`` is that of the last answer in sync mode."""

    config: Config
    selection: Preset
    search: FullSearch
    request: Request
    state: SyncState | None
    labels_are_dns: bool = True

    @property
    def url(self) -> str:
        """The server's URL."""
        return self.search.connection.url

    def answer(self) -> Answer:
        """Return the answer. Raises ContradictionError if the answer of a full search has a contradiction, twice."""
        changes, why = self._changes()
        if changes is not None and self.state is not None:
            if self.state.behind_since:
                changes, why = None, f"{self.url} was behind its last cookie and has caught up"
            elif self.state.is_fresh(time.time(), self.config.full_interval):
                try:
                    return self._amended(changes, self.state)
                except ContradictionError as error:
                    self.request.sink.restart()
                    changes, why = None, f"{self.url}: {error}"
            else:
                why = "full_interval has elapsed"
        try:
            return self._full(changes, why)
        except ContradictionError as error:
            self.request.sink.restart()
            why = f"{self.url}: {error}"
        return self._full(None, why)

    def _changes(self) -> tuple[Changes | None, str]:
        """Return the changes since the cookie; None, and the reason in words, if a full search is necessary.

        Raises UnreachableError while the server is behind the cookie, for _MAX_LAG seconds at most.
        """
        if self.state is None or self.config.mode == "poll":
            return None, ""
        try:
            return self._changes_since(self.state)
        except NoChangesError as error:
            return None, f"{self.url} cannot report changes: {error}"
        except ContradictionError as error:
            return None, f"{self.url}: {error}"
        except BehindError as error:
            text = f"{self.url} is behind the last cookie ({error}): a lagging replica, or a restored server"
            self._wait_for_replica(self.state, text)
            return None, text

    def _changes_since(self, state: SyncState) -> tuple[Changes | None, str]:
        """Return the same as ``_changes``. Raises ContradictionError if the changes have a contradiction."""
        if state.url != self.url:
            self._require_caught_up(state)
            return None, f"{self.url} answers instead of {state.url}"
        visible = [container for container in state.unseen if self._query().shows_entries_of(container)]
        if visible:
            return None, f"{self.url}: addresses below {printable(visible[0], _SHOWN)} are visible again"
        changes = refresh(self.search, bytes.fromhex(state.cookie), self._attributes(ENTRY_UUID))
        self._check_entries(changes.entries.values())
        if self._may_have_lost_access(changes):
            text = "server reports deletions but returns no entries: did the account lose read access?"
            return None, f"{self.url}: {text}"
        return changes, ""

    def _wait_for_replica(self, state: SyncState, text: str) -> None:
        """Raise UnreachableError unless a server has been behind the cookie for _MAX_LAG seconds."""
        since = state.behind_since or time.time()
        if time.time() - since < _MAX_LAG:
            raise UnreachableError(text, validator=replace(state, behind_since=since).write()) from None

    def _may_have_lost_access(self, changes: Changes) -> bool:
        """True if the changes may remove addresses and a probe search returns no address."""
        attributes = self.selection.attributes
        return changes.remove_addresses(attributes) and not self.search.returns_addresses(attributes)

    def _require_caught_up(self, state: SyncState) -> None:
        """Raise BehindError if this server's contextCSN is older than the cookie, which another server issued."""
        cookie = context_cookie(self.search.connection, self.config.base)
        if cookie is not None and is_behind(cookie, bytes.fromhex(state.cookie)):
            raise BehindError("its contextCSN is older")

    def _attributes(self, key: str) -> list[str]:
        return [*self.selection.attributes, key]

    def _check_entries(self, entries: Iterable[DirectoryEntry | None]) -> None:
        """Raise ContradictionError if the filter demands an address and an entry has no value of any attribute."""
        attributes = self.selection.attributes
        if contradictions.demands(self.search.filter, attributes):
            for entry in entries:
                if entry is not None and (text := contradictions.in_entry(entry, attributes)):
                    raise ContradictionError(text)

    def _amended(self, changes: Changes, state: SyncState) -> Answer:
        """Return the answer that amends the last one. Raises ContradictionError if that has a contradiction."""
        state = replace(state, cookie=changes.cookie.hex(), keys=state.keys or changes.present is not None)
        if changes.is_empty:
            return self._answer(state, full=False, same=True)
        self.request.sink.amend(last=True)
        never_seen = self._never_seen(changes)
        self._apply(changes)
        self.request.sink.put_keys(never_seen)
        if changes.remove_addresses(self.selection.attributes):
            for container in self._check_vanished(ENTRY_UUID):
                raise ContradictionError(
                    f"it removes addresses below {printable(container, _SHOWN)}, where it shows none"
                )
        return self._answer(state, full=False, notes=(f"entries changed: {changes.count}",))

    def _never_seen(self, changes: Changes) -> list[str]:
        """Return the keys called present that the last answer lacks, and that it need not have.

        Raises ContradictionError if there are such keys and the last answer has the keys of all entries.
        """
        if changes.present is None:
            return []
        unknown = self.request.sink.unknown(changes.present - changes.entries.keys())  # it calls added ones present too
        if unknown and self.state is not None and self.state.keys:
            some = ", ".join(sorted(unknown)[:_SHOWN_KEYS])
            raise ContradictionError(f"entries called present that it never returned: {len(unknown)}, such as {some}")
        return unknown

    def _apply(self, changes: Changes) -> None:
        """Put the changes into the sink. The sink's ``amend`` must have been called."""
        sink = self.request.sink
        sink.forget(changes.entries)
        if changes.present is not None:
            sink.retain(changes.present)
        reader = self._reader(ENTRY_UUID)
        for key, entry in changes.entries.items():
            if entry is not None:
                self._put(reader, key, entry)

    def _put(self, reader: AddressReader, key: str, entry: DirectoryEntry) -> None:
        """Put the addresses of an entry into the sink, or its key if it has none."""
        self.labels_are_dns &= entry.has_dn
        entries = reader.addresses(entry, key)
        if entries:
            self.request.sink.put(entries)
        else:
            self.request.sink.put_keys([key])

    def _answer(
        self, state: SyncState | None, *, full: bool, same: bool = False, notes: tuple[str, ...] = ()
    ) -> Answer:
        """Return the answer; ``state`` is None in poll mode. Result codes and the end of paging prove it."""
        return Answer(
            same=same,
            validator=state.write() if state else None,
            notes=notes,
            mode="sync" if state else "poll",
            full=full,
            proof="producer",
            containers=self.labels_are_dns,
        )

    def _full(self, changes: Changes | None, why: str) -> Answer:
        """Return the answer of a full search.

        In sync mode a refresh adds the changes made during the search. ``changes`` are those since the last answer, if
        known; ``why`` is the reason for the full search, for a note.
        """
        started_at, start = time.time(), changes
        if start is None and self.config.mode != "poll":
            start = self._probe_sync()
        key = ENTRY_UUID if start is not None else self.selection.key
        exact = self._search_all(key, exact=start is not None)
        notes = (*([f"full search: {why}"] if why else []), *self._reference_notes())
        if start is None:
            self.request.sink.amend(last=False)
            notes += _unseen_notes(self._check_vanished(key))
            return replace(self._answer(None, full=True, notes=notes), validator=poll_validator(exact=exact))
        meanwhile = self._refresh_after(start)
        self.request.sink.amend(last=False)
        self._apply(meanwhile)
        unseen = self._check_vanished(key)
        notes += _unseen_notes(unseen)
        state = SyncState(
            self.url,
            meanwhile.cookie.hex(),
            started_at,
            keys=True,
            exact=exact,
            unseen=tuple(dict.fromkeys([*unseen, *self._still_unseen()]))[:_MOST_UNSEEN],
        )
        return replace(self._answer(state, full=True, notes=notes), explained=_explained(changes, meanwhile))

    def _query(self) -> PointQuery:
        return PointQuery(self.search, self.selection.attributes, self.request.ends)

    def _still_unseen(self) -> list[str]:
        """Return the containers of the last answer of which no entry is visible."""
        containers = self.state.unseen if self.state else ()
        return [container for container in containers if not self._query().shows_entries_of(container)]

    def _check_vanished(self, key: str) -> list[str]:
        """Return the containers of addresses that only the last answer has, if this account sees nobody there.

        Raises ContradictionError if a read of its entry shows such an address. This finds the loss of a page, a
        deletion that did not happen, and a damaged index. The sink's ``amend`` must have been called, and nothing may
        be put into it afterwards.
        """
        vanished = self.request.sink.vanished(_LOOKED_FOR)
        for address, own_key, dn in vanished:
            self._require_time()
            if dn and self._shows(dn, key, own_key, address):
                text = f"it leaves out {printable(address)}, which {printable(dn, _SHOWN)} still has"
                raise ContradictionError(text)
        unseen = self._query().unseen([Candidate(address, dn) for address, _, dn in vanished if dn])
        return list(dict.fromkeys(unseen.values()))

    def _shows(self, dn: str, key: str, own_key: str, address: str) -> bool:
        """True if the entry at ``dn`` matches the filter, has this value of the attribute ``key``, and the address."""
        result = self.search.connection.search(
            dn, "base", self.search.filter, self._attributes(key), accept=NOT_READABLE
        )
        return any(
            (entry.key(key) or entry.dn) == own_key and address in canonical_addresses(entry, self.selection.attributes)
            for entry in self.search.entries(result.messages)
        )

    def _require_time(self) -> None:
        if time.monotonic() > self.request.ends:
            raise SourceError(f"{self.url}: the full search takes longer than the source's deadline")

    def _reference_notes(self) -> list[str]:
        count = self.search.references
        return [f"ignored references to other servers: {count}; their entries are missing here"] if count else []

    def _refresh_after(self, start: Changes) -> Changes:
        """Return the changes since ``start``. Raises SourceError if the server cannot report them.

        Raises ContradictionError if they contradict themselves.
        """
        try:
            changes = refresh(self.search, start.cookie, self._attributes(ENTRY_UUID))
        except (NoChangesError, BehindError) as error:
            raise SourceError(f"{self.url}: too many changes during the full search: {error}") from None
        self._check_entries(changes.entries.values())
        return changes

    def _search_all(self, key: str, *, exact: bool) -> bool:
        """Put all entries into the sink. The key is the value of the attribute ``key``, or the DN if it has no value.

        With ``exact`` also put the keys of entries without addresses. Return True if the server's estimate of the
        number of entries was exact. Raises SourceError if an entry has no value and ``exact`` is set, or if the
        deadline has passed; ContradictionError if entries contradict each other, the filter or the estimate.
        """
        reader, identities = self._reader(key), Identities()
        self.search.references = 0  # of this search, not of one that was discarded
        for page in self.search.pages(self._attributes(key)):
            self._check_entries(page)
            entries: list[Entry] = []
            without: list[str] = []
            for entry in page:
                own_key = entry.key(key)
                if own_key is None and exact:
                    self._raise_for_missing(key, entry)
                self.labels_are_dns &= entry.has_dn
                own_key = own_key or entry.dn
                identities.add(own_key, entry)
                addresses = reader.addresses(entry, own_key)
                entries += addresses
                if not addresses:
                    without.append(own_key)
            self.request.sink.put(entries)
            if exact:
                self.request.sink.put_keys(without)
            self._require_time()
            self.request.report("entries", len(identities))
        if identities.disagree():
            raise ContradictionError(f"two entries with the same {key} differ")
        return self._check_estimate(len(identities))

    def _check_estimate(self, count: int) -> bool:
        """Return True if the server estimated exactly ``count`` entries. Judges only filters for which it can.

        Raises ContradictionError if there are fewer and the estimate of the last search was exact.
        """
        estimate = self.search.estimate
        if not estimate or not contradictions.is_of_presence(self.search.filter):
            return False
        if count < estimate and was_exact(self.request.validator):
            text = f"{count} entries came where the server counts {estimate}, and its count was exact before"
            raise ContradictionError(f"{text}: may this account read all of them?")
        return count == estimate

    def _reader(self, key: str) -> AddressReader:
        return AddressReader(self.request.sink, self.selection.attributes, key)

    def _raise_for_missing(self, key: str, entry: DirectoryEntry) -> NoReturn:
        text = f"{key} of {one_line(entry.dn)} is not readable, and sync mode requires it"
        raise SourceError(f'{self.url}: {text}: grant access, or set mode = "poll"', kind=FailureKind.BROKEN)

    def _probe_sync(self) -> Changes | None:
        """Return the result of a refresh from the server's current state; None if sync mode is unavailable.

        Raises SourceError instead of returning None if ``mode = "sync"``.
        """
        changes, reason = self._offered()
        if changes is None and self.config.mode == "sync":
            text = f'{self.url} does not support sync mode: {reason}; fix that, or set mode = "auto" or "poll"'
            raise SourceError(text, kind=FailureKind.BROKEN)
        return changes

    def _offered(self) -> tuple[Changes | None, str]:
        """Return the result of a refresh from the server's current state; None, and the reason, if it is impossible."""
        computed = [name for name in names_in(self.search.filter) if name.lower() in _COMPUTED]
        if computed:
            return None, f"the filter uses {computed[0]}, whose changes are not reported"
        cookie = context_cookie(self.search.connection, self.config.base)
        if cookie is None:
            return None, f"contextCSN of the suffix of {self.config.base} is missing or not readable"
        if is_far_ahead(cookie, time.time()):
            return None, f"contextCSN of the suffix of {self.config.base} is far in the future"
        try:
            return refresh(self.search, cookie, self._attributes(ENTRY_UUID)), ""
        except (NoChangesError, BehindError, ContradictionError) as error:
            return None, str(error)


def _explained(changes: Changes | None, meanwhile: Changes) -> frozenset[str] | None:
    """Return the keys of all changes since the last answer; None if they are unknown, as after a present phase."""
    if changes is None or changes.present is not None or meanwhile.present is not None:
        return None
    return frozenset({*changes.entries, *meanwhile.entries})


def _unseen_notes(containers: Sequence[str]) -> tuple[str, ...]:
    return tuple(f"no address is visible below {printable(dn, _SHOWN)} any more" for dn in containers[:_SHOWN_KEYS])
