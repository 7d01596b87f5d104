"""`syncagent recipe test`: a recipe followed through answers that were written down."""

import json
from pathlib import Path
from typing import Any

import pytest

from syncagent.errors import ConfigError, FailureKind, SourceError
from syncagent.sources.http.recipe.dry_run import DryRunResult, Fixture, dry_run, read
from tests.sources.http.primary import RECIPE, WHOLE, Primary, recipe
from tests.support.run import syncagent


def fixture(**changes: Any) -> dict[str, Any]:  # noqa: ANN401 - JSON
    """Return a fixture that fits the recipe, with some of its answers changed."""
    primary = Primary()
    answers = {
        "domains": [primary.body("/domains")],
        "users": [primary.body("/users", number) for number in (1, 2, 3)],
        "aliases": {domain: [primary.body(f"/aliases/{domain}")] for domain in ("example.com", "example.org")},
    }
    return {"answers": answers | changes, "expected": WHOLE}


def dry_run_of(directory: Path, **changes: Any) -> Any:  # noqa: ANN401 - JSON
    """Follow the recipe."""
    return dry_run(recipe(directory), Fixture(**fixture(**changes)))


def test_what_comes_out(tmp_path: Path) -> None:
    """What comes out is compared with what is expected, in either spelling."""
    whole = dry_run_of(tmp_path)
    assert (whole.addresses, whole.missing, whole.unexpected) == (tuple(WHOLE), (), ())
    assert (whole.answer.full, whole.answer.proof) == (True, "producer")
    other = Fixture(**(fixture() | {"expected": [*WHOLE[1:], "no@example.com"]}))
    differing = dry_run(recipe(tmp_path), other)
    assert (differing.missing, differing.unexpected) == (("no@example.com",), (WHOLE[0],))
    assert dry_run(recipe(tmp_path), Fixture(fixture()["answers"])).missing == ()


def test_rejects_come_out(tmp_path: Path) -> None:
    """What is no address comes out as a reject with its reason."""
    aliases = {"example.com": [[{"address": "no address"}]], "example.org": [[]]}
    assert dry_run_of(tmp_path, aliases=aliases).rejected == (("no address", "has no @: write LOCALPART@DOMAIN"),)


PAGES: dict[str, tuple[dict[str, Any], str]] = {
    "missing": ({"users": [Primary().body("/users", 1)]}, "step 'users', page 2: the fixture has no further page"),
    "none": ({"users": []}, "step 'users', page 1: the fixture has no further page"),
    "no list": ({"users": {}}, "step 'users', page 1: the fixture has no further page"),
    "missing for one": ({"aliases": {"example.com": [[]]}}, "no further page for 'example.org'"),
    "no object": ({"aliases": [[]]}, "no further page for 'example.com'"),
    "too many": ({"domains": [Primary().body("/domains"), []]}, "pages that were not requested, of domains"),
    "nobody's": ({"others": [[]]}, "pages that were not requested, of others"),
    "too many for one": (
        {"aliases": {"example.com": [[]], "example.org": [[]], "example.net": [[]]}},
        "pages that were not requested, of aliases",
    ),
}


@pytest.mark.parametrize("name", PAGES)
def test_pages_that_do_not_fit(name: str, tmp_path: Path) -> None:
    """A page that is asked for and not there, or there and not asked for, fails the run."""
    changes, told = PAGES[name]
    with pytest.raises(SourceError) as error:
        dry_run_of(tmp_path, **changes)
    assert told in str(error.value)


REQUIRED = """
[[require]]
name = "account"
path = "/me"
where = [{ path = "role", one_of = ["admin"], known = ["guest"] }]
when = { strict = "yes" }
message = "the account is a guest, and sees a part"
remedy = "use the token of an administrator"

[parameters.strict]
text = "whether an administrator is required"
default = "yes"
one_of = ["yes", "no"]
"""


def required(directory: Path, *roles: str, **parameters: str) -> DryRunResult:
    """Follow a recipe with a requirement, which finds this role."""
    answers = fixture()["answers"] | {"account": [{"role": role} for role in roles]}
    file = recipe(directory, RECIPE.replace("[auth]", f"{REQUIRED}\n[auth]"))
    return dry_run(file, Fixture(answers, WHOLE, parameters))


def test_a_requirement(tmp_path: Path) -> None:
    """It is the first request, and shown as such; not fulfilled, it fails with its own text."""
    fulfilled = required(tmp_path, "admin").answer.steps[0]
    assert (fulfilled.name, fulfilled.pages, fulfilled.records, fulfilled.kept) == ("account", 1, 1, 1)
    with pytest.raises(SourceError) as caught:
        required(tmp_path, "guest")
    text = "requirement 'account': the account is a guest, and sees a part: use the token of an administrator"
    assert (str(caught.value), caught.value.kind) == (text, FailureKind.BROKEN)
    with pytest.raises(SourceError, match="requirement 'account': role is 'king', a value that the recipe does not"):
        required(tmp_path, "king")
    with pytest.raises(SourceError, match="requirement 'account': the fixture has no further page"):
        required(tmp_path)
    assert [step.name for step in required(tmp_path, strict="no").answer.steps][:1] == ["domains"]


