"""Write ``state.tar.xz`` and ``expected.json`` anew: ``python -m tests.v0_1_0.make``.

It runs with the program of ``COMMIT`` alone, which is that of 0.1.0, and refuses any other: a later program writes
other things, and the tests would no longer say that it reads those of 0.1.0. To change a scenario, check out that
commit's ``syncagent/`` first. Each scenario is written by the real program with a clock of its own, packed, and
restored elsewhere; what 0.1.0 itself says there is what later programs are held against.
"""

import contextlib
import hashlib
import importlib
import io
import json
import lzma
import os
import shlex
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import msgspec
from msgspec.structs import replace

from tests.support.agent import Agent
from tests.support.clock import clock_at
from tests.support.postmap import minimal_config
from tests.support.programs import find_program, wait_until
from tests.support.run import syncagent
from tests.support.slapd import PEOPLE, SYNC, SYNC_PASSWORD, people
from tests.v0_1_0 import restore
from tests.v0_1_0.restore import MAP_TYPES, RIPE, Origin, Restored, Scene
from tests.v0_1_0.servers import LISTS, PASSWORD, TOKEN, USERNAME, Directory, Primary

START = 4_102_444_800.0
"""2100-01-01: ahead of the clock that files have, so that 0.1.0 trusts them at once."""
MINUTE, HOUR = 60.0, 3600.0
COMMIT = "22d1d99392664dea200cc9097f6b2ea4fbc9da16"
"""Whose directory ``syncagent`` has to be there."""
_MANY = 10_001
_TOP = Path(__file__).parents[2]
_UNPACKED = {"state/state.db"}


class Making:
    """A scenario in the making: its directory, its clock, and the servers that its sources ask."""

    def __init__(self, name: str, directory: Path, primary: Primary, ldap: Directory) -> None:
        """Start with a Postfix and an empty directory."""
        self.name, self.directory, self.primary, self.ldap = name, directory, primary, ldap
        self.config = directory / "syncagent.toml"
        self.now = START
        self._last = START
        directory.mkdir()
        minimal_config(directory / "postfix")

    def configure(self, postfix: str, rest: str) -> None:
        """Write the configuration."""
        self.config.write_text(
            f'[postfix]\nmap = "{MAP_TYPES[self.name]}:{self.directory}/map"\nconfig_directory = "postfix"\n{postfix}\n'
            f'[state]\ndirectory = "state"\n\n{rest}',
            "utf-8",
        )

    def write(self, file: str, lines: Iterable[str]) -> None:
        """Replace a file of a source."""
        new = self.directory / "new"
        new.write_text("".join(f"{line}\n" for line in lines), "utf-8")
        new.replace(self.directory / file)

    def secret(self, file: str, text: str) -> None:
        """Write a secret."""
        path = self.directory / file
        path.touch(mode=0o600)
        path.write_text(text, "utf-8")

    def run(self, *args: str, code: int = 0, at: float | None = None, path: str = "") -> Any:  # noqa: ANN401 - JSON
        """Run a verb with --json ``at`` so many seconds after the start; its exit code has to be ``code``."""
        if at is not None:
            self.now = START + at
        env = clock_at(self.now) | ({"PATH": f"{path}:{os.environ['PATH']}"} if path else {})
        return json.loads(syncagent(*args, "--json", config=self.config, env=env, check=code).stdout)


def users(count: int, domain: str = "example.com", *, first: int = 0) -> list[str]:
    """Return so many addresses."""
    return [f"user{number:05}@{domain}" for number in range(first, first + count)]


