"""Publish a table in four steps: stage, index, read back, rename. Postfix sees the old table or the new one.

Tests with Postfix led to this order. If postmap builds the index in place and is killed, smtpd rejects valid
recipients with 550. The text is renamed before the index: if the run is killed in between, the index is older than its
text, which the next run detects.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from syncagent.errors import PublishError
from syncagent.files import atomic, pipeline
from syncagent.postfix import commands, folding, table_text
from syncagent.postfix.commands import Cause, CommandError
from syncagent.postfix.table import publish_step
from syncagent.postfix.verify import ReadBack
from syncagent.values.types import TableName

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from syncagent.postfix.table import Identities, Target
    from syncagent.postfix.table_text import Rendering

_HINTS = {
    Cause.NOT_INSTALLED: ": apt-get install postfix, or use a texthash: map",
    Cause.TIMEOUT: ": see postfix.postmap_timeout",
}


def _no_intent(_digest: str) -> None:
    """Do nothing."""


def publish(  # noqa: PLR0913 - all inputs of publishing
    target: Target,
    recipients: Path,
    spool: Path,
    report: Callable[[str, int], None],
    rendering: Rendering = table_text.RECIPIENTS,
    *,
    intend: Callable[[str], None] = _no_intent,
) -> Identities:
    """Publish the recipients as the table and return the identities of its files.

    ``recipients`` has sorted canonical addresses or domains, one a line; ``report`` receives each step and 0.
    ``intend`` is called with the digest of the text before the staged files are renamed. Raises PublishError with the
    name of the failed step, and UnansweredError if the staged map lacks keys; the old map stays in place.
    """
    _check_reload(target)
    target.check()
    with contextlib.ExitStack() as stack:
        with publish_step("stage"):
            stage = _staging(target, target.named.parent, stack)
            staged = stage / target.named.name
            keys = _keys(recipients, spool)
            if target.type == "texthash":
                keys = folding.folded(keys, spool, target.settings)
            digest = _write_text(staged, keys, rendering)
            _set_mode(staged, target.text)
        report("index", 0)
        with publish_step("index"):
            suffix = _index(target, stage, staged)
        report("read back", 0)
        with publish_step("read back"):
            settings = target.settings
            ReadBack(
                target.type, staged, spool, settings.config_directory, settings.postmap_timeout, rendering.keys
            ).check(keys)
        with publish_step("rename"):
            _set_owner(staged, suffix, target.text)
            intend(digest)
            _rename(target, staged, suffix, stack)
    return target.identities(digest, suffix)


def _staging(target: Target, directory: Path, stack: contextlib.ExitStack) -> Path:
    stage = Path(tempfile.mkdtemp(prefix=target.prefix, dir=directory))
    stack.callback(shutil.rmtree, stage, ignore_errors=True)
    if stage.stat().st_dev != directory.stat().st_dev:
        raise PublishError("stage", f"{stage} is on another file system than {directory}")
    return stage


def _set_mode(staged: Path, old: Path) -> None:
    """Set the mode of the staged text to that of the old text; to 0644 for a new map, since smtpd is another user.

    Must precede indexing: postmap gives the index the mode of its source.
    """
    mode = old.stat().st_mode & 0o777 if old.exists() else 0o644
    with _staged_file(staged) as descriptor:
        os.fchmod(descriptor, mode)


def _set_owner(staged: Path, suffix: str, old: Path) -> None:
    """Set the owner and group of the staged text and index to those of the old text, where that is permitted.

    Does nothing for a new text. The owner changes only after postmap has run: run by root, postmap takes on the
    identity of its source file's owner, who could then redirect its output.
    """
    if old.exists():
        owner = old.stat()
        for name in dict.fromkeys((staged, staged.with_name(staged.name + suffix))):
            with _staged_file(name) as descriptor, contextlib.suppress(PermissionError):
                os.fchown(descriptor, owner.st_uid, owner.st_gid)


@contextlib.contextmanager
def _staged_file(path: Path) -> Iterator[int]:
    """Open a file in the staging directory for a change of its attributes; a symbolic link is not followed."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        yield descriptor
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _keys(recipients: Path, spool: Path) -> Path:
    """Return a file of the sorted keys: the recipients, and the U-label forms of those in IDN domains.

    It is ``recipients`` itself if there are no U-label forms.
    """
    extra = spool / "second-forms"
    grep = pipeline.Child(["grep", "-F", "xn--", str(recipients)], subprocess.DEVNULL, good=(0, 1))
    with grep, pipeline.Sorter(spool) as sorter:
        sorter.feed(table_text.second_forms(grep.lines()))
        pipeline.write_plain(extra, sorter.finish())
    if not extra.stat().st_size:
        return recipients
    keys, repeats = spool / "keys", pipeline.Repeats()
    with pipeline.merged([recipients, extra]) as both:
        pipeline.write_plain(keys, repeats.once(both.chunks()))
    _check_count(atomic.count_lines(recipients) + atomic.count_lines(extra), repeats.lines, "were merged")
    return keys


def _check_count(expected: int, counted: int, what: str) -> None:
    """Raise PublishError unless as many keys as expected were counted in a step."""
    if expected != counted:
        raise PublishError("count", f"of {expected:,} keys {counted:,} {what}: is the disk or a program faulty?")


