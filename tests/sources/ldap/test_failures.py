"""Failures of a directory: the last list stays in force, and a message has the fault and the remedy."""

import base64
import contextlib
import re
import socket
import struct
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple
from unittest.mock import ANY
from uuid import UUID

import msgspec
import pytest

from syncagent.errors import FailureKind
from syncagent.sources import Answer, Request, Source
from syncagent.sources.ldap import Config, build
from syncagent.state.snapshot import first_rejects
from syncagent.sync.fetch import Fetched
from syncagent.values.types import SecretFile
from tests.sources.ldap import Asked, by_label, secret
from tests.support.authority import Authority
from tests.support.fetching import NOW
from tests.support.ldap_wire import Attributes, notice
from tests.support.programs import allowed, wait_until
from tests.support.scripted_ldap import Entry, ScriptedLDAP, SyncAnswer, SyncDone, Trouble, What
from tests.support.slapd import PEOPLE, SUFFIX, SYNC, SYNC_PASSWORD, Slapd, people

TEMPORARY, REFUSED, BROKEN = FailureKind.TEMPORARY, FailureKind.REFUSED, FailureKind.BROKEN

COUNT = 25
CROWD = 3000
PAGE = 2
SOON = 0.3
"""Seconds after which a server that stands still is given up on."""


# What every failure leaves as it was


def fails(asked: Asked, before: Fetched, kind: FailureKind, *says: str, now: float = NOW) -> str:
    """Do a run that must fail in this way, saying all of this, and check that nothing else came of it; give its text.

    The last list is in force as it was, with what belongs to it; no file is left; the password is nowhere.
    """
    assert before.snapshot is not None
    held = before.snapshot.read_bytes()
    (failed,) = asked.runs(asked.configured, now=now)
    error = failed.report.error
    assert failed.report.state == "failing"
    assert [text for text in says if text not in error] == [], error
    assert (failed.report.kind, failed.state.error_kind) == (kind, kind), error
    assert error.isprintable()
    assert failed.state.snapshot == before.state.snapshot
    assert failed.state.validator == before.state.validator
    assert failed.snapshot == before.snapshot
    assert before.snapshot.read_bytes() == held
    assert failed.report.entries == before.report.entries > 0
    assert list(asked.runs.snapshots.iterdir()) == [before.snapshot]
    assert list(asked.runs.spool.iterdir()) == []
    assert not tells_secret(asked, failed)
    return error


def tells_secret(asked: Asked, fetched: Fetched) -> list[str]:
    """Return the places that contain the password, plain or in base64: messages, state, files."""
    places = {
        "report": repr(fetched.report),
        "state": repr(fetched.state) + msgspec.json.encode(fetched.state).decode(),
        "configuration": f"{asked.configured!r} {asked.configured.own!r} {asked.configured.source!r}",
        "notes": repr(asked.runs.notes),
    }
    for file in (*asked.runs.snapshots.iterdir(), *asked.runs.spool.iterdir()):
        places[file.name] = file.read_text("utf-8", "backslashreplace")
    secrets = [SYNC_PASSWORD, base64.b64encode(SYNC_PASSWORD.encode()).decode()]
    return [place for place, text in places.items() if any(one in text for one in secrets)]


def test_a_secret_would_be_found(tmp_path: Path) -> None:
    """The search for the password finds it where it is, so that finding none means something."""
    with scripted() as server:
        asked = Asked(tmp_path, server.url)
        fetched = asked.whole()
        assert not tells_secret(asked, fetched)
        (asked.runs.spool / "left").write_text(f"x {SYNC_PASSWORD} x", "utf-8")
        report = msgspec.structs.replace(fetched.report, error=base64.b64encode(SYNC_PASSWORD.encode()).decode())
        assert tells_secret(asked, replace(fetched, report=report)) == ["report", "left"]


# A scripted server that was asked for everything, and has to be again

CSN = b"20240101000000.000000Z#000000#000#000000"
_LOST: SyncAnswer = (SyncDone(code=4096),)
_NOTHING: SyncAnswer = (SyncDone(),)


def person(number: int, name: str = "p") -> Entry:
    """Return the entry of one person, with an address."""
    return f"cn={name}{number},{SUFFIX}", {
        "mail": [f"{name}{number}@example.com"],
        "entryUUID": [str(UUID(int=number))],
    }


def persons(count: int, name: str = "p") -> dict[str, set[str]]:
    """Return the addresses of such persons by DN."""
    return {f"cn={name}{number},{SUFFIX}": {f"{name}{number}@example.com"} for number in range(count)}


def scripted(count: int = 5, name: str = "p", **script: Any) -> ScriptedLDAP:  # noqa: ANN401 - any field of it
    """Make a server of some people that takes our password."""
    given: dict[str, Any] = {"password": SYNC_PASSWORD, **script}
    return ScriptedLDAP([person(number, name) for number in range(count)], **given)


@dataclass
class Asking:
    """A scripted server that offers sync mode, and the source that was asked for everything once."""

    server: ScriptedLDAP
    asked: Asked
    before: Fetched

    def lose_cookie(self) -> None:
        """Have the server ask to be asked for everything, on each of the two connections that a run may come to."""
        self.server.sync_answers = [_LOST, _NOTHING] * 2

    def mended(self) -> None:
        """Do a run with nothing in the way any more, which brings what is new."""
        self.server.trouble = None
        self.server.entries = [*self.server.entries, person(99)]
        self.server.sync_answers = [_LOST, _NOTHING, _NOTHING]
        assert self.asked.entries() == persons(5) | {f"cn=p99,{SUFFIX}": {"p99@example.com"}}


@pytest.fixture
def asking(tmp_path: Path) -> Iterator[Asking]:
    """A scripted server, asked once: there is a list, with a validator that belongs to it, and an open connection."""
    with scripted(objects={SUFFIX: {"contextCSN": [CSN]}}) as server:
        server.sync_answers = [_NOTHING, _NOTHING]
        asked = Asked(tmp_path, server.url, attributes=("mail",), page_size=PAGE, read_timeout=SOON)
        before = asked.whole()
        assert by_label(before) == persons(5)
        assert before.state.validator is not None
        yield Asking(server, asked, before)
        asked.restart()


class Case(NamedTuple):
    """Something that goes wrong, and what has to be said about it."""

    what: What
    kind: FailureKind
    says: tuple[str, ...]
    message: str = ""
    referrals: tuple[str, ...] = ()


