"""The real agent as a process: its log read as it comes, and what it tells systemd, over a real datagram socket."""

import contextlib
import json
import os
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tests.support.kill import session
from tests.support.programs import PATIENCE, wait_until
from tests.support.warm import popen

_NOT_INHERITED = ("SYNCAGENT_CONFIG", "CREDENTIALS_DIRECTORY", "NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID")
_JOURNAL = ("JOURNAL_STREAM", "FORCE_COLOR")
Event = dict[str, Any]


class Systemd:
    """A socket as systemd's, and what came by it; ``abstract`` has no name in the file system."""

    def __init__(self, *, abstract: bool = False) -> None:
        self._directory = tempfile.mkdtemp(prefix="notify-")
        self.name = f"@{self._directory}/s" if abstract else f"{self._directory}/s"
        self.told: list[tuple[float, str]] = []
        self._changed = threading.Condition()
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(f"\0{self.name[1:]}" if abstract else self.name)
        self._thread = threading.Thread(target=self._read, name="systemd", daemon=True)
        self._thread.start()

    def _read(self) -> None:
        while octets := self._socket.recv(65536):
            with self._changed:
                self.told += [(time.monotonic(), line) for line in octets.decode().split("\n")]
                self._changed.notify_all()

    @property
    def lines(self) -> list[str]:
        """Every line, in order."""
        return [line for _, line in self.told]

    def wait(self, start: str, *, after: int = 0, seconds: float = PATIENCE) -> str:
        """Wait for a line that starts so, beyond the first ``after`` lines."""
        with self._changed:

            def found() -> str:
                return next((line for line in self.lines[after:] if line.startswith(start)), "")

            assert self._changed.wait_for(found, seconds), f"no {start} among {self.lines}"
            return found()

    def close(self) -> None:
        """End it."""
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as end:
            end.sendto(b"", self._socket.getsockname())
        self._thread.join(PATIENCE)
        self._socket.close()
        shutil.rmtree(self._directory, ignore_errors=True)


