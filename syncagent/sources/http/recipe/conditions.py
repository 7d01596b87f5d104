"""Typed conditions on JSON: they select records and recognize successful answers. An unknown value is an error.

Values are compared as text: 1 equals "1". A condition on ``true`` also accepts spellings such as 1 and "yes".
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone
from typing import TYPE_CHECKING, Any

from msgspec import UNSET, Struct, UnsetType

from syncagent.sources.http.recipe import json_path

if TYPE_CHECKING:
    from collections.abc import Iterable

_MAX_SHOWN = 20
"""Maximum length of a string in a message, in characters."""
_MAX_SHOWN_NUMBER = 1 << 64
_EARLIEST = 1e8
"""Smallest number that is accepted as a time, in seconds since 1970 (March 1973).

A smaller number is an error: 0 and -1 often mean "never", and 20300101 is a date.
"""
_DAY = 86400
_LAST_ZONE = timezone(timedelta(hours=-12))
"""The time zone in which a local time occurs last."""
_TRUE = frozenset({"true", "1", "yes", "on", "t", "y"})
_FALSE = frozenset({"false", "0", "no", "off", "f", "n", ""})


class RuleError(ValueError):
    """A value or record that the recipe does not account for. The text may quote a short value."""


class Rule(Struct, frozen=True, kw_only=True):
    """A condition on the value at ``path``. One key is set besides ``path``, ``known``, ``default`` and ``when``."""

    path: str
    """The path of the value."""
    one_of: tuple[Any, ...] | UnsetType = UNSET
    """The value equals a value in this array."""
    none_of: tuple[Any, ...] | UnsetType = UNSET
    """The value equals no value in this array."""
    known: tuple[Any, ...] = ()
    """one_of, none_of: the other values that the API may return; any further value is an error."""
    true: bool | UnsetType = UNSET
    """The value is true, or false if ``true = false``; a value that is neither is an error."""
    present: bool | UnsetType = UNSET
    """The value exists and is not null; if ``present = false``, it is absent or null."""
    starts: str | UnsetType = UNSET
    """The value is a text that starts with this text."""
    not_starts: str | UnsetType = UNSET
    """The value is a text that does not start with this text."""
    not_empty: bool | UnsetType = UNSET
    """The value is an array or a text that is not empty; [""] and null count as empty."""
    not_past: bool | UnsetType = UNSET
    """The value is not a time in the past: in seconds since 1970 or as RFC 3339 text. Absent and null are not past.

    A time without a zone is past once it is past in every zone; a date is past once its day is over in every zone.
    """
    default: Any = UNSET
    """The value to use if the value at ``path`` is absent or null."""
    when: dict[str, str] = {}
    """The rule applies only if these parameters have these values."""


KINDS = ("one_of", "none_of", "true", "present", "starts", "not_starts", "not_empty", "not_past")
"""The keys of a Rule that are conditions."""


def kind(rule: Rule) -> str | None:
    """Return the key of the rule's condition, None if the rule has no condition or more than one."""
    kinds = [name for name in KINDS if getattr(rule, name) is not UNSET]
    return kinds[0] if len(kinds) == 1 else None


def problem(rule: Rule) -> str:
    """Return the first problem of a rule, an empty string if the rule is valid."""
    condition = kind(rule)
    if condition is None:
        return f"a rule needs exactly one of {', '.join(KINDS)}"
    if condition in {"one_of", "none_of"} and not rule.known:
        return f"{condition} needs known: the other values that the API has, so that a new one is noticed"
    if condition in {"not_empty", "not_past"} and getattr(rule, condition) is not True:
        return f"{condition} can only be true"
    try:
        json_path.parse(rule.path)
    except json_path.PathError as error:
        return str(error)
    return ""


def all_hold(rules: Iterable[Rule], record: Any) -> bool:  # noqa: ANN401 - JSON
    """True if every rule holds. Evaluation stops at the first rule that does not hold.

    Raises RuleError if a value is unknown or has the wrong type, and PathError if a value is missing.
    """
    return all(_holds(rule, record) for rule in rules)


