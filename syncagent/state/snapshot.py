"""Snapshots: sorted files of a source's entries, ``address TAB key TAB label``, and of its rejects.

A reject is a line without an address, ``TAB key TAB label``. Its label has parts, separated by U+001F: the spelling,
the reason, the digest of source and octets of the entry, and "cut" if the spelling is only its beginning. Lines of
older versions have the first two. A key that the source itself refuses is ``TAB key TAB``, U+001E, its address, U+001F
and its right side. A key-only line, ``TAB key TAB``, is of an object without addresses: it is neither an
entry nor a reject. A TAB sorts before every character that an address can start with, so these lines come first. Key,
label and spelling are untrusted text of the source: they are escaped. What may be a password in a spelling is left out.
The key of a reject that is cut for this is followed by U+001F and its digest, so that keys stay different.
"""

from __future__ import annotations

import contextlib
import re
import shutil
import tempfile
from collections import Counter
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from syncagent import addresses as normalise
from syncagent.errors import FailureKind, LedgerError, SourceError
from syncagent.files import atomic, pipeline, sorted_lines
from syncagent.model import ALL_DOMAINS, Refused, Reject, Snapshot
from syncagent.redaction import HIDDEN, has_secret, redacted
from syncagent.state import incremental, likely, messages, rejects
from syncagent.state.fields import MAX_FIELD, MAX_REJECT, escape, reject_digest, unescape
from syncagent.state.incremental import Amendment
from syncagent.state.tally import Tally
from syncagent.values.readable import address_of, forms_of, has_star
from syncagent.values.spellings import hides_address, is_foreign, transport_of, without_secrets

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from syncagent.files.sorted_lines import SortedFile
    from syncagent.model import Entry

_REJECTED = "\x1f"  # between the parts of a reject; not printable, so an escaped text never contains it
_CUT = "cut"
_REFUSED = "\x1e"  # before the address of a key that the source refuses; not printable either
_BATCH = 1000
_LOOKED_AT = 2 * MAX_REJECT
"""Number of characters of a reject in which secrets are looked for: one that begins in what is stored ends in them."""
_SHOWN = 3
"""Number of rejected entries in the message of an answer without any address."""
_REFUSED_LINE = re.compile(rb"^\t[^\t\n]*\t\x1e", re.MULTILINE)
_KEY_ONLY = re.compile(rb"^\t[^\t\n]*\t$", re.MULTILINE)