class Agent:
    """The agent, for a ``with`` block, which ends with a TERM if it still runs.

    ``command`` is run instead of ``python -m syncagent``; ``watchdog`` is how often systemd wants to hear, in seconds.
    """

    def __init__(
        self,
        config: Path,
        *,
        env: Mapping[str, str] | None = None,
        watchdog: float | None = None,
        abstract: bool = False,
        command: tuple[str, ...] = (sys.executable, "-m", "syncagent"),
    ) -> None:
        self.systemd = Systemd(abstract=abstract)
        self._changed = threading.Condition()
        self._events: list[Event] = []
        self.noise: list[str] = []
        surroundings = {name: value for name, value in os.environ.items() if name not in _NOT_INHERITED + _JOURNAL}
        surroundings |= {"NOTIFY_SOCKET": self.systemd.name, "PYTHONFAULTHANDLER": "1", **(env or {})}
        if watchdog is not None:
            surroundings["WATCHDOG_USEC"] = str(round(watchdog * 1e6))
        self.process = popen(command, surroundings)(
            [*command, "--config", str(config), "run", "--log-level", "debug"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            env=surroundings,
            start_new_session=True,
        )
        self._reader = threading.Thread(target=self._read, name="log", daemon=True)
        self._reader.start()

    def __enter__(self) -> Self:
        """Wait until it is ready."""
        there = wait_until(lambda: "READY=1" in self.systemd.lines or self.process.poll() is not None)
        if not there or self.process.poll() is not None:
            self.process.kill()
            self.close()
            raise AssertionError(f"it does not get ready: {self.noise}, {self._events}")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End it if nobody has, and assert that it did not write anything but events."""
        try:
            if self.process.poll() is None and kind is None:
                self.stop()
        finally:
            self.close()
        assert kind or not self.noise, "".join(self.noise)

    def _read(self) -> None:
        assert self.process.stderr
        for line in self.process.stderr:
            with self._changed:
                try:
                    self._events.append({**json.loads(line), "at": time.monotonic()})
                except ValueError:
                    self.noise.append(line.decode(errors="replace"))
                self._changed.notify_all()

    @property
    def mark(self) -> int:
        """How many events there are by now: from where on to wait for another."""
        return len(self._events)

    def events(self, name: str = "", *, after: int = 0, **facts: object) -> list[Event]:
        """Give the events of a name with these facts."""
        with self._changed:
            return [
                event
                for event in self._events[after:]
                if name in {"", event["event"]} and all(event.get(key) == value for key, value in facts.items())
            ]

    def wait(self, name: str, *, after: int = 0, seconds: float = PATIENCE, **facts: object) -> Event:
        """Wait for an event and give it."""
        with self._changed:
            there = self._changed.wait_for(lambda: self.events(name, after=after, **facts), seconds)
            assert there, f"no {name!r} {facts} within {seconds} s among {self._events[after:]}, {self.noise}"
            return self.events(name, after=after, **facts)[0]

    def quiet(self, seconds: float, *, after: int) -> list[Event]:
        """Wait, and give what runs there were."""
        time.sleep(seconds)
        return self.events("run", after=after)

    def send(self, number: int) -> None:
        """Send a signal."""
        self.process.send_signal(number)

    def run_now(self, *, seconds: float = PATIENCE) -> Event:
        """Have it run, and give the event that says what came of it."""
        mark = self.mark
        self.send(signal.SIGUSR1)
        run = self.wait("run", after=mark, seconds=seconds)
        with self._changed:
            ends = {"unchanged", "published", "not published"}

            def ended() -> list[Event]:
                return [one for one in self._events[mark:] if one["event"] in ends and one["run_id"] == run["run_id"]]

            assert self._changed.wait_for(ended, seconds), self._events[mark:]
            return ended()[0]

    def stop(self, number: int = signal.SIGTERM, *, seconds: float = PATIENCE) -> float:
        """End it by a signal; give how long that took. It exits 0 and leaves no process behind."""
        descriptor = os.pidfd_open(self.process.pid)
        try:
            began = time.monotonic()
            self.send(number)
            ended, _, _ = select.select([descriptor], [], [], seconds)
            took = time.monotonic() - began
        finally:
            os.close(descriptor)
        if not ended:
            self.send(signal.SIGABRT)  # faulthandler shows where its threads are
            self.process.wait(PATIENCE)
            self._reader.join(PATIENCE)
            raise AssertionError(f"it had not ended after {seconds} s; {self._events[-5:]}\n{''.join(self.noise)}")
        code = self.process.wait(seconds)
        self._reader.join(PATIENCE)
        assert code == 0, f"it exits {code}: {self._events[-5:]} {self.noise}"
        assert wait_until(lambda: not session(self.process.pid)), session(self.process.pid)
        return took

    def kill(self) -> None:
        """End it as nobody can prevent."""
        self.process.kill()
        self.process.wait(PATIENCE)
        assert wait_until(lambda: not session(self.process.pid)), session(self.process.pid)

    def close(self) -> None:
        """Let go of everything, whatever state it is in."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait(PATIENCE)
        self._reader.join(PATIENCE)
        if self.process.stderr:
            self.process.stderr.close()
        self.systemd.close()

    def open_files(self) -> list[str]:
        """Name what it has open."""
        found = []
        for entry in Path(f"/proc/{self.process.pid}/fd").iterdir():
            with contextlib.suppress(FileNotFoundError):
                found.append(str(entry.readlink()))
        return sorted(found)

    def has_open(self, name: str) -> bool:
        """Tell whether it has a file of this name open."""
        try:
            return any(path.endswith(f"/{name}") for path in self.open_files())
        except OSError:  # it has just ended
            return False

    def status(self, key: str) -> int:
        """Give a number of /proc/PID/status: Threads, or VmRSS in kilobytes."""
        lines = Path(f"/proc/{self.process.pid}/status").read_text("ascii").splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith(f"{key}:"))
