"""Checks of the doubt table itself, the switch, and the lag of domains. ``doubt_lines`` has those of main.cf."""

from __future__ import annotations

import contextlib
import time
from pathlib import Path
from typing import TYPE_CHECKING

from syncagent import addresses as normalise
from syncagent.checks.doubt_lines import IN_VAIN, Lines, is_asked, is_not_bypassed
from syncagent.checks.finding import Check, Person, Shell, error, ok, skipped
from syncagent.checks.postfix import of_index
from syncagent.model import Doubt
from syncagent.postfix import doubt_table
from syncagent.postfix.commands import CommandError
from syncagent.postfix.doubt_table import Files
from syncagent.postfix.match_list import with_parents
from syncagent.postfix.restrictions import SENDER
from syncagent.postfix.verify import text_keys
from syncagent.state import lag, messages
from syncagent.state.database import reading
from syncagent.state.status import is_running
from syncagent.values.types import spell_seconds

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from syncagent.checks.context import Context
    from syncagent.checks.finding import Finding, Step

SWITCH = "/opt/syncagent/libexec/doubt-switch.sh"
PROBED = "probe"
"""The end of smtpd's reply to the probe."""
_UNSEEN = 900.0
"""Seconds without a run of the switch that are an error."""
_SHOWN = 25


# --- the table


def is_published(context: Context) -> Iterator[Finding]:
    """Yield a finding if the doubt table is missing, not as its text, or lacks one form of an IDN domain.

    Also if the map has values by which known recipients reach the doubt table. Raises OSError if a text cannot be
    read, and CommandError if postconf(1) cannot expand a restriction class.
    """
    doubt = context.config.postfix.doubt_map
    if doubt is None:
        return
    lines = Lines.of(context, doubt)
    recorded = context.ledger.doubt.identities if context.ledger else None
    yield from of_index(context, doubt, recorded, asked=bool(lines.places), who="unknown recipients")
    for domain, form in _missing_forms(context.target(doubt).text):
        yield error(domain, f"{doubt} has {form} in one form only: {IN_VAIN} in the other one", context.sync)
    if lines.list == SENDER and context.published.other_value:
        text = f"it has {context.published.other_value!r}: by another value than OK, {SENDER} does not end there"
        yield error(str(lines.map), f"{text}; the recipient gets 451, or what the doubt table says", context.sync)


def _missing_forms(text: Path) -> Iterator[tuple[str, str]]:
    """Yield each IDN domain of a doubt table that it has in one form only, with that form."""
    try:
        keys = {key[:-1].decode(errors="replace").casefold() for key in text_keys(text) if b"@" not in key}
    except FileNotFoundError:
        return
    for key in sorted(keys):
        domain = normalise.domain_or_same(key.removeprefix("."))
        dot = "." if key.startswith(".") else ""
        if not keys.issuperset(f"{dot}{form}" for form in map(str.casefold, normalise.renderings(domain))):
            yield domain, key


# --- the switch


def switch(context: Context) -> Iterator[Finding]:
    """Yield an error if the switch does not run, has fired or would fire, where main.cf names the doubt table.

    Where there is no main.cf, as in a container of its own, the table is taken to be named. Raises CommandError if
    postconf(1) cannot expand a restriction class.
    """
    doubt = context.config.postfix.doubt_map
    if doubt is None or (context.live.values and not Lines.of(context, doubt).places):
        return
    beside, now = Files(doubt), time.time()
    seen = beside.switch_seen()
    if not -_UNSEEN <= now - seen <= _UNSEEN:
        when = f"it last ran at {messages.moment(seen)}" if seen else "it never ran"
        text = f"doubt-switch.sh does not run ({when}): should syncagent stop, unknown recipients go on getting 550"
        yield error(str(beside.directory), text, *_switch_on(beside.directory))
    if mark := beside.mark():
        reason = messages.doubt_since(Doubt("*", mark.why, since=mark.at))
        text = (
            f"unknown recipients of every domain get 450: {reason}; it ends with a run in which every source is asked"
        )
        yield error(str(beside.mark_file), text, context.sync)
    if beside.is_dead(now):
        written, limit = beside.alive()
        age = f"was written at {messages.moment(written)}, with a limit of {spell_seconds(limit)}" if written else ""
        text = (
            f"no sign of life: it {age or 'is missing, or cannot be read'}: doubt-switch.sh puts every domain in doubt"
        )
        yield error(str(beside.alive_file), text, context.sync)


