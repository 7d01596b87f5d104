"""The origins of missing recipients: which sources listed them last, and which containers have lost their entries."""

from __future__ import annotations

import contextlib
import functools
from typing import TYPE_CHECKING

from syncagent.errors import DamagedError
from syncagent.files import atomic, sorted_lines
from syncagent.files.search import SnapshotIndex
from syncagent.sync.missing import LEAST_ENTRIES, Kept, parent_of

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence
    from pathlib import Path
    from typing import Self

    from syncagent.state.records import Finished
    from syncagent.sync.fetch import Fetched

_MANY = 10_000


class Origins:
    """The origins of recipients that are missing for the first time, as a context manager.

    A look-up in the snapshots of the last finished run takes time: after 10,000 the sources are not looked up any more,
    and a recipient counts as one of every source that has a new answer.
    """

    def __init__(
        self, last: Mapping[str, Path], answers: Sequence[Fetched], before: Finished | None, run_id: str
    ) -> None:
        """``last`` are the snapshots of the last finished run, ``before`` its record, by which an answer is new."""
        self._last, self._run_id, self._looked_up, self._open = last, run_id, 0, contextlib.ExitStack()
        self._changed = frozenset(answer.report.name for answer in answers if _is_new(answer, before))
        self._containers = frozenset(answer.report.name for answer in answers if answer.state.containers)

    def __enter__(self) -> Self:
        """Return the origins."""
        return self

    def __exit__(self, *error: object) -> None:
        """Close the snapshots."""
        self._open.close()

    @functools.cached_property
    def _index(self) -> SnapshotIndex:
        return self._open.enter_context(SnapshotIndex(_whole(self._last)))

    def of(self, address: bytes, *, by_configuration: bool) -> Kept:
        """Return the record of a recipient that is missing for the first time.

        ``by_configuration``: it is missing since the configuration does not want it any more, not by an answer.
        """
        self._looked_up += 1
        entries = list(self._index.entries(address)) if self._looked_up <= _MANY else []
        said = tuple(dict.fromkeys(name for name, _, _ in entries))
        lacking = (name for name in sorted(self._changed) if not said or name in said)
        answer = "" if by_configuration else ",".join(f"{name}={self._run_id}" for name in lacking)
        label = next((label for name, _, label in entries if name in self._containers), b"")
        return Kept(said=",".join(said).encode(), answer=answer.encode(), label=label)


def _whole(snapshots: Mapping[str, Path]) -> dict[str, Path]:
    """Return the snapshots without those that are missing or damaged, such as by hand.

    Raises LedgerError if one cannot be read.
    """
    found = {}
    for name, path in snapshots.items():
        with contextlib.suppress(DamagedError):
            found[name] = sorted_lines.verify(path).path
    return found


def _is_new(answer: Fetched, before: Finished | None) -> bool:
    """True if a source's answer is not that of the last finished run."""
    digest = answer.state.snapshot.digest if answer.state.snapshot else ""
    return before is not None and before.snapshots.get(answer.report.name, digest) != digest


def emptied(
    last: Mapping[str, Path], answers: Sequence[Fetched], parents: Collection[bytes], large: Collection[bytes]
) -> frozenset[bytes]:
    """Return the containers among ``parents`` that have no entry any more, and had at least three.

    ``last`` are the snapshots of the last finished run. Those in ``large`` need not have had any entry then; none need
    where such a snapshot is missing or damaged, since it is unknown what they had.
    """
    sources = [answer for answer in answers if answer.state.containers and answer.snapshot]
    if not parents or not sources:
        return frozenset()
    now = [answer.snapshot for answer in sources if answer.snapshot]
    gone = frozenset(parents) - _with_entries(now, parents, 1)
    if not gone:
        return gone
    before = {answer.report.name: last[answer.report.name] for answer in sources if answer.report.name in last}
    whole = _whole(before)
    if whole.keys() != before.keys():
        return gone
    return gone & (frozenset(large) | _with_entries([*whole.values()], gone, LEAST_ENTRIES))


def _with_entries(snapshots: Sequence[Path], parents: Collection[bytes], least: int) -> frozenset[bytes]:
    """Return the containers with at least so many entries; an entry may have several addresses."""
    keys: dict[bytes, set[bytes]] = {parent: set() for parent in parents}
    for path in snapshots:
        with atomic.open_foreign(path) as lines:
            for line in lines:
                address, _, rest = line.rstrip(b"\n").partition(b"\t")
                key, _, label = rest.partition(b"\t")
                known = keys.get(parent_of(label)) if address and label else None
                if known is not None and len(known) < least:
                    known.add(key)
    return frozenset(parent for parent, entries in keys.items() if len(entries) >= least)
