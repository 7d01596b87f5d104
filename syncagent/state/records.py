"""Records of ``state.db``: the last finished run, and the rows of the history."""

from __future__ import annotations

from msgspec import Struct

from syncagent.model import Doubt, Plan
from syncagent.postfix.table import Identities


class ListFile(Struct, frozen=True):
    """A sorted file in ``lists``: name, number of lines, and SHA-256 of the lines."""

    name: str
    count: int
    digest: str


class Inputs(Struct, frozen=True):
    """The inputs of a run: digests of configuration and snapshots, names of the failing and of the outdated sources."""

    config: str
    snapshots: dict[str, str]
    failing: tuple[str, ...]
    outdated: tuple[str, ...] = ()


class Finished(Struct, frozen=True):
    """The last finished run: its inputs, and the tables and lists that it published.

    ``next_due``: the time of the next decision on kept removals, in seconds since the epoch; None: never.
    """

    config: str
    snapshots: dict[str, str]
    failing: tuple[str, ...]
    identities: Identities
    kept: ListFile
    published: ListFile
    next_due: float | None
    plan: Plan
    rejected: dict[str, int] = {}
    """Accepted number of rejects by source. Older versions wrote it; it approves no entry."""
    rejecting: dict[str, str] = {}
    """The run in which the present rejected entries of a source, not approved, first stood, "" for older versions."""
    domains: tuple[str, ...] = ()
    domain_identities: Identities | None = None
    snapshot_files: dict[str, str] = {}
    """File names of the snapshots by source."""
    looks: dict[str, float] = {}
    """When the next confirming look of a source is due, in seconds since the epoch."""
    outdated: tuple[str, ...] = ()
    changed: dict[str, float] = {}
    """When the data of each source last changed (``SourceState.changed``); older versions did not record it."""

    @property
    def inputs(self) -> Inputs:
        """The inputs of the run."""
        return Inputs(self.config, self.snapshots, self.failing, self.outdated)


class DomainRow(Struct, frozen=True):
    """The recipients that a run added and removed in one domain, for the guard's window."""

    domain: str
    before: int
    added: int
    removed: int
    approved: int


class RunRow(Struct, frozen=True):
    """A run in the history. ``started`` is in seconds since the epoch."""

    id: str
    started: float
    status: str
    exit_code: int
    added: int = 0
    removed: int = 0
    error: str = ""
    changes_file: str | None = None


class DoubtRecord(Struct, frozen=True):
    """The doubt table as last published, and the reasons for the domains in it. Times are in seconds since the epoch.

    ``lines`` and ``everything`` are the SHA-256 of the keys of the table and of ``doubt-all``. ``covered``: when the
    table of recipients was last renamed, ``covering`` the start of that run. ``narrowed``: when a line was last
    dropped. ``due``: when the next line falls due, None if none does by itself. ``error``: why the table could not be
    published; "" if it is in force.
    """

    doubts: tuple[Doubt, ...] = ()
    lines: str = ""
    identities: Identities | None = None
    everything: str = ""
    everything_identities: Identities | None = None
    covered: float = 0.0
    covering: float = 0.0
    narrowed: float = 0.0
    due: float | None = None
    error: str = ""


class Printed(Struct, frozen=True):
    """A condition that `sync --quiet` has printed: its value and text then, and when, in seconds since the epoch."""

    value: str
    text: str
    at: float


class Event(Struct, frozen=True):
    """An event of the history that is no run: when, its kind, its subject, such as a domain, and data."""

    at: float
    kind: str
    subject: str
    detail: str = ""
