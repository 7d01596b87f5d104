"""The file watch: inotify events where the kernel reports them, and polling in any case.

An event only triggers a comparison of file identities, so that reading a file starts no run. The source decides whether
the content has changed.

Every call to the file system may block, as on a mount whose server is gone, or fail, as in a directory without search
permission. So each name has a thread of its own. Other threads wait for it only in ``is_read``, and up to a second in
``set``. A name is that of a source, or stands for the configuration file.
"""

from __future__ import annotations

import math
import os
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

from watchdog.events import (
    EVENT_TYPE_CLOSED,
    EVENT_TYPE_CREATED,
    EVENT_TYPE_DELETED,
    EVENT_TYPE_MODIFIED,
    EVENT_TYPE_MOVED,
    FileSystemEvent,
    FileSystemEventHandler,
)
from watchdog.observers.inotify import InotifyObserver

from syncagent.files import atomic as files

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from syncagent.sources import Watched

_TELLING = {EVENT_TYPE_CREATED, EVENT_TYPE_MODIFIED, EVENT_TYPE_MOVED, EVENT_TYPE_DELETED, EVENT_TYPE_CLOSED}
QUIET, PATIENCE, LOOK = 1.0, 10.0, 5.0
"""Seconds without an event before files are compared; the maximum wait for that; the polling interval."""
_TICK = 0.2
"""Seconds between two checks of the directories to watch, while there are events."""
_LINKS = 40
"""Maximum number of symbolic links to follow, as in the kernel (path_resolution(7))."""

_Identity = tuple[object, ...]


class _Hints(FileSystemEventHandler):
    """The times of the first and last event since ``first`` was reset to 0.

    Its methods must not raise: an exception would end the observer's thread unnoticed.
    """

    def __init__(self, wake: threading.Event) -> None:
        self.first = self.last = 0.0
        self._wake = wake

    def on_any_event(self, event: FileSystemEvent) -> None:
        if event.event_type in _TELLING:
            self.last = time.monotonic()
            if not self.first:
                self.first = self.last
                self._wake.set()


class Watch:
    """The watchers of all names. Each has a thread of its own, so that a file that hangs affects no other name."""

    def __init__(
        self,
        changed: Callable[[str], None],
        log: Callable[[str, str], None],
        failed: Callable[[BaseException], None],
    ) -> None:
        """``changed`` receives the name whose files changed, ``log`` an event and its detail, ``failed`` exceptions."""
        self._changed, self._log, self._failed = changed, log, failed
        self._watchers: dict[str, Watcher] = {}
        self._lock = threading.RLock()  # worker, supervisor and watchers; no file system call while it is held
        self._polling_logged = False
        self.rebuilt = 0

    @property
    def mode(self) -> str:
        """``poll`` if inotify cannot be used for at least one name, otherwise ``inotify``."""
        return "poll" if any(watcher.polls for watcher in [*self._watchers.values()]) else "inotify"

    def set(self, watched: Mapping[str, tuple[Watched, ...]]) -> None:
        """Replace the watched files, by name. Wait at most a second for the first look at new files."""
        with self._lock:
            old, self._watchers = self._watchers, {}
            for name, paths in watched.items():
                kept = name in old and old[name].paths == paths
                self._watchers[name] = old.pop(name) if kept else self._watcher(name, paths)
            new = [watcher for watcher in self._watchers.values() if not watcher.looked.is_set()]
        for watcher in old.values():
            watcher.stop()
        self.look()
        end = time.monotonic() + QUIET
        for watcher in new:
            watcher.looked.wait(max(0.0, end - time.monotonic()))

    def _watcher(self, name: str, paths: tuple[Watched, ...]) -> Watcher:
        return Watcher(paths, lambda: self._changed(name), self._is_rebuilt, self._is_polling, self._failed)

    def is_read(self, name: str) -> None:
        """Take the current identity of the name's files as the baseline, so that this version triggers no run."""
        self._watchers[name].is_read()

    def look(self) -> None:
        """Start each watcher thread that is not alive. Does not access the file system."""
        with self._lock:
            for watcher in self._watchers.values():
                if watcher.is_alive():
                    continue
                if watcher.has_lived:
                    self._is_rebuilt("its thread had died")
                try:
                    watcher.start()
                except RuntimeError as error:  # no thread available: the supervisor calls again
                    self._failed(error)

    def stop(self) -> None:
        """Request the threads to end, without waiting. A thread that hangs ends with the process."""
        with self._lock:
            old, self._watchers = self._watchers, {}
        for watcher in old.values():
            watcher.stop()

    def _is_rebuilt(self, what: str) -> None:
        with self._lock:
            self.rebuilt += 1
        self._log("watch rebuilt", what)

    def _is_polling(self, why: str) -> None:
        with self._lock:
            logged, self._polling_logged = self._polling_logged, True
        if not logged:
            self._log("watching by polling", why)


