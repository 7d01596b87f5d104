"""The doubt table of a first configuration. It must exist before main.cf names it.

An smtpd that started without the table answers 451 to unknown recipients for up to 100 s after it appears.
"""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING

from syncagent.errors import SyncagentError
from syncagent.postfix.commands import tool
from syncagent.postfix.doubt_table import Files

if TYPE_CHECKING:
    from pathlib import Path

    from syncagent.values.types import MapName


def make(file: Path, name: MapName) -> bool:
    """Publish the doubt table of the configuration ``file``, with every relay domain in doubt. True if that was done.

    A file that exists is not replaced. Run by root, the process becomes the owner of the directory first. Where the
    table cannot be made, as in a directory that does not exist yet, the first sync makes it.
    """
    files = Files(name)
    if any(os.path.lexists(path) for path in files.paths()):
        return False
    if name.path.parent.is_dir() and tool("postmap"):
        with contextlib.suppress(OSError, SyncagentError):
            _publish(file)
    return files.index.exists()


def _publish(file: Path) -> None:
    from syncagent import privileges
    from syncagent.config import load
    from syncagent.sync import doubt_run

    config = load.load(file)
    privileges.become_least_owner(config)
    doubt_run.build_all(config, ready_made=True)
