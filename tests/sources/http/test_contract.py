"""A plain list over HTTPS does what every source does."""

import hashlib
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

from syncagent.sources import Source
from syncagent.sources.http import build
from tests.sources.contract import SourceContract, Subject
from tests.sources.http import config, ended
from tests.support.authority import Authority
from tests.support.scripted_http import Asked, Part, ScriptedHTTP, answer


@pytest.fixture(scope="module")
def authority() -> Authority:
    """A CA."""
    return Authority()


class _List(Subject):
    """A list with an ETag."""

    line_breaks = False

    def __init__(self, server: ScriptedHTTP, ca_file: Path) -> None:
        self._server, self._ca_file = server, ca_file
        self._body, self._broken = b"", False
        self.trouble = f"{server.url}/list"
        server.routes["/list"] = self._say

    def _say(self, asked: Asked) -> Iterable[Part]:
        etag = f'"{hashlib.sha256(self._body).hexdigest()}"'
        if self._broken:
            return answer("out of order", 500)
        if asked.headers.get("if-none-match") == etag:
            return answer(b"", 304, etag=etag)
        return answer(self._body, etag=etag)

    def build(self) -> Source:
        """Make the source."""
        return build(config(f"{self._server.url}/list", ca_file=self._ca_file))

    def set_entries(self, entries: list[str]) -> None:
        """Publish a list of them."""
        self._body = ended(entries)

    def break_it(self) -> None:
        """Answer with an error."""
        self._broken = True

    def mend_it(self) -> None:
        """Answer again."""
        self._broken = False


@pytest.fixture
def subject(authority: Authority, tmp_path: Path) -> Iterator[Subject]:
    """A list that a server publishes."""
    with ScriptedHTTP(authority.server_context(tmp_path, "localhost")) as server:
        yield _List(server, authority.ca_file(tmp_path))


class TestContract(SourceContract):
    """All of it."""
