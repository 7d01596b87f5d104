"""Users and groups of this host, by their IDs. An ID without an account is legal, as in a container."""

from __future__ import annotations

import grp
import pwd
from pathlib import Path

AGENT = "syncagent"
"""Name of the user that `make install` creates and that the systemd units run as."""
_WHOLE_RANGE = ["0", "0", "4294967295"]
"""The fields of /proc/self/uid_map in the initial user namespace (user_namespaces(7))."""


def user_of(uid: int, group: int) -> tuple[str, int]:
    """Return the name and primary group of a user.

    For an ID without an account, as in a container, they are the ID as text and ``group``.
    """
    try:
        user = pwd.getpwuid(uid)
    except KeyError:
        return str(uid), group
    return user.pw_name, user.pw_gid


def user_name(uid: int) -> str:
    """Return the name of a user, or the ID as text if it has no account."""
    return user_of(uid, 0)[0]


def group_name(gid: int) -> str:
    """Return the name of a group, or the ID as text if it has none."""
    try:
        return grp.getgrgid(gid).gr_name
    except KeyError:
        return str(gid)


def has_members(gid: int) -> bool:
    """True if a user other than root is in a group, as a listed member or by primary group."""
    try:
        named = grp.getgrgid(gid).gr_mem
    except KeyError:
        named = []
    return any(name != "root" for name in named) or any(
        user.pw_gid == gid and user.pw_uid != 0 for user in pwd.getpwall()
    )


def has_agent() -> bool:
    """True if the user AGENT exists."""
    try:
        pwd.getpwnam(AGENT)
    except KeyError:
        return False
    return True


def overflow_users() -> frozenset[int]:
    """Return the overflow user ID, which stands for all users without an ID in this user namespace.

    The set is empty in the initial namespace, and if /proc cannot be read.
    """
    try:
        ours = Path("/proc/self/uid_map").read_text(encoding="ascii").split() == _WHOLE_RANGE
        overflow = int(Path("/proc/sys/kernel/overflowuid").read_text(encoding="ascii"))
    except (OSError, ValueError):
        return frozenset()
    return frozenset() if ours else frozenset({overflow})
