"""Notice that a local file changed: told by the kernel where it can tell, and looking now and then in any case.

What the kernel says is only a hint to look. Identity decides, so that reading a file, or our own writing, starts
nothing; and whether its content changed is for the source to say.

Whatever asks the file system may hang, as on a mount whose server is gone, and be told anything, as of a directory that
may not be entered. So each name is watched by a thread of its own, and nobody waits for it.
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
"""Seconds: how long nothing may have happened, how long that is waited for, how often is looked in any case."""
_TICK = 0.2
"""Seconds: while it is not quiet, how often is looked whether there is another directory to watch."""
_LINKS = 40
"""So many links the kernel follows, too."""

_Identity = tuple[object, ...]


class _Hints(FileSystemEventHandler):
    """Notes that something happened; it does nothing that could fail, since that would end the watch in silence."""

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
    """Watches files, each name's in a thread of its own: one that hangs, or faults, blinds nobody else."""

    def __init__(
        self,
        changed: Callable[[str], None],
        log: Callable[[str, str], None],
        failed: Callable[[BaseException], None],
    ) -> None:
        """Watch nothing yet. ``changed`` is told the name of what changed, ``log`` an event and what it is about."""
        self._changed, self._log, self._failed = changed, log, failed
        self._watchers: dict[str, Watcher] = {}
        self._lock = threading.RLock()  # the worker sets, the keeper looks; under it nothing asks the file system
        self._told_of_polling = False
        self.rebuilt = 0

    @property
    def mode(self) -> str:
        """How changes are noticed: ``inotify``, or ``poll`` where the kernel does not tell of every one."""
        return "poll" if any(watcher.polls for watcher in [*self._watchers.values()]) else "inotify"

    def set(self, watched: Mapping[str, tuple[Watched, ...]]) -> None:
        """Watch these from now on, for their names. What hangs is not waited for longer than a second."""
        with self._lock:
            old, self._watchers = self._watchers, {}
            for name, several in watched.items():
                kept = name in old and old[name].several == several
                self._watchers[name] = old.pop(name) if kept else self._watcher(name, several)
            new = [watcher for watcher in self._watchers.values() if not watcher.looked.is_set()]
        for watcher in old.values():
            watcher.stop()
        self.look()
        end = time.monotonic() + QUIET
        for watcher in new:
            watcher.looked.wait(max(0.0, end - time.monotonic()))

    def _watcher(self, name: str, several: tuple[Watched, ...]) -> Watcher:
        return Watcher(several, lambda: self._changed(name), self._is_rebuilt, self._is_polling, self._failed)

    def is_read(self, name: str) -> None:
        """Note that what a name leads to now is about to be read, for whatever reason: that is no change any more."""
        self._watchers[name].is_read()

    def look(self) -> None:
        """See to it that each name's thread is alive. This comes to its end whatever hangs."""
        with self._lock:
            for watcher in self._watchers.values():
                if watcher.is_alive():
                    continue
                if watcher.has_lived:
                    self._is_rebuilt("its thread had died")
                try:
                    watcher.start()
                except RuntimeError as error:  # no thread is to be had now; the next look is for another try
                    self._failed(error)

    def stop(self) -> None:
        """End it. A thread that hangs ends with the process."""
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
            told, self._told_of_polling = self._told_of_polling, True
        if not told:
            self._log("watching by polling", why)


