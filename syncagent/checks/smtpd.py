"""What smtpd(8) does with a recipient besides asking our map: postconf(5), ADDRESS_CLASS_README, SMTPD_ACCESS_README.

What is asked before the map: check_rcpt_maps() in its source, smtpd_check.c.
"""

from __future__ import annotations

import contextlib
import re
import shlex
from pathlib import Path
from typing import TYPE_CHECKING

from syncagent import addresses as normalise
from syncagent.checks import postfix, relay, remedies
from syncagent.checks.context import DEFAULT_RESTRICTIONS, Context
from syncagent.checks.finding import error, skipped, warning
from syncagent.errors import SyncagentError
from syncagent.files import sorted_lines as files
from syncagent.postfix import commands, mynetworks, restrictions, table_text
from syncagent.postfix.commands import CommandError
from syncagent.postfix.live import PARAMETERS, unused_address
from syncagent.values.types import INDEX_SUFFIX, TableName

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from syncagent.checks.finding import Finding

    Check = Callable[[Context], Iterator[Finding]]

_DAY = 86400
_UNITS = {"s": 1, "m": 60, "h": 3600, "d": _DAY, "w": 7 * _DAY}
_BEFORE = ("recipient_canonical_maps", "canonical_maps", "virtual_alias_maps")
_SMTP = {"smtp", "25"}


def unlisted_are_rejected(context: Context) -> Iterator[Finding]:
    """Postfix asks the map: smtpd_reject_unlisted_recipient is yes."""
    for bypass in restrictions.bypasses(context.live):
        mend = context.postconf(bypass.parameter, "yes")
        if bypass.parameter == restrictions.OVERRIDES:
            gone = [restrictions.NO_RECIPIENT_CHECKS]
            others = set(context.live.listed(bypass.parameter)) > set(gone)
            mend = context.without(bypass.parameter, gone) if others else context.unset(bypass.parameter)
        yield error(bypass.parameter, bypass.text, mend)


def unknown_are_refused(context: Context) -> Iterator[Finding]:
    """Unknown recipients are refused with 550."""
    code = context.live.values.get("unknown_relay_recipient_reject_code", "550")
    mend = context.postconf("unknown_relay_recipient_reject_code", "550")
    if code == "450":
        text = "450: good for the first week, while a recipient that is missing may be tried again; then"
        yield warning("unknown_relay_recipient_reject_code", text, mend)
    elif code != "550":
        yield error("unknown_relay_recipient_reject_code", f"{code}: what senders understand is 550", mend)
    if context.live.values.get("soft_bounce") == "yes":
        text = "yes: unknown recipients get 450, and are tried again for days"
        yield warning("soft_bounce", text, context.postconf("soft_bounce", "no"))


def nothing_accepts_before(context: Context) -> Iterator[Finding]:
    """No canonical or virtual alias map accepts every recipient of a relay domain before the map is asked."""
    forms = [form for domain in sorted(context.scope) for form in normalise.renderings(domain)]
    probes = {domain: (unused_address(domain), f"@{domain}") for domain in forms}
    for name in _BEFORE:
        for table in context.live.listed(name):
            try:
                there = context.live.look_up(table, [key for keys in probes.values() for key in keys])
            except CommandError as trouble:
                yield skipped(table, f"{name} has it, and it says nothing here: {trouble}")
                continue
            for domain, keys in probes.items():
                hit = [key for key in keys if key in there]
                if hit:
                    text = f"{name} has {hit[-1]} in {table}: every recipient is accepted before the map is asked"
                    yield error(domain, text, _less_a_key(context, table, f"@{domain}"))


def _less_a_key(context: Context, table: str, key: str) -> str:
    """Give the commands that take a line out of a table's text, or say that a person has to."""
    name = TableName.parse(table)
    if name.type not in INDEX_SUFFIX or not _in_lines_of_its_own(Path(name.rest), key):
        return f"# take what matches {key} out of {table}"
    words = re.sub(r"([].[*^$/\\])", r"\\\1", key)
    command = shlex.join(["sed", "-i", rf"/^{words}[[:space:]]/Id", name.rest])
    return "\n".join([command, context.command("postmap", str(name))]) if name.type != "texthash" else command


def _in_lines_of_its_own(text: Path, key: str) -> bool:
    """Tell whether a text has a key, and no line goes on in a further one: that would become the entry's before it."""
    try:
        lines = files.read_foreign(text, files.MOST_OF_A_LIST).split(b"\n")
        logical = list(table_text.logical_lines(lines))
    except OSError:
        return False
    found = []
    for number, line in logical:
        pair = table_text.split(line)
        if pair and pair[0].decode(errors="replace").casefold() == key:
            found.append(line == lines[number - 1])
    return bool(found) and all(found)


def local_recipients_are_known(context: Context) -> Iterator[Finding]:
    """local_recipient_maps is not emptied."""
    if not context.live.values.get("local_recipient_maps", "x") and context.live.listed("mydestination"):
        domains = ", ".join(context.live.listed("mydestination"))
        text = f"it is empty: unknown users of {domains} are accepted, and bounce later"
        yield warning("local_recipient_maps", text, context.unset("local_recipient_maps"))


def relaying_is_closed(context: Context) -> Iterator[Finding]:
    """Nothing but relay domains is relayed for strangers: reject_unauth_destination is in force."""
    if restrictions.is_closed(context.live):
        return
    text = "neither has reject_unauth_destination before a permit: relaying for everybody, or smtpd refuses to run"
    yield error(" and ".join(restrictions.LISTS), text, context.postconf(restrictions.LISTS[0], DEFAULT_RESTRICTIONS))


