"""Counts of missing and added recipients by domain, hold, answer and container. Pure: no files, no clock."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from syncagent.model import Counts
from syncagent.sync.missing import LEAST_ENTRIES

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping

    from syncagent.model import Hold
    from syncagent.sync.missing import Missing

_MOST_PARENTS = 10_000


@dataclass
class Captured:
    """The members of a recorded hold that captures them: their number, their catch-alls, and their containers."""

    hold: Hold
    count: int = 0
    catch_alls: tuple[str, ...] = ()
    parents: set[bytes] = field(default_factory=set)


class DomainCounter:
    """Counter of missing and added recipients by domain, for the guard."""

    def __init__(self) -> None:
        """Start with all counts at 0."""
        self.added: Counter[str] = Counter()
        self.missing: Counter[str] = Counter()
        self.approved: Counter[str] = Counter()
        self.older: Counter[str] = Counter()
        self.catch_alls: dict[str, tuple[str, ...]] = {}
        self.unconfigured: set[str] = set()
        self.captured: dict[str, Captured] = {}
        self.answers: dict[str, set[tuple[str, str]]] = {}
        """Source and run of the answers that first lacked recipients that no hold captures, by domain."""
        self.of_parents: dict[bytes, set[tuple[str, tuple[str, str]]]] = {}
        """Domains and answers of the recipients that no hold captures, by the container of their entries."""
        self.parents_held: set[bytes] = set()
        """The containers whose recipients are held for it already, by an open or a frozen hold."""
        self._entries: dict[bytes, set[bytes]] = {}
        """Labels of missing entries by container, at most LEAST_ENTRIES of each."""

    def count(self, missing: Missing) -> None:
        """Count a missing recipient."""
        self.missing[missing.group] += 1
        self.approved[missing.group] += missing.approved
        if not missing.configured:
            self.unconfigured.add(missing.group)
        if missing.hold and missing.hold.kind == "container" and len(self.parents_held) < _MOST_PARENTS:
            self.parents_held |= {missing.kept.parent} - {b""}
        if missing.is_frozen and missing.hold:
            self._count_captured(missing, self.captured.setdefault(missing.hold.identity, Captured(missing.hold)))
        elif not missing.approved:
            self._count_free(missing)
        if not missing.approved and missing.kept.parent:
            self._count_entry(missing.kept.parent, missing.kept.label)

    def _count_entry(self, parent: bytes, label: bytes) -> None:
        if parent in self._entries or len(self._entries) < _MOST_PARENTS:
            labels = self._entries.setdefault(parent, set())
            if len(labels) < LEAST_ENTRIES:
                labels.add(label)

    def _count_captured(self, missing: Missing, captured: Captured) -> None:
        captured.count += 1
        if missing.address.startswith(b"@"):
            captured.catch_alls = (*captured.catch_alls, missing.address.decode())
        if len(captured.parents) < _MOST_PARENTS and missing.kept.parent:
            captured.parents.add(missing.kept.parent)

    def _count_free(self, missing: Missing) -> None:
        self.older[missing.group] += missing.kept.is_older
        if missing.address.startswith(b"@"):
            self.catch_alls[missing.group] = (*self.catch_alls.get(missing.group, ()), missing.address.decode())
        answers, parent = missing.kept.answers, missing.kept.parent
        if parent and (parent in self.of_parents or len(self.of_parents) < _MOST_PARENTS):
            self.of_parents.setdefault(parent, set()).update((missing.group, answer) for answer in answers)
        if answers:
            self.answers.setdefault(missing.group, set()).update(answers)

    @property
    def parents(self) -> set[bytes]:
        """The containers of the entries of missing recipients."""
        return self.of_parents.keys() | {parent for one in self.captured.values() for parent in one.parents}

    @property
    def large_parents(self) -> set[bytes]:
        """The containers that are held already, or of which at least LEAST_ENTRIES entries are missing."""
        return self.parents_held | {parent for parent, labels in self._entries.items() if len(labels) >= LEAST_ENTRIES}

    def counts(
        self,
        relay_domains: Iterable[str],
        wanted: Mapping[str, int],
        window: Mapping[str, tuple[int, int]],
        alive: Collection[str],
    ) -> list[Counts]:
        """Return the counts of every relay domain, and of every other domain with missing recipients.

        ``wanted`` has the numbers of wanted recipients, ``window`` those added and removed since the window's start,
        ``alive`` are the identities of the holds that still capture their members.
        """
        frozen, catch_alls = Counter[str](), dict(self.catch_alls)
        for key, one in self.captured.items():
            domain = one.hold.domain
            if key in alive:
                frozen[domain] += one.count
            elif one.catch_alls:
                catch_alls[domain] = (*catch_alls.get(domain, ()), *one.catch_alls)
        return [
            self._counts(
                domain,
                wanted.get(domain, 0),
                window.get(domain, (0, 0)),
                frozen[domain],
                catch_alls.get(domain, ()),
            )
            for domain in sorted({*map(str, relay_domains), *self.missing})
        ]

    def _counts(
        self, domain: str, wanted: int, window: tuple[int, int], frozen: int, catch_alls: tuple[str, ...]
    ) -> Counts:
        grown, removed = window
        before = wanted - self.added[domain] + self.missing[domain]
        return Counts(
            domain=domain,
            configured=domain not in self.unconfigured,
            wanted=wanted,
            added=self.added[domain],
            missing=self.missing[domain],
            approved=self.approved[domain],
            frozen=frozen,
            older=self.older[domain],
            catch_alls_missing=catch_alls,
            window_start=max(before - self.approved[domain] - frozen - grown + removed, 0),
            window_removed=removed,
        )
