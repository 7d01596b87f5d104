#!/usr/bin/env python3
"""Write syncagent(8) and syncagent.toml(5) from the texts of `--help`, the schema and init: generate.py DIRECTORY."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from syncagent import __version__
from syncagent.cli import init
from syncagent.cli.main import command
from syncagent.config import json_schema as schema
from syncagent.postfix.main_cf import MainConf
from syncagent.sources import Common
from syncagent.values.types import Domain, MapName

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

_BEGIN, _END = "\0", "\1"
_LITERAL = {
    "\\": "\\e",
    "-": "\\-",  # this and the next four: troff would typeset them as other characters
    "'": "\\(aq",
    "`": "\\(ga",
    "~": "\\(ti",
    "^": "\\(ha",
    _BEGIN: "\\fB",
    _END: "\\fR",
}
_MADE = '.\\" Made by contrib/man/generate.py from texts of the program: change those, then type `make man`.'
_SEE_8 = ("syncagent.toml(5)", "postconf(1)", "postconf(5)", "postfix(1)", "postmap(1)")
_SEE_5 = ("syncagent(8)", "crontab(5)", "postconf(5)")
_ABOUT = """\
The configuration is TOML: tables of keys with their values. Unknown keys, values of the wrong type and contradictions
are refused, all of them at once, each with its line.

