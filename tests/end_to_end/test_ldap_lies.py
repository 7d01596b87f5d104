"""A directory that lies, with the guard off: no address goes, and the next honest answer is believed.

The lies are answers that are formally complete. With removed_percent 100 and no grace nothing but the source itself
stands between a lie and the map. The server is scripted, since no real one lies on demand.
"""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from tests.sources import map_keys, write_config
from tests.support.run import syncagent
from tests.support.scripted_ldap import Entry, ScriptedLDAP, SyncAnswer, SyncDone, SyncEntry, SyncIds, Trouble
from tests.support.slapd import SUFFIX

COUNT, PAGE = 20, 4
FAILS = 75


def uuid(number: int) -> UUID:
    """Return the entryUUID of a person."""
    return UUID(int=number + 1)


def person(number: int, *mail: str, key: int | None = None) -> Entry:
    """Return the entry of a person: with one address unless told otherwise, and under another key if told so."""
    attributes: dict[str, list[str]] = {
        "mail": list(mail) or [f"p{number}@example.com"],
        "entryUUID": [str(uuid(number if key is None else key))],
    }
    return f"cn=p{number},ou=people,{SUFFIX}", attributes


def people() -> list[Entry]:
    """Return the entries of everybody."""
    return [person(number) for number in range(COUNT)]


def cookie(*csns: str, rid: str = "000", sid: str = "") -> bytes:
    """Return a cookie of slapd's with the CSNs of these times and server IDs, TIME or TIME#SID."""
    parts = [(csn.partition("#")[0], csn.partition("#")[2] or "000") for csn in csns]
    text = ";".join(f"{when}.000000Z#000000#{server}#000000" for when, server in parts)
    return f"rid={rid},{f'sid={sid},' if sid else ''}csn={text}".encode()


def deleted(number: int) -> SyncIds:
    """Return a message that a person is deleted."""
    return SyncIds([uuid(number)], refresh_deletes=True)


NOW = "20240101000000"
LATER = "20240201000000"
FUTURE = (datetime.now(tz=UTC) + timedelta(days=30)).strftime("%Y%m%d%H%M%S")
QUIET: SyncAnswer = [SyncDone()]


@dataclass
class Directory:
    """A scripted directory, and a backup MX without a guard that has published everybody in it."""

    server: ScriptedLDAP
    place: Path

    def configure(self, mode: str, **keys: Any) -> None:  # noqa: ANN401 - any key of the source
        """Write the configuration."""
        own = {
            "url": self.server.url,
            "insecure": True,
            "base": SUFFIX,
            "attributes": ["mail"],
            "mode": mode,
            "page_size": PAGE,
            **keys,
        }
        lines = [f"{key} = {json.dumps(value)}" for key, value in own.items()]
        write_config(self.place, "\n".join(['[sources.corp]\ntype = "ldap"', *lines]), limits="removed_percent = 100")

    def sync(self) -> dict[str, Any]:
        """Run once, in which the source succeeds or fails."""
        done = syncagent("sync", "--json", config=self.place / "syncagent.toml")
        assert done.returncode in {0, FAILS}, done.stderr + done.stdout
        result = json.loads(done.stdout)
        assert isinstance(result, dict)
        return result

    def published(self) -> set[str]:
        """Return what is published."""
        return set(map_keys(self.place))

    def honest(self) -> None:
        """Have the server answer as it should."""
        self.server.entries, self.server.trouble = people(), None
        self.server.sync_answers = [QUIET] * 5

    def starts(self, mode: str, **keys: Any) -> None:  # noqa: ANN401 - any key of the source
        """Publish everybody."""
        self.honest()
        self.configure(mode, **keys)
        self.sync()
        assert self.published() == EVERYBODY

    def lies(self, lie: Callable[["Directory"], None], says: str) -> None:
        """Run twice while the server lies, then once when it does no longer: everybody stays, and it is told why."""
        for _ in range(2):
            self.honest()
            lie(self)
            (source,) = self.sync()["sources"]
            assert self.published() >= EVERYBODY, source
            assert says in source["error"] + "".join(source["notes"]), source
        self.honest()
        (source,) = self.sync()["sources"]
        assert source["state"] != "failing", source
        assert self.published() == EVERYBODY


