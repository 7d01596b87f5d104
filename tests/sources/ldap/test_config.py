"""The configuration of the LDAP source: each mistake is named with its key, and what is asked for is what it says."""

import tomllib
from pathlib import Path
from typing import Any

import pytest

from syncagent.config.load import load
from syncagent.errors import ConfigError, FailureKind
from syncagent.sources.ldap import Config, problems
from syncagent.sources.ldap.presets import PRESETS, Preset, resolve
from syncagent.values.types import Duration, SecretFile, Urls
from tests.sources.ldap import Asked
from tests.support.authority import Authority
from tests.support.pages import blocks
from tests.support.scripted_ldap import ScriptedLDAP
from tests.support.slapd import SUFFIX

HEAD = """\
[postfix]
map = "lmdb:/var/lib/syncagent/relay_recipients"
relay_domains = ["example.com"]

[sources.corp]
type = "ldap"
"""
GOOD = 'url = "ldaps://ldap.example.com"\nbase = "dc=example,dc=com"\n'
SECRET = "sekrit-4711"


def given(**keys: Any) -> Config:  # noqa: ANN401 - any key of it
    """Return a configuration that is valid except for these keys."""
    return Config(**{"url": Urls(["ldaps://ldap.example.com"]), "base": SUFFIX, **keys})


def loaded(text: str, directory: Path) -> Config:
    """Load a file with one source and return the source's own configuration."""
    file = directory / "syncagent.toml"
    file.write_text(HEAD + text, encoding="utf-8")
    own = load(file).sources["corp"].own
    assert isinstance(own, Config)
    return own


def told(text: str, directory: Path) -> list[str]:
    """Return the problems of a file with one source as LINE: KEY: TEXT; the source's keys begin in line 1."""
    with pytest.raises(ConfigError) as caught:
        loaded(text, directory)
    lines = HEAD.count("\n")
    return [
        f"{(problem.line or 0) - lines}: {problem.key.removeprefix('sources.corp.')}: {problem.text}"
        for problem in caught.value.problems
    ]


# What no single key can show

RIGHT: dict[str, dict[str, Any]] = {
    "the least": {},
    "anonymous": {"url": Urls(["ldap://ldap.example.com"])},
    "a password": {"bind_dn": "cn=x", "password_file": SecretFile("corp")},
    "a certificate": {"client_cert_file": Path("c.pem")},
    "a certificate and its key": {"client_cert_file": Path("c.pem"), "client_key_file": SecretFile("c.key")},
    "a certificate and a password": {
        "client_cert_file": Path("c.pem"),
        "bind_dn": "cn=x",
        "password_file": SecretFile("corp"),
    },
    "several servers": {"url": Urls(["ldaps://a.example.com:3269", "ldap://[2001:db8::1]:389/", "ldaps://192.0.2.1"])},
    "no base": {"base": ""},
    "a filter": {"filter": r"(&(mail=*)(|(cn=a\28b\29)(!(sn=x))))"},
    "attributes": {"attributes": ("mail", "x-mail2", "1.2.840.113556.1.2.210")},
    "disabled ones": {"preset": "active-directory", "exclude_disabled": True},
    "small pages": {"page_size": 1},
    "large pages": {"page_size": 100_000},
}


@pytest.mark.parametrize("what", RIGHT)
def test_what_is_right(what: str) -> None:
    """What can be asked has no problem."""
    assert list(problems(given(**RIGHT[what]))) == []


