"""The checks of `syncagent check`. Each is a function that yields findings with remedies.

To add a check, write a function in a module of this package, add it to the module's ``CHECKS``, and add a row to the
tests' table of misconfigurations.
"""

from __future__ import annotations

import os
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

from msgspec import Struct
from msgspec.structs import replace

from syncagent.checks import content_age, dns, doubt, local, not_relayed, postfix, relay, smtp, smtpd
from syncagent.checks.context import Context, Options
from syncagent.checks.finding import Check, Finding, Needs, Person, Shell, error, skipped, warning
from syncagent.errors import ExitCode, LayoutError, LedgerError, SyncagentError
from syncagent.model import SourceReport
from syncagent.postfix.commands import CommandError, create_main_cf, tool
from syncagent.postfix.live import PARAMETERS
from syncagent.state.database import reading
from syncagent.sync import fetch

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from syncagent.config.tables import Config

__all__ = ["Checked", "Finding", "Options", "registered", "run"]


class Checked(Struct, frozen=True):
    """The result of a run of checks: findings, source reports, and counts of errors and warnings."""

    findings: tuple[Finding, ...]
    sources: tuple[SourceReport, ...]
    errors: int
    warnings: int
    then: str
    """The shell command that applies the remedies to the running Postfix; empty if no remedy needs a command."""
    exit_code: ExitCode
    """PROBLEMS (1) if there is an error, else OK; warnings do not count."""


def run(config: Config, options: Options) -> Checked:
    """Run every check that applies to this host. A check that fails becomes a finding.

    Nothing is written but temporary files.
    """
    context = Context(config, options)
    findings = [finding for check in (_STATE, _SOURCES, *_OF_SYNCAGENT) for finding in _run(check, context)]
    for check in _of_the_host(context):
        found = _run(check, context)
        findings += found if context.map_in_use else map(_left_to_do, found)
    errors, warnings = (sum(finding.severity == level for finding in findings) for level in ("error", "warning"))
    code = ExitCode.PROBLEMS if errors else ExitCode.OK
    return Checked(tuple(findings), context.reports, errors, warnings, _then(context, findings), code)


def refused(refusal: LayoutError) -> Checked:
    """Return a result whose only finding is the LayoutError: root must not run checks in an unsafe layout."""
    remedies = (Shell(command=refusal.remedy),) if refusal.remedy else ()
    finding = Finding("error", local.PATHS_ARE_OURS.id, refusal.path, refusal.text, remedies)
    return Checked((finding,), (), 1, 0, "", ExitCode.PROBLEMS)


def registered() -> tuple[Check, ...]:
    """Return every check in the order of execution, those included that only some hosts run."""
    of_postfix = (*postfix.CHECKS, *relay.CHECKS, *smtpd.CHECKS, *doubt.CHECKS, *not_relayed.CHECKS)
    of_the_host = (_MAIN_CF, _NO_POSTFIX, *of_postfix, _OFFLINE)
    return (_STATE, _SOURCES, *_OF_SYNCAGENT, *of_the_host, *dns.CHECKS, *smtp.CHECKS)


def _then(context: Context, findings: Iterable[Finding]) -> str:
    """Return the shell command that restarts or reloads Postfix as the remedies need; empty if none needs it.

    Remedies with ``when`` (alternatives and later steps) do not count.
    """
    needs = {step.needs for finding in findings for step in finding.remedies if not step.when}
    if Needs.RESTART in needs:
        return f"{context.command('postfix', 'stop')} && {context.command('postfix', 'start')}"
    return context.command("postfix", "reload") if Needs.RELOAD in needs else ""


def _state_is_intact(context: Context) -> Iterator[Finding]:
    """Set ``context.ledger``; yield an error if the state is damaged or cannot be read."""
    try:
        with reading(context.config.state.directory) as context.ledger:
            context.approved = {name: context.ledger.approved_rejects(name) for name in context.config.sources}
    except LedgerError as failure:
        yield error(str(context.config.state.directory), str(failure), context.sync)


def _sources_are_asked(context: Context) -> Iterator[Finding]:
    """Fetch every source into ``context.reports``; yield an error if the fetched data cannot be stored."""
    try:
        answers = _fetch(context)
    except (SyncagentError, OSError) as failure:
        yield error("", f"the answers of the sources cannot be stored: {failure}")
    else:
        context.reports = tuple(answer.report for answer in answers)
        context.rejected = {answer.report.name: answer.rejected for answer in answers}


