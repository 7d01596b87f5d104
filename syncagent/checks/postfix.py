"""Our map in main.cf, and its index: postconf(5), DATABASE_README."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from syncagent.checks import context as hosts
from syncagent.checks import remedies as wanted
from syncagent.checks.finding import error, skipped, warning
from syncagent.checks.lists import bare, patterns
from syncagent.errors import LedgerError, PublishError, UnansweredError
from syncagent.files import atomic, pipeline
from syncagent.postfix import verify as readback
from syncagent.postfix.commands import tool
from syncagent.values.types import INDEX_SUFFIX, MapName

if TYPE_CHECKING:
    from collections.abc import Iterator

    from syncagent.checks.context import Host
    from syncagent.checks.finding import Finding
    from syncagent.postfix.table import Identities, Target


def map_is_named(host: Host) -> Iterator[Finding]:
    """relay_recipient_maps names the map, with its type."""
    table = host.config.postfix.map
    named = host.listed("relay_recipient_maps")
    if host.names_the_map:
        return
    of_another_type = [entry for entry in named if hosts.same_file(entry, table)]
    if of_another_type:
        text = f"relay_recipient_maps has {', '.join(of_another_type)}, but {table} is what is written"
    elif named:
        text = f"relay_recipient_maps is {', '.join(named)}: what is written is not looked at"
    else:
        text = "relay_recipient_maps is empty: every recipient is accepted, and unknown ones bounce later (backscatter)"
    yield error(str(table), text, wanted.recipient_maps(host))


def tables_can_be_asked(host: Host) -> Iterator[Finding]:
    """Every table that Postfix asks before it takes a recipient can be asked, as far as they are not syncagent's."""
    for pattern, trouble in host.troubles.items():
        if host.is_ours(pattern):
            continue
        where = [name for name in hosts.TABLES if pattern in (bare(entry) for entry in host.listed(name))]
        text = f"{' and '.join(where) or 'a file of a list'} has it, and it says nothing here: {trouble.text}"
        if trouble.lasting:
            mend = _opened(host, pattern, where)
            yield error(pattern, f"{text}; what nothing before it decides gets 451", mend)
        else:
            yield (skipped if os.geteuid() else warning)(pattern, text)


def _opened(host: Host, pattern: str, where: list[str]) -> str:
    """Give what makes a table one that can be opened, or does without it."""
    unindexed = host.unindexed(pattern)
    if unindexed:
        return host.command("postmap", unindexed)
    if not where:
        files = [entry for name in hosts.TABLES for entry in host.listed(name) if pattern in patterns(entry)]
        return "\n".join(f"# take {pattern} out of {file}" for file in dict.fromkeys(files))
    commands = {
        "relay_recipient_maps": lambda: wanted.recipient_maps(host),
        "relay_domains": lambda: wanted.relay_domains(host),
    }
    set_here = [name for name in where if host.is_set(name)] or where
    mends = (commands[name]() if name in commands else host.without(name, ()) for name in set_here)
    return "\n".join([f"# have {pattern} there again; or do without:", *mends])


def no_other_tables(host: Host) -> Iterator[Finding]:
    """relay_recipient_maps names no other tables."""
    table, harmless = host.config.postfix.map, []
    for entry in host.listed("relay_recipient_maps"):
        if hosts.is_table(entry, table):
            continue
        domain = wanted.takes_all_of(host, entry)
        if hosts.same_file(entry, table):
            text = "it is asked beside the map, of whose file it has an index of its own, which nobody keeps current"
            yield error(entry, text, wanted.recipient_maps(host))
        elif domain:
            text = f"it is asked beside the map, and accepts every recipient of {domain}"
            yield error(entry, text, wanted.recipient_maps(host))
        elif entry not in host.troubles:
            harmless.append(entry)
    text = "it is asked beside the map: what it has stays valid, and is none of syncagent's. Once a source has it:"
    for entry in harmless if host.names_the_map else ():
        yield warning(entry, text, wanted.recipient_maps(host, alone=True))


def type_is_there(host: Host) -> Iterator[Finding]:
    """Postfix has the type of the map."""
    types = host.main.types
    missing = [table for table in host.tables if types and table.type not in types]
    for table in missing:
        text = f"this Postfix has no {table.type} tables: it has {', '.join(sorted(types & INDEX_SUFFIX.keys()))}"
        if table.type in {"lmdb", "cdb"}:
            yield error(str(table), text, f"apt-get install postfix-{table.type}")
        else:
            text += "; it was built without Berkeley DB (NON_BERKELEYDB_README)"
            yield error(str(table), text, _another_type(host, missing))


