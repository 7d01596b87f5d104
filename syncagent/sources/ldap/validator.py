"""The validators of the LDAP source: what it must remember of an answer, as JSON."""

from __future__ import annotations

import msgspec
from msgspec import Struct


class PollState(Struct, frozen=True, omit_defaults=True):
    """The validator in poll mode. ``exact``: the server estimated the number of entries exactly in the last search."""

    exact: bool = False


class SyncState(Struct, frozen=True, omit_defaults=True, rename={"full_search_at": "pulled", "behind_since": "behind"}):
    """The validator in sync mode: the cookie, the server that issued it, and when its last full search began.

    ``behind_since`` is the time when a server was first behind the cookie; 0 if no server is. From then on no refresh
    is used until a full search has succeeded. Times are seconds since the epoch. ``keys``: the list has the key of
    every entry, also of those without addresses. ``exact``: as in poll mode. ``unseen`` are containers of which no
    entry is visible any more; once one is, a full search is done, since slapd reports no changes of access rules.
    """

    url: str
    cookie: str
    full_search_at: float
    behind_since: float = 0.0
    keys: bool = False
    exact: bool = False
    unseen: tuple[str, ...] = ()

    @classmethod
    def read(cls, validator: str | None) -> SyncState | None:
        """Return the state in a validator; None if there is no validator or it has another form."""
        try:
            state = msgspec.json.decode(validator or "", type=cls)
            bytes.fromhex(state.cookie)
        except (msgspec.DecodeError, ValueError):
            return None
        return state

    def write(self) -> str:
        """Return the validator with this state."""
        return msgspec.json.encode(self).decode()

    def is_fresh(self, now: float, interval: float) -> bool:
        """True if the last full search began less than ``interval`` seconds ago. False if that is in the future."""
        return 0 <= now - self.full_search_at < interval


def was_exact(validator: str | None) -> bool:
    """True if the last answer was from a server whose estimate was exact, in either mode."""
    try:
        return msgspec.json.decode(validator or "{}", type=PollState).exact
    except msgspec.DecodeError:
        return False


def poll_validator(*, exact: bool) -> str | None:
    """Return the validator in poll mode; None if there is nothing to remember."""
    return msgspec.json.encode(PollState(exact)).decode() if exact else None
