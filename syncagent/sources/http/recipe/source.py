"""An API that a recipe describes, asked for real."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

from msgspec.structs import replace

from syncagent.errors import FailureKind, SourceError
from syncagent.sources.http.asking import Asking
from syncagent.sources.http.recipe.model import bound, filled, parameters
from syncagent.sources.http.recipe.validate import load, of_config

if TYPE_CHECKING:
    from syncagent.sources import Answer, Request
    from syncagent.sources.http import Config
    from syncagent.sources.http.client import Transport
    from syncagent.sources.http.recipe.model import Recipe, Step
    from syncagent.sources.http.recipe.pagination import Place
    from syncagent.sources.http.recipe.run import Page


class RecipeSource(Asking):
    """Follows a recipe at a primary: as it is then, since an agent may run for years."""

    def __init__(self, config: Config) -> None:
        """Ask nothing yet."""
        self._config = config

    def fetch(self, request: Request) -> Answer:
        """See Source.fetch."""
        from syncagent.sources.http.authentication import sign
        from syncagent.sources.http.recipe.run import Limits, follow

        config, (recipe, given) = self._config, self._read()
        config = replace(config, url=(config.url or recipe.url).rstrip("/"))
        with self._asked(config, request.ends) as transport:
            sign(transport, config, recipe.auth, given)
            primary = _Primary(transport, config.url, given, recipe.rate_words)
            answer = follow(recipe, primary, Limits(config.max_pages, config.max_records), request)
        return replace(answer, mode=Path(config.recipe or "").name)

    def _read(self) -> tuple[Recipe, dict[str, str]]:
        """Read the recipe, which fits the configuration or is none, with its parameters. Raises SourceError."""
        problems = [f"{key}: {text}" for key, text in of_config(self._config)]
        if problems:
            raise SourceError("; ".join(problems), kind=FailureKind.BROKEN)
        recipe = load(self._config.recipe or "")
        given = parameters(recipe, self._config.parameters)
        return bound(recipe, given), given


@dataclass(frozen=True, slots=True)
class _Primary:
    """See ``engine.Primary``."""

    transport: Transport
    url: str
    given: dict[str, str]
    rate_words: tuple[str, ...]

    def start(self, step: Step, each: str) -> Place:
        return start(self.url, step, {**self.given, "each": each})

    def page(self, step: Step, place: Place, each: str) -> Page:
        from syncagent.sources.http.client import Ask

        given = {**self.given, "each": each, "page": place.number, "offset": place.number}
        body = filled(step.body, given) if step.body else None
        ask = Ask(step.method, query=place.query, json=body, rate_words=self.rate_words)
        with self.transport.ask(place.url, ask) as response:
            by_header = step.paging is not None and step.paging.kind == "link_header"
            return response.json(), response.next_link if by_header else ""


def start(url: str, step: Step, given: dict[str, str]) -> Place:
    """Give where a step begins below ``url``."""
    from syncagent.sources.http.recipe.pagination import Place

    path = filled(step.path, {name: quote(value, safe="") for name, value in given.items()})
    return Place(f"{url}{path}", {name: filled(value, given) for name, value in step.query.items()})
