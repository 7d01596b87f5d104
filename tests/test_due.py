"""A run asks what is due and goes on with what the others said last; and what decides when something is due."""

import contextlib
import math
import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING
from unittest.mock import patch

import pytest
from apscheduler.triggers.cron import CronTrigger
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from syncagent.agent.retries import FIRST, Retries
from syncagent.agent.schedule import triggers
from syncagent.config import load as configuration
from syncagent.config.tables import Config
from syncagent.errors import ConfigError, FailureKind, SourceError
from syncagent.model import SourceReport, SyncResult
from syncagent.sources import Answer, Request
from syncagent.state.database import Ledger
from syncagent.sync import run as sync_module
from syncagent.values.cron import Cron
from tests.scenario import HOUR, MINUTE, START, Scenario, people
from tests.support.fetching import Says, fails, whole
from tests.support.programs import PATIENCE, wait_until

if TYPE_CHECKING:
    from syncagent.config.tables import SourceConfig

OK, TEMPORARY = 0, 75


class Runs(Scenario):
    """Runs over two sources that are functions, `fast` and `slow`, by a clock of its own."""

    def __init__(self, directory: Path) -> None:
        super().__init__(directory, "fast", "slow")
        self.set_clock()
        self.asked: dict[str, Says] = {}
        self.configured: dict[str, SourceConfig] = {}
        for name in self.sources:
            self.write(name, [])
            self.source(name, people(10, first=0 if name == "fast" else 100))

    def source(
        self, name: str, says: set[str] | Exception, *, digest: str = "1", deadline: float | None = None
    ) -> None:
        """Have a source say this, or fail so."""
        self.put(name, fails(says) if isinstance(says, Exception) else whole(*says), digest, deadline)

    def put(
        self, name: str, fetch: Callable[[Request], Answer], digest: str = "1", deadline: float | None = None
    ) -> None:
        """Have a source do this."""
        self.asked[name] = Says(fetch)
        self.configured[name] = self.asked[name].configured(name, digest=digest, deadline=deadline)

    def run(self, *due: str, every_one: bool = False) -> SyncResult:
        """Do a run in which these are due."""
        config = replace(configuration.load(self.configure()), sources=self.configured)
        options = sync_module.Options(due=None if every_one else frozenset(due))
        with patch.object(sync_module, "clock", lambda: self.now):
            return sync_module.sync_once(config, options)

    def counts(self) -> list[int]:
        """Give how often `fast` and `slow` were asked since they were last set."""
        return [self.asked[name].count for name in ("fast", "slow")]


def report(result: SyncResult, name: str) -> SourceReport:
    """Give how a source did."""
    return next(one for one in result.sources if one.name == name)


@pytest.fixture
def runs(tmp_path: Path) -> Runs:
    """Two sources of ten people each, who are published."""
    made = Runs(tmp_path)
    assert made.run(every_one=True).status == "published"
    return made


# --- who is asked


def test_only_what_is_due_is_asked(runs: Runs) -> None:
    """The other one is not, and is reported as it was last."""
    runs.run("fast")
    result = runs.run("fast")
    assert runs.counts() == [3, 1]
    assert (result.status, result.exit_code) == ("unchanged", OK)
    assert [(one.name, one.state, one.entries) for one in result.sources] == [
        ("fast", "whole", 10),
        ("slow", "same", 10),
    ]
    runs.run("slow")
    assert runs.counts() == [3, 2]
    runs.run(every_one=True)
    assert runs.counts() == [4, 3]


def test_nobody_is_due(runs: Runs) -> None:
    """A run that asks nobody, as one that only publishes, changes nothing; a name that is none is no matter."""
    assert runs.run().status == runs.run("other").status == "unchanged"
    assert runs.counts() == [1, 1]


def test_what_the_others_said_stays(runs: Runs) -> None:
    """A change of what is due is published, and nothing of the others is removed, whatever they would say now."""
    runs.source("slow", people(1, first=100))
    runs.source("fast", people(11))
    result = runs.run("fast")
    assert (result.status, result.plan.added, result.plan.removed) == ("published", 1, 0)
    assert runs.published() == people(11) | people(10, first=100)


