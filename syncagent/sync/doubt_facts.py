"""What a run knows about doubt: from the answers of sources, the recorded state, and the guard. See ``doubt.Facts``."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from syncagent.model import ALL_DOMAINS, DOMAIN_HOLD
from syncagent.state import concerns, snapshot
from syncagent.sync import doubt, rejected

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from syncagent.config.tables import Config
    from syncagent.model import Hold, Reason
    from syncagent.state.identity import Gap
    from syncagent.state.opened import State
    from syncagent.sync.conditions import Condition
    from syncagent.sync.fetch import Fetched
    from syncagent.sync.plan import Decision, Guarded
    from syncagent.sync.relay_domains import Domains


class Concerns:
    """The relay domains that each source concerns, from the mail domains that are recorded of it."""

    def __init__(self, config: Config, state: State, now: float) -> None:
        """``now`` is the time of the run. Nothing is recorded yet."""
        self.config, self.state, self._now = config, state, now

    def save(self, answers: Sequence[Fetched]) -> None:
        """Record the mail domains of each new answer, and of each source that has none recorded."""
        for answer in answers:
            name, path = answer.report.name, answer.snapshot
            known = self.state.concerns(name)
            if path is not None and (answer.report.state == "whole" or not known) and ALL_DOMAINS not in known:
                found = snapshot.mail_domains(path)
                if found - known:
                    self.state.save_concerns(name, found - known)

    def of(self, answers: Iterable[Fetched], scope: frozenset[str]) -> dict[str, frozenset[str]]:
        """Return the relay domains in ``scope`` that these sources concern, by the name of the source."""
        return {answer.report.name: self._of_source(answer, scope) for answer in answers}

    def unlisted(self, answer: Fetched, scope: frozenset[str]) -> frozenset[str]:
        """Return the relay domains in ``scope`` in which a source has recipients that it cannot list.

        ``ALL_DOMAINS`` stands for those that the source concerns.
        """
        named = answer.state.unlisted
        return self._of_source(answer, scope) if ALL_DOMAINS in named else concerns.relayed(named, scope)

    def _of_source(self, answer: Fetched, scope: frozenset[str]) -> frozenset[str]:
        name = answer.report.name
        was_whole = bool(answer.state.last_success)
        return concerns.of_source(self.config, name, self.state.concerns(name), scope, was_whole=was_whole)

    def of_rejects(self, answer: Fetched, scope: frozenset[str]) -> frozenset[str]:
        """Return the relay domains in ``scope`` that the held rejected entries of a source concern."""
        if not answer.rejected.held:
            return frozenset()
        return rejected.concerned(answer.rejected, scope, lambda: self._of_source(answer, scope))

    def is_stale(self, answer: Fetched) -> bool:
        """True if the data of a source that does not fail is older than schedule.max_age, or from the future."""
        age = abs(self._now - answer.state.last_success)
        return not answer.is_failing and age > self.config.max_age(answer.report.name)


def before(sources: Concerns, answers: Sequence[Fetched], domains: Domains) -> doubt.Facts:
    """Return what is known before the lists are compared: by answers, recorded holds and the last plan."""
    config, state, scope = sources.config, sources.state, frozenset(names(domains))
    refusing = (name for name, source in config.sources.items() if source.common.unlisted == "refuse")
    return doubt.Facts(
        domains=names(domains),
        failing=sources.of((answer for answer in answers if answer.is_failing), scope),
        stale=sources.of((answer for answer in answers if sources.is_stale(answer)), scope),
        outdated=sources.of((answer for answer in answers if answer.is_outdated), scope),
        held=_held(state.holds.values()) | _of_all(state.gap),
        plan=state.finished.plan if state.finished else None,
        unlisted={answer.report.name: sources.unlisted(answer, scope) for answer in answers},
        refusing=frozenset(refusing),
        permitted=frozenset(config.postfix.catch_all),
        always=frozenset(map(str, config.postfix.doubt_always)),
        leaving=domains.parting,
        rejected={answer.report.name: sources.of_rejects(answer, scope) for answer in answers},
    )


def with_guard(facts: doubt.Facts, guarded: Guarded, sources: Concerns) -> doubt.Facts:
    """Return the facts with those of this run's plan: held domains, and sources whose list was found damaged."""
    held = {domain: _in_doubt(reasons) for domain, reasons in guarded.reasons.items()}
    held |= {domain: ["domain"] for domain in guarded.domains.held}
    held |= _of_all(sources.state.gap, guarded.conditions)
    failing = sources.of((answer for answer in guarded.answers if answer.is_failing), frozenset(facts.domains))
    return dataclasses.replace(facts, failing=failing, held=held, plan=guarded.plan)


def with_holds(facts: doubt.Facts, decision: Decision) -> doubt.Facts:
    """Return the facts with the holds of this run's decision."""
    held = {domain: set(kinds) for domain, kinds in facts.held.items()}
    for domain, kinds in _held(decision.plan.holds).items():
        held.setdefault(domain, set()).update(kinds)
    return dataclasses.replace(facts, held={domain: sorted(kinds) for domain, kinds in held.items()})


def new(guarded: Guarded, state: State) -> list[str]:
    """Return the domains that are published for the first time, by the state and by the file beside the map."""
    last, known = state.finished, set(state.published_domains)
    known |= {change.domain for change in last.plan.domains if change.after} if last else set()
    first = (count.domain for count in guarded.losses.counts if count.wanted and not count.before)
    return [domain for domain in first if domain not in known]


def names(domains: Domains) -> tuple[str, ...]:
    """Return the relay domains of a run, the leaving ones included, without keys such as ``.example.com``."""
    every = dict.fromkeys((*domains.scope, *domains.known, *domains.parting))
    return tuple(name for name in every if not name.startswith("."))


def _of_all(gap: Gap | None, conditions: Iterable[Condition] = ()) -> dict[str, list[str]]:
    """Return the kinds of the holds of every removal, by ``ALL_DOMAINS``."""
    kinds = {*(["state-new"] if gap else []), *(one.reason.kind for one in conditions if one.reason.kind == "counts")}
    return {ALL_DOMAINS: sorted(kinds)} if kinds else {}


def _held(holds: Iterable[Hold]) -> dict[str, list[str]]:
    """Return the kinds of the reasons of the holds of domains, by domain."""
    held: dict[str, list[str]] = {}
    for hold in holds:
        if hold.is_of_all or hold.rejecting:  # this run may have ended it
            continue
        held.setdefault(hold.domain.removeprefix(DOMAIN_HOLD), []).extend(_in_doubt(hold.reasons))
    return held


def _in_doubt(reasons: Iterable[Reason]) -> list[str]:
    """Return the kinds of reasons for which a domain is in doubt.

    Outdated data has a doubt of its own; a wrong clock says nothing about the answers.
    """
    return [str(reason.kind) for reason in reasons if reason.kind not in {"source-outdated", "clock"}]
