"""Notifications of alarms: one when an alarm is raised or becomes an error, and one when it has ended.

A standing alarm is sent again after notify.repeat, or after its own time if that is longer.
"""

from __future__ import annotations

import contextlib
import os
import queue
import signal
import socket
import subprocess
import threading
import time
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

import msgspec
from msgspec import Struct

from syncagent.errors import SourceError
from syncagent.redaction import redacted, remember
from syncagent.sources import read_secret
from syncagent.sources.http.cancel import Connections
from syncagent.state import messages

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from syncagent.config.tables import Notify
    from syncagent.state.alarms import Alarm


WAYS = ("command", "url")
"""The ways of delivery. Each has its own record of delivered alarms."""
PING = "ping_url"
Told: TypeAlias = "Mapping[str, Mapping[str, Alarm]]"
ToldAt: TypeAlias = "Mapping[str, Mapping[str, float]]"


class Event(Struct, frozen=True):
    """The content of a notification, sent as JSON. ``text`` is the whole message, which Slack and Mattermost show."""

    event: str
    kind: str
    subject: str
    text: str
    host: str
    map: str
    at: str
    severity: str = "error"


def news(told: Mapping[str, Alarm], alarms: Mapping[str, Alarm]) -> list[tuple[str, Alarm]]:
    """Return ("raised", alarm) for each alarm not yet in ``told``, and ("recovered", alarm) for each ended alarm.

    An alarm that was told as a warning and is an error now is raised again.
    """
    raised = [("raised", alarm) for key, alarm in alarms.items() if _is_new(told.get(key), alarm)]
    return raised + [("recovered", alarm) for key, alarm in told.items() if key not in alarms]


def _is_new(told: Alarm | None, alarm: Alarm) -> bool:
    return told is None or (told.severity == "warning" and alarm.severity == "error")


def repeated(
    told: Mapping[str, Alarm], told_at: Mapping[str, float], alarms: Mapping[str, Alarm], now: float, every: float
) -> list[tuple[str, Alarm]]:
    """Return ("raised", alarm) for each standing alarm that was told ``every`` seconds ago, or in the future.

    ``Alarm.repeat`` counts instead if it is longer. With 0 nothing is told again.
    """
    return [
        ("raised", alarm)
        for key, alarm in alarms.items()
        if every and key in told and not 0 <= now - told_at.get(key, 0.0) < max(every, alarm.repeat)
    ]


def event(what: str, alarm: Alarm, map_name: str, now: float) -> Event:
    """Return the notification of an alarm. ``what`` is "raised" or "recovered", ``now`` is seconds since the epoch."""
    host = socket.gethostname()
    text = f"syncagent on {host}: {'over: ' if what == 'recovered' else ''}{alarm.text}"
    at = messages.machine_moment(now)
    return Event(what, alarm.kind, alarm.subject, text, host, map_name, at, alarm.severity)


class _Delivery(NamedTuple):
    way: str
    what: str
    alarm: Alarm | None
    notify: Notify
    event: Event | None


class Notifier(threading.Thread):
    """A thread that delivers notifications, so that a slow receiver does not delay a run.

    A notification that failed is queued again by the next call of ``notify``, for the failed way of delivery only, if
    the alarm has not ended or recurred meanwhile. A notification that still waits for delivery is not queued twice.
    """

    def __init__(
        self,
        told: Told,
        saved: Callable[[], None],
        went_wrong: Callable[[str, str], None],
        succeeded: Callable[[str], None],
        told_at: ToldAt | None = None,
    ) -> None:
        """``told`` has the alarms delivered before, ``told_at`` when. ``saved`` is called when they change.

        ``went_wrong`` receives the configuration key of the receiver and the error, ``succeeded`` the key.
        """
        super().__init__(name="notifier", daemon=True)
        self._told = {way: dict(alarms) for way, alarms in told.items()}
        now, known = time.time(), told_at or {}  # an older version did not record when
        self._told_at = {way: dict.fromkeys(alarms, now) | dict(known.get(way, {})) for way, alarms in told.items()}
        self._saved, self._went_wrong, self._succeeded = saved, went_wrong, succeeded
        self._lock = threading.Lock()  # the agent's main thread puts, this one takes
        self._under_way: set[tuple[str, str, str]] = set()
        self._waiting: queue.SimpleQueue[_Delivery] = queue.SimpleQueue()

    @property
    def told(self) -> Told:
        """The alarms that were delivered as raised and not yet as recovered, by way and key."""
        with self._lock:
            return {way: dict(alarms) for way, alarms in self._told.items()}

    @property
    def told_at(self) -> ToldAt:
        """When they were last delivered, in seconds since the epoch, by way and key."""
        with self._lock:
            return {way: dict(times) for way, times in self._told_at.items()}

    def notify(self, notify: Notify, alarms: Mapping[str, Alarm], map_name: str, now: float) -> None:
        """Queue new, ended and repeated alarms for delivery, by each configured way. Does not wait."""
        with self._lock:
            for way in WAYS:
                if way in _configured(notify):
                    told, told_at = self._told.get(way, {}), self._told_at.get(way, {})
                    again = repeated(told, told_at, alarms, now, float(notify.repeat))
                    for what, alarm in news(told, alarms) + again:
                        self._put(_Delivery(way, what, alarm, notify, event(what, alarm, map_name, now)))

    def ping(self, notify: Notify) -> None:
        """Queue a request to notify.ping_url, if configured. Does not wait."""
        if notify.ping_url:
            with self._lock:
                self._put(_Delivery(PING, "", None, notify, None))

    def _put(self, delivery: _Delivery) -> None:
        if _key(delivery) not in self._under_way:
            self._under_way.add(_key(delivery))
            self._waiting.put(delivery)
            if not self.ident:
                self.start()

    def run(self) -> None:
        """Deliver the queued notifications one after the other. Never returns."""
        while True:
            delivery = self._waiting.get()
            try:
                deliver(delivery.notify, delivery.way, delivery.event)
            except DeliveryError as error:
                self._end(delivery)
                self._went_wrong(error.whom, str(error))
            except Exception as error:  # noqa: BLE001 - this thread must survive every fault
                self._end(delivery)
                self._went_wrong(f"notify.{delivery.way}", type(error).__name__)
            else:
                self._end(delivery, well=True)
                self._succeeded(f"notify.{delivery.way}")

    def _end(self, delivery: _Delivery, *, well: bool = False) -> None:
        """Record the end of a delivery: success if ``well``, otherwise ``notify`` may queue it again."""
        with self._lock:
            self._under_way.discard(_key(delivery))
            if not well or delivery.alarm is None:
                return
            told, told_at = self._told.setdefault(delivery.way, {}), self._told_at.setdefault(delivery.way, {})
            if delivery.what == "raised":
                told[delivery.alarm.key] = delivery.alarm
                told_at[delivery.alarm.key] = time.time()
            else:
                told.pop(delivery.alarm.key, None)
                told_at.pop(delivery.alarm.key, None)
        self._saved()


