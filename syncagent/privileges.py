"""Root's privileges: the user that a verb runs as when root starts it.

Root must not write below a path that another user can redirect. The owner of a directory or symbolic link on the way
to the state or to a table can replace its target between two system calls of root. A verb started by root therefore
becomes that owner, permanently, before it does anything there. If the owner may not write the state directory, the verb
is refused, with the command that corrects the layout.
"""

from __future__ import annotations

import contextlib
import errno
import grp
import os
import pwd
import shlex
import stat
import struct
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from syncagent.errors import LayoutError
from syncagent.values.types import INDEX_SUFFIX

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from syncagent.config.tables import Config


AGENT = "syncagent"
"""Name of the user that `make install` creates and that the systemd units run as."""
_OWN_DIRECTORIES = ("snapshots", "lists", "changes", "adopted")
_OWN_FILES = ("state.db", "state.db-journal", "sync.lock", "agent.lock", "agent.json")
_POSTFIX_FILES = ("main.cf", "master.cf")
"""Files that control Postfix's programs: main.cf, for example, names their libraries (shlib_directory)."""
_ACCESS_LIST = "system.posix_acl_access"
_USER, _OWNING_GROUP, _GROUP, _WRITE = 0x02, 0x04, 0x08, 0x02
"""Tags, and the write permission, of the entries of an access list (linux/posix_acl_xattr.h)."""
_SYSTEM_PATH = "/usr/sbin:/usr/bin:/sbin:/bin:/usr/local/sbin:/usr/local/bin"
_MOST_LINKS = 40
"""Maximum number of symbolic links that Linux follows in a path (path_resolution(7))."""
_WHOLE_RANGE = ["0", "0", "4294967295"]
"""The fields of /proc/self/uid_map in the initial user namespace (user_namespaces(7))."""


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


@dataclass(frozen=True, slots=True)
class Loose:
    """A weakness of the layout: a component that can be changed by a user who is neither root nor does the work.

    ``kind`` says by which permission, ``who`` names the user or group. ``remedy`` is the command that corrects the
    weakness; it may be empty. ``refused`` is true if syncagent refuses to work until it is corrected.
    """

    path: str
    kind: Literal["owner", "everybody", "sticky", "user", "group"]
    who: str
    remedy: str
    refused: bool

    @property
    def text(self) -> str:
        """The weakness as a predicate for messages, such as ``can be changed by NAME``."""
        if self.kind == "sticky":
            return f"lets {self.who} make files in it: what is made there needs a directory of its own"
        return f"can be changed by {self.who}"

    def __str__(self) -> str:
        """Return ``PATH TEXT: REMEDY``, or ``PATH TEXT`` if there is no remedy."""
        return ": ".join(filter(None, (f"{self.path} {self.text}", self.remedy)))


@dataclass(frozen=True, slots=True)
class Places:
    """The paths that a run uses: the state directory, and the files of the tables under their configured names.

    ``postfix`` is the directory of main.cf, which controls the programs of Postfix that a run starts.
    """

    state: Path
    tables: tuple[Path, ...]
    postfix: Path

    @classmethod
    def of(cls, config: Config) -> Places:
        """Return the places of a configuration.

        ``tables`` has each table with every suffix of an index, since an index may be a symbolic link of its own.
        """
        names = filter(None, (config.postfix.map, config.postfix.domains_map))
        suffixes = sorted({"", *filter(None, INDEX_SUFFIX.values())})
        tables = tuple(Path(f"{name.path}{suffix}") for name in names for suffix in suffixes)
        return cls(config.state.directory, tables, config.postfix.config_directory)

    def ways(self) -> list[list[Component]]:
        """Return the components of the way to each place, beginning with the state directory.

        Raises LayoutError for a loop of symbolic links.
        """
        return [
            components(way) for way in (self.state, *(self.state / name for name in _OWN_DIRECTORIES), *self.tables)
        ]

    def obeyed(self) -> list[Component]:
        """Return the components of the ways to files whose content controls what root does, and the files themselves.

        These are main.cf, master.cf and the files of the state. Raises LayoutError for a loop of symbolic links.
        """
        files = (*(self.postfix / name for name in _POSTFIX_FILES), *(self.state / name for name in _OWN_FILES))
        return [part for file in files for part in (*components(file), *_regular(file))]

    def directories(self) -> list[Path]:
        """Return the directories that a run writes to, beginning with the state directory.

        For a missing state directory, this is its nearest parent that exists.
        """
        state = next(place for place in (self.state, *self.state.absolute().parents) if place.exists())
        return list(dict.fromkeys([state, *(Path(os.path.realpath(table)).parent for table in self.tables)]))


