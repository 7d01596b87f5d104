"""The relay settings of main.cf, as postconf(1) prints them.

Reading them raises no error: unreadable files and omitted entries become notes.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass, field
from pathlib import Path

from syncagent.files import atomic as files
from syncagent.postfix import commands, table_text
from syncagent.postfix.commands import CommandError
from syncagent.values.types import INDEX_SUFFIX, Domain, TableName

_SPACE = ", \t\r\n"
_PARAMETERS = ("relay_recipient_maps", "relay_domains", "mydestination", "mail_version", "smtpd_delay_reject")


class NoteKind(enum.Enum):
    """The kind of a note. The value is the message, a template for ``subject`` and ``detail``."""

    NOT_INSTALLED = "postconf is not installed here, so that nothing is known of this host's Postfix"
    POSTCONF_FAILED = "postconf -c {subject} failed: {detail}"
    NOT_A_DOMAIN = "relay_domains has {subject!r}, which is no domain: left out"
    OWN_DOMAIN = "relay_domains has {subject}, which Postfix delivers itself, by mydestination: left out"
    EXCEPTION = "relay_domains has {subject}, an exception, which is not taken over: see to its domains by hand"
    UNLISTABLE = "relay_domains has {subject}, which cannot be listed: see to its domains by hand"


@dataclass(frozen=True, slots=True)
class Note:
    """A message about settings or entries of relay_domains that a MainConf lacks."""

    kind: NoteKind
    subject: str = ""
    detail: str = ""

    def __str__(self) -> str:
        """Return the message."""
        return self.kind.value.format(subject=self.subject, detail=self.detail)


@dataclass(slots=True)
class MainConf:
    """The relay settings of a Postfix. All fields but ``directory`` and ``notes`` are empty if postconf(1) fails.

    ``version`` is mail_version, ``types`` the supported table types, and ``maps`` the entries of
    relay_recipient_maps. ``domains`` are the canonical domains of relay_domains, without those that cannot be listed
    and those in mydestination. ``spelled`` is relay_domains unexpanded, empty if main.cf does not set it.
    """

    directory: Path
    version: str = ""
    types: frozenset[str] = frozenset()
    maps: tuple[str, ...] = ()
    domains: tuple[Domain, ...] = ()
    listed: frozenset[str] = frozenset()
    """The patterns of relay_domains in lower case, IDN not converted: Postfix does not convert it either."""
    spelled: str = ""
    sender_restrictions: str = ""
    """smtpd_sender_restrictions in one line, unexpanded; empty if main.cf does not set it."""
    delays_reject: bool = True
    """True unless smtpd_delay_reject is "no"."""
    notes: list[Note] = field(default_factory=list)

    @classmethod
    def read(cls, directory: Path | None) -> MainConf:
        """Read the settings from main.cf in ``directory``, by default in Postfix's built-in config_directory."""
        if commands.tool("postconf") is None:
            return cls((directory or commands.DEFAULT_DIRECTORY).absolute(), notes=[Note(NoteKind.NOT_INSTALLED)])
        if directory is None:
            built_in = _output(None, "postconf", "-d", "-h", "config_directory").strip()
            directory = Path(built_in or commands.DEFAULT_DIRECTORY)
        settings = cls(directory.absolute())
        settings._read()
        return settings

    def _read(self) -> None:
        try:
            stdout = commands.output("postconf", "-x", *_PARAMETERS, directory=self.directory)
        except CommandError as error:
            self.notes.append(Note(NoteKind.POSTCONF_FAILED, str(self.directory), str(error)))
            return
        values = commands.parameters(stdout)
        self.maps = tuple(entries(values.get("relay_recipient_maps", "")))
        self.version = values.get("mail_version", "")
        self.spelled = self._set("relay_domains")
        self.sender_restrictions = self._set("smtpd_sender_restrictions")
        self.delays_reject = values.get("smtpd_delay_reject") != "no"
        self.types = frozenset(_output(self.directory, "postconf", "-m").split())
        own = {domain for entry in entries(values.get("mydestination", "")) for domain in self._domains_of(entry)}
        self._add_domains(entries(values.get("relay_domains", "")), own)

    def _set(self, name: str) -> str:
        """Return the value that main.cf sets for a parameter, in one line, unexpanded; "" if it sets none."""
        return " ".join(_output(self.directory, "postconf", "-nh", name).split())

    def _domains_of(self, entry: str) -> list[Domain]:
        return [domain for pattern in self._patterns(entry) or () if (domain := _domain(pattern))]

    def _add_domains(self, relay_domains: list[str], own: set[Domain]) -> None:
        """Set ``listed``, and ``domains`` without the domains in ``own``; add a note for each omitted entry."""
        spelled: list[str] = []
        for entry in relay_domains:
            patterns = self._patterns(entry)
            if patterns is None:
                kind = NoteKind.EXCEPTION if entry.startswith("!") else NoteKind.UNLISTABLE
                self.notes.append(Note(kind, entry))
            spelled += patterns or ()
        self.listed = frozenset(pattern.lower() for pattern in spelled)
        domains: dict[Domain, None] = {}
        for pattern in spelled:
            domain = _domain(pattern)
            if domain is None:
                self.notes.append(Note(NoteKind.NOT_A_DOMAIN, pattern))
            elif domain in own:
                self.notes.append(Note(NoteKind.OWN_DOMAIN, pattern))
            else:
                domains[domain] = None
        self.domains = tuple(domains)

    def _patterns(self, entry: str) -> list[str] | None:
        """Return the patterns of a list entry: its file's, its table's keys, or the entry itself.

        Returns None for an exception (``!``), and if the file or table cannot be read.
        """
        if entry.startswith("!"):
            return None
        if entry.startswith("/"):
            try:
                return read_list(entry)
            except (OSError, UnicodeDecodeError):
                return None
        return self._keys(TableName.parse(entry)) if ":" in entry else [entry]

    def _keys(self, table: TableName) -> list[str] | None:
        """Return a table's keys, sorted, by ``postmap -s``; for a cdb that cannot be listed, from its text.

        Returns None if neither works.
        """
        if commands.irregular_file(table_files(table)):
            return None
        try:
            stdout = commands.output("postmap", "-s", str(table), directory=self.directory)
        except CommandError:
            return _left_sides(table.path) if table.type == "cdb" and table.path else None
        return sorted(line.partition("\t")[0] for line in stdout.splitlines())


