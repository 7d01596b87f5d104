"""The configuration: every problem at once, each with its place; the schema; the defaults."""

import json
import re
import tomllib
import typing
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from msgspec import Struct

from syncagent import sources
from syncagent.config import json_schema as schema_module
from syncagent.config import load as module
from syncagent.config import tables as tables_module
from syncagent.config.load import load
from syncagent.config.tables import Config, DomainLimits, Limits, Postfix, Schedule, State
from syncagent.errors import ConfigError, Problem
from syncagent.sources import file as file_source
from syncagent.sources import http as http_source
from syncagent.sources import ldap as ldap_source
from syncagent.values.toml_reader import Reader, near
from syncagent.values.toml_syntax import lines_of
from syncagent.values.types import Address, Domain, Duration, MapName, SecretFile, spell_seconds
from tests.support.run import syncagent

POSTFIX = """\
[postfix]
map = "hash:/etc/postfix/relay_recipients"
relay_domains = ["example.com", "example.org"]
"""
SOURCE = """\
[sources.extra]
type = "file"
path = "recipients"
"""
GOOD = POSTFIX + SOURCE
STRUCTS: tuple[type[Struct], ...] = (
    Postfix,
    Limits,
    DomainLimits,
    Schedule,
    State,
    tables_module.Notify,
    tables_module.Metrics,
    sources.Common,
    file_source.Config,
    http_source.Config,
    ldap_source.Config,
)
KEYS = [
    (struct, name)
    for struct in STRUCTS
    for name in struct.__struct_fields__
    if (struct, name) != (Limits, "domains")  # written as tables of their own
]


def loaded(text: str, directory: Path) -> Config:
    """Load a configuration."""
    path = directory / "syncagent.toml"
    path.write_text(text, encoding="utf-8")
    return load(path)


def problems(text: str, directory: Path) -> list[str]:
    """Give the problems of a configuration, LINE: KEY: TEXT."""
    with pytest.raises(ConfigError) as caught:
        loaded(text, directory)
    start = f"{directory}/syncagent.toml:"
    assert all(str(problem).startswith(start) for problem in caught.value.problems)
    return [str(problem).removeprefix(start) for problem in caught.value.problems]


def test_five_faults_are_five_messages(tmp_path: Path) -> None:
    """The real program tells all that is wrong in one go, in the order of the lines, and exits 78."""
    path = tmp_path / "syncagent.toml"
    path.write_text(
        """\
[postfix]
map = "hsah:/etc/postfix/relay_recipients"
relay_domain = ["example.com"]
relay_domains = ["example.com", "exa mple.org"]

[limits]
removal_grace = 60

[sources.extra]
type = "flie"
path = "recipients"
""",
        encoding="utf-8",
    )
    done = syncagent("sync", config=path, check=78)
    lines = done.stderr.splitlines()
    assert [line.partition(": expected")[0].partition(" is installed")[0] for line in lines] == [
        f"syncagent: {path}:2: postfix.map",
        f'syncagent: {path}:3: postfix.relay_domain: unknown key, did you mean "relay_domains"?',
        f'syncagent: {path}:4: postfix.relay_domains: "exa mple.org" has a malformed domain',
        f"syncagent: {path}:7: limits.removal_grace",
        f'syncagent: {path}:10: sources.extra.type: no source type "flie"',
    ]
    assert 'did you mean "file"?' in lines[4]
    assert done.stdout == ""
    for verb in ("plan", "check"):
        assert syncagent(verb, config=path, check=78).stderr == done.stderr


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("[postfx]\n" + GOOD, '1: postfx: unknown key, did you mean "postfix"?'),
        ('naem = "x"\n' + GOOD, "1: naem: unknown key"),
        (POSTFIX + "relod = true\n" + SOURCE, '4: postfix.relod: unknown key, did you mean "reload"?'),
        (GOOD + "pth = 'x'\n", '7: sources.extra.pth: unknown key, did you mean "path"?'),
        (GOOD + "alow_empty = true\n", '7: sources.extra.alow_empty: unknown key, did you mean "allow_empty"?'),
        (GOOD + "[limits]\nremoved_flor = 1\n", '8: limits.removed_flor: unknown key, did you mean "removed_floor"?'),
        (GOOD + "[schedule]\nevry = '5m'\n", '8: schedule.evry: unknown key, did you mean "every"?'),
        (GOOD + "[state]\ndir = 'x'\n", '8: state.dir: unknown key, did you mean "directory"?'),
        (
            GOOD + '[limits."example.org"]\nremoved_flor = 1\n',
            '8: limits."example.org".removed_flor: unknown key, did you mean "removed_floor"?',
        ),
        (
            GOOD + '[limits."example.org"]\nremoved_window = "1h"\n',
            '8: limits."example.org".removed_window: unknown key',
        ),
        (GOOD + '"a b" = 1\n', '7: sources.extra."a b": unknown key'),
        (GOOD + "[limits]\ndomains = 5\n", "8: limits.domains: unknown key"),
    ],
)
def test_an_unknown_key(text: str, wanted: str, tmp_path: Path) -> None:
    """A key that nobody knows is refused at every level, with a guess at what was meant."""
    (problem,) = problems(text, tmp_path)
    assert problem.startswith(wanted)


