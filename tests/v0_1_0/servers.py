"""What the sources of the scenarios ask: a primary by HTTP and a directory, which count what they are asked for."""

import base64
import json
import re
import shutil
import subprocess
from collections.abc import Iterable

from tests.sources.http import ended
from tests.support.scripted_http import Asked, Part, ScriptedHTTP, answer
from tests.support.slapd import SUFFIX, Slapd, _surroundings

USERNAME, PASSWORD, TOKEN = "backup", "right-secret-4711", "token-4711-secret"
LISTS = f"ou=lists,{SUFFIX}"
_ETAG = '"v0.1.0"'
_PAGE = 10
_SENT = re.compile(r'SRCH base="([^"]*)".*\bnentries=(\d+)')


class Primary(ScriptedHTTP):
    """A primary with a plain list (/list, /closed while it is open) and an API of pages (/api/users)."""

    def __init__(self) -> None:
        super().__init__()
        self.open = True
        self.routes |= {"/list": self._list, "/closed": self._closed, "/api/users": self._users}

    @property
    def place(self) -> str:
        """Host and port."""
        return self.url.removeprefix("http://")

    def requests(self) -> list[list[str]]:
        """Return the requests until now, sorted: the method, the path with its page, the ETag that the asker knows."""
        return sorted(
            [one.method, f"{one.path}?page={one.query.get('page', '')}", one.headers.get("if-none-match", "")]
            for one in self.asked
        )

    def _list(self, asked: Asked) -> Iterable[Part]:
        if not _is_user(asked):
            return answer("who is there?", 401)
        if asked.headers.get("if-none-match") == _ETAG:
            return answer(status=304, etag=_ETAG)
        names = (f"user{number:02}@example.com" for number in range(20))
        return answer(ended(names), content_type="text/plain", etag=_ETAG)

    def _closed(self, asked: Asked) -> Iterable[Part]:
        if not self.open or not _is_user(asked):
            return answer("who is there?", 401)
        return answer(ended(f"closed{number}@example.org" for number in range(5)), content_type="text/plain")

    def _users(self, asked: Asked) -> Iterable[Part]:
        if asked.headers.get("authorization") != f"Bearer {TOKEN}":
            return answer("who is there?", 401)
        start = (int(asked.query["page"]) - 1) * _PAGE
        users = [{"id": number, "mail": f"api{number:02}@example.net"} for number in range(25)]
        return answer(json.dumps({"users": users[start : start + _PAGE]}), content_type="application/json")


def _is_user(asked: Asked) -> bool:
    return asked.headers.get("authorization") == f"Basic {base64.b64encode(f'{USERNAME}:{PASSWORD}'.encode()).decode()}"


class Directory(Slapd):
    """A slapd that can be filled with what another one had, its operational attributes and so its cookies included."""

    @property
    def place(self) -> str:
        """Host and port."""
        return self.url.removeprefix("ldap://")

    def take_over(self, ldif: str) -> None:
        """Replace everything by what slapcat wrote of another one; not while it runs."""
        data = self.directory / "data"
        shutil.rmtree(data)
        data.mkdir()
        self.load([ldif])

    def dump(self) -> str:
        """Return everything, as slapcat writes it."""
        command = [self._program, "-T", "cat", "-f", str(self._config_path)]
        return subprocess.run(command, capture_output=True, check=True, env=_surroundings()).stdout.decode()

    def sent(self) -> dict[str, int]:
        """Return how many entries below each base of a source it has sent."""
        found: dict[str, int] = {}
        for search in self.operations():
            match = _SENT.match(search)
            if match and match[1].startswith("ou="):
                found[match[1]] = found.get(match[1], 0) + int(match[2])
        return found