class SnapshotWriter:
    """The Sink of one fetch: normalises the addresses of entries, and sorts the lines in a child process."""

    def __init__(self, spool: Path, *, ignore_catch_alls: bool, source: str = "") -> None:
        """Start without entries. ``spool`` is the directory for temporary files of the sorter."""
        self._spool, self._ignore_catch_alls, self._source = spool, ignore_catch_alls, source
        self._abandoned = False
        self._sorter: pipeline.Sorter | None = None
        self._amendment: Amendment | None = None
        self._own_spool: Path | None = None
        self.last: tuple[Path, Snapshot] | None = None
        """File and data of the last complete answer, which an incremental answer amends."""
        self.previous: tuple[Path, Snapshot] | None = None
        """The same, also if the answer may not amend it."""
        self.origin = ""
        """The file or URL whose lines are the keys of the entries; see ``rejects.origin``."""
        self.format = ""
        """The format that the entries are read by, "" if they are no lines."""
        self._added: Path | None = None
        self.ignored = 0
        self._causes: Counter[str] = Counter()
        self._tally = Tally()

    def put(self, entries: Iterable[Entry]) -> None:
        """Add entries; see Sink."""
        stream = iter(entries)
        while batch := list(islice(stream, _BATCH)):
            self._tally.values += len(batch)
            spelled, keys, labels = zip(*batch, strict=True)
            plain = normalise.canonical_all(spelled) if _is_plain(keys) and _is_plain(labels) else None
            if plain is None or has_star(spelled):
                self._put_carefully(batch)
            else:
                self._write("".join([f"{a}\t{k}\t{n}\n" for a, k, n in zip(plain, keys, labels, strict=True)]))

    def _put_carefully(self, entries: Iterable[Entry]) -> None:
        lines = []
        for spelled, key, label in entries:
            try:
                address, *other = forms_of(spelled)
            except normalise.UnusableError as error:
                self._reject(spelled, str(error), key)
                continue
            self._tally.values += len(other)
            if address[0] == "@" and self._ignore_catch_alls:
                self.ignored += 1
                self._tally.keys += 1
                lines.append(key_line(key))
                continue
            lines += [f"{form}\t{_own_key(key)}\t{escape(label)}\n" for form in (address, *other)]
        self._write("".join(lines))

    def reject(self, spelled: str, reason: str, key: str, raw: bytes | None = None) -> None:
        """Record a reject, or count an address of another kind than mail; see Sink."""
        self._tally.values += 1
        self._reject(spelled, reason, key, raw)

    def _reject(self, spelled: str, reason: str, key: str, raw: bytes | None = None) -> None:
        if is_foreign(spelled):
            self.ignored += 1
            self.put_keys([key])
            return
        octets = spelled.encode(errors="surrogatepass") if raw is None else raw
        beginning = spelled[:_LOOKED_AT]
        shown = without_secrets(beginning)
        stored = escape(redacted(shown)[:MAX_REJECT], MAX_REJECT)  # cut last: half a secret is found no more
        parts = [stored, escape(reason), reject_digest(self._source, octets)]
        parts += [_CUT] if len(octets) > MAX_REJECT or hides_address(beginning, shown) else []
        self._write(f"\t{self._shown_key(key)}\t{_REJECTED.join(parts)}\n")

    def _shown_key(self, key: str) -> str:
        """Return the key of a reject as a field. One that is no place of a line may be the spelling itself."""
        return _own_key(key) if self.origin else _cut_key(key)

    def refuse(self, entries: Iterable[Entry]) -> None:
        """Record keys that the source itself refuses; see Sink."""
        for spelled, key, value in entries:
            self._tally.values += 1
            shown = escape(transport_of(value))
            self._write(
                f"\t{self._shown_key(key)}\t{_REFUSED}{escape(_or_same(spelled), MAX_REJECT)}{_REJECTED}{shown}\n"
            )

    def put_keys(self, keys: Iterable[str]) -> None:
        """Record keys of objects without addresses; see Sink."""
        lines = list(map(key_line, keys))
        self._tally.keys += len(lines)
        self._write("".join(lines))

    def copy(self, line: str) -> None:
        """Add a line of another snapshot as it is."""
        is_key_only = _KEY_ONLY.fullmatch(line.rstrip("\n").encode()) is not None
        self._tally.keys += is_key_only
        self._tally.values += not is_key_only
        self._write(line)

    def ignore(self, count: int, cause: str = "") -> None:
        """Count entries that are not mail recipients; see Sink."""
        self.ignored += count
        self._causes[cause] += count
        self._tally.values += count

    def restart(self) -> None:
        """Discard everything; see Sink."""
        self.close()
        self.ignored = 0
        self._causes.clear()
        self._tally = Tally()

    def amend(self, *, last: bool) -> None:
        """Start amending the last complete answer, or the entries so far; see Sink.

        Raises SourceError if ``last`` and there is no last answer, and DamagedError if its file is damaged.
        """
        if not last:
            with self._sorted() as chunks:
                base: SortedFile | Path = pipeline.write_plain(self._room() / "put", chunks)
        elif self.last is None:
            raise SourceError("it amends its last answer, and there is none", kind=FailureKind.BROKEN)
        else:
            path, snapshot = self.last
            base = sorted_lines.verify(path, snapshot.digest)
            self._tally.base = base.count
        self._amendment = Amendment(base, self._room())

    def forget(self, keys: Iterable[str]) -> None:
        """Delete these keys of the amended answer; see Sink. Raises SourceError before ``amend``."""
        self._amending().delete_keys(form.encode() for key in keys for form in _key_forms(key))

    def retain(self, keys: Iterable[str]) -> None:
        """Delete all other keys of the amended answer; see Sink. Raises SourceError before ``amend``."""
        self._amending().keep_only_keys(form.encode() for key in keys for form in _key_forms(key))

    def unknown(self, keys: Iterable[str]) -> list[str]:
        """Return those of the keys that the amended answer lacks; see Sink. Raises SourceError before ``amend``."""
        forms = {key: {form.encode() for form in _key_forms(key)} for key in keys}
        unknown = set(self._amending().unknown(set().union(*forms.values())))
        return [key for key, own in forms.items() if own <= unknown]

    def vanished(self, limit: int) -> list[Entry]:
        """Return entries of the last answer whose addresses this one lacks; see Sink."""
        if self.previous is None:
            return []
        path, snapshot = self.previous
        last = sorted_lines.verify(path, snapshot.digest)
        lines = incremental.vanished(last, [self._amending().write(), self._new()], limit, self._room())
        return [(address, unescape(key), unescape(label)) for address, key, label in lines]

    def _amending(self) -> Amendment:
        if self._amendment is None:
            raise SourceError("it voids keys of nothing", kind=FailureKind.BROKEN)
        return self._amendment

    def _write(self, text: str) -> None:
        if self._abandoned:
            raise SourceError("given up on: the deadline has passed")
        try:
            self._running().write(text.encode())
        except (BrokenPipeError, ValueError):
            raise LedgerError(f"what the source says cannot be sorted in {self._spool}: is the disk full?") from None

    def finish(self, path: Path, *, allow_empty: bool) -> Snapshot:
        """Write the snapshot to ``path`` and return it.

        Raises SourceError if there is no entry and ``allow_empty`` is False, or if all entries are rejects. Raises
        LedgerError if the snapshot cannot be sorted or written.
        """
        counter = _Counter()
        try:
            written = self._write_whole(path, counter)
        except OSError as error:
            text = f"what the source says cannot be kept: {error.strerror}: {path}; make room there"
            raise LedgerError(text) from error
        finally:
            self.close()
        snapshot = Snapshot(
            file=path.name,
            entries=written.count - counter.rejects - counter.keys - counter.refused,
            rejected=counter.rejects,
            refused=counter.refused,
            digest=written.digest,
            identity=atomic.identity(path) or (),
        )
        miscounted = self._tally.difference(written.count, self.ignored)
        failure = miscounted or self._nothing_usable(snapshot, path, allow_empty=allow_empty)
        if failure:
            path.unlink()
            raise SourceError(failure, kind=FailureKind.TEMPORARY if miscounted else FailureKind.BROKEN)
        return snapshot

    def _nothing_usable(self, snapshot: Snapshot, path: Path, *, allow_empty: bool) -> str:
        """Return the reason why an answer without any address is a failure, "" if it is not a failure."""
        if snapshot.entries:
            return ""
        if snapshot.refused and not snapshot.rejected:
            return "" if allow_empty else f"all of its {snapshot.refused} keys refuse mail: none is a recipient"
        if snapshot.rejected:
            found = [rejects.placed(one, self.origin) for one in first_rejects(path, self._source, _SHOWN)]
            shape = likely.shape([rejects.text_of(one) for one in found], self.format) if self.format else ""
            return messages.none_is_an_address(snapshot.rejected, found, shape)
        return "" if allow_empty else messages.none_for_us(self.ignored, self._causes)

    def _write_whole(self, path: Path, counter: _Counter) -> SortedFile:
        """Write the entries, merged with the remaining lines of an amended answer."""
        if self._amendment is None:
            with self._sorted() as chunks:
                return sorted_lines.write_sorted(path, counter.through(chunks))
        stays, new = self._amendment.write(), self._new()
        self._tally.dropped = self._amendment.lines - atomic.count_lines(stays)
        with pipeline.Child(["sort", "-m", str(stays), str(new)], pipeline.NOTHING) as both:
            return sorted_lines.write_sorted(path, counter.through(self._once(both.chunks())))

    def _once(self, chunks: Iterable[bytes]) -> Iterator[bytes]:
        """Yield sorted lines, each once, and count those that are repeated."""
        repeats = pipeline.Repeats()
        yield from repeats.once(chunks)
        self._tally.repeated += repeats.repeated

    def _new(self) -> Path:
        """Return a file with the sorted lines that were added since ``amend``. Nothing may be added afterwards."""
        if self._added is None:
            with self._sorted() as chunks:
                self._added = pipeline.write_plain(self._room() / "new", chunks)
        return self._added

    def abandon(self) -> None:
        """Discard the answer; called from another thread than ``put``.

        Later calls of ``put`` and ``reject`` raise SourceError. The fetching thread must still call ``close``.
        """
        self._abandoned = True
        if self._sorter is not None:
            self._sorter.kill()

    def close(self) -> None:
        """Stop the sorter, and remove the temporary files of an unfinished snapshot. May be called again."""
        if self._sorter is not None:
            self._sorter.__exit__(KeyboardInterrupt, None, None)
            self._sorter = None
        self._amendment = self._added = None
        if self._own_spool is not None:
            shutil.rmtree(self._own_spool, ignore_errors=True)
            self._own_spool = None

    @contextlib.contextmanager
    def _sorted(self) -> Iterator[Iterator[bytes]]:
        """Yield an iterator over the sorted lines that were added since the start or the last use, in chunks."""
        try:
            with self._running() as sorter:
                yield self._once(sorter.finish())
        finally:
            self._sorter = None

    def _room(self) -> Path:
        """Return the private spool directory of this writer, created at first use."""
        if self._own_spool is None:
            self._own_spool = Path(tempfile.mkdtemp(prefix="amend-", dir=self._spool))
        return self._own_spool

    def _running(self) -> pipeline.Sorter:
        """Return the sorter, started at first use, since an answer "same" needs none."""
        if self._sorter is None:
            self._sorter = pipeline.Sorter(self._spool, unique=False)
        return self._sorter


