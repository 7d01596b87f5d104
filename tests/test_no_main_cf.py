"""A Postfix without a main.cf, as Debian's "No configuration" leaves it: each verb names the command that helps."""

import json
import subprocess
from pathlib import Path

import pytest

from syncagent.postfix.commands import DEBIAN_MAIN_CF
from tests.support.need import need, need_postmap
from tests.support.postmap import minimal_config
from tests.support.run import syncagent


@pytest.fixture
def bare(tmp_path: Path) -> Path:
    """A configuration whose Postfix has a master.cf and no main.cf."""
    need_postmap("lmdb")
    need("Debian's main.cf", DEBIAN_MAIN_CF.exists())
    postfix = minimal_config(tmp_path / "postfix")
    (postfix / "main.cf").rename(postfix / "away")
    (postfix / "master.cf").touch()
    (tmp_path / "list").write_text("a@example.com\n", "utf-8")
    file = tmp_path / "syncagent.toml"
    file.write_text(
        f'[postfix]\nmap = "lmdb:{tmp_path}/relay_recipients"\nrelay_domains = ["example.com"]\n'
        f'config_directory = "{postfix}"\n[state]\ndirectory = "state"\n[sources.x]\ntype = "file"\npath = "list"\n',
        "utf-8",
    )
    return file


def command(file: Path) -> str:
    """Return the command that is to be named."""
    return f"cp --no-clobber {DEBIAN_MAIN_CF} {file.parent}/postfix/main.cf"


def test_check_names_it_and_then_is_content(bare: Path) -> None:
    """Typed in, twice even, it makes a main.cf, and Postfix is looked at."""
    found = json.loads(syncagent("check", "--offline", "--json", config=bare).stdout)["findings"]
    (mend,) = (one["mend"] for one in found if one["check"] == "no-postfix")
    assert mend == command(bare)
    for _ in range(2):
        subprocess.run(["sh", "-ec", mend], check=True)
    again = json.loads(syncagent("check", "--offline", "--json", config=bare).stdout)["findings"]
    assert "no-postfix" not in {one["check"] for one in again}
    assert "map-is-named" in {one["check"] for one in again}


def test_init_names_it(bare: Path) -> None:
    """It is the first thing that is left to do."""
    file = bare.with_name("new") / "syncagent.toml"
    done = syncagent("init", "--config-directory", bare.parent / "postfix", config=file, check=0)
    left = done.stdout.partition("To be done next")[2].splitlines()
    assert left[1].strip() == command(bare)


def test_sync_names_it(bare: Path) -> None:
    """What could not be published can be once it is typed in."""
    done = syncagent("sync", config=bare, check=73)
    assert command(bare) in done.stderr
    subprocess.run(["sh", "-ec", command(bare)], check=True)
    syncagent("sync", config=bare, check=0)


def test_elsewhere_it_is_not_named(bare: Path) -> None:
    """A directory that is no Postfix's is not given a main.cf."""
    (bare.parent / "postfix" / "master.cf").unlink()
    found = json.loads(syncagent("check", "--offline", "--json", config=bare).stdout)["findings"]
    (mend,) = (one["mend"] for one in found if one["check"] == "no-postfix")
    assert "cp " not in mend
