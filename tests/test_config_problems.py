"""All problems of a configuration in one run: each once, none hidden by another, and each says what to write."""

import functools
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from msgspec import Struct

from syncagent import sources
from syncagent.config.load import load
from syncagent.config.tables import DomainLimits, Limits, Metrics, Notify, Postfix, Schedule, State
from syncagent.errors import ConfigError
from syncagent.sources import file as file_source
from syncagent.sources import http as http_source
from syncagent.sources import ldap as ldap_source
from syncagent.values.field_docs import field_docs
from tests.support.run import syncagent

Table = dict[str, str]
GOOD: dict[str, Table] = {
    "postfix": {"map": '"hash:/etc/postfix/relay_recipients"', "relay_domains": '["example.com", "example.org"]'},
    "limits": {"removed_floor": "5"},
    'limits."example.org"': {"removed_floor": "1"},
    "schedule": {"every": '"5m"'},
    "state": {"directory": '"state"'},
    "notify": {"timeout": '"30s"'},
    "metrics": {},
    "sources.f": {"type": '"file"', "path": '"recipients"'},
    "sources.l": {"type": '"ldap"', "url": '"ldaps://ldap.example.com"', "base": '"dc=example,dc=com"'},
    "sources.h": {"type": '"http"', "url": '"https://example.com/list"', "format": '"lines"'},
}
"""A configuration without problems, key by key, each value as TOML spells it."""


def written(tables: dict[str, Table], directory: Path) -> Path:
    """Write the tables into a file and return it."""
    lines = [
        line
        for name, keys in tables.items()
        for line in (f"[{name}]", *(f"{key} = {value}" for key, value in keys.items()))
    ]
    path = directory / "syncagent.toml"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def problems(path: Path) -> list[str]:
    """Return the problems of a configuration, KEY: TEXT; none if it can be loaded."""
    try:
        load(path)
    except ConfigError as error:
        return [f"{problem.key}: {problem.text}" if problem.key else problem.text for problem in error.problems]
    return []


def changed(*changes: tuple[str, str, str]) -> dict[str, Table]:
    """Return the good configuration with other values: table, key and value, which is empty to leave out the key."""
    tables = {name: dict(keys) for name, keys in GOOD.items()}
    for table, key, value in changes:
        tables.setdefault(table, {}).pop(key, None)
        if value:
            tables[table][key] = value
    return tables


def test_the_good_configuration_has_none(tmp_path: Path) -> None:
    """What the tests below change has no problem of its own."""
    assert problems(written(GOOD, tmp_path)) == []


# Each key of each table with a bad value.