ELSEWHERE = "ldap://elsewhere.example.net/dc=example,dc=net"
IN_A_PAGE = {
    "size limit": Case(4, BROKEN, ("sizeLimitExceeded (4)", "raise the account's size limit")),
    "time limit": Case(3, TEMPORARY, ("timeLimitExceeded (3)", "time limit is too short for this account or filter")),
    "admin limit": Case(
        11, BROKEN, ("adminLimitExceeded (11)", "check page_size, and the account's limits and indexes")
    ),
    "busy": Case(51, TEMPORARY, ("busy (51)",)),
    "unavailable": Case(52, TEMPORARY, ("unavailable (52)", '"going down"'), "going down"),
    "other": Case(80, TEMPORARY, ("other (80)", '"index in trouble"'), "index in trouble"),
    "operations error": Case(1, TEMPORARY, ("operationsError (1)", "anonymous search: set bind_dn")),
    "unwilling": Case(53, BROKEN, ("unwillingToPerform (53)", '"not now"'), "not now"),
    "insufficient access": Case(50, BROKEN, ("insufficientAccessRights (50)", "this account has no read access")),
    "referral": Case(10, BROKEN, ("referral (10)", "put that one in url", ELSEWHERE), "", (ELSEWHERE,)),
    "compare false": Case(5, BROKEN, ("compareFalse (5)",)),
    "compare true": Case(6, BROKEN, ("compareTrue (6)",)),
    "SASL bind in progress": Case(14, BROKEN, ("saslBindInProgress (14)",)),
    "unknown code": Case(12345, BROKEN, ("malformed answer", "12345")),
    "no paging control": Case("no-control", BROKEN, ("without the paging control", "may be incomplete")),
    "reference": Case("reference", BROKEN, (ELSEWHERE, "set ignore_references = true"), "", (ELSEWHERE,)),
}
CUT_OFF = {
    "FIN": Case("fin", TEMPORARY, ("no server returned a complete answer",)),
    "FIN inside a message": Case("fin-inside", TEMPORARY, ("no server returned a complete answer",)),
    "RST": Case("rst", TEMPORARY, ("Connection reset by peer",)),
    "stall": Case("stall", TEMPORARY, ("timed out",)),
    "notice of disconnection": Case("notice", TEMPORARY, ("session terminated by server",)),
}


@pytest.mark.parametrize("page", [1, 2])
@pytest.mark.parametrize("how", [*IN_A_PAGE, *CUT_OFF])
def test_a_page_that_is_not_whole(how: str, page: int, asking: Asking) -> None:
    """A page that ends in any other way than it should, the first or a later one, fails the run, and only this one."""
    case = (IN_A_PAGE | CUT_OFF)[how]
    asking.server.trouble = Trouble(page, 1, case.what, case.message, case.referrals)
    asking.lose_cookie()
    fails(asking.asked, asking.before, case.kind, asking.server.url, *case.says)
    asking.mended()


@pytest.mark.parametrize("how", IN_A_PAGE)
def test_a_first_answer_that_is_not_whole(how: str, tmp_path: Path) -> None:
    """Where there is no list yet, half an answer makes none."""
    case = IN_A_PAGE[how]
    with scripted(trouble=Trouble(3, 1, case.what, case.message, case.referrals)) as server:
        asked = Asked(tmp_path, server.url, page_size=PAGE)
        failed = asked.fetch()
        assert (failed.report.state, failed.report.entries, failed.snapshot) == ("failing", 0, None)
        assert (failed.state.snapshot, failed.state.validator) == (None, None)
        assert list(asked.runs.snapshots.iterdir()) == list(asked.runs.spool.iterdir()) == []


def test_references_that_are_to_be_ignored(tmp_path: Path) -> None:
    """Where ignore_references says so a reference is passed over, and each run says how many there were."""
    with scripted(trouble=Trouble(2, 1, "reference", referrals=(ELSEWHERE,))) as server:
        fetched = Asked(tmp_path, server.url, page_size=PAGE, ignore_references=True).whole()
        assert by_label(fetched) == persons(5)
        assert "ignored references to other servers: 1" in "".join(fetched.report.notes)


def test_a_foreign_text_fits_a_line(asking: Asking) -> None:
    """What a server says is shown on one line and cannot steer a terminal."""
    for what in (80, 10):
        asking.server.trouble = Trouble(1, 1, what, "one\ntwo\x1b[2J\x07" + "x" * 5000, ("ldap://a\nb\x1b[2J/",))
        asking.lose_cookie()
        assert len(fails(asking.asked, asking.before, ANY, "one two [2J")) < 1000
    asking.server.trouble = Trouble(1, 1, "reference", referrals=("ldap://a\nb\x1b[2J/",))
    asking.lose_cookie()
    fails(asking.asked, asking.before, BROKEN, "ldap://a b")


# Binds

AT_A_BIND = {
    "busy": Case(51, TEMPORARY, ("bind: busy (51)",)),
    "unavailable": Case(52, TEMPORARY, ("bind: unavailable (52)",)),
    "stronger wanted": Case(8, BROKEN, ("strongerAuthRequired (8)", "use ldaps://")),
    "confidentiality wanted": Case(13, BROKEN, ("confidentialityRequired (13)", "use ldaps://")),
    "other": Case(80, TEMPORARY, ("bind: other (80)",)),
    "referral": Case(10, BROKEN, ("referral (10)", "put that one in url")),
    "SASL bind in progress": Case(14, BROKEN, ("saslBindInProgress (14)",)),
    "unknown code": Case(12345, BROKEN, ("malformed answer", "12345")),
    "wrong": Case(
        49, REFUSED, (f"bind as {SYNC} rejected", "invalidCredentials (49)", "check bind_dn and password_file")
    ),
    "not so": Case(48, REFUSED, ("inappropriateAuthentication (48)", "check bind_dn and password_file")),
    "locked, constraint": Case(19, REFUSED, ("constraintViolation (19)", '"too many tries"'), "too many tries"),
    "locked, unwilling": Case(53, REFUSED, ("unwillingToPerform (53)", '"inactivated"'), "inactivated"),
    **{
        f"Active Directory {code}": Case(
            49,
            REFUSED,
            (f"(49: {text})", f"data {code}"),
            f"80090308: LdapErr: DSID-0C09041C, comment: AcceptSecurityContext error, data {code}, v4563\0",
        )
        for code, text in {
            "775": "the account is locked",
            "52e": "wrong user or password",
            "532": "the password has expired",
            "533": "the account is disabled",
        }.items()
    },
}


@pytest.mark.parametrize("how", [*AT_A_BIND, *CUT_OFF])
def test_a_bind_that_does_not_come_about(how: str, asking: Asking) -> None:
    """A bind that ends in any other way than with success fails the run: nothing is ever searched without it."""
    case = (AT_A_BIND | CUT_OFF)[how]
    asking.server.trouble = Trouble(0, 0, case.what, case.message, case.referrals)
    asking.asked.restart()
    asking.server.requests.clear()
    fails(asking.asked, asking.before, case.kind, asking.server.url, *case.says)
    assert {request.op for request in asking.server.requests} <= {"bind", "unbind"}
    asking.server.trouble = None
    asking.server.sync_answers = [_NOTHING]
    if case.kind is not REFUSED:
        assert asking.asked.whole().report.state == "same"


