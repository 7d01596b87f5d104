"""Each shipped recipe, followed through answers in the true shape, without a network and over TLS, and what breaks it.

A fixture says what comes out; the requests are written down here as the systems' documentation has them.
"""

import base64
import copy
import json
import re
import threading
import tomllib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, quote, urlsplit

import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from syncagent.errors import FailureKind, SourceError
from syncagent.sources.http.recipe import json_path
from syncagent.sources.http.recipe.conditions import Rule
from syncagent.sources.http.recipe.dry_run import ORIGIN, DryRunResult, Fixture, dry_run, read
from syncagent.sources.http.recipe.model import (
    Emit,
    Paging,
    Recipe,
    Step,
    fill_placeholders,
    parameter_values,
    with_parameters,
)
from syncagent.sources.http.recipe.validate import load, names
from tests.sources.http import TOKEN, Asked, addresses, secret
from tests.support.authority import Authority
from tests.support.scripted_http import Asked as Request
from tests.support.scripted_http import Part, ScriptedHTTP, answer

GOLDEN = Path(__file__).parent / "golden"
NAMES = names()
SHIPPED = Path(__file__).parents[3] / "syncagent" / "sources" / "recipes"
ADMIN, PASSWORD, SESSION = "admin@example.com", "pass-8151-word", "session-8152-key"
SERVICE = "syncagent@project.iam.gserviceaccount.com"
GRAPH_SCOPE = "https://graph.microsoft.com/.default"
GOOGLE_SCOPES = {
    "https://www.googleapis.com/auth/admin.directory.user.readonly",
    "https://www.googleapis.com/auth/admin.directory.group.readonly",
}


def fixture(name: str) -> Fixture:
    """Return a recipe's golden fixture."""
    return read(GOLDEN / f"{name}.json")


@dataclass(frozen=True)
class Variant:
    """A recipe with other parameters: answers more (None: less), addresses that come (+) and that don't (-)."""

    recipe: str
    parameters: dict[str, str]
    answers: dict[str, Any] = field(default_factory=dict)
    more: tuple[str, ...] = ()
    less: tuple[str, ...] = ()

    @property
    def fixture(self) -> Fixture:
        """The golden fixture, as it is with these parameters."""
        golden = fixture(self.recipe)
        answers = {name: pages for name, pages in {**golden.answers, **self.answers}.items() if pages is not None}
        expected = sorted({*(golden.expected or []), *self.more} - {*self.less})
        return Fixture(answers, expected, {**golden.parameters, **self.parameters})


def _temporary(address: str, validity: object, permanent: int = 0) -> dict[str, Any]:
    row = {"address": address, "goto": "anna@example.com", "validity": validity, "description": ""}
    return {**row, "permanent": permanent}


VARIANTS = {
    "mailcow: temporary aliases, and a resource": Variant(
        "mailcow",
        {"temporary_aliases": "yes"},
        {
            "resources": [[{"name": "room@example.com", "kind": "location", "local_part": "room", "active": 1}]],
            "temporary_aliases": {
                "anna@example.com": [
                    [
                        _temporary("x1@example.com", 32503680000),
                        _temporary("x2@example.com", 1577836800),
                        _temporary("x3@example.com", 1577836800, 1),
                        _temporary("x4@example.com", 0, 1),
                    ]
                ],
                "bo@example.com": [{}],
            },
        },
        more=("x1@example.com", "x3@example.com", "x4@example.com", "room@example.com", "room@example.net"),
    ),
    "mailu: no relays": Variant("mailu", {"relays": "no"}, {"relays": None}, less=("@relayed.example",)),
    "stalwart: no masked addresses": Variant(
        "stalwart",
        {"masked": "no"},
        {"masked_addresses": None},
        less=("shop.x7f3@example.org", "trip.k2w9@example.org"),
    ),
    "google: without the suspended": Variant("google", {"suspended": "drop"}, less=("bo@example.com",)),
    "cpanel: without black holes": Variant("cpanel", {"blackhole": "ignore"}, less=("@example.org",)),
}
DOMAINS = {
    "cpanel": {"example.com", "example.net", "example.org"},
    "mailcow": {"example.com", "example.net", "relayed.example"},
    "mailman3": {"example.com", "example.net", "example.org"},
    "mailu": {"example.com", "example.net", "bücher.example", "example.org", "relayed.example"},
    "modoboa": {"example.com", "example.net", "example.org", "relayed.example"},
    "stalwart": {"example.com", "example.net", "example.org", "relayed.example"},
}
"""The domains of those that tell them."""


# Without a network


def exactly(result: DryRunResult) -> bool:
    """True if exactly the expected addresses came out."""
    return (result.missing, result.unexpected, result.rejected) == ((), (), ())


