"""Running the real program as its user would."""

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from tests.support import warm
from tests.support.programs import PATIENCE

# What the surroundings of a test run must not tell the program.
_NOT_INHERITED = ("SYNCAGENT_CONFIG", "CREDENTIALS_DIRECTORY", "NOTIFY_SOCKET", "FORCE_COLOR")


def syncagent(
    *args: str | Path,
    config: Path | None = None,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    timeout: float = PATIENCE,
    check: int | None = None,
) -> subprocess.CompletedProcess[str]:
    """Run `syncagent [--config FILE] ARGS…` in a child process and capture what it prints.

    `env` adds to the environment of the test run; `check` is the exit code that the test asserts. The process is forked
    from one that has imported the program's modules, unless the environment changes how Python starts.
    """
    command = [sys.executable, "-m", "syncagent"]
    if config is not None:
        command += ["--config", str(config)]
    command += [str(arg) for arg in args]
    environment = _environment() | dict(env or {})
    try:
        done = (_cold if warm.start_of(environment) is None else _warm)(command, environment, cwd, timeout)
    except subprocess.TimeoutExpired as late:
        raise AssertionError(
            f"{_shown(command)} had not ended after {timeout} s\n{_printed(late.stdout, late.stderr)}"
        ) from None
    if check is not None and done.returncode != check:
        raise AssertionError(
            f"{_shown(command)} exited {done.returncode}, not {check}\n{_printed(done.stdout, done.stderr)}"
        )
    return done


def syncagent_within(memory: int, *args: str | Path, config: Path) -> subprocess.CompletedProcess[str]:
    """Run `syncagent --config FILE ARGS…` with so many octets of address space; what it leaves running is killed."""
    command = [sys.executable, "-m", "syncagent", "--config", str(config), *map(str, args)]
    try:
        return _warm(command, _environment(), None, PATIENCE, memory)
    except subprocess.TimeoutExpired:
        raise AssertionError(f"{_shown(command)} had not ended after {PATIENCE} s") from None


def _environment() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if name not in _NOT_INHERITED}


def _cold(
    command: list[str], env: Mapping[str, str], cwd: Path | None, timeout: float
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command,
        check=False,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        encoding="utf-8",
        errors="backslashreplace",
        timeout=timeout,
        env=env,
        cwd=cwd,
    )


def _warm(
    command: list[str], env: Mapping[str, str], cwd: Path | None, timeout: float, memory: int = 0
) -> subprocess.CompletedProcess[str]:
    start = warm.start_of(env)
    assert start is not None
    ended = warm.warm(start).run(command[3:], env, cwd, timeout, memory)
    stdout, stderr = (
        stream.decode("utf-8", "backslashreplace").replace("\r\n", "\n").replace("\r", "\n")
        for stream in (ended.stdout, ended.stderr)
    )
    return subprocess.CompletedProcess(command, ended.returncode, stdout, stderr)


def _shown(command: list[str]) -> str:
    """Write the command as a person would have typed it."""
    return " ".join(["syncagent", *command[3:]])


def _printed(stdout: str | bytes | None, stderr: str | bytes | None) -> str:
    """Show both streams, which are bytes after a timeout."""
    shown = [
        stream.decode("utf-8", "backslashreplace") if isinstance(stream, bytes) else stream or ""
        for stream in (stdout, stderr)
    ]
    return f"--- stdout\n{shown[0]}\n--- stderr\n{shown[1]}"
