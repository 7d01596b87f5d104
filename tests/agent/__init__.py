"""The agent as its user runs it, and what its tests share: a backup MX that an agent keeps in step."""

import os
import shlex
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path

from syncagent.model import SyncResult
from tests.scenario import Scenario
from tests.support.need import need_postmap
from tests.support.postmap import postmap_keys
from tests.support.run import syncagent

URGENT = 60.0
"""Seconds: the ceiling for what takes three, and an hour where nothing but the schedule makes it happen."""


class Station(Scenario):
    """A scenario whose configuration also says when to run; it is replaced whole, and only when it says another thing.

    ``schedule`` has the keys of that table, ``extra`` is TOML for sources that are no files.
    """

    def __init__(self, directory: Path, *sources: str) -> None:
        super().__init__(directory, *sources)
        self.schedule = {"every": "1h"}
        self.extra = ""

    @property
    def env(self) -> Mapping[str, str]:
        """What the program's environment has besides."""
        return self._env

    def configure(self) -> Path:
        """Write the configuration if it is another one."""
        final, self.config = self.config, self.directory / "next.toml"
        try:
            text = super().configure().read_text("utf-8")
            text = f"{text}\n{self.extra}"
            staged, self.config = self.config, final
            if final.exists() and final.read_text("utf-8") == text:
                staged.unlink()
            else:
                staged.write_text(text, "utf-8")
                staged.replace(final)
        finally:
            self.config = final
        return final

    def indexed(self) -> set[str]:
        """Give what Postfix answers from: the keys of the index, whatever the text says."""
        if not Path(f"{self.map}.lmdb").exists():
            return set()
        return {key.decode() for key in postmap_keys(self.postfix_directory, f"lmdb:{self.map}")}

    def is_published(self, *addresses: str) -> bool:
        """Tell whether the text has these; without a process, so that it can be asked often."""
        text = self.map.read_text("utf-8").splitlines() if self.map.exists() else []
        return {f"{address} OK" for address in addresses} <= set(text)

    def by_hand(self, *, code: int | None = 0) -> SyncResult:
        """Run one sync in this process, by the real clock."""
        self.set_clock(time.time())
        try:
            return self.sync(code=code)
        finally:
            self._clock = None

    def left_over(self) -> list[str]:
        """Name what a run makes for itself and takes away."""
        found = [*self.state.glob(".spool-*"), *self.state.glob(".agent*"), *self.map.parent.glob(".*syncagent-*")]
        return [str(path) for path in found]

    def hanging_postmap(self, phase: str = "build") -> Path:
        """Put a postmap first on PATH that hangs for ever in a phase while a file is there; give the file, which is."""
        hangs, program = self.directory / "postmap-hangs", self.directory / "bin" / "postmap"
        program.parent.mkdir(exist_ok=True)
        real = need_postmap("lmdb")
        began = shlex.quote(f"{hangs}.began")
        program.write_text(
            f'#!/bin/sh\nphase=build\ncase "$*" in *" -s "*|*" -q "*) phase="read back" ;; esac\n'
            f'if [ -e {shlex.quote(str(hangs))} ] && [ "$phase" = "{phase}" ]; then\n'
            f"touch {began}; exec sleep 1000; fi\n"
            f'exec {real} "$@"\n',
            "utf-8",
        )
        program.chmod(0o755)
        hangs.touch()
        self._env["PATH"] = f"{program.parent}{os.pathsep}{os.environ.get('PATH', os.defpath)}"
        return hangs

    def status(self) -> subprocess.CompletedProcess[str]:
        """Ask how it stands."""
        return syncagent("status", "--json", config=self.config, env=self._env)
