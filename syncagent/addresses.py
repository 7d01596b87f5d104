"""Canonical forms of addresses and domains, and the reasons why a spelling has none.

The canonical form is the key that Postfix looks up: see postmap(1), smtpd(8) and RFC 5321 section 4.1.2. Each source
removes its own syntax (``smtp:`` prefixes, JSON). No other module validates addresses.

A quoted local part is unquoted; an unquoted one is taken literally. Either is folded, and quoted where RFC 5321
requires it. An unquoted special such as ``,`` or ``<`` is refused: it is more likely a list, a comment or a display
name than part of a mailbox's name, and a misread recipient is a lost recipient.
"""

from __future__ import annotations

import re
import unicodedata
from functools import lru_cache
from typing import TYPE_CHECKING

from syncagent import invisible

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from collections.abc import Set as AbstractSet

VERSION = f"3/{unicodedata.unidata_version}"
"""Version of the canonical form and of Unicode, stored with every snapshot. One of another version is not used."""

MAX_KEY = 510
"""Maximum length of a folded key in octets. postmap cannot build an lmdb table with a longer key."""

MAX_LINE = 1 << 20
"""Maximum length of a line or logical line of a file in octets. Longer lines are refused, so that memory is bounded."""

MAX_SPELLED = 4096
"""Maximum length of a spelling in octets of UTF-8. A longer spelling is rejected before it is parsed.

No usable address needs so many: smtpd(8) takes lines of 2048 octets (line_length_limit). Unicode normalization is
quadratic in a run of combining marks and holds the interpreter lock: 4 KiB take 4 ms, 320 kB over a minute.
"""

_SHRINK = 4
"""Maximum factor by which NFC, case folding or UTS 46 shortens a text; UTF-8 has at most 4 octets per character."""

_PLAIN = re.compile(r"(?!#)[a-z0-9!#$%&'*+/=?^_`{|}~-]+(?:\.[a-z0-9!#$%&'*+/=?^_`{|}~-]+)*@([a-z0-9._-]+)")
_PLAIN_LINE = re.compile(f"^{_PLAIN.pattern}$", re.MULTILINE)
_QUOTED = re.compile(r'"([^"\\]*(?:\\.[^"\\]*)*)"@(.*)', re.DOTALL)
_UNSAFE = re.compile(r"[\x00\r\n]")
_SPECIAL = re.compile(r'[^ \t()<>\[\]:;,"]*([ \t()<>\[\]:;,"])')
_SPECIAL_IN_DOMAIN = re.compile(r'(?!\[)[^ \t()<>:;,"]*([ \t()<>:;,"])')
_ALONE = "write the address alone"
_EACH = "write each address as an entry of its own"
_INSTEAD = {
    " ": f"{_ALONE}; remove the comment, or put it on a line of its own with #",
    ",": _EACH,
    ";": _EACH,
    ":": f"{_ALONE}, without what is before or after it",
    "<": f"{_ALONE}, without name and brackets",
    "(": f"{_ALONE}, without comment",
    '"': 'quote the whole local part, as in "a b"@example.com',
}
"""What to write instead of a spelling with this character outside quotes; ``_ALONE`` for any other."""
_NO_BLANK = 'remove it, or write a plain blank in quotes, as in "a b"@example.com'
_DOT_STRING = re.compile(r'[^\x00-\x20\x7f()<>\[\]:;,@\\".]+(?:\.[^\x00-\x20\x7f()<>\[\]:;,@\\".]+)*')
_LABEL = re.compile(r"(?!-)[a-z0-9_-]{1,63}(?<!-)")
_LITERAL = re.compile(r"\[[0-9a-z:.]{1,60}\]")
_MAX_DOMAIN = 255
_NO_DOMAIN = "has no domain: write one such as example.com"
_MALFORMED = "has a malformed domain: expected letters, digits and hyphens with dots between, as in example.com"


class UnusableError(ValueError):
    """The spelling has no canonical form. The message is the reason, as a predicate such as "has no @"."""


def canonical(spelled: str) -> str:
    """Return the canonical form of an address, ``local@domain``, or of a catch-all, ``@domain``.

    This form is stored, compared and published. The local part is case folded, in NFC, and quoted only where
    necessary. The domain is as ``canonical_domain`` returns it. Raises UnusableError if there is no canonical form.
    """
    return forms(spelled)[0]


def forms(spelled: str) -> tuple[str, ...]:
    """Return the canonical form, and with it the key that Postfix makes of this spelling if that is another one.

    Postfix folds once and does not compose: it looks up U+017F U+0301 as s U+0301, whose canonical form is U+015B. Both
    are then recipients. Raises UnusableError if there is no canonical form.
    """
    check_length(spelled)
    lowered = spelled.lower()
    plain = _PLAIN.fullmatch(lowered)
    if plain and len(lowered) <= MAX_KEY:
        name = plain[1]
        domain = canonical_domain(name)
        return (lowered if domain == name and "xn--" not in name else _fitting(lowered[: -len(name)] + domain),)
    return _carefully(spelled)


