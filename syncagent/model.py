"""The data of a run: entries of sources, counts, holds, notes, and the result.

All structs are frozen. None has a list of recipients: data that grows with the list is in sorted files.
"""

from __future__ import annotations

from typing import Literal

from msgspec import Struct
from msgspec.structs import replace

from syncagent.errors import FailureKind

Entry = tuple[str, str, str]
"""An entry of a source: address as spelled, the source's key (a line number, an entryUUID, an ID of an API), label."""

CLOCK_SET = 1_577_836_800
"""2020-01-01 in seconds since the epoch. An earlier time comes from a clock that was not set yet."""

CONFIRM_AFTER = 86_400.0
"""Default of ``confirm_after`` of a source, in seconds."""
CLOCK_STEP = "step"
"""The subject of a reason ``clock`` for a step back that is too small to be told."""

END_OF_TIME = 253_402_128_000.0
"""9999-12-30 in seconds since the epoch: later times cannot be shown in every zone."""

ALL_DOMAINS = "*"
"""In place of a mail domain or a relay domain: every one."""

SAMPLE = 20
"""Maximum number of addresses or rejects in each sample of a result."""


class Reject(Struct, frozen=True):
    """An entry that cannot be a recipient, and the reason.

    ``digest`` identifies source and entry, "" if unknown. ``place`` is where it is, for people. ``held``: it is neither
    approved nor ignored. ``cut``: ``spelled`` may be only the beginning of the entry.
    """

    spelled: str
    reason: str
    source: str = ""
    key: str = ""
    digest: str = ""
    place: str = ""
    held: bool = False
    cut: bool = False


class Refused(Struct, frozen=True):
    """A key that a source itself refuses: its address, and the right side of its line, such as ``REJECT``."""

    address: str
    value: str
    source: str = ""
    key: str = ""


class Snapshot(Struct, frozen=True):
    """A source's complete answer on disk: file name, counts, SHA-256 of the lines, and ``FileIdentity`` of the file.

    ``refused`` counts the keys that the source itself refuses: they are neither entries nor rejects.
    """

    file: str
    entries: int
    rejected: int
    digest: str
    identity: tuple[int, ...]
    refused: int = 0


class Dates(Struct, frozen=True, omit_defaults=True):
    """The dates of a text that a source has read, in seconds since the epoch; 0 if there is none.

    ``made`` and ``expires`` are what the text itself says. ``modified`` is what file or server say: mtime,
    Last-Modified. ``seen``: when a run first read this text with these dates.
    """

    made: float = 0.0
    expires: float = 0.0
    modified: float = 0.0
    seen: float = 0.0


class SourceState(Struct, frozen=True):
    """The recorded state of a source. Times are in seconds since the epoch, 0 if there is none."""

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
    """The source's error when it refused the credentials. ``error`` may add when the source is asked again."""
    unlisted: tuple[str, ...] = ()
    """Mail domains in which the source has recipients that it cannot list; "*" for all."""
    made: float = 0.0
    """When the producer made the data in use, by its own statement; 0 if it makes none."""
    expires: float = 0.0
    """When the producer's data expires, by its own statement; 0 if it makes none."""
    proof: Literal["none", "transport", "producer"] = "transport"
    """The proof of the last complete answer; see ``sources.Answer``."""
    looked: float = 0.0
    """When the source last gave a full, unconditional answer with a proof: a confirming look."""
    look_tried: float = 0.0
    """When the source was last asked for a confirming look that failed or proved nothing; 0 after one that did."""
    finished: tuple[str, ...] = ()
    """Names of the texts of the last complete answer that ended in a line feed."""
    containers: bool = False
    """Whether the labels of its entries are DNs."""
    notes: tuple[str, ...] = ()
    """Notes of its last answer."""
    dates: dict[str, Dates] = {}
    """The dates of the texts of the data in use, as in ``sources.Answer``; see ``state.content_age``."""
    changed: float = 0.0
    """When an answer last differed from the one before; 0 if it is not known, as before the first fetch."""
    reading: str = ""
    """The rules by which the last full answer was read; see ``sync.fetch.reading``. Older versions recorded none."""


class StepReport(Struct, frozen=True):
    """Counts of one list of an API: pages, records, records used, addresses emitted; and a sample of the addresses."""

    name: str
    pages: int
    records: int
    kept: int
    emitted: int
    sample: tuple[str, ...] = ()


