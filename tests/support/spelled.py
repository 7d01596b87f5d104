"""A corpus of spellings: what a source lists, and which spellings of senders are the same mailbox.

What is right is said here by construction, never by the program: a mailbox has a number of its own, its local part and
its domain are of a kind, and each kind has the spellings that are listed and those that a sender uses.
"""

from collections.abc import Iterator
from itertools import cycle, islice
from typing import NamedTuple


class Listed(NamedTuple):
    """A value of a source. ``same``: spellings that smtpd takes for it; ``other``: those that it knows nothing of."""

    kind: str
    spelled: str
    same: tuple[str, ...] = ()
    other: tuple[str, ...] = ()
    rejected: bool = False


class Part(NamedTuple):
    """A kind of local part or domain: how it is listed, how a sender writes it, and what is another one."""

    kind: str
    listed: tuple[str, ...]
    sent: tuple[str, ...]
    other: tuple[str, ...] = ()


RELAY_DOMAINS = (
    *("example.com", "example.org", "bücher.example", "faß.example", "großstraße.example", "πας.example"),
    *("ὀδυσσεύς.example", "ᾳδης.example", "მზე.example", "xn--mnchen-3ya.example", "[192.0.2.1]"),
)
"""As they are in the configuration. ``SECOND_FORMS`` are those that main.cf needs besides."""
SECOND_FORMS = (
    *("xn--bcher-kva.example", "xn--fa-hia.example", "xn--grostrae-syae.example", "xn--mxa3ah.example"),
    *("xn--pxac3bcak3d8526a.example", "xn--mxagjg1c.example", "xn--poddo.example", "münchen.example"),
)

_NFD = "u\N{COMBINING DIAERESIS}"

DOMAINS = (
    Part("plain", ("example.com", "EXAMPLE.Com", "example.com."), ("example.com", "EXAMPLE.COM", "example.com.")),
    Part("subdomain", ("sub.example.com", "Sub.Example.Com"), ("sub.example.com", "SUB.example.com")),
    Part("deep", ("a.b-c.d_e.example.org",), ("a.b-c.d_e.example.org", "A.B-C.D_E.EXAMPLE.ORG")),
    Part("literal", ("[192.0.2.1]",), ("[192.0.2.1]",)),
    Part("fullwidth", ("\uff45xample\uff0ecom", "example\u3002com"), ("example.com",)),
    Part(
        "IDN",
        ("bücher.example", "BÜCHER.Example", f"b{_NFD}cher.example", "xn--bcher-kva.example", "XN--BCHER-KVA.EXAMPLE"),
        ("bücher.example", "BÜCHER.EXAMPLE", "xn--bcher-kva.example", "XN--Bcher-Kva.example", "bücher.example."),
    ),
    Part(
        "IDN by A-labels",
        ("xn--mnchen-3ya.example", "münchen.example", "MÜNCHEN.EXAMPLE"),
        ("münchen.example", "MÜNCHEN.EXAMPLE", "xn--mnchen-3ya.example"),
    ),
    Part(
        "IDN below an IDN",
        ("größe.bücher.example", "xn--gre-6ka8i.bücher.example", "GRÖßE.BÜCHER.EXAMPLE"),
        ("größe.bücher.example", "GRÖẞE.BÜCHER.EXAMPLE", "xn--gre-6ka8i.xn--bcher-kva.example"),
    ),
    Part(
        "IDN below a plain domain",
        ("bücher.example.com", "xn--bcher-kva.example.com"),
        ("bücher.example.com", "BÜCHER.example.com", "xn--bcher-kva.example.com"),
    ),
    Part(
        "sharp s",
        ("faß.example", "xn--fa-hia.example", "FASS.Example", "FAẞ.Example", "Faß.example"),
        ("faß.example", "fass.example", "FASS.EXAMPLE", "FAẞ.example", "xn--fa-hia.example"),
    ),
    Part(
        "two sharp s",
        ("großstraße.example", "GROSSSTRASSE.example", "GROẞSTRAẞE.example"),
        ("großstraße.example", "GROSSSTRASSE.EXAMPLE", "xn--grostrae-syae.example"),
    ),
    Part(
        "final sigma",
        ("πας.example", "ΠΑΣ.example", "Πας.Example", "xn--mxa3ah.example"),
        ("πας.example", "ΠΑΣ.EXAMPLE", "πασ.example", "xn--mxa3ah.example"),
    ),
    Part(
        "polytonic",
        ("ὀδυσσεύς.example", "ὈΔΥΣΣΕΎΣ.EXAMPLE", "Ὀδυσσεύς.example"),
        ("ὀδυσσεύς.example", "ὈΔΥΣΣΕΎΣ.example", "xn--pxac3bcak3d8526a.example"),
    ),
    Part(
        "iota subscript",
        ("ᾳδης.example", "ᾼδης.example", "ΑΙΔΗΣ.example"),
        ("ᾳδης.example", "ᾼδης.example", "ΑΙΔΗΣ.EXAMPLE", "αιδης.example"),
    ),
    Part("Georgian", ("მზე.example", "xn--poddo.example"), ("მზე.example", "xn--poddo.example")),
    Part(
        "joiner",
        ("ක්\u200dෂ.example.com", "xn--3zc4fxa418p.example.com"),
        ("ක්\u200dෂ.example.com", "xn--3zc4fxa418p.example.com"),
    ),
)

