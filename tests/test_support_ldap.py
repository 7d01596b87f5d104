"""The directories that tests are made with do what they say, to a plain ldap3."""

import contextlib
import gc
import ssl
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import UUID

import ldap3
import pytest
from ldap3.core.exceptions import (
    LDAPException,
    LDAPInvalidCredentialsResult,
    LDAPNoSuchObjectResult,
    LDAPOperationResult,
    LDAPSessionTerminatedByServerError,
    LDAPSocketOpenError,
    LDAPSocketReceiveError,
    LDAPUnavailableCriticalExtensionResult,
)

from tests.support.authority import Authority
from tests.support.ber import integer, octets, sequence
from tests.support.ldap_wire import PAGED, SYNC_DONE, SYNC_REQUEST, SYNC_STATE
from tests.support.scripted_ldap import ScriptedLDAP, SyncAnswer, SyncDone, SyncEntry, SyncIds, Trouble, What
from tests.support.slapd import PEOPLE, SUFFIX, SYNC, SYNC_PASSWORD, Slapd, need_slapd, people

# Up to Python 3.11 ldap3 compares names by a function that 3.12 has no more.
pytestmark = pytest.mark.filterwarnings(r"ignore:ssl\.match_hostname\(\) is deprecated:DeprecationWarning")

_ENTRIES = [(f"cn=u{number},{SUFFIX}", {"mail": [f"u{number}@example.com"]}) for number in range(7)]
_REFRESH_ONLY = (SYNC_REQUEST, True, sequence(integer(1, 0x0A)))
_UUID = UUID(int=4711)


@pytest.fixture(scope="module")
def authority() -> Authority:
    """A CA for all of them."""
    return Authority()


@pytest.fixture(scope="module")
def slapd(authority: Authority) -> Iterator[Slapd]:
    """A slapd with some people."""
    need_slapd()
    server = Slapd(authority=authority)
    server.load(people(30))
    with server:
        yield server


@contextlib.contextmanager
def _connected(  # noqa: PLR0913  # what ldap3 is told differs from test to test
    url: str,
    password: str = SYNC_PASSWORD,
    *,
    tls: ldap3.Tls | None = None,
    starttls: bool = False,
    external: bool = False,
    receive_timeout: int = 60,
) -> Iterator[ldap3.Connection]:
    """Connect and bind as the sync account, and close the socket in the end, which ldap3 does not after an error."""
    who = {"user": SYNC, "password": password}
    if external:
        who = {"authentication": ldap3.SASL, "sasl_mechanism": "EXTERNAL", "sasl_credentials": ""}
    connection = ldap3.Connection(
        ldap3.Server(url, tls=tls, get_info=ldap3.NONE, connect_timeout=60),
        raise_exceptions=True,
        auto_range=False,
        auto_referrals=False,
        check_names=False,
        return_empty_attributes=False,
        receive_timeout=receive_timeout,
        **who,
    )
    try:
        connection.open(read_server_info=False)
        if starttls:
            connection.start_tls(read_server_info=False)
        connection.bind(read_server_info=False)
        yield connection
    finally:
        if connection.socket is not None:
            connection.socket.close()


def _pages(
    connection: ldap3.Connection, size: int = 3, attributes: tuple[str, ...] = ("mail",)
) -> Iterator[dict[str, Any]]:
    """Give all messages of a paged pull, page by page; its last result is left at the connection."""
    cookie: bytes | None = None
    while cookie != b"":
        connection.search(
            SUFFIX,
            "(mail=*)",
            attributes=list(attributes),
            paged_size=size,
            paged_criticality=True,
            paged_cookie=cookie,
            dereference_aliases=ldap3.DEREF_NEVER,
        )
        yield from connection.response
        control = connection.result.get("controls", {}).get(PAGED)
        cookie = control["value"]["cookie"] if control else b""


def _pull(server: ScriptedLDAP) -> tuple[list[str], dict[str, Any] | Exception]:
    """Pull in pages of three; give the DNs that came and how it ended, by a result or an exception."""
    found: list[str] = []
    with _connected(server.url, "secret", receive_timeout=1) as connection:
        try:
            found.extend(message.get("dn", message["type"]) for message in _pages(connection))
        except (LDAPException, KeyError) as error:
            return found, error
        return found, connection.result


