"""Sync mode (RFC 4533): what changed arrives as it is, and nothing else is asked for; real slapd."""

import shutil
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from uuid import UUID

import msgspec
import pytest

from syncagent.errors import FailureKind
from syncagent.files import atomic, sorted_lines
from syncagent.sources.ldap.validator import SyncState
from syncagent.sync.fetch import Fetched
from tests.sources.ldap import Asked, by_label, searched
from tests.support.ldap_wire import Attributes
from tests.support.scripted_ldap import ScriptedLDAP, SyncAnswer, SyncDone, SyncEntry, SyncIds
from tests.support.slapd import PEOPLE, SUFFIX, SYNC, Slapd, people

OTHERS = f"ou=others,{SUFFIX}"
COUNT = 25


def dn(number: int) -> str:
    """Return the DN of one of the people."""
    return f"uid=u{number:07},{PEOPLE}"


def mails(number: int) -> set[str]:
    """Return the initial addresses of one of the people."""
    return {f"u{number:07}@example.com", f"u{number:07}@example.org"}


def everybody(count: int = COUNT) -> dict[str, set[str]]:
    """Return the initial addresses of all people by DN."""
    return {dn(number): mails(number) for number in range(count)}


@pytest.fixture
def slapd() -> Iterator[Slapd]:
    """A directory of some people that offers sync mode, and another unit outside of it."""
    server = Slapd()
    server.load(people(COUNT))
    with server:
        server.add(OTHERS, objectClass="organizationalUnit", ou="others")
        yield server


@pytest.fixture
def asked(slapd: Slapd, tmp_path: Path) -> Asked:
    """The source over the people alone, asked once."""
    asked = Asked(tmp_path, slapd.url, base=PEOPLE)
    assert asked.entries() == everybody()
    searched(slapd)
    return asked


def known(fetched: Fetched) -> dict[str, object]:
    """Return the stored validator, decoded."""
    assert fetched.state.validator is not None
    return msgspec.json.decode(fetched.state.validator, type=dict[str, object])


def test_the_mode_is_told(slapd: Slapd, tmp_path: Path) -> None:
    """Where the server offers sync mode it is used, and each report names the mode."""
    asked = Asked(tmp_path, slapd.url, base=PEOPLE)
    assert asked.whole().report.mode == "sync"
    assert (asked.whole().report.state, asked.whole().report.mode) == ("same", "sync")
    asked.configure(slapd.url, base=PEOPLE, mode="poll")
    assert (asked.whole().report.state, asked.whole().report.mode) == ("whole", "poll")


