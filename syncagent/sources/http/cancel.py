"""Cancellation of a fetch from another thread.

A read timeout bounds the wait for each octet, not for the answer: a server that sends an octet now and then would be
waited for without end.
"""

from __future__ import annotations

import contextlib
import socket
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from syncagent.sources.http.client import Client


class Connections:
    """The sockets that httpx has connected, collected by httpcore's request extension "trace"."""

    def __init__(self) -> None:
        """Start without a socket."""
        self._sockets: list[socket.socket] = []
        self.are_aborted = False

    @property
    def extensions(self) -> dict[str, Any]:
        """The request extensions that collect the sockets."""
        return {"trace": self._trace}

    def _trace(self, event: str, info: Mapping[str, Any]) -> None:
        if event in {"connection.connect_tcp.complete", "connection.start_tls.complete"}:
            self._sockets.append(info["return_value"].get_extra_info("socket"))
            if self.are_aborted:
                self.abort()

    def abort(self) -> None:
        """Shut down every connected socket, and those that are connected from now on."""
        self.are_aborted = True
        for connected in self._sockets:
            with contextlib.suppress(OSError):
                socket.socket.shutdown(connected, socket.SHUT_RDWR)  # not TLS's own, which would wait for the server


class CancellableSource:
    """Base of the HTTP sources: ``give_up`` aborts the client of the fetch that is under way."""

    _client: Client | None = None

    @contextlib.contextmanager
    def _cancellable(self, client: Client) -> Iterator[None]:
        """Let ``give_up`` abort the client while the block runs."""
        self._client = client
        try:
            yield
        finally:
            self._client = None

    def give_up(self) -> None:
        """Abort the fetch that is under way, if any. See Source.give_up."""
        client = self._client
        if client is not None:
            client.abort()
