"""Stage, index, read back, rename: the map as Postfix sees it changes whole or not at all.

It decides nothing: which recipients, is settled before. The order is measured: an index built in place and killed
half-way refuses valid recipients with 550, text before index never ends in a stale pair.
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
from syncagent.postfix import table_text as mapfile
from syncagent.postfix.commands import create_main_cf, tool
from syncagent.postfix.table import publish_step
from syncagent.postfix.verify import ReadBack

if TYPE_CHECKING:
    from collections.abc import Callable

    from syncagent.postfix.table import Identities, Target


def publish(target: Target, recipients: Path, spool: Path, report: Callable[[str, int], None]) -> Identities:
    """Put the map in place and give what it is then. ``recipients``: sorted canonical addresses, one a line.

    Raises PublishError, the old pair in place, naming the step; UnansweredError where Postfix does not answer for
    keys that were written.
    """
    _check_reload(target)
    target.check()
    with contextlib.ExitStack() as stack:
        with publish_step("stage"):
            stage = _staging(target, target.named.parent, stack)
            staged = stage / target.named.name
            keys = _keys(recipients, spool)
            digest = _write_text(staged, keys)
        report("index", 0)
        with publish_step("index"):
            suffix = _index(target, stage, staged)
        report("read back", 0)
        with publish_step("read back"):
            limit = target.settings.postmap_timeout
            ReadBack(target.type, staged, spool, lambda *options: _postmap(target, *options), limit).check(keys)
        with publish_step("rename"):
            _as_before(staged, suffix, target.text)
            _rename(target, staged, suffix, stack)
    return target.identities(digest, suffix)


def _staging(target: Target, directory: Path, stack: contextlib.ExitStack) -> Path:
    stage = Path(tempfile.mkdtemp(prefix=target.prefix, dir=directory))
    stack.callback(shutil.rmtree, stage, ignore_errors=True)
    if stage.stat().st_dev != directory.stat().st_dev:
        raise PublishError("stage", f"{stage} is on another file system than {directory}")
    return stage


def _as_before(staged: Path, suffix: str, old: Path) -> None:
    """Keep mode and owner of the text; give its owner to the index too. A new map is 0644, as smtpd is another user.

    The files stay ours until they are complete: postmap run by root becomes the owner of its source, so that whoever
    owns the map could have it write elsewhere.
    """
    try:
        before = old.stat()
    except FileNotFoundError:
        staged.chmod(0o644)
        return
    _set_owner(staged, before, before.st_mode)
    if suffix:
        _set_owner(staged.with_name(staged.name + suffix), before, None)


def _set_owner(path: Path, owner: os.stat_result, mode: int | None) -> None:
    """Set owner, where that is permitted, and mode of a file in the staging directory, which is never followed."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        with contextlib.suppress(PermissionError):
            os.fchown(descriptor, owner.st_uid, owner.st_gid)
        if mode is not None:
            os.fchmod(descriptor, mode & 0o777)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _keys(recipients: Path, spool: Path) -> Path:
    """Give the sorted keys to write: the recipients, and the U-label forms of those that have one."""
    extra = spool / "second-forms"
    grep = pipeline.Child(["grep", "-F", "xn--", str(recipients)], subprocess.DEVNULL, good=(0, 1))
    with grep, pipeline.Sorter(spool) as sorter:
        sorter.feed(mapfile.second_forms(grep.lines()))
        pipeline.write_plain(extra, sorter.finish())
    if not extra.stat().st_size:
        return recipients
    keys = spool / "keys"
    with pipeline.Child(["sort", "-m", "-u", str(recipients), str(extra)], subprocess.DEVNULL) as both:
        pipeline.write_plain(keys, both.chunks())
    return keys


def _write_text(staged: Path, keys: Path) -> str:
    """Write the text; give the digest of its lines."""
    digest = hashlib.sha256()
    with staged.open("wb") as file:
        file.write(mapfile.HEADER)
        for chunk in mapfile.render(atomic.chunks_in(keys)):
            digest.update(chunk)
            file.write(chunk)
        file.flush()
        os.fsync(file.fileno())
    return digest.hexdigest()


def _postmap(target: Target, *options: str) -> list[str]:
    program = tool("postmap")
    if program is None:
        raise PublishError("index", "postmap is not installed: apt-get install postfix, or use a texthash: map")
    return [str(program), "-c", str(target.settings.config_directory), *options]


