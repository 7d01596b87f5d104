"""The data of a run: entries of sources, counts, holds, notes, and the result.

All of it is frozen. Lists of recipients are never here: whatever grows with the list is a sorted file.
"""

from __future__ import annotations

from typing import Literal

from msgspec import Struct
from msgspec.structs import replace

from syncagent.errors import FailureKind

Entry = tuple[str, str, str]
"""An entry of a source: the address as spelled, the source's key for it (a line, an entryUUID, an API id), a label."""

SAMPLE = 20
"""How many addresses or rejects a result carries; the files carry them all."""


class Reject(Struct, frozen=True):
    """An entry that cannot be a recipient."""

    spelled: str
    reason: str
    source: str = ""
    key: str = ""


class Snapshot(Struct, frozen=True):
    """A source's answer: the name of its sorted file, counts and digest."""

    file: str
    entries: int
    rejected: int
    digest: str
    identity: tuple[int, ...]


class SourceState(Struct, frozen=True):
    """The state of a source between runs. Times are seconds since the epoch, 0 where there was none."""

    name: str
    snapshot: Snapshot | None = None
    validator: str | None = None
    config_digest: str = ""
    normaliser: str = ""
    last_success: float = 0.0
    last_attempt: float = 0.0
    error: str = ""
    error_kind: FailureKind | None = None
    refused_for: str = ""
    mode: str = ""
    failing_since: float = 0.0
    domains: tuple[str, ...] = ()
    refusal: str = ""
    """The error by which the source refused the credentials, alone; ``error`` says besides when it is asked again."""


class StepReport(Struct, frozen=True):
    """One list of an API: its pages, records, how many were used, the addresses they gave, and examples of these."""

    name: str
    pages: int
    records: int
    kept: int
    emitted: int
    sample: tuple[str, ...] = ()


class SourceReport(Struct, frozen=True):
    """What came of one source in this run."""

    name: str
    state: Literal["whole", "same", "failing"]
    entries: int = 0
    rejected: int = 0
    ignored: int = 0
    seconds: float = 0.0
    error: str = ""
    kind: str = ""
    notes: tuple[str, ...] = ()
    mode: str = ""
    steps: tuple[StepReport, ...] = ()
    refusal: str = ""
    """As in SourceState."""
    failing_since: float = 0.0
    """Seconds since the epoch, 0 where it is not failing."""
    data_from: float = 0.0
    """When the source gave the data that is in use, in seconds since the epoch; 0 where there is none."""


class Counts(Struct, frozen=True, kw_only=True):
    """The counts of a relay domain for the guard. ``missing``: published and in no source.

    Of the missing, ``approved`` were let go by a person; ``leaving``: the removal of the domain itself is held.
    ``window_start`` and ``window_removed`` are the domain's
    size at the start of the window and what was removed since, approvals apart.
    """

    domain: str
    configured: bool = True
    leaving: bool = False
    wanted: int = 0
    added: int = 0
    missing: int = 0
    approved: int = 0
    catch_alls_missing: tuple[str, ...] = ()
    window_start: int = 0
    window_removed: int = 0

    @property
    def before(self) -> int:
        """How many were published (or should have been) before this run."""
        return self.wanted - self.added + self.missing


ReasonKind = Literal[
    "source-failing", "percent", "whole-percent", "emptied", "catch-all", "canary", "empty-map", "rejects", "domain"
]


class Loss(Struct, frozen=True):
    """How much a domain, or the whole map, would lose, and the limits that this exceeds."""

    lost: int
    size: int
    """Recipients at the start of the window."""
    before: int
    """How many of ``lost`` went earlier in the window."""
    window: float
    share: float
    """In percent: limits.removed_percent."""
    floor: int
    """limits.removed_floor."""


class Reason(Struct, frozen=True):
    """Why removals are held: kind and data, and whether a person may overrule it.

    ``text`` is the sentence; it is made when the hold is recorded (``state.messages``), and empty before.
    """

    kind: ReasonKind
    text: str = ""
    approvable: bool = True
    subjects: tuple[str, ...] = ()
    """The domain, sources, canary or catch-alls that the reason is about."""
    loss: Loss | None = None
    configured: bool = True
    """False: the domain is no longer in relay_domains."""


NoteKind = Literal[
    "state-empty",
    "state-damaged",
    "kept-list-damaged",
    "published-list-damaged",
    "snapshot-lost",
    "snapshot-damaged",
    "more-rejects",
    "changes-differ",
    "map-changed",
    "map-changed-dry",
    "map-lines-unusable",
    "domain-empty",
]


