"""An HTTP server of the tests' own, for what a well-behaved one won't do; it says octet by octet what it is told."""

import socket
import ssl
import struct
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import BinaryIO, cast
from urllib.parse import parse_qs, urlsplit

from tests.support.service import Threads


@dataclass(frozen=True)
class Asked:
    """A request: method, path without its query, query, headers (names in lower case), body."""

    method: str
    path: str
    query: dict[str, str]
    headers: dict[str, str]
    body: bytes
    connection: int


Part = bytes | float | str
"""Octets to send, seconds to wait, or an end: ``fin``, ``rst``, ``stall`` (until the server closes)."""
Handler = Callable[[Asked], Iterable[Part]]


def answer(
    body: bytes | str = b"", status: int = 200, *, length: bool = True, chunked: bool = False, **headers: str
) -> Iterator[bytes]:
    """Give a whole answer: by default with its length. ``headers`` have ``_`` for ``-``."""
    octets = body.encode() if isinstance(body, str) else body
    lines = [f"HTTP/1.1 {status} Said", *(f"{name.replace('_', '-')}: {value}" for name, value in headers.items())]
    if chunked:
        lines.append("transfer-encoding: chunked")
        octets = (
            b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in (octets[:7], octets[7:]) if part) + b"0\r\n\r\n"
        )
    elif length:
        lines.append(f"content-length: {len(octets)}")
    else:
        lines.append("connection: close")
    yield "\r\n".join([*lines, "", ""]).encode("latin-1")
    yield octets


@dataclass(eq=False)
class ScriptedHTTP(Threads):
    """A server that answers each path by its handler, others with 404; for a `with` block. `tls` makes it https."""

    tls: ssl.SSLContext | None = None
    routes: dict[str, Handler] = field(default_factory=dict)
    asked: list[Asked] = field(default_factory=list, init=False)
    connections: int = field(default=0, init=False)

    def __post_init__(self) -> None:
        self.listen()

    @property
    def url(self) -> str:
        """Where it answers."""
        return f"{'http' if self.tls is None else 'https'}://localhost:{self.port}"

    def serve(self, connection: socket.socket, number: int) -> None:
        """Answer requests until there are none any more or a handler ends the connection."""
        plain = connection
        try:
            if self.tls is not None:
                connection = self.tls.wrap_socket(plain, server_side=True)
                self.open_sockets.add(connection)
            with cast("BinaryIO", connection.makefile("rb")) as reader:
                while (request := _read(reader, number)) is not None:
                    self.asked.append(request)
                    if not self._answer(connection, request):
                        return
        finally:
            self.open_sockets.discard(connection)
            connection.close()

    def _answer(self, connection: socket.socket, request: Asked) -> bool:
        """Say what the handler says; tell whether the connection goes on."""
        handler = self.routes.get(request.path, _not_here)
        goes_on = True
        for part in handler(request):
            if isinstance(part, float):
                self.closing.wait(part)
            elif isinstance(part, bytes):
                connection.sendall(part)
                goes_on = goes_on and b"connection: close" not in part
            elif part == "stall":
                self.closing.wait()
                return False
            elif part == "rst":
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                return False
            else:
                return False
        return goes_on


def _not_here(_: Asked) -> Iterable[Part]:
    return answer("not here", 404)


def _read(reader: BinaryIO, number: int) -> Asked | None:
    """Read a request; None where there is none any more."""
    first = reader.readline().decode("latin-1").split()
    if len(first) < 2:
        return None
    headers: dict[str, str] = {}
    while line := reader.readline().decode("latin-1").strip():
        name, _, value = line.partition(":")
        headers[name.strip().lower()] = value.strip()
    parts = urlsplit(first[1])
    query = {name: values[0] for name, values in parse_qs(parts.query, keep_blank_values=True).items()}
    body = reader.read(int(headers.get("content-length", "0")))
    return Asked(first[0], parts.path, query, headers, body or b"", number)
