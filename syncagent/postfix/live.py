"""Query the Postfix of this host as it is configured now: parameters, lists, and lookups by ``postmap -q``."""

from __future__ import annotations

import errno
import secrets
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from syncagent.files import atomic as files
from syncagent.postfix import commands
from syncagent.postfix.commands import Cause, CommandError
from syncagent.postfix.main_cf import MainConf, entries, read_list, table_files
from syncagent.values.types import TableName

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from pathlib import Path

_RECIPIENT_PARAMETERS = (
    *("virtual_mailbox_maps", "relay_domains_reject_code", "unknown_local_recipient_reject_code"),
    *("unknown_virtual_alias_reject_code", "unknown_virtual_mailbox_reject_code"),
    *("allow_min_user", "allow_untrusted_routing", "owner_request_special", "double_bounce_sender"),
)
"""Further parameters that decide smtpd's answer to RCPT TO."""
PARAMETERS = (
    *("relay_recipient_maps", "relay_domains", "mydestination", "virtual_alias_domains", "virtual_mailbox_domains"),
    *("canonical_maps", "recipient_canonical_maps", "virtual_alias_maps", "local_recipient_maps"),
    *("smtpd_reject_unlisted_recipient", "unknown_relay_recipient_reject_code", "soft_bounce", "recipient_delimiter"),
    *("smtpd_relay_restrictions", "smtpd_recipient_restrictions", "smtpd_restriction_classes", "mynetworks"),
    *("parent_domain_matches_subdomains", "maximal_queue_lifetime", "bounce_queue_lifetime", "smtputf8_enable"),
    *("myhostname", "inet_interfaces", "proxy_interfaces", "default_database_type", "compatibility_level"),
    *("receive_override_options", "transport_maps"),
)
"""The parameters that `check` looks at."""
TABLES = (
    *("relay_recipient_maps", "relay_domains", "mydestination", "virtual_alias_domains", "virtual_mailbox_domains"),
    *("recipient_canonical_maps", "canonical_maps", "virtual_alias_maps", "transport_maps"),
)
"""The lists whose tables smtpd, or trivial-rewrite for it, queries before it accepts a recipient of a relay domain."""

_OS_CAUSES = {errno.ENOENT: Cause.FILE_MISSING, errno.EACCES: Cause.PERMISSION, errno.EPERM: Cause.PERMISSION}


@dataclass(frozen=True, slots=True)
class Unreadable:
    """Why a table or file cannot be queried."""

    text: str
    cause: Cause

    @property
    def missing(self) -> bool:
        """True if Postfix cannot open it either, and answers 451."""
        return self.cause in {Cause.FILE_MISSING, Cause.UNKNOWN_TYPE}


@dataclass
class LivePostfix:
    """The Postfix whose main.cf is in ``directory``. Each setting is read once.

    ``probe`` returns a key to look up where only the table's own answer matters.
    """

    directory: Path
    probe: Callable[[], str]

    @cached_property
    def main(self) -> MainConf:
        """The relay settings, files and tables in lists read."""
        return MainConf.read(self.directory)

    @cached_property
    def values(self) -> dict[str, str]:
        """The parameters, expanded; empty where postconf(1) cannot read main.cf."""
        return self._parameters("-x", *PARAMETERS, *_RECIPIENT_PARAMETERS)

    @cached_property
    def migration_level(self) -> str:
        """non_bdb_migration_level of Postfix 3.11 and later; empty before (NON_BERKELEYDB_README)."""
        return self._parameters("-x", "non_bdb_migration_level").get("non_bdb_migration_level", "")

    @cached_property
    def unreadable(self) -> dict[str, Unreadable]:
        """The tables and files of ``TABLES`` that cannot be queried, by the pattern that names them."""
        patterns = [
            without_exclamation(pattern)
            for name in TABLES
            for entry in self.listed(name)
            for pattern in patterns_of(entry)
        ]
        return {pattern: reason for pattern in dict.fromkeys(patterns) if (reason := self._unreadable(pattern))}

    def _unreadable(self, pattern: str) -> Unreadable | None:
        try:
            if is_table(pattern):
                self.look_up(pattern, [self.probe()])
            elif pattern.startswith("/"):
                files.open_foreign(pattern).close()
        except CommandError as error:
            return Unreadable(str(error), error.cause)
        except OSError as error:
            return Unreadable(str(error.strerror), _OS_CAUSES.get(error.errno or 0, Cause.OTHER))
        return None

    def ask(self, program: str, *args: str, keys: Iterable[str] | None = None) -> str:
        """Run a program of Postfix, with keys as lines of its stdin, and return its stdout.

        Raises CommandError where it is missing or fails. With keys, exit status 1 means that none was found.
        """
        stdin = None if keys is None else "".join(f"{key}\n" for key in keys).encode(errors="replace")
        done = commands.run(program, *args, directory=self.directory, stdin=stdin)
        statuses = (0,) if keys is None else (0, 1)
        if "fatal:" in done.stderr or "error:" in done.stderr or done.status not in statuses:
            raise done.error()
        return done.stdout

    def look_up(self, table: str, keys: Iterable[str]) -> dict[str, str]:
        """Return the values of the keys that a table has, by the keys as given. Raises CommandError."""
        name = TableName.parse(table)
        if text := commands.irregular_file(table_files(name)):
            raise CommandError(text)
        lines = self.ask("postmap", "-q", "-", str(name), keys=keys).splitlines()
        return {key: value for key, tab, value in (line.partition("\t") for line in lines) if tab}

    def is_set(self, name: str) -> bool:
        """True if main.cf sets a parameter, False if Postfix's default applies."""
        return bool(self._parameters("-n", name))

    def listed(self, name: str) -> list[str]:
        """Return the entries of a list, expanded."""
        return entries(self.values.get(name, ""))

    def listed_raw(self, name: str) -> list[str]:
        """Return the entries of a list as main.cf spells them; expanded where the two differ in number."""
        raw, expanded = entries(self._parameters(name).get(name, "")), self.listed(name)
        return raw if len(raw) == len(expanded) else expanded

    def _parameters(self, *args: str) -> dict[str, str]:
        try:
            return commands.parameters(self.ask("postconf", *args))
        except CommandError:
            return {}


def unused_address(domain: str) -> str:
    """Return an address that no list has: its local part is random."""
    return f"nobody{secrets.token_hex(8)}@{domain}"


def without_exclamation(pattern: str) -> str:
    """Return a pattern of a list without the ``!`` that makes it an exception."""
    return pattern.lstrip("!")


def is_table(pattern: str) -> bool:
    """True if a pattern of a list is a table, not a domain, file, or address in brackets."""
    return ":" in pattern and not pattern.startswith(("[", "/"))


def patterns_of(entry: str) -> Iterator[str]:
    """Yield the patterns of a list's entry: itself, or those of the file that it names, if that can be read."""
    name = entry.removeprefix("!")
    if name.startswith("/"):
        try:
            yield from read_list(name, "replace")
        except OSError:
            yield name
    else:
        yield name
