"""The view of `check`: findings, each with its remedies."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from syncagent.cli.views.sources import show_failures, show_sources
from syncagent.errors import printable

if TYPE_CHECKING:
    from collections.abc import Iterable

    from syncagent.checks import Checked
    from syncagent.checks.finding import Step

_COLOURS = {"error": "bold red", "warning": "yellow", "ok": "green", "skipped": "cyan"}


def show(found: Checked) -> None:
    """Print the result of `check`: sources, findings, each with its remedies below it, and counts.

    Lines are not wrapped, so that a remedy can be copied. The errors of sources go to standard error.
    """
    show_sources(found.sources, steps=True)
    print()
    width = max(len(one.check) for one in found.findings)
    for one in found.findings:
        _line(one.severity, one.check.ljust(width), printable(": ".join(filter(None, (one.subject, one.text)))))
        for line in remedies_text(one.remedies).splitlines():
            _line("", "", f"  {printable(line)}", "bold")
    if found.then:
        _line("then", " " * width, found.then, "bold")
    print(f"errors: {found.errors}, warnings: {found.warnings}")
    show_failures(found.sources)


def checked_fields(found: Checked) -> dict[str, Any]:
    """Return the object that `check --json` prints. The key ``mend`` of a finding has its remedies as text."""
    import msgspec

    fields: dict[str, Any] = msgspec.to_builtins(found)
    for finding, shown in zip(found.findings, fields["findings"], strict=True):
        shown["mend"] = remedies_text(finding.remedies)
    return fields


def remedies_text(remedies: Iterable[Step]) -> str:
    """Return the remedies of a finding as text, separated by line feeds."""
    return "\n".join(map(remedy_text, remedies))


def remedy_text(remedy: Step) -> str:
    """Return a remedy as `check` prints it.

    ``# `` precedes a remedy that is not to be typed: an instruction for a person, or any remedy with ``when``.
    """
    from syncagent.checks.finding import File, Shell, Zone

    if isinstance(remedy, Shell):
        text, mark = remedy.command, ""
    elif isinstance(remedy, File):
        text, mark = f"in {remedy.path}, [{remedy.section}]: {remedy.write}", ""
    elif isinstance(remedy, Zone):
        text, mark = remedy.record + (f"\n; {remedy.note}" if remedy.note else ""), ""
    else:
        text, mark = remedy.text, "# "
    return f"# {remedy.when} {text}" if remedy.when else f"{mark}{text}"


def _line(severity: str, check: str, text: str, style: str = "") -> None:
    """Print severity, check and text in columns. On a terminal the line has colours; it is never wrapped."""
    columns = (f"{severity:<7}", *([check] if check else []), text)
    if not sys.stdout.isatty():
        print("  ".join(columns).rstrip())
        return
    from rich.console import Console
    from rich.text import Text

    styles = (_COLOURS.get(severity, ""), *(["dim"] if check else []), style)
    Console().print(Text("  ").join(map(Text, columns, styles)), soft_wrap=True)
