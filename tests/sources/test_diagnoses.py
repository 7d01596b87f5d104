"""What a source that gives no recipient says: some of its entries, the likely shape, and the key that is the cause."""

import bz2
import gzip
import io
import lzma
import subprocess
import zipfile
from pathlib import Path

import pytest

from syncagent.errors import SourceError
from syncagent.sources.file import Config, build
from tests.scenario import Scenario, people
from tests.sources.contract import ask
from tests.support.need import need_postmap
from tests.support.postmap import minimal_config

PEOPLE = "".join(f"{name}\n" for name in sorted(people(40)))


# --- what is no text


def zipped() -> bytes:
    """Return a ZIP archive, as a spreadsheet is."""
    octets = io.BytesIO()
    with zipfile.ZipFile(octets, "w") as archive:
        archive.writestr("xl/workbook.xml", PEOPLE)
    return octets.getvalue()


BINARY = {
    "utf-16": (PEOPLE.encode("utf-16"), "is UTF-16: save it as UTF-8"),
    "utf-16-be": (b"\xfe\xff" + PEOPLE.encode("utf-16-be"), "is UTF-16: save it as UTF-8"),
    "utf-16 without mark": (PEOPLE.encode("utf-16-le"), "is UTF-16: save it as UTF-8"),
    "utf-16-be without mark": (PEOPLE.encode("utf-16-be"), "is UTF-16: save it as UTF-8"),
    "utf-32": (PEOPLE.encode("utf-32"), "is UTF-32: save it as UTF-8"),
    "gzip": (gzip.compress(PEOPLE.encode()), "is compressed by gzip: unpack it"),
    "bzip2": (bz2.compress(PEOPLE.encode()), "is compressed by bzip2: unpack it"),
    "xz": (lzma.compress(PEOPLE.encode()), "is compressed by xz: unpack it"),
    "zip": (zipped(), "is a ZIP archive"),
    "sqlite": (b"SQLite format 3\0" + bytes(80), "is an SQLite database"),
}


@pytest.mark.parametrize("kind", sorted(BINARY))
@pytest.mark.parametrize("require_end", [False, True])
def test_what_is_no_text_is_named(tmp_path: Path, kind: str, require_end: bool) -> None:  # noqa: FBT001 - a parameter
    """It is neither damaged nor incomplete, and the message says what to do."""
    octets, said = BINARY[kind]
    (tmp_path / "list").write_bytes(octets)
    with pytest.raises(SourceError) as caught:
        ask(build(Config(path=tmp_path / "list", require_end=require_end)))
    text = str(caught.value)
    assert f"list {said}" in text
    assert not [word for word in ("damaged", "incomplete", "NUL", "line feed") if word in text]


@pytest.mark.parametrize(("kind", "suffix"), [("hash", ".db"), ("lmdb", ".lmdb"), ("cdb", ".cdb")])
def test_an_index_is_named(tmp_path: Path, kind: str, suffix: str) -> None:
    """As postmap makes it."""
    postmap = need_postmap(kind)
    (tmp_path / "table").write_text("a@example.com OK\n")
    subprocess.run([postmap, "-c", minimal_config(tmp_path / "pf"), f"{kind}:{tmp_path}/table"], check=True)
    with pytest.raises(SourceError) as caught:
        ask(build(Config(path=tmp_path / f"table{suffix}")))
    assert "is an index of a Postfix table: name the text that it is made from" in str(caught.value)
    assert "damaged" not in str(caught.value)


@pytest.mark.parametrize("kind", ["utf-16", "gzip", "zip"])
def test_a_list_that_becomes_binary_is_not_called_torn(tmp_path: Path, kind: str) -> None:
    """Though it ended in a line feed before; nobody goes."""
    scenario = Scenario(tmp_path)
    scenario.write("corp", people(40))
    scenario.sync()
    scenario.file("corp").write_bytes(BINARY[kind][0])
    printed = scenario.say("sync", code=75).stderr
    assert BINARY[kind][1] in printed
    assert "incomplete" not in printed
    assert scenario.published() == people(40)


# --- entries that are none