def files(one: Making) -> None:
    """Each file format; recipients in grace since three runs, one of them from a map that was there before."""
    kinds = {
        "lines": "",
        "postmap": "",
        "csv": 'column = "mail"\ndelimiter = ";"',
        "aliases": 'domains = ["example.net"]',
        "passwd": 'domains = ["example.org"]',
    }
    one.configure(
        'relay_domains = ["example.com", "example.net", "example.org", "xn--bcher-kva.example"]\n'
        'exclude = ["user00003@example.com"]',
        "".join(
            f'[sources.{kind}]\ntype = "file"\npath = "{kind}.txt"\nformat = "{kind}"\n{keys}\n\n'
            for kind, keys in kinds.items()
        ),
    )
    lines = [*users(20), "two words@example.com", "@@", "away@elsewhere.test", "buch@bücher.example"]
    table = [f"{name} OK" for name in users(9, "example.net")]
    rows = ["name;mail", *(f"Somebody;{name}" for name in users(12, "example.org"))]
    one.write("lines.txt", lines)
    one.write("postmap.txt", table)
    one.write("csv.txt", rows)
    one.write("aliases.txt", ["postmaster: root", "root: admin", "sales: one,\n  two"])
    one.write("passwd.txt", [f"unix{uid}:x:{uid}:{uid}::/home/u:/bin/sh" for uid in (0, 1000, 1001)])
    one.write("map", ["before@example.com OK"])
    one.run("sync")
    one.write("lines.txt", lines[2:])
    one.run("sync", at=10 * MINUTE)
    one.write("csv.txt", [*rows[:-1], "New;new@example.org"])
    one.run("sync", at=40 * MINUTE)


def history(one: Making) -> None:
    """Runs with many changes, whose history is in compressed files, one of them approved; and ones with few."""
    one.configure(
        'relay_domains = ["example.com"]',
        '[limits]\nremoval_grace = "0s"\n\n[sources.corp]\ntype = "file"\npath = "corp.txt"\n',
    )
    one.write("corp.txt", users(30))
    one.run("sync")
    one.write("corp.txt", users(30 + _MANY))
    one.run("sync", at=10 * MINUTE)
    one.write("corp.txt", users(30))
    (hold,) = one.run("sync", code=65, at=20 * MINUTE)["plan"]["holds"]
    one.run("approve", hold["id"], at=30 * MINUTE)
    one.write("corp.txt", [*users(29), "new@example.com"])
    one.run("sync", at=40 * MINUTE)


def ldap(one: Making) -> None:
    """A directory that is followed by changes, and one that is asked for everything."""
    common = (
        f'type = "ldap"\nurl = "{one.ldap.url}"\ninsecure = true\nbind_dn = "{SYNC}"\npassword_file = "./password"\n'
    )
    one.configure(
        'relay_domains = ["example.com", "example.org"]',
        f'[sources.people]\n{common}base = "{PEOPLE}"\nmode = "sync"\nattributes = ["mail", "proxyAddresses"]\n\n'
        f'[sources.lists]\n{common}base = "{LISTS}"\nmode = "poll"\n',
    )
    one.secret("password", SYNC_PASSWORD)
    one.run("sync")
    one.ldap.add(f"uid=new,{PEOPLE}", uid="new", mail="New@Example.com")
    one.run("sync", at=10 * MINUTE)


_RECIPE = """\
title = "users, by pages"

[auth]
kind = "bearer"

[[steps]]
name = "users"
path = "/api/users"
list = "users"
key = "id"
paging = { kind = "page", param = "page", start = 1 }
emit = [{ kind = "address", value = "mail" }]
"""


def http(one: Making) -> None:
    """A plain list with an ETag, and an API by a recipe of one's own."""
    url = f'type = "http"\ninsecure = true\nurl = "{one.primary.url}'
    one.configure(
        'relay_domains = ["example.com", "example.net"]',
        f'[sources.list]\n{url}/list"\nformat = "lines"\nusername = "{USERNAME}"\npassword_file = "./password"\n\n'
        f'[sources.api]\n{url}"\nrecipe = "./users.toml"\ntoken_file = "./token"\n',
    )
    one.secret("password", PASSWORD)
    one.secret("token", TOKEN)
    (one.directory / "users.toml").write_text(_RECIPE, "utf-8")
    one.run("sync")
    one.run("sync", at=10 * MINUTE)


