"""The tables of the configuration as typed, immutable values.

The string below a field is the manual's text for that key: it is in syncagent.toml(5) and in `syncagent schema`.
"""

from __future__ import annotations

import hashlib
import shlex
import threading
from collections.abc import Callable, Collection
from functools import cached_property
from pathlib import Path
from typing import Any

import msgspec
from msgspec import UNSET, Struct, UnsetType

from syncagent import DEFAULT_CONFIG, sources
from syncagent.postfix.table import TableSettings
from syncagent.values.cron import Cron
from syncagent.values.types import Address, Domain, Duration, MapName, SecretFile

_OF_DOUBT = "doubt_"
"""Beginning of the names of keys that do not decide which recipients are published."""
_LEAST_MAX_AGE = 3600.0
"""Minimum of the default of ``schedule.max_age``, in seconds."""


class Postfix(Struct, frozen=True, kw_only=True):
    """The tables to publish, and the relay domains they are for."""

    map: MapName
    """The table to publish, as relay_recipient_maps in main.cf names it."""
    relay_domains: tuple[Domain, ...]
    """The domains to publish recipients for; their subdomains are in scope as well."""
    catch_all: tuple[Domain, ...] = ()
    """Domains for which a source may report that every address is valid."""
    domains_map: MapName | None = None
    """A second table, for relay_domains in main.cf: relay_domains, and the domains that the sources report."""
    allow_domains: tuple[str, ...] = ()
    """Domains that a source may add to domains_map, as patterns such as *.example.com."""
    exclude: tuple[Address, ...] = ()
    """Addresses, or whole domains as @domain, that are never published."""
    doubt_map: MapName | None = None
    """An access table, always lmdb, by which unknown recipients get 450 instead of 550 while something is in doubt; for
    smtpd_sender_restrictions in main.cf, with the lines that `syncagent check` shows."""
    doubt_new: Duration = Duration(7 * 86400)
    """How long a relay domain is in doubt from its first publication on; "0s": not at all."""
    doubt_removed: Duration = Duration(72 * 3600)
    """How long a removed address, a domain that lost a catch-all, and a domain that leaves are in doubt."""
    doubt_always: tuple[Domain, ...] = ()
    """Relay domains that are always in doubt: their unknown recipients never get 550."""
    doubt_dead: Duration | None = None
    """How long syncagent may be silent until doubt-switch.sh puts all domains in doubt; unless set 15m for the agent,
    else three times the longest gap between the last runs, 1h at least and 3d at most."""
    config_directory: Path = Path("/etc/postfix")
    """The directory of main.cf."""
    reload: bool = True
    """Reload Postfix after a texthash table changed, if run by root; other types need no reload."""
    postmap_timeout: Duration = Duration(900)
    """Timeout of postmap; when it expires, publishing fails and the old table stays."""

    def settings(self, table: MapName | None = None) -> TableSettings:
        """Return the settings to build and publish a table, by default the map of recipients."""
        return TableSettings(table or self.map, self.config_directory, float(self.postmap_timeout), self.reload)


