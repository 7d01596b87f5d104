"""Which addresses an entry has: the directory's own syntax is undone here, Postfix's rules are not known here."""

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
"""As the server spells them: ``mail``, ``mail;lang-de``; None where an attribute has no value."""

_UUID_LENGTH = 16
_SHOWN = 200


@dataclass(frozen=True, slots=True)
class Found:
    """An entry of the directory: its DN, and its attributes as octets."""

    dn: str
    attributes: Attributes

    @classmethod
    def of(cls, response: Mapping[str, Any]) -> Found:
        """Take it from an entry as ldap3 gives it."""
        return cls(response["dn"], response["raw_attributes"])

    def values(self, name: str) -> list[bytes]:
        """Give the values of an attribute, its options (``;lang-de``) included; the server may spell it another way."""
        wanted = _base_name(name)
        several = [values for spelled, values in self.attributes.items() if values and _base_name(spelled) == wanted]
        return several[0] if len(several) == 1 else [value for values in several for value in values]

    def key(self, attribute: str) -> str | None:
        """Give the entry's own key: a UUID, as octets (objectGUID, least significant first) or as text, or a text."""
        values = self.values(attribute)
        if not values:
            return None
        if attribute == "objectGUID" and len(values[0]) == _UUID_LENGTH:
            return str(UUID(bytes_le=values[0]))
        return values[0][:MAX_SPELLED].decode("ascii", "backslashreplace").lower()


def _base_name(spelled: str) -> str:
    """Return an attribute's name without options, in lower case; of one over the limit, the start."""
    return _known_name(spelled[:MAX_SPELLED])


@lru_cache(maxsize=256)
def _known_name(spelled: str) -> str:
    return spelled.partition(";")[0].lower()


@dataclass(slots=True)
class Reading:
    """Reads the addresses of entries, and tells the sink of what is none."""

    sink: Sink
    attributes: tuple[str, ...]
    identity: str

    def entries(self, found: Found, key: str) -> list[Entry]:
        """Give the addresses of one entry, each once.

        Raises SourceError for an attribute that nobody asked for by that name: a server answers by the first of an
        attribute's names, or with one that is derived from it (RFC 4512, 2.5).
        """
        foreign_names = set(map(_base_name, found.attributes)).difference(
            map(_base_name, (*self.attributes, self.identity))
        )
        if foreign_names:
            name = "".join(char for char in min(foreign_names)[:_SHOWN] if char.isprintable())
            text = f"the server answers with {name!r}, which attributes does not name: give it by that name"
            raise SourceError(text, kind=FailureKind.BROKEN)
        taken: dict[Entry, None] = {}
        foreign = 0
        for name in self.attributes:
            prefixed = _base_name(name) in PREFIXED
            for octets in found.values(name):
                try:
                    spelled = octets.decode()
                except UnicodeDecodeError:
                    self.sink.reject(octets[:MAX_SPELLED].decode(errors="backslashreplace"), "is not UTF-8", key)
                    continue
                if reason := too_long(spelled):
                    self.sink.reject(spelled, reason, key)
                    continue
                address = _of_mail(spelled) if prefixed else spelled
                if address is None:
                    foreign += 1
                else:
                    taken[address, key, found.dn] = None
        if foreign or not taken:
            self.sink.ignore(foreign or 1)
        return list(taken)


def _of_mail(value: str) -> str | None:
    """Give the mail address of a proxyAddresses value: ``smtp:`` in any case, or no type at all; else None."""
    kind, colon, rest = value.partition(":")
    if not colon or "@" in kind:
        rest = value
    elif kind.lower() != "smtp":
        return None
    return None if rest.startswith("{") else rest
