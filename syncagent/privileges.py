"""Which user does the work when root runs a verb.

Root writes only where nobody else decides where a path leads. Whoever owns a directory or a symbolic link on the way to
the state or to a table can exchange what lies behind it between two system calls of root's. So a verb that root runs
becomes the least privileged owner on those ways first, for good; where that user could not do the work either, it is
refused, with the one command that puts the layout right.
"""

from __future__ import annotations

import contextlib
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
"""The user that `make install` creates, and that the units run as."""
_OWN_DIRECTORIES = ("snapshots", "lists", "changes", "adopted")
_OWN_FILES = ("state.db", "state.db-journal", "sync.lock", "agent.lock", "agent.json")
_POSTFIX_FILES = ("main.cf", "master.cf")
"""Postfix's programs load libraries from where main.cf says (shlib_directory)."""
_ACCESS_LIST = "system.posix_acl_access"
_USER, _OWNING_GROUP, _GROUP, _WRITE = 0x02, 0x04, 0x08, 0x02
"""Tags and permission of the entries of an access list (linux/posix_acl_xattr.h)."""
_SYSTEM_PATH = "/usr/sbin:/usr/bin:/sbin:/bin:/usr/local/sbin:/usr/local/bin"
_MOST_LINKS = 40
"""Symbolic links that Linux follows at most (path_resolution(7))."""
_WHOLE_RANGE = ["0", "0", "4294967295"]
"""/proc/self/uid_map of the initial user namespace (user_namespaces(7))."""


@dataclass(frozen=True, slots=True)
class Component:
    """A directory or symbolic link that is passed on the way to a file, or the file; ``mode`` is its ``st_mode``.

    ``named_users`` and ``named_groups`` are those that its access list lets write (acl(5)).
    """

    path: str
    uid: int
    gid: int
    mode: int
    named_users: frozenset[int] = frozenset()
    named_groups: frozenset[int] = frozenset()

    @property
    def sticky(self) -> bool:
        """True for a directory that keeps other users' files (unlink(2)), though new ones may be made in it."""
        return stat.S_ISDIR(self.mode) and bool(self.mode & stat.S_ISVTX)

    @property
    def world_writes(self) -> bool:
        """True if everybody may change it."""
        return self._lets_write(stat.S_IWOTH)

    @property
    def writing_groups(self) -> frozenset[int]:
        """The groups that may change it."""
        return self.named_groups | ({self.gid} if self._lets_write(stat.S_IWGRP) else frozenset())

    def _lets_write(self, bit: int) -> bool:
        return not stat.S_ISLNK(self.mode) and bool(self.mode & bit)  # the mode of a link has no meaning


@dataclass(frozen=True, slots=True)
class Loose:
    """A component that somebody besides root and the user who does the work can change, and the command against it."""

    path: str
    kind: Literal["owner", "everybody", "sticky", "user", "group"]
    who: str
    remedy: str
    refused: bool

    @property
    def text(self) -> str:
        """What is too open about the component, for people."""
        if self.kind == "sticky":
            return f"lets {self.who} make files in it: what is made there needs a directory of its own"
        return f"can be changed by {self.who}"

    def __str__(self) -> str:
        """Return it as one line for people."""
        return ": ".join(filter(None, (f"{self.path} {self.text}", self.remedy)))


@dataclass(frozen=True, slots=True)
class Places:
    """Where a run writes: the state directory, and each file of the tables by the name it is configured with.

    ``postfix`` is the directory of main.cf, which tells Postfix's programs what to do.
    """

    state: Path
    tables: tuple[Path, ...]
    postfix: Path

    @classmethod
    def of(cls, config: Config) -> Places:
        """Return the places of a configuration; a table's index may be a symbolic link of its own."""
        names = filter(None, (config.postfix.map, config.postfix.domains_map))
        suffixes = sorted({"", *filter(None, INDEX_SUFFIX.values())})
        tables = tuple(Path(f"{name.path}{suffix}") for name in names for suffix in suffixes)
        return cls(config.state.directory, tables, config.postfix.config_directory)

    def ways(self) -> list[list[Component]]:
        """Return the components of the way to each place, the state's first. Raises LayoutError for a loop of links."""
        return [
            components(way) for way in (self.state, *(self.state / name for name in _OWN_DIRECTORIES), *self.tables)
        ]

    def obeyed(self) -> list[Component]:
        """Return the components of the ways to the files whose content tells root what to do, and these files."""
        files = (*(self.postfix / name for name in _POSTFIX_FILES), *(self.state / name for name in _OWN_FILES))
        return [part for file in files for part in (*components(file), *_regular(file))]

    def directories(self) -> list[Path]:
        """Return the directories that are written to; a missing state directory's nearest one that exists."""
        state = next(place for place in (self.state, *self.state.absolute().parents) if place.exists())
        return list(dict.fromkeys([state, *(Path(os.path.realpath(table)).parent for table in self.tables)]))


@dataclass(frozen=True, slots=True)
class Layout:
    """Who does the work (``uid`` 0: root itself), the first component that makes it so, and what is too open."""

    uid: int
    owned: Component | None
    loose: tuple[Loose, ...]


def components(path: Path) -> list[Component]:
    """Return the directories and symbolic links on the way to ``path``, from the root directory on, links followed.

    It ends at what does not exist. A regular file at the end is none: it is read, or replaced as a whole.
    Raises LayoutError where links lead nowhere in 40 steps.
    """
    passed, links = [_component("/")], 0
    left = list(reversed(path.absolute().parts[1:]))
    place = "/"
    while left:
        name = left.pop()
        if name == "..":
            place = os.path.dirname(place)  # noqa: PTH120 - of a place that has no link in it
            continue
        here = os.path.join(place, name)  # noqa: PTH118 - as above
        try:
            component = _component(here)
        except OSError:  # not there, or below what is no directory
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
    """Return the component of a file, links followed; none if there is no such file."""
    return [_component(os.path.realpath(path))] if path.is_file() else []