def _index(target: Target, stage: Path, staged: Path) -> str:
    """Have postmap index the staged text; give the suffix of what appeared, which need not be the usual one.

    Postfix 3.11 may redirect hash to cdb (NON_BERKELEYDB_README).
    """
    if target.type == "texthash":
        return ""
    limit = target.settings.postmap_timeout
    try:
        done = subprocess.run(
            _postmap(target, f"{target.type}:{staged}"), capture_output=True, timeout=limit, check=False
        )
    except subprocess.TimeoutExpired:
        raise PublishError("index", f"postmap did not end within {limit:g}s: see postfix.postmap_timeout") from None
    if done.returncode:
        said = done.stderr.decode(errors="backslashreplace").strip()[-1000:]
        package = f": is the package postfix-{target.type} installed?" if "unsupported dictionary type" in said else ""
        create = create_main_cf(target.settings.config_directory)
        hint = f"; to create it: {create}" if create else package
        raise PublishError("index", f"postmap failed ({done.returncode}): {said or 'no message'}{hint}")
    made = sorted(path for path in stage.iterdir() if path != staged)
    if len(made) != 1:
        found = ", ".join(path.name for path in made) or "none"
        raise PublishError(
            "index", f"postmap ended well, but one index file should have appeared beside the text: {found}"
        )
    with made[0].open("rb") as file:
        os.fsync(file.fileno())
    return made[0].name.removeprefix(staged.name)


def _rename(target: Target, staged: Path, suffix: str, stack: contextlib.ExitStack) -> None:
    """Put text, then index, in their places."""
    text = _beside(target, staged, target.text, stack)
    index = target.index(suffix)
    atomic.check_regular(index)  # its suffix need not be the usual one
    staged_index = _beside(target, staged.with_name(staged.name + suffix), index, stack) if suffix else None
    old, there = text.with_name("old"), target.text.exists()
    with contextlib.suppress(OSError):  # then the next run mends what could not be put back
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
    """Give what is staged, staged in the directory of its place: a symlink may lead to another file system."""
    if staged.parent.parent.resolve() == place.parent:
        return staged
    copy = _staging(target, place.parent, stack) / staged.name
    shutil.copy2(staged, copy)
    _set_owner(copy, staged.stat(), None)
    with copy.open("rb") as file:
        os.fsync(file.fileno())
    return copy


def remove_stale(old: Identities | None, new: Identities) -> None:
    """Remove the index of ours that a new suffix or another map replaced: read by mistake, it would refuse the new."""
    if old is None or not old.index or old.index_file is None:
        return
    path = Path(old.map.partition(":")[2] + old.index)
    same_text = old.map.partition(":")[2] == new.map.partition(":")[2]
    if same_text and old.index != new.index and atomic.identity(path) == old.index_file:
        path.unlink()


def _check_reload(target: Target) -> None:
    if target.type == "texthash" and target.settings.reload and os.geteuid() != 0:
        text = "Postfix reads a texthash map when it starts: run as root, or set postfix.reload = false and reload it"
        raise PublishError("reload", text)


def reload(target: Target) -> None:
    """Have Postfix read a texthash map again. A Postfix that does not run reads it when it starts.

    Raises PublishError; the new text is in place by then.
    """
    if target.type != "texthash" or not target.settings.reload:
        return
    program = tool("postfix")
    if program is None:
        raise PublishError("reload", "postfix is not installed: set postfix.reload = false")
    command = [str(program), "-c", str(target.settings.config_directory.absolute())]
    if subprocess.run([*command, "status"], capture_output=True, check=False).returncode:
        _check_configuration(target)  # "not running" and "cannot tell" have the same status
        return
    done = subprocess.run([*command, "reload"], capture_output=True, check=False)
    if done.returncode:
        raise PublishError(
            "reload", f"postfix reload failed: {done.stderr.decode(errors='backslashreplace').strip()[-500:]}"
        )


def _check_configuration(target: Target) -> None:
    postconf = tool("postconf")
    command = [str(postconf), "-c", str(target.settings.config_directory), "-h", "queue_directory"]
    if postconf is None or subprocess.run(command, capture_output=True, check=False).returncode:
        text = f"cannot tell whether Postfix runs: {target.settings.config_directory} has no main.cf that it can read"
        raise PublishError("reload", f"{text}; see postfix.config_directory")