def holds(one: Making) -> None:
    """A domain each that is held for its share, as emptied, for its catch-all, for the whole's share, as leaving.

    And a catch-all that is not permitted; two tables, one domain of which a source reports.
    """
    one.configure(
        'relay_domains = ["example.com", "example.net", "example.org", "whole.example", "open.example"]\n'
        f'catch_all = ["example.org"]\ndomains_map = "lmdb:{one.directory}/map-domains"\nallow_domains = ["*.test"]',
        '[limits]\nremoval_grace = "0s"\n\n[limits."whole.example"]\nremoved_percent = 100\nremoved_floor = 100\n\n'
        '[sources.corp]\ntype = "file"\npath = "corp.txt"\n',
    )
    stay = [*users(20), *users(5, "example.org"), *users(28, "whole.example"), *users(2, "open.example")]
    stay += [*users(2, "new.test"), "@open.example"]
    go = [*users(10, first=20), *users(3, "example.net"), "@example.org", *users(12, "whole.example", first=28)]
    go += users(4, "leaving.test")
    one.write("corp.txt", ["# domains: leaving.test, foreign.invalid", *stay, *go])
    one.run("sync", code=65)
    one.write("corp.txt", ["# domains: new.test", *stay])
    one.run("sync", code=65, at=10 * MINUTE)
    one.run("sync", code=65, at=3 * HOUR)


def rejects(one: Making) -> None:
    """Held since the source rejects more than it did."""
    one.configure(
        'relay_domains = ["example.com"]',
        '[limits]\nremoval_grace = "0s"\n\n[sources.corp]\ntype = "file"\npath = "corp.txt"\n',
    )
    one.write("corp.txt", [*users(20), "ever wrong@example.com"])
    one.run("sync")
    one.write("corp.txt", [*users(19), "ever wrong@example.com", "user 00019@example.com"])
    one.run("sync", code=65, at=10 * MINUTE)


def canary(one: Making) -> None:
    """A hold that a person approved and that waits all the same: a canary went in the same run."""
    one.configure(
        'relay_domains = ["example.com"]',
        '[limits]\nremoval_grace = "0s"\ncanaries = ["canary@example.com"]\n\n'
        '[sources.corp]\ntype = "file"\npath = "corp.txt"\n',
    )
    one.write("corp.txt", [*users(30), "canary@example.com"])
    one.run("sync")
    one.write("corp.txt", [*users(20), "canary@example.com"])
    (hold,) = one.run("sync", code=65, at=10 * MINUTE)["plan"]["holds"]
    one.write("corp.txt", users(20))
    one.run("approve", hold["id"], code=65, at=20 * MINUTE)


def failing(one: Making) -> None:
    """A file that is away, and a server that refuses the credentials; what is missing elsewhere waits for them."""
    one.configure(
        'relay_domains = ["example.com", "example.net", "example.org"]',
        '[limits]\nremoval_grace = "0s"\n\n'
        '[sources.fine]\ntype = "file"\npath = "fine.txt"\n\n[sources.gone]\ntype = "file"\npath = "gone.txt"\n\n'
        f'[sources.closed]\ntype = "http"\ninsecure = true\nurl = "{one.primary.url}/closed"\nformat = "lines"\n'
        f'username = "{USERNAME}"\npassword_file = "./password"\n',
    )
    one.secret("password", PASSWORD)
    one.write("fine.txt", users(20))
    one.write("gone.txt", users(8, "example.net"))
    one.run("sync")
    one.write("fine.txt", users(19))
    (one.directory / "gone.txt").unlink()
    one.primary.open = False
    one.run("sync", code=75, at=10 * MINUTE)
    one.run("sync", code=75, at=2 * HOUR)


def unpublished(one: Making) -> None:
    """An approval that was given in a run that could not publish."""
    one.configure(
        'relay_domains = ["example.com"]',
        '[limits]\nremoval_grace = "0s"\n\n[sources.corp]\ntype = "file"\npath = "corp.txt"\n',
    )
    one.write("corp.txt", users(30))
    one.run("sync")
    one.write("corp.txt", users(20))
    (hold,) = one.run("sync", code=65, at=10 * MINUTE)["plan"]["holds"]
    with tempfile.TemporaryDirectory() as bin_directory:
        postmap = Path(bin_directory) / "postmap"
        postmap.write_text("#!/bin/sh\necho 'postmap: fatal: no space left on device' >&2\nexit 1\n", "utf-8")
        postmap.chmod(0o755)
        one.run("approve", hold["id"], code=73, at=20 * MINUTE, path=bin_directory)