def test_every_recipe_has_a_fixture() -> None:
    """Every shipped recipe has a golden fixture that says what comes out, and every fixture a recipe."""
    assert sorted(file.stem for file in GOLDEN.iterdir()) == NAMES
    assert all(fixture(name).expected for name in NAMES)
    assert {*NAMES} == {*ASKED}


@pytest.mark.parametrize("name", NAMES)
def test_what_comes_out(name: str) -> None:
    """Just what is expected comes out, from every step, and nothing of it is a reject."""
    result = dry_run(name, fixture(name))
    assert exactly(result), result
    assert all(step.records or step.name == "resources" for step in result.answer.steps)


@pytest.mark.parametrize("name", VARIANTS)
def test_what_comes_out_with_parameters(name: str) -> None:
    """Parameters add and leave out just what they say."""
    variant = VARIANTS[name]
    result = dry_run(variant.recipe, variant.fixture)
    assert exactly(result), result


@pytest.mark.parametrize("name", NAMES)
def test_which_domains(name: str) -> None:
    """Recipes of systems that list their domains tell those that are in force, the others tell none."""
    domains = dry_run(name, fixture(name)).answer.domains
    assert (None if domains is None else {*domains}) == DOMAINS.get(name)


def test_patterns_are_told() -> None:
    """Mailu's patterns are counted in a note, and its catch-all is none of them."""
    (note,) = dry_run("mailu", fixture("mailu")).answer.notes
    assert note.startswith("1 patterns such as 'list-%@example.com'")


@pytest.mark.parametrize("name", NAMES)
def test_the_head_of_a_recipe(name: str) -> None:
    """A recipe says at its head which version it is for, how it was checked, and who we are to it."""
    text = (SHIPPED / f"{name}.toml").read_text("utf-8")
    head = text[: text.index("title = ")]
    assert all(line.startswith("#") for line in head.splitlines())
    assert re.search(r"[Nn]ot tested against a live|Tested against a real", head.replace("\n# ", " "))
    assert ("token_file" in head) != ("password_file" in head)
    assert all(len(line) <= 120 or line.startswith(("scope =", "join =", '    ["x:')) for line in text.splitlines())


# Over TLS

ASKED: dict[str, list[str]] = {
    "cpanel": [
        "GET /execute/Email/list_mail_domains",
        "GET /execute/Email/list_pops?skip_main=1",
        "GET /execute/Email/list_forwarders?domain=example.com",
        "GET /execute/Email/list_forwarders?domain=example.net",
        "GET /execute/Email/list_forwarders?domain=example.org",
        "GET /execute/Email/list_domain_forwarders",
        "GET /execute/Email/list_default_address?user=anna",
    ],
    "google": [
        "POST /token",
        "GET /admin/directory/v1/users?customer=my_customer&maxResults=500",
        "GET /admin/directory/v1/users?customer=my_customer&maxResults=500&pageToken=t2",
        "GET /admin/directory/v1/groups?customer=my_customer&maxResults=200",
        "GET /admin/directory/v1/groups?customer=my_customer&maxResults=200&pageToken=g2",
    ],
    "mail-in-a-box": [
        "POST /admin/login",
        "GET /admin/mail/users?format=json",
        "GET /admin/mail/aliases?format=json",
    ],
    "mailcow": [
        "GET /api/v1/get/mailbox/reduced",
        "GET /api/v1/get/resource/all",
        "GET /api/v1/get/alias/all",
        "GET /api/v1/get/alias-domain/all",
        "GET /api/v1/get/domain/all",
    ],
    "mailman3": [
        "GET /3.1/lists?count=100&page=1",
        "GET /3.1/lists?count=100&page=2",
        "GET /3.1/lists?count=100&page=3",
        "GET /3.1/domains?count=100&page=1",
        "GET /3.1/domains?count=100&page=2",
    ],
    "mailu": ["GET /api/v1/user", "GET /api/v1/alias", "GET /api/v1/domain", "GET /api/v1/relay"],
    "microsoft365": [
        "POST /example.com/oauth2/v2.0/token",
        "GET /v1.0/users?$select=id,mail,userType,proxyAddresses&$top=999",
        "GET /v1.0/users?$select=id,mail,userType,proxyAddresses&$skiptoken=RFNwdAIAAQ&$top=999",
        "GET /v1.0/users?$select=id,mail,userType,proxyAddresses&$skiptoken=RFNwdAIAAR&$top=999",
        "GET /v1.0/groups?$filter=mailEnabled eq true&$select=id,mail,proxyAddresses&$top=999",
        "GET /v1.0/contacts?$select=id,mail,proxyAddresses&$top=999",
    ],
    "modoboa": [
        "GET /api/v2/account/me/",
        "GET /api/v2/domains/?page_size=500",
        "GET /api/v2/accounts/?page_size=500",
        "GET /api/v2/accounts/?page=2&page_size=500",
        "GET /api/v2/aliases/?page_size=500",
        "GET /api/v2/domainaliases/",
    ],
    "scim": [f"GET /Users?count=100&startIndex={index}" for index in (1, 4, 6)],
    "stalwart": [
        f"POST /jmap x:{kind}/query at {position}, x:{kind}/get"
        for kind, count in (("Domain", 3), ("Account", 2), ("MailingList", 1), ("MaskedEmail", 4))
        for position in (0, count)
    ],
}
"""What is asked for, in this order; a query is sorted and not quoted."""


