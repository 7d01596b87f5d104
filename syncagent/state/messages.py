"""Messages for holds, sources, notes and refusals, made from their data. No code depends on the text."""

from __future__ import annotations

import datetime as dt
import json
from typing import TYPE_CHECKING

from msgspec.structs import replace

from syncagent.errors import printable
from syncagent.model import ALL_DOMAINS, CLOCK_SET, DOMAIN_HOLD, Doubt
from syncagent.values.types import spell_seconds

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Mapping, Sequence

    from syncagent.model import DoubtKind, Hold, Lack, Loss, Note, NoteKind, Reason, ReasonKind, Refusal, Reject, Waits
    from syncagent.state.doubt_groups import DoubtGroup
    from syncagent.state.doubt_status import DoubtStatus
    from syncagent.state.identity import Why
    from syncagent.state.lag import Lag

EMPTY_MAP = "there is no recipient at all; an empty map refuses everybody, and is never published"
_ALWAYS_HELD = "an empty map is never published"
_SHOWN = 3
_LONGEST = 200
"""Maximum number of characters shown of a rejected entry."""
_CANARY_REMEDY = "correct the source, or limits.canaries"


def counted(count: int, noun: str) -> str:
    """Return a count with its noun: ``1 recipient``, ``2,000 recipients``."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def entries(count: int, what: str = "") -> str:
    """Return a count of entries: ``1 entry``, ``2 rejected entries``."""
    return f"{count:,} {what}{'entry' if count == 1 else 'entries'}"


def moment(seconds: float) -> str:
    """Format seconds since the epoch for people, in local time with its zone: ``2026-01-31 02:41:07 CET``."""
    return dt.datetime.fromtimestamp(seconds, dt.UTC).astimezone().strftime("%Y-%m-%d %H:%M:%S %Z")


def machine_moment(seconds: float) -> str:
    """Format seconds since the epoch for machines, in UTC by RFC 3339: ``2026-01-31T01:41:07+00:00``."""
    return dt.datetime.fromtimestamp(seconds, dt.UTC).isoformat(timespec="seconds")


# --- holds


def held(hold: Hold) -> str:
    """Return the subject of a hold: ``12 removals of example.com``, the removal of a relay domain, or every removal."""
    if hold.is_of_domain:
        return f"the removal of the relay domain {hold.domain.removeprefix(DOMAIN_HOLD)}"
    if hold.is_of_all:
        return "every removal"
    if hold.rejecting:
        return f"{entries(hold.count, 'rejected ')} of source {hold.rejecting}"
    return f"{counted(hold.count, 'removal')} of {hold.domain}"


def with_text(reason: Reason) -> Reason:
    """Return the reason with its sentence. A reason that has a sentence already is returned unchanged."""
    return reason if reason.text else replace(reason, text=_REASONS[reason.kind](reason))


def _failing(reason: Reason) -> str:
    sources, are = ("sources", "are") if reason.subjects[1:] else ("source", "is")
    return f"waiting for {sources} {', '.join(reason.subjects)}, which {are} failing"


def _canary(reason: Reason) -> str:
    return absent_canary(reason.subjects[0])


def _empty_map(_: Reason) -> str:
    return f"no source has any recipient: {_ALWAYS_HELD}"


def _rejects(reason: Reason) -> str:
    return f"the source {reason.subjects[0]} rejects more than before: missing recipients may be among them"


def _rejected(reason: Reason) -> str:
    """Return why a hold stands: of rejected entries, or of recipients that may be among them."""
    source = reason.subjects[0]
    if not reason.rejects:
        return f"source {source} has rejected entries that nobody has approved: missing recipients may be among them"
    if len(reason.rejects) == 1:
        return f"it cannot be read as a recipient: {rejected_entry(reason.rejects[0])}"
    such = ", such as" if len(reason.rejects) >= _SHOWN else ":"  # a hold records no more of them
    return f"they cannot be read as recipients{such} {'; '.join(map(rejected_entry, reason.rejects))}"


def rejected_entry(reject: Reject) -> str:
    """Return a rejected entry for people: its place, its text, and the reason, which says what to write instead."""
    place = f"{reject.place}: " if reject.place else ""
    return f'{place}"{printable(reject.spelled, _LONGEST)}" {reject.reason}'


def _emptied(reason: Reason) -> str:
    why = "" if reason.configured else ": it is no longer in relay_domains"
    return f"{reason.subjects[0]} would have no recipient left{why}"


def _catch_all(reason: Reason) -> str:
    return f"would lose its catch-all {', '.join(reason.subjects)}"


def _domain(reason: Reason) -> str:
    return f"the removal of the relay domain {reason.subjects[0]} is held itself, and comes first"


def _domain_gone(reason: Reason) -> str:
    return f"neither a source nor postfix.relay_domains has the domain {reason.subjects[0]} any more"


def _percent(reason: Reason) -> str:
    return _lost(reason, reason.subjects[0])


def _whole_percent(reason: Reason) -> str:
    return _lost(reason, "the whole map")


def _lost(reason: Reason, subject: str) -> str:
    loss = reason.loss
    if loss is None:
        return f"{subject} would lose too much"
    return f"{_would_lose(subject, loss)}, over {loss.share:g}% and over {loss.floor:,}"


def _half(reason: Reason) -> str:
    loss = reason.loss
    if loss is None:
        return f"{reason.subjects[0]} would lose at least half of its recipients"
    return f"{_would_lose(reason.subjects[0], loss)}: at least half of them"


def _max(reason: Reason) -> str:
    subject, loss = reason.subjects[0] if reason.subjects else "the whole map", reason.loss
    if loss is None:
        return f"{subject} would lose too many recipients"
    return f"{_would_lose(subject, loss)}, over {loss.floor:,} (removed_max)"


def _container(reason: Reason) -> str:
    return f"no entry is left in {reason.subjects[0]}: did the account lose its rights there?"


def _same_answer(reason: Reason) -> str:
    return f"the answer that lacks them lacks too many of {reason.subjects[0]}: approved and ended with that hold"


def _would_lose(subject: str, loss: Loss) -> str:
    before = f" ({loss.before:,} of them in the last {spell_seconds(loss.window)})" if loss.before else ""
    return f"{subject} would lose {loss.lost:,} of {loss.size:,}{before}"


def _no_doubt_table(_: Reason) -> str:
    return "the doubt table cannot be published: removed recipients would get 550 at once"


def state_new(why: Why, until: float) -> str:
    """Return why every removal is held after the state was lost or restored, and until when."""
    what = (
        "the state was lost: state.db does not know this map"
        if why == "lost"
        else "state.db is older than the map, as after a restoration from a copy"
    )
    return f"{what}, nor what was removed lately; until {moment(until)}, or until a person approves it"


def miscounted_lists(listed: int, read: int) -> str:
    """Return that the entries read from the lists are not as many as the lists have by their records."""
    return f"the lists have {listed:,} entries, and {read:,} were read: is the disk or a program faulty?"


def miscounted_selection(distinct: int, taken: Mapping[str, int], written: int) -> str:
    """Return that the selection of recipients does not account for every address in the lists."""
    parts = " + ".join(f"{count:,} {name}" for name, count in taken.items() if count) or "none"
    selected = f"selected were {parts}, and {written:,} wanted ones were written"
    return f"the lists have {distinct:,} addresses; {selected}: report this fault of syncagent"


def miscounted_map(expected: int, published: int) -> str:
    """Return that the map to publish does not have as many recipients as it should."""
    return f"of {expected:,} recipients {published:,} would be published: is the disk or a program faulty?"


def clock(now: float, last: float) -> str:
    """Return why a run by a wrong clock removes nothing. ``last`` is the time of the last run."""
    if now < CLOCK_SET:
        return f"the clock of this host is not set, it says {moment(now)}: timedatectl set-ntp true"
    remedy = "the next run removes what is due; is the clock right? timedatectl"
    return f"the clock was set back by {spell_seconds(max(1.0, last - now))} since the last run: {remedy}"


_REASONS: dict[ReasonKind, Callable[[Reason], str]] = {
    "source-failing": _failing,
    "canary": _canary,
    "empty-map": _empty_map,
    "rejects": _rejects,
    "rejected": _rejected,
    "emptied": _emptied,
    "catch-all": _catch_all,
    "domain": lambda reason: (_domain_gone if reason.approvable else _domain)(reason),
    "doubt": _no_doubt_table,
    "percent": _percent,
    "whole-percent": _whole_percent,
    "half": _half,
    "max": _max,
    "container": _container,
    "same-answer": _same_answer,
    "excepted": lambda reason: f"a person excepted it from the approval of {reason.subjects[0]}",
    "source-outdated": lambda reason: f"waiting for newer data of source {', '.join(reason.subjects)}",
    "state-new": lambda _: "the state was lost, or restored from a copy",
    "clock": lambda _: "the clock of this host is wrong",
    "counts": lambda _: "the counts of lists and selection do not agree",
}


def absent_canary(canary: str) -> str:
    """Return the message that a canary is in no source, with the remedy."""
    return f"the canary {canary} is in no source: {_CANARY_REMEDY}"


def held_catch_all(name: str) -> str:
    """Return the message that a catch-all (``@example.com``) is held, with the remedy."""
    return f"{name} would accept every address of its domain: to permit it, add {name[1:]} to postfix.catch_all"


def domain_not_relayed(domain: str, mx: str, count: int) -> str:
    """Return the message that the mail of a domain comes here, whose recipients are not published, with the remedy."""
    return (
        f"{domain} has {counted(count, 'recipient')} in the sources, and its MX {mx} is this host, but it is not in"
        " postfix.relay_domains: its mail is refused here; add it there, or take the MX record out of the zone"
    )


def waiting_for(hold: Hold) -> str:
    """Return what ends a hold that ends without a person."""
    names = [name for reason in hold.reasons if reason.kind == "source-outdated" for name in reason.subjects]
    newer = f"the data of {', '.join(names)} is not outdated" if names else ""
    fails = "no source fails" if len(hold.reasons) > len(names) else ""
    return " and ".join(filter(None, (fails, newer)))


JOINING = "further removals still join it, and its ID changes then"


def collecting(hold: Hold) -> str:
    """Return the remark that further removals can join a hold, by which its ID changes; "" if none can."""
    if not hold.collecting:
        return ""
    return f" (collecting: {JOINING}{'; an ID approves what it was shown for' if hold.approvable else ''})"


def to_approve(hold: Hold, command: str) -> str:
    """Return the remedy for a hold that may be approved. ``command`` is the command line that approves it."""
    if not hold.id:
        command = "the next sync gives an ID to approve"
    if hold.rejecting:
        return f"{'if it is no recipient' if hold.count == 1 else 'if they are no recipients'}: {command}"
    return f"to let them go: {command}"


def held_alarm(hold: Hold, command: str) -> str:
    """Return the message for a hold in one line: removals, reasons, and the remedy if it may be approved."""
    why = "; ".join(with_text(reason).text for reason in hold.reasons)
    return f"held: {held(hold)}{collecting(hold)}: {why}{f'; {to_approve(hold, command)}' if hold.approvable else ''}"


def refusal(refused: Refusal) -> str:
    """Return the message with the reason why a hold cannot be approved."""
    if refused.kind == "unknown":
        current = ", ".join(refused.holds) or "none"
        return f'unknown hold ID "{refused.hold_id}"; current holds: {current} (see syncagent status)'
    if refused.kind == "with" and refused.first:
        return f"{refused.hold_id} is approved with {refused.first.id}, {held(refused.first)}: approve that"
    if refused.kind in {"not-held", "leaving"}:
        return _no_exception(refused)
    if refused.first:
        text = f"{refused.hold_id} cannot be approved before {refused.first.id}, {held(refused.first)}"
        return f"{text}: approve that first, or both at once; nothing is approved"
    if refused.reject:
        why = names_recipient(refused, refused.reject)
        return f"{refused.hold_id} cannot be approved: {why}; nothing is approved"
    return f"{refused.hold_id} cannot be approved: {with_text(refused.reason).text if refused.reason else 'final'}"


def _no_exception(refused: Refusal) -> str:
    """Return the message that a recipient cannot be excepted from an approval."""
    if refused.kind == "leaving":
        text = f"{refused.address} cannot stay if its relay domain leaves: do not approve {refused.hold_id}"
    elif refused.first and refused.first.kind == "excepted":
        text = f"{refused.address} is excepted already, under {refused.first.id}: leave that ID and this exception out"
    else:
        elsewhere = f"; it is held under {refused.first.id}" if refused.first else ""
        text = f"{refused.address} is not held under {refused.hold_id}, and cannot be excepted{elsewhere}"
    return f"{text} (see syncagent held); nothing is approved"


def names_recipient(refused: Refusal, reject: Reject) -> str:
    """Return the message that a rejected entry has the address of a published recipient, with the remedy."""
    has = f"has {refused.address}, which is published" if refused.address else "is longer than what is recorded of it"
    text = f"{reject.place} {has}: correct the entry at its source"
    if not refused.pattern:
        return text
    key = f"ignore = [{toml_string(refused.pattern)}] in [sources.{reject.source}]"
    return f"{text}, or, if it is no recipient, set {key}"


def toml_string(text: str) -> str:
    """Return a text as a TOML string: literal if possible, since patterns have backslashes and quotes."""
    if "'" not in text and text.isprintable():
        return f"'{text}'"
    return json.dumps(text)


# --- waiting removals


def waits(what: Waits) -> str:
    """Return how many recipients stay that no source lists any more, until when, and why."""
    stay = f"{counted(what.count, 'recipient')} {'stays' if what.count == 1 else 'stay'}"
    if what.until == what.last:
        return f"{stay} until {moment(what.until)}: {why_it_waits(what)}"
    return f"{stay}, the first until {moment(what.until)}, the last until {moment(what.last)}: {why_it_waits(what)}"


def why_it_waits(what: Waits) -> str:
    """Return why removals wait, with the sources concerned."""
    names = ", ".join(what.sources)
    of_sources = f" (source {names})" if names else ""
    match what.why:
        case "grace":
            return "limits.removal_grace"
        case "list":
            return f"list without end line{of_sources}: confirm_after"
        case "look":
            return f"the whole list is to be read once more{of_sources}"
        case "unknown":
            return f"the source could not be asked for it alone{of_sources}"
        case "present":
            return f"the source has it, though its list lacks it{of_sources}"


def removal_stuck(what: Waits) -> str:
    """Return the message that removals have waited three times as long as they should."""
    they = "a recipient is" if what.count == 1 else f"{what.count:,} recipients are"
    return f"{they} still in the map that no source has listed since {moment(what.since)}: {why_it_waits(what)}"


# --- doubt


def doubt_reason(doubt: Doubt) -> str:
    """Return why a domain is in doubt, with its end if it ends by time: ``source corp is failing``.

    ``over: `` comes first if the reason is not true any more, and its line is still in the table.
    """
    until = doubt.until or doubt.lingers_until
    end = f" (until {moment(until)})" if until else ""
    return f"{'over: ' if doubt.lingers_until else ''}{_DOUBTS[doubt.kind](doubt.subject)}{end}"


def doubt_since(doubt: Doubt) -> str:
    """Return why a domain is in doubt, and since when."""
    return f"{doubt_reason(doubt)}, since {moment(doubt.since)}" if doubt.since else doubt_reason(doubt)


def _doubt_of_hold(kind: str) -> str:
    if kind == "rejected":
        return "a source has entries here that cannot be read"
    return "the removal of the relay domain is held" if kind == "domain" else f"removals are held: {kind}"


_DOUBTS: dict[DoubtKind, Callable[[str], str]] = {
    "source-failing": "source {} is failing".format,
    "source-stale": "the data of source {} is too old (schedule.max_age)".format,
    "source-outdated": "the data of source {} is outdated".format,
    "hold": _doubt_of_hold,
    "canary": "the canary {} is in no source".format,
    "unlisted": "source {} has recipients here that it does not list".format,
    "empty": "no recipient".format,
    "new": "first published less than postfix.doubt_new ago".format,
    "catch-all-removed": "the catch-all was removed".format,
    "removed": "many recipients were removed".format,
    "state-lost": "in doubt before the state was lost".format,
    "leaving": "about to leave relay_domains".format,
    "map": "the map is not as syncagent published it".format,
    "failed": "a run of syncagent failed".format,
    "dead": "syncagent stopped running (doubt-switch.sh)".format,
    "boot": "the host was started, and no run has yet asked every source".format,
    "always": "postfix.doubt_always has it".format,
    "by-hand": "put in doubt by hand ({})".format,
}


NO_DOUBT_TABLE = "unknown recipients get 550 even in doubt: postfix.doubt_map is not set"


def some_domains(names: Sequence[str], *, every: bool) -> str:
    """Return domains: their names if there are few, ``all 5,000 relay domains``, or some of them."""
    if len(names) <= _SHOWN:
        return ", ".join(names)
    if every:
        return f"all {len(names):,} relay domains"
    return f"{', '.join(names[:_SHOWN])} and {counted(len(names) - _SHOWN, 'more domain')}"


def doubt_domains(group: DoubtGroup) -> str:
    """Return the domains of a group."""
    return some_domains(group.domains, every=group.every)


def doubt_reason_of(group: DoubtGroup) -> str:
    """Return why the domains of a group are in doubt, without an end; ``over: ...`` if that is not true any more."""
    return f"{'over: ' if group.over else ''}{doubt_reason(Doubt('', group.kind, group.subject))}"


def doubt_group(group: DoubtGroup) -> str:
    """Return a group in one line: domains, reason, begin and end."""
    since = f", since {moment(group.since)}" if group.since else ""
    return f"{doubt_domains(group)}: {doubt_reason_of(group)}{since}{',' if group.until else ''}{_until(group)}"


def _until(group: DoubtGroup) -> str:
    return f" until {moment(group.until)}" if group.until else ""


def doubt_briefly(groups: Sequence[DoubtGroup], due: float | None) -> str:
    """Return the line about doubt in the output of a run, "" if nothing is in doubt.

    ``due``: when the next doubt can end without a source being asked, None if none does.
    """
    if not groups:
        return f"doubt: removed recipients, the first until {moment(due)}; these get 450" if due else ""
    shown = [f"{doubt_domains(group)}{_until(group)} ({doubt_reason_of(group)})" for group in groups[:_SHOWN]]
    more = [counted(len(groups) - _SHOWN, "more reason")] if len(groups) > _SHOWN else []
    return f"doubt: {'; '.join([*shown, *more])}; unknown recipients get 450"


def doubt_of_removed(count: int, until: float) -> str:
    """Return the line about removed addresses that are in doubt by themselves. ``until``: when the last one ends."""
    addresses = f"{count:,} removed {'address' if count == 1 else 'addresses'}"
    return f"{addresses}, until {moment(until)} at the latest"


_SWITCHED = {
    "dead": "syncagent had given no sign of life",
    "boot": "the host had started",
    "failed": "a run of syncagent had failed",
}


def switch(doubt: DoubtStatus, now: float) -> str:
    """Return the line about the switch: that it has fired, or when it last ran and when it would fire."""
    if doubt.switched:
        at = f" at {moment(doubt.switched.at)}" if doubt.switched.at else ""
        why = _SWITCHED[doubt.switched.why]
        end = f", which can end it from {moment(doubt.due)} on" if doubt.due else ""
        return f"fired{at}: {why}; every domain is in doubt until a run asks every source{end}"
    seen = f"last ran {spell_seconds(max(0, now - doubt.switch_seen))} ago" if doubt.switch_seen else "has never run"
    if not doubt.alive_until:
        return f"{seen}; syncagent counts as dead: no run has completed yet"
    if doubt.alive_until < now:
        return f"{seen}; syncagent counts as dead since {moment(doubt.alive_until)}"
    return f"{seen}; without a run syncagent counts as dead from {moment(doubt.alive_until)} on"


_EVENTS = {
    "doubt-begins": "doubt begins",
    "doubt-ends": "doubt ends",
    "doubt-by-hand": "doubt by hand begins",
    "doubt-cleared": "doubt by hand ends",
    "state-lost": "the state was lost, removals are held",
    "state-restored": "an older copy of the state was put back, removals are held",
    "state-new-ends": "removals are no longer held since the state was lost or restored",
}


def _detail(detail: str) -> str:
    """Return the reason of a doubt in words, or the name of a person."""
    kind, _, subject = detail.partition(" ")
    return _DOUBTS[kind](subject) if kind in _DOUBTS else detail


def event(kind: str, subject: str, detail: str) -> str:
    """Return the line of an event in the history: what happened, the domain, and the reason or the person."""
    if kind == "doubt-switch":
        return f"doubt begins: every domain ({_SWITCHED.get(subject, printable(subject))})"
    of_many = "many domains" if kind in {"doubt-begins", "doubt-ends"} else "every domain"
    domain = of_many if subject == ALL_DOMAINS else printable(subject)
    return f"{_EVENTS.get(kind, kind)}: {domain}{f' ({printable(_detail(detail))})' if detail else ''}"


def doubt_alarm(group: DoubtGroup) -> str:
    """Return the message that domains have been in doubt for long."""
    since = f" since {moment(group.since)}" if group.since else ""
    return f"in doubt{since}, unknown recipients get 450: {doubt_domains(group)}: {doubt_reason_of(group)}"


def doubt_not_in_force(table: str, error: str) -> str:
    """Return the message that the doubt table could not be published."""
    return f"the doubt table {table} is not in force, removals are held: {error}"


def lag(domain: Lag) -> str:
    """Return how long a new mailbox of a relay domain may be refused at most."""
    if domain.seconds is None:
        return "how long a new mailbox may be refused is not known: no agent runs, and no two runs are recorded"
    if not domain.by_agent:
        longest = spell_seconds(domain.seconds)
        return f"a new mailbox may be refused for {longest}, the longest time between the last runs"
    if not domain.seconds:
        return f"a new mailbox may be refused for some seconds: source {domain.source} is watched"
    return f"a new mailbox may be refused for {spell_seconds(domain.seconds)}, until source {domain.source} is asked"


# --- the first line


def failing_source(name: str, since: float, data_from: float) -> str:
    """Return the message that a source fails, with the start of the failure and the time of the data in use."""
    failing = f"source {name} failing{f' since {moment(since)}' if since else ''}"
    return f"{failing}, using its data of {moment(data_from)}" if data_from else f"{failing}, it has no data yet"


def held_briefly(holds: Iterable[Hold], catch_alls: Collection[str], canaries: Iterable[str]) -> list[str]:
    """Return short messages for holds, held catch-alls and absent canaries.

    Holds that only wait for a failing source are left out.
    """
    held_ = [f"{held(hold)} held{f' ({hold.id})' if hold.id else ''}" for hold in holds if not hold.waits]
    absent = [f"canary {canary} in no source" for canary in canaries]
    return held_ + ([f"{counted(len(catch_alls), 'catch-all')} held"] if catch_alls else []) + absent


def warning(facts: Sequence[str]) -> str:
    """Return the warning to append to the first line, with at most 3 facts; "" if there are none."""
    more = f"; and {counted(len(facts) - _SHOWN, 'more warning')}" if len(facts) > _SHOWN else ""
    return f". WARNING: {'; '.join(facts[:_SHOWN])}{more}" if facts else ""


# --- stale sources


def stale_source(name: str, age: float | None, max_age: float, error: str, *, attempted: bool) -> str:
    """Return the message that a source's data is older than ``max_age``, with the reason. Ages are in seconds.

    ``age`` is None if no fetch has succeeded, and 0 if the last one is in the future.
    """
    if age is None:
        state = "was never fetched"
    else:
        state = f"is {spell_seconds(age)} old" if age else "was recorded by a clock that was ahead"
    why = f": {error}" if error else "" if attempted else ": no run has been yet"
    return f"data of source {name} {state} (schedule.max_age {spell_seconds(max_age)}){why}"


# --- the age of data


def outdated_source(name: str, made: float, at: float) -> str:
    """Return the message that a source's data is outdated: since when, and when the data was made, if it is known."""
    origin = f", made {moment(made)}" if made else ""
    return f"data of source {name} is outdated since {moment(at)}{origin}: does the program that makes it still run?"


