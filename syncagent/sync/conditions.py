"""Conditions: reasons to hold missing recipients while they are true, and for which of them each applies.

A condition holds recipients as long as it stands and no longer: nothing is captured by it. The losses that the guard
captures until a person approves them are in ``guard``. The code is pure.
"""

from __future__ import annotations

from msgspec import Struct

from syncagent.model import Reason


class Condition(Struct, frozen=True):
    """A reason, and the missing recipients to which it applies.

    ``domains`` are relay domains; None for all. ``source``: only recipients that this source listed last, or whose
    source is not known; "" for all. ``since_run``: only recipients that were first missing in an answer of ``source``
    in this run or a later one; "" for all.
    """

    reason: Reason
    domains: frozenset[str] | None = None
    source: str = ""
    since_run: str = ""