def test_what_is_not_due_has_no_new_success(runs: Runs) -> None:
    """Its data stays as old as it is, so that it becomes stale when nobody asks."""
    runs.wait(HOUR)
    runs.run("fast")
    with contextlib.closing(Ledger(runs.state, write=False)) as ledger:
        assert ledger.sources["fast"].last_success == START + HOUR
        assert ledger.sources["slow"].last_success == ledger.sources["slow"].last_attempt == START


@pytest.mark.parametrize("kind", list(FailureKind))
def test_a_failing_one_that_is_not_due_stays_failing(runs: Runs, kind: FailureKind) -> None:
    """It is not asked, exits 75 as before with the same error, and its list stays in force."""
    runs.source("slow", SourceError("it is down", kind=kind))
    assert runs.run("slow").exit_code == TEMPORARY
    runs.wait(2 * HOUR)
    for _ in range(2):
        result = runs.run("fast")
        assert (result.exit_code, result.status) == (TEMPORARY, "unchanged")
        one = report(result, "slow")
        assert (one.state, one.error, one.kind, one.entries) == ("failing", "it is down", str(kind), 10)
    assert runs.counts()[1] == 1
    runs.source("fast", people(12))
    assert runs.run("fast").exit_code == TEMPORARY
    assert runs.published() == people(12) | people(10, first=100)


def test_one_that_never_answered_is_asked(tmp_path: Path) -> None:
    """There is nothing of it to go on with, so it is asked though it is not due; once it fails it has its own time."""
    runs = Runs(tmp_path)
    assert runs.run("fast").status == "published"
    assert runs.counts() == [1, 1]
    runs.put("new", fails(SourceError("not yet")))
    runs.sources["new"] = {}
    assert report(runs.run("fast"), "new").state == "failing"
    runs.run("fast")
    assert runs.asked["new"].count == 1


def test_one_with_another_configuration_is_asked(runs: Runs) -> None:
    """What it said was the answer to another question."""
    runs.source("slow", people(9, first=100), digest="2")
    runs.limits["removed_floor"] = 50
    result = runs.run("fast")
    assert runs.counts() == [2, 1]
    assert (report(result, "slow").state, result.plan.removed) == ("whole", 1)
    runs.run("fast")
    assert runs.counts() == [3, 1]


def test_one_whose_list_is_lost_is_asked(runs: Runs) -> None:
    """A snapshot that is damaged is no last answer, and nobody is removed for it."""
    for path in (runs.state / "snapshots").glob("slow-*"):
        path.write_bytes(b"x")
    result = runs.run("fast")
    assert runs.counts() == [2, 2]
    assert report(result, "slow").state == "whole"
    assert runs.published() == people(10) | people(10, first=100)


# --- removals: grace and two whole answers


def test_a_removal_waits_for_the_second_answer_of_each(runs: Runs) -> None:
    """Whoever is missing goes once every source has answered after the grace, however often one of them has."""
    runs.limits["removal_grace"] = "1h"
    runs.source("fast", people(9))
    assert runs.run(every_one=True).plan.removed == 0
    runs.wait(HOUR + MINUTE)
    for _ in range(3):
        runs.wait(MINUTE)
        runs.run("fast")
    assert len(runs.published()) == 20, "slow has not answered since"
    runs.run("slow")
    assert len(runs.published()) == 19, "and now both have"


def test_time_alone_is_no_second_answer(runs: Runs) -> None:
    """Where the source that no longer says it was asked but once, the grace being over is not enough: a run asks it."""
    runs.limits["removal_grace"] = "1h"
    runs.source("fast", people(9))
    runs.run(every_one=True)
    runs.wait(HOUR - MINUTE)
    for _ in range(2):
        runs.run("slow")
        runs.run()
    assert (runs.counts()[0], len(runs.published())) == (1, 20)
    runs.wait(MINUTE)
    runs.source("fast", SourceError("down"))
    runs.run("slow")
    runs.run()
    assert (runs.counts()[0], len(runs.published())) == (1, 20), "asked, and no answer"
    runs.source("fast", people(9))
    runs.wait(HOUR)
    runs.run("slow")
    assert len(runs.published()) == 20, "a source that fails is asked when it is due"
    runs.run("fast")
    assert (runs.counts()[0], len(runs.published())) == (1, 19)


