"""What tools leave beside a list in a directory: left out if the list is there, read and told of otherwise."""

from pathlib import Path

import pytest

from syncagent.errors import SourceError
from syncagent.sources import file, leftovers
from syncagent.sources.file import Config, build
from tests.scenario import Scenario, people
from tests.sources.contract import ask

ENDINGS = (
    "{}.bak",
    "{}.orig",
    "{}.old",
    "{}.save",
    "{}.rpmsave",
    "{}.dpkg-old",
    "{}.dpkg-dist",
    "{}.dpkg-new",
    "{}.swp",
    "#{}#",
    "{}~",
    "{}.~2~",
    "{}.1",
    "{}.27",
    "{}.bak.1",
    "{}.1.orig~",
)
INDEXES = ("{}.db", "{}.lmdb", "{}.cdb", "{}.dir", "{}.pag", "{}.lmdb-lock", "{}.cdb.tmp", "__db.{}.db")
HELD = 65
BINARY = b"\0\1\0\0binary\0"


def lists(directory: Path, **texts: str | bytes) -> Path:
    """Write lists below a directory; return it."""
    directory.mkdir(exist_ok=True)
    for name, text in texts.items():
        (directory / name).write_bytes(text if isinstance(text, bytes) else text.encode())
    return directory


def spelled(path: Path) -> tuple[set[str], tuple[str, ...]]:
    """Return the addresses that a source reads, and its notes."""
    answer, recorder = ask(build(Config(path=path)))
    return {entry[0] for entry in recorder.entries}, answer.notes


@pytest.mark.parametrize("ending", ENDINGS)
def test_a_left_over_beside_its_list_is_not_read(tmp_path: Path, ending: str) -> None:
    """It is named in a note."""
    name = ending.format("list.txt")
    lists(tmp_path, **{"list.txt": "a@example.com\n", name: "former@example.com\n"})
    found, notes = spelled(tmp_path)
    assert found == {"a@example.com"}
    assert notes == (f"not read, since the list is there without that ending: {name}",)


@pytest.mark.parametrize("ending", ENDINGS)
def test_a_left_over_without_its_list_is_read(tmp_path: Path, ending: str) -> None:
    """It may be a list of its own: it is read, and told of."""
    name = ending.format("list.txt")
    lists(tmp_path, **{"other": "a@example.com\n", name: "b@example.com\n"})
    found, notes = spelled(tmp_path)
    assert found == {"a@example.com", "b@example.com"}
    assert notes == (f"read, though named like a left-over, since there is no list without that ending: {name}",)


def test_only_lists_that_are_read_count(tmp_path: Path) -> None:
    """A pattern of copies means the copies; a directory of the name without the ending is no list."""
    lists(tmp_path, **{"a": "a@example.com\n", "a.bak": "copy@example.com\n"})
    assert spelled(tmp_path / "*.bak")[0] == {"copy@example.com"}
    assert spelled(tmp_path / "a.bak") == ({"copy@example.com"}, ())
    (tmp_path / "b").mkdir()
    lists(tmp_path, **{"b.1": "b@example.com\n"})
    assert spelled(tmp_path)[0] == {"a@example.com", "b@example.com"}


@pytest.mark.parametrize("ending", INDEXES)
def test_an_index_is_never_read(tmp_path: Path, ending: str) -> None:
    """Neither beside its list, where nothing is said of it, nor without it."""
    name = ending.format("list")
    lists(tmp_path, list="a@example.com\n")
    lists(tmp_path, **{name: BINARY})
    assert spelled(tmp_path) == ({"a@example.com"}, ())
    (tmp_path / "list").rename(tmp_path / "other")
    found, notes = spelled(tmp_path)
    assert found == {"a@example.com"}
    assert notes == (f"not read, since it is an index of a table, and its list is not there: {name}",)


def test_a_list_that_is_named_like_an_index_is_read(tmp_path: Path) -> None:
    """Text is no index."""
    lists(tmp_path, **{"customers.db": "a@example.com\n"})
    assert spelled(tmp_path) == ({"a@example.com"}, ())


