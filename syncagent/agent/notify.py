"""Tell someone, once, when something needs a person, and once when that is over."""

from __future__ import annotations

import contextlib
import os
import queue
import signal
import socket
import subprocess
import threading
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

import msgspec
from msgspec import Struct

from syncagent.errors import SourceError
from syncagent.sources import read_secret
from syncagent.sources.http.cancel import Connections
from syncagent.state import messages

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from syncagent.config.tables import Notify
    from syncagent.state.status import Alarm


WAYS = ("command", "url")
"""How an event is told; each way knows for itself what was told by it."""
PING = "ping_url"
Told: TypeAlias = "Mapping[str, Mapping[str, Alarm]]"


class Event(Struct, frozen=True):
    """What is told, as JSON. ``text`` has all of it in words; Slack and Mattermost show that."""

    event: str
    kind: str
    subject: str
    text: str
    host: str
    map: str
    at: str


def news(told: Mapping[str, Alarm], alarms: Mapping[str, Alarm]) -> list[tuple[str, Alarm]]:
    """Give what is to be told: ``raised`` for what is new, ``recovered`` for what is over."""
    raised = [("raised", alarm) for key, alarm in alarms.items() if key not in told]
    return raised + [("recovered", alarm) for key, alarm in told.items() if key not in alarms]


def event(what: str, alarm: Alarm, map_name: str, now: float) -> Event:
    """Put it in words."""
    host = socket.gethostname()
    text = f"syncagent on {host}: {'over: ' if what == 'recovered' else ''}{alarm.text}"
    return Event(what, alarm.kind, alarm.subject, text, host, map_name, messages.machine_moment(now))


class _Telling(NamedTuple):
    way: str
    what: str
    alarm: Alarm | None
    notify: Notify
    event: Event | None


class Teller(threading.Thread):
    """Tells from a thread of its own, so that who is told slowly does not hold up a run.

    What did not reach somebody is told again by the next ``tell``, by that way alone; what is still under way is not.
    """

    def __init__(
        self,
        told: Told,
        saved: Callable[[], None],
        went_wrong: Callable[[str, str], None],
        went_well: Callable[[str], None],
    ) -> None:
        """``told`` is what was told before; ``saved`` is called when it is another, the others by whom and why not."""
        super().__init__(name="teller", daemon=True)
        self._told = {way: dict(alarms) for way, alarms in told.items()}
        self._saved, self._went_wrong, self._went_well = saved, went_wrong, went_well
        self._lock = threading.Lock()  # the agent's main thread puts, this one takes
        self._under_way: set[tuple[str, str, str]] = set()
        self._waiting: queue.SimpleQueue[_Telling] = queue.SimpleQueue()

    @property
    def told(self) -> Told:
        """What was told, by each way."""
        with self._lock:
            return {way: dict(alarms) for way, alarms in self._told.items()}

    def tell(self, notify: Notify, alarms: Mapping[str, Alarm], map_name: str, now: float) -> None:
        """Tell what is news, by each way that is configured."""
        with self._lock:
            for way in WAYS:
                if way in _configured(notify):
                    for what, alarm in news(self._told.get(way, {}), alarms):
                        self._put(_Telling(way, what, alarm, notify, event(what, alarm, map_name, now)))

    def ping(self, notify: Notify) -> None:
        """Tell that a run was right."""
        if notify.ping_url:
            with self._lock:
                self._put(_Telling(PING, "", None, notify, None))

    def _put(self, telling: _Telling) -> None:
        if _key(telling) not in self._under_way:
            self._under_way.add(_key(telling))
            self._waiting.put(telling)
            if not self.ident:
                self.start()

    def run(self) -> None:
        """Tell one after another."""
        while True:
            telling = self._waiting.get()
            try:
                deliver(telling.notify, telling.way, telling.event)
            except UntoldError as error:
                self._end(telling)
                self._went_wrong(error.whom, str(error))
            except Exception as error:  # noqa: BLE001 - this thread goes on whatever comes
                self._end(telling)
                self._went_wrong(f"notify.{telling.way}", type(error).__name__)
            else:
                self._end(telling, well=True)
                self._went_well(f"notify.{telling.way}")

    def _end(self, telling: _Telling, *, well: bool = False) -> None:
        """Note that somebody was told, or that it may be told again."""
        with self._lock:
            self._under_way.discard(_key(telling))
            if not well or telling.alarm is None:
                return
            told = self._told.setdefault(telling.way, {})
            if telling.what == "raised":
                told[telling.alarm.key] = telling.alarm
            else:
                told.pop(telling.alarm.key, None)
        self._saved()


