"""Point queries: the sources that can are asked for each recipient that would be removed in this run.

They can only withhold a removal: a recipient that a source still has is kept, one whose container the source does not
show is held, and one that could not be asked for stays until the next look. Approved removals are not asked for.
"""

from __future__ import annotations

import threading
import time
from collections import defaultdict
from dataclasses import dataclass, field
from itertools import islice
from typing import TYPE_CHECKING, Literal, NamedTuple

from syncagent.errors import SyncagentError
from syncagent.model import Note, Reason
from syncagent.sources import Candidate
from syncagent.state.fields import unescape
from syncagent.values.types import spell_seconds

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from syncagent.config.tables import SourceConfig
    from syncagent.sources import Confirmation
    from syncagent.sync.run import Progress

MOST = 200
"""Maximum number of recipients that a source is asked for in one run."""
BATCH = 50
"""Number of recipients in one request."""
SECONDS = 5.0
"""Time for each request, in seconds."""
_ENDING = 1.0
"""Seconds that a source may take longer until the request is abandoned."""
_LOOK = 0.5
"""Seconds between two looks at a thread: a signal just before join() does not end it."""

Withheld = dict[bytes, Reason | Literal["present", "unknown"]]
"""Recipients that stay, with the reason: a source still has it, it could not be asked, or it shows no container."""


class Going(NamedTuple):
    """A recipient that would be removed: its address, the sources that last listed it, and its label, escaped.

    Without sources, it is not known which listed it. ``parent`` is the DN of its container, as ``parent_of`` returns
    it; empty if the label is no DN.
    """

    address: bytes
    sources: tuple[str, ...]
    label: bytes
    parent: bytes

    @property
    def container(self) -> bytes:
        """The DN of its container; without one, the address stands for itself."""
        return self.parent or self.address


@dataclass
class Asked:
    """The result of the point queries.

    ``differing`` are the sources that have a recipient that their list lacks; ``failed`` has the error of each source
    that could not be asked.
    """

    withheld: Withheld = field(default_factory=dict)
    differing: set[str] = field(default_factory=set)
    failed: dict[str, str] = field(default_factory=dict)

    @property
    def notes(self) -> list[Note]:
        """What a run reports of the queries."""
        unknown = sum(1 for reason in self.withheld.values() if reason == "unknown")
        present = sum(1 for reason in self.withheld.values() if reason == "present")
        notes = [Note("list-differs", name, count=present) for name in sorted(self.differing)]
        return notes + [
            Note("not-confirmed", name, count=unknown, detail=error) for name, error in sorted(self.failed.items())
        ]


def ask(going: Iterable[Going], configured: Mapping[str, SourceConfig], progress: Progress) -> Asked:
    """Ask the sources for the recipients that would be removed. Return what is withheld."""
    asked = Asked()
    for name, recipients in _by_source(going, configured).items():
        progress(f"{name}: confirm", 0)
        _Query(configured[name], recipients, asked, progress).run()
    return asked


def _by_source(going: Iterable[Going], configured: Mapping[str, SourceConfig]) -> dict[str, list[Going]]:
    """Return the recipients by each source that last listed them and can be asked."""
    able = [name for name, config in configured.items() if config.is_built and hasattr(config.source, "confirm")]
    found: dict[str, list[Going]] = defaultdict(list)
    for recipient in going if able else ():
        for name in able:
            if not recipient.sources or name in recipient.sources:
                found[name].append(recipient)
    return found


def chosen(recipients: Sequence[Going]) -> list[Going]:
    """Return at most MOST of the recipients, of as many containers as possible."""
    by_parent: dict[bytes, list[Going]] = defaultdict(list)
    for recipient in recipients:
        by_parent[recipient.container].append(recipient)
    return list(islice(_in_turn([iter(group) for group in by_parent.values()]), MOST))


def _in_turn(groups: list[Iterator[Going]]) -> Iterator[Going]:
    while groups:
        left = []
        for group in groups:
            if (recipient := next(group, None)) is not None:
                yield recipient
                left.append(group)
        groups = left