def test_a_misspelled_sources_table(tmp_path: Path) -> None:
    """A misspelled table of sources is one problem: the guess knows of `sources`, and they are not missing as well."""
    (problem,) = problems_of(POSTFIX + SOURCE.replace("sources", "source"), tmp_path)
    assert ' source: unknown key, did you mean "sources"?' in problem


def problems_of(text: str, directory: Path) -> list[str]:
    """Give the problems of a configuration, whether with a line or without."""
    with pytest.raises(ConfigError) as caught:
        loaded(text, directory)
    return [str(problem) for problem in caught.value.problems]


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        (POSTFIX.replace('"hash:/etc/postfix/relay_recipients"', "3") + SOURCE, "2: postfix.map: expected TYPE:PATH"),
        (POSTFIX.replace("hash:/etc", "ldap:/etc") + SOURCE, "2: postfix.map: expected TYPE:PATH"),
        (POSTFIX.replace("hash:/etc", "/etc") + SOURCE, "2: postfix.map: expected TYPE:PATH"),
        (POSTFIX.replace("hash:/etc", "hash:etc") + SOURCE, "2: postfix.map: the path must be absolute"),
        (POSTFIX.replace('recipients"', 'recipients/"') + SOURCE, "2: postfix.map: the path must be absolute"),
        (POSTFIX.replace('["example.com", "example.org"]', '"x.org"') + SOURCE, "3: postfix.relay_domains: expected"),
        (POSTFIX.replace('"example.org"', "3") + SOURCE, "3: postfix.relay_domains: expected a domain"),
        (POSTFIX.replace('"example.org"', '"a@example.org"') + SOURCE, "3: postfix.relay_domains: expected a domain"),
        (POSTFIX.replace('"example.org"', '""') + SOURCE, '3: postfix.relay_domains: "" has no domain'),
        (POSTFIX.replace('"example.org"', '"-x-"') + SOURCE, '3: postfix.relay_domains: "-x-" has a malformed'),
        (POSTFIX + 'reload = "yes"\n' + SOURCE, '4: postfix.reload: expected true or false, got "yes": write true'),
        (POSTFIX + "config_directory = 3\n" + SOURCE, "4: postfix.config_directory: expected a path"),
        (POSTFIX + 'config_directory = ""\n' + SOURCE, "4: postfix.config_directory: expected a path"),
        (POSTFIX + 'exclude = ["nobody"]\n' + SOURCE, '4: postfix.exclude: "nobody" has no @'),
        (POSTFIX + 'postmap_timeout = "5 m"\n' + SOURCE, "4: postfix.postmap_timeout: expected a time"),
        (
            GOOD + "[limits]\nremoved_percent = '10'\n",
            '8: limits.removed_percent: expected a number such as 10, got "1',
        ),
        (
            GOOD + "[limits]\nremoved_percent = true\n",
            "8: limits.removed_percent: expected a number such as 10",
        ),
        (GOOD + "[limits]\nremoved_percent = 101\n", "8: limits.removed_percent: expected 0 to 100"),
        (GOOD + "[limits]\nremoved_percent = -1\n", "8: limits.removed_percent: expected 0 to 100"),
        (GOOD + "[limits]\nremoved_percent = nan\n", "8: limits.removed_percent: expected 0 to 100"),
        (
            GOOD + "[limits]\nremoved_floor = 1.5\n",
            "8: limits.removed_floor: expected a whole number such as 5",
        ),
        (GOOD + "[limits]\nremoved_floor = -1\n", "8: limits.removed_floor: expected 0 or more"),
        (GOOD + "[limits]\nremoved_window = 86400\n", "8: limits.removed_window: expected a time"),
        (GOOD + "[limits]\ncanaries = ['info']\n", '8: limits.canaries: "info" has no @'),
        (GOOD + "[schedule]\nevery = '5'\n", "8: schedule.every: expected a time"),
        (GOOD + "[schedule]\nevery = '-5m'\n", "8: schedule.every: expected a time"),
        (GOOD + "[schedule]\nevery = '5m '\n", "8: schedule.every: expected a time"),
        (GOOD + "[schedule]\nevery = ''\n", "8: schedule.every: expected a time"),
        (GOOD + f"[schedule]\nevery = '{'9' * 400}s'\n", "8: schedule.every: expected a time"),
        (GOOD + "[state]\ndirectory = ['x']\n", "8: state.directory: expected a path"),
        (GOOD + "allow_empty = 1\n", "7: sources.extra.allow_empty: expected true or false"),
        (
            GOOD + "allow_empty = 2026-01-01\n",
            "7: sources.extra.allow_empty: expected true or false, got the date",
        ),
        (GOOD + 'catch_all = "maybe"\n', '7: sources.extra.catch_all: expected one of "accept", "ignore", got'),
        (GOOD + 'format = "xml"\n', "7: sources.extra.format: "),
        (GOOD + "deadline = 5\n", "7: sources.extra.deadline: expected a time"),
        (POSTFIX + '[sources.extra]\ntype = "file"\npath = 3\n', "6: sources.extra.path: expected a path"),
        (POSTFIX + '[sources.extra]\ntype = ["file"]\n', "5: sources.extra.type: "),
        (POSTFIX + "[sources.extra]\ntype = 3\n", "5: sources.extra.type: "),
        (POSTFIX + "[sources.extra]\ntype = {a = 1}\n", "5: sources.extra.type: "),
        (POSTFIX + "[sources]\nextra = 3\n", "5: sources.extra"),
        (POSTFIX + '[sources."a b"]\ntype = "file"\npath = "x"\n', '4: sources."a b": a source\'s name'),
        (POSTFIX + '[sources."../x"]\ntype = "file"\npath = "x"\n', '4: sources."../x": a source\'s name'),
        ("limits = 3\n" + GOOD, "1: limits: expected a table"),
        ("schedule = []\n" + GOOD, "1: schedule: expected a table"),
        (GOOD + "[[state]]\ndirectory = 'x'\n", "7: state: expected a table"),
        (
            GOOD + '[limits."example.org"]\nremoved_floor = "x"\n',
            '8: limits."example.org".removed_floor: expected a whole number',
        ),
        (GOOD + '[limits."example.org"]\nremoved_percent = 200\n', '8: limits."example.org".removed_percent: expected'),
    ],
)
def test_a_wrong_value(text: str, wanted: str, tmp_path: Path) -> None:
    """A value that does not fit is one problem, at its line, which says what was expected."""
    (problem,) = problems(text, tmp_path)
    assert problem.startswith(wanted)


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        (GOOD.replace("path", "#"), "4: sources.extra.path: required key is missing: a file, "),
        (
            GOOD.replace("type", "#"),
            "4: sources.extra.type: required key is missing: the kind of source, one of ",
        ),
        (GOOD.replace("map", "#"), "1: postfix.map: required key is missing: the table to publish, "),
        (
            GOOD.replace("relay_domains", "#"),
            "1: postfix.relay_domains: required key is missing: the domains to publish ",
        ),
    ],
)
def test_a_missing_key(text: str, wanted: str, tmp_path: Path) -> None:
    """A required key that is not there is told at its table, with an example."""
    (problem,) = problems(text, tmp_path)
    assert problem.startswith(wanted)
    assert "..." not in problem