def _fetch(context: Context) -> Sequence[fetch.Fetched]:
    """Fetch every source in full, as a first run does, and return the answers; their lists are discarded.

    The circuit breaker applies: a source that rejected the credentials less than an hour ago is not contacted.
    """
    with tempfile.TemporaryDirectory(prefix="syncagent-check-") as directory:
        spool = Path(directory)
        known = context.ledger.sources if context.ledger else {}
        without_data = {name: replace(state, snapshot=None, validator=None) for name, state in known.items()}
        fetcher = fetch.Fetcher(
            spool, spool, spool, "check", time.time(), context.options.report, approved=context.approved
        )
        answers = fetcher.all(context.config.sources, without_data)
        return [fetch.with_age(answer, context.config.sources, fetcher.now) for answer in answers]


def _left_to_do(finding: Finding) -> Finding:
    """Return an error as a warning, other findings unchanged.

    Until the first map is published, Postfix and DNS need not be ready for it.
    """
    return replace(finding, severity="warning") if finding.severity == "error" else finding


def _of_the_host(context: Context) -> Iterator[Check]:
    """Yield the checks of Postfix, DNS and SMTP for this host.

    If postconf(1) prints no parameters, yields only a check that reports this. With `--offline`, a check that reports
    the omission replaces the checks of DNS and SMTP.
    """
    if not context.live.values:
        yield _MAIN_CF if _has_main_cf(context) else _NO_POSTFIX
        return
    yield from (*postfix.CHECKS, *relay.CHECKS, *smtpd.CHECKS, *doubt.CHECKS, *not_relayed.CHECKS)
    if context.options.offline:
        yield _OFFLINE
    else:
        yield from (*dns.CHECKS, *smtp.CHECKS)


def _has_main_cf(context: Context) -> bool:
    """True if postconf is installed and main.cf readable. If postconf fails nevertheless, main.cf is invalid."""
    return tool("postconf") is not None and os.access(context.config.postfix.config_directory / "main.cf", os.R_OK)


def _main_cf_is_understood(context: Context) -> Iterator[Finding]:
    """Yield an error if postconf(1) rejects the configuration; a warning if it accepts it this time."""
    directory = str(context.config.postfix.config_directory)
    try:
        context.live.ask("postconf", "-x", *PARAMETERS)
    except CommandError as failure:
        text = (
            f"Postfix does not understand it, and all that needs it fails: {failure}; nothing else of it is looked at"
        )
        by_hand = Person(text=f"correct main.cf or master.cf in {directory}, until this prints no error:")
        test = Shell(command=f"{context.command('postconf', '-x')} >/dev/null", needs=Needs.RELOAD)
        yield error(directory, text, by_hand, test)
    else:
        again = Shell(command=context.config.command("check"))
        yield warning(directory, "it was not understood a moment ago, and is now", again)


def _no_postfix(context: Context) -> Iterator[Finding]:
    directory = context.config.postfix.config_directory
    why = "; ".join(map(str, context.live.main.notes)) or "postconf printed nothing"
    text = f"{why}: neither Postfix nor DNS nor SMTP is looked at"
    create = create_main_cf(directory)
    by_hand = Person(text="see postfix.config_directory; or: apt-get install postfix")
    yield warning(str(directory), text, Shell(command=create) if create else by_hand)


def _offline(_context: Context) -> Iterator[Finding]:
    yield skipped("DNS", "not asked: --offline")
    yield skipped("SMTP", "not asked: --offline")


def _run(check: Check, context: Context) -> Iterator[Finding]:
    """Yield a check's findings with its ID. Yields "ok" if the check finds nothing, and a finding if it fails."""
    count = 0
    try:
        for finding in check.find(context):
            count += 1
            yield replace(finding, check=check.id)
    except (SyncagentError, OSError, UnicodeError) as failure:
        count += 1
        yield Finding("warning", check.id, "", f"could not be looked at: {failure}")
    except Exception as failure:  # noqa: BLE001 - the other checks are worth having, and the fault is reported
        count += 1
        yield Finding("error", check.id, "", f"the check itself failed: {type(failure).__name__}: {failure}")
    if not count:
        yield Finding("ok", check.id, "", check.ok)


_STATE = Check("remembered", "Nothing that is remembered is damaged", _state_is_intact)
_SOURCES = Check("asked", "Every source was asked", _sources_are_asked)
_MAIN_CF = Check("main-cf-is-understood", "Postfix understands its configuration", _main_cf_is_understood)
_NO_POSTFIX = Check("no-postfix", "Postfix is installed", _no_postfix)
_OFFLINE = Check("offline", "DNS and SMTP are asked", _offline)
_OF_SYNCAGENT = (*local.CHECKS, *content_age.CHECKS, *doubt.OF_SYNCAGENT)
