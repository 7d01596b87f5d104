"""Data model of recipes, which describe a primary's API. contrib/docs/recipes.md is their documentation.

A recipe is a TOML file, either shipped with syncagent (``syncagent/sources/recipes/NAME.toml``) or given by its path.
"""

from __future__ import annotations

import re
from typing import Any, Literal

from msgspec import UNSET, Struct, UnsetType
from msgspec.structs import replace

from syncagent.sources.http.recipe.conditions import Rule

PLACEHOLDER = re.compile(r"\{([^{}]*)\}")
"""A placeholder {NAME}; group 1 is the name."""


class Parameter(Struct, frozen=True, kw_only=True):
    """A parameter of a recipe, whose value the configuration sets in ``parameters``."""

    text: str
    """The description for people."""
    default: str | UnsetType = UNSET
    """The default value; without one the parameter is required."""
    one_of: tuple[str, ...] = ()
    """The allowed values; any value is allowed unless set."""


class Auth(Struct, frozen=True, kw_only=True):
    """The authentication of the requests."""

    kind: Literal[
        "none", "header", "bearer", "token", "basic", "oauth2_client_credentials", "oauth2_jwt_bearer", "login"
    ]
    """header, bearer, token and oauth2_jwt_bearer require token_file; all others but none require password_file."""
    name: str = ""
    """header, or login with ``put = "header"``: the name of the header."""
    scheme: str = "Token"
    """token: the scheme before the token in Authorization."""
    token_url: str = ""
    """oauth2: the URL of the token endpoint; placeholders as in a path."""
    scope: str = ""
    """oauth2: the scope of the token; placeholders as in a path."""
    subject: str = ""
    """oauth2_jwt_bearer: the user to impersonate; placeholders as in a path."""
    path: str = ""
    """login: the path of the login request."""
    send: Literal["basic", "form", "json"] = "form"
    """login: how user name and password are sent."""
    fields: dict[str, str] = {}
    """login by form or json: the fields of the body; {username} and {password} are placeholders."""
    ok: tuple[Rule, ...] = ()
    """login: conditions on the answer of a successful login."""
    take: str = ""
    """login: the path of the session token in the answer; empty if the session is a cookie."""
    put: Literal["cookie", "bearer", "password", "header"] = "cookie"
    """login: how the session token is sent: as a cookie, a bearer token, the password of username, or a header."""


class Paging(Struct, frozen=True, kw_only=True):
    """The pagination of a list."""

    kind: Literal["page", "offset", "token", "next_url", "link_header"]
    """How a request names its page: by number, record offset, token, URL from the body, or URL from the header Link."""
    param: str = ""
    """page, offset, token: the query parameter. page and offset without it: {page} or {offset} in the body instead."""
    start: int = 1
    """page, offset: the first number; offsets usually start at 0."""
    path: str = ""
    """token, next_url: the path of the token or URL in the body. On the last page it is absent, null, false or ""."""
    until: Literal["empty", "total"] = "empty"
    """page, offset: the last page is an empty page, or the page that reaches ``total`` if the total is reliable."""


class Join(Struct, frozen=True, kw_only=True):
    """A look-up in the records of an earlier step. The fetch fails if no record matches."""

    step: str
    """The earlier step."""
    key: str
    """The path of the key in the records of that step."""
    local: str
    """The path of the key in this record. An absent, null or empty key is an error unless ``optional`` is set."""
    part: Literal["whole", "domain"] = "whole"
    """Whether to compare the whole key, or the part after its last @."""
    name: str
    """The member of this record under which the matching record is added."""
    optional: bool = False
    """Whether the key may be null or empty, or absent if ``local`` ends with a ?; ``name`` is null then."""


class Emit(Struct, frozen=True, kw_only=True):
    """A value that a kept record emits."""

    kind: Literal["address", "catch_all", "accept_all", "pattern", "alias_domain", "domain"]
    """An address, a domain with a catch-all, a domain that accepts all, a pattern, an alias domain, or a domain."""
    value: str = ""
    """The path of the value. The value at each of its places is emitted."""
    template: str = ""
    """A template instead of ``value``, such as "{name}@{domain.name}"."""
    each: str = ""
    """The path of the places to emit for, each of which is named ``each`` in the other paths."""
    join: tuple[Join, ...] = ()
    """Look-ups in earlier steps, in order."""
    where: tuple[Rule, ...] = ()
    """Conditions on the record. A record for which no emit applies is an error unless ``must_emit = false``."""
    only_prefix: str = ""
    """For values with a type prefix: emit only values with this prefix, in any case, and remove it.

    A prefix that ends with a colon also selects values without a colon.
    """
    suffixes: tuple[str, ...] = ()
    """Suffixes of the local part: the address is also emitted with each of them."""
    to: str = ""
    """alias_domain: the path of the target domain."""
    over: tuple[str, ...] = ()
    """alias_domain: the steps whose addresses are valid in it too; all steps unless set."""