def test_nothing_at_all(tmp_path: Path) -> None:
    """An empty file lacks its tables, each told."""
    found = problems_of("", tmp_path)
    assert [problem.partition(": ")[2].partition(":")[0] for problem in found] == ["postfix", "sources"]


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        (GOOD + 'catch_all = "ignore"\n[limits]\ncanaries = ["x@example.net"]\n', "9: limits.canaries: x@example.net"),
        (GOOD + '[limits]\ncanaries = ["a@sub.example.com", "x@notexample.com"]\n', "8: limits.canaries: x@notex"),
        (
            POSTFIX + 'exclude = ["info@example.com"]\n' + SOURCE + '[limits]\ncanaries = ["Info@Example.com"]\n',
            "9: limits.canaries: info@example.com is in postfix.exclude",
        ),
        (
            POSTFIX + 'exclude = ["@example.com"]\n' + SOURCE + '[limits]\ncanaries = ["info@example.com"]\n',
            "9: limits.canaries: info@example.com is in postfix.exclude",
        ),
        (POSTFIX + 'catch_all = ["example.net"]\n' + SOURCE, "4: postfix.catch_all: example.net is outside"),
        (GOOD + '[limits."example.net"]\nremoved_floor = 1\n', '7: limits."example.net": example.net is not one of'),
        (
            POSTFIX.replace('"example.com", "example.org"', "") + SOURCE,
            "3: postfix.relay_domains: expected a domain at least",
        ),
    ],
)
def test_what_no_single_key_shows(text: str, wanted: str, tmp_path: Path) -> None:
    """Keys that contradict one another are problems too."""
    (problem,) = problems(text, tmp_path)
    assert problem.startswith(wanted)


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("[postfix\n", "1: not TOML: "),
        (GOOD + "x = \n", "7: not TOML: "),
        (GOOD + GOOD, "7: not TOML: "),
        (GOOD + 'type = "file"\n', "7: not TOML: "),
        ("\n\n\ta\n", "3: not TOML: "),
    ],
)
def test_not_toml(text: str, wanted: str, tmp_path: Path) -> None:
    """What is no TOML is told with its line."""
    (problem,) = problems(text, tmp_path)
    assert problem.startswith(wanted)


