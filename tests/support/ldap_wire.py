"""LDAP messages as a server reads and writes them, with the controls for pages and for content synchronisation."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple
from uuid import UUID

from tests.support.ber import (
    BOOLEAN,
    ENUMERATED,
    INTEGER,
    OCTETS,
    SEQUENCE,
    SET,
    BerError,
    boolean,
    expect,
    integer,
    items,
    number,
    octets,
    sequence,
    tlv,
)

Attributes = Mapping[str, Sequence[bytes | str]]

PAGED = "1.2.840.113556.1.4.319"
START_TLS = "1.3.6.1.4.1.1466.20037"
SYNC_REQUEST, SYNC_STATE, SYNC_DONE, SYNC_INFO = (f"1.3.6.1.4.1.4203.1.9.1.{last}" for last in (1, 2, 3, 4))
_NOTICE = "1.3.6.1.4.1.1466.20036"

BIND_DONE, SEARCH_DONE, EXTENDED_DONE = 0x61, 0x65, 0x78
_ENTRY, _REFERENCE, _INTERMEDIATE = 0x64, 0x73, 0x79
_CONTROLS, _REFERRAL, _RESPONSE_NAME = 0xA0, 0xA3, 0x8A
_SIMPLE, _REQUEST_NAME = 0x80, 0x80
_BASE = 0

_UNAVAILABLE = 52

Op = Literal["bind", "unbind", "search", "extended", "abandon", "other"]
_OPS: Mapping[int, Op] = {0x60: "bind", 0x42: "unbind", 0x63: "search", 0x77: "extended", 0x50: "abandon"}
_STATES = ("present", "add", "modify", "delete")
_INFOS = {"newcookie": 0x80, "refreshDelete": 0xA1, "refreshPresent": 0xA2}
_ID_SET = 0xA3


class SyncEntry(NamedTuple):
    """An entry with a Sync State control; without one where its state is None."""

    state: Literal["present", "add", "modify", "delete"] | None
    uuid: UUID
    dn: str = ""
    attributes: Attributes | None = None
    cookie: bytes | None = None


class SyncIds(NamedTuple):
    """A syncIdSet: the entries that are deleted, or that are still there."""

    uuids: Sequence[UUID]
    refresh_deletes: bool = False
    cookie: bytes | None = None


class SyncInfo(NamedTuple):
    """Another Sync Info message."""

    kind: Literal["newcookie", "refreshDelete", "refreshPresent"]
    cookie: bytes | None = None
    refresh_done: bool = True


class SyncDone(NamedTuple):
    """The end of a refresh, with or without a Sync Done control."""

    code: int = 0
    cookie: bytes | None = None
    refresh_deletes: bool = False
    control: bool = True
    message: str = ""


@dataclass(frozen=True)
class Request:
    """What a client asked for, and on which connection, the first of which is 1."""

    connection: int
    message_id: int
    op: Op
    base: str = ""
    scope: int = _BASE
    size_limit: int = 0
    attributes: tuple[str, ...] = ()
    controls: tuple[str, ...] = ()
    critical: tuple[str, ...] = ()
    page_size: int | None = None
    page_cookie: bytes | None = None
    sync_mode: int | None = None
    sync_cookie: bytes | None = None
    password: str | None = None  # of a bind; None if it is by other means
    name: str = ""  # of a bind or an extended request


def parse(message: bytes, connection: int) -> Request:
    """Read a request, strictly as far as it is looked at."""
    ((tag, content),) = items(message)
    message_id, operation, *rest = items(expect((tag, content), SEQUENCE))
    request: dict[str, object] = {
        "connection": connection,
        "message_id": number(expect(message_id, INTEGER)),
        "op": _OPS.get(operation[0], "other"),
    }
    if request["op"] == "bind":
        _, name, (method, credentials) = items(operation[1])
        request["name"] = _text(name)
        request["password"] = credentials.decode() if method == _SIMPLE else None
    elif request["op"] == "extended":
        request["name"] = expect(items(operation[1])[0], _REQUEST_NAME).decode()
    elif request["op"] == "search":
        base, scope, _aliases, size_limit, _time_limit, _types_only, _filter, attributes = items(operation[1])
        request["base"] = _text(base)
        request["scope"] = number(expect(scope, ENUMERATED))
        request["size_limit"] = number(expect(size_limit, INTEGER))
        request["attributes"] = tuple(map(_text, items(expect(attributes, SEQUENCE))))
    if rest:
        request |= _controls(expect(rest[0], _CONTROLS))
    return Request(**request)  # type: ignore[arg-type]


def _controls(content: bytes) -> dict[str, object]:
    """Read the controls of a request."""
    found: dict[str, object] = {}
    oids, critical = [], []
    for control in items(content):
        name, *rest = items(expect(control, SEQUENCE))
        oids.append(_text(name))
        if rest and rest[0][0] == BOOLEAN and rest.pop(0)[1] != b"\x00":
            critical.append(oids[-1])
        if oids[-1] == PAGED:
            size, cookie = items(_only(expect(rest[0], OCTETS)))
            found |= {"page_size": number(expect(size, INTEGER)), "page_cookie": expect(cookie, OCTETS)}
        elif oids[-1] == SYNC_REQUEST:
            mode, *given = items(_only(expect(rest[0], OCTETS)))
            cookies = [value for tag, value in given if tag == OCTETS]
            found |= {"sync_mode": number(expect(mode, ENUMERATED)), "sync_cookie": cookies[0] if cookies else None}
    return found | {"controls": tuple(oids), "critical": tuple(critical)}


def _only(content: bytes) -> bytes:
    """Give the content of the one SEQUENCE that is here."""
    found = items(content)
    if len(found) != 1:
        raise BerError(f"{len(found)} items where one belongs")
    return expect(found[0], SEQUENCE)


def _text(item: tuple[int, bytes]) -> str:
    """Read an OCTET STRING of UTF-8."""
    return expect(item, OCTETS).decode()


def _message(message_id: int, operation: bytes, *controls: bytes) -> bytes:
    """Write a message with its controls."""
    return sequence(integer(message_id), operation, tlv(_CONTROLS, *controls) if controls else b"")


def result(
    message_id: int,
    tag: int,
    code: int,
    message: str = "",
    *controls: bytes,
    referrals: Sequence[str] = (),
) -> bytes:
    """Write the result that ends an operation."""
    urls = tlv(_REFERRAL, *map(octets, referrals)) if referrals else b""
    content = (integer(code, ENUMERATED), octets(""), octets(message), urls)
    return _message(message_id, tlv(tag, *content), *controls)


def notice() -> bytes:
    """Write a notice of disconnection."""
    content = (integer(_UNAVAILABLE, ENUMERATED), octets(""), octets("going down"), tlv(_RESPONSE_NAME, _NOTICE))
    return _message(0, tlv(EXTENDED_DONE, *content))


def entry(message_id: int, dn: str, attributes: Attributes, *controls: bytes) -> bytes:
    """Write an entry that a search found."""
    listed = (sequence(octets(name), tlv(SET, *map(octets, values))) for name, values in attributes.items())
    return _message(message_id, tlv(_ENTRY, octets(dn), sequence(*listed)), *controls)


def reference(message_id: int, urls: Sequence[str]) -> bytes:
    """Write a reference to where the search might go on."""
    return _message(message_id, tlv(_REFERENCE, *map(octets, urls)))


def page_control(cookie: bytes, estimate: int = 0) -> bytes:
    """Write what a page ends with: the cookie for the next one, empty after the last, and how many there are."""
    return _control(PAGED, sequence(integer(estimate), octets(cookie)))


def sync_message(message_id: int, item: SyncEntry | SyncIds | SyncInfo | SyncDone) -> bytes:
    """Write a message of content synchronisation."""
    cookie = b"" if item.cookie is None else octets(item.cookie)
    if isinstance(item, SyncEntry):
        if item.state is None:
            return entry(message_id, item.dn, item.attributes or {})
        state = integer(_STATES.index(item.state), ENUMERATED)
        control = _control(SYNC_STATE, sequence(state, octets(item.uuid.bytes), cookie))
        return entry(message_id, item.dn, item.attributes or {}, control)
    if isinstance(item, SyncDone):
        value = sequence(cookie, boolean(value=True) if item.refresh_deletes else b"")
        controls = [_control(SYNC_DONE, value)] if item.control else []
        return result(message_id, SEARCH_DONE, item.code, item.message, *controls)
    if isinstance(item, SyncIds):
        uuids = tlv(SET, *(octets(uuid.bytes) for uuid in item.uuids))
        info = tlv(_ID_SET, cookie, boolean(value=True) if item.refresh_deletes else b"", uuids)
    elif item.kind == "newcookie":
        info = tlv(_INFOS[item.kind], item.cookie or b"")
    else:
        info = tlv(_INFOS[item.kind], cookie, b"" if item.refresh_done else boolean(value=False))
    return _message(message_id, tlv(_INTERMEDIATE, tlv(0x80, SYNC_INFO), tlv(0x81, info)))


def _control(oid: str, value: bytes) -> bytes:
    """Write a control of a response."""
    return sequence(octets(oid), octets(value))
