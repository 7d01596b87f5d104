"""Loading and validation of recipes. All problems are reported at once, before the first request."""

from __future__ import annotations

import re
from collections import Counter
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING

from msgspec import UNSET

from syncagent.errors import ConfigError, Problem
from syncagent.files import atomic
from syncagent.sources.http.recipe import conditions, json_path
from syncagent.sources.http.recipe.model import (
    PLACEHOLDER,
    Recipe,
    fill_placeholders,
    parameter_values,
    with_parameters,
)
from syncagent.values.toml_reader import Reader
from syncagent.values.toml_syntax import parse

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from syncagent.sources.http import Config
    from syncagent.sources.http.recipe.model import Auth, Emit, Join, Require, Step
    from syncagent.values.toml_syntax import Keys

_MAX_RECIPE = 1 << 20
"""Maximum size of a recipe, in octets."""
_NAME = re.compile(r"[a-z][a-z0-9_]*")
_RESERVED = frozenset({"each", "page", "offset", "username", "password"})
_RESERVED_NAMES = ", ".join(sorted(_RESERVED))


def names() -> list[str]:
    """Return the names of the recipes that syncagent ships, sorted."""
    return sorted(file.name.removesuffix(".toml") for file in _shipped().iterdir() if file.name.endswith(".toml"))


def _shipped() -> Path:
    return Path(str(resources.files("syncagent.sources") / "recipes"))


def _file(name: str) -> Path:
    """Return the path of a recipe: ``name`` itself if it contains a /, otherwise that of the shipped recipe."""
    return Path(name) if "/" in name else _shipped() / f"{name}.toml"


def load(name: str) -> Recipe:
    """Return the recipe with a name: a shipped recipe, or a file if ``name`` contains a /.

    Raises ConfigError with all problems if the recipe cannot be read or is invalid.
    """
    file = _file(name)
    try:
        text = atomic.read_foreign_text(file, _MAX_RECIPE)
        raw = parse(text)
    except OSError as error:
        if file.parent == _shipped():
            text = f"unknown recipe {name!r}, known: {', '.join(names())}; the path of a recipe file contains a /"
            raise ConfigError([Problem(name, None, "", text)]) from None
        raise ConfigError([Problem(str(file), None, "", f"cannot be read: {error.strerror}")]) from None
    except ValueError as error:
        raise ConfigError([Problem(str(file), None, "", f"invalid TOML: {error}")]) from None
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
    """Yield (keys, text) for each problem of a recipe that the type of a key cannot express."""
    if not recipe.steps:
        yield ("steps",), "expected at least one step"
    for name, parameter in recipe.parameters.items():
        if not _NAME.fullmatch(name) or name in _RESERVED:
            yield ("parameters", name), f"expected a name of a-z, 0-9 and _, other than {_RESERVED_NAMES}"
        if parameter.one_of and parameter.default is not UNSET and parameter.default not in parameter.one_of:
            yield ("parameters", name), f"the default {parameter.default!r} is not in one_of"
    yield from ((("auth", key), text) for key, text in _auth_problems(recipe))
    yield from _requirements(recipe)
    if not all(text.strip() for text in recipe.leaves_out):
        yield ("leaves_out",), "expected texts that are not empty"
    before: list[str] = []
    for step in recipe.steps:
        for key, text in _step_problems(recipe, step, before):
            yield ("steps", key), f"step {step.name!r}: {text}"
        before.append(step.name)
    emitting = [step.name for step in recipe.steps if step.emit]
    for step in recipe.steps:
        for over in (name for emit in step.emit for name in emit.over if name not in emitting):
            yield ("steps", "emit"), f"step {step.name!r}: over names {over!r}, but no such step emits anything"


def _requirements(recipe: Recipe) -> Iterator[tuple[Keys, str]]:
    names = Counter([*(requirement.name for requirement in recipe.require), *(step.name for step in recipe.steps)])
    for requirement in recipe.require:
        for key, text in _require_problems(recipe, requirement, is_unique=names[requirement.name] == 1):
            yield ("require", key), f"requirement {requirement.name!r}: {text}"


def _require_problems(recipe: Recipe, requirement: Require, *, is_unique: bool) -> Iterator[tuple[str, str]]:
    if not _NAME.fullmatch(requirement.name) or not is_unique:
        yield "name", "expected a name of a-z, 0-9 and _ that nothing else has"
    yield from _request_problems(requirement.step, {*recipe.parameters}, {*recipe.parameters})
    if not requirement.where:
        yield "where", "expected at least one condition"
    for key in ("message", "remedy"):
        if not getattr(requirement, key).strip():
            yield key, "expected a text"
    yield from (("unwrap", text) for text in (_path_problem(requirement.unwrap) if requirement.unwrap else ()))
    yield from (("ok", text) for text in _rule_problems(recipe, requirement.ok))
    yield from (("where", text) for text in _rule_problems(recipe, requirement.where))
    yield from (("when", text) for text in _when_problems(recipe, requirement.when))


