"""Publishing: the index is made when, and only when, something is not as it should be."""

import os
import shutil
import stat
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from msgspec.structs import replace

from syncagent.config import load as configuration
from syncagent.errors import PublishError, UnansweredError
from syncagent.files.atomic import identity
from syncagent.postfix import publish
from syncagent.postfix import table_text as mapfile
from syncagent.postfix.table import Target
from syncagent.values.types import INDEX_SUFFIX
from tests.scenario import Scenario, people
from tests.support.need import need_postmap
from tests.support.postmap import postmap_build, postmap_keys, postmap_query, settle

TYPES = ("hash", "btree", "lmdb", "cdb", "texthash")


class Published(Scenario):
    """A scenario with ten recipients published in a map of some type, and a postmap that counts its runs."""

    def __init__(self, directory: Path, map_type: str = "lmdb") -> None:
        super().__init__(directory)
        need_postmap(map_type)
        self.map_type = map_type
        self.extra = {"reload": False}
        self.runs = directory / "runs"
        self._env = _counting_postmap(directory, self.runs)
        self.write("corp", people(10))
        self.sync()

    def configure(self) -> Path:
        """Write the configuration with the map's type."""
        file = super().configure()
        text = file.read_text().replace('map = "lmdb:', f'reload = false\nmap = "{self.map_type}:')
        file.write_text(text)
        return file

    def published(self) -> set[str]:
        """Give the keys that are answered for; cdb cannot list, so it is asked for what the text says."""
        if not self.map.exists() or not self.index.exists() or not self.index.stat().st_size:
            return set()
        name = f"{self.map_type}:{self.map}"
        text = {key.decode() for key in _keys(self.map)}
        if self.map_type in {"cdb", "texthash"}:
            return {key for key in text if postmap_query(self._postfix, name, key.encode()) == b"OK"}
        return {key.decode() for key in postmap_keys(self._postfix, name)}

    @property
    def index(self) -> Path:
        """Where the index is; the text itself where the type has none."""
        return Path(f"{self.map}{INDEX_SUFFIX[self.map_type]}")

    def built(self) -> int:
        """How many indexes postmap has built."""
        return len(self.runs.read_text().splitlines()) if self.runs.exists() else 0


def _keys(text: Path) -> list[bytes]:
    with text.open("rb") as lines:
        return [parts[0] for _, line in mapfile.logical_lines(lines) if (parts := mapfile.split(line))]


def _listed(mx: Scenario) -> set[str]:
    return {key.decode() for key in postmap_keys(mx.directory / "postfix", f"lmdb:{mx.map}")} - {"bare"}


def _counting_postmap(directory: Path, runs: Path) -> dict[str, str]:
    """Put a postmap first on PATH that notes each build and then is the real one."""
    real = need_postmap("lmdb")
    program = directory / "bin" / "postmap"
    program.parent.mkdir()
    program.write_text(
        f'#!/bin/sh\ncase "$*" in *" -s "*|*" -q "*) ;; *) echo "$*" >> {runs} ;; esac\nexec {real} "$@"\n'
    )
    program.chmod(0o755)
    return {"PATH": f"{program.parent}{os.pathsep}{os.environ['PATH']}"}


@pytest.fixture(params=TYPES)
def mx(request: pytest.FixtureRequest, tmp_path: Path) -> Published:
    """A published map of each type."""
    return Published(tmp_path, request.param)


def test_unchanged_leaves_both_files_and_runs_no_postmap(mx: Published) -> None:
    """A second sync leaves text and index the very same files, and builds nothing."""
    before = identity(mx.map), identity(mx.index), mx.built()
    assert mx.sync().status == "unchanged"
    assert (identity(mx.map), identity(mx.index), mx.built()) == before


def test_a_rewritten_source_with_the_same_addresses_publishes_nothing(mx: Published) -> None:
    """What counts is the content: another order and a comment change no map."""
    before = identity(mx.map), mx.built()
    mx.file("corp").write_text("# again\n" + "\n".join(sorted(people(10), reverse=True)) + "\n")
    assert mx.sync().status == "unchanged"
    assert (identity(mx.map), mx.built()) == before


def _delete_index(mx: Published) -> None:
    mx.index.unlink()


