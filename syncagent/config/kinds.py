"""The message for a source type that is not installed."""

from __future__ import annotations

import difflib
import typing

from syncagent import sources
from syncagent.values.quoting import quoted
from syncagent.values.toml_reader import optional

_NAMING_KEYS = ("preset", "format")
"""Keys whose values are names that people take for a source's type."""


def unknown(kind: object) -> str:
    """Return the message for a ``type`` that is missing, or names no installed kind: what to write instead."""
    names = sorted(sources.kinds())
    one_of = ", ".join(map(quoted, names))
    if kind is None:
        return f"required key is missing: the kind of source, one of {one_of}"
    if not isinstance(kind, str):
        return f"expected one of {one_of}, got {quoted(kind)}"
    others = _others()
    matches = difflib.get_close_matches(kind, [*names, *others], 1, 0.5)
    nearest = kind if kind in others else next(iter(matches), "")
    hint = f": write {others[nearest]}" if nearest in others else f', did you mean "{nearest}"?' if nearest else ""
    return f"no source type {quoted(kind)} is installed{hint}; there are: {', '.join(names)}"


def _others() -> dict[str, str]:
    """Return what to write for a name that is a preset, a recipe or a format of an installed kind."""
    from syncagent.sources.http.recipe import validate as recipes

    others = {name: f'type = "http" and recipe = "{name}"' for name in recipes.names()}
    for kind in sorted(sources.kinds(), reverse=True):  # of two kinds with one name, the first is proposed
        try:
            hints = typing.get_type_hints(sources.load(kind).Config)
        except sources.BrokenKindError:
            continue
        for key in _NAMING_KEYS:
            values = typing.get_args(optional(hints.get(key)) or hints.get(key))
            others |= {str(value): f'type = "{kind}" and {key} = "{value}"' for value in values}
    return {name: text for name, text in others.items() if name not in sources.kinds()}