BAD: list[tuple[type[Struct], str, str, str, str]] = [
    (Postfix, "postfix", "map", '"hsah:/x"', "expected TYPE:PATH as in main.cf"),
    (Postfix, "postfix", "relay_domains", '"example.com"', 'expected an array such as ["example.com"], got'),
    (Postfix, "postfix", "catch_all", '["a b"]', '"a b" has a malformed domain'),
    (Postfix, "postfix", "domains_map", '"~/x"', "expected TYPE:PATH as in main.cf"),
    (Postfix, "postfix", "allow_domains", '"*.example.com"', 'expected an array, got "*.example.com": write ['),
    (Postfix, "postfix", "exclude", '["nobody"]', '"nobody" has no @'),
    (Postfix, "postfix", "doubt_map", '"hash:/x/doubt"', "the doubt table is always lmdb, not hash (Debian: apt-get"),
    (Postfix, "postfix", "doubt_new", '"a week"', "expected a time such as"),
    (Postfix, "postfix", "doubt_removed", "72", "expected a time such as"),
    (Postfix, "postfix", "doubt_always", '["example.net"]', "example.net is not in relay_domains"),
    (Postfix, "postfix", "doubt_dead", '"1"', "expected a time such as"),
    (Postfix, "postfix", "config_directory", '"~/postfix"', '~ is not expanded, got "~/postfix": write the whole path'),
    (Postfix, "postfix", "reload", '"no"', 'expected true or false, got "no": write false'),
    (Postfix, "postfix", "postmap_timeout", "900", 'expected a time such as "90s", "5m", "1h" or "7d", got 900'),
    (Limits, "limits", "removed_percent", '"10"', 'expected a number such as 10, got "10"'),
    (Limits, "limits", "removed_floor", "-1", "expected 0 or more, got -1"),
    (Limits, "limits", "removed_max", "-1", "expected 0 or more, got -1"),
    (Limits, "limits", "collect", '"-10m"', 'expected a time such as "90s", "5m", "1h" or "7d", got "-10m"'),
    (Limits, "limits", "removed_window", "2026-01-01", 'expected a time such as "90s", "5m", "1h" or "7d", got the'),
    (Limits, "limits", "removal_grace", '"1 h"', "expected a time such as"),
    (Limits, "limits", "canaries", '["info@example.net"]', "info@example.net is outside relay_domains"),
    (DomainLimits, 'limits."example.org"', "removed_percent", "200", "expected 0 to 100, got 200"),
    (DomainLimits, 'limits."example.org"', "removed_floor", "1.5", "expected a whole number such as 10, got 1.5"),
    (DomainLimits, 'limits."example.org"', "removed_max", "-5", "expected 0 or more, got -5"),
    (DomainLimits, 'limits."example.org"', "removal_grace", "1", "expected a time such as"),
    (Schedule, "schedule", "every", '"0s"', 'expected "1s" or more'),
    (Schedule, "schedule", "cron", '"* * * *"', 'expected five fields as in crontab(5), such as "*/5 * * * *", got'),
    (Schedule, "schedule", "max_age", '"0s"', 'expected a time of more than "0s"'),
    (Notify, "notify", "command", '"mail root"', 'expected an array, got "mail root": write ["mail root"]'),
    (Notify, "notify", "url", '"example.com"', "expected https://HOST/PATH"),
    (Notify, "notify", "url_file", '""', 'expected a path, got ""'),
    (Notify, "notify", "ping_url", "3", 'expected a string, got 3: write "3"'),
    (Notify, "notify", "repeat", '"daily"', 'expected a time such as "90s", "5m", "1h" or "7d", got "daily"'),
    (Notify, "notify", "timeout", '"soon"', 'expected a time such as "90s", "5m", "1h" or "7d", got "soon"'),
    (Metrics, "metrics", "textfile", '"/var/x"', 'node_exporter reads only files named *.prom, got "x"'),
    (State, "state", "directory", '["x"]', "expected a path, got an array"),
    (State, "state", "history", '"1h"', "is shorter than limits.removed_window"),
    (sources.Common, "sources.f", "type", '"active-directory"', 'no source type "active-directory" is installed'),
    (sources.Common, "sources.f", "allow_empty", '"yes"', 'expected true or false, got "yes": write true'),
    (sources.Common, "sources.f", "catch_all", '"maybe"', 'expected one of "accept", "ignore", got "maybe"'),
    (sources.Common, "sources.f", "deadline", "5", "expected a time such as"),
    (sources.Common, "sources.f", "relay_domains", '["example.net"]', "example.net is not in postfix.relay_domains"),
    (sources.Common, "sources.f", "unlisted", '"accept"', 'expected one of "doubt", "refuse", got "accept"'),
    (sources.Common, "sources.f", "confirm_after", '"soon"', 'expected a time such as "90s", "5m", "1h" or "7d"'),
    (sources.Common, "sources.f", "content_max_age", "24", 'expected a time such as "90s", "5m", "1h" or "7d"'),
    (sources.Common, "sources.f", "ignore", '["u*"]', '"u*" matches u@example.com, which could be published'),
    (sources.Common, "sources.f", "every", '"0s"', 'expected "1s" or more'),
    (file_source.Config, "sources.f", "path", '"~/list"', '~ is not expanded, got "~/list": write the whole path'),
    (file_source.Config, "sources.f", "format", '"xml"', 'expected one of "lines", "postmap"'),
    (file_source.Config, "sources.f", "domains", '["*.example.com"]', 'a pattern is no domain, got "*.example.com"'),
    (file_source.Config, "sources.f", "min_uid", '"1000"', 'expected a whole number such as 1000, got "1000"'),
    (file_source.Config, "sources.f", "column", "true", "expected a string, got true"),
    (file_source.Config, "sources.f", "delimiter", '""', "expected one character"),
    (file_source.Config, "sources.f", "require_end", "0", "expected true or false, got 0"),
    (file_source.Config, "sources.f", "watch", '"no"', 'expected one of "auto", "poll", "off", got "no"'),
    (ldap_source.Config, "sources.l", "url", '"http://ldap.example.com"', "expected ldaps://HOST or ldap://HOST"),
    (ldap_source.Config, "sources.l", "base", "", 'required key is missing: the DN to search below, such as "dc='),
    (ldap_source.Config, "sources.l", "preset", '"ad"', 'expected one of "active-directory", "openldap"'),
    (ldap_source.Config, "sources.l", "scope", '"all"', 'expected one of "sub", "one", "base", got "all"'),
    (ldap_source.Config, "sources.l", "filter", '"mail=*"', ""),
    (ldap_source.Config, "sources.l", "attributes", '"mail"', 'expected an array, got "mail": write ["mail"]'),
    (ldap_source.Config, "sources.l", "domain_attribute", "[]", "expected a string, got an array"),
    (ldap_source.Config, "sources.l", "domain_filter", "1", 'expected a string, got 1: write "1"'),
    (ldap_source.Config, "sources.l", "domain_base", "1", 'expected a string, got 1: write "1"'),
    (ldap_source.Config, "sources.l", "exclude_disabled", "true", ""),
    (ldap_source.Config, "sources.l", "bind_dn", "7", "expected a string, got 7"),
    (ldap_source.Config, "sources.l", "password_file", "{}", "expected a path, got a table"),
    (ldap_source.Config, "sources.l", "ca_file", '"~/ca.pem"', "~ is not expanded"),
    (ldap_source.Config, "sources.l", "client_cert_file", "true", "expected a path, got true"),
    (ldap_source.Config, "sources.l", "client_key_file", "1.5", "expected a path, got 1.5"),
    (ldap_source.Config, "sources.l", "insecure", "1", "expected true or false, got 1"),
    (ldap_source.Config, "sources.l", "mode", '"fast"', 'expected one of "auto", "sync", "poll", got "fast"'),
    (ldap_source.Config, "sources.l", "full_interval", "1", "expected a time such as"),
    (ldap_source.Config, "sources.l", "page_size", '"1000"', 'expected a whole number such as 1000, got "1000"'),
    (ldap_source.Config, "sources.l", "ignore_references", '"on"', 'expected true or false, got "on": write true'),
    (ldap_source.Config, "sources.l", "connect_timeout", "5", "expected a time such as"),
    (ldap_source.Config, "sources.l", "read_timeout", '"0"', "expected a time such as"),
    (http_source.Config, "sources.h", "url", '"example.com"', "expected https://HOST/PATH"),
    (http_source.Config, "sources.h", "format", '"json"', 'expected one of "lines", got "json"'),
    (http_source.Config, "sources.h", "recipe", "3", "expected a path, got 3"),
    (http_source.Config, "sources.h", "parameters", '"a"', 'expected a table, got "a"'),
    (http_source.Config, "sources.h", "domains", '"example.com"', "expected an array such as"),
    (http_source.Config, "sources.h", "foreign", '"x"', 'expected true or false, got "x"'),
    (http_source.Config, "sources.h", "token_file", '"~/token"', "~ is not expanded"),
    (http_source.Config, "sources.h", "username", "5", 'expected a string, got 5: write "5"'),
    (http_source.Config, "sources.h", "password_file", "[]", "expected a path, got an array"),
    (http_source.Config, "sources.h", "ca_file", "3", "expected a path, got 3"),
    (http_source.Config, "sources.h", "client_cert_file", "3", "expected a path, got 3"),
    (http_source.Config, "sources.h", "client_key_file", "3", "expected a path, got 3"),
    (http_source.Config, "sources.h", "insecure", "2026-01-01", "expected true or false, got the date 2026-01-01"),
    (http_source.Config, "sources.h", "connect_timeout", "3", "expected a time such as"),
    (http_source.Config, "sources.h", "read_timeout", "3", "expected a time such as"),
    (http_source.Config, "sources.h", "max_body", "1000", 'expected a size such as "64K", "20M" or "2G", got 1000'),
    (http_source.Config, "sources.h", "max_pages", '"5"', 'expected a whole number such as 10000, got "5"'),
    (http_source.Config, "sources.h", "max_records", '"5"', "expected a whole number such as 1"),
    (http_source.Config, "sources.h", "full_interval", "3", "expected a time such as"),
]  # fmt: skip
"""A bad value for every key: its Struct, table and name, the value ("" leaves it out), and how its problem begins."""
STRUCTS: tuple[type[Struct], ...] = (
    Postfix,
    Limits,
    DomainLimits,
    Schedule,
    State,
    Notify,
    Metrics,
    sources.Common,
    file_source.Config,
    http_source.Config,
    ldap_source.Config,
)
KEYS = [
    (struct, name) for struct in STRUCTS for name in struct.__struct_fields__ if (struct, name) != (Limits, "domains")
]


