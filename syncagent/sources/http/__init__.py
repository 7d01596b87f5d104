"""Addresses from a primary over HTTP: a plain list, or an API that a recipe describes.

``transport`` asks one server and ``auth`` says who we are. ``lines`` reads a plain list. An API is described by a
recipe: ``recipe`` says what that is and ``judge`` reads it, ``engine`` follows it, by ``walk`` through the pages, by
``paths`` and ``rules`` into the records, by ``facts`` to what they say; ``recipes`` does it for real, ``rehearse``
without a network.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal
from urllib.parse import urlsplit

from msgspec import Struct

from syncagent.addresses import too_long
from syncagent.sources import Watched
from syncagent.values.types import Domain, Duration, RecipeFile, SecretFile, Size

if TYPE_CHECKING:
    from collections.abc import Iterator

    from syncagent.sources import Source


_MOST_OF_A_LIST, _MOST_OF_A_PAGE = 1 << 30, 64 << 20


class Config(Struct, frozen=True, kw_only=True):
    """Keys of ``type = "http"``."""

    url: str = ""
    """Where the list is, https://HOST/PATH, or the API; a recipe may know it."""
    format: Literal["lines"] | None = None
    """A plain list, and how it is written: an address a line, as in a file."""
    recipe: RecipeFile | None = None
    """An API, and its recipe: one of syncagent's by its name, or the path of a file, with a / in it."""
    parameters: dict[str, str] = {}
    """What the recipe wants to know."""
    domains: tuple[Domain, ...] = ()
    """What completes a bare local part: each of these."""
    foreign: bool = False
    """Whether the list may lack its last line "# end COUNT SHA256", since another program writes it."""
    token_file: SecretFile | None = None
    """The file with a token, which is sent as Authorization: Bearer."""
    username: str = ""
    """Who we are, with password_file: HTTP basic authentication."""
    password_file: SecretFile | None = None
    """The file with the password of username."""
    ca_file: Path | None = None
    """The authority that signed the server's certificate, as PEM; the system's own authorities unless set."""
    client_cert_file: SecretFile | None = None
    """A client certificate, as PEM."""
    client_key_file: SecretFile | None = None
    """The key of the client certificate, as PEM; in the same file unless set."""
    insecure: bool = False
    """Whether an http:// URL is asked: the list and what we send are then in the clear."""
    connect_timeout: Duration = Duration(10)
    """How long to wait for a connection, and for its TLS."""
    read_timeout: Duration = Duration(60)
    """How long to wait for the server to go on."""
    max_body: Size | None = None
    """The most that an answer may be, as it is sent and once it is unpacked: 1G for a list, 64M for an API's page."""
    max_pages: int = 10_000
    """The most pages that a list may have."""
    max_records: int = 10_000_000
    """The most records that a list may have."""
    full_interval: Duration = Duration(86400)
    """How long the server may say that a plain list is the same, until all of it is asked for."""

    @property
    def most(self) -> int:
        """The most octets of an answer: a list streams by, an API's answer is taken to memory, many times its size."""
        return self.max_body if self.max_body is not None else _MOST_OF_A_LIST if self.format else _MOST_OF_A_PAGE


def build(config: Config) -> Source:
    """Make the source; nothing is asked yet."""
    if config.recipe is not None:
        from syncagent.sources.http.recipe.source import RecipeSource

        return RecipeSource(config)
    from syncagent.sources.http.plain_list import ListSource

    return ListSource(config)


def problems(config: Config) -> Iterator[tuple[str, str]]:
    """Give what no single key can show; see ``syncagent.sources``."""
    if (config.format is None) == (config.recipe is None):
        yield "format", 'is missing: format = "lines" for a plain list, or recipe = "..." for an API, one of them'
    elif config.recipe is not None:
        from syncagent.sources.http.recipe.validate import of_config

        yield from of_config(config)
    if config.url or config.recipe is None:
        yield from (("url", text) for text in _url_problems(config))
    if config.username and config.password_file is None:
        yield "password_file", "is missing: username needs a password"
    if config.password_file is not None and not config.username:
        yield "username", "is missing: whose password is in password_file?"
    if config.token_file is not None and config.username:
        yield "token_file", "and username are two ways to say who we are: take one"
    if config.client_key_file is not None and config.client_cert_file is None:
        yield "client_cert_file", "is missing: client_key_file is the key of what?"
    for key in ("connect_timeout", "read_timeout", "max_body", "max_pages", "max_records"):
        value = getattr(config, key)
        if value is not None and value <= 0:
            yield key, "expected more than nothing"


def watched(config: Config) -> Iterator[Watched]:
    """Give a recipe of one's own: when it changes, it is followed anew."""
    if config.recipe is not None and "/" in config.recipe:
        yield Watched(Path(config.recipe))


def _url_problems(config: Config) -> Iterator[str]:
    if reason := too_long(config.url):  # the name of a host is normalized
        yield reason
        return
    if "@" in urlsplit(config.url.partition("?")[0].replace("[", "").replace("]", "")).netloc:
        yield "a URL has no user or password in it: see username, password_file and token_file"
        return
    try:
        parts = urlsplit(config.url)
        port = parts.port
    except ValueError as error:
        yield f"is not a URL: {error}"
        return
    if parts.scheme not in {"http", "https"} or not parts.hostname or port == 0:
        yield f'expected https://HOST/PATH, not "{config.url}"'
    elif parts.fragment or any(char.isspace() or not char.isprintable() for char in config.url):
        yield f"{config.url!r} has white space or a fragment in it"
    elif parts.scheme == "http" and not config.insecure:
        yield "http:// sends everything in the clear: use https://, or set insecure = true"
