"""What a recipe is: a primary's API in data. contrib/docs/recipes.md describes it.

A recipe is TOML, one of ours by its name (``recipes/NAME.toml`` beside ``sources/http``) or a file of one's own.
"""

from __future__ import annotations

import re
from typing import Any, Literal

from msgspec import UNSET, Struct, UnsetType
from msgspec.structs import replace

from syncagent.sources.http.recipe.conditions import Rule

PLACEHOLDER = re.compile(r"\{([^{}]*)\}")


class Parameter(Struct, frozen=True, kw_only=True):
    """A value that the configuration gives, under ``parameters``."""

    text: str
    """What it is, for people."""
    default: str | UnsetType = UNSET
    """What it is unless given; without it, it has to be given."""
    one_of: tuple[str, ...] = ()
    """What it may be; anything unless set."""


class Auth(Struct, frozen=True, kw_only=True):
    """How a request says who we are."""

    kind: Literal[
        "none", "header", "bearer", "token", "basic", "oauth2_client_credentials", "oauth2_jwt_bearer", "login"
    ]
    """header, bearer, token, oauth2_jwt_bearer need token_file; basic, login, oauth2_client_credentials a password."""
    name: str = ""
    """header: its name."""
    scheme: str = "Token"
    """token: the word before the token in Authorization."""
    token_url: str = ""
    """oauth2: where a token is to be had; placeholders as in a path."""
    scope: str = ""
    """oauth2: what the token is for; placeholders likewise."""
    subject: str = ""
    """oauth2_jwt_bearer: on whose behalf; placeholders as in a path."""
    path: str = ""
    """login: where."""
    send: Literal["basic", "form", "json"] = "form"
    """login: how name and password are sent."""
    fields: dict[str, str] = {}
    """login, form and json: what is sent; {username} and {password} stand for themselves."""
    ok: tuple[Rule, ...] = ()
    """login: what holds for an answer that lets us in."""
    take: str = ""
    """login: where the answer has what is sent from then on; nothing where it is a cookie."""
    put: Literal["cookie", "bearer", "password", "header"] = "cookie"
    """login: how it is sent: as a cookie, a bearer token, the password of username, or the header ``name``."""


class Paging(Struct, frozen=True, kw_only=True):
    """How a list goes on."""

    kind: Literal["page", "offset", "token", "next_url", "link_header"]
    """A number of the page, of the first record, a token, a URL in the body, or one in the header Link."""
    param: str = ""
    """page, offset, token: the query's name for it; without one, {page} or {offset} in the body stands for it."""
    start: int = 1
    """page, offset: the first number; offset usually begins at 0."""
    path: str = ""
    """token, next_url: where the body has the next one; absent, null, false or empty at the end."""
    until: Literal["empty", "total"] = "empty"
    """page, offset: what the last page is: an empty one, or that which reaches ``total``, if that can be relied on."""


class Join(Struct, frozen=True, kw_only=True):
    """A look-up in the records of an earlier step; that there is none is an error."""

    step: str
    """Which step."""
    key: str
    """Where a record of that step has what is looked up."""
    local: str
    """Where this record has it; absent or null looks up nothing where ``optional`` is set."""
    part: Literal["whole", "domain"] = "whole"
    """Whether to look up all of it, or what is behind its last @."""
    name: str
    """Under what name the record that was found is added to this one."""
    optional: bool = False
    """Whether there may be nothing to look up; ``name`` is null then."""


class Emit(Struct, frozen=True, kw_only=True):
    """What a kept record says."""

    kind: Literal["address", "catch_all", "accept_all", "pattern", "alias_domain", "domain"]
    """An address; a domain all of whose addresses are valid (both); a pattern; a domain that is another's; a domain."""
    value: str = ""
    """Where it is; a path that leads to several places says several."""
    template: str = ""
    """How it is put together instead, as "{name}@{domain.name}"."""
    each: str = ""
    """Do this for each place that the path leads to, which is ``each`` in the paths here."""
    join: tuple[Join, ...] = ()
    """Look-ups."""
    where: tuple[Rule, ...] = ()
    """For which records; those that no emit is for are an error unless ``must_emit = false``."""
    only_prefix: str = ""
    """Of values that begin with a type: which begin, in any case, with this one; it is taken off."""
    suffixes: tuple[str, ...] = ()
    """Local parts that are valid too: the address's with each of these at its end."""
    to: str = ""
    """alias_domain: where the domain is that it stands for."""
    over: tuple[str, ...] = ()
    """alias_domain: the steps whose addresses it has too; all of them unless set."""


