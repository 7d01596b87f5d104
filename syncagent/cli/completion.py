"""What a shell completes: its script is click's own, and so are the verbs and options; here are the rest."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from click.shell_completion import CompletionItem, get_completion_class

if TYPE_CHECKING:
    from pathlib import Path

    import click


def script(command: click.Command, shell: str) -> str:
    """Give the script that teaches a shell to complete the command."""
    kind = get_completion_class(shell)
    if kind is None:
        raise ValueError(f"click knows no {shell}")
    return kind(command, {}, "syncagent", "_SYNCAGENT_COMPLETE").source()


def holds(config_file: Path, incomplete: str) -> list[CompletionItem]:
    """Complete the ID of a hold that may be approved; none where that cannot be known: a TAB is no place for errors."""
    from syncagent import privileges
    from syncagent.config import load as config
    from syncagent.errors import SyncagentError
    from syncagent.state import messages
    from syncagent.state.database import reading

    with contextlib.suppress(SyncagentError, OSError):
        loaded = config.load(config_file)
        privileges.become_least_owner(loaded)
        with reading(loaded.state.directory) as ledger:
            return [
                CompletionItem(hold.id, help=messages.held(hold))
                for hold in ledger.holds.values()
                if hold.approvable and hold.id.startswith(incomplete)
            ]
    return []


def recipes(incomplete: str) -> list[CompletionItem]:
    """Complete the name of a recipe of ours, else the path of one."""
    from syncagent.sources.http.recipe import validate as judge

    found = [CompletionItem(name) for name in judge.names() if name.startswith(incomplete)]
    return found or [CompletionItem(incomplete, type="file")]
