"""The file source: the contract of every source, and what is its own."""

import builtins
import hashlib
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest

from syncagent.errors import SourceError
from syncagent.model import Entry
from syncagent.sources import Answer, Request, Source, file
from syncagent.sources.file import Config, FileSource, build
from syncagent.values.types import Domain
from tests.sources import map_keys, write_config
from tests.sources.contract import Recorder, SourceContract, Subject, ask
from tests.support.need import need, need_program, need_root
from tests.support.programs import PATIENCE, wait_until
from tests.support.run import syncagent

NOT_UTF_8 = "is not UTF-8: save the list as UTF-8"
NOBODY = 65534
COM, ORG = Domain("example.com"), Domain("example.org")


class FileSubject(Subject):
    """A plain list, replaced by rename as a careful writer does."""

    line_breaks = False

    def __init__(self, path: Path) -> None:
        self.path, self.trouble = path, str(path)

    def build(self) -> Source:
        """Make the source."""
        return build(Config(path=self.path))

    def set_entries(self, entries: list[str]) -> None:
        """Write the list and rename it into place."""
        staged = self.path.with_name("staged")
        staged.write_text("".join(f"{entry}\n" for entry in entries), encoding="utf-8", newline="")
        staged.replace(self.path)

    def break_it(self) -> None:
        """Put a directory with nothing in it into the list's place."""
        self.path.unlink()
        self.path.mkdir()

    def mend_it(self) -> None:
        """Make room for the list."""
        self.path.rmdir()


class TestContract(SourceContract):
    """The file source does what every source does."""

    @pytest.fixture
    def subject(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Subject:
        """A list whose identity is trusted however young."""
        monkeypatch.setattr(file, "YOUNG", 0.0)
        return FileSubject(tmp_path / "list")


def put(text: bytes | str, *, directory: Path, **config: Any) -> Recorder:  # noqa: ANN401 - keys of Config
    """Return what a source reads from a file with this text."""
    path = directory / "list"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return ask(FileSource(Config(path=path, **config)))[1]


def spelled(recorder: Recorder) -> list[str]:
    """Return the addresses that were put, in order."""
    return [address for address, _, _ in recorder.entries]


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        pytest.param("a@example.com\nb@example.com\n", ["a@example.com", "b@example.com"], id="plain"),
        pytest.param("a@example.com\nb@example.com", ["a@example.com", "b@example.com"], id="no final newline"),
        pytest.param("a@example.com\r\nb@example.com\r\n", ["a@example.com", "b@example.com"], id="CRLF"),
        pytest.param(b"\xef\xbb\xbfa@example.com\n", ["a@example.com"], id="BOM"),
        pytest.param(b"\xef\xbb\xbfa@example.com", ["a@example.com"], id="BOM, one line"),
        pytest.param(b"\xef\xbb\xbf# list\na@example.com\n", ["a@example.com"], id="BOM before a comment"),
        pytest.param("# x\n \t# y\na@example.com\n#b@example.com\n", ["a@example.com"], id="comments"),
        pytest.param("\n\n \t \n\r\na@example.com\n\n", ["a@example.com"], id="blank lines"),
        pytest.param(" \ta@example.com \t\n", ["a@example.com"], id="space around"),
        pytest.param('"a b"@example.com\n', ['"a b"@example.com'], id="quoted with a space"),
        pytest.param('"#a"@example.com\n', ['"#a"@example.com'], id="quoted hash"),
        pytest.param("@example.org\n", ["@example.org"], id="catch-all"),
        pytest.param("a@example.com # x\n", ["a@example.com # x"], id="a comment at the end is none"),
        pytest.param("a@example.com\na@example.com\n", ["a@example.com"] * 2, id="twice"),
        pytest.param("info\n", ["info"], id="bare local part: the normaliser's to reject"),
        pytest.param("dörte@bücher.example\n", ["dörte@bücher.example"], id="UTF-8"),
        pytest.param("a@example.com\x0b\x0c\n", ["a@example.com"], id="vertical tab and form feed"),
        pytest.param("", [], id="empty"),
        pytest.param("\n", [], id="one blank line"),
    ],
)
def test_lines(text: bytes | str, wanted: list[str], tmp_path: Path) -> None:
    """An address a line; comments stand at the start of a line."""
    recorder = put(text, directory=tmp_path)
    assert spelled(recorder) == wanted
    assert not recorder.rejects


