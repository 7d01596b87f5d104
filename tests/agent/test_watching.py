"""Each way in which a local file changes, noticed by the real agent through the real inotify."""

import hashlib
import os
import shlex
import shutil
import sys
import threading
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from types import SimpleNamespace

import pytest

from syncagent.agent import file_watch as watch
from syncagent.agent.file_watch import Watch, Watcher
from syncagent.sources import Watched
from tests.agent import URGENT, Station
from tests.scenario import people
from tests.support.agent import Agent
from tests.support.need import need, need_postfix, need_program
from tests.support.postfix import PrivatePostfix
from tests.support.programs import PATIENCE, allowed, wait_until
from tests.support.scripted_http import ScriptedHTTP, answer

TOLD = (
    "from syncagent.cli import main as cli\nfrom syncagent.agent import file_watch as watch\n"
    "watch.LOOK = 3600.0\ncli.main()"
)
"""The program, but for its looking now and then: what it notices, the kernel told."""
OLD, LATE = people(40), "late@example.com"
NEW = OLD | {LATE}


@pytest.fixture
def mx(tmp_path: Path) -> Station:
    """A backup MX with list and configuration in directories of their own; nothing is due for an hour."""
    mx = Station(tmp_path)
    (tmp_path / "lists").mkdir()
    (tmp_path / "etc").mkdir()
    mx.config = tmp_path / "etc" / "syncagent.toml"
    at(mx, tmp_path / "lists" / "corp")
    write(mx, tmp_path / "lists" / "corp", OLD)
    return mx


def at(mx: Station, path: Path, **keys: object) -> None:
    """Have the source read this file."""
    mx.sources = {"corp": {"path": str(path), **keys}}


def text(addresses: Iterable[str]) -> str:
    """Write a list."""
    return "".join(f"{address}\n" for address in sorted(addresses))


def write(mx: Station, path: Path, addresses: Iterable[str]) -> None:
    """Write a list elsewhere and rename it into its place, from another directory."""
    staged = mx.directory / "staged"
    staged.write_text(text(addresses), "utf-8")
    staged.replace(path)


def told(mx: Station) -> Agent:
    """Give an agent that notices only what the kernel tells."""
    return Agent(mx.configure(), env=mx.env, command=(sys.executable, "-c", TOLD))


def noticed(mx: Station, change: Callable[[], None], *, seconds: float = URGENT, why: str = "a file changed") -> float:
    """Start an agent, make the change and wait until it is published; give how long that took."""
    with told(mx) as agent:
        return then_noticed(mx, agent, change, seconds=seconds, why=why)


def then_noticed(
    mx: Station, agent: Agent, change: Callable[[], None], *, seconds: float = URGENT, why: str = "a file changed"
) -> float:
    """Make a change under a running agent and wait until it is published; give how long that took."""
    assert wait_until(lambda: bool(agent.events("run")))
    agent.run_now()
    time.sleep(0.5)  # its first look of all is over
    assert not mx.is_published(LATE)
    mark = agent.mark
    change()
    began = time.monotonic()
    published = agent.wait("published", after=mark, seconds=seconds)
    assert mx.is_published(LATE)
    assert why in agent.events("run", run_id=published["run_id"])[0]["why"]
    assert not agent.events(level="error", after=mark), agent.events(level="error", after=mark)
    took = published["at"] - began
    print(f"published after {took:.2f} s")  # noqa: T201 - the figure
    return float(took)


def test_renamed_over(mx: Station) -> None:
    """A file that is replaced from within its directory, and then from outside, is published both times."""
    path = mx.directory / "lists" / "corp"

    def within() -> None:
        (path.parent / ".corp.new").write_text(text(NEW), "utf-8")
        (path.parent / ".corp.new").replace(path)

    with told(mx) as agent:
        then_noticed(mx, agent, within)
        mark = agent.mark
        write(mx, path, OLD)
        agent.wait("published", after=mark, seconds=URGENT)
        assert not mx.is_published(LATE)


