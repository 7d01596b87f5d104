"""Predict smtpd's answer to RCPT TO from main.cf. Rules: ADDRESS_CLASS_README, and smtpd_check.c in Postfix's source.

The settings for domains and recipients are evaluated in smtpd's order; of the restrictions, check_recipient_access and
reject_unlisted_recipient. Other restrictions, policy services, transports and milters can also reject or accept a
recipient; they are not evaluated.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from syncagent import addresses as normalise
from syncagent.postfix import restrictions
from syncagent.postfix.commands import Cause, CommandError
from syncagent.postfix.live import patterns_of, without_exclamation
from syncagent.postfix.match_list import matches, with_parents
from syncagent.postfix.table import is_same_table
from syncagent.values.types import TableName

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from syncagent.postfix.live import LivePostfix
    from syncagent.values.types import MapName

_RELAY = "relay_domains"
_CLASSES = (
    ("mydestination", "local_recipient_maps", "unknown_local_recipient_reject_code"),
    ("virtual_alias_domains", "virtual_alias_maps", "unknown_virtual_alias_reject_code"),
    ("virtual_mailbox_domains", "virtual_mailbox_maps", "unknown_virtual_mailbox_reject_code"),
    (_RELAY, "relay_recipient_maps", "unknown_relay_recipient_reject_code"),
)
"""Address classes: domain list, recipient tables, reject code. The first class whose list has the domain applies."""
_BEFORE = ("recipient_canonical_maps", "canonical_maps", "virtual_alias_maps")
_REGULAR_EXPRESSIONS = ("regexp", "pcre")
_ROUTED = re.compile(r"[%!@]")
_TAKEN = "250"


def _no_reason(key: str) -> str:
    return f"the doubt table has {key}"


@dataclass(frozen=True)
class Answer:
    """A reply to RCPT TO: its code and the reason; ``doubt`` is why it is 450 instead of 550, if it is for that."""

    code: str
    why: str
    doubt: str = ""


_PASSED = Answer(_TAKEN, "")


@dataclass
class Smtpd:
    """The smtpd of this host as main.cf configures it. ``map`` is the table of recipients that syncagent publishes.

    ``doubt`` is the doubt table, None if there is none. ``in_doubt`` returns why this table has a key.
    """

    live: LivePostfix
    map: MapName
    doubt: MapName | None = None
    in_doubt: Callable[[str], str] = field(default=_no_reason)

    @property
    def _own(self) -> frozenset[str]:
        """The local parts reserved by Postfix: they have no extension, and exist in each domain of mydestination."""
        return frozenset({"postmaster", "mailer-daemon", self.live.values.get("double_bounce_sender", "")})

    def look_up(self, keys: list[str]) -> dict[str, str]:
        """Return the keys that the map has, with their values. Raises CommandError if the lookup fails."""
        return self.live.look_up(str(self.map), keys)

    def without_extension(self, address: str) -> str:
        """Return the address without its extension (recipient_delimiter); empty if it has none."""
        values = self.live.values
        delimiter = values.get("recipient_delimiter", "")
        local, _, domain = address.rpartition("@")
        user = re.sub(r"\\(.)", r"\1", local[1:-1]) if local.startswith('"') else local
        start = next((at for at, char in enumerate(user) if char in delimiter), 0)
        lowered = user.lower()
        special = "-" in delimiter and values.get("owner_request_special") != "no"
        if special and (lowered.startswith("owner-") or re.search(r".-request$", lowered)):
            return ""
        if not start or lowered in self._own:
            return ""
        quoted = re.sub(r'(["\\])', r"\\\1", user[:start])
        try:
            return normalise.canonical(f'"{quoted}"@x.example').removesuffix("x.example") + domain
        except normalise.UnusableError:  # the address itself is unusable, too
            return f"{user[:start]}@{domain}"

    def answers(self, recipient: str) -> str:
        """Return smtpd's answer to RCPT TO for ``recipient``, with the reason, as a sentence.

        The sentence says so if Postfix cannot be queried.
        """
        if not self.live.values:
            why = "; ".join(map(str, self.live.main.notes)) or "postconf printed nothing"
            return f"cannot query Postfix: {why}"
        try:
            answer = self._answer(recipient)
        except CommandError as error:
            if error.cause is Cause.PERMISSION and os.geteuid():  # Postfix opens its tables as root
                return f"cannot query Postfix as this user: {error}"
            answer = Answer("451", f"a lookup fails, in {error}")
        if self.live.values.get("soft_bounce") == "yes" and answer.code.startswith("5"):
            answer = replace(answer, code=f"4{answer.code[1:]}", why=f"{answer.why} (soft_bounce)")
        unless = ", if nothing else refuses it" if answer.code == _TAKEN else ""
        doubt = f" (in doubt: {answer.doubt})" if answer.doubt else ""
        return f"Postfix answers {answer.code}{doubt}{unless}: {answer.why}"

    def _answer(self, recipient: str) -> Answer:
        """Return the reply. Raises CommandError if a lookup fails."""
        live, (local, _, domain) = self.live, recipient.rpartition("@")
        if local.startswith("-") and live.values.get("allow_min_user") != "yes":
            return Answer("501", "a local part may not begin with - (allow_min_user)")
        for name in (*restrictions.EARLIER, restrictions.SENDER) if restrictions.is_delayed(live) else ():
            refusal, _ = self._by_list(name, recipient)
            if refusal:
                return refusal
        denied = live.values.get("relay_domains_reject_code", "554")
        if self._address_class(domain) is None:
            text = f"relay access denied: {domain} is not in {_RELAY}, nor a domain of this host's own"
            return Answer(denied, text)
        if _ROUTED.search(local) and live.values.get("allow_untrusted_routing") != "yes":
            return Answer(denied, "relay access denied: sender-specified routing (allow_untrusted_routing)")
        doubt = ""
        for name in restrictions.LISTS:
            refusal, doubt = self._by_list(name, recipient, doubt)
            if refusal:
                return refusal
        return self._softened(self._unlisted(recipient), doubt)

    def _by_list(self, name: str, recipient: str, doubt: str = "") -> tuple[Answer | None, str]:
        """Return a list's refusal of the recipient, None if there is none; and why later refusals are 450, or "".

        ``doubt`` is why they were so before. Raises CommandError if a lookup fails.
        """
        for rule in restrictions.rules(self.live, name):
            does, answer = ("dunno", _PASSED) if rule.only_warns else self._of_rule(name, rule, recipient)
            if does == "ok":
                break
            if does == "defer_if_reject":
                doubt = doubt or answer.doubt
            elif does != "dunno":
                return self._softened(answer, doubt), doubt
        return None, doubt

    def _of_rule(self, name: str, rule: restrictions.Rule, recipient: str) -> tuple[str, Answer]:
        """Return what a restriction of a list does, as ``restrictions.action``, and the reply if it refuses.

        Raises CommandError if a lookup fails.
        """
        if rule.name == "permit":
            return "ok", _PASSED
        if rule.name == restrictions.UNLISTED:
            answer = self._unlisted(recipient)
            return ("dunno" if answer.code == _TAKEN else answer.code), answer
        key, value = ("", "")
        if rule.name == restrictions.RECIPIENT_ACCESS:
            key, value = self._access(name, rule.argument, recipient)
        if not key:
            return "dunno", _PASSED
        does = restrictions.action(value)
        code = {"unknown": "451"}.get(does, does)
        return does, Answer(code, f"{rule.argument} in {name} has {key} {value}", self._reason(rule.argument, key))

    def _softened(self, answer: Answer, doubt: str) -> Answer:
        """Return the reply, with another code instead of 5xx if the recipient is in doubt."""
        if not doubt or not answer.code.startswith("5"):
            return replace(answer, doubt="")
        return Answer(self.live.values.get("access_map_defer_code", "450"), answer.why, doubt)

    def _reason(self, table: str, key: str) -> str:
        ours = self.doubt is not None and is_same_table(table, self.doubt)
        return self.in_doubt(key) if ours else f"{table} has {key}"

    def _access(self, name: str, table: str, recipient: str) -> tuple[str, str]:
        """Return the first key of a recipient that an access table has, with its value; empty if there is none.

        Raises CommandError if the lookup fails.
        """
        keys = list(dict.fromkeys(self._access_keys(recipient)))
        whole_only = TableName.parse(table).type in _REGULAR_EXPRESSIONS
        hits = self._look_up(name, table, keys[:1] if whole_only else keys)
        return next(((key, hits[key]) for key in keys if key in hits), ("", ""))

    def _access_keys(self, recipient: str) -> Iterator[str]:
        """Yield the keys that smtpd looks up in an access table, in its order (access(5))."""
        addresses = [recipient, *filter(None, [self.without_extension(recipient)])]
        domain = recipient.rpartition("@")[2]
        yield from addresses
        yield from with_parents(self.live, "smtpd_access_maps", domain)
        yield from (f"{address.rpartition('@')[0]}@" for address in addresses)

    def _address_class(self, domain: str) -> tuple[str, str, str] | None:
        """Return the address class of a domain, None for a foreign one. Raises CommandError if a lookup fails."""
        return next((row for row in _CLASSES if self._matches(row[0], domain)), None)

    def _unlisted(self, recipient: str) -> Answer:
        """Return the reply of reject_unlisted_recipient. It does not refuse those of foreign domains.

        Raises CommandError if a lookup fails.
        """
        live = self.live
        bypass = next(restrictions.bypasses(live), None)
        if bypass:
            return Answer(_TAKEN, f"{bypass.parameter}: {bypass.text}")
        address_class = self._address_class(recipient.rpartition("@")[2])
        if address_class is None:
            return Answer(_TAKEN, "its domain is foreign")
        name, maps, code = address_class
        keys = list(self._keys(recipient, local=name == "mydestination"))
        for before in _BEFORE:
            table = self._table(before, keys) if before != maps else ""
            if table:
                return Answer(_TAKEN, f"{before} has it ({table}), before {maps} is asked")
        reject = live.values.get(code, "550")
        return Answer(*self._of_class(recipient, keys, maps, reject, "" if name == _RELAY else name))

    def _of_class(self, recipient: str, keys: list[str], maps: str, code: str, other: str) -> tuple[str, str]:
        """Return the reply code and the reason according to the recipient tables ``maps`` of an address class.

        ``code`` is the class's reject code. ``other`` is its domain list, empty for relay_domains. Raises CommandError
        if a lookup fails.
        """
        ours = [entry for entry in self.live.listed(maps) if is_same_table(entry, self.map)]
        instead = f"; {other} has its domain, so that {maps} is asked instead of the map" if other else ""
        unnamed = "" if other or ours else f"; {maps} does not name {self.map}"
        if other == "mydestination" and recipient.rpartition("@")[0] in self._own:
            return "250", f"it is one of Postfix's own{instead}"
        if not self.live.listed(maps) and maps != "virtual_alias_maps":
            return "250", f"{maps} is empty, so that every recipient is accepted{instead}"
        table = self._table(maps, keys)
        if table:
            return "250", f"{'the map' if table in ours else f'{table} in {maps}'} has it{instead}{unnamed}"
        what = "the map" if ours == self.live.listed(maps) else maps
        return code, f"{what} does not have it{instead}{unnamed}"

    def _matches(self, name: str, domain: str) -> bool:
        """True if a list matches the domain. Raises CommandError if a table or file before the match is unreadable."""
        live, listed = self.live, self.live.listed(name)
        match = matches(live, name, [domain]).get(domain, "")
        for entry in listed[: listed.index(match)] if match else listed:  # Postfix stops at the first failure
            for pattern in patterns_of(entry):
                reason = live.unreadable.get(without_exclamation(pattern))
                if reason:
                    raise CommandError(f"{name}: {reason.text}", reason.cause)
        return bool(match)

    def _keys(self, recipient: str, *, local: bool) -> Iterator[str]:
        """Yield the lookup keys in smtpd's order: address, address without extension, local parts, ``@domain``.

        The local parts are keys only in mydestination (``local``).
        """
        addresses = [recipient, *filter(None, [self.without_extension(recipient)])]
        yield from addresses
        if local:
            yield from (address.rpartition("@")[0] for address in addresses)
        yield f"@{recipient.rpartition('@')[2]}"

    def _table(self, name: str, keys: list[str]) -> str:
        """Return the first table of a list that has one of the keys; empty if there is none.

        As in Postfix, each key is looked up in all tables before the next key, and regexp and pcre tables are queried
        with the whole address only. Raises CommandError if a lookup fails.
        """
        hits: dict[str, dict[str, str]] = {}
        for key in keys:
            for table in self.live.listed(name):
                if table not in hits:
                    whole_only = TableName.parse(table).type in _REGULAR_EXPRESSIONS
                    hits[table] = self._look_up(name, table, keys[:1] if whole_only else keys)
                if key in hits[table]:
                    return table
        return ""

    def _look_up(self, name: str, table: str, keys: list[str]) -> dict[str, str]:
        """Return the keys that a table has, with their values.

        Raises CommandError, whose text begins with the list's name, if the lookup fails.
        """
        try:
            return self.live.look_up(table, keys)
        except CommandError as error:
            raise CommandError(f"{name}: {error}", error.cause) from error
