"""The check of DNS: each relay domain has an MX record for this host, after the primary's (RFC 5321, section 5)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from msgspec.structs import replace

from syncagent.checks.context import server_name
from syncagent.checks.finding import Check, Person, Zone, error, ok, warning
from syncagent.checks.identity import Identity, address_records
from syncagent.errors import SyncagentError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from syncagent.checks.context import Context
    from syncagent.checks.finding import Finding

_SECONDS = 5.0
_STEP = 10
_PRIMARY = "THE.PRIMARY"
_ADDRESS = "ITS.ADDRESS"
"""Placeholders in zone records, for a person to replace."""


class NoAnswerError(SyncagentError):
    """A query failed, but the DNS server is alive: the zone's servers refuse the query, fail, or do not answer."""


class SilentError(SyncagentError):
    """The DNS server does not answer, or no server is configured."""


@dataclass
class Names:
    """A DNS server and a cache of its answers and failures. ``server`` is (host, port), None for /etc/resolv.conf."""

    server: tuple[str, int] | None
    _known: dict[tuple[str, str], list[str] | NoAnswerError] = field(default_factory=dict)

    def ask(self, name: str, kind: str) -> list[str]:
        """Return the records of a name as text, empty if there are none. CNAMEs are followed, except for kind CNAME.

        Raises NoAnswerError if the query fails, and SilentError if the DNS server does not answer.
        """
        if (name, kind) not in self._known:
            self._known[name, kind] = self._answer(name, kind)
        known = self._known[name, kind]
        if isinstance(known, NoAnswerError):
            raise known
        return known

    def _answer(self, name: str, kind: str) -> list[str] | NoAnswerError:
        try:
            return self._ask(name, kind)
        except NoAnswerError as failure:
            return failure
        except SilentError as failure:  # the resolver may be alive and still waiting for the zone's servers
            if not self._lives():
                raise
            return NoAnswerError(str(failure))

    def _lives(self) -> bool:
        """True if the server responds, even with a refusal, to a query for the root's NS records."""
        try:
            self._ask("", "NS")
        except NoAnswerError:
            return True
        except SilentError:
            return False
        return True

    def _ask(self, name: str, kind: str) -> list[str]:
        import dns.exception
        import dns.resolver

        try:
            resolver = dns.resolver.Resolver(configure=self.server is None)
            if self.server:
                resolver.nameservers, resolver.port = [self.server[0]], self.server[1]
            answer = resolver.resolve(f"{name}.", kind, search=False, lifetime=_SECONDS)
        except (dns.resolver.NXDOMAIN, dns.resolver.NoAnswer):
            return []
        except (dns.exception.DNSException, OSError, ValueError) as failure:
            failed = SilentError if _silent(failure) else NoAnswerError
            raise failed(str(failure).partition("\n")[0]) from failure
        if answer.canonical_name.to_text(omit_final_dot=True).lower() != name and kind == "CNAME":
            return []
        return [record.to_text() for record in answer]

    def addresses(self, name: str) -> list[str]:
        """Return the A and AAAA records of a name; CNAMEs are followed.

        Raises SilentError if the DNS server does not answer, and NoAnswerError if a query fails and the other returns
        no record.
        """
        records, unanswered = [], []
        for kind in ("A", "AAAA"):
            try:
                records += self.ask(name, kind)
            except NoAnswerError as failure:
                unanswered.append(failure)
        if unanswered and not records:
            raise unanswered[0]
        return records

    def has_addresses(self, name: str) -> bool:
        """True if a name has an address; False if it has none or the query fails.

        Raises SilentError if the DNS server does not answer.
        """
        try:
            return bool(self.addresses(name))
        except NoAnswerError:
            return False


def _silent(failure: Exception) -> bool:
    """True if a failed query got no response at all; a response, even a refusal, shows that the server is alive."""
    import dns.exception
    import dns.resolver

    if isinstance(failure, (dns.exception.Timeout, dns.resolver.NoNameservers)):
        return not any(response for *_, response in failure.kwargs.get("errors", ()))
    return isinstance(failure, (OSError, dns.resolver.NoResolverConfiguration))


def mx_records(context: Context) -> Iterator[Finding]:
    """Check the MX records of each relay domain, and that inet_interfaces is not restricted to loopback."""
    names = Names(context.options.dns)
    deaf = set(context.live.listed("inet_interfaces")) <= {"loopback-only", "localhost"}
    if deaf:
        text = f"{context.live.values.get('inet_interfaces')}: whatever MX records say, no mail reaches this host"
        yield error("inet_interfaces", text, context.postconf("inet_interfaces", "all"))
    try:
        here = Identity.of(context, names.addresses)
        here.everywhere |= deaf  # check the records as if inet_interfaces were corrected
        yield from _domains(context, names, here)
    except (NoAnswerError, SilentError) as failure:
        text = f"{_server(context)} gives no answer: {failure}; MX records are not looked at, or not all of them"
        yield warning(
            "DNS", text, Person(text=f"ask another server: {context.config.command('check', '--dns', 'SERVER')}")
        )


def _server(context: Context) -> str:
    return server_name(context.options.dns) if context.options.dns else "the resolver of this host"


def _domains(context: Context, names: Names, here: Identity) -> Iterator[Finding]:
    """Check each relay domain; yield a warning if its query fails.

    Raises NoAnswerError if there are two or more domains and all their queries fail, and SilentError if the DNS server
    does not answer.
    """
    unanswered = {}
    for at, domain in enumerate(sorted(context.scope)):
        context.options.report("DNS", at)
        try:
            yield from _domain(domain, names, here)
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


def _records(domain: str, names: Names, here: Identity) -> list[Mx]:
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


def _domain(domain: str, names: Names, here: Identity) -> Iterator[Finding]:
    """Check the MX records of a domain; yield "ok" if there are no other findings.

    Raises NoAnswerError if the MX query fails, and SilentError if the DNS server does not answer.
    """
    records = _records(domain, names, here)
    ours, others = ([mx for mx in records if mx.ours is which] for which in (True, False))
    problems = [*_leads_here(domain, names, records, here), *_behind(domain, ours, others)]
    for mx in records:
        if mx.failure:
            text = f"the MX of {domain}: where it leads is not known: {mx.failure}"
            problems.append(warning(mx.name, text, _another(here.context, mx.name)))
        elif mx.ours:
            problems += _target(mx, here)
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


def _leads_here(domain: str, names: Names, records: list[Mx], here: Identity) -> Iterator[Finding]:
    """Yield an error if no MX of the domain is this host, unless an MX could not be resolved."""
    if any(mx.ours or mx.failure for mx in records):
        return
    last = max((mx.preference for mx in records if mx.name), default=_STEP)
    zone = [Zone(record=f"{domain}. IN MX {last + _STEP} {here.name}.")]
    if not names.has_addresses(here.name):
        zone += here.records()
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


def _target(mx: Mx, here: Identity) -> Iterator[Finding]:
    """Yield a finding if an MX of this host is a CNAME, has no address, or has none of this host's addresses."""
    if mx.alias:
        text = f"it is what an MX names, and a CNAME of {mx.alias[0]}, which it must not be (RFC 2181, 10.3)"
        records = address_records(mx.name, mx.addresses) or here.records()
        yield error(mx.name, text, *_with_note(records, "in place of the CNAME"))
    elif not mx.addresses:
        yield error(mx.name, "it is what an MX names, and has neither A nor AAAA", *here.records())
    elif not any(map(here.has, mx.addresses)):
        text = f"it is this host's name, but {', '.join(mx.addresses)} is none of its addresses; behind NAT, say so:"
        yield warning(mx.name, text, here.context.with_entries("proxy_interfaces", mx.addresses))


def _with_note(records: list[Zone], note: str) -> list[Zone]:
    """Return the records with the note set on the last one."""
    return [*records[:-1], replace(records[-1], note=note)]


CHECKS = (Check("mx-records", "Every relay domain has an MX record that leads to this host", mx_records),)
