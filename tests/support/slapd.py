"""A real OpenLDAP server of the test's own, on loopback, that leaves the system's alone."""

import contextlib
import os
import re
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from signal import SIGCONT, SIGKILL, SIGSTOP, SIGTERM, Signals
from typing import Any, Self, TypedDict, Unpack

from tests.support.authority import Authority
from tests.support.need import need, need_program
from tests.support.ports import free_ports
from tests.support.programs import PATIENCE, ProgramError, scaled, wait_until
from tests.support.service import Service

SUFFIX = "dc=example,dc=com"
PEOPLE = f"ou=people,{SUFFIX}"
ADMIN = f"cn=admin,{SUFFIX}"
ADMIN_PASSWORD = "admin-secret"
SYNC = f"cn=syncagent,{SUFFIX}"
SYNC_PASSWORD = "sync-secret-4711"

Values = str | bytes | Sequence[str] | Sequence[bytes]

_MODULES = Path("/usr/lib/ldap")
_SCHEMAS = Path("/etc/ldap/schema")
_APPARMOR = Path("/etc/apparmor.d/usr.sbin.slapd")
_TRIES = 5
_LOG_SECONDS = 0.3
_TOLD_LOG_LINES = 30

_CONFIG = """\
include {schemas}/core.schema
include {schemas}/cosine.schema
include {schemas}/inetorgperson.schema
attributetype ( 1.2.840.113556.1.2.210 NAME 'proxyAddresses' EQUALITY caseIgnoreMatch
  SUBSTR caseIgnoreSubstringsMatch SYNTAX 1.3.6.1.4.1.1466.115.121.1.15 )
objectclass ( 1.3.6.1.4.1.4203.666.4711.1 NAME 'mailRecipient' SUP top AUXILIARY MAY ( mail $ proxyAddresses ) )
pidfile {directory}/slapd.pid
argsfile {directory}/slapd.args
modulepath {modules}
moduleload back_mdb
moduleload syncprov
threads 4
{tls}
database mdb
suffix "{suffix}"
rootdn "{admin}"
rootpw {admin_password}
directory {directory}/data
maxsize 1073741824
dbnosync
index objectClass,entryUUID,entryCSN eq
index mail pres,eq
{config}
limits dn.exact="{sync}" size=unlimited time=unlimited
access to *
  by dn.exact="{sync}" read
  by anonymous auth
  by users read
{overlay}
"""

_TLS = """\
TLSCACertificateFile {ca}
TLSCertificateFile {certificate}
TLSCertificateKeyFile {key}
TLSVerifyClient try
authz-regexp "^cn=([^,]+),.*o=example$" "cn=$1,{suffix}"
"""

TREE = f"""\
dn: {SUFFIX}
objectClass: domain
dc: example

dn: {PEOPLE}
objectClass: organizationalUnit
ou: people

dn: {SYNC}
objectClass: organizationalRole
objectClass: simpleSecurityObject
cn: syncagent
userPassword: {SYNC_PASSWORD}
"""

_SEARCH = re.compile(r"conn=(\d+) op=(\d+) (SRCH base=.*|SRCH attr=.*|SEARCH RESULT .*)")
_RESULT = re.compile(r"\berr=(\d+) .*\bnentries=(\d+)")


class Settings(TypedDict, total=False):
    """What a `Slapd` can be given, and what `restart` can change."""

    syncprov: bool
    sessionlog: int
    authority: Authority | None
    names: tuple[str, ...]
    config: str


def need_slapd() -> str:
    """Give the path of slapd, which has to have the modules and schemas that a `Slapd` loads."""
    slapd = need_program("slapd")
    for part in (_MODULES / "back_mdb.so", _MODULES / "syncprov.so", _SCHEMAS / "inetorgperson.schema"):
        need(f"{part} of slapd's", part.exists())
    return slapd


def people(count: int, *, first: int = 0) -> Iterator[str]:
    """Give LDIF for this many people, `u0000000@example.com` on, each with two proxyAddresses too."""
    for number in range(first, first + count):
        name = f"u{number:07}"
        yield (
            f"dn: uid={name},{PEOPLE}\nobjectClass: inetOrgPerson\nobjectClass: mailRecipient\n"
            f"uid: {name}\ncn: {name}\nsn: {name}\nmail: {name}@example.com\n"
            f"proxyAddresses: SMTP:{name}@example.com\nproxyAddresses: smtp:{name}@example.org\n"
        )


