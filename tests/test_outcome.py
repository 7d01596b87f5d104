"""The pure ends of the line: exit status, whether anything is to be done, what may be approved, and the sentences."""

import errno
import time
from collections.abc import Mapping
from pathlib import Path

import pytest
from msgspec.structs import replace

from syncagent import sources
from syncagent.config.tables import Config, DomainLimits, Limits, Postfix, Schedule, SourceConfig, State
from syncagent.errors import ExitCode, PublishError, UnknownHoldError
from syncagent.files.atomic import UnfitFileError
from syncagent.model import DOMAIN_HOLD, Hold, Note, Plan, Reason, Refusal, Shown, Status
from syncagent.postfix.table import Identities, publish_step
from syncagent.state import messages
from syncagent.state.looks import AGAIN
from syncagent.state.records import Finished, Inputs, ListFile
from syncagent.sync import approvals
from syncagent.sync.outcome import exit_code
from syncagent.sync.unchanged import Due, longest_wait, unchanged
from syncagent.values.types import Domain, Duration, MapName

NOW = 1_900_000_000.0
PERCENT, FAILING = Reason("percent"), Reason("source-failing", subjects=("corp",))
CANARY = Reason("canary", approvable=False, subjects=("info@example.com",))


def hold(*reasons: Reason, name: str = "abc234", domain: str = "example.com", approved_at: float = 0.0) -> Hold:
    """Return a hold of twelve removals."""
    return Hold(name, domain, 12, NOW, reasons or (PERCENT,), approved_at)


# --- the exit status

NOTHING, HELD, WAITING = Plan(), Plan(holds=(hold(),)), Plan(holds=(hold(FAILING),))
CATCH_ALL, ABSENT = Plan(held_catch_alls=("@example.com",)), Plan(absent_canaries=("info@example.com",))


@pytest.mark.parametrize(
    ("status", "plan", "failing", "expected"),
    [
        ("unchanged", NOTHING, False, ExitCode.OK),
        ("published", NOTHING, False, ExitCode.OK),
        ("planned", NOTHING, False, ExitCode.OK),
        ("incomplete", NOTHING, False, ExitCode.HELD),
        ("failed", NOTHING, False, ExitCode.CANNOT_PUBLISH),
        ("unchanged", HELD, False, ExitCode.HELD),
        ("published", HELD, False, ExitCode.HELD),
        ("planned", HELD, False, ExitCode.HELD),
        ("published", WAITING, False, ExitCode.OK),
        ("published", CATCH_ALL, False, ExitCode.HELD),
        ("published", ABSENT, False, ExitCode.HELD),
        ("published", HELD, True, ExitCode.TEMPORARY),
        ("published", WAITING, True, ExitCode.TEMPORARY),
        ("unchanged", NOTHING, True, ExitCode.TEMPORARY),
        ("incomplete", NOTHING, True, ExitCode.TEMPORARY),
        ("failed", HELD, True, ExitCode.CANNOT_PUBLISH),
    ],
)
def test_the_exit_status(status: Status, plan: Plan, failing: bool, expected: ExitCode) -> None:  # noqa: FBT001 - a column of the table
    """73 before 75 before 65; a hold that only waits for a failing source is none of a person's business."""
    assert exit_code(status, plan, failing=failing) == expected


# --- whether there is anything to do

INPUTS = Inputs("configuration", {"corp": "digest"}, ())
LIST = ListFile("list", 1, "")
IDENTITIES = Identities("lmdb:/map", "", "", ".lmdb", (1,), (1,), (1,), (1,))
LAST = Finished("configuration", {"corp": "digest"}, (), IDENTITIES, LIST, LIST, None, Plan())
DOMAIN = hold(Reason("domain"), name="dom234", domain=f"{DOMAIN_HOLD}example.net")


def is_unchanged(
    last: Finished = LAST,
    inputs: Inputs = INPUTS,
    standing: Mapping[str, Hold] | None = None,
    domain_holds: tuple[Hold, ...] = (),
    *,
    on_record: bool = True,
) -> bool:
    """Return the verdict on these facts, all else being as it was."""
    due = Due(NOW, 86400)
    return unchanged(last, inputs, standing or {}, due, domain_holds=domain_holds, on_record=on_record)


def test_the_same_facts_are_unchanged() -> None:
    """Equal inputs, tables as they were left, holds that nobody approved, nothing due: nothing is to be done."""
    assert is_unchanged()
    assert is_unchanged(standing={"abc234": hold(), "dom234": DOMAIN}, domain_holds=(DOMAIN,))
    assert is_unchanged(replace(LAST, next_due=NOW + 1))


