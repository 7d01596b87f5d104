"""A backup MX in one directory, whose sources a test edits: what a scenario through `syncagent sync` stands on."""

import contextlib
import io
import json
import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from unittest.mock import patch

import msgspec

from syncagent.cli import main as cli
from syncagent.model import Hold, SyncResult
from syncagent.sync import run as sync_module
from tests.support.need import need_postmap
from tests.support.postmap import minimal_config, postmap_keys
from tests.support.run import syncagent
from tests.support.warm import popen

MINUTE, HOUR = 60.0, 3600.0
START = 1_900_000_000.75
"""Where a clock of the scenario's own starts, unless told otherwise."""


def people(count: int, domain: str = "example.com", *, first: int = 0) -> set[str]:
    """Give so many addresses of a domain, the same ones each time."""
    return {f"user{number:03}@{domain}" for number in range(first, first + count)}


def only_hold(result: SyncResult) -> Hold:
    """Give the one hold of a result."""
    (hold,) = result.plan.holds
    return hold


def reasons(result: SyncResult) -> dict[str, set[str]]:
    """Give the kinds of reasons by held domain."""
    kinds: dict[str, set[str]] = {}
    for hold in result.plan.holds:
        kinds.setdefault(hold.domain, set()).update(reason.kind for reason in hold.reasons)
    return kinds


def timed_scenario(directory: Path) -> "Scenario":
    """Return one source with 100 people of example.com, who are published; a clock of its own, and the usual grace."""
    scenario = Scenario(directory)
    scenario.limits = {}
    scenario.set_clock()
    scenario.write("corp", people(100))
    scenario.sync()
    return scenario


class Scenario:
    """A configuration, flat-file sources, a map and a state directory, and the program run on them.

    Set the attributes as you like between runs; the configuration is written anew before each. There is no grace
    unless `limits` says so. Each run through `sync` checks by itself that every recipient that a source of the
    configuration said last is published, that the index holds what the text says, and that it is not empty.
    The program runs in a child process; after `set_clock` it runs in this one, by that clock.
    """

    def __init__(self, directory: Path, *sources: str, relay_domains: Iterable[str] = ("example.com",)) -> None:
        """Make the directory ready; no source has a file yet."""
        need_postmap("lmdb")
        self.directory = directory
        self.relay_domains = list(relay_domains)
        self.catch_all: list[str] = []
        self.exclude: list[str] = []
        self.postfix: dict[str, object] = {}
        self.limits: dict[str, object] = {"removal_grace": "0s"}
        self.domain_limits: dict[str, dict[str, object]] = {}
        self.schedule: dict[str, object] = {}
        self.sources: dict[str, dict[str, object]] = {name: {} for name in sources or ("corp",)}
        self.confirm_after = "0s"
        self.config, self.state = directory / "syncagent.toml", directory / "state"
        self.map = directory / "relay_recipients"
        self.postmap_fails, self.postmap_waits = directory / "postmap-fails", directory / "postmap-waits"
        self._postfix = self.postfix_directory = minimal_config(directory / "postfix")
        self._env: dict[str, str] = {}
        self._clock: float | None = None
        self._heard: dict[str, set[str]] = {}

    def file(self, source: str) -> Path:
        """Give the file of a source."""
        return self.directory / f"{source}.list"

    def write(self, source: str, addresses: Iterable[str]) -> None:
        """Replace what a source says."""
        new = self.directory / "new.list"
        new.write_text("".join(f"{address}\n" for address in sorted(addresses)), encoding="utf-8")
        new.replace(self.file(source))

    def break_source(self, source: str) -> None:
        """Make a source fail: its file is away."""
        self.file(source).unlink(missing_ok=True)

    def lose_ledger(self) -> None:
        """Remove the whole state directory."""
        shutil.rmtree(self.state)

    def set_clock(self, now: float = START) -> None:
        """Run from now on by a clock that stands at `now`."""
        self._clock = now

    @property
    def now(self) -> float:
        """What the clock that was set says."""
        assert self._clock is not None
        return self._clock

    def wait(self, seconds: float) -> None:
        """Let time pass, or go back, by the clock that was set."""
        self._clock = self.now + seconds

    def own_postmap(self) -> None:
        """Put a postmap first on PATH that fails, or waits, while one of the two marker files is there."""
        program = self.directory / "bin" / "postmap"
        program.parent.mkdir()
        fails, waits, real = (
            shlex.quote(str(path)) for path in (self.postmap_fails, self.postmap_waits, need_postmap("lmdb"))
        )
        program.write_text(
            "#!/bin/sh\n"
            f"while [ -e {waits} ]; do sleep 0.05; done\n"
            f"if [ -e {fails} ]; then echo 'postmap: fatal: no space left on device' >&2; exit 1; fi\n"
            f'exec {real} "$@"\n',
            encoding="utf-8",
        )
        program.chmod(0o755)
        self._env["PATH"] = f"{program.parent}{os.pathsep}{os.environ.get('PATH', os.defpath)}"

    def configure(self) -> Path:
        """Write the configuration; `sync`, `say` and `approve` do it by themselves."""
        tables: dict[str, dict[str, object]] = {
            "postfix": {
                "map": f"lmdb:{self.map}",
                "relay_domains": self.relay_domains,
                "catch_all": self.catch_all,
                "exclude": self.exclude,
                "config_directory": str(self.postfix_directory),
                **self.postfix,
            },
            "limits": self.limits,
            "state": {"directory": str(self.state)},
            **({"schedule": self.schedule} if self.schedule else {}),
        }
        tables |= {f'limits."{domain}"': own for domain, own in self.domain_limits.items()}
        for name, own in self.sources.items():
            of_file = {} if "type" in own else {"type": "file", "path": str(self.file(name))}
            tables[f"sources.{name}"] = {**of_file, "confirm_after": self.confirm_after, **own}
        lines: list[str] = []
        for head, table in tables.items():
            lines += [f"[{head}]", *(f"{key} = {json.dumps(value)}" for key, value in table.items()), ""]
        self.config.write_text("\n".join(lines), encoding="utf-8")
        return self.config

    def sync(self, *args: str, code: int | None = 0) -> SyncResult:
        """Run `syncagent sync --json`, assert its exit code (None: any) and what no run may break; give its result."""
        return self._checked("sync", *args, code=code)

    def sync_unchecked(self, code: int) -> SyncResult:
        """Run `syncagent sync --json` on a source whose file is no plain list of addresses."""
        return self._run("sync", code=code)

    def approve_unchecked(self, hold_id: str, code: int, *words: str) -> SyncResult:
        """Run `syncagent approve --json` while postmap cannot be asked what is published."""
        return self._run("approve", hold_id, *words, code=code)

    def approve(self, *ids: str, code: int | None = 0) -> SyncResult:
        """Run `syncagent approve --json` on these IDs, as `sync` does."""
        return self._checked("approve", *ids, code=code)

    def say(self, *args: str, code: int | None = 0) -> subprocess.CompletedProcess[str]:
        """Run any verb and give what it prints for people."""
        return syncagent(*args, config=self.configure(), env=self._env, check=code)

    def start(self, *args: str) -> subprocess.Popen[str]:
        """Start any verb with --json in a child process and don't wait for its end."""
        command = [sys.executable, "-m", "syncagent", "--config", str(self.configure()), *args, "--json"]
        env = os.environ | self._env
        return popen(command, env)(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=env)

    def published(self) -> set[str]:
        """Give the keys that the index of the map answers for, by `postmap -s`; none where there is no map."""
        if not self.map.exists():
            return set()
        lines = self.map.read_text(encoding="utf-8").splitlines()
        text = {line.removesuffix(" OK") for line in lines if not line.startswith("#")}
        keys = [key.decode() for key in postmap_keys(self.postfix_directory, f"lmdb:{self.map}")]
        assert sorted(keys) == sorted(text), "the index does not hold what the text says"
        return set(keys)

    def _checked(self, verb: str, *args: str, code: int | None) -> SyncResult:
        before = self.published()
        result = self._run(verb, *args, code=code)
        assert code in {None, result.exit_code}
        for one in result.sources:
            if one.state != "failing":
                self._heard[one.name] = set(self.file(one.name).read_text(encoding="utf-8").split())
        after = self.published()
        said = self.said()
        assert not said & before - after, "a recipient that a source says is gone"
        assert after or not before, "an empty map was published"
        if result.status in {"published", "unchanged"}:
            assert said <= after, "a recipient that a source says is not published"
            assert result.recipients == len(after)
        if result.status == "unchanged":
            assert after == before
        return result

    def said(self) -> set[str]:
        """Give the addresses in scope that the configured sources said in their last whole answers, less `exclude`."""
        said = set().union(*(self._heard.get(name, set()) for name in self.sources))
        return {
            address
            for address in said
            if (domain := address.rpartition("@")[2])
            and any(f".{domain}".endswith(f".{covering}") for covering in self.relay_domains)
            and not {address, f"@{domain}"} & set(self.exclude)
            and (not address.startswith("@") or domain in self.catch_all)
        }

    def _run(self, verb: str, *args: str, code: int | None) -> SyncResult:
        arguments = (verb, *args, "--json")
        if self._clock is None:
            printed = self.say(*arguments, code=code).stdout
        else:
            printed = self._by_own_clock(self._clock, arguments, code)
        return msgspec.json.decode(printed, type=SyncResult)

    def _by_own_clock(self, now: float, arguments: Iterable[str], code: int | None) -> str:
        """Run the command in this process, the run's clock standing at `now`."""
        out, err = io.StringIO(), io.StringIO()
        with (
            patch.object(sync_module, "clock", lambda: now),
            patch.object(sys, "argv", ["syncagent", "--config", str(self.configure()), *arguments]),
            contextlib.redirect_stdout(out),
            contextlib.redirect_stderr(err),
        ):
            status = cli._main()
        assert code in {None, status}, f"exited {status}, not {code}\n{out.getvalue()}\n{err.getvalue()}"
        return out.getvalue()
