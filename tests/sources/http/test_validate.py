"""A recipe, and a configuration for it, are judged before anything is asked: every mistake is told, all at once."""

import tomllib
from pathlib import Path
from typing import Any

import pytest

from syncagent.errors import ConfigError
from syncagent.sources.http import Config, problems
from syncagent.sources.http.recipe.model import fill_placeholders, parameter_values, with_parameters
from syncagent.sources.http.recipe.validate import load, names
from syncagent.values.types import RecipeFile
from tests.sources.http import secret
from tests.sources.http.primary import BEARER, LOGIN, OAUTH, RECIPE, recipe

WHOLE = """
title = "a recipe with a key of every kind"
leaves_out = ["mailing lists"]

[parameters.tenant]
text = "which one"
[parameters.more]
text = "more of it: yes or no"
default = "no"
one_of = ["yes", "no"]

[auth]
kind = "bearer"

[[require]]
name = "account"
path = "/me/{tenant}"
ok = [{ path = "status", one_of = ["good"], known = ["bad"] }]
unwrap = "account?"
where = [{ path = "role", one_of = ["admin"], known = ["guest"] }]
message = "it sees a part"
remedy = "another account"

[[steps]]
name = "domains"
path = "/{tenant}/domains"
query = { of = "{tenant}" }
list = "@"

[[steps]]
name = "users"
method = "POST"
path = "/users"
body = { tenant = "{tenant}", at = "{offset}" }
list = "items?"
total = "total"
unwrap = "result?"
paging = { kind = "offset", start = 0 }
join = [{ step = "domains", key = "id", local = "domain", name = "of" }]
where = [{ path = "active", true = true, when = { more = "no" } }]
key = "id"
emit = [
    { kind = "address", template = "{name}@{of.name}" },
    { kind = "address", value = "alias", each = "aliases[]", join = [
        { step = "domains", key = "id", local = "of.id", name = "x" },
    ] },
]

[[steps]]
name = "alias_domains"
when = { more = "yes" }
for_each = "domains.name"
path = "/alias/{each}"
list = "@"
paging = { kind = "token", path = "next?", param = "next" }
emit = [{ kind = "alias_domain", value = "name", to = "target", over = ["users"] }]
"""
MISTAKES: dict[str, tuple[str, str, str]] = {
    "no title": ('title = "a recipe with a key of every kind"', "", "title: required key is missing"),
    "unknown key": ('name = "domains"\n', 'name = "domains"\nhost = "x"\n', "host: unknown key"),
    "unknown kind": ('kind = "bearer"', 'kind = "barer"', "auth.kind: "),
    "no steps": (WHOLE[WHOLE.index("[[steps]]") :], "", "steps: required key is missing"),
    "name": (
        'name = "domains"\npath',
        'name = "Domains"\npath',
        "expected a name of a-z, 0-9 and _ that no other step has",
    ),
    "name twice": ('name = "alias_domains"', 'name = "users"', "that no other step has"),
    "path": ('path = "/users"', 'path = "users"', "step 'users': expected a path that begins with /"),
    "path to another host": (
        'path = "/users"',
        'path = ".evil.example/"',
        "step 'users': expected a path that begins with /",
    ),
    "placeholder in a path": (
        '"/{tenant}/domains"',
        '"/{tenat}/domains"',
        "unknown placeholder {tenat}, known: more, ",
    ),
    "placeholder in a query": ('of = "{tenant}"', 'of = "{x}"', "unknown placeholder {x}"),
    "placeholder in a body": ('tenant = "{tenant}", at', 'tenant = "{x}", at', "unknown placeholder {x}"),
    "each without for_each": ('"/users"', '"/users/{each}"', "unknown placeholder {each}"),
    "number in a path": ('"/users"', '"/users/{offset}"', "unknown placeholder {offset}"),
    "number of another kind": ('"{offset}"', '"{page}"', "unknown placeholder {page}"),
    "no number": ('at = "{offset}"', 'at = "0"', "expected param, or {offset} in body"),
    "body with GET": ('method = "POST"\n', "", 'requires method = "POST"'),
    "list": ('list = "items?"', 'list = "items..x?"', "is not a path"),
    "no list": ('list = "items?"', 'list = ""', "an empty path is not allowed"),
    "may be absent": (
        'list = "items?"\ntotal = "total"\n',
        'list = "items?"\n',
        "may be absent, so that an error looks like an empty list",
    ),
    "total": ('total = "total"', 'total = "a b"', "'a b' is not a path"),
    "key": ('key = "id"\nemit', 'key = "a b"\nemit', "'a b' is not a path"),
    "unwrap": ('unwrap = "result?"', 'unwrap = "a b"', "'a b' is not a path"),
    "rule": ('path = "active", true = true', 'path = "active"', "a rule needs exactly one of"),
    "rule's path": ('path = "active"', 'path = "a b"', "'a b' is not a path"),
    "rule's when": ('when = { more = "no" }', 'when = { moer = "no" }', "unknown parameter 'moer'"),
    "rule's when, value": ('when = { more = "no" }', 'when = { more = "n" }', "more is one of yes, no, never 'n'"),
    "step's when": ('when = { more = "yes" }', 'when = { mroe = "yes" }', "unknown parameter 'mroe'"),
    "step's when, value": ('when = { more = "yes" }', 'when = { more = "true" }', "never 'true'"),
    "join with a later one": (
        '[{ step = "domains", key = "id", local = "domain"',
        '[{ step = "alias_domains", key = "id", local = "domain"',
        "which is not an earlier step",
    ),
    "join's key": ('key = "id", local = "domain"', 'key = "a b", local = "domain"', "'a b' is not a path"),
    "join's local": ('local = "domain"', 'local = "a b"', "'a b' is not a path"),
    "emit's join": (
        '{ step = "domains", key = "id", local = "of.id"',
        '{ step = "no", key = "id", local = "of.id"',
        "which is not an earlier step",
    ),
    "emit without value": ('value = "alias", each', "each", "an emit needs value or template"),
    "emit with both": (
        'value = "alias", each',
        'value = "alias", template = "{x}", each',
        "an emit needs value or template",
    ),
    "emit's template": ("{of.name}", "{of..name}", "'of..name' is not a path"),
    "emit's each": ('each = "aliases[]"', 'each = "a b"', "'a b' is not a path"),
    "alias domain of nothing": ('to = "target", ', "", "an emit needs to, the path of the target domain"),
    "over of an address": (
        'value = "alias", each',
        'value = "alias", over = ["users"], each',
        "an emit can have over only if its kind is alias_domain",
    ),
    "over of nobody": (
        'over = ["users"]',
        'over = ["domains"]',
        "over names 'domains', but no such step emits anything",
    ),
    "for_each of nobody": ('"domains.name"', '"domain.name"', "expected STEP.PATH with an earlier step"),
    "for_each of nothing": ('"domains.name"', '"domains"', "expected STEP.PATH with an earlier step"),
    "for_each's path": ('"domains.name"', '"domains.a b"', "is not a path"),
    "token without param": (', param = "next"', "", "param is missing"),
    "token without path": ('path = "next?", ', "", "path is missing"),
    "token's path": ('path = "next?"', 'path = "a b"', "'a b' is not a path"),
    "default": ('default = "no"', 'default = "maybe"', "the default 'maybe' is not in one_of"),
    "leaves_out": ('["mailing lists"]', '[" "]', "leaves_out: expected texts that are not empty"),
    "requirement's name": ('name = "account"', 'name = "Account"', "that nothing else has"),
    "requirement's name, a step's": ('name = "account"', 'name = "users"', "that nothing else has"),
    "requirement's path": ('"/me/{tenant}"', '"me"', "requirement 'account': expected a path that begins with /"),
    "requirement's placeholder": ('"/me/{tenant}"', '"/me/{each}"', "unknown placeholder {each}"),
    "requirement's ok": ('path = "status", one_of', 'path = "a b", one_of', "'a b' is not a path"),
    "requirement's unwrap": ('unwrap = "account?"', 'unwrap = "c d"', "'c d' is not a path"),
    "requirement without condition": (
        'where = [{ path = "role", one_of = ["admin"], known = ["guest"] }]',
        "where = []",
        "expected at least one condition",
    ),
    "requirement's condition": ('path = "role", one_of', 'path = "e f", one_of', "'e f' is not a path"),
    "requirement's message": ('"it sees a part"', '" "', "expected a text"),
    "requirement without remedy": ('remedy = "another account"\n', "", "remedy: required key is missing"),
    "requirement's body": ('path = "/me/{tenant}"', 'path = "/me"\nbody = { a = "b" }', 'requires method = "POST"'),
    "requirement's when": ('remedy = "another account"', 'remedy = "x"\nwhen = { moor = "no" }', "unknown parameter"),
    "parameter's name": (
        "[parameters.tenant]",
        "[parameters.each]",
        "expected a name of a-z, 0-9 and _, other than",
    ),
}
AUTHS: dict[str, tuple[str, str]] = {
    "header": ('kind = "header"', "name: required key is missing for header"),
    "oauth2": ('kind = "oauth2_client_credentials"', "token_url: required key is missing"),
    "oauth2, scope": ('kind = "oauth2_client_credentials"\ntoken_url = "https://x/"', "scope: required key is missing"),
    "jwt": ('kind = "oauth2_jwt_bearer"', "scope: required key is missing"),
    "token_url": (
        'kind = "oauth2_client_credentials"\nscope = "x"\ntoken_url = "https://{x}/"',
        "unknown placeholder {x}",
    ),
    "token_url, user": (
        'kind = "oauth2_client_credentials"\nscope = "x"\ntoken_url = "{username}"',
        "unknown placeholder {username}",
    ),
    "subject": (
        'kind = "oauth2_jwt_bearer"\nscope = "x"\ntoken_url = "https://x/"\nsubject = "{x}"',
        "unknown placeholder {x}",
    ),
    "login": ('kind = "login"\nsend = "basic"', "path: required key is missing for login"),
    "login's path": ('kind = "login"\nsend = "basic"\npath = "login"', "path: expected a path that begins with /"),
    "login's fields": ('kind = "login"\npath = "/"', "fields: required key is missing"),
    "fields' placeholder": ('kind = "login"\npath = "/"\nfields = { a = "{user}" }', "unknown placeholder {user}"),
    "take without put": (
        'kind = "login"\npath = "/"\nsend = "basic"\ntake = "x"',
        "take: expected the path of the session token",
    ),
    "put without take": (
        'kind = "login"\npath = "/"\nsend = "basic"\nput = "bearer"',
        "take: expected the path of the session token",
    ),
    "take": ('kind = "login"\npath = "/"\nsend = "basic"\nput = "bearer"\ntake = "a b"', "'a b' is not a path"),
    "put in no header": (
        'kind = "login"\npath = "/"\nsend = "basic"\nput = "header"\ntake = "x"',
        "name: required key is missing: the name",
    ),
    "ok": ('kind = "login"\npath = "/"\nsend = "basic"\nok = [{ path = "x" }]', "a rule needs exactly one of"),
}