@pytest.mark.parametrize(
    "inputs",
    [
        replace(INPUTS, config="another"),
        replace(INPUTS, snapshots={"corp": "another"}),
        replace(INPUTS, snapshots={}),
        replace(INPUTS, failing=("corp",)),
    ],
    ids=["config", "snapshot", "source gone", "failing"],
)
def test_each_input_counts(inputs: Inputs) -> None:
    """Another configuration, list or failing source is a change."""
    assert not is_unchanged(inputs=inputs)


def test_what_falls_due_is_a_change() -> None:
    """A due time that has come, or that is further off than anything may be waited for, is a change."""
    assert not is_unchanged(replace(LAST, next_due=NOW))
    assert is_unchanged(replace(LAST, next_due=NOW + 86400))
    assert not is_unchanged(replace(LAST, next_due=NOW + 86401))


def test_an_approval_a_table_and_a_domain_are_changes() -> None:
    """So are an approved hold, a table that another hand wrote, and other holds of domains than those on record."""
    assert not is_unchanged(standing={"abc234": hold(approved_at=NOW)})
    assert not is_unchanged(on_record=False)
    assert not is_unchanged(domain_holds=(DOMAIN,))
    assert not is_unchanged(standing={"dom234": DOMAIN})


def config(limits: Limits, confirm_after: float = 0.0) -> Config:
    """Return a configuration with these limits, and one source."""
    common = sources.Common(type="file", confirm_after=Duration(confirm_after))
    corp = SourceConfig(name="corp", common=common, own=None, digest="", build=lambda _: NotImplemented)
    postfix = Postfix(map=MapName("lmdb", Path("/map"), "lmdb:/map"), relay_domains=())
    return Config(
        postfix=postfix, limits=limits, schedule=Schedule(), state=State(), sources={"corp": corp}, file=Path("/c")
    )


def test_the_longest_wait_is_that_of_anything() -> None:
    """The window, the graces of all domains, the collecting of a hold, confirm_after, and a look taken again."""
    limits = Limits(removal_grace=Duration(10), removed_window=Duration(10), collect=Duration(10))
    own = {Domain("example.org"): DomainLimits(removal_grace=Duration(200_000))}
    assert longest_wait(config(limits)) == AGAIN
    assert longest_wait(config(limits, 86400)) == 86400
    for one in (
        replace(limits, removed_window=Duration(200_000)),
        replace(limits, removal_grace=Duration(200_000)),
        replace(limits, collect=Duration(200_000)),
        replace(limits, domains=own),
    ):
        assert longest_wait(config(one, 86400)) == 200_000


# --- approvals


def test_an_unknown_hold_names_the_current_ones() -> None:
    """The data names what is there, and the sentence too."""
    with pytest.raises(UnknownHoldError) as caught:
        approvals.check(["zzz"], {"t3hjm7": hold(name="t3hjm7")}, NOW)
    assert caught.value.refusal == Refusal("unknown", "zzz", holds=("t3hjm7",))
    assert str(caught.value) == 'unknown hold ID "zzz"; current holds: t3hjm7 (see syncagent status)'


def refused(hold_id: str, *ids: str, holds: Mapping[str, Hold]) -> Refusal | None:
    """Return why a hold cannot be approved now, together with others."""
    return approvals.refusal(hold_id, [hold_id, *ids], holds, NOW)


def test_what_may_be_approved() -> None:
    """A hold may; one with a final reason may not; one of recipients only with, or after, that of their domain."""
    holds = {"abc234": hold(domain="example.net"), "dom234": DOMAIN}
    assert refused("abc234", holds={"abc234": hold()}) is None
    assert refused("abc234", holds={"abc234": hold(PERCENT, CANARY)}) == Refusal("final", "abc234", reason=CANARY)
    assert refused("abc234", holds=holds) == Refusal("domain-first", "abc234", first=DOMAIN)
    assert refused("abc234", "dom234", holds=holds) is None
    assert refused("abc234", holds={**holds, "dom234": replace(DOMAIN, approved_at=NOW)}) is None


def test_what_the_same_answer_lacks_is_approved_with_its_hold() -> None:
    """The refusal names that hold; where it is approved, so is everything that came with it."""
    main = replace(hold(), key="k", kind="percent")
    with_it = replace(hold(Reason("same-answer"), name="def234", domain="example.org"), kind="same-answer", main="k")
    holds = {"abc234": main, "def234": with_it}
    assert refused("def234", holds=holds) == Refusal("with", "def234", first=main)
    assert "approved with abc234" in messages.refusal(Refusal("with", "def234", first=main))
    assert not with_it.approvable
    assert [one.id for one in approvals.approved(["abc234"], holds, NOW)] == ["abc234"]


WEEK = 7 * 86400.0
OPEN = replace(
    hold(name="third"),
    kind="percent",
    version=3,
    shown=(Shown("first", 1, NOW - WEEK), Shown("second", 2, NOW - WEEK + 1)),
)


