"""The age of a source's data by its own dates, and when the data is outdated by it. It is pure: no files, no clock.

It has nothing to do with the time of the last successful fetch: a source that answers may answer with old data, as a
list whose producer has died. See ``schedule.max_age`` for that.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from msgspec.structs import replace

from syncagent.model import CLOCK_SET

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from syncagent.model import Dates, SourceState

DEFAULT_MAX_AGE = 86400.0
"""``content_max_age``, in seconds, of a text that says when it was made and not when it expires, unless it is set."""
AHEAD = 600.0
"""Seconds that the clock of a producer may be ahead."""
UNCHANGED = 30 * 86400.0
"""Seconds after which it is remarkable that data without any limit of age has not changed."""


def made(dates: Dates) -> float:
    """Return when a text was made, by its own statement, else by its file or server; 0 if neither is known.

    A time that was more than AHEAD in the future when it was first seen is taken as the time at which it was seen.
    """
    moment = dates.made or dates.modified
    return dates.seen if moment > dates.seen + AHEAD and dates.seen >= CLOCK_SET else moment


def is_ahead(dates: Dates) -> bool:
    """True if a text says that it was made more than AHEAD after it was first seen."""
    return bool(dates.made) and made(dates) != dates.made


def expires(dates: Dates) -> float:
    """Return when a text expires; 0 if it does not say. The clock that it was made by is corrected as in ``made``."""
    return dates.expires - (dates.made - made(dates) if dates.made else 0.0) if dates.expires else 0.0


def data_made(state: SourceState) -> float:
    """Return when the data in use was made: the earliest of its texts; 0 if it is not known."""
    return min(filter(None, map(made, state.dates.values())), default=0.0)


def outdated_at(state: SourceState, max_age: float | None) -> float:
    """Return when the data in use is outdated, 0 if no limit applies. Of several texts the first one counts.

    ``max_age`` is ``content_max_age`` in seconds, None if it is not set; 0 if no age is too old.
    """
    return min((end for dates in state.dates.values() for end in _ends(dates, max_age)), default=0.0)


def _ends(dates: Dates, max_age: float | None) -> Iterator[float]:
    if dates.expires:
        yield expires(dates)
    by_default = DEFAULT_MAX_AGE if dates.made and not dates.expires else 0.0
    limit = by_default if max_age is None else max_age
    if limit and made(dates):
        yield made(dates) + limit


def first_seen(last: Mapping[str, Dates], dates: Mapping[str, Dates], now: float) -> dict[str, Dates]:
    """Return the dates of an answer with ``seen``: that of ``last`` where a text has the same dates as then."""
    return {
        name: replace(found, seen=last[name].seen if _is_same(last.get(name), found) else now)
        for name, found in dates.items()
    }


def _is_same(last: Dates | None, found: Dates) -> bool:
    """True if a text has the dates that it had; that its file was only touched does not count, if it says its own."""
    return last is not None and _said(last) == _said(found)


def _said(dates: Dates) -> tuple[float, float]:
    return dates.made or dates.modified, dates.expires


def gone_back(last: Mapping[str, Dates], dates: Mapping[str, Dates]) -> str | None:
    """Return the name of a text that was made before it was made in the last answer, None if there is none."""
    return next((name for name, found in dates.items() if _is_back(last.get(name), found)), None)


def _is_back(last: Dates | None, found: Dates) -> bool:
    return last is not None and bool(last.made and found.made) and found.made < made(last)


def unchanged_since(state: SourceState, max_age: float | None, now: float) -> float:
    """Return since when data without a limit of age has not changed, if that is longer than UNCHANGED ago; else 0."""
    if max_age is not None or outdated_at(state, max_age) or not state.changed:
        return 0.0
    return state.changed if now - state.changed > UNCHANGED else 0.0
