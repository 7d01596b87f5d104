"""A backup MX under a live smtpd and a simulated clock, on which faults happen; and what must be answered meanwhile.

The oracle stands on the history of events alone: it knows what the primary has, what each source said and which faults
were made, and asks nothing of the program but how its runs ended.
"""

import contextlib
import hashlib
import itertools
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from tests.support.faketime import Clock
from tests.support.need import need_postfix
from tests.support.pages import ROOT
from tests.support.postfix import PrivatePostfix, postmap_keys
from tests.support.programs import PATIENCE
from tests.support.scripted_http import Asked, Part, ScriptedHTTP, answer
from tests.support.smtp import Client  # noqa: TC001 - as the other imports
from tests.support.stepped import Done, run_stepped

MINUTE, HOUR, DAY = 60.0, 3600.0, 86400.0
REMOVED = 72 * HOUR
"""How long a removed address is in doubt (doubt_removed)."""
NEW = HOUR
"""How long a new domain is in doubt (doubt_new)."""
LINGERS = 5 * MINUTE
LEAST_LIMIT = HOUR
_BY_RUN = ("dead", "boot", "failed")
"""Faults that any run ends that does not fail itself."""
UNSETTLED = "restoration"
"""A fault that puts nothing in doubt for sure, but something may be held until a run ends with nothing held."""
FAILED = "an approval failed"
_HELD = ("lost many", "has odd lines")
"""Ends of the names of the faults whose holds a person may approve."""
FOREIGN = "nobody@elsewhere.example.net"
LF = b"\n"
ALL = frozenset({"*"})
CONFIGURED = ("alpha.example", "beta.example", "gamma.example")
SOURCES = {"corp": 50, "branch": 30, "web": 30, "hosted": 20}
CORE = 5
"""Number of recipients of a source that no event touches: they must be known at any time."""
_AHEAD = 60 * DAY
_FUTURE = 600.0
_SWITCH = ROOT / "contrib" / "doubt-switch.sh"


def form_c(recipients: str, doubt: str) -> dict[str, str]:
    """Return the parameters of main.cf by which smtpd asks the doubt table."""
    asked = f"check_recipient_access {recipients}, check_recipient_access {doubt}, reject_unlisted_recipient"
    return {"smtpd_sender_restrictions": asked, "default_transport": "smtp"}


def in_text(file: Path) -> frozenset[str]:
    """Return the addresses in the text of a map; none if it cannot be read."""
    try:
        lines = file.read_text("utf-8").splitlines()
    except OSError:
        return frozenset()
    return frozenset(line.removesuffix(" OK") for line in lines if not line.startswith("#"))


def _with_end(text: bytes) -> bytes:
    """Return a text with the line that ends a list over HTTP."""
    return text + f"# end {text.count(LF)} {hashlib.sha256(text).hexdigest()}\n".encode()


class Sources:
    """The sources: what each lists now, and whether it can be read."""

    def __init__(self, directory: Path, http: ScriptedHTTP) -> None:
        self.listed: dict[str, set[str]] = {name: set() for name in SOURCES}
        self.reported = ["delta.example"]
        self.broken: set[str] = set()
        self.more: dict[str, tuple[str, ...]] = {}
        self._directory = directory
        http.routes["/web"] = self._web

    def file(self, name: str) -> Path:
        """Return the file of a source."""
        return self._directory / f"{name}.list"

    def heading(self, name: str) -> str:
        """Return the first line of a source that reports domains."""
        return f"# domains: {', '.join(self.reported)}\n" if name == "hosted" else ""

    def write(self, name: str) -> None:
        """Write what a source lists and further lines, by a rename, as a good primary does; not while it is broken."""
        if name not in self.broken:
            lines = (*sorted(self.listed[name]), *self.more.get(name, ()))
            self.put(name, self.heading(name) + "".join(f"{line}\n" for line in lines))

    def put(self, name: str, text: str) -> None:
        """Put a text in the place of a source's file."""
        file = self.file(name)
        if file.is_dir():
            file.rmdir()
        new = self._directory / f"new-{name}"
        new.write_text(text, encoding="utf-8")
        new.replace(file)

    def _web(self, _: Asked) -> Iterator[Part]:
        """Answer the HTTP source."""
        if "web" in self.broken and not self.file("web").is_file():
            return iter(answer("out of order", 500))
        return iter(answer(_with_end(self.file("web").read_bytes()), content_type="text/plain"))

    def domains(self, name: str) -> frozenset[str]:
        """Return the domains that a source concerns."""
        return frozenset(address.rpartition("@")[2] for address in self.listed[name])


