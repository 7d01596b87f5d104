"""Presets of directory products: the filter, the attributes with addresses, and the attribute that identifies an entry.

Active Directory: Microsoft's "Active Directory Schema" (proxyAddresses, mail, userAccountControl). FreeIPA: the
mailRecipient class of 389 Directory Server. Zimbra: the LDAP tables of its own Postfix (ldap-vmm, ldap-vam).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from syncagent.sources.ldap import Config

ENTRY_UUID = "entryUUID"
"""The attribute that identifies an entry in sync mode (RFC 4530)."""

PREFIXED = frozenset({"proxyaddresses"})
"""Names, in lower case, of attributes whose values begin with an address type, such as ``smtp:`` or ``X500:``."""


@dataclass(frozen=True, slots=True)
class Preset:
    """The parameters of a search: filter, attributes with addresses, and the attribute that identifies an entry.

    ``enabled`` is a filter that excludes disabled accounts.
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
    """Return the preset with the configured filter and attributes in place of its own.

    With attributes but no filter configured, the filter matches entries that have any of these attributes.
    With ``exclude_disabled``, entries must also match ``enabled``.
    """
    preset = PRESETS[config.preset] if config.preset else Preset("", ("mail",), ENTRY_UUID)
    attributes = config.attributes or preset.attributes
    filter_text = config.filter or (preset.filter if not config.attributes else "") or _any_of(attributes)
    if config.exclude_disabled:
        filter_text = f"(&{filter_text}{preset.enabled})"
    return Preset(filter_text, attributes, preset.key, preset.enabled)


def _any_of(attributes: tuple[str, ...]) -> str:
    """Return a filter for entries that have any of the attributes."""
    presence = "".join(f"({name}=*)" for name in attributes)
    return presence if len(attributes) == 1 else f"(|{presence})"