@pytest.mark.parametrize(("table", "key", "value", "begins"), [row[1:] for row in BAD])
def test_a_bad_value_is_one_problem(table: str, key: str, value: str, begins: str, tmp_path: Path) -> None:
    """It names the key, says what to write, and has no word of Python or of a library in it."""
    (problem,) = problems(written(changed((table, key, value)), tmp_path))
    assert problem.startswith(f"{table}.{key}: {begins}")
    assert "`" not in problem
    assert "None" not in problem


def test_every_key_has_a_bad_value() -> None:
    """The table above has each key of each table: to add a key is to add a row."""
    assert {(struct, key) for struct, _, key, _, _ in BAD} == set(KEYS)


@pytest.mark.parametrize(("struct", "name"), KEYS)
def test_every_key_is_documented(struct: type[Struct], name: str) -> None:
    """Each key has a docstring of whole sentences, and a row in syncagent.toml(5), from that docstring."""
    if struct is DomainLimits:
        struct = Limits  # whose keys these are, with other values
    text = field_docs(struct).get(name, "")
    assert text.endswith("."), f"{struct.__name__}.{name} needs a docstring"
    page = (Path(__file__).parent.parent / "contrib" / "man" / "syncagent.toml.5").read_text(encoding="ascii")
    assert f"\\fB{name}\\fR (" in page.replace("\\-", "-"), "type: make man"