class Watcher:
    """Watches what one name stands for: one path, or several."""

    def __init__(
        self,
        several: tuple[Watched, ...],
        changed: Callable[[], None],
        rebuilt: Callable[[str], None],
        polling: Callable[[str], None],
        failed: Callable[[BaseException], None],
    ) -> None:
        """Look at nothing yet."""
        self.several = several
        self.looked = threading.Event()
        self.polls = False
        self._changed, self._rebuilt, self._polling, self._failed = changed, rebuilt, polling, failed
        self._made = time.monotonic()
        self._known: _Identity | None = None
        self._seen: tuple[_Identity, float] | None = None
        self._looked = -math.inf
        self._lock = threading.Lock()  # its thread looks, the worker reads
        self._wake = threading.Event()
        self._hints = _Hints(self._wake)
        self._observer: InotifyObserver | None = None
        self._watched: dict[str, tuple[int, ...]] = {}
        self._thread: threading.Thread | None = None
        self._over = False

    def start(self) -> None:
        """Watch in a thread. Raises RuntimeError where there is none."""
        self._looked = -math.inf
        self._thread = threading.Thread(target=self._work, name="watch", daemon=True)
        self._thread.start()

    def is_alive(self) -> bool:
        """Tell whether its thread is."""
        return self._thread is not None and self._thread.is_alive()

    @property
    def has_lived(self) -> bool:
        """Whether it had a thread."""
        return self._thread is not None and self._thread.ident is not None

    def stop(self) -> None:
        """Have the thread end, as soon as it can."""
        self._over = True
        self._wake.set()

    def is_read(self) -> None:
        """Note that what is there now is about to be read."""
        with self._lock:
            self._known, self._seen = _identities(self.several), None

    def _work(self) -> None:
        while not self._over:
            pause = self._due() - time.monotonic()
            self._wake.wait(min(pause, _TICK) if self._hints.first else pause)
            self._wake.clear()
            try:
                self.look()
            except Exception as error:  # noqa: BLE001 - a thread that dies in silence watches nothing
                self._failed(error)
        self._unwatch()

    def _due(self) -> float:
        """Give when to look: once it has been quiet for a second, or else every so often."""
        if self._hints.first:
            return min(self._hints.last + QUIET, self._hints.first + PATIENCE)
        return self._looked + (QUIET if self._seen else LOOK)

    def look(self) -> None:
        """See to it that the watch is alive, and tell of what changed, if it is time."""
        with self._lock:
            now = time.monotonic()
            hinted = bool(self._hints.first)
            if now < self._due():
                if hinted:
                    self._mend()
                return
            self._hints.first = 0.0
            self._looked = now
            try:
                self._mend()
            finally:  # whatever the kernel does not tell is looked for
                self._compare(now, told=hinted and not any(one.poll for one in self.several))
                self.looked.set()

    def _compare(self, now: float, *, told: bool) -> None:
        """Tell of a change; where the kernel did not tell that it is quiet, it is once it looks the same again."""
        identity = _identities(self.several)
        if self._over:  # it hung meanwhile
            return
        if self._known is None:
            hung = time.monotonic() - self._made > QUIET  # then a run may have read it, who knows as what
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

    def _mend(self) -> None:
        """Watch anew where a directory is another one now, or the watch has died."""
        observer = self._observer
        alive = observer is None or (observer.is_alive() and all(emitter.is_alive() for emitter in observer.emitters))
        directories = self._directories()
        if alive and directories == self._watched:
            return
        if not alive or directories.keys() == self._watched.keys():
            self._rebuilt(", ".join(directories))
        self._rebuild(directories)

    def _directories(self) -> dict[str, tuple[int, ...]]:
        """Give the directories to watch, and which they are."""
        places = [place for one in self.several if not one.poll for place in _places(one.path)]
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
        except (OSError, RuntimeError) as error:  # no inotify instance, watch or thread left: fs.inotify in sysctl(8)
            if observer is not None:
                observer.stop()
            if isinstance(
                error, (FileNotFoundError, NotADirectoryError)
            ):  # it went just now: the next look finds another
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
    """Give what has to be watched for a path: the directory of every link on its way, and of what it leads to."""
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
    """Give where a link leads; None where none is, or nobody knows."""
    try:
        return path.readlink()
    except OSError:
        return None


def _nearest(directory: Path) -> Path:
    """Give the directory, or the nearest one above it that is there."""
    there = os.path.isdir  # Path's own raises where it may not look
    return next(place for place in (directory, *directory.parents) if there(place))


def _which(directory: Path) -> tuple[int, ...]:
    """Identify a directory, and tell whether the kernel may tell us of it, which takes the right to read it."""
    try:
        identity = files.identity(directory)
    except OSError:
        identity = None
    return (*identity[:2], os.access(directory, os.R_OK)) if identity else ()


def _identities(several: tuple[Watched, ...]) -> _Identity:
    """Identify what paths lead to: a file, or every file of a directory."""
    return tuple(_identity(one.path) for one in several)


def _identity(path: Path) -> _Identity:
    try:
        if path.is_dir():
            return tuple(sorted((entry.name, files.identity(Path(entry.path))) for entry in os.scandir(path)))
        return (os.path.realpath(path), files.identity(path))
    except OSError as error:
        return (error.errno,)
