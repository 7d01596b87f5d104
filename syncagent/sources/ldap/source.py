"""The LDAP source: it selects a server, and asks it. ``fetch`` has the steps of one answer."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from msgspec.structs import replace

from syncagent.errors import FailureKind, SourceError
from syncagent.sources.ldap.contradictions import ContradictionError
from syncagent.sources.ldap.presets import resolve
from syncagent.sources.ldap.validator import SyncState

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from syncagent.sources import Answer, Candidate, Confirmation, Request
    from syncagent.sources.ldap import Config
    from syncagent.sources.ldap.connection import Connection, UnreachableError


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
        from syncagent.sources.ldap.fetch import Fetch
        from syncagent.sources.ldap.full_search import FullSearch

        try:
            self._check_names(connection)
            search = FullSearch(connection, self._config, self._selection.filter)
            answer = Fetch(self._config, self._selection, search, request, state).answer()
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
