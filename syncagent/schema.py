"""The JSON Schema of the configuration, for editors, made from the types that read it."""

from __future__ import annotations

from typing import Any

import msgspec

from syncagent import config, sources
from syncagent.values import VALUES


def schema() -> dict[str, Any]:
    """Give the schema, with every installed kind of source that can be loaded."""
    tables = (
        config.Postfix,
        config.DomainLimits,
        config.Limits,
        config.Schedule,
        config.State,
        sources.Common,
    )
    _, defs = msgspec.json.schema_components(tables, schema_hook=_value, ref_template="#/$defs/{name}")
    common = defs.pop("Common")
    for kind in sorted(sources.kinds()):
        try:
            own = sources.load(kind).Config
        except sources.BrokenKindError:
            continue
        defs[f"source-{kind}"] = _source(kind, own, common)
    del defs["Limits"]["properties"]["domains"]
    for table in defs.values():
        table.setdefault("additionalProperties", False)
    defs["Limits"]["additionalProperties"] = {"$ref": "#/$defs/DomainLimits"}
    one_of = [{"$ref": f"#/$defs/{name}"} for name in defs if name.startswith("source-")]
    named = {name.lower(): {"$ref": f"#/$defs/{name}"} for name in ("Postfix", "Limits", "Schedule", "State")}
    sources_table = {"type": "object", "minProperties": 1, "additionalProperties": {"oneOf": one_of}}
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "syncagent.toml",
        "type": "object",
        "properties": named | {"sources": sources_table},
        "required": ["postfix", "sources"],
        "additionalProperties": False,
        "$defs": defs,
    }


def _source(kind: str, own: type, common: dict[str, Any]) -> dict[str, Any]:
    """Give the table of one kind of source: what all have, and its own keys."""
    (_, defs) = msgspec.json.schema_components((own,), schema_hook=_value, ref_template="#/$defs/{name}")
    table: dict[str, Any] = defs[own.__name__]
    properties = common["properties"] | table["properties"] | {"type": {"const": kind}}
    return table | {
        "title": f'type = "{kind}"',
        "properties": properties,
        "required": ["type", *table["required"]],
    }


def _value(kind: type) -> dict[str, Any]:
    return dict(VALUES[kind])
