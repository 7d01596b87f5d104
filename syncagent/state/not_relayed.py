"""Mail domains of recipients that are no relay domains, though DNS leads their mail here. It is pure: no files."""

from __future__ import annotations

from typing import TYPE_CHECKING

from msgspec import Struct

from syncagent.addresses import within

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping

MOST = 200
"""Maximum number of domains that DNS is asked for."""
_DAY = 86400.0
_EVERY = _DAY
"""Seconds between two questions to DNS."""
_VALID = 3 * _DAY
"""Seconds after which an answer of DNS does not count any more."""


class NotRelayed(Struct, frozen=True):
    """The last answer of DNS about domains out of scope, as the agent records it.

    ``asked`` is when, in seconds since the epoch, 0 if there is none. ``domains`` maps each domain whose mail DNS leads
    here to the name of its MX that is this host.
    """

    asked: float = 0.0
    domains: dict[str, str] = {}

    def is_due(self, now: float) -> bool:
        """True if DNS is to be asked again. A question in the future was asked by a clock that was wrong."""
        return not 0 <= now - self.asked < _EVERY

    def standing(self, out_of_scope: Mapping[str, int], scope: Collection[str], now: float) -> dict[str, str]:
        """Return the domains that are still out of scope, and no relay domain by the configuration, with their MX."""
        if not 0 <= now - self.asked < _VALID:
            return {}
        relayed = frozenset(scope)
        return {
            domain: mx
            for domain, mx in self.domains.items()
            if domain in out_of_scope and within(domain, relayed) is None
        }


def candidates(out_of_scope: Mapping[str, int], scope: Collection[str], exclude: Iterable[str]) -> list[str]:
    """Return the domains to ask DNS for, those with most recipients first, at most MOST.

    Left out are relay domains of the configuration, and domains that postfix.exclude has as a whole (@domain): a person
    does not want their recipients.
    """
    excluded, relayed = frozenset(exclude), frozenset(scope)
    names = sorted(out_of_scope, key=lambda name: (-out_of_scope[name], name))
    wanted = (name for name in names if "." in name and f"@{name}" not in excluded and within(name, relayed) is None)
    return list(wanted)[:MOST]
