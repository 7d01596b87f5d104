"""Execution of a recipe: its requirements, its steps in order, each list read to its end, then the alias domains.

A fetch is complete or raises: a missing, unknown or contradictory value ends it. The pages come from a ``Primary``: a
server, or recorded answers.
"""

from __future__ import annotations

import contextlib
import re
import tempfile
from collections import defaultdict
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

import msgspec
from msgspec.structs import replace

from syncagent.addresses import UnusableError, canonical, domain_or_same, too_long
from syncagent.errors import FailureKind, SourceError, translate_errors
from syncagent.invisible import trimmed
from syncagent.model import ALL_DOMAINS, StepReport
from syncagent.redaction import redacted
from syncagent.sources import Answer
from syncagent.sources.http.recipe import conditions, json_path
from syncagent.sources.http.recipe.extract import Emitted, Records, extract, with_joins
from syncagent.sources.http.recipe.pagination import ListChangedError, Pagination
from syncagent.values.readable import address_of
from syncagent.values.spellings import without_secrets

if TYPE_CHECKING:
    from collections.abc import Iterator

    from syncagent.model import Entry
    from syncagent.sources import Request
    from syncagent.sources.http.recipe.model import Recipe, Require, Step
    from syncagent.sources.http.recipe.pagination import Place

_SAMPLE, _MAX_SHOWN = 3, 200
"""Number of values in a sample, and their maximum length in characters."""
_BATCH = 10_000
"""Number of entries that are put into the sink at a time, approximately."""
_WILDCARD = re.compile(r"[%*?]")
Page = tuple[Any, str]
"""The decoded body of a page, and the URL of the next page from the header Link, empty if there is none."""


class Primary(Protocol):
    """The provider of the pages of a step. ``each`` is the current value of ``for_each``, empty without it."""

    def start(self, step: Step, each: str) -> Place:
        """Return the place of a step's first page, without the parameters of its paging."""

    def page(self, step: Step, place: Place, each: str) -> Page:
        """Return the page at a place. Raises SourceError if it is not available."""


@dataclass(frozen=True, slots=True)
class Limits:
    """The maximum numbers of pages of a list and of records of a step. Beyond them the fetch fails."""

    pages: int
    records: int


@dataclass
class _Counts:
    """Statistics of a step, and a sample of the values that it emits."""

    pages: int = 0
    records: int = 0
    kept: int = 0
    emitted: int = 0
    sample: list[str] = field(default_factory=list)


def run_recipe(recipe: Recipe, primary: Primary, limits: Limits, request: Request) -> Answer:
    """Run a recipe, put its entries into ``request.sink`` and return the answer.

    If a list changes while it is read, all lists are read once more. Raises SourceError if a list changes in the second
    attempt too, if a page or record is missing or not as the recipe expects, or if a requirement is not fulfilled.

    The answer has the producer's proof: each list was read to the end of its pages, and to its total if it has one.
    """
    required = tuple(_fulfilled(requirement, primary, request) for requirement in recipe.require)
    for is_last in (False, True):
        with tempfile.TemporaryFile() as spool:
            try:
                answer = _Run(recipe, primary, limits, request, _Spool(spool)).answer()
                return replace(answer, steps=(*required, *answer.steps))
            except ListChangedError as error:
                if is_last:
                    raise SourceError(f"{error}, in a second attempt as well") from None
                request.sink.restart()
    raise AssertionError


def _fulfilled(requirement: Require, primary: Primary, request: Request) -> StepReport:
    """Send the request of a requirement. Return its report, as of a step with one record.

    Raises SourceError with the requirement's own message and remedy if a condition does not hold.
    """
    step = requirement.step
    with _errors_in(f"requirement {step.name!r}"):
        body, _ = primary.page(step, primary.start(step, ""), "")
        if not conditions.all_hold(requirement.where, _checked_body(step, body)):
            raise SourceError(f"{requirement.message}: {requirement.remedy}", kind=FailureKind.BROKEN)
    request.report(f"requirement {step.name}", 1)
    return StepReport(step.name, pages=1, records=1, kept=1, emitted=0)