@pytest.mark.parametrize("text", ["x = [", 'x = """', "x = " + "[" * 20_000, "x = " + "{a=" * 20_000])
def test_not_toml_to_the_end(text: str, tmp_path: Path) -> None:
    """What never ends, or nests without end, is told as well."""
    (problem,) = problems_of(text, tmp_path)
    assert "not TOML" in problem


def test_what_cannot_be_read(tmp_path: Path) -> None:
    """A file that is missing, a directory or no UTF-8 is told as such, with exit status 78."""
    latin = tmp_path / "latin.toml"
    latin.write_bytes(b"# K\xf6ln\n")
    for path, why in (
        (tmp_path / "none.toml", "No such file"),
        (tmp_path, "it is a directory"),
        (latin, "it is not UTF-8"),
    ):
        with pytest.raises(ConfigError, match=why) as caught:
            load(path)
        assert str(caught.value).startswith(f"{path}: cannot be read: ")
        assert "cannot be read" in syncagent("sync", config=path, check=78).stderr


def test_the_environment_names_the_file(tmp_path: Path) -> None:
    """$SYNCAGENT_CONFIG names the file, and --config goes before it."""
    (tmp_path / "bad.toml").write_text("x =\n", encoding="utf-8")
    env = {"SYNCAGENT_CONFIG": str(tmp_path / "bad.toml")}
    assert "bad.toml:1" in syncagent("sync", env=env, check=78).stderr
    assert "none.toml" in syncagent("sync", config=tmp_path / "none.toml", env=env, check=78).stderr


def test_defaults_are_the_design_s(tmp_path: Path) -> None:
    """What nobody configured is what was decided once."""
    config = loaded(GOOD, tmp_path)
    assert config.postfix == Postfix(
        map=MapName("hash", Path("/etc/postfix/relay_recipients"), "hash:/etc/postfix/relay_recipients"),
        relay_domains=(Domain("example.com"), Domain("example.org")),
        catch_all=(),
        exclude=(),
        config_directory=Path("/etc/postfix"),
        reload=True,
        postmap_timeout=Duration(900),
    )
    limits = config.limits
    assert (limits.removed_percent, limits.removed_floor, limits.canaries) == (10, 5, ())
    assert [float(limits.removed_window), float(limits.removal_grace)] == [24 * 3600, 3600]
    assert float(config.schedule.every) == 5 * 60
    assert config.state.directory == Path("/var/lib/syncagent/state")
    common = config.sources["extra"].common
    assert (common.allow_empty, common.catch_all, common.deadline) == (False, "accept", None)
    from syncagent.sync import fetch

    assert (fetch.DEADLINE, fetch.REFUSED_FOR, file_source.YOUNG) == (120, 3600, 2)
    own = config.sources["extra"].own
    assert (own.format, own.domains, own.require_end) == ("lines", (), False)


def test_overrides_per_domain(tmp_path: Path) -> None:
    """[limits."example.org"] overrides what it names, and the rest stays general; IDN domains in either form."""
    text = POSTFIX.replace('"example.org"', '"example.org", "bücher.example"') + SOURCE
    config = loaded(
        text
        + '[limits]\nremoved_percent = 20\nremoved_floor = 7\nremoval_grace = "2h"\n'
        + '[limits."Example.ORG"]\nremoved_floor = 1\n'
        + '[limits."bücher.example"]\nremoval_grace = "0s"\nremoved_percent = 0\n',
        tmp_path,
    )
    assert config.limits.of("example.com") == (20, 7, 7200)
    assert config.limits.of("example.org") == (20, 1, 7200)
    assert config.limits.of("xn--bcher-kva.example") == (0, 7, 0)


