"""A directory as syncagent leaves it for contrib/doubt-switch.sh: the table of doubt and what stands beside it."""

import os
import re
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from tests.support.pages import ROOT
from tests.support.postmap import minimal_config, postmap_build, postmap_query
from tests.support.programs import PATIENCE

SCRIPT = ROOT / "contrib" / "doubt-switch.sh"
VALUE = "DEFER_IF_REJECT 4.3.0 recipient list is being refreshed, please try again later"
PROBE = "syncagent-doubt-probe@example.com DEFER_IF_REJECT 4.3.0 probe\n"
TABLE = "# Written by syncagent: changes made here are lost.\n" + PROBE
ALL = f"# doubt-all of doubt\nexample.com {VALUE}\n.example.com {VALUE}\n" + PROBE
LIMIT = 900


class Ran(NamedTuple):
    """Exit status and output of the switch."""

    status: int
    said: str


class DoubtDirectory:
    """The directory of a table `doubt`, in which no domain is in doubt, beside a `doubt-all` and a fresh `alive`."""

    def __init__(self, path: Path) -> None:
        """Make it, with a real postmap."""
        self.path = path
        path.mkdir(parents=True)
        path.chmod(0o755)
        self._config = minimal_config(path.parent / f"{path.name}.postfix")
        self.build("doubt", TABLE)
        self.publish_all()
        self.write_alive(0)

    def build(self, name: str, text: str) -> None:
        """Write a table: the text, then the index."""
        staged = self.path.parent / f"{self.path.name}.staged"
        staged.write_text(text, encoding="utf-8")
        staged.chmod(0o644)
        postmap_build(self._config, f"lmdb:{staged}")
        staged.replace(self.path / name)
        staged.with_name(f"{staged.name}.lmdb").replace(self.path / f"{name}.lmdb")

    def publish_all(self) -> None:
        """Write `doubt-all`, made a minute ago."""
        self.build("doubt-all", ALL)
        for name in ("doubt-all", "doubt-all.lmdb"):
            os.utime(self.path / name, (time.time() - 60,) * 2)

    def write_alive(self, age: float, limit: float = LIMIT) -> None:
        """Write `alive` as of so many seconds ago."""
        (self.path / "alive").write_text(f"written {int(time.time() - age)}\nlimit {limit}\n", encoding="ascii")

    def give_to(self, uid: int, gid: int) -> None:
        """Change the owner of the directory and all that is in it."""
        for path in (self.path, *self.path.iterdir()):
            os.chown(path, uid, gid, follow_symlinks=False)

    @property
    def in_doubt(self) -> bool:
        """True if the table in force has the domain, by its index."""
        answer = postmap_query(self._config, f"lmdb:{self.path / 'doubt'}", b"example.com")
        assert answer in {None, VALUE.encode()}
        return answer is not None

    @property
    def mark(self) -> str | None:
        """The word of the mark, of which the time is asserted to be now; None if there is no mark."""
        try:
            text = (self.path / "doubt-switched").read_text(encoding="ascii")
        except FileNotFoundError:
            return None
        found = re.fullmatch(r"(\d+) (dead|boot)\n", text)
        assert found, text
        assert abs(time.time() - int(found[1])) < PATIENCE
        return found[2]

    def names(self) -> set[str]:
        """Return the names of all that is in it."""
        return {path.name for path in self.path.iterdir()}

    def files(self) -> dict[str, tuple[int, int, int]]:
        """Return inode, size and time of writing of all but the sign of having been seen."""
        return {
            path.name: (status.st_ino, status.st_size, status.st_mtime_ns)
            for path in self.path.iterdir()
            if path.name != "doubt-switch-seen"
            for status in [path.lstat()]
        }

    def switched(self, mark: str = "dead") -> None:
        """Assert that the whole of doubt-all is in force: index, text and mark, and nothing is left over."""
        assert self.in_doubt
        assert (self.path / "doubt").read_text(encoding="utf-8") == ALL
        assert self.mark == mark
        assert not {"doubt-all", "doubt-all.lmdb", ".doubt-switched.new"} & self.names()


def switch(directory: Path | str, *options: str, script: Path = SCRIPT, before: Sequence[str] = ()) -> Ran:
    """Run the switch, its standard error being what systemd says of it: the journal."""
    return run_switch(str(directory), *options, script=script, before=before)


def run_switch(*arguments: str, script: Path = SCRIPT, before: Sequence[str] = ()) -> Ran:
    """Run it with these arguments, behind the words of a command."""
    reader, writer = os.pipe()
    status = os.fstat(writer)
    environment = {"PATH": os.environ["PATH"], "JOURNAL_STREAM": f"{status.st_dev}:{status.st_ino}"}
    with os.fdopen(reader, encoding="utf-8") as said:
        try:
            process = subprocess.Popen(
                [*before, str(script), *arguments], stdin=subprocess.DEVNULL, stderr=writer, env=environment
            )
        finally:
            os.close(writer)
        code = process.wait(PATIENCE)
        return Ran(code, said.read())
