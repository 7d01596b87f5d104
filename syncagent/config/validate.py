"""Rules for the values of the tables that their types do not express, one function per rule.

A rule yields ``(path, message)`` for each violation. A table may be a Partial. A rule ends at the first unusable key
that it reads (UnusableError), since its result might be wrong once that key is corrected.
"""

from __future__ import annotations

import contextlib
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from msgspec import UNSET

from syncagent.addresses import within
from syncagent.config.own_files import OwnFiles
from syncagent.values.partial import UnusableError, elements
from syncagent.values.patterns import matched_address
from syncagent.values.quoting import quoted
from syncagent.values.types import DOUBT_FILES, Domain, spell_seconds

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from syncagent.config.own_files import Clash
    from syncagent.config.tables import DomainLimits, GeneralLimits, Metrics, Notify, Postfix, Schedule, State
    from syncagent.sources import Common
    from syncagent.values.toml_syntax import Keys
    from syncagent.values.types import MapName

    Problems = Iterator[tuple[Keys, str]]


_SAMPLE_DOMAIN = "example.com"


@dataclass(frozen=True, slots=True)
class Parts:
    """The tables as far as they are readable: each is a Struct of its type, or a Partial of it.

    ``domains`` has the limits of single domains, ``sources`` the common keys of each source by its name. ``reads`` has
    the paths that a source reads, with their keys, by its name.
    """

    postfix: Postfix
    limits: GeneralLimits
    schedule: Schedule
    state: State
    notify: Notify
    metrics: Metrics
    domains: dict[Domain, DomainLimits]
    sources: dict[str, Common]
    reads: Mapping[str, Mapping[Path, Keys]]


def problems(parts: Parts) -> Problems:
    """Yield the violations of all rules, as ``(path, message)``. A rule ends early if it reads an unusable key."""
    for rule in RULES:
        with contextlib.suppress(UnusableError):
            yield from rule(parts)
    for domain in parts.domains:
        for domain_rule in DOMAIN_RULES:
            with contextlib.suppress(UnusableError):
                yield from domain_rule(parts, domain)
    for name in parts.sources:
        for source_rule in SOURCE_RULES:
            with contextlib.suppress(UnusableError):
                yield from source_rule(parts, name)


def _no_domain(parts: Parts) -> Problems:
    if not parts.postfix.relay_domains:
        yield (
            ("postfix", "relay_domains"),
            'expected a domain at least, such as ["example.com"]',
        )


def _catch_all_outside(parts: Parts) -> Problems:
    scope = frozenset(parts.postfix.relay_domains)
    for domain in () if parts.postfix.allow_domains else elements(parts.postfix, "catch_all"):
        if not within(domain, scope):
            yield ("postfix", "catch_all"), f"{domain} is outside relay_domains"


def _canary_outside(parts: Parts) -> Problems:
    scope = frozenset(parts.postfix.relay_domains)
    for canary in elements(parts.limits, "canaries"):
        if not within(canary.rpartition("@")[2], scope) and not _is_excluded(parts, canary):
            yield ("limits", "canaries"), f"{canary} is outside relay_domains, so that it is never published"


def _canary_excluded(parts: Parts) -> Problems:
    for canary in elements(parts.limits, "canaries"):
        if _is_excluded(parts, canary):
            yield ("limits", "canaries"), f"{canary} is in postfix.exclude, so that it is never published"


def _is_excluded(parts: Parts, address: str) -> bool:
    return bool({address, f"@{address.rpartition('@')[2]}"} & {*elements(parts.postfix, "exclude")})


def _allowed_without_map(parts: Parts) -> Problems:
    if parts.postfix.allow_domains and parts.postfix.domains_map is None:
        yield ("postfix", "allow_domains"), "needs domains_map, the table to add domains to"


def _one_table_for_two(parts: Parts) -> Problems:
    domains_map = parts.postfix.domains_map
    if domains_map and domains_map.path == parts.postfix.map.path:
        yield ("postfix", "domains_map"), "is the same table as map: recipients and domains need a table each"


def _doubt_map_of_another_type(parts: Parts) -> Problems:
    table = parts.postfix.doubt_map
    if table and table.spelled.startswith("proxy:"):
        yield ("postfix", "doubt_map"), "without proxy:, since proxymap notices a new table late"
    elif table and table.type != "lmdb":
        text = f"the doubt table is always lmdb, not {table.type} (Debian: apt-get install postfix-lmdb)"
        yield ("postfix", "doubt_map"), f"{text}: write {quoted(f'lmdb:{table.path}')}"


