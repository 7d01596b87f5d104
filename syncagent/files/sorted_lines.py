"""Files that grow with the list: sorted, checked, written whole or not at all. And locks, and identities.

Every lasting file has sorted lines and a last line ``# end COUNT SHA256`` over the lines before it. Sorting is by
octets (``LC_ALL=C``) in a child process with a bounded buffer, so that no list is ever in memory.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import filecmp
import hashlib
import io
import os
import re
import stat as kinds
import subprocess
import tempfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Self

from syncagent.addresses import MAX_LINE
from syncagent.errors import DamagedError, LedgerError, LockBusyError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

CHUNK = 1 << 18
SORT_BUFFER = "32M"
NOTHING = subprocess.DEVNULL
MOST_OF_A_LIST = 16 << 20
"""How much is read of a file that belongs to something else, such as a list that main.cf names."""
_KINDS = {
    kinds.S_IFIFO: "a FIFO",
    kinds.S_IFSOCK: "a socket",
    kinds.S_IFCHR: "a character device",
    kinds.S_IFBLK: "a block device",
    kinds.S_IFDIR: "a directory",
}
_WITHOUT_WAITING = os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY
_LEASE = 60.0
_LOOK = 0.05
"""Seconds: how long a lease on a file is waited for (the kernel ends it after 45), and how often is asked."""
_END = re.compile(rb"# end (\d{1,18}) ([0-9a-f]{64})\n")
_END_ROOM = 128
_OWNER_ONLY = 0o600
_C_LOCALE = {"LC_ALL": "C"}


@dataclass(frozen=True, slots=True)
class SortedFile:
    """A sorted file on disk: how many lines, the SHA-256 of them, and how many octets they take."""

    path: Path
    count: int
    digest: str
    size: int


class UnfitFileError(OSError):
    """A file that may not be read: no regular one, or too large. ``strerror`` says why, as after "cannot be read:"."""

    def __init__(self, number: int, text: str, path: Path | str) -> None:
        """``path`` is the file, ``text`` says what it is."""
        super().__init__(number, text, str(path))

    def __str__(self) -> str:
        """``PATH: TEXT``."""
        return f"{self.filename}: {self.strerror}"


def check_regular(path: Path | str) -> int:
    """Return the size of what ``path`` leads to, 0 where nothing is; it is not opened.

    Raise UnfitFileError where it is no regular file.
    """
    try:
        found = os.stat(path)  # noqa: PTH116 - a path of either type
    except (FileNotFoundError, NotADirectoryError):
        return 0
    _check_kind(found.st_mode, path)
    return found.st_size


def check_small(path: Path | str, limit: int) -> None:
    """Raise UnfitFileError where ``path`` leads to what is no regular file, or is larger than ``limit`` octets."""
    if check_regular(path) > limit:
        raise _too_large(path, limit)


def _check_kind(mode: int, path: Path | str) -> None:
    if not kinds.S_ISREG(mode):
        what = _KINDS.get(kinds.S_IFMT(mode), "of an unknown kind")
        number = errno.EISDIR if kinds.S_ISDIR(mode) else errno.EINVAL
        raise UnfitFileError(number, f"it is {what}, and no regular file", path)


def _too_large(path: Path | str, limit: int) -> UnfitFileError:
    spelled = f"{limit >> 20} MiB" if limit >> 20 else f"{limit >> 10} KiB"
    return UnfitFileError(errno.EFBIG, f"it is larger than {spelled}", path)


def open_foreign(path: Path | str) -> IO[bytes]:
    """Open a file to read it that another hand may have put there; it has to be regular. Nothing is waited for.

    Every such file is opened here: a FIFO in its place would be waited for until somebody writes to it, a device read
    for ever. It is looked at before it is opened, since opening a device may already do something, and afterwards,
    since it may have been replaced meanwhile. Symlinks are followed. Raise UnfitFileError, or OSError as open does.
    """
    check_regular(path)
    return open(path, "rb", opener=_opened)


def _opened(path: str, flags: int) -> int:
    descriptor = _open_without_waiting(path, flags)
    try:
        _check_kind(os.fstat(descriptor).st_mode, path)
        os.set_blocking(descriptor, True)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def _open_without_waiting(path: Path | str, flags: int, mode: int = 0) -> int:
    """Open a file; one that somebody has a lease on, such as Samba, is asked for until the kernel has ended that."""
    end = time.monotonic() + _LEASE
    while True:
        try:
            return os.open(path, flags | _WITHOUT_WAITING, mode)
        except BlockingIOError:
            if time.monotonic() >= end:
                raise
        time.sleep(_LOOK)


def read_foreign(path: Path | str, limit: int) -> bytes:
    """Return what a small file has. Raise UnfitFileError as open_foreign does, and where there is more than ``limit``.

    Its size is not believed: files below /proc have none.
    """
    check_small(path, limit)
    with open_foreign(path) as file:
        octets = file.read(limit + 1)
    if len(octets) > limit:
        raise _too_large(path, limit)
    return octets


def read_foreign_text(path: Path | str, limit: int, errors: str = "strict") -> str:
    """Return what a small text has, in UTF-8, every line ended by a line feed; see read_foreign."""
    return io.StringIO(read_foreign(path, limit).decode(errors=errors), newline=None).read()


def lines_of(file: IO[bytes]) -> Iterator[bytes]:
    """Yield the lines of an open file. Raises UnfitFileError for one of over a megabyte, of which no more is read."""
    for number, line in enumerate(iter(lambda: file.readline(MAX_LINE + 2), b""), 1):
        if len(line) > MAX_LINE + line.endswith(b"\n"):
            raise UnfitFileError(errno.EFBIG, f"it has a line of over {MAX_LINE} octets, line {number}", file.name)
        yield line


def end_line(count: int, digest: str) -> bytes:
    """Give the last line of a sorted file, and of a plain list that proves it is whole."""
    return f"# end {count} {digest}\n".encode()


def parse_end(line: bytes) -> tuple[int, str] | None:
    """Read an end line: count and digest, or None where it is something else."""
    found = _END.fullmatch(line)
    return (int(found[1]), found[2].decode()) if found else None


def identity(path: Path) -> tuple[int, ...] | None:
    """Give device, inode, size, mtime and ctime (ns) of what ``path`` leads to, or None where nothing is."""
    try:
        stat = os.stat(path)  # noqa: PTH116 - one call on the path that is run most
    except (FileNotFoundError, NotADirectoryError):
        return None
    return stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns


def write_sorted(path: Path, chunks: Iterable[bytes]) -> SortedFile:
    """Write lines that come sorted, in chunks of any size, and the end line; fsync.

    ``path`` must be a name that nothing refers to yet: what a crash leaves is an orphan.
    """
    digest, count, size = hashlib.sha256(), 0, 0
    with path.open("wb") as file:
        os.fchmod(file.fileno(), 0o640)
        for chunk in chunks:
            digest.update(chunk)
            count += chunk.count(b"\n")
            size += len(chunk)
            file.write(chunk)
        file.write(end_line(count, digest.hexdigest()))
        file.flush()
        os.fsync(file.fileno())
    fsync_directory(path.parent)
    return SortedFile(path, count, digest.hexdigest(), size)


def write_plain(path: Path, chunks: Iterable[bytes]) -> Path:
    """Write a file of this run's spool: no end line, no fsync, since nothing of it outlives the run."""
    with path.open("wb") as file:
        file.writelines(chunks)
    return path