CONTROLS = "".join(chr(code) for code in (*range(1, 9), 11, 12, *range(14, 32), 127))

LOCALS = (
    Part("plain", ("u{n}", "U{n}"), ("u{n}", "U{n}"), ("u{n}x", "xu{n}")),
    Part("needless quotes", ('"q{n}"', '"Q{n}"'), ("q{n}", '"q{n}"', '"Q{n}"'), ('"q{n} "',)),
    Part("needless backslashes", ('"\\b{n}\\c"',), ("b{n}c", '"b{n}\\c"'), ("b{n}",)),
    Part("dots", ("a.b{n}", '"A.b{n}"'), ("a.b{n}", "A.B{n}", '"a.b{n}"'), ("ab{n}", "a.{n}")),
    Part("dot first", (".d{n}", '".d{n}"'), ('".d{n}"', ".d{n}"), ("d{n}",)),
    Part("dot last", ("d{n}.", '"d{n}."'), ('"d{n}."', "d{n}."), ("d{n}x.",)),
    Part("two dots", ("a..b{n}", '"a..b{n}"'), ('"a..b{n}"', "a..b{n}"), ("a.b.{n}",)),
    Part("atoms", ("a#$&'*/=?^_`{{|}}~{n}",), ("a#$&'*/=?^_`{{|}}~{n}",), ("a#{n}",)),
    Part("space", ('"j d{n}"', '"J\\ D{n}"', '"j\td{n}"'), ('"j d{n}"', '"J D{n}"', '"j\\ d{n}"'), ("jd{n}", '"j"')),
    Part("spaces", ('"j  d{n}"',), ('"j  d{n}"',), ('"j  d{n} "', '"j   d{n}"')),
    Part("specials", ('"s(;,:<>)[]{n}"',), ('"s(;,:<>)[]{n}"', '"S(\\;,:<>)[]{n}"'), ("s{n}",)),
    Part("quote in quotes", ('"x\\"y{n}"',), ('"x\\"y{n}"', '"X\\"Y{n}"'), ("xy{n}", '"x"')),
    Part("backslash", ("k\\l{n}", '"k\\\\l{n}"'), ('"k\\\\l{n}"', '"K\\\\L{n}"'), ("kl{n}", "k\\l{n}")),
    Part("controls", (f'"{CONTROLS}{{n}}"',), (f'"{CONTROLS}{{n}}"',), ('"{n}"',)),
    Part("hash inside", ("in#side{n}",), ("in#side{n}", "IN#SIDE{n}"), ("in{n}",)),
    Part("extension", ("p+x{n}", "P+X{n}"), ("p+x{n}", "P+x{n}"), ("p+y{n}", "p")),
    Part("delimiter first", ("+e{n}",), ("+e{n}", "+E{n}"), ("e{n}",)),
    Part("umlaut", ("üser{n}", "ÜSER{n}", f"{_NFD}ser{{n}}"), ("üser{n}", "ÜSER{n}", "Üser{n}"), ("user{n}",)),
    Part("umlaut in quotes", ('"ü s{n}"', f'"{_NFD} s{{n}}"'), ('"ü s{n}"', '"Ü S{n}"'), ('"u s{n}"',)),
    Part(
        "sharp s", ("straße{n}", "STRASSE{n}", "STRAẞE{n}"), ("straße{n}", "STRASSE{n}", "strasse{n}"), ("strase{n}",)
    ),
    Part("final sigma", ("οδος{n}x", "ΟΔΟΣ{n}X"), ("οδοσ{n}x", "οδος{n}x", "ΟΔΟΣ{n}x"), ("οδο{n}x",)),
    Part("tonos", ("μαρία{n}", "ΜΑΡΊΑ{n}", "μαρι\u0301\u03b1{n}"), ("μαρία{n}", "ΜΑΡΊΑ{n}"), ("μαρι\u03b1{n}",)),
    Part("polytonic", ("ᾳω{n}", "ᾼΩ{n}"), ("ᾳω{n}", "ᾼΩ{n}", "\u03b1\u03b9ω{n}", "ΑΙΩ{n}"), ("\u03b1ω{n}",)),
    Part("dialytika", ("ΐ{n}",), ("ΐ{n}",), ("\u03b9{n}",)),
    Part("dotted I", ("İst{n}", "i\u0307st{n}"), ("İst{n}", "İST{n}", "i\u0307st{n}"), ("ist{n}",)),
    Part("dotless i", ("\u0131rak{n}",), ("\u0131rak{n}", "\u0131RAK{n}"), ("irak{n}",)),
    Part("long s", ("\u017fharp{n}", "sharp{n}"), ("\u017fharp{n}", "SHARP{n}", "sharp{n}"), ("harp{n}",)),
    Part(
        "long s with accent",
        ("la\u017f\u0301t{n}",),
        ("la\u017f\u0301t{n}", "las\u0301t{n}", "laśt{n}", "LAŚT{n}"),
        ("last{n}",),
    ),
    Part("capital sharp s with dot", ("\u1e9e\u0307{n}",), ("\u1e9e\u0307{n}", "ß\u0307{n}", "sṡ{n}"), ("ss{n}",)),
    Part("dotted I with virama", ("\u0130\u09cd{n}",), ("\u0130\u09cd{n}", "i\u09cd\u0307{n}"), ("i{n}",)),
    Part("Kelvin", ("\u212aelvin{n}", "Kelvin{n}"), ("kelvin{n}", "KELVIN{n}"), ("elvin{n}",)),
    Part("Angstrom", ("\u212bs{n}", "ås{n}", "A\u030as{n}"), ("ås{n}", "ÅS{n}"), ("as{n}",)),
    Part("ligature", ("o\ufb03ce{n}", "office{n}"), ("office{n}", "OFFICE{n}", "o\ufb03ce{n}"), ("oice{n}",)),
    Part("Cyrillic", ("почта{n}", "ПОЧТА{n}"), ("почта{n}", "ПОЧТА{n}", "Почта{n}"), ("почт{n}",)),
    Part("short i", ("й{n}", "\u0438\u0306{n}", "Й{n}"), ("й{n}", "Й{n}"), ("и{n}",)),
    Part("Armenian", ("և{n}", "ԵՒ{n}"), ("և{n}", "ԵՒ{n}", "եւ{n}"), ("ե{n}",)),
    Part("Cherokee", ("\uab70{n}", "\u13a0{n}"), ("\uab70{n}", "\u13a0{n}"), ("\uab71{n}",)),
    Part("Deseret", ("\U00010428{n}", "\U00010400{n}"), ("\U00010428{n}", "\U00010400{n}"), ("\U00010429{n}",)),
    Part("Hangul", ("한글{n}", "\u1112\u1161\u11ab글{n}"), ("한글{n}",), ("한{n}",)),
    Part("Vietnamese", ("việt{n}", "vie\u0323\u0302t{n}", "VIỆT{n}"), ("việt{n}", "VIỆT{n}"), ("viet{n}",)),
    Part("non-joiner", ("می\u200cروم{n}",), ("می\u200cروم{n}",), ("میروم{n}",)),
    Part("joiner", ("ක්\u200dෂ{n}",), ("ක්\u200dෂ{n}",), ("ක්ෂ{n}",)),
    Part("emoji", ("❤\ufe0f{n}",), ("❤\ufe0f{n}",), ("❤{n}x",)),
    Part("Greek question mark", ("g\u037e{n}",), ('"g;{n}"', '"G;{n}"'), ("g{n}",)),
    Part("a letter of a later Unicode", ("\ua7ce{n}",), ("\ua7ce{n}",), ("\ua7cd{n}",)),
)

