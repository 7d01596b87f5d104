"""What contrib/docs/sources-ldap.md tells an administrator of OpenLDAP to type gives a server in sync mode."""

import subprocess
import time
from pathlib import Path

import pytest

from tests.sources.ldap import Asked
from tests.support.need import need_program, need_root
from tests.support.pages import block, blocks
from tests.support.programs import PATIENCE
from tests.support.slapd import PEOPLE, Slapd, need_slapd, people

PAGE = "contrib/docs/sources-ldap.md"


def test_slapd_conf(tmp_path: Path) -> None:
    """The lines for slapd.conf give the account its rights, without a limit, and the overlay."""
    lines = "access to * by anonymous auth by * none\n"
    lines = block("slapd.conf", "access to", of=PAGE).replace("overlay", f"{lines}overlay", 1)  # its rules alone count
    lines = lines.replace("index entryUUID,entryCSN eq\n", "")  # which our slapd has already
    server = Slapd(syncprov=False, config=lines)
    server.load(people(700))  # more than slapd gives by default
    with server:
        asked = Asked(tmp_path, server.url, base=PEOPLE, mode="sync", preset="openldap", attributes=())
        assert len(asked.entries()) == 700
        server.delete(f"uid=u0000007,{PEOPLE}")
        assert len(asked.entries()) == 699


def test_cn_config(tmp_path: Path) -> None:
    """The LDIF is taken by a slapd that is configured by cn=config, where it makes the same settings."""
    need_root()  # for whom slapd takes its local administrator
    slapd = need_slapd()
    (tmp_path / "data").mkdir()
    (tmp_path / "config").mkdir()
    conf, socket = tmp_path / "slapd.conf", str(tmp_path / "s").replace("/", "%2F")
    conf.write_text(
        "include /etc/ldap/schema/core.schema\ninclude /etc/ldap/schema/cosine.schema\n"
        "modulepath /usr/lib/ldap\nmoduleload back_mdb\ndatabase config\n"
        "access to * by dn.exact=gidNumber=0+uidNumber=0,cn=peercred,cn=external,cn=auth manage by * break\n"
        f'database mdb\nsuffix "dc=example,dc=com"\nrootdn "cn=admin,dc=example,dc=com"\ndirectory {tmp_path}/data\n',
        "utf-8",
    )
    tree = "dn: dc=example,dc=com\nobjectClass: domain\ndc: example\n"
    subprocess.run([need_program("slapadd"), "-f", conf], input=tree, text=True, check=True, capture_output=True)
    convert = [need_program("slaptest"), "-f", str(conf), "-F", f"{tmp_path}/config"]
    subprocess.run(convert, check=True, capture_output=True)
    server = subprocess.Popen([slapd, "-d", "0", "-F", tmp_path / "config", "-h", f"ldapi://{socket}"])
    try:
        ldif = block("ldif", "dn: cn=module", of=PAGE)
        command = [need_program("ldapmodify"), "-Y", "EXTERNAL", "-H", f"ldapi://{socket}"]
        for _ in range(50):
            done = subprocess.run(command, input=ldif, text=True, check=False, capture_output=True)
            if "Can't contact" not in done.stderr:
                break
            time.sleep(0.1)
        assert done.returncode == 0, done.stderr
    finally:
        server.terminate()
        server.wait(PATIENCE)
    written = "".join(file.read_text("utf-8") for file in (tmp_path / "config").rglob("*.ldif"))
    for setting in (
        "olcSpSessionlog: 10000",
        "olcSpCheckpoint: 1 1",
        "size=unlimited",
        "read by * break",
        "olcDbIndex: entryUUID,entryCSN eq",
    ):
        assert setting in written.replace("\n ", "")


@pytest.mark.parametrize("preset", ["openldap", "active-directory", "freeipa", "zimbra"])
def test_each_preset_has_its_chapter(preset: str) -> None:
    """Every preset is shown in a configuration of its own."""
    assert any(f'\npreset = "{preset}"' in shown.text for shown in blocks("toml", of=PAGE))
