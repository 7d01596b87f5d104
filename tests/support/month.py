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
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from tests.support.faketime import Clock
from tests.support.month_directory import DOMAIN as STAFF
from tests.support.month_directory import Directory
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
"""A fault that puts nothing in doubt for sure, but something may be held in its domains until a run holds nothing."""
FAILED = "an approval failed"
STATE_NEW = "state-new"
"""A fault by which every removal is held, for limits.removed_window or until a person approves it."""
LOST_MANY = "lost many"
"""End of the names of the faults whose holds a person may approve."""
FOREIGN = "nobody@elsewhere.example.net"
LF = b"\n"
ALL = frozenset({"*"})
_CONFIGURED = ("alpha.example", "beta.example", "gamma.example")
SOURCES = {"corp": 50, "branch": 30, "web": 30, "hosted": 20, "staff": 40}
"""Sources and numbers of their recipients; ``staff`` is a directory, which only some hosts have."""
_SETTINGS: dict[str, dict[str, object]] = {
    "corp": {"type": "file", "confirm_after": "0s"},
    "branch": {"type": "file"},
    "web": {"type": "http", "format": "lines", "insecure": True, "foreign": True, "confirm_after": "2h"},
    "hosted": {"type": "file", "require_end": True},
}
WAITS = {"corp": HOUR, "branch": DAY, "web": 2 * HOUR, "hosted": HOUR, "staff": HOUR}
"""The least time for which a missing recipient of a source stays: removal_grace (1h), or confirm_after (24h)."""
WINDOW = DAY
"""limits.removed_window."""
_MOST_MISSING, _LEAST_LEFT = 4, 12
"""In a domain: the number of removals that trips no limit, in a domain that keeps so many recipients."""
CORE = 5
"""Number of recipients of a source that no event touches: they must be known at any time."""
_AHEAD = 60 * DAY
_FUTURE = 600.0
_GARBAGE = "\x01\x02 no list of recipients at all \x03\n" * 20
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


def with_end(text: str) -> str:
    """Return a list with its end line."""
    octets = text.encode()
    return text + f"# end {octets.count(LF)} {hashlib.sha256(octets).hexdigest()}\n"


