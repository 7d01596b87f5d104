"""Values as a message shows them: as TOML spells them, and only the start of a long one."""

from __future__ import annotations

import json
from datetime import date, datetime, time

_LIMIT = 100
"""Characters of a value in a message."""


def quoted(value: object) -> str:
    """Return a value as TOML spells it; an array, a table or a date is named, not spelled."""
    if isinstance(value, str):
        text = json.dumps(value[:_LIMIT], ensure_ascii=False).replace("\x7f", "\\u007f")
        return f"{text}..." if len(value) > _LIMIT else text
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list):
        return "an array"
    if isinstance(value, dict):
        return "a table"
    if isinstance(value, date | datetime | time):
        return f"the {'time' if isinstance(value, time) else 'date'} {value}"
    text = repr(value)
    return f"{text[:_LIMIT]}..." if len(text) > _LIMIT else text
