"""Ports for servers of the tests' own."""

import contextlib
import random
import socket

from tests.support.programs import ProgramError

# Below the ports that Linux hands out by itself: a client that tries a stopped server's port can then not be given
# that very port for its own end, and so be connected with itself.
_PORTS = range(20000, 32000)


def free_port() -> int:
    """Give a port on loopback that nobody listens on just now."""
    return free_ports(1)[0]


def free_ports(count: int) -> list[int]:
    """Give so many ports on loopback that nobody listens on just now."""
    free: list[int] = []
    for port in random.sample(_PORTS, k=100):
        if len(free) == count:
            return free
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(("127.0.0.1", port))
            free.append(port)
    raise ProgramError("no free port")
