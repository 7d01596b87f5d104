"""Shell completion: the scripts that click generates, and candidates for hold IDs, domains and recipes."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from click.shell_completion import CompletionItem, get_completion_class

if TYPE_CHECKING:
    from pathlib import Path

    import click


def script(command: click.Command, shell: str) -> str:
    """Return the completion script for a shell. Raises ValueError if click does not support the shell."""
    kind = get_completion_class(shell)
    if kind is None:
        raise ValueError(f"click does not support {shell}")
    return kind(command, {}, "syncagent", "_SYNCAGENT_COMPLETE").source()


def holds(config_file: Path, incomplete: str) -> list[CompletionItem]:
    """Return the IDs of approvable holds that begin with ``incomplete``.

    Any error in reading them gives an empty list, since a completion cannot display messages. If the process is root,
    it drops its privileges first.
    """
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


def domains(config_file: Path, incomplete: str) -> list[CompletionItem]:
    """Return the relay domains of the configuration that begin with ``incomplete``; none if it cannot be read."""
    from syncagent.config import load as config
    from syncagent.errors import SyncagentError

    with contextlib.suppress(SyncagentError, OSError):
        names = config.load(config_file).postfix.relay_domains
        return [CompletionItem(name) for name in names if name.startswith(incomplete)]
    return []


def recipes(incomplete: str) -> list[CompletionItem]:
    """Return the names of shipped recipes that begin with ``incomplete``.

    If there are none, the only item makes the shell complete a path.
    """
    from syncagent.sources.http.recipe import validate

    names = [CompletionItem(name) for name in validate.names() if name.startswith(incomplete)]
    return names or [CompletionItem(incomplete, type="file")]
