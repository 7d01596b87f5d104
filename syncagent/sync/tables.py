"""The tables that a run publishes: recipients, and relay domains if postfix.domains_map is set."""

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
from syncagent.sync import removals, state_loss
from syncagent.sync.diff import head
from syncagent.sync.doubt_table import DoubtTable, NoDoubtTable, RecordedDoubt
from syncagent.sync.existing_map import reading
from syncagent.sync.relay_domains import canonical
from syncagent.values.types import state_file

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from pathlib import Path

    from syncagent.config.tables import Config, Postfix
    from syncagent.state.opened import State
    from syncagent.state.records import Finished
    from syncagent.sync.diff import Diff
    from syncagent.sync.plan import Decision
    from syncagent.sync.run import Progress, Run

_FEW_REFUSED = 10


def in_text(text: Path) -> frozenset[str]:
    """Return the domains in a table's text, without keys such as ``.example.com``; empty if it does not exist.

    Raises OSError if the text cannot be read.
    """
    return frozenset(key for key in _keys_in(text) if not key.startswith("."))


def _keys_in(text: Path) -> Iterator[str]:
    """Yield the domains in a table's text, and keys such as ``.example.com``, which match subdomains (postconf(5))."""
    with contextlib.suppress(FileNotFoundError), atomic.open_foreign(text) as file:
        for _, line in mapfile.logical_lines(atomic.lines_of(file)):
            parts = mapfile.split(line)
            key = parts[0].decode(errors="replace") if parts and parts[1] else ""
            domain = canonical(key.removeprefix(".")) if "@" not in key else ""
            if domain:
                yield f".{domain}" if key.startswith(".") else domain


class DomainsTable:
    """The table of relay domains, postfix.domains_map: each key is a domain."""

    def __init__(self, postfix: Postfix, spool: Path, progress: Callable[[str, int], None]) -> None:
        """Resolve the file names of postfix.domains_map, which must be set. No file needs to exist."""
        assert postfix.domains_map is not None  # noqa: S101 - the caller checks it
        self._target = Target(postfix.settings(postfix.domains_map))
        self._spool, self._progress = spool, progress

    def known(self, last: Finished | None) -> frozenset[str]:
        """Return the recorded domains, and those in the text if syncagent did not write it.

        Raises PublishError if the text exists and cannot be read.
        """
        recorded = frozenset(last.domains) if last else frozenset()
        if last and last.domain_identities and self._target.text_on_record(last.domain_identities):
            return recorded
        with reading(self._target.text):
            return recorded.union(_keys_in(self._target.text))

    def on_record(self, last: Finished, domains: Iterable[str]) -> bool:
        """True if the table is unchanged since the run ``last``, and ``domains`` are those recorded by it."""
        return sorted(last.domains) == sorted(domains) and self._target.on_record(last.domain_identities)

    def publish(self, domains: Iterable[str], last: Finished | None) -> Identities:
        """Publish these domains and return the identities of the files. Raises PublishError."""
        self._target.sweep()
        lines = pipeline.write_plain(self._spool / "domains", (f"{domain}\n".encode() for domain in sorted(domains)))
        identities = publish.publish(self._target, lines, self._spool, self._progress)
        publish.remove_stale(last.domain_identities if last else None, identities)
        publish.reload(self._target)
        return identities


class Published(Struct, frozen=True):
    """The tables after publishing: executed plan, identities of their files. ``written``: a table was written."""

    plan: Plan
    identities: Identities
    domain_identities: Identities | None
    written: bool


def _doubt_table(config: Config, state: State, run: Run, progress: Progress) -> NoDoubtTable:
    if config.postfix.doubt_map is None:
        return NoDoubtTable()
    return RecordedDoubt(state.doubt) if state.is_dry else DoubtTable(config, state, run, progress)


class Tables:
    """The tables of a run: ``recipients``, ``domains`` if postfix.domains_map is set, ``doubt`` if doubt_map is set."""

    def __init__(self, config: Config, state: State, run: Run, progress: Progress) -> None:
        """Resolve the file names. Except in a dry run, remove staging directories of killed runs beside the map."""
        postfix = config.postfix
        self.recipients = Target(postfix.settings())
        self.doubt = _doubt_table(config, state, run, progress)
        self.domains = DomainsTable(postfix, state.spool, progress) if postfix.domains_map else None
        self._last, self._spool, self._progress = state.finished, state.spool, progress
        self._state, self.state_file = state, state_file(postfix.map.path)
        state.sweep(self.recipients)

    def known_domains(self) -> frozenset[str] | None:
        """Return the domains in the table of domains, None if postfix.domains_map is not set.

        Raises PublishError if the table exists and cannot be read.
        """
        return self.domains.known(self._last) if self.domains else None

    def recipients_changed(self) -> bool:
        """True if the published table of recipients is not as the last finished run left it."""
        last = self._last
        return last is not None and not self.recipients.files_on_record(last.identities)

    def on_record(self) -> bool:
        """True if both tables are unchanged since the last finished run."""
        last = self._last
        return last is not None and self.recipients.on_record(last.identities) and self._domains_stay(last.domains)

    def _domains_stay(self, names: Sequence[str]) -> bool:
        """True if the table of domains need not be written: same file and names, or not used now and before."""
        if self._last is None:
            return False
        return self.domains.on_record(self._last, names) if self.domains else not self._last.domains

    def publish(self, decision: Decision) -> Published:
        """Publish the tables that change. Return them as they are afterwards.

        A new domain is published after its recipients; a leaving domain is removed before them. Raises PublishError.
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
        """Publish the recipients. Return the plan and the identities of the files.

        If the index lacks keys of new recipients, these become rejects, and publishing is retried once.
        """
        try:
            identities = self._rename_recipients(diff)
        except UnansweredError as error:
            plan = _without(error, diff, plan, run)
            identities = self._rename_recipients(diff)
        self.doubt.renamed()
        state_loss.write_file(self.state_file, self._state, plan)
        publish.remove_stale(self._last.identities if self._last else None, identities)
        publish.reload(self.recipients)
        return plan, identities

    def _rename_recipients(self, diff: Diff) -> Identities:
        """Publish the file of the next recipients. The intent is recorded before the rename."""
        diff.check_next_published()
        return publish.publish(
            self.recipients, diff.next_published, self._spool, self._progress, intend=self._state.intend
        )


def _without(error: UnansweredError, diff: Diff, plan: Plan, run: Run) -> Plan:
    """Return the plan without the recipients that the index lacks, which become rejects.

    Raises ``error`` if the index must be incomplete, since postmap(1) exits 0 even on a full disk. This is so if any of
    them was published before, if they are more than 10 and more than 1% of the recipients, or if they are all of them.
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
