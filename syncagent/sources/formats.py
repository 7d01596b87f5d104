"""What the lines of a file mean: each format turns chunks of whole lines to entries.

To add one: a function here, its name in ``FORMATS`` and in the ``format`` key of ``file.py``, its tests, a README line.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING

from syncagent import mapfile
from syncagent.normalise import UnusableError, canonical_domain

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from syncagent.model import Entry
    from syncagent.sources import Sink

_BATCH = 10_000
_SPACE = " \t\r\v\f"


@dataclass(frozen=True, slots=True)
class Reading:
    """The file being read: where its entries go, what completes a bare local part, what stands before line numbers."""

    sink: Sink
    domains: tuple[str, ...]
    prefix: str

    def entries(self, spelled: str, number: int) -> Iterator[Entry]:
        """Give the entries of one spelling: itself, or at each of the domains where it is a bare local part."""
        key = f"{self.prefix}{number}"
        if "@" in spelled or not self.domains:
            yield spelled, key, ""
        else:
            yield from ((f"{spelled}@{domain}", key, "") for domain in self.domains)

    def reject(self, octets: bytes, reason: str, number: int) -> None:
        """Record what cannot be an entry."""
        self.sink.reject(octets.decode(errors="backslashreplace"), reason, f"{self.prefix}{number}")


def lines(chunks: Iterable[bytes], reading: Reading) -> Iterator[list[Entry]]:
    """Read an address a line; ``#`` at the start of a line makes a comment."""
    number = 0
    for chunk in chunks:
        octets = chunk.removesuffix(b"\n").split(b"\n")
        spelled = _decoded(chunk, octets, reading, number)
        batch: list[Entry] = []
        for at, line in enumerate(spelled, number + 1):
            if line and line[0] != "#":
                if "@" in line:
                    batch.append((line, f"{reading.prefix}{at}", ""))
                else:
                    batch.extend(reading.entries(line, at))
        yield batch
        number += len(octets)


def _decoded(chunk: bytes, octets: list[bytes], reading: Reading, number: int) -> list[str]:
    """Give the lines as text, less white space around them; one that is not UTF-8 is a reject, and empty."""
    try:
        return [line.strip(_SPACE) for line in chunk.decode().removesuffix("\n").split("\n")]
    except UnicodeDecodeError:
        return [_decoded_line(line, reading, at) for at, line in enumerate(octets, number + 1)]


def _decoded_line(line: bytes, reading: Reading, number: int) -> str:
    try:
        return line.decode().strip(_SPACE)
    except UnicodeDecodeError:
        if not line.lstrip().startswith(b"#"):
            reading.reject(line, "is not UTF-8", number)
        return ""


def postmap(chunks: Iterable[bytes], reading: Reading) -> Iterator[list[Entry]]:
    """Read the left side of a Postfix table. Bare domains, as virtual(5) has them, are passed over."""
    entries = (
        entry
        for number, line in mapfile.logical_lines(_physical(chunks))
        for entry in _table_line(number, line, reading)
    )
    while batch := list(islice(entries, _BATCH)):
        yield batch


def _physical(chunks: Iterable[bytes]) -> Iterator[bytes]:
    return (line for chunk in chunks for line in chunk.removesuffix(b"\n").split(b"\n"))


def _table_line(number: int, line: bytes, reading: Reading) -> Iterator[Entry]:
    parts = mapfile.split(line)
    if parts is None:
        reading.reject(line, "has a quote that is not closed", number)
        return
    key, value = parts
    try:
        spelled = key.decode()
    except UnicodeDecodeError:
        reading.reject(key, "is not UTF-8", number)
        return
    if not value:
        reading.reject(key, "has no right side: Postfix ignores such a line", number)
    elif _is_domain(spelled, reading.domains):
        reading.sink.ignore(1)
    else:
        yield from reading.entries(spelled, number)


def _is_domain(key: str, own: tuple[str, ...]) -> bool:
    """Tell a bare domain from a bare local part with a dot: where there are domains to complete it, by those."""
    if "@" in key or "." not in key:
        return False
    try:
        domain = canonical_domain(key)
    except UnusableError:
        return False
    return not own or any(domain == mine or domain.endswith(f".{mine}") for mine in own)


FORMATS: dict[str, Callable[[Iterable[bytes], Reading], Iterator[list[Entry]]]] = {"lines": lines, "postmap": postmap}
