"""The program in a child of a process that has imported its modules: a run then costs what it does, not its start.

Run as a program, with the number of a socket: for each request it forks a process that becomes `python -m syncagent`,
with the arguments, the environment, the directory, the umask and the streams of the request. That process ends as any
other does: nothing of it is left for the next one. Whatever Python reads when it starts is the same for all of them;
``can_run`` says which requests that suits.
"""

import contextlib
import gc
import importlib
import json
import os
import resource
import runpy
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, NoReturn

ROOT = Path(__file__).parents[2]
MODULES = (
    "syncagent.checks",
    "syncagent.cli.main",
    "syncagent.config.load",
    "syncagent.sources.file",
    "syncagent.sources.http",
    "syncagent.sources.ldap",
    "syncagent.sync.run",
)
"""What most verbs import sooner or later, and with it what that imports."""
_READ_AT_START = ("PYTHON", "LC_", "LANG", "LD_", "MALLOC", "TZ", "COVERAGE")
_MOST_OF_A_REQUEST = 1 << 20
_FIRST_FREE = 3


class Ended(NamedTuple):
    """How a run ended."""

    returncode: int
    stdout: bytes
    stderr: bytes


def _start_variables(environment: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in environment.items() if name.startswith(_READ_AT_START)}


_OURS = _start_variables(os.environ)


def can_run(environment: Mapping[str, str]) -> bool:
    """True if an interpreter that starts in this environment starts as the one that imported the modules did."""
    return _start_variables(environment) == _OURS and os.geteuid() == os.getuid()


class Warm:
    """The process that has imported the modules; ends with this one, which closes its socket."""

    def __init__(self) -> None:
        self._ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _MOST_OF_A_REQUEST)
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "tests.support.warm", str(theirs.fileno())],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
                cwd=ROOT,
            )

    def run(
        self, args: Sequence[str], env: Mapping[str, str], cwd: Path | None, timeout: float, memory: int = 0
    ) -> Ended:
        """Run `syncagent ARGS…`. Raises TimeoutExpired, once it is killed, if it takes longer.

        ``memory``: octets of address space that it has. It is in a session of its own then, which ends with it.
        """
        with _pipe() as out, _pipe() as err, open("/dev/null", "rb") as null:  # noqa: PTH123 - a device
            told, tells = socket.socketpair()
            with told:
                with tells:
                    request = {
                        "args": list(args),
                        "env": dict(env),
                        "cwd": str(cwd or Path.cwd()),
                        "umask": _umask(),
                        "memory": memory,
                    }
                    fds = [null.fileno(), out.write, err.write, tells.fileno()]
                    socket.send_fds(self._ours, [json.dumps(request).encode()], fds)
                out.close_write()
                err.close_write()
                return _ended(told, out.read, err.read, args, timeout)

    def close(self) -> None:
        """End it."""
        self._ours.close()
        self._process.wait()


class _Pipe:
    def __init__(self) -> None:
        self.read, self.write = os.pipe()
        self._open = {self.read, self.write}

    def close_write(self) -> None:
        self._close(self.write)

    def _close(self, fd: int) -> None:
        self._open.discard(fd)
        os.close(fd)

    def close(self) -> None:
        for fd in tuple(self._open):
            self._close(fd)


@contextlib.contextmanager
def _pipe() -> Iterator[_Pipe]:
    pipe = _Pipe()
    try:
        yield pipe
    finally:
        pipe.close()


def _umask() -> int:
    """Return the umask of this process without setting it, as os.umask would: other threads make files."""
    (line,) = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("Umask:")]
    return int(line.split()[1], 8)


def _ended(told: socket.socket, out: int, err: int, args: Sequence[str], timeout: float) -> Ended:
    """Read both streams and what is told of the process to their ends."""
    deadline = time.monotonic() + timeout
    held: dict[int, bytearray] = {out: bytearray(), err: bytearray(), told.fileno(): bytearray()}
    waiting = set(held)
    while waiting:
        ready, _, _ = select.select(list(waiting), [], [], max(0.0, deadline - time.monotonic()))
        if not ready:
            _kill(held[told.fileno()])
            raise subprocess.TimeoutExpired(["syncagent", *args], timeout, bytes(held[out]), bytes(held[err]))
        for fd in ready:
            octets = os.read(fd, 1 << 16)
            held[fd] += octets
            if not octets:
                waiting.discard(fd)
    _, status = held[told.fileno()].split()
    return Ended(os.waitstatus_to_exitcode(int(status)), bytes(held[out]), bytes(held[err]))


def _kill(told: bytearray) -> None:
    """Kill a process by what was told of it so far."""
    for pid in map(int, told.split()[:1]):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def _serve(control: socket.socket) -> tuple[bytes, list[int]]:
    """Fork a process for each request; return the request in the process that is to become the program."""
    while True:
        request, fds, _, _ = socket.recv_fds(control, _MOST_OF_A_REQUEST, 4)
        if not request:
            _reap()
            sys.exit()
        if not os.fork():
            return _watched(request, fds)
        for fd in fds:
            os.close(fd)
        _reap(os.WNOHANG)


def _watched(request: bytes, fds: list[int]) -> tuple[bytes, list[int]]:
    """Return the request in a child; this process tells its ID, waits for it and tells its status."""
    *streams, tells = fds
    pid = os.fork()
    if not pid:
        return request, streams
    for fd in streams:
        os.close(fd)
    os.write(tells, f"{pid} ".encode())
    _, status = os.waitpid(pid, 0)
    if json.loads(request)["memory"]:
        with contextlib.suppress(ProcessLookupError):  # what it left in its session
            os.killpg(pid, signal.SIGKILL)
    os.write(tells, str(status).encode())
    os._exit(0)


def _reap(options: int = 0) -> None:
    try:
        while os.waitpid(-1, options)[0]:
            pass
    except ChildProcessError:
        pass


def _become(request: bytes, streams: list[int]) -> None:
    """Be what `python -m syncagent ARGS…` is once it has started."""
    wanted = json.loads(request)
    for number, fd in enumerate(streams):
        os.dup2(fd, number)
    os.closerange(_FIRST_FREE, 256)
    os.environ.clear()
    os.environ.update(wanted["env"])
    os.chdir(wanted["cwd"])
    os.umask(wanted["umask"])
    if wanted["memory"]:
        os.setsid()
        resource.setrlimit(resource.RLIMIT_AS, (wanted["memory"], wanted["memory"]))
    sys.argv = ["syncagent", *wanted["args"]]
    sys.path[0] = wanted["cwd"]
    runpy.run_module("syncagent", run_name="__main__", alter_sys=True)


def main(number: str) -> NoReturn:
    """Import the modules, and serve."""
    for module in MODULES:
        importlib.import_module(module)
    gc.freeze()
    with socket.socket(fileno=int(number)) as control:
        request, streams = _serve(control)
    _become(request, streams)
    sys.exit()


if __name__ == "__main__":
    main(sys.argv[1])
