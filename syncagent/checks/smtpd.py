"""What smtpd(8) does with a recipient besides asking our map: postconf(5), ADDRESS_CLASS_README, SMTPD_ACCESS_README.

What is asked before the map: check_rcpt_maps() in its source, smtpd_check.c.
"""

from __future__ import annotations

import contextlib
import re
import shlex
from pathlib import Path
from typing import TYPE_CHECKING

from syncagent import addresses as normalise
from syncagent.checks import context as hosts
from syncagent.checks import networks, postfix, relay
from syncagent.checks.finding import error, skipped, warning
from syncagent.errors import SyncagentError
from syncagent.files import atomic as files
from syncagent.postfix import table_text as mapfile
from syncagent.values.types import INDEX_SUFFIX

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator

    from syncagent.checks.context import Host
    from syncagent.checks.finding import Finding

    Check = Callable[[Host], Iterator[Finding]]

_DAY = 86400
_UNITS = {"s": 1, "m": 60, "h": 3600, "d": _DAY, "w": 7 * _DAY}
_REFUSE = {"reject_unauth_destination", "defer_unauth_destination", "reject", "defer"}
_PERMIT = {"permit", "permit_auth_destination", "permit_mx_backup"}
"""What takes mail for relay domains from strangers, so that nothing after it counts."""
_OVERRIDES = "receive_override_options"
_UNASKED = "no_unknown_recipient_checks"
_LISTS = ("smtpd_relay_restrictions", "smtpd_recipient_restrictions")
_BEFORE = ("recipient_canonical_maps", "canonical_maps", "virtual_alias_maps")
_SMTP = {"smtp", "25"}


def unlisted_are_rejected(host: Host) -> Iterator[Finding]:
    """Postfix asks the map: smtpd_reject_unlisted_recipient is yes."""
    overrides = host.listed(_OVERRIDES)
    if _UNASKED in overrides:
        text = f"it has {_UNASKED}, so that the map is not asked, and every recipient is accepted"
        mend = host.without(_OVERRIDES, [_UNASKED]) if set(overrides) > {_UNASKED} else host.unset(_OVERRIDES)
        yield error(_OVERRIDES, text, mend)
    if host.values.get("smtpd_reject_unlisted_recipient") != "no":
        return
    if not any(_comes_first(_restrictions(host, name), {"reject_unlisted_recipient"}, _PERMIT) for name in _LISTS):
        text = "it is no, so that the map is not asked, and every recipient is accepted"
        yield error("smtpd_reject_unlisted_recipient", text, host.postconf("smtpd_reject_unlisted_recipient", "yes"))


def unknown_are_refused(host: Host) -> Iterator[Finding]:
    """Unknown recipients are refused with 550."""
    code = host.values.get("unknown_relay_recipient_reject_code", "550")
    mend = host.postconf("unknown_relay_recipient_reject_code", "550")
    if code == "450":
        text = "450: good for the first week, while a recipient that is missing may be tried again; then"
        yield warning("unknown_relay_recipient_reject_code", text, mend)
    elif code != "550":
        yield error("unknown_relay_recipient_reject_code", f"{code}: what senders understand is 550", mend)
    if host.values.get("soft_bounce") == "yes":
        text = "yes: unknown recipients get 450, and are tried again for days"
        yield warning("soft_bounce", text, host.postconf("soft_bounce", "no"))


def nothing_accepts_before(host: Host) -> Iterator[Finding]:
    """No canonical or virtual alias map accepts every recipient of a relay domain before the map is asked."""
    forms = [form for domain in sorted(host.scope) for form in normalise.renderings(domain)]
    probes = {domain: (hosts.invented(domain), f"@{domain}") for domain in forms}
    for name in _BEFORE:
        for table in host.listed(name):
            try:
                there = host.look_up(table, [key for keys in probes.values() for key in keys])
            except hosts.UnaskedError as trouble:
                yield skipped(table, f"{name} has it, and it says nothing here: {trouble}")
                continue
            for domain, keys in probes.items():
                hit = [key for key in keys if key in there]
                if hit:
                    text = f"{name} has {hit[-1]} in {table}: every recipient is accepted before the map is asked"
                    yield error(domain, text, _less_a_key(host, table, f"@{domain}"))