def told(request: Request) -> str:
    """Write a request as above."""
    query = "&".join(f"{name}={value}" for name, value in sorted(request.query.items()))
    text = f"{request.method} {request.path}{f'?{query}' if query else ''}"
    if request.path == "/jmap":
        calls = json.loads(request.body)["methodCalls"]
        text += f" {calls[0][0]} at {calls[0][1]['position']}, {calls[1][0]}"
    return text


Signature = tuple[str, str, str, str]
"""A request: method, path, query and body, as JSON that is sorted."""


def signature(method: str, path: str, query: dict[str, str], body: Any) -> Signature:  # noqa: ANN401 - JSON
    """Return what makes a request the one that it is."""
    return method, path, json.dumps(query, sort_keys=True), json.dumps(body, sort_keys=True)


def requests(recipe: Recipe) -> list[Step]:
    """Return what a recipe asks for, in order: its requirements, as steps, and its steps."""
    return [*(requirement.step for requirement in recipe.require), *recipe.steps]


def pages(step: Step, answers: Any) -> Iterator[tuple[str, list[Any]]]:  # noqa: ANN401 - JSON
    """Return the pages of a step, one list of them for each value of for_each."""
    yield from answers.items() if step.for_each else [("", answers)]


def inner(step: Step, body: Any) -> Any:  # noqa: ANN401 - JSON
    """Return the body within a body."""
    found = json_path.find_one(body, step.unwrap) if step.unwrap else json_path.ABSENT
    return body if found is json_path.ABSENT else found


def records(step: Step, body: Any) -> list[Any]:  # noqa: ANN401 - JSON
    """Return the records of a page."""
    found = list(json_path.find_all(inner(step, body), step.list))
    return found if json_path.is_plural(step.list) else found[0] if found and isinstance(found[0], list) else []


@dataclass
class System:
    """A mail system that answers as a fixture says: to the requests that its recipe ought to make, and to nobody else.

    A next-link leads to the server's own URL.
    """

    recipe: Recipe
    fixture: Fixture
    server: ScriptedHTTP
    name: str
    strangers: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.given = parameter_values(self.recipe, self.fixture.parameters)
        self.bodies: dict[Signature, Any] = {}
        for step in requests(with_parameters(self.recipe, self.given)):
            for each, bodies in pages(step, self.fixture.answers[step.name]):
                self._serve(step, {**self.given, "each": each}, bodies)
        for path in {one[1] for one in self.bodies}:
            self.server.routes[path] = self._answer
        self.server.routes |= {"/admin/login": self._log_in, "/token": self._assert, f"/{self.token_path}": self._token}

    @property
    def token_path(self) -> str:
        """Where Microsoft has its tokens."""
        return f"{self.given.get('tenant', '')}/oauth2/v2.0/token"

    def _serve(self, step: Step, given: dict[str, str], bodies: list[Any]) -> None:
        """Put the pages of a list where they are asked for."""
        path = fill_placeholders(step.path, {name: quote(value, safe="") for name, value in given.items()})
        first = {name: fill_placeholders(value, given) for name, value in step.query.items()}
        paging = step.paging or Paging(kind="page")
        number, query = paging.start, first | ({paging.param: str(paging.start)} if paging.param else {})
        if paging.kind == "token":
            query = first
        for body in bodies:
            asked = fill_placeholders(step.body, {**given, "page": number, "offset": number}) if step.body else None
            self.bodies[signature(step.method, path, query, asked)] = body
            if paging.kind in {"page", "offset"}:
                number += 1 if paging.kind == "page" else len(records(step, body))
                query = first | ({paging.param: str(number)} if paging.param else {})
            elif paging.kind == "token":
                query = {**first, paging.param: str(json_path.find_one(body, paging.path))}
            else:
                parts = urlsplit(str(json_path.find_one(body, paging.path) or ""))
                path, query = parts.path, {name: values[0] for name, values in parse_qs(parts.query).items()}

    def _answer(self, request: Request) -> Iterable[Part]:
        _, header, wanted = WHO[self.name]
        if request.headers.get(header) != wanted:
            return self._stranger(f"{request.path}: {request.headers.get(header)}")
        asked = json.loads(request.body) if request.body else None
        body = self.bodies.get(signature(request.method, request.path, request.query, asked))
        if body is None:
            return answer("not here", 404)
        return says(json.loads(json.dumps(body).replace(ORIGIN, self.server.url)))

    def _stranger(self, what: str) -> Iterable[Part]:
        self.strangers.append(what)
        return answer("who are you?", 401)

    def _log_in(self, request: Request) -> Iterable[Part]:
        """Let in by Mail-in-a-Box's way."""
        if request.method != "POST" or request.headers.get("authorization") != basic(ADMIN, PASSWORD):
            return self._stranger("login")
        return says({"status": "ok", "email": ADMIN, "privileges": ["admin"], "api_key": SESSION})

    def _token(self, request: Request) -> Iterable[Part]:
        """Answer with a token to a client (RFC 6749, 4.4)."""
        form = {name: values[0] for name, values in parse_qs(request.body.decode()).items()}
        wanted = {"client_id": ADMIN, "client_secret": PASSWORD, "scope": GRAPH_SCOPE}
        if request.method != "POST" or form != {"grant_type": "client_credentials", **wanted}:
            return self._stranger(f"token: {form}")
        return says({"token_type": "Bearer", "expires_in": 3599, "access_token": SESSION})

    def _assert(self, request: Request) -> Iterable[Part]:
        """Answer with a token to a service account (RFC 7523, 2.1)."""
        form = {name: values[0] for name, values in parse_qs(request.body.decode()).items()}
        try:
            claims = jwt.decode(
                form.get("assertion", ""),
                service_key().public_key(),
                algorithms=["RS256"],
                audience=f"{self.server.url}/token",
                issuer=SERVICE,
                options={"require": ["exp", "iat", "iss", "aud", "sub"]},
            )
        except jwt.InvalidTokenError as error:
            return self._stranger(f"assertion: {error}")
        right = claims["sub"] == ADMIN and {*claims["scope"].split()} == GOOGLE_SCOPES
        if not right or form["grant_type"] != "urn:ietf:params:oauth:grant-type:jwt-bearer":
            return self._stranger(f"claims: {claims}")
        return says({"access_token": SESSION, "expires_in": 3599, "token_type": "Bearer"})


