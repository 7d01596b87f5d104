"""Read a recipe and say what is wrong with it, all at once, before anything is asked."""

from __future__ import annotations

import re
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING

from msgspec import UNSET

from syncagent.errors import ConfigError, Problem
from syncagent.files import atomic as files
from syncagent.sources.http.recipe import conditions as rules
from syncagent.sources.http.recipe import json_path as paths
from syncagent.sources.http.recipe.model import PLACEHOLDER, Recipe, bound, filled, parameters
from syncagent.values.toml_reader import Reader
from syncagent.values.toml_syntax import parse

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from syncagent.sources.http import Config
    from syncagent.sources.http.recipe.model import Auth, Emit, Join, Step
    from syncagent.values.toml_syntax import Keys

_MOST = 1 << 20
"""The most octets that a recipe has."""
_NAME = re.compile(r"[a-z][a-z0-9_]*")
_RESERVED = frozenset({"each", "page", "offset", "username", "password"})
_RESERVED_NAMES = ", ".join(sorted(_RESERVED))


def names() -> list[str]:
    """Give the names of the recipes that are shipped."""
    return sorted(file.name.removesuffix(".toml") for file in _shipped().iterdir() if file.name.endswith(".toml"))


def _shipped() -> Path:
    return Path(str(resources.files("syncagent.sources") / "recipes"))


def _file(name: str) -> Path:
    return Path(name) if "/" in name else _shipped() / f"{name}.toml"


def load(name: str) -> Recipe:
    """Read a recipe and judge it: one of ours by its bare name, or a file. Raises ConfigError with every problem."""
    file = _file(name)
    try:
        text = files.read_foreign_text(file, _MOST)
        raw = parse(text)
    except OSError as error:
        if file.parent == _shipped():
            text = f"there is no recipe {name!r}; there are: {', '.join(names())}; one of your own has a / in its path"
            raise ConfigError([Problem(name, None, "", text)]) from None
        raise ConfigError([Problem(str(file), None, "", f"cannot be read: {error.strerror}")]) from None
    except ValueError as error:
        raise ConfigError([Problem(str(file), None, "", f"is not TOML: {error}")]) from None
    reader = Reader(file, text)
    (values,) = reader.fields((Recipe,), raw, ())
    recipe = Recipe(**values) if not reader.problems else None
    if recipe is not None:
        for path, problem in problems(recipe):
            reader.problem(path, problem)
    if recipe is None or reader.problems:
        raise ConfigError(reader.problems)
    return recipe


def problems(recipe: Recipe) -> Iterator[tuple[Keys, str]]:
    """Give what no single key can show."""
    if not recipe.steps:
        yield ("steps",), "there is none: nothing would be asked for"
    for name, one in recipe.parameters.items():
        if not _NAME.fullmatch(name) or name in _RESERVED:
            yield ("parameters", name), f"a name is lower-case letters, digits and _, and none of {_RESERVED_NAMES}"
        if one.one_of and one.default is not UNSET and one.default not in one.one_of:
            yield ("parameters", name), f"default is one of one_of, and not {one.default!r}"
    yield from ((("auth", key), text) for key, text in _auth_problems(recipe))
    before: list[str] = []
    for step in recipe.steps:
        for key, text in _step_problems(recipe, step, before):
            yield ("steps", key), f"step {step.name!r}: {text}"
        before.append(step.name)
    emitting = [step.name for step in recipe.steps if step.emit]
    for step in recipe.steps:
        for over in (name for emit in step.emit for name in emit.over if name not in emitting):
            yield ("steps", "emit"), f"step {step.name!r}: over names {over!r}, and no such step says anything"


