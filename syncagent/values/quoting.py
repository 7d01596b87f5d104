"""Quoting of configuration values in messages."""

from __future__ import annotations

import json
from datetime import date, datetime, time

_LIMIT = 100
"""Maximum number of characters of a value in a message."""


def quoted(value: object) -> str:
    """Return a value as TOML spells it, cut to 100 characters and "...".

    The result for an array is "an array", for a table "a table", and for a date such as "the date 2026-01-31".
    """
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
