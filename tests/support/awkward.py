"""Awkward input for every parser, and what it costs: run as a program, with a directory and the name of some sizes.

Reads names of parsers, one a line. Prints a line as JSON before and after each class of input, and one after the
parser. A class that takes more than its ceiling, in seconds of the processor, ends the process by SIGPROF, so that a
parser that never ends is a failure and not a hang. The ceiling judges nothing else: the ratio of two costs does.
"""

import collections
import contextlib
import functools
import json
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

from syncagent import addresses as normalise
from syncagent import errors as wrong
from syncagent.config.tables import Config
from syncagent.postfix import main_cf as mainconf
from syncagent.postfix import table_text as mapfile
from syncagent.sources.http import plain_list
from syncagent.sources.http.client import Response
from syncagent.sources.http.recipe import conditions, json_path, model, pagination, validate
from syncagent.sources.http.recipe.run import Limits, run_recipe
from syncagent.sources.integrity import Heading, whole_text
from syncagent.sources.ldap import content_sync, entries, full_search
from syncagent.sources.line_formats import FORMATS, FormatOptions, Input
from syncagent.state import fields, snapshot
from syncagent.sync import relay_domains as domains
from syncagent.sync import tables
from syncagent.values import toml_syntax
from syncagent.values import types as values
from syncagent.values.cron import Cron


class Sizes(NamedTuple):
    """Octets of the small and the big input, and the seconds of the processor after which a class is given up."""

    small: int
    big: int
    ceiling: float


SIZES = {"128 KiB": Sizes(16 << 10, 128 << 10, 600), "1 MiB": Sizes(128 << 10, 1 << 20, 6000)}
"""The big one has eight times the octets of the small one."""
TIMES = 16
"""How many times the processor time of the small one the big one may cost at most: quadratic is 64."""
FLOOR = 0.005
"""Seconds: a small one counts as no cheaper, so that noise cannot fail a parser that costs next to nothing."""
TRIES = 7
"""A class is linear if one try finds it so. The small and the big one of a try are measured one after the other."""


class Cost(NamedTuple):
    """Processor seconds of the small and of the big input in the try that looks most linear."""

    small: float
    big: float

    def ratio(self) -> float:
        """Return how many times the small one the big one costs."""
        return self.big / max(self.small, FLOOR)

    def is_linear(self) -> bool:
        """True if eight times the input cost less than sixteen times the time."""
        return self.ratio() < TIMES


def _repeat(unit: str, *, start: str = "", end: str = "") -> Callable[[int], str]:
    size = len(unit.encode(errors="surrogatepass"))
    return lambda octets: f"{start}{unit * (octets // size)}{end}"


