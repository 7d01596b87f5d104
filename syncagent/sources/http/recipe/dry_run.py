"""Follow a recipe through answers that were written down, without a network: ``syncagent recipe test FILE FIXTURE``.

A fixture is JSON: ``answers`` has for each step the bodies of its pages, in the order in which they are asked for (for
a step with ``for_each``, an object that has them for each value). ``parameters`` are those of the recipe; ``expected``
lists the addresses and ``@domain`` catch-alls that are to come out.
"""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

import msgspec
from msgspec import Struct

from syncagent.addresses import UnusableError, canonical
from syncagent.errors import ConfigError, FailureKind, Problem, SourceError
from syncagent.files import atomic as files
from syncagent.sources import Answer, Request
from syncagent.sources.http.recipe.model import bound, parameters
from syncagent.sources.http.recipe.run import Limits, follow
from syncagent.sources.http.recipe.source import start
from syncagent.sources.http.recipe.validate import load, problems

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from syncagent.model import Entry
    from syncagent.sources.http.recipe.model import Step
    from syncagent.sources.http.recipe.pagination import Place
    from syncagent.sources.http.recipe.run import Page

ORIGIN = "https://primary.example.com"
"""Where the answers of a fixture are said to come from, so that a next-link in them can be on the same host."""
_LIMITS = Limits(1000, 1_000_000)
_MOST = 64 << 20
"""The most octets that a fixture has: as many as an API's page."""


class Fixture(Struct, forbid_unknown_fields=True):
    """Answers that were written down, and what has to come out."""

    answers: dict[str, Any]
    expected: list[str] | None = None
    parameters: dict[str, str] = {}


class Rehearsal(Struct, frozen=True):
    """What came out: the addresses, sorted, the rejects with their reasons, and how far that is what was expected."""

    answer: Answer
    addresses: tuple[str, ...]
    rejected: tuple[tuple[str, str], ...]
    missing: tuple[str, ...]
    unexpected: tuple[str, ...]


class _Gathered:
    """A sink that keeps what comes."""

    def __init__(self) -> None:
        self.restart()

    def put(self, entries: Iterable[Entry]) -> None:
        for spelled, key, _ in entries:
            try:
                self.addresses.add(canonical(spelled))
            except UnusableError as error:
                self.reject(spelled, str(error), key)

    def reject(self, spelled: str, reason: str, _key: str) -> None:
        self.rejected.append((spelled, reason))

    def ignore(self, count: int) -> None:
        """Count nothing."""

    def restart(self) -> None:
        self.addresses: set[str] = set()
        self.rejected: list[tuple[str, str]] = []

    def amend(self, *, last: bool) -> None:
        raise NotImplementedError

    def forget(self, keys: Iterable[str]) -> None:
        raise NotImplementedError

    retain = forget


class _Answers:
    """Hands out the pages in order; see ``engine.Primary``."""

    def __init__(self, answers: dict[str, Any], given: dict[str, str]) -> None:
        self._left, self._given = copy.deepcopy(answers), given

    def start(self, step: Step, each: str) -> Place:
        return start(ORIGIN, step, {**self._given, "each": each})

    def page(self, step: Step, _place: Place, each: str) -> Page:
        pages = self._left.get(step.name)
        if step.for_each:
            pages = pages.get(each) if isinstance(pages, dict) else None
        if not isinstance(pages, list) or not pages:
            what = f" for {each!r}" if step.for_each else ""
            text = f"the fixture has no page{what} that is asked for; answers has a list of pages for each step"
            raise SourceError(text, kind=FailureKind.BROKEN)
        return pages.pop(0), ""

    def left(self) -> list[str]:
        """Give the steps that have pages nobody asked for."""
        several = {
            name: list(pages.values()) if isinstance(pages, dict) else [pages] for name, pages in self._left.items()
        }
        return [name for name, pages in several.items() if any(pages)]


def read(file: Path) -> Fixture:
    """Read a fixture. Raises ConfigError."""
    try:
        return msgspec.json.decode(files.read_foreign(file, _MOST), type=Fixture)
    except OSError as error:
        text = f"cannot be read: {error.strerror}"
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        text = f"is no fixture: {error}"
    raise ConfigError([Problem(str(file), None, "", text)])


def rehearse(recipe_name: str, fixture: Fixture) -> Rehearsal:
    """Follow a recipe through a fixture. Raises ConfigError, and SourceError as a real fetch would."""
    recipe = load(recipe_name)
    given = parameters(recipe, fixture.parameters)
    if absent := recipe.parameters.keys() - given.keys():
        raise ConfigError(
            [Problem(recipe_name, None, "", f"the fixture's parameters lack {', '.join(sorted(absent))}")]
        )
    recipe = bound(recipe, given)
    if wrong := [Problem(recipe_name, None, ".".join(keys), text) for keys, text in problems(recipe)]:
        raise ConfigError(wrong)
    sink, answers = _Gathered(), _Answers(fixture.answers, given)
    request = Request(None, sink, lambda *_: None)
    answer = follow(recipe, answers, _LIMITS, request)
    if answers.left():
        text = f"pages that were not asked for: those of {', '.join(answers.left())}"
        raise SourceError(text, kind=FailureKind.BROKEN)
    found, expected = sink.addresses, set(fixture.expected if fixture.expected is not None else sink.addresses)
    return Rehearsal(
        answer,
        tuple(sorted(found)),
        tuple(sink.rejected),
        tuple(sorted(expected - found)),
        tuple(sorted(found - expected)),
    )