def _back_date_index(mx: Published) -> None:
    os.utime(mx.index, (1, 1))


def _spoil_index(mx: Published) -> None:
    mx.index.write_bytes(b"")


def _take_older_text(mx: Published) -> None:
    mx.map.write_text("user000@example.com OK\n")


def _add_by_hand(mx: Published) -> None:
    with mx.map.open("a") as text:
        text.write("hand@example.com OK\n")


def _touch_main_cf(mx: Published) -> None:
    os.utime(mx.directory / "postfix" / "main.cf", (1, 1))


@pytest.mark.parametrize(
    "spoil", [_delete_index, _back_date_index, _spoil_index, _take_older_text, _add_by_hand, _touch_main_cf]
)
def test_whatever_is_off_the_record_is_put_right(mx: Published, spoil: Callable[[Published], None]) -> None:
    """A lost, back-dated or spoilt index, a hand edit, an older text, another main.cf: the next run mends it, once."""
    if mx.map_type == "texthash" and spoil in {_delete_index, _spoil_index}:
        pytest.skip("a texthash map has no index: its text is another case")
    time.sleep(0.01)
    spoil(mx)
    result = mx.sync()
    assert result.status == "published"
    assert mx.published() == people(10) | (
        {"hand@example.com"} if spoil is _add_by_hand and result.plan.removed == 0 else set()
    )
    before = identity(mx.map), identity(mx.index), mx.built()
    assert mx.sync().status == "unchanged"
    assert (identity(mx.map), identity(mx.index), mx.built()) == before


def test_the_text_is_deterministic_and_says_who_writes_it(mx: Published) -> None:
    """Two maps of the same recipients are the same octets: a header line, sorted keys, no time stamp."""
    text = mx.map.read_bytes()
    assert text.startswith(mapfile.HEADER)
    assert _keys(mx.map) == sorted(address.encode() for address in people(10))
    mx.map.unlink()
    mx.sync()
    assert mx.map.read_bytes() == text


def test_another_map_type_is_built_and_nothing_is_lost(tmp_path: Path) -> None:
    """Changing the type in the configuration builds the other index from the same recipients, even without a source."""
    mx = Published(tmp_path, "hash")
    mx.break_source("corp")
    mx.map_type = "cdb"
    mx.sync(code=75)
    assert mx.published() == people(10)
    assert mx.index.suffix == ".cdb"
    assert not mx.map.with_name(mx.map.name + ".db").exists(), "the old index, read by mistake, would refuse the new"


def test_an_index_that_is_not_ours_stays(tmp_path: Path) -> None:
    """An index under another suffix that syncagent did not make is nobody's business of its."""
    mx = Published(tmp_path, "lmdb")
    other = mx.map.with_name(mx.map.name + ".db")
    other.write_bytes(b"somebody else's")
    mx.write("corp", people(11))
    mx.sync()
    assert other.read_bytes() == b"somebody else's"


def test_mode_and_owner_are_kept() -> None:
    """A new map is readable for smtpd; one that was there keeps its mode and, for root, its owner."""
    with tempfile.TemporaryDirectory() as directory:  # pytest's own is closed to other users
        Path(directory).chmod(0o755)
        _mode_and_owner_are_kept(Published(Path(directory)))


def test_a_new_map_is_for_all_to_read_whatever_the_umask(tmp_path: Path) -> None:
    """Text and index are 0644: smtpd is another user."""
    old = os.umask(0o077)
    try:
        mx = Published(tmp_path)
    finally:
        os.umask(old)
    assert [stat.S_IMODE(path.stat().st_mode) for path in (mx.map, mx.index)] == [0o644, 0o644]


def _mode_and_owner_are_kept(mx: Published) -> None:
    assert stat.S_IMODE(mx.map.stat().st_mode) == 0o644
    assert stat.S_IMODE(mx.index.stat().st_mode) & 0o444 == 0o444
    mx.map.chmod(0o640)
    if os.geteuid() == 0:
        os.chown(mx.map, 12345, 12345)
    mx.write("corp", people(11))
    mx.sync()
    after = mx.map.stat()
    assert stat.S_IMODE(after.st_mode) == 0o640
    assert stat.S_IMODE(mx.index.stat().st_mode) == 0o640
    assert os.geteuid() != 0 or (after.st_uid, after.st_gid) == (12345, 12345)
    assert mx.published() == people(11)


