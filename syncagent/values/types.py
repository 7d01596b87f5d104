"""The types of configuration values. Source kinds use them in their own ``Config``.

Most have a class method ``parse``, which raises ValueError with a message for people. Path, SecretFile and RecipeFile
have none: ``toml_reader.Reader`` makes them, since relative paths depend on the file.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from syncagent import addresses as normalise
from syncagent.values.cron import Cron
from syncagent.values.quoting import quoted

_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}
INDEX_SUFFIX = {"hash": ".db", "btree": ".db", "lmdb": ".lmdb", "cdb": ".cdb", "texthash": ""}
"""Table types that can be published, with the suffix of their index file (none for texthash)."""

DOUBT_FILES = ("doubt-all", "alive", "doubt-switched", "doubt-switch-seen", "by-hand")
"""Names of the other files beside the doubt table, which cannot be its own name."""


def state_file(table: Path) -> Path:
    """Return the path of the file beside the map that has the ID of the state and its counter (see state.identity)."""
    return table.with_name(f".{table.name}.syncagent")


class Duration(float):
    """A duration in seconds, spelled ``90s``, ``5m``, ``1h``, ``7d`` or ``1h30m``."""

    __slots__ = ()

    @classmethod
    def parse(cls, value: object) -> Self:
        """Return the parsed duration. Raises ValueError if the value is not a string of numbers with units."""
        text = value if isinstance(value, str) else ""
        parts = re.findall(r"([0-9]{1,9})([smhdw])", text)
        if not parts or "".join(number + unit for number, unit in parts) != text:
            raise ValueError(f'expected a time such as "90s", "5m", "1h" or "7d", got {quoted(value)}')
        return cls(sum(int(number) * _UNITS[unit] for number, unit in parts))

    def __str__(self) -> str:
        """Return the duration as spell_seconds() spells it."""
        return spell_seconds(float(self))


def spell_seconds(seconds: float) -> str:
    """Return a time in seconds as text for people, rounded down to two units: ``0s``, ``1m30s``, ``7d``."""
    left, parts = int(seconds), []
    for unit, size in reversed(_UNITS.items()):
        if left >= size and unit != "w":
            parts.append(f"{left // size}{unit}")
            left %= size
    return "".join(parts[:2]) or "0s"


class Size(int):
    """A number of octets, spelled ``64K``, ``20M`` or ``2G``."""

    __slots__ = ()

    @classmethod
    def parse(cls, value: object) -> Self:
        """Return the parsed size. Raises ValueError if the value is not a string of one number with a unit."""
        match = re.fullmatch(r"([0-9]{1,9})([KMG])", value) if isinstance(value, str) else None
        if match is None:
            raise ValueError(f'expected a size such as "64K", "20M" or "2G", got {quoted(value)}')
        return cls(int(match[1]) << {"K": 10, "M": 20, "G": 30}[match[2]])

    def __str__(self) -> str:
        """Return the size in the largest unit that divides it: ``64K``."""
        unit, shift = next(
            ((unit, by) for unit, by in (("G", 30), ("M", 20)) if not int(self) & (1 << by) - 1), ("K", 10)
        )
        return f"{int(self) >> shift}{unit}"


class Domain(str):
    """A mail domain in canonical form: lower-case A-labels, or an address literal."""

    __slots__ = ()

    @classmethod
    def parse(cls, value: object) -> Self:
        """Return the canonical form of a domain in A-labels or U-labels.

        Raises ValueError if the value is not a domain, such as an address or a pattern.
        """
        if not isinstance(value, str) or "@" in value:
            raise ValueError(f'expected a domain such as "example.com", got {quoted(value)}')
        if value.startswith(("*.", ".")):
            plain = quoted(value.lstrip("*."))
            text = f"a pattern is no domain, got {quoted(value)}: write {plain}"
            raise ValueError(f"{text}; subdomains of a relay domain are in scope as well")
        try:
            return cls(normalise.canonical_domain(value))
        except normalise.UnusableError as error:
            raise ValueError(f"{quoted(value)} {error}") from None


class Address(str):
    """A recipient or a catch-all (``@domain``) in canonical form; see ``addresses``."""

    __slots__ = ()

    @classmethod
    def parse(cls, value: object) -> Self:
        """Return the canonical form of an address or catch-all. Raises ValueError if it cannot be a recipient."""
        if not isinstance(value, str):
            text = f'expected an address such as "user@example.com", got {quoted(value)}'
            raise ValueError(text)  # noqa: TRY004 - one error type for the reader
        try:
            return cls(normalise.canonical(value))
        except normalise.UnusableError as error:
            raise ValueError(f"{quoted(value)} {error}") from None


@dataclass(frozen=True, slots=True)
class TableName:
    """A lookup table of any type, as main.cf names it: ``TYPE:REST``, or ``proxy:TYPE:REST``."""

    type: str
    rest: str
    """The path of a table that is a file; its meaning for other tables depends on the type."""

    @classmethod
    def parse(cls, text: str) -> Self:
        """Return the parsed name, without ``proxy:``. ``rest`` is empty if there is no colon."""
        kind, _, rest = text.removeprefix("proxy:").partition(":")
        return cls(kind, rest)

    @property
    def path(self) -> Path | None:
        """Path of the table, without the suffix of its index file; None if ``rest`` is not an absolute path."""
        return Path(self.rest) if self.rest.startswith("/") else None

    def __str__(self) -> str:
        """Return ``TYPE:REST``, as postmap(1) takes it."""
        return f"{self.type}:{self.rest}"


@dataclass(frozen=True, slots=True)
class MapName:
    """A lookup table that can be published, as main.cf names it: ``TYPE:PATH``, or ``proxy:TYPE:PATH``.

    ``spelled`` is the name as configured.
    """

    type: str
    path: Path
    spelled: str

    @classmethod
    def parse(cls, value: object) -> Self:
        """Return the parsed name.

        Raises ValueError if the type is not in INDEX_SUFFIX, or if the path is not absolute or ends with a slash.
        """
        text = value if isinstance(value, str) else ""
        name = TableName.parse(text)
        kind, path = name.type, name.rest
        if not path or kind not in INDEX_SUFFIX:
            known = ", ".join(INDEX_SUFFIX)
            raise ValueError(
                f'expected TYPE:PATH as in main.cf, TYPE one of {known}, such as "lmdb:/path", got {quoted(value)}'
            )
        if not path.startswith("/") or path.endswith("/"):
            raise ValueError(f"the path must be absolute, as in main.cf, got {quoted(path)}")
        return cls(kind, Path(path), text)

    def __str__(self) -> str:
        """Return ``TYPE:PATH``, as postmap(1) takes it."""
        return f"{self.type}:{self.path}"


class SecretFile(str):
    """The name of a secret file: a path, or a bare name, for which see ``secrets.secret_path``."""

    __slots__ = ()


class RecipeFile(str):
    """The name of a recipe: the bare name of a shipped recipe, or the path of a file."""

    __slots__ = ()


class Urls(tuple[str, ...]):
    """URLs, at least one, in the order in which they are tried."""

    __slots__ = ()

    @classmethod
    def parse(cls, value: object) -> Self:
        """Return the URLs of a string or of an array of strings.

        Raises ValueError if the array is empty or an element is not a nonempty string.
        """
        urls = [value] if isinstance(value, str) else value
        if not isinstance(urls, list) or not urls or not all(isinstance(url, str) and url for url in urls):
            text = f'expected a URL such as "ldaps://ldap.example.com", or an array of URLs, got {quoted(value)}'
            raise ValueError(text)
        return cls(urls)


VALUES: dict[type, dict[str, Any]] = {
    Duration: {"type": "string", "pattern": r"^([0-9]{1,9}[smhdw])+$", "examples": ["90s", "5m", "1h"]},
    Cron: {"type": "string", "pattern": r"^\S+( +\S+){4}$", "examples": ["*/5 * * * *"]},
    Size: {"type": "string", "pattern": r"^[0-9]{1,9}[KMG]$", "examples": ["64K", "20M", "2G"]},
    Domain: {"type": "string", "examples": ["example.com"]},
    Address: {"type": "string", "examples": ["info@example.com", "@example.org"]},
    MapName: {"type": "string", "examples": ["lmdb:/var/lib/syncagent/relay_recipients"]},
    Path: {
        "type": "string",
        "description": "a path; a relative one is relative to the configuration file",
        "examples": ["/etc/syncagent/recipients"],
    },
    Urls: {
        "oneOf": [{"type": "string"}, {"type": "array", "minItems": 1, "items": {"type": "string"}}],
        "examples": ["ldaps://ldap.example.com"],
    },
    RecipeFile: {
        "type": "string",
        "description": "a shipped recipe's name, or the path of a file",
        "examples": ["mailcow"],
    },
    SecretFile: {"type": "string", "description": "a file with the secret, or the bare name of a credential"},
}
"""JSON Schema of the types that a configuration key may have besides those that msgspec converts by itself."""
