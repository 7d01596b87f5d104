"""The way to a file: each directory and symbolic link, with its owner and who may write to it."""

from __future__ import annotations

import errno
import os
import stat
import struct
from dataclasses import dataclass, replace
from pathlib import Path

from syncagent.errors import LayoutError
from syncagent.privileges.accounts import user_name

_ACCESS_LIST = "system.posix_acl_access"
_USER, _OWNING_GROUP, _GROUP, _WRITE = 0x02, 0x04, 0x08, 0x02
"""Tags, and the write permission, of the entries of an access list (linux/posix_acl_xattr.h)."""
_MOST_LINKS = 40
"""Maximum number of symbolic links that Linux follows in a path (path_resolution(7))."""


@dataclass(frozen=True, slots=True)
class Component:
    """A directory or symbolic link on the way to a file, or the file itself, with its owner and permissions.

    ``mode`` is its ``st_mode``. ``named_users`` and ``named_groups`` are the IDs to which entries of its access list
    give write permission (acl(5)).
    """

    path: str
    uid: int
    gid: int
    mode: int
    named_users: frozenset[int] = frozenset()
    named_groups: frozenset[int] = frozenset()

    @property
    def sticky(self) -> bool:
        """True for a directory with the sticky bit, in which users cannot remove each other's files (unlink(2))."""
        return stat.S_ISDIR(self.mode) and bool(self.mode & stat.S_ISVTX)

    @property
    def world_writes(self) -> bool:
        """True if its mode lets all users write to it."""
        return self._lets_write(stat.S_IWOTH)

    @property
    def writing_groups(self) -> frozenset[int]:
        """IDs of the groups that may write to it."""
        return self.named_groups | ({self.gid} if self._lets_write(stat.S_IWGRP) else frozenset())

    def _lets_write(self, bit: int) -> bool:
        return not stat.S_ISLNK(self.mode) and bool(self.mode & bit)  # the mode of a link has no meaning


def components(path: Path) -> list[Component]:
    """Return the directories and symbolic links on the way to ``path``, from the root directory on, links followed.

    The list ends before the first component that does not exist or cannot be examined. It has no regular file: such a
    file is only read, or replaced as a whole. Raises LayoutError if there are more than 40 symbolic links.
    """
    passed, links = [_component("/")], 0
    left = list(reversed(path.absolute().parts[1:]))
    place = "/"
    while left:
        name = left.pop()
        if name == "..":
            place = os.path.dirname(place)  # noqa: PTH120 - place has no symbolic links
            continue
        here = os.path.join(place, name)  # noqa: PTH118 - as above
        try:
            component = _component(here)
        except OSError:  # missing, or its parent is not a directory
            break
        if stat.S_ISLNK(component.mode):
            links += 1
            if links > _MOST_LINKS:
                raise LayoutError(f"{path}: too many symbolic links", str(path))
            passed.append(component)
            target = Path(here).readlink()
            place = "/" if target.is_absolute() else place
            left += reversed(target.parts[1:] if target.is_absolute() else target.parts)
        else:
            if stat.S_ISDIR(component.mode):
                passed.append(component)
            place = here
    return passed


def regular_file(path: Path) -> list[Component]:
    """Return a list of the component of a regular file, links followed; empty if there is no such file."""
    return [_component(os.path.realpath(path))] if path.is_file() else []


def _component(path: str) -> Component:
    status = os.lstat(path)
    component = Component(path, status.st_uid, status.st_gid, status.st_mode)
    if not status.st_mode & stat.S_IWGRP or stat.S_ISLNK(status.st_mode):  # group bits: an access list's mask
        return component
    try:
        return _with_access_list(component, os.getxattr(path, _ACCESS_LIST, follow_symlinks=False))
    except OSError:  # no access list
        return component


def _with_access_list(component: Component, octets: bytes) -> Component:
    """Return a component with the write permissions of its access list, the value of the extended attribute.

    With an access list, the group bits of a file's mode are the list's mask, and not the group's permissions (acl(5)).
    """
    entries = [(tag, number) for tag, bits, number in struct.iter_unpack("<HHI", octets[4:]) if bits & _WRITE]
    mode = component.mode if any(tag == _OWNING_GROUP for tag, _ in entries) else component.mode & ~stat.S_IWGRP
    users, groups = (frozenset(number for tag, number in entries if tag == kind) for kind in (_USER, _GROUP))
    return replace(component, mode=mode, named_users=users, named_groups=groups)


def open_directory(path: Path) -> int:
    """Return a descriptor of a directory to write to. The caller closes it.

    Raises OSError if the directory cannot be opened. For root, it also raises OSError at a symbolic link that belongs
    to another user, or that is created during the call: the link's owner must not choose where root writes.
    """
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
    if os.geteuid() != 0:
        return os.open(path, flags)
    way = components(path)
    link = next((part.path for part in way if stat.S_ISLNK(part.mode) and part.uid != 0), None)
    if link:
        raise OSError(
            errno.ELOOP, f"root does not follow the symbolic link of {user_name(os.lstat(link).st_uid)}", link
        )
    place = next(part.path for part in reversed(way) if stat.S_ISDIR(part.mode))
    if not path.is_dir():
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path))
    descriptor = os.open("/", flags)
    for name in Path(place).parts[1:]:
        above = descriptor
        try:
            descriptor = os.open(name, flags | os.O_NOFOLLOW, dir_fd=above)
        finally:
            os.close(above)
    return descriptor


def exists(path: Path) -> bool:
    """True if a path exists, also one that may not be followed: see protected_symlinks in proc_sys_fs(5)."""
    try:
        return path.exists()
    except PermissionError:
        return True
