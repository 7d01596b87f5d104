"""Which relay domains a source concerns. It is pure: no files, no clock."""

from __future__ import annotations

from typing import TYPE_CHECKING

from syncagent.addresses import within
from syncagent.model import ALL_DOMAINS

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

    from syncagent.config.tables import Config


def relayed(mail_domains: Iterable[str], scope: frozenset[str]) -> frozenset[str]:
    """Return the relay domains in ``scope`` that cover these mail domains; ``ALL_DOMAINS`` stands for all of them."""
    names = frozenset(mail_domains)
    return scope if ALL_DOMAINS in names else frozenset(filter(None, (within(name, scope) for name in names)))


def of_source(
    config: Config, name: str, recorded: Collection[str], scope: frozenset[str], *, was_whole: bool = False
) -> frozenset[str]:
    """Return the relay domains in ``scope`` that a source concerns.

    They are those in which it has or had recipients (``recorded`` are its mail domains), and those of its key
    ``relay_domains``. All, if neither is known, unless it is known that it has none (``was_whole``).
    """
    named = frozenset(map(str, config.sources[name].common.relay_domains))
    if not (recorded or named or was_whole):
        return scope
    return (relayed(recorded, scope) | named) & scope
