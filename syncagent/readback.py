"""Read a staged map back through Postfix: every key written is answered for, and no other key is there.

postmap exits 0 though it dropped lines, so neither its status nor what it prints says whether the index is right.
"""

from __future__ import annotations

import subprocess
from typing import TYPE_CHECKING

from syncagent import files, mapfile
from syncagent.errors import PublishError, UnansweredError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from pathlib import Path

_LISTABLE = ("hash", "btree", "lmdb")
_MAX_UNANSWERED = 10_000


def check(
    map_type: str, staged: Path, keys: Path, spool: Path, postmap: Callable[..., list[str]], limit: float
) -> None:
    """Compare the keys of the staged map with ``keys``, sorted, one a line.

    hash, btree and lmdb list their keys, cdb does not; non-ASCII keys are asked for one by one, since each Postfix
    version folds them its own way. ``postmap`` gives the command line for options.

    Raises UnansweredError for keys that are not there, PublishError for keys that nobody wrote.
    """
    name = f"{map_type}:{staged}"
    if map_type == "texthash":
        missing = _compare(keys, _sorted(spool / "listed", _text_keys(staged), spool))
    elif map_type in _LISTABLE:
        plain, foreign = _by_alphabet(files.chunks_in(keys), spool, "written")
        with (
            files.Child(postmap("-s", name), subprocess.DEVNULL, good=(0, 1), limit=limit) as listing,
            files.Sorter(spool) as sorter,
        ):
            for chunk in listing.chunks():
                sorter.write(chunk)
            listed, listed_foreign = _by_alphabet(_keys_of(sorter.finish()), spool, "listed")
        missing = _compare(plain, listed) + _unanswered(foreign, name, spool, postmap, limit)
        if _lines(listed_foreign) > _lines(foreign):
            raise PublishError("read back", "the index has keys that were not written")
    else:
        missing = _unanswered(keys, name, spool, postmap, limit)
    if missing:
        raise UnansweredError(missing)


def _compare(wanted: Path, found: Path) -> list[bytes]:
    """Give what is wanted and not found. Raises PublishError for what is found and not wanted."""
    missing: list[bytes] = []
    with files.differences(wanted, found) as lines:
        for line in lines:
            if line.startswith(b"\t"):
                key = line[1:].rstrip(b"\n").decode(errors="backslashreplace")
                raise PublishError("read back", f"the index has a key that was not written: {key}")
            _note(missing, line)
    return missing


def _note(missing: list[bytes], line: bytes) -> None:
    missing.append(line.rstrip(b"\n"))
    if len(missing) > _MAX_UNANSWERED:
        raise PublishError("read back", f"the index lacks more than {_MAX_UNANSWERED} of the keys written")


def _unanswered(
    keys: Path, name: str, spool: Path, postmap: Callable[..., list[str]], limit: float
) -> list[bytes]:
    """Ask Postfix for each key; give those it does not answer for."""
    if not keys.stat().st_size:
        return []
    with (
        keys.open("rb") as asked,
        files.Child(postmap("-q", "-", name), asked, good=(0, 1), limit=limit) as child,
    ):
        answered = files.write_plain(spool / "answered", _keys_of(child.chunks()))
    return _compare(keys, answered)


def _keys_of(chunks: Iterable[bytes]) -> Iterator[bytes]:
    """Turn ``key TAB OK`` lines to keys, chunk by chunk of whole lines."""
    for chunk in files.whole_lines(chunks):
        yield chunk.replace(b"\tOK\n", b"\n")


def _text_keys(staged: Path) -> Iterator[bytes]:
    with staged.open("rb") as lines:
        for _, line in mapfile.logical_lines(lines):
            parts = mapfile.split(line)
            if parts and parts[1]:
                yield parts[0] + b"\n"


def _sorted(path: Path, lines: Iterable[bytes], spool: Path) -> Path:
    with files.Sorter(spool) as sorter:
        sorter.feed(lines)
        return files.write_plain(path, sorter.finish())


def _by_alphabet(chunks: Iterable[bytes], spool: Path, name: str) -> tuple[Path, Path]:
    """Split lines into those in ASCII and the others."""
    plain, foreign = spool / f"{name}-ascii", spool / f"{name}-others"
    with plain.open("wb") as ascii_file, foreign.open("wb") as other_file:
        for chunk in files.whole_lines(chunks):
            if chunk.isascii():
                ascii_file.write(chunk)
            else:
                for line in chunk.splitlines(keepends=True):
                    (ascii_file if line.isascii() else other_file).write(line)
    return plain, foreign


def _lines(path: Path) -> int:
    return sum(chunk.count(b"\n") for chunk in files.chunks_in(path))