INVISIBLE = (
    *("\u00ad", "\u061c", "\u180e", "\u200b", "\u200c", "\u200d", "\u200e", "\u200f", "\u202a", "\u202c", "\u202e"),
    *("\u2060", "\u2062", "\u2066", "\u2069", "\ufeff", "\ufff9", "\U000e0041", "\u3164", "\u2800"),
)
BLANK = ("\u0085", "\u00a0", "\u1680", "\u2003", "\u2009", "\u2028", "\u2029", "\u202f", "\u205f", "\u3000")
_AROUND = (*INVISIBLE, *BLANK, " ", "\t", "\r\n", "\n", "\r", "\v", "\f", " \u00a0\r\n")
_SPELLINGS_OF_A_LOCAL_PART = 24
_SHAPES = (
    *("two@at{n}@example.com", '"open{n}@example.com', 'in"side{n}@example.com', '"#hash{n}"@example.com', "bare{n}"),
    *("ctl{n}@exam\x01ple.com", "hyphen{n}@-a.example.com", "empty{n}@a..example.com", "ace{n}@xn--.example.com"),
    f"long{{n}}@{'l' * 64}.example.com",
)
"""Values that are no address."""


def corpus() -> list[Listed]:
    """Return the whole corpus."""
    return [*_mailboxes(), *_around(), *_inside(), *_injected(), *_malformed()]


