"""The three restrictions by which smtpd asks the doubt table, at the end of smtpd_sender_restrictions.

A known recipient ends the list at the first one, by the value ``OK`` of the table of recipients. An unknown one meets
the doubt table, then reject_unlisted_recipient, whose 550 the doubt table turns into 450.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from syncagent.postfix.main_cf import entries
from syncagent.postfix.restrictions import RECIPIENT_ACCESS, SENDER, UNLISTED, parsed
from syncagent.postfix.table import is_same_file, is_same_table

if TYPE_CHECKING:
    from collections.abc import Sequence

    from syncagent.postfix.restrictions import Rule
    from syncagent.values.types import MapName


def restrictions(recipients: MapName, doubt: MapName) -> tuple[str, str, str]:
    """Return the three restrictions, in their order. They ask the tables without proxymap(8), which may refuse it."""
    return f"{RECIPIENT_ACCESS} {recipients}", f"{RECIPIENT_ACCESS} {doubt}", UNLISTED


def with_doubt(
    value: str, recipients: MapName, doubt: MapName, spelled: Sequence[str] = (), *, exact: bool = False
) -> str:
    """Return the value of smtpd_sender_restrictions with the three restrictions as its last ones.

    A value that has them at its end alone is returned as it is. Where they are elsewhere in the list they are moved.
    ``permit`` at the end is left out: it would end the list before them, and a list that comes to its end permits as
    well. ``spelled`` are the entries of the list as main.cf spells them, if ``value`` has ``$name`` expanded.
    ``exact``: the three are written anew even if the first one only names its table with ``proxy:``.
    """
    listed, ours = entries(value), restrictions(recipients, doubt)
    words = spelled or listed
    rules = list(parsed(listed, SENDER))
    others = [rule for rule in rules if not _is_of_doubt(rule, recipients, doubt)]
    permits = bool(others) and others[-1].name == "permit"
    alone = len(others) + len(ours) == len(rules) and not permits
    last = rules[-len(ours) :]
    if alone and _are_there(last, recipients, ours) and not (exact and last[0].text != ours[0]):
        return " ".join(spelled) if spelled else value
    while others and others[-1].name == "permit":
        others.pop()
    return ", ".join([*(" ".join(words[rule.start : rule.stop]) for rule in others), *ours])


def _are_there(last: list[Rule], recipients: MapName, ours: tuple[str, ...]) -> bool:
    """True if the last rules of a list are the three restrictions; the first one may name its table with ``proxy:``."""
    if any(rule.only_warns for rule in last) or [rule.text for rule in last[1:]] != list(ours[1:]):
        return False
    return last[0].name == RECIPIENT_ACCESS and is_same_table(last[0].argument, recipients)


def _is_of_doubt(rule: Rule, recipients: MapName, doubt: MapName) -> bool:
    tables = (recipients, doubt)
    asks = rule.name == RECIPIENT_ACCESS and any(is_same_file(rule.argument, table) for table in tables)
    return asks or rule.name == UNLISTED
