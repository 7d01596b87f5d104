"""The formats of lists: each is a function from chunks of whole lines to entries.

A new format needs a function here and in ``FORMATS``, its name and meaning in the ``format`` key of ``file.py``, a row
in ``BAD_INPUT`` of tests/sources/test_formats.py, a line in the documentation, and ``make man``. Tests check these.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice, repeat
from typing import TYPE_CHECKING

from syncagent.addresses import (
    MAX_SPELLED,
    UnusableError,
    canonical,
    canonical_all,
    canonical_domain,
    check_length,
    too_long,
)
from syncagent.errors import DamagedError, FailureKind, SourceError, printable
from syncagent.invisible import AROUND, trimmed
from syncagent.postfix import table_text
from syncagent.sources import csv_columns, right_sides
from syncagent.values.readable import address_of, comment_of, names_another, without_comment
from syncagent.values.spellings import addresses_in, column_names

if TYPE_CHECKING:
    from syncagent.model import Entry
    from syncagent.sources import Sink

_BATCH = 10_000
_SPACE = " \t\r\v\f"
_PASSWD_FIELDS, _UID_DIGITS = 7, 10
_ALIAS = re.compile(rb'("[^"\\]*(?:\\.[^"\\]*)*"|[^\s":#][^\s":]*)\s*:\s*(\S.*)', re.DOTALL)
_PATTERN_TABLE = (
    "this is a pcre or regexp table, whose patterns name no recipients; list the addresses in a file of another format"
    " (Mailman 3: transport_file_type: hash in its postfix.cfg)"
)
_TAB = "\t"
_NO_QUOTING = "; a table as mysql and psql print it is not quoted: export it as CSV, or the addresses alone as a list"
_BELOW = "have a uid below min_uid ({}): lower min_uid if these are mail users"
_AS_DOMAIN = "are read as domains, as in virtual(5): if they are local parts with a dot, set domains to those to append"
_ANOTHER = 'has a word behind ";": write each address as an entry of its own, or "#" in place of ";" before a comment'
_NEW_LINE = "new-line character seen in unquoted field"
"""The beginning of the message of the module csv for a CR inside a line."""
_LONE_CR = re.compile(rb"\r\S")
_CR_INSIDE = "has a carriage return inside: end each line with LF, and write each entry on a line of its own"
_CR_ALONE = "its lines end in CR alone: save it with LF"
_SHOWN = 60
"""Maximum characters of a column name, and maximum number of column names, in a message."""


Format = Callable[[Iterable[bytes], "Input"], Iterator[list["Entry"]]]
"""A function that reads chunks of whole lines, which belong to an Input, and yields batches of entries.

