"""Doubt by hand: a person puts domains in doubt, or ends that. No source is asked."""

from __future__ import annotations

import contextlib
from dataclasses import replace
from typing import TYPE_CHECKING

from syncagent.errors import LockBusyError
from syncagent.model import ALL_DOMAINS
from syncagent.postfix import doubt_table
from syncagent.postfix.doubt_table import Files
from syncagent.postfix.table import publish_step
from syncagent.postfix.verify import text_keys
from syncagent.state.database import reading
from syncagent.state.doubt_status import relay_domains_of
from syncagent.state.opened import open_state, writing_doubt
from syncagent.state.records import Event
from syncagent.sync.doubt_table import DoubtTable
from syncagent.sync.run import Run, ignore, new_run_id

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Sequence
    from pathlib import Path

    from syncagent.config.tables import Config
    from syncagent.postfix.doubt_table import ByHand

_WAIT = 5.0
"""Seconds to wait for the lock of a run."""


def change(config: Config, entries: Sequence[ByHand], cleared: Collection[str], now: float) -> bool:
    """Put domains in doubt, and end the doubt that persons put on the domains ``cleared`` ("*": on all).

    The file ``by-hand`` is written, then the table: that of the recorded reasons, once no other run has the lock; if
    that takes more than 5 s, the present table with the new lines. True if the entries are in force; False if the next
    run has to end them. Raises PublishError or LedgerError.
    """
    assert config.postfix.doubt_map is not None  # noqa: S101 - the caller checks it
    files = Files(config.postfix.doubt_map)
    with reading(config.state.directory) as ledger:
        relay_domains = relay_domains_of(config.postfix, ledger)
    with writing_doubt(config.state.directory), publish_step("write by-hand"):
        old = _spelled_out(files.by_hand(), relay_domains) if {*cleared} - {ALL_DOMAINS} else files.by_hand()
        files.write_by_hand(_merged(old, entries, cleared, now))
    try:
        with open_state(config.state.directory, write=True, lock_timeout=_WAIT) as state:
            run = Run(new_run_id(), now, str(config.postfix.map), state.notes)
            DoubtTable(config, state, run, ignore).by_hand(_events(entries, cleared, now))
    except LockBusyError:
        if entries:
            _add_without_lock(config, files, entries)
        return not cleared
    return True


def _spelled_out(entries: Iterable[ByHand], relay_domains: Iterable[str]) -> list[ByHand]:
    """Return the entries with one for each relay domain in place of one for all, so that a single one can be ended.

    Those that a person made for a domain come last.
    """
    listed = list(entries)
    whole = [entry for entry in listed if entry.domain == ALL_DOMAINS]
    spelled = [replace(entry, domain=domain) for entry in whole for domain in sorted(relay_domains)]
    return [*spelled, *(entry for entry in listed if entry.domain != ALL_DOMAINS)]


def _merged(old: Iterable[ByHand], entries: Iterable[ByHand], cleared: Collection[str], now: float) -> Iterable[ByHand]:
    """Return the entries of ``by-hand`` after a change; those whose time has come are left out."""
    stay = {
        entry.domain: entry
        for entry in old
        if entry.domain not in cleared and ALL_DOMAINS not in cleared and (not entry.until or entry.until > now)
    }
    return {**stay, **{entry.domain: entry for entry in entries}}.values()


def _events(entries: Iterable[ByHand], cleared: Iterable[str], now: float) -> list[Event]:
    begun = [Event(now, "doubt-by-hand", entry.domain, entry.who) for entry in entries]
    return [*begun, *(Event(now, "doubt-cleared", domain) for domain in cleared)]


def _add_without_lock(config: Config, files: Files, entries: Iterable[ByHand]) -> None:
    """Add the lines of these entries to the present table, while another run has the lock."""
    names = {entry.domain for entry in entries}
    added = {*doubt_table.keys(names - {ALL_DOMAINS}, (), "")}
    with writing_doubt(config.state.directory):
        with publish_step("read the doubt table"):
            if ALL_DOMAINS in names:
                added |= {*doubt_table.keys(config.postfix.relay_domains, (), ""), *_if_there(files.everything.path)}
            there = {*text_keys(files.name.path)}
        doubt_table.write_without_lock(config.postfix.settings(files.name), sorted(there | added))


def _if_there(text: Path) -> Iterator[bytes]:
    """Yield the keys of the text of ``doubt-all``; none if the switch has just renamed it."""
    with contextlib.suppress(FileNotFoundError):
        yield from text_keys(text)
