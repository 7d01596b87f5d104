"""The real program with a clock that stands elsewhere; that of the files, and of other programs, does not.

A clock of the past would see files from the future, which the program rightly distrusts: choose one ahead.
"""

import contextlib
import io
import sys
from pathlib import Path
from unittest.mock import patch

import time_machine

from syncagent.cli import main as cli

_AT_CLOCK = Path(__file__).parent / "at_clock"


def clock_at(now: float) -> dict[str, str]:
    """Return the environment in which a Python child process begins at ``now`` (seconds since 1970), and goes on."""
    return {"PYTHONPATH": str(_AT_CLOCK), "CLOCK": repr(now)}


def run_at(now: float, *args: str, config: Path) -> tuple[int, str, str]:
    """Run `syncagent --config FILE ARGS...` in this process, which is faster; return exit code, output and errors."""
    out, err = io.StringIO(), io.StringIO()
    with (
        patch.object(sys, "argv", ["syncagent", "--config", str(config), *args]),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
        time_machine.travel(now, tick=True),
    ):
        code = cli._main()
    return code, out.getvalue(), err.getvalue()
