"""The address that a value of a source means: the value itself, or the one address in its wrapper or before a comment.

``Name <a@b>``, ``<a@b>``, ``"a@b"``, ``mailto:a@b``, ``SMTP:a@b``, ``a@b,`` and ``a@b # comment`` are read where
exactly one address results. A ``*`` as local part means every address of the domain, as ``@domain`` does.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from syncagent.addresses import UnusableError, canonical, check_length, forms
from syncagent.invisible import named, trimmed
from syncagent.values.spellings import words

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

_COMMENT = re.compile(
    r'((?:[^"#;]|"(?:[^"\\]|\\.)*+"|(?<=[^ \t])[#;])++)(?<=[ \t])[#;].*', re.DOTALL
)  # outside quotes, after a blank
_NAMED = re.compile(r"[^<>]*<([^<>]*)>")
_PREFIXED = re.compile(r"(?:smtp|mailto):([^%]*)", re.IGNORECASE)  # RFC 6068 has octets escaped by %
_QUOTED = re.compile(r"""(["'])([^"'\\]*)\1""")
_LAYERS = 8
"""Maximum number of wrappers around each other."""
_STAR = "*"
_LIKE_AT = re.compile("[\uff20\ufe6b]")
_GLUED = "has # right behind an address: write a blank before # if a comment follows"
_STAR_ALONE = "is a catch-all without a domain: write @example.com for each domain that has one"


def address_of(spelled: str) -> str:
    """Return the canonical form of the one address in a value, or of its catch-all; see ``forms_of``."""
    return forms_of(spelled)[0]


def forms_of(spelled: str) -> tuple[str, ...]:
    """Return the canonical form of the one address in a value, or of its catch-all, and its other key if it has one.

    Raises UnusableError if the value as a whole is no address, and not exactly one is in it.
    """
    try:
        found = forms(spelled)
    except UnusableError as error:
        found = _wrapped(spelled)
        if not found:
            raise _reason(spelled, error) from None
    return (found[0].removeprefix(_STAR), *found[1:]) if found[0].startswith("*@") else found


def has_star(spelled: Sequence[str]) -> bool:
    """True if one of many values may be a catch-all spelled with a star, which ``canonical`` takes literally."""
    return "*@" in "\n".join(spelled)


def without_comment(text: str) -> str:
    """Return a text without a comment behind a blank and ``#`` or ``;``, and without surrounding blanks."""
    found = _COMMENT.fullmatch(text)
    return (found[1] if found else text).strip(" \t")


def comment_of(text: str) -> str:
    """Return what ``without_comment`` leaves out at the end of a text, with the blanks before it."""
    return text.strip(" \t")[len(without_comment(text)) :]


def names_another(text: str) -> bool:
    """True if a word follows a blank and ``;``: it may be a name where bare names are read. After ``#`` it is none."""
    behind = comment_of(text.strip()).lstrip(" \t")
    return behind.startswith(";") and any(map(str.isalnum, behind.partition("#")[0]))


def _reason(spelled: str, error: UnusableError) -> UnusableError:
    """Return the error of a value that cannot be read, with a better reason if one is known."""
    head, mark, _ = spelled.partition("#")
    if trimmed(spelled) == _STAR:
        return UnusableError(_STAR_ALONE)
    if "@" not in spelled and (like := _LIKE_AT.search(spelled)):
        return UnusableError(f"has {named(like[0])}, which is not @: write LOCALPART@DOMAIN")
    return UnusableError(_GLUED) if mark and "@" in head and _wrapped(head) else error


def _wrapped(spelled: str) -> tuple[str, ...]:
    """Return the forms of the one address in a wrapper, none if there is no address or another one beside it."""
    try:
        check_length(spelled)
        found = forms(_unwrapped(spelled))
    except UnusableError:
        return ()
    return () if any(map(_differs_from(found[0]), words(spelled))) else found


def _unwrapped(text: str) -> str:
    """Return a text without the wrappers around it."""
    for _ in range(_LAYERS):
        inner = text
        for strip in _WRAPPERS:
            inner = trimmed(strip(inner))
        if inner == text:
            break
        text = inner
    return text


def _inside(pattern: re.Pattern[str], group: int) -> Callable[[str], str]:
    """Return a function that returns the group of a text that matches the pattern, and any other text itself."""

    def inside(text: str) -> str:
        found = pattern.fullmatch(text)
        return found[group] if found else text

    return inside


def _without_separator(text: str) -> str:
    return text.removesuffix(",").removesuffix(";")


_WRAPPERS = (without_comment, _without_separator, _inside(_NAMED, 1), _inside(_PREFIXED, 1), _inside(_QUOTED, 2))


def _differs_from(address: str) -> Callable[[str], bool]:
    """Return a function: True for a word that looks like an address, and is not this one."""

    def differs(word: str) -> bool:
        if "@" not in word[1:-1]:
            return False
        try:
            return canonical(word.strip("'")) != address
        except UnusableError:
            return True

    return differs
