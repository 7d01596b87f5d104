"""The directory of ``tests.support.month``: a real slapd with two units, one of which can be hidden."""

from collections.abc import Iterable
from pathlib import Path

from tests.support.slapd import SUFFIX, SYNC, SYNC_PASSWORD, Slapd

DOMAIN = "staff.example"
FIELD = 5
"""Number of people of the smaller unit, of those named ``staff00`` on."""
_UNITS = ("office", "field")
_HIDDEN = {
    "hidden": f'access to dn.subtree="ou=field,{SUFFIX}" by dn.exact="{SYNC}" none by * break',
    "unreadable": f'access to dn.subtree="ou=field,{SUFFIX}" attrs=mail by dn.exact="{SYNC}" search by * break',
}


class Directory(Slapd):
    """A slapd with people in two units, named by their addresses."""

    def __init__(self, directory: Path) -> None:
        """``directory`` gets the file with the password of the account that may read it."""
        super().__init__()
        self._there: set[str] = set()
        self._password = directory / "directory-password"
        self._password.write_text(SYNC_PASSWORD, encoding="utf-8")
        self._password.chmod(0o600)

    def start(self) -> None:
        """Start it; the first time, add the units."""
        super().start()
        if not self._there:
            for unit in _UNITS:
                self.add(f"ou={unit},{SUFFIX}", objectClass=["organizationalUnit"], ou=unit)

    @property
    def settings(self) -> dict[str, object]:
        """The source's keys."""
        return {
            "type": "ldap",
            "url": self.url,
            "base": SUFFIX,
            "bind_dn": SYNC,
            "password_file": str(self._password),
            "insecure": True,
            "mode": "poll",
        }

    def have(self, addresses: Iterable[str]) -> None:
        """Add and delete people, so that it has these addresses."""
        wanted = set(addresses)
        for address in sorted(self._there - wanted):
            self.delete(_dn(address))
        for address in sorted(wanted - self._there):
            self.add(_dn(address), uid=address.partition("@")[0], mail=address)
        self._there = wanted

    def hide(self, how: str) -> None:
        """Hide the smaller unit: ``hidden`` its entries, or ``unreadable`` their addresses."""
        self.restart(config=_HIDDEN[how])

    def show(self) -> None:
        """Hide nothing."""
        self.restart(config="")


def is_field(address: str) -> bool:
    """True if somebody belongs to the smaller unit."""
    name = address.partition("@")[0]
    return name.startswith("staff") and int(name.removeprefix("staff")) < FIELD


def _dn(address: str) -> str:
    unit = "field" if is_field(address) else "office"
    return f"uid={address.partition('@')[0]},ou={unit},{SUFFIX}"
