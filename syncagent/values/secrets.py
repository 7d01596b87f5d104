"""Secret files: their location, and how they are read."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from syncagent.errors import FailureKind, SourceError
from syncagent.files import atomic
from syncagent.redaction import remember

MAX_SECRET = 64 << 10
"""Maximum size of a secret file in octets: enough for a private key with its certificate chain."""
_CREDENTIALS = "CREDENTIALS_DIRECTORY"
"""Environment variable that has the path of systemd's credentials directory (systemd.exec(5))."""


def secret_path(name: str) -> Path:
    """Return the path of a secret file.

    A name with a slash is a path. A bare name is a systemd credential if there is one of that name, otherwise a file
    in /etc/syncagent/credentials.
    """
    if "/" in name:
        return Path(name)
    directory = os.environ.get(_CREDENTIALS)
    credential = Path(directory) / name if directory else None
    return credential if credential and credential.exists() else Path("/etc/syncagent/credentials") / name


def read_secret(name: str) -> str:
    """Return the content of a secret file without one line ending (LF or CR LF) at its end.

    Raises SourceError if the file cannot be read, is larger than MAX_SECRET, is empty, is not UTF-8, or is accessible
    to group or others. The mode is not checked in systemd's credentials directory. No later message shows the secret.
    """
    path = secret_path(name)
    octets, mode = _read(path)
    if mode & 0o077 and str(path.parent) != os.environ.get(_CREDENTIALS):
        raise _unusable(path, f"can be read by others (mode {mode:04o}): chmod 600 {path}")
    try:
        secret = octets.decode().removesuffix("\n").removesuffix("\r")
    except UnicodeDecodeError:
        raise _unusable(path, "is not UTF-8") from None
    if not secret:
        raise _unusable(path, "is empty")
    remember(secret)
    return secret


def _read(path: Path) -> tuple[bytes, int]:
    """Return the content and the permission bits of a file.

    Raises SourceError if it cannot be read, is not a regular file, or is larger than MAX_SECRET.
    """
    try:
        atomic.check_small(path, MAX_SECRET)
        with atomic.open_foreign(path) as file:
            return file.read(MAX_SECRET), stat.S_IMODE(os.fstat(file.fileno()).st_mode)
    except OSError as error:
        raise _unusable(path, f"cannot be read: {error.strerror}") from None


def _unusable(path: Path, why: str) -> SourceError:
    return SourceError(f"secret file {path} {why}", kind=FailureKind.BROKEN)
