"""Checks of smtpd(8)'s other settings for recipients: postconf(5), ADDRESS_CLASS_README, SMTPD_ACCESS_README.

The source for the tables that smtpd queries before the map is check_rcpt_maps() in smtpd_check.c.
"""

from __future__ import annotations

import contextlib
import re
import shlex
from pathlib import Path
from typing import TYPE_CHECKING

from syncagent import addresses as normalise
from syncagent.checks import doubt, postfix, relay, remedies
from syncagent.checks.context import DEFAULT_RESTRICTIONS, Context, needs_of
from syncagent.checks.finding import Check, Person, Shell, error, skipped, warning
from syncagent.errors import SyncagentError
from syncagent.files import atomic as files
from syncagent.postfix import commands, mynetworks, restrictions, table_text
from syncagent.postfix.commands import CommandError
from syncagent.postfix.live import OF_DOUBT, PARAMETERS, unused_address
from syncagent.values.types import INDEX_SUFFIX, TableName

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from syncagent.checks.finding import Finding, Step

    Find = Callable[[Context], Iterator[Finding]]

_DAY = 86400
_UNITS = {"s": 1, "m": 60, "h": 3600, "d": _DAY, "w": 7 * _DAY}
_BEFORE = ("recipient_canonical_maps", "canonical_maps", "virtual_alias_maps")
_SMTP = {"smtp", "25"}


def unlisted_are_rejected(context: Context) -> Iterator[Finding]:
    """Yield an error for each parameter that stops smtpd from looking up recipients.

    Raises CommandError if postconf(1) cannot expand a restriction class.
    """
    for bypass in restrictions.bypasses(context.live):
        remedy = context.postconf(bypass.parameter, "yes")
        if bypass.parameter == restrictions.OVERRIDES:
            gone = [restrictions.NO_RECIPIENT_CHECKS]
            others = set(context.live.listed(bypass.parameter)) > set(gone)
            remedy = context.without(bypass.parameter, gone) if others else context.unset(bypass.parameter)
        yield error(bypass.parameter, bypass.text, remedy)


def unknown_are_refused(context: Context) -> Iterator[Finding]:
    """Yield a finding if unknown recipients get a reply other than 550, also by soft_bounce."""
    code = context.live.values.get("unknown_relay_recipient_reject_code", "550")
    remedy = context.postconf("unknown_relay_recipient_reject_code", "550")
    if code == "450":
        text = "450: good for the first week, while a recipient that is missing may be tried again; then"
        yield warning("unknown_relay_recipient_reject_code", text, remedy)
    elif code != "550":
        yield error("unknown_relay_recipient_reject_code", f"{code}: what senders understand is 550", remedy)
    if context.live.values.get("soft_bounce") == "yes":
        text = "yes: unknown recipients get 450, and are tried again for days"
        yield warning("soft_bounce", text, context.postconf("soft_bounce", "no"))


def nothing_accepts_before(context: Context) -> Iterator[Finding]:
    """Yield an error for each canonical or virtual alias map that has every recipient of a relay domain.

    smtpd queries them before the map. Tables that cannot be queried yield "skipped".
    """
    forms = [form for domain in sorted(context.scope) for form in normalise.renderings(domain)]
    probes = {domain: (unused_address(domain), f"@{domain}") for domain in forms}
    for name in _BEFORE:
        for table in context.live.listed(name):
            try:
                there = context.live.look_up(table, [key for keys in probes.values() for key in keys])
            except CommandError as failure:
                yield skipped(table, f"{name} has it, and it says nothing here: {failure}")
                continue
            for domain, keys in probes.items():
                hit = [key for key in keys if key in there]
                if hit:
                    text = f"{name} has {hit[-1]} in {table}: every recipient is accepted before the map is asked"
                    yield error(domain, text, *_less_a_key(context, table, f"@{domain}"))


def _less_a_key(context: Context, table: str, key: str) -> Iterator[Step]:
    """Yield the commands that remove a key's lines from a table's text and index it, or an instruction to do so."""
    name = TableName.parse(table)
    if name.type not in INDEX_SUFFIX or not _in_lines_of_its_own(Path(name.rest), key):
        yield Person(text=f"take what matches {key} out of {table}")
        return
    words = re.sub(r"([].[*^$/\\])", r"\\\1", key)
    yield Shell(command=shlex.join(["sed", "-i", rf"/^{words}[[:space:]]/Id", name.rest]))
    if name.type != "texthash":
        yield context.change("postmap", str(name))


def _in_lines_of_its_own(text: Path, key: str) -> bool:
    """True if a text has the key, and each entry of the key is one physical line, which sed(1) can remove.

    Returns False if the text cannot be read or is larger than 16 MiB.
    """
    try:
        lines = files.read_foreign(text, files.MOST_OF_A_LIST).split(b"\n")
        logical = list(table_text.logical_lines(lines))
    except OSError:
        return False
    whole = []
    for number, line in logical:
        pair = table_text.split(line)
        if pair and pair[0].decode(errors="replace").casefold() == key:
            whole.append(line == lines[number - 1])
    return bool(whole) and all(whole)


def local_recipients_are_known(context: Context) -> Iterator[Finding]:
    """Yield a warning if local_recipient_maps is empty and mydestination is not."""
    if not context.live.values.get("local_recipient_maps", "x") and context.live.listed("mydestination"):
        domains = ", ".join(context.live.listed("mydestination"))
        text = f"it is empty: unknown users of {domains} are accepted, and bounce later"
        yield warning("local_recipient_maps", text, context.unset("local_recipient_maps"))


def relaying_is_closed(context: Context) -> Iterator[Finding]:
    """Yield an error if no restriction list rejects or defers unauthorized destinations before a ``permit``.

    Raises CommandError if postconf(1) cannot expand a restriction class.
    """
    if restrictions.is_closed(context.live):
        return
    text = "neither has reject_unauth_destination before a permit: relaying for everybody, or smtpd refuses to run"
    yield error(" and ".join(restrictions.LISTS), text, context.postconf(restrictions.LISTS[0], DEFAULT_RESTRICTIONS))


def few_are_trusted(context: Context) -> Iterator[Finding]:
    """Yield a finding for each network in mynetworks that is too wide to be this host's own.

    It is an error if it spans the Internet and permit_mynetworks lets it relay; "skipped" if an entry cannot be read.
    Raises CommandError if postconf(1) cannot expand a restriction class.
    """
    relays = not restrictions.is_closed(context.live, {"permit", "permit_mynetworks"})
    for entry in context.live.listed("mynetworks"):
        try:
            wide = mynetworks.wide(context.live, entry)
        except (CommandError, OSError, UnicodeError) as failure:
            yield skipped(entry, f"mynetworks has it, and it says nothing here: {failure}")
            continue
        for pattern, world in wide.items():
            remedy = remedies.networks(context, entry)
            if world and relays:
                yield error(entry, f"mynetworks trusts {pattern} to relay: this host relays for everybody", remedy)
            elif world:
                text = f"mynetworks trusts {pattern}, and only what is restricted beside that keeps them from relaying"
                yield warning(entry, text, remedy)
            elif relays:
                yield warning(entry, f"mynetworks trusts {pattern} to relay; is all of that yours?", remedy)


def no_mx_backup(context: Context) -> Iterator[Finding]:
    """Yield a warning for each restriction list that has permit_mx_backup.

    Raises CommandError if postconf(1) cannot expand a restriction class.
    """
    for name in restrictions.LISTS:
        if "permit_mx_backup" in restrictions.words(context.live, name):
            text = "permit_mx_backup takes mail for whoever names this host in DNS, and asks no map for recipients"
            words = [word for word in context.live.listed(name) if word.lower() == "permit_mx_backup"]
            yield warning(name, text, context.without(name, words))


def queue_lives_long(context: Context) -> Iterator[Finding]:
    """Yield a finding for each queue lifetime of less than a day."""
    for name, say in (("maximal_queue_lifetime", error), ("bounce_queue_lifetime", warning)):
        spelled = context.live.values.get(name, "5d")
        seconds = _seconds(spelled)
        if seconds is not None and seconds < _DAY:
            text = f"{spelled}: while the primary is down for longer, mail that was taken for it bounces"
            yield say(name, text, context.postconf(name, "5d"))


def _seconds(spelled: str) -> float | None:
    """Return a time value of main.cf in seconds; None if it is invalid. The default unit is days."""
    parts = re.fullmatch(r"\s*(\d+)\s*([smhdw]?)\s*", spelled)
    return int(parts[1]) * _UNITS[parts[2] or "d"] if parts else None


