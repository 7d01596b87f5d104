"""Real postmap(1) and postconf(1) on a configuration directory of the test's own; needs no root."""

import os
import shutil
import subprocess
import time
from pathlib import Path

from tests.support.programs import PATIENCE, ProgramError, find_program

# That of a Postfix set up in the last years.
COMPATIBILITY_LEVEL = "3.6"


def minimal_config(directory: Path, **parameters: str) -> Path:
    """Make a Postfix configuration directory that is enough for `postmap -c DIRECTORY`; give it back.

    Types of map that are loaded at run time are found through the system's own dynamicmaps.cf: Postfix
    ignores one that is not root's. Without a compatibility level SMTPUTF8 is off, and with it the folding
    of keys that are not ASCII.
    """
    directory.mkdir(mode=0o755, parents=True, exist_ok=True)
    directory = directory.resolve()
    write_parameters(directory, {"compatibility_level": COMPATIBILITY_LEVEL, **parameters})
    return directory


def write_parameters(directory: Path, parameters: dict[str, str]) -> None:
    """Write main.cf: these parameters and nothing else."""
    lines = [f"{name} = {value}".rstrip() + "\n" for name, value in parameters.items()]
    main_cf = directory / "main.cf"
    main_cf.write_text("".join(lines), encoding="utf-8")
    main_cf.chmod(0o644)
    settle(main_cf)


def settle(path: Path) -> None:
    """Date a finished file back: Postfix waits until main.cf or a texthash map is two seconds old."""
    before = time.time() - 10
    os.utime(path, (before, before))


def copy_from_system(directory: Path, *names: str) -> None:
    """Copy parts of the system's meta directory, as far as there are any."""
    system = Path(run_postfix("postconf", "-d", "-h", "meta_directory").decode().strip())
    for name in names:
        source, target = system / name, directory / name
        if source.is_dir():
            shutil.copytree(source, target, dirs_exist_ok=True)
        elif source.exists():
            shutil.copyfile(source, target)


def available_map_types(config_dir: Path) -> set[str]:
    """Give the types of map that this Postfix says it knows (`postconf -m`)."""
    return set(run_postfix("postconf", "-c", config_dir, "-m").decode().split())


def postmap_build(config_dir: Path, map_name: str) -> None:
    """Index the text of a map in place: `postmap TYPE:PATH`."""
    run_postfix("postmap", "-c", config_dir, map_name)


def postmap_query(config_dir: Path, map_name: str, key: bytes) -> bytes | None:
    """Ask a map for one key, folded as Postfix folds it; None where the map has no such key."""
    done = _run("postmap", "-c", config_dir, "-q", key, map_name)
    if done.returncode == 0:
        return done.stdout.removesuffix(b"\n")
    if done.returncode == 1 and not done.stdout and not any(w in done.stderr for w in (b"fatal:", b"error:")):
        return None
    raise ProgramError(_told(done))


def postmap_keys(config_dir: Path, map_name: str) -> list[bytes]:
    """List the keys of a map in the map's own order; cdb cannot be listed.

    A key may have a tab in it, a value (`OK` in our maps) may not.
    """
    listing = run_postfix("postmap", "-c", config_dir, "-s", map_name)
    return [line.rpartition(b"\t")[0] for line in listing.split(b"\n")[:-1]]


def run_postfix(name: str, *args: str | bytes | Path) -> bytes:
    """Run one of Postfix's own programs and give what it prints; an exit code other than 0 is an error."""
    done = _run(name, *args)
    if done.returncode != 0:
        raise ProgramError(_told(done))
    return done.stdout


def _run(name: str, *args: str | bytes | Path) -> subprocess.CompletedProcess[bytes]:
    """Run one of Postfix's own programs, whatever comes of it."""
    program = find_program(name)
    if program is None:
        raise ProgramError(f"{name} is not here")
    command = [program, *args]
    return subprocess.run(command, check=False, stdin=subprocess.DEVNULL, capture_output=True, timeout=PATIENCE)


def _told(done: subprocess.CompletedProcess[bytes]) -> str:
    """Say what was run, how it ended and what it printed on stderr."""
    return f"{done.args} exited {done.returncode}: {done.stderr.decode('utf-8', 'backslashreplace').strip()}"


def broken_postmap(directory: Path) -> Path:
    """Return a directory with a postmap that makes no table."""
    program = directory / "broken" / "postmap"
    program.parent.mkdir()
    program.write_text("#!/bin/sh\necho 'postmap: fatal: no space left on device' >&2\nexit 1\n", encoding="utf-8")
    program.chmod(0o755)
    return program.parent