def write_whole(path: Path, octets: bytes, mode: int) -> None:
    """Write a small file that others read, by a name beside it. Raises OSError."""
    descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with open(descriptor, "wb") as file:  # noqa: PTH123 - a descriptor
            os.fchmod(file.fileno(), mode)
            file.write(octets)
        Path(name).rename(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def verify(path: Path, digest: str | None = None) -> SortedFile:
    """Read a sorted file through and check it against its end line, and against ``digest`` where one is known.

    Raises DamagedError.
    """
    try:
        with open_foreign(path) as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - _END_ROOM))
            last = file.read().rpartition(b"\n# end ")
            tail = b"# end " + last[2] if last[1] else _tail_of_empty(last[2])
            end = parse_end(tail)
            if end is None:
                raise DamagedError(f"{path} has no end line: it is short")
            file.seek(0)
            found = _summed(file, size - len(tail))
    except OSError as error:
        raise DamagedError(f"{path} cannot be read: {error.strerror}") from error
    if found != end or digest not in (None, end[1]):
        raise DamagedError(f"{path} is not what was written: its lines do not match its digest")
    return SortedFile(path, *end, size - len(tail))


def _tail_of_empty(tail: bytes) -> bytes:
    return tail if tail.startswith(b"# end ") else b""


def _summed(file: IO[bytes], left: int) -> tuple[int, str]:
    digest, count = hashlib.sha256(), 0
    while left and (chunk := file.read(min(CHUNK, left))):
        digest.update(chunk)
        count += chunk.count(b"\n")
        left -= len(chunk)
    return count, digest.hexdigest()


