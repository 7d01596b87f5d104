"""The JSON Schema of the configuration, for editors, made from the types that read it."""

from __future__ import annotations

import ast
import inspect
import itertools
import textwrap
import types
import typing
from typing import Any

import msgspec

from syncagent import sources
from syncagent.config import load as config
from syncagent.values.types import VALUES


def schema() -> dict[str, Any]:
    """Give the schema, with every installed kind of source that can be loaded."""
    tables = {name: _table(table) for name, table in typing.get_type_hints(config.Tables).items()}
    tables["limits"]["additionalProperties"] = _table(config.DomainLimits)
    kinds = {f"source-{kind}": _source(kind) for kind in sorted(sources.kinds()) if _is_whole(kind)}
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


def _is_whole(kind: str) -> bool:
    try:
        sources.load(kind)
    except sources.BrokenKindError:
        return False
    return True


def _source(kind: str) -> dict[str, Any]:
    """Give the table of one kind of source: what all have, and its own keys."""
    common, own = _table(sources.Common), _table(sources.load(kind).Config)
    properties = common["properties"] | own["properties"]
    properties["type"] = properties["type"] | {"const": kind}
    return own | {"title": f'type = "{kind}"', "properties": properties, "required": ["type", *own["required"]]}


def _table(struct: type[msgspec.Struct]) -> dict[str, Any]:
    hints, told = typing.get_type_hints(struct), _told(struct)
    own = list(struct.__annotations__)  # in the order of the source file, and before those of a base
    fields = sorted(msgspec.structs.fields(struct), key=lambda field: [*own, field.name].index(field.name))
    return {
        "title": struct.__name__,
        "description": (struct.__doc__ or "").partition("\n")[0],
        "type": "object",
        "properties": {
            field.name: _described(_type(hints[field.name]), told.get(field.name, "")) | _default(field.default)
            for field in fields
        },
        "required": [field.name for field in fields if field.required],
        "additionalProperties": False,
    }


def _told(struct: type[msgspec.Struct]) -> dict[str, str]:
    """Give the docstrings of a table's keys, which are nowhere but in the source; none where there is no source."""
    told: dict[str, str] = {}
    for owner in reversed(struct.__mro__):
        if not issubclass(owner, msgspec.Struct) or owner is msgspec.Struct:
            continue
        try:
            (definition,) = ast.parse(textwrap.dedent(inspect.getsource(owner))).body
        except (OSError, TypeError):
            continue
        body = definition.body if isinstance(definition, ast.ClassDef) else []
        for key, text in itertools.pairwise(body):
            match key, text:
                case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(value=ast.Constant(value=str(words))):
                    told[name] = " ".join(words.split())
    return told


def _described(node: dict[str, Any], told: str) -> dict[str, Any]:
    """Add a key's docstring, before what there is to say of its type."""
    more = node.get("description", "")
    text = " ".join(filter(None, (told, f"{more[:1].upper()}{more[1:]}." if told and more else more)))
    return node | {"description": text} if text else node


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
