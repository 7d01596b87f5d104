"""The signals of the agent: HUP and USR1 put tokens, TERM and INT end a run at any point."""

from __future__ import annotations

import contextlib
import signal
import socket
import sys
import threading
import time
from typing import TYPE_CHECKING

from syncagent.agent.tokens import Token
from syncagent.files import children

if TYPE_CHECKING:
    import queue
    from collections.abc import Iterator
    from types import FrameType

_ONCE_MORE = 0.01
"""Seconds until Stopped is raised again after Python dropped it."""


class Stopped(KeyboardInterrupt):
    """TERM or INT was received; raised in the main thread at any point of a run."""


class Signals:
    """The signal handlers of the agent, all in the main thread.

    ``stopping`` is the time of the first TERM or INT on the monotonic clock, 0 before.
    """

    def __init__(self, tokens: queue.SimpleQueue[Token]) -> None:
        """Remember the queue of the worker. No handler is set yet."""
        self.stopping = 0.0
        self._tokens = tokens
        self._interruptible = False

    def handle(self) -> None:
        """Set the handlers, then unblock HUP and USR1."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._on_stop)
        signal.signal(signal.SIGALRM, self._on_alarm)
        sys.unraisablehook = _raise_later
        signal.signal(signal.SIGHUP, lambda *_: self._tokens.put(Token(None, "HUP", reload=True)))
        signal.signal(signal.SIGUSR1, lambda *_: self._tokens.put(Token(None, "USR1")))

        signal.signal(signal.SIGURG, lambda *_: None)
        self._tripped, self._trip = socket.socketpair()
        for end in (self._tripped, self._trip):
            end.settimeout(0)
        signal.set_wakeup_fd(self._trip.fileno(), warn_on_full_buffer=False)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGHUP, signal.SIGUSR1})  # pending ones are delivered now

    def wake_worker(self) -> None:
        """Wake the main thread for a signal that arrived just before that thread slept, or in another thread."""
        with contextlib.suppress(BlockingIOError):
            if any(number != signal.SIGURG for number in self._tripped.recv(256)):
                signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGURG)

    @contextlib.contextmanager
    def interruptions(self) -> Iterator[None]:
        """Let TERM and INT raise Stopped within the block, at once if ``stopping`` is set already.

        Outside the block they only set ``stopping`` and put a token.
        """
        self._interruptible = True
        try:
            if self.stopping:
                raise Stopped
            yield
        finally:
            self._interruptible = False

    def _on_stop(self, _number: int, _frame: FrameType | None) -> None:
        if self.stopping:
            return
        self.stopping = time.monotonic()
        self._tokens.put(Token(None, "stop", stop=True))
        if self._interruptible:
            children.interrupt(Stopped())

    def _on_alarm(self, _number: int, _frame: FrameType | None) -> None:
        if self._interruptible:
            children.interrupt(Stopped())


def _raise_later(unraisable: sys.UnraisableHookArgs) -> None:
    """Set a timer that raises Stopped again, if Python has dropped it.

    Python drops an exception that a signal handler raises within a destructor.
    """
    if isinstance(unraisable.exc_value, Stopped):
        signal.setitimer(signal.ITIMER_REAL, _ONCE_MORE)
    else:
        sys.__unraisablehook__(unraisable)
