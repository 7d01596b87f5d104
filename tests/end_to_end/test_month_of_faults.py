"""A month of faults under a live smtpd: no valid recipient is refused for good, and unknown ones are refused otherwise.

To repeat a run: SYNCAGENT_MONTH_SEED=NUMBER. The seed is in the message of a failure.
"""

import os
import random
import sys
from collections.abc import Callable

import pytest

from tests.support import faults
from tests.support.month import HOUR, Host, Month

_SEED = "SYNCAGENT_MONTH_SEED"
_HOURS, _EVENTS = 720, 300


def _seed() -> int:
    return int(os.environ.get(_SEED) or random.SystemRandom().randrange(10**6))


def _run(map_type: str, tick: float, story: Callable[[Month], None], *, directory: bool = False) -> Month:
    """Run a month; if it fails, print its seed and protocol. ``directory``: whether a source is a directory."""
    seed = _seed()
    host = Host(map_type, seed, directory=directory)
    try:
        with host:
            month = Month(host, tick=tick)
            story(month)
    except BaseException:
        sys.stderr.write("\n".join([f"{_SEED}={seed}", *host.log, ""]))
        raise
    return month


def _short(month: Month) -> None:
    """Let each kind of event happen once; twice on the way, and in the end, all calms down."""
    for number, event in enumerate(faults.EVENTS, 1):
        month.do(event)
        month.live(month.random.uniform(0.5, 2))
        if not number % 9:
            month.settle()
    month.settle()


@pytest.mark.timeout(3600)
def test_days_of_faults() -> None:
    """The short form: each kind of fault once, within some days."""
    month = _run("lmdb", 2 * HOUR, _short)
    assert month.events.keys() == {event.__name__ for event in faults.EVENTS}
    asked = month.host.oracle.asked
    assert asked["unknown 550"] > 0
    assert asked["unknown 450"] > 0
    assert asked["valid 450"] > 0


def _half_hidden(month: Month) -> None:
    """Let a directory hide a part of itself, between other events."""
    for event in (faults.unit_hidden, faults.leavers, faults.unit_unreadable, faults.many_lost, faults.unit_hidden):
        month.do(event)
        month.live(6.5)
    month.settle()


@pytest.mark.timeout(3600)
def test_days_of_a_half_hidden_directory() -> None:
    """A unit of a directory is hidden, with fewer people than any limit: nobody goes."""
    month = _run("lmdb", 2 * HOUR, _half_hidden, directory=True)
    assert month.host.oracle.asked["unknown 450"] > 0


def _long(month: Month) -> None:
    """Let 720 hours pass with at least 300 events."""
    began, number = month.host.clock.now, 0
    while month.host.clock.latest - began < _HOURS * HOUR or number < _EVENTS:
        month.do(month.random.choice((*faults.EVENTS, *faults.DIRECTORY_EVENTS)))
        number += 1
        month.live(month.random.uniform(0.5, 3))
        if not number % 15:
            month.settle()
    month.settle()


@pytest.mark.proof
@pytest.mark.timeout(6 * 3600)
@pytest.mark.parametrize("map_type", ["lmdb", "hash", "cdb"])
def test_month_of_faults(map_type: str, record_property: Callable[[str, object], None]) -> None:
    """The long form: 720 hours and at least 300 events."""
    month = _run(map_type, HOUR, _long, directory=True)
    asked = month.host.oracle.asked
    record_property("figures", f"{sum(month.events.values())} events, {sum(asked.values())} answers: {dict(asked)}")
