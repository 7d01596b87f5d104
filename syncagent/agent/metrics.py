"""Metrics for Prometheus, in a file for node_exporter's textfile collector.

Names and units follow Prometheus' conventions for metrics.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, Counter, Gauge, disable_created_metrics, generate_latest

from syncagent import privileges
from syncagent.files import atomic as files

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from syncagent.state.status import Status


def write(path: Path, status: Status) -> None:
    """Write the metrics of a status to a file with mode 0644.

    Raises OSError if that fails, or if ``path`` exists and is not a regular file.
    """
    files.check_regular(path)
    directory = privileges.open_directory(path.parent)
    disable_created_metrics()  # type: ignore[no-untyped-call] # the creation time would be that of this write
    try:
        files.write_whole(path, generate_latest(_registry(status)), 0o644, directory, lasting=False)
    finally:
        os.close(directory)


def _registry(status: Status) -> CollectorRegistry:
    registry = CollectorRegistry()

    def gauge(name: str, text: str, value: float) -> None:
        Gauge(f"syncagent_{name}", text, registry=registry).set(value)

    def by(label: str, name: str, text: str, values: Mapping[str, float]) -> None:
        labelled = Gauge(f"syncagent_{name}", text, [label], registry=registry)
        for key, value in values.items():
            labelled.labels(key).set(value)

    last, agent = (status.agent.last, status.agent) if status.agent else (None, None)
    gauge("last_run_timestamp_seconds", "When the last run ended.", status.last_run)
    due = agent.next_run if agent else None
    gauge("next_run_timestamp_seconds", "When the next run is due.", status.last_run if due is None else due)
    gauge("last_change_timestamp_seconds", "When the map was last changed.", status.last_change)
    gauge(
        "oldest_data_timestamp_seconds", "When the source that has failed longest was last whole.", status.oldest_data
    )
    gauge("run_duration_seconds", "How long the last run took.", last.seconds if last else 0)
    gauge("publish_failed", "Whether the last publishing failed.", _kind(status, "publish-failed"))
    gauge("alarms", "How many things need a person.", len(status.alarms))
    gauge("watch_rebuilds", "How often the watch on files was rebuilt.", agent.watch_rebuilt if agent else 0)
    by("domain", "recipients", "Recipients in the map.", status.domains)
    by("domain", "held_removals", "Removals that are held.", _held(status))
    not_relayed = dict.fromkeys(status.not_relayed, 1.0)
    by("domain", "domain_not_relayed", "Whether mail comes here for a domain that is not relayed.", not_relayed)
    sources = {source.name: source for source in status.sources}
    up = {name: float(source.state == "whole") for name, source in sources.items()}
    by("source", "source_up", "Whether the source's last answer was whole.", up)
    success = {name: source.last_success for name, source in sources.items()}
    by("source", "source_last_success_timestamp_seconds", "When the source was last whole.", success)
    stale = {name: float(source.stale) for name, source in sources.items()}
    by("source", "source_stale", "Whether the source's data is older than max_age.", stale)
    outdated = {name: float(source.outdated) for name, source in sources.items()}
    by("source", "source_outdated", "Whether the source's data is outdated by its own dates.", outdated)
    entries = {name: float(source.entries) for name, source in sources.items()}
    by("source", "source_entries", "Entries in the source's last whole answer.", entries)
    rejected = {name: float(source.rejected_held) for name, source in sources.items()}
    text = "Entries of the source that cannot be read as recipients, and that nobody has approved or ignored."
    by("source", "rejected_entries", text, rejected)
    refused = {name: float(source.refused) for name, source in sources.items()}
    by("source", "refused_keys", "Keys of the source's table whose right side refuses mail: no recipients.", refused)
    if status.doubt:
        doubtful, ages = status.doubt.domains, status.doubt.ages
        names = sorted(doubtful.union(status.domains))
        in_doubt = {name: float(name in doubtful) for name in names}
        by("domain", "domain_in_doubt", "Whether unknown recipients of the domain get 450 instead of 550.", in_doubt)
        seconds = {name: ages.get(name, 0.0) for name in names}
        by("domain", "domain_doubt_seconds", "How long the domain has been in doubt by a failure.", seconds)
        gauge("doubt_in_force", "Whether the doubt table is as the last run wants it.", status.doubt.in_force)
        seen = status.doubt.switch_seen
        gauge("doubt_switch_seen_timestamp_seconds", "When doubt-switch.sh last ran.", seen)
    runs = Counter(
        "syncagent_runs", "Runs since the agent started, by what they came to.", ["status"], registry=registry
    )
    for name, count in (agent.runs if agent else {}).items():
        runs.labels(name).inc(count)
    return registry


def _kind(status: Status, kind: str) -> float:
    return float(any(alarm.kind == kind for alarm in status.alarms))


def _held(status: Status) -> dict[str, float]:
    held = dict.fromkeys(status.domains, 0.0)
    for hold in status.holds:
        if not hold.is_of_recipients:
            continue
        held[hold.domain] = held.get(hold.domain, 0.0) + hold.count
    return held
