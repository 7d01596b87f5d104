"""A program that believes to be on a terminal, which needs one for its questions, its TAB key or its colours."""

import fcntl
import os
import pty
import select
import struct
import subprocess
import termios
import time
from collections.abc import Mapping
from pathlib import Path

from tests.support.programs import PATIENCE


def _take_terminal() -> None:
    """Make the standard input the terminal that job control and the INT key are of."""
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)


class Terminal:
    """A program on a terminal of its own, and somebody who reads and types."""

    def __init__(self, *command: str | Path, env: Mapping[str, str] | None = None) -> None:
        """Start it; ``env`` adds to the environment of the test run."""
        self.ours, theirs = pty.openpty()
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("4H", 50, 200, 0, 0))
        surroundings = {name: value for name, value in os.environ.items() if name != "SYNCAGENT_CONFIG"}
        self.process = subprocess.Popen(
            list(map(str, command)),
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            env=surroundings | {"TERM": "dumb"} | dict(env or {}),
            preexec_fn=_take_terminal,  # noqa: PLW1509 - no threads are there when tests start programs
            start_new_session=True,
        )
        os.close(theirs)
        self.said = ""

    def until(self, word: str) -> None:
        """Read until a word has come since the last answer, or the program has ended."""
        end = time.monotonic() + PATIENCE
        while word not in self.said and time.monotonic() < end:
            if select.select([self.ours], [], [], 0.1)[0]:
                try:
                    self.said += os.read(self.ours, 4096).decode().replace("\r\n", "\n")
                except OSError:
                    return

    def answer(self, question: str, text: str) -> None:
        """Wait for a question, and type."""
        self.until(question)
        assert question in self.said
        self.said = ""
        self.write(text)

    def write(self, text: str) -> None:
        """Type."""
        os.write(self.ours, text.encode())

    def ended(self) -> int:
        """Give its exit status; what it said last is in ``said``."""
        self.until("\0")
        status = self.process.wait(timeout=PATIENCE)
        os.close(self.ours)
        return status

    def end(self) -> None:
        """Have done with it."""
        self.process.kill()
        self.process.wait(timeout=PATIENCE)
        os.close(self.ours)
