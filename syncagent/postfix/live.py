"""Query this host's Postfix: parameters and lists by postconf(1), lookups by ``postmap -q``."""

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
"""Parameters beyond ``PARAMETERS`` that decide smtpd's answer to RCPT TO."""
PARAMETERS = (
    *("relay_recipient_maps", "relay_domains", "mydestination", "virtual_alias_domains", "virtual_mailbox_domains"),
    *("canonical_maps", "recipient_canonical_maps", "virtual_alias_maps", "local_recipient_maps"),
    *("smtpd_reject_unlisted_recipient", "unknown_relay_recipient_reject_code", "soft_bounce", "recipient_delimiter"),
    *("smtpd_relay_restrictions", "smtpd_recipient_restrictions", "smtpd_restriction_classes", "mynetworks"),
    *("parent_domain_matches_subdomains", "maximal_queue_lifetime", "bounce_queue_lifetime", "smtputf8_enable"),
    *("myhostname", "inet_interfaces", "proxy_interfaces", "default_database_type", "compatibility_level"),
    *("receive_override_options", "transport_maps"),
)
"""Parameters that `check` evaluates. An override of one of these in master.cf is a finding."""
OF_DOUBT = (
    *("smtpd_client_restrictions", "smtpd_helo_restrictions", "smtpd_sender_restrictions"),
    *("smtpd_data_restrictions", "smtpd_end_of_data_restrictions", "smtpd_delay_reject", "access_map_defer_code"),
)
"""Parameters that `check` evaluates where a doubt table is in use, besides ``PARAMETERS``."""
TABLES = (
    *("relay_recipient_maps", "relay_domains", "mydestination", "virtual_alias_domains", "virtual_mailbox_domains"),
    *("recipient_canonical_maps", "canonical_maps", "virtual_alias_maps", "transport_maps"),
)
"""Lists whose tables smtpd(8) or trivial-rewrite(8) may query before smtpd accepts a recipient of a relay domain."""

_OS_CAUSES = {errno.ENOENT: Cause.FILE_MISSING, errno.EACCES: Cause.PERMISSION, errno.EPERM: Cause.PERMISSION}


@dataclass(frozen=True, slots=True)
class Unreadable:
    """The reason why a table or file cannot be queried: the error message and its cause."""

    text: str
    cause: Cause

    @property
    def missing(self) -> bool:
        """True if the file or the table type is missing: Postfix cannot open it either and answers 451."""
        return self.cause in {Cause.FILE_MISSING, Cause.UNKNOWN_TYPE}


@dataclass
class LivePostfix:
    """The Postfix whose main.cf is in ``directory``. The cached properties are read once.

    ``probe`` returns a key; ``unreadable`` looks it up in each table to see whether the lookup fails.
    """

    directory: Path
    probe: Callable[[], str]

    @cached_property
    def main(self) -> MainConf:
        """The relay settings of main.cf, with the files and tables of relay_domains expanded."""
        return MainConf.read(self.directory)

    @cached_property
    def values(self) -> dict[str, str]:
        """The values of the parameters, with ``$name`` expanded; empty if postconf(1) fails."""
        return self._parameters("-x", *PARAMETERS, *_RECIPIENT_PARAMETERS, *OF_DOUBT)

    @cached_property
    def migration_level(self) -> str:
        """The value of non_bdb_migration_level (NON_BERKELEYDB_README); empty before Postfix 3.11."""
        return self._parameters("-x", "non_bdb_migration_level").get("non_bdb_migration_level", "")

    @cached_property
    def unreadable(self) -> dict[str, Unreadable]:
        """The tables and files in the lists of ``TABLES`` that cannot be queried: pattern without ``!``, reason."""
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
        """Run a Postfix program with ``keys`` as the lines of its stdin, and return its stdout.

        Raises CommandError if the program cannot be run, exits with an error, or reports one on stderr. With keys,
        exit status 1 is no error: postmap(1) found none of them.
        """
        stdin = None if keys is None else "".join(f"{key}\n" for key in keys).encode(errors="replace")
        done = commands.run(program, *args, directory=self.directory, stdin=stdin)
        statuses = (0,) if keys is None else (0, 1)
        if "fatal:" in done.stderr or "error:" in done.stderr or done.status not in statuses:
            raise done.error()
        return done.stdout

    def look_up(self, table: str, keys: Iterable[str]) -> dict[str, str]:
        """Return the keys that a table has, with their values. Raises CommandError if the lookup fails."""
        name = TableName.parse(table)
        if text := commands.irregular_file(table_files(name)):
            raise CommandError(text)
        lines = self.ask("postmap", "-q", "-", str(name), keys=keys).splitlines()
        return {key: value for key, tab, value in (line.partition("\t") for line in lines) if tab}

    def is_set(self, name: str) -> bool:
        """True if main.cf sets the parameter; False if Postfix's default applies or postconf(1) fails."""
        return bool(self._parameters("-n", name))

    def listed(self, name: str) -> list[str]:
        """Return the entries of a list parameter, with ``$name`` expanded."""
        return entries(self.values.get(name, ""))

    def listed_raw(self, name: str) -> list[str]:
        """Return the entries of a list parameter as main.cf spells them.

        Returns ``listed(name)`` instead if the two lists differ in length, so that they can be paired.
        """
        raw, expanded = entries(self._parameters(name).get(name, "")), self.listed(name)
        return raw if len(raw) == len(expanded) else expanded

    def _parameters(self, *args: str) -> dict[str, str]:
        try:
            return commands.parameters(self.ask("postconf", *args))
        except CommandError:
            return {}


def unused_address(domain: str) -> str:
    """Return an address of the domain with a random local part, so that no table lists it individually."""
    return f"nobody{secrets.token_hex(8)}@{domain}"


def without_exclamation(pattern: str) -> str:
    """Return a pattern of a list without the leading ``!`` of an exception."""
    return pattern.lstrip("!")


def is_table(pattern: str) -> bool:
    """True if a pattern of a list names a table, not a domain, a file or an address in brackets."""
    return ":" in pattern and not pattern.startswith(("[", "/"))


def patterns_of(entry: str) -> Iterator[str]:
    """Yield the patterns of a list entry, without its leading ``!``.

    An entry that names a file yields the file's patterns, or the file's name if it cannot be read.
    """
    name = entry.removeprefix("!")
    if name.startswith("/"):
        try:
            yield from read_list(name, "replace")
        except OSError:
            yield name
    else:
        yield name
