"""Entries of a directory, and the addresses in their attributes, as spelled there: the sink normalizes them."""

from __future__ import annotations

import contextlib
import re
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any
from uuid import UUID

from syncagent.addresses import MAX_SPELLED, UnusableError, too_long
from syncagent.errors import FailureKind, SourceError, printable
from syncagent.invisible import trimmed
from syncagent.sources.ldap.presets import PREFIXED
from syncagent.values.readable import address_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from syncagent.model import Entry
    from syncagent.sources import Sink

Attributes = dict[str, list[bytes] | None]
"""Values by attribute description as the server spells it: ``mail``, ``mail;lang-de``; None for no value."""

_DN = re.compile(r"\s*[A-Za-z0-9][A-Za-z0-9.-]*\s*=")
_UUID_LENGTH = 16
_SHOWN = 200


@dataclass(frozen=True, slots=True)
class DirectoryEntry:
    """An entry of the directory: its DN, and its attribute values as octets."""

    dn: str
    attributes: Attributes

    @property
    def has_dn(self) -> bool:
        """True if the DN begins with an attribute type and an equals sign (RFC 4514)."""
        return _DN.match(self.dn) is not None

    @classmethod
    def of(cls, message: Mapping[str, Any]) -> DirectoryEntry:
        """Return the entry of a searchResEntry message as ldap3 decodes it."""
        return cls(message["dn"], message["raw_attributes"])

    def values(self, name: str) -> list[bytes]:
        """Return the values of an attribute, including those with options (``;lang-de``). Case of names is ignored."""
        wanted = base_name(name)
        matches = [values for spelled, values in self.attributes.items() if values and base_name(spelled) == wanted]
        return matches[0] if len(matches) == 1 else [value for values in matches for value in values]

    def key(self, attribute: str) -> str | None:
        """Return the first value of an attribute as key of the entry, in lower case; None if it has no value.

        objectGUID is 16 octets with the first three fields in little-endian order, and is returned as a UUID. Other
        attributes are text, of which the first MAX_SPELLED octets are used.
        """
        values = self.values(attribute)
        if not values:
            return None
        if attribute == "objectGUID" and len(values[0]) == _UUID_LENGTH:
            return str(UUID(bytes_le=values[0]))
        return values[0][:MAX_SPELLED].decode("ascii", "backslashreplace").lower()


def base_name(spelled: str) -> str:
    """Return an attribute's name without options, in lower case, cut to MAX_SPELLED characters."""
    return _cached_base_name(spelled[:MAX_SPELLED])


@lru_cache(maxsize=256)
def _cached_base_name(spelled: str) -> str:
    return spelled.partition(";")[0].lower()


@dataclass(slots=True)
class AddressReader:
    """A reader of the addresses in ``attributes``, which records rejects and ignored values in ``sink``.

    ``key_attribute`` is the other attribute that the search requests.
    """

    sink: Sink
    attributes: tuple[str, ...]
    key_attribute: str

    def addresses(self, entry: DirectoryEntry, key: str) -> list[Entry]:
        """Return the addresses of a directory entry, each once, as entries of a source with this key.

        Raises SourceError if the entry has an attribute that was not requested by that name: a server may return
        another name of the same attribute, or a subtype of it (RFC 4512, 2.5).
        """
        self._check_names(entry)
        entries: dict[Entry, None] = {}
        foreign = 0
        for name in self.attributes:
            prefixed = base_name(name) in PREFIXED
            for octets in entry.values(name):
                spelled = self._text(octets, key)
                if spelled is None:
                    continue
                address = of_mail(spelled) if prefixed else spelled
                if address is None:
                    foreign += 1
                else:
                    entries[address, key, entry.dn] = None
        if foreign or not entries:
            self.sink.ignore(foreign or 1)
        return list(entries)

    def _check_names(self, entry: DirectoryEntry) -> None:
        requested = set(map(base_name, (*self.attributes, self.key_attribute)))
        foreign = set(map(base_name, entry.attributes)) - requested
        if foreign:
            name = printable(min(foreign), _SHOWN)
            text = f'the server returned attribute "{name}", which was not requested: use that name in attributes'
            raise SourceError(text, kind=FailureKind.BROKEN)

    def _text(self, octets: bytes, key: str) -> str | None:
        """Return a value as text. If it is not UTF-8 or too long, record a reject and return None."""
        try:
            text = octets.decode()
        except UnicodeDecodeError:
            spelled = octets[:MAX_SPELLED].decode(errors="backslashreplace")
            self.sink.reject(spelled, "is not UTF-8: correct the value in the directory", key, octets)
            return None
        if reason := too_long(text):
            self.sink.reject(text, reason, key, octets)
            return None
        return text


def canonical_addresses(entry: DirectoryEntry, attributes: Sequence[str]) -> set[str]:
    """Return the canonical addresses of an entry in ``attributes``; values that are no addresses are left out."""
    addresses: set[str] = set()
    for name in attributes:
        for octets in entry.values(name):
            spelled: str | None = octets[: MAX_SPELLED + 1].decode(errors="surrogateescape")
            if base_name(name) in PREFIXED:
                spelled = of_mail(spelled or "")
            with contextlib.suppress(UnusableError):
                addresses.add(address_of(spelled or ""))
    return addresses


def of_mail(value: str) -> str | None:
    """Return the mail address in a proxyAddresses value; None for another type than ``smtp:``, or a GUID in braces.

    A value without a type is a mail address.
    """
    kind, colon, rest = value.partition(":")
    if not colon or "@" in kind:
        rest = value
    elif trimmed(kind).lower() != "smtp":
        return None
    return None if trimmed(rest).startswith("{") else rest
