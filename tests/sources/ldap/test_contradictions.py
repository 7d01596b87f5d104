"""What counts as a contradiction, and what does not; which answers prove what."""

from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from syncagent.sources import Answer
from syncagent.sources.ldap import build
from syncagent.sources.ldap.content_sync import _wrong_cookie as wrong_cookie
from syncagent.sources.ldap.contradictions import Identities, demands, in_success, is_of_presence
from syncagent.sources.ldap.entries import Attributes, DirectoryEntry
from syncagent.sources.ldap.presets import PRESETS
from tests.sources.contract import Recorder, ask
from tests.sources.ldap import config
from tests.sources.ldap.test_failures import scripted
from tests.support.scripted_ldap import SyncDone, SyncIds
from tests.support.slapd import SUFFIX

ATTRIBUTES = ("proxyAddresses", "mail")
DEMANDS = {
    "(mail=*)": True,
    "(MAIL=*)": True,
    "( mail = * )": True,
    "(mail;lang-de=*)": True,
    "(mail=*@example.com)": True,
    "(mail>=a)": True,
    "(mail~=a)": True,
    "(mail:caseIgnoreMatch:=a)": True,
    "(|(proxyAddresses=*)(mail=*))": True,
    "(&(objectClass=person)(mail=*))": True,
    "(&(objectClass=person)(|(mail=*)(proxyAddresses=*)))": True,
    "(&(mail=*)(!(employeeType=left)))": True,
    "(objectClass=*)": False,
    "(|(mail=*)(objectClass=person))": False,
    "(!(mail=*))": False,
    "(&(objectClass=person)(!(mail=*)))": False,
    "(mailHost=*)": False,
    "(cn=\\28mail=*\\29)": False,
    "(:dn:2.5.13.2:=mail)": False,
    "(&)": False,
    "(|)": False,
}


@pytest.mark.parametrize("text", DEMANDS)
def test_whether_a_filter_demands_an_address(text: str) -> None:
    """A filter demands an address if nothing matches it without a value of an attribute that is asked for."""
    assert demands(text, ATTRIBUTES) is DEMANDS[text]


@pytest.mark.parametrize("product", PRESETS)
def test_the_filters_of_the_presets_demand_an_address(product: str) -> None:
    """Each preset's own filter demands one of its attributes."""
    preset = PRESETS[product]
    assert demands(preset.filter, preset.attributes)


@pytest.mark.parametrize(
    ("text", "judged"),
    [
        ("(mail=*)", True),
        ("(|(mail=*)(|(a=*)(b=*)))", True),
        ("(mail=a*)", False),
        ("(&(mail=*)(objectClass=person))", False),
        ("(|(mail=*)(!(a=*)))", False),
        ("(!(mail=*))", False),
    ],
)
def test_filters_whose_estimate_is_judged(text: str, judged: bool) -> None:  # noqa: FBT001 - a parameter of the test
    """Only for tests of presence does a server that counts by its indexes count exactly."""
    assert is_of_presence(text) is judged


@pytest.mark.parametrize(
    "text",
    [
        "size limit exceeded",
        "Sizelimit exceeded",
        "timeLimitExceeded: partial results",
        "administrative limit",
        "page limit",
    ],
)
def test_a_limit_in_the_text_of_success(text: str) -> None:
    """Success with the text of a limit is none."""
    assert text in in_success({"message": text, "referrals": None})


@pytest.mark.parametrize("text", ["", "ok", "search took 3 ms", "unlimited", "entries: 5"])
def test_other_texts_of_success(text: str) -> None:
    """Any other text is one."""
    assert not in_success({"message": text, "referrals": []})


def _entry(dn: str, *mail: str) -> DirectoryEntry:
    return DirectoryEntry(dn, {"mail": [value.encode() for value in mail]})


def test_identities() -> None:
    """Entries with the same key disagree unless they are equal, in whatever order their values come."""
    identities = Identities()
    for key, entry in [("1", _entry("cn=a", "a", "b")), ("1", _entry("cn=a", "b", "a")), ("2", _entry("cn=b"))]:
        identities.add(key, entry)
    assert (len(identities), identities.disagree()) == (3, False)
    identities.add("2", _entry("cn=c"))
    assert identities.disagree()


KNOWN = b"rid=000,csn=20240101000000.000000Z#000000#001#000000;20240102000000.000000Z#000000#002#000000"
COOKIES = {
    "the same": (KNOWN, ""),
    "newer in one": (KNOWN.replace(b"20240102", b"20240103"), ""),
    "one more server": (KNOWN + b";20240103000000.000000Z#000000#003#000000", ""),
    "with a server ID": (KNOWN.replace(b"rid=000", b"rid=000,sid=001").replace(b"20240102", b"20240103"), ""),
    "older in one": (KNOWN.replace(b"20240102", b"20240101"), "older"),
    "one server less": (KNOWN.partition(b";")[0], "older"),
    "another rid": (KNOWN.replace(b"rid=000", b"rid=007"), "of another server"),
    "empty": (b"", "older"),
    "not by our clock": (KNOWN.replace(b"20240102", b"20240302"), "far in the future"),
}


@pytest.mark.parametrize("how", COOKIES)
def test_cookies(how: str) -> None:
    """A cookie must be of the same server, in no part older, and not far ahead."""
    cookie, says = COOKIES[how]
    text = wrong_cookie(cookie, KNOWN, 1_706_745_600.0)  # 2024-02-01
    assert says in text
    assert bool(says) == bool(text)


def test_without_a_clock_nothing_is_in_the_future() -> None:
    """A host whose clock was never set does not judge a cookie by it."""
    assert not wrong_cookie(KNOWN.replace(b"20240102", b"20990302"), KNOWN, 0.0)


def fetched(directory: Path, **keys: Any) -> list[Answer]:  # noqa: ANN401 - any key of the source
    """Return two answers of one source over a server that offers sync mode."""
    csn = "20240101000000.000000Z#000000#000#000000"
    with scripted(objects={SUFFIX: {"contextCSN": [csn]}}, password=None) as server:
        later = f"rid=000,csn={csn.replace('0101', '0102')}".encode()
        server.sync_answers = [
            [SyncDone()],
            [SyncDone()],
            [SyncIds([UUID(int=0)], refresh_deletes=True), SyncDone(cookie=later, refresh_deletes=True)],
        ]
        source = build(config(directory, server.url, attributes=("mail",), **keys))
        answer, recorder = ask(source)
        server.entries = server.entries[1:]
        return [answer, ask(source, answer.validator, recorder if answer.validator else None)[0]]


def test_what_an_answer_proves(tmp_path: Path) -> None:
    """Result codes and paging prove each answer; only a search of everything is full; labels are DNs."""
    for mode, full in (("poll", [True, True]), ("sync", [True, False])):
        answers = fetched(tmp_path, mode=mode)
        assert [answer.proof for answer in answers] == ["producer", "producer"]
        assert [answer.full for answer in answers] == full
        assert [answer.containers for answer in answers] == [True, True]


@pytest.mark.parametrize("dn", ["", "cn", "=x"])
def test_labels_that_are_no_dns(dn: str, tmp_path: Path) -> None:
    """A label that is no DN has no container."""
    attributes: Attributes = {"mail": [b"x@example.com"]}
    assert not DirectoryEntry(dn, attributes).has_dn
    with scripted(password=None) as server:
        server.entries = [*server.entries, (dn, {"mail": ["x@example.com"]})]
        answer, recorder = ask(build(config(tmp_path, server.url, mode="poll")))
        assert isinstance(recorder, Recorder)
        assert not answer.containers