def _less_a_key(host: Host, table: str, key: str) -> str:
    """Give the commands that take a line out of a table's text, or say that a person has to."""
    named = table.removeprefix("proxy:")
    kind, _, path = named.partition(":")
    if kind not in INDEX_SUFFIX or not _in_lines_of_its_own(Path(path), key):
        return f"# take what matches {key} out of {table}"
    words = re.sub(r"([].[*^$/\\])", r"\\\1", key)
    command = shlex.join(["sed", "-i", rf"/^{words}[[:space:]]/Id", path])
    return "\n".join([command, host.command("postmap", named)]) if kind != "texthash" else command


def _in_lines_of_its_own(text: Path, key: str) -> bool:
    """Tell whether a text has a key, and no line goes on in a further one: that would become the entry's before it."""
    try:
        lines = files.read_foreign(text, files.MOST_OF_A_LIST).split(b"\n")
        logical = list(mapfile.logical_lines(lines))
    except OSError:
        return False
    found = []
    for number, line in logical:
        pair = mapfile.split(line)
        if pair and pair[0].decode(errors="replace").casefold() == key:
            found.append(line == lines[number - 1])
    return bool(found) and all(found)


def local_recipients_are_known(host: Host) -> Iterator[Finding]:
    """local_recipient_maps is not emptied."""
    if not host.values.get("local_recipient_maps", "x") and host.listed("mydestination"):
        text = f"it is empty: unknown users of {', '.join(host.listed('mydestination'))} are accepted, and bounce later"
        yield warning("local_recipient_maps", text, host.unset("local_recipient_maps"))


def relaying_is_closed(host: Host) -> Iterator[Finding]:
    """Nothing but relay domains is relayed for strangers: reject_unauth_destination is in force."""
    if any(_closed(_restrictions(host, name)) for name in _LISTS):
        return
    text = "neither has reject_unauth_destination before a permit: relaying for everybody, or smtpd refuses to run"
    yield error(" and ".join(_LISTS), text, host.postconf(_LISTS[0], hosts.DEFAULT_RESTRICTIONS))


def few_are_trusted(host: Host) -> Iterator[Finding]:
    """No more than a host's own networks may relay: mynetworks, permit_mynetworks."""
    relays = not any(_closed(_restrictions(host, name), {"permit", "permit_mynetworks"}) for name in _LISTS)
    for entry in host.listed("mynetworks"):
        try:
            wide = networks.wide(host, entry)
        except (hosts.UnaskedError, OSError, UnicodeError) as trouble:
            yield skipped(entry, f"mynetworks has it, and it says nothing here: {trouble}")
            continue
        for pattern, world in wide.items():
            mend = networks.mend(host, entry)
            if world and relays:
                yield error(entry, f"mynetworks trusts {pattern} to relay: this host relays for everybody", mend)
            elif world:
                text = f"mynetworks trusts {pattern}, and only what is restricted beside that keeps them from relaying"
                yield warning(entry, text, mend)
            elif relays:
                yield warning(entry, f"mynetworks trusts {pattern} to relay; is all of that yours?", mend)


def no_mx_backup(host: Host) -> Iterator[Finding]:
    """No restriction permits whatever domain has an MX record that leads here (permit_mx_backup)."""
    for name in _LISTS:
        if "permit_mx_backup" in _restrictions(host, name):
            text = "permit_mx_backup takes mail for whoever names this host in DNS, and asks no map for recipients"
            words = [word for word in host.listed(name) if word.lower() == "permit_mx_backup"]
            yield warning(name, text, host.without(name, words))


def _closed(words: list[str], permits: Collection[str] = ("permit",)) -> bool:
    return _comes_first(words, _REFUSE, permits)


def _comes_first(words: list[str], wanted: Collection[str], permits: Collection[str]) -> bool:
    """Tell whether one of the wanted restrictions is in a list, and nothing before it permits."""
    return next((word in wanted for word in words if word in wanted or word in permits), False)


