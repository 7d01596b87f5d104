"""Sync answers (RFC 4533) that are malformed: each is one plain error, never a deletion."""

from typing import Any
from uuid import UUID

import pytest

from syncagent.sources.ldap import content_sync
from syncagent.sources.ldap.content_sync import SYNC_DONE, SYNC_STATE
from syncagent.sources.ldap.content_sync import _changes as changes
from syncagent.sources.ldap.content_sync import _tlv as tlv

SEQUENCE, OCTETS, ENUMERATED = 0x30, 0x04, 0x0A
UUID_OCTETS = tlv(OCTETS, UUID(int=1).bytes)
DONE = tlv(SEQUENCE, tlv(OCTETS, b"cookie"))


def message(**keys: Any) -> dict[str, Any]:  # noqa: ANN401 - any key of a message
    """Return a searchResEntry message as ldap3 decodes it."""
    return {"type": "searchResEntry", "dn": "cn=a", "raw_attributes": {}, **keys}


def state(value: bytes) -> dict[str, Any]:
    """Return a message with a sync state control of this value."""
    return message(controls={SYNC_STATE: {"value": value}})


MALFORMED: dict[str, tuple[dict[str, Any], str]] = {
    "no controls": (message(), "entry without sync state"),
    "another control": (message(controls={SYNC_DONE: {"value": DONE}}), "entry without sync state"),
    "empty control": (state(b""), "missing BER value"),
    "tag alone": (state(b"\x30"), "truncated BER value"),
    "length too large": (state(b"\x30\x05\x0a"), "truncated BER value"),
    "length cut": (state(b"\x30\x82\x01"), "truncated BER value"),
    "no UUID": (state(tlv(SEQUENCE, tlv(ENUMERATED, b"\1"))), "sync state without entryUUID"),
    "short UUID": (state(tlv(SEQUENCE, tlv(ENUMERATED, b"\1") + tlv(OCTETS, b"x"))), "entryUUID with 1 octets"),
    "unknown state": (state(tlv(SEQUENCE, tlv(ENUMERATED, b"\7") + UUID_OCTETS)), "unknown sync state 7"),
}


@pytest.mark.parametrize("how", MALFORMED)
def test_a_malformed_entry(how: str) -> None:
    """An entry without a usable sync state is a ValueError in plain words, which ``refresh`` reports."""
    wrong, text = MALFORMED[how]
    with pytest.raises(ValueError, match=f"^{text}$"):
        changes(None, [wrong], DONE, b"")  # type: ignore[arg-type] # it ends before the search is used


@pytest.mark.parametrize("value", [b"", b"\x30", b"\x04\x05a"])
def test_a_malformed_id_set(value: bytes) -> None:
    """A sync info message that is cut is a ValueError in plain words."""
    wrong = {"type": "intermediateResponse", "responseName": content_sync.SYNC_INFO, "responseValue": value}
    with pytest.raises(ValueError, match=r"^(missing|truncated) BER value$"):
        changes(None, [wrong], DONE, b"")  # type: ignore[arg-type] # it ends before the search is used
