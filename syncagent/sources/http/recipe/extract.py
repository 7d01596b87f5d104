"""Extraction of addresses, domains, patterns and alias domains from records, as a recipe's ``emit`` describes it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

from syncagent.addresses import UnusableError, canonical_domain, too_long
from syncagent.invisible import trimmed
from syncagent.sources.http.recipe import conditions, json_path
from syncagent.sources.http.recipe.model import PLACEHOLDER

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from syncagent.sources.http.recipe.model import Emit, Join, Step


class Emitted(NamedTuple):
    """A value that a record emits: an address, ``@domain``, a pattern, a domain, or an alias domain of ``to``.

    ``kind`` is that of ``Emit``. ``over`` names the steps whose addresses are valid in the alias domain too; all steps
    if empty.
    """

    kind: str
    value: str
    to: str = ""
    over: tuple[str, ...] = ()


@dataclass
class Records:
    """The records of steps that later steps refer to. The index of a join is built at its first look-up."""

    by_step: dict[str, list[Any]] = field(default_factory=dict)
    _indexes: dict[tuple[str, str, str], dict[str, Any]] = field(default_factory=dict)

    def look_up(self, join: Join, record: Any) -> Any:  # noqa: ANN401 - JSON
        """Return the record that a join refers to, None if the join is optional and its key is absent, null or empty.

        Raises RuleError if no record matches or if two records have the same key, and PathError if a path is missing.
        """
        value = json_path.find_one(record, join.local)
        if value in (None, json_path.ABSENT, ""):
            if join.optional:
                return None
            raise conditions.RuleError(f"{join.local} is {conditions.shown(value)}: nothing to look up")
        match = self._index(join).get(_join_key(value, join))
        if match is None:
            raise conditions.RuleError(
                f"{join.local} is {conditions.shown(value)}, but no record of step {join.step!r} has this {join.key}"
            )
        return match

    def _index(self, join: Join) -> dict[str, Any]:
        """Return the records of a join's step by their key. Raises RuleError if two records have the same key."""
        index = self._indexes.setdefault((join.step, join.key, join.part), {})
        if not index:
            for record in self.by_step[join.step]:
                key = _join_key(json_path.find_one(record, join.key), join)
                if key in index:
                    raise conditions.RuleError(f"two records of step {join.step!r} have the same {join.key}")
                index[key] = record
        return index


def _join_key(value: Any, join: Join) -> str:  # noqa: ANN401 - JSON
    text = conditions.canonical(value)
    return text.rpartition("@")[2].lower() if join.part == "domain" else text


def with_joins(record: Any, joins: Iterable[Join], records: Records) -> Any:  # noqa: ANN401 - JSON
    """Return a copy of a record with the matching record of each join added. Raises as ``Records.look_up`` does."""
    for join in joins:
        record = _with_member(record, join.name, records.look_up(join, record))
    return record


def _with_member(record: Any, name: str, value: Any) -> Any:  # noqa: ANN401 - JSON
    if not isinstance(record, dict):
        raise conditions.RuleError(f"a record is {json_path.type_name(record)}, expected an object")
    return {**record, name: value}


def extract(step: Step, record: Any, records: Records) -> list[Emitted]:  # noqa: ANN401 - JSON
    """Return the values that a kept record emits.

    Raises RuleError if the record emits no value although it must, or if a value is not as the recipe expects. Raises
    PathError if a path is missing.
    """
    emitted = [value for emit in step.emit for value in _emit(emit, record, records)]
    if not emitted and step.emit and step.must_emit:
        raise conditions.RuleError("no emit applies to the record")
    return emitted


def _emit(emit: Emit, record: Any, records: Records) -> Iterator[Emitted]:  # noqa: ANN401 - JSON
    """Yield the values that one ``emit`` takes from a record. Raises RuleError and PathError as ``extract`` does."""
    places = (
        [_with_member(record, "each", place) for place in json_path.find_all(record, emit.each)]
        if emit.each
        else [record]
    )
    for place in places:
        scope = with_joins(place, emit.join, records) if emit.join else place
        if conditions.all_hold(emit.where, scope):
            yield from _emit_values(emit, scope)


def _emit_values(emit: Emit, scope: Any) -> Iterator[Emitted]:  # noqa: ANN401 - JSON
    to = _target_domain(json_path.find_one(scope, emit.to), emit.to) if emit.kind == "alias_domain" else ""
    for value in _values(emit, scope):
        if emit.kind == "address":
            yield Emitted("address", value)
            if too_long(value):
                continue
            local, at, domain = value.rpartition("@")
            yield from (Emitted("address", f"{local}{suffix}{at}{domain}") for suffix in emit.suffixes)
        elif emit.kind == "alias_domain":
            yield Emitted(emit.kind, _domain(value), to, emit.over)
        elif emit.kind == "domain":
            yield Emitted("domain", _domain(value))
        else:
            yield Emitted(emit.kind, value if emit.kind == "pattern" else f"@{_domain(value)}")


def _values(emit: Emit, scope: Any) -> Iterator[str]:  # noqa: ANN401 - JSON
    """Yield the texts of an ``emit``: its filled template, or the values at its path that ``only_prefix`` selects."""
    if emit.template:
        yield PLACEHOLDER.sub(lambda match: _part(json_path.find_one(scope, match[1]), match[1]), emit.template)
        return
    for value in json_path.find_all(scope, emit.value):
        text = _text(value, emit.value)
        if not emit.only_prefix:
            yield text
        elif trimmed(text).lower().startswith(emit.only_prefix.lower()):
            yield trimmed(trimmed(text)[len(emit.only_prefix) :])
        elif emit.only_prefix.endswith(":") and ":" not in text:
            yield text  # an address without a prefix: some directories mix these with prefixed addresses


def _domain(value: str) -> str:
    return trimmed(value).removeprefix("@")


def _target_domain(value: Any, path: str) -> str:  # noqa: ANN401 - JSON
    """Return the alias's target domain. Raises RuleError if it is not a domain: the alias would get no addresses."""
    try:
        return canonical_domain(_domain(_text(value, path)))
    except UnusableError as error:
        raise conditions.RuleError(f"{path} is not a domain: it {error}") from None


def _part(value: Any, path: str) -> str:  # noqa: ANN401 - JSON
    """Return the value of a placeholder. Raises RuleError if it is not a string, or is blank."""
    text = trimmed(_text(value, path))
    if not text:
        raise conditions.RuleError(f"{path} is empty, expected a part of an address")
    return text


def _text(value: Any, path: str) -> str:  # noqa: ANN401 - JSON
    if not isinstance(value, str):
        raise conditions.RuleError(f"{path} is {json_path.type_name(value)}, expected a text")
    return value
