"""Prometheus's own tool, which `make test` puts into the virtual environment."""

import sys
from pathlib import Path

from tests.support.need import need_program


def need_promtool() -> str:
    """Return the path of promtool."""
    ours = Path(sys.executable).with_name("promtool")
    return str(ours) if ours.exists() else need_program("promtool")
