"""What to ask each directory product for: a filter, the attributes that have addresses, and the key of an entry.

Active Directory: Microsoft's "Active Directory Schema" (proxyAddresses, mail, userAccountControl). FreeIPA: the
mailRecipient class of 389 Directory Server. Zimbra: the look-ups of its own Postfix (ldap-vmm, ldap-vam).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from syncagent.sources.ldap import Config

ENTRY_UUID = "entryUUID"
"""RFC 4530; the key that sync mode needs."""

PREFIXED = frozenset({"proxyaddresses"})
"""Attributes whose values begin with a type: ``SMTP:`` or ``smtp:``, and others that are no mail addresses."""


@dataclass(frozen=True, slots=True)
class Preset:
    """A filter, attributes with addresses, the one that identifies an entry, and what leaves out disabled ones."""

    filter: str
    attributes: tuple[str, ...]
    key: str = ENTRY_UUID
    enabled: str = ""


PRESETS = {
    "active-directory": Preset(
        filter="(|(proxyAddresses=*)(mail=*))",  # users, groups, contacts, rooms, public folders: whatever has mail
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


def wanted(config: Config) -> Preset:
    """Give what to ask for: the preset's, but for what the configuration says itself."""
    preset = PRESETS[config.preset] if config.preset else Preset("", ("mail",), ENTRY_UUID)
    attributes = config.attributes or preset.attributes
    chosen = config.filter or (preset.filter if not config.attributes else "") or _any_of(attributes)
    if config.exclude_disabled:
        chosen = f"(&{chosen}{preset.enabled})"
    return Preset(chosen, attributes, preset.key, preset.enabled)


def _any_of(attributes: tuple[str, ...]) -> str:
    presence = "".join(f"({name}=*)" for name in attributes)
    return presence if len(attributes) == 1 else f"(|{presence})"