def test_paths_are_relative_to_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A relative path starts where the configuration file is, wherever the program runs; an absolute one stays."""
    (tmp_path / "etc").mkdir()
    text = POSTFIX + 'config_directory = "../postfix"\n' + SOURCE + '[state]\ndirectory = "/var/x"\n'
    (tmp_path / "etc" / "syncagent.toml").write_text(text, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    for path in (Path("etc/syncagent.toml"), tmp_path / "etc" / "syncagent.toml"):
        config = load(path)
        assert config.postfix.config_directory == tmp_path / "etc" / ".." / "postfix"
        assert config.sources["extra"].own.path == tmp_path / "etc" / "recipients"
        assert config.state.directory == Path("/var/x")


def test_the_same_configuration_has_the_same_digest(tmp_path: Path) -> None:
    """The digest sees what is published change, and nothing else: not spelling, order, or when a run is due."""
    config = loaded(GOOD, tmp_path)
    turned = loaded(
        "# x\n" + SOURCE + POSTFIX + '[schedule]\nevery = "9m"\n[limits]\nremoved_percent = 10.0\n', tmp_path
    )
    assert turned.digest == config.digest
    assert turned.sources["extra"].digest == config.sources["extra"].digest
    others = [
        GOOD.replace("example.org", "example.net"),
        GOOD.replace("hash:", "btree:"),
        GOOD.replace('"recipients"', '"others"'),
        GOOD + "allow_empty = true\n",
        GOOD + 'domains = ["example.com"]\n',
        GOOD + "[limits]\nremoved_floor = 6\n",
        GOOD + '[limits."example.com"]\nremoved_floor = 6\n',
        GOOD + '[sources.b]\ntype = "file"\npath = "b"\n',
        GOOD.replace("extra", "other"),
    ]
    digests = {loaded(text, tmp_path).digest for text in others}
    assert len(digests | {config.digest}) == len(others) + 1


def test_a_huge_number_is_no_fault(tmp_path: Path) -> None:
    """A number beyond 64 bits is refused, or used; it is never a crash."""
    try:
        config = loaded(GOOD + f"[limits]\nremoved_floor = {2**70}\n", tmp_path)
    except ConfigError:
        return
    assert config.digest


def test_a_domain_limited_twice_is_a_problem(tmp_path: Path) -> None:
    """Two overrides that mean one domain contradict each other: neither is dropped in silence."""
    text = GOOD + '[limits."example.com"]\nremoved_floor = 1\n[limits."Example.com"]\nremoved_floor = 2\n'
    assert len(problems(text, tmp_path)) == 1


@pytest.mark.parametrize(
    ("text", "seconds", "again"),
    [("0s", 0, "0s"), ("90s", 90, "1m30s"), ("5m", 300, "5m"), ("1h30m", 5400, "1h30m"), ("7d", 604800, "7d"),
     ("2w", 1209600, "14d"), ("1d1h1m1s", 90061, "1d1h")],
)  # fmt: skip
def test_durations(text: str, seconds: float, again: str) -> None:
    """A time is a sum of numbers with units, and told in its two largest."""
    assert Duration.parse(text) == seconds
    assert str(Duration.parse(text)) == spell_seconds(seconds) == again


@pytest.mark.parametrize("text", ["", "5", "5 m", "m", "5M", "1.5h", "-1s", "5mm", "5m3", "٣s", None, 5, True, ["5m"]])
def test_what_is_no_duration(text: object) -> None:
    """Anything else is refused: a bare number above all, since nobody can tell its unit."""
    with pytest.raises(ValueError, match="expected a time such as"):
        Duration.parse(text)


@pytest.mark.parametrize(
    ("text", "kind", "path"),
    [("lmdb:/a/b", "lmdb", "/a/b"), ("proxy:hash:/a", "hash", "/a"), ("cdb:/a:b", "cdb", "/a:b")],
)
def test_map_names(text: str, kind: str, path: str) -> None:
    """A map is named as in main.cf, where proxy: may stand before it."""
    name = MapName.parse(text)
    assert (name.type, str(name.path), name.spelled, str(name)) == (kind, path, text, f"{kind}:{path}")


def test_domains_and_addresses_are_canonical() -> None:
    """The configuration's domains and addresses compare with what sources say."""
    assert Domain.parse("Bücher.Example.") == Domain.parse("xn--bcher-kva.example") == "xn--bcher-kva.example"
    assert Address.parse('"Info"@Example.COM') == "info@example.com"
    assert Address.parse("@Example.org") == "@example.org"


def test_lines_are_found() -> None:
    """Tables and keys are found in every spelling that TOML has for them."""
    found = lines_of(
        'a = 1\n[b]  # x\n  c.d = 2\n["e.f"]\ng=3\n[[h]]\n\'i\' = 4\n[ j . "k" ]\n"l" = [\n  "m = 5",\n]\n'
    )
    assert found[("a",)] == 1
    assert found[("b",)] == 2
    assert found[("b", "c")] == found["b", "c", "d"] == 3
    assert found["e.f", "g"] == 5
    assert found["h", "i"] == 7
    assert found["j", "k", "l"] == 9