def test_a_removal_asks_its_source_when_it_is_due(runs: Runs) -> None:
    """In a run for another source, once, and no other source."""
    runs.limits["removal_grace"] = "1h"
    runs.source("fast", people(9))
    runs.run(every_one=True)
    runs.wait(30 * MINUTE)
    runs.run("slow")
    runs.wait(30 * MINUTE)
    before = runs.counts()
    runs.run()
    assert (runs.counts(), len(runs.published())) == ([before[0] + 1, before[1]], 19)
    runs.run()
    assert runs.counts() == [before[0] + 1, before[1]]


def test_who_moves_between_answers_stays(runs: Runs) -> None:
    """One who leaves `fast` for `slow` is never missing, though `slow` is asked much later."""
    runs.limits["removal_grace"] = "1h"
    runs.source("fast", people(9))
    runs.source("slow", people(10, first=100) | people(1, first=9))
    for _ in range(4):
        runs.run("fast")
        runs.wait(40 * MINUTE)
    assert len(runs.published()) == 20
    runs.run("slow")
    runs.wait(2 * HOUR)
    result = runs.run(every_one=True)
    assert (len(runs.published()), result.plan.in_grace) == (20, 0)


def test_removals_wait_for_one_that_fails_and_is_not_due(runs: Runs) -> None:
    """Without a grace as well: what a failing source would say is unknown, due or not."""
    runs.source("slow", SourceError("down"))
    runs.run("slow")
    runs.source("fast", people(9))
    result = runs.run("fast")
    assert (result.exit_code, result.plan.removed) == (TEMPORARY, 0)
    assert len(runs.published()) == 20
    runs.source("slow", people(10, first=100))
    assert runs.run("slow").plan.removed == 1


# --- a fetch that was given up on


def test_a_fetch_that_was_given_up_on_blocks_its_own_source(runs: Runs) -> None:
    """While it still runs the source is not asked a second time, the others are; when it has ended it is asked."""
    release = threading.Event()

    def hang(request: Request) -> Answer:
        if not release.wait(PATIENCE):
            return Answer()
        return whole(*people(10, first=100))(request)

    runs.put("slow", hang, deadline=0.2)
    try:
        assert "no whole answer within" in report(runs.run(every_one=True), "slow").error
        for _ in range(3):
            result = runs.run(every_one=True)
            one = report(result, "slow")
            assert (one.error, one.kind) == (
                "its last fetch was given up on, and has not come to its end yet",
                "temporary",
            )
            assert report(result, "fast").state == "whole"
            assert result.exit_code == TEMPORARY
        assert runs.counts() == [5, 1]
        assert len(runs.published()) == 20
    finally:
        release.set()
    assert wait_until(lambda: not any(one.name == "fetch slow" for one in threading.enumerate()))
    assert report(runs.run(every_one=True), "slow").state == "whole"
    assert runs.counts() == [6, 2]


def test_a_fetch_that_fails_frees_its_source(runs: Runs) -> None:
    """Whatever it ends by, a fault included, the next run may ask."""
    for error in (SourceError("x"), OSError("y"), SystemExit(1), MemoryError()):
        runs.put("slow", fails(error))
        for count in (1, 2):
            assert report(runs.run("slow"), "slow").state == "failing"
            assert runs.counts()[1] == count


# --- when what failed is tried again


intervals = st.floats(1, 1e6)


@given(intervals, st.integers(1, 60), st.floats(0, 1e9))
def test_retries_grow_up_to_the_interval(every: float, failures: int, now: float) -> None:
    """The first is 5 s later, each next one twice as long, none longer than the source's own interval."""
    retries, delays = Retries(), []
    for _ in range(failures):
        retries.failed("a", frozenset("a"), every, now)
        delays.append(retries.wait(now))
        assert retries.due(now + delays[-1] - 1e-3) == frozenset()
        assert retries.due(now + delays[-1] + 1e-3) == {"a"}
        now += delays[-1]
    exact = [min(every, FIRST * 2**number) for number in range(failures)]
    assert delays == pytest.approx(exact, abs=1e-3)
    assert all(before <= after + 1e-3 for before, after in pairwise(delays))
    retries.succeeded("a")
    assert retries.wait(now) == math.inf
    retries.failed("a", frozenset("a"), every, now)
    assert retries.wait(now) == pytest.approx(min(every, FIRST), abs=1e-3)


