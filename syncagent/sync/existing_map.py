"""The published list before a run: the recorded list, merged with the map if another program changed the map."""

from __future__ import annotations

import contextlib
import hashlib
from typing import TYPE_CHECKING

from syncagent.errors import PublishError
from syncagent.files import atomic, pipeline, sorted_lines
from syncagent.model import Note
from syncagent.postfix import table_text as mapfile
from syncagent.sync.diff import kept_addresses

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator
    from pathlib import Path

    from syncagent.postfix.table import Target
    from syncagent.state.opened import State
    from syncagent.state.records import Finished


def published(
    target: Target, state: State, relay_domains: Collection[str], kept: sorted_lines.SortedFile | None
) -> sorted_lines.SortedFile | Path:
    """Return the sorted list of the published recipients.

    This is the recorded list. If the list is damaged or missing, or the map's text is not the one that syncagent wrote,
    it is the union of the text, the list and ``kept``. Raises PublishError if the text exists and cannot be read.
    """
    last = state.finished
    listed = state.open_list(last.published, "published-list-damaged") if last else None
    if last and listed and target.text_on_record(last.identities):
        return listed
    with pipeline.Sorter(state.spool) as sorter:
        unusable = _recipients_of(target.text, relay_domains, sorter)
        state.notes += [*_keep_copy(target.text, state, last), *unusable]
        for chunk in sorted_lines.chunks_of(listed) if listed else ():
            sorter.write(chunk)
        sorter.feed(kept_addresses(kept))
        return pipeline.write_plain(state.spool / "before", sorter.finish())


def _recipients_of(text: Path, relay_domains: Collection[str], sorter: pipeline.Sorter) -> list[Note]:
    """Write the recipients that a text publishes to ``sorter``. Return a note if it has unusable lines.

    Raises PublishError if the text exists and cannot be read, since its recipients are then unknown.
    """
    dead = mapfile.Dead()
    try:
        with reading(text), atomic.open_foreign(text) as file:
            sorter.feed(mapfile.published(atomic.lines_of(file), relay_domains, dead))
    except FileNotFoundError:
        return []
    return [Note("map-lines-unusable", str(text), count=dead.count)] if dead.count else []


@contextlib.contextmanager
def reading(text: Path) -> Iterator[None]:
    """Convert an OSError of reading a table's text to PublishError. FileNotFoundError is raised as it is."""
    try:
        yield
    except FileNotFoundError:
        raise
    except OSError as error:
        raise PublishError("read the map", f"{error.strerror}: {text}") from error


def _keep_copy(text: Path, state: State, last: Finished | None) -> list[Note]:
    """Copy the text, unless syncagent wrote it or this is a dry run. Return a list of the note, if there is any."""
    digest = hashlib.sha256()
    try:
        with atomic.open_foreign(text) as lines:
            first = lines.readline(pipeline.CHUNK)
            digest.update(b"" if first == mapfile.HEADER else first)
            while chunk := lines.read(pipeline.CHUNK):
                digest.update(chunk)
    except OSError:
        return []  # the text is missing; _recipients_of() raises other errors
    if last and first == mapfile.HEADER and digest.hexdigest() == last.identities.digest:
        return []
    return [state.keep_copy(text, digest.hexdigest())]
