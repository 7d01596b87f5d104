"""Every rule about how an address is spelled, a row each, and laws that hold for any text."""

import string
import unicodedata
from typing import NamedTuple

import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from syncagent.addresses import (
    MAX_KEY,
    UnusableError,
    canonical,
    canonical_all,
    canonical_domain,
    folded_domains,
    forms,
    longest_key,
    renderings,
    spelled_alike,
    u_labels,
    unfolded,
    within,
)
from syncagent.invisible import AROUND, first_inside, trimmed
from syncagent.postfix import table_text as mapfile

NFC, NFD = "\N{LATIN SMALL LETTER U WITH DIAERESIS}", "u\N{COMBINING DIAERESIS}"
GROWS = "\N{GREEK SMALL LETTER IOTA WITH DIALYTIKA AND TONOS}"
"""Two octets as written, six as Postfix folds it."""


class Row(NamedTuple):
    """A rule, an address as spelled, and its canonical form."""

    rule: str
    spelled: str
    canonical: str


class Refused(NamedTuple):
    """A rule, an address as spelled, and a part of the reason why it cannot be a recipient."""

    rule: str
    spelled: str
    reason: str


ROWS = (
    Row("plain", "anna@example.com", "anna@example.com"),
    Row("white space around", " \tanna@example.com\t ", "anna@example.com"),
    Row("any atom", "a!#$%&'*+/=?^_`{|}~-z@example.com", "a!#$%&'*+/=?^_`{|}~-z@example.com"),
    # The table of the addresses that were measured.
    Row("quoted for a space", '"john doe"@example.com', '"john doe"@example.com'),
    Row("any case", "Upper.Case@Example.COM", "upper.case@example.com"),
    Row("any case in quotes", '"John DOE"@Example.COM', '"john doe"@example.com'),
    Row("needless quotes", '"quoted"@example.com', "quoted@example.com"),
    Row("needless quotes around dots", '"a.b"@example.com', "a.b@example.com"),
    Row("needless backslash in quotes", '"a\\bc"@example.com', "abc@example.com"),
    Row("quotes for ;", '"semi;colon"@example.com', '"semi;colon"@example.com'),
    Row("quotes for (", '"a(b"@example.com', '"a(b"@example.com'),
    Row("quotes for )", '"a)b"@example.com', '"a)b"@example.com'),
    Row("quotes for <", '"a<b"@example.com', '"a<b"@example.com'),
    Row("quotes for >", '"a>b"@example.com', '"a>b"@example.com'),
    Row("quotes for [", '"a[b"@example.com', '"a[b"@example.com'),
    Row("quotes for ]", '"a]b"@example.com', '"a]b"@example.com'),
    Row("quotes for :", '"a:b"@example.com', '"a:b"@example.com'),
    Row("quotes for ,", '"a,b"@example.com', '"a,b"@example.com'),
    Row("quotes for @", '"a@b"@example.com', '"a@b"@example.com'),
    Row("dot first, quoted", '".dot"@example.com', '".dot"@example.com'),
    Row("dot first, bare", ".dot@example.com", '".dot"@example.com'),
    Row("dot last", "dot.@example.com", '"dot."@example.com'),
    Row("two dots, quoted", '"dq..dq"@example.com', '"dq..dq"@example.com'),
    Row("two dots, bare", "dot..dot@example.com", '"dot..dot"@example.com'),
    Row("escaped quote", '"a\\"b"@example.com', '"a\\"b"@example.com'),
    Row("escaped backslash", '"a\\\\b"@example.com', '"a\\\\b"@example.com'),
    Row("backslash, bare", "back\\slash@example.com", '"back\\\\slash"@example.com'),
    Row("escaped space", '"a\\ b"@example.com', '"a b"@example.com'),
    Row("hash inside", "in#side@example.com", "in#side@example.com"),
    Row("hash after a space", '" #x"@example.com', '" #x"@example.com'),
    Row("percent", "p%h@example.com", "p%h@example.com"),
    Row("bang", "p!h@example.com", "p!h@example.com"),
    Row("hyphen first", "-lead@example.com", "-lead@example.com"),
    Row("non-ASCII", "\u00dcser@example.com", f"{NFC}ser@example.com"),
    Row("decomposed", f"{NFD}ser@example.com", f"{NFC}ser@example.com"),
    Row("extension", "plain+ext@example.com", "plain+ext@example.com"),
    Row("plus first", "+ext@example.com", "+ext@example.com"),
    Row("U-labels", "user@b\u00fccher.example", "user@xn--bcher-kva.example"),
    Row("U-labels, upper case", "user@B\u00dcCHER.Example", "user@xn--bcher-kva.example"),
    Row("U-labels, decomposed", f"user@b{NFD}cher.example", "user@xn--bcher-kva.example"),
    Row("A-labels", "user@XN--Bcher-KVA.example", "user@xn--bcher-kva.example"),
    # More about addresses.
    Row("tab in quotes", '"a\tb"@example.com', '"a b"@example.com'),
    Row("escaped tab", '"a\\\tb"@example.com', '"a b"@example.com'),
    Row("two spaces", '"a  b"@example.com', '"a  b"@example.com'),
    Row("empty local part", '""@example.com', '""@example.com'),
    Row("control character in quotes", '"a\x01b"@example.com', '"a\x01b"@example.com'),
    Row("control character, bare", "a\x01b@example.com", '"a\x01b"@example.com'),
    Row("DEL", "a\x7fb@example.com", '"a\x7fb"@example.com'),
    Row("vertical tab", '"a\vb"@example.com', '"a\vb"@example.com'),
    Row("form feed", '"a\fb"@example.com', '"a\fb"@example.com'),
    Row("line ends around", "\r\n anna@example.com\r\n", "anna@example.com"),
    Row("no-break spaces around", "\u00a0anna@example.com\u00a0\u202f", "anna@example.com"),
    Row("a byte order mark before", "\ufeffanna@example.com", "anna@example.com"),
    Row("directional marks around", "\u202aanna@example.com\u202c\u200e", "anna@example.com"),
    Row("zero width around quotes", '\u200b"a b"@example.com\u2060', '"a b"@example.com'),
    Row("a soft hyphen behind", "anna@example.com\u00ad", "anna@example.com"),
    Row("non-joiner between letters", "\u0645\u06cc\u200c\u0631@example.com", "\u0645\u06cc\u200c\u0631@example.com"),
    Row("joiner behind a virama", "\u0d9a\u0dca\u200d\u0dc2@example.com", "\u0d9a\u0dca\u200d\u0dc2@example.com"),
    Row("joiner at the end of a word", "\u0d28\u0d4d\u200d@example.com", "\u0d28\u0d4d\u200d@example.com"),
    Row("NFC makes a semicolon", "a\u037eb@example.com", '"a;b"@example.com'),
    Row("NFC makes a backtick", "a\u1fefb@example.com", "a`b@example.com"),
    Row("folding lengthens", "Stra\u00dfe@example.com", "strasse@example.com"),
    Row("folding of a final sigma", "\u039f\u03a3@example.com", "\u03bf\u03c3@example.com"),
    Row("folding of a dotted I", "\u0130@example.com", "i\u0307@example.com"),
    Row("folding to ASCII", "\u017fharp@example.com", "sharp@example.com"),
    Row("the Kelvin sign", "\u212a@example.com", "k@example.com"),
    Row("folding is composed again", "\u017f\u0301@example.com", "\u015b@example.com"),
    Row("folding is composed again, capital sharp s", "\u1e9e\u0307@example.com", "s\u1e61@example.com"),
    Row("folding is put in order again", "\u0130\u09cd@example.com", "i\u09cd\u0307@example.com"),
    Row("\u00df in a domain", "u@fa\u00df.example", "u@xn--fa-hia.example"),
    Row("\u00df in an A-label", "u@xn--fa-hia.example", "u@xn--fa-hia.example"),
    Row("\u03c2 in a domain", "u@\u03c0\u03b1\u03c2.example", "u@xn--mxa3ah.example"),
    Row("joiner in a domain", "u@\u0d9a\u0dca\u200d\u0dc2.example", "u@xn--3zc4fxa418p.example"),
    Row("fullwidth domain", "u@\uff45xample\uff0ecom", "u@example.com"),
    Row("ideographic full stop", "u@example\u3002com", "u@example.com"),
    Row("A-label that decodes to nothing good", "u@xn--99999999.example", "u@xn--99999999.example"),
    Row("catch-all", "@Example.ORG", "@example.org"),
    Row("catch-all of an IDN", "@b\u00fccher.example", "@xn--bcher-kva.example"),
    Row("subdomain", "u@Sub.Example.com", "u@sub.example.com"),
    Row("trailing dot", "u@example.com.", "u@example.com"),
    Row("trailing dot after U-labels", "u@b\u00fccher.example.", "u@xn--bcher-kva.example"),
    Row("underscore", "u@under_score.example", "u@under_score.example"),
    Row("single label", "u@test", "u@test"),
    Row("address literal", "u@[192.0.2.1]", "u@[192.0.2.1]"),
    Row("IPv6 literal", "u@[IPv6:2001:DB8::1]", "u@[ipv6:2001:db8::1]"),
    Row("63 octets in a label", f"u@{'l' * 63}.example", f"u@{'l' * 63}.example"),
    Row("255 octets in a domain", f"u@{'l.' * 124}example", f"u@{'l.' * 124}example"),
    Row("digits in one label", "u@123.example", "u@123.example"),
    Row("510 octets", f"{'l' * 498}@example.com", f"{'l' * 498}@example.com"),
    Row("510 octets once folded", f"{GROWS * 83}@example.com", f"{GROWS.casefold() * 83}@example.com"),
)