def _refresh(url: str) -> tuple[list[str], dict[str, Any]]:
    """Ask for content synchronisation once; give the DNs with a Sync State control, and the result."""
    with _connected(url) as connection:
        connection.search(
            SUFFIX, "(mail=*)", attributes=["mail"], controls=[_REFRESH_ONLY], dereference_aliases=ldap3.DEREF_NEVER
        )
        found = [one["dn"] for one in connection.response if SYNC_STATE in one.get("controls", {})]
        return found, connection.result


def _trust(authority: Authority, directory: Path, *client: Path) -> ldap3.Tls:
    """Trust this CA only, and show a client's certificate with its key."""
    return ldap3.Tls(
        *map(str, reversed(client)),
        validate=ssl.CERT_REQUIRED,
        ca_certs_file=str(authority.ca_file(directory)),
        sni="localhost",
    )


def test_slapd_answers_with_tls_to_who_knows_its_ca(slapd: Slapd, authority: Authority, tmp_path: Path) -> None:
    """Both ldaps and StartTLS hold against the CA that issued, and fail against any other."""
    for url, starttls in ((slapd.tls_url, False), (slapd.starttls_url, True)):
        with _connected(url, tls=_trust(authority, tmp_path), starttls=starttls) as connection:
            assert connection.extend.standard.who_am_i() == f"dn:{SYNC}"
        with (
            pytest.raises(LDAPException, match="certificate verify failed"),
            _connected(url, tls=_trust(Authority(), tmp_path), starttls=starttls),
        ):
            pass


def test_slapd_knows_a_client_by_its_certificate(slapd: Slapd, authority: Authority, tmp_path: Path) -> None:
    """SASL EXTERNAL with a certificate for the name syncagent is the sync account."""
    certificate, key = authority.client(tmp_path, "syncagent")
    tls = _trust(authority, tmp_path, certificate, key)
    with _connected(slapd.tls_url, tls=tls, external=True) as connection:
        assert connection.extend.standard.who_am_i() == f"dn:{SYNC}"
    assert key.stat().st_mode & 0o777 == 0o600


def test_slapd_tells_what_it_was_asked(slapd: Slapd) -> None:
    """Each page of a pull is one search in `operations`, with what it found."""
    slapd.forget_operations()
    with _connected(slapd.url) as connection:
        assert len(list(_pages(connection, 20))) == 30
    search = f'SRCH base="{SUFFIX}" scope=2 deref=0 filter="(mail=*)" attr=mail err=0 nentries='
    assert slapd.operations() == [f"{search}20", f"{search}10"]


def test_slapd_synchronises() -> None:
    """A critical refreshOnly ends with a Done control, and shows what was written; without syncprov it is 12."""
    need_slapd()
    with Slapd() as server:
        server.add(f"cn=first,{PEOPLE}", mail="first@example.com")
        server.add(f"cn=second,{PEOPLE}", mail=["second@example.com"], proxyAddresses=["smtp:other@example.org"])
        server.rename(f"cn=second,{PEOPLE}", "cn=third", SUFFIX)
        server.modify(f"cn=first,{PEOPLE}", mail=[], description="no mail any more")
        found, end = _refresh(server.url)
        assert found == [f"cn=third,{SUFFIX}"]
        assert SYNC_DONE in end["controls"]
        server.delete(f"cn=third,{SUFFIX}")
        assert _refresh(server.url)[0] == []
        server.restart(syncprov=False)
        with pytest.raises(LDAPUnavailableCriticalExtensionResult):
            _refresh(server.url)


def test_slapd_stops_and_goes_on() -> None:
    """Paused it answers nothing, killed it is gone, and started again it has what it had on the same port."""
    need_slapd()
    with Slapd(syncprov=False) as server:
        server.add(f"cn=first,{PEOPLE}", mail="first@example.com")
        server.pause()
        with pytest.raises(LDAPSocketReceiveError), _connected(server.url, receive_timeout=1):
            pass
        server.resume()
        server.kill()
        with pytest.raises(LDAPSocketOpenError), _connected(server.url):
            pass
        server.start()
        with _connected(server.url) as connection:
            assert len(list(_pages(connection))) == 1


