"""A TOML table to a Struct, key by key, so that one problem does not hide the next."""

from __future__ import annotations

import difflib
import re
import tomllib
import types
import typing
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct

from syncagent.errors import Problem
from syncagent.values.types import VALUES, RecipeFile, SecretFile

Keys = tuple[str, ...]
_LONGEST_TEXT = 2000
"""Characters of a problem, which may have a value in it."""
_MOST_PARTS = 100
_PART = r"""(?:[A-Za-z0-9_-]+|"[^"\n]*"|'[^'\n]*')"""
_LONG_KEY = re.compile(rf"""(?<![\w.'"-])(?:{_PART}[ \t]*\.[ \t]*){{{_MOST_PARTS}}}""")


class Reader:
    """Reads the tables of one file and collects what is wrong with them."""

    def __init__(self, file: Path, text: str) -> None:
        """``text`` is the file's, to find lines in; relative paths are relative to ``file``."""
        self._file, self._base, self._lines = str(file), file.absolute().parent, lines_of(text)
        self.problems: list[Problem] = []

    def problem(self, path: Keys, text: str) -> None:
        """Note a problem at a key, and the line of it or of what it should stand in."""
        known = (self._lines[path[:end]] for end in range(len(path), 0, -1) if path[:end] in self._lines)
        self.problems.append(Problem(self._file, next(known, None), _clipped(_dotted(path)), _clipped(text)))

    def fields(
        self, structs: tuple[type[Struct], ...], raw: object, path: Keys, elsewhere: tuple[str, ...] = ()
    ) -> list[dict[str, Any]]:
        """Convert every key of a table by the fields of ``structs`` together; give the values by Struct.

        What is wrong is noted and left out. ``elsewhere`` names keys that are read in another place.
        """
        if not isinstance(raw, dict):
            self.problem(path, f"expected a table, not {_kind(raw)}")
            return [{} for _ in structs]
        hints = [typing.get_type_hints(struct) for struct in structs]
        known = {field.name: field for struct in structs for field in msgspec.structs.fields(struct)}
        types_of = {name: hint for each in hints for name, hint in each.items()}
        for key in raw.keys() - known.keys():
            keys = (*known, *elsewhere)
            self.problem((*path, key), "unknown key" + (near(key, keys) or f"; known here: {', '.join(keys)}"))
        for name, field in known.items():
            if field.required and name not in raw:
                self.problem((*path, name), f"is missing: expected {_wants(types_of[name])}")
        values = {key: self.value(types_of[key], raw[key], (*path, key)) for key in known if key in raw}
        return [{key: value for key, value in values.items() if key in struct.__struct_fields__} for struct in structs]

    def value(self, kind: Any, raw: object, path: Keys) -> Any:  # noqa: ANN401 - any field's type
        """Convert one value; None, and a problem noted, where it does not fit."""
        origin, arguments = typing.get_origin(kind), typing.get_args(kind)
        given = [argument for argument in arguments if argument not in (types.NoneType, msgspec.UnsetType)]
        if origin in (types.UnionType, typing.Union) and len(given) == 1:
            return self.value(given[0], raw, path)
        if isinstance(kind, type) and issubclass(kind, Struct):
            count = len(self.problems)
            (values,) = self.fields((kind,), raw, path)
            return kind(**values) if len(self.problems) == count else None
        if origin is dict and isinstance(raw, dict):
            pairs = ((key, self.value(arguments[0], key, (*path, key)), value) for key, value in raw.items())
            return {key: self.value(arguments[1], value, (*path, name)) for name, key, value in pairs}
        if origin is tuple and isinstance(raw, list):
            return tuple(self.value(arguments[0], value, path) for value in raw)
        try:
            return self._decode(kind, raw)
        except ValueError as error:  # msgspec's own is one
            self.problem(path, re.sub(r" - at `.*`$", "", str(error)).replace("Expected", "expected"))
            return None

    def _decode(self, kind: Any, raw: object) -> Any:  # noqa: ANN401 - any field's type
        if typing.get_origin(kind) is typing.Literal and raw not in typing.get_args(kind):
            known = ", ".join(f'"{one}"' for one in typing.get_args(kind))
            raise ValueError(f"expected one of {known}, not {raw!r}")
        if kind not in VALUES:
            return msgspec.convert(raw, kind)
        if kind not in (Path, SecretFile, RecipeFile):
            return kind.parse(raw)
        if not isinstance(raw, str) or not raw or "\0" in raw:
            raise ValueError(f"expected a path, not {raw!r}")
        if kind is not Path:
            return kind(raw if "/" not in raw else str(self._base / raw))
        return self._base / raw


def tables(text: str) -> dict[str, Any]:
    """Parse TOML. Raises ValueError, whose text says what is wrong, with the line where it is known."""
    if _LONG_KEY.search(text):  # whose cost grows with the square of its parts
        raise ValueError(f"a key has over {_MOST_PARTS} parts")
    try:
        return tomllib.loads(text)
    except RecursionError:
        raise ValueError("nested too deeply") from None
    except tomllib.TOMLDecodeError:
        raise
    except ValueError:  # int() of more digits than Python converts
        raise ValueError("a number has too many digits") from None


def _clipped(text: str) -> str:
    return text if len(text) <= _LONGEST_TEXT else f"{text[:_LONGEST_TEXT]}..."


def near(name: str, known: typing.Iterable[str]) -> str:
    """Give ``, did you mean "..."?`` where a known name is near, else nothing."""
    found = difflib.get_close_matches(name, list(known), 1, 0.5)
    return f', did you mean "{found[0]}"?' if found else ""


def lines_of(text: str) -> dict[Keys, int]:
    """Find the line of each table and key, well enough to point at it."""
    part = r"""(?:[A-Za-z0-9_-]+|"[^"]*"|'[^']*')"""
    found: dict[Keys, int] = {}
    table: Keys = ()
    for number, line in enumerate(text.split("\n"), 1):
        header = re.match(r"\s*\[+([^\[\]]+)\]+\s*(?:#.*)?$", line)
        key = re.match(rf"\s*({part}(?:\s*\.\s*{part})*)\s*=", line)
        if header:
            table = _keys(header[1])
            found.setdefault(table, number)
        elif key:
            path = _keys(key[1])
            for end in range(1, len(path) + 1):
                found.setdefault((*table, *path[:end]), number)
    return found


def _keys(dotted: str) -> Keys:
    return tuple(key.strip("\"'") for key in re.findall(r"""[A-Za-z0-9_-]+|"[^"]*"|'[^']*'""", dotted))


def _dotted(path: Keys) -> str:
    return ".".join(key if re.fullmatch(r"[A-Za-z0-9_-]+", key) else f'"{key}"' for key in path)


def _kind(raw: object) -> str:
    return {list: "an array", str: "a string", bool: "true or false"}.get(type(raw), "a number")


def _wants(kind: Any) -> str:  # noqa: ANN401 - any field's type
    if typing.get_origin(kind) is tuple:
        return f"an array such as [{_example(typing.get_args(kind)[0])}]"
    if isinstance(kind, type) and issubclass(kind, Struct):
        return "a table"
    return f"a value such as {_example(kind)}" if kind in VALUES else "a string"


def _example(kind: type) -> str:
    return f'"{VALUES.get(kind, {}).get("examples", ["..."])[0]}"'
