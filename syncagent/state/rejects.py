"""Rejected entries of a source's last answer: those that are held, those that a person approved, and those ignored.

It is pure: no files, no clock.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from msgspec import Struct
from msgspec.structs import replace

from syncagent.addresses import UnusableError
from syncagent.errors import printable
from syncagent.model import SAMPLE, Reject
from syncagent.state.fields import MAX_REJECT, escape, unescape
from syncagent.state.messages import with_text
from syncagent.values.patterns import matches
from syncagent.values.readable import address_of, names_another, without_comment
from syncagent.values.spellings import domain_in, without_secrets

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator

    from syncagent.config.tables import SourceConfig
    from syncagent.model import Hold, Reason


class Rejected(Struct, frozen=True):
    """The rejected entries of a source.

    ``held`` is the number of those that no person approved and that no pattern of the key ``ignore`` matches,
    ``digests`` identify them. ``domains`` are the mail domains after their last @, "" for an entry without one.
    ``sample`` are the first of them. ``approved`` and ``ignored`` count the others.
    """

    held: int = 0
    approved: int = 0
    ignored: int = 0
    digests: frozenset[str] = frozenset()
    domains: frozenset[str] = frozenset()
    sample: tuple[Reject, ...] = ()


NONE = Rejected()


def of_source(
    rejects: Iterable[Reject], approved: Collection[str], patterns: Collection[str], origin: str = ""
) -> Rejected:
    """Return the rejected entries of a source, by the digests that a person approved and by its key ``ignore``.

    ``origin`` is as from the function of that name.
    """
    held = ignored = others = 0
    digests, domains, sample = set[str](), set[str](), list[Reject]()
    for reject in rejects:
        text = text_of(reject)
        if patterns and matches(text, patterns):
            ignored += 1
        elif reject.digest in approved:
            others += 1
        else:
            held += 1
            digests.add(reject.digest)
            domains.add(domain_in(text))
            sample += [replace(placed(reject, origin), held=True)] if len(sample) < SAMPLE else []
    return Rejected(held, others, ignored, frozenset(digests), frozenset(domains), tuple(sample))


def readable(rejects: Iterable[Reject], domains: tuple[str, ...], is_listed: Callable[[str], bool]) -> dict[str, str]:
    """Return the address of each rejected entry that can be read now and that is listed, by the digest of the entry.

    A bare local part is completed by ``domains``.
    """
    found: dict[str, str] = {}
    for reject in rejects:
        for address in filter(is_listed, _addresses(text_of(reject), domains)):
            found.setdefault(reject.digest, address)
    return found


def _addresses(text: str, domains: tuple[str, ...]) -> Iterator[str]:
    """Yield the addresses that a text can be read as."""
    if domains and names_another(text):
        return
    name = without_comment(text)
    for spelled in (text, *(f"{name}@{domain}" for domain in domains if "@" not in name)):
        with contextlib.suppress(UnusableError):
            yield address_of(spelled)


def text_of(reject: Reject) -> str:
    """Return the text of a rejected entry as its source has it, without surrounding blanks."""
    return unescape(reject.spelled).strip()


def shown(spelled: str) -> str:
    """Return an escaped spelling without secrets, also if an older version has kept them."""
    text = unescape(spelled)
    without = without_secrets(text)
    return spelled if without == text else escape(without, MAX_REJECT)


def hidden_in(hold: Hold) -> Hold:
    """Return a hold of rejected entries without secrets, also if an older version has kept them."""
    reasons = tuple(map(_hidden, hold.reasons))
    return hold if reasons == hold.reasons else replace(hold, reasons=reasons)


def _hidden(reason: Reason) -> Reason:
    rejects = tuple(replace(one, spelled=shown(one.spelled)) for one in reason.rejects)
    return reason if rejects == reason.rejects else with_text(replace(reason, rejects=rejects, text=""))


def origin(source: SourceConfig | None) -> str:
    """Return the file, directory or URL whose lines are the keys of a source's entries, "" if its keys are others."""
    if source is None:
        return ""
    own = source.own
    if source.common.type == "file":
        return str(own.path.parent if any(char in own.path.name for char in "*?[") else own.path)
    return str(own.url).partition("?")[0] if source.common.type == "http" and own.format else ""


def local_domains(source: SourceConfig | None) -> tuple[str, ...]:
    """Return the domains that complete the bare local parts of a source."""
    return tuple(map(str, getattr(source.own, "domains", ()))) if source else ()


def placed(reject: Reject, origin: str) -> Reject:
    """Return a rejected entry with its place: ``line 7 of /etc/syncagent/recipients``, or its key in the source."""
    key = unescape(reject.key)
    name, _, number = key.rpartition(":")
    if not origin or not number.isdecimal():
        return replace(reject, place=f"{printable(key)} in source {reject.source}")
    return replace(reject, place=f"line {number} of {origin}{f'/{printable(name)}' if name else ''}")