def _request_problems(step: Step, allowed: set[str], in_body: set[str]) -> Iterator[tuple[str, str]]:
    """Yield the problems of a request; ``allowed`` and ``in_body`` are the placeholders that it may contain."""
    if not step.path.startswith("/"):
        yield "path", "expected a path that begins with /"
    for key, text in (("path", step.path), *(("query", text) for text in step.query.values())):
        yield from ((key, problem) for problem in _unknown_placeholders(text, allowed))
    yield from (("body", problem) for text in _texts(step.body) for problem in _unknown_placeholders(text, in_body))
    if step.body and step.method != "POST":
        yield "body", 'requires method = "POST"'


def _auth_problems(recipe: Recipe) -> Iterator[tuple[str, str]]:
    auth = recipe.auth
    required = {
        "header": ("name",),
        "oauth2_client_credentials": ("token_url", "scope"),
        "oauth2_jwt_bearer": ("token_url", "scope"),
        "login": ("path",),
    }
    yield from (
        (key, f"required key is missing for {auth.kind}")
        for key in required.get(auth.kind, ())
        if not getattr(auth, key)
    )
    if auth.kind == "login" and (auth.put != "cookie") != bool(auth.take):
        yield "take", "expected the path of the session token for every put but cookie, and only there"
    if auth.put == "header" and not auth.name:
        yield "name", "required key is missing: the name of the header"
    if auth.path and not auth.path.startswith("/"):
        yield "path", "expected a path that begins with /"
    if auth.kind == "login" and auth.send != "basic" and not auth.fields:
        yield "fields", 'required key is missing: the body, such as { user = "{username}", password = "{password}" }'
    yield from (("take", text) for text in (_path_problem(auth.take) if auth.take else ()))
    yield from (("ok", text) for text in _rule_problems(recipe, auth.ok))
    for key in ("token_url", "scope", "subject", "path"):
        yield from ((key, text) for text in _unknown_placeholders(getattr(auth, key), {*recipe.parameters}))
    for field in auth.fields.values():
        yield from (
            ("fields", text) for text in _unknown_placeholders(field, {*recipe.parameters, "username", "password"})
        )


def _step_problems(recipe: Recipe, step: Step, before: list[str]) -> Iterator[tuple[str, str]]:
    if not _NAME.fullmatch(step.name) or step.name in before:
        yield "name", "expected a name of a-z, 0-9 and _ that no other step has"
    yield from (("list", text) for text in _path_problem(step.list))
    if _may_be_absent(step.list) and not step.ok and not step.total:
        yield "list", "may be absent, so that an error looks like an empty list: set ok or total to distinguish them"
    optional = {"total": step.total, "key": step.key, "unwrap": step.unwrap, "for_each": step.for_each}
    yield from ((key, text) for key, path in optional.items() if path for text in _path_problem(path))
    yield from (("when", text) for text in _when_problems(recipe, step.when))
    allowed = {*recipe.parameters, *(("each",) if step.for_each else ())}
    yield from _request_problems(step, allowed, allowed | {*_numbers(step)})
    if step.for_each and (step.for_each.partition(".")[0] not in before or not step.for_each.partition(".")[2]):
        yield "for_each", f"expected STEP.PATH with an earlier step, not {step.for_each!r}"
    yield from (("ok", text) for text in _rule_problems(recipe, step.ok))
    yield from (("where", text) for text in _rule_problems(recipe, step.where))
    yield from (("join", text) for join in step.join for text in _join_problems(join, before))
    yield from _paging_problems(step)
    for emit in step.emit:
        yield from (("emit", text) for text in _emit_problems(emit, before))
        yield from (("emit", text) for text in _rule_problems(recipe, emit.where))


def _rule_problems(recipe: Recipe, rules: Iterable[conditions.Rule]) -> Iterator[str]:
    for rule in rules:
        yield from filter(None, [conditions.problem(rule)])
        yield from _when_problems(recipe, rule.when)


def _when_problems(recipe: Recipe, when: dict[str, str]) -> Iterator[str]:
    """Yield a text for each condition of ``when`` that can never be met: its step or rule would never apply."""
    for name, value in when.items():
        parameter = recipe.parameters.get(name)
        if parameter is None:
            yield f"when: unknown parameter {name!r}"
        elif parameter.one_of and value not in parameter.one_of:
            yield f"when: {name} is one of {', '.join(parameter.one_of)}, never {value!r}"


def _paging_problems(step: Step) -> Iterator[tuple[str, str]]:
    paging = step.paging
    if paging is None:
        return
    if paging.kind in {"token", "next_url"}:
        yield from (("paging", text) for text in (_path_problem(paging.path) if paging.path else ["path is missing"]))
    if paging.kind == "token" and not paging.param:
        yield "paging", "param is missing"
    if paging.kind in {"page", "offset"} and not paging.param and f"{{{paging.kind}}}" not in _texts(step.body):
        yield "paging", f"expected param, or {{{paging.kind}}} in body"