A relative path is relative to the configuration file. A time is a string such as `90s`, `5m`, `1h` or `7d`, a size one
such as `64K` or `20M`. A secret is never written here: a key names the file that has it, by a path, or by a bare NAME
for $CREDENTIALS_DIRECTORY/NAME or else /etc/syncagent/credentials/NAME, which only its owner may read.
"""
_SOURCES = "A source of recipients, under a name of your choice. At least one is required. Every source has these keys."


def page_8() -> Iterator[str]:
    """Yield the lines of syncagent(8): the help of the command and of each of its verbs."""
    context = click.Context(command, info_name="syncagent")
    name, *about = _paragraphs(command.help or "")
    yield from _head("syncagent", 8, name[0].lower() + name[1:].rstrip("."))
    yield ".SH SYNOPSIS"
    verbs = list(_verbs(context))
    yield "\n.br\n".join(f"{_bold(verb.command_path)} {_roff(_arguments(verb))}" for verb in verbs)
    yield ".SH DESCRIPTION"
    yield from _prose(about)
    yield ".SH OPTIONS"
    yield from _options(context)
    yield ".SH VERBS"
    for verb in verbs:
        yield f".SS {_roff(verb.command_path)} {_roff(_arguments(verb))}"
        yield from _prose(_paragraphs(verb.command.help or ""))
        yield from _options(verb)
    yield ".SH ENVIRONMENT"
    for option in command.params:
        if isinstance(option, click.Option) and isinstance(option.envvar, str):
            yield from _item(option.envvar, f"The default of {option.opts[0]}.")
    yield from _epilog()
    yield from _see_also(_SEE_8)


def page_5() -> Iterator[str]:
    """Yield the lines of syncagent.toml(5): every table of the schema with its keys, and an example by init."""
    described = schema.schema()
    yield from _head("syncagent.toml", 5, "configuration of syncagent(8)")
    yield ".SH DESCRIPTION"
    yield from _prose(_paragraphs(_ABOUT))
    for name, table in described["properties"].items():
        if name == "sources":
            continue
        yield from _table(f"[{name}]", table)
        if more := table["additionalProperties"]:
            texts = table["properties"]
            keys = {key: {"description": texts[key]["description"]} | node for key, node in more["properties"].items()}
            yield from _table(f'[{name}."example.org"]', more | {"properties": keys})
    kinds = described["$defs"].values()
    shared = dict.fromkeys(Common.__struct_fields__)
    general = {key: next(iter(kinds))["properties"][key] for key in shared} | {"type": _type_of(kinds)}
    yield from _table("[sources.NAME]", {"description": _SOURCES, "properties": general, "required": ["type"]})
    for kind in kinds:
        own = {key: node for key, node in kind["properties"].items() if key not in shared}
        yield from _table(f"[sources.NAME] with {kind['title']}", kind | {"properties": own, "description": ""})
    yield ".SH EXAMPLE"
    yield _roff("The configuration that `syncagent init` begins with.")
    yield from _verbatim(_example().splitlines())
    yield ".SH FILES"
    yield from _item("/etc/syncagent/syncagent.toml", "The default path.")
    yield from _see_also(_SEE_5)


def _type_of(kinds: Iterable[dict[str, Any]]) -> dict[str, Any]:
    first = next(iter(kinds))["properties"]["type"]["description"]
    return {"description": first, "enum": [kind["properties"]["type"]["const"] for kind in kinds]}


def _example() -> str:
    main = MainConf(Path("/etc/postfix"), version="VERSION")
    names = (Domain.parse("example.com"), Domain.parse("example.org"))
    map_name = MapName.parse("lmdb:/var/lib/syncagent/relay_recipients")
    return init.configuration(init.Start(Path("syncagent.toml"), main, map_name, names))


# Texts of the help.


def _verbs(context: click.Context) -> Iterator[click.Context]:
    """Yield the context of every verb that is no group, those in groups included."""
    assert isinstance(context.command, click.Group)  # noqa: S101 - for mypy
    for name, verb in sorted(context.command.commands.items()):
        below = click.Context(verb, parent=context, info_name=name)
        if isinstance(verb, click.Group):
            yield from _verbs(below)
        else:
            yield below


def _arguments(context: click.Context) -> str:
    return " ".join(context.command.collect_usage_pieces(context))


def _options(context: click.Context) -> Iterator[str]:
    """Give the options; --config, which each verb takes too, is among those of the command alone."""
    for option in context.command.params:
        record = option.get_help_record(context)
        if record and record[1] and "--help" not in record[0]:
            yield from _item(*record)


def _epilog() -> Iterator[str]:
    """Yield the sections at the end of the help: a heading, and rows of a term and its description."""
    for block in (command.epilog or "").replace("\b", "").strip().split("\n\n"):
        heading, *rows = block.strip().splitlines()
        name, _, remark = heading.partition(" (")
        yield f".SH {name}"
        if remark:
            yield from _prose([remark.rstrip(")")])
        for row in rows:
            yield from _item(*re.split(r" {2,}", row.strip(), maxsplit=1))


# Texts of the schema.


def _table(heading: str, table: dict[str, Any]) -> Iterator[str]:
    yield f".SH {_quoted(heading)}"
    yield from _prose(_paragraphs(table.get("description", "")))
    for key, node in table["properties"].items():
        traits = ["required"] if key in table.get("required", ()) else []
        if node.get("default", "") != "":
            traits.append(f"default {_toml(node['default'])}")
        text = node.get("description", "")
        yield f".TP\n{_bold(key)} ({_roff(', '.join([_kind(node), *traits]))})\n{_roff(text) or '.'}"


def _kind(node: dict[str, Any]) -> str:
    """Return the type of a value for people, with an example where there is no default."""
    if "enum" in node:
        return " or ".join(_toml(value) for value in node["enum"])
    if "oneOf" in node or "anyOf" in node:
        return " or ".join(_kind(option) for option in node.get("oneOf", node.get("anyOf", ())))
    examples = "".join(
        f", such as {_toml(example)}" for example in node.get("examples", ())[:1] if "default" not in node
    )
    if node.get("type") == "array":
        return f"array of {_kind(node['items']).replace('string', 'strings', 1)}"
    names = {"integer": "number", "object": "table", "boolean": "true or false"}
    return names.get(node["type"], str(node["type"])) + examples


def _toml(value: object) -> str:
    return json.dumps(value, ensure_ascii=False)


# The language of manual pages: man(7).


def _head(name: str, section: int, what: str) -> Iterator[str]:
    yield _MADE
    yield f'.TH {name} {section} "" "syncagent {__version__}"'
    yield ".SH NAME"
    yield f"{_roff(name)} \\- {_roff(what)}"


def _see_also(pages: Iterable[str]) -> Iterator[str]:
    yield ".SH SEE ALSO"
    yield ",\n".join(f"{_bold(page[:-3])}{page[-3:]}" for page in pages)


def _paragraphs(text: str) -> list[str]:
    return [" ".join(paragraph.split()) for paragraph in text.strip().split("\n\n") if paragraph.strip()]


def _prose(paragraphs: Iterable[str]) -> Iterator[str]:
    for number, paragraph in enumerate(paragraphs):
        if number:
            yield ".PP"
        yield _roff(paragraph)


def _item(words: str, text: str) -> Iterator[str]:
    yield f".TP\n{_bold(words)}\n{_roff(text)}"


def _verbatim(lines: Iterable[str]) -> Iterator[str]:
    yield ".PP\n.EX"
    yield from (_roff(line, code=False) for line in lines)
    yield ".EE"


def _bold(text: str) -> str:
    return f"\\fB{_roff(text, code=False)}\\fR"


def _quoted(text: str) -> str:
    return '"' + _roff(text, code=False).replace('"', '""') + '"'


def _roff(text: str, *, code: bool = True) -> str:
    """Return text with everything escaped that troff would interpret; text in backticks becomes bold."""
    if code:
        text = re.sub(r"`+([^`]+)`+", rf"{_BEGIN}\1{_END}", text)
    text = "".join(_LITERAL.get(char, char) for char in text)
    text = "".join(char if char.isascii() else f"\\[u{ord(char):04X}]" for char in text)
    return f"\\&{text}" if text.startswith(".") else text


def main() -> None:
    """Write both pages into the directory of the first argument."""
    directory = Path(sys.argv[1])
    for name, lines in (("syncagent.8", page_8()), ("syncagent.toml.5", page_5())):
        (directory / name).write_text("\n".join(lines) + "\n", encoding="ascii")


if __name__ == "__main__":
    main()
