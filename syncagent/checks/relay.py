"""The relay domains against the configuration, both ways, and what the map has for them."""

from __future__ import annotations

import os
import shlex
from pathlib import Path
from typing import TYPE_CHECKING

from syncagent import addresses as normalise
from syncagent.checks import context as hosts
from syncagent.checks import remedies as wanted
from syncagent.checks.finding import error, ok, skipped, warning
from syncagent.checks.lists import matches
from syncagent.files import atomic as files

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from syncagent.checks.context import Host
    from syncagent.checks.finding import Finding

_OTHER_CLASSES = ("mydestination", "virtual_alias_domains", "virtual_mailbox_domains")
_ASKED_INSTEAD = {
    "mydestination": "local_recipient_maps",
    "virtual_alias_domains": "virtual_alias_maps",
    "virtual_mailbox_domains": "virtual_mailbox_maps",
}


def domains_are_relayed(host: Host) -> Iterator[Finding]:
    """relay_domains has every domain of the configuration, internationalised ones in both forms."""
    lacks = wanted.lacking(host)
    answer = "its mail gets 451" if host.lost("relay_domains") else "its mail is refused, 554 Relay access denied"
    if lacks.unasked:
        text = f"whether it has every domain is not known: {', '.join(lacks.unasked)} cannot be asked"
        yield skipped("relay_domains", text)
    elif lacks.unnamed:
        text = "relay_domains does not name postfix.domains_map: a new domain never reaches Postfix"
        yield error(str(lacks.unnamed), text, wanted.relay_domains(host))
        return
    for form in lacks.unpublished:
        text = f"{host.config.postfix.domains_map}, which relay_domains names, does not have it: {answer}"
        yield error(form, text, host.sync)
    mend = wanted.relay_domains(host) if lacks.missing else ""
    for form in lacks.missing:
        both = wanted.forms(host, normalise.domain_or_same(form))
        other = next((one for one in both if one != form and one not in lacks.missing), "")
        text = f"it is not in relay_domains: {answer}"
        yield error(form, f"{text}; {other} is, but Postfix converts neither to the other" if other else text, mend)


def relayed_domains_are_ours(host: Host) -> Iterator[Finding]:
    """Every domain of relay_domains is in the configuration."""
    for note in host.main.notes:
        if "cannot be listed" in note or "exception" in note:
            yield skipped("relay_domains", note)
    others = [str(one) for one in host.main.domains if not normalise.within(one, host.scope) and not host.counts[one]]
    if not others:
        return
    tables = [
        entry for entry in host.listed("relay_recipient_maps") if not hosts.is_table(entry, host.config.postfix.map)
    ]
    configured = host.config.postfix.relay_domains
    mend = [host.setting("relay_domains", [*configured, *others]), "# and a source with their recipients", host.sync]
    mend += [f"# or, if this is not their backup MX, {instead}" for instead in _taken_out(host, others)]
    for domain in others:
        if tables:
            yield ok(domain, f"it is not in the configuration; its recipients may be in {', '.join(tables)}")
        else:
            text = "relay_domains has it, the configuration does not: no recipient of it is known, and all get 550"
            yield error(domain, text, "\n".join(mend))


def _taken_out(host: Host, domains: Iterable[str]) -> Iterator[str]:
    """Give what takes domains out of relay_domains: a command for entries, and what to take out of files and tables."""
    found = matches(host, "relay_domains", domains)
    inline = {entry for entry in host.listed("relay_domains") if normalise.domain_or_same(entry) in found}
    if inline:
        yield wanted.relay_domains(host, inline)
    for entry in dict.fromkeys(entry for entry in found.values() if entry not in inline):
        yield f"take {', '.join(domain for domain, one in found.items() if one == entry)} out of {entry}"


def domains_have_recipients(host: Host) -> Iterator[Finding]:
    """Every relay domain has recipients."""
    if not host.published.there:
        yield skipped("", "nothing is published yet")
        return
    for domain in sorted(host.scope):
        if not host.counts[domain]:
            text = "the map has no recipient of it: all its mail is refused"
            yield error(domain, text, f"# have a source give recipients of {domain}, then:\n{host.sync}")


def recipients_are_relayed(host: Host) -> Iterator[Finding]:
    """Every domain that has recipients is a relay domain to Postfix."""
    lacks = wanted.lacking(host)
    if not lacks.settled:
        yield skipped("relay_domains", "known only once what is said of it above is mended")
        return
    mend = wanted.relay_domains(host) if lacks.outside else ""
    for name in lacks.outside:
        text = f"the map has {host.published.domains[name]:,} recipients of it, but it is not in relay_domains: 554"
        yield error(name, text, mend)


def domains_are_of_one_class(host: Host) -> Iterator[Finding]:
    """No relay domain is in mydestination, virtual_alias_domains or virtual_mailbox_domains as well."""
    forms = [form for domain in sorted(host.scope) for form in normalise.renderings(domain)]
    for name in _OTHER_CLASSES:
        found = matches(host, name, forms)
        inline = {entry for domain, entry in found.items() if entry.casefold() == domain}
        for domain, entry in found.items():
            text = f"{name} has it as well, and wins: {_ASKED_INSTEAD[name]} is asked for its recipients, not the map"
            by_hand = f"# take {domain} out of {entry}"
            yield error(domain, text, host.without(name, inline) if entry in inline else by_hand)


def catch_alls_are_wanted(host: Host) -> Iterator[Finding]:
    """No catch-all is in the map that the configuration does not permit."""
    permitted = host.config.postfix.catch_all
    for catch_all in host.published.catch_alls:
        domain = normalise.domain_or_same(catch_all[1:])
        if domain in permitted:
            yield ok(catch_all, "every address of the domain is accepted, as postfix.catch_all permits")
            continue
        mend = host.setting("catch_all", [*permitted, domain])
        hold = _hold(host, domain)
        if hold:
            mend = f"{host.options.program} approve {hold}\n# or, to keep it, {mend}"
        text = "every address of the domain is accepted, and what the primary then refuses bounces (backscatter)"
        yield warning(catch_all, text, mend)


def _hold(host: Host, domain: str) -> str:
    """Give the ID of the hold that keeps a catch-all in the map."""
    holds = host.ledger.holds if host.ledger else {}
    within = normalise.within(domain, host.scope)
    return next((key for key, hold in holds.items() if hold.domain == within and hold.approvable), "")


def domains_have_a_postmaster(host: Host) -> Iterator[Finding]:
    """Every relay domain has a postmaster (RFC 5321, 4.5.1)."""
    if not host.published.there:
        return
    known = {normalise.domain_or_same(name) for name in host.published.postmasters}
    known |= {normalise.domain_or_same(name[1:]) for name in host.published.catch_alls}
    missing = [domain for domain in sorted(host.scope) if domain not in known and host.counts[domain]]
    for domain in missing:
        text = f"postmaster@{domain} is refused; every domain must have it (RFC 5321, 4.5.1)"
        yield warning(domain, text, _add(host, [f"postmaster@{one}" for one in missing]))


def _add(host: Host, addresses: list[str]) -> str:
    """Give the commands that add addresses: to a flat file, where one is among the sources."""
    for source in host.config.sources.values():
        path = getattr(source.own, "path", None)
        plain = source.common.type == "file" and source.own.format == "lines" and not source.own.require_end
        if plain and isinstance(path, Path) and path.is_file():
            lines = addresses if _ends(path) else ["", *addresses]
            append = f"printf '%s\\n' {shlex.join(lines)} >>{shlex.quote(str(path))}"
            return "\n".join([append, f"# where another program writes {path}, by that program instead", host.sync])
    return f"# have a source give {', '.join(addresses)}, then:\n{host.sync}"


def _ends(path: Path) -> bool:
    """Tell whether the last line of a file has its end: else what is appended would become part of it."""
    with files.open_foreign(path) as file:
        file.seek(max(0, file.seek(0, os.SEEK_END) - 1))
        return file.read() in {b"", b"\n"}


def extensions_are_understood(host: Host) -> Iterator[Finding]:
    """recipient_delimiter is set, where the recipients look as if the primary has one."""
    if "+" in host.values.get("recipient_delimiter", ""):
        return
    base = {key: key.partition("+")[0] + key[key.rindex("@") :] for key in host.published.extended}
    table = str(host.config.postfix.map)
    known = host.look_up(table, dict.fromkeys(base.values())) if base else {}
    extended = [key for key, name in base.items() if name in known]
    if extended:
        text = f"it is empty, but the map has {extended[0]} beside {base[extended[0]]}: other extensions are refused"
        yield warning("recipient_delimiter", text, host.postconf("recipient_delimiter", "+"))


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