def test_a_wrong_password_is_tried_once(asking: Asking) -> None:
    """What is turned down is asked once, not again within the hour, and at once where the secret is another."""
    asked, server, before = asking.asked, asking.server, asking.before
    server.password = "another"
    asked.restart()
    server.binds.clear()
    fails(asked, before, REFUSED, "rejected", now=NOW)
    assert server.binds == [(SYNC, SYNC_PASSWORD)]
    for later in (1, 1800, 3599):
        asked.restart()
        fails(asked, before, REFUSED, "rejected", "not asked again for", now=NOW + later)
    assert len(server.binds) == 1
    fails(asked, before, REFUSED, "rejected", now=NOW + 3601)
    assert len(server.binds) == 2
    secret(asked.directory, "another")
    server.sync_answers = [_NOTHING]
    assert asked.runs(asked.configured, now=NOW + 3602)[0].report.state == "same"
    assert len(server.binds) == 3


def test_a_wrong_password_at_a_real_server(slapd: Slapd, asked: Asked, before: Fetched) -> None:
    """A real server is not asked again either, and is told nothing without a bind."""
    (asked.directory / "password").write_text("wrong", "utf-8")
    asked.restart()
    log = len(slapd.log)
    fails(asked, before, REFUSED, slapd.url, "invalidCredentials (49)", SYNC, "password_file")
    fails(asked, before, REFUSED, "not asked again")
    assert slapd.log[log:].count("BIND dn=") == 1
    assert "SRCH" not in slapd.log[log:]


def test_a_client_certificate_that_is_turned_down(authority: Authority, ca_file: Path, tmp_path: Path) -> None:
    """A client certificate that is turned down is not shown again within the hour, but at once where it is another."""
    certificate, key = authority.client(tmp_path, "syncagent")
    with tls("ldaps", authority, tmp_path) as server:
        server.trouble = Trouble(0, 0, 49)
        own = {
            "bind_dn": "",
            "password_file": None,
            "client_cert_file": certificate,
            "client_key_file": SecretFile(key),
        }
        asked = Asked(tmp_path, server.url, ca_file=ca_file, **own)
        for _ in range(2):
            report = asked.fetch().report
            assert report.kind == REFUSED, report.error
            assert "bind with the client certificate rejected" in report.error
            assert server.connections == 1
        authority.client(tmp_path, "syncagent")
        asked.fetch()
        assert server.connections == 2
        certificate.write_bytes(certificate.read_bytes())  # renewed, for the same key
        asked.fetch()
        assert server.connections == 3


@pytest.mark.parametrize(
    ("content", "mode", "says"),
    [
        ("", 0o600, "is empty"),
        ("\n", 0o600, "is empty"),
        (SYNC_PASSWORD, 0o640, "can be read by others (mode 0640): chmod 600 "),
        (SYNC_PASSWORD, 0o604, "can be read by others (mode 0604): chmod 600 "),
        (None, 0, "cannot be read: No such file or directory"),
    ],
)
def test_a_password_file_that_will_not_do(content: str | None, mode: int, says: str, asking: Asking) -> None:
    """A password that is not there, or lies open, is named before anybody is asked: there is no anonymous bind."""
    file = asking.asked.directory / "password"
    if content is None:
        file.unlink()
    else:
        file.write_text(content, "utf-8")
        file.chmod(mode)
    asking.asked.restart()
    asking.server.requests.clear()
    fails(asking.asked, asking.before, BROKEN, says)
    assert asking.server.requests == []


# Connections and TLS


@pytest.fixture(scope="module")
def authority() -> Authority:
    """The CA that we are told to trust."""
    return Authority()


@pytest.fixture
def ca_file(authority: Authority, tmp_path: Path) -> Path:
    """The certificate of that CA, as a file."""
    return authority.ca_file(tmp_path)


@contextlib.contextmanager
def silent() -> Iterator[int]:
    """Listen on a port, accept nothing and send nothing; yield the port."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener.getsockname()[1]


@contextlib.contextmanager
def closed() -> Iterator[int]:
    """Yield a port that is bound, so that no other process can take it, and does not listen."""
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        yield holder.getsockname()[1]


def test_a_port_that_is_closed(asking: Asking) -> None:
    """Where nobody listens, the server and the reason are named."""
    with closed() as port:
        url = f"ldap://127.0.0.1:{port}"
        asking.asked.configure(url, attributes=("mail",))
        fails(asking.asked, asking.before, TEMPORARY, url, "Connection refused")


def test_a_host_that_does_not_exist(asking: Asking) -> None:
    """A host that does not resolve is named."""
    asking.asked.configure("ldap://name.invalid", attributes=("mail",))
    fails(asking.asked, asking.before, TEMPORARY, "ldap://name.invalid", "invalid server address")


def test_an_anonymous_bind_that_is_turned_down(tmp_path: Path) -> None:
    """Where nobody binds, it is that which is said to be turned down."""
    with scripted(trouble=Trouble(0, 0, 48)) as server:
        report = Asked(tmp_path, server.url, bind_dn="", password_file=None).fetch().report
        assert report.kind == REFUSED
        assert "anonymous bind rejected" in report.error
        assert "client certificate" not in report.error


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # ldap3 drops the socket of the first
def test_a_host_of_several_addresses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A host of which one address does not answer, as an IPv6 one without a route, is reached at another."""
    real = socket.getaddrinfo

    def several(host: str, *rest: Any, **more: Any) -> list[Any]:  # noqa: ANN401 - those of getaddrinfo
        addresses = ["127.0.0.2", "127.0.0.1"] if host == "two.example.com" else [host]
        return [found for address in addresses for found in real(address, *rest, **more)]

    monkeypatch.setattr(socket, "getaddrinfo", several)
    with scripted() as server:
        asked = Asked(tmp_path, server.url.replace("127.0.0.1", "two.example.com"))
        before = asked.whole()
        assert by_label(before) == persons(5)
    error = fails(asked, before, TEMPORARY, "two.example.com", "Connection refused")
    assert "Error(" not in error, "that is for programmers"


@pytest.mark.parametrize("scheme", ["ldaps", "ldap"])
def test_a_server_that_never_answers_the_handshake(scheme: str, asking: Asking, ca_file: Path) -> None:
    """Who takes a connection and says nothing, before TLS or to StartTLS, is given up on after connect_timeout."""
    with silent() as port:
        url = f"{scheme}://localhost:{port}"
        asking.asked.configure(url, attributes=("mail",), ca_file=ca_file, connect_timeout=SOON)
        start = time.monotonic()
        fails(asking.asked, asking.before, TEMPORARY, url, "timed out")
        assert SOON <= time.monotonic() - start < allowed(SOON + 2)


def test_a_server_that_never_answers_the_bind(asking: Asking) -> None:
    """Who takes a connection and says nothing to a bind is given up on after read_timeout."""
    with silent() as port:
        asking.asked.configure(f"ldap://127.0.0.1:{port}", attributes=("mail",), read_timeout=SOON)
        start = time.monotonic()
        fails(asking.asked, asking.before, TEMPORARY, "timed out")
        assert SOON <= time.monotonic() - start < allowed(SOON + 2)