class _Counter:
    """Counter of the rejects, the refused keys and the key-only lines in a stream of chunks."""

    def __init__(self) -> None:
        self.rejects = self.keys = self.refused = 0

    def through(self, chunks: Iterable[bytes]) -> Iterator[bytes]:
        for chunk in pipeline.whole_lines(chunks):
            without_address = chunk.count(b"\n\t") + (chunk[:1] == b"\t")
            if without_address:
                keys = len(_KEY_ONLY.findall(chunk))
                refused = len(_REFUSED_LINE.findall(chunk))
                self.keys += keys
                self.refused += refused
                self.rejects += without_address - keys - refused
            yield chunk


def key_line(key: str) -> str:
    """Return the key-only line of an object without addresses."""
    return f"\t{_own_key(key)}\t\n"


def _own_key(key: str) -> str:
    """Return a key as a field, without secrets of ours."""
    return escape(redacted(key))


def _cut_key(key: str) -> str:
    """Return a key as a field without what may be a secret. If it is cut, its digest identifies it between runs."""
    shown = redacted(without_secrets(key))
    if shown == key:
        return _own_key(key)
    return f"{_own_key(shown)}{_REJECTED}{reject_digest('', key.encode(errors='surrogatepass'))}"


def _key_forms(key: str) -> set[str]:
    """Return the fields that lines of a key may have."""
    return {escape(key), _own_key(key), _cut_key(key)}