def _key(delivery: _Delivery) -> tuple[str, str, str]:
    return delivery.way, delivery.what, delivery.alarm.key if delivery.alarm else ""


def _configured(notify: Notify) -> set[str]:
    return {way for way, there in zip(WAYS, (notify.command, notify.url or notify.url_file), strict=True) if there}


class DeliveryError(Exception):
    """A notification could not be delivered.

    The text contains neither notify.url nor notify.ping_url, which may be secrets. It may quote the stderr of
    notify.command.
    """

    def __init__(self, whom: str, text: str) -> None:
        """``whom`` is the configuration key of the receiver, such as ``notify.url``."""
        self.whom = whom
        super().__init__(redacted(text))


def deliver(notify: Notify, way: str, event: Event | None) -> None:
    """Deliver a notification by ``way``, or request notify.ping_url if ``event`` is None.

    Raises DeliveryError if the delivery fails.
    """
    if event is None:
        _ask("notify.ping_url", notify.ping_url, None, notify.timeout)
    elif way == "command":
        _run(notify.command, msgspec.json.encode(event), notify.timeout)
    else:
        try:
            url = read_secret(notify.url_file) if notify.url_file else notify.url
        except SourceError as error:
            raise DeliveryError("notify.url", str(error)) from None
        _ask("notify.url", url, msgspec.json.encode(event), notify.timeout)


def _run(command: tuple[str, ...], octets: bytes, timeout: float) -> None:
    """Run a command with ``octets`` as input, and kill its process group after ``timeout`` seconds.

    Its stderr goes to memory, since disks may be full. Raises DeliveryError if it cannot be run, fails, or times out.
    """
    with open(os.memfd_create("said"), "w+b") as said:  # noqa: PTH123 - a descriptor
        try:
            process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=said, start_new_session=True
            )
        except (OSError, ValueError) as error:
            why = error.strerror if isinstance(error, OSError) else str(error)
            raise DeliveryError("notify.command", f"{command[0]} cannot be run: {why}") from None
        try:
            process.communicate(octets, timeout=timeout)
        except subprocess.TimeoutExpired:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            text = f"{command[0]} did not end in time, and was ended: see notify.timeout"
            raise DeliveryError("notify.command", text) from None
        if process.returncode:
            size = said.seek(0, os.SEEK_END)
            said.seek(max(0, size - 300))
            words = said.read().decode(errors="replace").strip()
            raise DeliveryError("notify.command", f"{command[0]} exits {process.returncode}: {words}")


def _ask(whom: str, url: str, octets: bytes | None, timeout: float) -> None:
    """Send a GET request, or a POST request with ``octets``. The body of the response is not read.

    ``timeout``, in seconds, is for the whole exchange. Raises DeliveryError unless the status is a success (2xx).
    """
    import ssl

    import httpx

    remember(url)
    headers = {} if octets is None else {"content-type": "application/json"}
    method = "GET" if octets is None else "POST"
    connections = Connections()
    alarm = threading.Timer(timeout, connections.abort)
    alarm.daemon = True
    alarm.start()
    try:
        with (
            httpx.Client(verify=ssl.create_default_context(), timeout=timeout, trust_env=False) as client,
            client.stream(method, url, content=octets, headers=headers, extensions=connections.extensions) as response,
        ):
            status, right = response.status_code, response.is_success
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        late = connections.are_aborted or isinstance(error, httpx.TimeoutException)
        why = "no answer in time: see notify.timeout" if late else type(error).__name__
        raise DeliveryError(whom, f"cannot be reached: {why}") from None
    finally:
        alarm.cancel()
    if not right:
        raise DeliveryError(whom, f"answers {status}")
