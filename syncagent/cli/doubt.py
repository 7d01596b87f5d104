"""The verb `doubt`: the change that a person asks for, and the domains that are in doubt."""

from __future__ import annotations

import os
import pwd
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import click
from msgspec import Struct

from syncagent.errors import ConfigError, Problem
from syncagent.model import ALL_DOMAINS, Doubt
from syncagent.postfix.doubt_table import ByHand
from syncagent.state import doubt_status
from syncagent.state.database import reading
from syncagent.state.doubt_groups import Causes
from syncagent.state.doubt_status import DoubtStatus
from syncagent.sync import by_hand

if TYPE_CHECKING:
    from syncagent.config.tables import Config
    from syncagent.values.types import Domain


@dataclass(frozen=True, slots=True)
class Request:
    """What a person asks for: domains or all, for how long (seconds, None: no end), or to clear; and who it is."""

    domains: tuple[Domain, ...]
    is_all: bool
    length: float | None
    clear: bool
    who: str


class Shown(Struct, frozen=True):
    """The doubt that stands, as `status` shows it. ``pending``: the next run ends what was cleared."""

    doubt: DoubtStatus
    doubts: tuple[Doubt, ...]
    pending: bool = False


def carry_out(config: Config, request: Request) -> Shown:
    """Carry out a request, and return the doubt that stands then.

    Raises click.UsageError for a domain that is no relay domain or for options that exclude each other, ConfigError if
    postfix.doubt_map is not set, and PublishError or LedgerError if the table cannot be published.
    """
    if config.postfix.doubt_map is None:
        text = 'is not set, so that there is no doubt table: add doubt_map = "lmdb:/var/lib/syncagent/doubt"'
        raise ConfigError([Problem(str(config.file), None, "postfix.doubt_map", text)])
    _check(config, request)
    pending, now = False, time.time()
    if request.domains or request.is_all:
        names = (ALL_DOMAINS,) if request.is_all else tuple(map(str, request.domains))
        until = now + request.length if request.length else 0.0
        entries = [] if request.clear else [ByHand(name, until, request.who, now) for name in names]
        pending = not by_hand.change(config, entries, names if request.clear else (), now)
    with reading(config.state.directory) as ledger:
        known = doubt_status.recorded(config.postfix, ledger, now)
        assert known is not None  # noqa: S101 - postfix.doubt_map is set
        return Shown(doubt_status.of(known, Causes({}), now), known.doubts, pending)


def _check(config: Config, request: Request) -> None:
    if request.is_all and request.domains:
        raise click.UsageError("give domains or --all, not both")
    if request.clear and request.length:
        raise click.UsageError("--for and --clear exclude each other")
    if (request.clear or request.length) and not (request.domains or request.is_all):
        raise click.UsageError("for which domains? Give DOMAIN... or --all")
    if request.domains:
        with reading(config.state.directory) as ledger:
            known = doubt_status.relay_domains_of(config.postfix, ledger)
        foreign = [domain for domain in request.domains if domain not in known]
        if foreign:
            raise click.UsageError(f"not a relay domain: {', '.join(foreign)}")


def person() -> str:
    """Return the name of the person who types the command: $SUDO_USER, else the user of the process.

    To be called before root's privileges are dropped.
    """
    user = os.environ.get("SUDO_USER", "")
    if user.isprintable() and 0 < len(user) <= 32:  # noqa: PLR2004 - the longest name of a user, useradd(8)
        return user
    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        return str(os.getuid())