CLASSES: dict[str, Callable[[int], str]] = {
    "combining marks": _repeat("\u0301\u0323"),
    "marks on a letter": _repeat("\u0301\u0323", start="e"),
    "marks of 4 KiB a line": _repeat("\u0301\u0323" * 1020 + "@example.com\n"),
    "marks of 2 KiB a line": _repeat("\u0301\u0323" * 500 + "@example.com\n"),
    "one letter": _repeat("a"),
    "one letter, not ASCII": _repeat("ü"),
    "continuation lines": _repeat(" a\n", start="a@example.com OK\n"),
    "comments between": _repeat("#\n b\n", start="a@example.com OK\n"),
    "short lines": _repeat("a\n"),
    "addresses": _repeat("a@example.com\n"),
    "quotes and backslashes": _repeat('"\\'),
    "backslashes in quotes": _repeat("\\\\", start='"'),
    "quotes": _repeat('"'),
    "an open quote": _repeat("a", start='"'),
    "single quotes": _repeat("''", start="( 1.1 NAME ( "),
    "many names": _repeat("NAME  ( 'a' "),
    "brackets": _repeat("["),
    "brackets closed": lambda octets: "[" * (octets // 2) + "]" * (octets // 2),
    "braces": _repeat("{"),
    "braces closed": _repeat("{}"),
    "placeholders": _repeat("{a}"),
    "parentheses": _repeat("("),
    "angles": _repeat("<"),
    "dots": _repeat("."),
    "labels": _repeat("a."),
    "dotted quotes": _repeat('"a".'),
    "U-labels": _repeat("ü."),
    "A-labels": _repeat("xn--tda."),
    "xn--": _repeat("xn--"),
    "@": _repeat("@"),
    "addresses without end": _repeat("a@b.example"),
    "#": _repeat("#"),
    "commas": _repeat(","),
    "semicolons": _repeat("; a="),
    "colons": _repeat(":"),
    "equal signs": _repeat("a ="),
    "tabs": _repeat("\t"),
    "spaces": _repeat(" ", start="a", end="b"),
    "carriage returns": _repeat("\r"),
    "NULs": _repeat("\0"),
    "joiners and directions": _repeat("\u200d\u202e"),
    "soft hyphens": _repeat("\u00ad"),
    "ligatures": _repeat("\ufb03"),
    "Hangul": _repeat("\u1112\u1175\u11c2"),
    "halves of pairs": _repeat("\ud800"),
    "empty objects": lambda octets: "[" + ",".join(["{}"] * (octets // 3)) + "]",
    "nested objects": _repeat('{"a":'),
    "digits": _repeat("1"),
    "a long fraction": _repeat("1", start="1."),
    "escapes": _repeat("\\u0041", start='"', end='"'),
    "pairs escaped": _repeat("\\ud83d\\ude00", start='"', end='"'),
    "a name often": lambda octets: "{" + ",".join(['"a":1'] * (octets // 6)) + "}",
    "many names in an object": lambda octets: "{" + ",".join(f'"{at:x}":1' for at in range(octets // 10)) + "}",
    "indexes": _repeat("[0]"),
    "an index": _repeat("1", start="[", end="]"),
    "question marks": _repeat("a?."),
    "links": _repeat("<https://example.com/>; rel=x, "),
    "a link's parameters": _repeat('; a="\\"" ', start="<x>"),
    "relations": _repeat("; rel=", start="<x>"),
    "path segments": _repeat("/../a"),
    "percent signs": _repeat("%41"),
    "passwd": _repeat("a:x:1000:1:::\n"),
    "cron": _repeat("*/2,"),
    "durations": _repeat("1s"),
    "stars": _repeat("*a"),
}


class Sink:
    """Takes everything and keeps nothing."""

    def put(self, entries: Iterable[object]) -> None:
        """Take."""
        for _ in entries:
            pass

    def reject(self, *_: str) -> None:
        """Take."""

    def ignore(self, _count: int, _cause: str = "") -> None:
        """Take."""

    def restart(self) -> None:
        """Take."""

    forget = retain = refuse = put


Parser = Callable[[str], object]
PARSERS: dict[str, Parser] = {}


def _parser(read: Parser) -> Parser:
    PARSERS[read.__name__] = read
    return read


def _raw(text: str) -> bytes:
    return text.encode(errors="surrogatepass")


def _each(functions: Iterable[Callable[[Any], object]], inputs: Iterable[Any]) -> None:
    """Call each function with each input; what it refuses is refused, in not too many words."""
    several = list(inputs)
    for function in functions:
        for one in several:
            said = ""
            try:
                function(one)
            except (ValueError, wrong.SyncagentError) as error:
                said = str(error)
            assert len(said) < 50_000, said[:200]


def _as_address(text: str) -> tuple[str, ...]:
    return text, f"{text}@example.com", f'"{text}"@example.com', f"a@{text}", f"a@{text}.example.com"


@_parser
def canonical(text: str) -> None:
    """An address."""
    _each([normalise.canonical, values.Address.parse], _as_address(text))


@_parser
def canonical_all(text: str) -> None:
    """Many addresses at once."""
    _each([normalise.canonical_all], [[one, "a@example.com"] for one in _as_address(text)])


@_parser
def domain(text: str) -> None:
    """A domain, from a source or the configuration."""
    several = (text, f"{text}.example.com", f"@{text}")
    run: Any = SimpleNamespace(id="", now=0.0)
    postfix: Any = SimpleNamespace(relay_domains=(), allow_domains=("*",))
    _each([normalise.canonical_domain, normalise.domain_or_same, values.Domain.parse], several)
    _each(
        [lambda one: domains.decide(postfix, _reporting(one), frozenset(), {}, run, parting=domains.Parting())], several
    )


def _reporting(domain: str) -> Any:  # noqa: ANN401 - as much of an answer as is looked at
    report, state = SimpleNamespace(name="corp"), SimpleNamespace(domains=(domain,))
    return [SimpleNamespace(report=report, state=state, is_failing=False)]


@_parser
def within(text: str) -> None:
    """The relay domain of a domain, and the second form of an address."""
    relay = frozenset({"example.com"})
    _each([lambda one: normalise.within(one, relay)], (text, f"{text}.example.com", f"{text}.com"))
    _each([normalise.renderings, normalise.longest_key], (f"a@{text[:255]}", f"{text}@example.com"))


@_parser
def table(text: str) -> None:
    """The text of a map that another hand wrote."""
    relay = ("example.com", "xn--tda.example")
    several = [_raw(one) for one in (text, *(f"{one} OK" for one in _as_address(text)))]
    _each([lambda one: list(mapfile.published(_physical(one), relay, mapfile.Dead()))], several)
    _each([mapfile.split, lambda one: mapfile.recipient(one, {"ü.example": "xn--tda.example"})], several)
    with tempfile.TemporaryDirectory() as directory:
        file = Path(directory, "domains")
        for one in several:
            file.write_bytes(one)
            with contextlib.suppress(wrong.SyncagentError, OSError):
                tables.in_text(file)


def _physical(octets: bytes) -> Iterator[bytes]:
    return iter(octets.splitlines(keepends=True))


def _chunks(octets: bytes, size: int) -> Iterator[bytes]:
    return (octets[at : at + size] for at in range(0, len(octets), size))


def _format(name: str, text: str) -> None:
    many = tuple(f"d{number}.example" for number in range(3))
    for own in ((), many):
        config = FormatOptions(own, 1000, "mail", ",")
        for start in ("", "mail\n") if name == "csv" else ("",):
            for size in (1 << 18, 64):
                chunks = whole_text(_chunks(_raw(start + text), size), "x", require_end=False)
                sink: Any = Sink()
                with contextlib.suppress(wrong.SyncagentError):
                    for batch in FORMATS[name](chunks, Input(sink, config, "x", "")):
                        sink.put(batch)


for _name in FORMATS:
    PARSERS[f"format {_name}"] = functools.partial(_format, _name)


@_parser
def heading(text: str) -> None:
    """The first lines of a list."""
    for start in ("# domains: ", "#", "# domains", "# made: ", "# made:2026-11-28T14:05:00Z", "#\n# expires:"):
        passing = Heading("x")
        with contextlib.suppress(wrong.SyncagentError):
            for _ in passing.through([_raw(start + text)]):
                pass
        _each([lambda one: one.domains], [passing])


@_parser
def writer(text: str) -> None:
    """What keeps the answer of a source."""
    with tempfile.TemporaryDirectory() as spool:
        sink = snapshot.SnapshotWriter(Path(spool), ignore_catch_alls=False)
        sink.put([(f"{text}@example.com", "1", ""), ("a@example.com", text, ""), ("b@example.com", "2", text)])
        sink.put([(text, text, text)])
        sink.reject(text, "is " + text, text)
        kept = sink.finish(Path(spool, "kept"), allow_empty=True)
        assert max(map(len, Path(spool, kept.file).read_bytes().splitlines())) < 40_000  # a reject has 4 KiB, escaped
        assert kept.entries >= 2


@_parser
def escaped(text: str) -> None:
    """What people are shown."""
    fields.unescape(fields.escape(text))
    assert len(str(wrong.SourceError(text))) < 50_000


@_parser
def json_body(text: str) -> None:
    """The body of an answer, decoded."""
    for chunk in (1 << 16, 64):
        response = Response("https://example.com/", 200, {}, _chunks(_raw(text), chunk), 64 << 20)
        with contextlib.suppress(wrong.SourceError):
            response.json()


RECIPE = """
title = "t"
auth = { kind = "none" }
[[steps]]
name = "some"
path = "/some"
list = "@"
key = "id?"
emit = [
  { kind = "address", value = "mail", suffixes = ["-a", "-b"], only_prefix = "smtp:" },
  { kind = "address", template = "{mail}@{mail}" },
  { kind = "domain", value = "mail" },
  { kind = "alias_domain", value = "mail", to = "of" },
  { kind = "pattern", value = "mail" },
  { kind = "accept_all", value = "mail" },
]
[[steps]]
name = "each"
path = "/each/{each}"
for_each = "some.mail"
list = "@"
"""


class _Primary:
    def __init__(self, body: object) -> None:
        self._body = body

    def start(self, _step: object, _each: str) -> pagination.Place:
        return pagination.Place("https://example.com/", {})

    def page(self, step: model.Step, _place: object, _each: str) -> tuple[object, str]:
        return (self._body if step.name == "some" else []), ""


@_parser
def values_of_an_api(text: str) -> None:
    """A value in the body of an answer, on its way through a recipe."""
    from syncagent.sources import Request

    if "\ud800" in text:
        return  # no body has it: see json_body
    several = (text, f"{text}@example.com")
    records: list[dict[str, object]] = [
        {"mail": one, "of": "example.com", "id": one} for one in (*several, f"smtp:{text}")
    ]
    records += [{"mail": "example.com", "of": text, "id": text}, {text: text, "mail": "a", "of": "b"}, {text: 1}]
    for one in records:
        sink: Any = Sink()
        with contextlib.suppress(wrong.SyncagentError):
            answer = run_recipe(_recipe(), _Primary([one]), Limits(9, 99), Request(None, sink, lambda *_: None))
            assert len(repr(answer.steps)) + len(repr(answer.notes)) < 20_000


@functools.cache
def _recipe() -> model.Recipe:
    with tempfile.NamedTemporaryFile("w", suffix=".toml") as file:
        file.write(RECIPE)
        file.flush()
        return validate.load(file.name)


@_parser
def rule(text: str) -> None:
    """A value that a rule judges."""
    kinds: tuple[dict[str, Any], ...] = (
        {"one_of": ("a",), "known": ("b",)},
        {"true": True},
        {"starts": "a"},
        {"not_empty": True},
        {"not_past": True},
    )
    for kind in kinds:
        rule = conditions.Rule(path="a", **kind)
        _each([functools.partial(conditions.all_hold, [rule])], [{"a": text}, {text: text}])


@_parser
def path(text: str) -> None:
    """A path into JSON, and a text with placeholders."""
    _each(
        [json_path.parse, lambda one: json_path.find_one({"a": [1]}, one)],
        (text, f"a.{text}", text.rstrip("."), f"a[{text}]"),
    )
    _each([model.PLACEHOLDER.findall, lambda one: model.fill_placeholders(one, collections.defaultdict(str))], [text])
    _each([lambda one: conditions.problem(conditions.Rule(path=one, present=True))], (text,))


@_parser
def link(text: str) -> None:
    """The header Link, and the URL of the next page."""
    response = Response("https://example.com/", 200, {"link": text}, iter(()))
    _each([lambda one: one.next_link], [response])
    paging = model.Paging(kind="next_url", path="next")
    place = pagination.Place("https://example.com/", {})
    _each(
        [lambda one: pagination.Pagination(paging, 9).next_place(place, {"next": one}, "", 1)],
        (text, f"https://{text}/"),
    )


@_parser
def headers(text: str) -> None:
    """Other headers of an answer."""
    given = {"last-modified": text, "date": text, "etag": text}
    _each([lambda one: plain_list.Validator.of(one, 1.0).headers()], [given])


@_parser
def toml(text: str) -> None:
    """The configuration and a recipe."""
    from syncagent.config import load as config

    with tempfile.TemporaryDirectory() as directory:
        file = Path(directory, "x.toml")
        quoted = json.dumps(text, ensure_ascii=False)
        for one in (f"a = {text}", f"[{text}]", f"{text} = 1", f"[postfix]\nmap = {quoted}"):
            file.write_bytes(_raw(one))
            _each([config.load], [file])
        _each([lambda one: validate.load(str(one))], [file])
        toml_syntax.lines_of(text)


@_parser
def value(text: str) -> None:
    """A value of the configuration."""
    kinds = (values.Duration, values.Size, Cron, values.MapName, values.Urls)
    for one in (text, f"{text} * * * *", f"* * * * {text}", f"lmdb:/{text}"):
        for kind in kinds:
            _each([kind.parse], [one])


@_parser
def main_cf(text: str) -> None:
    """A list of main.cf."""
    _each([mainconf.entries], [text])


@_parser
def ldap(text: str) -> None:
    """An entry of a directory."""
    octets = _raw(text)
    sink: Any = Sink()
    several: tuple[entries.Attributes, ...] = (
        {"mail": [octets, b"smtp:" + octets], "entryUUID": [octets]},
        {text: [b"a"]},
        {f"mail;{text}": [b"a"]},
    )
    for attributes in several:
        found = entries.DirectoryEntry(text, attributes)
        reading = entries.AddressReader(sink, ("mail", "proxyAddresses"), "entryUUID")
        _each([functools.partial(reading.addresses, key="k")], [found])
        _each([lambda one: one.key("entryUUID")], [found])
        _each([full_search.FullSearch(SimpleNamespace(url="x"), None, "")._with_all_values], [found])  # type: ignore[arg-type]
    schema: Any = SimpleNamespace(read=lambda *_: {"subschemaSubentry": [octets]})
    _each([lambda one: full_search.unknown_attributes(one, ["a"], "(a=b)")], [schema])
    with contextlib.suppress(ValueError):  # as its caller does
        list(content_sync._items(octets))
    _each([content_sync._plain, full_search.names_in], [text])


@_parser
def explained(text: str) -> None:
    """What `explain ADDRESS` and `history --address` are given."""
    from syncagent.cli import explain
    from syncagent.cli.views import explain as view

    config = _state()
    for one in _as_address(text):
        found = explain.explain(config, one)
        with open("/dev/null", "w", encoding="utf-8") as screen, contextlib.redirect_stdout(screen):  # noqa: PTH123
            view.show(found)
        assert len(repr(found)) < 50_000


@functools.cache
def _state() -> Config:
    from syncagent.config import load as config
    from tests.scenario import Scenario

    mx = Scenario(Path(sys.argv[1]))
    mx.write("corp", {"a@example.com"})
    mx.sync()
    return config.load(mx.configure())


def _seconds(read: Parser, text: str) -> float:
    began = time.process_time()
    read(text)
    return time.process_time() - began


def _cost(read: Parser, make: Callable[[int], str], sizes: Sizes) -> Cost:
    big = make(sizes.big)
    cost = Cost(FLOOR, _seconds(read, big))
    if cost.is_linear():  # whatever the small one costs
        return cost
    small = make(sizes.small)
    cost = Cost(_seconds(read, small), cost.big)
    for _ in range(1, TRIES):
        if cost.is_linear():
            break
        cost = min(cost, Cost(_seconds(read, small), _seconds(read, big)), key=Cost.ratio)
    return cost


def _tell(facts: dict[str, object]) -> None:
    sys.stdout.write(f"{json.dumps(facts)}\n")
    sys.stdout.flush()


def measure(name: str, sizes: Sizes) -> None:
    """Measure a parser."""
    read = PARSERS[name]
    _seconds(read, "warm@example.com")
    for kind, make in CLASSES.items():
        _tell({"begins": kind})
        signal.setitimer(signal.ITIMER_PROF, sizes.ceiling)
        cost = _cost(read, make, sizes)
        signal.setitimer(signal.ITIMER_PROF, 0)
        _tell({"class": kind, "small": cost.small, "big": cost.big})
    _tell({"measured": name})


if __name__ == "__main__":
    signal.signal(signal.SIGPROF, signal.SIG_DFL)
    for line in sys.stdin:
        measure(line.strip(), SIZES[sys.argv[2]])
