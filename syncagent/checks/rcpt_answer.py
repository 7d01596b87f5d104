"""What this Postfix answers to RCPT TO, by main.cf as it is: ADDRESS_CLASS_README; smtpd_check.c in its source.

Only what main.cf says of domains and recipients is looked at, in smtpd's order. What else may refuse or permit, such
as restrictions, a policy service, a transport or a milter, is not asked.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from syncagent import addresses as normalise
from syncagent.checks.context import Host, Options, UnaskedError, is_table
from syncagent.checks.lists import bare, matches, patterns
from syncagent.checks.smtpd import unlisted_are_rejected

if TYPE_CHECKING:
    from collections.abc import Iterator

    from syncagent.config.tables import Config

_RELAY = "relay_domains"
_CLASSES = (
    ("mydestination", "local_recipient_maps", "unknown_local_recipient_reject_code"),
    ("virtual_alias_domains", "virtual_alias_maps", "unknown_virtual_alias_reject_code"),
    ("virtual_mailbox_domains", "virtual_mailbox_maps", "unknown_virtual_mailbox_reject_code"),
    (_RELAY, "relay_recipient_maps", "unknown_relay_recipient_reject_code"),
)
"""A class of domains, where its recipients are, and the code for others: the first class that has a domain counts."""
_BEFORE = ("recipient_canonical_maps", "canonical_maps", "virtual_alias_maps")
_PATTERNS = ("regexp:", "pcre:")
_ROUTED = re.compile(r"[%!@]")
_MORE = (
    *("virtual_mailbox_maps", "relay_domains_reject_code", *(code for _, _, code in _CLASSES)),
    *("allow_min_user", "allow_untrusted_routing", "owner_request_special", "double_bounce_sender"),
)


@dataclass
class Smtpd:
    """The smtpd of this host, as far as main.cf says what it answers."""

    config: Config

    @cached_property
    def _host(self) -> Host:
        host = Host(self.config, Options("", lambda _step, _count: None))
        if host.values:
            pairs = (line.partition("=") for line in host.ask("postconf", "-x", *_MORE).splitlines())
            host.values.update((name.strip(), value.strip()) for name, _, value in pairs)
        return host

    @property
    def _own(self) -> frozenset[str]:
        """The local parts that are Postfix's own: they are not split, and are there wherever a domain is local."""
        return frozenset({"postmaster", "mailer-daemon", self._host.values.get("double_bounce_sender", "")})

    def look_up(self, keys: list[str]) -> dict[str, str]:
        """Ask our map for keys; give those that it has. Raises UnaskedError."""
        return self._host.look_up(str(self.config.postfix.map), keys)

    def without_extension(self, address: str) -> str:
        """Give an address without its extension, as main.cf says where that begins; nothing where it has none."""
        values = self._host.values
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
        except normalise.UnusableError:  # nor was the address usable
            return f"{user[:start]}@{domain}"

    def answers(self, recipient: str) -> str:
        """Say what it answers to RCPT TO for a recipient, as it was spelled there, and why."""
        if not self._host.values:
            why = "; ".join(self._host.main.notes) or "postconf says nothing"
            return f"what Postfix answers cannot be told here: {why}"
        try:
            code, why = self._answer(recipient)
        except UnaskedError as trouble:
            if "ermission denied" in str(trouble) and os.geteuid():  # Postfix opens its tables as root
                return f"what Postfix answers cannot be told by this user: {trouble}"
            code, why = "451", f"a lookup fails, in {trouble}"
        if self._host.values.get("soft_bounce") == "yes" and code.startswith("5"):
            code, why = f"4{code[1:]}", f"{why} (soft_bounce)"
        unless = ", if nothing else refuses it" if code == "250" else ""
        return f"Postfix answers {code}{unless}: {why}"

    def _answer(self, recipient: str) -> tuple[str, str]:
        """Give the code and the reason. Raises UnaskedError where a lookup fails."""
        host, (local, _, domain) = self._host, recipient.rpartition("@")
        if local.startswith("-") and host.values.get("allow_min_user") != "yes":
            return "501", "a local part may not begin with - (allow_min_user)"
        where = next((one for one in _CLASSES if self._matches(one[0], domain)), None)
        denied = host.values.get("relay_domains_reject_code", "554")
        if where is None:
            return denied, f"relay access denied: {domain} is not in {_RELAY}, nor a domain of this host's own"
        if _ROUTED.search(local) and host.values.get("allow_untrusted_routing") != "yes":
            return denied, "relay access denied: sender-specified routing (allow_untrusted_routing)"
        unasked = next((one for one in unlisted_are_rejected(host) if one.severity == "error"), None)
        if unasked:
            return "250", f"{unasked.subject}: {unasked.text}"
        name, maps, code = where
        keys = list(self._keys(recipient, local=name == "mydestination"))
        for before in _BEFORE:
            table = self._table(before, keys) if before != maps else ""
            if table:
                return "250", f"{before} has it ({table}), before {maps} is asked"
        return self._of_class(recipient, keys, maps, host.values.get(code, "550"), "" if name == _RELAY else name)

    def _of_class(self, recipient: str, keys: list[str], maps: str, code: str, other: str) -> tuple[str, str]:
        """Give the answer by the recipients of a class; ``other`` is the list of its domains where it is not ours."""
        ours = [entry for entry in self._host.listed(maps) if is_table(entry, self.config.postfix.map)]
        instead = f"; {other} has its domain, so that {maps} is asked instead of the map" if other else ""
        unnamed = "" if other or ours else f"; {maps} does not name {self.config.postfix.map}"
        if other == "mydestination" and recipient.rpartition("@")[0] in self._own:
            return "250", f"it is one of Postfix's own{instead}"
        if not self._host.listed(maps) and maps != "virtual_alias_maps":
            return "250", f"{maps} is empty, so that every recipient is accepted{instead}"
        table = self._table(maps, keys)
        if table:
            return "250", f"{'the map' if table in ours else f'{table} in {maps}'} has it{instead}{unnamed}"
        what = "the map" if ours == self._host.listed(maps) else maps
        return code, f"{what} does not have it{instead}{unnamed}"

    def _matches(self, name: str, domain: str) -> bool:
        """Tell whether a list has a domain. Raises UnaskedError where an entry before that fails."""
        host, listed = self._host, self._host.listed(name)
        found = matches(host, name, [domain]).get(domain, "")
        for entry in listed[: listed.index(found)] if found else listed:  # Postfix goes no further than what fails
            for pattern in patterns(entry):
                if bare(pattern) in host.troubles:
                    raise UnaskedError(f"{name}: {host.troubles[bare(pattern)].text}")
        return bool(found)

    def _keys(self, recipient: str, *, local: bool) -> Iterator[str]:
        """Give what is looked up, in smtpd's order: whole, without extension, of local ones the user, ``@domain``."""
        several = [recipient, *filter(None, [self.without_extension(recipient)])]
        yield from several
        if local:
            yield from (one.rpartition("@")[0] for one in several)
        yield f"@{recipient.rpartition('@')[2]}"

    def _table(self, name: str, keys: list[str]) -> str:
        """Give the table of a list that has one of the keys, or nothing: asked in Postfix's order, to the first hit."""
        said: dict[str, dict[str, str]] = {}
        for key in keys:
            for table in self._host.listed(name):
                if table not in said:
                    whole = keys[:1] if table.removeprefix("proxy:").startswith(_PATTERNS) else keys
                    said[table] = self._look_up(name, table, whole)
                if key in said[table]:
                    return table
        return ""

    def _look_up(self, name: str, table: str, keys: list[str]) -> dict[str, str]:
        """Ask a table; where it fails, say in which list it is."""
        try:
            return self._host.look_up(table, keys)
        except UnaskedError as trouble:
            raise UnaskedError(f"{name}: {trouble}") from trouble