def entries(value: str) -> list[str]:
    """Split a list of main.cf at commas and white space; text in braces is one entry (postconf(5))."""
    parts, start, depth = [], 0, 0
    for at, char in enumerate(value):
        depth += (char == "{") - (char == "}")
        if char in _SPACE and depth <= 0:
            parts.append(value[start:at])
            start = at + 1
    return [entry for entry in (*parts, value[start:]) if entry]


def read_list(file: str, errors: str = "strict") -> list[str]:
    """Return the patterns of a file that a list of main.cf names, without comments (match_list(3)).

    Raises OSError if the file cannot be read, is not regular, or is larger than 16 MiB. Raises UnicodeDecodeError if
    it is not UTF-8, unless ``errors`` (see bytes.decode) prevents it.
    """
    lines = files.read_foreign_text(file, files.MOST_OF_A_LIST, errors).splitlines()
    return [pattern for line in lines if not line.startswith("#") for pattern in entries(line)]


def table_files(table: TableName) -> tuple[Path, ...]:
    """Return the file that Postfix opens for a table, as a tuple of one; an empty tuple if the table has no path."""
    return (Path(f"{table.path}{INDEX_SUFFIX.get(table.type, '')}"),) if table.path else ()


def _domain(entry: str) -> Domain | None:
    try:
        return Domain.parse(entry)
    except ValueError:
        return None


def _left_sides(text: Path) -> list[str] | None:
    try:
        with files.open_foreign(text) as file:
            pairs = [table_text.split(line) for _, line in table_text.logical_lines(files.lines_of(file))]
    except OSError:
        return None
    return sorted(pair[0].decode(errors="backslashreplace") for pair in pairs if pair)


def _output(directory: Path | None, program: str, *args: str) -> str:
    """Return a program's stdout; ``""`` if it fails."""
    try:
        return commands.output(program, *args, directory=directory)
    except CommandError:
        return ""
