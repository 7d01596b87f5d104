"""A published table: its name, its files, and the identities of the files when it was published."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from msgspec import Struct

from syncagent.errors import LedgerError, PublishError
from syncagent.files import atomic as files
from syncagent.postfix import table_text
from syncagent.postfix.commands import CommandError, configuration_files, tool
from syncagent.values.types import INDEX_SUFFIX, TableName

if TYPE_CHECKING:
    from collections.abc import Iterator

    from syncagent.values.types import MapName


_HINTS = {
    errno.ENOSPC: "; make room there",
    errno.EACCES: "; the directory must be writable for the user that runs syncagent",
    errno.EROFS: "; under systemd, add the directory to ReadWritePaths",
    errno.EBUSY: "; a map that is itself a mount point cannot be replaced: mount its directory",
    errno.ENOENT: "; make the directory first",
    errno.EFBIG: "; the limit on the size of files (ulimit -f) is too low",
}


@contextlib.contextmanager
def publish_step(name: str) -> Iterator[None]:
    """Convert errors of a step of publishing to PublishError, with the remedy."""
    try:
        yield
    except OSError as error:
        text = f"{error.strerror}: {error.filename}" if error.strerror else str(error)
        hint = "" if isinstance(error, files.UnfitFileError) else _HINTS.get(error.errno or 0, "")
        raise PublishError(name, text + hint) from error
    except (LedgerError, CommandError) as error:
        raise PublishError(name, str(error)) from error


@dataclass(frozen=True, slots=True)
class TableSettings:
    """One table: its name, where main.cf is, how many seconds postmap may take, and whether to reload a texthash."""

    name: MapName
    config_directory: Path
    postmap_timeout: float
    reload: bool


class Identities(Struct, frozen=True):
    """The published map when it was put in place. If any field differs, the map is verified or published again."""

    map: str
    renderer: str
    digest: str
    index: str
    text_file: tuple[int, ...] | None
    index_file: tuple[int, ...] | None
    postmap: tuple[int, ...] | None
    main_cf: tuple[int, ...] | None


class Target:
    """The files of the configured map. A symlink in the map's place is followed and stays."""

    def __init__(self, settings: TableSettings) -> None:
        """Resolve the names; no file needs to exist."""
        self.settings, self.type, self.named = settings, settings.name.type, settings.name.path
        self.text = Path(os.path.realpath(self.named))
        self.prefix = f".{self.named.name}.syncagent-"

    def index(self, suffix: str) -> Path:
        """Return the path of the index with this suffix: Postfix appends it to the name, before symlinks."""
        return Path(os.path.realpath(f"{self.named}{suffix}"))

    def identities(self, digest: str, index: str) -> Identities:
        """Return the identities of the files in place. ``index`` is the index's suffix, empty where there is none."""
        postmap = tool("postmap")
        return Identities(
            map=str(self.settings.name),
            renderer=table_text.RENDERER,
            digest=digest,
            index=index,
            text_file=files.identity(self.text),
            index_file=files.identity(self.index(index)) if index else None,
            postmap=files.identity(postmap) if postmap and self.type != "texthash" else None,
            main_cf=files.identity(self.settings.config_directory / "main.cf"),
        )

    def text_on_record(self, recorded: Identities) -> bool:
        """True if the text is the very file that was published, under the same name."""
        return recorded.map == str(self.settings.name) and recorded.text_file == files.identity(self.text) is not None

    def on_record(self, recorded: Identities | None) -> bool:
        """True if every file is still what it was when the map was published."""
        if recorded is None or recorded.text_file is None or bool(recorded.index) == (self.type == "texthash"):
            return False
        return self.identities(recorded.digest, recorded.index) == recorded

    def check(self) -> None:
        """Raise PublishError if something other than a file is in the place of the text, the index or main.cf."""
        with publish_step("stage"):
            for path in (
                self.text,
                self.index(INDEX_SUFFIX[self.type]),
                *configuration_files(self.settings.config_directory),
            ):
                files.check_regular(path)

    def sweep(self) -> None:
        """Remove staging directories of runs that were killed. Call it under the lock."""
        suffixes = {suffix for suffix in INDEX_SUFFIX.values() if suffix}
        for directory in {self.text.parent, self.named.parent, *(self.index(suffix).parent for suffix in suffixes)}:
            with contextlib.suppress(FileNotFoundError):
                for left in directory.glob(f"{self.prefix}*"):
                    shutil.rmtree(left, ignore_errors=True)


def is_same_table(entry: str, table: MapName) -> bool:
    """True if an entry of main.cf is this table: the same type and file, by any path to it."""
    return TableName.parse(entry).type == table.type and is_same_file(entry, table)


def is_same_file(entry: str, table: MapName) -> bool:
    """True if an entry of main.cf, of whatever type, is a table in this table's file."""
    path = TableName.parse(entry).path
    return path is not None and os.path.realpath(path) == os.path.realpath(table.path)
