"""Decisions on missing recipients: those that are published and in no source any more.

The code is pure: no files, no clock. Lines are octets. Addresses are in canonical form, in UTF-8.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

from msgspec.structs import replace

from syncagent.model import CLOCK_SET, Counts, DomainChange, Hold, Plan
from syncagent.state import messages
from syncagent.sync.guard import hold_id

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from syncagent.config.tables import Limits
    from syncagent.model import Reason

ONE_FOR_ALL = {"state-new", "counts"}
"""Kinds of reasons that have one hold for every removal: domains have none of their own for them."""
GRACE = b"grace"
HOLD = b"hold:"


@dataclass(frozen=True, slots=True)
class Missing:
    """A recipient that is published and in no source any more.

    ``since``: start of the grace in seconds since the epoch. ``why``: ``GRACE``, or ``HOLD`` and the ID. ``group``: the
    domain under which it is counted. ``approved``: its hold is approved. ``due``: its grace has ended.
    """

    address: bytes
    since: int
    why: bytes
    group: str
    approved: bool
    due: bool

    def kept_line(self, why: bytes, said: bytes) -> bytes:
        """Return the recipient's line for ``kept``: ``address TAB since TAB why TAB said``.

        ``said`` has the names of the sources that last listed the address, comma-separated.
        """
        return b"%b\t%d\t%b\t%b\n" % (self.address, self.since, why, said)


def remembered(missing: Iterable[bytes], kept: Iterable[bytes]) -> Iterator[tuple[bytes, bytes, bytes, bytes]]:
    """Yield (address, since, why, sources) for each missing address, the last three from its line in ``kept``.

    They are empty if it has no such line. Both inputs must be sorted by address. A line of ``kept`` whose address is
    not missing is skipped, since the address is in a source again.
    """
    old = ((line.rstrip(b"\n") + b"\t").split(b"\t") for line in kept)  # older versions wrote no fourth field
    known = next(old, None)
    for address in missing:
        while known and known[0] < address:
            known = next(old, None)
        if known and known[0] == address:
            yield address, known[1], known[2], known[3]
        else:
            yield address, b"", b"", b""


@dataclass(frozen=True, slots=True)
class GracePolicy:
    """The inputs of the grace rule: time of the run, oldest last success of a source, approved hold IDs, limits."""

    now: float
    oldest_answer: float
    approved: frozenset[str]
    limits: Limits

    def missing(self, address: bytes, since: bytes, why: bytes, group: str) -> Missing:
        """Return a missing address with its grace and approval. ``since`` and ``why`` are from ``kept``, or empty.

        The grace ends once it has lasted for limits.removal_grace and every source has answered after its start; a
        grace of 0 ends at once. If the clock was set back or not set, the grace starts again.
        """
        known = since and int(since) >= CLOCK_SET
        start = min(int(since), int(self.now)) if known else int(self.now)
        grace = self.limits.of(group)[2]
        due = not grace or (self.now - start >= grace and int(self.oldest_answer) > start)
        approved = why.startswith(HOLD) and why[len(HOLD) :].decode() in self.approved
        return Missing(address, start, why or GRACE, group, approved, due)


class DomainCounter:
    """Counter of missing and added recipients by domain, for the guard."""

    def __init__(self) -> None:
        """Start with all counts at 0."""
        self.added: Counter[str] = Counter()
        self.missing: Counter[str] = Counter()
        self.approved: Counter[str] = Counter()
        self.catch_alls: dict[str, tuple[str, ...]] = {}
        self.unconfigured: set[str] = set()

    def count(self, missing: Missing, *, configured: bool) -> None:
        """Count a missing address. ``configured``: its group is a relay domain."""
        self.missing[missing.group] += 1
        self.approved[missing.group] += missing.approved
        if not configured:
            self.unconfigured.add(missing.group)
        if missing.address.startswith(b"@") and not missing.approved:
            self.catch_alls[missing.group] = (
                *self.catch_alls.get(missing.group, ()),
                missing.address.decode(),
            )

    def counts(
        self, relay_domains: Iterable[str], wanted: Mapping[str, int], window: Mapping[str, tuple[int, int]]
    ) -> list[Counts]:
        """Return the counts of every relay domain, and of every other domain with missing recipients.

        ``wanted`` has the numbers of wanted recipients, ``window`` those added and removed since the window's start.
        """
        found = []
        for domain in sorted({*map(str, relay_domains), *self.missing}):
            grown, removed = window.get(domain, (0, 0))
            before = wanted.get(domain, 0) - self.added[domain] + self.missing[domain]
            counts = Counts(
                domain=domain,
                configured=domain not in self.unconfigured,
                wanted=wanted.get(domain, 0),
                added=self.added[domain],
                missing=self.missing[domain],
                approved=self.approved[domain],
                catch_alls_missing=self.catch_alls.get(domain, ()),
                window_start=max(before - self.approved[domain] - grown + removed, 0),
                window_removed=removed,
            )
            found.append(counts)
        return found


class RemovalDecider:
    """The decisions on missing addresses by the guard's reasons, and their counts by domain."""

    def __init__(self, held: Mapping[str, tuple[Reason, ...]], standing: Mapping[str, Hold], run_id: str) -> None:
        """``held`` are the guard's reasons by domain, ``standing`` the recorded holds by ID."""
        self.reasons, self._standing, self._run_id = held, standing, run_id
        self._final = {domain for domain, reasons in held.items() if not all(reason.approvable for reason in reasons)}
        self.removed: Counter[str] = Counter()
        self.removed_approved: Counter[str] = Counter()
        self.kept: Counter[str] = Counter()
        self.holds: Counter[tuple[str, str]] = Counter()
        self.in_grace = 0
        self.next_due: float | None = None

    def decide(self, missing: Missing, grace: float) -> bytes | None:
        """Return ``GRACE``, or ``HOLD`` and the ID, if the address stays published; None if it is removed.

        ``grace`` is in seconds. The decision is counted.
        """
        held = missing.group in self.reasons
        if (missing.approved and missing.group not in self._final) or (not held and missing.due):
            self.removed[missing.group] += 1
            self.removed_approved[missing.group] += missing.approved
            return None
        self.kept[missing.group] += 1
        if held:
            known = self._standing.get(missing.why.removeprefix(HOLD).decode())
            same = known is not None and known.domain == missing.group  # the domain may have been split since
            hold = known.id if known and same else hold_id(missing.group, self._run_id)
            self.holds[missing.group, hold] += 1
            return HOLD + hold.encode()
        self.in_grace += 1
        end = missing.since + grace
        self.next_due = end if self.next_due is None else min(end, self.next_due)
        return GRACE


