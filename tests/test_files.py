"""Sorted files, the children that make them, locks and identities."""

import hashlib
import itertools
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from syncagent.errors import DamagedError, LedgerError, LockBusyError
from syncagent.files import atomic, pipeline, sorted_lines
from tests.support.programs import allowed, wait_until


def in_order(lines: Iterable[bytes]) -> list[bytes]:
    """Sort as sort(1) does in the C locale: by the octets of the line, of which its end is none."""
    return sorted(lines, key=lambda line: line.removesuffix(b"\n"))


LINE = st.binary(max_size=12).map(lambda text: text.replace(b"\n", b"") + b"\n")
LINES = st.lists(LINE, max_size=30)
SORTED = st.lists(LINE, unique=True, max_size=30).map(in_order)
CHUNKS = st.lists(st.binary(max_size=8), max_size=12)
quick = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
_numbers = itertools.count()


def fresh(directory: Path) -> Path:
    """Give a name that nothing has yet."""
    return directory / f"file-{next(_numbers)}"


def written(directory: Path, lines: Iterable[bytes]) -> sorted_lines.SortedFile:
    """Write a sorted file."""
    return sorted_lines.write_sorted(fresh(directory), lines)


@quick
@given(lines=SORTED, cut=st.integers(1, 9))
def test_what_is_written_is_read(lines: list[bytes], cut: int, tmp_path: Path) -> None:
    """A sorted file, whatever the chunks it came in, verifies, and has its lines and no others."""
    text = b"".join(lines)
    file = sorted_lines.write_sorted(fresh(tmp_path), (text[at : at + cut] for at in range(0, len(text), cut)))
    assert file.count == len(lines)
    assert file.digest == hashlib.sha256(text).hexdigest()
    assert sorted_lines.verify(file.path) == sorted_lines.verify(file.path, file.digest) == file
    assert b"".join(sorted_lines.chunks_of(file)) == text
    assert file.path.read_bytes() == text + sorted_lines.end_line(file.count, file.digest)


def test_a_sorted_file_is_private(tmp_path: Path) -> None:
    """Others than owner and group may not read what is remembered, whatever the umask."""
    before = os.umask(0)
    try:
        assert written(tmp_path, [b"a\n"]).path.stat().st_mode & 0o777 == 0o640
    finally:
        os.umask(before)


SMALL = {
    "none": [],
    "one": [b"a@example.com\tk\t\n"],
    "three": [b"a@example.com\tk\t\n", b"b@example.com\tk\t\n", b"c@example.com\tk\t\n"],
    "like an end": [b"# end 0 " + hashlib.sha256().hexdigest().encode() + b"\n", b"a@example.com\n"],
}


@pytest.mark.parametrize("lines", SMALL.values(), ids=SMALL)
def test_a_cut_is_noticed_wherever_it_is(lines: list[bytes], tmp_path: Path) -> None:
    """A file that ends too early is damaged, at every octet where it might be cut."""
    file = written(tmp_path, lines)
    whole = file.path.read_bytes()
    for length in range(len(whole)):
        file.path.write_bytes(whole[:length])
        with pytest.raises(DamagedError):
            sorted_lines.verify(file.path, file.digest)
        if lines != SMALL["like an end"]:  # which is cut to a whole file of its own
            with pytest.raises(DamagedError):
                sorted_lines.verify(file.path)


@pytest.mark.parametrize("lines", SMALL.values(), ids=SMALL)
@pytest.mark.parametrize("flip", [0x01, 0x20, 0x80])
def test_an_altered_octet_is_noticed(lines: list[bytes], flip: int, tmp_path: Path) -> None:
    """A file with one octet altered is damaged, wherever that octet is, its end line included."""
    file = written(tmp_path, lines)
    whole = file.path.read_bytes()
    for at, octet in enumerate(whole):
        file.path.write_bytes(whole[:at] + bytes([octet ^ flip]) + whole[at + 1 :])
        with pytest.raises(DamagedError):
            sorted_lines.verify(file.path, file.digest)
        with pytest.raises(DamagedError):
            sorted_lines.verify(file.path)


