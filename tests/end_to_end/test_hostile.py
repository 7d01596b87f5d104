"""Whatever octets a source has, they make no other line and no other key, and stop no build."""

import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import Phase, example, given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from syncagent.addresses import renderings
from syncagent.config import load as config
from syncagent.model import Entry, SyncResult
from syncagent.sources import Answer, Request
from syncagent.sync.run import Options, sync_once
from tests.support.need import need_postmap
from tests.support.postfix import minimal_config, postmap_keys
from tests.support.postmap import postmap_query, settle

IOTA = "\N{GREEK SMALL LETTER IOTA WITH DIALYTIKA AND TONOS}"
"""Two octets, and six once Postfix has folded it."""

NO_SHRINKING = (Phase.explicit, Phase.reuse, Phase.generate)
"""An example is a whole run: a failing one is told as it was found, not after minutes of making it smaller."""

NASTY = b'\n\r\t\v\f \x01\x1c\x1f\x7f"\\#@.,:;<>()%!'
DOMAINS = ("example.com", "sub.example.com", "b\u00fccher.example", "xn--bcher-kva.example", "fa\u00df.example")

octets = st.one_of(
    st.sampled_from([bytes((octet,)) for octet in NASTY]),
    st.sampled_from([b"OK", b" OK\n", b"@example.com", b"#", b"\xef\xbb\xbf", b"\xff", b"\xe2\x80\xa8", b"\xc2\x85"]),
    st.integers(1, 255).map(lambda octet: bytes((octet,))),
    st.characters(exclude_categories=["Cs"], exclude_characters="\0").map(str.encode),
)
junk = st.lists(octets, max_size=30).map(b"".join)
long_local = st.tuples(
    st.sampled_from(["a", '"', "\\", " ", "\u00fc", IOTA, "\N{LATIN CAPITAL LETTER SHARP S}"]),
    st.integers(75, 260),
).map(lambda parts: parts[0] * parts[1])
any_local = st.one_of(junk, long_local.map(str.encode), st.integers(485, 515).map(lambda count: b"l" * count))
quoted = any_local.map(lambda local: b'"' + local + b'"')
long_domain = st.tuples(
    st.sampled_from(["a", IOTA, "\u00df", "\u00fc", "\u03c2"]), st.integers(1, 52), st.integers(1, 4)
).map(lambda parts: ".".join([parts[0] * parts[1]] * parts[2]) + ".example.com")
any_domain = st.one_of(st.sampled_from(DOMAINS), long_domain).map(str.encode)
addressed = st.tuples(st.one_of(any_local, quoted), any_domain).map(b"@".join)
lines = st.lists(st.one_of(addressed, addressed, junk), max_size=6)
valid_addresses = st.lists(
    st.from_regex(r"[a-z0-9]{1,12}(\.[a-z0-9]{1,4})?@(sub\.)?example\.com", fullmatch=True),
    min_size=1,
    max_size=3,
)


@pytest.mark.parametrize("map_type", ["lmdb", "hash"])
@settings(max_examples=60, deadline=None, phases=NO_SHRINKING)
@given(hostile=lines, valid=valid_addresses)
@example(hostile=[b'"a"@example.com OK\nsecond@example.com', b'"b\nc"@example.com'], valid=["v@example.com"])
@example(hostile=[b'"open@example.com', b'open"@example.com', b'"a\\"@example.com'], valid=["v@example.com"])
@example(hostile=[IOTA.encode() * 90 + b"@example.com"], valid=["v@example.com"])
@example(hostile=[b"l" * 499 + b"@example.com", b"l" * 498 + b"@example.com"], valid=["v@example.com"])
@example(hostile=[b"@example.com", b"@", b'""@example.com', b"@b\xc3\xbccher.example"], valid=["v@example.com"])
@example(hostile=[b"a@example.com\rb@example.com", b"a@example.com\vb@example.com"], valid=["v@example.com"])
def test_the_index_has_what_was_published_and_nothing_else(
    map_type: str, hostile: list[bytes], valid: list[str]
) -> None:
    """The keys in the index are those of the recipients on record, and what is valid is always among them."""
    check(map_type, hostile, valid)


@settings(max_examples=30, deadline=None, phases=NO_SHRINKING)
@given(
    hostile=st.lists(
        st.tuples(st.one_of(addressed, junk), st.sampled_from([b"", b" OK", b"\tOK"])).map(b"".join), max_size=6
    ),
    valid=valid_addresses,
)
@example(hostile=[b'"open@example.com OK'], valid=["v@example.com"])
@example(hostile=[b'"a@example.com', b' b"@example.com OK'], valid=["v@example.com"])
@example(hostile=[b"a@example.com", b" OK b@example.com", b"\tc@example.com OK"], valid=["v@example.com"])
@example(hostile=[b"a@example.com\rb@example.com OK"], valid=["v@example.com"])
def test_the_same_for_a_table(hostile: list[bytes], valid: list[str]) -> None:
    """A source in the form of a Postfix table is as harmless."""
    check("lmdb", hostile, valid, form="postmap")


@pytest.mark.parametrize("map_type", ["lmdb", "hash"])
def test_a_domain_that_grows_when_folded_stops_no_build(map_type: str) -> None:
    """A U-label key is measured as Postfix folds it: a domain can grow as well as a local part."""
    check(map_type, [f"u@{'.'.join([IOTA * 50] * 3)}.example.com".encode()], ["valid@example.com"])


