"""What a real smtpd answers by a map that the real program published, for every rule about addresses."""

import contextlib
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from syncagent.state.fields import unescape
from tests.support.need import need_postfix
from tests.support.postfix import PrivatePostfix, postmap_query
from tests.support.postmap import settle
from tests.support.programs import wait_until
from tests.support.run import syncagent

MAP_TYPES = ("hash", "btree", "lmdb", "cdb", "texthash")

TAKEN, UNKNOWN, FOREIGN, MALFORMED, NOT_UTF8 = 250, 550, 554, 501, 500

RELAY_DOMAINS = (
    "example.com",
    "example.org",  # with a catch-all that is permitted
    "example.net",  # with a catch-all that is not
    "bücher.example",
    "xn--mnchen-3ya.example",
    "faß.example",
    "[192.0.2.1]",
    "test",
)
SECOND_FORMS = ("xn--bcher-kva.example", "münchen.example", "xn--fa-hia.example")
"""What a Postfix that takes mail for an IDN domain needs besides: it converts neither way."""

CONTROLS = "".join(chr(code) for code in (*range(1, 9), 11, 12, *range(14, 32), 127))
NFC, NFD = "\N{LATIN SMALL LETTER U WITH DIAERESIS}", "u\N{COMBINING DIAERESIS}"
LONGEST_LABEL = "l" * 63
LONGEST = ".".join([LONGEST_LABEL] * 3) + "." + "m" * (255 - 3 * 64 - len(".example.com")) + ".example.com"
GROWS = ".".join(["\N{GREEK SMALL LETTER IOTA WITH DIALYTIKA AND TONOS}" * 20] * 2) + ".example.com"


@dataclass(frozen=True)
class Row:
    """A rule: what the source says, what is then answered to RCPT TO, and keys that the map has or lacks."""

    rule: str
    says: tuple[str, ...]
    answers: Mapping[str | bytes, int]
    keys: tuple[str, ...] = ()
    no_keys: tuple[str, ...] = ()
    rejected: bool = False


