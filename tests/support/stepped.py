"""The real command, which stops at each rename, start of a program and opening of a file to write, until told to go on.

So a test sees what a run leaves at any moment, however slow the machine is, and can end the run there.
`python -m tests.support.stepped DIRECTORY TOLD HEARD ARGS...` runs `syncagent ARGS...`; TOLD and HEARD are descriptors.
"""

import contextlib
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from tests.support.programs import PATIENCE
from tests.support.warm import popen

_ROOT = Path(__file__).parents[2]
_NOT_INHERITED = ("SYNCAGENT_CONFIG", "CREDENTIALS_DIRECTORY", "NOTIFY_SOCKET", "FORCE_COLOR")
_WRITES = os.O_WRONLY | os.O_RDWR


@dataclass(frozen=True)
class Done:
    """How a command ended: its exit status (negative: the signal), what it printed, the number of stops."""

    code: int
    stdout: str
    stderr: str
    stops: int


def run_stepped(
    directory: Path, *args: str, at: Callable[[int], bool], env: Mapping[str, str], python: str = sys.executable
) -> Done:
    """Run `syncagent ARGS...`, and call ``at`` with the number of each stop below ``directory``, counted from 1.

    If that returns True, the command and all that it started is killed there.
    """
    told, tell = os.pipe()
    heard, hear = os.pipe()
    surroundings = {name: value for name, value in os.environ.items() if name not in _NOT_INHERITED}
    surroundings |= {**env, "PYTHONPATH": str(_ROOT)}
    command = [python, "-m", "tests.support.stepped", str(directory), str(tell), str(heard), *args]
    try:
        process = popen(command, surroundings)(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=surroundings,
            pass_fds=(tell, heard),
            start_new_session=True,
        )
    finally:
        os.close(tell)
        os.close(heard)
    try:
        stops = _lead(process, told, hear, at)
        out, err = process.communicate(timeout=PATIENCE)
    finally:
        os.close(told)
        os.close(hear)
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
    return Done(process.returncode, out, err, stops)


def _lead(process: "subprocess.Popen[str]", told: int, hear: int, at: Callable[[int], bool]) -> int:
    """Lead the command from stop to stop; return their number."""
    stops = 0
    while os.read(told, 1):
        stops += 1
        if at(stops):
            os.killpg(process.pid, signal.SIGKILL)
        with contextlib.suppress(BrokenPipeError):
            os.write(hear, b".")
    return stops


def _concerns(event: str, args: tuple[object, ...], directory: str) -> bool:
    """True if this is one of the points to stop at (audit events of Python)."""
    if event == "os.rename":
        return True
    if event == "subprocess.Popen":
        return True
    if event == "open":
        path, _, flags = args
        return isinstance(path, str) and path.startswith(directory) and isinstance(flags, int) and bool(flags & _WRITES)
    return False


def _main() -> None:
    directory, told, heard, *args = sys.argv[1:]
    lock = threading.Lock()

    def stop(event: str, details: tuple[object, ...]) -> None:
        if _concerns(event, details, directory):
            with lock:
                os.write(int(told), b".")
                os.read(int(heard), 1)

    from syncagent.cli import main as cli

    sys.argv = ["syncagent", *args]
    sys.addaudithook(stop)
    cli.main()


if __name__ == "__main__":
    _main()
