"""A configuration to start with, from what postconf says of this host; nothing that is there is ever overwritten."""

from __future__ import annotations

import json
import os
import shlex
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click

from syncagent import addresses as normalise
from syncagent.errors import ExitCode, SyncagentError
from syncagent.postfix.commands import create_main_cf
from syncagent.postfix.main_cf import MainConf
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
# syncagent's configuration, begun by `syncagent init`{origin}.
# What a line begins with # for is not in force. `syncagent check` says what is wrong, and the manual
# page syncagent.toml(5) what else there is.

[postfix]
# The table that syncagent writes: TYPE:PATH, the same as relay_recipient_maps in main.cf.
map = {map}
{domains}
{config_directory}
# Domains in which a source may say that every address is valid:
#catch_all = [{first}]
# Addresses, or whole domains as "@{bare}", that are never wanted:
#exclude = ["nobody@{bare}"]

[limits]
# A domain that would lose more than this share of its recipients, and more than this many, waits for a person.
#removed_percent = 10
#removed_floor = 5
# How long an address must have been missing before it goes.
#removal_grace = "1h"
# Addresses that the sources always have: if one is missing, the source is wrong, and nothing is removed.
#canaries = ["postmaster@{bare}"]

[schedule]
#every = "5m"

[state]
#directory = "/var/lib/syncagent/state"

# Where the addresses come from; one source at least, under a name of your choice.

[sources.extra]
type = "file"
path = "recipients"         # beside this file: one address a line

#[sources.corp]
#type = "ldap"
#preset = "active-directory" # or openldap, freeipa, zimbra
#url = "ldaps://ldap.example.com"
#base = "dc=example,dc=com"
#bind_dn = "cn=syncagent,ou=services,dc=example,dc=com"
#password_file = "corp"      # /etc/syncagent/credentials/corp, which its owner alone may read

#[sources.primary]
#type = "http"
#recipe = "mailcow"          # contrib/docs/sources-http.md lists the others
#url = "https://mail.example.com"
#token_file = "primary"      # /etc/syncagent/credentials/primary
"""
_UNKNOWN = """\
# REPLACE THIS: which domains this host relays for was not to be found out. Publish recipients for these, the same as
# relay_domains in main.cf; their subdomains are in scope as well."""
_KNOWN = "# Publish recipients for these, the same as relay_domains in main.cf; their subdomains are in scope as well."
_NO_RECIPIENTS = "# The valid recipients, one address a line. syncagent reads this file; it never writes it.\n"


class InitError(SyncagentError):
    """There is a file in the way, or it cannot be written; nothing was."""

    exit_code = ExitCode.CANNOT_PUBLISH


@dataclass(slots=True)
class Start:
    """What is begun with: where the files go, what postconf said, and what was chosen by it, by flags or by answers."""

    file: Path
    main: MainConf
    map: MapName
    domains: tuple[Domain, ...]
    program: str

    @property
    def recipients(self) -> Path:
        """The file of the one source that is in force."""
        return self.file.with_name(_RECIPIENTS)


def look(file: Path, config_directory: Path | None, program: str) -> Start:
    """See what is there, and choose by it. ``program`` is the command to type for another verb.

    Raises InitError where there is something in the way already.
    """
    for path in (file, file.with_name(_RECIPIENTS)):
        if os.path.lexists(path):
            mend = "move it away, or name another place by --config"
            raise InitError(f"{path} is there already, and init overwrites nothing: {mend}")
    main = MainConf.read(config_directory)
    ours = [spelled for spelled in main.maps if _read(spelled)]
    kind = next((one for one in _TYPES if one in main.types), _TYPES[0])
    return Start(file, main, MapName.parse(ours[0] if ours else f"{kind}:{_PLACE}"), main.domains, program)


def ask(start: Start) -> None:
    """Ask whoever sits at the terminal; what was found is what Enter takes."""
    start.map = click.prompt("Table for relay_recipient_maps, TYPE:PATH", start.map.spelled, value_proc=read_map)
    start.domains = click.prompt(
        "Domains that this host is a backup MX for",
        " ".join(start.domains) or None,
        value_proc=lambda said: read_domains(said.replace(",", " ").split()),
    )


def read_map(value: str) -> MapName:
    """Read a map as it is typed. Raises click.BadParameter."""
    try:
        return MapName.parse(value)
    except ValueError as error:
        raise click.BadParameter(str(error)) from None


def read_domains(values: Sequence[str]) -> tuple[Domain, ...]:
    """Read domains as they are typed, at least one. Raises click.BadParameter."""
    try:
        return tuple(dict.fromkeys(Domain.parse(value) for value in values or ("",)))
    except ValueError as error:
        raise click.BadParameter(str(error)) from None


def _read(spelled: str) -> MapName | None:
    try:
        return MapName.parse(spelled)
    except ValueError:
        return None


def write(start: Start) -> Iterator[str]:
    """Write the two files, and give what there is to say, line by line."""
    _create({start.recipients: _NO_RECIPIENTS, start.file: configuration(start)})
    yield f"wrote {start.file}"
    yield f"wrote {start.recipients}"
    for note in (*start.main.notes, *_doubts(start)):
        yield f"note: {note}"
    yield "What is left to do; nothing of it was done:"
    yield from (f"  {line}" for line in _left(start))


