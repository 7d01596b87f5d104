"""The LDAP source: it selects a server, and reads the changes or all entries.

Sync mode reads the changes since a cookie, so that a run costs in proportion to the changes. A full search in sync mode
is followed by a refresh from a cookie taken before it, which makes the answer exact. Poll mode does a full search each
time.
"""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, NoReturn

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from syncagent.errors import FailureKind, SourceError
from syncagent.sources import Answer
from syncagent.sources.ldap.entries import AddressReader
from syncagent.sources.ldap.presets import ENTRY_UUID, resolve

if TYPE_CHECKING:
    from collections.abc import Iterator

    from syncagent.model import Entry
    from syncagent.sources import Request
    from syncagent.sources.ldap import Config
    from syncagent.sources.ldap.connection import Connection, UnreachableError
    from syncagent.sources.ldap.content_sync import Changes
    from syncagent.sources.ldap.entries import DirectoryEntry
    from syncagent.sources.ldap.full_search import FullSearch
    from syncagent.sources.ldap.presets import Preset

_MAX_LAG = 3600.0
"""Seconds that a server may stay behind the cookie before its full search is accepted."""
_COMPUTED = frozenset({"memberof", "ismemberof", "nsrole"})
"""Attributes, in lower case, that servers compute: content synchronization does not report their changes."""


