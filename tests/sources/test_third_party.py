"""Sources of other people's packages, found by entry point, through the real program."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.sources import install, map_keys, write_config
from tests.support.run import syncagent

TINY = '''
"""Says what its configuration says."""
from msgspec import Struct
from syncagent.sources import Answer
from syncagent.values import Address, Duration

class Server(Struct, frozen=True, kw_only=True):
    """A table within the source's own."""
    host: str
    port: int = 389

class Config(Struct, frozen=True, kw_only=True):
    """Keys of the kind."""
    addresses: tuple[Address, ...]
    pause: Duration = Duration(0)
    server: Server | None = None

def problems(config):
    if len(config.addresses) > 3:
        yield "addresses", "too many for a tiny source"

def build(config):
    return Source(config)

class Source:
    def __init__(self, config):
        self.config = config
    def fetch(self, request):
        request.sink.put((address, str(number), "") for number, address in enumerate(self.config.addresses))
        return Answer()
'''
USED = '[sources.t]\ntype = "tiny"\n'
FILE = '[sources.f]\ntype = "file"\npath = "list"\n'


@pytest.fixture
def listed(tmp_path: Path) -> Path:
    """A directory with a flat file to sync."""
    (tmp_path / "list").write_text("list@example.com\n", encoding="utf-8")
    return tmp_path


def test_it_is_picked_up(listed: Path) -> None:
    """An installed package's source is used by its type, beside those that come along, by every verb."""
    env = install(listed / "site", "tiny", TINY)
    config = write_config(listed, FILE + USED + 'addresses = ["T@Example.com"]\n')
    assert syncagent("check", config=config, env=env, check=0).stderr == ""
    syncagent("plan", config=config, env=env, check=0)
    syncagent("sync", config=config, env=env, check=0)
    assert map_keys(listed) == ["list@example.com", "t@example.com"]


def test_it_is_gone_without_the_package(listed: Path) -> None:
    """Where the package is not installed, its type is unknown, and the message lists what there is."""
    config = write_config(listed, FILE + USED + 'addresses = ["t@example.com"]\n')
    done = syncagent("sync", config=config, check=78)
    assert 'sources.t.type: no source type "tiny" is installed' in done.stderr
    assert "there are: file" in done.stderr


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ('adresses = ["t@example.com"]', '19: sources.t.adresses: unknown key, did you mean "addresses"?'),
        ('addresses = ["t@example.com"]\npaus = "1s"', '20: sources.t.paus: unknown key, did you mean "pause"?'),
        ('addresses = ["t@example.com"]\ndedline = "1s"', 'sources.t.dedline: unknown key, did you mean "deadline"?'),
        ('addresses = ["t@example.com"]\npause = 3', "20: sources.t.pause: expected a time"),
        ('addresses = ["t"]', '19: sources.t.addresses: "t" has no @'),
        (
            'addresses = "t@example.com"',
            '19: sources.t.addresses: expected an array such as ["info@example.com"], got',
        ),
        ("", '17: sources.t.addresses: required key is missing: an array such as ["info@example.com"]'),
        (
            'addresses = ["t@example.com"]\n[sources.t.server]\nhots = "x"',
            '21: sources.t.server.hots: unknown key, did you mean "host"?',
        ),
        ('addresses = ["t@example.com"]\nserver.host = 3', "20: sources.t.server.host: expected a string, got 3"),
        (
            'addresses = ["a@example.com", "b@example.com", "c@example.com", "d@example.com"]',
            "19: sources.t.addresses: too many for a tiny source",
        ),
    ],
)
def test_its_keys_are_checked(listed: Path, keys: str, message: str) -> None:
    """The package's own keys are checked as ours are: line, key, type, and a guess at what was meant."""
    env = install(listed / "site", "tiny", TINY)
    config = write_config(listed, FILE + USED + keys + "\n")
    done = syncagent("sync", config=config, env=env, check=78)
    assert message in done.stderr.replace(f"syncagent: {config}:", "")
    assert "Traceback" not in done.stderr


def test_its_keys_are_in_the_schema(listed: Path) -> None:
    """The schema has the package's keys and their types, and every reference in it leads somewhere."""
    env = install(listed / "site", "tiny", TINY)
    schema = json.loads(syncagent("schema", env=env, check=0).stdout)
    table = schema["$defs"]["source-tiny"]
    assert {"type", "deadline", "allow_empty", "addresses", "pause"} <= set(table["properties"])
    assert {"type", "addresses"} <= set(table["required"])
    assert _references(schema) <= {f"#/$defs/{name}" for name in schema["$defs"]}


def _references(schema: Any) -> set[str]:  # noqa: ANN401 - any JSON
    if isinstance(schema, dict):
        own = {schema["$ref"]} if "$ref" in schema else set()
        return own.union(*map(_references, schema.values()))
    return set().union(*map(_references, schema)) if isinstance(schema, list) else set()


BROKEN = {
    "import": ("import no_such_library\n", "ModuleNotFoundError: No module named 'no_such_library'"),
    "raise": ("raise RuntimeError('the moon is full')\n", "RuntimeError: the moon is full"),
    "syntax": ("def build(:\n", "SyntaxError"),
    "exit": ("import sys\nsys.exit('no licence')\n", "no licence"),
    "config": ("def build(config): ...\n", "must have Config"),
    "plain config": ("class Config: ...\ndef build(config): ...\n", "must have Config"),
    "build": ("from msgspec import Struct\nclass Config(Struct): ...\n", "and build(config)"),
    "types": (
        """
from __future__ import annotations
from msgspec import Struct
class Config(Struct, frozen=True):
    a: NoSuchType
def build(config): ...
""",
        "NoSuchType",
    ),
    "problems": (
        """
from msgspec import Struct
class Config(Struct, frozen=True): ...
def build(config): ...
def problems(config): raise RuntimeError('the moon is new')
""",
        "the moon is new",
    ),
}


@pytest.mark.parametrize("fault", BROKEN)
def test_broken_and_unused_harms_nothing(listed: Path, fault: str) -> None:
    """A broken package that the configuration does not use is nobody's business."""
    env = install(listed / "site", "tiny", BROKEN[fault][0])
    config = write_config(listed, FILE)
    assert syncagent("sync", config=config, env=env, check=0).stderr == ""
    assert map_keys(listed) == ["list@example.com"]


@pytest.mark.parametrize("fault", BROKEN)
def test_broken_harms_no_schema(listed: Path, fault: str) -> None:
    """A broken package leaves the schema of the other kinds as it is."""
    env = install(listed / "site", "tiny", BROKEN[fault][0])
    schema = json.loads(syncagent("schema", env=env, check=0).stdout)
    assert "source-file" in schema["$defs"]


@pytest.mark.parametrize("fault", BROKEN)
def test_broken_and_used_is_reported_whole(listed: Path, fault: str) -> None:
    """A broken package that is used is a configuration problem that names package, version and the whole reason."""
    env = install(listed / "site", "tiny", BROKEN[fault][0])
    config = write_config(listed, FILE + USED)
    done = syncagent("sync", config=config, env=env, check=78)
    assert f'{config}:18: sources.t.type: source type "tiny" (tiny_source of tiny-source 1.2)' in done.stderr
    assert BROKEN[fault][1] in done.stderr
    assert "Traceback" not in done.stderr
    assert not (listed / "map").exists()


PICKY = """
from msgspec import Struct
class Config(Struct, frozen=True, kw_only=True):
    number: str
    limit: int = 5
    name: str = "x"
def build(config): ...
def problems(config):
    if not config.name:
        yield "name", "expected a name"
    if config.limit > 9:
        yield "limit", "expected 9 or less"
    if int(config.number) > config.limit:
        yield "number", "is over limit"
"""


@pytest.mark.parametrize(
    ("keys", "wanted"),
    [
        ('number = "7"\nlimit = "9"\nname = ""', ["limit", "name"]),
        ('number = "7"\nlimit = 12\nname = 3', ["limit", "name"]),
        ("number = 7\nname = ''", ["number"]),
        ('number = "7"\nlimit = 5\nnmae = "x"', ["nmae", "number"]),
    ],
    ids=[
        "independent rules",
        "a bad value is not judged",
        "rules that want other values than there are",
        "an unknown key",
    ],
)
def test_its_rules_are_asked_as_far_as_its_keys_are_there(listed: Path, keys: str, wanted: list[str]) -> None:
    """A bad key hides no problem that the package's rules report of others, and does not make the package faulty."""
    env = install(listed / "site", "tiny", PICKY)
    done = syncagent("sync", config=write_config(listed, FILE + USED + keys + "\n"), env=env, check=78)
    found = [line.partition(" sources.t.")[2].partition(":")[0] for line in done.stderr.splitlines()]
    assert sorted(found) == wanted, done.stderr


def test_broken_is_one_problem_among_others(listed: Path) -> None:
    """A broken package does not hide what else is wrong."""
    env = install(listed / "site", "tiny", BROKEN["import"][0])
    config = write_config(listed, FILE + "formt = 'lines'\n" + USED, limits="removed_flor = 3")
    done = syncagent("sync", config=config, env=env, check=78)
    assert len(done.stderr.splitlines()) == 3
    assert "no_such_library" in done.stderr
    assert "removed_flor" in done.stderr
    assert "formt" in done.stderr


@pytest.mark.parametrize(
    ("code", "message"),
    [
        pytest.param("def build(config): raise RuntimeError('the moon is full')", "RuntimeError", id="build raises"),
        pytest.param("def build(config): return 3", "AttributeError", id="not a source"),
        pytest.param("def build(): return 3", "TypeError", id="build takes nothing"),
    ],
)
def test_broken_in_use_is_a_failing_source(listed: Path, code: str, message: str) -> None:
    """A package that loads and then breaks is a failing source, named with its fault; the others go on."""
    config = write_config(listed, FILE)
    syncagent("sync", config=config, check=0)
    code = f"from msgspec import Struct\nclass Config(Struct, frozen=True): ...\n{code}\n"
    env = install(listed / "site", "tiny", code)
    write_config(listed, FILE + USED)
    (listed / "list").write_text("list@example.com\nnew@example.com\n", encoding="utf-8")
    done = syncagent("sync", config=config, env=env, check=75)
    assert "source t is failing (broken): a fault in the source" in done.stderr
    assert message in done.stderr
    assert map_keys(listed) == ["list@example.com", "new@example.com"]
