"""Addresses from flat files: plain lists, and the left side of Postfix tables.

A directory or a pattern means every file in it, and one that cannot be read fails the source: half a list is none.
"""

from __future__ import annotations

import hashlib
import os
import time
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from msgspec import Struct

from syncagent.errors import FailureKind, SourceError
from syncagent.files import sorted_lines as files
from syncagent.sources import Answer, Watched
from syncagent.sources.integrity import Heading, whole_text
from syncagent.sources.line_formats import FORMATS, Options, Reading
from syncagent.values.types import Domain

if TYPE_CHECKING:
    from collections.abc import Iterator

    from syncagent.sources import Request

YOUNG = 2.0
"""Seconds: a file changed more recently than this may change again without its identity showing it."""


class Config(Struct, frozen=True, kw_only=True):
    """Keys of ``type = "file"``."""

    path: Path
    """A file, a directory (every file in it, hidden ones and NAME~ apart), or a pattern such as lists/*.txt."""
    format: Literal["lines", "postmap", "aliases", "passwd", "csv"] = "lines"
    """How its lines are read: an address each, a Postfix table, aliases(5), passwd(5), or one column of a CSV file."""
    domains: tuple[Domain, ...] = ()
    """What completes a bare local part: each of these."""
    min_uid: int = 1000
    """passwd: the least uid that counts."""
    column: str = ""
    """csv: the name of the column that has the addresses."""
    delimiter: str = ","
    """csv: what stands between two columns."""
    require_end: bool = False
    """Whether the last line must be "# end COUNT SHA256" over the lines before it."""
    watch: Literal["auto", "poll", "off"] = "auto"
    """How the agent notices a change: told by the kernel, by looking (NFS), or only when it is due."""


def build(config: Config) -> FileSource:
    """Make the source."""
    return FileSource(config)


def problems(config: Config) -> Iterator[tuple[str, str]]:
    """Give what no single key can show; see ``syncagent.sources``."""
    if _is_pattern(str(config.path.parent)) and not config.path.parent.exists():
        yield "path", "only its last part may be a pattern: a directory that cannot be read must not be passed over"
    if config.format in {"aliases", "passwd"} and not config.domains:
        yield "domains", f'is missing: format = "{config.format}" has names, and they need the domains they are at'
    if config.format == "csv" and not config.column:
        yield "column", 'is missing: format = "csv" needs the name of the column with the addresses'
    if len(config.delimiter) != 1 or config.delimiter in '"\r\n':
        yield "delimiter", f"expected one character, not {config.delimiter!r}"


def watched(config: Config) -> tuple[Watched, ...]:
    """Give what the agent watches: the file or directory, and the directory of what looks like a pattern.

    Nothing is looked at for it: what is not there, may not be looked at or hangs is for the watch to find out.
    """
    paths = [config.path, config.path.parent] if _is_pattern(config.path.name) else [config.path]
    return () if config.watch == "off" else tuple(Watched(path, poll=config.watch == "poll") for path in paths)


class FileSource:
    """Reads every file whole, and again only when one changed."""

    def __init__(self, config: Config) -> None:
        """Read nothing yet."""
        self._config = config

    def fetch(self, request: Request) -> Answer:
        """See Source.fetch. A file that changes while it is read is read once more, then fails."""
        if request.validator is not None and request.validator == self._validator(self._stats()):
            return Answer(same=True, validator=request.validator)
        for _ in range(2):
            before = self._stats()
            domains = self._read_all(before, request)
            if self._stats() == before:
                return Answer(validator=self._validator(before), domains=domains)
            request.sink.restart()
        raise SourceError(
            f"{self._config.path} changed while it was read, twice: write it elsewhere and rename it into place"
        )

    def _stats(self) -> dict[str, tuple[int, ...]]:
        """Give the identity of every file, in order."""
        path = self._config.path
        try:
            if path.is_dir():
                found, nothing = _listed(path, "*"), f"the directory {path} has no file in it"
            elif _is_pattern(path.name) and not path.exists():
                found, nothing = _listed(path.parent, path.name), f"no file matches {path}"
            else:
                found, nothing = [str(path)], ""
            identities = {file: _identity(file) for file in found}
        except OSError as error:
            raise SourceError(f"{error.filename} cannot be read: {error.strerror}", kind=FailureKind.BROKEN) from error
        if not found:
            raise SourceError(nothing, kind=FailureKind.BROKEN)
        return identities

    def _validator(self, stats: dict[str, tuple[int, ...]]) -> str | None:
        """Give the identities as a text, or None while one is too young to be trusted."""
        now = time.time_ns()
        for *_, mtime, ctime in stats.values():
            if not now - max(mtime, ctime) >= YOUNG * 1e9:
                return None
        return hashlib.sha256(os.fsencode(repr(sorted(stats.items())))).hexdigest()

    def _read_all(self, stats: dict[str, tuple[int, ...]], request: Request) -> tuple[str, ...] | None:
        """Read every file; give the domains that their first lines name, None where none does."""
        config, domains = self._config, None
        several = len(stats) > 1 or not config.path.is_file()
        options = Options(config.domains, config.min_uid, config.column, config.delimiter)
        done = 0
        for name in stats:
            reading = Reading(request.sink, options, name, f"{Path(name).name}:" if several else "")
            text, heading = whole_text(_chunks(name), name, require_end=config.require_end), Heading()
            for batch in FORMATS[config.format](heading.through(text), reading):
                request.sink.put(batch)
                done += len(batch)
                request.report("reading", done)
            if heading.domains is not None:
                domains = (*(domains or ()), *heading.domains)
        return domains


def _chunks(name: str) -> Iterator[bytes]:
    try:
        yield from files.chunks_in(Path(name))
    except OSError as error:
        raise SourceError(f"{name} cannot be read: {error.strerror}", kind=FailureKind.BROKEN) from error


def _is_pattern(text: str) -> bool:
    return any(char in text for char in "*?[")


def _listed(directory: Path, pattern: str) -> list[str]:
    """Give the files of a directory that match; glob() would pass over in silence what it may not read."""
    names = [file.name for file in directory.iterdir() if not file.is_dir()]
    shown = (name for name in names if not name.startswith(".") and not name.endswith("~"))
    return sorted(str(directory / name) for name in shown if fnmatchcase(name, pattern))


def _identity(file: str) -> tuple[int, ...]:
    files.check_regular(file)
    found = os.stat(file)  # noqa: PTH116 - run often
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns
