"""What a source spells that is no address: addresses of other kinds than mail, the words of a text, secrets in it."""

from __future__ import annotations

import re

from syncagent.addresses import UnusableError, canonical, canonical_domain
from syncagent.redaction import HIDDEN

_FOREIGN = re.compile(r'[\s"]*(?:sip|x500|x400|eum):(?=\s*\S)', re.IGNORECASE)
_SEPARATOR = re.compile(r'[\s,;|<>"]')
_BETWEEN = re.compile(r'[\s,;<>:"()|]+')
_MARKED = re.compile(
    r"\{[A-Za-z0-9-]+(?:\.[A-Za-z0-9]+)?\}[^\s:,;|]+|\{[A-Z][A-Z0-9.-]+\}\s+\S+|\$[0-9a-z]{1,8}\$[^\s:,;|]+"
)
_NAMED = re.compile(r"((?:passw(?:or)?d|passwort|pwd|secret|hash)\w*\s*[:=]+\s*)\S+", re.IGNORECASE)
_FIELDS = re.compile(r"(?<=[^:]):(?=[^\s:/]|/(?!/))")
_ADDRESS_FIRST = re.compile(r'[\s"]*[^\s,;:|@<>"]+@[^\s,;:|@<>"]+\s*(?:(?P<field>:)(?=\s*\S)|[,;](?=\S))')
_TRANSPORT = re.compile(r'"?(?::\w+:|\w+:?)?\s*')
_FIRST = re.compile(r"[\s,;:|]")


def is_foreign(spelled: str) -> bool:
    """True for an address that is not of mail: ``sip:``, ``x500:``, ``x400:`` or ``eum:``, in any case.

    A list that begins with such a value, and has an address behind it, is none.
    """
    begin = _FOREIGN.match(spelled)
    if begin is None:
        return False
    value = spelled[begin.end() :].strip()
    end = _SEPARATOR.search(value)
    return end is None or "@" not in value[end.end() :]


def words(text: str) -> list[str]:
    """Return the words of a text: what stands between blanks, ``,;<>:"()|`` and its ends."""
    return [word for word in _BETWEEN.split(text) if word]


def addresses_in(text: str, domains: tuple[str, ...] = ()) -> list[str]:
    """Return the canonical addresses that are whole words of a text.

    In a text without @, each word is a local part at each of ``domains``.
    """
    spelled = words(text) if "@" in text else [f"{word}@{domain}" for word in words(text) for domain in domains]
    return list(dict.fromkeys(filter(None, map(_canonical, spelled))))


def _canonical(spelled: str) -> str:
    try:
        return canonical(spelled)
    except UnusableError:
        return ""


def domain_in(text: str) -> str:
    """Return the canonical domain after the last @ of a text, "" if there is none."""
    _, at, rest = text.rpartition("@")
    behind = words(rest) if at and not _BETWEEN.match(rest) else []
    try:
        return canonical_domain(behind[0]) if behind else ""
    except UnusableError:
        return ""


def without_secrets(text: str) -> str:
    """Return a text without what may be a password or its hash, which HIDDEN stands for.

    A line of a password file, which has ``{SCHEME}...``, ``$ID$...`` or ``|``, ends behind its first separator. In
    another text the value of a password's name is hidden, and everything behind the first colon that a field follows,
    as in passwd(5), unless an address is there. Behind an address and ``:`` everything is hidden, and behind an address
    and ``,`` or ``;`` without a blank what is not a list of addresses.
    """
    marked = _MARKED.search(text)
    if marked or "|" in text:
        return _name_in(text.strip(), marked[0] if marked else "|")
    begin = _ADDRESS_FIRST.match(text)
    if begin and (begin["field"] or not all(map(_canonical, words(text[begin.end() :])))):
        return f"{text[: begin.end()]}{HIDDEN}"
    shown = _NAMED.sub(rf"\g<1>{HIDDEN}", text)
    first = _FIELDS.search(shown)
    if first is None or any("." in address for address in addresses_in(shown[first.end() :])):
        return shown
    return f"{shown[: first.end()]}{HIDDEN}"


def _name_in(line: str, marked: str) -> str:
    """Return a line of a password file up to its first separator, or to the password if that is earlier."""
    first = _FIRST.search(line)
    end = line.index(marked) + (marked == "|")
    return f"{line[: min(first.end(), end) if first else end]}{HIDDEN}"


def transport_of(value: str) -> str:
    """Return the first word of a right side that refuses mail, such as ``:fail:``. HIDDEN stands for its text."""
    word = _TRANSPORT.match(value.strip())
    end = word.end() if word else 0
    return value.strip()[:end] + (HIDDEN if value.strip()[end:] else "")


def hides_address(text: str, shown: str) -> bool:
    """True if a part of a text that ``without_secrets`` hides in ``shown`` has an @, so that it may be a recipient."""
    return shown.endswith(HIDDEN) and text.count("@") > shown.count("@")


def column_names(heads: list[str]) -> list[str]:
    """Return the column names of a first line without secrets. If it has an address, its other fields are hidden.

    A line with an address is no header: it is that of a person, and may have a password.
    """
    is_header = not any("@" in head for head in heads)
    return [without_secrets(head) if is_header or "@" in head else HIDDEN for head in heads]
