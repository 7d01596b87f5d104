"""The configuration file to a Config, or every problem that it has, each with file, line and key."""

from __future__ import annotations

import re
import typing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from syncagent import sources
from syncagent.config import kinds, stand_ins, validate
from syncagent.config.tables import Config, DomainLimits, Limits, SourceConfig, Tables, command, digest
from syncagent.errors import ConfigError, Problem
from syncagent.files import atomic as files
from syncagent.values.partial import Partial
from syncagent.values.toml_reader import Reader
from syncagent.values.toml_syntax import TomlError, parse
from syncagent.values.types import Domain, RecipeFile

if TYPE_CHECKING:
    from msgspec import Struct

_MOST = 4 << 20
"""The most octets that a configuration has."""


def load(file: Path, named_by: str = "") -> Config:
    """Return the configuration of a file. Raise ConfigError with every problem.

    ``named_by`` says where the file's name comes from, for the message if the file cannot be read.
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
    """Return the configuration of a file's tables; None if the reader has recorded a problem."""
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


def _table(tables: Any, name: str) -> Any:  # noqa: ANN401 - a table, or what could be read of it
    """Return the table ``name``, or a Partial of it if some of its keys are unusable."""
    if isinstance(tables, Partial) and name in tables.unusable:
        return tables.values.get(name) or Partial.nothing(typing.get_type_hints(Tables)[name])
    return getattr(tables, name)


def _split_limits(raw: object) -> tuple[object, dict[str, Any]]:
    """Return the keys of [limits], and the tables [limits."example.org"] that stand among them."""
    if not isinstance(raw, dict):
        return raw, {}
    plain = {key: value for key, value in raw.items() if not isinstance(value, dict)}
    return plain, {key: value for key, value in raw.items() if isinstance(value, dict)}


def _domains(reader: Reader, overrides: dict[str, Any]) -> dict[Domain, DomainLimits]:
    """Return the limits of single domains; those of a name that is no domain are only read for their problems."""
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
    """Return the tables of the sources by name."""
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
    """A source as far as it could be read: ``common`` may be a Partial, and ``config`` is None, if it has problems."""

    common: Any
    config: SourceConfig | None = None


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
        if not is_whole or isinstance(common, Partial):
            return _Read(common)
        watched = sources.watched(kind, module, own)
    except sources.BrokenKindError as error:
        reader.problem((*path, "type"), str(error))
        return _Read(_common(reader, raw, path))
    identity = digest((common, own, _recipes(own)))
    config = SourceConfig(name=name, common=common, own=own, digest=identity, build=module.build, watched=watched)
    return _Read(common, config)


def _common(reader: Reader, raw: object, path: tuple[str, ...]) -> Any:  # noqa: ANN401 - Common, or what could be read of it
    """Return the keys that all kinds have, of a source whose kind is not known: no other key can be read then."""
    if isinstance(raw, dict):
        raw = {key: raw[key] for key in sources.Common.__struct_fields__ if key in raw} | {"type": ""}
    (values,) = reader.fields((sources.Common,), raw, path)
    return reader.assemble(sources.Common, values, path)


def _recipes(own: Struct) -> list[tuple[int, ...] | None]:
    """Return the identities of the recipe files that a source names: their content belongs to its configuration."""
    values = (getattr(own, name) for name in own.__struct_fields__)
    return [files.identity(Path(value)) for value in values if isinstance(value, RecipeFile) and "/" in value]
