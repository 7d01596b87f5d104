"""Strict dotted paths into JSON: a missing member is an error unless the path marks it as optional.

``@`` is the whole body. ``data.items`` descends into objects, ``users[]`` into each item of an array, ``x[0]`` into one
item, ``aliases.*`` into each value of an object, ``aliases.*~`` into each of its names. A name with characters other
than letters, digits, ``-``, ``_``, ``$`` and ``@`` is quoted: ``"@odata.nextLink"``. ``name?`` may be absent or null;
the object that contains it may not. ``[]?``, ``[0]?``, ``*?`` and ``*~?`` also permit null in place of their array or
object.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

_STEP = re.compile(r"""\.?(?:"([^"]+)"|([A-Za-z0-9_@$-]+)|(\*~)|(\*))(\?)?|\[([0-9]{0,9})\](\?)?""")
_MAX_LENGTH = 4096
_HARMLESS_NAME = re.compile(r"[A-Za-z0-9_@.$-]{1,40}")
_TYPE_NAMES = {dict: "an object", list: "an array", str: "a text", bool: "true or false", type(None): "null"}
ABSENT: Any = type("Absent", (), {"__repr__": lambda _: "nothing", "__bool__": lambda _: False})()
"""The result for an optional place that is absent or null. It is false, and shown as "nothing"."""


class PathError(ValueError):
    """A malformed path, or a path that does not match a body. The text may list member names, but contains no value."""


class MissingError(PathError):
    """A place of a path that is absent, or null where the path expects an object or array."""


@dataclass(frozen=True, slots=True)
class _Step:
    """A step of a path. ``kind`` is "key", "index", "items", "values" or "names"."""

    kind: str
    name: str = ""
    index: int = 0
    optional: bool = False


@lru_cache(maxsize=1024)
def parse(path: str) -> tuple[_Step, ...]:
    """Return the steps of a path. Raises PathError if it is malformed."""
    if path == "@":
        return ()
    if len(path) > _MAX_LENGTH:
        raise PathError(f"a path of {len(path)} characters is longer than {_MAX_LENGTH}")
    steps, at = [], 0
    while at < len(path):
        match = _STEP.match(path, at)
        if match is None or path[at] not in (".[" if at else path[at].replace(".", "")):
            raise PathError(f"{path!r} is not a path such as data.items or [].users[]")
        quoted, name, names, values, name_optional, index, index_optional = match.groups()
        optional = bool(name_optional or index_optional)
        if names or values:
            steps.append(_Step("names" if names else "values", optional=optional))
        elif index is None:
            steps.append(_Step("key", quoted or name, optional=optional))
        else:
            steps.append(
                _Step("index", index=int(index), optional=optional) if index else _Step("items", optional=optional)
            )
        at = match.end()
    if not steps:
        raise PathError("an empty path is not allowed")
    return tuple(steps)


def is_plural(path: str) -> bool:
    """True if a path can lead to more than one place. Raises PathError if it is malformed."""
    return any(step.kind in {"items", "values", "names"} for step in parse(path))


def find_all(body: Any, path: str) -> Iterator[Any]:  # noqa: ANN401 - JSON
    """Return an iterator over the values at all places of a path.

    Raises PathError if the path is malformed, or if a place is missing or has the wrong type.
    """
    places = [body]
    for step in parse(path):
        places = [value for place in places for value in _descend(place, step, path)]
    return iter(places)


def find_one(body: Any, path: str) -> Any:  # noqa: ANN401 - JSON
    """Return the value at the only place of a path, ABSENT if there is no place.

    Raises PathError as ``find_all`` does, and if there is more than one place.
    """
    values = list(find_all(body, path))
    if len(values) > 1:
        raise PathError(f"{path} leads to {len(values)} places, expected one")
    return values[0] if values else ABSENT


def _descend(place: Any, step: _Step, path: str) -> list[Any]:  # noqa: ANN401 - JSON
    """Return the values that a step leads to from a place. Raises PathError; ``path`` is for its text."""
    if step.optional and place is None and step.kind != "key":
        return []
    expected = dict if step.kind in {"key", "values", "names"} else list
    if not isinstance(place, expected):
        error = MissingError if place is None else PathError
        raise error(f"{path}: expected {_TYPE_NAMES[expected]}, got {type_name(place)}")
    if step.kind in {"items", "names"}:
        return list(place)
    if step.kind == "values":
        return [place[name] for name in place]
    member = _member(place, step)
    if member is not ABSENT or step.optional:
        return [] if member is ABSENT or (step.optional and member is None) else [member]
    if step.kind == "index":
        raise MissingError(f"{path}: item {step.index} is missing, the array has {len(place)}")
    known = ", ".join(name for name in islice(place, 8) if _HARMLESS_NAME.fullmatch(name))
    raise MissingError(f"{path}: {step.name!r} is missing{f', the object has: {known}' if known else ''}")


def _member(place: Any, step: _Step) -> Any:  # noqa: ANN401 - JSON
    if step.kind == "index":
        return place[step.index] if step.index < len(place) else ABSENT
    return place.get(step.name, ABSENT)


def type_name(value: Any) -> str:  # noqa: ANN401 - JSON
    """Return the JSON type of a value as messages name it. Messages do not show the value, which may be a secret."""
    return "nothing" if value is ABSENT else _TYPE_NAMES.get(type(value), "a number")
