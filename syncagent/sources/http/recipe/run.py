"""Do what a recipe says: its steps in order, each walked to its end, and what their records say put together.

Whole or not at all: whatever is missing, unknown or contradictory ends it. How a page is come by is not known here.
"""

from __future__ import annotations

import re
import tempfile
from collections import defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

import msgspec

from syncagent.addresses import domain_or_same, too_long
from syncagent.errors import FailureKind, SourceError
from syncagent.model import StepReport
from syncagent.sources import Answer
from syncagent.sources.http.recipe import conditions as rules
from syncagent.sources.http.recipe import json_path as paths
from syncagent.sources.http.recipe.extract import Fact, Records, joined, said
from syncagent.sources.http.recipe.pagination import MovedError, Walk

if TYPE_CHECKING:
    from collections.abc import Iterator

    from syncagent.sources import Request
    from syncagent.sources.http.recipe.model import Recipe, Step
    from syncagent.sources.http.recipe.pagination import Place

_SAMPLE, _SHOWN = 3, 200
_BATCH = 10_000
_ANYTHING = re.compile(r"[%*?]")
Page = tuple[Any, str]
"""A body, and the URL of the next page if the header Link has one."""


class Primary(Protocol):
    """Gives the pages of a step; ``each`` is what ``for_each`` gives."""

    def start(self, step: Step, each: str) -> Place:
        """Give where a step begins."""

    def page(self, step: Step, place: Place, each: str) -> Page:
        """Give the page at a place. Raises SourceError."""


@dataclass(frozen=True, slots=True)
class Limits:
    """Where a list begins to look endless."""

    pages: int
    records: int


@dataclass
class _Count:
    pages: int = 0
    records: int = 0
    kept: int = 0
    emitted: int = 0
    sample: list[str] = field(default_factory=list)


def follow(recipe: Recipe, primary: Primary, limits: Limits, request: Request) -> Answer:
    """Follow a recipe and put what it finds into ``request.sink``.

    A list that changes while it is walked through is tried once more. Raises SourceError.
    """
    for last in (False, True):
        with tempfile.TemporaryFile() as spool:
            try:
                return _Run(recipe, primary, limits, request, _Spool(spool)).all()
            except MovedError as error:
                if last:
                    raise SourceError(f"{error}, and again when it was tried once more") from None
                request.sink.restart()
    raise AssertionError


@dataclass
class _Spool:
    """What was said, kept on disk until the domains that stand for others are known."""

    _file: Any
    _encoder: msgspec.json.Encoder = field(default_factory=msgspec.json.Encoder)

    def write(self, facts: list[tuple[str, str, str]]) -> None:
        self._file.write(self._encoder.encode_lines(facts))

    def read(self) -> Iterator[tuple[str, str, str]]:
        self._file.seek(0)
        decoder = msgspec.json.Decoder(tuple[str, str, str])
        yield from map(decoder.decode, self._file)


