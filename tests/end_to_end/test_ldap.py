"""From a directory to what the backup's smtpd answers: real slapd over TLS, the real command, real Postfix."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.authority import Authority
from tests.support.need import need_postfix
from tests.support.postfix import PrivatePostfix
from tests.support.run import syncagent
from tests.support.slapd import PEOPLE, SUFFIX, SYNC, SYNC_PASSWORD, Slapd, people

TAKEN, UNKNOWN = 250, 550


@pytest.fixture(scope="module")
def authority() -> Authority:
    """A CA."""
    return Authority()


@pytest.fixture
def slapd(authority: Authority) -> Iterator[Slapd]:
    """A directory of thirty people, with TLS."""
    server = Slapd(authority=authority)
    server.load(people(30))
    with server:
        yield server


@pytest.fixture
def backup() -> Iterator[PrivatePostfix]:
    """A backup MX."""
    need_postfix("lmdb")
    with PrivatePostfix(["example.com", "example.org"], map_type="lmdb") as postfix:
        yield postfix


def configure(directory: Path, map_name: str, postfix: Path, source: str) -> Path:
    """Write a configuration with one source, and the sync account's password."""
    password = directory / "password"
    password.touch(mode=0o600)
    password.write_text(SYNC_PASSWORD, "utf-8")
    file = directory / "syncagent.toml"
    file.write_text(
        f"""\
[postfix]
map = "{map_name}"
relay_domains = ["example.com", "example.org"]
config_directory = "{postfix}"

[limits]
removal_grace = "0s"

[state]
directory = "state"

[sources.corp]
type = "ldap"
{source}
""",
        "utf-8",
    )
    return file


def bound(slapd: Slapd) -> str:
    """Give the keys of a source that binds with a password over TLS."""
    return (
        f'url = "{slapd.tls_url}"\nbase = "{SUFFIX}"\nattributes = ["mail", "proxyAddresses"]\n'
        f'bind_dn = "{SYNC}"\npassword_file = "./password"\nca_file = "{slapd.directory}/ca.pem"\n'
    )


def test_what_the_directory_says_is_what_smtpd_answers(slapd: Slapd, backup: PrivatePostfix, tmp_path: Path) -> None:
    """Who is added is taken after one sync, who is deleted is refused after one more, and the rest is taken always."""
    config = configure(tmp_path, backup.relay_recipient_maps or "", backup.config_directory, bound(slapd))
    syncagent("sync", config=config, check=0)
    backup.reload()  # an smtpd that once found no map goes on without it
    assert backup.verdict("u0000007@example.com").code == TAKEN
    assert backup.verdict("neu@example.com").code == UNKNOWN
    slapd.add(f"uid=neu,{PEOPLE}", uid="neu", mail="Neu@Example.com", proxyAddresses="smtp:neu.anders@example.org")
    done = syncagent("sync", "--json", config=config, check=0)
    assert json.loads(done.stdout)["sources"][0]["mode"] == "sync"
    assert backup.verdict("neu@example.com").code == TAKEN
    assert backup.verdict("neu.anders@example.org").code == TAKEN
    slapd.delete(f"uid=neu,{PEOPLE}")
    slapd.modify(f"uid=u0000007,{PEOPLE}", mail=[], proxyAddresses=[])
    syncagent("sync", config=config, check=0)
    for gone in ("neu@example.com", "neu.anders@example.org", "u0000007@example.com"):
        assert backup.verdict(gone).code == UNKNOWN, gone
    assert backup.verdict("u0000008@example.com").code == TAKEN
    assert json.loads(syncagent("sync", "--json", config=config, check=0).stdout)["status"] == "unchanged"
    slapd.kill()
    done = syncagent("sync", config=config, check=75)
    assert slapd.tls_url in done.stderr
    assert backup.verdict("u0000008@example.com").code == TAKEN


def test_plan_asks_and_keeps_nothing(slapd: Slapd, tmp_path: Path) -> None:
    """A plan shows what the changes come to, saves no cookie, and can be asked again."""
    config = configure(tmp_path, f"texthash:{tmp_path}/map", tmp_path, f"{bound(slapd)}")
    config.write_text(config.read_text("utf-8").replace("[limits]", "reload = false\n[limits]"), "utf-8")
    syncagent("sync", config=config, check=0)
    slapd.delete(f"uid=u0000001,{PEOPLE}")
    for _ in range(2):
        plan = json.loads(syncagent("plan", "--json", config=config, check=0).stdout)
        assert sorted(plan["plan"]["removed_sample"]) == ["u0000001@example.com", "u0000001@example.org"]
        assert plan["sources"][0]["mode"] == "sync"
        assert plan["sources"][0]["notes"] == ["entries changed: 1"]
    done = syncagent("check", config=config, check=0)
    assert "whole (sync)" in done.stdout
    result = json.loads(syncagent("sync", "--json", config=config, check=0).stdout)
    assert sorted(result["plan"]["removed_sample"]) == ["u0000001@example.com", "u0000001@example.org"]


IDENTITIES = {
    "password over ldaps": f'bind_dn = "{SYNC}"\npassword_file = "./password"',
    "password over StartTLS": f'url = "{{starttls}}"\nbind_dn = "{SYNC}"\npassword_file = "./password"',
    "client certificate": 'client_cert_file = "{client}"\nclient_key_file = "{key}"',
    "client certificate over StartTLS": 'url = "{starttls}"\nclient_cert_file = "{client}"\nclient_key_file = "{key}"',
    "anonymous": 'url = "{starttls}"',
}


@pytest.mark.parametrize("identity", IDENTITIES)
def test_who_we_are(identity: str, slapd: Slapd, authority: Authority, tmp_path: Path) -> None:
    """Each way to bind is that account to the server, and no other; what is said is encrypted in all of them."""
    who = "anonymous" if identity == "anonymous" else f'dn.exact="{SYNC}"'
    slapd.restart(config=f"access to * by {who} read by anonymous auth by * none")
    client, key = authority.client(tmp_path, "syncagent")
    keys = IDENTITIES[identity].format(starttls=slapd.starttls_url, client=client, key=key)
    url = "" if "url" in keys else f'url = "{slapd.tls_url}"\n'
    common = f'base = "{SUFFIX}"\nattributes = ["mail"]\nca_file = "{slapd.directory}/ca.pem"\n'
    config = configure(tmp_path, f"texthash:{tmp_path}/map", tmp_path, url + common + keys)
    config.write_text(config.read_text("utf-8").replace("[limits]", "reload = false\n[limits]"), "utf-8")
    done = syncagent("check", config=config, check=0)
    assert "30" in done.stdout
    assert slapd.log.count("TLS established") > 0
    slapd.restart(config='access to * by dn.exact="cn=other,dc=example,dc=com" read by anonymous auth by * none')
    assert syncagent("check", config=config).returncode == 1


def test_a_client_certificate_that_others_can_read(slapd: Slapd, authority: Authority, tmp_path: Path) -> None:
    """A client's key that lies open to others is refused, and named."""
    client, key = authority.client(tmp_path, "syncagent")
    key.chmod(0o644)
    keys = (
        f'url = "{slapd.tls_url}"\nbase = "{SUFFIX}"\nca_file = "{slapd.directory}/ca.pem"\n'
        f'client_cert_file = "{client}"\nclient_key_file = "{key}"\n'
    )
    config = configure(tmp_path, f"lmdb:{tmp_path}/map", tmp_path, keys)
    done = syncagent("check", config=config, check=1)
    assert f"chmod 600 {key}" in done.stderr