def test_a_guess_is_made_only_where_one_is_near() -> None:
    """A name that is like none known gets no guess."""
    assert near("removed_flor", ["removed_floor", "every"]) == ', did you mean "removed_floor"?'
    assert near("zzz", ["removed_floor", "every"]) == ""


def test_a_problem_without_a_key_or_a_line() -> None:
    """A problem names what it can."""
    assert str(Problem("f", None, "", "t")) == "f: t"
    assert str(Problem("f", 3, "", "t")) == "f:3: t"
    assert str(Problem("f", None, "k", "t")) == "f: k: t"


# The schema.


@pytest.fixture(scope="module")
def schema() -> dict[str, Any]:
    """What the program prints."""
    printed: dict[str, Any] = json.loads(syncagent("schema", check=0).stdout)
    return printed


def nodes(schema: Any) -> Iterator[dict[str, Any]]:  # noqa: ANN401 - any JSON
    """Give every schema within a schema."""
    if isinstance(schema, dict):
        yield schema
        for key, value in schema.items():
            if key in {"properties", "$defs"}:
                for inner in value.values():
                    yield from nodes(inner)
            elif key in {"items", "additionalProperties", "anyOf", "oneOf"}:
                yield from nodes(value)
    elif isinstance(schema, list):
        for inner in schema:
            yield from nodes(inner)


KEYWORDS: dict[str, type | tuple[type, ...]] = {
    "$schema": str,
    "$defs": dict,
    "$ref": str,
    "title": str,
    "description": str,
    "type": str,
    "properties": dict,
    "required": list,
    "additionalProperties": (bool, dict),
    "minProperties": int,
    "minItems": int,
    "items": dict,
    "anyOf": list,
    "oneOf": list,
    "enum": list,
    "const": str,
    "default": (str, bool, int, float, list, type(None)),
    "examples": list,
    "pattern": str,
}
TYPES: dict[str, type | tuple[type, ...]] = {
    "object": dict,
    "array": list,
    "string": str,
    "boolean": bool,
    "integer": int,
    "number": (int, float),
}


