"""The real command, ended or delayed at a chosen call of a chosen function of its own.

`python -m tests.support.kill MODULE:NAME before|after CALL ACTION ARGS…` runs `syncagent ARGS…` and does ACTION just
before or after the CALL-th call of that function: `kill` is SIGKILL to itself, `sleep` waits to be ended, having made
the file that $STANDING names, `term` is SIGTERM taken by the thread of that call, which then waits to be ended, and
`clock-back` sets its clock back by an hour.
"""

import contextlib
import importlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from typing import Any

from tests.support.warm import popen

_ROOT = Path(__file__).parents[2]
_SLEEP = 3600.0
_real_time = time.time


@dataclass(frozen=True)
class Point:
    """A call of a function, by `MODULE:NAME`, and which side of it."""

    function: str
    when: str = "before"
    call: int = 1

    def __str__(self) -> str:
        """Name it, for the name of a test."""
        return f"{self.when}-{self.function.rpartition(':')[2]}-{self.call}"


def command(point: Point, action: str, config: Path, *args: str) -> list[str]:
    """Give the command line that runs `syncagent ARGS…` up to the point."""
    driver = [sys.executable, "-m", "tests.support.kill", point.function, point.when, str(point.call), action]
    return [*driver, "--config", str(config), *args]


def start(arguments: list[str], env: Mapping[str, str] | None = None) -> subprocess.Popen[bytes]:
    """Start a command line in a session of its own, so that what it leaves running can be found."""
    surroundings = {**os.environ, **(env or {})}
    paths = (str(_ROOT), os.environ.get("PYTHONPATH"))
    if os.environ.get("PYTHONPATH"):  # another syncagent than the installed one goes first
        paths = (os.environ["PYTHONPATH"], str(_ROOT))
    surroundings["PYTHONPATH"] = os.pathsep.join(path for path in paths if path)
    return popen(arguments, surroundings)(
        arguments,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=surroundings,
        start_new_session=True,
    )


def end(run: subprocess.Popen[bytes]) -> None:
    """Leave nothing of it to the tests that follow, where the one that started it has failed."""
    if run.poll() is None:
        os.killpg(run.pid, signal.SIGKILL)
        run.communicate()


def session(leader: int) -> list[str]:
    """Name the processes that are alive in a session."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                name, _, fields = (entry / "stat").read_text("utf-8", "replace").rpartition(") ")
                state, _, _, sid = fields.split()[:4]
                if int(sid) == leader and state not in {"Z", "X"}:
                    found.append(name.partition("(")[2])
    return found


def _act(action: str) -> None:
    if action == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    elif action == "sleep":
        Path(os.environ["STANDING"]).touch()
        time.sleep(_SLEEP)
    elif action == "term":
        signal.pthread_kill(threading.get_ident(), signal.SIGTERM)
        time.sleep(_SLEEP)
    elif action == "clock-back":
        time.time = lambda: _real_time() - 3600
    else:
        raise ValueError(action)


def arm(point: Point, act: Callable[[], None]) -> Callable[[], None]:
    """Have `act` called at the point; give back what takes that away again."""
    module, _, path = point.function.partition(":")
    *holders, name = path.split(".")
    holder: Any = importlib.import_module(module)
    for part in holders:
        holder = getattr(holder, part)
    real = getattr(holder, name)
    calls, lock = [0], threading.Lock()

    @wraps(real)
    def watched(*args: object, **keywords: object) -> object:
        with lock:
            calls[0] += 1
            now = calls[0] == point.call
        if now and point.when == "before":
            act()
        result = real(*args, **keywords)
        if now and point.when == "after":
            act()
        return result

    setattr(holder, name, watched)
    return lambda: setattr(holder, name, real)


def _main() -> None:
    function, when, call, action, *args = sys.argv[1:]
    arm(Point(function, when, int(call)), lambda: _act(action))
    from syncagent.cli import main as cli

    sys.argv = ["syncagent", *args]
    cli.main()


if __name__ == "__main__":
    _main()