@dataclass
class _Spool:
    """A temporary file of entries, which are read again when all alias domains are known."""

    _file: Any
    _encoder: msgspec.json.Encoder = field(default_factory=msgspec.json.Encoder)

    def write(self, entries: list[Entry]) -> None:
        self._file.write(self._encoder.encode_lines(entries))

    def read(self) -> Iterator[Entry]:
        self._file.seek(0)
        decoder = msgspec.json.Decoder(tuple[str, str, str])
        yield from map(decoder.decode, self._file)


class _Run:
    """An attempt to run a recipe, with its intermediate results."""

    def __init__(self, recipe: Recipe, primary: Primary, limits: Limits, request: Request, spool: _Spool) -> None:
        self._recipe, self._primary, self._limits, self._request = recipe, primary, limits, request
        self._spool = spool
        self._has_aliases = any(emit.kind == "alias_domain" for step in recipe.steps for emit in step.emit)
        self._records = Records({name: [] for name in _steps_looked_up(recipe)})
        self._aliases: dict[str, list[Emitted]] = defaultdict(list)
        self._patterns: list[str] = []
        self._domains: list[str] = []
        self._counts: dict[str, _Counts] = {}

    def answer(self) -> Answer:
        """Read the lists of all steps, expand the alias domains, and return the answer."""
        for step in self._recipe.steps:
            self._counts[step.name] = _Counts()
            for each in self._values_of_for_each(step):
                self._read_list(step, each)
        self._expand_aliases()
        reports = (
            StepReport(name, counts.pages, counts.records, counts.kept, counts.emitted, tuple(counts.sample))
            for name, counts in self._counts.items()
        )
        has_domains = any(emit.kind == "domain" for step in self._recipe.steps for emit in step.emit)
        domains = tuple(dict.fromkeys(self._domains)) if has_domains else None
        unlisted = {_domain_of_pattern(pattern) for pattern in self._patterns}
        unlisted |= {ALL_DOMAINS} if self._recipe.leaves_out else set()
        return Answer(
            notes=tuple(self._notes()),
            steps=tuple(reports),
            domains=domains,
            unlisted=tuple(sorted(unlisted)),
            leaves_out=self._recipe.leaves_out,
            proof="producer",
        )

    def _values_of_for_each(self, step: Step) -> Iterator[str]:
        """Yield the distinct values of a step's ``for_each``; a single empty string without ``for_each``."""
        if not step.for_each:
            yield ""
            return
        name, _, path = step.for_each.partition(".")
        with _errors_at(step, "for_each"):
            records = self._records.by_step[name]
            values = [_path_segment(value) for record in records for value in json_path.find_all(record, path)]
        yield from dict.fromkeys(values)

    def _read_list(self, step: Step, each: str) -> None:
        """Read and process all pages of a list. Raises ListChangedError if its pages are inconsistent."""
        counts, pagination = self._counts[step.name], Pagination(step.paging, self._limits.pages)
        start = self._primary.start(step, each)
        place: Place | None = pagination.first(start.url, start.query)
        while place is not None:
            with _errors_at(step, f"page {pagination.pages + 1}"):
                body, link = self._primary.page(step, place, each)
                body = _checked_body(step, body)
                records = _records_in(step, body)
                pagination.add_page(place, records, _total(step, body))
                following = pagination.next_place(place, body, link, len(records))
            counts.pages += 1
            identities = self._process(step, records)
            with _errors_at(step, f"page {pagination.pages}"):
                pagination.add_identities(place, identities)
            place = following
        with _errors_at(step, f"page {pagination.pages}"):
            pagination.check_total(start.url)

    def _process(self, step: Step, records: list[Any]) -> list[str | bytes]:
        """Put the values that a page's records emit, and return the identities of the records.

        A record's identity is its key, or its JSON without a key. Returns no identities if the list is not paged, or if
        its path leads to more than one place. Raises SourceError if a record is not as the recipe expects.
        """
        counts = self._counts[step.name]
        emitted: list[tuple[str, Emitted]] = []
        identities: list[str | bytes] = []
        has_identities = step.paging is not None and not json_path.is_plural(step.list)
        kept = self._records.by_step.get(step.name)
        for record in records:
            counts.records += 1
            with _errors_at(step, f"record {counts.records}"):
                if record is None:
                    raise conditions.RuleError("the record is null")
                joined = with_joins(record, step.join, self._records) if step.join else record
                value = json_path.find_one(joined, step.key) if step.key else None
                key = "" if value is None or value is json_path.ABSENT else conditions.canonical(value)
                if has_identities:
                    identities.append(key or msgspec.json.encode(record))
                if not conditions.all_hold(step.where, joined):
                    continue
                counts.kept += 1
                if kept is not None:
                    kept.append(joined)
                emitted += [(key, value) for value in extract(step, joined, self._records)]
        if counts.records > self._limits.records:
            text = f"step {step.name!r}: more than {self._limits.records} records: see max_records"
            raise SourceError(text, kind=FailureKind.BROKEN)
        self._put(step, emitted)
        self._request.report(f"step {step.name}", counts.records)
        return identities

    def _put(self, step: Step, emitted: list[tuple[str, Emitted]]) -> None:
        """Put the emitted addresses into the sink, and store domains, alias domains and patterns."""
        counts = self._counts[step.name]
        counts.emitted += len(emitted)
        counts.sample += [
            without_secrets(redacted(value.value))[:_MAX_SHOWN] for _, value in emitted[: _SAMPLE - len(counts.sample)]
        ]
        entries: list[Entry] = []
        for key, value in emitted:
            if value.kind in {"domain", "alias_domain", "accept_all"}:
                self._domains.append(value.value.removeprefix("@"))
            if value.kind == "domain":
                continue
            if value.kind == "alias_domain":
                self._aliases[domain_or_same(value.to)].append(value)
            elif value.kind == "pattern" and _WILDCARD.search(value.value):
                self._patterns.append(value.value)
            else:  # a pattern without a wildcard is an address, whose _ is literal or any character
                entries.append((value.value, key or value.value, step.name))
                if value.kind == "pattern" and "_" in value.value:
                    self._patterns.append(value.value)
        self._request.sink.put(entries)
        if self._has_aliases:
            self._spool.write(entries)

    def _expand_aliases(self) -> None:
        """Put every address again under each alias domain of its domain, aliases of aliases included."""
        if not self._aliases:
            return
        batch: list[Entry] = []
        for address, key, step in self._spool.read():
            if too_long(address):
                continue  # already rejected under its own domain
            local, _, domain = _without_wrapper(address).rpartition("@")
            batch += [(f"{local}@{alias}", key, f"{step}, {alias}") for alias in self._aliases_of(domain, step)]
            if len(batch) > _BATCH:
                self._request.sink.put(batch)
                batch.clear()
        self._request.sink.put(batch)

    def _aliases_of(self, domain: str, step: str) -> list[str]:
        """Return the alias domains of a domain for the addresses of a step, aliases of aliases included."""
        aliases, left = [], [domain_or_same(domain)]
        while left:
            for alias in self._aliases.get(left.pop(), ()):
                if alias.value not in aliases and (not alias.over or step in alias.over):
                    aliases.append(alias.value)
                    left.append(domain_or_same(alias.value))
        return aliases

    def _notes(self) -> Iterator[str]:
        """Yield the notes of the answer: a warning if there are patterns."""
        if self._patterns:
            shown = ", ".join(f"{redacted(pattern)[:_MAX_SHOWN]!a}" for pattern in self._patterns[:_SAMPLE])
            yield (
                f"{len(self._patterns)} patterns such as {shown} match addresses that cannot be listed: they are NOT in"
                " the map, and mail to them is refused; add the addresses in use to a file source"
            )


