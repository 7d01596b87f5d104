"""Checks of the tables that main.cf names, and of the indexes of syncagent's tables: postconf(5), DATABASE_README."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from msgspec.structs import replace

from syncagent.checks import remedies
from syncagent.checks.finding import Check, Person, Shell, error, skipped, warning
from syncagent.errors import LedgerError, PublishError, UnansweredError
from syncagent.files import atomic, pipeline
from syncagent.postfix.commands import tool
from syncagent.postfix.live import TABLES, patterns_of, without_exclamation
from syncagent.postfix.table import is_same_file, is_same_table
from syncagent.postfix.table_text import listed_keys
from syncagent.postfix.verify import ReadBack, text_keys
from syncagent.values.types import INDEX_SUFFIX, MapName

if TYPE_CHECKING:
    from collections.abc import Iterator

    from syncagent.checks.context import Context
    from syncagent.checks.finding import Finding, Step
    from syncagent.postfix.table import Identities, Target


def map_is_named(context: Context) -> Iterator[Finding]:
    """Yield an error if relay_recipient_maps does not name the map with its type."""
    table = context.config.postfix.map
    named = context.live.listed("relay_recipient_maps")
    if context.names_the_map:
        return
    of_another_type = [entry for entry in named if is_same_file(entry, table)]
    if of_another_type:
        text = f"relay_recipient_maps has {', '.join(of_another_type)}, but {table} is what is written"
    elif named:
        text = f"relay_recipient_maps is {', '.join(named)}: what is written is not looked at"
    else:
        text = "relay_recipient_maps is empty: every recipient is accepted, and unknown ones bounce later (backscatter)"
    yield error(str(table), text, *remedies.recipient_maps(context))


def tables_can_be_asked(context: Context) -> Iterator[Finding]:
    """Yield a finding for each table that Postfix queries for a recipient and that cannot be queried.

    Tables that syncagent publishes are not reported here.
    """
    for pattern, reason in context.live.unreadable.items():
        if context.is_ours(pattern):
            continue
        lists = [
            name for name in TABLES if pattern in (without_exclamation(entry) for entry in context.live.listed(name))
        ]
        text = f"{' and '.join(lists) or 'a file of a list'} has it, and it says nothing here: {reason.text}"
        if reason.missing:
            text += "; what nothing before it decides gets 451"
            yield error(pattern, text, *_restored_or_removed(context, pattern, lists))
        else:
            yield (skipped if os.geteuid() else warning)(pattern, text)


def _restored_or_removed(context: Context, pattern: str, lists: list[str]) -> Iterator[Step]:
    """Yield the steps that index a missing table, have a person restore it, or remove it from the lists.

    Raises CommandError if a lookup in another table fails.
    """
    unindexed = context.unindexed(pattern)
    if unindexed:
        yield context.change("postmap", unindexed)
        return
    if not lists:
        entries = [entry for name in TABLES for entry in context.live.listed(name) if pattern in patterns_of(entry)]
        yield from (Person(text=f"take {pattern} out of {file}") for file in dict.fromkeys(entries))
        return
    yield Person(text=f"have {pattern} there again; or do without:")
    for name in [name for name in lists if context.live.is_set(name)] or lists:
        if name == "relay_recipient_maps":
            yield from remedies.recipient_maps(context)
        elif name == "relay_domains":
            yield from remedies.relay_domains(context)
        else:
            yield context.without(name, ())


def no_other_tables(context: Context) -> Iterator[Finding]:
    """Yield a finding for each other table in relay_recipient_maps.

    It is an error if the table accepts every recipient of a relay domain or is another index of the map's text.
    Harmless tables are reported only if relay_recipient_maps names the map. Raises CommandError if a lookup fails.
    """
    table, harmless = context.config.postfix.map, []
    for entry in context.live.listed("relay_recipient_maps"):
        if is_same_table(entry, table):
            continue
        domain = remedies.accepts_a_domain(context, entry)
        if is_same_file(entry, table):
            text = "it is asked beside the map, of whose file it has an index of its own, which nobody keeps current"
            yield error(entry, text, *remedies.recipient_maps(context))
        elif domain:
            text = f"it is asked beside the map, and accepts every recipient of {domain}"
            yield error(entry, text, *remedies.recipient_maps(context))
        elif entry not in context.live.unreadable:
            harmless.append(entry)
    text = "it is asked beside the map: what it has stays valid, and is none of syncagent's. Once a source has it:"
    for entry in harmless if context.names_the_map else ():
        yield warning(entry, text, *remedies.recipient_maps(context, alone=True))


def type_is_there(context: Context) -> Iterator[Finding]:
    """Yield an error for each table of syncagent whose type this Postfix does not support."""
    types = context.live.main.types
    missing = [table for table in context.tables if types and table.type not in types]
    for table in missing:
        text = f"this Postfix has no {table.type} tables: it has {', '.join(sorted(types & INDEX_SUFFIX.keys()))}"
        if table.type in {"lmdb", "cdb"}:
            yield error(str(table), text, Shell(command=f"apt-get install postfix-{table.type}"))
        else:
            text += "; it was built without Berkeley DB (NON_BERKELEYDB_README)"
            yield error(str(table), text, *_another_type(context, missing))


def not_redirected(context: Context) -> Iterator[Finding]:
    """Yield a warning for each table of syncagent that Postfix redirects to another type (NON_BERKELEYDB_README)."""
    level = context.live.migration_level
    redirected = [table for table in context.tables if table.type in {"hash", "btree"} and level.startswith("enable")]
    for table in redirected:
        text = f"non_bdb_migration_level = {level}: Postfix takes another type in its place (NON_BERKELEYDB_README)"
        yield warning(str(table), text, *_another_type(context, redirected))


def _another_type(context: Context, tables: list[MapName]) -> list[Step]:
    """Return the steps that change the tables' type to lmdb, or to cdb if Postfix has only that.

    If Postfix has neither, the first step installs lmdb.
    Raises CommandError if a lookup fails.
    """
    types = context.live.main.types
    best = next((kind for kind in ("lmdb", "cdb") if kind in types), "lmdb")
    install: list[Step] = [] if best in types else [Shell(command=f"apt-get install postfix-{best}")]
    settings: list[Step] = []
    commands: list[Step] = []
    for table in tables:
        new = MapName.parse(f"{best}:{table.path}")
        is_map = table is context.config.postfix.map
        settings.append(context.setting("map" if is_map else "domains_map", str(new)))
        change = remedies.recipient_maps if is_map else remedies.relay_domains
        commands += change(context, instead=new)
    return list(dict.fromkeys([*install, *settings, context.sync, *commands]))


def index_is_current(context: Context) -> Iterator[Finding]:
    """Compare the index of each table of syncagent with the table's text."""
    finished = context.ledger.finished if context.ledger else None
    first, second = context.config.postfix.map, context.config.postfix.domains_map
    yield from of_index(context, first, finished.identities if finished else None, asked=context.names_the_map)
    if second:
        named = any(is_same_table(entry, second) for entry in context.live.listed("relay_domains"))
        yield from of_index(context, second, finished.domain_identities if finished else None, asked=named)