def empty(one: Making) -> None:
    """The only source may be empty, and is: an empty map is never published."""
    one.configure(
        'relay_domains = ["example.com"]',
        '[limits]\nremoval_grace = "0s"\n\n[sources.corp]\ntype = "file"\npath = "corp.txt"\nallow_empty = true\n',
    )
    one.write("corp.txt", users(4))
    one.run("sync")
    one.write("corp.txt", [])
    one.run("sync", code=65, at=10 * MINUTE)


def agent(one: Making) -> None:
    """What the agent left that told of a hold."""
    tell = f"cat > /dev/null; echo told >> {shlex.quote(str(one.directory / 'told'))}"
    one.configure(
        'relay_domains = ["example.com"]\nreload = false',
        f'[notify]\ncommand = ["sh", "-c", {json.dumps(tell)}]\n\n[limits]\nremoval_grace = "0s"\n\n'
        '[sources.corp]\ntype = "file"\npath = "corp.txt"\nwatch = "off"\n',
    )
    one.write("corp.txt", users(30))
    one.run("sync")
    one.write("corp.txt", users(20))
    one.now = START + 10 * MINUTE
    left = one.directory / "state" / "agent.json"
    with Agent(one.config, env=clock_at(one.now)):
        if not wait_until(lambda: left.exists() and bool(json.loads(left.read_bytes())["told"]), 30):
            raise AssertionError("the agent told nobody")


SCENARIOS: tuple[Callable[[Making], None], ...] = (
    files,
    history,
    ldap,
    http,
    holds,
    rejects,
    canary,
    failing,
    unpublished,
    empty,
    agent,
)


def main() -> None:
    """Make everything."""
    same = subprocess.run(["git", "diff", "--quiet", COMMIT, "--", "syncagent"], check=False, cwd=_TOP)
    if same.returncode:
        raise SystemExit(f"syncagent/ is not that of {COMMIT}: see the docstring")
    made = Path(tempfile.mkdtemp(prefix="v0.1.0-", dir="/tmp"))
    try:
        with _servers() as (primary, directory):
            scenes = {}
            for write in SCENARIOS:
                one = Making(write.__name__, made / write.__name__, primary, directory)
                write(one)
                scenes[one.name] = _scene(one)
            ldif = directory.dump()
        _pack(made, Origin(COMMIT, scenes), ldif)
    finally:
        shutil.rmtree(made)
    with _restored_servers() as servers:
        expected = {write.__name__: _expected(write.__name__, *servers) for write in SCENARIOS}
    restore.EXPECTED.write_text(json.dumps(expected, indent=1, sort_keys=True) + "\n", "utf-8")


@contextlib.contextmanager
def _servers() -> Iterator[tuple[Primary, Directory]]:
    directory = Directory()
    directory.load([f"dn: {LISTS}\nobjectClass: organizationalUnit\nou: lists\n", *people(12)])
    with Primary() as primary, directory:
        for name in ("staff", "press"):
            directory.add(f"uid={name},{LISTS}", uid=name, mail=f"{name}@example.org")
        yield primary, directory


@contextlib.contextmanager
def _restored_servers() -> Iterator[tuple[Primary, Directory]]:
    directory = Directory()
    directory.take_over(restore.content("directory.ldif"))
    with Primary() as primary, directory:
        primary.open = False
        yield primary, directory


def _part(name: str) -> Any:  # noqa: ANN401 - a module
    """Return a module of 0.1.0, of which a later program's types say nothing."""
    return importlib.import_module(f"syncagent.{name}")


