"""What the tests' servers have in common: a `with` block that starts and stops them."""

import contextlib
import socket
import threading
from collections.abc import Callable
from functools import partial
from types import TracebackType
from typing import Self

from tests.support.programs import PATIENCE


class Service:
    """A server that runs within a `with` block. Where its start fails, nothing of it is left either."""

    def start(self) -> None:
        """Start it and wait until it answers."""
        raise NotImplementedError

    def close(self) -> None:
        """Stop it and remove what it has; at any time, also where it was never started."""
        raise NotImplementedError

    def __enter__(self) -> Self:
        """Start it."""
        try:
            self.start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop it."""
        self.close()


class Threads(Service):
    """A server on loopback in threads of this process, which hold up nobody: one that accepts, one a connection.

    ``listen`` is called before anything else. A connection is served by ``serve``, with its number, which counts
    from 1; sockets in ``open_sockets`` are shut down when it closes.
    """

    connections: int = 0

    def listen(self) -> None:
        """Take a port; connections are accepted once it is started."""
        self.closing = threading.Event()
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self.listener.getsockname()[1]
        self.open_sockets: set[socket.socket] = set()
        self._threads: list[threading.Thread] = []

    def serve(self, connection: socket.socket, number: int) -> None:
        """Answer until either side has had enough; the socket is closed afterwards."""
        raise NotImplementedError

    def start(self) -> None:
        """Accept connections from now on."""
        self._run(self._accept)

    def close(self) -> None:
        """Close all connections, accept no more, and wait for the threads to end."""
        self.closing.set()
        for opened in (self.listener, *self.open_sockets.copy()):
            with contextlib.suppress(OSError):
                opened.shutdown(socket.SHUT_RDWR)
        self.listener.close()
        for thread in self._threads:
            thread.join(PATIENCE)

    def _run(self, work: Callable[[], None]) -> None:
        thread = threading.Thread(target=work, name=type(self).__name__, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self.listener.accept()
            except OSError:
                return
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self.connections += 1
            self.open_sockets.add(connection)
            self._run(partial(self._serve, connection, self.connections))
            if self.closing.is_set():  # between the two, `close` may not have seen the connection
                with contextlib.suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)

    def _serve(self, connection: socket.socket, number: int) -> None:
        try:
            with contextlib.suppress(OSError):
                self.serve(connection, number)
        finally:
            self.open_sockets.discard(connection)
            connection.close()
