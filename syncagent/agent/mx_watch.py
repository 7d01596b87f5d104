"""The agent's part in domains that are not relayed: it asks DNS for their MX records once a day, in a thread."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING

from syncagent.errors import SyncagentError
from syncagent.postfix.live import LivePostfix, unused_address
from syncagent.state import not_relayed
from syncagent.state.database import reading
from syncagent.state.not_relayed import NotRelayed

if TYPE_CHECKING:
    from collections.abc import Callable

    from syncagent.config.tables import Config

_AGAIN = 3600.0
"""Seconds after which DNS is asked again if it did not answer."""


class MxWatch:
    """Asks DNS for the MX records of domains out of scope. A run never waits for it."""

    def __init__(self, last: NotRelayed, changed: Callable[[], None], report: Callable[[BaseException], None]) -> None:
        """``last`` is the recorded answer. ``changed`` is called when there is another; ``report`` receives errors."""
        self.answer = last
        self._changed, self._report = changed, report
        self._not_before = 0.0
        self._thread: threading.Thread | None = None

    def look(self, config: Config) -> None:
        """Start to ask if a day has passed since the last answer. Does not wait."""
        is_asking = self._thread is not None and self._thread.is_alive()
        if is_asking or time.monotonic() < self._not_before or not self.answer.is_due(time.time()):
            return
        self._thread = threading.Thread(target=self._work, args=(config,), name="MX records", daemon=True)
        self._thread.start()

    def _work(self, config: Config) -> None:
        before = self.answer.domains
        try:
            self._ask(config)
        except (SyncagentError, OSError, ValueError) as error:
            self._not_before = time.monotonic() + _AGAIN
            self._report(error)
        if self.answer.domains != before:
            self._changed()

    def _ask(self, config: Config) -> None:
        """Ask DNS for the domains out of scope of the last finished run. Without such a run nothing is asked."""
        from syncagent.postfix import mx_here
        from syncagent.postfix.dns_client import Names

        with reading(config.state.directory) as ledger:
            finished = ledger.finished
        if finished is None:
            return  # the next run asks
        scope = frozenset(map(str, config.postfix.relay_domains))
        domains = not_relayed.candidates(finished.plan.out_of_scope, scope, config.postfix.exclude)
        now = time.time()
        if not domains:
            self.answer = NotRelayed(now)
            return
        live = LivePostfix(config.postfix.config_directory, lambda: unused_address(min(scope)))
        found = mx_here.ask(domains, live, config.postfix.map, Names(None))
        kept = {domain: mx for domain, mx in self.answer.domains.items() if domain in found.unknown}
        self.answer = NotRelayed(now, {**kept, **found.leading})
