"""Explain why an address is in the map or not: its sources, its history, and lookups in the live map."""

from __future__ import annotations

import contextlib
import time
from typing import TYPE_CHECKING

from msgspec import Struct
from msgspec.structs import replace

from syncagent import addresses as normalise
from syncagent.cli.explain_rejected import RejectedEntries, refused_sentences
from syncagent.errors import LedgerError
from syncagent.files import atomic as files
from syncagent.files import sorted_lines
from syncagent.files.search import SnapshotIndex, SortedLines
from syncagent.invisible import trimmed
from syncagent.model import Waits
from syncagent.postfix import table_text
from syncagent.postfix.commands import Cause, CommandError
from syncagent.postfix.live import LivePostfix, unused_address
from syncagent.postfix.rcpt_answer import Smtpd
from syncagent.postfix.table import Target
from syncagent.state import history, messages
from syncagent.state.database import ledger_errors, reading
from syncagent.state.doubts import Doubts
from syncagent.state.fields import unescape
from syncagent.sync.holds import by_key
from syncagent.sync.missing import HOLD, Kept
from syncagent.sync.waiting import Waiting
from syncagent.values.types import Domain

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator
    from pathlib import Path

    from syncagent.config.tables import Config
    from syncagent.model import Hold
    from syncagent.state.database import Ledger
    from syncagent.state.records import Finished

_SHOWN = 60
"""Number of characters shown of a spelling that is too long."""


class SourceEntry(Struct, frozen=True):
    """An entry of a source that lists the address. ``key`` is the source's own key, ``label`` a text for people."""

    source: str
    key: str
    label: str


class Lookup(Struct, frozen=True):
    """A key that smtpd(8) looks up. ``found`` is its value in the live map, None if the map lacks it.

    If the lookup failed, ``found`` is None and ``trouble`` the error message.
    """

    key: str
    found: str | None
    trouble: str = ""


class Explanation(Struct, frozen=True, kw_only=True):
    """The facts about an address. Times are seconds since the epoch.

    ``spelled`` is the address as given (shortened if too long), ``canonical`` its canonical form, empty if it has none.
    ``published`` is true if the live map has it, ``since`` the time from which it has it, 0 if unknown. ``said`` are
    the entries of the sources, ``reasons`` sentences that explain the map's state, ``happened`` the recorded changes
    with their times, ``asked`` the keys of smtpd(8) and ``verdict`` its predicted answer to RCPT TO. ``history_since``
    is the time of the first recorded run, 0 if there is none. ``doubts`` are sentences that say why unknown recipients
    of its domain, or the address itself, are in doubt.
    """

    spelled: str
    canonical: str
    published: bool
    said: tuple[SourceEntry, ...]
    reasons: tuple[str, ...]
    since: float
    happened: tuple[tuple[float, history.Change], ...]
    asked: tuple[Lookup, ...]
    verdict: str
    history_since: float
    doubts: tuple[str, ...] = ()


def explain(config: Config, spelled: str) -> Explanation:
    """Return the facts about an address in any spelling. Raises LedgerError if the state cannot be read."""
    if reason := normalise.too_long(spelled):
        return _too_long(config, spelled, reason)
    reasons: list[str] = []
    try:
        address, *folded = normalise.forms(spelled)
    except normalise.UnusableError as error:
        address, folded = "", []
        reasons.append(f"no table can have it: it {error}")
    with reading(config.state.directory) as ledger:
        snapshots = _snapshots(ledger)
        finished, holds, first = ledger.finished, ledger.holds, ledger.first_time()
        waiting = Waiting.of(config.sources, ledger.sources)
        doubts = Doubts.read(config, ledger)
        rejected = RejectedEntries.read(config, ledger, snapshots)
    config = _with_domains(config, finished)
    smtpd, sent = _smtpd(config, doubts), _as_sent(spelled, [address, *folded][-1])
    address = normalise.unfolded(address, normalise.folded_domains(config.postfix.relay_domains))
    said: tuple[SourceEntry, ...] = ()
    covering = tuple(_by_base(snapshots, smtpd.without_extension(address)))
    if address:
        said = _said(snapshots, address)
        reasons += _out_of_scope(config, address, said)
        reasons += _kept(config, finished, address, holds.values(), waiting)
    with ledger_errors(config.state.directory):
        reasons += rejected.sentences(spelled, address)
        reasons += refused_sentences(config, snapshots, address) if address else ()
    happened = tuple(history.of_address(config, address)) if address else ()
    if address and not said and not happened and not reasons:
        since_when = f"history since {_date(first)}" if first else "no history yet"
        reasons.append(f"no source lists it ({since_when})")
    asked = tuple(_asked(config, smtpd, sent, address))
    published = bool(address) and any(row.found for row in asked if row.key in normalise.renderings(address))
    added = [at for at, change in happened if change.added]
    since = added[-1] if added else first if said and not happened else 0.0
    return Explanation(
        spelled=spelled,
        canonical=address,
        published=published,
        said=said,
        reasons=(*reasons, *covering),
        since=since if published else 0.0,
        happened=happened,
        asked=asked,
        verdict=_verdict(smtpd, sent),
        history_since=first,
        doubts=tuple(doubts.sentences(address, frozenset(config.postfix.relay_domains))) if address else (),
    )