def told(directory: Path, text: str) -> list[str]:
    """Return what is told of a recipe."""
    try:
        load(recipe(directory, text))
    except ConfigError as error:
        return [str(problem) for problem in error.problems]
    return []


def test_a_good_recipe(tmp_path: Path) -> None:
    """Nothing is told of recipes that are right."""
    assert told(tmp_path, WHOLE) == told(tmp_path, RECIPE) == told(tmp_path, RECIPE.replace(BEARER, LOGIN)) == []
    assert all(load(name).title for name in names())


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake(name: str, tmp_path: Path) -> None:
    """A single mistake is told, with the place of it."""
    right, wrong, text = MISTAKES[name]
    assert WHOLE.count(right) == 1
    assert any(text in one for one in told(tmp_path, WHOLE.replace(right, wrong)))


@pytest.mark.parametrize("name", AUTHS)
def test_a_mistake_in_auth(name: str, tmp_path: Path) -> None:
    """What is missing or wrong in [auth] is told, with its key."""
    wrong, text = AUTHS[name]
    several = told(tmp_path, WHOLE.replace('kind = "bearer"', wrong))
    assert any(text in one for one in several), several
    assert all("auth" in one for one in several)


def test_all_mistakes_at_once(tmp_path: Path) -> None:
    """Many mistakes in one recipe are all told, each with its line."""
    alone = [name for name in MISTAKES if name not in {"no title", "unknown key", "unknown kind", "no steps"}]
    text, wanted = WHOLE, []
    for name in alone:
        right, wrong, said = MISTAKES[name]
        if text.count(right) == 1 and wrong:
            text = text.replace(right, wrong)
            wanted.append(said)
    several = told(tmp_path, text)
    assert len(wanted) > 20
    assert len(several) > 20
    assert all(":" in one and one.startswith(str(tmp_path / "two.toml")) for one in several)
    keys = told(
        tmp_path,
        WHOLE.replace('title = "', 'titel = "')
        .replace('kind = "bearer"', 'kind = "no"')
        .replace('list = "@"', "list = 1")
        .replace('list = "items?"', "list = 2")
        .replace('total = "total"', "total = 3"),
    )
    assert len(keys) >= 5