class Note(Struct, frozen=True):
    """Something about a run that a person should know: kind and data. ``state.messages`` has the sentences."""

    kind: NoteKind
    subject: str
    """The source, file or domain."""
    count: int = 0
    before: int = 0
    detail: str = ""
    """The error, a copy's path, or examples."""


DOMAIN_HOLD = "relay_domains:"
"""Prefix of ``Hold.domain`` in a hold of the domain itself, as opposed to one of its recipients."""


class Hold(Struct, frozen=True):
    """Removals of one relay domain that are not published: how many, why, since when."""

    id: str
    domain: str
    count: int
    since: float
    reasons: tuple[Reason, ...]
    approved_at: float = 0.0

    @property
    def approvable(self) -> bool:
        """True if ``syncagent approve`` may let it go."""
        return all(reason.approvable for reason in self.reasons)

    @property
    def is_of_domain(self) -> bool:
        """True if it holds the removal of a relay domain itself, not of recipients."""
        return self.domain.startswith(DOMAIN_HOLD)

    def without_id(self) -> Hold:
        """Return the hold without its ID, since it is not recorded and cannot be approved."""
        return replace(self, id="")

    @property
    def waits(self) -> bool:
        """True if it waits only for a failing source, which resolves by itself."""
        return all(reason.kind == "source-failing" for reason in self.reasons)


class Lack(Struct, frozen=True):
    """What a first run lacks: a source's whole answer, a relay domain's recipients, or a canary."""

    kind: Literal["source", "domain", "canary"]
    subject: str
    detail: str = ""


class Refusal(Struct, frozen=True):
    """Why a hold cannot be approved.

    ``unknown``: no hold has the ID; ``holds`` are the current ones. ``domain-first``: the hold of the relay domain
    itself, ``first``, goes before. ``final``: ``reason`` cannot be overruled.
    """

    kind: Literal["unknown", "domain-first", "final"]
    hold_id: str
    holds: tuple[str, ...] = ()
    first: Hold | None = None
    reason: Reason | None = None


class DomainChange(Struct, frozen=True):
    """What a run did, or would do, to one relay domain. ``kept``: in no source, but still published."""

    domain: str
    before: int
    added: int
    removed: int
    kept: int
    after: int


class Plan(Struct, frozen=True, kw_only=True):
    """What a run changes: counts per relay domain, samples of the addresses, holds."""

    domains: tuple[DomainChange, ...] = ()
    counts: tuple[Counts, ...] = ()
    holds: tuple[Hold, ...] = ()
    held_catch_alls: tuple[str, ...] = ()
    absent_canaries: tuple[str, ...] = ()
    out_of_scope: dict[str, int] = {}
    added_sample: tuple[str, ...] = ()
    removed_sample: tuple[str, ...] = ()
    in_grace: int = 0
    domains_added: tuple[str, ...] = ()
    domains_removed: tuple[str, ...] = ()

    @property
    def added(self) -> int:
        """Number of recipients added."""
        return sum(change.added for change in self.domains)

    @property
    def removed(self) -> int:
        """Number of recipients removed."""
        return sum(change.removed for change in self.domains)

    @property
    def after(self) -> int:
        """Number of recipients in the map afterwards; an internationalised address counts once."""
        return sum(change.after for change in self.domains)


Status = Literal["unchanged", "published", "planned", "incomplete", "failed"]


class SyncResult(Struct, frozen=True, kw_only=True):
    """The result of a run.

    ``unchanged``: nothing to do. ``published``: the map was written. ``planned``: nothing was to be written.
    ``incomplete``: a first run that is not whole. ``failed``: publishing failed, the old map is in place.
    """

    run_id: str
    status: Status
    exit_code: int
    map: str
    recipients: int
    index: str = ""
    plan: Plan = Plan()
    sources: tuple[SourceReport, ...] = ()
    rejected: int = 0
    reject_sample: tuple[Reject, ...] = ()
    missing_for_first: tuple[str, ...] = ()
    missing_facts: tuple[Lack, ...] = ()
    """``missing_for_first`` as data, in the same order."""
    notes: tuple[str, ...] = ()
    note_facts: tuple[Note, ...] = ()
    """``notes`` as data, in the same order."""
    error: str = ""
    seconds: float = 0.0