def test_the_scripted_server_gives_pages() -> None:
    """Seven entries in pages of three are three requests, and every entry once."""
    with ScriptedLDAP(_ENTRIES) as server:
        found, end = _pull(server)
        searches = [request for request in server.requests if request.op == "search"]
        assert found == [dn for dn, _ in _ENTRIES]
        assert isinstance(end, dict)
        assert end["result"] == 0
        assert [request.page_size for request in searches] == [3, 3, 3]
        assert [request.page_cookie for request in searches] == [b"", b"1:3", b"1:6"]
        assert {(request.base, request.scope, request.attributes) for request in searches} == {(SUFFIX, 2, ("mail",))}
        assert (server.connections, server.binds) == (1, [(SYNC, "secret")])


def test_the_scripted_server_refuses_a_wrong_password() -> None:
    """Any other password is answered with 49, and remembered."""
    with ScriptedLDAP() as server:
        with pytest.raises(LDAPInvalidCredentialsResult), _connected(server.url, "wrong"):
            pass
        assert server.binds == [(SYNC, "wrong")]


def test_the_scripted_server_finds_objects_by_their_dn() -> None:
    """A search of base scope finds the root DSE and what is in `objects`, and 32 elsewhere."""
    objects = {SUFFIX: {"contextCSN": ["4711"]}}
    with (
        ScriptedLDAP(objects=objects, root_dse={"vendorName": ["nobody"]}) as server,
        _connected(server.url, "secret") as connection,
    ):
        for base, name, value in (("", "vendorName", b"nobody"), (SUFFIX.upper(), "contextCSN", b"4711")):
            connection.search(base, "(objectClass=*)", ldap3.BASE, attributes=[name])
            assert dict(connection.response[0]["raw_attributes"]) == {name: [value]}
        with pytest.raises(LDAPNoSuchObjectResult):
            connection.search("cn=nobody", "(objectClass=*)", ldap3.BASE)


@pytest.mark.parametrize(
    ("what", "code"), [(4, 4), (10, 10), (51, 51), (12345, KeyError), ("no-control", 0), ("reference", 0)]
)
def test_a_pull_ends_in_the_middle_with_a_result(what: What, code: int | type[Exception]) -> None:
    """On page 2, after one entry: a result, or no word about pages, ends it, and a reference does not."""
    trouble = Trouble(2, 1, what, "made up", referrals=("ldap://elsewhere.example.net/",) if what == 10 else ())
    with ScriptedLDAP(_ENTRIES, trouble=trouble) as server:
        found, end = _pull(server)
    if isinstance(end, KeyError):
        assert code is KeyError
    elif isinstance(end, LDAPOperationResult):
        assert (end.result, end.message) == (code, "made up")
    else:
        assert isinstance(end, dict)
        assert (end["result"], end["message"]) == (code, "" if what == "reference" else "made up")
    if what == "reference":
        assert found == [*(dn for dn, _ in _ENTRIES[:4]), "searchResRef", *(dn for dn, _ in _ENTRIES[4:])]
    elif what in {4, 10, "no-control"}:
        assert found == [dn for dn, _ in _ENTRIES[:4]]


@pytest.mark.parametrize(
    ("what", "error"),
    [
        ("fin", LDAPSessionTerminatedByServerError),
        ("fin-inside", LDAPSessionTerminatedByServerError),
        ("notice", LDAPSessionTerminatedByServerError),
        ("rst", LDAPSocketReceiveError),
        ("stall", LDAPSocketReceiveError),
    ],
)
def test_a_pull_ends_in_the_middle_of_a_connection(what: What, error: type[Exception], tmp_path: Path) -> None:
    """On page 2, after one entry, the connection breaks off in each way, with TLS as without."""
    context = Authority().server_context(tmp_path, "localhost")
    for server in (ScriptedLDAP(_ENTRIES), ScriptedLDAP(_ENTRIES, tls=context)):
        server.trouble = Trouble(2, 1, what)
        with server:
            found, end = _pull(server)
        assert found == [dn for dn, _ in _ENTRIES[:3]]
        assert isinstance(end, LDAPException)
        assert isinstance(end, error) or server.tls is not None