def too_long(spelled: str) -> str:
    """Return the reason why a spelling is too long, with its length and the limit; empty if it is not too long."""
    if len(spelled) * _SHRINK <= MAX_SPELLED:
        return ""
    octets = len(spelled) if spelled.isascii() else len(spelled.encode(errors="surrogatepass"))
    if octets <= MAX_SPELLED:
        return ""
    return f"is {octets} octets long, over the {MAX_SPELLED} of the longest spelling: write one address, and no more"


def check_length(spelled: str) -> None:
    """Raise UnusableError if a spelling is longer than MAX_SPELLED."""
    reason = too_long(spelled)
    if reason:
        raise UnusableError(reason)


def canonical_all(spelled: Sequence[str]) -> list[str] | None:
    """Return the canonical forms of many spellings, in their order, or None if one of them is not plain.

    A plain spelling is an unquoted ASCII address whose domain is canonical except for its case and has no A-labels.
    After None the caller calls ``canonical`` for each spelling.
    """
    if max(map(len, spelled), default=0) > MAX_KEY:
        return None
    text = "\n".join(spelled).lower()
    domains = _PLAIN_LINE.findall(text)
    lines = text.split("\n")
    if not len(domains) == len(lines) == len(spelled):
        return None
    return lines if all(_domain(name) == (name, "") and "xn--" not in name for name in set(domains)) else None


def _carefully(spelled: str) -> tuple[str, ...]:
    local, domain = _split(invisible.trimmed(spelled))
    _check_invisible(f"{local or ''}@{domain}")
    domain = canonical_domain(domain)
    if local is None:
        return (_fitting(f"@{domain}"),)
    octets = len(local.encode(errors="surrogatepass"))
    if octets > _SHRINK * MAX_KEY:
        text = f"has a local part of {octets} octets: its key is over the {MAX_KEY} of every table type; shorten it"
        raise UnusableError(text)
    key = _folded(local).replace("\t", " ")
    return tuple(_fitting(f"{_quoted(form)}@{domain}") for form in dict.fromkeys((_folded_to_the_end(key), key)))


def _folded(local: str) -> str:
    return unicodedata.normalize("NFC", local).casefold()


def _folded_to_the_end(folded: str) -> str:
    """Return a folded local part composed and folded until neither changes it."""
    while not folded.isascii() and (again := _folded(folded)) != folded:
        folded = again
    return folded


def _quoted(local: str) -> str:
    """Return a local part, in quotes if RFC 5321 requires them."""
    return local if _DOT_STRING.fullmatch(local) else '"' + re.sub(r'(["\\])', r"\\\1", local) + '"'


def _check_invisible(text: str) -> None:
    """Raise UnusableError if an address has an invisible character or odd white space."""
    char = invisible.first_inside(text)
    if char:
        what, instead = ("white space", _NO_BLANK) if char.isspace() else ("invisible character", "remove it")
        raise UnusableError(f"has the {what} {invisible.named(char)} inside: {instead}")


def _split(spelled: str) -> tuple[str | None, str]:
    """Return the unquoted local part (None for a catch-all) and the domain as spelled.

    Raises UnusableError if the @ is missing or ambiguous, a quote is not closed, or a character is not allowed.
    """
    if _UNSAFE.search(spelled):
        raise UnusableError("has a NUL, carriage return or line feed in it: remove it")
    if spelled.startswith('"'):
        quoted = _QUOTED.fullmatch(spelled)
        if not quoted:
            raise UnusableError('has a quote that is not closed before the @: close it, as in "a b"@example.com')
        _check_specials(_SPECIAL_IN_DOMAIN, quoted[2])
        return re.sub(r"\\(.)", r"\1", quoted[1], flags=re.DOTALL), quoted[2]
    local, at, domain = spelled.rpartition("@")
    if not at:
        raise UnusableError("has no @: write LOCALPART@DOMAIN")
    if "@" in local:
        raise UnusableError(f"has more than one @: {_EACH}")
    _check_specials(_SPECIAL, local)
    _check_specials(_SPECIAL_IN_DOMAIN, domain)
    return local or None, domain


def _check_specials(specials: re.Pattern[str], text: str) -> None:
    """Raise UnusableError if a part of an address has one of these characters."""
    special = specials.match(text)
    if special:
        what = "white space" if special[1].isspace() else special[1]
        instead = _INSTEAD.get(" " if special[1].isspace() else special[1], _ALONE)
        raise UnusableError(f"has {what} outside quotes: {instead}")


def _fitting(address: str) -> str:
    if address.startswith("#"):
        raise UnusableError("starts with #, which Postfix reads as a comment: no table can hold it; remove it")
    try:
        longest = longest_key(address)
    except UnicodeEncodeError:
        raise UnusableError("is not valid Unicode: write it in UTF-8") from None
    if longest > MAX_KEY:
        text = f"is {longest} octets long as a key, over the {MAX_KEY} that every table type takes: shorten it"
        raise UnusableError(text)
    return address


def canonical_domain(spelled: str) -> str:
    """Return the domain as lower-case A-labels without a trailing dot, or an address literal in lower case.

    Internationalised labels follow UTS 46, non-transitional. Raises UnusableError if IDNA forbids the domain, or if
    smtpd(8) would reply 501 to it: it is empty, too long or all numeric, or a label is ``xn--`` alone, has a hyphen at
    either end, or is otherwise malformed.
    """
    check_length(spelled)
    domain, reason = _domain(spelled)
    if reason:
        raise UnusableError(reason)
    return domain