def test_a_recipe(mx: Station) -> None:
    """A recipe of one's own that is changed is followed anew; one that is broken fails its source, and no one goes."""
    recipe = mx.directory / "etc" / "own.toml"
    step = '[[steps]]\nname = "{0}"\npath = "/{0}"\nlist = "@"\nemit = [{{ kind = "address", value = "mail" }}]\n'
    head = 'title = "ours"\n[auth]\nkind = "none"\n'

    def write_recipe(text: str) -> None:
        staged = mx.directory / "staged"
        staged.write_text(text, "utf-8")
        staged.replace(recipe)

    write_recipe(head + step.format("a"))
    with ScriptedHTTP() as server:
        server.routes["/a"] = lambda _: answer('[{"mail": "one@example.com"}]')
        server.routes["/b"] = lambda _: answer(f'[{{"mail": "{LATE}"}}]')
        mx.extra = f'[sources.api]\ntype = "http"\nurl = "{server.url}"\nrecipe = "./own.toml"\ninsecure = true\n'
        with told(mx) as agent:
            then_noticed(mx, agent, lambda: write_recipe(head + step.format("a") + step.format("b")))
            mark = agent.mark
            write_recipe(head + step.format("a").replace("value", "valeu"))
            failing = agent.wait("source failing", after=mark, seconds=URGENT)
            assert "valeu" in failing["error"]
            assert mx.is_published("one@example.com", LATE)
            write_recipe(head + step.format("a") + step.format("b"))
            agent.wait("source recovered", after=mark, seconds=URGENT)


def test_renamed_in(mx: Station) -> None:
    """A file that comes from outside to where none was is published."""
    path = mx.directory / "lists" / "corp"
    path.unlink()
    noticed_when_source_fails(mx, lambda: write(mx, path, NEW))


def noticed_when_source_fails(mx: Station, change: Callable[[], None]) -> None:
    """Start an agent whose only source is not there, then make the change."""
    with told(mx) as agent:
        agent.wait("source failing")
        mark = agent.mark
        change()
        agent.wait("published", after=mark, seconds=URGENT)
        assert mx.is_published(LATE)


def test_written_in_place(mx: Station) -> None:
    """A list that is written in place in pieces is read when it was quiet for a second, whole, and not before."""
    path, pieces = mx.directory / "lists" / "corp", sorted(NEW, reverse=True)

    def in_pieces() -> None:
        with path.open("w", encoding="utf-8") as file:
            for first in range(0, len(pieces), 4):
                file.writelines(f"{one}\n" for one in pieces[first : first + 4])
                file.flush()
                time.sleep(0.55)

    with Agent(mx.configure(), env=mx.env) as agent:
        then_noticed(mx, agent, in_pieces)
        published = agent.events("published")
        assert [event["recipients"] for event in published] == [len(OLD), len(NEW)], "never half a list"
        assert mx.published() == NEW


def test_a_link_flips_as_in_a_configmap(mx: Station) -> None:
    """Kubernetes flips ..data to another directory; the file itself is never named by the kernel."""
    lists = mx.directory / "configmap"
    for name, addresses in (("..2026_01", OLD), ("..2026_02", NEW), ("..2026_03", OLD)):
        (lists / name).mkdir(parents=True)
        (lists / name / "corp").write_text(text(addresses), "utf-8")
    (lists / "..data").symlink_to("..2026_01")
    (lists / "corp").symlink_to("..data/corp")
    at(mx, lists / "corp")

    def flip(to: str) -> None:
        (lists / "..data_tmp").symlink_to(to)
        (lists / "..data_tmp").rename(lists / "..data")

    with told(mx) as agent:
        then_noticed(mx, agent, lambda: flip("..2026_02"))
        shutil.rmtree(lists / "..2026_01")
        mark = agent.mark
        flip("..2026_03")
        agent.wait("published", after=mark, seconds=URGENT)
        assert not mx.is_published(LATE)


@pytest.mark.parametrize("link", ["outer", "inner", "relative"])
def test_a_link_flips_on_the_way(mx: Station, link: str) -> None:
    """A link that flips far above the file, or on the way to where another one leads, is noticed as soon."""
    tree = mx.directory / "tree"
    for name, addresses in (("v1", OLD), ("v2", NEW)):
        (tree / "all" / name / "deep" / "er").mkdir(parents=True)
        write(mx, tree / "all" / name / "deep" / "er" / "corp", addresses)
    for place in ("outer", "inner", "relative", "outer/down"):
        (tree / place).mkdir()
    (tree / "inner" / "link").symlink_to(tree / "all" / "v1")
    (tree / "relative" / "link").symlink_to("../inner/./link")
    (tree / "outer" / "link").symlink_to("down/../../relative/link")
    at(mx, tree / "outer" / "link" / "deep" / "er" / "corp")

    def flip() -> None:
        (mx.directory / "new").symlink_to(tree / "all" / "v2")
        (mx.directory / "new").rename(tree / link / "link")

    print(noticed(mx, flip))  # noqa: T201 - the figure


