"""A disk that is full or read-only, a directory that is not there: the old map stays, and the next run finishes."""

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from syncagent.model import SyncResult
from tests.scenario import Scenario, people
from tests.support.need import need_postmap, need_program, need_root
from tests.support.programs import PATIENCE
from tests.support.run import syncagent

OLD, NEW = people(40), people(4000, first=10)


class Starved(Scenario):
    """A published map whose next run, which has much to write, is to find no room."""

    def __init__(self, directory: Path, *, map_in: Path | None = None, state_in: Path | None = None) -> None:
        super().__init__(directory)
        self.limits = {"removal_grace": "0s", "removed_floor": 1_000_000}
        self.map = (map_in or directory) / "relay_recipients"
        self.state = (state_in or directory) / "state"
        self.write("corp", OLD)
        self.sync()
        self.write("corp", NEW)
        self._before = self.map.read_bytes(), self._index.read_bytes()

    @property
    def _index(self) -> Path:
        return Path(f"{self.map}.lmdb")

    def fails(self, *told: str) -> None:
        """Assert that a run exits 73 with a message that has these words, and the old pair is untouched and answers."""
        self._refused(self.say("sync", code=73), *told)

    def limited(self, limit: int, *told: str) -> None:
        """Assert the same of a run that may not write a file larger than `limit`, nor may its children."""
        command = [sys.executable, "-m", "syncagent", "--config", str(self.configure()), "sync"]
        shell = ["prlimit", f"--fsize={limit}", *command]
        done = subprocess.run(shell, capture_output=True, text=True, check=False, timeout=PATIENCE)
        assert done.returncode == 73, (done.returncode, done.stdout, done.stderr)
        self._refused(done, *told)

    def _refused(self, done: subprocess.CompletedProcess[str], *told: str) -> None:
        message = done.stdout + done.stderr
        assert "Traceback" not in message
        assert any(word in message for word in ("No space left", "disk full", "File too large", "File exists", *told))
        assert (self.map.read_bytes(), self._index.read_bytes()) == self._before
        assert self.published() == OLD
        assert not list(self.map.parent.glob(".*syncagent-*"))
        for words in told:
            assert words in message

    def mended(self) -> SyncResult:
        """Assert that the next run converges, and the one after has nothing to do."""
        result = self.sync()
        assert self.published() == NEW
        assert self.sync().status == "unchanged"
        return result


@contextmanager
def mounted(place: Path, size: str = "1m") -> Iterator[Path]:
    """Mount a small file system of its own there, and take it away whatever happens."""
    need_root()
    mount = need_program("mount")
    place.mkdir()
    done = subprocess.run(
        [mount, "-t", "tmpfs", "-o", f"size={size},mode=0755", "tmpfs", str(place)], capture_output=True, check=False
    )
    if done.returncode:
        pytest.skip(f"this root may not mount: {done.stderr.decode().strip()}")
    try:
        yield place
    finally:
        _unmount(place)


def _unmount(place: Path) -> None:
    subprocess.run([need_program("umount"), "-l", str(place)], check=True, capture_output=True)


def _remount(place: Path, how: str) -> None:
    subprocess.run([need_program("mount"), "-o", f"remount,{how}", str(place)], check=True, capture_output=True)


def _fill(directory: Path, leave: int = 0) -> Path:
    """Fill the file system but for some octets."""
    ballast = directory / "ballast"
    with ballast.open("wb", buffering=0) as file:
        try:
            while True:
                file.write(b"x" * 4096)
        except OSError:
            pass
        file.truncate(max(0, file.tell() - leave))
    return ballast


