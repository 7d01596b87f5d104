"""The source interface: what a source kind provides, and what syncagent provides to it.

Terms:

- A *source* lists recipients: a file, an LDAP directory, the API of the primary mail server. Its *kind* is the value
  of ``type`` in the configuration.
- An *entry* is one address: ``(address as spelled by the source, key, label)``. The key identifies the object that
  has the address, such as a line or a UUID; entries may share a key. A source that amends its answers needs keys
  that are stable between fetches. The label describes the object to people, such as a DN, and may be empty. All three
  are ``str`` with any content: syncagent normalizes the address and escapes key and label.
- A *fetch* returns a complete answer or raises. Entries that it put into its sink before raising are discarded.
- A *validator* is an opaque string that identifies a complete answer: an ETag, file identities, a sync cookie. It is
  stored in one transaction with the answer and passed to the next fetch, so that the source can reply "same" or send
  only changes. syncagent drops it when the configuration of the source changes.
- A *sink* receives the entries of one fetch.

A kind is a module registered under the entry-point group ``syncagent.sources``. It has

- ``Config``, a frozen keyword-only ``msgspec.Struct`` with the keys of the kind, besides those of ``Common``;
- ``build(config)``, which returns a ``Source`` and accesses neither files nor network;
- optionally ``problems(config)``, which yields ``(key, text)`` for each fault that the type of a key cannot express;
- optionally ``watched(config)``, which yields a ``Watched`` for each path whose change makes the agent fetch at once.

The module is imported when a configuration that uses the kind is read; heavy libraries belong inside functions.

Lifetime: the object that ``build`` returns serves all fetches while the configuration is in force: one for ``sync``,
many for the agent. It may keep connections between fetches. Only the validator survives a restart.

Threads: each fetch runs in its own thread, beside those of other sources. A source has at most one fetch at a time.
At the deadline the fetch is abandoned: its sink raises SourceError from then on, and ``give_up()``, if the source has
it, is called from another thread.

Errors: ``fetch`` raises SourceError (``syncagent.errors``) with a text that names the file or server, the fault and the
remedy, never a secret. Its ``kind`` is TEMPORARY (retry), REFUSED (credentials rejected: not retried for an hour unless
the configuration or a secret changes) or BROKEN (a person must act). Exceptions that the sink raises must propagate.
An OSError counts as TEMPORARY. Any other exception is reported as a fault in the source (BROKEN). In each case the last
complete answer stays in force.
"""

from __future__ import annotations

import importlib.metadata
import math
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Protocol

from msgspec import Struct

from syncagent.errors import translate_errors
from syncagent.model import CONFIRM_AFTER, Dates, StepReport
from syncagent.values import struct_fields
from syncagent.values.secrets import read_secret, secret_path
from syncagent.values.types import Domain, Duration

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

    from syncagent.model import Entry

__all__ = [
    "GROUP",
    "Answer",
    "BrokenKindError",
    "Candidate",
    "Common",
    "Confirmation",
    "Request",
    "Sink",
    "Source",
    "Watched",
    "kinds",
    "load",
    "problems",
    "read_secret",
    "secret_path",
    "watched",
]

GROUP = "syncagent.sources"
"""The entry-point group of source kinds."""


class Common(Struct, frozen=True, kw_only=True):
    """Keys that every source has."""

    type: str
    """The kind of source."""
    allow_empty: bool = False
    """Whether an answer without entries is accepted; otherwise it fails the source."""
    catch_all: Literal["accept", "ignore"] = "accept"
    """What to do with catch-alls (@domain): accept those that postfix.catch_all permits, or ignore all."""
    content_max_age: Duration | None = None
    """How old its data may be by its own date: "# made" of a list, else the time of its file's or Last-Modified's last
    change. Unless set, 24h for a list that says when it was made and not when it expires, and the time of a file or
    Last-Modified does not count; "0s": any age."""
    deadline: Duration | None = None
    """How long a fetch may take; 120s unless set."""
    ignore: tuple[str, ...] = ()
    """Patterns of rejected entries that are no recipients, such as "* (left)": they are counted, and nothing is held
    for them. `*`, `?` and `[...]` are as in a shell; upper and lower case are the same. An entry in
    which there is exactly one address is none of them: it is read. A pattern may not match an address that could be
    published."""
    every: Duration | None = None
    """How often the agent fetches it; as schedule.every or schedule.cron say unless set."""
    relay_domains: tuple[Domain, ...] = ()
    """Relay domains that are in doubt while this source fails, besides those in which it has or had recipients."""
    unlisted: Literal["doubt", "refuse"] = "doubt"
    """What unknown recipients get where it has recipients that it does not list (a held catch-all, a pattern): 450 by
    "doubt", 550 by "refuse"."""
    confirm_after: Duration = Duration(CONFIRM_AFTER)
    """How long an address must be missing, if that is longer than limits.removal_grace and the source does not prove
    that its answers are whole, as by an end line; "0s": only the grace."""