REFUSED = (
    Refused("nothing", "", "has no @"),
    Refused("no @", "anna", "has no @"),
    Refused("no domain", "anna@", "has no domain"),
    Refused("@ alone", "@", "has no domain"),
    Refused("a dot for a domain", "anna@.", "has no domain"),
    Refused("two @", "a@b@example.com", "more than one @"),
    Refused("an escaped @, bare", "a\\@b@example.com", "more than one @"),
    Refused("hash first", "#hash@example.com", "starts with #"),
    Refused("hash first, upper case", "#Hash@example.com", "starts with #"),
    Refused("hash first, quoted", '"#hash"@example.com', "starts with #"),
    Refused("hash first, escaped", '"\\#hash"@example.com', "starts with #"),
    Refused("NUL", "a\0b@example.com", "NUL"),
    Refused("NUL in quotes", '"a\0b"@example.com', "NUL"),
    Refused("carriage return", '"a\rb"@example.com', "carriage return"),
    Refused("line feed", '"a\nb"@example.com', "line feed"),
    Refused("line feed before the @", "a\n@example.com", "line feed"),
    Refused("NEL", "a\u0085b@example.com", "white space U+0085"),
    Refused("line separator", "a\u2028b@example.com", "white space U+2028 LINE SEPARATOR inside: remove it"),
    Refused("no-break space", "a\u00a0b@example.com", "U+00A0 NO-BREAK SPACE"),
    Refused("no-break space in quotes", '"a\u00a0b"@example.com', "U+00A0 NO-BREAK SPACE"),
    Refused("zero width", "a\u200bb@example.com", "invisible character U+200B ZERO WIDTH SPACE inside: remove it"),
    Refused("zero width before the @", "a\u200b@example.com", "U+200B"),
    Refused("zero width in the domain", "a@exa\u200bmple.com", "U+200B"),
    Refused("soft hyphen", "a\u00adb@example.com", "U+00AD SOFT HYPHEN"),
    Refused("soft hyphen in the domain", "a@exam\u00adple.com", "U+00AD SOFT HYPHEN"),
    Refused("bidi", "a\u202eb@example.com", "U+202E RIGHT-TO-LEFT OVERRIDE"),
    Refused("isolate", "a\u2066b@example.com", "U+2066"),
    Refused("byte order mark inside", "a\ufeffb@example.com", "U+FEFF"),
    Refused("Hangul filler", "a\u3164b@example.com", "U+3164"),
    Refused("tag", "a\U000e0041b@example.com", "U+E0041"),
    Refused("joiner between Latin letters", "a\u200db@example.com", "U+200D ZERO WIDTH JOINER"),
    Refused("non-joiner before Latin letters", "\u0645\u200cb@example.com", "U+200C"),
    Refused("joiner first", "a@\u200d.example", "U+200D"),
    Refused("line feed in the domain", "a@exam\nple.com", "line feed"),
    Refused("open quote", '"open@example.com', "quote that is not closed"),
    Refused("quote closed by an escaped one", '"open\\"@example.com', "quote that is not closed"),
    Refused("something after the quotes", '"a"b@example.com', "quote that is not closed"),
    Refused("two quoted strings", '"a"."b"@example.com', "quote that is not closed"),
    Refused("quotes without a domain", '"a"', "quote that is not closed"),
    Refused("quote inside", 'a"b@example.com', 'has "'),
    Refused("angles", "<u@example.com>", "has <"),
    Refused("comma after it", "u@example.com,", "has ,"),
    Refused("list", "a@example.com, b@example.com", "more than one @"),
    Refused("comma", "a,b@example.com", "has ,"),
    Refused("comment", "(c)u@example.com", "has ("),
    Refused("name", "Name <u@example.com>", "white space"),
    Refused("space, bare", "a b@example.com", "white space"),
    Refused("tab, bare", "a\tb@example.com", "white space"),
    Refused("semicolon, bare", "a;b@example.com", "has ;"),
    Refused("colon, bare", "smtp:a@example.com", "has :"),
    Refused("bracket, bare", "a[b@example.com", "has ["),
    Refused("two trailing dots", "u@example.com..", "malformed domain"),
    Refused("dot first in the domain", "u@.example.com", "malformed domain"),
    Refused("two dots in the domain", "u@example..com", "malformed domain"),
    Refused("space in the domain", "u@exam ple.com", "white space"),
    Refused("comment behind it", "u@example.com # sales", "remove the comment"),
    Refused("comment behind a quoted one", '"u u"@example.com # sales', "remove the comment"),
    Refused("fields behind it", "u@example.com:x:1000", "has :"),
    Refused("control character in the domain", "u@exam\x01ple.com", "malformed domain"),
    Refused("hyphen first in a label", "u@-a.example", "malformed domain"),
    Refused("hyphen last in a label", "u@a-.example", "malformed domain"),
    Refused("xn-- alone", "u@xn--.example", "malformed domain"),
    Refused("digits only", "u@123.456", "digits only"),
    Refused("64 octets in a label", f"u@{'l' * 64}.example", "malformed domain"),
    Refused("256 octets in a domain", f"u@{'l.' * 124}examples", "256 octets"),
    Refused("not IDNA", "u@\u2665.example", "IDNA"),
    Refused("only a soft hyphen", "u@\u00ad", "has no domain"),
    Refused("only an accent", "u@\u0301", "IDNA"),
    Refused("A-label too long", f"u@{chr(0xFC) * 64}.example", "IDNA"),
    Refused("half an address literal", "u@[192.0.2.1", "malformed domain"),
    Refused("surrogate", "a\ud800@example.com", "not valid Unicode"),
    Refused("surrogate in the domain", "a@\ud800.example", "IDNA"),
    Refused("511 octets", f"{'l' * 499}@example.com", "511 octets"),
    Refused("over 510 octets once folded", f"{GROWS * 90}@example.com", "552 octets"),
    Refused("a domain over 510 octets once folded", f"u@{'.'.join([GROWS * 50] * 3)}.example.com", "916 octets"),
)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.rule)
def test_canonical_form(row: Row) -> None:
    """Each way to spell an address has the one canonical form that Postfix will look up."""
    assert canonical(row.spelled) == row.canonical