@dataclass
class Fault:
    """A reason to expect doubt about some domains, from its begin until it is mended; ``seen``: a run has seen it."""

    name: str
    domains: frozenset[str]
    seen: bool = False


@dataclass
class Oracle:
    """What must be answered, by the history of events."""

    clock: Clock
    core: set[str] = field(default_factory=set)
    claims: dict[str, float] = field(default_factory=dict)
    """By address: until when it may get no 5xx, in seconds since the epoch."""
    gone: dict[str, float] = field(default_factory=dict)
    """By address: when it was seen to be removed from the map, and has not been listed since."""
    faults: list[Fault] = field(default_factory=list)
    domains: dict[str, float] = field(default_factory=dict)
    """The domains of the table, and when each came."""
    calm_runs: int = 0
    """Number of finished runs since anything was wrong anywhere, each at least six minutes after the one before."""
    last_calm: float = 0.0
    asked: Counter[str] = field(default_factory=Counter)
    unsure: dict[str, float] = field(default_factory=dict)
    """By domain: until when it may be in doubt for a reason of before the state was lost."""
    running: bool = False
    """Whether a run is under way, which may end the doubt by the switch."""

    def claimed(self) -> frozenset[str]:
        """Return the addresses that may get no 5xx now."""
        now = max(self.clock.now, self.clock.latest)
        return frozenset(
            address
            for address, until in self.claims.items()
            if until > now and address.rpartition("@")[2] in self.domains
        )

    def vouch(self, addresses: Iterable[str]) -> None:
        """Count these addresses as valid: a finished run heard of them in a whole answer."""
        for address in addresses:
            self.claims[address] = float("inf")
            self.gone.pop(address, None)

    def drop(self, addresses: Iterable[str]) -> None:
        """Count these addresses as dropped now, in error or not: for a time they may get no 5xx."""
        for address in addresses:
            if address in self.claims:
                self.claims[address] = min(self.claims[address], self.clock.now + REMOVED)

    def forget(self, published: frozenset[str]) -> None:
        """Claim nothing of removed addresses that neither a restored map nor a source has."""
        for address, until in list(self.claims.items()):
            if until != float("inf") and address not in published:
                del self.claims[address]

    def remove_again(self, addresses: Iterable[str]) -> None:
        """Count these addresses as removed now: a restored state has them, and so the next run removes them."""
        self.gone.update(dict.fromkeys(addresses, self.clock.now))

    def lose_reasons(self, coming: Iterable[str]) -> None:
        """Expect that the state is lost now: what is in doubt then stays so for as long as a removed address.

        ``coming`` are domains that were published just now.
        """
        for domain in (*self.domains, *coming):
            if domain not in self.domains or not self.certain(domain):
                self.unsure[domain] = self.clock.now + REMOVED + 3 * HOUR

    def in_doubt(self) -> frozenset[str]:
        """Return the domains that must be in doubt: a run that has finished has seen the reason."""
        seen = frozenset().union(
            *(fault.domains for fault in self.faults if fault.seen and not (self.running and fault.name in _BY_RUN))
        )
        return frozenset(self.domains) if seen >= ALL else seen & frozenset(self.domains)

    def certain(self, domain: str) -> bool:
        """True if nothing can be in doubt about a domain any more."""
        age = self.clock.now - self.domains[domain]
        if any(domain in fault.domains or fault.name == UNSETTLED for fault in self.faults):
            return False
        if self.unsure.get(domain, 0.0) > self.clock.now:
            return False
        return self.calm_runs > _CALM and age > NEW + HOUR and self.clock.now >= self.clock.latest - 1

    def finished(self) -> None:
        """Count a run that finished."""
        for fault in self.faults:
            fault.seen = True
        now = self.clock.now
        if any(not fault.name.startswith("leaving") for fault in self.faults):
            self.calm_runs = 0
        elif now - self.last_calm > LINGERS + MINUTE:
            self.calm_runs += 1
            self.last_calm = now

    def disturb(self) -> None:
        """Begin to count anew: something may be in doubt that is no standing fault."""
        self.calm_runs = 0


