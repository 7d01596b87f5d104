"""One bound connection to one LDAP server. Only this module and ``tls`` import ldap3.

ldap3's defaults are not used: they verify no certificate, send the password to any host in a referral, and return
partial results when a server ends a search early. Result codes are those of RFC 4511, appendix A.
"""

from __future__ import annotations

import contextlib
import socket
import ssl
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import ldap3
from ldap3.core.exceptions import (
    LDAPCommunicationError,
    LDAPException,
    LDAPInvalidFilterError,
    LDAPResponseTimeoutError,
    LDAPStartTLSError,
)

from syncagent.errors import FailureKind, SourceError
from syncagent.redaction import redacted
from syncagent.sources.ldap import contradictions
from syncagent.sources.ldap.contradictions import ContradictionError
from syncagent.sources.ldap.tls import StrictTls
from syncagent.sources.tls import context
from syncagent.values.secrets import read_secret

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from syncagent.sources.ldap import Config

PAGED_RESULTS = "1.2.840.113556.1.4.319"
"""The paging control (RFC 2696)."""
_SCOPES = {"sub": ldap3.SUBTREE, "one": ldap3.LEVEL, "base": ldap3.BASE}
_MAX_TEXT = 300
"""Maximum characters of a server's text in a message."""
_SUCCESS = 0
_TRY_NEXT_SERVER = frozenset({51, 52})  # busy, unavailable
_BIND_REJECTED = frozenset({19, 48, 49, 53})  # locked (19; 53 in 389 Directory Server), method, credentials
_TEMPORARY = frozenset({1, 3, 80})
NOT_READABLE = frozenset({10, 32, 34, 50})
"""Result codes of a base that is elsewhere, does not exist, is no DN, or may not be read."""
LIMIT_EXCEEDED = frozenset({4, 11})
"""Result codes sizeLimitExceeded and adminLimitExceeded."""
_REMEDIES = {
    1: "Active Directory answers so to an anonymous search: set bind_dn",
    3: "the server's time limit is too short for this account or filter",
    4: "the server limits what this account may read: raise the account's size limit, and the total of a paged search",
    8: "the server requires TLS or a stronger bind: use ldaps://",
    10: "the base is on another server: put that one in url",
    11: "the server's limits are too low: check page_size, and the account's limits and indexes",
    12: "the server does not support paging (RFC 2696)",
    13: "the server requires TLS: use ldaps://",
    32: "the base does not exist, or this account may not see it",
    34: "base is not a well-formed DN",
    50: "this account has no read access",
}
_AD_CODES = {
    "525": "no such user",
    "52e": "wrong user or password",
    "530": "logon not permitted at this time",
    "531": "logon not permitted from this host",
    "532": "the password has expired",
    "533": "the account is disabled",
    "701": "the account has expired",
    "773": "the password must be changed first",
    "775": "the account is locked",
}
"""Meanings of CODE in "data CODE" in Active Directory's text for invalidCredentials."""

_PLAIN_DICTS = ("CASE_INSENSITIVE_ATTRIBUTE_NAMES", False)
ldap3.set_config_parameter(*_PLAIN_DICTS)  # plain dicts are 10 % faster


class UnreachableError(Exception):
    """A server cannot answer, but another server may. If ``kind`` is TEMPORARY, this server may answer later."""

    def __init__(self, text: str, *, kind: FailureKind = FailureKind.TEMPORARY, validator: str | None = None) -> None:
        """``text`` names the server and the fault. ``validator``, if not None, replaces the stored validator."""
        self.kind, self.validator = kind, validator
        super().__init__(text)


@dataclass(frozen=True, slots=True)
class SearchResult:
    """The messages of a search and its result, both as ldap3 decodes them. The code is 0 or an accepted code."""

    messages: list[dict[str, Any]]
    result: dict[str, Any]

    @property
    def code(self) -> int:
        """The result code (RFC 4511, appendix A)."""
        return int(self.result["result"])

    def control(self, oid: str) -> Any:  # noqa: ANN401 - as ldap3 decodes it
        """Return the value of the response control ``oid``; None if the result has no such control."""
        control = (self.result.get("controls") or {}).get(oid)
        return None if control is None else control["value"]