class Step(Struct, frozen=True, kw_only=True):
    """A request for a list of the API, or for a list per value of ``for_each``."""

    name: str
    """The name, by which other steps and messages refer to the step."""
    method: Literal["GET", "POST"] = "GET"
    """The method of the request."""
    path: str
    """The path below url; {NAME} is a parameter, {each} the value of for_each."""
    query: dict[str, str] = {}
    """The query; placeholders as in path."""
    body: dict[str, Any] = {}
    """POST: the JSON body; placeholders as in path, and "{page}" or "{offset}" alone is a number."""
    for_each: str = ""
    """STEP.PATH: the step reads a list for each value of the path in the records of an earlier step."""
    ok: tuple[Rule, ...] = ()
    """Conditions on the body of a successful answer; the source fails if one does not hold."""
    list: str
    """The path of the records in the body; @ if the body is the array; with ? at its end if it may be absent.

    With ?, ok or total must distinguish an empty list from an error.
    """
    unwrap: str = ""
    """The path of the real body inside a wrapper. With ? at its end, the body may lack the wrapper."""
    empty_object: bool = False
    """Whether {} counts as an empty list."""
    total: str = ""
    """The path of the total number of records in the body."""
    paging: Paging | None = None
    """The pagination of the list; a single page unless set."""
    join: tuple[Join, ...] = ()
    """Look-ups in earlier steps, in order."""
    where: tuple[Rule, ...] = ()
    """Conditions on the records to keep."""
    key: str = ""
    """The path of the API's own identifier of a record; the address itself unless set."""
    must_emit: bool = True
    """Whether a kept record must emit a value."""
    emit: tuple[Emit, ...] = ()
    """The values that the kept records emit; none if other steps only look the records up."""
    when: dict[str, str] = {}
    """The step applies only if these parameters have these values."""


class Require(Struct, frozen=True, kw_only=True):
    """A request that proves that the account sees everything, sent before the lists are read."""

    name: str
    """The name, by which messages refer to it. No step has the same name."""
    method: Literal["GET", "POST"] = "GET"
    """The method of the request."""
    path: str
    """The path below url; placeholders as in the path of a step."""
    query: dict[str, str] = {}
    """The query; placeholders as in path."""
    body: dict[str, Any] = {}
    """POST: the JSON body; placeholders as in path."""
    ok: tuple[Rule, ...] = ()
    """Conditions on the body of a successful answer, as in a step."""
    unwrap: str = ""
    """The path of the real body inside a wrapper, as in a step."""
    where: tuple[Rule, ...]
    """Conditions on the body; the source fails if one does not hold."""
    message: str
    """The text of that failure: what the account is, and what it therefore does not see."""
    remedy: str
    """The remedy: what a person must do."""
    when: dict[str, str] = {}
    """The request is sent only if these parameters have these values."""

    @property
    def step(self) -> Step:
        """The request as a step, whose list is not read."""
        return Step(
            name=self.name,
            method=self.method,
            path=self.path,
            query=self.query,
            body=self.body,
            ok=self.ok,
            unwrap=self.unwrap,
            list="@",
        )


class Recipe(Struct, frozen=True, kw_only=True):
    """An API: its authentication and its lists, in the order of the requests."""

    title: str
    """The product and the data that is read from it."""
    url: str = ""
    """The URL of the API; the configuration takes precedence."""
    parameters: dict[str, Parameter] = {}
    """The parameters that the configuration sets, by name."""
    auth: Auth
    """The authentication of the requests."""
    rate_words: tuple[str, ...] = ()
    """Words in the body of a refusal (401, 403, 407) that mean "too many requests"."""
    leaves_out: tuple[str, ...] = ()
    """Recipients that the system can have and the API does not list, each as a noun with what to do about it."""
    require: tuple[Require, ...] = ()
    """Requests that prove that the account sees everything, before the steps."""
    steps: tuple[Step, ...]
    """The lists of the API."""


def parameter_values(recipe: Recipe, configured: dict[str, str]) -> dict[str, str]:
    """Return the values of a recipe's parameters: configured or default. A parameter with neither is left out."""
    defaults = {
        name: parameter.default for name, parameter in recipe.parameters.items() if isinstance(parameter.default, str)
    }
    return {**defaults, **configured}


def with_parameters(recipe: Recipe, values: dict[str, str]) -> Recipe:
    """Return the recipe without the requests, steps and rules whose ``when`` does not match these parameter values."""

    def applies(when: dict[str, str]) -> bool:
        return all(values.get(name) == value for name, value in when.items())

    def applicable(rules: tuple[Rule, ...]) -> tuple[Rule, ...]:
        return tuple(rule for rule in rules if applies(rule.when))

    steps = []
    for step in recipe.steps:
        if applies(step.when):
            emits = tuple(replace(emit, where=applicable(emit.where)) for emit in step.emit)
            steps.append(replace(step, where=applicable(step.where), ok=applicable(step.ok), emit=emits))
    require = tuple(
        replace(required, where=applicable(required.where), ok=applicable(required.ok))
        for required in recipe.require
        if applies(required.when)
    )
    auth = replace(recipe.auth, ok=applicable(recipe.auth.ok))
    return replace(recipe, auth=auth, require=require, steps=tuple(steps))


def fill_placeholders(template: Any, values: dict[str, Any]) -> Any:  # noqa: ANN401 - JSON
    """Return a text or JSON body with its placeholders replaced by their values.

    A text that is a single placeholder becomes the value itself, of the same type. Raises KeyError if ``values`` lacks
    a placeholder.
    """
    if isinstance(template, dict):
        return {name: fill_placeholders(member, values) for name, member in template.items()}
    if isinstance(template, list):
        return [fill_placeholders(item, values) for item in template]
    if not isinstance(template, str):
        return template
    single = PLACEHOLDER.fullmatch(template)
    return values[single[1]] if single else PLACEHOLDER.sub(lambda match: str(values[match[1]]), template)
