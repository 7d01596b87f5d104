"""The doubt table: an access table by which smtpd answers 450 instead of 550 to unknown recipients of some domains.

smtpd asks it after the table of recipients, by three items at the end of smtpd_sender_restrictions; a known recipient
never reaches it. Facts on keys and values: access(5), and tests with Postfix 3.7, 3.10 and 3.11.

Beside the table are the files by which ``doubt-switch.sh`` puts every domain in doubt when syncagent no longer runs.
"""

from __future__ import annotations

import contextlib
import errno
import itertools
import re
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from syncagent import addresses as normalise
from syncagent.errors import printable
from syncagent.files import atomic, pipeline
from syncagent.model import ALL_DOMAINS, CLOCK_SET, Doubt
from syncagent.postfix import publish
from syncagent.postfix.table import Identities, TableSettings, Target, publish_step
from syncagent.postfix.table_text import Rendering, listed_keys
from syncagent.postfix.verify import text_keys
from syncagent.values.types import INDEX_SUFFIX, MapName

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator

SUFFIX = INDEX_SUFFIX["lmdb"]
PROBE = "syncagent-doubt-probe@"
"""The beginning of the key that `check` asks for, to prove that smtpd asks the doubt table."""
LIMIT_OF_AGENT = 900.0
"""Seconds without a sign of life after which an agent counts as dead."""
_LEAST_LIMIT = 3600.0
_MOST_LIMIT = 3 * 86400.0
_MOST = 1 << 20
"""Maximum size in octets of the small files beside the table."""
_LONGEST_NAME = 64
"""Number of characters that are shown of the name of a person."""
_RUNS = 6
"""Number of runs whose times ``alive`` keeps: those of the last five gaps."""
_AHEAD = 600.0
"""Seconds that a time may be in the future before it counts as wrong."""
HEADER = b"# Written by syncagent: changes made here are lost. See doubt_map in syncagent.toml(5).\n"
"""First line of the text."""
ALL_HEADER = "# doubt-all of "
"""The first line of ``doubt-all``, without the name of the table that it is for."""
_VALUE = b" DEFER_IF_REJECT 4.3.0 recipient list is being refreshed, please try again later\n"
_PROBED = re.compile(rb"^(%b\S++) .*" % PROBE.encode(), re.MULTILINE)


def _render(chunks: Iterable[bytes]) -> Iterator[bytes]:
    """Yield chunks of the text: the value for domains and addresses, and another one for the probe."""
    for chunk in pipeline.whole_lines(chunks):
        yield _PROBED.sub(rb"\1 DEFER_IF_REJECT 4.3.0 probe", chunk.replace(b"\n", _VALUE))


def _rendering(header: bytes) -> Rendering:
    return Rendering(header, _render, listed_keys)


@dataclass(frozen=True, slots=True)
class Mark:
    """The mark of the switch: when it fired, in seconds since the epoch, and why.

    ``dead``: syncagent did not run. ``boot``: the host started. ``failed``: a run of syncagent itself failed.
    """

    at: float
    why: Literal["dead", "boot", "failed"]


@dataclass(frozen=True, slots=True)
class ByHand:
    """A domain that a person put in doubt, "*" for all. Times are in seconds since the epoch; ``until`` 0: no end."""

    domain: str
    until: float
    who: str
    since: float

    def line(self) -> str:
        """Return the line in the file ``by-hand``."""
        return f"{self.domain}\t{self.until:.0f}\t{self.who}\t{self.since:.0f}\n"


