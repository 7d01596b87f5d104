"""Conversion of TOML tables to Structs, key by key, so that all problems are found in one pass."""

from __future__ import annotations

import datetime as dt
import difflib
import re
import types
import typing
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct

from syncagent.errors import Problem
from syncagent.values import struct_fields
from syncagent.values.partial import Partial
from syncagent.values.quoting import quoted
from syncagent.values.toml_syntax import Keys, lines_of
from syncagent.values.types import VALUES, RecipeFile, SecretFile

_LONGEST_TEXT = 2000
"""Maximum number of characters of the key and of the text of a problem."""
_NEAR, _SURE = 0.5, 0.7
"""Similarity (difflib) from which a known name is suggested, and from which it is assumed to be meant."""
_WORDS = {
    "str": "a string",
    "int": "a whole number",
    "float": "a number",
    "bool": "true or false",
    "array": "an array",
    "object": "a table",
    "null": "nothing",
}
"""Wording for the type names in msgspec's messages."""
_UNUSABLE: Any = object()
"""Sentinel: the result of a failed conversion."""


class Reader:
    """Reader of the tables of one file; it collects all problems.

    ``unusable`` has the path of every table or key without a usable value: missing, malformed, or misspelled.
    """

    def __init__(self, file: Path, text: str) -> None:
        """``text`` is the content of ``file``, for line numbers. Relative paths start at the directory of ``file``."""
        self._file, self._base, self._lines = str(file), file.absolute().parent, lines_of(text)
        self.problems: list[Problem] = []
        self.unusable: set[Keys] = set()

    def problem(self, path: Keys, text: str) -> None:
        """Record a problem of the key at ``path``, with the line of the key or of the nearest table around it.

        A problem that is recorded already is ignored.
        """
        numbers = (self._lines[path[:end]] for end in range(len(path), 0, -1) if path[:end] in self._lines)
        problem = Problem(self._file, next(numbers, None), _clipped(_dotted(path)), _clipped(text))
        if problem not in self.problems:
            self.problems.append(problem)

    def fields(
        self, structs: tuple[type[Struct], ...], raw: object, path: Keys, elsewhere: tuple[str, ...] = ()
    ) -> list[dict[str, Any]]:
        """Return the values of a table that has the fields of all ``structs``, as one dict for each Struct.

        Problems are recorded. A value that does not fit is as ``value`` returns it, or absent instead of None.
        If ``raw`` is not a table, all fields are unusable and the dicts are empty. ``elsewhere`` has the names of
        further keys, which the caller reads.
        """
        hints = {name: hint for struct in structs for name, hint in struct_fields.hints(struct).items()}
        known = {field.name: field for struct in structs for field in struct_fields.fields(struct)}
        if not isinstance(raw, dict):
            self.problem(path, _no_table(raw, path))
            self.unusable |= {(*path, name) for name in known}
            return [{} for _ in structs]
        meant = {self._unknown(key, (*known, *elsewhere), path) for key in raw.keys() - known.keys() - {*elsewhere}}
        self.unusable |= {(*path, name) for name in meant - raw.keys()}
        for struct in structs:
            for field in struct_fields.fields(struct):
                if field.required and field.name not in raw.keys() | meant:
                    self.unusable.add((*path, field.name))
                    self.problem((*path, field.name), _missing(struct, field.name, hints[field.name], path))
        values = {
            name: self._value(hints[name], raw[name], (*path, name), field.default)
            for name, field in known.items()
            if name in raw
        }
        fit = {name: value for name, value in values.items() if value is not _UNUSABLE}
        return [{name: value for name, value in fit.items() if name in struct.__struct_fields__} for struct in structs]

    def _unknown(self, key: str, known: tuple[str, ...], path: Keys) -> str:
        """Record an unknown key. Return the known key that it closely resembles, or an empty string."""
        self.problem((*path, key), "unknown key" + (near(key, known) or f"; known here: {', '.join(known)}"))
        return next(iter(difflib.get_close_matches(key, known, 1, _SURE)), "")

    def assemble(self, struct: type[Struct], values: dict[str, Any], path: Keys) -> Any:  # noqa: ANN401 - a Struct or a Partial
        """Return the Struct with a table's values, or a Partial if some of its keys are unusable.

        For a Partial, ``path`` is added to ``unusable``.
        """
        unusable = frozenset(name for name in struct.__struct_fields__ if (*path, name) in self.unusable)
        if not unusable:
            return struct(**values)
        self.unusable.add(path)
        return Partial(struct, values, unusable)

    def value(self, kind: Any, raw: object, path: Keys) -> Any:  # noqa: ANN401 - any field's type
        """Return a value converted to the type ``kind``.

        If it does not fit, record a problem and add ``path`` to ``unusable``. Then return the good elements of an array
        or a dict, a Partial for a Struct, and None for any other type.
        """
        value = self._value(kind, raw, path)
        return None if value is _UNUSABLE else value

    def _value(self, kind: Any, raw: object, path: Keys, default: object = None) -> Any:  # noqa: ANN401 - any field's type
        origin, arguments = typing.get_origin(kind), typing.get_args(kind)
        if inner := optional(kind):
            return self._value(inner, raw, path, default)
        if isinstance(kind, type) and issubclass(kind, Struct):
            (values,) = self.fields((kind,), raw, path)
            return self.assemble(kind, values, path)
        if origin is dict and isinstance(raw, dict):
            pairs = [
                (self._value(arguments[0], key, (*path, key)), self._value(arguments[1], value, (*path, key)))
                for key, value in raw.items()
            ]
            fit = [pair for pair in pairs if _fits(pair[0]) and _fits(pair[1])]
            self.unusable |= {path} if len(fit) < len(pairs) else set()
            return dict(fit)
        if origin is tuple and isinstance(raw, list):
            items = [self._value(arguments[0], item, path) for item in raw]
            return tuple(item for item in items if _fits(item))
        try:
            return self._decode(kind, raw)
        except msgspec.ValidationError as error:
            self.problem(path, _unfit(kind, raw, str(error), default))
        except ValueError as error:
            self.problem(path, str(error))
        self.unusable.add(path)
        return _UNUSABLE

    def _decode(self, kind: Any, raw: object) -> Any:  # noqa: ANN401 - any field's type
        """Return a value converted to a type other than a Struct.

        Raises msgspec.ValidationError, a subclass of ValueError, if it does not fit a built-in type. Raises ValueError
        if it does not fit a type in VALUES.
        """
        if kind not in VALUES:
            return msgspec.convert(raw, kind)
        if kind not in (Path, SecretFile, RecipeFile):
            return kind.parse(raw)
        if not isinstance(raw, str) or not raw or "\0" in raw:
            raise ValueError(f"expected a path, got {quoted(raw)}")
        if raw.startswith("~"):
            raise ValueError(f'~ is not expanded, got {quoted(raw)}: write the whole path, such as "/home/NAME/..."')
        if kind is not Path:
            return kind(raw if "/" not in raw else str(self._base / raw))
        return self._base / raw


