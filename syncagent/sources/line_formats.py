"""What the lines of a file mean: each format turns chunks of whole lines to entries.

To add one: a function here, its name in ``FORMATS`` and in the ``format`` key of ``file.py``, its tests, a README line.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice, repeat
from typing import TYPE_CHECKING

from syncagent.addresses import MAX_SPELLED, UnusableError, canonical_domain, too_long
from syncagent.errors import DamagedError, FailureKind, SourceError
from syncagent.postfix import table_text as mapfile

if TYPE_CHECKING:
    from syncagent.model import Entry
    from syncagent.sources import Sink

_BATCH = 10_000
_SPACE = " \t\r\v\f\ufeff"  # the last is a byte order mark, as between two files put together
_PASSWD_FIELDS, _UID_DIGITS = 7, 10
_ALIAS = re.compile(rb'("[^"\\]*(?:\\.[^"\\]*)*"|[^\s":#][^\s":]*)\s*:(?:\s*\S)')
_SHOWN = 60
"""Characters of a foreign name in a message."""


Format = Callable[[Iterable[bytes], "Reading"], Iterator[list["Entry"]]]
"""Chunks of whole lines to entries, some thousands at a time.

Raises SourceError where the file cannot be what it is said to be.
"""


@dataclass(frozen=True, slots=True)
class Options:
    """What is configured of a format: what completes a bare local part, and what single formats need."""

    domains: tuple[str, ...] = ()
    min_uid: int = 0
    column: str = ""
    delimiter: str = ","


@dataclass(frozen=True, slots=True)
class Reading:
    """The text being read: where its entries go, what is configured, what stands before line numbers."""

    sink: Sink
    config: Options
    name: str
    prefix: str

    def entries(self, spelled: str, number: int) -> Iterator[Entry]:
        """Give the entries of one spelling: itself, or at each of the domains where it is a bare local part."""
        return self.completed((spelled, f"{self.prefix}{number}", ""))

    def completed(self, entry: Entry) -> Iterator[Entry]:
        """Give the entry, or one at each of the domains where it is a bare local part."""
        local, key, label = entry
        if "@" in local or not self.config.domains or too_long(local):
            yield entry
        else:
            yield from ((f"{local}@{domain}", key, label) for domain in self.config.domains)

    def at_domains(self, local: str, number: int) -> Iterator[Entry]:
        """Give the entries of a local part: it, at each of the domains."""
        yield from ((f"{local}@{domain}", f"{self.prefix}{number}", "") for domain in self.config.domains)

    def reject(self, octets: bytes, reason: str, number: int) -> None:
        """Record what cannot be an entry, or the start of it."""
        self.sink.reject(octets[:MAX_SPELLED].decode(errors="backslashreplace"), reason, f"{self.prefix}{number}")


def lines(chunks: Iterable[bytes], reading: Reading) -> Iterator[list[Entry]]:
    """Read an address a line; ``#`` at the start of a line makes a comment."""
    number = 0
    for chunk in chunks:
        spelled = _decoded(chunk, reading, number)
        keys = map(str, range(number + 1, number + 1 + len(spelled)))
        if reading.prefix:
            keys = map(reading.prefix.__add__, keys)
        batch = list(zip(spelled, keys, repeat("")))
        if b"#" in chunk or not all(spelled):
            batch = [entry for entry in batch if entry[0] and entry[0][0] != "#"]
        yield [entry for one in batch for entry in reading.completed(one)] if reading.config.domains else batch
        number += len(spelled)


def _decoded(chunk: bytes, reading: Reading, number: int) -> list[str]:
    """Give the lines as text, less white space around them; one that is not UTF-8 is a reject, and empty."""
    if chunk.isascii() and not any(space in chunk for space in (b" ", b"\t", b"\r", b"\v", b"\f")):
        return chunk.decode().removesuffix("\n").split("\n")
    try:
        return [line.strip(_SPACE) for line in chunk.decode().removesuffix("\n").split("\n")]
    except UnicodeDecodeError:
        lines = chunk.removesuffix(b"\n").split(b"\n")
        return [_decoded_line(line, reading, at) for at, line in enumerate(lines, number + 1)]


def _decoded_line(line: bytes, reading: Reading, number: int) -> str:
    return "" if line.lstrip().startswith(b"#") else _text(line.strip(), reading, number).strip(_SPACE)


def _postmap(chunks: Iterable[bytes], reading: Reading) -> Iterator[Entry]:
    """Read the left side of a Postfix table. Bare domains, as virtual(5) has them, are passed over."""
    for number, line in _logical(chunks, reading):
        yield from _table_line(number, line, reading)


