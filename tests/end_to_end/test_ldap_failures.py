"""A directory that fails, through the real command: nobody is removed, and the next run after the mend is right."""

import json
import subprocess
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tests.sources import map_keys, write_config
from tests.support.run import syncagent
from tests.support.slapd import PEOPLE, SUFFIX, SYNC, SYNC_PASSWORD, TREE, Slapd, people

COUNT, CROWD = 40, 8000
WRONG_PASSWORD = "wrong-secret-0815"
RUNS_OUT = 75


def everybody(count: int = COUNT) -> list[str]:
    """Give the keys of the map while the directory is as it was loaded."""
    return sorted(f"u{number:07}@example.{top}" for number in range(count) for top in ("com", "org"))


@pytest.fixture(scope="module")
def directory() -> Iterator[Slapd]:
    """A directory of some people."""
    server = Slapd()
    server.load(people(COUNT))
    with server:
        yield server


@pytest.fixture(scope="module")
def crowd() -> Iterator[Slapd]:
    """A directory of some thousand people."""
    server = Slapd()
    server.load(people(CROWD))
    with server:
        yield server


@dataclass
class Backup:
    """A backup MX with a list from a directory, published; what the command has printed is kept."""

    slapd: Slapd
    place: Path
    keys: dict[str, Any] = field(default_factory=dict)
    printed: str = ""

    def configure(self, **keys: Any) -> Path:  # noqa: ANN401 - any key of the source
        """Write the configuration, with these keys for the source in place of the usual ones."""
        own = {
            "url": self.slapd.url,
            "insecure": True,
            "base": SUFFIX,
            "attributes": ["mail", "proxyAddresses"],
            "bind_dn": SYNC,
            "password_file": "./password",
            **self.keys,
            **keys,
        }
        lines = [f"{key} = {json.dumps(value)}" for key, value in own.items()]
        source = "\n".join(['[sources.corp]\ntype = "ldap"', *lines])
        return write_config(self.place, source, domains='"example.com", "example.org"')

    def password(self, text: str) -> None:
        """Write the password's file."""
        file = self.place / "password"
        file.touch(mode=0o600)
        file.write_text(text, "utf-8")

    def run(self, *args: str, check: int) -> subprocess.CompletedProcess[str]:
        """Run the command and keep what it prints."""
        done = syncagent(*args, config=self.place / "syncagent.toml", check=check)
        self.printed += done.stdout + done.stderr
        return done

    def sync(self, *, check: int = 0) -> dict[str, Any]:
        """Run a sync and give its result."""
        result = json.loads(self.run("sync", "--json", check=check).stdout)
        assert isinstance(result, dict)
        return result

    def fails(self, *says: str, twice: bool = True, is_printed: bool = False) -> None:
        """Run a sync that must fail, saying this to people and programs, and change nothing that is published.

        ``is_printed``: an earlier `sync --quiet` has printed the failure, so this one must be silent.
        """
        before = (self.place / "map").read_bytes()
        result = self.sync(check=RUNS_OUT)
        (source,) = result["sources"]
        assert (result["status"], source["state"]) == ("unchanged", "failing")
        assert [change for change in result["plan"]["domains"] if change["removed"] or change["added"]] == []
        assert result["plan"]["removed_sample"] == []
        assert result["plan"]["holds"] == []
        assert [text for text in says if text not in source["error"]] == [], source["error"]
        assert (self.place / "map").read_bytes() == before
        if twice:
            done = self.run("sync", "--quiet", check=RUNS_OUT)
            if is_printed:
                assert (done.stdout, done.stderr) == ("", "")
                done = self.run("sync", check=RUNS_OUT)
            assert "source corp is failing" in done.stderr
            assert (self.place / "map").read_bytes() == before

    def mended(self) -> None:
        """Have somebody leave and somebody come, and see that the next run publishes just that."""
        self.slapd.add(f"uid=new,{PEOPLE}", uid="new", mail="new@example.com")
        self.slapd.delete(f"uid=u0000000,{PEOPLE}")
        self.sync()
        keys = map_keys(self.place)
        assert sorted(keys) == sorted({*everybody(), "new@example.com"} - set(everybody(1)))
        self.slapd.delete(f"uid=new,{PEOPLE}")
        name = "u0000000"
        addresses = [f"SMTP:{name}@example.com", f"smtp:{name}@example.org"]
        self.slapd.add(f"uid={name},{PEOPLE}", uid=name, mail=f"{name}@example.com", proxyAddresses=addresses)

    def tells(self, secret: str) -> list[str]:
        """Give where a secret is found: in what was printed, or in a file, but for its own and the directory's."""
        found = ["printed"] if secret in self.printed else []
        files = (file for file in self.place.rglob("*") if file.is_file() and file.name != "password")
        return found + [str(file) for file in files if secret.encode() in file.read_bytes()]


