"""The records of ``state.db``: the last finished run, and the rows of the history."""

from __future__ import annotations

from msgspec import Struct

from syncagent.model import Plan
from syncagent.postfix.table import Identities


class ListFile(Struct, frozen=True):
    """A sorted file in ``lists``: its name, and the digest it must have."""

    name: str
    count: int
    digest: str


class Inputs(Struct, frozen=True):
    """Everything that a run's result depends on, as digests: a run with equal inputs need not be done again."""

    config: str
    snapshots: dict[str, str]
    failing: tuple[str, ...]


class Finished(Struct, frozen=True):
    """The last finished run: its inputs, and what it published."""

    config: str
    snapshots: dict[str, str]
    failing: tuple[str, ...]
    identities: Identities
    kept: ListFile
    published: ListFile
    next_due: float | None
    plan: Plan
    rejected: dict[str, int] = {}
    """By source: how many rejected entries were there when nothing was missing; more than these hold removals."""
    domains: tuple[str, ...] = ()
    domain_identities: Identities | None = None

    @property
    def inputs(self) -> Inputs:
        """The inputs of that run."""
        return Inputs(self.config, self.snapshots, self.failing)


class DomainRow(Struct, frozen=True):
    """What a run changed in one domain, for the guard's window."""

    domain: str
    before: int
    added: int
    removed: int
    approved: int


class RunRow(Struct, frozen=True):
    """A run, for the history."""

    id: str
    started: float
    status: str
    exit_code: int
    added: int = 0
    removed: int = 0
    error: str = ""
    changes_file: str | None = None
