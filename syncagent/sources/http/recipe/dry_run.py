"""Dry run of a recipe on recorded answers, without a network: ``syncagent recipe test FILE FIXTURE``.

A fixture is JSON. ``answers`` maps each step to the list of the bodies of its pages, in the order of the requests; a
step with ``for_each`` has an object with such a list for each value. ``parameters`` sets the recipe's parameters.
``expected`` lists the addresses and ``@domain`` catch-alls that a correct recipe emits.
"""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

import msgspec
from msgspec import Struct

from syncagent.addresses import UnusableError
from syncagent.errors import ConfigError, FailureKind, Problem, SourceError
from syncagent.files import atomic
from syncagent.sources import Answer, Request
from syncagent.sources.http.recipe.model import parameter_values, with_parameters
from syncagent.sources.http.recipe.run import Limits, run_recipe
from syncagent.sources.http.recipe.source import first_place
from syncagent.sources.http.recipe.validate import load, problems
from syncagent.values.readable import address_of
from syncagent.values.spellings import is_foreign

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from syncagent.model import Entry
    from syncagent.sources.http.recipe.model import Step
    from syncagent.sources.http.recipe.pagination import Place
    from syncagent.sources.http.recipe.run import Page

ORIGIN = "https://primary.example.com"
"""Base URL of the answers of a fixture. Links to the next page must be on this host."""
_LIMITS = Limits(1000, 1_000_000)
"""The maximum numbers of pages of a list and of records of a step in a dry run."""
_MAX_FIXTURE = 64 << 20
"""Maximum size of a fixture in octets, the same as the default for a page of an API."""


class Fixture(Struct, forbid_unknown_fields=True):
    """The recorded answers of each step, the parameters, and the expected addresses (None: not compared)."""

    answers: dict[str, Any]
    expected: list[str] | None = None
    parameters: dict[str, str] = {}


class DryRunResult(Struct, frozen=True):
    """The result of a dry run.

    ``addresses`` are canonical and sorted. ``rejected`` are pairs of spelling and reason. ``missing`` and
    ``unexpected`` are the sorted differences from the expected addresses.
    """

    answer: Answer
    addresses: tuple[str, ...]
    rejected: tuple[tuple[str, str], ...]
    missing: tuple[str, ...]
    unexpected: tuple[str, ...]


class _MemorySink:
    """A sink that keeps addresses and rejects in memory, and does not support amending."""

    def __init__(self) -> None:
        self.restart()

    def put(self, entries: Iterable[Entry]) -> None:
        for spelled, key, _ in entries:
            try:
                self.addresses.add(address_of(spelled))
            except UnusableError as error:
                self.reject(spelled, str(error), key)

    def reject(self, spelled: str, reason: str, _key: str, _raw: bytes | None = None) -> None:
        if not is_foreign(spelled):
            self.rejected.append((spelled, reason))

    def ignore(self, count: int, cause: str = "") -> None:
        """Do nothing: ignored values do not appear in the result."""

    def restart(self) -> None:
        self.addresses: set[str] = set()
        self.rejected: list[tuple[str, str]] = []

    def amend(self, *, last: bool) -> None:
        raise NotImplementedError

    def forget(self, keys: Iterable[str]) -> None:
        raise NotImplementedError

    retain = put_keys = forget

    def refuse(self, entries: Iterable[Entry]) -> None:
        raise NotImplementedError

    def unknown(self, keys: Iterable[str]) -> list[str]:
        raise NotImplementedError

    def vanished(self, limit: int) -> list[Entry]:
        raise NotImplementedError


class _RecordedAnswers:
    """A ``recipe.run.Primary`` whose pages are those of a fixture, each returned once, in order."""

    def __init__(self, answers: dict[str, Any], parameters: dict[str, str]) -> None:
        self._left, self._parameters = copy.deepcopy(answers), parameters

    def start(self, step: Step, each: str) -> Place:
        return first_place(ORIGIN, step, {**self._parameters, "each": each})

    def page(self, step: Step, _place: Place, each: str) -> Page:
        pages = self._left.get(step.name)
        if step.for_each:
            pages = pages.get(each) if isinstance(pages, dict) else None
        if not isinstance(pages, list) or not pages:
            value = f" for {each!r}" if step.for_each else ""
            text = f"the fixture has no further page{value}: answers must contain a list of pages for each step"
            raise SourceError(text, kind=FailureKind.BROKEN)
        return pages.pop(0), ""

    def unused_steps(self) -> list[str]:
        """Return the names of the steps with pages that were not requested."""
        steps = {
            name: list(pages.values()) if isinstance(pages, dict) else [pages] for name, pages in self._left.items()
        }
        return [name for name, pages in steps.items() if any(pages)]


def read(file: Path) -> Fixture:
    """Return the fixture in a file. Raises ConfigError if the file cannot be read or is not a valid fixture."""
    try:
        return msgspec.json.decode(atomic.read_foreign(file, _MAX_FIXTURE), type=Fixture)
    except OSError as error:
        text = f"cannot be read: {error.strerror}"
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        text = f"is not a valid fixture: {error}"
    raise ConfigError([Problem(str(file), None, "", text)])


def dry_run(recipe_name: str, fixture: Fixture) -> DryRunResult:
    """Return the result of a recipe on a fixture.

    Raises ConfigError if the recipe or its parameters are invalid. Raises SourceError as a real fetch does, and if the
    fixture has too few or too many pages.
    """
    recipe = load(recipe_name)
    parameters = parameter_values(recipe, fixture.parameters)
    if missing := recipe.parameters.keys() - parameters.keys():
        text = f"the fixture's parameters lack {', '.join(sorted(missing))}"
        raise ConfigError([Problem(recipe_name, None, "", text)])
    recipe = with_parameters(recipe, parameters)
    if wrong := [Problem(recipe_name, None, ".".join(keys), text) for keys, text in problems(recipe)]:
        raise ConfigError(wrong)
    sink, answers = _MemorySink(), _RecordedAnswers(fixture.answers, parameters)
    answer = run_recipe(recipe, answers, _LIMITS, Request(None, sink, lambda *_: None))
    if unused := answers.unused_steps():
        text = f"the fixture has pages that were not requested, of {', '.join(unused)}"
        raise SourceError(text, kind=FailureKind.BROKEN)
    addresses = sink.addresses
    expected = addresses if fixture.expected is None else set(fixture.expected)
    return DryRunResult(
        answer,
        tuple(sorted(addresses)),
        tuple(sink.rejected),
        tuple(sorted(expected - addresses)),
        tuple(sorted(addresses - expected)),
    )