READING = "2"
"""Version of the rules by which a value is read as a recipient; see ``Source``."""

NOT_FETCHED = ("confirm_after", "content_max_age", "ignore", "relay_domains", "unlisted")
"""Keys of ``Common`` that do not change what a fetch returns: they are no part of a source's digest."""


class Watched(NamedTuple):
    """A local path whose change triggers a fetch. ``poll`` is True where inotify reports no changes, as on NFS."""

    path: Path
    poll: bool = False


class Sink(Protocol):
    """The receiver of the entries of one fetch.

    ``put`` and ``reject`` raise SourceError once the fetch is abandoned, and LedgerError if the entries cannot be
    stored. ``forget``, ``retain``, ``unknown`` and ``vanished`` raise SourceError unless ``amend`` was called before.
    """

    def put(self, entries: Iterable[Entry]) -> None:
        """Add entries. An entry whose address is malformed is recorded as a reject."""

    def reject(self, spelled: str, reason: str, key: str, raw: bytes | None = None) -> None:
        """Record a value that cannot be read as an address.

        The reason is a predicate, such as "is not UTF-8", and says what to write instead. ``raw`` are the octets of the
        entry if ``spelled`` is not all of it: they decide whether it is an entry that a person has approved.
        """

    def refuse(self, entries: Iterable[Entry]) -> None:
        """Record keys that the source itself refuses, such as by REJECT in a table: no recipients, and no rejects.

        The label of each is what the source has instead of a recipient.
        """

    def put_keys(self, keys: Iterable[str]) -> None:
        """Record keys of objects without addresses, for a source that compares keys with ``unknown``."""

    def ignore(self, count: int, cause: str = "") -> None:
        """Count values that are well-formed but not mail recipients. An answer of only such values is empty.

        ``cause`` is a predicate with the configuration key that makes them so and what to do, such as "have a uid below
        min_uid (1000): lower min_uid"; "" if they are none by their kind.
        """

    def restart(self) -> None:
        """Discard everything since the start of the fetch."""

    def amend(self, *, last: bool) -> None:
        """Start amending the last complete answer if ``last``, otherwise the entries put so far.

        ``last`` requires that ``Request.validator`` is not None and that nothing was put. Entries put afterwards are
        added to the amended answer; ``forget`` and ``retain`` do not remove them.
        """

    def forget(self, keys: Iterable[str]) -> None:
        """Remove the entries and rejects with these keys from the answer being amended."""

    def retain(self, keys: Iterable[str]) -> None:
        """Remove the entries and rejects with any other key from the answer being amended."""

    def unknown(self, keys: Iterable[str]) -> list[str]:
        """Return those of the keys that the answer being amended lacks, as it was when ``amend`` was called."""

    def vanished(self, limit: int) -> list[Entry]:
        """Return entries of the last complete answer whose addresses this answer lacks, canonical.

        Empty if there is no last answer of this configuration. The addresses are about ``limit`` at most, spread evenly
        over all of them. Nothing may be put or removed afterwards.
        """


@dataclass(frozen=True, slots=True)
class Request:
    """The input of a fetch.

    ``validator`` belongs to the last complete answer; None requests a complete answer. ``report(step, count)`` shows
    progress to people. ``ends`` is the deadline on the clock of time.monotonic().
    """

    validator: str | None
    sink: Sink
    report: Callable[[str, int], None]
    ends: float = math.inf


class Answer(Struct, frozen=True):
    """The result of a fetch: a complete answer, or "same" if it equals the answer of the request's validator.

    ``same``: the fetch put nothing, and the last answer stays in force.
    ``validator``: identifies this answer. None with ``same`` keeps the request's, otherwise makes the next fetch a full
    one.
    ``notes``: remarks for people.
    ``mode``: how the answer was obtained, such as "sync" or "poll"; empty if the kind has only one mode.
    ``explained``: all keys that changed since the last answer; None if the source does not know them. If addresses
    under other keys differ, the run has a note about them; this answer stays in force.
    ``steps``: page and record counts of each list that the answer is built from.
    ``domains``: mail domains that the source serves. None: not reported; with ``same`` the last ones stay in force.
    ``unlisted``: mail domains in which the source has recipients that it cannot list, "*" for all domains in which it
    has or had recipients. With ``same`` the last ones stay in force.
    ``leaves_out``: recipients that the source can have and does not list, each as a noun with what to do about it.
    ``full``: the answer was built without the last one, from everything that the source has.
    ``proof``: "producer" if the producer itself proves that the answer is whole (an end line, a result code, a total),
    "transport" if only the way does (Content-Length, a finished last line), "none" if a full answer proves nothing.
    ``unfinished``: the last line of each text that does not end in a line feed, by the name of the text;
    ``finished``: the names of the other texts. Both are empty if the source reads no lines.
    ``containers``: the label of each entry is a DN.
    ``made``, ``expires``: when the producer made the data and when it expires, in seconds since the epoch; 0 if the
    data does not say. Of several texts it is the earliest.
    ``dates``: the dates of each text by its name, "" for all those together that have no ``made`` and no ``expires``.
    A source that reads no texts leaves it empty. With "same" it counts only where none is recorded.
    """

    same: bool = False
    validator: str | None = None
    notes: tuple[str, ...] = ()
    mode: str = ""
    explained: frozenset[str] | None = None
    steps: tuple[StepReport, ...] = ()
    domains: tuple[str, ...] | None = None
    unlisted: tuple[str, ...] = ()
    leaves_out: tuple[str, ...] = ()
    full: bool = True
    proof: Literal["none", "transport", "producer"] = "transport"
    unfinished: dict[str, str] = {}
    finished: tuple[str, ...] = ()
    containers: bool = False
    made: float = 0.0
    expires: float = 0.0
    dates: dict[str, Dates] = {}