def test_the_scripted_server_gives_ranges() -> None:
    """Eight values in ranges of three come as 0-2, 3-5 and 6-*, and none under the bare name."""
    values = [f"smtp:v{number}@example.com" for number in range(8)]
    with (
        ScriptedLDAP([(PEOPLE, {"proxyAddresses": values})], range_size=3) as server,
        _connected(server.url, "secret") as connection,
    ):
        (entry,) = _pages(connection, attributes=("proxyAddresses",))
        found = dict(entry["raw_attributes"])
        assert not found.pop("proxyAddresses", None)
        for low in (3, 6):
            connection.search(PEOPLE, "(objectClass=*)", ldap3.BASE, attributes=[f"proxyAddresses;range={low}-*"])
            found |= dict(connection.response[0]["raw_attributes"])
        assert [name.partition("=")[2] for name in found] == ["0-2", "3-5", "6-*"]
        assert [value.decode() for part in found.values() for value in part] == values
        assert server.range_requests == 2


@pytest.mark.parametrize(("what", "code"), [("empty-range", 0), ("lost-range", 0), ("range-error", 80)])
def test_a_range_fails(what: What, code: int) -> None:
    """The second request for a range gets no values, and success or an error."""
    values = [f"smtp:v{number}@example.com" for number in range(8)]
    trouble = Trouble(2, 0, what)
    with (
        ScriptedLDAP([(PEOPLE, {"proxyAddresses": values})], range_size=3, trouble=trouble) as server,
        _connected(server.url, "secret") as connection,
    ):
        asked = {"search_scope": ldap3.BASE, "attributes": ["proxyAddresses;range=3-*"]}
        connection.search(PEOPLE, "(objectClass=*)", **asked)
        assert len(connection.response[0]["raw_attributes"]["proxyAddresses;range=3-5"]) == 3
        with pytest.raises(LDAPOperationResult) if code else contextlib.nullcontext():
            connection.search(PEOPLE, "(objectClass=*)", **asked)
            assert connection.response[0]["dn"] == PEOPLE
            assert not any(connection.response[0]["raw_attributes"].values())
        assert connection.result["result"] == code


# ldap3 forgets the socket of a server that turns out to have another name, and Python complains when it finds it.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_the_scripted_server_starts_tls(authority: Authority, tmp_path: Path) -> None:
    """StartTLS is refused, or begins with a certificate that can be of another name or expired."""
    good = authority.server_context(tmp_path, "localhost")
    wrong = authority.server_context(tmp_path, "wrong.example")
    expired = authority.server_context(tmp_path, "localhost", expired=True)
    for starttls, failure in (
        (good, None),
        (2, "protocolError"),
        (52, "unavailable"),
        (wrong, "doesn't match"),
        (expired, "certificate has expired"),
    ):
        with (
            ScriptedLDAP(starttls=starttls) as server,
            pytest.raises(LDAPException, match=failure) if failure else contextlib.nullcontext(),
            _connected(server.url, "secret", tls=_trust(authority, tmp_path), starttls=True),
        ):
            pass
        assert bool(server.binds) == (failure is None)
    gc.collect()


def test_the_scripted_server_synchronises_by_its_script() -> None:
    """A search with the sync control gets the next answer, message by message, and 12 when there are no more."""
    answer: SyncAnswer = [
        SyncEntry("add", _UUID, f"cn=new,{SUFFIX}", {"mail": ["new@example.com"]}),
        SyncIds([_UUID], refresh_deletes=True, cookie=b"not yet"),
        SyncDone(cookie=b"rid=000,csn=4711", refresh_deletes=True),
    ]
    with ScriptedLDAP(password=SYNC_PASSWORD, sync_answers=[answer]) as server:
        found, end = _refresh(server.url)
        assert found == [f"cn=new,{SUFFIX}"]
        assert end["controls"][SYNC_DONE]["value"] == sequence(octets("rid=000,csn=4711"), b"\x01\x01\xff")
        assert (server.requests[-1].sync_mode, server.requests[-1].sync_cookie) == (1, None)
        with pytest.raises(LDAPUnavailableCriticalExtensionResult):
            _refresh(server.url)