def outdated_briefly(name: str, at: float) -> str:
    """Return the short message that a source's data is outdated."""
    return f"data of source {name} outdated since {moment(at)}"


def made_before(name: str, made: float, before: float) -> str:
    """Return the error that a text was made before the last one that was read. ``name`` is its name, or ""."""
    text = f"made {machine_moment(made)}, before the last one that was read ({machine_moment(before)})"
    return f"{name or 'the list'} was {text}: it is an old one; run the program that makes it again"


def rejected_counts(rejected: int, held: int, ignored: int) -> str:
    """Return how many rejected entries are held, approved and ignored: ``3 rejected entries: 1 held, 2 approved``."""
    parts = ((held, "held"), (rejected - held - ignored, "approved"), (ignored, "ignored by the key ignore"))
    shown = ", ".join(f"{count:,} {what}" for count, what in parts if count > 0)
    return f"{entries(rejected, 'rejected ')}{f': {shown}' if shown else ''}"


def refused_keys(count: int) -> str:
    """Return how many keys a source refuses itself: ``3 keys whose right side refuses mail, no recipients``."""
    return f"{counted(count, 'key')} whose right side refuses mail, no {'recipient' if count == 1 else 'recipients'}"


def mostly_rejected(rejected: int, others: int, first: Reject) -> str:
    """Return the message that more than half of a source's entries cannot be read as recipients."""
    count = f"{rejected:,} of its {entries(rejected + others)}"
    why = "more than half: is it the right file, column, attribute or format?"
    return f"{count} cannot be read as recipients, {why} Such as {rejected_entry(first)}"


