"""The text of the map, with the real postmap(1) as the judge of how it is read."""

import io
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from syncagent import addresses as normalise
from syncagent.postfix import table_text as mapfile
from tests.support.need import need_postmap
from tests.support.postfix import minimal_config, postmap_build
from tests.support.postmap import run_postfix

# No NUL: Postfix's own strings end there, a file source with one is torn, and no recipient may have one.
octets = st.one_of(
    st.sampled_from([bytes((octet,)) for octet in b'\n\n\n\r\t\v\f   \x01\x1f\x7f""\\\\##:@.,;|<>']),
    st.sampled_from([b"\n ", b" OK\n", b"\n#", b"\n\n", b'\n"', b"\\\n", b"@example.com ", b"\xef\xbb\xbf", b"\xff"]),
    st.sampled_from(["\u00df", "\u00dc", "u\u0308", "\u0390", "\u0085", "\u00a0", "\u2028"]).map(str.encode),
    st.integers(1, 255).map(lambda octet: bytes((octet,))),
    st.characters(categories=["L", "N"]).map(str.encode),
)
texts = st.lists(octets, max_size=40).map(b"".join)


separators = st.sampled_from([b" ", b"\t", b"  ", b"\v", b"\f", b"\r", b" \t\r", b"\n ", b"\n#comment\n\t", b" \xff"])
keys = st.one_of(
    st.from_regex(rb"[a-zA-Z.+#-]{1,6}@example\.com", fullmatch=True),
    st.from_regex(rb'"([a-zA-Z @\t;]|\\["\\ a]){0,6}"@Example\.com', fullmatch=True),
    st.text("\u00dfu\u0308\u00dc\u0390", min_size=1, max_size=4).map(lambda local: f"{local}@example.com".encode()),
)
table_lines = st.tuples(keys, separators, st.sampled_from([b"OK", b"OK", b"OK", b"", b'"', b"\\", b"\xff"]))
table_texts = st.lists(table_lines.map(b"".join), max_size=6).map(b"\n".join)

RELAY_DOMAINS = ("example.com", "xn--bcher-kva.example", "xn--fa-hia.example", "xn--mxa3ah.example")
spellings = st.tuples(
    st.one_of(
        st.text(max_size=8),
        st.text(max_size=8).map(lambda local: '"' + local.replace("\\", "\\\\").replace('"', '\\"') + '"'),
    ),
    st.sampled_from(
        [*RELAY_DOMAINS, "sub.example.com", "b\u00fccher.example", "fa\u00df.example", "m\u00fcnchen.example.com"]
    ),
).map("@".join)


def usable(spelled: str) -> str | None:
    """Give the canonical form, or None where there is none."""
    try:
        return normalise.canonical(spelled)
    except normalise.UnusableError:
        return None


@pytest.fixture(scope="module")
def lmdb() -> Iterator[Path]:
    """A place for an lmdb map, with a Postfix configuration beside it."""
    need_postmap("lmdb")
    with tempfile.TemporaryDirectory(prefix="mapfile-") as name:
        minimal_config(Path(name) / "postfix")
        yield Path(name) / "map"


def as_postmap_reads(place: Path, text: bytes) -> set[bytes]:
    """Give the lines ``key TAB value`` of the index that postmap makes of a text."""
    place.write_bytes(text)
    config = place.parent / "postfix"
    postmap_build(config, f"lmdb:{place}")
    return set(run_postfix("postmap", "-c", config, "-s", f"lmdb:{place}").split(b"\n")[:-1])


def as_we_read(text: bytes) -> set[bytes]:
    """Give the same by our parser; of several lines with one key Postfix takes the first."""
    found: dict[bytes, bytes] = {}
    for _, line in mapfile.logical_lines(lines_of(text)):
        parts = mapfile.split(line)
        if parts and all(parts) and is_utf8(line):  # Postfix passes over a line that is not, in key or value
            found.setdefault(parts[0].decode().casefold().encode(), parts[1])
    return {key + b"\t" + value for key, value in found.items()}


def lines_of(text: bytes) -> Iterator[bytes]:
    """Give the lines as a binary file does: cut at line feeds and nowhere else."""
    return iter(io.BytesIO(text))


def is_utf8(octets: bytes) -> bool:
    """Whether the octets are UTF-8."""
    try:
        octets.decode()
    except UnicodeDecodeError:
        return False
    return True


@settings(max_examples=400, deadline=None)
@given(text=texts)
@example(text=b"a@example.com OK\n# comment\n\n  continued\nb@example.com OK")
@example(text=b"a@example.com OK\n # comment after white space\n\t#\n more\nb@example.com OK\n")
@example(text=b"  first line continues nothing OK\na@example.com OK\n")
@example(text=b'"a b"@example.com OK\n"open@example.com OK\n"a\\"b"@example.com OK\n')
@example(text=b"back\\ slash@example.com OK\nend@example.com OK\\\n")
@example(text=b"a@example.com\rb@example.com OK\n")
@example(text=b"a@example.com\vb\nc@example.com\fd\n")
@example(text=b"a@example.com OK\r\nb@example.com\r\n")
@example(text=b"a@example.com OK\nA@EXAMPLE.COM other\n")
@example(text=b"novalue@example.com\nnovalue2@example.com \t\n")
@example(text="Stra\u00dfe@example.com OK\n\u00a0nbsp@example.com OK\nnel\u0085@example.com OK\n".encode())
def test_keys_and_values_are_those_that_postmap_reads(lmdb: Path, text: bytes) -> None:
    """Comments, continuations, quotes, backslashes and white space mean to us what they mean to postmap."""
    assert as_we_read(text) == as_postmap_reads(lmdb, text)


@settings(max_examples=200, deadline=None)
@given(text=table_texts)
@example(text=b"a@example.com OK \xff\n")
@example(text=b"a@example.com\rb@example.com OK\n")
def test_a_text_publishes_what_postmap_indexes(lmdb: Path, text: bytes) -> None:
    """What is adopted from a foreign text is what Postfix answers for, as far as it is an address, and no more."""
    dead = mapfile.Dead()
    adopted = set(mapfile.published(lines_of(text), ["example.com"], dead))
    indexed = {line.partition(b"\t")[0] for line in as_postmap_reads(lmdb, text)}
    assert adopted == {key + b"\n" for key in indexed if b"@" in key[:-1]}


@settings(max_examples=300)
@given(spelled=st.lists(spellings, max_size=5))
def test_what_is_rendered_is_read_back(spelled: list[str]) -> None:
    """A text that was rendered publishes the recipients that it was rendered from, IDN ones once."""
    recipients = sorted({address.encode() + b"\n" for address in map(usable, spelled) if address})
    text = mapfile.HEADER + b"".join(mapfile.render([*recipients, *mapfile.second_forms(recipients)]))
    dead = mapfile.Dead()
    assert set(mapfile.published(lines_of(text), RELAY_DOMAINS, dead)) == set(recipients)
    assert dead.count == 0
