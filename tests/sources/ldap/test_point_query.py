"""Point queries before a removal: what the directory still has, and what it does not show; real slapd."""

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from syncagent.errors import SourceError
from syncagent.sources import Candidate, Confirmation
from syncagent.sources.ldap import build
from syncagent.sources.ldap.point_query import parent_of
from syncagent.sources.ldap.source import LdapSource
from tests.sources.ldap import config
from tests.sources.ldap.test_failures import person, scripted
from tests.support.slapd import PEOPLE, SUFFIX, SYNC, SYNC_PASSWORD, Slapd, people

SMALL = f"ou=small,{PEOPLE}"
PATIENCE = 60.0


@pytest.fixture(scope="module")
def directory() -> Iterator[Slapd]:
    """Some people, and a unit of two others."""
    server = Slapd()
    server.load(people(5))
    with server:
        server.add(SMALL, objectClass="organizationalUnit", ou="small")
        for name in ("a", "b"):
            server.add(f"uid={name},{SMALL}", uid=name, mail=f"{name}@example.com")
        yield server


@pytest.fixture
def slapd(directory: Slapd) -> Iterator[Slapd]:
    """That directory, put right again after the test."""
    with directory.lent() as server:
        yield server


@pytest.fixture
def source(slapd: Slapd, tmp_path: Path) -> LdapSource:
    """The source over it."""
    return source_of(slapd, tmp_path)


def source_of(slapd: Slapd, tmp_path: Path, **keys: Any) -> LdapSource:  # noqa: ANN401 - any key of the source
    """Return the source with these keys."""
    source = build(config(tmp_path, slapd.url, **keys))
    assert isinstance(source, LdapSource)
    return source


def ask(source: LdapSource, *candidates: tuple[str, str]) -> Confirmation:
    """Ask for addresses with their labels."""
    return source.confirm([Candidate(*candidate) for candidate in candidates], time.monotonic() + PATIENCE)


def confirmed() -> Confirmation:
    """Return the confirmation of removals that nothing speaks against."""
    return Confirmation()


def absent(name: str, container: str = PEOPLE) -> tuple[str, str]:
    """Return a person who is gone, or was never there."""
    return f"{name}@example.com", f"uid={name},{container}"


SPELLED = {
    "anna@example.com": {"mail": "Anna@Example.COM"},
    "berta@example.org": {"proxyAddresses": "SMTP:Berta@example.org"},
    "carl@example.org": {"proxyAddresses": "smtp:carl@example.org"},
    "dora@example.org": {"proxyAddresses": "dora@example.org"},
    '"a*b(c)"@example.com': {"proxyAddresses": 'smtp:"a*b(c)"@example.com'},
    '"a*b\\\\00"@example.com': {"proxyAddresses": "smtp:a*b\\00@example.com"},
    '"g h"@example.com': {"mail": '"g h"@example.com'},
    "dörte@xn--bcher-kva.example": {"proxyAddresses": "smtp:dörte@bücher.example"},
    "emil@xn--bcher-kva.example": {"mail": "emil@xn--bcher-kva.example"},
    "@example.net": {"proxyAddresses": "smtp:@example.net"},
}


def test_whatever_its_spelling_an_address_is_found(slapd: Slapd, source: LdapSource) -> None:
    """An address that the directory has is present, in any attribute, case, quoting and form of its domain."""
    for number, attributes in enumerate(SPELLED.values()):
        slapd.add(f"uid=s{number},{PEOPLE}", uid=f"s{number}", **attributes)
    try:
        asked = [(address, f"uid=s{number},{PEOPLE}") for number, address in enumerate(SPELLED)]
        answer = ask(source, *asked, absent("gone"))
        assert (answer.present, answer.unseen) == (frozenset(SPELLED), {})
    finally:
        for number in range(len(SPELLED)):
            slapd.delete(f"uid=s{number},{PEOPLE}")
    assert ask(source, *asked) == confirmed()


def test_who_moved_below_the_base_is_present(slapd: Slapd, source: LdapSource) -> None:
    """An address is found wherever its entry is now."""
    assert ask(source, ("a@example.com", f"uid=a,ou=elsewhere,{SUFFIX}")).present == {"a@example.com"}
    assert slapd.port


def test_who_left_the_filter_or_the_base_is_meant_to_go(slapd: Slapd, tmp_path: Path) -> None:
    """The configured filter and base hold for single addresses too."""
    one = ("u0000001@example.com", f"uid=u0000001,{PEOPLE}")
    assert ask(source_of(slapd, tmp_path, filter="(&(mail=*)(!(uid=u0000001)))"), one) == confirmed()
    other = ("a@example.com", f"uid=a,{SMALL}")
    assert ask(source_of(slapd, tmp_path, base=PEOPLE, scope="one"), other).present == frozenset()


def test_an_address_that_a_person_lost(source: LdapSource) -> None:
    """A person who is still there with another address is a neighbour: the lost address is confirmed as gone."""
    assert ask(source, ("old@example.com", f"uid=a,{SMALL}")) == confirmed()