def _told_key(field: str) -> str:
    """Return the field of a key without its digest."""
    return field.partition(_REJECTED)[0]


def _is_plain(texts: Sequence[str]) -> bool:
    """True if ``escape`` would leave all texts unchanged."""
    together = "".join(texts)
    if has_secret("\n".join(texts)):
        return False
    short = len(together) <= MAX_FIELD or max(map(len, texts)) <= MAX_FIELD
    return short and together.isprintable() and "\\" not in together


def addresses(first_fields: Iterable[bytes]) -> Iterator[list[bytes]]:
    """Yield lists of addresses, each address once, from the first fields of merged snapshots (``first_fields``).

    Rejects, key-only lines, end lines and duplicates are skipped. Each list has the addresses of one chunk.
    """
    last = b""
    for chunk in first_fields:
        found = dict.fromkeys(chunk.split(b"\n"))
        for nothing in (b"", last):
            found.pop(nothing, None)
        if b"# end " in chunk:
            found = dict.fromkeys(address for address in found if not address.startswith(b"# end "))
        if found:
            last = next(reversed(found))
            yield list(found)


def first_rejects(path: Path, source: str, limit: int) -> list[Reject]:
    """Return at most ``limit`` rejects of a snapshot, the first ones. Their fields stay escaped."""
    return list(islice(rejects_of(path, source), limit))


