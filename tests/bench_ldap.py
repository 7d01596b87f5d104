"""How fast the LDAP source is, against a real slapd: ratios to the leanest loop that ldap3 allows, in the same run.

`python -m tests.bench_ldap lean|pull|warm CONFIG` is one measurement in a process of its own; it prints seconds.
"""

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

from syncagent.config import load as configuration
from syncagent.config.tables import SourceConfig
from syncagent.model import SourceState
from syncagent.sync.fetch import Fetched, Fetcher
from tests.support.postmap import minimal_config
from tests.support.slapd import PEOPLE, SUFFIX, SYNC, SYNC_PASSWORD, Slapd, people

if TYPE_CHECKING:
    from tests.bench import Took

ENTRIES = 200_000
ATTRIBUTES = ("mail", "proxyAddresses")
RUNS = 3
_PAGED = "1.2.840.113556.1.4.319"


def lean(source: SourceConfig) -> float:
    """Read every page and nothing else: what ldap3 itself costs."""
    import ldap3

    server = ldap3.Server(source.own.url[0], get_info=ldap3.NONE)
    options = {"check_names": False, "return_empty_attributes": False, "auto_range": False, "auto_referrals": False}
    start = time.perf_counter()
    connection = ldap3.Connection(
        server, user=SYNC, password=SYNC_PASSWORD, auto_bind=True, raise_exceptions=True, read_only=True, **options
    )
    cookie, count = None, 0
    while cookie is None or cookie:
        connection.search(
            SUFFIX,
            "(|(mail=*)(proxyAddresses=*))",
            ldap3.SUBTREE,
            dereference_aliases=ldap3.DEREF_NEVER,
            attributes=[*ATTRIBUTES, "entryUUID"],
            paged_size=1000,
            paged_criticality=True,
            paged_cookie=cookie,
        )
        count += sum(len(entry["raw_attributes"]) > 0 for entry in connection.response)
        cookie = connection.result["controls"][_PAGED]["value"]["cookie"]
    took = time.perf_counter() - start
    connection.unbind()
    assert count == ENTRIES
    return took


def pull(source: SourceConfig) -> float:
    """Fetch everything, into a snapshot."""
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as directory:
        _fetch(source, Path(directory), SourceState(source.name))
        return time.perf_counter() - start


def warm(source: SourceConfig) -> float:
    """Fetch what has not changed, over the connection of the run before; the median of many."""
    took = []
    with tempfile.TemporaryDirectory() as directory:
        state = _fetch(source, Path(directory), SourceState(source.name)).state
        for _ in range(100):
            start = time.perf_counter()
            fetched = _fetch(source, Path(directory), state)
            took.append(time.perf_counter() - start)
            assert fetched.report.state == "same"
    return median(took)


def _fetch(source: SourceConfig, directory: Path, state: SourceState) -> Fetched:
    fetcher = Fetcher(directory, directory, directory, f"{time.time_ns()}", time.time(), lambda *_: None)
    (fetched,) = fetcher.all({source.name: source}, {source.name: state})
    assert not fetched.report.error, fetched.report.error
    return fetched


def rows(directory: Path, entries: int = ENTRIES) -> Iterator[tuple[str, str, str, str]]:
    """Give the rows of the table."""
    from tests.bench import measured, middle, quickest

    directory.mkdir()
    server = Slapd()
    server.load(people(entries))
    with server:
        config = _configure(directory, server)
        command = [sys.executable, "-m", "syncagent", "--config", str(config)]
        floor = median(alone(__name__, "lean", config).seconds for _ in range(RUNS))
        whole = middle([alone(__name__, "pull", config) for _ in range(RUNS)])
        yield f"LDAP, {entries:,} entries", "seconds", "ratio", "MB"
        yield "---", "---", "---", "---"
        yield f"leanest ldap3 loop, median of {RUNS}", f"{floor:.2f}", "1", ""
        yield (
            f"full pull, median of {RUNS}",
            f"{whole.seconds:.2f}",
            f"{whole.seconds / floor:.2f}",
            f"{whole.own_mb:.0f}",
        )
        yield "fetch, unchanged, connection kept", f"{alone(__name__, 'warm', config).seconds:.4f}", "", ""
        measured([*command, "sync", "--quiet"])
        unchanged = quickest(lambda: measured([*command, "sync", "--quiet"]))
        yield "`sync`, unchanged", f"{unchanged.seconds:.2f}", "", f"{unchanged.own_mb:.0f}"
        for number in range(10):
            server.modify(f"uid=u{number * 17000:07},{PEOPLE}", mail=f"new{number}@example.com")
        changed = quickest(lambda: measured([*command, "plan"]))
        yield "`plan` (all but the publishing), 10 changed", f"{changed.seconds:.2f}", "", f"{changed.own_mb:.0f}"


def _configure(directory: Path, server: Slapd) -> Path:
    password = directory / "password"
    password.touch(mode=0o600)
    password.write_text(SYNC_PASSWORD, "utf-8")
    postfix = minimal_config(directory / "postfix")
    (directory / "map").mkdir()
    attributes = ", ".join(f'"{name}"' for name in ATTRIBUTES)
    file = directory / "syncagent.toml"
    file.write_text(
        f'[postfix]\nmap = "lmdb:{directory}/map/relay_recipients"\nrelay_domains = ["example.com", "example.org"]\n'
        f'config_directory = "{postfix}"\n[state]\ndirectory = "state"\n[limits]\nremoval_grace = "0s"\n'
        f'[sources.corp]\ntype = "ldap"\nurl = "{server.url}"\ninsecure = true\nbase = "{SUFFIX}"\n'
        f'attributes = [{attributes}]\nbind_dn = "{SYNC}"\npassword_file = "./password"\n',
        "utf-8",
    )
    return file


def alone(module: str, what: str, config: Path) -> "Took":
    """Run one measurement of a module in a process of its own; give what it took, as it says itself."""
    from tests.bench import Peak, Took

    process = subprocess.Popen(
        [sys.executable, "-W", "ignore", "-m", module, what, str(config)],
        stdout=subprocess.PIPE,
        env=os.environ,
    )
    peak = Peak(process.pid)
    said, _ = process.communicate()
    if process.returncode:
        raise SystemExit(f"the measurement {what} exited {process.returncode}")
    return Took(float(said), peak.mb)


if __name__ == "__main__":
    (one,) = configuration.load(Path(sys.argv[2])).sources.values()
    print({"lean": lean, "pull": pull, "warm": warm}[sys.argv[1]](one))