def test_what_a_link_leads_to_is_rewritten(mx: Station) -> None:
    """A link's target elsewhere is watched as well."""
    link, target = mx.directory / "lists" / "link", mx.directory / "elsewhere" / "real"
    target.parent.mkdir()
    write(mx, target, OLD)
    link.symlink_to(target)
    at(mx, link)
    noticed(mx, lambda: write(mx, target, NEW))


def test_a_directory_that_is_not_there_yet(mx: Station) -> None:
    """Directories that are made later, one in another, are watched from then on."""
    path = mx.directory / "later" / "and" / "deeper" / "corp"
    at(mx, path)

    def make() -> None:
        path.parent.mkdir(parents=True)
        time.sleep(0.3)
        write(mx, path, NEW)

    noticed_when_source_fails(mx, make)


def test_a_directory_deleted_and_made_again(mx: Station) -> None:
    """A directory that goes and comes back is watched again, though the kernel's watch went with the old one."""
    path = mx.directory / "lists" / "corp"

    def again() -> None:
        path.parent.mkdir()
        write(mx, path, NEW)

    with told(mx) as agent:
        agent.wait("published")
        mark = agent.mark
        shutil.rmtree(path.parent)
        agent.wait("source failing", after=mark, seconds=URGENT)
        again()
        agent.wait("published", after=mark, seconds=URGENT)
        assert mx.is_published(LATE)
        mark = agent.mark
        write(mx, path, OLD)
        agent.wait("published", after=mark, seconds=URGENT)


def test_a_directory_replaced_at_once(mx: Station) -> None:
    """A directory that is another one from one moment to the next is noticed by looking, and watched again."""
    path = mx.directory / "lists" / "corp"
    other = mx.directory / "other"
    other.mkdir()
    write(mx, other / "corp", NEW)

    def replace() -> None:
        path.parent.rename(mx.directory / "old")
        other.rename(path.parent)

    with Agent(mx.configure(), env=mx.env) as agent:
        then_noticed(mx, agent, replace)
        agent.wait("watch rebuilt")
        mark = agent.mark
        write(mx, path, OLD)
        agent.wait("published", after=mark, seconds=URGENT)
        assert '"watch_rebuilt":1' in (mx.state / "agent.json").read_text("utf-8")


def test_a_file_deleted_and_made_again(mx: Station) -> None:
    """A file that goes is a failing source, and published once it is back."""
    path = mx.directory / "lists" / "corp"
    with told(mx) as agent:
        agent.wait("published")
        mark = agent.mark
        path.unlink()
        agent.wait("source failing", after=mark, seconds=URGENT)
        assert mx.published() == OLD
        path.write_text(text(NEW), "utf-8")
        agent.wait("source recovered", after=mark, seconds=URGENT)
        assert mx.published() == NEW


def test_a_file_in_a_watched_directory(mx: Station) -> None:
    """A source that is a whole directory notices another file in it, and one that goes."""
    at(mx, mx.directory / "lists")
    more = mx.directory / "lists" / "more"
    with told(mx) as agent:
        then_noticed(mx, agent, lambda: write(mx, more, [LATE]))
        mark = agent.mark
        more.unlink()
        agent.wait("published", after=mark, seconds=URGENT)
        assert not mx.is_published(LATE)


def test_by_polling(mx: Station) -> None:
    """With watch = "poll" a change is noticed by looking, without inotify; with "off", not at all."""
    path, off = mx.directory / "lists" / "corp", mx.directory / "off" / "corp"
    off.parent.mkdir()
    write(mx, off, OLD)
    mx.sources = {
        "corp": {"path": str(path), "watch": "poll"},
        "off": {"path": str(off), "watch": "off"},
    }
    with Agent(mx.configure(), env=mx.env) as agent:
        write(mx, off, OLD | {"off@example.com"})
        then_noticed_by_looking(mx, agent, lambda: write(mx, path, NEW))
        assert not [run for run in agent.events("run", why="a file changed") if "off" in run["due"]]


