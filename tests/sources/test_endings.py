"""How the texts of an answer end, and what proves that they are whole: files, and a list over HTTP."""

import os
import time
from pathlib import Path

import pytest

from syncagent.sources import Answer
from syncagent.sources.endings import MOST_OF_A_LINE, MOST_TEXTS, Endings
from syncagent.sources.file import Config, FileSource
from syncagent.sources.http import Config as HttpConfig
from syncagent.sources.http import build
from tests.sources.contract import ask
from tests.sources.http import ended
from tests.support.scripted_http import ScriptedHTTP, answer

PEOPLE = [f"user{number:02}@example.com" for number in range(40)]
TORN = "".join(f"{address}\n" for address in PEOPLE).encode()[:712]
"""40 lines cut at octet 712, in the middle of an address."""


def of_file(path: Path, **config: object) -> Answer:
    """Return a file source's answer."""
    return ask(FileSource(Config(path=path, **config)))[0]  # type: ignore[arg-type]


def test_a_finished_file(tmp_path: Path) -> None:
    """A last line feed is a proof of the transport, and no more; an empty line at the end, or nothing, is finished."""
    for text in ("a@example.com\n", "a@example.com\n\n", "a@example.com\r\n"):
        (tmp_path / "list").write_text(text, encoding="utf-8", newline="")
        said = of_file(tmp_path / "list")
        assert (said.full, said.proof, said.unfinished, said.finished) == (True, "transport", {}, ("list",))


def test_a_torn_file(tmp_path: Path) -> None:
    """The last line is handed on as it was read."""
    (tmp_path / "list").write_bytes(TORN)
    said = of_file(tmp_path / "list")
    assert (said.proof, said.unfinished, said.finished) == ("transport", {"list": "user37@ex"}, ())


def test_an_end_line_is_the_producers(tmp_path: Path) -> None:
    """Only where it is required: elsewhere a torn list would have none, and would not be missed."""
    (tmp_path / "list").write_bytes(ended(PEOPLE))
    assert of_file(tmp_path / "list", require_end=True).proof == "producer"
    assert of_file(tmp_path / "list").proof == "transport"


@pytest.mark.parametrize(("ahead", "proof"), [(300, "transport"), (900, "none")])
def test_a_time_in_the_future_proves_nothing(tmp_path: Path, ahead: float, proof: str) -> None:
    """Ten minutes are the clock's; more is a file whose age cannot be known. An end line stands nevertheless."""
    (tmp_path / "list").write_bytes(ended(PEOPLE))
    when = time.time() + ahead
    os.utime(tmp_path / "list", (when, when))
    assert of_file(tmp_path / "list").proof == proof
    assert of_file(tmp_path / "list", require_end=True).proof == "producer"


def test_each_file_of_a_directory(tmp_path: Path) -> None:
    """Each by its name; an empty file is finished. The same again says nothing."""
    for name, text in {"a": "a@example.com\nb@exam", "b": "b@example.com\n", "c": "", "d": "d"}.items():
        (tmp_path / name).write_text(text, encoding="utf-8")
        os.utime(tmp_path / name, (1e9, 1e9))
    source = FileSource(Config(path=tmp_path))
    said, _ = ask(source)
    assert (said.unfinished, said.finished) == ({"a": "b@exam", "d": "d"}, ("b", "c"))
    same = Answer(same=True)
    assert (same.unfinished, same.finished) == ({}, ())


def test_a_date_of_each_file_is_a_proof(tmp_path: Path) -> None:
    """One file with a date proves nothing of the others."""
    made = "# made: 2026-01-31T02:00:00Z\na@example.com\n"
    (tmp_path / "a").write_text(made, encoding="utf-8")
    (tmp_path / "b").write_text("b@example.com\n", encoding="utf-8")
    assert of_file(tmp_path).proof == "transport"
    (tmp_path / "b").write_text(made, encoding="utf-8")
    assert of_file(tmp_path).proof == "producer"


@pytest.mark.parametrize(
    ("format_", "text", "line"),
    [
        ("postmap", b"a@example.com OK\n# c\nb@exam", "b@exam"),
        ("aliases", b"a: b\nc: d", "c: d"),
        ("passwd", b"a:x:1000:1000::/:/bin/sh\nb:x:10", "b:x:10"),
        ("csv", b"mail\na@example.com\nb@exa", "b@exa"),
        ("lines", b"a@example.com\nb\xc3\xb6\xc3", "b\xf6"),
        ("lines", b"a@example.com\nb\xe9@exam", "b\\xe9@exam"),
        ("lines", b"\xef\xbb\xbfa@exam", "a@exam"),
    ],
)
def test_in_every_format(tmp_path: Path, format_: str, text: bytes, line: str) -> None:
    """The line is what is after the last line feed; a character that was cut in the middle is left out."""
    (tmp_path / "list").write_bytes(text)
    config = {"format": format_, "domains": ("example.com",), "column": "mail"}
    assert of_file(tmp_path / "list", **config).unfinished == {"list": line}


def test_sizes_are_bounded() -> None:
    """A line is cut, and further texts are left out."""
    endings = Endings()
    for number in range(MOST_TEXTS + 5):
        list(endings.through([b"x" * 100_000] if number % 2 else [b"a\n", b"b\n"], str(number)))
    assert len(endings.unfinished) + len(endings.finished) == MOST_TEXTS
    assert {len(line) for line in endings.unfinished.values()} == {MOST_OF_A_LINE}


def of_list(server: ScriptedHTTP, *, foreign: bool = True) -> Answer:
    """Return the answer of a plain list's source."""
    return ask(build(HttpConfig(url=f"{server.url}/list", format="lines", insecure=True, foreign=foreign)))[0]


@pytest.mark.parametrize("etag", ["", '"v1"'])
@pytest.mark.parametrize("chunked", [False, True])
def test_a_torn_list_over_http(etag: str, *, chunked: bool) -> None:
    """The server sends what it has, whole: only the last line shows that its file was torn."""
    with ScriptedHTTP(routes={"/list": lambda _: answer(TORN, chunked=chunked, etag=etag)}) as server:
        said = of_list(server)
        assert (said.full, said.proof) == (True, "transport")
        assert (said.unfinished, said.finished) == ({f"{server.url}/list": "user37@ex"}, ())


def test_a_finished_list_over_http() -> None:
    """Content-Length is the transport's proof, the end line the producer's."""
    with ScriptedHTTP(routes={"/list": lambda _: answer(ended(PEOPLE))}) as server:
        for foreign, proof in ((True, "transport"), (False, "producer")):
            said = of_list(server, foreign=foreign)
            assert (said.proof, said.unfinished, said.finished) == (proof, {}, (f"{server.url}/list",))