class Slapd(Service):
    """A slapd with one database, dc=example,dc=com, in a temporary folder, gone after a `with` block.

    It has the sync account `SYNC`, which may read everything without limits, and an empty ou=people. `sessionlog` is
    how many writes syncprov remembers, 0 for no log. With an `authority` it also speaks TLS, as a server of these
    `names`, and takes a client's certificate for cn=NAME below the suffix. `config` are lines for the database, before
    the default ones, so that its limits and access rules win. `restart` takes any of these anew.
    """

    def __init__(self, **settings: Unpack[Settings]) -> None:
        self._settings = settings
        program = need_slapd()
        self.directory = Path(tempfile.mkdtemp(prefix="slapd-"))
        self._config_path = self.directory / "slapd.conf"
        self.log_path = self.directory / "slapd.log"
        self.log_path.touch()
        self._forgotten = 0
        self._process: subprocess.Popen[bytes] | None = None
        self._admin: Any = None
        self.port, self.tls_port = free_ports(2)
        self._program = self._unconfined(program)
        (self.directory / "data").mkdir()
        try:
            self._configure()
            self.load([TREE])
        except BaseException:
            self._remove()
            raise

    @property
    def url(self) -> str:
        """Where it answers without TLS."""
        return f"ldap://127.0.0.1:{self.port}"

    @property
    def tls_url(self) -> str:
        """Where it answers with TLS from the start, if it has an authority."""
        return f"ldaps://localhost:{self.tls_port}"

    @property
    def starttls_url(self) -> str:
        """Where it answers by a name that its certificate has, for StartTLS."""
        return f"ldap://localhost:{self.port}"

    @property
    def log(self) -> str:
        """What slapd has written since the first start."""
        return self.log_path.read_text("utf-8", "backslashreplace")

    def load(self, ldif: Iterable[str]) -> None:
        """Add entries in bulk with slapadd, which the server must not run for; each item is one or more of LDIF."""
        if self._process is not None:
            raise ProgramError("slapadd needs the database for itself: stop the server first")
        source = self.directory / "load.ldif"
        with source.open("w", encoding="utf-8") as file:
            file.writelines(f"{entry}\n" for entry in ldif)
        self._slapadd(source)
        source.unlink()

    def start(self) -> None:
        """Start it, unless it runs, and wait until it answers; the first time on other ports if ours were taken."""
        if self._process is not None:
            return
        for tries_left in reversed(range(_TRIES)):
            before = self.log_path.stat().st_size
            if self._starts(before):
                return
            printed = self._printed(before)
            if before or not tries_left or "Address already in use" not in printed:
                raise ProgramError(f"slapd does not start\n{printed}")
            self.port, self.tls_port = free_ports(2)
            self.log_path.write_bytes(b"")

    def stop(self, signal: Signals = SIGTERM) -> None:
        """End it by a signal and wait until it has ended; its data stay."""
        if self._admin is not None:
            self._admin.unbind()
            self._admin = None
        process, self._process = self._process, None
        if process is None:
            return
        process.send_signal(signal)
        process.send_signal(SIGCONT)
        try:
            process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            raise ProgramError(f"slapd had not ended {PATIENCE:.0f} s after {signal.name}") from None

    def kill(self) -> None:
        """End it at once, without a chance to write anything."""
        self.stop(SIGKILL)

    def close(self) -> None:
        """End it, and remove its folder."""
        try:
            self.kill()
        finally:
            self._remove()

    def pause(self) -> None:
        """Have it stand still: it takes connections, since the kernel does, and answers nothing."""
        process = self._running()
        process.send_signal(SIGSTOP)
        # Until all of its threads stand still, one of them may go on and answer.
        os.waitid(os.P_PID, process.pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)

    def resume(self) -> None:
        """Have it go on after a pause."""
        self._running().send_signal(SIGCONT)

    def restart(self, **changes: Unpack[Settings]) -> None:
        """Stop it and start it with other settings, on the same ports and data."""
        self.stop()
        self._settings |= changes
        self._configure()
        self.start()

    @contextlib.contextmanager
    def lent(self) -> Iterator[Self]:
        """Start it for a test, unless it runs; afterwards put its configuration right again, if the test changed it."""
        configured = self._config_path.read_text("utf-8")
        self.start()
        yield self
        if self._config_path.read_text("utf-8") != configured:
            self.restart(config="")

    def add(self, dn: str, **attributes: Values) -> None:
        """Add an entry, a person who may have proxyAddresses if no objectClass is given."""
        if "objectClass" not in attributes:
            attributes = {"objectClass": ["inetOrgPerson", "mailRecipient"], "sn": "-", "cn": "-"} | attributes
        self._write("add", dn, attributes=attributes)

    def modify(self, dn: str, **attributes: Values) -> None:
        """Replace the values of attributes, by none for an empty list."""
        changes = {
            name: [("MODIFY_REPLACE", [values] if isinstance(values, (str, bytes)) else list(values))]
            for name, values in attributes.items()
        }
        self._write("modify", dn, changes=changes)

    def delete(self, dn: str) -> None:
        """Delete an entry."""
        self._write("delete", dn)

    def rename(self, dn: str, new_rdn: str, new_superior: str | None = None) -> None:
        """Give an entry another name, or another place."""
        self._write("modify_dn", dn, relative_dn=new_rdn, new_superior=new_superior)

    def operations(self) -> list[str]:
        """Give the searches it was asked for, in their order: what for, and how they ended if they have.

        One is `SRCH base="…" scope=2 deref=0 filter="…" attr=mail err=0 nentries=3`.
        """
        # slapd may log a result a little after it has sent it; only a persistent search never has one.
        wait_until(lambda: all(" err=" in search for search in self._searches()), scaled(_LOG_SECONDS))
        return self._searches()

    def forget_operations(self) -> None:
        """Have `operations` begin with what is asked from now on."""
        self.operations()
        self._forgotten = self.log_path.stat().st_size

    def _searches(self) -> list[str]:
        """Put together what the log has about each search."""
        searches: list[str] = []
        at: dict[tuple[str, str], int] = {}  # after a restart slapd counts its connections anew
        for line in self._printed(self._forgotten).splitlines():
            if (found := _SEARCH.search(line)) is None:
                continue
            key, text = (found[1], found[2]), found[3]
            if text.startswith("SRCH base="):
                at[key] = len(searches)
                searches.append(text)
            elif key in at and text.startswith("SRCH attr="):
                searches[at[key]] += text.removeprefix("SRCH")
            elif key in at and (result := _RESULT.search(text)):
                searches[at[key]] += f" err={result[1]} nentries={result[2]}"
        return searches

    def _write(self, operation: str, dn: str, **arguments: object) -> None:
        """Do a write as the administrator, over a connection that stays open."""
        import ldap3

        if self._admin is None or self._admin.closed:
            server = ldap3.Server(self.url, get_info=ldap3.NONE, connect_timeout=int(PATIENCE))
            self._admin = ldap3.Connection(
                server,
                user=ADMIN,
                password=ADMIN_PASSWORD,
                auto_bind=True,
                raise_exceptions=True,
                check_names=False,
                receive_timeout=int(PATIENCE),
            )
        getattr(self._admin, operation)(dn, **arguments)

    def _running(self) -> subprocess.Popen[bytes]:
        """Give the process, which has to be there."""
        if self._process is None or self._process.poll() is not None:
            raise ProgramError("slapd does not run")
        return self._process

    def _starts(self, before: int) -> bool:
        """Start the process; say whether it came to answer."""
        ports = {"ldap": self.port}
        if self._settings.get("authority"):
            ports["ldaps"] = self.tls_port
        urls = [f"{scheme}://127.0.0.1:{port}/" for scheme, port in ports.items()]
        with self.log_path.open("ab") as log:
            self._process = process = subprocess.Popen(
                [self._program, "-d", "stats", "-f", self._config_path, "-h", " ".join(urls)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=_surroundings(),
                cwd=self.directory,
            )

        def up() -> bool:
            # It logs this when the ports are its own, and a little before it listens.
            return "slapd starting" in self._printed(before) and all(map(_listens, ports.values()))

        wait_until(lambda: process.poll() is not None or up(), PATIENCE, pause=0.005)
        if process.poll() is None and up():
            return True
        self.kill()
        return False

    def _slapadd(self, source: Path) -> None:
        """Run slapadd, which is slapd by another name."""
        done = subprocess.run(
            [self._program, "-T", "add", "-q", "-w", "-f", self._config_path, "-l", source],
            check=False,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            encoding="utf-8",
            errors="backslashreplace",
            env=_surroundings(),
        )
        if done.returncode:
            raise ProgramError(f"slapadd exits {done.returncode}\n{done.stderr}")

    def _configure(self) -> None:
        """Write slapd.conf and what it names."""
        settings: Settings = {"syncprov": True, "sessionlog": 10000, "authority": None, **self._settings}
        overlay = []
        if settings["syncprov"]:
            overlay.append("overlay syncprov")
            if settings["sessionlog"]:
                overlay.append(f"syncprov-sessionlog {settings['sessionlog']}")
        tls = ""
        if authority := settings["authority"]:
            certificate, key = authority.server(self.directory, *settings.get("names", ("localhost", "127.0.0.1")))
            ca = authority.ca_file(self.directory)
            tls = _TLS.format(ca=ca, certificate=certificate, key=key, suffix=SUFFIX)
        text = _CONFIG.format(
            schemas=_SCHEMAS,
            modules=_MODULES,
            directory=self.directory,
            suffix=SUFFIX,
            admin=ADMIN,
            admin_password=ADMIN_PASSWORD,
            sync=SYNC,
            tls=tls,
            config=settings.get("config", ""),
            overlay="\n".join(overlay),
        )
        self._config_path.write_text(text, encoding="utf-8")

    def _unconfined(self, program: str) -> str:
        """Give a slapd that may use our folder: where AppArmor keeps the system's to its places, a copy of it."""
        if not _APPARMOR.exists():
            return program
        return str(shutil.copy(program, self.directory / "slapd"))

    def _printed(self, offset: int) -> str:
        """Give what slapd has written from this byte of its log on."""
        with self.log_path.open("rb") as log:
            log.seek(offset)
            return log.read().decode("utf-8", "backslashreplace")

    def _remove(self) -> None:
        """Remove the folder."""
        shutil.rmtree(self.directory, ignore_errors=True)


def _surroundings() -> dict[str, str]:
    """Give an environment in which the system's ldap.conf counts for nothing."""
    return {**os.environ, "LDAPNOINIT": "1"}


def _listens(port: int) -> bool:
    """Whether somebody takes connections at the port."""
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0
