"""What a record says, by a step of a recipe: addresses, whole domains, patterns, domains that stand for others."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

from syncagent.addresses import UnusableError, canonical_domain, too_long
from syncagent.sources.http.recipe import conditions as rules
from syncagent.sources.http.recipe import json_path as paths
from syncagent.sources.http.recipe.model import PLACEHOLDER

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from syncagent.sources.http.recipe.model import Emit, Join, Step


class Fact(NamedTuple):
    """Something that a record says.

    ``value`` is an address, ``@domain``, a pattern, or a domain that stands for ``to``.
    ``over`` are the steps whose addresses ``value`` has as well, all of them where it is empty.
    """

    kind: str
    value: str
    to: str = ""
    over: tuple[str, ...] = ()


@dataclass
class Records:
    """Records of earlier steps, as far as later ones look things up in them."""

    of: dict[str, list[Any]] = field(default_factory=dict)
    _found: dict[tuple[str, str, str], dict[str, Any]] = field(default_factory=dict)

    def find(self, join: Join, record: Any) -> Any:  # noqa: ANN401 - JSON
        """Give the record that a join means, None where there is nothing to look up. Raises RuleError, PathError."""
        wanted = paths.one(record, join.local)
        if wanted in (None, paths.ABSENT, ""):
            if join.optional:
                return None
            raise rules.RuleError(f"{join.local} is {rules.shown(wanted)}, and there is nothing to look up")
        index = self._found.setdefault((join.step, join.key, join.part), {})
        if not index:
            for one in self.of[join.step]:
                key = _part(paths.one(one, join.key), join)
                if key in index:
                    raise rules.RuleError(f"step {join.step!r} has two records whose {join.key} is the same")
                index[key] = one
        found = index.get(_part(wanted, join))
        if found is None:
            raise rules.RuleError(
                f"{join.local} is {rules.shown(wanted)}, and no record of step {join.step!r} has that as its {join.key}"
            )
        return found


def _part(value: Any, join: Join) -> str:  # noqa: ANN401 - JSON
    spelled = rules.canonical(value)
    return spelled.rpartition("@")[2].lower() if join.part == "domain" else spelled


def joined(record: Any, joins: Iterable[Join], records: Records) -> Any:  # noqa: ANN401 - JSON
    """Give a record with what its joins found. Raises RuleError, PathError."""
    for join in joins:
        record = _with(record, join.name, records.find(join, record))
    return record


def _with(record: Any, name: str, value: Any) -> Any:  # noqa: ANN401 - JSON
    if not isinstance(record, dict):
        raise rules.RuleError(f"a record is {paths.kind_of(record)}, and an object is wanted")
    return {**record, name: value}


def said(step: Step, record: Any, records: Records) -> list[Fact]:  # noqa: ANN401 - JSON
    """Give what a record that counts says. Raises RuleError where it says nothing and has to, PathError."""
    facts = [fact for emit in step.emit for fact in _emitted(emit, record, records)]
    if not facts and step.emit and step.must_emit:
        raise rules.RuleError("it says nothing: no emit is for it")
    return facts


def _emitted(emit: Emit, record: Any, records: Records) -> Iterator[Fact]:  # noqa: ANN401 - JSON
    places = [_with(record, "each", place) for place in paths.every(record, emit.each)] if emit.each else [record]
    for place in places:
        scope = joined(place, emit.join, records) if emit.join else place
        if rules.hold(emit.where, scope):
            yield from _facts(emit, scope)


def _facts(emit: Emit, scope: Any) -> Iterator[Fact]:  # noqa: ANN401 - JSON
    to = _usable(_domain(_text(paths.one(scope, emit.to), emit.to)), emit.to) if emit.kind == "alias_domain" else ""
    for value in _values(emit, scope):
        if emit.kind == "address":
            yield Fact("address", value)
            if too_long(value):
                continue
            local, at, domain = value.rpartition("@")
            yield from (Fact("address", f"{local}{suffix}{at}{domain}") for suffix in emit.suffixes)
        elif emit.kind == "alias_domain":
            yield Fact(emit.kind, _domain(value), to, emit.over)
        elif emit.kind == "domain":
            yield Fact("domain", _domain(value))
        else:
            yield Fact(emit.kind, value if emit.kind == "pattern" else f"@{_domain(value)}")


def _values(emit: Emit, scope: Any) -> Iterator[str]:  # noqa: ANN401 - JSON
    if emit.template:
        yield PLACEHOLDER.sub(lambda found: _filled(paths.one(scope, found[1]), found[1]), emit.template)
        return
    for value in paths.every(scope, emit.value):
        text = _text(value, emit.value)
        if not emit.only_prefix:
            yield text
        elif text.strip().lower().startswith(emit.only_prefix.lower()):
            yield text.strip()[len(emit.only_prefix) :].strip()
        elif emit.only_prefix.endswith(":") and ":" not in text:
            yield text  # of no type: the address itself, as a directory has it too


def _domain(value: str) -> str:
    return value.strip().removeprefix("@")


def _usable(domain: str, path: str) -> str:
    """Give the domain that another one stands for: were it none, that one would have no address, unnoticed."""
    try:
        return canonical_domain(domain)
    except UnusableError as error:
        raise rules.RuleError(f"{path} is no domain: it {error}") from None


def _filled(value: Any, path: str) -> str:  # noqa: ANN401 - JSON
    text = _text(value, path)
    if not text.strip():
        raise rules.RuleError(f"{path} is empty, and a part of an address is wanted")
    return text


def _text(value: Any, path: str) -> str:  # noqa: ANN401 - JSON
    if not isinstance(value, str):
        raise rules.RuleError(f"{path} is {paths.kind_of(value)}, and a text is wanted")
    return value
