"""A table of which some keys could not be read, so that the other keys can still be validated."""

from __future__ import annotations

from typing import Any

import msgspec
from msgspec import Struct


class UnusableError(Exception):
    """A key was used whose value could not be read."""


class Partial:
    """Stands for a Struct: its attributes are the keys that could be read, and the defaults of those that are unset.

    Any other attribute raises UnusableError. ``values`` has what could be read; of an array with bad elements, the
    good ones.
    """

    def __init__(self, struct: type[Struct], values: dict[str, Any], unusable: frozenset[str]) -> None:
        """``unusable`` names the fields that are missing or have a bad value."""
        self.struct, self.values, self.unusable = struct, values, unusable

    @classmethod
    def nothing(cls, struct: type[Struct]) -> Partial:
        """Return a table of which nothing could be read."""
        return cls(struct, {}, frozenset(struct.__struct_fields__))

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401 - any field's type
        """Return a field's value or default. Raise UnusableError if there is none."""
        if name in self.unusable:
            raise UnusableError(name)
        if name in self.values:
            return self.values[name]
        return default(self.struct, name)


def default(struct: type[Struct], name: str) -> Any:  # noqa: ANN401 - any field's type
    """Return the default of a field. Raise UnusableError if it has none, AttributeError if there is no such field."""
    for field in msgspec.structs.fields(struct):
        if field.name != name:
            continue
        if field.default is not msgspec.NODEFAULT:
            return field.default
        if field.default_factory is not msgspec.NODEFAULT:
            return field.default_factory()
        raise UnusableError(name)
    raise AttributeError(name)


def elements(table: object, name: str) -> tuple[Any, ...]:
    """Return the elements of an array that could be read, whether the others could be read or not."""
    if isinstance(table, Partial) and name in table.unusable:
        return tuple(table.values.get(name, ()))
    return tuple(getattr(table, name))
