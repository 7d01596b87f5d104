"""Why an address is in or out: who says so, since when, and what Postfix will answer, asked from the live map."""

from __future__ import annotations

import contextlib
import re
from typing import TYPE_CHECKING

from msgspec import Struct
from msgspec.structs import replace

from syncagent import history, mapfile, normalise, publish
from syncagent.ledger import reading
from syncagent.lookup import Finder, SortedLines
from syncagent.mainconf import ask
from syncagent.plan import HOLD
from syncagent.snapshot import rejects_of, unescape
from syncagent.values import Domain

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from syncagent.config import Config
    from syncagent.ledger import Finished

_REFUSED_LOCAL = re.compile(r"[%!@]")


class Said(Struct, frozen=True):
    """An entry of a source: its own key for it, and a label for people."""

    source: str
    key: str
    label: str


class Asked(Struct, frozen=True):
    """A key that Postfix looks up, and what the live map has for it; None where it has nothing."""

    key: str
    found: str | None


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
    said: tuple[Said, ...] = ()
    covering = tuple(_by_base(snapshots, _base(config, address)))
    if address:
        said = _said(snapshots, address)
        reasons += _in_scope(config, address, said)
        reasons += _kept(config, finished, address, {key: hold.approvable for key, hold in holds.items()}, program)
    reasons += _rejected(snapshots, spelled, address)
    happened = tuple(history.of_address(config, address)) if address else ()
    if address and not said and not happened and not reasons:
        reasons.append("no source says so, and none ever did as far as the history goes")
    asked = tuple(_asked(config, spelled, address))
    added = [at for at, change in happened if change.added]
    return Explanation(
        spelled=spelled,
        canonical=address,
        published=any(one.found for one in asked if one.key in normalise.renderings(address)) if address else False,
        said=said,
        reasons=(*reasons, *covering),
        since=added[-1] if added else first if said and not happened else 0.0,
        happened=happened,
        asked=asked,
        verdict=_verdict(config, spelled, address, asked),
    )


def _with_domains(config: Config, finished: Finished | None) -> Config:
    """Give the configuration with the relay domains that postfix.domains_map has, as the last run left it."""
    more = finished.domains if finished and config.postfix.domains_map else ()
    names = dict.fromkeys((*config.postfix.relay_domains, *map(Domain, more)))
    return replace(config, postfix=replace(config.postfix, relay_domains=tuple(names)))


def _said(snapshots: dict[str, Path], address: str) -> tuple[Said, ...]:
    with Finder(snapshots) as finder:
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
    wanted = {spelled.strip().lower(), address} - {""}
    for name, path in snapshots.items():
        for reject in rejects_of(path):
            if unescape(reject.spelled).strip().lower() in wanted:
                yield f"source {name} has it ({unescape(reject.key)}), and it was rejected: it {reject.reason}"


def _base(config: Config, address: str) -> str:
    """Give an address without its extension, as main.cf says where that begins; nothing where it has none."""
    delimiter = _postconf(config, "recipient_delimiter")
    local, _, domain = address.rpartition("@")
    start = next((at for at, char in enumerate(local) if at and char in delimiter), 0)
    return f"{local[:start]}@{domain}" if start else ""


def _by_base(snapshots: dict[str, Path], base: str) -> Iterator[str]:
    if base:
        names = ", ".join(dict.fromkeys(said.source for said in _said(snapshots, base))) or "no source"
        yield f"Postfix also looks it up without its extension (recipient_delimiter): {base}, which {names} has"


def _asked(config: Config, spelled: str, address: str) -> Iterator[Asked]:
    """Ask the live map for each key that smtpd(8) looks up, in its order: whole, without extension, ``@domain``."""
    whole = address or spelled.strip()
    if "@" not in whole:
        return
    base, domain = _base(config, whole), whole.rpartition("@")[2]
    keys = [whole, *([base] if base else []), f"@{domain}"]
    forms = [form for key in dict.fromkeys(keys) for form in (normalise.renderings(key) if address else (key,))]
    for form in dict.fromkeys(forms):
        yield Asked(form, _query(config, form))


def _query(config: Config, key: str) -> str | None:
    """Ask the live map, as Postfix does; a texthash is parsed."""
    target = publish.Target(config.postfix)
    if target.type == "texthash":
        with contextlib.suppress(OSError), target.text.open("rb") as lines:
            for _, line in mapfile.logical_lines(lines):
                found = mapfile.split(line)
                if found and found[1] and found[0].decode(errors="replace").casefold() == key.casefold():
                    return found[1].decode(errors="replace")
        return None
    directory = str(config.postfix.config_directory)
    return ask("postmap", "-c", directory, "-q", key, str(config.postfix.map))[0].strip() or None


def _postconf(config: Config, name: str) -> str:
    return ask("postconf", "-c", str(config.postfix.config_directory), "-h", name)[0].strip()


def _verdict(config: Config, spelled: str, address: str, asked: tuple[Asked, ...]) -> str:
    """Say what smtpd answers to RCPT TO, as far as the map and the address decide it."""
    local, at, domain = (address or spelled.strip()).rpartition("@")
    if not at:
        return "Postfix looks it up as a local name: it has no @"
    whatever = _whatever_the_map_says(config, local, domain.lower())
    if whatever:
        return whatever
    if any(one.found for one in asked):
        return "Postfix answers 250: the map has it"
    if not publish.Target(config.postfix).text.exists():
        return "Postfix answers 451: the map is not there"
    code = _postconf(config, "unknown_relay_recipient_reject_code") or "550"
    return f"Postfix answers {code}: the map does not have it"


def _whatever_the_map_says(config: Config, local: str, domain: str) -> str:
    if local.startswith("-"):
        return "Postfix answers 501: a local part may not begin with - (allow_min_user)"
    if normalise.within(domain, frozenset(config.postfix.relay_domains)) is None:
        return f"Postfix answers 554, relay access denied, unless {domain} is one of its own domains"
    if _REFUSED_LOCAL.search(local):
        return "Postfix answers 554 whatever the map says: sender-specified routing (allow_untrusted_routing)"
    return ""


def _time(moment: float) -> str:
    import datetime as dt

    return dt.datetime.fromtimestamp(moment).astimezone().isoformat(" ", "minutes")