@pytest.mark.parametrize(
    "after", [b"\n", b"x", b"z@example.com\n", b"\0" * 512, sorted_lines.end_line(0, hashlib.sha256().hexdigest())]
)
def test_more_than_was_written_is_noticed(after: bytes, tmp_path: Path) -> None:
    """A file that goes on after its end line is damaged."""
    file = written(tmp_path, SMALL["three"])
    file.path.write_bytes(file.path.read_bytes() + after)
    with pytest.raises(DamagedError):
        sorted_lines.verify(file.path)


def test_lost_lines_are_noticed(tmp_path: Path) -> None:
    """Lines that are gone, twice there or in another order are damage."""
    file = written(tmp_path, SMALL["three"])
    *lines, end = file.path.read_bytes().splitlines(keepends=True)
    for others in (lines[1:], lines[:-1], [*lines, lines[-1]], lines[::-1], []):
        file.path.write_bytes(b"".join([*others, end]))
        with pytest.raises(DamagedError):
            sorted_lines.verify(file.path)


def test_another_file_is_noticed(tmp_path: Path) -> None:
    """A whole file is damage where another one is on record, as when an old one was restored."""
    file, other = written(tmp_path, SMALL["three"]), written(tmp_path, SMALL["one"])
    with pytest.raises(DamagedError, match=str(file.path)):
        sorted_lines.verify(file.path, other.digest)


def test_a_missing_file_is_damage(tmp_path: Path) -> None:
    """What is not there, or is no file, is damaged."""
    for path in (tmp_path / "none", tmp_path, tmp_path / "none" / "none"):
        with pytest.raises(DamagedError, match="cannot be read"):
            sorted_lines.verify(path)


@pytest.mark.parametrize(
    "line",
    [b"", b"\n", b"# end 1 x\n", b"# end -1 " + b"0" * 64 + b"\n", b"# end 1 " + b"A" * 64 + b"\n", b"#end\n",
     b"# end 1 " + b"0" * 64, b" # end 1 " + b"0" * 64 + b"\n", b"# end 1 " + b"0" * 64 + b"\r\n",
     b"# end " + b"1" * 19 + b" " + b"0" * 64 + b"\n"],
)  # fmt: skip
def test_what_is_no_end_line(line: bytes) -> None:
    """Only the exact form is an end line."""
    assert sorted_lines.parse_end(line) is None


@given(count=st.integers(0, 10**18 - 1), digest=st.binary().map(lambda text: hashlib.sha256(text).hexdigest()))
def test_end_lines_round_trip(count: int, digest: str) -> None:
    """An end line is read as it was written."""
    assert sorted_lines.parse_end(sorted_lines.end_line(count, digest)) == (count, digest)


@quick
@given(lines=LINES)
def test_sorter_is_sorted_set(lines: list[bytes], tmp_path: Path) -> None:
    """A sorter gives each line once, in the order of the octets, whatever the octets."""
    with pipeline.Sorter(tmp_path) as sorter:
        sorter.feed(lines)
        assert b"".join(sorter.finish()) == b"".join(in_order(set(lines)))


