"""The change from root to the owner of a configuration's places, and the refusal of an unsafe layout."""

from __future__ import annotations

import os
import shlex
from typing import TYPE_CHECKING

from syncagent.errors import LayoutError
from syncagent.privileges.accounts import user_name, user_of
from syncagent.privileges.environment import clean_environment
from syncagent.privileges.path_components import exists
from syncagent.privileges.places import Places, look

if TYPE_CHECKING:
    from pathlib import Path

    from syncagent.config.tables import Config
    from syncagent.privileges.layout import Layout


def become_least_owner(config: Config) -> tuple[str, ...]:
    """Drop root's privileges to the owner of a configuration's places; return notes for people.

    The process stays root if root owns all of the ways. A process that is not root is left as it is. The change is
    permanent. Raises LayoutError if root would work where another user controls a path, or if the owner may not write
    the state directory.
    """
    if os.geteuid() != 0:
        return ()
    clean_environment()
    places, layout = Places.of(config), look(config)
    _refuse(layout, places)
    notes = tuple(f"warning: {loose}; refused from version 1.0 on" for loose in layout.loose)
    if layout.owned is None:
        return notes
    name, group = user_of(layout.uid, layout.owned.gid)
    os.initgroups(name, group)
    os.setgid(group)
    os.setuid(layout.uid)
    return (f"running as {name}, who owns {layout.owned.path}", *notes)


def require_safe_root(config: Config) -> None:
    """Raise LayoutError if this process is root and the places, which may have changed, are no longer safe for root."""
    if os.geteuid() == 0:
        layout = look(config)
        if layout.owned:
            name = user_name(layout.uid)
            raise LayoutError(
                f"root does not work in {layout.owned.path}, which is {name}'s now; start again", layout.owned.path
            )
        _refuse(layout, Places.of(config))


def _refuse(layout: Layout, places: Places) -> None:
    """Raise LayoutError if a weakness is refused, or if the owner may not write the state directory."""
    for loose in layout.loose:
        if loose.refused:
            text = f"refused for root: {loose.path} {loose.text}"
            raise LayoutError(text, loose.path, loose.remedy)
    if layout.owned is None:
        return
    name, group = user_of(layout.uid, layout.owned.gid)
    state = places.directories()[0]
    if not _may_write(state, layout.uid, name, group):
        quoted = shlex.quote(str(places.state))
        remedy = f"chown -R {name} {quoted}" if exists(places.state) else f"install -d -o {name} -m 0750 {quoted}"
        raise LayoutError(
            f"refused for root: {layout.owned.path} belongs to {name}, who could redirect what root writes there,"
            f" and {name} may not write the state directory {places.state}",
            layout.owned.path,
            remedy,
        )


def _may_write(directory: Path, uid: int, name: str, group: int) -> bool:
    """True if a user may create files in a directory.

    The kernel decides: root takes the user's effective IDs for the system call, and restores its own.
    """
    groups = os.getgroups()
    try:
        os.initgroups(name, group)
        os.setegid(group)
        os.seteuid(uid)
        return os.access(directory, os.W_OK | os.X_OK, effective_ids=True)
    finally:
        os.seteuid(0)
        os.setegid(0)
        os.setgroups(groups)
