"""Checks of syncagent itself: configuration, secrets, directories, tables' files, the lock, postmap and sources."""

from __future__ import annotations

import os
import shlex
import stat
from typing import TYPE_CHECKING

from syncagent import privileges, sources
from syncagent.checks.finding import Check, File, Person, Shell, error, ok, skipped, warning
from syncagent.errors import LockBusyError, SourceError
from syncagent.files import atomic as files
from syncagent.postfix.commands import tool
from syncagent.privileges import AGENT, has_agent
from syncagent.privileges.accounts import user_name
from syncagent.state import messages
from syncagent.sync import rejected
from syncagent.values.types import INDEX_SUFFIX, SecretFile

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from syncagent.checks.context import Context
    from syncagent.checks.finding import Finding, Step

_SHOWN = 3
_NO_RECIPIENTS = "or, if they are no recipients,"


def configuration(context: Context) -> Iterator[Finding]:
    """Yield "ok" for the configuration file: the checks run only if it has been loaded without error."""
    yield ok(str(context.config.file), "the configuration is right")


def secrets_are_kept(context: Context) -> Iterator[Finding]:
    """Yield an error for each secret file that cannot be used: unreadable, invalid, or accessible to others."""
    for where, name in _secrets(context):
        path = sources.secret_path(name)
        try:
            sources.read_secret(name)
        except SourceError as failure:
            yield error(where, str(failure), _readable_secret(path))


def _readable_secret(secret: Path) -> Step:
    if not secret.exists():
        return Shell(command=f"install -m 600 -o {_user()} /dev/stdin {_quote(secret)}")
    if not os.access(secret, os.R_OK):
        return Shell(command=f"chown {_user()} {_quote(secret)}")
    if secret.stat().st_mode & 0o077:
        return Shell(command=f"chmod 600 {_quote(secret)}")
    return Person(text=f"write it to {secret} anew")


def _secrets(context: Context) -> Iterator[tuple[str, SecretFile]]:
    for name, source in context.config.sources.items():
        for key in source.own.__struct_fields__:
            value = getattr(source.own, key)
            public = key == "client_cert_file" and getattr(source.own, "client_key_file", None)
            if isinstance(value, SecretFile) and not public:
                yield f"sources.{name}.{key}", value
    if context.config.notify.url_file:
        yield "notify.url_file", context.config.notify.url_file


def state_is_ours(context: Context) -> Iterator[Finding]:
    """Yield a finding if the state directory cannot be written or created, or is accessible to all users."""
    directory = context.config.state.directory
    if not directory.exists():
        yield from _can_be_made(context, directory, "0750")
        return
    yield from _writable(context, directory, "0750")
    mode = stat.S_IMODE(directory.stat().st_mode)
    if mode & 0o007:
        remedy = Shell(command=f"chmod 750 {_quote(directory)}")
        yield warning(str(directory), f"others may look into it (mode {mode:04o})", remedy)


def paths_are_ours(context: Context) -> Iterator[Finding]:
    """Yield a finding for each component of syncagent's paths that another user can change.

    Raises LayoutError if a path has a loop of symbolic links.
    """
    layout = privileges.look(context.config)
    for loose in layout.loose:
        finding = error if loose.refused or loose.kind == "everybody" else warning
        yield finding(loose.path, loose.text, *([Shell(command=loose.remedy)] if loose.remedy else []))


def map_can_be_written(context: Context) -> Iterator[Finding]:
    """Yield an error for each table's directory that is missing or cannot be written."""
    for table in context.tables:
        directory = table.path.parent
        if not directory.exists():
            text = "it is not there, and is not made by itself"
            yield error(str(directory), text, _make(context, directory, "0755"))
            continue
        yield from _writable(context, directory, "0755")


def tables_are_files(context: Context) -> Iterator[Finding]:
    """Yield an error for each text or index of a table that is not a regular file."""
    for table in context.tables:
        target = context.target(table)
        for path in dict.fromkeys((target.text, target.index(INDEX_SUFFIX[target.type]))):
            try:
                files.check_regular(path)
            except files.UnfitFileError as failure:
                yield error(str(path), f"{failure.strerror}: nothing is published there", _moved(path))


def _moved(path: Path) -> Person:
    return Person(text=f"move {path} away")


def _can_be_made(context: Context, directory: Path, mode: str) -> Iterator[Finding]:
    above = next(parent for parent in directory.absolute().parents if parent.exists())
    if not os.access(above, os.W_OK | os.X_OK):
        yield error(str(directory), f"it is not there, and {_user()} may not make it", _make(context, directory, mode))


def _writable(context: Context, directory: Path, mode: str) -> Iterator[Finding]:
    if not directory.is_dir():
        yield error(str(directory), "it is no directory", _moved(directory))
    elif not os.access(directory, os.W_OK | os.X_OK):
        owner = directory.stat().st_uid
        yield error(
            str(directory),
            f"{_user()} may not write there; it is {user_name(owner)}'s",
            _make(context, directory, mode),
        )


def _make(context: Context, directory: Path, mode: str) -> Shell:
    """Return the command that creates a directory, or sets the owner and mode of an existing one.

    The owner is this user; before root's first run it is the agent's user, if that exists, as for `syncagent init`.
    """
    fresh = os.geteuid() == 0 and not context.config.state.directory.exists()
    owner = f"{AGENT} -g {AGENT}" if fresh and has_agent() else _user()
    return Shell(command=f"install -d -o {owner} -m {mode} {_quote(directory)}")