def before_removals(counts: Sequence[Counts]) -> tuple[DomainChange, ...]:
    """Return the change of each domain if every missing recipient is kept."""
    return tuple(
        DomainChange(count.domain, count.before, count.added, 0, count.missing, count.wanted + count.missing)
        for count in counts
    )


def domain_changes(counts: Sequence[Counts], decider: RemovalDecider) -> tuple[DomainChange, ...]:
    """Return the change of each domain: its counts, with the decisions of ``decider``."""
    return tuple(
        DomainChange(
            domain=count.domain,
            before=count.before,
            added=count.added,
            removed=decider.removed[count.domain],
            kept=decider.kept[count.domain],
            after=count.wanted + decider.kept[count.domain],
        )
        for count in counts
    )


def holds(decider: RemovalDecider, standing: Mapping[str, Hold], now: float) -> tuple[Hold, ...]:
    """Return the holds that result from the decisions. A recorded hold keeps its ID, start and approval."""
    found = []
    for (domain, key), count in sorted(decider.holds.items()):
        if all(reason.kind in ONE_FOR_ALL for reason in decider.reasons[domain]):
            continue
        known = standing.get(key)
        since, approved = (known.since, known.approved_at) if known else (now, 0.0)
        reasons = tuple(map(messages.with_text, decider.reasons[domain]))
        found.append(Hold(key, domain, count, since, reasons, approved))
    return tuple(found)


def settled(plan: Plan) -> Plan:
    """Return the plan as it stands after publishing: nothing added or removed, without domains that are empty."""
    after = tuple(replace(change, before=change.after, added=0, removed=0) for change in plan.domains if change.after)
    return replace(plan, domains=after, added_sample=(), removed_sample=(), domains_added=(), domains_removed=())


def without(plan: Plan, refused: Mapping[str, int]) -> Plan:
    """Return the plan with fewer additions. ``refused`` is the number to subtract, by domain."""
    changes = tuple(
        replace(change, added=change.added - less, after=change.after - less)
        for change in plan.domains
        for less in (refused.get(change.domain, 0),)
    )
    return replace(plan, domains=changes)