@pytest.fixture
def backup(request: pytest.FixtureRequest, directory: Slapd, tmp_path: Path) -> Iterator[Backup]:
    """A backup MX whose map has everybody, by sync mode unless a test says otherwise."""
    configured = (directory.directory / "slapd.conf").read_text("utf-8")
    backup = Backup(directory, tmp_path, {"mode": getattr(request, "param", "auto"), "page_size": 10})
    backup.password(SYNC_PASSWORD)
    backup.configure()
    backup.sync()
    assert sorted(map_keys(tmp_path)) == everybody()
    yield backup
    if (directory.directory / "slapd.conf").read_text("utf-8") != configured:
        directory.restart(config="")
    assert backup.tells(SYNC_PASSWORD) == backup.tells(WRONG_PASSWORD) == []
    assert (tmp_path / "state" / "state.db").exists()


def test_a_secret_would_be_found(backup: Backup) -> None:
    """The search for a secret looks into what was printed and into the state directory."""
    (backup.place / "state" / "left").write_text("x made-up-secret x", "utf-8")
    assert backup.tells("made-up-secret") == [str(backup.place / "state" / "left")]
    assert "printed" in backup.tells("u0000001")


def test_a_wrong_password(backup: Backup) -> None:
    """A wrong password removes nobody, is tried once in the hour, and the right one is tried at once."""
    backup.password(WRONG_PASSWORD)
    log = len(backup.slapd.log)
    backup.fails(f"bind as {SYNC} rejected", "invalidCredentials (49)", "check bind_dn and password_file")
    backup.fails("not asked again for", is_printed=True)
    assert backup.slapd.log[log:].count("BIND dn=") == 1
    backup.password(SYNC_PASSWORD)
    backup.mended()


def test_a_wrong_base(backup: Backup) -> None:
    """A wrong base removes nobody."""
    backup.configure(base=f"ou=nowhere,{SUFFIX}")
    backup.fails(backup.slapd.url, "ou=nowhere", "noSuchObject (32)", "the base does not exist")
    backup.configure()
    backup.mended()


def test_a_base_of_others(backup: Backup) -> None:
    """A base below which nobody has an address removes nobody."""
    backup.configure(base=SYNC)
    backup.fails("it has no entry at all, as after a lost read right")
    backup.configure()
    backup.mended()


def test_a_misspelled_attribute(backup: Backup) -> None:
    """An attribute that the server does not know removes nobody."""
    backup.configure(attributes=["mial"])
    backup.fails("unknown attribute mial", "check attributes and filter")
    backup.configure()
    backup.mended()


def test_a_directory_that_is_down(backup: Backup) -> None:
    """A directory that does not run removes nobody."""
    backup.slapd.stop()
    backup.fails(backup.slapd.url, "Connection refused")
    backup.slapd.start()
    backup.mended()


RULES = {
    "to the base": f'access to * by dn.exact="{SYNC}" none by anonymous auth by users read',
    "to the people": f'access to dn.one="{PEOPLE}" by dn.exact="{SYNC}" none by users read',
    "to the addresses": f'access to attrs=mail,proxyAddresses by dn.exact="{SYNC}" none by users read',
    "to the values": f'access to attrs=mail,proxyAddresses by dn.exact="{SYNC}" search by users read',
}


IN_BOTH_MODES = pytest.mark.parametrize("backup", ["auto", "poll"], indirect=True)


@IN_BOTH_MODES
@pytest.mark.parametrize("right", RULES)
def test_a_lost_right(right: str, backup: Backup) -> None:
    """An account that may read no more removes nobody, neither at once nor the one who changes."""
    backup.slapd.restart(config=RULES[right])
    backup.slapd.modify(f"uid=u0000003,{PEOPLE}", sn="changed")
    backup.fails(backup.slapd.url if right == "to the base" else "", twice=False)
    backup.slapd.restart(config="")
    backup.mended()