@pytest.mark.parametrize("row", REFUSED, ids=lambda row: row.rule)
def test_what_cannot_be_a_recipient(row: Refused) -> None:
    """What no table can hold, or what is no address, is refused with the reason."""
    with pytest.raises(UnusableError) as refusal:
        canonical(row.spelled)
    assert row.reason in str(refusal.value)


@pytest.mark.parametrize(
    ("spelled", "expected"),
    [
        ("Example.COM", "example.com"),
        ("example.com.", "example.com"),
        ("B\u00dcCHER.example", "xn--bcher-kva.example"),
        (f"b{NFD}cher.example", "xn--bcher-kva.example"),
        ("XN--BCHER-KVA.example", "xn--bcher-kva.example"),
        ("fa\u00df.example", "xn--fa-hia.example"),
        ("fass.example", "fass.example"),
        ("\u03c0\u03b1\u03c2.example", "xn--mxa3ah.example"),
        ("example\uff0ecom", "example.com"),
        ("[IPv6:2001:DB8::1]", "[ipv6:2001:db8::1]"),
        ("test", "test"),
    ],
)
def test_canonical_domain(spelled: str, expected: str) -> None:
    """A domain is A-labels in lower case, however it is spelled."""
    assert canonical_domain(spelled) == expected


@pytest.mark.parametrize("spelled", ["", ".", "a b", "a@b", "a/b", "-", "xn--", "1.2.3.4", "\u00fc..example", "\0"])
def test_what_is_no_domain(spelled: str) -> None:
    """A name that smtpd would answer 501 to is refused."""
    with pytest.raises(UnusableError):
        canonical_domain(spelled)


