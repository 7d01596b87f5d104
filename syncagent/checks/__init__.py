"""Is everything right? Lists of checks, each with its mend."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

from msgspec.structs import replace

from syncagent import fetch
from syncagent.ledger import Ledger

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from syncagent.config import Config
    from syncagent.model import SourceReport


def sources(config: Config, report: Callable[[str, int], None]) -> Sequence[SourceReport]:
    """Ask every source for everything, as a first run would; what it answers is thrown away.

    The breaker holds here too: a source that refused our credentials within the hour is not asked.
    """
    with tempfile.TemporaryDirectory(prefix="syncagent-check-") as directory:
        spool = Path(directory)
        ledger = Ledger(config.state.directory, write=False)
        ledger.close()
        remembered = {name: replace(state, snapshot=None, validator=None) for name, state in ledger.sources.items()}
        fetcher = fetch.Fetcher(spool, spool, spool, "check", time.time(), report)
        return [one.report for one in fetcher.all(config.sources, remembered)]
