"""Typed rules about a record: which are kept, and whether an answer is a good one. An unknown word is an error.

Values are compared as people mean them: 1 equals "1", and true, 1, "yes" are one thing where ``true`` is asked for.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone
from typing import TYPE_CHECKING, Any

from msgspec import UNSET, Struct, UnsetType

from syncagent.sources.http.recipe import json_path as paths

if TYPE_CHECKING:
    from collections.abc import Iterable

_SHORT = 20
_LONGEST = 1 << 64
_EARLIEST = 1e8
"""Seconds since 1970, in 1973: what is less is no time. 0 and -1 often mean "never", 20300101 is a date."""
_DAY = 86400
_LAST_ZONE = timezone(timedelta(hours=-12))
_TRUE = frozenset({"true", "1", "yes", "on", "t", "y"})
_FALSE = frozenset({"false", "0", "no", "off", "f", "n", ""})


class RuleError(ValueError):
    """A value is none that the rule knows: it is not guessed what it means."""


class Rule(Struct, frozen=True, kw_only=True):
    """A condition on what stands at ``path``; exactly one of the other keys, ``default`` and ``known`` apart."""

    path: str
    """Where the value is."""
    one_of: tuple[Any, ...] | UnsetType = UNSET
    """It is one of these."""
    none_of: tuple[Any, ...] | UnsetType = UNSET
    """It is none of these."""
    known: tuple[Any, ...] = ()
    """one_of, none_of: the other values that there are; any further one is an error."""
    true: bool | UnsetType = UNSET
    """It is true, or with ``true = false`` it is false; a word that means neither is an error."""
    present: bool | UnsetType = UNSET
    """It is there and not null, or with ``present = false`` it is not."""
    starts: str | UnsetType = UNSET
    """It is a text that starts so."""
    not_starts: str | UnsetType = UNSET
    """It is a text that does not start so."""
    not_empty: bool | UnsetType = UNSET
    """It is an array or a text with something in it; [""] and null have nothing."""
    not_past: bool | UnsetType = UNSET
    """It is no time that has passed: seconds since 1970, or as in RFC 3339; absent and null are none.

    A time without a zone has passed when it has everywhere, a date when its day is over.
    """
    default: Any = UNSET
    """What counts where it is absent or null."""
    when: dict[str, str] = {}
    """It is a rule only where these parameters have these values."""


KINDS = ("one_of", "none_of", "true", "present", "starts", "not_starts", "not_empty", "not_past")


def kind(rule: Rule) -> str | None:
    """Give which condition a rule is; None where it is none or several."""
    given = [name for name in KINDS if getattr(rule, name) is not UNSET]
    return given[0] if len(given) == 1 else None


def problem(rule: Rule) -> str:
    """Say what is wrong with a rule, nothing where it is right."""
    what = kind(rule)
    if what is None:
        return f"a rule has exactly one of {', '.join(KINDS)}"
    if what in {"one_of", "none_of"} and not rule.known:
        return f"{what} needs known: the other values that there are, so that a new one is noticed"
    if what in {"not_empty", "not_past"} and getattr(rule, what) is not True:
        return f"{what} is true or not there"
    try:
        paths.parse(rule.path)
    except paths.PathError as error:
        return str(error)
    return ""


def hold(rules: Iterable[Rule], record: Any) -> bool:  # noqa: ANN401 - JSON
    """Tell whether every rule holds, in their order: the first that does not ends it.

    Raises RuleError for an unknown value, PathError for a missing one.
    """
    return all(_holds(rule, record) for rule in rules)


def _holds(rule: Rule, record: Any) -> bool:  # noqa: ANN401 - JSON
    what = kind(rule)
    value = _value(rule, record, optional=what in {"present", "not_past"} or rule.default is not UNSET)
    if what == "present":
        return (value not in (None, paths.ABSENT)) is rule.present
    if what == "true":
        return _truth(value, rule.path) is rule.true
    if what in {"starts", "not_starts"}:
        return _text(value, rule.path).startswith(str(getattr(rule, what))) is (what == "starts")
    if what == "not_empty":
        if value is not None and not isinstance(value, (list, str)):
            raise RuleError(f"{rule.path} is {paths.kind_of(value)}, and an array or a text is wanted")
        return bool(value) and (not isinstance(value, list) or any(value))
    if what == "not_past":
        return value in (None, paths.ABSENT) or _time(value, rule.path) > datetime.now(UTC).timestamp()
    return _is_member(rule, value, str(what))


def _value(rule: Rule, record: Any, *, optional: bool) -> Any:  # noqa: ANN401 - JSON
    try:
        value = paths.one(record, rule.path)
    except paths.MissingError:
        if not optional:
            raise
        value = paths.ABSENT
    return rule.default if value in (None, paths.ABSENT) and rule.default is not UNSET else value


def _is_member(rule: Rule, value: Any, what: str) -> bool:  # noqa: ANN401 - JSON
    listed = {canonical(one) for one in getattr(rule, what)}
    if canonical(value) not in listed | {canonical(one) for one in rule.known}:
        raise RuleError(f"{rule.path} is {shown(value)}, which the recipe does not know: is it a new status?")
    return (canonical(value) in listed) is (what == "one_of")


def canonical(value: Any) -> str:  # noqa: ANN401 - JSON
    """Spell a plain value as it is compared: 1 as "1", true as "true", null as "null"."""
    if value is None or value is paths.ABSENT:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (int, float, str)):
        return str(int(value) if isinstance(value, float) and value.is_integer() else value).strip()
    raise RuleError(f"{paths.kind_of(value)} is no plain value")


def _truth(value: Any, path: str) -> bool:  # noqa: ANN401 - JSON
    word = canonical(value).lower()
    if word in _TRUE:
        return True
    if word in _FALSE:
        return False
    raise RuleError(f"{path} is {shown(value)}, which is neither true nor false")


def _text(value: Any, path: str) -> str:  # noqa: ANN401 - JSON
    if not isinstance(value, str):
        raise RuleError(f"{path} is {paths.kind_of(value)}, and a text is wanted")
    return value


def _time(value: Any, path: str) -> float:  # noqa: ANN401 - JSON
    try:
        when = _moment(value)
    except (TypeError, ValueError, OverflowError):
        when = 0.0
    if when < _EARLIEST:
        raise RuleError(f"{path} is {shown(value)}, which is no time")
    return when


def _moment(value: Any) -> float:  # noqa: ANN401 - JSON
    if not isinstance(value, str) or value.isdecimal():
        return float(value)
    when = datetime.fromisoformat(value)
    when = when if when.tzinfo else when.replace(tzinfo=_LAST_ZONE)
    return when.timestamp() + (_DAY if len(value) <= len("2000-01-01") else 0)


def shown(value: Any) -> str:  # noqa: ANN401 - JSON
    """Show a short plain value; of anything else its kind alone, since a body may hold secrets."""
    if isinstance(value, str):
        short = len(value) <= _SHORT and value.isprintable()
    else:
        short = value is None or (isinstance(value, (int, float)) and abs(value) < _LONGEST)
    return repr(value) if short else paths.kind_of(value)