MISTAKES: dict[str, tuple[dict[str, Any], str, str]] = {
    "another scheme": ({"url": Urls(["http://ldap.example.com"])}, "url", 'ldaps://HOST or ldap://HOST, not "http://'),
    "no scheme": ({"url": Urls(["ldap.example.com"])}, "url", 'ldaps://HOST or ldap://HOST, not "ldap.example.com"'),
    "a socket": ({"url": Urls(["ldapi:///"])}, "url", "expected ldaps://HOST or ldap://HOST"),
    "no host": ({"url": Urls(["ldaps://"])}, "url", "expected ldaps://HOST or ldap://HOST"),
    "no host but a port": ({"url": Urls(["ldaps://:636"])}, "url", "expected ldaps://HOST or ldap://HOST"),
    "a port that is none": ({"url": Urls(["ldaps://ldap.example.com:x"])}, "url", "ldap.example.com"),
    "a port too high": ({"url": Urls(["ldaps://ldap.example.com:65536"])}, "url", "invalid host or port"),
    "port 0": ({"url": Urls(["ldaps://ldap.example.com:0"])}, "url", "port 0"),
    "a bracket": ({"url": Urls(["ldaps://[2001:db8::1"])}, "url", "invalid host or port"),
    "a user": ({"url": Urls(["ldaps://cn@ldap.example.com"])}, "url", "see bind_dn and password_file"),
    "a base in it": ({"url": Urls(["ldaps://ldap.example.com/dc=example"])}, "url", "see base, scope, filter"),
    "a query in it": ({"url": Urls(["ldaps://ldap.example.com?mail"])}, "url", "see base, scope, filter"),
    "the second": ({"url": Urls(["ldaps://a.example.com", "b.example.com"])}, "url", '"b.example.com"'),
    "no password": ({"bind_dn": "cn=x"}, "password_file", "the password of bind_dn"),
    "nobody's password": (
        {"password_file": SecretFile("corp")},
        "bind_dn",
        "the account whose password is in",
    ),
    "nobody's key": ({"client_key_file": SecretFile("k")}, "client_cert_file", "the certificate of client_key_file"),
    "a certificate without TLS": (
        {"url": Urls(["ldap://ldap.example.com"]), "client_cert_file": Path("c.pem"), "insecure": True},
        "client_cert_file",
        "requires TLS: remove insecure",
    ),
    "a space in an attribute": (
        {"attributes": ("mail ",)},
        "attributes",
        "expected the name of an attribute such as \"mail\", got 'mail '",
    ),
    "an option": ({"attributes": ("mail;lang-de",)}, "attributes", "got 'mail;lang-de'"),
    "a star": ({"attributes": ("*",)}, "attributes", "got '*'"),
    "an empty attribute": ({"attributes": ("",)}, "attributes", "got ''"),
    "a domain attribute": ({"domain_attribute": "a b"}, "domain_attribute", "got 'a b'"),
    "no parentheses": (
        {"filter": "mail=*"},
        "filter",
        "expected a filter in parentheses such as \"(mail=*)\", got 'mail=*'",
    ),
    "one too few": ({"filter": "(&(mail=*)"}, "filter", "expected a filter in parentheses"),
    "one too many": ({"filter": "(mail=*))"}, "filter", "expected a filter in parentheses"),
    "a bad escape": ({"filter": r"(cn=\zz)"}, "filter", "two hexadecimal digits"),
    "two filters": ({"filter": "(mail=*)(cn=*)"}, "filter", "expected a filter in parentheses"),
    "disabled, elsewhere": ({"exclude_disabled": True}, "exclude_disabled", 'requires preset = "active-directory"'),
    "disabled, of another product": (
        {"preset": "freeipa", "exclude_disabled": True},
        "exclude_disabled",
        "for other products exclude them by filter",
    ),
    "pages of nothing": ({"page_size": 0}, "page_size", "expected 1 to 100000, got 0"),
    "pages of less": ({"page_size": -1}, "page_size", "expected 1 to 100000, got -1"),
    "pages too large": ({"page_size": 100_001}, "page_size", "expected 1 to 100000, got 100001"),
    "no time to connect": ({"connect_timeout": Duration(0)}, "connect_timeout", "expected a time greater than zero"),
    "no time to read": ({"read_timeout": Duration(0)}, "read_timeout", "expected a time greater than zero"),
}


@pytest.mark.parametrize("what", MISTAKES)
def test_a_mistake(what: str) -> None:
    """Each mistake is one problem that names the key and says what is wrong."""
    keys, key, says = MISTAKES[what]
    ((named, text),) = problems(given(**keys))
    assert (named, says in text) == (key, True), text


def test_all_mistakes_at_once() -> None:
    """One mistake does not hide the next."""
    found = problems(
        given(
            url=Urls(["http://a.example.com", "ldaps://b.example.com/x", "ldaps://c.example.com"]),
            bind_dn="cn=x",
            client_key_file=SecretFile("k"),
            attributes=("mail", "a b", "c d"),
            filter="x",
            exclude_disabled=True,
            page_size=0,
            connect_timeout=Duration(0),
            read_timeout=Duration(0),
        )
    )
    assert [key for key, _ in found] == [
        "url",
        "url",
        "password_file",
        "client_cert_file",
        "connect_timeout",
        "read_timeout",
        "attributes",
        "attributes",
        "filter",
        "exclude_disabled",
        "page_size",
    ]