class _Query:
    """The point queries of one source."""

    def __init__(self, config: SourceConfig, recipients: Sequence[Going], asked: Asked, progress: Progress) -> None:
        self._config, self._recipients, self._asked, self._progress = config, recipients, asked, progress
        self._answered: set[bytes] = set()
        self._seen: set[bytes] = set()
        self._unseen: dict[bytes, str] = {}

    def run(self) -> None:
        """Ask in batches until all are asked or a request fails, and withhold what is not confirmed."""
        few, is_whole = chosen(self._recipients), True
        for start in range(0, len(few), BATCH):
            self._progress(f"{self._config.name}: confirm", start)
            batch = few[start : start + BATCH]
            confirmation = _within(self._config, [_candidate(one) for one in batch])
            if isinstance(confirmation, str):
                self._asked.failed[self._config.name], is_whole = confirmation, False
                break
            self._take(batch, confirmation)
        for recipient in self._recipients:
            reason = self._reason(recipient, is_whole=is_whole)
            if reason is not None:
                self._withhold(recipient.address, reason)

    def _take(self, batch: Iterable[Going], confirmation: Confirmation) -> None:
        for one in batch:
            address = one.address.decode()
            self._answered.add(one.address)
            if address in confirmation.present:
                self._asked.differing.add(self._config.name)
                self._withhold(one.address, "present")
            elif address in confirmation.unseen:
                self._unseen[one.container] = confirmation.unseen[address]
            else:
                self._seen.add(one.container)

    def _reason(self, recipient: Going, *, is_whole: bool) -> Reason | Literal["present", "unknown"] | None:
        """Return why a recipient is withheld, None if its removal is confirmed.

        One that was not asked for is confirmed by another one of its container, if no request failed.
        """
        if recipient.container in self._unseen:
            return Reason("container", subjects=(self._unseen[recipient.container],))
        if recipient.address in self._answered or (is_whole and recipient.container in self._seen):
            return None
        return "unknown"

    def _withhold(self, address: bytes, reason: Reason | Literal["present", "unknown"]) -> None:
        """Record why a recipient stays. That a source has it is the strongest reason, a container the next."""
        known = self._asked.withheld.get(address)
        if known is None or known == "unknown" or reason == "present":
            self._asked.withheld[address] = reason


def _candidate(recipient: Going) -> Candidate:
    return Candidate(recipient.address.decode(), unescape(recipient.label.decode()))


def _within(config: SourceConfig, candidates: Sequence[Candidate]) -> Confirmation | str:
    """Return the answer of a source to one request; the error if it fails, or takes longer than SECONDS."""
    found: list[Confirmation | str] = []
    ends = time.monotonic() + SECONDS
    thread = threading.Thread(
        target=_confirm, args=(config, candidates, ends, found), name=f"confirm {config.name}", daemon=True
    )
    thread.start()
    while thread.is_alive() and (left := ends + _ENDING - time.monotonic()) > 0:
        thread.join(min(left, _LOOK))
    if found:
        return found[0]
    getattr(config.source, "give_up", lambda: None)()
    return f"no answer within {spell_seconds(SECONDS)}"


def _confirm(
    config: SourceConfig, candidates: Sequence[Candidate], ends: float, found: list[Confirmation | str]
) -> None:
    """Append the answer of the source, or its error, to ``found``."""
    if not config.free.acquire(timeout=max(ends - time.monotonic(), 0)):
        found.append("an abandoned request has not ended yet")
        return
    try:
        found.append(config.source.confirm(candidates, ends))  # type: ignore[attr-defined]  # optional: Source
    except (SyncagentError, OSError) as error:
        found.append(str(error))
    except BaseException as error:  # noqa: BLE001 - whatever fails, the removal is withheld
        found.append(f"a fault in the source: {type(error).__name__}: {error}")
    finally:
        config.free.release()