_CALM = 2


class Host:
    """The backup MX: a Postfix with form C, the configuration, and syncagent run by the simulated clock."""

    def __init__(self, map_type: str, seed: int) -> None:
        need_postfix(map_type)
        need_postfix("lmdb")
        self.random = random.Random(seed)  # noqa: S311 - to be repeated
        self._asks = random.Random(seed)  # noqa: S311 - apart: how often it is asked depends on the machine
        self.clock = Clock(_AHEAD)
        self.stack = contextlib.ExitStack()
        self.directory = Path(tempfile.mkdtemp(prefix="month-")).resolve()
        self.directory.chmod(0o755)
        self.stack.callback(shutil.rmtree, self.directory, ignore_errors=True)
        self.tables = self.directory / "tables"
        self.tables.mkdir(mode=0o755)
        self._mount()
        self.state, self.config = self.tables / "state", self.directory / "syncagent.toml"
        self.recipients, self.doubt = f"{map_type}:{self.tables}/relay_recipients", f"lmdb:{self.tables}/doubt"
        self.relay = f"lmdb:{self.tables}/relay_domains"
        self.postfix = PrivatePostfix(
            [self.relay], self.recipients, directory=self.directory / "postfix", **form_c(self.recipients, self.doubt)
        )
        self.http = self.stack.enter_context(ScriptedHTTP())
        self.sources = Sources(self.directory, self.http)
        self.oracle = Oracle(self.clock)
        self.old: Client | None = None
        self._old_claims: frozenset[str] = frozenset()
        self.log: list[str] = []
        self.finished_at: list[float] = []
        self.last: dict[str, object] = {}
        self._coming: dict[str, float] = {}
        self.bin = self.directory / "bin"
        self._postmap()

    def __enter__(self) -> Self:
        """Publish the first map, then start Postfix."""
        try:
            people = [f"{source}{number:02}" for source, count in SOURCES.items() for number in range(count)]
            for name in people:
                source = name.rstrip("0123456789")
                self.sources.listed[source].add(f"{name}@{self._home(source, int(name[-2:]))}")
            for name in SOURCES:
                self.oracle.core |= set(sorted(self.sources.listed[name])[:CORE])
                self.sources.write(name)
            self.configure()
            done = self.run("sync", "--accept-incomplete", asks=False)
            assert self.last.get("status") == "published", (self.log, self.last)
            assert done.code == 0, (self.log, self.last)
            self.stack.callback(self.postfix.stop)
            self.postfix.start()
            self.oracle.domains, self._coming = self._coming, {}
        except BaseException:
            self.stack.close()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """End everything."""
        if kind is not None:
            self.say(self.beside())
        if self.old:
            self.old.close()
        self.stack.close()

    @staticmethod
    def _home(source: str, number: int) -> str:
        """Return the domain of a recipient."""
        homes = {"corp": "alpha.example", "branch": "beta.example", "web": "gamma.example", "hosted": "delta.example"}
        return "beta.example" if source == "corp" and number >= 40 else homes[source]

    def _mount(self) -> None:
        """Put the tables and the state on a small file system of their own, which can be filled up."""
        done = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", "size=64m,mode=0755", "month", self.tables], check=False, capture_output=True
        )
        self.small = done.returncode == 0
        if self.small:
            self.stack.callback(lambda: subprocess.run(["umount", "-l", self.tables], check=False))

    def _postmap(self) -> None:
        """Put a postmap first on PATH that fails while a file is there."""
        real = shutil.which("postmap", path=f"{os.environ['PATH']}:/usr/sbin")
        self.bin.mkdir()
        self.postmap_fails = self.directory / "postmap-fails"
        program = self.bin / "postmap"
        program.write_text(
            f"#!/bin/sh\nif [ -e '{self.postmap_fails}' ]; then echo 'postmap: fatal: made to fail' >&2; exit 1; fi\n"
            f'exec {real} "$@"\n'
        )
        program.chmod(0o755)

    def configure(self) -> None:
        """Write the configuration."""
        tables: dict[str, dict[str, object]] = {
            "postfix": {
                "map": self.recipients,
                "relay_domains": CONFIGURED,
                "domains_map": self.relay,
                "allow_domains": ["*.example"],
                "config_directory": str(self.postfix.config_directory),
                "doubt_map": self.doubt,
                "doubt_new": "1h",
            },
            "limits": {"removed_percent": 10, "removed_floor": 5, "canaries": [min(self.oracle.core)]},
            "state": {"directory": str(self.state)},
        }
        for name in SOURCES:
            own: dict[str, object] = {"type": "file", "path": str(self.sources.file(name))}
            if name == "web":
                own = {"type": "http", "format": "lines", "url": f"{self.http.url}/web", "insecure": True}
            tables[f"sources.{name}"] = own
        lines: list[str] = []
        for head, table in tables.items():
            lines += [f"[{head}]", *(f"{key} = {json.dumps(value)}" for key, value in table.items()), ""]
        self.config.write_text("\n".join(lines), encoding="utf-8")

    # --- asking

    def say(self, text: str) -> None:
        """Add a line to the protocol, which is shown if a test fails, and goes to SYNCAGENT_MONTH_LOG meanwhile."""
        self.log.append(f"{(self.clock.now - _AHEAD) / HOUR % 10000:8.2f} h  {text}")
        if file := os.environ.get("SYNCAGENT_MONTH_LOG"):
            with Path(file).open("a", encoding="utf-8") as progress:
                progress.write(f"{self.log[-1]}\n")

    def unknown(self, domain: str) -> str:
        """Return an address that never was."""
        return f"unknown{self._asks.randrange(10**6)}@{domain}"

    def reopen(self) -> None:
        """End the old session and begin another, which becomes old."""
        if self.old:
            self.old.close()
        self._old_claims = self.oracle.claimed()
        self.old = self.postfix.client()
        self.old.open()

    def probe(self, *, whole: bool = False) -> None:
        """Ask in a new session and in the old one for known, removed, unknown and foreign recipients."""
        if self._coming and not self.oracle.running:
            self._relayed()
        claimed = self.oracle.claimed()
        picked = self._picked(claimed, whole=whole)
        with self.postfix.client() as client:
            for address in picked:
                self._judge(address, client.verdict(address).code, claimed, new=True)
        if self.old is None or not self.old.is_open:
            self.reopen()
        assert self.old
        for address in picked:
            self._judge(address, self.old.verdict(address).code, claimed & self._old_claims, new=False)

    def _picked(self, claimed: frozenset[str], *, whole: bool) -> list[str]:
        """Choose whom to ask for."""
        domains = sorted(self.oracle.domains)
        if not whole:
            domains = self._asks.sample(domains, min(2, len(domains)))
        restless = sorted(address for address in claimed if self.oracle.claims[address] != float("inf"))
        settled = sorted(claimed - set(restless) - self.oracle.core)
        gone = sorted(self.oracle.gone)
        return [
            FOREIGN,
            self._asks.choice(sorted(self.oracle.core)),
            *self._asks.sample(settled, min(len(settled), 30 if whole else 2)),
            *self._asks.sample(restless, min(len(restless), 30 if whole else 3)),
            *self._asks.sample(gone, min(len(gone), 10 if whole else 1)),
            *map(self.unknown, domains),
        ]

    def _judge(self, address: str, code: int, claimed: frozenset[str], *, new: bool) -> None:
        """Assert that this may be answered for an address."""
        oracle, where = self.oracle, "a new session" if new else "the old session"
        domain = address.rpartition("@")[2]
        kind = self._kind(address, claimed)
        oracle.asked[f"{kind} {code}"] += 1
        told = f"{kind} recipient {address} gets {code} in {where}; faults {oracle.faults}, calm {oracle.calm_runs}"
        if kind == "foreign":
            assert code == 554, told
        elif kind == "known":
            assert code == 250, told
        elif kind == "valid":
            assert code < 500, told
        elif kind == "unknown":
            assert code != 250, told
            if new and domain in oracle.in_doubt():
                assert code == 450, told
            if new and domain in oracle.domains and oracle.certain(domain):
                assert code == 550, told
        elif (
            kind == "removed"
            and new
            and domain in oracle.domains
            and oracle.certain(domain)
            and self._doubt_is_over(address)
        ):
            assert code == 550, told

    def _doubt_is_over(self, address: str) -> bool:
        """True if a removed address may not be in doubt by itself any more."""
        last = (self.finished_at or [0.0])[-2:][0]  # only a run drops a line
        return last > self.oracle.gone[address] + REMOVED + 3 * HOUR

    def _kind(self, address: str, claimed: frozenset[str]) -> str:
        if address == FOREIGN:
            return "foreign"
        if address in self.oracle.core:
            return "known"
        if address in claimed:
            return "valid"
        if address.startswith("unknown"):
            return "unknown"
        return "removed" if address in self.oracle.gone else "other"

    # --- running

    def run(self, *args: str, asks: bool = True, kill: int = 0, python: str = sys.executable) -> Done:
        """Run the command and ask at each stop; kill it at the stop of this number, if it has so many."""

        def at(stop: int) -> bool:
            if asks:
                self.probe()
            return stop == kill

        env = {**self.clock.env, "PATH": f"{self.bin}:{os.environ['PATH']}"}
        words = [*args, "--json"] if args[0] in {"sync", "approve"} else [*args]
        before = self.in_map()
        self.oracle.running = True
        done = run_stepped(self.directory, "--config", str(self.config), *words, at=at, env=env, python=python)
        self.oracle.running = False
        if args[0] in {"sync", "approve"}:
            self._account(done, before)
        self.say(f"{' '.join(args)}: {done.code} {self._outcome()} {done.stderr.strip()[-200:]}")
        if asks:
            self.probe()
        return done

    def _outcome(self) -> str:
        """Return the end of a run in words, for the protocol."""
        told = [self.last.get(key) for key in ("status", "error", "doubt_error")]
        told += [f"held {hold['domain']}: {[reason['kind'] for reason in hold['reasons']]}" for hold in self._held()]
        return "; ".join(str(value) for value in told if value)

    def _held(self) -> list[dict[str, Any]]:
        """Return what the last run held."""
        plan = self.last.get("plan")
        return plan["holds"] if isinstance(plan, dict) else []

    def _account(self, done: Done, before: frozenset[str]) -> None:
        """Learn from how a run ended."""
        self.last = {}
        with contextlib.suppress(ValueError):
            self.last = json.loads(done.stdout)
        after = self.in_map()
        for address in before - after:
            self.oracle.gone[address] = self.clock.now
        if self.last.get("status") not in {"published", "unchanged"} or done.code not in {0, 65, 75}:
            self.oracle.disturb()
            if done.code < 0:
                self.mend(*_BY_RUN)
            if done.code in {70, 73}:
                self.fault("failed", ALL, seen=True)
            return
        for name in SOURCES.keys() - self.sources.broken:
            self.oracle.vouch(self.sources.listed[name])
        self._learn_domains()
        self.oracle.finished()
        now = self.clock.now
        self.finished_at = [*(at for at in self.finished_at if at <= now), now]
        self.mend(*_BY_RUN)
        if not self._held():
            self.mend(UNSETTLED)
        if not self.oracle.faults and self.oracle.calm_runs > _CALM:
            assert done.code == 0, (done.stdout, done.stderr, self.oracle)

    def _learn_domains(self) -> None:
        """Count the domains of a finished run as ours; those that come are new for a time."""
        expected = {*CONFIGURED, *self.sources.reported, *self.leaving()}
        for domain in expected - self.oracle.domains.keys():
            self._coming.setdefault(domain, self.clock.now)
            self.oracle.disturb()

    def _relayed(self) -> None:
        """Count a new domain as ours once smtpd does.

        Each process of trivial-rewrite looks for a new table of domains every ten seconds; a reload ends them all.
        """
        self.postfix.reload()
        self.reopen()
        for domain, at in list(self._coming.items()):
            if self.postfix.verdict(self.unknown(domain)).code != 554:
                self.say(f"{domain} is relayed")
                self.oracle.domains[domain] = at
                del self._coming[domain]

    @property
    def coming(self) -> tuple[str, ...]:
        """The domains that were published and are not relayed yet."""
        return tuple(self._coming)

    def forget_domains(self) -> None:
        """Claim nothing of domains that a restored table lacks, until a run has published it anew."""
        lines = (self.tables / "relay_domains").read_text("utf-8").splitlines()
        there = {line.partition(" ")[0] for line in lines}
        for domain in self.oracle.domains.keys() - there:
            self._coming[domain] = self.oracle.domains.pop(domain)

    def leaving(self) -> set[str]:
        """Return the domains that the source no longer reports and that were not let go long ago."""
        return {domain for fault in self.oracle.faults if fault.name.startswith("leaving") for domain in fault.domains}

    def beside(self) -> str:
        """Return the text of the doubt table and the files beside it, for the protocol of a failure."""
        lines = []
        for name in ("doubt", "doubt-all", "alive", "doubt-switched"):
            with contextlib.suppress(OSError):
                text = (self.tables / name).read_text("utf-8", "replace")
                lines.append(f"{name}: {[line.partition(' DEFER')[0] for line in text.splitlines()]}")
        index = Path(f"{self.tables}/doubt.lmdb")
        if index.exists():
            keys = postmap_keys(self.postfix.config_directory, self.doubt)
            lines.append(f"doubt.lmdb: {keys}")
        return "\n".join(lines)

    def in_map(self) -> frozenset[str]:
        """Return the addresses in the text of the map."""
        return in_text(self.tables / "relay_recipients")

    def switch(self, *args: str, asks: bool = True) -> None:
        """Run the switch by the simulated clock; learn that it must have fired."""
        words = ["sh", str(_SWITCH), str(self.tables), *args]
        done = subprocess.run(
            words, env={**os.environ, **self.clock.env}, check=False, capture_output=True, text=True, timeout=PATIENCE
        )
        self.say(f"switch {' '.join(args)}: {done.returncode} {done.stderr.strip()[-200:]}")
        assert done.returncode == 0, (done.returncode, done.stderr, "\n".join(self.log[-20:]))
        if args:
            self.fault("boot", ALL, seen=True)
        elif self.is_dead():
            self.fault("dead", ALL, seen=True)
        if asks:
            self.probe()

    def is_dead(self) -> bool:
        """True if the last sign of life is too old, or too far in the future."""
        silence = self.clock.now - (self.finished_at or [0.0])[-1]
        return silence > self.limit() + 3 or silence < -_FUTURE - 3

    def limit(self) -> float:
        """Return after how many seconds syncagent counts as dead."""
        times = sorted(self.finished_at)[-6:]
        gaps = [after - before for before, after in itertools.pairwise(times)]
        return max(LEAST_LIMIT, 3 * max(gaps, default=0.0))

    # --- faults

    def fault(self, name: str, domains: Iterable[str], *, seen: bool = False) -> None:
        """Begin a fault, unless it stands."""
        self.oracle.disturb()
        if all(fault.name != name for fault in self.oracle.faults):
            self.oracle.faults.append(Fault(name, frozenset(domains), seen=seen))

    def mend(self, *names: str) -> None:
        """End faults."""
        if any(fault.name in names for fault in self.oracle.faults):
            self.oracle.disturb()
        self.oracle.faults = [fault for fault in self.oracle.faults if fault.name not in names]

    def stands(self, name: str) -> bool:
        """True if a fault stands."""
        return any(fault.name == name for fault in self.oracle.faults)

    def holds(self) -> list[str]:
        """Return the IDs of the holds that a person may approve, by the last run."""
        assert isinstance(self.last.get("plan"), dict), self.log[-5:]
        return [hold["id"] for hold in self._held() if all(reason["approvable"] for reason in hold["reasons"])]

    def held_domains(self, ids: Collection[str]) -> set[str]:
        """Return the domains of these holds, by the last run."""
        return {hold["domain"] for hold in self._held() if hold["id"] in ids}


