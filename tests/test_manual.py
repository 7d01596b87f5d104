"""The manual pages: complete, up to date, without a warning of troff, and in the package."""

import re
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import click
import pytest

from syncagent import sources
from syncagent.cli.main import command
from syncagent.config import json_schema as schema
from syncagent.config import load as config
from syncagent.config import tables
from tests.support.need import need_program
from tests.support.programs import PATIENCE
from tests.support.run import syncagent

ROOT = Path(__file__).parent.parent
MAN = ROOT / "contrib" / "man"
PAGES = ["syncagent.8", "syncagent.toml.5"]


@cache
def rendered(page: str) -> str:
    """Return a page as a reader sees it, in one line."""
    done = subprocess.run(
        [need_program("groff"), "-man", "-Tascii", "-P-cbou", str(MAN / page)],
        capture_output=True,
        encoding="ascii",
        timeout=PATIENCE,
        check=True,
    )
    joined = re.sub(r"(?<=\w)-\n +", "", done.stdout)  # words that were parted at the end of a line
    return " ".join(joined.split())


def test_they_are_up_to_date(tmp_path: Path) -> None:
    """The committed pages are those that `make man` makes of the present texts."""
    subprocess.run([sys.executable, MAN / "generate.py", tmp_path], check=True, timeout=PATIENCE, cwd=ROOT)
    for page in PAGES:
        assert (MAN / page).read_text() == (tmp_path / page).read_text(), "type: make man"


@pytest.mark.parametrize("page", PAGES)
@pytest.mark.parametrize(
    "formatter",
    [
        ["groff", "-man", "-ww", "-z"],
        ["mandoc", "-T", "lint", "-W", "warning"],
        ["man", "--warnings", "--local-file"],
    ],
    ids=lambda words: words[0],
)
def test_troff_finds_no_fault(formatter: list[str], page: str) -> None:
    """No formatter warns; the missing date is intended."""
    command = [need_program(formatter[0]), *formatter[1:], str(MAN / page)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, check=False)
    output = done.stderr + (done.stdout if formatter[0] == "mandoc" else "")
    assert [line for line in output.splitlines() if "missing date" not in line] == []


def verbs(group: click.Group, *above: str) -> Iterator[tuple[str, click.Command]]:
    """Yield the name and the command of every verb that is no group."""
    for name, verb in group.commands.items():
        if isinstance(verb, click.Group):
            yield from verbs(verb, *above, name)
        else:
            yield " ".join((*above, name)), verb


@pytest.mark.parametrize(("name", "verb"), list(verbs(command)))
def test_every_verb_and_option_is_there(name: str, verb: click.Command) -> None:
    """Each verb has its section, with its help and each of its options."""
    context = click.Context(verb, info_name=f"syncagent {name}", parent=None)
    usage = " ".join(verb.collect_usage_pieces(context))
    section = rendered("syncagent.8").partition(" VERBS")[2].partition(f" syncagent {name} {usage} ")[2]
    first = (verb.help or "").partition("\n")[0].replace("`", "")
    assert section.startswith(first)
    for option in verb.params:
        if isinstance(option, click.Option):
            for spelled in option.opts:
                assert spelled in section
            assert " ".join((option.help or "").replace("`", "").split()) in section


def test_the_rest_of_the_help_is_there() -> None:
    """So are the exit statuses, files and examples, and the variable that names the configuration."""
    page = rendered("syncagent.8")
    for word in ("EXIT STATUS", "FILES", "EXAMPLES", "ENVIRONMENT SYNCAGENT_CONFIG", "SEE ALSO syncagent.toml(5)"):
        assert word in page
    for row in (command.epilog or "").splitlines():
        if row.startswith("  "):
            assert " ".join(row.replace("`", "").split()) in page


def test_every_key_is_there_with_its_text() -> None:
    """Each key of each table is in its section, and says what its docstring says."""
    page = rendered("syncagent.toml.5")
    described = schema.schema()
    described_tables = [*described["properties"].values(), *described["$defs"].values()]
    keys = {name: node for table in described_tables for name, node in table.get("properties", {}).items()}
    for name, node in keys.items():
        assert f" {name} (" in page
        assert " ".join(node.get("description", "").replace("`", "").split()) in page, name
    for struct in (tables.Postfix, tables.GeneralLimits, tables.Schedule, tables.State, tables.Notify, tables.Metrics):
        assert set(struct.__struct_fields__) <= keys.keys()
    for kind in ("file", "http", "ldap"):
        assert {*sources.Common.__struct_fields__, *sources.load(kind).Config.__struct_fields__} <= keys.keys()
        assert f'[sources.NAME] with type = "{kind}"' in page


