"""What relay_recipient_maps and relay_domains are to be once all is mended, so that every mend prints the same line."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from syncagent import addresses as normalise
from syncagent.checks import context as hosts
from syncagent.checks.lists import matches

if TYPE_CHECKING:
    from collections.abc import Iterable

    from syncagent.checks.context import Host
    from syncagent.values.types import MapName


def recipient_maps(host: Host, *, alone: bool = False, instead: MapName | None = None) -> str:
    """Give the commands that have the map named, and no table that does harm beside it.

    ``alone``: no other table at all. ``instead``: what the map is to be from now on.
    """
    table, there = host.config.postfix.map, host.listed("relay_recipient_maps")
    others = [entry for entry in there if not hosts.is_table(entry, table)]
    ours = [] if instead else [entry for entry in there if entry not in others]
    stay = [] if alone else [one for one in others if not (hosts.same_file(one, table) or takes_all_of(host, one))]
    more = [] if ours else [str(instead or table.spelled)]
    line = host.with_entries("relay_recipient_maps", more, set(there) - {*ours, *stay})
    return line if host.begun else f"{host.sync}\n{line}"


def takes_all_of(host: Host, entry: str) -> str:
    """Give a relay domain of which a table has every recipient, and is not to; empty where there is none.

    Raises UnaskedError.
    """
    if entry in host.troubles:
        return ""
    probes = {domain: (hosts.invented(domain), f"@{domain}") for domain in sorted(host.scope)}
    there = host.look_up(entry, [key for keys in probes.values() for key in keys])
    permitted = host.config.postfix.catch_all
    return next((one for one, keys in probes.items() if one not in permitted and there.keys() & set(keys)), "")


@dataclass(frozen=True)
class Lacking:
    """What relay_domains lacks of the relay domains, and of the domains that have recipients.

    ``unnamed``: postfix.domains_map, if it is not named there; it will bring the rest with it. ``unpublished`` is what
    only has to get into that table; ``missing`` has to be named. ``unasked`` tables may have more than is known.
    """

    unasked: tuple[str, ...]
    unnamed: MapName | None
    unpublished: tuple[str, ...]
    missing: tuple[str, ...]
    outside: tuple[str, ...]

    @property
    def settled(self) -> bool:
        """Whether what relay_domains has is all that it will have, but for what is to be named."""
        return not (self.unasked or self.unnamed or self.unpublished)


def lacking(host: Host) -> Lacking:
    """See what relay_domains lacks."""
    second = host.config.postfix.domains_map
    named = second and any(hosts.is_table(entry, second) for entry in host.listed("relay_domains"))
    every = [form for domain in sorted(host.scope) for form in forms(host, domain)]
    names = [name for name in host.published.domains if not host.scope & {name, normalise.domain_or_same(name)}]
    relayed = matches(host, "relay_domains", [*every, *names])
    missing = [form for form in every if form not in relayed]
    outside = [name for name in names if name not in relayed]
    unasked = host.unasked("relay_domains") if missing or outside else []
    unpublished = []
    if second and named and not unasked:
        published = host.look_up(str(second), missing) if missing else {}
        unpublished = [form for form in missing if form not in published]
    return Lacking(
        tuple(unasked),
        None if named else second,
        tuple(unpublished),
        () if unasked else tuple(form for form in missing if form not in unpublished),
        () if unasked else tuple(outside),
    )


def forms(host: Host, domain: str) -> tuple[str, ...]:
    """Give the forms under which a domain must be in relay_domains (SMTPUTF8_README)."""
    return normalise.renderings(domain) if host.values.get("smtputf8_enable") != "no" else (domain,)


def relay_domains(host: Host, gone: Iterable[str] = (), instead: MapName | None = None) -> str:
    """Give the commands that have relay_domains lack nothing, with entries of it ``gone``.

    ``instead``: what postfix.domains_map is to be from now on. That relay_domains is $mydestination by default helps
    nobody.
    """
    lacks = lacking(host)
    more = [lacks.unnamed.spelled] if lacks.unnamed else [*lacks.missing, *(lacks.outside if lacks.settled else ())]
    if instead:
        more = [str(instead)]
        gone = [entry for entry in host.listed("relay_domains") if host.is_ours(entry)]
    if not host.is_set("relay_domains"):
        line = host.postconf("relay_domains", ", ".join(more))
    else:
        line = host.with_entries("relay_domains", more, gone)
    unwritten = lacks.unnamed and not host.target(lacks.unnamed).text.exists()
    return f"{host.sync}\n{line}" if unwritten else line
