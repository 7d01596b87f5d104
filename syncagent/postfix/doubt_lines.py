"""The three restrictions by which smtpd asks the doubt table, at the end of smtpd_sender_restrictions.

A known recipient ends the list at the first one, by the value ``OK`` of the table of recipients. An unknown one meets
the doubt table, then reject_unlisted_recipient, whose 550 the doubt table turns into 450.
"""

from __future__ import annotations

import re

PARAMETER = "smtpd_sender_restrictions"
_UNLISTED = "reject_unlisted_recipient"
_PERMIT = re.compile(r"(?:^|[\s,]+)permit[\s,]*$", re.IGNORECASE)


def restrictions(recipients: str, doubt: str) -> tuple[str, str, str]:
    """Return the three restrictions, in their order, for two tables as main.cf names them."""
    return f"check_recipient_access {recipients}", f"check_recipient_access {doubt}", _UNLISTED


def with_doubt(value: str, recipients: str, doubt: str) -> str:
    """Return the value of smtpd_sender_restrictions with the three restrictions as its last ones.

    A value that ends with them is returned as it is. Where they are elsewhere in the list they are moved. ``permit`` at
    the end is left out: it would end the list before them, and a list that comes to its end permits as well.
    """
    ours = restrictions(recipients, doubt)
    if re.search(rf"(?:^|[\s,]){_spaced(' '.join(ours))}[\s,]*$", value):
        return value
    rest = _PERMIT.sub("", _without(value, recipients, doubt).rstrip(" \t\n,"))
    return ", ".join(filter(None, (rest, *ours)))


def _without(value: str, recipients: str, doubt: str) -> str:
    """Return the value without the three restrictions, wherever they are in it."""
    tables = "|".join(map(re.escape, (recipients, doubt)))
    rule = rf"(?:check_recipient_access[\s,]+(?:{tables})|{_UNLISTED})"
    return re.sub(rf"(?<![^\s,])(?:warn_if_reject[\s,]+)*{rule}(?![^\s,])[\s,]*", "", value)


def _spaced(text: str) -> str:
    """Return a pattern for words that are separated by white space or commas, as in lists of main.cf."""
    return r"[\s,]+".join(map(re.escape, text.split()))
