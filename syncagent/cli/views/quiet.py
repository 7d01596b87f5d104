"""The view of `sync --quiet`: what has begun, changed or ended since the last run, and once a day what stands."""

from __future__ import annotations

from typing import TYPE_CHECKING

from syncagent.cli.output import say
from syncagent.cli.views import sync as view
from syncagent.errors import LedgerError, LockBusyError
from syncagent.state import printed, status
from syncagent.sync import run

if TYPE_CHECKING:
    from syncagent.config.tables import Config
    from syncagent.model import SyncResult


def show(result: SyncResult, config: Config) -> None:
    """Print what is new in the result of a run. Notes are always printed with it.

    If the state cannot be read or written, everything is printed that does not end with exit status 0.
    """
    is_shown = False
    try:
        now = run.clock()
        standing = printed.facts(status.read(config, now), result.exit_code)
        with printed.telling(config.state.directory, standing, now) as news:
            for text in news.ended:
                print(f"over: {text}")
            is_shown = True
            if news.begun or result.notes:
                view.show(result, config)
            for fact in news.begun:
                if fact.more:
                    say(fact.text)
    except (LedgerError, LockBusyError):
        if not is_shown and (result.exit_code or result.notes):
            view.show(result, config)