def _switch_on(directory: Path) -> Iterator[Step]:
    """Yield the lines that have the switch run, under systemd or by cron."""
    try:
        user = directory.owner()
    except (OSError, KeyError):
        user = "root"  # the switch then becomes the owner of the directory
    by_cron = f"in /etc/cron.d/syncagent-doubt: */5 * * * * {user} {SWITCH} {directory}"
    at_boot = f"in /etc/cron.d/syncagent-doubt: @reboot {user} {SWITCH} {directory} --boot"
    if not Path("/run/systemd/system").is_dir():
        yield from (Person(text=text) for text in (by_cron, at_boot))
        return
    yield Shell(command="systemctl enable --now syncagent-doubt.timer")
    yield Shell(command="systemctl enable syncagent-doubt-boot.service")
    yield from (Person(text=text, when="or, by cron,") for text in (by_cron, at_boot))


def is_in_force(context: Context) -> Iterator[Finding]:
    """Yield an error if the last run could not publish the doubt table."""
    doubt = context.config.postfix.doubt_map
    failure = context.ledger.doubt.error if doubt and context.ledger else ""
    if failure:
        text = f"it could not be published: {failure}; removals are held, and what is newly in doubt gets 550"
        yield error(str(doubt), text, context.sync)


# --- what the running smtpd must answer


def code(context: Context) -> str:
    """Return the reply code for what is in doubt."""
    return context.live.values.get("access_map_defer_code", "450")


def _in_use(context: Context) -> Lines | None:
    """Return the restrictions of main.cf if the doubt table takes effect by them."""
    doubt = context.config.postfix.doubt_map
    lines = Lines.of(context, doubt) if doubt else None
    return lines if lines and lines.list and (lines.delayed or lines.list != SENDER) else None


def live_reason(context: Context, domain: str) -> str:
    """Return why a relay domain is in doubt by the live table; "" if it is not, or if main.cf does not ask the table.

    Raises CommandError if postconf(1) cannot expand a restriction class.
    """
    lines = _in_use(context)
    if lines is None:
        return ""
    keys = with_parents(context.live, "smtpd_access_maps", domain)
    with contextlib.suppress(CommandError):  # doubt-is-published reports a table that cannot be asked
        there = context.live.look_up(str(lines.doubt), keys)
        return next((context.doubts.why(key) for key in keys if key in there), "")
    return ""


def probe(context: Context) -> str:
    """Return the address by which to ask the doubt table; "" if it has none, or if main.cf does not ask the table.

    Raises CommandError if postconf(1) cannot expand a restriction class.
    """
    lines = _in_use(context)
    if lines is None:
        return ""
    with contextlib.suppress(OSError):  # doubt-is-published reports it
        for key in text_keys(context.target(lines.doubt).text):
            if key.startswith(doubt_table.PROBE.encode()):
                return key[:-1].decode(errors="replace")
    return ""


def permits_own_networks(context: Context) -> bool:
    """True if permit_mynetworks comes before the doubt table is asked, in the same list."""
    lines = _in_use(context)
    return lines is not None and (
        "permit_mynetworks" in {rule.name for name, rule in lines.before() if name == lines.list}
    )


# --- the lag


def lags(context: Context) -> Iterator[Finding]:
    """Yield "ok" with the lag of each relay domain, of at most 25. Raises LedgerError if the state cannot be read."""
    directory, doubt = context.config.state.directory, context.config.postfix.doubt_map
    if context.ledger is None:  # another check reports it
        return
    gap = None if is_running(directory) else Files(doubt).longest_gap() if doubt else 0.0
    with reading(directory) as ledger:
        found = lag.of_domains(context.config, ledger.concerns, context.scope, gap)
    yield from (ok(one.domain, messages.lag(one)) for one in found[:_SHOWN])
    if found[_SHOWN:]:
        yield skipped("", f"{len(found) - _SHOWN:,} more domains are not listed")


OF_THE_DIALOGUE: tuple[Callable[[Context], Iterator[Finding]], ...] = (is_asked, is_not_bypassed)
"""The checks of the settings that decide whether smtpd asks the doubt table."""
OF_SYNCAGENT = (
    Check("doubt-not-in-force", "The last run published the doubt table, or there is none", is_in_force),
    Check("doubt-switch", "The switch runs that puts every domain in doubt, or no doubt table is asked", switch),
    Check("lag", "How long a new mailbox may be refused is known", lags),
)
CHECKS = (
    Check("doubt-is-asked", "smtpd asks the doubt table in the right place, or there is none", is_asked),
    Check("doubt-is-not-bypassed", "Nothing decides before the doubt table, or there is none", is_not_bypassed),
    Check("doubt-is-published", "The doubt table is the index of its text, or there is none", is_published),
)
