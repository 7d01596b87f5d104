"""What is known of this host, asked once for all checks: main.cf, its tables, and the published text."""

from __future__ import annotations

import json
import os
import re
import secrets
import shlex
import subprocess
from collections import Counter
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from syncagent import addresses as normalise
from syncagent.checks.lists import bare, is_named, patterns
from syncagent.checks.published import Published
from syncagent.errors import SyncagentError
from syncagent.files import atomic as files
from syncagent.postfix.commands import of_postfix, tool
from syncagent.postfix.main_cf import MainConf, entries, of_table, unfit_file
from syncagent.postfix.table import Target
from syncagent.sync import tables
from syncagent.values.types import INDEX_SUFFIX

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from syncagent.config.tables import Config
    from syncagent.model import SourceReport
    from syncagent.state.database import Ledger
    from syncagent.values.types import MapName

_SECONDS = 60
DEFAULT_RESTRICTIONS = "permit_mynetworks, permit_sasl_authenticated, reject_unauth_destination"
PARAMETERS = (
    *("relay_recipient_maps", "relay_domains", "mydestination", "virtual_alias_domains", "virtual_mailbox_domains"),
    *("canonical_maps", "recipient_canonical_maps", "virtual_alias_maps", "local_recipient_maps"),
    *("smtpd_reject_unlisted_recipient", "unknown_relay_recipient_reject_code", "soft_bounce", "recipient_delimiter"),
    *("smtpd_relay_restrictions", "smtpd_recipient_restrictions", "smtpd_restriction_classes", "mynetworks"),
    *("parent_domain_matches_subdomains", "maximal_queue_lifetime", "bounce_queue_lifetime", "smtputf8_enable"),
    *("myhostname", "inet_interfaces", "proxy_interfaces", "default_database_type", "compatibility_level"),
    *("receive_override_options", "transport_maps"),
)
"""The parameters that the checks look at."""
TABLES = (
    *("relay_recipient_maps", "relay_domains", "mydestination", "virtual_alias_domains", "virtual_mailbox_domains"),
    *("recipient_canonical_maps", "canonical_maps", "virtual_alias_maps", "transport_maps"),
)
"""Those whose tables smtpd, or trivial-rewrite for it, asks before it takes a recipient of a relay domain."""
_LASTING = re.compile(r"fatal: (?:open (?:database )?/.*: No such file or directory|unsupported dictionary type: .*)")


class UnaskedError(SyncagentError):
    """One of Postfix's programs did not answer."""


@dataclass(frozen=True)
class Options:
    """What `check` was told: servers as (host, port); ``dns`` and ``smtp`` are None for the usual ones.

    ``program`` is what to type for another verb; ``report`` is shown progress.
    """

    program: str
    report: Callable[[str, int], None]
    dns: tuple[str, int] | None = None
    smtp: tuple[str, int] | None = None
    offline: bool = False


class Trouble(NamedTuple):
    """Why a table cannot be asked; ``lasting``: it is not there for Postfix either, which answers 451 then."""

    text: str
    lasting: bool


