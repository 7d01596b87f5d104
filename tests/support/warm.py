"""The program in a child of a process that has imported its modules: a run then costs what it does, not its start.

Run as a program, with the number of a socket: for each request it forks a process that becomes `python -m MODULE`,
with the arguments, the environment, the directory, the umask and the streams of the request. Nothing of that process
is left for the next one. Whatever Python reads when it starts is the same for all of them:
``start_of`` says how an environment starts it, and there is one ``Warm`` for each such start, at most two: that of the
tests, and that below libfaketime, which looks up its time anew each time.
"""

import atexit
import contextlib
import faulthandler
import fcntl
import functools
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
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, AnyStr, NamedTuple, NoReturn

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
_SMALL = """\
[postfix]
map = "lmdb:/nonexistent/map"
relay_domains = ["example.com"]

[limits]

[schedule]

[state]
directory = "/nonexistent/state"

[sources.file]
type = "file"
path = "/nonexistent/list"

[sources.http]
type = "http"
url = "https://www.example.com/list"
format = "lines"

[sources.ldap]
type = "ldap"
url = "ldap://ldap.example.com"
base = "dc=example,dc=com"
"""
_READ_AT_START = ("PYTHON", "LC_", "LANG", "LD_", "MALLOC", "TZ", "COVERAGE")
_FAULTHANDLER = "PYTHONFAULTHANDLER"
_FAKETIME = "libfaketime.so.1"
_MOST_OF_A_REQUEST = 1 << 20
_MOST_STREAMS = 16


class Ended(NamedTuple):
    """How a run ended."""

    returncode: int
    stdout: bytes
    stderr: bytes


Start = frozenset[tuple[str, str]]
"""What Python reads of an environment when it starts: names and values."""


def _start_variables(environment: Mapping[str, str]) -> Start:
    """Return them less what ``_live_in`` makes up for."""
    items = {name: value for name, value in environment.items() if name.startswith(_READ_AT_START)}
    items.pop(_FAULTHANDLER, None)
    if items.get("PYTHONPATH") == str(ROOT):
        del items["PYTHONPATH"]
    return frozenset(items.items())


_OURS = _start_variables(os.environ)


def start_of(environment: Mapping[str, str]) -> Start | None:
    """Return how an interpreter starts in this environment; None if no process here has started so."""
    if os.geteuid() != os.getuid():
        return None
    start = _start_variables(environment)
    more = dict(start - _OURS)
    is_faketime = (
        not _OURS - start
        and more.keys() == {"LD_PRELOAD"}
        and more["LD_PRELOAD"].endswith(f"/{_FAKETIME}")
        and environment.get("NO_FAKE_STAT") == "1"
        and "FAKETIME" in environment
    )
    return start if is_faketime or start == _OURS else None


@functools.cache
def warm(start: Start) -> "Warm":
    """Return the process that has started so."""
    process = Warm(start)
    atexit.register(process.close)
    return process


class Warm:
    """The process that has imported the modules; ends with this one, which closes its socket."""

    def __init__(self, start: Start = _OURS) -> None:
        self._ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _MOST_OF_A_REQUEST)
        ahead = {"FAKETIME": "+0", "NO_FAKE_STAT": "1", "FAKETIME_NO_CACHE": "1"} if start != _OURS else {}
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "tests.support.warm", str(theirs.fileno())],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
                cwd=ROOT,
                env={**os.environ, **dict(start), **ahead},
            )

    def start(  # noqa: PLR0913 - what a process starts with
        self,
        module: str,
        args: Sequence[str],
        env: Mapping[str, str],
        cwd: Path | None,
        fds: Mapping[int, int],
        *,
        memory: int = 0,
        session: bool = False,
    ) -> socket.socket:
        """Have `python -m MODULE ARGS...` begin; return the socket that tells its ID, and its status when it has ended.

        ``fds`` are its descriptors, each by its number there. ``memory``: octets of address space that it has. It is in
        a session of its own then, which ends with it. ``session``: whether it is in one that does not.
        """
        told, tells = socket.socketpair()
        with tells:
            request = {
                "module": module,
                "args": list(args),
                "env": dict(env),
                "cwd": str(cwd or Path.cwd()),
                "umask": _umask(),
                "memory": memory,
                "session": session or bool(memory),
                "fds": list(fds),
            }
            socket.send_fds(self._ours, [json.dumps(request).encode()], [tells.fileno(), *fds.values()])
        return told

    def run(
        self, args: Sequence[str], env: Mapping[str, str], cwd: Path | None, timeout: float, memory: int = 0
    ) -> Ended:
        """Run `syncagent ARGS…`. Raises TimeoutExpired, once it is killed, if it takes longer."""
        with _pipe() as out, _pipe() as err, open("/dev/null", "rb") as null:  # noqa: PTH123 - a device
            fds = dict(enumerate((null.fileno(), out.write, err.write)))
            with self.start("syncagent", args, env, cwd, fds, memory=memory) as told:
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


