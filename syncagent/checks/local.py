"""The configuration's surroundings: secrets, directories, the lock, and each source, asked for real."""

from __future__ import annotations

import os
import pwd
import shlex
import stat
from typing import TYPE_CHECKING

from syncagent import privileges, sources
from syncagent.checks.finding import error, ok, skipped, warning
from syncagent.errors import LockBusyError, SourceError
from syncagent.files import atomic as files
from syncagent.postfix.commands import tool
from syncagent.privileges import AGENT, has_agent
from syncagent.values.types import INDEX_SUFFIX, SecretFile

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from syncagent.checks.context import Host
    from syncagent.checks.finding import Finding


def configuration(host: Host) -> Iterator[Finding]:
    """Say that the configuration is right, since it was read."""
    yield ok(str(host.config.file), "the configuration is right")


def secrets_are_kept(host: Host) -> Iterator[Finding]:
    """Every secret can be read, by nobody else."""
    for where, name in _secrets(host):
        path = sources.secret_path(name)
        try:
            sources.read_secret(name)
        except SourceError as trouble:
            yield error(where, str(trouble), _mended(path))


def _mended(secret: Path) -> str:
    if not secret.exists():
        return f"install -m 600 -o {_user()} /dev/stdin {_quote(secret)}"
    if not os.access(secret, os.R_OK):
        return f"chown {_user()} {_quote(secret)}"
    return f"chmod 600 {_quote(secret)}" if secret.stat().st_mode & 0o077 else f"# write it to {secret} anew"


def _secrets(host: Host) -> Iterator[tuple[str, SecretFile]]:
    for name, source in host.config.sources.items():
        for key in source.own.__struct_fields__:
            value = getattr(source.own, key)
            public = key == "client_cert_file" and getattr(source.own, "client_key_file", None)
            if isinstance(value, SecretFile) and not public:
                yield f"sources.{name}.{key}", value
    if host.config.notify.url_file:
        yield "notify.url_file", host.config.notify.url_file


def state_is_ours(host: Host) -> Iterator[Finding]:
    """Nobody else looks into the state directory, which can be written."""
    directory = host.config.state.directory
    if not directory.exists():
        yield from _can_be_made(host, directory, "0750")
        return
    yield from _writable(host, directory, "0750")
    mode = stat.S_IMODE(directory.stat().st_mode)
    if mode & 0o007:
        yield warning(str(directory), f"others may look into it (mode {mode:04o})", f"chmod 750 {_quote(directory)}")


def paths_are_ours(host: Host) -> Iterator[Finding]:
    """Nobody else can change what the paths to the state and the tables lead to."""
    layout = privileges.look(host.config)
    for one in layout.loose:
        found = error if one.refused or one.kind == "everybody" else warning
        yield found(one.path, f"can be changed by {one.who}", one.remedy)


def map_can_be_written(host: Host) -> Iterator[Finding]:
    """The map's directory is there, and syncagent may write it."""
    for table in (host.config.postfix.map, host.config.postfix.domains_map):
        if table is None:
            continue
        directory = table.path.parent
        if not directory.exists():
            text = "it is not there, and is not made by itself"
            yield error(str(directory), text, _make(host, directory, "0755"))
            continue
        yield from _writable(host, directory, "0755")


def tables_are_files(host: Host) -> Iterator[Finding]:
    """Nothing but a file is in the place of a table."""
    for table in host.tables:
        target = host.target(table)
        for path in dict.fromkeys((target.text, target.index(INDEX_SUFFIX[target.type]))):
            try:
                files.check_regular(path)
            except files.UnfitFileError as trouble:
                yield error(str(path), f"{trouble.strerror}: nothing is published there", _moved(path))


def _moved(path: Path) -> str:
    return f"# move {path} away"


def _can_be_made(host: Host, directory: Path, mode: str) -> Iterator[Finding]:
    above = next(one for one in directory.absolute().parents if one.exists())
    if not os.access(above, os.W_OK | os.X_OK):
        yield error(str(directory), f"it is not there, and {_user()} may not make it", _make(host, directory, mode))


def _writable(host: Host, directory: Path, mode: str) -> Iterator[Finding]:
    if not directory.is_dir():
        yield error(str(directory), "it is no directory", _moved(directory))
    elif not os.access(directory, os.W_OK | os.X_OK):
        owner = directory.stat().st_uid
        yield error(
            str(directory), f"{_user()} may not write there; it is {_name(owner)}'s", _make(host, directory, mode)
        )


def _make(host: Host, directory: Path, mode: str) -> str:
    """Give the command that makes a directory, before the first run by root for the agent: as `syncagent init` does."""
    fresh = os.geteuid() == 0 and not host.config.state.directory.exists()
    owner = f"{AGENT} -g {AGENT}" if fresh and has_agent() else _user()
    return f"install -d -o {owner} -m {mode} {_quote(directory)}"


def _user() -> str:
    return _name(os.geteuid())


def _name(number: int) -> str:
    try:
        return pwd.getpwuid(number).pw_name
    except KeyError:
        return str(number)


def _quote(path: Path) -> str:
    return shlex.quote(str(path))


def lock_is_free(host: Host) -> Iterator[Finding]:
    """No other run holds the lock."""
    lock = host.config.state.directory / "sync.lock"
    try:
        with files.locked(lock, 0, shared=True):
            pass
    except FileNotFoundError:
        return
    except LockBusyError:
        yield ok(str(lock), "a run is under way")
    except files.UnfitFileError as trouble:
        yield error(str(lock), str(trouble.strerror), _moved(lock))
    except PermissionError:
        yield skipped(
            str(lock), f"it is {_name(lock.stat().st_uid)}'s: {_user()} cannot tell whether a run is under way"
        )


def postmap_is_there(host: Host) -> Iterator[Finding]:
    """postmap, which indexes the map, is installed."""
    if host.config.postfix.map.type != "texthash" and tool("postmap") is None:
        yield error("postmap", "it is not installed: nothing can be published", "apt-get install postfix")


def sources_answer(host: Host) -> Iterator[Finding]:
    """Every source gives its whole answer."""
    for report in host.reports:
        if report.error:
            yield error(report.name, f"failing ({report.kind}): {report.error}")
        else:
            rejected = f", {report.rejected:,} of them no recipients" if report.rejected else ""
            mode = f"{report.mode}, " if report.mode else ""
            yield ok(report.name, f"whole: {mode}{report.entries:,} entries{rejected} in {report.seconds:.2f}s")


CHECKS = (
    configuration,
    secrets_are_kept,
    state_is_ours,
    paths_are_ours,
    map_can_be_written,
    tables_are_files,
    lock_is_free,
    postmap_is_there,
    sources_answer,
)
