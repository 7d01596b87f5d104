"""The context of a run of checks: the data that the checks share, and methods that build remedies.

The data are configuration, options, source reports, state, the live Postfix and the published text.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from syncagent import addresses as normalise
from syncagent.checks.finding import File, Needs, Shell
from syncagent.postfix import commands
from syncagent.postfix.live import TABLES, LivePostfix, patterns_of, unused_address, without_exclamation
from syncagent.postfix.table import Target, is_same_file, is_same_table
from syncagent.postfix.table_stats import TableStats
from syncagent.state.database import reading
from syncagent.state.doubts import Doubts
from syncagent.sync import tables
from syncagent.values.types import INDEX_SUFFIX, TableName

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from syncagent.config.tables import Config
    from syncagent.model import SourceReport
    from syncagent.state.database import Ledger
    from syncagent.state.rejects import Rejected
    from syncagent.values.types import MapName

DEFAULT_RESTRICTIONS = "permit_mynetworks, permit_sasl_authenticated, reject_unauth_destination"


@dataclass(frozen=True)
class Options:
    """The options of `check`.

    ``dns`` and ``smtp`` are servers as (host, port), None for the default. ``offline`` skips DNS and SMTP. ``report``
    receives progress as a step's name and a count.
    """

    report: Callable[[str, int], None]
    dns: tuple[str, int] | None = None
    smtp: tuple[str, int] | None = None
    offline: bool = False


@dataclass
class Context:
    """The data that the checks of a run share; cached properties are read once.

    The first checks set ``ledger``, None if the state cannot be read, ``approved``, ``reports`` and ``rejected``.
    """

    config: Config
    options: Options
    reports: tuple[SourceReport, ...] = ()
    ledger: Ledger | None = None
    approved: Mapping[str, frozenset[str]] = field(default_factory=dict)
    """The digests of the rejected entries that a person approved, by source."""
    rejected: Mapping[str, Rejected] = field(default_factory=dict)
    """The rejected entries in the answers of the sources."""

    @cached_property
    def live(self) -> LivePostfix:
        """The Postfix whose main.cf is in postfix.config_directory."""
        return LivePostfix(self.config.postfix.config_directory, lambda: unused_address(min(self.scope)))

    @cached_property
    def published(self) -> TableStats:
        """The statistics of the map's text; empty if it does not exist. Raises OSError if it cannot be read."""
        return TableStats.read(self.target(self.config.postfix.map).text)

    @cached_property
    def tables(self) -> tuple[MapName, ...]:
        """The tables that syncagent publishes: the map, and postfix.domains_map and postfix.doubt_map if set."""
        postfix = self.config.postfix
        return tuple(filter(None, (postfix.map, postfix.domains_map, postfix.doubt_map)))

    def target(self, table: MapName) -> Target:
        """Return the files of a table that syncagent publishes."""
        return Target(self.config.postfix.settings(table))

    @cached_property
    def doubts(self) -> Doubts:
        """The recorded reasons of the doubt table; none if the state cannot be read."""
        if self.ledger is None:
            return Doubts()
        with reading(self.config.state.directory) as ledger:
            return Doubts.read(self.config, ledger)

    @cached_property
    def names_the_map(self) -> bool:
        """True if relay_recipient_maps names the map."""
        return any(is_same_table(entry, self.config.postfix.map) for entry in self.live.listed("relay_recipient_maps"))

    @cached_property
    def map_in_use(self) -> bool:
        """True if the map's text exists or relay_recipient_maps names the map.

        Until then, errors of the checks of Postfix, DNS and SMTP count as warnings.
        """
        return self.names_the_map or self.target(self.config.postfix.map).text.exists()

    @cached_property
    def scope(self) -> frozenset[str]:
        """The relay domains: postfix.relay_domains, and the domains in the text of postfix.domains_map."""
        second = self.config.postfix.domains_map
        more = tables.in_text(Path(os.path.realpath(second.path))) if second else frozenset()
        return frozenset(map(str, self.config.postfix.relay_domains)) | more

    @cached_property
    def counts(self) -> Counter[str]:
        """The number of published recipients by relay domain, subdomains included, and by domain outside of these."""
        counts: Counter[str] = Counter()
        for name, count in self.published.domains.items():
            domain = normalise.domain_or_same(name)
            counts[normalise.within(domain, self.scope) or domain] += count
        return counts

    def lost(self, name: str) -> list[str]:
        """Return the entries of a list whose table or file is missing and cannot be rebuilt.

        Excluded are syncagent's tables, which `sync` publishes again, and tables whose text exists, which postmap
        indexes again. Returns nothing for a list that is not in ``TABLES``.
        """
        if name not in TABLES:
            return []
        unreadable = self.live.unreadable
        missing = [
            entry
            for entry in self.live.listed(name)
            if (reason := unreadable.get(without_exclamation(entry))) and reason.missing
        ]
        return [entry for entry in missing if not self.is_ours(entry) and not self.unindexed(entry)]

    def unreadable(self, name: str) -> list[str]:
        """Return the tables and files of a list that cannot be queried, and so may match any domain.

        Those of ``lost`` entries are excluded.
        """
        lost = self.lost(name)
        entries = [entry for entry in self.live.listed(name) if entry not in lost]
        patterns = [without_exclamation(pattern) for entry in entries for pattern in patterns_of(entry)]
        return [pattern for pattern in patterns if pattern in self.live.unreadable]

    def is_ours(self, entry: str) -> bool:
        """True if an entry of main.cf names a table that syncagent publishes."""
        return any(is_same_table(entry, table) for table in self.tables)

    def unindexed(self, entry: str) -> str:
        """Return TYPE:PATH of an entry's table if postmap(1) can index it: its text exists and its type is supported.

        Returns ``""`` for any other entry, for a texthash, and for a table in a file that syncagent publishes.
        """
        pattern = without_exclamation(entry)
        table = TableName.parse(pattern)
        indexed = table.type in INDEX_SUFFIX.keys() & self.live.main.types and table.type != "texthash"
        foreign = indexed and not any(is_same_file(pattern, ours) for ours in self.tables)
        return str(table) if foreign and Path(table.rest).is_file() else ""

    def postconf(self, name: str, value: str) -> Shell:
        """Return the remedy that sets a parameter of main.cf."""
        return self.change("postconf", "-e", f"{name} = {value}".rstrip(), needs=needs_of(name))

    def unset(self, name: str) -> Shell:
        """Return the remedy that removes a parameter from main.cf, so that Postfix's default applies."""
        return self.change("postconf", "-X", name, needs=needs_of(name))

    def change(self, program: str, *args: str, needs: Needs = Needs.RELOAD) -> Shell:
        """Return the remedy that runs a Postfix program; ``needs`` is the action that it needs to take effect."""
        return Shell(command=self.command(program, *args), needs=needs)

    def command(self, program: str, *args: str) -> str:
        """Return a shell command that runs a Postfix program with this configuration directory."""
        return commands.shell(self.config.postfix.config_directory, program, *args)

    def with_entries(self, name: str, more: Iterable[str], gone: Iterable[str] = ()) -> Shell:
        """Return the remedy that adds the entries ``more`` to a list and removes ``gone`` and the ``lost`` entries.

        ``gone`` has expanded entries; entries that stay keep their spelling in main.cf. New entries come first if the
        list has exceptions or files, which may exclude them.
        """
        leaving = {*gone, *self.lost(name)}
        pairs = zip(self.live.listed_raw(name), self.live.listed(name), strict=True)
        staying = [raw for raw, entry in pairs if entry not in leaving]
        new_first = any(entry.startswith(("!", "/")) for entry in staying)
        entries = [*more, *staying] if new_first else [*staying, *more]
        return self.postconf(name, ", ".join(dict.fromkeys(entries)))

    def without(self, name: str, gone: Iterable[str]) -> Shell:
        """Return the remedy that removes the expanded entries ``gone`` and the ``lost`` entries from a list."""
        return self.with_entries(name, (), gone)

    def setting(self, name: str, value: object, when: str = "") -> File:
        """Return the remedy that sets a key in [postfix] of syncagent's configuration.

        The value is written as JSON, which is valid TOML for strings and arrays of strings.
        """
        write = f"{name} = {json.dumps(value, ensure_ascii=False)}"
        return File(path=str(self.config.file), section="postfix", write=write, when=when)

    @property
    def sync(self) -> Shell:
        """The remedy that publishes the map: `syncagent sync`."""
        return Shell(command=self.config.command("sync"))

    @property
    def reload(self) -> Shell:
        """The remedy that reloads Postfix."""
        return Shell(command=self.command("postfix", "reload"))


def needs_of(parameter: str) -> Needs:
    """Return RESTART for inet_interfaces, which Postfix reads only when it starts (postconf(5)), else RELOAD."""
    return Needs.RESTART if parameter == "inet_interfaces" else Needs.RELOAD


def server_name(server: tuple[str, int]) -> str:
    """Return HOST:PORT, with an IPv6 address in brackets."""
    name, port = server
    return f"[{name}]:{port}" if ":" in name else f"{name}:{port}"
