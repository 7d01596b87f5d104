"""The check of domains with recipients in the sources that are no relay domains, though DNS leads their mail here."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING

from syncagent.checks.context import server_name
from syncagent.checks.finding import Check, File, Person, error, skipped, warning
from syncagent.postfix import mx_here
from syncagent.postfix.dns_client import Names, NoAnswerError, SilentError
from syncagent.state import messages, not_relayed, status

if TYPE_CHECKING:
    from collections.abc import Iterator

    from syncagent.checks.context import Context
    from syncagent.checks.finding import Finding
    from syncagent.model import Plan


def domains_not_relayed(context: Context) -> Iterator[Finding]:
    """Yield an error for each domain whose mail is refused here though the sources have recipients in it.

    The domains are those out of scope in the last finished run. DNS is asked; with --offline, the answer counts that
    the agent has recorded.
    """
    finished = context.ledger.finished if context.ledger else None
    if finished is None:
        return
    if context.options.offline:
        agent = status.read_agent(context.config.state.directory)
        standing = status.standing_not_relayed(context.config, agent, finished.plan, time.time())
        yield from _errors(context, finished.plan, standing)
    else:
        yield from _asked(context, finished.plan)


def _asked(context: Context, plan: Plan) -> Iterator[Finding]:
    domains = not_relayed.candidates(plan.out_of_scope, context.scope, context.config.postfix.exclude)
    try:
        found = mx_here.ask(domains, context.live, context.config.postfix.map, Names(context.options.dns))
    except (NoAnswerError, SilentError) as failure:
        server = server_name(context.options.dns) if context.options.dns else "the resolver of this host"
        yield skipped("DNS", f"{server} gives no answer: {failure}; not asked for domains that are not relayed")
        return
    yield from _errors(context, plan, found.leading)
    for domain, why in found.unknown.items():
        remedy = Person(text=f"ask another server: {context.config.command('check', '--dns', 'SERVER')}")
        yield warning(domain, f"whether its mail comes here is not known, and it is not relayed: {why}", remedy)


def _errors(context: Context, plan: Plan, leading: dict[str, str]) -> Iterator[Finding]:
    """Yield an error for each domain. The remedy of each sets the final value."""
    relayed = [*map(str, context.config.postfix.relay_domains), *sorted(leading)]
    for domain, mx in sorted(leading.items()):
        text = (
            f"the sources have {messages.counted(plan.out_of_scope[domain], 'recipient')} in it, and its MX {mx} is"
            " this host, but it is not relayed: its mail is refused here"
        )
        excluded = json.dumps([*map(str, context.config.postfix.exclude), f"@{domain}"])
        unwanted = File(
            path=str(context.config.file),
            section="postfix",
            write=f"exclude = {excluded}",
            when="or, if its mail is to be refused, take the MX record out of its zone, or",
        )
        yield error(domain, text, context.setting("relay_domains", relayed), unwanted)


CHECKS = (
    Check(
        "domain-not-relayed", "No mail comes here for a domain of the sources that is not relayed", domains_not_relayed
    ),
)
