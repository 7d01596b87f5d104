"""A published table: its name, the files that it has, and what is on record of them."""

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
from syncagent.files import atomic
from syncagent.postfix import table_text as mapfile
from syncagent.postfix.commands import of_postfix, tool
from syncagent.values import INDEX_SUFFIX

if TYPE_CHECKING:
    from collections.abc import Iterator

    from syncagent.values import MapName


@contextlib.contextmanager
def publish_step(name: str) -> Iterator[None]:
    """Turn what goes wrong in a step of publishing to PublishError, with the remedy."""
    try:
        yield
    except (OSError, LedgerError) as error:
        why = f"{error.strerror}: {error.filename}" if isinstance(error, OSError) and error.strerror else str(error)
        raise PublishError(name, why + _remedy(error)) from error


_REMEDIES = {
    errno.ENOSPC: "; make room there",
    errno.EACCES: "; the directory must be writable for the user that runs syncagent",
    errno.EROFS: "; under systemd, add the directory to ReadWritePaths",
    errno.EBUSY: "; a map that is itself a mount point cannot be replaced: mount its directory",
    errno.ENOENT: "; make the directory first",
    errno.EFBIG: "; the limit on the size of files (ulimit -f) is too low",
}


def _remedy(error: Exception) -> str:
    """Return the remedy for an error of the system; an unfit file's error has its own text."""
    if not isinstance(error, OSError) or isinstance(error, atomic.UnfitFileError):
        return ""
    return _REMEDIES.get(error.errno or 0, "")


@dataclass(frozen=True, slots=True)
class TableSettings:
    """One table: its name, where main.cf is, how many seconds postmap may take, and whether to reload a texthash."""

    name: MapName
    config_directory: Path
    postmap_timeout: float
    reload: bool


class Identities(Struct, frozen=True):
    """What the published map was when it was put in place; anything else than this is looked at anew."""

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
        """Work out the names; nothing needs to be there."""
        self.settings, self.type, self.named = settings, settings.name.type, settings.name.path
        self.text = Path(os.path.realpath(self.named))
        self.prefix = f".{self.named.name}.syncagent-"

    def index(self, suffix: str) -> Path:
        """Give where Postfix looks for the index: beside the text as it is named."""
        return Path(os.path.realpath(f"{self.named}{suffix}"))

    def identities(self, digest: str, index: str) -> Identities:
        """Take stock of what is in place now. ``index`` is the index's suffix, empty where there is none."""
        postmap = tool("postmap")
        return Identities(
            map=str(self.settings.name),
            renderer=mapfile.RENDERER,
            digest=digest,
            index=index,
            text_file=atomic.identity(self.text),
            index_file=atomic.identity(self.index(index)) if index else None,
            postmap=atomic.identity(postmap) if postmap and self.type != "texthash" else None,
            main_cf=atomic.identity(self.settings.config_directory / "main.cf"),
        )

    def text_on_record(self, recorded: Identities) -> bool:
        """Tell whether the text is the very file that was published, under the same name."""
        return recorded.map == str(self.settings.name) and recorded.text_file == atomic.identity(self.text) is not None

    def on_record(self, recorded: Identities | None) -> bool:
        """Tell whether everything still is what it was when the map was published."""
        if recorded is None or recorded.text_file is None or bool(recorded.index) == (self.type == "texthash"):
            return False
        return self.identities(recorded.digest, recorded.index) == recorded

    def check(self) -> None:
        """Raise PublishError where something else than a file is in the place of the text, the index or main.cf."""
        with publish_step("stage"):
            for path in (self.text, self.index(INDEX_SUFFIX[self.type]), *of_postfix(self.settings.config_directory)):
                atomic.check_regular(path)

    def sweep(self) -> None:
        """Remove staging directories of runs that were killed. Call it under the lock."""
        suffixes = {suffix for suffix in INDEX_SUFFIX.values() if suffix}
        for directory in {self.text.parent, self.named.parent, *(self.index(one).parent for one in suffixes)}:
            with contextlib.suppress(FileNotFoundError):
                for left in directory.glob(f"{self.prefix}*"):
                    shutil.rmtree(left, ignore_errors=True)
