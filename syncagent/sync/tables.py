"""The tables that a run publishes: recipients, and relay domains where postfix.domains_map is set."""

from __future__ import annotations

import contextlib
from collections import Counter
from typing import TYPE_CHECKING

from msgspec import Struct
from msgspec.structs import replace

from syncagent.errors import UnansweredError
from syncagent.files import atomic, pipeline
from syncagent.model import SAMPLE, Plan, Reject
from syncagent.postfix import publish
from syncagent.postfix import table_text as mapfile
from syncagent.postfix.table import Identities, Target
from syncagent.sync import removals
from syncagent.sync.diff import head
from syncagent.sync.existing_map import reading
from syncagent.sync.relay_domains import canonical

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from pathlib import Path

    from syncagent.config.tables import Postfix
    from syncagent.state.opened import State
    from syncagent.state.records import Finished
    from syncagent.sync.diff import Diff
    from syncagent.sync.plan import Decision
    from syncagent.sync.run import Progress, Run

_FEW_REFUSED = 10


def in_text(text: Path) -> frozenset[str]:
    """Return the domains that a map's text has, as another hand may have written it; none if it does not exist."""
    return frozenset(key for key in _keys_in(text) if not key.startswith("."))


def _keys_in(text: Path) -> Iterator[str]:
    """Yield the domains, and ``.example.com`` for all below one (parent_domain_matches_subdomains, postconf(5))."""
    with contextlib.suppress(FileNotFoundError), atomic.open_foreign(text) as file:
        for _, line in mapfile.logical_lines(atomic.lines_of(file)):
            parts = mapfile.split(line)
            key = parts[0].decode(errors="replace") if parts and parts[1] else ""
            domain = canonical(key.removeprefix(".")) if "@" not in key else ""
            if domain:
                yield f".{domain}" if key.startswith(".") else domain


class DomainsTable:
    """The second table: domains, one a key."""

    def __init__(self, postfix: Postfix, spool: Path, progress: Callable[[str, int], None]) -> None:
        """Work out the names; no file needs to exist."""
        assert postfix.domains_map is not None  # noqa: S101 - the caller has checked
        self._target = Target(postfix.settings(postfix.domains_map))
        self._spool, self._progress = spool, progress

    def known(self, last: Finished | None) -> frozenset[str]:
        """Return the domains in the table: those on record, and those that another hand may have written.

        Raise PublishError where it exists and cannot be read.
        """
        recorded = frozenset(last.domains) if last else frozenset()
        if last and last.domain_identities and self._target.text_on_record(last.domain_identities):
            return recorded
        with reading(self._target.text):
            return recorded.union(_keys_in(self._target.text))

    def on_record(self, last: Finished, domains: Iterable[str]) -> bool:
        """True if the table is as it was left, and is to have the same domains."""
        return sorted(last.domains) == sorted(domains) and self._target.on_record(last.domain_identities)

    def publish(self, domains: Iterable[str], last: Finished | None) -> Identities:
        """Publish these domains; ``last`` is what was left there. Raise PublishError."""
        self._target.sweep()
        lines = pipeline.write_plain(self._spool / "domains", (f"{domain}\n".encode() for domain in sorted(domains)))
        identities = publish.publish(self._target, lines, self._spool, self._progress)
        publish.remove_stale(last.domain_identities if last else None, identities)
        publish.reload(self._target)
        return identities


class Published(Struct, frozen=True):
    """Both tables as they are after a run: the plan as it was carried out, identities, whether one was written."""

    plan: Plan
    identities: Identities
    domain_identities: Identities | None
    written: bool


class Tables:
    """The tables of a run."""

    def __init__(self, postfix: Postfix, state: State, progress: Progress) -> None:
        """Work out the names, and remove what a killed run left beside the table of recipients."""
        self.recipients = Target(postfix.settings())
        self.domains = DomainsTable(postfix, state.spool, progress) if postfix.domains_map else None
        self._last, self._spool, self._progress = state.finished, state.spool, progress
        state.sweep(self.recipients)

    def known_domains(self) -> frozenset[str] | None:
        """Return the domains in the table of domains, None if there is no such table. Raise PublishError."""
        return self.domains.known(self._last) if self.domains else None

    def on_record(self) -> bool:
        """True if both tables are as the last finished run left them."""
        last = self._last
        return last is not None and self.recipients.on_record(last.identities) and self._domains_stay(last.domains)

    def _domains_stay(self, names: Sequence[str]) -> bool:
        """True if the table of domains is as it was left, and is to have the same; or if there is none, as before."""
        if self._last is None:
            return False
        return self.domains.on_record(self._last, names) if self.domains else not self._last.domains

    def publish(self, decision: Decision) -> Published:
        """Publish both tables as far as they change: a new domain after its recipients, a leaving one before them.

        Raise PublishError.
        """
        last, table = self._last, self.domains
        plan, diff, names = decision.plan, decision.diff, decision.diff.relay_domains
        domains_stay = self._domains_stay(names)
        stays = last and not plan.added and not plan.removed and self.recipients.on_record(last.identities)
        second = last.domain_identities if last else None
        staying = set(names) - set(plan.domains_added)
        if table and not domains_stay and plan.domains_removed and staying:
            second = table.publish(staying, last)
        if last and stays:
            identities = last.identities
        else:
            plan, identities = self._publish_recipients(plan, diff, decision.run)
        if table and not domains_stay:
            second = table.publish(names, last)
        return Published(plan, identities, second if table else None, written=not (stays and domains_stay))

    def _publish_recipients(self, plan: Plan, diff: Diff, run: Run) -> tuple[Plan, Identities]:
        """Publish; new recipients that Postfix does not answer for become rejects, and staging is done once more."""
        try:
            identities = publish.publish(self.recipients, diff.next_published, self._spool, self._progress)
        except UnansweredError as error:
            plan = _without(error, diff, plan, run)
            identities = publish.publish(self.recipients, diff.next_published, self._spool, self._progress)
        publish.remove_stale(self._last.identities if self._last else None, identities)
        publish.reload(self.recipients)
        return plan, identities


def _without(error: UnansweredError, diff: Diff, plan: Plan, run: Run) -> Plan:
    """Return the plan without the refused keys, which become rejects.

    Raise ``error`` again where one of them was published before, or where they are so many that the index must be
    wrong: postmap exits 0 on a full disk too.
    """
    keys = (mapfile.recipient(key + b" OK", {}) for key in error.keys)
    refused = frozenset((key or "").encode() for key in keys)
    few = max(_FEW_REFUSED, plan.after // 100)
    if len(refused) > few or len(refused) >= plan.after or not diff.all_new(refused):
        raise error
    diff.leave_out(refused)
    run.rejects.extend(Reject(key.decode(), "Postfix does not answer for it") for key in sorted(refused))
    less = Counter(diff.scope.group(address)[0] for address in refused)
    return replace(removals.without(plan, less), added_sample=head(diff.added, SAMPLE))
