"""Tests of the LDAP source, and what they share: a configuration of it, and runs that ask it."""

from pathlib import Path
from typing import Any

from syncagent.config.tables import SourceConfig
from syncagent.sources import Common
from syncagent.sources.ldap import Config, build, problems
from syncagent.sync.fetch import Fetched
from syncagent.values.types import SecretFile, Urls
from tests.support.fetching import Runs
from tests.support.slapd import SUFFIX, SYNC, SYNC_PASSWORD, Slapd


def secret(directory: Path, password: str = SYNC_PASSWORD) -> SecretFile:
    """Write a password where only its owner can read it."""
    file = directory / "password"
    file.touch(mode=0o600)
    file.write_text(f"{password}\n", "utf-8")
    return SecretFile(file)


def config(directory: Path, *urls: str, **keys: Any) -> Config:  # noqa: ANN401 - any key of it
    """Return a configuration without problems: bound with a password, plain ldap:// unless `ca_file` is given."""
    for name in ("client_cert_file", "client_key_file"):
        if name in keys:
            keys[name] = SecretFile(keys[name])
    own = Config(
        **{
            "url": Urls(urls),
            "base": SUFFIX,
            "attributes": ("proxyAddresses", "mail"),
            "bind_dn": SYNC,
            "password_file": secret(directory),
            "insecure": "ca_file" not in keys,
            **keys,
        }
    )
    assert not list(problems(own))
    return own


class Asked:
    """The source, asked in one run after the other as the agent would ask it: one object, what it said remembered."""

    def __init__(self, directory: Path, *urls: str, **keys: Any) -> None:  # noqa: ANN401 - any key of it
        self.directory = directory
        self.runs = Runs(directory)
        self.configure(*urls, **keys)

    def configure(self, *urls: str, allow_empty: bool = False, **keys: Any) -> None:  # noqa: ANN401 - any key of it
        """Ask by another configuration from now on, with what was said by the old one remembered."""
        own = config(self.directory, *urls, **keys)
        self.configured = SourceConfig(
            name="corp",
            common=Common(type="ldap", allow_empty=allow_empty),
            own=own,
            digest=repr(own),
            build=build,
        )

    def restart(self) -> None:
        """Be another process: no connection is open."""
        self.configured = SourceConfig(
            name="corp",
            common=self.configured.common,
            own=self.configured.own,
            digest=self.configured.digest,
            build=build,
        )

    def fetch(self) -> Fetched:
        """Do a run."""
        (fetched,) = self.runs(self.configured)
        return fetched

    def whole(self) -> Fetched:
        """Do a run that must not fail."""
        fetched = self.fetch()
        assert fetched.report.state != "failing", fetched.report.error
        return fetched

    def entries(self) -> dict[str, set[str]]:
        """Do a run that must not fail, and give the addresses in force, by label."""
        return by_label(self.whole())


def by_label(fetched: Fetched) -> dict[str, set[str]]:
    """Return the addresses in force by label."""
    assert fetched.snapshot is not None
    addresses: dict[str, set[str]] = {}
    for line in fetched.snapshot.read_text("utf-8").splitlines()[:-1]:
        address, _, label = line.split("\t")
        if address:
            addresses.setdefault(label, set()).add(address)
    return addresses


def searched(slapd: Slapd) -> list[tuple[str, int]]:
    """Return each search below the suffix since the last call: its filter, and how many entries it returned.

    The probe that tells lost read access from a deletion is left out.
    """
    found = []
    for operation in slapd.operations():
        if "scope=2" in operation and "entryUUID" not in operation:
            assert operation.endswith((*(f"nentries={count}" for count in range(11)),)), operation
        elif "scope=2" in operation:
            wanted = operation.partition('filter="')[2].partition('"')[0]
            found.append((wanted, int(operation.rpartition("nentries=")[2] or 0)))
    slapd.forget_operations()
    return found
