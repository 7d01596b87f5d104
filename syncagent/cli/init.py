"""``syncagent init``: a first configuration, derived from the output of postconf(1). No file is ever overwritten."""

from __future__ import annotations

import json
import os
import re
import shlex
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click

from syncagent import addresses as normalise
from syncagent.cli import init_table
from syncagent.config.tables import command
from syncagent.errors import ExitCode, SyncagentError
from syncagent.postfix import doubt_lines
from syncagent.postfix.commands import create_main_cf
from syncagent.postfix.main_cf import MainConf
from syncagent.postfix.restrictions import SENDER
from syncagent.privileges import AGENT, has_agent
from syncagent.values.types import INDEX_SUFFIX, Domain, MapName

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

_PLACE = "/var/lib/syncagent/relay_recipients"
_TYPES = ("lmdb", *(kind for kind in INDEX_SUFFIX if kind != "lmdb"))
_PLACEHOLDER = Domain("example.com")
_FEW = 3
_RECIPIENTS = "recipients"

_TEXT = """\
# Configuration of syncagent, written by `syncagent init`{origin}.
# Lines that begin with # are not in force. `syncagent check` shows what is wrong; syncagent.toml(5) has all keys.

[postfix]
# The table to publish: TYPE:PATH, as in relay_recipient_maps in main.cf.
map = {map}
{domains}
# While a list may lack somebody, unknown recipients of its domains get 450 ("try again") instead of 550, by this
# table. smtpd_sender_restrictions in main.cf names it: see contrib/docs/doubt.md.
{doubt}
{config_directory}
# Domains for which a source may report that every address is valid:
#catch_all = [{first}]
# Addresses, or whole domains as "@{bare}", that are never published:
#exclude = ["nobody@{bare}"]

[limits]
# If a domain would lose more than this percentage of its recipients, and more than this number, a person must approve.
#removed_percent = 10
#removed_floor = 5
# How long an address must be missing before it is removed.
#removal_grace = "1h"
# Addresses that the sources always list: if one is missing, a source is wrong, and nothing is removed.
#canaries = ["postmaster@{bare}"]

[schedule]
#every = "5m"

[state]
#directory = "/var/lib/syncagent/state"

# Where the addresses come from: at least one source, under a name of your choice.

[sources.extra]
type = "file"
path = "recipients"         # beside this file: one address a line

#[sources.corp]
#type = "ldap"
#preset = "active-directory" # or openldap, freeipa, zimbra
#url = "ldaps://ldap.example.com"
#base = "dc=example,dc=com"
#bind_dn = "cn=syncagent,ou=services,dc=example,dc=com"
#password_file = "corp"      # /etc/syncagent/credentials/corp, readable by its owner alone

#[sources.primary]
#type = "http"
#recipe = "mailcow"          # contrib/docs/sources-http.md lists the others
#url = "https://mail.example.com"
#token_file = "primary"      # /etc/syncagent/credentials/primary
"""
_UNKNOWN = """\
# REPLACE THIS: the domains that this host relays for are not known. Recipients are published for these domains, the
# same as relay_domains in main.cf; their subdomains are in scope as well."""
_KNOWN = "# Recipients are published for these, as in relay_domains in main.cf; their subdomains are in scope as well."
_NO_RECIPIENTS = "# The valid recipients, one address a line. syncagent reads this file; it never writes it.\n"


class InitError(SyncagentError):
    """A file of the first configuration exists already or cannot be written; init created no file."""

    exit_code = ExitCode.CANNOT_PUBLISH


@dataclass(slots=True)
class Start:
    """The choices for a first configuration: its path, the settings of main.cf, and the map and domains to write."""

    file: Path
    main: MainConf
    map: MapName
    domains: tuple[Domain, ...]

    @property
    def doubt(self) -> MapName:
        """Name of the doubt table, which is always lmdb: beside the map, whose directory is writable in any case."""
        name = "doubt" if self.map.path.name != "doubt" else "doubt-table"
        return MapName.parse(f"lmdb:{self.map.path.parent}/{name}".replace("//", "/"))

    @property
    def can_doubt(self) -> bool:
        """True if this Postfix has lmdb tables, as far as is known."""
        return not self.main.types or "lmdb" in self.main.types

    @property
    def recipients(self) -> Path:
        """Path of the recipient list, the only source of a first configuration; it is beside the configuration."""
        return self.file.with_name(_RECIPIENTS)


def look(file: Path, config_directory: Path | None) -> Start:
    """Return the choices that the settings of main.cf suggest.

    The map is the first table of relay_recipient_maps that syncagent can publish. If there is none, it is a new table
    in /var/lib/syncagent, of the first type in ``_TYPES`` that this Postfix supports.
    Raises InitError if the configuration or the recipient list exists already.
    """
    for path in (file, file.with_name(_RECIPIENTS)):
        if os.path.lexists(path):
            raise InitError(f"{path} exists already, and init overwrites nothing: move it, or name another by --config")
    main = MainConf.read(config_directory)
    usable = [spelled for spelled in main.maps if _parsed(spelled)]
    kind = next((name for name in _TYPES if name in main.types), _TYPES[0])
    return Start(file, main, MapName.parse(usable[0] if usable else f"{kind}:{_PLACE}"), main.domains)


