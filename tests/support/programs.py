"""Finding the system's programs, and waiting for what they do."""

import os
import shutil
import time
from collections.abc import Callable

_SYSTEM_FOLDERS = ("/usr/local/sbin", "/usr/sbin", "/sbin")


class ProgramError(AssertionError):
    """A real program did not do what the test stands on; the message has what it printed."""


def find_program(name: str) -> str | None:
    """Where the program is, looking in the system's folders too, which a user's PATH seldom names."""
    return shutil.which(name, path=os.pathsep.join((os.environ.get("PATH", os.defpath), *_SYSTEM_FOLDERS)))


def wait_until(condition: Callable[[], bool], seconds: float, *, pause: float = 0.01) -> bool:
    """Ask again and again until the condition holds or the time is up; say whether it holds."""
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(pause)
    return True
