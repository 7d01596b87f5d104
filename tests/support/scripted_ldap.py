"""An LDAP server of the tests' own, for what a real one won't do on demand."""

import contextlib
import socket
import ssl
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from tests.support.ber import size_of
from tests.support.ldap_script import BASE, Break, Entry, Script, SyncAnswer, Trouble, What
from tests.support.ldap_wire import (
    BIND_DONE,
    EXTENDED_DONE,
    SEARCH_DONE,
    START_TLS,
    SYNC_REQUEST,
    Attributes,
    Request,
    SyncDone,
    SyncEntry,
    SyncIds,
    SyncInfo,
    entry,
    notice,
    page_control,
    parse,
    reference,
    result,
    sync_message,
)
from tests.support.service import Threads

__all__ = [
    "Attributes",
    "Break",
    "Entry",
    "Request",
    "ScriptedLDAP",
    "SyncAnswer",
    "SyncDone",
    "SyncEntry",
    "SyncIds",
    "SyncInfo",
    "Trouble",
    "What",
]

SUCCESS, PROTOCOL_ERROR, SIZE_LIMIT_EXCEEDED, AUTH_METHOD_NOT_SUPPORTED = 0, 2, 4, 7
UNAVAILABLE_CRITICAL_EXTENSION, NO_SUCH_OBJECT, INVALID_CREDENTIALS, OTHER = 12, 32, 49, 80


class _HangUp(Exception):  # noqa: N818  # it is no error
    """The connection is over."""


@dataclass(eq=False)
class ScriptedLDAP(Script, Threads):
    """A server that goes by its script; for a `with` block."""

    def __post_init__(self) -> None:
        self.listen()

    def serve(self, connection: socket.socket, number: int) -> None:
        """Answer until either side has had enough."""
        _Session(self, connection, number).serve()

    @property
    def url(self) -> str:
        """Where it answers; with TLS by name, since not every client finds addresses in certificates."""
        if self.tls is not None:
            return f"ldaps://localhost:{self.port}"
        return f"ldap://{'127.0.0.1' if isinstance(self.starttls, int) else 'localhost'}:{self.port}"


