"""Our map in main.cf, and its index: postconf(5), DATABASE_README."""

from __future__ import annotations

from typing import TYPE_CHECKING

from msgspec.structs import replace

from syncagent import publish
from syncagent.checks import host as hosts
from syncagent.checks.finding import error, skipped, warning
from syncagent.values import INDEX_SUFFIX, MapName

if TYPE_CHECKING:
    from collections.abc import Iterator

    from syncagent.checks.finding import Finding
    from syncagent.checks.host import Host


def map_is_named(host: Host) -> Iterator[Finding]:
    """relay_recipient_maps names the map, with its type."""
    table = host.config.postfix.map
    named = host.listed("relay_recipient_maps")
    if host.names_the_map:
        return
    of_another_type = [entry for entry in named if hosts.same_file(entry, table)]
    if of_another_type:
        text = f"relay_recipient_maps has {', '.join(of_another_type)}, but {table} is what is written"
        pairs = zip(host.raw("relay_recipient_maps"), named, strict=True)
        entries = (table.spelled if entry in of_another_type else spelled for spelled, entry in pairs)
        yield error(str(table), text, host.postconf("relay_recipient_maps", ", ".join(entries)))
    elif named:
        text = f"relay_recipient_maps is {', '.join(named)}: what is written is not looked at"
        yield error(str(table), text, host.with_entries("relay_recipient_maps", [table.spelled]))
    else:
        text = "relay_recipient_maps is empty: every recipient is accepted, and unknown ones bounce later (backscatter)"
        mend = host.postconf("relay_recipient_maps", table.spelled)
        yield error(str(table), text, mend if host.begun else f"{host.sync}\n{mend}")


def no_other_tables(host: Host) -> Iterator[Finding]:
    """relay_recipient_maps names no other tables."""
    table = host.config.postfix.map
    others = [entry for entry in host.listed("relay_recipient_maps") if not hosts.same_file(entry, table)]
    mend = host.without("relay_recipient_maps", others)
    for entry in others:
        domain = min(host.scope)
        try:
            everybody = host.look_up(entry, [hosts.invented(domain)])
        except hosts.UnaskedError as trouble:
            yield skipped(entry, f"it is asked beside the map, and says nothing here: {trouble}", mend)
            continue
        if everybody:
            text = f"it is asked beside the map, and accepts every recipient of {domain}"
            yield error(entry, text, mend)
        else:
            text = (
                "it is asked beside the map: what it has stays valid, and is none of syncagent's. Once a source has it:"
            )
            yield warning(entry, text, mend)


def type_is_there(host: Host) -> Iterator[Finding]:
    """Postfix has the type of the map."""
    table, types = host.config.postfix.map, host.main.types
    if not types or table.type in types:
        return
    text = f"this Postfix has no {table.type} tables: it has {', '.join(sorted(types & INDEX_SUFFIX.keys()))}"
    if table.type in {"lmdb", "cdb"}:
        yield error(str(table), text, f"apt-get install postfix-{table.type}")
        return
    yield from _another_type(host, f"{text}; it was built without Berkeley DB (NON_BERKELEYDB_README)")


def not_redirected(host: Host) -> Iterator[Finding]:
    """Postfix does not turn the map into one of another type."""
    table = host.config.postfix.map
    level = host.level_of_migration
    if level.startswith("enable") and table.type in {"hash", "btree"}:
        text = f"non_bdb_migration_level = {level}: Postfix takes another type in its place (NON_BERKELEYDB_README)"
        yield from (replace(one, severity="warning") for one in _another_type(host, text))


def _another_type(host: Host, text: str) -> Iterator[Finding]:
    """Propose the best type there is."""
    table = host.config.postfix.map
    best = next((kind for kind in ("lmdb", "cdb") if kind in host.main.types), "lmdb")
    new = MapName.parse(f"{best}:{table.path}")
    named = [entry for entry in host.listed("relay_recipient_maps") if hosts.is_table(entry, table)]
    pairs = zip(host.raw("relay_recipient_maps"), host.listed("relay_recipient_maps"), strict=True)
    entries = [str(new) if entry in named else spelled for spelled, entry in pairs] or [str(new)]
    mend = [host.setting("map", str(new)), host.sync, host.postconf("relay_recipient_maps", ", ".join(entries))]
    if best not in host.main.types:
        mend.insert(0, f"apt-get install postfix-{best}")
    yield error(str(table), text, "\n".join(mend))


def index_is_current(host: Host) -> Iterator[Finding]:
    """Nothing is wrong with the index: it is there, and no older than its text."""
    target = publish.Target(host.config.postfix)
    if not target.text.exists():
        text = "nothing is published yet" + (", and Postfix asks it: all get 451" if host.names_the_map else "")
        yield error(str(target.text), text, host.sync)
    elif target.type != "texthash":
        suffixes = dict.fromkeys((INDEX_SUFFIX[target.type], *INDEX_SUFFIX.values()))
        index = next((path for suffix in suffixes if suffix and (path := target.index(suffix)).exists()), None)
        if index is None:
            yield error(str(target.text), "it has no index: all its recipients get 451", host.sync)
        elif index.stat().st_mtime_ns < target.text.stat().st_mtime_ns:
            text = (
                "it is older than its text: what was changed there by hand is not in force, and the next sync ends it"
            )
            yield error(str(index), text, host.sync)


CHECKS = (map_is_named, no_other_tables, type_is_there, not_redirected, index_is_current)
