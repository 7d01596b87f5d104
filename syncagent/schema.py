"""The JSON Schema of the configuration, for editors, made from the types that read it."""

from __future__ import annotations

import types
import typing
from typing import Any

import msgspec

from syncagent import config, sources
from syncagent.values import VALUES


def schema() -> dict[str, Any]:
    """Give the schema, with every installed kind of source that can be loaded."""
    tables = {table.__name__: _table(table) for table in (config.Postfix, config.Schedule, config.State)}
    limits = _table(config.GeneralLimits) | {"additionalProperties": _table(config.DomainLimits)}
    kinds = {f"source-{kind}": _source(kind) for kind in sorted(sources.kinds()) if _is_whole(kind)}
    one_of = [{"$ref": f"#/$defs/{name}"} for name in kinds]
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "syncagent.toml",
        "type": "object",
        "properties": {name.lower(): table for name, table in tables.items()}
        | {"limits": limits}
        | {"sources": {"type": "object", "minProperties": 1, "additionalProperties": {"oneOf": one_of}}},
        "required": ["postfix", "sources"],
        "additionalProperties": False,
        "$defs": kinds,
    }


def _is_whole(kind: str) -> bool:
    try:
        sources.load(kind)
    except sources.BrokenKindError:
        return False
    return True


def _source(kind: str) -> dict[str, Any]:
    """Give the table of one kind of source: what all have, and its own keys."""
    common, own = _table(sources.Common), _table(sources.load(kind).Config)
    properties = common["properties"] | own["properties"] | {"type": {"const": kind}}
    return own | {"title": f'type = "{kind}"', "properties": properties, "required": ["type", *own["required"]]}


def _table(struct: type[msgspec.Struct]) -> dict[str, Any]:
    hints = typing.get_type_hints(struct)
    fields = msgspec.structs.fields(struct)
    return {
        "title": struct.__name__,
        "description": (struct.__doc__ or "").partition("\n")[0],
        "type": "object",
        "properties": {field.name: _type(hints[field.name]) | _default(field.default) for field in fields},
        "required": [field.name for field in fields if field.required],
        "additionalProperties": False,
    }


def _type(kind: Any) -> dict[str, Any]:  # noqa: ANN401 - any field's type
    arguments = [one for one in typing.get_args(kind) if one not in (types.NoneType, msgspec.UnsetType)]
    origin = typing.get_origin(kind)
    if origin in (types.UnionType, typing.Union) and len(arguments) == 1:
        return _type(arguments[0])
    if origin is tuple:
        return {"type": "array", "items": _type(arguments[0])}
    if origin is dict:
        return {"type": "object", "additionalProperties": _type(arguments[1])}
    if isinstance(kind, type) and issubclass(kind, msgspec.Struct):
        return _table(kind)
    return dict(VALUES[kind]) if kind in VALUES else msgspec.json.schema(kind)


def _default(value: object) -> dict[str, Any]:
    """Give a default as it would be spelled; none where there is none to spell."""
    if value in (msgspec.NODEFAULT, msgspec.UNSET, None, ()):
        return {}
    return {"default": str(value) if type(value) in VALUES or hasattr(value, "parts") else value}