class Watcher:
    """The watch of the paths of one name, with its thread."""

    def __init__(
        self,
        paths: tuple[Watched, ...],
        changed: Callable[[], None],
        rebuilt: Callable[[str], None],
        polling: Callable[[str], None],
        failed: Callable[[BaseException], None],
    ) -> None:
        """Prepare the watch; ``start()`` begins it."""
        self.paths = paths
        self.looked = threading.Event()
        self.polls = False
        self._changed, self._rebuilt, self._polling, self._failed = changed, rebuilt, polling, failed
        self._made = time.monotonic()
        self._known: _Identity | None = None
        self._seen: tuple[_Identity, float] | None = None
        self._looked = -math.inf
        self._lock = threading.Lock()  # between its thread and the worker
        self._wake = threading.Event()
        self._hints = _Hints(self._wake)
        self._observer: InotifyObserver | None = None
        self._watched: dict[str, tuple[int, ...]] = {}
        self._thread: threading.Thread | None = None
        self._over = False

    def start(self) -> None:
        """Start the thread. Raises RuntimeError if no thread can be created."""
        self._looked = -math.inf
        self._thread = threading.Thread(target=self._work, name="watch", daemon=True)
        self._thread.start()

    def is_alive(self) -> bool:
        """True if the thread is alive."""
        return self._thread is not None and self._thread.is_alive()

    @property
    def has_lived(self) -> bool:
        """True if a thread has ever been started."""
        return self._thread is not None and self._thread.ident is not None

    def stop(self) -> None:
        """Request the thread to end, without waiting."""
        self._over = True
        self._wake.set()

    def is_read(self) -> None:
        """Take the current identity of the files as the baseline."""
        with self._lock:
            self._known, self._seen = _identities(self.paths), None

    def _work(self) -> None:
        while not self._over:
            pause = self._due() - time.monotonic()
            self._wake.wait(min(pause, _TICK) if self._hints.first else pause)
            self._wake.clear()
            try:
                self.look()
            except Exception as error:  # noqa: BLE001 - this thread must survive every fault; it is logged
                self._failed(error)
        self._unwatch()

    def _due(self) -> float:
        """Return the time.monotonic() of the next look.

        With events it is QUIET after the last event, and PATIENCE after the first one at the latest. Without events it
        is LOOK after the last look, or QUIET after it while a change is unconfirmed.
        """
        if self._hints.first:
            return min(self._hints.last + QUIET, self._hints.first + PATIENCE)
        return self._looked + (QUIET if self._seen else LOOK)

    def look(self) -> None:
        """Repair the watch and report a change, if a look is due (``_due``).

        If a look is not due yet but events have arrived, only repair the watch.
        """
        with self._lock:
            now = time.monotonic()
            hinted = bool(self._hints.first)
            if now < self._due():
                if hinted:
                    self._repair()
                return
            self._hints.first = 0.0
            self._looked = now
            try:
                self._repair()
            finally:  # polling needs no inotify
                self._compare(now, told=hinted and not any(watched.poll for watched in self.paths))
                self.looked.set()

    def _compare(self, now: float, *, told: bool) -> None:
        """Report a change of identity: at once if ``told`` by inotify, otherwise once two looks see the same identity.

        A file that keeps changing is reported after PATIENCE seconds.
        """
        identity = _identities(self.paths)
        if self._over:  # stopped while the call hung
            return
        if self._known is None:
            hung = time.monotonic() - self._made > QUIET  # a run may have read an older version meanwhile
            self._known = () if hung else identity
        seen, since = self._seen or (None, now)
        if identity == self._known:
            self._seen = None
        elif told or identity == seen or now - since >= PATIENCE:
            self._seen = None
            self._known = identity
            self._changed()
        else:
            self._seen = identity, since

    def _repair(self) -> None:
        """Start a new observer if the directories to watch have changed, or if the observer has died."""
        observer = self._observer
        alive = observer is None or (observer.is_alive() and all(emitter.is_alive() for emitter in observer.emitters))
        directories = self._directories()
        if alive and directories == self._watched:
            return
        if not alive or directories.keys() == self._watched.keys():
            self._rebuilt(", ".join(directories))
        self._rebuild(directories)

    def _directories(self) -> dict[str, tuple[int, ...]]:
        """Return the directories to watch with inotify, each with the result of ``_which``."""
        places = [place for watched in self.paths if not watched.poll for place in _places(watched.path)]
        return {str(place): _which(place) for place in sorted(set(map(_nearest, places)))}

    def _rebuild(self, directories: dict[str, tuple[int, ...]]) -> None:
        self._unwatch()
        self._watched, self.polls = directories, False
        if not directories:
            return
        observer = None
        try:
            observer = InotifyObserver()
            for directory, which in directories.items():
                if which[-1:] == (True,):
                    observer.schedule(self._hints, directory)
            observer.start()
        except (OSError, RuntimeError) as error:  # no inotify instance, watch or thread left
            if observer is not None:
                observer.stop()
            if isinstance(
                error, (FileNotFoundError, NotADirectoryError)
            ):  # removed just now: the next look finds its parent
                self._watched = {}
            else:
                self.polls = True
                self._polling(f"{error}; see fs.inotify.max_user_instances and max_user_watches")
            return
        self._observer = observer

    def _unwatch(self) -> None:
        observer, self._observer = self._observer, None
        if observer is not None:
            observer.stop()


