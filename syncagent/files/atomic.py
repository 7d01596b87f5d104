"""Single files: identity, safe opening, atomic writes, fsync and locks."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import filecmp
import io
import os
import re
import secrets
import stat as kinds
import time
from typing import IO, TYPE_CHECKING, NamedTuple

from syncagent.addresses import MAX_LINE
from syncagent.errors import LockBusyError
from syncagent.files.pipeline import CHUNK

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

MOST_OF_A_LIST = 16 << 20
"""Maximum size in octets of a file that another program owns, such as a list named in main.cf."""
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
"""Seconds between attempts to open a leased file. _LEASE is the timeout; the kernel breaks a lease after 45."""
_OWNER_ONLY = 0o600
_HALF = re.compile(r"\..+\.[0-9a-f]{12}")


class UnfitFileError(OSError):
    """Raised if a file is not regular, too large, or has too long a line. ``strerror`` is the reason."""

    def __init__(self, number: int, text: str, path: Path | str) -> None:
        """``number`` is the errno, ``text`` the reason."""
        super().__init__(number, text, str(path))

    def __str__(self) -> str:
        """Return ``PATH: TEXT``."""
        return f"{self.filename}: {self.strerror}"


def check_regular(path: Path | str) -> int:
    """Return the size in octets of a regular file, 0 if it does not exist. Symlinks are followed.

    The file is not opened. Raises UnfitFileError if it is not a regular file, or OSError as stat(2) does.
    """
    try:
        found = os.stat(path)  # noqa: PTH116 - a path of either type
    except (FileNotFoundError, NotADirectoryError):
        return 0
    _check_kind(found.st_mode, path)
    return found.st_size


def check_small(path: Path | str, limit: int) -> None:
    """Raise UnfitFileError if ``path`` is not a regular file, or is larger than ``limit`` octets.

    A file that does not exist passes. Symlinks are followed.
    """
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
    """Open a regular file for reading that another program or user may have put there. Symlinks are followed.

    All such files are opened by this function, since open(2) of a FIFO blocks and a device may never end. The type is
    checked before opening, because opening a device can have side effects, and again after, because the file may have
    been replaced. Raises UnfitFileError if it is not a regular file, or OSError as open does.
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
    """Return a descriptor of a file, opened with O_NONBLOCK.

    While another process, such as Samba, has a lease on the file, the call is retried for up to 60 seconds; the kernel
    breaks the lease after 45. Raises BlockingIOError after that, or OSError.
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
    """Return the content of a file of at most ``limit`` octets.

    The content is counted too, since files in /proc have size 0. Raises UnfitFileError if the file is larger or not
    regular, or OSError as open does.
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
    """Yield the lines of an open file. Raises UnfitFileError at a line of more than MAX_LINE octets."""
    for number, line in enumerate(iter(lambda: file.readline(MAX_LINE + 2), b""), 1):
        if len(line) > MAX_LINE + line.endswith(b"\n"):
            raise UnfitFileError(errno.EFBIG, f"it has a line of over {MAX_LINE} octets, line {number}", file.name)
        yield line


class FileIdentity(NamedTuple):
    """Identity of a version of a file: after a change at least one field differs. Times are in nanoseconds.

    ``state.db`` and validators store it as a list of numbers.
    """

    device: int
    inode: int
    size: int
    modified: int
    changed: int

    @classmethod
    def of(cls, found: os.stat_result) -> FileIdentity:
        """Return the identity from the result of a stat call."""
        return cls(found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)


def identity(path: Path) -> FileIdentity | None:
    """Return the identity of a file, None if it does not exist. Symlinks are followed."""
    try:
        return FileIdentity.of(os.stat(path))  # noqa: PTH116 - called more often than anything else here
    except (FileNotFoundError, NotADirectoryError):
        return None


@contextlib.contextmanager
def replacing(path: Path, mode: int, directory: int | None = None, *, lasting: bool = True) -> Iterator[IO[bytes]]:
    """Yield a temporary file beside ``path`` to write to, and rename it to ``path`` after the block. Raises OSError.

    Every file that lasts is written by this. ``mode`` is that of the file. ``directory`` is a descriptor of the
    directory of ``path``, for a caller that must not look it up once more. ``lasting``: fsync(2) is called on the file
    before the rename, and on the directory after it, so that after a power failure the file is the old or the new one;
    without it, the file is one that is soon written again. If the block raises, the temporary file is removed.
    """
    place = str(path) if directory is None else path.name
    temporary = os.path.join(os.path.dirname(place), f"{half_name(path)}{secrets.token_hex(6)}")  # noqa: PTH118, PTH120
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    descriptor = os.open(temporary, flags, _OWNER_ONLY, dir_fd=directory)
    try:
        with open(descriptor, "wb") as file:  # noqa: PTH123 - a descriptor
            os.fchmod(file.fileno(), mode)
            yield file
            if lasting:
                file.flush()
                os.fsync(file.fileno())
        os.rename(temporary, place, src_dir_fd=directory, dst_dir_fd=directory)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary, dir_fd=directory)
        raise
    if lasting and directory is None:
        fsync_directory(path.parent)
    elif lasting and directory is not None:
        os.fsync(directory)


def half_name(path: Path) -> str:
    """Return how the names of the temporary files of a path begin; twelve hexadecimal digits follow."""
    return f".{path.name}."


def sweep_halves(directory: Path) -> None:
    """Remove temporary files that killed processes left in a directory where nothing else is written meanwhile."""
    for file in directory.iterdir():
        if _HALF.fullmatch(file.name):
            file.unlink(missing_ok=True)


def write_whole(path: Path, octets: bytes, mode: int, directory: int | None = None, *, lasting: bool = True) -> None:
    """Write a small file; see ``replacing``. Raises OSError."""
    with replacing(path, mode, directory, lasting=lasting) as file:
        file.write(octets)


def chunks_in(path: Path) -> Iterator[bytes]:
    """Yield the content of a file in chunks. Raises OSError as open_foreign does."""
    with open_foreign(path) as file:
        while chunk := file.read(CHUNK):
            yield chunk


def count_lines(path: Path) -> int:
    """Return the number of line feeds in a file. Raises OSError as open_foreign does."""
    return sum(chunk.count(b"\n") for chunk in chunks_in(path))


def same(left: Path, right: Path) -> bool:
    """True if two files have the same content."""
    return filecmp.cmp(left, right, shallow=False)


def fsync_directory(path: Path) -> None:
    """Call fsync(2) on a directory, so that new names and renames in it are durable."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _close_to_others(lock: int) -> None:
    """Remove the permissions of group and others that older versions set on a lock file, if permitted."""
    if os.fstat(lock).st_mode & 0o077:
        with contextlib.suppress(PermissionError):  # the file belongs to another user
            os.fchmod(lock, _OWNER_ONLY)


@contextlib.contextmanager
def locked(path: Path, timeout: float, *, shared: bool = False) -> Iterator[None]:
    """Hold a lock on ``path`` by flock(2) during the block. Without ``shared`` the file is created if missing.

    The mode is 0600, since every user who can open the file can lock it. Raises LockBusyError if the lock is not
    acquired within ``timeout`` seconds, UnfitFileError if it is not a regular file, or OSError as open does.
    """
    flags = os.O_RDONLY if shared else os.O_RDWR | os.O_CREAT
    check_regular(path)
    descriptor = _open_without_waiting(path, flags, _OWNER_ONLY)
    try:
        _check_kind(os.fstat(descriptor).st_mode, path)
        if not shared:  # a reader does not change the mode
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
