"""Run by root over another user's state, become that user: so a run by hand leaves nothing the agent cannot write."""

from __future__ import annotations

import os
import pwd
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path


AGENT = "syncagent"
"""The user that `make install` makes, and that the units run as."""


def has_agent() -> bool:
    """Tell whether there is the agent's user."""
    try:
        pwd.getpwnam(AGENT)
    except KeyError:
        return False
    return True


def become_owner(directory: Path) -> str:
    """Become the owner of ``directory``, or of the nearest directory above it that is there; give a note for people.

    Nothing happens, and the note is empty, for whoever is not root, and where root is the owner. There is no way back.
    """
    if os.geteuid() != 0:
        return ""
    there = next(place for place in (directory, *directory.absolute().parents) if place.exists())
    owner = there.stat()
    if owner.st_uid == 0:
        return ""
    try:
        user = pwd.getpwuid(owner.st_uid)
        name, group = user.pw_name, user.pw_gid
        os.initgroups(name, group)
    except KeyError:  # a number without a name, as in a container
        name, group = str(owner.st_uid), owner.st_gid
        os.setgroups([group])
    os.setgid(group)
    os.setuid(owner.st_uid)
    return f"running as {name}, who owns {there}"