def test_an_id_that_was_replaced_can_be_approved_for_seven_days() -> None:
    """It stands for the recipients that it was shown for, not for those that joined later."""
    holds = {"third": OPEN}
    assert [(one.id, one.approved_version) for one in approvals.approved(["third"], holds, NOW)] == [("third", 3)]
    assert [(one.id, one.approved_version) for one in approvals.approved(["second"], holds, NOW)] == [("third", 2)]
    assert refused("second", holds=holds) is None
    assert refused("first", holds=holds) == Refusal("unknown", "first", holds=("third",))


@pytest.mark.parametrize("ids", [("second", "third"), ("third", "second")])
def test_two_ids_of_one_hold_are_approved_as_the_later_one(ids: tuple[str, ...]) -> None:
    """Their order is no matter."""
    (one,) = approvals.approved(ids, {"third": OPEN}, NOW)
    assert (one.approved_at, one.approved_version) == (NOW, 3)


def test_an_earlier_id_takes_no_approval_back() -> None:
    """A hold that is approved already, but was not let go yet, stays so as a whole."""
    standing = replace(OPEN, approved_at=NOW - 60, approved_version=3)
    (one,) = approvals.approved(["second"], {"third": standing}, NOW)
    assert one.approved_version == 3


def test_an_id_is_that_of_the_hold_that_has_it_now() -> None:
    """Not of one that had it before."""
    now = replace(hold(name="second", domain="example.org"), kind="percent", version=1)
    found = approvals.resolve("second", [OPEN, now], NOW)
    assert found == (now, 1)


# --- sentences


def test_plurals() -> None:
    """One recipient is no recipients."""
    assert [messages.counted(count, "recipient") for count in (0, 1, 2, 1000)] == [
        "0 recipients",
        "1 recipient",
        "2 recipients",
        "1,000 recipients",
    ]
    assert messages.held(replace(hold(), count=1)) == "1 removal of example.com"


def test_the_first_line_carries_what_matters() -> None:
    """A failing source with its times, a hold with its ID, catch-alls and canaries; a hold that only waits is none."""
    facts = [
        messages.failing_source("extra", NOW - 60, NOW - 3600),
        *messages.held_briefly([hold(), hold(FAILING)], ["@example.org"], ["info@example.com"]),
    ]
    assert messages.warning([]) == ""
    assert messages.warning(facts[:2]) == (
        f". WARNING: source extra failing since {messages.moment(NOW - 60)}, using its data of"
        f" {messages.moment(NOW - 3600)}; 12 removals of example.com held (abc234)"
    )
    assert facts[2:] == ["1 catch-all held", "canary info@example.com in no source"]
    assert messages.warning(facts).endswith("; and 1 more warning")
    assert messages.failing_source("extra", 0, 0) == "source extra failing, it has no data yet"


@pytest.mark.parametrize("zone", ["UTC", "Asia/Kolkata"])
def test_times_have_a_zone(zone: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """People see local time with its zone, machines UTC by RFC 3339."""
    monkeypatch.setenv("TZ", zone)
    time.tzset()
    try:
        expected = {"UTC": "2030-03-17 17:46:40 UTC", "Asia/Kolkata": "2030-03-17 23:16:40 IST"}[zone]
        assert messages.moment(NOW) == expected
        assert messages.machine_moment(NOW) == "2030-03-17T17:46:40+00:00"
    finally:
        monkeypatch.undo()
        time.tzset()


def test_a_reason_of_an_older_version_keeps_its_sentence() -> None:
    """What 0.1.0 recorded has a text and no data; what is new gets its text from the data."""
    assert messages.with_text(Reason("percent", "as it was said")).text == "as it was said"
    assert messages.with_text(FAILING).text == "waiting for source corp, which is failing"


def test_every_note_has_a_sentence() -> None:
    """Each kind of note is put in words, with its subject or its detail."""
    for kind in messages._NOTES:
        text = messages.note(Note(kind, "SUBJECT", count=3, before=2, detail="DETAIL"))
        assert "SUBJECT" in text or "DETAIL" in text
        assert "{" not in text


@pytest.mark.parametrize(
    ("error", "remedy"),
    [
        (OSError(errno.ENOSPC, "Auf dem Gerät ist kein Speicherplatz mehr verfügbar"), "make room there"),
        (OSError(errno.EROFS, "another language"), "ReadWritePaths"),
        (OSError(errno.EFBIG, "another language"), "too low"),
        (UnfitFileError(errno.EFBIG, "it is larger than 16 MiB", Path("/map")), ""),
        (OSError(errno.EIO, "No space left on device"), ""),
    ],
)
def test_the_remedy_goes_by_the_number_of_an_error(error: OSError, remedy: str) -> None:
    """Not by its words, which are the system's."""
    with pytest.raises(PublishError) as caught, publish_step("stage"):
        raise error
    assert str(caught.value).rpartition("; ")[2].endswith(remedy)
    assert (";" in str(caught.value)) == bool(remedy)