class SourceReport(Struct, frozen=True):
    """The result of one source in one run.

    ``whole``: a new complete answer. ``same``: the last answer is still valid. ``failing``: the fetch failed.
    """

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
    """The error of the refusal, as in ``SourceState.refusal``."""
    failing_since: float = 0.0
    """Start of the failure in seconds since the epoch, 0 if the source is not failing."""
    data_from: float = 0.0
    """Time of the last successful fetch, whose data is in use, in seconds since the epoch; 0 if there is none."""
    leaves_out: tuple[str, ...] = ()
    """Recipients that the source can have and does not list, as in ``sources.Answer``; none if nothing was fetched."""
    made: float = 0.0
    """When the data in use was made, or its file was last modified, in seconds since the epoch; 0 if not known."""
    outdated_at: float = 0.0
    """When the data in use is outdated by its own dates, in seconds since the epoch; 0 if it has none that count."""
    outdated: bool = False
    """Whether that time has come. It is independent of ``state``: the source answers, but with old data."""
    rejected_held: int = 0
    """Number of the rejected entries that are held: no person approved them, and the key ``ignore`` matches none."""
    rejected_ignored: int = 0
    """Number of the rejected entries that the key ``ignore`` matches."""
    refused: int = 0
    """Number of keys that the source itself refuses, such as by REJECT in a table: they are no recipients."""


class Counts(Struct, frozen=True, kw_only=True):
    """The counts of one domain, as input of the guard.

    ``missing`` recipients are published and in no source. For ``approved`` of them a person approved the removal.
    ``frozen`` of them belong to a hold that is frozen; ``older`` of the others were missing before an upgrade, and are
    not judged by newer rules. ``window_start`` is the number of recipients at the start of the
    window, ``window_removed`` the number removed since; approved removals and frozen recipients count in neither.
    """

    domain: str
    configured: bool = True
    wanted: int = 0
    added: int = 0
    missing: int = 0
    approved: int = 0
    frozen: int = 0
    older: int = 0
    catch_alls_missing: tuple[str, ...] = ()
    window_start: int = 0
    window_removed: int = 0

    @property
    def stake(self) -> int:
        """Number of recipients that would go now if nothing held them."""
        return self.missing - self.approved - self.frozen

    @property
    def before(self) -> int:
        """Number of recipients in the published list before this run."""
        return self.wanted - self.added + self.missing


ReasonKind = Literal[
    "source-failing",
    "percent",
    "whole-percent",
    "emptied",
    "catch-all",
    "canary",
    "empty-map",
    "rejects",  # of 0.1.0
    "domain",
    "doubt",
    "half",
    "max",
    "container",
    "same-answer",
    "excepted",
    "rejected",
    "source-outdated",
    "state-new",
    "clock",
    "counts",
]


WAITS: frozenset[ReasonKind] = frozenset({"source-failing", "source-outdated", "doubt"})
"""Kinds of reasons that end without a person who approves the hold: another exit status than 65 tells of them."""


OF_OLDER_VERSIONS: frozenset[ReasonKind] = frozenset({"rejects"})
"""Kinds that only holds of older versions have."""


class Loss(Struct, frozen=True):
    """The loss of a domain or of the whole map that exceeds a limit. ``window`` is in seconds."""

    lost: int
    size: int
    """Number of recipients at the start of the window."""
    before: int
    """Number of recipients in ``lost`` that were removed earlier in the window."""
    window: float
    share: float
    """limits.removed_percent, in percent; 0 for another limit."""
    floor: int
    """limits.removed_floor, or limits.removed_max: a number of recipients."""


class Reason(Struct, frozen=True):
    """A reason to hold removals: kind and data. ``approvable``: a person may overrule it.

    ``text`` is its sentence. It is empty until ``state.messages.with_text`` adds it, when the hold is created.
    """

    kind: ReasonKind
    text: str = ""
    approvable: bool = True
    subjects: tuple[str, ...] = ()
    """The domain, sources, canary or catch-alls concerned."""
    rejects: tuple[Reject, ...] = ()
    """The first of the rejected entries."""
    loss: Loss | None = None
    configured: bool = True
    """False if the domain is no longer in relay_domains."""

    @property
    def waits(self) -> bool:
        """True if it ends by itself, and what causes it has an alarm of its own or needs none.

        These are failing and outdated sources, a doubt table that cannot be published, and a small step of the clock.
        """
        return self.kind in WAITS or (self.kind == "clock" and self.subjects == (CLOCK_STEP,))


NoteKind = Literal[
    "state-empty",
    "state-damaged",
    "kept-list-damaged",
    "published-list-damaged",
    "snapshot-lost",
    "snapshot-damaged",
    "changes-differ",
    "map-changed",
    "map-changed-dry",
    "map-lines-unusable",
    "domain-empty",
    "list-differs",
    "not-confirmed",
    "made-ahead",
    "state-lost",
    "state-restored",
    "clock-unset",
    "clock-behind",
    "keys-refuse",
    "now-readable",
]