class _Session:
    """One connection and what is said over it."""

    def __init__(self, server: ScriptedLDAP, connection: socket.socket, number: int) -> None:
        self._server = server
        self._socket = connection
        self._number = number
        self._page = 0

    def serve(self) -> None:
        """Answer until either side has had enough."""
        try:
            with contextlib.suppress(_HangUp):
                if self._server.tls is not None:
                    self._wrap(self._server.tls)
                for message in self._messages():
                    self._answer(parse(message, self._number))
        finally:
            self._server.open_sockets.discard(self._socket)
            self._socket.close()

    def _wrap(self, context: ssl.SSLContext) -> None:
        """Go over to TLS."""
        plain = self._socket
        self._socket = context.wrap_socket(plain, server_side=True, do_handshake_on_connect=False)
        self._server.open_sockets.add(self._socket)
        self._server.open_sockets.discard(plain)
        if self._server.closing.is_set():
            raise _HangUp
        self._socket.do_handshake()

    def _messages(self) -> Iterator[bytes]:
        """Give one message after the other, until the client hangs up."""
        unread = bytearray()
        while True:
            size = size_of(unread)
            if size is not None and size <= len(unread):
                yield bytes(unread[:size])
                del unread[:size]
            elif more := self._socket.recv(65536):
                unread += more
            else:
                return

    def _answer(self, request: Request) -> None:
        """Remember a request and answer it."""
        self._server.requests.append(request)
        match request.op:
            case "bind":
                self._bind(request)
            case "unbind":
                raise _HangUp
            case "search" if SYNC_REQUEST in request.controls and self._server.sync_answers:
                self._sync(request, self._server.sync_answers.pop(0))
            case "search" if SYNC_REQUEST in request.critical:
                self._done(request, UNAVAILABLE_CRITICAL_EXTENSION, "critical extension is not recognized")
            case "search":
                self._search(request)
            case "extended":
                self._extended(request)
            case _:
                pass  # nothing is said to the end of an operation

    def _bind(self, request: Request) -> None:
        """Take the password, or none where there is no name either."""
        trouble, wanted = self._server.trouble_at(0, 0), self._server.password
        given = request.password
        if given is not None:
            self._server.binds.append((request.name, given))
        code, message = SUCCESS, ""
        if trouble is not None:
            code, message = self._break(request, trouble.what), trouble.message
        elif given is None:
            code = AUTH_METHOD_NOT_SUPPORTED
        elif wanted not in {None, given} and (request.name or given):
            code = INVALID_CREDENTIALS
        self._send(result(request.message_id, BIND_DONE, code, message))

    def _extended(self, request: Request) -> None:
        """Start TLS, or refuse to."""
        context = self._server.starttls if request.name == START_TLS else PROTOCOL_ERROR
        code = context if isinstance(context, int) else SUCCESS
        self._send(result(request.message_id, EXTENDED_DONE, code))
        if isinstance(context, ssl.SSLContext):
            self._wrap(context)

    def _sync(self, request: Request, answer: SyncAnswer) -> None:
        """Say what the script has for this search."""
        for item in answer:
            if isinstance(item, (int, str)):
                self._done(request, self._break(request, item))
            else:
                self._send(sync_message(request.message_id, item))

    def _search(self, request: Request) -> None:
        """Send a page of what is found, or all of it to a client that does not speak of pages."""
        found = self._server.found(request)
        if found is None:
            self._done(request, NO_SUCH_OBJECT)
        elif request.page_size is None:
            limit = request.size_limit or len(found)
            if self._entries(request, found[:limit]):
                self._done(request, SUCCESS if limit >= len(found) else SIZE_LIMIT_EXCEEDED)
        elif (start := self._start(request.page_cookie or b"")) is None:
            self._done(request, PROTOCOL_ERROR, "paged results cookie is invalid")
        else:
            end = start + request.page_size
            if self._entries(request, found[start:end]):
                cookie = b"%d:%d" % (self._number, end) if start < end < len(found) else b""
                control = page_control(cookie, self._server.estimate)
                self._send(result(request.message_id, SEARCH_DONE, SUCCESS, "", control))

    def _start(self, cookie: bytes) -> int | None:
        """Give the place in the list that a cookie of ours stands for, None if it is not of this connection."""
        if not cookie:
            return 0
        number, _, place = cookie.partition(b":")
        return int(place) if number == b"%d" % self._number and place.isdigit() else None

    def _entries(self, request: Request, page: Sequence[Entry]) -> bool:
        """Send the entries of a page; say whether all went well, with nothing left to send but its end."""
        if request.scope != BASE:
            self._page = self._page + 1 if request.page_cookie else 1
        for count, (dn, attributes) in enumerate(page):
            if self._goes_wrong(request, count):
                return False
            shown = self._server.shown(request, attributes)
            if shown is None:
                self._done(request, OTHER)
                return False
            self._send(entry(request.message_id, dn, shown))
        return not self._goes_wrong(request, len(page))

    def _goes_wrong(self, request: Request, count: int) -> bool:
        """Do what the trouble is, if it is here; say whether the search is over by it."""
        trouble = None if request.scope == BASE else self._server.trouble_at(self._page, count)
        if trouble is None:
            return False
        if trouble.what == "message-0":
            self._send(entry(0, "cn=nobody", {"mail": ["nobody@example.com"]}))
            return False
        if trouble.what == "last":
            done = (request.message_id, SEARCH_DONE, SUCCESS, trouble.message, page_control(b""))
            self._send(result(*done, referrals=trouble.referrals))
            return True
        if trouble.what == "reference":
            self._send(reference(request.message_id, trouble.referrals or ("ldap://elsewhere.example.net/",)))
            return False
        code = SUCCESS if trouble.what == "no-control" else self._break(request, trouble.what)
        self._done(request, code, trouble.message, trouble.referrals)
        return True

    def _break(self, request: Request, what: What) -> int:
        """Break the connection off in this way, or give the result code that it is."""
        if isinstance(what, int):
            return what
        if what == "stall":
            self._server.closing.wait()
        elif what == "notice":
            self._send(notice())
        elif what == "fin-inside":
            message = entry(request.message_id, "cn=half of it,dc=example,dc=com", {"mail": ["half@example.com"]})
            self._send(message[: len(message) // 2])
        elif what == "rst":
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            raise _HangUp
        elif what != "fin":
            raise ValueError(f"{what} is nothing that can happen here")
        self._socket.shutdown(socket.SHUT_RDWR)
        raise _HangUp

    def _done(self, request: Request, code: int, message: str = "", referrals: Sequence[str] = ()) -> None:
        """Send the end of a search."""
        self._send(result(request.message_id, SEARCH_DONE, code, message, referrals=referrals))

    def _send(self, message: bytes) -> None:
        """Send a message."""
        self._socket.sendall(message)