def test_sorter_overflows_into_the_spool(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What does not fit its buffer goes to the spool and nowhere else, comes out sorted, and is gone afterwards."""
    monkeypatch.setattr(pipeline, "SORT_BUFFER", "64k")
    lines = [b"%d@example.com\n" % (number * 7919 % 60_013) for number in range(60_000)]
    with pipeline.Sorter(tmp_path) as sorter:
        sorter.feed(lines)
        assert wait_until(lambda: any(tmp_path.iterdir()))
        assert b"".join(sorter.finish()) == b"".join(in_order(set(lines)))
    assert not list(tmp_path.iterdir())


def test_sorter_minds_no_locale(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The order is that of the octets under any locale."""
    monkeypatch.setenv("LC_ALL", "en_US.UTF-8")
    monkeypatch.setenv("LANG", "de_DE.UTF-8")
    with pipeline.Sorter(tmp_path) as sorter:
        sorter.feed([b"b\n", b"A\n", b"a\n", b"B\n", "ä\n".encode(), b"-\n", b"_\n"])
        assert b"".join(sorter.finish()) == "-\nA\nB\n_\na\nb\nä\n".encode()


def test_sorter_without_a_spool_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A sorter that cannot overflow fails with what sort(1) said, rather than sort a part."""
    monkeypatch.setattr(pipeline, "SORT_BUFFER", "64k")

    def overflow() -> None:
        with pipeline.Sorter(tmp_path / "none") as sorter:
            sorter.feed(b"%d@example.com\n" % number for number in range(200_000))
            for _ in sorter.finish():
                pass

    with pytest.raises(LedgerError, match=r"sort failed .*none"):
        overflow()


@pytest.mark.parametrize(
    ("command", "why"),
    [
        (["sh", "-c", "echo x; echo the reason >&2; exit 3"], r"sh failed \(3\): the reason"),
        (["false"], r"false failed \(1\): no message"),
        (["sh", "-c", "kill -9 $$"], r"sh failed \(-9\)"),
    ],
)
def test_a_child_that_fails_is_an_error(command: list[str], why: str) -> None:
    """A child's exit status is judged though all of its output was read, and its words are passed on."""

    def run() -> None:
        with pipeline.Child(command, subprocess.DEVNULL) as child:
            list(child.chunks())

    with pytest.raises(LedgerError, match=why):
        run()


def test_a_child_may_fail_where_that_is_good() -> None:
    """An exit status that the caller calls good is good."""
    with pipeline.Child(["sh", "-c", "echo x; exit 1"], subprocess.DEVNULL, good=(0, 1)) as child:
        assert list(child.lines()) == [b"x\n"]


def test_a_child_that_takes_too_long_is_killed() -> None:
    """After its limit a child is killed, which is a failure."""
    started = time.monotonic()

    def run() -> None:
        with pipeline.Child(["sleep", "60"], subprocess.DEVNULL, limit=0.2) as child:
            list(child.chunks())

    with pytest.raises(LedgerError, match=r"sleep failed \(-9\)"):
        run()
    assert time.monotonic() - started < allowed(10)


def test_a_block_left_in_a_hurry_ends_the_child() -> None:
    """An exception in the block kills the child and is not hidden by the child's own end."""
    started, child = time.monotonic(), None

    def run() -> None:
        nonlocal child
        with pipeline.Child(["sleep", "60"], subprocess.DEVNULL) as child:
            raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        run()
    assert time.monotonic() - started < allowed(10)
    assert isinstance(child, pipeline.Child)
    assert child.process.poll() is not None


@quick
@given(left=SORTED, right=SORTED)
def test_differences_are_those_of_sets(left: list[bytes], right: list[bytes], tmp_path: Path) -> None:
    """What only one of two files has is what only one of two sets has, end line or not."""
    left, right = ([line for line in lines if b"\t" not in line] for lines in (left, right))
    plain = pipeline.write_plain(fresh(tmp_path), left)
    wanted = {*(set(left) - set(right)), *(b"\t" + line for line in set(right) - set(left))}
    for other in (pipeline.write_plain(fresh(tmp_path), right), written(tmp_path, right)):
        with sorted_lines.differences(plain, other) as chunks:
            found = [line + b"\n" for line in b"".join(chunks).split(b"\n")[:-1]]
        assert set(found) == wanted
        assert len(found) == len(wanted)


def test_differences_of_unsorted_files_fail(tmp_path: Path) -> None:
    """Two files that are not sorted are not compared: the answer would be wrong."""
    left = pipeline.write_plain(fresh(tmp_path), [b"c\n", b"a\n", b"b\n"])
    right = pipeline.write_plain(fresh(tmp_path), [b"a\n", b"b\n", b"c\n"])

    def run() -> None:
        with sorted_lines.differences(left, right) as lines:
            list(lines)

    with pytest.raises(LedgerError, match="comm failed"):
        run()


def test_differences_with_a_missing_file_fail(tmp_path: Path) -> None:
    """A file that is not there is no empty one."""
    there = pipeline.write_plain(fresh(tmp_path), [b"a\n"])

    def run(left: Path, right: Path) -> None:
        with sorted_lines.differences(left, right) as lines:
            list(lines)

    for left, right in ((there, tmp_path / "none"), (tmp_path / "none", there)):
        with pytest.raises(LedgerError):
            run(left, right)


@quick
@given(parts=st.lists(SORTED, max_size=4))
def test_merged_is_sorted(parts: list[list[bytes]], tmp_path: Path) -> None:
    """Sorted files merge into all their lines, in order."""
    paths = [pipeline.write_plain(fresh(tmp_path), lines) for lines in parts]
    with pipeline.merged(paths) as child:
        assert list(child.lines()) == in_order(itertools.chain.from_iterable(parts))


def test_merged_with_a_missing_file_fails(tmp_path: Path) -> None:
    """A file that is not there is no empty one."""

    def run() -> None:
        with pipeline.merged([pipeline.write_plain(fresh(tmp_path), [b"a\n"]), tmp_path / "none"]) as child:
            list(child.lines())

    with pytest.raises(LedgerError):
        run()


@given(lines=LINES, size=st.integers(1, 40))
def test_joined_lines_join(lines: list[bytes], size: int) -> None:
    """Joined lines are the lines, in pieces that end with a line and are no longer than a line over the size."""
    joined = list(pipeline.joined_lines(lines, size))
    assert b"".join(joined) == b"".join(lines)
    assert all(piece and piece.endswith(b"\n") for piece in joined)
    assert all(len(piece) <= size + max(map(len, lines)) for piece in joined)


@given(chunks=CHUNKS)
def test_whole_lines_are_whole(chunks: list[bytes]) -> None:
    """Chunks cut anew are the same text, each piece whole lines, but for a last one without an end."""
    pieces = list(pipeline.whole_lines(chunks))
    assert b"".join(pieces) == b"".join(chunks)
    assert all(piece.endswith(b"\n") for piece in pieces[:-1])
    assert all(pieces)
    assert not pieces or pieces[-1].endswith(b"\n") or b"\n" not in pieces[-1]


@quick
@given(text=st.binary(max_size=300))
def test_chunks_in_is_the_file(text: bytes, tmp_path: Path) -> None:
    """A file in chunks is the file."""
    path = pipeline.write_plain(fresh(tmp_path), [text])
    assert b"".join(atomic.chunks_in(path)) == text


def test_identity(tmp_path: Path) -> None:
    """An identity changes with whatever happens to a file, follows symlinks, and is None where nothing is."""
    path = tmp_path / "file"
    assert atomic.identity(path) is None
    assert atomic.identity(path / "below") is None
    path.write_bytes(b"a")
    assert atomic.identity(path / "below") is None
    before = atomic.identity(path)
    assert before is not None
    assert atomic.identity(path) == before
    (tmp_path / "link").symlink_to(path)
    assert atomic.identity(tmp_path / "link") == before
    changes: list[Callable[[], object]] = [
        lambda: path.write_bytes(b"b"),
        lambda: os.utime(path, (1, 1)),
        lambda: path.chmod(0o600),
        lambda: ((tmp_path / "new").write_bytes(b"b"), (tmp_path / "new").replace(path)),
    ]
    for change in changes:
        time.sleep(0.02)  # the clock of a file system ticks slowly
        change()
        after = atomic.identity(path)
        assert after is not None
        assert after != before
        before = after
    path.unlink()
    assert atomic.identity(path) is None
    assert atomic.identity(tmp_path / "link") is None


_HOLD = """
import sys
from pathlib import Path
from syncagent.files.atomic import locked
with locked(Path(sys.argv[1]), 5, shared=sys.argv[2] == "shared"):
    print("locked", flush=True)
    sys.stdin.read()
"""


@contextmanager
def holder(path: Path, how: str) -> Iterator[subprocess.Popen[str]]:
    """Hold the lock in another process, until its standard input ends."""
    command = [sys.executable, "-c", _HOLD, str(path), how]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, encoding="utf-8") as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "locked\n"
        yield process


