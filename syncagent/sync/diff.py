"""The plan's lines, in files of the run's spool: what is wanted, new, missing, kept, gone.

Nothing here decides; it carries lines between the files and the rules of ``plan``.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import IO, TYPE_CHECKING

from syncagent.files import sorted_lines as files
from syncagent.state import snapshot
from syncagent.sync.removals import Decisions, Ripeness, Tally, remembered
from syncagent.sync.scope import Scope

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from pathlib import Path

    from syncagent.config.tables import Config
    from syncagent.files.search import Finder

_MANY = 10_000


@dataclass
class Comparison:
    """One run's comparison. Call the methods in their order; each leaves its files in ``spool``."""

    config: Config
    spool: Path
    ripeness: Ripeness
    kept: files.SortedFile | None
    tally: Tally = field(default_factory=Tally)
    _looked_up: int = 0

    def __post_init__(self) -> None:
        """Name the files."""
        names = ("wanted", "added", "missing", "kept", "kept-addresses", "removed", "following")
        (
            self.wanted,
            self.added,
            self.missing,
            self.kept_lines,
            self.kept_addresses,
            self.removed,
            self.following,
        ) = (self.spool / name for name in names)
        self.scope = Scope(self.config.postfix)

    def select(self, snapshots: Sequence[Path]) -> None:
        """Write what the sources want here, each recipient once."""
        with files.first_fields(snapshots) as fields:
            chosen = self.scope.select(snapshot.addresses(fields), self.config.limits.canaries)
            files.write_plain(self.wanted, chosen)

    def differ(self, before: files.SortedFile | Path) -> None:
        """Write what is new and what is missing, counted by relay domain."""
        if not files.size_of(before):  # a first import: everything is new
            self.added, self.tally.added = self.wanted, self.scope.wanted.copy()
            self.missing.touch()
            return
        with (
            files.differences(self.wanted, before) as chunks,
            self.added.open("wb") as new,
            self.missing.open("wb") as gone,
        ):
            missing = self._only_missing(chunks, new, gone)
            for address, since, why, _ in remembered(missing, self._kept()):
                group, configured = self.scope.group(address)
                self.tally.count(self.ripeness.missing(address, since, why, group), configured=configured)

    def _only_missing(self, chunks: Iterable[bytes], new: IO[bytes], gone: IO[bytes]) -> Iterator[bytes]:
        """Write both kinds of differences where they belong, and give the missing ones."""
        for chunk in chunks:
            lines = chunk.removesuffix(b"\n").split(b"\n")
            missing = [line[1:] for line in lines if line.startswith(b"\t")] if b"\t" in chunk else []
            added = [line for line in lines if not line.startswith(b"\t")] if missing else lines
            if added:
                new.write(b"\n".join(added) + b"\n")
                for domain, count in Counter([address.rpartition(b"@")[2] for address in added]).items():
                    self.tally.added[self.scope.group(b"@" + domain)[0]] += count
            for address in missing:
                gone.write(address + b"\n")
                yield address

    def decide(self, decisions: Decisions, last: Finder) -> None:
        """Write what is kept and why, what goes, and what is to be published. ``last`` finds who had it last."""
        with (
            self.missing.open("rb") as asked,
            self.kept_lines.open("wb") as lines,
            self.kept_addresses.open("wb") as addresses,
            self.removed.open("wb") as gone,
        ):
            for address, since, why, said in remembered((line[:-1] for line in asked), self._kept()):
                group = self.scope.group(address)[0]
                one = self.ripeness.missing(address, since, why, group)
                stays = decisions.why_kept(one, self.config.limits.of(group)[2])
                had = said or self._sources(last, address)
                if stays is None:
                    gone.write(address + b"\t" + had + b"\n")
                else:
                    lines.write(one.kept_line(stays, had))
                    addresses.write(address + b"\n")
        if self.kept_addresses.stat().st_size:
            with files.merged([self.wanted, self.kept_addresses]) as both:
                files.write_plain(self.following, both.chunks())
        else:
            self.following = self.wanted

    def all_new(self, addresses: frozenset[bytes]) -> bool:
        """Tell whether each of the addresses is one that was not published before."""
        with self.added.open("rb") as lines:
            return not addresses - {line[:-1] for line in lines if line[:-1] in addresses}

    def leave_out(self, refused: frozenset[bytes]) -> None:
        """Take addresses out of what is new and of what is to be published."""
        for path in (self.added, self.following):
            less = path.with_suffix(".less")
            with path.open("rb") as lines:
                files.write_plain(less, (line for line in lines if line[:-1] not in refused))
            less.replace(path)

    def changes(self, now: Finder) -> Iterator[tuple[str, bool, str]]:
        """Give every changed recipient, whether it is new, and the sources that have it or had it last."""
        self._looked_up = 0
        with self.added.open("rb") as lines:
            for line in lines:
                yield line[:-1].decode(), True, self._sources(now, line[:-1]).decode()
        with self.removed.open("rb") as lines:
            for line in lines:
                address, _, said = line[:-1].partition(b"\t")
                yield address.decode(), False, said.decode()

    def _sources(self, finder: Finder, address: bytes) -> bytes:
        """Give the sources that have an address; nothing once so many were looked up that it would take long."""
        self._looked_up += 1
        return ",".join(finder.sources(address)).encode() if self._looked_up <= _MANY else b""

    def _kept(self) -> Iterator[bytes]:
        return _lines(self.kept) if self.kept else iter(())


def _lines(file: files.SortedFile) -> Iterator[bytes]:
    for chunk in files.whole_lines(files.chunks_of(file)):
        yield from chunk.splitlines(keepends=True)


def kept_addresses(kept: files.SortedFile | None) -> Iterator[bytes]:
    """Give the addresses of ``kept`` as lines."""
    for line in _lines(kept) if kept else ():
        yield line.partition(b"\t")[0] + b"\n"


def head(path: Path, count: int) -> tuple[str, ...]:
    """Give the first lines of a file."""
    with path.open("rb") as lines:
        return tuple(line[:-1].partition(b"\t")[0].decode() for line, _ in zip(lines, range(count), strict=False))