def _auth_problems(recipe: Recipe) -> Iterator[tuple[str, str]]:
    auth = recipe.auth
    needed = {
        "header": ("name",),
        "oauth2_client_credentials": ("token_url", "scope"),
        "oauth2_jwt_bearer": ("token_url", "scope"),
        "login": ("path",),
    }
    yield from (
        (key, f"is missing: {auth.kind} needs it") for key in needed.get(auth.kind, ()) if not getattr(auth, key)
    )
    if auth.kind == "login" and (auth.put != "cookie") != bool(auth.take):
        yield "take", "goes with put: where the answer has what is sent from then on; a cookie needs none"
    if auth.put == "header" and not auth.name:
        yield "name", "is missing: which header?"
    if auth.path and not auth.path.startswith("/"):
        yield "path", "begins with /"
    if auth.kind == "login" and auth.send != "basic" and not auth.fields:
        yield "fields", 'is missing: what is sent, such as { user = "{username}", password = "{password}" }'
    yield from (("take", text) for text in (_path_problem(auth.take) if auth.take else ()))
    yield from (("ok", text) for text in _rule_problems(recipe, auth.ok))
    for key in ("token_url", "scope", "subject", "path"):
        yield from ((key, text) for text in _unknown(getattr(auth, key), {*recipe.parameters}))
    for field in auth.fields.values():
        yield from (("fields", text) for text in _unknown(field, {*recipe.parameters, "username", "password"}))


def _step_problems(recipe: Recipe, step: Step, before: list[str]) -> Iterator[tuple[str, str]]:
    if not _NAME.fullmatch(step.name) or step.name in before:
        yield "name", "a name is lower-case letters, digits and _, and no other step's"
    yield from (("list", text) for text in _path_problem(step.list))
    if _may_be_absent(step.list) and not step.ok and not step.total:
        yield "list", "may be absent: an error would pass for an empty list; ok or total has to tell them apart"
    several = {"total": step.total, "key": step.key, "unwrap": step.unwrap, "for_each": step.for_each}
    yield from ((key, text) for key, path in several.items() if path for text in _path_problem(path))
    if not step.path.startswith("/"):
        yield "path", "begins with /"
    yield from (("when", text) for text in _when_problems(recipe, step.when))
    allowed = {*recipe.parameters, *(("each",) if step.for_each else ())}
    for key, text in (("path", step.path), *(("query", text) for text in step.query.values())):
        yield from ((key, problem) for problem in _unknown(text, allowed))
    in_body = allowed | {*_numbers(step)}
    yield from (("body", problem) for text in _texts(step.body) for problem in _unknown(text, in_body))
    if step.body and step.method != "POST":
        yield "body", 'needs method = "POST"'
    if step.for_each and (step.for_each.partition(".")[0] not in before or not step.for_each.partition(".")[2]):
        yield "for_each", f"{step.for_each!r} is not STEP.PATH with an earlier step"
    yield from (("ok", text) for text in _rule_problems(recipe, step.ok))
    yield from (("where", text) for text in _rule_problems(recipe, step.where))
    yield from (("join", text) for join in step.join for text in _join_problems(join, before))
    yield from _paging_problems(step)
    for emit in step.emit:
        yield from (("emit", text) for text in _emit_problems(emit, before))
        yield from (("emit", text) for text in _rule_problems(recipe, emit.where))


def _rule_problems(recipe: Recipe, several: Iterable[rules.Rule]) -> Iterator[str]:
    for rule in several:
        yield from filter(None, [rules.problem(rule)])
        yield from _when_problems(recipe, rule.when)


def _when_problems(recipe: Recipe, when: dict[str, str]) -> Iterator[str]:
    """Give what would leave a step or a rule out for ever, unnoticed."""
    for name, value in when.items():
        one = recipe.parameters.get(name)
        if one is None:
            yield f"when: there is no parameter {name!r}"
        elif one.one_of and value not in one.one_of:
            yield f"when: {name} is one of {', '.join(one.one_of)}, and never {value!r}"


def _paging_problems(step: Step) -> Iterator[tuple[str, str]]:
    paging = step.paging
    if paging is None:
        return
    if paging.kind in {"token", "next_url"}:
        yield from (("paging", text) for text in (_path_problem(paging.path) if paging.path else ["path is missing"]))
    if paging.kind == "token" and not paging.param:
        yield "paging", "param is missing"
    if paging.kind in {"page", "offset"} and not paging.param and f"{{{paging.kind}}}" not in _texts(step.body):
        yield "paging", f"needs param, or {{{paging.kind}}} in body"


def _numbers(step: Step) -> tuple[str, ...]:
    return (step.paging.kind,) if step.paging and step.paging.kind in {"page", "offset"} else ()


