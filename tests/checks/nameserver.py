"""A real DNS server on loopback, dnsmasq, which answers what the test says and nothing else."""

import socket
import subprocess
from collections.abc import Sequence
from pathlib import Path

from tests.support.ports import free_port
from tests.support.programs import PATIENCE, ProgramError, find_program, wait_until
from tests.support.service import Service

HERE = "backup.example.net"
PRIMARY = ("host-record=primary.example.com,192.0.2.1",)
ADDRESS = (f"host-record={HERE},127.0.0.1",)
ORG = ("mx-host=example.org,primary.example.com,10", f"mx-host=example.org,{HERE},20")
COM = ("mx-host=example.com,primary.example.com,10", f"mx-host=example.com,{HERE},20")
RIGHT = (*PRIMARY, *ADDRESS, *ORG, *COM)
"""What the world should know of the backup MX of these tests."""


class Nameserver(Service):
    """Knows these records, in dnsmasq's own options without their dashes, and that there are no others.

    `mx-host=NAME,TARGET,PREFERENCE`, `host-record=NAME,ADDRESS`, `cname=ALIAS,TARGET`, `dns-rr=NAME,TYPE,HEX`.
    """

    everything = "local=/#/"

    def __init__(self, directory: Path, records: Sequence[str]) -> None:
        """Remember them; nothing runs before the `with`."""
        self._records, self._file = records, directory / "dnsmasq.conf"
        self._process: subprocess.Popen[bytes] | None = None
        self._said = b""
        self.host, self.port = "127.0.0.1", free_port()

    @property
    def address(self) -> str:
        """What `check --dns` is given."""
        return f"{self.host}:{self.port}"

    def start(self) -> None:
        """Start it, and wait until it answers."""
        lines = ["no-resolv", "no-hosts", "no-daemon", "bind-interfaces", f"listen-address={self.host}"]
        lines += [f"port={self.port}", "pid-file=", self.everything, "user=", "local-ttl=1", *self._records]
        self._file.write_text("".join(f"{line}\n" for line in lines))
        command = [find_program("dnsmasq") or "dnsmasq", f"--conf-file={self._file}"]
        self._process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE)
        if not wait_until(self._answers):
            self.close()
            raise ProgramError(f"dnsmasq does not answer: {self._said!r}")

    def close(self) -> None:
        """Stop it."""
        if self._process is not None:
            self._process.terminate()
            _, self._said = self._process.communicate(timeout=PATIENCE)
            self._process = None

    def _answers(self) -> bool:
        """Whether it takes connections."""
        try:
            with socket.create_connection((self.host, self.port), 0.2):
                return True
        except OSError:
            return False
