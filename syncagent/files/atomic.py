"""Single files: identity, safe opening, whole writes, fsync and locks."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import filecmp
import io
import os
import stat as kinds
import tempfile
import time
from pathlib import Path
from typing import IO, TYPE_CHECKING, NamedTuple

from syncagent.addresses import MAX_LINE
from syncagent.errors import LockBusyError
from syncagent.files.pipeline import CHUNK

if TYPE_CHECKING:
    from collections.abc import Iterator

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
_OWNER_ONLY = 0o600


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
    """Open a file without blocking.

    While another process, such as Samba, has a lease on it, retry for up to 60 seconds; the kernel breaks the lease
    after 45. Raises BlockingIOError after that, or OSError.
    """
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
    """Return the content of a small UTF-8 text file, with line ends as line feeds.

    Raises as read_foreign does, and UnicodeDecodeError unless ``errors`` (see bytes.decode) prevents it.
    """
    return io.StringIO(read_foreign(path, limit).decode(errors=errors), newline=None).read()


def lines_of(file: IO[bytes]) -> Iterator[bytes]:
    """Yield the lines of an open file. Raises UnfitFileError for one of over a megabyte, of which no more is read."""
    for number, line in enumerate(iter(lambda: file.readline(MAX_LINE + 2), b""), 1):
        if len(line) > MAX_LINE + line.endswith(b"\n"):
            raise UnfitFileError(errno.EFBIG, f"it has a line of over {MAX_LINE} octets, line {number}", file.name)
        yield line


class FileIdentity(NamedTuple):
    """Which version of which file it is: another one differs in at least one field. Times are in nanoseconds.

    It is stored as a plain list of numbers, in ``state.db`` and in validators.
    """

    device: int
    inode: int
    size: int
    modified: int
    changed: int

    @classmethod
    def of(cls, found: os.stat_result) -> FileIdentity:
        """Return the identity in the result of a stat call."""
        return cls(found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)


def identity(path: Path) -> FileIdentity | None:
    """Return the identity of the file that ``path`` leads to, None if there is none."""
    try:
        return FileIdentity.of(os.stat(path))  # noqa: PTH116 - one call on the path that is run most
    except (FileNotFoundError, NotADirectoryError):
        return None


def write_whole(path: Path, octets: bytes, mode: int) -> None:
    """Write a small file that others read, by renaming a temporary one beside it. Raise OSError."""
    descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with open(descriptor, "wb") as file:  # noqa: PTH123 - a descriptor
            os.fchmod(file.fileno(), mode)
            file.write(octets)
        Path(name).rename(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def chunks_in(path: Path) -> Iterator[bytes]:
    """Yield the content of a file in chunks. Raises OSError as open_foreign does."""
    with open_foreign(path) as file:
        while chunk := file.read(CHUNK):
            yield chunk


def same(left: Path, right: Path) -> bool:
    """True if two files have the same content."""
    return filecmp.cmp(left, right, shallow=False)


def fsync_directory(path: Path) -> None:
    """Make renames and new names in the directory ``path`` durable."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _close_to_others(lock: int) -> None:
    """Remove the permissions of group and world on a lock, which older versions gave, where that is permitted."""
    if os.fstat(lock).st_mode & 0o077:
        with contextlib.suppress(PermissionError):  # another user's: it is for that user to do
            os.fchmod(lock, _OWNER_ONLY)


@contextlib.contextmanager
def locked(path: Path, timeout: float, *, shared: bool = False) -> Iterator[None]:
    """Lock ``path`` by flock(2), waiting at most ``timeout`` seconds.

    Every user who may open the file may lock it, so only its owner may (mode 0600). Raise LockBusyError, and
    UnfitFileError if it is no regular file.
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