def try_lock(path: Path, how: str, timeout: float = 0) -> bool:
    """Tell whether the lock is to be had."""
    try:
        with atomic.locked(path, timeout, shared=how == "shared"):
            return True
    except LockBusyError:
        return False


@pytest.mark.parametrize(
    ("theirs", "ours", "free"),
    [("exclusive", "exclusive", False), ("exclusive", "shared", False), ("shared", "exclusive", False),
     ("shared", "shared", True)],
)  # fmt: skip
def test_a_lock_between_processes(theirs: str, ours: str, free: bool, tmp_path: Path) -> None:  # noqa: FBT001 - a parameter
    """One holds the lock alone, or several share it; it is free as soon as its holder ends, however it ends."""
    path = tmp_path / "lock"
    path.touch()
    with holder(path, theirs) as process:
        assert try_lock(path, ours) is free
        process.kill()
        process.wait()
    assert try_lock(path, "exclusive")


def test_a_lock_is_waited_for(tmp_path: Path) -> None:
    """A lock that comes free in time is had, and one that does not is an error that names it, after the time."""
    path = tmp_path / "lock"
    with holder(path, "exclusive") as process:
        started = time.monotonic()
        with pytest.raises(LockBusyError, match=rf"{path} .*within 0\.3s"), atomic.locked(path, 0.3):
            pytest.fail("it was had")
        assert 0.3 <= time.monotonic() - started < allowed(5)
        release = subprocess.Popen(["sh", "-c", f"sleep 0.3; kill {process.pid}"])
        assert try_lock(path, "exclusive", 10)
        release.wait()