@pytest.mark.parametrize(
    ("text", "wanted", "ignored"),
    [
        pytest.param("a@example.com OK\nb@example.com\tOK\n", ["a@example.com", "b@example.com"], 0, id="relay"),
        pytest.param("a@example.com x@example.net,\n  y@example.net\nb@example.com z\n", None, 0, id="continuation"),
        pytest.param("a@example.com\n  OK\nb@example.com OK\n", None, 0, id="right side on the next line"),
        pytest.param("a@example.com x\n# comment\n\n y\nb@example.com z\n", None, 0, id="continued past a comment"),
        pytest.param("a@example.com x\n  #y\nb@example.com z\n", None, 0, id="indented comment"),
        pytest.param("a@example.com x\n  c@example.com y\nb@example.com z\n", None, 0, id="an address continues"),
        pytest.param("example.com anything\na@example.com x\nb@example.com z\n", None, 1, id="bare domain"),
        pytest.param("@example.org x@example.net\n", ["@example.org"], 0, id="catch-all"),
        pytest.param('"a b"@example.com OK\n', ['"a b"@example.com'], 0, id="quoted with a space"),
        pytest.param('"a\tb"@example.com\tOK\n', ['"a\tb"@example.com'], 0, id="quoted with a tab"),
        pytest.param('"a\\"b c"@example.com OK\n', ['"a\\"b c"@example.com'], 0, id="quoted with a quote"),
        pytest.param("info root\n", ["info"], 0, id="bare local part: the normaliser's to reject"),
        pytest.param("a@example.com OK\r\nb@example.com OK\r\n", None, 0, id="CRLF"),
        pytest.param(b"\xef\xbb\xbfa@example.com OK\nb@example.com OK", None, 0, id="BOM, no final newline"),
        pytest.param("a@example.com \t OK\nb@example.com \t\tOK  \n", None, 0, id="much space"),
    ],
)
def test_postmap(text: bytes | str, wanted: list[str] | None, ignored: int, tmp_path: Path) -> None:
    """The left side of a Postfix table, as postmap(1) reads it."""
    recorder = put(text, directory=tmp_path, format="postmap")
    assert spelled(recorder) == (wanted or ["a@example.com", "b@example.com"])
    assert recorder.ignored == ignored
    assert not recorder.rejects


@pytest.mark.parametrize("line", ["a@example.com", "a@example.com  \t", '"a b@example.com OK', '"a@example.com'])
def test_postmap_rejects_what_postfix_drops(line: str, tmp_path: Path) -> None:
    """A table's line without a right side, or with a quote left open, is a reject: Postfix has no such key."""
    recorder = put(f"x@example.com OK\n{line}\n", directory=tmp_path, format="postmap")
    assert spelled(recorder) == ["x@example.com"]
    assert [(reason != "", key) for _, reason, key in recorder.rejects] == [(True, "2")]


@pytest.mark.parametrize("form", ["lines", "postmap"])
def test_bare_local_part_is_completed(form: str, tmp_path: Path) -> None:
    """A bare local part means that name in each of `domains`, and a whole address means itself."""
    recorder = put("info x\na@example.net x\n".replace(" x", " x" * (form == "postmap")), directory=tmp_path,
                   format=form, domains=(COM, ORG))  # fmt: skip
    assert spelled(recorder) == ["info@example.com", "info@example.org", "a@example.net"]


def test_dotted_local_part_is_told_from_a_domain(tmp_path: Path) -> None:
    """With `domains`, a dotted key of a table is a domain only if it is one of them or below one."""
    text = "jo.doe x\nexample.com x\nsub.example.com x\n"
    recorder = put(text, directory=tmp_path, format="postmap", domains=(COM,))
    assert spelled(recorder) == ["jo.doe@example.com"]
    assert recorder.ignored == 2


@pytest.mark.parametrize("form", ["lines", "postmap"])
def test_not_utf8_is_one_reject(form: str, tmp_path: Path) -> None:
    """A line in another encoding is one reject, shown escaped; its neighbours are read."""
    text = b"a@example.com OK\nd\xf6rte@example.com OK\nb@example.com OK\n"
    text = text if form == "postmap" else text.replace(b" OK", b"")
    recorder = put(text, directory=tmp_path, format=form)
    assert spelled(recorder) == ["a@example.com", "b@example.com"]
    assert recorder.rejects == [("d\\xf6rte@example.com", NOT_UTF_8, "2")]


@pytest.mark.parametrize("form", ["lines", "postmap"])
@pytest.mark.parametrize("text", [b"a@example.com OK\n\0\0\0", b"\0", b"a@example.com OK\nb@exa\0mple.com OK\nc OK\n"])
def test_nul_is_a_torn_file(text: bytes, form: str, tmp_path: Path) -> None:
    """A NUL, as after a crash of the machine that wrote the file, fails it by name."""
    with pytest.raises(SourceError, match=r"list\b.* contains a NUL octet"):
        put(text, directory=tmp_path, format=form)


@pytest.mark.parametrize(
    ("text", "config"),
    [
        ("a@example.com OK\rb@example.com OK\r", {"format": "postmap"}),
        ("a: x\rb: y", {"format": "aliases", "domains": (COM,)}),
        ("mail,x\ra@example.com,y\r", {"format": "csv", "column": "mail"}),
    ],
)
def test_lines_that_end_in_cr_alone(text: str, config: dict[str, Any], tmp_path: Path) -> None:
    """The source fails: otherwise only the first line would be an entry."""
    with pytest.raises(SourceError, match="lines end in CR alone: save it with LF"):
        put(text, directory=tmp_path, **config)
    recorder = put("a@example.com OK\r\n more\r\nb@example.com OK\r\n", directory=tmp_path, format="postmap")
    assert [spelled for spelled, *_ in recorder.entries] == ["a@example.com", "b@example.com"]


@pytest.mark.parametrize("form", ["postmap", "aliases"])
def test_a_cr_inside_a_line_is_one_reject(form: str, tmp_path: Path) -> None:
    """A single line does not make the source fail, and no recipient comes of it."""
    recorder = put(
        "a@example.com: x\nb@example.com: x\rc@example.com: y\nd@example.com: x\n", directory=tmp_path, format=form
    )
    assert [spelled.rstrip(":") for spelled, *_ in recorder.entries] == ["a@example.com", "d@example.com"]
    (reject,) = recorder.rejects
    assert "carriage return" in str(reject)


def test_key_is_the_line(tmp_path: Path) -> None:
    """An entry's key is its line, comments and continuations counted."""
    assert [key for _, key, _ in put("#\n\na@example.com\nb@example.com\n", directory=tmp_path).entries] == ["3", "4"]
    recorder = put("#\na@example.com x\n y\nb@example.com z\n", directory=tmp_path, format="postmap")
    assert [key for _, key, _ in recorder.entries] == ["2", "4"]


@pytest.fixture
def lists(tmp_path: Path) -> Path:
    """A directory with two lists and what is none."""
    directory = tmp_path / "lists"
    directory.mkdir()
    (directory / "b.txt").write_text("b@example.com\n", encoding="utf-8")
    (directory / "a.txt").write_text("a@example.com\n", encoding="utf-8")
    (directory / ".hidden").write_text("hidden@example.com\n", encoding="utf-8")
    (directory / "a.txt~").write_text("backup@example.com\n", encoding="utf-8")
    (directory / "below").mkdir()
    (directory / "below" / "c.txt").write_text("c@example.com\n", encoding="utf-8")
    return directory


@pytest.mark.parametrize("pattern", ["", "*", "*.txt", "[ab].txt", "?.txt"])
def test_directory_and_pattern(lists: Path, pattern: str) -> None:
    """A directory or a pattern means each of its files, in order, with keys that name the file."""
    _, recorder = ask(build(Config(path=lists / pattern)))
    assert recorder.entries == [("a@example.com", "a.txt:1", ""), ("b@example.com", "b.txt:1", "")]


def test_keys_name_the_file_however_many(lists: Path) -> None:
    """A second file does not change the keys of the first."""
    (lists / "b.txt").unlink()
    assert ask(build(Config(path=lists)))[1].entries == [("a@example.com", "a.txt:1", "")]


def test_a_file_whose_name_looks_like_a_pattern(tmp_path: Path) -> None:
    """A path that exists is taken as it stands."""
    (tmp_path / "a[1]*.txt").write_text("a@example.com\n", encoding="utf-8")
    assert spelled(ask(build(Config(path=tmp_path / "a[1]*.txt")))[1]) == ["a@example.com"]


def test_a_pattern_in_a_directory_that_looks_like_one(tmp_path: Path) -> None:
    """Only the last part of the path is a pattern, where the rest exists as it stands."""
    directory = tmp_path / "[mx]"
    directory.mkdir()
    (directory / "a.txt").write_text("a@example.com\n", encoding="utf-8")
    assert spelled(ask(build(Config(path=directory / "*.txt")))[1]) == ["a@example.com"]


def test_a_file_name_in_another_encoding(lists: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file whose name is not UTF-8 is read like any other, and answered "same" like any other."""
    monkeypatch.setattr(file, "YOUNG", 0.0)
    Path(os.fsdecode(os.fsencode(lists) + b"/d\xf6.txt")).write_text("d@example.com\n", encoding="utf-8")
    answer, recorder = ask(build(Config(path=lists)))
    assert "d@example.com" in spelled(recorder)
    assert ask(build(Config(path=lists)), answer.validator)[0].same


def test_one_bad_file_of_several_fails_all(lists: Path) -> None:
    """Half a list is none."""
    (lists / "c.txt").write_bytes(b"c@example.com\n\0")
    with pytest.raises(SourceError, match=r"c\.txt\b.* contains a NUL octet"):
        ask(build(Config(path=lists)))


def test_no_file_is_a_failure(tmp_path: Path) -> None:
    """An empty directory, a pattern that matches nothing and a missing file are failures that say so."""
    (tmp_path / "lists").mkdir()
    (tmp_path / "lists" / ".hidden").touch()
    for path, text in (
        ("lists", "contains no file"),
        ("lists/*.txt", "no file matches"),
        ("nowhere/*.txt", "nowhere cannot be read"),
        ("list", "No such file"),
    ):
        with pytest.raises(SourceError, match=text) as caught:
            ask(build(Config(path=tmp_path / path)))
        assert path.partition("/")[0] in str(caught.value)


def _dangle(path: Path) -> None:
    path.symlink_to("nowhere")


def _loop(path: Path) -> None:
    path.symlink_to(path.name)


def _listen(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as server:
        here = Path.cwd()
        os.chdir(path.parent)  # a socket's name may not be long
        try:
            server.bind(path.name)
        finally:
            os.chdir(here)


@pytest.mark.parametrize(
    "make",
    [
        pytest.param(os.mkfifo, id="FIFO"),
        pytest.param(_dangle, id="dangling symlink"),
        pytest.param(_loop, id="looping symlink"),
        pytest.param(_listen, id="socket"),
    ],
)
@pytest.mark.parametrize("pattern", ["z.txt", "", "*.txt"])
def test_what_is_no_regular_file_fails(lists: Path, make: Callable[[Path], None], pattern: str) -> None:
    """What cannot be read as a file fails at once, by name, alone, in a directory or for a pattern."""
    make(lists / "z.txt")
    with pytest.raises(SourceError, match=r"z\.txt"):
        ask(build(Config(path=lists / pattern)))


def test_a_symlink_is_followed(lists: Path) -> None:
    """A symlink to a list is that list."""
    (lists.parent / "link").symlink_to(lists / "a.txt")
    assert spelled(ask(build(Config(path=lists.parent / "link")))[1]) == ["a@example.com"]


@pytest.fixture
def nobody() -> Iterator[Path]:
    """A directory, and a process, of a user whom permissions bind."""
    need_root()
    with tempfile.TemporaryDirectory(prefix="syncagent-nobody-") as name:
        Path(name).chmod(0o755)
        os.seteuid(NOBODY)
        try:
            yield Path(name)
        finally:
            os.seteuid(0)


@pytest.mark.parametrize("pattern", ["lists/b.txt", "lists", "lists/*.txt"])
@pytest.mark.parametrize("locked", ["lists", "lists/b.txt"])
def test_without_permission_it_fails(nobody: Path, pattern: str, locked: str) -> None:
    """One file or directory that may not be read is a failure that names it, never a shorter list."""
    os.seteuid(0)
    (nobody / "lists").mkdir()
    for name in "ab":
        (nobody / "lists" / f"{name}.txt").write_text(f"{name}@example.com\n", encoding="utf-8")
    (nobody / locked).chmod(0)
    os.seteuid(NOBODY)
    with pytest.raises(SourceError, match=f"{locked}.*Permission denied"):
        ask(build(Config(path=nobody / pattern)))


def test_a_pattern_passes_no_directory_over(tmp_path: Path) -> None:
    """A pattern anywhere but in the last part is a configuration error: it could miss a directory in silence."""
    config = write_config(tmp_path, '[sources.a]\ntype = "file"\npath = "*/list"')
    assert "sources.a.path: only the last component" in syncagent("sync", config=config, check=78).stderr


class Meddler(Recorder):
    """A sink during whose first `put` somebody meddles with the files, in so many passes over them."""

    def __init__(self, meddle: Callable[[], object], passes: int) -> None:
        super().__init__()
        self._meddle, self._passes, self._fresh = meddle, passes, True

    def put(self, entries: Iterable[Entry]) -> None:
        """Take entries, and meddle."""
        super().put(entries)
        if self._fresh and self._passes:
            self._passes -= 1
            self._fresh = False
            self._meddle()

    def restart(self) -> None:
        """Forget all, and let the meddler have another go."""
        self.entries, self.rejects, self.ignored, self._fresh = [], [], 0, True


def _fetch_into(sink: Meddler, path: Path) -> Answer:
    return build(Config(path=path)).fetch(Request(None, sink, lambda _step, _count: None))


def _append(path: Path) -> None:
    with path.open("a", encoding="utf-8") as stream:
        stream.write("late@example.com\n")


def _replace(path: Path) -> None:
    (path.parent.parent / "staged").write_text("late@example.com\n", encoding="utf-8")
    (path.parent.parent / "staged").replace(path)


def _second(path: Path) -> None:
    path.with_name("late.txt").write_text("late@example.com\n", encoding="utf-8")


@pytest.mark.parametrize("meddle", [_append, _replace, _second])
def test_changed_once_while_read_is_read_again(lists: Path, meddle: Callable[[Path], None]) -> None:
    """A change during the reading is noticed, what was put is taken back, and all is read once more."""
    sink = Meddler(lambda: meddle(lists / "a.txt"), passes=1)
    _fetch_into(sink, lists)
    assert sink.entries == ask(build(Config(path=lists)))[1].entries
    assert "late@example.com" in spelled(sink)


@pytest.mark.parametrize("meddle", [_append, _replace])
def test_changed_twice_while_read_is_a_failure(lists: Path, meddle: Callable[[Path], None]) -> None:
    """A file that changes all the time fails, with the mend, and nothing of it is left in the sink."""
    sink = Meddler(lambda: meddle(lists / "a.txt"), passes=2)
    with pytest.raises(SourceError, match=r"changed while it was read.*rename it into place"):
        _fetch_into(sink, lists / "a.txt")
    assert sink.untouched


def test_gone_while_read_is_a_failure(lists: Path) -> None:
    """A file that goes away while it is read fails."""
    sink = Meddler((lists / "a.txt").unlink, passes=1)
    with pytest.raises(SourceError, match=r"a\.txt cannot be read"):
        _fetch_into(sink, lists / "a.txt")


def test_one_of_several_gone_while_read_makes_no_short_list(lists: Path) -> None:
    """A file that goes away while another one is read makes a failure or a second reading, never half a list."""
    sink = Meddler(lambda: (lists / "b.txt").rename(lists / "c.txt"), passes=1)
    try:
        _fetch_into(sink, lists)
    except SourceError:
        return
    assert spelled(sink) == ["a@example.com", "b@example.com"]


def with_end(body: bytes, *, count: int | None = None, digest: str | None = None) -> bytes:
    """Add an end line."""
    count = body.count(b"\n") if count is None else count
    return body + f"# end {count} {digest or hashlib.sha256(body).hexdigest()}\n".encode()


BODY = b"\xef\xbb\xbf# list\na@example.com\r\n\nb@example.com\n"


def test_require_end_right(tmp_path: Path) -> None:
    """A right end line proves the list whole."""
    recorder = put(with_end(BODY), directory=tmp_path, require_end=True)
    assert spelled(recorder) == ["a@example.com", "b@example.com"]


@pytest.mark.parametrize(
    ("text", "why"),
    [
        pytest.param(BODY, "last line is not", id="missing"),
        pytest.param(b"", "last line is not", id="empty file"),
        pytest.param(with_end(BODY)[:-1], "last line is not", id="cut by one octet"),
        pytest.param(with_end(BODY) + b"c@example.com\n", "last line is not", id="more after it"),
        pytest.param(with_end(BODY) + b"\n", "last line is not", id="a blank line after it"),
        pytest.param(with_end(BODY, count=5), "counts 5 lines, but the list has 4", id="wrong count"),
        pytest.param(with_end(BODY, digest="0" * 64), "do not match the SHA-256 digest", id="wrong digest"),
        pytest.param(with_end(BODY).replace(b"b@", b"c@"), "do not match the SHA-256 digest", id="altered"),
        pytest.param(with_end(BODY).replace(b"b@example.com\n", b""), "counts 4 lines", id="a line lost"),
        pytest.param(with_end(b"").replace(b" 0 ", b" -0 "), "last line is not", id="nonsense"),
    ],
)
@pytest.mark.parametrize("form", ["lines", "postmap"])
def test_require_end_wrong(text: bytes, why: str, form: str, tmp_path: Path) -> None:
    """Whatever is missing or altered fails the file."""
    with pytest.raises(SourceError, match=why):
        put(text, directory=tmp_path, require_end=True, format=form)


def test_require_end_holds_for_every_file(lists: Path) -> None:
    """In a directory each file needs its own end line."""
    (lists / "a.txt").write_bytes(with_end(b"a@example.com\n"))
    with pytest.raises(SourceError, match=r"b\.txt: the last line"):
        ask(build(Config(path=lists, require_end=True)))
    (lists / "b.txt").write_bytes(with_end(b""))
    assert spelled(ask(build(Config(path=lists, require_end=True)))[1]) == ["a@example.com"]


def test_same_is_answered_unread(lists: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An unchanged file is not even opened."""
    monkeypatch.setattr(file, "YOUNG", 0.0)
    validator = ask(build(Config(path=lists)))[0].validator
    assert validator is not None

    def refuse(*_: object, **__: object) -> None:
        pytest.fail("it was opened")

    for place, name in ((builtins, "open"), (os, "open"), (Path, "open")):
        monkeypatch.setattr(place, name, refuse)
    answer = build(Config(path=lists)).fetch(Request(validator, Recorder(), lambda _step, _count: None))
    monkeypatch.undo()
    assert answer.same


def test_a_young_file_is_read_again(tmp_path: Path) -> None:
    """A file changed within the last two seconds may change again unseen: no validator stands for it."""
    path = tmp_path / "list"
    path.write_text("a@example.com\n", encoding="utf-8")
    os.utime(path, (1, 1))  # what counts is the later of mtime and ctime
    assert ask(build(Config(path=path)))[0].validator is None
    assert wait_until(lambda: ask(build(Config(path=path)))[0].validator is not None, pause=0.1)
    assert time.time() - path.stat().st_ctime >= 2


def test_a_file_of_the_future_is_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A time that has not come yet proves nothing about the file's age."""
    monkeypatch.setattr(file, "YOUNG", 0.0)
    path = tmp_path / "list"
    path.write_text("a@example.com\n", encoding="utf-8")
    later = time.time() + 3600
    os.utime(path, (later, later))
    assert ask(build(Config(path=path)))[0].validator is None


def _in_place(lists: Path) -> None:
    (lists / "a.txt").write_text("x@example.com\n", encoding="utf-8")


def _renamed(lists: Path) -> None:
    """Same size, same mtime: another inode."""
    path, before = lists / "a.txt", (lists / "a.txt").stat()
    (lists.parent / "staged").write_text("x@example.com\n", encoding="utf-8")
    os.utime(lists.parent / "staged", ns=(before.st_atime_ns, before.st_mtime_ns))
    (lists.parent / "staged").replace(path)
    after = path.stat()
    assert (after.st_size, after.st_mtime_ns) == (before.st_size, before.st_mtime_ns)
    assert after.st_ino != before.st_ino


def _back_dated(lists: Path) -> None:
    """Same size, same mtime, same inode: another ctime."""
    path, before = lists / "a.txt", (lists / "a.txt").stat()
    path.write_text("x@example.com\n", encoding="utf-8")
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def _one_more(lists: Path) -> None:
    (lists / "x.txt").write_text("x@example.com\n", encoding="utf-8")


def _one_less(lists: Path) -> None:
    (lists / "a.txt").unlink()


def _other_name(lists: Path) -> None:
    (lists / "a.txt").rename(lists / "x.txt")


def _exchanged(lists: Path) -> None:
    (lists / "a.txt").rename(lists / "x")
    (lists / "b.txt").rename(lists / "a.txt")
    (lists / "x").rename(lists / "b.txt")


@pytest.mark.parametrize("pattern", ["", "*.txt"])
@pytest.mark.parametrize("change", [_in_place, _renamed, _back_dated, _one_more, _one_less, _other_name, _exchanged])
def test_every_change_is_seen(
    lists: Path, pattern: str, change: Callable[[Path], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whichever part of a file's identity changes, or which files there are: all is read anew."""
    monkeypatch.setattr(file, "YOUNG", 0.0)
    source = build(Config(path=lists / pattern))
    validator = ask(source)[0].validator
    assert ask(source, validator)[0].same
    time.sleep(0.02)  # the clock of a file system ticks slowly
    change(lists)
    answer, recorder = ask(source, validator)
    assert not answer.same
    assert recorder.entries


_REPLACED = """
set -e
mount --bind "$1/host/list" "$1/in/list"
cp "$1/host/list" "$1/host/.new"
echo b@example.com >> "$1/host/.new"
mv "$1/host/.new" "$1/host/list"
test "$(stat -c %h "$1/in/list")" = 0
shift
exec "$@"
"""


def test_a_mounted_file_that_was_replaced(tmp_path: Path) -> None:
    """A bind mount of a single file shows the old file for ever: the source fails and names the remedy."""
    need_root()
    unshare = need_program("unshare")
    need("a mount namespace of one's own", os.system(f"{unshare} -m true 2>/dev/null") == 0)  # noqa: S605 - ours
    for directory in ("host", "in"):
        (tmp_path / directory).mkdir()
    (tmp_path / "host/list").write_text("a@example.com\n", encoding="utf-8")
    (tmp_path / "in/list").touch()
    config = write_config(tmp_path, '[sources.a]\ntype = "file"\npath = "in/list"')
    command = [unshare, "-m", "sh", "-c", _REPLACED, "sh", str(tmp_path), sys.executable, "-m", "syncagent"]
    done = subprocess.run(
        [*command, "--config", str(config), "sync"], check=False, capture_output=True, text=True, timeout=PATIENCE
    )
    assert done.returncode == 75, done.stdout + done.stderr
    assert f"{tmp_path}/in/list is a deleted file" in done.stderr
    assert "mount the directory" in done.stderr
    assert not (tmp_path / "map").exists()


def test_through_the_program(tmp_path: Path) -> None:
    """A path relative to the configuration file is read, and each kind of trouble ends in its own exit status."""
    (tmp_path / "list").write_text("info\nd\n@example.com\n", encoding="utf-8")
    source = '[sources.a]\ntype = "file"\npath = "list"\ndomains = ["example.com"]\ncatch_all = "ignore"'
    config = write_config(tmp_path, source)
    syncagent("sync", config=config, cwd=Path("/"), check=0)
    assert map_keys(tmp_path) == ["d@example.com", "info@example.com"]
    (tmp_path / "list").write_bytes(b"info\n\0\n")
    done = syncagent("sync", config=config, check=75)
    assert f"source a is failing (broken): {tmp_path}/list" in done.stderr
    assert "contains a NUL octet" in done.stderr
    assert map_keys(tmp_path) == ["d@example.com", "info@example.com"]