@pytest.mark.parametrize(
    ("address", "keys"),
    [
        ("u@example.com", {"u@example.com"}),
        ("xn--u@example.com", {"xn--u@example.com"}),
        ("u@xn--bcher-kva.example", {"u@xn--bcher-kva.example", "u@b\u00fccher.example"}),
        ('"a@b"@xn--bcher-kva.example', {'"a@b"@xn--bcher-kva.example', '"a@b"@b\u00fccher.example'}),
        ("@xn--bcher-kva.example", {"@xn--bcher-kva.example", "@b\u00fccher.example"}),
        ("u@sub.xn--bcher-kva.example", {"u@sub.xn--bcher-kva.example", "u@sub.b\u00fccher.example"}),
        ("u@xn--99999999.example", {"u@xn--99999999.example"}),
        (
            "u@xn--99999999.xn--bcher-kva.example",
            {"u@xn--99999999.xn--bcher-kva.example", "u@xn--99999999.b\u00fccher.example"},
        ),
    ],
)
def test_renderings(address: str, keys: set[str]) -> None:
    """An IDN recipient is written in both forms, the canonical one first; any other once."""
    assert set(renderings(address)) == keys
    assert renderings(address)[0] == address
    assert len(renderings(address)) == len(keys)


@pytest.mark.parametrize(
    ("domain", "covering"),
    [
        ("example.com", "example.com"),
        ("sub.example.com", "example.com"),
        ("deep.sub.example.com", "example.com"),
        ("u.own.example.com", "own.example.com"),
        ("notexample.com", None),
        ("com", None),
        ("example.org", None),
        ("xn--bcher-kva.example", "xn--bcher-kva.example"),
        ("[192.0.2.1]", "[192.0.2.1]"),
        ("", None),
    ],
)
def test_within(domain: str, covering: str | None) -> None:
    """A relay domain covers itself and what is below it; the nearest one counts."""
    relay_domains = {"example.com", "own.example.com", "xn--bcher-kva.example", "[192.0.2.1]"}
    assert within(domain, relay_domains) == covering


