"""Stand-ins for tables with unusable keys, so that their other keys can still be validated.

A key is unusable if it is required and missing, if its name is misspelled, or if its value is malformed.
"""

from __future__ import annotations

from typing import Any

import msgspec
from msgspec import Struct

from syncagent.values import struct_fields


class UnusableError(Exception):
    """An unusable key was accessed; the argument is its name."""


class Partial:
    """A stand-in for a Struct with unusable keys.

    Its attributes are the values of the other keys, or their defaults; an unusable key raises UnusableError.
    ``values`` has the values as read. An unusable array or table in it has only its good elements or keys.
    """

    def __init__(self, struct: type[Struct], values: dict[str, Any], unusable: frozenset[str]) -> None:
        """``values`` are by field name; ``unusable`` has the names of unusable fields."""
        self.struct, self.values, self.unusable = struct, values, unusable

    @classmethod
    def nothing(cls, struct: type[Struct]) -> Partial:
        """Return a stand-in with no values, whose keys are all unusable."""
        return cls(struct, {}, frozenset(struct.__struct_fields__))

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401 - any field's type
        """Return a field's value or default.

        Raises UnusableError if the field is unusable, AttributeError if there is no such field.
        """
        if name in self.unusable:
            raise UnusableError(name)
        if name in self.values:
            return self.values[name]
        return default(self.struct, name)


def default(struct: type[Struct], name: str) -> Any:  # noqa: ANN401 - any field's type
    """Return the default of a field. Raises UnusableError if it has none, AttributeError if there is no such field."""
    for field in struct_fields.fields(struct):
        if field.name != name:
            continue
        if field.default is not msgspec.NODEFAULT:
            return field.default
        if field.default_factory is not msgspec.NODEFAULT:
            return field.default_factory()
        raise UnusableError(name)
    raise AttributeError(name)


def elements(table: object, name: str) -> tuple[Any, ...]:
    """Return the elements of an array; if the array is unusable, its good elements."""
    if isinstance(table, Partial) and name in table.unusable:
        return tuple(table.values.get(name, ()))
    return tuple(getattr(table, name))