steps = st.lists(
    st.tuples(st.sampled_from(["failed", "well", "clear", "wait"]), st.sampled_from("abc"), st.integers(1, 100)),
    max_size=30,
)


@given(steps)
def test_retries_are_each_source_s_own(done: list[tuple[str, str, int]]) -> None:
    """What is due is what a plain list of times says; one source's failures are none of another's."""
    retries, now, model = Retries(), 1000.0, dict[str, tuple[int, float]]()
    for what, name, number in done:
        if what == "failed":
            failures = model.get(name, (0, 0.0))[0] + 1
            model[name] = failures, now + min(300.0, 5.0 * 2 ** (failures - 1))
            retries.failed(name, frozenset(name), 300.0, now)
        elif what == "well":
            model.pop(name, None)
            retries.succeeded(name)
        elif what == "clear" and number > 80:
            model.clear()
            retries.clear()
        else:
            now += number
        assert retries.due(now) == {one for one, (_, at) in model.items() if at <= now}
        assert retries.wait(now) == min((at for _, at in model.values()), default=math.inf) - now


def test_publishing_alone_is_due_with_no_source() -> None:
    """The run as a whole may be due again though nobody is to be asked; or with all that was due in it."""
    retries = Retries()
    retries.failed("", frozenset(), 300, 0)
    assert (retries.wait(5), retries.due(5)) == (0, frozenset())
    retries.failed("", frozenset("ab"), 300, 5)
    assert (retries.wait(5), retries.due(15)) == (10, frozenset("ab"))


names = st.frozensets(st.sampled_from("abc"))


@given(st.lists(st.tuples(names, st.booleans()), max_size=12))
def test_what_came_to_nothing_is_owed_until_it_was_asked(runs: list[tuple[frozenset[str], bool]]) -> None:
    """Each run asks what was due in it and all that is owed; only one that comes to something makes that less."""
    retries, unasked = Retries(), set[str]()
    for due, well in runs:
        asked = due | retries.due(0)
        unasked |= due
        assert unasked <= asked
        if well:
            retries.asked(asked)
            retries.succeeded("")
            unasked.clear()
        else:
            retries.owe(asked)
            retries.failed("", frozenset(), 300, 0)
        assert retries.due(0) == unasked
    retries.clear()
    assert retries.due(0) == frozenset()


# --- the configuration of it

CONFIG = """\
[postfix]
map = "lmdb:/var/lib/syncagent/relay_recipients"
relay_domains = ["example.com"]
[sources.a]
type = "file"
path = "a"
"""


def loaded(directory: Path, text: str) -> Config:
    """Read a configuration with this at its end."""
    file = directory / "syncagent.toml"
    file.write_text(CONFIG + text, "utf-8")
    return configuration.load(file)


