"""What DNS says of each relay domain: an MX record that leads here, behind the primary's (RFC 5321, section 5)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from syncagent.checks.context import server_name
from syncagent.checks.finding import error, ok, warning
from syncagent.checks.identity import Here
from syncagent.errors import SyncagentError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from syncagent.checks.context import Context
    from syncagent.checks.finding import Finding

_SECONDS = 5.0
_STEP = 10
_PRIMARY = "THE.PRIMARY"
_ADDRESS = "ITS.ADDRESS"
"""What only a person can fill in."""


class NoAnswerError(SyncagentError):
    """A question was not answered: whoever serves the zone refuses it, fails, or is silent."""


class SilentError(SyncagentError):
    """The DNS server that is asked is silent."""


@dataclass
class Names:
    """Asks a DNS server; what a name came to is asked for once, and so is what came to nothing."""

    server: tuple[str, int] | None
    _known: dict[tuple[str, str], list[str] | NoAnswerError] = field(default_factory=dict)

    def ask(self, name: str, kind: str) -> list[str]:
        """Give the records of a name itself, as text, a CNAME being one of its own kind.

        Raises NoAnswerError, and SilentError where nothing else need be asked.
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
        except NoAnswerError as trouble:
            return trouble
        except SilentError as trouble:  # or a resolver that still waits for the servers of this zone
            if not self._lives():
                raise
            return NoAnswerError(str(trouble))

    def _lives(self) -> bool:
        """Tell whether the server answers what every server can: about the root."""
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
        except (dns.exception.DNSException, OSError, ValueError) as trouble:
            kind_of_trouble = SilentError if _silent(trouble) else NoAnswerError
            raise kind_of_trouble(str(trouble).partition("\n")[0]) from trouble
        if answer.canonical_name.to_text(omit_final_dot=True).lower() != name and kind == "CNAME":
            return []
        return [record.to_text() for record in answer]

    def addresses(self, name: str) -> list[str]:
        """Give the A and AAAA records that a name leads to, over a CNAME as well; one kind is enough."""
        found, unanswered = [], []
        for kind in ("A", "AAAA"):
            try:
                found += self.ask(name, kind)
            except NoAnswerError as trouble:
                unanswered.append(trouble)
        if unanswered and not found:
            raise unanswered[0]
        return found

    def has_addresses(self, name: str) -> bool:
        """Tell whether a name is known to lead to an address."""
        try:
            return bool(self.addresses(name))
        except NoAnswerError:
            return False


def _silent(trouble: Exception) -> bool:
    """Tell whether no server said anything: what one says, be it a refusal, is about the name."""
    import dns.exception
    import dns.resolver

    if isinstance(trouble, (dns.exception.Timeout, dns.resolver.NoNameservers)):
        return not any(response for *_, response in trouble.kwargs.get("errors", ()))
    return isinstance(trouble, (OSError, dns.resolver.NoResolverConfiguration))


def mx_records(context: Context) -> Iterator[Finding]:
    """Every relay domain has an MX record that leads to this host."""
    names = Names(context.options.dns)
    deaf = set(context.live.listed("inet_interfaces")) <= {"loopback-only", "localhost"}
    if deaf:
        text = f"{context.live.values.get('inet_interfaces')}: whatever MX records say, no mail reaches this host"
        yield error("inet_interfaces", text, context.postconf("inet_interfaces", "all"))
    try:
        here = Here.of(context, names.addresses)
        here.everywhere |= deaf  # the rest is judged as with the mend
        yield from _domains(context, names, here)
    except (NoAnswerError, SilentError) as trouble:
        text = f"{_server(context)} gives no answer: {trouble}; MX records are not looked at, or not all of them"
        yield warning("DNS", text, f"{context.options.program} check --dns SERVER")


def _server(context: Context) -> str:
    return server_name(context.options.dns) if context.options.dns else "the resolver of this host"


def _domains(context: Context, names: Names, here: Here) -> Iterator[Finding]:
    """Judge every domain. Raises NoAnswerError where there is no answer for any of them."""
    unanswered = {}
    for at, domain in enumerate(sorted(context.scope)):
        context.options.report("DNS", at)
        try:
            yield from _domain(domain, names, here)
        except NoAnswerError as trouble:
            unanswered[domain] = trouble
    if len(unanswered) == len(context.scope) > 1:
        raise next(iter(unanswered.values()))
    for domain, why in unanswered.items():
        text = f"{_server(context)} gives no answer for its MX records: {why}"
        yield warning(domain, text, _another(context, domain))


def _another(context: Context, name: str) -> str:
    return f"# see to the servers of {name}; or ask another: {context.options.program} check --dns SERVER"


@dataclass
class Mx:
    """An MX record: where it leads, or why that is not known, and whether it is this host."""

    preference: int
    name: str
    addresses: list[str] = field(default_factory=list)
    alias: list[str] = field(default_factory=list)
    trouble: str = ""
    ours: bool = False


def _records(domain: str, names: Names, here: Here) -> list[Mx]:
    found = []
    for text in names.ask(domain, "MX"):
        preference, _, exchange = text.partition(" ")
        mx = Mx(int(preference), exchange.rstrip(".").lower())
        try:
            if mx.name:
                mx.addresses = names.addresses(mx.name)
                mx.alias = names.ask(mx.name, "CNAME")
        except NoAnswerError as trouble:
            mx.trouble = str(trouble)
        mx.ours = mx.name in here.names or any(map(here.has, mx.addresses))
        found.append(mx)
    return sorted(found, key=lambda mx: (mx.preference, mx.name))


def _domain(domain: str, names: Names, here: Here) -> Iterator[Finding]:
    """Judge a domain."""
    records = _records(domain, names, here)
    ours, others = ([mx for mx in records if mx.ours is which] for which in (True, False))
    problems = [*_leads_here(domain, names, records, here), *_behind(domain, ours, others)]
    for mx in records:
        if mx.trouble:
            text = f"the MX of {domain}: where it leads is not known: {mx.trouble}"
            problems.append(warning(mx.name, text, _another(here.context, mx.name)))
        elif mx.ours:
            problems += _target(mx, here)
    problems += _others(domain, others)
    yield from problems
    if not problems:
        yield ok(domain, f"MX {ours[0].preference} {ours[0].name}, behind {others[0].preference} {others[0].name}")


def _others(domain: str, others: list[Mx]) -> Iterator[Finding]:
    """Judge where the MX records lead that are not ours: the primary's."""
    leads = any(mx.addresses or mx.trouble for mx in others)
    for mx in others:
        if mx.alias:
            text = f"the MX of {domain} is a CNAME, which it must not be (RFC 2181, 10.3)"
            mend = f"{domain}. IN MX {mx.preference} {mx.alias[0]}\n; in place of {mx.name}."
            yield warning(mx.name, text, mend)
        if mx.name and not mx.addresses and not mx.trouble:
            name = mx.alias[0] if mx.alias else f"{mx.name}."
            text = f"the MX of {domain} has neither A nor AAAA" + ("" if leads else ": all mail comes here first")
            mend = f"{name} IN A {_ADDRESS}\n; or take out {domain}. IN MX {mx.preference} {mx.name}."
            yield (warning if leads else error)(mx.name, text, mend)


def _behind(domain: str, ours: list[Mx], others: list[Mx]) -> Iterator[Finding]:
    """Say where this host is not behind the primary."""
    if ours and not others:
        text = f"{ours[0].name} is its only MX: there is nothing that this host is the backup of"
        yield warning(domain, text, f"{domain}. IN MX {max(0, ours[0].preference - _STEP)} {_PRIMARY}.")
    elif ours and ours[0].preference < others[0].preference:
        here, there = (f"{mx.preference} {mx.name}" for mx in (ours[0], others[0]))
        text = f"MX {here} comes before {there}: mail comes here first, and not to the primary"
        behind = f"{domain}. IN MX {others[-1].preference + _STEP} {ours[0].name}."
        yield warning(domain, text, f"{behind}\n; in place of preference {ours[0].preference}")


def _leads_here(domain: str, names: Names, records: list[Mx], here: Here) -> Iterator[Finding]:
    """Say what to add where no MX leads here, as far as all are known."""
    if any(mx.ours or mx.trouble for mx in records):
        return
    last = max((mx.preference for mx in records if mx.name), default=_STEP)
    mend = [f"{domain}. IN MX {last + _STEP} {here.name}."]
    if not names.has_addresses(here.name):
        mend += here.records()
    if not records:
        text = "it has no MX record"
        primary = domain if names.has_addresses(domain) else _PRIMARY
        if primary == domain:
            text += ", so that mail goes to its address; with a record for the backup alone the primary would get none"
        yield error(domain, text, "\n".join([f"{domain}. IN MX {_STEP} {primary}.", *mend]))
    elif not any(mx.name for mx in records):
        mend = [f"{domain}. IN MX {_STEP} {_PRIMARY}.", *mend, "; in place of the one that is there"]
        yield error(domain, "its MX record says that it takes no mail (RFC 7505)", "\n".join(mend))
    else:
        listed = ", ".join(f"{mx.preference} {mx.name}" for mx in records)
        text = f"no MX leads to this host, {here.name}: it has {listed}"
        yield error(domain, text, "\n".join(mend))


def _target(mx: Mx, here: Here) -> Iterator[Finding]:
    """Judge where the MX leads that is ours."""
    if mx.alias:
        text = f"it is what an MX names, and a CNAME of {mx.alias[0]}, which it must not be (RFC 2181, 10.3)"
        records = [f"{mx.name}. IN {'AAAA' if ':' in one else 'A'} {one}" for one in mx.addresses]
        yield error(mx.name, text, "\n".join(records or here.records()) + "\n; in place of the CNAME")
    elif not mx.addresses:
        yield error(mx.name, "it is what an MX names, and has neither A nor AAAA", "\n".join(here.records()))
    elif not any(map(here.has, mx.addresses)):
        text = f"it is this host's name, but {', '.join(mx.addresses)} is none of its addresses; behind NAT, say so:"
        yield warning(mx.name, text, here.context.with_entries("proxy_interfaces", mx.addresses))


CHECKS = (mx_records,)
