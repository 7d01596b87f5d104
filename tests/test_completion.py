"""Completion in the real shells, by the files that the package installs and a TAB that is really typed."""

import json
import os
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.sources import write_config
from tests.support.need import need_program
from tests.support.programs import PATIENCE
from tests.support.run import syncagent
from tests.support.terminal import Terminal

FILES = Path(__file__).parent.parent / "contrib" / "completion"
READY = "ready: "
CASES = [
    ("syncagent sta", "syncagent status"),
    ("syncagent sync --acc", "syncagent sync --accept-incomplete"),
    ("syncagent run --log-level warn", "syncagent run --log-level warning"),
    ("syncagent recipe test mailc", "syncagent recipe test mailcow"),
    ("syncagent recipe test ./li", "syncagent recipe test ./list"),
    ("syncagent approve ", "syncagent approve {hold}"),
    ("syncagent doubt ex", "syncagent doubt example.com"),
    ("syncagent completion z", "syncagent completion zsh"),
]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with the program, as it is found on PATH, and a configuration with one hold."""
    directory = tmp_path_factory.mktemp("completion")
    program = directory / "bin" / "syncagent"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -m syncagent "$@"\n')
    program.chmod(0o755)
    file = write_config(directory, '[sources.f]\ntype = "file"\npath = "list"\n')
    (directory / "list").write_text("".join(f"a{number}@example.com\n" for number in range(20)))
    syncagent("sync", config=file, check=0)
    (directory / "list").write_text("a0@example.com\n")
    syncagent("sync", config=file, check=65)
    return directory


@pytest.fixture(scope="module")
def hold(place: Path) -> str:
    """The ID of the hold."""
    (standing,) = json.loads(syncagent("status", "--json", config=place / "syncagent.toml").stdout)["holds"]
    return str(standing["id"])


def surroundings(place: Path) -> dict[str, str]:
    """Give an environment in which the program is found, and knows its configuration."""
    path = os.pathsep.join((str(place / "bin"), os.environ.get("PATH", os.defpath)))
    return {"PATH": path, "HOME": str(place), "LC_ALL": "C.UTF-8", "SYNCAGENT_CONFIG": str(place / "syncagent.toml")}


def in_bash(place: Path) -> Terminal:
    """Start a bash that has loaded the file, as bash-completion does at the first TAB."""
    terminal = Terminal(need_program("bash"), "--norc", "--noprofile", "-i", env=surroundings(place))
    terminal.write(f"cd {place}; source {FILES}/syncagent; PS1='{READY[:3]}''{READY[3:]}'\n")
    return terminal


def in_zsh(place: Path) -> Terminal:
    """Start a zsh that looks for completions where the file is."""
    terminal = Terminal(need_program("zsh"), "-f", "-i", env=surroundings(place))
    terminal.write(f"fpath=({FILES} $fpath); autoload -U compinit; compinit -u -D\n")
    terminal.write(f"cd {place}; PS1='{READY[:3]}''{READY[3:]}'\n")
    return terminal


@pytest.mark.parametrize("start", [in_bash, in_zsh])
@pytest.mark.parametrize(("typed", "completed"), CASES)
def test_a_tab(start: Callable[[Path], Terminal], typed: str, completed: str, place: Path, hold: str) -> None:
    """A TAB completes verbs, options, their values, recipes, files, and the IDs of holds."""
    terminal = start(place)
    try:
        terminal.answer(READY, f"{typed}\t")
        wanted = completed.format(hold=hold)
        terminal.until(wanted)
        assert wanted in terminal.said
    finally:
        terminal.end()


@pytest.mark.parametrize(("typed", "completed"), CASES)
def test_in_fish(typed: str, completed: str, place: Path, hold: str) -> None:
    """Fish completes as much."""
    script = f"source {FILES}/syncagent.fish; complete --do-complete {shlex.quote(typed)}"
    command = [need_program("fish"), "--no-config", "-c", script]
    done = subprocess.run(
        command,
        cwd=place,
        env=os.environ | surroundings(place),
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=True,
    )
    words = [line.partition("\t")[0] for line in done.stdout.splitlines()]
    assert completed.format(hold=hold).split()[-1] in words


@pytest.mark.parametrize("words", ["--config {config} approve ", "approve --config {config} "])
def test_the_configuration_of_the_command_line(words: str, place: Path, hold: str) -> None:
    """The holds are those of the configuration that is typed, before the verb or after it."""
    typed = "syncagent " + words.format(config=place / "syncagent.toml")
    env = {"_SYNCAGENT_COMPLETE": "bash_complete", "COMP_WORDS": typed, "COMP_CWORD": "4"}
    assert syncagent(env=env | {"SYNCAGENT_CONFIG": "/nowhere"}).stdout == f"plain,{hold}\n"


@pytest.mark.parametrize("config", ["nowhere.toml", "list"])
def test_nothing_to_complete_is_no_error(config: str, place: Path) -> None:
    """Where the holds cannot be known, a TAB completes nothing, and says nothing."""
    env = {
        "_SYNCAGENT_COMPLETE": "bash_complete",
        "COMP_WORDS": f"syncagent --config {config} approve ",
        "COMP_CWORD": "4",
    }
    done = syncagent(env=env, cwd=place)
    assert (done.stdout.strip(), done.stderr) == ("", "")


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_script_is_one(shell: str) -> None:
    """What the verb prints is a script that the shell itself finds no fault with."""
    script = syncagent("completion", shell, check=0).stdout
    program = need_program(shell)
    done = subprocess.run([program, "-n"], input=script, capture_output=True, text=True, timeout=PATIENCE, check=False)
    assert (done.returncode, done.stderr) == (0, "")