def of_index(
    context: Context, table: MapName, recorded: Identities | None, *, asked: bool, who: str = "all"
) -> Iterator[Finding]:
    """Yield an error if a table has no text or index, or if its index is older than its text or differs from it.

    ``asked`` is true if main.cf names the table, ``who`` are then those who get 451 if it is missing. The remedy for a
    missing text or index then includes a reload, since a running Postfix process does not look for it again.

    Raises OSError if the text or index is not a regular file.
    """
    target = context.target(table)
    for path in (target.text, target.index(INDEX_SUFFIX[target.type])):
        atomic.check_regular(path)
    again = [context.sync]
    if asked:
        again.append(replace(context.reload, when="then, since Postfix asks it:"))
    if not target.text.exists():
        text = "nothing is published yet" + (f", and Postfix asks it: {who} get 451" if asked else "")
        yield error(str(target.text), text, *again)
    elif target.type != "texthash":
        suffixes = dict.fromkeys((INDEX_SUFFIX[target.type], *INDEX_SUFFIX.values()))
        index = next((path for suffix in suffixes if suffix and (path := target.index(suffix)).exists()), None)
        if index is None:
            yield error(str(target.text), "it has no index: all it is asked for gets 451", *again)
        elif index.stat().st_mtime_ns < target.text.stat().st_mtime_ns:
            text = (
                "it is older than its text: what was changed there by hand is not in force, and the next sync ends it"
            )
            yield error(str(index), text, context.sync)
        elif table.type in context.live.main.types and (text := _differs(target, index, recorded)):
            yield error(str(index), f"it is not the index of its text: {text}", context.sync)


def _differs(target: Target, index: Path, recorded: Identities | None) -> str:
    """Return how an index differs from its text; empty if it does not or cannot be compared.

    An index and a text that are unchanged since publication are not compared.
    """
    if recorded and recorded.index_file == atomic.identity(index) and target.text_on_record(recorded):
        return ""
    settings = target.settings
    if tool("postmap") is None or not os.access(index, os.R_OK):
        return ""
    with tempfile.TemporaryDirectory(prefix="syncagent-check-") as directory:
        spool = Path(directory)
        with pipeline.Sorter(spool) as sorter:
            sorter.feed(key.lower() for key in text_keys(target.text))
            keys = pipeline.write_plain(spool / "keys", sorter.finish())
        read_back = ReadBack(
            target.type, target.named, spool, settings.config_directory, settings.postmap_timeout, listed_keys
        )
        try:
            read_back.check(keys)
        except UnansweredError as unanswered:
            return (
                f"it lacks {len(unanswered.keys):,} of its keys, such as {unanswered.keys[0].decode(errors='replace')}"
            )
        except (PublishError, LedgerError) as failure:
            return str(failure)
    return ""


CHECKS = (
    Check("map-is-named", "relay_recipient_maps names the map, with its type", map_is_named),
    Check(
        "tables-can-be-asked",
        "Every table that Postfix asks before it takes a recipient can be asked, as far as they are not syncagent's",
        tables_can_be_asked,
    ),
    Check("no-other-tables", "relay_recipient_maps names no other tables", no_other_tables),
    Check("type-is-there", "Postfix has the type of the map", type_is_there),
    Check("not-redirected", "Postfix does not turn the map into one of another type", not_redirected),
    Check(
        "index-is-current",
        "Nothing is wrong with the index: it is there, no older than its text, and has what the text has",
        index_is_current,
    ),
)