class Note(Struct, frozen=True):
    """An observation of a run to report: kind and data. ``state.messages.note`` returns its sentence."""

    kind: NoteKind
    subject: str
    """The source, file or domain concerned."""
    count: int = 0
    before: int = 0
    detail: str = ""
    """The error, the path of a copy, or examples."""


DOMAIN_HOLD = "relay_domains:"
"""Prefix of ``Hold.domain`` if the hold is of the relay domain itself, not of its recipients."""

REJECTED_HOLD = "rejected:"
"""Prefix of ``Hold.domain`` if the hold is of the rejected entries of a source, whose name follows."""


LOSSES: tuple[ReasonKind, ...] = (
    "excepted",
    "emptied",
    "catch-all",
    "max",
    "half",
    "percent",
    "whole-percent",
    "container",
    "same-answer",
)
"""Kinds of reasons that capture the recipients they hold, the most severe first."""


class Shown(Struct, frozen=True):
    """An ID that a hold had before: the hold's version then, and until when the hold had it."""

    id: str
    version: int
    until: float


class Hold(Struct, frozen=True):
    """Held removals of a domain's recipients, the held removal of the relay domain itself, or held rejected entries.

    Times are in seconds since the epoch. ``approved_at`` is 0 without an approval. A hold of a kind in ``LOSSES`` is
    open for a time, in which further recipients join it, and then frozen. ``id`` is a digest of kind, domain and
    recipients; a frozen hold keeps it. A hold of an older version has neither ``key`` nor ``kind``, and is frozen.
    """

    id: str
    domain: str
    count: int
    since: float
    reasons: tuple[Reason, ...]
    approved_at: float = 0.0
    key: str = ""
    """Identity between runs, as in the list of kept recipients; the ID if empty."""
    kind: str = ""
    """Kind of the most severe reason."""
    version: int = 0
    """Number of runs that added recipients. Each recipient has the version at which it joined."""
    approved_version: int = 0
    """The recipients that joined at this version or before are approved, if ``approved_at`` is set."""
    frozen_at: float = 0.0
    """When it was frozen; 0 if it is open, or of a kind that is never frozen."""
    shown: tuple[Shown, ...] = ()
    """The IDs that it had while it was open."""
    main: str = ""
    """Key of the hold with which it is approved and ends (``same-answer``)."""

    @property
    def identity(self) -> str:
        """Identity between runs."""
        return self.key or self.id

    @property
    def is_frozen(self) -> bool:
        """True if no recipient can join it any more."""
        return bool(self.frozen_at) or (not self.kind and any(reason.kind in LOSSES for reason in self.reasons))

    @property
    def collecting(self) -> bool:
        """True if recipients can still join it, so that its ID may change."""
        return self.kind in LOSSES and not self.frozen_at

    def version_of(self, hold_id: str) -> int | None:
        """Return the version that the hold had under this ID, None if it never had it."""
        if hold_id == self.id:
            return self.version
        return next((shown.version for shown in reversed(self.shown) if shown.id == hold_id), None)

    @property
    def approvable(self) -> bool:
        """True if a person may overrule every reason."""
        return all(reason.approvable for reason in self.reasons) and not self.main

    @property
    def is_of_recipients(self) -> bool:
        """True if recipients are held, not a relay domain, or what is said of a source or of the state."""
        return not self.is_of_all and (":" not in self.domain or self.domain.startswith("["))

    @property
    def is_of_all(self) -> bool:
        """True if the hold is of every removal. ``count`` is 0: holds of domains count theirs."""
        return self.domain == ALL_DOMAINS

    @property
    def is_of_domain(self) -> bool:
        """True if the hold is of the relay domain itself, not of its recipients."""
        return self.domain.startswith(DOMAIN_HOLD)

    @property
    def rejecting(self) -> str:
        """The source if the hold is of its rejected entries, else an empty string."""
        return self.domain.removeprefix(REJECTED_HOLD) if self.domain.startswith(REJECTED_HOLD) else ""

    def without_id(self) -> Hold:
        """Return the hold with an empty ID. An unrecorded hold cannot be approved."""
        return replace(self, id="")

    @property
    def waits(self) -> bool:
        """True if every reason ends without a person: see ``Reason.waits``."""
        return all(reason.waits for reason in self.reasons)


DoubtKind = Literal[
    "source-failing",
    "source-stale",
    "source-outdated",
    "hold",
    "canary",
    "unlisted",
    "empty",
    "new",
    "catch-all-removed",
    "removed",
    "state-lost",
    "leaving",
    "map",
    "failed",
    "dead",
    "boot",
    "always",
    "by-hand",
]