def test_what_is_left_out(tmp_path: Path) -> None:
    """It is handed on, and stands for recipients in every domain of the source."""
    file = recipe(tmp_path, 'leaves_out = ["mailing lists"]\n' + RECIPE)
    answer = dry_run(file, Fixture(**fixture())).answer
    assert (answer.leaves_out, answer.unlisted) == (("mailing lists",), ("*",))


def test_parameters(tmp_path: Path) -> None:
    """A parameter without a value, and a step that a parameter takes from another one, are told."""
    text = 'parameters = { all = { text = "x", one_of = ["yes", "no"] } }\n' + RECIPE
    name = recipe(tmp_path, text)
    with pytest.raises(ConfigError, match="the fixture's parameters lack all"):
        dry_run(name, Fixture(**fixture()))
    assert not dry_run(name, Fixture(**fixture(), parameters={"all": "no"})).missing
    recipe(tmp_path, text.replace('name = "domains"\n', 'name = "domains"\nwhen = { all = "yes" }\n'))
    with pytest.raises(ConfigError, match="a join names 'domains', which is not an earlier step"):
        dry_run(name, Fixture(**fixture(), parameters={"all": "no"}))


@pytest.mark.parametrize(
    "raw", [b"", b"{", b"[]", b"{}", b'{"answers": [], "expected": []}', b'{"answers": {}, "x": 1}']
)
def test_no_fixture(raw: bytes, tmp_path: Path) -> None:
    """What is not a valid fixture is told with its file."""
    file = tmp_path / "fixture.json"
    file.write_bytes(raw)
    with pytest.raises(ConfigError, match=r"fixture.json: is not a valid fixture"):
        read(file)


# The command


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A fixture in a file, beside its recipe."""
    recipe(tmp_path)
    return written(tmp_path, fixture())


def written(directory: Path, body: Any) -> Path:  # noqa: ANN401 - JSON
    """Write a fixture."""
    file = directory / "fixture.json"
    file.write_text(json.dumps(body), "utf-8")
    return file


def test_the_command(file: Path, tmp_path: Path) -> None:
    """What comes out is printed step by step, and 0 says that it is what was expected."""
    done = syncagent("recipe", "test", "./two.toml", file, cwd=tmp_path, check=0)
    assert done.stderr == ""
    assert [line.strip() for line in done.stdout.splitlines() if line.startswith("  ")] == WHOLE
    assert [line.split()[:5] for line in done.stdout.splitlines() if line.startswith("users")] == [
        ["users", "3", "8", "7", "7"]
    ]


def test_the_command_finds_differences(file: Path, tmp_path: Path) -> None:
    """1 says that something else came out, and both sides of it are named."""
    written(tmp_path, fixture() | {"expected": [*WHOLE[1:], "no@example.com"]})
    done = syncagent("recipe", "test", tmp_path / "two.toml", file, check=1)
    assert "no@example.com was expected, and did not come out" in done.stderr
    assert "1 came out that were not expected" in done.stderr
    assert f"{WHOLE[0]} (not expected)" in done.stdout


def test_the_command_fails_as_a_fetch_would(file: Path, tmp_path: Path) -> None:
    """75 says that the recipe fails on these answers, where, and why."""
    written(tmp_path, fixture(domains=[{"error": "no"}]))
    done = syncagent("recipe", "test", tmp_path / "two.toml", file, check=75)
    assert "step 'domains', page 1: list = '@': expected an array, got an object" in done.stderr


def test_the_command_names_all_problems(file: Path, tmp_path: Path) -> None:
    """78 says that the recipe itself is wrong, and every problem is named with its line."""
    recipe(tmp_path, RECIPE.replace('path = "/users"', 'path = "users"').replace('"{name}@{of.name}"', '"{a..b}"'))
    done = syncagent("recipe", "test", tmp_path / "two.toml", file, check=78)
    assert "step 'users': expected a path that begins with /" in done.stderr
    assert "'a..b' is not a path" in done.stderr
    assert done.stderr.count("two.toml:") >= 2
    assert "unknown recipe 'nobody'" in syncagent("recipe", "test", "nobody", file, check=78).stderr
    assert "cannot be read" in syncagent("recipe", "test", "mailcow", tmp_path / "none.json", check=78).stderr
    file.write_text("{}", "utf-8")
    assert "is not a valid fixture" in syncagent("recipe", "test", "mailcow", file, check=78).stderr
