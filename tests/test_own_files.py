"""A source that reads what syncagent writes is a problem of the configuration, however it gets there."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from syncagent.config.load import load
from syncagent.errors import ConfigError
from tests.sources import install
from tests.support.run import syncagent

CONFIG = """
[postfix]
map = "hash:{0}/map/rr"
domains_map = "hash:{0}/map/domains"
doubt_map = "lmdb:{0}/doubt/doubt"
relay_domains = ["example.com"]
config_directory = "{0}"
[state]
directory = "{0}/state"
[sources.good]
type = "file"
path = "{0}/lists/good"
[sources.s]
type = "file"
path = "{1}"
format = "postmap"
"""
WRITTEN = [
    *("map/rr", "map/rr.db", "map/rr.lmdb", "map/rr.cdb", "map/domains", "map/domains.db", "map/.rr.syncagent"),
    *("doubt/doubt", "doubt/doubt.lmdb", "doubt/doubt-all", "doubt/doubt-all.lmdb", "doubt/by-hand", "doubt/alive"),
    *("state/state.db", "state/snapshots", "state/lists/published-1", "state/sync.lock", "state/agent.json"),
]


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A directory with the directories of tables and state, and a list of somebody's own beside them."""
    for name in ("map", "doubt", "state/lists", "lists"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "lists/good").write_text("a@example.com OK\n", encoding="utf-8")
    return tmp_path


def configured(place: Path, path: str) -> Path:
    """Write a configuration with a source of this path."""
    file = place / "syncagent.toml"
    file.write_text(CONFIG.format(place, path), encoding="utf-8")
    return file


def problems(place: Path, path: str) -> list[str]:
    """Return the problems of a source of this path."""
    try:
        load(configured(place, path))
    except ConfigError as error:
        return [problem.text for problem in error.problems if problem.key == "sources.s.path"]
    return []


@pytest.mark.parametrize("name", WRITTEN)
@pytest.mark.parametrize("exists", [True, False])
def test_what_is_written_is_not_read(place: Path, name: str, *, exists: bool) -> None:
    """Each file by its name, whether or not it is there already."""
    if exists and not (place / name).exists():
        (place / name).touch()
    (text,) = problems(place, f"{place}/{name}")
    key = {"doubt": "postfix.doubt_map", "state": "state.directory"}.get(name.partition("/")[0], "postfix.")
    assert f'"{place}/{name}" is written by syncagent ({key}' in text
    assert "keep the list in another place" in text


def _symlink(place: Path) -> str:
    (place / "lists/link").symlink_to(place / "map/rr")
    return "lists/link"


def _symlink_of_the_map(place: Path) -> str:
    (place / "map/rr").unlink()
    (place / "map/rr").symlink_to("../lists/real")
    (place / "lists/real").touch()
    return "lists/real"


def _hard_link(place: Path) -> str:
    os.link(place / "map/rr", place / "lists/hard")
    return "lists/hard"


def _through_a_directory(place: Path) -> str:
    (place / "elsewhere").symlink_to("map")
    return "elsewhere/rr"


@pytest.mark.parametrize("make", [_symlink, _symlink_of_the_map, _hard_link, _through_a_directory])
def test_links_are_followed(place: Path, make: Callable[[Path], str]) -> None:
    """Symbolic links on either side, and a second name of the same file."""
    (place / "map/rr").touch()
    (text,) = problems(place, f"{place}/{make(place)}")
    assert (
        "written by syncagent (postfix.map)" in text or f"{place}/map/rr, which syncagent writes (postfix.map)" in text
    )


@pytest.mark.parametrize(
    ("path", "file", "key"),
    [
        ("map", "map/rr", "postfix.map"),
        ("map/", "map/rr", "postfix.map"),
        ("map/r*", "map/rr", "postfix.map"),
        ("map/*.db", "map/rr.db", "postfix.map"),
        ("map/d*", "map/domains", "postfix.domains_map"),
        ("doubt", "doubt/doubt", "postfix.doubt_map"),
        ("state", "state/state.db", "state.directory"),
        ("state/*.json", "state/agent.json", "state.directory"),
    ],
)
def test_directories_and_patterns(place: Path, path: str, file: str, key: str) -> None:
    """What is among the files counts, there or not yet there."""
    for _ in range(2):
        (text,) = problems(place, f"{place}/{path}")
        assert f"{place}/{file}, which syncagent writes ({key})" in text
        (place / file).touch()


def test_links_in_a_directory(place: Path) -> None:
    """Either kind of link among many files."""
    (place / "map/rr").touch()
    (place / "lists/sub").mkdir()
    (place / "lists/link").symlink_to("../map/rr")
    assert "include" in problems(place, f"{place}/lists")[0]
    (place / "lists/link").unlink()
    assert problems(place, f"{place}/lists") == []
    os.link(place / "map/rr", place / "lists/hard")
    assert "include" in problems(place, f"{place}/lists")[0]
    assert problems(place, f"{place}/lists/g*") == []


@pytest.mark.parametrize(
    "path",
    [
        "lists/good",
        "lists",
        "lists/*",
        "map/list",
        "map/*.txt",
        "map/.rr",
        "state/list",
        "missing",
        "missing/*",
        "map2",
    ],
)
def test_what_is_not_written_may_be_read(place: Path, path: str) -> None:
    """A list of one's own beside the tables is one's own affair, as is a path where nothing is."""
    (place / "map/rr").touch()
    (place / "map/list").touch()
    assert problems(place, f"{place}/{path}") == []


def test_with_all_other_problems(place: Path) -> None:
    """It is told beside the others, also where another key of its own is wrong."""
    file = configured(place, f"{place}/map/rr")
    text = file.read_text(encoding="utf-8").replace('"postmap"', '"postmpa"').replace('["example.com"]', '["a b"]')
    file.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError) as caught:
        load(file)
    keys = {problem.key for problem in caught.value.problems}
    assert keys == {"postfix.relay_domains", "sources.s.format", "sources.s.path"}


THIRD = """
from pathlib import Path
from msgspec import Struct
from syncagent.sources import Answer, Watched

class Config(Struct, frozen=True, kw_only=True):
    place: Path

def build(config):
    raise NotImplementedError

def watched(config):
    yield Watched(config.place)
"""


def test_another_kind_that_watches(place: Path) -> None:
    """A source kind of another package is known by what it watches."""
    env = install(place / "site", "third", THIRD)
    file = configured(place, f"{place}/map/rr")
    own = f'type = "file"\npath = "{place}/map/rr"\nformat = "postmap"\n'
    text = file.read_text(encoding="utf-8").replace(own, f'type = "third"\nplace = "{place}/map/rr"\n')
    file.write_text(text, encoding="utf-8")
    done = syncagent("sync", config=file, env=env, check=78)
    assert f'sources.s: "{place}/map/rr" is written by syncagent (postfix.map)' in done.stderr


def test_through_the_program(place: Path) -> None:
    """The exit status is that of a configuration error, and nothing is written."""
    (place / "map/rr").write_text("anna@example.com OK\n", encoding="utf-8")
    done = syncagent("sync", config=configured(place, "map/rr"), check=78)
    assert "sources.s.path" in done.stderr
    assert (place / "map/rr").read_text(encoding="utf-8") == "anna@example.com OK\n"
    assert sorted(path.name for path in (place / "map").iterdir()) == ["rr"]
