"""Tests of the HTTP source, and what they share: a configuration of it, and runs that ask it."""

import hashlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from syncagent.config.tables import SourceConfig
from syncagent.sources import Common
from syncagent.sources.http import Config, build, problems
from syncagent.sync.fetch import Fetched
from syncagent.values.types import SecretFile
from tests.support.fetching import Runs

TOKEN = "token-4711-secret"


def secret(directory: Path, text: str = TOKEN) -> SecretFile:
    """Write a secret where only its owner can read it."""
    file = directory / f"secret-{len(text)}"
    file.touch(mode=0o600)
    file.write_text(f"{text}\n", "utf-8")
    return SecretFile(file)


def config(url: str, **keys: Any) -> Config:  # noqa: ANN401 - any key of it
    """Return a configuration that has no problems."""
    form = {} if "recipe" in keys else {"format": "lines"}
    own = Config(**{"url": url, "insecure": url.startswith("http:"), **form, **keys})
    assert not list(problems(own))
    return own


def ended(lines: Iterable[str]) -> bytes:
    """Write a plain list with the last line that proves it whole."""
    body = "".join(f"{line}\n" for line in lines).encode()
    return body + f"# end {body.count(b'%c' % 10)} {hashlib.sha256(body).hexdigest()}\n".encode()


class Asked:
    """The source, asked in one run after the other as the agent would ask it."""

    def __init__(self, directory: Path, url: str, *, deadline: float | None = None, **keys: Any) -> None:  # noqa: ANN401
        directory.mkdir(exist_ok=True)
        self.runs = Runs(directory)
        own = config(url, **keys)
        common = Common(type="http", deadline=deadline)  # type: ignore[arg-type] # as good as a Duration
        self.configured = SourceConfig(name="primary", common=common, own=own, digest=repr(own), build=build)

    def fetch(self, now: float = 1e9) -> Fetched:
        """Do a run."""
        (fetched,) = self.runs(self.configured, now=now)
        return fetched

    def whole(self) -> Fetched:
        """Do a run that must not fail."""
        fetched = self.fetch()
        assert fetched.report.state != "failing", fetched.report.error
        return fetched

    def addresses(self) -> list[str]:
        """Do a run that must not fail, and give the addresses in force, rejects apart."""
        return addresses(self.whole())


def addresses(fetched: Fetched) -> list[str]:
    """Return the addresses in force."""
    assert fetched.snapshot is not None
    lines = fetched.snapshot.read_text("utf-8").splitlines()[:-1]
    return [line.partition("\t")[0] for line in lines if not line.startswith("\t")]