def _time(moment: float) -> str:
    """Return a time as in RFC 3339."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(moment))


def _domain(address: str) -> str:
    return address.rpartition("@")[2]


class Sources:
    """The sources: what each lists now, and whether it can be read. Their clock is right when the host's is not."""

    def __init__(self, directory: Path, http: ScriptedHTTP, clock: Clock, staff: Directory | None) -> None:
        names = [name for name in SOURCES if staff or name != "staff"]
        self.listed: dict[str, set[str]] = {name: set() for name in names}
        self.staff = staff
        self.reported = ["delta.example"]
        self.broken: set[str] = set()
        """Those that do not say what they list: they fail, or what they say is old, or not all."""
        self.unmodified = False
        """Whether the server of ``web`` answers 304 to everything."""
        self.more: dict[str, tuple[str, ...]] = {}
        self.unreadable: dict[str, set[str]] = {}
        """Addresses of a source that stand in it in a form that cannot be read."""
        self.clock, self.apart = clock, 0.0
        self._made = 0.0
        self._directory = directory
        http.routes["/web"] = self._web

    @property
    def now(self) -> float:
        """The sources' time, in seconds since the epoch."""
        return self.clock.now + self.apart

    def file(self, name: str) -> Path:
        """Return the file of a source."""
        return self._directory / f"{name}.list"

    def _heading(self, name: str, made: float, expires: float) -> str:
        """Return the first lines of a source that reports domains."""
        if name != "hosted":
            return ""
        expiry = f"# expires: {_time(expires)}\n" if expires else ""
        return f"# domains: {', '.join(self.reported)}\n# made: {_time(made)}\n{expiry}"

    def text(self, name: str, *, made: float = 0.0, expires: float = 0.0) -> str:
        """Return the list of a source as it should be now, or made at another time."""
        unreadable = self.unreadable.get(name, set())
        lines = [address.replace("@", " at ") if address in unreadable else address for address in self.listed[name]]
        text = "".join(f"{line}\n" for line in (*sorted(lines), *self.more.get(name, ())))
        text = self._heading(name, made or self.now, expires) + text
        return with_end(text) if name == "hosted" else text

    def write(self, name: str) -> None:
        """Write what a source lists and further lines, by a rename, as a good primary does; not while it is broken."""
        if name in self.broken:
            return
        if name == "staff":
            assert self.staff
            self.staff.have(self.listed[name])
        else:
            self.put(name, self.text(name))

    def fail(self, name: str, way: str) -> None:
        """Make a source fail: its file is ``missing``, a ``directory``, ``empty`` or ``garbage``."""
        self.broken.add(name)
        if name == "staff":
            assert self.staff
            self.staff.stop()
        elif way in {"garbage", "empty"}:
            self.put(name, _GARBAGE if way == "garbage" else "")
        else:
            self.file(name).unlink()
            if way == "directory" and name != "web":
                self.file(name).mkdir()

    def repair(self, name: str) -> None:
        """Let a source say again what it lists."""
        self.broken.discard(name)
        if name == "staff":
            assert self.staff
            self.staff.start()
        self.write(name)

    def remake(self) -> None:
        """Write the list that has a date anew, once an hour."""
        if self.now - self._made >= HOUR:
            self.write("hosted")

    def put(self, name: str, text: str) -> None:
        """Put a text in the place of a source's file."""
        file = self.file(name)
        if file.is_dir():
            file.rmdir()
        new = self._directory / f"new-{name}"
        new.write_text(text, encoding="utf-8")
        new.replace(file)
        if name == "hosted":
            self._made = self.now

    def _web(self, asked: Asked) -> Iterator[Part]:
        """Answer the HTTP source."""
        if "web" in self.broken and not self.file("web").is_file():
            return iter(answer("out of order", 500))
        body = self.file("web").read_bytes()
        etag = f'"{hashlib.sha256(body).hexdigest()[:16]}"'
        if self.unmodified or asked.headers.get("if-none-match") == etag:
            return iter(answer(b"", 304, ETag=etag))
        return iter(answer(body, content_type="text/plain", ETag=etag))

    def said(self, name: str) -> set[str]:
        """Return the addresses that a whole answer of a source has."""
        return self.listed[name] - self.unreadable.get(name, set())

    def honest(self) -> list[str]:
        """Return the names of the sources that say what they list."""
        return [name for name in self.listed if name not in self.broken and not (name == "web" and self.unmodified)]

    def domains(self, name: str) -> frozenset[str]:
        """Return the domains that a source concerns."""
        return frozenset(map(_domain, self.listed[name]))


@dataclass
class Fault:
    """A reason to expect doubt about some domains, from its begin until it is mended; ``seen``: a run has seen it.

    ``may``: domains that it may put in doubt. ``until``: until when it certainly stands, unless it is mended.
    ``lasts``: how long after the first run that saw it a run ends it, and ``over`` is when that is.
    """

    name: str
    domains: frozenset[str]
    seen: bool = False
    may: frozenset[str] = frozenset()
    until: float = float("inf")
    lasts: float = float("inf")
    over: float = float("inf")

    def concerns(self, domain: str) -> bool:
        """True if the domain is or may be in doubt by it."""
        both = self.domains | self.may
        return domain in both or both >= ALL


