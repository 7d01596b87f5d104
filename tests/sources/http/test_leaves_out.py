"""A recipe says what its API does not list: `check` shows it, and it is doubt until a person settles it."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.sources.http import secret
from tests.sources.http.primary import RECIPE, Primary
from tests.support.need import need_postmap
from tests.support.postmap import minimal_config
from tests.support.run import syncagent
from tests.support.scripted_http import ScriptedHTTP

CONFIG = """
[postfix]
map = "lmdb:{0}/rr"
doubt_map = "lmdb:{0}/doubt"
doubt_new = "0s"
relay_domains = ["example.com", "example.org", "example.net"]
config_directory = "{0}/postfix"
[state]
directory = "{0}/state"
[sources.extra]
type = "file"
path = "{0}/extra"
[sources.primary]
type = "http"
url = "{1}"
insecure = true
recipe = "{0}/recipe.toml"
token_file = "{2}"
"""


@pytest.fixture
def server() -> Iterator[ScriptedHTTP]:
    """A server with the primary's API."""
    with ScriptedHTTP() as http:
        Primary().serve(http)
        yield http


@pytest.fixture
def config(tmp_path: Path, server: ScriptedHTTP) -> Path:
    """A configuration with a primary whose recipe leaves something out, and a file for another domain."""
    need_postmap("lmdb")
    minimal_config(tmp_path / "postfix")
    (tmp_path / "extra").write_text("anna@example.net\n", encoding="utf-8")
    leaves_out = 'leaves_out = ["mailing lists", "public folders"]\n'
    (tmp_path / "recipe.toml").write_text(leaves_out + RECIPE, encoding="utf-8")
    file = tmp_path / "syncagent.toml"
    file.write_text(CONFIG.format(tmp_path, server.url, secret(tmp_path)), encoding="utf-8")
    return file


def findings(config: Path) -> list[dict[str, Any]]:
    """Return what the check finds."""
    found = json.loads(syncagent("check", "--offline", "--json", config=config).stdout)["findings"]
    return [one for one in found if one["check"] == "recipients-are-listed"]


def doubts(config: Path) -> set[tuple[str, str]]:
    """Run, and return the domains in doubt because a source has recipients that it does not list, and the source.

    A doubt that is over lingers for five minutes, which do not count.
    """
    result = json.loads(syncagent("sync", "--json", config=config, check=0).stdout)
    found = (doubt for doubt in result["doubts"] if doubt["kind"] == "unlisted" and not doubt["lingers_until"])
    return {(doubt["domain"], doubt["subject"]) for doubt in found}


def test_until_a_person_settles_it(config: Path) -> None:
    """The domains of the source are in doubt, no other; the key that settles it is the remedy."""
    assert doubts(config) == {("example.com", "primary"), ("example.org", "primary")}
    (found,) = findings(config)
    assert (found["severity"], found["subject"]) == ("warning", "primary")
    assert found["text"] == "it does not list: mailing lists, public folders"
    person, file = found["remedies"]
    assert person["text"] == "list such addresses in a file source"
    assert (file["section"], file["write"]) == ("sources.primary", 'unlisted = "refuse"')
    with config.open("a", encoding="utf-8") as out:
        out.write(f"{file['write']}\n")
    assert doubts(config) == set()
    (settled,) = findings(config)
    assert settled["severity"] == "ok"
    assert "mailing lists, public folders" in settled["text"]


def test_nothing_is_left_out(config: Path, tmp_path: Path) -> None:
    """A recipe without the key lists everything."""
    (tmp_path / "recipe.toml").write_text(RECIPE, encoding="utf-8")
    assert doubts(config) == set()
    (found,) = findings(config)
    assert (found["severity"], found["text"]) == ("ok", "Every source lists all its recipients")