# Several at once. Any two of these do not depend on each other.

DECIDING = {
    ("sources.f", "type"),
    ("postfix", "relay_domains"),
    ("postfix", "allow_domains"),
    ("schedule", "cron"),
    ("limits", "removed_window"),
    ("sources.l", "preset"),
}
"""Keys on whose value the problem of another key depends: with a cron, schedule.every does not matter."""
APART = [row[1:] for row in BAD if row[1:3] not in DECIDING]


@functools.cache
def _alone(fault: tuple[str, str, str], directory: Path) -> list[str]:
    """Return the problems that one bad value has by itself."""
    return problems(written(changed(fault), directory))


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rows=st.sets(st.sampled_from(range(len(APART))), min_size=2, max_size=9))
def test_all_problems_at_once(rows: set[int], tmp_path: Path) -> None:
    """Each of several bad values has the problem that it has alone, and there is no other."""
    faults = [APART[row] for row in sorted(rows)]
    alone = [problem for fault in faults for problem in _alone(fault[:3], tmp_path)]
    together = problems(written(changed(*(fault[:3] for fault in faults)), tmp_path))
    assert sorted(together) == sorted(alone)


@pytest.mark.parametrize(
    ("changes", "keys"),
    [
        pytest.param(
            [
                ("sources.l", "url", '"http://x"'),
                ("sources.l", "bind_dn", '"cn=x"'),
                ("sources.l", "filter", '"mail=*"'),
                ("sources.l", "base", ""),
                ("postfix", "catch_all", '["a b", "example.net"]'),
            ],
            [
                "postfix.catch_all",
                "postfix.catch_all",
                "sources.l.base",
                "sources.l.filter",
                "sources.l.password_file",
                "sources.l.url",
            ],
            id="conversion, missing key, the kind's own rules and rules across tables",
        ),
        pytest.param(
            [("postfix", "relay_domains", '["a b"]'), ("postfix", "catch_all", '["example.net"]')],
            ["postfix.relay_domains"],
            id="what is outside a bad relay_domains is not known",
        ),
        pytest.param(
            [("sources.l", "bind_dn", "5"), ("sources.l", "password_file", '"corp"')],
            ["sources.l.bind_dn"],
            id="a bad bind_dn is not missing as well",
        ),
        pytest.param(
            [("sources.l", "preset", '"ad"'), ("sources.l", "exclude_disabled", "true")],
            ["sources.l.preset"],
            id="a bad preset may be the one that exclude_disabled needs",
        ),
        pytest.param(
            [("sources.h", "format", '"csv"'), ("sources.h", "recipe", "3")],
            ["sources.h.format", "sources.h.recipe"],
            id="neither of two bad keys is missing as well",
        ),
        pytest.param(
            [("sources.f", "path", ""), ("sources.f", "pth", '"x"'), ("sources.f", "format", '"csv"')],
            ["sources.f.column", "sources.f.pth"],
            id="a misspelled key is not missing as well",
        ),
        pytest.param(
            [("sources.l", "bind_nd", '"cn=x"'), ("sources.l", "password_file", '"corp"')],
            ["sources.l.bind_nd"],
            id="a misspelled key is there for the kind's own rules",
        ),
        pytest.param(
            [("sources.f", "type", '"flie"'), ("sources.f", "deadline", "5"), ("sources.f", "every", '"0s"')],
            ["sources.f.deadline", "sources.f.every", "sources.f.type"],
            id="an unknown type hides no common key",
        ),
        pytest.param(
            [("limits", "canaries", '["info", "x@example.net", "x@example.net"]')],
            ["limits.canaries", "limits.canaries"],
            id="each element once",
        ),
        pytest.param(
            [("schedule", "cron", '"x"'), ("schedule", "max_age", '"1s"'), ("sources.f", "every", '"1h"')],
            ["schedule.cron", "sources.f.every"],
            id="the interval of a bad cron is not known, that of a source is",
        ),
        pytest.param(
            [("limits", "removed_window", "5"), ("state", "history", '"1s"')],
            ["limits.removed_window"],
            id="whether history is long enough for a bad window is not known",
        ),
        pytest.param(
            [('limits."example.net"', "removed_percent", "200"), ('limits."example.net"', "removed_floor", '"x"')],
            [
                'limits."example.net"',
                'limits."example.net".removed_floor',
                'limits."example.net".removed_percent',
            ],
            id="the limits of a domain",
        ),
        pytest.param(
            [("postfix", "map", ""), ("postfix", "domains_map", '"hash:/x"'), ("postfix", "exclude", "3")],
            ["postfix.exclude", "postfix.map"],
            id="a missing map is no other table's",
        ),
    ],
)
def test_together(changes: list[tuple[str, str, str]], keys: list[str], tmp_path: Path) -> None:
    """One run names each problem once, and none that would go away with another."""
    found = problems(written(changed(*changes), tmp_path))
    assert sorted(problem.partition(": ")[0] for problem in found) == keys
    assert len(set(found)) == len(found)