def _too_long(config: Config, spelled: str, reason: str) -> Explanation:
    """Return the facts about a spelling that is too long for a table and for an SMTP command.

    Raises LedgerError if the state cannot be read.
    """
    with reading(config.state.directory) as ledger:
        rejected, first = RejectedEntries.read(config, ledger, _snapshots(ledger)), ledger.first_time()
    return Explanation(
        spelled=f"{spelled[:_SHOWN]}...",
        canonical="",
        published=False,
        said=(),
        reasons=(f"no table can have it: it {reason}", *rejected.sentences(spelled, "")),
        since=0.0,
        happened=(),
        asked=(),
        verdict="Postfix cannot be asked for it: it is longer than a line of SMTP",
        history_since=first,
    )


def _snapshots(ledger: Ledger) -> dict[str, Path]:
    """Return the path of each source's snapshot, for the sources that have one.

    Raises LedgerError if one was cut, and OSError if one cannot be read.
    """
    found = {name: ledger.snapshots / state.snapshot.file for name, state in ledger.sources.items() if state.snapshot}
    for name, path in found.items():
        if not sorted_lines.has_end(path):
            raise LedgerError(f"{path} has no end line, it was cut: the next run asks source {name} for everything")
    return found


def _with_domains(config: Config, finished: Finished | None) -> Config:
    """Return the configuration with the domains of postfix.domains_map, as last published, added to relay_domains."""
    more = finished.domains if finished and config.postfix.domains_map else ()
    names = dict.fromkeys((*config.postfix.relay_domains, *map(Domain, more)))
    return replace(config, postfix=replace(config.postfix, relay_domains=tuple(names)))


def _smtpd(config: Config, doubts: Doubts) -> Smtpd:
    """Return the smtpd whose main.cf is in postfix.config_directory."""
    domain = min(config.postfix.relay_domains, default="example.invalid")
    live = LivePostfix(config.postfix.config_directory, lambda: unused_address(domain))
    return Smtpd(live, config.postfix.map, config.postfix.doubt_map, doubts.why)


def _said(snapshots: dict[str, Path], address: str) -> tuple[SourceEntry, ...]:
    with SnapshotIndex(snapshots) as finder:
        return tuple(
            SourceEntry(name, unescape(key.decode()), unescape(label.decode()))
            for name, key, label in finder.entries(address.encode())
        )


def _out_of_scope(config: Config, address: str, said: tuple[SourceEntry, ...]) -> Iterator[str]:
    """Yield the reason, at most one, for which the settings keep an address out of the map."""
    postfix, domain = config.postfix, address.rpartition("@")[2]
    if normalise.within(domain, frozenset(postfix.relay_domains)) is None:
        yield f"domain {domain} is outside postfix.relay_domains"
    elif address in postfix.exclude or f"@{domain}" in postfix.exclude:
        yield "it is in postfix.exclude"
    elif address.startswith("@") and domain not in postfix.catch_all and said:
        yield f"a catch-all enters only where postfix.catch_all permits it: add {domain} there"


def _kept(
    config: Config, finished: Finished | None, address: str, holds: Collection[Hold], waiting: Waiting
) -> Iterator[str]:
    """Yield the reason why an address that no source lists any more is still published: a hold or the grace period.

    ``holds`` are the current holds. Yields nothing if the list of kept addresses cannot be read.
    """
    if finished is None:
        return
    try:
        lines = SortedLines(config.state.directory / "lists" / finished.kept.name)
    except OSError:
        return
    with contextlib.closing(lines):
        for line in lines.starting_with(f"{address}\t".encode()):
            kept = Kept.parse(line.split(b"\t")[1:])
            who = f", {kept.said.decode()} last" if kept.said else ""
            when = f"no source has had it since {messages.moment(float(kept.since))}{who}"
            if kept.why.startswith(HOLD):
                yield f"{when}; {_held(config, kept.why.removeprefix(HOLD).decode(), holds)}"
            else:
                yield f"{when}; it {_until(config, address, kept, waiting)}"


