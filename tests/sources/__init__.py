"""Tests of the sources, and what they share: a configuration to run the program on, and a package of another's."""

import os
from pathlib import Path

HEAVY = frozenset({"dns", "prometheus_client", "ldap3", "httpx", "apscheduler", "watchdog", "rich"})
"""Libraries that are imported only where they are used."""


def write_config(directory: Path, sources: str, *, domains: str = '"example.com"', limits: str = "") -> Path:
    """Write a configuration whose map is `directory`/map, a texthash: it needs no Postfix; give the file."""
    file = directory / "syncagent.toml"
    file.write_text(
        f"""\
[postfix]
map = "texthash:{directory}/map"
relay_domains = [{domains}]
config_directory = "."
reload = false

[limits]
removal_grace = "0s"
{limits}

[state]
directory = "state"

{sources}
""",
        encoding="utf-8",
    )
    return file


def map_keys(directory: Path) -> list[str]:
    """Give the keys of the map in `directory`."""
    lines = (directory / "map").read_text(encoding="utf-8").splitlines()
    return [line.split()[0] for line in lines if not line.startswith("#")]


def install(site: Path, kind: str, code: str) -> dict[str, str]:
    """Lay a package down as an installer would, with a module that is the source kind; give the environment for it."""
    info = site / f"{kind}_source-1.2.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {kind}-source\nVersion: 1.2\n", encoding="utf-8")
    (info / "entry_points.txt").write_text(f"[syncagent.sources]\n{kind} = {kind}_source\n", encoding="utf-8")
    (site / f"{kind}_source.py").write_text(code, encoding="utf-8")
    path = os.pathsep.join(filter(None, (str(site), os.environ.get("PYTHONPATH"))))
    return {"PYTHONPATH": path, "PYTHONDONTWRITEBYTECODE": "1"}