class DomainLimits(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Limits of one relay domain, where they differ from those of [limits]."""

    removed_percent: float | UnsetType = UNSET
    removed_floor: int | UnsetType = UNSET
    removed_max: int | UnsetType = UNSET
    removal_grace: Duration | UnsetType = UNSET


class GeneralLimits(Struct, frozen=True, kw_only=True):
    """Limits above which removals are held for a person's approval, and the grace before a removal."""

    removed_percent: float = 10.0
    """If a domain, or the whole map, would lose more than this percentage of its recipients ..."""
    removed_floor: int = 5
    """... and more than this number of recipients, its removals are held."""
    removed_max: int | None = None
    """If a domain, or the whole map, would lose more than this number of recipients, its removals are held; unless set
    500, or 0.5 % if that is more."""
    removed_window: Duration = Duration(86400)
    """Removals of this time before a run count towards these limits, except approved ones."""
    collect: Duration = Duration(600)
    """How long further removals join a hold before it is told of and its ID is final."""
    removal_grace: Duration = Duration(3600)
    """How long an address must be missing, or longer by confirm_after of its source, before its source is asked for
    everything once more and it is removed; "0s": removed at once."""
    canaries: tuple[Address, ...] = ()
    """Addresses that the sources always list; if one is missing, all removals are held."""


_LEAST_MAX, _MAX_SHARE = 500, 0.005
"""The default of removed_max: a number of recipients, or a share of them if that is more."""


class Limits(GeneralLimits, frozen=True, kw_only=True):
    """The general limits, and those of single relay domains."""

    domains: dict[Domain, DomainLimits] = {}
    """Limits per relay domain, written as [limits."example.org"]."""

    def of(self, domain: str) -> tuple[float, int, float]:
        """Return removed_percent, removed_floor and removal_grace (seconds) of a relay domain."""
        own = self.domains.get(Domain(domain), DomainLimits())
        return (
            self.removed_percent if own.removed_percent is UNSET else own.removed_percent,
            self.removed_floor if own.removed_floor is UNSET else own.removed_floor,
            self.removal_grace if own.removal_grace is UNSET else own.removal_grace,
        )

    def most(self, domain: str, size: int) -> int:
        """Return removed_max of a relay domain, or of the whole map if ``domain`` is "".

        ``size`` is its number of recipients, by which the default is computed.
        """
        own = self.domains.get(Domain(domain), DomainLimits()).removed_max if domain else UNSET
        limit = self.removed_max if own is UNSET else own
        return max(_LEAST_MAX, int(size * _MAX_SHARE)) if limit is None else limit


class Schedule(Struct, frozen=True, kw_only=True):
    """Schedule of the agent's runs, and the age at which data is stale."""

    every: Duration = Duration(300)
    """Interval between two runs."""
    cron: Cron | None = None
    """When to run instead, in UTC, as in crontab(5): minute, hour, day of the month, month, day of the week."""
    max_age: Duration | None = None
    """Age at which a source's data counts as stale; unless set 1h, or twice the source's interval if that is longer."""


class Notify(Struct, frozen=True, kw_only=True):
    """Notifications about conditions that need a person, and about their end."""

    command: tuple[str, ...] = ()
    """Program and arguments to run; it reads the event as JSON on its standard input."""
    url: str = ""
    """URL to which the event is posted as JSON."""
    url_file: SecretFile | None = None
    """File with that URL, if the URL is a secret."""
    ping_url: str = ""
    """URL that is requested after each successful run, for a service that raises an alarm when the requests stop."""
    repeat: Duration = Duration(86400)
    """After how long a condition that stands is notified again; "0s": not again. Doubts that last until a person
    changes something are repeated once a week at most."""
    timeout: Duration = Duration(30)
    """Timeout of a notification."""


class Metrics(Struct, frozen=True, kw_only=True):
    """Metrics for Prometheus."""

    textfile: Path | None = None
    """File to write for the textfile collector of node_exporter; its name must end in .prom."""


class State(Struct, frozen=True, kw_only=True):
    """State that is kept between runs."""

    directory: Path = Path("/var/lib/syncagent/state")
    """The state directory; created with mode 0750 if it is missing."""
    history: Duration = Duration(400 * 86400)
    """How long the history of changes is kept; at least limits.removed_window."""


class Tables(Struct, frozen=True, kw_only=True):
    """The tables of the configuration, without [sources] and the limits of single domains."""

    postfix: Postfix
    limits: GeneralLimits = GeneralLimits()
    schedule: Schedule = Schedule()
    state: State = State()
    notify: Notify = Notify()
    metrics: Metrics = Metrics()


_DECIDES = ("confirm_after", "ignore")
"""Keys of a source that decide which of its recipients are published, and are no part of its digest."""


class SourceConfig(Struct, frozen=True, kw_only=True, dict=True):
    """A configured source: the keys that all kinds share, and ``own``, the Config of its kind.

    ``digest`` identifies these keys and the recipe files that they name. ``build`` makes the source from ``own``.
    """

    name: str
    common: sources.Common
    own: Any
    digest: str
    build: Callable[[Any], sources.Source]
    watched: tuple[sources.Watched, ...] = ()

    @cached_property
    def source(self) -> sources.Source:
        """The source: one object for the lifetime of this configuration, so that it can keep a connection open."""
        return self.build(self.own)

    @property
    def is_built(self) -> bool:
        """True if ``source`` was built: a source that was asked in this run is."""
        return "source" in self.__dict__

    @cached_property
    def free(self) -> threading.Lock:
        """Lock that is held during a fetch: after a timeout, the fetch thread may outlive the run."""
        return threading.Lock()

    @property
    def decides(self) -> object:
        """What decides which of its recipients are published: ``digest``, and the keys that do not change a fetch."""
        default = sources.Common(type=self.common.type)
        own = {key: value for key in _DECIDES if (value := getattr(self.common, key)) != getattr(default, key)}
        return [self.digest, own] if own else self.digest

    def same_as(self, other: SourceConfig) -> bool:
        """True if the other source has the same name and configuration."""
        return (self.name, self.common, self.digest) == (other.name, other.common, other.digest)


class Config(Struct, frozen=True, kw_only=True):
    """The whole configuration, loaded from ``file``."""

    postfix: Postfix
    limits: Limits
    schedule: Schedule
    state: State
    sources: dict[str, SourceConfig]
    file: Path
    notify: Notify = Notify()
    metrics: Metrics = Metrics()

    def every(self, name: str) -> float | None:
        """Return the interval of a source in seconds; None if schedule.cron applies."""
        own = self.sources[name].common.every
        return own if own is not None else None if self.schedule.cron else self.schedule.every

    def max_age(self, name: str) -> float:
        """Return the age at which a source's data is stale, in seconds."""
        return self.schedule.max_age or max(_LEAST_MAX_AGE, 2 * self.longest_interval(name))

    def longest_interval(self, name: str) -> float:
        """Return the longest time between two fetches of a source, in seconds."""
        every, cron = self.every(name), self.schedule.cron
        return float(every) if every is not None else cron.longest() if cron else 0.0

    @property
    def digest(self) -> str:
        """SHA-256, in hexadecimal, of the keys that decide what is published: [postfix], [limits] and the sources.

        The keys of the doubt table are left out: they do not decide which recipients are published. So are
        keys of sources that do not change a fetch, unless they are set.
        """
        postfix = without(self.postfix, [key for key in Postfix.__struct_fields__ if key.startswith(_OF_DOUBT)])
        return digest((postfix, self.limits, {name: source.decides for name, source in self.sources.items()}))

    def command(self, *words: str) -> str:
        """Return the command line to type for a verb with this configuration, quoted for a shell."""
        return command(self.file, *words)


def command(file: Path, *words: str) -> str:
    """Return the command line to type for a verb with a configuration file, quoted for a shell."""
    return shlex.join(["syncagent", *([] if file == Path(DEFAULT_CONFIG) else ["--config", str(file)]), *words])


def without(table: Struct, keys: Collection[str]) -> dict[str, object]:
    """Return the keys and values of a table, without some keys, for ``digest``."""
    return {key: value for key, value in msgspec.structs.asdict(table).items() if key not in keys}


def digest(value: object) -> str:
    """Return the SHA-256, in hexadecimal, of a value's JSON with sorted keys."""
    return hashlib.sha256(msgspec.json.encode(value, enc_hook=str, order="sorted")).hexdigest()