class Candidate(NamedTuple):
    """A recipient that is about to be removed: its address, and its label in the source's last answer that had it."""

    address: str
    label: str


class Confirmation(Struct, frozen=True):
    """The answer about single recipients: ``present`` are those that the source still has.

    ``unseen`` maps the others whose surroundings the source does not show to the DN of their container: the account
    may have lost its rights there.
    """

    present: frozenset[str] = frozenset()
    unseen: dict[str, str] = {}


class Source(Protocol):
    """A configured source. The module's docstring has the rules on lifetime, threads and errors.

    A source may have ``give_up()``, which aborts the network connection of the current fetch, and
    ``confirm(candidates: Sequence[Candidate], ends: float) -> Confirmation``, which asks for single recipients before
    they are removed. ``ends`` is the deadline on the clock of time.monotonic(). It raises SourceError if it cannot ask.

    ``is_local``, if it is there and true: everything can be read again at no cost to others. Such a source gets no
    validator once when READING has changed. Others apply new rules to their next full answer.
    """

    def fetch(self, request: Request) -> Answer:
        """Return the answer, after putting all entries into ``request.sink`` or amending the last answer in it.

        For an answer "same" nothing is put. Raises SourceError if the answer would be incomplete.
        """


class BrokenKindError(Exception):
    """An installed source kind cannot be loaded or used; the text names its package."""


@lru_cache(maxsize=1)
def kinds() -> dict[str, importlib.metadata.EntryPoint]:
    """Return the entry points of the installed kinds by name, without importing them."""
    return {entry.name: entry for entry in importlib.metadata.entry_points(group=GROUP)}


def load(kind: str) -> Any:  # noqa: ANN401 - a module, by duck type
    """Import an installed kind and return its module.

    Raises BrokenKindError if the import fails, or if the module has no usable ``Config`` or no ``build``.
    """
    with _errors_of(kind, "cannot be loaded"):
        module = kinds()[kind].load()
        config = getattr(module, "Config", None)
        if not (isinstance(config, type) and issubclass(config, Struct)) or not callable(
            getattr(module, "build", None)
        ):
            raise TypeError("the module must have Config, a msgspec Struct, and build(config)")
        struct_fields.hints(config)
    return module


def problems(kind: str, module: Any, config: Struct) -> list[tuple[str, str]]:  # noqa: ANN401 - see load()
    """Return the (key, text) pairs of the module's ``problems``. Raises BrokenKindError if that function raises."""
    with _errors_of(kind, "cannot check its configuration"):
        return list(module.problems(config)) if hasattr(module, "problems") else []


def watched(kind: str, module: Any, config: Struct) -> tuple[Watched, ...]:  # noqa: ANN401 - see load()
    """Return the paths of the module's ``watched``. Raises BrokenKindError if that function raises."""
    with _errors_of(kind, "cannot list the paths to watch"):
        return tuple(module.watched(config)) if hasattr(module, "watched") else ()


def _errors_of(kind: str, what: str) -> translate_errors:
    """Return a context manager that converts exceptions of a kind's code, including SystemExit, to BrokenKindError."""
    return translate_errors(partial(_broken, kind, what))


def _broken(kind: str, what: str, error: BaseException) -> BrokenKindError | None:
    """Return the error, which names package and version; None for KeyboardInterrupt."""
    if not isinstance(error, (Exception, SystemExit)):
        return None
    entry = kinds()[kind]
    origin = f"{entry.value} of {entry.dist.name} {entry.dist.version}" if entry.dist else entry.value
    return BrokenKindError(f'source type "{kind}" ({origin}) {what}: {type(error).__name__}: {error}')