Event = Callable[["Month"], None]


class Month:
    """The events of a time on a host, drawn from its random numbers."""

    def __init__(self, host: Host, *, tick: float) -> None:
        """``tick`` is the time between two runs by the timer, in seconds."""
        self.host, self.tick = host, tick
        self.later: list[tuple[float, str, Callable[[], None]]] = []
        self.events: Counter[str] = Counter()
        self._number = 0
        self._copies: list[tuple[float, Path]] = []

    @property
    def random(self) -> random.Random:
        """The source of all choices."""
        return self.host.random

    # --- time

    def live(self, hours: float) -> None:
        """Let time pass, with a run at each tick, what was put off for later, and the switch."""
        host = self.host
        end = host.clock.now + hours * HOUR
        while (left := end - host.clock.now) > 1:
            host.clock.step(min(left, self.tick))
            self._due()
            self._copy()
            host.run("sync")
            self.look()

    def look(self) -> None:
        """Run the switch, and begin another old session now and then."""
        self.host.switch()
        if self.random.random() < 0.4:
            self.host.reopen()

    def _due(self) -> None:
        now = self.host.clock.now
        for item in sorted(self.later, key=lambda item: item[0]):
            if item[0] <= now:
                self.later.remove(item)
                self.host.say(item[1])
                item[2]()

    def after(self, hours: float, text: str, action: Callable[[], None]) -> None:
        """Put something off."""
        self.later.append((self.host.clock.now + hours * HOUR, text, action))

    def do(self, event: Event) -> None:
        """Let an event happen."""
        name = event.__name__.strip("_")
        self.host.say(f"--- {name}")
        self.events[name] += 1
        event(self)

    def settle(self) -> None:
        """Mend all, approve what is held, and let things calm down; then nothing may be in doubt any more."""
        host = self.host
        while self.later:
            _, text, action = self.later.pop(0)
            host.say(text)
            action()
        for _ in range(6):
            host.clock.step(max(HOUR, host.clock.latest - host.clock.now + MINUTE))
            done = host.run("sync")
            if ids := host.holds():
                self.approve(ids)
                continue
            host.mend(UNSETTLED, FAILED)
            if done.code == 0 and host.in_map() == set().union(*host.sources.listed.values()):
                break
        host.oracle.disturb()
        for _ in range(_CALM + 2):
            host.clock.step(10 * MINUTE)
            host.run("sync")
        self.look()
        host.probe(whole=True)

    def approve(self, ids: list[str]) -> None:
        """Approve holds: what no source lists may be let go."""
        host = self.host
        listed = set().union(*host.sources.listed.values())
        if not host.oracle.core <= listed:  # a person sees that these are not to go
            host.fault(FAILED, ())
            return
        host.oracle.drop(host.in_map() - listed)
        approved = host.held_domains(ids)
        faults = [fault for fault in host.oracle.faults if fault.name.endswith(_HELD) and fault.domains <= approved]
        host.mend(*(fault.name for fault in faults))
        if host.run("approve", *ids).code not in {0, 65, 75}:
            host.fault(FAILED, ())

    def _copy(self) -> None:
        """Keep a copy of the host's tables and state, one a day."""
        now = self.host.clock.now
        if self._copies and now - self._copies[-1][0] < DAY / 2:
            return
        place = self.host.directory / f"copy-{len(self._copies)}"
        shutil.rmtree(place, ignore_errors=True)
        shutil.copytree(self.host.tables, place, ignore=shutil.ignore_patterns("spool*", ".spool*", ".*syncagent-*"))
        self._copies.append((now, place))

    def old_copy(self) -> Path:
        """Return the copy that is a week old, or the oldest."""
        self._copy()
        week = self.host.clock.now - 7 * DAY
        older = [place for at, place in self._copies if at <= week]
        return older[-1] if older else self._copies[0][1]

    def name(self) -> str:
        """Return a local part that never was."""
        self._number += 1
        return f"new{self._number}"

    def victims(self, source: str, count: int) -> list[str]:
        """Return recipients of a source that may be touched, fewer than ``count`` where the limits would hold them."""
        host = self.host
        fresh = {address for address, at in host.oracle.gone.items() if host.clock.latest - at < 26 * HOUR}
        listed = set().union(*host.sources.listed.values())
        missing = (host.in_map() - listed) | fresh
        room = min(4 - sum(1 for address in missing), count)
        able = sorted(host.sources.listed[source] & host.oracle.claims.keys() - host.oracle.core)
        return self.random.sample(able, max(0, min(room, len(able) - 8)))
