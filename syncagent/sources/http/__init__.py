"""Addresses from a primary over HTTP: a plain list, or an API that a recipe describes.

``client`` sends requests to one server, ``cancel`` aborts them, ``authentication`` acquires the credentials.
``plain_list`` is the source of a list and ``recipe.source`` that of an API. A recipe is data: ``recipe.model`` defines
it, ``recipe.validate`` loads and validates it, and ``recipe.run`` executes it with ``recipe.pagination``,
``recipe.json_path``, ``recipe.conditions`` and ``recipe.extract``. ``recipe.dry_run`` executes it on recorded answers.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal
from urllib.parse import urlsplit

from syncagent.sources import Watched
from syncagent.sources.connection_keys import ConnectionKeys, UrlRules, key_problems, url_problem
from syncagent.values.types import Domain, Duration, RecipeFile, SecretFile, Size

if TYPE_CHECKING:
    from collections.abc import Iterator

    from syncagent.sources import Source


_MAX_LIST, _MAX_PAGE = 1 << 30, 64 << 20
_URL = UrlRules(
    frozenset({"http", "https"}), "https://HOST/PATH", "username, password_file and token_file", has_path=True
)


class Config(ConnectionKeys, frozen=True, kw_only=True):
    """The configuration of a source with ``type = "http"``."""

    url: str = ""
    """The URL of the list, https://HOST/PATH, or the base URL of the API, which a recipe may contain."""
    format: Literal["lines"] | None = None
    """The format of a plain list: "lines" is one address a line, as in a file."""
    recipe: RecipeFile | None = None
    """The recipe of an API. The path of a recipe file must contain a /."""
    parameters: dict[str, str] = {}  # noqa: RUF012 - msgspec copies the default of a Struct
    """Values of the recipe's parameters."""
    domains: tuple[Domain, ...] = ()
    """Domains that a bare local part is completed with: each of them."""
    foreign: bool = False
    """Whether the list may lack the last line "# end COUNT SHA256", because another program writes it."""
    token_file: SecretFile | None = None
    """The file with a token, which is sent as Authorization: Bearer, unless the recipe has another way."""
    username: str = ""
    """The user name, with password_file: HTTP Basic authentication, unless the recipe has another way."""
    password_file: SecretFile | None = None
    """The file with the password of username."""
    insecure: bool = False
    """Whether an http:// URL is allowed: the list and the credentials are then sent unencrypted."""
    connect_timeout: Duration = Duration(10)
    """The timeout for the connection and its TLS handshake."""
    read_timeout: Duration = Duration(60)
    """The timeout for each read from the server."""
    max_body: Size | None = None
    """The maximum size of an answer, as sent and decompressed; 1G for a list and 64M for an API's page unless set."""
    max_pages: int = 10_000
    """The maximum number of pages of a list of the API."""
    max_records: int = 10_000_000
    """The maximum number of records of a step of the recipe."""
    full_interval: Duration = Duration(86400)
    """How often a plain list is fetched in full, even if the server answers that it has not changed."""

    @property
    def max_answer(self) -> int:
        """Maximum size of an answer in octets: max_body, or its default.

        The default of a list is larger: a list is streamed, but an API's page is decoded in memory as a whole.
        """
        return self.max_body if self.max_body is not None else _MAX_LIST if self.format else _MAX_PAGE


def build(config: Config) -> Source:
    """Return the source of a plain list or of an API. Reads no file and sends no request."""
    if config.recipe is not None:
        from syncagent.sources.http.recipe.source import RecipeSource

        return RecipeSource(config)
    from syncagent.sources.http.plain_list import ListSource

    return ListSource(config)


def problems(config: Config) -> Iterator[tuple[str, str]]:
    """Yield (key, text) for each problem that the type of a key cannot express; see ``syncagent.sources``.

    Reads and validates the recipe, if any.
    """
    if (config.format is None) == (config.recipe is None):
        yield "format", 'expected format = "lines" for a plain list or recipe = "..." for an API, exactly one of them'
    elif config.recipe is not None:
        from syncagent.sources.http.recipe.validate import config_problems

        yield from config_problems(config)
    if config.url or config.recipe is None:
        yield from (("url", text) for text in _url_problems(config.url, insecure=config.insecure))
    yield from key_problems(config, "username")
    if config.token_file is not None and config.username:
        yield "token_file", "cannot be combined with username: choose one kind of credentials"
    for key in ("max_body", "max_pages", "max_records"):
        value = getattr(config, key)
        if value is not None and value <= 0:
            yield key, f"expected more than 0, got {value}"


def watched(config: Config) -> Iterator[Watched]:
    """Yield the recipe's file unless syncagent ships the recipe. The agent fetches at once when the file changes."""
    if config.recipe is not None and "/" in config.recipe:
        yield Watched(Path(config.recipe))


def _url_problems(url: str, *, insecure: bool) -> Iterator[str]:
    """Yield a text for the first problem of a URL, if any."""
    if text := url_problem(url, _URL):
        yield text
        return
    parts = urlsplit(url)
    if parts.fragment or any(char.isspace() or not char.isprintable() for char in url):
        yield f"{url!r} contains white space or a fragment"
    elif parts.scheme == "http" and not insecure:
        yield "http:// sends everything unencrypted: use https://, or set insecure = true"
