"""Evaluate smtpd(8)'s restriction lists: recipient lookup and relay control (SMTPD_ACCESS_README, postconf(5))."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

    from syncagent.postfix.live import LivePostfix

LISTS = ("smtpd_relay_restrictions", "smtpd_recipient_restrictions")
OVERRIDES = "receive_override_options"
NO_RECIPIENT_CHECKS = "no_unknown_recipient_checks"
REJECT_UNLISTED = "smtpd_reject_unlisted_recipient"
_REFUSE = {"reject_unauth_destination", "defer_unauth_destination", "reject", "defer"}
_PERMIT = {"permit", "permit_auth_destination", "permit_mx_backup"}
"""Restrictions that accept mail for relay domains from any client; restrictions after them have no effect."""


@dataclass(frozen=True, slots=True)
class Bypass:
    """A parameter that stops smtpd from looking up recipients, so that it accepts all of them, and the message."""

    parameter: str
    text: str


def bypasses(live: LivePostfix) -> Iterator[Bypass]:
    """Yield the parameters that stop smtpd from looking up recipients.

    Raises CommandError if postconf(1) cannot expand a restriction class.
    """
    if NO_RECIPIENT_CHECKS in live.listed(OVERRIDES):
        text = f"it has {NO_RECIPIENT_CHECKS}, so that the map is not asked, and every recipient is accepted"
        yield Bypass(OVERRIDES, text)
    if live.values.get(REJECT_UNLISTED) == "no" and not any(
        _comes_first(words(live, name), {"reject_unlisted_recipient"}, _PERMIT) for name in LISTS
    ):
        yield Bypass(REJECT_UNLISTED, "it is no, so that the map is not asked, and every recipient is accepted")


def is_closed(live: LivePostfix, permits: Collection[str] = ("permit",)) -> bool:
    """True if a restriction list rejects or defers relaying before any of ``permits`` accepts it.

    Raises CommandError if postconf(1) cannot expand a restriction class.
    """
    return any(_comes_first(words(live, name), _REFUSE, permits) for name in LISTS)


def words(live: LivePostfix, name: str) -> list[str]:
    """Return the words of a restriction list in lower case, with restriction classes expanded one level.

    Raises CommandError if postconf(1) cannot expand a class.
    """
    classes = set(live.listed("smtpd_restriction_classes"))
    expanded: list[str] = []
    for word in live.listed(name):
        expanded += live.ask("postconf", "-xh", word).replace(",", " ").split() if word in classes else [word]
    return [word.lower() for word in expanded]


def _comes_first(words: list[str], wanted: Collection[str], permits: Collection[str]) -> bool:
    """True if ``words`` has a restriction of ``wanted``, and none of ``permits`` precedes it."""
    return next((word in wanted for word in words if word in wanted or word in permits), False)
