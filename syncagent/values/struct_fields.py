"""Fields and type hints of Structs, evaluated once for each Struct: that took most of the time of reading a file."""

import functools
import types
import typing
from collections.abc import Mapping
from typing import Any

import msgspec
from msgspec import Struct
from msgspec.structs import FieldInfo


@functools.cache
def fields(struct: type[Struct]) -> tuple[FieldInfo, ...]:
    """Return the fields of a Struct, in their order."""
    return msgspec.structs.fields(struct)


@functools.cache
def hints(struct: type[Struct]) -> Mapping[str, Any]:
    """Return the type hints of a Struct, by field name. Raises whatever the evaluation of an annotation raises."""
    return types.MappingProxyType(typing.get_type_hints(struct))