def test_what_is_no_recipe(tmp_path: Path) -> None:
    """A file that is not there, is no TOML, or a name that is none of ours, is told as such."""
    with pytest.raises(ConfigError, match=r"unknown recipe 'nobody', known: .*mailcow"):
        load("nobody")
    with pytest.raises(ConfigError, match="cannot be read: No such file"):
        load(f"{tmp_path}/none.toml")
    assert "invalid TOML" in told(tmp_path, "title =")[0]
    nothing = 'title = "x"\nsteps = []\n[auth]\nkind = "none"\n'
    assert any("expected at least one step" in one for one in told(tmp_path, nothing))
    (tmp_path / "two.toml").write_bytes(b"title = '\xff'")
    with pytest.raises(ConfigError, match="invalid TOML"):
        load(f"{tmp_path}/two.toml")


# What the configuration has for a recipe


def told_of(**keys: Any) -> list[str]:  # noqa: ANN401 - any key
    """Return what is told of a configuration."""
    return [f"{key}: {text}" for key, text in problems(Config(**{"url": "https://mail.example.com", **keys}))]


@pytest.fixture
def ours(tmp_path: Path) -> dict[str, Any]:
    """A configuration that is right."""
    keys = {
        "recipe": recipe(tmp_path, WHOLE),
        "token_file": secret(tmp_path),
        "parameters": {"tenant": "x"},
    }
    assert told_of(**keys) == []
    return keys