class Connection:
    """A bound connection to one server. It uses TLS, except for an ldap:// URL with ``insecure``.

    If a request fails, its method raises UnreachableError if another server may be able to answer, and SourceError
    otherwise.
    """

    def __init__(self, config: Config, url: str, on_start: Callable[[Connection], None] = lambda _: None) -> None:
        """Connect and bind to the server at ``url``.

        ``on_start`` receives this object before it connects, so that another thread can call ``cut``.
        """
        self.url, self._config = url, config
        parts = urlsplit(url)
        self._is_ldaps = parts.scheme == "ldaps"
        self._tls = StrictTls(context(config)) if self._is_ldaps or not config.insecure else None
        server = ldap3.Server(
            host=parts.hostname,
            port=parts.port or (636 if self._is_ldaps else 389),
            use_ssl=self._is_ldaps,
            tls=self._tls,
            get_info=ldap3.NONE,
            connect_timeout=float(config.connect_timeout),
            allowed_referral_hosts=[],
        )
        self._connection = ldap3.Connection(
            server,
            client_strategy=ldap3.SYNC,
            check_names=False,
            read_only=True,
            return_empty_attributes=False,
            auto_range=False,
            auto_referrals=False,
            raise_exceptions=False,  # it would not raise for all codes: each result is checked here
            **_credentials(config),
        )
        on_start(self)
        try:
            self._open()
            self._bind()
        except BaseException:
            self.close()
            raise

    def _open(self) -> None:
        with self._translate_errors():
            self._connection.open(read_server_info=False)
        sock = self._connection.socket
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        if self._tls and not self._is_ldaps:
            with self._translate_errors():
                self._connection.start_tls(read_server_info=False)
            if not isinstance(self._connection.socket, ssl.SSLSocket):  # credentials must not be sent in the clear
                raise SourceError(f"{self.url}: connection not encrypted after StartTLS", kind=FailureKind.BROKEN)
        self._connection.socket.settimeout(float(self._config.read_timeout))

    def _bind(self) -> None:
        with self._translate_errors():
            self._connection.bind(read_server_info=False)
        result = self._connection.result
        if int(result["result"]) in _BIND_REJECTED:
            raise SourceError(self._rejection(result), kind=FailureKind.REFUSED)
        self._require_success(result, "bind")

    def _rejection(self, result: dict[str, Any]) -> str:
        """Return the message for a bind result that rejects the credentials."""
        bind, check = f"bind as {self._config.bind_dn}", "bind_dn and password_file"
        if not self._config.bind_dn and self._config.client_cert_file:
            bind, check = (
                "bind with the client certificate",
                "client_cert_file, and how the server maps it to an account",
            )
        elif not self._config.bind_dn:
            bind, check = "anonymous bind", "bind_dn"
        text = one_line(result["message"])
        detail = next((f": {meaning}" for code, meaning in _AD_CODES.items() if f"data {code}," in text), "")
        code = f"{result['description']} ({result['result']}{detail})"
        return f"{self.url}: {bind} rejected: {code}{_quoted(text)}; check {check}"

    def cut(self) -> None:
        """Shut the socket down, so that a pending read in another thread returns at once."""
        sock = self._connection.socket
        if sock is not None:
            with contextlib.suppress(OSError):
                socket.socket.shutdown(sock, socket.SHUT_RDWR)  # SSLSocket.shutdown() also drops the TLS state

    def close(self) -> None:
        """Close the connection and its socket. Errors of the unbind request are ignored."""
        with contextlib.suppress(LDAPException, OSError):
            self._connection.strategy.close()
        sock = self._connection.socket
        if sock is not None:
            sock.close()

    def search(  # noqa: PLR0913 - the parts of a search request (RFC 4511, 4.5.1)
        self,
        base: str,
        scope: str,
        filter_text: str,
        attributes: Sequence[str],
        *,
        page: tuple[int, bytes | None] | None = None,
        controls: list[tuple[str, bool, bytes]] | None = None,
        size_limit: int = 0,
        accept: frozenset[int] = frozenset(),
    ) -> SearchResult:
        """Return all messages and the result of a search. ``page`` is the page size and the cookie (RFC 2696).

        Raises UnreachableError or SourceError for every result code except success and those in ``accept``, and
        ContradictionError if a part of the result contradicts success.
        """
        size, cookie = page or (None, None)
        with self._translate_errors(filter_text):
            self._connection.search(
                base,
                filter_text,
                _SCOPES[scope],
                dereference_aliases=ldap3.DEREF_NEVER,
                attributes=list(attributes),
                size_limit=size_limit,
                controls=controls,
                paged_size=size,
                paged_criticality=size is not None,
                paged_cookie=cookie,
            )
        result, messages = self._connection.result, self._connection.response
        if result["type"] != "searchResDone":
            raise SourceError(f"{self.url}: search ended by a {result['type']} message", kind=FailureKind.BROKEN)
        if result["result"] not in accept:
            self._require_success(result, f"search in {one_line(base) or 'the root'}")
        if result["result"] == _SUCCESS and (text := contradictions.in_success(result)):
            raise ContradictionError(text)
        return SearchResult(messages, result)

    def read(self, dn: str, attributes: Sequence[str]) -> dict[str, list[bytes]]:
        """Return the named attributes of an entry; an empty dict if it does not exist or is not readable."""
        result = self.search(dn, "base", "(objectClass=*)", attributes, accept=NOT_READABLE)
        entries = [message for message in result.messages if message["type"] == "searchResEntry"]
        return {name: values or [] for name, values in entries[0]["raw_attributes"].items()} if entries else {}

    def _require_success(self, result: dict[str, Any], operation: str) -> None:
        """Raise UnreachableError or SourceError unless the result code is success."""
        code = int(result["result"])
        if code == _SUCCESS:
            return
        referrals = f" ({', '.join(map(one_line, result['referrals']))})" if result.get("referrals") else ""
        remedy = f"; {_REMEDIES[code]}{referrals}" if code in _REMEDIES else referrals
        said = _quoted(one_line(result["message"]))
        text = f"{self.url}: {operation}: {result['description']} ({code}){said}{remedy}"
        if code in _TRY_NEXT_SERVER:
            raise UnreachableError(text)
        raise SourceError(text, kind=FailureKind.TEMPORARY if code in _TEMPORARY else FailureKind.BROKEN)

    @contextlib.contextmanager
    def _translate_errors(self, filter_text: str = "") -> Iterator[None]:
        """Convert exceptions of ldap3 and the socket to UnreachableError or SourceError. Texts contain no password."""
        try:
            yield
        except (LDAPCommunicationError, LDAPResponseTimeoutError, LDAPStartTLSError) as error:
            text, kind = (self._tls.error, self._tls.kind) if self._tls else ("", FailureKind.TEMPORARY)
            if isinstance(error, LDAPStartTLSError) and not text:
                text, kind = f"{one_line(error)}; if it does not offer StartTLS, use ldaps://", FailureKind.BROKEN
            raise UnreachableError(f"{self.url}: {text or _reasons(error)}", kind=kind) from None
        except OSError as error:
            raise UnreachableError(f"{self.url}: {error.strerror or one_line(error)}") from None
        except LDAPInvalidFilterError:
            text = f"filter {one_line(filter_text)} is malformed (RFC 4515)"
            raise SourceError(text, kind=FailureKind.BROKEN) from None
        except (LDAPException, LookupError, ValueError, TypeError, AttributeError) as error:
            text = f"{self.url}: malformed answer: {one_line(error)}"
            raise SourceError(text, kind=FailureKind.BROKEN) from None