CHANGES: dict[str, tuple[Callable[[Slapd], None], int]] = {
    "add": (lambda slapd: slapd.add(f"uid=neu,{PEOPLE}", uid="neu", mail="neu@example.com"), 1),
    "modify": (lambda slapd: slapd.modify(dn(3), mail="other@example.com"), 1),
    "one value more": (
        lambda slapd: slapd.modify(dn(3), proxyAddresses=["smtp:a@example.com", "smtp:b@example.com"]),
        1,
    ),
    "delete": (lambda slapd: slapd.delete(dn(3)), 0),
    "rename": (lambda slapd: slapd.rename(dn(3), "uid=renamed"), 1),
    "move out": (lambda slapd: slapd.rename(dn(3), f"uid=u{3:07}", OTHERS), 0),
    "attributes removed": (lambda slapd: slapd.modify(dn(3), mail=[], proxyAddresses=[]), 0),
    "one attribute removed": (lambda slapd: slapd.modify(dn(3), proxyAddresses=[]), 1),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_change_arrives_by_itself(change: str, slapd: Slapd, asked: Asked, tmp_path: Path) -> None:
    """Each kind of change arrives, by one search that gives no more entries than changed."""
    do, named = CHANGES[change]
    do(slapd)
    fetched = asked.whole()
    assert (fetched.report.state, fetched.report.mode) == ("whole", "sync")
    assert searched(slapd) == [("(|(proxyAddresses=*)(mail=*))", named)]
    (tmp_path / "poll").mkdir()
    assert by_label(fetched) == Asked(tmp_path / "poll", slapd.url, base=PEOPLE, mode="poll").entries()
    searched(slapd)
    assert asked.whole().report.state == "same"


def test_moved_in(slapd: Slapd, asked: Asked) -> None:
    """Whoever is moved to below the base arrives by one search of one entry."""
    slapd.add(f"uid=far,{OTHERS}", uid="far", mail="far@example.com")
    assert asked.whole().report.state == "same"
    slapd.rename(f"uid=far,{OTHERS}", "uid=far", PEOPLE)
    searched(slapd)
    assert asked.entries() == everybody() | {f"uid=far,{PEOPLE}": {"far@example.com"}}
    assert [count for _, count in searched(slapd)] == [1]


def test_a_change_elsewhere_only_moves_the_cookie(slapd: Slapd, asked: Asked) -> None:
    """What changes outside the base is "same", with a cookie that is further on."""
    before = known(asked.whole())
    slapd.add(f"uid=far,{OTHERS}", uid="far", mail="far@example.com")
    fetched = asked.whole()
    assert fetched.report.state == "same"
    assert known(fetched)["cookie"] != before["cookie"]
    assert {count for _, count in searched(slapd)} == {0}


def test_one_connection_serves_many_runs(slapd: Slapd, asked: Asked) -> None:
    """The connection is kept; one that has died is renewed without failing the run, nor asking for everything."""
    accepted = slapd.log.count("ACCEPT")
    for _ in range(5):
        assert asked.whole().report.state == "same"
    assert slapd.log.count("ACCEPT") == accepted
    slapd.restart()
    searched(slapd)
    assert asked.whole().report.state == "same"
    slapd.delete(dn(1))
    assert dn(1) not in asked.entries()
    assert all(count <= 1 for _, count in searched(slapd))


def test_another_process_goes_on_from_the_cookie(slapd: Slapd, asked: Asked) -> None:
    """A one-shot run asks with the cookie of the one before."""
    slapd.delete(dn(2))
    asked.restart()
    assert dn(2) not in asked.entries()
    assert [count for _, count in searched(slapd)] == [0]


@pytest.mark.parametrize("sessionlog", [0, 3])
def test_the_session_log_does_not_reach_back(sessionlog: int, slapd: Slapd, asked: Asked) -> None:
    """Without a log that reaches back the server names what is still there; the rest goes, and no more."""
    slapd.restart(sessionlog=sessionlog)
    assert asked.whole().report.state == "same"
    searched(slapd)
    for number in range(10):
        slapd.delete(dn(number))
    slapd.modify(dn(20), mail="other@example.com")
    slapd.add(f"uid=neu,{PEOPLE}", uid="neu", mail="neu@example.com")
    wanted = {name: found for name, found in everybody().items() if name >= dn(10)}
    wanted[dn(20)] = {"other@example.com"} | mails(20)
    wanted[f"uid=neu,{PEOPLE}"] = {"neu@example.com"}
    assert asked.entries() == wanted
    assert [count for _, count in searched(slapd)] == [2], "what did not change is not sent"
    assert asked.whole().report.state == "same"


def test_present_of_many_keys(slapd: Slapd, tmp_path: Path) -> None:
    """Thousands of keys that are still there are all found again."""
    slapd.stop()
    slapd.load(people(3000, first=1000))
    slapd.restart(sessionlog=0)
    asked = Asked(tmp_path, slapd.url, base=PEOPLE)
    assert len(asked.entries()) == 3000 + COUNT
    for number in range(1500, 1520):
        slapd.delete(dn(number))
    searched(slapd)
    found = asked.entries()
    assert len(found) == 3000 + COUNT - 20
    assert not found.keys() & {dn(number) for number in range(1500, 1520)}
    assert [count for _, count in searched(slapd)] == [0]


def test_without_the_overlay_everything_is_asked_for(slapd: Slapd, asked: Asked) -> None:
    """A server that offers sync mode no longer, contextCSN left over, is polled; where sync is a must, it fails."""
    slapd.restart(syncprov=False)
    slapd.delete(dn(4))
    searched(slapd)
    fetched = asked.whole()
    assert fetched.report.mode == "poll"
    assert dn(4) not in by_label(fetched)
    assert any("full search: " in note for note in fetched.report.notes), fetched.report.notes
    asked.configure(slapd.url, base=PEOPLE, mode="sync")
    failed = asked.fetch()
    assert failed.report.kind == FailureKind.BROKEN
    assert "does not support sync mode" in failed.report.error
    assert "overlay syncprov" in failed.report.error


def test_sync_mode_needs_to_read_the_cookie(slapd: Slapd, tmp_path: Path) -> None:
    """An account that may not read contextCSN is polled."""
    rule = f'access to dn.base="{SUFFIX}" attrs=contextCSN by * none'
    slapd.restart(config=rule)
    asked = Asked(tmp_path, slapd.url, base=PEOPLE)
    assert asked.whole().report.mode == "poll"
    asked.configure(slapd.url, base=PEOPLE, mode="sync")
    assert "contextCSN" in asked.fetch().report.error


def test_another_configuration_asks_for_everything(slapd: Slapd, asked: Asked) -> None:
    """A cookie is worth nothing for another filter or base."""
    asked.configure(slapd.url, base=PEOPLE, filter="(mail=u000000*)")
    assert asked.entries() == {dn(number): mails(number) for number in range(10)}


def test_another_server_asks_for_everything(slapd: Slapd, asked: Asked) -> None:
    """The cookie of one server is not shown to another; while its own answers, it is asked first."""
    with Slapd() as other:
        other.add(f"uid=b,{PEOPLE}", uid="b", mail="b@example.com")
        digest = asked.configured.digest
        asked.configure(other.url, slapd.url, base=PEOPLE)
        asked.configured = msgspec.structs.replace(asked.configured, digest=digest)  # as if it had always been so
        assert asked.whole().report.state == "same"
        slapd.stop()
        fetched = asked.whole()
        assert by_label(fetched) == {f"uid=b,{PEOPLE}": {"b@example.com"}}
        assert any(other.url in note for note in fetched.report.notes)
        assert known(fetched)["url"] == other.url
        slapd.start()
        assert asked.whole().report.state == "same", "it stays with the server of its cookie"


def test_everything_is_asked_for_after_the_interval(slapd: Slapd, asked: Asked) -> None:
    """Once full_interval has passed everything is asked for and compared; where all is well nothing is said."""
    digest = asked.configured.digest
    asked.configure(slapd.url, base=PEOPLE, full_interval=0.0)
    asked.configured = msgspec.structs.replace(asked.configured, digest=digest)
    slapd.delete(dn(5))
    slapd.modify(dn(6), mail="six@example.com")
    fetched = asked.whole()
    assert (fetched.report.state, fetched.report.mode) == ("whole", "sync")
    assert by_label(fetched).keys() == everybody().keys() - {dn(5)}
    assert max(count for _, count in searched(slapd)) == COUNT - 1
    assert not asked.runs.notes


def test_what_no_change_told_is_an_error(slapd: Slapd, asked: Asked) -> None:
    """What went without a word, as by an access rule, is found by the whole pull, told, and the pull counts."""
    digest = asked.configured.digest
    slapd.restart(config=f'access to dn.base="{dn(7)}" by * none')
    assert asked.whole().report.state == "same"
    asked.configure(slapd.url, base=PEOPLE, full_interval=0.0)
    asked.configured = msgspec.structs.replace(asked.configured, digest=digest)
    slapd.delete(dn(8))
    fetched = asked.whole()
    assert by_label(fetched).keys() == everybody().keys() - {dn(7), dn(8)}
    (note,) = asked.runs.notes
    assert (note.kind, note.count) == ("changes-differ", 2)
    assert f"u{7:07}@example.com" in note.detail


def test_deletes_that_the_server_never_tells_of(slapd: Slapd, tmp_path: Path) -> None:
    """With syncprov-nopresent and no log a delete is never told; the pull of the next interval finds it."""
    slapd.restart(sessionlog=0)
    text = (slapd.directory / "slapd.conf").read_text("utf-8")
    slapd.stop()
    (slapd.directory / "slapd.conf").write_text(f"{text}\nsyncprov-nopresent TRUE\n", "utf-8")
    slapd.start()
    asked = Asked(tmp_path, slapd.url, base=PEOPLE)
    asked.whole()
    slapd.delete(dn(9))
    assert dn(9) in asked.entries()
    digest = asked.configured.digest
    asked.configure(slapd.url, base=PEOPLE, full_interval=0.0)
    asked.configured = msgspec.structs.replace(asked.configured, digest=digest)
    assert dn(9) not in asked.entries()
    assert [(note.kind, note.count) for note in asked.runs.notes] == [("changes-differ", 2)]


def test_a_small_limit_asks_for_everything(slapd: Slapd, asked: Asked) -> None:
    """An account that may have but few entries at once gets small changes, and pages for large ones."""
    slapd.restart(config=f'limits dn.exact="{SYNC}" size.soft=5 size.hard=5 size.pr=1000 size.prtotal=unlimited')
    slapd.modify(dn(1), mail="one@example.com")
    searched(slapd)
    asked.whole()
    assert [count for _, count in searched(slapd)] == [1]
    for number in range(10):
        slapd.modify(dn(number), mail=f"n{number}@example.com")
    fetched = asked.whole()
    assert fetched.report.mode == "sync"
    assert "n9@example.com" in by_label(fetched)[dn(9)]
    assert any("too many entries changed" in note for note in fetched.report.notes)


def test_more_than_is_held_in_memory_is_pulled(slapd: Slapd, asked: Asked, monkeypatch: pytest.MonkeyPatch) -> None:
    """A refresh never brings more entries than a bound that we set ourselves: beyond it, pages are asked for."""
    monkeypatch.setattr("syncagent.sources.ldap.content_sync.MAX_CHANGES", 5)
    for number in range(10):
        slapd.modify(dn(number), mail=f"n{number}@example.com")
    fetched = asked.whole()
    assert any("too many entries changed" in note for note in fetched.report.notes)
    assert "n9@example.com" in by_label(fetched)[dn(9)]
    assert asked.whole().report.state == "same"


def test_exact_under_a_writer(tmp_path: Path) -> None:
    """20,000 entries, a writer at 50 changes a second: after the pull and one refresh all is as in the directory."""
    server = Slapd()
    server.load(people(20_000))
    with server:
        over = threading.Event()
        changes = [0]
        writer = threading.Thread(target=_write, args=(server, over, changes))
        writer.start()
        try:
            asked = Asked(tmp_path, server.url, base=PEOPLE)
            fetched = asked.whole()
            assert fetched.report.mode == "sync"
        finally:
            over.set()
            writer.join()
        assert changes[0] > 30, "it wrote all the while"
        found = asked.entries()
        (tmp_path / "poll").mkdir()
        assert found == Asked(tmp_path / "poll", server.url, base=PEOPLE, mode="poll").entries()


def _write(slapd: Slapd, over: threading.Event, changes: list[int]) -> None:
    """Change 50 a second, all over the directory: add, modify, delete, rename."""
    while not over.wait(0.02):
        number = changes[0]
        changes[0] += 1
        place = number * 7919 % 20_000
        if number % 4 == 0:
            slapd.modify(dn(place), mail=f"changed{number}@example.com")
        elif number % 4 == 1:
            slapd.delete(dn(place))
        elif number % 4 == 2:
            slapd.add(f"uid=new{number},{PEOPLE}", uid=f"new{number}", mail=f"new{number}@example.com")
        else:
            slapd.rename(dn(place), f"uid=renamed{number}")


# What slapd will not do on demand: a scripted server.

UUIDS = [UUID(int=number) for number in range(1, 6)]
CSN = b"20240101000000.000000Z#000000#000#000000"
COOKIE, LATER = b"rid=000,csn=" + CSN, b"rid=000,csn=20240201000000.000000Z#000000#000#000000"


def _person(number: int) -> tuple[str, Attributes]:
    mail: Attributes = {"mail": [f"p{number}@example.com"], "entryUUID": [str(UUIDS[number])]}
    return f"cn=p{number},{SUFFIX}", mail


@pytest.fixture
def scripted(tmp_path: Path) -> Iterator[tuple[ScriptedLDAP, Asked]]:
    """A scripted server that offered sync mode and was asked for everything."""
    with ScriptedLDAP([_person(number) for number in range(5)], password=None) as server:
        server.objects = {SUFFIX: {"contextCSN": [CSN]}}
        server.sync_answers = [[SyncDone()], [SyncDone()]]
        asked = Asked(tmp_path, server.url, attributes=("mail",))
        server.objects = {**server.objects, "cn=Subschema": {"attributeTypes": ["( 1.2.3 NAME 'mail' )"]}}
        assert len(asked.entries()) == 5
        server.requests.clear()
        yield server, asked


def _pulls(server: ScriptedLDAP) -> int:
    return sum(request.page_size is not None for request in server.requests)


def test_the_cookie_is_sent_back(scripted: tuple[ScriptedLDAP, Asked]) -> None:
    """The cookie of the last answer is what the next question is asked with; none on the way is kept."""
    server, asked = scripted
    server.entries = server.entries[1:]
    server.sync_answers = [
        [SyncIds([UUIDS[0]], refresh_deletes=True, cookie=b"on the way"), SyncDone(cookie=LATER, refresh_deletes=True)],
        [SyncDone()],
    ]
    assert len(asked.entries()) == 4
    assert asked.whole().report.state == "same"
    asking = [request for request in server.requests if request.sync_cookie]
    assert [request.sync_cookie for request in asking] == [COOKIE, LATER]
    assert all(request.critical for request in asking), "a server that ignores it must not go unnoticed"


LOST: dict[str, SyncAnswer] = {
    "lost cookie": [SyncDone(code=4096)],
    "protocol error": [SyncDone(code=2)],
    "no longer offered": [SyncDone(code=12)],
    "no longer allowed": [SyncDone(code=50)],
    "too many": [SyncEntry("add", UUIDS[0], "cn=p0", {"mail": ["x@example.com"]}), SyncDone(code=4)],
    "no control": [SyncEntry("add", UUIDS[0], "cn=p0", {"mail": ["x@example.com"]}), SyncDone(control=False)],
    "nothing is left": [SyncDone(cookie=LATER, refresh_deletes=False)],
}


@pytest.mark.parametrize("how", LOST)
def test_a_server_that_cannot_tell_is_asked_for_everything(how: str, scripted: tuple[ScriptedLDAP, Asked]) -> None:
    """Whatever the server cannot tell by changes is asked for whole; nothing goes by a change that was not told."""
    server, asked = scripted
    server.sync_answers = [LOST[how], [SyncDone()], [SyncDone()]]
    fetched = asked.whole()
    assert len(by_label(fetched)) == 5
    assert _pulls(server) == 1
    assert any("cannot report changes" in note for note in fetched.report.notes)


BROKEN: dict[str, SyncAnswer] = {
    "fin": [SyncIds(UUIDS[1:], refresh_deletes=True), "fin"],
    "fin inside": [SyncIds(UUIDS[1:], refresh_deletes=True), "fin-inside"],
    "reset": [SyncIds(UUIDS[1:], refresh_deletes=True), "rst"],
    "notice": [SyncIds(UUIDS[1:], refresh_deletes=True), "notice"],
    "stall": [SyncIds(UUIDS[1:], refresh_deletes=True), "stall"],
    "busy": [SyncIds(UUIDS[1:], refresh_deletes=True), 51],
    "time limit": [SyncIds(UUIDS[1:], refresh_deletes=True), 3],
    "unknown": [SyncIds(UUIDS[1:], refresh_deletes=True), 12345],
}


@pytest.mark.parametrize("how", BROKEN)
def test_half_a_refresh_changes_nothing(how: str, tmp_path: Path) -> None:
    """A refresh that is cut off, or makes no sense, fails the source: what it told of so far counts for nothing."""
    with ScriptedLDAP([_person(number) for number in range(5)], password=None) as server:
        server.objects = {SUFFIX: {"contextCSN": [CSN]}}
        server.sync_answers = [[SyncDone()], [SyncDone()]]
        asked = Asked(tmp_path, server.url, attributes=("mail",), read_timeout=0.5)
        before = asked.whole()
        server.sync_answers = [BROKEN[how]] * 2
        server.requests.clear()
        failed = asked.fetch()
        assert failed.report.state == "failing"
        assert failed.state.snapshot == before.state.snapshot
        assert failed.state.validator == before.state.validator
        assert not _pulls(server)
        server.sync_answers = [[SyncDone()]]
        assert asked.whole().report.state == "same"


def test_a_lagging_replica_is_waited_for(scripted: tuple[ScriptedLDAP, Asked], monkeypatch: pytest.MonkeyPatch) -> None:
    """A server behind its own cookie fails the source for an hour, and is then asked for everything."""
    server, asked = scripted
    lags: SyncAnswer = [SyncDone(code=53, message="consumer state is newer than provider!")]
    server.sync_answers = [lags, lags]
    failed = asked.fetch()
    assert failed.report.kind == FailureKind.TEMPORARY
    assert "is behind the last cookie" in failed.report.error
    assert not _pulls(server)
    later = time.time() + 3700
    monkeypatch.setattr(time, "time", lambda: later)
    server.sync_answers = [lags, [SyncDone()], [SyncDone()]]
    assert len(asked.entries()) == 5
    assert _pulls(server) == 1


def test_changes_while_it_is_pulled_that_cannot_be_told(scripted: tuple[ScriptedLDAP, Asked]) -> None:
    """A pull that cannot be made exact fails, rather than be taken for exact."""
    server, asked = scripted
    server.sync_answers = [[SyncDone(code=4096)], [SyncDone()], [SyncDone(code=4096)]]
    failed = asked.fetch()
    assert failed.report.state == "failing"
    assert "too many changes during the full search" in failed.report.error


def test_states_of_entries(scripted: tuple[ScriptedLDAP, Asked]) -> None:
    """Entries that are present, added, modified and deleted are told apart by their state."""
    server, asked = scripted
    server.entries = [server.entries[0], server.entries[3]]
    server.sync_answers = [
        [
            SyncEntry("present", UUIDS[0]),
            SyncEntry("add", UUID(int=99), f"cn=new,{SUFFIX}", {"mail": ["new@example.com"]}),
            SyncEntry("modify", UUIDS[1], f"cn=p1,{SUFFIX}", {"mail": ["changed@example.com"]}),
            SyncEntry("delete", UUIDS[2]),
            SyncIds([UUIDS[3]]),
            SyncDone(cookie=LATER),
        ]
    ]
    assert {mail for mails in asked.entries().values() for mail in mails} == {
        "p0@example.com",
        "new@example.com",
        "changed@example.com",
        "p3@example.com",
    }


def test_a_server_that_was_behind_is_not_believed(scripted: tuple[ScriptedLDAP, Asked]) -> None:
    """A server that was behind our cookie and takes it again may have been restored: it is asked for everything."""
    server, asked = scripted
    lags: SyncAnswer = [SyncDone(code=53)]
    server.sync_answers = [lags, lags]
    assert asked.fetch().report.state == "failing"
    asked.restart()  # another process knows it as well
    server.sync_answers = [[SyncDone()], [SyncDone()], [SyncDone()]]
    fetched = asked.whole()
    assert fetched.report.state == "whole"
    assert _pulls(server) == 1
    server.sync_answers = [[SyncDone()]]
    assert asked.whole().report.state == "same"


def test_patience_begins_when_it_is_first_behind(
    scripted: tuple[ScriptedLDAP, Asked], monkeypatch: pytest.MonkeyPatch
) -> None:
    """However long ago the last answer was, and wherever our clock goes, a server that lags is not pulled at once."""
    server, asked = scripted
    real = time.time
    for off in (7200, -7200):
        monkeypatch.setattr(time, "time", lambda off=off: real() + off)
        server.sync_answers = [[SyncDone(code=53)]] * 2
        assert asked.fetch().report.state == "failing"
    assert not _pulls(server)


def test_a_replica_that_lags_does_not_take_over(slapd: Slapd, asked: Asked) -> None:
    """Another server that has not got all that the last answer had is waited for; nobody new is lost by it."""
    slapd.stop()
    with Slapd() as replica:
        replica.stop()
        shutil.rmtree(replica.directory / "data")
        shutil.copytree(slapd.directory / "data", replica.directory / "data")
        replica.start()
        slapd.start()
        digest = asked.configured.digest
        asked.configure(slapd.url, replica.url, base=PEOPLE)
        asked.configured = msgspec.structs.replace(asked.configured, digest=digest)
        slapd.add(f"uid=neu,{PEOPLE}", uid="neu", mail="neu@example.com")
        assert f"uid=neu,{PEOPLE}" in asked.entries()
        slapd.stop()
        failed = asked.fetch()
        assert failed.report.state == "failing"
        assert "is behind the last cookie" in failed.report.error
        assert f"uid=neu,{PEOPLE}" in by_label(failed)
        replica.add(f"uid=neu,{PEOPLE}", uid="neu", mail="neu@example.com")
        assert f"uid=neu,{PEOPLE}" in asked.entries()


def test_a_filter_on_what_no_server_tells_is_polled(slapd: Slapd, tmp_path: Path) -> None:
    """A filter on memberOf, which changes without a word, is asked whole each time."""
    asked = Asked(tmp_path, slapd.url, attributes=("mail",), filter="(&(mail=*)(!(memberOf=cn=x)))", mode="sync")
    asked.configured.source._names_checked = True  # type: ignore[attr-defined] # this schema has no memberOf
    assert "the filter uses memberOf" in asked.fetch().report.error


@pytest.mark.parametrize("name", ["rfc822Mailbox", "0.9.2342.19200300.100.1.3"])
def test_an_attribute_by_another_name(name: str, slapd: Slapd, tmp_path: Path) -> None:
    """A server that answers by another name of an attribute fails the source, which says the name; nobody is missed."""
    failed = Asked(tmp_path, slapd.url, attributes=("proxyAddresses", name)).fetch()
    assert failed.report.kind == FailureKind.BROKEN
    assert '"mail"' in failed.report.error


def test_a_present_phase_without_a_cookie(scripted: tuple[ScriptedLDAP, Asked]) -> None:
    """Who is still there is named, but no cookie for it: everything is asked for."""
    server, asked = scripted
    server.sync_answers = [[SyncIds(UUIDS[:2]), SyncDone()], [SyncDone()], [SyncDone()]]
    assert len(asked.entries()) == 5
    assert _pulls(server) == 1


def without_keys(asked: Asked) -> None:
    """Make the last list and its validator as versions wrote them that kept no keys of entries without addresses."""
    state = asked.runs.states["corp"]
    assert state.snapshot is not None
    assert state.validator is not None
    path = asked.runs.snapshots / state.snapshot.file
    entries = [line for line in path.read_bytes().splitlines(keepends=True)[:-1] if not line.startswith(b"\t")]
    written = sorted_lines.write_sorted(path, entries)
    snapshot = msgspec.structs.replace(
        state.snapshot, digest=written.digest, identity=atomic.identity(path), entries=written.count
    )
    validator = msgspec.json.encode({**msgspec.json.decode(state.validator), "keys": False}).decode()
    asked.runs.states["corp"] = msgspec.structs.replace(state, snapshot=snapshot, validator=validator)


def test_a_list_of_an_older_version_is_completed(slapd: Slapd, tmp_path: Path) -> None:
    """A list that was written without keys is not judged by them; the next present phase completes it."""
    slapd.add(f"uid=phone,{PEOPLE}", uid="phone", proxyAddresses="sip:phone@example.com")
    asked = Asked(tmp_path, slapd.url, base=PEOPLE)
    asked.whole()
    without_keys(asked)
    slapd.restart(sessionlog=0)
    for number in (0, 1):
        slapd.delete(dn(number))
        fetched = asked.whole()
        assert fetched.report.notes == ("entries changed: 0",)
        assert len(by_label(fetched)) == COUNT - 1 - number
        assert known(fetched)["keys"] is True
    assert fetched.snapshot is not None
    assert [line.count("\t") for line in fetched.snapshot.read_text("utf-8").splitlines() if line[0] == "\t"] == [2]


def test_the_stored_form_of_the_validator() -> None:
    """The validator is stored under the names that 0.1.0 gave its parts; another form would cost a full search."""
    stored = '{"url":"ldap://a.example","cookie":"00ff","pulled":1.5,"behind":2.5}'
    state = SyncState("ldap://a.example", "00ff", full_search_at=1.5, behind_since=2.5)
    assert (state.write(), SyncState.read(stored)) == (stored, state)
