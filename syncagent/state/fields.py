"""The fields of a snapshot's lines: untrusted text of a source, escaped, and the digest of a reject. It is pure."""

from __future__ import annotations

import hashlib

from syncagent.addresses import MAX_SPELLED

MAX_FIELD = 500
"""Maximum number of characters of a field, but for the spelling of a reject."""
MAX_REJECT = MAX_SPELLED
"""Maximum number of characters of a reject's spelling, whose words are looked up when it is approved."""
_DIGITS = 32


def escape(text: str, limit: int = MAX_FIELD) -> str:
    """Return untrusted text as a field: cut to ``limit`` characters, backslashes and unprintable characters escaped."""
    if len(text) <= limit and text.isprintable() and "\\" not in text:
        return text
    return text[:limit].encode("unicode_escape").decode()


def unescape(field: str) -> str:
    """Return the text that ``escape`` was given, as far as it was not cut."""
    return field.encode().decode("unicode_escape") if "\\" in field else field


def reject_digest(source: str, octets: bytes) -> str:
    """Return the digest of a rejected entry, which identifies it: 32 hexadecimal digits of SHA-256."""
    return hashlib.sha256(source.encode() + b"\0" + octets).hexdigest()[:_DIGITS]
