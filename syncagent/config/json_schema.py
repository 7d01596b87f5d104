"""JSON Schema of the configuration, generated from its Structs, for completion and validation in editors."""

from __future__ import annotations

import typing
from typing import Any

import msgspec

from syncagent import sources
from syncagent.config.tables import DomainLimits, Tables
from syncagent.values.field_docs import field_docs
from syncagent.values.toml_reader import optional
from syncagent.values.types import VALUES


def schema() -> dict[str, Any]:
    """Return the JSON Schema (draft 2020-12). Installed source kinds that cannot be loaded are left out."""
    tables = {name: _table(table) for name, table in typing.get_type_hints(Tables).items()}
    tables["limits"]["additionalProperties"] = _table(DomainLimits)
    kinds = {f"source-{kind}": _source(kind) for kind in sorted(sources.kinds()) if _can_be_loaded(kind)}
    one_of = [{"$ref": f"#/$defs/{name}"} for name in kinds]
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "syncagent.toml",
        "type": "object",
        "properties": tables
        | {"sources": {"type": "object", "minProperties": 1, "additionalProperties": {"oneOf": one_of}}},
        "required": ["postfix", "sources"],
        "additionalProperties": False,
        "$defs": kinds,
    }


def _can_be_loaded(kind: str) -> bool:
    try:
        sources.load(kind)
    except sources.BrokenKindError:
        return False
    return True


def _source(kind: str) -> dict[str, Any]:
    """Return the schema of a table of one source kind: the common keys, then its own."""
    common, own = _table(sources.Common), _table(sources.load(kind).Config)
    properties = common["properties"] | own["properties"]
    properties["type"] = properties["type"] | {"const": kind}
    return own | {"title": f'type = "{kind}"', "properties": properties, "required": ["type", *own["required"]]}


def _table(struct: type[msgspec.Struct]) -> dict[str, Any]:
    hints, docs = typing.get_type_hints(struct), field_docs(struct)
    own = list(struct.__annotations__)  # fields in source order, inherited fields last
    fields = sorted(msgspec.structs.fields(struct), key=lambda field: [*own, field.name].index(field.name))
    return {
        "title": struct.__name__,
        "description": (struct.__doc__ or "").partition("\n")[0],
        "type": "object",
        "properties": {
            field.name: _described(_type(hints[field.name]), docs.get(field.name, "")) | _default(field.default)
            for field in fields
        },
        "required": [field.name for field in fields if field.required],
        "additionalProperties": False,
    }


def _described(node: dict[str, Any], doc: str) -> dict[str, Any]:
    """Return a key's schema. Its description is the key's docstring, followed by the description of its type."""
    more = node.get("description", "")
    text = " ".join(filter(None, (doc, f"{more[:1].upper()}{more[1:]}." if doc and more else more)))
    return node | {"description": text} if text else node


def _type(kind: Any) -> dict[str, Any]:  # noqa: ANN401 - any field's type
    if inner := optional(kind):
        return _type(inner)
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin is tuple:
        return {"type": "array", "items": _type(arguments[0])}
    if origin is dict:
        return {"type": "object", "additionalProperties": _type(arguments[1])}
    if isinstance(kind, type) and issubclass(kind, msgspec.Struct):
        return _table(kind)
    return dict(VALUES[kind]) if kind in VALUES else msgspec.json.schema(kind)


def _default(value: object) -> dict[str, Any]:
    """Return ``{"default": VALUE}``, with the value as TOML spells it.

    The dict is empty if there is no default, or if it is None, UNSET or ().
    """
    if value in (msgspec.NODEFAULT, msgspec.UNSET, None, ()):
        return {}
    return {"default": str(value) if type(value) in VALUES or hasattr(value, "parts") else value}