@dataclass(frozen=True, slots=True)
class Layout:
    """The user who does the work, and the weaknesses of the ways to its files.

    ``uid`` is the user's ID, 0 for root. ``owned`` is the component whose owner decided this; None for root. ``loose``
    has the weaknesses.
    """

    uid: int
    owned: Component | None
    loose: tuple[Loose, ...]


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


def _regular(path: Path) -> list[Component]:
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


def judge(
    ways: Sequence[Sequence[Component]], outsiders: frozenset[int] = frozenset(), *, shared: bool = False
) -> Layout:
    """Return the layout of these ways: the user who does the work, and the components that others can change.

    The user is the owner nearest to the end of the first way that has an owner other than root; else it is root.
    A component is safe if its owner is root or that user, and if only they and their own groups may write to it. A
    sticky directory is safe even if others may write to it. At the end of a way, where files are created, this holds
    only with ``shared``: the user who creates a name there first decides where it leads. ``outsiders`` are user IDs
    that stand for users of other namespaces; their components count as root's.
    """
    owned = next((part for way in ways for part in reversed(way) if part.uid not in {0, *outsiders}), None)
    uid = owned.uid if owned else 0
    groups = {0, _user_of(uid, owned.gid)[1]} if owned else {0}
    parts = {part.path: part for way in ways for part in way}.values()
    ends = set() if shared else {way[-1].path for way in ways}
    kept = {part.path for part in parts if part.sticky and part.path not in ends}
    who = _Trusted(frozenset({0, uid, *outsiders}), frozenset(groups), as_root=not uid)
    return Layout(uid, owned, tuple(way_in for part in parts for way_in in _loose(part, who, kept=part.path in kept)))


@dataclass(frozen=True, slots=True)
class _Trusted:
    """The IDs of the users and groups that may change a component; ``as_root`` is true if root does the work."""

    users: frozenset[int]
    groups: frozenset[int]
    as_root: bool


def _loose(component: Component, trusted: _Trusted, *, kept: bool) -> Iterator[Loose]:
    """Yield the weaknesses of a component: each user or group that can change it and is not trusted.

    If root does the work they are refused, except for a group without members. ``kept`` is true if the sticky bit
    protects the component's content; then only its owner matters.
    """
    path = shlex.quote(component.path)
    if component.uid not in trusted.users:
        yield Loose(component.path, "owner", _name(component.uid), f"chown root {path}", trusted.as_root)
    if kept:
        return
    if component.world_writes:
        remedy = f"chmod o-w {path}"
        yield Loose(component.path, "sticky" if component.sticky else "everybody", "everybody", remedy, trusted.as_root)
    for user in sorted(component.named_users - trusted.users):
        yield Loose(component.path, "user", _name(user), f"chmod g-w {path}", trusted.as_root)
    for group in sorted(component.writing_groups - trusted.groups):
        refused = trusted.as_root and _has_members(group)
        yield Loose(component.path, "group", f"group {_group_name(group)}", f"chmod g-w {path}", refused)


def _user_of(uid: int, group: int) -> tuple[str, int]:
    """Return the name and primary group of a user.

    For an ID without an account, as in a container, they are the ID as text and ``group``.
    """
    try:
        user = pwd.getpwuid(uid)
    except KeyError:
        return str(uid), group
    return user.pw_name, user.pw_gid


def _name(uid: int) -> str:
    return _user_of(uid, 0)[0]


def _group_name(gid: int) -> str:
    try:
        return grp.getgrgid(gid).gr_name
    except KeyError:
        return str(gid)