def not_redirected(host: Host) -> Iterator[Finding]:
    """Postfix does not turn the map into one of another type."""
    level = host.level_of_migration
    redirected = [table for table in host.tables if table.type in {"hash", "btree"} and level.startswith("enable")]
    for table in redirected:
        text = f"non_bdb_migration_level = {level}: Postfix takes another type in its place (NON_BERKELEYDB_README)"
        yield warning(str(table), text, _another_type(host, redirected))


def _another_type(host: Host, tables: list[MapName]) -> str:
    """Propose the best type there is, for all the tables at once."""
    best = next((kind for kind in ("lmdb", "cdb") if kind in host.main.types), "lmdb")
    install = [f"apt-get install postfix-{best}"] if best not in host.main.types else []
    settings, lines = [], []
    for table in tables:
        new, is_map = MapName.parse(f"{best}:{table.path}"), table is host.config.postfix.map
        settings.append(host.setting("map" if is_map else "domains_map", str(new)))
        lines.append(wanted.recipient_maps(host, instead=new) if is_map else wanted.relay_domains(host, instead=new))
    return "\n".join(dict.fromkeys([*install, *settings, host.sync, *"\n".join(lines).splitlines()]))


def index_is_current(host: Host) -> Iterator[Finding]:
    """Nothing is wrong with the index: it is there, no older than its text, and has what the text has."""
    finished = host.ledger.finished if host.ledger else None
    first, second = host.config.postfix.map, host.config.postfix.domains_map
    yield from _index(host, first, finished.identities if finished else None, asked=host.names_the_map)
    if second:
        named = any(hosts.is_table(entry, second) for entry in host.listed("relay_domains"))
        yield from _index(host, second, finished.domain_identities if finished else None, asked=named)


def _index(host: Host, table: MapName, recorded: Identities | None, *, asked: bool) -> Iterator[Finding]:
    """Judge the index of a table. A daemon that did not find it when it began does not look again."""
    target = host.target(table)
    for path in (target.text, target.index(INDEX_SUFFIX[target.type])):
        atomic.check_regular(path)
    again = f"{host.sync}\n# then, since Postfix asks it: {host.command('postfix', 'reload')}" if asked else host.sync
    if not target.text.exists():
        text = "nothing is published yet" + (", and Postfix asks it: all get 451" if asked else "")
        yield error(str(target.text), text, again)
    elif target.type != "texthash":
        suffixes = dict.fromkeys((INDEX_SUFFIX[target.type], *INDEX_SUFFIX.values()))
        index = next((path for suffix in suffixes if suffix and (path := target.index(suffix)).exists()), None)
        if index is None:
            yield error(str(target.text), "it has no index: all it is asked for gets 451", again)
        elif index.stat().st_mtime_ns < target.text.stat().st_mtime_ns:
            text = (
                "it is older than its text: what was changed there by hand is not in force, and the next sync ends it"
            )
            yield error(str(index), text, host.sync)
        elif table.type in host.main.types and (text := _differs(target, index, recorded)):
            yield error(str(index), f"it is not the index of its text: {text}", host.sync)


def _differs(target: Target, index: Path, recorded: Identities | None) -> str:
    """Ask an index that is not as syncagent left it for every key of the text; give what it lacks, or has beside."""
    if recorded and recorded.index_file == atomic.identity(index) and target.text_on_record(recorded):
        return ""
    postmap, limit = tool("postmap"), target.settings.postmap_timeout
    if postmap is None or not os.access(index, os.R_OK):
        return ""
    command = [str(postmap), "-c", str(target.settings.config_directory.absolute())]
    with tempfile.TemporaryDirectory(prefix="syncagent-check-") as directory:
        spool = Path(directory)
        with pipeline.Sorter(spool) as sorter:
            sorter.feed(key.lower() for key in readback.text_keys(target.text))
            keys = pipeline.write_plain(spool / "keys", sorter.finish())
        back = readback.ReadBack(target.type, target.named, spool, lambda *options: [*command, *options], limit)
        try:
            back.check(keys)
        except UnansweredError as trouble:
            return f"it lacks {len(trouble.keys):,} of its keys, such as {trouble.keys[0].decode(errors='replace')}"
        except (PublishError, LedgerError) as trouble:
            return str(trouble)
    return ""


CHECKS = (map_is_named, tables_can_be_asked, no_other_tables, type_is_there, not_redirected, index_is_current)