def _user() -> str:
    return user_name(os.geteuid())


def _quote(path: Path) -> str:
    return shlex.quote(str(path))


def lock_is_free(context: Context) -> Iterator[Finding]:
    """Yield "ok" if a run holds the lock, "skipped" if the lock may not be opened, and an error if it is no file."""
    lock = context.config.state.directory / "sync.lock"
    try:
        with files.locked(lock, 0, shared=True):
            pass
    except FileNotFoundError:
        return
    except LockBusyError:
        yield ok(str(lock), "a run is under way")
    except files.UnfitFileError as failure:
        yield error(str(lock), str(failure.strerror), _moved(lock))
    except PermissionError:
        yield skipped(
            str(lock), f"it is {user_name(lock.stat().st_uid)}'s: {_user()} cannot tell whether a run is under way"
        )


def postmap_is_there(context: Context) -> Iterator[Finding]:
    """Yield an error if postmap(1) is not installed and the map needs it: all types but texthash."""
    if context.config.postfix.map.type != "texthash" and tool("postmap") is None:
        yield error(
            "postmap", "it is not installed: nothing can be published", Shell(command="apt-get install postfix")
        )


def sources_answer(context: Context) -> Iterator[Finding]:
    """Yield a finding for each source: its entries and duration in seconds, or its error."""
    for report in context.reports:
        if report.error:
            yield error(report.name, f"failing ({report.kind}): {report.error}")
        else:
            rejected = f", {report.rejected:,} of them no recipients" if report.rejected else ""
            refused = f", {messages.refused_keys(report.refused)}," if report.refused else ""
            mode = f"{report.mode}, " if report.mode else ""
            text = f"whole: {mode}{report.entries:,} entries{rejected}{refused} in {report.seconds:.2f}s"
            yield ok(report.name, text)


def recipients_are_listed(context: Context) -> Iterator[Finding]:
    """Yield a warning for each source that can have recipients which it does not list, "ok" if a person settled it."""
    for report in context.reports:
        if not report.leaves_out:
            continue
        text = f"it does not list: {', '.join(report.leaves_out)}"
        if context.config.sources[report.name].common.unlisted == "refuse":
            yield ok(report.name, f'{text}; by unlisted = "refuse" they are refused, unless another source lists them')
            continue
        remedy = File(
            path=str(context.config.file),
            section=f"sources.{report.name}",
            write='unlisted = "refuse"',
            when="and then, or if there are none,",
        )
        yield warning(report.name, text, Person(text="list such addresses in a file source"), remedy)


def rejected_entries(context: Context) -> Iterator[Finding]:
    """Yield a warning for each source with rejected entries that nobody has approved, and "ok" for other rejects."""
    for report in context.reports:
        found = context.rejected[report.name]
        counts = messages.rejected_counts(report.rejected, report.rejected_held, report.rejected_ignored)
        if found.held:
            such = "; ".join(map(messages.rejected_entry, found.sample[:_SHOWN]))
            yield warning(report.name, f"{counts}: {such}", *_of_rejects(context, report.name))
        elif report.rejected:
            yield ok(report.name, counts)


def _of_rejects(context: Context, name: str) -> Iterator[Step]:
    yield Person(text="correct these entries at their source")
    hold_id = rejected.hold_id(name, context.rejected[name].digests)
    hold = context.ledger.holds.get(hold_id) if context.ledger else None
    if hold and hold.approvable:
        yield Shell(command=context.config.command("approve", hold_id), when=_NO_RECIPIENTS)
    yield _ignoring(context, name)


def _ignoring(context: Context, name: str) -> Step:
    """Return how to leave the rejected entries of a source out: by one pattern for each, if that is possible."""
    found, ignored = context.rejected[name], context.config.sources[name].common.ignore
    patterns = [rejected.pattern(reject) for reject in found.sample]
    if found.held > len(patterns) or not all(patterns):
        return Person(text=f"match them by the key ignore of [sources.{name}]", when=_NO_RECIPIENTS)
    write = f"ignore = [{', '.join(map(messages.toml_string, (*ignored, *patterns)))}]"
    return File(path=str(context.config.file), section=f"sources.{name}", write=write, when=_NO_RECIPIENTS)


PATHS_ARE_OURS = Check(
    "paths-are-ours",
    "Nobody else can change what the paths to the state and the tables lead to",
    paths_are_ours,
)
CHECKS = (
    Check("configuration", "The configuration is right", configuration),
    Check("secrets-are-kept", "Every secret can be read, by nobody else", secrets_are_kept),
    Check("state-is-ours", "Nobody else looks into the state directory, which can be written", state_is_ours),
    PATHS_ARE_OURS,
    Check("map-can-be-written", "The map's directory is there, and syncagent may write it", map_can_be_written),
    Check("tables-are-files", "Nothing but a file is in the place of a table", tables_are_files),
    Check("lock-is-free", "No other run holds the lock", lock_is_free),
    Check("postmap-is-there", "postmap, which indexes the map, is installed", postmap_is_there),
    Check("sources-answer", "Every source gives its whole answer", sources_answer),
    Check("recipients-are-listed", "Every source lists all its recipients", recipients_are_listed),
    Check("rejected-entries", "Every entry of the sources can be read", rejected_entries),
)
