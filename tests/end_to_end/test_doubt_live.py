"""What a live smtpd answers while domains are in doubt: by each reason to hold, a flapping source, and the switch."""

import os
import subprocess
from collections.abc import Callable, Iterable, Iterator
from itertools import pairwise
from pathlib import Path
from unittest.mock import patch

import pytest

from syncagent.model import ALL_DOMAINS, DOMAIN_HOLD, SyncResult
from tests.scenario import HOUR, MINUTE, Scenario, people
from tests.support.agent import Agent
from tests.support.faketime import Clock
from tests.support.need import need_postfix
from tests.support.pages import ROOT
from tests.support.postfix import PrivatePostfix
from tests.support.run import syncagent
from tests.support.stepped import run_stepped
from tests.test_doubt import Backup
from tests.test_hold_reasons import SCENARIOS
from tests.test_hold_scenarios import Directory

KNOWN, DEFERRED, UNKNOWN, FOREIGN = 250, 450, 550, 554
_SWITCH = ROOT / "contrib" / "doubt-switch.sh"
_MAKE_LIST = ROOT / "contrib" / "make-list.sh"
_LIMIT, _PERIOD = 60.0, 5.0
"""Seconds without a sign of life until syncagent counts as dead, and between two runs of the switch."""


def form_c(directory: Path) -> dict[str, str]:
    """Return the parameters of main.cf by which smtpd asks the doubt table."""
    tables = (f"check_recipient_access lmdb:{directory / name}" for name in ("relay_recipients", "doubt"))
    return {
        "smtpd_sender_restrictions": ", ".join((*tables, "reject_unlisted_recipient")),
        "default_transport": "smtp",
    }


def _smtpd(directory: Path, domains: list[str]) -> PrivatePostfix:
    """Return a Postfix, to be started, that asks the tables of a scenario."""
    need_postfix("lmdb")
    return PrivatePostfix(domains, f"lmdb:{directory}/relay_recipients", directory=None, **form_c(directory))


def _codes(postfix: PrivatePostfix, *addresses: str) -> list[int]:
    return [verdict.code for verdict in postfix.verdicts(addresses)]


class _Live:
    """Runs of scenarios of ``test_hold_reasons``, with a doubt table, and a smtpd from the first one on."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Let every scenario have a doubt table; once its first map is published, its doubt is over."""
        self.postfix: PrivatePostfix | None = None
        self.relay_domains: list[str] = []
        configure, run, run_directory = Scenario.configure, Scenario._run, Directory.run

        def with_doubt(scenario: Scenario) -> Path:
            scenario.postfix |= {"doubt_map": f"lmdb:{scenario.directory}/doubt", "doubt_new": "0s"}
            return configure(scenario)

        def settled(scenario: Scenario, verb: str, *args: str, code: int | None) -> SyncResult:
            return self._settled(scenario, lambda: run(scenario, verb, *args, code=code))

        def settled_directory(corp: Directory, names: Iterable[str], code: int = 0) -> SyncResult:
            return self._settled(corp.mx, lambda: run_directory(corp, names, code))

        monkeypatch.setattr(Scenario, "configure", with_doubt)
        monkeypatch.setattr(Scenario, "_run", settled)
        monkeypatch.setattr(Directory, "run", settled_directory)

    def _settled(self, scenario: Scenario, run: Callable[[], SyncResult]) -> SyncResult:
        """Run an hour after the last run; start the smtpd after the first one and one more."""
        if self.postfix:
            scenario.wait(HOUR)
            with patch.dict(os.environ, scenario._env):  # these runs are in this process
                return run()
        scenario.set_clock()
        result = run()
        scenario.wait(HOUR)
        run()
        self._start(scenario)
        return result

    def _start(self, scenario: Scenario) -> None:
        """Start the smtpd; nothing is in doubt."""
        self.relay_domains = scenario.relay_domains
        domains = [*scenario.relay_domains, "new.example"]
        self.postfix = _smtpd(scenario.directory, list(dict.fromkeys(domains)))
        self.postfix.start()
        known = next(iter(scenario.published()))
        assert _codes(self.postfix, known) == [KNOWN]
        for domain in scenario.relay_domains:
            expected = KNOWN if domain in scenario.catch_all else UNKNOWN
            assert _codes(self.postfix, f"unknown@{domain}") == [expected]


@pytest.fixture
def live(monkeypatch: pytest.MonkeyPatch) -> Iterator[_Live]:
    """Yield what lets a scenario run under a live smtpd."""
    running = _Live(monkeypatch)
    yield running
    if running.postfix:
        running.postfix.stop()


WITHOUT = {
    "doubt": "the doubt table cannot be published, and so it cannot have the domain: nothing is removed",
    "clock": "a wrong clock says nothing about the answers: its removals are held, and the domain is not in doubt",
}
"""The kinds of reasons to hold by which no domain is in doubt, and why."""


def _held_domains(result: SyncResult, kind: str, relay_domains: list[str]) -> list[str]:
    """Return the domains whose removals are held for a reason: all of them by a hold of every removal.

    The hold of the rejected entries of a source is left out: the removals held for them have holds of their own.
    """
    held: dict[str, None] = {}
    for hold in result.plan.holds:
        if not hold.rejecting and any(reason.kind == kind for reason in hold.reasons):
            names = relay_domains if hold.domain == ALL_DOMAINS else [hold.domain.removeprefix(DOMAIN_HOLD)]
            held |= dict.fromkeys(names)
    return list(held)


@pytest.mark.parametrize("kind", [kind for kind in SCENARIOS if kind not in WITHOUT])
def test_each_hold_defers_unknown_recipients(kind: str, tmp_path: Path, live: _Live) -> None:
    """In the run that records a hold, unknown recipients of its domain get 450, and known ones stay known.

    A catch-all whose removal is held stays published, so that there are no unknown recipients.
    """
    result = SCENARIOS[kind](tmp_path)
    domains = _held_domains(result, kind, live.relay_domains)
    assert domains
    assert live.postfix
    unknown = [f"unknown@{domain}" for domain in domains]
    assert _codes(live.postfix, *unknown) == [KNOWN if kind == "catch-all" else DEFERRED] * len(unknown)
    assert set(domains) <= {doubt.domain for doubt in result.doubts}
    lines = (tmp_path / "relay_recipients").read_text(encoding="utf-8").splitlines()
    known = [line.removesuffix(" OK") for line in lines if not line.startswith(("#", "@"))]
    assert set(_codes(live.postfix, *known[:5], *known[-5:])) == {KNOWN}
    assert _codes(live.postfix, "a@elsewhere.example") == [FOREIGN]


def test_a_flapping_source_narrows_once_a_minute(tmp_path: Path) -> None:
    """A source fails every other second while single addresses come to their end: at most one narrowing a minute."""
    mx = Backup(tmp_path, "corp", "extra", relay_domains=("example.com", "example.org"))
    mx.postfix["doubt_removed"] = "150s"
    mx.limits["removed_percent"] = 100
    mx.write("corp", people(90))
    mx.write("extra", people(3, "example.org"))
    mx.settled()
    staying, narrowed, before = 90, [], mx.keys()
    inode = (tmp_path / "doubt.lmdb").stat().st_ino
    for second in range(200):
        mx.wait(2 if second % 2 else 1)
        if second % 2:
            mx.write("extra", people(3, "example.org"))
        else:
            mx.break_source("extra")
        if second % 10 == 1 and second < 50:  # a removal needs sources that do not fail
            staying -= 1
            mx.write("corp", people(staying))
        mx._run("sync", code=None)
        now = (tmp_path / "doubt.lmdb").stat().st_ino
        keys = mx.keys()
        if now != inode and before - keys:
            narrowed.append(mx.now)
        assert "example.org" in keys, "it was failing less than five minutes ago"
        before, inode = keys, now
    assert len(narrowed) > 1, "lines were dropped, so that it was put to the test"
    assert all(after - earlier >= MINUTE for earlier, after in pairwise(narrowed))


# --- a host with a clock of its own


class _Host:
    """A backup MX whose runs and switch have a clock of their own, and a live smtpd."""

    def __init__(self, directory: Path) -> None:
        self.mx = Backup(directory)
        self.mx.write("corp", people(20))
        self.mx.postfix["doubt_dead"] = f"{_LIMIT:.0f}s"
        self.clock = Clock(40 * 24 * HOUR)
        self.directory, self.config = directory, self.mx.configure()
        for _ in range(3):
            self.sync()
            self.clock.step(2 * HOUR)
        self.sync()
        self.postfix = _smtpd(directory, ["example.com"])

    def sync(self, *, code: int | None = 0) -> None:
        """Run syncagent."""
        syncagent("sync", config=self.config, env=self.clock.env, check=code)

    def switch(self, *args: str, script: Path = _SWITCH, code: int = 0) -> None:
        """Run the switch."""
        words = ["sh", str(script), str(self.directory), *args]
        done = subprocess.run(words, env={**os.environ, **self.clock.env}, capture_output=True, text=True, check=False)
        assert done.returncode == code, (done.stdout, done.stderr)

    def answers(self) -> tuple[int, int, int]:
        """Return what a known, an unknown and a foreign recipient get."""
        known, unknown, foreign = _codes(
            self.postfix, "user000@example.com", "nobody@example.com", "a@elsewhere.example"
        )
        return known, unknown, foreign


