"""Cancellation of a fetch from another thread.

The read timeout limits a single read, not the whole answer. A server that sends its headers octet by octet never
exceeds it, so the fetch would block forever.
"""

from __future__ import annotations

import contextlib
import socket
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from syncagent.sources.http.client import Client


class Connections:
    """The sockets that httpx has connected, collected through httpcore's request extension "trace"."""

    def __init__(self) -> None:
        """Create an empty collection."""
        self._sockets: list[socket.socket] = []
        self.are_aborted = False

    @property
    def extensions(self) -> dict[str, Any]:
        """The request extensions, as httpx takes them, that collect the sockets."""
        return {"trace": self._trace}

    def _trace(self, event: str, info: Mapping[str, Any]) -> None:
        if event in {"connection.connect_tcp.complete", "connection.start_tls.complete"}:
            self._sockets.append(info["return_value"].get_extra_info("socket"))
            if self.are_aborted:
                self.abort()

    def abort(self) -> None:
        """Shut down all sockets. A socket that is connected later is shut down at once."""
        self.are_aborted = True
        for connected in self._sockets:
            with contextlib.suppress(OSError):
                socket.socket.shutdown(connected, socket.SHUT_RDWR)  # SSLSocket.shutdown also drops the TLS layer


class CancellableSource:
    """Base class of the HTTP sources, whose current fetch can be aborted from another thread."""

    _client: Client | None = None

    @contextlib.contextmanager
    def _cancellable(self, client: Client) -> Iterator[None]:
        """Register the client for the duration of the block, so that ``give_up`` aborts it."""
        self._client = client
        try:
            yield
        finally:
            self._client = None

    def give_up(self) -> None:
        """Abort the connections of the current fetch, if any. See ``syncagent.sources.Source``."""
        client = self._client
        if client is not None:
            client.abort()