@dataclass
class Oracle:
    """What must be answered, by the history of events."""

    clock: Clock
    core: set[str] = field(default_factory=set)
    claims: dict[str, float] = field(default_factory=dict)
    """By address: until when it may get no 5xx, in seconds since the epoch."""
    stays: dict[str, float] = field(default_factory=dict)
    """By address that is missing from its source: until when it may not leave the map, in seconds since the epoch."""
    gone: dict[str, float] = field(default_factory=dict)
    """By address: when it was seen to be removed from the map, and has not been listed since."""
    faults: list[Fault] = field(default_factory=list)
    domains: dict[str, float] = field(default_factory=dict)
    """The domains of the table, and when each came."""
    calm: Counter[str] = field(default_factory=Counter)
    """By domain: finished runs since anything was wrong with it, each at least six minutes after the one before."""
    last_calm: dict[str, float] = field(default_factory=dict)
    missing: frozenset[str] = frozenset()
    """The domains with recipients that are in the map and in no source: what is wrong elsewhere holds these."""
    asked: Counter[str] = field(default_factory=Counter)
    unsure: dict[str, float] = field(default_factory=dict)
    """By domain: until when it may be in doubt for a reason of before the state was lost."""
    last_finished: float = 0.0
    """When the last run finished, by the simulated clock."""
    running: bool = False
    """Whether a run is under way, which may end the doubt by the switch."""

    def claimed(self) -> frozenset[str]:
        """Return the addresses that may get no 5xx now."""
        now = max(self.clock.now, self.clock.latest)
        return frozenset(
            address for address, until in self.claims.items() if until > now and _domain(address) in self.domains
        )

    def staying(self) -> frozenset[str]:
        """Return the addresses that are missing from their sources, and must be in the map."""
        now = max(self.clock.now, self.clock.latest)
        return frozenset(address for address, until in self.stays.items() if until > now)

    def vouch(self, addresses: Iterable[str]) -> None:
        """Count these addresses as valid: a finished run heard of them in a whole answer."""
        for address in addresses:
            self.claims[address] = float("inf")
            self.gone.pop(address, None)
            self.stays.pop(address, None)

    def drop(self, addresses: Iterable[str], wait: float = 0.0) -> None:
        """Count these addresses as dropped now, in error or not: for a time they may get no 5xx.

        ``wait`` is the least time for which they stay in the map, in seconds.
        """
        for address in addresses:
            if self.claims.get(address) == float("inf"):
                self.stays[address] = self.clock.now + wait
            if address in self.claims:
                self.claims[address] = min(self.claims[address], self.clock.now + REMOVED)

    def hold(self, addresses: Iterable[str], wait: float = float("inf")) -> None:
        """Expect these addresses to stay in the map though a source does not say them."""
        self.stays.update((address, self.clock.now + wait) for address in addresses if address in self.claims)

    def release(self, addresses: Iterable[str]) -> None:
        """Expect no longer that these addresses stay in the map."""
        for address in addresses:
            self.stays.pop(address, None)

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

        A source that fails has never answered then, and so concerns every domain. ``coming`` are domains that were
        published just now.
        """
        for domain in (*self.domains, *coming):
            if domain not in self.domains or not self.certain(domain):
                self.unsure[domain] = self.clock.now + REMOVED + 3 * HOUR
        now = self.clock.now
        self.gone.update({address: now for address, at in self.gone.items() if now - at < REMOVED + 3 * HOUR})
        for fault in self.faults:
            fault.may = ALL

    def in_doubt(self) -> frozenset[str]:
        """Return the domains that must be in doubt: a run that has finished has seen the reason."""
        now = max(self.clock.now, self.clock.latest)
        standing = (fault for fault in self.faults if fault.seen and fault.until > now)
        seen = frozenset().union(*(fault.domains for fault in standing if not (self.running and fault.name in _BY_RUN)))
        return frozenset(self.domains) if seen >= ALL else seen & frozenset(self.domains)

    def _is_calm(self, domain: str) -> bool:
        """True if no fault can put the domain in doubt: none that concerns it, none at all if it has missing ones."""
        if any(fault.concerns(domain) for fault in self.faults):
            return False
        return domain not in self.missing or all(fault.name.startswith("leaving") for fault in self.faults)

    def certain(self, domain: str) -> bool:
        """True if nothing can be in doubt about a domain any more."""
        at = min(self.clock.now, self.last_finished)  # only a run drops a line
        if not self._is_calm(domain) or self.unsure.get(domain, 0.0) > at:
            return False
        age = at - self.domains[domain]
        return self.calm[domain] > _CALM and age > NEW + HOUR and self.clock.now >= self.clock.latest - 1

    def finished(self) -> None:
        """Count a run that finished."""
        now = self.last_finished = self.clock.now
        for fault in self.faults:
            if not fault.seen or fault.over - fault.lasts > now:  # the clock was set back
                fault.over = now + fault.lasts
            fault.seen = True
        self.mend(*(fault.name for fault in self.faults if fault.over <= now))
        for domain in self.domains:
            if not self._is_calm(domain):
                self.calm[domain] = 0
            elif now - self.last_calm.get(domain, 0.0) > LINGERS + MINUTE:
                self.calm[domain] += 1
                self.last_calm[domain] = now

    def disturb(self, domains: frozenset[str] = ALL) -> None:
        """Begin to count anew: something may be in doubt about these domains that is no standing fault."""
        for domain in self.domains if domains >= ALL else domains:
            self.calm[domain] = 0

    def begin(self, fault: Fault) -> None:
        """Begin a fault, unless it stands."""
        self.disturb(fault.domains | fault.may)
        if all(other.name != fault.name for other in self.faults):
            self.faults.append(fault)

    def mend(self, *names: str) -> None:
        """End faults."""
        for fault in self.faults:
            if fault.name in names:
                self.disturb(fault.domains | fault.may)
        self.faults = [fault for fault in self.faults if fault.name not in names]

    def forget_holds(self) -> None:
        """Expect that recipients that were held wait anew: ``state-new`` holds them first."""
        self.stays = {address: until for address, until in self.stays.items() if until != float("inf")}

    def set_back(self) -> None:
        """Expect that the clock was set back: what began later than now begins again."""
        now = self.clock.now
        for fault in self.faults:
            if fault.lasts != float("inf"):
                fault.until = min(fault.until, now + fault.lasts - LINGERS)
        self.stays = {address: until for address, until in self.stays.items() if until == float("inf")}


_CALM = 2


class Host:
    """The backup MX: a Postfix with form C, the configuration, and syncagent run by the simulated clock."""

    def __init__(self, map_type: str, seed: int, *, directory: bool = False) -> None:
        """``directory``: whether it has a source that is a directory."""
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
        staff = self.stack.enter_context(Directory(self.directory)) if directory else None
        self.sources = Sources(self.directory, self.http, self.clock, staff)
        self.configured = (*_CONFIGURED, STAFF) if staff else _CONFIGURED
        self.oracle = Oracle(self.clock)
        self.old: Client | None = None
        self._old_claims: frozenset[str] = frozenset()
        self.log: list[str] = []
        self.finished_at: list[float] = []
        self.last: dict[str, object] = {}
        self._coming: dict[str, float] = {}
        self.identity = 0
        """Number of the state: another one after it was lost."""
        self.losses = 0
        self.bin = self.directory / "bin"
        self._postmap()

    def __enter__(self) -> Self:
        """Publish the first map, then start Postfix."""
        try:
            listed = self.sources.listed
            people = [f"{source}{number:02}" for source in listed for number in range(SOURCES[source])]
            for name in people:
                source = name.rstrip("0123456789")
                listed[source].add(f"{name}@{self._home(source, int(name[-2:]))}")
            for name in listed:
                self.oracle.core |= set(sorted(listed[name])[:CORE])
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
        homes = {
            "corp": "alpha.example",
            "branch": "beta.example",
            "web": "gamma.example",
            "hosted": "delta.example",
            "staff": STAFF,
        }
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
                "relay_domains": self.configured,
                "domains_map": self.relay,
                "allow_domains": ["*.example"],
                "config_directory": str(self.postfix.config_directory),
                "doubt_map": self.doubt,
                "doubt_new": "1h",
            },
            "limits": {"removed_percent": 10, "removed_floor": 5, "canaries": [min(self.oracle.core)]},
            'limits."gamma.example"': {"removed_max": 5, "removed_percent": 90},
            "state": {"directory": str(self.state)},
        }
        for name, settings in _SETTINGS.items():
            where = {"url": f"{self.http.url}/web"} if name == "web" else {"path": str(self.sources.file(name))}
            tables[f"sources.{name}"] = {**settings, **where}
        if self.sources.staff:
            tables["sources.staff"] = self.sources.staff.settings
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
        stays = sorted(self.oracle.staying() & claimed)
        gone = sorted(self.oracle.gone)
        return [
            FOREIGN,
            self._asks.choice(sorted(self.oracle.core)),
            *self._asks.sample(settled, min(len(settled), 30 if whole else 2)),
            *self._asks.sample(restless, min(len(restless), 30 if whole else 3)),
            *self._asks.sample(stays, min(len(stays), 30 if whole else 2)),
            *self._asks.sample(gone, min(len(gone), 10 if whole else 1)),
            *map(self.unknown, domains),
        ]

    def _judge(self, address: str, code: int, claimed: frozenset[str], *, new: bool) -> None:
        """Assert that this may be answered for an address."""
        oracle, where = self.oracle, "a new session" if new else "the old session"
        domain = address.rpartition("@")[2]
        kind = self._kind(address, claimed)
        oracle.asked[f"{kind} {code}"] += 1
        told = f"{kind} recipient {address} gets {code} in {where}; faults {oracle.faults}, calm {oracle.calm}"
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
            return "known" if address in self.oracle.staying() else "valid"
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
        self.sources.remake()
        before = self.in_map()
        self.oracle.missing = frozenset(map(_domain, before - self.listed()))
        self.oracle.running = True
        done = run_stepped(self.directory, "--config", str(self.config), *words, at=at, env=env, python=python)
        self.oracle.running = False
        if args[0] in {"sync", "approve"}:
            self._account(args[0], done, before)
        self.say(f"{' '.join(args)}: {done.code} {self._outcome()} {done.stderr.strip()[-200:]}")
        if asks:
            self.probe()
        return done

    def _outcome(self) -> str:
        """Return the end of a run in words, for the protocol."""
        told = [self.last.get(key) for key in ("status", "error", "doubt_error")]
        told += [f"held {hold['domain']}: {[reason['kind'] for reason in hold['reasons']]}" for hold in self.held()]
        return "; ".join(str(value) for value in told if value)

    def held(self) -> list[dict[str, Any]]:
        """Return what the last run held."""
        plan = self.last.get("plan")
        return plan["holds"] if isinstance(plan, dict) else []

    def _account(self, verb: str, done: Done, before: frozenset[str]) -> None:
        """Learn from how a run ended."""
        self.last = {}
        with contextlib.suppress(ValueError):
            self.last = json.loads(done.stdout)
        after = self.in_map()
        for address in before - after:
            self.oracle.gone[address] = self.clock.now
        if verb == "sync":
            self._assert_kept(before - after)
        if self.last.get("status") not in {"published", "unchanged"} or done.code not in {0, 65, 75}:
            self.oracle.disturb()
            if done.code < 0:
                self.mend(*_BY_RUN)
            if done.code in {70, 73}:
                self.fault("failed", ALL, seen=True)
            return
        for name in self.sources.honest():
            self.oracle.vouch(self.sources.said(name))
        self._learn_domains()
        self.oracle.finished()
        now = self.clock.now
        self.finished_at = [*(at for at in self.finished_at if at <= now), now]
        self.mend(*_BY_RUN)
        self._settle()
        oracle = self.oracle
        if not oracle.faults and all(oracle.calm[domain] > _CALM for domain in oracle.domains):
            assert done.code == 0, (done.stdout, done.stderr, oracle)

    def _settle(self) -> None:
        """Narrow what a restoration may hold to the domains in which the last run held something."""
        held = {hold["domain"].rpartition(":")[2] for hold in self.held()}
        for fault in self.oracle.faults:
            if fault.name == UNSETTLED:
                fault.may &= held
        if not any(fault.may for fault in self.oracle.faults if fault.name == UNSETTLED):
            self.mend(UNSETTLED)

    def _assert_kept(self, removed: frozenset[str]) -> None:
        """Assert that a run removed nobody while a fault stood by which every removal is held."""
        oracle, now = self.oracle, max(self.clock.now, self.clock.latest)
        holding = [
            fault.name
            for fault in oracle.faults
            if (fault.name == STATE_NEW and fault.until > now) or fault.name.endswith((" fails", " canary"))
        ]
        wrongly = {address for address in removed if _domain(address) not in self.leaving()}
        assert not (holding and wrongly) or self.stands(FAILED), (holding, wrongly)
        assert not wrongly & oracle.staying(), (wrongly & oracle.staying(), oracle)

    def listed(self) -> set[str]:
        """Return what the sources list, or would if they were not broken."""
        return set().union(*self.sources.listed.values())

    def _learn_domains(self) -> None:
        """Count the domains of a finished run as ours; those that come are new for a time."""
        expected = {*self.configured, *self.sources.reported, *self.leaving()}
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
        """Claim nothing of domains that a restored table lacks, until a run has published it anew, as new."""
        lines = (self.tables / "relay_domains").read_text("utf-8").splitlines()
        there = {line.partition(" ")[0] for line in lines}
        for domain in self.oracle.domains.keys() - there:
            del self.oracle.domains[domain]
            self._coming[domain], self.oracle.calm[domain] = self.clock.now, 0

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

    def fault(self, name: str, domains: Iterable[str] = (), *, seen: bool = False, may: Iterable[str] = ()) -> None:
        """Begin a fault, unless it stands."""
        self.oracle.begin(Fault(name, frozenset(domains), seen=seen, may=frozenset(may)))

    def mend(self, *names: str) -> None:
        """End faults."""
        self.oracle.mend(*names)

    def lose_state(self) -> None:
        """Expect that the next run finds the state lost."""
        self.oracle.lose_reasons(self.coming)
        self.oracle.forget_holds()
        self.losses += 1
        self.identity = self.losses
        self.expect_state_new()

    def expect_state_new(self) -> None:
        """Expect that the next run finds a hole in what the state knows."""
        self.mend(STATE_NEW)
        until = self.clock.now + WINDOW - 2 * LINGERS
        self.oracle.begin(Fault(STATE_NEW, ALL, until=until, lasts=WINDOW))

    def set_clock(self, seconds: float) -> None:
        """Set the clock by so many seconds, while that of the sources goes on."""
        self.oracle.disturb()
        self.clock.step(seconds)
        self.sources.apart -= seconds
        if seconds < 0:
            self.oracle.set_back()

    def stands(self, name: str) -> bool:
        """True if a fault stands."""
        return any(fault.name == name for fault in self.oracle.faults)

    def holds(self, *domains: str) -> list[str]:
        """Return the IDs of the holds that a person may approve together, by the last run, but for rejected entries.

        With ``domains`` only those of these domains.
        """
        assert isinstance(self.last.get("plan"), dict), self.log[-5:]
        return [
            hold["id"]
            for hold in self.held()
            if not hold["main"]
            and (not domains or hold["domain"] in domains)
            and not hold["domain"].startswith("rejected:")
            and all(reason["approvable"] or reason["kind"] == "domain" for reason in hold["reasons"])
        ]

    def held_domains(self, ids: Collection[str]) -> set[str]:
        """Return the domains of these holds and of those that end with them, by the last run."""
        keys = {hold["key"] for hold in self.held() if hold["id"] in ids}
        return {hold["domain"] for hold in self.held() if hold["id"] in ids or hold["main"] in keys - {""}}


Event = Callable[["Month"], None]


@dataclass(frozen=True)
class Copy:
    """A copy of the host's tables and state: its time, place, number of the state, and whether ``state-new`` stood."""

    at: float
    place: Path
    identity: int
    state_new: bool