def _emit_problems(emit: Emit, before: list[str]) -> Iterator[str]:
    if bool(emit.value) == bool(emit.template):
        yield "an emit has value or template"
    for path in (emit.value, emit.each, emit.to, *PLACEHOLDER.findall(emit.template)):
        yield from _path_problem(path) if path else ()
    if (emit.kind == "alias_domain") != bool(emit.to):
        yield "to goes with alias_domain: the domain that it stands for"
    if emit.over and emit.kind != "alias_domain":
        yield "over goes with alias_domain"
    yield from (text for join in emit.join for text in _join_problems(join, before))


def _join_problems(join: Join, before: list[str]) -> Iterator[str]:
    if join.step not in before:
        yield f"joins with {join.step!r}, which is no earlier step"
    yield from _path_problem(join.key)
    yield from _path_problem(join.local)


def _path_problem(path: str) -> Iterator[str]:
    try:
        paths.parse(path)
    except paths.PathError as error:
        yield str(error)


def _may_be_absent(path: str) -> bool:
    try:
        return any(part.optional for part in paths.parse(path))
    except paths.PathError:
        return False


def _unknown(text: str, allowed: set[str]) -> Iterator[str]:
    for name in PLACEHOLDER.findall(text):
        if name not in allowed:
            yield f"{{{name}}} stands for nothing; there are: {', '.join(sorted(allowed)) or 'none'}"


def _texts(value: object) -> list[str]:
    """Give every text in a body."""
    if isinstance(value, str):
        return [value]
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return [text for one in inner for text in _texts(one)]


def of_config(config: Config) -> Iterator[tuple[str, str]]:
    """Give what is wrong with a recipe, and with what the configuration has for it: key and text."""
    try:
        recipe = load(config.recipe or "")
    except ConfigError as error:
        yield from (("recipe", str(problem)) for problem in error.problems)
        return
    if not config.url and not recipe.url:
        yield "url", "is missing: where is the API? https://HOST"
    elif not config.url and not config.insecure and not recipe.url.startswith("https://"):
        yield "recipe", "its url does not begin with https://: that needs insecure = true"
    if "?" in config.url:
        yield "url", "has a query, and a step's path is to follow"
    yield from _parameter_problems(config, recipe)
    yield from _identity_problems(config, recipe.auth)
    given = parameters(recipe, config.parameters)
    if (
        not config.insecure
        and recipe.auth.token_url
        and not filled(recipe.auth.token_url, _Any(given)).startswith("https://")
    ):
        yield "parameters", "a token's URL begins with https://, unless insecure = true"
    yield from (("recipe", text) for _, text in problems(bound(recipe, given)))


class _Any(dict[str, str]):
    def __missing__(self, name: str) -> str:
        return name


def _parameter_problems(config: Config, recipe: Recipe) -> Iterator[tuple[str, str]]:
    known = ", ".join(f"{name} ({one.text})" for name, one in recipe.parameters.items()) or "none"
    for name, one in recipe.parameters.items():
        if name not in config.parameters and one.default is UNSET:
            yield "parameters", f"{name} is missing: {one.text}"
        elif one.one_of and (given := config.parameters.get(name, one.default)) not in one.one_of:
            yield "parameters", f"{name} is one of {', '.join(one.one_of)}, not {given!r}"
    for name in config.parameters.keys() - recipe.parameters.keys():
        yield "parameters", f"the recipe has no {name!r}; it has: {known}"


def _identity_problems(config: Config, auth: Auth) -> Iterator[tuple[str, str]]:
    by_token = auth.kind in {"header", "bearer", "token", "oauth2_jwt_bearer"}
    by_password = auth.kind in {"basic", "oauth2_client_credentials", "login"}
    if by_token and config.token_file is None:
        yield "token_file", "is missing: the recipe says who we are by a token"
    if by_password and not (config.username and config.password_file):
        yield "username", "and password_file are missing: the recipe says who we are by them"
    if not by_token and config.token_file is not None:
        yield "token_file", "is not for this recipe" + ("; it has username and password_file" if by_password else "")
    if not by_password and config.username:
        yield "username", "is not for this recipe" + ("; it has token_file" if by_token else "")
