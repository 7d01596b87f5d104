"""The source kind "file": addresses from local files, in the formats of ``line_formats``.

A directory or a pattern stands for all its files, except those that ``leftovers`` leaves out. If any of these files
cannot be read, the source fails.
"""

from __future__ import annotations

import hashlib
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple

from msgspec import Struct
from msgspec.structs import replace

from syncagent.errors import FailureKind, SourceError
from syncagent.files import atomic
from syncagent.model import Dates
from syncagent.sources import Answer, Watched, leftovers
from syncagent.sources.endings import Endings
from syncagent.sources.integrity import Heading, earliest, whole_text
from syncagent.sources.line_formats import FORMATS, WITH_COMMENTS, FormatOptions, Input
from syncagent.values.types import Domain

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from syncagent.sources import Request

YOUNG = 2.0
"""Seconds after a change in which a second change may leave the identity as it is: time stamps are coarse."""
_AHEAD = 600.0
"""Maximum number of seconds by which a file's mtime may be in the future; beyond that its age is not known."""
_DELETED = (
    "{} is a deleted file: it is mounted by itself, and its file was replaced; mount the directory instead, which shows"
    " the new file"
)
"""A file with a link count of 0. A bind mount of a single file shows the old file after a rename onto it."""


class Config(Struct, frozen=True, kw_only=True):
    """Keys of ``type = "file"``."""

    path: Path
    """A file, a directory (all its files except hidden ones, indexes, and left-overs such as NAME.bak beside NAME), or
    a pattern such as lists/*.txt."""
    format: Literal["lines", "postmap", "aliases", "passwd", "csv"] = "lines"
    """The format: one address per line, keys of a Postfix table whose right side does not refuse mail, aliases(5),
    passwd(5), or a column of a CSV file."""
    domains: tuple[Domain, ...] = ()
    """The domains that are appended to a bare local part, each."""
    min_uid: int = 1000
    """passwd: the lowest uid of a mail user."""
    column: str = ""
    """csv: the name of the column that has the addresses."""
    delimiter: str = ","
    """csv: the character between two columns."""
    require_end: bool = False
    """Whether the last line must be "# end COUNT SHA256": number and digest of the lines before it."""
    watch: Literal["auto", "poll", "off"] = "auto"
    """How the agent notices a change: by inotify, by polling (for NFS), or only when it is due."""


def build(config: Config) -> FileSource:
    """Return the source. Does not access the file system."""
    return FileSource(config)


def problems(config: Config) -> Iterator[tuple[str, str]]:
    """Yield (key, text) for each fault that the type of a key cannot express."""
    if _is_pattern(str(config.path.parent)) and not config.path.parent.exists():
        yield "path", "only the last component may be a pattern: an unreadable directory would go unnoticed"
    if config.format in {"aliases", "passwd"} and not config.domains:
        text = f'required key is missing: format = "{config.format}" lists bare names; the domains to append to them'
        yield "domains", f'{text}, such as ["example.com"]'
    if config.format == "csv" and not config.column:
        yield "column", 'required key is missing: the name of the column that has the addresses, such as "mail"'
    if len(config.delimiter) != 1 or config.delimiter in '"\r\n':
        yield "delimiter", f'expected one character such as ";", got {config.delimiter!r}'


def watched(config: Config) -> tuple[Watched, ...]:
    """Return the paths to watch: the file or directory, and for a pattern its directory as well.

    Does not access the paths: a path may be missing, or on a file system that hangs.
    """
    paths = [config.path, config.path.parent] if _is_pattern(config.path.name) else [config.path]
    return () if config.watch == "off" else tuple(Watched(path, poll=config.watch == "poll") for path in paths)


class _Files(NamedTuple):
    """The files to read: the identity of each by its path, sorted by path, and notes about the directory."""

    identities: dict[str, tuple[int, ...]]
    notes: tuple[str, ...]