def then_noticed_by_looking(mx: Station, agent: Agent, change: Callable[[], None]) -> None:
    """Make a change and wait for as long as looking now and then takes."""
    agent.wait("published")
    mark = agent.mark
    change()
    agent.wait("published", after=mark, seconds=2 * URGENT)
    assert mx.is_published(LATE)


@pytest.mark.parametrize("limit", ["max_inotify_instances", "max_inotify_watches"])
def test_no_inotify_left(mx: Station, limit: str) -> None:
    """Where the kernel has no inotify left for us, it says so once, and looks every five seconds instead."""
    unshare = need_program("unshare")
    python = shlex.join([sys.executable, "-m", "syncagent"])
    script = f'echo 0 > /proc/sys/user/{limit} || exit 3; exec {python} "$@"'
    need("a user namespace of one's own", os.system(f"{unshare} -Ur sh -c true 2>/dev/null") == 0)  # noqa: S605 - ours
    command = (unshare, "-Ur", "sh", "-c", script, "sh")
    with Agent(mx.configure(), env=mx.env, command=command) as agent:
        assert agent.wait("started")["watch"] == "poll"
        then_noticed_by_looking(mx, agent, lambda: write(mx, mx.directory / "lists" / "corp", NEW))
        mx.exclude = ["user000@example.com"]
        mx.configure()
        agent.wait("configuration read again")
        (told,) = agent.events("watching by polling")
        assert told["level"] == "warning"
        assert "fs.inotify" in told["about"]
        assert not agent.events(level="error")


DYING = """
import threading, time
from syncagent.cli import main as cli
from syncagent.agent.file_watch import _Hints

class Dies(Exception): ...
seen = []
real = _Hints.on_any_event
def on_any_event(self, event):
    if event.src_path.endswith("poison") and not seen:
        seen.append(1)
        raise Dies("as a fault in a handler")
    real(self, event)
_Hints.on_any_event = on_any_event
threading.excepthook = lambda _: None
cli.main()
"""


def test_a_watch_that_died(mx: Station) -> None:
    """A watch whose thread has died is built anew, which is told and counted."""
    script = mx.directory / "dying.py"
    script.write_text(DYING, "utf-8")
    path = mx.directory / "lists" / "corp"
    with Agent(mx.configure(), env=mx.env, command=(sys.executable, str(script))) as agent:
        agent.wait("published")
        (path.parent / "poison").touch()
        assert agent.wait("watch rebuilt", seconds=URGENT)["level"] == "warning"
        then_noticed(mx, agent, lambda: write(mx, path, NEW))
        assert '"watch_rebuilt":1' in (mx.state / "agent.json").read_text("utf-8")


def test_reading_starts_nothing(mx: Station) -> None:
    """Files that are read a thousand times, touched files beside them, and our own writing start no run."""
    path = mx.directory / "lists" / "corp"
    mx.map = path.parent / "relay_recipients"
    mx.state = path.parent / "state"
    with told(mx) as agent:
        agent.wait("published")
        agent.run_now()
        mark = agent.mark
        for _ in range(1000):
            path.read_bytes()
            mx.config.read_bytes()
            mx.map.read_bytes()
        (path.parent / "beside").touch()
        assert agent.quiet(2.5, after=mark) == []


def test_the_end_line_guards_a_list_that_is_never_quiet(mx: Station) -> None:
    """A list that is written without a pause is read after ten seconds; its end line keeps half of it from us."""
    path = mx.directory / "lists" / "corp"
    whole = text(NEW)
    whole += f"# end {len(NEW)} {hashlib.sha256(whole.encode()).hexdigest()}\n"
    at(mx, path, require_end=True)
    path.write_text(whole, "utf-8")
    with Agent(mx.configure(), env=mx.env) as agent:
        agent.wait("published")
        mark = agent.mark
        with path.open("w", encoding="utf-8") as file:
            for _ in range(30):
                file.write("half@example.com\n")
                file.flush()
                if agent.events("source failing", after=mark):
                    break
                time.sleep(0.5)
        failing = agent.wait("source failing", after=mark)
        assert "# end COUNT" in failing["error"]
        assert mx.published() == NEW
        write(mx, path, NEW)