def _doubt_map_is_another_table(parts: Parts) -> Problems:
    doubt = parts.postfix.doubt_map
    for name, table in (("map", parts.postfix.map), ("domains_map", parts.postfix.domains_map)):
        if doubt and table and doubt.path == table.path:
            yield ("postfix", "doubt_map"), f"is the same file as {name}: the doubt table needs a file of its own"


def _doubt_map_name(parts: Parts) -> Problems:
    doubt = parts.postfix.doubt_map
    if doubt and doubt.path.name in DOUBT_FILES:
        yield ("postfix", "doubt_map"), f"{doubt.path.name} is the name of another file of the doubt table"


def _always_outside(parts: Parts) -> Problems:
    scope = frozenset(parts.postfix.relay_domains)
    for domain in () if parts.postfix.allow_domains else elements(parts.postfix, "doubt_always"):
        if domain not in scope:
            yield ("postfix", "doubt_always"), f"{domain} is not in relay_domains"


def _no_pattern(parts: Parts) -> Problems:
    for pattern in elements(parts.postfix, "allow_domains"):
        if not re.fullmatch(r"[A-Za-z0-9_.*?-]+", pattern):
            yield ("postfix", "allow_domains"), f"{pattern!r} is no pattern such as *.example.com, in A-labels"


def _percent(parts: Parts) -> Problems:
    yield from _percent_problem(("limits",), parts.limits.removed_percent)


def _floor(parts: Parts) -> Problems:
    yield from _count_problem(("limits", "removed_floor"), parts.limits.removed_floor)


def _most(parts: Parts) -> Problems:
    if parts.limits.removed_max is not None:
        yield from _count_problem(("limits", "removed_max"), parts.limits.removed_max)


def _interval(parts: Parts) -> Problems:
    """Yield a problem if the agent's interval is under 1 s or exceeds schedule.max_age.

    For schedule.cron, the interval is the longest time between two runs.
    """
    schedule = parts.schedule
    if schedule.cron:
        yield from _interval_problem(parts, ("schedule", "cron"), schedule.cron.longest())
    elif schedule.every < 1:
        yield ("schedule", "every"), 'expected "1s" or more'
    else:
        yield from _interval_problem(parts, ("schedule", "every"), schedule.every)


def _no_max_age(parts: Parts) -> Problems:
    if parts.schedule.max_age is not None and not parts.schedule.max_age:
        yield ("schedule", "max_age"), 'expected a time of more than "0s"'


def _notify_url(parts: Parts) -> Problems:
    yield from _url_problem("url", parts.notify.url)


def _ping_url(parts: Parts) -> Problems:
    yield from _url_problem("ping_url", parts.notify.ping_url)


def _two_urls(parts: Parts) -> Problems:
    if parts.notify.url and parts.notify.url_file:
        yield ("notify", "url_file"), "is there beside url: keep one of the two"


def _history_too_short(parts: Parts) -> Problems:
    if parts.state.history < parts.limits.removed_window:
        yield ("state", "history"), "is shorter than limits.removed_window, whose removals it has to keep"


def _reads_own_files(parts: Parts) -> Problems:
    """Yield a problem for each source that reads a file which syncagent writes."""
    state = None
    with contextlib.suppress(UnusableError):
        state = parts.state.directory
    own = OwnFiles.of(dict(_tables(parts)), state)
    clashes = own.read_at({path for paths in parts.reads.values() for path in paths})
    for name, paths in parts.reads.items():
        for path, keys in paths.items():
            if clash := clashes.get(path):
                yield ("sources", name, *keys), _own_file(path, clash)


def _tables(parts: Parts) -> Iterator[tuple[str, MapName]]:
    """Yield the keys in [postfix] of the tables that are set, and the tables."""
    for key in ("map", "domains_map", "doubt_map"):
        with contextlib.suppress(UnusableError):
            if table := getattr(parts.postfix, key):
                yield key, table


