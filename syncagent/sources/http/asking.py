"""What both faces of the source have: a server that is asked, and can be left while it keeps us waiting."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    from syncagent.sources.http import Config
    from syncagent.sources.http.client import Transport


class Asking:
    """A source that asks one server."""

    _under_way: Transport | None = None

    @contextlib.contextmanager
    def _asked(self, config: Config, ends: float) -> Iterator[Transport]:
        """Ask it within the block."""
        from syncagent.sources.http.client import Transport

        with Transport(config, ends) as transport:
            self._under_way = transport
            try:
                yield transport
            finally:
                self._under_way = None

    def give_up(self) -> None:
        """See Source.give_up."""
        transport = self._under_way
        if transport is not None:
            transport.cut()