def few_are_trusted(context: Context) -> Iterator[Finding]:
    """No more than a host's own networks may relay: mynetworks, permit_mynetworks."""
    relays = not restrictions.is_closed(context.live, {"permit", "permit_mynetworks"})
    for entry in context.live.listed("mynetworks"):
        try:
            wide = mynetworks.wide(context.live, entry)
        except (CommandError, OSError, UnicodeError) as trouble:
            yield skipped(entry, f"mynetworks has it, and it says nothing here: {trouble}")
            continue
        for pattern, world in wide.items():
            mend = remedies.networks(context, entry)
            if world and relays:
                yield error(entry, f"mynetworks trusts {pattern} to relay: this host relays for everybody", mend)
            elif world:
                text = f"mynetworks trusts {pattern}, and only what is restricted beside that keeps them from relaying"
                yield warning(entry, text, mend)
            elif relays:
                yield warning(entry, f"mynetworks trusts {pattern} to relay; is all of that yours?", mend)


def no_mx_backup(context: Context) -> Iterator[Finding]:
    """No restriction permits whatever domain has an MX record that leads here (permit_mx_backup)."""
    for name in restrictions.LISTS:
        if "permit_mx_backup" in restrictions.words(context.live, name):
            text = "permit_mx_backup takes mail for whoever names this host in DNS, and asks no map for recipients"
            words = [word for word in context.live.listed(name) if word.lower() == "permit_mx_backup"]
            yield warning(name, text, context.without(name, words))


def queue_lives_long(context: Context) -> Iterator[Finding]:
    """Mail waits for the primary for a day at least."""
    for name, say in (("maximal_queue_lifetime", error), ("bounce_queue_lifetime", warning)):
        spelled = context.live.values.get(name, "5d")
        seconds = _seconds(spelled)
        if seconds is not None and seconds < _DAY:
            text = f"{spelled}: while the primary is down for longer, mail that was taken for it bounces"
            yield say(name, text, context.postconf(name, "5d"))


def _seconds(spelled: str) -> float | None:
    found = re.fullmatch(r"\s*(\d+)\s*([smhdw]?)\s*", spelled)
    return int(found[1]) * _UNITS[found[2] or "d"] if found else None


def nothing_is_overridden(context: Context) -> Iterator[Finding]:
    """master.cf sets nothing else for the smtpd that the world talks to."""
    world = _of_the_world(context)
    found: dict[str, dict[str, str]] = {}
    for place, value in commands.parameters(context.live.ask("postconf", "-xP")).items():
        service, _, name = place.rpartition("/")
        if service in world and name in PARAMETERS and context.live.values.get(name) != value:
            found.setdefault(service, {})[name] = value
    there_already = _errors(context, {}) if found else {}
    for service, changed in found.items():
        wrong = _errors(context, changed)
        for name, value in changed.items():
            without = _errors(context, {other: own for other, own in changed.items() if other != name})
            by_this = [text for key, text in wrong.items() if key not in there_already and key not in without]
            text = f"{service.partition('/')[0]} in master.cf has {value!r}"
            mend = context.command("postconf", "-PX", f"{service}/{name}")
            if by_this:
                yield error(name, f"{text}; {by_this[0]}", mend)
            elif name != restrictions.OVERRIDES:  # others of its options are common, and nothing to us
                yield warning(
                    name, f"{text}; main.cf, which is judged here, {context.live.values.get(name, '')!r}", mend
                )


def _of_the_world(context: Context) -> set[str]:
    """Give the services that the world talks to, as SERVICE/TYPE: on port 25, or behind a postscreen(8) that is."""
    ports = _SMTP | ({str(context.options.smtp[1])} if context.options.smtp else set())
    rows = [line.split() for line in context.live.ask("postconf", "-M").splitlines()]
    open_to_all = [row for row in rows if row[1] == "inet" and row[0].rpartition(":")[2] in ports]
    if any(row[7] == "postscreen" for row in open_to_all):
        open_to_all += [row for row in rows if row[1] == "pass"]
    return {f"{row[0]}/{row[1]}" for row in open_to_all}


def _errors(context: Context, changed: dict[str, str]) -> dict[tuple[Check, str], str]:
    """Give the errors that there are with other values, by check and subject."""
    other = Context(context.config, context.options, context.reports, context.ledger)
    other.live.values = context.live.values | changed
    found: dict[tuple[Check, str], str] = {}
    for check in _OF_THE_DIALOGUE:
        with contextlib.suppress(SyncagentError, OSError, UnicodeError):  # it is told where main.cf is judged
            found |= {
                (check, one.subject): f"{one.subject}: {one.text}" for one in check(other) if one.severity == "error"
            }
    return found


_OF_THE_DIALOGUE: tuple[Check, ...] = (
    *(postfix.map_is_named, postfix.no_other_tables, relay.domains_are_relayed, relay.domains_are_of_one_class),
    *(unlisted_are_rejected, unknown_are_refused, nothing_accepts_before, relaying_is_closed, few_are_trusted),
)
"""The checks of what smtpd answers."""

CHECKS = (
    unlisted_are_rejected,
    unknown_are_refused,
    nothing_accepts_before,
    local_recipients_are_known,
    relaying_is_closed,
    few_are_trusted,
    no_mx_backup,
    queue_lives_long,
    nothing_is_overridden,
)