def _table_line(number: int, line: bytes, reading: Reading) -> Iterator[Entry]:
    parts = mapfile.split(line)
    if parts is None:
        reading.reject(line, "has a quote that is not closed", number)
        return
    key, value = parts
    spelled = _text(key, reading, number)
    if not spelled:
        return
    if not value:
        reading.reject(key, "has no right side: Postfix ignores such a line", number)
    elif _is_domain(spelled, reading.config.domains):
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


def _aliases(chunks: Iterable[bytes], reading: Reading) -> Iterator[Entry]:
    """Read the names of an aliases(5) file, each at each of the domains; what they stand for is not looked at."""
    for number, line in _logical(chunks, reading):
        name = _ALIAS.match(line)
        if name is None:
            reading.reject(line, "is not NAME: VALUE, as aliases(5) has it", number)
        elif spelled := _text(name[1], reading, number):
            yield from reading.at_domains(spelled, number)


def _passwd(chunks: Iterable[bytes], reading: Reading) -> Iterator[Entry]:
    """Read the login names of a passwd(5) file whose uid is at least ``min_uid``, each at each of the domains."""
    for number, line in enumerate(_physical(chunks), 1):
        fields = line.split(b":")
        if not line.strip():
            continue
        if len(fields) != _PASSWD_FIELDS or not fields[2].isdigit() or len(fields[2]) > _UID_DIGITS:
            name = fields[0]  # and nothing else: the next field may be a password
            reading.reject(name, "is not NAME:PASSWORD:UID:GID:GECOS:HOME:SHELL, as passwd(5) has it", number)
        elif int(fields[2]) < reading.config.min_uid:
            reading.sink.ignore(1)
        elif spelled := _text(fields[0], reading, number):
            yield from reading.at_domains(spelled, number)


def _csv(chunks: Iterable[bytes], reading: Reading) -> Iterator[Entry]:
    """Read one named column of a CSV file (RFC 4180) whose first record has the names.

    Raises SourceError where the column is not there, and where quoting goes wrong: what follows could be anything.
    """
    import csv

    config = reading.config
    texts = (line.decode(errors="surrogateescape") + "\n" for line in _physical(chunks))
    rows = csv.reader(texts, delimiter=config.delimiter, strict=True)
    try:
        at = _column([head.strip() for head in next(rows, [])], reading)
        for row in rows:
            if any(row):
                yield from _cell(row, at, reading, rows.line_num)
    except csv.Error as error:
        raise SourceError(f"{reading.name}: line {rows.line_num}: {error}", kind=FailureKind.BROKEN) from error


def _column(heads: list[str], reading: Reading) -> int:
    column = reading.config.column
    if heads.count(column) != 1:
        named = ", ".join(head[:_SHOWN] for head in heads[:_SHOWN]) or "nothing"
        text = f"{reading.name}: its first line must name the column {column!r} once, and names {named}"
        raise SourceError(text, kind=FailureKind.BROKEN)
    return heads.index(column)


def _cell(row: list[str], at: int, reading: Reading, number: int) -> Iterator[Entry]:
    if len(row) <= at:
        shown = f"(a record of {len(row)} columns)".encode()  # what is in them may be secret
        reading.reject(shown, f"has no column {reading.config.column!r}", number)
    elif not row[at].strip():
        reading.sink.ignore(1)  # somebody without a mailbox
    elif spelled := _text(row[at].strip(_SPACE).encode(errors="surrogateescape"), reading, number):
        yield from reading.entries(spelled, number)


def _logical(chunks: Iterable[bytes], reading: Reading) -> Iterator[tuple[int, bytes]]:
    """Give the logical lines of a Postfix table, each with its number."""
    try:
        yield from mapfile.logical_lines(_physical(chunks))
    except DamagedError as error:
        raise SourceError(f"{reading.name} has {error}: is it a Postfix table?", kind=FailureKind.BROKEN) from error


def _physical(chunks: Iterable[bytes]) -> Iterator[bytes]:
    return (line for chunk in chunks for line in chunk.removesuffix(b"\n").split(b"\n"))


def _text(octets: bytes, reading: Reading, number: int) -> str:
    """Give a field as text, or nothing, and a reject noted, where it is not UTF-8 or too long."""
    try:
        text = octets.decode()
        reason = too_long(text)
    except UnicodeDecodeError:
        text, reason = "", "is not UTF-8"
    if reason:
        reading.reject(octets, reason, number)
        return ""
    return text


def _batches(read: Callable[[Iterable[bytes], Reading], Iterator[Entry]]) -> Format:
    """Make a format of a function that gives one entry after another."""

    def batches(chunks: Iterable[bytes], reading: Reading) -> Iterator[list[Entry]]:
        entries = read(chunks, reading)
        while batch := list(islice(entries, _BATCH)):
            yield batch

    return batches


FORMATS: dict[str, Format] = {
    "lines": lines,
    "postmap": _batches(_postmap),
    "aliases": _batches(_aliases),
    "passwd": _batches(_passwd),
    "csv": _batches(_csv),
}
