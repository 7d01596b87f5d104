"""The README's commands and examples are run, as it gives them."""

import os
import re
import shutil
import subprocess
import time
from pathlib import Path

import pytest

from syncagent import sources
from syncagent.cli.main import command
from syncagent.config import load as config
from syncagent.config import tables
from syncagent.errors import ExitCode
from syncagent.sources.http.recipe import validate as judge
from tests.support.need import need_postfix
from tests.support.postfix import PrivatePostfix
from tests.support.programs import find_program
from tests.support.run import syncagent

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


def _blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)


def test_it_opens_with_the_two_commands() -> None:
    """Whoever opens the README sees what it is, then `make demo` and `make test`, and the Makefile has both."""
    first = _blocks("sh")[0].splitlines()
    assert [line.split("#")[0].strip() for line in first] == ["make demo", "make test"]
    assert README.index("make demo") < 700
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    assert re.search(r"^demo:", makefile, re.MULTILINE)
    assert re.search(r"^test:", makefile, re.MULTILINE)


def test_make_demo(tmp_path: Path) -> None:
    """`make demo` syncs the sample list and answers for a known and an unknown recipient, saying by which map."""
    if not (ROOT / ".venv" / "ready").exists():
        pytest.skip("needs the virtual environment of this checkout, which `make` makes")
    copy = tmp_path / "checkout"
    shutil.copytree(ROOT, copy, symlinks=True, ignore=shutil.ignore_patterns(".git", ".venv", ".demo", ".*_cache"))
    (copy / ".venv").symlink_to(ROOT / ".venv")
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "MFLAGS"))}
    done = subprocess.run(
        ["make", "--old-file=.venv/ready", "demo"],
        cwd=copy,
        env=environment,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "with 250" in done.stdout
    assert "with 550" in done.stdout
    assert " unchanged, " in done.stdout
    assert re.search(r"The map is (lmdb|hash|btree|cdb|texthash):", done.stdout)


def test_from_nothing_to_postfix_answering(tmp_path: Path) -> None:
    """The first configuration of the README, on a Postfix that has not heard of it: at its end smtpd answers by it."""
    need_postfix("lmdb")
    with PrivatePostfix(["example.net"]) as postfix:
        places = {
            "/etc/syncagent": str(tmp_path / "etc"),
            "/var/lib/syncagent": str(postfix.directory / "var"),
            "runuser -u syncagent -- syncagent": "syncagent --config " + str(tmp_path / "etc" / "syncagent.toml"),
        }
        (tmp_path / "etc").mkdir()
        Path(places["/var/lib/syncagent"]).mkdir(mode=0o755)
        example = _placed(_blocks("toml")[0], places).replace(
            "[postfix]", f'[postfix]\nconfig_directory = "{postfix.config_directory}"'
        )
        example += f'\n[state]\ndirectory = "{places["/var/lib/syncagent"]}/state"\n'
        (tmp_path / "etc" / "syncagent.toml").write_text(example)
        addresses = ["postmaster@example.com", "postmaster@example.org", "Info@Example.ORG"]
        (tmp_path / "etc" / "recipients").write_text("\n".join(addresses) + "\n")
        said = [_run(line, places, postfix) for line in _blocks("sh")[3].splitlines()]
        assert said[-1] == "OK\n", "the last command asks the map"
        assert postfix.verdict("info@example.org").code == 250
        assert postfix.verdict("nobody@example.org").code == 450
        postfix.set(unknown_relay_recipient_reject_code=None)
        postfix.reload()
        assert postfix.verdict("nobody@example.org").code == 550


def _placed(text: str, places: dict[str, str]) -> str:
    for there, here in places.items():
        text = text.replace(there, here)
    return text


def _run(line: str, places: dict[str, str], postfix: PrivatePostfix) -> str:
    """Run a line of the README, its places and its Postfix being the test's own."""
    if line.startswith("runuser"):
        args = _placed(line, places).split()[1:]
        return syncagent(*args, *(["--offline"] if args[-1] == "check" else []), check=0).stdout
    if line == "postfix reload":
        postfix.reload()
        return ""
    program, rest = line.split(maxsplit=1)
    assert program in {"postconf", "postmap"}, f"the README has a command that no test runs: {line}"
    words = ["sh", "-c", f"{find_program(program)} -c {postfix.config_directory} {_placed(rest, places)}"]
    done = subprocess.run(words, capture_output=True, text=True, timeout=30, check=True)
    if program == "postconf":
        main_cf = postfix.config_directory / "main.cf"
        os.utime(main_cf, (time.time() - 10, time.time() - 10))
    return done.stdout


CONFIGURATIONS = [block for block in _blocks("toml") if not block.startswith("title =")]


@pytest.mark.parametrize("number", range(len(CONFIGURATIONS)))
def test_every_configuration_shown_is_right(number: int, tmp_path: Path) -> None:
    """Every TOML block is a configuration, or the rest of one, that loads."""
    text = CONFIGURATIONS[number]
    if "[postfix]" not in text:
        text = '[postfix]\nmap = "lmdb:/m"\nrelay_domains = ["example.com", "example.org"]\n' + text
    if "[sources." not in text:
        text += '[sources.x]\ntype = "file"\npath = "x"\n'
    file = tmp_path / "syncagent.toml"
    file.write_text(text)
    config.load(file)


def test_the_recipe_shown_passes_the_fixture_shown(tmp_path: Path) -> None:
    """The worked example of a recipe does what is said of it, by the command that the README gives."""
    (recipe,) = (block for block in _blocks("toml") if block.startswith("title ="))
    (tmp_path / "wildduck.toml").write_text(recipe)
    (tmp_path / "wildduck.json").write_text(next(block for block in _blocks("json") if "answers" in block))
    (words,) = (block.split()[1:] for block in _blocks("sh") if block.startswith("syncagent recipe"))
    done = syncagent(*(word.replace("./", f"{tmp_path}/") for word in words), check=0)
    assert "@example.org" in done.stdout


def test_every_shipped_recipe_has_its_row() -> None:
    """The README says of each recipe who we are to it, and what it was checked against."""
    for name in judge.names():
        assert re.search(rf"^\| `{name}` \| .*(?:token_file|password_file).* \| .+ \|$", README, re.MULTILINE), name


def test_the_end_line_as_the_readme_makes_it_is_believed(tmp_path: Path) -> None:
    """The shell lines that end a list with its count and digest make one that `require_end` takes."""
    (tmp_path / "list").write_text("# ours\na@example.com\nb@example.com\n")
    script = next(block for block in _blocks("sh") if "sha256sum" in block)
    subprocess.run(["sh", "-ec", script], cwd=tmp_path, check=True, timeout=30)
    file = tmp_path / "syncagent.toml"
    file.write_text(
        f'[postfix]\nmap = "lmdb:{tmp_path}/m"\nrelay_domains = ["example.com"]\nconfig_directory = "{tmp_path}"\n'
        '[state]\ndirectory = "state"\n'
        '[sources.x]\ntype = "file"\npath = "recipients"\nrequire_end = true\n'
    )
    assert " 2 " in syncagent("check", "--offline", config=file, check=0).stdout


def test_verbs_and_exit_statuses_are_those_of_the_program() -> None:
    """Every verb is in the README's table, every `syncagent VERB` in the README exists, every exit status is told."""
    told = set(re.findall(r"`syncagent (?:--config FILE )?([a-z]+)\b", README))
    assert told - {"sources"} <= set(command.commands), "the README names a verb that is not there"
    assert set(command.commands) <= told, "a verb is missing from the README"
    table = README[README.index("| status | meaning") :]
    for code in ExitCode:
        assert re.search(rf"\b{int(code)}\b", table), f"exit status {code} is not told"


def test_every_config_key_has_its_row() -> None:
    """A key that the README does not tell of is a key that nobody finds."""
    structs = (tables.Postfix, tables.DomainLimits, tables.Limits, tables.Schedule, tables.State)
    for struct in structs:
        for name in struct.__struct_fields__:
            if (struct, name) != (tables.Limits, "domains"):
                assert f"| `{name}` |" in README or f"`{name}`" in README, f"{struct.__name__}.{name}"
    for kind in ("file", "http", "ldap"):
        for name in sources.load(kind).Config.__struct_fields__:
            assert re.search(rf"^\| `{name}` \|.*\b{kind}\b", README, re.MULTILINE), f"{kind}: {name}"
