"""A real Samba Active Directory domain controller of the test's own, on a loopback address, with LDAP alone."""

import os
import secrets
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path

from tests.support.need import need, need_program, need_root
from tests.support.programs import PATIENCE, ProgramError, wait_until
from tests.support.service import Service

SUFFIX = "DC=example,DC=com"
PEOPLE = f"OU=people,{SUFFIX}"
USER, PASSWORD = "syncagent", "Passw0rd.sync"
ACCOUNT = f"CN={USER},CN=Users,{SUFFIX}"

_PARTS = (Path("/usr/share/samba/setup/provision.ldif"), Path("/usr/lib/x86_64-linux-gnu/samba/vfs/acl_xattr.so"))
_ADDRESSES = {"mail": "bf967961-0de6-11d0-a285-00aa003049e2", "proxyAddresses": "bf967a06-0de6-11d0-a285-00aa003049e2"}
"""schemaIDGUID of the attributes that have addresses ([MS-ADA2], [MS-ADA3])."""
_OTHERS = "(A;CI;RPLCLORC;;;AU)(A;CI;GA;;;DA)(A;CI;GA;;;SY)"


def need_samba() -> None:
    """Make sure that a domain controller can be provisioned and started: its ports are for root."""
    need_root()
    for program in ("samba", "samba-tool", "ldbadd", "ldbmodify", "ldbsearch"):
        need_program(program)
    need("the part of Samba for domain controllers", all(_found(part) for part in _PARTS))


def _found(part: Path) -> bool:
    return part.exists() or any(Path("/usr/lib").glob(f"*/samba/vfs/{part.name}"))


def unit(dn: str) -> str:
    """Return LDIF for an organizational unit."""
    return f"dn: {dn}\nobjectClass: organizationalUnit\n"


def contact(name: str, container: str, domain: str = "example.com") -> str:
    """Return LDIF for a contact with one address, in both attributes."""
    address = f"{name}@{domain}"
    return f"dn: CN={name},{container}\nobjectClass: contact\nmail: {address}\nproxyAddresses: SMTP:{address}\n"


class Samba(Service):
    """A domain controller for example.com, provisioned anew, gone after a `with` block. It has the account `ACCOUNT`.

    What a test writes goes into its database, past LDAP. It listens on an address of its own in 127.0.0.0/8, since its
    ports cannot be chosen.
    """

    def __init__(self) -> None:
        need_samba()
        self.directory = Path(tempfile.mkdtemp(prefix="samba-"))
        self.address = ".".join(["127", *(str(1 + secrets.randbelow(250)) for _ in range(3))])
        self._process: subprocess.Popen[bytes] | None = None
        try:
            self._provision()
        except BaseException:
            self.close()
            raise

    @property
    def url(self) -> str:
        """Where it answers without TLS."""
        return f"ldap://{self.address}"

    @property
    def sid(self) -> str:
        """The account's security identifier."""
        printed = self._run("ldbsearch", "-H", self._database, f"(sAMAccountName={USER})", "objectSid")
        return next(line.partition(": ")[2] for line in printed.splitlines() if line.startswith("objectSid: "))

    def start(self) -> None:
        """Start it, and wait until it answers."""
        with (self.directory / "out").open("ab") as out:
            self._process = process = subprocess.Popen(
                [
                    need_program("samba"),
                    "--interactive",
                    "--model=single",
                    "--debug-stdout",
                    f"--configfile={self._config}",
                    f"--option=pid directory={self.directory}",
                    "--option=ldap server require strong auth = no",
                ],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                cwd=self.directory,
            )
        if (
            not wait_until(lambda: process.poll() is not None or self._answers(), PATIENCE)
            or process.poll() is not None
        ):
            raise ProgramError(f"samba does not start\n{(self.directory / 'out').read_text('utf-8', 'replace')}")

    def close(self) -> None:
        """End it, and remove its folder."""
        process, self._process = self._process, None
        if process is not None:
            process.terminate()
            try:
                process.wait(PATIENCE)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        shutil.rmtree(self.directory, ignore_errors=True)

    def add(self, entries: Iterable[str]) -> None:
        """Add entries, each as LDIF."""
        self._ldif("ldbadd", entries)

    def delete(self, dn: str) -> None:
        """Delete an entry."""
        self._ldif("ldbmodify", [f"dn: {dn}\nchangetype: delete\n"])

    def hide(self, unit_dn: str) -> None:
        """Hide all that is below a unit from the account."""
        self._protect([unit_dn], f"D:(D;CI;RPLC;;;{self.sid}){_OTHERS}")

    def hide_addresses(self, dns: Sequence[str]) -> None:
        """Hide the addresses of entries from the account, from a search by them too."""
        denied = "".join(f"(OD;;RP;{attribute};;{self.sid})" for attribute in _ADDRESSES.values())
        self._protect(dns, f"D:{denied}{_OTHERS}")

    def show(self, dns: Sequence[str]) -> None:
        """Show entries to all accounts."""
        self._protect(dns, f"D:{_OTHERS}")

    def _protect(self, dns: Sequence[str], descriptor: str) -> None:
        """Replace the security descriptors of entries."""
        change = f"changetype: modify\nreplace: nTSecurityDescriptor\nnTSecurityDescriptor: {descriptor}\n-\n"
        self._ldif("ldbmodify", [f"dn: {dn}\n{change}" for dn in dns])

    @property
    def _database(self) -> str:
        return str(self.directory / "private" / "sam.ldb")

    @property
    def _config(self) -> str:
        return str(self.directory / "etc" / "smb.conf")

    def _provision(self) -> None:
        """Make the domain, with only the LDAP service, and the account."""
        self._run(
            "samba-tool",
            *("domain", "provision", "--realm=EXAMPLE.COM", "--domain=EXAMPLE", "--adminpass=Passw0rd.admin"),
            *("--server-role=dc", "--dns-backend=NONE", f"--targetdir={self.directory}"),
            *("--host-name=dc1", f"--host-ip={self.address}", "--option=server services=ldap"),
            *("--option=bind interfaces only=yes", f"--option=interfaces={self.address}/8"),
            f"--option=log file={self.directory}/log",
        )
        self._run("samba-tool", "user", "create", USER, PASSWORD, "-H", self._database, "-s", self._config)

    def _ldif(self, program: str, entries: Iterable[str]) -> None:
        """Run a program that reads LDIF."""
        file = self.directory / "entries.ldif"
        file.write_text("\n".join(entries), "utf-8")
        self._run(program, "-H", self._database, f"--option=private dir={self.directory}/private", str(file))

    def _run(self, program: str, *arguments: str) -> str:
        """Run a program of Samba's; return what it prints."""
        done = subprocess.run(
            [need_program(program), *arguments],
            check=False,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            env={**os.environ, "RES_OPTIONS": "timeout:1 attempts:1"},
        )
        if done.returncode:
            raise ProgramError(f"{program} {arguments[0]} exits {done.returncode}\n{done.stdout}{done.stderr}")
        return done.stdout

    def _answers(self) -> bool:
        """True if it takes connections."""
        with socket.socket() as probe:
            return probe.connect_ex((self.address, 389)) == 0
