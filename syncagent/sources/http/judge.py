"""Read a recipe and say what is wrong with it, all at once, before anything is asked."""

from __future__ import annotations

import re
import tomllib
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING

from msgspec import UNSET

from syncagent.errors import ConfigError, Problem
from syncagent.reader import Reader
from syncagent.sources.http import paths, rules
from syncagent.sources.http.recipe import PLACEHOLDER, Recipe, bound, filled, parameters

if TYPE_CHECKING:
    from collections.abc import Iterator

    from syncagent.reader import Keys
    from syncagent.sources.http import Config
    from syncagent.sources.http.recipe import Auth, Emit, Join, Step

_NAME = re.compile(r"[a-z][a-z0-9_]*")


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
        text = file.read_text("utf-8")
        raw = tomllib.loads(text)
    except OSError as error:
        if file.parent == _shipped():
            text = f"there is no recipe {name!r}; there are: {', '.join(names())}; one of your own has a / in its path"
            raise ConfigError([Problem(name, None, "", text)]) from None
        raise ConfigError([Problem(str(file), None, "", f"cannot be read: {error.strerror}")]) from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
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
    yield from (("ok", text) for text in map(rules.problem, auth.ok) if text)
    allowed = {*recipe.parameters, "username", "password"}
    for key in ("token_url", "subject", "path"):
        yield from ((key, text) for text in _unknown(getattr(auth, key), allowed))


def _step_problems(recipe: Recipe, step: Step, before: list[str]) -> Iterator[tuple[str, str]]:
    if not _NAME.fullmatch(step.name) or step.name in before:
        yield "name", "a name is lower-case letters, digits and _, and no other step's"
    several = {"list": step.list, "total": step.total, "key": step.key}
    yield from ((key, text) for key, path in several.items() if path for text in _path_problem(path))
    allowed = {*recipe.parameters, *(("each",) if step.for_each else ()), *_numbers(step)}
    for key, text in (("path", step.path), *(("query", text) for text in step.query.values())):
        yield from ((key, problem) for problem in _unknown(text, allowed))
    yield from (("body", problem) for text in _texts(step.body) for problem in _unknown(text, allowed))
    if step.body and step.method != "POST":
        yield "body", 'needs method = "POST"'
    if step.for_each and step.for_each.partition(".")[0] not in before:
        yield "for_each", f"{step.for_each!r} is not STEP.PATH with an earlier step"
    yield from (("ok", text) for text in map(rules.problem, step.ok) if text)
    yield from (("where", text) for text in map(rules.problem, step.where) if text)
    yield from (("join", text) for join in step.join for text in _join_problems(join, before))
    yield from _paging_problems(step)
    for emit in step.emit:
        yield from (("emit", text) for text in _emit_problems(emit, before))


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
    yield from filter(None, map(rules.problem, emit.where))
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
        elif one.one_of and config.parameters.get(name, one.default) not in one.one_of:
            yield "parameters", f"{name} is one of {', '.join(one.one_of)}, not {config.parameters[name]!r}"
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