CAPITALS = str.maketrans(string.ascii_lowercase, string.ascii_uppercase)
NEEDS_QUOTES = frozenset(' ()<>[]:;@,\x7f"').union(map(chr, range(32)))

# Any text, and text with a chance of being an address: most of what is random has no @ and a malformed domain.
anything = st.text(st.characters(codec=None), max_size=40)
special = st.sampled_from(
    [*' \t\v\f\0\r\n"\\#@.,:;<>()[]%!+-\x7f', "xn--", "\\\\", '\\"', "\u017f\u0301", "\u0345", "\u0130", "\u00df"]
)
local_parts = st.lists(st.one_of(special, st.characters(), st.sampled_from("abCD")), max_size=12).map("".join)
domains = st.one_of(
    st.sampled_from(["Example.com", "B\u00fccher.example", "xn--BCHER-kva.example", "fa\u00df.test", "[192.0.2.1]"]),
    st.lists(st.text(st.characters(categories=["L", "M", "N"]), min_size=1, max_size=8), min_size=1, max_size=3).map(
        ".".join
    ),
    st.from_regex(r"xn--[a-z0-9-]{1,12}\.example", fullmatch=True),
    local_parts,
)
addresses = st.one_of(
    st.tuples(local_parts, domains).map("@".join),
    st.tuples(local_parts, domains).map(lambda parts: f'"{parts[0]}"@{parts[1]}'),
    anything,
)