def _key(telling: _Telling) -> tuple[str, str, str]:
    return telling.way, telling.what, telling.alarm.key if telling.alarm else ""


def _configured(notify: Notify) -> set[str]:
    return {way for way, there in zip(WAYS, (notify.command, notify.url or notify.url_file), strict=True) if there}


class UntoldError(Exception):
    """Somebody could not be told; the text never has a URL in it, which may be a secret."""

    def __init__(self, whom: str, text: str) -> None:
        """``whom`` is the key of the configuration."""
        self.whom = whom
        super().__init__(text)


def deliver(notify: Notify, way: str, event: Event | None) -> None:
    """Tell somebody, in one way. Raises UntoldError."""
    if event is None:
        _ask("notify.ping_url", notify.ping_url, None, notify.timeout)
    elif way == "command":
        _run(notify.command, msgspec.json.encode(event), notify.timeout)
    else:
        try:
            url = read_secret(notify.url_file) if notify.url_file else notify.url
        except SourceError as error:
            raise UntoldError("notify.url", str(error)) from None
        _ask("notify.url", url, msgspec.json.encode(event), notify.timeout)


def _run(command: tuple[str, ...], octets: bytes, timeout: float) -> None:
    """Run it, and end it in time with all that it started; what it says is kept in memory, should the disk be full."""
    with open(os.memfd_create("said"), "w+b") as said:  # noqa: PTH123 - a descriptor
        try:
            process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=said, start_new_session=True
            )
        except (OSError, ValueError) as error:
            why = error.strerror if isinstance(error, OSError) else str(error)
            raise UntoldError("notify.command", f"{command[0]} cannot be run: {why}") from None
        try:
            process.communicate(octets, timeout=timeout)
        except subprocess.TimeoutExpired:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            text = f"{command[0]} did not end in time, and was ended: see notify.timeout"
            raise UntoldError("notify.command", text) from None
        if process.returncode:
            size = said.seek(0, os.SEEK_END)
            said.seek(max(0, size - 300))
            words = said.read().decode(errors="replace").strip()
            raise UntoldError("notify.command", f"{command[0]} exits {process.returncode}: {words}")


def _ask(whom: str, url: str, octets: bytes | None, timeout: float) -> None:
    """Ask, and have an answer in time, however it comes; what it says is not read."""
    import ssl

    import httpx

    headers = {} if octets is None else {"content-type": "application/json"}
    method = "GET" if octets is None else "POST"
    connections = Connections()
    alarm = threading.Timer(timeout, connections.cut)
    alarm.daemon = True
    alarm.start()
    try:
        with (
            httpx.Client(verify=ssl.create_default_context(), timeout=timeout, trust_env=False) as client,
            client.stream(method, url, content=octets, headers=headers, extensions=connections.extensions) as response,
        ):
            status, right = response.status_code, response.is_success
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        late = connections.are_cut or isinstance(error, httpx.TimeoutException)
        why = "no answer in time: see notify.timeout" if late else type(error).__name__
        raise UntoldError(whom, f"cannot be reached: {why}") from None
    finally:
        alarm.cancel()
    if not right:
        raise UntoldError(whom, f"answers {status}")
