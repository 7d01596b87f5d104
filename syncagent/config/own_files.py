"""The files that syncagent writes, and the paths of sources that lead to them.

A source that reads them gets back what was published: no removal lasts, and what is wrong once is confirmed for ever.
Symbolic links and hard links are resolved. A path on a file system that does not answer is not looked at.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from syncagent.privileges.places import OWN_DIRECTORIES, OWN_FILES
from syncagent.sources.leftovers import is_listed
from syncagent.values.types import DOUBT_FILES, INDEX_SUFFIX

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from syncagent.values.types import MapName

_SECONDS = 2.0
"""Seconds to wait for the file systems of all sources."""
_SUFFIXES = sorted({"", *INDEX_SUFFIX.values()})


@dataclass(frozen=True)
class OwnFiles:
    """The files that syncagent writes, with the configuration key that names each, and directories that are its own."""

    files: Mapping[str, str]
    directories: Mapping[str, str]

    @classmethod
    def of(cls, tables: Mapping[str, MapName], state: Path | None) -> OwnFiles:
        """Return the files of the tables, by their keys in [postfix], and of the state directory, if it is known.

        A table has each suffix of an index: that of another type may be left from an earlier configuration.
        """
        files = {f"{table.path}{suffix}": f"postfix.{key}" for key, table in tables.items() for suffix in _SUFFIXES}
        if doubt := tables.get("doubt_map"):
            beside = (doubt.path.with_name(name) for name in DOUBT_FILES)
            files |= {f"{path}{suffix}": "postfix.doubt_map" for path in beside for suffix in _SUFFIXES}
        if map_ := tables.get("map"):
            files[str(map_.path.with_name(f".{map_.path.name}.syncagent"))] = "postfix.map"
        if state is None:
            return cls(_resolved(files), {})
        files |= {str(state / name): "state.directory" for name in OWN_FILES}
        return cls(_resolved(files), _resolved({str(state / name): "state.directory" for name in OWN_DIRECTORIES}))

    def read_at(self, paths: Iterable[Path]) -> dict[Path, Clash]:
        """Return the first own file or directory that each path leads to, by path, where there is one.

        Each path is looked at in a thread of its own: a file system may hang, as that of an unreachable server does.
        """
        clashes: dict[Path, Clash] = {}
        identities = dict(_identities(self.files))

        def look(path: Path) -> None:
            with contextlib.suppress(OSError):
                if clash := next(self._clashes(path, identities), None):
                    clashes[path] = clash

        threads = [threading.Thread(target=look, args=(path,), daemon=True) for path in paths]
        end = time.monotonic() + _SECONDS
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(max(0.0, end - time.monotonic()))
        return dict(clashes)

    def _clashes(self, path: Path, identities: Mapping[tuple[int, int], str]) -> Iterator[Clash]:
        """Yield the own files that a file, directory or pattern leads to."""
        real = os.path.realpath(path)
        if real in self.files:
            yield Clash(real, self.files[real])
        for own, key in self.directories.items():
            if real == own or real.startswith(f"{own}/"):
                yield Clash(real, key)
        for directory, pattern in _listings(path):
            yield from self._within(os.path.realpath(directory), pattern)
            yield from self._linked(directory, pattern, identities)
        if path.is_file():
            status = path.stat()
            if file := identities.get((status.st_dev, status.st_ino)):
                yield Clash(file, self.files[file])

    def _within(self, directory: str, pattern: str) -> Iterator[Clash]:
        """Yield the own files, also missing ones, that a listing of a directory without symbolic links has."""
        for file, key in self.files.items():
            parent, _, name = file.rpartition("/")
            if parent == directory and is_listed(name, pattern):
                yield Clash(file, key, is_among=True)

    def _linked(self, directory: Path, pattern: str, identities: Mapping[tuple[int, int], str]) -> Iterator[Clash]:
        """Yield the own files to which files of a directory are links, symbolic or hard."""
        inodes = {inode for _, inode in identities}
        with os.scandir(directory) as entries:
            for entry in entries:
                if not is_listed(entry.name, pattern) or not (entry.is_symlink() or entry.inode() in inodes):
                    continue
                with contextlib.suppress(OSError):
                    status = entry.stat()
                    if own := identities.get((status.st_dev, status.st_ino)):
                        yield Clash(own, self.files[own], is_among=True)


@dataclass(frozen=True, slots=True)
class Clash:
    """An own file that a source reads, and the configuration key that names it.

    ``is_among``: the source reads it as a file of a directory or of a pattern.
    """

    file: str
    key: str
    is_among: bool = False


def _listings(path: Path) -> Iterator[tuple[Path, str]]:
    """Yield the directory that a path lists, and the pattern of the names: those of a directory, or of a pattern."""
    if path.is_dir():
        yield path, "*"
    elif any(char in path.name for char in "*?[") and not path.exists() and path.parent.is_dir():
        yield path.parent, path.name


def _resolved(paths: Mapping[str, str]) -> dict[str, str]:
    """Return the paths without symbolic links, with their values."""
    return {os.path.realpath(path): key for path, key in paths.items()}


def _identities(files: Mapping[str, str]) -> Iterator[tuple[tuple[int, int], str]]:
    """Yield device and inode of each file that exists, and its path."""
    for file in files:
        with contextlib.suppress(OSError):
            status = Path(file).stat()
            yield (status.st_dev, status.st_ino), file