def test_a_symlink_in_the_maps_place_is_followed_and_stays(tmp_path: Path) -> None:
    """The text goes where the link leads, the index where Postfix looks for it: beside the link."""
    mx = Published(tmp_path)
    real = tmp_path / "elsewhere" / "the-map"
    real.parent.mkdir()
    shutil.move(mx.map, real)
    mx.map.symlink_to(real)
    mx.write("corp", people(12))
    mx.sync()
    assert mx.map.is_symlink()
    assert mx.published() == people(12)
    assert len(_keys(real)) == 12
    assert mx.sync().status == "unchanged"


def test_staging_left_by_a_killed_run_is_swept(tmp_path: Path) -> None:
    """A staging directory that nobody works in goes with the next run."""
    mx = Published(tmp_path)
    left = tmp_path / f".{mx.map.name}.syncagent-killed"
    left.mkdir()
    (left / "half").write_text("x")
    mx.sync()
    assert not left.exists()


def test_a_hand_made_map_is_adopted(tmp_path: Path) -> None:
    """What another hand wrote stays until the guard lets it go; a copy is kept; adds flow at once."""
    mx = Scenario(tmp_path)
    mx.limits = {"removal_grace": "1h", "removed_percent": 100}
    text = "# by hand\nOld.Name@Example.COM  OK\nuser000@example.com OK\n@gone.test OK\nbare OK\n"
    mx.map.write_text(text)
    settle(mx.map)
    postmap_build(tmp_path / "postfix", f"lmdb:{mx.map}")
    mx.published = lambda: _listed(mx)  # type: ignore[method-assign] # another hand's text is not as ours is
    mx.write("corp", people(3))
    mx.set_clock()
    result = mx.sync(code=65)
    assert mx.published() == people(3) | {"old.name@example.com", "@gone.test"}
    assert {hold.domain for hold in result.plan.holds} == {"gone.test"}
    (copy,) = (mx.state / "adopted").iterdir()
    assert "by hand" in copy.read_text()
    assert any("1 lines" in note for note in result.notes), "the bare key is told of"
    mx.wait(3601)
    mx.sync(code=65)
    assert mx.published() == people(3) | {"@gone.test"}


@pytest.mark.parametrize("map_type", TYPES)
def test_a_lying_index_fails_and_leaves_the_old_pair(map_type: str, tmp_path: Path) -> None:
    """A postmap that leaves out a published key, or adds one, is found out by asking; the old map stays."""
    mx = Published(tmp_path, map_type)
    if map_type == "texthash":
        pytest.skip("no postmap has a hand in a texthash map")
    real = need_postmap(map_type)
    program = tmp_path / "bin" / "postmap"
    lies = {"lacks": "sed -i /user003/d", "adds": "sed -i '$a extra@example.com OK'"}
    if map_type == "cdb":
        del lies["adds"]  # cdb cannot list its keys
    before = identity(mx.map), identity(mx.index)
    for what, lie in lies.items():
        mx.write("corp", people(11))
        program.write_text(
            f'#!/bin/sh\nfor last; do :; done\ncase "$*" in *" -s "*|*" -q "*) exec {real} "$@" ;; esac\n'
            f'cp "${{last#*:}}" {tmp_path}/true; {lie} "${{last#*:}}"; {real} "$@"; status=$?\n'
            f'cat {tmp_path}/true > "${{last#*:}}"; exit $status\n'
        )
        result = mx.sync(code=73)
        assert result.status == "failed", what
        assert "read back" in result.error
        assert (identity(mx.map), identity(mx.index)) == before