def test_schema_is_one(schema: dict[str, Any]) -> None:
    """It is JSON Schema of 2020-12: known keywords with values of their kinds, references that lead somewhere."""
    assert schema["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    for node in nodes(schema):
        for keyword, value in node.items():
            assert keyword in KEYWORDS
            assert isinstance(value, KEYWORDS[keyword])
        assert node.get("type", "object") in {*TYPES, "null"}
        if "$ref" in node:
            assert node["$ref"].removeprefix("#/$defs/") in schema["$defs"]
        if "pattern" in node:
            re.compile(node["pattern"])
        assert set(node.get("required", [])) <= set(node.get("properties", {}))
        if node.get("type") == "object":
            assert node.get("additionalProperties") is not None
        for example in node.get("examples", []):
            assert fits(example, node, schema)


def test_schema_s_defaults_fit_it(schema: dict[str, Any]) -> None:
    """A default in the schema is spelled as the configuration would spell it."""
    for node in nodes(schema):
        if "default" in node:
            without = {key: value for key, value in node.items() if key != "default"}
            assert fits(node["default"], without, schema), node


def resolved(node: dict[str, Any], schema: dict[str, Any]) -> dict[str, Any]:
    """Follow a reference, if it is one."""
    found: dict[str, Any] = schema["$defs"][node["$ref"].removeprefix("#/$defs/")] if "$ref" in node else node
    return found


def test_schema_has_every_key(schema: dict[str, Any]) -> None:
    """Every key of every table is in the schema, and nothing else is."""
    tables = {name: resolved(node, schema) for name, node in schema["properties"].items()}
    for struct in (Postfix, Schedule, State):
        assert set(tables[struct.__name__.lower()]["properties"]) == set(struct.__struct_fields__)
    assert set(tables["limits"]["properties"]) == set(Limits.__struct_fields__) - {"domains"}
    override = resolved(tables["limits"]["additionalProperties"], schema)
    assert set(override["properties"]) == set(DomainLimits.__struct_fields__)
    found = [resolved(node, schema) for node in tables["sources"]["additionalProperties"]["oneOf"]]
    kinds = {node["properties"]["type"]["const"]: node for node in found}
    required = {"file": {"path"}, "http": set(), "ldap": {"url", "base"}}
    assert kinds.keys() == required.keys()
    for kind, own in (("file", file_source.Config), ("http", http_source.Config), ("ldap", ldap_source.Config)):
        assert set(kinds[kind]["properties"]) == {*sources.Common.__struct_fields__, *own.__struct_fields__}
        assert set(kinds[kind]["required"]) == {"type", *required[kind]}


def fits(value: Any, node: dict[str, Any], schema: dict[str, Any]) -> bool:  # noqa: ANN401, C901, PLR0911 - any JSON
    """Tell whether a value is valid, for the keywords that the schema uses."""
    if "$ref" in node and not fits(value, schema["$defs"][node["$ref"].removeprefix("#/$defs/")], schema):
        return False
    if "anyOf" in node and not any(fits(value, one, schema) for one in node["anyOf"]):
        return False
    if "oneOf" in node and sum(fits(value, one, schema) for one in node["oneOf"]) != 1:
        return False
    if ("const" in node and value != node["const"]) or ("enum" in node and value not in node["enum"]):
        return False
    kind = node.get("type")
    if kind == "null":
        return value is None
    if kind and (not isinstance(value, TYPES[kind]) or (isinstance(value, bool) and kind != "boolean")):
        return False
    if "pattern" in node and not re.search(node["pattern"], value):
        return False
    if kind == "array":
        enough = len(value) >= node.get("minItems", 0)
        return enough and all(fits(item, node.get("items", {}), schema) for item in value)
    if kind != "object":
        return True
    known, more = node.get("properties", {}), node.get("additionalProperties", True)
    if not set(node.get("required", [])) <= value.keys() or len(value) < node.get("minProperties", 0):
        return False
    return all(
        fits(item, known[key], schema)
        if key in known
        else (more if isinstance(more, bool) else fits(item, more, schema))
        for key, item in value.items()
    )


@pytest.mark.parametrize(
    ("text", "good"),
    [
        (GOOD, True),
        (POSTFIX + 'catch_all = ["example.com"]\nexclude = ["@example.org"]\nreload = false\n' + SOURCE, True),
        (GOOD + 'allow_empty = true\ncatch_all = "ignore"\ndeadline = "5m"\nformat = "postmap"\n', True),
        (GOOD + 'domains = ["example.com"]\nrequire_end = true\n', True),
        (GOOD + '[limits]\nremoved_percent = 2.5\nremoved_floor = 3\ncanaries = ["a@example.com"]\n', True),
        (GOOD + '[limits."example.com"]\nremoved_percent = 20\nremoval_grace = "0s"\n', True),
        (GOOD + '[schedule]\nevery = "1h30m"\n[state]\ndirectory = "state"\n', True),
        ("", False),
        (POSTFIX, False),
        (SOURCE, False),
        (POSTFIX + "[sources]\n", False),
        (GOOD + "x = 1\n", False),
        (GOOD + "[x]\n", False),
        (POSTFIX + "x = 1\n" + SOURCE, False),
        (GOOD.replace('"file"', '"flie"'), False),
        (GOOD.replace("path", "#"), False),
        (GOOD + "allow_empty = 1\n", False),
        (GOOD + 'format = "xml"\n', False),
        (GOOD + 'catch_all = "x"\n', False),
        (GOOD + "domains = 'example.com'\n", False),
        (GOOD + '[schedule]\nevery = "5"\n', False),
        (GOOD + "[schedule]\nevery = 5\n", False),
        (GOOD + "[limits]\nremoved_floor = 1.5\n", False),
        (GOOD + '[limits."example.com"]\nremoved_window = "1h"\n', False),
    ],
)
def test_schema_agrees_with_the_loader(text: str, good: bool, schema: dict[str, Any], tmp_path: Path) -> None:  # noqa: FBT001 - a parameter
    """What the schema lets pass is what the program takes, as far as a schema can tell."""
    assert fits(tomllib.loads(text), schema, schema) is good
    if good:
        loaded(text, tmp_path)
    else:
        problems_of(text, tmp_path)


# The documentation.


def test_the_structs_are_all_here() -> None:
    """No table of the configuration escapes the tests above and below."""
    in_modules = {
        value
        for where in (tables_module, file_source, http_source, ldap_source)
        for value in vars(where).values()
        if isinstance(value, type) and issubclass(value, Struct) and value.__module__ == where.__name__
    }
    assert in_modules - {
        tables_module.Tables,
        tables_module.SourceConfig,
        tables_module.Config,
        tables_module.GeneralLimits,
    } <= set(STRUCTS)


@pytest.mark.parametrize(("struct", "name"), KEYS)
def test_every_key_is_in_the_manual(struct: type[Struct], name: str) -> None:
    """A key that syncagent.toml(5) does not have does not exist for its readers."""
    manual = (Path(__file__).parents[1] / "contrib" / "man" / "syncagent.toml.5").read_text(encoding="ascii")
    assert f"\n\\fB{name}\\fR (" in manual


# Whatever is written there.

NAMES = st.sampled_from(
    ["postfix", "limits", "schedule", "state", "sources", "extra", "example.com", "type", *{name for _, name in KEYS}]
)
TEXTS = st.sampled_from(
    ["file", "hash:/a", "texthash:/x", "example.com", "a@example.com", "@example.com", "5m", "0s", "9w" * 9, "", "\0"]
)
SCALARS = (
    TEXTS
    | st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.datetimes()
    | st.dates()
    | st.times()
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES | st.text(max_size=5), inner, max_size=4),
    max_leaves=12,
)
LIKELY: dict[type, st.SearchStrategy[Any]] = {
    Postfix: st.fixed_dictionaries({"map": st.just("hash:/a"), "relay_domains": st.just(["example.com"])}),
    sources.Common: st.fixed_dictionaries({"type": st.just("file"), "path": st.just("x")}),
}


