"""A plain SMTP client that sends addresses as they are, byte for byte, and hears what the server says."""

import contextlib
import socket
from collections.abc import Sequence
from types import TracebackType
from typing import NamedTuple, Self

from tests.support.programs import PATIENCE, ProgramError

_READY, _DONE, _CLOSING = 220, 250, 421
_CODE = 3


class Verdict(NamedTuple):
    """What a server answers to RCPT TO; equals the tuple (code, text)."""

    code: int
    text: str


class SmtpError(ProgramError):
    """The server said something other than the dialogue needs, or nothing more at all."""


class Client:
    """An open SMTP session that may ask about any number of recipients.

    Each recipient is asked for in a transaction of its own, `MAIL FROM:<>` to `RSET`. The session opens
    with the first question; where the server has ended it, or has lost step (an over-long command), the
    next question opens another.
    """

    def __init__(self, port: int, *, host: str = "127.0.0.1", timeout: float = PATIENCE) -> None:
        """Remember where the server is."""
        self._address = (host, port)
        self._timeout = timeout
        self._socket: socket.socket | None = None
        self._unread = b""

    def __enter__(self) -> Self:
        """Open the session."""
        self.open()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End the session."""
        self.close()

    @property
    def is_open(self) -> bool:
        """Whether there is a session, as far as this side knows."""
        return self._socket is not None

    def open(self) -> None:
        """Connect and say EHLO, unless the session is open."""
        if self._socket is not None:
            return
        try:
            self._socket = socket.create_connection(self._address, self._timeout)
        except OSError as error:
            raise SmtpError(f"cannot connect to {self._address}: {error}") from error
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._unread = b""
        self._expect(self._exchange(b""), _READY)
        self._expect(self.command(b"EHLO client.example.net"), _DONE)

    def close(self) -> None:
        """Say QUIT and disconnect; never fails."""
        if self._socket is not None:
            with contextlib.suppress(SmtpError):
                self.command(b"QUIT")
            self._disconnect()

    def verdict(self, address: str | bytes, *, smtputf8: bool = True) -> Verdict:
        """Ask whether mail to the address would be taken; the address goes out exactly as given.

        Where it is not ASCII, SMTPUTF8 is asked for with MAIL FROM, unless `smtputf8` is false.
        """
        raw = address.encode() if isinstance(address, str) else address
        if b"\r" in raw or b"\n" in raw:
            raise ValueError(f"a line break in {raw!r} would end the command")
        self.open()
        mail = b"MAIL FROM:<>" if raw.isascii() or not smtputf8 else b"MAIL FROM:<> SMTPUTF8"
        self._expect(self.command(mail), _DONE)
        answer = self.command(b"RCPT TO:<" + raw + b">")
        try:
            in_step = answer.code != _CLOSING and self.command(b"RSET").code == _DONE
        except SmtpError:
            in_step = False
        if not in_step:
            self._disconnect()
        return answer

    def codes(self, addresses: Sequence[str], *, at_once: int = 200) -> list[int]:
        """Ask for many recipients in one transaction with SMTPUTF8, pipelined (RFC 2920); give the code of each."""
        self.open()
        self._expect(self.command(b"MAIL FROM:<> SMTPUTF8"), _DONE)
        codes: list[int] = []
        for start in range(0, len(addresses), at_once):
            few = [b"RCPT TO:<" + address.encode() + b">\r\n" for address in addresses[start : start + at_once]]
            codes.append(self._exchange(b"".join(few)).code)
            codes += [self._exchange(b"").code for _ in few[1:]]
        self._expect(self.command(b"RSET"), _DONE)
        return codes

    def command(self, line: bytes) -> Verdict:
        """Send one line, hear one reply; where none comes, the session is over."""
        return self._exchange(line + b"\r\n")

    def _exchange(self, sent: bytes) -> Verdict:
        """Send these bytes, hear one reply."""
        if self._socket is None:
            raise SmtpError("no session is open")
        try:
            self._socket.sendall(sent)
            return self._reply(self._socket)
        except (OSError, SmtpError) as error:
            self._disconnect()
            raise SmtpError(f"the session broke at {sent[:100]!r}: {error}") from error

    def _reply(self, connection: socket.socket) -> Verdict:
        """Read one reply, all of its lines."""
        lines = []
        while True:
            line = self._line(connection)
            if not line[:_CODE].isdigit():
                raise SmtpError(f"not a reply: {line!r}")
            lines.append(line[_CODE + 1 :].decode("utf-8", "backslashreplace"))
            if line[_CODE : _CODE + 1] != b"-":
                return Verdict(int(line[:_CODE]), "\n".join(lines))

    def _line(self, connection: socket.socket) -> bytes:
        """Read one line of a reply."""
        while b"\n" not in self._unread:
            more = connection.recv(65536)
            if not more:
                raise SmtpError("the server hung up")
            self._unread += more
        line, _, self._unread = self._unread.partition(b"\n")
        return line.rstrip(b"\r")

    def _expect(self, answer: Verdict, code: int) -> None:
        """End the session at any other answer."""
        if answer.code != code:
            self._disconnect()
            raise SmtpError(f"the server answers {answer.code} {answer.text!r}, not {code}")

    def _disconnect(self) -> None:
        """Drop the connection."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None