class Month:
    """The events of a time on a host, drawn from its random numbers."""

    def __init__(self, host: Host, *, tick: float) -> None:
        """``tick`` is the time between two runs by the timer, in seconds."""
        self.host, self.tick = host, tick
        self.later: list[tuple[float, str, Callable[[], None]]] = []
        self.events: Counter[str] = Counter()
        self._number = 0
        self._copies: list[Copy] = []

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
            host.clock.step(MINUTE)
            _, text, action = self.later.pop(0)
            host.say(text)
            action()
        for _ in range(12):
            host.clock.step(max(HOUR, host.clock.latest - host.clock.now + MINUTE))
            done = host.run("sync")
            if ids := host.holds():
                self.approve(ids)
                continue
            host.mend(FAILED)
            if done.code == 0 and host.in_map() == host.listed():
                break
            host.clock.step(8 * HOUR)
        assert host.in_map() == host.listed(), host.in_map() ^ host.listed()
        host.oracle.disturb()
        for _ in range(_CALM + 2):
            host.clock.step(10 * MINUTE)
            host.run("sync")
        self.look()
        host.probe(whole=True)

    def approve(self, ids: list[str]) -> None:
        """Approve holds: what no source lists may be let go."""
        host = self.host
        listed = host.listed()
        if not host.oracle.core <= listed:  # a person sees that these are not to go
            host.fault(FAILED, may=ALL)
            return
        approved = host.held_domains(ids)
        going = {one for one in host.in_map() - listed if approved >= ALL or _domain(one) in approved}
        host.oracle.drop(going)
        host.oracle.release(going)
        if approved >= ALL:
            host.mend(STATE_NEW)
        for fault in host.oracle.faults:
            if fault.name.endswith(LOST_MANY) and fault.domains <= approved:
                fault.domains, fault.may = frozenset(), fault.domains | fault.may
        lost = [fault.name for fault in host.oracle.faults if fault.name.endswith(f"{LOST_MANY}") and not fault.domains]
        host.mend(*(name for name in lost if name.removesuffix(f" {LOST_MANY}") in SOURCES))
        if host.run("approve", *ids).code not in {0, 65, 75}:
            host.fault(FAILED, may=ALL)

    def approve_state(self) -> None:
        """Let a person who has compared the map with the sources approve the hold of every removal."""
        host = self.host
        ids = [hold["id"] for hold in host.held() if hold["domain"] == "*"]
        if ids:
            self.approve(ids)

    def _copy(self) -> None:
        """Keep a copy of the host's tables and state, one a day."""
        host, now = self.host, self.host.clock.now
        if self._copies and now - self._copies[-1].at < DAY / 2:
            return
        place = host.directory / f"copy-{len(self._copies)}"
        shutil.rmtree(place, ignore_errors=True)
        shutil.copytree(host.tables, place, ignore=_ignored)
        self._copies.append(Copy(now, place, host.identity, host.stands(STATE_NEW)))

    def old_copy(self) -> Copy:
        """Return the copy that is a week old, or the oldest."""
        self._copy()
        week = self.host.clock.now - 7 * DAY
        older = [copy for copy in self._copies if copy.at <= week]
        return older[-1] if older else self._copies[0]

    def forget_later(self, copy: Copy) -> None:
        """Keep no copy that is later than one: host and copies are those of that time."""
        self._copies = self._copies[: self._copies.index(copy) + 1]

    def name(self) -> str:
        """Return a local part that never was."""
        self._number += 1
        return f"new{self._number}"

    def victims(self, source: str, count: int) -> list[str]:
        """Return recipients of a source that may be touched, fewer than ``count`` where the limits would hold them."""
        host = self.host
        fresh = {address for address, at in host.oracle.gone.items() if host.clock.latest - at < 26 * HOUR}
        listed, missing = host.listed(), Counter(map(_domain, (host.in_map() - host.listed()) | fresh))
        sizes = Counter(map(_domain, listed))
        able = sorted(host.sources.said(source) & host.oracle.claims.keys() - host.oracle.core)
        picked: list[str] = []
        for address in self.random.sample(able, len(able)):
            domain = _domain(address)
            room = min(_MOST_MISSING, sizes[domain] - _LEAST_LEFT) - missing[domain]
            if len(picked) < count and room > 0 and missing.total() < 2 * _MOST_MISSING:
                picked.append(address)
                missing[domain] += 1
        return picked


def _ignored(_: str, names: list[str]) -> list[str]:
    """Return the names of what is in no copy: what runs leave behind."""
    return [
        name for name in names if name.startswith("spool") or (name.startswith(".") and not name.endswith(".syncagent"))
    ]
