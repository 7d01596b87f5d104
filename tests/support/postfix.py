"""A real Postfix of the test's own, which answers on a high port and leaves the system's alone."""

import contextlib
import os
import pwd
import shutil
import signal
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path

from tests.support.ports import free_port
from tests.support.postmap import (
    COMPATIBILITY_LEVEL,
    available_map_types,
    copy_from_system,
    minimal_config,
    postmap_build,
    postmap_keys,
    postmap_query,
    run_postfix,
    settle,
    write_parameters,
)
from tests.support.programs import PATIENCE, ProgramError, scaled, wait_until
from tests.support.service import Service
from tests.support.smtp import Client, SmtpError, Verdict

__all__ = [
    "Client",
    "PrivatePostfix",
    "SmtpError",
    "Verdict",
    "available_map_types",
    "minimal_config",
    "postmap_build",
    "postmap_keys",
    "postmap_query",
]

_TRIES, _RELOADS = 5, 6
_BEFORE_KILL_SECONDS = 2.0
_TOLD_LOG_LINES = 40

_QUEUES = (
    *("active", "bounce", "corrupt", "defer", "deferred", "flush", "hold", "incoming", "maildrop"),
    *("private", "public", "saved", "trace"),
)

_MASTER_CF = """\
127.0.0.1:{port} inet n - n - - smtpd
pickup unix n - n 60 1 pickup
cleanup unix n - n - 0 cleanup
qmgr unix n - n 300 1 qmgr
rewrite unix - - n - - trivial-rewrite
bounce unix - - n - 0 bounce
defer unix - - n - 0 bounce
trace unix - - n - 0 bounce
verify unix - - n - 1 verify
flush unix n - n 1000? 0 flush
proxymap unix - - n - - proxymap
proxywrite unix - - n - 1 proxymap
smtp unix - - n - - smtp
relay unix - - n - - smtp
showq unix n - n - - showq
error unix - - n - - error
retry unix - - n - - error
discard unix - - n - - discard
local unix - n n - - local
virtual unix - n n - - virtual
lmtp unix - - n - - lmtp
anvil unix - - n - 1 anvil
scache unix - - n - 1 scache
postlog unix-dgram n - n - 1 postlogd
"""


