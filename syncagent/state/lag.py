"""The lag of each relay domain: how long a new mailbox may be refused at most, until the map has it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from msgspec import Struct

from syncagent.state import concerns

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from syncagent.config.tables import Config


class Lag(Struct, frozen=True):
    """The lag of a relay domain by its slowest source. ``seconds`` is None if it is not known, 0 if it is watched."""

    domain: str
    source: str
    seconds: float | None
    by_agent: bool
    """Whether the interval is that of the agent; otherwise it is the longest time between the last runs."""


def of_domains(
    config: Config, recorded: Callable[[str], Collection[str]], domains: Collection[str], gap: float | None
) -> tuple[Lag, ...]:
    """Return the lag of each relay domain, sorted by domain.

    ``recorded`` returns the recorded mail domains of a source. A source that has none, and no key ``relay_domains``,
    counts for every domain. ``gap`` is the longest time between the last runs in seconds, 0 if it is not known; None
    if an agent runs, so that the intervals of the configuration apply.
    """
    scope = frozenset(domains)
    slowest: dict[str, Lag] = {}
    for name in config.sources:
        seconds = _interval(config, name) if gap is None else gap or None
        for domain in concerns.of_source(config, name, recorded(name), scope):
            lag = Lag(str(domain), name, seconds, gap is None)
            if domain not in slowest or _rank(lag) > _rank(slowest[domain]):
                slowest[domain] = lag
    return tuple(slowest[domain] for domain in sorted(slowest))


def _rank(lag: Lag) -> float:
    return float("inf") if lag.seconds is None else lag.seconds


def _interval(config: Config, name: str) -> float:
    return 0.0 if config.sources[name].watched else config.longest_interval(name)
