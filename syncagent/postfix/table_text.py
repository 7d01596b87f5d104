"""Render the text that postmap(1) reads, and parse it as Postfix does.

Rules: postmap(1) "TABLE FORMAT" and postmap's source; where these are ambiguous, tests with postmap decided.
"""

from __future__ import annotations

import contextlib
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from syncagent import addresses as normalise
from syncagent.errors import LineTooLongError

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator, Mapping

RENDERER = "1"
"""Version of the rendering, recorded with a published map. If it differs, the map is published again."""

HEADER = (
    b"# Written by syncagent: changes made here are lost. Add addresses to one of its sources, see syncagent.toml.\n"
)
_VALUE = b" OK\n"
_LISTED_VALUE = re.compile(rb"\t.*")
_SPACE = b" \t\v\f\r"
_KEY = re.compile(rb'[^"\\ \t\v\f\r]*+(?:(?:\\.|"(?:[^"\\]|\\.)*+")[^"\\ \t\v\f\r]*+)*+', re.DOTALL)


@dataclass(frozen=True, slots=True)
class Rendering:
    """How the text of a table is rendered: its first line, and the functions for its other lines.

    ``render`` yields chunks of the text, without the first line, from chunks of keys, one a line. ``keys`` returns the
    keys of ``postmap -s`` lines, ``KEY TAB VALUE``.
    """

    header: bytes
    render: Callable[[Iterable[bytes]], Iterator[bytes]]
    keys: Callable[[bytes], bytes]


def render(chunks: Iterable[bytes]) -> Iterator[bytes]:
    """Yield chunks of the text without its header. The input has one address a line, in chunks of any size."""
    for chunk in chunks:
        yield chunk.replace(b"\n", _VALUE)


def listed_keys(lines: bytes) -> bytes:
    """Return the keys of ``postmap -s`` lines, ``KEY TAB VALUE``, whatever the values are."""
    return _LISTED_VALUE.sub(b"", lines)


RECIPIENTS = Rendering(HEADER, render, lambda lines: lines.replace(b"\tOK\n", b"\n"))
"""The rendering of the tables of recipients and of relay domains."""


def second_forms(lines: Iterable[bytes]) -> Iterator[bytes]:
    """Yield the case-folded U-label forms of canonical addresses in IDN domains, one a line.

    They must be keys as well: Postfix does not convert one form to the other.
    """
    for line in lines:
        if b"xn--" in line:
            for form in normalise.renderings(line.rstrip(b"\n").decode())[1:]:
                yield form.casefold().encode() + b"\n"  # as Postfix will fold it: ß becomes ss


def logical_lines(lines: Iterable[bytes]) -> Iterator[tuple[int, bytes]]:
    """Yield ``(number, line)`` for each logical line; ``number`` is that of its first physical line, from 1.

    Comments and blank lines are dropped, continuation lines joined. Raises LineTooLongError if a logical line is
    longer than 1 MiB.
    """
    held: list[bytes] = []
    size = start = 0
    for number, line in enumerate(lines, 1):
        bare = line.rstrip(b"\n")
        stripped = bare.strip(_SPACE)
        if not stripped or stripped.startswith(b"#"):
            continue
        if bare[:1] not in (b" ", b"\t", b"\v", b"\f", b"\r"):
            if held:
                yield start, b"".join(held)
            held, size, start = [], 0, number
        held.append(bare)
        size, start = size + len(bare), start or number
        if size > normalise.MAX_LINE:
            raise LineTooLongError(
                f"a line of over {normalise.MAX_LINE} octets, with what continues it, from line {start} on"
            )
    if held:
        yield start, b"".join(held)


def split(line: bytes) -> tuple[bytes, bytes] | None:
    """Split a logical line into key and value at the first white space outside quotes.

    Returns None if a quote is not closed.
    """
    if b'"' not in line and b"\\" not in line:
        if line[:1] in _SPACE:
            return b"", line.strip(_SPACE)
        key, *value = line.split(None, 1)
        return key, value[0].strip(_SPACE) if value else b""
    match = _KEY.match(line)
    end = match.end() if match else 0
    if line[end : end + 1] == b'"':
        return None
    if line[end : end + 1] == b"\\":  # the line's last octet: it escapes nothing
        end += 1
    return line[:end], line[end:].strip(_SPACE)


def published(lines: Iterable[bytes], relay_domains: Collection[str], dead: Dead) -> Iterator[bytes]:
    """Yield the recipients that a text publishes, one a line, unsorted and possibly with duplicates.

    Keys are case-folded as Postfix does it, and domains become A-labels where possible; ``relay_domains`` is used to
    recognise U-labels that case folding has changed. Entries written by hand are recipients as well. Lines that publish
    no recipient count in ``dead``.
    """
    folded = {normalise.u_labels(domain).casefold(): domain for domain in relay_domains if "xn--" in domain}
    for domain in relay_domains:
        folded.pop(domain, None)
    for _, line in logical_lines(lines):
        address = recipient(line, folded)
        if address is None:
            dead.count += 1
        else:
            yield address.encode() + b"\n"


class Dead:
    """A counter of the logical lines that publish no recipient."""

    def __init__(self) -> None:
        """Start at 0."""
        self.count = 0


def recipient(line: bytes, folded_domains: Mapping[str, str]) -> str | None:
    """Return the recipient that a logical line publishes, as a string.

    ``folded_domains`` maps case-folded U-label domains to their A-labels. Returns None if postmap drops the line,
    if smtpd can never match its key, or if the key is too long for a table.
    """
    try:
        line.decode()  # postmap drops the line even if only its value is not UTF-8
    except UnicodeDecodeError:
        return None
    key, value = split(line) or (b"", b"")
    if len(key) > normalise.MAX_SPELLED:
        return None
    local, at, domain = key.decode().casefold().rpartition("@")
    if not value or not at or not domain or any(char in local + domain for char in "\0\r\n\t"):
        return None
    known = normalise.within(domain, folded_domains.keys())
    with contextlib.suppress(normalise.UnusableError):  # a malformed domain is kept as it is
        unfolded = domain.removesuffix(known) + folded_domains[known] if known else domain
        domain = normalise.canonical_domain(unfolded)
    address = f"{local}@{domain}"
    return address if normalise.longest_key(address) <= normalise.MAX_KEY else None
