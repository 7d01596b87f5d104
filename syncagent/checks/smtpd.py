"""What smtpd(8) does with a recipient besides asking our map: postconf(5), ADDRESS_CLASS_README, SMTPD_ACCESS_README.

What is asked before the map: check_rcpt_maps() in its source, smtpd_check.c.
"""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import TYPE_CHECKING

from syncagent import mapfile, normalise
from syncagent.checks import host as hosts
from syncagent.checks.finding import error, skipped, warning
from syncagent.values import INDEX_SUFFIX

if TYPE_CHECKING:
    from collections.abc import Iterator

    from syncagent.checks.finding import Finding
    from syncagent.checks.host import Host

_DAY = 86400
_UNITS = {"s": 1, "m": 60, "h": 3600, "d": _DAY, "w": 7 * _DAY}
_REFUSE = {"reject_unauth_destination", "defer_unauth_destination", "reject", "defer"}
_LISTS = ("smtpd_relay_restrictions", "smtpd_recipient_restrictions")
_BEFORE = ("recipient_canonical_maps", "canonical_maps", "virtual_alias_maps")
_SMTP = {"smtp", "25"}


def unlisted_are_rejected(host: Host) -> Iterator[Finding]:
    """Postfix asks the map: smtpd_reject_unlisted_recipient is yes."""
    if host.values.get("smtpd_reject_unlisted_recipient") != "no":
        return
    if "reject_unlisted_recipient" in _restrictions(host, "smtpd_recipient_restrictions"):
        return
    text = "it is no, so that the map is not asked, and every recipient is accepted"
    mend = host.postconf("smtpd_reject_unlisted_recipient", "yes")
    yield error("smtpd_reject_unlisted_recipient", text, mend)


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
    if kind not in INDEX_SUFFIX or not _has_key(Path(path), key):
        return f"# take what matches {key} out of {table}"
    words = re.sub(r"([].[*^$/\\])", r"\\\1", key)
    command = shlex.join(["sed", "-i", rf"/^{words}[[:space:]]/Id", path])
    return "\n".join([command, host.command("postmap", named)]) if kind != "texthash" else command


def _has_key(text: Path, key: str) -> bool:
    try:
        with text.open("rb") as file:
            pairs = (mapfile.split(line) for _, line in mapfile.logical_lines(file))
            return any(pair and pair[0].decode(errors="replace").casefold() == key for pair in pairs)
    except OSError:
        return False


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


def no_mx_backup(host: Host) -> Iterator[Finding]:
    """No restriction permits whatever domain has an MX record that leads here (permit_mx_backup)."""
    for name in _LISTS:
        if "permit_mx_backup" in _restrictions(host, name):
            text = "permit_mx_backup takes mail for whoever names this host in DNS, and asks no map for recipients"
            words = [word for word in host.listed(name) if word.lower() == "permit_mx_backup"]
            yield warning(name, text, host.without(name, words))


def _closed(words: list[str]) -> bool:
    for word in words:
        if word == "permit":
            return False
        if word in _REFUSE:
            return True
    return False


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
    ports = _SMTP | ({str(host.options.smtp[1])} if host.options.smtp else set())
    for line in host.ask("postconf", "-xP").splitlines():
        place, _, value = (part.strip() for part in line.partition("="))
        service, _, rest = place.partition("/inet/")
        if service.rpartition(":")[2] in ports and rest in hosts.PARAMETERS and host.values.get(rest) != value:
            text = f"{service} in master.cf has {value!r}; main.cf, which is judged here, {host.values.get(rest, '')!r}"
            yield warning(rest, text, host.command("postconf", "-PX", place))


CHECKS = (
    unlisted_are_rejected,
    unknown_are_refused,
    nothing_accepts_before,
    local_recipients_are_known,
    relaying_is_closed,
    no_mx_backup,
    queue_lives_long,
    nothing_is_overridden,
)
