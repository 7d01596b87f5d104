"""The check of DNS: each relay domain has an MX record for this host, after the primary's (RFC 5321, section 5)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from msgspec.structs import replace

from syncagent.checks.context import server_name
from syncagent.checks.finding import Check, Person, Zone, error, ok, warning
from syncagent.checks.identity import address_records, records_of
from syncagent.postfix.dns_client import Names, NoAnswerError, SilentError
from syncagent.postfix.host import Host

if TYPE_CHECKING:
    from collections.abc import Iterator

    from syncagent.checks.context import Context
    from syncagent.checks.finding import Finding

_STEP = 10
_PRIMARY = "THE.PRIMARY"
_ADDRESS = "ITS.ADDRESS"
"""Placeholders in zone records, for a person to replace."""


def mx_records(context: Context) -> Iterator[Finding]:
    """Check the MX records of each relay domain, and that inet_interfaces is not restricted to loopback."""
    names = Names(context.options.dns)
    deaf = set(context.live.listed("inet_interfaces")) <= {"loopback-only", "localhost"}
    if deaf:
        text = f"{context.live.values.get('inet_interfaces')}: whatever MX records say, no mail reaches this host"
        yield error("inet_interfaces", text, context.postconf("inet_interfaces", "all"))
    try:
        here = Host.of(context.live, names.addresses)
        here.everywhere |= deaf  # check the records as if inet_interfaces were corrected
        yield from _domains(context, names, here)
    except (NoAnswerError, SilentError) as failure:
        text = f"{_server(context)} gives no answer: {failure}; MX records are not looked at, or not all of them"
        yield warning(
            "DNS", text, Person(text=f"ask another server: {context.config.command('check', '--dns', 'SERVER')}")
        )


def _server(context: Context) -> str:
    return server_name(context.options.dns) if context.options.dns else "the resolver of this host"


def _domains(context: Context, names: Names, here: Host) -> Iterator[Finding]:
    """Check each relay domain; yield a warning if its query fails.

    Raises NoAnswerError if there are two or more domains and all their queries fail, and SilentError if the DNS server
    does not answer.
    """
    unanswered = {}
    for at, domain in enumerate(sorted(context.scope)):
        context.options.report("DNS", at)
        try:
            yield from _domain(context, domain, names, here)
        except NoAnswerError as failure:
            unanswered[domain] = failure
    if len(unanswered) == len(context.scope) > 1:
        raise next(iter(unanswered.values()))
    for domain, why in unanswered.items():
        text = f"{_server(context)} gives no answer for its MX records: {why}"
        yield warning(domain, text, _another(context, domain))


def _another(context: Context, name: str) -> Person:
    command = context.config.command("check", "--dns", "SERVER")
    return Person(text=f"see to the servers of {name}; or ask another: {command}")


@dataclass
class Mx:
    """An MX record. ``addresses`` are its host's, ``alias`` the target if the host is a CNAME.

    ``failure`` is the error of the lookup, and ``ours`` is true if the host is this one.
    """

    preference: int
    name: str
    addresses: list[str] = field(default_factory=list)
    alias: list[str] = field(default_factory=list)
    failure: str = ""
    ours: bool = False


def _records(domain: str, names: Names, here: Host) -> list[Mx]:
    records = []
    for text in names.ask(domain, "MX"):
        preference, _, exchange = text.partition(" ")
        mx = Mx(int(preference), exchange.rstrip(".").lower())
        try:
            if mx.name:
                mx.addresses = names.addresses(mx.name)
                mx.alias = names.ask(mx.name, "CNAME")
        except NoAnswerError as failure:
            mx.failure = str(failure)
        mx.ours = mx.name in here.names or any(map(here.has, mx.addresses))
        records.append(mx)
    return sorted(records, key=lambda mx: (mx.preference, mx.name))


def _domain(context: Context, domain: str, names: Names, here: Host) -> Iterator[Finding]:
    """Check the MX records of a domain; yield "ok" if there are no other findings.

    Raises NoAnswerError if the MX query fails, and SilentError if the DNS server does not answer.
    """
    records = _records(domain, names, here)
    ours, others = ([mx for mx in records if mx.ours is which] for which in (True, False))
    problems = [*_leads_here(domain, names, records, here), *_behind(domain, ours, others)]
    for mx in records:
        if mx.failure:
            text = f"the MX of {domain}: where it leads is not known: {mx.failure}"
            problems.append(warning(mx.name, text, _another(context, mx.name)))
        elif mx.ours:
            problems += _target(context, mx, here)
    problems += _others(domain, others)
    yield from problems
    if not problems:
        yield ok(domain, f"MX {ours[0].preference} {ours[0].name}, behind {others[0].preference} {others[0].name}")


def _others(domain: str, others: list[Mx]) -> Iterator[Finding]:
    """Yield a finding for each MX of another host that is a CNAME or has no address."""
    leads = any(mx.addresses or mx.failure for mx in others)
    for mx in others:
        if mx.alias:
            text = f"the MX of {domain} is a CNAME, which it must not be (RFC 2181, 10.3)"
            record = f"{domain}. IN MX {mx.preference} {mx.alias[0]}"
            yield warning(mx.name, text, Zone(record=record, note=f"in place of {mx.name}."))
        if mx.name and not mx.addresses and not mx.failure:
            name = mx.alias[0] if mx.alias else f"{mx.name}."
            text = f"the MX of {domain} has neither A nor AAAA" + ("" if leads else ": all mail comes here first")
            note = f"or take out {domain}. IN MX {mx.preference} {mx.name}."
            finding = warning if leads else error
            yield finding(mx.name, text, Zone(record=f"{name} IN A {_ADDRESS}", note=note))


def _behind(domain: str, ours: list[Mx], others: list[Mx]) -> Iterator[Finding]:
    """Yield a warning if this host is the domain's only MX or precedes the primary."""
    if ours and not others:
        text = f"{ours[0].name} is its only MX: there is nothing that this host is the backup of"
        yield warning(domain, text, Zone(record=f"{domain}. IN MX {max(0, ours[0].preference - _STEP)} {_PRIMARY}."))
    elif ours and ours[0].preference < others[0].preference:
        here, there = (f"{mx.preference} {mx.name}" for mx in (ours[0], others[0]))
        text = f"MX {here} comes before {there}: mail comes here first, and not to the primary"
        behind = f"{domain}. IN MX {others[-1].preference + _STEP} {ours[0].name}."
        yield warning(domain, text, Zone(record=behind, note=f"in place of preference {ours[0].preference}"))


def _leads_here(domain: str, names: Names, records: list[Mx], here: Host) -> Iterator[Finding]:
    """Yield an error if no MX of the domain is this host, unless an MX could not be resolved."""
    if any(mx.ours or mx.failure for mx in records):
        return
    last = max((mx.preference for mx in records if mx.name), default=_STEP)
    zone = [Zone(record=f"{domain}. IN MX {last + _STEP} {here.name}.")]
    if not names.has_addresses(here.name):
        zone += records_of(here)
    if not records:
        text = "it has no MX record"
        primary = domain if names.has_addresses(domain) else _PRIMARY
        if primary == domain:
            text += ", so that mail goes to its address; with a record for the backup alone the primary would get none"
        yield error(domain, text, Zone(record=f"{domain}. IN MX {_STEP} {primary}."), *zone)
    elif not any(mx.name for mx in records):
        zone.insert(0, Zone(record=f"{domain}. IN MX {_STEP} {_PRIMARY}."))
        text = "its MX record says that it takes no mail (RFC 7505)"
        yield error(domain, text, *_with_note(zone, "in place of the one that is there"))
    else:
        listed = ", ".join(f"{mx.preference} {mx.name}" for mx in records)
        yield error(domain, f"no MX leads to this host, {here.name}: it has {listed}", *zone)


def _target(context: Context, mx: Mx, here: Host) -> Iterator[Finding]:
    """Yield a finding if an MX of this host is a CNAME, has no address, or has none of this host's addresses."""
    if mx.alias:
        text = f"it is what an MX names, and a CNAME of {mx.alias[0]}, which it must not be (RFC 2181, 10.3)"
        records = address_records(mx.name, mx.addresses) or records_of(here)
        yield error(mx.name, text, *_with_note(records, "in place of the CNAME"))
    elif not mx.addresses:
        yield error(mx.name, "it is what an MX names, and has neither A nor AAAA", *records_of(here))
    elif not any(map(here.has, mx.addresses)):
        text = f"it is this host's name, but {', '.join(mx.addresses)} is none of its addresses; behind NAT, say so:"
        yield warning(mx.name, text, context.with_entries("proxy_interfaces", mx.addresses))


def _with_note(records: list[Zone], note: str) -> list[Zone]:
    """Return the records with the note set on the last one."""
    return [*records[:-1], replace(records[-1], note=note)]


CHECKS = (Check("mx-records", "Every relay domain has an MX record that leads to this host", mx_records),)
