"""Tests of `check`: a backup MX that is all right, what breaks it, and a shell that does as the mends say."""

import json
import re
import shlex
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from tests.support.postfix import PrivatePostfix
from tests.support.postmap import run_postfix, settle
from tests.support.programs import PATIENCE, find_program
from tests.support.run import syncagent

DOMAINS = ("example.com", "example.org")
PEOPLE = ("anna@example.com", "postmaster@example.com", "ben@example.org", "postmaster@example.org")
Findings = list[dict[str, Any]]
KINDS = {"shell": "command", "file": "write", "zone": "record", "person": "text"}
"""The kinds of remedies, and the field that says what to do."""
_SETS = re.compile(r"postconf .*-e '?(\w+) = ?(.*?)'?$", re.MULTILINE)
_SETTING = re.compile(r"in (?P<file>/\S+), \[postfix\]: (?P<key>\w+) = (?P<value>.*)")


@dataclass
class Backup:
    """A backup MX of the test's own, all right: real Postfix, a flat file as its source, the map published."""

    postfix: PrivatePostfix

    @classmethod
    def make(cls, map_type: str = "lmdb", domains: tuple[str, ...] = DOMAINS, **parameters: str) -> Self:
        """Make one that does not run."""
        made = cls(PrivatePostfix(domains, map_type=map_type))
        made.postfix.set(**parameters)
        return made

    def publish(self) -> None:
        """Write the configuration and a list, and sync."""
        self.directory.mkdir(exist_ok=True)
        self.write_list()
        self.file.write_text(
            f"""\
[postfix]
map = "{self.postfix.relay_recipient_maps}"
relay_domains = {json.dumps(DOMAINS)}
config_directory = "{self.postfix.config_directory}"
reload = false

[limits]
removal_grace = "0s"

[state]
directory = "state"

[sources.list]
type = "file"
path = "recipients"
"""
        )
        self.sync()

    @property
    def directory(self) -> Path:
        """Where the configuration is."""
        return self.postfix.directory / "syncagent"

    @property
    def file(self) -> Path:
        """The configuration."""
        return self.directory / "syncagent.toml"

    @property
    def list(self) -> Path:
        """The source."""
        return self.directory / "recipients"

    def write_list(self) -> None:
        """Write the source as it is at first."""
        self.list.write_text("".join(f"{address}\n" for address in PEOPLE))

    def add(self, *addresses: str) -> None:
        """Have the source give more."""
        with self.list.open("a") as file:
            file.writelines(f"{address}\n" for address in addresses)

    def configure(self, key: str, value: object) -> None:
        """Set a key of [postfix]."""
        lines = [line for line in self.file.read_text().splitlines() if not line.startswith(f"{key} =")]
        lines.insert(1, f"{key} = {json.dumps(value)}")
        self.file.write_text("\n".join(lines) + "\n")

    def sync(self) -> None:
        """Publish."""
        done = syncagent("sync", config=self.file)
        assert done.returncode in {0, 65}, done.stderr

    def check(self, *args: str) -> Findings:
        """Run `check`; give what it found."""
        done = syncagent("check", "--json", *args, config=self.file)
        assert done.returncode in {0, 1}, done.stderr
        told: dict[str, Any] = json.loads(done.stdout)
        assert told["exit_code"] == done.returncode == (1 if told["errors"] else 0), done.stderr
        found: Findings = told["findings"]
        assert sum(one["severity"] == "error" for one in found) == told["errors"]
        for one in found:
            steps = [step[KINDS[step["kind"]]] for step in one["remedies"]]
            assert all(step in one["mend"] for step in steps), "a remedy is not in the text"
            assert bool(steps) == bool(one["mend"]), "the text has more than the remedies"
        for name, value in _SETS.findall("\n".join(one["mend"] for one in found)):
            self._assert_mends(name, value)
        return found

    def _assert_mends(self, name: str, value: str) -> None:
        """No mend sets a parameter to what it is already, or empties what would then accept or refuse everybody."""
        line = run_postfix("postconf", "-c", self.postfix.config_directory, "-n", name).decode().strip()
        assert line != f"{name} = {value}", "the mend changes nothing"
        assert value or name not in {"relay_recipient_maps", "relay_domains"}, "the mend empties it"

    def type_in(self, mend: str) -> None:
        """Do as a mend says: lines of the configuration, commands; comments are left to the case."""
        for line in mend.splitlines():
            setting = _SETTING.fullmatch(line)
            if setting:
                assert setting["file"] == str(self.file)
                self.configure(setting["key"], json.loads(setting["value"]))
            elif not line.startswith("#"):
                self._command(line)
        settle(self.postfix.config_directory / "main.cf")

    def _command(self, line: str) -> None:
        program, rest = line.split(maxsplit=1)
        if program == "apt-get":  # what the package brings: the line that is missing from dynamicmaps.cf
            assert rest == "install postfix-lmdb"
            shutil.copyfile("/etc/postfix/dynamicmaps.cf", self.postfix.config_directory / "dynamicmaps.cf")
            return
        found = f"{shlex.quote(sys.executable)} -m syncagent" if program == "syncagent" else find_program(program)
        done = subprocess.run(
            ["sh", "-c", f"{found or program} {rest}"], check=False, capture_output=True, timeout=PATIENCE
        )
        assert done.returncode in {0, 65}, f"{line}: {done.stderr.decode()}"


def problems(found: Findings) -> Findings:
    """Give what is wrong or doubtful."""
    return [one for one in found if one["severity"] in {"error", "warning"}]