def _has_members(gid: int) -> bool:
    """True if a user other than root is in a group, as a listed member or by primary group."""
    try:
        named = grp.getgrgid(gid).gr_mem
    except KeyError:
        named = []
    return any(name != "root" for name in named) or any(
        user.pw_gid == gid and user.pw_uid != 0 for user in pwd.getpwall()
    )


def _outsiders() -> frozenset[int]:
    """Return the overflow user ID, which stands for all users without an ID in this user namespace.

    The set is empty in the initial namespace, and if /proc cannot be read.
    """
    try:
        ours = Path("/proc/self/uid_map").read_text(encoding="ascii").split() == _WHOLE_RANGE
        overflow = int(Path("/proc/sys/kernel/overflowuid").read_text(encoding="ascii"))
    except (OSError, ValueError):
        return frozenset()
    return frozenset() if ours else frozenset({overflow})


def look(config: Config) -> Layout:
    """Return the current layout of a configuration's places.

    If root does the work, the files whose content controls root are examined as well. Raises LayoutError for a loop of
    symbolic links.
    """
    places, outsiders = Places.of(config), _outsiders()
    layout = judge(places.ways(), outsiders)
    if layout.owned:  # files that control an ordinary user make nobody root
        return layout
    who = _Trusted(frozenset({0, *outsiders}), frozenset({0}), as_root=True)
    obeyed = {part.path: part for part in places.obeyed()}.values()
    loose = [way_in for part in obeyed for way_in in _loose(part, who, kept=part.sticky)]
    found = {way_in.path: way_in for way_in in (*loose, *layout.loose)}
    return replace(layout, loose=tuple(_in_a_directory_of_its_own(way_in, places.state) for way_in in found.values()))


def _in_a_directory_of_its_own(loose: Loose, state: Path) -> Loose:
    """Return a weakness with the right remedy for a sticky directory, such as /tmp, whose mode should stay.

    The remedy is to create the state directory if that is missing there, otherwise empty. Other kinds are unchanged.
    """
    if loose.kind != "sticky":
        return loose
    made = not state.exists() and components(state)[-1].path == loose.path
    return replace(loose, remedy=f"install -d -m 0750 {shlex.quote(str(state))}" if made else "")


def has_agent() -> bool:
    """True if the user AGENT exists."""
    try:
        pwd.getpwnam(AGENT)
    except KeyError:
        return False
    return True


def become_least_owner(config: Config) -> tuple[str, ...]:
    """Drop root's privileges to the owner of a configuration's places; return notes for people.

    The process stays root if root owns all of the ways. A process that is not root is left as it is. The change is
    permanent. Raises LayoutError if root would work where another user controls a path, or if the owner may not write
    the state directory.
    """
    if os.geteuid() != 0:
        return ()
    _clean_environment()
    places, layout = Places.of(config), look(config)
    _refuse(layout, places)
    notes = tuple(f"warning: {loose}; refused from version 1.0 on" for loose in layout.loose)
    if layout.owned is None:
        return notes
    name, group = _user_of(layout.uid, layout.owned.gid)
    os.initgroups(name, group)
    os.setgid(group)
    os.setuid(layout.uid)
    return (f"running as {name}, who owns {layout.owned.path}", *notes)


def require_safe_root(config: Config) -> None:
    """Raise LayoutError if this process is root and the places, which may have changed, are no longer safe for root."""
    if os.geteuid() == 0:
        layout = look(config)
        if layout.owned:
            name = _name(layout.uid)
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
    name, group = _user_of(layout.uid, layout.owned.gid)
    state = places.directories()[0]
    if not _may_write(state, layout.uid, name, group):
        quoted = shlex.quote(str(places.state))
        exists = places.state.exists()
        remedy = f"chown -R {name} {quoted}" if exists else f"install -d -o {name} -m 0750 {quoted}"
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


def _clean_environment() -> None:
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
        layout = judge([components(directory)], _outsiders(), shared=shared)
        return directory.is_dir() and layout.owned is None and not any(loose.refused for loose in layout.loose)
    return False


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
        raise OSError(errno.ELOOP, f"root does not follow the symbolic link of {_name(os.lstat(link).st_uid)}", link)
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