def problems(directory: Path, text: str) -> list[str]:
    """Give what is wrong with it, without the file's name."""
    with pytest.raises(ConfigError) as caught:
        loaded(directory, text)
    return [f"{problem.key}: {problem.text}" for problem in caught.value.problems]


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("*/5 * * * *", "*/5 * * * *"),
        ("0 3 * * *", "0 3 * * *"),
        ("  0   3 * *\t* ", "0 3 * * *"),
        ("0,30 8-18/2 1,15 1-12 *", "0,30 8-18/2 1,15 1-12 *"),
        ("00 03 01 01 *", "00 03 01 01 *"),
        ("59 23 31 12 *", "59 23 31 12 *"),
        ("0 0 29 2 *", "0 0 29 2 *"),
        ("* * * * 0", "* * * * sun"),
        ("* * * * 7", "* * * * sun"),
        ("* * * * 1-5", "* * * * mon-fri"),
        ("* * * * MON,Wed", "* * * * mon,wed"),
        ("* * * * */2", "* * * * sun,tue,thu,sat"),
        ("* * * * mon-fri/2", "* * * * mon,wed,fri"),
    ],
)
def test_cron_that_is_right(tmp_path: Path, text: str, kept: str) -> None:
    """What crontab(5) has is taken, days of the week by name; the scheduler takes what is kept."""
    config = loaded(tmp_path, f'[schedule]\ncron = "{text}"\n'.replace("\t", "\\t"))
    assert config.schedule.cron == kept
    assert config.every("a") is None
    assert CronTrigger.from_crontab(kept)
    assert set(triggers(config, 0)) == {"cron"}


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "expected five fields"),
        ("* * * *", "expected five fields"),
        ("* * * * * *", "expected five fields"),
        ("@daily", "expected five fields"),
        ("60 * * * *", '"60" is no minute: 0 to 59'),
        ("-1 * * * *", '"-1" is no minute'),
        ("* 24 * * *", '"24" is no hour: 0 to 23'),
        ("* * 0 * *", '"0" is no day of the month: 1 to 31'),
        ("* * 32 * *", '"32" is no day of the month'),
        ("* * * 0 *", '"0" is no month: 1 to 12'),
        ("* * * 13 *", '"13" is no month'),
        ("* * * jan *", '"jan" is no month'),
        ("* * * * 8", '"8" is no day of the week'),
        ("* * * * fri-mon", '"fri-mon" is no day of the week'),
        ("* * * * mon-", '"mon-" is no day of the week'),
        ("* * * * xyz", '"xyz" is no day of the week'),
        ("* * * * mon#1", "is no day of the week"),
        ("5-1 * * * *", '"5-1" is no minute'),
        ("*/0 * * * *", '"*/0" is no minute'),
        ("*/60 * * * *", '"*/60" is no minute'),
        ("1-1/1 * * * *", '"1-1/1" is no minute'),
        ("5/2 * * * *", '"5/2" is no minute'),
        ("0 */24 * * *", '"*/24" is no hour'),
        ("1,,2 * * * *", '"" is no minute'),
        ("* * L * *", '"L" is no day of the month'),
        ("٣ * * * *", "is no minute"),
        ("0 0 30 2 *", "there is no day 30 in the month 2: it would never run"),
        ("0 0 31 2,4,6,9-9,11 *", "it would never run"),
        ("0 0 31 2-12/9,4 *", "it would never run"),
    ],
)
def test_cron_that_is_wrong(tmp_path: Path, text: str, why: str) -> None:
    """Anything else is a problem of its key, and says which field; and so is one that would never come."""
    (problem,) = problems(tmp_path, f'[schedule]\ncron = "{text}"\n')
    assert problem.startswith("schedule.cron: ")
    assert why in problem


field = st.from_regex(r"(\*|[0-9]{1,2}(-[0-9]{1,2})?)(/[0-9]{1,2})?(,[0-9]{1,2})?", fullmatch=True)


@given(st.lists(field, min_size=5, max_size=5).map(" ".join))
def test_what_cron_accepts_the_scheduler_takes(text: str) -> None:
    """Nothing gets past the configuration that would only fail when the agent starts, or after a HUP."""
    try:
        cron = Cron.parse(text)
    except ValueError:
        return
    assert Cron.parse(str(cron)) == cron
    assert CronTrigger.from_crontab(cron)
    assert 60 <= cron.longest() <= 8 * 366 * 86400


