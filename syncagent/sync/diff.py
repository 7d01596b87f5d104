"""The recipient lists of a run, as files in its spool: wanted, added, missing, kept, removed, next published.

This module copies lines between the files. The decision on each missing recipient is made in ``removals``.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from dataclasses import dataclass, field
from typing import IO, TYPE_CHECKING

from syncagent.addresses import UnusableError, canonical
from syncagent.errors import PublishError
from syncagent.files import atomic, pipeline, sorted_lines
from syncagent.files.search import SortedLines
from syncagent.invisible import trimmed
from syncagent.state import snapshot
from syncagent.sync import counting
from syncagent.sync.counting import Lines, Selected
from syncagent.sync.domain_counter import DomainCounter
from syncagent.sync.missing import Kept, remembered
from syncagent.sync.scope import Scope

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence
    from pathlib import Path

    from syncagent.config.tables import Config, Limits, SourceConfig
    from syncagent.files.search import SnapshotIndex
    from syncagent.files.sorted_lines import SortedFile
    from syncagent.sync.fetch import Fetched
    from syncagent.sync.missing import Missing, RemovalPolicy
    from syncagent.sync.origins import Origins
    from syncagent.sync.relay_domains import Domains
    from syncagent.sync.removals import RemovalDecider

_MANY = 10_000


def select(config: Config, domains: Domains, answers: Sequence[Fetched], spool: Path) -> Diff:
    """Write the wanted recipients of all sources to ``wanted``, each once. Return a Diff, ready to ``compare``."""
    diff = Diff(config.limits, config.sources, Scope(config.postfix, domains.scope), spool)
    lines, listed = Lines(), sum(answer.state.snapshot.entries for answer in answers if answer.state.snapshot)
    with pipeline.first_fields([answer.snapshot for answer in answers if answer.snapshot]) as fields:
        batches = snapshot.addresses(lines.through(fields))
        if diff.scope.folds:
            batches = _unfolded(batches, diff.scope, lines, spool)
        pipeline.write_plain(diff.wanted, diff.scope.select(batches, config.limits.canaries))
    diff.selected = Selected(listed, lines.read, lines.repeated, diff.scope.taken, atomic.count_lines(diff.wanted))
    diff.relay_domains = domains.published(diff.scope.wanted)
    return diff


def _unfolded(batches: Iterable[list[bytes]], scope: Scope, lines: Lines, spool: Path) -> Iterator[list[bytes]]:
    """Yield the addresses in the spelling of their relay domain, sorted, each once, and count those repeated."""
    repeats = pipeline.Repeats()
    with pipeline.Sorter(spool, unique=False) as sorter:
        sorter.feed(scope.unfolded(address) + b"\n" for batch in batches for address in batch)
        for chunk in repeats.once(sorter.finish()):
            yield chunk.removesuffix(b"\n").split(b"\n")
    lines.repeated += repeats.repeated


@dataclass
class Diff:
    """The changes of a run, as files in ``spool``. Call ``compare``, then ``decide``."""

    limits: Limits
    sources: Mapping[str, SourceConfig]
    scope: Scope
    spool: Path
    relay_domains: tuple[str, ...] = ()
    """The relay domains to publish."""
    selected: Selected | None = None
    """The counts of the selection."""
    counter: DomainCounter = field(default_factory=DomainCounter)
    policy: RemovalPolicy = field(init=False)
    _looked_up: int = 0
    _left_out: int = 0
    _parts: tuple[int, int] = (0, 0)

    def __post_init__(self) -> None:
        """Set the paths of the files. No file is created."""
        names = ("wanted", "added", "missing", "kept", "kept-addresses", "removed", "next-published")
        (
            self.wanted,
            self.added,
            self.missing,
            self.kept_lines,
            self.kept_addresses,
            self.removed,
            self.next_published,
        ) = (self.spool / name for name in names)

    def compare(
        self, before: SortedFile | Path, kept: SortedFile | None, policy: RemovalPolicy, origins: Origins
    ) -> None:
        """Write ``added`` and ``missing``, the differences of ``wanted`` from ``before``, and count them by domain.

        ``kept`` is the list of recipients that the last run kept, None if there is none. ``missing`` gets the lines of
        the missing recipients as they are in ``kept``, new ones with what ``origins`` knows of them.
        """
        self.policy = policy
        if not sorted_lines.size_of(before):  # a first import: every recipient is added
            self.added, self.counter.added = self.wanted, self.scope.wanted.copy()
            self.missing.touch()
            return
        with (
            sorted_lines.differences(self.wanted, before) as chunks,
            self.added.open("wb") as new,
            self.missing.open("wb") as gone,
        ):
            for address, known in remembered(self._only_missing(chunks, new), _lines(kept) if kept else ()):
                missing = self._missing(address, known or self._first(address, origins))
                gone.write(missing.kept.line(address))
                self.counter.count(missing)

    def _first(self, address: bytes, origins: Origins) -> Kept:
        """Return the record of a recipient that was not missing before."""
        by_configuration = self.scope.is_excluded(address) or not self.scope.group(address)[1]
        return origins.of(address, by_configuration=by_configuration)

    def _missing(self, address: bytes, kept: Kept) -> Missing:
        group, configured = self.scope.group(address)
        return self.policy.missing(address, kept, group, configured=configured)

    def _only_missing(self, chunks: Iterable[bytes], new: IO[bytes]) -> Iterator[bytes]:
        """Write the added addresses to ``new``. Yield the missing ones."""
        for chunk in chunks:
            lines = chunk.removesuffix(b"\n").split(b"\n")
            missing = [line[1:] for line in lines if line.startswith(b"\t")] if b"\t" in chunk else []
            missing = missing if chunk.isascii() else [line for line in missing if not self._is_respelled(line)]
            added = [line for line in lines if not line.startswith(b"\t")] if b"\t" in chunk else lines
            if added:
                new.write(b"\n".join(added) + b"\n")
                for domain, count in Counter([address.rpartition(b"@")[2] for address in added]).items():
                    self.counter.added[self.scope.group(b"@" + domain)[0]] += count
            yield from missing

    def _is_respelled(self, address: bytes) -> bool:
        """True for a published address with invisible characters around it whose present form is wanted.

        An earlier version published those. No sender writes them: the present form takes its place in this run.
        """
        if address.isascii() or trimmed(address.decode()) == address.decode():
            return False
        with contextlib.suppress(UnusableError), contextlib.closing(SortedLines(self.wanted)) as wanted:
            present = canonical(address.decode()).encode()
            return present in wanted.starting_with(present)
        return False

    def decide(self, decider: RemovalDecider) -> None:
        """Write the kept lines with their reasons, the removed ones, and the next published list."""
        with (
            self.missing.open("rb") as lines,
            self.kept_lines.open("wb") as kept_lines,
            self.kept_addresses.open("wb") as addresses,
            self.removed.open("wb") as gone,
        ):
            for line in lines:
                address, *fields = line[:-1].split(b"\t")
                missing = self._missing(address, Kept.parse(fields))
                stays = decider.decide(missing)
                if stays is None:
                    gone.write(missing.kept.line(address))
                else:
                    kept_lines.write(stays.line(address))
                    addresses.write(address + b"\n")
        self._parts = atomic.count_lines(self.wanted), atomic.count_lines(self.kept_addresses)
        if self.kept_addresses.stat().st_size:
            self.next_published = self.spool / "next-published"  # an earlier decision may have made it ``wanted``
            with pipeline.merged([self.wanted, self.kept_addresses]) as both:
                pipeline.write_plain(self.next_published, both.chunks())
        else:
            self.next_published = self.wanted

    def removals(self) -> Iterator[Missing]:
        """Yield the recipients that are removed by the last decision."""
        with self.removed.open("rb") as lines:
            for line in lines:
                address, *fields = line[:-1].split(b"\t")
                yield self._missing(address, Kept.parse(fields))

    def all_new(self, addresses: frozenset[bytes]) -> bool:
        """True if all of the addresses are in ``added``, so that none was published before."""
        with self.added.open("rb") as lines:
            return not addresses - {line[:-1] for line in lines if line[:-1] in addresses}

    def check_next_published(self) -> None:
        """Raise PublishError unless the next published recipients are as many as the wanted and the kept ones."""
        difference = counting.of_published(*self._parts, self._left_out, atomic.count_lines(self.next_published))
        if difference:
            raise PublishError("count", difference)

    def leave_out(self, refused: frozenset[bytes]) -> None:
        """Remove addresses from ``added`` and from ``next_published``."""
        self._left_out += len(refused)
        for path in (self.added, self.next_published):
            less = path.with_suffix(".less")
            with path.open("rb") as lines:
                pipeline.write_plain(less, (line for line in lines if line[:-1] not in refused))
            less.replace(path)

    def changes(self, now: SnapshotIndex) -> Iterator[tuple[str, bool, str]]:
        """Yield every changed recipient as (address, True if added, comma-separated sources).

        The sources are those in ``now`` for an addition, and those that last listed the address for a removal.
        """
        self._looked_up = 0
        with self.added.open("rb") as lines:
            for line in lines:
                yield line[:-1].decode(), True, self._sources(now, line[:-1]).decode()
        with self.removed.open("rb") as lines:
            for line in lines:
                address, *fields = line[:-1].split(b"\t")
                yield address.decode(), False, Kept.parse(fields).said.decode()

    def _sources(self, finder: SnapshotIndex, address: bytes) -> bytes:
        """Return the comma-separated sources that list an address; empty after 10,000 look-ups, to limit the time."""
        self._looked_up += 1
        return ",".join(finder.sources(address)).encode() if self._looked_up <= _MANY else b""


def _lines(file: SortedFile) -> Iterator[bytes]:
    for chunk in pipeline.whole_lines(sorted_lines.chunks_of(file)):
        yield from chunk.splitlines(keepends=True)


def kept_addresses(kept: SortedFile | None) -> Iterator[bytes]:
    """Yield the addresses of ``kept`` as lines; none if it is None."""
    for line in _lines(kept) if kept else ():
        yield line.partition(b"\t")[0] + b"\n"


def head(path: Path, count: int) -> tuple[str, ...]:
    """Return the first fields of the first ``count`` lines of a file."""
    with path.open("rb") as lines:
        return tuple(line[:-1].partition(b"\t")[0].decode() for line, _ in zip(lines, range(count), strict=False))