def optional(kind: Any) -> Any:  # noqa: ANN401 - any field's type
    """Return X if ``kind`` is ``X | None`` or ``X | UnsetType``, otherwise None."""
    if typing.get_origin(kind) not in (types.UnionType, typing.Union):
        return None
    given = [argument for argument in typing.get_args(kind) if argument not in (types.NoneType, msgspec.UnsetType)]
    return given[0] if len(given) == 1 else None


def _fits(value: object) -> bool:
    return value is not _UNUSABLE and not isinstance(value, Partial)


def _clipped(text: str) -> str:
    return text if len(text) <= _LONGEST_TEXT else f"{text[:_LONGEST_TEXT]}..."


def near(name: str, known: typing.Iterable[str]) -> str:
    """Return ``, did you mean "..."?`` with the most similar known name, or an empty string if none is similar."""
    matches = difflib.get_close_matches(name, list(known), 1, _NEAR)
    return f', did you mean "{matches[0]}"?' if matches else ""


def _dotted(path: Keys) -> str:
    return ".".join(key if re.fullmatch(r"[A-Za-z0-9_-]+", key) else f'"{key}"' for key in path)


# --- texts of problems


def _no_table(raw: object, path: Keys) -> str:
    """Return the message for a value that is not a table but should be."""
    name = _dotted(path)
    if isinstance(raw, list) and raw and isinstance(raw[0], dict):
        return f"expected a table, got an array: write [{name}] instead of [[{name}]]"
    return f"expected a table, got {quoted(raw)}: write [{name}], and its keys below it"