def _own_file(path: Path, clash: Clash) -> str:
    shown, writes = quoted(str(path)), f"{clash.file}, which syncagent writes ({clash.key})"
    if clash.is_among:
        what = f"the files of {shown} include {writes}"
    else:
        what = f"{shown} is written by syncagent ({clash.key})" if clash.file == str(path) else f"{shown} is {writes}"
    return (
        f"{what}: the source would list what was published, and no recipient would ever be removed; keep the list in"
        " another place, such as /etc/syncagent/recipients, and name that"
    )


def _metrics_name(parts: Parts) -> Problems:
    file = parts.metrics.textfile
    if file and file.suffix != ".prom":
        yield ("metrics", "textfile"), f'node_exporter reads only files named *.prom, got "{file.name}"'


RULES = (
    _no_domain,
    _catch_all_outside,
    _canary_outside,
    _canary_excluded,
    _allowed_without_map,
    _one_table_for_two,
    _doubt_map_of_another_type,
    _doubt_map_is_another_table,
    _doubt_map_name,
    _always_outside,
    _no_pattern,
    _percent,
    _floor,
    _most,
    _interval,
    _no_max_age,
    _notify_url,
    _ping_url,
    _two_urls,
    _history_too_short,
    _metrics_name,
    _reads_own_files,
)


def _limited_outside(parts: Parts, domain: Domain) -> Problems:
    if domain not in parts.postfix.relay_domains:
        yield ("limits", domain), f"{domain} is not one of relay_domains"


def _domain_percent(parts: Parts, domain: Domain) -> Problems:
    percent = parts.domains[domain].removed_percent
    if percent is not UNSET:
        yield from _percent_problem(("limits", domain), percent)


def _domain_floor(parts: Parts, domain: Domain) -> Problems:
    floor = parts.domains[domain].removed_floor
    if floor is not UNSET:
        yield from _count_problem(("limits", domain, "removed_floor"), floor)


def _domain_most(parts: Parts, domain: Domain) -> Problems:
    most = parts.domains[domain].removed_max
    if most is not UNSET:
        yield from _count_problem(("limits", domain, "removed_max"), most)


DOMAIN_RULES = (_limited_outside, _domain_percent, _domain_floor, _domain_most)


def _source_interval(parts: Parts, name: str) -> Problems:
    every = parts.sources[name].every
    if every is not None and every < 1:
        yield ("sources", name, "every"), 'expected "1s" or more'
    elif every is not None:
        yield from _interval_problem(parts, ("sources", name, "every"), every)


def _source_domain_outside(parts: Parts, name: str) -> Problems:
    scope = frozenset(parts.postfix.relay_domains)
    for domain in () if parts.postfix.allow_domains else elements(parts.sources[name], "relay_domains"):
        if domain not in scope:
            yield ("sources", name, "relay_domains"), f"{domain} is not in postfix.relay_domains"


def _ignored_address(parts: Parts, name: str) -> Problems:
    """Yield a problem for each pattern of ``ignore`` that matches an address that could be published."""
    domains = (_SAMPLE_DOMAIN, *map(str, elements(parts.postfix, "relay_domains")))
    for pattern in elements(parts.sources[name], "ignore"):
        address = matched_address(pattern, domains)
        if address:
            text = f"{quoted(pattern)} matches {address}, which could be published"
            remedy = "put what makes the entry no address into the pattern, or an address into postfix.exclude"
            yield ("sources", name, "ignore"), f"{text}: {remedy}"
        elif not pattern:
            yield ("sources", name, "ignore"), 'expected a pattern such as "* (left)", got ""'


SOURCE_RULES = (_source_interval, _source_domain_outside, _ignored_address)


def _percent_problem(table: Keys, percent: float) -> Problems:
    if not 0 <= percent <= 100:  # noqa: PLR2004 - a percentage
        yield (*table, "removed_percent"), f"expected 0 to 100, got {percent:g}"


def _count_problem(path: Keys, count: int) -> Problems:
    if count < 0:
        yield path, f"expected 0 or more, got {count}"


def _interval_problem(parts: Parts, path: Keys, every: float) -> Problems:
    max_age = parts.schedule.max_age
    if max_age and every > max_age:
        text = f"data that is fetched every {spell_seconds(every)} is often older than schedule.max_age, {max_age}"
        yield path, text


def _url_problem(key: str, url: str) -> Problems:
    if url and not url.startswith(("https://", "http://")):
        yield ("notify", key), "expected https://HOST/PATH"
