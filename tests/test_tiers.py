"""The three tiers: what is left out of which, and the table that `make proof` writes."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests import proof
from tests.support.programs import PATIENCE
from tests.tiers import SLOW, is_slow

ROOT = Path(__file__).parent.parent
_THREE = """
import pytest

def test_plain(): pass

@pytest.mark.slow
def test_slow(): pass

@pytest.mark.proof
def test_proof(record_property):
    record_property("figures", "a | b")
"""


def _selected(*options: str) -> set[str]:
    """Return the names below tests/ that pytest would run with these options."""
    command = [sys.executable, "-m", "pytest", "--collect-only", "-q", "-p", "no:cacheprovider", *options]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    return {line.removeprefix("tests/") for line in done.stdout.splitlines() if "::" in line}


def test_the_tiers_are_parts_of_a_whole() -> None:
    """What is listed as slow is there, and not run by `make check`; without options all but proof is run."""
    every, fast = _selected(), _selected("-m", "not slow and not proof")
    assert fast < every
    assert not {name for name in fast if is_slow(name)}
    assert not {name for name in every if name.startswith("test_debian.py")}
    assert _selected("-m", "proof", "tests/test_debian.py")
    for start in SLOW:
        assert any(name.startswith(start) for name in every - fast), f"{start} is no test's name any more"


def test_the_makefile_runs_them() -> None:
    """`make check` runs what is fast, `make test` all but proof, `make proof` that, and the help has a line of each."""
    said = subprocess.run(["make", "-C", ROOT, "help"], capture_output=True, text=True, check=True).stdout
    for tier in ("check", "test", "proof"):
        assert re.search(rf"^make {tier} +\w", said, re.MULTILINE)
    planned = {
        tier: subprocess.run(
            ["make", "-C", ROOT, "--dry-run", "--always-make", tier], capture_output=True, text=True, check=True
        ).stdout
        for tier in ("check", "test", "proof")
    }
    assert '-m "not slow and not proof"' in planned["check"]
    assert " -m proof" in planned["proof"]
    assert not re.search(r'pytest.* -m "?(slow|proof|not)', planned["test"])


def test_begun_in_the_background() -> None:
    """A shell starts with `&` what ignores INT, and so would every program that a test interrupts: it is undone."""
    interrupted = "tests/test_ledger.py::test_interrupted_while_postmap_runs[build-ctrl-c-itself]"
    ignoring = (
        "import os, signal, sys; signal.signal(signal.SIGINT, signal.SIG_IGN); os.execv(sys.argv[1], sys.argv[1:])"
    )
    options = ["-m", "pytest", "-q", "-p", "no:cacheprovider", "-o", f"timeout={PATIENCE}", interrupted]
    command = [sys.executable, "-c", ignoring, sys.executable, *options]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def test_each_run_adds_its_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The rows have the commit, the outcome and the figures; a second run adds more, and the head stays one."""
    (tmp_path / "tests").mkdir()
    (tmp_path / "tests" / "test_three.py").write_text(_THREE, "utf-8")
    (tmp_path / "tests" / "__init__.py").touch()
    (tmp_path / "tests" / "proof.py").write_text(Path(proof.__file__).read_text("utf-8"), "utf-8")
    (tmp_path / "pytest.ini").write_text("[pytest]\nmarkers =\n    slow: x\n    proof: x\n", "utf-8")
    for _ in range(2):
        command = [sys.executable, "-m", "pytest", "-q", "-p", "tests.proof", "-m", "proof", "-n", "2"]
        subprocess.run(command, cwd=tmp_path, check=True, capture_output=True)
    text = (tmp_path / "contrib" / "docs" / "proof.md").read_text("utf-8")
    assert text.startswith(proof.HEAD)
    rows = text.removeprefix(proof.HEAD).splitlines()
    assert len(rows) == 2
    for line in rows:
        assert re.fullmatch(
            r"\| [\d-]+ [\d:]+ \| \S+ \| `test_three.py::test_proof` \| passed \| 0 \| a \\\| b \|", line
        )