def accepted(spelled: str) -> str:
    """Give the canonical form; where there is none, this example says nothing."""
    try:
        return canonical(spelled)
    except UnusableError:
        assume(False)  # noqa: FBT003 - that is how hypothesis has it
        raise


@settings(max_examples=500, deadline=None)
@given(spelled=addresses)
def test_any_text_is_an_address_or_refused_with_a_reason(spelled: str) -> None:
    """No text makes any other error, which would cost its whole source."""
    reason = ""
    try:
        found = canonical(spelled)
    except UnusableError as refusal:
        found, reason = "", str(refusal)
    assert bool(found) != bool(reason)


@settings(max_examples=500, deadline=None)
@given(spelled=addresses)
@example(spelled='"a\tb"@example.com')
@example(spelled='"\\#"@example.com')
@example(spelled='" "@example.com')
@example(spelled=f"u@{'.'.join([GROWS * 30] * 2)}.example.com")
def test_every_key_is_one_line_and_one_key(spelled: str) -> None:
    """No key has a line break, a NUL or a tab, is a comment, is split by Postfix, or is too long for lmdb."""
    for form in renderings(accepted(spelled)):
        key = form.casefold().encode()
        assert not set(key) & set(b"\0\r\n\t")
        assert list(mapfile.logical_lines([key + b" OK\n"])) == [(1, key + b" OK")]
        assert mapfile.split(key + b" OK") == (key, b"OK")
        assert len(key) <= longest_key(accepted(spelled)) <= MAX_KEY


@settings(max_examples=500, deadline=None)
@given(spelled=addresses)
@example(spelled=f"{GROWS}@example.com")
@example(spelled='"a\\\\b\\"c"@example.com')
@example(spelled="\u017f\u0301@example.com")
@example(spelled="\u1e9e\u0307@example.com")
@example(spelled="\u0130\u09cd@example.com")
@example(spelled="\u1fb3\u0308\u0323@example.com")
def test_canonical_is_canonical_again(spelled: str) -> None:
    """A canonical form is its own canonical form, without exception."""
    once = accepted(spelled)
    assert canonical(once) == once


@settings(max_examples=500, deadline=None)
@given(spelled=addresses)
def test_the_case_of_ascii_letters_is_nothing(spelled: str) -> None:
    """An address in ASCII capitals is the same recipient; only beside combining marks may case decide what composes."""
    assume(not any(map(unicodedata.combining, spelled)))
    once = accepted(spelled)
    assert canonical(spelled.translate(CAPITALS)) == once


@settings(max_examples=300, deadline=None)
@given(local=st.text(st.characters(exclude_characters='\0\r\n\t"\\', exclude_categories=["Cs"]), max_size=20))
def test_the_key_is_what_smtpd_looks_up(local: str) -> None:
    """The last form is the folded NFC of what is written in the quotes, which are there if they have to be."""
    accepted(f'"{local}"@example.com')
    key = forms(f'"{local}"@example.com')[-1].removesuffix("@example.com")
    folded = unicodedata.normalize("NFC", local).casefold()
    dots = folded.startswith(".") or folded.endswith(".") or ".." in folded
    quotes = not folded or dots or not NEEDS_QUOTES.isdisjoint(folded)
    assert key == (f'"{folded}"' if quotes else folded)


@settings(max_examples=300, deadline=None)
@given(spelled=domains)
@example(spelled="fa\u00df.\u03c0\u03b1\u03c2.xn--bcher-kva")
def test_both_forms_of_a_domain_are_one_domain(spelled: str) -> None:
    """The U-label form of a canonical domain has the same canonical form."""
    domain = accepted(f"u@{spelled}").removeprefix("u@")
    assert canonical_domain(u_labels(domain)) == domain == canonical_domain(domain)


@settings(max_examples=300, deadline=None)
@given(
    spelled=st.lists(
        st.one_of(st.from_regex(r"[a-zA-Z.]{1,4}@[Ee]xample\.com\.?", fullmatch=True), addresses), max_size=4
    )
)
@example(spelled=["a@example.com\nb@example.com"])
@example(spelled=["a@example.com\n", ""])
@example(spelled=["a@example.com", "#b@example.com"])
@example(spelled=["A@Example.com", "\u212a@example.com"])
@example(spelled=["a@123", "b@xn--a.example"])
def test_many_at_once_are_as_one_by_one(spelled: list[str]) -> None:
    """Taking many addresses at once gives what taking each gives, or asks for just that."""
    together = canonical_all(spelled)
    assert together is None or together == [canonical(one) for one in spelled]


