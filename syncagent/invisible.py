"""Characters that a reader does not see: format characters and odd white space. At the ends of a value they are noise.

Sources have them by copy and paste, byte order marks and word processors. No sender writes them, so that a recipient
with one inside is never reached: it is rejected, with the code point.
"""

from __future__ import annotations

import re
import unicodedata

_FORMATS = (
    *((0xAD, 0xAD), (0x600, 0x605), (0x61C, 0x61C), (0x6DD, 0x6DD), (0x70F, 0x70F), (0x890, 0x891), (0x8E2, 0x8E2)),
    *((0x180E, 0x180E), (0x200B, 0x200F), (0x202A, 0x202E), (0x2060, 0x206F), (0xFEFF, 0xFEFF), (0xFFF9, 0xFFFB)),
    *((0x110BD, 0x110BD), (0x110CD, 0x110CD), (0x13430, 0x1343F), (0x1BCA0, 0x1BCA3), (0x1D173, 0x1D17A)),
    *((0xE0001, 0xE0001), (0xE0020, 0xE007F)),
)
"""Code points of category Cf, from each first to its last; also those that a later Unicode may assign in between."""
_SPACES = (
    *((0x85, 0x85), (0xA0, 0xA0), (0x1680, 0x1680), (0x2000, 0x200A), (0x2028, 0x2029), (0x202F, 0x202F)),
    *((0x205F, 0x205F), (0x3000, 0x3000)),
)
"""White space beyond ASCII: categories Zs, Zl and Zp, and NEL."""
_BLANKS = ((0x115F, 0x1160), (0x2800, 0x2800), (0x3164, 0x3164), (0xFFA0, 0xFFA0))
"""Letters and symbols that are drawn as a blank: Hangul fillers and the empty Braille pattern."""
_ALL = (*_FORMATS, *_SPACES, *_BLANKS)
_INSIDE = re.compile(f"[{''.join(f'{chr(first)}-{chr(last)}' for first, last in _ALL)}]")
_BLANK = " \t\r\n\v\f"
AROUND = _BLANK + "".join(chr(code) for first, last in _ALL for code in range(first, last + 1))
"""The characters that are stripped at both ends of a value, blanks and line ends among them."""

_JOINERS = "\u200c\u200d"
_VIRAMA = 9
"""Canonical combining class of the marks behind which a joiner shapes a letter, also the last one of a word."""
_JOINED = frozenset(
    {
        *("ARABIC", "SYRIAC", "MANDAIC", "NKO", "MONGOLIAN", "DEVANAGARI", "BENGALI", "GURMUKHI", "GUJARATI", "ORIYA"),
        *("TAMIL", "TELUGU", "KANNADA", "MALAYALAM", "SINHALA", "TIBETAN", "MYANMAR", "KHMER", "BALINESE", "JAVANESE"),
    }
)
"""Scripts in which a joiner or non-joiner between letters is part of the spelling: first words of character names."""


def trimmed(text: str) -> str:
    """Return a value of a source without white space and invisible characters at its ends."""
    return text.strip(_BLANK if text.isascii() else AROUND)


def first_inside(text: str) -> str:
    """Return the first invisible character of a text, "" if there is none. Joiners of a script that needs them stay."""
    if text.isascii():
        return ""
    return next((match[0] for match in _INSIDE.finditer(text) if not _joins(text, match.start())), "")


def named(char: str) -> str:
    """Return a character by code point and name, such as ``U+200B ZERO WIDTH SPACE``."""
    return f"U+{ord(char):04X} {unicodedata.name(char, '')}".rstrip()


def _joins(text: str, at: int) -> bool:
    """True if the character is a joiner or non-joiner that its neighbours need."""
    if text[at] not in _JOINERS or not at:
        return False
    before, behind = text[at - 1], text[at + 1 : at + 2]
    return _is_joined(before) and (unicodedata.combining(before) == _VIRAMA or (behind != "" and _is_joined(behind)))


def _is_joined(char: str) -> bool:
    """True for a letter or mark of a script whose letters join."""
    is_letter = unicodedata.category(char)[0] in "LM"
    return is_letter and unicodedata.name(char, "").partition(" ")[0] in _JOINED
