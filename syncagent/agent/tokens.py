"""What wakes the worker of the agent: requests in its queue."""

from __future__ import annotations

from typing import NamedTuple


class Token(NamedTuple):
    """A request to the worker: to run with the sources ``due`` (None: all), to reload the configuration, or to stop."""

    due: frozenset[str] | None
    why: str
    reload: bool = False
    stop: bool = False