@pytest.mark.parametrize(
    ("text", "shape"),
    [
        ("anna@example.com:{PLAIN}s3cret::::\nbob@example.com:{PLAIN}s3cret::::\n", "a password file"),
        ('"anna"\n"bob"\n', "quoted values"),
        ("Anna,anna@example.com\nBob,bob@example.com\n", "CSV"),
        ("Anna;anna@example.com\nBob;bob@example.com\n", "CSV"),
        ("Anna\tanna@example.com\nBob\tbob@example.com\n", "CSV"),
        ("dn: cn=anna,dc=example\nmail: anna@example.com\n", "LDIF"),
        ("anna@example.com OK\nbob@example.com REJECT\n", "a Postfix table"),
        ("anna: anna@example.com\nbob: bob@example.com\n", "names with values"),
        ("/^anna@/ OK\n/^bob@/ OK\n", "a pcre or regexp table"),
        ('{"mail": "anna@example.com"}\n', "JSON"),
        ("<html>\n<body>\n", "HTML or XML"),
        ("anna\nbob\n", "bare names"),
        ("anna@example.com, bob@example.com\n", "several addresses in one entry"),
        ("anna@example.com\rbob@example.com\r\r", "a text whose lines end in CR alone"),
    ],
)
def test_three_entries_and_the_shape_are_shown(tmp_path: Path, text: str, shape: str) -> None:
    """With place and reason, and without passwords."""
    scenario = Scenario(tmp_path)
    scenario.file("corp").write_text(text, newline="")
    printed = scenario.say("sync", code=None).stderr
    count = text.count("\n") or 1
    assert f"none of its {count} entr" in printed
    for number in range(1, count + 1):
        assert f"line {number} of {scenario.file('corp')}: " in printed
    assert f"It looks like {shape}" in printed
    assert "s3cret" not in printed


@pytest.mark.parametrize(
    ("form", "text"),
    [
        ("csv", "mail,name\nanna,Anna\nbob,Bob\n"),
        ("csv", 'mail,name\n"x,y",Anna\n"z,y",Bob\n'),
        ("passwd", "anna\nbob\n"),
    ],
)
def test_the_format_that_is_set_is_not_advised(tmp_path: Path, form: str, text: str) -> None:
    """It is not the remedy."""
    scenario = Scenario(tmp_path)
    scenario.sources["corp"] = {"format": form, "column": "mail"}
    if form == "passwd":
        scenario.sources["corp"] = {"format": form, "domains": ["example.com"]}
    scenario.file("corp").write_text(text)
    printed = scenario.say("sync", code=None).stderr
    assert "none of its 2 entries is an address" in printed
    assert f'set format = "{form}"' not in printed


def test_three_entries_are_enough(tmp_path: Path) -> None:
    """Of many."""
    scenario = Scenario(tmp_path)
    scenario.file("corp").write_text("".join(f"name{number}\n" for number in range(50)))
    printed = scenario.say("sync", code=None).stderr
    assert (
        "none of its 50 entries is an address: is it the right file, attribute or format? It looks like bare" in printed
    )
    assert ". Such as line" in printed
    assert printed.count(f"of {scenario.file('corp')}: ") == 3


# --- the cause


def test_min_uid_is_the_cause(tmp_path: Path) -> None:
    """It is named, and allow_empty is not, which would make an empty list of all users."""
    text = "anna:x:504:12::/:/bin/false\nbob:x:1:1::/:/bin/false\n"
    (tmp_path / "passwd").write_text(text)
    scenario = Scenario(tmp_path)
    scenario.sources["corp"] = {"path": str(tmp_path / "passwd"), "format": "passwd", "domains": ["example.com"]}
    printed = scenario.say("sync", code=None).stderr
    assert "2 have a uid below min_uid (1000)" in printed
    assert "allow_empty" not in printed
    scenario.sources["corp"]["min_uid"] = 0
    scenario.say("sync")
    assert scenario.published() == {"anna@example.com", "bob@example.com"}


def test_domains_is_the_cause(tmp_path: Path) -> None:
    """Local parts with a dot are read as domains as long as the key is not set."""
    scenario = Scenario(tmp_path)
    scenario.file("corp").write_text("anna.smith OK\nbob.jones OK\n")
    scenario.sources["corp"]["format"] = "postmap"
    printed = scenario.say("sync", code=None).stderr
    assert "2 are read as domains" in printed
    assert "set domains" in printed
    assert "allow_empty" not in printed
    scenario.sources["corp"]["domains"] = ["example.com"]
    scenario.say("sync")
    assert scenario.published() == {"anna.smith@example.com", "bob.jones@example.com"}


def test_allow_empty_is_advised_where_it_helps(tmp_path: Path) -> None:
    """A list without an entry."""
    scenario = Scenario(tmp_path)
    scenario.file("corp").write_text("# nobody\n")
    assert "set allow_empty = true" in scenario.say("sync", code=None).stderr