class _Run:
    """One time through a recipe."""

    def __init__(self, recipe: Recipe, primary: Primary, limits: Limits, request: Request, spool: _Spool) -> None:
        self._recipe, self._primary, self._limits, self._request = recipe, primary, limits, request
        self._spool = spool
        self._spools = any(emit.kind == "alias_domain" for step in recipe.steps for emit in step.emit)
        self._records = Records({name: [] for name in _looked_up(recipe)})
        self._aliases: dict[str, list[Fact]] = defaultdict(list)
        self._patterns: list[str] = []
        self._domains: list[str] = []
        self._counts: dict[str, _Count] = {}

    def all(self) -> Answer:
        """Do every step, and then the domains that stand for others."""
        for step in self._recipe.steps:
            self._counts[step.name] = _Count()
            for each in self._each(step):
                self._walk(step, each)
        self._expand()
        reports = (
            StepReport(name, one.pages, one.records, one.kept, one.emitted, tuple(one.sample))
            for name, one in self._counts.items()
        )
        tells = any(emit.kind == "domain" for step in self._recipe.steps for emit in step.emit)
        domains = tuple(dict.fromkeys(self._domains)) if tells else None
        return Answer(notes=tuple(self._notes()), steps=tuple(reports), domains=domains)

    def _each(self, step: Step) -> Iterator[str]:
        if not step.for_each:
            yield ""
            return
        name, _, path = step.for_each.partition(".")
        with _blamed(step, "for_each"):
            given = [_segment(value) for record in self._records.of[name] for value in paths.every(record, path)]
        yield from dict.fromkeys(given)

    def _walk(self, step: Step, each: str) -> None:
        count, walk = self._counts[step.name], Walk(step.paging, self._limits.pages)
        start = self._primary.start(step, each)
        place: Place | None = walk.first(start.url, start.query)
        while place is not None:
            with _blamed(step, f"page {walk.pages + 1}"):
                body, link = self._primary.page(step, place, each)
                body = _unwrapped(step, body)
                records = _listed(step, body)
                walk.note(place, records, _total(step, body))
                following = walk.following(place, body, link, len(records))
            count.pages += 1
            identities = self._take(step, records)
            with _blamed(step, f"page {walk.pages}"):
                walk.apart(place, identities)
            place = following
        with _blamed(step, f"page {walk.pages}"):
            walk.end(start.url)

    def _take(self, step: Step, records: list[Any]) -> list[str | bytes]:
        """Take the records of a page, and give what each is known by, where the list has several pages."""
        count = self._counts[step.name]
        facts: list[tuple[str, Fact]] = []
        identities: list[str | bytes] = []
        tells_apart = step.paging is not None and not paths.is_plural(step.list)
        kept = self._records.of.get(step.name)
        for record in records:
            count.records += 1
            with _blamed(step, f"record {count.records}"):
                if record is None:
                    raise rules.RuleError("it is null")
                whole = joined(record, step.join, self._records) if step.join else record
                own = paths.one(whole, step.key) if step.key else None
                key = "" if own is None or own is paths.ABSENT else rules.canonical(own)
                if tells_apart:
                    identities.append(key or msgspec.json.encode(record))
                if not rules.hold(step.where, whole):
                    continue
                count.kept += 1
                if kept is not None:
                    kept.append(whole)
                facts += [(key, fact) for fact in said(step, whole, self._records)]
        if count.records > self._limits.records:
            text = f"step {step.name!r}: there are more than {self._limits.records} records: see max_records"
            raise SourceError(text, kind=FailureKind.BROKEN)
        self._put(step, facts)
        self._request.report(f"step {step.name}", count.records)
        return identities

    def _put(self, step: Step, facts: list[tuple[str, Fact]]) -> None:
        count = self._counts[step.name]
        count.emitted += len(facts)
        count.sample += [fact.value[:_SHOWN] for _, fact in facts[: _SAMPLE - len(count.sample)]]
        entries = []
        for key, fact in facts:
            if fact.kind in {"domain", "alias_domain", "accept_all"}:
                self._domains.append(fact.value.removeprefix("@"))
            if fact.kind == "domain":
                continue
            if fact.kind == "alias_domain":
                self._aliases[domain_or_same(fact.to)].append(fact)
            elif fact.kind == "pattern" and _ANYTHING.search(fact.value):
                self._patterns.append(fact.value)
            else:  # a pattern of plain letters is an address, and _ stands for itself too
                entries.append((fact.value, key or fact.value, step.name))
                if fact.kind == "pattern" and "_" in fact.value:
                    self._patterns.append(fact.value)
        self._request.sink.put(entries)
        if self._spools:
            self._spool.write(entries)

    def _expand(self) -> None:
        """Say every address again under the domains that stand for its own, and under those that stand for them."""
        if not self._aliases:
            return
        batch: list[tuple[str, str, str]] = []
        for address, key, step in self._spool.read():
            if too_long(address):
                continue  # a reject by its own domain
            local, _, domain = address.strip().rpartition("@")
            batch += [(f"{local}@{alias}", key, f"{step}, {alias}") for alias in self._standing_for(domain, step)]
            if len(batch) > _BATCH:
                self._request.sink.put(batch)
                batch.clear()
        self._request.sink.put(batch)

    def _standing_for(self, domain: str, step: str) -> list[str]:
        found, left = [], [domain_or_same(domain)]
        while left:
            for fact in self._aliases.get(left.pop(), ()):
                if fact.value not in found and (not fact.over or step in fact.over):
                    found.append(fact.value)
                    left.append(domain_or_same(fact.value))
        return found

    def _notes(self) -> Iterator[str]:
        if self._patterns:
            shown = ", ".join(f"{pattern[:_SHOWN]!a}" for pattern in self._patterns[:_SAMPLE])
            yield (
                f"{len(self._patterns)} patterns such as {shown} stand for addresses that nobody can list: they are NOT"
                " in the map, and mail for them is refused; add the addresses that are used in a file source"
            )