CONFIGS: dict[str, tuple[dict[str, Any], str]] = {
    "neither": ({"recipe": None}, 'format: expected format = "lines"'),
    "both": ({"format": "lines"}, 'format: expected format = "lines"'),
    "no url": ({"url": ""}, "url: required key is missing: the URL of the API"),
    "http": ({"url": "http://mail.example.com"}, "url: http:// sends everything unencrypted"),
    "query": ({"url": "https://mail.example.com/?a=b"}, "url: a URL with a query"),
    "no token": ({"token_file": None}, "token_file: required key is missing: the recipe authenticates by a token"),
    "name": ({"username": "anna", "password_file": "x"}, "username: not used by this recipe; use token_file"),
    "no parameter": ({"parameters": {}}, "parameters: required parameter tenant is missing: which one"),
    "unknown parameter": (
        {"parameters": {"tenant": "x", "y": "z"}},
        "parameters: unknown parameter 'y', known: tenant",
    ),
    "another value": (
        {"parameters": {"tenant": "x", "more": "true"}},
        "parameters: expected more to be one of yes, no, not 'true'",
    ),
    "no recipe": ({"recipe": RecipeFile("nobody")}, "recipe: nobody: unknown recipe 'nobody'"),
    "pages": ({"max_pages": 0}, "max_pages: expected more than 0, got 0"),
    "records": ({"max_records": -1}, "max_records: expected more than 0, got -1"),
}


@pytest.mark.parametrize("name", CONFIGS)
def test_a_mistake_in_the_configuration(name: str, ours: dict[str, Any]) -> None:
    """What is missing in the configuration, or is there and not for this recipe, is told."""
    keys, text = CONFIGS[name]
    assert any(one.startswith(text) for one in told_of(**{**ours, **keys})), told_of(**{**ours, **keys})