class Doubt(Struct, frozen=True):
    """A reason to answer 450 instead of 550 to unknown recipients of a domain. Times are in seconds since the epoch.

    ``subject`` is the source, the kind of the hold's reason, the canary or the person. ``seen``: when the reason was
    last true. ``until``: when it ends by time, 0 if it does not. ``lingers_until``: when the line of a reason that is
    not true any more can be dropped, 0 while it is true.
    """

    domain: str
    kind: DoubtKind
    subject: str = ""
    since: float = 0.0
    seen: float = 0.0
    until: float = 0.0
    lingers_until: float = 0.0

    @property
    def key(self) -> tuple[str, str, str]:
        """Identity of the reason between runs."""
        return self.domain, self.kind, self.subject


class Lack(Struct, frozen=True):
    """An obstacle to a first run.

    A failing source, a relay domain without recipients, a canary in no source, or ``count`` rejected entries of a
    source, of which ``reject`` is the first.
    """

    kind: Literal["source", "domain", "canary", "rejected"]
    subject: str
    detail: str = ""
    count: int = 0
    reject: Reject | None = None


class Refusal(Struct, frozen=True):
    """The reason why a hold cannot be approved.

    ``unknown``: no hold has the ID; ``holds`` are the current IDs. ``domain-first``: ``first``, the hold of the relay
    domain itself, must be approved before or with it. ``with``: it is approved with ``first``. ``final``: ``reason``
    cannot be overruled. ``names-recipient``: ``reject``, an entry of the hold, has ``address``, which is published;
    ``pattern`` of the source's key ``ignore`` leaves the entry out, "" if no pattern may. ``not-held``: ``address``,
    which is to be excepted, is not held under the IDs; ``first`` is the hold under which it is, if any. ``leaving``:
    the relay domain of ``address``, which is to be excepted, would leave.
    """

    kind: Literal["unknown", "domain-first", "with", "final", "names-recipient", "not-held", "leaving"]
    hold_id: str
    holds: tuple[str, ...] = ()
    first: Hold | None = None
    reason: Reason | None = None
    reject: Reject | None = None
    address: str = ""
    pattern: str = ""


class DomainChange(Struct, frozen=True):
    """The change of one domain by a run, in recipients. ``kept``: in no source, but still published."""

    domain: str
    before: int
    added: int
    removed: int
    kept: int
    after: int


class Waits(Struct, frozen=True):
    """Missing recipients that stay for a time, and why. Times are in seconds since the epoch.

    ``grace``: limits.removal_grace is not over. ``list``: confirm_after of ``sources`` is not over, since their lists
    have no end line. ``look``: ``sources`` have not confirmed it. ``unknown``: a point query failed. ``present``: a
    point query found them. ``until`` is when the first is decided, ``last`` when the last is. ``since``: when the first
    was missing. ``stuck_at``: when it has waited three times as long as it should.
    """

    why: Literal["grace", "list", "look", "unknown", "present"]
    sources: tuple[str, ...]
    count: int
    since: float
    until: float
    last: float
    stuck_at: float


class Plan(Struct, frozen=True, kw_only=True):
    """The changes of a run: counts by domain, samples of the addresses, holds."""

    domains: tuple[DomainChange, ...] = ()
    counts: tuple[Counts, ...] = ()
    holds: tuple[Hold, ...] = ()
    held_catch_alls: tuple[str, ...] = ()
    absent_canaries: tuple[str, ...] = ()
    out_of_scope: dict[str, int] = {}
    added_sample: tuple[str, ...] = ()
    removed_sample: tuple[str, ...] = ()
    in_grace: int = 0
    waits: tuple[Waits, ...] = ()
    """The recipients in ``in_grace`` by the reason for which they wait."""
    domains_added: tuple[str, ...] = ()
    domains_removed: tuple[str, ...] = ()
    unlisted: dict[str, tuple[str, ...]] = {}
    """The sources of each held catch-all, by its domain."""

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
        """Number of recipients in the map after the run. An address with two keys (U-label, A-label) counts once."""
        return sum(change.after for change in self.domains)


Status = Literal["unchanged", "published", "planned", "incomplete", "failed"]


class SyncResult(Struct, frozen=True, kw_only=True):
    """The result of a run.

    ``unchanged``: no table had to be written. ``published``: a table was written. ``planned``: a dry run.
    ``incomplete``: a first run that lacks something, or a plan without any recipient. ``failed``: a PublishError.
    ``seconds`` is the duration.
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
    doubts: tuple[Doubt, ...] = ()
    doubt_due: float | None = None
    """When the next doubt can end without a source being asked, in seconds since the epoch; None: none can."""
    doubt_error: str = ""
    """Why the doubt table could not be published; removals are held, and additions are published."""