class SyncState(Struct, frozen=True, rename={"full_search_at": "pulled", "behind_since": "behind"}):
    """The validator in sync mode: the cookie, the server that issued it, and when its last full search began.

    ``behind_since`` is the time when a server was first behind the cookie; 0 if no server is. From then on no refresh
    is used until a full search has succeeded. Times are seconds since the epoch.
    """

    url: str
    cookie: str
    full_search_at: float
    behind_since: float = 0.0

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
        for connection in self._connections(state, errors):
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
                self._keep(connection, answer)
                return answer
        raise _no_server(errors)

    def _fetch_from(self, connection: Connection, request: Request, state: SyncState | None) -> Answer:
        from syncagent.sources.ldap.full_search import FullSearch

        self._check_names(connection)
        search = FullSearch(connection, self._config, self._selection.filter)
        answer = _Fetch(self._config, self._selection, search, request, state).answer()
        return replace(answer, domains=self._domains(connection))

    def _connections(self, state: SyncState | None, errors: list[UnreachableError]) -> Iterator[Connection]:
        """Yield the kept connection, then a new connection to each server, first to the server of the cookie.

        The errors of servers that are unreachable are added to ``errors``.
        """
        from syncagent.sources.ldap.connection import Connection, UnreachableError

        kept, self._kept = self._kept, None  # an abandoned fetch may still be using the connection
        if kept is not None:
            self._current = kept
            yield kept
        urls = list(self._config.url)
        if state and state.url in urls:
            urls.sort(key=lambda url: url != state.url)
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

    def _keep(self, connection: Connection, answer: Answer) -> None:
        if answer.mode == "sync" and self._kept is None:
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

    @property
    def url(self) -> str:
        return self.search.connection.url

    def answer(self) -> Answer:
        changes, why = self._changes()
        if changes is not None and self.state is not None:
            if self.state.behind_since:
                changes, why = None, f"{self.url} was behind its last cookie and has caught up"
            elif self.state.is_fresh(time.time(), self.config.full_interval):
                return self._amended(changes, self.state)
            else:
                why = "full_interval has elapsed"
        return self._full(changes, why)

    def _changes(self) -> tuple[Changes | None, str]:
        """Return the changes since the cookie; None, and the reason in words, if a full search is necessary.

        Raises UnreachableError while the server is behind the cookie, for _MAX_LAG seconds at most.
        """
        from syncagent.sources.ldap.connection import UnreachableError
        from syncagent.sources.ldap.content_sync import BehindError, NoChangesError, refresh

        if self.state is None or self.config.mode == "poll":
            return None, ""
        try:
            if self.state.url != self.url:
                self._require_caught_up(self.state)
                return None, f"{self.url} answers instead of {self.state.url}"
            changes = refresh(self.search, bytes.fromhex(self.state.cookie), self._attributes(ENTRY_UUID))
            if self._may_have_lost_access(changes):
                text = "server reports deletions but returns no entries: did the account lose read access?"
                return None, f"{self.url}: {text}"
        except NoChangesError as error:
            return None, f"{self.url} cannot report changes: {error}"
        except BehindError as error:
            text = f"{self.url} is behind the last cookie ({error}): a lagging replica, or a restored server"
            since = self.state.behind_since or time.time()
            if time.time() - since < _MAX_LAG:
                raise UnreachableError(text, validator=replace(self.state, behind_since=since).write()) from None
            return None, text
        return changes, ""

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

    def _amended(self, changes: Changes, state: SyncState) -> Answer:
        validator = replace(state, cookie=changes.cookie.hex()).write()
        if changes.is_empty:
            return Answer(same=True, validator=validator, mode="sync")
        self.request.sink.amend(last=True)
        self._apply(changes)
        return Answer(validator=validator, mode="sync", notes=(f"entries changed: {changes.count}",))

    def _apply(self, changes: Changes) -> None:
        """Put the changes into the sink. The sink's ``amend`` must have been called."""
        sink = self.request.sink
        sink.forget(changes.entries)
        if changes.present is not None:
            sink.retain(changes.present)
        reader = self._reader(ENTRY_UUID)
        for key, entry in changes.entries.items():
            if entry is not None:
                sink.put(reader.addresses(entry, key))

    def _full(self, changes: Changes | None, why: str) -> Answer:
        """Return the answer of a full search.

        In sync mode a refresh adds the changes made during the search. ``changes`` are those since the last answer, if
        known; ``why`` is the reason for the full search, for a note.
        """
        started_at, start = time.time(), changes
        if start is None and self.config.mode != "poll":
            start = self._probe_sync()
        self._search_all(ENTRY_UUID if start is not None else self.selection.key, exact=start is not None)
        notes = (*([f"full search: {why}"] if why else []), *self._reference_notes())
        if start is None:
            return Answer(mode="poll", notes=notes)
        meanwhile = self._refresh_after(start)
        self.request.sink.amend(last=False)
        self._apply(meanwhile)
        validator = SyncState(self.url, meanwhile.cookie.hex(), started_at).write()
        return Answer(validator=validator, mode="sync", notes=notes, explained=_explained(changes, meanwhile))

    def _reference_notes(self) -> list[str]:
        count = self.search.references
        return [f"ignored references to other servers: {count}; their entries are missing here"] if count else []

    def _refresh_after(self, start: Changes) -> Changes:
        """Return the changes since ``start``. Raises SourceError if the server cannot report them."""
        from syncagent.sources.ldap.content_sync import BehindError, NoChangesError, refresh

        try:
            return refresh(self.search, start.cookie, self._attributes(ENTRY_UUID))
        except (NoChangesError, BehindError) as error:
            raise SourceError(f"{self.url}: too many changes during the full search: {error}") from None

    def _search_all(self, key: str, *, exact: bool) -> None:
        """Put all entries into the sink. The key is the value of the attribute ``key``, or the DN if it has no value.

        Raises SourceError if an entry has no value and ``exact`` is set, or if the deadline has passed.
        """
        sink, reader = self.request.sink, self._reader(key)
        count = 0
        for page in self.search.pages(self._attributes(key)):
            entries: list[Entry] = []
            for entry in page:
                own_key = entry.key(key)
                if own_key is None and exact:
                    self._raise_for_missing(key, entry)
                entries += reader.addresses(entry, own_key or entry.dn)
            sink.put(entries)
            if time.monotonic() > self.request.ends:
                raise SourceError(f"{self.url}: the full search takes longer than the source's deadline")
            count += len(page)
            self.request.report("entries", count)

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
        from syncagent.sources.ldap.content_sync import BehindError, NoChangesError, context_cookie, refresh
        from syncagent.sources.ldap.full_search import names_in

        computed = [name for name in names_in(self.search.filter) if name.lower() in _COMPUTED]
        if computed:
            return None, f"the filter uses {computed[0]}, whose changes are not reported"
        cookie = context_cookie(self.search.connection, self.config.base)
        if cookie is None:
            return None, f"contextCSN of the suffix of {self.config.base} is missing or not readable"
        try:
            return refresh(self.search, cookie, self._attributes(ENTRY_UUID)), ""
        except (NoChangesError, BehindError) as error:
            return None, str(error)


def _explained(changes: Changes | None, meanwhile: Changes) -> frozenset[str] | None:
    """Return the keys of all changes since the last answer; None if they are unknown, as after a present phase."""
    if changes is None or changes.present is not None or meanwhile.present is not None:
        return None
    return frozenset({*changes.entries, *meanwhile.entries})