A malformed line is recorded as a reject. Raises SourceError if the text as a whole is not in this format.
"""


@dataclass(frozen=True, slots=True)
class FormatOptions:
    """The configuration keys of formats; see ``file.Config``."""

    domains: tuple[str, ...] = ()
    min_uid: int = 0
    column: str = ""
    delimiter: str = ","


@dataclass(frozen=True, slots=True)
class Input:
    """A text to be read: the sink for rejects, the options, its name in messages, and the prefix of its keys.

    The key of an entry is the prefix followed by the line number.
    """

    sink: Sink
    options: FormatOptions
    name: str
    prefix: str

    def entries(self, spelled: str, number: int, raw: bytes) -> Iterator[Entry]:
        """Yield the entry of an address on line ``number``: a bare local part at each configured domain.

        ``raw`` are the octets as they are in the text, for the reject of what is no address.
        """
        if self.options.domains and names_another(spelled):
            self.reject(spelled.encode(errors="surrogatepass"), _ANOTHER, number, raw)
        elif self.options.domains and "@" not in without_comment(spelled):
            yield from self.at_domains(spelled, number, raw)
        elif spelled.encode() == raw:  # the sink rejects it by the same octets
            yield spelled, f"{self.prefix}{number}", ""
        else:
            yield from self._checked(spelled, (spelled,), number, raw)

    def at_domains(self, local: str, number: int, raw: bytes) -> Iterator[Entry]:
        """Yield an entry for the local part at each configured domain."""
        name, comment = trimmed(without_comment(local)), comment_of(local)
        yield from self._checked(local, [f"{name}@{domain}{comment}" for domain in self.options.domains], number, raw)

    def _checked(self, spelled: str, addresses: Sequence[str], number: int, raw: bytes) -> Iterator[Entry]:
        """Yield an entry for each of these addresses, unless the first of them is none: then record one reject."""
        try:
            check_length(spelled)
            for first in addresses[:1]:
                address_of(first)
        except UnusableError as error:
            self.reject(spelled.encode(errors="surrogatepass"), str(error), number, raw)
        else:
            yield from ((address, f"{self.prefix}{number}", "") for address in addresses)

    def refuse(self, spelled: str, value: bytes, number: int) -> None:
        """Record a key whose right side ``value`` refuses mail: a bare local part at each configured domain."""
        bare = "@" not in spelled and self.options.domains
        addresses = [f"{spelled}@{domain}" for domain in self.options.domains] if bare else [spelled]
        shown = value[:MAX_SPELLED].decode(errors="backslashreplace")
        self.sink.refuse((address, f"{self.prefix}{number}", shown) for address in addresses)

    def reject(self, octets: bytes, reason: str, number: int, raw: bytes | None = None) -> None:
        """Record a reject with the first MAX_SPELLED octets of its spelling. ``raw`` are all octets of the entry."""
        spelled = octets[:MAX_SPELLED].decode(errors="backslashreplace")
        self.sink.reject(spelled, reason, f"{self.prefix}{number}", octets if raw is None else raw)


def lines(chunks: Iterable[bytes], source: Input) -> Iterator[list[Entry]]:
    """Yield the entries of a plain list, a batch per chunk.

    Each line is an address. Empty lines and lines that begin with ``#`` are skipped.
    """
    number = 0
    for chunk in chunks:
        spelled = _decoded(chunk, source, number)
        keys = map(str, range(number + 1, number + 1 + len(spelled)))
        if source.prefix:
            keys = map(source.prefix.__add__, keys)
        batch = list(zip(spelled, keys, repeat("")))
        if b"#" in chunk or not all(spelled):
            batch = [entry for entry in batch if entry[0] and entry[0][0] != "#"]
        trimmed = "\n".join(spelled).encode() != chunk.removesuffix(b"\n")
        if source.options.domains or (trimmed and canonical_all([entry[0] for entry in batch]) is None):
            batch = _one_by_one(chunk, spelled, source, number)
        yield batch
        number += len(spelled)


def _one_by_one(chunk: bytes, spelled: list[str], source: Input, number: int) -> list[Entry]:
    """Return the entries of a chunk, each line checked. ``spelled`` are its lines, ``number`` that of those before."""
    raw = chunk.removesuffix(b"\n").split(b"\n")
    return [
        entry
        for at, (text, octets) in enumerate(zip(spelled, raw, strict=True), number + 1)
        if text and text[0] != "#"
        for entry in source.entries(text, at, octets)
    ]


def _decoded(chunk: bytes, source: Input, number: int) -> list[str]:
    """Return the lines of a chunk as text without surrounding white space.

    ``number`` is the number of lines before the chunk. A line that is not UTF-8 is recorded as a reject and returned as
    an empty string.
    """
    if chunk.isascii() and not any(space in chunk for space in (b" ", b"\t", b"\r", b"\v", b"\f")):
        return chunk.decode().removesuffix("\n").split("\n")
    try:
        around = _SPACE if chunk.isascii() else AROUND
        return [line.strip(around) for line in chunk.decode().removesuffix("\n").split("\n")]
    except UnicodeDecodeError:
        lines = chunk.removesuffix(b"\n").split(b"\n")
        return [_decoded_line(line, source, at) for at, line in enumerate(lines, number + 1)]


def _decoded_line(line: bytes, source: Input, number: int) -> str:
    return "" if line.lstrip().startswith(b"#") else trimmed(_text(line.strip(), source, number, line))


def _postmap(chunks: Iterable[bytes], source: Input) -> Iterator[Entry]:
    """Yield an entry for each key of a Postfix table. Bare domains (virtual(5)) are counted as ignored."""
    for number, line in _logical(chunks, source):
        yield from _table_line(number, line, source)


def _table_line(number: int, line: bytes, source: Input) -> Iterator[Entry]:
    parts = table_text.split(line)
    if parts is None:
        source.reject(line, "has an unclosed quote: close it", number)
        return
    key, value = parts
    _check_pattern(number, line, key, source)
    spelled = _text(key, source, number)
    if not spelled:
        return
    if not value:
        reason = "has no value: Postfix ignores such a line; write a value such as OK behind it"
        source.reject(key, reason, number, line)
    elif _is_domain(spelled, source.options.domains):
        source.sink.ignore(1, _AS_DOMAIN)
    elif right_sides.refuses(value):
        source.refuse(spelled, value, number)
    else:
        yield from source.entries(spelled, number, key)


def _check_pattern(number: int, line: bytes, key: bytes, source: Input) -> None:
    """Raise SourceError if a line is one of a pattern table. An address may begin with a slash, too."""
    if not right_sides.is_of_pattern_table(line):
        return
    try:
        canonical(key.decode(errors="replace"))
    except UnusableError:
        shown = printable(line[:_SHOWN].decode(errors="backslashreplace"))
        text = f'{source.name}: line {number}, "{shown}": {_PATTERN_TABLE}'
        raise SourceError(text, kind=FailureKind.BROKEN) from None


def _is_domain(key: str, own: tuple[str, ...]) -> bool:
    """True if a key is a bare domain, not a local part with a dot.

    If ``own``, the configured domains, is not empty, only these domains and their subdomains count.
    """
    if "@" in key or "." not in key:
        return False
    try:
        domain = canonical_domain(key)
    except UnusableError:
        return False
    return not own or any(domain == mine or domain.endswith(f".{mine}") for mine in own)


def _aliases(chunks: Iterable[bytes], source: Input) -> Iterator[Entry]:
    """Yield an entry for each name of an aliases(5) file at each configured domain; a name with an @ is complete.

    Of the values only ``:fail:`` and ``:blackhole:`` count, by which Exim refuses.
    """
    for number, line in _logical(chunks, source):
        name = _ALIAS.match(line)
        if name is None:
            source.reject(line, 'is not "NAME: VALUE", see aliases(5)', number)
        elif spelled := _text(name[1], source, number):
            if right_sides.alias_refuses(name[2]):
                source.refuse(spelled, name[2], number)
            else:
                yield from source.entries(spelled, number, name[1])


def _passwd(chunks: Iterable[bytes], source: Input) -> Iterator[Entry]:
    """Yield an entry at each configured domain for each passwd(5) login with a uid of at least ``min_uid``.

    A login with an @ is complete.
    """
    for number, line in enumerate(_physical(chunks), 1):
        fields = line.split(b":")
        if not line.strip():
            continue
        if len(fields) != _PASSWD_FIELDS or not fields[2].isdigit() or len(fields[2]) > _UID_DIGITS:
            name = fields[0]  # the next field may be a password hash
            source.reject(name, 'is not "NAME:PASSWORD:UID:GID:GECOS:HOME:SHELL", see passwd(5)', number, line)
        elif int(fields[2]) < source.options.min_uid:
            source.sink.ignore(1, _BELOW.format(source.options.min_uid))
        elif spelled := _text(fields[0], source, number):
            yield from source.entries(spelled, number, fields[0])


def _csv(chunks: Iterable[bytes], source: Input) -> Iterator[Entry]:
    """Yield the entries of one column of a CSV file (RFC 4180) whose first record has the column names.

    Raises SourceError if the column is missing or ambiguous. Raises it also if the quoting is wrong, since the records
    after that are unreliable.
    """
    import csv

    options = source.options
    texts = (line.decode(errors="surrogateescape") + "\n" for line in _physical(chunks))
    rows = csv.reader(texts, delimiter=options.delimiter, strict=True)
    try:
        heads = [name.strip() for name in next(rows, [])]
        columns = csv_columns.Columns.of(heads, _column(heads, source))
        for row in rows:
            if any(row):
                yield from _record(row, columns, source, rows.line_num)
    except csv.Error as error:
        text = f"{source.name}: line {rows.line_num}: {_wrong(error, options.delimiter)}"
        raise SourceError(text, kind=FailureKind.BROKEN) from error


def _wrong(error: Exception, delimiter: str) -> str:
    """Return what is wrong with a CSV file, by the error of the module csv."""
    if str(error).startswith(_NEW_LINE):
        return _CR_ALONE
    return f"wrong quoting (RFC 4180): {error}{_NO_QUOTING if delimiter == _TAB else ''}"


def _column(heads: list[str], source: Input) -> int:
    column = source.options.column
    if heads.count(column) != 1:
        names = ", ".join(head[:_SHOWN] for head in column_names(heads[:_SHOWN])) or "none"
        hint = csv_columns.hint(heads)
        text = f'{source.name}: the first line must name the column "{column}" once; its columns: {names}{hint}'
        raise SourceError(text, kind=FailureKind.BROKEN)
    return heads.index(column)


def _record(row: list[str], columns: csv_columns.Columns, source: Input, number: int) -> Iterator[Entry]:
    """Yield the entries of a record. What its other columns say of it is recorded as a reject."""
    deleted = columns.deleted(row)
    for text, reason in filter(None, (deleted, None if deleted else columns.further_addresses(row))):
        source.reject(text.encode(errors="surrogateescape"), reason, number)
    if not deleted:
        yield from _cell(row, columns.at, source, number)


def _cell(row: list[str], at: int, source: Input, number: int) -> Iterator[Entry]:
    if len(row) <= at:
        raw = source.options.delimiter.join(row).encode(errors="surrogateescape")
        named = "".join(f" {address}" for address in addresses_in(raw.decode(errors="replace")[:MAX_SPELLED]))
        shown = f"(record with {len(row)} columns{':' if named else ''}{named})".encode()  # others may be secret
        reason = f'has no column "{source.options.column}": write one, which may be empty, or correct the delimiter'
        source.reject(shown, reason, number, raw)
        return
    if not trimmed(row[at]):
        source.sink.ignore(1)  # a person without a mailbox
        return
    raw = row[at].encode(errors="surrogateescape")
    if spelled := _text(trimmed(row[at]).encode(errors="surrogateescape"), source, number, raw):
        yield from source.entries(spelled, number, raw)


def _logical(chunks: Iterable[bytes], source: Input) -> Iterator[tuple[int, bytes]]:
    """Yield (number, line) for each logical line of a Postfix table; one with a CR inside is rejected.

    Raises SourceError if a line is too long, or if there is but one line, since its lines end in CR alone.
    """
    count = broken = 0
    try:
        for number, line in table_text.logical_lines(_physical(chunks)):
            count += 1
            if b"\r" in line and _LONE_CR.search(line):
                broken = broken or number
                source.reject(line, _CR_INSIDE, number)
            else:
                yield number, line
    except DamagedError as error:
        raise SourceError(f"{source.name} contains {error}: is it a Postfix table?", kind=FailureKind.BROKEN) from error
    if broken and count == 1:
        raise SourceError(f"{source.name}: line {broken}: {_CR_ALONE}", kind=FailureKind.BROKEN)


def _physical(chunks: Iterable[bytes]) -> Iterator[bytes]:
    return (line for chunk in chunks for line in chunk.removesuffix(b"\n").split(b"\n"))


def _text(octets: bytes, source: Input, number: int, raw: bytes | None = None) -> str:
    """Return a field as text. If it is not UTF-8 or too long, record a reject and return an empty string."""
    try:
        text = octets.decode()
        reason = too_long(text)
    except UnicodeDecodeError:
        text, reason = "", "is not UTF-8: save the list as UTF-8"
    if reason:
        source.reject(octets, reason, number, raw)
        return ""
    return text


def _batches(read: Callable[[Iterable[bytes], Input], Iterator[Entry]]) -> Format:
    """Return a Format that yields the entries of ``read`` in batches of at most _BATCH."""

    def batches(chunks: Iterable[bytes], source: Input) -> Iterator[list[Entry]]:
        entries = read(chunks, source)
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
WITH_COMMENTS = frozenset({"lines", "postmap", "aliases"})
"""Formats in which a line that begins with ``#`` is a comment."""