def _restrictions(host: Host, name: str) -> list[str]:
    """Give the words of a list of restrictions, its classes replaced by what they stand for."""
    classes = set(host.listed("smtpd_restriction_classes"))
    found: list[str] = []
    for word in host.listed(name):
        found += host.ask("postconf", "-xh", word).replace(",", " ").split() if word in classes else [word]
    return [word.lower() for word in found]


def queue_lives_long(host: Host) -> Iterator[Finding]:
    """Mail waits for the primary for a day at least."""
    for name, say in (("maximal_queue_lifetime", error), ("bounce_queue_lifetime", warning)):
        spelled = host.values.get(name, "5d")
        seconds = _seconds(spelled)
        if seconds is not None and seconds < _DAY:
            text = f"{spelled}: while the primary is down for longer, mail that was taken for it bounces"
            yield say(name, text, host.postconf(name, "5d"))


def _seconds(spelled: str) -> float | None:
    found = re.fullmatch(r"\s*(\d+)\s*([smhdw]?)\s*", spelled)
    return int(found[1]) * _UNITS[found[2] or "d"] if found else None


def nothing_is_overridden(host: Host) -> Iterator[Finding]:
    """master.cf sets nothing else for the smtpd that the world talks to."""
    world = _of_the_world(host)
    found: dict[str, dict[str, str]] = {}
    for line in host.ask("postconf", "-xP").splitlines():
        place, _, value = (part.strip() for part in line.partition("="))
        service, _, name = place.rpartition("/")
        if service in world and name in hosts.PARAMETERS and host.values.get(name) != value:
            found.setdefault(service, {})[name] = value
    there_already = _errors(host, {}) if found else {}
    for service, changed in found.items():
        wrong = _errors(host, changed)
        for name, value in changed.items():
            without = _errors(host, {other: own for other, own in changed.items() if other != name})
            by_this = [text for key, text in wrong.items() if key not in there_already and key not in without]
            text = f"{service.partition('/')[0]} in master.cf has {value!r}"
            mend = host.command("postconf", "-PX", f"{service}/{name}")
            if by_this:
                yield error(name, f"{text}; {by_this[0]}", mend)
            elif name != _OVERRIDES:  # others of its options are common, and nothing to us
                yield warning(name, f"{text}; main.cf, which is judged here, {host.values.get(name, '')!r}", mend)


def _of_the_world(host: Host) -> set[str]:
    """Give the services that the world talks to, as SERVICE/TYPE: on port 25, or behind a postscreen(8) that is."""
    ports = _SMTP | ({str(host.options.smtp[1])} if host.options.smtp else set())
    rows = [line.split() for line in host.ask("postconf", "-M").splitlines()]
    open_to_all = [row for row in rows if row[1] == "inet" and row[0].rpartition(":")[2] in ports]
    if any(row[7] == "postscreen" for row in open_to_all):
        open_to_all += [row for row in rows if row[1] == "pass"]
    return {f"{row[0]}/{row[1]}" for row in open_to_all}


def _errors(host: Host, changed: dict[str, str]) -> dict[tuple[Check, str], str]:
    """Give the errors that there are with other values, by check and subject."""
    other = hosts.Host(host.config, host.options, host.reports, host.ledger)
    other.values = host.values | changed
    found: dict[tuple[Check, str], str] = {}
    for check in _OF_THE_DIALOGUE:
        with contextlib.suppress(SyncagentError, OSError, UnicodeError):  # it is told where main.cf is judged
            found |= {
                (check, one.subject): f"{one.subject}: {one.text}" for one in check(other) if one.severity == "error"
            }
    return found


_OF_THE_DIALOGUE: tuple[Check, ...] = (
    *(postfix.map_is_named, postfix.no_other_tables, relay.domains_are_relayed, relay.domains_are_of_one_class),
    *(unlisted_are_rejected, unknown_are_refused, nothing_accepts_before, relaying_is_closed, few_are_trusted),
)
"""The checks of what smtpd answers."""

CHECKS = (
    unlisted_are_rejected,
    unknown_are_refused,
    nothing_accepts_before,
    local_recipients_are_known,
    relaying_is_closed,
    few_are_trusted,
    no_mx_backup,
    queue_lives_long,
    nothing_is_overridden,
)
