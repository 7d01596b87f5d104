"""The LDAP source: it selects a server, and reads the changes or all entries.

Sync mode reads the changes since a cookie, so that a run costs in proportion to the changes. A full search in sync mode
is followed by a refresh from a cookie taken before it, which makes the answer exact. Poll mode does a full search each
time.

An answer that contradicts itself or the last one is discarded, and a full search is done, twice at most. Before an
answer without addresses of the last one is used, a sample of their entries is read.
"""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, NoReturn

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from syncagent.errors import FailureKind, SourceError, printable
from syncagent.sources import Answer, Candidate
from syncagent.sources.ldap import contradictions
from syncagent.sources.ldap.contradictions import ContradictionError, Identities
from syncagent.sources.ldap.entries import AddressReader, canonical_addresses
from syncagent.sources.ldap.presets import ENTRY_UUID, resolve

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from syncagent.model import Entry
    from syncagent.sources import Confirmation, Request
    from syncagent.sources.ldap import Config
    from syncagent.sources.ldap.connection import Connection, UnreachableError
    from syncagent.sources.ldap.content_sync import Changes
    from syncagent.sources.ldap.entries import DirectoryEntry
    from syncagent.sources.ldap.full_search import FullSearch
    from syncagent.sources.ldap.point_query import PointQuery
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


class _PollState(Struct, frozen=True, omit_defaults=True):
    """The validator in poll mode. ``exact``: the server estimated the number of entries exactly in the last search."""

    exact: bool = False


class SyncState(Struct, frozen=True, omit_defaults=True, rename={"full_search_at": "pulled", "behind_since": "behind"}):
    """The validator in sync mode: the cookie, the server that issued it, and when its last full search began.

    ``behind_since`` is the time when a server was first behind the cookie; 0 if no server is. From then on no refresh
    is used until a full search has succeeded. Times are seconds since the epoch. ``keys``: the list has the key of
    every entry, also of those without addresses. ``exact``: as in poll mode. ``unseen`` are containers of which no
    entry is visible any more; once one is, a full search is done, since slapd reports no changes of access rules.
    """

    url: str
    cookie: str
    full_search_at: float
    behind_since: float = 0.0
    keys: bool = False
    exact: bool = False
    unseen: tuple[str, ...] = ()

    @classmethod
    def read(cls, validator: str | None) -> SyncState | None:
        """Return the state in a validator; None if there is no validator or it has another form."""
        try:
            state = msgspec.json.decode(validator or "", type=cls)
            bytes.fromhex(state.cookie)
        except (msgspec.DecodeError, ValueError):
            return None
        return state

    def write(self) -> str:
        """Return the validator with this state."""
        return msgspec.json.encode(self).decode()

    def is_fresh(self, now: float, interval: float) -> bool:
        """True if the last full search began less than ``interval`` seconds ago. False if that is in the future."""
        return 0 <= now - self.full_search_at < interval


class LdapSource:
    """A source that reads from the first server that answers. In sync mode it keeps the connection between fetches."""

    def __init__(self, config: Config) -> None:
        """Store the configuration. Does not access the network."""
        self._config, self._selection = config, resolve(config)
        self._kept: Connection | None = None
        self._current: Connection | None = None
        self._names_checked = not (config.attributes or config.filter)
        self._answered_by, self._keeps = "", False

    def __del__(self) -> None:
        """Close the kept connection. The agent drops the source when its configuration changes."""
        if self._kept is not None and not sys.is_finalizing():
            self._kept.close()

    def fetch(self, request: Request) -> Answer:
        """Return the answer; see Source.fetch.

        Tries the next server if a server is unreachable, but not if a server rejects the credentials.
        """
        from syncagent.sources.ldap.connection import UnreachableError

        state = SyncState.read(request.validator)
        self._names_checked |= state is not None  # a full search with this configuration has succeeded before
        errors: list[UnreachableError] = []
        for connection in self._connections(state.url if state else "", errors):
            try:
                answer = self._fetch_from(connection, request, state)
            except UnreachableError as error:
                errors.append(error)
                connection.close()
                request.sink.restart()
            except BaseException:
                connection.close()
                raise
            else:
                self._answered_by, self._keeps = connection.url, answer.mode == "sync"
                self._keep(connection)
                return answer
        raise _no_server(errors)

    def confirm(self, candidates: Sequence[Candidate], ends: float) -> Confirmation:
        """Return which recipients the directory still has, and which of the others it does not show; see Source.

        Asks the server of the last answer first.
        """
        from syncagent.sources.ldap.connection import UnreachableError
        from syncagent.sources.ldap.full_search import FullSearch
        from syncagent.sources.ldap.point_query import PointQuery

        errors: list[UnreachableError] = []
        for connection in self._connections(self._answered_by, errors):
            try:
                search = FullSearch(connection, self._config, self._selection.filter)
                confirmation = PointQuery(search, self._selection.attributes, ends).confirmation(candidates)
            except UnreachableError as error:
                errors.append(error)
                connection.close()
            except ContradictionError as error:
                connection.close()
                raise SourceError(f"{connection.url}: {error}", kind=FailureKind.BROKEN) from None
            except BaseException:
                connection.close()
                raise
            else:
                self._keep(connection)
                return confirmation
        raise _no_server(errors)

    def _fetch_from(self, connection: Connection, request: Request, state: SyncState | None) -> Answer:
        from syncagent.sources.ldap.full_search import FullSearch

        try:
            self._check_names(connection)
            search = FullSearch(connection, self._config, self._selection.filter)
            answer = _Fetch(self._config, self._selection, search, request, state).answer()
            return replace(answer, domains=self._domains(connection))
        except ContradictionError as error:
            raise SourceError(f"{connection.url}: {error}", kind=FailureKind.BROKEN) from None

    def _connections(self, first: str, errors: list[UnreachableError]) -> Iterator[Connection]:
        """Yield the kept connection, then a new connection to each server, first to the one with the URL ``first``.

        The errors of servers that are unreachable are added to ``errors``.
        """
        from syncagent.sources.ldap.connection import Connection, UnreachableError

        kept, self._kept = self._kept, None  # an abandoned fetch may still be using the connection
        if kept is not None:
            self._current = kept
            yield kept
        urls = list(self._config.url)
        if first in urls:
            urls.sort(key=lambda url: url != first)
        for url in urls:
            try:
                connection = Connection(self._config, url, self._set_current)
            except UnreachableError as error:
                errors.append(error)
            else:
                yield connection

    def _domains(self, connection: Connection) -> tuple[str, ...] | None:
        """Return the values of domain_attribute; None if it is not configured. Raises SourceError if it has no value.

        Each fetch does a full search for them, also in sync mode, since domains are few.
        """
        from syncagent.sources.ldap.full_search import FullSearch

        config, name = self._config, self._config.domain_attribute
        if not name:
            return None
        where = replace(config, base=config.domain_base or config.base, scope="sub")
        search = FullSearch(connection, where, config.domain_filter or f"({name}=*)")
        values = [value for page in search.pages([name]) for entry in page for value in entry.values(name)]
        if not values:
            text = f"no entry has a value of {name}: check domain_attribute, domain_filter and domain_base"
            raise SourceError(f"{connection.url}: {text}", kind=FailureKind.BROKEN)
        return tuple(dict.fromkeys(value.decode(errors="replace") for value in values))

    def _set_current(self, connection: Connection) -> None:
        self._current = connection

    def give_up(self) -> None:
        """Shut down the connection of an abandoned fetch.

        Otherwise a server that sends an octet within each read timeout would block the fetch forever.
        """
        if self._current is not None:
            self._current.cut()

    def _check_names(self, connection: Connection) -> None:
        """Raise SourceError if the schema lacks a configured attribute, for which a search would find no entry.

        The result of a successful check is kept for later fetches.
        """
        from syncagent.sources.ldap.full_search import unknown_attributes

        if self._names_checked:
            return
        unknown = unknown_attributes(connection, self._config.attributes, self._config.filter)
        if unknown:
            text = f"{connection.url}: unknown attribute {', '.join(unknown)}: check attributes and filter"
            raise SourceError(text, kind=FailureKind.BROKEN)
        self._names_checked = True

    def _keep(self, connection: Connection) -> None:
        if self._keeps and self._kept is None:
            self._kept = connection
        else:
            connection.close()


