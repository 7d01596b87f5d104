"""Parsing of TOML text to dicts. An error shows its line, a caret below its column, and a correction if it is known."""

from __future__ import annotations

import re
import tomllib
from typing import Any

_MOST_PARTS = 40
"""Number of dots from which a dotted key is refused.

The search for long keys also matches in strings and comments, so the limit exceeds the 34 labels of an ip6.arpa name.
"""
_PART = r"""(?:[A-Za-z0-9_-]+|"(?:[^"\\\n]|\\.)*+"|'[^'\n]*')"""
_LONG_KEY = re.compile(rf"""(?<![\w.'"\\-])(?:{_PART}[ \t]*\.[ \t]*){{{_MOST_PARTS}}}""")
_PLACE = re.compile(r" \(at (?:line (\d+), column (\d+)|end of document)\)$")
_SMART_QUOTES = re.compile("[\u2018\u2019\u201a\u201b\u201c\u201d\u201e\u201f\u2032\u2033\u00ab\u00bb]")
_BYTE_ORDER_MARK = "\ufeff"
_WIDTH = 100
"""Maximum number of characters shown of a line or word."""
_BOOLEANS = {"yes": "true", "on": "true", "True": "true", "TRUE": "true"}
_BOOLEANS |= {"no": "false", "off": "false", "False": "false", "FALSE": "false"}
_REWORDED = {
    "Expected '=' after a key": "expected = after the key",
    "Expected ']' at the end of a table declaration": "expected ] at the end of the table's name",
    "Expected newline or end of document after a statement": "expected the end of the line",
    "Illegal character '\\n'": "the string has no closing quotation mark in its line",
    "Unescaped '\\' in a string": "a \\ begins an escape in \"...\": write the string in '...'",
    "Invalid value": "expected a value",
}
"""Wording of syncagent for the messages of tomllib, by how these begin."""
Keys = tuple[str, ...]
"""The path of a key: the names of the tables around it, from the outermost on, then its own."""


class TomlError(ValueError):
    """The text is not TOML, or exceeds a limit. ``line`` counts from 1; None if the line is not known."""

    def __init__(self, text: str, line: int | None = None) -> None:
        """``text`` is the message, with an excerpt of the line if there is one."""
        self.line = line
        super().__init__(text)


def parse(text: str) -> dict[str, Any]:
    """Return the top-level table of a TOML text as a dict.

    Raises TomlError if the text is not TOML, begins with a byte order mark, or exceeds a limit: of a key's parts, of
    nesting, or of a number's digits.
    """
    if text.startswith(_BYTE_ORDER_MARK):
        fault = "the file begins with a byte order mark (U+FEFF): save it as UTF-8 without one"
        raise TomlError(fault, 1)
    if _LONG_KEY.search(text):  # tomllib takes quadratic time in the parts of a key
        raise TomlError(f"a key has over {_MOST_PARTS} parts")
    try:
        return tomllib.loads(text)
    except RecursionError:
        raise TomlError("nested too deeply") from None
    except tomllib.TOMLDecodeError as error:
        raise _located(str(error), text) from None
    except ValueError:  # int() limits the number of digits
        raise TomlError("a number has too many digits") from None


def _located(reported: str, text: str) -> TomlError:
    """Return the TomlError for the message ``reported`` of tomllib.

    Its text is the correction, if that is known, otherwise the reworded message; an excerpt of the line follows. An
    error at the end of the text has neither line nor excerpt.
    """
    place = _PLACE.search(reported)
    if place is None or place[1] is None:
        return TomlError("the file ends within a value or a name: is a closing ], } or quotation mark missing?")
    number, column = int(place[1]), int(place[2])
    lines = text.split("\n")
    line = lines[number - 1]
    fault = _advice(line, column) or _twice(_PLACE.sub("", reported), lines, number) or _reworded(reported)
    return TomlError(f"{fault}\n{_excerpt(line, column)}", number)


def _reworded(reported: str) -> str:
    for start, words in _REWORDED.items():
        if reported.startswith(start):
            return words
    text = _PLACE.sub("", reported)
    return text[:1].lower() + text[1:]


def _twice(reported: str, lines: list[str], number: int) -> str:
    """Return the message for a table or key that is defined twice, with the line of an earlier definition.

    It is empty for any other error.
    """
    if declared := re.match(r"Cannot declare (\(.*\)) twice", reported):
        keys = tuple(re.findall(r"'([^']*)'", declared[1]))
        first = lines_of("\n".join(lines[: number - 1])).get(keys)
        place = f" (first in line {first})" if first else ""
        return f"[{'.'.join(keys)}] is there a second time{place}: put all its keys below the first"
    if not reported.startswith("Cannot overwrite a value"):
        return ""
    key = lines[number - 1].partition("=")[0].strip()
    earlier = [at for at in range(1, number) if lines[at - 1].partition("=")[0].strip() == key]
    place = f" (line {earlier[-1]})" if earlier else ""
    return f"{key} has a value already{place}: keep one of the two"


def _advice(line: str, column: int) -> str:
    """Return the correction of a frequent mistake; empty for any other mistake."""
    quote = _SMART_QUOTES.match(line, column - 1) or (column > len(line) and _SMART_QUOTES.search(line))
    if quote:
        return f'{quote[0]} is a typographic quotation mark: write " instead'
    if re.match(r"\s*[\w-]+\s*:", line):
        return "expected KEY = VALUE, with = and not with :"
    word = re.match(r"[^\s,\]#=\"']+", line[column - 1 :])
    if not word or not re.fullmatch(r"\s*[\w.-]+\s*=\s*\[?\s*", line[: column - 1]):
        return ""
    shown = word[0][:_WIDTH]
    return f"expected a value, got {shown}: write " + (_BOOLEANS.get(shown) or f'"{shown}", in quotation marks')


def _excerpt(line: str, column: int) -> str:
    """Return the part of the line around the column, and below it a caret at the column.

    Unprintable characters become spaces: escapes would move the caret.
    """
    start = max(0, column - 1 - _WIDTH // 2)
    shown = "".join(char if char.isprintable() else " " for char in line[start : start + _WIDTH])
    return f"  {shown}\n  {' ' * (column - 1 - start)}^"


def lines_of(text: str) -> dict[Keys, int]:
    """Return the line number of each table and key, by path.

    The text is searched line by line, not parsed: lines of multi-line strings may be taken for keys.
    """
    part = r"""(?:[A-Za-z0-9_-]+|"[^"]*"|'[^']*')"""
    lines: dict[Keys, int] = {}
    table: Keys = ()
    for number, line in enumerate(text.split("\n"), 1):
        header = re.match(r"\s*\[+([^\[\]]+)\]+\s*(?:#.*)?$", line)
        key = re.match(rf"\s*({part}(?:\s*\.\s*{part})*)\s*=", line)
        if header:
            table = _keys(header[1])
            lines.setdefault(table, number)
        elif key:
            path = _keys(key[1])
            for end in range(1, len(path) + 1):
                lines.setdefault((*table, *path[:end]), number)
    return lines


def _keys(dotted: str) -> Keys:
    return tuple(key.strip("\"'") for key in re.findall(r"""[A-Za-z0-9_-]+|"[^"]*"|'[^']*'""", dotted))
