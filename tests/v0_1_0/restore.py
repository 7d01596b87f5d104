"""Put a scenario that syncagent 0.1.0 wrote in another place, as if 0.1.0 had written it there.

What does not survive the move (directory, ports, identities of files) is replaced in the state, and the digests over
it are computed anew. The formulas are those of 0.1.0, written out: nothing here may use the present program, whose
formulas may be others. Each is first checked against what 0.1.0 stored.
"""

import hashlib
import json
import os
import sqlite3
import tarfile
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct

from tests.support.clock import run_at
from tests.support.programs import find_program

ARCHIVE, EXPECTED = (Path(__file__).parent / name for name in ("state.tar.xz", "expected.json"))
ORIGIN = "origin.json"
MAP_TYPES = {
    "files": "lmdb",
    "history": "hash",
    "ldap": "cdb",
    "http": "cdb",
    "holds": "lmdb",
    "rejects": "hash",
    "canary": "lmdb",
    "failing": "lmdb",
    "unpublished": "hash",
    "empty": "lmdb",
    "agent": "texthash",
}
"""The scenarios, each with the type of its map."""
RIPE = {"files": 30 * 60.0 + 1}
"""So many seconds after the state was left, what was kept in grace by the second run may go, that of the third not."""
_COLUMNS = (("meta", "value"), ("source", "state"), ("hold", "state"), ("run", "error"))
_WITH_PATHS = ("syncagent.toml", "state/agent.json")
_SHOWN = 40
Identity = tuple[int, ...]


class Scene(Struct, frozen=True, kw_only=True):
    """How a scenario was where 0.1.0 wrote it. Files are named relative to its directory."""

    directory: str
    servers: dict[str, str]
    clock: float
    """When the last run was over: what reads the state comes after it."""
    identities: dict[str, Identity]
    """Device, inode, size, mtime and ctime of every file."""
    postmap: Identity
    preimages: tuple[str, ...]
    """What the digests in the state are digests of: the sources' configurations, and then the whole one."""
    files: dict[str, tuple[str, ...]]
    """The files that a source of the kind `file` reads."""
    secrets: dict[str, tuple[str, ...]]
    """The secrets of a source."""


class Origin(Struct, frozen=True):
    """The commit that wrote the archive, and its scenarios."""

    commit: str
    scenes: dict[str, Scene]


@cache
def _archive() -> tuple[Origin, dict[str, tuple[int, bytes | None]]]:
    """Return the origin, and each member's mode and content (None for a directory)."""
    members: dict[str, tuple[int, bytes | None]] = {}
    with tarfile.open(ARCHIVE) as packed:
        for member in packed:
            file = packed.extractfile(member)
            members[member.name] = member.mode, file.read() if file else None
    _, origin = members.pop(ORIGIN)
    return msgspec.json.decode(origin or b"", type=Origin), members


@cache
def expected() -> Mapping[str, Any]:
    """Return what 0.1.0 printed, by scenario."""
    found: dict[str, Any] = json.loads(EXPECTED.read_text("utf-8"))
    return found


def content(member: str) -> str:
    """Return a text of the archive."""
    return (_archive()[1][member][1] or b"").decode()


@dataclass(frozen=True)
class Restored:
    """A scenario in its place, ready to have the program run on it."""

    name: str
    directory: Path
    scene: Scene
    servers: Mapping[str, str]

    @property
    def config(self) -> Path:
        """The configuration."""
        return self.directory / "syncagent.toml"

    def run(self, *args: str, after: float = 60.0) -> Any:  # noqa: ANN401 - JSON
        """Run a verb with --json, so many seconds after the state was left; return what it prints, see ``neutral``."""
        code, out, err = run_at(self.scene.clock + after, *args, "--json", config=self.config)
        printed = json.loads(out) if out else {"error": err, "exit_code": code}
        assert isinstance(printed, list) or printed["exit_code"] == code, err
        return neutral(printed, self.directory, self.servers)

    def tables(self) -> dict[str, tuple[Identity, str]]:
        """Return every file of the maps: its identity, and the SHA-256 of what it says."""
        found = sorted(self.directory.glob("map*"))
        return {file.name: (identity(file), hashlib.sha256(file.read_bytes()).hexdigest()) for file in found}

    def recipients(self) -> set[str]:
        """Return the keys of the map's text."""
        lines = (self.directory / "map").read_text("utf-8").splitlines()
        return {line.removesuffix(" OK") for line in lines if not line.startswith("#")}


def neutral(printed: Any, directory: Path, servers: Mapping[str, str]) -> Any:  # noqa: ANN401 - JSON
    """Return what was printed without what differs from place to place: directory and ports."""
    text = json.dumps(printed)
    for old, new in (str(directory), "/scenario"), *((place, kind) for kind, place in servers.items()):
        text = text.replace(old, new)
    return json.loads(text)


