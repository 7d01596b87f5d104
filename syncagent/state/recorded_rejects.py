"""The rejected entries of the recorded answers of the sources."""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING

from syncagent.state import rejects
from syncagent.state.rejects import Rejected
from syncagent.state.snapshot import rejects_of

if TYPE_CHECKING:
    from syncagent.config.tables import Config, SourceConfig
    from syncagent.state.database import Ledger


def of_sources(config: Config, ledger: Ledger) -> dict[str, Rejected]:
    """Return the rejected entries of each source. A list that cannot be read counts as if all of them were held."""
    return {name: _of_source(source, ledger) for name, source in config.sources.items()}


def _of_source(source: SourceConfig, ledger: Ledger) -> Rejected:
    state = ledger.sources.get(source.name)
    if state is None or state.snapshot is None or not state.snapshot.rejected:
        return rejects.NONE
    try:
        found = islice(rejects_of(ledger.snapshots / state.snapshot.file, source.name), state.snapshot.rejected)
        approved = ledger.approved_rejects(source.name)
        return rejects.of_source(found, approved, source.common.ignore, rejects.origin(source))
    except (OSError, ValueError):
        return Rejected(held=state.snapshot.rejected)