@pytest.mark.parametrize("limit", ["size.soft=7 size.hard=7", "size.hard=7 size.prtotal=7", "size.unchecked=5"])
def test_a_limited_account(limit: str, backup: Backup) -> None:
    """An account that may have less than everything removes nobody."""
    backup.slapd.restart(config=f'limits dn.exact="{SYNC}" {limit}')
    backup.configure(mode="poll")
    backup.fails(backup.slapd.url, "LimitExceeded", "limit", twice=False)
    backup.slapd.restart(config="")
    backup.configure()
    backup.mended()


@IN_BOTH_MODES
def test_a_directory_that_is_another(backup: Backup) -> None:
    """A directory that was set up anew and has nobody yet removes nobody."""
    backup.slapd.stop()
    data = backup.slapd.directory / "data"
    data.rename(backup.slapd.directory / "kept")
    try:
        data.mkdir()
        backup.slapd.load([TREE])
        backup.slapd.start()
        backup.fails("it has no entry at all", twice=False)
    finally:
        backup.slapd.stop()
        for file in data.iterdir():
            file.unlink()
        data.rmdir()
        (backup.slapd.directory / "kept").rename(data)
        backup.slapd.start()
    backup.mended()


def test_a_directory_that_was_emptied(backup: Backup) -> None:
    """Where nobody has an address any more, the last list stays."""
    for number in range(COUNT):
        backup.slapd.modify(f"uid=u{number:07},{PEOPLE}", mail=[], proxyAddresses=[])
    try:
        backup.fails("it has no entry at all", "set allow_empty = true")
    finally:
        for number in range(COUNT):
            name = f"u{number:07}"
            addresses = [f"SMTP:{name}@example.com", f"smtp:{name}@example.org"]
            backup.slapd.modify(f"uid={name},{PEOPLE}", mail=f"{name}@example.com", proxyAddresses=addresses)
    backup.mended()


def test_a_directory_that_is_killed_in_mid_pull(crowd: Slapd, tmp_path: Path) -> None:
    """A directory that is killed while its pages are read removes nobody, and none of the half is published."""
    backup = Backup(crowd, tmp_path, {"mode": "poll", "page_size": 50})
    backup.password(SYNC_PASSWORD)
    backup.configure()
    backup.sync()
    assert sorted(map_keys(tmp_path)) == everybody(CROWD)
    begun = crowd.log_path.stat().st_size
    killer = threading.Thread(target=_kill_after, args=(crowd, begun, 20))
    killer.start()
    try:
        backup.fails(crowd.url, twice=False)
    finally:
        killer.join()
        crowd.start()
    assert 20 <= _pages(crowd, begun) < CROWD // 50, "it was killed in mid-pull"
    result = backup.sync()
    assert (result["status"], result["sources"][0]["state"]) == ("unchanged", "whole")
    assert sorted(map_keys(tmp_path)) == everybody(CROWD)
    assert backup.tells(SYNC_PASSWORD) == []


def _kill_after(slapd: Slapd, begun: int, pages: int) -> None:
    """Kill it once it has given so many pages."""
    end = time.monotonic() + 30
    while _pages(slapd, begun) < pages and time.monotonic() < end:
        time.sleep(0.001)
    slapd.kill()


def _pages(slapd: Slapd, begun: int) -> int:
    """Give how many full pages it has given since then."""
    with slapd.log_path.open("rb") as log:
        log.seek(begun)
        return log.read().count(b" nentries=50")


def test_what_others_add_is_published_meanwhile(backup: Backup) -> None:
    """While the directory fails, what another source adds is published, and what that one drops is kept."""
    extra = backup.place / "extra"
    file = backup.configure()
    table = f'\n[sources.extra]\ntype = "file"\npath = "{extra}"\n'
    file.write_text(file.read_text("utf-8") + table, "utf-8")
    extra.write_text("one@example.com\n", "utf-8")
    backup.sync()
    backup.slapd.stop()
    extra.write_text("two@example.com\n", "utf-8")
    result = backup.sync(check=RUNS_OUT)
    assert result["plan"]["added_sample"] == ["two@example.com"]
    assert sorted(map_keys(backup.place)) == sorted([*everybody(), "one@example.com", "two@example.com"])
    backup.slapd.start()
    backup.sync()
    assert sorted(map_keys(backup.place)) == sorted([*everybody(), "two@example.com"])