@pytest.mark.parametrize("map_type", ["btree", "cdb", "texthash"])
def test_on_the_other_map_types(map_type: str) -> None:
    """One list with every trick in it is published on the other map types as well, the valid ones among it."""
    tricks = [
        b'"a"@example.com OK\nsecond@example.com OK',
        b'"' + bytes(NASTY.replace(b"\n", b"").replace(b'"', b"").replace(b"\\", b"")) + b'"@example.com',
        b'"open@example.com',
        b" continued@example.com OK",
        b"#comment@example.com",
        b'"#comment"@example.com',
        b"\xff@example.com",
        IOTA.encode() * 90 + b"@example.com",
        "b\u00fccher@b\u00fccher.example".encode(),
    ]
    check(map_type, tricks, ["valid@example.com"])


OUTSIDE = [f"user{number}@elsewhere.test" for number in range(40)]
"""Entries outside the relay domains: a source with more rejected entries than others would fail."""
texts = st.one_of(
    addressed.map(lambda raw: raw.decode("utf-8", "surrogateescape")),
    st.tuples(st.text(st.characters(codec=None), max_size=8), st.sampled_from(DOMAINS)).map("@".join),
    st.text(st.sampled_from('ab@\n\0\r\t"\\ #\ud800'), max_size=8),
)


@dataclass(frozen=True)
class Saying:
    """A source that says these entries: unlike a file, it can have a line break or a NUL in one."""

    entries: Sequence[Entry]

    def fetch(self, request: Request) -> Answer:
        """Say them."""
        request.sink.put(self.entries)
        return Answer()


@settings(max_examples=40, deadline=None, phases=NO_SHRINKING)
@given(hostile=st.lists(st.tuples(texts, texts, texts), max_size=6), valid=valid_addresses)
@example(hostile=[("a@example.com\nb@example.com", "", "")], valid=["v@example.com"])
@example(hostile=[("c@example.com\n", "", ""), ("\nd@example.com", "", "")], valid=["v@example.com"])
@example(hostile=[('"d\nx OK"@example.com', "\n@example.com\t", "\0\n\t")], valid=["v@example.com"])
@example(hostile=[("e@example.com", "key\tf@example.com\n", "g@example.com\n\th")], valid=["v@example.com"])
@example(hostile=[('"\0"@example.com', "", "")], valid=["v@example.com"])
@example(hostile=[("i\ud800@example.com", "\ud800", "\ud800")], valid=["v@example.com"])
def test_the_same_for_any_text_from_any_source(hostile: list[Entry], valid: list[str]) -> None:
    """Neither an entry nor its key or label makes another line, be there line breaks, NULs or surrogates in them."""
    check("lmdb", [], valid, entries=[*hostile, *((address, "", "") for address in [*valid, *OUTSIDE])])


def check(
    map_type: str,
    hostile: Iterable[bytes],
    valid: list[str],
    *,
    form: str = "lines",
    entries: Sequence[Entry] | None = None,
) -> None:
    """Publish the lines (or the entries) in a folder of their own and compare the index with what is on record."""
    need_postmap(map_type)
    with tempfile.TemporaryDirectory(prefix="hostile-") as name:
        folder = Path(name)
        postfix = minimal_config(folder / "postfix")
        value = b"" if form == "lines" else b" OK"
        mixed = [*(address.encode() + value for address in OUTSIDE), *hostile]
        mixed += [address.encode() + value for address in valid]
        (folder / "recipients").write_bytes(b"".join(line + b"\n" for line in mixed))
        result = publish(folder, map_type, postfix, form, entries)
        assert (result.status, result.error) == ("published", "")
        assert [(one.state, one.error) for one in result.sources] == [("whole", "")]
        (listed,) = (folder / "state" / "lists").glob("published-*")
        recipients = listed.read_text("utf-8").split("\n")[:-2]  # the last line is the end line
        assert len(recipients) == result.recipients
        assert {address.casefold() for address in valid} <= set(recipients)
        keys = sorted({form.casefold().encode() for address in recipients for form in renderings(address)})
        text = folder / "map"
        assert text.read_bytes().split(b"\n")[1:-1] == [key + b" OK" for key in keys]
        settle(text)
        if map_type in {"cdb", "texthash"}:
            assert all(postmap_query(postfix, f"{map_type}:{text}", key) == b"OK" for key in keys)
        else:
            assert sorted(postmap_keys(postfix, f"{map_type}:{text}")) == keys


def publish(folder: Path, map_type: str, postfix: Path, form: str, entries: Sequence[Entry] | None) -> SyncResult:
    """Do one run in a folder, from the list to the map."""
    file = folder / "syncagent.toml"
    file.write_text(
        f"""\
[postfix]
map = "{map_type}:{folder}/map"
relay_domains = ["example.com", "b\u00fccher.example", "fa\u00df.example"]
config_directory = "{postfix}"
reload = false

[limits]
removal_grace = "0s"

[state]
directory = "{folder}/state"

[sources.list]
type = "file"
path = "{folder}/recipients"
format = "{form}"
domains = ["example.com"]
allow_empty = true
""",
        encoding="utf-8",
    )
    loaded = config.load(file)
    if entries is not None:
        source = replace(loaded.sources["list"], build=lambda _: Saying(entries))
        loaded = replace(loaded, sources={"list": source})
    return sync_once(loaded, Options(accept_incomplete=True))