def tls(how: str, authority: Authority, directory: Path, *names: str, expired: bool = False) -> ScriptedLDAP:
    """Make a server with a certificate of this authority, for ldaps or StartTLS."""
    context = authority.server_context(directory, *(names or ("localhost",)), expired=expired)
    return scripted(tls=context) if how == "ldaps" else scripted(starttls=context)


@pytest.mark.parametrize("how", ["ldaps", "StartTLS"])
def test_a_right_certificate(how: str, authority: Authority, ca_file: Path, tmp_path: Path) -> None:
    """A certificate by the CA that is trusted, for the host that is named, is taken, and the bind goes through TLS."""
    with tls(how, authority, tmp_path) as server:
        asked = Asked(tmp_path, server.url, ca_file=ca_file)
        assert asked.entries() == persons(5)
        assert server.binds == [(SYNC, SYNC_PASSWORD)]
        first = "extended" if how == "StartTLS" else "bind"
        assert server.requests[0].op == first


@pytest.mark.parametrize("how", ["ldaps", "StartTLS"])
@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ("CA", "self-signed certificate in certificate chain|unable to get local issuer certificate"),
        ("name", "Hostname mismatch"),
        ("expired", "certificate has expired"),
    ],
)
def test_a_wrong_certificate(  # noqa: PLR0913, PLR0917 - what the test stands on
    how: str, wrong: str, says: str, asking: Asking, authority: Authority, ca_file: Path
) -> None:
    """Who cannot show that it is the server gets no password; what is wrong, and what to look at, is said."""
    signer = Authority() if wrong == "CA" else authority
    names = ("other.example.com",) if wrong == "name" else ("localhost",)
    with tls(how, signer, asking.asked.directory, *names, expired=wrong == "expired") as server:
        authority.ca_file(asking.asked.directory)  # the other authority's server wrote none over it
        asking.asked.configure(server.url, attributes=("mail",), ca_file=ca_file)
        error = fails(asking.asked, asking.before, BROKEN, server.url, "server certificate rejected", "check ca_file")
        assert re.search(says, error)
        assert "for localhost and has not expired" in error
        assert server.binds == []


def test_insecure_is_for_plain_ldap_alone(asking: Asking, ca_file: Path, tmp_path: Path) -> None:
    """A certificate is checked for ldaps:// though insecure permits ldap:// without TLS."""
    with tls("ldaps", Authority(), tmp_path) as server:
        asking.asked.configure(server.url, attributes=("mail",), ca_file=ca_file, insecure=True)
        fails(asking.asked, asking.before, BROKEN, "server certificate rejected")
        assert server.binds == []


def test_the_systems_authorities_count_without_ca_file(asking: Asking, authority: Authority, tmp_path: Path) -> None:
    """Without ca_file it is the system's authorities that count, and not none."""
    with tls("ldaps", authority, tmp_path) as server:
        asking.asked.configure(server.url, attributes=("mail",), insecure=False)
        fails(asking.asked, asking.before, BROKEN, "server certificate rejected", "check ca_file")
        assert server.binds == []


@pytest.mark.parametrize("code", [1, 2, 52, 80])
def test_a_server_that_will_not_start_tls(code: int, asking: Asking) -> None:
    """Where StartTLS is turned down, our password is not sent, and nothing is asked in the clear."""
    with scripted(starttls=code) as server:
        asking.asked.configure(server.url, attributes=("mail",), insecure=False)
        fails(asking.asked, asking.before, ANY, server.url, "startTLS failed")
        assert server.binds == []
        assert {request.op for request in server.requests} <= {"extended", "unbind"}


def test_plain_ldap_needs_to_be_permitted(tmp_path: Path) -> None:
    """An ldap:// URL goes without TLS only where insecure says so."""
    with scripted() as server:
        assert Asked(tmp_path, server.url, insecure=True).whole().report.entries == 5
        assert [request.op for request in server.requests[:1]] == ["bind"]
        server.requests.clear()
        server.binds.clear()
        (tmp_path / "strict").mkdir()
        assert Asked(tmp_path / "strict", server.url, insecure=False).fetch().report.state == "failing"
        assert [request.op for request in server.requests[:1]] == ["extended"]
        assert server.binds == []


@pytest.mark.parametrize("key", ["ca_file", "client_cert_file"])
@pytest.mark.parametrize("content", [None, b"", b"no certificate\n"])
def test_a_certificate_file_that_will_not_do(key: str, content: bytes | None, asking: Asking, tmp_path: Path) -> None:
    """A file of ours that is missing, or holds no certificate, is named, and nobody is asked."""
    file = tmp_path / "file.pem"
    if content is not None:
        file.touch(mode=0o600)
        file.write_bytes(content)
    with silent() as port:
        url = f"ldaps://localhost:{port}"
        own: dict[str, Any] = {"insecure": False, key: file}
        if key == "client_cert_file":
            own |= {"bind_dn": "", "password_file": None}
        asking.asked.configure(url, attributes=("mail",), **own)
        error = fails(asking.asked, asking.before, BROKEN, str(file))
        assert re.search("cannot be (used|read)|is empty", error)


# What a real server does to an account


@pytest.fixture(scope="module")
def directory(authority: Authority) -> Iterator[Slapd]:
    """A real directory of some people, with TLS."""
    server = Slapd(authority=authority)
    server.load(people(COUNT))
    with server:
        yield server


@pytest.fixture
def slapd(directory: Slapd) -> Iterator[Slapd]:
    """That directory, put right again after the test."""
    with directory.lent() as server:
        yield server


@pytest.fixture(params=["auto", "poll"])
def asked(request: pytest.FixtureRequest, slapd: Slapd, tmp_path: Path) -> Iterator[Asked]:
    """The source over that directory, in one of the modes."""
    asked = Asked(tmp_path, slapd.url, mode=request.param, page_size=5)
    yield asked
    asked.restart()


@pytest.fixture
def before(asked: Asked) -> Fetched:
    """What it said when it was asked once."""
    fetched = asked.whole()
    assert len(by_label(fetched)) == COUNT
    assert fetched.report.mode == {"auto": "sync"}.get(asked.configured.own.mode, "poll")
    return fetched


LIMITS = {
    "size.soft=7 size.hard=7": ("sizeLimitExceeded (4)", "raise the account's size limit"),
    "size.hard=7 size.soft=7 size.prtotal=7": ("sizeLimitExceeded (4)", "and the total of a paged search"),
    "size.prtotal=disabled": ("(11)", '"pagedResults control not allowed"'),
    "size.pr=3": ("(11)", "check page_size"),
    "size.unchecked=5": ("(11)", "the account's limits and indexes"),
}


@pytest.mark.parametrize("limit", LIMITS)
def test_a_limited_account(limit: str, slapd: Slapd, tmp_path: Path) -> None:
    """An account that may have less than everything fails the source, and the limit is named."""
    asked = Asked(tmp_path, slapd.url, mode="poll", page_size=5)
    before = asked.whole()
    slapd.restart(config=f'limits dn.exact="{SYNC}" {limit}')
    fails(asked, before, BROKEN, slapd.url, *LIMITS[limit])
    slapd.restart(config="")
    assert len(asked.entries()) == COUNT