@pytest.mark.parametrize(
    ("text", "longest"),
    [
        ("* * * * *", timedelta(minutes=1)),
        ("*/5 * * * *", timedelta(minutes=5)),
        ("7,57 * * * *", timedelta(minutes=50)),
        ("30 8-18/2 * * *", timedelta(hours=14)),
        ("0 3 * * *", timedelta(days=1)),
        ("15 9-17 * * mon-fri", timedelta(days=2, hours=16)),
        ("0 6 * * 0", timedelta(days=7)),
        ("0 6 1 * *", timedelta(days=31)),
        ("0 6 31 * *", timedelta(days=61)),
        ("0 6 1,15 * mon", timedelta(days=7)),
        ("0 6 */2 * mon", timedelta(days=21)),
        ("0 0 29 2 *", timedelta(days=1461)),
    ],
)
def test_the_longest_wait_of_cron(tmp_path: Path, text: str, longest: timedelta) -> None:
    """What is stale without max_age follows from it; the scheduler's own times agree."""
    config = loaded(tmp_path, f'[schedule]\ncron = "{text}"\n')
    assert config.schedule.cron
    assert config.schedule.cron.longest() == longest.total_seconds()
    (trigger, _), *_ = triggers(config, 0).values()
    at = [trigger.get_next_fire_time(None, datetime(2024, 1, 1, tzinfo=UTC))]
    while at[-1] and at[-1] < datetime(2033, 1, 1, tzinfo=UTC) and len(at) < 4000:
        at.append(trigger.get_next_fire_time(at[-1], at[-1] + timedelta(microseconds=1)))
    seen = max(later - time for time, later in pairwise(time for time in at if time))
    assert seen == longest


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ('[schedule]\nevery = "0s"\n', 'schedule.every: expected "1s" or more'),
        ('every = "0s"\n', 'sources.a.every: expected "1s" or more'),
        ('[schedule]\nmax_age = "0s"\n', 'schedule.max_age: expected a time of more than "0s"'),
        (
            '[schedule]\nmax_age = "4m"\n',
            "schedule.every: data that is fetched every 5m is often older than schedule.max_age",
        ),
        ('every = "2h"\n[schedule]\nmax_age = "1h"\n', "sources.a.every: data that is fetched every 2h is often older"),
        (
            '[schedule]\ncron = "0 3 * * *"\nmax_age = "6h"\n',
            "schedule.cron: data that is fetched every 1d is often older than schedule.max_age",
        ),
        ('[notify]\nurl = "hooks.example.com/x"\n', "notify.url: expected https://HOST/PATH"),
        ('[notify]\nping_url = "ftp://x/"\n', "notify.ping_url: expected https://HOST/PATH"),
        ('[notify]\nurl = "https://x/"\nurl_file = "x"\n', "notify.url_file: is there beside url"),
        ('[notify]\ncommand = "tell-admin"\n', "notify.command: expected"),
        ('[notify]\nurls = "https://x/"\n', "notify.urls: unknown key"),
        ('[metrics]\ntextfile = "/x/syncagent.txt"\n', "metrics.textfile: node_exporter reads only files named *.prom"),
        ('[metrics]\ntextfile = ""\n', "metrics.textfile: expected a path"),
        ('[state]\nhistory = "1h"\n', "state.history: is shorter than limits.removed_window"),
    ],
)
def test_what_is_wrong_with_the_tables_of_the_agent(tmp_path: Path, text: str, wanted: str) -> None:
    """Each is a problem of its own key, with its mend."""
    (problem,) = problems(tmp_path, text)
    assert problem.startswith(wanted)


@pytest.mark.parametrize(
    ("text", "every", "max_age"),
    [
        ("", 300, 3600),
        ('[schedule]\nevery = "1s"\n', 1, 3600),
        ('[schedule]\nevery = "2h"\n', 7200, 14400),
        ('every = "1d"\n', 86400, 172800),
        ('every = "2s"\n[schedule]\nevery = "2h"\n', 2, 3600),
        ('[schedule]\nevery = "1m"\nmax_age = "1m"\n', 60, 60),
        ('[schedule]\ncron = "0 * * * *"\nmax_age = "90m"\n', None, 5400),
        ('every = "2s"\n[schedule]\ncron = "0 3 * * *"\nmax_age = "2d"\n', 2, 172800),
        ('[schedule]\ncron = "0 3 * * *"\nevery = "5m"\nmax_age = "1d"\n', None, 86400),
        ('[schedule]\ncron = "*/5 * * * *"\n', None, 3600),
        ('[schedule]\ncron = "0 3 * * *"\n', None, 172800),
        ('every = "2s"\n[schedule]\ncron = "0 3 * * *"\n', 2, 3600),
    ],
)
def test_how_often_and_how_old(tmp_path: Path, text: str, every: float | None, max_age: float) -> None:
    """A source's own interval goes before the general one, and that is nothing where cron says when."""
    config = loaded(tmp_path, text)
    assert (config.every("a"), config.max_age("a")) == (every, max_age)