def _credentials(config: Config) -> dict[str, Any]:
    """Return the arguments of ldap3.Connection for a simple, SASL EXTERNAL or anonymous bind.

    Raises SourceError if the password cannot be read.
    """
    if config.bind_dn:
        assert config.password_file is not None  # noqa: S101 - problems() requires it
        return {
            "user": config.bind_dn,
            "password": read_secret(config.password_file).encode(),  # ldap3 applies SASLprep to a str
            "authentication": ldap3.SIMPLE,
        }
    if config.client_cert_file:
        return {"authentication": ldap3.SASL, "sasl_mechanism": ldap3.EXTERNAL, "sasl_credentials": ""}
    return {"authentication": ldap3.ANONYMOUS}


def _reasons(error: Exception) -> str:
    """Return the text of an error. If ldap3 tried the addresses of a host in turn, return the text for each address."""
    attempts = error.args[1] if len(error.args) > 1 and isinstance(error.args[1], list) else []
    return "; ".join(f"{one_line(reason)} ({address[0]})" for reason, address in attempts) or one_line(error)


def one_line(text: object) -> str:
    """Return the first _MAX_TEXT characters of a foreign text, on one line, without secrets and control characters.

    Control characters become spaces, not escapes: Active Directory ends its messages with NUL.
    """
    shown = "".join(char if char.isprintable() else " " for char in redacted(str(text or "")))
    return " ".join(shown.split())[:_MAX_TEXT]


def _quoted(text: str) -> str:
    return f' "{text}"' if text else ""
