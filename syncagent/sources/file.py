"""Addresses from flat files: plain lists, and the left side of Postfix tables.

A directory or a pattern means every file in it, and one that cannot be read fails the source: half a list is none.
"""

from __future__ import annotations

import hashlib
import os
import stat
import time
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import msgspec
from msgspec import Struct

from syncagent import mapfile
from syncagent.errors import FailureKind, SourceError
from syncagent.files import parse_end
from syncagent.normalise import UnusableError, canonical_domain
from syncagent.sources import Answer
from syncagent.values import Domain

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from syncagent.model import Entry
    from syncagent.sources import Request

YOUNG = 2.0
"""Seconds: a file changed more recently than this may change again without its identity showing it."""

_BATCH = 20_000
_UTF8_BOM = b"\xef\xbb\xbf"
_SPACE = b" \t\r\v\f"


class Config(Struct, frozen=True, kw_only=True):
    """Keys of ``type = "file"``."""

    path: Path
    """A file, a directory (every file in it, hidden ones and NAME~ apart), or a pattern such as lists/*.txt."""
    format: Literal["lines", "postmap"] = "lines"
    """"lines": an address per line. "postmap": the left side of a Postfix table."""
    domains: tuple[Domain, ...] = ()
    """What completes a bare local part: each of these."""
    require_end: bool = False
    """Whether the last line must be "# end COUNT SHA256" over the lines before it."""


def build(config: Config) -> FileSource:
    """Make the source."""
    return FileSource(config)


def problems(config: Config) -> Iterator[tuple[str, str]]:
    """Give what no single key can show; see ``syncagent.sources``."""
    if _is_pattern(str(config.path.parent)) and not config.path.parent.exists():
        yield "path", "only its last part may be a pattern: a directory that cannot be read must not be passed over"


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
            self._read_all(before, request)
            if self._stats() == before:
                return Answer(validator=self._validator(before))
            request.sink.restart()
        raise SourceError(
            f"{self._config.path} changed while it was read, twice: write it elsewhere and rename it into place"
        )

    def _stats(self) -> dict[str, tuple[int, ...]]:
        """Give the identity of every file, in order."""
        path = self._config.path
        if path.is_dir():
            found, nothing = _listed(path, "*"), f"the directory {path} has no file in it"
        elif _is_pattern(path.name) and not path.exists():
            found, nothing = _listed(path.parent, path.name), f"no file matches {path}"
        else:
            found, nothing = [str(path)], ""
        if not found:
            raise SourceError(nothing, kind=FailureKind.BROKEN)
        return {file: _identity(file) for file in found}

    def _validator(self, stats: dict[str, tuple[int, ...]]) -> str | None:
        """Give the identities as a text, or None while one is too young to be trusted."""
        now = time.time_ns()
        for *_, mtime, ctime in stats.values():
            if not now - max(mtime, ctime) >= YOUNG * 1e9:
                return None
        return msgspec.json.encode([self._config.format, *stats.items()]).decode()

    def _read_all(self, stats: dict[str, tuple[int, ...]], request: Request) -> None:
        several = len(stats) > 1 or not self._config.path.is_file()
        done = 0
        for name in stats:
            reader = _Reader(self._config, name, Path(name).name + ":" if several else "", request)
            for batch in reader.batches():
                request.sink.put(batch)
                done += len(batch)
                request.report("reading", done)


