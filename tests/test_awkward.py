"""No parser is slow on awkward input: eight times as much costs less than sixteen times the processor time."""

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support import awkward


@pytest.mark.timeout(900)  # each class has a ceiling of its own, in seconds of the processor
@pytest.mark.parametrize("parser", awkward.PARSERS)
def test_a_parser_is_linear(parser: str, tmp_path: Path) -> None:
    """A megabyte of each awkward class is read, or refused, in linear time and without an error of another kind."""
    command = [sys.executable, "-m", "tests.support.awkward", parser, str(tmp_path)]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, check=False, timeout=900)
    told = [json.loads(line) for line in done.stdout.splitlines()]
    slow = [
        f"{one['class']}: {one['big']:.2f} s for eight times what takes {one['small']:.3f} s"
        for one in told
        if "class" in one and one["big"] >= awkward.TIMES * max(one["small"], awkward.FLOOR)
    ]
    if done.returncode:
        why = f"over {awkward.CEILING} s" if done.returncode == -signal.SIGPROF else done.stderr.decode()[-2000:]
        slow.append(f"{told[-1].get('begins') if told else 'nothing'}: {why}")
    assert not slow, "\n".join(slow)
    assert [one["class"] for one in told if "class" in one] == list(awkward.CLASSES)
