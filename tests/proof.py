"""A plugin for pytest that writes what `make proof` proved into contrib/docs/proof.md: a row for each test and run.

A test adds figures to its row with ``record_property("figures", ...)``.
"""

import subprocess
from datetime import UTC, datetime
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "contrib" / "docs" / "proof.md"
HEAD = """\
# What was proved, when

`make proof` runs the tests that are too long for each change, and adds a row for each to this table. A commit with `+`
had changes that were not committed.

| date (UTC) | commit | test | outcome | seconds | figures |
|---|---|---|---|---|---|
"""


class Table:
    """The rows of this run, each written once its test has ended: a run of hours may be cut short."""

    def __init__(self) -> None:
        self.commit = commit()

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Write the outcome of a test: of its call, or of what failed or was skipped before or after that."""
        if report.when == "call" or report.outcome != "passed":
            append(PAGE, row(report, self.commit))


def pytest_configure(config: pytest.Config) -> None:
    """Register the table, once: with the process that hears of all tests."""
    if not hasattr(config, "workerinput"):
        config.pluginmanager.register(Table(), "proof-table")


def commit() -> str:
    """Return the abbreviated commit of the checkout, with "+" if it has changes."""
    try:
        named = ["git", "-C", str(ROOT), "describe", "--always", "--exclude=*", "--dirty=+"]
        return subprocess.run(named, check=True, capture_output=True, text=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def row(report: pytest.TestReport, commit: str) -> str:
    """Return the row of a test."""
    figures = "; ".join(str(value) for name, value in report.user_properties if name == "figures")
    reason = report.longrepr[2] if report.skipped and isinstance(report.longrepr, tuple) else ""
    name = report.nodeid.removeprefix("tests/")
    cells = (
        datetime.now(UTC).strftime("%Y-%m-%d %H:%M"),
        commit,
        f"`{name}`",
        report.outcome,
        f"{report.duration:.0f}",
        figures or reason,
    )
    return "| " + " | ".join(" ".join(cell.split()).replace("|", "\\|") for cell in cells) + " |\n"


def append(page: Path, line: str) -> None:
    """Add a row to the table's page, which is made where it is missing."""
    page.parent.mkdir(parents=True, exist_ok=True)
    if not page.exists():
        page.write_text(HEAD, "utf-8")
    with page.open("a", encoding="utf-8") as table:
        table.write(line)
