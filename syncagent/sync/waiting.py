"""How long a missing recipient waits before it may be removed, and what confirms that it is gone. It is pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

LOOK_AGAIN = 3600.0
"""Seconds after which a confirming look that proved nothing is taken again."""


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
        return max(now + 1, self.tried + LOOK_AGAIN if self.tried else 0.0)


def wait(proof: str, grace: float, confirm_after: float) -> float:
    """Return how long a recipient of a source waits, in seconds: the grace, or longer if only the transport proves it.

    ``grace`` is limits.removal_grace; 0 switches off the wait.
    """
    return grace if proof == "producer" or not grace else max(grace, confirm_after)


class Waiting(NamedTuple):
    """The configured sources, by name."""

    sources: Mapping[str, Looked]

    def _of(self, said: Iterable[str]) -> list[Looked]:
        """Return the sources that last listed a recipient; all of them if that is unknown.

        A source that is no longer configured is left out: a person took it out.
        """
        names = tuple(said) or self.sources
        return [self.sources[name] for name in names if name in self.sources]

    def until(self, since: float, grace: float, said: Iterable[str], upgraded: float = 0.0) -> float:
        """Return the end of the wait of a recipient that has been missing since then.

        ``upgraded``: the time from which all but the grace counts, if an older version recorded the recipient.
        """
        longest = max((wait(one.proof, grace, one.confirm_after) for one in self._of(said)), default=grace)
        return since + grace if longest == grace else max(since, upgraded) + longest

    def is_confirmed(self, until: float, said: Iterable[str]) -> bool:
        """True if each of its sources gave a confirming look after the wait."""
        return all(one.looked >= until for one in self._of(said))

    def unconfirmed(self, until: float, said: Iterable[str]) -> tuple[str, ...]:
        """Return the names of its sources that have not given a confirming look after the wait."""
        names = tuple(said) or self.sources
        return tuple(name for name in names if name in self.sources and self.sources[name].looked < until)


NO_SOURCES = Waiting({})