def chunks_of(file: SortedFile) -> Iterator[bytes]:
    """Give the lines of a verified file, without its end line, in chunks of any size."""
    left = file.size
    with file.path.open("rb") as stream:
        while left and (chunk := stream.read(min(CHUNK, left))):
            left -= len(chunk)
            yield chunk


def size_of(file: SortedFile | Path) -> int:
    """Give how many octets the lines of a file take."""
    return file.size if isinstance(file, SortedFile) else file.stat().st_size


class Child:
    """A child process that is ended when its block is left in a hurry, and judged when it is left in peace."""

    def __init__(
        self,
        command: Sequence[str],
        stdin: IO[bytes] | int,
        *,
        good: Sequence[int] = (0,),
        limit: float | None = None,
    ) -> None:
        """Start ``command`` in the C locale; its output is read from ``lines`` or ``chunks``.

        ``good`` are the exit statuses that mean success; after ``limit`` seconds it is killed, which is a failure.
        """
        self._name, self._good = command[0], good
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 - closed in __exit__
        environment = {**os.environ, **_C_LOCALE}
        self.process = subprocess.Popen(
            command, stdin=stdin, stdout=subprocess.PIPE, stderr=self._errors, env=environment
        )
        self._timer = threading.Timer(limit, self.process.kill) if limit else None
        if self._timer:
            self._timer.daemon = True
            self._timer.start()

    @property
    def stdout(self) -> IO[bytes]:
        """The child's output."""
        assert self.process.stdout is not None  # noqa: S101 - for the type checker: it is a pipe
        return self.process.stdout

    def chunks(self) -> Iterator[bytes]:
        """Give the output in chunks."""
        while chunk := self.stdout.read(CHUNK):
            yield chunk

    def lines(self) -> Iterator[bytes]:
        """Give the output line by line."""
        return iter(self.stdout)

    def __enter__(self) -> Self:
        """Enter the child's life."""
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Wait for the end, or make it. Raises LedgerError where the child failed."""
        if kind is not None:
            self.process.kill()  # first: whoever is blocked writing to it goes on
        with contextlib.suppress(OSError):
            if self.process.stdin:
                self.process.stdin.close()
        self.stdout.close()
        status = self.process.wait()
        if self._timer:
            self._timer.cancel()
        self._errors.seek(0)
        said = self._errors.read(2000).decode(errors="backslashreplace").strip()
        self._errors.close()
        if kind in {None, BrokenPipeError} and status not in self._good:
            raise LedgerError(f"{self._name} failed ({status}): {said or 'no message'}")

    def kill(self) -> None:
        """End it, whatever it is doing. From any thread: whoever entered its block still has to leave it."""
        self.process.kill()
        self.process.wait()


class Sorter(Child):
    """``sort -u``: lines in by ``write``, sorted lines out after ``finish``."""

    def __init__(self, spool: Path) -> None:
        """Start it; what does not fit the buffer goes to ``spool``."""
        super().__init__(["sort", "-u", f"-S{SORT_BUFFER}", "-T", str(spool)], subprocess.PIPE)
        assert self.process.stdin is not None  # noqa: S101 - for the type checker: it is a pipe
        self.write = self.process.stdin.write

    def feed(self, lines: Iterable[bytes]) -> None:
        """Write many lines."""
        for chunk in joined_lines(lines):
            self.write(chunk)

    def finish(self) -> Iterator[bytes]:
        """Give the sorted lines in chunks; nothing can be written after this."""
        assert self.process.stdin is not None  # noqa: S101 - for the type checker: it is a pipe
        self.process.stdin.close()
        return self.chunks()


def merged(paths: Sequence[Path]) -> Child:
    """Start ``sort -m`` over sorted files. Their end lines come along, out of order: the reader drops them."""
    return Child(["sort", "-m", *map(str, paths)] if paths else ["true"], subprocess.DEVNULL)


@contextlib.contextmanager
def first_fields(paths: Sequence[Path]) -> Iterator[Iterator[bytes]]:
    """Give what stands before the first TAB of each line of sorted files together, sorted, in chunks of whole lines.

    A line without a TAB, such as an end line, comes whole and out of order.
    """
    with merged(paths) as both, Child(["cut", "-f1"], both.stdout) as cut:
        yield whole_lines(cut.chunks())


@contextlib.contextmanager
def differences(left: Path, right: SortedFile | Path) -> Iterator[Iterator[bytes]]:
    """Give what only one of two sorted files has, in chunks: lines only in ``right`` start with a TAB (comm(1))."""
    body = ["cat", str(right)]
    if isinstance(right, SortedFile):  # less its end line
        body = ["head", "-c", str(right.size), str(right.path)]
    with Child(body, subprocess.DEVNULL) as feed, Child(["comm", "-3", str(left), "-"], feed.stdout) as comm:
        yield whole_lines(comm.chunks())


def joined_lines(lines: Iterable[bytes], size: int = CHUNK) -> Iterator[bytes]:
    """Gather lines to chunks, so that writing them costs little."""
    held: list[bytes] = []
    room = size
    for line in lines:
        held.append(line)
        room -= len(line)
        if room < 0:
            yield b"".join(held)
            held, room = [], size
    if held:
        yield b"".join(held)


def whole_lines(chunks: Iterable[bytes]) -> Iterator[bytes]:
    """Cut chunks anew, so that each ends with the end of a line (but for a last one that has none).

    Raises DamagedError for a line of over a megabyte: no list has one, and memory must not grow with it.
    """
    rest: list[bytes] = []  # joined once: chunks may be single octets
    size = 0
    for chunk in chunks:
        end = chunk.rfind(b"\n") + 1
        if end:
            yield b"".join([*rest, chunk[:end]])
            rest, size = [], 0
        rest.append(chunk[end:])
        size += len(chunk) - end
        if size > MAX_LINE:
            raise DamagedError(f"a line of over {MAX_LINE} octets")
    if size:
        yield b"".join(rest)


def chunks_in(path: Path) -> Iterator[bytes]:
    """Return a file in chunks. Raise OSError as open_foreign does."""
    with open_foreign(path) as file:
        while chunk := file.read(CHUNK):
            yield chunk


def same(left: Path, right: Path) -> bool:
    """Tell whether two files have the same content."""
    return filecmp.cmp(left, right, shallow=False)


def fsync_directory(path: Path) -> None:
    """Make renames and new names in ``path`` last."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _close_to_others(lock: int) -> None:
    """Take the right to open a lock from group and world, which older versions gave, where we may."""
    if os.fstat(lock).st_mode & 0o077:
        with contextlib.suppress(PermissionError):  # another user's: it is for that user to do
            os.fchmod(lock, _OWNER_ONLY)


@contextlib.contextmanager
def locked(path: Path, timeout: float, *, shared: bool = False) -> Iterator[None]:
    """Hold ``path`` by flock(2), waiting at most ``timeout`` seconds.

    Whoever may open the file may hold the lock, so its owner alone may (mode 0600). Raises LockBusyError, and
    UnfitFileError where something else than a file is in its place.
    """
    flags = os.O_RDONLY if shared else os.O_RDWR | os.O_CREAT
    check_regular(path)
    descriptor = _open_without_waiting(path, flags, _OWNER_ONLY)
    try:
        _check_kind(os.fstat(descriptor).st_mode, path)
        if not shared:  # who only reads changes nothing
            _close_to_others(descriptor)
        end = time.monotonic() + timeout
        while True:
            try:
                fcntl.flock(descriptor, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() >= end:
                    text = (
                        f"another run holds {path} and did not end within {timeout:g}s: wait, or raise --lock-timeout"
                    )
                    raise LockBusyError(text) from None
            time.sleep(0.05)
        yield
    finally:
        os.close(descriptor)