def _holds(rule: Rule, record: Any) -> bool:  # noqa: ANN401 - JSON
    """True if the rule holds. Raises RuleError and PathError as ``all_hold`` does."""
    condition = kind(rule)
    value = _value(rule, record, optional=condition in {"present", "not_past"} or rule.default is not UNSET)
    if condition == "present":
        return (value not in (None, json_path.ABSENT)) is rule.present
    if condition == "true":
        return _truth(value, rule.path) is rule.true
    if condition in {"starts", "not_starts"}:
        return _text(value, rule.path).startswith(str(getattr(rule, condition))) is (condition == "starts")
    if condition == "not_empty":
        if value is not None and not isinstance(value, (list, str)):
            raise RuleError(f"{rule.path} is {json_path.type_name(value)}, expected an array or a text")
        return bool(value) and (not isinstance(value, list) or any(value))
    if condition == "not_past":
        return value in (None, json_path.ABSENT) or _time(value, rule.path) > datetime.now(UTC).timestamp()
    return _is_member(rule, value, str(condition))


def _value(rule: Rule, record: Any, *, optional: bool) -> Any:  # noqa: ANN401 - JSON
    """Return the value at a rule's path, or its default. Raises MissingError if it is missing and not ``optional``."""
    try:
        value = json_path.find_one(record, rule.path)
    except json_path.MissingError:
        if not optional:
            raise
        value = json_path.ABSENT
    return rule.default if value in (None, json_path.ABSENT) and rule.default is not UNSET else value


def _is_member(rule: Rule, value: Any, condition: str) -> bool:  # noqa: ANN401 - JSON
    listed = {canonical(option) for option in getattr(rule, condition)}
    if canonical(value) not in listed | {canonical(option) for option in rule.known}:
        raise RuleError(f"{rule.path} is {shown(value)}, a value that the recipe does not know: is it a new status?")
    return (canonical(value) in listed) is (condition == "one_of")


def canonical(value: Any) -> str:  # noqa: ANN401 - JSON
    """Return the text form in which a value is compared: "1" for 1 and 1.0, "true" for true, "null" for null.

    Strings lose white space at their ends. Raises RuleError for an object or an array.
    """
    if value is None or value is json_path.ABSENT:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (int, float, str)):
        return str(int(value) if isinstance(value, float) and value.is_integer() else value).strip()
    raise RuleError(f"{json_path.type_name(value)} cannot be compared: expected a text, a number, true, false or null")


def _truth(value: Any, path: str) -> bool:  # noqa: ANN401 - JSON
    word = canonical(value).lower()
    if word in _TRUE:
        return True
    if word in _FALSE:
        return False
    raise RuleError(f"{path} is {shown(value)}, expected true or false")


def _text(value: Any, path: str) -> str:  # noqa: ANN401 - JSON
    if not isinstance(value, str):
        raise RuleError(f"{path} is {json_path.type_name(value)}, expected a text")
    return value


def _time(value: Any, path: str) -> float:  # noqa: ANN401 - JSON
    """Return a time in seconds since 1970. Raises RuleError if the value is not a time, or before _EARLIEST."""
    try:
        when = _timestamp(value)
    except (TypeError, ValueError, OverflowError):
        when = 0.0
    if when < _EARLIEST:
        raise RuleError(f"{path} is {shown(value)}, expected a time: seconds since 1970, or RFC 3339")
    return when


def _timestamp(value: Any) -> float:  # noqa: ANN401 - JSON
    """Return a number or an RFC 3339 text in seconds since 1970; a date counts to the end of its day."""
    if not isinstance(value, str) or value.isdecimal():
        return float(value)
    when = datetime.fromisoformat(value)
    when = when if when.tzinfo else when.replace(tzinfo=_LAST_ZONE)
    return when.timestamp() + (_DAY if len(value) <= len("2000-01-01") else 0)


def shown(value: Any) -> str:  # noqa: ANN401 - JSON
    """Return a value as messages show it: short plain values as such, others as their type, as they may be secrets."""
    if isinstance(value, str):
        is_short = len(value) <= _MAX_SHOWN and value.isprintable()
        return repr(value) if is_short else json_path.type_name(value)
    if value is None or isinstance(value, bool):
        return canonical(value)
    is_short = isinstance(value, (int, float)) and abs(value) < _MAX_SHOWN_NUMBER
    return str(value) if is_short else json_path.type_name(value)
