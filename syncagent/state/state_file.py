"""The file ``.NAME.syncagent`` beside the map: see ``state.identity``."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from syncagent.files import atomic
from syncagent.postfix.table import publish_step
from syncagent.state.identity import Beside

if TYPE_CHECKING:
    from pathlib import Path

_MOST = 16 << 20
"""Maximum size in octets."""
_MODE = 0o644


def read(path: Path) -> Beside | None:
    """Return the content of the file, None if it does not exist.

    A file that cannot be understood has the ID "". Raises PublishError if it cannot be read.
    """
    with publish_step(f"read {path.name}"):
        try:
            return msgspec.json.decode(atomic.read_foreign(path, _MOST), type=Beside)
        except (FileNotFoundError, NotADirectoryError):
            return None
        except (msgspec.DecodeError, UnicodeDecodeError):
            return Beside("")


def write(path: Path, content: Beside) -> None:
    """Replace the file. Raises PublishError."""
    octets = msgspec.json.format(msgspec.json.encode(content), indent=1)
    with publish_step(f"write {path.name}"):
        atomic.write_whole(path, octets + b"\n", _MODE)


def sweep(path: Path) -> None:
    """Remove what killed runs left of writing the file. The caller must hold the lock."""
    for left in path.parent.glob(f"{atomic.half_name(path)}*"):
        left.unlink(missing_ok=True)