ROWS = (
    Row("plain", ("anna@example.com",), {"anna@example.com": TAKEN, "anne@example.com": UNKNOWN}),
    Row("foreign domain", ("u@elsewhere.example",), {"u@elsewhere.example": FOREIGN}),
    # The table.
    Row(
        "quoted for a space",
        ('"john doe"@example.com',),
        {'"john doe"@example.com': TAKEN, '"john"@example.com': UNKNOWN, "john@example.com": UNKNOWN},
        no_keys=('"john', "john", "john@example.com"),
    ),
    Row(
        "any case",
        ("Upper.Case@Example.COM",),
        {
            "upper.case@example.com": TAKEN,
            "UPPER.CASE@EXAMPLE.COM": TAKEN,
            "Upper.Case@Example.COM": TAKEN,
        },
    ),
    Row(
        "needless quotes",
        ('"quoted"@example.com', '"a\\.b\\c"@example.com'),
        {
            "quoted@example.com": TAKEN,
            '"quoted"@example.com': TAKEN,
            '"Quoted"@example.com': TAKEN,
            "a.bc@example.com": TAKEN,
            '"a.b\\c"@example.com': TAKEN,
        },
        keys=("quoted@example.com",),
        no_keys=('"quoted"@example.com',),
    ),
    Row(
        "specials",
        ('"semi;colon"@example.com', '"com,ma"@example.com', '"p(a)r<e>n[s]:"@example.com'),
        {
            '"semi;colon"@example.com': TAKEN,
            '"com,ma"@example.com': TAKEN,
            '"p(a)r<e>n[s]:"@example.com': TAKEN,
            "semi@example.com": UNKNOWN,
        },
    ),
    Row(
        "dots at the ends",
        ('".dot"@example.com', "tod.@example.com", '"dq..dq"@example.com', "dot..dot@example.com"),
        {
            '".dot"@example.com': TAKEN,
            ".dot@example.com": TAKEN,
            '"tod."@example.com': TAKEN,
            '"dq..dq"@example.com': TAKEN,
            "dq..dq@example.com": TAKEN,
            '"dot..dot"@example.com': TAKEN,
            "dot..dot@example.com": TAKEN,
            "dot.dot@example.com": UNKNOWN,
        },
        keys=('".dot"@example.com', '"dot..dot"@example.com'),
    ),
    Row(
        "escaped quote",
        ('"a\\"b"@example.com',),
        {'"a\\"b"@example.com': TAKEN, "ab@example.com": UNKNOWN, '"a"@example.com': UNKNOWN},
    ),
    Row(
        "backslash",
        ("back\\slash@example.com", '"esc\\\\aped"@example.com'),
        {
            '"back\\\\slash"@example.com': TAKEN,
            "back\\slash@example.com": UNKNOWN,
            "backslash@example.com": UNKNOWN,
            '"esc\\\\aped"@example.com': TAKEN,
        },
    ),
    Row(
        "hash at the start",
        ('"#hash"@example.com',),
        {"#hash@example.com": UNKNOWN, '"#hash"@example.com': UNKNOWN, "hash@example.com": UNKNOWN},
        no_keys=("#hash@example.com", '"#hash"@example.com'),
        rejected=True,
    ),
    Row(
        "hash elsewhere",
        ("in#side@example.com", '" #spaced"@example.com'),
        {"in#side@example.com": TAKEN, '" #spaced"@example.com': TAKEN, "in@example.com": UNKNOWN},
    ),
    Row(
        "routing",
        ("p%h@example.com", "p!h@example.com", '"q@h"@example.com', '"r%h r"@example.com'),
        {
            "p%h@example.com": FOREIGN,
            "p!h@example.com": FOREIGN,
            '"q@h"@example.com': FOREIGN,
            '"r%h r"@example.com': FOREIGN,
        },
        keys=("p%h@example.com", "p!h@example.com", '"q@h"@example.com', '"r%h r"@example.com'),
    ),
    Row(
        "hyphen at the start",
        ("-lead@example.com",),
        {"-lead@example.com": MALFORMED, "lead@example.com": UNKNOWN},
        keys=("-lead@example.com",),
    ),
    Row(
        "NFC",
        ("üser@example.com",),
        {
            f"{NFC}ser@example.com": TAKEN,
            "Üser@example.com": TAKEN,
            f"{NFD}ser@example.com": UNKNOWN,
            "user@example.com": UNKNOWN,
        },
    ),
    Row(
        "NFD",
        (f"{NFD}nfd@example.com",),
        {f"{NFC}nfd@example.com": TAKEN, "ÜNFD@example.com": TAKEN, f"{NFD}nfd@example.com": UNKNOWN},
    ),
    Row(
        "folding that lengthens",
        ("Straße@example.com", "ΐota@example.com", "İst@example.com", "\u017fharp@example.com"),
        {
            "straße@example.com": TAKEN,
            "STRASSE@example.com": TAKEN,
            "STRAẞE@example.com": TAKEN,
            "ΐOTA@example.com": TAKEN,
            "İST@example.com": TAKEN,
            "\u017fharp@example.com": TAKEN,
            "SHARP@example.com": TAKEN,
        },
        keys=("strasse@example.com",),
    ),
    Row(
        "folding that could be composed again",  # U+017F U+0301 is NFC, and folds to s U+0301, which is not
        ("la\u017f\u0301t@example.com",),
        {
            "la\u017f\u0301t@example.com": TAKEN,
            "las\u0301t@example.com": TAKEN,
            "la\u015bt@example.com": TAKEN,
            "LA\u015aT@example.com": TAKEN,
            "last@example.com": UNKNOWN,
        },
    ),
    Row(
        "IDN as U-labels",
        ("user@bücher.example", "u@www.bücher.example"),
        {
            "user@bücher.example": TAKEN,
            "user@BÜCHER.example": TAKEN,
            "user@xn--bcher-kva.example": TAKEN,
            "user@XN--BCHER-KVA.example": TAKEN,
            f"user@b{NFD}cher.example": FOREIGN,
            "other@bücher.example": UNKNOWN,
            "other@xn--bcher-kva.example": UNKNOWN,
            "u@www.bücher.example": TAKEN,
            "u@www.xn--bcher-kva.example": TAKEN,
        },
    ),
    Row(
        "IDN as A-labels",
        ("user@xn--mnchen-3ya.example", "Üser@XN--MNCHEN-3YA.example"),
        {
            "user@münchen.example": TAKEN,
            "user@xn--mnchen-3ya.example": TAKEN,
            "üser@münchen.example": TAKEN,
            "üser@xn--mnchen-3ya.example": TAKEN,
            "other@münchen.example": UNKNOWN,
        },
    ),
    Row(
        "IDN below a plain domain",
        (f"user@b{NFD}cher.example.com", "user@xn--mnchen-3ya.example.com"),
        {
            "user@bücher.example.com": TAKEN,
            "user@xn--bcher-kva.example.com": TAKEN,
            f"user@b{NFD}cher.example.com": UNKNOWN,
            "user@münchen.example.com": TAKEN,
            "user@xn--mnchen-3ya.example.com": TAKEN,
        },
    ),
    Row(
        "IDN with ß",
        ("user@faß.example", "two@xn--fa-hia.example"),
        {
            "user@faß.example": TAKEN,
            "user@xn--fa-hia.example": TAKEN,
            "two@faß.example": TAKEN,
            "two@xn--fa-hia.example": TAKEN,
            "user@fass.example": TAKEN,  # as Postfix folds relay_domains and keys alike
            "other@faß.example": UNKNOWN,
        },
    ),
    Row(
        "IDN with ς and a zero-width joiner",
        ("user@πας.example.com", "user@ක්\u200dෂ.example.com"),
        {
            "user@πας.example.com": TAKEN,
            "user@xn--mxa3ah.example.com": TAKEN,
            "user@xn--mxa3ak.example.com": UNKNOWN,  # πασ, which IDNA2003 made of it
            "user@ක්\u200dෂ.example.com": TAKEN,
            "user@xn--3zc4fxa418p.example.com": TAKEN,
            "user@xn--3zc4fxa.example.com": UNKNOWN,  # without the joiner, which IDNA2003 dropped
        },
    ),
    Row(
        "IDN that grows when folded",
        (f"u@{GROWS}",),
        {f"u@{GROWS}": TAKEN},
    ),
    Row(
        "fullwidth letters",
        ("full@\uff45xample\uff0ecom",),
        {"full@example.com": TAKEN, "full@\uff45xample\uff0ecom": FOREIGN},
    ),
    Row("no extension", ("plain@example.com",), {"plain@example.com": TAKEN, "plain+ext@example.com": UNKNOWN}),
    Row("plus at the start", ("+ext@example.com",), {"+ext@example.com": TAKEN, "ext@example.com": UNKNOWN}),
    # More about addresses.
    Row(
        "white space in quotes",
        ('"a\ttab"@example.com', '"two  spaces"@example.com', '" "@example.com'),
        {
            '"a\ttab"@example.com': TAKEN,
            '"a tab"@example.com': TAKEN,
            '"two  spaces"@example.com': TAKEN,
            '"two spaces"@example.com': UNKNOWN,
            '" "@example.com': TAKEN,
        },
        keys=('"a tab"@example.com',),
        no_keys=('"a\ttab"@example.com',),
    ),
    Row(
        "empty local part",
        ('""@example.com',),
        {'""@example.com': TAKEN, "not.a.catch.all@example.com": UNKNOWN},
        keys=('""@example.com',),
        no_keys=("@example.com",),
    ),
    Row(
        "control characters",
        (f'"{CONTROLS}"@example.com', "bell\a@example.com"),
        {f'"{CONTROLS}"@example.com': TAKEN, '"bell\a"@example.com': TAKEN, "bell@example.com": UNKNOWN},
    ),
    *(
        Row(
            f"U+{ord(char):04X} in quotes",
            (f'"c{char}c{ord(char)}"@example.com',),
            {f'"c{char}c{ord(char)}"@example.com': TAKEN, f'"cc{ord(char)}"@example.com': UNKNOWN},
        )
        for char in CONTROLS
    ),
    Row(
        "invisible inside",
        ("nel\u0085@example.com", "ls\u2028@example.com", "zw\u200b@example.com", "bidi\u202e@example.com"),
        {
            "nel\u0085@example.com": UNKNOWN,
            "ls\u2028@example.com": UNKNOWN,
            "zw\u200b@example.com": UNKNOWN,
            "bidi\u202e@example.com": UNKNOWN,
            "zw@example.com": UNKNOWN,
        },
        rejected=True,
    ),
    Row(
        "invisible around",
        ("\u00a0nbsp@example.com\u00a0", "\u200bzero@example.com\u2060", '\ufeff"mark ed"@example.com\u200e'),
        {
            "nbsp@example.com": TAKEN,
            "zero@example.com": TAKEN,
            '"mark ed"@example.com': TAKEN,
            "\u00a0nbsp@example.com": UNKNOWN,
            "\u200bzero@example.com": UNKNOWN,
        },
    ),
    Row(
        "capitals of a relay domain that folding changes",
        ("capitals@FASS.Example", "u@Sub.FASS.Example"),
        {
            "capitals@FASS.example": TAKEN,
            "capitals@faß.example": TAKEN,
            "capitals@FAẞ.example": TAKEN,
            "capitals@xn--fa-hia.example": TAKEN,
            "u@sub.faß.example": TAKEN,
            "u@sub.xn--fa-hia.example": TAKEN,
            "other@FASS.example": UNKNOWN,
        },
    ),
    Row("not UTF-8", (), {b"\xff@example.com": NOT_UTF8}),
    Row("in angles", ("<angle@example.com>",), {"angle@example.com": TAKEN}),
    Row("with a comma", ("comma@example.com,",), {"comma@example.com": TAKEN}),
    Row("with a comment", ("(c)comment@example.com",), {"comment@example.com": UNKNOWN}, rejected=True),
    Row("with a name", ("Name <named@example.com>",), {"named@example.com": TAKEN}),
    Row("a quote that stays open", ('"open@example.com',), {"open@example.com": UNKNOWN}, rejected=True),
    Row(
        "NFC makes what needs quotes",
        ("greek\u037e@example.com", "varia\u1fef@example.com"),
        {'"greek;"@example.com': TAKEN, "varia`@example.com": TAKEN, "greek@example.com": UNKNOWN},
        keys=('"greek;"@example.com', "varia`@example.com"),
    ),
    Row(
        "subdomain",
        ("u@sub.example.com", "u@deep.sub.example.com"),
        {
            "u@sub.example.com": TAKEN,
            "u@deep.sub.example.com": TAKEN,
            "u@example.com": UNKNOWN,
            "u@other.example.com": UNKNOWN,
        },
    ),
    Row(
        "catch-all",
        ("@example.org",),
        {
            "anybody@example.org": TAKEN,
            '"any body"@example.org': TAKEN,
            "üser@example.org": TAKEN,
            "anybody@sub.example.org": UNKNOWN,
        },
        keys=("@example.org",),
    ),
    Row(
        "catch-all that is held",
        ("@example.net", "known@example.net", "@sub.example.org"),
        {"known@example.net": TAKEN, "anybody@example.net": UNKNOWN},
        no_keys=("@example.net", "@sub.example.org"),
    ),
    Row(
        "dot at the end",
        ("trail@example.com.",),
        {"trail@example.com": TAKEN, "trail@example.com.": TAKEN},
        no_keys=("trail@example.com.",),
    ),
    Row(
        "unusual domains",
        ("u@under_score.example.com", "u@test", "u@[192.0.2.1]", f"u@{LONGEST_LABEL}.example.com", f"u@{LONGEST}"),
        {
            "u@under_score.example.com": TAKEN,
            "u@test": TAKEN,
            "u@[192.0.2.1]": TAKEN,
            "other@[192.0.2.1]": UNKNOWN,
            f"u@{LONGEST_LABEL}.example.com": TAKEN,
            f"u@{LONGEST}": TAKEN,
        },
    ),
    *(
        Row(f"malformed domain {domain[:12]}", (f"u@{domain}",), {f"u@{domain}": MALFORMED}, rejected=True)
        for domain in (
            "xn--.example.com",
            "-a.example.com",
            "a-.example.com",
            "123.456",
            f"{LONGEST_LABEL}l.example.com",
            f"l{LONGEST}",
            "two..dots.example.com",
        )
    ),
)


