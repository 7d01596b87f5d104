"""Is everything right? Lists of checks, one small function per thing, each finding with its mend.

A check is a generator of findings; its docstring says what holds where it finds nothing. To add one: a function in
one of the modules here, its name in that module's ``CHECKS``, a row in the tests' table of misconfigurations.
"""

from __future__ import annotations

import os
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

from msgspec import Struct
from msgspec.structs import replace

from syncagent.checks import dns, local, postfix, relay, smtp, smtpd
from syncagent.checks.context import Context, Options
from syncagent.checks.finding import Finding, error, skipped, warning
from syncagent.errors import ExitCode, LayoutError, LedgerError, SyncagentError
from syncagent.model import SourceReport
from syncagent.postfix.commands import CommandError, create_main_cf, tool
from syncagent.postfix.live import PARAMETERS
from syncagent.state.database import reading
from syncagent.sync import fetch

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from syncagent.config.tables import Config

    Check = Callable[[Context], Iterator[Finding]]

__all__ = ["Checked", "Finding", "Options", "run"]


class Checked(Struct, frozen=True):
    """Everything that was found, and how each source did."""

    findings: tuple[Finding, ...]
    sources: tuple[SourceReport, ...]
    errors: int
    warnings: int
    then: str
    """What is to be typed after the mends that change main.cf; empty where there are none."""
    exit_code: ExitCode
    """1 where there is an error; warnings do not count."""


def run(config: Config, options: Options) -> Checked:
    """Run every check. Nothing is written; what fails is a finding."""
    context = Context(config, options)
    found = [*_run(_remembered, context), *_run(_asked, context)]
    several: list[Check] = [*local.CHECKS, *_of_the_host(context)]
    for check in several:
        ready = check in local.CHECKS or context.map_in_use
        found += (one if ready else _left_to_do(one) for one in _run(check, context))
    errors, warnings = (sum(one.severity == severity for one in found) for severity in ("error", "warning"))
    code = ExitCode.PROBLEMS if errors else ExitCode.OK
    return Checked(tuple(found), context.reports, errors, warnings, _then(context, found), code)


def refused(refusal: LayoutError) -> Checked:
    """Return the one finding that there is where root may not even look."""
    finding = Finding("error", "paths-are-ours", refusal.path, refusal.text, refusal.remedy)
    return Checked((finding,), (), 1, 0, "", ExitCode.PROBLEMS)


def _then(context: Context, found: Sequence[Finding]) -> str:
    """Say what brings the mends of main.cf into force, and of tables: one that was not there is not looked for again.

    inet_interfaces is read at the start only (postconf(5)).
    """
    lines = [line for one in found for line in one.mend.splitlines()]
    changes = [line for line in lines if line.startswith(("postconf", "postmap"))]
    if any("inet_interfaces" in line for line in changes):
        return f"{context.command('postfix', 'stop')} && {context.command('postfix', 'start')}"
    return context.command("postfix", "reload") if changes else ""


def _remembered(context: Context) -> Iterator[Finding]:
    """Nothing that is remembered is damaged."""
    try:
        with reading(context.config.state.directory) as context.ledger:
            pass
    except LedgerError as trouble:
        yield error(str(context.config.state.directory), str(trouble), context.sync)


def _asked(context: Context) -> Iterator[Finding]:
    """Every source was asked."""
    try:
        context.reports = tuple(_sources(context))
    except (SyncagentError, OSError) as trouble:
        yield error("", f"what the sources say cannot be kept: {trouble}")


def _sources(context: Context) -> Sequence[SourceReport]:
    """Ask every source for everything, as a first run would; what it answers is thrown away.

    The breaker holds here too: a source that refused our credentials within the hour is not asked.
    """
    with tempfile.TemporaryDirectory(prefix="syncagent-check-") as directory:
        spool = Path(directory)
        known = context.ledger.sources if context.ledger else {}
        remembered = {name: replace(state, snapshot=None, validator=None) for name, state in known.items()}
        fetcher = fetch.Fetcher(spool, spool, spool, "check", time.time(), context.options.report)
        return [one.report for one in fetcher.all(context.config.sources, remembered)]


def _left_to_do(finding: Finding) -> Finding:
    """Make an error a warning: before the first map is published, Postfix and DNS need not be ready for it."""
    return replace(finding, severity="warning") if finding.severity == "error" else finding


def _of_the_host(context: Context) -> Iterator[Check]:
    """Give the checks of Postfix, DNS and SMTP that can be made here."""
    if not context.live.values:
        yield _main_cf_is_understood if _has_main_cf(context) else _no_postfix
        return
    yield from (*postfix.CHECKS, *relay.CHECKS, *smtpd.CHECKS)
    if context.options.offline:
        yield _offline
    else:
        yield from (*dns.CHECKS, *smtp.CHECKS)


def _has_main_cf(context: Context) -> bool:
    """Whether there is a Postfix, and a main.cf that may be read: then it is its fault if it cannot be."""
    return tool("postconf") is not None and os.access(context.config.postfix.config_directory / "main.cf", os.R_OK)


def _main_cf_is_understood(context: Context) -> Iterator[Finding]:
    """Postfix understands its configuration."""
    directory = str(context.config.postfix.config_directory)
    try:
        context.live.ask("postconf", "-x", *PARAMETERS)
    except CommandError as trouble:
        text = (
            f"Postfix does not understand it, and all that needs it fails: {trouble}; nothing else of it is looked at"
        )
        mend = f"# mend main.cf or master.cf in {directory}, until this is quiet:"
        yield error(directory, text, f"{mend}\n{context.command('postconf', '-x')} >/dev/null")
    else:
        yield warning(directory, "it was not understood a moment ago, and is now", f"{context.options.program} check")


def _no_postfix(context: Context) -> Iterator[Finding]:
    directory = context.config.postfix.config_directory
    why = "; ".join(map(str, context.live.main.notes)) or "postconf printed nothing"
    text = f"{why}: neither Postfix nor DNS nor SMTP is looked at"
    mend = create_main_cf(directory) or "# see postfix.config_directory; or: apt-get install postfix"
    yield warning(str(directory), text, mend)


def _offline(_host: Context) -> Iterator[Finding]:
    yield skipped("DNS", "not asked: --offline")
    yield skipped("SMTP", "not asked: --offline")


def _run(check: Check, context: Context) -> Iterator[Finding]:
    """Run a check: what it finds, or that all is well, or that it failed."""
    name = check.__name__.strip("_").replace("_", "-")
    count = 0
    try:
        for finding in check(context):
            count += 1
            yield replace(finding, check=name)
    except (SyncagentError, OSError, UnicodeError) as trouble:
        count += 1
        yield Finding("warning", name, "", f"could not be looked at: {trouble}")
    except Exception as trouble:  # noqa: BLE001 - the other checks are worth having, and this is told
        count += 1
        yield Finding("error", name, "", f"the check itself failed: {type(trouble).__name__}: {trouble}")
    if not count:
        yield Finding("ok", name, "", (check.__doc__ or "").strip().rstrip("."))
