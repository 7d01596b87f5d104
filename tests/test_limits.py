"""What is too long, too many or too deep is refused with its size and the limit, and nobody is lost by it."""

import json
import math
import time
from pathlib import Path

import pytest

from syncagent import addresses as normalise
from syncagent.errors import FailureKind, LineTooLongError, SourceError
from syncagent.files import atomic
from syncagent.files.atomic import UnfitFileError
from syncagent.postfix import table_text as mapfile
from syncagent.sources.http.client import Response
from syncagent.sources.http.recipe import json_path
from syncagent.sources.line_formats import FORMATS, FormatOptions, Input
from syncagent.values import toml_syntax
from tests.scenario import Scenario, people
from tests.support.awkward import Sink

LIMIT = normalise.MAX_SPELLED
OLD = people(40)


@pytest.mark.parametrize("fill", [" ", "\u00a0", "\u0301\u0323", "ü", "中", "😀", "\ud800", "\0", '"\\'])
def test_a_spelling_at_the_limit(fill: str) -> None:
    """One octet more than the limit is refused for its length, whatever it is made of; the limit itself is not."""
    size = len(fill.encode(errors="surrogatepass"))
    end = "a" * ((LIMIT - 12) % size) + "@example.com"
    at_limit = fill * ((LIMIT - len(end)) // size) + end
    assert len(at_limit.encode(errors="surrogatepass")) == LIMIT
    assert not normalise.too_long(at_limit)
    for refused in (normalise.canonical, normalise.canonical_domain):
        with pytest.raises(normalise.UnusableError, match=f"^is {LIMIT + 1} octets long, over the {LIMIT} "):
            refused(f"x{at_limit}")
    assert normalise.canonical_all([f"x{at_limit}"]) is None
    assert normalise.domain_or_same(f"x{at_limit}") == f"x{at_limit}"


def test_a_usable_spelling_at_the_limit() -> None:
    """White space around an address counts, and is all that makes a usable one so long."""
    assert normalise.canonical("A@example.com".rjust(LIMIT)) == "a@example.com"


@pytest.mark.parametrize(
    ("spelled", "folded"),
    [("\u1112\u1175\u11c2" * 160, "힣" * 160), ("\u212a" * 490, "k" * 490), ("e\u0301" * 240, "é" * 240)],
)
def test_what_normalization_shortens(spelled: str, folded: str) -> None:
    """A local part that fits a key only once it is normalized and folded is no reject."""
    assert normalise.canonical(f"{spelled}@a.example") == f"{folded}@a.example"


def test_a_relay_domain_is_found_at_the_end_of_anything() -> None:
    """However many labels there are, the relay domain that they end in is found, and no part of a label is one."""
    relay = frozenset({"example.com"})
    assert normalise.within("a." * 500_000 + "example.com", relay) == "example.com"
    assert normalise.within("." + "x" * LIMIT + "example.com", relay) is None
    assert normalise.within("x" * LIMIT + "." + "y" * (LIMIT - 11) + "example.com", relay) is None


@pytest.mark.parametrize("continued", [0, 300_000])
def test_a_logical_line_of_over_a_megabyte(continued: int) -> None:
    """It is refused with its number, before all of it is in memory; one of a megabyte is read."""
    lines = [b"a@example.com OK\n", b"b@example.com OK", *[b" OKAY"] * continued, b" " * (0 if continued else 1 << 20)]
    lines = [lines[0], lines[1] + lines[-1], *lines[2:-1]]
    with pytest.raises(LineTooLongError, match="over 1048576 octets, with what continues it, from line 2 on"):
        list(mapfile.logical_lines(lines))
    assert len(list(mapfile.logical_lines([lines[0], b"b@example.com OK", *[b" OKAY"] * 200_000]))) == 2


@pytest.mark.parametrize("start", [b"b@example.com ", b"#", b" "])
def test_an_adopted_map_with_such_a_line(tmp_path: Path, start: bytes) -> None:
    """A map that another hand wrote is not replaced while a line of it cannot be read: what it has is not guessed."""
    mx = Scenario(tmp_path)
    mx.write("corp", OLD)
    mx.map.write_bytes(b"a@example.com OK\n" + start + b"x" * (1 << 20) + b"\nc@example.com OK\n")
    before = mx.map.read_bytes()
    said = mx.say("sync", code=73)
    assert "a line of over 1048576 octets, line 2" in said.stdout + said.stderr
    assert mx.map.read_bytes() == before


@pytest.mark.parametrize("name", ["postmap", "aliases"])
def test_a_table_source_with_such_a_line(name: str) -> None:
    """The source fails: what the line begins and where it ends is not guessed."""
    reading = Input(Sink(), FormatOptions(("example.com",)), "corp.list", "")  # type: ignore[arg-type]
    with pytest.raises(SourceError, match=r"corp\.list contains a line of over 1048576 octets") as caught:
        list(FORMATS[name]([b"a: x\n", *[b" b\n"] * 600_000], reading))
    assert caught.value.kind is FailureKind.BROKEN


@pytest.mark.parametrize("name", ["lines", "postmap", "aliases", "passwd", "csv"])
def test_a_long_value_in_each_format(tmp_path: Path, name: str) -> None:
    """It is one reject, whatever number of domains would complete it, with its start alone; the others are in."""
    long = "\u0301\u0323" * 2000
    texts = {
        "lines": f"{long}\nuser000\n",
        "postmap": f"{long} OK\nuser000 OK\n",
        "aliases": f"{long}: x\nuser000: x\n",
        "passwd": f"{long}:x:1000:1:::\nuser000:x:1000:1:::\n",
        "csv": f"mail,x\n{long},y\nuser000,z\n",
    }
    mx = Scenario(tmp_path, relay_domains=["example.com", "example.net"])
    mx.sources["corp"] |= {"format": name, "domains": ["example.com", "example.net"]}
    mx.sources["corp"] |= {"column": "mail"} if name == "csv" else {}
    mx.file("corp").write_text(texts[name], "utf-8")
    mx.say("sync", "--accept-incomplete", code=65)
    result = mx.sync_unchecked(65)
    assert result.rejected == 1
    assert "is 8000 octets long, over the 4096" in result.reject_sample[0].reason
    assert len(result.reject_sample[0].spelled) < 5000
    assert mx.published() == {"user000@example.com", "user000@example.net"}


def test_a_heading_with_a_long_domain(tmp_path: Path) -> None:
    """It is left out and told; the domains beside it are known."""
    mx = Scenario(tmp_path)
    mx.postfix = {"domains_map": f"lmdb:{tmp_path / 'relay_domains'}", "allow_domains": ["*.net"]}
    long = "\u0301\u0323" * 75_000
    mx.file("corp").write_text(f"# domains: {long}.net, example.net\na@example.net\na@example.com\n", "utf-8")
    result = mx.sync_unchecked(0)
    (note,) = (note for note in result.sources[0].notes if "left out" in note)
    assert "300004 octets" in note
    assert len(note) < 1000
    assert mx.published() == {"a@example.net", "a@example.com"}


def test_explaining_a_long_value(tmp_path: Path) -> None:
    """What is too long is told so, and which source has it, without the whole of it on the screen."""
    mx = Scenario(tmp_path)
    long = "\u0301\u0323" * 5000 + "@example.com"
    mx.file("corp").write_text(f"a@example.com\n{long}\n", "utf-8")
    mx.sync_unchecked(65)
    said = mx.say("explain", long)
    assert "No table can have it: it is 20012 octets long, over the 4096" in said.stdout
    assert f"line 2 of {mx.file('corp')} has it, rejected because it is 20012 octets long" in said.stdout
    assert len(said.stdout) < 5000
    for verb in ("plan", "status", "check"):
        assert len(mx.say(verb, code=None).stdout) < 30_000


def _response(body: bytes, *, most: int = 64 << 20, ends: float = math.inf) -> Response:
    return Response("https://example.com/", 200, {}, iter([body]), most, ends)


def test_many_values_in_an_answer() -> None:
    """An answer of too many values for memory is refused before it is decoded, and the remedy is named."""
    with pytest.raises(SourceError, match="raise max_body") as caught:
        _response(b"[" + b"{}," * 5_000_000 + b"{}]").json()
    assert caught.value.kind is FailureKind.BROKEN
    rows = [{"mail": f"user{number}@example.com", "active": True, "quota": 1024} for number in range(20_000)]
    body = json.dumps(rows).encode()
    assert _response(body, most=len(body)).json() == rows


def test_the_deadline_passes_while_an_answer_is_decoded() -> None:
    """It is looked at while objects are made."""
    body = json.dumps([{"a": number} for number in range(5000)]).encode()
    with pytest.raises(SourceError, match="decoding the answer takes longer than the source's deadline"):
        _response(body, ends=time.monotonic() - 1).json()


NO_JSON = {
    "digits": (b"[" + b"1" * 5000 + b"]", "a number has 5000 digits"),
    "depth": (b"[" * 50_000, "nested too deeply"),
    "half a pair": (b'["\\ud800"]', "not valid JSON"),
    "the other half": (b'{"\\udc00": 1}', "not valid JSON"),
    "NaN": (b"[NaN]", "out of range"),
}


@pytest.mark.parametrize("what", NO_JSON)
def test_what_no_answer_may_have(what: str) -> None:
    """It is refused in words of our own."""
    body, why = NO_JSON[what]
    with pytest.raises(SourceError, match=why):
        _response(body).json()


def test_pairs_of_surrogates() -> None:
    """A whole pair is a character, and a backslash before an escape makes it none."""
    assert _response(b'["\\ud83d\\ude00", "\\\\ud800"]').json() == ["😀", "\\ud800"]


def test_a_long_path() -> None:
    """A path is as long as a spelling at most."""
    assert len(json_path.parse("a." * 2047 + "a")) == 2048
    with pytest.raises(json_path.PathError, match="a path of 4097 characters is longer than 4096"):
        json_path.parse("a" * 4097)
    with pytest.raises(json_path.PathError):
        json_path.parse(f"a[{'1' * 5000}]")


TOML = {
    "parts": ("a." * 200 + "a = 1", "a key has over 40 parts"),
    "quoted parts": ('"a" . ' * 200 + "a = 1", "a key has over 40 parts"),
    "depth": ("a = " + "[" * 50_000, "nested too deeply"),
    "digits": (f"a = {'1' * 5000}", "too many digits"),
}


@pytest.mark.parametrize("what", TOML)
def test_toml(what: str) -> None:
    """What Python's parser is slow or wordless on is refused."""
    text, why = TOML[what]
    with pytest.raises(ValueError, match=why):
        toml_syntax.parse(text)


def test_lines_of_a_file(tmp_path: Path) -> None:
    """Of a line without an end no more than a megabyte is read."""
    file = tmp_path / "table"
    with file.open("wb") as table:
        table.write(b"a@example.com OK\n")
        table.truncate(1 << 34)
    with file.open("rb") as table:
        lines = atomic.lines_of(table)
        assert next(lines) == b"a@example.com OK\n"
        with pytest.raises(UnfitFileError, match="a line of over 1048576 octets"):
            next(lines)


@pytest.mark.parametrize("part", ["a", '"a"', "'a'", r'"\""', r'"\\"', r'"\u0022."'])
@pytest.mark.parametrize("where", ["{} = 1", "[{}]", "[[{}]]", "a = {{ {} = 1 }}"])
def test_a_key_of_many_parts_however_it_is_spelled(part: str, where: str) -> None:
    """The cost of a key grows with the square of its parts; a quote in a part hides none of them."""
    assert toml_syntax.parse(where.format(".".join([part] * 40)))
    with pytest.raises(ValueError, match="a key has over 40 parts"):
        toml_syntax.parse(where.format(".".join([part] * 41)))


def test_quotes_that_are_escaped_cost_no_more_than_others() -> None:
    """Each could begin a part, and its end is looked for once."""
    begun = time.process_time()
    assert toml_syntax.parse('a = "' + '\\"' * 1_000_000 + '"')
    assert time.process_time() - begun < 30
