"""Entries of a directory, and the addresses in their attributes. Postfix's rules are not applied here."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any
from uuid import UUID

from syncagent.addresses import MAX_SPELLED, too_long
from syncagent.errors import FailureKind, SourceError
from syncagent.sources.ldap.presets import PREFIXED

if TYPE_CHECKING:
    from collections.abc import Mapping

    from syncagent.model import Entry
    from syncagent.sources import Sink

Attributes = dict[str, list[bytes] | None]
"""Values by attribute description as the server spells it: ``mail``, ``mail;lang-de``; None for no value."""

_UUID_LENGTH = 16
_SHOWN = 200


@dataclass(frozen=True, slots=True)
class DirectoryEntry:
    """An entry of the directory: its DN, and its attributes as octets."""

    dn: str
    attributes: Attributes

    @classmethod
    def of(cls, message: Mapping[str, Any]) -> DirectoryEntry:
        """Return the entry of a searchResEntry message as ldap3 decodes it."""
        return cls(message["dn"], message["raw_attributes"])

    def values(self, name: str) -> list[bytes]:
        """Return the values of an attribute, including those with options (``;lang-de``). Names ignore case."""
        wanted = _base_name(name)
        matches = [values for spelled, values in self.attributes.items() if values and _base_name(spelled) == wanted]
        return matches[0] if len(matches) == 1 else [value for values in matches for value in values]

    def key(self, attribute: str) -> str | None:
        """Return the identifier of the entry in lower case, None if the attribute has no value.

        objectGUID is 16 octets with the first three fields in little-endian order; other attributes are text.
        """
        values = self.values(attribute)
        if not values:
            return None
        if attribute == "objectGUID" and len(values[0]) == _UUID_LENGTH:
            return str(UUID(bytes_le=values[0]))
        return values[0][:MAX_SPELLED].decode("ascii", "backslashreplace").lower()


def _base_name(spelled: str) -> str:
    """Return an attribute's name without options, in lower case, cut to MAX_SPELLED characters."""
    return _cached_base_name(spelled[:MAX_SPELLED])


@lru_cache(maxsize=256)
def _cached_base_name(spelled: str) -> str:
    return spelled.partition(";")[0].lower()


@dataclass(slots=True)
class AddressReader:
    """Reads the addresses of entries from ``attributes``, and records rejects and ignored values in the sink."""

    sink: Sink
    attributes: tuple[str, ...]
    key_attribute: str

    def addresses(self, entry: DirectoryEntry, key: str) -> list[Entry]:
        """Return the addresses of one entry, each once, as entries of a source.

        Raises SourceError if the entry has an attribute that was not requested by that name: a server may answer with
        another name of the same attribute, or with a subtype of it (RFC 4512, 2.5).
        """
        self._check_names(entry)
        entries: dict[Entry, None] = {}
        foreign = 0
        for name in self.attributes:
            prefixed = _base_name(name) in PREFIXED
            for octets in entry.values(name):
                spelled = self._text(octets, key)
                if spelled is None:
                    continue
                address = _of_mail(spelled) if prefixed else spelled
                if address is None:
                    foreign += 1
                else:
                    entries[address, key, entry.dn] = None
        if foreign or not entries:
            self.sink.ignore(foreign or 1)
        return list(entries)

    def _check_names(self, entry: DirectoryEntry) -> None:
        requested = set(map(_base_name, (*self.attributes, self.key_attribute)))
        foreign = set(map(_base_name, entry.attributes)) - requested
        if foreign:
            name = "".join(char for char in min(foreign)[:_SHOWN] if char.isprintable())
            text = f'the server returned attribute "{name}", which was not requested: use that name in attributes'
            raise SourceError(text, kind=FailureKind.BROKEN)

    def _text(self, octets: bytes, key: str) -> str | None:
        """Return a value as text; record a reject and return None if it is not UTF-8 or too long."""
        try:
            text = octets.decode()
        except UnicodeDecodeError:
            self.sink.reject(octets[:MAX_SPELLED].decode(errors="backslashreplace"), "is not UTF-8", key)
            return None
        if reason := too_long(text):
            self.sink.reject(text, reason, key)
            return None
        return text


def _of_mail(value: str) -> str | None:
    """Return the mail address in a proxyAddresses value; None if its type is not ``smtp:``, or it is a GUID in braces.

    A value without a type is a mail address.
    """
    kind, colon, rest = value.partition(":")
    if not colon or "@" in kind:
        rest = value
    elif kind.lower() != "smtp":
        return None
    return None if rest.startswith("{") else rest
