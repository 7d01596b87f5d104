"""Run Postfix's programs: in the C locale, with a time limit, and after a look at the files that they open first."""

from __future__ import annotations

import enum
import os
import re
import shlex
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from syncagent.errors import SyncagentError
from syncagent.files import atomic as files

if TYPE_CHECKING:
    from collections.abc import Iterable

TIMEOUT = 60.0
"""Seconds that a program may take, where the caller sets no other limit."""
DEFAULT_DIRECTORY = Path("/etc/postfix")
DEBIAN_MAIN_CF = Path("/usr/share/postfix/main.cf.debian")
_SBIN = "/usr/sbin:/sbin:/usr/local/sbin"
_LAST_LINES = 3
_MOST_OF_STDERR = 1000


class Cause(enum.Enum):
    """Why a program failed."""

    NOT_INSTALLED = enum.auto()
    TIMEOUT = enum.auto()
    FILE_MISSING = enum.auto()
    UNKNOWN_TYPE = enum.auto()
    """The table type is not compiled in, and no package that adds it is installed."""
    PERMISSION = enum.auto()
    OTHER = enum.auto()


_CAUSES = (
    (re.compile(r"fatal: open (?:database )?/.*: No such file or directory"), Cause.FILE_MISSING),
    (re.compile(r"unsupported dictionary type"), Cause.UNKNOWN_TYPE),
    (re.compile(r"Permission denied"), Cause.PERMISSION),
)
"""Postfix's programs report the cause in stderr only: their exit status is 1 for all of them."""


class CommandError(SyncagentError):
    """A program of Postfix is not installed, could not be started, ran out of time, or failed."""

    def __init__(self, text: str, cause: Cause = Cause.OTHER) -> None:
        """``text`` is the message for people."""
        self.cause = cause
        super().__init__(text)


@dataclass(frozen=True, slots=True)
class Completed:
    """A program that has ended: its exit status and what it printed."""

    program: str
    status: int
    stdout: str
    stderr: str

    def error(self) -> CommandError:
        """Return the failure: the last lines of stderr, or the exit status where there are none."""
        lines = [line for line in self.stderr.splitlines() if line.strip()]
        text = "; ".join(lines[-_LAST_LINES:])[-_MOST_OF_STDERR:]
        cause = next((cause for pattern, cause in _CAUSES if pattern.search(self.stderr)), Cause.OTHER)
        return CommandError(text or f"{self.program} failed with exit status {self.status}", cause)


def configuration_files(directory: Path) -> tuple[Path, ...]:
    """Return the files that Postfix's programs read first."""
    return directory / "main.cf", directory / "master.cf"


def tool(name: str) -> Path | None:
    """Return the path of a Postfix program: from PATH, else from the sbin directories; None if not installed."""
    path = shutil.which(name) or shutil.which(name, path=_SBIN)
    return Path(path) if path else None


def irregular_file(paths: Iterable[Path]) -> str:
    """Return the message for the first path that is a FIFO or the like, which would block a program; else ``""``."""
    try:
        for path in paths:
            files.check_regular(path)
    except files.UnfitFileError as error:
        return str(error)
    except OSError:  # the program reports it itself
        return ""
    return ""


def command(program: str, *args: str, directory: Path | None) -> list[str]:
    """Return the command line of a program; ``directory`` is main.cf's, None the built-in one.

    Raises CommandError where the program is not installed.
    """
    path = tool(program)
    if path is None:
        raise CommandError(f"{program} is not installed", Cause.NOT_INSTALLED)
    return [str(path), *(["-c", str(directory.absolute())] if directory else []), *args]


def run(
    program: str, *args: str, directory: Path | None, stdin: bytes | None = None, timeout: float = TIMEOUT
) -> Completed:
    """Run a program of Postfix to its end, whatever its exit status. Raises CommandError where it cannot be run.

    It starts no program that would block on a main.cf or master.cf that is not a regular file.
    """
    line = command(program, *args, directory=directory)
    if directory and (text := irregular_file(configuration_files(directory))):
        raise CommandError(text)
    try:
        done = subprocess.run(
            line,
            input=b"" if stdin is None else stdin,
            capture_output=True,
            timeout=timeout,
            check=False,
            env={**os.environ, "LC_ALL": "C"},
        )
    except subprocess.TimeoutExpired:
        raise CommandError(f"{program} did not end within {timeout:g}s", Cause.TIMEOUT) from None
    except OSError as error:
        raise CommandError(f"{program} could not be run: {error}") from error
    stdout, stderr = (output.decode(errors="backslashreplace") for output in (done.stdout, done.stderr))
    return Completed(program, done.returncode, stdout, stderr)


def output(program: str, *args: str, directory: Path | None) -> str:
    """Run a program of Postfix and return its stdout. Raises CommandError unless it succeeds."""
    done = run(program, *args, directory=directory)
    if done.status:
        raise done.error()
    return done.stdout


def parameters(stdout: str) -> dict[str, str]:
    """Parse the ``name = value`` lines of postconf(1)."""
    pairs = (line.partition("=") for line in stdout.splitlines())
    return {name.strip(): value.strip() for name, _, value in pairs}


def shell(directory: Path, program: str, *args: str) -> str:
    """Return a command line to type: quoted, with ``-c`` only where main.cf is not in /etc/postfix."""
    option = [] if directory.absolute() == DEFAULT_DIRECTORY else ["-c", str(directory.absolute())]
    return shlex.join([program, *option, *args])


def create_main_cf(directory: Path) -> str:
    """Return the shell command that puts Debian's main.cf where a Postfix has none; "" where there is no need of it.

    Debian's package makes no main.cf if "No configuration" was chosen: a master.cf is there, and nothing starts.
    """
    main_cf = directory / "main.cf"
    if os.path.lexists(main_cf) or not (directory / "master.cf").exists() or not DEBIAN_MAIN_CF.exists():
        return ""
    return f"cp --no-clobber {DEBIAN_MAIN_CF} {shlex.quote(str(main_cf))}"
