"""The LDAP source does what every source does, in both of its modes, with a real slapd."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from syncagent.sources import Source
from syncagent.sources.ldap import build
from tests.sources.contract import SourceContract, Subject
from tests.sources.ldap import config
from tests.support.slapd import PEOPLE, Slapd


@pytest.fixture(scope="module")
def slapd() -> Iterator[Slapd]:
    """A directory without people."""
    with Slapd() as server:
        yield server


class _Directory(Subject):
    """People in a directory, each with one address."""

    def __init__(self, slapd: Slapd, directory: Path, mode: str) -> None:
        self._slapd, self._directory, self._mode = slapd, directory, mode
        self._count = 0
        self._there: list[str] = []
        self.trouble = slapd.url
        self.says_same = mode == "sync"

    def build(self) -> Source:
        """Make the source."""
        return build(config(self._directory, self._slapd.url, mode=self._mode, connect_timeout=2.0))

    def set_entries(self, entries: list[str]) -> None:
        """Replace the people."""
        for dn in self._there:
            self._slapd.delete(dn)
        self._there = []
        for spelled in entries:
            self._count += 1
            dn = f"uid={self._mode}{self._count},{PEOPLE}"
            self._slapd.add(dn, uid=f"{self._mode}{self._count}", proxyAddresses=f"smtp:{spelled}")
            self._there.append(dn)

    def break_it(self) -> None:
        """Stop the server."""
        self._slapd.stop()

    def mend_it(self) -> None:
        """Start it."""
        self._slapd.start()


@pytest.fixture(params=["poll", "sync"])
def subject(request: pytest.FixtureRequest, slapd: Slapd, tmp_path: Path) -> Iterator[Subject]:
    """A directory in one of the modes."""
    directory = _Directory(slapd, tmp_path, request.param)
    yield directory
    directory.mend_it()
    directory.set_entries([])


class TestContract(SourceContract):
    """All of it."""
