"""The formats of the file source: what their lines mean, and what bad ones come to."""

import re
import typing
from pathlib import Path

import pytest

from syncagent.errors import SourceError
from syncagent.sources.file import Config, build, problems
from syncagent.sources.line_formats import FORMATS
from syncagent.values.types import Domain
from tests.sources.contract import Recorder, ask

NOT_UTF_8 = "is not UTF-8: save the list as UTF-8"
NO_COLUMN = 'has no column "mail": write one, which may be empty, or correct the delimiter'
AT = (Domain("example.com"), Domain("example.org"))

ALIASES = r"""
# the names count, not what they stand for
postmaster: root
Info:   alice, bob,
    carol@example.net
list: :include:/etc/lists/all
script: "|/usr/bin/filter -x"
archive: /var/mail/archive
"john doe": john
spaced : somebody
root:
no colon here
user@example.com: elsewhere
b\xf6rse: someone
"""

PASSWD = """\
root:x:0:0:root:/root:/bin/bash
daemon:x:1:1::/usr/sbin:/usr/sbin/nologin
alice:x:1000:1000:Alice,,,:/home/alice:/bin/bash
Bob:x:1001:1001::/home/bob:/bin/sh
short:secrethash:1002
nan:secrethash:many:1::/:/bin/sh

carol:x:2000:2000::/home/carol:/bin/sh
"""

CSV = """\
\ufeffname,mail,password
Alice,alice@example.com,s3cret
"Doe, John","""  # a quoted comma
CSV += """john@example.com,s3cret
Nobody,,s3cret
short
"Two
lines",two@example.com,s3cret

"Quote ""Q"" ",quote@example.com,s3cret
Bad,no-at-all,s3cret
"""


GOOD = ["before@example.com", "after@example.com"]
BAD_INPUT: dict[str, tuple[bytes, dict[str, object], list[tuple[str, str]]]] = {
    "lines": (
        b"before@example.com\nb\xf6se@example.com\nafter@example.com\n",
        {},
        [("b\\xf6se@example.com", NOT_UTF_8)],
    ),
    "postmap": (
        (
            b'before@example.com OK\nnone@example.com\n"open@example.com OK\nb\xf6se@example.com OK\n'
            b"after@example.com OK\n"
        ),
        {},
        [
            ("none@example.com", "has no value: Postfix ignores such a line; write a value such as OK behind it"),
            ('"open@example.com OK', "has an unclosed quote: close it"),
            ("b\\xf6se@example.com", NOT_UTF_8),
        ],
    ),
    "aliases": (
        b"before: a\nno colon\nempty:\nb\xf6se: b\nafter: c\n",
        {"domains": AT[:1]},
        [
            ("no colon", 'is not "NAME: VALUE", see aliases(5)'),
            ("empty:", 'is not "NAME: VALUE", see aliases(5)'),
            ("b\\xf6se", NOT_UTF_8),
        ],
    ),
    "passwd": (
        b"before:x:1000:1::/:/\nshort:hash:1001\nnan:hash:many:1::/:/\nb\xf6se:x:1002:1::/:/\nafter:x:1003:1::/:/\n",
        {"domains": AT[:1]},
        [
            ("short", 'is not "NAME:PASSWORD:UID:GID:GECOS:HOME:SHELL", see passwd(5)'),
            ("nan", 'is not "NAME:PASSWORD:UID:GID:GECOS:HOME:SHELL", see passwd(5)'),
            ("b\\xf6se", NOT_UTF_8),
        ],
    ),
    "csv": (
        b"name,mail\nA,before@example.com\nshort\nB,b\xf6se@example.com\nC,after@example.com\n",
        {"column": "mail"},
        [("(record with 1 columns)", NO_COLUMN), ("b\\xf6se@example.com", NOT_UTF_8)],
    ),
}
"""By format: a text with malformed lines between two good ones, the keys to read it, and the rejects expected."""
ROOT = Path(__file__).parents[2]


def read(tmp_path: Path, text: str | bytes, **keys: object) -> Recorder:
    """Read a text by a file source with these keys."""
    file = tmp_path / "list"
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    return ask(build(Config(path=file, **keys)))[1]  # type: ignore[arg-type]


def addresses(recorder: Recorder) -> list[str]:
    """Return the addresses as spelled, in order."""
    return [spelled for spelled, _, _ in recorder.entries]


def test_aliases_are_names_at_each_domain(tmp_path: Path) -> None:
    """Every name, quoted ones too, at each domain; continuation lines, includes and pipes are not names."""
    recorder = read(tmp_path, ALIASES.replace(r"\xf6", "\xf6").encode("latin-1"), format="aliases", domains=AT)
    names = ["postmaster", "Info", "list", "script", "archive", '"john doe"', "spaced"]
    assert addresses(recorder) == [*(f"{name}@{domain}" for name in names for domain in AT), "user@example.com"]
    assert [reason for _, reason, _ in recorder.rejects] == [
        'is not "NAME: VALUE", see aliases(5)',
        'is not "NAME: VALUE", see aliases(5)',
        NOT_UTF_8,
    ]


def test_passwd_takes_users_from_min_uid(tmp_path: Path) -> None:
    """System accounts are left out by their uid; a line that is none is a reject, and its password stays unsaid."""
    recorder = read(tmp_path, PASSWD, format="passwd", domains=AT[:1])
    assert addresses(recorder) == ["alice@example.com", "Bob@example.com", "carol@example.com"]
    assert [spelled for spelled, _, _ in recorder.rejects] == ["short", "nan"]
    assert "secrethash" not in str(recorder.rejects)
    assert addresses(read(tmp_path, PASSWD, format="passwd", domains=AT[:1], min_uid=1001)) == [
        "Bob@example.com",
        "carol@example.com",
    ]
    assert [key for _, key, _ in recorder.entries] == ["3", "4", "8"]


def test_csv_takes_one_named_column(tmp_path: Path) -> None:
    """Quoted commas, quotes and line feeds stay in their cells; empty cells count as people without a mailbox."""
    recorder = read(tmp_path, CSV, format="csv", column="mail")
    expected = ["alice@example.com", "john@example.com", "two@example.com", "quote@example.com", "no-at-all"]
    assert addresses(recorder) == expected
    assert recorder.ignored == 1
    assert [reason for _, reason, _ in recorder.rejects] == [NO_COLUMN]
    assert "s3cret" not in str(recorder.rejects) + str(recorder.entries)


def test_csv_with_another_delimiter_and_bare_names(tmp_path: Path) -> None:
    """The delimiter is configured, and bare names are completed as everywhere."""
    recorder = read(
        tmp_path, "id;login\n1;alice\n2; bob \n", format="csv", column="login", delimiter=";", domains=AT[:1]
    )
    assert addresses(recorder) == ["alice@example.com", "bob@example.com"]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("name,e-mail\nA,a@example.com\n", 'must name the column "mail" once; its columns: name, e-mail'),
        ("mail,mail\na@example.com,b@example.com\n", "once"),
        ("", "its columns: none"),
        ('mail\n"a@example.com\nb@example.com\n', "unexpected end of data"),
        ('mail\n"a@example.com"x\n', "line 2"),
    ],
)
def test_a_csv_that_cannot_be_trusted_is_a_failure(text: str, told: str, tmp_path: Path) -> None:
    """A missing or doubled column and broken quoting fail the source: what follows could be anything."""
    with pytest.raises(SourceError, match=told):
        read(tmp_path, text, format="csv", column="mail")


def test_a_cell_that_is_not_utf8_is_one_reject(tmp_path: Path) -> None:
    """One bad cell does not stop the rest."""
    recorder = read(tmp_path, b"mail\nb\xf6se@example.com\ngood@example.com\n", format="csv", column="mail")
    assert addresses(recorder) == ["good@example.com"]
    assert [reason for _, reason, _ in recorder.rejects] == [NOT_UTF_8]


@pytest.mark.parametrize(
    ("keys", "key"),
    [
        ({"format": "aliases"}, "domains"),
        ({"format": "passwd"}, "domains"),
        ({"format": "csv"}, "column"),
        ({"format": "csv", "column": "mail", "delimiter": ";;"}, "delimiter"),
        ({"format": "csv", "column": "mail", "delimiter": ""}, "delimiter"),
        ({"format": "csv", "column": "mail", "delimiter": '"'}, "delimiter"),
    ],
)
def test_what_a_format_needs_is_asked_for(keys: dict[str, object], key: str, tmp_path: Path) -> None:
    """A format without what it cannot do without is a configuration problem at the right key."""
    assert [name for name, _ in problems(Config(path=tmp_path / "list", **keys))] == [key]  # type: ignore[arg-type]


def test_a_line_without_end_is_a_failure(tmp_path: Path) -> None:
    """A file that is one endless line is no list, and is not read into memory."""
    with pytest.raises(SourceError, match="is it a list of addresses"):
        read(tmp_path, b"a@example.com\n" + b"x" * (3 << 20))


def test_a_byte_order_mark_between_files_is_none_of_the_address(tmp_path: Path) -> None:
    """Two files put together have a mark in the middle, which is no letter of a name."""
    recorder = read(tmp_path, "\ufeffa@example.com\n\ufeffb@example.com\n")
    assert addresses(recorder) == ["a@example.com", "b@example.com"]


@pytest.mark.parametrize("form", sorted(FORMATS))
def test_every_format_has_its_row_of_bad_input(form: str, tmp_path: Path) -> None:
    """Every format turns each malformed line into one reject, and reads the lines around it."""
    text, keys, rejects = BAD_INPUT[form]
    recorder = read(tmp_path, text, format=form, **keys)
    assert [(spelled, reason) for spelled, reason, _ in recorder.rejects] == rejects
    assert addresses(recorder) == GOOD


def test_the_tables_name_the_same_formats() -> None:
    """The formats, the values of the key `format` and the rows of bad input are the same."""
    assert set(FORMATS) == set(BAD_INPUT) == set(typing.get_args(typing.get_type_hints(Config)["format"]))


@pytest.mark.parametrize("form", sorted(FORMATS))
def test_every_format_is_documented(form: str) -> None:
    """Every format has a list item or a table row of its own in the documentation."""
    files = [ROOT / "README.md", *(ROOT / "contrib" / "docs").glob("*.md")]
    text = "\n".join(file.read_text("utf-8") for file in files)
    assert re.search(rf'^(?:[-*] |\| )`(?:format = )?"?{form}"?`', text, re.MULTILINE), form