# From a file


def test_a_file_that_is_right(tmp_path: Path) -> None:
    """What stands in the file is what the source is given; paths are relative to the file, bare secrets are not."""
    own = loaded(
        """\
url = "ldap://ldap.example.com"
base = "dc=example,dc=com"
preset = "freeipa"
scope = "one"
bind_dn = "cn=x"
password_file = "corp"
ca_file = "ca.pem"
client_cert_file = "/etc/c.pem"
client_key_file = "./c.key"
mode = "poll"
full_interval = "1h30m"
page_size = 500
ignore_references = true
connect_timeout = "2s"
read_timeout = "1m"
""",
        tmp_path,
    )
    assert own == Config(
        url=Urls(["ldap://ldap.example.com"]),
        base="dc=example,dc=com",
        preset="freeipa",
        scope="one",
        bind_dn="cn=x",
        password_file=SecretFile("corp"),
        ca_file=tmp_path / "ca.pem",
        client_cert_file=SecretFile("/etc/c.pem"),
        client_key_file=SecretFile(str(tmp_path / "c.key")),
        mode="poll",
        full_interval=Duration(5400),
        page_size=500,
        ignore_references=True,
        connect_timeout=Duration(2),
        read_timeout=Duration(60),
    )
    assert not own.insecure


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ('base = ""\n', "-1: url: required key is missing: the servers"),
        ('url = "ldaps://a.example.com"\n', "-1: base: required key is missing: the DN to search"),
        (GOOD + 'bse = "x"\n', '3: bse: unknown key, did you mean "base"?'),
        (GOOD + 'password = "x"\n', "3: password: unknown key"),
        ("url = 5\n" + GOOD.partition("\n")[2], "1: url: expected a URL such as"),
        ("url = []\n" + GOOD.partition("\n")[2], "1: url: expected a URL such as"),
        ('url = ""\n' + GOOD.partition("\n")[2], "1: url: expected a URL such as"),
        (GOOD + 'preset = "activedirectory"\n', "3: preset: "),
        (GOOD + 'scope = "tree"\n', "3: scope: "),
        (GOOD + 'mode = "push"\n', "3: mode: "),
        (GOOD + 'attributes = "mail"\n', '3: attributes: expected an array, got "mail": write ["mail"]'),
        (GOOD + 'page_size = "many"\n', '3: page_size: expected a whole number such as 1000, got "many"'),
        (GOOD + 'insecure = "yes"\n', '3: insecure: expected true or false, got "yes": write true'),
        (GOOD + "read_timeout = 30\n", '3: read_timeout: expected a time such as "90s"'),
        (GOOD + 'password_file = ""\n', "3: password_file: expected a path"),
        (GOOD + 'ca_file = ["ca.pem"]\n', "3: ca_file: expected a path"),
        (
            GOOD + 'bind_dn = "cn=x"\n',
            "-1: password_file: required key is missing: the file with the password",
        ),
        (GOOD + "\n# how much\npage_size = 0\n", "5: page_size: expected 1 to 100000, got 0"),
        ('url = ["ldaps://a.example.com", "b"]\nbase = ""\n', '1: url: expected ldaps://HOST or ldap://HOST, not "b"'),
    ],
)
def test_a_mistake_in_a_file(text: str, says: str, tmp_path: Path) -> None:
    """Each mistake in a file is one problem with the line of its key, or of the source's table where it is missing."""
    (problem,) = told(text, tmp_path)
    assert problem.startswith(says), problem


def test_all_mistakes_in_a_file_at_once(tmp_path: Path) -> None:
    """All that is wrong with a source is told in one go, in the order of the lines."""
    text = 'url = "ftp://x"\nbase = ""\npage_size = 0\nfilter = "x"\nconnect_timeout = "0s"\n'
    assert [problem.split(": ")[:2] for problem in told(text, tmp_path)] == [
        ["1", "url"],
        ["3", "page_size"],
        ["4", "filter"],
        ["5", "connect_timeout"],
    ]


