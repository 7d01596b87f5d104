"""The keys of a texthash, folded by this host's Postfix: smtpd(8) folds what it looks up, and not always what it reads.

Postfix 3.11 reads non-ASCII keys of a texthash as they are written, and folds letters that Python does not know yet. Of
indexed types postmap(1) folds both.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from syncagent.files import atomic, pipeline
from syncagent.postfix import commands
from syncagent.postfix.commands import CommandError
from syncagent.postfix.table_text import listed_keys

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    from syncagent.postfix.table import TableSettings

_LISTABLE = ("lmdb", "hash", "btree")
"""Indexed types whose keys postmap can list; which of them are there depends on the system."""


def folded(keys: Path, spool: Path, settings: TableSettings) -> Path:
    """Return a file of the sorted keys with the non-ASCII ones as Postfix folds them.

    It is ``keys`` itself if all are ASCII, or if Postfix cannot be asked since it, or each listable type, is missing.
    """
    foreign = pipeline.write_plain(spool / "foreign", _foreign(atomic.chunks_in(keys)))
    listed = _listed(foreign, spool, settings) if foreign.stat().st_size else None
    if listed is None:
        return keys
    with pipeline.Sorter(spool) as sorter:
        sorter.feed(_ascii(atomic.chunks_in(keys)))
        sorter.write(listed)
        return pipeline.write_plain(spool / "folded", sorter.finish())


def _foreign(chunks: Iterable[bytes]) -> Iterator[bytes]:
    for chunk in pipeline.whole_lines(chunks):
        if not chunk.isascii():
            yield from (line for line in chunk.splitlines(keepends=True) if not line.isascii())


def _ascii(chunks: Iterable[bytes]) -> Iterator[bytes]:
    for chunk in pipeline.whole_lines(chunks):
        yield chunk if chunk.isascii() else b"".join(line for line in chunk.splitlines(keepends=True) if line.isascii())


def _listed(keys: Path, spool: Path, settings: TableSettings) -> bytes | None:
    """Return the keys, one a line, as an index of them lists them; None if no index can be made and listed."""
    text = pipeline.write_plain(spool / "to-fold", (chunk.replace(b"\n", b" OK\n") for chunk in atomic.chunks_in(keys)))
    for kind in _LISTABLE:
        try:
            _postmap(settings, f"{kind}:{text}")
            return listed_keys(_postmap(settings, "-s", f"{kind}:{text}").encode())
        except CommandError:
            continue
    return None


def _postmap(settings: TableSettings, *args: str) -> str:
    """Return what postmap prints. Raises CommandError if it fails."""
    done = commands.run("postmap", *args, directory=settings.config_directory, timeout=settings.postmap_timeout)
    if done.status:
        raise done.error()
    return done.stdout
