"""TOML to typed, frozen values; all problems at once, each with its file, line and key."""

from __future__ import annotations

import hashlib
import re
import threading
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
from msgspec import UNSET, Struct, UnsetType

from syncagent import sources
from syncagent.addresses import within
from syncagent.errors import ConfigError, Problem
from syncagent.files import sorted_lines as files
from syncagent.postfix.table import TableSettings
from syncagent.values.toml_reader import Keys, Reader, near, tables
from syncagent.values.types import Address, Cron, Domain, Duration, MapName, RecipeFile, SecretFile, spell_seconds

if TYPE_CHECKING:
    from collections.abc import Iterator


_MAX_AGE = 3600.0
_MOST = 4 << 20
"""The most octets that a configuration has."""
DEFAULT_FILE = Path("/etc/syncagent/syncagent.toml")


class Postfix(Struct, frozen=True, kw_only=True):
    """The map to publish, and the mail domains it is for."""

    map: MapName
    """The table, TYPE:PATH, as relay_recipient_maps in main.cf names it."""
    relay_domains: tuple[Domain, ...]
    """The domains to publish recipients for; their subdomains are in scope as well."""
    catch_all: tuple[Domain, ...] = ()
    """Domains for which a source may say that every address is valid."""
    domains_map: MapName | None = None
    """A second table, for relay_domains in main.cf: the relay domains, and those that the sources report."""
    allow_domains: tuple[str, ...] = ()
    """Which domains a source may add to domains_map: patterns such as *.example.com."""
    exclude: tuple[Address, ...] = ()
    """Addresses, or whole domains as @domain, that are never wanted."""
    config_directory: Path = Path("/etc/postfix")
    """Where main.cf is."""
    reload: bool = True
    """Whether to reload Postfix (as root) after a texthash map changed; other types need no reload."""
    postmap_timeout: Duration = Duration(900)
    """How long a postmap may take before it is ended and publishing fails."""

    def settings(self, table: MapName | None = None) -> TableSettings:
        """Return the settings of a table, by default of the recipients'."""
        return TableSettings(table or self.map, self.config_directory, float(self.postmap_timeout), self.reload)


