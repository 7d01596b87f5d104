"""Patterns of text, as in fnmatch(3), and which of them match an address. Case does not count."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from fnmatch import fnmatchcase

_LOCAL = frozenset("abcdefghijklmnopqrstuvwxyz0123456789!#$%&'*+/=?^_`{|}~-.")
_LABEL = frozenset("abcdefghijklmnopqrstuvwxyz0123456789-_")
_PARTS = re.compile(r"\*|\?|\[!?\]?[^\]]*\]|.", re.DOTALL)
_ADDRESS, _BEGIN, _INSIDE = -3, -2, -1
_Part = Callable[[str], bool]


def matches(text: str, patterns: Iterable[str]) -> bool:
    """True if a text matches one of the patterns."""
    folded = text.casefold()
    return any(fnmatchcase(folded, pattern.casefold()) for pattern in patterns)


def literal(text: str) -> str:
    """Return the pattern that matches this text alone."""
    return re.sub(r"([*?[])", r"[\1]", text)


def matched_address(pattern: str, domains: Iterable[str]) -> str:
    """Return an unquoted address of one of the domains, or their subdomains, that a pattern matches; "" if none."""
    parts = _PARTS.findall(pattern.casefold())
    if any(len(part) == 1 and part not in "*?@" and part not in _LOCAL for part in parts):
        return ""
    return next(filter(None, (_search(parts, domain) for domain in domains if _may_end(parts, domain))), "")


def _may_end(parts: list[str], domain: str) -> bool:
    """True unless the single characters at the end of the pattern exclude the domain."""
    for part, char in zip(reversed(parts), reversed(domain), strict=False):
        if part == "*":
            return True
        if not _takes(part, char):
            return False
    return True


def _takes(part: str, char: str) -> bool:
    return fnmatchcase(char, part)


def _search(parts: list[str], domain: str) -> str:
    """Return the shortest address of a domain that the parts of a pattern match, "" if there is none.

    A state is the number of parts used, and the place in the address: in the local part, at the begin of a label,
    inside a label, or behind a number of characters of the domain.
    """
    every = _LOCAL | {"@"}
    named = every if any(part[0] == "[" for part in parts) else every.intersection("".join(parts))
    alphabet = sorted({*named, *domain, "u", "@", "."})
    states, seen = {(at, _ADDRESS): "" for at in _after_stars(parts, 0)}, set[tuple[int, int]]()
    while states:
        found = next((text for (at, place), text in states.items() if at == len(parts) and place == len(domain)), "")
        if found:
            return found
        seen |= states.keys()
        states = {
            (behind, new): text + char
            for (at, place), text in states.items()
            if at < len(parts)
            for char in alphabet
            if _takes(parts[at], char)
            for new in _places(place, char, domain)
            for behind in ({at} if parts[at] == "*" else set()) | _after_stars(parts, at + (parts[at] != "*"))
            if (behind, new) not in seen
        }
    return ""


def _after_stars(parts: list[str], at: int) -> set[int]:
    """Return the places at which a pattern may go on: ``at``, and behind the stars that follow."""
    found = {at}
    while at < len(parts) and parts[at] == "*":
        at += 1
        found.add(at)
    return found


def _places(place: int, char: str, domain: str) -> Iterable[int]:
    """Yield the places in an address behind a character at ``place``."""
    if place == _ADDRESS:
        if char in _LOCAL:
            yield _ADDRESS
        if char == "@":
            yield _BEGIN
        return
    if place >= 0:
        if place < len(domain) and domain[place] == char:
            yield place + 1
        return
    if char in _LABEL:
        yield _INSIDE
    if char == "." and place == _INSIDE:
        yield _BEGIN
    if place == _BEGIN and char == domain[0]:
        yield 1