EVERYBODY = {f"p{number}@example.com" for number in range(COUNT)}


@pytest.fixture
def directory(tmp_path: Path) -> Iterator[Directory]:
    """A directory that offers sync mode, and a backup MX that has never run."""
    with ScriptedLDAP(people(), password=None) as server:
        csn = f"{NOW}.000000Z#000000#000#000000".encode()
        server.objects = {SUFFIX: {"contextCSN": [csn]}}
        yield Directory(server, tmp_path)


def sync_answer(*items: Any) -> Callable[[Directory], None]:  # noqa: ANN401 - any item of an answer
    """Return a lie that is told in the answer to the first refresh."""

    def lie(directory: Directory) -> None:
        directory.server.sync_answers = [list(items), *[QUIET] * 5]

    return lie


def trouble(page: int, after: int, what: Any, **more: Any) -> Callable[[Directory], None]:  # noqa: ANN401 - Trouble's
    """Return a lie that is told in a page."""

    def lie(directory: Directory) -> None:
        directory.server.trouble = Trouble(page, after, what, **more)

    return lie


def entries(change: Callable[[list[Entry]], object]) -> Callable[[Directory], None]:
    """Return a lie in the entries that a search returns."""

    def lie(directory: Directory) -> None:
        changed = people()
        change(changed)
        directory.server.entries = changed

    return lie


def hide(number: int) -> Callable[[Directory], None]:
    """Return a lie: a search of everything leaves out an entry that is still there."""

    def lie(directory: Directory) -> None:
        dn, attributes = person(number)
        directory.server.entries = [entry for entry in people() if entry[0] != dn]
        directory.server.objects = {**directory.server.objects, dn: attributes}

    return lie


def empty_values(found: list[Entry]) -> None:
    """Take the values of an entry away."""
    found[0] = (found[0][0], {"entryUUID": found[0][1]["entryUUID"]})


def twice(found: list[Entry]) -> None:
    """Put one entry in the place of another, under its key."""
    found[5] = person(5, "x@example.com", key=4)


IN_PAGES: dict[str, tuple[Callable[[Directory], None], str]] = {
    "cookie dropped after half": (trouble(3, PAGE, "last"), "it leaves out p"),
    "success with referrals": (
        trouble(3, PAGE, "last", referrals=("ldap://elsewhere.example.net/",)),
        "success with a referral to ldap://elsewhere.example.net/",
    ),
    "success with a size limit": (
        trouble(3, PAGE, "last", message="size limit exceeded"),
        'success with the text "size limit exceeded"',
    ),
    "success with another limit": (
        trouble(3, PAGE, "last", message="Administrative limit exceeded: partial results"),
        "success with the text",
    ),
    "matched without values": (entries(empty_values), "matches the filter and shows no value of mail"),
    "the same UUID twice": (entries(twice), "two entries with the same entryUUID differ"),
    "left out of everything": (hide(3), "it leaves out p3@example.com"),
    "message ID 0": (trouble(2, 1, "message-0"), "malformed answer"),
    "unknown result code": (trouble(2, 1, 12345), "malformed answer"),
}


@pytest.mark.parametrize("lie", IN_PAGES)
def test_a_lie_in_everything(lie: str, directory: Directory) -> None:
    """A lie in a full search, in poll mode, removes nobody."""
    directory.starts("poll")
    directory.lies(*IN_PAGES[lie])


@pytest.mark.parametrize("lie", IN_PAGES)
def test_a_lie_in_everything_of_sync_mode(lie: str, directory: Directory) -> None:
    """A lie in the full search of sync mode removes nobody."""
    directory.starts("sync", full_interval="0s")
    directory.lies(*IN_PAGES[lie])