class DomainLimits(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Limits of one relay domain where they differ from the general ones."""

    removed_percent: float | UnsetType = UNSET
    removed_floor: int | UnsetType = UNSET
    removal_grace: Duration | UnsetType = UNSET


class GeneralLimits(Struct, frozen=True, kw_only=True):
    """When removals are held."""

    removed_percent: float = 10.0
    """A domain, or the whole, that would lose more than this share is held ..."""
    removed_floor: int = 5
    """... if it would also lose more than this many."""
    removed_window: Duration = Duration(86400)
    """What was removed in this span before counts too."""
    removal_grace: Duration = Duration(3600)
    """How long an address must have been missing, in two whole answers at least; "0s" switches both off."""
    canaries: tuple[Address, ...] = ()
    """Addresses that the sources always have; one absent holds every removal."""


class Limits(GeneralLimits, frozen=True, kw_only=True):
    """The general limits, and those of single relay domains."""

    domains: dict[Domain, DomainLimits] = {}
    """Limits per relay domain, written as [limits."example.org"]."""

    def of(self, domain: str) -> tuple[float, int, float]:
        """Give percent, floor and grace (seconds) for a relay domain."""
        own = self.domains.get(Domain(domain), DomainLimits())
        return (
            self.removed_percent if own.removed_percent is UNSET else own.removed_percent,
            self.removed_floor if own.removed_floor is UNSET else own.removed_floor,
            self.removal_grace if own.removal_grace is UNSET else own.removal_grace,
        )


class Schedule(Struct, frozen=True, kw_only=True):
    """When the agent runs."""

    every: Duration = Duration(300)
    """The time from one run to the next."""
    cron: Cron | None = None
    """When to run instead, as crontab(5) has it, in UTC: minute, hour, day of the month, month, day of the week."""
    max_age: Duration | None = None
    """How old what a source said may become before it counts as stale; 1h, or twice the time from one question to the
    next if that is longer."""


class Notify(Struct, frozen=True, kw_only=True):
    """Whom to tell when something needs a person, and when that is over."""

    command: tuple[str, ...] = ()
    """A program and its arguments; it is given the event as JSON on its standard input."""
    url: str = ""
    """A URL to which the event is posted as JSON."""
    url_file: SecretFile | None = None
    """The file with such a URL, where it is a secret."""
    ping_url: str = ""
    """A URL that is asked for after each run that was right: healthchecks and the like miss it when it stops."""
    timeout: Duration = Duration(30)
    """How long telling may take."""


class Metrics(Struct, frozen=True, kw_only=True):
    """What is told to Prometheus."""

    textfile: Path | None = None
    """The file to write for the textfile collector of node_exporter; its name ends in .prom."""


class State(Struct, frozen=True, kw_only=True):
    """Where syncagent remembers."""

    directory: Path = Path("/var/lib/syncagent/state")
    """The state directory; made if missing, mode 0750."""
    history: Duration = Duration(400 * 86400)
    """How long the history of changes is kept."""


class Tables(Struct, frozen=True, kw_only=True):
    """The tables of the configuration that are not sources."""

    postfix: Postfix
    limits: GeneralLimits = GeneralLimits()
    schedule: Schedule = Schedule()
    state: State = State()
    notify: Notify = Notify()
    metrics: Metrics = Metrics()


class SourceConfig(Struct, frozen=True, kw_only=True, dict=True):
    """A configured source: what all kinds share, and the kind's own configuration."""

    name: str
    common: sources.Common
    own: Any
    digest: str
    build: Callable[[Any], sources.Source]
    watched: tuple[sources.Watched, ...] = ()

    @cached_property
    def source(self) -> sources.Source:
        """Give the source itself: one object while this configuration is in force, so that it may keep a connection."""
        return self.build(self.own)

    @cached_property
    def free(self) -> threading.Lock:
        """Give the lock that a fetch holds: one that was given up on may still be under way in the next run."""
        return threading.Lock()

    def same_as(self, other: SourceConfig) -> bool:
        """Tell whether another one asks the same in the same way."""
        return (self.name, self.common.type, self.digest) == (other.name, other.common.type, other.digest)


class Config(Struct, frozen=True, kw_only=True):
    """The whole configuration."""

    postfix: Postfix
    limits: Limits
    schedule: Schedule
    state: State
    sources: dict[str, SourceConfig]
    file: Path
    notify: Notify = Notify()
    metrics: Metrics = Metrics()

    def every(self, name: str) -> float | None:
        """Give how often the agent asks a source, in seconds; None where schedule.cron says when."""
        own = self.sources[name].common.every
        return own if own is not None else None if self.schedule.cron else self.schedule.every

    def max_age(self, name: str) -> float:
        """Give from which age on what a source said is stale, in seconds."""
        return self.schedule.max_age or max(_MAX_AGE, 2 * self._apart(name))

    def _apart(self, name: str) -> float:
        """Give the longest time between two questions to a source, in seconds."""
        every, cron = self.every(name), self.schedule.cron
        return every if every is not None else cron.longest() if cron else 0.0

    @property
    def digest(self) -> str:
        """Identify everything that decides what is published."""
        parts = (self.postfix, self.limits, {name: source.digest for name, source in self.sources.items()})
        return _digest(parts)


def program(file: Path) -> str:
    """Give the command line to type for another verb on the same configuration."""
    return "syncagent" if file == DEFAULT_FILE else f"syncagent --config {file}"


def _digest(value: object) -> str:
    return hashlib.sha256(msgspec.json.encode(value, enc_hook=str, order="sorted")).hexdigest()


def load(file: Path) -> Config:
    """Read and check the configuration.

    Raises ConfigError with every problem found.
    """
    try:
        text = files.read_foreign_text(file, _MOST)
        raw = tables(text)
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        raise ConfigError([Problem(str(file), None, "", f"cannot be read: {why}")]) from error
    except ValueError as error:
        line = re.search(r"line (\d+)", str(error))
        raise ConfigError([Problem(str(file), int(line[1]) if line else None, "", f"not TOML: {error}")]) from error
    reader = Reader(file, text)
    config = _config(reader, raw, file)
    if config is None or reader.problems:
        raise ConfigError(sorted(reader.problems, key=lambda problem: (problem.line or 0, problem.key)))
    return config


def _config(reader: Reader, raw: dict[str, Any], file: Path) -> Config | None:
    """Read everything; None where a table did not fit, so that what tables say together cannot be judged."""
    limits, overrides = _split_limits(raw.get("limits", {}))
    tables = {key: value for key, value in raw.items() if key != "sources"}
    tables |= {"limits": limits} if "limits" in raw else {}
    (values,) = reader.fields((Tables,), tables, (), elsewhere=("sources",))
    domains: dict[Domain, DomainLimits] = {}
    for name, table in overrides.items():
        domain = reader.value(Domain, name, ("limits", name))
        if domain in domains:
            reader.problem(("limits", name), f"limits {domain} a second time")
        domains[domain] = reader.value(DomainLimits, table, ("limits", name))
    configured = raw.get("sources")
    if not isinstance(configured, dict) or not configured:
        reader.problem(("sources",), "no source is configured: add a table such as [sources.extra]")
        configured = {}
    found = {name: _source(reader, name, table) for name, table in configured.items()}
    if reader.problems:
        return None
    read = Tables(**values)
    config = Config(
        postfix=read.postfix,
        limits=Limits(**msgspec.structs.asdict(read.limits), domains=domains),
        schedule=read.schedule,
        state=read.state,
        notify=read.notify,
        metrics=read.metrics,
        file=file,
        sources={name: source for name, source in found.items() if source},
    )
    for path, text in (
        *_contradictions(config),
        *_out_of_range(config),
        *_domains_problems(config.postfix),
        *_schedule_problems(config),
    ):
        reader.problem(path, text)
    return config


def _split_limits(raw: object) -> tuple[object, dict[str, Any]]:
    """Part [limits] from the [limits."example.org"] that stand among its keys."""
    if not isinstance(raw, dict):
        return raw, {}
    plain = {key: value for key, value in raw.items() if not isinstance(value, dict)}
    return plain, {key: value for key, value in raw.items() if isinstance(value, dict)}


def _source(reader: Reader, name: str, raw: object) -> SourceConfig | None:
    path, count = ("sources", name), len(reader.problems)
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", name):
        reader.problem(path, "a source's name is letters, digits, dots, hyphens and underscores")
    kind = raw.get("type") if isinstance(raw, dict) else ""
    kinds = sources.kinds()
    if not isinstance(raw, dict) or kind is None:
        reader.problem((*path, "type"), f"is missing; there are: {', '.join(sorted(kinds))}")
        return None
    if not isinstance(kind, str) or kind not in kinds:
        hint = near(str(kind), kinds)
        reader.problem(
            (*path, "type"),
            f"no source type {kind!r} is installed{hint}; there are: {', '.join(sorted(kinds))}",
        )
        return None
    try:
        module = sources.load(kind)
        common_values, own_values = reader.fields((sources.Common, module.Config), raw, path)
        if len(reader.problems) > count:
            return None
        common, own = sources.Common(**common_values), module.Config(**own_values)
        for key, text in sources.problems(kind, module, own):
            reader.problem((*path, key), text)
        watched = sources.watched(kind, module, own)
    except sources.BrokenKindError as error:
        reader.problem((*path, "type"), str(error))
        return None
    return SourceConfig(
        name=name,
        common=common,
        own=own,
        digest=_digest((common, own, _recipes(own))),
        build=module.build,
        watched=watched,
    )


def _recipes(own: Struct) -> list[tuple[int, ...] | None]:
    """Identify the recipes' files that a source's configuration names: what they say belongs to it."""
    values = (getattr(own, name) for name in own.__struct_fields__)
    return [files.identity(Path(value)) for value in values if isinstance(value, RecipeFile) and "/" in value]


def _contradictions(config: Config) -> Iterator[tuple[Keys, str]]:
    """Give what each key alone cannot show."""
    postfix, limits = config.postfix, config.limits
    scope = frozenset(postfix.relay_domains)
    if not scope:
        yield ("postfix", "relay_domains"), "names no domain: nothing could be published"
    for domain in postfix.catch_all:
        if not postfix.allow_domains and not within(domain, scope):
            yield ("postfix", "catch_all"), f"{domain} is outside relay_domains"
    for canary in limits.canaries:
        domain = Domain(canary.rpartition("@")[2])
        if not within(domain, scope):
            yield ("limits", "canaries"), f"{canary} is outside relay_domains, so that it could never be seen"
        elif canary in postfix.exclude or f"@{domain}" in postfix.exclude:
            yield ("limits", "canaries"), f"{canary} is in postfix.exclude, so that it could never be seen"
    for domain in limits.domains:
        if domain not in scope:
            yield ("limits", domain), f"{domain} is not one of relay_domains"


def _domains_problems(postfix: Postfix) -> Iterator[tuple[Keys, str]]:
    if postfix.allow_domains and postfix.domains_map is None:
        yield ("postfix", "allow_domains"), "needs domains_map, the table to add domains to"
    if postfix.domains_map and postfix.domains_map.path == postfix.map.path:
        yield ("postfix", "domains_map"), "is the same table as map: recipients and domains are two tables"
    for pattern in postfix.allow_domains:
        if not re.fullmatch(r"[A-Za-z0-9_.*?-]+", pattern):
            yield ("postfix", "allow_domains"), f"{pattern!r} is no pattern such as *.example.com, in A-labels"


def _out_of_range(config: Config) -> Iterator[tuple[Keys, str]]:
    limits = config.limits
    several: list[tuple[Keys, float, int]] = [(("limits",), limits.removed_percent, limits.removed_floor)]
    several += [(("limits", str(name)), *limits.of(name)[:2]) for name in limits.domains]
    for path, percent, floor in several:
        if not 0 <= percent <= 100:  # noqa: PLR2004 - a percentage
            yield (*path, "removed_percent"), f"expected 0 to 100, not {percent:g}"
        if floor < 0:
            yield (*path, "removed_floor"), f"expected 0 or more, not {floor}"


def _schedule_problems(config: Config) -> Iterator[tuple[Keys, str]]:
    schedule = config.schedule
    general = (schedule.cron.longest(), "cron") if schedule.cron else (schedule.every, "every")
    intervals: list[tuple[Keys, float | None]] = [(("schedule", general[1]), general[0])]
    intervals += [(("sources", name, "every"), source.common.every) for name, source in config.sources.items()]
    for path, every in intervals:
        if every is not None and every < 1:
            yield path, "expected a second or more"
        elif schedule.max_age and every is not None and every > schedule.max_age:
            text = f"what is asked for every {spell_seconds(every)} is often older than schedule.max_age"
            yield path, f"{text}, {schedule.max_age}"
    if schedule.max_age is not None and not schedule.max_age:
        yield ("schedule", "max_age"), "expected more than no time"
    for key in ("url", "ping_url"):
        url = getattr(config.notify, key)
        if url and not url.startswith(("https://", "http://")):
            yield ("notify", key), "expected https://HOST/PATH"
    if config.notify.url and config.notify.url_file:
        yield ("notify", "url_file"), "and url are two ways to say where: take one"
    if config.state.history < config.limits.removed_window:
        yield ("state", "history"), "is shorter than limits.removed_window, whose losses it remembers"
    if config.metrics.textfile and config.metrics.textfile.suffix != ".prom":
        yield ("metrics", "textfile"), f"node_exporter reads files named *.prom, not {config.metrics.textfile.name!r}"