class FileSource:
    """A source that reads local files. If no identity has changed since the last fetch, it answers "same"."""

    is_local = True

    def __init__(self, config: Config) -> None:
        """Store the configuration. Does not access the file system."""
        self._config = config

    def fetch(self, request: Request) -> Answer:
        """Return the answer; see Source.fetch.

        If a file changes while the files are read, reads all of them once more. Raises SourceError if a file changes
        again.
        """
        stats, notes = self._files()
        if request.validator is not None and request.validator == self._validator(stats):
            return Answer(same=True, validator=request.validator, dates=_undated(stats.values()), notes=notes)
        for _ in range(2):
            before, endings = self._files(), Endings()
            stats = before.identities
            domains, dates = self._read_all(stats, request, endings)
            if self._files() == before:
                made, expires = earliest(dates.values())
                return Answer(
                    validator=self._validator(stats),
                    notes=before.notes,
                    domains=domains,
                    proof="producer" if all(text.made for text in dates.values()) else self._proof(stats),
                    unfinished=endings.unfinished,
                    finished=endings.finished,
                    made=made,
                    expires=expires,
                    dates=dates,
                )
            request.sink.restart()
        raise SourceError(
            f"{self._config.path} changed while it was read, twice: write another file and rename it into place"
        )

    def _files(self) -> _Files:
        """Return the files to read.

        Raises SourceError if there is no file, or if a file cannot be accessed or is not a regular file.
        """
        path = self._config.path
        try:
            if path.is_dir():
                (names, notes), none = _listed(path, "*"), f"directory {path} contains no file"
            elif _is_pattern(path.name) and not path.exists():
                (names, notes), none = _listed(path.parent, path.name), f"no file matches {path}"
            else:
                names, notes, none = [str(path)], (), ""
            identities = {name: _identity(name) for name in names}
        except OSError as error:
            raise SourceError(f"{error.filename} cannot be read: {error.strerror}", kind=FailureKind.BROKEN) from error
        if not names:
            text = f"{none.replace('no file', 'no list')}; {'; '.join(notes)}" if notes else none
            raise SourceError(text, kind=FailureKind.BROKEN)
        return _Files(identities, notes)

    def _validator(self, stats: dict[str, tuple[int, ...]]) -> str | None:
        """Return a digest of the identities; None if a file changed within the last YOUNG seconds, or in the future."""
        now = time.time_ns()
        for *_, mtime, ctime in stats.values():
            if not now - max(mtime, ctime) >= YOUNG * 1e9:
                return None
        return hashlib.sha256(os.fsencode(repr(sorted(stats.items())))).hexdigest()

    def _proof(self, stats: dict[str, tuple[int, ...]]) -> Literal["none", "transport", "producer"]:
        """Return the proof of an answer: the end lines if they are required, otherwise that each file was read whole.

        An end line that is not required proves nothing: a list that was cut would have none, and would be accepted.
        """
        if self._config.require_end:
            return "producer"
        latest = max(mtime for *_, mtime, _ in stats.values()) / 1e9
        return "transport" if latest <= time.time() + _AHEAD else "none"

    def _read_all(
        self, stats: dict[str, tuple[int, ...]], request: Request, endings: Endings
    ) -> tuple[tuple[str, ...] | None, dict[str, Dates]]:
        """Put the entries of every file into the sink, and the ends of the files into ``endings``.

        Return the domains in their headings, None without such headings, and the dates of ``Answer.dates``.
        """
        config, domains, dates = self._config, None, {}
        has_many = len(stats) > 1 or not config.path.is_file()
        options = FormatOptions(config.domains, config.min_uid, config.column, config.delimiter)
        done, dated = 0, set[str]()
        for name, identity in stats.items():
            shown = os.fsencode(name).decode(errors="backslashreplace")  # a name may be no UTF-8, which state must be
            source = Input(request.sink, options, name, f"{Path(shown).name}:" if has_many else "")
            text = whole_text(_chunks(name), name, require_end=config.require_end)
            heading = Heading(name, has_comments=config.format in WITH_COMMENTS)
            lines = endings.through(heading.through(text), Path(shown).name)
            for batch in FORMATS[config.format](lines, source):
                request.sink.put(batch)
                done += len(batch)
                request.report("reading", done)
            if heading.domains is not None:
                domains = (*(domains or ()), *heading.domains)
            if heading.dates != Dates():
                dates[shown] = replace(heading.dates, modified=_mtime(identity))
                dated.add(name)
        return domains, dates | _undated(stats[name] for name in stats.keys() - dated)


def _chunks(name: str) -> Iterator[bytes]:
    try:
        yield from atomic.chunks_in(Path(name))
    except OSError as error:
        raise SourceError(f"{name} cannot be read: {error.strerror}", kind=FailureKind.BROKEN) from error


def _undated(identities: Iterable[tuple[int, ...]]) -> dict[str, Dates]:
    """Return the dates of all files whose text has none: the oldest mtime of them, since the oldest file counts."""
    oldest = min(map(_mtime, identities), default=None)
    return {} if oldest is None else {"": Dates(modified=oldest)}


def _mtime(identity: tuple[int, ...]) -> float:
    """Return the mtime of an identity in seconds since the epoch; 1 for an earlier one, since 0 stands for none."""
    return max(identity[3] / 1e9, 1.0)


def _is_pattern(text: str) -> bool:
    return any(char in text for char in "*?[")


def _listed(directory: Path, pattern: str) -> tuple[list[str], tuple[str, ...]]:
    """Return the sorted paths of the lists whose name matches, without hidden files, and notes about the others.

    Raises OSError if the directory cannot be read; glob() would return nothing.
    """
    names = sorted(
        file.name for file in directory.iterdir() if leftovers.is_listed(file.name, pattern) and not file.is_dir()
    )
    read, notes = leftovers.sort_out(names, lambda name: _is_binary(directory / name))
    return [str(directory / name) for name in read], notes


def _is_binary(path: Path) -> bool:
    """True if a file has a NUL near its beginning, as an index has. Raises OSError if it cannot be read."""
    atomic.check_regular(str(path))
    return b"\0" in next(iter(atomic.chunks_in(path)), b"")


def _identity(file: str) -> tuple[int, ...]:
    """Return device, inode, size, mtime and ctime.

    Raises OSError if the file is missing or not a regular file, and SourceError if it is deleted.
    """
    atomic.check_regular(file)
    status = os.stat(file)  # noqa: PTH116 - faster than Path.stat; a directory may have many files
    if not status.st_nlink:
        status = os.stat(file)  # noqa: PTH116 - it may have been replaced between the look-up and the answer
    if not status.st_nlink:
        raise SourceError(_DELETED.format(file), kind=FailureKind.BROKEN)
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns
