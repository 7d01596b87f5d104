"""Texts that were cut while they were written, in a directory, compressed, and after the upgrade: nobody goes."""

import gzip
import json
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from tests.scenario import HOUR, Scenario
from tests.support.scripted_http import ScriptedHTTP, answer

FAILING = 75
PEOPLE = [f"user{number:03}@example.com" for number in range(40)]
WHOLE = "".join(f"{address}\n" for address in PEOPLE).encode()
TORN = WHOLE[:712]


@pytest.fixture
def mx(tmp_path: Path) -> Scenario:
    """A backup MX that removes at once and holds nothing back by its limits."""
    mx = Scenario(tmp_path)
    mx.limits = {"removal_grace": "0s", "removed_percent": 100, "removed_max": 1000}
    mx.set_clock()
    return mx


def everybody_stays(mx: Scenario, told: str) -> None:
    """Run twice with hours between: the source fails with this text, and the map is as it was."""
    before = mx.published()
    for _ in range(2):
        mx.wait(HOUR)
        (source,) = mx.sync_unchecked(FAILING).sources
        assert told in source.error
        assert mx.published() == before


@pytest.mark.parametrize("pattern", ["", "*.txt"])
def test_one_file_of_several(mx: Scenario, pattern: str) -> None:
    """Each file by its name; the ones that never ended in a line feed are no sign of anything."""
    lists = mx.directory / "lists"
    lists.mkdir()
    (lists / "a.txt").write_bytes(WHOLE)
    for number in range(3):
        (lists / f"b{number}.txt").write_text(f"own{number}@example.com", encoding="utf-8")
    mx.sources = {"corp": {"type": "file", "path": str(lists / pattern)}}
    assert mx.sync_unchecked(0).recipients == 43
    (lists / "a.txt").write_bytes(TORN)
    everybody_stays(mx, "a.txt ended in a line feed before and does not now")
    (lists / "a.txt").write_bytes(WHOLE)
    mx.wait(HOUR)
    assert mx.sync_unchecked(0).plan.removed == 0


def test_compressed(mx: Scenario) -> None:
    """A server compresses what it has, and the end of that is right."""
    with ScriptedHTTP() as server:
        corp = {"type": "http", "url": f"{server.url}/list", "format": "lines", "foreign": True, "insecure": True}
        mx.sources = {"corp": corp}
        for text in (WHOLE, TORN):
            server.routes["/list"] = lambda _, text=text: answer(gzip.compress(text), content_encoding="gzip")  # type: ignore[misc]
            if text is WHOLE:
                assert mx.sync_unchecked(0).recipients == 40
        everybody_stays(mx, f"{server.url}/list ended in a line feed before and does not now")


@pytest.mark.parametrize("cut", [712, 718, 725])
def test_after_the_upgrade(mx: Scenario, cut: int) -> None:
    """An older version recorded no ends of texts: the beginning of an address that is missing shows the cut."""
    mx.file("corp").write_bytes(WHOLE)
    mx.sync_unchecked(0)
    with closing(sqlite3.connect(mx.state / "state.db")) as database:
        ((text,),) = database.execute("SELECT state FROM source").fetchall()
        state = json.loads(text)
        assert state.pop("finished") == ["corp.list"]
        database.execute("UPDATE source SET state = ?", (json.dumps(state),))
        database.commit()
    mx.file("corp").write_bytes(WHOLE[:cut])
    everybody_stays(mx, "is the beginning of user")
