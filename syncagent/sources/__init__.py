"""What a source is, and how its kind is found.

Words used here:

- A *source* says which recipients exist: a file, a directory, a primary's API.
- An *entry* is one address as the source spells it, with the source's own key for it and a label for people.
- A fetch is *whole* or it raises. What it put before it raised is thrown away.
- A *validator* is what a source wants handed back next time, so that it can answer "same" cheaply: an ETag, the
  identity of a file, a cookie. It is stored together with the whole answer that it belongs to, never without.
- A *kind* is a module found by the entry-point group ``syncagent.sources``, under the name that ``type`` has in the
  configuration. It has ``Config``, a frozen keyword-only msgspec Struct of its own keys, ``build(config) -> Source``,
  may have ``problems(config)`` giving ``(key, text)`` for what no single key can show, and ``watched(config)`` giving
  each ``Watched``.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import math
import os
import stat
import typing
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Protocol

from msgspec import Struct

from syncagent.errors import FailureKind, SourceError
from syncagent.files import sorted_lines as files
from syncagent.model import StepReport
from syncagent.values.types import Duration

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from syncagent.model import Entry

GROUP = "syncagent.sources"
MOST_OF_A_SECRET = 64 << 10
"""The most octets that a secret has: a key, or a certificate with its chain, perhaps."""


class Common(Struct, frozen=True, kw_only=True):
    """Keys that every source has."""

    type: str
    """Which kind of source this is."""
    allow_empty: bool = False
    """Whether an answer without a single entry is believed; otherwise it is a failure."""
    catch_all: Literal["accept", "ignore"] = "accept"
    """What to do with a catch-all (@domain): take it, if postfix.catch_all permits, or leave it out."""
    deadline: Duration | None = None
    """How long a fetch may take; 120s unless set."""
    every: Duration | None = None
    """How often the agent asks it; as schedule.every or schedule.cron say unless set."""


class Watched(NamedTuple):
    """A local file or directory whose change is a reason to ask; ``poll`` where the kernel does not tell (NFS)."""

    path: Path
    poll: bool = False


class Sink(Protocol):
    """Where a fetch puts what it finds."""

    def put(self, entries: Iterable[Entry]) -> None:
        """Take entries as ``(address as spelled, key, label)``; what is malformed is recorded as a reject."""

    def reject(self, spelled: str, reason: str, key: str) -> None:
        """Record an entry that the adapter itself cannot make an address of."""

    def ignore(self, count: int) -> None:
        """Count entries that are there but are none of ours: a source with nothing else is empty, and told apart."""

    def restart(self) -> None:
        """Forget everything put so far."""

    def amend(self, *, last: bool) -> None:
        """Change single keys from now on: of the last whole answer (``last``), or else of what was put so far.

        ``last`` needs a validator: it is the answer that the validator belongs to. What is put from now on is added.
        """

    def forget(self, keys: Iterable[str]) -> None:
        """Void what is being amended, as far as it stands under these keys."""

    def retain(self, keys: Iterable[str]) -> None:
        """Void what is being amended, as far as it stands under any other key."""


@dataclass(frozen=True, slots=True)
class Request:
    """What a fetch is given: the validator of the last whole answer (None asks for everything), and its tools.

    ``ends`` is when it is given up on, by time.monotonic().
    """

    validator: str | None
    sink: Sink
    report: Callable[[str, int], None]
    ends: float = math.inf


class Answer(Struct, frozen=True):
    """A whole answer, or "same as the one that the validator belongs to".

    ``mode`` names the way it was come by, where a source has several. ``explained``, if not None, says that the last
    answer was known to be exact: what stands under keys other than these must be the same in this one. ``steps`` tell
    how each of several lists did, for people. ``domains`` are the mail domains that the source serves, where it says
    so; None says nothing of them.
    """

    same: bool = False
    validator: str | None = None
    notes: tuple[str, ...] = ()
    mode: str = ""
    explained: frozenset[str] | None = None
    steps: tuple[StepReport, ...] = ()
    domains: tuple[str, ...] | None = None


class Source(Protocol):
    """Something that says which recipients exist.

    It may have ``give_up()``, called from another thread once a fetch has been given up on, to end its waiting.
    """

    def fetch(self, request: Request) -> Answer:
        """Put every entry into ``request.sink`` and answer, or amend the last answer, or answer "same" having put none.

        The agent asks one and the same object in every run; a fetch that was given up on may still be in it.

        Raises SourceError, and puts no blame on what is merely missing: half an answer is none.
        """


class BrokenKindError(Exception):
    """A source kind is installed but cannot be loaded."""


@lru_cache(maxsize=1)
def kinds() -> dict[str, importlib.metadata.EntryPoint]:
    """Give the installed kinds by name, none of them loaded."""
    return {entry.name: entry for entry in importlib.metadata.entry_points(group=GROUP)}


def load(kind: str) -> Any:  # noqa: ANN401 - a module, by duck type
    """Load an installed kind.

    Raises BrokenKindError with the whole reason, since another package's fault looks like ours otherwise.
    """
    with _blamed(kind, "cannot be loaded"):
        module = kinds()[kind].load()
        config = getattr(module, "Config", None)
        if not (isinstance(config, type) and issubclass(config, Struct)) or not callable(
            getattr(module, "build", None)
        ):
            raise TypeError("it needs Config, a msgspec Struct, and build()")
        typing.get_type_hints(config)
    return module


def problems(kind: str, module: Any, config: Struct) -> list[tuple[str, str]]:  # noqa: ANN401 - see load()
    """Give what the kind itself finds wrong with a configuration: key and text. Raises BrokenKindError."""
    with _blamed(kind, "cannot judge its configuration"):
        return list(module.problems(config)) if hasattr(module, "problems") else []


def watched(kind: str, module: Any, config: Struct) -> tuple[Watched, ...]:  # noqa: ANN401 - see load()
    """Give what the agent has to watch for a source. Raises BrokenKindError."""
    with _blamed(kind, "cannot say what to watch"):
        return tuple(module.watched(config)) if hasattr(module, "watched") else ()


@contextlib.contextmanager
def _blamed(kind: str, what: str) -> Iterator[None]:
    """Turn whatever a kind's package raises to an error that names the package."""
    try:
        yield
    except (Exception, SystemExit) as error:
        entry = kinds()[kind]
        origin = f"{entry.value} of {entry.dist.name} {entry.dist.version}" if entry.dist else entry.value
        text = f"the source type {kind!r} ({origin}) {what}: {type(error).__name__}: {error}"
        raise BrokenKindError(text) from error


def secret_path(name: str) -> Path:
    """Give the file of a secret: a bare name is a systemd credential, or lies in /etc/syncagent/credentials."""
    if "/" in name:
        return Path(name)
    given = os.environ.get("CREDENTIALS_DIRECTORY")
    return Path(given) / name if given and (Path(given) / name).exists() else Path("/etc/syncagent/credentials") / name


def read_secret(name: str) -> str:
    """Read a secret, less one newline at its end.

    Raises SourceError where it cannot be read, is empty, or lies open to group or world. Only systemd's own
    credentials directory is believed whatever its modes are.
    """
    path = secret_path(name)
    try:
        files.check_small(path, MOST_OF_A_SECRET)
        with files.open_foreign(path) as file:
            mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
            secret = file.read(MOST_OF_A_SECRET)
    except OSError as error:
        raise SourceError(f"the secret {path} cannot be read: {error.strerror}", kind=FailureKind.BROKEN) from None
    if mode & 0o077 and str(path.parent) != os.environ.get("CREDENTIALS_DIRECTORY"):
        text = f"the secret {path} can be read by others (mode {mode:04o}): chmod 600 {path}"
        raise SourceError(text, kind=FailureKind.BROKEN)
    try:
        text = secret.decode().removesuffix("\n").removesuffix("\r")
    except UnicodeDecodeError:
        raise SourceError(f"the secret {path} is not UTF-8", kind=FailureKind.BROKEN) from None
    if not text:
        raise SourceError(f"the secret {path} is empty", kind=FailureKind.BROKEN)
    return text
