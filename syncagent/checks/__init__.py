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
from syncagent.checks.context import PARAMETERS, Host, Options, UnaskedError
from syncagent.checks.finding import Finding, error, skipped, warning
from syncagent.errors import ExitCode, LayoutError, LedgerError, SyncagentError
from syncagent.model import SourceReport
from syncagent.postfix.commands import create_main_cf, tool
from syncagent.state.database import reading
from syncagent.sync import fetch

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from syncagent.config.tables import Config

    Check = Callable[[Host], Iterator[Finding]]

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
    host = Host(config, options)
    found = [*_run(_remembered, host), *_run(_asked, host)]
    several: list[Check] = [*local.CHECKS, *_of_the_host(host)]
    for check in several:
        ready = check in local.CHECKS or host.begun
        found += (one if ready else _left_to_do(one) for one in _run(check, host))
    errors, warnings = (sum(one.severity == severity for one in found) for severity in ("error", "warning"))
    code = ExitCode.PROBLEMS if errors else ExitCode.OK
    return Checked(tuple(found), host.reports, errors, warnings, _then(host, found), code)


def refused(refusal: LayoutError) -> Checked:
    """Return the one finding that there is where root may not even look."""
    finding = Finding("error", "paths-are-ours", refusal.path, refusal.text, refusal.remedy)
    return Checked((finding,), (), 1, 0, "", ExitCode.PROBLEMS)


def _then(host: Host, found: Sequence[Finding]) -> str:
    """Say what brings the mends of main.cf into force, and of tables: one that was not there is not looked for again.

    inet_interfaces is read at the start only (postconf(5)).
    """
    lines = [line for one in found for line in one.mend.splitlines()]
    changes = [line for line in lines if line.startswith(("postconf", "postmap"))]
    if any("inet_interfaces" in line for line in changes):
        return f"{host.command('postfix', 'stop')} && {host.command('postfix', 'start')}"
    return host.command("postfix", "reload") if changes else ""


def _remembered(host: Host) -> Iterator[Finding]:
    """Nothing that is remembered is damaged."""
    try:
        with reading(host.config.state.directory) as host.ledger:
            pass
    except LedgerError as trouble:
        yield error(str(host.config.state.directory), str(trouble), host.sync)


def _asked(host: Host) -> Iterator[Finding]:
    """Every source was asked."""
    try:
        host.reports = tuple(_sources(host))
    except (SyncagentError, OSError) as trouble:
        yield error("", f"what the sources say cannot be kept: {trouble}")


def _sources(host: Host) -> Sequence[SourceReport]:
    """Ask every source for everything, as a first run would; what it answers is thrown away.

    The breaker holds here too: a source that refused our credentials within the hour is not asked.
    """
    with tempfile.TemporaryDirectory(prefix="syncagent-check-") as directory:
        spool = Path(directory)
        known = host.ledger.sources if host.ledger else {}
        remembered = {name: replace(state, snapshot=None, validator=None) for name, state in known.items()}
        fetcher = fetch.Fetcher(spool, spool, spool, "check", time.time(), host.options.report)
        return [one.report for one in fetcher.all(host.config.sources, remembered)]


def _left_to_do(finding: Finding) -> Finding:
    """Make an error a warning: before the first map is published, Postfix and DNS need not be ready for it."""
    return replace(finding, severity="warning") if finding.severity == "error" else finding


def _of_the_host(host: Host) -> Iterator[Check]:
    """Give the checks of Postfix, DNS and SMTP that can be made here."""
    if not host.values:
        yield _main_cf_is_understood if _has_main_cf(host) else _no_postfix
        return
    yield from (*postfix.CHECKS, *relay.CHECKS, *smtpd.CHECKS)
    if host.options.offline:
        yield _offline
    else:
        yield from (*dns.CHECKS, *smtp.CHECKS)


def _has_main_cf(host: Host) -> bool:
    """Whether there is a Postfix, and a main.cf that may be read: then it is its fault if it cannot be."""
    return tool("postconf") is not None and os.access(host.config.postfix.config_directory / "main.cf", os.R_OK)


def _main_cf_is_understood(host: Host) -> Iterator[Finding]:
    """Postfix understands its configuration."""
    directory = str(host.config.postfix.config_directory)
    try:
        host.ask("postconf", "-x", *PARAMETERS)
    except UnaskedError as trouble:
        text = (
            f"Postfix does not understand it, and all that needs it fails: {trouble}; nothing else of it is looked at"
        )
        mend = f"# mend main.cf or master.cf in {directory}, until this is quiet:"
        yield error(directory, text, f"{mend}\n{host.command('postconf', '-x')} >/dev/null")
    else:
        yield warning(directory, "it was not understood a moment ago, and is now", f"{host.options.program} check")


def _no_postfix(host: Host) -> Iterator[Finding]:
    directory = host.config.postfix.config_directory
    text = f"{'; '.join(host.main.notes) or 'postconf says nothing'}: neither Postfix nor DNS nor SMTP is looked at"
    mend = create_main_cf(directory) or "# see postfix.config_directory; or: apt-get install postfix"
    yield warning(str(directory), text, mend)


def _offline(_host: Host) -> Iterator[Finding]:
    yield skipped("DNS", "not asked: --offline")
    yield skipped("SMTP", "not asked: --offline")


def _run(check: Check, host: Host) -> Iterator[Finding]:
    """Run a check: what it finds, or that all is well, or that it failed."""
    name = check.__name__.strip("_").replace("_", "-")
    count = 0
    try:
        for finding in check(host):
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
