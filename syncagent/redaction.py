"""Redaction: ``***`` in a text in place of the secrets that this process has read.

``remember`` is called where a secret is read or received. ``redacted`` is called where messages are made:
``errors.printable`` and the exceptions of ``errors``, and once more where they leave: the standard error and the log.
A server may echo a secret in another spelling: percent-encoded, escaped as in JSON, HTML, Python or LDAP (RFC 4515),
in hexadecimal or in Base64, also as a part of a longer text. These spellings are found too.
"""

from __future__ import annotations

import base64
import re
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

HIDDEN = "***"
_MOST = 1000
"""Maximum number of secrets that are remembered, the last ones: access tokens are new each hour."""
_SHORT = 6
"""Minimum length of a secret that is also found inside a longer word."""
_SHORTEST_CODE = 8
"""Minimum length of a part of a Base64 text that is looked for."""
_LAYERS = 4
"""Maximum number of encodings around each other that are decoded."""
_ESCAPE = re.compile(
    r"%(?P<percent>[0-9A-Fa-f]{2})|\\+u(?P<u>[0-9A-Fa-f]{4})|\\+U(?P<U>[0-9A-Fa-f]{8})|\\+x?(?P<octet>[0-9A-Fa-f]{2})"
    r"|\\+(?P<sign>[\"'\\/ntr])|&#(?P<decimal>[0-9]{1,7});|&#[xX](?P<hex>[0-9A-Fa-f]{1,6});"
    r"|&(?P<name>amp|lt|gt|quot|apos);"
)
_ESCAPING = re.compile(r"[%\\&]")
"""The characters that an escape begins with."""
_NAMED = {"amp": "&", "lt": "<", "gt": ">", "quot": '"', "apos": "'"}
_SIGNS = {"n": "\n", "t": "\t", "r": "\r"}
_known: dict[str, tuple[str, ...]] = {}
"""The spellings of each secret, in lower case, in the order in which they were read."""


class _Layer(NamedTuple):
    """A text with some encodings decoded; ``places[n]`` is where its character ``n`` begins in the original text."""

    text: str
    places: Sequence[int]


def remember(secret: str) -> None:
    """Hide a secret in all later messages. An empty one is ignored. It may be called from any thread."""
    if not secret or secret in _known:
        return
    _known[secret] = tuple(dict.fromkeys(_spellings(secret)))
    for oldest in list(_known)[:-_MOST]:
        _known.pop(oldest, None)


def forget() -> None:
    """Forget all secrets, for tests in one process."""
    _known.clear()


def redacted(text: str) -> str:
    """Return a text with HIDDEN in place of each secret that is remembered, however it is encoded."""
    if not _known or not text:
        return text
    spans = sorted(span for layer in _layers(text) for span in _found(layer))
    return _without(text, spans) if spans else text


def has_secret(text: str) -> bool:
    """True if a text has a secret that is remembered."""
    return redacted(text) != text


def _without(text: str, spans: Iterable[tuple[int, int]]) -> str:
    parts, done = list[str](), 0
    for begin, end in spans:
        if begin >= done:
            parts += [text[done:begin], HIDDEN]
        done = max(done, end)
    return "".join([*parts, text[done:]])


def _found(layer: _Layer) -> Iterator[tuple[int, int]]:
    """Yield begin and end, in the original text, of each secret in a layer."""
    lowered = _lower(layer.text)
    for spellings in tuple(_known.values()):
        for spelling in spellings:
            at = lowered.find(spelling)
            while at >= 0:
                end = at + len(spelling)
                if len(spelling) >= _SHORT or _is_word(lowered, at, end):
                    yield layer.places[at], layer.places[end]
                at = lowered.find(spelling, at + 1)


def _is_word(text: str, begin: int, end: int) -> bool:
    """True if no letter or digit is beside a part of a text."""
    return not (text[begin - 1 : begin].isalnum() or text[end : end + 1].isalnum())


def _layers(text: str) -> Iterator[_Layer]:
    """Yield the text, then the text with its escapes decoded, until there is none."""
    layer = _Layer(text, range(len(text) + 1))
    for _ in range(_LAYERS):
        yield layer
        if not _ESCAPING.search(layer.text):
            return
        decoded = _decoded(layer)
        if len(decoded.text) == len(layer.text):
            return
        layer = decoded


def _decoded(layer: _Layer) -> _Layer:
    parts, places, done = list[str](), list[int](), 0
    for escape in _ESCAPE.finditer(layer.text):
        parts += [layer.text[done : escape.start()], _character(escape)]
        places += [*layer.places[done : escape.start()], layer.places[escape.start()]]
        done = escape.end()
    return _Layer("".join([*parts, layer.text[done:]]), [*places, *layer.places[done:]])


def _character(escape: re.Match[str]) -> str:
    kind, value = escape.lastgroup, escape[escape.lastgroup or 0]
    if kind == "name":
        return _NAMED[value]
    if kind == "sign":
        return _SIGNS.get(value, value)
    number = int(value, 10 if kind == "decimal" else 16)
    return chr(number) if number <= 0x10FFFF else "\ufffd"  # noqa: PLR2004 - the last code point


def _spellings(secret: str) -> Iterator[str]:
    """Yield what a secret looks like once escapes are decoded, in lower case.

    That is itself; as UTF-8 read as Latin-1; without what is not ASCII; with surrogates, as in JSON; with + for blanks;
    in hexadecimal; and in Base64 (RFC 4648), also as a part of a longer text.
    """
    octets = secret.encode(errors="surrogatepass")
    plain = [secret, octets.decode("latin-1"), _in_utf16(secret)]
    ascii_only = octets.decode("ascii", "ignore")
    plain += [ascii_only] if len(ascii_only) >= _SHORT else []
    plain += [text.replace(" ", "+") for text in plain]
    codes = [octets.hex(), *(code for shift in range(3) for code in _base64(octets, shift))]
    yield from map(_lower, plain)
    yield from (_lower(code) for code in codes if len(code) >= _SHORTEST_CODE)


def _in_utf16(text: str) -> str:
    units = text.encode("utf-16-be", "surrogatepass")
    return "".join(chr(units[at] << 8 | units[at + 1]) for at in range(0, len(units), 2))


def _base64(octets: bytes, shift: int) -> tuple[str, str]:
    """Return the digits of Base64, and of its form for URLs, that depend on ``octets`` alone, behind ``shift`` others.

    Digits that depend on other octets too are left out.
    """
    code = base64.b64encode(bytes(shift) + octets)
    begin, rest = (0, 2, 3)[shift], (len(octets) + shift) % 3
    digits = code[begin : len(code) - (0, 3, 2)[rest]].decode()
    return digits, digits.replace("+", "-").replace("/", "_")


def _lower(text: str) -> str:
    """Return a text in lower case, and as long as before."""
    if text.isascii():
        return text.lower()
    return "".join(lower if len(lower := char.lower()) == 1 else char for char in text)