def says(body: Any) -> Iterable[Part]:  # noqa: ANN401 - JSON
    """Answer with JSON, in one piece."""
    return [b"".join(answer(json.dumps(body), content_type="application/json"))]


def basic(username: str, password: str) -> str:
    """Write what Basic authentication sends."""
    return f"Basic {base64.b64encode(f'{username}:{password}'.encode()).decode()}"


CPANEL_TOKEN = "anna:U7HMR63FHY282DQZ4H5BIH16JLYSO01M"
WHO: dict[str, tuple[str, str, str]] = {
    "cpanel": (CPANEL_TOKEN, "authorization", f"cpanel {CPANEL_TOKEN}"),
    "google": ("", "authorization", f"Bearer {SESSION}"),
    "mail-in-a-box": (PASSWORD, "authorization", basic(ADMIN, SESSION)),
    "mailcow": (TOKEN, "x-api-key", TOKEN),
    "mailman3": (PASSWORD, "authorization", basic(ADMIN, PASSWORD)),
    "mailu": (TOKEN, "authorization", f"Bearer {TOKEN}"),
    "microsoft365": (PASSWORD, "authorization", f"Bearer {SESSION}"),
    "modoboa": (TOKEN, "authorization", f"Token {TOKEN}"),
    "scim": (TOKEN, "authorization", f"Bearer {TOKEN}"),
    "stalwart": (TOKEN, "authorization", f"Bearer {TOKEN}"),
}
"""The secret in the file, the header of a request for a list, and what it says."""


@cache
def service_key() -> rsa.RSAPrivateKey:
    """Make the key of a service account."""
    return rsa.generate_private_key(public_exponent=65537, key_size=2048)


def key_file() -> str:
    """Write the key of a service account as Google hands it out."""
    form = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    pem = service_key().private_bytes(*form).decode()
    account = {"type": "service_account", "private_key_id": "made-up", "private_key": pem, "client_email": SERVICE}
    return json.dumps(account, indent=2)


@dataclass(frozen=True)
class Network:
    """A server with a certificate, and a folder to ask it from."""

    server: ScriptedHTTP
    directory: Path
    ca_file: Path

    def asking(self, name: str, given: dict[str, str]) -> Asked:
        """Return a source with a recipe that asks it."""
        recipe = load(name)
        file = secret(self.directory, key_file() if name == "google" else WHO[name][0])
        by_password = recipe.auth.kind in {"basic", "login", "oauth2_client_credentials"}
        who = {"username": ADMIN, "password_file": file} if by_password else {"token_file": file}
        ours = {"google": {"token_url": f"{self.server.url}/token"}, "microsoft365": {"login": self.server.url}}
        given = {**given, **ours.get(name, {})}
        return Asked(self.directory, self.server.url, recipe=name, ca_file=self.ca_file, parameters=given, **who)


@pytest.fixture(scope="module")
def certified(tmp_path_factory: pytest.TempPathFactory) -> tuple[Authority, Path]:
    """An authority for all of them."""
    return Authority(), tmp_path_factory.mktemp("ca")


