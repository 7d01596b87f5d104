"""Whether a secret, or a part of it, is in a text or a file, however a server may have encoded it."""

import base64
import html
import json
from pathlib import Path
from urllib.parse import quote, quote_plus

_PART = 8
"""Length in characters of the parts that are looked for: less may occur by chance."""


def spellings(secret: str, user: str = "") -> dict[str, str]:
    """Return the forms in which a server may echo a secret. ``user`` is the name of Basic authentication."""
    octets, basic = secret.encode(), f"{user}:{secret}".encode()
    return {
        "plain": secret,
        "percent": quote(secret, safe=""),
        "lower percent": quote(secret, safe="").lower(),
        "every octet": "".join(f"%{octet:02X}" for octet in octets),
        "form": quote_plus(secret),
        "json": json.dumps(secret),
        "json twice": json.dumps(json.dumps(secret)),
        "html": html.escape(secret),
        "entities": "".join(f"&#{ord(char)};" for char in secret),
        "filter": "".join(f"\\{octet:02x}" for octet in octets),
        "python": repr(secret.encode()),
        "hex": octets.hex(),
        "base64": base64.b64encode(octets).decode(),
        "url base64": base64.urlsafe_b64encode(octets).decode(),
        "basic": base64.b64encode(basic).decode(),
        "percent basic": quote(base64.b64encode(basic).decode(), safe=""),
        "upper": secret.upper(),
        "latin-1": octets.decode("latin-1"),
    }


def leaks(text: str, secret: str, user: str = "") -> list[str]:
    """Return the forms of which the text has a part. The user's name in front is no secret."""
    return [name for name, spelled in spellings(secret, user).items() if _has_part(text, spelled, _public(name, user))]


def _has_part(text: str, spelled: str, begin: int) -> bool:
    return any(spelled[at : at + _PART] in text for at in range(begin, max(begin + 1, len(spelled) - _PART + 1)))


def _public(form: str, user: str) -> int:
    """Return the length of the beginning of a form that has the user's name and a colon."""
    return len(base64.b64encode(f"{user}:".encode())) if form.endswith("basic") else 0


def in_directory(directory: Path, secret: str, user: str = "") -> dict[str, list[str]]:
    """Return the forms that each file below a directory has a part of; no file that has none."""
    texts = {str(file): file.read_bytes().decode(errors="replace") for file in directory.rglob("*") if file.is_file()}
    return {name: found for name, text in texts.items() if (found := leaks(text, secret, user))}
