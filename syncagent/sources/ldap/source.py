"""The order of it all: which server, changes or everything, and what is remembered until next time.

Sync mode asks with a cookie what changed, which is the whole cost of a run; a full pull is made exact by asking what
changed since just before it. Poll mode asks for everything each time.
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
from syncagent.sources.ldap.entries import Reading
from syncagent.sources.ldap.presets import ENTRY_UUID, wanted

if TYPE_CHECKING:
    from collections.abc import Iterator

    from syncagent.model import Entry
    from syncagent.sources import Request
    from syncagent.sources.ldap import Config
    from syncagent.sources.ldap.connection import Session, UnreachableError
    from syncagent.sources.ldap.content_sync import Changes
    from syncagent.sources.ldap.entries import Found
    from syncagent.sources.ldap.full_search import Pull
    from syncagent.sources.ldap.presets import Preset

_PATIENCE = 3600.0
"""Seconds for which a server that is behind our cookie is waited for, before it is asked for everything."""
_UNTOLD = frozenset({"memberof", "ismemberof", "nsrole"})
"""Attributes that a server works out by itself: that they change is told to nobody."""


class Known(Struct, frozen=True):
    """The validator: the cookie, the server that it is of, and when that last gave everything.

    ``behind`` is since when servers were seen to be behind the cookie, 0 where none was: until everything was asked
    for again, no change that they tell is believed.
    """

    url: str
    cookie: str
    pulled: float
    behind: float = 0.0

    @classmethod
    def read(cls, validator: str | None) -> Known | None:
        """Read it; None where it is none of ours."""
        try:
            known = msgspec.json.decode(validator or "", type=cls)
            bytes.fromhex(known.cookie)
        except (msgspec.DecodeError, ValueError):
            return None
        return known

    def write(self) -> str:
        """Write it."""
        return msgspec.json.encode(self).decode()

    def is_fresh(self, now: float, interval: float) -> bool:
        """Tell whether everything was asked for within the interval; a clock that went back says no."""
        return 0 <= now - self.pulled < interval


class LdapSource:
    """Asks one of the servers, and keeps the connection for the next time in sync mode."""

    def __init__(self, config: Config) -> None:
        """Ask nothing yet."""
        self._config, self._wanted = config, wanted(config)
        self._warm: Session | None = None
        self._live: Session | None = None
        self._names_known = not (config.attributes or config.filter)

    def __del__(self) -> None:
        """Close the connection with the source: that is gone when another configuration is in force."""
        if self._warm is not None and not sys.is_finalizing():
            self._warm.close()

    def fetch(self, request: Request) -> Answer:
        """See Source.fetch. Goes on to the next server where one cannot be reached, not where it turns us down."""
        from syncagent.sources.ldap.connection import UnreachableError
        from syncagent.sources.ldap.full_search import Pull

        known = Known.read(request.validator)
        self._names_known |= known is not None  # it was asked for everything by this configuration before
        told: list[UnreachableError] = []
        for session in self._sessions(known, told):
            try:
                self._check_names(session)
                pull = Pull(session, self._config, self._wanted.filter)
                answer = _Fetch(self._config, self._wanted, pull, request, known).answer()
                answer = replace(answer, domains=self._domains(session))
            except UnreachableError as error:
                told.append(error)
                session.close()
                request.sink.restart()
            except BaseException:
                session.close()
                raise
            else:
                self._keep(session, answer)
                return answer
        broken = all(error.kind is FailureKind.BROKEN for error in told)
        text = "no server gives a whole answer: " + "; ".join(dict.fromkeys(map(str, told)))
        kind = FailureKind.BROKEN if broken else FailureKind.TEMPORARY
        raise SourceError(text, kind=kind, validator=next((one.validator for one in told if one.validator), None))

    def _sessions(self, known: Known | None, told: list[UnreachableError]) -> Iterator[Session]:
        """Give the connection that is open, then one to each server: first to that of the cookie."""
        from syncagent.sources.ldap.connection import Session, UnreachableError

        warm, self._warm = self._warm, None  # a fetch that was given up on may still be using what it took
        if warm is not None:
            self._live = warm
            yield warm
        urls = list(self._config.url)
        if known and known.url in urls:
            urls.sort(key=lambda url: url != known.url)
        for url in urls:
            try:
                session = Session(self._config, url, self._begin)
            except UnreachableError as error:
                told.append(error)
            else:
                yield session

    def _domains(self, session: Session) -> tuple[str, ...] | None:
        """Ask for the domains that are served, each time: they are few. Raises SourceError where there is none."""
        from syncagent.sources.ldap.full_search import Pull

        config, name = self._config, self._config.domain_attribute
        if not name:
            return None
        where = replace(config, base=config.domain_base or config.base, scope="sub")
        pull = Pull(session, where, config.domain_filter or f"({name}=*)")
        found = [value for page in pull.pages([name]) for entry in page for value in entry.values(name)]
        if not found:
            text = f"has no domain in {name}: see domain_attribute, domain_filter and domain_base"
            raise SourceError(f"{session.url} {text}", kind=FailureKind.BROKEN)
        return tuple(dict.fromkeys(value.decode(errors="replace") for value in found))

    def _begin(self, session: Session) -> None:
        self._live = session

    def give_up(self) -> None:
        """Cut the connection of a fetch that was given up on: a server that drips octets would hold it for ever."""
        if self._live is not None:
            self._live.cut()

    def _check_names(self, session: Session) -> None:
        """Look once whether the server has the attributes that were configured: it would not say so itself."""
        from syncagent.sources.ldap.full_search import unknown_attributes

        if self._names_known:
            return
        unknown = unknown_attributes(session, self._config.attributes, self._config.filter)
        if unknown:
            text = f"{session.url} knows no attribute {', '.join(unknown)}: see attributes and filter"
            raise SourceError(text, kind=FailureKind.BROKEN)
        self._names_known = True

    def _keep(self, session: Session, answer: Answer) -> None:
        if answer.mode == "sync" and self._warm is None:
            self._warm = session
        else:
            session.close()


@dataclass(slots=True)
class _Fetch:
    """One fetch from one server."""

    config: Config
    wanted: Preset
    pull: Pull
    request: Request
    known: Known | None

    def answer(self) -> Answer:
        changes, why = self._changes()
        if changes is not None and self.known is not None:
            if self.known.behind:
                changes, why = None, "it was behind what it said before, and is so no longer"
            elif self.known.is_fresh(time.time(), self.config.full_interval):
                return self._amended(changes, self.known)
            else:
                why = "full_interval has passed"
        return self._whole(changes, why)

    def _changes(self) -> tuple[Changes | None, str]:
        """Ask what changed since the cookie; None, and why, where only asking for everything can tell."""
        from syncagent.sources.ldap.connection import UnreachableError
        from syncagent.sources.ldap.content_sync import LaggingError, LostError, refresh

        url = self.pull.session.url
        if self.known is None or self.config.mode == "poll":
            return None, ""
        try:
            if self.known.url != url:
                self._catch_up(self.known)
                return None, f"{self.known.url} knew what changed, and {url} answers"
            changes = refresh(self.pull, bytes.fromhex(self.known.cookie), self._attributes(ENTRY_UUID))
            if changes.lose(self.wanted.attributes) and not self.pull.shows_somebody(self.wanted.attributes):
                return None, f"{url} names entries as gone, and shows nobody: may this account still read?"
        except LostError as error:
            return None, f"{url} cannot say what changed: {error}"
        except LaggingError as error:
            text = f"{url} is behind what was known before ({error}): a replica that lags, or one that was restored"
            since = self.known.behind or time.time()
            if time.time() - since < _PATIENCE:
                raise UnreachableError(text, validator=replace(self.known, behind=since).write()) from None
            return None, text
        return changes, ""

    def _catch_up(self, known: Known) -> None:
        """Raise LaggingError where another server has not got all that the cookie stands for."""
        from syncagent.sources.ldap.content_sync import LaggingError, context_cookie, is_behind

        cookie = context_cookie(self.pull.session, self.config.base)
        if cookie is not None and is_behind(cookie, bytes.fromhex(known.cookie)):
            raise LaggingError("its contextCSN is an older one")

    def _attributes(self, key: str) -> list[str]:
        return [*self.wanted.attributes, key]

    def _amended(self, changes: Changes, known: Known) -> Answer:
        validator = replace(known, cookie=changes.cookie.hex()).write()
        if changes.is_empty:
            return Answer(same=True, validator=validator, mode="sync")
        self.request.sink.amend(last=True)
        self._apply(changes)
        return Answer(validator=validator, mode="sync", notes=(f"entries changed: {changes.count}",))

    def _apply(self, changes: Changes) -> None:
        sink = self.request.sink
        sink.forget(changes.entries)
        if changes.present is not None:
            sink.retain(changes.present)
        reading = self._reading(ENTRY_UUID)
        for key, found in changes.entries.items():
            if found is not None:
                sink.put(reading.entries(found, key))

    def _whole(self, changes: Changes | None, why: str) -> Answer:
        """Ask for everything; in sync mode, then also for what changed meanwhile, so that the answer is exact."""
        from syncagent.sources.ldap.content_sync import LaggingError, LostError, refresh

        now, start = time.time(), changes
        if start is None and self.config.mode != "poll":
            start, reason = self._offered()
            if start is None and self.config.mode == "sync":
                text = f"{self.pull.session.url} has no sync mode: {reason}; mend that, or set mode to auto or poll"
                raise SourceError(text, kind=FailureKind.BROKEN)
        self._pull_all(ENTRY_UUID if start is not None else self.wanted.key, exact=start is not None)
        notes = [f"asked for everything: {why}"] if why else []
        if self.pull.references:
            notes.append(
                f"references to other servers that were ignored: {self.pull.references}; what is there is not here"
            )
        if start is None:
            return Answer(mode="poll", notes=tuple(notes))
        try:
            meanwhile = refresh(self.pull, start.cookie, self._attributes(ENTRY_UUID))
        except (LostError, LaggingError) as error:
            raise SourceError(f"{self.pull.session.url} changed too much while it was read: {error}") from None
        self.request.sink.amend(last=False)
        self._apply(meanwhile)
        validator = Known(self.pull.session.url, meanwhile.cookie.hex(), now).write()
        return Answer(validator=validator, mode="sync", notes=tuple(notes), explained=_explained(changes, meanwhile))

    def _pull_all(self, key: str, *, exact: bool) -> None:
        sink, reading = self.request.sink, self._reading(key)
        count = 0
        for page in self.pull.pages(self._attributes(key)):
            entries: list[Entry] = []
            for found in page:
                own = found.key(key)
                if own is None and exact:
                    self._lacks(key, found)
                entries += reading.entries(found, own or found.dn)
            sink.put(entries)
            if time.monotonic() > self.request.ends:
                raise SourceError(f"{self.pull.session.url} takes longer than the source's deadline")
            count += len(page)
            self.request.report("entries", count)

    def _reading(self, key: str) -> Reading:
        return Reading(self.request.sink, self.wanted.attributes, key)

    def _lacks(self, key: str, found: Found) -> NoReturn:
        from syncagent.sources.ldap.connection import clean

        text = f"{key} of {clean(found.dn)} may not be read, and sync mode needs it: grant it, or set mode to poll"
        raise SourceError(f"{self.pull.session.url}: {text}", kind=FailureKind.BROKEN)

    def _offered(self) -> tuple[Changes | None, str]:
        """Find out whether sync mode is there for this base, by asking what changed since now; else say why not."""
        from syncagent.sources.ldap.content_sync import LaggingError, LostError, context_cookie, refresh
        from syncagent.sources.ldap.full_search import names_in

        untold = [name for name in names_in(self.pull.filter) if name.lower() in _UNTOLD]
        if untold:
            return None, f"the filter names {untold[0]}, whose changes no server tells"
        cookie = context_cookie(self.pull.session, self.config.base)
        if cookie is None:
            return None, f"contextCSN of the suffix of {self.config.base} is not there, or may not be read"
        try:
            return refresh(self.pull, cookie, self._attributes(ENTRY_UUID)), ""
        except (LostError, LaggingError) as error:
            return None, str(error)


def _explained(changes: Changes | None, meanwhile: Changes) -> frozenset[str] | None:
    """Give what changed since the last answer; None where that is not known one by one."""
    if changes is None or changes.present is not None or meanwhile.present is not None:
        return None
    return frozenset({*changes.entries, *meanwhile.entries})