@pytest.mark.parametrize("left", [0, 8192, 160_000], ids=["none", "two-blocks", "the-text-alone"])
def test_the_maps_disk_is_full(left: int, tmp_path: Path) -> None:
    """No room for the text, half of it, or the index: exit 73 names the step and says to make room."""
    with mounted(tmp_path / "small") as small:
        mx = Starved(tmp_path, map_in=small)
        ballast = _fill(small, left)
        mx.fails(
            "stage" if left < 100_000 else "read back", "No space left on device" if left < 100_000 else "disk full"
        )
        ballast.unlink()
        assert mx.mended().status == "published"


@pytest.mark.parametrize("left", [0, 40_000, 120_000, 200_000, 240_000])
@pytest.mark.parametrize("map_type", ["hash", "lmdb", "cdb"])
def test_a_first_map_on_a_full_disk(map_type: str, left: int, tmp_path: Path) -> None:
    """An index that lacks its keys because the disk is full is no map: not an empty one, and none that is short."""
    need_postmap(map_type)
    with mounted(tmp_path / "small") as small:
        mx = Scenario(tmp_path)
        mx.map = small / "relay_recipients"
        mx.write("corp", NEW)
        config = mx.configure()
        config.write_text(config.read_text("utf-8").replace('map = "lmdb:', f'map = "{map_type}:'), "utf-8")
        ballast = _fill(small, left)
        assert syncagent("sync", config=config).returncode == 73
        assert not mx.map.exists()
        ballast.unlink()
        syncagent("sync", config=config, check=0)
        assert mx.map.read_text("utf-8").count("@") == len(NEW)


@pytest.mark.parametrize("left", [0, 8192, 16_384, 40_960, 200_000])
def test_the_states_disk_is_full(left: int, tmp_path: Path) -> None:
    """No room for what is remembered: exit 73 says which directory, and the next run converges."""
    with mounted(tmp_path / "small", "2m") as small:
        mx = Starved(tmp_path, state_in=small)
        ballast = _fill(small, left)
        mx.fails(str(small / "state"))
        ballast.unlink()
        mx.mended()


def test_one_full_disk_for_both(tmp_path: Path) -> None:
    """Map and state on one full file system: exit 73 and a message, and the next run converges."""
    with mounted(tmp_path / "small", "2m") as small:
        mx = Starved(tmp_path, map_in=small, state_in=small)
        ballast = _fill(small)
        mx.fails()
        ballast.unlink()
        mx.mended()


@pytest.mark.parametrize("limit", [100, 20_000, 100_000, 130_000])
def test_no_file_may_be_that_large(limit: int, tmp_path: Path) -> None:
    """A limit on the size of files stops the run wherever it meets it: exit 73, and without the limit it converges."""
    need_program("prlimit")
    mx = Starved(tmp_path)
    mx.limited(limit)
    mx.mended()


def test_the_maps_directory_is_read_only(tmp_path: Path) -> None:
    """A read-only file system under the map: exit 73, and where that comes from under systemd."""
    with mounted(tmp_path / "small") as small:
        mx = Starved(tmp_path, map_in=small)
        _remount(small, "ro")
        mx.fails("stage: Read-only file system", "ReadWritePaths")
        _remount(small, "rw")
        assert mx.mended().status == "published"


def test_the_states_directory_is_read_only(tmp_path: Path) -> None:
    """A read-only file system under the state directory: exit 73, and which setting names it."""
    with mounted(tmp_path / "small") as small:
        mx = Starved(tmp_path, state_in=small)
        _remount(small, "ro")
        mx.fails(str(small / "state"), "state.directory")
        _remount(small, "rw")
        mx.mended()


def test_a_map_that_is_a_mount_point_is_refused(tmp_path: Path) -> None:
    """A bind mount of a single file cannot be replaced: refused with the mend, and the old map answers."""
    need_root()
    mx = Starved(tmp_path)
    other = tmp_path / "other"
    other.write_bytes(mx.map.read_bytes())
    done = subprocess.run([need_program("mount"), "--bind", str(other), str(mx.map)], capture_output=True, check=False)
    if done.returncode:
        pytest.skip(f"this root may not mount: {done.stderr.decode().strip()}")
    try:
        mx.fails("rename: Device or resource busy", "mount its directory")
    finally:
        _unmount(mx.map)
    assert mx.mended().status == "published"


