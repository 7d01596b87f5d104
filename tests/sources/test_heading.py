"""The first lines of a list: its domains, when it was made, and when it expires."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from syncagent.errors import FailureKind, SourceError
from syncagent.model import Dates
from syncagent.sources.integrity import HEADING_LINES, Heading, parse_rfc3339

NOON = 1764331200.0
"""2025-11-28T12:00:00Z."""
MADE = "# made: 2025-11-28T12:00:00Z\n"
EXPIRES = "# expires: 2025-11-28T15:00:00Z\n"


def heading(text: str, *, size: int = 1 << 16, has_comments: bool = True) -> Heading:
    """Return the heading of a text that comes in chunks of whole lines, of ``size`` lines each."""
    read, lines = Heading("list", has_comments=has_comments), text.encode().splitlines(keepends=True)
    chunks = [b"".join(lines[at : at + size]) for at in range(0, len(lines), size)]
    assert list(read.through(chunks)) == chunks
    return read


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("2025-11-28T12:00:00Z", NOON),
        ("2025-11-28t12:00:00z", NOON),
        ("2025-11-28 12:00:00Z", NOON),
        ("2025-11-28T13:00:00+01:00", NOON),
        ("2025-11-28T04:30:00-07:30", NOON),
        ("2025-11-28T12:00:00-00:00", NOON),
        ("2025-11-28T12:00:00.25Z", NOON + 0.25),
        ("2025-11-28T12:00:00.123456789Z", NOON + 0.123456),
        ("2016-12-31T23:59:60Z", 1483228799.0),
        ("1970-01-02T00:00:00Z", 86400.0),
        ("9999-12-29T23:59:59Z", 253_402_127_999.0),
        ("1970-01-01T00:00:00Z", None),
        ("0001-01-01T00:00:00+01:00", None),
        ("9999-12-31T23:59:59-12:00", None),
        ("2025-11-28T12:00:00", None),
        ("2025-11-28", None),
        ("2025-11-28T12:00Z", None),
        ("20251128T120000Z", None),
        ("2025-02-30T12:00:00Z", None),
        ("2025-11-28T25:00:00Z", None),
        ("2025-11-28T12:00:00+25:00", None),
        ("0000-01-01T00:00:00Z", None),
        ("Fri, 28 Nov 2025 12:00:00 GMT", None),
        ("1764331200", None),
        ("yesterday", None),
        ("", None),
        ("٢٠٢٥-11-28T12:00:00Z", None),
    ],
)
def test_a_time_of_rfc_3339(text: str, seconds: float | None) -> None:
    """Every form of RFC 3339 counts, and no other: a time without a zone could be off by half a day."""
    found = parse_rfc3339(text)
    assert found == (seconds if seconds is None else pytest.approx(seconds, abs=1e-6))


@given(st.text(max_size=40))
def test_no_text_is_too_odd(text: str) -> None:
    """A text is a time, or it is none; nothing else happens."""
    found = parse_rfc3339(text)
    assert found is None or isinstance(found, float)


@pytest.mark.parametrize("size", [1, 2, 1 << 16])
@pytest.mark.parametrize(
    ("text", "made", "expires"),
    [
        (MADE + EXPIRES + "a@example.com\n", NOON, NOON + 3 * 3600),
        (EXPIRES + MADE + "a@example.com\n", NOON, NOON + 3 * 3600),
        ("# by hand\n#\n\n" + MADE + "a@example.com\n", NOON, 0.0),
        (MADE, NOON, 0.0),
        (MADE.strip(), NOON, 0.0),
        (MADE.replace("\n", "\r\n"), NOON, 0.0),
        ("  #made:2025-11-28T12:00:00Z  \n", NOON, 0.0),
        (EXPIRES, 0.0, NOON + 3 * 3600),
        ("a@example.com\n" + MADE, 0.0, 0.0),
        ("#\n" * HEADING_LINES + MADE, 0.0, 0.0),
        ("#\n" * (HEADING_LINES - 1) + MADE, NOON, 0.0),
        ("# Made: by a script\n# it was made: yesterday\na@example.com\n", 0.0, 0.0),
        ("", 0.0, 0.0),
    ],
)
def test_its_dates(text: str, made: float, expires: float, size: int) -> None:
    """They are in the first lines as far as these are comments, in any order, however the text is cut into chunks."""
    assert heading(text, size=size).dates == Dates(made=made, expires=expires)


@pytest.mark.parametrize("size", [1, 1 << 16])
def test_its_domains(size: int) -> None:
    """They are in the first line, or beside the dates; the first of several lines counts."""
    assert heading("# domains: a.test, b.test\n", size=size).domains == ("a.test", "b.test")
    assert heading(MADE + "# domains: a.test\n# domains: b.test\n", size=size).domains == ("a.test",)
    assert heading("# domains:\n", size=size).domains == ()
    assert heading(MADE + "a@example.com\n# domains: a.test\n", size=size).domains is None


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("# made: yesterday\n", 'list: "# made: yesterday" is not a time: write it as "# made: 20'),
        ("# made:\n", 'list: "# made: " is not a time'),
        ("# expires: 2025-11-28T12:00:00\n", 'list: "# expires: 2025-11-28T12:00:00" is not a time'),
        (f"# made: {'9' * 500}\n", f'list: "# made: {"9" * 60}..." is not a time'),
        ("# made: \x1b[2J\n", r'list: "# made: \x1b[2J" is not a time'),
        (MADE + MADE, 'list: "# made:" is in the first lines twice'),
        (EXPIRES + "# made: 2025-11-28T15:00:00Z\n", 'list: "# expires:" is not after "# made:"'),
    ],
)
def test_malformed_dates_fail_the_source(text: str, told: str) -> None:
    """The message names the line, and says what to write instead."""
    with pytest.raises(SourceError) as raised:
        assert heading(text).dates
    assert told in str(raised.value)
    assert raised.value.kind is FailureKind.BROKEN


def test_a_format_without_comments_has_no_dates() -> None:
    """There a line that begins with # is data; domains are in the first line as ever."""
    assert heading(MADE, has_comments=False).dates == Dates()
    assert heading("# made: yesterday\n" * 2, has_comments=False).dates == Dates()
    assert heading("# domains: a.test\n", has_comments=False).domains == ("a.test",)