def _without_wrapper(spelled: str) -> str:
    """Return the one address in a value with more than that, any other value as it is."""
    try:
        canonical(spelled)
    except UnusableError:
        with contextlib.suppress(UnusableError):
            return address_of(spelled)
    return trimmed(spelled)


def _domain_of_pattern(pattern: str) -> str:
    """Return the domain of the addresses that a pattern matches, "*" if the pattern does not say one."""
    _, at, domain = pattern.rpartition("@")
    return domain_or_same(domain) if at and not _WILDCARD.search(domain) else ALL_DOMAINS


def _steps_looked_up(recipe: Recipe) -> set[str]:
    """Return the names of the steps whose records later steps use, by ``join`` or ``for_each``."""
    joins = [join for step in recipe.steps for join in step.join]
    joins += [join for step in recipe.steps for emit in step.emit for join in emit.join]
    return {join.step for join in joins} | {step.for_each.partition(".")[0] for step in recipe.steps if step.for_each}


def _checked_body(step: Step, body: Any) -> Any:  # noqa: ANN401 - JSON
    """Return the body, without its wrapper if it has one. Raises RuleError if a rule of ``ok`` does not hold."""
    if step.unwrap:
        inner = json_path.find_one(body, step.unwrap)
        body = body if inner is json_path.ABSENT else inner
    if not conditions.all_hold(step.ok, body):
        raise conditions.RuleError("the server reports a failure in an answer with status 200")
    return body


