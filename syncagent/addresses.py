"""An address as spelled to its canonical recipient, or why it cannot be one.

The canonical form is what Postfix will look up: see postmap(1), smtpd(8) and RFC 5321 section 4.1.2. A source's
own syntax (``smtp:`` prefixes, JSON) is undone by its adapter; what is left is decided here and nowhere else.

A local part is taken as it stands unless it is quoted; quotes are then undone, and put back where RFC 5321 wants
them. An unquoted special such as ``,`` or ``<`` is refused: it is far likelier a list, a comment or a display name
that was not undone than part of a mailbox's name, and a recipient misread is a recipient lost.
"""

from __future__ import annotations

import re
import unicodedata
from functools import lru_cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence
    from collections.abc import Set as AbstractSet

VERSION = f"2/{unicodedata.unidata_version}"
"""Recorded with every snapshot: another version voids what a source answered before."""

MAX_KEY = 510
"""Octets of a folded key. One longer key stops an lmdb build for good."""

MAX_LINE = 1 << 20
"""Octets of a line, or of a logical line: no table and no list has a longer one, and memory must not grow with it."""

MAX_SPELLED = 4096
"""Octets of a spelling in UTF-8: a longer one is rejected before anything else looks at it.

No usable address needs so many: smtpd(8) takes lines of 2048 octets (line_length_limit). Unicode normalization is
quadratic in a run of combining marks and holds the interpreter lock: 4 KiB take 4 ms, 320 kB over a minute.
"""

_SHRINK = 4
"""How many octets NFC, case folding and UTS 46 make one of at most: a character of the longest encoding."""

_PLAIN = re.compile(r"(?!#)[a-z0-9!#$%&'*+/=?^_`{|}~-]+(?:\.[a-z0-9!#$%&'*+/=?^_`{|}~-]+)*@([a-z0-9._-]+)")
_PLAIN_LINE = re.compile(f"^{_PLAIN.pattern}$", re.MULTILINE)
_QUOTED = re.compile(r'"([^"\\]*(?:\\.[^"\\]*)*)"@(.*)', re.DOTALL)
_UNSAFE = re.compile(r"[\x00\r\n]")
_SPECIAL = re.compile(r'[ \t()<>\[\]:;,"]')
_DOT_STRING = re.compile(r'[^\x00-\x20\x7f()<>\[\]:;,@\\".]+(?:\.[^\x00-\x20\x7f()<>\[\]:;,@\\".]+)*')
_LABEL = re.compile(r"(?!-)[a-z0-9_-]{1,63}(?<!-)")
_LITERAL = re.compile(r"\[[0-9a-z:.]{1,60}\]")
_MAX_DOMAIN = 255


class UnusableError(ValueError):
    """The value cannot be a recipient; its text is the reason."""


def canonical(spelled: str) -> str:
    """Give the one form under which ``spelled`` is remembered, compared and written.

    Either an address, ``local@domain``, or a catch-all, ``@domain``: case folded, in NFC, quoted only where it must
    be, the domain as A-labels without a trailing dot.

    Raises UnusableError with the reason.
    """
    check_length(spelled)
    lowered = spelled.lower()
    plain = _PLAIN.fullmatch(lowered)
    if plain and len(lowered) <= MAX_KEY:
        name = plain[1]
        domain = canonical_domain(name)
        return lowered if domain == name and "xn--" not in name else _fitting(lowered[: -len(name)] + domain)
    return _carefully(spelled)


def too_long(spelled: str) -> str:
    """Return why a spelling is too long to be looked at, with its length and the limit, or nothing."""
    if len(spelled) * _SHRINK <= MAX_SPELLED:
        return ""
    octets = len(spelled) if spelled.isascii() else len(spelled.encode(errors="surrogatepass"))
    return f"is {octets} octets long, over the {MAX_SPELLED} of the longest spelling" if octets > MAX_SPELLED else ""


def check_length(spelled: str) -> None:
    """Raise UnusableError where a spelling is too long to be looked at."""
    reason = too_long(spelled)
    if reason:
        raise UnusableError(reason)


def canonical_all(spelled: Sequence[str]) -> list[str] | None:
    """Give the canonical forms of many where each is plain and needs no second look, else None: ask one by one."""
    if max(map(len, spelled), default=0) > MAX_KEY:
        return None
    text = "\n".join(spelled).lower()
    domains = _PLAIN_LINE.findall(text)
    lines = text.split("\n")
    if not len(domains) == len(lines) == len(spelled):
        return None
    return lines if all(_domain(name) == (name, "") and "xn--" not in name for name in set(domains)) else None


