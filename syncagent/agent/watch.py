"""Notice that a local file changed: told by the kernel where it can tell, and looking now and then in any case.

What the kernel says is only a hint to look. Identity decides, so that reading a file, or our own writing, starts
nothing; and whether its content changed is for the source to say.
"""

from __future__ import annotations

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

from syncagent import files

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from syncagent.sources import Watched

_TELLING = {EVENT_TYPE_CREATED, EVENT_TYPE_MODIFIED, EVENT_TYPE_MOVED, EVENT_TYPE_DELETED, EVENT_TYPE_CLOSED}
QUIET, PATIENCE, LOOK = 1.0, 10.0, 5.0
"""Seconds: how long nothing may have happened, how long that is waited for, how often is looked in any case."""

_Identity = tuple[object, ...]


class _Hints(FileSystemEventHandler):
    """Notes that something happened; it does nothing that could fail, since that would end the watch in silence."""

    def __init__(self) -> None:
        self.first = self.last = 0.0

    def on_any_event(self, event: FileSystemEvent) -> None:
        if event.event_type in _TELLING:
            self.last = time.monotonic()
            self.first = self.first or self.last


class Watch:
    """Watches files, each for a name; ``look`` is to be called every so often."""

    def __init__(self, changed: Callable[[str], None], log: Callable[[str, str], None]) -> None:
        """Watch nothing yet. ``changed`` is told the name of what changed, ``log`` an event and what it is about."""
        self._changed, self._log = changed, log
        self._files: dict[str, tuple[Watched, ...]] = {}
        self._known: dict[str, _Identity] = {}
        self._seen: dict[str, tuple[_Identity, float]] = {}
        self._lock = threading.RLock()  # the worker sets, the keeper looks
        self._hints = _Hints()
        self._observer: InotifyObserver | None = None
        self._watched: dict[str, tuple[int, ...] | None] = {}
        self._looked = 0.0
        self._told_of_polling = False
        self.rebuilt = 0

    @property
    def mode(self) -> str:
        """How changes are noticed: ``inotify``, or ``poll`` where the kernel does not tell."""
        return "inotify" if self._observer else "poll"

    def set(self, watched: Mapping[str, tuple[Watched, ...]]) -> None:
        """Watch these from now on, for their names."""
        with self._lock:
            kept = {name: self._known[name] for name, several in watched.items() if self._files.get(name) == several}
            self._files = dict(watched)
            self._known = {name: kept.get(name) or _identities(several) for name, several in watched.items()}
            self._rebuild()

    def is_read(self, name: str) -> None:
        """Note that what a name leads to now is about to be read, for whatever reason: that is no change any more."""
        with self._lock:
            self._known[name] = _identities(self._files[name])

    def look(self) -> None:
        """See to it that the watch is alive, and tell of what changed, once it has been quiet for a second."""
        with self._lock:
            now = time.monotonic()
            if now - self._looked >= LOOK or self._hints.first:
                self._mend()
            hinted = bool(self._hints.first)
            if hinted and now - self._hints.last < QUIET and now - self._hints.first < PATIENCE:
                return
            if not hinted and now - self._looked < (QUIET if self._seen else LOOK):
                return
            self._hints.first = 0.0
            self._looked = now
            for name, several in self._files.items():
                self._compare(name, several, now, told=hinted and not any(one.poll for one in several))

    def _compare(self, name: str, several: tuple[Watched, ...], now: float, *, told: bool) -> None:
        """Tell of a change; where the kernel did not tell that it is quiet, it is once it looks the same again."""
        identity = _identities(several)
        if identity == self._known[name]:
            self._seen.pop(name, None)
            return
        seen, since = self._seen.get(name, (None, now))
        if told or identity == seen or now - since >= PATIENCE:
            self._seen.pop(name, None)
            self._known[name] = identity
            self._changed(name)
        else:
            self._seen[name] = identity, since

    def stop(self) -> None:
        """End it, unless a look does not come to its end: then its thread ends with the process."""
        if not self._lock.acquire(timeout=QUIET):
            return
        try:
            if self._observer is not None:
                self._observer.stop()
                self._observer = None
        finally:
            self._lock.release()

    def _mend(self) -> None:
        """Watch anew where a directory is another one now, or the watch has died."""
        observer = self._observer
        alive = observer is None or (observer.is_alive() and all(emitter.is_alive() for emitter in observer.emitters))
        directories = self._directories()
        if alive and directories == self._watched:
            return
        if not alive or directories.keys() == self._watched.keys():
            self.rebuilt += 1
            self._log("watch rebuilt", ", ".join(directories))
        self._rebuild()

    def _directories(self) -> dict[str, tuple[int, ...] | None]:
        """Give the directories to watch, and which they are: of each file, and of what it leads to."""
        found: set[str] = set()
        for one in (one for several in self._files.values() for one in several if not one.poll):
            for place in {one.path, Path(os.path.realpath(one.path))}:
                found.add(str(_nearest(place if place.is_dir() else place.parent)))
                found.add(str(_nearest(place.parent)))
        return {name: _which(name) for name in sorted(found)}

    def _rebuild(self) -> None:
        self.stop()
        self._watched = self._directories()
        if not self._watched:
            return
        observer = None
        try:
            observer = InotifyObserver()
            for directory in self._watched:
                observer.schedule(self._hints, directory)
            observer.start()
        except OSError as error:  # no inotify instance or watch left: fs.inotify in sysctl(8)
            if observer is not None:
                observer.stop()
            if isinstance(error, FileNotFoundError):  # it went just now: the next look is for another one
                self._watched = {}
            elif not self._told_of_polling:
                self._told_of_polling = True
                self._log("watching by polling", f"{error}; see fs.inotify.max_user_instances and max_user_watches")
            return
        self._observer = observer


def _nearest(directory: Path) -> Path:
    """Give the directory, or the nearest one above it that is there."""
    return next(place for place in (directory, *directory.parents) if place.is_dir())


def _which(directory: str) -> tuple[int, ...] | None:
    identity = files.identity(Path(directory))
    return identity[:2] if identity else None


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
