"""The error message for a source ``type`` that is missing or not installed."""

from __future__ import annotations

import difflib
import typing

from syncagent import sources
from syncagent.values import struct_fields
from syncagent.values.quoting import quoted
from syncagent.values.toml_reader import optional

_NAMING_KEYS = ("preset", "format")
"""Keys of source kinds whose values users mistake for a source type, such as the preset "openldap"."""


def unknown(kind: object) -> str:
    """Return the error message for a ``type`` that is missing (None), not a string, or not installed.

    It lists the installed types. For a type that is or resembles a recipe, preset or format it has the keys to write
    instead.
    """
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
    """Return the keys to write for each recipe, preset and format of the installed kinds, by its name."""
    from syncagent.sources.http.recipe import validate as recipes

    others = {name: f'type = "http" and recipe = "{name}"' for name in recipes.names()}
    for kind in sorted(sources.kinds(), reverse=True):  # if two kinds share a name, the first wins
        try:
            hints = struct_fields.hints(sources.load(kind).Config)
        except sources.BrokenKindError:
            continue
        for key in _NAMING_KEYS:
            values = typing.get_args(optional(hints.get(key)) or hints.get(key))
            others |= {str(value): f'type = "{kind}" and {key} = "{value}"' for value in values}
    return {name: text for name, text in others.items() if name not in sources.kinds()}