class PrivatePostfix(Service):
    """A whole Postfix on 127.0.0.1 that is nobody's but the test's; needs root.

    It takes mail for `relay_domains` to recipients in `relay_recipient_maps` (TYPE:PATH, `proxy:` allowed;
    None leaves it unset) and throws it away. 127.0.0.1 is a stranger to it: other domains are refused.
    Its files are in a folder of their own, open to Postfix's unprivileged user, which pytest's are not:
    a temporary one, gone after `stop()`, or `directory`, which stays.
    Where `map_type` is given instead of `relay_recipient_maps`, the map is at `map_path` in that folder.
    """

    def __init__(
        self,
        relay_domains: Iterable[str],
        relay_recipient_maps: str | None = None,
        *,
        map_type: str | None = None,
        directory: Path | None = None,
        **parameters: str,
    ) -> None:
        """Write the configuration; nothing runs before `start()`."""
        if map_type is not None and relay_recipient_maps is not None:
            raise ValueError("map_type is for a map in the folder of this Postfix, relay_recipient_maps names any")
        self._temporary = directory is None
        self.directory = directory or Path(tempfile.mkdtemp(prefix="private-postfix-"))
        self.directory.mkdir(parents=True, exist_ok=True)
        self.directory = self.directory.resolve()
        _open_the_way_to(self.directory)
        self.config_directory = self.directory / "config"
        self.queue_directory = self.directory / "queue"
        self.log_path = self.directory / "log" / "mail.log"
        if map_type is not None:
            relay_recipient_maps = f"{map_type}:{self.directory / 'maps' / 'relay_recipients'}"
        self.relay_recipient_maps = relay_recipient_maps
        self.port = free_port()
        try:
            self._write(relay_domains, parameters)
        except BaseException:
            self._remove()
            raise

    @property
    def map_path(self) -> Path:
        """Where the text of the map is, or is to be."""
        if self.relay_recipient_maps is None:
            raise ValueError("this Postfix was made without relay_recipient_maps")
        return Path(self.relay_recipient_maps.removeprefix("proxy:").partition(":")[2])

    @property
    def log(self) -> str:
        """The mail log so far."""
        try:
            return self.log_path.read_text("utf-8", "backslashreplace")
        except FileNotFoundError:
            return ""

    def start(self) -> None:
        """Start it and wait until smtpd really answers; where it doesn't, nothing of it is left running."""
        try:
            self._start_on_a_free_port()
            self._wait_for_smtpd()
        except BaseException:
            self._kill()
            raise

    def stop(self) -> None:
        """End all of its processes and no others, whatever state it is in; a temporary folder goes too."""
        try:
            self._kill()
        finally:
            self._remove()

    def close(self) -> None:
        """As `stop`."""
        self.stop()

    def kill(self) -> None:
        """End all of its processes, to be started again."""
        self._kill()

    def restart(self) -> None:
        """End all of its processes and start it again, on the same port."""
        self._kill()
        self.start()

    def reload(self) -> None:
        """Run `postfix reload` and wait until new sessions are served by new processes."""
        reloads = self.log.count(": reload ")
        before = self._named("smtpd", "proxymap", "trivial-rewrite")
        if not any(self._is_reloaded(reloads) for _ in range(_RELOADS)):
            raise ProgramError(self._with_log("master has not noticed the reload"))
        # An smtpd with an open session lives on to its end: then this wait is in vain, and no error.
        wait_until(lambda: not before & self.processes(), 1.0)
        self._wait_for_smtpd()

    def _is_reloaded(self, reloads: int) -> bool:
        """Reload, and return whether the log has one more; on a busy machine postlogd may lose the line."""
        run_postfix("postfix", "-c", self.config_directory, "reload")
        return wait_until(lambda: self.log.count(": reload ") > reloads, PATIENCE / _RELOADS)

    def set(self, **parameters: str | None) -> None:
        """Change main.cf, None unsetting a parameter; running processes mostly see it after `reload()`."""
        edits = [f"{name}={value}" for name, value in parameters.items() if value is not None]
        if edits:
            run_postfix("postconf", "-c", self.config_directory, "-e", *edits)
        removals = [name for name, value in parameters.items() if value is None]
        if removals:
            run_postfix("postconf", "-c", self.config_directory, "-X", *removals)
        settle(self.config_directory / "main.cf")

    def serve(self, **parameters: str) -> int:
        """Have another smtpd with these parameters, as well as the first, from the next reload on; give its port."""
        port = free_port()
        options = " ".join(f"-o {name}={value}" for name, value in parameters.items())
        service = f"127.0.0.1:{port}"
        entry = f"{service}/inet={service} inet n - n - - smtpd {options}"
        run_postfix("postconf", "-c", self.config_directory, "-M", entry)
        return port

    def build_map(self, text: str | bytes) -> None:
        """Put a map with this text in place, by hand: plain postmap beside it, then renames.

        Indexed in place, a map built twice in one second might not be noticed by a running smtpd.
        """
        map_type = (self.relay_recipient_maps or "").removeprefix("proxy:").partition(":")[0]
        with tempfile.TemporaryDirectory(prefix=".staged-", dir=self.map_path.parent) as folder:
            staged = Path(folder) / self.map_path.name
            staged.write_bytes(text.encode() if isinstance(text, str) else text)
            staged.chmod(0o644)
            if map_type == "texthash":
                settle(staged)
            else:
                postmap_build(self.config_directory, f"{map_type}:{staged}")
            for made in sorted(staged.parent.iterdir()):
                made.replace(self.map_path.with_name(made.name))

    def client(self, *, timeout: float = PATIENCE) -> Client:
        """Give an SMTP session, for a `with` block, that goes on until it is closed."""
        return Client(self.port, timeout=timeout)

    def verdict(self, address: str | bytes, *, smtputf8: bool = True) -> Verdict:
        """Ask in a session of its own what is answered to RCPT TO:<address>, the bytes as they are."""
        with self.client() as client:
            return client.verdict(address, smtputf8=smtputf8)

    def verdicts(
        self, addresses: Sequence[str | bytes], *, smtputf8: bool = True, client: Client | None = None
    ) -> list[Verdict]:
        """Ask for many, in their order, in one new session or in the client's open one."""
        if client is not None:
            return [client.verdict(address, smtputf8=smtputf8) for address in addresses]
        with self.client() as session:
            return [session.verdict(address, smtputf8=smtputf8) for address in addresses]

    def processes(self) -> frozenset[int]:
        """Give the ids of all of its processes: Postfix's daemons live in their queue directory."""
        ours = []
        for process in Path("/proc").iterdir():
            if process.name.isdigit():
                with contextlib.suppress(OSError):
                    if (process / "cwd").readlink() == self.queue_directory:
                        ours.append(int(process.name))
        return frozenset(ours)

    def _named(self, *names: str) -> frozenset[int]:
        """Give those of its processes that run one of these daemons."""
        found = []
        for pid in self.processes():
            with contextlib.suppress(OSError):
                if Path(f"/proc/{pid}/comm").read_text(encoding="utf-8").strip() in names:
                    found.append(pid)
        return frozenset(found)

    def _start_on_a_free_port(self) -> None:
        """Run `postfix start`, on another port if somebody has taken ours meanwhile."""
        for tries_left in reversed(range(_TRIES)):
            self._write_master()
            # Postfix's own switch for starting without a tour of all its files.
            (self.queue_directory / "quick-start").touch()
            try:
                run_postfix("postfix", "-c", self.config_directory, "start")
            except ProgramError as error:
                if not tries_left or "Address already in use" not in self.log:
                    raise ProgramError(self._with_log(str(error))) from None
                self.port = free_port()
            else:
                return

    def _wait_for_smtpd(self) -> None:
        """Wait until smtpd really answers."""
        if not wait_until(self._answers):
            raise ProgramError(self._with_log(f"smtpd does not answer after {PATIENCE:.0f} s"))

    def _answers(self) -> bool:
        """Whether smtpd greets and takes EHLO."""
        try:
            with Client(self.port, timeout=scaled(1)):
                return True
        except SmtpError:
            return False

    def _kill(self) -> None:
        """End all of its processes: master first, which ends the others; then whatever is left."""
        running = self.processes()
        for pid in self._named("master"):
            _signal(pid, signal.SIGTERM)
        if not wait_until(lambda: not self._left(running), scaled(_BEFORE_KILL_SECONDS)):
            for pid in self.processes():
                _signal(pid, signal.SIGKILL)
            if not wait_until(lambda: not self._left(running)):
                raise ProgramError(self._with_log(f"processes {self._left(running)} do not end"))

    def _left(self, known: frozenset[int]) -> list[int]:
        """Give those of its processes that are there, among them known ones that are just about to end."""
        return sorted(self.processes() | {pid for pid in known if _runs(pid)})

    def _remove(self) -> None:
        """Remove the folder if it is a temporary one."""
        if self._temporary:
            shutil.rmtree(self.directory, ignore_errors=True)

    def _with_log(self, message: str) -> str:
        """Add the end of the mail log to a message."""
        lines = self.log.splitlines()[-_TOLD_LOG_LINES:]
        return "\n".join([message, f"--- the end of {self.log_path.name}", *lines])

    def _write(self, relay_domains: Iterable[str], parameters: dict[str, str]) -> None:
        """Make the folders and write the configuration."""
        owner = pwd.getpwnam("postfix").pw_uid
        data_directory = self.directory / "data"
        for folder in (self.config_directory, self.queue_directory, self.log_path.parent, data_directory):
            folder.mkdir(exist_ok=True)
            folder.chmod(0o755)
        os.chown(data_directory, owner, -1)
        for name in _QUEUES:
            queue = self.queue_directory / name
            queue.mkdir(mode=0o700, exist_ok=True)
            os.chown(queue, owner, -1)
        (self.queue_directory / "pid").mkdir(mode=0o755, exist_ok=True)
        if self.relay_recipient_maps is not None:
            self.map_path.parent.mkdir(parents=True, exist_ok=True)
            _open_the_way_to(self.map_path.parent.resolve())
        copy_from_system(
            self.config_directory, "dynamicmaps.cf", "dynamicmaps.cf.d", "postfix-files", "postfix-files.d"
        )
        places = {
            "queue_directory": self.queue_directory,
            "data_directory": data_directory,
            "meta_directory": self.config_directory,
            "maillog_file": self.log_path,
            "maillog_file_prefixes": self.log_path.parent,
        }
        recipients = {"relay_recipient_maps": self.relay_recipient_maps} if self.relay_recipient_maps else {}
        write_parameters(
            self.config_directory,
            _PARAMETERS
            | {name: str(place) for name, place in places.items()}
            | {"relay_domains": ", ".join(relay_domains)}
            | recipients
            | parameters,
        )
        self._write_master()

    def _write_master(self) -> None:
        """Write master.cf for the port."""
        master_cf = self.config_directory / "master.cf"
        master_cf.write_text(_MASTER_CF.format(port=self.port), encoding="ascii")
        master_cf.chmod(0o644)


