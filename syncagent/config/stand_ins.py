"""The problems that a source kind reports about a table with unusable keys.

A kind's ``problems(config)`` needs a complete Config. It is called with Configs that have different stand-in values for
the unusable keys. A problem that it reports each time does not depend on those keys. Only such problems are shown.
"""

from __future__ import annotations

import typing
from pathlib import Path
from typing import TYPE_CHECKING, Any

from syncagent import sources
from syncagent.values import struct_fields
from syncagent.values.partial import UnusableError, default
from syncagent.values.toml_reader import optional
from syncagent.values.types import VALUES, Duration, RecipeFile, SecretFile, Size

if TYPE_CHECKING:
    from collections.abc import Iterator

    from msgspec import Struct

    from syncagent.values.partial import Partial

_SIMPLE: dict[Any, tuple[Any, ...]] = {
    bool: (False, True),
    int: (0, 1, 1 << 31),
    float: (0.0, 1.0, float(1 << 31)),
    Duration: (Duration(0), Duration(1), Duration(1 << 31)),
    Size: (Size(1), Size(1 << 40)),
    str: ("", "x"),
    Path: (Path("/x"), Path("/y")),
    SecretFile: (SecretFile("x"),),
    RecipeFile: (RecipeFile("x"),),
}


def problems(kind: str, module: Any, table: Partial) -> list[tuple[str, str]]:  # noqa: ANN401 - see sources.load()
    """Return the problems that do not depend on the unusable keys, as (key, message).

    The list is empty if the kind raises an exception for one of the stand-ins.
    """
    hints = struct_fields.hints(table.struct)
    values = {name: value for name, value in table.values.items() if name not in table.unusable}
    common: list[tuple[str, str]] | None = None
    for stand_ins in _combinations({name: _candidates(table.struct, name, hints[name]) for name in table.unusable}):
        try:
            reported = sources.problems(kind, module, table.struct(**values, **stand_ins))
        except (sources.BrokenKindError, TypeError):  # the kind does not accept these stand-ins
            return []
        common = reported if common is None else [problem for problem in common if problem in reported]
    return [(key, text) for key, text in common or [] if key not in table.unusable]


def _combinations(candidates: dict[str, list[Any]]) -> Iterator[dict[str, Any]]:
    """Yield assignments of candidates to keys; nothing if a key has no candidate.

    First all keys advance together through their candidates. Then each key takes its second and later candidates,
    while the other keys have their first.
    """
    if not all(candidates.values()):
        return
    first = {name: values[0] for name, values in candidates.items()}
    for number in range(max(map(len, candidates.values()))):
        yield {name: values[min(number, len(values) - 1)] for name, values in candidates.items()}
    for name, values in candidates.items():
        yield from (first | {name: value} for value in values[1:])


def _candidates(struct: type[Struct], name: str, kind: Any) -> list[Any]:  # noqa: ANN401 - any field's type
    """Return stand-ins for a field: its default, if it has one, and values of its type; empty if neither exists."""
    values = [*_of_type(kind)]
    try:
        usual = default(struct, name)
    except UnusableError:
        return values
    return [usual, *(value for value in values if value != usual)]


def _of_type(kind: Any) -> tuple[Any, ...]:  # noqa: ANN401 - any field's type
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if inner := optional(kind):
        return (None, *_of_type(inner))
    if origin is typing.Literal:
        return arguments
    if origin is tuple:
        return ((), *((value,) for value in _of_type(arguments[0])[:1]))
    if origin is dict:
        return ({},)
    if kind in _SIMPLE:
        return _SIMPLE[kind]
    return tuple(kind.parse(example) for example in VALUES.get(kind, {}).get("examples", ()))