def _carefully(spelled: str) -> str:
    local, domain = _split(spelled.strip(" \t"))
    domain = canonical_domain(domain)
    if local is None:
        return _fitting(f"@{domain}")
    octets = len(local.encode(errors="surrogatepass"))
    if octets > _SHRINK * MAX_KEY:
        raise UnusableError(f"has a local part of {octets} octets: its key is over the {MAX_KEY} of every table type")
    local = unicodedata.normalize("NFC", local).casefold().replace("\t", " ")
    if not _DOT_STRING.fullmatch(local):
        local = '"' + re.sub(r'(["\\])', r"\\\1", local) + '"'
    return _fitting(f"{local}@{domain}")


def _split(spelled: str) -> tuple[str | None, str]:
    """Give the local part with quotes undone (None for a catch-all) and the domain as spelled."""
    if _UNSAFE.search(spelled):
        raise UnusableError("has a NUL, carriage return or line feed in it")
    if spelled.startswith('"'):
        quoted = _QUOTED.fullmatch(spelled)
        if not quoted:
            raise UnusableError("has a quote that is not closed before the @")
        return re.sub(r"\\(.)", r"\1", quoted[1], flags=re.DOTALL), quoted[2]
    local, at, domain = spelled.rpartition("@")
    if not at:
        raise UnusableError("has no @")
    if "@" in local:
        raise UnusableError("has more than one @")
    special = _SPECIAL.search(local)
    if special:
        what = "white space" if special[0].isspace() else special[0]
        raise UnusableError(f"has {what} outside quotes: is it a list, a comment or a name?")
    return local or None, domain


def _fitting(address: str) -> str:
    if address.startswith("#"):
        raise UnusableError("starts with #, which Postfix reads as a comment: no table can hold it")
    try:
        longest = longest_key(address)
    except UnicodeEncodeError:
        raise UnusableError("is not valid Unicode") from None
    if longest > MAX_KEY:
        raise UnusableError(f"is {longest} octets long as a key, over the {MAX_KEY} that every table type takes")
    return address


def canonical_domain(spelled: str) -> str:
    """Give the domain as lower-case A-labels without a trailing dot; an address literal as it is, in lower case.

    Internationalised labels follow UTS 46, non-transitional. What smtpd(8) answers 501 to is unusable: an empty,
    over-long or only numeric domain, a label with a hyphen at either end, ``xn--`` alone.

    Raises UnusableError with the reason.
    """
    check_length(spelled)
    domain, reason = _domain(spelled)
    if reason:
        raise UnusableError(reason)
    return domain


def domain_or_same(spelled: str) -> str:
    """Give a domain as ``canonical_domain`` does; what is none, as it is."""
    if too_long(spelled):
        return spelled
    domain, reason = _domain(spelled)
    return spelled if reason else domain


@lru_cache(maxsize=8192)
def _domain(spelled: str) -> tuple[str, str]:
    name = spelled.lower().removesuffix(".") if spelled.isascii() else _a_labels(spelled)
    if not name:
        return "", "has no domain" if spelled.isascii() else "has a domain that IDNA does not allow"
    if _LITERAL.fullmatch(name):
        return name, ""
    if len(name) > _MAX_DOMAIN:
        return "", f"has a domain of {len(name)} octets, over {_MAX_DOMAIN}"
    labels = name.split(".")
    for label in labels:
        if not _LABEL.fullmatch(label) or label == "xn--":
            return "", "has a malformed domain"
    if all(label.isdigit() for label in labels):
        return "", "has a domain of digits only"
    return name, ""


def _a_labels(spelled: str) -> str:
    """Give a non-ASCII domain as A-labels, or nothing where IDNA does not allow it."""
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
    """Give every key that must be written for a canonical address or domain: itself, and its U-label form if any.

    Postfix converts neither way (SMTPUTF8_README, "Limitations"), so that both have to be keys.
    """
    if "xn--" not in address:
        return (address,)
    local, at, domain = address.rpartition("@")
    unicode_domain = u_labels(domain)
    return (address,) if unicode_domain == domain else (address, f"{local}{at}{unicode_domain}")


def longest_key(address: str) -> int:
    """Give the octets of the longest key that Postfix makes of an address; folding can make a U-label longer."""
    return max(len(form.casefold().encode()) for form in renderings(address))


@lru_cache(maxsize=8192)
def u_labels(domain: str) -> str:
    """Give a canonical domain with those A-labels turned to U-labels that IDNA 2008 knows, as NFC."""
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
    """Give the relay domain that covers ``domain``: itself or the nearest parent, else None.

    As Postfix has it by default: relay_domains is in parent_domain_matches_subdomains.
    """
    if len(domain) > MAX_SPELLED:  # no relay domain is so long: what is left of the limit is no part of one
        domain = domain[-MAX_SPELLED:].partition(".")[2]
    while domain and domain not in relay_domains:
        domain = domain.partition(".")[2]
    return domain or None
