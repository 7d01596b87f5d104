"""Checks of the restrictions of main.cf that ask the doubt table.

They are at the end of smtpd_sender_restrictions: the map, by which the list ends for known recipients, the doubt table,
and reject_unlisted_recipient, whose 550 becomes 450 for what is in doubt (access(5), DEFER_IF_REJECT).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from syncagent.checks.finding import Needs, Person, Shell, error, ok, warning
from syncagent.files import atomic as files
from syncagent.postfix import doubt_lines, doubt_table, restrictions
from syncagent.postfix.commands import CommandError
from syncagent.postfix.restrictions import EARLIER, LATER, LISTS, RECIPIENT_ACCESS, SENDER, UNLISTED
from syncagent.postfix.table import is_same_file, is_same_table
from syncagent.values.types import TableName

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from syncagent.checks.context import Context
    from syncagent.checks.finding import Finding, Step
    from syncagent.postfix.restrictions import Rule
    from syncagent.values.types import MapName

_EVERY_LIST = (*EARLIER, SENDER, *LISTS, *LATER)
"""The restriction lists in the order in which smtpd evaluates them."""
IN_VAIN = "unknown recipients get 550 even in doubt"
_PERMITS = re.compile(r"\s(ok|permit\w*)(\s|$)", re.IGNORECASE | re.MULTILINE)
_LISTABLE = ("hash", "btree", "lmdb", "dbm", "inline")


@dataclass(frozen=True)
class Lines:
    """The restrictions of main.cf, by list, and the two tables that they ask."""

    rules: dict[str, list[Rule]]
    map: MapName
    doubt: MapName
    delayed: bool

    @classmethod
    def of(cls, context: Context, doubt: MapName) -> Lines:
        """Return the restrictions of main.cf. Raises CommandError if postconf(1) cannot expand a restriction class."""
        rules = {name: restrictions.rules(context.live, name) for name in _EVERY_LIST}
        return cls(rules, context.config.postfix.map, doubt, restrictions.is_delayed(context.live))

    def asks(self, rule: Rule) -> bool:
        """True if a restriction asks the doubt table, by any type."""
        return rule.name == RECIPIENT_ACCESS and is_same_file(rule.argument, self.doubt)

    def asks_the_map(self, rule: Rule) -> bool:
        """True if a restriction asks the map, by any type."""
        return rule.name == RECIPIENT_ACCESS and is_same_file(rule.argument, self.map)

    @property
    def places(self) -> list[tuple[str, Rule]]:
        """The restrictions that ask the doubt table, with their lists."""
        return [(name, rule) for name, rules in self.rules.items() for rule in rules if self.asks(rule)]

    @property
    def list(self) -> str:
        """The list in which the doubt table takes effect; "" if there is none.

        That is the list for senders if reject_unlisted_recipient follows there, else one of those for recipients.
        """
        sender = self.rules[SENDER]
        at = next((at for at, rule in enumerate(sender) if self.asks(rule)), len(sender))
        if any(rule.name == UNLISTED for rule in sender[at:]):
            return SENDER
        return next((name for name in LISTS if any(map(self.asks, self.rules[name]))), "")

    def before(self) -> Iterator[tuple[str, Rule]]:
        """Yield the restrictions that smtpd evaluates for a recipient before the doubt table takes effect."""
        for name in _EVERY_LIST:
            if not self.delayed and name in {*EARLIER, SENDER}:
                continue
            for rule in self.rules[name]:
                if name == self.list and self.asks(rule):
                    return
                yield name, rule


# --- the lines


def is_asked(context: Context) -> Iterator[Finding]:
    """Yield a finding if main.cf does not ask the doubt table as it should, or asks one that is nobody's.

    Raises CommandError if postconf(1) cannot expand a restriction class.
    """
    doubt = context.config.postfix.doubt_map
    if doubt is None:
        yield from _of_nobody(context)
        return
    lines = Lines.of(context, doubt)
    of_another_type = [(name, rule) for name, rule in lines.places if rule.argument != str(doubt)]
    if not lines.places:
        yield error(str(doubt), f"main.cf does not name it: {IN_VAIN}", *_all_lines(context, lines))
    elif of_another_type and not all(is_same_table(rule.argument, doubt) for _, rule in of_another_type):
        name, rule = of_another_type[0]
        text = f"{name} has {rule.argument}, but {doubt} is what is written: {IN_VAIN}"
        yield error(str(doubt), text, *_all_lines(context, lines))
    elif any(rule.argument.startswith("proxy:") for _, rule in of_another_type):
        text = "main.cf names it by way of proxy:, which notices a new table late, if it may open it at all"
        yield error(str(doubt), text, *_all_lines(context, lines))
    elif not lines.list:
        name = lines.places[0][0]
        text = f"the doubt table is asked there, but {UNLISTED} does not follow: {IN_VAIN}"
        yield error(name, text, *_all_lines(context, lines))
    elif lines.list == SENDER:
        yield from _in_order(context, lines)
    else:
        yield from _second_best(context, lines)


def _of_nobody(context: Context) -> Iterator[Finding]:
    """Yield an error for each doubt table in main.cf if postfix.doubt_map is not set: nobody keeps it current."""
    for name in _EVERY_LIST:
        rules = restrictions.rules(context.live, name)
        for at, rule in enumerate(rules):
            around = rules[max(at - 1, 0) : at + 2]
            if rule.name == RECIPIENT_ACCESS and (_in_the_middle(context, around) or _is_written_by_us(rule.argument)):
                table = TableName.parse(rule.argument)
                text = f"{name} asks it as a doubt table, but postfix.doubt_map is not set: nobody keeps it current"
                yield error(str(table), text, context.setting("doubt_map", f"lmdb:{table.rest}"), context.sync)


def _in_the_middle(context: Context, rules: list[Rule]) -> bool:
    """True if these restrictions are as those of a doubt table: the map, a table, and reject_unlisted_recipient."""
    if [rule.name for rule in rules] != [RECIPIENT_ACCESS, RECIPIENT_ACCESS, UNLISTED]:
        return False
    return is_same_file(rules[0].argument, context.config.postfix.map)


def _is_written_by_us(table: str) -> bool:
    """True if the text of a table is a doubt table of syncagent."""
    path = TableName.parse(table).path
    try:
        with files.open_foreign(path or Path()) as file:
            first = file.readline(len(doubt_table.HEADER))
    except OSError:
        return False
    return first == doubt_table.HEADER or first.startswith(b"# doubt-all of ")


def _in_order(context: Context, lines: Lines) -> Iterator[Finding]:
    """Yield a finding for what is wrong with the three restrictions, which smtpd_sender_restrictions has."""
    sender, remedy = lines.rules[SENDER], _all_lines(context, lines)
    at = next(at for at, rule in enumerate(sender) if lines.asks(rule))
    known = next((at for at, rule in enumerate(sender[:at]) if lines.asks_the_map(rule)), None)
    if not lines.delayed:
        text = f"no: senders are judged before there is a recipient, and the doubt table is not asked: {IN_VAIN}"
        by_recipients = _second_best_lines(context, lines, "or, where it must stay so,")
        yield error("smtpd_delay_reject", text, context.postconf("smtpd_delay_reject", "yes"), by_recipients)
    if known is None:
        text = f"{RECIPIENT_ACCESS} {lines.map} does not come before the doubt table: if that is missing or broken,"
        yield warning(SENDER, f"{text} known recipients get 451 as well", *remedy)
    else:
        yield from _map_is_right(context, lines, sender[known])
        others = [rule.text for rule in sender[known:] if not _is_of_doubt(lines, rule)]
        if others:
            text = f"{', '.join(others)}: skipped for known recipients, since it comes after {sender[known].text}"
            yield warning(SENDER, text, *remedy)
    for name in (*EARLIER, *LISTS, *LATER):
        if any(map(lines.asks, lines.rules[name])):
            text = "the doubt table is asked there as well: later rejects of known recipients get 450"
            yield warning(name, text, _without(context, lines, name))


def _map_is_right(context: Context, lines: Lines, rule: Rule) -> Iterator[Finding]:
    """Yield an error if the restriction that asks the map has another type, or a proxy: that may be refused."""
    if not is_same_table(rule.argument, lines.map):
        text = f"it has {rule.argument}, but {lines.map} is what is written: recipients may be missing there"
        yield error(SENDER, text, *_all_lines(context, lines))
    elif rule.argument.startswith("proxy:") and rule.argument not in context.live.listed("relay_recipient_maps"):
        text = f"it has {rule.argument}, which proxy_read_maps does not permit: smtpd stops there"
        yield error(SENDER, text, *_all_lines(context, lines))


def _second_best(context: Context, lines: Lines) -> Iterator[Finding]:
    """Yield a warning that the doubt table is asked in a list for recipients; "ok" if it has to be."""
    if not lines.delayed:
        yield ok(lines.list, "the doubt table is asked there, since smtpd_delay_reject is no")
        return
    text = (
        f"the doubt table is asked there: if it is missing or broken, known recipients get 451 as well, and while a"
        f" domain is in doubt, later rejects of its known recipients get 450; it belongs at the end of {SENDER}"
    )
    yield warning(lines.list, text, *_all_lines(context, lines))


def is_not_bypassed(context: Context) -> Iterator[Finding]:
    """Yield a finding for what takes effect before the doubt table, or makes another code of its 450.

    Raises CommandError if postconf(1) cannot expand a restriction class.
    """
    doubt = context.config.postfix.doubt_map
    lines = Lines.of(context, doubt) if doubt else None
    if lines is None or not lines.list or (lines.list == SENDER and not lines.delayed):
        return
    code = context.live.values.get("access_map_defer_code", "450")
    if not code.startswith("4"):
        text = f"{code}: what is in doubt gets {code} instead of 450"
        yield error("access_map_defer_code", text, context.postconf("access_map_defer_code", "450"))
    for name, rule in lines.before():
        if rule.only_warns:
            continue
        if rule.name == UNLISTED:
            text = f"{UNLISTED} comes before the doubt table is asked: {IN_VAIN}"
            yield error(name, text, _without(context, lines, name))
        elif name == lines.list and rule.name == "permit":
            last = rule.start == max(other.start for other in _of_the_host(lines, name)) and not rule.of_class
            remedy = _without(context, lines, name) if last and name == SENDER else _elsewhere(lines, rule)
            yield error(name, f"permit comes before the doubt table is asked: {IN_VAIN}", remedy)
        elif name == lines.list and not lines.asks_the_map(rule) and _may_permit(context, rule):
            text = f"{rule.text} comes before the doubt table is asked: {IN_VAIN} from whom it permits"
            yield warning(name, text, _elsewhere(lines, rule))


def _elsewhere(lines: Lines, rule: Rule) -> Person:
    return Person(text=f"take {rule.text} out of {rule.of_class or lines.list}: as a rule {EARLIER[0]} is its place")


def _may_permit(context: Context, rule: Rule) -> bool:
    """True if a restriction permits some clients or senders: by its name, or by a value of its access table."""
    if rule.name.startswith("permit"):
        return True
    return rule.name.startswith("check_") and rule.name.endswith("_access") and _has_ok(context, rule.argument)


def _has_ok(context: Context, table: str) -> bool:
    """True if an access table has a value that permits, or if its values cannot be listed."""
    name = TableName.parse(table)
    try:
        if name.type in _LISTABLE:
            lines = context.live.ask("postmap", "-s", str(name)).splitlines()
            return any(restrictions.action(line.partition("\t")[2]) == "ok" for line in lines)
        if name.type in {"cidr", "pcre", "regexp", "texthash"}:
            text = files.read_foreign_text(name.rest, files.MOST_OF_A_LIST, "replace").splitlines()
            return any(_PERMITS.search(line) for line in text if not line.startswith("#"))
    except (CommandError, OSError):
        return True
    return True


# --- remedies


def _all_lines(context: Context, lines: Lines) -> tuple[Step, ...]:
    """Return the commands by which main.cf asks the doubt table in the right place, and nowhere else.

    `sync` comes first until there is a table: an smtpd that starts without it answers 451 for a while.
    """
    there = context.target(lines.doubt).index(doubt_table.SUFFIX).exists()
    classes = {rule.of_class for rule in _of_the_host(lines, SENDER)} - {""}
    inside = [rule for rule in lines.rules[SENDER] if rule.of_class in classes and _is_of_doubt(lines, rule)]
    others = [name for name in (*EARLIER, *LISTS, *LATER) if any(map(lines.asks, lines.rules[name]))]
    delay = [] if lines.delayed or lines.list not in {"", SENDER} else [context.postconf("smtpd_delay_reject", "yes")]
    return (
        *([] if there else [context.sync]),
        *(Person(text=f"take {rule.text} out of {rule.of_class}") for rule in inside),
        _sender_list(context, lines),
        *delay,
        *(_without(context, lines, name) for name in others),
    )


def _is_of_doubt(lines: Lines, rule: Rule) -> bool:
    return lines.asks(rule) or lines.asks_the_map(rule) or rule.name == UNLISTED


def _of_the_host(lines: Lines, name: str) -> list[Rule]:
    """Return the restrictions of a list that are not those of the doubt table."""
    return [rule for rule in lines.rules[name] if not _is_of_doubt(lines, rule)]


def _sender_list(context: Context, lines: Lines) -> Shell:
    """Return the command that puts the three restrictions at the end of smtpd_sender_restrictions; the others stay."""
    value, spelled = " ".join(context.live.listed(SENDER)), context.live.listed_raw(SENDER)
    return context.postconf(SENDER, doubt_lines.with_doubt(value, lines.map, lines.doubt, spelled, exact=True))


def _second_best_lines(context: Context, lines: Lines, when: str) -> Shell:
    name = LISTS[-1]
    kept = _kept(context, name, [rule for rule in lines.rules[name] if not lines.asks(rule)])
    command = context.postconf(name, ", ".join([f"{RECIPIENT_ACCESS} {lines.doubt}", *kept])).command
    return Shell(command=command, when=when, needs=Needs.RELOAD)


def _without(context: Context, lines: Lines, name: str) -> Step:
    """Return the command that removes from a list what asks the doubt table, and what rejects before it is asked."""
    if name == SENDER:
        return _sender_list(context, lines)
    gone = [rule for rule in lines.rules[name] if lines.asks(rule) or (rule.name == UNLISTED and name not in LATER)]
    inside = next((rule for rule in gone if rule.of_class), None)
    if inside:
        return Person(text=f"take {inside.text} out of {inside.of_class}")
    return context.postconf(name, ", ".join(_kept(context, name, [r for r in lines.rules[name] if r not in gone])))


def _kept(context: Context, name: str, rules: Iterable[Rule]) -> list[str]:
    """Return the text of these restrictions as main.cf spells them."""
    raw = context.live.listed_raw(name)
    return list(dict.fromkeys(" ".join(raw[rule.start : rule.stop]) for rule in rules))