@pytest.mark.parametrize(
    "url",
    [
        "https://anna:{}@mail.example.com",
        "anna:{}@mail.example.com",
        "https://anna:a/{}@mail.example.com",
        "ftp://anna/{}@mail.example.com",
    ],
)
def test_a_password_in_a_url_is_not_shown(url: str, ours: dict[str, Any]) -> None:
    """A URL with a password, mistyped or not, is refused by a text without the password."""
    texts = told_of(**{**ours, "url": url.format("hunter2")})
    assert texts
    assert all(text.startswith("url: ") for text in texts)
    assert "hunter2" not in "".join(texts)


def test_a_name_and_a_password(tmp_path: Path) -> None:
    """A recipe that wants a name and its password says so, and takes no token."""
    file = recipe(tmp_path, RECIPE.replace(BEARER, LOGIN))
    assert told_of(recipe=file) == [
        "username: required keys username and password_file are missing: the recipe authenticates by them"
    ]
    both = told_of(recipe=file, username="anna", password_file=secret(tmp_path), token_file=secret(tmp_path))
    assert any(one.startswith("token_file: not used by this recipe") for one in both)
    assert told_of(recipe=file, username="anna", password_file=secret(tmp_path)) == []


def test_what_goes_out_in_the_clear(tmp_path: Path) -> None:
    """Neither a recipe's own URL nor that of its tokens is in the clear, unless the configuration says so."""
    url = "recipe: the recipe's url does not begin with https://"
    file = recipe(tmp_path, 'url = "http://mail.example.com"\n' + RECIPE)
    who: dict[str, Any] = {"recipe": file, "url": "", "token_file": secret(tmp_path)}
    assert told_of(**who) == [f"{url}, which requires insecure = true"]
    assert told_of(**who, insecure=True) == []
    recipe(tmp_path, 'parameters = { server = { text = "x" } }\n' + RECIPE.replace(BEARER, OAUTH))
    who = {"recipe": file, "username": "anna", "password_file": secret(tmp_path)}
    assert (
        "parameters: the token URL does not begin with https://" in told_of(**who, parameters={"server": "http://x"})[0]
    )
    assert told_of(**who, parameters={"server": "https://x"}) == []


def test_what_is_left_without_a_step(ours: dict[str, Any], tmp_path: Path) -> None:
    """A step that goes with a parameter, and that another one needs, is missed when the configuration leaves it out."""
    text = WHOLE.replace('name = "domains"\n', 'name = "domains"\nwhen = { more = "yes" }\n')
    recipe(tmp_path, text)
    assert any("a join names 'domains', which is not an earlier step" in one for one in told_of(**ours))
    assert told_of(**{**ours, "parameters": {"tenant": "x", "more": "yes"}}) == []


def test_bound(tmp_path: Path) -> None:
    """Steps and rules that are for other values of parameters are not there, those of the login included."""
    login = LOGIN.replace('known = ["invalid"]', 'known = ["invalid"], when = { more = "yes" }')
    file = recipe(tmp_path, WHOLE.replace('[auth]\nkind = "bearer"\n', login))
    whole = load(file)
    assert whole.parameters.keys() == tomllib.loads(WHOLE)["parameters"].keys()
    for more in ("yes", "no"):
        left = with_parameters(whole, parameter_values(whole, {"tenant": "x", "more": more}))
        assert [step.name for step in left.steps] == ["domains", "users", "alias_domains"][: 2 + (more == "yes")]
        assert (len(left.steps[1].where), len(left.auth.ok)) == (int(more == "no"), int(more == "yes"))


def test_filled() -> None:
    """Placeholders are filled wherever they are; one that stands alone keeps the kind of its value."""
    body = {"a": "{n}", "b": ["x{n}y{s}", {"c": "{s}"}], "d": 5, "e": None}
    assert fill_placeholders(body, {"n": 7, "s": "t"}) == {"a": 7, "b": ["x7yt", {"c": "t"}], "d": 5, "e": None}
