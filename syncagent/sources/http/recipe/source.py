"""The source that runs a recipe against a server."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

from msgspec.structs import replace

from syncagent.errors import FailureKind, SourceError
from syncagent.sources.http.cancel import CancellableSource
from syncagent.sources.http.recipe.model import fill_placeholders, parameter_values, with_parameters
from syncagent.sources.http.recipe.validate import config_problems, load

if TYPE_CHECKING:
    from syncagent.sources import Answer, Request
    from syncagent.sources.http import Config
    from syncagent.sources.http.client import Client
    from syncagent.sources.http.recipe.model import Recipe, Step
    from syncagent.sources.http.recipe.pagination import Place
    from syncagent.sources.http.recipe.run import Page


class RecipeSource(CancellableSource):
    """Source that runs a recipe. Each fetch loads the recipe, since its file may change while the agent runs."""

    def __init__(self, config: Config) -> None:
        """Store the configuration. Nothing is sent yet."""
        self._config = config

    def fetch(self, request: Request) -> Answer:
        """Authenticate and run the recipe. The answer's mode is the file name of the recipe.

        Raises SourceError if the recipe is invalid, or if a request or the recipe fails. See
        ``syncagent.sources.Source``.
        """
        from syncagent.sources.http.authentication import authenticate
        from syncagent.sources.http.client import Client
        from syncagent.sources.http.recipe.run import Limits, run_recipe

        config, (recipe, parameters) = self._config, self._read()
        config = replace(config, url=(config.url or recipe.url).rstrip("/"))
        with Client(config, request.ends) as client, self._cancellable(client):
            authenticate(client, config, recipe.auth, parameters)
            primary = _Primary(client, config.url, parameters, recipe.rate_words)
            answer = run_recipe(recipe, primary, Limits(config.max_pages, config.max_records), request)
        return replace(answer, mode=Path(config.recipe or "").name)

    def _read(self) -> tuple[Recipe, dict[str, str]]:
        """Return the recipe and the values of its parameters. Raises SourceError if the configuration is invalid."""
        problems = [f"{key}: {text}" for key, text in config_problems(self._config)]
        if problems:
            raise SourceError("; ".join(problems), kind=FailureKind.BROKEN)
        recipe = load(self._config.recipe or "")
        parameters = parameter_values(recipe, self._config.parameters)
        return with_parameters(recipe, parameters), parameters


@dataclass(frozen=True, slots=True)
class _Primary:
    """A ``recipe.run.Primary`` whose pages come from a server."""

    client: Client
    url: str
    parameters: dict[str, str]
    rate_words: tuple[str, ...]

    def start(self, step: Step, each: str) -> Place:
        return first_place(self.url, step, {**self.parameters, "each": each})

    def page(self, step: Step, place: Place, each: str) -> Page:
        from syncagent.sources.http.client import HttpRequest

        values = {**self.parameters, "each": each, "page": place.number, "offset": place.number}
        body = fill_placeholders(step.body, values) if step.body else None
        request = HttpRequest(step.method, query=place.query, json=body, rate_words=self.rate_words)
        with self.client.send(place.url, request) as response:
            by_header = step.paging is not None and step.paging.kind == "link_header"
            return response.json(), response.next_link if by_header else ""


def first_place(url: str, step: Step, values: dict[str, str]) -> Place:
    """Return the place where a step begins: its path below ``url``, and its query, with ``values`` for placeholders."""
    from syncagent.sources.http.recipe.pagination import Place

    path = fill_placeholders(step.path, {name: quote(value, safe="") for name, value in values.items()})
    return Place(f"{url}{path}", {name: fill_placeholders(text, values) for name, text in step.query.items()})
