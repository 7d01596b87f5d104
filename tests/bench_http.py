"""How fast the HTTP source is over TLS on loopback: a plain list against the same file, a recipe against json.loads.

`python -m tests.bench_http serve DIRECTORY SIZE` is the server, `lean|pull CONFIG` one measurement in a process of its
own, which prints seconds.
"""

import hashlib
import http.client
import json
import ssl
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from syncagent.config import load as configuration
from syncagent.config.tables import SourceConfig
from syncagent.model import SourceState
from syncagent.sync.fetch import Fetcher
from tests.bench_ldap import alone
from tests.support.authority import Authority
from tests.support.scripted_http import Asked, Part, ScriptedHTTP, answer

if TYPE_CHECKING:
    from tests.bench import Took

RECORDS, PAGE = 100_000, 500
RUNS = 3
TOKEN = "bench-token"
RECIPE = """\
title = "a list in pages"

[auth]
kind = "bearer"

[[steps]]
name = "mailboxes"
path = "/api/mailboxes"
list = "items"
total = "total"
paging = { kind = "page", param = "page" }
key = "id"
where = [{ path = "active", one_of = [1, 2], known = [0] }]
emit = [{ kind = "address", value = "username" }]
"""


def _record(number: int) -> dict[str, object]:
    return {
        "id": number,
        "username": f"user{number}@domain{number % 50:02}.example",
        "name": f"User Number {number}",
        "domain": f"domain{number % 50:02}.example",
        "local_part": f"user{number}",
        "active": 1,
        "active_int": 1,
        "quota": 3221225472,
        "quota_used": number * 4711,
        "messages": number % 5000,
        "attributes": {"tls_enforce_in": "0", "tls_enforce_out": "0", "quarantine_notification": "hourly"},
    }


def serve(directory: Path, size: int) -> None:
    """Serve a plain list of ``directory`` and an API until the standard input ends."""
    plain = (directory / "recipients").read_bytes()
    plain += f"# end {size} {hashlib.sha256(plain).hexdigest()}\n".encode()
    pages = [
        json.dumps({"total": RECORDS, "items": [_record(at) for at in range(start, start + PAGE)]})
        for start in range(0, RECORDS, PAGE)
    ]

    def listed(asked: Asked) -> Iterable[Part]:
        return answer(b"", 304) if asked.headers.get("if-none-match") == '"1"' else answer(plain, ETag='"1"')

    def paged(asked: Asked) -> Iterable[Part]:
        return answer(pages[int(asked.query["page"]) - 1])

    context = Authority()
    context.ca_file(directory)
    with ScriptedHTTP(
        context.server_context(directory, "localhost"), {"/recipients.txt": listed, "/api/mailboxes": paged}
    ) as server:
        print(server.url, flush=True)
        sys.stdin.read()


def lean(source: SourceConfig) -> float:
    """Transfer every page over one connection and load it, and nothing else."""
    parts = urlsplit(source.own.url)
    assert parts.hostname is not None
    context = ssl.create_default_context(cafile=source.own.ca_file)
    start = time.perf_counter()
    connection = http.client.HTTPSConnection(parts.hostname, parts.port, context=context)
    count = 0
    for number in range(1, RECORDS // PAGE + 1):
        connection.request("GET", f"/api/mailboxes?page={number}")
        count += len(json.loads(connection.getresponse().read())["items"])
    assert count == RECORDS
    return time.perf_counter() - start


def pull(source: SourceConfig) -> float:
    """Fetch everything, into a snapshot."""
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        fetcher = Fetcher(directory, directory, directory, "bench", time.time(), lambda *_: None)
        (fetched,) = fetcher.all({source.name: source}, {source.name: SourceState(source.name)})
        assert fetched.report.entries == RECORDS, fetched.report.error
        return time.perf_counter() - start


def rows(directory: Path, size: int) -> Iterator[tuple[str, str, str, str]]:
    """Give the rows of the table."""
    from tests.bench import Bench, middle, quickest

    bench = Bench(directory, size)
    file = middle([bench.first_sync() for _ in range(RUNS)])
    file_unchanged = quickest(bench.sync)
    with _server(directory, size) as url:
        secret = directory / "token"
        secret.touch(mode=0o600)
        secret.write_text(TOKEN, "utf-8")
        (directory / "pages.toml").write_text(RECIPE, "utf-8")
        own = f'type = "http"\nca_file = "{directory}/ca.pem"\ntoken_file = "./token"\n'
        bench.source(f'{own}format = "lines"\nurl = "{url}/recipients.txt"\n')
        listed = middle([bench.first_sync() for _ in range(RUNS)])
        unchanged = quickest(bench.sync)
        bench.source(f'{own}recipe = "./pages.toml"\nurl = "{url}"\n')
        floor = median(alone("tests.bench_http", "lean", bench.config).seconds for _ in range(RUNS))
        pulled = middle([alone("tests.bench_http", "pull", bench.config) for _ in range(RUNS)])
    yield "HTTP over TLS on loopback", "seconds", "ratio", "MB"
    yield "---", "---", "---", "---"
    yield f"first import of a file, {size:,}", f"{file.seconds:.2f}", "1", f"{file.own_mb:.0f}"
    yield "of the same as a plain list", f"{listed.seconds:.2f}", _ratio(listed.seconds, file.seconds), _mb(listed)
    yield "file, unchanged", f"{file_unchanged.seconds:.2f}", "", f"{file_unchanged.own_mb:.0f}"
    yield "plain list, unchanged (304)", f"{unchanged.seconds:.2f}", "", _mb(unchanged)
    yield f"{RECORDS:,} records by {PAGE}: transfer and json.loads", f"{floor:.2f}", "1", ""
    yield (
        "the same through a recipe, to a snapshot",
        f"{pulled.seconds:.2f}",
        _ratio(pulled.seconds, floor),
        _mb(pulled),
    )


def _ratio(one: float, other: float) -> str:
    return f"{one / other:.2f}"


def _mb(took: "Took") -> str:
    return f"{took.own_mb:.0f}"


@contextmanager
def _server(directory: Path, size: int) -> Iterator[str]:
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.bench_http", "serve", str(directory), str(size)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    yield process.stdout.readline().strip()
    process.stdin.close()
    process.wait()


if __name__ == "__main__":
    if sys.argv[1] == "serve":
        serve(Path(sys.argv[2]), int(sys.argv[3]))
    else:
        (one,) = configuration.load(Path(sys.argv[2])).sources.values()
        print({"lean": lean, "pull": pull}[sys.argv[1]](one))