def test_postfix_answers_by_it(tmp_path: Path) -> None:
    """Three seconds after the list changed, a real smtpd that was asked before answers 250."""
    need_postfix("lmdb")
    with PrivatePostfix(["example.com"], map_type="lmdb") as postfix:
        mx = Station(tmp_path)
        mx.map = postfix.map_path
        mx.write("corp", OLD)
        mx.by_hand()
        postfix.reload()
        with told(mx) as agent:
            agent.wait("run")
            agent.run_now()
            assert postfix.verdict(LATE).code == 550
            began = time.monotonic()
            mx.write("corp", NEW)
            assert wait_until(lambda: postfix.verdict(LATE).code == 250, allowed(URGENT), pause=0.1)
            print(f"250 after {time.monotonic() - began:.2f} s")  # noqa: T201 - the figure
            assert postfix.verdict("user000@example.com").code == 250


class Looking:
    """A watch that is looked after by hand, on a clock of its own."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, path: Path, *, poll: bool) -> None:
        self.now, self.changed, self.told = 1000.0, list[str](), list[str]()
        monkeypatch.setattr(watch, "time", SimpleNamespace(monotonic=lambda: self.now))
        several = (Watched(path, poll=poll),)
        self.watch = Watcher(several, lambda: self.changed.append("corp"), self.told.append, self.told.append, print)
        self.watch.look()

    def look(self, seconds: float) -> list[str]:
        """Let time pass, look five times a second, and give what changed."""
        end = self.now + seconds
        while self.now < end:
            self.now += 0.2
            self.watch.look()
        changed, self.changed[:] = [*self.changed], []
        return changed


def test_polling_waits_for_quiet(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A file that is written while it is looked at is told of once it looks the same a second later, or after ten."""
    path = tmp_path / "corp"
    path.write_text("a\n", "utf-8")
    looking = Looking(monkeypatch, path, poll=True)
    assert looking.look(11) == []
    for turn in range(8):
        path.write_text("a\n" * (turn + 2), "utf-8")
        assert looking.look(0.9) == [], "it is still being written"
    assert looking.look(7) == ["corp"]
    found = []
    for turn in range(20):
        path.write_text("b\n" * (turn + 20), "utf-8")
        found += looking.look(0.9)
    assert 1 <= len(found) <= 2, "patience has an end"
    path.write_text("c\n", "utf-8")
    assert "corp" in looking.look(7)
    assert looking.look(20) == []


def test_a_hint_that_is_not_yet_quiet_waits(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """That every five seconds is looked in any case does not cut short the second of quiet after what inotify told."""
    path = tmp_path / "corp"
    path.write_text("a\n", "utf-8")
    looking = Looking(monkeypatch, path, poll=False)
    looking.watch._unwatch()  # what the kernel tells, the test tells instead
    try:
        for start in (0.0, 4.6, 4.8, 5.0):
            looking.look(6)
            looking.look(start)
            looking.changed.clear()
            path.write_text(f"a\n{start}\n", "utf-8")
            looking.watch._hints.first = looking.watch._hints.last = looking.now
            assert looking.look(0.7) == []
            looking.watch._hints.last = looking.now
            assert looking.look(0.7) == []
            assert looking.look(0.5) == ["corp"]
    finally:
        looking.watch._unwatch()


def test_set_and_look_at_the_same_time(tmp_path: Path) -> None:
    """The worker sets what is watched while others look: nobody trips, and neither a watch nor a thread is left."""
    files, threads = len(os.listdir("/proc/self/fd")), threading.active_count()  # noqa: PTH208 - counted
    wrong: list[BaseException] = []
    over = threading.Event()
    watching = Watch(lambda _: None, lambda *_: None, wrong.append)

    def keep() -> None:
        while not over.wait(0.001):
            try:
                watching.look()
            except Exception as error:  # noqa: BLE001 - any is one too many
                wrong.append(error)

    keeper = threading.Thread(target=keep)
    keeper.start()
    try:
        for turn in range(60):
            watching.set({f"{name}{turn}": (Watched(tmp_path / name),) for name in "abc"})
            (tmp_path / "a").write_text(str(turn), "utf-8")
    finally:
        over.set()
        keeper.join(PATIENCE)
        watching.stop()
    assert not wrong, wrong[0]
    assert wait_until(lambda: len(os.listdir("/proc/self/fd")) <= files)  # noqa: PTH208 - counted
    assert wait_until(lambda: threading.active_count() <= threads), threading.enumerate()
