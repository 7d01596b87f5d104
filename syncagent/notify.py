"""Tell someone, once, when something needs a person, and once when that is over."""

from __future__ import annotations

import datetime as dt
import queue
import socket
import subprocess
import threading
from typing import TYPE_CHECKING

import msgspec
from msgspec import Struct

from syncagent.errors import SourceError
from syncagent.sources import read_secret

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from syncagent.config import Notify
    from syncagent.status import Alarm


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
    at = dt.datetime.fromtimestamp(now, dt.UTC).isoformat(timespec="seconds")
    host = socket.gethostname()
    text = f"syncagent on {host}: {'over: ' if what == 'recovered' else ''}{alarm.text}"
    return Event(what, alarm.kind, alarm.subject, text, host, map_name, at)


class Teller(threading.Thread):
    """Tells from a thread of its own, so that who is told slowly does not hold up a run."""

    def __init__(self, failed: Callable[[str, str], None]) -> None:
        """``failed`` is told whom we could not tell, and why."""
        super().__init__(name="teller", daemon=True)
        self._failed = failed
        self._waiting: queue.SimpleQueue[tuple[Notify, Event | None, Callable[[], None]]] = queue.SimpleQueue()
        self.start()

    def tell(self, notify: Notify, event: Event | None, done: Callable[[], None]) -> None:
        """Tell an event, or (None) that a run was right; ``done`` is called once everybody has it."""
        self._waiting.put((notify, event, done))

    def run(self) -> None:
        """Tell one after another."""
        while True:
            notify, event, done = self._waiting.get()
            try:
                deliver(notify, event)
                done()
            except _UntoldError as error:
                self._failed(error.whom, str(error))
            except Exception as error:  # noqa: BLE001 - this thread goes on whatever comes
                self._failed("notify", type(error).__name__)


class _UntoldError(Exception):
    def __init__(self, whom: str, text: str) -> None:
        self.whom = whom
        super().__init__(text)


def deliver(notify: Notify, event: Event | None) -> None:
    """Tell everybody who is configured. Raises _UntoldError, which never has a URL in it: that may be a secret."""
    if event is None:
        if notify.ping_url:
            _ask("notify.ping_url", notify.ping_url, None, notify.timeout)
        return
    octets = msgspec.json.encode(event)
    if notify.command:
        _run(notify.command, octets, notify.timeout)
    try:
        url = read_secret(notify.url_file) if notify.url_file else notify.url
    except SourceError as error:
        raise _UntoldError("notify.url_file", str(error)) from None
    if url:
        _ask("notify.url", url, octets, notify.timeout)


def _run(command: tuple[str, ...], octets: bytes, timeout: float) -> None:
    try:
        done = subprocess.run(
            command, input=octets, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, timeout=timeout, check=False
        )
    except subprocess.TimeoutExpired:
        raise _UntoldError(
            "notify.command", f"{command[0]} did not end in time, and was ended: see notify.timeout"
        ) from None
    except OSError as error:
        raise _UntoldError("notify.command", f"{command[0]} cannot be run: {error.strerror}") from None
    if done.returncode:
        said = done.stderr.decode(errors="replace").strip()[-300:]
        raise _UntoldError("notify.command", f"{command[0]} exits {done.returncode}: {said}")


def _ask(whom: str, url: str, octets: bytes | None, timeout: float) -> None:
    import ssl

    import httpx

    headers = {"content-type": "application/json"}
    try:
        with httpx.Client(verify=ssl.create_default_context(), timeout=timeout, trust_env=False) as client:
            response = client.get(url) if octets is None else client.post(url, content=octets, headers=headers)
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise _UntoldError(whom, f"cannot be reached: {type(error).__name__}") from None
    if not response.is_success:
        raise _UntoldError(whom, f"answers {response.status_code}")
