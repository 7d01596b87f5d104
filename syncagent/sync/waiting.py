"""How long a missing recipient waits before it may be removed, and what confirms that it is gone. It is pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, NamedTuple

from msgspec.structs import replace

from syncagent.model import Waits
from syncagent.state.looks import AGAIN

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from syncagent.config.tables import SourceConfig
    from syncagent.model import SourceState

STUCK = 3
"""A removal that has waited for so many times its wait is stuck."""


class Looked(NamedTuple):
    """What is known of a source: the proof of its answers, its confirm_after, and its last confirming look.

    ``proof`` is as in ``sources.Answer``. ``confirm_after`` is in seconds, ``looked`` in seconds since the epoch, as
    ``tried``, the time of the last look that proved nothing.
    """

    proof: str = "transport"
    confirm_after: float = 0.0
    looked: float = 0.0
    tried: float = 0.0

    def next_look(self, now: float) -> float:
        """Return when a look that is due already can be taken: at the next run, or a time after one in vain."""
        return max(now + 1, self.tried + AGAIN if self.tried else 0.0)


def wait(proof: str, grace: float, confirm_after: float) -> float:
    """Return how long a recipient of a source waits, in seconds: the grace, or longer if only the transport proves it.

    ``grace`` is limits.removal_grace; 0 switches off the wait.
    """
    return grace if proof == "producer" or not grace else max(grace, confirm_after)


class Waiting(NamedTuple):
    """The configured sources, by name."""

    sources: Mapping[str, Looked]

    @classmethod
    def of(cls, configured: Mapping[str, SourceConfig], states: Mapping[str, SourceState]) -> Waiting:
        """Return the configured sources that have a state, with how long recipients of each wait."""
        pairs = ((name, states[name], source.common) for name, source in configured.items() if name in states)
        return cls(
            {
                name: Looked(state.proof, float(common.confirm_after), state.looked, state.look_tried)
                for name, state, common in pairs
            }
        )

    def _of(self, said: Iterable[str]) -> dict[str, Looked]:
        """Return the sources that last listed a recipient; all of them if that is unknown.

        A source that is no longer configured is left out: a person took it out.
        """
        names = tuple(said) or self.sources
        return {name: self.sources[name] for name in names if name in self.sources}

    def until(self, since: float, grace: float, said: Iterable[str], upgraded: float = 0.0) -> float:
        """Return the end of the wait of a recipient that has been missing since then.

        ``upgraded``: the time from which all but the grace counts, if an older version recorded the recipient.
        """
        longest = max((wait(one.proof, grace, one.confirm_after) for one in self._of(said).values()), default=grace)
        return since + grace if longest == grace else max(since, upgraded) + longest

    def slow(self, grace: float, said: Iterable[str]) -> tuple[str, ...]:
        """Return the names of its sources for which a recipient waits longer than the grace."""
        sources = self._of(said).items()
        return tuple(name for name, one in sources if wait(one.proof, grace, one.confirm_after) > grace)

    def why(
        self, now: float, until: float, grace: float, said: Iterable[str]
    ) -> tuple[Literal["grace", "list", "look"], tuple[str, ...]]:
        """Return why a recipient waits at ``now``, and the sources concerned. ``until`` is the end of its wait."""
        names = tuple(said)
        if until <= now:
            return "look", self.unconfirmed(until, names)
        slow = self.slow(grace, names)
        return ("list", slow) if slow else ("grace", ())

    def is_confirmed(self, until: float, said: Iterable[str]) -> bool:
        """True if each of its sources gave a confirming look after the wait."""
        return not self.unconfirmed(until, said)

    def unconfirmed(self, until: float, said: Iterable[str]) -> tuple[str, ...]:
        """Return the names of its sources that have not given a confirming look after the wait."""
        return tuple(name for name, one in self._of(said).items() if one.looked < until)


NO_SOURCES = Waiting({})


class WaitBook:
    """The recipients that wait, counted by the reason and the sources."""

    def __init__(self) -> None:
        """Start without a recipient."""
        self._found: dict[tuple[str, tuple[str, ...]], Waits] = {}

    def count(
        self,
        why: Literal["grace", "list", "look", "unknown", "present"],
        sources: tuple[str, ...],
        since: float,
        until: float,
        length: float,
    ) -> None:
        """Count a recipient that is missing since then and decided at ``until``; ``length`` is that of its wait."""
        one = Waits(why, sources, 1, since, until, until, since + STUCK * length)
        known = self._found.get((why, sources), replace(one, count=0))
        self._found[why, sources] = Waits(
            why,
            sources,
            known.count + 1,
            min(known.since, since),
            min(known.until, until),
            max(known.last, until),
            min(known.stuck_at, one.stuck_at),
        )

    def waits(self) -> tuple[Waits, ...]:
        """Return the recipients by reason and sources, the first to be decided first."""
        return tuple(sorted(self._found.values(), key=lambda one: (one.until, one.why, one.sources)))
