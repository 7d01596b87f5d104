"""Run Postfix's programs in the C locale, with a timeout.

With a configuration directory given, main.cf and master.cf are checked first: a FIFO there would block the program.
"""

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
from syncagent.files.pipeline import Process

if TYPE_CHECKING:
    from collections.abc import Iterable

TIMEOUT = 60.0
"""Default timeout of a program, in seconds."""
DEFAULT_DIRECTORY = Path("/etc/postfix")
DEBIAN_MAIN_CF = Path("/usr/share/postfix/main.cf.debian")
_SBIN = "/usr/sbin:/sbin:/usr/local/sbin"
_LAST_LINES = 3
_MOST_OF_STDERR = 1000


class Cause(enum.Enum):
    """The cause of a CommandError."""

    NOT_INSTALLED = enum.auto()
    TIMEOUT = enum.auto()
    FILE_MISSING = enum.auto()
    UNKNOWN_TYPE = enum.auto()
    """Postfix lacks the table type: it is neither compiled in nor added by a package such as postfix-lmdb."""
    PERMISSION = enum.auto()
    OTHER = enum.auto()


_CAUSES = (
    (re.compile(r"fatal: open (?:database )?/.*: No such file or directory"), Cause.FILE_MISSING),
    (re.compile(r"unsupported dictionary type"), Cause.UNKNOWN_TYPE),
    (re.compile(r"Permission denied"), Cause.PERMISSION),
)
"""Patterns of stderr and their causes, first match first. The exit status is 1 for each of these causes."""


class CommandError(SyncagentError):
    """A Postfix program or a lookup failed: not installed, not started, timeout, or an error that it reported."""

    def __init__(self, text: str, cause: Cause = Cause.OTHER) -> None:
        """Set the message and its cause."""
        self.cause = cause
        super().__init__(text)


@dataclass(frozen=True, slots=True)
class Completed:
    """The result of a program: exit status, stdout and stderr."""

    program: str
    status: int
    stdout: str
    stderr: str

    def error(self) -> CommandError:
        """Return the result as an error with the last 3 lines of stderr, or the exit status if stderr is empty."""
        lines = [line for line in self.stderr.splitlines() if line.strip()]
        text = "; ".join(lines[-_LAST_LINES:])[-_MOST_OF_STDERR:]
        cause = next((cause for pattern, cause in _CAUSES if pattern.search(self.stderr)), Cause.OTHER)
        return CommandError(text or f"{self.program} failed with exit status {self.status}", cause)


def configuration_files(directory: Path) -> tuple[Path, ...]:
    """Return the paths of main.cf and master.cf in a directory."""
    return directory / "main.cf", directory / "master.cf"


def tool(name: str) -> Path | None:
    """Return the path of a program, searched in PATH and then in the sbin directories; None if not installed."""
    path = shutil.which(name) or shutil.which(name, path=_SBIN)
    return Path(path) if path else None


def irregular_file(paths: Iterable[Path]) -> str:
    """Return the error message for the first path that exists but is not a regular file; ``""`` if there is none.

    Also returns ``""`` if stat(2) fails on a path.
    """
    try:
        for path in paths:
            files.check_regular(path)
    except files.UnfitFileError as error:
        return str(error)
    except OSError:  # the program reports it itself
        return ""
    return ""


def command(program: str, *args: str, directory: Path | None) -> list[str]:
    """Return the arguments that run a Postfix program.

    ``directory`` contains main.cf; with None the program uses its built-in default. Raises CommandError if the
    program is not installed.
    """
    path = tool(program)
    if path is None:
        raise CommandError(f"{program} is not installed", Cause.NOT_INSTALLED)
    return [str(path), *(["-c", str(directory.absolute())] if directory else []), *args]


def run(
    program: str, *args: str, directory: Path | None, stdin: bytes | None = None, timeout: float = TIMEOUT
) -> Completed:
    """Run a Postfix program and return its result, whatever its exit status. ``timeout`` is in seconds.

    Raises CommandError if the program is not installed, cannot be started or exceeds the timeout, or if main.cf or
    master.cf in ``directory`` is not a regular file.
    """
    line = command(program, *args, directory=directory)
    if directory and (text := irregular_file(configuration_files(directory))):
        raise CommandError(text)
    try:
        done = _completed(line, b"" if stdin is None else stdin, timeout)
    except subprocess.TimeoutExpired:
        raise CommandError(f"{program} did not end within {timeout:g}s", Cause.TIMEOUT) from None
    except OSError as error:
        raise CommandError(f"{program} could not be run: {error}") from error
    stdout, stderr = (output.decode(errors="backslashreplace") for output in (done.stdout, done.stderr))
    return Completed(program, done.returncode, stdout, stderr)


def _completed(line: list[str], stdin: bytes, timeout: float) -> subprocess.CompletedProcess[bytes]:
    """Return the completed process of a command line. Any exception kills it; raises subprocess.TimeoutExpired."""
    pipe = subprocess.PIPE
    with Process(line, stdin=pipe, stdout=pipe, stderr=pipe, env={**os.environ, "LC_ALL": "C"}) as process:
        try:
            stdout, stderr = process.communicate(stdin, timeout)
        except BaseException:
            process.kill()
            raise
    return subprocess.CompletedProcess(line, process.returncode, stdout, stderr)


def output(program: str, *args: str, directory: Path | None) -> str:
    """Run a Postfix program and return its stdout. Raises CommandError as ``run`` does, and if the program fails."""
    done = run(program, *args, directory=directory)
    if done.status:
        raise done.error()
    return done.stdout


def parameters(stdout: str) -> dict[str, str]:
    """Parse the ``name = value`` lines of postconf(1) into a dictionary."""
    pairs = (line.partition("=") for line in stdout.splitlines())
    return {name.strip(): value.strip() for name, _, value in pairs}


def shell(directory: Path, program: str, *args: str) -> str:
    """Return a shell command that runs a Postfix program: quoted, with ``-c`` unless main.cf is in /etc/postfix."""
    option = [] if directory.absolute() == DEFAULT_DIRECTORY else ["-c", str(directory.absolute())]
    return shlex.join([program, *option, *args])


def create_main_cf(directory: Path) -> str:
    """Return the shell command that copies Debian's default main.cf into a directory that lacks one.

    Debian's package creates master.cf but no main.cf if "No configuration" was chosen; Postfix then does not start.
    Returns ``""`` if main.cf exists, or if master.cf or Debian's default does not.
    """
    main_cf = directory / "main.cf"
    if os.path.lexists(main_cf) or not (directory / "master.cf").exists() or not DEBIAN_MAIN_CF.exists():
        return ""
    return f"cp --no-clobber {DEBIAN_MAIN_CF} {shlex.quote(str(main_cf))}"
