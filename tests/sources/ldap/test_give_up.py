"""A fetch that was given up on comes to its end, however slowly a server goes on."""

import contextlib
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from syncagent.config.tables import SourceConfig
from syncagent.sources import Common, ldap
from syncagent.values.types import Duration, Urls
from tests.support.fetching import Runs
from tests.support.programs import PATIENCE


@pytest.fixture(name="dripping")
def fixture_dripping() -> Iterator[int]:
    """A server that answers a bind with the beginning of a long message, and then an octet now and again; its port."""
    closing = threading.Event()
    listener = socket.create_server(("127.0.0.1", 0))

    def drip(connection: socket.socket) -> None:
        with connection, contextlib.suppress(OSError):
            connection.recv(4096)
            connection.sendall(b"\x30\x84\x00\x10\x00\x00")
            while not closing.wait(0.2):
                connection.sendall(b"\x02")

    def serve() -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = listener.accept()
                threading.Thread(target=drip, args=(connection,), daemon=True).start()

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    yield listener.getsockname()[1]
    closing.set()
    listener.shutdown(socket.SHUT_RDWR)
    listener.close()
    thread.join(PATIENCE)


def _fetching() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "fetch corp"]


def test_a_server_that_drips_holds_no_thread(dripping: int, tmp_path: Path) -> None:
    """At the deadline the connection is cut, so that the next run can ask anew."""
    own = ldap.Config(url=Urls([f"ldap://127.0.0.1:{dripping}"]), base="dc=example,dc=com", insecure=True)
    configured = SourceConfig(
        name="corp", common=Common(type="ldap", deadline=Duration(1)), own=own, digest="", build=ldap.build
    )
    run = Runs(tmp_path)
    for _ in range(2):
        (fetched,) = run(configured)
        assert "no whole answer within 1s" in fetched.report.error
        end = time.monotonic() + 10
        while _fetching() and time.monotonic() < end:
            time.sleep(0.05)
        assert not _fetching(), "the thread of a fetch that was given up on goes on"
