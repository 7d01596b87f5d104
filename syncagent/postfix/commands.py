"""Postfix's programs: where they are, and what they read first."""

from __future__ import annotations

import shutil
from pathlib import Path

_SBIN = "/usr/sbin:/sbin:/usr/local/sbin"


def of_postfix(directory: Path) -> tuple[Path, ...]:
    """Return the files that Postfix's programs read first."""
    return directory / "main.cf", directory / "master.cf"


def tool(name: str) -> Path | None:
    """Find one of Postfix's programs; where an ordinary user's PATH ends, look in the sbin directories."""
    found = shutil.which(name) or shutil.which(name, path=_SBIN)
    return Path(found) if found else None