@pytest.mark.parametrize("ending", INDEXES)
def test_a_text_beside_a_list_is_read_whatever_its_ending(tmp_path: Path, ending: str) -> None:
    """The name alone makes no index: who is in it would be refused."""
    name = ending.format("team")
    lists(tmp_path, **{"team": "a@example.com\n", name: "b@example.com\n"})
    found, notes = spelled(tmp_path)
    assert found == {"a@example.com", "b@example.com"}
    assert notes == (f"read, though named like an index of a table, since it is text: {name}",)


def test_a_note_names_three_files(tmp_path: Path) -> None:
    """And counts the others."""
    for number in range(1, 6):
        lists(tmp_path, **{f"a.{number}": ""})
    lists(tmp_path, a="a@example.com\n")
    (note,) = spelled(tmp_path)[1]
    assert note.endswith(": a.1, a.2, a.3 and 2 more")


def test_nothing_but_an_index(tmp_path: Path) -> None:
    """A directory without a list is a failure."""
    lists(tmp_path, **{"list.db": BINARY})
    with pytest.raises(SourceError, match="contains no list"):
        spelled(tmp_path)


def test_same_is_told_with_its_notes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where no file was read."""
    monkeypatch.setattr(file, "YOUNG", 0.0)
    lists(tmp_path, **{"a": "a@example.com\n", "a.bak": ""})
    first = ask(build(Config(path=tmp_path)))[0]
    again = ask(build(Config(path=tmp_path)), first.validator)[0]
    assert (again.same, again.notes) == (True, first.notes)


def test_names() -> None:
    """What is no ending is a name."""
    for name in ("list", "bak", ".1", "1", "a.b1", "list.txt", "##", "~"):
        assert leftovers.stem(name) == ""


@pytest.fixture
def before(tmp_path: Path) -> Scenario:
    """A backup MX that has published what an older version read: a list, and a copy of its own name."""
    scenario = Scenario(tmp_path)
    directory = lists(tmp_path / "lists")
    (directory / "list").write_text("".join(f"{name}\n" for name in sorted(people(20))))
    (directory / "copy").write_text("".join(f"{name}\n" for name in sorted(people(15, first=20))))
    scenario.sources["corp"] = {"path": str(directory)}
    scenario.sync_unchecked(0)
    return scenario


def test_who_is_only_in_a_left_over_goes_by_the_limits(before: Scenario) -> None:
    """A file that was read and is left out now: its recipients are held as any others that go missing."""
    directory = before.directory / "lists"
    (directory / "copy").rename(directory / "list.1")
    result = before.sync_unchecked(65)
    assert [hold.count for hold in result.plan.holds] == [15]
    assert before.published() == people(35)


def test_it_is_told_by_each_verb(before: Scenario) -> None:
    """Sync, check and status name the files."""
    directory = before.directory / "lists"
    lists(directory, **{"list.bak": "", "other.old": "user001@example.com\n"})
    for verb in (("sync",), ("check", "--offline"), ("status",)):
        printed = before.say(*verb, code=None).stdout
        assert "note: corp: not read, since the list is there without that ending: list.bak\n" in printed, verb
        assert "note: corp: read, though named like a left-over, since" in printed, verb


def test_a_name_that_is_not_utf_8(tmp_path: Path) -> None:
    """It is escaped in the state, in notes and as the place of a rejected entry."""
    scenario = Scenario(tmp_path)
    directory = lists(tmp_path / "lists", a="".join(f"{one}\n" for one in sorted(people(5))))
    scenario.sources["corp"] = {"path": str(directory)}
    texts = {"caf\udce9": "# made: 2026-01-01T00:00:00Z\nb@example.com\nno address", "x\udce9.bak": "c@example.com\n"}
    lists(directory, **texts)
    scenario.sources["corp"]["content_max_age"] = "0s"
    scenario.say("sync", "--accept-incomplete", code=HELD)
    assert scenario.published() >= people(5) | {"b@example.com", "c@example.com"}
    (reject,) = scenario.sync_unchecked(HELD).reject_sample
    assert "caf" in reject.place
    assert reject.place.isprintable()