def test_many_plain_addresses_are_taken_at_once() -> None:
    """The short way is there for plain addresses in any case."""
    assert canonical_all(["A@example.com", "b.c@Example.COM"]) == ["a@example.com", "b.c@example.com"]


@settings(max_examples=300, deadline=None)
@given(spelled=addresses, before=st.text(st.sampled_from(AROUND), max_size=3), behind=st.text(st.sampled_from(AROUND)))
def test_what_is_around_a_value_means_nothing(spelled: str, before: str, behind: str) -> None:
    """Blanks, line ends and invisible characters around an address change nothing."""
    assert canonical(f"{before}{accepted(spelled)}{behind}") == accepted(spelled)


@settings(max_examples=300, deadline=None)
@given(spelled=addresses)
def test_no_recipient_has_an_invisible_character(spelled: str) -> None:
    """What is taken has none inside, in any of its forms."""
    assert not any(map(first_inside, forms(spelled) if accepted(spelled) else ()))


def test_every_format_character_and_space_is_invisible() -> None:
    """The ranges have all characters of the categories Cf, Zs, Zl and Zp that this Unicode has, and no letter."""
    wanted = {"Cf", "Zs", "Zl", "Zp"}
    chars = [chr(code) for code in range(0x80, 0x110000) if not 0xD800 <= code < 0xE000]
    missing = [char for char in chars if unicodedata.category(char) in wanted and not first_inside(char)]
    extra = {char for char in chars if first_inside(char) and unicodedata.category(char) not in wanted | {"Cn"}}
    assert (missing, extra) == ([], {"\x85", "\u115f", "\u1160", "\u2800", "\u3164", "\uffa0"})
    assert not trimmed(AROUND)


@settings(max_examples=500, deadline=None)
@given(spelled=addresses)
@example(spelled="stra\u00dfe@example.com")
@example(spelled="\u03bf\u03c2@example.com")
def test_the_case_of_letters_is_nothing(spelled: str) -> None:
    """Capitals are the same recipient, as far as they are letters that fold to the same; dotless i is another one."""
    once = accepted(spelled)
    local, _, domain = once.rpartition("@")
    assume(unicodedata.normalize("NFC", local.upper()).casefold() == local)
    assert canonical(f"{local.upper()}@{domain.upper()}") == once


@pytest.mark.parametrize(
    ("spelled", "relay_domain", "same"),
    [
        ("x@FASS.Example", "fa\u00df.example", True),
        ("x@FA\u1e9e.Example", "fa\u00df.example", True),
        ("x@fass.example", "fa\u00df.example", True),
        ("x@Sub.FASS.Example", "fa\u00df.example", True),
        ("x@GROSSSTRASSE.example", "gro\u00dfstra\u00dfe.example", True),
        ("x@\u03a0\u0391\u03a3.example", "\u03c0\u03b1\u03c2.example", True),
        (
            "x@\u1f48\u0394\u03a5\u03a3\u03a3\u0395\u038e\u03a3.example",
            "\u1f40\u03b4\u03c5\u03c3\u03c3\u03b5\u03cd\u03c2.example",
            True,
        ),
        ("x@\u1fbc.example", "\u1fb3.example", True),
        ("x@fa\u00df.example", "fass.example", False),
        ("x@fast.example", "fa\u00df.example", False),
    ],
)
def test_capitals_of_a_relay_domain(spelled: str, relay_domain: str, *, same: bool) -> None:
    """Capitals of U-labels are the domain that Postfix takes them for, whatever folding makes of it."""
    domain = canonical_domain(relay_domain)
    address = unfolded(canonical(spelled), folded_domains([domain]))
    assert (within(address.rpartition("@")[2], {domain}) == domain) == same
    assert not same or canonical(spelled) in spelled_alike(address)


def test_a_relay_domain_of_its_own_is_no_spelling() -> None:
    """Where both domains are relay domains, each has its own addresses."""
    assert folded_domains(["xn--fa-hia.example", "fass.example"]) == {}
