"""How fast it is: ratios against bare postmap and a bare interpreter, measured in one run on one list.

`make bench` prints the tables of contrib/docs/performance.md; `make bench SIZE=10000000` measures ten million. Nothing
here is a test: machines are noisy.
"""

import argparse
import contextlib
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median

from tests import bench_http, bench_ldap
from tests.support.postmap import minimal_config
from tests.support.programs import find_program

DOMAINS = 50
TIMES = 5
RUNS = 3


@dataclass(frozen=True)
class Took:
    """How long a command took, and the most memory that its main process had, its children apart, in MB."""

    seconds: float
    own_mb: float


@dataclass
class Bench:
    """A list of ``size`` addresses, its configuration, and what was measured so far."""

    directory: Path
    size: int

    def __post_init__(self) -> None:
        self.directory.mkdir(exist_ok=True)
        self.postfix = minimal_config(self.directory / "postfix")
        self.list, self.map = self.directory / "recipients", self.directory / "map" / "relay_recipients"
        self.config, self.state = self.directory / "syncagent.toml", self.directory / "state"
        self.source(f'type = "file"\npath = "{self.list}"\n')
        self.write(0)

    def source(self, keys: str) -> None:
        """Write the configuration with this source."""
        domains = ", ".join(f'"domain{number:02}.example"' for number in range(DOMAINS))
        self.config.write_text(
            f'[postfix]\nmap = "lmdb:{self.map}"\nrelay_domains = [{domains}]\nconfig_directory = "{self.postfix}"\n'
            f'[state]\ndirectory = "{self.state}"\n[limits]\nremoval_grace = "0s"\n'
            f"[sources.list]\n{keys}"
        )

    def write(self, changed: int) -> None:
        """Write the list with so many addresses other than at first, in the order of a shuffled pack."""
        step = 7_368_787  # coprime to any size used here: every number once, in no order
        with self.list.open("w") as file:
            for count in range(self.size):
                number = count * step % self.size
                name = f"new{number}" if number < changed else f"user{number}"
                file.write(f"{name}.{number % 97}@domain{number % DOMAINS:02}.example\n")
        time.sleep(2.1)  # an identity younger than that is not trusted

    def forget(self) -> None:
        """Start from nothing."""
        shutil.rmtree(self.state, ignore_errors=True)
        shutil.rmtree(self.map.parent, ignore_errors=True)
        self.map.parent.mkdir()

    def first_sync(self) -> Took:
        """Run `syncagent sync` where nothing is known and nothing published."""
        self.forget()
        return self.sync()

    def changed_sync(self, changed: int) -> Took:
        """Run it where so many addresses are other than at first, 100 more than in the run before."""
        self.write(changed)
        return self.sync()

    def sync(self) -> Took:
        """Run `syncagent sync`."""
        return measured([sys.executable, "-m", "syncagent", "--config", str(self.config), "sync", "--quiet"])

    def bare_postmap(self) -> float:
        """Index the published text with postmap and nothing else; give the median of five."""
        text = self.directory / "bare" / "relay_recipients"
        text.parent.mkdir(exist_ok=True)
        shutil.copyfile(self.map, text)
        command = [find_program("postmap") or "postmap", "-c", str(self.postfix), f"lmdb:{text}"]
        return median(measured(command).seconds for _ in range(TIMES))


def measured(command: list[str]) -> Took:
    """Run a command, which must succeed, and measure it."""
    start = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    peak = Peak(process.pid)
    status = process.wait()
    took = time.perf_counter() - start
    if status:
        raise SystemExit(f"{' '.join(command)} exited {status}")
    return Took(took, peak.mb)


class Peak(threading.Thread):
    """Watches the most memory that a process has had (VmHWM): wait4(2) would count its children with it."""

    def __init__(self, pid: int) -> None:
        super().__init__(daemon=True)
        self.mb, self._status = 0.0, Path(f"/proc/{pid}/status")
        self.start()

    def run(self) -> None:
        """Look every 20 ms until the process has ended."""
        with contextlib.suppress(OSError):
            while found := re.search(r"VmHWM:\s*(\d+) kB", self._status.read_text("ascii", "replace")):
                self.mb = int(found[1]) / 1024
                time.sleep(0.02)


def quickest(run: Callable[[], Took]) -> Took:
    """Give the quickest of a few runs: what the machine's noise adds is not ours."""
    return min((run() for _ in range(TIMES)), key=lambda took: took.seconds)


def middle(runs: list[Took]) -> Took:
    """Give the run in the middle."""
    return sorted(runs, key=lambda took: took.seconds)[len(runs) // 2]


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", type=int, default=1_000_000)
    parser.add_argument("--only", choices=["core", "ldap", "http"])
    arguments = parser.parse_args()
    tables: dict[str, Callable[[Path], Iterable[tuple[str, str, str, str]]]] = {
        "core": partial(_rows, size=arguments.size),
        "ldap": bench_ldap.rows,
        "http": partial(bench_http.rows, size=arguments.size),
    }
    for name, rows in tables.items():
        if arguments.only in (None, name):
            with tempfile.TemporaryDirectory(prefix="syncagent-bench-") as directory:
                _show(rows(Path(directory) / name))


def _show(table: Iterable[tuple[str, str, str, str]]) -> None:
    rows = list(table)
    widths = [max(len(row[column]) for row in rows) for column in range(4)]
    for row in rows:
        print("| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |")
    print(flush=True)


def _rows(directory: Path, size: int) -> list[tuple[str, str, str, str]]:
    bench = Bench(directory, size)
    first = middle([bench.first_sync() for _ in range(RUNS)])
    unchanged = quickest(bench.sync)
    changed = middle([bench.changed_sync(100 * count) for count in range(1, RUNS + 1)])
    bare = bench.bare_postmap()
    small = Bench(directory / "small", 1000)
    small.forget()
    small.sync()
    small_unchanged = quickest(small.sync)
    helped = quickest(lambda: measured([sys.executable, "-m", "syncagent", "--help"]))
    interpreter = quickest(lambda: measured([sys.executable, "-c", "pass"]))
    return [
        (f"{size:,} recipients, lmdb", "seconds", "ratio", "MB"),
        ("---", "---", "---", "---"),
        ("bare postmap, median of 5", f"{bare:.2f}", "1", ""),
        (
            "first import, read back, median of 3",
            f"{first.seconds:.2f}",
            f"{first.seconds / bare:.1f}",
            f"{first.own_mb:.0f}",
        ),
        (
            "100 of them changed, median of 3",
            f"{changed.seconds:.2f}",
            f"{changed.seconds / bare:.1f}",
            f"{changed.own_mb:.0f}",
        ),
        ("unchanged", f"{unchanged.seconds:.2f}", "", f"{unchanged.own_mb:.0f}"),
        ("unchanged, 1,000 recipients", f"{small_unchanged.seconds:.2f}", "", f"{small_unchanged.own_mb:.0f}"),
        (
            "`--help`, against a bare interpreter",
            f"{helped.seconds:.2f}",
            f"{helped.seconds / interpreter.seconds:.1f}",
            "",
        ),
    ]


if __name__ == "__main__":
    main()