_PARAMETERS = {
    "compatibility_level": COMPATIBILITY_LEVEL,
    "myhostname": "backup.example.net",
    "inet_interfaces": "127.0.0.1",
    "inet_protocols": "ipv4",
    "mydestination": "",
    "mynetworks": "",
    "alias_maps": "",
    "alias_database": "",
    "local_recipient_maps": "",
    "relay_transport": "discard:",
    "default_transport": "error:this Postfix sends nothing",
    "smtputf8_enable": "yes",
    "soft_bounce": "no",
    # 127.0.0.1 is a stranger: what is not in relay_domains gets 554.
    "smtpd_relay_restrictions": "reject_unauth_destination",
    "smtpd_recipient_restrictions": "reject_unauth_destination",
    "smtpd_peername_lookup": "no",
    "smtpd_tls_security_level": "none",
    # No brakes: a test may ask thousands of times, mostly for recipients that don't exist.
    "in_flow_delay": "0",
    "smtpd_error_sleep_time": "0",
    "smtpd_soft_error_limit": "1000000000",
    "smtpd_hard_error_limit": "1000000000",
    "smtpd_junk_command_limit": "1000000000",
    "smtpd_recipient_limit": "1000000000",
    "smtpd_recipient_overshoot_limit": "1000000000",
    "smtpd_client_connection_count_limit": "0",
    "smtpd_client_connection_rate_limit": "0",
    "smtpd_client_message_rate_limit": "0",
    "smtpd_client_recipient_rate_limit": "0",
    "smtpd_client_new_tls_session_rate_limit": "0",
    "smtpd_client_auth_rate_limit": "0",
    "smtpd_timeout": "300",
}


def _open_the_way_to(directory: Path) -> None:
    """Let Postfix's unprivileged user pass to a folder, as far as that is within the temporary folder.

    pytest closes its own folders to everybody but their owner.
    """
    top = Path(tempfile.gettempdir()).resolve()
    for folder in (directory, *directory.parents):
        if folder == top:
            break
        mode = folder.stat().st_mode
        wanted = 0o755 if folder == directory else 0o711
        if mode & wanted == wanted or (folder != directory and mode & 0o001):
            continue
        if not directory.is_relative_to(top):
            raise ValueError(f"{folder} is closed to Postfix; only folders of tests, in {top}, are opened for it")
        folder.chmod(mode & 0o7777 | wanted)


def _signal(pid: int, number: signal.Signals) -> None:
    """Signal a process that may have ended by itself."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)


def _runs(pid: int) -> bool:
    """Whether the process is there, and not just because nobody has asked how it ended."""
    try:
        state = Path(f"/proc/{pid}/stat").read_bytes()
    except OSError:
        return False
    return state.rpartition(b") ")[2][:1] not in {b"Z", b"X"}
