"""The relay domains against the configuration, both ways, and what the map has for them."""

from __future__ import annotations

import os
import shlex
from pathlib import Path
from typing import TYPE_CHECKING

from syncagent import addresses as normalise
from syncagent.checks import remedies as wanted
from syncagent.checks.finding import error, ok, skipped, warning
from syncagent.files import sorted_lines as files
from syncagent.postfix.main_cf import NoteKind
from syncagent.postfix.match_list import matches
from syncagent.postfix.table import is_same_table

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from syncagent.checks.context import Context
    from syncagent.checks.finding import Finding

_OTHER_CLASSES = ("mydestination", "virtual_alias_domains", "virtual_mailbox_domains")
_ASKED_INSTEAD = {
    "mydestination": "local_recipient_maps",
    "virtual_alias_domains": "virtual_alias_maps",
    "virtual_mailbox_domains": "virtual_mailbox_maps",
}


def domains_are_relayed(context: Context) -> Iterator[Finding]:
    """relay_domains has every domain of the configuration, internationalised ones in both forms."""
    lacks = wanted.lacking(context)
    answer = "its mail gets 451" if context.lost("relay_domains") else "its mail is refused, 554 Relay access denied"
    if lacks.unasked:
        text = f"whether it has every domain is not known: {', '.join(lacks.unasked)} cannot be asked"
        yield skipped("relay_domains", text)
    elif lacks.unnamed:
        text = "relay_domains does not name postfix.domains_map: a new domain never reaches Postfix"
        yield error(str(lacks.unnamed), text, wanted.relay_domains(context))
        return
    for form in lacks.unpublished:
        text = f"{context.config.postfix.domains_map}, which relay_domains names, does not have it: {answer}"
        yield error(form, text, context.sync)
    mend = wanted.relay_domains(context) if lacks.missing else ""
    for form in lacks.missing:
        both = wanted.forms(context, normalise.domain_or_same(form))
        other = next((one for one in both if one != form and one not in lacks.missing), "")
        text = f"it is not in relay_domains: {answer}"
        yield error(form, f"{text}; {other} is, but Postfix converts neither to the other" if other else text, mend)


def relayed_domains_are_ours(context: Context) -> Iterator[Finding]:
    """Every domain of relay_domains is in the configuration."""
    for note in context.live.main.notes:
        if note.kind in {NoteKind.EXCEPTION, NoteKind.UNLISTABLE}:
            yield skipped("relay_domains", str(note))
    others = [
        str(one)
        for one in context.live.main.domains
        if not normalise.within(one, context.scope) and not context.counts[one]
    ]
    if not others:
        return
    tables = [
        entry
        for entry in context.live.listed("relay_recipient_maps")
        if not is_same_table(entry, context.config.postfix.map)
    ]
    configured = context.config.postfix.relay_domains
    mend = [
        context.setting("relay_domains", [*configured, *others]),
        "# and a source with their recipients",
        context.sync,
    ]
    mend += [f"# or, if this is not their backup MX, {instead}" for instead in _taken_out(context, others)]
    for domain in others:
        if tables:
            yield ok(domain, f"it is not in the configuration; its recipients may be in {', '.join(tables)}")
        else:
            text = "relay_domains has it, the configuration does not: no recipient of it is known, and all get 550"
            yield error(domain, text, "\n".join(mend))


def _taken_out(context: Context, domains: Iterable[str]) -> Iterator[str]:
    """Give what takes domains out of relay_domains: a command for entries, and what to take out of files and tables."""
    found = matches(context.live, "relay_domains", domains)
    inline = {entry for entry in context.live.listed("relay_domains") if normalise.domain_or_same(entry) in found}
    if inline:
        yield wanted.relay_domains(context, inline)
    for entry in dict.fromkeys(entry for entry in found.values() if entry not in inline):
        yield f"take {', '.join(domain for domain, one in found.items() if one == entry)} out of {entry}"


def domains_have_recipients(context: Context) -> Iterator[Finding]:
    """Every relay domain has recipients."""
    if not context.published.exists:
        yield skipped("", "nothing is published yet")
        return
    for domain in sorted(context.scope):
        if not context.counts[domain]:
            text = "the map has no recipient of it: all its mail is refused"
            yield error(domain, text, f"# have a source give recipients of {domain}, then:\n{context.sync}")


def recipients_are_relayed(context: Context) -> Iterator[Finding]:
    """Every domain that has recipients is a relay domain to Postfix."""
    lacks = wanted.lacking(context)
    if not lacks.settled:
        yield skipped("relay_domains", "known only once what is said of it above is mended")
        return
    mend = wanted.relay_domains(context) if lacks.outside else ""
    for name in lacks.outside:
        text = f"the map has {context.published.domains[name]:,} recipients of it, but it is not in relay_domains: 554"
        yield error(name, text, mend)


def domains_are_of_one_class(context: Context) -> Iterator[Finding]:
    """No relay domain is in mydestination, virtual_alias_domains or virtual_mailbox_domains as well."""
    forms = [form for domain in sorted(context.scope) for form in normalise.renderings(domain)]
    for name in _OTHER_CLASSES:
        found = matches(context.live, name, forms)
        inline = {entry for domain, entry in found.items() if entry.casefold() == domain}
        for domain, entry in found.items():
            text = f"{name} has it as well, and wins: {_ASKED_INSTEAD[name]} is asked for its recipients, not the map"
            by_hand = f"# take {domain} out of {entry}"
            yield error(domain, text, context.without(name, inline) if entry in inline else by_hand)


def catch_alls_are_wanted(context: Context) -> Iterator[Finding]:
    """No catch-all is in the map that the configuration does not permit."""
    permitted = context.config.postfix.catch_all
    for catch_all in context.published.catch_alls:
        domain = normalise.domain_or_same(catch_all[1:])
        if domain in permitted:
            yield ok(catch_all, "every address of the domain is accepted, as postfix.catch_all permits")
            continue
        mend = context.setting("catch_all", [*permitted, domain])
        hold = _hold(context, domain)
        if hold:
            mend = f"{context.options.program} approve {hold}\n# or, to keep it, {mend}"
        text = "every address of the domain is accepted, and what the primary then refuses bounces (backscatter)"
        yield warning(catch_all, text, mend)


def _hold(context: Context, domain: str) -> str:
    """Give the ID of the hold that keeps a catch-all in the map."""
    holds = context.ledger.holds if context.ledger else {}
    within = normalise.within(domain, context.scope)
    return next((key for key, hold in holds.items() if hold.domain == within and hold.approvable), "")


def domains_have_a_postmaster(context: Context) -> Iterator[Finding]:
    """Every relay domain has a postmaster (RFC 5321, 4.5.1)."""
    if not context.published.exists:
        return
    known = {normalise.domain_or_same(name) for name in context.published.postmasters}
    known |= {normalise.domain_or_same(name[1:]) for name in context.published.catch_alls}
    missing = [domain for domain in sorted(context.scope) if domain not in known and context.counts[domain]]
    for domain in missing:
        text = f"postmaster@{domain} is refused; every domain must have it (RFC 5321, 4.5.1)"
        yield warning(domain, text, _add(context, [f"postmaster@{one}" for one in missing]))


def _add(context: Context, addresses: list[str]) -> str:
    """Give the commands that add addresses: to a flat file, where one is among the sources."""
    for source in context.config.sources.values():
        path = getattr(source.own, "path", None)
        plain = source.common.type == "file" and source.own.format == "lines" and not source.own.require_end
        if plain and isinstance(path, Path) and path.is_file():
            lines = addresses if _ends(path) else ["", *addresses]
            append = f"printf '%s\\n' {shlex.join(lines)} >>{shlex.quote(str(path))}"
            return "\n".join([append, f"# where another program writes {path}, by that program instead", context.sync])
    return f"# have a source give {', '.join(addresses)}, then:\n{context.sync}"


def _ends(path: Path) -> bool:
    """Tell whether the last line of a file has its end: else what is appended would become part of it."""
    with files.open_foreign(path) as file:
        file.seek(max(0, file.seek(0, os.SEEK_END) - 1))
        return file.read() in {b"", b"\n"}


def extensions_are_understood(context: Context) -> Iterator[Finding]:
    """recipient_delimiter is set, where the recipients look as if the primary has one."""
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
    domains_are_relayed,
    relayed_domains_are_ours,
    domains_have_recipients,
    recipients_are_relayed,
    domains_are_of_one_class,
    catch_alls_are_wanted,
    domains_have_a_postmaster,
    extensions_are_understood,
)
