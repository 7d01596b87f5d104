"""The judgement of the ways to files: which user does the work, and who else can change a component."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from syncagent.privileges.accounts import group_name, has_members, user_name, user_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from syncagent.privileges.path_components import Component


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
class Layout:
    """The user who does the work, and the weaknesses of the ways to its files.

    ``uid`` is the user's ID, 0 for root. ``owned`` is the component whose owner decided this; None for root. ``loose``
    has the weaknesses.
    """

    uid: int
    owned: Component | None
    loose: tuple[Loose, ...]


@dataclass(frozen=True, slots=True)
class Trusted:
    """The IDs of the users and groups that may change a component; ``as_root`` is true if root does the work."""

    users: frozenset[int]
    groups: frozenset[int]
    as_root: bool


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
    groups = {0, user_of(uid, owned.gid)[1]} if owned else {0}
    parts = {part.path: part for way in ways for part in way}.values()
    ends = set() if shared else {way[-1].path for way in ways}
    kept = {part.path for part in parts if part.sticky and part.path not in ends}
    who = Trusted(frozenset({0, uid, *outsiders}), frozenset(groups), as_root=not uid)
    return Layout(
        uid, owned, tuple(way_in for part in parts for way_in in weaknesses(part, who, kept=part.path in kept))
    )


def weaknesses(component: Component, trusted: Trusted, *, kept: bool) -> Iterator[Loose]:
    """Yield the weaknesses of a component: each user or group that can change it and is not trusted.

    If root does the work they are refused, except for a group without members. ``kept`` is true if the sticky bit
    protects the component's content; then only its owner matters.
    """
    path = shlex.quote(component.path)
    if component.uid not in trusted.users:
        yield Loose(component.path, "owner", user_name(component.uid), f"chown root {path}", trusted.as_root)
    if kept:
        return
    if component.world_writes:
        remedy = f"chmod o-w {path}"
        yield Loose(component.path, "sticky" if component.sticky else "everybody", "everybody", remedy, trusted.as_root)
    for user in sorted(component.named_users - trusted.users):
        yield Loose(component.path, "user", user_name(user), f"chmod g-w {path}", trusted.as_root)
    for group in sorted(component.writing_groups - trusted.groups):
        refused = trusted.as_root and has_members(group)
        yield Loose(component.path, "group", f"group {group_name(group)}", f"chmod g-w {path}", refused)
