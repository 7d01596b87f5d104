"""What is no text: other encodings than UTF-8, compressed files, indexes of tables. Each has a message of its own.

Such a file is neither damaged nor incomplete: it is the wrong file, or in the wrong form. It is pure: no files.
"""

from __future__ import annotations

_TEXT = "save it as UTF-8 (PowerShell: -Encoding utf8)"
_INDEX = "is an index of a Postfix table: name the text that it is made from"
_MAGIC: tuple[tuple[int, bytes, str], ...] = (
    (0, b"\xff\xfe\0\0", f"is UTF-32: {_TEXT}"),
    (0, b"\0\0\xfe\xff", f"is UTF-32: {_TEXT}"),
    (0, b"\xff\xfe", f"is UTF-16: {_TEXT}"),
    (0, b"\xfe\xff", f"is UTF-16: {_TEXT}"),
    (0, b"\x1f\x8b", "is compressed by gzip: unpack it"),
    (4, b"1AY&SY", "is compressed by bzip2: unpack it"),
    (0, b"\xfd7zXZ\0", "is compressed by xz: unpack it"),
    (0, b"\x28\xb5\x2f\xfd", "is compressed by zstd: unpack it"),
    (0, b"PK\x03\x04", "is a ZIP archive, or a spreadsheet such as .xlsx: unpack it, or save it as CSV in UTF-8"),
    (0, b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", "is an old Office document: save it as CSV in UTF-8"),
    (0, b"SQLite format 3\0", "is an SQLite database: write its addresses to a list"),
    (0, b"%PDF-", "is a PDF document: write its addresses to a list"),
    (12, b"\x61\x15\x06\0", _INDEX),  # Berkeley DB, hash
    (12, b"\0\x06\x15\x61", _INDEX),
    (12, b"\x62\x31\x05\0", _INDEX),  # Berkeley DB, btree
    (12, b"\0\x05\x31\x62", _INDEX),
    (16, b"\xde\xc0\xef\xbe", _INDEX),  # LMDB
    (16, b"\xbe\xef\xc0\xde", _INDEX),
)
"""Octets at a place near the beginning of a file, as in magic(5), and what they mean."""
INDEX_ENDINGS = (".db", ".lmdb", ".cdb", ".dir", ".pag")
"""The endings of the indexes of Postfix tables, see DATABASE_README."""
_NUL = "contains a NUL octet: it is damaged, or not a list of addresses"
_FEWEST, _ENOUGH = 4, 64
"""Minimum and maximum number of octets by which UTF-16 without a byte order mark is recognized."""


def kind_of(beginning: bytes) -> str:
    """Return what a file is by its first octets, as a predicate with the remedy; "" if they may be text in UTF-8."""
    return next((text for at, magic, text in _MAGIC if beginning.startswith(magic, at)), "")


def kind_with_nul(name: str, beginning: bytes) -> str:
    """Return what a file with a NUL octet is, as a predicate with the remedy. ``name`` is its name."""
    if name.endswith(INDEX_ENDINGS):
        return _INDEX
    octets = beginning[:_ENOUGH]
    is_utf16 = len(octets) >= _FEWEST and any(octets) and not (any(octets[1::2]) and any(octets[::2]))
    return f"is UTF-16: {_TEXT}" if is_utf16 else _NUL
