"""HTTP authentication: static token, Basic, OAuth 2.0, or session login.

The grants of OAuth 2.0 are client credentials (RFC 6749, 4.4) and a signed JWT (RFC 7523, 2.1).
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import msgspec

from syncagent.errors import FailureKind, SourceError
from syncagent.redaction import remember
from syncagent.sources.http.client import Client, HttpRequest
from syncagent.sources.http.recipe import conditions, json_path
from syncagent.sources.http.recipe.model import fill_placeholders
from syncagent.values.secrets import read_secret

if TYPE_CHECKING:
    from syncagent.sources.http import Config
    from syncagent.sources.http.recipe.model import Auth

_JWT_BEARER = "urn:ietf:params:oauth:grant-type:jwt-bearer"
_ASSERTION_LIFETIME = 3600
"""Lifetime of a signed JWT, in seconds."""
_MAX_TOKEN_ANSWER = 1 << 20
"""Maximum size of an answer that contains a token, in octets."""
_TOKEN_REFUSALS = frozenset({400, 401, 403, 407})
"""Status codes by which a token endpoint rejects the credentials (RFC 6749, 5.2)."""


def authenticate_list(client: Client, config: Config) -> None:
    """Add the credentials of a plain list to all later requests: a Bearer token, Basic, or none.

    Raises SourceError if the secret cannot be read, or is not a valid header value.
    """
    if config.token_file is not None:
        client.set_credentials("authorization", read_secret(config.token_file), "Bearer")
    elif config.password_file is not None:
        client.set_basic(config.username, read_secret(config.password_file))


def authenticate(client: Client, config: Config, auth: Auth, parameters: dict[str, Any]) -> None:
    """Acquire the credentials that a recipe specifies and add them to all later requests.

    Raises SourceError if a secret cannot be used, or if the server refuses or does not answer as the recipe expects.
    """
    if auth.kind in {"header", "bearer", "token"}:
        token = read_secret(config.token_file or "")
        scheme = {"header": "", "bearer": "Bearer", "token": auth.scheme}[auth.kind]
        client.set_credentials(auth.name if auth.kind == "header" else "authorization", token, scheme)
    elif auth.kind == "basic":
        client.set_basic(config.username, read_secret(config.password_file or ""))
    elif auth.kind == "oauth2_client_credentials":
        form = {
            "grant_type": "client_credentials",
            "client_id": config.username,
            "client_secret": read_secret(config.password_file or ""),
            "scope": fill_placeholders(auth.scope, parameters),
        }
        _request_token(client, fill_placeholders(auth.token_url, parameters), form)
    elif auth.kind == "oauth2_jwt_bearer":
        url = fill_placeholders(auth.token_url, parameters)
        form = {"grant_type": _JWT_BEARER, "assertion": _signed_assertion(config, auth, url, parameters)}
        _request_token(client, url, form)
    elif auth.kind == "login":
        _log_in(client, config, auth, parameters)


def _request_token(client: Client, url: str, form: dict[str, str]) -> None:
    """Request an access token (RFC 6749, 5.1) and add it to all later requests. Raises SourceError if there is none."""
    request = HttpRequest("POST", form=form, refusals=_TOKEN_REFUSALS, max_body=_MAX_TOKEN_ANSWER)
    with client.send(url, request) as response:
        token = _token_in(response.json(), "access_token", url)
    client.set_credentials("authorization", token, "Bearer")


def _token_in(body: Any, path: str, url: str) -> str:  # noqa: ANN401 - JSON
    """Return the token at a path of a body. Raises SourceError if it is missing, empty or not a string."""
    try:
        token = json_path.find_one(body, path)
    except json_path.PathError as error:
        raise SourceError(f"{url}: the answer contains no token: {error}", kind=FailureKind.BROKEN) from None
    if not isinstance(token, str) or not token:
        text = f"{url}: the token in the answer is {json_path.type_name(token)}, expected a text"
        raise SourceError(text, kind=FailureKind.BROKEN)
    return token


def _signed_assertion(config: Config, auth: Auth, url: str, parameters: dict[str, Any]) -> str:
    """Return the signed JWT of a service account. token_file contains the account's key as JSON, in Google's format.

    Raises SourceError if PyJWT is not installed, or if the key cannot be used.
    """
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
            "scope": fill_placeholders(auth.scope, parameters),
            "aud": url,
            "iat": now,
            "exp": now + _ASSERTION_LIFETIME,
        }
        if auth.subject:
            claims["sub"] = fill_placeholders(auth.subject, parameters)
        signed = jwt.encode(claims, key["private_key"], algorithm="RS256", headers={"kid": key.get("private_key_id")})
    except SourceError:
        raise
    except Exception as error:  # noqa: BLE001 - the text of any error about a key may contain the key
        text = f"token_file is not a service account key as JSON: {type(error).__name__}"
        raise SourceError(text, kind=FailureKind.BROKEN) from None
    remember(signed)
    return signed


def _log_in(client: Client, config: Config, auth: Auth, parameters: dict[str, Any]) -> None:
    """Log in with user name and password, and add the session token to all later requests.

    The client keeps a session cookie by itself. Raises SourceError if the server refuses the login, or if its answer is
    not as the recipe expects.
    """
    password = read_secret(config.password_file or "")
    url = f"{config.url.rstrip('/')}{fill_placeholders(auth.path, parameters)}"
    fields = fill_placeholders(auth.fields, {**parameters, "username": config.username, "password": password})
    request = HttpRequest(
        "POST",
        json=fields if auth.send == "json" else None,
        form=fields if auth.send == "form" else None,
        basic=(config.username, password) if auth.send == "basic" else None,
        max_body=_MAX_TOKEN_ANSWER,
    )
    with client.send(url, request) as response:
        body = response.json() if auth.ok or auth.take else None
    try:
        is_accepted = conditions.all_hold(auth.ok, body)
    except (conditions.RuleError, json_path.PathError):  # the error may quote the answer, which contains a token
        text = f"{url}: the recipe does not know the answer to the login of {config.username}"
        raise SourceError(text, kind=FailureKind.BROKEN) from None
    if not is_accepted:
        raise SourceError(f"{url} refuses the login of {config.username}: see password_file", kind=FailureKind.REFUSED)
    if auth.take:
        token = _token_in(body, auth.take, url)
        if auth.put == "password":
            client.set_basic(config.username, token)
        else:
            client.set_credentials(auth.name or "authorization", token, "" if auth.put == "header" else "Bearer")