def _write_text(staged: Path, keys: Path, rendering: Rendering) -> str:
    """Write and fsync the text. Return the SHA-256 of its lines without the header, in hex."""
    digest, lines = hashlib.sha256(), 0
    with staged.open("wb") as file:
        file.write(rendering.header)
        for chunk in rendering.render(atomic.chunks_in(keys)):
            digest.update(chunk)
            lines += chunk.count(b"\n")
            file.write(chunk)
        file.flush()
        os.fsync(file.fileno())
    _check_count(atomic.count_lines(keys), lines, "are in the text")
    return digest.hexdigest()


def _index(target: Target, stage: Path, staged: Path) -> str:
    """Index the staged text by postmap(1) and return the suffix of the index file; empty for a texthash.

    The suffix may differ from the type's: Postfix 3.11 can redirect hash to cdb (NON_BERKELEYDB_README). Raises
    PublishError if postmap fails or does not create exactly one file.
    """
    if target.type == "texthash":
        return ""
    settings = target.settings
    try:
        done = commands.run(
            "postmap",
            f"{target.type}:{staged}",
            directory=settings.config_directory,
            timeout=settings.postmap_timeout,
        )
    except CommandError as error:
        raise PublishError("index", f"{error}{_HINTS.get(error.cause, '')}") from error
    if done.status:
        failure = done.error()
        hint = f": is the package postfix-{target.type} installed?" if failure.cause is Cause.UNKNOWN_TYPE else ""
        if create := commands.create_main_cf(settings.config_directory):
            hint = f"; to create it: {create}"
        raise PublishError("index", f"postmap failed ({done.status}): {failure}{hint}")
    made = sorted(path for path in stage.iterdir() if path != staged)
    if len(made) != 1:
        names = ", ".join(path.name for path in made) or "none"
        text = f"postmap succeeded, but one index file should have appeared beside the text: {names}"
        raise PublishError("index", text)
    with made[0].open("rb") as file:
        os.fsync(file.fileno())
    return made[0].name.removeprefix(staged.name)


def _rename(target: Target, staged: Path, suffix: str, stack: contextlib.ExitStack) -> None:
    """Rename the text, then the index, to their final names, and fsync their directories.

    If the index cannot be renamed, roll back the text and raise OSError.
    """
    text = _beside(target, staged, target.text, stack)
    index = target.index(suffix)
    atomic.check_regular(index)  # Target.check() knows only the type's usual suffix
    staged_index = _beside(target, staged.with_name(staged.name + suffix), index, stack) if suffix else None
    old, there = text.with_name("old"), target.text.exists()
    with contextlib.suppress(OSError):  # without this link there is no rollback: the next run repairs the pair
        old.hardlink_to(target.text)
    text.replace(target.text)
    if staged_index:
        try:
            staged_index.replace(index)
        except OSError:
            if old.exists():
                old.replace(target.text)
            elif not there:
                target.text.unlink()
            raise
        atomic.fsync_directory(index.parent)
    atomic.fsync_directory(target.text.parent)


def _beside(target: Target, staged: Path, place: Path, stack: contextlib.ExitStack) -> Path:
    """Return the staged file, or a copy of it in another staging directory if a symlink leads ``place`` elsewhere.

    rename(2) needs both names in the same file system.
    """
    if staged.parent.parent.resolve() == place.parent:
        return staged
    copy = _staging(target, place.parent, stack) / staged.name
    shutil.copy2(staged, copy)
    _set_owner(copy, "", staged)
    with copy.open("rb") as file:
        os.fsync(file.fileno())
    return copy


def remove_stale(old: Identities | None, new: Identities) -> None:
    """Remove the old index if the new one has another suffix: Postfix could still query it and reject new recipients.

    The index is removed only if it is unchanged since syncagent published it.
    """
    if old is None or not old.index or old.index_file is None:
        return
    text, new_text = (TableName.parse(identities.map).rest for identities in (old, new))
    path = Path(f"{text}{old.index}")
    if text == new_text and old.index != new.index and atomic.identity(path) == old.index_file:
        path.unlink()


def _check_reload(target: Target) -> None:
    if target.type == "texthash" and target.settings.reload and os.geteuid() != 0:
        text = "Postfix reads a texthash map when it starts: run as root, or set postfix.reload = false and reload it"
        raise PublishError("reload", text)


def reload(target: Target) -> None:
    """Reload Postfix if the table is a texthash, postfix.reload is set, and Postfix is running.

    Postfix reads a texthash only when a process starts. Raises PublishError if the reload fails, or if the state of
    Postfix cannot be determined; the new text is already in place then.
    """
    if target.type != "texthash" or not target.settings.reload:
        return
    directory = target.settings.config_directory
    try:
        if commands.run("postfix", "status", directory=directory).status:
            _check_configuration(directory)  # "not running" and an unreadable main.cf give the same exit status
            return
        done = commands.run("postfix", "reload", directory=directory)
    except CommandError as error:
        hint = ": set postfix.reload = false" if error.cause is Cause.NOT_INSTALLED else ""
        raise PublishError("reload", f"{error}{hint}") from error
    if done.status:
        raise PublishError("reload", f"postfix reload failed: {done.error()}")


def _check_configuration(directory: Path) -> None:
    """Raise PublishError if postconf cannot read main.cf."""
    try:
        commands.output("postconf", "-h", "queue_directory", directory=directory)
    except CommandError as error:
        text = f"cannot tell whether Postfix runs: postconf -c {directory} failed: {error}"
        raise PublishError("reload", f"{text}; see postfix.config_directory") from error
