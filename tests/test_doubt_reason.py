"""The sentence that says why a domain is in doubt, as `status` and `explain` print it."""

import re
from typing import get_args

import pytest

from syncagent.model import Doubt, DoubtKind
from syncagent.state.messages import doubt_reason, moment

REASONS = {
    Doubt("example.com", "source-failing", "corp"): "source corp is failing",
    Doubt("example.com", "source-stale", "corp"): "the data of source corp is too old (schedule.max_age)",
    Doubt("example.com", "hold", "percent"): "removals are held: percent",
    Doubt("example.com", "hold", "domain"): "the removal of the relay domain is held",
    Doubt("example.com", "canary", "ceo@example.com"): "the canary ceo@example.com is in no source",
    Doubt("example.com", "unlisted", "corp"): "source corp has recipients here that it does not list",
    Doubt("example.com", "empty"): "no recipient",
    Doubt("example.com", "by-hand", "root"): "put in doubt by hand (root)",
    Doubt("example.com", "by-hand", "root", until=1e9): f"put in doubt by hand (root) (until {moment(1e9)})",
    Doubt("example.com", "new", until=1e9): (f"first published less than postfix.doubt_new ago (until {moment(1e9)})"),
}


@pytest.mark.parametrize("doubt", REASONS, ids=lambda doubt: f"{doubt.kind} {doubt.subject}")
def test_the_sentence(doubt: Doubt) -> None:
    """The sentence names the source, the reason, the canary or the person, and the end if there is one."""
    assert doubt_reason(doubt) == REASONS[doubt]


@pytest.mark.parametrize("kind", get_args(DoubtKind))
def test_each_kind_has_a_sentence(kind: DoubtKind) -> None:
    """Each kind of doubt has one, short, that leaves nothing to fill in."""
    sentence = doubt_reason(Doubt("example.com", kind, "corp"))
    assert re.fullmatch(r"[a-z][^{}]{10,70}", sentence)
