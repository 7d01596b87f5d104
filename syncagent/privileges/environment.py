"""The environment variables of a process that root starts: PATH, TMPDIR, TEMP and TMP."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from syncagent.errors import LayoutError
from syncagent.privileges.accounts import overflow_users
from syncagent.privileges.layout import judge
from syncagent.privileges.path_components import components

_SYSTEM_PATH = "/usr/sbin:/usr/bin:/sbin:/bin:/usr/local/sbin:/usr/local/bin"


def clean_environment() -> None:
    """Reduce PATH by ``safe_path``, and unset TMPDIR, TEMP and TMP if another user controls their directory.

    su(1) keeps the variables of its caller.
    """
    os.environ["PATH"] = safe_path(os.environ.get("PATH", ""))
    for name in ("TMPDIR", "TEMP", "TMP"):
        if name in os.environ and not _is_roots(Path(os.environ[name]), shared=True):
            del os.environ[name]


def safe_path(path: str) -> str:
    """Return the search path for commands that root runs.

    It has the directories in ``path`` that only root can change, then those of the system.
    """
    named = (name for name in path.split(os.pathsep) if name.startswith("/") and _is_roots(Path(name)))
    return os.pathsep.join(dict.fromkeys((*named, *_SYSTEM_PATH.split(os.pathsep))))


def _is_roots(directory: Path, *, shared: bool = False) -> bool:
    """True if a directory exists and only root can change its content.

    With ``shared``, a sticky directory in which others may create files, such as /tmp, qualifies as well.
    """
    with contextlib.suppress(LayoutError):
        layout = judge([components(directory)], overflow_users(), shared=shared)
        return directory.is_dir() and layout.owned is None and not any(loose.refused for loose in layout.loose)
    return False
