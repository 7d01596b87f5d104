"""Loading of the configuration file. All of its problems are reported at once, each with file, line and key."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from syncagent import sources
from syncagent.config import kinds, stand_ins, validate
from syncagent.config.tables import Config, DomainLimits, Limits, SourceConfig, Tables, command, digest, without
from syncagent.errors import ConfigError, Problem
from syncagent.files import atomic as files
from syncagent.values import struct_fields
from syncagent.values.partial import Partial, UnusableError
from syncagent.values.toml_reader import Reader
from syncagent.values.toml_syntax import TomlError, parse
from syncagent.values.types import Domain, RecipeFile

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from msgspec import Struct

    from syncagent.values.toml_syntax import Keys

_MOST = 4 << 20
"""Maximum size of the configuration file in octets."""


def load(file: Path, named_by: str = "") -> Config:
    """Return the configuration of a file.

    Raises ConfigError if the file cannot be read or is not TOML, otherwise with every problem in it. ``named_by`` is
    the origin of the file's name, such as an environment variable, for the message about an unreadable file.
    """
    try:
        text = files.read_foreign_text(file, _MOST)
        raw = parse(text)
    except FileNotFoundError as error:
        remedy = f"to begin one, type: {command(file, 'init')}"
        raise ConfigError(
            [Problem(str(file), None, "", _unread("No such file or directory", named_by, remedy))]
        ) from error
    except OSError as error:
        raise ConfigError([Problem(str(file), None, "", _unread(str(error.strerror), named_by))]) from error
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        text = _unread("it is not UTF-8", named_by, f"save it as UTF-8; the first other octet is in line {line}")
        raise ConfigError([Problem(str(file), None, "", text)]) from error
    except TomlError as error:
        raise ConfigError([Problem(str(file), error.line, "", f"not TOML: {error}")]) from error
    reader = Reader(file, text)
    config = build(reader, raw, file)
    if config is None:
        raise ConfigError(sorted(reader.problems, key=lambda problem: (problem.line or 0, problem.key)))
    return config


def _unread(why: str, named_by: str, remedy: str = "") -> str:
    origin = f" (named by {named_by})" if named_by else ""
    return f"cannot be read: {why}{origin}" + (f"; {remedy}" if remedy else "")


def build(reader: Reader, raw: dict[str, Any], file: Path) -> Config | None:
    """Return the configuration with the tables ``raw`` of a file, or None if the reader has recorded a problem."""
    limits, overrides = _split_limits(raw.get("limits", {}))
    plain = {key: value for key, value in raw.items() if key != "sources"}
    plain |= {"limits": limits} if "limits" in raw else {}
    (values,) = reader.fields((Tables,), plain, (), elsewhere=("sources",))
    tables = reader.assemble(Tables, values, ())
    domains = _domains(reader, overrides)
    read = {name: _source(reader, name, table) for name, table in _sources(reader, raw).items()}
    parts = validate.Parts(
        **{name: _table(tables, name) for name in Tables.__struct_fields__},
        domains=domains,
        sources={name: source.common for name, source in read.items()},
        reads={name: source.reads for name, source in read.items()},
    )
    for path, text in validate.problems(parts):
        reader.problem(path, text)
    if reader.problems:
        return None
    return Config(
        **{name: getattr(tables, name) for name in Tables.__struct_fields__ if name != "limits"},
        limits=Limits(**msgspec.structs.asdict(tables.limits), domains=domains),
        file=file,
        sources={name: source.config for name, source in read.items() if source.config},
    )


def _table(tables: Any, name: str) -> Any:  # noqa: ANN401 - a Struct or a Partial
    """Return the table ``name``, or a Partial of it if some of its keys are unusable."""
    if isinstance(tables, Partial) and name in tables.unusable:
        return tables.values.get(name) or Partial.nothing(struct_fields.hints(Tables)[name])
    return getattr(tables, name)


def _split_limits(raw: object) -> tuple[object, dict[str, Any]]:
    """Return the keys of [limits] and its subtables, such as [limits."example.org"], as two dicts.

    If [limits] is no table, it is returned unchanged, without subtables.
    """
    if not isinstance(raw, dict):
        return raw, {}
    plain = {key: value for key, value in raw.items() if not isinstance(value, dict)}
    return plain, {key: value for key, value in raw.items() if isinstance(value, dict)}


def _domains(reader: Reader, overrides: dict[str, Any]) -> dict[Domain, DomainLimits]:
    """Return the limits of single domains, by canonical domain.

    A table whose name is not a domain, or a domain that has a table already, is validated but left out.
    """
    domains: dict[Domain, DomainLimits] = {}
    for name, table in overrides.items():
        domain = reader.value(Domain, name, ("limits", name))
        limits = reader.value(DomainLimits, table, ("limits", name))
        if domain in domains:
            reader.problem(("limits", name), f"limits {domain} a second time: put all keys into one table")
        elif domain is not None:
            domains[domain] = limits
    return domains


def _sources(reader: Reader, raw: dict[str, Any]) -> dict[str, Any]:
    """Return the tables of the sources by name. If there are none, record a problem and return an empty dict."""
    tables = raw.get("sources")
    if isinstance(tables, list):
        named = next((table["name"] for table in tables if isinstance(table, dict) and "name" in table), "NAME")
        text = f"expected a table for each source: write [sources.{named}] instead of [[sources]]"
        reader.problem(("sources",), text)
    elif not isinstance(tables, dict) or not tables:
        if ("sources",) not in reader.unusable:
            reader.problem(("sources",), "no source is configured: add a table such as [sources.extra]")
    else:
        return tables
    return {}


@dataclass(frozen=True, slots=True)
class _Read:
    """A source as far as it is readable.

    ``common`` is a Partial if one of its keys is unusable. ``config`` is None if any key is unusable, or if the kind is
    unknown or cannot be loaded. ``reads`` has the paths that it reads, with the keys that name them.
    """

    common: Any
    config: SourceConfig | None = None
    reads: Mapping[Path, Keys] = field(default_factory=dict)


def _source(reader: Reader, name: str, raw: object) -> _Read:
    path = ("sources", name)
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", name):
        reader.problem(path, "a source's name is letters, digits, dots, hyphens and underscores")
    kind = raw.get("type") if isinstance(raw, dict) else None
    if not isinstance(raw, dict) or not isinstance(kind, str) or kind not in sources.kinds():
        if isinstance(raw, dict):
            reader.problem((*path, "type"), kinds.unknown(kind))
        return _Read(_common(reader, raw, path))
    try:
        module = sources.load(kind)
        common_values, own_values = reader.fields((sources.Common, module.Config), raw, path)
        common = reader.assemble(sources.Common, common_values, path)
        own = reader.assemble(module.Config, own_values, path)
        is_whole = not isinstance(own, Partial)
        reported = sources.problems(kind, module, own) if is_whole else stand_ins.problems(kind, module, own)
        for key, text in reported:
            reader.problem((*path, key), text)
        watched = sources.watched(kind, module, own) if is_whole else ()
        reads = _paths_read(own, watched)
        if not is_whole or isinstance(common, Partial):
            return _Read(common, reads=reads)
    except sources.BrokenKindError as error:
        reader.problem((*path, "type"), str(error))
        return _Read(_common(reader, raw, path))
    identity = digest((without(common, sources.NOT_FETCHED), own, _recipes(own)))
    config = SourceConfig(name=name, common=common, own=own, digest=identity, build=module.build, watched=watched)
    return _Read(common, config, reads)


def _paths_read(own: Struct | Partial, watched: Iterable[sources.Watched]) -> dict[Path, Keys]:
    """Return the paths that a source reads, with the keys that name them: its ``path``, else the paths it watches."""
    try:
        path = getattr(own, "path", None)
    except UnusableError:
        path = None
    return {path: ("path",)} if isinstance(path, Path) else {place.path: () for place in watched}


def _common(reader: Reader, raw: object, path: tuple[str, ...]) -> Any:  # noqa: ANN401 - a Common or a Partial
    """Return the common keys of a source whose kind is unknown or cannot be loaded, as a Common or a Partial.

    The other keys of the source are not validated.
    """
    if isinstance(raw, dict):
        raw = {key: raw[key] for key in sources.Common.__struct_fields__ if key in raw} | {"type": ""}
    (values,) = reader.fields((sources.Common,), raw, path)
    return reader.assemble(sources.Common, values, path)


def _recipes(own: Struct) -> list[tuple[int, ...] | None]:
    """Return the file identities of the recipes that a source names by path, None for a missing file.

    They are part of the source's digest, so that a changed recipe counts as a changed configuration.
    """
    values = (getattr(own, name) for name in own.__struct_fields__)
    return [files.identity(Path(value)) for value in values if isinstance(value, RecipeFile) and "/" in value]