def _scene(one: Making) -> Scene:
    """Take down how a scenario is in its place."""
    loaded = _part("config").load(one.config)
    secrets = {
        name: tuple(
            str(Path(value).relative_to(one.directory))
            for key in ("password_file", "token_file")
            if (value := getattr(source.own, key, None))
        )
        for name, source in loaded.sources.items()
    }
    read: dict[str, tuple[str, ...]] = {
        name: (source.own.path.name,) for name, source in loaded.sources.items() if source.common.type == "file"
    }
    found = (file for file in sorted(one.directory.rglob("*")) if file.is_file())
    names = {str(file.relative_to(one.directory)): restore.identity(file) for file in found}
    return Scene(
        directory=str(one.directory),
        servers={"http": one.primary.place, "ldap": one.ldap.place},
        clock=one.now,
        identities={name: own for name, own in names.items() if name not in _UNPACKED},
        postmap=restore.postmap_identity(),
        preimages=_preimages(loaded),
        files=read,
        secrets={name: own for name, own in secrets.items() if own},
    )


def _preimages(loaded: Any) -> tuple[str, ...]:  # noqa: ANN401 - 0.1.0's Config
    """Return what the digests of the configuration are digests of, as 0.1.0 makes them."""
    own = [
        _encoded((source.common, source.own, _part("config")._recipes(source.own)))
        for source in loaded.sources.values()
    ]
    with _part("ledger").reading(loaded.state.directory) as ledger:
        assert ledger.finished is not None
        digest, domains = ledger.finished.config, ledger.finished.domains
    postfix = (
        replace(loaded.postfix, relay_domains=tuple(map(_part("values").Domain, domains)))
        if domains
        else loaded.postfix
    )
    whole = _encoded((postfix, loaded.limits, {name: source.digest for name, source in loaded.sources.items()}))
    assert hashlib.sha256(whole.encode()).hexdigest() == digest, "0.1.0 makes the digest of a configuration otherwise"
    return (*own, whole)


def _encoded(value: object) -> str:
    return msgspec.json.encode(value, enc_hook=str, order="sorted").decode()


def _pack(made: Path, origin: Origin, ldif: str) -> None:
    """Write the archive: the same octets for the same content."""
    with (
        lzma.open(restore.ARCHIVE, "wb", preset=9 | lzma.PRESET_EXTREME) as out,
        tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as packed,
    ):
        _add(packed, restore.ORIGIN, 0o644, msgspec.json.format(msgspec.json.encode(origin), indent=1))
        _add(packed, "directory.ldif", 0o644, ldif.encode())
        for path in sorted(made.rglob("*")):
            mode = path.stat().st_mode & 0o7777
            _add(packed, str(path.relative_to(made)), mode, None if path.is_dir() else path.read_bytes())


def _add(packed: tarfile.TarFile, name: str, mode: int, octets: bytes | None) -> None:
    member = tarfile.TarInfo(name)
    member.mode, member.size = mode, len(octets or b"")
    member.type = tarfile.DIRTYPE if octets is None else tarfile.REGTYPE
    packed.addfile(member, io.BytesIO(octets or b""))


def _expected(name: str, primary: Primary, ldap: Directory) -> dict[str, Any]:
    """Take down what 0.1.0 says of a scenario in another place, and what it asks and does in the runs after it."""
    places = {"http": primary.place, "ldap": ldap.place}

    @contextlib.contextmanager
    def fresh() -> Iterator[Restored]:
        with tempfile.TemporaryDirectory() as directory:
            yield restore.restore(name, Path(directory), places)

    with fresh() as restored:
        found: dict[str, Any] = {verb: restored.run(verb) for verb in ("status", "plan")}
        found["history"] = restore.shortened(restored.run("history"))
        primary.asked.clear()
        ldap.forget_operations()
        before = restored.tables()
        found["sync"] = restored.run("sync")
        found["requests"], found["sent"] = primary.requests(), ldap.sent()
        after = restored.tables()
        found["untouched"] = after == before
        found["map"] = after["map"][1]
        found["status after"] = restored.run("status")
    found["approve"] = {}
    for hold in found["status"]["holds"]:
        with fresh() as restored:
            found["approve"][hold["id"]] = restored.run("approve", hold["id"])
    if name in RIPE:
        with fresh() as restored:
            found["ripe"] = restored.run("sync", after=RIPE[name])
    if len(found["approve"]) > 1:
        with fresh() as restored:
            found["approve all"] = restored.run("approve", *found["approve"])
    return found


if __name__ == "__main__":
    for program in ("postmap", "slapd"):
        if not find_program(program):
            sys.exit(f"{program} is not here")
    main()