def test_the_schema_says_what_each_key_is() -> None:
    """Editors show the same texts: every key of the schema is described, but for limits that say they are the same."""
    described = schema.schema()
    assert {"postfix", "limits", "schedule", "state", "notify", "metrics", "sources"} == described["properties"].keys()
    for table in [*described["properties"].values(), *described["$defs"].values()]:
        for name, node in table.get("properties", {}).items():
            assert node.get("description"), name


def test_the_example_is_a_configuration(tmp_path: Path) -> None:
    """The example in syncagent.toml(5) loads, as the reader copies it from the page."""
    done = subprocess.run(
        [need_program("groff"), "-man", "-Tascii", "-P-cbou", "-rLL=200n", str(MAN / "syncagent.toml.5")],
        capture_output=True,
        encoding="ascii",
        timeout=PATIENCE,
        check=True,
    )
    example = done.stdout.partition("\nEXAMPLE\n")[2].partition("\nFILES\n")[0]
    (tmp_path / "syncagent.toml").write_text(example.partition("begins with.")[2])
    assert config.load(tmp_path / "syncagent.toml").postfix.relay_domains == ("example.com", "example.org")


def test_nothing_in_a_text_is_taken_for_a_request(tmp_path: Path) -> None:
    """Whatever a text begins with or has in it, a reader sees it as it is."""
    sys.path.insert(0, str(MAN))
    try:
        import generate  # type: ignore[import-not-found, unused-ignore]
    finally:
        sys.path.remove(str(MAN))
    odd = [".so /etc/passwd", "'tis \\n(.d \\fB", "a `b-c` ``d`` -- \\", "bücher → x", '"quoted"', "..."]
    page = tmp_path / "odd.8"
    lines = [generate._MADE, '.TH odd 8 "" ""', ".SH NAME"]
    for text in odd:
        lines += [generate._roff(text), ".br"]
    page.write_text("\n".join(lines) + "\n", encoding="ascii")
    done = subprocess.run(
        [need_program("groff"), "-man", "-ww", "-Tutf8", "-P-cbou", str(page)],
        capture_output=True,
        encoding="utf-8",
        timeout=PATIENCE,
        check=True,
    )
    assert done.stderr == ""
    for text in odd:
        assert text.replace("`", "") in done.stdout


def test_the_package_brings_them(tmp_path: Path) -> None:
    """A wheel has pages and completions where a prefix's share/ has them, as they are here."""
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)]
    subprocess.run(build, cwd=ROOT, check=True, capture_output=True, timeout=PATIENCE)
    (wheel,) = tmp_path.glob("*.whl")
    wanted = {
        "man/man8/syncagent.8": MAN / "syncagent.8",
        "man/man5/syncagent.toml.5": MAN / "syncagent.toml.5",
        "bash-completion/completions/syncagent": ROOT / "contrib" / "completion" / "syncagent",
        "zsh/site-functions/_syncagent": ROOT / "contrib" / "completion" / "_syncagent",
        "fish/vendor_completions.d/syncagent.fish": ROOT / "contrib" / "completion" / "syncagent.fish",
    }
    with zipfile.ZipFile(wheel) as archive:
        names = {name.partition(".data/data/share/")[2]: name for name in archive.namelist()}
        for place, here in wanted.items():
            assert archive.read(names[place]) == here.read_bytes()


def test_make_says_man() -> None:
    """`make man` writes them, by the way that the pages themselves name."""
    makefile = (ROOT / "Makefile").read_text()
    assert "\nman: " in makefile
    assert "contrib/man/generate.py contrib/man\n" in makefile
    assert "make man" in (MAN / "syncagent.8").read_text()
    assert syncagent("--version", check=0).stdout.split()[1] in (MAN / "syncagent.8").read_text()