def table(*structs: type[Struct]) -> st.SearchStrategy[Any]:
    """Give tables that have these keys or others, with values that fit or do not."""
    names = [name for struct in structs for name in struct.__struct_fields__]
    junk = st.dictionaries(st.sampled_from(names) | NAMES, VALUES, max_size=4)
    return VALUES | junk | st.tuples(LIKELY.get(structs[0], st.just({})), junk).map(lambda pair: pair[0] | pair[1])


CONFIGURATIONS = st.fixed_dictionaries(
    {
        "postfix": table(Postfix),
        "sources": VALUES
        | st.dictionaries(st.sampled_from(["a", "b", "a b"]), table(sources.Common, file_source.Config)),
    },
    optional={
        "limits": table(Limits)
        | st.dictionaries(st.sampled_from(["example.com", "Example.com", "x"]), table(DomainLimits)),
        "schedule": table(Schedule),
        "state": table(State),
        "x": VALUES,
    },
)


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(raw=CONFIGURATIONS)
def test_any_tables_give_a_configuration_or_problems(raw: dict[str, Any]) -> None:
    """Whatever the tables hold, all that comes of them is a configuration or a list of problems."""
    reader = Reader(Path("/x/syncagent.toml"), "")
    config = module.build(reader, raw, Path("x"))
    assert config is not None or reader.problems
    for problem in reader.problems:
        assert problem.text
        assert str(problem)
    if config is not None and not reader.problems:
        assert config.digest


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    text=st.lists(
        st.sampled_from(
            [*GOOD.splitlines(), "[limits]", "[[sources]]", "x = [", '"""', "= 3", "[a.b.c]", 'a."b".c = 1']
        )
        | st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
    ).map("\n".join)
)
def test_any_text_gives_a_configuration_or_problems(text: str, tmp_path: Path) -> None:
    """Whatever the file holds, the only error is ConfigError, with one problem at least."""
    found: tuple[Problem, ...] | None = None
    try:
        loaded(text, tmp_path)
    except ConfigError as error:
        found = error.problems
    assert found is None or found
    assert all(problem.line is None or problem.line > 0 for problem in found or ())


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(octets=st.binary(max_size=60))
def test_any_octets_give_problems(octets: bytes, tmp_path: Path) -> None:
    """Not even octets that are no text are more than a problem."""
    path = tmp_path / "syncagent.toml"
    path.write_bytes(octets)
    with pytest.raises(ConfigError):
        load(path)


@given(text=st.text() | st.from_regex(r"(\d{1,5}[smhdw]){1,4}", fullmatch=True), parse=st.sampled_from(
    [Duration.parse, Domain.parse, Address.parse, MapName.parse]
))  # fmt: skip
def test_values_parse_or_say_why(text: str, parse: Callable[[object], object]) -> None:
    """A value is read, or refused with a ValueError that has a text."""
    why = ""
    try:
        parse(text)
    except ValueError as error:
        why = str(error) or "nothing"
    assert why != "nothing"


def test_a_secret_is_named_by_a_path_or_a_bare_name(tmp_path: Path) -> None:
    """A bare name stays bare, for systemd's credentials; a path is relative to the file."""
    reader = Reader(tmp_path / "syncagent.toml", "")
    assert reader.value(SecretFile, "corp", ("k",)) == "corp"
    assert reader.value(SecretFile, "./corp", ("k",)) == f"{tmp_path}/corp"
    assert reader.value(SecretFile, "/etc/corp", ("k",)) == "/etc/corp"
    assert reader.problems == []


def test_schema_is_made_from_the_types() -> None:
    """What the program prints is what the function gives."""
    assert json.loads(syncagent("schema", check=0).stdout) == json.loads(json.dumps(schema_module.schema()))
    assert typing.get_type_hints(Postfix)["map"] is MapName
    assert msgspec.structs.fields(Postfix)