RIGHTS = {
    "to the base": (f'access to * by dn.exact="{SYNC}" none by anonymous auth by users read', "noSuchObject (32)"),
    "to the people": (f'access to dn.one="{PEOPLE}" by dn.exact="{SYNC}" none by users read', "it has no entry at all"),
    "to the addresses": (
        f'access to attrs=mail,proxyAddresses by dn.exact="{SYNC}" none by users read',
        "it has no entry at all",
    ),
    "to the values": (
        f'access to attrs=mail,proxyAddresses by dn.exact="{SYNC}" search by users read',
        "matches the filter and shows no value of proxyAddresses, mail: may this account read them?",
    ),
}


@pytest.mark.parametrize("right", RIGHTS)
def test_an_account_that_lost_a_right(right: str, slapd: Slapd, tmp_path: Path) -> None:
    """An account that may read no more fails the source, though the server calls it a success."""
    rule, says = RIGHTS[right]
    asked = Asked(tmp_path, slapd.url, mode="poll", page_size=5)
    before = asked.whole()
    slapd.restart(config=rule)
    fails(asked, before, BROKEN, says)
    slapd.restart(config="")
    assert len(asked.entries()) == COUNT


@pytest.mark.parametrize("right", RIGHTS)
def test_a_lost_right_removes_nobody_in_sync_mode(right: str, slapd: Slapd, tmp_path: Path) -> None:
    """An account that may read no more is told of each entry that changes that it is gone; that is not believed."""
    asked = Asked(tmp_path, slapd.url, mode="sync", page_size=5)
    before = by_label(asked.whole())
    slapd.restart(config=RIGHTS[right][0])
    slapd.modify(f"uid=u{3:07},{PEOPLE}", sn="another")
    assert by_label(asked.fetch()) == before
    slapd.restart(config="")
    assert asked.entries() == before