def _path_segment(value: Any) -> str:  # noqa: ANN401 - JSON
    """Return a value of ``for_each`` as text. Raises RuleError if it is too long, empty, or only dots, such as ".."."""
    text = "" if value is None else conditions.canonical(value)
    reason = too_long(text)
    if reason:
        raise conditions.RuleError(f"a value {reason}")
    if text.strip(".") == "":
        raise conditions.RuleError(f"a value is {conditions.shown(value)}, which cannot be part of a URL")
    return text


def _records_in(step: Step, body: Any) -> list[Any]:  # noqa: ANN401 - JSON
    """Return the records in a body. Raises PathError if they are missing, RuleError if they are not an array."""
    if json_path.is_plural(step.list):
        return list(json_path.find_all(body, step.list))
    records = json_path.find_one(body, step.list)
    if records is json_path.ABSENT or (step.empty_object and records == {}):
        return []
    if not isinstance(records, list):
        raise conditions.RuleError(f"list = {step.list!r}: expected an array, got {json_path.type_name(records)}")
    return records


def _total(step: Step, body: Any) -> str:  # noqa: ANN401 - JSON
    """Return the total number of records that a body announces, as text; empty if there is none."""
    total = json_path.find_one(body, step.total) if step.total else json_path.ABSENT
    return "" if total is json_path.ABSENT else conditions.canonical(total)


def _errors_at(step: Step, place: str) -> translate_errors:
    """Return a context manager that adds the step and the place in it to the text of an error.

    It also converts PathError and RuleError to SourceError.
    """
    return _errors_in(f"step {step.name!r}, {place}")


def _errors_in(place: str) -> translate_errors:
    """Return a context manager as ``_errors_at`` does, for a place that is named as a whole."""
    return translate_errors(partial(_error_in, place))


def _error_in(place: str, error: BaseException) -> Exception | None:
    text = f"{place}: {error}"
    if isinstance(error, (json_path.PathError, conditions.RuleError)):
        return SourceError(text, kind=FailureKind.BROKEN)
    if isinstance(error, ListChangedError):
        return ListChangedError(text)
    if isinstance(error, SourceError):
        return SourceError(text, kind=error.kind)
    return None