@dataclass(frozen=True)
class Published:
    """A running Postfix, the map type it reads, and what the sync that published its map said."""

    postfix: PrivatePostfix
    map_type: str
    result: Mapping[str, Any]


def write_source(postfix: PrivatePostfix, lines: Iterable[str]) -> Path:
    """Write a list of addresses, under another name first as one should; give its file."""
    source = postfix.directory / "recipients"
    staged = source.with_suffix(".new")
    staged.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return staged.replace(source)


def write_config(postfix: PrivatePostfix, source: Path, *, relay_domains: Iterable[str] = RELAY_DOMAINS) -> Path:
    """Write a configuration for the map that this Postfix reads; give its file."""
    config = postfix.directory / "syncagent.toml"
    config.write_text(
        f"""\
[postfix]
map = "{postfix.relay_recipient_maps}"
relay_domains = {json.dumps(list(relay_domains), ensure_ascii=False)}
catch_all = {json.dumps([domain for domain in relay_domains if domain == "example.org"])}
config_directory = "{postfix.config_directory}"

[limits]
removal_grace = "0s"

[state]
directory = "{postfix.directory / "state"}"

[sources.list]
type = "file"
path = "{source}"
""",
        encoding="utf-8",
    )
    return config


@contextlib.contextmanager
def made(map_type: str, **parameters: str) -> Iterator[PrivatePostfix]:
    """Make a Postfix for our domains; whoever has published its map starts it."""
    need_postfix(map_type)
    postfix = PrivatePostfix((*RELAY_DOMAINS, *SECOND_FORMS), map_type=map_type)
    if parameters:
        postfix.set(**parameters)
    try:
        yield postfix
    finally:
        postfix.stop()


