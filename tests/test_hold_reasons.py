"""Every reason to hold removals has a scenario that shows it, and a row in the README that describes it."""

import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import get_args

import pytest

from syncagent.model import OF_OLDER_VERSIONS, ReasonKind, SyncResult
from tests.scenario import HOUR, Scenario, people, reasons
from tests.support.need import need_program
from tests.support.pages import README, section
from tests.test_hold_scenarios import Directory

HELD, CANNOT_PUBLISH, FAILING = 65, 73, 75
KINDS: tuple[str, ...] = tuple(kind for kind in get_args(ReasonKind) if kind not in OF_OLDER_VERSIONS)


def _published(directory: Path, *sources: str, relay_domains: tuple[str, ...] = ("example.com",)) -> Scenario:
    """Return a backup MX with 100 people of example.com, who are published."""
    scenario = Scenario(directory, *sources or ("corp",), relay_domains=relay_domains)
    scenario.write("corp", people(100))
    return scenario


def _source_failing(directory: Path) -> SyncResult:
    scenario = _published(directory, "corp", "extra", relay_domains=("example.com", "example.org"))
    scenario.write("extra", people(2, "example.org"))
    scenario.sync()
    scenario.break_source("extra")
    scenario.write("corp", people(99))
    return scenario.sync(code=FAILING)


def _percent(directory: Path) -> SyncResult:
    scenario = _published(directory)
    scenario.sync()
    scenario.write("corp", people(80))
    return scenario.sync(code=HELD)


def _excepted(directory: Path) -> SyncResult:
    scenario = _published(directory)
    scenario.sync()
    scenario.write("corp", people(40))
    (hold,) = scenario.sync(code=HELD).plan.holds
    scenario.approve(hold.id, "--except", min(people(80) - people(40)), code=HELD)
    return scenario.sync(code=HELD)


def _half(directory: Path) -> SyncResult:
    scenario = Scenario(directory)
    scenario.write("corp", people(6))
    scenario.sync()
    scenario.write("corp", people(1))
    return scenario.sync(code=HELD)


def _max(directory: Path) -> SyncResult:
    scenario = _published(directory)
    scenario.limits["removed_max"] = 3
    scenario.sync()
    scenario.write("corp", people(96))
    return scenario.sync(code=HELD)


def _same_answer(directory: Path) -> SyncResult:
    scenario = _published(directory, relay_domains=("example.com", "example.org"))
    scenario.write("corp", people(100) | people(20, "example.org"))
    scenario.sync()
    scenario.write("corp", people(80) | people(19, "example.org"))
    return scenario.sync(code=HELD)


def _container(directory: Path) -> SyncResult:
    corp = Directory(directory)
    corp.run(corp.entries)
    return corp.run(corp.entries.keys() - corp.hidden, HELD)


def _whole_percent(directory: Path) -> SyncResult:
    domains = [f"d{number:02}.example" for number in range(20)]
    scenario = Scenario(directory, relay_domains=domains)
    scenario.write("corp", set().union(*(people(5, domain) for domain in domains)))
    scenario.sync()
    scenario.write("corp", set().union(*(people(4, domain) for domain in domains)))
    return scenario.sync(code=HELD)


def _emptied(directory: Path) -> SyncResult:
    scenario = _published(directory, relay_domains=("example.com", "example.org"))
    scenario.write("corp", people(100) | people(1, "example.org"))
    scenario.sync()
    scenario.write("corp", people(100))
    return scenario.sync(code=HELD)


def _catch_all(directory: Path) -> SyncResult:
    scenario = _published(directory)
    scenario.catch_all = ["example.com"]
    scenario.write("corp", people(100) | {"@example.com"})
    scenario.sync()
    scenario.write("corp", people(100))
    return scenario.sync(code=HELD)


def _canary(directory: Path) -> SyncResult:
    scenario = _published(directory)
    scenario.limits["canaries"] = ["user000@example.com"]
    scenario.sync()
    scenario.write("corp", people(99, first=1))
    return scenario.sync(code=HELD)


def _empty_map(directory: Path) -> SyncResult:
    scenario = _published(directory)
    scenario.sources["corp"]["allow_empty"] = True
    scenario.sync()
    scenario.write("corp", [])
    return scenario.sync(code=HELD)


def _rejected(directory: Path) -> SyncResult:
    scenario = _published(directory)
    scenario.sync()
    lines = [*sorted(people(99, first=1)), "user000@example.com (on leave)", ""]
    scenario.file("corp").write_text("\n".join(lines))
    return scenario.sync_unchecked(HELD)