@pytest.fixture
def host(tmp_path: Path) -> Iterator[_Host]:
    """Yield a backup MX with nothing in doubt."""
    made = _Host(tmp_path)
    with made.postfix:
        assert made.answers() == (KNOWN, UNKNOWN, FOREIGN)
        yield made


# --- old data


def _list(host: _Host, addresses: set[str]) -> None:
    """Make the list as a primary does, by make-list.sh and the clock of the host."""
    words = ["sh", str(_MAKE_LIST), "--every", "1h", str(host.mx.file("corp")), "printf", "%s\\n", *sorted(addresses)]
    done = subprocess.run(words, env={**os.environ, **host.clock.env}, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_a_primary_that_makes_no_new_list(host: _Host) -> None:
    """Its list expires: unknown recipients get 450, missing ones stay, new ones are accepted; a new list ends that."""
    _list(host, people(20))
    host.sync()
    host.clock.step(2 * HOUR)
    host.sync()
    assert host.answers() == (KNOWN, UNKNOWN, FOREIGN)
    host.clock.step(HOUR)
    host.sync(code=75)
    assert host.answers() == (KNOWN, DEFERRED, FOREIGN)
    old = host.mx.file("corp").read_text(encoding="utf-8").splitlines()
    lines = [line for line in old if not line.startswith(("user019", "# end"))]
    host.mx.file("corp").write_text("\n".join([*lines, "new@example.com", ""]), encoding="utf-8")
    host.clock.step(MINUTE)
    host.sync(code=75)
    host.clock.step(2 * HOUR)
    host.sync(code=75)
    assert _codes(host.postfix, "user019@example.com", "new@example.com", "no@example.com") == [KNOWN, KNOWN, DEFERRED]
    _list(host, people(19) | {"new@example.com"})
    host.sync()
    host.clock.step(80 * HOUR)
    _list(host, people(19) | {"new@example.com"})
    host.sync()
    host.clock.step(6 * MINUTE)
    host.sync()
    assert _codes(host.postfix, "user019@example.com", "new@example.com") == [UNKNOWN, KNOWN]
    assert host.answers() == (KNOWN, UNKNOWN, FOREIGN)


# --- the switch


def _killed(host: _Host) -> None:
    host.mx.write("corp", people(21))
    done = run_stepped(
        host.directory, "--config", str(host.config), "sync", at=lambda stop: stop == 3, env=host.clock.env
    )
    assert done.code < 0


def _masked(_: _Host) -> None:
    """Nobody starts it any more."""


def _python_removed(host: _Host) -> None:
    with pytest.raises(FileNotFoundError):
        run_stepped(
            host.directory, "sync", at=lambda _: False, env=host.clock.env, python=str(host.directory / "no-python")
        )


def _configuration_broken(host: _Host) -> None:
    host.config.write_text("[postfix\n", encoding="utf-8")
    host.sync(code=78)


def _agent_killed(host: _Host) -> None:
    with Agent(host.config, env=host.clock.env) as agent:
        agent.run_now()
        host.switch()
        assert host.answers() == (KNOWN, UNKNOWN, FOREIGN), "it is at work"
        agent.kill()


@pytest.mark.parametrize("gone", [_killed, _agent_killed, _masked, _python_removed, _configuration_broken])
def test_the_switch_fires_in_time(host: _Host, gone: Callable[[_Host], None]) -> None:
    """After the limit and within two periods, unknown recipients get 450; the next run restores everything."""
    gone(host)
    written, limit = host.mx.files.alive()
    assert limit == _LIMIT
    while host.answers()[1] == UNKNOWN:
        host.clock.step(_PERIOD)
        before = host.clock.now
        host.switch()
        fired = host.answers()[1] == DEFERRED
        assert fired or before - written <= _LIMIT + 1
        assert not fired or host.clock.now - written > _LIMIT - 1
    assert host.answers() == (KNOWN, DEFERRED, FOREIGN)
    host.switch()
    assert host.answers() == (KNOWN, DEFERRED, FOREIGN), "again, it changes nothing"
    _restored(host)


def _restored(host: _Host) -> None:
    """Assert that runs restore everything: after the next one if it need not publish, else a minute later."""
    host.config = host.mx.configure()
    host.sync()
    host.clock.step(6 * MINUTE)
    host.sync()
    assert host.answers() == (KNOWN, UNKNOWN, FOREIGN)
    assert not (host.directory / "doubt-switched").exists()
    assert (host.directory / "doubt-all.lmdb").exists()


def test_the_next_run_restores_everything(host: _Host) -> None:
    """After the switch of a boot, one run in which every source was asked is enough."""
    host.switch("--boot")
    assert host.answers() == (KNOWN, DEFERRED, FOREIGN)
    host.clock.step(2 * MINUTE)
    host.sync()
    assert host.answers() == (KNOWN, UNKNOWN, FOREIGN)


def test_killed_between_its_renames_it_finishes_later(host: _Host, tmp_path: Path) -> None:
    """Once the index is renamed unknown recipients get 450; the text follows at the next period."""
    text = _SWITCH.read_text(encoding="utf-8")
    second = '    move doubt-all "$name"\n'
    assert text.count(second) == 1
    script = tmp_path / "dies.sh"
    script.write_text(text.replace(second, f"    kill -9 $$\n{second}"), encoding="utf-8")
    host.clock.step(_LIMIT + _PERIOD)
    host.switch(script=script, code=-9)
    assert host.answers() == (KNOWN, DEFERRED, FOREIGN)
    assert (tmp_path / "doubt-all").exists()
    host.clock.step(_PERIOD)
    host.switch()
    assert host.answers() == (KNOWN, DEFERRED, FOREIGN)
    assert not (tmp_path / "doubt-all").exists()
    assert (tmp_path / "doubt").read_text(encoding="utf-8").startswith("# doubt-all of doubt\n")
    _restored(host)


SPELLED = {
    "plain@example.com": "plain@example.com",
    "Upper.Case@Example.COM": "upper.CASE@example.com",
    '"john doe"@example.com': '"john doe"@example.com',
    '"needless"@example.com': "needless@example.com",
    '"a\\"b"@example.com': '"a\\"b"@example.com',
    "back\\slash@example.com": '"back\\\\slash"@example.com',
    "in#side@example.com": "in#side@example.com",
    "-lead@sub.example.com": "lead@sub.example.com",
    "üser@example.com": "ÜSER@example.com",
    "Straße@example.com": "strasse@example.com",
    "user@bücher.example": "user@xn--bcher-kva.example",
    "other@xn--bcher-kva.example": "other@bücher.example",
    "u@www.bücher.example": "u@www.xn--bcher-kva.example",
}
"""Addresses as a source spells them, and as RCPT TO has them; the one that begins with a hyphen is never accepted."""
_NEVER = {"-lead@sub.example.com"}


def test_removed_addresses_of_every_spelling(tmp_path: Path) -> None:
    """What the map had as its keys is deferred when it is removed, and so are both forms of a domain in doubt."""
    domains = ["example.com", "bücher.example"]
    mx = Backup(tmp_path, "corp", "extra", relay_domains=tuple(domains))
    mx.limits["removed_percent"] = 100
    mx.write("corp", people(30))
    staying = people(10, "bücher.example")  # more than half of it
    mx.write("extra", staying | SPELLED.keys())
    mx._run("sync", code=None)
    mx.wait(2 * HOUR)
    mx._run("sync", code=None)
    asked = [spelled for address, spelled in SPELLED.items() if address not in _NEVER]
    unknown = ["nobody@example.com", "nobody@sub.example.com", "nobody@bücher.example", "nobody@xn--bcher-kva.example"]
    with _smtpd(tmp_path, [*domains, "xn--bcher-kva.example"]) as postfix:
        assert set(_codes(postfix, *asked)) == {KNOWN}
        assert set(_codes(postfix, *unknown)) == {UNKNOWN}
        mx.write("extra", staying)
        mx._run("sync", code=None)
        assert dict(zip(asked, _codes(postfix, *asked), strict=True)) == dict.fromkeys(asked, DEFERRED)
        assert set(_codes(postfix, *unknown)) == {UNKNOWN}
        mx.break_source("extra")
        mx._run("sync", code=None)
        assert dict(zip(unknown, _codes(postfix, *unknown), strict=True)) == dict.fromkeys(unknown, DEFERRED)
        assert _codes(postfix, *sorted(staying)[:1], "a@elsewhere.example") == [KNOWN, FOREIGN]
