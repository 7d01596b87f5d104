"""Who we are to an HTTP server: a token, a name and password, or what the server gives for them.

OAuth 2.0 is RFC 6749 (client credentials, 4.4) and RFC 7523 (a signed assertion, 2.1).
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import msgspec

from syncagent.errors import FailureKind, SourceError
from syncagent.sources import read_secret
from syncagent.sources.http.client import Ask, Transport
from syncagent.sources.http.recipe import conditions as rules
from syncagent.sources.http.recipe import json_path as paths
from syncagent.sources.http.recipe.model import filled

if TYPE_CHECKING:
    from syncagent.sources.http import Config
    from syncagent.sources.http.recipe.model import Auth

_ASSERTION = "urn:ietf:params:oauth:grant-type:jwt-bearer"
_HOUR = 3600
_TOKEN = 1 << 20
"""The most octets of an answer with a token in it."""
_REFUSALS = frozenset({400, 401, 403, 407})
"""How a token endpoint says that it does not know us (RFC 6749, 5.2)."""


def sign_plainly(transport: Transport, config: Config) -> None:
    """Sign requests by what is configured: a token as Bearer, or a name and its password as Basic, or not."""
    if config.token_file is not None:
        transport.sign("authorization", read_secret(config.token_file), "Bearer")
    elif config.password_file is not None:
        transport.sign_basic(config.username, read_secret(config.password_file))


def sign(transport: Transport, config: Config, auth: Auth, given: dict[str, Any]) -> None:
    """Sign requests as a recipe says; ``given`` are the values of its placeholders. Raises SourceError."""
    if auth.kind in {"header", "bearer", "token"}:
        token = read_secret(config.token_file or "")
        scheme = {"header": "", "bearer": "Bearer", "token": auth.scheme}[auth.kind]
        transport.sign(auth.name if auth.kind == "header" else "authorization", token, scheme)
    elif auth.kind == "basic":
        transport.sign_basic(config.username, read_secret(config.password_file or ""))
    elif auth.kind == "oauth2_client_credentials":
        form = {
            "grant_type": "client_credentials",
            "client_id": config.username,
            "client_secret": read_secret(config.password_file or ""),
            "scope": filled(auth.scope, given),
        }
        _sign_with_token(transport, filled(auth.token_url, given), form)
    elif auth.kind == "oauth2_jwt_bearer":
        url = filled(auth.token_url, given)
        form = {"grant_type": _ASSERTION, "assertion": _assertion(config, auth, url, given)}
        _sign_with_token(transport, url, form)
    elif auth.kind == "login":
        _log_in(transport, config, auth, given)


def _sign_with_token(transport: Transport, url: str, form: dict[str, str]) -> None:
    with transport.ask(url, Ask("POST", form=form, refusals=_REFUSALS, max_body=_TOKEN)) as response:
        token = _taken(response.json(), "access_token", url)
    transport.sign("authorization", token, "Bearer")


def _taken(body: Any, path: str, url: str) -> str:  # noqa: ANN401 - JSON
    try:
        token = paths.one(body, path)
    except paths.PathError as error:
        raise SourceError(f"{url}: its answer has no token: {error}", kind=FailureKind.BROKEN) from None
    if not isinstance(token, str) or not token:
        raise SourceError(f"{url}: its token is {paths.kind_of(token)}", kind=FailureKind.BROKEN)
    return token


def _assertion(config: Config, auth: Auth, url: str, given: dict[str, Any]) -> str:
    """Sign what a service account says of itself; the file is the JSON key that Google hands out."""
    try:
        import jwt
    except ImportError:
        text = "this recipe needs PyJWT with cryptography: pip install 'syncagent[google]'"
        raise SourceError(text, kind=FailureKind.BROKEN) from None
    try:
        key = msgspec.json.decode(read_secret(config.token_file or ""))
        now = int(time.time())
        claims = {
            "iss": key["client_email"],
            "scope": filled(auth.scope, given),
            "aud": url,
            "iat": now,
            "exp": now + _HOUR,
        }
        if auth.subject:
            claims["sub"] = filled(auth.subject, given)
        return jwt.encode(claims, key["private_key"], algorithm="RS256", headers={"kid": key.get("private_key_id")})
    except SourceError:
        raise
    except Exception as error:  # noqa: BLE001 - whatever is wrong with a key, its text must not be shown
        text = f"token_file is no service account's key as JSON: {type(error).__name__}"
        raise SourceError(text, kind=FailureKind.BROKEN) from None


def _log_in(transport: Transport, config: Config, auth: Auth, given: dict[str, Any]) -> None:
    """Hand in name and password, and keep what the answer has for them."""
    password = read_secret(config.password_file or "")
    url = f"{config.url.rstrip('/')}{filled(auth.path, given)}"
    fields = filled(auth.fields, {**given, "username": config.username, "password": password})
    ask = Ask(
        "POST",
        json=fields if auth.send == "json" else None,
        form=fields if auth.send == "form" else None,
        basic=(config.username, password) if auth.send == "basic" else None,
        max_body=_TOKEN,
    )
    with transport.ask(url, ask) as response:
        body = response.json() if auth.ok or auth.take else None
    try:
        let_in = rules.hold(auth.ok, body)
    except (rules.RuleError, paths.PathError):  # whose text would show the answer, and there is a token in it
        text = f"{url} says neither yes nor no to {config.username}: its answer is none that the recipe knows"
        raise SourceError(text, kind=FailureKind.BROKEN) from None
    if not let_in:
        raise SourceError(f"{url} does not let {config.username} in; see password_file", kind=FailureKind.REFUSED)
    if auth.take:
        taken = _taken(body, auth.take, url)
        if auth.put == "password":
            transport.sign_basic(config.username, taken)
        else:
            transport.sign(auth.name or "authorization", taken, "" if auth.put == "header" else "Bearer")