class Process(subprocess.Popen[AnyStr]):
    """`python -m MODULE ARGS...`, forked from the process that has imported the modules.

    The arguments are those of Popen. It is no child of this process: a socket tells how it ended. So three methods of
    Popen are others here; all versions of Python have them.
    """

    def _execute_child(self, args: Sequence[str], *details: Any) -> None:  # noqa: ANN401 - whatever Popen has
        _, _, _, pass_fds, cwd, env, _, _, _, *pipes = details
        stdin, _, _, stdout, _, stderr, *_, session, _ = pipes
        fds = {own: own if fd == -1 else fd for own, fd in enumerate((stdin, stdout, stderr))}
        fds |= {fd: fd for fd in pass_fds}
        _, _, module, *words = args
        start = start_of(env)
        assert start is not None
        self._told = warm(start).start(module, words, env, cwd, fds, session=session)
        self._heard = b""
        self._child_created = True
        self._close_pipe_fds(*pipes[:6])  # type: ignore[attr-defined]
        while b" " not in self._heard:
            self._hear()
        self.pid = int(self._heard.split()[0])

    def _hear(self) -> bool:
        octets = self._told.recv(64)
        self._heard += octets
        return bool(octets)

    def _internal_poll(self, *_: object, **__: object) -> int | None:
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._wait(0)
        return self.returncode

    def _wait(self, timeout: float | None) -> int | None:
        deadline = None if timeout is None else time.monotonic() + timeout
        while self.returncode is None:
            left = None if deadline is None else max(0.0, deadline - time.monotonic())
            if not select.select([self._told], [], [], left)[0]:
                raise subprocess.TimeoutExpired(self.args, timeout or 0.0)
            if not self._hear():
                self.returncode = os.waitstatus_to_exitcode(int(self._heard.split()[1]))
                self._told.close()
        return self.returncode


def popen(command: Sequence[str], env: Mapping[str, str]) -> type[subprocess.Popen[Any]]:
    """Return what starts this command in this environment: Process if it suits, else Popen."""
    is_module = list(command[:2]) == [sys.executable, "-m"]
    return Process if is_module and start_of(env) is not None else subprocess.Popen


def _serve(control: socket.socket) -> tuple[bytes, list[int]]:
    """Fork a process for each request; return the request in the process that is to become the program."""
    while True:
        request, fds, _, _ = socket.recv_fds(control, _MOST_OF_A_REQUEST, _MOST_STREAMS)
        if not request:
            _reap()
            sys.exit()
        if not os.fork():
            return _watched(request, fds)
        for fd in fds:
            os.close(fd)
        _reap(os.WNOHANG)


def _watched(request: bytes, fds: list[int]) -> tuple[bytes, list[int]]:
    """Return the request in a child, which tells its ID; this process waits for it and tells its status."""
    tells, *streams = fds
    wanted = json.loads(request)
    pid = os.fork()
    if not pid:
        if wanted["session"]:
            os.setsid()
        os.write(tells, f"{os.getpid()} ".encode())
        os.close(tells)
        return request, streams
    for fd in streams:
        os.close(fd)
    _, status = os.waitpid(pid, 0)
    if wanted["memory"]:
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
    """Be what `python -m MODULE ARGS…` is once it has started."""
    wanted = json.loads(request)
    _take(dict(zip(wanted["fds"], streams, strict=True)))
    _live_in(wanted["env"])
    os.chdir(wanted["cwd"])
    os.umask(wanted["umask"])
    if wanted["memory"]:
        resource.setrlimit(resource.RLIMIT_AS, (wanted["memory"], wanted["memory"]))
    sys.argv = [wanted["module"], *wanted["args"]]
    sys.path[0:1] = [wanted["cwd"], *[str(ROOT)] * (wanted["env"].get("PYTHONPATH") == str(ROOT))]
    try:
        runpy.run_module(wanted["module"], run_name="__main__", alter_sys=True)
    except SystemExit as end:
        if not wanted["session"] and threading.active_count() == 1 and isinstance(end.code, int):
            _end(end.code)
        raise


def _end(code: int) -> None:
    """End as Python does, less the taking down of all modules, which takes more time than most runs.

    Not for a process that has a thread left, or that a test watches beyond its end: how these end is to be seen.
    """
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:
            stream.flush()
    os._exit(code)


def _take(fds: Mapping[int, int]) -> None:
    """Have these descriptors by these numbers, and no others."""
    free = max(fds) + 1
    away = {number: fcntl.fcntl(fd, fcntl.F_DUPFD, free) for number, fd in fds.items()}
    for number, fd in away.items():
        os.dup2(fd, number)
    for number in set(range(free)) - fds.keys():
        with contextlib.suppress(OSError):  # was not open
            os.close(number)
    os.closerange(free, free + 256)


def _live_in(environment: Mapping[str, str]) -> None:
    """Have this environment; at no moment is the time of libfaketime unset."""
    os.environ.update(environment)
    for name in os.environ.keys() - environment.keys():
        del os.environ[name]
    if environment.get(_FAULTHANDLER):
        faulthandler.enable()


def _read_once() -> None:
    """Read a small configuration: its readers evaluate their annotations once. What is installed is looked up anew."""
    from syncagent import sources
    from syncagent.config.load import load

    with tempfile.TemporaryDirectory() as directory:
        file = Path(directory) / "syncagent.toml"
        file.write_text(_SMALL, encoding="utf-8")
        load(file)
    sources.kinds.cache_clear()


def main(number: str) -> NoReturn:
    """Import the modules, and serve."""
    for module in MODULES:
        importlib.import_module(module)
    _read_once()
    gc.freeze()
    with socket.socket(fileno=int(number)) as control:
        request, streams = _serve(control)
    _become(request, streams)
    sys.exit()


if __name__ == "__main__":
    main(sys.argv[1])
