"""Why an address is in or out: who says so, since when, and what Postfix will answer, asked from the live map."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from msgspec import Struct
from msgspec.structs import replace

from syncagent import addresses as normalise
from syncagent.checks.context import UnaskedError
from syncagent.checks.rcpt_answer import Smtpd
from syncagent.files import atomic as files
from syncagent.files.search import SnapshotIndex, SortedLines
from syncagent.postfix import table_text as mapfile
from syncagent.postfix.table import Target
from syncagent.state import history
from syncagent.state.database import ledger_errors, reading
from syncagent.state.snapshot import escape, rejects_of, unescape
from syncagent.sync.removals import HOLD
from syncagent.values.types import Domain

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from syncagent.config.tables import Config
    from syncagent.state.records import Finished

_SHOWN = 60
"""Characters of a spelling that is too long."""


class Said(Struct, frozen=True):
    """An entry of a source: its own key for it, and a label for people."""

    source: str
    key: str
    label: str


class Asked(Struct, frozen=True):
    """A key that Postfix looks up, and what the live map has for it; None where it has nothing, or cannot be asked."""

    key: str
    found: str | None
    trouble: str = ""


class Explanation(Struct, frozen=True, kw_only=True):
    """Everything that is known of an address. ``reasons`` say, each in a sentence, why it is in or out."""

    spelled: str
    canonical: str
    published: bool
    said: tuple[Said, ...]
    reasons: tuple[str, ...]
    since: float
    happened: tuple[tuple[float, history.Change], ...]
    asked: tuple[Asked, ...]
    verdict: str


def explain(config: Config, spelled: str, program: str) -> Explanation:
    """Explain an address as a person, a source or a client of Postfix may spell it. Raises LedgerError."""
    if reason := normalise.too_long(spelled):
        return _unasked(config, spelled, reason)
    reasons: list[str] = []
    try:
        address = normalise.canonical(spelled)
    except normalise.UnusableError as error:
        address = ""
        reasons.append(f"no table can have it: it {error}")
    with reading(config.state.directory) as ledger:
        held = {name: state.snapshot for name, state in ledger.sources.items() if state.snapshot}
        snapshots = {name: ledger.snapshots / one.file for name, one in held.items()}
        finished, holds, first = ledger.finished, ledger.holds, ledger.first_time()
    config = _with_domains(config, finished)
    smtpd, sent = Smtpd(config), _as_sent(spelled, address)
    said: tuple[Said, ...] = ()
    covering = tuple(_by_base(snapshots, smtpd.without_extension(address)))
    if address:
        said = _said(snapshots, address)
        reasons += _in_scope(config, address, said)
        reasons += _kept(config, finished, address, {key: hold.approvable for key, hold in holds.items()}, program)
    with ledger_errors(config.state.directory):
        reasons += _rejected(snapshots, spelled, address)
    happened = tuple(history.of_address(config, address)) if address else ()
    if address and not said and not happened and not reasons:
        reasons.append("no source says so, and none ever did as far as the history goes")
    asked = tuple(_asked(config, smtpd, sent, address))
    published = bool(address) and any(one.found for one in asked if one.key in normalise.renderings(address))
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
    )


def _unasked(config: Config, spelled: str, reason: str) -> Explanation:
    """Explain a spelling that is too long to be looked at: neither a table nor an SMTP command can hold it."""
    with reading(config.state.directory) as ledger:
        held = {
            name: ledger.snapshots / state.snapshot.file for name, state in ledger.sources.items() if state.snapshot
        }
    return Explanation(
        spelled=f"{spelled[:_SHOWN]}...",
        canonical="",
        published=False,
        said=(),
        reasons=(f"no table can have it: it {reason}", *_rejected(held, spelled, "")),
        since=0.0,
        happened=(),
        asked=(),
        verdict="Postfix cannot be asked for it: it is longer than a line of SMTP",
    )


def _with_domains(config: Config, finished: Finished | None) -> Config:
    """Give the configuration with the relay domains that postfix.domains_map has, as the last run left it."""
    more = finished.domains if finished and config.postfix.domains_map else ()
    names = dict.fromkeys((*config.postfix.relay_domains, *map(Domain, more)))
    return replace(config, postfix=replace(config.postfix, relay_domains=tuple(names)))


def _said(snapshots: dict[str, Path], address: str) -> tuple[Said, ...]:
    with SnapshotIndex(snapshots) as finder:
        return tuple(
            Said(name, unescape(key.decode()), unescape(label.decode()))
            for name, key, label in finder.entries(address.encode())
        )


def _in_scope(config: Config, address: str, said: tuple[Said, ...]) -> Iterator[str]:
    postfix, domain = config.postfix, address.rpartition("@")[2]
    if normalise.within(domain, frozenset(postfix.relay_domains)) is None:
        yield f"{domain} is outside postfix.relay_domains"
    elif address in postfix.exclude or f"@{domain}" in postfix.exclude:
        yield "it is in postfix.exclude"
    elif address.startswith("@") and domain not in postfix.catch_all and said:
        yield f"a catch-all enters only where postfix.catch_all permits it: add {domain} there"


def _kept(
    config: Config, finished: Finished | None, address: str, holds: dict[str, bool], program: str
) -> Iterator[str]:
    """Say that no source has it any more, and why it is published all the same."""
    if finished is None:
        return
    try:
        lines = SortedLines(config.state.directory / "lists" / finished.kept.name)
    except OSError:
        return
    with contextlib.closing(lines):
        for line in lines.starting_with(f"{address}\t".encode()):
            _, since, why, who = (line.decode() + "\t").split("\t")[:4]
            when = f"no source has had it since {_time(float(since))}{f', {who} last' if who else ''}"
            if why.startswith(HOLD.decode()):
                key = why[len(HOLD) :]
                mend = f"; to let it go: {program} approve {key}" if holds.get(key) else ""
                yield f"{when}; its removal is held under {key}{mend}"
            else:
                yield f"{when}; it stays for now (limits.removal_grace)"


def _rejected(snapshots: dict[str, Path], spelled: str, address: str) -> Iterator[str]:
    """Say which sources have it in a form that cannot be a recipient."""
    starts = (spelled, spelled.strip())  # a long one is kept by its start
    wanted = ({unescape(escape(start)).strip().lower() for start in starts} | {address}) - {""}
    for name, path in snapshots.items():
        for reject in rejects_of(path):
            if unescape(reject.spelled).strip().lower() in wanted:
                yield f"source {name} has it ({unescape(reject.key)}), and it was rejected: it {reject.reason}"


def _by_base(snapshots: dict[str, Path], base: str) -> Iterator[str]:
    if base:
        names = ", ".join(dict.fromkeys(said.source for said in _said(snapshots, base))) or "no source"
        yield f"Postfix also looks it up without its extension (recipient_delimiter): {base}, which {names} has"


def _asked(config: Config, smtpd: Smtpd, sent: str, address: str) -> Iterator[Asked]:
    """Ask the live map for each key that smtpd(8) looks up, in its order: whole, without extension, ``@domain``."""
    whole = address or sent
    if "@" not in whole:
        return
    base, domain = smtpd.without_extension(whole), whole.rpartition("@")[2]
    keys = dict.fromkeys([whole, *([base] if base else []), f"@{domain}"])
    forms = list(dict.fromkeys(form for key in keys for form in (normalise.renderings(key) if address else (key,))))
    there: dict[str, str] = {}
    trouble = ""
    try:
        there = _in_texthash(config, forms) if config.postfix.map.type == "texthash" else smtpd.look_up(forms)
    except (UnaskedError, OSError) as error:
        trouble = str(error)
    yield from (Asked(form, there.get(form), trouble) for form in forms)


def _in_texthash(config: Config, keys: list[str]) -> dict[str, str]:
    """Look keys up in a texthash, which is parsed: it needs no Postfix. Raises OSError."""
    wanted = {key.casefold(): key for key in keys}
    found: dict[str, str] = {}
    with files.open_foreign(Target(config.postfix.settings()).text) as file:
        for _, line in mapfile.logical_lines(files.lines_of(file)):
            pair = mapfile.split(line)
            key = wanted.get(pair[0].decode(errors="replace").casefold()) if pair else None
            if pair and pair[1] and key:
                found.setdefault(key, pair[1].decode(errors="replace"))
    return found


def _as_sent(spelled: str, address: str) -> str:
    """Give an address as smtpd takes it: it folds case and takes a last dot away, and converts no IDN."""
    if not address:
        return spelled.strip()
    domain = spelled.strip().rpartition("@")[2].casefold().removesuffix(".")
    return f"{address.rpartition('@')[0]}@{domain}"


def _verdict(smtpd: Smtpd, sent: str) -> str:
    """Say what smtpd answers to RCPT TO."""
    local, at, domain = sent.rpartition("@")
    if not at:
        return "Postfix looks it up as a local name: it has no @"
    unlisted = "" if local else f"to an address of {domain} that is not listed, "
    return f"{unlisted}{smtpd.answers(sent)}"


def _time(moment: float) -> str:
    import datetime as dt

    return dt.datetime.fromtimestamp(moment).astimezone().isoformat(" ", "minutes")
