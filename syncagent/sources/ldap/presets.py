"""Presets of directory products: the filter, the attributes that have addresses, and the identifier of an entry.

Active Directory: Microsoft's "Active Directory Schema" (proxyAddresses, mail, userAccountControl). FreeIPA: the
mailRecipient class of 389 Directory Server. Zimbra: the LDAP tables of its own Postfix (ldap-vmm, ldap-vam).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from syncagent.sources.ldap import Config

ENTRY_UUID = "entryUUID"
"""The identifier of an entry (RFC 4530), which sync mode requires."""

PREFIXED = frozenset({"proxyaddresses"})
"""Attributes in lower case whose values begin with a type: ``smtp:`` in any case, or one that is not mail."""


@dataclass(frozen=True, slots=True)
class Preset:
    """What to search for: the filter, the attributes with addresses, and the attribute that identifies an entry.

    ``enabled`` is a filter for accounts that are not disabled.
    """

    filter: str
    attributes: tuple[str, ...]
    key: str = ENTRY_UUID
    enabled: str = ""


PRESETS = {
    "active-directory": Preset(
        filter="(|(proxyAddresses=*)(mail=*))",  # users, groups, contacts, rooms, public folders
        attributes=("proxyAddresses", "mail"),
        key="objectGUID",
        # groups and contacts have no userAccountControl; 2 is ACCOUNTDISABLE
        enabled="(|(!(userAccountControl=*))(!(userAccountControl:1.2.840.113556.1.4.803:=2)))",
    ),
    "openldap": Preset(filter="(mail=*)", attributes=("mail",)),
    "freeipa": Preset(
        filter="(|(mail=*)(mailAlternateAddress=*))",
        attributes=("mail", "mailAlternateAddress"),
        key="ipaUniqueID",
    ),
    "zimbra": Preset(
        filter="(&(|(mail=*)(zimbraMailDeliveryAddress=*)(zimbraMailAlias=*)(zimbraMailCatchAllAddress=*))"
        "(!(zimbraMailStatus=disabled)))",
        attributes=(
            "mail",
            "zimbraMailDeliveryAddress",
            "zimbraMailAlias",
            "zimbraOldMailAddress",
            "zimbraMailCatchAllAddress",
        ),
    ),
}


def resolve(config: Config) -> Preset:
    """Return what to search for: the preset with the configured filter and attributes.

    Attributes without a filter search for entries that have one of them. ``exclude_disabled`` restricts the filter.
    """
    preset = PRESETS[config.preset] if config.preset else Preset("", ("mail",), ENTRY_UUID)
    attributes = config.attributes or preset.attributes
    filter_text = config.filter or (preset.filter if not config.attributes else "") or _any_of(attributes)
    if config.exclude_disabled:
        filter_text = f"(&{filter_text}{preset.enabled})"
    return Preset(filter_text, attributes, preset.key, preset.enabled)


def _any_of(attributes: tuple[str, ...]) -> str:
    """Return a filter for entries that have one of the attributes."""
    presence = "".join(f"({name}=*)" for name in attributes)
    return presence if len(attributes) == 1 else f"(|{presence})"
