"""Strict dotted paths into JSON: what is not there is an error, unless the path says that it may be absent.

``@`` is the whole body; ``data.items`` goes into objects, ``users[]`` into each item of an array, ``x[0]`` into one,
``aliases.*`` into each value of an object, ``aliases.*~`` into each of its names. A name with other characters than
letters, digits, ``-``, ``_``, ``$`` and ``@`` is quoted: ``"@odata.nextLink"``. ``name?`` may be absent or null; what
it is in may not.
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
_LONGEST = 4096
_SHOWN = re.compile(r"[A-Za-z0-9_@.$-]{1,40}")
_KINDS = {dict: "an object", list: "an array", str: "a text", bool: "true or false", type(None): "null"}
ABSENT: Any = type("Absent", (), {"__repr__": lambda _: "nothing", "__bool__": lambda _: False})()
"""What stands where a path that may end early does."""


class PathError(ValueError):
    """A path leads nowhere in a body, or is none; the text says where."""


class MissingError(PathError):
    """What a path leads to is not there, or what it would be in is null; nothing there is of another kind."""


@dataclass(frozen=True, slots=True)
class _Step:
    kind: str
    name: str = ""
    index: int = 0
    optional: bool = False


@lru_cache(maxsize=1024)
def parse(path: str) -> tuple[_Step, ...]:
    """Read a path. Raises PathError where it is none."""
    if path == "@":
        return ()
    if len(path) > _LONGEST:
        raise PathError(f"a path of {len(path)} characters is over the {_LONGEST} that one may have")
    steps, at = [], 0
    while at < len(path):
        found = _STEP.match(path, at)
        if found is None or path[at] not in (".[" if at else path[at].replace(".", "")):
            raise PathError(f"{path!r} is not a path such as data.items or [].users[]")
        quoted, name, names, values, may, index, may_be = found.groups()
        optional = bool(may or may_be)
        if names or values:
            steps.append(_Step("names" if names else "values", optional=optional))
        elif index is None:
            steps.append(_Step("key", quoted or name, optional=optional))
        else:
            steps.append(
                _Step("index", index=int(index), optional=optional) if index else _Step("items", optional=optional)
            )
        at = found.end()
    if not steps:
        raise PathError("an empty path leads nowhere")
    return tuple(steps)


def is_plural(path: str) -> bool:
    """Tell whether a path may lead to several places."""
    return any(step.kind in {"items", "values", "names"} for step in parse(path))


def every(body: Any, path: str) -> Iterator[Any]:  # noqa: ANN401 - JSON
    """Give what stands at every place that a path leads to. Raises PathError where something is missing."""
    places = [body]
    steps = parse(path)
    for step in steps:
        places = [found for place in places for found in _follow(place, step, path)]
    return iter(places)


def one(body: Any, path: str) -> Any:  # noqa: ANN401 - JSON
    """Give what stands at the one place that a path leads to, or ABSENT where it may be so. Raises PathError."""
    found = list(every(body, path))
    if len(found) > 1:
        raise PathError(f"{path} leads to {len(found)} places, and one is wanted")
    return found[0] if found else ABSENT


def _follow(place: Any, step: _Step, path: str) -> list[Any]:  # noqa: ANN401 - JSON
    if step.optional and place is None and step.kind != "key":
        return []
    wanted = dict if step.kind in {"key", "values", "names"} else list
    if not isinstance(place, wanted):
        error = MissingError if place is None else PathError
        raise error(f"{path}: {_KINDS[wanted]} is wanted, and there is {kind_of(place)}")
    if step.kind in {"items", "names"}:
        return list(place)
    if step.kind == "values":
        return [place[name] for name in place]
    found = _member(place, step)
    if found is not ABSENT or step.optional:
        return [] if found is ABSENT or (step.optional and found is None) else [found]
    if step.kind == "index":
        raise MissingError(f"{path}: number {step.index} is wanted, and there are {len(place)}")
    known = ", ".join(name for name in islice(place, 8) if _SHOWN.fullmatch(name))
    raise MissingError(f"{path}: there is no {step.name!r}{f'; there are: {known}' if known else ''}")


def _member(place: Any, step: _Step) -> Any:  # noqa: ANN401 - JSON
    if step.kind == "index":
        return place[step.index] if step.index < len(place) else ABSENT
    return place.get(step.name, ABSENT)


def kind_of(value: Any) -> str:  # noqa: ANN401 - JSON
    """Name a kind of value, for people: never the value, which may be a secret."""
    return "nothing" if value is ABSENT else _KINDS.get(type(value), "a number")
