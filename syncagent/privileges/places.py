"""The paths that a configuration uses, and their present layout."""

from __future__ import annotations

import os
import shlex
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from syncagent.privileges.accounts import overflow_users
from syncagent.privileges.layout import Layout, Loose, Trusted, judge, weaknesses
from syncagent.privileges.path_components import Component, components, exists, regular_file
from syncagent.values.types import DOUBT_FILES, INDEX_SUFFIX, state_file

if TYPE_CHECKING:
    from syncagent.config.tables import Config

OWN_DIRECTORIES = ("snapshots", "lists", "changes", "adopted")
OWN_FILES = ("state.db", "state.db-journal", "sync.lock", "agent.lock", "doubt.lock", "agent.json")
_POSTFIX_FILES = ("main.cf", "master.cf")
"""Files that control Postfix's programs: main.cf, for example, names their libraries (shlib_directory)."""


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

        ``tables`` has each table with every suffix of an index, since an index may be a symbolic link of its own, and
        the file beside the map that shares an ID with the state.
        """
        names = filter(None, (config.postfix.map, config.postfix.domains_map, config.postfix.doubt_map))
        paths = [name.path for name in names]
        paths += [config.postfix.doubt_map.path.with_name(DOUBT_FILES[0])] if config.postfix.doubt_map else []
        suffixes = sorted({"", *filter(None, INDEX_SUFFIX.values())})
        tables = (*(Path(f"{path}{suffix}") for path in paths for suffix in suffixes), state_file(paths[0]))
        return cls(config.state.directory, tables, config.postfix.config_directory)

    def ways(self) -> list[list[Component]]:
        """Return the components of the way to each place, beginning with the state directory.

        Raises LayoutError for a loop of symbolic links.
        """
        return [components(way) for way in (self.state, *(self.state / name for name in OWN_DIRECTORIES), *self.tables)]

    def obeyed(self) -> list[Component]:
        """Return the components of the ways to files whose content controls what root does, and the files themselves.

        These are main.cf, master.cf and the files of the state. Raises LayoutError for a loop of symbolic links.
        """
        files = (*(self.postfix / name for name in _POSTFIX_FILES), *(self.state / name for name in OWN_FILES))
        return [part for file in files for part in (*components(file), *regular_file(file))]

    def directories(self) -> list[Path]:
        """Return the directories that a run writes to, beginning with the state directory.

        For a missing state directory, this is its nearest parent that exists.
        """
        state = next(place for place in (self.state, *self.state.absolute().parents) if exists(place))
        return list(dict.fromkeys([state, *(Path(os.path.realpath(table)).parent for table in self.tables)]))


def look(config: Config) -> Layout:
    """Return the current layout of a configuration's places.

    If root does the work, the files whose content controls root are examined as well. Raises LayoutError for a loop of
    symbolic links.
    """
    places, outsiders = Places.of(config), overflow_users()
    layout = judge(places.ways(), outsiders)
    if layout.owned:  # files that control an ordinary user make nobody root
        return layout
    who = Trusted(frozenset({0, *outsiders}), frozenset({0}), as_root=True)
    obeyed = {part.path: part for part in places.obeyed()}.values()
    loose = [way_in for part in obeyed for way_in in weaknesses(part, who, kept=part.sticky)]
    found = {way_in.path: way_in for way_in in (*loose, *layout.loose)}
    return replace(layout, loose=tuple(_in_a_directory_of_its_own(way_in, places.state) for way_in in found.values()))


def _in_a_directory_of_its_own(loose: Loose, state: Path) -> Loose:
    """Return a weakness with the right remedy for a sticky directory, such as /tmp, whose mode should stay.

    The remedy is to create the state directory if that is missing there, otherwise empty. Other kinds are unchanged.
    """
    if loose.kind != "sticky":
        return loose
    made = not exists(state) and components(state)[-1].path == loose.path
    return replace(loose, remedy=f"install -d -m 0750 {shlex.quote(str(state))}" if made else "")