# Passwords in URLs

WITH_PASSWORDS = {
    "as URLs have them": f"ldaps://admin:{SECRET}@ldap.example.com",
    "another scheme": f"http://admin:{SECRET}@ldap.example.com",
    "no scheme": f"admin:{SECRET}@ldap.example.com",
    "no host": f"ldaps://admin:{SECRET}@",
    "a port too high": f"ldaps://admin:{SECRET}@ldap.example.com:99999",
    "a bracket": f"ldaps://admin:{SECRET}@[2001:db8::1",
    "a slash in it": f"ldaps://admin:a/{SECRET}@ldap.example.com",
    "a slash in it, after digits": f"ldaps://admin:12/{SECRET}@ldap.example.com",
    "a question mark in it": f"ldaps://admin:12?{SECRET}@ldap.example.com",
    "a hash in it": f"ldaps://admin:12#{SECRET}@ldap.example.com",
    "an at sign in it": f"ldaps://admin:@{SECRET}@ldap.example.com",
}


@pytest.mark.parametrize("how", WITH_PASSWORDS)
def test_a_password_in_a_url_is_not_shown(how: str, tmp_path: Path) -> None:
    """Whoever puts a password into a URL is told not to, and the text does not repeat it, whatever else is wrong."""
    url = WITH_PASSWORDS[how]
    (problem,) = told(f"url = '{url}'\nbase = ''\n", tmp_path)
    assert problem.startswith("1: url: ")
    assert SECRET not in problem


@pytest.mark.parametrize("other", ['""', "5"])
def test_a_password_in_one_of_several_urls_is_not_shown(other: str, tmp_path: Path) -> None:
    """Nor is it repeated where another value of the array is what is wrong."""
    (problem,) = told(f'url = ["ldaps://admin:{SECRET}@ldap.example.com", {other}]\nbase = ""\n', tmp_path)
    assert SECRET not in problem


# What is asked for

ENABLED = "(|(!(userAccountControl=*))(!(userAccountControl:1.2.840.113556.1.4.803:=2)))"
WANTED: dict[str, tuple[dict[str, Any], str, tuple[str, ...], str]] = {
    "nothing said": ({}, "(mail=*)", ("mail",), "entryUUID"),
    "an attribute": ({"attributes": ("rfc822Mailbox",)}, "(rfc822Mailbox=*)", ("rfc822Mailbox",), "entryUUID"),
    "two attributes": ({"attributes": ("mail", "x")}, "(|(mail=*)(x=*))", ("mail", "x"), "entryUUID"),
    "a filter": ({"filter": "(cn=*)"}, "(cn=*)", ("mail",), "entryUUID"),
    "both": ({"filter": "(cn=*)", "attributes": ("x",)}, "(cn=*)", ("x",), "entryUUID"),
    "openldap": ({"preset": "openldap"}, "(mail=*)", ("mail",), "entryUUID"),
    "active-directory": (
        {"preset": "active-directory"},
        "(|(proxyAddresses=*)(mail=*))",
        ("proxyAddresses", "mail"),
        "objectGUID",
    ),
    "active-directory, enabled ones": (
        {"preset": "active-directory", "exclude_disabled": True},
        f"(&(|(proxyAddresses=*)(mail=*)){ENABLED})",
        ("proxyAddresses", "mail"),
        "objectGUID",
    ),
    "active-directory, enabled ones by a filter": (
        {"preset": "active-directory", "exclude_disabled": True, "filter": "(mail=*)"},
        f"(&(mail=*){ENABLED})",
        ("proxyAddresses", "mail"),
        "objectGUID",
    ),
    "active-directory, enabled ones by an attribute": (
        {"preset": "active-directory", "exclude_disabled": True, "attributes": ("mail",)},
        f"(&(mail=*){ENABLED})",
        ("mail",),
        "objectGUID",
    ),
    "freeipa": (
        {"preset": "freeipa"},
        "(|(mail=*)(mailAlternateAddress=*))",
        ("mail", "mailAlternateAddress"),
        "ipaUniqueID",
    ),
    "freeipa, an attribute": ({"preset": "freeipa", "attributes": ("mail",)}, "(mail=*)", ("mail",), "ipaUniqueID"),
    "zimbra": (
        {"preset": "zimbra"},
        PRESETS["zimbra"].filter,
        (
            "mail",
            "zimbraMailDeliveryAddress",
            "zimbraMailAlias",
            "zimbraOldMailAddress",
            "zimbraMailCatchAllAddress",
        ),
        "entryUUID",
    ),
    "zimbra, a filter": (
        {"preset": "zimbra", "filter": "(zimbraId=*)", "attributes": ("mail",)},
        "(zimbraId=*)",
        ("mail",),
        "entryUUID",
    ),
}


