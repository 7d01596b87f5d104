"""Right sides of a table's lines: those that refuse mail, and lines of pattern tables. It is pure.

A key whose right side refuses is no recipient and no catch-all. Upper and lower case count: a lower-case word is a
destination, such as a mailbox called "reject". A right side that only defers, such as ``450`` or ``error:4.2.1``, a
pipe or /dev/null is that of a recipient. See access(5), transport(5), error(8), and the ``:fail:`` of Exim.
"""

from __future__ import annotations

import re

_REFUSING = re.compile(
    rb"""(?: REJECT | DISCARD | BOUNCE | 5[0-9][0-9] ) (?: [\ \t\v\f\r] | \Z )
    | error: (?! 4\.[0-9] )
    | discard:
    | :fail: | :blackhole:""",
    re.VERBOSE,
)
_REFUSING_ALIAS = re.compile(rb'"?:(?:fail|blackhole):')
_PATTERN_LINE = re.compile(rb"!?/.+/[a-zA-Z]*(?:[ \t]|\Z)|if[ \t]*!?/|endif\s*\Z", re.DOTALL)


def refuses(value: bytes) -> bool:
    """True if a right side of a Postfix or sendmail table refuses mail."""
    return _REFUSING.match(value) is not None


def alias_refuses(value: bytes) -> bool:
    """True if a right side of an aliases file refuses mail, as in Exim and cPanel."""
    return _REFUSING_ALIAS.match(value) is not None


def is_of_pattern_table(line: bytes) -> bool:
    """True if a logical line looks like one of a pcre or regexp table: see pcre_table(5), regexp_table(5)."""
    return _PATTERN_LINE.match(line) is not None
