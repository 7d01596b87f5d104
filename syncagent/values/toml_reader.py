"""Tables of TOML to Structs, key by key, so that one problem does not hide the next."""

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
from syncagent.values.partial import Partial
from syncagent.values.quoting import quoted
from syncagent.values.toml_syntax import Keys, lines_of
from syncagent.values.types import VALUES, RecipeFile, SecretFile

_LONGEST_TEXT = 2000
"""Characters of a problem, which may have a value in it."""
_NEAR, _SURE = 0.5, 0.7
"""Similarity from which on a name is a guess, and from which on the guess is taken for what was meant."""
_WORDS = {
    "str": "a string",
    "int": "a whole number",
    "float": "a number",
    "bool": "true or false",
    "array": "an array",
    "object": "a table",
    "null": "nothing",
}
"""The types in msgspec's messages, in words."""
_UNUSABLE: Any = object()
"""The result of a conversion that failed."""


class Reader:
    """Reads the tables of one file and collects all problems.

    ``unusable`` has the path of every key without a usable value: missing, bad, or written under a name near it.
    """

    def __init__(self, file: Path, text: str) -> None:
        """``text`` is the file's, to find lines in; relative paths are relative to ``file``."""
        self._file, self._base, self._lines = str(file), file.absolute().parent, lines_of(text)
        self.problems: list[Problem] = []
        self.unusable: set[Keys] = set()

    def problem(self, path: Keys, text: str) -> None:
        """Record a problem of a key, once, with the line of the key or of the table that it should be in."""
        numbers = (self._lines[path[:end]] for end in range(len(path), 0, -1) if path[:end] in self._lines)
        problem = Problem(self._file, next(numbers, None), _clipped(_dotted(path)), _clipped(text))
        if problem not in self.problems:
            self.problems.append(problem)

    def fields(
        self, structs: tuple[type[Struct], ...], raw: object, path: Keys, elsewhere: tuple[str, ...] = ()
    ) -> list[dict[str, Any]]:
        """Return the values of a table that has the fields of ``structs`` together, by Struct.

        Problems are recorded; see ``value`` for what stands for a bad value. ``elsewhere`` names keys that the caller
        reads.
        """
        hints = {name: hint for struct in structs for name, hint in typing.get_type_hints(struct).items()}
        known = {field.name: field for struct in structs for field in msgspec.structs.fields(struct)}
        if not isinstance(raw, dict):
            self.problem(path, _no_table(raw, path))
            self.unusable |= {(*path, name) for name in known}
            return [{} for _ in structs]
        meant = {self._unknown(key, (*known, *elsewhere), path) for key in raw.keys() - known.keys() - {*elsewhere}}
        self.unusable |= {(*path, name) for name in meant - raw.keys()}
        for struct in structs:
            for field in msgspec.structs.fields(struct):
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
        """Record an unknown key; return the known one that was meant, empty if that is not certain enough."""
        self.problem((*path, key), "unknown key" + (near(key, known) or f"; known here: {', '.join(known)}"))
        return next(iter(difflib.get_close_matches(key, known, 1, _SURE)), "")

    def assemble(self, struct: type[Struct], values: dict[str, Any], path: Keys) -> Any:  # noqa: ANN401 - a Struct, or what stands for it
        """Return the Struct of a table's values, or a Partial if some of its keys are unusable."""
        unusable = frozenset(name for name in struct.__struct_fields__ if (*path, name) in self.unusable)
        if not unusable:
            return struct(**values)
        self.unusable.add(path)
        return Partial(struct, values, unusable)

    def value(self, kind: Any, raw: object, path: Keys) -> Any:  # noqa: ANN401 - any field's type
        """Return a value of a type.

        If it does not fit, a problem is recorded, ``path`` is unusable, and the result is what is left: the good
        elements of an array, a Partial of a table, None of anything else.
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
        """Return a value that is no table. Raise ValueError, or its subclass msgspec.ValidationError."""
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
    """Return X of a type ``X | None`` or ``X | UnsetType``; None if it is another type."""
    if typing.get_origin(kind) not in (types.UnionType, typing.Union):
        return None
    given = [argument for argument in typing.get_args(kind) if argument not in (types.NoneType, msgspec.UnsetType)]
    return given[0] if len(given) == 1 else None


def _fits(value: object) -> bool:
    return value is not _UNUSABLE and not isinstance(value, Partial)


def _clipped(text: str) -> str:
    return text if len(text) <= _LONGEST_TEXT else f"{text[:_LONGEST_TEXT]}..."


def near(name: str, known: typing.Iterable[str]) -> str:
    """Return ``, did you mean "..."?`` if a known name is near, else an empty string."""
    matches = difflib.get_close_matches(name, list(known), 1, _NEAR)
    return f', did you mean "{matches[0]}"?' if matches else ""


def _dotted(path: Keys) -> str:
    return ".".join(key if re.fullmatch(r"[A-Za-z0-9_-]+", key) else f'"{key}"' for key in path)


# The words of a problem.


def _no_table(raw: object, path: Keys) -> str:
    """Return the message for a value in the place of a table."""
    name = _dotted(path)
    if isinstance(raw, list) and raw and isinstance(raw[0], dict):
        return f"expected a table, got an array: write [{name}] instead of [[{name}]]"
    return f"expected a table, got {quoted(raw)}: write [{name}], and its keys below it"


def _missing(struct: type[Struct], name: str, kind: Any, path: Keys) -> str:  # noqa: ANN401 - any field's type
    """Return the message for a required key that is missing: what its docstring says, and an example."""
    from syncagent.values.field_docs import field_docs

    if isinstance(kind, type) and issubclass(kind, Struct):
        return f"required table is missing: write [{_dotted((*path, name))}], and its keys below it"
    told = field_docs(struct).get(name, "").partition("; ")[0].rstrip(".") or _expected(kind, None)
    told = told[:1].lower() + told[1:] if told[1:2].islower() or told[1:2] == " " else told
    example = _example(kind)
    return f"required key is missing: {told}" + (f", such as {example}" if example and "such as" not in told else "")


def _unfit(kind: Any, raw: object, reported: str, default: object) -> str:  # noqa: ANN401 - any field's type
    """Return the message for a value that msgspec refused: its own, in words, for a type of which no more is known."""
    expected = _expected(kind, default)
    if not expected:
        text = re.sub(r"`(\w+)`", lambda match: _WORDS.get(match[1], match[1]), re.sub(r" - at `.*`$", "", reported))
        return text[:1].lower() + text[1:]
    advice = _advice(kind, raw)
    return f"expected {expected}, got {quoted(raw)}" + (f": write {advice}" if advice else "")


def _expected(kind: Any, default: object) -> str:  # noqa: ANN401 - any field's type
    """Return what is expected, with an example; empty for a type that is not known here."""
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
    """Return what to write instead where that can be known from the value; else an empty string."""
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
    """Return an example of a value as TOML spells it; empty if none is known."""
    if inner := optional(kind):
        return _example(inner)
    if typing.get_origin(kind) is tuple:
        example = _example(typing.get_args(kind)[0])
        return f"[{example}]" if example else ""
    examples = VALUES.get(kind, {}).get("examples", ()) if isinstance(kind, type) else ()
    return quoted(examples[0]) if examples else ""
