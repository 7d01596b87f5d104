"""The files of a directory that are no lists: copies that tools leave behind, and indexes of Postfix tables.

A copy is left out only if the list, of the same name without the ending, is read. Otherwise it may be the list itself:
it is read, and a note names it. It is pure: no files.
"""

from __future__ import annotations

import re
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, NamedTuple

from syncagent.errors import printable
from syncagent.sources.binary import INDEX_ENDINGS

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator

_COPY = re.compile(r"(.+?)(?:\.(?:bak|orig|old|save|rpmsave|swp|dpkg-[^.]+|~?[0-9]+~?)|~)|#(.+)#", re.DOTALL)
"""A name with one ending of a copy, of editors, package managers, logrotate(8) or wget(1)."""
_INDEX = re.compile(
    rf"(?:__db\.)?(.+)(?:{'|'.join(map(re.escape, (*INDEX_ENDINGS, '.lmdb-lock', '.cdb.tmp')))})", re.DOTALL
)
"""The name of an index, or of a file that its library makes, as in DATABASE_README."""
_SHOWN = 3


class Sorted(NamedTuple):
    """The names of a directory: those to read, in their order, and notes about the others."""

    names: list[str]
    notes: tuple[str, ...]


def stem(name: str) -> str:
    """Return a name without its last ending of a copy, "" if it has none."""
    found = _COPY.fullmatch(name)
    return (found[1] or found[2]) if found else ""


def is_listed(name: str, pattern: str) -> bool:
    """True if a file of a directory may belong to a pattern: its name matches, and it is not hidden."""
    return not name.startswith(".") and fnmatchcase(name, pattern)


def sort_out(names: Collection[str], is_binary: Callable[[str], bool]) -> Sorted:
    """Return the files to read. ``is_binary`` returns True if a file is no text."""
    known = frozenset(names)
    indexes = frozenset(name for name in names if _index_of(name) and is_binary(name))
    orphans = [name for name in names if name in indexes and _index_of(name) not in known]
    texts = [name for name in names if name not in indexes]
    lists = frozenset(texts)
    copies = [name for name in texts if not lists.isdisjoint(_stems(name))]
    read = [name for name in texts if name not in frozenset(copies)]
    odd = [name for name in read if _index_of(name) in known]
    return Sorted(read, tuple(_notes(copies, filter(stem, read), orphans, odd)))


def _stems(name: str) -> Iterator[str]:
    """Yield the name without its last ending, without its last two endings, and so on."""
    while name := stem(name):
        yield name


def _index_of(name: str) -> str:
    """Return the name of the list that an index belongs to, "" if it is no index."""
    found = _INDEX.fullmatch(name)
    return found[1] if found else ""


def _notes(copies: Iterable[str], suspects: Iterable[str], orphans: Iterable[str], odd: Iterable[str]) -> Iterator[str]:
    for names, text in (
        (copies, "not read, since the list is there without that ending"),
        (suspects, "read, though named like a left-over, since there is no list without that ending"),
        (orphans, "not read, since it is an index of a table, and its list is not there"),
        (odd, "read, though named like an index of a table, since it is text"),
    ):
        if shown := _some(list(names)):
            yield f"{text}: {shown}"


def _some(names: list[str]) -> str:
    more = f" and {len(names) - _SHOWN:,} more" if len(names) > _SHOWN else ""
    return f"{', '.join(map(printable, names[:_SHOWN]))}{more}"