def _no_server(errors: list[UnreachableError]) -> SourceError:
    """Return the error of a fetch that no server answered. Its kind is BROKEN if all errors are, else TEMPORARY."""
    is_broken = all(error.kind is FailureKind.BROKEN for error in errors)
    return SourceError(
        "no server returned a complete answer: " + "; ".join(dict.fromkeys(map(str, errors))),
        kind=FailureKind.BROKEN if is_broken else FailureKind.TEMPORARY,
        validator=next((error.validator for error in errors if error.validator), None),
    )


@dataclass(slots=True)
class _Fetch:
    """The fetch of a request from one server; ``state`` is that of the last answer in sync mode."""

    config: Config
    selection: Preset
    search: FullSearch
    request: Request
    state: SyncState | None
    labels_are_dns: bool = True

    @property
    def url(self) -> str:
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
        from syncagent.sources.ldap.content_sync import BehindError, NoChangesError

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
        from syncagent.sources.ldap.content_sync import refresh

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
        from syncagent.sources.ldap.connection import UnreachableError

        since = state.behind_since or time.time()
        if time.time() - since < _MAX_LAG:
            raise UnreachableError(text, validator=replace(state, behind_since=since).write()) from None

    def _may_have_lost_access(self, changes: Changes) -> bool:
        """True if the changes may remove addresses and a probe search returns no address."""
        attributes = self.selection.attributes
        return changes.remove_addresses(attributes) and not self.search.returns_addresses(attributes)

    def _require_caught_up(self, state: SyncState) -> None:
        """Raise BehindError if this server's contextCSN is older than the cookie, which another server issued."""
        from syncagent.sources.ldap.content_sync import BehindError, context_cookie, is_behind

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
            return replace(self._answer(None, full=True, notes=notes), validator=_poll_validator(exact=exact))
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
        from syncagent.sources.ldap.point_query import PointQuery

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
        from syncagent.sources.ldap.connection import NOT_READABLE

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
        from syncagent.sources.ldap.content_sync import BehindError, NoChangesError, refresh

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
        if count < estimate and _was_exact(self.request.validator):
            text = f"{count} entries came where the server counts {estimate}, and its count was exact before"
            raise ContradictionError(f"{text}: may this account read all of them?")
        return count == estimate

    def _reader(self, key: str) -> AddressReader:
        return AddressReader(self.request.sink, self.selection.attributes, key)

    def _raise_for_missing(self, key: str, entry: DirectoryEntry) -> NoReturn:
        from syncagent.sources.ldap.connection import one_line

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
        from syncagent.sources.ldap.content_sync import (
            BehindError,
            NoChangesError,
            context_cookie,
            is_far_ahead,
            refresh,
        )
        from syncagent.sources.ldap.full_search import names_in

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


def _was_exact(validator: str | None) -> bool:
    """True if the last answer was from a server whose estimate was exact, in either mode."""
    try:
        return msgspec.json.decode(validator or "{}", type=_PollState).exact
    except msgspec.DecodeError:
        return False


def _poll_validator(*, exact: bool) -> str | None:
    return msgspec.json.encode(_PollState(exact)).decode() if exact else None