WRONG: dict[str, tuple[dict[str, Any], tuple[str, ...]]] = {
    "base": ({"base": f"ou=nowhere,{SUFFIX}"}, ("noSuchObject (32)", "the base does not exist", "ou=nowhere")),
    "base of another suffix": ({"base": "dc=example,dc=net"}, ("(32)", "the base does not exist")),
    "base that is no DN": ({"base": "people"}, ("(34)", "base is not a well-formed DN")),
    "attribute": ({"attributes": ("mial", "mail")}, ("unknown attribute mial", "check attributes and filter")),
    "attribute in the filter": (
        {"filter": "(&(objectClass=person)(mial=*))"},
        ("unknown attribute mial", "check attributes and filter"),
    ),
    "attribute that nobody has": (
        {"attributes": ("description",), "filter": "(objectClass=inetOrgPerson)"},
        (f"it has {COUNT} entries, and none is for us",),
    ),
    "attribute that is no address": (
        {"attributes": ("sn",)},
        (f"none of its {COUNT} entries is an address", "is it the right file, attribute or format?"),
    ),
    "filter that finds nobody": ({"filter": "(mail=nobody@example.com)"}, ("it has no entry at all",)),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_a_wrong_configuration(wrong: str, slapd: Slapd, asked: Asked, before: Fetched) -> None:
    """What is asked for in a wrong way fails the source, though a server may call it a success."""
    keys, says = WRONG[wrong]
    mode = asked.configured.own.mode
    asked.configure(slapd.url, mode=mode, page_size=5, **keys)
    fails(asked, before, BROKEN, *says)
    asked.configure(slapd.url, mode=mode, page_size=5)
    assert len(asked.entries()) == COUNT


@pytest.mark.parametrize("text", ["(mail=*)", "(&(objectClass=person)(|(mail=*)(!(sn=x))))", "(mail>=a)", "(uid~=x)"])
def test_a_right_filter_is_not_suspected(text: str, slapd: Slapd, tmp_path: Path) -> None:
    """The look into the schema finds nothing wrong with what is right: options, OIDs and other spellings included."""
    asked = Asked(
        tmp_path, slapd.url, mode="poll", attributes=("MAIL", "0.9.2342.19200300.100.1.3", "rfc822Mailbox"), filter=text
    )
    assert "unknown attribute" not in asked.fetch().report.error


def test_a_filter_that_the_client_cannot_send(asking: Asking) -> None:
    """A filter whose parentheses pair and that is none all the same is named."""
    asking.asked.configure(asking.server.url, attributes=("mail",), filter="(&(mail=*)(mail))")
    fails(asking.asked, asking.before, BROKEN, "filter (&(mail=*)(mail)) is malformed")


def test_a_directory_that_was_emptied(slapd: Slapd, asked: Asked, before: Fetched) -> None:
    """Once everybody is gone from the directory, the last list stays."""
    for number in range(COUNT):
        slapd.modify(f"uid=u{number:07},{PEOPLE}", mail=[], proxyAddresses=[])
    try:
        fails(asked, before, BROKEN, "it has no entry at all", "allow_empty = true")
        fails(asked, before, BROKEN, "it has no entry at all", "allow_empty = true")
    finally:
        for number in range(COUNT):
            name = f"u{number:07}"
            addresses = [f"SMTP:{name}@example.com", f"smtp:{name}@example.org"]
            slapd.modify(f"uid={name},{PEOPLE}", mail=f"{name}@example.com", proxyAddresses=addresses)
    assert len(asked.entries()) == COUNT


@pytest.mark.parametrize("how", ["ldaps", "StartTLS"])
def test_a_real_server_by_a_wrong_authority(how: str, slapd: Slapd, asked: Asked, before: Fetched) -> None:
    """A real server whose certificate is by another CA gets no password."""
    wrong = asked.directory / "wrong"
    wrong.mkdir()
    url = slapd.tls_url if how == "ldaps" else slapd.starttls_url
    mode = asked.configured.own.mode
    asked.configure(url, mode=mode, ca_file=Authority().ca_file(wrong))
    log = len(slapd.log)
    fails(asked, before, BROKEN, url, "server certificate rejected", "check ca_file")
    assert "BIND" not in slapd.log[log:]
    asked.configure(url, mode=mode, ca_file=slapd.directory / "ca.pem")
    assert len(asked.entries()) == COUNT


# Servers that die in mid-pull


class Midway:
    """The source, with something done once, when so many entries have come."""

    def __init__(self, config: Config, count: int, do: Callable[[], None]) -> None:
        self._source: Source = build(config)
        self._count, self._do, self.done = count, do, False

    def fetch(self, request: Request) -> Answer:
        """See Source.fetch."""

        def report(step: str, count: int) -> None:
            request.report(step, count)
            if count >= self._count and not self.done:
                self.done = True
                self._do()

        return self._source.fetch(replace(request, report=report))


def midway(asked: Asked, count: int, do: Callable[[], None]) -> Midway:
    """Have it done in the next run, when so many entries have come."""
    source = Midway(asked.configured.own, count, do)
    asked.configured = msgspec.structs.replace(asked.configured, build=lambda _: source)
    return source


@pytest.fixture(scope="module")
def crowd() -> Iterator[Slapd]:
    """A real directory of some thousand people."""
    server = Slapd()
    server.load(people(CROWD))
    with server:
        yield server


@pytest.mark.parametrize("how", ["killed", "stopped", "paused"])
@pytest.mark.parametrize("mode", ["sync", "poll"])
def test_a_real_server_that_ends_in_mid_pull(how: str, mode: str, crowd: Slapd, tmp_path: Path) -> None:
    """A server that is killed, stopped or stands still while its pages are read fails the run; the next is right."""
    crowd.start()
    asked = Asked(tmp_path, crowd.url, mode=mode, page_size=500, read_timeout=SOON)
    before = asked.whole()
    asked.configured = msgspec.structs.replace(asked.configured, digest="another")  # asks for everything
    do, undo = {
        "killed": (crowd.kill, crowd.start),
        "stopped": (crowd.stop, crowd.start),
        "paused": (crowd.pause, crowd.resume),
    }[how]
    source = midway(asked, 1000, do)
    try:
        fails(asked, before, TEMPORARY, crowd.url, "timed out" if how == "paused" else "")
        assert source.done
    finally:
        undo()
    assert asked.entries() == by_label(before)


def test_a_real_server_that_stands_still(slapd: Slapd, tmp_path: Path) -> None:
    """A server that takes connections and answers nothing is given up on, by a warm connection and by a new one."""
    asked = Asked(tmp_path, slapd.url, read_timeout=SOON)
    before = asked.whole()
    slapd.pause()
    try:
        start = time.monotonic()
        fails(asked, before, TEMPORARY, slapd.url, "timed out")
        asked.restart()
        fails(asked, before, TEMPORARY, slapd.url, "timed out")
        assert time.monotonic() - start < allowed(3 * SOON + 2)
    finally:
        slapd.resume()
    assert asked.whole().report.state == "same"


# Another server


OTHER = persons(7, "other")


@dataclass
class Two:
    """A second server, whose people are others, and a source over two."""

    second: ScriptedLDAP
    directory: Path
    ca_file: Path

    def asked(self, first: str, **keys: Any) -> Asked:  # noqa: ANN401 - any key of it
        """Return the source, which tries another server first."""
        given: dict[str, Any] = {"read_timeout": SOON, "connect_timeout": SOON, "page_size": PAGE, **keys}
        return Asked(self.directory, first, self.second.url, **given)

    def give(self, first: str) -> None:
        """Do a run that gives the whole list of the second server and nothing else."""
        fetched = self.asked(first).whole()
        assert by_label(fetched) == OTHER
        report = fetched.report
        assert (report.state, report.entries, report.rejected, report.ignored) == ("whole", len(OTHER), 0, 0)
        assert self.second.connections == 1


@pytest.fixture
def two(tmp_path: Path, ca_file: Path) -> Iterator[Two]:
    """A second server without TLS."""
    with scripted(7, "other") as second:
        yield Two(second, tmp_path, ca_file)


def half() -> list[Entry]:
    """Return entries of which some values are rejected and some ignored."""
    bad: Attributes = {"mail": [b"caf\xe9@example.com"], "proxyAddresses": ["sip:x@example.com"]}
    return [(f"cn=bad,{SUFFIX}", bad), *(person(number) for number in range(5))]


@pytest.mark.parametrize("what", [51, 52, "fin", "fin-inside", "rst", "stall", "notice"])
@pytest.mark.parametrize("page", [0, 1, 2, 3])
def test_the_next_server_is_asked(what: What, page: int, two: Two) -> None:
    """The second server gives everything where the first is not to be had or dies on the way; no half of it is left."""
    with ScriptedLDAP(half(), password=SYNC_PASSWORD, trouble=Trouble(page, 0 if page == 0 else 1, what)) as first:
        two.give(first.url)
        assert first.connections == 1


def test_the_next_server_is_asked_where_the_first_is_down(two: Two) -> None:
    """The second server is asked where the first is closed, silent or unknown."""
    with closed() as port:
        two.give(f"ldap://127.0.0.1:{port}")


@pytest.mark.parametrize("first", ["silent", "unknown"])
def test_the_next_server_is_asked_where_there_is_no_first(first: str, two: Two) -> None:
    """The second server is asked where the first says nothing at all, or has no address."""
    with silent() as port:
        two.give(f"ldap://127.0.0.1:{port}" if first == "silent" else "ldap://name.invalid")


def test_the_next_server_is_asked_where_the_first_has_a_wrong_certificate(
    two: Two, authority: Authority, tmp_path: Path
) -> None:
    """A server that cannot show who it is gets no password, and the next one is asked."""
    with tls("ldaps", authority, tmp_path, "other.example.com") as first:
        two.give(first.url)
        assert first.binds == []


def test_the_next_server_is_asked_where_the_first_dies_for_good(crowd: Slapd, tmp_path: Path) -> None:
    """A real server that is killed in mid-pull is followed by the next, which gives the whole list, nothing doubled."""
    crowd.start()
    with scripted(7, "other") as second:
        asked = Asked(tmp_path, crowd.url, second.url, mode="poll", page_size=500)
        source = midway(asked, 1000, crowd.kill)
        assert asked.entries() == OTHER
        assert source.done


@pytest.mark.parametrize("code", [19, 48, 49, 53])
def test_another_server_is_not_asked_for_a_password_that_is_turned_down(code: int, two: Two) -> None:
    """Where the first server turns us down the second is not asked: it would count the same wrong password."""
    with scripted(trouble=Trouble(0, 0, code)) as first:
        asked = two.asked(first.url)
        assert asked.fetch().report.kind == REFUSED
        assert (first.connections, two.second.connections) == (1, 0)


def test_all_servers_are_named(two: Two, authority: Authority, tmp_path: Path) -> None:
    """Where no server can be asked all are named; that is worth another try unless it is certificates alone."""
    two.second.trouble = Trouble(1, 1, 52)
    with closed() as port, tls("ldaps", authority, tmp_path, "other.example.com") as wrong:
        down = f"ldap://127.0.0.1:{port}"
        asked = Asked(tmp_path, down, wrong.url, two.second.url)
        report = asked.fetch().report
        assert all(url in report.error for url in (down, wrong.url, two.second.url))
        assert report.kind == TEMPORARY
        asked.configure(wrong.url, wrong.url.replace("localhost", "127.0.0.1"))
        assert asked.fetch().report.kind == BROKEN


# Connections that were kept


def drop(server: ScriptedLDAP, how: str) -> None:
    """End the connections that are open, as a server, or something on the way, does while nothing is asked."""
    for connection in server.open_sockets.copy():
        if how == "notice":
            connection.sendall(notice())
        if how == "RST":
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            connection.shutdown(socket.SHUT_RD)  # wakes its thread, which closes it
        else:
            connection.shutdown(socket.SHUT_RDWR)
    assert wait_until(lambda: not server.open_sockets, pause=0.001)


@pytest.mark.parametrize("how", ["FIN", "RST", "notice"])
def test_a_connection_that_died_meanwhile(how: str, asking: Asking) -> None:
    """A connection that died while nothing was asked is renewed: the run goes on, and asks but for changes."""
    drop(asking.server, how)
    asking.server.requests.clear()
    asking.server.sync_answers = [_NOTHING]
    assert asking.asked.whole().report.state == "same"
    assert asking.server.connections == 2
    assert [request.sync_cookie for request in asking.server.requests if request.op == "search"] == [
        b"rid=000,csn=" + CSN
    ]


@pytest.mark.parametrize("how", CUT_OFF)
def test_a_connection_that_dies_when_it_is_used(how: str, asking: Asking) -> None:
    """A connection that dies over the first question of a run is renewed too."""
    asking.server.sync_answers = [[CUT_OFF[how].what], _NOTHING]  # type: ignore[list-item]
    assert asking.asked.whole().report.state == "same"
    assert asking.server.connections == 2


@pytest.mark.parametrize("kill", [False, True])
def test_a_real_server_that_was_restarted(kill: bool, slapd: Slapd, asked: Asked, before: Fetched) -> None:  # noqa: FBT001 - a parameter of the test
    """A restart of the server between two runs fails neither, and takes nothing away."""
    if kill:
        slapd.kill()
    slapd.restart()
    assert asked.entries() == by_label(before)


def test_a_real_server_that_is_restarted_in_mid_pull(crowd: Slapd, tmp_path: Path) -> None:
    """A kept connection that dies in mid-pull is renewed, and everything is asked for anew: nothing is doubled."""
    crowd.start()
    asked = Asked(tmp_path, crowd.url, mode="sync", page_size=500)
    source = midway(asked, 10**9, crowd.restart)
    before = asked.whole()
    asked.configured = msgspec.structs.replace(asked.configured, digest="another")  # asks for everything
    source._count = 1000
    after = asked.whole()
    assert source.done
    assert (by_label(after), after.report.entries) == (by_label(before), before.report.entries)


# Where our password goes


REFERRED: dict[str, Callable[[str], Trouble]] = {
    "bind": lambda url: Trouble(0, 0, 10, "", (url,)),
    "page": lambda url: Trouble(1, 1, 10, "", (url,)),
    "later page": lambda url: Trouble(2, 0, 10, "", (url,)),
    "reference": lambda url: Trouble(1, 1, "reference", "", (url,)),
    "refused bind": lambda url: Trouble(0, 0, 49, "", (url,)),
}


@pytest.mark.parametrize("where", REFERRED)
@pytest.mark.parametrize("ignore", [False, True])
def test_a_referral_is_never_followed(where: str, ignore: bool, tmp_path: Path) -> None:  # noqa: FBT001 - a parameter of the test
    """Whoever a server refers us to sees no connection, let alone a password."""
    with scripted(name="other") as elsewhere, scripted() as server:
        server.trouble = REFERRED[where](f"{elsewhere.url}/{SUFFIX}??sub")
        asked = Asked(tmp_path, server.url, page_size=PAGE, ignore_references=ignore)
        fetched = asked.fetch()
        accepted = where == "reference" and ignore
        assert (fetched.report.state == "whole") == accepted
        assert accepted or where in {"bind", "refused bind"} or elsewhere.url in fetched.report.error
        assert elsewhere.connections == 0
        assert server.connections == 1


def test_the_password_is_in_no_output(
    asking: Asking,
    authority: Authority,
    ca_file: Path,
    capfd: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Nothing is printed or logged by any failure, and the password is in nothing that is remembered of it."""
    caplog.set_level(0)
    asked, server, before = asking.asked, asking.server, asking.before
    for page, what in ((0, 49), (0, 80), (0, "fin-inside"), (0, 12345), (1, 80), (1, "rst"), (2, 12345)):
        server.trouble = Trouble(page, 0 if page == 0 else 1, what)  # type: ignore[arg-type]
        asking.lose_cookie()
        asked.restart()
        fails(asked, before, ANY, now=NOW + 10_000 * asked.runs.count)
    for how in ("ldaps", "StartTLS"):
        with tls(how, authority, asked.directory, "other.example.com") as wrong:
            asked.configure(wrong.url, attributes=("mail",), ca_file=ca_file)
            fails(asked, before, BROKEN)
    with scripted(starttls=52) as unwilling:
        asked.configure(unwilling.url, attributes=("mail",), insecure=False)
        fails(asked, before, ANY)
    assert capfd.readouterr() == ("", "")
    assert SYNC_PASSWORD not in caplog.text


# Ranges of values


def many(count: int = 3700) -> list[Entry]:
    """Return the entry of a person with many addresses, between two others."""
    values = [f"smtp:v{number}@example.com" for number in range(count)]
    return [person(0), (f"cn=many,{SUFFIX}", {"proxyAddresses": values, "entryUUID": [str(UUID(int=9))]}), person(1)]


@pytest.mark.parametrize("count", [1499, 1500, 1501, 3000, 3001, 3700, 4500])
def test_values_in_ranges(count: int, tmp_path: Path) -> None:
    """Values that come in steps of 1500, as from Active Directory, are all there."""
    with ScriptedLDAP(many(count), password=SYNC_PASSWORD) as server:
        found = Asked(tmp_path, server.url, page_size=PAGE).entries()
        assert found == persons(2) | {f"cn=many,{SUFFIX}": {f"v{number}@example.com" for number in range(count)}}
        assert server.range_requests == (count - 1) // 1500


@pytest.mark.parametrize("request_number", [1, 2])
@pytest.mark.parametrize(
    ("what", "says"),
    [
        ("empty-range", "the values of proxyAddresses from"),
        ("lost-range", "the values of proxyAddresses from"),
        ("range-error", "other (80)"),
    ],
)
def test_ranges_that_are_not_whole(what: What, says: str, request_number: int, tmp_path: Path) -> None:
    """Where the rest of the values does not come, the source fails, rather than be without them."""
    with ScriptedLDAP(many(), password=SYNC_PASSWORD) as server:
        asked = Asked(tmp_path, server.url, page_size=PAGE)
        before = asked.whole()
        server.range_requests = 0
        server.trouble = Trouble(request_number, 0, what)
        fails(asked, before, TEMPORARY, server.url, says, f"cn=many,{SUFFIX}")
        assert server.range_requests == request_number


# Values of entries


def alone(directory: Path, entry: Attributes, **keys: Any) -> Fetched:  # noqa: ANN401 - any key of it
    """Ask for one entry beside an ordinary one, and give what came of it."""
    with ScriptedLDAP([person(0), (f"cn=x,{SUFFIX}", entry)], password=SYNC_PASSWORD) as server:
        return Asked(directory, server.url, **keys).whole()


def test_values_that_are_not_utf8(tmp_path: Path) -> None:
    """A value that is not UTF-8 is a reject with its reason and its entry's key, and stops nothing."""
    values = [b"caf\xe9@example.com", b"ok@example.com", "caffè@example.com".encode(), b"\xff"]
    fetched = alone(tmp_path, {"mail": values})
    assert by_label(fetched)[f"cn=x,{SUFFIX}"] == {"ok@example.com", "caffè@example.com"}
    assert (fetched.report.entries, fetched.report.rejected) == (3, 2)
    assert fetched.snapshot is not None
    rejects = first_rejects(fetched.snapshot, "corp", 5)
    assert {(one.reason, one.key) for one in rejects} == {
        ("is not UTF-8: correct the value in the directory", f"cn=x,{SUFFIX}")
    }
    assert r"caf\\xe9@example.com" in {one.spelled for one in rejects}


IGNORED = None
REJECTED = ""
PROXY_ADDRESSES = {
    "SMTP:a@example.com": "a@example.com",
    "smtp:a@example.com": "a@example.com",
    "Smtp:A@Example.COM": "a@example.com",
    "sMtP:a@example.com": "a@example.com",
    "a@example.com": "a@example.com",
    'smtp:"a:b"@example.com': '"a:b"@example.com',
    "smtp:a@[IPv6:2001:db8::1]": "a@[ipv6:2001:db8::1]",
    "a@[IPv6:2001:db8::1]": "a@[ipv6:2001:db8::1]",
    "sip:a@example.com": IGNORED,
    "SIP:a@example.com": IGNORED,
    "x500:/o=Example/ou=Exchange/cn=Recipients/cn=a": IGNORED,
    "X500:/o=Example/cn=a@example.com": IGNORED,
    "X400:C=US;A= ;P=Example;O=Exchange;S=A;": IGNORED,
    "EUM:a@example.com;phone-context=x": IGNORED,
    "SPO:SPO_1@SPO_2": IGNORED,
    "NOTES:A/Example@EXAMPLE": IGNORED,
    "{2A3F}": IGNORED,
    "smtp:{2A3F-4711}": IGNORED,
    "SMTP:{2A3F}@example.com": IGNORED,
    "smtp:": REJECTED,
    "smtp:a": REJECTED,
    "a": REJECTED,
    "smtp:a@b@example.com": REJECTED,
    "smtp:a b@example.com": REJECTED,
}


@pytest.mark.parametrize("value", PROXY_ADDRESSES)
def test_what_comes_of_a_proxy_address(value: str, tmp_path: Path) -> None:
    """Of proxyAddresses, the mail addresses are taken, other types ignored, and what is no address is rejected."""
    fetched = alone(tmp_path, {"proxyAddresses": [value]})
    wanted, report = PROXY_ADDRESSES[value], fetched.report
    assert by_label(fetched).get(f"cn=x,{SUFFIX}", set()) == ({wanted} if wanted else set())
    assert (report.rejected, report.ignored) == (int(wanted == REJECTED), int(wanted is IGNORED))


def test_a_prefix_is_no_part_of_other_attributes(tmp_path: Path) -> None:
    """What only proxyAddresses have is not looked for in other attributes."""
    fetched = alone(
        tmp_path, {"mail": ["a@[IPv6:2001:db8::1]", "{x}@example.com"], "proxyaddresses": ["SMTP:b@example.com"]}
    )
    assert by_label(fetched)[f"cn=x,{SUFFIX}"] == {"a@[ipv6:2001:db8::1]", "{x}@example.com", "b@example.com"}


def test_other_spellings_of_an_attribute(tmp_path: Path) -> None:
    """An attribute is known in the server's own spelling, and with options; the same address comes once."""
    mails: Attributes = {
        "Mail": ["a@example.com"],
        "mail;lang-de": ["b@example.com", "a@example.com"],
        "MAIL;lang-fr;x-foo": ["c@example.com"],
        "mailbox": ["none@example.com"],
        "proxyADDRESSES": ["SMTP:A@example.com", "smtp:d@example.com"],
    }
    fetched = alone(tmp_path, mails)
    assert by_label(fetched)[f"cn=x,{SUFFIX}"] == {f"{letter}@example.com" for letter in "abcd"}
    assert fetched.report.entries == 5


def test_an_entry_without_addresses_is_counted(tmp_path: Path) -> None:
    """An entry of a filter that demands no address is ignored and counted if it has none."""
    entries: list[Attributes] = [{}, {"mail": []}, {"other": ["a@example.com"]}]
    for number, attributes in enumerate(entries):
        (tmp_path / str(number)).mkdir()
        fetched = alone(tmp_path / str(number), attributes, filter="(objectClass=person)")
        assert by_label(fetched) == persons(1)
        assert (fetched.report.ignored, fetched.report.rejected) == (1, 0)


KEYS: dict[str, tuple[str | None, Attributes, str]] = {
    "entryUUID": (
        None,
        {"entryUUID": ["2A3F0000-0000-0000-0000-00000000000B"]},
        "2a3f0000-0000-0000-0000-00000000000b",
    ),
    "objectGUID": (
        "active-directory",
        {"objectGUID": [bytes.fromhex("00112233445566778899aabbccddeeff")]},
        "33221100-5544-7766-8899-aabbccddeeff",
    ),
    "ipaUniqueID": ("freeipa", {"ipaUniqueID": ["2A3F-11"]}, "2a3f-11"),
    "none": (None, {}, f"cn=x,{SUFFIX}"),
}


@pytest.mark.parametrize("name", KEYS)
def test_the_key_of_an_entry(name: str, tmp_path: Path) -> None:
    """An entry's key is the product's own identifier, as people know it, or else its DN."""
    preset, own, key = KEYS[name]
    fetched = alone(tmp_path, {"mail": ["x@example.com"], **own}, preset=preset, attributes=("mail",))
    assert fetched.snapshot is not None
    assert f"x@example.com\t{key}\tcn=x,{SUFFIX}\n" in fetched.snapshot.read_text("utf-8")


def test_ldaps_at_a_port_without_tls(tmp_path: Path) -> None:
    """A port that speaks no TLS is named as such."""
    with Slapd() as server:
        url = server.url.replace("ldap:", "ldaps:")
        failed = Asked(tmp_path, url, ca_file=Authority().ca_file(tmp_path), connect_timeout=1.0).fetch()
        assert "TLS handshake failed" in failed.report.error
        assert "((" not in failed.report.error
        assert "BIND" not in server.log


def test_a_starttls_that_did_not_come_about(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Should StartTLS end without an error and without TLS, nothing is said after it: no bind, no password."""
    with ScriptedLDAP([], password=None) as server:
        monkeypatch.setattr("ldap3.Connection.start_tls", lambda *_, **__: False)
        failed = Asked(tmp_path, server.url, ca_file=Authority().ca_file(tmp_path)).fetch()
        assert failed.report.kind == BROKEN
        assert "connection not encrypted after StartTLS" in failed.report.error
        assert not server.binds
        assert not server.requests