def ask(start: Start) -> None:
    """Prompt on the terminal for map and domains and store the answers in ``start``, whose values are the defaults.

    Raises click.Abort at end of input.
    """
    start.map = click.prompt("Table for relay_recipient_maps, TYPE:PATH", start.map.spelled, value_proc=read_map)
    start.domains = click.prompt(
        "Domains that this host is a backup MX for",
        " ".join(start.domains) or None,
        value_proc=lambda answer: read_domains(answer.replace(",", " ").split()),
    )


def read_map(value: str) -> MapName:
    """Return the parsed map name. Raises click.BadParameter if it is not TYPE:PATH of a table that can be published."""
    try:
        return MapName.parse(value)
    except ValueError as error:
        raise click.BadParameter(str(error)) from None


def read_domains(values: Sequence[str]) -> tuple[Domain, ...]:
    """Return the parsed domains without duplicates.

    Raises click.BadParameter if a value is not a domain, or if there are no values.
    """
    try:
        return tuple(dict.fromkeys(Domain.parse(value) for value in values or ("",)))
    except ValueError as error:
        raise click.BadParameter(str(error)) from None


def _parsed(spelled: str) -> MapName | None:
    try:
        return MapName.parse(spelled)
    except ValueError:
        return None


def write(start: Start) -> Iterator[str]:
    """Write the two files and the doubt table, then yield the lines to show: paths, notes, the commands to type next.

    Run by root, the process may become the owner of the table's directory. Raises InitError if a file exists already or
    cannot be written. Nothing is written before the first line is requested.
    """
    _create({start.recipients: _NO_RECIPIENTS, start.file: configuration(start)})
    yield f"wrote {start.file}"
    yield f"wrote {start.recipients}"
    if start.can_doubt and init_table.make(start.file, start.doubt):
        yield f"made {start.doubt}: until the first sync, unknown recipients of every relay domain are in doubt"
    for note in (*start.main.notes, *_doubts(start)):
        yield f"note: {note}"
    yield "To be done next; none of it has been done:"
    yield from (f"  {line}" for line in _next(start))


def configuration(start: Start) -> str:
    """Return the text of the configuration file. If there are no domains, it has a placeholder to replace."""
    first = start.domains[0] if start.domains else _PLACEHOLDER
    spelled = [_toml(domain) for domain in start.domains or (_PLACEHOLDER,)]
    listed = ", ".join(spelled) if len(spelled) <= _FEW else "\n    " + ",\n    ".join(spelled) + ",\n"
    directory = str(start.main.directory)
    usual = "" if directory != "/etc/postfix" else "#"
    version = start.main.version
    return _TEXT.format(
        origin=f" from what Postfix {version} reports" if version else ", without a Postfix to ask",
        map=_toml(start.map.spelled),
        doubt=f"{'' if start.can_doubt else '#'}doubt_map = {_toml(start.doubt.spelled)}",
        domains=f"{_KNOWN if start.domains else _UNKNOWN}\nrelay_domains = [{listed}]",
        config_directory=f"# Where main.cf is:\n{usual}config_directory = {_toml(directory)}",
        first=_toml(first),
        bare=first,
    )


def _toml(value: str) -> str:
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


def _create(files: dict[Path, str]) -> None:
    """Create all files, or none, and their missing directories.

    Raises InitError if a file exists already or cannot be written. The files created so far are then removed;
    directories stay.
    """
    created: list[Path] = []
    try:
        for path, content in files.items():
            _make_directory(path.parent)
            _create_whole(path, content)
            created.append(path)
    except BaseException as error:
        for path in created:
            path.unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise InitError(f"{path} cannot be written: {error.strerror}") from error
        raise