def _component(path: str) -> Component:
    status = os.lstat(path)
    component = Component(path, status.st_uid, status.st_gid, status.st_mode)
    if not status.st_mode & stat.S_IWGRP or stat.S_ISLNK(status.st_mode):  # no access list lets more write than that
        return component
    try:
        return _with_access_list(component, os.getxattr(path, _ACCESS_LIST, follow_symlinks=False))
    except OSError:  # it has none
        return component


def _with_access_list(component: Component, octets: bytes) -> Component:
    """Return a component with those that its access list lets write: the mode has only the mask of it (acl(5))."""
    entries = [(tag, number) for tag, bits, number in struct.iter_unpack("<HHI", octets[4:]) if bits & _WRITE]
    mode = component.mode if any(tag == _OWNING_GROUP for tag, _ in entries) else component.mode & ~stat.S_IWGRP
    users, groups = (frozenset(number for tag, number in entries if tag == kind) for kind in (_USER, _GROUP))
    return replace(component, mode=mode, named_users=users, named_groups=groups)


def judge(
    ways: Sequence[Sequence[Component]], outsiders: frozenset[int] = frozenset(), *, shared: bool = False
) -> Layout:
    """Return who works on these ways: the last owner on the first of them that is not root's alone, else root.

    A component passes if its owner is root or that user, it is not writable by others unless sticky, and its group,
    where that may write, is root's or that user's own. At the end of a way, where files are made, a sticky directory
    is as open as any other unless it may be ``shared``: whoever makes a name there first decides where it leads.
    ``outsiders`` are user IDs that nobody has in this namespace.
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
    """The users and groups who may change a component; whether the work is done ``as_root``."""

    users: frozenset[int]
    groups: frozenset[int]
    as_root: bool


def _loose(component: Component, trusted: _Trusted, *, kept: bool) -> Iterator[Loose]:
    """Yield in what way a component can be changed by others. Whoever could become root by it is refused.

    ``kept``: the sticky bit keeps the others from what matters in it.
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
    """Return name and group of a user; of a number without a name, as in a container, the number and ``group``."""
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
    """True if somebody besides root is in a group."""
    try:
        named = grp.getgrgid(gid).gr_mem
    except KeyError:
        named = []
    return any(name != "root" for name in named) or any(
        user.pw_gid == gid and user.pw_uid != 0 for user in pwd.getpwall()
    )


def _outsiders() -> frozenset[int]:
    """Return the user ID that stands for all users of other namespaces, empty in the initial one."""
    try:
        ours = Path("/proc/self/uid_map").read_text(encoding="ascii").split() == _WHOLE_RANGE
        overflow = int(Path("/proc/sys/kernel/overflowuid").read_text(encoding="ascii"))
    except (OSError, ValueError):
        return frozenset()
    return frozenset() if ours else frozenset({overflow})


def look(config: Config) -> Layout:
    """Return the layout of a configuration's places as it is now. Raises LayoutError for a loop of links."""
    places, outsiders = Places.of(config), _outsiders()
    layout = judge(places.ways(), outsiders)
    if layout.owned:  # whoever may change what an ordinary user obeys does not become root by it
        return layout
    who = _Trusted(frozenset({0, *outsiders}), frozenset({0}), as_root=True)
    obeyed = {part.path: part for part in places.obeyed()}.values()
    loose = [way_in for part in obeyed for way_in in _loose(part, who, kept=part.sticky)]
    found = {way_in.path: way_in for way_in in (*loose, *layout.loose)}
    return replace(layout, loose=tuple(_in_a_directory_of_its_own(way_in, places.state) for way_in in found.values()))


def _in_a_directory_of_its_own(loose: Loose, state: Path) -> Loose:
    """Return it with another remedy for a sticky directory: nobody wants its mode changed."""
    if loose.kind != "sticky":
        return loose
    made = not state.exists() and components(state)[-1].path == loose.path
    return replace(loose, remedy=f"install -d -m 0750 {shlex.quote(str(state))}" if made else "")


def has_agent() -> bool:
    """True if the agent's user exists."""
    try:
        pwd.getpwnam(AGENT)
    except KeyError:
        return False
    return True


def become_least_owner(config: Config) -> tuple[str, ...]:
    """Become the user who is to do the work on a configuration's places; return notes for people.

    Nothing happens for whoever is not root, and where root owns all of the ways. There is no way back.
    Raises LayoutError where root would have to work in a place that somebody else controls.
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
    """Raise LayoutError where this process is root and the places are not root's alone: they may have changed."""
    if os.geteuid() == 0:
        layout = look(config)
        if layout.owned:
            name = _name(layout.uid)
            raise LayoutError(
                f"root does not work in {layout.owned.path}, which is {name}'s now; start again", layout.owned.path
            )
        _refuse(layout, Places.of(config))


def _refuse(layout: Layout, places: Places) -> None:
    """Raise LayoutError where the work cannot be done safely: as root, or as the owner who may not write all of it."""
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
    """True if a user may make files in a directory, by its mode and access lists."""
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
    """Leave nothing in the environment that leads root to another user's programs or temporary files.

    su(1) keeps the variables of whoever called it.
    """
    os.environ["PATH"] = safe_path(os.environ.get("PATH", ""))
    for name in ("TMPDIR", "TEMP", "TMP"):
        if name in os.environ and not _is_roots(Path(os.environ[name]), shared=True):
            del os.environ[name]


def safe_path(path: str) -> str:
    """Return the search path for commands that root runs: what root alone can change of ``path``, then the system's."""
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
