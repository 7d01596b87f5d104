"""The decisions of runs on missing recipients, without a file, a source or a clock: only the pure parts."""

import hashlib
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from msgspec.structs import replace

from syncagent.config.tables import Limits
from syncagent.model import Hold
from syncagent.sync import approvals, losses
from syncagent.sync.conditions import Condition
from syncagent.sync.domain_counter import DomainCounter
from syncagent.sync.guard import set_id
from syncagent.sync.holds import HoldBook
from syncagent.sync.losses import Tripped
from syncagent.sync.missing import HOLD, Kept, RemovalPolicy
from syncagent.sync.removals import RemovalDecider
from syncagent.sync.waiting import Waiting

START = 1_900_000_000.0


def domain_of(address: str) -> str:
    """Return the mail domain of an address."""
    return address.rpartition("@")[2]


def id_of(hold: Hold, members: Iterable[str]) -> str:
    """Return the ID that a hold of this kind and domain has with these members."""
    lines = b"".join(member.encode() + b"\n" for member in sorted(members))
    return set_id(hold.kind, hold.domain, hashlib.sha256(lines).digest())


@dataclass
class PureRuns:
    """The runs of a backup with one source: what is published, kept and held after the last run.

    ``containers`` has the DN of the entry of an address. ``removed`` has the removals of the last run.
    """

    published: set[str]
    limits: Limits
    waiting: Waiting = field(default_factory=lambda: Waiting({}))
    containers: dict[str, str] = field(default_factory=dict)
    now: float = START
    holds: dict[str, Hold] = field(default_factory=dict)
    kept: dict[str, Kept] = field(default_factory=dict)
    removed: set[str] = field(default_factory=set)
    number: int = 0
    _changes: list[tuple[float, str, int, int]] = field(default_factory=list)
    _last: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        """Take what is published as the last answer."""
        self._last = set(self.published)

    def wait(self, seconds: float) -> None:
        """Let time pass."""
        self.now += seconds

    def approve(self, *ids: str) -> None:
        """Approve holds; raises UnknownHoldError. Nothing goes before the next run."""
        approvals.check(ids, self.holds, self.now)
        self.holds.update({hold.id: hold for hold in approvals.approved(ids, self.holds, self.now)})

    def members(self, hold: Hold) -> set[str]:
        """Return the recipients that a hold has."""
        why = HOLD + hold.identity.encode()
        return {address for address, kept in self.kept.items() if kept.why == why}

    def run(self, says: Iterable[str], *, standing: Sequence[Condition] = ()) -> set[str]:
        """Do a run by this answer. Return the removed recipients."""
        self.number += 1
        wanted = set(says)
        run_id, added = f"r{self.number:06}", wanted - self.published
        policy = RemovalPolicy(
            self.now, self.now, {hold.identity: hold for hold in self.holds.values()}, self.limits, self.waiting
        )
        counter = DomainCounter()
        counter.added.update(map(domain_of, added))
        found = [
            policy.missing(address.encode(), self.kept.get(address) or self._first(address, run_id), domain_of(address))
            for address in sorted(self.published - wanted)
        ]
        for one in found:
            counter.count(one)
        domains = sorted(set(map(domain_of, wanted | self.published)))
        wanted_of = Counter(map(domain_of, wanted))
        judged = losses.evaluate(
            counter,
            lambda alive: counter.counts(domains, wanted_of, self._window(), alive),
            self.limits,
            policy.holds,
            self._emptied(wanted, counter.parents_held),
        )
        book = HoldBook(policy.holds.values(), run_id, self.now, float(self.limits.collect))
        decider = RemovalDecider(
            judged=judged,
            tripped=Tripped.by(counter, judged, self.limits, book, run_id),
            conditions=standing,
            book=book,
            waiting=self.waiting,
            now=self.now,
            withheld={},
        )
        decided = {one.address.decode(): decider.decide(one) for one in found}
        self.kept = {address: stays for address, stays in decided.items() if stays}
        self.removed = decided.keys() - self.kept.keys()
        for name in domains:
            lost = decider.removed[name] - decider.removed_approved[name]
            self._changes.append((self.now, name, counter.added[name], lost))
        self.published = wanted | self.kept.keys()
        self.holds = {hold.id: hold for hold in book.holds()}
        return self.removed

    def hold_of(self, address: str) -> Hold | None:
        """Return the hold that has a recipient."""
        why = self.kept[address].why if address in self.kept else b""
        return next((hold for hold in self.holds.values() if why == HOLD + hold.identity.encode()), None)

    def forget_approvals(self) -> None:
        """Take every approval back, as a person cannot: for comparisons."""
        self.holds = {name: replace(hold, approved_at=0.0, approved_version=0) for name, hold in self.holds.items()}

    def _first(self, address: str, run_id: str) -> Kept:
        label = f"cn=x,{self.containers[address]}" if address in self.containers else ""
        return Kept(said=b"corp", answer=f"corp={run_id}".encode(), label=label.encode())

    def _window(self) -> dict[str, tuple[int, int]]:
        found: dict[str, tuple[int, int]] = {}
        for at, name, grown, lost in self._changes:
            if at > self.now - self.limits.removed_window:
                before = found.get(name, (0, 0))
                found[name] = before[0] + grown, before[1] + lost
        return found

    def _emptied(self, wanted: set[str], held: set[bytes]) -> frozenset[bytes]:
        """As ``origins.emptied``: with three entries in the last answer, or held for it already."""
        left, before = (
            Counter(self.containers[address] for address in answer if address in self.containers)
            for answer in (wanted, self._last)
        )
        self._last = wanted
        names = {name.encode() for name, count in before.items() if count >= 3} | held
        return frozenset(name for name in names if not left[name.decode()])
