"""The mail domains that a directory says it serves, asked of a real slapd."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from msgspec.structs import replace

from syncagent.config.tables import SourceConfig
from syncagent.sources import Common, ldap
from syncagent.sync.fetch import Fetched
from syncagent.values.types import SecretFile, Urls
from tests.support.fetching import Runs
from tests.support.slapd import SUFFIX, SYNC, SYNC_PASSWORD, Slapd, people

DOMAINS = f"ou=domains,{SUFFIX}"


@pytest.fixture(name="server", scope="module")
def fixture_server() -> Iterator[Slapd]:
    """A directory of three people and two domains."""
    server = Slapd()
    server.load(people(3))
    with server:
        server.add(DOMAINS, objectClass="organizationalUnit")
        for name in ("example.com", "new.example"):
            server.add(f"o={name},{DOMAINS}", objectClass="organization")
        yield server


class Asking:
    """Asks in one run after another, by one source."""

    def __init__(self, server: Slapd, directory: Path, **keys: str) -> None:
        secret = directory / "secret"
        secret.touch(mode=0o600)
        secret.write_text(SYNC_PASSWORD, "utf-8")
        own = ldap.Config(
            url=Urls([server.url]), base=SUFFIX, insecure=True, bind_dn=SYNC, password_file=SecretFile(secret)
        )
        own = replace(own, **{"domain_attribute": "o", "domain_base": DOMAINS, **keys})
        assert not list(ldap.problems(own))
        self.source = SourceConfig(name="corp", common=Common(type="ldap"), own=own, digest="", build=ldap.build)
        self.run = Runs(directory)

    def fetch(self) -> Fetched:
        """Do one run."""
        (fetched,) = self.run(self.source)
        return fetched


def test_domains_are_asked_for_each_time(server: Slapd, tmp_path: Path) -> None:
    """They come with everything, and in a run in which no address changed."""
    asking = Asking(server, tmp_path)
    assert set(asking.fetch().state.domains) == {"example.com", "new.example"}
    server.add(f"o=third.example,{DOMAINS}", objectClass="organization")
    again = asking.fetch()
    assert set(again.state.domains) == {"example.com", "new.example", "third.example"}
    assert again.report.entries == 3


def test_a_filter_chooses_among_them(server: Slapd, tmp_path: Path) -> None:
    """Only entries that match the filter are domains."""
    assert Asking(server, tmp_path, domain_filter="(o=new.example)").fetch().state.domains == ("new.example",)


@pytest.mark.parametrize("keys", [{"domain_base": f"ou=people,{SUFFIX}"}, {"domain_filter": "(o=none.example)"}])
def test_no_domain_at_all_fails(server: Slapd, tmp_path: Path, keys: dict[str, str]) -> None:
    """A directory that shows no domain is asked for the wrong thing, or its read right is lost."""
    assert "no entry has a value of o" in Asking(server, tmp_path, **keys).fetch().report.error


def test_the_domains_of_a_failing_directory_stay(server: Slapd, tmp_path: Path) -> None:
    """What it said last stays in force."""
    asking = Asking(server, tmp_path)
    known = asking.fetch().state.domains
    asking.source = replace(asking.source, own=replace(asking.source.own, url=Urls(["ldap://127.0.0.1:1"])))
    failed = asking.fetch()
    assert failed.report.error
    assert failed.state.domains == known


def test_a_malformed_filter_is_named(server: Slapd, tmp_path: Path) -> None:
    """Of the filters of a configuration the malformed one is named."""
    failed = Asking(server, tmp_path, filter="(mail=*)", domain_filter="(&(o=*)(o))").fetch()
    assert "filter (&(o=*)(o)) is malformed" in failed.report.error