@pytest.fixture
def network(certified: tuple[Authority, Path], tmp_path: Path) -> Iterator[Network]:
    """A server with TLS."""
    authority, directory = certified
    with ScriptedHTTP(authority.server_context(directory, "localhost")) as server:
        yield Network(server, tmp_path, authority.ca_file(directory))


@pytest.mark.parametrize("name", NAMES)
def test_over_tls(name: str, network: Network) -> None:
    """The same addresses come over TLS, from just the requests that the system's documentation has, by who we are."""
    golden = fixture(name)
    system = System(load(name), golden, network.server, name)
    fetched = network.asking(name, golden.parameters).whole()
    assert addresses(fetched) == sorted(golden.expected or [])
    assert fetched.report.mode == name
    assert [told(request) for request in network.server.asked] == ASKED[name]
    assert system.strangers == []


@pytest.mark.parametrize("name", VARIANTS)
def test_over_tls_with_parameters(name: str, network: Network) -> None:
    """Parameters ask for more, or less, over TLS too."""
    variant = VARIANTS[name]
    golden = variant.fixture
    system = System(load(variant.recipe), golden, network.server, variant.recipe)
    assert network.asking(variant.recipe, golden.parameters).addresses() == golden.expected
    assert system.strangers == []


def test_temporary_aliases_are_asked_for_mailbox_by_mailbox(network: Network) -> None:
    """A request is made for each of mailcow's mailboxes, whose name is quoted in it."""
    variant = VARIANTS["mailcow: temporary aliases, and a resource"]
    System(load("mailcow"), variant.fixture, network.server, "mailcow")
    network.asking("mailcow", variant.fixture.parameters).whole()
    asked = [request.path for request in network.server.asked if "time_limited" in request.path]
    assert asked == [
        "/api/v1/get/time_limited_aliases/anna%40example.com",
        "/api/v1/get/time_limited_aliases/bo%40example.com",
    ]


@pytest.mark.parametrize("role", ["Resellers", "DomainAdmins", "SimpleUsers", "---"])
def test_an_account_that_sees_a_part(role: str, network: Network) -> None:
    """Modoboa shows such an account a part, and a right total of it: the requirement fails, and the last list stays."""
    golden = fixture("modoboa")
    asking = network.asking("modoboa", golden.parameters)
    System(load("modoboa"), golden, network.server, "modoboa")
    whole = asking.whole()
    part = copy.deepcopy(golden.answers)
    part["account"][0]["role"] = role
    part["mailboxes"] = [part["mailboxes"][0] | {"count": 3, "next": None}]
    System(load("modoboa"), Fixture(part), network.server, "modoboa")
    del network.server.asked[:]
    failed = asking.fetch()
    assert failed.report.error == (
        "requirement 'account': the account of the token is no super administrator, and sees only a part of all"
        " recipients: write the token of a super administrator into token_file"
    )
    assert failed.report.kind == FailureKind.BROKEN
    assert addresses(failed) == addresses(whole)
    assert [request.path for request in network.server.asked] == ["/api/v2/account/me/"]


def test_what_is_left_out() -> None:
    """An API that cannot list everything says so, and no recipient that is not listed is known to be unknown."""
    says = {name: dry_run(name, fixture(name)).answer for name in NAMES}
    assert {name for name in NAMES if says[name].leaves_out} == {"cpanel", "google", "microsoft365"}
    assert says["microsoft365"].leaves_out == (
        "dynamic distribution groups",
        "mail-enabled public folders",
        "catch-alls of accepted domains",
    )
    assert all("*" in answer.unlisted for answer in says.values() if answer.leaves_out)