class Files:
    """The doubt table ``name`` and the files beside it."""

    def __init__(self, name: MapName) -> None:
        """Set the paths. No file needs to exist."""
        self.name = name
        self.directory = name.path.parent
        self.everything = MapName(name.type, self.directory / "doubt-all", f"{name.type}:{self.directory}/doubt-all")
        self.alive_file, self.mark_file, self._by_hand, self._seen = (
            self.directory / file for file in ("alive", "doubt-switched", "by-hand", "doubt-switch-seen")
        )

    @property
    def tables(self) -> tuple[MapName, MapName]:
        """The doubt table and the ready-made one beside it."""
        return self.name, self.everything

    # --- the mark of the switch

    def mark(self) -> Mark | None:
        """Return the mark of the switch, None if there is none. One that is empty or unreadable is ``dead``, at 0."""
        try:
            words = atomic.read_foreign_text(self.mark_file, _MOST, "replace").split()
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError:
            return Mark(0.0, "dead")
        why = words[1] if len(words) > 1 else ""
        at = _moment(words[0]) if words else 0.0
        return Mark(at, "boot" if why == "boot" else "failed" if why == "failed" else "dead")

    def remove_mark(self) -> None:
        """Remove the mark. Raises OSError."""
        self.mark_file.unlink(missing_ok=True)

    def switch_all(self, now: float) -> bool:
        """Put every domain in doubt, as ``doubt-switch.sh`` does: rename the ready-made table over the table.

        This needs no room on the disk, no lock and no Postfix. True if every domain is in doubt now: renamed, or
        renamed before and not replaced since. Raises OSError.
        """
        text, index, mark = self.everything.path, Path(f"{self.everything.path}{SUFFIX}"), self.mark()
        if mark is None or mark.why == "failed":
            self._write_mark(f"{now:.0f} failed\n")
        if not index.exists():
            return mark is not None and self.index.exists()
        index.replace(self.index)
        with contextlib.suppress(FileNotFoundError):
            text.replace(self.name.path)
        atomic.fsync_directory(self.directory)
        return True

    def _write_mark(self, text: str) -> None:
        """Write the mark; on a full disk an empty one, or none: to switch matters more."""
        try:
            atomic.write_whole(self.mark_file, text.encode(), 0o644)
        except OSError:
            with contextlib.suppress(OSError):
                self.mark_file.touch(0o644)

    @property
    def index(self) -> Path:
        """Path of the table's index."""
        return Path(f"{self.name.path}{SUFFIX}")

    def switch_seen(self) -> float:
        """Return the time at which the switch last ran, in seconds since the epoch; 0 if it never did."""
        try:
            return self._seen.stat().st_mtime
        except OSError:
            return 0.0

    def paths(self) -> tuple[Path, ...]:
        """Return the paths of text and index, of the table and of ``doubt-all``."""
        texts = (self.name.path, self.everything.path)
        return tuple(path for text in texts for path in (text, Path(f"{text}{SUFFIX}")))

    # --- the sign of life

    def touch(self, now: float, limit: float | None = None, *, ran: bool = False) -> None:
        """Write ``alive``: the time, and the limit in seconds after which syncagent counts as dead.

        Without ``limit`` it is three times the longest gap between the last six runs, but 1 h at least and 3 days at
        most: a host that was off is no reason to wait for weeks. ``ran``: a run ends. Raises OSError.
        """
        runs = [*(at for at in self._runs() if at <= now), now][-_RUNS:] if ran else self._runs()
        limit = min(max(_LEAST_LIMIT, 3 * _longest_gap(runs)), _MOST_LIMIT) if limit is None else limit
        listed = " ".join(f"{at:.0f}" for at in runs)
        text = f"written {now:.0f}\nlimit {limit:.0f}\nruns {listed}\n"
        atomic.write_whole(self.alive_file, text.encode(), 0o644, lasting=False)

    def alive(self) -> tuple[float, float]:
        """Return when ``alive`` was written and its limit, both in seconds; (0, 0) if it cannot be read."""
        fields = self._fields()
        try:
            return float(fields["written"][0]), float(fields["limit"][0])
        except (KeyError, IndexError, ValueError):
            return 0.0, 0.0

    def longest_gap(self) -> float:
        """Return the longest time between the last runs, in seconds; 0 if fewer than two are recorded."""
        return _longest_gap(self._runs())

    def is_dead(self, now: float) -> bool:
        """True if the switch, when it runs, puts every domain in doubt."""
        written, limit = self.alive()
        return not written or not -_AHEAD <= now - written <= limit

    def ran_before(self) -> bool:
        """True if a run has completed since the table was first made."""
        return bool(self._runs())

    def lines(self) -> tuple[list[str], list[str]]:
        """Return the domains and the addresses in the text of the table; none if it cannot be read."""
        with contextlib.suppress(OSError):
            keys = [key.decode(errors="replace").strip() for key in text_keys(self.name.path)]
            names = [key for key in keys if not key.startswith((".", PROBE))]
            return [name for name in names if "@" not in name], [name for name in names if "@" in name]
        return [], []

    def _runs(self) -> list[float]:
        times = map(_moment, self._fields().get("runs", ()))
        return [at for at in times if at >= CLOCK_SET]

    def _fields(self) -> dict[str, list[str]]:
        try:
            lines = atomic.read_foreign_text(self.alive_file, _MOST, "replace").splitlines()
        except OSError:
            return {}
        return {words[0]: words[1:] for words in map(str.split, lines) if words}

    # --- by hand

    def by_hand(self) -> tuple[ByHand, ...]:
        """Return the domains that a person put in doubt. An unreadable line puts all in doubt. Raises OSError."""
        try:
            lines = atomic.read_foreign_text(self._by_hand, _MOST, "replace").splitlines()
        except (FileNotFoundError, NotADirectoryError):
            return ()
        return tuple(_by_hand(line) for line in lines if line.strip() and not line.startswith("#"))

    def of_persons(self, domains: Iterable[str], now: float) -> list[Doubt]:
        """Return the doubts that persons began and that have not ended, of these relay domains.

        If the file cannot be read, every one is in doubt.
        """
        try:
            entries = self.by_hand()
        except OSError as error:
            entries = (ByHand(ALL_DOMAINS, 0.0, f"by-hand cannot be read: {error.strerror}", 0.0),)
        ours = frozenset(domains)
        return [
            Doubt(domain, "by-hand", entry.who, entry.since, until=entry.until)
            for entry in entries
            if not entry.until or entry.until > now
            for domain in (ours if entry.domain == ALL_DOMAINS else {entry.domain} & ours)
        ]

    def write_by_hand(self, entries: Iterable[ByHand]) -> None:
        """Replace the file ``by-hand``. Raises OSError."""
        atomic.write_whole(self._by_hand, "".join(entry.line() for entry in entries).encode(), 0o644)


