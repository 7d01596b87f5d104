"""Run by root over somebody else's state directory, the program becomes that user."""

import os
import pwd
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.need import need_postmap, need_root
from tests.support.postmap import minimal_config
from tests.support.run import syncagent


@pytest.fixture
def home() -> Iterator[Path]:
    """A directory that everybody may enter, and that belongs to an ordinary user."""
    need_root()
    need_postmap("lmdb")
    with tempfile.TemporaryDirectory(prefix="syncagent-owner-") as name:
        home = Path(name)
        home.chmod(0o755)
        (home / "recipients").write_text("a@example.com\nb@example.com\n")
        (home / "syncagent.toml").write_text(
            f'[postfix]\nmap = "lmdb:{home}/lib/relay_recipients"\nrelay_domains = ["example.com"]\n'
            f'config_directory = "{minimal_config(home / "postfix")}"\n'
            f'[state]\ndirectory = "{home}/lib/state"\n[sources.x]\ntype = "file"\npath = "recipients"\n'
        )
        (home / "lib").mkdir()
        nobody = pwd.getpwnam("nobody")
        os.chown(home / "lib", nobody.pw_uid, nobody.pw_gid)
        yield home


def test_all_that_a_run_by_root_leaves_is_the_owners(home: Path) -> None:
    """Map, index, state and lock belong to the user whose directory it is, even on the very first run."""
    done = syncagent("sync", config=home / "syncagent.toml", check=0)
    assert "running as nobody" in done.stderr
    nobody = pwd.getpwnam("nobody").pw_uid
    left = [home / "lib", *(home / "lib").rglob("*")]
    assert len(left) > 6
    assert {path.stat().st_uid for path in left} == {nobody}


def test_the_user_goes_on_where_root_left_off(home: Path) -> None:
    """What root's run left, the user's own run finds unchanged and can write."""
    syncagent("sync", config=home / "syncagent.toml", check=0)
    os.seteuid(pwd.getpwnam("nobody").pw_uid)
    try:
        (home / "lib" / "state" / "probe").touch()
        (home / "lib" / "probe").touch()
    finally:
        os.seteuid(0)
    (home / "recipients").write_text("a@example.com\nb@example.com\nc@example.com\n")
    assert "3 recipients" in syncagent("sync", config=home / "syncagent.toml", check=0).stdout


def test_roots_own_state_stays_roots(home: Path) -> None:
    """Where root owns the directory there is nobody else to become."""
    os.chown(home / "lib", 0, 0)
    done = syncagent("sync", config=home / "syncagent.toml", check=0)
    assert "running as" not in done.stderr
    assert (home / "lib" / "relay_recipients").stat().st_uid == 0