def test_a_new_key_that_is_not_answered_for_becomes_a_reject(tmp_path: Path) -> None:
    """One new recipient that Postfix drops is rejected with that reason, and the others are published."""
    mx = Published(tmp_path)
    real = need_postmap("lmdb")
    program = tmp_path / "bin" / "postmap"
    program.write_text(
        f'#!/bin/sh\nfor last; do :; done\ncase "$*" in *" -s "*|*" -q "*) exec {real} "$@" ;; esac\n'
        f'cp "${{last#*:}}" {tmp_path}/true; sed -i /user010/d "${{last#*:}}"; {real} "$@"; status=$?\n'
        f'cat {tmp_path}/true > "${{last#*:}}"; exit $status\n'
    )
    mx.write("corp", people(12))
    result = mx._run("sync", code=0)  # whose checks would miss the one that Postfix does not take
    assert [(reject.spelled, reject.reason) for reject in result.reject_sample] == [
        ("user010@example.com", "Postfix does not answer for it")
    ]
    assert mx.published() == people(12) - {"user010@example.com"}
    assert result.plan.added == 1


@pytest.mark.parametrize(
    ("script", "told"),
    [
        ("exit 1", "postmap failed (1)"),
        ("exit 0", "one index file should have appeared"),
        ("exec sleep 60", "did not end within 1s"),
    ],
)
def test_a_postmap_that_fails_is_named_and_tried_again(script: str, told: str, tmp_path: Path) -> None:
    """A postmap failing, making nothing, or hanging: exit 73, the old map stays, and the next run finishes the job."""
    mx = Published(tmp_path)
    program = tmp_path / "bin" / "postmap"
    good = program.read_text()
    program.write_text(f"#!/bin/sh\n{script}\n")
    file = mx.configure
    mx.configure = lambda: _with_timeout(file())  # type: ignore[method-assign]
    before = identity(mx.map), identity(mx.index)
    mx.write("corp", people(11))
    result = mx.sync(code=73)
    assert told in result.error
    assert (identity(mx.map), identity(mx.index)) == before
    program.write_text(good)
    assert mx.sync().status == "published"
    assert mx.published() == people(11)


def _with_timeout(file: Path) -> Path:
    file.write_text(file.read_text().replace("[postfix]", '[postfix]\npostmap_timeout = "1s"', 1))
    return file


def test_without_postmap_the_message_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A host without Postfix can plan, and is told what publishing needs."""
    mx = Scenario(tmp_path)
    mx.write("corp", people(3))
    monkeypatch.setattr("syncagent.postfix.commands.tool", lambda _name: None)
    mx.set_clock()
    result = mx.sync(code=73)
    assert "apt-get install postfix" in result.error
    assert mx.published() == set()


def test_a_texthash_needs_root_or_a_word(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not root, and reload not switched off: publishing fails before anything is touched, and says the mend."""
    mx = Published(tmp_path, "texthash")
    loaded = configuration.load(mx.configure())
    target = Target(replace(loaded.postfix, reload=True).settings())
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    before = identity(mx.map)
    with pytest.raises(PublishError, match=r"postfix\.reload = false"):
        publish.publish(target, tmp_path / "nothing", tmp_path, lambda _step, _count: None)
    assert identity(mx.map) == before


def test_unanswered_keys_are_named_but_not_all() -> None:
    """The message of many missing keys stays short."""
    error = UnansweredError([f"user{number}@example.com".encode() for number in range(1000)])
    assert "1000 of the keys" in str(error)
    assert len(str(error)) < 200


def test_an_index_behind_a_link_is_staged_beside_its_place(tmp_path: Path) -> None:
    """An index that is a symlink into another directory, perhaps of another file system, is replaced there."""
    mx = Published(tmp_path)
    elsewhere = tmp_path / "elsewhere" / "the-index"
    elsewhere.parent.mkdir()
    shutil.move(mx.index, elsewhere)
    mx.index.symlink_to(elsewhere)
    before = identity(elsewhere)
    mx.write("corp", people(12))
    mx.sync()
    assert mx.index.is_symlink()
    assert identity(elsewhere) != before
    assert mx.published() == people(12)
    assert [path.name for path in elsewhere.parent.iterdir()] == ["the-index"]


def test_a_reload_that_cannot_be_judged_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where Postfix's configuration cannot be read, nobody can say that Postfix does not run."""
    mx = Published(tmp_path, "texthash")
    (tmp_path / "postfix" / "main.cf").unlink()
    loaded = configuration.load(mx.configure())
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    with pytest.raises(PublishError, match="cannot tell whether Postfix runs"):
        publish.reload(Target(replace(loaded.postfix, reload=True).settings()))