def _mailboxes() -> Iterator[Listed]:
    """Yield each spelling of a local part at many spellings of domains, each a mailbox of its own."""
    domains = cycle([(part, spelled) for part in DOMAINS for spelled in part.listed])
    turn = 0
    for part in LOCALS:
        for local in part.listed:
            for domain, spelled in islice(domains, _SPELLINGS_OF_A_LOCAL_PART):
                turn += 1
                yield _mailbox(part, local, domain, spelled, turn)


def _mailbox(part: Part, local: str, domain: Part, spelled: str, n: int) -> Listed:
    sent = [(part.sent[(n + at) % len(part.sent)], domain.sent[(n + at) % len(domain.sent)]) for at in range(2)]
    other = f"{part.other[n % len(part.other)]}@{domain.sent[n % len(domain.sent)]}"
    return Listed(
        f"{part.kind}, {domain.kind}",
        f"{local.format(n=n)}@{spelled}",
        tuple(f"{name.format(n=n)}@{place}" for name, place in sent),
        (other.format(n=n),),
    )


def _around() -> Iterator[Listed]:
    for n, char in enumerate(_AROUND):
        for place, (before, behind) in enumerate(((char, ""), ("", char), (char, char))):
            name = f"around{n}.{place}"
            yield Listed("around", f"{before}{name}@example.com{behind}", (f"{name}@example.com",))
            quoted = f'"a round{n}.{place}"'
            yield Listed("around", f"{before}{quoted}@bücher.example{behind}", (f"{quoted}@bücher.example",))


def _inside() -> Iterator[Listed]:
    """Yield addresses with an invisible character: nobody gets mail by them, whoever they look like."""
    for n, char in enumerate((*INVISIBLE, *BLANK)):
        seen, mails = f"in{char}side{n}@example.com", f"inside{n}@example.com"
        places = (
            seen,
            f"insider{n}{char}@example.com",
            f'"in{char}quotes{n}"@example.com',
            f"host{n}@exam{char}ple.com",
        )
        others = (mails, f"insider{n}@example.com", f"inquotes{n}@example.com", f"host{n}@example.com")
        for spelled, other in zip(places, others, strict=True):
            yield Listed("inside", spelled, (), (other,), rejected=True)


def _injected() -> Iterator[Listed]:
    """Yield values that would be a line, a key or a value of their own in a table."""
    for n, end in enumerate(("\n", "\r\n", "\r", "\n ", "\n#", "\n\n", "\u2028\n")):
        known, victim = f"inject{n}@example.com", f"victim{n}@example.com"
        for spelled in (f"{known}{end}{victim}", f"{known} OK{end}{victim} OK", f'"inject{n}{end}{victim} OK'):
            yield Listed("injected", spelled, (), (victim, known), rejected=True)
        yield Listed("injected", f"inject{n}{end}x@example.com", (), (f"inject{n}x@example.com",), rejected=True)


def _malformed() -> Iterator[Listed]:
    for n, shape in enumerate(_SHAPES):
        other = shape.format(n=n).replace('"', "").replace("#", "").partition("@")[0]
        yield Listed("malformed", shape.format(n=n), (), (f"{other}@example.com",), rejected=True)
