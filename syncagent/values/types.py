"""The values a configuration is made of: each knows how it is spelled and says what is wrong with it.

Every type has a ``parse`` class method that raises ValueError with a text for people. Source kinds use them in
their own ``Config``.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import date
from itertools import pairwise
from pathlib import Path
from typing import Any, Self

from syncagent import addresses as normalise

_TEN_YEARS = range(date(2024, 1, 1).toordinal(), date(2034, 1, 1).toordinal())
_CLIP = 100
_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}
INDEX_SUFFIX = {"hash": ".db", "btree": ".db", "lmdb": ".lmdb", "cdb": ".cdb", "texthash": ""}
"""Map types that can be published, with the usual suffix of their index (none for texthash)."""


def _shown(value: object) -> str:
    """Return a value as a message shows it: quoted, and the start of one that is long."""
    text = repr(value[:_CLIP] if isinstance(value, str) else value)
    return f"{text[:_CLIP]}..." if len(text) > _CLIP else text


class Duration(float):
    """A span of time in seconds, spelled ``90s``, ``5m``, ``1h``, ``7d`` or ``1h30m``."""

    __slots__ = ()

    @classmethod
    def parse(cls, value: object) -> Self:
        """Read the spelling; a bare number is refused, since nobody can tell its unit."""
        text = value if isinstance(value, str) else ""
        parts = re.findall(r"([0-9]{1,9})([smhdw])", text)
        if not parts or "".join(number + unit for number, unit in parts) != text:
            raise ValueError(f'expected a time such as "90s", "5m", "1h" or "7d", not {_shown(value)}')
        return cls(sum(int(number) * _UNITS[unit] for number, unit in parts))

    def __str__(self) -> str:
        """Spell it in the largest units."""
        return spell_seconds(float(self))


def spell_seconds(seconds: float) -> str:
    """Spell a span for people: ``0s``, ``90s`` as ``1m30s``, at most two units."""
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
        """Read the spelling; a bare number is refused, since nobody can tell its unit."""
        found = re.fullmatch(r"([0-9]{1,9})([KMG])", value) if isinstance(value, str) else None
        if found is None:
            raise ValueError(f'expected a size such as "64K", "20M" or "2G", not {_shown(value)}')
        return cls(int(found[1]) << {"K": 10, "M": 20, "G": 30}[found[2]])

    def __str__(self) -> str:
        """Spell it in the largest unit that fits."""
        unit, shift = next(
            ((unit, by) for unit, by in (("G", 30), ("M", 20)) if not int(self) & (1 << by) - 1), ("K", 10)
        )
        return f"{int(self) >> shift}{unit}"


class Cron(str):
    """Times as crontab(5) has them, in five fields; days of the week are kept by their names."""

    __slots__ = ()

    _DAYS = ("sun", "mon", "tue", "wed", "thu", "fri", "sat", "sun")
    _LENGTHS = (31, 29, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31)
    _RANGES = (("minute", 0, 59), ("hour", 0, 23), ("day of the month", 1, 31), ("month", 1, 12))

    @classmethod
    def parse(cls, value: object) -> Self:
        """Read the five fields."""
        fields = value.split() if isinstance(value, str) else []
        if len(fields) != len(cls._RANGES) + 1:
            raise ValueError(f'expected five fields as in crontab(5), such as "*/5 * * * *", not {_shown(value)}')
        read = [cls._check(text, *known) for text, known in zip(fields, cls._RANGES, strict=False)]
        first, longest = min(read[2]), max(cls._LENGTHS[month - 1] for month in read[3])
        if first > longest and fields[-1] == "*":
            raise ValueError(f"there is no day {first} in the month {fields[3][:_CLIP]}: it would never run")
        return cls(" ".join([*fields[:-1], cls._weekdays(fields[-1].lower())]))

    def longest(self) -> float:
        """Give the longest time between two of its runs, in seconds, of all in ten years of the calendar."""
        *fields, weekly = self.split()
        minutes, hours, days, months = (
            self._check(text, *known) for text, known in zip(fields, self._RANGES, strict=True)
        )
        times = sorted(60 * hour + minute for hour in hours for minute in minutes)
        weekdays = self._numbers(weekly)
        either = not fields[2].startswith("*") and weekly != "*"  # where both kinds of day are restricted

        def runs_on(day: date) -> bool:
            kinds = (day.day in days, day.weekday() in weekdays)
            return day.month in months and (any(kinds) if either else all(kinds))

        apart = max(later - day for day, later in pairwise(filter(runs_on, map(date.fromordinal, _TEN_YEARS)))).days
        within = max((later - time for time, later in pairwise(times)), default=0)
        return 60.0 * max(within, 24 * 60 * apart - times[-1] + times[0])

    @classmethod
    def _numbers(cls, weekly: str) -> set[int]:
        """Give the days of the week that names, or ranges of them, stand for; Monday is 0."""
        order, several = cls._DAYS[1:], set[int]()
        for part in weekly.replace("*", "mon-sun").split(","):
            first, _, last = part.partition("-")
            several |= set(range(order.index(first), order.index(last or first) + 1))
        return several

    @staticmethod
    def _check(text: str, name: str, low: int, high: int) -> set[int]:
        """Give what a field stands for; a step longer than its range is refused, as the scheduler does."""
        several: set[int] = set()
        for part in text.split(","):
            found = re.fullmatch(r"(?:\*|([0-9]{1,2})(?:-([0-9]{1,2}))?)(?:/([0-9]{1,2}))?", part)
            first, last = (int(found[1] or low), int(found[2] or found[1] or high)) if found else (1, 0)
            step = int(found[3]) if found and found[3] is not None else None
            if not low <= first <= last <= high or (step is not None and not 1 <= step <= last - first):
                raise ValueError(f"{_shown(part)} is no {name}: {low} to {high}, as in crontab(5)")
            several |= set(range(first, last + 1, step or 1))
        return several

    @classmethod
    def _weekdays(cls, text: str) -> str:
        """Spell days by name: whether a number counts from Sunday is told differently by others."""
        named = re.sub(r"(?<!/)(?<!\d)[0-7](?!\d)", lambda found: cls._DAYS[int(found[0])], text)
        order = [*cls._DAYS[1:]]
        for part in named.split(","):
            found = re.fullmatch(r"(?:\*|([a-z]{3})(?:-([a-z]{3}))?)(?:/([1-7]))?", part)
            days = [day for day in found.groups()[:2] if day] if found else [""]
            if not all(day in order for day in days) or (len(days) > 1 and order.index(days[0]) > order.index(days[1])):
                raise ValueError(f"{_shown(part)} is no day of the week: mon to sun, or 0 to 7, a range from mon on")
        return ",".join(cls._spelled_out(part) for part in named.split(","))

    @classmethod
    def _spelled_out(cls, part: str) -> str:
        """Spell out what has a step, as */2 or mon-fri/2: others begin */2 with Monday, and drop the step of names."""
        days, _, step = part.partition("/")
        if not step:
            return part
        first, _, last = days.partition("-")
        order = cls._DAYS[1:]
        several = cls._DAYS[:7] if days == "*" else order[order.index(first) : order.index(last or first) + 1]
        return ",".join(several[:: int(step)])


class Domain(str):
    """A mail domain, canonical: lower-case A-labels."""

    __slots__ = ()

    @classmethod
    def parse(cls, value: object) -> Self:
        """Read a domain in either IDN form."""
        if not isinstance(value, str) or "@" in value:
            raise ValueError(f"expected a domain such as example.com, not {_shown(value)}")
        try:
            return cls(normalise.canonical_domain(value))
        except normalise.UnusableError as error:
            raise ValueError(f"{_shown(value)} {error}") from None


class Address(str):
    """A recipient or a catch-all (``@domain``), canonical."""

    __slots__ = ()

    @classmethod
    def parse(cls, value: object) -> Self:
        """Read an address as any source may spell it."""
        if not isinstance(value, str):
            raise ValueError(f"expected an address such as user@example.com, not {_shown(value)}")  # noqa: TRY004 - one error type for the reader
        try:
            return cls(normalise.canonical(value))
        except normalise.UnusableError as error:
            raise ValueError(f"{_shown(value)} {error}") from None


@dataclass(frozen=True, slots=True)
class MapName:
    """A Postfix lookup table as main.cf names it: ``TYPE:PATH``, where a ``proxy:`` before it is allowed."""

    type: str
    path: Path
    spelled: str

    @classmethod
    def parse(cls, value: object) -> Self:
        """Read the name; only the types that postmap(1) can build from a text, and texthash."""
        text = value if isinstance(value, str) else ""
        kind, colon, path = text.removeprefix("proxy:").partition(":")
        if not colon or kind not in INDEX_SUFFIX:
            known = ", ".join(INDEX_SUFFIX)
            raise ValueError(
                f'expected TYPE:PATH as in main.cf, TYPE one of {known}, such as "lmdb:/path", not {_shown(value)}'
            )
        if not path.startswith("/") or path.endswith("/"):
            raise ValueError(f"the path must be absolute, as in main.cf, not {_shown(path)}")
        return cls(kind, Path(path), text)

    def __str__(self) -> str:
        """Give ``TYPE:PATH`` as postmap(1) takes it."""
        return f"{self.type}:{self.path}"


class SecretFile(str):
    """The name of a file that holds a secret: a path, or a bare name for a systemd credential."""

    __slots__ = ()


class RecipeFile(str):
    """The name of a recipe: one of ours by a bare name, or the path of a file."""

    __slots__ = ()


class Urls(tuple[str, ...]):
    """One URL or several, in the order in which they are tried."""

    __slots__ = ()

    @classmethod
    def parse(cls, value: object) -> Self:
        """Read a string, or an array of them."""
        several = [value] if isinstance(value, str) else value
        if not isinstance(several, list) or not several or not all(isinstance(one, str) and one for one in several):
            raise ValueError('expected a URL such as "ldaps://ldap.example.com", or an array of them')
        return cls(several)


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
"""The types above (and paths), with their JSON Schema."""
