"""A table that syncagent publishes: its settings, its files, and the recorded identities of these files."""

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
    """Convert OSError, LedgerError and CommandError to PublishError of the step ``name``, with a hint if known."""
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
    """The settings of a table: name, main.cf's directory, postmap's timeout in seconds, and postfix.reload."""

    name: MapName
    config_directory: Path
    postmap_timeout: float
    reload: bool


class Identities(Struct, frozen=True):
    """The published table as recorded at publication. If a field differs later, the table is verified or republished.

    ``map`` is the name, ``renderer`` the version of the rendering, ``digest`` the SHA-256 of the text's lines without
    header, and ``index`` the index's suffix. The other fields are file identities, None for a file that does not exist
    and for one that the type does not use: a texthash has no index and needs no postmap.
    """

    map: str
    renderer: str
    digest: str
    index: str
    text_file: tuple[int, ...] | None
    index_file: tuple[int, ...] | None
    postmap: tuple[int, ...] | None
    main_cf: tuple[int, ...] | None


class Target:
    """The files of a table. If the configured path is a symlink, its target is replaced and the link stays."""

    def __init__(self, settings: TableSettings) -> None:
        """Resolve symlinks in the table's path. The files need not exist."""
        self.settings, self.type, self.named = settings, settings.name.type, settings.name.path
        self.text = Path(os.path.realpath(self.named))
        self.prefix = f".{self.named.name}.syncagent-"

    def index(self, suffix: str) -> Path:
        """Return the resolved path of the index. Postfix appends the suffix before it follows symlinks."""
        return Path(os.path.realpath(f"{self.named}{suffix}"))

    def identities(self, digest: str, index: str) -> Identities:
        """Return the table's present identities, with the ``digest`` and index suffix given; texthash has no suffix."""
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
        """True if the table has the recorded name and its text is unchanged since publication."""
        return recorded.map == str(self.settings.name) and recorded.text_file == files.identity(self.text) is not None

    def files_on_record(self, recorded: Identities) -> bool:
        """True if text and index of the recorded name are unchanged since publication."""
        index = files.identity(self.index(recorded.index)) if recorded.index else None
        return self.text_on_record(recorded) and recorded.index_file == index

    def on_record(self, recorded: Identities | None) -> bool:
        """True if the table's present identities equal the recorded ones.

        False if none are recorded, or if only one of them and the present type is texthash.
        """
        if recorded is None or recorded.text_file is None or bool(recorded.index) == (self.type == "texthash"):
            return False
        return self.identities(recorded.digest, recorded.index) == recorded

    def check(self) -> None:
        """Raise PublishError if the text, the index, main.cf or master.cf exists but is not a regular file."""
        with publish_step("stage"):
            for path in (
                self.text,
                self.index(INDEX_SUFFIX[self.type]),
                *configuration_files(self.settings.config_directory),
            ):
                files.check_regular(path)

    def sweep(self) -> None:
        """Remove the staging directories of interrupted runs. The caller must hold the lock."""
        suffixes = {suffix for suffix in INDEX_SUFFIX.values() if suffix}
        for directory in {self.text.parent, self.named.parent, *(self.index(suffix).parent for suffix in suffixes)}:
            with contextlib.suppress(FileNotFoundError):
                for left in directory.glob(f"{self.prefix}*"):
                    shutil.rmtree(left, ignore_errors=True)


def is_same_table(entry: str, table: MapName) -> bool:
    """True if an entry of main.cf names this table: the same type, and the same file after symlinks."""
    return TableName.parse(entry).type == table.type and is_same_file(entry, table)


def is_same_file(entry: str, table: MapName) -> bool:
    """True if an entry of main.cf names a table of any type in this table's file."""
    path = TableName.parse(entry).path
    return path is not None and os.path.realpath(path) == os.path.realpath(table.path)