def test_an_index_that_is_a_mount_point_is_refused(tmp_path: Path) -> None:
    """The same for the index: the old pair stays, text too."""
    need_root()
    mx = Starved(tmp_path)
    other = tmp_path / "other"
    other.write_bytes(mx._index.read_bytes())
    command = [need_program("mount"), "--bind", str(other), str(mx._index)]
    done = subprocess.run(command, capture_output=True, check=False)
    if done.returncode:
        pytest.skip(f"this root may not mount: {done.stderr.decode().strip()}")
    try:
        mx.fails("rename: Device or resource busy", "mount its directory")
    finally:
        _unmount(mx._index)
    assert mx.mended().status == "published"


def test_staging_on_another_file_system_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What could not be renamed into place in one step is refused before anything is touched."""
    with mounted(tmp_path / "small") as place:
        mx = Starved(tmp_path)
        real = tempfile.mkdtemp
        monkeypatch.setattr(
            tempfile,
            "mkdtemp",
            lambda **where: real(**(where | {"dir": place} if "syncagent-" in where["prefix"] else where)),
        )
        mx.set_clock(time.time())
        result = mx.sync(code=73)
        assert "stage: " in result.error
        assert "another file system" in result.error
        monkeypatch.undo()
        assert mx.published() == OLD
        assert mx.mended().status == "published"


def test_a_map_behind_a_link_into_another_file_system(tmp_path: Path) -> None:
    """A text that is a symlink into another file system is staged there, and replaced in one step."""
    with mounted(tmp_path / "small") as place:
        mx = Starved(tmp_path)
        real = place / "the-map"
        shutil.move(mx.map, real)
        mx.map.symlink_to(real)
        mx.mended()
        assert mx.map.is_symlink()
        assert real.read_text("utf-8").count(" OK\n") == len(NEW)


def test_the_maps_directory_is_gone(tmp_path: Path) -> None:
    """No directory to put the map in: exit 73 says to make it."""
    mx = Starved(tmp_path)
    mx.map = tmp_path / "nowhere" / "relay_recipients"
    done = mx.say("sync", code=73)
    assert "make the directory first" in done.stdout + done.stderr
    mx.map.parent.mkdir()
    assert mx.mended().status == "published"


def test_the_state_directory_is_gone(tmp_path: Path) -> None:
    """A state directory that was removed is made anew, it is said, and nobody is lost."""
    mx = Starved(tmp_path)
    mx.lose_ledger()
    result = mx.sync(code=65)
    assert result.notes
    assert mx.published() >= NEW
    mx.approve(*(hold.id for hold in result.plan.holds))
    assert mx.mended().status == "unchanged"


@pytest.mark.parametrize("spoil", [lambda path: path.write_text("x"), lambda path: path.symlink_to("nowhere/at/all")])
def test_the_state_directory_cannot_be_made(spoil: Callable[[Path], object], tmp_path: Path) -> None:
    """Something else in the state directory's place: exit 73 names it and its setting."""
    mx = Starved(tmp_path)
    away = tmp_path / "away"
    mx.state.rename(away)
    spoil(mx.state)
    mx.fails(str(mx.state), "state.directory")
    mx.state.unlink()
    away.rename(mx.state)
    assert mx.mended().status == "published"


def test_an_ordinary_user_may_not_write_the_directories(tmp_path: Path) -> None:
    """A state or map directory that is closed to the user who runs it: exit 73 says to whom it must be open."""
    mx = Starved(tmp_path)
    if os.geteuid() == 0:
        pytest.skip("root may write everywhere")
    tmp_path.chmod(0o500)
    try:
        mx.fails("must be writable for the user")
    finally:
        tmp_path.chmod(0o700)
    mx.mended()