def domain_or_same(spelled: str) -> str:
    """Return the canonical domain as ``canonical_domain`` does, or ``spelled`` itself if that is not a domain."""
    if too_long(spelled):
        return spelled
    domain, reason = _domain(spelled)
    return spelled if reason else domain


@lru_cache(maxsize=8192)
def _domain(spelled: str) -> tuple[str, str]:
    name = spelled.lower().removesuffix(".") if spelled.isascii() else _a_labels(spelled)
    if not name:
        return "", _NO_DOMAIN if spelled.isascii() else "has a domain that IDNA does not allow: correct it"
    if _LITERAL.fullmatch(name):
        return name, ""
    if len(name) > _MAX_DOMAIN:
        return "", f"has a domain of {len(name)} octets, over {_MAX_DOMAIN}: shorten it"
    labels = name.split(".")
    for label in labels:
        if not _LABEL.fullmatch(label) or label == "xn--":
            return "", _MALFORMED
    if all(label.isdigit() for label in labels):
        return "", "has a domain of digits only: write an IP address as [192.0.2.1]"
    return name, ""


def _a_labels(spelled: str) -> str:
    """Return a non-ASCII domain as A-labels, without a trailing dot; empty if it is too long or IDNA forbids it."""
    if len(spelled.encode(errors="surrogatepass")) > _SHRINK * _MAX_DOMAIN:
        return ""
    import idna

    try:
        mapped = idna.uts46_remap(unicodedata.normalize("NFC", spelled), std3_rules=False, transitional=False)
        labels = mapped.removesuffix(".").split(".")
        return ".".join(label if label.isascii() else idna.alabel(label).decode() for label in labels).lower()
    except (idna.IDNAError, UnicodeError):
        return ""


def renderings(address: str) -> tuple[str, ...]:
    """Return every key of a canonical address or domain: itself, and its form with U-labels if that differs.

    Postfix does not convert between the two forms (SMTPUTF8_README, "Limitations"), so both must be keys.
    """
    if "xn--" not in address:
        return (address,)
    local, at, domain = address.rpartition("@")
    unicode_domain = u_labels(domain)
    return (address,) if unicode_domain == domain else (address, f"{local}{at}{unicode_domain}")


def longest_key(address: str) -> int:
    """Return the length in octets of the longest key of an address, after folding, which can make U-labels longer.

    Raises UnicodeEncodeError if the address has a surrogate.
    """
    return max(len(form.casefold().encode()) for form in renderings(address))


def folded_domain(domain: str) -> str:
    """Return the canonical domain of what Postfix makes of a canonical one: ``fass.example`` of ``faß.example``.

    It is the domain itself unless folding changes its U-labels, as it does with sharp s and final sigma.
    """
    return domain_or_same(u_labels(domain).casefold()) if "xn--" in domain else domain


def folded_domains(relay_domains: Iterable[str]) -> dict[str, str]:
    """Return the relay domains that Postfix folds to another domain, which is none of them, by that domain.

    Postfix takes mail for both. Capitals of the one are a spelling of the other: ``FASS.Example`` is
    ``faß.example``.
    """
    names = sorted(set(relay_domains))
    folded = {folded_domain(name): name for name in reversed(names) if "xn--" in name}
    return {other: name for other, name in folded.items() if other not in names}


def unfolded(address: str, folded: Mapping[str, str]) -> str:
    """Return an address or domain with the relay domain in place of what Postfix folds it to (``folded_domains``)."""
    domain = address.rpartition("@")[2]
    known = within(domain, folded.keys()) if folded else None
    return address.removesuffix(known) + folded[known] if known else address


def spelled_alike(address: str) -> tuple[str, ...]:
    """Return a canonical address, and the one that Postfix folds it to if its domain is another one then."""
    local, at, domain = address.rpartition("@")
    other = folded_domain(domain)
    return (address,) if other == domain else (address, f"{local}{at}{other}")


@lru_cache(maxsize=8192)
def u_labels(domain: str) -> str:
    """Return a canonical domain with U-labels, in NFC, in place of the A-labels that IDNA 2008 can decode."""
    return ".".join(_u_label(label) for label in domain.split("."))


def _u_label(label: str) -> str:
    if not label.startswith("xn--"):
        return label
    import idna

    try:
        return idna.ulabel(label)
    except (idna.IDNAError, UnicodeError):
        return label


def within(domain: str, relay_domains: AbstractSet[str]) -> str | None:
    """Return the relay domain that covers ``domain``: itself or its nearest parent; None if there is none.

    Postfix matches subdomains as well by default: relay_domains is in parent_domain_matches_subdomains.
    """
    if len(domain) > MAX_SPELLED:  # no relay domain is that long: only the end can match
        domain = domain[-MAX_SPELLED:].partition(".")[2]
    while domain and domain not in relay_domains:
        domain = domain.partition(".")[2]
    return domain or None
