"""Doubt around a run: every domain after one that failed, and the sign of life after one that completed."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from syncagent.errors import SyncagentError
from syncagent.postfix import doubt_table
from syncagent.postfix.doubt_table import Files
from syncagent.sync import outcome
from syncagent.sync.tables import in_text

if TYPE_CHECKING:
    from syncagent.config.tables import Config
    from syncagent.model import SyncResult


def everything(config: Config, now: float, *, write: bool = True) -> None:
    """Put every relay domain in doubt, after a run that failed. Needs neither the state nor its lock.

    Does nothing without a doubt table, or in a dry run. An error is left to the switch: without a sign of life, it
    fires.
    """
    if config.postfix.doubt_map is None or not write:
        return
    with contextlib.suppress(OSError, SyncagentError):
        if not Files(config.postfix.doubt_map).switch_all(now):
            build_all(config)


def build_all(config: Config, *, ready_made: bool = False) -> None:
    """Publish a doubt table with every relay domain, and with the lines that it has. Needs no state.

    ``ready_made``: ``doubt-all`` as well, for the switch. postfix.doubt_map must be set. Raises PublishError.
    """
    postfix = config.postfix
    assert postfix.doubt_map is not None  # noqa: S101 - the caller checks it
    domains, addresses = Files(postfix.doubt_map).lines()
    names = {*map(str, postfix.relay_domains), *_published_domains(config), *domains}
    keys = doubt_table.keys(names, addresses, doubt_table.probe_domain(postfix.relay_domains, postfix.catch_all))
    settings = postfix.settings(postfix.doubt_map)
    if ready_made:
        doubt_table.write_without_lock(settings, keys, everything=True)
    doubt_table.write_without_lock(settings, keys)


def _published_domains(config: Config) -> frozenset[str]:
    """Return the domains in the table of domains; none if there is no such table, or if it cannot be read."""
    with contextlib.suppress(OSError):
        return in_text(config.postfix.domains_map.path) if config.postfix.domains_map else frozenset()
    return frozenset()


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