@pytest.mark.parametrize("name", NAMES)
def test_a_stranger_is_refused(name: str, network: Network, monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that wants another secret refuses us: the server of these tests does look."""
    golden = fixture(name)
    system = System(load(name), golden, network.server, name)
    monkeypatch.setitem(WHO, name, (WHO[name][0], WHO[name][1], "another"))
    failed = network.asking(name, golden.parameters).fetch()
    assert failed.report.kind == FailureKind.REFUSED
    assert system.strangers


# Stalwart in pages


@dataclass
class Stalwart:
    """Stalwart's JMAP with a list of accounts, which comes in pages by position and limit."""

    accounts: list[dict[str, Any]]
    most: int = 500
    error: str = ""
    asked: list[tuple[str, int]] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def __call__(self, request: Request) -> Iterable[Part]:
        """Answer a request as registry/query.rs and registry/get.rs do."""
        wanted = json.loads(request.body)
        (query, asked, _), (get, got, _) = wanted["methodCalls"]
        assert wanted["using"] == ["urn:ietf:params:jmap:core", "urn:stalwart:jmap"]
        assert got["#ids"] == {"resultOf": "q", "name": query, "path": "/ids"}
        kind = query.removeprefix("x:").removesuffix("/query")
        assert (kind, get) in {
            ("Domain", "x:Domain/get"),
            ("Account", "x:Account/get"),
            ("MailingList", "x:MailingList/get"),
        }
        with self.lock:
            self.asked.append((kind, asked["position"]))
        domains = [
            {
                "id": "c",
                "name": "example.com",
                "aliases": {"example.net": True},
                "catchAllAddress": None,
                "allowRelaying": False,
            }
        ]
        objects = {"Domain": domains, "Account": self.accounts}.get(kind, [])
        page = objects[asked["position"] :][: min(asked["limit"], self.most)]
        total = {"total": len(objects)} if asked["calculateTotal"] else {}
        found = [{name: one[name] for name in got["properties"]} for one in page]
        ids = [one["id"] for one in page]
        answers = [
            [query, {"accountId": "b", "position": asked["position"], "ids": ids, **total}, "q"],
            [get, {"accountId": "b", "list": found, "notFound": []}, "g"],
        ]
        if self.error and (kind, asked["position"]) == ("Account", 500):
            answers[1] = ["error", {"type": self.error}, "g"]
        return says({"methodResponses": answers, "sessionState": "3e25b2a0"})


def account(number: int) -> dict[str, Any]:
    """Return an account with an alias that is enabled and one that is not."""
    aliases = {
        "0": {"enabled": True, "name": f"alias{number}", "domainId": "c", "description": None},
        "1": {"enabled": False, "name": f"old{number}", "domainId": "c", "description": None},
    }
    return {"@type": "User", "id": f"u{number}", "emailAddress": f"user{number}@example.com", "aliases": aliases}


def both(*numbers: int) -> list[str]:
    """Return the addresses of these accounts, in both domains."""
    kinds = [(kind, domain) for kind in ("user", "alias") for domain in ("example.com", "example.net")]
    return sorted(f"{kind}{number}@{domain}" for number in numbers for kind, domain in kinds)


@pytest.mark.parametrize("count", [499, 500, 501, 1000, 1203])
def test_stalwart_in_pages(count: int, network: Network) -> None:
    """However many accounts there are, all come, by position; the last page asked for is empty."""
    stalwart = Stalwart([account(number) for number in range(count)])
    network.server.routes["/jmap"] = stalwart
    assert network.asking("stalwart", {"account_id": "b"}).addresses() == both(*range(count))
    assert [position for kind, position in stalwart.asked if kind == "Account"] == [*range(0, count, 500), count]


def test_stalwart_gives_fewer_than_asked_for(network: Network) -> None:
    """A server with a lower limit is walked through in its own steps."""
    stalwart = Stalwart([account(number) for number in range(250)], most=100)
    network.server.routes["/jmap"] = stalwart
    assert network.asking("stalwart", {"account_id": "b"}).addresses() == both(*range(250))
    assert [position for kind, position in stalwart.asked if kind == "Account"] == [0, 100, 200, 250]


def test_stalwart_fails_on_a_page(network: Network) -> None:
    """An error in the place of a page's objects fails the source, though the status is 200."""
    network.server.routes["/jmap"] = Stalwart([account(number) for number in range(1203)], error="requestTooLarge")
    failed = network.asking("stalwart", {"account_id": "b"}).fetch()
    assert failed.report.state == "failing"
    assert "step 'accounts', page 2: the server reports a failure" in failed.report.error


# What breaks them: whatever is mistyped, unknown or an error is noticed, and never a shorter list


def toml(value: Any) -> str:  # noqa: ANN401 - TOML
    """Write a value as TOML."""
    if isinstance(value, dict):
        return f"{{ {', '.join(f'{json.dumps(name)} = {toml(one)}' for name, one in value.items())} }}"
    return f"[{', '.join(map(toml, value))}]" if isinstance(value, list) else json.dumps(value)


def raw(name: str) -> dict[str, Any]:
    """Read a recipe as the TOML that it is."""
    return tomllib.loads((SHIPPED / f"{name}.toml").read_text("utf-8"))


_WORD = re.compile(r'"[^"]+"|[A-Za-z0-9_]+')


def mistyped(path: str) -> Iterator[str]:
    """Return a path with a letter too many in each of its names; indices are no names, and @ is given one."""
    if path == "@":
        yield "records"
    for found in _WORD.finditer(path):
        if not found[0].isdecimal():
            end = found.end() - found[0].endswith('"')
            yield f"{path[:end]}x{path[end:]}"


Where = tuple[str | int, ...]
"""A place in nested objects and arrays."""


def texts(value: Any, at: Where = ()) -> Iterator[tuple[Where, str]]:  # noqa: ANN401 - TOML
    """Yield every text in a value, and where it is."""
    if isinstance(value, str):
        yield at, value
    several = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for name, one in several:
        yield from texts(one, (*at, name))


def put(value: Any, at: Where, new: object) -> Any:  # noqa: ANN401 - TOML
    """Return a value that is another one at a place."""
    changed = copy.deepcopy(value)
    inside = changed
    for name in at[:-1]:
        inside = inside[name]
    inside[at[-1]] = new
    return changed


def names_a_path(at: Where) -> bool:
    """True if it is a path into an answer that stands there: a list, a total, a key, a value, a look-up."""
    if at[-1] in {"list", "total", "key", "unwrap"} and len(at) == 3:
        return at[-1] != "unwrap"  # which may be absent, and often is
    return at[-1] in {"value", "each", "to", "local"} or (at[-1] == "key" and "join" in at)


def changed_recipes(name: str) -> Iterator[tuple[str, dict[str, Any], bool]]:
    """Return the recipe with one path mistyped: what was, the recipe, and whether what it leads to may be absent."""
    recipe = raw(name)
    for at, text in texts(recipe["steps"], ("steps",)):
        if names_a_path(at):
            for wrong in mistyped(text):
                yield f"{recipe['steps'][at[1]]['name']} {at[-1]} {wrong}", put(recipe, at, wrong), "?" in text
        elif at[-1] == "template":
            for inside in re.findall(r"\{([^{}]*)\}", text):
                for wrong in mistyped(inside):
                    new = text.replace(f"{{{inside}}}", f"{{{wrong}}}")
                    yield f"{recipe['steps'][at[1]]['name']} template {new}", put(recipe, at, new), False


CHANGED = [(name, *change) for name in NAMES for change in changed_recipes(name)]
FULL = {name: fixture(name) for name in NAMES} | {
    "mailcow": VARIANTS["mailcow: temporary aliases, and a resource"].fixture
}
"""For each recipe, the fixture that all of its steps and emits are for."""


@pytest.mark.parametrize(
    ("name", "recipe", "may_be_absent"),
    [pytest.param(name, recipe, absent, id=f"{name} {what}") for name, what, recipe, absent in CHANGED],
)
def test_a_path_that_is_mistyped(
    name: str,
    recipe: dict[str, Any],
    may_be_absent: bool,  # noqa: FBT001 - a parameter
    tmp_path: Path,
) -> None:
    """A list, a value or a look-up that is mistyped is an error; where it may be absent, the fixture shows it."""
    file = tmp_path / "wrong.toml"
    file.write_text("\n".join(f"{json.dumps(key)} = {toml(value)}" for key, value in recipe.items()), "utf-8")
    try:
        result = dry_run(str(file), FULL[name])
    except SourceError as error:
        assert "pages that were not requested" not in str(error), error  # noqa: PT017 - not by the fixture's end alone
        return
    assert may_be_absent
    assert not exactly(result), "nothing shows that it is wrong"
    assert not result.unexpected or name == "mailu"


def test_the_writer_of_toml(tmp_path: Path) -> None:
    """A recipe that is written unchanged is the same: what the changes break is not the writing."""
    for name in NAMES:
        file = tmp_path / "same.toml"
        file.write_text("\n".join(f"{json.dumps(key)} = {toml(value)}" for key, value in raw(name).items()), "utf-8")
        assert load(str(file)) == load(name)
        assert exactly(dry_run(str(file), FULL[name]))


def set_at(places: list[Any], path: str, new: object) -> int:
    """Set what a path leads to, wherever it does, and count how often."""
    steps = json_path.parse(path)
    for step in steps[:-1]:
        places = [found for place in places if place is not None for found in json_path._descend(place, step, path)]
    last, count = steps[-1], 0
    for place in places:
        if last.kind == "index" and isinstance(place, list) and len(place) > last.index:
            place[last.index] = new
        elif last.kind == "key" and isinstance(place, dict):
            place[last.name] = new
        else:
            continue
        count += 1
    return count


def rule_places(recipe: Recipe) -> Iterator[tuple[Step, str, Rule, bool]]:
    """Yield every rule that knows words: the step whose records it is about, where in them, whether in the body."""
    steps = {step.name: step for step in recipe.steps}
    for requirement in recipe.require:
        yield from ((requirement.step, rule.path, rule, True) for rule in (*requirement.ok, *requirement.where))
    for step in recipe.steps:
        yield from ((step, rule.path, rule, True) for rule in step.ok)
        emits: list[Emit | None] = [None, *step.emit]
        for emit in emits:
            joins = {join.name: join.step for join in (*step.join, *(emit.join if emit else ()))}
            for rule in step.where if emit is None else emit.where:
                first, _, rest = rule.path.partition(".")
                if first in joins:
                    yield steps[joins[first]], rest, rule, False
                elif first == "each" and emit is not None:
                    yield step, f"{emit.each}.{rest}" if rest else emit.each, rule, False
                else:
                    yield step, rule.path, rule, False


def worded(rule: Rule) -> bool:
    """True if a rule knows words, so that another one is unknown."""
    return isinstance(rule.one_of, tuple) or isinstance(rule.none_of, tuple) or isinstance(rule.true, bool)


def unknown_words() -> Iterator[tuple[str, str, Step, str, bool]]:
    """Yield every place of every recipe where a word is known."""
    for name in NAMES:
        given = parameter_values(
            load(name), {**FULL[name].parameters, **({"suspended": "drop"} if name == "google" else {})}
        )
        for step, path, rule, in_body in rule_places(with_parameters(load(name), given)):
            if worded(rule):
                yield name, f"{step.name} {path}", step, path, in_body


@pytest.mark.parametrize(
    ("name", "step", "path", "in_body"),
    [pytest.param(name, step, path, body, id=f"{name} {what}") for name, what, step, path, body in unknown_words()],
)
def test_a_word_that_is_unknown(
    name: str,
    step: Step,
    path: str,
    in_body: bool,  # noqa: FBT001 - a parameter
) -> None:
    """A new status is not guessed at: it fails the source, wherever there is one."""
    golden = FULL[name]
    if name == "google":
        golden = Fixture(golden.answers, golden.expected, {**golden.parameters, "suspended": "drop"})
    answers = copy.deepcopy(golden.answers)
    count = 0
    for _, bodies in pages(step, answers[step.name]):
        for body in bodies:
            count += set_at([inner(step, body)] if in_body else records(step, body), path, "surprise")
    assert count
    with pytest.raises(SourceError, match="surprise") as caught:
        dry_run(name, Fixture(answers, golden.expected, golden.parameters))
    assert caught.value.kind == FailureKind.BROKEN


ERRORS: dict[str, list[Any]] = {
    "cpanel": [
        {"data": None, "errors": ["You do not have the feature."], "messages": None, "status": 0, "warnings": None},
        {"result": {"data": None, "errors": ["No."], "messages": None, "status": 0, "warnings": None}},
        {"cpanelresult": {"error": "Access denied", "data": {"reason": "Access denied", "result": "0"}}},
        {"data": [], "status": 0},
    ],
    "google": [{"error": {"code": 403, "message": "Not Authorized", "errors": [{"reason": "forbidden"}]}}],
    "mail-in-a-box": [{"status": "invalid", "reason": "Incorrect username or password"}],
    "mailcow": [
        {"type": "error", "msg": "authentication failed"},
        {"type": "danger", "log": [], "msg": "access_denied"},
    ],
    "mailman3": [{"title": "401 Unauthorized", "description": "REST API authorization failed"}],
    "mailu": [{"code": 403, "message": "Invalid authorization header"}, {"message": "no", "errors": {}}],
    "microsoft365": [{"error": {"code": "Authorization_RequestDenied", "message": "Insufficient privileges."}}],
    "modoboa": [{"detail": "Invalid token."}],
    "scim": [{"schemas": ["urn:ietf:params:scim:api:messages:2.0:Error"], "status": "401", "detail": "no"}],
    "stalwart": [
        {"type": "urn:ietf:params:jmap:error:notRequest", "status": 400, "detail": "no"},
        {"methodResponses": [["error", {"type": "forbidden"}, "q"], ["error", {"type": "forbidden"}, "g"]]},
        {"methodResponses": [["error", {"type": "forbidden"}, "q"]], "sessionState": "3e25b2a0"},
        {"methodResponses": [], "sessionState": "3e25b2a0"},
    ],
}
"""What the systems say where they do not give a list, should it come with status 200."""
ANY: list[Any] = [
    {"error": "no"},
    {"error": {"code": 500}},
    None,
    "error",
    17,
    False,
    [None],
    [{"error": "no"}],
    ["error"],
]


def places(name: str) -> Iterator[tuple[str, str, int]]:
    """Yield every page of a recipe's fixture: step, value of for_each, number."""
    golden = FULL[name]
    for step in requests(with_parameters(load(name), parameter_values(load(name), golden.parameters))):
        for each, bodies in pages(step, golden.answers[step.name]):
            yield from ((step.name, each, number) for number in range(len(bodies)))


@pytest.mark.parametrize(
    ("name", "step", "each", "number"),
    [pytest.param(name, *place, id=" ".join(map(str, (name, *place)))) for name in NAMES for place in places(name)],
)
def test_an_error_in_the_place_of_a_page(name: str, step: str, each: str, number: int) -> None:
    """An error that comes with status 200 fails the source, on whichever page of whichever list."""
    golden = FULL[name]
    for error in [*ANY, *ERRORS[name], *([] if name == "mailcow" else [{}])]:
        answers = copy.deepcopy(golden.answers)
        bodies = answers[step][each] if each else answers[step]
        bodies[number] = error
        with pytest.raises(SourceError) as caught:
            dry_run(name, Fixture(answers, golden.expected, golden.parameters))
        kind = "requirement" if step in {requirement.name for requirement in load(name).require} else "step"
        assert f"{kind} '{step}'" in str(caught.value)