def _numbers(step: Step) -> tuple[str, ...]:
    """Return the placeholder of the page number or offset that the body of a step may contain, if any."""
    return (step.paging.kind,) if step.paging and step.paging.kind in {"page", "offset"} else ()


def _emit_problems(emit: Emit, before: list[str]) -> Iterator[str]:
    if bool(emit.value) == bool(emit.template):
        yield "an emit needs value or template, exactly one of them"
    for path in (emit.value, emit.each, emit.to, *PLACEHOLDER.findall(emit.template)):
        yield from _path_problem(path) if path else ()
    if (emit.kind == "alias_domain") != bool(emit.to):
        yield "an emit needs to, the path of the target domain, if its kind is alias_domain, and only then"
    if emit.over and emit.kind != "alias_domain":
        yield "an emit can have over only if its kind is alias_domain"
    yield from (text for join in emit.join for text in _join_problems(join, before))


def _join_problems(join: Join, before: list[str]) -> Iterator[str]:
    if join.step not in before:
        yield f"a join names {join.step!r}, which is not an earlier step"
    yield from _path_problem(join.key)
    yield from _path_problem(join.local)


def _path_problem(path: str) -> Iterator[str]:
    try:
        json_path.parse(path)
    except json_path.PathError as error:
        yield str(error)


def _may_be_absent(path: str) -> bool:
    """True if a part of the path is optional; False if the path is malformed."""
    try:
        return any(part.optional for part in json_path.parse(path))
    except json_path.PathError:
        return False


def _unknown_placeholders(text: str, allowed: set[str]) -> Iterator[str]:
    for name in PLACEHOLDER.findall(text):
        if name not in allowed:
            yield f"unknown placeholder {{{name}}}, known: {', '.join(sorted(allowed)) or 'none'}"


def _texts(value: object) -> list[str]:
    """Return all strings in a JSON body, without the names of members."""
    if isinstance(value, str):
        return [value]
    members = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return [text for member in members for text in _texts(member)]


def config_problems(config: Config) -> Iterator[tuple[str, str]]:
    """Yield (key, text) for each problem of the recipe, and of the source's configuration with this recipe."""
    try:
        recipe = load(config.recipe or "")
    except ConfigError as error:
        yield from (("recipe", str(problem)) for problem in error.problems)
        return
    if not config.url and not recipe.url:
        yield "url", "required key is missing: the URL of the API, https://HOST"
    elif not config.url and not config.insecure and not recipe.url.startswith("https://"):
        yield "recipe", "the recipe's url does not begin with https://, which requires insecure = true"
    if "?" in config.url:
        yield "url", "a URL with a query cannot be continued by a step's path: remove the query"
    yield from _parameter_problems(config, recipe)
    yield from _credential_problems(config, recipe.auth)
    values = parameter_values(recipe, config.parameters)
    token_url = fill_placeholders(recipe.auth.token_url, _Lenient(values))
    if token_url and not config.insecure and not token_url.startswith("https://"):
        yield "parameters", "the token URL does not begin with https://, which requires insecure = true"
    yield from (("recipe", text) for _, text in problems(with_parameters(recipe, values)))


class _Lenient(dict[str, str]):
    """The values of parameters, where a missing parameter has its name as value."""

    def __missing__(self, name: str) -> str:
        return name


def _parameter_problems(config: Config, recipe: Recipe) -> Iterator[tuple[str, str]]:
    known = ", ".join(f"{name} ({parameter.text})" for name, parameter in recipe.parameters.items()) or "none"
    for name, parameter in recipe.parameters.items():
        value = config.parameters.get(name, parameter.default)
        if value is UNSET:
            yield "parameters", f"required parameter {name} is missing: {parameter.text}"
        elif parameter.one_of and value not in parameter.one_of:
            yield "parameters", f"expected {name} to be one of {', '.join(parameter.one_of)}, not {value!r}"
    for name in config.parameters.keys() - recipe.parameters.keys():
        yield "parameters", f"unknown parameter {name!r}, known: {known}"


def _credential_problems(config: Config, auth: Auth) -> Iterator[tuple[str, str]]:
    by_token = auth.kind in {"header", "bearer", "token", "oauth2_jwt_bearer"}
    by_password = auth.kind in {"basic", "oauth2_client_credentials", "login"}
    if by_token and config.token_file is None:
        yield "token_file", "required key is missing: the recipe authenticates by a token"
    if by_password and not (config.username and config.password_file):
        yield "username", "required keys username and password_file are missing: the recipe authenticates by them"
    if not by_token and config.token_file is not None:
        yield "token_file", "not used by this recipe" + ("; use username and password_file" if by_password else "")
    if not by_password and config.username:
        yield "username", "not used by this recipe" + ("; use token_file" if by_token else "")