def _domain(directory: Path) -> SyncResult:
    scenario = Scenario(directory)
    scenario.postfix = {"domains_map": f"lmdb:{directory}/relay_domains", "allow_domains": ["*"]}
    file = scenario.file("corp")
    file.write_text("# domains: example.com, new.example\na@example.com\nb@new.example\n")
    scenario.sync_unchecked(0)
    file.write_text("# domains: example.com\na@example.com\n")
    return scenario.sync_unchecked(HELD)


def _doubt(directory: Path) -> SyncResult:
    scenario = _published(directory)
    scenario.postfix["doubt_map"] = f"lmdb:{directory}/doubt"
    scenario.sync()
    for name in ("doubt", "doubt.lmdb"):
        (directory / name).unlink()
    (directory / "doubt").mkdir()
    scenario.write("corp", people(99))
    return scenario.sync(code=CANNOT_PUBLISH)


def _state_new(directory: Path) -> SyncResult:
    scenario = _published(directory)
    scenario.sync()
    scenario.lose_ledger()
    scenario.write("corp", people(99))
    return scenario.sync(code=HELD)


def _clock(directory: Path) -> SyncResult:
    scenario = _published(directory)
    scenario.set_clock()
    scenario.sync()
    scenario.wait(-HOUR)
    scenario.write("corp", people(99))
    return scenario.sync(code=HELD)


def _counts(directory: Path) -> SyncResult:
    """A cut(1) that drops a line."""
    scenario = _published(directory)
    scenario.sync()
    program = directory / "bin" / "cut"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\n{need_program("cut")} "$@" | sed 5d\n')
    program.chmod(0o755)
    scenario._env["PATH"] = f"{program.parent}{os.pathsep}{os.environ['PATH']}"
    scenario.write("corp", people(99))
    return scenario.sync(code=HELD)


def _source_outdated(directory: Path) -> SyncResult:
    scenario = _published(directory)
    scenario.sync()
    heading = ["# made: 2026-01-01T00:00:00Z", "# expires: 2026-01-02T00:00:00Z"]
    scenario.file("corp").write_text("\n".join([*heading, *sorted(people(99)), ""]))
    return scenario.sync_unchecked(FAILING)


SCENARIOS: dict[str, Callable[[Path], SyncResult]] = {
    "source-failing": _source_failing,
    "source-outdated": _source_outdated,
    "excepted": _excepted,
    "percent": _percent,
    "whole-percent": _whole_percent,
    "half": _half,
    "max": _max,
    "container": _container,
    "same-answer": _same_answer,
    "emptied": _emptied,
    "catch-all": _catch_all,
    "canary": _canary,
    "empty-map": _empty_map,
    "rejected": _rejected,
    "domain": _domain,
    "doubt": _doubt,
    "state-new": _state_new,
    "clock": _clock,
    "counts": _counts,
}
"""By kind of reason: a backup MX where removals are held for it; its last run."""
NEVER = {"canary", "empty-map", "doubt", "clock", "counts"}
"""Kinds that no person may approve."""


@pytest.mark.parametrize("kind", KINDS)
def test_every_reason_has_a_scenario(kind: str, tmp_path: Path) -> None:
    """Removals are held for this reason, none is published, and a person may approve them or not, as documented."""
    assert kind in SCENARIOS, "a reason that no scenario shows"
    result = SCENARIOS[kind](tmp_path)
    assert any(kind in kinds for kinds in reasons(result).values())
    assert not result.plan.removed
    own = [reason for hold in result.plan.holds for reason in hold.reasons if reason.kind == kind]
    assert any(reason.approvable for reason in own) == (kind not in NEVER)


def test_what_the_same_answer_lacks_is_approved_with_its_hold(tmp_path: Path) -> None:
    """Its own ID is refused, by a message that names the other."""
    holds = {hold.domain: hold for hold in _same_answer(tmp_path).plan.holds}
    assert (holds["example.com"].approvable, holds["example.org"].approvable) == (True, False)


@pytest.mark.parametrize("kind", KINDS)
def test_every_reason_has_a_row(kind: str) -> None:
    """The README says when removals are held for this reason and when that ends."""
    table = section(README, "## What is held, and what to do")
    (row,) = re.findall(rf"^\| `{kind}` \| (.+) \| (.+) \|$", table, re.MULTILINE)
    assert ("**cannot be approved**" in " ".join(row)) == (kind in NEVER)


def test_nothing_else_is_documented() -> None:
    """No row and no scenario is of a reason that the program does not have."""
    table = section(README, "## What is held, and what to do")
    assert set(re.findall(r"^\| `([a-z-]+)` \|", table, re.MULTILINE)) == set(KINDS) == SCENARIOS.keys()
