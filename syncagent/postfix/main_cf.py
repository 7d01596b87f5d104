"""What main.cf says of relaying, as postconf(1) tells it; where it does not, a note says so, and nothing is raised."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass, field
from pathlib import Path

from syncagent.files import atomic as files
from syncagent.postfix import table_text as mapfile
from syncagent.postfix.commands import of_postfix, tool
from syncagent.values.types import INDEX_SUFFIX, Domain

_SECONDS = 60
_SPACE = ", \t\r\n"
_OWN = "which Postfix delivers itself, by mydestination: left out"


@dataclass(slots=True)
class MainConf:
    """What is known of a Postfix; all of it empty where there is none.

    ``maps`` are the tables of relay_recipient_maps and ``domains`` those of relay_domains that can be listed;
    ``spelled`` is relay_domains as main.cf has it. ``notes`` say, for people, what was not found, or left out.
    """

    directory: Path
    version: str = ""
    types: frozenset[str] = frozenset()
    maps: tuple[str, ...] = ()
    domains: tuple[Domain, ...] = ()
    listed: frozenset[str] = frozenset()
    """The domains of relay_domains as they are spelled there, in lower case: Postfix converts no IDN."""
    spelled: str = ""
    notes: list[str] = field(default_factory=list)

    @classmethod
    def read(cls, directory: Path | None) -> MainConf:
        """Ask postconf about a directory; None is the one that this Postfix was built with."""
        if tool("postconf") is None:
            text = "postconf is not installed here, so that nothing is known of this host's Postfix"
            return cls((directory or Path("/etc/postfix")).absolute(), notes=[text])
        if directory is None:
            built_in = ask("postconf", "-d", "-h", "config_directory")[0].strip()
            directory = Path(built_in or "/etc/postfix")
        found = cls(directory.absolute())
        found._look()
        return found

    def _look(self) -> None:
        names = ("relay_recipient_maps", "relay_domains", "mydestination", "mail_version")
        unfit = unfit_file(*of_postfix(self.directory))
        said, trouble = ("", unfit) if unfit else ask("postconf", "-c", str(self.directory), "-x", *names)
        if not said:
            self.notes.append(f"postconf knows nothing of {self.directory}: {trouble or 'it said nothing'}")
            return
        values = {name: value for name, _, value in (line.partition(" =") for line in said.splitlines())}
        self.maps = tuple(entries(values.get("relay_recipient_maps", "")))
        self.version = values.get("mail_version", "").strip()
        self.spelled = " ".join(ask("postconf", "-c", str(self.directory), "-nh", "relay_domains")[0].split())
        self.types = frozenset(ask("postconf", "-c", str(self.directory), "-m")[0].split())
        own = {str(one) for entry in self._patterns(values.get("mydestination", "")) if (one := _domain(entry))}
        self._take_domains(values.get("relay_domains", ""), own)

    def _take_domains(self, relay_domains: str, own: set[str]) -> None:
        """Take the domains of a list as they come, but those that are this host's own."""
        spelled = list(self._patterns(relay_domains, told=True))
        self.listed = frozenset(entry.lower() for entry in spelled)
        found: dict[Domain, None] = {}
        for entry in spelled:
            domain = _domain(entry)
            if domain is None:
                self.notes.append(f"relay_domains has {entry!r}, which is no domain: left out")
            elif domain in own:
                self.notes.append(f"relay_domains has {entry}, {_OWN}")
            else:
                found[domain] = None
        self.domains = tuple(found)

    def _patterns(self, value: str, *, told: bool = False) -> list[str]:
        """Give what a list such as relay_domains has, its files and tables read; ``told``: note what cannot be."""
        found: list[str] = []
        for entry in entries(value):
            known: list[str] | None = [entry]
            if entry.startswith("!"):
                known = None
            elif entry.startswith("/"):
                known = _patterns_in(Path(entry))
            elif ":" in entry:
                known = self._keys(entry)
            if known is None and told:
                why = "an exception, which is not taken over" if entry[0] == "!" else "which cannot be listed"
                self.notes.append(f"relay_domains has {entry}, {why}: see to its domains by hand")
            found += known or ()
        return found

    def _keys(self, table: str) -> list[str] | None:
        """List a table's keys: by postmap, else from the text beside the index; None where neither can be."""
        table = table.removeprefix("proxy:")
        kind, _, path = table.partition(":")
        if unfit_file(*of_table(table)):
            return None
        said, trouble = ask("postmap", "-c", str(self.directory), "-s", table)
        if not trouble:
            return sorted(line.partition("\t")[0] for line in said.splitlines())
        return _left_sides(Path(path)) if kind == "cdb" else None


def entries(value: str) -> list[str]:
    """Part a list of main.cf at commas and white space, braces kept together."""
    found, start, depth = [], 0, 0
    for at, char in enumerate(value):
        depth += (char == "{") - (char == "}")
        if char in _SPACE and depth <= 0:
            found.append(value[start:at])
            start = at + 1
    return [entry for entry in (*found, value[start:]) if entry]


def _domain(entry: str) -> Domain | None:
    try:
        return Domain.parse(entry)
    except ValueError:
        return None


def _patterns_in(file: Path) -> list[str] | None:
    """Read the patterns of a file that a list names, which may name no further file or table here."""
    try:
        lines = files.read_foreign_text(file, files.MOST_OF_A_LIST).splitlines()
    except (OSError, UnicodeDecodeError):
        return None
    return [entry for line in lines if not line.startswith("#") for entry in entries(line)]


def _left_sides(text: Path) -> list[str] | None:
    try:
        with files.open_foreign(text) as file:
            pairs = [mapfile.split(line) for _, line in mapfile.logical_lines(files.lines_of(file))]
    except OSError:
        return None
    return sorted(pair[0].decode(errors="backslashreplace") for pair in pairs if pair)


def of_table(table: str) -> tuple[Path, ...]:
    """Return the file that Postfix opens for TYPE:PATH; none for what is no file."""
    kind, _, path = table.removeprefix("proxy:").partition(":")
    return (Path(f"{path}{INDEX_SUFFIX.get(kind, '')}"),) if path.startswith("/") else ()


def unfit_file(*several: Path) -> str:
    """Return which of the files that a program would open is a FIFO or the like, for which it would wait; else ""."""
    try:
        for path in several:
            files.check_regular(path)
    except files.UnfitFileError as error:
        return str(error)
    except OSError:  # as the program will say itself
        return ""
    return ""


def ask(program: str, *args: str) -> tuple[str, str]:
    """Run one of Postfix's programs; give what it prints, and why it failed, if it did."""
    try:
        done = subprocess.run(
            [str(tool(program) or program), *args],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=_SECONDS,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return "", str(error)
    if done.returncode == 0:
        return done.stdout.decode(errors="backslashreplace"), ""
    last = done.stderr.decode(errors="backslashreplace").strip().rpartition("\n")[2]
    return "", last or f"{program} ended with {done.returncode}"