class Step(Struct, frozen=True, kw_only=True):
    """One list of the API."""

    name: str
    """Its name, for other steps and for people."""
    method: Literal["GET", "POST"] = "GET"
    """How it is asked for."""
    path: str
    """Where, below url; {NAME} is a parameter, {each} what for_each gives."""
    query: dict[str, str] = {}
    """The query; placeholders likewise."""
    body: dict[str, Any] = {}
    """POST: what is sent as JSON; placeholders likewise, "{page}" and "{offset}" alone are numbers."""
    for_each: str = ""
    """Ask once for each: STEP.PATH in the records of an earlier step."""
    ok: tuple[Rule, ...] = ()
    """What holds for the body of a good answer; otherwise the source fails."""
    list: str
    """Where the records are in the body; @ where the body is the array; at its end a ? where it may be absent.

    With a ?, ok or total has to tell a good answer without records from an error.
    """
    unwrap: str = ""
    """Where the body really is, where that is there."""
    empty_object: bool = False
    """Whether {} is an empty list."""
    total: str = ""
    """Where the body says how many records there are."""
    paging: Paging | None = None
    """How the list goes on; without it there is one page."""
    join: tuple[Join, ...] = ()
    """Look-ups."""
    where: tuple[Rule, ...] = ()
    """Which records count."""
    key: str = ""
    """Where a record has the API's own identifier; the address itself unless set."""
    must_emit: bool = True
    """Whether a record that counts has to say something."""
    emit: tuple[Emit, ...] = ()
    """What they say; nothing where the step only serves others."""
    when: dict[str, str] = {}
    """Ask only where these parameters have these values."""


class Recipe(Struct, frozen=True, kw_only=True):
    """An API: who we are to it, and its lists, asked for in this order."""

    title: str
    """What it is for."""
    url: str = ""
    """Where it is, unless the configuration says."""
    parameters: dict[str, Parameter] = {}
    """What else the configuration gives."""
    auth: Auth
    """How a request says who we are."""
    rate_words: tuple[str, ...] = ()
    """Words in the body of a 403 that mean "too many requests", and not "no"."""
    steps: tuple[Step, ...]
    """The lists."""


def parameters(recipe: Recipe, given: dict[str, str]) -> dict[str, str]:
    """Give the values of a recipe's parameters; those without one are left out."""
    own = {name: one.default for name, one in recipe.parameters.items() if isinstance(one.default, str)}
    return {**own, **given}


def bound(recipe: Recipe, given: dict[str, str]) -> Recipe:
    """Give the recipe as it is with these parameters: without the steps and rules that are for other values."""

    def in_force(when: dict[str, str]) -> bool:
        return all(given.get(name) == value for name, value in when.items())

    def rules_in_force(several: tuple[Rule, ...]) -> tuple[Rule, ...]:
        return tuple(rule for rule in several if in_force(rule.when))

    steps = []
    for step in recipe.steps:
        if in_force(step.when):
            emits = tuple(replace(emit, where=rules_in_force(emit.where)) for emit in step.emit)
            steps.append(replace(step, where=rules_in_force(step.where), ok=rules_in_force(step.ok), emit=emits))
    return replace(recipe, auth=replace(recipe.auth, ok=rules_in_force(recipe.auth.ok)), steps=tuple(steps))


def filled(value: Any, given: dict[str, Any]) -> Any:  # noqa: ANN401 - JSON
    """Give a text or a body with its placeholders filled; one that stands alone keeps the kind of its value."""
    if isinstance(value, dict):
        return {name: filled(one, given) for name, one in value.items()}
    if isinstance(value, list):
        return [filled(one, given) for one in value]
    if not isinstance(value, str):
        return value
    alone = PLACEHOLDER.fullmatch(value)
    return given[alone[1]] if alone else PLACEHOLDER.sub(lambda found: str(given[found[1]]), value)
