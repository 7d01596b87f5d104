"""TOML text to plain tables. A fault is shown with its line, a caret below its column, and what to write instead."""

from __future__ import annotations

import re
import tomllib
from typing import Any

_MOST_PARTS = 100
_PART = r"""(?:[A-Za-z0-9_-]+|"[^"\n]*"|'[^'\n]*')"""
_LONG_KEY = re.compile(rf"""(?<![\w.'"-])(?:{_PART}[ \t]*\.[ \t]*){{{_MOST_PARTS}}}""")
_PLACE = re.compile(r" \(at (?:line (\d+), column (\d+)|end of document)\)$")
_SMART_QUOTES = re.compile("[\u2018\u2019\u201a\u201b\u201c\u201d\u201e\u201f\u2032\u2033\u00ab\u00bb]")
_BYTE_ORDER_MARK = "\ufeff"
_WIDTH = 100
"""Characters of a line that are shown."""
_BOOLEANS = {"yes": "true", "on": "true", "True": "true", "TRUE": "true"}
_BOOLEANS |= {"no": "false", "off": "false", "False": "false", "FALSE": "false"}
_REWORDED = (
    (
        r"Cannot declare \((.*?),?\) twice",
        "{0} is there a second time: put all its keys in one place",
    ),
    (r"Cannot overwrite a value", "this key has a value already: keep one of the two lines"),
    (r"Expected '=' after a key in a key/value pair", "expected = after the key"),
    (r"Expected ']' at the end of a table declaration", "expected ] at the end of the table's name"),
    (r"Expected newline or end of document after a statement", "expected the end of the line"),
    (r"Illegal character '\\n'", "the string has no closing quote on its line"),
    (r"Unescaped '\\\\' in a string", "a \\ in \"...\" begins an escape: write the string in '...'"),
    (r"Unclosed array", "the array has no closing ]"),
    (r"Unterminated string", "the string has no closing quotes"),
    (r"Invalid value", "expected a value"),
)
"""What tomllib reports, as a pattern, and how it is told: its words are those of a parser, and of Python."""


class TomlError(ValueError):
    """The text is not TOML. ``line`` counts from 1; None where the fault has no place."""

    def __init__(self, text: str, line: int | None = None) -> None:
        """``text`` says what is wrong, and shows the line where there is one."""
        self.line = line
        super().__init__(text)


def parse(text: str) -> dict[str, Any]:
    """Return the tables of a TOML text. Raise TomlError."""
    if text.startswith(_BYTE_ORDER_MARK):
        fault = "the file begins with a byte order mark (U+FEFF): save it as UTF-8 without one"
        raise TomlError(fault, 1)
    if _LONG_KEY.search(text):  # whose cost grows with the square of its parts
        raise TomlError(f"a key has over {_MOST_PARTS} parts")
    try:
        return tomllib.loads(text)
    except RecursionError:
        raise TomlError("nested too deeply") from None
    except tomllib.TOMLDecodeError as error:
        raise _located(str(error), text) from None
    except ValueError:  # int() of more digits than Python converts
        raise TomlError("a number has too many digits") from None


def _located(reported: str, text: str) -> TomlError:
    """Return the error with its place, from what tomllib reports."""
    place = _PLACE.search(reported)
    fault = _reworded(_PLACE.sub("", reported))
    if place is None or place[1] is None:
        return TomlError(f"{fault} (at the end of the file)")
    number, column = int(place[1]), int(place[2])
    line = (text.split("\n")[number - 1 :] or [""])[0]
    return TomlError(f"{_advice(line, column) or fault}\n{_excerpt(line, column)}", number)


def _reworded(reported: str) -> str:
    for pattern, words in _REWORDED:
        if match := re.search(pattern, reported):
            keys = [part.strip().strip("'\"") for part in match.groups()[0].split(",")] if match.groups() else []
            return words.format(".".join(keys)) if keys else words
    return reported[:1].lower() + reported[1:]


def _advice(line: str, column: int) -> str:
    """Return what to write instead, for the mistakes that are often made; empty for others."""
    if quote := _SMART_QUOTES.search(line):
        return f'{quote[0]} is a typographic quotation mark: write " instead'
    if line[:1] == _BYTE_ORDER_MARK:
        return "a byte order mark (U+FEFF) in the middle of the file: remove it"
    word = re.match(r"[^\s,\]#=\"']+", line[column - 1 :])
    if re.fullmatch(r"\s*[\w.-]+\s*=\s*\[?\s*", line[: column - 1]) and word:
        if word[0] in _BOOLEANS:
            return f"expected a value, got {word[0]}: write {_BOOLEANS[word[0]]}"
        return f'expected a value, got {word[0][:_WIDTH]}: write "{word[0][:_WIDTH]}", in quotation marks'
    if re.match(r"\s*[\w-]+\s*:", line):
        return "expected KEY = VALUE, with = and not with :"
    return ""


def _excerpt(line: str, column: int) -> str:
    """Return the line, cut to what is near the column, and a caret below the column."""
    start = max(0, column - 1 - _WIDTH // 2)
    shown = "".join(char if char.isprintable() else " " for char in line[start : start + _WIDTH])
    return f"  {shown}\n  {' ' * (column - 1 - start)}^"