def none_is_an_address(count: int, first: Sequence[Reject], shape: str) -> str:
    """Return the message that no entry of a source is an address, with the first ones, and their likely shape."""
    guess = f" It looks like {shape}." if shape else ""
    such = "Such as" if count > len(first) else "These are" if count > 1 else "This is"
    shown = "; ".join(map(rejected_entry, first))
    text = f"none of its {entries(count)} is an address: is it the right file, attribute or format?"
    return f"{text}{guess} {such} {shown}"


def none_for_us(count: int, causes: Mapping[str, int]) -> str:
    """Return the message that a source has no recipient. ``count`` of its entries are none; ``causes`` say why.

    An entry without a cause is no recipient by its kind.
    """
    if why := "; ".join(f"{number:,} {cause}" for cause, number in causes.items() if cause and number):
        return f"it has {entries(count)}, and none is for us: {why}"
    if count:
        return f"it has {entries(count)}, and none is for us; if that is right, set allow_empty = true"
    return "it has no entry at all, as after a lost read right; if none is right, set allow_empty = true"


# --- the first run


def nothing_published(lacks: Sequence[str], command: str) -> str:
    """Return the message that no map is published yet, with what is missing and the command that shows more."""
    missing = f": {'; '.join(lacks)}" if lacks else ""
    return f"nothing is published yet{missing}: {command}"


