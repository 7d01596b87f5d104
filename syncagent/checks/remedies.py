"""Remedies that set relay_recipient_maps, relay_domains and mynetworks.

Each sets the final value, so that the remedies of several findings do not undo each other.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from syncagent import addresses as normalise
from syncagent.checks.finding import Person
from syncagent.postfix import mynetworks
from syncagent.postfix.live import unused_address
from syncagent.postfix.match_list import matches
from syncagent.postfix.table import is_same_file, is_same_table

if TYPE_CHECKING:
    from collections.abc import Iterable

    from syncagent.checks.context import Context
    from syncagent.checks.finding import Shell
    from syncagent.values.types import MapName


def recipient_maps(context: Context, *, alone: bool = False, instead: MapName | None = None) -> tuple[Shell, ...]:
    """Return the commands after which relay_recipient_maps names the map and no harmful other table.

    With ``alone``, it names no other table at all. ``instead`` is the map's future name, if that changes. `sync` comes
    first until the map exists. Raises CommandError if a lookup in another table fails.
    """
    table, listed = context.config.postfix.map, context.live.listed("relay_recipient_maps")
    others = [entry for entry in listed if not is_same_table(entry, table)]
    ours = [] if instead else [entry for entry in listed if entry not in others]
    stay = [entry for entry in others if not (alone or is_same_file(entry, table) or accepts_a_domain(context, entry))]
    more = [] if ours else [str(instead or table.spelled)]
    command = context.with_entries("relay_recipient_maps", more, set(listed) - {*ours, *stay})
    return (command,) if context.map_in_use else (context.sync, command)


def accepts_a_domain(context: Context, entry: str) -> str:
    """Return the first relay domain of which a table accepts every recipient, except those in postfix.catch_all.

    Returns ``""`` if there is none or the table is known as unreadable. Raises CommandError if the lookup fails.
    """
    if entry in context.live.unreadable:
        return ""
    probes = {domain: (unused_address(domain), f"@{domain}") for domain in sorted(context.scope)}
    hits = context.live.look_up(entry, [key for keys in probes.values() for key in keys]).keys()
    permitted = context.config.postfix.catch_all
    return next((domain for domain, keys in probes.items() if domain not in permitted and hits & set(keys)), "")


@dataclass(frozen=True)
class Lacking:
    """The domains that relay_domains lacks: relay domains, and other domains with published recipients.

    ``unreadable`` are its tables that cannot be queried; if there are any, the lists of domains are empty.
    ``unnamed`` is postfix.domains_map if relay_domains does not name it. ``unpublished`` are relay domains that are not
    yet in postfix.domains_map, which relay_domains names; ``missing`` are the other relay domains. ``outside`` are
    domains with recipients that are no relay domains.
    """

    unreadable: tuple[str, ...]
    unnamed: MapName | None
    unpublished: tuple[str, ...]
    missing: tuple[str, ...]
    outside: tuple[str, ...]

    @property
    def settled(self) -> bool:
        """True if ``unreadable``, ``unnamed`` and ``unpublished`` are empty: only then is ``outside`` final."""
        return not (self.unreadable or self.unnamed or self.unpublished)


def lacking(context: Context) -> Lacking:
    """Return the domains that relay_domains lacks. Raises CommandError if a lookup fails."""
    second = context.config.postfix.domains_map
    named = second and any(is_same_table(entry, second) for entry in context.live.listed("relay_domains"))
    required = [form for domain in sorted(context.scope) for form in forms(context, domain)]
    names = [name for name in context.published.domains if not context.scope & {name, normalise.domain_or_same(name)}]
    relayed = matches(context.live, "relay_domains", [*required, *names])
    missing = [form for form in required if form not in relayed]
    outside = [name for name in names if name not in relayed]
    unreadable = context.unreadable("relay_domains") if missing or outside else []
    unpublished = []
    if second and named and not unreadable:
        published = context.live.look_up(str(second), missing) if missing else {}
        unpublished = [form for form in missing if form not in published]
    return Lacking(
        tuple(unreadable),
        None if named else second,
        tuple(unpublished),
        () if unreadable else tuple(form for form in missing if form not in unpublished),
        () if unreadable else tuple(outside),
    )


def forms(context: Context, domain: str) -> tuple[str, ...]:
    """Return the spellings of a domain that relay_domains must have: A-labels, and U-labels unless SMTPUTF8 is off.

    Source: SMTPUTF8_README, smtputf8_enable.
    """
    return normalise.renderings(domain) if context.live.values.get("smtputf8_enable") != "no" else (domain,)


def relay_domains(context: Context, gone: Iterable[str] = (), instead: MapName | None = None) -> tuple[Shell, ...]:
    """Return the commands after which relay_domains has every domain it lacks and none of the entries ``gone``.

    ``instead`` is the future name of postfix.domains_map: it replaces the entries of syncagent's tables. If main.cf
    does not set relay_domains, Postfix's default is not kept. `sync` comes first if postfix.domains_map must be named
    and does not exist. Raises CommandError if a lookup fails.
    """
    lacks = lacking(context)
    more = [lacks.unnamed.spelled] if lacks.unnamed else [*lacks.missing, *(lacks.outside if lacks.settled else ())]
    if instead:
        more = [str(instead)]
        gone = [entry for entry in context.live.listed("relay_domains") if context.is_ours(entry)]
    if not context.live.is_set("relay_domains"):
        command = context.postconf("relay_domains", ", ".join(more))
    else:
        command = context.with_entries("relay_domains", more, gone)
    unwritten = lacks.unnamed and not context.target(lacks.unnamed).text.exists()
    return (context.sync, command) if unwritten else (command,)


def networks(context: Context, entry: str) -> Shell | Person:
    """Return the remedy against an entry of mynetworks that is too wide.

    It is a command that removes all such entries listed inline, or an instruction to edit the entry's file or table.
    If no entry would be left, mynetworks becomes the loopback networks.
    """
    wide = mynetworks.wide_if_readable(context.live, entry)
    if entry not in wide:
        return Person(text=f"take {', '.join(wide)} out of {entry}")
    listed = context.live.listed("mynetworks")
    gone = {other for other in listed if other in mynetworks.wide_if_readable(context.live, other)}
    if set(listed) > gone:
        return context.without("mynetworks", gone)
    return context.postconf("mynetworks", mynetworks.LOOPBACK)
