"""Runs of the program's own Fetcher over sources that are functions."""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from msgspec import Struct

from syncagent.config.tables import SourceConfig
from syncagent.sources import Answer, Common, Request
from syncagent.sync.fetch import Fetched, Fetcher
from syncagent.values.types import Duration, SecretFile

if TYPE_CHECKING:
    from syncagent.model import Note, SourceState

Fetch = Callable[[Request], Answer]
NOW = 1_000_000_000.0
"""When a run is, unless told otherwise."""


class Own(Struct, frozen=True, kw_only=True):
    """Configuration of a source that is a function."""

    password_file: SecretFile | None = None


class Says:
    """A source that is a function; ``count`` says how often it was asked."""

    def __init__(self, fetch: Fetch) -> None:
        self._fetch, self.count = fetch, 0

    def fetch(self, request: Request) -> Answer:
        """See Source.fetch."""
        self.count += 1
        return self._fetch(request)

    def configured(  # noqa: PLR0913 - keys of a source
        self,
        name: str = "a",
        *,
        digest: str = "",
        secret: Path | None = None,
        deadline: float | None = None,
        allow_empty: bool = False,
        confirm_after: float = 0.0,
    ) -> SourceConfig:
        """Return the configuration that leads to it; removals wait for the grace alone unless told otherwise."""
        return SourceConfig(
            name=name,
            common=Common(
                type="says",
                deadline=None if deadline is None else Duration(deadline),
                allow_empty=allow_empty,
                confirm_after=Duration(confirm_after),
            ),
            own=Own(password_file=None if secret is None else SecretFile(secret)),
            digest=digest,
            build=lambda _: self,
        )


def whole(*addresses: str, validator: str | None = None) -> Fetch:
    """Say these, whole."""

    def fetch(request: Request) -> Answer:
        request.sink.put((address, f"key {address}", "") for address in addresses)
        return Answer(validator=validator)

    return fetch


def fails(error: BaseException, *before: str) -> Fetch:
    """Put something, then raise."""

    def fetch(request: Request) -> Answer:
        request.sink.put((address, "k", "") for address in before)
        raise error

    return fetch


class Runs:
    """Runs that remember what the last one left."""

    def __init__(self, directory: Path) -> None:
        self.snapshots, self.spool = directory / "snapshots", directory / "spool"
        self.snapshots.mkdir()
        self.spool.mkdir()
        self.states: dict[str, SourceState] = {}
        self.notes: list[Note] = []
        self.count = 0

    def __call__(
        self, *configured: SourceConfig, now: float = NOW, looks: Iterable[str] = (), due: frozenset[str] | None = None
    ) -> list[Fetched]:
        """Do one; ``looks`` names the sources whose confirming look is due."""
        self.count += 1
        self.notes.clear()
        run_id, ignore = str(self.count), lambda *_: None
        fetcher = Fetcher(
            self.snapshots, self.snapshots, self.spool, run_id, now, ignore, self.notes, due, frozenset(looks)
        )
        fetched = fetcher.all({source.name: source for source in configured}, self.states)
        self.states = {one.state.name: one.state for one in fetched}
        return fetched


def lines(fetched: Fetched) -> list[str]:
    """Give the addresses in force for a source."""
    assert fetched.snapshot is not None
    return [line.partition("\t")[0] for line in fetched.snapshot.read_text(encoding="utf-8").splitlines()[:-1]]