@dataclass
class Host:
    """What the checks look at: the host they run on, what its sources said, what is remembered."""

    config: Config
    options: Options
    reports: tuple[SourceReport, ...] = ()
    ledger: Ledger | None = None

    @cached_property
    def main(self) -> MainConf:
        """What main.cf says of relaying."""
        return MainConf.read(self.config.postfix.config_directory)

    @cached_property
    def values(self) -> dict[str, str]:
        """The parameters, expanded; empty where there is no main.cf."""
        if tool("postconf") is None:
            return {}
        return self._parameters("-x", *PARAMETERS)

    @cached_property
    def published(self) -> Published:
        """What the map's text has."""
        return Published.read(Target(self.config.postfix.settings()).text)

    @cached_property
    def tables(self) -> tuple[MapName, ...]:
        """The tables that syncagent writes."""
        return tuple(filter(None, (self.config.postfix.map, self.config.postfix.domains_map)))

    def target(self, table: MapName) -> Target:
        """Give the files of a table that syncagent writes."""
        return Target(self.config.postfix.settings(table))

    @cached_property
    def troubles(self) -> dict[str, Trouble]:
        """The tables and files of TABLES that cannot be asked, as they are named."""
        named = dict.fromkeys(bare(one) for name in TABLES for entry in self.listed(name) for one in patterns(entry))
        return {pattern: trouble for pattern in named if (trouble := self._trouble(pattern))}

    def _trouble(self, pattern: str) -> Trouble | None:
        try:
            if is_named(pattern):
                self.look_up(pattern, [invented(min(self.scope))])
            elif pattern.startswith("/"):
                files.open_foreign(pattern).close()
        except UnaskedError as trouble:
            return Trouble(str(trouble), bool(_LASTING.search(str(trouble))))
        except OSError as trouble:
            return Trouble(str(trouble.strerror), isinstance(trouble, FileNotFoundError))
        return None

    @cached_property
    def names_the_map(self) -> bool:
        """Whether relay_recipient_maps names our map."""
        return any(is_table(entry, self.config.postfix.map) for entry in self.listed("relay_recipient_maps"))

    @cached_property
    def begun(self) -> bool:
        """Whether there is a map, or Postfix asks it already: before that, what is missing is left to be done."""
        return self.names_the_map or Target(self.config.postfix.settings()).text.exists()

    @cached_property
    def scope(self) -> frozenset[str]:
        """The relay domains that syncagent publishes recipients for: those configured, and those of domains_map."""
        second = self.config.postfix.domains_map
        more = tables.in_text(Path(os.path.realpath(second.path))) if second else frozenset()
        return frozenset(map(str, self.config.postfix.relay_domains)) | more

    @cached_property
    def level_of_migration(self) -> str:
        """What Postfix 3.11 and later do with tables of Berkeley DB; empty before."""
        return self._parameters("-x", "non_bdb_migration_level").get("non_bdb_migration_level", "")

    @cached_property
    def counts(self) -> Counter[str]:
        """The recipients of each relay domain and of what is below it, and of domains outside of all."""
        found: Counter[str] = Counter()
        for name, count in self.published.domains.items():
            domain = normalise.domain_or_same(name)
            found[normalise.within(domain, self.scope) or domain] += count
        return found

    def _parameters(self, *args: str) -> dict[str, str]:
        try:
            said = self.ask("postconf", *args)
        except UnaskedError:
            return {}
        pairs = (line.partition("=") for line in said.splitlines())
        return {name.strip(): value.strip() for name, _, value in pairs}

    def ask(self, program: str, *args: str, keys: Iterable[str] | None = None) -> str:
        """Run one of Postfix's programs on its configuration, with lines on its standard input; give what it prints.

        Raises UnaskedError where it is missing or fails.
        """
        path = tool(program)
        if path is None:
            raise UnaskedError(f"{program} is not installed")
        if unfit := unfit_file(*of_postfix(self.config.postfix.config_directory)):
            raise UnaskedError(unfit)
        command = [str(path), "-c", str(self.config.postfix.config_directory.absolute()), *args]
        given = None if keys is None else "".join(f"{key}\n" for key in keys).encode(errors="replace")
        try:
            done = subprocess.run(command, input=given, capture_output=True, timeout=_SECONDS, check=False)
        except (OSError, subprocess.TimeoutExpired) as error:
            raise UnaskedError(f"{program} could not be run: {error}") from error
        trouble = done.stderr.decode(errors="backslashreplace").strip()
        if "fatal:" in trouble or "error:" in trouble or done.returncode not in ((0, 1) if keys is not None else (0,)):
            raise UnaskedError("; ".join(trouble.splitlines()[-2:]) or f"{program} ended with {done.returncode}")
        return done.stdout.decode(errors="backslashreplace")

    def look_up(self, table: str, keys: Iterable[str]) -> dict[str, str]:
        """Ask a table for keys; give those that it has, as they were asked, with what it says. Raises UnaskedError."""
        if unfit := unfit_file(*of_table(table)):
            raise UnaskedError(unfit)
        said = self.ask("postmap", "-q", "-", table.removeprefix("proxy:"), keys=keys)
        return {key: value for key, tab, value in (line.partition("\t") for line in said.splitlines()) if tab}

    def is_set(self, name: str) -> bool:
        """Tell whether main.cf has a parameter, or Postfix's default counts."""
        return bool(self._parameters("-n", name))

    def raw(self, name: str) -> list[str]:
        """Give the entries of a list as main.cf spells them, as far as they can be told apart, else expanded."""
        spelled = entries(self._parameters(name).get(name, ""))
        expanded = self.listed(name)
        return spelled if len(spelled) == len(expanded) else expanded

    def listed(self, name: str) -> list[str]:
        """Give the entries of a list, expanded."""
        return entries(self.values.get(name, ""))

    def lost(self, name: str) -> list[str]:
        """Give the entries of a list that are not there any more, and that no mend keeps.

        Ours are not among them: they are published anew. Nor is what has its text: it is indexed anew.
        """
        if name not in TABLES:
            return []
        lasting = [entry for entry in self.listed(name) if (why := self.troubles.get(bare(entry))) and why.lasting]
        return [entry for entry in lasting if not self.is_ours(entry) and not self.unindexed(entry)]

    def unasked(self, name: str) -> list[str]:
        """Give the tables of a list that cannot be asked now, and may have anything."""
        lost = self.lost(name)
        several = (pattern for entry in self.listed(name) if entry not in lost for pattern in patterns(entry))
        return [bare(pattern) for pattern in several if bare(pattern) in self.troubles]

    def is_ours(self, entry: str) -> bool:
        """Tell whether an entry of main.cf is a table that syncagent writes."""
        return any(is_table(entry, table) for table in self.tables)

    def unindexed(self, entry: str) -> str:
        """Give TYPE:PATH of a table by another hand that has its text, and lacks its index at most; else nothing."""
        kind, _, path = bare(entry).removeprefix("proxy:").partition(":")
        indexed = kind in INDEX_SUFFIX.keys() & self.main.types and kind != "texthash"
        others = indexed and not any(same_file(bare(entry), table) for table in self.tables)
        return f"{kind}:{path}" if others and Path(path).is_file() else ""

    def postconf(self, name: str, value: str) -> str:
        """Give the command that sets a parameter."""
        return self.command("postconf", "-e", f"{name} = {value}".rstrip())

    def unset(self, name: str) -> str:
        """Give the command that brings a parameter back to what Postfix has by itself."""
        return self.command("postconf", "-X", name)

    def command(self, program: str, *args: str) -> str:
        """Give a command of Postfix's to type."""
        directory = str(self.config.postfix.config_directory.absolute())
        return shlex.join([program, *([] if directory == "/etc/postfix" else ["-c", directory]), *args])

    def with_entries(self, name: str, more: Iterable[str], gone: Iterable[str] = ()) -> str:
        """Give the command that adds entries to a list and takes out others, as these are expanded, and what is lost.

        What is added comes first where there may be exceptions.
        """
        leaving = {*gone, *self.lost(name)}
        pairs = zip(self.raw(name), self.listed(name), strict=True)
        there = [spelled for spelled, entry in pairs if entry not in leaving]
        both = (more, there) if any(entry.startswith(("!", "/")) for entry in there) else (there, more)
        return self.postconf(name, ", ".join(dict.fromkeys(entry for several in both for entry in several)))

    def without(self, name: str, gone: Iterable[str]) -> str:
        """Give the command that takes entries, as they are expanded, out of a list."""
        return self.with_entries(name, (), gone)

    def setting(self, name: str, value: object) -> str:
        """Give the line to have in [postfix] of the configuration; JSON's strings and arrays of them are TOML's."""
        return f"in {self.config.file}, [postfix]: {name} = {json.dumps(value, ensure_ascii=False)}"

    @property
    def sync(self) -> str:
        """Give the command that publishes the map."""
        return f"{self.options.program} sync"


def spelled(server: tuple[str, int]) -> str:
    """Give HOST:PORT, an IPv6 address in brackets."""
    name, port = server
    return f"[{name}]:{port}" if ":" in name else f"{name}:{port}"


def invented(domain: str) -> str:
    """Give an address that nobody has."""
    return f"nobody{secrets.token_hex(8)}@{domain}"


def is_table(entry: str, table: MapName) -> bool:
    """Tell whether an entry of main.cf is this table: the same type and file, by whatever name."""
    return entry.removeprefix("proxy:").startswith(f"{table.type}:") and same_file(entry, table)


def same_file(entry: str, table: MapName) -> bool:
    """Tell whether an entry of main.cf, of whatever type, is of this table's file."""
    path = entry.removeprefix("proxy:").partition(":")[2]
    return path.startswith("/") and os.path.realpath(path) == os.path.realpath(table.path)
