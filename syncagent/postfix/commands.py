"""Postfix's programs: where they are, and what they read first."""

from __future__ import annotations

import os
import shlex
import shutil
from pathlib import Path

DEBIAN_MAIN_CF = Path("/usr/share/postfix/main.cf.debian")
_SBIN = "/usr/sbin:/sbin:/usr/local/sbin"


def of_postfix(directory: Path) -> tuple[Path, ...]:
    """Return the files that Postfix's programs read first."""
    return directory / "main.cf", directory / "master.cf"


def tool(name: str) -> Path | None:
    """Find one of Postfix's programs; where an ordinary user's PATH ends, look in the sbin directories."""
    found = shutil.which(name) or shutil.which(name, path=_SBIN)
    return Path(found) if found else None


def create_main_cf(directory: Path) -> str:
    """Return the shell command that puts Debian's main.cf where a Postfix has none; "" where there is no need of it.

    Debian's package makes no main.cf if "No configuration" was chosen: a master.cf is there, and nothing starts.
    """
    main_cf = directory / "main.cf"
    if os.path.lexists(main_cf) or not (directory / "master.cf").exists() or not DEBIAN_MAIN_CF.exists():
        return ""
    return f"cp --no-clobber {DEBIAN_MAIN_CF} {shlex.quote(str(main_cf))}"
