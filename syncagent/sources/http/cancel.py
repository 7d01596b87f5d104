"""The connections of an HTTP client, to be cut from another thread.

A time-out is for one octet alone: who sends one now and then would be waited for without end.
"""

from __future__ import annotations

import contextlib
import socket
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping


class Connections:
    """What httpx connected to, as its extension "trace" tells (httpcore)."""

    def __init__(self) -> None:
        """There is none yet."""
        self._sockets: list[socket.socket] = []
        self.are_cut = False

    @property
    def extensions(self) -> dict[str, Any]:
        """What a request is given so that its connection is known."""
        return {"trace": self._traced}

    def _traced(self, event: str, info: Mapping[str, Any]) -> None:
        if event in {"connection.connect_tcp.complete", "connection.start_tls.complete"}:
            self._sockets.append(info["return_value"].get_extra_info("socket"))
            if self.are_cut:
                self.cut()

    def cut(self) -> None:
        """End all waiting for what is connected, and for what will be."""
        self.are_cut = True
        for one in self._sockets:
            with contextlib.suppress(OSError):
                socket.socket.shutdown(one, socket.SHUT_RDWR)  # and not TLS's own, which would wait for the server
