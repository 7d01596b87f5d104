"""A real Mailman core of the test's own, on loopback: its database and its REST API, without mail.

It is installed by `make test`, as mailman.lock says, in a virtual environment of its own.
"""

import base64
import http.client
import json
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterable
from pathlib import Path
from secrets import token_hex
from typing import Any

from tests.support.need import need
from tests.support.ports import free_port
from tests.support.programs import PATIENCE, ProgramError, wait_until
from tests.support.service import Service

_VENV = Path(__file__).parents[2] / ".venv" / "mailman"
_TRIES = 5
_TOLD_LOG_LINES = 30
_OK = 300
_ASKED = re.compile(r'"(GET /\S+) HTTP/1\.1" (\d+)')
_LISTENING = "Listening at: http://127.0.0.1:{port} "
# All but the one for REST; `master --runners rest`, which would say that, fails with the click of today.
_OTHER_RUNNERS = ("archive", "bounces", "command", "digest", "in", "lmtp", "out", "pipeline", "retry", "task", "virgin")

_CONFIG = """\
[mailman]
layout: test
site_owner: owner@example.com

[paths.test]
var_dir: {directory}/var

[webservice]
hostname: 127.0.0.1
port: {port}
admin_user: {username}
admin_pass: {password}
workers: 1

[mta]
incoming: mailman.mta.null.NullMTA
"""


def need_mailman() -> Path:
    """Give the path of the program that is Mailman's master process."""
    need("Mailman in .venv/mailman (make test puts it there)", (_VENV / "ready").exists())
    return _VENV / "bin" / "master"


class Mailman(Service):
    """A Mailman in a temporary folder, gone after a `with` block; `stop` and `start` keep what it holds.

    `username` and `password` are the ones of its REST API, at `url`, `password` another one each time.
    """

    username = "restadmin"

    def __init__(self) -> None:
        """Write the configuration; nothing runs before `start()`."""
        self._program = need_mailman()
        self.password = f"mailman-{token_hex(8)}"
        self.directory = Path(tempfile.mkdtemp(prefix="mailman-"))
        self._printed = self.directory / "printed"
        self._printed.touch()
        self._process: subprocess.Popen[bytes] | None = None
        self.port = free_port()

    @property
    def url(self) -> str:
        """Where its REST API is."""
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        """Start it, unless it runs, and wait until it answers; the first time on another port if ours was taken."""
        if self._process is not None:
            return
        for tries_left in reversed(range(_TRIES)):
            before = len(self._log())
            if self._starts(before):
                return
            log = self._log()[before:]
            self.stop()
            if before or not tries_left or "Address already in use" not in log:
                raise ProgramError(f"Mailman does not start\n{self._told()}")
            self.port = free_port()

    def stop(self) -> None:
        """End it and wait until it has ended; its data stay."""
        process, self._process = self._process, None
        if process is None:
            return
        process.terminate()  # the master ends its runners, and then itself
        try:
            process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, 9)  # the session that it leads
            process.wait()
            raise ProgramError(f"Mailman had not ended after {PATIENCE:.0f} s\n{self._told()}") from None

    def close(self) -> None:
        """End it, and remove its folder."""
        try:
            self.stop()
        finally:
            self._remove()

    def add_domain(self, domain: str, alias_domain: str | None = None) -> None:
        """Create a domain; `alias_domain` is another that Mailman takes mail for in its place."""
        self._write("POST", "/domains", mail_host=domain, **({"alias_domain": alias_domain} if alias_domain else {}))

    def add_lists(self, addresses: Iterable[str]) -> None:
        """Create lists, whose domains have to be there."""
        for address in addresses:
            self._write("POST", "/lists", fqdn_listname=address)

    def delete_list(self, address: str) -> None:
        """Delete a list."""
        self._write("DELETE", f"/lists/{address}")

    def clear(self) -> None:
        """Delete all domains, and with them their lists."""
        for domain in self._call("GET", "/domains").get("entries", []):
            self._write("DELETE", f"/domains/{domain['mail_host']}")

    def asked(self) -> list[str]:
        """Give all that it was asked for by GET, oldest first, and the status of its answers: `GET /3.1/lists 200`."""
        return [f"{found[1]} {found[2]}" for found in _ASKED.finditer(self._log())]

    def _starts(self, before: int) -> bool:
        """Start the processes; say whether they came to answer."""
        config = self.directory / "mailman.cfg"
        text = _CONFIG.format(
            directory=self.directory, port=self.port, username=self.username, password=self.password
        ) + "".join(f"\n[runner.{runner}]\nstart: no\n" for runner in _OTHER_RUNNERS)
        config.touch(mode=0o600)
        config.write_text(text, "utf-8")
        with self._printed.open("ab") as printed:
            # `mailman start` as root would want --run-as-root; the master process, which it starts, runs as anybody.
            self._process = process = subprocess.Popen(
                [self._program, "--config", config],
                stdin=subprocess.DEVNULL,
                stdout=printed,
                stderr=printed,
                env={"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C.UTF-8"},
                cwd=self.directory,
                start_new_session=True,
            )
        listening = _LISTENING.format(port=self.port)

        def settled() -> bool:
            log = self._log()[before:]
            return process.poll() is not None or listening in log or "Address already in use" in log

        wait_until(settled)
        if process.poll() is not None or listening not in self._log()[before:]:
            return False
        self._call("GET", "/system/versions")
        return True

    def _write(self, method: str, path: str, **values: str) -> None:
        self._call(method, path, values)

    def _call(self, method: str, path: str, values: dict[str, str] | None = None) -> dict[str, Any]:
        """Ask the REST API; a refusal is an error."""
        credentials = base64.b64encode(f"{self.username}:{self.password}".encode()).decode()
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE)
        try:
            headers = {"authorization": f"Basic {credentials}", "content-type": "application/json"}
            connection.request(method, f"/3.1{path}", json.dumps(values) if values else None, headers)
            response = connection.getresponse()
            body = response.read()
        finally:
            connection.close()
        if response.status >= _OK:
            raise ProgramError(f"Mailman answers {response.status} to {method} {path} {values}\n{body!r}")
        found = json.loads(body) if body else {}
        assert isinstance(found, dict)
        return found

    def _log(self) -> str:
        """Give what it has written to its log, where every request stands too."""
        log = self.directory / "var" / "logs" / "mailman.log"
        return log.read_text("utf-8", "backslashreplace") if log.exists() else ""

    def _told(self) -> str:
        """Give the end of what it has said."""
        lines = (self._printed.read_text("utf-8", "backslashreplace") + self._log()).splitlines()
        return "\n".join(lines[-_TOLD_LOG_LINES:])

    def _remove(self) -> None:
        """Remove the folder."""
        shutil.rmtree(self.directory, ignore_errors=True)
