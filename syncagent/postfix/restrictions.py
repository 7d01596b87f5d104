"""Evaluate smtpd(8)'s restriction lists: recipient lookup and relay control (SMTPD_ACCESS_README, postconf(5))."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from syncagent.postfix.main_cf import entries

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

    from syncagent.postfix.live import LivePostfix

LISTS = ("smtpd_relay_restrictions", "smtpd_recipient_restrictions")
SENDER = "smtpd_sender_restrictions"
EARLIER = ("smtpd_client_restrictions", "smtpd_helo_restrictions")
"""The lists that smtpd evaluates before ``SENDER``."""
LATER = ("smtpd_data_restrictions", "smtpd_end_of_data_restrictions")
"""The lists that smtpd evaluates after ``LISTS``."""
RECIPIENT_ACCESS = "check_recipient_access"
UNLISTED = "reject_unlisted_recipient"
OVERRIDES = "receive_override_options"
NO_RECIPIENT_CHECKS = "no_unknown_recipient_checks"
REJECT_UNLISTED = "smtpd_reject_unlisted_recipient"
_REFUSE = {"reject_unauth_destination", "defer_unauth_destination", "reject", "defer"}
_PERMIT = {"permit", "permit_auth_destination", "permit_mx_backup"}
"""Restrictions that accept mail for relay domains from any client; restrictions after them have no effect."""
_WARN = "warn_if_reject"
_WITH_ARGUMENT = re.compile(
    r"check_\w+_access|check_policy_service|permit_(dnswl|rhswl)_client|reject_(rbl_client|rhsbl_\w+)|sleep"
)
_BARE_TABLES = {
    **dict.fromkeys(LISTS, RECIPIENT_ACCESS),
    SENDER: "check_sender_access",
    **dict(zip(EARLIER, ("check_client_access", "check_helo_access"), strict=True)),
}
"""What a table without the name of a restriction stands for, by list."""


@dataclass(frozen=True, slots=True)
class Rule:
    """A restriction of a list: its name in lower case, and its argument, such as a table.

    ``start`` and ``stop`` are its positions among the entries of the list; those of the restriction class if it is in
    one, which ``of_class`` names. ``only_warns``: it follows warn_if_reject.
    """

    name: str
    argument: str
    start: int
    stop: int
    of_class: str = ""
    only_warns: bool = False

    @property
    def text(self) -> str:
        """The restriction as main.cf has it, with ``$name`` expanded."""
        return f"{self.name} {self.argument}".rstrip()


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
    lists = (*LISTS, *([SENDER] if is_delayed(live) else []))
    if live.values.get(REJECT_UNLISTED) == "no" and not any(
        _comes_first(words(live, name), {UNLISTED}, _PERMIT) for name in lists
    ):
        yield Bypass(REJECT_UNLISTED, "it is no, so that the map is not asked, and every recipient is accepted")


def is_closed(live: LivePostfix, permits: Collection[str] = ("permit",)) -> bool:
    """True if a restriction list rejects or defers relaying before any of ``permits`` accepts it.

    Raises CommandError if postconf(1) cannot expand a restriction class.
    """
    return any(_comes_first(words(live, name), _REFUSE, permits) for name in LISTS)


def is_delayed(live: LivePostfix) -> bool:
    """True if smtpd evaluates the lists of clients, HELO and senders for each recipient (smtpd_delay_reject)."""
    return live.values.get("smtpd_delay_reject") != "no"


def rules(live: LivePostfix, name: str) -> list[Rule]:
    """Return the restrictions of a list, with restriction classes expanded one level.

    Raises CommandError if postconf(1) cannot expand a class.
    """
    classes, listed = set(live.listed("smtpd_restriction_classes")), live.listed(name)
    found: list[Rule] = []
    for rule in parsed(listed, name):
        if listed[rule.start] in classes:
            inner = parsed(entries(live.ask("postconf", "-xh", listed[rule.start])), name)
            found += (replace(one, start=rule.start, stop=rule.stop, of_class=listed[rule.start]) for one in inner)
        else:
            found.append(rule)
    return found


def parsed(listed: list[str], name: str) -> Iterator[Rule]:
    """Yield the restrictions that the entries of the list ``name`` are; restriction classes are not expanded."""
    bare = _BARE_TABLES.get(name, "")
    at, begin, warns = 0, 0, False
    while at < len(listed):
        word = listed[at].lower()
        if word == _WARN:
            begin, at, warns = at, at + 1, True
            continue
        start = begin if warns else at
        takes = bool(_WITH_ARGUMENT.fullmatch(word))
        argument = listed[at + 1] if takes and at + 1 < len(listed) else listed[at] if ":" in word else ""
        at += 2 if takes else 1
        yield Rule(bare if ":" in word else word, argument, start, min(at, len(listed)), only_warns=warns)
        warns = False


_GOES_ON = frozenset(
    {"dunno", "filter", "hold", "discard", "redirect", "bcc", "prepend", "info", "warn", "defer_if_permit"}
)


def action(value: str) -> str:
    """Return what a value of an access table does (access(5)).

    It is ``ok``: the list ends; ``defer_if_reject``; a reply code; ``dunno``: the next restriction decides, also for
    a list of restrictions, which is not evaluated; or ``unknown``: smtpd answers 451.
    """
    verb = value.split(maxsplit=1)[0].lower() if value.split() else ""
    if verb in {"ok", "relay"} or value.strip().isdigit() or verb.startswith("permit"):
        return "ok"
    if re.fullmatch(r"[45]\d\d", verb):
        return verb
    if verb == "defer_if_reject":
        return verb
    if verb in {"reject", "defer"}:
        return "554" if verb == "reject" else "450"
    return "dunno" if verb in _GOES_ON or re.match(r"(check|reject|warn)_", verb) else "unknown"


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
