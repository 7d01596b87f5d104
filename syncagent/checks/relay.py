"""Checks of relay domains: relay_domains against the configuration, and the published recipients of each domain."""

from __future__ import annotations

import os
import shlex
from pathlib import Path
from typing import TYPE_CHECKING

from msgspec.structs import replace

from syncagent import addresses as normalise
from syncagent.checks import remedies
from syncagent.checks.finding import Check, Person, Shell, error, ok, skipped, warning
from syncagent.files import atomic as files
from syncagent.postfix.main_cf import NoteKind
from syncagent.postfix.match_list import matches
from syncagent.postfix.table import is_same_table

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from syncagent.checks.context import Context
    from syncagent.checks.finding import Finding, Step

_ASKED_INSTEAD = {
    "mydestination": "local_recipient_maps",
    "virtual_alias_domains": "virtual_alias_maps",
    "virtual_mailbox_domains": "virtual_mailbox_maps",
}
"""Domain lists of the other address classes, with their recipient tables (ADDRESS_CLASS_README)."""
_NOT_OURS = "or, if this is not their backup MX,"


def domains_are_relayed(context: Context) -> Iterator[Finding]:
    """Yield an error for each configured relay domain that relay_domains lacks.

    Yields one error instead if relay_domains does not name postfix.domains_map, and "skipped" if a table in
    relay_domains cannot be queried. Raises CommandError if a lookup fails.
    """
    lacks = remedies.lacking(context)
    answer = "its mail gets 451" if context.lost("relay_domains") else "its mail is refused, 554 Relay access denied"
    if lacks.unreadable:
        text = f"whether it has every domain is not known: {', '.join(lacks.unreadable)} cannot be asked"
        yield skipped("relay_domains", text)
    elif lacks.unnamed:
        text = "relay_domains does not name postfix.domains_map: a new domain never reaches Postfix"
        yield error(str(lacks.unnamed), text, *remedies.relay_domains(context))
        return
    for form in lacks.unpublished:
        text = f"{context.config.postfix.domains_map}, which relay_domains names, does not have it: {answer}"
        yield error(form, text, context.sync)
    remedy = remedies.relay_domains(context) if lacks.missing else ()
    for form in lacks.missing:
        forms = remedies.forms(context, normalise.domain_or_same(form))
        other = next((known for known in forms if known != form and known not in lacks.missing), "")
        text = f"it is not in relay_domains: {answer}"
        yield error(form, f"{text}; {other} is, but Postfix converts neither to the other" if other else text, *remedy)


def relayed_domains_are_ours(context: Context) -> Iterator[Finding]:
    """Yield an error for each domain of relay_domains that the configuration lacks and the map has no recipients of.

    It is "ok" if another table in relay_recipient_maps may have them. Yields "skipped" for entries of relay_domains
    that cannot be listed. Raises CommandError if a lookup fails.
    """
    for note in context.live.main.notes:
        if note.kind in {NoteKind.EXCEPTION, NoteKind.UNLISTABLE}:
            yield skipped("relay_domains", str(note))
    relayed = context.live.main.domains
    others = [str(name) for name in relayed if not normalise.within(name, context.scope) and not context.counts[name]]
    if not others:
        return
    ours = context.config.postfix
    tables = [entry for entry in context.live.listed("relay_recipient_maps") if not is_same_table(entry, ours.map)]
    steps: list[Step] = [
        context.setting("relay_domains", [*ours.relay_domains, *others]),
        Person(text="and a source with their recipients"),
        context.sync,
        *(replace(step, when=_NOT_OURS) for step in _removal(context, others)),
    ]
    for domain in others:
        if tables:
            yield ok(domain, f"it is not in the configuration; its recipients may be in {', '.join(tables)}")
        else:
            text = "relay_domains has it, the configuration does not: no recipient of it is known, and all get 550"
            yield error(domain, text, *steps)


def _removal(context: Context, domains: Iterable[str]) -> Iterator[Step]:
    """Yield the steps that remove domains from relay_domains: commands for inline entries, else instructions.

    Raises CommandError if a lookup fails.
    """
    matched = matches(context.live, "relay_domains", domains)
    inline = {entry for entry in context.live.listed("relay_domains") if normalise.domain_or_same(entry) in matched}
    if inline:
        yield from remedies.relay_domains(context, inline)
    for entry in dict.fromkeys(entry for entry in matched.values() if entry not in inline):
        names = ", ".join(domain for domain, match in matched.items() if match == entry)
        yield Person(text=f"take {names} out of {entry}")


def domains_have_recipients(context: Context) -> Iterator[Finding]:
    """Yield an error for each relay domain without published recipients; "skipped" if no map is published."""
    if not context.published.exists:
        yield skipped("", "nothing is published yet")
        return
    for domain in sorted(context.scope):
        if not context.counts[domain]:
            text = "the map has no recipient of it: all its mail is refused"
            yield error(domain, text, _from_a_source(f"recipients of {domain}"), context.sync)


def recipients_are_relayed(context: Context) -> Iterator[Finding]:
    """Yield an error for each domain with published recipients that is neither a relay domain nor in relay_domains.

    Yields "skipped" while relay_domains has errors that could hide the answer. Raises CommandError if a lookup fails.
    """
    lacks = remedies.lacking(context)
    if not lacks.settled:
        yield skipped("relay_domains", "known only once the findings about it above are corrected")
        return
    remedy = remedies.relay_domains(context) if lacks.outside else ()
    for name in lacks.outside:
        text = f"the map has {context.published.domains[name]:,} recipients of it, but it is not in relay_domains: 554"
        yield error(name, text, *remedy)


def domains_are_of_one_class(context: Context) -> Iterator[Finding]:
    """Yield an error for each relay domain that is also in another address class, which takes precedence.

    Raises CommandError if a lookup fails.
    """
    forms = [form for domain in sorted(context.scope) for form in normalise.renderings(domain)]
    for name, asked_instead in _ASKED_INSTEAD.items():
        matched = matches(context.live, name, forms)
        inline = {entry for domain, entry in matched.items() if entry.casefold() == domain}
        for domain, entry in matched.items():
            text = f"{name} has it as well, and wins: {asked_instead} is asked for its recipients, not the map"
            by_hand = Person(text=f"take {domain} out of {entry}")
            yield error(domain, text, context.without(name, inline) if entry in inline else by_hand)


def catch_alls_are_wanted(context: Context) -> Iterator[Finding]:
    """Yield a warning for each published catch-all that postfix.catch_all does not permit, and "ok" for the others."""
    permitted = context.config.postfix.catch_all
    for catch_all in context.published.catch_alls:
        domain = normalise.domain_or_same(catch_all[1:])
        if domain in permitted:
            yield ok(catch_all, "every address of the domain is accepted, as postfix.catch_all permits")
            continue
        setting: list[Step] = [context.setting("catch_all", [*permitted, domain])]
        hold = _hold(context, domain)
        if hold:
            approve = Shell(command=context.config.command("approve", hold))
            setting = [approve, *(replace(step, when="or, to keep it,") for step in setting)]
        text = "every address of the domain is accepted, and what the primary then refuses bounces (backscatter)"
        yield warning(catch_all, text, *setting)


def _hold(context: Context, domain: str) -> str:
    """Return the ID of an approvable hold on a domain; empty if there is none."""
    holds = context.ledger.holds if context.ledger else {}
    within = normalise.within(domain, context.scope)
    return next((key for key, hold in holds.items() if hold.domain == within and hold.approvable), "")


def domains_have_a_postmaster(context: Context) -> Iterator[Finding]:
    """Yield a warning for each relay domain with recipients but without a postmaster (RFC 5321, section 4.5.1)."""
    if not context.published.exists:
        return
    known = {normalise.domain_or_same(name) for name in context.published.postmasters}
    known |= {normalise.domain_or_same(name[1:]) for name in context.published.catch_alls}
    missing = [domain for domain in sorted(context.scope) if domain not in known and context.counts[domain]]
    remedy = _addition(context, [f"postmaster@{domain}" for domain in missing]) if missing else ()
    for domain in missing:
        text = f"postmaster@{domain} is refused; every domain must have it (RFC 5321, 4.5.1)"
        yield warning(domain, text, *remedy)


def _addition(context: Context, addresses: list[str]) -> tuple[Step, ...]:
    """Return the steps that add addresses: a command if a source is a plain file of lines, else an instruction.

    Raises OSError if that file cannot be read.
    """
    for source in context.config.sources.values():
        path = getattr(source.own, "path", None)
        plain = source.common.type == "file" and source.own.format == "lines" and not source.own.require_end
        if plain and isinstance(path, Path) and path.is_file():
            lines = addresses if _ends_with_newline(path) else ["", *addresses]
            append = Shell(command=f"printf '%s\\n' {shlex.join(lines)} >>{shlex.quote(str(path))}")
            by_program = Person(text=f"where another program writes {path}, by that program instead")
            return append, by_program, context.sync
    return _from_a_source(", ".join(addresses)), context.sync


def _from_a_source(recipients: str) -> Person:
    return Person(text=f"have a source give {recipients}, then:")


def _ends_with_newline(path: Path) -> bool:
    """True if a file is empty or ends with a line feed. Raises OSError if it cannot be read."""
    with files.open_foreign(path) as file:
        file.seek(max(0, file.seek(0, os.SEEK_END) - 1))
        return file.read() in {b"", b"\n"}


def extensions_are_understood(context: Context) -> Iterator[Finding]:
    """Yield a warning if recipient_delimiter lacks "+" and the map has both an address and one with its extension.

    Raises CommandError if the lookup fails.
    """
    if "+" in context.live.values.get("recipient_delimiter", ""):
        return
    base = {key: key.partition("+")[0] + key[key.rindex("@") :] for key in context.published.extended}
    table = str(context.config.postfix.map)
    known = context.live.look_up(table, dict.fromkeys(base.values())) if base else {}
    extended = [key for key, name in base.items() if name in known]
    if extended:
        text = f"it is empty, but the map has {extended[0]} beside {base[extended[0]]}: other extensions are refused"
        yield warning("recipient_delimiter", text, context.postconf("recipient_delimiter", "+"))


CHECKS = (
    Check(
        "domains-are-relayed",
        "relay_domains has every domain of the configuration, internationalised ones in both forms",
        domains_are_relayed,
    ),
    Check(
        "relayed-domains-are-ours",
        "Every domain of relay_domains is in the configuration",
        relayed_domains_are_ours,
    ),
    Check("domains-have-recipients", "Every relay domain has recipients", domains_have_recipients),
    Check(
        "recipients-are-relayed",
        "Every domain that has recipients is a relay domain to Postfix",
        recipients_are_relayed,
    ),
    Check(
        "domains-are-of-one-class",
        "No relay domain is in mydestination, virtual_alias_domains or virtual_mailbox_domains as well",
        domains_are_of_one_class,
    ),
    Check(
        "catch-alls-are-wanted",
        "No catch-all is in the map that the configuration does not permit",
        catch_alls_are_wanted,
    ),
    Check(
        "domains-have-a-postmaster",
        "Every relay domain has a postmaster (RFC 5321, 4.5.1)",
        domains_have_a_postmaster,
    ),
    Check(
        "extensions-are-understood",
        "recipient_delimiter is set, where the recipients look as if the primary has one",
        extensions_are_understood,
    ),
)