def test_the_last_of_a_unit(slapd: Slapd, source: LdapSource) -> None:
    """Where nobody is left in a unit, the unit and somebody elsewhere below the DN above are enough."""
    slapd.add(f"ou=empty,{PEOPLE}", objectClass="organizationalUnit", ou="empty")
    try:
        assert ask(source, absent("last", f"ou=empty,{PEOPLE}")) == confirmed()
    finally:
        slapd.delete(f"ou=empty,{PEOPLE}")
    assert ask(source, absent("last", f"ou=empty,{PEOPLE}")).unseen == {"last@example.com": f"ou=empty,{PEOPLE}"}


HIDDEN = {
    "whole": f'access to dn.subtree="{SMALL}" by dn.exact="{SYNC}" none by users read',
    "people": f'access to dn.one="{SMALL}" by dn.exact="{SYNC}" none by users read',
    "search": f'access to dn.subtree="{SMALL}" attrs=mail,proxyAddresses by dn.exact="{SYNC}" none by users read',
}


@pytest.mark.parametrize("how", HIDDEN)
def test_a_hidden_unit(how: str, slapd: Slapd, source: LdapSource) -> None:
    """People in a unit that the account may not see are not confirmed as gone; the unit is named."""
    slapd.restart(config=HIDDEN[how])
    answer = ask(source, ("a@example.com", f"uid=a,{SMALL}"), ("b@example.com", f"uid=b,{SMALL}"), absent("gone"))
    if how == "people":  # as if they were gone: the unit is there, and so is somebody above
        assert answer == confirmed()
    else:
        assert answer.unseen == {"a@example.com": SMALL, "b@example.com": SMALL}
        assert not answer.present


def test_who_may_be_searched_and_not_read_is_present(slapd: Slapd, source: LdapSource) -> None:
    """An entry that matches an address and shows none is there: by its DN, or by asking for one address alone."""
    slapd.restart(
        config=f'access to dn.subtree="{SMALL}" attrs=mail,proxyAddresses by dn.exact="{SYNC}" search by users read'
    )
    answer = ask(source, ("a@example.com", f"uid=a,{SMALL}"), absent("gone"))
    assert answer == Confirmation(present=frozenset({"a@example.com"}))
    answer = ask(source, ("b@example.com", f"uid=renamed,{SMALL}"), absent("gone"))
    assert answer == Confirmation(present=frozenset({"b@example.com"}))


def test_without_a_label(slapd: Slapd, source: LdapSource) -> None:
    """Without a label the account must see an address below the base."""
    assert ask(source, ("gone@example.com", "")) == confirmed()
    slapd.restart(config=f'access to attrs=mail,proxyAddresses by dn.exact="{SYNC}" none by users read')
    assert ask(source, ("gone@example.com", "")).unseen == {"gone@example.com": ""}


def test_many_addresses_are_one_search(slapd: Slapd, source: LdapSource) -> None:
    """Fifty addresses of one container take two searches, over the connection that sync mode keeps."""
    slapd.forget_operations()
    ask(source, *(absent(f"gone{number}") for number in range(50)))
    assert len([operation for operation in slapd.operations() if "scope=" in operation]) == 2


def test_who_cannot_be_asked(slapd: Slapd, source: LdapSource) -> None:
    """A directory that does not answer, and a time that has passed, are errors and confirm nothing."""
    with pytest.raises(SourceError, match="no time is left"):
        source.confirm([Candidate(*absent("gone"))], time.monotonic() - 1)
    slapd.stop()
    with pytest.raises(SourceError, match="Connection refused"):
        ask(source, absent("gone"))


def test_a_server_that_answers_too_much(tmp_path: Path) -> None:
    """A search for one address with a thousand results is an error."""
    with scripted(1100) as server:
        source = build(config(tmp_path, server.url))
        assert isinstance(source, LdapSource)
        with pytest.raises(SourceError, match="has over 1000 results"):
            ask(source, absent("gone"))


def test_others_than_asked_for_count_as_nothing(tmp_path: Path) -> None:
    """A server that returns other people than asked for does not make an address present."""
    with scripted() as server:
        server.objects = {SUFFIX: {}}
        source = build(config(tmp_path, server.url))
        assert isinstance(source, LdapSource)
        assert ask(source, ("gone@example.com", f"cn=gone,{SUFFIX}")) == confirmed()
        assert ask(source, ("p1@example.com", person(1)[0])).present == {"p1@example.com"}
        assert server.binds == [(SYNC, SYNC_PASSWORD)] * 2


@pytest.mark.parametrize(
    ("dn", "parent"),
    [
        ("uid=a,ou=b,dc=c", "ou=b,dc=c"),
        ("cn=Smith\\, John, ou=b", "ou=b"),
        ("cn=a\\\\,ou=b", "ou=b"),
        ("cn=a\\\\\\,b,ou=c", "ou=c"),
        ("cn=a\\2Cb,ou=c", "ou=c"),
        ("dc=com", ""),
        ("", ""),
    ],
)
def test_parents(dn: str, parent: str) -> None:
    """The parent of a DN begins after its first comma that is not escaped."""
    assert parent_of(dn) == parent
