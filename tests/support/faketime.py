"""A clock for any program, by libfaketime: it runs as the real one does, so many seconds ahead."""

import time
from pathlib import Path

from tests.support.need import need

_LIBRARY = "libfaketime.so.1"
_PLACES = ("/usr/lib/*/faketime", "/usr/lib*/faketime", "/usr/local/lib/faketime")


def _library() -> Path | None:
    """Return the path of the library, None if it is not installed (Debian: the package faketime)."""
    return next((path for place in _PLACES for path in Path("/").glob(f"{place[1:]}/{_LIBRARY}")), None)


def need_faketime() -> Path:
    """Return the path of libfaketime."""
    return need("libfaketime (Debian: the package faketime)", _library())


class Clock:
    """A clock that a test sets ahead. The files' times stay those of the real clock, which is never ahead of it."""

    def __init__(self, ahead: float) -> None:
        """``ahead`` is in seconds. A clock behind the real one would see files of the future."""
        self._library, self.ahead = need_faketime(), ahead
        self.latest = 0.0
        """The latest time that the clock ever showed."""

    @property
    def now(self) -> float:
        """The time, in seconds since the epoch."""
        now = time.time() + self.ahead
        self.latest = max(self.latest, now)
        return now

    def step(self, seconds: float) -> None:
        """Let time pass, or set the clock back."""
        self.ahead += seconds

    @property
    def env(self) -> dict[str, str]:
        """The environment in which a program has this clock."""
        return {
            "LD_PRELOAD": str(self._library),
            "FAKETIME": f"+{self.ahead:.0f}",
            "NO_FAKE_STAT": "1",
        }