def shortened(runs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the history with the facts of each change alone; where they are many, with their count and digest."""
    for run in runs:
        changes = [[one["address"], one["added"], one["sources"]] for one in run["changes"]]
        many = len(changes) > _SHOWN
        run["changes"] = [len(changes), _digest(json.dumps(changes))] if many else changes
    return runs


def identity(file: Path) -> Identity:
    """Return the identity of a file, as 0.1.0 kept it."""
    found = file.stat()
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns


def postmap_identity() -> Identity:
    """Return the identity of this host's postmap; an empty one where there is none."""
    postmap = find_program("postmap")
    return identity(Path(postmap)) if postmap else ()


def restore(name: str, directory: Path, servers: Mapping[str, str]) -> Restored:
    """Unpack a scenario into ``directory``, its state as that of this place; ``servers``: host and port by kind."""
    origin, members = _archive()
    scene = origin.scenes[name]
    places = {scene.directory: str(directory)} | {scene.servers[kind]: place for kind, place in servers.items()}
    _unpack(name, directory, scene, places, members)
    there = {file: identity(directory / file) for file in scene.identities}
    changes = places | {_as_json(old): _as_json(there[file]) for file, old in scene.identities.items()}
    changes[_as_json(scene.postmap)] = _as_json(postmap_identity())
    for preimage in scene.preimages:
        changes[_digest(preimage)] = _digest(_replaced(preimage, changes))
    _rewrite(directory, scene, changes, there)
    return Restored(name, directory, scene, servers)


def _unpack(
    name: str,
    directory: Path,
    scene: Scene,
    places: Mapping[str, str],
    members: Mapping[str, tuple[int, bytes | None]],
) -> None:
    for member, (mode, octets) in members.items():
        top, _, inner = member.partition("/")
        if top != name:
            continue
        path = directory / inner
        if octets is None:
            path.mkdir(exist_ok=True)
        else:
            text = _replaced(octets.decode(), places).encode() if inner in _WITH_PATHS else octets
            path.write_bytes(text)
        path.chmod(mode)
        if inner in scene.identities:
            os.utime(path, ns=(scene.identities[inner][3],) * 2)


def _rewrite(directory: Path, scene: Scene, changes: dict[str, str], there: Mapping[str, Identity]) -> None:
    database = sqlite3.connect(directory / "state" / "state.db")
    for name, state in database.execute("SELECT name, state FROM source").fetchall():
        remembered = json.loads(state)
        changes |= _validator(scene, name, remembered, directory, there)
        changes |= _refusal(scene, name, remembered, changes, directory)
    for table, column in _COLUMNS:
        rows = database.execute(f"SELECT rowid, {column} FROM {table}").fetchall()  # noqa: S608 - our own names
        new = [(_replaced(text, changes), row) for row, text in rows]
        database.executemany(f"UPDATE {table} SET {column} = ? WHERE rowid = ?", new)  # noqa: S608 - as above
    database.commit()
    database.close()


def _validator(
    scene: Scene, name: str, state: dict[str, Any], directory: Path, there: Mapping[str, Identity]
) -> dict[str, str]:
    """Return what replaces the validator of a file source; nothing where its file is gone."""
    read = scene.files.get(name, ())
    if not read or not set(read) <= scene.identities.keys():
        return {}
    old = _file_validator({f"{scene.directory}/{file}": tuple(scene.identities[file]) for file in read})
    assert state["validator"] == old, f"{name}: 0.1.0 computes the validator of a file in another way"
    return {old: _file_validator({f"{directory}/{file}": there[file] for file in read})}


def _refusal(
    scene: Scene, name: str, state: dict[str, Any], changes: Mapping[str, str], directory: Path
) -> dict[str, str]:
    """Return what replaces the token of a refusal, over the source's digest and what its secrets say and when."""
    old = state.get("refused_for")
    if not old:
        return {}
    salt, digest = old.partition(" ")[0], state["config_digest"]
    secrets = [directory / file for file in scene.secrets[name]]
    said = [(file.read_bytes(), scene.identities[file.name][3]) for file in secrets]
    assert old == _token(salt, digest, said), f"{name}: 0.1.0 computes the token in another way"
    now = [(octets, file.stat().st_mtime_ns) for file, (octets, _) in zip(secrets, said, strict=True)]
    return {old: _token(salt, changes[digest], now)}


def _file_validator(stats: dict[str, Identity]) -> str:
    return hashlib.sha256(os.fsencode(repr(sorted(stats.items())))).hexdigest()


def _token(salt: str, digest: str, said: list[tuple[bytes, int]]) -> str:
    octets = repr([digest, *said]).encode()
    return f"{salt} {hashlib.scrypt(octets, salt=salt.encode(), n=2**14, r=8, p=1, dklen=4).hex()}"


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _as_json(identity: Identity) -> str:
    return json.dumps(identity, separators=(",", ":"))


def _replaced(text: str, changes: Mapping[str, str]) -> str:
    for old, new in changes.items():
        text = text.replace(old, new)
    return text
