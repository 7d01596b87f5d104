"""Schedules in the syntax of crontab(5): five fields, parsed, validated and rewritten without ambiguity."""

from __future__ import annotations

import re
from datetime import date
from itertools import pairwise
from typing import Self

from syncagent.values.quoting import quoted

_TEN_YEARS = range(date(2024, 1, 1).toordinal(), date(2034, 1, 1).toordinal())


class Cron(str):
    """A schedule as five fields of crontab(5), with days of the week by name."""

    __slots__ = ()

    _DAYS = ("sun", "mon", "tue", "wed", "thu", "fri", "sat", "sun")
    _LENGTHS = (31, 29, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31)
    _RANGES = (("minute", 0, 59), ("hour", 0, 23), ("day of the month", 1, 31), ("month", 1, 12))

    @classmethod
    def parse(cls, value: object) -> Self:
        """Return the parsed schedule.

        Raises ValueError if the value is not five valid fields, or if the schedule never runs, as on 30 February.
        """
        fields = value.split() if isinstance(value, str) else []
        if len(fields) != len(cls._RANGES) + 1:
            raise ValueError(f'expected five fields as in crontab(5), such as "*/5 * * * *", got {quoted(value)}')
        numbers = [cls._field(text, *limits) for text, limits in zip(fields, cls._RANGES, strict=False)]
        first, longest = min(numbers[2]), max(cls._LENGTHS[month - 1] for month in numbers[3])
        if first > longest and fields[-1] == "*":
            raise ValueError(f"there is no day {first} in the month {fields[3][:100]}: it would never run")
        return cls(" ".join([*fields[:-1], cls._weekdays(fields[-1].lower())]))

    def longest(self) -> float:
        """Return the longest time between two runs in seconds, computed over the years 2024 to 2033."""
        *fields, weekly = self.split()
        minutes, hours, days, months = (
            self._field(text, *limits) for text, limits in zip(fields, self._RANGES, strict=True)
        )
        times = sorted(60 * hour + minute for hour in hours for minute in minutes)
        weekdays = self._numbers(weekly)
        either = not fields[2].startswith("*") and weekly != "*"  # crontab(5): if both kinds of day are restricted

        def runs_on(day: date) -> bool:
            kinds = (day.day in days, day.weekday() in weekdays)
            return day.month in months and (any(kinds) if either else all(kinds))

        apart = max(later - day for day, later in pairwise(filter(runs_on, map(date.fromordinal, _TEN_YEARS)))).days
        within = max((later - time for time, later in pairwise(times)), default=0)
        return 60.0 * max(within, 24 * 60 * apart - times[-1] + times[0])

    @classmethod
    def _numbers(cls, weekly: str) -> set[int]:
        """Return the weekdays of a parsed field, numbered as by date.weekday(): Monday is 0."""
        order, numbers = cls._DAYS[1:], set[int]()
        for part in weekly.replace("*", "mon-sun").split(","):
            first, _, last = part.partition("-")
            numbers |= set(range(order.index(first), order.index(last or first) + 1))
        return numbers

    @staticmethod
    def _field(text: str, name: str, low: int, high: int) -> set[int]:
        """Return the numbers that a field matches, from ``low`` to ``high``.

        Raises ValueError if the field is malformed, a number is out of range, or a step is larger than its range.
        APScheduler refuses such steps as well.
        """
        numbers: set[int] = set()
        for part in text.split(","):
            match = re.fullmatch(r"(?:\*|([0-9]{1,2})(?:-([0-9]{1,2}))?)(?:/([0-9]{1,2}))?", part)
            first, last = (int(match[1] or low), int(match[2] or match[1] or high)) if match else (1, 0)
            step = int(match[3]) if match and match[3] is not None else None
            if not low <= first <= last <= high or (step is not None and not 1 <= step <= last - first):
                raise ValueError(f"{quoted(part)} is no {name}: {low} to {high}, as in crontab(5)")
            numbers |= set(range(first, last + 1, step or 1))
        return numbers

    @classmethod
    def _weekdays(cls, text: str) -> str:
        """Return the day-of-week field with days by name and steps as lists.

        Numbers are ambiguous: implementations count from Sunday or from Monday. Raises ValueError if a part is not a
        day or an ascending range of days, with Monday as the first day.
        """
        named = re.sub(r"(?<!/)(?<!\d)[0-7](?!\d)", lambda match: cls._DAYS[int(match[0])], text)
        order = [*cls._DAYS[1:]]
        for part in named.split(","):
            match = re.fullmatch(r"(?:\*|([a-z]{3})(?:-([a-z]{3}))?)(?:/([1-7]))?", part)
            days = [day for day in match.groups()[:2] if day] if match else [""]
            if not all(day in order for day in days) or (len(days) > 1 and order.index(days[0]) > order.index(days[1])):
                text = f"{quoted(part)} is no day of the week: mon to sun, or 0 to 7, a range from mon on"
                raise ValueError(text)
        return ",".join(cls._spelled_out(part) for part in named.split(","))

    @classmethod
    def _spelled_out(cls, part: str) -> str:
        """Return a part with a step, such as */2 or mon-fri/2, as a list of days, and any other part unchanged.

        Not every scheduler supports steps of days by name.
        """
        days, _, step = part.partition("/")
        if not step:
            return part
        first, _, last = days.partition("-")
        order = cls._DAYS[1:]
        chosen = cls._DAYS[:7] if days == "*" else order[order.index(first) : order.index(last or first) + 1]
        return ",".join(chosen[:: int(step)])