def _longest_gap(runs: Iterable[float]) -> float:
    return max((after - before for before, after in itertools.pairwise(runs)), default=0.0)


def _by_hand(line: str) -> ByHand:
    domain, until, who, since = [*line.split("\t"), "", "", "", ""][:4]
    try:
        name = domain if domain == ALL_DOMAINS else normalise.canonical_domain(domain.strip())
    except normalise.UnusableError:
        name = ""
    if not name or (until not in {"", "0"} and not _moment(until)):
        return ByHand(ALL_DOMAINS, 0.0, f"unreadable line {line[:40]!r}", 0.0)
    return ByHand(name, _moment(until), printable(who, _LONGEST_NAME), _moment(since))


def _moment(text: str) -> float:
    """Return the seconds since the epoch that a text has in digits; 0 if it has none, or is no date before 9999."""
    return float(text) if re.fullmatch(r"[0-9]{1,11}", text) else 0.0


# --- publishing


def keys(domains: Iterable[str], addresses: Iterable[str], probe: str) -> list[bytes]:
    """Return the sorted keys of a doubt table, one a line, in A-labels.

    A domain has two keys, since ``.example.com`` matches subdomains or not by parent_domain_matches_subdomains.
    ``probe`` is the domain of the probe, "" for none.
    """
    names = {f"{prefix}{domain}" for domain in domains for prefix in ("", ".")}
    names |= {*addresses, *([f"{PROBE}{probe}"] if probe else ())}
    return sorted(f"{name}\n".encode() for name in names)


def write(  # noqa: PLR0913 - all inputs of publishing
    settings: TableSettings,
    lines: Path,
    spool: Path,
    report: Callable[[str, int], None],
    *,
    everything: bool = False,
    sweep: bool = True,
) -> Identities:
    """Publish the doubt table, or with ``everything`` the table ``doubt-all`` beside it, from a file of its keys.

    ``sweep``: the caller has the lock, so that staging directories beside the table are left of killed runs. Returns
    the identities of the files. Raises PublishError.
    """
    header = f"{ALL_HEADER}{settings.name.path.name}\n".encode() if everything else HEADER
    name = Files(settings.name).everything if everything else settings.name
    target = Target(TableSettings(name, settings.config_directory, settings.postmap_timeout, settings.reload))
    if sweep:
        target.sweep()
    with publish_step("stage"):
        target.named.parent.stat()
        _check_owner(settings.name)
    return publish.publish(target, lines, spool, report, _rendering(header))


def _check_owner(name: MapName) -> None:
    """Raise UnfitFileError if another doubt table has its ``doubt-all`` in the same directory: the switch moves one."""
    files = Files(name)
    with contextlib.suppress(FileNotFoundError), atomic.open_foreign(files.everything.path) as text:
        other = text.readline(_MOST).decode(errors="replace").removeprefix(ALL_HEADER).strip()
        if other and other != name.path.name and "/" not in other and (files.directory / other).exists():
            what = f"the doubt table {other} is there too: each needs a directory of its own"
            raise atomic.UnfitFileError(errno.EEXIST, what, files.directory)


def write_without_lock(settings: TableSettings, keys: Iterable[bytes], *, everything: bool = False) -> None:
    """Publish a doubt table, or ``doubt-all``, with these sorted keys, while a run may be under way.

    Raises PublishError.
    """
    with publish_step("stage"), tempfile.TemporaryDirectory(prefix="syncagent-doubt-") as spool:
        lines = pipeline.write_plain(Path(spool, "doubt-keys"), keys)  # "keys" is a file of publish()
        write(settings, lines, Path(spool), lambda *_: None, everything=everything, sweep=False)


def fits(address: str) -> bool:
    """True if an address can be a key of the doubt table: lmdb takes keys of up to 510 octets."""
    return normalise.longest_key(address) <= normalise.MAX_KEY


def probe_domain(domains: Iterable[str], catch_all: Collection[str]) -> str:
    """Return the domain of the probe: the first one without a catch-all, "" if there is none."""
    return next((domain for domain in sorted(domains) if domain not in catch_all and not domain.startswith(".")), "")
