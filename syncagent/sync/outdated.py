"""What outdated data holds: the removal of recipients that the source listed last. It is pure: no files, no clock."""

from __future__ import annotations

from typing import TYPE_CHECKING

from syncagent.model import Reason
from syncagent.sync.conditions import Condition

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator


def held(outdated: Iterable[str]) -> Iterator[Condition]:
    """Yield a condition for each source whose data is outdated. ``outdated`` are their names."""
    for name in outdated:
        yield Condition(Reason("source-outdated", subjects=(name,)), source=name)
