"""A client of a DNS server, with a cache of its answers and failures."""

from __future__ import annotations

from dataclasses import dataclass, field

from syncagent.errors import SyncagentError

_SECONDS = 5.0
"""Timeout of a query."""


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