def _held(config: Config, key: str, holds: Collection[Hold]) -> str:
    """Return by which hold the removal of an address is held, why, and the command that approves it.

    ``key`` is the identity of its hold.
    """
    hold = by_key(holds)(key)
    if hold is None:
        return "its removal is held"
    why = "; ".join(messages.with_text(reason).text for reason in hold.reasons)
    remedy = f"; to let it go: {config.command('approve', hold.id)}" if hold.approvable else ""
    return f"its removal is held under {hold.id} ({why}){remedy}"


def _until(config: Config, address: str, kept: Kept, waiting: Waiting) -> str:
    """Return until when an address that is not held stays published, and why."""
    now, domain = time.time(), address.rpartition("@")[2]
    grace = config.limits.of(normalise.within(domain, frozenset(config.postfix.relay_domains)) or domain)[2]
    until = waiting.until(kept.since, grace, kept.sources, kept.upgraded)
    why, names = waiting.why(now, until, grace, kept.sources)
    reason = messages.why_it_waits(Waits(why, names, 1, kept.since, until, until, until))
    return f"stays until {messages.moment(until)}: {reason}" if until > now else f"stays for now: {reason}"


def _by_base(snapshots: dict[str, Path], base: str) -> Iterator[str]:
    """Yield a sentence with the sources of ``base``, the address without extension; nothing if ``base`` is empty."""
    if base:
        names = ", ".join(dict.fromkeys(said.source for said in _said(snapshots, base))) or "no source"
        yield f"Postfix also looks it up without its extension (recipient_delimiter): {base}, which {names} has"


def _asked(config: Config, smtpd: Smtpd, sent: str, address: str) -> Iterator[Lookup]:
    """Yield the lookup of each key in smtpd's order: the address, the address without extension, ``@domain``.

    Yields the IDN forms of a canonical address as well. If the lookups fail, each has the error message.
    """
    whole = address or sent
    if "@" not in whole:
        return
    base, domain = smtpd.without_extension(whole), whole.rpartition("@")[2]
    keys = dict.fromkeys([whole, *([base] if base else []), f"@{domain}"])
    forms = list(dict.fromkeys(form for key in keys for form in (normalise.renderings(key) if address else (key,))))
    values: dict[str, str] = {}
    failure = ""
    try:
        values = _values(config, smtpd, forms)
    except (CommandError, OSError) as error:
        failure = str(error)
    yield from (Lookup(form, values.get(form), failure) for form in forms)


def _values(config: Config, smtpd: Smtpd, keys: list[str]) -> dict[str, str]:
    """Return the keys that the map has, with their values. Raises CommandError or OSError if the lookup fails.

    A texthash is parsed if Postfix is not installed, which then folds nothing in another way either.
    """
    try:
        return smtpd.look_up(keys)
    except CommandError as error:
        if config.postfix.map.type != "texthash" or error.cause is not Cause.NOT_INSTALLED:
            raise
    return _in_texthash(config, keys)


def _in_texthash(config: Config, keys: list[str]) -> dict[str, str]:
    """Return the keys that the map, a texthash, has, with their values. It is parsed without Postfix.

    Raises OSError if it cannot be read.
    """
    by_folded = {key.casefold(): key for key in keys}
    values: dict[str, str] = {}
    with files.open_foreign(Target(config.postfix.settings()).text) as file:
        for _, line in table_text.logical_lines(files.lines_of(file)):
            pair = table_text.split(line)
            key = by_folded.get(pair[0].decode(errors="replace").casefold()) if pair else None
            if pair and pair[1] and key:
                values.setdefault(key, pair[1].decode(errors="replace"))
    return values


def _as_sent(spelled: str, address: str) -> str:
    """Return an address as smtpd looks it up: case-folded, without trailing dot, IDN not converted.

    ``address`` is the last of its forms. If it is empty, returns the spelling without surrounding white space.
    """
    if not address:
        return trimmed(spelled)
    domain = trimmed(spelled).rpartition("@")[2].casefold().removesuffix(".")
    return f"{address.rpartition('@')[0]}@{domain}"


def _verdict(smtpd: Smtpd, sent: str) -> str:
    """Return smtpd's predicted answer to RCPT TO, as a sentence."""
    local, at, domain = sent.rpartition("@")
    if not at:
        return "Postfix looks it up as a local name: it has no @"
    unlisted = "" if local else f"to an address of {domain} that is not listed, "
    return f"{unlisted}{smtpd.answers(sent)}"


def _date(moment: float) -> str:
    return messages.moment(moment)[: len("2026-11-28")]
