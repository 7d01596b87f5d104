"""One bound connection to one server, whose searches are whole or raise. ldap3 is imported here and in ``tls`` alone.

ldap3's own defaults are not used: they check no certificate, follow referrals to any host with our password, and end
quietly where a server cuts a list short. Result codes are those of RFC 4511, appendix A.
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
from syncagent.sources import read_secret
from syncagent.sources.ldap.tls import StrictTls
from syncagent.sources.tls import context

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from syncagent.sources.ldap import Config

PAGED = "1.2.840.113556.1.4.319"  # RFC 2696
_SCOPES = {"sub": ldap3.SUBTREE, "one": ldap3.LEVEL, "base": ldap3.BASE}
_CLIP = 300
_OK = 0
_ELSEWHERE = frozenset({51, 52})  # busy, unavailable: another server may do
_REFUSED = frozenset({19, 48, 49, 53})  # at a bind: locked (19, 53 in 389 Directory Server), not so, not you
_TEMPORARY = frozenset({1, 3, 80})
_MENDS = {
    1: "Active Directory says so to an anonymous search: see bind_dn",
    3: "its time limit is too short for this account or filter",
    4: "it gives this account only so many entries: raise the account's size limit, the total of a paged search too",
    8: "it wants TLS or a stronger bind: use ldaps://",
    10: "the base is on another server: name that one in url",
    11: "its limits are too low for this account: see page_size, and the account's limits and indexes",
    12: "it cannot page (RFC 2696)",
    13: "it wants TLS: use ldaps://",
    32: "there is no such base, or this account may not see it",
    34: "base is not a well-formed DN",
    50: "this account may not read that",
}
_AD_CODES = {
    "525": "no such user",
    "52e": "wrong user or password",
    "530": "not at this hour",
    "531": "not from this host",
    "532": "the password has expired",
    "533": "the account is disabled",
    "701": "the account has expired",
    "773": "the password must be changed first",
    "775": "the account is locked",
}

_PLAIN_DICTS = ("CASE_INSENSITIVE_ATTRIBUTE_NAMES", False)
ldap3.set_config_parameter(*_PLAIN_DICTS)  # 10 % faster


class UnreachableError(Exception):
    """One server cannot be asked now; another may, and so may this one later, unless ``kind`` is BROKEN."""

    def __init__(self, text: str, *, kind: FailureKind = FailureKind.TEMPORARY, validator: str | None = None) -> None:
        """``text`` says which server, and why; ``validator`` is what is to be remembered of it."""
        self.kind, self.validator = kind, validator
        super().__init__(text)


@dataclass(frozen=True, slots=True)
class Found:
    """What a search gave: messages as ldap3 has them, and the result with its code 0 or one that was asked for."""

    messages: list[dict[str, Any]]
    result: dict[str, Any]

    @property
    def code(self) -> int:
        """The result code."""
        return int(self.result["result"])

    def control(self, oid: str) -> Any:  # noqa: ANN401 - as ldap3 decodes it
        """Give the value of a control of the result, None where there is none."""
        found = (self.result.get("controls") or {}).get(oid)
        return None if found is None else found["value"]


class Session:
    """A connection, opened and bound.

    Raises UnreachableError, and SourceError for what another server would not mend.
    """

    def __init__(self, config: Config, url: str, begun: Callable[[Session], None] = lambda _: None) -> None:
        """Connect and bind to the server at ``url``; ``begun`` is told before, so that it may be cut short."""
        self.url, self._config = url, config
        parts = urlsplit(url)
        self._secure = parts.scheme == "ldaps"
        self._tls = StrictTls(context(config)) if self._secure or not config.insecure else None
        server = ldap3.Server(
            host=parts.hostname,
            port=parts.port or (636 if self._secure else 389),
            use_ssl=self._secure,
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
            raise_exceptions=False,  # it would not raise for all codes: each result is judged here
            **_identity(config),
        )
        begun(self)
        try:
            self._open()
        except BaseException:
            self.close()
            raise

    def _open(self) -> None:
        with self._blamed():
            self._connection.open(read_server_info=False)
        sock = self._connection.socket
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        if self._tls and not self._secure:
            with self._blamed():
                self._connection.start_tls(read_server_info=False)
            if not isinstance(self._connection.socket, ssl.SSLSocket):  # nothing of ours goes without
                raise SourceError(f"{self.url}: StartTLS did not come about", kind=FailureKind.BROKEN)
        self._connection.socket.settimeout(float(self._config.read_timeout))
        with self._blamed():
            self._connection.bind(read_server_info=False)
        result = self._connection.result
        code = int(result["result"])
        if code in _REFUSED:
            raise SourceError(self._turned_down(result), kind=FailureKind.REFUSED)
        self._require(result, "bind")

    def _turned_down(self, result: dict[str, Any]) -> str:
        who, see = self._config.bind_dn, "bind_dn and password_file"
        if not who and self._config.client_cert_file:
            who, see = "the client certificate", "client_cert_file, and how the server maps it to an account"
        elif not who:
            who, see = "the anonymous bind", "bind_dn"
        said = clean(result["message"])
        detail = next((f": {text}" for code, text in _AD_CODES.items() if f"data {code}," in said), "")
        return (
            f"{self.url} turns down {who}: {result['description']} ({result['result']}{detail})"
            f"{_quoted(said)}; see {see}"
        )

    def cut(self) -> None:
        """End whatever is being waited for, from another thread: the next octet never comes."""
        sock = self._connection.socket
        if sock is not None:
            with contextlib.suppress(OSError):
                socket.socket.shutdown(sock, socket.SHUT_RDWR)  # not that of TLS, which would take its leave first

    def close(self) -> None:
        """Let go of the connection; whether the server hears of it does not matter."""
        with contextlib.suppress(LDAPException, OSError):
            self._connection.strategy.close()
        sock = self._connection.socket
        if sock is not None:
            sock.close()

    def search(  # noqa: PLR0913 - the parts of a search request (RFC 4511, 4.5.1)
        self,
        base: str,
        scope: str,
        wanted: str,
        attributes: Sequence[str],
        *,
        page: tuple[int, bytes | None] | None = None,
        controls: list[tuple[str, bool, bytes]] | None = None,
        size_limit: int = 0,
        bearable: frozenset[int] = frozenset(),
    ) -> Found:
        """Search, and give all that came once the result has come. ``page`` is page size and cookie.

        Raises as the class does, for every result but success and those that are ``bearable``.
        """
        size, cookie = page or (None, None)
        with self._blamed():
            self._connection.search(
                base,
                wanted,
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
            raise SourceError(f"{self.url} ended a search with {result['type']}", kind=FailureKind.BROKEN)
        if result["result"] not in bearable:
            self._require(result, f"search in {clean(base) or 'the root'}")
        return Found(messages, result)

    def read(self, dn: str, attributes: Sequence[str]) -> dict[str, list[bytes]]:
        """Give attributes of one entry; none where there is no such entry, or none that we may see."""
        found = self.search(dn, "base", "(objectClass=*)", attributes, bearable=frozenset({10, 32, 34, 50}))
        entries = [message for message in found.messages if message["type"] == "searchResEntry"]
        return {name: values or [] for name, values in entries[0]["raw_attributes"].items()} if entries else {}

    def _require(self, result: dict[str, Any], what: str) -> None:
        """Raise for any result but success."""
        code = int(result["result"])
        if code == _OK:
            return
        elsewhere = f" ({', '.join(map(clean, result['referrals']))})" if result.get("referrals") else ""
        mend = f"; {_MENDS[code]}{elsewhere}" if code in _MENDS else elsewhere
        text = f"{self.url}: {what}: {result['description']} ({code}){_quoted(clean(result['message']))}{mend}"
        if code in _ELSEWHERE:
            raise UnreachableError(text)
        raise SourceError(text, kind=FailureKind.TEMPORARY if code in _TEMPORARY else FailureKind.BROKEN)

    @contextlib.contextmanager
    def _blamed(self) -> Iterator[None]:
        """Turn what ldap3 raises to our two errors. Its texts are about sockets; they have no password in them."""
        try:
            yield
        except (LDAPCommunicationError, LDAPResponseTimeoutError, LDAPStartTLSError) as error:
            trouble, kind = (self._tls.trouble, self._tls.kind) if self._tls else ("", FailureKind.TEMPORARY)
            if isinstance(error, LDAPStartTLSError) and not trouble:
                trouble, kind = f"{clean(error)}; if it does not offer StartTLS, use ldaps://", FailureKind.BROKEN
            raise UnreachableError(f"{self.url}: {trouble or _told(error)}", kind=kind) from None
        except OSError as error:
            raise UnreachableError(f"{self.url}: {error.strerror or clean(error)}") from None
        except LDAPInvalidFilterError:
            raise SourceError(f"the filter {self._config.filter!r} is malformed", kind=FailureKind.BROKEN) from None
        except (LDAPException, LookupError, ValueError, TypeError, AttributeError) as error:
            text = f"{self.url}: its answer cannot be understood: {type(error).__name__}: {clean(error)}"
            raise SourceError(text, kind=FailureKind.BROKEN) from None


def _identity(config: Config) -> dict[str, Any]:
    """Give who we say we are, as arguments of a Connection."""
    if config.bind_dn:
        assert config.password_file is not None  # noqa: S101 - problems() sees to it
        return {
            "user": config.bind_dn,
            "password": read_secret(config.password_file).encode(),  # a text would be changed by SASLprep
            "authentication": ldap3.SIMPLE,
        }
    if config.client_cert_file:
        return {"authentication": ldap3.SASL, "sasl_mechanism": ldap3.EXTERNAL, "sasl_credentials": ""}
    return {"authentication": ldap3.ANONYMOUS}


def _told(error: Exception) -> str:
    """Give the text of an error; where several addresses of a host were tried, that of each."""
    several = error.args[1] if len(error.args) > 1 and isinstance(error.args[1], list) else []
    return "; ".join(f"{clean(one)} ({where[0]})" for one, where in several) or clean(error)


def clean(text: object) -> str:
    """Make a foreign text fit a line of ours."""
    shown = "".join(char if char.isprintable() else " " for char in str(text or ""))
    return " ".join(shown.split())[:_CLIP]


def _quoted(said: str) -> str:
    return f" “{said}”" if said else ""
