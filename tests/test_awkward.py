"""No parser is slow on awkward input: eight times as much costs less than sixteen times the processor time."""

import json
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support import awkward


class Measurer:
    """The program that measures parsers, one after the other; started anew once one has ended it."""

    def __init__(self, directory: Path, sizes: str) -> None:
        self._errors = directory / "stderr"
        state = directory / "state"
        state.mkdir()
        command = [sys.executable, "-m", "tests.support.awkward", str(state), sizes]
        with self._errors.open("wb") as errors:
            self.process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, text=True
            )

    def costs(self, parser: str) -> tuple[dict[str, awkward.Cost], str]:
        """Return what the classes of input cost a parser, and why the program ended, if it did."""
        assert self.process.stdin
        self.process.stdin.write(f"{parser}\n")
        self.process.stdin.flush()
        costs: dict[str, awkward.Cost] = {}
        last: dict[str, Any] = {}
        while "measured" not in last:
            assert self.process.stdout
            line = self.process.stdout.readline()
            if not line:
                return costs, f"{last.get('begins', 'nothing')}: {self._end()}"
            last = json.loads(line)
            if "class" in last:
                costs[last["class"]] = awkward.Cost(last["small"], last["big"])
        return costs, ""

    def _end(self) -> str:
        with self.process:
            pass
        is_ceiling = self.process.returncode == -signal.SIGPROF
        return "without end" if is_ceiling else self._errors.read_text("utf-8", "replace")[-2000:]

    def close(self) -> None:
        """End the program."""
        with self.process:
            self.process.kill()


Measure = Callable[[str, str], dict[str, awkward.Cost]]


@pytest.fixture(scope="module")
def measure(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Measure]:
    """Measure a parser with these sizes, in a process that goes on with the next one; its classes are all linear."""
    programs: dict[str, Measurer] = {}

    def measured(parser: str, sizes: str) -> dict[str, awkward.Cost]:
        if sizes not in programs or programs[sizes].process.returncode is not None:
            programs[sizes] = Measurer(tmp_path_factory.mktemp("awkward"), sizes)
        costs, end = programs[sizes].costs(parser)
        slow = [
            f"{parser}, {kind}: {cost.big:.2f} s for eight times what takes {cost.small:.3f} s"
            for kind, cost in costs.items()
            if not cost.is_linear()
        ]
        assert not end, "\n".join([*slow, f"{parser}, {end}"])
        assert not slow, "\n".join(slow)
        assert list(costs) == list(awkward.CLASSES)
        return costs

    yield measured
    for program in programs.values():
        program.close()


@pytest.mark.timeout(3600)  # a class has a ceiling of its own, in seconds of the processor
@pytest.mark.parametrize("parser", awkward.PARSERS)
def test_a_parser_is_linear(parser: str, measure: Measure) -> None:
    """128 KiB of each awkward class are read, or refused, in linear time and without an error of another kind."""
    measure(parser, "128 KiB")


@pytest.mark.proof
@pytest.mark.timeout(0)
def test_a_megabyte_is_linear(measure: Measure, record_property: Callable[[str, object], None]) -> None:
    """A megabyte of each awkward class is read, or refused, in linear time by every parser."""
    worst: dict[str, awkward.Cost] = {}
    for parser in awkward.PARSERS:
        costs = measure(parser, "1 MiB")
        worst.update({f"{parser}, {kind}": cost for kind, cost in costs.items()})
    name, cost = max(worst.items(), key=lambda named: named[1].big)
    figures = f"{len(awkward.PARSERS)} parsers, {len(awkward.CLASSES)} classes; most: {name}, {cost.big:.1f} s"
    record_property("figures", figures)
