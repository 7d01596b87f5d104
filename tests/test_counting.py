"""Counts that must agree: each check is shown to fail by a fault that was put in on purpose."""

import os
from collections.abc import Callable, Iterable, Iterator
from itertools import groupby
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from syncagent.errors import PublishError
from syncagent.files.pipeline import Repeats
from syncagent.model import ALL_DOMAINS
from syncagent.postfix import publish
from syncagent.postfix.table_text import HEADER, Rendering, listed_keys, render
from syncagent.state import snapshot
from syncagent.state.snapshot import SnapshotWriter
from syncagent.sync.counting import Lines
from syncagent.sync.scope import Scope
from tests.scenario import Scenario, people, reasons
from tests.support.need import need_program

HELD, CANNOT_PUBLISH, FAILING = 65, 73, 75
ALL = people(100)


@pytest.fixture
def mx(tmp_path: Path) -> Scenario:
    """A map of 100 recipients of two sources, one of which says part of what the other says."""
    scenario = Scenario(tmp_path, "corp", "extra")
    scenario.set_clock()
    scenario.write("corp", ALL)
    scenario.write("extra", people(20))
    scenario.sync()
    return scenario


def _drops(mx: Scenario, name: str, case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Put a program first on PATH that drops the 5th line of its output, and exits 0; only if its arguments match."""
    program = mx.directory / "bin" / name
    program.parent.mkdir()
    real = need_program(name)
    program.write_text(f'#!/bin/sh\ncase " $* " in {case}) {real} "$@" | sed 5d ;; *) exec {real} "$@" ;; esac\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}{os.pathsep}{os.environ['PATH']}")


def _of_counts(mx: Scenario, removed: set[str]) -> None:
    """Assert that a run holds every removal for its counts, adds, and that the next one goes on."""
    new = "new@example.com"
    mx.write("corp", (ALL - removed) | {new})
    result = mx._run("sync", code=HELD)  # its number of recipients may be wrong
    assert reasons(result) == {ALL_DOMAINS: {"counts"}}
    assert not any(hold.approvable for hold in result.plan.holds)
    assert mx.published() == ALL | {new}
    assert mx.say("status", code=None).stderr.count("held: every removal: the lists have") == 1
    again = mx._run("sync", code=HELD)
    assert again.plan.holds == result.plan.holds, "told once, as long as it stands"


def test_a_list_that_lost_a_line(mx: Scenario, monkeypatch: pytest.MonkeyPatch) -> None:
    """A sort(1) that drops a line: the source fails, and nobody is lost."""
    _drops(mx, "sort", "*' -u '*|*' -m '*) exec " + need_program("sort") + ' "$@" ;; *', monkeypatch)
    mx.write("corp", ALL | {"new@example.com"})
    result = mx.sync(code=FAILING)
    error = result.sources[0].error
    assert "delivered 101 values, and its list was miscounted: 100 lines instead of 101" in error
    assert mx.published() == ALL
    monkeypatch.undo()
    assert mx.sync().plan.added == 1


def test_an_entry_that_is_not_written(mx: Scenario, monkeypatch: pytest.MonkeyPatch) -> None:
    """A fault on the way from the source to the sorter is seen as well."""
    real = SnapshotWriter._write
    monkeypatch.setattr(SnapshotWriter, "_write", lambda self, text: real(self, text.partition("\n")[2]))
    mx.write("corp", ALL | {"new@example.com"})
    result = mx.sync(code=FAILING)
    assert "miscounted" in result.sources[0].error
    assert mx.published() == ALL


def test_a_value_of_every_kind_is_counted(mx: Scenario) -> None:
    """Repeated, rejected, ignored and odd values are accounted for."""
    lines = [*sorted(ALL), "user000@example.com", "USER000@EXAMPLE.COM", "@example.com", "no address", "no address"]
    mx.sources["corp"]["catch_all"] = "ignore"
    mx.file("corp").write_text("\n".join([*lines, "a b c", ""]))
    result = mx._run("sync", code=None)
    assert [source.state for source in result.sources] == ["whole", "whole"]
    assert mx.published() == ALL


def test_a_selection_that_lost_a_line(mx: Scenario, monkeypatch: pytest.MonkeyPatch) -> None:
    """A cut(1) that drops a line while the lists are merged: additions go through, and nothing is removed."""
    _drops(mx, "cut", "*", monkeypatch)
    _of_counts(mx, people(2, first=50))


def _without_one(real: Callable[..., Iterator[list[bytes]]]) -> Callable[..., Iterator[list[bytes]]]:
    def without_one(fields: Iterable[bytes]) -> Iterator[list[bytes]]:
        yield from (batch[:-1] for batch in real(fields))

    return without_one


def test_an_address_that_is_not_selected(mx: Scenario, monkeypatch: pytest.MonkeyPatch) -> None:
    """An address that is in no count of the selection."""
    monkeypatch.setattr(snapshot, "addresses", _without_one(snapshot.addresses))
    _of_counts(mx, people(2, first=50))


def test_a_wanted_address_that_is_not_written(mx: Scenario, monkeypatch: pytest.MonkeyPatch) -> None:
    """An address that is counted as wanted and is not in the file."""
    real = Scope.select

    def select(self: Scope, batches: Iterable[list[bytes]], canaries: Iterable[str]) -> Iterator[bytes]:
        yield from (b"".join(chunk.splitlines(keepends=True)[:-1]) for chunk in real(self, batches, canaries))

    monkeypatch.setattr(Scope, "select", select)
    _of_counts(mx, people(2, first=50))


def test_everything_left_out_is_counted(mx: Scenario) -> None:
    """What is out of scope, excluded, a held catch-all or in two lists is accounted for."""
    mx.exclude = ["user001@example.com", "@sub.example.com"]
    mx.write("corp", ALL | people(30, "example.org") | {"a@sub.example.com", "@example.com"})
    mx.write("extra", people(20) | people(30, "example.org") | {"@example.com"})
    result = mx.sync(code=HELD)
    assert {kind for kinds in reasons(result).values() for kind in kinds} <= {"percent"}
    assert result.plan.held_catch_alls == ("@example.com",)
    assert result.plan.out_of_scope == {"example.org": 30}


def test_a_map_that_would_lack_a_recipient(mx: Scenario, monkeypatch: pytest.MonkeyPatch) -> None:
    """A sort(1) that drops a line while wanted and kept recipients are merged: the old map stays, 73."""
    _drops(mx, "sort", "*kept-addresses*", monkeypatch)
    mx.write("corp", people(60) | {"new@example.com"})
    result = mx.sync(code=CANNOT_PUBLISH)
    assert result.error == ("count: of 101 recipients 100 would be published: is the disk or a program faulty?")
    assert mx.published() == ALL


def test_a_map_that_would_lack_a_second_form(mx: Scenario, monkeypatch: pytest.MonkeyPatch) -> None:
    """A sort(1) that drops a line while the U-label forms are merged: the old map stays, 73."""
    mx.relay_domains.append("xn--bcher-kva.example")
    _drops(mx, "sort", "*second-forms*", monkeypatch)
    mx.write("corp", ALL | people(9, "xn--bcher-kva.example"))
    assert "count: of 118 keys 117 were merged" in mx.sync(code=CANNOT_PUBLISH).error
    assert mx.published() == ALL


def test_a_text_that_lacks_a_key(tmp_path: Path) -> None:
    """A rendering that drops a line."""

    def drops(chunks: Iterable[bytes]) -> Iterator[bytes]:
        yield from (chunk.partition(b"\n")[2] for chunk in render(chunks))

    keys = tmp_path / "keys"
    keys.write_text("a@example.com\nb@example.com\n")
    with pytest.raises(PublishError, match="of 2 keys 1 are in the text"):
        publish._write_text(tmp_path / "text", keys, Rendering(HEADER, drops, listed_keys))


lines = st.lists(st.sampled_from([b"a", b"b", b"bb", b"c", b"# end 3 abc", b""]), max_size=30)


@given(lines, st.integers(1, 9))
def test_repeats(found: list[bytes], size: int) -> None:
    """Whatever the chunks, each line is there once, and the others are counted."""
    found = sorted(line or b"z" for line in found)
    octets = b"".join(line + b"\n" for line in found)
    repeats = Repeats()
    once = b"".join(repeats.once(octets[at : at + size] for at in range(0, len(octets), size)))
    assert once == b"".join(line + b"\n" for line, _ in groupby(found))
    assert (repeats.lines, repeats.repeated) == (len(found), len(found) - len(set(found)))


@given(lines, st.integers(1, 5))
def test_lines(found: list[bytes], size: int) -> None:
    """Addresses are counted, and those that repeat the one before, also with an end line in between."""
    addresses = sorted(line for line in found if line and not line.startswith(b"#"))
    ends = [line for line in found if line.startswith(b"#")]
    merged = [b""] * found.count(b"")
    for address in addresses:
        merged += [address, *([ends.pop()] if ends else [])]
    counter = Lines()
    chunks = [b"".join(line + b"\n" for line in merged[at : at + size]) for at in range(0, len(merged), size)]
    assert list(counter.through(chunks)) == chunks
    assert (counter.read, counter.repeated) == (len(addresses), len(addresses) - len(set(addresses)))