class _Reader:
    """One file."""

    def __init__(self, config: Config, name: str, prefix: str, request: Request) -> None:
        self._config, self._name, self._prefix, self._sink = config, name, prefix, request.sink

    def batches(self) -> Iterator[list[Entry]]:
        """Give the entries of the file, some thousands at a time."""
        entries = self._lines if self._config.format == "lines" else self._table
        batch: list[Entry] = []
        for number, spelled in entries(self._checked()):
            batch += self._completed(spelled, f"{self._prefix}{number}")
            if len(batch) >= _BATCH:
                yield batch
                batch = []
        yield batch

    def _checked(self) -> Iterator[bytes]:
        """Give the lines. Raises SourceError for a torn file, and for an end line that is missing or wrong."""
        digest, count, last = hashlib.sha256(), 0, b""
        try:
            with open(self._name, "rb") as file:  # noqa: PTH123 - a name as found
                for line in file:
                    if b"\0" in line:
                        raise SourceError(
                            f"{self._name}: line {count + 1} has a NUL in it: the file is torn",
                            kind=FailureKind.BROKEN,
                        )
                    if last:
                        digest.update(last)
                        yield last if count else last.removeprefix(_UTF8_BOM)
                        count += 1
                    last = line
        except OSError as error:
            raise SourceError(f"{self._name} cannot be read: {error.strerror}", kind=FailureKind.BROKEN) from error
        if self._config.require_end:
            self._check_end(last, count, digest.hexdigest())
        if last:
            yield last if count else last.removeprefix(_UTF8_BOM)

    def _check_end(self, last: bytes, count: int, digest: str) -> None:
        end = parse_end(last)
        if end is None:
            raise SourceError(
                f"{self._name}: its last line is not “# end COUNT SHA256”: it is not whole",
                kind=FailureKind.BROKEN,
            )
        if end != (count, digest):
            text = f"{self._name}: its end line promises {end[0]} lines, and there are {count}"
            raise SourceError(
                text if end[0] != count else f"{self._name}: its lines do not match the digest in its end line"
            )

    def _lines(self, lines: Iterable[bytes]) -> Iterator[tuple[int, str]]:
        for number, line in enumerate(lines, 1):
            bare = line.strip(b" \t\r\n\v\f")
            if not bare or bare.startswith(b"#"):
                continue
            try:
                yield number, bare.decode()
            except UnicodeDecodeError:
                self._not_utf8(bare, number)

    def _table(self, lines: Iterable[bytes]) -> Iterator[tuple[int, str]]:
        for number, line in mapfile.logical_lines(lines):
            parts = mapfile.split(line)
            key = parts[0] if parts else line
            try:
                spelled = key.decode()
            except UnicodeDecodeError:
                self._not_utf8(key, number)
                continue
            if parts is None:
                self._sink.reject(spelled, "has a quote that is not closed", f"{self._prefix}{number}")
            elif not parts[1]:
                self._sink.reject(spelled, "has no right side: Postfix ignores such a line", f"{self._prefix}{number}")
            elif self._is_domain(spelled):
                self._sink.ignore(1)
            else:
                yield number, spelled

    def _not_utf8(self, octets: bytes, number: int) -> None:
        self._sink.reject(octets.decode(errors="backslashreplace"), "is not UTF-8", f"{self._prefix}{number}")

    def _is_domain(self, key: str) -> bool:
        """Tell whether a table's key is a bare domain, as virtual(5) has it, rather than a bare local part."""
        if "@" in key or "." not in key:
            return False
        try:
            domain = canonical_domain(key)
        except UnusableError:
            return False
        own = self._config.domains
        return not own or any(domain == mine or domain.endswith(f".{mine}") for mine in own)

    def _completed(self, spelled: str, key: str) -> list[Entry]:
        if "@" in spelled or not self._config.domains:
            return [(spelled, key, "")]
        return [(f"{spelled}@{domain}", key, "") for domain in self._config.domains]


def _is_pattern(text: str) -> bool:
    return any(char in text for char in "*?[")


def _listed(directory: Path, pattern: str) -> list[str]:
    """Give the files of a directory that match; glob() would pass over in silence what it may not read."""
    try:
        names = [file.name for file in directory.iterdir() if not file.is_dir()]
    except OSError as error:
        raise SourceError(f"{directory} cannot be read: {error.strerror}", kind=FailureKind.BROKEN) from error
    shown = (name for name in names if not name.startswith(".") and not name.endswith("~"))
    return sorted(str(directory / name) for name in shown if fnmatchcase(name, pattern))


def _identity(file: str) -> tuple[int, ...]:
    try:
        found = os.stat(file)  # noqa: PTH116 - run often
    except OSError as error:
        raise SourceError(f"{file} cannot be read: {error.strerror}", kind=FailureKind.BROKEN) from error
    if not stat.S_ISREG(found.st_mode):
        raise SourceError(f"{file} is not a regular file", kind=FailureKind.BROKEN)
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns
