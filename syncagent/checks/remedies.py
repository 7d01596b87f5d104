"""What relay_recipient_maps and relay_domains are to be once all is mended, so that every mend prints the same line."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from syncagent import addresses as normalise
from syncagent.postfix import mynetworks
from syncagent.postfix.live import unused_address
from syncagent.postfix.match_list import matches
from syncagent.postfix.table import is_same_file, is_same_table

if TYPE_CHECKING:
    from collections.abc import Iterable

    from syncagent.checks.context import Context
    from syncagent.values.types import MapName


def recipient_maps(context: Context, *, alone: bool = False, instead: MapName | None = None) -> str:
    """Give the commands that have the map named, and no table that does harm beside it.

    ``alone``: no other table at all. ``instead``: what the map is to be from now on.
    """
    table, there = context.config.postfix.map, context.live.listed("relay_recipient_maps")
    others = [entry for entry in there if not is_same_table(entry, table)]
    ours = [] if instead else [entry for entry in there if entry not in others]
    stay = [] if alone else [one for one in others if not (is_same_file(one, table) or takes_all_of(context, one))]
    more = [] if ours else [str(instead or table.spelled)]
    line = context.with_entries("relay_recipient_maps", more, set(there) - {*ours, *stay})
    return line if context.map_in_use else f"{context.sync}\n{line}"


def takes_all_of(context: Context, entry: str) -> str:
    """Give a relay domain of which a table has every recipient, and is not to; empty where there is none.

    Raises CommandError.
    """
    if entry in context.live.unreadable:
        return ""
    probes = {domain: (unused_address(domain), f"@{domain}") for domain in sorted(context.scope)}
    there = context.live.look_up(entry, [key for keys in probes.values() for key in keys])
    permitted = context.config.postfix.catch_all
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


def lacking(context: Context) -> Lacking:
    """See what relay_domains lacks."""
    second = context.config.postfix.domains_map
    named = second and any(is_same_table(entry, second) for entry in context.live.listed("relay_domains"))
    every = [form for domain in sorted(context.scope) for form in forms(context, domain)]
    names = [name for name in context.published.domains if not context.scope & {name, normalise.domain_or_same(name)}]
    relayed = matches(context.live, "relay_domains", [*every, *names])
    missing = [form for form in every if form not in relayed]
    outside = [name for name in names if name not in relayed]
    unasked = context.unreadable("relay_domains") if missing or outside else []
    unpublished = []
    if second and named and not unasked:
        published = context.live.look_up(str(second), missing) if missing else {}
        unpublished = [form for form in missing if form not in published]
    return Lacking(
        tuple(unasked),
        None if named else second,
        tuple(unpublished),
        () if unasked else tuple(form for form in missing if form not in unpublished),
        () if unasked else tuple(outside),
    )


def forms(context: Context, domain: str) -> tuple[str, ...]:
    """Give the forms under which a domain must be in relay_domains (SMTPUTF8_README)."""
    return normalise.renderings(domain) if context.live.values.get("smtputf8_enable") != "no" else (domain,)


def relay_domains(context: Context, gone: Iterable[str] = (), instead: MapName | None = None) -> str:
    """Give the commands that have relay_domains lack nothing, with entries of it ``gone``.

    ``instead``: what postfix.domains_map is to be from now on. That relay_domains is $mydestination by default helps
    nobody.
    """
    lacks = lacking(context)
    more = [lacks.unnamed.spelled] if lacks.unnamed else [*lacks.missing, *(lacks.outside if lacks.settled else ())]
    if instead:
        more = [str(instead)]
        gone = [entry for entry in context.live.listed("relay_domains") if context.is_ours(entry)]
    if not context.live.is_set("relay_domains"):
        line = context.postconf("relay_domains", ", ".join(more))
    else:
        line = context.with_entries("relay_domains", more, gone)
    unwritten = lacks.unnamed and not context.target(lacks.unnamed).text.exists()
    return f"{context.sync}\n{line}" if unwritten else line


def networks(context: Context, entry: str) -> str:
    """Return the command that removes wide networks from mynetworks, or the line to remove from a file or table."""
    wide = mynetworks.wide_if_readable(context.live, entry)
    if entry not in wide:
        return f"# take {', '.join(wide)} out of {entry}"
    listed = context.live.listed("mynetworks")
    gone = {other for other in listed if other in mynetworks.wide_if_readable(context.live, other)}
    if set(listed) > gone:
        return context.without("mynetworks", gone)
    return context.postconf("mynetworks", mynetworks.LOOPBACK)