def nothing_is_overridden(context: Context) -> Iterator[Finding]:
    """Yield a finding for each parameter that master.cf overrides for an smtpd open to the Internet.

    It is an error if the override causes an error of the checks in ``_OF_THE_DIALOGUE``, else a warning. Raises
    CommandError if postconf(1) fails.
    """
    services = _open_services(context)
    judged = (*PARAMETERS, *(OF_DOUBT if context.config.postfix.doubt_map else ()))
    overrides: dict[str, dict[str, str]] = {}
    for place, value in commands.parameters(context.live.ask("postconf", "-xP")).items():
        service, _, name = place.rpartition("/")
        if service in services and name in judged and context.live.values.get(name) != value:
            overrides.setdefault(service, {})[name] = value
    there_already = _errors(context, {}) if overrides else {}
    for service, changed in overrides.items():
        wrong = _errors(context, changed)
        for name, value in changed.items():
            without = _errors(context, {other: own for other, own in changed.items() if other != name})
            by_this = [text for key, text in wrong.items() if key not in there_already and key not in without]
            text = f"{service.partition('/')[0]} in master.cf has {value!r}"
            remedy = context.change("postconf", "-PX", f"{service}/{name}", needs=needs_of(name))
            if by_this:
                yield error(name, f"{text}; {by_this[0]}", remedy)
            elif name != restrictions.OVERRIDES:  # its other options are common and harmless
                text += f"; main.cf, which is judged here, {context.live.values.get(name, '')!r}"
                yield warning(name, text, remedy)


def _open_services(context: Context) -> set[str]:
    """Return the services open to the Internet, as SERVICE/TYPE: on port 25 or the port of `--smtp`, at any address.

    If postscreen(8) listens there, services of type ``pass`` are included. Raises CommandError if postconf(1) fails.
    """
    ports = _SMTP | ({str(context.options.smtp[1])} if context.options.smtp else set())
    rows = [line.split() for line in context.live.ask("postconf", "-M").splitlines()]
    open_to_all = [row for row in rows if row[1] == "inet" and row[0].rpartition(":")[2] in ports]
    if any(row[7] == "postscreen" for row in open_to_all):
        open_to_all += [row for row in rows if row[1] == "pass"]
    return {f"{row[0]}/{row[1]}" for row in open_to_all}


def _errors(context: Context, changed: dict[str, str]) -> dict[tuple[Find, str], str]:
    """Return the errors of the checks in ``_OF_THE_DIALOGUE`` if parameters had the values ``changed``.

    The keys are check and subject, the values messages.
    """
    other = Context(context.config, context.options, context.reports, context.ledger)
    other.live.values = context.live.values | changed
    errors: dict[tuple[Find, str], str] = {}
    for find in _OF_THE_DIALOGUE:
        with contextlib.suppress(SyncagentError, OSError, UnicodeError):  # the check itself reports a failure
            for finding in find(other):
                if finding.severity == "error":
                    errors[find, finding.subject] = f"{finding.subject}: {finding.text}"
    return errors


_OF_THE_DIALOGUE: tuple[Find, ...] = (
    *(postfix.map_is_named, postfix.no_other_tables, relay.domains_are_relayed, relay.domains_are_of_one_class),
    *(unlisted_are_rejected, unknown_are_refused, nothing_accepts_before, relaying_is_closed, few_are_trusted),
    *doubt.OF_THE_DIALOGUE,
)
"""The checks of the settings that decide smtpd's reply to RCPT TO."""

CHECKS = (
    Check(
        "unlisted-are-rejected",
        "Postfix asks the map: smtpd_reject_unlisted_recipient is yes",
        unlisted_are_rejected,
    ),
    Check("unknown-are-refused", "Unknown recipients are refused with 550", unknown_are_refused),
    Check(
        "nothing-accepts-before",
        "No canonical or virtual alias map accepts every recipient of a relay domain before the map is asked",
        nothing_accepts_before,
    ),
    Check("local-recipients-are-known", "local_recipient_maps is not emptied", local_recipients_are_known),
    Check(
        "relaying-is-closed",
        "Nothing but relay domains is relayed for strangers: reject_unauth_destination is in force",
        relaying_is_closed,
    ),
    Check(
        "few-are-trusted",
        "No more than a host's own networks may relay: mynetworks, permit_mynetworks",
        few_are_trusted,
    ),
    Check(
        "no-mx-backup",
        "No restriction permits whatever domain has an MX record that leads here (permit_mx_backup)",
        no_mx_backup,
    ),
    Check("queue-lives-long", "Mail waits for the primary for a day at least", queue_lives_long),
    Check(
        "nothing-is-overridden",
        "master.cf sets nothing else for the smtpd that the world talks to",
        nothing_is_overridden,
    ),
)