def test_fewer_than_were_counted(directory: Directory) -> None:
    """A count that was exact before, and is larger than what comes, removes nobody, in both modes."""
    for mode in ("poll", "sync"):
        directory.server.estimate = COUNT
        directory.starts(mode, full_interval="0s")

        def lie(directory: Directory) -> None:
            directory.server.entries = people()[:-1]

        directory.lies(lie, f"{COUNT - 1} entries came where the server counts {COUNT}")
        (directory.place / "map").unlink()


def test_a_count_that_was_never_exact(directory: Directory) -> None:
    """A count of candidates, which never was exact, makes nobody stay."""
    directory.server.estimate = COUNT + 1
    directory.starts("poll")
    directory.server.entries = people()[:-1]
    (source,) = directory.sync()["sources"]
    assert source["state"] == "whole"
    assert directory.published() == EVERYBODY - {f"p{COUNT - 1}@example.com"}


def test_a_count_of_another_configuration(directory: Directory) -> None:
    """By another configuration the count of the first search is only remembered."""
    directory.server.estimate = COUNT
    directory.starts("poll")
    directory.server.entries = people()[:-1]
    directory.configure("poll", page_size=PAGE + 1)
    assert directory.sync()["sources"][0]["state"] == "whole"
    assert directory.published() == EVERYBODY - {f"p{COUNT - 1}@example.com"}


BY_CHANGES: dict[str, tuple[Callable[[Directory], None], str]] = {
    "state UUID different from entryUUID": (
        sync_answer(SyncEntry("modify", uuid(0), *person(1)), SyncDone(cookie=cookie(LATER))),
        f"has the entryUUID {uuid(1)}, and {uuid(0)} in its sync state",
    ),
    "the same UUID twice": (
        sync_answer(
            SyncEntry("modify", uuid(0), *person(0)),
            SyncEntry("modify", uuid(0), *person(0, "x@example.com")),
            SyncDone(cookie=cookie(LATER)),
        ),
        "two different changes of the entry",
    ),
    "changed and deleted": (
        sync_answer(
            SyncEntry("modify", uuid(0), *person(0)),
            deleted(0),
            SyncDone(cookie=cookie(LATER), refresh_deletes=True),
        ),
        "two different changes of the entry",
    ),
    "present and deleted": (
        sync_answer(
            SyncIds([uuid(number) for number in range(COUNT)]),
            deleted(0),
            SyncDone(cookie=cookie(LATER)),
        ),
        "calls an entry present and deleted",
    ),
    "present list that lacks some": (
        sync_answer(SyncIds([uuid(number) for number in range(2, COUNT)]), SyncDone(cookie=cookie(LATER))),
        "it leaves out p",
    ),
    "present list with a stranger": (
        sync_answer(SyncIds([uuid(number) for number in range(1, COUNT + 1)]), SyncDone(cookie=cookie(LATER))),
        f"entries called present that it never returned: 1, such as {uuid(COUNT)}",
    ),
    "delete of an entry that is there": (
        sync_answer(deleted(0), SyncDone(cookie=cookie(LATER), refresh_deletes=True)),
        "it leaves out p0@example.com",
    ),
    "delete by state of an entry that is there": (
        sync_answer(SyncEntry("delete", uuid(0)), SyncDone(cookie=cookie(LATER), refresh_deletes=True)),
        "it leaves out p0@example.com",
    ),
    "modify without mail": (
        sync_answer(
            SyncEntry("modify", uuid(0), person(0)[0], {}), SyncDone(cookie=cookie(LATER), refresh_deletes=True)
        ),
        "matches the filter and shows no value of mail",
    ),
    "entry without a state control": (
        sync_answer(SyncEntry(None, uuid(0), *person(0)), SyncDone(cookie=cookie(LATER))),
        "entry without sync state",
    ),
    "older cookie": (
        sync_answer(deleted(0), SyncDone(cookie=cookie("20231231000000"), refresh_deletes=True)),
        "the new cookie is older than the last one",
    ),
    "cookie of another server": (
        sync_answer(deleted(0), SyncDone(cookie=cookie(f"{LATER}#001"), refresh_deletes=True)),
        "the new cookie is older than the last one",
    ),
    "cookie of another rid": (
        sync_answer(deleted(0), SyncDone(cookie=cookie(LATER, rid="001"), refresh_deletes=True)),
        "the new cookie is of another server",
    ),
    "cookie of the far future": (
        sync_answer(deleted(0), SyncDone(cookie=cookie(FUTURE), refresh_deletes=True)),
        "the new cookie is far in the future",
    ),
    "cookie that is none": (
        sync_answer(deleted(0), SyncDone(cookie=b"x", refresh_deletes=True)),
        "the new cookie is older than the last one",
    ),
    "success with referrals, dropped cookie": (
        sync_answer(deleted(0), SyncDone(cookie=cookie(LATER), message="sizeLimit exceeded")),
        "success with the text",
    ),
    "unknown result code": (
        sync_answer(deleted(0), SyncDone(code=12345, cookie=cookie(LATER), refresh_deletes=True)),
        "malformed answer",
    ),
}