def rejects_of(path: Path, source: str = "") -> Iterator[Reject]:
    """Yield the rejects of a snapshot. Their fields stay escaped. Raises OSError if the file cannot be read."""
    for key, label in _without_address(path):
        spelled, is_reject, rest = label.partition(_REJECTED)
        if is_reject and not label.startswith(_REFUSED) and not is_foreign(unescape(spelled)):  # older ones have these
            reason, digest, cut = (*rest.split(_REJECTED), "", "")[:3]
            yield Reject(
                rejects.shown(spelled),
                reason,
                source,
                _told_key(key),
                digest or _computed(source, spelled),
                cut=bool(cut) if digest else len(unescape(spelled)) == MAX_FIELD,
            )


def spelling_of(line: str) -> str | None:
    """Return the spelling in the line of a reject, None if the line has only its beginning, or is of no reject."""
    spelled, is_reject, rest = line.rstrip("\n").rpartition("\t")[2].partition(_REJECTED)
    is_cut = rest.endswith(f"{_REJECTED}{_CUT}") or len(unescape(spelled)) >= MAX_FIELD
    return unescape(spelled) if is_reject and not is_cut and HIDDEN not in spelled else None


def refused_by(path: Path, source: str = "") -> Iterator[Refused]:
    """Yield the keys of a snapshot that its source refuses. Raises OSError if the file cannot be read."""
    for key, label in _without_address(path):
        if label.startswith(_REFUSED):
            address, _, value = label.removeprefix(_REFUSED).partition(_REJECTED)
            yield Refused(unescape(address), unescape(value), source, unescape(_told_key(key)))


def _without_address(path: Path) -> Iterator[tuple[str, str]]:
    """Yield key and label of each line without an address; these come first. Raises OSError."""
    with atomic.open_foreign(path) as stream:
        for line in stream:
            if not line.startswith(b"\t"):
                break
            _, key, label = line.decode().rstrip("\n").split("\t")
            yield key, label


def _or_same(spelled: str) -> str:
    """Return the canonical form of an address, or a spelling that has none as it is, without secrets."""
    try:
        return address_of(spelled)
    except normalise.UnusableError:
        return redacted(without_secrets(spelled))


def _computed(source: str, spelled: str) -> str:
    """Return the digest of a reject whose line has none: that of what the line has of the entry."""
    return reject_digest(source, unescape(spelled).encode(errors="surrogatepass"))


MOST_DOMAINS = 100_000
"""Number of mail domains of a source that are remembered; a source with more counts as one of every domain."""


def mail_domains(path: Path) -> frozenset[str]:
    """Return the mail domains of a snapshot's addresses; only ``ALL_DOMAINS`` if there are over 100,000.

    Raises OSError or LedgerError if the file cannot be read.
    """
    domains: set[bytes] = set()
    with pipeline.first_fields([path]) as fields:
        for batch in addresses(fields):
            domains.update([address.rpartition(b"@")[2] for address in batch])
            if len(domains) > MOST_DOMAINS:
                return frozenset({ALL_DOMAINS})
    return frozenset(domain.decode() for domain in domains)
