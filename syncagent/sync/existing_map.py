"""What is published before a run: from the record, or from a map that another hand wrote."""

from __future__ import annotations

import contextlib
import hashlib
from typing import TYPE_CHECKING

from syncagent.errors import PublishError
from syncagent.files import sorted_lines as files
from syncagent.postfix import table_text as mapfile

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator
    from pathlib import Path

    from syncagent.state.database import Finished


def recipients_of(text: Path, relay_domains: Collection[str], sorter: files.Sorter) -> list[str]:
    """Put the recipients that a text publishes into ``sorter``; give notes for people.

    Raises PublishError where the text is there and cannot be read: what it has is not to be guessed.
    """
    dead = mapfile.Dead()
    try:
        with reading(text), files.open_foreign(text) as file:
            sorter.feed(mapfile.published(files.lines_of(file), relay_domains, dead))
    except FileNotFoundError:
        return []
    return [f"{dead.count} lines of {text} are no recipients and are not carried over"] if dead.count else []


@contextlib.contextmanager
def reading(text: Path) -> Iterator[None]:
    """Turn what is raised where a table's text is there and cannot be read to PublishError."""
    try:
        yield
    except FileNotFoundError:
        raise
    except OSError as error:
        raise PublishError("read the map", f"{error.strerror}: {text}") from error


def keep_copy(text: Path, directory: Path, old: Finished | None, *, write: bool) -> list[str]:
    """Keep a copy of a text that is not as syncagent left it; give notes for people."""
    digest = hashlib.sha256()
    try:
        with files.open_foreign(text) as lines:
            first = lines.readline(files.CHUNK)
            digest.update(b"" if first == mapfile.HEADER else first)
            while chunk := lines.read(files.CHUNK):
                digest.update(chunk)
    except OSError:
        return []  # not there, or recipients_of() says why not
    if old and first == mapfile.HEADER and digest.hexdigest() == old.identities.digest:
        return []
    note = f"{text} is not as syncagent left it"
    if not write:
        return [f"{note}: a run would keep a copy, and every recipient in it until the guard lets it go"]
    copy = directory / "adopted" / f"{text.name}-{digest.hexdigest()[:12]}"
    copy.parent.mkdir(mode=0o750, exist_ok=True)
    if not copy.exists():
        half = copy.with_name("half")
        half.unlink(missing_ok=True)
        files.write_plain(half, files.chunks_in(text))
        half.chmod(0o640)
        half.replace(copy)
    return [f"{note}: its recipients stay until the guard lets them go, and a copy is kept as {copy}"]