@pytest.mark.parametrize("lie", BY_CHANGES)
def test_a_lie_in_the_changes(lie: str, directory: Directory) -> None:
    """A lie in the changes of sync mode removes nobody: everything is asked for."""
    directory.starts("sync")
    directory.lies(*BY_CHANGES[lie])


def test_a_cookie_of_another_sid(directory: Directory) -> None:
    """A cookie that names another server than the last one is not gone on from: everything is asked for."""
    directory.starts("sync")
    directory.server.sync_answers = [[SyncDone(cookie=cookie(LATER, sid="001"), refresh_deletes=True)], *[QUIET] * 5]
    directory.sync()
    lie: SyncAnswer = [deleted(0), SyncDone(cookie=cookie("20240301000000", sid="002"), refresh_deletes=True)]
    directory.server.sync_answers = [lie, *[QUIET] * 5]
    (source,) = directory.sync()["sources"]
    assert "the new cookie is of another server" in source["notes"][0]
    assert directory.published() == EVERYBODY


def test_the_truth_is_believed(directory: Directory) -> None:
    """With the guard off whoever is really gone goes at once, in both modes and by each way to tell."""
    directory.starts("poll")
    directory.server.entries = people()[1:]
    directory.sync()
    assert directory.published() == EVERYBODY - {"p0@example.com"}
    directory.starts("sync")
    truths: list[list[Any]] = [
        [deleted(0), SyncDone(cookie=cookie(LATER), refresh_deletes=True)],
        [SyncEntry("delete", uuid(1)), SyncDone(cookie=cookie("20240202000000"), refresh_deletes=True)],
        [SyncIds([uuid(number) for number in range(3, COUNT)]), SyncDone(cookie=cookie("20240203000000"))],
    ]
    for gone, truth in enumerate(truths, start=1):
        directory.server.entries = people()[gone:]
        directory.server.sync_answers = [truth]
        (source,) = directory.sync()["sources"]
        assert (source["state"], source["notes"][0][:15]) == ("whole", "entries changed"), source
        assert directory.published() == EVERYBODY - {f"p{number}@example.com" for number in range(gone)}


def test_a_server_whose_clock_is_in_the_future_is_polled(directory: Directory) -> None:
    """A contextCSN of the far future hides the changes to come: sync mode is not used, and the reason is named."""
    directory.server.objects = {SUFFIX: {"contextCSN": [f"{FUTURE}.000000Z#000000#000#000000".encode()]}}
    directory.starts("auto")
    assert directory.sync()["sources"][0]["mode"] == "poll"
    directory.configure("sync")
    assert "far in the future" in directory.sync()["sources"][0]["error"]
