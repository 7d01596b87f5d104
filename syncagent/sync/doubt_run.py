"""Doubt outside of a run: after a failed run, the sign of life, and by hand. No source is asked."""

from __future__ import annotations

import contextlib
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from syncagent.errors import LockBusyError, SyncagentError
from syncagent.files import pipeline
from syncagent.postfix import doubt_table
from syncagent.postfix.doubt_table import Files
from syncagent.postfix.table import publish_step
from syncagent.postfix.verify import text_keys
from syncagent.state.opened import open_state
from syncagent.state.records import Event
from syncagent.sync import doubt, outcome
from syncagent.sync import doubt_table as doubt_table_of_run

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Sequence

    from syncagent.config.tables import Config
    from syncagent.model import SyncResult
    from syncagent.postfix.doubt_table import ByHand

_WAIT = 5.0
"""Seconds to wait for the lock of a run."""


def everything(config: Config, now: float, *, write: bool = True) -> None:
    """Put every relay domain in doubt, after a run that failed. Needs neither the state nor its lock.

    Does nothing without a doubt table, or in a dry run. An error is left to the switch: without a sign of life, it
    fires.
    """
    if config.postfix.doubt_map is None or not write:
        return
    with contextlib.suppress(OSError, SyncagentError):
        if not Files(config.postfix.doubt_map).switch_all(now):
            _build_all(config)


def _build_all(config: Config) -> None:
    """Publish a doubt table with every relay domain, where no ready-made one is there."""
    postfix = config.postfix
    assert postfix.doubt_map is not None  # noqa: S101 - the caller checks it
    keys = doubt_table.keys(
        postfix.relay_domains, (), doubt_table.probe_domain(postfix.relay_domains, postfix.catch_all)
    )
    _write_without_lock(config, keys)


def _write_without_lock(config: Config, keys: Iterable[bytes]) -> None:
    """Publish a doubt table with these sorted keys, beside a run that may be under way. Raises PublishError."""
    assert config.postfix.doubt_map is not None  # noqa: S101 - the caller checks it
    settings = config.postfix.settings(config.postfix.doubt_map)
    with publish_step("stage"), tempfile.TemporaryDirectory(prefix="syncagent-doubt-") as spool:
        lines = pipeline.write_plain(Path(spool, "keys"), keys)
        doubt_table.write(settings, lines, Path(spool), lambda *_: None, sweep=False)


def alive(config: Config, now: float, result: SyncResult, limit: float | None) -> SyncResult:
    """Write the sign of life after a run that completed. Return the result, with the error if that fails.

    ``limit`` is in seconds; postfix.doubt_dead overrides it.
    """
    if config.postfix.doubt_map is None:
        return result
    try:
        Files(config.postfix.doubt_map).touch(now, config.postfix.doubt_dead or limit, ran=True)
    except OSError as error:
        text = f"the sign of life cannot be written: {error.strerror}: {config.postfix.doubt_map.path.parent}/alive"
        return outcome.with_doubt(result, result.doubts, result.doubt_due, text)
    return result


# --- by hand


def by_hand(config: Config, entries: Sequence[ByHand], cleared: Collection[str], now: float) -> bool:
    """Put domains in doubt, and end the doubt that persons put on the domains ``cleared`` ("*": on all).

    The file ``by-hand`` is written, then the table: that of the recorded reasons, once no other run has the lock; if
    that takes more than 5 s, the present table with the new lines. True if the entries are in force; False if the next
    run has to end them. Raises PublishError or LedgerError.
    """
    assert config.postfix.doubt_map is not None  # noqa: S101 - the caller checks it
    files = Files(config.postfix.doubt_map)
    with publish_step("write by-hand"):
        files.write_by_hand(_merged(files.by_hand(), entries, cleared, now))
    try:
        with open_state(config.state.directory, write=True, lock_timeout=_WAIT) as state:
            doubt_table_of_run.by_hand(config, state, _events(entries, cleared, now))
    except LockBusyError:
        if entries:
            _add_without_lock(config, files, entries)
        return not cleared
    return True


def _merged(old: Iterable[ByHand], entries: Iterable[ByHand], cleared: Collection[str], now: float) -> Iterable[ByHand]:
    """Return the entries of ``by-hand`` after a change; those whose time has come are left out."""
    stay = {
        entry.domain: entry
        for entry in old
        if entry.domain not in cleared and doubt.ALL not in cleared and (not entry.until or entry.until > now)
    }
    return {**stay, **{entry.domain: entry for entry in entries}}.values()


def _events(entries: Iterable[ByHand], cleared: Iterable[str], now: float) -> list[Event]:
    begun = [Event(now, "doubt-by-hand", entry.domain, entry.who) for entry in entries]
    return [*begun, *(Event(now, "doubt-cleared", domain) for domain in cleared)]


def _add_without_lock(config: Config, files: Files, entries: Iterable[ByHand]) -> None:
    """Add the lines of these entries to the present table, while another run has the lock."""
    names = [entry.domain for entry in entries]
    domains = config.postfix.relay_domains if doubt.ALL in names else names
    added = doubt_table.keys(domains, (), "")
    with publish_step("read the doubt table"):
        there = [key for key in text_keys(files.name.path) if key.isascii()]
    _write_without_lock(config, sorted({*there, *added}))