def _missing(struct: type[Struct], name: str, kind: Any, path: Keys) -> str:  # noqa: ANN401 - any field's type
    """Return the message for a required key or table that is missing.

    For a key it has the start of the field's docstring, or else its type, and an example.
    """
    from syncagent.values.field_docs import field_docs

    if isinstance(kind, type) and issubclass(kind, Struct):
        return f"required table is missing: write [{_dotted((*path, name))}], and its keys below it"
    told = field_docs(struct).get(name, "").partition("; ")[0].rstrip(".") or _expected(kind, None)
    told = told[:1].lower() + told[1:] if told[1:2].islower() or told[1:2] == " " else told
    example = _example(kind)
    return f"required key is missing: {told}" + (f", such as {example}" if example and "such as" not in told else "")


def _unfit(kind: Any, raw: object, reported: str, default: object) -> str:  # noqa: ANN401 - any field's type
    """Return the message for a value that msgspec refused.

    It is ``reported``, msgspec's message, with type names reworded, if ``_expected`` does not know the type.
    """
    expected = _expected(kind, default)
    if not expected:
        text = re.sub(r"`(\w+)`", lambda match: _WORDS.get(match[1], match[1]), re.sub(r" - at `.*`$", "", reported))
        return text[:1].lower() + text[1:]
    advice = _advice(kind, raw)
    return f"expected {expected}, got {quoted(raw)}" + (f": write {advice}" if advice else "")


def _expected(kind: Any, default: object) -> str:  # noqa: ANN401 - any field's type
    """Return the description of a valid value, with an example, such as ``a number such as 10``.

    It is empty for a type that is not in this function. ``default`` is the example if it is a number.
    """
    number = f"{default:g}" if isinstance(default, int | float) and not isinstance(default, bool) else "10"
    if typing.get_origin(kind) is typing.Literal:
        return f"one of {', '.join(map(quoted, typing.get_args(kind)))}"
    if typing.get_origin(kind) is tuple:
        example = _example(kind)
        return f"an array such as {example}" if example else "an array"
    if typing.get_origin(kind) is dict:
        return "a table"
    simple = {
        str: "a string",
        bool: "true or false",
        int: f"a whole number such as {number}",
        float: f"a number such as {number}",
    }
    return simple.get(kind, "")


def _advice(kind: Any, raw: object) -> str:  # noqa: ANN401 - any field's type
    """Return the corrected value in TOML if it follows from ``raw``, otherwise an empty string."""
    if typing.get_origin(kind) is tuple and isinstance(raw, str):
        words = raw.replace(",", " ").split() if typing.get_args(kind)[0] is not str else [raw]
        return f"[{', '.join(map(quoted, words))}]"
    if kind is str and isinstance(raw, int | float | dt.date | dt.time):
        return f'"{quoted(raw).removeprefix("the ").removeprefix("date ").removeprefix("time ")}"'
    if kind is bool and isinstance(raw, str):
        booleans = {"yes": "true", "on": "true", "true": "true", "no": "false", "off": "false", "false": "false"}
        return booleans.get(raw.lower(), "")
    return ""


def _example(kind: Any) -> str:  # noqa: ANN401 - any field's type
    """Return an example value in TOML, or an empty string if VALUES has none for the type."""
    if inner := optional(kind):
        return _example(inner)
    if typing.get_origin(kind) is tuple:
        example = _example(typing.get_args(kind)[0])
        return f"[{example}]" if example else ""
    examples = VALUES.get(kind, {}).get("examples", ()) if isinstance(kind, type) else ()
    return quoted(examples[0]) if examples else ""
