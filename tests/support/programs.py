"""Finding the system's programs, and waiting for what they do."""

import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path

_SYSTEM_FOLDERS = ("/usr/local/sbin", "/usr/sbin", "/sbin")


class ProgramError(AssertionError):
    """A real program did not do what the test stands on; the message has what it printed."""


def find_program(name: str) -> str | None:
    """Where the program is, looking in the system's folders too, which a user's PATH seldom names."""
    return shutil.which(name, path=os.pathsep.join((os.environ.get("PATH", os.defpath), *_SYSTEM_FOLDERS)))


PATIENCE = 180.0
"""Seconds: how long a test waits for an event. It ends what hangs; it says nothing of how fast anything has to be."""


_STALL = 30.0
"""Seconds: how long a machine may stand still, for its disk or its host, whatever is asked of it."""


def allowed(seconds: float) -> float:
    """Return the ceiling of what takes `seconds` at most on an idle machine: far above, so that no noise comes there.

    What is to show in a ceiling has to take minutes, or for ever, where it is wrong.
    """
    return scaled(seconds) + _STALL


def scaled(seconds: float) -> float:
    """Return how long that probably takes here and now which takes `seconds` at most on an idle machine.

    It grows with the number of processes for each processor that want to run, now or on average of the last minute.
    """
    fields = Path("/proc/loadavg").read_text("ascii").split()
    wanting = max(float(fields[0]), float(fields[3].partition("/")[0]))
    return seconds * max(1.0, 2 * wanting / (os.cpu_count() or 1))


def wait_until(condition: Callable[[], bool], seconds: float = PATIENCE, *, pause: float = 0.01) -> bool:
    """Ask again and again until the condition holds or the time is up; return whether it holds."""
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(pause)
    return True