@pytest.mark.parametrize("what", WANTED)
def test_what_is_asked_for(what: str) -> None:
    """A preset says what to ask for, and what the configuration says itself counts before it."""
    keys, text, attributes, key = WANTED[what]
    own = given(**keys)
    assert list(problems(own)) == []
    found = resolve(own)
    assert (found.filter, found.attributes, found.key) == (text, attributes, key)
    assert list(problems(given(filter=found.filter, attributes=found.attributes))) == []


@pytest.mark.parametrize("what", WANTED)
def test_it_is_what_the_server_is_asked(what: str, tmp_path: Path) -> None:
    """The server is asked for these attributes and the key, and takes the filter for one."""
    keys, _, attributes, key = WANTED[what]
    name = attributes[0]
    with ScriptedLDAP([(f"cn=a,{SUFFIX}", {name: ["a@example.com"]})], password=None) as server:
        assert Asked(tmp_path, server.url, **{"attributes": (), "mode": "poll", **keys}).whole().report.entries == 1
        (search,) = (request for request in server.requests if request.page_size)
        assert search.attributes == (*attributes, key)
        assert search.base == SUFFIX


def examples() -> list[tuple[str, str]]:
    """Return the documentation's examples of this source, and the preset that each is of."""
    shown = blocks("toml", of="contrib/docs/sources-ldap.md")
    return [(tomllib.loads(one.text)["sources"]["corp"]["preset"], one.text) for one in shown]


def test_there_is_an_example_of_each_preset() -> None:
    """No preset is without an example, and none is there twice."""
    assert sorted(preset for preset, _ in examples()) == sorted(PRESETS)


@pytest.mark.parametrize(("preset", "block"), examples(), ids=[preset for preset, _ in examples()])
def test_the_examples(preset: str, block: str, tmp_path: Path) -> None:
    """The examples are right as they stand, verify TLS, and ask for what the preset says."""
    file = tmp_path / "syncagent.toml"
    file.write_text(HEAD.partition("[sources")[0] + block, encoding="utf-8")
    own = load(file).sources["corp"].own
    assert own.preset == preset
    assert not own.insecure
    assert resolve(own) == PRESETS[preset]
    assert isinstance(resolve(own), Preset)


# Secrets


def test_a_client_key_that_others_can_read(tmp_path: Path) -> None:
    """A client key that lies open is refused before anybody is asked, be it in a file of its own or not."""
    authority = Authority()
    certificate, key = authority.client(tmp_path, "syncagent")
    both = tmp_path / "both.pem"
    both.touch(mode=0o644)
    both.write_bytes(certificate.read_bytes() + key.read_bytes())
    with ScriptedLDAP([], tls=authority.server_context(tmp_path, "localhost")) as server:
        ca_file = authority.ca_file(tmp_path)
        own: dict[str, Any] = {"ca_file": ca_file, "bind_dn": "", "password_file": None}
        key.chmod(0o644)
        asked = Asked(tmp_path, server.url, client_cert_file=certificate, client_key_file=SecretFile(key), **own)
        report = asked.fetch().report
        assert (report.kind, f"chmod 600 {key}" in report.error) == (FailureKind.BROKEN, True), report.error
        asked.configure(server.url, client_cert_file=both, **own)
        report = asked.fetch().report
        assert (report.kind, f"chmod 600 {both}" in report.error) == (FailureKind.BROKEN, True), report.error
        assert server.connections == 0
        key.chmod(0o600)
        asked.configure(server.url, client_cert_file=certificate, client_key_file=SecretFile(key), **own)
        asked.fetch()
        assert server.connections == 1