def configuration(start: Start) -> str:
    """Give the configuration."""
    first = start.domains[0] if start.domains else _PLACEHOLDER
    spelled = [_toml(domain) for domain in start.domains or (_PLACEHOLDER,)]
    listed = ", ".join(spelled) if len(spelled) <= _FEW else "\n    " + ",\n    ".join(spelled) + ",\n"
    directory = str(start.main.directory)
    usual = "" if directory != "/etc/postfix" else "#"
    version = start.main.version
    return _TEXT.format(
        origin=f" from what Postfix {version} said" if version else ", without a Postfix to ask",
        map=_toml(start.map.spelled),
        domains=f"{_KNOWN if start.domains else _UNKNOWN}\nrelay_domains = [{listed}]",
        config_directory=f"# Where main.cf is:\n{usual}config_directory = {_toml(directory)}",
        first=_toml(first),
        bare=first,
    )


def _toml(value: str) -> str:
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


def _create(files: dict[Path, str]) -> None:
    """Create all of them whole, or none; a directory that is missing is made, for all to read. Raises InitError."""
    made: list[Path] = []
    try:
        for path, content in files.items():
            _make_directory(path.parent)
            _create_whole(path, content)
            made.append(path)
    except BaseException as error:
        for path in made:
            path.unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise InitError(f"{path} cannot be written: {error.strerror}") from error
        raise


def _make_directory(directory: Path) -> None:
    for missing in [one for one in (directory, *directory.parents) if not one.exists()][::-1]:
        missing.mkdir()
        missing.chmod(0o755)


def _create_whole(path: Path, content: str) -> None:
    """Create a file with its content, and for all to read: the agent is another user than root. Raises OSError."""
    number, name = tempfile.mkstemp(prefix=".syncagent-init-", dir=path.parent)
    try:
        with os.fdopen(number, "w", encoding="utf-8") as file:
            file.write(content)
            os.fchmod(file.fileno(), 0o644)
        os.link(name, path)  # unlike a rename it replaces nothing
    finally:
        Path(name).unlink()


def _doubts(start: Start) -> Iterator[str]:
    """Give what may not be as it was meant."""
    if not start.domains:
        yield f"relay_domains is not known: {_PLACEHOLDER} stands in its place, for which nothing is published"
    types, kind = start.main.types, start.map.type
    if types and kind not in types:
        package = f"apt-get install postfix-{kind}, or " if kind in ("lmdb", "cdb") else ""
        yield f"this Postfix has no {kind} tables: {package}take another type"
    elif types and "lmdb" not in types and not start.main.maps:
        yield f"no lmdb tables here, the best there are: apt-get install postfix-lmdb and begin anew, or keep {kind}"
    if start.map.path.parent == start.main.directory:
        yield f"{start.map.path.parent} is root's: syncagent must run as root to write there; better is {kind}:{_PLACE}"
    yield from _other_maps(start)
    uncovered = [domain for domain in start.main.domains if not normalise.within(domain, frozenset(start.domains))]
    if uncovered:
        text = "relay_domains in main.cf has them, but the configuration does not: all their mail would be refused"
        yield f"{', '.join(uncovered)}: {text}"


def _other_maps(start: Start) -> Iterator[str]:
    others = [spelled for spelled in start.main.maps if _read(spelled) != _read(start.map.spelled)]
    if not others:
        return
    named = ", ".join(others)
    if start.map.spelled not in start.main.maps:
        yield f"relay_recipient_maps is {named} now: make what it has a source, or postconf below shuts it out"
    else:
        command = _postconf(start, "relay_recipient_maps", start.map.spelled)
        yield f"relay_recipient_maps also has {named}, whose recipients stay valid. Once a source has them: {command}"


def _left(start: Start) -> Iterator[str]:
    """Give the commands to type, and what to do between them as comments of the shell."""
    if create := create_main_cf(start.main.directory):
        yield create
    if not start.domains:
        yield f"# in {start.file}, your domains for {_PLACEHOLDER}, which is only an example"
    yield f"# in {start.recipients}, the valid addresses; or in {start.file}, where else they are"
    if not start.map.path.parent.exists():
        owner = ["-o", AGENT, "-g", AGENT] if has_agent() else []
        yield shlex.join(["install", "-d", *owner, "-m", "0755", str(start.map.path.parent)])
    yield f"{start.program} check"
    yield f"{start.program} sync"
    commands = list(_commands(start))
    if commands:
        yield "# once that has published the table:"
        yield from commands
        yield shlex.join(["postfix", *_at(start), "reload"])


def _commands(start: Start) -> Iterator[str]:
    """Give the postconf lines; the table before the domains, so that none is open to every recipient meanwhile."""
    if start.map.spelled not in start.main.maps:
        code = _postconf(start, "unknown_relay_recipient_reject_code", "450")
        yield f"{code}  # for the first week: who is missing may try again"
        yield _postconf(start, "relay_recipient_maps", start.map.spelled)
    if not start.domains and not start.main.spelled:
        yield f"# {_postconf(start, 'relay_domains', 'YOUR DOMAINS')}"
    forms = [form for domain in start.domains for form in dict.fromkeys((domain, normalise.u_labels(domain)))]
    missing = [form for form in forms if not normalise.within(form, start.main.listed)]
    if missing:
        before = [start.main.spelled.rstrip(", ")] if start.main.spelled else []
        yield _postconf(start, "relay_domains", ", ".join([*before, *missing]))


def _postconf(start: Start, name: str, value: str) -> str:
    return shlex.join(["postconf", *_at(start), "-e", f"{name} = {value}"])


def _at(start: Start) -> list[str]:
    directory = str(start.main.directory)
    return [] if directory == "/etc/postfix" else ["-c", directory]