def codes(postfix: PrivatePostfix, *addresses: str) -> list[int]:
    """Ask about addresses in a new session; give the code of each answer."""
    return [verdict.code for verdict in postfix.verdicts(addresses)]


@pytest.fixture(scope="module", params=MAP_TYPES)
def published(request: pytest.FixtureRequest) -> Iterator[Published]:
    """A Postfix of each map type, started on the map that one sync published from all rows."""
    with made(request.param) as postfix:
        source = write_source(postfix, (line for row in ROWS for line in row.says))
        config = write_config(postfix, source)
        done = syncagent("sync", "--accept-incomplete", "--json", config=config, check=65)
        settle(postfix.map_path)
        postfix.start()
        yield Published(postfix, request.param, json.loads(done.stdout))


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.rule)
def test_answers_to_rcpt(published: Published, row: Row) -> None:
    """Whom the rule says smtpd takes, it takes, and whom it refuses, it refuses, on every map type."""
    heard = published.postfix.verdicts(list(row.answers))
    assert {address: verdict.code for address, verdict in zip(row.answers, heard, strict=True)} == row.answers


@pytest.mark.parametrize("row", [row for row in ROWS if row.keys or row.no_keys], ids=lambda row: row.rule)
def test_keys_in_the_map(published: Published, row: Row) -> None:
    """The map answers for the keys that the rule names, also where smtpd refuses them, and not for the others."""
    postfix, name = published.postfix, f"{published.map_type}:{published.postfix.map_path}"
    found = {key: postmap_query(postfix.config_directory, name, key.encode()) for key in (*row.keys, *row.no_keys)}
    assert found == dict.fromkeys(row.keys, b"OK") | dict.fromkeys(row.no_keys)