def test_a_lock_is_let_go(tmp_path: Path) -> None:
    """A lock is let go when its block ends, in an error too, and no child inherits it."""
    path = tmp_path / "lock"

    def fail() -> None:
        with atomic.locked(path, 0):
            child.append(subprocess.Popen(["sleep", "60"], close_fds=False))
            raise KeyError("mine")

    child: list[subprocess.Popen[bytes]] = []
    with pytest.raises(KeyError, match="mine"):
        fail()
    try:
        assert try_lock(path, "exclusive")
        assert path.stat().st_mode & 0o777 == 0o600
    finally:
        child[0].kill()
        child[0].wait()


def test_a_shared_lock_needs_no_right_to_write(tmp_path: Path) -> None:
    """A shared lock opens the file for reading and makes none."""
    path = tmp_path / "lock"
    with pytest.raises(FileNotFoundError):
        try_lock(path, "shared")
    assert not path.exists()
    path.touch(mode=0o440)
    assert try_lock(path, "shared")


def test_an_identity_is_stored_as_numbers(tmp_path: Path) -> None:
    """What state.db and validators have is a list of five numbers, which is equal to the identity when it is read."""
    path = tmp_path / "file"
    path.write_bytes(b"x")
    found = atomic.identity(path)
    assert found is not None
    stored = msgspec.json.encode(found)
    stat = path.stat()
    numbers = [stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns]
    assert msgspec.json.decode(stored) == numbers
    assert msgspec.json.decode(stored, type=tuple[int, ...]) == found