def test_the_program_shows_them_all(tmp_path: Path) -> None:
    """The problems of an LDAP source and of [postfix] are there in one run of the real program."""
    tables = changed(
        ("sources.l", "url", '"http://x"'),
        ("sources.l", "bind_dn", '"cn=x"'),
        ("sources.l", "filter", '"mail=*"'),
        ("sources.l", "base", ""),
        ("postfix", "catch_all", '"a b"'),
    )
    shown = syncagent("check", config=written(tables, tmp_path), check=78).stderr
    for key in ("l.url", "l.password_file", "l.filter", "l.base"):
        assert shown.count(f": sources.{key}: ") == 1
    assert shown.count(": postfix.catch_all: ") == 1


# What is no TOML, and what is TOML but not meant so.

TEXT = '[postfix]\nmap = "hash:/x"\nrelay_domains = ["example.com"]\n[sources.f]\ntype = "file"\npath = "list"\n'


@pytest.mark.parametrize(
    ("old", "new", "shown"),
    [
        (
            '["example.com"]',
            "[“example.com”]",
            (':3: not TOML: “ is a typographic quotation mark: write " instead\n'
            "  relay_domains = [“example.com”]\n"
            "                   ^"),
        ),
        (
            '"list"',
            '"list”',
            ':6: not TOML: ” is a typographic quotation mark: write " instead\n  path = "list”\n               ^',
        ),
        ("[postfix]", "\ufeff[postfix]", ":1: not TOML: the file begins with a byte order mark (U+FEFF): save it"),
        (
            '"list"\n',
            '"list"\n[postfix]\n',
            (":7: not TOML: [postfix] is there a second time (first in line 1): put all its keys below the first\n"
            "  [postfix]\n"
            "          ^"),
        ),
        (
            '"list"\n',
            '"list"\npath = "x"\n',
            ':7: not TOML: path has a value already (line 6): keep one of the two\n  path = "x"\n            ^',
        ),
        (
            '"list"',
            "list",
            ':6: not TOML: expected a value, got list: write "list", in quotation marks\n  path = list\n         ^',
        ),
        (
            '"list"\n',
            '"list"\nallow_empty = yes\n',
            ":7: not TOML: expected a value, got yes: write true\n  allow_empty = yes\n                ^",
        ),
        (
            'path = "list"',
            'path: "list"',
            ':6: not TOML: expected KEY = VALUE, with = and not with :\n  path: "list"\n      ^',
        ),
        (
            '"list"',
            '"list',
            ':6: not TOML: the string has no closing quotation mark in its line\n  path = "list\n              ^',
        ),
        (
            '"list"',
            '"C:\\x"',
            ":6: not TOML: a \\ begins an escape in \"...\": write the string in '...'\n  path = \"C:\\x\"",
        ),
        ('"list"', '["list"', ": not TOML: the file ends within a value or a name: is a closing ], } or"),
        (
            "[sources.f]",
            "[[sources]]\nname = 'f'",
            ":4: sources: expected a table for each source: write [sources.f] instead of [[sources]]",
        ),
        (
            "[sources.f]",
            "[[state]]\n[sources.f]",
            ":4: state: expected a table, got an array: write [state] instead of [[state]]",
        ),
        (
            '["example.com"]',
            '["*.example.com"]',
            (':3: postfix.relay_domains: a pattern is no domain, got "*.example.com": write "example.com"; '
            "subdomains of a relay domain are in scope as well"),
        ),
        (
            '["example.com"]',
            '"example.com, example.org"',
            (':3: postfix.relay_domains: expected an array such as ["example.com"], got "example.com, example.org": '
            'write ["example.com", "example.org"]'),
        ),
        (
            '"file"',
            '"mailcow"',
            ':5: sources.f.type: no source type "mailcow" is installed: write type = "http" and recipe = "mailcow"',
        ),
        ('"file"', '"csv"', ':5: sources.f.type: no source type "csv" is installed: write type = "file"'),
        ('"list"', "2026-01-31", ":6: sources.f.path: expected a path, got the date 2026-01-31"),
    ],
)  # fmt: skip
def test_what_to_write_instead(old: str, new: str, shown: str, tmp_path: Path) -> None:
    """A frequent mistake is shown with its line, and told what to write; a fault of syntax with a caret below it."""
    path = tmp_path / "syncagent.toml"
    assert TEXT.count(old) == 1
    path.write_text(TEXT.replace(old, new), encoding="utf-8")
    with pytest.raises(ConfigError) as caught:
        load(path)
    assert str(caught.value).startswith(f"{path}{shown}")
    assert len(caught.value.problems) == 1