def test_what_cannot_be_published_is_reported(published: Published) -> None:
    """Every malformed entry is a reject with its reason, and nothing else is."""
    expected = {line for row in ROWS if row.rejected for line in row.says}
    reported = {unescape(one["spelled"]): one["reason"] for one in published.result["reject_sample"]}
    assert set(reported) == expected
    assert all(reported.values())
    assert published.result["rejected"] == len(expected)


def test_without_smtputf8(published: Published) -> None:
    """A client that does not ask for SMTPUTF8 may name a non-ASCII local part, and no non-ASCII domain."""
    asked = ["üser@example.com", "user@bücher.example", "user@xn--bcher-kva.example"]
    heard = published.postfix.verdicts(asked, smtputf8=False)
    assert [verdict.code for verdict in heard] == [TAKEN, MALFORMED, TAKEN]


def test_catch_alls_that_are_not_permitted_are_held(published: Published) -> None:
    """A catch-all outside postfix.catch_all is named as held, and not published."""
    assert set(published.result["plan"]["held_catch_alls"]) == {"@example.net", "@sub.example.org"}


def test_foreign_domains_are_counted(published: Published) -> None:
    """What is in no relay domain is counted by domain and is no reject."""
    assert published.result["plan"]["out_of_scope"] == {"elsewhere.example": 1}


