"""Render the text that postmap(1) reads, and parse it as Postfix does.

Rules: postmap(1) "TABLE FORMAT" and the source of postmap; measured where the two are ambiguous.
"""

from __future__ import annotations

import contextlib
import re
from typing import TYPE_CHECKING

from syncagent import addresses as normalise
from syncagent.errors import LineTooLongError

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Mapping

RENDERER = "1"
"""Version of the rendering, recorded with a published map: with another version the map is written again."""

HEADER = (
    b"# Written by syncagent: changes made here are lost. Add addresses to one of its sources, see syncagent.toml.\n"
)
_VALUE = b" OK\n"
_SPACE = b" \t\v\f\r"
_KEY = re.compile(rb'[^"\\ \t\v\f\r]*+(?:(?:\\.|"(?:[^"\\]|\\.)*+")[^"\\ \t\v\f\r]*+)*+', re.DOTALL)


def render(chunks: Iterable[bytes]) -> Iterator[bytes]:
    """Yield the lines of the text, without its header, from chunks of addresses, one a line and cut anywhere."""
    for chunk in chunks:
        yield chunk.replace(b"\n", _VALUE)


def second_forms(lines: Iterable[bytes]) -> Iterator[bytes]:
    """Yield the U-label forms of canonical addresses that must be keys as well, one a line."""
    for line in lines:
        if b"xn--" in line:
            for form in normalise.renderings(line.rstrip(b"\n").decode())[1:]:
                yield form.casefold().encode() + b"\n"  # as Postfix will fold it: ß becomes ss


def logical_lines(lines: Iterable[bytes]) -> Iterator[tuple[int, bytes]]:
    """Yield ``(number, line)`` of each logical line: comments and blank lines dropped, continuations joined.

    Raises LineTooLongError for one of over a megabyte.
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
    """Split a logical line into key and value at the first white space outside quotes; None for an unclosed quote."""
    if b'"' not in line and b"\\" not in line:
        if line[:1] in _SPACE:
            return b"", line.strip(_SPACE)
        key, *value = line.split(None, 1)
        return key, value[0].strip(_SPACE) if value else b""
    match = _KEY.match(line)
    end = match.end() if match else 0
    if line[end : end + 1] == b'"':
        return None
    if line[end : end + 1] == b"\\":  # the line's last octet: there is nothing that it escapes
        end += 1
    return line[:end], line[end:].strip(_SPACE)


def published(lines: Iterable[bytes], relay_domains: Collection[str], dead: Dead) -> Iterator[bytes]:
    """Yield the recipients that a text publishes, one a line, unsorted and perhaps twice.

    Keys are folded as Postfix folds them, and otherwise not changed: entries written by hand are recipients until the
    guard lets them go. Both forms of an IDN domain are one recipient; ``relay_domains`` serves to recognise U-labels
    whose folding differs. Lines that Postfix could never match, or that no table type could hold, count in ``dead``.
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
    """The number of lines of a text that publish no recipient."""

    def __init__(self) -> None:
        """Start at 0."""
        self.count = 0


def recipient(line: bytes, folded_domains: Mapping[str, str]) -> str | None:
    """Return the recipient that a logical line publishes; None if Postfix drops the line, or could never match it."""
    try:
        line.decode()  # postmap drops the whole line, be it the value that is not UTF-8
    except UnicodeDecodeError:
        return None
    key, value = split(line) or (b"", b"")
    if len(key) > normalise.MAX_SPELLED:
        return None
    local, at, domain = key.decode().casefold().rpartition("@")
    if not value or not at or not domain or any(char in local + domain for char in "\0\r\n\t"):
        return None
    known = normalise.within(domain, folded_domains.keys())
    with contextlib.suppress(normalise.UnusableError):  # a malformed one stays as it is: not ours to drop
        unfolded = domain.removesuffix(known) + folded_domains[known] if known else domain
        domain = normalise.canonical_domain(unfolded)
    address = f"{local}@{domain}"
    return address if normalise.longest_key(address) <= normalise.MAX_KEY else None
