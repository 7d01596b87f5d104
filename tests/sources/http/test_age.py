"""The age of a plain list over HTTP: what it says itself, Last-Modified, and answers 304; real sockets."""

import time
from collections.abc import Iterable, Iterator
from email.utils import formatdate
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from syncagent.model import Dates
from tests.sources import write_config
from tests.sources.http import Asked, ended
from tests.support.run import syncagent
from tests.support.scripted_http import Asked as Request
from tests.support.scripted_http import Part, ScriptedHTTP, answer

NOON = 1764331200.0
"""2025-11-28T12:00:00Z."""
NOW = NOON + 60.0
MADE = "# made: 2025-11-28T12:00:00Z"


@pytest.fixture
def server() -> Iterator[ScriptedHTTP]:
    """A server without TLS; each test says what its list is."""
    with ScriptedHTTP(routes={}) as http:
        yield http


def put(server: ScriptedHTTP, *lines: str, modified: float = 0.0, etag: str = "") -> None:
    """Have the server answer this list, and 304 to a request with its ETag."""
    headers: dict[str, Any] = {"last_modified": formatdate(modified, usegmt=True)} if modified else {}
    headers |= {"date": formatdate(modified + 3600, usegmt=True)} if modified else {}
    headers |= {"etag": etag} if etag else {}

    def serve(request: Request) -> Iterable[Part]:
        known = bool(etag) and request.headers.get("if-none-match") == etag
        return answer(status=304) if known else answer(ended(lines), **headers)

    server.routes["/list"] = serve


def test_what_the_list_says(server: ScriptedHTTP, tmp_path: Path) -> None:
    """It is in the answer, and in the recorded state, beside Last-Modified."""
    asked = Asked(tmp_path, url := f"{server.url}/list")
    put(server, MADE, "# expires: 2025-11-28T15:00:00Z", "a@example.com", modified=NOON + 30)
    state = asked.fetch(NOW).state
    assert state.dates == {url: Dates(made=NOON, expires=NOON + 10800, modified=NOON + 30, seen=NOW)}
    assert (state.made, state.expires, state.changed) == (NOON, NOON + 10800, NOW)


def test_a_list_without_dates(server: ScriptedHTTP, tmp_path: Path) -> None:
    """Last-Modified is its date; without it there is none."""
    asked = Asked(tmp_path, f"{server.url}/list")
    put(server, "a@example.com", modified=NOON)
    assert asked.fetch(NOW).state.dates == {"": Dates(modified=NOON, seen=NOW)}
    put(server, "a@example.com")
    assert asked.fetch(NOW).state.dates == {}


def test_not_modified(server: ScriptedHTTP, tmp_path: Path) -> None:
    """After 304 the dates of the last list stay, and it has not changed."""
    asked = Asked(tmp_path, f"{server.url}/list")
    put(server, MADE, "a@example.com", etag='"1"')
    first = asked.fetch(NOW)
    again = asked.fetch(NOW + 300)
    assert (first.report.state, again.report.state) == ("whole", "same")
    assert again.state.dates == first.state.dates
    assert (again.state.made, again.state.changed) == (NOON, NOW)


def test_not_modified_since_an_older_version(server: ScriptedHTTP, tmp_path: Path) -> None:
    """A state without dates, as older versions wrote it, has Last-Modified from the validator: nothing is sent anew."""
    asked = Asked(tmp_path, f"{server.url}/list")
    put(server, "a@example.com", modified=NOON, etag='"1"')
    first = asked.fetch(NOW)
    asked.runs.states["primary"] = replace(first.state, dates={}, changed=0.0)
    again = asked.fetch(NOW + 300)
    assert again.report.state == "same"
    assert again.state.dates == {"": Dates(modified=NOON, seen=NOW + 300)}
    assert again.state.changed == NOW + 300, "it counts from the upgrade on"


def test_an_older_list(server: ScriptedHTTP, tmp_path: Path) -> None:
    """A mirror that lags behind, or a restored copy: the source fails, and the newer list stays in force."""
    asked = Asked(tmp_path, url := f"{server.url}/list")
    put(server, MADE, "a@example.com", "b@example.com")
    asked.fetch(NOW)
    put(server, "# made: 2025-11-28T11:59:59Z", "a@example.com")
    failed = asked.fetch(NOW + 300)
    assert failed.report.state == "failing"
    assert failed.report.kind == "temporary"
    assert failed.report.error == (
        f"{url} was made 2025-11-28T11:59:59+00:00, before the last one that was read (2025-11-28T12:00:00+00:00):"
        " it is an old one; run the program that makes it again"
    )
    assert failed.state.made == NOON
    put(server, "# made: 2025-11-28T12:05:00Z", "a@example.com")
    assert asked.fetch(NOW + 600).report.state == "whole"


def test_another_list_may_be_older(server: ScriptedHTTP, tmp_path: Path) -> None:
    """A changed configuration begins anew."""
    asked = Asked(tmp_path, f"{server.url}/list")
    put(server, MADE, "a@example.com")
    asked.fetch(NOW)
    put(server, "# made: 2025-11-28T11:59:59Z", "a@example.com")
    other = Asked(tmp_path / "other", f"{server.url}/list", foreign=True)
    other.runs = asked.runs
    assert other.fetch(NOW + 300).report.state == "whole"


def test_a_change_is_a_change_of_entries(server: ScriptedHTTP, tmp_path: Path) -> None:
    """A new date alone is none: `changed` is when the entries last differed."""
    asked = Asked(tmp_path, f"{server.url}/list")
    put(server, MADE, "a@example.com")
    asked.fetch(NOW)
    put(server, "# made: 2025-11-28T12:10:00Z", "a@example.com")
    same = asked.fetch(NOW + 900)
    assert (same.state.made, same.state.changed) == (NOON + 600, NOW)
    put(server, "# made: 2025-11-28T12:20:00Z", "b@example.com")
    assert asked.fetch(NOW + 1500).state.changed == NOW + 1500


def _checked(server: ScriptedHTTP, directory: Path, *, modified: float) -> str:
    put(server, "a@example.com", modified=modified)
    source = (
        f'[sources.primary]\ntype = "http"\nurl = "{server.url}/list"\nformat = "lines"\ninsecure = true\n'
        'content_max_age = "1h"\n'
    )
    return syncagent("check", "--offline", config=write_config(directory, source)).stdout


def test_check_tells_of_an_age_that_is_not_known(server: ScriptedHTTP, tmp_path: Path) -> None:
    """content_max_age is of no use for data that says no time, from a server that tells none."""
    printed = _checked(server, tmp_path, modified=0.0)
    assert "warning  data-is-dated" in printed
    assert "primary: content_max_age is set, but the data says no time" in printed
    assert "ok       data-is-dated" in _checked(server, tmp_path, modified=time.time() - 60)


def test_check_tells_of_outdated_data(server: ScriptedHTTP, tmp_path: Path) -> None:
    """By Last-Modified, where content_max_age is set; nothing needs to be published yet."""
    assert "error    data-is-current" in _checked(server, tmp_path, modified=time.time() - 7200)