@pytest.mark.parametrize("map_type", MAP_TYPES)
def test_a_catch_all_alone_is_held(map_type: str) -> None:
    """A held catch-all alone makes the exit status 65, while what comes with it is published."""
    with made(map_type) as postfix:
        source = write_source(postfix, ["known@example.net", "@example.net"])
        config = write_config(postfix, source, relay_domains=["example.net"])
        syncagent("sync", config=config, check=65)
        settle(postfix.map_path)
        postfix.start()
        assert codes(postfix, "known@example.net", "other@example.net") == [TAKEN, UNKNOWN]


@pytest.mark.parametrize("map_type", MAP_TYPES)
def test_an_open_session_keeps_the_old_map(map_type: str) -> None:
    """A session that is open goes on with the map it knows; a new one answers by the new map."""
    with made(map_type) as postfix:
        source = write_source(postfix, ["old@example.com", "stays@example.com"])
        config = write_config(postfix, source, relay_domains=["example.com"])
        syncagent("sync", config=config, check=0)
        settle(postfix.map_path)
        postfix.start()
        asked = ["old@example.com", "stays@example.com", "new@example.com"]
        with postfix.client() as session:
            before = postfix.verdicts(asked, client=session)
            # A second process, idle when the map changes: only what it does then shows whether it was told.
            assert codes(postfix, *asked) == [TAKEN, TAKEN, UNKNOWN]
            write_source(postfix, ["new@example.com", "stays@example.com"])
            syncagent("sync", config=config, check=0)
            settle(postfix.map_path)
            if map_type == "texthash":
                # New processes read it, once the reload has made them. Asked too often, an old one would end anyway.
                wait_until(lambda: codes(postfix, "new@example.com") == [TAKEN], pause=0.2)
            assert codes(postfix, *asked) == [UNKNOWN, TAKEN, TAKEN]
            assert [verdict.code for verdict in before] == [TAKEN, TAKEN, UNKNOWN]
            assert postfix.verdicts(asked, client=session) == before


@pytest.mark.parametrize("map_type", MAP_TYPES)
def test_with_a_recipient_delimiter(map_type: str) -> None:
    """Where Postfix knows a delimiter, an address opens its extensions, and a name that starts with it is its own."""
    with made(map_type, recipient_delimiter="+") as postfix:
        source = write_source(postfix, ["plain@example.com", "+own@example.com", "only+ext@example.com"])
        syncagent("sync", config=write_config(postfix, source, relay_domains=["example.com"]), check=0)
        settle(postfix.map_path)
        postfix.start()
        assert codes(postfix, "plain@example.com", "plain+anything@example.com") == [TAKEN, TAKEN]
        assert codes(postfix, "+own@example.com", "own@example.com", "+plain@example.com") == [
            TAKEN,
            UNKNOWN,
            UNKNOWN,
        ]
        assert codes(postfix, "only+ext@example.com", "only@example.com", "only+else@example.com") == [
            TAKEN,
            UNKNOWN,
            UNKNOWN,
        ]


@pytest.mark.parametrize("map_type", MAP_TYPES)
def test_where_settings_allow_what_is_refused_by_default(map_type: str) -> None:
    """Addresses with a route or a leading hyphen are in the map, and open where Postfix's settings allow them."""
    allowed = {
        "allow_untrusted_routing": "yes",
        "allow_percent_hack": "no",
        "swap_bangpath": "no",
        "allow_min_user": "yes",
        "resolve_dequoted_address": "no",
    }
    with made(map_type, **allowed) as postfix:
        addresses = ["p%h@example.com", "p!h@example.com", "-lead@example.com", '"q@h"@example.com']
        source = write_source(postfix, addresses)
        syncagent("sync", config=write_config(postfix, source, relay_domains=["example.com"]), check=0)
        settle(postfix.map_path)
        postfix.start()
        assert codes(postfix, *addresses) == [TAKEN] * 4
        assert codes(postfix, "x%h@example.com", "x!h@example.com", "-x@example.com") == [UNKNOWN] * 3
