"""The temporary directory of a dry run is gone at the end of the run."""

import contextlib
import threading
from pathlib import Path

from syncagent.state.opened import DryState
from tests.support.programs import PATIENCE


def test_a_thread_that_still_writes(tmp_path: Path) -> None:
    """The directory goes once the thread of an interrupted run has ended, and its files are no error."""
    with contextlib.ExitStack() as stack:
        spool = DryState(tmp_path, stack).spool
        begun = threading.Event()
        writer = threading.Thread(target=_write, args=(spool, begun))
        writer.start()
        assert begun.wait(PATIENCE)
    writer.join(PATIENCE)
    assert not spool.exists()


def _write(spool: Path, begun: threading.Event) -> None:
    for number in range(2_000):
        try:
            (spool / f"{number}").write_bytes(b"x")
        except OSError:  # it is gone
            return
        if number == 500:
            begun.set()