def _looked_up(recipe: Recipe) -> set[str]:
    """Give the steps whose records are needed later."""
    joins = [join for step in recipe.steps for join in (*step.join, *(one for emit in step.emit for one in emit.join))]
    return {join.step for join in joins} | {step.for_each.partition(".")[0] for step in recipe.steps if step.for_each}


def _unwrapped(step: Step, body: Any) -> Any:  # noqa: ANN401 - JSON
    """Give the body once it is seen to be a good answer."""
    if step.unwrap:
        inner = paths.one(body, step.unwrap)
        body = body if inner is paths.ABSENT else inner
    if not rules.hold(step.ok, body):
        raise rules.RuleError("the server says that it failed, in an answer with status 200")
    return body


def _segment(value: Any) -> str:  # noqa: ANN401 - JSON
    """Give what is asked for by itself: nothing that would make the question another one."""
    text = "" if value is None else rules.canonical(value)
    reason = too_long(text)
    if reason:
        raise rules.RuleError(f"it gives what {reason}, and something to ask for is wanted")
    if text.strip(".") == "":
        raise rules.RuleError(f"it gives {rules.shown(value)}, and something to ask for is wanted")
    return text


def _listed(step: Step, body: Any) -> list[Any]:  # noqa: ANN401 - JSON
    """Give the records in a body."""
    if paths.is_plural(step.list):
        return list(paths.every(body, step.list))
    found = paths.one(body, step.list)
    if found is paths.ABSENT or (step.empty_object and found == {}):
        return []
    if not isinstance(found, list):
        raise rules.RuleError(f"list = {step.list!r}: an array is wanted, and there is {paths.kind_of(found)}")
    return found


def _total(step: Step, body: Any) -> str:  # noqa: ANN401 - JSON
    found = paths.one(body, step.total) if step.total else paths.ABSENT
    return "" if found is paths.ABSENT else rules.canonical(found)


class _blamed:  # noqa: N801 - used as a function; a class, since it is entered for each record
    """Turn what is wrong with data to SourceError, and say the place of it, as of what is wrong with the server."""

    __slots__ = ("_step", "_where")

    def __init__(self, step: Step, where: str) -> None:
        self._step, self._where = step, where

    def __enter__(self) -> None:
        pass

    def __exit__(self, _kind: object, error: BaseException | None, _trace: object) -> None:
        if error is None:
            return
        text = f"step {self._step.name!r}, {self._where}: {error}"
        if isinstance(error, (paths.PathError, rules.RuleError)):
            raise SourceError(text, kind=FailureKind.BROKEN) from None
        if isinstance(error, MovedError):
            raise MovedError(text) from None
        if isinstance(error, SourceError):
            raise SourceError(text, kind=error.kind) from None