def _places(path: Path) -> Iterator[Path]:
    """Yield the places to watch for a path: the directory of each link on the way, the target, and its directory."""
    place, rest, links = Path("/"), [*reversed(path.absolute().parts[1:])], 0
    while rest:
        part = rest.pop()
        here = place.parent if part == ".." else place / part
        target = _link(here) if links < _LINKS else None
        if target is None:
            place = here
            continue
        yield place
        links += 1
        place = Path("/") if target.is_absolute() else place
        rest += reversed(target.parts[target.is_absolute() :])
    yield place
    yield place.parent


def _link(path: Path) -> Path | None:
    """Return the target of a symbolic link; None if the path is not a link or cannot be read."""
    try:
        return path.readlink()
    except OSError:
        return None


def _nearest(directory: Path) -> Path:
    """Return the directory, or its nearest parent directory that exists."""
    exists = os.path.isdir  # Path.is_dir() raises PermissionError
    return next(place for place in (directory, *directory.parents) if exists(place))


def _which(directory: Path) -> tuple[int, ...]:
    """Return device and inode of a directory, and whether it is readable, as inotify requires; empty if unknown."""
    try:
        identity = files.identity(directory)
    except OSError:
        identity = None
    return (*identity[:2], os.access(directory, os.R_OK)) if identity else ()


def _identities(paths: tuple[Watched, ...]) -> _Identity:
    """Return the identity of each path: that of a file, or those of all files in a directory."""
    return tuple(_identity(watched.path) for watched in paths)


def _identity(path: Path) -> _Identity:
    try:
        if path.is_dir():
            return tuple(sorted((entry.name, files.identity(Path(entry.path))) for entry in os.scandir(path)))
        return (os.path.realpath(path), files.identity(path))
    except OSError as error:
        return (error.errno,)