def test_a_long_line_is_cut(tmp_path: Path) -> None:
    """Of a long line the part around the fault is shown, with the caret below it."""
    path = tmp_path / "syncagent.toml"
    path.write_text(f'x = ["{"a" * 500}", !, "{"b" * 500}"]\n', encoding="utf-8")
    with pytest.raises(ConfigError) as caught:
        load(path)
    _, line, caret = str(caught.value).splitlines()
    assert line[len(caret) - 1] == "!"
    assert len(line) < 120


def keys_of(table: dict[str, Any]) -> set[str]:
    """Return the keys of a table of the schema."""
    return set(table["properties"])


def test_descriptions_need_no_source(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Without a module's source the schema has the same keys, and a missing key the same message but for its text."""
    import inspect

    from syncagent.config import json_schema

    whole = json_schema.schema()

    def no_source(_struct: object) -> str:
        raise OSError("could not get source code")

    monkeypatch.setattr(inspect, "getsource", no_source)
    field_docs.cache_clear()
    try:
        bare = json_schema.schema()
        (problem,) = problems(written(changed(("sources.l", "base", "")), tmp_path))
    finally:
        field_docs.cache_clear()
    assert {name: keys_of(table) for name, table in bare["$defs"].items()} == {
        name: keys_of(table) for name, table in whole["$defs"].items()
    }
    assert problem == "sources.l.base: required key is missing: a string"