def lack(what: Lack) -> str:
    """Return the message for an obstacle to a first run."""
    match what.kind:
        case "source":
            return f"the source {what.subject} is not whole: {what.detail}"
        case "domain":
            return f"the relay domain {what.subject} has no recipient"
        case "canary":
            return f"the canary {what.subject} is in no source"
        case "rejected":
            first = f", such as {rejected_entry(what.reject)}" if what.reject else ""
            return f"source {what.subject} has {entries(what.count)} that cannot be read as recipients{first}"


# --- notes


def note(fact: Note) -> str:
    """Return the message for a note."""
    return _NOTES[fact.kind].format(subject=fact.subject, count=fact.count, before=fact.before, detail=fact.detail)


_NOT_OURS = "{subject} is not the map that state.db records"
_NOTES: dict[NoteKind, str] = {
    "state-empty": "{subject} was empty: begun anew",
    "state-damaged": "state.db was damaged ({detail}): set aside as {subject} and begun anew",
    "kept-list-damaged": "{detail}; the grace of what was kept starts anew",
    "published-list-damaged": "{detail}; what is published is read from the map",
    "snapshot-lost": "the last list of the source {subject} is lost: {detail}; fetching it whole",
    "snapshot-damaged": "source {subject}: its last list is damaged: {detail}; the next run fetches it whole",
    "changes-differ": (
        "source {subject}: asked for everything, it differs in {count} addresses from what its changes had come to,"
        " such as {detail}; the whole answer counts"
    ),
    "map-changed": f"{_NOT_OURS}: its recipients stay until the usual limits let them go; a copy is {{detail}}",
    "map-changed-dry": f"{_NOT_OURS}: a run would copy it; its recipients stay until the usual limits let them go",
    "map-lines-unusable": "{count} lines of {subject} are no recipients and are not carried over",
    "list-differs": (
        "source {subject} has {count} recipients that its last answer lacked: they stay; the next run fetches it whole"
    ),
    "not-confirmed": (
        "source {subject} could not be asked for recipients that it no longer lists ({detail}): {count} stay for now"
    ),
    "keys-refuse": (
        "source {subject} has keys whose right side refuses mail ({count}, such as {detail}): they are no recipients"
        " (syncagent explain ADDRESS); those that were published leave the map as any other removal does"
    ),
    "now-readable": (
        "source {subject} has entries that were approved as no recipients, and can be read now ({count}, such as"
        " {detail}): they are published, and the approval has ended; if they are none, remove them from the source"
    ),
    "domain-empty": "{subject} has no recipient: Postfix refuses all its mail",
    "made-ahead": (
        "source {subject}: its data says that it was made {detail} after it was read; the time of reading counts."
        " Set the clock of the host that makes it"
    ),
    "state-lost": (
        "the state was lost: {subject} shows that the map was published by a state that is gone; every removal is held"
    ),
    "state-restored": (
        "the state is an older copy: {subject} shows that the map was published since; every removal is held"
    ),
    "clock-unset": (
        "the clock of this host is not set, it says {subject}: nothing is removed; timedatectl set-ntp true"
    ),
    "clock-behind": (
        "the clock says {subject}, and said {detail} in the last run: this run removes nothing;"
        " if the time is wrong now: timedatectl set-ntp true"
    ),
}