def _make_directory(directory: Path) -> None:
    for missing in [place for place in (directory, *directory.parents) if not place.exists()][::-1]:
        missing.mkdir()
        descriptor = os.open(missing, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            os.fchmod(descriptor, 0o755)  # by descriptor: the parent's owner may replace the name
        finally:
            os.close(descriptor)


def _create_whole(path: Path, content: str) -> None:
    """Create a file with mode 0644, since root may write it and the agent must read it.

    Raises FileExistsError if the file exists, or another OSError.
    """
    number, name = tempfile.mkstemp(prefix=".syncagent-init-", dir=path.parent)
    try:
        with os.fdopen(number, "w", encoding="utf-8") as file:
            file.write(content)
            os.fchmod(file.fileno(), 0o644)
        os.link(name, path)  # unlike rename(2), link(2) never replaces a file
    finally:
        Path(name).unlink()


def _doubts(start: Start) -> Iterator[str]:
    """Yield notes on choices that cannot work or are probably unintended."""
    if not start.domains:
        yield f"relay_domains is not known: {_PLACEHOLDER} is there as a placeholder, and nothing is published for it"
    types, kind = start.main.types, start.map.type
    if types and kind not in types:
        package = f"apt-get install postfix-{kind}, or " if kind in ("lmdb", "cdb") else ""
        yield f"this Postfix has no {kind} tables: {package}choose another type"
    elif types and "lmdb" not in types and not start.main.maps:
        yield f"no lmdb tables here, which are better: apt-get install postfix-lmdb and run init again, or keep {kind}"
    yield from _obstacles_to_doubt(start)
    if start.map.path.parent == start.main.directory:
        yield f"{start.map.path.parent} belongs to root: only root can write there; {kind}:{_PLACE} is better"
    yield from _other_maps(start)
    uncovered = [domain for domain in start.main.domains if not normalise.within(domain, frozenset(start.domains))]
    if uncovered:
        text = "in relay_domains in main.cf, but not in the configuration: all their mail would be refused"
        yield f"{', '.join(uncovered)}: {text}"


def _obstacles_to_doubt(start: Start) -> Iterator[str]:
    """Yield notes on why smtpd cannot ask the doubt table."""
    if not start.can_doubt:
        remedy = f"apt-get install postfix-lmdb, then remove # before doubt_map in {start.file}"
        yield f"no lmdb tables here: unknown recipients get 550 even in doubt: {remedy}"
    elif _unlistable(start.map):
        yield f"{start.map.path}: a list of main.cf cannot name it, for its white space or comma: choose another path"
    elif not start.main.delays_reject:
        yield f"smtpd_delay_reject is no: 450 in doubt needs {_postconf(start, 'smtpd_delay_reject', 'yes')}"


def _other_maps(start: Start) -> Iterator[str]:
    others = [spelled for spelled in start.main.maps if _parsed(spelled) != _parsed(start.map.spelled)]
    if not others:
        return
    named = ", ".join(others)
    if start.map.spelled not in start.main.maps:
        yield f"relay_recipient_maps is {named} now: make its recipients a source, or postconf below excludes them"
    else:
        remedy = _postconf(start, "relay_recipient_maps", start.map.spelled)
        yield f"relay_recipient_maps also has {named}, whose recipients stay valid. Once a source has them: {remedy}"


def _next(start: Start) -> Iterator[str]:
    """Yield the commands to type next. Steps that are not commands are shell comments."""
    create = create_main_cf(start.main.directory)
    if create:
        yield create
    if not start.domains:
        yield f"# in {start.file}, replace {_PLACEHOLDER}, which is only an example, by your domains"
    yield f"# add the valid addresses to {start.recipients}, or other sources to {start.file}"
    if not start.map.path.parent.exists():
        owner = ["-o", AGENT, "-g", AGENT] if has_agent() else []
        yield shlex.join(["install", "-d", *owner, "-m", "0755", str(start.map.path.parent)])
    yield command(start.file, "check")
    yield command(start.file, "sync")
    commands = list(_commands(start))
    if commands:
        there = f" and {start.doubt.path}.lmdb is there, which sync makes first" if start.can_doubt else ""
        yield f"# once the table is published{there}:"
        yield from commands
        yield shlex.join(["postfix", *_at(start), "start" if create else "reload"])
    switch = ", and the switch that answers 450 should it stop" if start.can_doubt else ""
    yield f"# then start the agent{switch}: contrib/docs/operations.md"


def _commands(start: Start) -> Iterator[str]:
    """Yield the postconf commands.

    relay_recipient_maps precedes relay_domains: in between, a new relay domain would otherwise accept every recipient.
    """
    if start.map.spelled not in start.main.maps:
        if not start.can_doubt:
            code = _postconf(start, "unknown_relay_recipient_reject_code", "450")
            yield f"{code}  # for the first week: senders to missing recipients retry"
        yield _postconf(start, "relay_recipient_maps", start.map.spelled)
    yield from _sender_restrictions(start)
    if not start.domains and not start.main.spelled:
        yield f"# {_postconf(start, 'relay_domains', 'YOUR DOMAINS')}"
    forms = [form for domain in start.domains for form in dict.fromkeys((domain, normalise.u_labels(domain)))]
    missing = [form for form in forms if not normalise.within(form, start.main.listed)]
    if missing:
        before = [start.main.spelled.rstrip(", ")] if start.main.spelled else []
        yield _postconf(start, "relay_domains", ", ".join([*before, *missing]))


def _sender_restrictions(start: Start) -> Iterator[str]:
    """Yield the postconf command by which smtpd asks the doubt table, unless main.cf has that already."""
    before = start.main.sender_restrictions
    if start.can_doubt and not _unlistable(start.map):
        after = doubt_lines.with_doubt(before, start.map, start.doubt)
        if after != before:
            yield _postconf(start, SENDER, after)


def _unlistable(name: MapName) -> bool:
    """True if a list of main.cf cannot have the name, since its path has white space or a comma."""
    return bool(re.search(r"[\s,]", str(name.path)))


def _postconf(start: Start, name: str, value: str) -> str:
    return shlex.join(["postconf", *_at(start), "-e", f"{name} = {value}"])


def _at(start: Start) -> list[str]:
    directory = str(start.main.directory)
    return [] if directory == "/etc/postfix" else ["-c", directory]
